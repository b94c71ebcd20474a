//! The element types of the operations, functions that candle's lack, and loops over their values.

use candle_core::{WithDType, cpu::erf::erfc_f64};

use super::wide::wide;

/// f32 or f64.
pub(super) trait Float: WithDType + super::conv2d::kernel::Kernels {
    /// −∞, less than any other value.
    const LOWEST: Self;

    /// eˣ. In f32 without branches, so that loops vectorise: within 2 units in the last place, 0 below −87.3 and ∞ above
    /// 88.3.
    fn exp(self) -> Self;

    /// The standard normal distribution and density, Φ(x) and φ(x); in f32 within 2e-7 of either.
    fn normal(self) -> (Self, Self);

    /// Whether this is not a number.
    #[expect(clippy::eq_op, reason = "candle's element types have no is_nan")]
    #[inline(always)]
    fn is_nan(self) -> bool {
        self != self
    }
}

impl Float for f64 {
    const LOWEST: Self = Self::NEG_INFINITY;

    fn exp(self) -> Self {
        Self::exp(self)
    }

    fn normal(self) -> (Self, Self) {
        let density = (-0.5 * self * self).exp() / (2.0 * std::f64::consts::PI).sqrt();
        (0.5 * erfc_f64(-self * std::f64::consts::FRAC_1_SQRT_2), density)
    }
}

impl Float for f32 {
    const LOWEST: Self = Self::NEG_INFINITY;

    /// eˣ = 2ⁿ·eʳ with n the integer nearest to x / ln 2 and |r| at most ln 2 / 2, where the polynomial (fitted at
    /// Chebyshev points) is within 1.1e-8.
    #[inline(always)]
    fn exp(self) -> Self {
        /// 1.5·2²³: adding it rounds to an integer, which then stands in the lowest bits.
        const ROUND: f32 = 12_582_912.0;
        /// ln 2 in two parts, the first with so few digits that its products with n are exact.
        const LN_2: [f32; 2] = [355.0 / 512.0, -2.121_944_4e-4];
        let (low, high) = (-87.3, 88.3);
        // NaN passes both comparisons.
        let x = if self < low { low } else { self };
        let x = if x > high { high } else { x };
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        let r = x - n * LN_2[0] - n * LN_2[1];
        let series = 0.041_666_465 + r * (0.008_363_175 + r * 0.001_393_364);
        let series = 0.5 + r * (0.166_665_77 + r * series);
        let fraction = 1.0 + r + r * r * series;
        let power = f32::from_bits(shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127) << 23);
        let y = fraction * power;
        let y = if self < low { 0.0 } else { y };
        if self > high { Self::INFINITY } else { y }
    }

    /// Φ(−z√2) = ½·erfc(z), and erfc(z) = e^(−z²)·t·q(t) with t = 1 / (1 + z/2) for z ≥ 0: the form of *Numerical
    /// Recipes* (Press et al., §6.2), with a polynomial q fitted at Chebyshev points (within 6e-8).
    #[inline(always)]
    fn normal(self) -> (Self, Self) {
        const Q: [f32; 9] = [
            0.282_084_5,
            0.282_405_44,
            0.242_916_47,
            0.203_278_58,
            -0.027_634_644,
            0.278_937_3,
            -0.487_432_06,
            0.284_433_6,
            -0.058_989_22,
        ];
        let magnitude = if self < 0.0 { -self } else { self };
        let t = 1.0 / (1.0 + magnitude * (0.5 * std::f32::consts::FRAC_1_SQRT_2));
        let bell = Float::exp(-0.5 * self * self);
        let q = Q.iter().rev().fold(0.0, |q, coefficient| q * t + coefficient);
        let tail = 0.5 * bell * t * q;
        // 1 / √(2π)
        (if self < 0.0 { tail } else { 1.0 - tail }, bell * 0.398_942_3)
    }
}

/// Lanes of a sum, so that it vectorises.
const LANES: usize = 16;
/// Elements that are summed in their own precision before f64 takes over.
const RUN: usize = 1024;

/// The largest value. NaN is passed over; it shows in what is done with the values next.
#[inline(always)]
pub(super) fn largest<T: Float>(values: &[T]) -> T {
    let larger = |a: T, b: T| if b > a { b } else { a };
    wide!({
        let (blocks, rest) = values.as_chunks::<LANES>();
        let mut lanes = [T::LOWEST; LANES];
        for block in blocks {
            lanes.iter_mut().zip(block).for_each(|(lane, value)| *lane = larger(*lane, *value));
        }
        lanes.into_iter().chain(rest.iter().copied()).fold(T::LOWEST, larger)
    })
}

/// The sum in f64; its order depends on the length only.
pub(super) fn sum<T: Float>(values: &[T]) -> f64 {
    sum_of([values], |[value]| value)
}

/// The sum in f64 of `term` over elements at the same place of equally long slices. `term` is summed in its own precision
/// over runs of 1024 elements, in 16 lanes; the order depends on the length only.
#[inline(always)]
pub(super) fn sum_of<T: Float, const N: usize>(slices: [&[T]; N], term: impl Fn([T; N]) -> T) -> f64 {
    let [total] = sums_of(slices, |values| [term(values)]);
    total
}

/// Several sums at once; see [`sum_of`].
#[inline(always)]
pub(super) fn sums_of<T: Float, const N: usize, const M: usize>(
    slices: [&[T]; N],
    terms: impl Fn([T; N]) -> [T; M],
) -> [f64; M] {
    wide!({
        let len = slices[0].len();
        let slices = slices.map(|slice| &slice[..len]);
        let mut totals = [0.0; M];
        for start in (0..len).step_by(RUN) {
            let end = len.min(start + RUN);
            let part = run(slices.map(|slice| &slice[start..end]), &terms);
            totals.iter_mut().zip(part).for_each(|(total, part)| *total += part);
        }
        totals
    })
}

/// The sums of at most [`RUN`] elements.
#[inline(always)]
fn run<T: Float, const N: usize, const M: usize>(run: [&[T]; N], terms: &impl Fn([T; N]) -> [T; M]) -> [f64; M] {
    let (mut lanes, whole) = ([[T::zero(); LANES]; M], run[0].len() / LANES * LANES);
    for at in (0..whole).step_by(LANES) {
        let block = run.map(|slice| &slice[at..at + LANES]);
        for lane in 0..LANES {
            let terms = terms(block.map(|block| block[lane]));
            for (lanes, term) in lanes.iter_mut().zip(terms) {
                lanes[lane] += term;
            }
        }
    }
    for at in whole..run[0].len() {
        for (lanes, term) in lanes.iter_mut().zip(terms(run.map(|slice| slice[at]))) {
            lanes[at - whole] += term;
        }
    }
    lanes.map(|lanes| lanes.into_iter().map(T::to_f64).sum())
}

/// Mean and sum of squared distances from it of some values.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spread {
    pub(super) count: f64,
    pub(super) mean: f64,
    pub(super) squares: f64,
}

impl Spread {
    /// That of `values`, which are read from memory once: run after run, each about its own mean.
    #[inline(always)]
    pub(super) fn of<T: Float>(values: &[T]) -> Self {
        values.chunks(RUN).fold(Self::default(), |total, run| {
            let count = run.len() as f64;
            let center = T::from_f64(sum(run) / count);
            let [rest, squares] = sums_of([run], |[value]| {
                let distance = value - center;
                [distance, distance * distance]
            });
            // `center` is the mean but for rounding.
            let mean = center.to_f64() + rest / count;
            total.and(Self { count, mean, squares: squares - rest * rest / count })
        })
    }

    /// That of both sets of values (Chan, Golub & LeVeque 1979).
    pub(super) fn and(self, other: Self) -> Self {
        let (count, distance) = (self.count + other.count, other.mean - self.mean);
        Self {
            count,
            mean: self.mean + distance * (other.count / count),
            squares: self.squares + other.squares + distance * distance * (self.count * other.count / count),
        }
    }

    /// The biased variance.
    pub(super) fn variance(self) -> f64 {
        self.squares / self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f32_functions_are_close_to_f64_and_keep_nan() {
        for i in -100_000..100_000 {
            let x = i as f32 * 1e-3;
            let (y, exact) = (Float::exp(x), f64::from(x).exp());
            match x {
                ..-87.3 => assert_eq!(y, 0.0),
                88.301.. => assert_eq!(y, f32::INFINITY),
                _ => assert!((f64::from(y) / exact - 1.0).abs() < 2.4e-7, "e^{x} = {y}"),
            }
            let ((p, d), (exact_p, exact_d)) = (x.normal(), f64::from(x).normal());
            assert!((f64::from(p) - exact_p).abs() < 2e-7 && (f64::from(d) - exact_d).abs() < 2e-7, "Φ({x}) = {p}");
        }
        assert!(Float::exp(f32::NAN).is_nan() && f32::NAN.normal().0.is_nan());
        assert_eq!((Float::exp(f32::NEG_INFINITY), Float::exp(f32::INFINITY)), (0.0, f32::INFINITY));
    }

    #[test]
    fn spread_is_exact_far_from_zero() {
        let values: Vec<f32> = (0..5000).map(|i| 1000.0 + (i % 7) as f32).collect();
        let mean = values.iter().map(|v| f64::from(*v)).sum::<f64>() / 5000.0;
        let variance = values.iter().map(|v| (f64::from(*v) - mean).powi(2)).sum::<f64>() / 5000.0;
        let spread = Spread::of(&values);
        assert!((spread.mean - mean).abs() < 1e-6 && (spread.variance() / variance - 1.0).abs() < 1e-6);
    }
}
