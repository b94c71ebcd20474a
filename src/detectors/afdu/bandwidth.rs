//! The bandwidth of a kernel density estimate: improved Sheather-Jones, or the rules of thumb.
//!
//! - Paper: Botev, Grotowski & Kroese, *Kernel density estimation via diffusion*, Annals of Statistics 38(5), 2010 (ISJ);
//!   Silverman, *Density Estimation*, 1986, eq. 3.31; Scott, *Multivariate Density Estimation*, 1992.
//! - Reference code: KDEpy `bw_selection.py`, for the equation that t solves.
//! - Deviations from KDEpy: t lives on the grid, so the bandwidth is √t times the *grid's* range; KDEpy multiplies by the data's
//!   (its issues 199 and 201), and pads the grid by at least six units, so that its result depends on the units of the data.
//!   N is the number of points, as in KDEpy: weights shape the density, not how much of its detail is believed.

use std::{
    f64::consts::PI,
    ops::Range,
    sync::{Arc, LazyLock},
};

use rustdct::{DctPlanner, TransformType2And3};

/// How a bandwidth is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// Improved Sheather-Jones (the paper's).
    #[default]
    Isj,
    /// 0.9 · min(σ, IQR / 1.34) · N^(-1/5)
    Silverman,
    /// 1.06 · σ · N^(-1/5)
    Scott,
}

/// Grid points: KDEpy's and Botev's order of magnitude.
const GRID: usize = 1024;

/// What the grid reaches beyond the data on either side, in ranges of the data. Ours; the result does not depend on it as long
/// as the estimate has room to fall to nothing.
const PADDING: f64 = 0.1;

/// The bandwidth of weighted points in increasing order, at least two of them different; weights are positive.
///
/// `None` if the rule finds none: the ISJ equation has no root for some tiny samples, and Silverman's and Scott's rules give
/// nothing if the spread is no number.
pub fn bandwidth(rule: Rule, points: &[f64], weights: &[f64]) -> Option<f64> {
    let scale = (points.len() as f64).powf(-0.2);
    let bandwidth = match rule {
        Rule::Isj => {
            let (low, high) = (points[0], points[points.len() - 1]);
            let padding = PADDING * (high - low);
            let grid = low - padding..high + padding;
            isj_t(points, weights, grid.clone())?.sqrt() * (grid.end - grid.start)
        }
        Rule::Silverman => {
            let (_, deviation) = moments(points, weights);
            let quartiles = (quantile(points, weights, 0.75) - quantile(points, weights, 0.25)) / 1.34;
            // A heavy value in the middle leaves no distance between the quartiles.
            0.9 * if quartiles > 0.0 { deviation.min(quartiles) } else { deviation } * scale
        }
        Rule::Scott => 1.06 * moments(points, weights).1 * scale,
    };
    (bandwidth.is_finite() && bandwidth > 0.0).then_some(bandwidth)
}

/// Mean and standard deviation (of the weighted points themselves, not an estimate for what they were drawn from).
pub fn moments(points: &[f64], weights: &[f64]) -> (f64, f64) {
    let total: f64 = weights.iter().sum();
    let mean = |value: &dyn Fn(f64) -> f64| points.iter().zip(weights).map(|(x, w)| w * value(*x)).sum::<f64>() / total;
    // From a point of the data, so that data far from zero keeps its digits.
    let from = points[points.len() / 2];
    let centre = mean(&|x| x - from);
    (from + centre, mean(&|x| (x - from - centre).powi(2)).sqrt())
}

/// The point where the sum of weights reaches the share `of`.
fn quantile(points: &[f64], weights: &[f64], of: f64) -> f64 {
    let target = of * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    let reached = weights.iter().position(|weight| {
        sum += weight;
        sum >= target
    });
    points[reached.unwrap_or(points.len() - 1)]
}

/// The squared ISJ bandwidth in units of the grid's range: the root t of t = ξγ⁽⁷⁾(t), the equation of KDEpy.
///
/// `None` if the equation has no root below 1.
pub fn isj_t(points: &[f64], weights: &[f64], grid: Range<f64>) -> Option<f64> {
    static DCT: LazyLock<Arc<dyn TransformType2And3<f64>>> = LazyLock::new(|| DctPlanner::new().plan_dct2(GRID));
    let mut spectrum = binned(points, weights, grid);
    DCT.process_dct2(&mut spectrum);
    let squares: Vec<f64> = spectrum[1..].iter().map(|a| 4.0 * a * a).collect();
    let mut largest = squares.clone();
    for index in (1..largest.len()).rev() {
        largest[index - 1] = largest[index - 1].max(largest[index]);
    }
    let n = points.len() as f64;
    let excess = |t: f64| excess(t, n, &squares, &largest);
    // Where KDEpy starts to look, in steps that double.
    let mut high = 1e-11 + 0.01 * (n.clamp(50.0, 1050.0) - 50.0) / 1000.0;
    let at_zero = excess(0.0);
    // ξγ⁽⁷⁾ grows with t, so that no root lies below any of its values: few steps of the many tiny ones need a look.
    let mut least = -at_zero;
    while high < 1.0 {
        if high > least {
            let at_high = excess(high);
            if at_high > 0.0 {
                return root(excess, [0.0, at_zero], [high, at_high]);
            }
            least = high - at_high;
        }
        high *= 2.0;
    }
    None
}

/// Weights shared between the two nearest grid points, in proportion to nearness; they add up to 1.
fn binned(points: &[f64], weights: &[f64], grid: Range<f64>) -> Vec<f64> {
    let mut bins = vec![0.0; GRID];
    let total: f64 = weights.iter().sum();
    let step = (grid.end - grid.start) / (GRID - 1) as f64;
    for (point, weight) in points.iter().zip(weights) {
        let place = ((point - grid.start) / step).clamp(0.0, (GRID - 1) as f64);
        let left = (place as usize).min(GRID - 2);
        let right = place - left as f64;
        bins[left] += weight / total * (1.0 - right);
        bins[left + 1] += weight / total * right;
    }
    bins
}

/// t − ξγ⁽⁷⁾(t) of Botev et al. `squares` are the spectrum's, `largest` of each and all after it.
fn excess(t: f64, n: f64, squares: &[f64], largest: &[f64]) -> f64 {
    let mut f = norm::<7>(t, squares, largest);
    let mut step = |s: i32, norm: fn(f64, &[f64], &[f64]) -> f64| {
        if f <= 0.0 {
            return;
        }
        let odd = (1..2 * s).step_by(2).map(f64::from).product::<f64>() / (2.0 * PI).sqrt();
        let constant = (1.0 + 0.5_f64.powf(f64::from(s) + 0.5)) / 3.0;
        let time = (2.0 * constant * odd / (n * f)).powf(2.0 / (3.0 + 2.0 * f64::from(s)));
        f = norm(time, squares, largest);
    };
    step(6, norm::<6>);
    step(5, norm::<5>);
    step(4, norm::<4>);
    step(3, norm::<3>);
    step(2, norm::<2>);
    if f <= 0.0 { -1.0 } else { t - (2.0 * n * PI.sqrt() * f).powf(-0.4) }
}

/// ‖f⁽ˢ⁾‖² of the estimate with the squared bandwidth t.
fn norm<const S: i32>(t: f64, squares: &[f64], largest: &[f64]) -> f64 {
    let mut sum = 0.0;
    for (index, square) in squares.iter().enumerate() {
        let frequency = ((index + 1) as f64).powi(2);
        let decay = frequency * PI * PI * t;
        let (power, kernel) = (frequency.powi(S), (-decay).exp());
        sum += power * square * kernel;
        // Terms fall from a decay of S on, and no later one can then change the sum's last bit.
        if decay > 80.0 || decay > f64::from(S) && power * largest[index] * kernel < sum * 1e-17 {
            break;
        }
    }
    0.5 * PI.powi(2 * S) * sum
}

/// A root of `f` between two places with their values, the first negative, the second positive, to ten digits: false
/// position, in the Illinois form that never stalls at one end.
fn root(f: impl Fn(f64) -> f64, [mut low, mut at_low]: [f64; 2], [mut high, mut at_high]: [f64; 2]) -> Option<f64> {
    if !(at_low <= 0.0 && at_high > 0.0) {
        return None;
    }
    let mut side = 0;
    for _ in 0..200 {
        let guess = ((low * at_high - high * at_low) / (at_high - at_low)).clamp(low, high);
        if high - low <= 1e-10 * high {
            break;
        }
        let value = f(guess);
        if value > 0.0 {
            (high, at_high) = (guess, value);
            if side == 1 {
                at_low /= 2.0;
            }
            side = 1;
        } else {
            (low, at_low) = (guess, value);
            if side == -1 {
                at_high /= 2.0;
            }
            side = -1;
        }
        if value.abs() <= 1e-12 * guess {
            return (guess > 0.0).then_some(guess);
        }
    }
    let root = (low + high) / 2.0;
    (root > 0.0).then_some(root)
}
