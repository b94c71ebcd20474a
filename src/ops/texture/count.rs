//! The one-dimensional quantisation and counting operator.

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{Hits, Quantiser, of_counts, plain};
use crate::ops::{
    Float,
    op::{self, Array, Op},
};

/// The levels of each row of `similarities` (N, K), and the share of the hits that each level has: (N, 2, levels).
///
/// The gradient passes through the weights of the hits and through the levels, not through which levels are hit. Shares are 0 where a row
/// is constant: within 1e-6.
///
/// # Errors
/// When there are no similarities or no levels.
pub fn quantise_and_count(similarities: &Tensor, quantiser: Quantiser) -> Result<Tensor> {
    let (_, _) = similarities.dims2()?;
    quantiser.check(Count::NAME)?;
    if similarities.elem_count() == 0 {
        bail!("{}: there are no similarities in {:?}", Count::NAME, similarities.dims());
    }
    match op::is_on_gpu(similarities) {
        true => plain::quantise_and_count(similarities, quantiser),
        false => op::apply(Count(quantiser), [similarities]),
    }
}

struct Count(Quantiser);

/// The weights that each level has, with a place at either end, and their sum.
fn counts<T: Float>(hits: &Hits<T>) -> (Vec<f64>, f64) {
    let mut counts = vec![0.0; hits.row()];
    for (i, &below) in hits.below.iter().enumerate() {
        for (count, weight) in counts[below as usize..].iter_mut().zip(hits.pair(i)) {
            *count += weight;
        }
    }
    let total = counts.iter().sum();
    (counts, total)
}

/// Each count divided by the sum; 0 where there is none.
fn share(count: f64, total: f64) -> f64 {
    if total == 0.0 { 0.0 } else { count / total }
}

impl Op<1> for Count {
    const NAME: &'static str = "quantise_and_count";

    fn cpu<T: Float>(&self, [similarities]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let ((images, pixels), levels) = (similarities.shape.dims2()?, self.0.levels);
        let rows = similarities.data.par_chunks(pixels).flat_map_iter(|row| {
            let hits = Hits::new(self.0, row.iter().copied());
            let (counts, total) = counts(&hits);
            let shares = counts[1..=levels].iter().map(|count| share(*count, total));
            hits.levels().chain(shares).map(T::from_f64).collect::<Vec<T>>()
        });
        Ok((rows.collect(), (images, 2, levels).into()))
    }

    fn gradients(&self, [similarities]: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(op::apply_no_grad(&CountGradient(self.0), [similarities, dy])?)])
    }
}

/// (similarities, dY) to their gradient.
struct CountGradient(Quantiser);

impl Op<2> for CountGradient {
    const NAME: &'static str = "quantise_and_count's gradient";

    fn cpu<T: Float>(&self, [similarities, dy]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let ((_, pixels), levels) = (similarities.shape.dims2()?, self.0.levels);
        let rows = similarities.data.par_chunks(pixels).zip(dy.data.par_chunks(2 * levels));
        let rows = rows.flat_map_iter(|(row, dy)| {
            let hits = Hits::new(self.0, row.iter().copied());
            let (counts, total) = counts(&hits);
            let shares: Vec<f64> = counts.iter().map(|count| share(*count, total)).collect();
            let [of_levels, dy] = [0, levels].map(|from| padded(&dy[from..from + levels]));
            let of_counts: Vec<T> = of_counts(&shares, &dy, total).into_iter().map(T::from_f64).collect();
            let weights =
                [0, 1].map(|side| hits.below.iter().map(|below| of_counts[*below as usize + side]).collect::<Vec<T>>());
            hits.gradient(weights.each_ref().map(Vec::as_slice), of_levels)
        });
        Ok((rows.collect(), similarities.shape.clone()))
    }
}

/// With a 0 at either end.
fn padded<T: Float>(row: &[T]) -> Vec<f64> {
    [0.0].into_iter().chain(row.iter().map(|value| value.to_f64())).chain([0.0]).collect()
}
