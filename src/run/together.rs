//! One forward pass over an image set for all who look at it: the stored outputs, and the detectors that are shown batches.
//!
//! Every batch is shown to all, one after another, and the next is computed after that, so that one batch is in memory at a time.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{DType, Device, Tensor};

use crate::{
    Error, Result,
    config::Method,
    detectors::{Bank, Batches, DetectorConfig, Fit, Fitting, Learner, Learns, Scorer, Scoring, pushed},
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
#[derive(Default)]
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
    let mut looked: Vec<Looked> = all.iter().map(|_| Looked::default()).collect();
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

/// All who are ready score a set that they have no scores of. Whether stored ones are still what they were is seen when they are read.
fn score(pass: &ForwardPass, set: &LoadedSet, lookers: &mut [Looker<'_>], store: Option<&Stored>) -> Result<()> {
    let mut ready = Vec::new();
    for looker in lookers.iter_mut() {
        if matches!(looker.state, State::Ready(_)) && !looker.keeper.has(set) {
            ready.push(looker);
        }
    }
    if ready.is_empty() && store.is_none() {
        return Ok(());
    }
    let mut scorers = Vec::new();
    for looker in &mut ready {
        if let State::Ready(scorer) = looker.take() {
            scorers.push(scorer);
        }
    }
    let mut scoring: Vec<Result<Box<dyn Scoring>>> = scorers.iter().map(|scorer| scorer.scoring(pass)).collect();
    let mut looks = Vec::new();
    for (looker, scoring) in ready.iter().zip(&mut scoring) {
        if let Ok(scoring) = scoring {
            let see = Box::new(move |start, batch: &Shown| scoring.see(start, batch));
            looks.push(Look { name: &looker.method.name, layers: looker.layers, see });
        }
    }
    let mut looked = look(pass, looks, store)?.into_iter();
    let mut scores = Vec::new();
    for scoring in scoring {
        let begun = Instant::now();
        // Who could not begin did not look.
        let (scored, time) = match scoring {
            Err(error) => (Err(error), Duration::ZERO),
            Ok(scoring) => {
                let Looked { time, failed } = looked.next().unwrap_or_default();
                (failed.map_or_else(|| scoring.finish(), Err), time)
            }
        };
        scores.push((scored, (time + begun.elapsed()).as_secs_f64()));
    }
    for ((looker, scorer), (scores, seconds)) in ready.into_iter().zip(scorers).zip(scores) {
        looker.state = match scores {
            Ok(scores) => {
                looker.keeper.keep(set, &scores, seconds)?;
                State::Ready(scorer)
            }
            Err(error) => State::Failed(looker.keeper.place.name(error)),
        };
    }
    Ok(())
}

impl Runner<'_> {
    /// Makes what is missing of a network's outputs and of the scores of detectors that are shown batches, in one forward pass over each
    /// set. What is there already, or cannot be shared, is left to the methods' own turns. Gives those of `detector: all` that could not
    /// learn or score, by name, and why: their own turns would come to the same end.
    ///
    /// # Errors
    /// Those of the passes and of the other detectors; [`Error::Interrupted`] between batches when the user asks to stop.
    pub(super) fn look_together(
        &mut self,
        subject: &Subject<'_>,
        methods: &[&Method],
    ) -> Result<BTreeMap<String, Error>> {
        let [member] = &subject.members[..] else { return Ok(BTreeMap::new()) };
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
            return Ok(BTreeMap::new());
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
            return Ok(BTreeMap::new());
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
        failures(lookers)
    }
}

/// Those of `detector: all` that failed, by name.
///
/// # Errors
/// That of the first other one that failed.
fn failures(lookers: Vec<Looker<'_>>) -> Result<BTreeMap<String, Error>> {
    let mut failed = BTreeMap::new();
    for looker in lookers {
        match looker.state {
            State::Failed(error @ Error::Unfit { .. }) if looker.method.of_all => {
                failed.insert(looker.method.name.clone(), error);
            }
            State::Failed(error) => return Err(error),
            _ => {}
        }
    }
    Ok(failed)
}

fn learns(detector: &DetectorConfig) -> bool {
    detector.detector().learns() != Learns::Nothing
}

/// A set's batches, without rows of logits and features.
fn shown(pass: &Arc<ForwardPass>) -> Result<Bank> {
    let none = Tensor::zeros((0, 0), DType::F32, &Device::Cpu)?;
    Ok(Bank { labels: pass.images.labels.clone(), batches: Some(pass.clone()), ..Bank::new(none.clone(), none) })
}
