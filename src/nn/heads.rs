//! The last layer of a network: what makes logits of features.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::{
    config,
    nn::{Head, Mode, duq::Duq, layers::Linear, sngp::Sngp, stages},
    ops::Activation,
};

/// The layer that `head:` of an experiment's network names.
#[derive(Debug, Clone)]
pub enum Classifier {
    /// The backbone's own.
    Linear(Linear),
    /// Kernels around centroids.
    Duq(Duq),
    /// Random features, and a linear layer without bias of them.
    Sngp(Sngp),
}

impl Classifier {
    /// From `features` to `classes`. `init` is how the weights and biases of the backbone's own linear layer start.
    pub fn new(
        head: &config::Head,
        [features, classes]: [usize; 2],
        [weight, bias]: [Init; 2],
        vb: &VarBuilder,
    ) -> Result<Self> {
        match head {
            config::Head::Duq(settings) => Ok(Self::Duq(Duq::new(settings, [features, classes], vb)?)),
            config::Head::Linear(_) => Ok(Self::Linear(Linear::with_init([features, classes], weight, bias, vb)?)),
            config::Head::Sngp(settings) => Ok(Self::Sngp(Sngp::new(settings, [features, classes], vb)?)),
        }
    }

    /// Of what the backbone gives, (N, features): logits (N, classes) and the features that detectors see (N, D).
    pub fn forward(&self, features: Tensor, mode: Mode) -> Result<(Tensor, Tensor)> {
        let features = stages::leaf(stages::PENULTIMATE, features)?;
        match self {
            Self::Linear(linear) => Ok((linear.forward(&features, Activation::Identity, mode)?, features)),
            Self::Duq(duq) => Ok((duq.forward(&features, mode)?, features)),
            Self::Sngp(sngp) => sngp.forward(&features, mode),
        }
    }

    /// As [`Network::head`](crate::nn::Network::head).
    pub fn head(&self) -> Option<Head> {
        match self {
            Self::Linear(linear) => Some(linear.head()),
            Self::Duq(_) | Self::Sngp(_) => None,
        }
    }

    /// As [`Network::after_step`](crate::nn::Network::after_step); `features` is asked for if it is needed.
    pub fn after_step(&self, labels: &Tensor, features: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        match self {
            Self::Linear(_) | Self::Sngp(_) => Ok(()),
            Self::Duq(duq) => duq.update(&features()?, labels),
        }
    }
}
