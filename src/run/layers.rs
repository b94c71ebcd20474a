//! Whether the networks have the layers that detectors and figures name, and whether AFDU's fit of them has memory enough, before
//! any network is trained.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::{
    Result,
    config::Experiment,
    data::{self, Split},
    detectors::{
        DetectorConfig, LayerShape,
        afdu::{fit::check_memory, layers::choose},
    },
    nn::{self, Mode, Shape, params::Params, watch::watch},
    run::{
        execute::Runner,
        plan::{Node, Plan, to_json},
        store::Progress,
        view::{afdu_method, layer_of},
    },
};

/// The shape of a network's images, and how many train images a detector learns from, at most.
type Images = (Shape, usize);

/// Refuses detectors and figures of layers or neurons that the networks do not have, and too little memory to fit them, as far as
/// the shape and the number of the images are known without reading them.
///
/// # Errors
/// [`crate::Error::Input`] naming the file, the key and the layers that there are, or the least memory.
pub fn check(plan: &Plan) -> Result<()> {
    check_with(plan, &mut |_, node| {
        let known = || {
            let [channels, height, width] = data::shape(&node.data)?;
            let shape = Shape { channels, height, width, classes: data::classes(&node.data)? };
            let all = data::full_size(&node.data, Split::Train);
            Some((shape, all.into_iter().chain(node.data.train_limit).min()?))
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
        check_with(plan, &mut |experiment, node| {
            let images = self.test_sets(&experiment.data)?.remove(0).images.clone();
            let [channels, height, width] = images.shape();
            let shape = Shape { channels, height, width, classes: images.classes };
            let store = &self.context.store;
            let train = match store.progress(node) {
                // Its train images may be gone, and all scores be there.
                Progress::Done => store.record(node)?.train_images,
                _ => self.set(&node.data, Split::Train, None)?.images.len(),
            };
            Ok(Some((shape, train)))
        })
    }
}

fn check_with(plan: &Plan, images: &mut dyn FnMut(&Experiment, &Node) -> Result<Option<Images>>) -> Result<()> {
    let file = plan.path.display();
    // By architecture: to make a network takes a moment.
    let mut known: BTreeMap<String, Vec<LayerShape>> = BTreeMap::new();
    for cell in &plan.cells {
        let experiment = &cell.experiment;
        let mut shapes = |network: &str| -> Result<Option<(Vec<LayerShape>, usize)>> {
            let node = cell.networks.first().and_then(|networks| networks.get(network)?.first());
            let Some(node) = node.map(|&node| &plan.nodes[node]) else { return Ok(None) };
            let Some((shape, train)) = images(experiment, node)? else { return Ok(None) };
            let key = format!("{}{shape:?}", to_json(&node.architecture)?);
            if !known.contains_key(&key) {
                known.insert(key.clone(), layers(node, shape)?);
            }
            Ok(known.get(&key).map(|shapes| (shapes.clone(), train)))
        };
        for method in experiment.methods() {
            if let DetectorConfig::Afdu(config) = &method.detector
                && let Some((shapes, train)) = shapes(&method.network)?
            {
                let place = format!("{file}: methods.{}.detector.afdu", method.entry);
                let chosen = choose(config, &shapes).map_err(|error| error.at(&format!("{place}.layers")))?;
                let neurons = chosen.last().map_or(0, |layer| layer.neurons.end);
                check_memory(config, neurons, train, experiment.evaluation.fit_memory << 20)
                    .map_err(|error| error.at(&place))?;
            }
        }
        for (index, figure) in experiment.figures.iter().enumerate() {
            if let Some((method, config)) = afdu_method(experiment, figure)
                && let Some((shapes, _)) = shapes(&method.network)?
            {
                layer_of(figure, &config, &shapes).map_err(|error| error.at(&format!("{file}: figures.{index}")))?;
            }
        }
    }
    Ok(())
}

/// The layers of an untrained network.
fn layers(node: &Node, shape: Shape) -> Result<Vec<LayerShape>> {
    let params = Params::new(node.seed, &Device::Cpu);
    let network = nn::build(&node.architecture, shape, params.builder())?;
    let image = Tensor::zeros((1, shape.channels, shape.height, shape.width), DType::F32, &Device::Cpu)?;
    let (_, layers) = watch(|| network.forward(&image, Mode::Eval))?;
    Ok(layers.iter().map(LayerShape::from).collect())
}
