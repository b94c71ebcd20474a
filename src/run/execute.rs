//! Carries out a plan: trains what is missing, scores with every method, and records the numbers.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use candle_core::Device;

use crate::{
    Result,
    data::Memory,
    nn::Shape,
    run::{
        device::describe,
        plan::{Plan, to_json},
        ready::{check_data, check_precision, tell_of_data},
        results::{Environment, Results, SCHEMA},
        sets::LoadedSet,
        store::Store,
    },
    say, train,
    watch::interrupt::Interrupt,
};

/// Where things are, and what to compute on.
#[derive(Debug, Clone)]
pub struct Context {
    /// The data root.
    pub data: PathBuf,
    /// The runs root.
    pub store: Store,
    /// What to compute on.
    pub device: Device,
    /// Whether this is `smoke=1`; noted in the results.
    pub smoke: bool,
    /// What the command line changed; noted in the results.
    pub overrides: Vec<String>,
    /// Set by Ctrl-C.
    pub interrupt: Interrupt,
    /// What decoded images may take.
    pub memory: Memory,
}

#[cfg(test)]
impl Context {
    /// On the CPU, without what a command line could say.
    pub(super) fn plain(data: PathBuf, store: Store) -> Self {
        Self {
            data,
            store,
            device: Device::Cpu,
            smoke: false,
            overrides: Vec::new(),
            interrupt: Interrupt::default(),
            memory: Memory::mib(64),
        }
    }
}

/// Runs what is missing of the plan and returns the record of all of it.
///
/// # Errors
/// Before any work, if a data set is missing or a picture of a test set is damaged; [`Error::Interrupted`] when the user asks to stop.
pub fn execute(plan: &Plan, context: &Context) -> Result<Results> {
    check_data(plan, context)?;
    check_precision(plan, context)?;
    tell_of_data(plan, &context.data)?;
    if !context.smoke {
        plan.notes(&context.store, Some(&context.data)).into_iter().for_each(say);
    }
    let mut runner = Runner::new(plan, context);
    // Every picture that will be scored or learned from beside the ID images is read before any training, so that a damaged
    // one is not found out days later.
    for task in plan.cells.iter().flat_map(|cell| &cell.tasks) {
        runner.test_sets(&task.experiment.data)?;
    }
    runner.check_outliers()?;
    runner.check_validation()?;
    runner.check_layers()?;
    runner.check_weights()?;
    for index in 0..plan.nodes.len() {
        runner.train(index)?;
    }
    runner.fixed.clear();
    // The train images are not needed again unless a detector fits on them.
    runner.sets.retain(|key, _| !key.ends_with("train"));
    let cells = plan.cells.iter().map(|cell| runner.evaluate_cell(cell)).collect::<Result<Vec<_>>>()?;
    Ok(Results {
        schema: SCHEMA,
        experiment: plan.name.clone(),
        title: plan.experiment.title.clone(),
        smoke: context.smoke,
        datasets: runner.dataset_records()?,
        shifted: runner.shifted_records()?,
        outliers: runner.outliers_record()?,
        validation: runner.validation_records()?,
        cells,
        environment: Environment::of(runner.scored_on.iter()),
        overrides: context.overrides.clone(),
        config: to_json(&plan.experiment)?,
    })
}

/// Carries out one plan: `training` and `evaluation` are its two halves.
pub(super) struct Runner<'a> {
    pub(super) plan: &'a Plan,
    pub(super) context: &'a Context,
    pub(super) environment: Environment,
    /// What scored, now or before.
    pub(super) scored_on: Vec<Environment>,
    /// Image sets by their configuration, split and shape, read once; and such as are made, by what of.
    pub(super) sets: BTreeMap<String, Arc<LoadedSet>>,
    /// What networks of an ID set are built for, once it is known, by the set's name.
    pub(super) shapes: BTreeMap<String, Shape>,
    /// ID test images that are reported on, and those held out of them.
    pub(super) held_out: BTreeMap<String, [Arc<LoadedSet>; 2]>,
    /// What frozen parts of networks make of train images.
    pub(super) fixed: train::Fixed,
}

impl<'a> Runner<'a> {
    pub(super) fn new(plan: &'a Plan, context: &'a Context) -> Self {
        Self {
            plan,
            context,
            environment: environment(&context.device),
            scored_on: Vec::new(),
            sets: BTreeMap::new(),
            shapes: BTreeMap::new(),
            held_out: BTreeMap::new(),
            fixed: train::Fixed::default(),
        }
    }
}

/// What this process runs on.
pub fn environment(device: &Device) -> Environment {
    Environment {
        oodkit: env!("CARGO_PKG_VERSION").to_owned(),
        commit: env!("OODKIT_COMMIT").to_owned(),
        device: describe(device),
    }
}
