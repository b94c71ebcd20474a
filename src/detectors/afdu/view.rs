//! What pictures of AFDU show: a layer's factors on some images (the paper's figures 5 and 6), and one neuron's normal range
//! (figure 2).

use std::sync::Arc;

use super::{
    Config, Granularity,
    bandwidth::moments,
    fit::{self, Fitted},
    layers::{self, Chosen, Layers},
    neuron::{Model, Neuron, is_usable},
    score,
};
use crate::{
    Error, Result,
    detectors::{Batches, LayerShape},
    did_you_mean,
};

/// Bars of a neuron's histogram.
const BINS: usize = 100;

/// Values at which a neuron's curves are known, besides the centres of its clusters.
const STEPS: usize = 1024;

/// Train images, evenly spaced, by which a neuron to show is chosen.
const CHOOSE_BY: usize = 1000;

/// A layer's maps, means over channels, image after image.
#[derive(Debug, Clone, PartialEq)]
pub struct Maps {
    /// Rows and columns of a map.
    pub size: [usize; 2],
    /// (N, rows, columns) activations.
    pub activations: Vec<f32>,
    /// (N, rows, columns) log factors.
    pub log_factors: Vec<f32>,
}

/// One neuron's normal range.
#[derive(Debug, Clone)]
pub struct Profile {
    /// The least and the largest of its train activations.
    pub range: [f64; 2],
    /// Mean and standard deviation of its train activations.
    pub moments: [f64; 2],
    /// Shares of its train activations in equal parts of the range, divided by their width.
    pub histogram: Vec<f64>,
    /// Values from one range below the least activation to one range above the largest, increasing.
    pub values: Vec<f64>,
    /// Its density there.
    pub densities: Vec<f64>,
    /// Its log factors there.
    pub log_factors: Vec<f64>,
    model: Model,
}

impl Profile {
    /// Its log factor of an activation.
    pub fn log_factor(&self, activation: f32) -> f64 {
        let mut found = [self.model.density.position(f64::from(activation))];
        self.model.log_factors(&mut found);
        found[0]
    }
}

/// Whether a layer's neurons are pixels of feature maps.
fn has_maps(config: &Config, shape: &LayerShape) -> bool {
    config.granularity == Granularity::Pixel && shape.dims.len() == 3
}

/// The layer that a picture shows: the one of this name, or the first that the detector reads and that has maps, if the
/// picture shows `maps`.
///
/// # Errors
/// [`Error::Input`] that says which layers there are.
pub fn layer(config: &Config, shapes: &[LayerShape], name: Option<&str>, maps: bool) -> Result<Chosen> {
    let all = layers::choose(config, shapes)?;
    let fits = |layer: &&Chosen| !maps || has_maps(config, &layer.shape);
    let names = |layers: &mut dyn Iterator<Item = &Chosen>| -> Vec<String> {
        layers.map(|layer| layer.shape.name.clone()).collect()
    };
    let read = names(&mut all.iter());
    let Some(name) = name else {
        return all.iter().find(fits).cloned().ok_or_else(|| {
            Error::input(format!("none of the detector's layers has feature maps; it reads {}", read.join(", ")))
        });
    };
    let Some(found) = all.iter().find(|layer| layer.shape.name == name) else {
        let near = did_you_mean(name, read.iter().map(String::as_str));
        return Err(Error::input(format!(
            "the detector reads no layer \"{name}\"{near}; it reads {}",
            read.join(", ")
        )));
    };
    if !fits(&found) {
        let others = names(&mut all.iter().filter(fits));
        let which =
            if others.is_empty() { "nor has any other".into() } else { format!("{} can be drawn", others.join(", ")) };
        return Err(Error::input(format!("the layer {name} has no feature maps; {which}")));
    }
    Ok(found.clone())
}

/// Refuses a neuron that a layer does not have.
///
/// # Errors
/// [`Error::Input`].
pub fn check_neuron(layer: &Chosen, neuron: usize) -> Result<()> {
    let (name, count) = (&layer.shape.name, layer.neurons.len());
    if neuron < count {
        return Ok(());
    }
    Err(Error::input(format!("the layer {name} has {count} neurons, 0 to {}: there is no neuron {neuron}", count - 1)))
}

/// The same detector for one layer: its neurons' factors are the same bits.
pub fn only(config: &Config, layer: &Chosen) -> Config {
    Config { layers: Layers::Named(vec![layer.shape.name.clone()]), ..config.clone() }
}

/// The maps of a layer on the images at these positions.
///
/// # Errors
/// Those of the pass; [`Error::Failed`] if the detector was fitted without the layer.
pub fn maps(fitted: &Fitted, layer: &Chosen, batches: &dyn Batches, images: &[usize]) -> Result<Maps> {
    let (name, dims) = (&layer.shape.name, &layer.shape.dims);
    let Some(of) = fitted.layers.iter().find(|fitted| fitted.chosen.shape == layer.shape) else {
        return Err(Error::Failed(format!("AFDU was fitted without the layer {name}")));
    };
    let &[channels, rows, columns] = &dims[..] else {
        return Err(Error::Failed(format!("the layer {name} has no feature maps")));
    };
    let found = score::factors(fitted, &of.chosen, batches, images)?;
    let mean = |values: &[f32]| -> Vec<f32> {
        let images = values.chunks_exact(channels * rows * columns);
        let means = images.flat_map(|image| {
            (0..rows * columns).map(|pixel| {
                let over = image.iter().skip(pixel).step_by(rows * columns).copied().map(f64::from);
                (over.sum::<f64>() / channels as f64) as f32
            })
        });
        means.collect()
    };
    Ok(Maps { size: [rows, columns], activations: mean(&found.activations), log_factors: mean(&found.log_factors) })
}

/// The neuron to show where none is named: of those in the middle of a channel's map (of all, where there are no maps), the
/// one that varies most, by its standard deviation on 1,000 evenly spaced train images. Numbered within the layer.
///
/// # Errors
/// Those of the pass.
pub fn choose_neuron(config: &Config, layer: &Chosen, train: &dyn Batches) -> Result<usize> {
    let candidates: Vec<usize> = match &layer.shape.dims[..] {
        &[channels, rows, columns] if config.granularity == Granularity::Pixel => {
            (0..channels).map(|channel| (channel * rows + rows / 2) * columns + columns / 2).collect()
        }
        _ => (0..layer.neurons.len()).collect(),
    };
    let few = train.images().min(CHOOSE_BY);
    let few = train.subset(&fit::evenly(few, train.images()))?;
    let columns = columns(config, layer, few.as_ref(), &candidates)?;
    let spread = |column: &Vec<f32>| {
        let usable: Vec<f64> = column.iter().filter(|value| is_usable(**value)).copied().map(f64::from).collect();
        if usable.is_empty() { 0.0 } else { moments(&usable, &vec![1.0; usable.len()]).1 }
    };
    let spreads = columns.iter().map(spread).zip(&candidates);
    let first = (f64::NEG_INFINITY, 0);
    let (_, chosen) =
        spreads.fold(first, |best, (spread, &neuron)| if spread > best.0 { (spread, neuron) } else { best });
    Ok(chosen)
}

/// A neuron's normal range, from the train images; exactly the density that the detector fits, and its exact factors.
///
/// # Errors
/// Those of the pass; [`Error::Input`] if the neuron took no two values.
pub fn profile(config: &Config, layer: &Chosen, train: &dyn Batches, neuron: usize) -> Result<Profile> {
    let subset: Option<Arc<dyn Batches>> = fit::subset(config, train)?;
    let train = subset.as_deref().unwrap_or(train);
    let mut column = activations(config, layer, train, neuron)?;
    let model = match Neuron::fit(&mut column, config) {
        Neuron::Varied(model) => model,
        Neuron::Constant(value) => {
            let message = format!(
                "neuron {neuron} of the layer {} is {value} on all train images: there is no distribution to draw",
                layer.shape.name
            );
            return Err(Error::input(message).hint("name another neuron"));
        }
        Neuron::Absent => {
            let message = format!("neuron {neuron} of the layer {} has no finite activation", layer.shape.name);
            return Err(Error::input(message));
        }
    };
    // `fit` put the usable ones first, in increasing order.
    let usable: Vec<f64> = column.iter().take_while(|value| is_usable(**value)).copied().map(f64::from).collect();
    let (low, high) = (usable[0], usable[usable.len() - 1]);
    let (mean, deviation) = moments(&usable, &vec![1.0; usable.len()]);
    let width = (high - low) / BINS as f64;
    let mut histogram = vec![0.0; BINS];
    for value in &usable {
        histogram[(((value - low) / width) as usize).min(BINS - 1)] += 1.0 / (usable.len() as f64 * width);
    }
    let density = &model.density;
    let step = 3.0 * (high - low) / STEPS as f64;
    let mut values: Vec<f64> = (0..=STEPS).map(|at| low - (high - low) + step * at as f64).collect();
    values.extend(density.centres().iter().map(|centre| density.origin + centre * density.bandwidth));
    values.sort_unstable_by(f64::total_cmp);
    let positions: Vec<f64> = values.iter().map(|value| density.position(*value)).collect();
    let scale = (density.bandwidth * (2.0 * std::f64::consts::PI).sqrt()).ln();
    let mut densities = positions.clone();
    density.log_sums(&mut densities);
    densities.iter_mut().for_each(|log| *log = (*log - scale).exp());
    let mut log_factors = positions;
    model.log_factors(&mut log_factors);
    Ok(Profile { range: [low, high], moments: [mean, deviation], histogram, values, densities, log_factors, model })
}

/// A neuron's activations on every image.
///
/// # Errors
/// Those of the pass.
pub fn activations(config: &Config, layer: &Chosen, batches: &dyn Batches, neuron: usize) -> Result<Vec<f32>> {
    Ok(columns(config, layer, batches, &[neuron])?.remove(0))
}

/// The activations of some neurons of a layer on every image, neuron by neuron.
fn columns(config: &Config, layer: &Chosen, batches: &dyn Batches, neurons: &[usize]) -> Result<Vec<Vec<f32>>> {
    let mut columns = vec![Vec::with_capacity(batches.images()); neurons.len()];
    batches.pass("drawing AFDU", true, &mut |_, batch| {
        layers::with_rows(config, layer, &batch.layers, |rows| {
            for row in rows.chunks_exact(layer.neurons.len()) {
                columns.iter_mut().zip(neurons).for_each(|(column, neuron)| column.push(row[*neuron]));
            }
        })
    })?;
    Ok(columns)
}
