//! SimpleNet: a discriminator of features of normal images and of the same with noise added.
//!
//! A position's features are the means of what leaves several stages over 3×3 positions, on the finest stage's grid. q is a linear
//! projection of them; D of q is a hidden layer with batch normalisation and a leaky ReLU, and one number. map = −D(q). While it learns, it
//! also scores q + ε, ε normal with deviation `noise`.
//!
//! - Paper: Liu et al., *SimpleNet: A Simple Network for Image Anomaly Detection and Localization*, CVPR 2023,
//!   <https://arxiv.org/abs/2303.15140>.
//! - Code: `DonaldRR/SimpleNet`. Its recipe is `loss: { truncated_l1: {} }`, Adam with learning rate 0.0002 and weight decay 0.00001, batches
//!   of 8, 160 epochs, and `map: { smooth: 4 }`. It keeps the epoch that does best on the test images; here that is not done.
//! - Deviations: the code takes means over neighbouring channels until 1,536 are left, as PatchCore's does; here all channels stay. Its
//!   projection learns at half the rate; here all learn at one. Weights start as PyTorch's do, in the place of Xavier's.
//! - As in PatchCore, beyond the border of a stage there are zeros, which the means count; coarser stages are brought to the grid bilinearly.

use candle_core::{Result, Tensor, bail};
use candle_nn::VarBuilder;
use garde::Validate;
use rand_distr::{Distribution, StandardNormal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    models::{
        Kind,
        stages::{Stage, chosen, fixed_maps_of, wrong},
    },
    nn::{
        Backbone, Mode, Model, Output, Pass, Shape, Shown,
        backbone::Extractor,
        layers::{BatchNorm2d, Conv2d, ConvInit, ConvNorm},
    },
    ops::{self, Activation, Convolution, Interpolation, Pool},
    rng,
    yaml::problems::Problem,
};

/// What stands before the names of all that learns.
const OWN: &str = "simplenet";
/// Of the hidden layer: the code's.
const LEAK: f64 = 0.2;
/// Rows and columns of positions that features are the means of: the paper's.
const NEIGHBOURHOOD: usize = 3;

/// Settings of SimpleNet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Simplenet")]
pub struct Settings {
    /// The layers that the stages are of, which do not learn. The paper's: `wide_resnet50_2`, with ImageNet weights.
    #[garde(dive)]
    pub backbone: Backbone,
    /// The stages that are read, by name, from input to output. Default: the last that have an eighth and a sixteenth of the image's rows,
    /// which are a ResNet's `layer2` and `layer3`, as in the paper.
    #[garde(inner(length(min = 1)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<Vec<String>>,
    /// Channels of the discriminator's hidden layer. The code's: 1024.
    #[garde(range(min = 1, max = 65_536))]
    #[serde(default = "hidden")]
    pub hidden: usize,
    /// The standard deviation of the noise that is added to projected features. The paper's: 0.015, for features of a Wide ResNet-50-2.
    #[garde(range(min = 0.0, max = 1000.0))]
    #[serde(default = "noise")]
    pub noise: f64,
}

fn hidden() -> usize {
    1024
}

fn noise() -> f64 {
    0.015
}

impl Settings {
    /// The stages that are read; `None` where they depend on the size and that is not known yet.
    fn read(&self, size: Option<[usize; 2]>) -> std::result::Result<Option<Vec<Stage>>, Problem> {
        let found = chosen(&self.backbone, self.stages.as_deref(), size)?;
        // Of the three that other models read the first is left out.
        let skipped = usize::from(self.stages.is_none());
        Ok(found.map(|stages| stages[skipped..].to_vec()))
    }
}

impl Kind for Settings {
    fn shows(&self) -> Vec<Output> {
        vec![Output::Scores, Output::Noised, Output::Map]
    }

    fn build(&self, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Model>> {
        let trunk = self.backbone.extractor(shape, vb.clone())?;
        let stages = self.read(Some([shape.height, shape.width])).map_err(wrong(OWN))?.unwrap_or_default();
        let channels = stages.iter().map(|(_, [channels, ..])| channels).sum();
        let discriminator = Discriminator::new(channels, self.hidden, &vb.pp(OWN))?;
        let stages = stages.into_iter().map(|(name, _)| name).collect();
        Ok(Box::new(Simplenet { trunk, stages, discriminator, noise: self.noise }))
    }

    fn backbone(&self) -> Option<&Backbone> {
        Some(&self.backbone)
    }

    fn own(&self) -> Option<&'static str> {
        Some(OWN)
    }

    fn fixed(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!(["means of stages", self.backbone, self.stages]))
    }

    fn fixed_bytes(&self, size: [usize; 2]) -> Option<usize> {
        let stages = self.read(Some(size)).ok()??;
        let channels: usize = stages.iter().map(|(_, [channels, ..])| channels).sum();
        let (_, [_, rows, columns]) = stages.first()?;
        Some(channels * rows * columns * size_of::<f32>())
    }

    fn frozen(&self) -> Option<String> {
        Some("its backbone does not learn, so it stays as random as it starts: give it `weights`".to_owned())
    }

    fn problems(&self, size: Option<[usize; 2]>) -> Vec<Problem> {
        self.read(size).err().into_iter().collect()
    }

    fn grid(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        let stages = self.read(Some(size)).ok()??;
        stages.first().map(|(_, [_, rows, columns])| [*rows, *columns])
    }

    fn label(&self, name: &str) -> String {
        format!("{} {name}", self.backbone.label())
    }

    fn smoke(self) -> Self {
        let backbone = self.backbone.smoke().unwrap_or(self.backbone);
        let renamed = |name: String| backbone.layer_in_smoke(&name);
        let stages = self.stages.map(|stages| stages.into_iter().map(renamed).collect());
        Self { stages, backbone, hidden: self.hidden.min(16), ..self }
    }
}

/// Features (N, ΣC, h, w) of maps (N, C, h', w') that leave stages, of which the first has the grid.
///
/// # Errors
/// If there are no maps, or they are empty.
pub fn features(maps: &[Tensor]) -> Result<Tensor> {
    let Some(first) = maps.first() else { bail!("SimpleNet reads stages, and there are none") };
    let (_, _, rows, columns) = first.dims4()?;
    let around = Pool::new(NEIGHBOURHOOD, 1, NEIGHBOURHOOD / 2);
    let on_grid = |maps: &Tensor| {
        let means = ops::avg_pool2d(maps, around, true)?;
        match means.dims()[2..] == [rows, columns] {
            true => Ok(means),
            false => ops::resize(&means, (rows, columns), Interpolation::Bilinear, false),
        }
    };
    let all = maps.iter().map(on_grid).collect::<Result<Vec<_>>>()?;
    ops::concat(&all.iter().collect::<Vec<_>>())
}

/// The projection and the discriminator, as 1×1 convolutions.
#[derive(Debug, Clone)]
pub struct Discriminator {
    projection: Conv2d,
    hidden: ConvNorm,
    last: Conv2d,
}

impl Discriminator {
    /// Of features of `channels`, with so many channels in the hidden layer.
    ///
    /// # Errors
    /// Those of `vb`.
    pub fn new(channels: usize, hidden: usize, vb: &VarBuilder) -> Result<Self> {
        let plain = Convolution::new(1, 0);
        let (projection, discriminator) = (vb.pp("projection"), vb.pp("discriminator"));
        let conv = Conv2d::biased([channels, hidden], 1, plain, &discriminator.pp("conv"))?;
        Ok(Self {
            projection: Conv2d::biased([channels; 2], 1, plain, &projection)?,
            hidden: ConvNorm::new(conv, BatchNorm2d::new(hidden, &discriminator.pp("bn"))?),
            last: Conv2d::new([hidden, 1], 1, plain, ConvInit::Default, &discriminator.pp("last"))?,
        })
    }

    /// q of features (N, C, h, w).
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn project(&self, features: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.projection.forward(features, pass)
    }

    /// −D of projected features (N, C, h, w): (N, h, w).
    ///
    /// # Errors
    /// If the shapes do not fit.
    pub fn scores(&self, projected: &Tensor, pass: &Pass) -> Result<Tensor> {
        let hidden = self.hidden.forward(projected, Activation::LeakyRelu(LEAK), pass)?;
        self.last.forward(&hidden, pass)?.squeeze(1)?.neg()
    }

    fn fold(&mut self) -> Result<()> {
        self.projection.fold()?;
        self.hidden.fold()?;
        self.last.fold()
    }
}

/// The network.
#[derive(Debug)]
struct Simplenet {
    trunk: Box<dyn Extractor>,
    stages: Vec<String>,
    discriminator: Discriminator,
    noise: f64,
}

impl Simplenet {
    fn features(&self, images: &Tensor, pass: &Pass) -> Result<Tensor> {
        features(&fixed_maps_of(self.trunk.as_ref(), &self.stages, images, pass)?)
    }

    /// `projected` with the noise of a step.
    fn noised(&self, projected: &Tensor, seed: u64, step: u64) -> Result<Tensor> {
        let stream = rng::stream(seed, "SimpleNet's noise", &step.to_string());
        let values = StandardNormal.sample_iter(stream).take(projected.elem_count());
        let noise: Vec<f32> = values.map(|value: f64| (value * self.noise) as f32).collect();
        let noise = Tensor::from_vec(noise, projected.shape(), projected.device())?;
        projected + noise.to_dtype(projected.dtype())?
    }
}

impl Model for Simplenet {
    fn show(&self, images: &Tensor, pass: &Pass) -> Result<Shown> {
        self.show_fixed(&[self.features(images, pass)?], pass)
    }

    fn fixed(&self, images: &Tensor) -> Result<Option<Vec<Tensor>>> {
        Ok(Some(vec![self.features(images, &Pass::eval())?]))
    }

    fn show_fixed(&self, fixed: &[Tensor], pass: &Pass) -> Result<Shown> {
        let [features] = fixed else {
            bail!("SimpleNet begins with features of positions, not {} tensors", fixed.len())
        };
        let projected = self.discriminator.project(features, pass)?;
        let Mode::Train { seed, step, .. } = pass.mode() else {
            let map = Some(self.discriminator.scores(&projected, pass)?);
            return Ok(Shown { map, ..Shown::default() });
        };
        // One pass of both, so that they are normalised by the same statistics, as in the code.
        let images = projected.dim(0)?;
        let both = Tensor::cat(&[&projected, &self.noised(&projected, seed, step)?], 0)?;
        let scores = self.discriminator.scores(&both, pass)?;
        let half = |start| scores.narrow(0, start, images).map(Some);
        Ok(Shown { map: half(0)?, noised: half(images)?, ..Shown::default() })
    }

    fn folded(&self) -> Result<Box<dyn Model>> {
        let mut discriminator = self.discriminator.clone();
        discriminator.fold()?;
        let (stages, noise) = (self.stages.clone(), self.noise);
        Ok(Box::new(Self { trunk: self.trunk.folded()?, stages, discriminator, noise }))
    }
}
