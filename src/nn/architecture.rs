//! What a network is: its backbone, its last layer and the constraints on the others.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    nn::{backbone::Backbone, heads::Head, spectral_norm},
    ops::Activation,
    yaml::named::is_default,
};

/// A network's architecture: the keys of a network that say how it is built, defaults filled in.
///
/// As JSON it is part of the network's identity. What is as in the plain network is left out, so that a plain network's identity
/// is what it was before there were other ones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// The layers up to the features.
    #[garde(dive)]
    pub backbone: Backbone,
    /// The layer after the features. Default: the backbone's linear layer.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "is_default")]
    pub head: Head,
    /// A bound on the spectral norm of every convolution and linear layer but the head. Default: none.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "is_default")]
    pub spectral_norm: Option<spectral_norm::Settings>,
    /// The non-linearity of all layers. Default: the backbone's.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "is_default")]
    pub activation: Nonlinearity,
    /// What stands beside the residual blocks that change the shape. Default: the backbone's.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "is_default")]
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
