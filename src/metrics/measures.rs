//! The table of measures: what a number means, which way is better, and how it is computed.
//!
//! Adding a measure is one entry in [`ALL`]. Results store measures by key, so that a file with one more or one less stays
//! readable.

use std::borrow::Cow::{self, Borrowed};

use candle_core::Tensor;
use indexmap::IndexMap;
use rayon::prelude::*;

use super::{
    Confusion, MeanStd, aggregate, pixel::PixelMeasures, pixel::Pixels, ranking::Areas, ranking::Ranking,
    ranking::Score,
};
use crate::{
    Result,
    metrics::{Protocol, Tpr},
};

/// Numbers by [`Measure::key`].
pub type Measures = IndexMap<String, f64>;

/// Which of two numbers is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// The larger one.
    Larger,
    /// The smaller one.
    Smaller,
    /// None: their units may differ.
    Neither,
}

/// What a number counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// A fraction of 1, shown in percent.
    Share,
    /// The score's own unit.
    Score,
    /// Standard deviations of the ID scores.
    Deviations,
}

/// What a measure needs, and the function that computes it of that.
#[derive(Clone, Copy)]
pub enum Needs {
    /// The logits (N, K) of the ID test images, and their labels.
    Logits(fn(&Tensor, &[u32]) -> Result<f64>),
    /// ID and OOD scores; `None` where they do not define the number.
    Scores(fn(&Graded) -> Option<f64>),
    /// ID and OOD scores, and this true positive rate.
    Rate(f64, fn(&dyn Cut, f64) -> f64),
    /// Maps and masks of all test images; `None` where they do not define the number.
    Pixels(fn(&PixelMeasures) -> Option<f64>),
    /// Maps and masks, and the false positive rate up to which the overlap is integrated.
    Overlap(f64),
}

/// A measure.
#[derive(Clone)]
pub struct Measure {
    /// Its name in results: it says which class is positive, which threshold is taken and how a curve is integrated.
    pub key: Cow<'static, str>,
    /// What stands above a column.
    pub title: Cow<'static, str>,
    /// What it is, in one sentence.
    pub about: &'static str,
    /// Which way is better.
    pub better: Better,
    /// What it counts.
    pub unit: Unit,
    /// What it is computed of.
    pub needs: Needs,
}

impl Measure {
    /// Whether [`intervals`](super::intervals::intervals) gives its 95 % interval.
    pub fn has_interval(&self) -> bool {
        self.key == "auroc" || matches!(self.needs, Needs::Rate(..))
    }
}

/// The false positive rate up to which PRO is integrated unless a table names another: that of MVTec's official evaluation (Bergmann
/// et al. 2021, <https://doi.org/10.1007/s11263-020-01400-4>).
pub const PRO_LIMIT: f64 = 0.3;

/// The key of that PRO, which is always computed.
pub const PRO: &str = "pro@0.3";

/// Every measure, in the order in which results and `oodkit metrics` list them.
pub const ALL: &[Measure] = &[
    Measure {
        key: Borrowed("accuracy"),
        title: Borrowed("Accuracy ↑"),
        about: "Share of ID test images classified rightly.",
        better: Better::Larger,
        unit: Unit::Share,
        needs: Needs::Logits(aggregate::accuracy),
    },
    Measure {
        key: Borrowed("balanced_accuracy"),
        title: Borrowed("Balanced accuracy ↑"),
        about: "Mean over classes of the share of their ID test images classified rightly (scikit-learn's \
                `balanced_accuracy_score`); classes without test images are left out.",
        better: Better::Larger,
        unit: Unit::Share,
        needs: Needs::Logits(|logits, labels| {
            let classes = Confusion::of(logits, labels)?.by_class();
            Ok(MeanStd::of(&classes.into_iter().flatten().collect::<Vec<_>>()).mean)
        }),
    },
    Measure {
        key: Borrowed("worst_class_accuracy"),
        title: Borrowed("Worst class ↑"),
        about: "The smallest share of a class's ID test images that are classified rightly.",
        better: Better::Larger,
        unit: Unit::Share,
        needs: Needs::Logits(|logits, labels| {
            let classes = Confusion::of(logits, labels)?.by_class();
            Ok(classes.into_iter().flatten().fold(1.0, f64::min))
        }),
    },
    Measure {
        key: Borrowed("auroc"),
        title: Borrowed("AUROC ↑"),
        about: "Area under the ROC curve; ties count one half. The same whichever class is positive.",
        better: Better::Larger,
        unit: Unit::Share,
        needs: Needs::Scores(|graded| Some(graded.areas.auroc)),
    },
    Measure {
        key: Borrowed("fpr95_id_positive_closest"),
        title: Borrowed("FPR95 ↓"),
        about: "Share of OOD images accepted at the threshold where the share of ID images accepted is closest to 95 % \
                (energy_ood, the sparsity paper).",
        better: Better::Smaller,
        unit: Unit::Share,
        needs: Needs::Rate(0.95, |cut, tpr| cut.fpr_id_positive_closest(tpr)),
    },
    Measure {
        key: Borrowed("fpr95_ood_positive_first"),
        title: Borrowed("FPR95 ↓"),
        about: "Share of ID images rejected at the first threshold where at least 95 % of OOD images are caught (OpenOOD).",
        better: Better::Smaller,
        unit: Unit::Share,
        needs: Needs::Rate(0.95, |cut, tpr| cut.fpr_ood_positive_first(tpr)),
    },
    Measure {
        key: Borrowed("aupr_in_ap"),
        title: Borrowed("AUPR-In ↑"),
        about: "Average precision, ID positive (scikit-learn's `average_precision_score`; energy_ood).",
        better: Better::Larger,
        unit: Unit::Share,
        needs: Needs::Scores(|graded| Some(graded.areas.aupr_in_ap)),
    },
    Measure {
        key: Borrowed("aupr_out_ap"),
        title: Borrowed("AUPR-Out ↑"),
        about: "Average precision, OOD positive.",
        better: Better::Larger,
        unit: Unit::Share,
        needs: Needs::Scores(|graded| Some(graded.areas.aupr_out_ap)),
    },
    Measure {
        key: Borrowed("aupr_in_trapezoid"),
        title: Borrowed("AUPR-In ↑"),
        about: "Trapezoid under the precision-recall curve, ID positive (OpenOOD's AUPR_IN).",
        better: Better::Larger,
        unit: Unit::Share,
        needs: Needs::Scores(|graded| Some(graded.areas.aupr_in_trapezoid)),
    },
    Measure {
        key: Borrowed("aupr_out_trapezoid"),
        title: Borrowed("AUPR-Out ↑"),
        about: "Trapezoid under the precision-recall curve, OOD positive (OpenOOD's AUPR_OUT).",
        better: Better::Larger,
        unit: Unit::Share,
        needs: Needs::Scores(|graded| Some(graded.areas.aupr_out_trapezoid)),
    },
    Measure {
        key: Borrowed("best_f1_out"),
        title: Borrowed("Best F1 ↑"),
        about: "The best F1 over all thresholds, OOD positive: an upper bound, as it looks at the answers.",
        better: Better::Larger,
        unit: Unit::Share,
        needs: Needs::Scores(|graded| Some(graded.best_f1)),
    },
    // How far OOD scores lie above ID scores: of the energy, the gap that energy-based fine-tuning widens (Liu et al. 2020).
    Measure {
        key: Borrowed("gap"),
        title: Borrowed("Gap"),
        about: "The mean OOD score minus the mean ID score, in the score's own unit.",
        better: Better::Neither,
        unit: Unit::Score,
        needs: Needs::Scores(|graded| Some(graded.gap())),
    },
    Measure {
        key: Borrowed("gap_sd"),
        title: Borrowed("Gap/SD ↑"),
        about: "The gap in population standard deviations of the ID scores; none if ID scores are all equal. Logits twice as \
                large do not count as twice the gap.",
        better: Better::Larger,
        unit: Unit::Deviations,
        needs: Needs::Scores(|graded| {
            let sd = graded.id.std;
            (sd > 0.0).then(|| graded.gap() / sd)
        }),
    },
    Measure {
        key: Borrowed("pixel_auroc"),
        title: Borrowed("Pixel AUROC ↑"),
        about: "Area under the ROC curve of all pixels of all test images; ties count one half.",
        better: Better::Larger,
        unit: Unit::Share,
        needs: Needs::Pixels(|pixels| Some(pixels.auroc)),
    },
    Measure {
        key: Borrowed("pixel_ap"),
        title: Borrowed("Pixel AP ↑"),
        about: "Average precision of pixels, anomalous positive.",
        better: Better::Larger,
        unit: Unit::Share,
        needs: Needs::Pixels(|pixels| Some(pixels.ap)),
    },
    Measure {
        key: Borrowed("pixel_best_f1"),
        title: Borrowed("Pixel F1 ↑"),
        about: "The best F1 of pixels over all thresholds: an upper bound, as it looks at the masks.",
        better: Better::Larger,
        unit: Unit::Share,
        needs: Needs::Pixels(|pixels| Some(pixels.best_f1)),
    },
    Measure {
        key: Borrowed(PRO),
        title: Borrowed("PRO ↑"),
        about: "Per-region overlap (8-connected regions, each counts alike) by the false positive rate over the normal pixels of all \
                images, integrated up to the rate in its key and divided by that (MVTec's official evaluation).",
        better: Better::Larger,
        unit: Unit::Share,
        needs: Needs::Overlap(PRO_LIMIT),
    },
    Measure {
        key: Borrowed("aupimo"),
        title: Borrowed("AUPIMO ↑"),
        about: "Mean over anomalous images of the area under their recall by the logarithm of the false positive rate on normal \
                images, from 1e-5 to 1e-4 (Bertoldo et al. 2024).",
        better: Better::Larger,
        unit: Unit::Share,
        needs: Needs::Pixels(|pixels| pixels.aupimo),
    },
];

/// The measure of this key.
pub fn find(key: &str) -> Option<&'static Measure> {
    ALL.iter().find(|measure| measure.key == key)
}

/// The false positive rate at any true positive rate, by the convention of `fpr95_id_positive_closest` or of
/// `fpr95_ood_positive_first`. It is computed where a table asks for it.
pub fn fpr_at(tpr: Tpr, convention: Protocol) -> Measure {
    let (name, of): (_, fn(&dyn Cut, f64) -> f64) = match convention.convention() {
        Protocol::OodPositiveFirst => ("ood_positive_first", |cut, tpr| cut.fpr_ood_positive_first(tpr)),
        _ => ("id_positive_closest", |cut, tpr| cut.fpr_id_positive_closest(tpr)),
    };
    Measure {
        key: Cow::Owned(format!("fpr@{tpr}_{name}")),
        title: Cow::Owned(format!("FPR@{tpr} ↓")),
        about: "As fpr95 of the same convention, at another true positive rate.",
        better: Better::Smaller,
        unit: Unit::Share,
        needs: Needs::Rate(tpr.share(), of),
    }
}

/// PRO integrated up to any false positive rate. It is computed where a table asks for it.
pub fn pro_at(limit: Tpr) -> Measure {
    Measure {
        key: Cow::Owned(format!("pro@{limit}")),
        title: Cow::Owned(format!("PRO@{limit} ↑")),
        about: "As pro@0.3, integrated up to another false positive rate.",
        better: Better::Larger,
        unit: Unit::Share,
        needs: Needs::Overlap(limit.share()),
    }
}

/// Every measure of maps and masks, and of `more` those that are of them; none if no pixel is anomalous or none is normal.
pub fn of_pixels(pixels: &mut Pixels, more: &[Measure]) -> Measures {
    let mut known: Vec<(f64, PixelMeasures)> = Vec::new();
    let mut at = |limit: f64| {
        let there = known.iter().find(|(known, _)| *known == limit).map(|(_, measures)| *measures);
        there.or_else(|| {
            let measures = pixels.measure(limit)?;
            known.push((limit, measures));
            Some(measures)
        })
    };
    let value = |measure: &Measure| match measure.needs {
        Needs::Pixels(of) => Some((measure.key.to_string(), of(&at(PRO_LIMIT)?)?)),
        Needs::Overlap(limit) => Some((measure.key.to_string(), at(limit)?.pro)),
        Needs::Scores(_) | Needs::Rate(..) | Needs::Logits(_) => None,
    };
    ALL.iter().chain(more).filter_map(value).collect()
}

/// ID and OOD scores that can be cut at a true positive rate.
pub trait Cut {
    /// See [`Ranking::fpr_id_positive_closest`].
    fn fpr_id_positive_closest(&self, tpr: f64) -> f64;
    /// See [`Ranking::fpr_ood_positive_first`].
    fn fpr_ood_positive_first(&self, tpr: f64) -> f64;
}

impl<K: Copy + Ord + Send + Sync> Cut for Ranking<K> {
    fn fpr_id_positive_closest(&self, tpr: f64) -> f64 {
        self.fpr_id_positive_closest(tpr)
    }

    fn fpr_ood_positive_first(&self, tpr: f64) -> f64 {
        self.fpr_ood_positive_first(tpr)
    }
}

/// ID and OOD scores, ready to be measured; larger scores mean more anomalous.
pub struct Graded {
    areas: Areas,
    best_f1: f64,
    id: MeanStd,
    ood: MeanStd,
}

impl Graded {
    /// The mean OOD score minus the mean ID score.
    fn gap(&self) -> f64 {
        self.ood.mean - self.id.mean
    }
}

/// Every measure of ID and OOD scores, in f32 or f64; larger scores mean more anomalous.
///
/// # Errors
/// [`Error::Input`](crate::Error::Input) if a list is empty or holds NaN or an infinity, with its index.
pub fn of_scores<S: Score>(id: &[S], ood: &[S]) -> Result<Measures> {
    of_scores_and(id, ood, &[])
}

/// As [`of_scores`], and these measures after them.
///
/// # Errors
/// As [`of_scores`].
pub fn of_scores_and<S: Score>(id: &[S], ood: &[S], more: &[Measure]) -> Result<Measures> {
    let ranking = Ranking::new(id, ood)?;
    let moments = |scores: &[S]| MeanStd::of(&scores.par_iter().map(|&score| score.into()).collect::<Vec<f64>>());
    let graded = Graded { areas: ranking.areas(), best_f1: ranking.best_f1(), id: moments(id), ood: moments(ood) };
    let value = |measure: &Measure| match measure.needs {
        Needs::Scores(of) => Some((measure.key.to_string(), of(&graded)?)),
        Needs::Rate(tpr, of) => Some((measure.key.to_string(), of(&ranking, tpr))),
        Needs::Logits(_) | Needs::Pixels(_) | Needs::Overlap(_) => None,
    };
    Ok(ALL.iter().chain(more).filter_map(value).collect())
}

/// Every measure of the logits (N, K) of ID test images with these labels.
///
/// # Errors
/// Those of the measures, such as no images or another number of labels.
pub fn of_logits(logits: &Tensor, labels: &[u32]) -> Result<Measures> {
    let mut measures = Measures::new();
    for measure in ALL {
        if let Needs::Logits(of) = measure.needs {
            measures.insert(measure.key.to_string(), of(logits, labels)?);
        }
    }
    Ok(measures)
}
