//! Student-teacher feature pyramid matching (STFPM): a student of the teacher's own kind learns the teacher's stages on normal images, and
//! differs where an image is not normal.
//!
//! map = Π over stages of 1 − cosine of the teacher's and the student's vector at each position, at the finest stage's rows and columns.
//!
//! - Paper: Wang et al., *Student-Teacher Feature Pyramid Matching for Anomaly Detection*, BMVC 2021, <https://arxiv.org/abs/2103.04257>.
//! - Code: `gdwang08/STFPM`; its recipe is `loss: { distillation: { weight: 2 } }`, `optimizer: { sgd: { lr: 0.4, momentum: 0.9, weight_decay:
//!   0.0001 } }`, batches of 32 and 100 epochs. Its map is 2(1 − cosine) of each stage, eight times this one, which orders images alike.
//! - Deviations: the code keeps the epoch with the lowest map on a fifth of the train images; here `keep: best` goes by the loss. The code does
//!   not smooth its map; `map: { smooth: 0 }` does not either.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    models::{
        Kind,
        stages::{bytes, chosen, fixed_maps_of, image_bytes, images_and_stages, maps_of, wrong},
        students::{Combine, OWN, RANDOM_TEACHER},
    },
    nn::{Backbone, Model, Output, Pass, Shape, Shown, backbone::Extractor},
    yaml::problems::Problem,
};

/// Settings of STFPM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Stfpm")]
pub struct Settings {
    /// The teacher, which does not learn; the student has the same layers and starts at random. The paper's: `resnet18`, the teacher with
    /// ImageNet weights.
    #[garde(dive)]
    pub backbone: Backbone,
    /// The stages that the student learns, by name. Default: the last that have a quarter, an eighth and a sixteenth of the image's rows, which
    /// are a ResNet's `layer1`, `layer2` and `layer3`, as in the paper.
    #[garde(inner(length(min = 1)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<Vec<String>>,
    /// How the stages' maps become one. The paper's: `product`.
    #[garde(skip)]
    #[serde(default = "product")]
    pub combine: Combine,
}

fn product() -> Combine {
    Combine::Product
}

impl Kind for Settings {
    fn shows(&self) -> Vec<Output> {
        vec![Output::Pairs, Output::Map]
    }

    fn build(&self, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Model>> {
        let teacher = self.backbone.extractor(shape, vb.clone())?;
        let stages = chosen(&self.backbone, self.stages.as_deref(), Some([shape.height, shape.width]));
        let stages = stages.map_err(wrong("stfpm"))?.unwrap_or_default().into_iter().map(|(name, _)| name).collect();
        let student = self.backbone.extractor(shape, vb.pp(OWN))?;
        Ok(Box::new(Stfpm { teacher, student, stages, combine: self.combine }))
    }

    fn backbone(&self) -> Option<&Backbone> {
        Some(&self.backbone)
    }

    fn own(&self) -> Option<&'static str> {
        Some(OWN)
    }

    fn fixed(&self) -> Option<serde_json::Value> {
        Some(images_and_stages(&self.backbone, self.stages.as_deref()))
    }

    fn fixed_bytes(&self, size: [usize; 2]) -> Option<usize> {
        // The images are kept, too.
        Some(image_bytes(size) + bytes(&self.backbone, self.stages.as_deref(), size)?)
    }

    fn frozen(&self) -> Option<String> {
        Some(RANDOM_TEACHER.to_owned())
    }

    fn problems(&self, size: Option<[usize; 2]>) -> Vec<Problem> {
        chosen(&self.backbone, self.stages.as_deref(), size).err().into_iter().collect()
    }

    fn label(&self, name: &str) -> String {
        format!("{} {name}", self.backbone.label())
    }

    fn smoke(self) -> Self {
        let backbone = self.backbone.smoke().unwrap_or(self.backbone);
        let renamed = |name: String| backbone.layer_in_smoke(&name);
        let stages = self.stages.map(|stages| stages.into_iter().map(renamed).collect());
        Self { stages, backbone, ..self }
    }
}

/// The network.
#[derive(Debug)]
struct Stfpm {
    teacher: Box<dyn Extractor>,
    student: Box<dyn Extractor>,
    stages: Vec<String>,
    combine: Combine,
}

impl Stfpm {
    fn fixed(&self, images: &Tensor, pass: &Pass) -> Result<Vec<Tensor>> {
        // The student sees the images, too.
        let stages = fixed_maps_of(self.teacher.as_ref(), &self.stages, images, pass)?;
        Ok([vec![images.clone()], stages].concat())
    }
}

impl Model for Stfpm {
    fn show(&self, images: &Tensor, pass: &Pass) -> Result<Shown> {
        self.show_fixed(&self.fixed(images, pass)?, pass)
    }

    fn fixed(&self, images: &Tensor) -> Result<Option<Vec<Tensor>>> {
        Self::fixed(self, images, &Pass::eval()).map(Some)
    }

    fn show_fixed(&self, fixed: &[Tensor], pass: &Pass) -> Result<Shown> {
        let Some((images, teacher)) = fixed.split_first() else {
            candle_core::bail!("the student of STFPM sees images, and there are none")
        };
        let student = maps_of(self.student.as_ref(), &self.stages, images, pass)?;
        let pairs: Vec<_> = teacher.iter().cloned().zip(student).collect();
        let all: Vec<usize> = (0..pairs.len()).collect();
        self.combine.shown(pairs, &all, false, pass)
    }

    fn folded(&self) -> Result<Box<dyn Model>> {
        let (stages, combine) = (self.stages.clone(), self.combine);
        Ok(Box::new(Self { teacher: self.teacher.folded()?, student: self.student.folded()?, stages, combine }))
    }
}
