//! The usual head: a linear layer, with the backbone's names and first values.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::{
    nn::{
        Head, Pass,
        heads::{Gives, HeadFamily, HeadLayer, LastLayer},
        layers::Linear,
    },
    ops::Activation,
    yaml::registry::no_settings,
};

no_settings!();

impl HeadFamily for Settings {
    const GIVES: Gives = Gives::LinearLogits;

    fn build(&self, sizes: [usize; 2], [weight, bias]: [Init; 2], vb: &VarBuilder) -> Result<Box<dyn LastLayer>> {
        Ok(Box::new(Linear::with_init(sizes, weight, bias, vb)?))
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
