//! The training loop.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{DType, Device, Tensor};

use crate::{
    Error, Result,
    data::{
        ImageSet, Normalisation,
        batches::{Batch, Source, TrainBatches, in_order},
    },
    losses::{LOSS, Objective, StepLoss},
    nn::{Mode, Model, params::Params},
    train::{
        Fixed, Train,
        checkpoint::{Checkpoint, EpochSums, State},
        groups,
        lookahead::Lookahead,
        optim::{Average, Optimizer},
        recipe::{Checkpoint as Cadence, Keep, LR_OF_ZERO},
        reptile::Start,
        schedule::{self, Place},
    },
    watch::{
        events::{Event, Observer},
        interrupt::Interrupt,
    },
};

/// What is to be trained, on what, and how.
pub struct Job<'a> {
    /// What people call it.
    pub what: &'a str,
    /// The model, built from `params`.
    pub model: &'a dyn Model,
    /// Its weights, changed in place.
    pub params: &'a Params,
    /// What it learns to do.
    pub objective: &'a Objective,
    /// The recipe.
    pub recipe: &'a Train,
    /// What stands before the names of the parameters that are not the trunk's, of a model that has a trunk.
    pub own: Option<&'a str>,
    /// The seed of batch order, augmentation and dropout.
    pub seed: u64,
    /// The train images, without those held out.
    pub images: Arc<ImageSet>,
    /// Rows and columns of the windows of them that the model learns, if it does not learn whole images.
    pub window: Option<usize>,
    /// SHA-256 of the train images, with those held out.
    pub data: &'a str,
    /// Auxiliary outliers at the shape of the train images, for objectives with a term of them, and their SHA-256.
    pub outliers: Option<(Arc<ImageSet>, &'a str)>,
    /// Train images held out, if the recipe asks for some.
    pub validation: Option<&'a ImageSet>,
    /// The statistics that images are normalised with.
    pub normalisation: &'a Normalisation,
    /// Where what does not learn is kept, and what it depends on beside the images' places.
    pub fixed: Option<(&'a Fixed, &'a str)>,
    /// Where the network is.
    pub device: &'a Device,
    /// Where to save what is needed to continue.
    pub checkpoint: &'a Path,
}

impl Job<'_> {
    /// The optimiser before the first step.
    fn optimizer(&self) -> Result<Optimizer> {
        let recipe = self.recipe;
        let optimizer = Optimizer::new(&recipe.optimizer, recipe.clip, self.params.trainable())?;
        let optimizer = optimizer.grouped(&recipe.groups)?;
        match (recipe.trunk_rate(), self.own) {
            (None, _) => Ok(optimizer),
            (Some(rate), Some(own)) if rate.is_finite() => {
                let is_own = |name: &str| name.strip_prefix(own).is_some_and(|rest| rest.starts_with('.'));
                Ok(optimizer.paced(rate, |name| !is_own(name)))
            }
            (Some(_), None) => Err(Error::input("trunk_lr: this model has no trunk with parts of its own beside it")),
            (Some(_), Some(_)) => Err(Error::input(format!("trunk_lr: {LR_OF_ZERO}"))),
        }
    }

    fn source(&self) -> Source {
        let Train { augment, batch_size, drop_last, outlier_ratio, reptile, .. } = self.recipe;
        let outliers = self.outliers.as_ref();
        Source {
            images: self.images.clone(),
            labelled: self.objective.classifies(),
            round: reptile.as_ref().map(|reptile| reptile.inner_steps as u64),
            outliers: outliers.map(|(outliers, _)| (outliers.clone(), outlier_ratio * batch_size)),
            made: self.recipe.outliers.clone(),
            normalisation: self.normalisation.clone(),
            augment: augment.clone(),
            window: self.window,
            batch_size: *batch_size,
            drop_last: *drop_last,
            seed: self.seed,
            device: self.device.clone(),
        }
    }
}

/// How training went. The weights are in the job's [`Params`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Fitted {
    /// Optimiser steps.
    pub steps: u64,
    /// Mean loss over the last epoch.
    pub final_loss: f64,
    /// Seconds, over all the sittings it took.
    pub seconds: f64,
}

/// Trains `job.params`, from `saved` if given, and leaves the weights that the recipe keeps.
///
/// The same job gives the same bits on the CPU with the same number of threads, however often it is interrupted.
///
/// # Errors
/// [`Error::Interrupted`] after saving a checkpoint when the user asks to stop; [`Error::Failed`] naming step and term when
/// the loss is no longer finite, in which case no weight was changed by that step.
pub fn fit(
    job: &Job<'_>,
    saved: Option<Checkpoint>,
    observers: &mut [&mut dyn Observer],
    interrupt: &Interrupt,
) -> Result<Fitted> {
    if saved.is_none() {
        survey(job, interrupt)?;
    }
    let mut training = Training::start(job, saved)?;
    let (recipe, total) = (job.recipe, training.total);
    tell(observers, Event::Started { what: job.what, step: training.state.step, total })?;
    for batch in TrainBatches::new(job.source(), training.state.step..total)? {
        let batch = batch?;
        let lr = schedule::lr(recipe, training.per_epoch, total, training.state.step);
        training.step(&batch, lr, observers)?;
        let step = training.state.step;
        if step.is_multiple_of(training.per_epoch) || step == total {
            training.end_epoch(batch.epoch, observers)?;
        }
        let stop = interrupt.is_set();
        if step == total || stop || training.is_due() {
            training.save(observers)?;
        }
        if stop {
            return Err(Error::Interrupted);
        }
    }
    training.leave()?;
    let Training { state, .. } = training;
    tell(observers, Event::Finished { step: state.step })?;
    Ok(Fitted { steps: state.step, final_loss: state.last_loss.unwrap_or(f64::NAN), seconds: state.seconds })
}

/// Images of a survey that pass together, ours: a constant, since moments are rounded batch by batch, and networks of several recipes share
/// what comes of them.
const SURVEYED: usize = 16;

/// Shows the model the train images as they are, if it wants to know something of them before the first step. A checkpoint has what came
/// of it.
fn survey(job: &Job<'_>, interrupt: &Interrupt) -> Result<()> {
    let Some(mut survey) = job.model.survey() else { return Ok(()) };
    let some = job.images.subset(&survey.places(job.images.len()));
    in_order(&some, SURVEYED, job.normalisation, job.device, |_, images| {
        interrupt.check()?;
        Ok(survey.see(images)?)
    })?;
    Ok(survey.finish()?)
}

/// Training under way.
struct Training<'a> {
    job: &'a Job<'a>,
    optimizer: Optimizer,
    average: Option<Average>,
    /// The slow weights, if the recipe has some.
    lookahead: Option<Lookahead>,
    /// Where the round of one class began, if there are rounds, and the steps of a round.
    start: Option<(Start, u64)>,
    state: State,
    /// The best weights so far, if the recipe keeps those.
    best: BTreeMap<String, Tensor>,
    /// Steps of an epoch, and all.
    per_epoch: u64,
    total: u64,
    /// When this sitting began, the seconds of those before it, and when a checkpoint was last written.
    started: Instant,
    seconds_before: f64,
    last_save: Instant,
}

impl<'a> Training<'a> {
    fn start(job: &'a Job<'a>, saved: Option<Checkpoint>) -> Result<Self> {
        let recipe = job.recipe;
        let mut optimizer = job.optimizer()?;
        let mut average = recipe.ema.as_ref().map(|ema| Average::new(ema, job.params.trainable()));
        let slow = recipe.lookahead.as_ref();
        let mut lookahead = slow.map(|slow| Lookahead::new(slow, job.params.variables_by_name())).transpose()?;
        let per_epoch = job.source().steps_per_epoch();
        let every_step = recipe.epochs as u64 * per_epoch;
        let total = recipe.max_steps.map_or(every_step, |most| every_step.min(most as u64));
        if let Some(problem) = recipe.lookahead.as_ref().and_then(|lookahead| lookahead.problem(total)) {
            return Err(Error::input(format!("lookahead.every: {problem}")).hint("give a smaller one"));
        }
        let rounds = recipe.reptile.as_ref();
        let mut start = rounds.map(|rounds| (Start::new(rounds, job.params.trainable()), rounds.inner_steps as u64));
        let (state, best) = match saved {
            Some(saved) => {
                refuse_other_data(job, &saved.state)?;
                job.params.load(&saved.model, job.checkpoint)?;
                let fits = |error| Checkpoint::unusable(job.checkpoint, error);
                optimizer.load_state(&saved.optimizer).map_err(fits)?;
                if let Some(average) = &mut average {
                    average.load(&saved.average).map_err(fits)?;
                }
                if let Some(lookahead) = &mut lookahead {
                    lookahead.load(&saved.slow).map_err(fits)?;
                }
                // At a round's end there is no start to go back to; the last round may be a short one.
                if let Some((start, steps)) = &mut start
                    && !saved.state.step.is_multiple_of(*steps)
                    && saved.state.step < total
                {
                    start.load(&saved.start).map_err(fits)?;
                }
                (saved.state, saved.best)
            }
            None => {
                let outliers = job.outliers.as_ref().map(|(_, sha256)| (*sha256).to_owned());
                (State { data: job.data.to_owned(), outliers, ..State::default() }, BTreeMap::new())
            }
        };
        let (seconds_before, now) = (state.seconds, Instant::now());
        Ok(Self {
            job,
            optimizer,
            average,
            lookahead,
            start,
            state,
            best,
            per_epoch,
            total,
            started: now,
            seconds_before,
            last_save: now,
        })
    }

    /// One step of the optimiser, and what came of it.
    fn step(&mut self, batch: &Batch, lr: f64, observers: &mut [&mut dyn Observer]) -> Result<()> {
        let Job { model, recipe, seed, .. } = *self.job;
        if let Some((start, steps)) = &mut self.start
            && self.state.step.is_multiple_of(*steps)
        {
            start.begin()?;
            self.optimizer = self.job.optimizer()?;
        }
        let mode = Mode::Train { seed, step: self.state.step, precision: recipe.precision };
        let fixed = self.job.fixed.map(|(fixed, with)| fixed.of(with, model, batch)).transpose()?.flatten();
        let StepLoss { total, terms, watched } = self.job.objective.loss_from(fixed.as_deref(), model, batch, mode)?;
        let (loss, terms) = (scalar(&total)?, scalars(&terms)?);
        refuse_non_finite(recipe, loss, &terms, self.state.step, batch.epoch)?;
        let place = Place { steps_per_epoch: self.per_epoch, total_steps: self.total, step: self.state.step };
        self.optimizer.step_grouped(&total.backward()?, lr, &groups::rates(recipe, place))?;
        if let Some(labels) = &batch.labels {
            model.after_step(&batch.images.narrow(0, 0, batch.normal)?, labels)?;
        }
        if let Some(average) = &mut self.average {
            average.update()?;
        }
        self.state.step += 1;
        if let Some(lookahead) = &mut self.lookahead {
            lookahead.update(self.state.step, self.total)?;
        }
        // The last round may be a short one.
        if let Some((start, steps)) = &mut self.start
            && (self.state.step.is_multiple_of(*steps) || self.state.step == self.total)
        {
            start.end()?;
        }
        let (sums, images) = (&mut self.state.epoch, batch.learned() as f64);
        sums.loss += loss * images;
        sums.images += batch.learned() as u64;
        for (name, sum) in &watched {
            *sums.watched.entry((*name).to_owned()).or_default() += sum;
        }
        let watched: Vec<_> = watched.into_iter().map(|(name, sum)| (name, sum / images)).collect();
        let (step, epoch) = (self.state.step, batch.epoch);
        tell(observers, Event::Step { step, epoch, lr, loss, terms: &terms, watched: &watched })
    }

    /// Looks at the held-out images after an epoch, and keeps the weights if they are the best so far.
    fn end_epoch(&mut self, epoch: u64, observers: &mut [&mut dyn Observer]) -> Result<()> {
        let sums = std::mem::take::<EpochSums>(&mut self.state.epoch);
        let loss = sums.loss / sums.images as f64;
        self.state.last_loss = Some(loss);
        // What is looked at is what would be left: averaged or slow weights, where there are some.
        let looked_at = self.job.validation.is_some() || observers.iter().any(|observer| observer.looks(epoch));
        let average = self.average.as_ref().map(Average::values);
        let instead = average.or_else(|| self.lookahead.as_ref().map(Lookahead::values)).filter(|_| looked_at);
        let weights = instead.map(|instead| put(self.job, instead)).transpose()?;
        let validation = self.job.validation.map(|images| self.validate(images)).transpose()?;
        let watched: Vec<_> =
            sums.watched.iter().map(|(name, sum)| (name.as_str(), sum / sums.images as f64)).collect();
        tell(observers, Event::Epoch { epoch, step: self.state.step, loss, watched: &watched, validation })?;
        match weights {
            Some(weights) => self.job.params.load(&weights, self.job.checkpoint),
            None => Ok(()),
        }
    }

    /// The accuracy on these images, or the loss where nothing is classified.
    fn validate(&mut self, images: &ImageSet) -> Result<(&'static str, f64)> {
        let (name, mean) = judge(self.job, images)?;
        let quality = if name == LOSS { -mean } else { mean };
        if self.job.recipe.keep == Keep::Best && self.state.is_best(name, quality) {
            self.best = self.job.params.all()?;
        }
        Ok((name, mean))
    }

    fn is_due(&self) -> bool {
        let Cadence { every_steps, every_minutes } = self.job.recipe.checkpoint;
        every_steps.is_some_and(|steps| self.state.step.is_multiple_of(steps as u64))
            || self.last_save.elapsed() >= Duration::from_secs_f64(every_minutes * 60.0)
    }

    /// Writes what is needed to continue.
    fn save(&mut self, observers: &mut [&mut dyn Observer]) -> Result<()> {
        // A checkpoint that cannot be continued must not replace one that can.
        refuse_non_finite_weights(self.job, self.state.step)?;
        self.state.seconds = self.seconds_before + self.started.elapsed().as_secs_f64();
        self.last_save = Instant::now();
        tell(observers, Event::Checkpoint { step: self.state.step })?;
        self.state.positions = positions(observers)?;
        let saved = Checkpoint {
            state: self.state.clone(),
            model: self.job.params.all()?,
            optimizer: self.optimizer.state()?,
            average: self.average.as_ref().map(|average| average.values().clone()).unwrap_or_default(),
            best: self.best.clone(),
            start: self.start.as_ref().map(|(start, _)| start.values().clone()).unwrap_or_default(),
            slow: self.lookahead.as_ref().map(|slow| slow.values().clone()).unwrap_or_default(),
        };
        saved.write(self.job.checkpoint)
    }

    /// Leaves the weights that the recipe keeps.
    fn leave(&self) -> Result<()> {
        if self.job.recipe.keep == Keep::Best && !self.best.is_empty() {
            self.job.params.load(&self.best, self.job.checkpoint)?;
        } else if let Some(average) = &self.average {
            put(self.job, average.values())?;
        }
        Ok(())
    }
}

/// Puts averaged or slow weights in the place of the weights, which are returned.
fn put(job: &Job<'_>, instead: &BTreeMap<String, Tensor>) -> Result<BTreeMap<String, Tensor>> {
    let weights = job.params.all()?;
    let mut averaged = weights.clone();
    averaged.extend(instead.clone());
    job.params.load(&averaged, job.checkpoint)?;
    Ok(weights)
}

fn tell(observers: &mut [&mut dyn Observer], event: Event<'_>) -> Result<()> {
    observers.iter_mut().try_for_each(|observer| observer.on(&event))
}

fn positions(observers: &mut [&mut dyn Observer]) -> Result<BTreeMap<String, u64>> {
    let mut positions = BTreeMap::new();
    for observer in observers {
        positions.extend(observer.bookmark()?.map(|(name, bytes)| (name.to_owned(), bytes)));
    }
    Ok(positions)
}

fn scalar(tensor: &Tensor) -> Result<f64> {
    Ok(tensor.to_dtype(DType::F64)?.to_scalar()?)
}

fn scalars(terms: &[(&'static str, Tensor)]) -> Result<Vec<(&'static str, f64)>> {
    terms.iter().map(|(name, value)| Ok((*name, scalar(value)?))).collect()
}

/// Checked before the step, so that the weights are still those that gave the bad loss.
fn refuse_non_finite(recipe: &Train, loss: f64, terms: &[(&'static str, f64)], step: u64, epoch: u64) -> Result<()> {
    if loss.is_finite() {
        return Ok(());
    }
    let term = match terms.iter().find(|(_, value)| !value.is_finite()) {
        Some((name, value)) => format!("the term {name} is {value}"),
        None => "no single term is, only their sum".to_owned(),
    };
    Err(Error::Failed(format!(
        "the loss is {loss} at step {} (epoch {}): {term}\n\n{}",
        step + 1,
        epoch + 1,
        advice(recipe)
    )))
}

fn advice(recipe: &Train) -> String {
    format!("hint: a lower optimizer.{}.lr or a warm-up (warmup_epochs) usually helps", recipe.optimizer.name())
}

/// The last update may spoil weights whose loss was still finite.
fn refuse_non_finite_weights(job: &Job<'_>, step: u64) -> Result<()> {
    for (name, value) in job.params.trainable() {
        if !scalar(&value.as_detached_tensor().abs()?.sum_all()?)?.is_finite() {
            return Err(Error::Failed(format!(
                "the weights are no longer finite after step {step}: {name} holds NaN or infinity\n\n{}",
                advice(job.recipe)
            )));
        }
    }
    Ok(())
}

fn refuse_other_data(job: &Job<'_>, state: &State) -> Result<()> {
    let outliers = job.outliers.as_ref().map(|(outliers, sha256)| (&outliers.name, *sha256));
    let (what, name) = match outliers {
        _ if state.data != job.data => ("train images", &job.images.name),
        Some((name, sha256)) if state.outliers.as_deref() != Some(sha256) => ("outliers", name),
        _ => return Ok(()),
    };
    let folder = job.checkpoint.parent().unwrap_or(job.checkpoint);
    Err(Error::input(format!(
        "the checkpoint {} was taken on other {what} than those of {name} now",
        job.checkpoint.display(),
    ))
    .hint(format!("put the old images back, or remove {} to start anew", folder.display())))
}

/// As [`Objective::judge`], in the mean over these images.
fn judge(job: &Job<'_>, images: &ImageSet) -> Result<(&'static str, f64)> {
    let model = job.model.folded()?;
    let labels = images.labels.as_deref();
    let (mut name, mut sum) = (LOSS, 0.0);
    in_order(images, job.recipe.batch_size, job.normalisation, job.device, |range, inputs| {
        let first = range.start;
        let labels = labels.map(|labels| Tensor::new(&labels[range], job.device)).transpose()?;
        let (measure, judged) = job.objective.judge(&*model, inputs, labels.as_ref(), first)?;
        name = measure;
        sum += judged;
        Ok(())
    })?;
    Ok((name, sum / images.len() as f64))
}
