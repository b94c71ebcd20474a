//! Wide residual networks (Zagoruyko & Komodakis 2016) in the form of energy_ood (`wetliu/energy_ood`,
//! `CIFAR/models/wrn.py`): pre-activation blocks with dropout between their convolutions; where the width changes, the
//! shortcut is a 1×1 convolution of the activated input.

use std::collections::BTreeMap;

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};

use crate::{
    config,
    nn::{
        Head, Mode, Network, Outputs, Shape,
        layers::{BatchNorm2d, Conv2d, ConvInit, Linear},
    },
    ops, rng,
};

/// WRN-depth-width. Features: 64·width, the global average (8×8 at 32×32 pixels) of the last activation.
///
/// Taps: `block1`, `block2`, `block3`, the sums that leave each block, and `relu`, the last activation.
#[derive(Debug, Clone)]
pub struct WideResNet {
    conv1: Conv2d,
    blocks: [Vec<Block>; 3],
    bn1: BatchNorm2d,
    fc: Linear,
}

impl WideResNet {
    /// Convolutions start as He et al. 2015 (fan-out), the last bias as 0, the rest as in PyTorch.
    pub fn new(settings: &config::WideResnet, shape: Shape, vb: VarBuilder) -> candle_core::Result<Self> {
        let layers = (settings.depth.saturating_sub(4) / 6).max(1);
        let widths = [16, 16 * settings.width, 32 * settings.width, 64 * settings.width];
        let block = |i: usize| -> candle_core::Result<Vec<Block>> {
            let vb = vb.pp(format!("block{}", i + 1)).pp("layer");
            (0..layers)
                .map(|layer| {
                    let (inputs, stride) = match (layer, i) {
                        (0, 0) => (widths[i], 1),
                        (0, _) => (widths[i], 2),
                        _ => (widths[i + 1], 1),
                    };
                    Block::new(inputs, widths[i + 1], stride, settings.dropout, &vb.pp(layer))
                })
                .collect()
        };
        Ok(Self {
            conv1: Conv2d::new(shape.channels, widths[0], 3, 1, 1, ConvInit::HeFanOut, &vb.pp("conv1"))?,
            blocks: [block(0)?, block(1)?, block(2)?],
            bn1: BatchNorm2d::new(widths[3], &vb.pp("bn1"))?,
            fc: Linear::with_bias(widths[3], shape.classes, Init::Const(0.0), &vb.pp("fc"))?,
        })
    }
}

impl Network for WideResNet {
    fn forward(&self, images: &Tensor, mode: Mode) -> candle_core::Result<Outputs> {
        let mut taps = BTreeMap::new();
        let mut x = self.conv1.forward(images, mode)?;
        for (name, layers) in ["block1", "block2", "block3"].into_iter().zip(&self.blocks) {
            for layer in layers {
                x = layer.forward(&x, mode)?;
            }
            taps.insert(name, x.clone());
        }
        let last = self.bn1.forward_relu(&x, mode)?;
        let features = ops::global_avg_pool2d(&last)?;
        taps.insert("relu", last);
        Ok(Outputs { logits: self.fc.forward(&features, mode)?, features, taps })
    }

    fn head(&self) -> Head {
        self.fc.head()
    }
}

#[derive(Debug, Clone)]
struct Block {
    bn1: BatchNorm2d,
    conv1: Conv2d,
    bn2: BatchNorm2d,
    dropout: f64,
    dropout_stream: String,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
}

impl Block {
    fn new(inputs: usize, outputs: usize, stride: usize, dropout: f64, vb: &VarBuilder) -> candle_core::Result<Self> {
        let conv = |inputs, kernel, stride, padding, name: &str| {
            Conv2d::new(inputs, outputs, kernel, stride, padding, ConvInit::HeFanOut, &vb.pp(name))
        };
        Ok(Self {
            bn1: BatchNorm2d::new(inputs, &vb.pp("bn1"))?,
            conv1: conv(inputs, 3, stride, 1, "conv1")?,
            bn2: BatchNorm2d::new(outputs, &vb.pp("bn2"))?,
            dropout,
            dropout_stream: format!("dropout/{}", vb.prefix()),
            conv2: conv(outputs, 3, 1, 1, "conv2")?,
            shortcut: if inputs == outputs { None } else { Some(conv(inputs, 1, stride, 0, "convShortcut")?) },
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> candle_core::Result<Tensor> {
        let activated = self.bn1.forward_relu(x, mode)?;
        let mut hidden = self.bn2.forward_relu(&self.conv1.forward(&activated, mode)?, mode)?;
        if let Mode::Train { seed, step } = mode {
            hidden = ops::dropout(&hidden, self.dropout, rng::stream(seed, &self.dropout_stream, &step.to_string()))?;
        }
        let residual = self.conv2.forward(&hidden, mode)?;
        match &self.shortcut {
            Some(shortcut) => shortcut.forward(&activated, mode)? + residual,
            None => x + residual,
        }
    }
}
