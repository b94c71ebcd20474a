//! Reverse distillation (RD): a student makes a frozen teacher's stages again from a narrow embedding of them, and fails where an image is
//! not normal.
//!
//! map = Σ over stages of 1 − cosine of the teacher's and the student's vector at each position, at the finest stage's rows and columns.
//!
//! - Paper: Deng & Li, *Anomaly Detection via Reverse Distillation from One-Class Embedding*, CVPR 2022, <https://arxiv.org/abs/2201.10703>.
//! - Code: `hq-deng/RD4AD`; its recipe is `loss: { distillation: { of: flat } }`, and Adam: `optimizer: { adamw: { lr: 0.005, betas: [0.5,
//!   0.999], weight_decay: 0 } }`. anomalib has `betas: [0.5, 0.99]`, and multiplies the stages' maps.
//! - Deviation: RD4AD enlarges each stage's map to the image with aligned corners. Here maps are stored at the finest stage's size, enlarged
//!   to it with aligned corners, and further by the detector, whose corners are those of the image: 1.5 pixels of 256 apart at the border.
//! - The bottleneck and the decoder: [`reverse`](crate::nn::reverse).

use candle_core::Tensor;
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    did_you_mean,
    models::{
        Kind,
        stages::{Stage, bytes, chosen, fixed_maps_of, wrong},
        students::{Combine, OWN, RANDOM_TEACHER},
    },
    nn::{
        Backbone, Model, Output, Pass, Shape, Shown,
        backbone::Extractor,
        reverse::{self, Reverse},
    },
    yaml::problems::{Path, Problem},
};

/// The image's rows over those of the embedding, at the usual stages.
const LEAST_SIDE: usize = 32;

/// Settings of reverse distillation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ReverseDistillation")]
pub struct Settings {
    /// The teacher, which does not learn. The paper's: `wide_resnet50_2`, with ImageNet weights.
    #[garde(dive)]
    pub backbone: Backbone,
    /// Three stages of the teacher, by name, each of half the rows and columns of the one before. Default: the last that have a quarter, an
    /// eighth and a sixteenth of the image's rows, which are a ResNet's `layer1`, `layer2` and `layer3`, as in the paper.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<[String; 3]>,
    /// Those of the stages that the map is of. Default: all three, as in the paper.
    #[garde(inner(length(min = 1)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scored: Option<Vec<String>>,
    /// How the stages' maps become one. The paper's: `sum`. anomalib's: `product`.
    #[garde(skip)]
    #[serde(default = "sum")]
    pub combine: Combine,
}

fn sum() -> Combine {
    Combine::Sum
}

impl Kind for Settings {
    fn shows(&self) -> Vec<Output> {
        vec![Output::Pairs, Output::Map]
    }

    fn build(&self, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Model>> {
        Ok(Box::new(ReverseDistillation::new(self, shape, &vb)?))
    }

    fn backbone(&self) -> Option<&Backbone> {
        Some(&self.backbone)
    }

    fn own(&self) -> Option<&'static str> {
        Some(OWN)
    }

    fn fixed(&self) -> Option<serde_json::Value> {
        Some(serde_json::json!(["stages", self.backbone, self.stages]))
    }

    fn fixed_bytes(&self, size: [usize; 2]) -> Option<usize> {
        bytes(&self.backbone, self.named(), size)
    }

    fn frozen(&self) -> Option<String> {
        Some(RANDOM_TEACHER.to_owned())
    }

    fn problems(&self, size: Option<[usize; 2]>) -> Vec<Problem> {
        match chosen(&self.backbone, self.named(), size) {
            Ok(Some(stages)) => self.parts(&stages).err().into_iter().collect(),
            Ok(None) => Vec::new(),
            Err(problem) => vec![problem],
        }
    }

    fn label(&self, name: &str) -> String {
        format!("{} {name}", self.backbone.label())
    }

    fn least_side(&self) -> usize {
        let least = if self.stages.is_none() { LEAST_SIDE } else { 1 };
        self.backbone.least_side().max(least)
    }

    fn smoke(self) -> Self {
        let backbone = self.backbone.smoke().unwrap_or(self.backbone);
        let renamed = |name: String| backbone.layer_in_smoke(&name);
        let stages = self.stages.map(|stages| stages.map(renamed));
        let scored = self.scored.map(|scored| scored.into_iter().map(renamed).collect());
        Self { stages, scored, backbone, ..self }
    }
}

impl Settings {
    fn named(&self) -> Option<&[String]> {
        self.stages.as_ref().map(|stages| &stages[..])
    }

    /// The sizes of the stages, and the places among them of those that the map is of, the finest first.
    fn parts(&self, stages: &[Stage]) -> Result<([reverse::Size; 3], Vec<usize>), Problem> {
        let wrong = |key: &str, message: String| Problem { path: Path::default().join(key), message };
        let [(_, one), (_, two), (_, three)] = stages else {
            return Err(wrong("stages", format!("three are read, not {}", stages.len())));
        };
        let sizes = [*one, *two, *three];
        if let Some(message) = reverse::problem(sizes) {
            return Err(wrong("stages", message));
        }
        let names: Vec<&str> = stages.iter().map(|(name, _)| &name[..]).collect();
        let Some(scored) = &self.scored else { return Ok((sizes, vec![0, 1, 2])) };
        if let Some(other) = scored.iter().find(|name| !names.contains(&&name[..])) {
            let (near, known) = (did_you_mean(other, names.iter().copied()), names.join(", "));
            let message = format!("\"{other}\" is none of the stages that are read{near}; these are {known}");
            return Err(wrong("scored", message));
        }
        Ok((sizes, (0..names.len()).filter(|place| scored.iter().any(|name| name == names[*place])).collect()))
    }
}

/// The network.
#[derive(Debug)]
struct ReverseDistillation {
    teacher: Box<dyn Extractor>,
    stages: Vec<String>,
    student: Reverse,
    /// Places among the stages.
    scored: Vec<usize>,
    combine: Combine,
}

impl ReverseDistillation {
    fn new(settings: &Settings, shape: Shape, vb: &VarBuilder) -> crate::Result<Self> {
        let teacher = settings.backbone.extractor(shape, vb.clone())?;
        let stages = chosen(&settings.backbone, settings.named(), Some([shape.height, shape.width]));
        let stages = stages.map_err(wrong(NAME))?.unwrap_or_default();
        let (sizes, scored) = settings.parts(&stages).map_err(wrong(NAME))?;
        let student = Reverse::new(&settings.backbone, sizes, &vb.pp(OWN))?;
        let stages = stages.into_iter().map(|(name, _)| name).collect();
        Ok(Self { teacher, stages, student, scored, combine: settings.combine })
    }
}

/// The model's name, for messages.
const NAME: &str = "reverse_distillation";

impl Model for ReverseDistillation {
    fn show(&self, images: &Tensor, pass: &Pass) -> candle_core::Result<Shown> {
        self.show_fixed(&fixed_maps_of(self.teacher.as_ref(), &self.stages, images, pass)?, pass)
    }

    fn fixed(&self, images: &Tensor) -> candle_core::Result<Option<Vec<Tensor>>> {
        fixed_maps_of(self.teacher.as_ref(), &self.stages, images, &Pass::eval()).map(Some)
    }

    fn show_fixed(&self, stages: &[Tensor], pass: &Pass) -> candle_core::Result<Shown> {
        let [one, two, three] = stages else {
            candle_core::bail!("reverse distillation is of three stages, not {}", stages.len())
        };
        let made = self.student.forward([one, two, three], pass)?;
        let pairs = stages.iter().cloned().zip(made).collect();
        self.combine.shown(pairs, &self.scored, true, pass)
    }

    fn folded(&self) -> candle_core::Result<Box<dyn Model>> {
        let mut student = self.student.clone();
        student.fold()?;
        let (stages, scored) = (self.stages.clone(), self.scored.clone());
        Ok(Box::new(Self { teacher: self.teacher.folded()?, stages, student, scored, combine: self.combine }))
    }
}
