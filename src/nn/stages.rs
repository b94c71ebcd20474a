//! Gradients with respect to what leaves a network's stages: the taps, and the features that its head reads.
//!
//! A stage hands what leaves it to [`leaf`]. Only a pass inside [`differentiate`] adds a zero there, a variable whose gradient is
//! that of the stage's output; all others run as if this module did not exist. Nothing before the first such stage is differentiated,
//! so that a gradient with respect to the features costs no more than a plain pass.

use std::cell::RefCell;

use candle_core::{Result, Tensor, Var};

use crate::ops::{self, Activation};

/// The name of what the head reads, (N, D), beside those of the taps.
pub const PENULTIMATE: &str = "penultimate";

thread_local! {
    static PASS: RefCell<Option<Pass>> = const { RefCell::new(None) };
}

struct Pass {
    wanted: Vec<String>,
    found: Vec<Leaf>,
}

/// What left one stage, in a pass that is differentiated.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The name of the tap, or [`PENULTIMATE`].
    pub name: String,
    /// (N, C, H, W) or (N, D), without a graph.
    pub values: Tensor,
    /// A zero of the same shape. A gradient with respect to it is one with respect to `values`.
    pub variable: Tensor,
}

/// Runs a forward pass and returns the stages among `wanted` besides its result, from input to output. The result's graph begins at
/// the first of them, or at the images, if these are variables.
///
/// # Errors
/// Those of the pass.
pub fn differentiate<T>(wanted: &[String], pass: impl FnOnce() -> Result<T>) -> Result<(T, Vec<Leaf>)> {
    PASS.set(Some(Pass { wanted: wanted.to_vec(), found: Vec::new() }));
    let result = pass();
    let found = PASS.take().map(|pass| pass.found).unwrap_or_default();
    Ok((result?, found))
}

/// What leaves the stage called `name`, as its taps and the next stage are to have it.
pub(super) fn leaf(name: &str, output: Tensor) -> Result<Tensor> {
    PASS.with_borrow_mut(|pass| match pass {
        Some(pass) if pass.wanted.iter().any(|wanted| wanted == name) => {
            let variable = Var::from_tensor(&output.zeros_like()?)?.into_inner();
            let sum = ops::add(&output, &variable, Activation::Identity)?;
            pass.found.push(Leaf { name: name.to_owned(), values: output.detach(), variable });
            Ok(sum)
        }
        _ => Ok(output),
    })
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;
    use crate::nn::{self, Backbone, Mode, Shape, params::Params};

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
        for (backbone, stages) in [("lenet".into(), 3), ("resnet18_32x32".into(), 5), (tiny, 5), (narrow, 6)] {
            let backbone: Backbone = serde_json::from_value(backbone).unwrap();
            let params = Params::new(0, &Device::Cpu);
            let builder = params.builder().set_dtype(DType::F64);
            let network = nn::build(&backbone.clone().into(), shape, builder).unwrap();
            let plain = network.forward(&images, Mode::Eval).unwrap();
            let names: Vec<String> = plain.taps.keys().copied().chain([PENULTIMATE]).map(str::to_owned).collect();
            let pass = || network.forward(&images, Mode::Eval);
            let (outputs, leaves) = differentiate(&names, pass).unwrap();
            assert_eq!(leaves.iter().map(|leaf| leaf.name.clone()).collect::<Vec<_>>(), names, "{backbone:?}");
            assert_eq!(leaves.len(), stages);
            let loss = (&outputs.logits * &weights).unwrap().sum_all().unwrap();
            let gradients = loss.backward().unwrap();
            let expected = gradients.get(&images).unwrap();
            for leaf in &leaves {
                let gradient = gradients.get(&leaf.variable).unwrap();
                let output = plain.taps.get(leaf.name.as_str()).unwrap_or(&plain.features);
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
        let pass = || network.forward(&images, Mode::Eval);
        let (outputs, leaves) = differentiate(&["conv2".to_owned(), "conv9".to_owned()], pass).unwrap();
        assert_eq!(leaves.iter().map(|leaf| &leaf.name[..]).collect::<Vec<_>>(), ["conv2"]);
        assert!(outputs.taps["conv2"].track_op() && !outputs.taps["conv1"].track_op());
        assert!(!pass().unwrap().logits.track_op());
    }
}
