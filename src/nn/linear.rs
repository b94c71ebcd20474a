//! The usual head: a linear layer, with the backbone's names and first values.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::{
    nn::{
        Head, Pass,
        backbone::LastLayerOf,
        heads::{Gives, HeadFamily, HeadLayer, LastLayer},
        layers::Linear,
    },
    ops::Activation,
    yaml::registry::no_settings,
};

no_settings!();

impl HeadFamily for Settings {
    const GIVES: Gives = Gives::LinearLogits;

    fn build(&self, own: &LastLayerOf, classes: usize, vb: &VarBuilder) -> Result<Box<dyn LastLayer>> {
        Ok(Box::new(of_backbone(own, classes, vb)?))
    }
}

/// The backbone's own last layer.
pub(super) fn of_backbone(own: &LastLayerOf, classes: usize, vb: &VarBuilder) -> Result<Linear> {
    let (sizes, [weight, bias]) = ([own.features, classes], own.init);
    match own.scale {
        None => Linear::with_init(sizes, weight, bias, vb),
        Some(scale) => Linear::scaled(sizes, weight, scale, vb),
    }
}

impl LastLayer for Linear {
    fn forward(&self, features: Tensor, pass: &Pass) -> Result<(Tensor, Tensor)> {
        Ok((self.forward(&features, Activation::Identity, pass)?, features))
    }

    fn linear(&self) -> Option<Head> {
        Some(self.head())
    }
}

impl From<Linear> for HeadLayer {
    fn from(layer: Linear) -> Self {
        Self::of(layer)
    }
}
