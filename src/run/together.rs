//! One forward pass over an image set for all who look at it: the stored outputs, and the detectors that are shown batches.
//!
//! Every batch is shown to all, one after another, and the next is computed after that, so that one batch is in memory at a time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{DType, Device, Tensor};

use crate::{
    Error, Result,
    config::Method,
    detectors::{Bank, Batches, DetectorConfig, Fit, Fitting, Learner, Learns, Scorer, pushed},
    nn::{Shown, pass::Side},
    run::{
        bank::{ForwardPass, Kept, Stored},
        execute::Runner,
        scoring::{Keeper, Place},
        sets::LoadedSet,
        subject::{Subject, stored_outputs},
    },
};

/// What is done with a batch and the position of its first image.
type See<'a> = Box<dyn FnMut(usize, &Shown) -> Result<()> + 'a>;

/// Who looks at a pass.
struct Look<'a> {
    /// What people call it.
    name: &'a str,
    /// Whether it looks at layers, and not only at what else the network shows.
    layers: bool,
    see: See<'a>,
}

/// How it went.
struct Looked {
    /// Its own time.
    time: Duration,
    /// Why it looks no more.
    failed: Option<Error>,
}

/// A forward pass for all who look; one that fails looks no more, and does not stop the others. The network's outputs are stored, if
/// there is a place for them.
///
/// # Errors
/// Those of the pass and of storing.
fn look(pass: &ForwardPass, mut all: Vec<Look<'_>>, store: Option<&Stored>) -> Result<Vec<Looked>> {
    let names = all.iter().map(|look| look.name).collect::<Vec<_>>().join(", ");
    let what = if all.is_empty() { "scoring".to_owned() } else { format!("looking with {names}") };
    let layers = all.iter().any(|look| look.layers);
    let mut looked: Vec<Looked> = all.iter().map(|_| Looked { time: Duration::ZERO, failed: None }).collect();
    let mut kept = Kept::default();
    pass.pass(&what, layers, &mut |start, batch| {
        if store.is_some() {
            kept.add(batch)?;
        }
        for (look, looked) in all.iter_mut().zip(&mut looked).filter(|(_, looked)| looked.failed.is_none()) {
            let begun = Instant::now();
            looked.failed = (look.see)(start, batch).err();
            looked.time += begun.elapsed();
        }
        Ok(())
    })?;
    if let Some(stored) = store {
        stored.write(&pass.bank_of(kept)?)?;
    }
    Ok(looked)
}

/// A detector on its way.
struct Looker<'a> {
    method: &'a Method,
    layers: bool,
    keeper: Keeper<'a>,
    state: State,
    /// Its own time for the fit.
    time: Duration,
}

enum State {
    Learning(Box<dyn Learner>),
    Ready(Box<dyn Scorer>),
    Failed(Error),
    /// For the moment in which it changes.
    Changing,
}

impl Looker<'_> {
    /// Goes on with what a step of its fit came to.
    fn fitted(&mut self, fitting: Result<Fitting>) {
        self.state = match fitting {
            Ok(Fitting::Learning(learner)) => State::Learning(learner),
            Ok(Fitting::Ready(scorer)) => {
                self.keeper.fitted(&*scorer, self.time.as_secs_f64());
                State::Ready(scorer)
            }
            Err(error) => State::Failed(self.keeper.place.name(error)),
        };
    }

    fn take(&mut self) -> State {
        std::mem::replace(&mut self.state, State::Changing)
    }
}

/// All who learn look at the train images together once; passes over some of them, or further ones, are each one's own.
fn learn(pass: &ForwardPass, lookers: &mut [Looker<'_>], store: Option<&Stored>) -> Result<()> {
    let (mut learning, mut all) = (Vec::new(), Vec::new());
    for looker in lookers.iter_mut() {
        match looker.take() {
            State::Learning(learner) => learning.push((looker, learner)),
            other => looker.state = other,
        }
    }
    for (looker, learner) in &mut learning {
        let see = Box::new(move |start: usize, batch: &Shown| learner.see(start, batch));
        all.push(Look { name: &looker.method.name, layers: looker.layers, see });
    }
    if all.is_empty() && store.is_none() {
        return Ok(());
    }
    let looked = look(pass, all, store)?;
    for ((looker, learner), looked) in learning.into_iter().zip(looked) {
        let begun = Instant::now();
        let mut fitting = looked.failed.map_or_else(|| learner.passed(pass), Err);
        while let Ok(Fitting::Learning(learner)) = fitting {
            fitting = pushed::learn(learner, pass, looker.layers);
        }
        looker.time += looked.time + begun.elapsed();
        if let Err(Error::Interrupted) = fitting {
            return Err(Error::Interrupted);
        }
        looker.fitted(fitting);
    }
    Ok(())
}

/// All who are ready score a set that they have no scores of.
fn score(pass: &ForwardPass, set: &LoadedSet, lookers: &mut [Looker<'_>], store: Option<&Stored>) -> Result<()> {
    let mut ready = Vec::new();
    for looker in lookers.iter_mut() {
        if matches!(looker.state, State::Ready(_)) && looker.keeper.stored(set)?.is_none() {
            ready.push(looker);
        }
    }
    if ready.is_empty() && store.is_none() {
        return Ok(());
    }
    let scorers: Vec<State> = ready.iter_mut().map(|looker| looker.take()).collect();
    let mut scoring = Vec::new();
    for scorer in &scorers {
        if let State::Ready(scorer) = scorer {
            scoring.push(scorer.scoring(pass)?);
        }
    }
    let looks = ready.iter().zip(&mut scoring).map(|(looker, scoring)| Look {
        name: &looker.method.name,
        layers: looker.layers,
        see: Box::new(move |start, batch: &Shown| scoring.see(start, batch)),
    });
    let all = looks.collect();
    let looked = look(pass, all, store)?;
    let mut scores = Vec::new();
    for (scoring, looked) in scoring.into_iter().zip(looked) {
        let begun = Instant::now();
        let scored = looked.failed.map_or_else(|| scoring.finish(), Err);
        scores.push((scored, (looked.time + begun.elapsed()).as_secs_f64()));
    }
    for ((looker, scorer), (scores, seconds)) in ready.into_iter().zip(scorers).zip(scores) {
        looker.state = match scores {
            Ok(scores) => {
                looker.keeper.keep(set, &scores, seconds)?;
                scorer
            }
            Err(error) => State::Failed(looker.keeper.place.name(error)),
        };
    }
    Ok(())
}

impl Runner<'_> {
    /// Makes what is missing of a network's outputs and of the scores of detectors that are shown batches, in one forward pass over each
    /// set. What is there already, or cannot be shared, is left to the methods' own turns.
    ///
    /// # Errors
    /// Those of the passes and of the detectors; [`Error::Interrupted`] between batches when the user asks to stop.
    pub(super) fn look_together(&mut self, subject: &Subject<'_>, methods: &[&Method]) -> Result<()> {
        let [member] = &subject.members[..] else { return Ok(()) };
        let root = self.context.store.root().to_owned();
        let mut chosen: Vec<(&Method, Place)> = Vec::new();
        let mut others_learn = false;
        for method in methods {
            let (detector, place) = (method.detector.detector(), Place::of(method, subject)?);
            // A detector may stand under several names.
            let listed = chosen.iter().any(|(_, other)| other.folder == place.folder);
            if listed || method.search.is_empty() && place.is_complete(&root, subject.sets)? {
                continue;
            }
            if detector.pushed().is_some() && method.search.is_empty() && !subject.ensemble {
                chosen.push((method, place));
            } else {
                others_learn |= learns(&method.detector);
            }
        }
        if chosen.is_empty() {
            return Ok(());
        }
        let needed = others_learn || chosen.iter().any(|(method, _)| learns(&method.detector));
        let train = if needed { Some(self.train_set(subject)?) } else { None };
        let sets: Vec<&Arc<LoadedSet>> = train.iter().chain(subject.sets).collect();
        // Who looks at batches looks at what stands after the non-linearity.
        let pass = |set| ForwardPass { side: Side::After, ..self.forward_pass(member, set, subject) };
        let passes: Vec<_> = sets.iter().map(|set| Arc::new(pass(set))).collect();
        let layers = |method: &Method| method.detector.detector().pushed().is_some_and(|pushed| pushed.reads_layers());
        let mut outputs: Vec<Option<Stored>> = vec![None; sets.len()];
        // Where fewer images go at a time, or on a GPU, the outputs might differ from those of another pass in their last bits.
        let whole = !chosen.iter().any(|(method, _)| layers(method)) || passes[0].looks_at_whole_batches()?;
        if passes[0].kept && self.context.device.is_cpu() && whole {
            for set in usize::from(train.is_some() && !others_learn)..sets.len() {
                outputs[set] = Some(stored_outputs(member, sets[set], subject)).filter(|stored| !stored.path.exists());
            }
        }
        if chosen.len() + usize::from(outputs.iter().any(Option::is_some)) < 2 {
            return Ok(());
        }
        let (head, memory) = (subject.head(), subject.settings.fit_memory << 20);
        let first = usize::from(train.is_some());
        let learned = train.as_ref().map(|_| shown(&passes[0])).transpose()?;
        let mut lookers = Vec::new();
        for (method, place) in &chosen {
            let keeper = Keeper::open(&root, place, &self.environment)?;
            let mut looker =
                Looker { method, layers: layers(method), keeper, state: State::Changing, time: Duration::ZERO };
            let fit = Fit { train: learned.as_ref(), head: head.as_ref(), memory, scratch: None };
            if let Some(pushed) = method.detector.detector().pushed() {
                looker.fitted(pushed.start(&fit));
            }
            lookers.push(looker);
        }
        if first > 0 {
            learn(&passes[0], &mut lookers, outputs[0].as_ref())?;
        }
        for (set, pass) in passes.iter().enumerate().skip(first) {
            score(pass, sets[set], &mut lookers, outputs[set].as_ref())?;
        }
        let failed = lookers.into_iter().find_map(|looker| match looker.state {
            // Its own turn comes to the same end, and records why.
            State::Failed(Error::Unfit { .. }) if looker.method.of_all => None,
            State::Failed(error) => Some(error),
            _ => None,
        });
        failed.map_or(Ok(()), Err)
    }
}

fn learns(detector: &DetectorConfig) -> bool {
    detector.detector().learns() != Learns::Nothing
}

/// A set's batches, without rows of logits and features.
fn shown(pass: &Arc<ForwardPass>) -> Result<Bank> {
    let none = Tensor::zeros((0, 0), DType::F32, &Device::Cpu)?;
    Ok(Bank { labels: pass.images.labels.clone(), batches: Some(pass.clone()), ..Bank::new(none.clone(), none) })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    use super::*;
    use crate::{
        data::{ImageSet, Normalisation, Split},
        detectors::Batches,
        nn::{self, Backbone, Model, Pass, Shape, params::Params},
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
            let images = ImageSet {
                name: format!("set {set}"),
                split: Split::Test,
                channels: 1,
                height: 28,
                width: 28,
                pixels: (0..20 * 784).map(|at| (at * (7 + set) % 251) as u8).collect(),
                labels: None,
                classes: 0,
                full_size: None,
                files: None,
                masks: None,
                note: None,
            };
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

    #[test]
    fn learners_share_the_first_pass_and_take_others_by_themselves() {
        let (network, passes) = passes(&Interrupt::default());
        network.images.store(0, SeqCst);
        let root = tempfile::tempdir().unwrap();
        let [oodkit, commit, device] = ["0", "unknown", "cpu"].map(str::to_owned);
        let environment = crate::run::results::Environment { oodkit, commit, device };
        let place = Place::named("learning", "scores/learning");
        let method = Method {
            name: "a".into(),
            network: "net".into(),
            detector: DetectorConfig::default_of("gram").unwrap(),
            search: Default::default(),
            entry: 0,
            of_all: false,
        };
        let seen = Arc::new(AtomicUsize::new(0));
        let looker = || Looker {
            method: &method,
            layers: false,
            keeper: Keeper::open(root.path(), &place, &environment).unwrap(),
            state: State::Learning(Box::new(Twice { seen: seen.clone(), some: None })),
            time: Duration::ZERO,
        };
        let mut lookers: Vec<Looker> = (0..10).map(|_| looker()).collect();
        learn(&passes[0], &mut lookers, None).unwrap();
        // Ten learners: one pass for all, and two images more for each.
        assert_eq!((network.images.load(SeqCst), seen.load(SeqCst)), (20 + 10 * 2, 10 * (20 + 2)));
        assert!(lookers.iter().all(|looker| matches!(&looker.state, State::Failed(Error::Unfit { .. }))));
    }
}
