//! A method's answers on new images: class, probability and score.

use std::{path::PathBuf, sync::Arc};

use crate::{
    Error, Result,
    config::Method,
    data::ImageSet,
    detectors::{Bank, Scores, classified},
    run::{
        bank,
        evaluation::Subject,
        execute::{Context, LoadedSet, Runner},
        plan::Plan,
        results::Environment,
        scoring::Place,
    },
};

/// What was answered, image by image.
#[derive(Debug, Clone)]
pub struct Answers {
    /// The class of each image, and its softmax probability.
    pub classes: Vec<(usize, f64)>,
    /// Larger is more anomalous.
    pub scores: Scores,
    /// What was answered on.
    pub images: Arc<ImageSet>,
    /// Classes that the network knows.
    pub known: usize,
    /// The network's folder, relative to the runs root; of an ensemble, the first member's.
    pub network: PathBuf,
    /// What answered.
    pub environment: Environment,
}

/// Scores new images with a method of one cell and seed, as a run scores its test images: same bits for the same images together.
/// `read` is told the shape (channels, rows, columns) that the network was trained at. Nothing is stored but what a run stores of
/// the train images, if the detector learns from them.
///
/// # Errors
/// Those of `read`; a network that is not trained or damaged; train images that are needed and not there; [`Error::Interrupted`].
pub fn predict(
    plan: &Plan,
    context: &Context,
    (cell, seed): (&str, u64),
    method: &Method,
    read: impl FnOnce([usize; 3]) -> Result<ImageSet>,
) -> Result<Answers> {
    let mut runner = Runner::new(plan, context);
    let missing = |what: String| Error::input(format!("{}: {what}", plan.name));
    let cell = plan.cells.iter().find(|known| known.name == cell);
    let cell = cell.ok_or_else(|| missing("the sweep has no such cell".to_owned()))?;
    let networks = cell.experiment.seeds.iter().position(|known| *known == seed).and_then(|at| cell.networks.get(at));
    let indices = networks.and_then(|networks| networks.get(&method.network));
    let indices =
        indices.ok_or_else(|| missing(format!("there is no network \"{}\" of seed {seed}", method.network)))?;
    let subject = runner.subject(&cell.experiment, &method.network, indices, seed)?;
    let [channels, height, width, known] = subject.members[0].trained.record.shape;
    let images = read([channels, height, width])?;
    let sets = [Arc::new(LoadedSet::of(images, &context.interrupt)?)];
    let subject = Subject { sets: &sets, ..subject };
    let bank = outputs(&runner, &subject, &sets[0])?;
    let place = Place::of(method, &subject)?;
    let scorer = runner.fit(method, &subject, &place, None)?;
    Ok(Answers {
        classes: classified(&bank.logits)?,
        scores: scorer.score(&bank).map_err(|error| place.name(error))?,
        images: sets[0].images.clone(),
        known,
        network: subject.folder.clone(),
        environment: runner.environment,
    })
}

/// A network's or an ensemble's outputs on a set, which are not kept.
fn outputs(runner: &Runner<'_>, subject: &Subject<'_>, set: &LoadedSet) -> Result<Bank> {
    let banks = subject.members.iter().map(|member| {
        let pass = Arc::new(runner.forward_pass(member, set, subject));
        let bank = pass.outputs()?;
        Ok(Bank { activations: Some(pass.clone()), inputs: Some(pass), ..bank })
    });
    let mut banks = banks.collect::<Result<Vec<_>>>()?;
    if subject.ensemble { bank::ensemble(banks) } else { Ok(banks.remove(0)) }
}
