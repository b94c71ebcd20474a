//! DUQ's two-sided gradient penalty: the sum of an image's kernels shall change with the image, neither faster nor slower than
//! at slope 1, so that what is far from the training images is far in feature space.
//!
//! value P = mean_i (‖g_i‖₂ − 1)² with g = ∇_x S and S = Σ_{i,c} K_c(x_i), the sum over the batch.
//!
//! - Paper: van Amersfoort et al., ICML 2020, <https://arxiv.org/abs/2003.02037>, eq. 5.
//! - Reference code: `y0ast/deterministic-uncertainty-quantification`, `calc_gradient_penalty` (two-sided; of the sum over the
//!   batch, in training mode).
//! - Deviations: how the gradient is computed, below; at g_i = 0 the norm has gradient 0, as in PyTorch.
//!
//! The gradient of P with respect to the weights w needs that of g, a second derivative, which candle does not have. With the
//! constant v = ∂P/∂g it is a derivative along v:
//!
//! ```text
//! ∂P/∂w = Σ_i v_i · ∂g_i/∂w = ∂/∂w [v · ∇_x S] ≈ ∂/∂w [S(x + εv) − S(x − εv)] / 2ε
//! ```
//!
//! Two more passes forward and backward, whose error falls with ε². They repeat the choices of the first pass (the sides of
//! activations, the places of maxima: see [`nn::choices`](crate::nn::choices)), because differentiating twice holds them fixed: a
//! ReLU that changed its side between x − εv and x + εv would add the jump of its gradient divided by ε. They draw the same
//! dropout masks, have batch statistics of their own, as differentiating through them has, and leave running ones alone.

use candle_core::{DType, Result, Tensor, Var};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value},
    nn::{Mode, Model, Output, Pass, Precision, Shown, choices::Choices},
    yaml::limits::MOST_WEIGHT,
};

/// Mean over the batch of (‖∇ₓ Σ_c K_c‖₂ − 1)² (van Amersfoort et al. 2020, eq. 5). A step takes some four times as long with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "GradientPenalty")]
pub struct Settings {
    /// λ: 0.5 in the reference's instructions for CIFAR-10; it was chosen from 0 to 1 by the AUROC on NotMNIST for Fashion-MNIST.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
}

impl Term for Settings {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn needs(&self) -> &'static [Output] {
        &[Output::Kernels]
    }

    fn looks_at_images(&self) -> bool {
        true
    }

    fn refuses(&self, precision: Precision) -> Option<&'static str> {
        (precision == Precision::Bf16)
            .then_some("its gradient is a difference, which bfloat16 has too few digits for: use `precision: f32`")
    }

    fn value(&self, _: &[u32], _: usize) -> crate::Result<Value> {
        let difference = (self.weight > 0.0).then_some(STEP);
        Ok(Box::new(move |step| match step.trace {
            Some(trace) => trace.gradient_penalty(step.shown, difference),
            None => candle_core::bail!("the gradient penalty needs the pass that led to the outputs"),
        }))
    }
}

/// The largest change that εv makes to an image's S, to first order, and to the image, in L2: ours. Half of it or twice as much
/// changes f32 gradients of LeNet by less than three times what rounding does, 2·10⁻⁴ of them at most: see `tests/duq.rs`.
pub const STEP: f64 = 0.01;

/// How a network came to its outputs: what it takes to look at other images with the same choices.
pub struct Trace<'a> {
    model: &'a dyn Model,
    images: Tensor,
    mode: Mode,
    choices: Choices,
}

impl<'a> Trace<'a> {
    /// The outputs on `images`, whose graph begins at the images, and how they came about.
    ///
    /// # Errors
    /// Those of the network.
    pub fn forward(model: &'a dyn Model, images: &Tensor, mode: Mode) -> Result<(Shown, Self)> {
        let images = Var::from_tensor(&images.detach())?.into_inner();
        let pass = Pass::new(mode).recording();
        let shown = model.show(&images, &pass)?;
        Ok((shown, Self { model, images, mode, choices: pass.take_choices() }))
    }

    /// S at images moved by `sign` times `by`.
    fn sum_of_kernels(&self, by: &[f64], sign: f64) -> Result<Tensor> {
        let moved = numbers(&self.images)?.into_iter().zip(by).map(|(x, by)| x + sign * by);
        let (shape, device) = (self.images.shape(), self.images.device());
        let moved = match self.images.dtype() {
            DType::F32 => Tensor::from_iter(moved.map(|x| x as f32), device)?,
            _ => Tensor::from_iter(moved, device)?,
        };
        let moved = moved.reshape(shape)?;
        let pass = Pass::new(self.mode).repeating(&self.choices);
        let shown = self.model.show(&moved, &pass)?;
        pass.all_repeated()?;
        shown.logits()?.exp()?.sum_all()
    }

    /// The penalty of the outputs that came with this pass, whose logits are ln K: a scalar. Its gradient is with respect to the
    /// weights and comes from differences of this `step`, usually [`STEP`]; without one it has none and costs a pass backward.
    ///
    /// # Errors
    /// Those of the network, or if the outputs are not of this pass.
    pub fn gradient_penalty(&self, shown: &Shown, step: Option<f64>) -> Result<Tensor> {
        let gradients = shown.logits()?.exp()?.sum_all()?.backward()?;
        let Some(g) = gradients.get(&self.images) else {
            candle_core::bail!("gradient_penalty: the outputs do not depend on the images of their pass")
        };
        let (dtype, device) = (g.dtype(), g.device());
        let g = numbers(g)?;
        let count = self.images.dim(0)?;
        let rows = || g.chunks_exact(g.len() / count);
        let norms: Vec<f64> = rows().map(|g| g.iter().map(|g| g * g).sum::<f64>().sqrt()).collect();
        let value = norms.iter().map(|norm| (norm - 1.0) * (norm - 1.0)).sum::<f64>() / count as f64;
        let value = Tensor::new(value, device)?.to_dtype(dtype)?;

        // |v_i| and how far it reaches.
        let lengths = norms.iter().map(|norm| 2.0 * (norm - 1.0) / count as f64);
        let reach = lengths.clone().zip(&norms).map(|(length, norm)| length.abs() * norm.max(1.0)).fold(0.0, f64::max);
        let Some(step) = step.filter(|_| reach > 0.0) else { return Ok(value) };
        let epsilon = step / reach;
        let v = rows().zip(&norms).zip(lengths).flat_map(|((g, norm), length)| {
            let factor = if *norm > 0.0 { epsilon * length / norm } else { 0.0 };
            g.iter().map(move |g| g * factor)
        });
        let by: Vec<f64> = v.collect();
        let change = ((self.sum_of_kernels(&by, 1.0)? - self.sum_of_kernels(&by, -1.0)?)? / (2.0 * epsilon))?;
        // The value of the penalty with the gradient of the change.
        (&change - change.detach())? + value
    }
}

/// The elements in order. By loops, here and above: candle's elementwise operations on tensors of this size wait spinning.
fn numbers(tensor: &Tensor) -> Result<Vec<f64>> {
    let flat = tensor.flatten_all()?;
    match flat.dtype() {
        DType::F32 => Ok(flat.to_vec1::<f32>()?.into_iter().map(f64::from).collect()),
        _ => flat.to_vec1(),
    }
}
