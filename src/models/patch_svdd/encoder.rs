//! The two encoders of Patch SVDD, one inside the other.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::Settings;
use crate::{
    nn::{
        Pass,
        layers::{Conv2d, Linear},
    },
    ops::{Activation, Convolution},
};

/// The slope of the code's leaky ReLUs.
const LEAKY: Activation = Activation::LeakyRelu(0.1);

/// Eight 3×3 convolutions without padding, the first of stride 2, for patches of 32×32 pixels; and a convolution over the embeddings of the four
/// quarters of a patch twice as large.
#[derive(Debug, Clone)]
pub(super) struct Encoder {
    /// All but the last.
    convolutions: Vec<Conv2d>,
    /// The last, at every second pixel of an image, and at the strides of the small and the large windows.
    last: [Conv2d; 3],
    /// 2×2 over neighbouring embeddings, and over those of windows that lie a small patch apart.
    joint: [Conv2d; 2],
    out: Conv2d,
}

impl Encoder {
    pub fn new(settings: &Settings, channels: usize, vb: &VarBuilder) -> Result<Self> {
        let inner = vb.pp("enc");
        let (mut inputs, mut convolutions) = (channels, Vec::with_capacity(settings.channels.len()));
        for (at, &outputs) in settings.channels.iter().enumerate() {
            let stride = if at == 0 { 2 } else { 1 };
            let vb = inner.pp(format!("conv{}", at + 1));
            convolutions.push(Conv2d::biased([inputs, outputs], 3, Convolution::new(stride, 0), &vb)?);
            inputs = outputs;
        }
        let [large, small] = settings.windows();
        // The same parameters: the first convolution has halved what a stride is of.
        let last = |stride: usize| {
            let vb = inner.pp(format!("conv{}", settings.channels.len() + 1));
            Conv2d::biased([inputs, settings.features], 3, Convolution::new(stride, 0), &vb)
        };
        let joint = |apart: usize| {
            let convolution = Convolution { dilation: [apart; 2], ..Convolution::new(1, 0) };
            Conv2d::biased([settings.features, settings.hidden], 2, convolution, &vb.pp("conv1"))
        };
        Ok(Self {
            convolutions,
            last: [last(1)?, last(small.stride / 2)?, last(large.stride / 2)?],
            joint: [joint(1)?, joint(small.side / large.stride)?],
            out: Conv2d::biased([settings.hidden, settings.features], 1, Convolution::new(1, 0), &vb.pp("conv2"))?,
        })
    }

    fn before_last(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.convolutions.iter().try_fold(x.clone(), |x, conv| conv.forward_activated(&x, LEAKY, pass))
    }

    fn joined(&self, joint: &Conv2d, embeddings: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.out.forward(&joint.forward_activated(embeddings, LEAKY, pass)?, pass)?.tanh()
    }

    /// The embeddings of `small` patches (N, C, K, K) and of `large` ones (M, C, 2K, 2K): (N, D) and (M, D).
    pub fn patches(&self, [large, small]: [&Tensor; 2], pass: &Pass) -> Result<[Tensor; 2]> {
        let (count, side) = (large.dim(0)?, small.dim(3)?);
        let quarter = |row: usize, column: usize| large.narrow(2, row * side, side)?.narrow(3, column * side, side);
        let quarters = [quarter(0, 0)?, quarter(0, 1)?, quarter(1, 0)?, quarter(1, 1)?];
        let all: Vec<&Tensor> = [small].into_iter().chain(&quarters).collect();
        let embedded = self.before_last(&Tensor::cat(&all, 0)?, pass)?;
        let embedded = self.last[0].forward(&embedded, pass)?.tanh()?.flatten_from(1)?;
        let of = |at: usize| embedded.narrow(0, small.dim(0)? + at * count, count);
        let square = Tensor::stack(&[of(0)?, of(1)?, of(2)?, of(3)?], 2)?.reshape((count, (), 2, 2))?;
        let large = self.joined(&self.joint[0], &square, pass)?.flatten_from(1)?;
        Ok([large, embedded.narrow(0, 0, small.dim(0)?)?])
    }

    /// The same of all windows of (N, C, H, W) images: (N, D, h, w) of the large and the small ones. Without padding a convolution over an image is
    /// one over each window.
    pub fn windows(&self, images: &Tensor, pass: &Pass) -> Result<[Tensor; 2]> {
        let before = self.before_last(images, pass)?;
        let small = self.last[1].forward(&before, pass)?.tanh()?;
        let quarters = self.last[2].forward(&before, pass)?.tanh()?;
        Ok([self.joined(&self.joint[1], &quarters, pass)?, small])
    }
}

/// Tells from two embeddings where the second patch lies, seen from the first: one of eight directions.
#[derive(Debug, Clone)]
pub(super) struct Position {
    hidden: [Linear; 2],
    weight: Tensor,
    bias: Tensor,
}

impl Position {
    pub fn new(settings: &Settings, directions: usize, vb: &VarBuilder) -> Result<Self> {
        let Settings { features, hidden, .. } = *settings;
        let init = crate::nn::layers::within(hidden);
        let last = vb.pp("fc3");
        Ok(Self {
            hidden: [Linear::new(features, hidden, &vb.pp("fc1"))?, Linear::new(hidden, hidden, &vb.pp("fc2"))?],
            weight: last.get_with_hints((directions, hidden), "weight", init)?,
            bias: last.get_with_hints(directions, "bias", init)?,
        })
    }

    /// (N, directions) logits of two embeddings (N, D).
    pub fn forward(&self, first: &Tensor, second: &Tensor, pass: &Pass) -> Result<Tensor> {
        let mut x = (first - second)?;
        for layer in &self.hidden {
            x = layer.forward(&x, LEAKY, pass)?;
        }
        // As in the code, of unit columns that do not learn.
        let weight = self.weight.detach();
        let weight = weight.broadcast_div(&weight.sqr()?.sum_keepdim(0)?.sqrt()?)?;
        x.matmul(&weight.t()?)?.broadcast_add(&self.bias)
    }
}
