//! OpenOOD's ResNet-18 for small images: see [`resnet`](super::resnet).

use candle_nn::VarBuilder;

use crate::{
    nn::{
        Shape,
        architecture::Architecture,
        backbone::{Backbone, Extractor, Family},
        resnet::{self, ResNet},
        wide_resnet,
    },
    yaml::registry::no_settings,
};

no_settings!();

impl Family for Settings {
    // Its published weights are OpenOOD's, with CIFAR-10's statistics for CIFAR-10 and CIFAR-100's for CIFAR-100.

    fn build(&self, architecture: &Architecture, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Extractor>> {
        Ok(Box::new(ResNet::small(architecture, shape, vb)?))
    }

    fn stages(&self, size: [usize; 2]) -> Vec<(String, [usize; 3])> {
        resnet::stages(&resnet::Form::small(), size)
    }

    fn elsewhere(&self, channels: usize, classes: usize) -> Option<String> {
        (channels == 3).then(|| format!("openood.networks.ResNet18_32x32(num_classes={classes})"))
    }

    fn our_name(&self, theirs: &str) -> Option<String> {
        // Many CIFAR networks are copies of kuangliu/pytorch-cifar, some are timm's with another stem.
        match theirs.strip_prefix("linear.") {
            Some(rest) => Some(format!("fc.{rest}")),
            None => Some(theirs.replace(".downsample.", ".shortcut.")),
        }
    }

    fn smoke(&self) -> Option<Backbone> {
        // It has no width: the smallest network of its kind stands for it.
        Some(Backbone::WideResnet(wide_resnet::Settings { depth: 10, width: 1, dropout: 0.0 }))
    }

    fn layer_in_smoke(&self, layer: &str) -> String {
        layer.replace("layer", "block")
    }
}
