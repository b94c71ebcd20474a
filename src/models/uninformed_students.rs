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
//! - With `further` sizes of patches the map is the mean of all sizes' parts, each brought to the rows and columns of the first, bilinearly.
//! - Deviations: the paper sums both parts over channels, which changes nothing once they are standardised, and adds them, which doubles the
//!   map. It describes every pixel; here it is every patch at the network's stride.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    models::{
        Kind,
        stages::image_bytes,
        teacher::{
            MOST_FURTHER, TEACHER, UNTAUGHT, all_sizes, apart, described, described_bytes, grid, mean_of,
            no_size_twice, of_size, taught_by,
        },
    },
    nn::{
        Mode, Model, Output, Pass, Shape, Shown,
        patch_description::{self, Layers, PatchNetwork},
        standard::{Standard, Survey},
    },
    ops::{self, Interpolation},
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
    /// The same of other sizes of patches. The paper has three sizes, `p17`, `p33` and `p65`. Default: none.
    #[garde(length(max = MOST_FURTHER), dive, custom(no_size_twice(&self.patches)))]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<patch_description::Settings>,
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
        Self { patches, further: Vec::new(), padding: false, students: 3 }
    }
}

impl Settings {
    fn patches(&self) -> impl Iterator<Item = &patch_description::Settings> {
        all_sizes(&self.patches, &self.further)
    }
}

impl Kind for Settings {
    fn shows(&self) -> Vec<Output> {
        vec![Output::Pairs, Output::Map, Output::Parts]
    }

    fn build(&self, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Model>> {
        let size = [shape.height, shape.width];
        let scale = |(at, patches): (usize, &patch_description::Settings)| {
            grid("uninformed_students", patches, self.padding, size)?;
            let network = |vb: VarBuilder| PatchNetwork::new(patches, shape.channels, self.padding, 1, &vb);
            let students = (0..self.students).map(|student| network(of_size(vb.pp("students"), at).pp(student)));
            Ok(Scale {
                teacher: network(of_size(vb.pp(TEACHER), at))?,
                standard: Standard::new(patches.outputs, &of_size(vb.pp("teacher_outputs"), at))?,
                students: students.collect::<Result<_>>()?,
                names: if self.further.is_empty() { ["error", "variance"] } else { names(patches.layers) },
            })
        };
        let scales = self.patches().enumerate().map(scale).collect::<crate::Result<_>>()?;
        Ok(Box::new(Students { scales, size }))
    }

    fn fixed(&self) -> Option<serde_json::Value> {
        let first = taught_by(&self.patches, self.padding);
        Some(if self.further.is_empty() { first } else { serde_json::json!([first, self.further]) })
    }

    fn fixed_bytes(&self, size: [usize; 2]) -> Option<usize> {
        let all = self.patches().map(|patches| described_bytes(patches, self.padding, size));
        Some(image_bytes(size) + all.sum::<Option<usize>>()?)
    }

    fn frozen(&self) -> Option<String> {
        Some(UNTAUGHT.to_owned())
    }

    fn least_side(&self) -> usize {
        self.patches().map(|patches| patches.layers.least_side(self.padding)).max().unwrap_or(1)
    }

    fn smoke(self) -> Self {
        let further = self.further.into_iter().map(patch_description::Settings::smoke).collect();
        Self { patches: self.patches.smoke(), further, padding: true, students: self.students.min(2) }
    }

    fn on_small_images(self) -> Self {
        self.smoke()
    }
}

/// The networks of all sizes of patches.
#[derive(Debug, Clone)]
struct Students {
    scales: Vec<Scale>,
    /// Rows and columns of images.
    size: [usize; 2],
}

/// Those of one size.
#[derive(Debug, Clone)]
struct Scale {
    teacher: PatchNetwork,
    standard: Standard,
    students: Vec<PatchNetwork>,
    /// Of its two parts of the map.
    names: [&'static str; 2],
}

/// What the parts of the map are called, where there are several sizes.
fn names(layers: Layers) -> [&'static str; 2] {
    match layers {
        Layers::Small => ["error of small", "variance of small"],
        Layers::P17 => ["error of p17", "variance of p17"],
        Layers::P33 => ["error of p33", "variance of p33"],
        Layers::P65 => ["error of p65", "variance of p65"],
    }
}

impl Scale {
    /// The pairs of what the teacher says and each student made; in evaluation the parts of the map at these rows and columns, too, or at its
    /// own.
    fn show(
        &self,
        images: &Tensor,
        teacher: &Tensor,
        students: &Students,
        grid: Option<[usize; 2]>,
        pass: &Pass,
    ) -> Result<Shown> {
        let made = match pass.is_sketch() {
            true => vec![teacher.clone(); self.students.len()],
            false => self.students.iter().map(|student| student.forward(images, pass)).collect::<Result<Vec<_>>>()?,
        };
        let mut parts = Vec::new();
        if pass.mode() == Mode::Eval {
            let all = Tensor::stack(&made, 0)?;
            let mean = all.mean(0)?;
            let variance = all.broadcast_sub(&mean.unsqueeze(0)?)?.sqr()?.mean(0)?.mean(1)?;
            for (name, part) in self.names.into_iter().zip([apart(teacher, &mean)?, variance]) {
                let part = self.teacher.with_margin(&part, students.size)?;
                parts.push((name, at_grid(part, grid)?));
            }
        }
        let pairs = made.into_iter().map(|student| (teacher.clone(), student)).collect();
        Ok(Shown { pairs, parts, ..Shown::default() })
    }
}

/// A (N, h, w) map at these rows and columns.
fn at_grid(map: Tensor, grid: Option<[usize; 2]>) -> Result<Tensor> {
    match grid {
        Some([rows, columns]) if map.dims()[1..] != [rows, columns] => {
            ops::resize(&map.unsqueeze(1)?, (rows, columns), Interpolation::Bilinear, false)?.squeeze(1)
        }
        _ => Ok(map),
    }
}

impl Students {
    /// The images, and what each size's teacher says of them.
    fn taught(&self, images: &Tensor, pass: &Pass) -> Result<Vec<Tensor>> {
        let mut all = vec![images.clone()];
        for scale in &self.scales {
            all.push(match pass.is_sketch() {
                // One stands for its teacher and the others: all make one shape.
                true => scale.students[0].forward(images, pass)?,
                false => described(&scale.teacher, &scale.standard, images, pass)?,
            });
        }
        Ok(all)
    }
}

impl Model for Students {
    fn show(&self, images: &Tensor, pass: &Pass) -> Result<Shown> {
        self.show_fixed(&self.taught(images, pass)?, pass)
    }

    fn fixed(&self, images: &Tensor) -> Result<Option<Vec<Tensor>>> {
        self.taught(images, &Pass::eval()).map(Some)
    }

    fn show_fixed(&self, fixed: &[Tensor], pass: &Pass) -> Result<Shown> {
        let Some((images, taught)) = fixed.split_first().filter(|(_, taught)| taught.len() == self.scales.len()) else {
            candle_core::bail!("students see images and teachers' descriptions, not {} tensors", fixed.len())
        };
        let (mut shown, mut grid) = (Shown::default(), None);
        for (scale, teacher) in self.scales.iter().zip(taught) {
            let of = scale.show(images, teacher, self, grid, pass)?;
            if let Some((_, part)) = of.parts.first() {
                grid = Some([part.dim(1)?, part.dim(2)?]);
            }
            shown.pairs.extend(of.pairs);
            shown.parts.extend(of.parts);
        }
        if pass.mode() == Mode::Eval {
            shown.map = Some(mean_of(&shown.parts)?);
        }
        Ok(shown)
    }

    fn survey(&self) -> Option<Survey<'_>> {
        let of = |scale: &Scale, images: &Tensor| scale.teacher.forward(images, &Pass::eval());
        let (first, others) = self.scales.split_first()?;
        let start = Survey::new(&first.standard, move |images| of(first, images));
        Some(others.iter().fold(start, |survey, scale| survey.and(&scale.standard, move |images| of(scale, images))))
    }

    fn folded(&self) -> Result<Box<dyn Model>> {
        Ok(Box::new(self.clone()))
    }
}
