//! What a network is besides its backbone: its last layer and the constraints on the others.

use garde::Validate;
use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    config::{Backbone, Empty, Network},
    ops::Activation,
    yaml::named::{is_default, string_or_map, variant_by_name},
};

/// A network's architecture: the keys of [`Network`] that say how it is built, defaults filled in.
///
/// As JSON it is part of the network's identity. What is as in the plain network is left out, so that a plain network's identity
/// is what it was before there were other ones.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Architecture {
    /// The layers up to the features.
    pub backbone: Backbone,
    /// The layer after the features.
    #[serde(skip_serializing_if = "is_default")]
    pub head: Head,
    /// The bound on every other layer's spectral norm.
    #[serde(skip_serializing_if = "is_default")]
    pub spectral_norm: Option<SpectralNorm>,
    /// The non-linearity of all layers.
    #[serde(skip_serializing_if = "is_default")]
    pub activation: Nonlinearity,
    /// What stands beside the residual blocks that change the shape.
    #[serde(skip_serializing_if = "is_default")]
    pub shortcut: Shortcut,
}

impl From<Backbone> for Architecture {
    /// The backbone as it is, with a linear head.
    fn from(backbone: Backbone) -> Self {
        Self {
            backbone,
            head: Head::default(),
            spectral_norm: None,
            activation: Nonlinearity::default(),
            shortcut: Shortcut::default(),
        }
    }
}

impl Architecture {
    /// The architecture of a network that has a backbone of its own; that of one `from` another is the other's.
    pub fn of(network: &Network) -> Option<Self> {
        Some(Self {
            backbone: network.backbone.clone()?,
            head: network.head.clone().unwrap_or_default(),
            spectral_norm: network.spectral_norm.clone(),
            activation: network.activation.unwrap_or_default(),
            shortcut: network.shortcut.unwrap_or_default(),
        })
    }
}

/// The layer between features and logits: a name (`linear`), or a name with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Validate, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(transform = head_names)]
pub enum Head {
    /// A linear layer: the default, the backbone's own.
    Linear(#[garde(skip)] Empty),
    /// DUQ's (van Amersfoort et al. 2020): kernels around a centroid for each class, to be learned with
    /// `loss: { binary_cross_entropy: {}, gradient_penalty: { weight: 0.5 } }`.
    Duq(#[garde(dive)] Duq),
    /// SNGP's (Liu et al. 2020): a Gaussian process by random Fourier features, whose output layer alone is learned. For the
    /// detector `sngp`.
    Sngp(#[garde(dive)] Sngp),
}

/// Settings of DUQ's head: K_c = exp(−mean_d (W_c f − e_c)² / 2s²).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Duq {
    /// s: 0.1 in the paper's CIFAR-10 experiments; for its Fashion-MNIST network it was chosen from 0.05 to 1 by accuracy.
    #[garde(range(min = 1e-3, max = 1e3))]
    pub length_scale: f64,
    /// How much of the centroids' moving average a step keeps: 0.999 in the paper.
    #[garde(range(min = 0.0, max = 0.999_999))]
    pub momentum: f64,
    /// Size of a centroid. As many as there are features, as the reference code has it, unless given.
    #[garde(range(min = 1, max = MOST_CENTROID))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub centroid: Option<usize>,
}

/// Ours: more than any network has features.
const MOST_CENTROID: usize = 65_536;

impl Default for Duq {
    fn default() -> Self {
        Self { length_scale: 0.1, momentum: 0.999, centroid: None }
    }
}

impl Default for Head {
    fn default() -> Self {
        Self::Linear(Empty {})
    }
}

/// Settings of SNGP's head.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Sngp {
    /// Random Fourier features: 1024 in `google/uncertainty-baselines`, `baselines/cifar/sngp.py`, and in DUE.
    #[garde(range(min = 1, max = 65_536))]
    pub features: usize,
    /// Dimensions of a fixed random projection before them: 128 in uncertainty-baselines, for the 640 features of WRN-28-10.
    /// Default: no projection.
    #[garde(range(min = 1, max = 65_536))]
    pub reduction: Option<usize>,
    /// Length scale of the Gaussian kernel on features after layer normalisation, at which two images have a distance of up to
    /// 2√D. 20 in uncertainty-baselines (its random weights have deviation 0.05); 1 in DUE.
    #[garde(range(min = 1e-3, max = 1e6))]
    pub length_scale: f64,
    /// What the features are divided by before the output layer; the posterior is that of the undivided ones. Ours: with 1, as in
    /// uncertainty-baselines, or 2, as in DUE, steps at the learning rates of linear heads are too long.
    #[garde(range(min = 1e-3, max = 1e6))]
    pub feature_scale: f64,
}

impl Default for Sngp {
    fn default() -> Self {
        Self { features: 1024, reduction: None, length_scale: 20.0, feature_scale: 4.0 }
    }
}

/// A bound c on how much a layer may stretch its input: weights whose spectral norm σ is larger are divided by σ/c.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SpectralNorm {
    /// c: 3 in DDU and DUE, 6 in SNGP (uncertainty-baselines).
    #[garde(range(min = 1e-3, max = 1e6))]
    pub coefficient: f64,
}

impl Default for SpectralNorm {
    fn default() -> Self {
        Self { coefficient: 3.0 }
    }
}

/// The non-linearity of a network's layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Nonlinearity {
    /// The backbone's own: max(x, 0).
    #[default]
    Relu,
    /// x, or 0.01·x below 0 (PyTorch's slope): DDU's networks have it, so that no direction of the input is lost.
    LeakyRelu,
}

impl From<Nonlinearity> for Activation {
    fn from(nonlinearity: Nonlinearity) -> Self {
        match nonlinearity {
            Nonlinearity::Relu => Self::Relu,
            Nonlinearity::LeakyRelu => Self::LeakyRelu(0.01),
        }
    }
}

/// How a residual block that changes the shape of its input adds it to its output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Shortcut {
    /// The backbone's own: through a 1×1 convolution.
    #[default]
    Convolution,
    /// Averaged over windows of the stride, with zeros for the channels that are new: DDU's, which has no weights to bound.
    AveragePool,
}

/// The names of heads that need no settings.
const HEADS: [&str; 3] = ["linear", "duq", "sngp"];

impl<'de> Deserialize<'de> for Head {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(remote = "Head", rename_all = "snake_case")]
        enum Long {
            Linear(Empty),
            Duq(Duq),
            Sngp(Sngp),
        }
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Wrapper(#[serde(with = "Long")] Head);

        string_or_map(deserializer, "a head's name, or a map of its name and settings", variant_by_name::<Wrapper>)
            .map(|wrapper| wrapper.0)
    }
}

/// Schema transform of [`Head`]: the names, short or with settings.
fn head_names(schema: &mut Schema) {
    let long = std::mem::take(schema);
    *schema = json_schema!({ "anyOf": [{ "enum": HEADS }, long] });
}
