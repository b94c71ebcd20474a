//! Whether the networks have the layers that detectors and figures name, and whether the fits have images, features and memory
//! enough, before any network is trained.

use std::{collections::BTreeMap, path::Path, rc::Rc};

use candle_core::{DType, Device, Tensor};
use indexmap::IndexMap;

use crate::{
    Error, Result,
    config::{
        Experiment,
        search::{combinations, with},
    },
    data::{self, Dataset, Format, Split},
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
/// without reading them. What the fits hold that take memory by the images' size, and what the maps take on disk, a line each; with a
/// data root, images are counted there.
///
/// # Errors
/// [`crate::Error::Input`] naming the file, the key and what there is, or the least memory.
pub fn check(plan: &Plan, root: Option<&Path>) -> Result<Vec<String>> {
    let images = &mut |experiment: &Experiment, node: &Node| {
        let id = &experiment.data.id;
        let known = || {
            // A network with data of its own is fed images as those it is used on.
            let fed = if node.shared { id } else { &node.data };
            let [channels, height, width] = data::shape(fed)?;
            let category = id.format == Some(Format::Mvtec);
            let classes = data::classes(fed).or(category.then_some(1))?;
            let all = data::full_size(fed, Split::Train).filter(|_| !data::embedded(fed));
            let all = all.or_else(|| Some(data::glance(id, Split::Train, root.filter(|_| category)?)?.0));
            Some((Shape { channels, height, width, classes }, all.into_iter().chain(fed.train_limit).min()))
        };
        Ok(known())
    };
    let tested = |experiment: &Experiment| -> Option<usize> {
        let (data, root) = (&experiment.data, root?);
        let count = |set: &Dataset| {
            let all = data::full_size(set, Split::Test).filter(|_| !data::embedded(set));
            let all = all.or_else(|| Some(data::glance(set, Split::Test, root)?.0))?;
            Some(set.test_limit.map_or(all, |limit| all.min(limit)))
        };
        std::iter::once(&data.id).chain(&data.ood_sets()).map(count).sum()
    };
    check_with(plan, images, &tested)
}

impl Runner<'_> {
    /// The same of the images that there are.
    ///
    /// # Errors
    /// As [`check`]; those of reading the images.
    pub(super) fn check_layers(&mut self) -> Result<()> {
        let plan = self.plan;
        let images = &mut |experiment: &Experiment, node: &Node| {
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
        };
        check_with(plan, images, &|_| None).map(|_| ())
    }
}

fn check_with(
    plan: &Plan,
    images: &mut dyn FnMut(&Experiment, &Node) -> Result<Option<Images>>,
    tested: &dyn Fn(&Experiment) -> Option<usize>,
) -> Result<Vec<String>> {
    let mut held = Vec::new();
    // Of each method, the grid of its maps and how many there will be.
    let mut maps: IndexMap<String, ([usize; 2], Option<usize>)> = IndexMap::new();
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
                if let Some(grid) = tried.detector().grid(&shown.outputs) {
                    let count = tested(experiment).map(|images| images * experiment.seeds.len());
                    let known = maps.entry(method.name.clone()).or_insert((grid, Some(0)));
                    known.1 = known.1.zip(count).map(|(known, count)| known + count);
                }
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
    held.extend(maps.iter().map(|(name, ([rows, columns], count))| match count {
        Some(count) => {
            let bytes = (count * rows * columns * size_of::<f32>()) as u64;
            format!("maps of {name}: {count} of {rows}×{columns}, {} on disk", data::size(bytes))
        }
        None => format!("maps of {name}: {rows}×{columns}, {} bytes an image", rows * columns * size_of::<f32>()),
    }));
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
