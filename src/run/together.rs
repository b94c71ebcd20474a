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
    detectors::{
        About, Bank, Batches, Denoises, DetectorConfig, Fit, Fitting, LayerShape, Learner, Learns, Scorer, Scoring,
    },
    nn::{Pass, Shown, pass::Side},
    run::{
        bank::{ForwardPass, Kept, Stored},
        execute::Runner,
        scoring::{Keeper, Place},
        search::tried,
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
    scores: Sets,
}

/// The sets that a detector scores.
#[derive(Clone, Copy, Default)]
struct Sets {
    /// Those that settings are chosen on.
    validation: bool,
    /// Those that are reported on.
    reported: bool,
}

/// A method that is to look, or one combination of its search.
struct Candidate {
    method: Method,
    place: Place,
    scores: Sets,
}

enum State {
    Learning(Box<dyn Learner>),
    Ready(Box<dyn Scorer>),
    Failed(Error),
    /// Not of use any more, or for the moment in which it changes.
    Gone,
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
        std::mem::replace(&mut self.state, State::Gone)
    }
}

/// All who learn look at the train images together, again and again. Who wants to see only some of them, or no layers, in a further pass shares
/// it with those who want the same.
fn learn(pass: &ForwardPass, lookers: &mut [Looker<'_>], store: Option<&Stored>) -> Result<()> {
    let mut learning: Vec<(&mut Looker<'_>, Box<dyn Learner>)> = Vec::new();
    for looker in lookers.iter_mut() {
        match looker.take() {
            State::Learning(learner) => learning.push((looker, learner)),
            other => looker.state = other,
        }
    }
    if learning.is_empty() && store.is_none() {
        return Ok(());
    }
    let mut learning = learn_in([pass; 2], learning, store)?;
    while let Some((first, learner)) = learning.first() {
        let (layers, images) = (first.layers, learner.images().map(<[usize]>::to_vec));
        let same =
            |other: &Looker<'_>, learner: &dyn Learner| other.layers == layers && learner.images() == images.as_deref();
        let (group, others) = learning.into_iter().partition(|(looker, learner)| same(looker, &**learner));
        let some = images.as_deref().map(|images| pass.images.subset(images));
        let some = ForwardPass { images: some.map_or_else(|| pass.images.clone(), Arc::new), ..pass.clone() };
        learning = others;
        learning.extend(learn_in([pass, &some], group, None)?);
    }
    Ok(())
}

/// Some who learn look at some of the train images once; gives those who go on learning.
fn learn_in<'a, 'b>(
    [train, pass]: [&ForwardPass; 2],
    mut learning: Vec<(&'a mut Looker<'b>, Box<dyn Learner>)>,
    store: Option<&Stored>,
) -> Result<Vec<(&'a mut Looker<'b>, Box<dyn Learner>)>> {
    let mut all = Vec::new();
    for (looker, learner) in &mut learning {
        let see = Box::new(move |start: usize, batch: &Shown| learner.see(start, batch));
        all.push(Look { name: &looker.method.name, layers: looker.layers, see });
    }
    let looked = look(pass, all, store)?;
    let mut left = Vec::new();
    for ((looker, learner), looked) in learning.into_iter().zip(looked) {
        let begun = Instant::now();
        let fitting = looked.failed.map_or_else(|| learner.passed(train), Err);
        looker.time += looked.time + begun.elapsed();
        match fitting {
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Ok(Fitting::Learning(learner)) => left.push((looker, learner)),
            fitting => looker.fitted(fitting),
        }
    }
    Ok(left)
}

/// Those of them who are ready score a set that they have no scores of. Whether stored ones are still what they were is seen when they are
/// read.
fn score<'a, 'b: 'a>(
    pass: &ForwardPass,
    set: &LoadedSet,
    lookers: impl IntoIterator<Item = &'a mut Looker<'b>>,
    store: Option<&Stored>,
) -> Result<()> {
    let mut ready = Vec::new();
    for looker in lookers {
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
    /// set. All combinations of a search learn and are scored together, and the best goes on to the sets that are reported on. What is
    /// there already, or cannot be shared, is left to the methods' own turns. Gives those of `detector: all` that could not learn or
    /// score, by name, and why: their own turns would come to the same end.
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
        let (candidates, others_learn) = self.candidates(subject, methods)?;
        if candidates.is_empty() {
            return Ok(BTreeMap::new());
        }
        let needed = others_learn || candidates.iter().any(|candidate| learns(&candidate.method.detector));
        let train = if needed { Some(self.train_set(subject)?) } else { None };
        let validation = subject.validation.as_ref().map_or(&[][..], |validation| &validation.sets);
        let sets: Vec<&Arc<LoadedSet>> = train.iter().chain(validation).chain(subject.sets).collect();
        // Who looks at batches looks at what stands after the non-linearity.
        let pass = |set| ForwardPass { side: Side::After, ..self.forward_pass(member, set, subject) };
        let passes: Vec<_> = sets.iter().map(|set| Arc::new(pass(set))).collect();
        let layers = |method: &Method| method.detector.detector().pushed().is_some_and(|pushed| pushed.reads_layers());
        let mut outputs: Vec<Option<Stored>> = vec![None; sets.len()];
        // Where fewer images go at a time, or on a GPU, the outputs might differ from those of another pass in their last bits.
        let whole =
            !candidates.iter().any(|candidate| layers(&candidate.method)) || passes[0].looks_at_whole_batches()?;
        if passes[0].kept && self.context.device.is_cpu() && whole {
            for set in usize::from(train.is_some() && !others_learn)..sets.len() {
                outputs[set] = Some(stored_outputs(member, sets[set], subject)).filter(|stored| !stored.path.exists());
            }
        }
        if candidates.len() + usize::from(outputs.iter().any(Option::is_some)) < 2 {
            return Ok(BTreeMap::new());
        }
        let (head, memory) = (subject.head(), subject.settings.fit_memory << 20);
        let first = usize::from(train.is_some());
        let learned = train.as_ref().map(|_| shown(&passes[0])).transpose()?;
        let mut lookers = Vec::new();
        for Candidate { method, place, scores } in &candidates {
            let keeper = Keeper::open(&root, place, &self.environment)?;
            let (layers, time) = (layers(method), Duration::ZERO);
            let mut looker = Looker { method, layers, keeper, state: State::Gone, time, scores: *scores };
            let device = Some(&self.context.device);
            let fit = Fit { train: learned.as_ref(), head: head.as_ref(), memory, scratch: None, device };
            if let Some(pushed) = method.detector.detector().pushed() {
                looker.fitted(pushed.start(&fit));
            }
            lookers.push(looker);
        }
        if first > 0 {
            learn(&passes[0], &mut lookers, outputs[0].as_ref())?;
        }
        for (at, pass) in passes.iter().enumerate().skip(first) {
            if at == first + validation.len() {
                self.go_on_with_the_best(subject, methods, &mut lookers)?;
            }
            let validates = at < first + validation.len();
            let of_set = |looker: &&mut Looker<'_>| match validates {
                true => looker.scores.validation,
                false => looker.scores.reported,
            };
            score(pass, sets[at], lookers.iter_mut().filter(of_set), outputs[at].as_ref())?;
        }
        failures(lookers)
    }

    /// The methods that share passes, and whether one of the others learns. Of a search whose combinations are not all scored yet those
    /// that are not, as far as their fits have room together; of any other the one that was chosen.
    fn candidates(&mut self, subject: &Subject<'_>, methods: &[&Method]) -> Result<(Vec<Candidate>, bool)> {
        let root = self.context.store.root().to_owned();
        let mut candidates: Vec<Candidate> = Vec::new();
        let mut others_learn = false;
        let mut room = subject.settings.fit_memory << 20;
        for method in methods {
            if method.detector.detector().pushed().is_none() || subject.ensemble {
                let complete = || Place::of(method, subject)?.is_complete(&root, subject.sets);
                others_learn |= learns(&method.detector) && (!method.search.is_empty() || !complete()?);
                continue;
            }
            let searches = !method.search.is_empty();
            let chosen = if searches { self.chosen(method, subject)? } else { Some((*method).clone()) };
            let reported = chosen.is_some();
            let (methods, sets) = match (chosen, &subject.validation) {
                (Some(method), _) => (vec![method], subject.sets),
                (None, Some(validation)) => {
                    (tried(method)?.into_iter().map(|tried| tried.method).collect(), &validation.sets[..])
                }
                (None, None) => continue,
            };
            for method in methods {
                let place = Place::of(&method, subject)?;
                if place.is_complete(&root, sets)? {
                    continue;
                }
                // A detector may stand under several names, or be a combination that is tried.
                let at = match candidates.iter().position(|candidate| candidate.place.folder == place.folder) {
                    Some(at) => at,
                    None => {
                        let bytes = if reported { 0 } else { self.fit_bytes(&method, subject)? };
                        let Some(left) = room.checked_sub(bytes) else { continue };
                        room = left;
                        candidates.push(Candidate { method, place, scores: Sets::default() });
                        candidates.len() - 1
                    }
                };
                let scores = &mut candidates[at].scores;
                *if reported { &mut scores.reported } else { &mut scores.validation } = true;
            }
        }
        Ok((candidates, others_learn))
    }

    /// Bytes that a fit holds, of a detector that tells them.
    fn fit_bytes(&mut self, method: &Method, subject: &Subject<'_>) -> Result<usize> {
        let (detector, member) = (method.detector.detector(), &subject.members[0]);
        let (Some(check), [channels, height, width, _]) = (detector.depends(), member.trained.record.shape) else {
            return Ok(0);
        };
        let image = Tensor::zeros((1, channels, height, width), DType::F32, &self.context.device)?;
        let shown = member.folded.show(&image, &Pass::eval().keeping_layers(Side::After).sketching())?;
        let layers: Vec<LayerShape> = shown.layers.iter().map(LayerShape::from).collect();
        let train = Some(self.train_set(subject)?.images.len());
        let memory = subject.settings.fit_memory << 20;
        // What cannot be fitted says so in its own turn.
        let denoiser = member.folded.denoiser().map(Denoises::of);
        Ok(check(About { layers: &layers, shown: &shown, denoiser, train, memory }).ok().flatten().unwrap_or(0))
    }

    /// Of each search the combination that does best on the validation sets goes on. The others are done; one that failed says so in its
    /// own turn.
    fn go_on_with_the_best(
        &self,
        subject: &Subject<'_>,
        methods: &[&Method],
        lookers: &mut [Looker<'_>],
    ) -> Result<()> {
        for method in methods.iter().filter(|method| !method.search.is_empty()) {
            let Some(chosen) = self.chosen(method, subject)? else { continue };
            let folder = Place::of(&chosen, subject)?.folder;
            let of_chosen = lookers.iter_mut().filter(|looker| looker.keeper.place.folder == folder);
            of_chosen.for_each(|looker| looker.scores.reported = true);
        }
        lookers.iter_mut().filter(|looker| !looker.scores.reported).for_each(|looker| looker.state = State::Gone);
        Ok(())
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
pub(super) fn shown(pass: &Arc<ForwardPass>) -> Result<Bank> {
    let none = Tensor::zeros((0, 0), DType::F32, &Device::Cpu)?;
    Ok(Bank { labels: pass.images.labels.clone(), batches: Some(pass.clone()), ..Bank::new(none.clone(), none) })
}
