//! Whether the networks have the layers that detectors and figures name, and whether the fits have images, features and memory
//! enough, before any network is trained.

use std::{collections::BTreeMap, rc::Rc};

use candle_core::{DType, Device, Tensor};

use crate::{
    Error, Result,
    config::{
        Experiment,
        search::{combinations, with},
    },
    data::{self, Split},
    detectors::{About, LayerShape, Refusal},
    nn::{
        self, Mode, Outputs, Shape,
        params::Params,
        watch::{Side, watch},
    },
    run::{
        execute::Runner,
        plan::{Node, Plan, to_json},
        store::Progress,
        view::{afdu_method, layer_of},
    },
};

/// The shape of a network's images, and how many train images a detector learns from, if that is known.
type Images = (Shape, Option<usize>);

/// What a network gives of one image, whatever its weights.
struct Shown {
    layers: Vec<LayerShape>,
    outputs: Outputs,
}

/// Refuses detectors and figures of layers or neurons that the networks do not have, more neighbours than train images, directions
/// that leave none of the features', and too little memory for a fit, as far as the shape and the number of the images are known
/// without reading them. What the fits hold that take memory by the images' size, a line each.
///
/// # Errors
/// [`crate::Error::Input`] naming the file, the key and what there is, or the least memory.
pub fn check(plan: &Plan) -> Result<Vec<String>> {
    check_with(plan, &mut |_, node| {
        let known = || {
            let [channels, height, width] = data::shape(&node.data)?;
            let shape = Shape { channels, height, width, classes: data::classes(&node.data)? };
            let all = data::full_size(&node.data, Split::Train).filter(|_| !data::embedded(&node.data));
            Some((shape, all.into_iter().chain(node.data.train_limit).min()))
        };
        Ok(known())
    })
}

impl Runner<'_> {
    /// The same of the images that there are.
    ///
    /// # Errors
    /// As [`check`]; those of reading the images.
    pub(super) fn check_layers(&mut self) -> Result<()> {
        let plan = self.plan;
        let held = check_with(plan, &mut |experiment, node| {
            let id = &experiment.data.id;
            let shape = self.shape(id)?;
            let store = &self.context.store;
            let train = match (store.progress(node), &node.train) {
                // Its train images may be gone, and all scores be there.
                (Progress::Done, Some(recipe)) => Some(store.record(node)?.train_images + recipe.validation),
                (Progress::Done, None) => None,
                _ => Some(self.train_images(id)?.images.len()),
            };
            Ok(Some((shape, train)))
        });
        held.map(|_| ())
    }
}

fn check_with(
    plan: &Plan,
    images: &mut dyn FnMut(&Experiment, &Node) -> Result<Option<Images>>,
) -> Result<Vec<String>> {
    let mut held = Vec::new();
    let file = plan.path.display();
    // By architecture: to make a network takes a moment.
    let mut known: BTreeMap<String, Rc<Shown>> = BTreeMap::new();
    for task in plan.cells.iter().flat_map(|cell| &cell.tasks) {
        let experiment = &task.experiment;
        let mut shown = |network: &str| -> Result<Option<(Rc<Shown>, Option<usize>)>> {
            let node = task.networks.first().and_then(|networks| networks.get(network)?.first());
            let Some(node) = node.map(|&node| &plan.nodes[node]) else { return Ok(None) };
            let Some((shape, train)) = images(experiment, node)? else { return Ok(None) };
            let key = format!("{}{shape:?}", to_json(&node.architecture)?);
            if !known.contains_key(&key) {
                known.insert(key.clone(), Rc::new(show(node, shape)?));
            }
            Ok(known.get(&key).map(|shown| (shown.clone(), train)))
        };
        for method in experiment.methods() {
            if method.detector.detector().depends().is_none() {
                continue;
            }
            let Some((shown, train)) = shown(&method.network)? else { continue };
            let place = format!("{file}: methods.{}.detector.{}", method.entry, method.detector.name());
            let memory = experiment.evaluation.fit_memory << 20;
            let about = About { layers: &shown.layers, outputs: &shown.outputs, train, memory };
            for values in combinations(&method.search) {
                let tried = match values.is_empty() {
                    true => method.detector.clone(),
                    false => with(&method.detector, &values).map_err(Error::input)?,
                };
                let bytes = match tried.detector().depends().map(|check| check(about)) {
                    // Of all detectors, one that cannot be fitted is a row that says why.
                    Some(Err(Refusal { error: Error::Input { .. }, .. })) if method.of_all => continue,
                    Some(Err(Refusal { key: Some(key), error })) => return Err(error.at(&format!("{place}.{key}"))),
                    Some(Err(Refusal { key: None, error })) => return Err(error.at(&place)),
                    Some(Ok(Some(bytes))) => bytes,
                    Some(Ok(None)) | None => continue,
                };
                let line = format!("fit of {}: holds {} MiB at its peak", method.name, bytes.div_ceil(1 << 20));
                if !held.contains(&line) {
                    held.push(line);
                }
            }
        }
        for (index, figure) in experiment.figures.iter().enumerate() {
            if let Some((method, config)) = afdu_method(experiment, figure)
                && let Some((shown, _)) = shown(&method.network)?
            {
                layer_of(figure, &config, &shown.layers)
                    .map_err(|error| error.at(&format!("{file}: figures.{index}")))?;
            }
        }
    }
    Ok(held)
}

/// An untrained network, shown an image.
fn show(node: &Node, shape: Shape) -> Result<Shown> {
    let params = Params::new(node.seed, &Device::Cpu);
    let network = nn::build(&node.architecture, shape, params.builder())?;
    let image = Tensor::zeros((1, shape.channels, shape.height, shape.width), DType::F32, &Device::Cpu)?;
    let (outputs, layers) = watch(Side::Before, || network.forward(&image, Mode::Eval))?;
    Ok(Shown { layers: layers.iter().map(LayerShape::from).collect(), outputs })
}
