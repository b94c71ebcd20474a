//! What figures show of a fit, beyond its scores.

use std::{collections::BTreeMap, path::Path};

use candle_core::Tensor;

use super::{Bank, Batches, LayerShape, Scorer};
use crate::{Result, data::ImageSet};

/// A part of a fit that a figure shows.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// A layer's name; the detector chooses one unless given.
    pub layer: Option<&'a str>,
    /// What of the layer.
    pub part: Part,
}

/// What a figure shows of a layer.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    /// Its maps over the first images of each set.
    Maps {
        /// How many of each set.
        images: usize,
    },
    /// One neuron, numbered within the layer; the detector chooses one unless given.
    Neuron(Option<usize>),
}

/// What a view is made from.
pub struct Scene<'a> {
    /// The layers on the train images.
    pub train: &'a dyn Batches,
    /// What made the scores, if it is still there.
    pub scorer: Option<&'a dyn Scorer>,
    /// The test sets and what the network gives on them, the ID set first.
    pub sets: &'a [(&'a ImageSet, &'a Bank)],
    /// Bytes that a fit may hold at a time.
    pub memory: usize,
    /// Where an interrupted fit goes on from; removed when it is done.
    pub scratch: &'a Path,
}

/// What a figure is drawn from, as a file keeps it.
#[derive(Debug)]
pub struct Shown {
    /// By name, as [`run::view`](crate::run::view) reads them.
    pub tensors: BTreeMap<String, Tensor>,
    /// `what` is shown, and on which side of the non-linearity, as `tap`.
    pub metadata: BTreeMap<String, String>,
}

/// A detector whose fit figures can show.
pub trait Views {
    /// What is wrong with a view of this `method`, and with which key of the figure, before there is a network.
    fn problems(&self, view: View<'_>, method: &str) -> Vec<(&'static str, String)>;

    /// Refuses a layer or a neuron that a network does not have.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) that says which there are.
    fn check(&self, view: View<'_>, layers: &[LayerShape]) -> Result<()>;

    /// What the figure is drawn from.
    ///
    /// # Errors
    /// As [`Views::check`]; those of a pass and of a fit.
    fn show(&self, view: View<'_>, scene: &Scene<'_>) -> Result<Shown>;
}
