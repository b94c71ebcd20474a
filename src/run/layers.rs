//! Whether the networks have the layers that detectors and figures name, before any of them is trained.

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor};

use crate::{
    Result,
    detectors::{
        DetectorConfig, LayerShape,
        afdu::{Layers, layers::choose},
    },
    nn::{self, Mode, Shape, params::Params, watch::watch},
    run::{
        execute::Runner,
        plan::{Node, to_json},
        view::{afdu_method, layer_of},
    },
};

impl Runner<'_> {
    /// Refuses detectors and figures of layers or neurons that the networks do not have.
    ///
    /// # Errors
    /// [`crate::Error::Input`] naming the key and the layers that there are.
    pub(super) fn check_layers(&mut self) -> Result<()> {
        let plan = self.plan;
        // By architecture: to make a network takes a moment.
        let mut known: BTreeMap<String, Vec<LayerShape>> = BTreeMap::new();
        for cell in &plan.cells {
            let experiment = &cell.experiment;
            let mut shapes = |runner: &mut Self, network: &str| -> Result<Option<Vec<LayerShape>>> {
                let node = cell.networks.first().and_then(|networks| networks.get(network)?.first());
                let Some(node) = node.map(|&node| &plan.nodes[node]) else { return Ok(None) };
                let architecture = to_json(&node.architecture)?.to_string();
                if !known.contains_key(&architecture) {
                    let images = runner.test_sets(&experiment.data)?.remove(0).images.clone();
                    let [channels, height, width] = images.shape();
                    let shape = Shape { channels, height, width, classes: images.classes };
                    known.insert(architecture.clone(), layers(node, shape)?);
                }
                Ok(known.get(&architecture).cloned())
            };
            for method in experiment.methods() {
                if let DetectorConfig::Afdu(config) = &method.detector
                    && config.layers != Layers::All
                    && let Some(shapes) = shapes(self, &method.network)?
                {
                    choose(config, &shapes)
                        .map_err(|error| error.at(&format!("methods.{}.detector.afdu.layers", method.entry)))?;
                }
            }
            for (index, figure) in experiment.figures.iter().enumerate() {
                if let Some((method, config)) = afdu_method(experiment, figure)
                    && let Some(shapes) = shapes(self, &method.network)?
                {
                    layer_of(figure, &config, &shapes).map_err(|error| error.at(&format!("figures.{index}")))?;
                }
            }
        }
        Ok(())
    }
}

/// The layers of an untrained network.
fn layers(node: &Node, shape: Shape) -> Result<Vec<LayerShape>> {
    let params = Params::new(node.seed, &Device::Cpu);
    let network = nn::build(&node.architecture, shape, params.builder())?;
    let image = Tensor::zeros((1, shape.channels, shape.height, shape.width), DType::F32, &Device::Cpu)?;
    let (_, layers) = watch(|| network.forward(&image, Mode::Eval))?;
    Ok(layers.iter().map(LayerShape::from).collect())
}
