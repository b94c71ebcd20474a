//! Features of levels handed back to the pixels that hit the levels.

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{Hits, Quantiser, plain};
use crate::ops::{
    Float,
    fresh::fresh,
    op::{self, Array, Op},
};

/// Σ over levels n of `features` (N, C, levels) times the weight of pixel k's hit of n, where `similarities` (N, K) are quantised as in
/// [`quantise_and_count`](super::quantise_and_count): (N, C, K).
///
/// The gradient is with respect to both, and does not pass through which levels are hit. All 0 where a row of similarities is constant.
///
/// # Errors
/// When the shapes do not fit, or there are no values or no levels.
pub fn redistribute(features: &Tensor, similarities: &Tensor, quantiser: Quantiser) -> Result<Tensor> {
    let ((images, channels, levels), (rows, pixels)) = (features.dims3()?, similarities.dims2()?);
    quantiser.check(Redistribute::NAME)?;
    if rows != images || levels != quantiser.levels || [images, channels, pixels].contains(&0) {
        bail!(
            "redistribute: features {:?}, similarities {:?} and {quantiser:?} do not fit",
            features.dims(),
            similarities.dims()
        );
    }
    match op::is_on_gpu(features) {
        true => plain::redistribute(features, similarities, quantiser),
        false => op::apply(Redistribute(quantiser), [features, similarities]),
    }
}

struct Redistribute(Quantiser);

impl Op<2> for Redistribute {
    const NAME: &'static str = "redistribute";

    fn cpu<T: Float>(&self, [features, similarities]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let ((images, channels, levels), (_, pixels)) = (features.shape.dims3()?, similarities.shape.dims2()?);
        let y = fresh(images * channels * pixels, |y| {
            let images = y.par_chunks(channels * pixels).zip(features.data.par_chunks(channels * levels));
            let images = images.zip(similarities.data.par_chunks(pixels)).map(|((y, features), similarities)| {
                let hits = Hits::new(self.0, similarities.iter().copied());
                let mut row = vec![T::zero(); hits.row()];
                let rows = y.chunks(pixels).zip(features.chunks(levels)).map(|(y, features)| {
                    row[1..=levels].copy_from_slice(features);
                    let row = &row;
                    let weights = hits.weights[0].iter().zip(&hits.weights[1]);
                    y.write(hits.below.iter().zip(weights).map(move |(below, (lower, upper))| {
                        let below = *below as usize;
                        row[below] * *lower + row[below + 1] * *upper
                    }))
                });
                rows.sum()
            });
            images.sum()
        });
        Ok((y, (images, channels, pixels).into()))
    }

    fn gradients(
        &self,
        [features, similarities]: [&Tensor; 2],
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        let packed = op::apply_no_grad(&RedistributeGradient(self.0), [features, similarities, dy])?;
        let of_features = packed.narrow(0, 0, features.elem_count())?.reshape(features.shape())?;
        let of_similarities = packed.narrow(0, features.elem_count(), similarities.elem_count())?;
        Ok([Some(of_features), Some(of_similarities.reshape(similarities.shape())?)])
    }
}

/// (features, similarities, dY) to the gradients of both, one after the other.
struct RedistributeGradient(Quantiser);

impl Op<3> for RedistributeGradient {
    const NAME: &'static str = "redistribute's gradient";

    fn cpu<T: Float>(&self, [features, similarities, dy]: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        let ((_, channels, levels), (_, pixels)) = (features.shape.dims3()?, similarities.shape.dims2()?);
        let packed = fresh(features.data.len() + similarities.data.len(), |packed| {
            let (of_features, of_similarities) = packed.split_at(features.data.len());
            let images = of_features.par_chunks(channels * levels).zip(of_similarities.par_chunks(pixels));
            let images = images.zip(features.data.par_chunks(channels * levels));
            let images = images.zip(similarities.data.par_chunks(pixels)).zip(dy.data.par_chunks(channels * pixels));
            let images = images.map(|((((of_features, of_similarities), features), similarities), dy)| {
                let hits = Hits::new(self.0, similarities.iter().copied());
                let (mut row, mut sums) = (vec![T::zero(); hits.row()], vec![T::zero(); hits.row()]);
                let mut of_weights = [vec![T::zero(); pixels], vec![T::zero(); pixels]];
                let rows = of_features.chunks(levels).zip(features.chunks(levels)).zip(dy.chunks(pixels));
                let rows = rows.map(|((of_features, features), dy)| {
                    row[1..=levels].copy_from_slice(features);
                    sums.fill(T::zero());
                    let [lower, upper] = &mut of_weights;
                    let pixels = hits.below.iter().zip(hits.weights[0].iter().zip(&hits.weights[1])).zip(dy);
                    for (((below, (lower_weight, upper_weight)), dy), (lower, upper)) in
                        pixels.zip(lower.iter_mut().zip(upper))
                    {
                        let below = *below as usize;
                        sums[below] += *dy * *lower_weight;
                        sums[below + 1] += *dy * *upper_weight;
                        *lower += *dy * row[below];
                        *upper += *dy * row[below + 1];
                    }
                    of_features.write(sums[1..=levels].iter().copied())
                });
                let of_features = rows.sum();
                let gradient = hits.gradient(of_weights.each_ref().map(Vec::as_slice), vec![0.0; hits.row()]);
                [of_features, of_similarities.write(gradient.into_iter())].into_iter().sum()
            });
            images.sum()
        });
        let shape = packed.len().into();
        Ok((packed, shape))
    }
}
