//! A classifier: a backbone's features, and a last layer that makes logits of them.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::nn::{
    Architecture, Head, Model, Pass, Shape, Shown, backbone::Extractor, heads::HeadLayer, standard::Survey,
};

/// A backbone and its head.
#[derive(Debug)]
pub struct Classifier {
    backbone: Box<dyn Extractor>,
    head: HeadLayer,
}

impl Classifier {
    /// As [`nn::build`](super::build).
    pub(super) fn new(architecture: &Architecture, shape: Shape, vb: &VarBuilder) -> crate::Result<Self> {
        let backbone = architecture.backbone.build(architecture, shape, vb.clone())?;
        let own = backbone.last_layer(shape.classes);
        let head = HeadLayer::new(&architecture.head, &own, shape.classes, &vb.pp(own.name))?;
        Ok(Self { backbone, head })
    }
}

impl Model for Classifier {
    fn show(&self, images: &Tensor, pass: &Pass) -> Result<Shown> {
        let (features, stages) = self.backbone.extract(images, pass)?;
        let (logits, features) = self.head.forward(features, pass)?;
        let (logits, features) = (Some(logits), Some(features));
        let (layers, leaves) = (pass.take_layers(), pass.take_leaves());
        Ok(Shown { logits, features, stages, layers, leaves, ..Shown::default() })
    }

    fn head(&self) -> Option<Head> {
        self.head.linear()
    }

    fn survey(&self) -> Option<Survey<'_>> {
        self.backbone.survey()
    }

    fn after_step(&self, images: &Tensor, labels: &Tensor) -> Result<()> {
        self.head.after_step(labels, &|| Ok(self.show(images, &Pass::eval())?.features()?.clone()))
    }

    fn folded(&self) -> Result<Box<dyn Model>> {
        Ok(Box::new(Self { backbone: self.backbone.folded()?, head: self.head.clone() }))
    }
}
