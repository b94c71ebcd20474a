//! The neurons of a network: every layer's values before its non-linearity, gathered during a forward pass.
//!
//! A layer that ends with an activation hands its work to [`activate`]; only a pass inside [`watch`] keeps the values, all
//! others run as if this module did not exist. What stands after the non-linearity is a function of what stands before it,
//! so that one pass serves detectors of either.

use std::cell::RefCell;

use candle_core::{Result, Tensor};

use crate::{
    nn::gates,
    ops::{self, Activation},
};

thread_local! {
    /// The layers seen so far, in a pass that is watched.
    static LAYERS: RefCell<Option<Vec<Layer>>> = const { RefCell::new(None) };
}

/// One layer's neurons on a batch of images.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The PyTorch name of the module that computes `values`: `conv1`, `features.1`, `block1.layer.0.bn2`.
    pub name: String,
    /// (N, C, H, W) or (N, D) f32, before the non-linearity, without a graph.
    pub values: Tensor,
    /// The non-linearity that follows; identity after the last linear layer.
    pub activation: Activation,
}

/// Runs a forward pass and returns every layer's neurons besides its result, from input to output. The passes that compute
/// several layers at once are taken apart for it: on the CPU, the results are those of an unwatched pass to the bit; on a GPU, to rounding.
///
/// # Errors
/// Those of the pass.
pub fn watch<T>(pass: impl FnOnce() -> Result<T>) -> Result<(T, Vec<Layer>)> {
    LAYERS.set(Some(Vec::new()));
    let result = pass();
    let layers = LAYERS.take().unwrap_or_default();
    Ok((result?, layers))
}

/// `layer(activation)`; in a pass that is watched, `layer` with the identity, whose result is kept, and then `activation`.
pub(super) fn activate(
    name: &str,
    activation: Activation,
    layer: impl FnOnce(Activation) -> Result<Tensor>,
) -> Result<Tensor> {
    if activation == Activation::Identity || LAYERS.with_borrow(Option::is_none) {
        return gates::activate(activation, layer);
    }
    let values = layer(Activation::Identity)?;
    note(name, &values, activation);
    gates::activate(activation, |activation| ops::activate(&values, activation))
}

/// Keeps a layer's values, if the pass is watched.
pub(super) fn note(name: &str, values: &Tensor, activation: Activation) {
    LAYERS.with_borrow_mut(|layers| {
        if let Some(layers) = layers {
            layers.push(Layer { name: name.to_owned(), values: values.detach(), activation });
        }
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use candle_core::{DType, Device};

    use super::*;
    use crate::{
        config::Backbone,
        nn::{self, Mode, Shape, params::Params},
    };

    fn largest_difference(a: &Tensor, b: &Tensor) -> f32 {
        (a - b).unwrap().abs().unwrap().max_all().unwrap().to_scalar().unwrap()
    }

    #[test]
    fn every_architecture_shows_its_neurons_and_computes_the_same() {
        let shape = Shape { channels: 3, height: 32, width: 32, classes: 4 };
        let images = Tensor::arange(0f32, (2 * 3 * 32 * 32) as f32, &Device::Cpu).unwrap();
        let images = (images.sin().unwrap()).reshape((2, 3, 32, 32)).unwrap();
        let tiny = serde_json::json!({ "wide_resnet": { "depth": 10, "width": 1 } });
        let backbones = ["lenet", "resnet18_32x32", "efficientnet_lite0", "vgg19_bn"].map(serde_json::Value::from);
        for (backbone, layers) in backbones.into_iter().chain([tiny]).zip([5, 18, 34, 17, 8]) {
            let backbone: Backbone = serde_json::from_value(backbone).unwrap();
            let params = Params::new(0, &Device::Cpu);
            let network = nn::build(&backbone.clone().into(), shape, params.builder()).unwrap();
            let network = network.folded().unwrap();
            let plain = network.forward(&images, Mode::Eval).unwrap();
            let (watched, seen) = watch(|| network.forward(&images, Mode::Eval)).unwrap();
            assert_eq!(largest_difference(&plain.logits, &watched.logits), 0.0, "{backbone:?}");
            assert_eq!(largest_difference(&plain.features, &watched.features), 0.0, "{backbone:?}");
            assert_eq!(seen.len(), layers, "{:?}", seen.iter().map(|layer| &layer.name).collect::<Vec<_>>());
            let names: BTreeSet<&String> = seen.iter().map(|layer| &layer.name).collect();
            assert_eq!(names.len(), seen.len(), "{names:?}");
            let last = seen.last().unwrap();
            assert_eq!(last.activation, Activation::Identity);
            assert_eq!(largest_difference(&last.values, &watched.logits), 0.0);
            assert!(seen.iter().all(|layer| layer.values.dtype() == DType::F32 && layer.values.dims()[0] == 2));
        }
    }

    /// Layers of a watched pass chain: what follows ReLU and pool of the first convolution goes into the second.
    #[test]
    fn values_are_those_before_the_non_linearity() {
        let shape = Shape { channels: 1, height: 28, width: 28, classes: 10 };
        let params = Params::new(0, &Device::Cpu);
        let network = nn::build(&Backbone::by_name("lenet").unwrap().into(), shape, params.builder()).unwrap();
        let images = Tensor::ones((1, 1, 28, 28), DType::F32, &Device::Cpu).unwrap();
        let (outputs, layers) = watch(|| network.forward(&images, Mode::Eval)).unwrap();
        let fc2 = layers.iter().find(|layer| layer.name == "fc2").unwrap();
        assert!(fc2.values.min_all().unwrap().to_scalar::<f32>().unwrap() < 0.0);
        let features = ops::activate(&fc2.values, fc2.activation).unwrap();
        assert_eq!(largest_difference(&features, &outputs.features), 0.0);
    }
}
