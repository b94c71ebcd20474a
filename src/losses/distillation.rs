//! Distillation: a student's maps point where a teacher's do.
//!
//! With t and s the teacher's and the student's vector of a position, d = 1 − t·s / (‖t‖·‖s‖), which is ½·‖t/‖t‖ − s/‖s‖‖²;
//! value = Σ over stages of the mean over images and positions of d. With `of: flat`, t and s are whole maps of an image, so that there is
//! one d of each image and stage.
//!
//! - Papers: Wang et al., *Student-Teacher Feature Pyramid Matching for Anomaly Detection* (STFPM), BMVC 2021, equations 1 to 3; Deng & Li,
//!   *Anomaly Detection via Reverse Distillation from One-Class Embedding*, CVPR 2022, equations 1 and 2. Both are of positions.
//! - Code: `hq-deng/RD4AD` and anomalib's reverse distillation are `flat`; `gdwang08/STFPM` has no ½, which is `weight: 2` here; anomalib's
//!   STFPM sums over images, which is a `weight` of their number in a batch.
//! - A position's vector of length 0 has no direction, and no gradient; in PyTorch it would be 1e8 times that of others.

use candle_core::{Result, Tensor, bail};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value},
    nn::Output,
    ops,
    yaml::limits::MOST_WEIGHT,
};

/// Added to the square of a map's length: PyTorch's `cosine_similarity` takes lengths of 1e-8 at least.
const LEAST: f64 = 1e-16;

/// A student's maps point where the teacher's do.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Distillation")]
pub struct Settings {
    /// Its factor. Both papers': 1.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// What is compared. Both papers': `pixel`. The code of reverse distillation: `flat`.
    #[garde(skip)]
    pub of: Of,
}

/// What of a teacher's and a student's maps is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// The vector of each position.
    #[default]
    Pixel,
    /// All values of an image at a stage, as one vector.
    Flat,
}

impl Default for Settings {
    fn default() -> Self {
        Self { weight: 1.0, of: Of::default() }
    }
}

impl Term for Settings {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn needs(&self) -> &'static [Output] {
        &[Output::Pairs]
    }

    fn value(&self, _: &[u32], _: usize) -> crate::Result<Value> {
        let of = self.of;
        Ok(Box::new(move |step| distillation(step.shown.pairs()?, of)))
    }
}

/// 1 − cosine of the angle between a teacher's and a student's vector at every position: two (N, C, h, w) to (N, h, w), in 0..2.
///
/// # Errors
/// If shapes differ or are empty.
pub fn angles(teacher: &Tensor, student: &Tensor) -> Result<Tensor> {
    if teacher.dims() != student.dims() {
        bail!("a teacher's maps {:?} beside a student's {:?}", teacher.dims(), student.dims());
    }
    ops::cosine_similarity(student, &teacher.detach())?.affine(-1.0, 1.0)
}

/// The loss of (teacher's, student's) maps (N, C, h, w); f32 or f64.
///
/// # Errors
/// If there are no pairs, or shapes differ.
pub fn distillation(pairs: &[(Tensor, Tensor)], of: Of) -> Result<Tensor> {
    let stage = |(teacher, student): &(Tensor, Tensor)| match of {
        Of::Pixel => angles(teacher, student)?.mean_all(),
        Of::Flat => {
            let [teacher, student] = [teacher.detach(), student.clone()].map(|maps| maps.flatten_from(1));
            let (teacher, student) = (teacher?, student?);
            let length = |maps: &Tensor| (maps.sqr()?.sum(1)? + LEAST)?.sqrt();
            let cosine = ((&teacher * &student)?.sum(1)? / (length(&teacher)? * length(&student)?)?)?;
            cosine.affine(-1.0, 1.0)?.mean_all()
        }
    };
    let Some((first, others)) = pairs.split_first() else { bail!("distillation: there are no maps to compare") };
    others.iter().try_fold(stage(first)?, |sum, pair| sum + stage(pair)?)
}
