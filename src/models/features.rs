//! A backbone without a last layer: its features and stages, for detectors that learn of them.

use candle_core::Tensor;
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Result,
    models::{Kind, ModelConfig},
    nn::{Backbone, Model, Output, Pass, Shape, Shown, backbone::Extractor, pass::PENULTIMATE},
};

/// Settings of frozen features.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Features")]
pub struct Settings {
    /// The layers.
    #[garde(dive)]
    pub backbone: Backbone,
}

impl Kind for Settings {
    fn shows(&self) -> Vec<Output> {
        self.backbone.shows()
    }

    fn build(&self, shape: Shape, vb: VarBuilder) -> Result<Box<dyn Model>> {
        Ok(Box::new(Features(self.backbone.extractor(shape, vb)?)))
    }

    fn backbone(&self) -> Option<&Backbone> {
        Some(&self.backbone)
    }

    fn label(&self, _: &str) -> String {
        format!("{} features", self.backbone.label())
    }

    fn learning(&self) -> Option<ModelConfig> {
        Some(ModelConfig::Classifier(self.backbone.clone().into()))
    }

    fn smoke(self) -> Self {
        Self { backbone: self.backbone.smoke().unwrap_or(self.backbone) }
    }
}

/// A backbone's layers.
#[derive(Debug)]
struct Features(Box<dyn Extractor>);

impl Model for Features {
    fn show(&self, images: &Tensor, pass: &Pass) -> candle_core::Result<Shown> {
        let (features, stages) = self.0.extract(images, pass)?;
        let features = Some(pass.stage(PENULTIMATE, features)?);
        Ok(Shown { features, stages, layers: pass.take_layers(), leaves: pass.take_leaves(), ..Shown::default() })
    }

    fn folded(&self) -> candle_core::Result<Box<dyn Model>> {
        Ok(Box::new(Self(self.0.folded()?)))
    }
}
