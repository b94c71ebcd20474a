//! EfficientNet-Lite0 (Tan & Le 2019; "Lite": no squeeze-and-excitation, ReLU6 for SiLU) in the form of timm's
//! `tf_efficientnet_lite0` (`huggingface/pytorch-image-models`, `timm/models/efficientnet.py`), whose weights, converted from
//! TensorFlow, want its `SAME` padding and its ε.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::{
    nn::{
        Pass, Shape,
        architecture::Architecture,
        backbone::{Extractor, Family, LastLayerOf, Part, strided},
        layers::{BatchNorm2d, Conv2d, ConvInit, ConvNorm},
    },
    ops::{self, Activation, Convolution},
    yaml::registry::no_settings,
};

no_settings!();

impl Family for Settings {
    const LACKS: &[Part] = &[Part::SpectralNorm, Part::Activation, Part::Shortcut];
    /// timm's for `tf_efficientnet_lite0.in1k`. The weights on PyPI are the same network's: on 600 images of Tiny ImageNet,
    /// enlarged to 128×128, they are right for 28.8 % with these and for 19.3 % with ImageNet's.
    const NORMALISATION: Option<[[f32; 3]; 2]> = Some([[0.5; 3]; 2]);

    fn build(&self, _: &Architecture, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Extractor>> {
        Ok(Box::new(EfficientNetLite0::new(shape, vb)?))
    }

    fn stages(&self, size: [usize; 2]) -> Vec<(String, [usize; 3])> {
        let after_stem = size.map(|size| size.div_ceil(2));
        strided(after_stem, STAGES.map(|(name, _, _, stride, _, channels)| (name, channels, stride)))
    }

    fn elsewhere(&self, channels: usize, classes: usize) -> Option<String> {
        Some(format!("timm.create_model('tf_efficientnet_lite0', num_classes={classes}, in_chans={channels})"))
    }

    fn our_name(&self, theirs: &str) -> Option<String> {
        efficientnet_pytorch(theirs)
    }
}

/// TensorFlow's ε of EfficientNet's batch normalisations.
const EPSILON: f64 = 1e-3;
/// Name, blocks, kernel, stride of the first block, expansion, channels of each stage.
const STAGES: [(&str, usize, usize, usize, usize, usize); 7] = [
    ("blocks.0", 1, 3, 1, 1, 16),
    ("blocks.1", 2, 3, 2, 6, 24),
    ("blocks.2", 2, 5, 2, 6, 40),
    ("blocks.3", 3, 3, 2, 6, 80),
    ("blocks.4", 3, 5, 1, 6, 112),
    ("blocks.5", 4, 5, 2, 6, 192),
    ("blocks.6", 1, 3, 1, 6, 320),
];
const STEM: usize = 32;
const FEATURES: usize = 1280;

/// 1280 features. Stages: `blocks.0` to `blocks.6`, what leaves each stage: 1/2, 1/4, 1/8, 1/16, 1/16, 1/32 and 1/32 of the
/// image's rows and columns.
#[derive(Debug, Clone)]
pub struct EfficientNetLite0 {
    stem: ConvNorm,
    stages: Vec<(&'static str, Vec<Block>)>,
    head: ConvNorm,
}

impl EfficientNetLite0 {
    /// Starts as timm does: convolutions as He et al. 2015 (fan-out), the linear layer uniform within ±1/√classes, its bias 0.
    pub fn new(shape: Shape, vb: VarBuilder) -> Result<Self> {
        let mut inputs = STEM;
        let stages = STAGES.into_iter().map(|(name, count, kernel, stride, expansion, outputs)| {
            let block = |index| {
                let stride = if index == 0 { stride } else { 1 };
                let block = Block::new([inputs, outputs], kernel, stride, expansion, &vb.pp(name).pp(index));
                inputs = outputs;
                block
            };
            Ok((name, (0..count).map(block).collect::<Result<_>>()?))
        });
        let stages = stages.collect::<Result<_>>()?;
        let stem = Convolution::new(2, 0);
        Ok(Self {
            stem: conv([shape.channels, STEM], 3, stem, [vb.pp("conv_stem"), vb.pp("bn1")])?,
            stages,
            head: conv([inputs, FEATURES], 1, Convolution::new(1, 0), [vb.pp("conv_head"), vb.pp("bn2")])?,
        })
    }

    /// What leaves the first `count` stages.
    fn first(&self, count: usize, images: &Tensor, pass: &Pass) -> Result<Vec<(String, Tensor)>> {
        let mut x = self.stem.forward(images, Activation::Relu6, pass)?;
        pass.end_stem();
        let stage = |(name, blocks): &(&'static str, Vec<Block>)| {
            for block in blocks {
                x = block.forward(&x, pass)?;
            }
            x = pass.stage(name, x.clone())?;
            Ok(((*name).to_owned(), x.clone()))
        };
        self.stages.iter().take(count).map(stage).collect()
    }
}

impl Extractor for EfficientNetLite0 {
    fn extract(&self, images: &Tensor, pass: &Pass) -> Result<(Tensor, Vec<(String, Tensor)>)> {
        let stages = self.first(STAGES.len(), images, pass)?;
        let x = &stages[STAGES.len() - 1].1;
        Ok((ops::global_avg_pool2d(&self.head.forward(x, Activation::Relu6, pass)?)?, stages))
    }

    fn stages_until(&self, images: &Tensor, last: &str, pass: &Pass) -> Result<Vec<(String, Tensor)>> {
        let count = STAGES.iter().position(|(name, ..)| *name == last).map_or(STAGES.len(), |at| at + 1);
        self.first(count, images, pass)
    }

    fn last_layer(&self, classes: usize) -> LastLayerOf {
        let bound = 1.0 / (classes as f64).sqrt();
        let weight = Init::Uniform { lo: -bound, up: bound };
        LastLayerOf { name: "classifier", features: FEATURES, init: [weight, Init::Const(0.0)], scale: None }
    }

    fn folded(&self) -> Result<Box<dyn Extractor>> {
        let mut network = self.clone();
        for block in network.stages.iter_mut().flat_map(|(_, blocks)| blocks) {
            block.convs.iter_mut().try_for_each(ConvNorm::fold)?;
        }
        network.stem.fold()?;
        network.head.fold()?;
        Ok(Box::new(network))
    }
}

fn conv(
    channels: [usize; 2],
    kernel: usize,
    convolution: Convolution,
    [conv, norm]: [VarBuilder; 2],
) -> Result<ConvNorm> {
    let conv = Conv2d::new(channels, kernel, convolution, ConvInit::HeFanOut, &conv)?.same();
    Ok(ConvNorm::new(conv, BatchNorm2d::new(channels[1], &norm)?.epsilon(EPSILON)))
}

/// A depthwise convolution between two of 1×1: the first widens (not in the first stage), the last narrows and has no
/// activation; around them a shortcut where input and output have one shape.
#[derive(Debug, Clone)]
struct Block {
    convs: Vec<ConvNorm>,
    shortcut: bool,
}

impl Block {
    fn new(
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        stride: usize,
        expansion: usize,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let inner = inputs * expansion;
        let (one, depthwise) = (Convolution::new(1, 0), Convolution::new(stride, 0).grouped(inner));
        let convs = match expansion {
            1 => vec![("conv_dw", [inner, inner], kernel, depthwise), ("conv_pw", [inner, outputs], 1, one)],
            _ => vec![
                ("conv_pw", [inputs, inner], 1, one),
                ("conv_dw", [inner, inner], kernel, depthwise),
                ("conv_pwl", [inner, outputs], 1, one),
            ],
        };
        let convs = convs.into_iter().enumerate().map(|(i, (name, channels, kernel, convolution))| {
            conv(channels, kernel, convolution, [vb.pp(name), vb.pp(format!("bn{}", i + 1))])
        });
        Ok(Self { convs: convs.collect::<Result<_>>()?, shortcut: stride == 1 && inputs == outputs })
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let [first @ .., last] = &self.convs[..] else { return Ok(x.clone()) };
        let mut hidden = x.clone();
        for conv in first {
            hidden = conv.forward(&hidden, Activation::Relu6, pass)?;
        }
        match self.shortcut {
            true => last.forward_add(&hidden, x, Activation::Identity, pass),
            false => last.forward(&hidden, Activation::Identity, pass),
        }
    }
}

/// Blocks of EfficientNet's stages, which efficientnet_pytorch counts through.
const BLOCKS: [usize; 7] = [1, 2, 2, 3, 3, 4, 1];

/// timm's name for one of efficientnet_pytorch (`lukemelas/EfficientNet-PyTorch`) and its kin.
fn efficientnet_pytorch(name: &str) -> Option<String> {
    let (layer, rest) = name.split_once('.')?;
    let ours = match layer {
        "_conv_stem" => "conv_stem",
        "_bn0" => "bn1",
        "_conv_head" => "conv_head",
        "_bn1" => "bn2",
        "_fc" => "classifier",
        "_blocks" => return efficientnet_block(rest),
        _ => return None,
    };
    Some(format!("{ours}.{rest}"))
}

fn efficientnet_block(rest: &str) -> Option<String> {
    let (index, rest) = rest.split_once('.')?;
    let (layer, rest) = rest.split_once('.')?;
    let (mut stage, mut index) = (0, index.parse::<usize>().ok()?);
    while index >= *BLOCKS.get(stage)? {
        index -= BLOCKS[stage];
        stage += 1;
    }
    // The first stage's block does not widen, so that what narrows is its second layer.
    let ours = match (stage, layer) {
        (0, "_depthwise_conv") => "conv_dw",
        (0, "_bn1") => "bn1",
        (0, "_project_conv") => "conv_pw",
        (0, "_bn2") => "bn2",
        (0, _) => return None,
        (_, "_expand_conv") => "conv_pw",
        (_, "_bn0") => "bn1",
        (_, "_depthwise_conv") => "conv_dw",
        (_, "_bn1") => "bn2",
        (_, "_project_conv") => "conv_pwl",
        (_, "_bn2") => "bn3",
        _ => return None,
    };
    Some(format!("blocks.{stage}.{index}.{ours}.{rest}"))
}
