//! One neuron's normal range, fitted to its activations on the train images.

use super::{
    Config,
    bandwidth::{Rule, bandwidth, moments},
    density::Density,
    factor::Neighbourhood,
    kmeans::{Clusters, Distinct, kmeans},
};

/// Bandwidths are at least this share of the neuron's standard deviation. Ours: far below any that a rule gives for a sample of
/// a continuous value, it keeps a density from being a comb of needles.
const NARROWEST: f64 = 1e-3;

/// Whether a fit takes an activation into account: not NaN, not infinite, nor so large that squares overflow in f32.
pub fn is_usable(activation: f32) -> bool {
    activation.abs() <= 1e30
}

/// What a neuron's train activations tell.
#[derive(Debug, Clone)]
pub enum Neuron {
    /// It took different values.
    Varied(Model),
    /// It always took this value: a dead ReLU, or a pixel that the train set never paints.
    Constant(f32),
    /// None of its activations was usable.
    Absent,
}

/// The density of a neuron that took different values, and the neighbourhoods in it.
#[derive(Debug, Clone)]
pub struct Model {
    /// f.
    pub density: Density,
    /// WDE.
    pub neighbourhood: Neighbourhood,
    floor: f64,
    cap: f64,
    /// Whether the rule found no bandwidth, so that Silverman's was taken.
    pub fell_back: bool,
    /// Share of the values that atoms hold.
    pub atoms: f64,
}

impl Neuron {
    /// Of activations, which it sorts; those that are not [usable](is_usable) are left out.
    pub fn fit(activations: &mut [f32], config: &Config) -> Self {
        let mut finite = 0;
        for index in 0..activations.len() {
            if is_usable(activations[index]) {
                activations.swap(finite, index);
                finite += 1;
            }
        }
        let values = &mut activations[..finite];
        values.sort_unstable_by(f32::total_cmp);
        match (values.first(), values.last()) {
            (None, _) | (_, None) => Self::Absent,
            // What follows divides by parts of a bandwidth in f32.
            (Some(first), Some(last)) if last - first < 1e-25 => Self::Constant(*first),
            _ => Self::Varied(Model::fit(&Distinct::of(values), config)),
        }
    }
}

impl Model {
    /// Of at least two different values.
    fn fit(values: &Distinct, config: &Config) -> Self {
        let clusters = kmeans(values, config.clusters);
        let (_, deviation) = moments(&clusters.centres, &clusters.counts);
        let (points, weights, atoms) = without_atoms(values, &clusters);
        let by_rule = if points.len() < 2 { None } else { bandwidth(config.bandwidth, &points, &weights) };
        let fallback = || match points.len() {
            0 | 1 => bandwidth(Rule::Silverman, &clusters.centres, &clusters.counts),
            _ => bandwidth(Rule::Silverman, &points, &weights),
        };
        let bandwidth = by_rule.or_else(fallback).unwrap_or(deviation).max(NARROWEST * deviation);
        let density = Density::new(&clusters.centres, &clusters.counts, bandwidth);
        let floor = (config.floor * bandwidth / deviation * (2.0 * std::f64::consts::PI).sqrt()).ln();
        Self::new(density, floor, by_rule.is_none(), atoms, config)
    }

    /// Of a density; `floor` as [`Model::floor`].
    pub fn new(density: Density, floor: f64, fell_back: bool, atoms: f64, config: &Config) -> Self {
        let neighbourhood = Neighbourhood::new(&density, config.k, config.sigma);
        Self { neighbourhood, density, floor, cap: config.cap, fell_back, atoms }
    }

    /// The least ln f (without −ln(h√2π)): [`Config::floor`] in the density's units.
    pub fn floor(&self) -> f64 {
        self.floor
    }

    /// The largest log factor.
    pub fn cap(&self) -> f64 {
        self.cap
    }

    /// ln WAF of positions (see [`Density::position`]), which it replaces: at most the cap, never NaN; NaN gives the cap.
    pub fn log_factors(&self, positions: &mut [f64]) {
        self.uncapped(positions);
        for factor in positions {
            *factor = if factor.is_nan() { self.cap } else { factor.min(self.cap) };
        }
    }

    /// ln WAF of values.
    pub fn log_factors_of(&self, values: &[f32], factors: &mut [f32]) {
        let mut positions: Vec<f64> = values.iter().map(|value| self.density.position(f64::from(*value))).collect();
        self.log_factors(&mut positions);
        factors.iter_mut().zip(positions).for_each(|(factor, found)| *factor = found as f32);
    }

    /// The same without the cap.
    pub(super) fn uncapped(&self, positions: &mut [f64]) {
        let around: Vec<f64> = positions.iter().map(|u| self.neighbourhood.log_density(*u)).collect();
        // Factors are far above any cap out there already, and squares stay finite.
        positions.iter_mut().for_each(|u| *u = u.clamp(-1e9, 1e9));
        self.density.log_sums(positions);
        for (density, around) in positions.iter_mut().zip(around) {
            // Not `max`, which would lose NaN.
            let floored = if *density < self.floor { self.floor } else { *density };
            *density = around - floored;
        }
    }
}

/// The centres with the counts that are left when atoms are taken out, and the share of the atoms.
///
/// An atom is a single value that many images share: a ReLU's zero, or the bias where a convolution sees only background. ISJ
/// reads derivatives off a spectrum; an atom of share m adds m² to every frequency, a sample of N points about 1/N, so values
/// with a share above 1/√N would make it believe in infinite detail, and are not what a bandwidth should be chosen for. They
/// remain in the density.
fn without_atoms(values: &Distinct, clusters: &Clusters) -> (Vec<f64>, Vec<f64>, f64) {
    let total: f64 = values.counts.iter().sum();
    let heavy = total / (clusters.centres.len() as f64).sqrt();
    let (mut points, mut weights, mut atoms) = (Vec::new(), Vec::new(), 0.0);
    let mut first = 0;
    for (centre, &end) in clusters.centres.iter().zip(&clusters.ends) {
        let (mut count, mut moment) = (0.0, 0.0);
        for (value, n) in values.values[first..end].iter().zip(&values.counts[first..end]) {
            if *n > heavy {
                atoms += n / total;
            } else {
                count += n;
                moment += n * (value - centre);
            }
        }
        if count > 0.0 {
            points.push(centre + moment / count);
            weights.push(count);
        }
        first = end;
    }
    (points, weights, atoms)
}
