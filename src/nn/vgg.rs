//! VGG-19 (Simonyan & Zisserman 2015) with batch normalisation and a single linear layer: DDU's form
//! (`omegafragger/DDU`, `net/vgg.py`), for small images.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    nn::{
        Pass, Shape,
        architecture::Architecture,
        backbone::{Backbone, Extractor, Family, LastLayerOf, Part},
        layers::{BatchNorm2d, Conv2d, ConvInit, ConvNorm, within},
    },
    ops::{self, Activation, Convolution},
};

/// Settings of a VGG-19.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Vgg19")]
pub struct Settings {
    /// Channels of the first stage; the others have 2, 4, 8 and 8 times as many. Default: 64, the paper's. A quarter of it
    /// costs a sixteenth.
    #[garde(range(min = 1, max = 1024))]
    #[serde(default = "default_width", skip_serializing_if = "is_default_width")]
    pub width: usize,
}

fn default_width() -> usize {
    64
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_default_width(width: &usize) -> bool {
    *width == default_width()
}

impl Default for Settings {
    fn default() -> Self {
        Self { width: default_width() }
    }
}

impl Family for Settings {
    const LEAST_SIDE: usize = 16;
    const LACKS: &[Part] = &[Part::Shortcut];
    const POOLS_MAPS: bool = false;
    const STEM: bool = false;

    fn build(&self, architecture: &Architecture, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Extractor>> {
        Ok(Box::new(Vgg19::new(self, architecture, shape, vb)?))
    }

    fn stages(&self, size: [usize; 2]) -> Vec<(String, [usize; 3])> {
        let mut left = size;
        let stages = STAGES.into_iter().enumerate().map(|(at, (name, _, times))| {
            if is_pooled(at, size) {
                left = left.map(|size| size / 2);
            }
            (name.to_owned(), [times * self.width, left[0], left[1]])
        });
        stages.collect()
    }

    fn label(&self, name: &str) -> String {
        if is_default_width(&self.width) { name.to_owned() } else { format!("{name}_{}", self.width) }
    }

    fn smoke(&self) -> Option<Backbone> {
        Some(Backbone::Vgg19Bn(Self { width: self.width.min(SMOKE_WIDTH) }))
    }
}

/// Channels of the first stage in a smoke run.
const SMOKE_WIDTH: usize = 8;

/// Convolutions of each of the five stages, and how many times wider than the first it is.
const STAGES: [(&str, usize, usize); 5] =
    [("block1", 2, 1), ("block2", 2, 2), ("block3", 4, 4), ("block4", 4, 8), ("block5", 4, 8)];

/// Whether a pool ends a stage of a network for images of this size: DDU's form for MNIST has none after the first.
fn is_pooled(stage: usize, [height, width]: [usize; 2]) -> bool {
    stage > 0 || height.min(width) >= 32
}

/// 512 features, or eight times the width given. Stages: `block1` to `block5`, what leaves each stage, after its pool.
///
/// The parameters of layer i are `features.<i>`, counted as in PyTorch's `Sequential` of convolution, normalisation, ReLU
/// and pools.
#[derive(Debug, Clone)]
pub struct Vgg19 {
    stages: Vec<Stage>,
    features: usize,
    activation: Activation,
}

#[derive(Debug, Clone)]
struct Stage {
    name: &'static str,
    layers: Vec<ConvNorm>,
    pooled: bool,
}

impl Vgg19 {
    /// PyTorch's default initialisation, as in DDU. Below 32×32 pixels the first stage has no pool (DDU's form for MNIST);
    /// above 63×63 the features are averages over what the last pool leaves.
    ///
    /// # Errors
    /// [`Error::Input`] below 16×16 pixels.
    pub fn new(settings: &Settings, architecture: &Architecture, shape: Shape, vb: VarBuilder) -> Result<Self> {
        let size = shape.height.min(shape.width);
        if size < 16 {
            let message =
                format!("vgg19_bn needs images of at least 16×16 pixels, not {}×{}", shape.height, shape.width);
            return Err(Error::input(message).hint("use a data set with larger images, or `resnet18_32x32`"));
        }
        let (mut inputs, mut index) = (shape.channels, 0);
        let mut map = [shape.height, shape.width];
        let features = vb.pp("features");
        let mut stages = Vec::new();
        for (stage, (name, depth, times)) in STAGES.into_iter().enumerate() {
            let channels = times * settings.width;
            let mut layers = Vec::new();
            for _ in 0..depth {
                let (three, init) = (Convolution::new(1, 1), ConvInit::Default);
                let vb = features.pp(index);
                let conv = Conv2d::new([inputs, channels], 3, three, init, &vb)?;
                let conv = conv.bounded(architecture.spectral_norm.as_ref(), map, &vb)?;
                layers.push(ConvNorm::new(conv, BatchNorm2d::new(channels, &features.pp(index + 1))?));
                inputs = channels;
                index += 3;
            }
            let pooled = is_pooled(stage, [shape.height, shape.width]);
            index += usize::from(pooled);
            if pooled {
                map = map.map(|size| size / 2);
            }
            stages.push(Stage { name, layers, pooled });
        }
        Ok(Self { stages, features: inputs, activation: architecture.activation.into() })
    }
}

impl Extractor for Vgg19 {
    fn extract(&self, images: &Tensor, pass: &Pass) -> candle_core::Result<(Tensor, Vec<(String, Tensor)>)> {
        let mut stages = Vec::with_capacity(self.stages.len());
        let mut x = images.clone();
        for stage in &self.stages {
            for layer in &stage.layers {
                x = layer.forward(&x, self.activation, pass)?;
            }
            if stage.pooled {
                x = pass.max_pool2d(&x, ops::Pool::new(2, 2, 0))?;
            }
            x = pass.stage(stage.name, x)?;
            stages.push((stage.name.to_owned(), x.clone()));
        }
        Ok((ops::global_avg_pool2d(&x)?, stages))
    }

    fn last_layer(&self, _: usize) -> LastLayerOf {
        LastLayerOf { name: "classifier", features: self.features, init: [within(self.features); 2], scale: None }
    }

    fn folded(&self) -> candle_core::Result<Box<dyn Extractor>> {
        let mut network = self.clone();
        network.stages.iter_mut().flat_map(|stage| &mut stage.layers).try_for_each(ConvNorm::fold)?;
        Ok(Box::new(network))
    }
}
