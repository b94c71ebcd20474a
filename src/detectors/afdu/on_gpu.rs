//! Scoring where the network runs: curves are copied to the GPU once, activations never leave it.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::{
    Aggregate, Granularity,
    fit::{Curves, Fitted},
    layers::{self, Chosen},
    neuron::Model,
    table::{Curve, HEAD_WORDS, Head, NODES},
};
use crate::{
    Result,
    nn::pass::Layer,
    ops::{self, anomaly_factor},
};

/// The curves of the layers that were met, by their first neuron.
#[derive(Default)]
pub struct OnGpu(BTreeMap<usize, anomaly_factor::Curves>);

impl OnGpu {
    /// [`score::sums`](super::score::sums) of a layer on a batch, within 10⁻⁵ of them for each neuron and NaN where they
    /// are; `None` if the layer is not on a GPU.
    pub fn sums(&mut self, fitted: &Fitted, chosen: &Chosen, batch: &[Layer]) -> Result<Option<Vec<f64>>> {
        let mut values = layers::tapped(&fitted.config, chosen, batch)?;
        if !anomaly_factor::is_on_gpu(&values) {
            return Ok(None);
        }
        if fitted.config.granularity == Granularity::Channel && values.rank() == 4 {
            values = ops::global_avg_pool2d(&values)?;
        }
        let curves = match self.0.entry(chosen.neurons.start) {
            std::collections::btree_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::btree_map::Entry::Vacant(entry) => entry.insert(copied(fitted, chosen, values.device())?),
        };
        let (cap, raw) = (f64::from(fitted.config.cap as f32), fitted.config.aggregate == Aggregate::Paper);
        let sums = anomaly_factor::sums(&values.flatten_from(1)?, curves, cap, raw)?;
        Ok(Some(sums.to_vec1()?))
    }
}

/// A layer's curves on the device.
fn copied(fitted: &Fitted, chosen: &Chosen, device: &Device) -> Result<anomaly_factor::Curves> {
    let neurons = chosen.neurons.clone();
    match &fitted.curves {
        Curves::Tabulated(tables, _) => {
            let curves: Vec<Curve<'_>> = neurons.clone().map(|neuron| tables.curve(neuron)).collect();
            let heads: Vec<f32> = curves.iter().flat_map(|curve| curve.head.to_words()).collect();
            let pairs = curves.iter().flat_map(|curve| curve.nodes.as_chunks::<2>().0);
            let pairs: Vec<u32> = pairs.map(|[left, right]| u32::from(*left) | u32::from(*right) << 16).collect();
            let (mut ends, mut tails) = (vec![0], Vec::new());
            for tail in curves.iter().flat_map(|curve| curve.tails) {
                tails.extend(tail);
                ends.push(tails.len() as u32);
            }
            // No tensor is empty.
            tails.push(0.0);
            let numbers = tails.len();
            Ok(anomaly_factor::Curves::Tabulated {
                heads: Tensor::from_vec(heads, (neurons.len(), HEAD_WORDS), device)?,
                nodes: Tensor::from_vec(pairs, (neurons.len(), NODES / 2), device)?,
                ends: Tensor::from_vec(ends, 2 * neurons.len() + 1, device)?,
                tails: Tensor::from_vec(tails, numbers, device)?,
            })
        }
        Curves::Exact(models, _) => Clusters::of(&models[neurons]).on(device),
    }
}

/// The clusters of neurons, one after another: as [`anomaly_factor::Curves::Exact`].
#[derive(Default)]
struct Clusters {
    scales: Vec<f64>,
    starts: Vec<u32>,
    centres: Vec<f64>,
    breaks: Vec<f64>,
    log_densities: Vec<f64>,
    weights: Vec<f32>,
}

impl Clusters {
    fn of(models: &[std::result::Result<Box<Model>, Head>]) -> Self {
        let mut all = Self { starts: vec![0], ..Self::default() };
        for model in models {
            match model {
                Ok(model) => {
                    let density = &model.density;
                    all.scales.extend([density.origin, density.bandwidth, model.floor()]);
                    all.centres.extend(density.centres());
                    all.weights.extend(density.weights());
                    all.breaks.extend(&model.neighbourhood.breaks);
                    all.log_densities.extend(&model.neighbourhood.log_densities);
                }
                // A neuron without clusters: one kernel at its value, infinitely wide if it tells nothing.
                Err(head) => {
                    let (value, bandwidth) = head.kernel();
                    all.scales.extend([value, bandwidth, f64::NEG_INFINITY]);
                    all.centres.push(0.0);
                    all.weights.push(1.0);
                }
            }
            all.breaks.resize(all.centres.len(), f64::INFINITY);
            all.log_densities.resize(all.centres.len(), 0.0);
            all.starts.push(all.centres.len() as u32);
        }
        all
    }

    fn on(self, device: &Device) -> Result<anomaly_factor::Curves> {
        let Self { scales, starts, centres, breaks, log_densities, weights } = self;
        let (neurons, count) = (starts.len() - 1, centres.len());
        Ok(anomaly_factor::Curves::Exact {
            scales: Tensor::from_vec(scales, (neurons, 3), device)?,
            starts: Tensor::from_vec(starts, neurons + 1, device)?,
            centres: Tensor::from_vec(centres, count, device)?,
            breaks: Tensor::from_vec(breaks, count, device)?,
            log_densities: Tensor::from_vec(log_densities, count, device)?,
            weights: Tensor::from_vec(weights, count, device)?,
        })
    }
}
