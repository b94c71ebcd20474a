//! ELogitNorm's last layer: a linear layer whose logits are divided by the image's distance from the decision boundaries while it learns.
//!
//! While it learns, logits = f / D with f = W·z + b. D is the mean over classes j of (f_m − f_j) / ‖w_m − w_j‖₂. Here m is the largest logit's
//! class, whose own term is 0. Afterwards logits = f. Gradients go through D. There is nothing to choose.
//!
//! - Paper: Ding et al., *Enhancing Out-of-Distribution Detection with Extended Logit Normalization*, CVPR 2026, <https://arxiv.org/abs/2504.11434>.
//! - Reference code: `limchaos/ElogitNorm`, `elogitnorm_loss.py`. There it is a loss; here a head, whose loss is `cross_entropy`.

use candle_core::{D, Result, Tensor};
use candle_nn::VarBuilder;

use crate::{
    nn::{
        Head, Mode, Pass,
        backbone::LastLayerOf,
        heads::{Gives, HeadFamily, LastLayer},
        layers::Linear,
        linear::of_backbone,
    },
    ops::Activation,
    yaml::registry::no_settings,
};

no_settings!();

impl HeadFamily for Settings {
    const GIVES: Gives = Gives::LinearLogits;

    fn build(&self, own: &LastLayerOf, classes: usize, vb: &VarBuilder) -> Result<Box<dyn LastLayer>> {
        Ok(Box::new(Elogitnorm(of_backbone(own, classes, vb)?)))
    }
}

#[derive(Debug)]
struct Elogitnorm(Linear);

/// The square of the distance between two classes' weights is no less: rounding may leave it below 0.
const SHORTEST: f64 = 1e-12;

impl LastLayer for Elogitnorm {
    fn forward(&self, features: Tensor, pass: &Pass) -> Result<(Tensor, Tensor)> {
        let logits = self.0.forward(&features, Activation::Identity, pass)?;
        let logits = match pass.mode() {
            Mode::Eval => logits,
            Mode::Train { .. } => logits.broadcast_div(&distance(&logits, &self.0.seen(pass)?)?)?,
        };
        Ok((logits, features))
    }

    fn linear(&self) -> Option<Head> {
        Some(self.0.head())
    }
}

/// D of (N, K) logits by (K, D) weights: (N, 1).
fn distance(logits: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let largest = logits.detach().argmax_keepdim(D::Minus1)?;
    let gaps = logits.gather(&largest, D::Minus1)?.broadcast_sub(logits)?;
    // ‖a − b‖² = ‖a‖² + ‖b‖² − 2·a·b: of a thousand classes all differences would fill the memory.
    let squares = weight.sqr()?.sum_keepdim(1)?;
    let apart = (squares.broadcast_add(&squares.t()?)? - (weight.matmul(&weight.t()?)? * 2.0)?)?.maximum(SHORTEST)?;
    // A class is 1 from itself, for a gap of 0.
    let itself = Tensor::eye(weight.dim(0)?, weight.dtype(), weight.device())?;
    let apart = (apart + itself)?.sqrt()?.index_select(&largest.squeeze(1)?, 0)?;
    (gaps / apart)?.mean_keepdim(D::Minus1)
}
