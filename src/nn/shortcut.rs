//! A residual shortcut without weights, from DDU (`omegafragger/DDU`, `net/resnet.py`, `AvgPoolShortCut`).

use candle_core::{Result, Tensor};

use crate::ops::{self, Pool};

/// Brings the input of a residual block to the shape of its output.
#[derive(Debug, Clone, Copy)]
pub struct AveragePool {
    /// Of the output, at least those of the input.
    pub channels: usize,
    /// Of the block.
    pub stride: usize,
}

impl AveragePool {
    /// (N, C, H, W) to (N, channels, ⌈H / stride⌉, ⌈W / stride⌉): means over windows of the stride, or every stride-th pixel of
    /// an image with an odd number of rows; then zeros for the new channels.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (_, channels, height, _) = x.dims4()?;
        let kernel = if height % 2 == 1 { 1 } else { self.stride };
        let pooled = match self.stride {
            1 => x.clone(),
            stride => ops::avg_pool2d(x, Pool::new(kernel, stride, 0), true)?,
        };
        pooled.pad_with_zeros(1, 0, self.channels - channels)
    }
}
