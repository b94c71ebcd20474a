//! Carries out a plan: trains what is missing, scores with every method, and records the numbers.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use candle_core::Device;
use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    config::{Dataset, Evaluation, Method},
    data::{self, ImageSet, Normalisation, Split},
    detectors::{Bank, Scores},
    losses::Objective,
    metrics::{aggregate, files, ranking},
    nn::{self, Network, Shape, params::Params, weights},
    rng,
    run::{
        bank,
        interrupt::Interrupt,
        journal::Journal,
        plan::{Cell, Node, Plan, short_hash},
        results,
        results::{DatasetRecord, Environment, MethodResult, NetworkResult, OodResult, Results, SCHEMA, SeedResult},
        store::{NetworkRecord, Progress, Store, read_json, write_json},
    },
    train::{self, Job, checkpoint::Checkpoint},
};

/// Where things are, and what to compute on.
#[derive(Debug, Clone)]
pub struct Context {
    /// The data root.
    pub data: PathBuf,
    /// The runs root.
    pub store: Store,
    /// What to compute on.
    pub device: Device,
    /// Whether this is `smoke=1`; noted in the results.
    pub smoke: bool,
    /// Set by Ctrl-C.
    pub interrupt: Interrupt,
}

/// Runs what is missing of the plan and returns the record of all of it.
///
/// # Errors
/// Before any work, if a data set is missing; [`Error::Interrupted`] when the user asks to stop.
pub fn execute(plan: &Plan, context: &Context) -> Result<Results> {
    check_data(plan, context)?;
    let mut runner = Runner { plan, context, sets: BTreeMap::new(), environment: environment(&context.device) };
    for index in 0..plan.nodes.len() {
        runner.train(index)?;
    }
    // The train images are not needed again unless a detector fits on them.
    runner.sets.retain(|key, _| !key.ends_with("train"));
    let cells = plan.cells.iter().map(|cell| runner.evaluate_cell(cell)).collect::<Result<Vec<_>>>()?;
    Ok(Results {
        schema: SCHEMA,
        experiment: plan.name.clone(),
        title: plan.experiment.title.clone(),
        smoke: context.smoke,
        datasets: runner.dataset_records()?,
        cells,
        environment: runner.environment.clone(),
        config: to_json(&plan.experiment)?,
    })
}

/// Every set that the plan will read is there, or the error names all that are not.
fn check_data(plan: &Plan, context: &Context) -> Result<()> {
    let untrained = plan.nodes.iter().any(|node| context.store.progress(node) != Progress::Done);
    let mut problems: Vec<Error> = Vec::new();
    let mut seen: Vec<&Dataset> = Vec::new();
    for cell in &plan.cells {
        let data = &cell.experiment.data;
        for (set, is_id) in std::iter::once((&data.id, true)).chain(data.ood.iter().map(|set| (set, false))) {
            if seen.contains(&set) {
                continue;
            }
            seen.push(set);
            let splits: &[Split] = if is_id && untrained { &[Split::Train, Split::Test] } else { &[Split::Test] };
            problems.extend(data::check(set, splits, &context.data).err());
        }
    }
    match problems.len() {
        0 => Ok(()),
        1 => Err(problems.remove(0)),
        _ => {
            let mut hints = Vec::new();
            let mut lines = Vec::new();
            for problem in problems {
                match problem {
                    Error::Input { message, hint } => {
                        lines.push(message);
                        hints.extend(hint);
                    }
                    other => return Err(other),
                }
            }
            hints.dedup();
            Err(Error::input(lines.join("\n")).hint(hints.join("\n      ")))
        }
    }
}

struct Runner<'a> {
    plan: &'a Plan,
    context: &'a Context,
    /// Image sets by their configuration and split, read once.
    sets: BTreeMap<String, Arc<LoadedSet>>,
    environment: Environment,
}

/// An image set and its digest.
struct LoadedSet {
    images: ImageSet,
    sha256: String,
}

impl LoadedSet {
    /// A file name that no other content has.
    fn file_stem(&self) -> String {
        format!("{}-{}", self.images.name, &self.sha256[..12])
    }
}

/// A trained network, ready to be used.
struct Trained {
    network: Box<dyn Network>,
    record: NetworkRecord,
    folder: PathBuf,
    normalisation: Normalisation,
}

/// What scoring with one detector cost, kept beside the scores.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScoringRecord {
    fit_seconds: f64,
    score_seconds: BTreeMap<String, f64>,
}

impl Runner<'_> {
    /// Reads a split once; OOD sets are brought to the shape of `like`.
    fn set(&mut self, dataset: &Dataset, split: Split, like: Option<[usize; 3]>) -> Result<Arc<LoadedSet>> {
        let suffix = match split {
            Split::Train => "train",
            Split::Test => "test",
        };
        let key = format!("{}{like:?}{suffix}", to_json(dataset)?);
        if let Some(set) = self.sets.get(&key) {
            return Ok(set.clone());
        }
        self.context.interrupt.check()?;
        let images = data::load_as(dataset, split, &self.context.data, like)?;
        let set = Arc::new(LoadedSet { sha256: images.sha256(), images });
        self.sets.insert(key, set.clone());
        Ok(set)
    }

    /// Trains a node unless it is done.
    fn train(&mut self, index: usize) -> Result<()> {
        let node = &self.plan.nodes[index];
        let store = &self.context.store;
        if store.progress(node) == Progress::Done {
            store.record(node)?;
            return Ok(());
        }
        let _lock = store.lock(node, &self.context.interrupt)?;
        if store.progress(node) == Progress::Done {
            return Ok(());
        }
        let folder = store.folder(node);
        let train = self.set(&node.data, Split::Train, None)?;
        let (channels, height, width) = (train.images.channels, train.images.height, train.images.width);
        let shape = Shape { channels, height, width, classes: train.images.classes };
        let params = Params::new(node.seed, &self.context.device);
        let network = nn::build(&node.backbone, shape, params.builder())?;
        if let Some(upstream) = node.upstream {
            let upstream = &self.plan.nodes[upstream];
            self.refuse_other_images(upstream, &train.sha256)?;
            params.load(&weights::read(&store.folder(upstream).join("model.safetensors"))?)?;
        }
        if let Some(path) = &node.weights {
            params.load(&weights::read(path)?)?;
        }
        let fitted = match &node.train {
            None => None,
            Some(recipe) => {
                let what =
                    format!("{}, seed {} ({}/{})", self.plan.uses(node), node.seed, index + 1, self.plan.nodes.len());
                let (held_out, rest) = hold_out(&train.images, recipe.validation, node.seed)?;
                let checkpoint = folder.join("checkpoint.safetensors");
                let saved = Checkpoint::read(&checkpoint, &self.context.device)?;
                let positions = saved.as_ref().map(|saved| saved.state.positions.clone()).unwrap_or_default();
                let mut journal = Journal::open(&folder, &positions)?;
                let job = Job {
                    what: &what,
                    network: network.as_ref(),
                    params: &params,
                    objective: &Objective::new(&node.loss)?,
                    recipe,
                    seed: node.seed,
                    images: match rest {
                        Some(rest) => Arc::new(rest),
                        None => Arc::new(train.images.clone()),
                    },
                    validation: held_out.as_ref(),
                    normalisation: &data::normalisation(&node.data)?,
                    device: &self.context.device,
                    checkpoint: &checkpoint,
                };
                Some(train::fit(&job, saved, &mut journal.observers(), &self.context.interrupt)?)
            }
        };
        let metadata = BTreeMap::from([
            ("format".to_owned(), "pt".to_owned()),
            ("oodkit".to_owned(), self.environment.oodkit.clone()),
            ("identity".to_owned(), node.identity.to_string()),
            ("seed".to_owned(), node.seed.to_string()),
        ]);
        weights::write(&folder.join("model.safetensors"), &params.all()?, &metadata)?;
        let record = NetworkRecord {
            schema: NetworkRecord::SCHEMA,
            identity: node.identity.clone(),
            seed: node.seed,
            shape: [channels, height, width, shape.classes],
            steps: fitted.map_or(0, |fitted| fitted.steps),
            final_loss: fitted.map(|fitted| fitted.final_loss),
            train_seconds: fitted.map_or(0.0, |fitted| fitted.seconds),
            parameters: params.count(),
            train_images: train.images.len(),
            train_full: train.images.full_size,
            train_sha256: train.sha256.clone(),
            environment: self.environment.clone(),
        };
        write_json(&folder.join("network.json"), &record)?;
        match std::fs::remove_file(folder.join("checkpoint.safetensors")) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &folder)(error)),
            _ => Ok(()),
        }
    }

    fn refuse_other_images(&self, node: &Node, train_sha256: &str) -> Result<()> {
        let record = self.context.store.record(node)?;
        if record.train_sha256 == train_sha256 {
            return Ok(());
        }
        let folder = self.context.store.folder(node);
        Err(Error::input(format!(
            "the train images of {} are not those that {} was trained on (SHA-256 {} now, {} then)",
            node.data.name,
            folder.display(),
            &train_sha256[..12],
            record.train_sha256.get(..12).unwrap_or("?")
        ))
        .hint(format!("put the old images back, or remove {} to train it anew", folder.display())))
    }

    fn load(&self, node: &Node) -> Result<Trained> {
        let folder = self.context.store.folder(node);
        let record = self.context.store.record(node)?;
        let [channels, height, width, classes] = record.shape;
        let params = Params::new(node.seed, &self.context.device);
        let network = nn::build(&node.backbone, Shape { channels, height, width, classes }, params.builder())?;
        params.load(&weights::read(&folder.join("model.safetensors"))?)?;
        Ok(Trained { network, record, folder, normalisation: data::normalisation(&node.data)? })
    }

    fn evaluate_cell(&mut self, cell: &Cell) -> Result<results::Cell> {
        let seeds = cell.experiment.seeds.iter().zip(&cell.networks);
        let seeds = seeds.map(|(&seed, networks)| self.evaluate_seed(cell, seed, networks)).collect::<Result<_>>()?;
        Ok(results::Cell { name: cell.name.clone(), values: cell.values.clone(), seeds })
    }

    fn evaluate_seed(&mut self, cell: &Cell, seed: u64, networks: &BTreeMap<String, usize>) -> Result<SeedResult> {
        let experiment = &cell.experiment;
        let id = self.set(&experiment.data.id, Split::Test, None)?;
        let like = Some([id.images.channels, id.images.height, id.images.width]);
        let mut sets = vec![id];
        for dataset in &experiment.data.ood {
            sets.push(self.set(dataset, Split::Test, like)?);
        }
        let mut network_results = IndexMap::new();
        let mut method_results = IndexMap::new();
        for (name, &index) in networks {
            let node = &self.plan.nodes[index];
            let _lock = self.context.store.lock(node, &self.context.interrupt)?;
            let trained = self.load(node)?;
            let methods: Vec<&Method> = experiment.methods.iter().filter(|method| method.network == *name).collect();
            let banks = match methods.is_empty() {
                // Its accuracy is all that is asked of it.
                true => vec![self.bank(&trained, &sets[0], &experiment.evaluation)?],
                false => {
                    let banks = sets.iter().map(|set| self.bank(&trained, set, &experiment.evaluation));
                    banks.collect::<Result<Vec<_>>>()?
                }
            };
            let labels = banks[0]
                .labels
                .as_deref()
                .ok_or_else(|| Error::input(format!("the ID set {} has no labels", experiment.data.id.name)))?;
            network_results.insert(
                name.clone(),
                NetworkResult {
                    folder: node.folder(),
                    accuracy: aggregate::accuracy(&banks[0].logits, labels)?,
                    steps: trained.record.steps,
                    final_loss: trained.record.final_loss,
                    train_seconds: trained.record.train_seconds,
                    parameters: trained.record.parameters,
                },
            );
            for method in methods {
                let result = self.method(method, node, &trained, &sets, &banks, seed, &experiment.evaluation)?;
                method_results.insert(method.name.clone(), result);
            }
        }
        // In the file's order, not the networks'.
        let mut methods = IndexMap::new();
        for method in &experiment.methods {
            methods.extend(method_results.swap_remove_entry(&method.name));
        }
        Ok(SeedResult { seed, networks: network_results, methods })
    }

    /// The network's outputs on a set, from disk if they were computed before.
    fn bank(&self, trained: &Trained, set: &LoadedSet, evaluation: &Evaluation) -> Result<Bank> {
        let path = trained.folder.join("outputs").join(format!("{}.safetensors", set.file_stem()));
        if let Some(bank) = bank::read(&path, set.images.labels.clone())? {
            return Ok(bank);
        }
        let progress = crate::run::progress::forward_pass(&set.images.name, set.images.len());
        let bank = bank::compute(
            trained.network.as_ref(),
            &set.images,
            &trained.normalisation,
            evaluation.batch_size,
            &self.context.device,
            &self.context.interrupt,
            |done| progress.set_position(done as u64),
        )?;
        progress.finish_and_clear();
        bank::write(&path, &bank)?;
        Ok(bank)
    }

    /// Scores every set with one method and measures each OOD set against the ID set.
    #[expect(clippy::too_many_arguments, reason = "one call, and the arguments are what a method is made of")]
    fn method(
        &mut self,
        method: &Method,
        node: &Node,
        trained: &Trained,
        sets: &[Arc<LoadedSet>],
        banks: &[Bank],
        seed: u64,
        evaluation: &Evaluation,
    ) -> Result<MethodResult> {
        let (scores, paths, record) = self.scores(method, node, trained, sets, banks)?;
        let mut ood = IndexMap::new();
        for (set, ood_scores) in sets.iter().zip(&scores).skip(1) {
            let name = &set.images.name;
            let (id, out) = (scores[0].as_slice(), ood_scores.as_slice());
            let redraw = match &evaluation.redraw {
                None => None,
                Some(redraw) => {
                    let size = (id.len() as f64 * redraw.id_fraction).round().max(1.0) as usize;
                    Some(aggregate::redraw(id, out, redraw.draws, size, seed, name)?)
                }
            };
            ood.insert(name.clone(), OodResult { full: ranking::metrics(id, out)?, redraw });
        }
        Ok(MethodResult {
            network: method.network.clone(),
            ood,
            scores: paths,
            fit_seconds: record.fit_seconds,
            score_seconds: record.score_seconds.values().sum(),
        })
    }

    /// A method's scores on every set, from disk if they were computed before.
    fn scores(
        &mut self,
        method: &Method,
        node: &Node,
        trained: &Trained,
        sets: &[Arc<LoadedSet>],
        banks: &[Bank],
    ) -> Result<(Vec<Scores>, IndexMap<String, PathBuf>, ScoringRecord)> {
        let name = format!("{}-{}", method.detector.name(), short_hash(&to_json(&method.detector)?));
        let folder = trained.folder.join("scores").join(&name);
        let relative = node.folder().join("scores").join(&name);
        let record_path = folder.join("record.json");
        let mut record = match record_path.exists() {
            true => read_json(&record_path)?,
            false => ScoringRecord { fit_seconds: 0.0, score_seconds: BTreeMap::new() },
        };
        let mut scorer = None;
        let (mut all, mut paths) = (Vec::new(), IndexMap::new());
        for (set, bank) in sets.iter().zip(banks) {
            let file = format!("{}.npy", set.file_stem());
            paths.insert(set.images.name.clone(), relative.join(&file));
            let path = folder.join(&file);
            if record.score_seconds.contains_key(&file) && path.exists() {
                all.push(stored_scores(&path, set.images.len())?);
                continue;
            }
            if scorer.is_none() {
                let started = Instant::now();
                let detector = method.detector.build();
                let train = match detector.needs_fit() {
                    true => Some(self.train_bank(node, trained)?),
                    false => None,
                };
                scorer = Some(detector.fit(train.as_ref()).map_err(|error| in_method(&method.name, error))?);
                record.fit_seconds = started.elapsed().as_secs_f64();
            }
            let Some(scorer) = &scorer else { continue };
            let started = Instant::now();
            let scores = scorer.score(bank).map_err(|error| in_method(&method.name, error))?;
            record.score_seconds.insert(file, started.elapsed().as_secs_f64());
            files::write_npy(&path, scores.as_slice())?;
            write_json(&record_path, &record)?;
            all.push(scores);
        }
        Ok((all, paths, record))
    }

    fn train_bank(&mut self, node: &Node, trained: &Trained) -> Result<Bank> {
        let train = self.set(&node.data, Split::Train, None)?;
        self.refuse_other_images(node, &train.sha256)?;
        self.bank(trained, &train, &self.plan.experiment.evaluation)
    }

    fn dataset_records(&mut self) -> Result<IndexMap<String, DatasetRecord>> {
        let mut records = IndexMap::new();
        let data = &self.plan.cells[0].experiment.data;
        let id = self.set(&data.id, Split::Test, None)?;
        let like = Some([id.images.channels, id.images.height, id.images.width]);
        let first = self.plan.nodes.first().map(|node| self.context.store.record(node)).transpose()?;
        for (position, dataset) in std::iter::once(&data.id).chain(&data.ood).enumerate() {
            let is_id = position == 0;
            let set = self.set(dataset, Split::Test, if is_id { None } else { like })?;
            records.insert(
                dataset.name.clone(),
                DatasetRecord {
                    train: first.as_ref().filter(|_| is_id).map(|record| record.train_images),
                    train_full: first.as_ref().filter(|_| is_id).and_then(|record| record.train_full),
                    test: set.images.len(),
                    test_full: set.images.full_size,
                    note: set.images.note.clone(),
                    sha256: set.sha256.clone(),
                },
            );
        }
        Ok(records)
    }
}

fn in_method(name: &str, error: Error) -> Error {
    match error {
        Error::Failed(reason) => Error::Failed(format!("method {name}: {reason}")),
        other => other,
    }
}

fn stored_scores(path: &Path, images: usize) -> Result<Scores> {
    let scores: Vec<f32> = files::read_scores(path)?.into_iter().map(|score| score as f32).collect();
    if scores.len() != images {
        return Err(Error::input(format!("{} holds {} scores for {images} images", path.display(), scores.len()))
            .hint("remove the file: it is made again"));
    }
    Scores::new(scores)
}

/// The images held out by seed, and the others; the whole set when none are held out.
fn hold_out(images: &ImageSet, count: usize, seed: u64) -> Result<(Option<ImageSet>, Option<ImageSet>)> {
    use rand::seq::SliceRandom;
    if count == 0 {
        return Ok((None, None));
    }
    if count >= images.len() {
        return Err(Error::input(format!(
            "train.validation holds out {count} of {}'s {} train images: none would be left",
            images.name,
            images.len()
        )));
    }
    let mut order: Vec<usize> = (0..images.len()).collect();
    order.shuffle(&mut rng::stream(seed, "validation", ""));
    let (held_out, rest) = order.split_at_mut(count);
    rest.sort_unstable();
    Ok((Some(images.subset(held_out)), Some(images.subset(rest))))
}

fn to_json(value: &impl Serialize) -> Result<serde_json::Value> {
    serde_json::to_value(value).map_err(|error| Error::Failed(format!("cannot serialise the configuration: {error}")))
}

/// What this process runs on.
pub fn environment(device: &Device) -> Environment {
    let threads = rayon::current_num_threads();
    let device = match device {
        Device::Cpu => match processor() {
            Some(name) => format!("cpu ({threads} threads, {name})"),
            None => format!("cpu ({threads} threads)"),
        },
        other => format!("{other:?}"),
    };
    Environment { oodkit: env!("CARGO_PKG_VERSION").to_owned(), commit: env!("OODKIT_COMMIT").to_owned(), device }
}

fn processor() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}
