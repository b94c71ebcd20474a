//! Tabulated anomaly factors: the log factor of a neuron is a function of one number, so 960 of its values stand for it.
//!
//! Beyond the outermost centres the log factor grows like half the squared distance in bandwidths. That part is added
//! analytically; what the table holds beside it is nearly flat there. Half of the values stand where nearly all of the train
//! activations are, the others left and right of that. In between, they are interpolated linearly. Values are kept in 16 bits.
//!
//! A table is near the exact factors where activations usually are: for normal and bimodal ones within 0.06 of the log factor from
//! their 2nd to their 98th percentile. It is not where the tails are sparse: across the steps of the neighbourhood's
//! density and in gaps between clusters, which are deeper than the space between two nodes shows, it was off by up to 32 on
//! LeNet fitted to MNIST, where the mean over train activations was 0.004. [`Error`] measures both.

use super::{density::exp, neuron::Model};
use crate::ops::wide;

/// Values a neuron. With [`Head`] just below 2 kB.
pub const NODES: usize = 960;

/// The scale of a neuron's table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Head {
    /// Where the spacing of nodes changes; values below the first and above the last are as anomalous as these.
    knots: [f32; 4],
    /// Nodes a unit between knots.
    densities: [f32; 3],
    /// The outermost centres.
    centres: [f32; 2],
    /// 1/h
    bandwidths: f32,
    /// Of node value 0, and of each step of it.
    lowest: f32,
    step: f32,
}

/// Words that a [`Head`] is stored as.
pub const HEAD_WORDS: usize = 12;

/// Nodes between knots; one more stands at the end. Ours.
const INTERVALS: [usize; 3] = [240, NODES - 481, 240];

/// The share of the train activations that is left of the middle part of a table, and right of it. Ours.
const TAIL: f64 = 0.01;

impl Head {
    /// As numbers, for a file.
    pub fn to_words(self) -> [f32; HEAD_WORDS] {
        let Self { knots: [a, b, c, d], densities: [e, f, g], centres: [h, i], bandwidths, lowest, step } = self;
        [a, b, c, d, e, f, g, h, i, bandwidths, lowest, step]
    }

    /// From [`Head::to_words`].
    pub fn from_words([a, b, c, d, e, f, g, h, i, bandwidths, lowest, step]: [f32; HEAD_WORDS]) -> Self {
        Self { knots: [a, b, c, d], densities: [e, f, g], centres: [h, i], bandwidths, lowest, step }
    }

    /// The value and bandwidth that [`Head::constant`] was made of; the bandwidth is infinite if there was none.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn kernel(&self) -> (f64, f64) {
        (f64::from(self.centres[0]), 1.0 / f64::from(self.bandwidths))
    }

    /// Of a neuron that only took `value`, as if its density were one kernel of this bandwidth; without one, of a neuron that
    /// tells nothing: a log factor of 0 everywhere, and of NaN. All its nodes are 0.
    pub fn constant(value: f32, bandwidth: Option<f64>, cap: f64) -> Self {
        let bandwidths = bandwidth.map_or(0.0, |bandwidth| 1.0 / bandwidth);
        let reach = bandwidth.map_or(0.0, |bandwidth| reach(cap) * bandwidth) as f32;
        Self {
            knots: [value - reach, value, value, value + reach],
            densities: [0.0; 3],
            centres: [value; 2],
            bandwidths: bandwidths as f32,
            lowest: 0.0,
            step: 0.0,
        }
    }
}

/// What a table's log factors differ by from the exact ones.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Error {
    /// At the centres and midway between nodes.
    pub largest: f64,
    /// Over the train activations, each taken for its centre.
    pub mean: f64,
}

/// A neuron's log factors at evenly spaced values.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Its scale.
    pub head: Head,
    /// [`NODES`] values.
    pub nodes: Vec<u16>,
}

impl Table {
    /// Of a fitted neuron.
    pub fn new(model: &Model) -> Self {
        let density = &model.density;
        let outermost = [density.centres()[0], density.centres()[density.centres().len() - 1]];
        // There the kernels alone make the factor the cap.
        let reach =
            |log_density: Option<&f64>| (2.0 * (model.cap() - log_density.map_or(0.0, |at| at.min(0.0)))).sqrt();
        let around = &model.neighbourhood.log_densities;
        let [left, right] = [reach(around.first()), reach(around.last())];
        // Wide enough for one kernel, where an atom holds nearly everything.
        let middle =
            [density.quantile(TAIL) - (left / 2.0).min(2.0), density.quantile(1.0 - TAIL) + (right / 2.0).min(2.0)];
        let knots = [outermost[0] - left, middle[0], middle[1], outermost[1] + right];
        let steps: [f64; 3] = std::array::from_fn(|part| (knots[part + 1] - knots[part]) / INTERVALS[part] as f64);
        let part = |part: usize| (0..INTERVALS[part]).map(move |node| knots[part] + steps[part] * node as f64);
        let positions: Vec<f64> = part(0).chain(part(1)).chain(part(2)).chain([knots[3]]).collect();
        let mut flat = positions.clone();
        model.uncapped(&mut flat);
        for (value, position) in flat.iter_mut().zip(&positions) {
            let beyond = (outermost[0] - position).max(position - outermost[1]).max(0.0);
            *value = (*value - 0.5 * beyond * beyond).min(model.cap());
        }
        let lowest = flat.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = flat.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let quantum = ((highest - lowest) / f64::from(u16::MAX)).max(f64::from(f32::MIN_POSITIVE));
        let value = |position: f64| (density.origin + position * density.bandwidth) as f32;
        let head = Head {
            knots: knots.map(value),
            densities: steps.map(|step| (1.0 / (step * density.bandwidth)) as f32),
            centres: outermost.map(value),
            bandwidths: (1.0 / density.bandwidth) as f32,
            lowest: lowest as f32,
            step: quantum as f32,
        };
        Self { head, nodes: flat.iter().map(|value| ((value - lowest) / quantum).round() as u16).collect() }
    }

    /// How far it is from the neuron that it was made of.
    pub fn error(&self, model: &Model) -> Error {
        let density = &model.density;
        let centres = density.centres().to_vec();
        let knots = self.head.knots.map(|knot| density.position(f64::from(knot)));
        let midway = (0..3).flat_map(|part| {
            let step = (knots[part + 1] - knots[part]) / INTERVALS[part] as f64;
            (0..INTERVALS[part]).map(move |node| knots[part] + step * (node as f64 + 0.5))
        });
        // The same numbers to both: the positions as f32 values.
        let values: Vec<f32> =
            centres.iter().copied().chain(midway).map(|at| (density.origin + at * density.bandwidth) as f32).collect();
        let mut exact: Vec<f64> = values.iter().map(|value| density.position(f64::from(*value))).collect();
        model.log_factors(&mut exact);
        let mut found = vec![0.0; values.len()];
        log_factors(&self.head, &self.nodes, model.cap() as f32, &values, &mut found);
        let errors: Vec<f64> = exact.iter().zip(&found).map(|(a, b)| (a - f64::from(*b)).abs()).collect();
        Error {
            largest: errors.iter().copied().fold(0.0, f64::max),
            mean: errors.iter().zip(density.weights()).map(|(error, weight)| error * f64::from(*weight)).sum(),
        }
    }
}

/// Bandwidths after which a kernel has fallen by e^-`fall`, and a little more.
fn reach(fall: f64) -> f64 {
    1.001 * (2.0 * fall).sqrt()
}

/// ln WAF of `values` by a neuron's table; NaN gives the cap, unless the neuron tells nothing. `nodes` are [`NODES`].
pub fn log_factors(head: &Head, nodes: &[u16], cap: f32, values: &[f32], factors: &mut [f32]) {
    let Some((nodes, _)) = nodes.split_first_chunk::<NODES>() else { return };
    wide(
        #[inline(always)]
        || {
            // Read in order, which memory is fast at, before look-ups in any order.
            let nodes = &std::hint::black_box(*nodes);
            for (values, factors) in values.chunks(LANES).zip(factors.chunks_mut(LANES)) {
                chunk(head, nodes, cap, values, factors);
            }
        },
    );
}

/// Values looked up together.
const LANES: usize = 64;

/// Up to [`LANES`] values. Each step is a loop of its own, so that the compiler uses vectors for all but the look-up.
#[inline(always)]
fn chunk(head: &Head, nodes: &[u16; NODES], cap: f32, values: &[f32], factors: &mut [f32]) {
    let (mut places, mut beyond) = ([0.0_f32; LANES], [0.0_f32; LANES]);
    let [a, b, c, d] = head.knots;
    for ((value, place), beyond) in values.iter().zip(&mut places).zip(&mut beyond) {
        let inside = value.max(a).min(d);
        let [left, middle, right] = [inside.min(b) - a, inside.max(b).min(c) - b, inside.max(c) - c];
        let nodes = left * head.densities[0] + middle * head.densities[1] + right * head.densities[2];
        *place = nodes.min((NODES - 1) as f32);
        *beyond = (head.centres[0] - inside).max(inside - head.centres[1]).max(0.0) * head.bandwidths;
    }
    let mut indices = [0_i32; LANES];
    for (place, index) in places.iter_mut().zip(&mut indices) {
        *index = (*place as i32).min(NODES as i32 - 2);
        *place -= *index as f32;
    }
    let (mut lefts, mut rights) = ([0_u16; LANES], [0_u16; LANES]);
    for ((index, left), right) in indices.iter().zip(&mut lefts).zip(&mut rights) {
        let index = (*index as usize).min(NODES - 2);
        (*left, *right) = (nodes[index], nodes[index + 1]);
    }
    // An infinitely wide kernel: the neuron tells nothing.
    let of_nan = if head.bandwidths == 0.0 { 0.0 } else { cap };
    for (index, (value, factor)) in values.iter().zip(factors).enumerate() {
        let [left, right] = [f32::from(lefts[index]), f32::from(rights[index])];
        let flat = head.lowest + head.step * (left + places[index] * (right - left));
        let found = (flat + 0.5 * beyond[index] * beyond[index]).min(cap);
        *factor = if value.is_nan() { of_nan } else { found };
    }
}

/// e^x of each, in place.
pub fn exponentials(values: &mut [f32]) {
    wide(
        #[inline(always)]
        || values.iter_mut().for_each(|value| *value = exp(*value)),
    );
}
