//! `oodkit export`: a trained network for other programs.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use clap::Args;
use oodkit::{
    Error, Result, data, did_you_mean, metrics,
    models::ModelConfig,
    nn::weights,
    run::{
        plan::{Cell, Node, Task},
        results::Results,
        store::Progress,
    },
};
use serde_json::{Value, json};

use super::{Changes, Experiment, Opened, print};

/// The format's version.
const SCHEMA: u32 = 1;
/// The share of ID test images that thresholds accept, at least: `predict`'s default.
const TPR: f64 = 0.95;

/// Write a trained network for other programs: safetensors, and what they must know as JSON.
#[derive(Debug, Args)]
pub struct Export {
    /// A name in the experiments folder, or a path to a YAML file
    #[arg(long, value_name = "NAME")]
    experiment: PathBuf,
    /// A network of the experiment
    #[arg(long, value_name = "NETWORK")]
    network: String,
    /// A seed of the experiment; the first if not given
    #[arg(long)]
    seed: Option<u64>,
    /// A cell of the sweep: weight=0.01; needed where they have different networks of this name
    #[arg(long)]
    cell: Option<String>,
    /// A task of the experiment: a category, needed where each has a network of its own
    #[arg(long)]
    task: Option<String>,
    /// Where model.safetensors and model.json go; of an ensemble, model_0.safetensors and so on
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    changes: Changes,
}

impl Export {
    /// Does what was asked for.
    pub fn run(self) -> Result<()> {
        let opened = Opened::new(&Experiment { experiment: self.experiment.clone(), changes: self.changes.clone() })?;
        let (cell, task, seed, nodes) = self.nodes(&opened)?;
        let mut files = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            let folder = opened.store.folder(node);
            if opened.store.progress(node) != Progress::Done {
                let message = format!("network {} of seed {seed} is not trained: {}", self.network, folder.display());
                return Err(Error::input(message).hint(opened.command.clone()));
            }
            let name = if nodes.len() == 1 { "model.safetensors".into() } else { format!("model_{index}.safetensors") };
            let record = opened.store.record(node)?;
            let tensors = weights::read(&folder.join("model.safetensors"))?;
            let metadata = [("format", "pt".to_owned()), ("oodkit", record.environment.oodkit)];
            let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).into();
            weights::write(&self.out.join(&name), &tensors, &metadata)?;
            files.push(name);
        }
        let record = opened.store.record(nodes[0])?;
        let [channels, height, width, classes] = record.shape;
        let id = &opened.plan.experiment.data.id;
        let data::Normalisation { mean, std } = nodes[0].normalisation(record.normalisation.as_ref())?;
        let names = data::class_names(id, &opened.data).filter(|names| names.len() == classes);
        let about = json!({
            "schema": SCHEMA,
            "experiment": opened.plan.name,
            "network": self.network,
            "cell": cell.name,
            "task": task.name(),
            "seed": seed,
            "files": files,
            "architecture": built(&nodes[0].model),
            "python": module(&nodes[0].model, channels, classes),
            "input": {
                "channels": channels, "height": height, "width": width, "mean": mean, "std": std,
                "resize": id.resize.map_or_else(|| json!({ "mode": "bilinear", "antialias": true }), |resize| json!(resize)),
                "crop": id.crop.map_or_else(|| json!(1.0), |crop| json!(crop)),
                "brightness": id.brightness,
                "about": "(pixels / 255 - mean) / std, channels first (RGB), at this size: the shorter side is resized to the size \
                          divided by `crop`, the rest cut off about the centre; with crop none both sides are resized. brightness, if any: \
                          then all pixels are shifted so that the median luma is this, and cut off at 0 and 255",
            },
            "classes": { "count": classes, "names": names },
            "methods": self.methods(&opened, cell, (task.name(), seed))?,
        });
        let path = self.out.join("model.json");
        let mut text = serde_json::to_string_pretty(&about)
            .map_err(|error| Error::Failed(format!("cannot serialise {}: {error}", path.display())))?;
        text.push('\n');
        oodkit::write_atomic(&path, |file| file.write_all(text.as_bytes()))?;
        files.push("model.json".to_owned());
        let files: String = files.iter().map(|name| format!("  {}\n", self.out.join(name).display())).collect();
        print(&format!("files\n{files}"))
    }

    /// The cell, the task, the seed, and the network's nodes there, one for each member.
    fn nodes<'a>(&self, opened: &'a Opened) -> Result<(&'a Cell, &'a Task, u64, Vec<&'a Node>)> {
        let plan = &opened.plan;
        let known = plan.experiment.networks.keys().map(String::as_str);
        if !plan.experiment.networks.contains_key(&self.network) {
            let near = did_you_mean(&self.network, known.clone());
            return Err(Error::input(format!("--network {}: {} has no such network{near}", self.network, plan.name))
                .hint(format!("its networks are {}", known.collect::<Vec<_>>().join(", "))));
        }
        let cells = plan.cells.iter().map(|cell| cell.name.as_str()).collect::<Vec<_>>().join(", ");
        let cell = match &self.cell {
            Some(name) => plan.cells.iter().find(|cell| cell.name == *name).ok_or_else(|| {
                Error::input(format!("--cell {name}: {} has no such cell", plan.name))
                    .hint(format!("its cells are {cells}"))
            })?,
            None => {
                let distinct: BTreeSet<_> = plan
                    .cells
                    .iter()
                    .filter_map(|cell| cell.tasks.first()?.networks.first()?.get(&self.network))
                    .collect();
                if distinct.len() > 1 {
                    return Err(Error::input(format!("network {} is another one in each cell", self.network))
                        .hint(format!("choose with --cell: {cells}")));
                }
                plan.cells.first().ok_or_else(|| Error::input(format!("{} has no cells", plan.name)))?
            }
        };
        let of_tasks: BTreeSet<_> =
            cell.tasks.iter().filter_map(|task| task.networks.first()?.get(&self.network)).collect();
        let task = match (&self.task, cell.tasks.first()) {
            // One network serves all.
            (None, Some(first)) if of_tasks.len() == 1 => first,
            (name, _) => cell.task(name.as_deref()).map_err(|error| error.at("--task"))?,
        };
        let seeds = &cell.experiment.seeds;
        let at = self.seed.map_or(Some(0), |seed| seeds.iter().position(|known| *known == seed));
        let found = at.and_then(|at| Some((*seeds.get(at)?, task.networks.get(at)?.get(&self.network)?)));
        let (seed, indices) = found.ok_or_else(|| {
            let seeds = seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
            Error::input(format!("--seed {}: not a seed of the experiment", self.seed.unwrap_or_default()))
                .hint(format!("its seeds are {seeds}"))
        })?;
        Ok((cell, task, seed, indices.iter().filter_map(|index| plan.nodes.get(*index)).collect()))
    }

    /// The methods that read the network: detector, settings and threshold, if the experiment's results are there.
    fn methods(&self, opened: &Opened, cell: &Cell, (task, seed): (&str, u64)) -> Result<Value> {
        let Some(results) = Results::read(&opened.out)? else { return Ok(json!([])) };
        if !results.are_of(&opened.plan.experiment)? {
            return Ok(json!([]));
        }
        let seeds = results.cells.iter().filter(|known| known.name == cell.name).flat_map(|cell| &cell.seeds);
        let scored = seeds.filter(|known| known.seed == seed).find_map(|seed| seed.tasks.get(task));
        let mut methods = Vec::new();
        for (name, method) in scored.iter().flat_map(|task| &task.methods) {
            let (true, Some(id)) = (method.network == self.network, method.scores.get(task)) else { continue };
            let scores = metrics::read_scores(&opened.store.root().join(Path::new(id)))?;
            methods.push(json!({
                "name": name,
                "detector": method.detector,
                "tpr": TPR,
                "threshold": metrics::threshold(&scores, TPR),
                "about": "an image with a larger score is OOD; the threshold accepts this share of the ID test images",
            }));
        }
        Ok(Value::Array(methods))
    }
}

/// How a model is built; of a classifier, its keys by themselves.
fn built(model: &ModelConfig) -> Value {
    match model {
        ModelConfig::Classifier(architecture) => json!(architecture),
        other => json!({ "model": other }),
    }
}

/// What to load the tensors into with Python; `null` where no package has this network.
fn module(model: &ModelConfig, channels: usize, classes: usize) -> Option<String> {
    match model {
        ModelConfig::Classifier(architecture) if *architecture == architecture.backbone.clone().into() => {
            architecture.backbone.elsewhere(channels, classes)
        }
        _ => None,
    }
}
