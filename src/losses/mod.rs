//! Loss terms, one file each, and the training objective that they add up to.

pub mod binary_cross_entropy;
pub mod cross_entropy;
pub mod energy_margin;
pub mod gradient_penalty;
pub mod logit_norm;
pub mod outlier_exposure;
pub mod sparsity;

pub use binary_cross_entropy::binary_cross_entropy;
pub(crate) use binary_cross_entropy::one_hot;
pub use cross_entropy::{cross_entropy, weighted_cross_entropy};
pub use energy_margin::energy_margin;
pub use gradient_penalty::Pass;
pub use logit_norm::logit_norm;
pub use outlier_exposure::outlier_exposure;
pub use sparsity::sparsity;

use candle_core::Tensor;

use crate::{Error, Result, config, nn};

/// What one training step offers to the loss terms.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// What the network made of the images to learn.
    pub outputs: &'a nn::Outputs,
    /// (N) u32 classes.
    pub labels: &'a Tensor,
    /// (M, K) logits of the auxiliary outliers in the batch, for objectives with a [term of them](config::Loss::of_outliers).
    pub outliers: Option<&'a Tensor>,
    /// How it came to the outputs, for objectives that [look at images](Objective::looks_at_images).
    pub pass: Option<&'a Pass<'a>>,
}

/// A loss term: a scalar of one step.
type Term = Box<dyn Fn(&Step) -> candle_core::Result<Tensor> + Send + Sync>;

/// The training objective: Σ weight × term.
pub struct Objective {
    terms: Vec<(&'static str, f64, Term)>,
    looks_at_images: bool,
}

impl Objective {
    /// The objective that a file describes, for images of `classes` classes with these labels.
    ///
    /// # Errors
    /// [`Error::Input`] if no term has a weight above 0: there would be nothing to learn; or the classes' weights do not fit.
    pub fn new(loss: &config::Loss, labels: &[u32], classes: usize) -> Result<Self> {
        let mut terms: Vec<(&'static str, f64, Term)> = Vec::new();
        if let Some(config) = &loss.cross_entropy {
            let smoothing = config.label_smoothing;
            let weights = config.class_weights.as_ref().map(|weights| weights.of(labels, classes)).transpose()?;
            let term = move |step: &Step| {
                let logits = &step.outputs.logits;
                let Some(weights) = &weights else { return cross_entropy(logits, step.labels, smoothing) };
                let weights = Tensor::new(weights.as_slice(), logits.device())?.to_dtype(logits.dtype())?;
                weighted_cross_entropy(logits, step.labels, smoothing, &weights)
            };
            terms.push(("cross_entropy", config.weight, Box::new(term)));
        }
        if let Some(config) = &loss.logit_norm {
            let temperature = config.temperature;
            let term = move |step: &Step| logit_norm(&step.outputs.logits, step.labels, temperature);
            terms.push(("logit_norm", config.weight, Box::new(term)));
        }
        if let Some(config) = &loss.sparsity {
            let target = config.target;
            let term = move |step: &Step| match target {
                config::SparsityTarget::Logits => sparsity(&step.outputs.logits),
                config::SparsityTarget::Features => sparsity(&step.outputs.features),
            };
            terms.push(("sparsity", config.weight, Box::new(term)));
        }
        if let Some(config) = &loss.binary_cross_entropy {
            let term = |step: &Step| binary_cross_entropy(&step.outputs.logits, step.labels);
            terms.push(("binary_cross_entropy", config.weight, Box::new(term)));
        }
        if let Some(config) = &loss.gradient_penalty {
            let difference = (config.weight > 0.0).then_some(gradient_penalty::STEP);
            let term = move |step: &Step| match step.pass {
                Some(pass) => pass.gradient_penalty(step.outputs, difference),
                None => candle_core::bail!("the gradient penalty needs the pass that led to the outputs"),
            };
            terms.push(("gradient_penalty", config.weight, Box::new(term)));
        }
        if let Some(config) = &loss.energy_margin {
            let (m_in, m_out) = (config.m_in, config.m_out);
            let term = move |step: &Step| energy_margin(&step.outputs.logits, outliers(step)?, m_in, m_out);
            terms.push(("energy_margin", config.weight, Box::new(term)));
        }
        if let Some(config) = &loss.outlier_exposure {
            let term = |step: &Step| outlier_exposure(outliers(step)?);
            terms.push(("outlier_exposure", config.weight, Box::new(term)));
        }
        if !terms.iter().any(|(_, weight, _)| *weight > 0.0) {
            return Err(Error::input("the loss is empty: no term has a weight above 0")
                .hint("write `loss: { cross_entropy: {} }`, or leave `loss` out for the same"));
        }
        Ok(Self { terms, looks_at_images: loss.gradient_penalty.is_some() })
    }

    /// Whether a term needs the [`Step::pass`].
    pub fn looks_at_images(&self) -> bool {
        self.looks_at_images
    }

    /// The total to differentiate, and each term by name, unweighted and without a graph, for the record.
    ///
    /// A term of weight 0 is recorded but is no part of the total's graph: training is the same, to the bit, as without
    /// the term.
    ///
    /// # Errors
    /// If shapes do not fit or a label is not a class.
    pub fn value(&self, step: &Step) -> candle_core::Result<(Tensor, Vec<(&'static str, Tensor)>)> {
        let mut total: Option<Tensor> = None;
        let mut record = Vec::with_capacity(self.terms.len());
        for (name, weight, term) in &self.terms {
            let value = term(step)?;
            record.push((*name, value.detach()));
            if *weight > 0.0 {
                let weighted = (value * *weight)?;
                total = Some(match total {
                    None => weighted,
                    Some(sum) => (sum + weighted)?,
                });
            }
        }
        let total = total.ok_or_else(|| candle_core::Error::Msg("the loss is empty".into()))?;
        Ok((total, record))
    }
}

fn outliers<'a>(step: &Step<'a>) -> candle_core::Result<&'a Tensor> {
    match step.outliers {
        Some(outliers) => Ok(outliers),
        None => candle_core::bail!("this loss needs auxiliary outliers, and the batch has none"),
    }
}
