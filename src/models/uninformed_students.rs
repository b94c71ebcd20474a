//! Uninformed students (US): several students learn a teacher's descriptions of patches on normal images; where an image is not normal, they
//! are wrong, and differ from each other.
//!
//! error = mean over channels of (teacher − mean of students)², variance = mean over channels of the students' variance;
//! map = ½·error + ½·variance. With `map: { of: deviations }` both are standardised first, as in the paper.
//!
//! - Paper: Bergmann, Fauser, Sattlegger & Steger, *Uninformed Students: Student-Teacher Anomaly Detection with Discriminative Latent
//!   Embeddings*, CVPR 2020, <https://arxiv.org/abs/1911.02357>, sections 3.2 and 3.3.
//! - Code: none was published. `denguir/student-teacher-anomaly-detection` has `loss: { regression: {} }`, Adam with learning rate 0.0001 and
//!   weight decay 0.00001, 15 epochs.
//! - The teacher is [taken](crate::models::patch_description) `from` another network. Its outputs are standardised by the train images.
//! - Deviations: the paper sums both parts over channels, which changes nothing once they are standardised, and adds them, which doubles the
//!   map. It describes every pixel; here it is every patch at the network's stride. It has the mean of three sizes of patches; here it is one:
//!   `p17`, `p33` or `p65`.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    models::{
        Kind,
        teacher::{TEACHER, UNTAUGHT, apart, grid, mean_of, taught, taught_by, taught_bytes},
    },
    nn::{
        Mode, Model, Output, Pass, Shape, Shown,
        patch_description::{self, Layers, PatchNetwork},
        standard::{Standard, Survey},
    },
};

/// Settings of uninformed students.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "UninformedStudents")]
pub struct Settings {
    /// The teacher's network, as where it was distilled, and that of every student. Default: the paper's for patches of 33×33 pixels, with 128
    /// outputs.
    #[garde(dive)]
    pub patches: patch_description::Settings,
    /// Whether zeros stand beyond the image's border. Default: `false`; the paper mirrors the image.
    #[garde(skip)]
    pub padding: bool,
    /// How many students. The paper's: 3.
    #[garde(range(min = 2, max = 32))]
    pub students: usize,
}

impl Default for Settings {
    fn default() -> Self {
        let patches = patch_description::Settings { layers: Layers::P33, channels: 128, outputs: 128 };
        Self { patches, padding: false, students: 3 }
    }
}

impl Kind for Settings {
    fn shows(&self) -> Vec<Output> {
        vec![Output::Pairs, Output::Map, Output::Parts]
    }

    fn build(&self, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Model>> {
        let size = [shape.height, shape.width];
        grid("uninformed_students", &self.patches, self.padding, size)?;
        let network = |vb: VarBuilder| PatchNetwork::new(&self.patches, shape.channels, self.padding, 1, &vb);
        let students = (0..self.students).map(|student| network(vb.pp("students").pp(student)));
        Ok(Box::new(Students {
            teacher: network(vb.pp(TEACHER))?,
            standard: Standard::new(self.patches.outputs, &vb.pp("teacher_outputs"))?,
            students: students.collect::<Result<_>>()?,
            size,
        }))
    }

    fn fixed(&self) -> Option<serde_json::Value> {
        Some(taught_by(&self.patches, self.padding))
    }

    fn fixed_bytes(&self, size: [usize; 2]) -> Option<usize> {
        taught_bytes(&self.patches, self.padding, size)
    }

    fn frozen(&self) -> Option<String> {
        Some(UNTAUGHT.to_owned())
    }

    fn least_side(&self) -> usize {
        self.patches.layers.least_side(self.padding)
    }

    fn smoke(self) -> Self {
        Self { patches: self.patches.smoke(), padding: true, students: self.students.min(2) }
    }

    fn on_small_images(self) -> Self {
        self.smoke()
    }
}

/// The networks.
#[derive(Debug, Clone)]
struct Students {
    teacher: PatchNetwork,
    standard: Standard,
    students: Vec<PatchNetwork>,
    /// Rows and columns of images.
    size: [usize; 2],
}

impl Model for Students {
    fn show(&self, images: &Tensor, pass: &Pass) -> Result<Shown> {
        self.show_fixed(&taught(&self.teacher, &self.standard, images, pass)?, pass)
    }

    fn fixed(&self, images: &Tensor) -> Result<Option<Vec<Tensor>>> {
        taught(&self.teacher, &self.standard, images, &Pass::eval()).map(Some)
    }

    fn show_fixed(&self, fixed: &[Tensor], pass: &Pass) -> Result<Shown> {
        let [images, teacher] = fixed else {
            candle_core::bail!("students see images and a teacher's descriptions, not {} tensors", fixed.len())
        };
        let made = self.students.iter().map(|student| student.forward(images, pass)).collect::<Result<Vec<_>>>()?;
        let (mut parts, mut map) = (Vec::new(), None);
        if pass.mode() == Mode::Eval {
            let all = Tensor::stack(&made, 0)?;
            let mean = all.mean(0)?;
            let variance = all.broadcast_sub(&mean.unsqueeze(0)?)?.sqr()?.mean(0)?.mean(1)?;
            for (name, part) in [("error", apart(teacher, &mean)?), ("variance", variance)] {
                parts.push((name, self.teacher.with_margin(&part, self.size)?));
            }
            map = Some(mean_of(&parts)?);
        }
        let pairs = made.into_iter().map(|student| (teacher.clone(), student)).collect();
        Ok(Shown { pairs, parts, map, ..Shown::default() })
    }

    fn survey(&self) -> Option<Survey<'_>> {
        Some(Survey::new(&self.standard, |images| self.teacher.forward(images, &Pass::eval())))
    }

    fn folded(&self) -> Result<Box<dyn Model>> {
        Ok(Box::new(self.clone()))
    }
}
