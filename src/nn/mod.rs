//! Networks, one file each, with PyTorch's parameter names.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};

/// Whether the network learns or is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Running statistics, no dropout.
    Eval,
    /// Batch statistics (and their running averages updated), dropout drawn from the stream of (seed, step).
    Train {
        /// The run's seed.
        seed: u64,
        /// The optimiser step, from 0.
        step: u64,
    },
}

/// What one forward pass gives.
#[derive(Debug, Clone)]
pub struct Outputs {
    /// (N, K) f32, before softmax.
    pub logits: Tensor,
    /// (N, D) f32, the input of the last linear layer.
    pub features: Tensor,
    /// Feature maps (N, C, H, W) by stage name, first to last; clones of tensors the pass made anyway.
    pub taps: BTreeMap<&'static str, Tensor>,
}

/// The last linear layer: detectors such as ReAct re-apply it.
#[derive(Debug, Clone)]
pub struct Head {
    /// (K, D)
    pub weight: Tensor,
    /// (K)
    pub bias: Tensor,
}

/// A classifier of images. Input: (N, C, H, W) f32, normalised with the ID set's statistics.
pub trait Network: Send + Sync {
    /// Logits, penultimate features and stage outputs.
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Outputs>;
    /// The last linear layer.
    fn head(&self) -> Head;
}

/// The shape that a network is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Input channels.
    pub channels: usize,
    /// Input rows.
    pub height: usize,
    /// Input columns.
    pub width: usize,
    /// K.
    pub classes: usize,
}
