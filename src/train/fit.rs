//! The training loop.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{D, DType, Device, Tensor};

use crate::{
    Error, Result,
    data::{
        ImageSet, Normalisation,
        batches::{Source, TrainBatches, in_order, steps_per_epoch},
    },
    losses::{Objective, Step, Trace},
    nn::{Mode, Model, Pass, params::Params},
    train::{
        Train,
        checkpoint::{Checkpoint, EpochSums, State},
        optim::{Average, Optimizer},
        recipe::Keep,
        schedule,
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
    /// The seed of batch order, augmentation and dropout.
    pub seed: u64,
    /// The train images, without those held out.
    pub images: Arc<ImageSet>,
    /// SHA-256 of the train images, with those held out.
    pub data: &'a str,
    /// Auxiliary outliers at the shape of the train images, for objectives with a term of them, and their SHA-256.
    pub outliers: Option<(Arc<ImageSet>, &'a str)>,
    /// Train images held out, if the recipe asks for some.
    pub validation: Option<&'a ImageSet>,
    /// The statistics that images are normalised with.
    pub normalisation: &'a Normalisation,
    /// Where the network is.
    pub device: &'a Device,
    /// Where to save what is needed to continue.
    pub checkpoint: &'a Path,
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
    let recipe = job.recipe;
    let mut optimizer = Optimizer::new(&recipe.optimizer, recipe.clip, job.params.trainable())?;
    let mut average = recipe.ema.as_ref().map(|ema| Average::new(ema, job.params.trainable()));
    let (mut state, mut best) = match saved {
        Some(saved) => {
            refuse_other_data(job, &saved.state)?;
            job.params.load(&saved.model, job.checkpoint)?;
            let fits = |error| Checkpoint::unusable(job.checkpoint, error);
            optimizer.load_state(&saved.optimizer).map_err(fits)?;
            if let Some(average) = &mut average {
                average.load(&saved.average).map_err(fits)?;
            }
            (saved.state, saved.best)
        }
        None => {
            let outliers = job.outliers.as_ref().map(|(_, sha256)| (*sha256).to_owned());
            (State { data: job.data.to_owned(), outliers, ..State::default() }, BTreeMap::new())
        }
    };
    let per_epoch = steps_per_epoch(job.images.len(), recipe.batch_size);
    let every_step = recipe.epochs as u64 * per_epoch;
    let total = recipe.max_steps.map_or(every_step, |most| every_step.min(most as u64));
    tell(observers, Event::Started { what: job.what, step: state.step, total })?;

    let seconds_before = state.seconds;
    let started = Instant::now();
    let mut last_save = Instant::now();
    let outliers = job.outliers.as_ref();
    let source = Source {
        images: job.images.clone(),
        outliers: outliers.map(|(outliers, _)| (outliers.clone(), recipe.outlier_ratio * recipe.batch_size)),
        normalisation: job.normalisation.clone(),
        augment: recipe.augment.clone(),
        batch_size: recipe.batch_size,
        seed: job.seed,
        device: job.device.clone(),
    };
    let batches = TrainBatches::new(source, state.step..total)?;
    for batch in batches {
        let batch = batch?;
        let lr = schedule::lr(recipe, per_epoch, total, state.step);
        let mode = Mode::Train { seed: job.seed, step: state.step, precision: recipe.precision };
        let (shown, trace) = match job.objective.looks_at_images() {
            true => Trace::forward(job.model, &batch.images, mode).map(|(shown, trace)| (shown, Some(trace)))?,
            false => (job.model.show(&batch.images, &Pass::new(mode))?, None),
        };
        // One pass for all, so that batch statistics are of both; everything after it is of the images to learn.
        let (images, shown, outliers) = match outliers {
            None => (batch.images, shown, None),
            Some(_) => {
                let learned = batch.labels.dim(0)?;
                let rest = shown.logits()?.dim(0)? - learned;
                let outliers = shown.logits()?.narrow(0, learned, rest)?;
                (batch.images.narrow(0, 0, learned)?, shown.narrow(0, learned)?, Some(outliers))
            }
        };
        let step = Step { shown: &shown, labels: &batch.labels, outliers: outliers.as_ref(), trace: trace.as_ref() };
        let (loss, terms) = job.objective.value(&step)?;
        let terms = scalars(&terms)?;
        let value = scalar(&loss)?;
        refuse_non_finite(recipe, value, &terms, state.step, batch.epoch)?;
        optimizer.step(&loss.backward()?, lr)?;
        job.model.after_step(&images, &batch.labels)?;
        if let Some(average) = &mut average {
            average.update()?;
        }

        let images = batch.labels.dim(0)? as u64;
        let correct = count_correct(shown.logits()?, &batch.labels)?;
        state.step += 1;
        state.epoch.loss += value * images as f64;
        state.epoch.correct += correct;
        state.epoch.images += images;
        let accuracy = correct as f64 / images as f64;
        tell(
            observers,
            Event::Step { step: state.step, epoch: batch.epoch, lr, loss: value, terms: &terms, accuracy },
        )?;

        if state.step.is_multiple_of(per_epoch) || state.step == total {
            let sums = std::mem::take::<EpochSums>(&mut state.epoch);
            let loss = sums.loss / sums.images as f64;
            state.last_loss = Some(loss);
            let validation = match job.validation {
                None => None,
                Some(images) => {
                    let weights = average.as_ref().map(|average| use_average(job, average)).transpose()?;
                    let accuracy = Some(validate(job, images)?);
                    if recipe.keep == Keep::Best && accuracy >= state.best {
                        state.best = accuracy;
                        best = job.params.all()?;
                    }
                    if let Some(weights) = weights {
                        job.params.load(&weights, job.checkpoint)?;
                    }
                    accuracy
                }
            };
            let accuracy = sums.correct as f64 / sums.images as f64;
            tell(observers, Event::Epoch { epoch: batch.epoch, step: state.step, loss, accuracy, validation })?;
        }

        let stop = interrupt.is_set();
        let due = recipe.checkpoint.every_steps.is_some_and(|steps| state.step.is_multiple_of(steps as u64))
            || last_save.elapsed() >= Duration::from_secs_f64(recipe.checkpoint.every_minutes * 60.0);
        if state.step == total || stop || due {
            // A checkpoint that cannot be continued must not replace one that can.
            refuse_non_finite_weights(job, state.step)?;
            state.seconds = seconds_before + started.elapsed().as_secs_f64();
            last_save = Instant::now();
            tell(observers, Event::Checkpoint { step: state.step })?;
            state.positions = positions(observers)?;
            let saved = Checkpoint {
                state: state.clone(),
                model: job.params.all()?,
                optimizer: optimizer.state()?,
                average: average.as_ref().map(|average| average.values().clone()).unwrap_or_default(),
                best: best.clone(),
            };
            saved.write(job.checkpoint)?;
            if stop {
                return Err(Error::Interrupted);
            }
        }
    }
    if recipe.keep == Keep::Best && !best.is_empty() {
        job.params.load(&best, job.checkpoint)?;
    } else if let Some(average) = &average {
        use_average(job, average)?;
    }
    tell(observers, Event::Finished { step: state.step })?;
    let final_loss = state.last_loss.unwrap_or(f64::NAN);
    Ok(Fitted { steps: state.step, final_loss, seconds: state.seconds })
}

/// Puts the averaged weights in the place of the weights, which are returned.
fn use_average(job: &Job<'_>, average: &Average) -> Result<BTreeMap<String, Tensor>> {
    let weights = job.params.all()?;
    let mut averaged = weights.clone();
    averaged.extend(average.values().clone());
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

fn count_correct(logits: &Tensor, labels: &Tensor) -> Result<u64> {
    let right = logits.detach().argmax(D::Minus1)?.eq(labels)?;
    Ok(right.to_dtype(DType::U32)?.sum_all()?.to_scalar::<u32>()?.into())
}

fn validate(job: &Job<'_>, images: &ImageSet) -> Result<f64> {
    let batch = job.recipe.batch_size;
    let model = job.model.folded()?;
    let labels = images.labels.as_deref().unwrap_or_default();
    let mut correct = 0;
    in_order(images, batch, job.normalisation, job.device, |range, inputs| {
        let labels = Tensor::new(&labels[range], job.device)?;
        correct += count_correct(model.show(inputs, &Pass::eval())?.logits()?, &labels)?;
        Ok(())
    })?;
    Ok(correct as f64 / images.len() as f64)
}
