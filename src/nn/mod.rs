//! Networks, one file each, with PyTorch's parameter names.

pub mod architecture;
pub mod backbone;
pub mod choices;
pub mod duq;
pub mod efficientnet;
pub mod footprint;
pub mod heads;
pub mod layers;
pub mod lenet;
pub mod linear;
pub mod params;
pub mod pass;
pub mod resnet;
pub mod resnet18_32x32;
pub mod resnet_cifar;
pub mod shortcut;
pub mod sngp;
pub mod spectral_norm;
pub mod vgg;
pub mod weights;
pub mod wide_resnet;

pub use architecture::{Architecture, Nonlinearity};
pub use backbone::Backbone;
pub use pass::{Mode, Pass};

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Error, nn::heads::Classifier};

/// The network that `architecture` describes, for images and classes of `shape`, with parameters from `vb`.
///
/// # Errors
/// [`Error::Input`] when images of this shape do not fit the network.
pub fn build(architecture: &Architecture, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Network>> {
    if [shape.channels, shape.height, shape.width, shape.classes].contains(&0) {
        return Err(Error::input(format!("no network can be built for {shape:?}: every size must be at least 1")));
    }
    architecture.backbone.build(architecture, shape, vb)
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

/// What one forward pass gives.
#[derive(Debug, Clone)]
pub struct Outputs {
    /// (N, K) f32, before softmax.
    pub logits: Tensor,
    /// (N, D) f32, what the last layer makes the logits of: its input, unless the [head](heads) says otherwise.
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
    fn forward(&self, images: &Tensor, pass: &Pass) -> Result<Outputs>;
    /// The layer between features and logits.
    fn classifier(&self) -> &Classifier;
    /// The last linear layer; none when the logits are not a linear layer of the features.
    fn head(&self) -> Option<Head> {
        self.classifier().head()
    }
    /// Called while learning, after each change of the parameters, with the batch that led to it: images as for
    /// [`Network::forward`] and (N) u32 classes. Moves what follows the parameters without gradients, such as DUQ's centroids.
    fn after_step(&self, images: &Tensor, labels: &Tensor) -> Result<()> {
        self.classifier().after_step(labels, &|| Ok(self.forward(images, &Pass::eval())?.features))
    }
    /// The same network for [`Mode::Eval`] only, and faster: batch normalisations are folded into the convolutions before
    /// them, once. Equal up to rounding; gradients with respect to the images are those of the network as it was.
    ///
    /// It keeps the parameters of this moment: fold anew after they change.
    fn folded(&self) -> Result<Box<dyn Network>>;
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
