//! How long methods take to score images, measured.

use std::{sync::Arc, time::Instant};

use crate::{
    Error, Result,
    config::Method,
    detectors::Bank,
    run::{
        execute::{Context, Runner},
        plan::Plan,
        predict::outputs,
        scoring::Place,
        sets::LoadedSet,
        subject::Subject,
        together::shown,
    },
};

/// Passes that are measured, after one that is not. Ours: an odd number, whose median is one of them.
pub const PASSES: usize = 5;

/// What a method took.
#[derive(Debug, Clone, PartialEq)]
pub struct Speed {
    /// Its name.
    pub method: String,
    /// Milliseconds an image, the median of [`PASSES`], for each number of images that pass together.
    pub milliseconds: Vec<f64>,
}

/// Times methods of one task and seed of a plan's first cell on ID test images: `batches` says how many pass together. A time is from decoded
/// images to scores: the forward pass, the detector, and maps at the images' size where the detector gives maps. Fits are not in it.
///
/// # Errors
/// A network that is not trained or damaged; images that are needed and not there; [`Error::Interrupted`].
pub fn speed(
    plan: &Plan,
    context: &Context,
    (task, seed): (&str, u64),
    methods: &[Method],
    batches: &[usize],
) -> Result<Vec<Speed>> {
    let mut runner = Runner::new(plan, context);
    let missing = |what: String| Error::input(format!("{}: {what}", plan.name));
    let cell = plan.cells.first().ok_or_else(|| missing("it has no cell".to_owned()))?;
    let task = cell.task(Some(task))?;
    let networks = task.of_seed(seed).map_err(|error| error.at(&plan.name))?;
    let images = runner.id_test_images(&task.experiment.data.id)?.images.clone();
    let set = |batch: &usize| {
        // A set of fewer images shows them again.
        let places: Vec<usize> = (0..*batch).map(|at| at % images.len()).collect();
        Ok((*batch, [Arc::new(LoadedSet::of(images.subset(&places), &context.interrupt)?)]))
    };
    let sets = batches.iter().map(set).collect::<Result<Vec<_>>>()?;
    let mut all = Vec::with_capacity(methods.len());
    for method in methods {
        let mut subject = runner.subject(&task.experiment, &method.network, &[method], (networks, seed))?;
        let place = Place::of(method, &subject)?;
        let scorer = runner.fit(method, &subject, &place, None)?;
        let mut milliseconds = Vec::with_capacity(sets.len());
        for (batch, sets) in &sets {
            (subject.sets, subject.batch_size) = (sets, *batch);
            let pass = || {
                let begun = Instant::now();
                let bank = bank(&runner, method, &subject)?;
                scorer.score(&bank).map_err(|error| place.name(error))?;
                Ok(begun.elapsed().as_secs_f64() * 1000.0 / *batch as f64)
            };
            pass()?;
            let mut taken = (0..PASSES).map(|_| pass()).collect::<Result<Vec<f64>>>()?;
            taken.sort_by(f64::total_cmp);
            milliseconds.push(taken[PASSES / 2]);
        }
        all.push(Speed { method: method.name.clone(), milliseconds });
    }
    Ok(all)
}

/// What the method reads of the subject's first set. One that is shown batches makes its own pass over them.
fn bank(runner: &Runner<'_>, method: &Method, subject: &Subject<'_>) -> Result<Bank> {
    let set = &subject.sets[0];
    let bank = match method.detector.detector().pushed() {
        Some(_) if !subject.ensemble => shown(&Arc::new(runner.forward_pass(&subject.members[0], set, subject)))?,
        _ => outputs(runner, subject, set)?,
    };
    runner.with_second(method, subject, (set, bank))
}
