//! Images changed otherwise than by denoising, by as much: what tells whether it is denoising that separates, or any change so large.

use candle_core::Tensor;
use rayon::prelude::*;

use crate::{Result, detectors::numbers};

/// How an image is changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Noise of a level is added and taken away again by the denoiser.
    #[default]
    Denoising,
    /// Gaussian noise is added.
    Noise,
    /// It is blurred by a Gaussian.
    Blur,
    /// It is mixed with a train image.
    Interpolation,
}

/// Halvings of the range that the right change is in: what is left of it is smaller than a grey level.
const HALVINGS: usize = 30;

/// How many deviations of noise are as far as it goes: pixels in -1..1 are cut off long before.
pub(in crate::detectors) const FARTHEST: f64 = 8.0;

/// A blur of more rows than this is the mean, as far as bytes can tell.
const WIDEST: f64 = 1e4;

/// (N, C, H, W) images in -1..1 that are as far from `first`, each by its root mean square, as `denoised` are: on the line towards `towards`,
/// with what leaves the range cut off, or blurred where there is none. What cannot go so far goes as far as it can.
pub(in crate::detectors) fn as_far(first: &Tensor, denoised: &Tensor, towards: Option<&Tensor>) -> Result<Tensor> {
    let (_, _, rows, columns) = first.dims4()?;
    let size = first.elem_count() / first.dim(0)?;
    // The network is shown pixels within -1..1, and distances are of what it is shown.
    let shown = |images: &Tensor| -> Result<Vec<f64>> {
        Ok(numbers(images)?.into_iter().map(|x| x.clamp(-1.0, 1.0)).collect())
    };
    let (from, as_far) = (shown(first)?, shown(denoised)?);
    let towards = towards.map(numbers).transpose()?;
    let image = |at: usize| {
        let part = at * size..(at + 1) * size;
        let from = &from[part.clone()];
        let wanted = distance(from, &as_far[part.clone()]);
        let changed = |share: f64| match &towards {
            Some(towards) => {
                let ends = from.iter().zip(&towards[part.clone()]);
                ends.map(|(from, towards)| (from + share * (towards - from)).clamp(-1.0, 1.0)).collect()
            }
            None => blurred(from, [rows, columns], WIDEST * share / (1.0 + WIDEST * (1.0 - share))),
        };
        let whole = changed(1.0);
        if distance(from, &whole) <= wanted {
            return whole;
        }
        let (mut near, mut far) = (0.0, 1.0);
        for _ in 0..HALVINGS {
            let middle = 0.5 * (near + far);
            let side = if distance(from, &changed(middle)) < wanted { &mut near } else { &mut far };
            *side = middle;
        }
        changed(near)
    };
    let all: Vec<f64> = (0..first.dim(0)?).into_par_iter().flat_map_iter(image).collect();
    Ok(Tensor::from_vec(all, first.shape(), first.device())?.to_dtype(first.dtype())?)
}

/// The sum of squares of a − b.
fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b).powi(2)).sum()
}

/// Every plane of an image by a Gaussian of this deviation, in pixels. Weights beyond the edge are given to the pixels that there are.
fn blurred(image: &[f64], [rows, columns]: [usize; 2], deviation: f64) -> Vec<f64> {
    let weights = |size: usize| -> Vec<Vec<f64>> {
        let row = |at: usize| {
            let weight = |other: usize| (-0.5 * ((at as f64 - other as f64) / deviation).powi(2)).exp();
            let weights: Vec<f64> = (0..size).map(weight).collect();
            let sum: f64 = weights.iter().sum();
            weights.into_iter().map(|weight| weight / sum).collect()
        };
        (0..size).map(row).collect()
    };
    if deviation == 0.0 {
        return image.to_vec();
    }
    let (down, across) = (weights(rows), weights(columns));
    let mut all = Vec::with_capacity(image.len());
    for plane in image.chunks_exact(rows * columns) {
        let mut half = vec![0.0; plane.len()];
        for (weights, half) in down.iter().zip(half.chunks_exact_mut(columns)) {
            for (weight, row) in weights.iter().zip(plane.chunks_exact(columns)) {
                half.iter_mut().zip(row).for_each(|(sum, x)| *sum += weight * x);
            }
        }
        for row in half.chunks_exact(columns) {
            all.extend(across.iter().map(|weights| weights.iter().zip(row).map(|(weight, x)| weight * x).sum::<f64>()));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    fn images(values: &[f64]) -> Tensor {
        Tensor::from_slice(values, (values.len() / 6, 1, 2, 3), &Device::Cpu).unwrap()
    }

    #[test]
    fn as_far_as_what_was_denoised() {
        let first = images(&[0.5, -0.5, 0.0, 1.0, -1.0, 0.25, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]);
        let denoised = images(&[0.4, -0.3, 0.1, 0.9, -0.9, 0.2, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]);
        let far = images(&[-4.0, 5.0, 6.0, 7.0, 8.0, -9.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]);
        let (from, wanted) = (numbers(&first).unwrap(), numbers(&denoised).unwrap());
        for towards in [Some(&far), None] {
            let changed = numbers(&as_far(&first, &denoised, towards).unwrap()).unwrap();
            let of = |values: &[f64]| distance(&from[..6], &values[..6]);
            assert!((of(&changed) - of(&wanted)).abs() < 1e-6, "{towards:?}: {changed:?}");
            assert!(changed.iter().all(|x| (-1.0..=1.0).contains(x)));
            assert!(changed[6..].iter().zip(&from[6..]).all(|(a, b)| (a - b).abs() < 1e-6), "{changed:?}");
        }
        // What leaves the range is not seen.
        let [black, blacker] = [-1.0, -1.2].map(|level| images(&[level; 6]));
        assert_eq!(numbers(&as_far(&black, &blacker, None).unwrap()).unwrap(), [-1.0; 6]);
        // As far as the mean, and no farther.
        let mean = numbers(&as_far(&first, &images(&[9.0; 12]), None).unwrap()).unwrap();
        assert!(mean[..6].iter().all(|x| (x - 0.25 / 6.0).abs() < 1e-6), "{mean:?}");
    }

    /// By numpy: rows of exp(−½((i − j)/0.8)²), each divided by its sum.
    #[test]
    fn a_blur_is_numpys() {
        let blurred = blurred(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0], [2, 3], 0.8);
        let expected =
            [4.4541321871924, 7.16109585109, 10.562578928444, 8.079562333234, 12.989852539517, 19.159964559979];
        for (blurred, expected) in blurred.iter().zip(expected) {
            assert!((blurred - expected).abs() < 1e-12, "{blurred} {expected}");
        }
    }
}
