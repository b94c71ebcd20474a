//! What figures of AFDU are drawn from: computed once, from the fit that made the scores where it is still there.

use std::{any::Any, collections::BTreeMap};

use candle_core::{Device, Tensor};

use super::{
    Config, Granularity, Tap,
    fit::{self, Fitted},
    layers::{Chosen, Layers},
    view,
};
use crate::{
    Result,
    data::ImageSet,
    detectors::{
        Bank, LayerShape,
        views::{Part, Scene, Shown, View, Views},
    },
    fs::remove_folder_if_there,
    yaml::problems::no_such,
};

/// Images of each set that a neuron's figure marks.
const MARKED: usize = 8;

/// The layer of a view; it has the view's neuron.
fn layer_of(config: &Config, view: View<'_>, shapes: &[LayerShape]) -> Result<Chosen> {
    let layer = view::layer(config, shapes, view.layer, matches!(view.part, Part::Maps { .. }))?;
    if let Part::Neuron(Some(neuron)) = view.part {
        view::check_neuron(&layer, neuron)?;
    }
    Ok(layer)
}

impl Views for Config {
    fn problems(&self, view: View<'_>, method: &str) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        if matches!(view.part, Part::Maps { .. }) && self.granularity == Granularity::Channel {
            let message =
                format!("the neurons of \"{method}\" are channels (`granularity: channel`), which have no pixels");
            problems.push(("method", message));
        }
        if let (Layers::Named(names), Some(layer)) = (&self.layers, view.layer)
            && !names.iter().any(|name| name == layer)
        {
            let message = no_such("layer", layer, names.iter().map(String::as_str));
            problems.push(("layer", format!("{message} among those that \"{method}\" reads")));
        }
        problems
    }

    fn check(&self, view: View<'_>, layers: &[LayerShape]) -> Result<()> {
        layer_of(self, view, layers).map(|_| ())
    }

    fn show(&self, view: View<'_>, scene: &Scene<'_>) -> Result<Shown> {
        let layer = layer_of(self, view, &scene.train.layers()?)?;
        let (tensors, what) = match view.part {
            Part::Neuron(neuron) => {
                let neuron = neuron.map_or_else(|| view::choose_neuron(self, &layer, scene.train), Ok)?;
                let profile = view::profile(self, &layer, scene.train, neuron)?;
                (neuron_tensors(self, &layer, &profile, neuron, scene.sets)?, place(self, &layer, neuron))
            }
            Part::Maps { images } => {
                let anew;
                let fitted = match scene.scorer.and_then(|scorer| (scorer as &dyn Any).downcast_ref::<Fitted>()) {
                    Some(fitted) => fitted,
                    None => {
                        anew = fit::fit(&view::only(self, &layer), scene.train, scene.memory, Some(scene.scratch))?;
                        &anew
                    }
                };
                let tensors = factor_tensors(fitted, &layer, images, scene.sets)?;
                remove_folder_if_there(scene.scratch)?;
                (tensors, layer.shape.name.clone())
            }
        };
        let tap = match self.tap {
            Tap::Pre => "before the non-linearity",
            Tap::Post => "after the non-linearity",
        };
        let metadata = [("what", what.as_str()), ("tap", tap)];
        Ok(Shown { tensors, metadata: metadata.map(|(key, value)| (key.to_owned(), value.to_owned())).into() })
    }
}

/// `neuron 78 of conv1 (channel 0, row 6, column 6)`
fn place(config: &Config, layer: &Chosen, neuron: usize) -> String {
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
    sets: &[(&ImageSet, &Bank)],
) -> Result<BTreeMap<String, Tensor>> {
    let mut tensors = BTreeMap::new();
    for (index, (set, bank)) in sets.iter().enumerate() {
        let first: Vec<usize> = (0..images.min(set.len())).collect();
        let maps = view::maps(fitted, layer, bank.batches()?, &first)?;
        let [rows, columns] = maps.size;
        let [channels, height, width] = set.shape();
        let pixels = set.read(&first)?;
        let mut keep = |name: &str, tensor: Tensor| tensors.insert(format!("{index}.{name}"), tensor);
        keep("pictures", Tensor::from_vec(pixels, (first.len(), channels, height, width), &Device::Cpu)?);
        keep("activations", Tensor::from_vec(maps.activations, (first.len(), rows, columns), &Device::Cpu)?);
        keep("log_factors", Tensor::from_vec(maps.log_factors, (first.len(), rows, columns), &Device::Cpu)?);
    }
    Ok(tensors)
}

fn neuron_tensors(
    config: &Config,
    layer: &Chosen,
    profile: &view::Profile,
    neuron: usize,
    sets: &[(&ImageSet, &Bank)],
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
    for (index, (_, bank)) in sets.iter().enumerate() {
        let all = bank.batches()?;
        let first: Vec<usize> = (0..MARKED.min(all.images())).collect();
        let activations = view::activations(config, layer, all.subset(&first)?.as_ref(), neuron)?;
        let factors = activations.iter().map(|activation| profile.log_factor(*activation)).collect();
        keep(format!("{index}.activations"), activations.iter().copied().map(f64::from).collect())?;
        keep(format!("{index}.log_factors"), factors)?;
    }
    Ok(tensors)
}
