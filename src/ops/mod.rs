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
mod gemm;
mod max_pool2d;
mod memory;
mod op;
mod patches;
mod relu;

pub use activation::Activation;
pub use batch_norm::{Statistics, batch_norm, moments};
pub use conv2d::{Convolution, conv2d};
pub use dropout::dropout;
pub use max_pool2d::max_pool2d;
pub use memory::keep_freed_memory;
pub use relu::relu;

use candle_core::{CpuStorage, Layout, Result, Tensor, WithDType, bail};

/// Mean over rows and columns: (N, C, H, W) to (N, C).
pub fn global_avg_pool2d(x: &Tensor) -> Result<Tensor> {
    x.flatten_from(2)?.mean(2)
}

/// The element types of the operations.
trait Float: WithDType {}
impl Float for f32 {}
impl Float for f64 {}

/// The elements of a contiguous tensor on the CPU, in order.
fn elements<'a, T: Float>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [T]> {
    match layout.contiguous_offsets() {
        Some((start, end)) => Ok(&T::cpu_storage_as_slice(storage)?[start..end]),
        None => bail!("expected a contiguous tensor, got strides {:?} for shape {:?}", layout.stride(), layout.shape()),
    }
}

/// Calls `$function::<f32>` or `::<f64>`, whichever the storage holds.
macro_rules! by_float {
    ($storage:expr, $self:ident . $function:ident ( $($argument:expr),* $(,)? )) => {
        match $storage {
            candle_core::CpuStorage::F32(_) => $self.$function::<f32>($($argument),*),
            candle_core::CpuStorage::F64(_) => $self.$function::<f64>($($argument),*),
            other => candle_core::bail!(
                "{} takes f32 or f64, got {:?}", $self.name(), candle_core::backend::BackendStorage::dtype(other)
            ),
        }
    };
}
use by_float;

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
