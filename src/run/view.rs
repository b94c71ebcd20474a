//! What figures of AFDU show, kept beside the scores: computed once, from the fit that made them where it is still there.

use std::{
    any::Any,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor, WithDType};
use serde_json::json;

use crate::{
    Error, Result,
    config::{Experiment, Figure, Method},
    detectors::{
        Bank, DetectorConfig, LayerShape, Scorer,
        afdu::{
            self, Granularity, Tap,
            fit::{self, Fitted},
            layers::Chosen,
            view,
        },
    },
    fs::{read_if_there, remove_folder_if_there},
    nn::weights::{self, read_safetensors},
    run::{execute::Runner, plan::short_hash, sets::LoadedSet, subject::Subject},
};

/// Changes when what is stored changes its meaning.
const VERSION: u32 = 2;

/// Images of each set that a neuron's figure marks.
const MARKED: usize = 8;

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
    /// As [`view::Profile::range`].
    pub range: Vec<f64>,
    /// As [`view::Profile::moments`].
    pub moments: Vec<f64>,
    /// As [`view::Profile::histogram`].
    pub histogram: Vec<f64>,
    /// As [`view::Profile::values`].
    pub values: Vec<f64>,
    /// As [`view::Profile::densities`].
    pub densities: Vec<f64>,
    /// As [`view::Profile::log_factors`].
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

/// Where what a figure shows lies: beside the scores, a file for each choice of layer, images and sets. `sets` are their names
/// and SHA-256. `None` for figures that are drawn from scores alone.
pub fn path<'a>(scores: &Path, figure: &Figure, sets: impl Iterator<Item = (&'a str, &'a str)>) -> Option<PathBuf> {
    let sets: Vec<_> = sets.collect();
    let (kind, hash) = match figure {
        Figure::Factors(figure) => ("factors", json!([VERSION, figure.layer, figure.images, sets])),
        Figure::Neuron(figure) => ("neuron", json!([VERSION, figure.layer, figure.neuron, sets])),
        _ => return None,
    };
    Some(scores.join(format!("{kind}-{}.safetensors", short_hash(&hash))))
}

/// The layer of a figure; it has the figure's neuron.
pub(super) fn layer_of(figure: &Figure, config: &afdu::Config, shapes: &[LayerShape]) -> Result<Option<Chosen>> {
    match figure {
        Figure::Factors(figure) => view::layer(config, shapes, figure.layer.as_deref(), true).map(Some),
        Figure::Neuron(figure) => {
            let layer = view::layer(config, shapes, figure.layer.as_deref(), false)?;
            figure.neuron.map_or(Ok(()), |neuron| view::check_neuron(&layer, neuron))?;
            Ok(Some(layer))
        }
        _ => Ok(None),
    }
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
        let DetectorConfig::Afdu(config) = &method.detector else { return Ok(()) };
        for figure in figures {
            let sets = subject.reported().iter().map(|set| (set.images.name.as_str(), set.sha256.as_str()));
            let Some(path) = path(scores, figure, sets) else { continue };
            if figure.neurons_of() != Some(&method.name) || path.exists() {
                continue;
            }
            let train = self.train_bank(subject)?;
            let train = train.layers()?;
            let Some(layer) = layer_of(figure, config, &train.layers()?)? else { continue };
            let (tensors, what) = match figure {
                Figure::Neuron(figure) => {
                    let neuron = match figure.neuron {
                        Some(neuron) => neuron,
                        None => view::choose_neuron(config, &layer, train)?,
                    };
                    let profile = view::profile(config, &layer, train, neuron)?;
                    (neuron_tensors(config, &layer, &profile, neuron, &subject.banks)?, place(config, &layer, neuron))
                }
                Figure::Factors(figure) => {
                    let scratch = scores.join("fit");
                    let anew;
                    let fitted = match scorer.and_then(|scorer| (scorer as &dyn Any).downcast_ref::<Fitted>()) {
                        Some(fitted) => fitted,
                        None => {
                            let memory = subject.settings.fit_memory << 20;
                            anew = fit::fit(&view::only(config, &layer), train, memory, Some(&scratch))?;
                            &anew
                        }
                    };
                    let tensors = factor_tensors(fitted, &layer, figure.images, subject.reported(), &subject.banks)?;
                    remove_folder_if_there(&scratch)?;
                    (tensors, layer.shape.name.clone())
                }
                _ => continue,
            };
            let tap = match config.tap {
                Tap::Pre => "before the non-linearity",
                Tap::Post => "after the non-linearity",
            };
            let metadata = [("what", what.as_str()), ("tap", tap)];
            let metadata = metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
            weights::write(&path, &tensors, &metadata)?;
        }
        Ok(())
    }
}

/// The method that a figure shows, and its settings, if it is a figure of AFDU.
pub(super) fn afdu_method(experiment: &Experiment, figure: &Figure) -> Option<(Method, afdu::Config)> {
    let name = figure.neurons_of()?;
    let method = experiment.methods().into_iter().find(|method| method.name == name)?;
    match &method.detector {
        DetectorConfig::Afdu(config) => {
            let config = config.clone();
            Some((method, config))
        }
        _ => None,
    }
}

/// `neuron 78 of conv1 (channel 0, row 6, column 6)`
fn place(config: &afdu::Config, layer: &Chosen, neuron: usize) -> String {
    let name = &layer.shape.name;
    match &layer.shape.dims[..] {
        &[_, rows, columns] if config.granularity == Granularity::Pixel => format!(
            "neuron {neuron} of {name} (channel {}, row {}, column {})",
            neuron / (rows * columns),
            neuron / columns % rows,
            neuron % columns
        ),
        [_, _, _] => format!("channel {neuron} of {name}"),
        _ => format!("neuron {neuron} of {name}"),
    }
}

fn factor_tensors(
    fitted: &Fitted,
    layer: &Chosen,
    images: usize,
    sets: &[std::sync::Arc<LoadedSet>],
    banks: &[Bank],
) -> Result<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    for (index, (set, bank)) in sets.iter().zip(banks).enumerate() {
        let first: Vec<usize> = (0..images.min(set.images.len())).collect();
        let maps = view::maps(fitted, layer, bank.layers()?, &first)?;
        let [rows, columns] = maps.size;
        let [channels, height, width] = set.images.shape();
        let pixels = set.images.read(&first)?;
        let mut keep = |name: &str, tensor: Tensor| tensors.insert(format!("{index}.{name}"), tensor);
        keep("pictures", Tensor::from_vec(pixels, (first.len(), channels, height, width), &Device::Cpu)?);
        keep("activations", Tensor::from_vec(maps.activations, (first.len(), rows, columns), &Device::Cpu)?);
        keep("log_factors", Tensor::from_vec(maps.log_factors, (first.len(), rows, columns), &Device::Cpu)?);
    }
    Ok(tensors)
}

fn neuron_tensors(
    config: &afdu::Config,
    layer: &Chosen,
    profile: &view::Profile,
    neuron: usize,
    banks: &[Bank],
) -> Result<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    let mut keep = |name: String, values: Vec<f64>| -> Result<()> {
        let count = values.len();
        tensors.insert(name, Tensor::from_vec(values, count, &Device::Cpu)?);
        Ok(())
    };
    keep("range".into(), profile.range.to_vec())?;
    keep("moments".into(), profile.moments.to_vec())?;
    keep("histogram".into(), profile.histogram.clone())?;
    keep("values".into(), profile.values.clone())?;
    keep("densities".into(), profile.densities.clone())?;
    keep("log_factors".into(), profile.log_factors.clone())?;
    for (index, bank) in banks.iter().enumerate() {
        let all = bank.layers()?;
        let first: Vec<usize> = (0..MARKED.min(all.images())).collect();
        let activations = view::activations(config, layer, all.subset(&first)?.as_ref(), neuron)?;
        let factors = activations.iter().map(|activation| profile.log_factor(*activation)).collect();
        keep(format!("{index}.activations"), activations.iter().copied().map(f64::from).collect())?;
        keep(format!("{index}.log_factors"), factors)?;
    }
    Ok(tensors)
}

impl File {
    /// Reads what a run stored.
    ///
    /// # Errors
    /// [`Error::Input`] if there is no such file, or it is something else.
    pub fn read(path: PathBuf) -> Result<Self> {
        let Some(bytes) = read_if_there(&path)? else {
            let message =
                format!("{} does not exist: the figure was not there when the scores were made", path.display());
            return Err(Error::input(message).hint("run the experiment again: networks and scores are used again"));
        };
        match read_safetensors(&bytes) {
            Ok((tensors, metadata)) => Ok(Self { path, tensors, metadata }),
            Err(reason) => Err(damaged(&path, &reason)),
        }
    }

    /// What is shown: a layer's name, or a neuron's place.
    pub fn what(&self) -> &str {
        self.metadata.get("what").map_or("", String::as_str)
    }

    /// `before the non-linearity`, or after it.
    pub fn tap(&self) -> &str {
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
