//! Who looks at a pass, and what comes of it.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use indexmap::IndexMap;
use serde_json::Value;

use super::*;
use crate::{
    config::load::{Loaded, parse},
    data::{ImageSet, Normalisation, Split},
    detectors::Scores,
    nn::{self, Backbone, Model, Pass, Shape, params::Params},
    run::{
        execute::Context,
        plan::{Places, plan},
        results::Environment,
        store::Store,
    },
    watch::interrupt::Interrupt,
};

/// Counts the images that a network sees, but for single ones, which show no more than its layers.
struct Counting {
    network: Box<dyn Model>,
    images: AtomicUsize,
}

impl Model for Counting {
    fn show(&self, images: &Tensor, pass: &Pass) -> candle_core::Result<Shown> {
        if images.dim(0)? > 1 {
            self.images.fetch_add(images.dim(0)?, SeqCst);
        }
        self.network.show(images, pass)
    }

    fn folded(&self) -> candle_core::Result<Box<dyn Model>> {
        self.network.folded()
    }
}

/// Passes over two sets of 20 images, 8 at a time.
fn passes(interrupt: &Interrupt) -> (Arc<Counting>, Vec<Arc<ForwardPass>>) {
    let shape = Shape { channels: 1, height: 28, width: 28, classes: 10 };
    let params = Params::new(0, &Device::Cpu);
    let network = nn::build(&Backbone::by_name("lenet").unwrap().into(), shape, params.builder()).unwrap();
    let network = Arc::new(Counting { network: network.folded().unwrap(), images: AtomicUsize::new(0) });
    let pass = |set: usize| {
        let images = ImageSet::unlabelled(
            format!("set {set}"),
            Split::Test,
            [1, 28, 28],
            (0..20 * 784).map(|at| (at * (7 + set) % 251) as u8).collect::<Vec<u8>>(),
        );
        Arc::new(ForwardPass {
            network: network.clone(),
            kept: true,
            images: Arc::new(images),
            normalisation: Normalisation { mean: vec![0.5], std: vec![0.5] },
            batch: 8,
            memory: 1 << 20,
            side: Side::After,
            device: Device::Cpu,
            interrupt: interrupt.clone(),
        })
    };
    (network.clone(), (0..2).map(pass).collect())
}

/// The first neuron of the first layer of a batch's images.
fn firsts(batch: &Shown) -> Vec<f32> {
    let values = &batch.layers[0].values;
    let values = values.reshape((values.dims()[0], ())).unwrap().narrow(1, 0, 1).unwrap();
    values.flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn all_who_look_share_a_pass_and_its_outputs_are_those_of_another() {
    let place = tempfile::tempdir().unwrap();
    let (network, passes) = passes(&Interrupt::default());
    let mut alone = Vec::new();
    passes[0]
        .pass("reading", true, &mut |_, batch| {
            alone.extend(firsts(batch));
            Ok(())
        })
        .unwrap();
    let outputs = passes[0].outputs().unwrap();
    network.images.store(0, SeqCst);
    let path = place.path().join("outputs.safetensors");
    let stored = Stored { path, images: "images".into(), network: "network".into() };
    let (mut one, mut other) = (Vec::new(), Vec::new());
    let see = |all: &mut Vec<f32>, start: usize, batch: &Shown| {
        assert_eq!(start, all.len());
        all.extend(firsts(batch));
        Ok(())
    };
    let all = vec![
        Look { name: "a", layers: true, see: Box::new(|start, batch| see(&mut one, start, batch)) },
        Look { name: "b", layers: false, see: Box::new(|start, batch| see(&mut other, start, batch)) },
    ];
    let looked = look(&passes[0], all, Some(&stored)).unwrap();
    assert!(looked.iter().all(|looked| looked.failed.is_none() && looked.time > Duration::ZERO));
    assert_eq!(network.images.load(SeqCst), 20);
    assert_eq!((&one, &other), (&alone, &alone));
    let bank = stored.read(None).unwrap().unwrap();
    for (stored, expected) in [(bank.logits, outputs.logits), (bank.features, outputs.features)] {
        assert_eq!(stored.to_vec2::<f32>().unwrap(), expected.to_vec2::<f32>().unwrap());
    }
    // After another training they would be those of other weights.
    assert!(Stored { network: "other".into(), ..stored.clone() }.read(None).unwrap().is_none());
}

#[test]
fn stages_come_with_every_pass_and_layers_only_with_those_that_they_are_asked_of() {
    let (_, passes) = passes(&Interrupt::default());
    for layers in [true, false] {
        let mut seen = Vec::new();
        let see = Box::new(|start: usize, batch: &Shown| {
            let names: Vec<&str> = batch.stage_names().collect();
            assert_eq!(names, ["conv1", "conv2"]);
            seen.push((start, batch.stages[1].1.dims()[0], batch.layers.is_empty()));
            Ok(())
        });
        look(&passes[1], vec![Look { name: "a", layers, see }], None).unwrap();
        assert_eq!(seen, [(0, 8, !layers), (8, 8, !layers), (16, 4, !layers)]);
    }
}

#[test]
fn one_that_fails_does_not_stop_the_others_and_a_stop_ends_all() {
    let interrupt = Interrupt::default();
    let (_, passes) = passes(&interrupt);
    let [mut failing, mut going] = [0, 0];
    let all = vec![
        Look {
            name: "a",
            layers: true,
            see: Box::new(|start, _| {
                failing += 1;
                if start == 0 { Ok(()) } else { Err(Error::Failed(format!("at {start}"))) }
            }),
        },
        Look {
            name: "b",
            layers: true,
            see: Box::new(|_, _| {
                going += 1;
                Ok(())
            }),
        },
    ];
    let looked = look(&passes[0], all, None).unwrap();
    let failed: Vec<_> = looked.iter().map(|looked| looked.failed.as_ref().map(ToString::to_string)).collect();
    assert_eq!(failed, [Some("at 8".to_owned()), None]);
    assert_eq!((failing, going), (2, 3));

    let see = Box::new(|_: usize, _: &Shown| {
        interrupt.set();
        Ok(())
    });
    let stopped = look(&passes[0], vec![Look { name: "a", layers: true, see }], None);
    assert!(matches!(stopped, Err(Error::Interrupted)));
}

/// Learns in a shared pass, and then by itself from some of the images.
struct Twice {
    seen: Arc<AtomicUsize>,
    some: Option<Vec<usize>>,
}

impl Learner for Twice {
    fn what(&self) -> &'static str {
        "learning"
    }

    fn images(&self) -> Option<&[usize]> {
        self.some.as_deref()
    }

    fn see(&mut self, _: usize, batch: &Shown) -> Result<()> {
        self.seen.fetch_add(batch.logits()?.dim(0)?, SeqCst);
        Ok(())
    }

    fn passed(self: Box<Self>, _: &dyn Batches) -> Result<Fitting> {
        match self.some {
            None => Ok(Fitting::Learning(Box::new(Self { some: Some(vec![3, 5]), ..*self }))),
            Some(_) => Err(Error::Failed("nothing was learned".into())),
        }
    }
}

fn environment() -> Environment {
    let [oodkit, commit, device] = ["0", "unknown", "cpu"].map(str::to_owned);
    Environment { oodkit, commit, device }
}

fn method(of_all: bool) -> Method {
    Method {
        name: "a".into(),
        network: "net".into(),
        detector: DetectorConfig::default_of("gram").unwrap(),
        search: Default::default(),
        entry: 0,
        of_all,
    }
}

#[test]
fn learners_share_the_first_pass_and_those_over_the_same_images() {
    let (network, passes) = passes(&Interrupt::default());
    network.images.store(0, SeqCst);
    let root = tempfile::tempdir().unwrap();
    let (environment, place, method) = (environment(), Place::named("learning", "scores/learning"), method(false));
    let seen = Arc::new(AtomicUsize::new(0));
    let looker = || Looker {
        method: &method,
        layers: false,
        keeper: Keeper::open(root.path(), &place, &environment).unwrap(),
        state: State::Learning(Box::new(Twice { seen: seen.clone(), some: None })),
        time: Duration::ZERO,
        scores: Sets::default(),
    };
    let mut lookers: Vec<Looker> = (0..10).map(|_| looker()).collect();
    learn(&passes[0], &mut lookers, None).unwrap();
    // Ten learners: one pass for all, and one more over the two images that all want to see again.
    assert_eq!((network.images.load(SeqCst), seen.load(SeqCst)), (20 + 2, 10 * (20 + 2)));
    assert!(lookers.iter().all(|looker| matches!(&looker.state, State::Failed(Error::Unfit { .. }))));
}

/// Scores images by the first neuron of the first layer, unless it refuses to.
struct First {
    refuses: bool,
}

impl Scorer for First {
    fn score(&self, _: &Bank) -> Result<Scores> {
        unreachable!("it is shown batches")
    }

    fn scoring<'a>(&'a self, _: &dyn Batches) -> Result<Box<dyn Scoring + 'a>> {
        if self.refuses { Err(Error::Failed("of other images".into())) } else { Ok(Box::new(Firsts(Vec::new()))) }
    }
}

struct Firsts(Vec<f32>);

impl Scoring for Firsts {
    fn see(&mut self, _: usize, batch: &Shown) -> Result<()> {
        self.0.extend(firsts(batch));
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Scores> {
        Scores::new(self.0)
    }
}

/// One that cannot begin to score a set is named, and the others go on.
#[test]
fn one_that_refuses_a_set_does_not_stop_the_others() {
    let (network, passes) = passes(&Interrupt::default());
    let set = LoadedSet::of((*passes[0].images).clone(), &Interrupt::default()).unwrap();
    let root = tempfile::tempdir().unwrap();
    let (environment, method) = (environment(), method(true));
    let places = ["refuses", "scores"].map(|name| Place::named(name, &format!("scores/{name}")));
    let lookers = || -> Vec<Looker<'_>> {
        let looker = |place| Looker {
            method: &method,
            layers: true,
            keeper: Keeper::open(root.path(), place, &environment).unwrap(),
            state: State::Ready(Box::new(First { refuses: place.folder.ends_with("refuses") })),
            time: Duration::ZERO,
            scores: Sets::default(),
        };
        places.iter().map(looker).collect()
    };
    let mut first = lookers();
    network.images.store(0, SeqCst);
    score(&passes[0], &set, &mut first, None).unwrap();
    assert!(matches!(first[1].state, State::Ready(_)));
    let (scores, _) = first[1].keeper.stored(&set).unwrap().unwrap();
    assert_eq!((scores.as_slice().len(), network.images.load(SeqCst)), (20, 20));
    // Of `detector: all` the others are wanted, and this one is not fitted again; any other is an error.
    let failed = failures(first).unwrap();
    assert_eq!(failed["a"].to_string(), "method refuses on the network net: of other images");
    let named = self::method(false);
    let mut first = lookers();
    first.iter_mut().for_each(|looker| looker.method = &named);
    score(&passes[0], &set, &mut first, None).unwrap();
    assert!(matches!(failures(first), Err(Error::Unfit { .. })));

    // Stored scores are read once, by who uses them: not to see whether they are there.
    let file = root.path().join("scores/scores").join(format!("{}.npy", set.file_stem()));
    std::fs::write(&file, "damaged").unwrap();
    let mut again = lookers().split_off(1);
    network.images.store(0, SeqCst);
    score(&passes[0], &set, &mut again, None).unwrap();
    assert_eq!(network.images.load(SeqCst), 0);
    assert!(again[0].keeper.stored(&set).unwrap().is_none(), "its own turn sees the damage, and scores anew");
}

/// A search of three combinations: each train image is seen once for all of them, and once more by those that hold it out; each validation
/// image once; each image that is reported on once, by the best. The scores are those of a search without company.
#[test]
fn a_search_fits_all_its_settings_from_one_pass() {
    let gram = "gram, search: { powers: [1, 2, 5] }";
    let [(together, found), (alone, expected)] = [true, false].map(|together| searched(gram, 64, together));
    // 16 images to choose on and 24 to report on; of the 40 train images some are held out.
    let held_out = together - (40 + 16 + 24);
    assert!((1..=10).contains(&held_out), "{held_out}");
    // By itself each combination sees all train images and those to choose on, and the best all train images again. The outputs are apart.
    assert_eq!(alone, (40 + 16 + 24) + 3 * (40 + held_out + 16) + (40 + held_out + 24));
    assert_eq!(found, expected);
}

/// Of two fits of nearly 1 MiB each only one has room in 1 MiB: the other takes its own turn, and nothing else changes.
#[test]
fn fits_of_a_search_that_have_no_room_together_take_their_own_turn() {
    let patchcore = "{ patchcore: { grid: conv1, coreset: { size: 20 } } }, search: { reweight: [2, 9] }";
    let [(roomy, _), (together, found), (alone, expected)] =
        [(64, true), (1, true), (1, false)].map(|(memory, together)| searched(patchcore, memory, together));
    assert!(roomy < together && together < alone, "{roomy} {together} {alone}");
    assert_eq!(found, expected);
}

/// How many images a network saw for a search by this detector, and what came of it: what was chosen, how each combination did, and the
/// scores of the best.
type Searched = (usize, (Method, Vec<(IndexMap<String, Value>, f64)>, Vec<Scores>));

fn searched(detector: &str, memory: usize, together: bool) -> Searched {
    let text = "{ title: Search, data: { id: { name: fashion_mnist_small, train_limit: 40, test_limit: 16 }, ood: [{ name: digits, \
                test_limit: 16 }], validation: { id: 8, made: [uniform_noise] } }, networks: { base: { backbone: lenet, train: { epochs: 1, \
                max_steps: 1, batch_size: 8, optimizer: { sgd: { lr: 0.1 } } } } }, evaluation: { batch_size: 8, fit_memory: MEMORY }, \
                methods: [{ network: base, detector: DETECTOR }] }";
    let text = text.replace("MEMORY", &memory.to_string()).replace("DETECTOR", detector);
    let data = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    let loaded =
        Loaded { name: "search".into(), path: "search.yaml".into(), experiment: parse(&text, "search").unwrap() };
    let folder = tempfile::tempdir().unwrap();
    let store = Store::new(folder.path());
    let plan = plan(&loaded, &Places { data: Some(&data), weights: "".as_ref(), store: &store }).unwrap();
    let context = Context::plain(data.clone(), store.clone());
    let mut runner = Runner::new(&plan, &context);
    runner.train(0).unwrap();
    let task = &plan.cells[0].tasks[0];
    let sets = runner.test_sets(&task.experiment.data).unwrap();
    let methods = task.experiment.methods();
    let methods: Vec<&Method> = methods.iter().collect();
    let subject = runner.subject(&task.experiment, "base", &methods, (&task.networks[0], 0)).unwrap();
    let validation = runner.validation(&task.experiment.data).unwrap();
    let mut subject = Subject { sets: &sets, validation, ..subject };
    let member = Arc::get_mut(&mut subject.members[0]).unwrap();
    let counting = Arc::new(Counting { network: member.folded.folded().unwrap(), images: AtomicUsize::new(0) });
    member.folded = counting.clone();
    if together {
        runner.look_together(&subject, &methods).unwrap();
    }
    let banks = |sets: &[Arc<LoadedSet>]| sets.iter().map(|set| runner.bank(&subject, set).unwrap()).collect();
    let validated = banks(&subject.validation.as_ref().unwrap().sets);
    subject.banks = banks(&sets);
    subject.validation.as_mut().unwrap().banks = validated;
    let (chosen, search) = runner.choose(methods[0], &subject).unwrap();
    let scored = runner.scores(&chosen, &subject, &sets, &subject.banks).unwrap();
    let looked = counting.images.load(SeqCst);
    let grid: Vec<_> = search.unwrap().grid.into_iter().map(|tried| (tried.values, tried.mean)).collect();
    (looked, (chosen, grid, scored.scores))
}
