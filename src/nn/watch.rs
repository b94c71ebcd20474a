//! The neurons of a network: every layer's values before or after its non-linearity, gathered during a forward pass.
//!
//! A layer that ends with an activation hands its work to [`activate`]; only a pass inside [`watch`] keeps the values, all
//! others run as if this module did not exist. What stands after the non-linearity is a function of what stands before it,
//! so that one pass [before](Side::Before) serves detectors of either; a pass [after](Side::After) is quicker.

use std::cell::RefCell;

use candle_core::{Result, Tensor};

use crate::{
    nn::gates,
    ops::{self, Activation},
};

thread_local! {
    /// The side, and the layers seen so far, in a pass that is watched.
    static WATCHED: RefCell<Option<(Side, Vec<Layer>)>> = const { RefCell::new(None) };
}

/// Where a layer's values are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Before the non-linearity. Layers that compute it on the way are taken apart for it.
    Before,
    /// After it.
    After,
}

/// One layer's neurons on a batch of images.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The PyTorch name of the module that computes `values`: `conv1`, `features.1`, `block1.layer.0.bn2`.
    pub name: String,
    /// (N, C, H, W) or (N, D) f32, without a graph.
    pub values: Tensor,
    /// The non-linearity that follows; the identity where `values` stand after it, and after the last linear layer.
    pub activation: Activation,
}

/// Runs a forward pass and returns every layer's neurons besides its result, from input to output. On the CPU, the results are those of
/// an unwatched pass to the bit; on a GPU, to rounding.
///
/// # Errors
/// Those of the pass.
pub fn watch<T>(side: Side, pass: impl FnOnce() -> Result<T>) -> Result<(T, Vec<Layer>)> {
    WATCHED.set(Some((side, Vec::new())));
    let result = pass();
    let layers = WATCHED.take().map(|(_, layers)| layers).unwrap_or_default();
    Ok((result?, layers))
}

/// `layer(activation)`; in a pass that is watched, with the values of the side kept.
pub(super) fn activate(
    name: &str,
    activation: Activation,
    layer: impl FnOnce(Activation) -> Result<Tensor>,
) -> Result<Tensor> {
    match side().filter(|_| activation != Activation::Identity) {
        None => gates::activate(activation, layer),
        Some(Side::Before) => {
            let values = layer(Activation::Identity)?;
            keep(name, &values, activation);
            gates::activate(activation, |activation| ops::activate(&values, activation))
        }
        Some(Side::After) => {
            let values = gates::activate(activation, layer)?;
            keep(name, &values, Activation::Identity);
            Ok(values)
        }
    }
}

/// Keeps a layer's values, which stand before `activation`, if the pass is watched.
pub(super) fn note(name: &str, values: &Tensor, activation: Activation) -> Result<()> {
    match side() {
        None => {}
        Some(Side::Before) => keep(name, values, activation),
        Some(Side::After) => keep(name, &ops::activate(&values.detach(), activation)?, Activation::Identity),
    }
    Ok(())
}

fn side() -> Option<Side> {
    WATCHED.with_borrow(|watched| watched.as_ref().map(|(side, _)| *side))
}

fn keep(name: &str, values: &Tensor, activation: Activation) {
    WATCHED.with_borrow_mut(|watched| {
        if let Some((_, layers)) = watched {
            layers.push(Layer { name: name.to_owned(), values: values.detach(), activation });
        }
    });
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use candle_core::{DType, Device};

    use super::*;
    use crate::nn::{self, Backbone, Mode, Shape, params::Params};

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
            let (watched, seen) = watch(Side::Before, || network.forward(&images, Mode::Eval)).unwrap();
            assert_eq!(largest_difference(&plain.logits, &watched.logits), 0.0, "{backbone:?}");
            assert_eq!(largest_difference(&plain.features, &watched.features), 0.0, "{backbone:?}");
            assert_eq!(seen.len(), layers, "{:?}", seen.iter().map(|layer| &layer.name).collect::<Vec<_>>());
            let names: BTreeSet<&String> = seen.iter().map(|layer| &layer.name).collect();
            assert_eq!(names.len(), seen.len(), "{names:?}");
            let last = seen.last().unwrap();
            assert_eq!(last.activation, Activation::Identity);
            assert_eq!(largest_difference(&last.values, &watched.logits), 0.0);
            assert!(seen.iter().all(|layer| layer.values.dtype() == DType::F32 && layer.values.dims()[0] == 2));

            let (watched, after) = watch(Side::After, || network.forward(&images, Mode::Eval)).unwrap();
            assert_eq!(largest_difference(&plain.logits, &watched.logits), 0.0, "{backbone:?}");
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
        let (outputs, layers) = watch(Side::Before, || network.forward(&images, Mode::Eval)).unwrap();
        let fc2 = layers.iter().find(|layer| layer.name == "fc2").unwrap();
        assert!(fc2.values.min_all().unwrap().to_scalar::<f32>().unwrap() < 0.0);
        let features = ops::activate(&fc2.values, fc2.activation).unwrap();
        assert_eq!(largest_difference(&features, &outputs.features), 0.0);
    }
}
