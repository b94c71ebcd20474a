//! Wide residual networks (Zagoruyko & Komodakis 2016) in the form of energy_ood (`wetliu/energy_ood`,
//! `CIFAR/models/wrn.py`): pre-activation blocks with dropout between their convolutions; where the width changes, the
//! shortcut is a 1×1 convolution of the activated input, or, as in DDU (`omegafragger/DDU`, `net/wide_resnet.py`), an average of
//! the input as it is.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    nn::{
        Mode, Pass, Shape,
        architecture::{self, Architecture},
        backbone::{Backbone, Extractor, Family, LastLayerOf, strided},
        layers::{BatchNorm2d, Conv2d, ConvInit, ConvNorm, within},
        shortcut::AveragePool,
    },
    ops::{self, Activation, Convolution},
    rng,
};

/// Settings of a Wide ResNet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WideResnet")]
pub struct Settings {
    /// Layers, 6n + 4: 16, 22, 28, 40.
    #[garde(range(min = 10, max = 1000), custom(depth_is_6n_plus_4))]
    pub depth: usize,
    /// How many times wider than a plain ResNet.
    #[garde(range(min = 1, max = 64))]
    pub width: usize,
    /// Dropout probability inside each block: 0.3 in energy_ood and in the WRN paper for CIFAR.
    #[garde(range(min = 0.0, max = 0.99))]
    #[serde(default = "default_dropout")]
    pub dropout: f64,
}

fn default_dropout() -> f64 {
    0.3
}

fn depth_is_6n_plus_4(depth: &usize, _: &()) -> garde::Result {
    if depth % 6 == 4 { Ok(()) } else { Err(garde::Error::new("must be 6n + 4 (10, 16, 22, 28, 34, 40, …)")) }
}

impl Family for Settings {
    const PRESETS: &[(&str, Self)] = &[
        ("wrn40_2", Self { depth: 40, width: 2, dropout: 0.3 }),
        ("wrn28_10", Self { depth: 28, width: 10, dropout: 0.3 }),
    ];
    /// energy_ood's and pytorch-ood's for CIFAR-10 and CIFAR-100 alike, in 255ths.
    const NORMALISATION: Option<[[f32; 3]; 2]> =
        Some([[125.3 / 255.0, 123.0 / 255.0, 113.9 / 255.0], [63.0 / 255.0, 62.1 / 255.0, 66.7 / 255.0]]);

    fn build(&self, architecture: &Architecture, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Extractor>> {
        Ok(Box::new(WideResNet::new(self, architecture, shape, vb)?))
    }

    fn stages(&self, size: [usize; 2]) -> Vec<(String, [usize; 3])> {
        let last = 64 * self.width;
        let stages = [("block1", 16 * self.width, 1), ("block2", 32 * self.width, 2), ("block3", last, 2)];
        strided(size, stages.into_iter().chain([("relu", last, 1)]))
    }

    fn label(&self, _: &str) -> String {
        format!("wrn{}_{}", self.depth, self.width)
    }

    fn elsewhere(&self, channels: usize, classes: usize) -> Option<String> {
        let (depth, width) = (self.depth, self.width);
        let module =
            format!("pytorch_ood.model.WideResNet(num_classes={classes}, depth={depth}, widen_factor={width})");
        (channels == 3).then_some(module)
    }

    fn smoke(&self) -> Option<Backbone> {
        Some(Backbone::WideResnet(Self { width: 1, ..self.clone() }))
    }
}

/// WRN-depth-width. Features: 64·width, the global average (8×8 at 32×32 pixels) of the last activation.
///
/// Stages: `block1`, `block2`, `block3`, the sums that leave each block, and `relu`, the last activation.
#[derive(Debug, Clone)]
pub struct WideResNet {
    conv1: Conv2d,
    blocks: [Vec<Block>; 3],
    bn1: BatchNorm2d,
    features: usize,
    activation: Activation,
}

impl WideResNet {
    /// Convolutions start as He et al. 2015 (fan-out), the last bias as 0, the rest as in PyTorch.
    pub fn new(
        settings: &Settings,
        architecture: &Architecture,
        shape: Shape,
        vb: VarBuilder,
    ) -> candle_core::Result<Self> {
        let layers = (settings.depth.saturating_sub(4) / 6).max(1);
        let widths = [16, 16 * settings.width, 32 * settings.width, 64 * settings.width];
        let mut size = [shape.height, shape.width];
        let conv1 = conv([shape.channels, widths[0]], 3, 1, (architecture, size), &vb.pp("conv1"))?;
        let mut block = |i: usize| -> candle_core::Result<Vec<Block>> {
            let vb = vb.pp(format!("block{}", i + 1)).pp("layer");
            (0..layers)
                .map(|layer| {
                    let (inputs, stride) = match (layer, i) {
                        (0, 0) => (widths[i], 1),
                        (0, _) => (widths[i], 2),
                        _ => (widths[i + 1], 1),
                    };
                    let channels = [inputs, widths[i + 1]];
                    let block = Block::new(channels, stride, settings.dropout, (architecture, size), &vb.pp(layer))?;
                    size = size.map(|size| size.div_ceil(stride));
                    Ok(block)
                })
                .collect()
        };
        Ok(Self {
            conv1,
            blocks: [block(0)?, block(1)?, block(2)?],
            bn1: BatchNorm2d::new(widths[3], &vb.pp("bn1"))?,
            features: widths[3],
            activation: architecture.activation.into(),
        })
    }
}

impl Extractor for WideResNet {
    fn extract(&self, images: &Tensor, pass: &Pass) -> candle_core::Result<(Tensor, Vec<(String, Tensor)>)> {
        let mut stages = Vec::with_capacity(4);
        let mut x = self.conv1.forward(images, pass)?;
        pass.end_stem();
        for (name, layers) in ["block1", "block2", "block3"].into_iter().zip(&self.blocks) {
            for layer in layers {
                x = layer.forward(&x, pass)?;
            }
            x = pass.stage(name, x)?;
            stages.push((name.to_owned(), x.clone()));
        }
        let last = pass.stage("relu", self.bn1.forward(&x, self.activation, pass)?)?;
        let features = ops::global_avg_pool2d(&last)?;
        stages.push(("relu".to_owned(), last));
        Ok((features, stages))
    }

    fn last_layer(&self, _: usize) -> LastLayerOf {
        LastLayerOf {
            name: "fc",
            features: self.features,
            init: [within(self.features), Init::Const(0.0)],
            scale: None,
        }
    }

    fn folded(&self) -> candle_core::Result<Box<dyn Extractor>> {
        let mut network = self.clone();
        network.conv1.fold()?;
        network.blocks.iter_mut().flatten().try_for_each(Block::fold)?;
        Ok(Box::new(network))
    }
}

/// Without bias, padded so that stride 1 keeps the size of its input, which stands beside the architecture.
fn conv(
    channels: [usize; 2],
    kernel: usize,
    stride: usize,
    (architecture, size): (&Architecture, [usize; 2]),
    vb: &VarBuilder,
) -> candle_core::Result<Conv2d> {
    let convolution = Convolution::new(stride, kernel / 2);
    let conv = Conv2d::new(channels, kernel, convolution, ConvInit::HeFanOut, vb)?;
    conv.bounded(architecture.spectral_norm.as_ref(), size, vb)
}

#[derive(Debug, Clone)]
struct Block {
    bn1: BatchNorm2d,
    /// With `bn2`.
    conv1: ConvNorm,
    dropout: f64,
    dropout_stream: String,
    conv2: Conv2d,
    shortcut: Shortcut,
    activation: Activation,
}

#[derive(Debug, Clone)]
enum Shortcut {
    Identity,
    Convolution(Box<Conv2d>),
    AveragePool(AveragePool),
}

impl Block {
    fn new(
        [inputs, outputs]: [usize; 2],
        stride: usize,
        dropout: f64,
        (architecture, size): (&Architecture, [usize; 2]),
        vb: &VarBuilder,
    ) -> candle_core::Result<Self> {
        let conv1 = conv([inputs, outputs], 3, stride, (architecture, size), &vb.pp("conv1"))?;
        let inner = conv1.output_size(size)?;
        let shortcut = match architecture.shortcut {
            _ if inputs == outputs => Shortcut::Identity,
            architecture::Shortcut::Convolution => Shortcut::Convolution(
                conv([inputs, outputs], 1, stride, (architecture, size), &vb.pp("convShortcut"))?.into(),
            ),
            architecture::Shortcut::AveragePool => Shortcut::AveragePool(AveragePool { channels: outputs, stride }),
        };
        Ok(Self {
            bn1: BatchNorm2d::new(inputs, &vb.pp("bn1"))?,
            conv1: ConvNorm::new(conv1, BatchNorm2d::new(outputs, &vb.pp("bn2"))?),
            dropout,
            dropout_stream: format!("dropout/{}", vb.prefix()),
            conv2: conv([outputs, outputs], 3, 1, (architecture, inner), &vb.pp("conv2"))?,
            shortcut,
            activation: architecture.activation.into(),
        })
    }

    fn fold(&mut self) -> candle_core::Result<()> {
        self.conv1.fold()?;
        self.conv2.fold()?;
        match &mut self.shortcut {
            Shortcut::Convolution(shortcut) => shortcut.fold(),
            Shortcut::Identity | Shortcut::AveragePool(_) => Ok(()),
        }
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> candle_core::Result<Tensor> {
        let activated = self.bn1.forward(x, self.activation, pass)?;
        let mut hidden = self.conv1.forward(&activated, self.activation, pass)?;
        if let Mode::Train { seed, step, .. } = pass.mode() {
            hidden = ops::dropout(&hidden, self.dropout, rng::stream(seed, &self.dropout_stream, &step.to_string()))?;
        }
        let skip = match &self.shortcut {
            Shortcut::Identity => x.clone(),
            Shortcut::Convolution(shortcut) => shortcut.forward(&activated, pass)?,
            Shortcut::AveragePool(shortcut) => shortcut.forward(x)?,
        };
        self.conv2.forward_add(&hidden, &skip, pass)
    }
}
