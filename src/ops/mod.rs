//! Differentiable primitives that candle lacks, gets wrong, or does slowly.
//!
//! Each is a candle custom operation with its own backward pass, for f32 and f64 (f64 so that gradients can be compared
//! with central differences). Every sum has an order that depends on shapes only, never on threads, so equal inputs
//! give equal bits.

mod activation;
mod batch_norm;
mod conv2d;
#[cfg(any(feature = "cuda", test))]
mod cuda;
mod dropout;
#[cfg_attr(not(test), expect(dead_code, reason = "the linear layer takes it up"))]
mod gemm;
mod max_pool2d;
mod memory;
mod op;
pub mod optimizer;
mod relu;

pub use activation::Activation;
pub use batch_norm::{Statistics, batch_norm, moments};
pub use conv2d::{Convolution, conv_transpose2d, conv2d, conv2d_inference};
pub use dropout::dropout;
pub use max_pool2d::max_pool2d;
pub use memory::keep_freed_memory;
pub use relu::relu;

use candle_core::{Result, Tensor, WithDType};

/// Mean over rows and columns: (N, C, H, W) to (N, C).
pub fn global_avg_pool2d(x: &Tensor) -> Result<Tensor> {
    x.flatten_from(2)?.mean(2)
}

/// The element types of the operations.
trait Float: WithDType + conv2d::kernel::Kernels {}
impl Float for f32 {}
impl Float for f64 {}

/// Elements that one parallel task handles in elementwise operations; fixed, so that tasks do not depend on threads.
const BLOCK: usize = 1 << 14;

/// The sum in f64, in eight interleaved parts so that it vectorises; the order depends on the length only.
fn sum<T: Float>(values: &[T]) -> f64 {
    sum_of(values, T::to_f64)
}

/// The sum of `term` of each value; see [`sum`].
fn sum_of<T: Float>(values: &[T], term: impl Fn(T) -> f64) -> f64 {
    let mut parts = [0.0; 8];
    let chunks = values.chunks_exact(8);
    let rest: f64 = chunks.remainder().iter().map(|value| term(*value)).sum();
    for chunk in chunks {
        for (part, value) in parts.iter_mut().zip(chunk) {
            *part += term(*value);
        }
    }
    parts.iter().sum::<f64>() + rest
}
