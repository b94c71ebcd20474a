//! What figures show of a fit, kept beside the scores that it made.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use candle_core::{DType, Tensor, WithDType};
use serde_json::json;

use crate::{
    Error, Result,
    config::{Experiment, Figure, Method},
    detectors::{
        Scorer,
        views::{Part, Scene, View},
    },
    fs::read_if_there,
    nn::weights::{self, read_safetensors},
    run::{execute::Runner, plan::short_hash, subject::Subject},
};

/// Changes when what is stored changes its meaning.
const VERSION: u32 = 3;

/// What a [`Figure::Factors`] shows of one set.
#[derive(Debug, Clone)]
pub struct SetMaps {
    /// (N, C, H, W) u8, C = 1 or 3.
    pub pictures: Tensor,
    /// (N, rows, columns) f32.
    pub activations: Tensor,
    /// (N, rows, columns) f32.
    pub log_factors: Tensor,
}

/// What a [`Figure::Neuron`] shows.
#[derive(Debug, Clone)]
pub struct NeuronView {
    /// As [`Profile::range`](crate::detectors::afdu::view::Profile::range).
    pub range: Vec<f64>,
    /// As [`Profile::moments`](crate::detectors::afdu::view::Profile::moments).
    pub moments: Vec<f64>,
    /// As [`Profile::histogram`](crate::detectors::afdu::view::Profile::histogram).
    pub histogram: Vec<f64>,
    /// As [`Profile::values`](crate::detectors::afdu::view::Profile::values).
    pub values: Vec<f64>,
    /// As [`Profile::densities`](crate::detectors::afdu::view::Profile::densities).
    pub densities: Vec<f64>,
    /// As [`Profile::log_factors`](crate::detectors::afdu::view::Profile::log_factors).
    pub log_factors: Vec<f64>,
    /// Of each set, the first images' activations and log factors.
    pub marks: Vec<[Vec<f64>; 2]>,
}

/// A file that a figure is drawn from.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
    tensors: BTreeMap<String, Tensor>,
    metadata: BTreeMap<String, String>,
}

/// Where what a figure shows lies: beside the scores, a file for each choice of layer, images and sets. `sets` are the names of their files of
/// scores without the ending, which no other images have. `None` for figures that are drawn from scores alone.
pub fn path(scores: &Path, figure: &Figure, sets: &[String]) -> Option<PathBuf> {
    let (_, View { layer, part }) = figure.view()?;
    let (kind, hash) = match part {
        Part::Maps { images } => ("factors", json!([VERSION, layer, images, sets])),
        Part::Neuron(neuron) => ("neuron", json!([VERSION, layer, neuron, sets])),
    };
    Some(scores.join(format!("{kind}-{}.safetensors", short_hash(&hash))))
}

impl Runner<'_> {
    /// Stores what the method's figures show, unless it is stored. `scores` is the folder of its scores; `scorer` what made
    /// them, if that was in this run.
    pub(super) fn views(
        &mut self,
        method: &Method,
        subject: &Subject<'_>,
        figures: &[Figure],
        scores: &Path,
        scorer: Option<&dyn Scorer>,
    ) -> Result<()> {
        let Some(views) = method.detector.detector().views() else { return Ok(()) };
        let sets: Vec<String> = subject.reported().iter().map(|set| set.file_stem()).collect();
        for figure in figures {
            let (Some((name, view)), Some(path)) = (figure.view(), path(scores, figure, &sets)) else { continue };
            if name != method.name || path.exists() {
                continue;
            }
            let train = self.train_bank(method, subject)?;
            let sets: Vec<_> = subject.reported().iter().map(|set| &*set.images).zip(&subject.banks).collect();
            let (train, memory) = (train.batches()?, subject.settings.fit_memory << 20);
            let scene = Scene { train, scorer, sets: &sets, memory, scratch: &scores.join("fit") };
            let shown = views.show(view, &scene)?;
            weights::write(&path, &shown.tensors, &shown.metadata)?;
        }
        Ok(())
    }
}

/// The method whose fit a figure shows, and what of it.
pub(super) fn viewed<'a>(experiment: &Experiment, figure: &'a Figure) -> Option<(Method, View<'a>)> {
    let (name, view) = figure.view()?;
    Some((experiment.methods().into_iter().find(|method| method.name == name)?, view))
}

impl File {
    /// Reads what a run stored beside scores.
    ///
    /// # Errors
    /// As [`File::stored`].
    pub fn read(path: PathBuf) -> Result<Self> {
        Self::stored(path, "the scores were made")
    }

    /// Reads what a run stored when this happened: `the network was used`.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no such file, or it is something else.
    pub(super) fn stored(path: PathBuf, what: &str) -> Result<Self> {
        let Some(bytes) = read_if_there(&path)? else {
            let message = format!("{} does not exist: the figure was not there when {what}", path.display());
            return Err(Error::input(message).hint("run the experiment again: networks and scores are used again"));
        };
        match read_safetensors(&bytes) {
            Ok((tensors, metadata)) => Ok(Self { path, tensors, metadata }),
            Err(reason) => Err(damaged(&path, &reason)),
        }
    }

    /// What `part` makes of its tensors and metadata.
    ///
    /// # Errors
    /// [`Error::Input`] if that is nothing.
    pub(super) fn parsed<T>(
        &self,
        part: impl FnOnce(&BTreeMap<String, Tensor>, &BTreeMap<String, String>) -> Option<T>,
    ) -> Result<T> {
        part(&self.tensors, &self.metadata).ok_or_else(|| damaged(&self.path, "a part is missing or of another size"))
    }

    /// What is shown: a layer's name, or a neuron's place.
    pub fn what(&self) -> &str {
        self.metadata.get("what").map_or("", String::as_str)
    }

    /// `before the non-linearity`, or after it.
    pub fn side(&self) -> &str {
        // The name that files have.
        self.metadata.get("tap").map_or("", String::as_str)
    }

    /// As what a [`Figure::Factors`] shows of so many sets.
    ///
    /// # Errors
    /// [`Error::Input`] if the file does not hold that.
    pub fn maps(&self, sets: usize) -> Result<Vec<SetMaps>> {
        let maps = (0..sets).map(|index| {
            let tensor = |name: &str, dtype: DType, rank: usize| {
                let found = self.tensors.get(&format!("{index}.{name}"));
                found.filter(|tensor| tensor.dtype() == dtype && tensor.rank() == rank).cloned()
            };
            let maps = SetMaps {
                pictures: tensor("pictures", DType::U8, 4)?,
                activations: tensor("activations", DType::F32, 3)?,
                log_factors: tensor("log_factors", DType::F32, 3)?,
            };
            let images = maps.pictures.dims()[0];
            let whole = maps.activations.dims() == maps.log_factors.dims() && maps.activations.dims()[0] == images;
            let coloured = matches!(maps.pictures.dims()[1], 1 | 3) && maps.activations.elem_count() > 0;
            (whole && coloured).then_some(maps)
        });
        maps.collect::<Option<_>>().ok_or_else(|| damaged(&self.path, "a map is missing or of another size"))
    }

    /// As what a [`Figure::Neuron`] shows of so many sets.
    ///
    /// # Errors
    /// [`Error::Input`] if the file does not hold that.
    pub fn neuron(&self, sets: usize) -> Result<NeuronView> {
        self.neuron_view(sets).ok_or_else(|| damaged(&self.path, "numbers are missing or too few"))
    }

    fn neuron_view(&self, sets: usize) -> Option<NeuronView> {
        let vector = |name: &str| -> Option<Vec<f64>> { stored(self.tensors.get(name)?) };
        let marks = (0..sets).map(|index| {
            let marks = [vector(&format!("{index}.activations"))?, vector(&format!("{index}.log_factors"))?];
            (marks[0].len() == marks[1].len()).then_some(marks)
        });
        let view = NeuronView {
            range: vector("range")?,
            moments: vector("moments")?,
            histogram: vector("histogram")?,
            values: vector("values")?,
            densities: vector("densities")?,
            log_factors: vector("log_factors")?,
            marks: marks.collect::<Option<_>>()?,
        };
        let count = view.values.len();
        let whole = [view.densities.len(), view.log_factors.len()] == [count; 2]
            && [view.range.len(), view.moments.len()] == [2; 2]
            && !view.histogram.is_empty()
            && view.range[0] < view.range[1];
        whole.then_some(view)
    }
}

fn stored<T: WithDType>(tensor: &Tensor) -> Option<Vec<T>> {
    tensor.to_vec1().ok()
}

fn damaged(path: &Path, reason: &str) -> Error {
    Error::input(format!("{} does not hold what a figure shows: {reason}", path.display()))
        .hint("remove the file and run the experiment again: what is still good is not repeated")
}
