//! Layer normalisation of maps.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::{nn::Pass, ops};

/// Layer normalisation of every pixel over its channels: timm's `LayerNorm2d`.
#[derive(Debug, Clone)]
pub struct LayerNorm2d {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl LayerNorm2d {
    /// Weight 1, bias 0.
    ///
    /// # Errors
    /// Those of candle.
    pub fn new(channels: usize, epsilon: f64, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints(channels, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(channels, "bias", Init::Const(0.0))?,
            epsilon,
        })
    }

    /// (N, C, H, W) to the same.
    ///
    /// # Errors
    /// When the channels are others.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        ops::layer_norm2d(x, &pass.seen(&self.weight), &pass.seen(&self.bias), self.epsilon)
    }
}
