//! What is evaluated: a trained network or an ensemble, and its outputs on image sets.

use std::{
    cell::OnceCell,
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::Arc,
};

use candle_core::Tensor;
use serde_json::json;

use crate::{
    Error, Result,
    config::{self, Method, Redraw},
    data::Dataset,
    detectors::{Bank, mutual_information::log_mean_softmax},
    metrics::Measure,
    nn::{Head, Model, Output, Shape, Tta, footprint, pass::Side, tta::Views},
    run::{
        bank,
        evaluation::{Grading, asked_for},
        execute::Runner,
        plan::{Node, short_hash},
        search::Validation,
        sets::LoadedSet,
        store::Lock,
        training::Trained,
    },
};

/// Changes when a network's outputs change their meaning or their bits, so that stored ones of an earlier version are not taken
/// for new ones.
const OUTPUTS_VERSION: u32 = 2;

/// One trained network of a subject.
pub(super) struct Member<'a> {
    pub(super) node: &'a Node,
    pub(super) trained: Trained,
    /// The network as inference uses it.
    pub(super) folded: Arc<dyn Model>,
    _lock: Lock,
}

impl Member<'_> {
    pub(super) fn shows(&self, output: Output) -> bool {
        self.node.model.shows().contains(&output)
    }
}

/// The networks of a task by name, each with the indices of its nodes.
pub(super) type Networks = BTreeMap<String, Vec<usize>>;

/// A network or an ensemble, its outputs on every set (the ID set first), and how they are evaluated.
pub(super) struct Subject<'a> {
    pub(super) members: Vec<Arc<Member<'a>>>,
    /// The second networks of its methods, by name.
    pub(super) seconds: BTreeMap<String, Arc<Member<'a>>>,
    /// Whether the members are one ensemble, which may have a single one.
    pub(super) ensemble: bool,
    /// Where its scores are kept, relative to the runs root.
    pub(super) folder: PathBuf,
    pub(super) sets: &'a [Arc<LoadedSet>],
    /// What detectors learn from: its train images.
    pub(super) id: &'a Dataset,
    /// Whether the task is one of several categories.
    pub(super) categories: bool,
    /// How many of the sets, the last, are covariate-shifted ID sets.
    pub(super) shifted: usize,
    pub(super) banks: Vec<Bank>,
    /// The outputs on the train images, once a detector has learned from them: all share one copy.
    pub(super) train: OnceCell<Bank>,
    pub(super) seed: u64,
    pub(super) settings: &'a config::Evaluation,
    pub(super) redraw: Option<Redraw>,
    /// Measures that tables and figures ask for beside those that are always computed.
    pub(super) more: Vec<Measure>,
    /// Whether some table shows intervals.
    pub(super) intervals: bool,
    /// Images a forward pass.
    pub(super) batch_size: usize,
    /// What settings are chosen on, if some are.
    pub(super) validation: Option<Validation>,
}

impl Subject<'_> {
    /// The ID set and the OOD sets.
    pub(super) fn reported(&self) -> &[Arc<LoadedSet>] {
        &self.sets[..self.sets.len() - self.shifted]
    }

    pub(super) fn grading(&self) -> Grading<'_> {
        Grading { seed: self.seed, redraw: self.redraw.as_ref(), more: &self.more, intervals: self.intervals }
    }

    /// The second network of a method that reads two.
    pub(super) fn second(&self, method: &Method) -> Result<Option<(&'static str, &Arc<Member<'_>>)>> {
        let Some(second) = method.detector.detector().second() else { return Ok(None) };
        let member = second.network.and_then(|name| self.seconds.get(name));
        let missing = || Error::Failed(format!("method {}: its {} was not loaded", method.name, second.key));
        member.map(|member| Some((second.key, member))).ok_or_else(missing)
    }

    /// The network's last layer; an ensemble has none.
    pub(super) fn head(&self) -> Option<Head> {
        match &self.members[..] {
            [one] if !self.ensemble => one.trained.network.head(),
            _ => None,
        }
    }
}

impl<'a> Runner<'a> {
    /// A network or an ensemble of one cell and seed, loaded, with the second networks of these methods, without sets.
    pub(super) fn subject<'b>(
        &self,
        experiment: &'b config::Experiment,
        name: &str,
        methods: &[&Method],
        (networks, seed): (&Networks, u64),
    ) -> Result<Subject<'b>>
    where
        'a: 'b,
    {
        let ensemble = experiment.networks.get(name).is_some_and(|network| network.members.is_some());
        let known = |name: &str| {
            let missing = || Error::input(format!("{}: there is no network \"{name}\" of seed {seed}", self.plan.name));
            networks.get(name).ok_or_else(missing)
        };
        let seconds = methods.iter().filter_map(|method| method.detector.detector().second()?.network);
        // An ensemble shows nothing that a second network is read for.
        let seconds = seconds.map(|name| Ok((name.to_owned(), known(name)?[0])));
        let (own, seconds) = (known(name)?, seconds.collect::<Result<BTreeMap<_, _>>>()?);
        let loaded = self.loaded(own.iter().chain(seconds.values()).copied().collect())?;
        let members: Vec<_> = own.iter().map(|node| loaded[node].clone()).collect();
        let seconds = seconds.into_iter().map(|(name, node)| (name, loaded[&node].clone())).collect();
        let settings = &experiment.evaluation;
        let batch_size = self.batch_size(&members[0].trained, settings)?;
        let folder = if ensemble { ensemble_folder(&members) } else { members[0].node.folder() };
        Ok(Subject {
            members,
            seconds,
            ensemble,
            folder,
            sets: &[],
            id: &experiment.data.id,
            categories: self.plan.experiment.data.has_categories(),
            shifted: 0,
            banks: Vec::new(),
            train: OnceCell::new(),
            seed,
            settings,
            redraw: experiment.redraw(),
            more: asked_for(experiment),
            intervals: experiment.tables.iter().any(|table| table.intervals),
            batch_size,
            validation: None,
        })
    }

    /// Loads finished nodes, each once, and keeps other processes out of them.
    fn loaded(&self, indices: BTreeSet<usize>) -> Result<BTreeMap<usize, Arc<Member<'a>>>> {
        let plan = self.plan;
        let mut nodes: Vec<(usize, &Node)> = indices.into_iter().map(|index| (index, &plan.nodes[index])).collect();
        // Two processes that take locks in the same order cannot wait for each other.
        nodes.sort_by_key(|(_, node)| node.folder());
        let mut loaded = BTreeMap::new();
        for (index, node) in nodes {
            let _lock = self.context.store.lock(node, &self.context.interrupt)?;
            let trained = self.load(node)?;
            let folded = trained.network.folded()?.into();
            loaded.insert(index, Arc::new(Member { node, trained, folded, _lock }));
        }
        Ok(loaded)
    }

    /// Images a forward pass of this network.
    fn batch_size(&self, trained: &Trained, settings: &config::Evaluation) -> Result<usize> {
        let [channels, height, width, classes] = trained.record.shape;
        let shape = Shape { channels, height, width, classes };
        match settings.batch_size {
            Some(images) => Ok(images),
            None => Ok(footprint::batch_size(&*trained.network, shape, settings.memory << 20, &self.context.device)?),
        }
    }

    /// The outputs of a network or an ensemble on a set.
    pub(super) fn bank(&self, subject: &Subject<'_>, set: &LoadedSet) -> Result<Bank> {
        let banks = subject.members.iter().map(|member| self.member_bank(member, set, subject));
        let mut banks = banks.collect::<Result<Vec<_>>>()?;
        if subject.ensemble { bank::ensemble(banks) } else { Ok(banks.remove(0)) }
    }

    /// A network's outputs on a set, from disk if they were computed before.
    fn member_bank(&self, member: &Member<'_>, set: &LoadedSet, subject: &Subject<'_>) -> Result<Bank> {
        let (pass, stored) = (self.forward_pass(member, set, subject), stored_outputs(member, set, subject));
        let bank = match stored.read(set.images.labels.clone())? {
            Some(bank) => bank,
            None if !pass.kept => pass.outputs()?,
            None => {
                let bank = pass.outputs()?;
                stored.write(&bank)?;
                bank
            }
        };
        let pass = Arc::new(pass);
        Ok(Bank { batches: Some(pass.clone()), inputs: Some(pass), ..bank })
    }

    /// The logits as means over views of each image.
    pub(super) fn logits_of_views(&self, subject: &Subject<'_>, set: &LoadedSet, tta: Tta) -> Result<Tensor> {
        let logits = subject.members.iter().map(|member| {
            let stored = stored_outputs(member, set, subject).of_views(tta);
            if let Some(bank) = stored.read(None)? {
                return Ok(bank.logits);
            }
            let network = Arc::new(Views::new(member.folded.clone(), tta));
            let bank = bank::ForwardPass { network, ..self.forward_pass(member, set, subject) }.outputs()?;
            stored.write(&bank)?;
            Ok(bank.logits)
        });
        let mut logits = logits.collect::<Result<Vec<_>>>()?;
        Ok(if subject.ensemble { log_mean_softmax(&Tensor::stack(&logits, 1)?)? } else { logits.remove(0) })
    }

    /// The same with the second network on these images, for a method that reads one.
    pub(super) fn with_second(
        &self,
        method: &Method,
        subject: &Subject<'_>,
        (set, bank): (&LoadedSet, Bank),
    ) -> Result<Bank> {
        let Some((_, member)) = subject.second(method)? else { return Ok(bank) };
        // A batch goes through both.
        let batch = self.batch_size(&member.trained, subject.settings)?.min(subject.batch_size);
        let pass = bank::ForwardPass { batch, ..self.forward_pass(member, set, subject) };
        Ok(Bank { second: Some(Arc::new(pass)), ..bank })
    }

    pub(super) fn forward_pass(
        &self,
        member: &Member<'_>,
        set: &LoadedSet,
        subject: &Subject<'_>,
    ) -> bank::ForwardPass {
        bank::ForwardPass {
            network: member.folded.clone(),
            kept: member.shows(Output::Logits) || member.shows(Output::Features),
            images: set.images.clone(),
            normalisation: member.trained.normalisation.clone(),
            batch: subject.batch_size,
            memory: subject.settings.memory << 20,
            side: Side::Before,
            device: self.context.device.clone(),
            interrupt: self.context.interrupt.clone(),
        }
    }

    pub(super) fn train_set(&mut self, subject: &Subject<'_>) -> Result<Arc<LoadedSet>> {
        let train = self.train_images(subject.id)?;
        for member in subject.members.iter().chain(subject.seconds.values()).filter(|member| !member.node.shared) {
            self.refuse_other_images(member.node, &train.sha256)?;
        }
        Ok(train)
    }

    /// What a method learns from.
    pub(super) fn train_bank(&mut self, method: &Method, subject: &Subject<'_>) -> Result<Bank> {
        let set = self.train_set(subject)?;
        let bank = match subject.train.get() {
            Some(bank) => bank,
            None => {
                let bank = self.bank(subject, &set)?;
                subject.train.get_or_init(|| bank)
            }
        };
        self.with_second(method, subject, (&set, bank.clone()))
    }
}

/// In the first member's folder, one for these weights: an ensemble has no node of its own, and a member may be trained anew.
fn ensemble_folder(members: &[Arc<Member<'_>>]) -> PathBuf {
    let weights: Vec<&str> = members.iter().map(|member| member.trained.sha256.as_str()).collect();
    members[0].node.folder().join(format!("ensemble{}-{}", members.len(), short_hash(&json!(weights))))
}

/// Where a network's outputs on a set are kept.
pub(super) fn stored_outputs(member: &Member<'_>, set: &LoadedSet, subject: &Subject<'_>) -> bank::Stored {
    // Images of one batch may share sums, so the batch size can change the last bits.
    let folder = format!("v{OUTPUTS_VERSION}-batch{}", subject.batch_size);
    let path = member.trained.folder.join("outputs").join(folder).join(format!("{}.safetensors", set.file_stem()));
    bank::Stored { path, images: set.sha256.clone(), network: member.trained.sha256.clone() }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{
        config::load::{Loaded, parse},
        nn::{Pass, Shown},
        run::{
            execute::Context,
            plan::{Places, plan},
            store::Store,
        },
    };

    /// A network that nothing may run.
    struct Untouched;

    impl Model for Untouched {
        fn show(&self, _: &Tensor, _: &Pass) -> candle_core::Result<Shown> {
            candle_core::bail!("a forward pass")
        }

        fn folded(&self) -> candle_core::Result<Box<dyn Model>> {
            Ok(Box::new(Self))
        }
    }

    /// What a network gives of a set is stored once. Who comes later reads it there, and all who learn hold the same numbers.
    #[test]
    fn ten_learners_hold_one_bank_and_who_comes_later_makes_no_pass() {
        let text = "{ title: Once, data: { id: { name: fashion_mnist_small, train_limit: 64, test_limit: 16 }, ood: [{ name: digits, \
                    test_limit: 16 }] }, networks: { base: { backbone: lenet, train: { epochs: 1, max_steps: 1, batch_size: 8, optimizer: \
                    { sgd: { lr: 0.1 } } } } }, methods: [{ network: base, detector: { all: { except: [afdu] } } }] }";
        let folder = tempfile::tempdir().unwrap();
        let loaded = Loaded { name: "once".into(), path: "once.yaml".into(), experiment: parse(text, "once").unwrap() };
        let store = Store::new(folder.path());
        let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
        let places = Places { data: Some(&data), weights: Path::new(""), store: &store };
        let plan = plan(&loaded, &places).unwrap();
        let context = Context::plain(data.clone(), store.clone());
        let mut runner = Runner::new(&plan, &context);
        runner.train(0).unwrap();
        let task = &plan.cells[0].tasks[0];
        let sets = runner.test_sets(&task.experiment.data).unwrap();
        let methods = task.experiment.methods();
        let of = |name: &str| methods.iter().find(|method| method.name == name).unwrap();
        let subject = runner.subject(&task.experiment, "base", &[], (&task.networks[0], 0)).unwrap();
        let mut subject = Subject { sets: &sets, ..subject };
        subject.banks = sets.iter().map(|set| runner.bank(&subject, set)).collect::<Result<_>>().unwrap();
        let bank = runner.train_bank(of("knn"), &subject).unwrap();
        drop(subject);

        let subject = runner.subject(&task.experiment, "base", &[], (&task.networks[0], 0)).unwrap();
        let mut subject = Subject { sets: &sets, ..subject };
        Arc::get_mut(&mut subject.members[0]).unwrap().folded = Arc::new(Untouched);
        subject.banks = sets.iter().map(|set| runner.bank(&subject, set)).collect::<Result<_>>().unwrap();
        let learners = ["knn", "ddu", "dice", "react", "vra", "fdbd", "nci", "she", "mahalanobis", "rmds"];
        let banks: Vec<Bank> = learners.iter().map(|name| runner.train_bank(of(name), &subject).unwrap()).collect();
        for other in &banks {
            // The same storage, not only the same numbers.
            assert_eq!([other.logits.id(), other.features.id()], [banks[0].logits.id(), banks[0].features.id()]);
        }
        assert_eq!(banks[0].features.to_vec2::<f32>().unwrap(), bank.features.to_vec2::<f32>().unwrap());
        for name in learners {
            let scored = runner.scores(of(name), &subject, &sets, &subject.banks).unwrap();
            assert_eq!(scored.scores[1].as_slice().len(), 16, "{name}");
        }
        // What reads layers has to look anew.
        let gram = runner.scores(of("gram"), &subject, &sets, &subject.banks);
        assert!(gram.err().unwrap().to_string().contains("a forward pass"));
    }
}
