use std::collections::BTreeSet;

use candle_core::{DType, Device};

use super::*;
use crate::nn::{self, Backbone, Shape, params::Params};

fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
    (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
}

#[test]
fn every_architecture_shows_its_neurons_and_computes_the_same() {
    let shape = Shape { channels: 3, height: 32, width: 32, classes: 4 };
    let images = Tensor::arange(0f32, (2 * 3 * 32 * 32) as f32, &Device::Cpu).unwrap();
    let images = (images.sin().unwrap()).reshape((2, 3, 32, 32)).unwrap();
    let tiny = serde_json::json!({ "wide_resnet": { "depth": 10, "width": 1 } });
    let swin =
        serde_json::json!({ "swin": { "width": 4, "depths": [2, 1, 1, 1], "heads": [1, 2, 2, 4], "window": 4 } });
    let backbones = ["lenet", "resnet18_32x32", "efficientnet_lite0", "vgg19_bn"].map(serde_json::Value::from);
    for (backbone, layers) in backbones.into_iter().chain([tiny, swin]).zip([5, 18, 34, 17, 8, 7]) {
        let backbone: Backbone = serde_json::from_value(backbone).unwrap();
        let params = Params::new(0, &Device::Cpu);
        let network = nn::build(&backbone.clone().into(), shape, params.builder()).unwrap();
        let network = network.folded().unwrap();
        let plain = network.show(&images, &Pass::eval()).unwrap();
        let pass = Pass::eval().keeping_layers(Side::Before);
        let watched = network.show(&images, &pass).unwrap();
        let seen = watched.layers.clone();
        assert_eq!(largest_difference(plain.logits().unwrap(), watched.logits().unwrap()), 0.0, "{backbone:?}");
        assert_eq!(largest_difference(plain.features().unwrap(), watched.features().unwrap()), 0.0, "{backbone:?}");
        assert_eq!(seen.len(), layers, "{:?}", seen.iter().map(|layer| &layer.name).collect::<Vec<_>>());
        let names: BTreeSet<&String> = seen.iter().map(|layer| &layer.name).collect();
        assert_eq!(names.len(), seen.len(), "{names:?}");
        let last = seen.last().unwrap();
        assert_eq!(last.activation, Activation::Identity);
        assert_eq!(largest_difference(&last.values, watched.logits().unwrap()), 0.0);
        assert!(seen.iter().all(|layer| layer.values.dtype() == DType::F32 && layer.values.dims()[0] == 2));

        let pass = Pass::eval().keeping_layers(Side::After);
        let watched = network.show(&images, &pass).unwrap();
        let after = watched.layers.clone();
        assert_eq!(largest_difference(plain.logits().unwrap(), watched.logits().unwrap()), 0.0, "{backbone:?}");
        assert_eq!(after.len(), seen.len());
        for (before, after) in seen.iter().zip(&after) {
            assert_eq!((&before.name, after.activation), (&after.name, Activation::Identity));
            let activated = ops::activate(&before.values, before.activation).unwrap();
            assert_eq!(largest_difference(&activated, &after.values), 0.0, "{}", before.name);
        }
    }
}

/// Layers of a watched pass chain: what follows ReLU and pool of the first convolution goes into the second.
#[test]
fn values_are_those_before_the_non_linearity() {
    let shape = Shape { channels: 1, height: 28, width: 28, classes: 10 };
    let params = Params::new(0, &Device::Cpu);
    let network = nn::build(&Backbone::by_name("lenet").unwrap().into(), shape, params.builder()).unwrap();
    let images = Tensor::ones((1, 1, 28, 28), DType::F32, &Device::Cpu).unwrap();
    let pass = Pass::eval().keeping_layers(Side::Before);
    let outputs = network.show(&images, &pass).unwrap();
    let layers = outputs.layers.clone();
    let fc2 = layers.iter().find(|layer| layer.name == "fc2").unwrap();
    assert!(fc2.values.min_all().unwrap().to_scalar::<f32>().unwrap() < 0.0);
    let features = ops::activate(&fc2.values, fc2.activation).unwrap();
    assert_eq!(largest_difference(&features, outputs.features().unwrap()), 0.0);
}

/// By the chain rule: the gradient with respect to the images is what that of a stage through which everything passes becomes on
/// its way through the layers before it.
#[test]
fn gradients_of_stages_are_part_of_those_of_the_images() {
    let shape = Shape { channels: 3, height: 32, width: 32, classes: 4 };
    let images = Tensor::arange(0f64, (2 * 3 * 32 * 32) as f64, &Device::Cpu).unwrap();
    let images = Var::from_tensor(&images.sin().unwrap().reshape((2, 3, 32, 32)).unwrap()).unwrap();
    let weights = Tensor::new(&[[1.0, -2.0, 0.5, 0.25], [-1.0, 0.0, 3.0, 1.0]], &Device::Cpu).unwrap();
    let tiny = serde_json::json!({ "wide_resnet": { "depth": 10, "width": 1 } });
    let narrow = serde_json::json!({ "vgg19_bn": { "width": 2 } });
    let swin =
        serde_json::json!({ "swin": { "width": 4, "depths": [2, 1, 1, 1], "heads": [1, 2, 2, 4], "window": 4 } });
    for (backbone, stages) in [("lenet".into(), 3), ("resnet18_32x32".into(), 5), (tiny, 5), (narrow, 6), (swin, 5)] {
        let backbone: Backbone = serde_json::from_value(backbone).unwrap();
        let params = Params::new(0, &Device::Cpu);
        let builder = params.builder().set_dtype(DType::F64);
        let network = nn::build(&backbone.clone().into(), shape, builder).unwrap();
        let plain = network.show(&images, &Pass::eval()).unwrap();
        let names: Vec<String> = plain.stage_names().chain([PENULTIMATE]).map(str::to_owned).collect();
        let pass = Pass::eval().differentiating(&names);
        let outputs = network.show(&images, &pass).unwrap();
        let leaves = outputs.leaves.clone();
        assert_eq!(leaves.iter().map(|leaf| leaf.name.clone()).collect::<Vec<_>>(), names, "{backbone:?}");
        assert_eq!(leaves.len(), stages);
        let loss = (outputs.logits().unwrap() * &weights).unwrap().sum_all().unwrap();
        let gradients = loss.backward().unwrap();
        let expected = gradients.get(&images).unwrap();
        for leaf in &leaves {
            let gradient = gradients.get(&leaf.variable).unwrap();
            let output = plain.stage(&leaf.name).unwrap_or(plain.features().unwrap());
            let through = (output * gradient).unwrap().sum_all().unwrap().backward().unwrap();
            let difference = (through.get(&images).unwrap() - expected).unwrap().abs().unwrap().max_all().unwrap();
            let largest = expected.abs().unwrap().max_all().unwrap().to_scalar::<f64>().unwrap();
            let difference = difference.to_scalar::<f64>().unwrap();
            assert!(difference <= 1e-12 * largest, "{backbone:?} {}: {difference} of {largest}", leaf.name);
        }
    }
}

#[test]
fn what_is_not_wanted_is_not_differentiated() {
    let shape = Shape { channels: 1, height: 28, width: 28, classes: 10 };
    let params = Params::new(0, &Device::Cpu);
    let network = nn::build(&Backbone::by_name("lenet").unwrap().into(), shape, params.builder()).unwrap();
    let images = Tensor::ones((1, 1, 28, 28), DType::F32, &Device::Cpu).unwrap();
    let pass = Pass::eval().differentiating(&["conv2".to_owned(), "conv9".to_owned()]);
    let outputs = network.show(&images, &pass).unwrap();
    let leaves = outputs.leaves.clone();
    assert_eq!(leaves.iter().map(|leaf| &leaf.name[..]).collect::<Vec<_>>(), ["conv2"]);
    assert!(outputs.stage("conv2").unwrap().track_op() && !outputs.stage("conv1").unwrap().track_op());
    assert!(!network.show(&images, &Pass::eval()).unwrap().logits().unwrap().track_op());
}
