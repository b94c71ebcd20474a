//! Differentiable primitives that candle lacks, gets wrong, or does slowly.
//!
//! Each is a candle custom operation with its own backward pass, for f32 and f64 (f64 so that gradients can be compared
//! with central differences). Every sum has an order that depends on shapes only, never on threads, so equal inputs
//! give equal bits.

mod activation;
mod add;
#[cfg(any(feature = "cuda", test))]
pub(crate) mod anomaly_factor;
mod attention;
mod avg_pool2d;
mod batch_norm;
mod concat;
mod conv2d;
#[cfg(any(feature = "cuda", test))]
mod cuda;
mod dropout;
mod elementwise;
mod float;
mod fresh;
mod gate;
mod gelu;
pub(crate) mod gemm;
mod global_avg_pool2d;
mod group_norm;
pub(crate) mod interpolate;
mod layer_norm2d;
mod like;
mod linear;
mod max_pool2d;
mod memory;
pub(crate) mod neighbours;
mod one_hot;
mod op;
pub mod optimizer;
mod packed;
mod pool;
mod relu;
mod resize;
mod silu;
mod softmax;
mod softmax_cross_entropy;
mod squared_distances;
mod tape;
mod texture;
mod wide;

pub use activation::Activation;
pub use add::add;
pub use attention::{Order, attention, biased_attention};
pub use avg_pool2d::avg_pool2d;
pub use batch_norm::{Statistics, batch_norm, moments};
pub use concat::concat;
pub use conv2d::{Convolution, channel_products, conv_transpose2d, conv2d, conv2d_inference};
#[cfg(test)]
pub(crate) use cuda::emulator::emulated;
pub use dropout::dropout;
pub use gate::gate;
pub use gelu::gelu;
pub use global_avg_pool2d::global_avg_pool2d;
pub use group_norm::group_norm;
pub use layer_norm2d::layer_norm2d;
pub use like::{activate_like, max_pool2d_like};
pub use linear::linear;
pub use max_pool2d::max_pool2d;
pub use memory::keep_freed_memory;
pub(crate) use one_hot::one_hot;
pub(crate) use op::is_on_gpu;
pub use pool::Pool;
pub use relu::{activate, leaky_relu, relu, relu6};
pub use resize::{Interpolation, resize};
pub use silu::silu;
pub use softmax::softmax;
pub use softmax_cross_entropy::softmax_cross_entropy;
pub use squared_distances::squared_distances;
pub use texture::{
    Assign, Quantiser, cooccurrence, cosine_similarity, pair_features, quantise_and_count, redistribute,
};

pub(crate) use relu::activate_into;
pub(crate) use wide::{compiled_wide, wide};

use float::{Float, sum};
