//! The terms of a training objective and their weights.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::{
    Error,
    yaml::{limits::MOST_WEIGHT, named},
};

/// Of an energy, up and down. Ours: far beyond any network's.
const MOST_ENERGY: f64 = 1e6;

/// The training objective: the sum of its terms, each times its weight.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Loss {
    /// Classification.
    #[garde(dive)]
    #[serde(default)]
    pub cross_entropy: Option<CrossEntropy>,
    /// The sparsity paper's L1 term.
    #[garde(dive)]
    #[serde(default)]
    pub sparsity: Option<Sparsity>,
    /// Classification by the directions of the logits alone (LogitNorm), in the place of `cross_entropy`.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logit_norm: Option<LogitNorm>,
    /// Classification by a DUQ head, in the place of `cross_entropy`.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary_cross_entropy: Option<BinaryCrossEntropy>,
    /// DUQ's: the sum of an image's kernels changes with the image at slope 1.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_penalty: Option<GradientPenalty>,
    /// Energies of ID images below one margin and of auxiliary outliers above another; needs `data.outliers`.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub energy_margin: Option<EnergyMargin>,
    /// Outlier exposure: on auxiliary outliers, all classes equally likely; needs `data.outliers`.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_exposure: Option<OutlierExposure>,
}

impl Loss {
    /// The weights of the terms that are there.
    pub fn weights(&self) -> impl Iterator<Item = f64> {
        let weights = [
            self.cross_entropy.as_ref().map(|term| term.weight),
            self.sparsity.as_ref().map(|term| term.weight),
            self.logit_norm.as_ref().map(|term| term.weight),
            self.binary_cross_entropy.as_ref().map(|term| term.weight),
            self.gradient_penalty.as_ref().map(|term| term.weight),
            self.energy_margin.as_ref().map(|term| term.weight),
            self.outlier_exposure.as_ref().map(|term| term.weight),
        ];
        weights.into_iter().flatten()
    }

    /// The terms that are there and need auxiliary outliers. One of weight 0 still has them in the batch, where batch
    /// normalisation sees them: the control.
    pub fn of_outliers(&self) -> impl Iterator<Item = &'static str> {
        let terms = [
            self.energy_margin.as_ref().map(|_| "energy_margin"),
            self.outlier_exposure.as_ref().map(|_| "outlier_exposure"),
        ];
        terms.into_iter().flatten()
    }
}

impl Default for Loss {
    fn default() -> Self {
        Self {
            cross_entropy: Some(CrossEntropy::default()),
            sparsity: None,
            logit_norm: None,
            binary_cross_entropy: None,
            gradient_penalty: None,
            energy_margin: None,
            outlier_exposure: None,
        }
    }
}

/// Mean over the batch of −log softmax of the true class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CrossEntropy {
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
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
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

impl Default for CrossEntropy {
    fn default() -> Self {
        Self { weight: 1.0, label_smoothing: 0.0, class_weights: None }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

/// Mean over the batch of −log softmax of the true class, of logits scaled to one length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LogitNorm {
    /// Factor of the term. Some term must have one above 0.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// τ: the length is 1/τ. 0.04 in the paper for CIFAR-10, and in OpenOOD.
    #[garde(range(min = 1e-3, max = 1e3))]
    pub temperature: f64,
}

impl Default for LogitNorm {
    fn default() -> Self {
        Self { weight: 1.0, temperature: 0.04 }
    }
}

/// Mean over images and classes of the binary cross-entropy of the kernels (van Amersfoort et al. 2020, eq. 2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct BinaryCrossEntropy {
    /// Factor of the term.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
}

impl Default for BinaryCrossEntropy {
    fn default() -> Self {
        Self { weight: 1.0 }
    }
}

/// Mean over the batch of (‖∇ₓ Σ_c K_c‖₂ − 1)² (van Amersfoort et al. 2020, eq. 5). A step takes some four times as long with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GradientPenalty {
    /// λ: 0.5 in the reference's instructions for CIFAR-10; it was chosen from 0 to 1 by the AUROC on NotMNIST for Fashion-MNIST.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
}

/// Mean over ID images of max(0, E − m_in)² plus mean over outliers of max(0, m_out − E)², with the energy
/// E = −logsumexp(logits) (Liu et al. 2020, eq. 8 and 9).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct EnergyMargin {
    /// λ: 0.1 in the paper and in energy_ood; 0 is the control.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// What the energies of ID images are to be below: −23 in energy_ood's run.sh for CIFAR-10 (−27 for CIFAR-100; −25 unless
    /// given).
    #[garde(range(min = -MOST_ENERGY, max = MOST_ENERGY))]
    pub m_in: f64,
    /// What the energies of outliers are to be above: −5 in energy_ood's run.sh for both CIFARs (−7 unless given).
    #[garde(range(min = -MOST_ENERGY, max = MOST_ENERGY))]
    pub m_out: f64,
}

impl Default for EnergyMargin {
    fn default() -> Self {
        Self { weight: 0.1, m_in: -23.0, m_out: -5.0 }
    }
}

/// Mean over outliers of the cross-entropy to the uniform distribution (Hendrycks et al. 2019, section 4).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct OutlierExposure {
    /// λ: 0.5 in the paper for pictures, in outlier-exposure, energy_ood and OpenOOD; 0 is the control.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
}

impl Default for OutlierExposure {
    fn default() -> Self {
        Self { weight: 0.5 }
    }
}

/// Mean over the batch of the L1 norm of the logits or features (Chen & Li 2023, eq. 9).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sparsity {
    /// λ: 0.01 in the paper; 0 is the control, plain fine-tuning.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// What is made sparse. The paper's section 2.3 takes the vector after the fully connected layer.
    #[garde(skip)]
    #[serde(default)]
    pub target: SparsityTarget,
}

/// What the sparsity term takes the norm of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SparsityTarget {
    /// The K logits (the paper's f).
    #[default]
    Logits,
    /// The D penultimate features (the other reading of "feature vector").
    Features,
}
