//! Regression: a student's maps equal a teacher's.
//!
//! value = Σ over pairs of mean (t − s)², over images, channels and positions. With `hard: q`, the first pair's mean is over those of its
//! values alone that are at or above their q-quantile: what the student knows already is not learned further.
//!
//! - Papers: Bergmann et al., *Uninformed Students*, CVPR 2020, equation 5, of several students; Batzner et al., *EfficientAD*, WACV 2024,
//!   sections 3.2 and 3.3: `hard: 0.999` of teacher and student, and two pairs with the autoencoder.
//! - Code: `nelson1425/EfficientAD`, whose quantile is `torch.quantile`, linear between two values.
//! - *Uninformed Students* sums over channels: `weight` is then their number.

use candle_core::{DType, Result, Tensor, bail};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{Term, Value},
    nn::Output,
    yaml::limits::MOST_WEIGHT,
};

/// A student's maps equal the teacher's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Regression")]
pub struct Settings {
    /// Its factor. Both papers': 1.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// Of the first pair, only values at or above this quantile of them are learned. EfficientAD's: 0.999. Default: all are.
    #[garde(range(min = 0.0, max = 0.999_999))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hard: Option<f64>,
}

impl Default for Settings {
    fn default() -> Self {
        Self { weight: 1.0, hard: None }
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
        let hard = self.hard;
        Ok(Box::new(move |step| regression(step.shown.pairs()?, hard)))
    }
}

/// The loss of pairs of maps (N, C, h, w); f32 or f64. Both of a pair have a gradient, unless they are constants.
///
/// # Errors
/// If there are no pairs, or shapes differ.
pub fn regression(pairs: &[(Tensor, Tensor)], hard: Option<f64>) -> Result<Tensor> {
    let squares = |(teacher, student): &(Tensor, Tensor)| {
        if teacher.dims() != student.dims() {
            bail!("a teacher's maps {:?} beside a student's {:?}", teacher.dims(), student.dims());
        }
        (student - teacher)?.sqr()
    };
    let Some((first, others)) = pairs.split_first() else { bail!("regression: there are no maps to compare") };
    let first = squares(first)?;
    let first = match hard {
        None => first.mean_all()?,
        Some(quantile) => mean_from(&first, quantile)?,
    };
    others.iter().try_fold(first, |sum, pair| sum + squares(pair)?.mean_all()?)
}

/// The mean of the values at or above a quantile of them.
fn mean_from(values: &Tensor, quantile: f64) -> Result<Tensor> {
    let mut sorted = values.detach().flatten_all()?.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    if sorted.is_empty() {
        bail!("regression: there are no values");
    }
    let place = quantile * (sorted.len() - 1) as f64;
    let (_, low, above) = sorted.select_nth_unstable_by(place as usize, f64::total_cmp);
    let low = *low;
    let next = above.iter().copied().min_by(f64::total_cmp).unwrap_or(low);
    let least = low + (next - low) * place.fract();
    // In the type of the values, so that what is compared was rounded alike.
    let mask = values
        .detach()
        .ge(&Tensor::new(least, values.device())?.to_dtype(values.dtype())?.broadcast_as(values.shape())?)?;
    let mask = mask.to_dtype(values.dtype())?;
    (values * &mask)?.sum_all()? / mask.sum_all()?
}
