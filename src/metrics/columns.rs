//! What a table may ask for: its columns, and the conventions by which they are computed.

use std::{fmt, str::FromStr};

use schemars::{JsonSchema, Schema, json_schema};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, value::StringDeserializer},
};

/// A number in a table. All but the accuracies and the gaps follow the table's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", remote = "Self")]
#[schemars(transform = with_fpr_at)]
pub enum Column {
    /// Share of ID test images classified rightly.
    Accuracy,
    /// Mean over classes of the share of their ID test images classified rightly.
    BalancedAccuracy,
    /// The smallest share of a class's ID test images that are classified rightly.
    WorstClassAccuracy,
    /// False positive rate at 95 % true positive rate.
    Fpr95,
    /// Area under the ROC curve.
    Auroc,
    /// Area under the precision-recall curve of the protocol's positive class, as the protocol integrates it.
    Aupr,
    /// Area under the precision-recall curve with ID positive, integrated by the protocol's rule.
    AuprIn,
    /// Area under the precision-recall curve with OOD positive, integrated by the protocol's rule.
    AuprOut,
    /// The mean OOD score minus the mean ID score, in the score's own unit.
    Gap,
    /// The same in standard deviations of the ID scores.
    GapSd,
    /// Average precision, anomalous positive, whatever the protocol.
    Ap,
    /// The best F1 over all thresholds, anomalous positive.
    BestF1,
    /// Of maps: area under the ROC curve of pixels.
    PixelAuroc,
    /// Of maps: average precision of pixels.
    PixelAp,
    /// Of maps: the best F1 of pixels over all thresholds.
    PixelF1,
    /// Of maps: per-region overlap, integrated up to a false positive rate of 0.3.
    Pro,
    /// Of maps: area under per-image recall at 1e-5 to 1e-4 false positives.
    Aupimo,
    /// `fpr@0.9`: false positive rate at this true positive rate.
    #[serde(skip)]
    FprAt(Tpr),
    /// `pro@0.05`: per-region overlap, integrated up to this false positive rate.
    #[serde(skip)]
    ProAt(Tpr),
}

impl Column {
    /// Whether it is about how a network classifies ID images, and about no OOD set.
    pub fn is_of_classes(self) -> bool {
        matches!(self, Self::Accuracy | Self::BalancedAccuracy | Self::WorstClassAccuracy)
    }

    /// Whether it is about maps and masks.
    pub fn is_of_pixels(self) -> bool {
        matches!(self, Self::PixelAuroc | Self::PixelAp | Self::PixelF1 | Self::Pro | Self::ProAt(_) | Self::Aupimo)
    }
}

/// What stands before the rate in `fpr@0.9`.
const FPR_AT: &str = "fpr@";
/// What stands before the limit in `pro@0.05`.
const PRO_AT: &str = "pro@";

/// A true positive rate above 0 and up to 1, in millionths, so that equal ones are one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tpr(u32);

impl Tpr {
    /// As a fraction of 1.
    pub fn share(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}

impl fmt::Display for Tpr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.share())
    }
}

impl FromStr for Tpr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let millionths = text.parse::<f64>().map_or(f64::NAN, |share| share * 1e6);
        let rounded = millionths.round();
        match (1.0..=1e6).contains(&rounded) && (millionths - rounded).abs() < 1e-3 {
            true => Ok(Self(rounded as u32)),
            false => Err(format!("{text}: the rate is a number above 0 and up to 1, with six digits at most")),
        }
    }
}

impl Serialize for Column {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::FprAt(tpr) => serializer.collect_str(&format_args!("{FPR_AT}{tpr}")),
            Self::ProAt(limit) => serializer.collect_str(&format_args!("{PRO_AT}{limit}")),
            named => Self::serialize(named, serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Column {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let at = |prefix: &str, usual: f64, to: fn(Tpr) -> Self| {
            let rate = text.strip_prefix(prefix)?;
            let wrong = |error: String| D::Error::custom(format_args!("{prefix}{error}: {prefix}{usual}"));
            Some(rate.parse().map(to).map_err(wrong))
        };
        match at(FPR_AT, 0.9, Self::FprAt).or_else(|| at(PRO_AT, 0.05, Self::ProAt)) {
            Some(found) => found,
            None => Self::deserialize(StringDeserializer::new(text)),
        }
    }
}

/// The schema of the named columns, and the pattern of those with a rate.
fn with_fpr_at(schema: &mut Schema) {
    let at = json_schema!({
        "description": "False positive rate at this true positive rate: `fpr@0.9`.",
        "type": "string",
        "pattern": "^fpr@(0?\\.[0-9]{1,6}|1)$"
    });
    let pro = json_schema!({
        "description": "Per-region overlap, integrated up to this false positive rate: `pro@0.05`.",
        "type": "string",
        "pattern": "^pro@(0?\\.[0-9]{1,6}|1)$"
    });
    if let Some(columns) = schema.get_mut("oneOf").and_then(|columns| columns.as_array_mut()) {
        columns.push(at.into());
        columns.push(pro.into());
    }
}

/// The two conventions of the field (see `metrics::ranking`), and the complete protocols that are built on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// ID positive, threshold whose recall is closest to 95 %, step-wise average precision (energy_ood, the sparsity paper).
    #[default]
    IdPositiveClosest,
    /// OOD positive, first threshold with recall ≥ 95 %, trapezoid under the PR curve (OpenOOD).
    OodPositiveFirst,
    /// All of energy_ood's protocol, which the sparsity paper follows: `id_positive_closest` on ten random subsets of each OOD set
    /// with a fifth as many images as the ID set.
    EnergyOod,
    /// All of OpenOOD v1.5's: `ood_positive_first` on complete OOD sets, averaged by their groups (`near` and `far` there). Its
    /// splits are lists: `format: image_list`.
    #[serde(rename = "openood_v1_5")]
    OpenoodV15,
}

impl Protocol {
    /// What a complete protocol takes as positive, and where it cuts: one of the first two.
    #[must_use]
    pub fn convention(self) -> Self {
        match self {
            Self::IdPositiveClosest | Self::EnergyOod => Self::IdPositiveClosest,
            Self::OodPositiveFirst | Self::OpenoodV15 => Self::OodPositiveFirst,
        }
    }
}
