//! Networks, one file each, with PyTorch's parameter names.

pub mod airbench;
pub mod architecture;
pub mod backbone;
pub mod choices;
pub mod classifier;
pub mod convnext;
pub mod denoiser;
pub mod description_autoencoder;
pub mod duq;
pub mod efficientnet;
pub mod elogitnorm;
pub mod footprint;
pub mod heads;
pub mod layers;
pub mod lenet;
pub mod linear;
pub mod model;
mod output;
pub mod params;
pub mod pass;
pub mod patch_description;
pub mod positions;
pub mod receptive;
pub mod regnet;
pub mod resnet;
pub mod resnet18_32x32;
pub mod resnet_cifar;
pub mod reverse;
pub mod sampler;
pub mod self_calibrated;
pub mod shortcut;
pub mod sngp;
pub mod spectral_norm;
pub mod standard;
pub mod stl;
pub mod swin;
pub mod t2fnorm;
pub mod transformer;
pub mod tta;
pub mod unet;
pub mod vgg;
pub mod vit;
pub mod weights;
pub mod wide_resnet;
pub mod windows;

pub use architecture::{Architecture, Nonlinearity};
pub use backbone::Backbone;
pub use denoiser::Denoiser;
pub use model::{Head, Model, Shown};
pub use output::Output;
pub use pass::{Mode, Pass};
pub use tta::Tta;

use candle_nn::VarBuilder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::Error;

/// The classifier that `architecture` describes, for images and classes of `shape`, with parameters from `vb`.
///
/// # Errors
/// [`Error::Input`] when images of this shape do not fit the network.
pub fn build(architecture: &Architecture, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Model>> {
    if [shape.channels, shape.height, shape.width, shape.classes].contains(&0) {
        return Err(Error::input(format!("no network can be built for {shape:?}: every size must be at least 1")));
    }
    Ok(Box::new(classifier::Classifier::new(architecture, shape, &vb)?))
}

/// What convolutions and linear layers calculate in while a network learns. Weights, everything else and evaluation are
/// f32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// Operands rounded to bfloat16, sums in f32, as PyTorch's autocast; on a GPU only.
    Bf16,
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
