//! Which layers are read, and a layer's neurons as rows of numbers.

use std::{borrow::Cow, ops::Range};

use candle_core::{DType, Tensor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Config, Granularity, Tap};
use crate::{
    Error, Result,
    detectors::{LayerShape, with_values},
    did_you_mean,
    nn::pass::Layer,
    ops,
    yaml::{named::word_or_list, problems::first_repeated},
};

/// `all`, or a list of names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Layers {
    /// Every layer that the network shows.
    All,
    /// These, in the network's order.
    Named(Vec<String>),
}

impl Serialize for Layers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Named(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Layers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let short = |word: &str| (word == "all").then_some(Self::All);
        word_or_list(deserializer, "`all` or a list of layers' names", short, Self::Named)
    }
}

impl schemars::JsonSchema for Layers {
    fn schema_name() -> Cow<'static, str> {
        "Layers".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [
            { "const": "all" },
            { "type": "array", "items": { "type": "string" }, "minItems": 1 },
        ] })
    }
}

/// Garde: a list names something, and nothing twice.
pub(super) fn names(layers: &Layers, _: &()) -> garde::Result {
    let Layers::Named(names) = layers else { return Ok(()) };
    if names.is_empty() {
        return Err(garde::Error::new("names no layer; `all` takes every layer"));
    }
    match first_repeated(names) {
        Some(index) => Err(garde::Error::new(format!("names the layer \"{}\" twice", names[index]))),
        None => Ok(()),
    }
}

/// A layer that is read.
#[derive(Debug, Clone, PartialEq)]
pub struct Chosen {
    /// Its name, size and non-linearity.
    pub shape: LayerShape,
    /// Its place among the network's layers.
    pub index: usize,
    /// Its neurons among those of all chosen layers.
    pub neurons: Range<usize>,
}

/// The layers that `config` names.
///
/// # Errors
/// [`Error::Input`] that lists the layers, if the network has none of a name; [`Error::Failed`] if it shows no layer at all.
pub fn choose(config: &Config, shapes: &[LayerShape]) -> Result<Vec<Chosen>> {
    if let Layers::Named(names) = &config.layers {
        let known: Vec<&str> = shapes.iter().map(|shape| shape.name.as_str()).collect();
        if let Some(name) = names.iter().find(|name| !known.contains(&name.as_str())) {
            let nearest = did_you_mean(name, known.iter().copied());
            let message = format!("the network has no layer \"{name}\"{nearest}; it has {}", known.join(", "));
            return Err(Error::input(message));
        }
    }
    let mut chosen: Vec<Chosen> = Vec::new();
    for (index, shape) in shapes.iter().enumerate() {
        if matches!(&config.layers, Layers::Named(names) if !names.contains(&shape.name)) {
            continue;
        }
        let count = match config.granularity {
            Granularity::Pixel => shape.dims.iter().product(),
            Granularity::Channel => shape.dims.first().copied().unwrap_or(0),
        };
        let first = chosen.last().map_or(0, |layer| layer.neurons.end);
        chosen.push(Chosen { shape: shape.clone(), index, neurons: first..first + count });
    }
    if chosen.last().is_none_or(|layer| layer.neurons.end == 0) {
        return Err(Error::Failed("the network shows no neurons".into()));
    }
    Ok(chosen)
}

/// The layer's activations on the side that is asked for, f32, on the device where the network is.
///
/// # Errors
/// [`Error::Failed`] if the batch's layer is not the one that was chosen.
pub fn tapped(config: &Config, chosen: &Chosen, batch: &[Layer]) -> Result<Tensor> {
    let layer = batch.get(chosen.index).filter(|layer| LayerShape::from(*layer) == chosen.shape);
    let Some(layer) = layer else {
        return Err(Error::Failed(format!("the layer {} is not what it was when AFDU was fitted", chosen.shape.name)));
    };
    let values = match config.tap {
        Tap::Pre => layer.values.clone(),
        Tap::Post => ops::activate(&layer.values, layer.activation)?,
    };
    Ok(values.to_dtype(DType::F32)?)
}

/// Calls `body` with every neuron's activation on each image of a batch: (N, neurons), row by row.
///
/// # Errors
/// As [`tapped`].
pub fn with_rows<R>(config: &Config, chosen: &Chosen, batch: &[Layer], body: impl FnOnce(&[f32]) -> R) -> Result<R> {
    let pixels: usize = chosen.shape.dims[1..].iter().product();
    with_values(&tapped(config, chosen, batch)?, |values| match config.granularity {
        Granularity::Pixel => body(values),
        Granularity::Channel => {
            let mean = |map: &[f32]| (map.iter().copied().map(f64::from).sum::<f64>() / pixels as f64) as f32;
            body(&values.chunks_exact(pixels).map(mean).collect::<Vec<f32>>())
        }
    })
}
