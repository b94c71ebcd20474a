//! What the detectors share that change penultimate features, or the last layer, and take the energy of the new logits.

use candle_core::Tensor;
use rayon::prelude::*;

use super::{Peak, finite, numbers, with_values};
use crate::{Error, Result, linalg::dot, nn::Head};

/// Values that one task counts.
const BLOCK: usize = 1 << 20;

/// −logsumexp(W·z + b) of each row z of (N, D) `features` after `change`, in f64. A row's energy does not depend on the others.
///
/// # Errors
/// If there is nothing to score, `head` takes another D, or a feature, weight or bias is NaN or infinite.
pub fn energies(features: &Tensor, head: &Head, change: impl Fn(&mut [f64]) + Sync) -> Result<Vec<f32>> {
    let size = features.dims2()?.1;
    let values = finite(features)?;
    let (weight, bias) = last_layer(head, size)?;
    let energy = |row: &[f32]| {
        let mut row: Vec<f64> = row.iter().copied().map(f64::from).collect();
        change(&mut row);
        energy(&row, &weight, &bias)
    };
    Ok(values.par_chunks_exact(size).map(energy).collect())
}

/// −logsumexp(W·z + b) of `features` z, with the weight and the bias of [`last_layer`].
pub(super) fn energy(features: &[f64], weight: &[f64], bias: &[f64]) -> f32 {
    let logits = weight.chunks_exact(features.len()).zip(bias).map(|(row, bias)| dot(row, features) + bias);
    -Peak::of(&logits.collect::<Vec<f64>>()).log_sum() as f32
}

/// The weight (K, D), row after row, and the bias (K) of a head for features of `size` D.
///
/// # Errors
/// If it takes another D, or one of its numbers is NaN or infinite.
pub(super) fn last_layer(head: &Head, size: usize) -> Result<(Vec<f64>, Vec<f64>)> {
    let (classes, columns) = head.weight.dims2()?;
    if columns != size || head.bias.dims() != [classes] || classes == 0 {
        let (weight, bias) = (head.weight.dims(), head.bias.dims());
        return Err(Error::Failed(format!("{size} features do not fit a last layer of {weight:?} and bias {bias:?}")));
    }
    let (weight, bias) = (numbers(&head.weight)?, numbers(&head.bias)?);
    match weight.iter().chain(&bias).find(|value| !value.is_finite()) {
        Some(value) => Err(Error::Failed(format!("a weight or bias of the last layer is {value}"))),
        None => Ok((weight, bias)),
    }
}

/// The `percent`-th percentile of all values of a tensor of f32 on the CPU: numpy's, with linear interpolation. 0 ≤ `percent` ≤ 100.
///
/// The values are counted where they are, in three passes, rather than copied and sorted.
///
/// # Errors
/// If there is no value, or one is NaN or infinite.
pub fn percentile(values: &Tensor, percent: f64) -> Result<f64> {
    with_values(values, |values| percentile_of(values, percent))?
}

fn percentile_of(values: &[f32], percent: f64) -> Result<f64> {
    if let Some(value) = values.iter().find(|value| !value.is_finite()) {
        return Err(Error::Failed(format!("there is no percentile of features of which one is {value}")));
    }
    if values.is_empty() {
        return Err(Error::Failed("there is no percentile of no features".into()));
    }
    Ok(interpolate(values.len(), percent, |rank| neighbours(values, rank)))
}

/// As [`percentile`], of finite f64 values, which it sorts.
///
/// # Panics
/// If there is no value.
pub(super) fn percentile_f64(mut values: Vec<f64>, percent: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    interpolate(values.len(), percent, |rank| [values[rank], values[(rank + 1).min(values.len() - 1)]])
}

/// `pair` gives the value of a rank, counted from 0, and the next larger one.
fn interpolate(count: usize, percent: f64, pair: impl FnOnce(usize) -> [f64; 2]) -> f64 {
    let position = (count - 1) as f64 * (percent / 100.0);
    let [low, high] = pair(position as usize);
    low + (high - low) * position.fract()
}

/// The value of a rank and that of the next one, if there is a next one: by a histogram of the upper half of the bits and one of the
/// lower half.
fn neighbours(values: &[f32], rank: usize) -> [f64; 2] {
    let (upper, before) = bin(&histogram(values, |key| Some(key >> 16)), rank);
    let lower = histogram(values, |key| (key >> 16 == upper).then_some(key & 0xffff));
    let (lower, inside) = bin(&lower, rank - before);
    let key = (upper << 16) | lower;
    let this = of_key(key);
    // As many as `this` is larger than or equal to.
    let up_to = values.par_chunks(BLOCK).map(|block| block.iter().filter(|value| key_of(**value) <= key).count()).sum();
    debug_assert!(before + inside <= rank && rank < up_to);
    if rank + 1 < up_to || up_to == values.len() {
        return [this, this];
    }
    let next = values.par_chunks(BLOCK).filter_map(|block| block.iter().map(|v| key_of(*v)).filter(|k| *k > key).min());
    [this, next.min().map_or(this, of_key)]
}

/// The bin in which the value of a rank lies, and how many values lie in the bins before it.
fn bin(histogram: &[usize], rank: usize) -> (u32, usize) {
    let mut before = 0;
    for (bin, count) in histogram.iter().enumerate() {
        if before + count > rank {
            return (bin as u32, before);
        }
        before += count;
    }
    unreachable!("rank {rank} of {before} values")
}

fn histogram(values: &[f32], bin: impl Fn(u32) -> Option<u32> + Sync) -> Vec<usize> {
    let add = |mut sums: Vec<usize>, counts: Vec<usize>| {
        sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        sums
    };
    let count = |mut counts: Vec<usize>, block: &[f32]| {
        block.iter().filter_map(|value| bin(key_of(*value))).for_each(|bin| counts[bin as usize] += 1);
        counts
    };
    let none = || vec![0; 1 << 16];
    values.par_chunks(BLOCK).fold(none, count).reduce(none, add)
}

/// A number in the order of the value.
fn key_of(value: f32) -> u32 {
    let bits = value.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

fn of_key(key: u32) -> f64 {
    f64::from(f32::from_bits(if key >> 31 == 1 { key & !(1 << 31) } else { !key }))
}

/// The positions of the largest features of an image, n − round(n · `percent` / 100) of n and at least one. Of equal features
/// those come first that stand first.
pub(super) fn largest(features: &[f64], percent: f64) -> Vec<usize> {
    let count = features.len();
    let kept = count - (count as f64 * percent / 100.0).round_ties_even() as usize;
    top(features, kept.max(1))
}

/// The positions of the `count` largest values, in rising order; 1 ≤ `count` ≤ n. Of equal values those come first that stand first.
pub(super) fn top(values: &[f64], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..values.len()).collect();
    let by = |a: &usize, b: &usize| values[*b].total_cmp(&values[*a]).then(a.cmp(b));
    order.select_nth_unstable_by(count - 1, by);
    order.truncate(count);
    order.sort_unstable();
    order
}

/// exp(Σ z / Σ over `kept` of z), over positive features z; e when none is. The exponent is at most 80, where f32 still has room.
pub(super) fn sharpening(features: &[f64], kept: &[usize]) -> f64 {
    spread(features, kept).min(80.0).exp()
}

/// Σ z / Σ over `kept` of z, over positive features z; 1 when none is.
pub(super) fn spread(features: &[f64], kept: &[usize]) -> f64 {
    let all: f64 = features.iter().map(|z| z.max(0.0)).sum();
    let top: f64 = kept.iter().map(|at| features[*at].max(0.0)).sum();
    if top > 0.0 { all / top } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device};

    use super::*;

    #[test]
    fn percentiles_are_those_of_sorted_values() {
        let values: Vec<f32> = (0..10_007).map(|i: i32| ((i * 7919 % 10_007) as f32 - 4000.0) * 0.37).collect();
        let ties = [0.0, -0.0, 0.0, 3.0, 3.0, -1e-40, 1e-40, -3e38, 3e38, 0.0];
        for values in [&values[..], &values[..1], &values[..2], &ties] {
            let tensor = Tensor::from_slice(values, values.len(), &Device::Cpu).unwrap();
            let as_f64: Vec<f64> = values.iter().copied().map(f64::from).collect();
            for percent in [0.0, 1.0, 10.0, 33.3, 50.0, 90.0, 99.9, 100.0] {
                let expected = percentile_f64(as_f64.clone(), percent);
                assert_eq!(percentile(&tensor, percent).unwrap(), expected, "{percent} of {}", values.len());
            }
        }
        let part = Tensor::from_slice(&[1f32, 9.0, 2.0, 9.0], (2, 2), &Device::Cpu).unwrap().narrow(1, 0, 1).unwrap();
        assert_eq!(percentile(&part, 50.0).unwrap(), 1.5);
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(percentile(&Tensor::new(&[1.0, bad], &Device::Cpu).unwrap(), 50.0).is_err());
        }
        assert!(percentile(&Tensor::zeros(0, DType::F32, &Device::Cpu).unwrap(), 50.0).is_err());
    }

    #[test]
    fn the_largest_are_found_whatever_the_ties() {
        assert_eq!(largest(&[1.0, 3.0, 3.0, 0.0, 3.0], 60.0), [1, 2]);
        assert_eq!(largest(&[1.0, 3.0, 3.0, 0.0, 3.0], 0.0), [0, 1, 2, 3, 4]);
        assert_eq!(largest(&[-1.0, -2.0], 99.0), [0]);
    }

    #[test]
    fn sharpening_is_bounded() {
        assert_eq!(sharpening(&[1.0, 3.0], &[1]), (4.0f64 / 3.0).exp());
        assert_eq!(sharpening(&[-1.0, 3.0], &[1]), 1f64.exp());
        assert_eq!(sharpening(&[0.0, -3.0], &[0]), 1f64.exp());
        assert_eq!(sharpening(&[1.0; 1000], &[7]), 80f64.exp());
        assert_eq!([spread(&[1.0, -2.0, 3.0], &[2]), spread(&[-1.0, 0.0], &[1])], [4.0 / 3.0, 1.0]);
    }
}
