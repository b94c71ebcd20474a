//! The last layer of a network: what makes logits of features.

use std::{fmt, sync::Arc};

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::{
    nn::{Pass, backbone::LastLayerOf, duq, elogitnorm, linear, pass::PENULTIMATE, sngp, t2fnorm},
    yaml::registry::registry,
};

/// What a head is, as its settings say.
pub trait HeadFamily: Sized + Clone + 'static {
    /// Short names and the settings that they stand for.
    const PRESETS: &[(&str, Self)] = &[];
    /// What it gives.
    const GIVES: Gives;

    /// The layer from features to `classes`. `own` is the backbone's own linear layer.
    ///
    /// # Errors
    /// If the parameters are not there or have other shapes.
    fn build(&self, own: &LastLayerOf, classes: usize, vb: &VarBuilder) -> Result<Box<dyn LastLayer>>;
}

/// What a head gives of the features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gives {
    /// Logits of a softmax, linear in the features.
    LinearLogits,
    /// Logits of a softmax.
    Logits,
    /// ln K of a kernel for each class, which do not exclude each other.
    Kernels,
}

registry! {
    /// The layer between features and logits: a name (`linear`), or a name with its settings.
    pub enum Head: HeadFamily, "a head's name, or a map of its name and settings" {
        /// A linear layer: the default, the backbone's own.
        Linear = "linear" in linear,
        /// DUQ's (van Amersfoort et al. 2020): kernels around a centroid for each class, to be learned with
        /// `loss: { binary_cross_entropy: {}, gradient_penalty: { weight: 0.5 } }`.
        Duq = "duq" in duq,
        /// SNGP's (Liu et al. 2020): a Gaussian process by random Fourier features, whose output layer alone is learned. For the
        /// detector `sngp`.
        Sngp = "sngp" in sngp,
        /// T2FNorm's (Regmi et al. 2024): features of one length while the network learns, and of their own afterwards.
        T2fnorm = "t2fnorm" in t2fnorm,
        /// ELogitNorm's (Ding et al. 2026): logits divided by the distance from the decision boundaries while the network learns.
        Elogitnorm = "elogitnorm" in elogitnorm,
    }
}

impl Default for Head {
    fn default() -> Self {
        Self::Linear(linear::Settings::default())
    }
}

impl Head {
    /// As [`HeadFamily::GIVES`].
    pub fn gives(&self) -> Gives {
        fn of<F: HeadFamily>(_: &F) -> Gives {
            F::GIVES
        }
        of_settings!(self, settings => of(settings))
    }
}

/// A layer that makes logits of features.
pub trait LastLayer: fmt::Debug + Send + Sync {
    /// Of (N, features): logits (N, classes) and the features that detectors see (N, D).
    ///
    /// # Errors
    /// If the features have another size.
    fn forward(&self, features: Tensor, pass: &Pass) -> Result<(Tensor, Tensor)>;

    /// The layer, if it is linear.
    fn linear(&self) -> Option<super::Head> {
        None
    }

    /// As [`Model::after_step`](super::Model::after_step); `features` is asked for if it is needed.
    ///
    /// # Errors
    /// If shapes do not fit.
    fn after_step(&self, _labels: &Tensor, _features: &dyn Fn() -> Result<Tensor>) -> Result<()> {
        Ok(())
    }
}

/// The layer that `head:` of an experiment's network names.
#[derive(Debug, Clone)]
pub struct HeadLayer(Arc<dyn LastLayer>);

impl HeadLayer {
    /// As [`HeadFamily::build`].
    ///
    /// # Errors
    /// If the parameters are not there or have other shapes.
    pub fn new(head: &Head, own: &LastLayerOf, classes: usize, vb: &VarBuilder) -> Result<Self> {
        let layer = of_settings!(head, settings => settings.build(own, classes, vb))?;
        Ok(Self(layer.into()))
    }

    /// A layer as it is.
    pub(super) fn of(layer: impl LastLayer + 'static) -> Self {
        Self(Arc::new(layer))
    }

    /// As [`LastLayer::forward`].
    ///
    /// # Errors
    /// If the features have another size.
    pub fn forward(&self, features: Tensor, pass: &Pass) -> Result<(Tensor, Tensor)> {
        self.0.forward(pass.stage(PENULTIMATE, features)?, pass)
    }

    /// As [`Model::head`](super::Model::head).
    pub fn linear(&self) -> Option<super::Head> {
        self.0.linear()
    }

    /// As [`LastLayer::after_step`].
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn after_step(&self, labels: &Tensor, features: &dyn Fn() -> Result<Tensor>) -> Result<()> {
        self.0.after_step(labels, features)
    }
}
