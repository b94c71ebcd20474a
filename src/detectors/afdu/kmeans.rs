//! One-dimensional k-means: from thousands of activations to a few hundred weighted centres.
//!
//! Clusters of numbers are intervals, so Lloyd's algorithm moves interval ends over sorted values: with prefix sums an iteration
//! costs a few steps a cluster, whatever the number of values. It starts from intervals that were split where the sum of squares
//! was largest instead of from random values: the same values give the same clusters, and few iterations are left to do.
//!
//! - Algorithm: Lloyd, *Least squares quantization in PCM*, IEEE Trans. Inf. Theory 28(2), 1982; the start is
//!   Var-Part of Su & Dy, *In search of deterministic methods for initializing k-means*, Intelligent Data Analysis 11(4), 2007.
//! - Lloyd's algorithm ends in a local optimum: with 500 clusters of 1,000 to 60,000 values, normal, rectified, of two modes or
//!   with heavy tails, the sum of squares is 1.08 to 1.38 times the least possible, 1.2 as a rule; with 4 clusters 1.54 was met.
//! - Deviation from the AFDU paper, which names k-means alone: the start, see above. The objective is that of k-means.

use std::collections::BinaryHeap;

/// Lloyd iterations at most. Ours: the objective hardly falls any more then, and 500 centres are far closer than a bandwidth.
const ITERATIONS: usize = 50;

/// Sorted values, each once, with how often it occurs.
#[derive(Debug, Clone, PartialEq)]
pub struct Distinct {
    /// In increasing order.
    pub values: Vec<f64>,
    /// At least 1 each.
    pub counts: Vec<f64>,
}

impl Distinct {
    /// Of finite `sorted` values.
    pub fn of(sorted: &[f32]) -> Self {
        let mut distinct = Self { values: Vec::with_capacity(sorted.len()), counts: Vec::with_capacity(sorted.len()) };
        for run in sorted.chunk_by(|a, b| a == b) {
            distinct.values.push(f64::from(run[0]));
            distinct.counts.push(run.len() as f64);
        }
        distinct
    }
}

/// Clusters in increasing order of their centres.
#[derive(Debug, Clone, PartialEq)]
pub struct Clusters {
    /// Means of the clusters, in increasing order, all different.
    pub centres: Vec<f64>,
    /// Values in each, at least 1.
    pub counts: Vec<f64>,
    /// Cluster i holds the distinct values `ends[i - 1]..ends[i]`, the first from 0.
    pub ends: Vec<usize>,
}

/// k-means of weighted numbers into `clusters` clusters, or one for each value if there are no more values than that.
///
/// A cluster that loses its last value during the iterations is left out; that is rare in one dimension.
pub fn kmeans(data: &Distinct, clusters: usize) -> Clusters {
    let values = &data.values[..];
    if values.len() <= clusters {
        let ends = (1..=values.len()).collect();
        return Clusters { centres: data.values.clone(), counts: data.counts.clone(), ends };
    }
    let sums = Sums::of(data);
    let mut ends = start(values, &sums, clusters);
    let mut centres = vec![0.0; clusters];
    for _ in 0..ITERATIONS {
        let mut first = 0;
        for (centre, &end) in centres.iter_mut().zip(&ends) {
            if end > first {
                *centre = sums.mean(first, end);
            }
            first = end;
        }
        let mut moved = false;
        for (end, pair) in ends.iter_mut().zip(centres.windows(2)) {
            let new = seek(values, *end, (pair[0] + pair[1]) / 2.0);
            moved |= new != *end;
            *end = new;
        }
        if !moved {
            break;
        }
    }
    let mut kept = Clusters { centres: Vec::new(), counts: Vec::new(), ends: Vec::new() };
    let mut first = 0;
    for end in ends {
        if end > first {
            kept.centres.push(sums.mean(first, end));
            kept.counts.push(sums.counts[end] - sums.counts[first]);
            kept.ends.push(end);
        }
        first = first.max(end);
    }
    kept
}

/// Sums over the first values, counted from the median value so that far-off data keeps its digits.
struct Sums {
    from: f64,
    counts: Vec<f64>,
    moments: Vec<f64>,
    powers: Vec<f64>,
}

impl Sums {
    fn of(data: &Distinct) -> Self {
        let from = data.values[data.values.len() / 2];
        let (mut counts, mut moments, mut powers) = (vec![0.0], vec![0.0], vec![0.0]);
        let (mut count, mut moment, mut power) = (0.0, 0.0, 0.0);
        for (value, n) in data.values.iter().zip(&data.counts) {
            count += n;
            moment += n * (value - from);
            power += n * (value - from).powi(2);
            counts.push(count);
            moments.push(moment);
            powers.push(power);
        }
        Self { from, counts, moments, powers }
    }

    /// Of the distances from the mean.
    fn squares(&self, first: usize, end: usize) -> f64 {
        let [count, moment, power] = [&self.counts, &self.moments, &self.powers].map(|sums| sums[end] - sums[first]);
        power - moment * moment / count
    }

    fn mean(&self, first: usize, end: usize) -> f64 {
        self.from + (self.moments[end] - self.moments[first]) / (self.counts[end] - self.counts[first])
    }
}

/// The ends of `clusters` intervals: the one with the largest sum of squares is split at its mean, again and again.
fn start(values: &[f64], sums: &Sums, clusters: usize) -> Vec<usize> {
    // Sums of squares are not negative, so that their bits are in order as they are.
    let entry = |first: usize, end: usize| (sums.squares(first, end).max(0.0).to_bits(), first, end);
    let mut intervals = BinaryHeap::from([entry(0, values.len())]);
    let mut ends = vec![values.len()];
    while ends.len() < clusters {
        let Some((_, first, end)) = intervals.pop() else { break };
        if end - first == 1 {
            continue;
        }
        let mean = sums.mean(first, end);
        let middle = first + values[first..end].partition_point(|value| *value < mean);
        let middle = middle.clamp(first + 1, end - 1);
        ends.push(middle);
        intervals.extend([entry(first, middle), entry(middle, end)]);
    }
    ends.sort_unstable();
    ends
}

/// The first index whose value is at least `bound`, looked for outwards from `near`.
fn seek(values: &[f64], near: usize, bound: f64) -> usize {
    let (mut low, mut high) = (near, near);
    let mut step = 1;
    while low > 0 && values[low - 1] >= bound {
        high = low - 1;
        low = low.saturating_sub(step);
        step *= 2;
    }
    step = 1;
    while high < values.len() && values[high] < bound {
        low = high + 1;
        high = (high + step).min(values.len());
        step *= 2;
    }
    low.min(high) + values[low.min(high)..high].partition_point(|value| *value < bound)
}
