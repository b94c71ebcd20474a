//! The residual networks of He et al. 2016 for CIFAR-10 (section 4.2): 6n + 2 layers in three stages, shortcuts without parameters
//! ("option A"). As `akamaster/pytorch_resnet_cifar10`, whose published weights load as they are.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    nn::{
        Pass, Shape,
        architecture::Architecture,
        backbone::{Backbone, Extractor, Family, IMAGENET, LastLayerOf, Part, strided},
        layers::{BatchNorm2d, Conv2d, ConvInit, ConvNorm, he, within},
    },
    ops::{self, Activation, Convolution, Pool},
};

/// Settings of a ResNet for CIFAR-10.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ResnetCifar")]
pub struct Settings {
    /// Layers, 6n + 2: 20, 32, 44, 56, 110.
    #[garde(range(min = 8, max = 1000), custom(depth_is_6n_plus_2))]
    pub depth: usize,
}

fn depth_is_6n_plus_2(depth: &usize, _: &()) -> garde::Result {
    if depth % 6 == 2 { Ok(()) } else { Err(garde::Error::new("must be 6n + 2, such as 20, 32 or 56")) }
}

impl Family for Settings {
    const PRESETS: &[(&str, Self)] = &[
        ("resnet20", Self { depth: 20 }),
        ("resnet32", Self { depth: 32 }),
        ("resnet44", Self { depth: 44 }),
        ("resnet56", Self { depth: 56 }),
        ("resnet110", Self { depth: 110 }),
    ];
    const LACKS: &[Part] = &[Part::Shortcut];
    /// As in `trainer.py` of akamaster/pytorch_resnet_cifar10.
    const NORMALISATION: Option<[[f32; 3]; 2]> = Some(IMAGENET);

    fn build(&self, architecture: &Architecture, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Extractor>> {
        Ok(Box::new(ResNetCifar::new(self, architecture, shape, vb)?))
    }

    fn stages(&self, size: [usize; 2]) -> Vec<(String, [usize; 3])> {
        strided(size, (0..STAGES.len()).map(|at| (STAGES[at], PLANES[at], if at > 0 { 2 } else { 1 })))
    }

    fn label(&self, _: &str) -> String {
        format!("resnet{}", self.depth)
    }

    fn smoke(&self) -> Option<Backbone> {
        Some(Backbone::ResnetCifar(Self { depth: 8 }))
    }
}

/// The stages' names.
const STAGES: [&str; 3] = ["layer1", "layer2", "layer3"];
/// Channels of each stage.
const PLANES: [usize; 3] = [16, 32, 64];

/// ResNet-20, 32, 44, 56 or 110. Features: 64, the global average (8×8 at 32×32 pixels) of the last map. Stages: `layer1` to `layer3`.
#[derive(Debug, Clone)]
pub struct ResNetCifar {
    stem: ConvNorm,
    blocks: [Vec<Block>; 3],
    activation: Activation,
}

impl ResNetCifar {
    /// Convolutions and the last layer's weights start as He et al. 2015 (fan-in), as in the source; its bias as in PyTorch.
    pub fn new(settings: &Settings, architecture: &Architecture, shape: Shape, vb: VarBuilder) -> Result<Self> {
        let mut size = [shape.height, shape.width];
        let activation = architecture.activation.into();
        let stem = conv([shape.channels, PLANES[0]], 1, architecture, &mut size, [vb.pp("conv1"), vb.pp("bn1")])?;
        let mut inputs = PLANES[0];
        let mut stage = |at: usize| -> Result<Vec<Block>> {
            let vb = vb.pp(STAGES[at]);
            let block = |index| {
                let stride = if index == 0 && at > 0 { 2 } else { 1 };
                let block = Block::new([inputs, PLANES[at]], stride, architecture, &mut size, &vb.pp(index));
                inputs = PLANES[at];
                block
            };
            (0..settings.depth.saturating_sub(2) / 6).map(block).collect()
        };
        let blocks = [stage(0)?, stage(1)?, stage(2)?];
        Ok(Self { stem, blocks, activation })
    }
}

impl Extractor for ResNetCifar {
    fn extract(&self, images: &Tensor, pass: &Pass) -> Result<(Tensor, Vec<(String, Tensor)>)> {
        let mut x = self.stem.forward(images, self.activation, pass)?;
        pass.end_stem();
        let mut stages = Vec::with_capacity(STAGES.len());
        for (name, blocks) in STAGES.into_iter().zip(&self.blocks) {
            for block in blocks {
                x = block.forward(&x, self.activation, pass)?;
            }
            x = pass.stage(name, x)?;
            stages.push((name.to_owned(), x.clone()));
        }
        Ok((ops::global_avg_pool2d(&x)?, stages))
    }

    fn last_layer(&self, _: usize) -> LastLayerOf {
        LastLayerOf { name: "linear", features: PLANES[2], init: [he(PLANES[2]), within(PLANES[2])], scale: None }
    }

    fn folded(&self) -> Result<Box<dyn Extractor>> {
        let mut network = self.clone();
        network.stem.fold()?;
        for block in network.blocks.iter_mut().flatten() {
            block.conv1.fold()?;
            block.conv2.fold()?;
        }
        Ok(Box::new(network))
    }
}

/// 3×3, for maps of `size`, which it changes to that of its result.
fn conv(
    channels: [usize; 2],
    stride: usize,
    architecture: &Architecture,
    size: &mut [usize; 2],
    [conv, norm]: [VarBuilder; 2],
) -> Result<ConvNorm> {
    let layer = Conv2d::new(channels, 3, Convolution::new(stride, 1), ConvInit::HeFanIn, &conv)?;
    let layer = layer.bounded(architecture.spectral_norm.as_ref(), *size, &conv)?;
    *size = layer.output_size(*size)?;
    Ok(ConvNorm::new(layer, BatchNorm2d::new(channels[1], &norm)?))
}

#[derive(Debug, Clone)]
struct Block {
    conv1: ConvNorm,
    conv2: ConvNorm,
    stride: usize,
    /// Zeros before and after the shortcut's channels.
    padding: usize,
}

impl Block {
    fn new(
        [inputs, outputs]: [usize; 2],
        stride: usize,
        architecture: &Architecture,
        size: &mut [usize; 2],
        vb: &VarBuilder,
    ) -> Result<Self> {
        let conv1 = conv([inputs, outputs], stride, architecture, size, [vb.pp("conv1"), vb.pp("bn1")])?;
        let conv2 = conv([outputs, outputs], 1, architecture, size, [vb.pp("conv2"), vb.pp("bn2")])?;
        Ok(Self { conv1, conv2, stride, padding: (outputs - inputs) / 2 })
    }

    fn forward(&self, x: &Tensor, activation: Activation, pass: &Pass) -> Result<Tensor> {
        let hidden = self.conv1.forward(x, activation, pass)?;
        let skip = match self.stride {
            1 => x.clone(),
            // Every stride-th pixel.
            stride => {
                ops::avg_pool2d(x, Pool::new(1, stride, 0), true)?.pad_with_zeros(1, self.padding, self.padding)?
            }
        };
        self.conv2.forward_add(&hidden, &skip, activation, pass)
    }
}
