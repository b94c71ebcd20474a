//! ConvNeXt (Liu et al. 2022): a convolutional network with the proportions of a vision transformer.
//!
//! Stem (4×4 convolution, stride 4, layer norm) → 4 stages, all but the first of which begin with a layer norm and a 2×2 convolution of stride
//! 2 → mean of the last maps → layer norm: the features. block: y = x + γ·fc2(GELU(fc1(norm(conv7×7 of each channel(x))))), with `fc1` and
//! `fc2` of each pixel and γ one number a channel. Features and what blocks show may be below 0: there is no ReLU.
//!
//! - Paper: Liu et al., *A ConvNet for the 2020s*, CVPR 2022, <https://arxiv.org/abs/2201.03545>.
//! - Code: timm's `convnext.py`, its names, ε (1e-6) and first values. There is no stochastic depth, as in timm's defaults.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    nn::{
        Pass, Shape,
        architecture::Architecture,
        backbone::{Backbone, Extractor, Family, IMAGENET, LastLayerOf, Part},
        layers::{Conv2d, LayerNorm2d},
    },
    ops::{self, Activation, Convolution},
};

/// Settings of a ConvNeXt.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Convnext")]
pub struct Settings {
    /// Blocks of the four stages. ConvNeXt-T's: 3, 3, 9, 3.
    #[garde(inner(range(min = 1, max = 64)))]
    pub depths: [usize; 4],
    /// Channels of the four stages; the last are the features. ConvNeXt-T's: 96, 192, 384, 768.
    #[garde(inner(range(min = 1, max = 8192)))]
    pub widths: [usize; 4],
}

impl Settings {
    /// timm's name for it, if there is one.
    fn known(&self) -> Option<&'static str> {
        Self::PRESETS.iter().find(|(_, preset)| preset == self).map(|(name, _)| *name)
    }

    /// Rows or columns of the four stages.
    fn sizes(size: usize) -> [usize; 4] {
        [size / 4, size / 8, size / 16, size / 32]
    }
}

impl Family for Settings {
    const PRESETS: &[(&str, Self)] = &[
        ("convnext_tiny", Self { depths: [3, 3, 9, 3], widths: [96, 192, 384, 768] }),
        ("convnext_small", Self { depths: [3, 3, 27, 3], widths: [96, 192, 384, 768] }),
        ("convnext_base", Self { depths: [3, 3, 27, 3], widths: [128, 256, 512, 1024] }),
    ];
    const LEAST_SIDE: usize = 32;
    const LACKS: &[Part] = &[Part::SpectralNorm, Part::Activation, Part::Shortcut];
    /// They are normalised after the mean.
    const POOLS_MAPS: bool = false;
    const NORMALISATION: Option<[[f32; 3]; 2]> = Some(IMAGENET);

    fn build(&self, _: &Architecture, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Extractor>> {
        if shape.height.min(shape.width) < Self::LEAST_SIDE {
            let message =
                format!("convnext needs images of at least 32×32 pixels, not {}×{}", shape.height, shape.width);
            return Err(Error::input(message).hint("`resnet18_32x32` has a stem for small images"));
        }
        Ok(Box::new(ConvNext::new(self, shape, &vb)?))
    }

    fn stages(&self, size: [usize; 2]) -> Vec<(String, [usize; 3])> {
        let [rows, columns] = size.map(Self::sizes);
        (0..STAGES.len()).map(|at| (STAGES[at].to_owned(), [self.widths[at], rows[at], columns[at]])).collect()
    }

    fn label(&self, name: &str) -> String {
        self.known().unwrap_or(name).to_owned()
    }

    /// Those of CLIP were trained with another mean and deviation.
    fn tags(&self) -> &'static [&'static str] {
        &["fb_", "in12k"]
    }

    fn elsewhere(&self, channels: usize, classes: usize) -> Option<String> {
        let name = self.known()?;
        Some(format!("timm.create_model('{name}', num_classes={classes}, in_chans={channels})"))
    }

    fn smoke(&self) -> Option<Backbone> {
        Some(Backbone::Convnext(Self { widths: self.widths.map(|width| width.min(8)), ..self.clone() }))
    }
}

/// The stages' names, timm's.
const STAGES: [&str; 4] = ["stages.0", "stages.1", "stages.2", "stages.3"];
/// ε of the layer normalisations.
const EPSILON: f64 = 1e-6;
/// Times the channels: what the two layers of a block have between them.
const EXPANSION: usize = 4;
/// How weights and biases start.
const START: [Init; 2] = [Init::Randn { mean: 0.0, stdev: 0.02 }, Init::Const(0.0)];
/// What each channel of a block is multiplied by at first.
const FIRST_GAMMA: Init = Init::Const(1e-6);

/// Features: as many as the last stage has channels. Stages: `stages.0` to `stages.3`, 1/4, 1/8, 1/16 and 1/32 of the image's rows and
/// columns, rounded down.
#[derive(Debug, Clone)]
pub struct ConvNext {
    stem: Conv2d,
    stem_norm: LayerNorm2d,
    stages: Vec<Stage>,
    norm: LayerNorm2d,
    features: usize,
}

impl ConvNext {
    fn new(settings: &Settings, shape: Shape, vb: &VarBuilder) -> Result<Self> {
        let Settings { depths, widths } = *settings;
        let stem = vb.pp("stem");
        let stage = |at: usize| {
            // The first stage goes on with the channels of the stem.
            let inputs = at.checked_sub(1).map(|before| widths[before]);
            Stage::new(inputs, widths[at], depths[at], &vb.pp(STAGES[at]))
        };
        Ok(Self {
            stem: Conv2d::starting([shape.channels, widths[0]], 4, Convolution::new(4, 0), START, &stem.pp(0))?,
            stem_norm: LayerNorm2d::new(widths[0], EPSILON, &stem.pp(1))?,
            stages: (0..STAGES.len()).map(stage).collect::<Result<_>>()?,
            norm: LayerNorm2d::new(widths[3], EPSILON, &vb.pp("head").pp("norm"))?,
            features: widths[3],
        })
    }

    /// What leaves the first `count` stages.
    fn first(&self, count: usize, images: &Tensor, pass: &Pass) -> Result<Vec<(String, Tensor)>> {
        let mut x = self.stem_norm.forward(&self.stem.forward(images, pass)?, pass)?;
        pass.end_stem();
        let stage = |(name, stage): (&str, &Stage)| {
            x = pass.stage(name, stage.forward(&x, pass)?)?;
            Ok((name.to_owned(), x.clone()))
        };
        STAGES.into_iter().zip(&self.stages).take(count).map(stage).collect()
    }
}

impl Extractor for ConvNext {
    fn extract(&self, images: &Tensor, pass: &Pass) -> Result<(Tensor, Vec<(String, Tensor)>)> {
        let stages = self.first(STAGES.len(), images, pass)?;
        let mean = ops::global_avg_pool2d(&stages[STAGES.len() - 1].1)?;
        let mean = mean.reshape((mean.dim(0)?, self.features, 1, 1))?;
        Ok((self.norm.forward(&mean, pass)?.flatten_from(1)?, stages))
    }

    fn stages_until(&self, images: &Tensor, last: &str, pass: &Pass) -> Result<Vec<(String, Tensor)>> {
        let count = STAGES.iter().position(|name| *name == last).map_or(STAGES.len(), |at| at + 1);
        self.first(count, images, pass)
    }

    fn last_layer(&self, _: usize) -> LastLayerOf {
        LastLayerOf { name: "head.fc", features: self.features, init: START, scale: None }
    }

    fn folded(&self) -> Result<Box<dyn Extractor>> {
        let mut network = self.clone();
        network.stages.iter_mut().flat_map(|stage| &mut stage.blocks).try_for_each(Block::fold)?;
        Ok(Box::new(network))
    }
}

/// What halves rows and columns, and blocks.
#[derive(Debug, Clone)]
struct Stage {
    downsample: Option<(LayerNorm2d, Conv2d)>,
    blocks: Vec<Block>,
}

impl Stage {
    /// Of `inputs` channels; `None`: of as many as it has itself, on the grid as it is.
    fn new(inputs: Option<usize>, channels: usize, depth: usize, vb: &VarBuilder) -> Result<Self> {
        let downsample = inputs.map(|inputs| {
            let vb = vb.pp("downsample");
            let conv = Conv2d::starting([inputs, channels], 2, Convolution::new(2, 0), START, &vb.pp(1))?;
            Ok::<_, candle_core::Error>((LayerNorm2d::new(inputs, EPSILON, &vb.pp(0))?, conv))
        });
        let blocks = (0..depth).map(|at| Block::new(channels, &vb.pp("blocks").pp(at)));
        Ok(Self { downsample: downsample.transpose()?, blocks: blocks.collect::<Result<_>>()? })
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let mut x = match &self.downsample {
            Some((norm, conv)) => conv.forward(&norm.forward(x, pass)?, pass)?,
            None => x.clone(),
        };
        for block in &self.blocks {
            x = block.forward(&x, pass)?;
        }
        Ok(x)
    }
}

/// A residual block.
#[derive(Debug, Clone)]
struct Block {
    conv_dw: Conv2d,
    norm: LayerNorm2d,
    fc1: Pointwise,
    fc2: Pointwise,
    /// `None`: it is in `fc2` already.
    gamma: Option<Tensor>,
    /// The name of `fc1`, for who looks at its neurons.
    name: String,
}

impl Block {
    fn new(channels: usize, vb: &VarBuilder) -> Result<Self> {
        let (depthwise, fc1) = (Convolution::new(1, 3).grouped(channels), vb.pp("mlp").pp("fc1"));
        Ok(Self {
            conv_dw: Conv2d::starting([channels, channels], 7, depthwise, START, &vb.pp("conv_dw"))?,
            norm: LayerNorm2d::new(channels, EPSILON, &vb.pp("norm"))?,
            name: fc1.prefix(),
            fc1: Pointwise::new(channels, EXPANSION * channels, &fc1)?,
            fc2: Pointwise::new(EXPANSION * channels, channels, &vb.pp("mlp").pp("fc2"))?,
            gamma: Some(vb.get_with_hints(channels, "gamma", FIRST_GAMMA)?),
        })
    }

    /// (N, C, H, W) to the same.
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let hidden = self.norm.forward(&self.conv_dw.forward(x, pass)?, pass)?;
        let hidden = ops::gelu(&self.fc1.layer(pass)?.forward(&hidden, pass)?)?;
        // The values of a GELU are the layer's neurons: what stands before it does not follow from them.
        pass.note(&self.name, &hidden, Activation::Identity)?;
        self.last(pass)?.layer(pass)?.forward_add(&hidden, x, pass)
    }

    /// `fc2` times γ: a product with the weights is far smaller than one with the maps.
    fn last(&self, pass: &Pass) -> Result<Pointwise> {
        let Some(gamma) = &self.gamma else { return Ok(self.fc2.clone()) };
        let [weight, bias, gamma] = [&self.fc2.weight, &self.fc2.bias, gamma].map(|each| pass.seen(each));
        Ok(Pointwise { weight: weight.broadcast_mul(&gamma.unsqueeze(1)?)?, bias: (bias * gamma)? })
    }

    /// See [`Extractor::folded`].
    fn fold(&mut self) -> Result<()> {
        self.fc2 = self.last(&Pass::eval())?;
        self.gamma = None;
        Ok(())
    }
}

/// A linear layer of every pixel, with the parameters of one of vectors.
#[derive(Debug, Clone)]
struct Pointwise {
    weight: Tensor,
    bias: Tensor,
}

impl Pointwise {
    fn new(inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Self> {
        let [weight, bias] = START;
        Ok(Self {
            weight: vb.get_with_hints((outputs, inputs), "weight", weight)?,
            bias: vb.get_with_hints(outputs, "bias", bias)?,
        })
    }

    /// The same as a convolution of maps, which need not be turned for it.
    fn layer(&self, pass: &Pass) -> Result<Conv2d> {
        let (outputs, inputs) = self.weight.dims2()?;
        let weight = pass.seen(&self.weight).reshape((outputs, inputs, 1, 1))?;
        Ok(Conv2d::of(weight, self.bias.clone(), Convolution::new(1, 0)))
    }
}
