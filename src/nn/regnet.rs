//! RegNetY (Radosavovic et al. 2020): residual blocks with grouped convolutions and squeeze-and-excitation, of few regular widths.
//!
//! Stem (3×3 convolution of stride 2) → 4 stages, each of which halves rows and columns in its first block → mean of the last maps: the
//! features. block: ReLU(x' + conv3(se(conv2(conv1(x))))) with 1×1, 3×3 grouped and 1×1 convolutions, each with batch normalisation and but
//! the last with ReLU; x' is x, or a 1×1 convolution of it where the shape changes. se: every channel times a number in 0..1 that two layers
//! make of the means of all channels.
//!
//! The paper derives widths and depths of w₀, wₐ, w_m and the number of blocks: uⱼ = w₀ + wₐ·j is rounded to w₀ times a power of w_m, then to
//! a multiple of 8, and at last to one of the group's width. The settings here are what comes of it. RegNetY-16GF's: w₀ 200, wₐ 106.23,
//! w_m 2.48, 18 blocks, groups of 112.
//!
//! - Paper: Radosavovic et al., *Designing Network Design Spaces*, CVPR 2020, <https://arxiv.org/abs/2003.13678>.
//! - Code: timm's `regnet.py` (`regnety_160`), its names and first values; torchvision's names are known, too.

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
        backbone::{Backbone, Extractor, Family, IMAGENET, LastLayerOf, Part, strided},
        layers::{BatchNorm2d, Conv2d, ConvInit, ConvNorm, he},
    },
    ops::{self, Activation, Convolution},
};

/// Settings of a RegNetY.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Regnety")]
pub struct Settings {
    /// Blocks of the four stages. RegNetY-16GF's: 2, 4, 11, 1.
    #[garde(inner(range(min = 1, max = 64)))]
    pub depths: [usize; 4],
    /// Channels of the four stages; the last are the features. RegNetY-16GF's: 224, 448, 1232, 3024.
    #[garde(inner(range(min = 4, max = 8192)), custom(are_whole_groups(&self.group)))]
    pub widths: [usize; 4],
    /// Channels of a group of the 3×3 convolutions; a stage of fewer channels is one group. RegNetY-16GF's: 112.
    #[garde(range(min = 1, max = 8192))]
    pub group: usize,
}

fn are_whole_groups(group: &usize) -> impl FnOnce(&[usize; 4], &()) -> garde::Result {
    let group = *group;
    move |widths, ()| match widths.iter().find(|width| **width > group && !width.is_multiple_of(group.max(1))) {
        Some(width) => Err(garde::Error::new(format!("{width} channels are no whole groups of {group}"))),
        None => Ok(()),
    }
}

impl Settings {
    const GF16: Self = Self { depths: [2, 4, 11, 1], widths: [224, 448, 1232, 3024], group: 112 };
}

impl Family for Settings {
    const PRESETS: &[(&str, Self)] = &[("regnety_16gf", Self::GF16)];
    const LEAST_SIDE: usize = 32;
    const LACKS: &[Part] = &[Part::SpectralNorm, Part::Activation, Part::Shortcut];
    const NORMALISATION: Option<[[f32; 3]; 2]> = Some(IMAGENET);

    fn build(&self, _: &Architecture, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Extractor>> {
        if shape.height.min(shape.width) < Self::LEAST_SIDE {
            let message =
                format!("regnety needs images of at least 32×32 pixels, not {}×{}", shape.height, shape.width);
            return Err(Error::input(message).hint("`resnet18_32x32` has a stem for small images"));
        }
        Ok(Box::new(RegNet::new(self, shape, &vb)?))
    }

    fn stages(&self, size: [usize; 2]) -> Vec<(String, [usize; 3])> {
        let after_stem = size.map(|size| size.div_ceil(2));
        strided(after_stem, STAGES.into_iter().zip(self.widths).map(|(name, width)| (name, width, 2)))
    }

    fn label(&self, name: &str) -> String {
        Self::PRESETS.iter().find(|(_, preset)| preset == self).map_or(name, |(preset, _)| *preset).to_owned()
    }

    fn elsewhere(&self, channels: usize, classes: usize) -> Option<String> {
        let timm = || format!("timm.create_model('regnety_160', num_classes={classes}, in_chans={channels})");
        (*self == Self::GF16).then(timm)
    }

    fn our_name(&self, theirs: &str) -> Option<String> {
        torchvision(theirs)
    }

    /// Two groups a stage.
    fn smoke(&self) -> Option<Backbone> {
        let narrow = Self { widths: self.widths.map(|width| width.min(8)), group: self.group.min(4), ..self.clone() };
        Some(Backbone::Regnety(narrow))
    }
}

/// The stages' names, timm's.
const STAGES: [&str; 4] = ["s1", "s2", "s3", "s4"];
/// Channels of the stem.
const STEM: usize = 32;

/// Features: as many as the last stage has channels. Stages: `s1` to `s4`, 1/4, 1/8, 1/16 and 1/32 of the image's rows and columns, rounded
/// up.
#[derive(Debug, Clone)]
pub struct RegNet {
    stem: ConvNorm,
    stages: Vec<Vec<Block>>,
    features: usize,
}

impl RegNet {
    /// Starts as timm does: convolutions as He et al. 2015 (fan-out), the last scale of each block 0.
    fn new(settings: &Settings, shape: Shape, vb: &VarBuilder) -> Result<Self> {
        let mut inputs = STEM;
        let stages = STAGES.into_iter().zip(settings.widths).zip(settings.depths).map(|((name, outputs), depth)| {
            let block = |index| {
                let stride = if index == 0 { 2 } else { 1 };
                let vb = vb.pp(name).pp(format!("b{}", index + 1));
                let block = Block::new([inputs, outputs], stride, settings.group, &vb);
                inputs = outputs;
                block
            };
            (0..depth).map(block).collect()
        });
        let stages = stages.collect::<Result<_>>()?;
        let stem = conv([shape.channels, STEM], 3, Convolution::new(2, 1), BatchNorm2d::new, &vb.pp("stem"))?;
        Ok(Self { stem, stages, features: inputs })
    }

    /// What leaves the first `count` stages.
    fn first(&self, count: usize, images: &Tensor, pass: &Pass) -> Result<Vec<(String, Tensor)>> {
        let mut x = self.stem.forward(images, Activation::Relu, pass)?;
        pass.end_stem();
        let stage = |(name, blocks): (&str, &Vec<Block>)| {
            for block in blocks {
                x = block.forward(&x, pass)?;
            }
            x = pass.stage(name, x.clone())?;
            Ok((name.to_owned(), x.clone()))
        };
        STAGES.into_iter().zip(&self.stages).take(count).map(stage).collect()
    }
}

impl Extractor for RegNet {
    fn extract(&self, images: &Tensor, pass: &Pass) -> Result<(Tensor, Vec<(String, Tensor)>)> {
        let stages = self.first(STAGES.len(), images, pass)?;
        Ok((ops::global_avg_pool2d(&stages[STAGES.len() - 1].1)?, stages))
    }

    fn stages_until(&self, images: &Tensor, last: &str, pass: &Pass) -> Result<Vec<(String, Tensor)>> {
        let count = STAGES.iter().position(|name| *name == last).map_or(STAGES.len(), |at| at + 1);
        self.first(count, images, pass)
    }

    fn last_layer(&self, _: usize) -> LastLayerOf {
        let init = [Init::Randn { mean: 0.0, stdev: 0.01 }, Init::Const(0.0)];
        LastLayerOf { name: "head.fc", features: self.features, init, scale: None }
    }

    fn folded(&self) -> Result<Box<dyn Extractor>> {
        let mut network = self.clone();
        network.stem.fold()?;
        network.stages.iter_mut().flatten().try_for_each(Block::fold)?;
        Ok(Box::new(network))
    }
}

fn conv(
    channels: [usize; 2],
    kernel: usize,
    convolution: Convolution,
    norm: fn(usize, &VarBuilder) -> Result<BatchNorm2d>,
    vb: &VarBuilder,
) -> Result<ConvNorm> {
    let conv = Conv2d::new(channels, kernel, convolution, ConvInit::HeFanOut, &vb.pp("conv"))?;
    Ok(ConvNorm::new(conv, norm(channels[1], &vb.pp("bn"))?))
}

/// A residual block.
#[derive(Debug, Clone)]
struct Block {
    conv1: ConvNorm,
    conv2: ConvNorm,
    se: SqueezeExcitation,
    conv3: ConvNorm,
    downsample: Option<ConvNorm>,
}

impl Block {
    fn new([inputs, outputs]: [usize; 2], stride: usize, group: usize, vb: &VarBuilder) -> Result<Self> {
        let (one, usual) = (Convolution::new(1, 0), BatchNorm2d::new);
        let grouped = Convolution::new(stride, 1).grouped(outputs / group.min(outputs));
        let changes = stride != 1 || inputs != outputs;
        let downsample = || conv([inputs, outputs], 1, Convolution::new(stride, 0), usual, &vb.pp("downsample"));
        Ok(Self {
            conv1: conv([inputs, outputs], 1, one, usual, &vb.pp("conv1"))?,
            conv2: conv([outputs, outputs], 3, grouped, usual, &vb.pp("conv2"))?,
            se: SqueezeExcitation::new(outputs, squeezed(inputs), &vb.pp("se"))?,
            conv3: conv([outputs, outputs], 1, one, BatchNorm2d::closed, &vb.pp("conv3"))?,
            downsample: changes.then(downsample).transpose()?,
        })
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let hidden = self.conv1.forward(x, Activation::Relu, pass)?;
        let hidden = self.conv2.forward(&hidden, Activation::Relu, pass)?;
        let hidden = self.se.forward(&hidden, pass)?;
        let skip = match &self.downsample {
            Some(downsample) => downsample.forward(x, Activation::Identity, pass)?,
            None => x.clone(),
        };
        self.conv3.forward_add(&hidden, &skip, Activation::Relu, pass)
    }

    /// See [`Extractor::folded`].
    fn fold(&mut self) -> Result<()> {
        [&mut self.conv1, &mut self.conv2, &mut self.conv3]
            .into_iter()
            .chain(&mut self.downsample)
            .try_for_each(ConvNorm::fold)
    }
}

/// A quarter of a block's input channels, a half rounded to the even number as Python does.
fn squeezed(inputs: usize) -> usize {
    let (quarter, rest) = (inputs / 4, inputs % 4);
    match rest {
        0 | 1 => quarter,
        2 => quarter + quarter % 2,
        _ => quarter + 1,
    }
}

/// Squeeze-and-excitation (Hu et al. 2018): x·σ(fc2(ReLU(fc1(mean of x)))) of each channel.
#[derive(Debug, Clone)]
struct SqueezeExcitation {
    fc1: Conv2d,
    fc2: Conv2d,
    /// The name of `fc1`, for who looks at its neurons.
    name: String,
}

impl SqueezeExcitation {
    fn new(channels: usize, inner: usize, vb: &VarBuilder) -> Result<Self> {
        let layer = |[inputs, outputs]: [usize; 2], vb: &VarBuilder| {
            let init = [he(outputs), Init::Const(0.0)];
            Conv2d::starting([inputs, outputs], 1, Convolution::new(1, 0), init, vb)
        };
        let fc1 = vb.pp("fc1");
        Ok(Self {
            name: fc1.prefix(),
            fc1: layer([channels, inner], &fc1)?,
            fc2: layer([inner, channels], &vb.pp("fc2"))?,
        })
    }

    /// (N, C, H, W) to the same.
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (images, channels, rows, columns) = x.dims4()?;
        let mean = ops::global_avg_pool2d(x)?.reshape((images, channels, 1, 1))?;
        let hidden = pass
            .activate(&self.name, Activation::Relu, |activation| self.fc1.forward_activated(&mean, activation, pass))?;
        let open = candle_nn::ops::sigmoid(&self.fc2.forward(&hidden, pass)?)?;
        // Each channel of each image has a 1×1 kernel of its own: faster than candle's products of unlike shapes and their sums backward.
        let planes = images * channels;
        let each = Convolution::new(1, 0).grouped(planes);
        let x = x.reshape((1, planes, rows, columns))?;
        ops::conv2d(&x, &open.reshape((planes, 1, 1, 1))?, None, each)?.reshape((images, channels, rows, columns))
    }
}

/// timm's name for one of torchvision's.
fn torchvision(name: &str) -> Option<String> {
    let (layer, rest) = name.split_once('.')?;
    let part = |rest: &str| {
        let (index, parameter) = rest.split_once('.')?;
        let part = match index {
            "0" => "conv",
            "1" => "bn",
            _ => return None,
        };
        Some(format!("{part}.{parameter}"))
    };
    match layer {
        "stem" => Some(format!("stem.{}", part(rest)?)),
        "fc" => Some(format!("head.fc.{rest}")),
        "trunk_output" => {
            // block1.block1-0.f.a.0.weight: stage from 1, block from 0.
            let (stage, rest) = rest.strip_prefix("block")?.split_once('.')?;
            let (block, rest) = rest.strip_prefix("block")?.strip_prefix(stage)?.strip_prefix('-')?.split_once('.')?;
            let block = block.parse::<usize>().ok()?.checked_add(1)?;
            let layer = match rest.split_once('.')? {
                ("proj", rest) => format!("downsample.{}", part(rest)?),
                ("f", rest) => match rest.split_once('.')? {
                    ("a", rest) => format!("conv1.{}", part(rest)?),
                    ("b", rest) => format!("conv2.{}", part(rest)?),
                    ("c", rest) => format!("conv3.{}", part(rest)?),
                    ("se", rest) => format!("se.{rest}"),
                    _ => return None,
                },
                _ => return None,
            };
            Some(format!("s{stage}.b{block}.{layer}"))
        }
        _ => None,
    }
}
