//! Loss terms, one file each, and the training objective that they add up to.

pub mod binary_cross_entropy;
mod cells;
pub mod compactness;
pub mod consistency;
pub mod cross_entropy;
pub mod denoising;
pub mod distillation;
pub mod energy_margin;
pub mod fcdd;
pub mod gradient_penalty;
pub mod hypersphere;
pub mod logit_norm;
pub mod outlier_exposure;
pub mod patch_position;
pub mod patch_svdd;
pub mod pseudo_class;
pub mod reconstruction;
mod registry;
pub mod regression;
pub mod score_margin;
pub mod sparsity;
pub mod student_penalty;
pub mod truncated_l1;

pub use binary_cross_entropy::binary_cross_entropy;
pub use compactness::compactness;
pub use consistency::consistency;
pub use cross_entropy::{cross_entropy, weighted_cross_entropy};
pub use denoising::denoising;
pub use distillation::distillation;
pub use energy_margin::energy_margin;
pub use gradient_penalty::Trace;
pub use hypersphere::hypersphere;
pub use logit_norm::logit_norm;
pub use outlier_exposure::outlier_exposure;
pub use patch_position::patch_position;
pub use patch_svdd::patch_svdd;
pub use pseudo_class::pseudo_class;
pub use reconstruction::reconstruction;
pub use regression::regression;
pub use score_margin::score_margin;
pub use sparsity::sparsity;
pub use student_penalty::student_penalty;
pub use truncated_l1::truncated_l1;

use candle_core::{D, DType, Tensor};

use crate::{
    Error, Result,
    data::{batches::Batch, enlarged::Marked},
    nn::{Mode, Model, Output, Pass, Precision, Shown},
};

registry::registry! {
    /// Classification.
    #[serde(default)]
    cross_entropy,
    /// The sparsity paper's L1 term.
    #[serde(default)]
    sparsity,
    /// Classification by the directions of the logits alone (LogitNorm), in the place of `cross_entropy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    logit_norm,
    /// Classification by a DUQ head, in the place of `cross_entropy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    binary_cross_entropy,
    /// DUQ's: the sum of an image's kernels changes with the image at slope 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    gradient_penalty,
    /// Energies of ID images below one margin and of auxiliary outliers above another; needs `data.outliers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    energy_margin,
    /// Outlier exposure: on auxiliary outliers, all classes equally likely; needs `data.outliers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    outlier_exposure,
    /// Making normal images again, for a model that does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reconstruction,
    /// Normal positions near the origin, anomalous ones away from it; needs `train.outliers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hypersphere,
    /// Scores of normal positions low, those of anomalous positions above them; needs `train.outliers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    score_margin,
    /// Normal patches as near to each other by score as by embedding; needs `train.outliers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    consistency,
    /// A student's maps point where a teacher's do, for a model of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    distillation,
    /// What a denoiser predicts in noisy images equals what is there, for a model of the kind `diffusion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    denoising,
    /// FCDD's: normal images near the origin, anomalous ones away from it, by image or by mask; needs `train.outliers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fcdd,
    /// SimpleNet's: scores of normal positions low, those of the same with noise high.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    truncated_l1,
    /// Which maker changed an image, if any; needs `train.outliers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pseudo_class,
    /// A student's maps equal a teacher's, for a model of both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    regression,
    /// An embedding's channels are not correlated, for a model of descriptions of patches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    compactness,
    /// EfficientAD's: a student's maps of auxiliary outliers are near 0; needs `data.outliers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    student_penalty,
    /// In which of eight directions a patch lies from another, for a model that draws patches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    patch_position,
    /// Embeddings of patches at nearly one place are near, for a model that draws patches; beside `patch_position`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    patch_svdd,
}

/// A term's settings.
pub trait Term {
    /// Its factor.
    fn weight(&self) -> f64;

    /// What it reads of what the model shows.
    fn needs(&self) -> &'static [Output];

    /// Whether it is of the images' classes.
    fn classifies(&self) -> bool {
        false
    }

    /// Whether it is of auxiliary outliers. A term of weight 0 still has them in the batch, where batch normalisation sees them: the
    /// control.
    fn of_outliers(&self) -> bool {
        false
    }

    /// Whether it reads what is known of made outliers: which of their pixels are anomalous, or what made them.
    fn of_masks(&self) -> bool {
        false
    }

    /// Whether a model shows what it reads only while it learns, so that held-out images cannot be judged by it.
    fn only_while_learning(&self) -> bool {
        false
    }

    /// Whether it tells anomalous positions from normal ones.
    fn tells_anomalies(&self) -> bool {
        false
    }

    /// Whether it needs the [`Step::trace`].
    fn looks_at_images(&self) -> bool {
        false
    }

    /// Why it cannot be learned in this precision.
    fn refuses(&self, _precision: Precision) -> Option<&'static str> {
        None
    }

    /// What is wrong with its settings together, and with which of them.
    fn problem(&self) -> Option<(&'static str, String)> {
        None
    }

    /// Why it cannot be had of so many rows and columns of positions, and by which of its settings.
    fn problem_on(&self, _grid: [usize; 2]) -> Option<(&'static str, String)> {
        None
    }

    /// The term, for images of `classes` classes with these labels.
    ///
    /// # Errors
    /// [`Error::Input`] if the settings do not fit the classes.
    fn value(&self, labels: &[u32], classes: usize) -> Result<Value>;
}

/// A loss term: a scalar of one step.
pub type Value = Box<dyn Fn(&Step) -> candle_core::Result<Tensor> + Send + Sync>;

impl Loss {
    /// The names of the terms that are there and need auxiliary outliers.
    pub fn of_outliers(&self) -> impl Iterator<Item = &'static str> {
        self.terms().filter(|(_, term)| term.of_outliers()).map(|(name, _)| name)
    }

    /// The names of the terms that are there and need masks of made outliers.
    pub fn of_masks(&self) -> impl Iterator<Item = &'static str> {
        self.terms().filter(|(_, term)| term.of_masks()).map(|(name, _)| name)
    }

    /// The same with patches that a grid of so many rows and columns has room for.
    #[must_use]
    pub fn on_grid(mut self, [rows, columns]: [usize; 2]) -> Self {
        if let Some(consistency) = &mut self.consistency {
            consistency.patch = consistency.patch.min(rows).min(columns);
        }
        self
    }

    /// The terms that cannot be had of a grid of so many rows and columns, each with the setting and what is wrong with it.
    pub fn problems_on(&self, grid: [usize; 2]) -> Vec<(&'static str, (&'static str, String))> {
        self.terms().filter_map(|(name, term)| Some((name, term.problem_on(grid)?))).collect()
    }

    /// Whether a term that is there is of the images' classes.
    pub fn classifies(&self) -> bool {
        self.terms().any(|(_, term)| term.classifies())
    }
}

impl Default for Loss {
    fn default() -> Self {
        Self { cross_entropy: Some(cross_entropy::Settings::default()), ..Self::empty() }
    }
}

/// What one training step offers to the loss terms.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// (N, C, H, W), the normal images in the batch.
    pub images: &'a Tensor,
    /// What the model shows of them.
    pub shown: &'a Shown,
    /// (N) u32, their classes, if they are known.
    pub labels: Option<&'a Tensor>,
    /// What the model shows of the outliers in the batch, if there are any.
    pub outliers: Option<&'a Shown>,
    /// What the model shows of all images in the batch: the normal ones, then the outliers.
    pub all: &'a Shown,
    /// Which pixels of all images are anomalous, if outliers were made.
    pub marked: Option<&'a Marked>,
    /// How it came to what it shows, for objectives that [look at images](Term::looks_at_images).
    pub trace: Option<&'a Trace<'a>>,
}

impl<'a> Step<'a> {
    /// Of a batch of normal images alone.
    pub fn new(images: &'a Tensor, shown: &'a Shown, labels: Option<&'a Tensor>) -> Self {
        Self { images, shown, labels, outliers: None, all: shown, marked: None, trace: None }
    }

    fn labels(&self) -> candle_core::Result<&'a Tensor> {
        match self.labels {
            Some(labels) => Ok(labels),
            None => candle_core::bail!("this loss needs the images' classes, and the batch has none"),
        }
    }

    fn outliers(&self) -> candle_core::Result<&'a Shown> {
        match self.outliers {
            Some(outliers) => Ok(outliers),
            None => candle_core::bail!("this loss needs auxiliary outliers, and the batch has none"),
        }
    }

    /// 1 at the positions of a (rows, columns) grid that are anomalous, 0 at the others: (N, rows, columns) of `like`'s type and device.
    fn anomalous(&self, grid: [usize; 2], like: &Tensor) -> candle_core::Result<Tensor> {
        match self.marked {
            Some(marked) => cells::anomalous(marked, grid)?.to_device(like.device())?.to_dtype(like.dtype()),
            None => Tensor::zeros((like.dim(0)?, grid[0], grid[1]), like.dtype(), like.device()),
        }
    }
}

/// The loss of a step.
#[derive(Debug)]
pub struct StepLoss {
    /// Σ weight × term, to differentiate.
    pub total: Tensor,
    /// Each term by name, unweighted and without a graph.
    pub terms: Vec<(&'static str, Tensor)>,
    /// What else is watched of the normal images, as a sum over them: the images classified rightly are their `accuracy`.
    pub watched: Vec<(&'static str, f64)>,
}

/// The training objective: Σ weight × term.
pub struct Objective {
    terms: Vec<(&'static str, f64, Value)>,
    looks_at_images: bool,
    /// Whether a term is of the images' classes.
    classifies: bool,
}

/// The name of the share of images that are classified rightly.
pub const ACCURACY: &str = "accuracy";
/// The name of the mean loss.
pub const LOSS: &str = "loss";

impl Objective {
    /// The objective that a file describes, for images of `classes` classes with these labels.
    ///
    /// # Errors
    /// [`Error::Input`] if no term has a weight above 0: there would be nothing to learn; or the classes' weights do not fit.
    pub fn new(loss: &Loss, labels: &[u32], classes: usize) -> Result<Self> {
        let mut terms: Vec<_> = loss.terms().collect();
        // The sum begins with those that classify: another order would move its last bits.
        terms.sort_by_key(|(_, term)| !term.classifies());
        let looks_at_images = terms.iter().any(|(_, term)| term.looks_at_images());
        let classifies = loss.classifies();
        let terms = terms.into_iter().map(|(name, term)| Ok((name, term.weight(), term.value(labels, classes)?)));
        let terms: Vec<_> = terms.collect::<Result<_>>()?;
        if !terms.iter().any(|(_, weight, _)| *weight > 0.0) {
            return Err(Error::input("the loss is empty: no term has a weight above 0")
                .hint("write `loss: { cross_entropy: {} }`, or leave `loss` out for the same"));
        }
        Ok(Self { terms, looks_at_images, classifies })
    }

    /// Whether it needs the images' classes.
    pub fn classifies(&self) -> bool {
        self.classifies
    }

    /// The loss of a model on a batch. One pass for normal images and outliers, so that batch statistics are of both.
    ///
    /// # Errors
    /// If shapes do not fit or a label is not a class.
    pub fn loss(&self, model: &dyn Model, batch: &Batch, mode: Mode) -> candle_core::Result<StepLoss> {
        self.loss_from(None, model, batch, mode)
    }

    /// The same where [`Model::fixed`] of the batch is there.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    pub fn loss_from(
        &self,
        fixed: Option<&[Tensor]>,
        model: &dyn Model,
        batch: &Batch,
        mode: Mode,
    ) -> candle_core::Result<StepLoss> {
        let pass = Pass::new(mode).telling(batch.labels.as_ref());
        let (shown, trace) = match fixed {
            _ if self.looks_at_images => {
                Trace::forward(model, &batch.images, mode).map(|(shown, trace)| (shown, Some(trace)))?
            }
            Some(fixed) => (model.show_fixed(fixed, &pass)?, None),
            None => (model.show(&batch.images, &pass)?, None),
        };
        let more = batch.images.dim(0)? - batch.normal;
        let (marked, trace) = (batch.marked.as_ref(), trace.as_ref());
        let step = Step { marked, trace, ..Step::new(&batch.images, &shown, batch.labels.as_ref()) };
        if more == 0 {
            return self.value(&step);
        }
        let normal = batch.images.narrow(0, 0, batch.normal)?;
        let (learned, outliers) = (shown.narrow(0, batch.normal)?, shown.narrow(batch.normal, more)?);
        self.value(&Step { images: &normal, shown: &learned, outliers: Some(&outliers), ..step })
    }

    /// How well a model that learned does on images that it did not learn, summed over them, and by which measure: the images
    /// classified rightly ([`ACCURACY`]), or of a model that tells no classes the [`LOSS`]. `first`: the place of the first among them all.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    pub fn judge(
        &self,
        model: &dyn Model,
        images: &Tensor,
        labels: Option<&Tensor>,
        first: usize,
    ) -> candle_core::Result<(&'static str, f64)> {
        let shown = model.show(images, &Pass::eval().telling(labels).judging(first))?;
        match (&shown.logits, labels) {
            (Some(logits), Some(labels)) => Ok((ACCURACY, count_correct(logits, labels)? as f64)),
            _ => {
                let loss =
                    self.value(&Step::new(images, &shown, labels))?.total.to_dtype(DType::F64)?.to_scalar::<f64>()?;
                Ok((LOSS, loss * images.dim(0)? as f64))
            }
        }
    }

    /// The loss of a step.
    ///
    /// A term of weight 0 is recorded but is no part of the total's graph: training is the same, to the bit, as without
    /// the term.
    ///
    /// # Errors
    /// As [`Objective::loss`].
    pub fn value(&self, step: &Step) -> candle_core::Result<StepLoss> {
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
        let watched = match (&step.shown.logits, step.labels) {
            (Some(logits), Some(labels)) => vec![(ACCURACY, count_correct(logits, labels)? as f64)],
            _ => Vec::new(),
        };
        Ok(StepLoss { total, terms: record, watched })
    }
}

/// How many of (N, K) logits are largest at their (N) label.
fn count_correct(logits: &Tensor, labels: &Tensor) -> candle_core::Result<u64> {
    let right = logits.detach().argmax(D::Minus1)?.eq(labels)?;
    Ok(right.to_dtype(DType::U32)?.sum_all()?.to_scalar::<u32>()?.into())
}
