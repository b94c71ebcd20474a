//! A method's answers on new images: class, probability and score.

use std::{path::PathBuf, sync::Arc};

use rand::seq::SliceRandom as _;

use crate::{
    Error, Result,
    config::Method,
    data::ImageSet,
    detectors::{Bank, Fit, Learns, Scores, classified, map::Post},
    metrics, rng,
    run::{
        bank,
        execute::{Context, Runner},
        plan::Plan,
        results::Environment,
        scoring::Place,
        sets::LoadedSet,
        subject::Subject,
    },
};

/// What was answered, image by image.
#[derive(Debug, Clone)]
pub struct Answers {
    /// The class of each image, and its softmax probability, of a network that tells classes.
    pub classes: Option<Vec<(usize, f64)>>,
    /// Larger is more anomalous.
    pub scores: Scores,
    /// What is done with the maps on reading them, if there are maps.
    pub post: Option<Post>,
    /// Thresholds of held-out images, if they were asked for.
    pub held_out: Option<HeldOut>,
    /// What was answered on.
    pub images: Arc<ImageSet>,
    /// Classes that the network knows.
    pub known: usize,
    /// The network's folder, relative to the runs root; of an ensemble, the first member's.
    pub network: PathBuf,
    /// What answered.
    pub environment: Environment,
}

/// Thresholds that normal images set which the detector did not learn from: no anomaly is needed.
#[derive(Debug, Clone, PartialEq)]
pub struct HeldOut {
    /// The share of them that is at most the threshold, at least.
    pub quantile: f64,
    /// How many were held out.
    pub images: usize,
    /// Of so many train images.
    pub of: usize,
    /// Of images' scores.
    pub threshold: f64,
    /// Of maps' pixels, if there are maps: that of the largest pixel of each held-out map.
    pub pixel: Option<f64>,
    /// Whether the detector learned from the others; if not, it learns from no image.
    pub fitted: bool,
    /// Whether the network was trained on them.
    pub trained_on: bool,
}

/// The share of the train images that is held out. Ours: a fifth, which leaves most of them to learn from.
const HELD_OUT: f64 = 0.2;

/// Scores new images with a method of one cell, task and seed, as a run scores its test images: same bits for the same images together.
/// `read` is told the shape (channels, rows, columns) that the network was trained at. Nothing is stored but what a run stores of
/// the train images, if the detector learns from them.
///
/// With a `quantile`, a fifth of the train images, drawn by name, is held out, the detector, if it learns, is fitted anew to the others, and the
/// quantile of its scores of the held-out ones is the threshold. The scores are those of the fit to all, as in a run.
///
/// # Errors
/// Those of `read`; a network that is not trained or damaged; train images that are needed and not there; [`Error::Interrupted`].
pub fn predict(
    plan: &Plan,
    context: &Context,
    (cell, task, seed): (&str, &str, u64),
    method: &Method,
    quantile: Option<f64>,
    read: impl FnOnce([usize; 3]) -> Result<ImageSet>,
) -> Result<Answers> {
    let mut runner = Runner::new(plan, context);
    let missing = |what: String| Error::input(format!("{}: {what}", plan.name));
    let cell = plan.cells.iter().find(|known| known.name == cell);
    let cell = cell.ok_or_else(|| missing("the sweep has no such cell".to_owned()))?;
    let task = cell.task(Some(task))?;
    let networks = task.of_seed(seed).map_err(|error| error.at(&plan.name))?;
    let subject = runner.subject(&task.experiment, &method.network, &[method], (networks, seed))?;
    let [channels, height, width, known] = subject.members[0].trained.record.shape;
    let images = read([channels, height, width])?;
    let sets = [Arc::new(LoadedSet::of(images, &context.interrupt)?)];
    let subject = Subject { sets: &sets, ..subject };
    let bank = runner.with_second(method, &subject, (&sets[0], outputs(&runner, &subject, &sets[0])?))?;
    let place = Place::of(method, &subject)?;
    let scorer = runner.fit(method, &subject, &place, None)?;
    let scores = scorer.score(&bank).map_err(|error| place.name(error))?;
    drop(scorer);
    let held_out = match quantile {
        None => None,
        Some(quantile) => {
            let mut all = subject.members.iter().chain(subject.seconds.values());
            let trained_on = all.any(|member| member.node.train.is_some() && !member.node.shared);
            Some(hold_out(&mut runner, &subject, method, (quantile, trained_on))?)
        }
    };
    Ok(Answers {
        classes: if bank.logits.dim(1)? > 0 { Some(classified(&bank.logits)?) } else { None },
        scores,
        post: method.detector.post(),
        held_out,
        images: sets[0].images.clone(),
        known,
        network: subject.folder.clone(),
        environment: runner.environment,
    })
}

/// A network's or an ensemble's outputs on a set, which are not kept.
pub(super) fn outputs(runner: &Runner<'_>, subject: &Subject<'_>, set: &LoadedSet) -> Result<Bank> {
    let banks = subject.members.iter().map(|member| {
        let pass = Arc::new(runner.forward_pass(member, set, subject));
        let bank = pass.outputs()?;
        Ok(Bank { batches: Some(pass.clone()), inputs: Some(pass), ..bank })
    });
    let mut banks = banks.collect::<Result<Vec<_>>>()?;
    if subject.ensemble { bank::ensemble(banks) } else { Ok(banks.remove(0)) }
}

/// The thresholds of a fit to some of the train images, by the others.
fn hold_out(
    runner: &mut Runner<'_>,
    subject: &Subject<'_>,
    method: &Method,
    (quantile, trained_on): (f64, bool),
) -> Result<HeldOut> {
    let place = Place::of(method, subject)?;
    let train = runner.train_bank(method, subject)?;
    let of = train.logits.dim(0)?;
    if of < 2 {
        return Err(Error::input(format!("there are {of} train images, and some of them are to be held out")));
    }
    let mut order: Vec<usize> = (0..of).collect();
    order.shuffle(&mut rng::stream(subject.seed, "predict's held-out images", &of.to_string()));
    let (held, learned) = order.split_at_mut(((HELD_OUT * of as f64).round() as usize).clamp(1, of - 1));
    held.sort_unstable();
    learned.sort_unstable();
    let detector = method.detector.build();
    let fitted = detector.learns() != Learns::Nothing;
    let learned = fitted.then(|| train.subset(learned)).transpose()?;
    let (head, memory) = (subject.head(), subject.settings.fit_memory << 20);
    let device = Some(&runner.context.device);
    let fit = Fit { train: learned.as_ref(), head: head.as_ref(), memory, scratch: None, device };
    let scorer = detector.fit(&fit).map_err(|error| place.name(error))?;
    let scores = scorer.score(&train.subset(held)?).map_err(|error| place.name(error))?;
    let threshold = |scores: &[f64]| metrics::threshold(scores, quantile).unwrap_or_default();
    let in_f64 = |scores: &[f32]| scores.iter().copied().map(f64::from).collect::<Vec<f64>>();
    let [_, height, width] = subject.sets[0].images.shape();
    let pixel = scores.maps().zip(method.detector.post()).map(|(maps, post)| {
        let largest = |image| {
            let full = post.full(maps.map(image), maps.grid(), [height, width]);
            f64::from(full.into_iter().fold(f32::NEG_INFINITY, f32::max))
        };
        threshold(&(0..maps.images()).map(largest).collect::<Vec<f64>>())
    });
    let threshold = threshold(&in_f64(scores.as_slice()));
    Ok(HeldOut { quantile, images: held.len(), of, threshold, pixel, fitted, trained_on })
}
