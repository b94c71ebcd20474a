//! Carries out a plan: trains what is missing, scores with every method, and records the numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::Device;
use indexmap::IndexMap;

use crate::{
    Error, Result,
    config::{self, HeldOut, sweep::FOLD},
    data::{self, Dataset, ImageSet, Masks, Memory, Split},
    nn::{Precision, Shape},
    run::{
        device::describe,
        plan::{Node, Plan, to_json},
        published::Published,
        results::{DatasetRecord, Environment, KindRecord, OutliersRecord, Results, SCHEMA, content},
        store::{Progress, Store},
    },
    say,
    watch::{interrupt::Interrupt, progress::Pass},
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
    /// What the command line changed; noted in the results.
    pub overrides: Vec<String>,
    /// Set by Ctrl-C.
    pub interrupt: Interrupt,
    /// What decoded images may take.
    pub memory: Memory,
}

/// Runs what is missing of the plan and returns the record of all of it.
///
/// # Errors
/// Before any work, if a data set is missing or a picture of a test set is damaged; [`Error::Interrupted`] when the user asks to stop.
pub fn execute(plan: &Plan, context: &Context) -> Result<Results> {
    check_data(plan, context)?;
    check_precision(plan, context)?;
    let mut runner = Runner::new(plan, context);
    // Every picture that will be scored or learned from beside the ID images is read before any training, so that a damaged
    // one is not found out days later.
    for task in plan.cells.iter().flat_map(|cell| &cell.tasks) {
        runner.test_sets(&task.experiment.data)?;
    }
    runner.check_outliers()?;
    runner.check_validation()?;
    runner.check_layers()?;
    runner.check_weights()?;
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
        shifted: runner.shifted_records()?,
        outliers: runner.outliers_record()?,
        validation: runner.validation_records()?,
        cells,
        environment: Environment::of(runner.scored_on.iter()),
        overrides: context.overrides.clone(),
        config: to_json(&plan.experiment)?,
    })
}

/// The nodes that are not done.
fn untrained<'a>(plan: &'a Plan, store: &Store) -> impl Iterator<Item = &'a Node> {
    plan.nodes.iter().filter(|node| store.progress(node) != Progress::Done)
}

/// What of the sets and weights that the plan will read is not there, or is not to be read together.
pub(super) fn data_problems(plan: &Plan, store: &Store, data: &Path) -> Vec<Error> {
    let trains = untrained(plan, store).next().is_some();
    let learns_outliers = untrained(plan, store).any(|node| node.outliers.is_some());
    if let Err(missing) = plan.experiment.data.check_categories(data) {
        return vec![missing];
    }
    // A sweep may choose another fold; the files are the same for every cell.
    let sets = &plan.experiment.data;
    let id_splits: &[Split] = if trains { &[Split::Train, Split::Test] } else { &[Split::Test] };
    let ids: Vec<&Dataset> = match sets.has_categories() {
        true => plan.cells.iter().flat_map(|cell| &cell.tasks).map(|task| &task.experiment.data.id).collect(),
        false => vec![&sets.id],
    };
    // Detectors learn from a category's train images whether or not a network does.
    let id_splits = if sets.has_categories() { &[Split::Train, Split::Test] } else { id_splits };
    let id = ids.into_iter().map(|id| data::check(id, id_splits, data));
    let own = untrained(plan, store).filter(|node| node.shared && node.train.is_some());
    let own = own.map(|node| data::check(&node.data, &[Split::Train], data));
    let val = sets.validation.as_ref().filter(|validation| matches!(validation.id, HeldOut::Val(_)));
    let val = val.map_or(Ok(()), |_| data::check(&sets.id, &[Split::Val], data));
    let tested = sets.ood_sets();
    let ood = tested
        .iter()
        .chain(&sets.shifted)
        .chain(sets.validation_sets())
        .map(|set| data::check(set, &[Split::Test], data));
    let outliers = sets.outliers.iter().flat_map(|set| {
        let there = if learns_outliers { data::check(set, &[Split::Train], data) } else { Ok(()) };
        [there, refuse_tested(set, &sets.ood, data)]
    });
    let mut named = BTreeSet::new();
    let weights = untrained(plan, store).filter_map(|node| node.weights.as_ref());
    let weights = weights.filter(|weights| named.insert(&weights.path)).map(Published::check);
    id.chain(own).chain([val]).chain(ood).chain(outliers).chain(weights).filter_map(Result::err).collect()
}

/// Every set that the plan will read is there, or the error names all that are not.
fn check_data(plan: &Plan, context: &Context) -> Result<()> {
    let mut problems = data_problems(plan, &context.store, &context.data);
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

/// Refuses outliers to learn from whose files an OOD set is tested on. Copies are found when they are read.
fn refuse_tested(outliers: &Dataset, ood: &[Dataset], root: &Path) -> Result<()> {
    let Some(learned) = data::pictures(outliers, Split::Train, root) else { return Ok(()) };
    for set in ood {
        if let Some(tested) = data::pictures(set, Split::Test, root)
            && (learned.starts_with(&tested) || tested.starts_with(&learned))
        {
            let (outliers, tested) = (&outliers.name, &set.name);
            return Err(Error::input(format!(
                "the auxiliary outliers \"{outliers}\" and the OOD set \"{tested}\" are the same pictures, in {}",
                learned.display()
            ))
            .hint("what a network learned cannot test it: leave the set out of `data.ood`, or give it a train/ and a test/ folder"));
        }
    }
    Ok(())
}

/// No network is to learn in a type that the device does not have.
fn check_precision(plan: &Plan, context: &Context) -> Result<()> {
    let learns_in_bf16 = |node: &&Node| {
        node.train.as_ref().is_some_and(|train| train.precision == Precision::Bf16)
            && context.store.progress(node) != Progress::Done
    };
    match plan.nodes.iter().find(learns_in_bf16) {
        Some(node) if !context.device.is_cuda() => {
            let name = node.uses.first().map_or("", |(name, _)| name);
            Err(Error::input(format!("networks.{name}.train.precision: bf16 needs a GPU, and this runs on the CPU"))
                .hint("use --device cuda (make exp=... device=cuda, which builds a program for it first), or precision: f32"))
        }
        _ => Ok(()),
    }
}

/// Carries out one plan: `training` and `evaluation` are its two halves.
pub(super) struct Runner<'a> {
    pub(super) plan: &'a Plan,
    pub(super) context: &'a Context,
    pub(super) environment: Environment,
    /// What scored, now or before.
    pub(super) scored_on: Vec<Environment>,
    /// Image sets by their configuration, split and shape, read once; and such as are made, by what of.
    pub(super) sets: BTreeMap<String, Arc<LoadedSet>>,
    /// What networks of an ID set are built for, once it is known, by the set's name.
    pub(super) shapes: BTreeMap<String, Shape>,
    /// ID test images that are reported on, and those held out of them.
    pub(super) held_out: BTreeMap<String, [Arc<LoadedSet>; 2]>,
}

/// An image set and its digest.
pub(super) struct LoadedSet {
    pub(super) images: Arc<ImageSet>,
    pub(super) sha256: String,
    /// The digest of its masks, if it has masks.
    pub(super) masks_sha256: Option<String>,
    /// The set that it was made of, if it was.
    pub(super) made_of: Option<String>,
}

impl LoadedSet {
    /// Looks at every image: whatever cannot be decoded is found here.
    pub(super) fn of(images: ImageSet, interrupt: &Interrupt) -> Result<Self> {
        let mut bar = Pass::new(&format!("reading {}", images.name), images.len(), "images");
        let sha256 = images.sha256_telling(|done| {
            bar.set(done);
            interrupt.check()
        })?;
        let masks_sha256 = images.masks.as_ref().map(Masks::sha256);
        Ok(Self { sha256, masks_sha256, images: Arc::new(images), made_of: None })
    }

    /// What tells its images and masks from others.
    pub(super) fn content(&self) -> String {
        content(&self.sha256, self.masks_sha256.as_deref())
    }

    /// A file name that no other content has.
    pub(super) fn file_stem(&self) -> String {
        format!("{}-{}", self.images.name, &self.sha256[..12])
    }
}

/// The name of a set that is read once.
fn set_key(dataset: &Dataset, split: Split, like: Option<[usize; 3]>) -> Result<String> {
    Ok(format!("{}{like:?}{split}", to_json(dataset)?))
}

/// The error of an ID set without labels.
fn unlabelled(images: &ImageSet) -> Error {
    Error::input(format!("data.id: the {} images of \"{}\" have no labels", images.split, images.name))
        .hint("an ID set needs the class of every image; sets without classes can be OOD sets")
}

/// Refuses labels of classes that the networks do not know.
fn known_classes(images: &ImageSet, classes: usize) -> Result<()> {
    let (name, split) = (&images.name, images.split);
    let labels = images.labels.as_ref().ok_or_else(|| unlabelled(images))?;
    match labels.iter().position(|&label| label as usize >= classes) {
        None => Ok(()),
        Some(image) => Err(Error::input(format!(
            "data.id: image {image} of the {split} split of \"{name}\" has label {}, and the networks know the classes 0 to {}",
            labels[image],
            classes.saturating_sub(1)
        ))
        .hint("images of other classes are out-of-distribution: put them into an OOD set")),
    }
}

impl<'a> Runner<'a> {
    pub(super) fn new(plan: &'a Plan, context: &'a Context) -> Self {
        Self {
            plan,
            context,
            environment: environment(&context.device),
            scored_on: Vec::new(),
            sets: BTreeMap::new(),
            shapes: BTreeMap::new(),
            held_out: BTreeMap::new(),
        }
    }

    /// Reads a split once; OOD sets are brought to the shape of `like`.
    pub(super) fn set(&mut self, dataset: &Dataset, split: Split, like: Option<[usize; 3]>) -> Result<Arc<LoadedSet>> {
        // All sets are resized, cropped and shifted as the ID set is.
        let id = &self.plan.experiment.data.id;
        let dataset = &Dataset { resize: id.resize, crop: id.crop, brightness: id.brightness, ..dataset.clone() };
        let key = set_key(dataset, split, like)?;
        if let Some(set) = self.sets.get(&key) {
            return Ok(set.clone());
        }
        self.context.interrupt.check()?;
        let memory = self.context.memory.bytes.saturating_sub(self.held());
        let images = data::load_as(dataset, split, &self.context.data, like, Some(memory))?;
        if images.pixels.held().is_none() {
            say(format!(
                "{} ({split}): {} images take {} and are decoded each time they are needed; images may take {}",
                images.name,
                images.len(),
                data::size(images.bytes()),
                self.context.memory
            ));
        }
        let set = Arc::new(LoadedSet::of(images, &self.context.interrupt)?);
        self.sets.insert(key, set.clone());
        Ok(set)
    }

    /// Bytes of all images that are held.
    fn held(&self) -> u64 {
        // A set may be asked for by several names.
        let sets = self.sets.values().chain(self.held_out.values().flatten());
        let sets: BTreeMap<_, _> = sets.map(|set| (Arc::as_ptr(set), &set.images.pixels)).collect();
        sets.values().filter_map(|pixels| pixels.held()).map(|bytes| bytes.len() as u64).sum()
    }

    /// What networks of an ID set are built for. A network that is there says it; else the images to learn from do, and only of
    /// networks that do not learn the test images.
    pub(super) fn shape(&mut self, id: &Dataset) -> Result<Shape> {
        if let Some(shape) = self.shapes.get(&id.name) {
            return Ok(*shape);
        }
        let (plan, store) = (self.plan, &self.context.store);
        let mut nodes = plan.nodes.iter().filter(|node| node.data.name == id.name && !node.shared);
        let recorded = nodes.clone().find(|node| store.progress(node) == Progress::Done);
        let shape = if let Some(node) = recorded {
            let [channels, height, width, classes] = store.record(node)?.shape;
            Shape { channels, height, width, classes }
        } else {
            let learns = nodes.any(|node| node.train.is_some());
            let split = if learns { Split::Train } else { Split::Test };
            let set = self.set(id, split, None)?;
            if set.images.labels.is_none() {
                return Err(unlabelled(&set.images));
            }
            // The same images are asked for by their shape from now on.
            self.sets.insert(set_key(id, split, Some(set.images.shape()))?, set.clone());
            let [channels, height, width] = set.images.shape();
            Shape { channels, height, width, classes: set.images.classes }
        };
        self.shapes.insert(id.name.clone(), shape);
        Ok(shape)
    }

    /// The train images of the ID set, as a cell of the sweep has it.
    pub(super) fn train_images(&mut self, id: &Dataset) -> Result<Arc<LoadedSet>> {
        let Shape { channels, height, width, classes } = self.shape(id)?;
        let set = self.set(id, Split::Train, Some([channels, height, width]))?;
        known_classes(&set.images, classes)?;
        Ok(set)
    }

    /// All test images of the ID set.
    pub(super) fn id_test_images(&mut self, id: &Dataset) -> Result<Arc<LoadedSet>> {
        let Shape { channels, height, width, classes } = self.shape(id)?;
        let set = self.set(id, Split::Test, Some([channels, height, width]))?;
        known_classes(&set.images, classes)?;
        Ok(set)
    }

    /// The train images of a data set that a network has for itself, at the shape of the images that it is used on.
    pub(super) fn own_images(&mut self, own: &Dataset) -> Result<Arc<LoadedSet>> {
        let task = self.plan.cells.first().and_then(|cell| cell.tasks.first());
        let id = task.map_or(&self.plan.experiment.data.id, |task| &task.experiment.data.id);
        let Shape { channels, height, width, .. } = self.shape(id)?;
        let set = self.set(own, Split::Train, Some([channels, height, width]))?;
        match set.images.labels {
            Some(_) => Ok(set),
            None => Err(unlabelled(&set.images)),
        }
    }

    /// The test images of the ID set and, in its shape, of each OOD set and then of each covariate-shifted ID set.
    pub(super) fn test_sets(&mut self, data: &config::Data) -> Result<Vec<Arc<LoadedSet>>> {
        let (id, _) = self.id_sets(data)?;
        let like = Some(id.images.shape());
        let mut sets = vec![id];
        for dataset in data.ood_sets().iter().chain(&data.shifted) {
            sets.push(self.set(dataset, Split::Test, like)?);
        }
        Ok(sets)
    }

    /// Refuses outliers that networks are still to learn from and an OOD set is tested on, copies included: a network that
    /// knows the answers is no test of how it tells what it does not know.
    fn check_outliers(&mut self) -> Result<()> {
        let Some(dataset) = untrained(self.plan, &self.context.store).find_map(|node| node.outliers.as_ref()) else {
            return Ok(());
        };
        let tested = self.test_sets(&self.plan.experiment.data)?;
        let outliers = self.set(dataset, Split::Train, tested.first().map(|id| id.images.shape()))?;
        let digests = outliers.images.digests()?;
        let ood = self.plan.experiment.data.ood_sets().len();
        for (place, tested) in tested.iter().enumerate().skip(1) {
            let known = tested.images.distinct()?;
            let learned = digests.iter().filter(|digest| known.contains(*digest)).count();
            if learned > 0 {
                let (name, tested) = (&outliers.images.name, &tested.images.name);
                let kind = if place <= ood { "OOD set" } else { "covariate-shifted ID set" };
                return Err(Error::input(format!(
                    "{learned} of the auxiliary outliers \"{name}\" are test images of the {kind} \"{tested}\""
                ))
                .hint(
                    "what a network learned cannot test it: take these images out of one of the two sets, or leave one out",
                ));
            }
        }
        Ok(())
    }

    /// What the networks learned from beside the ID images, which must be one and the same.
    fn outliers_record(&self) -> Result<Option<OutliersRecord>> {
        let mut found: Option<(&Node, OutliersRecord)> = None;
        for node in &self.plan.nodes {
            let Some(record) = self.context.store.record(node)?.outliers else { continue };
            match &found {
                Some((other, known)) if known.sha256 != record.sha256 => {
                    let [one, two] = [other, node].map(|node| self.context.store.folder(node));
                    return Err(Error::input(format!(
                        "{} and {} learned from other images of \"{}\": its files have changed in between",
                        one.display(),
                        two.display(),
                        record.name
                    ))
                    .hint("remove one of them to train it anew"));
                }
                Some(_) => {}
                None => found = Some((node, record)),
            }
        }
        Ok(found.map(|(_, record)| record))
    }

    fn dataset_records(&mut self) -> Result<IndexMap<String, DatasetRecord>> {
        if self.plan.experiment.data.has_categories() {
            return self.category_records();
        }
        let trained = self.plan.nodes.iter().filter(|node| !node.shared).map(|node| self.context.store.record(node));
        let trained = trained.collect::<Result<Vec<_>>>()?.into_iter().find(|record| record.train_sha256.is_some());
        let mut sets = self.test_sets(&self.plan.experiment.data)?;
        sets.truncate(1 + self.plan.experiment.data.ood_sets().len());
        let group = |name: &str| {
            let set = self.plan.experiment.data.ood.iter().find(|set| set.name == name)?;
            set.group.clone()
        };
        let records = sets.iter().enumerate().map(|(position, set)| {
            // Only the ID set is learned from.
            let trained = trained.as_ref().filter(|_| position == 0);
            let record = DatasetRecord {
                class_sizes: if position == 0 { set.images.class_sizes() } else { Vec::new() },
                classes: if position == 0 { self.class_names(set) } else { Vec::new() },
                train: trained.map(|record| record.train_images),
                train_full: trained.and_then(|record| record.train_full),
                group: group(&set.images.name),
                ..DatasetRecord::of(set)
            };
            let computed = trained.and_then(|record| record.normalisation.as_ref());
            let computed = computed.map(|computed| format!("{} of its train images", computed.in_words()));
            let swept = position == 0 && self.plan.experiment.sweep.contains_key(FOLD);
            let folds = swept.then(|| "each cell tests on its own fold, and the numbers are those of one".to_owned());
            let notes: Vec<String> = record.note.iter().cloned().chain(computed).chain(folds).collect();
            let record = DatasetRecord { note: (!notes.is_empty()).then(|| notes.join(", ")), ..record };
            (set.images.name.clone(), record)
        });
        Ok(records.collect())
    }

    /// A record for each category, with its test sets in it.
    fn category_records(&mut self) -> Result<IndexMap<String, DatasetRecord>> {
        let plan = self.plan;
        let mut records = IndexMap::new();
        for task in plan.cells.iter().flat_map(|cell| &cell.tasks) {
            if records.contains_key(task.name()) {
                continue;
            }
            let data = &task.experiment.data;
            let (train, sets) = (self.train_images(&data.id)?, self.test_sets(data)?);
            let kinds = sets.iter().map(|set| {
                let masks = set.images.masks.as_ref();
                let record = KindRecord {
                    images: set.images.len(),
                    full: set.images.full_size,
                    unmarked: masks.map(Masks::empty),
                    sha256: set.sha256.clone(),
                    masks_sha256: set.masks_sha256.clone(),
                };
                (set.images.name.clone(), record)
            });
            let record = DatasetRecord {
                train: Some(train.images.len()),
                train_full: train.images.full_size,
                test: sets.iter().map(|set| set.images.len()).sum(),
                test_full: sets.iter().map(|set| set.images.full_size).sum(),
                kinds: kinds.collect(),
                ..DatasetRecord::of(&sets[0])
            };
            records.insert(task.name().to_owned(), record);
        }
        Ok(records)
    }

    /// The names of the ID set's classes, if each has one.
    fn class_names(&self, id: &LoadedSet) -> Vec<String> {
        let names = data::class_names(&self.plan.experiment.data.id, &self.context.data);
        names.filter(|names| names.len() == id.images.classes).unwrap_or_default()
    }

    /// Of the covariate-shifted ID sets.
    fn shifted_records(&mut self) -> Result<IndexMap<String, DatasetRecord>> {
        if self.plan.experiment.data.has_categories() {
            return Ok(IndexMap::new());
        }
        let sets = self.test_sets(&self.plan.experiment.data)?;
        let shifted = &sets[1 + self.plan.experiment.data.ood_sets().len()..];
        Ok(shifted.iter().map(|set| (set.images.name.clone(), DatasetRecord::of(set))).collect())
    }

    /// Of the sets that settings are chosen on, if any are.
    fn validation_records(&mut self) -> Result<IndexMap<String, DatasetRecord>> {
        let searched = self.plan.experiment.methods().iter().any(|method| !method.search.is_empty());
        let sets = if searched { self.validation_sets(&self.plan.experiment.data)? } else { Vec::new() };
        Ok(sets.iter().map(|set| (set.images.name.clone(), DatasetRecord::of(set))).collect())
    }
}

impl DatasetRecord {
    /// Of a test set.
    fn of(set: &LoadedSet) -> Self {
        Self {
            train: None,
            train_full: None,
            test: set.images.len(),
            test_full: set.images.full_size,
            note: set.images.note.clone(),
            group: None,
            made_of: set.made_of.clone(),
            class_sizes: Vec::new(),
            classes: Vec::new(),
            kinds: IndexMap::new(),
            sha256: set.sha256.clone(),
        }
    }
}

/// What this process runs on.
pub fn environment(device: &Device) -> Environment {
    Environment {
        oodkit: env!("CARGO_PKG_VERSION").to_owned(),
        commit: env!("OODKIT_COMMIT").to_owned(),
        device: describe(device),
    }
}
