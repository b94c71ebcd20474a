//! A backbone and a last layer that tells classes.

use candle_nn::VarBuilder;

pub use crate::nn::Architecture as Settings;
use crate::{
    Result,
    models::Kind,
    nn::{
        self, Backbone, Model, Output, Shape,
        heads::{Gives, Head},
    },
};

impl Kind for Settings {
    fn shows(&self) -> Vec<Output> {
        let mut shown = vec![Output::Logits, Output::RawLogits];
        shown.extend(match self.head.gives() {
            Gives::LinearLogits => vec![Output::Softmax, Output::Head],
            Gives::Logits => vec![Output::Softmax],
            Gives::Kernels => vec![Output::Kernels],
        });
        shown.extend(self.backbone.shows());
        shown
    }

    fn build(&self, shape: Shape, vb: VarBuilder) -> Result<Box<dyn Model>> {
        nn::build(self, shape, vb)
    }

    fn backbone(&self) -> Option<&Backbone> {
        Some(&self.backbone)
    }

    fn label(&self, _: &str) -> String {
        let mut label = self.backbone.label();
        if self.spectral_norm.is_some() {
            label += " spectral";
        }
        if self.head != Head::default() {
            label += &format!(" {}", self.head.name());
        }
        label
    }

    fn smoke(self) -> Self {
        Self { backbone: self.backbone.smoke().unwrap_or(self.backbone), ..self }
    }
}
