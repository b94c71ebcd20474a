//! Cross-entropy: the mean over the batch of −ln softmax(f)_y, or with label smoothing s of −Σ_k t_k ln softmax(f)_k,
//! t = (1 − s)·onehot(y) + s/K.
//!
//! value = mean_i [ logsumexp(f_i) − Σ t_k f_{i, k} ]; gradient = (softmax(f) − t) / N.
//!
//! With a weight w for each class it is the weighted mean: Σ_i Σ_k w_k t_k (−ln softmax(f_i)_k) / Σ_i w_{y_i}.
//!
//! - Paper: Szegedy et al., CVPR 2016, section 7, for label smoothing.
//! - Reference code: PyTorch `torch.nn.functional.cross_entropy`.
//! - Deviations: none.

use candle_core::{D, Result, Tensor, bail};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    Error,
    losses::{Term, Value},
    nn::Output,
    ops::{self, one_hot},
    yaml::{limits::MOST_WEIGHT, named},
};

/// Mean over the batch of −log softmax of the true class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "CrossEntropy")]
pub struct Settings {
    /// Factor of the term. Some term must have one above 0.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// The share of the target that is spread evenly over the classes. 0 is PyTorch's default; 0.1 is usual where there is one.
    #[garde(range(min = 0.0, max = 1.0))]
    #[serde(skip_serializing_if = "is_zero")]
    pub label_smoothing: f64,
    /// What an image of each class counts: a list, one number for each class, or `balanced`: N / (K · N_c), for N train images of K
    /// classes, N_c of them of the class. The mean is weighted too, as PyTorch's `weight`. Default: all count the same.
    #[garde(dive)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<ClassWeights>,
}

/// What an image of each class counts.
#[derive(Debug, Clone, PartialEq, Serialize, Validate, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(transform = number_list)]
pub enum ClassWeights {
    /// Every class counts the same as a whole.
    Balanced,
    /// These, by class.
    #[serde(untagged)]
    Given(#[garde(length(min = 1), inner(range(min = 0.0, max = MOST_WEIGHT)))] Vec<f64>),
}

impl<'de> Deserialize<'de> for ClassWeights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        let word = |word: &str| (word == "balanced").then_some(Self::Balanced);
        named::word_or_list(deserializer, "`balanced`, or a list of numbers", word, Self::Given)
    }
}

/// Schema transform of [`ClassWeights`].
fn number_list(schema: &mut schemars::Schema) {
    *schema = schemars::json_schema!({
        "description": "What an image of each class counts: `balanced`, or a number for each class.",
        "anyOf": [{ "const": "balanced" }, { "type": "array", "items": { "type": "number", "minimum": 0 }, "minItems": 1 }]
    });
}

impl ClassWeights {
    /// The weight of each class, for these train labels.
    ///
    /// # Errors
    /// [`Error::Input`] when there are not as many numbers as classes, all are 0, or `balanced` meets a class without images.
    pub fn of(&self, labels: &[u32], classes: usize) -> crate::Result<Vec<f64>> {
        match self {
            Self::Given(weights) if weights.len() != classes => {
                let message = format!("`class_weights` has {} numbers for {classes} classes", weights.len());
                Err(Error::input(message).hint("give one number for each class, in their order"))
            }
            Self::Given(weights) if weights.iter().all(|weight| *weight == 0.0) => {
                Err(Error::input("`class_weights` are all 0: there would be nothing to learn"))
            }
            Self::Given(weights) => Ok(weights.clone()),
            Self::Balanced => {
                let mut counts = vec![0_usize; classes];
                labels.iter().for_each(|label| counts[*label as usize] += 1);
                if let Some(class) = counts.iter().position(|count| *count == 0) {
                    let message =
                        format!("class {class} has no train image, so `class_weights: balanced` has no weight for it");
                    return Err(Error::input(message).hint("give the weights as a list"));
                }
                let even = labels.len() as f64 / classes as f64;
                Ok(counts.iter().map(|count| even / *count as f64).collect())
            }
        }
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self { weight: 1.0, label_smoothing: 0.0, class_weights: None }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

impl Term for Settings {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn needs(&self) -> &'static [Output] {
        &[Output::Softmax]
    }

    fn classifies(&self) -> bool {
        true
    }

    fn value(&self, labels: &[u32], classes: usize) -> crate::Result<Value> {
        let smoothing = self.label_smoothing;
        let weights = self.class_weights.as_ref().map(|weights| weights.of(labels, classes)).transpose()?;
        Ok(Box::new(move |step| {
            let logits = step.shown.logits()?;
            let Some(weights) = &weights else { return cross_entropy(logits, step.labels()?, smoothing) };
            let weights = Tensor::new(weights.as_slice(), logits.device())?.to_dtype(logits.dtype())?;
            weighted_cross_entropy(logits, step.labels()?, smoothing, &weights)
        }))
    }
}

/// The mean cross-entropy of (N, K) logits against (N) u32 labels, a scalar; f32 or f64. `label_smoothing` in 0..=1.
///
/// # Errors
/// If shapes do not fit, the batch is empty or a label is not below K.
pub fn cross_entropy(logits: &Tensor, labels: &Tensor, label_smoothing: f64) -> Result<Tensor> {
    ops::softmax_cross_entropy(logits, labels, label_smoothing)
}

/// The weighted mean of the same, with the `weights` (K) of the classes, of the logits' type.
///
/// # Errors
/// If shapes do not fit, the batch is empty or a label is not below K.
pub fn weighted_cross_entropy(
    logits: &Tensor,
    labels: &Tensor,
    label_smoothing: f64,
    weights: &Tensor,
) -> Result<Tensor> {
    let (images, classes) = logits.dims2()?;
    if labels.dims() != [images] || weights.dims() != [classes] {
        bail!("cross-entropy: {:?} logits, {:?} labels, {:?} weights", logits.dims(), labels.dims(), weights.dims());
    }
    let own = one_hot(labels, classes)?.to_dtype(logits.dtype())?.broadcast_mul(weights)?;
    let every = (weights * (label_smoothing / classes as f64))?;
    let targets = (&own * (1.0 - label_smoothing))?.broadcast_add(&every)?;
    // Less the largest, which is a constant.
    let shifted = logits.broadcast_sub(&logits.max_keepdim(D::Minus1)?.detach())?;
    let log_softmax = shifted.broadcast_sub(&shifted.exp()?.sum_keepdim(D::Minus1)?.log()?)?;
    // A batch of images that count nothing has a loss of 0, not of 0/0.
    let total = own.sum_all()?.maximum(f64::from(f32::MIN_POSITIVE))?;
    (targets * log_softmax)?.sum_all()?.neg()?.div(&total)
}
