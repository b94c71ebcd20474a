//! Tabulated anomaly factors: the log factor of a neuron is a function of one number, so 512 of its values stand for it where
//! nearly all activations are, interpolated linearly and kept in 16 bits.
//!
//! Left and right of that part are the neuron's sparse tails. Each centre makes a dip there that no even spacing of nodes
//! shows, so what holds in the tails is kept as it is: the centres near them, and the steps of the neighbourhood's density. Few
//! values are looked up there, and few centres are near each.
//!
//! A table is off where the neighbourhood's density takes a step between two nodes: most tables by more than a tenth of the log factor in
//! some place, the worst of a LeNet's by 1 to 4 (by 11 with `k: 1`), on average over train activations by a few thousandths. [`Error`] tells.

use super::{
    density::{REACH, exp},
    neuron::Model,
};
use crate::ops::{
    interpolate::{Grid, interpolate},
    wide,
};

/// Values a neuron.
pub const NODES: usize = 512;

/// The scale of a neuron's table.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Head {
    /// The tabulated part.
    ends: [f32; 2],
    /// Nodes a unit.
    density: f32,
    /// Of node value 0, and of each step of it.
    lowest: f32,
    step: f32,
    /// 1/h
    bandwidths: f32,
    /// [`Model::floor`]
    floor: f32,
}

/// Words that a [`Head`] is stored as.
pub const HEAD_WORDS: usize = 7;

/// The share of the train activations that may be left of the tabulated part, and right of it, as a rule: few enough that their
/// time does not matter. Ours.
const TAIL: f64 = 0.01;

/// The tabulated part goes on to the next centre if that is so many bandwidths away at most: kernels that far apart make no dip
/// that a few nodes do not show. Ours.
const GAP: f64 = 3.0;

/// The least nodes a bandwidth. Where the tabulated part would have fewer, because a neuron's modes are many bandwidths apart, it
/// is where most activations are. Ours.
const FINENESS: f64 = 2.0;

/// Kernels smaller than e^-`NEAR` of the nearest one at its end are no part of a tail: 10⁻⁵, in the log factor. Ours.
const NEAR: f64 = 12.0;

impl Head {
    /// As numbers, for a file.
    pub fn to_words(self) -> [f32; HEAD_WORDS] {
        let Self { ends: [a, b], density, lowest, step, bandwidths, floor } = self;
        [a, b, density, lowest, step, bandwidths, floor]
    }

    /// From [`Head::to_words`].
    pub fn from_words([a, b, density, lowest, step, bandwidths, floor]: [f32; HEAD_WORDS]) -> Self {
        Self { ends: [a, b], density, lowest, step, bandwidths, floor }
    }

    /// The value and bandwidth that [`Head::constant`] was made of; the bandwidth is infinite if there was none.
    #[cfg(any(feature = "cuda", test))]
    pub(super) fn kernel(&self) -> (f64, f64) {
        (f64::from(self.ends[0]), 1.0 / f64::from(self.bandwidths))
    }

    /// Of a neuron that only took `value`, as if its density were one kernel of this bandwidth; without one, of a neuron that
    /// tells nothing: a log factor of 0 everywhere, and of NaN. All its nodes are 0 and its tails empty.
    pub fn constant(value: f32, bandwidth: Option<f64>) -> Self {
        let bandwidths = bandwidth.map_or(0.0, |bandwidth| 1.0 / bandwidth) as f32;
        let (density, lowest, step, floor) = (0.0, 0.0, 0.0, f32::NEG_INFINITY);
        Self { ends: [value; 2], density, lowest, step, bandwidths, floor }
    }
}

/// What a table's log factors differ by from the exact ones.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Error {
    /// At the centres, midway between them, and midway between nodes.
    pub largest: f64,
    /// Over the train activations, each taken for its centre.
    pub mean: f64,
}

/// A neuron's log factors.
#[derive(Debug, Clone, PartialEq)]
pub struct Table {
    /// Its scale.
    pub head: Head,
    /// [`NODES`] values.
    pub nodes: Vec<u16>,
    /// Left and right of them: as many numbers for each of [`Tail`]'s columns, one column after the other.
    pub tails: [Vec<f32>; 2],
}

impl Table {
    /// Of a fitted neuron.
    pub fn new(model: &Model) -> Self {
        let density = &model.density;
        let centres = density.centres();
        let widest = NODES as f64 / FINENESS;
        let [mut first, mut last] = [TAIL, 1.0 - TAIL].map(|share| density.quantile(share));
        if centres[last] - centres[first] > widest {
            [first, last] = heaviest(centres, density.weights(), widest);
        }
        // The nearer neighbour first.
        loop {
            let gap = |centre: Option<&f64>, end: usize| centre.map_or(f64::INFINITY, |at| (at - centres[end]).abs());
            let left = gap(first.checked_sub(1).map(|next| &centres[next]), first);
            let right = gap(centres.get(last + 1), last);
            let wide = centres[last] - centres[first] + left.min(right);
            if left.min(right) > GAP || wide > widest {
                break;
            }
            if left < right { first -= 1 } else { last += 1 }
        }
        let value = |position: f64| (density.origin + position * density.bandwidth) as f32;
        let ends = [centres[first] - GAP / 2.0, centres[last] + GAP / 2.0].map(value);
        // Where they are as f32.
        let [start, end] = ends.map(|end| density.position(f64::from(end)));
        let spacing = (end - start) / (NODES - 1) as f64;
        let mut factors: Vec<f64> = (0..NODES).map(|node| start + spacing * node as f64).collect();
        model.log_factors(&mut factors);
        let lowest = factors.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = factors.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let quantum = ((highest - lowest) / f64::from(u16::MAX)).max(f64::from(f32::MIN_POSITIVE));
        let around = &model.neighbourhood;
        let steps = |end: f64| around.breaks.partition_point(|at| *at <= end);
        // Both tails as if they were the right one.
        let left = tail(
            centres.iter().zip(density.weights()).rev().map(|(centre, weight)| (start - centre, *weight)),
            around.breaks[..steps(start)].iter().rev().map(|at| start - at),
            around.log_densities[..=steps(start)].iter().rev(),
        );
        let right = tail(
            centres.iter().zip(density.weights()).map(|(centre, weight)| (centre - end, *weight)),
            around.breaks[steps(end)..].iter().map(|at| at - end),
            around.log_densities[steps(end)..].iter(),
        );
        let head = Head {
            ends,
            density: ((NODES - 1) as f64 / (f64::from(ends[1]) - f64::from(ends[0]))) as f32,
            lowest: lowest as f32,
            step: quantum as f32,
            bandwidths: (1.0 / density.bandwidth) as f32,
            floor: model.floor() as f32,
        };
        let nodes = factors.iter().map(|value| ((value - lowest) / quantum).round() as u16).collect();
        Self { head, nodes, tails: [left, right] }
    }

    /// Its function.
    pub fn curve(&self) -> Curve<'_> {
        Curve { head: &self.head, nodes: &self.nodes, tails: [&self.tails[0], &self.tails[1]] }
    }

    /// How far it is from the neuron that it was made of.
    pub fn error(&self, model: &Model) -> Error {
        let density = &model.density;
        let centres = density.centres();
        let [start, end] = self.head.ends.map(|end| density.position(f64::from(end)));
        let spacing = (end - start) / (NODES - 1) as f64;
        let nodes = (0..NODES - 1).map(|node| start + spacing * (node as f64 + 0.5));
        let between = centres.windows(2).map(|pair| f64::midpoint(pair[0], pair[1]));
        // The same numbers to both: the positions as f32 values.
        let positions = centres.iter().copied().chain(between).chain(nodes);
        let values: Vec<f32> = positions.map(|at| (density.origin + at * density.bandwidth) as f32).collect();
        let mut exact: Vec<f64> = values.iter().map(|value| density.position(f64::from(*value))).collect();
        model.log_factors(&mut exact);
        let mut found = vec![0.0; values.len()];
        self.curve().log_factors(model.cap() as f32, &values, &mut found);
        let errors: Vec<f64> = exact.iter().zip(&found).map(|(a, b)| (a - f64::from(*b)).abs()).collect();
        Error {
            largest: errors.iter().copied().fold(0.0, f64::max),
            mean: errors.iter().zip(density.weights()).map(|(error, weight)| error * f64::from(*weight)).sum(),
        }
    }
}

/// The first and the last of the centres, at most `width` apart, that have the largest weight.
fn heaviest(centres: &[f64], weights: &[f32], width: f64) -> [usize; 2] {
    let (mut first, mut weight, mut best) = (0, 0.0, (0.0, [0, 0]));
    for (last, centre) in centres.iter().enumerate() {
        weight += f64::from(weights[last]);
        while centre - centres[first] > width {
            weight -= f64::from(weights[first]);
            first += 1;
        }
        if weight > best.0 {
            best = (weight, [first, last]);
        }
    }
    best.1
}

/// A tail from its centres, outwards from the table's other end, with their weights; from the positions where the
/// neighbourhood's density changes, and from that before and after each. Positions are bandwidths beyond the table's end.
fn tail<'a>(
    centres: impl Iterator<Item = (f64, f32)> + Clone,
    breaks: impl Iterator<Item = f64>,
    log_densities: impl Iterator<Item = &'a f64>,
) -> Vec<f32> {
    let nearest = centres.clone().map(|(at, _)| at.abs()).fold(f64::INFINITY, f64::min);
    let least = -(nearest * nearest + 2.0 * NEAR).sqrt();
    let (mut positions, mut weights): (Vec<f32>, Vec<f32>) =
        centres.filter(|(at, _)| *at >= least).map(|(at, weight)| (at as f32, weight)).unzip();
    let mut froms: Vec<f32> = std::iter::once(f32::NEG_INFINITY).chain(breaks.map(|at| at as f32)).collect();
    let mut log_densities: Vec<f32> = log_densities.map(|density| *density as f32).collect();
    let rows = positions.len().max(froms.len());
    positions.resize(rows, positions.last().copied().unwrap_or(0.0));
    weights.resize(rows, 0.0);
    froms.resize(rows, f32::INFINITY);
    log_densities.resize(rows, 0.0);
    [positions, weights, froms, log_densities].concat()
}

/// A tail, in its rows.
#[derive(Debug, Clone, Copy)]
struct Tail<'a> {
    /// Bandwidths beyond the table's end, increasing; filled up with the last.
    centres: &'a [f32],
    /// 0 where filled up.
    weights: &'a [f32],
    /// From where on the next holds; filled up with infinity.
    froms: &'a [f32],
    /// ln WDE
    log_densities: &'a [f32],
}

impl<'a> Tail<'a> {
    /// `None` if it has no rows.
    fn of(numbers: &'a [f32]) -> Option<Self> {
        let rows = numbers.len() / 4;
        let column = |column: usize| &numbers[column * rows..(column + 1) * rows];
        (rows > 0).then(|| Self { centres: column(0), weights: column(1), froms: column(2), log_densities: column(3) })
    }

    /// ln WAF without a cap, `u` bandwidths beyond the table's end. As `Density::log_sums` and `Neighbourhood::log_density`.
    #[inline(always)]
    fn log_factor(&self, u: f32, floor: f32) -> f32 {
        let rows = self.centres.len();
        let right = self.centres.partition_point(|centre| *centre < u).min(rows - 1);
        let left = right.saturating_sub(1);
        let (before, after) = (self.centres[left], self.centres[right]);
        let nearest = if u - before < after - u { before } else { after };
        let distance = u - nearest;
        let reach = (distance * distance + 2.0 * REACH as f32).sqrt();
        let first = self.centres.partition_point(|centre| *centre < u - reach);
        let sum: f32 = self.centres[first..]
            .iter()
            .zip(&self.weights[first..])
            .take_while(|(centre, _)| **centre <= u + reach)
            .map(|(centre, weight)| weight * exp((centre - nearest) * (2.0 * u - centre - nearest) * 0.5))
            .sum();
        let density = sum.ln() - 0.5 * distance * distance;
        let around = self.log_densities[self.froms.partition_point(|from| *from <= u).max(1) - 1];
        around - density.max(floor)
    }
}

/// A neuron's tabulated function.
#[derive(Debug, Clone, Copy)]
pub struct Curve<'a> {
    /// [`Table::head`]
    pub head: &'a Head,
    /// [`Table::nodes`]
    pub nodes: &'a [u16],
    /// [`Table::tails`]; where there is none, one kernel stands at the end of the table.
    pub tails: [&'a [f32]; 2],
}

impl<'a> Curve<'a> {
    /// Of [`Head::constant`].
    pub fn constant(head: &'a Head) -> Self {
        Self { head, nodes: &[0; NODES], tails: [&[]; 2] }
    }

    /// ln WAF of `values`; NaN gives the cap, unless the neuron tells nothing.
    pub fn log_factors(&self, cap: f32, values: &[f32], factors: &mut [f32]) {
        let Head { ends, density, lowest, step, .. } = *self.head;
        let grid = Grid { ends, density, lowest, step, nodes: self.nodes };
        if interpolate(grid, cap, values, factors) {
            for (value, factor) in values.iter().zip(factors) {
                if value.is_nan() || *value < ends[0] || *value > ends[1] {
                    *factor = self.in_tail(cap, *value);
                }
            }
        }
    }

    fn in_tail(&self, cap: f32, value: f32) -> f32 {
        let Head { ends, bandwidths, floor, .. } = *self.head;
        if bandwidths == 0.0 {
            return 0.0;
        }
        let (beyond, tail) = match value < ends[0] {
            true => (ends[0] - value, self.tails[0]),
            false => (value - ends[1], self.tails[1]),
        };
        // Factors are far above any cap out there already, and squares stay finite.
        let u = (beyond * bandwidths).min(1e9);
        let found = match Tail::of(tail) {
            Some(tail) => tail.log_factor(u, floor),
            None => 0.5 * u * u,
        };
        if value.is_nan() { cap } else { found.min(cap) }
    }
}

/// Many neurons' tables, one after another.
#[derive(Debug, Default)]
pub struct Tables {
    /// One a neuron.
    pub heads: Vec<Head>,
    /// [`NODES`] a neuron.
    pub nodes: Vec<u16>,
    /// Both of every neuron.
    pub tails: Vec<f32>,
    /// Where each neuron's left and right tail end.
    pub ends: Vec<[usize; 2]>,
}

impl Tables {
    /// For so many neurons: growing would hold the tables of hundreds of thousands up to four times.
    pub fn with_capacity(neurons: usize) -> Self {
        Self { nodes: Vec::with_capacity(neurons * NODES), ..Self::default() }
    }

    /// Adds a neuron's.
    pub fn push(&mut self, curve: Curve<'_>) {
        self.heads.push(*curve.head);
        self.nodes.extend(curve.nodes);
        self.ends.push(curve.tails.map(|tail| {
            self.tails.extend(tail);
            self.tails.len()
        }));
    }

    /// A neuron's.
    pub fn curve(&self, neuron: usize) -> Curve<'_> {
        let start = neuron.checked_sub(1).map_or(0, |before| self.ends[before][1]);
        let [middle, end] = self.ends[neuron];
        Curve {
            head: &self.heads[neuron],
            nodes: &self.nodes[neuron * NODES..(neuron + 1) * NODES],
            tails: [&self.tails[start..middle], &self.tails[middle..end]],
        }
    }
}

/// e^x of each, in place.
pub fn exponentials(values: &mut [f32]) {
    wide!(values.iter_mut().for_each(|value| *value = exp(*value)));
}
