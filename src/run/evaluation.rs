//! Scoring with every method, and measuring each OOD set against the ID set.

use std::{collections::BTreeSet, path::Path, sync::Arc};

use indexmap::IndexMap;

use crate::{
    Error, Result,
    config::{self, ALL_KINDS, Figure, Method, Redraw},
    detectors::{Bank, Fit, Learns, Scorer},
    metrics::{Column, Confusion, Intervals, Measure, Measures, Protocol, Tpr, aggregate, files, intervals, measures},
    nn::Output,
    run::{
        execute::Runner,
        pixels,
        plan::{Cell, to_json},
        results::{self, Environment, MethodResult, NetworkResult, SeedResult, SetResult, TaskResult},
        scoring::{Keeper, Place, Scored},
        sets::LoadedSet,
        subject::{Networks, Subject},
    },
};

/// The shares of ID test images whose thresholds results record: the field's 95 %, and those beside it.
const THRESHOLDS: [f64; 3] = [0.9, 0.95, 0.99];

/// Classes at most whose confusions results count: more make a file of megabytes and a figure that nobody can read.
const MOST_CONFUSED: usize = 100;

/// What is measured of scores.
#[derive(Clone, Copy)]
pub(super) struct Grading<'a> {
    pub(super) seed: u64,
    pub(super) redraw: Option<&'a Redraw>,
    /// Measures beside those that are always computed.
    pub(super) more: &'a [Measure],
    pub(super) intervals: bool,
}

impl Grading<'_> {
    /// A set against the ID images, whose scores are `id`; `spectrum` are those of the covariate-shifted ID images as well.
    pub(super) fn set(&self, name: &str, id: &[f32], scores: &[f32], spectrum: Option<&[f32]>) -> Result<SetResult> {
        // All kinds of anomaly together are no set to draw of.
        let redraw = match self.redraw.filter(|_| name != ALL_KINDS) {
            None => None,
            Some(redraw) => {
                let size = (id.len() as f64 * redraw.id_fraction).round().max(1.0) as usize;
                Some(aggregate::redraw_and(id, scores, redraw.draws, size, (self.seed, name), self.more)?)
            }
        };
        let intervals = match self.intervals {
            true => intervals(id, scores, (self.seed, name), self.more)?,
            false => Intervals::new(),
        };
        let measured = |id: &[f32]| measures::of_scores_and(id, scores, self.more);
        Ok(SetResult { measures: measured(id)?, intervals, full_spectrum: spectrum.map(measured).transpose()?, redraw })
    }
}

impl Runner<'_> {
    /// Scores and measures everything that one cell of the sweep asks for.
    pub(super) fn evaluate_cell(&mut self, cell: &Cell) -> Result<results::Cell> {
        let mut seeds = Vec::new();
        for (at, &seed) in cell.experiment.seeds.iter().enumerate() {
            let of_seed = cell.tasks.iter().filter_map(|task| Some((task, task.networks.get(at)?)));
            let tasks = of_seed.map(|(task, networks)| {
                let result = self.evaluate_task(&task.experiment, seed, networks)?;
                Ok((task.name().to_owned(), result))
            });
            seeds.push(SeedResult { seed, tasks: tasks.collect::<Result<_>>()? });
        }
        Ok(results::Cell { name: cell.name.clone(), values: cell.values.clone(), seeds })
    }

    fn evaluate_task(&mut self, experiment: &config::Experiment, seed: u64, networks: &Networks) -> Result<TaskResult> {
        // Figures show one network; tables have the others.
        let figures = if experiment.seeds.first() == Some(&seed) { &experiment.figures[..] } else { &[] };
        let sets = self.attacked_sets(experiment, networks, seed)?;
        let all = experiment.methods();
        let mut network_results = IndexMap::new();
        let mut method_results = IndexMap::new();
        let mut unfit = IndexMap::new();
        for name in networks.keys() {
            let methods: Vec<&Method> = all.iter().filter(|method| method.network == *name).collect();
            // Without methods, its accuracy is all that is asked of it.
            let (used, shifted) =
                if methods.is_empty() { (&sets[..1], 0) } else { (&sets[..], experiment.data.shifted.len()) };
            let subject = self.subject(experiment, name, &methods, (networks, seed))?;
            let mut subject = Subject { sets: used, shifted, ..subject };
            if subject.members.iter().any(|member| member.node.shared) {
                // What detectors learned of the task's train images is of no use to another.
                let train = self.train_images(subject.id)?;
                subject.folder = subject.folder.join(format!("{}-{}", subject.id.name, &train.sha256[..12]));
            }
            self.pseudo_views(name, &subject, figures)?;
            self.samples_views(name, &subject, figures)?;
            if methods.iter().any(|method| !method.search.is_empty()) {
                subject.validation = self.validation(&experiment.data)?;
            }
            let mut failed = self.look_together(&subject, &methods)?;
            let banks = |sets: &[Arc<LoadedSet>]| sets.iter().map(|set| self.bank(&subject, set)).collect();
            let validated: Option<Result<_>> = subject.validation.as_ref().map(|validation| banks(&validation.sets));
            subject.banks = banks(used)?;
            if let (Some(validation), Some(banks)) = (&mut subject.validation, validated.transpose()?) {
                validation.banks = banks;
            }
            network_results.insert(name.clone(), self.classified(&subject, experiment)?);
            for method in methods {
                let result = match failed.remove(&method.name) {
                    Some(error) => Err(error),
                    None => self.method(method, &subject, figures),
                };
                match result {
                    Ok(result) => {
                        method_results.insert(method.name.as_str(), result);
                    }
                    Err(error @ Error::Unfit { .. }) if method.of_all => {
                        unfit.insert(method.name.clone(), error);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        // Where none of them has scores, there is nothing to go on for.
        if method_results.is_empty()
            && let Some((_, error)) = unfit.shift_remove_index(0)
        {
            return Err(error);
        }
        // In the file's order, not the networks'.
        let in_order = all.iter().filter_map(|method| {
            let result = method_results.swap_remove(method.name.as_str())?;
            Some((method.name.clone(), result))
        });
        let controls = match experiment.tables.iter().any(|table| table.controls) {
            true => self.controls(experiment, &sets, seed)?,
            false => IndexMap::new(),
        };
        Ok(TaskResult {
            networks: network_results,
            methods: in_order.chain(controls).collect(),
            unfit: unfit.into_iter().map(|(name, error)| (name, said(&error))).collect(),
        })
    }

    /// The record of a network with how well it classifies the ID test images, if these are of the classes that it learned.
    fn classified(&self, subject: &Subject<'_>, experiment: &config::Experiment) -> Result<NetworkResult> {
        let bank = &subject.banks[0];
        // In a set of one class there is nothing to be right about, and nothing in classes that the network did not learn.
        let one_class = subject.sets[0].images.classes < 2;
        let no_classes = !subject.members.iter().all(|member| member.shows(Output::Logits));
        if one_class || no_classes || subject.members.iter().any(|member| member.node.shared) {
            return Ok(network_result(subject, Measures::new()));
        }
        let labels = bank
            .labels
            .as_deref()
            .ok_or_else(|| Error::input(format!("the ID set {} has no labels", experiment.data.id.name)))?;
        let views = experiment.evaluation.tta;
        let logits = match views {
            None => bank.logits.clone(),
            Some(tta) => self.logits_of_views(subject, &subject.sets[0], tta)?,
        };
        let confusion = Confusion::of(&logits, labels)?;
        Ok(NetworkResult {
            confusion: (confusion.classes() <= MOST_CONFUSED).then_some(confusion),
            views,
            ..network_result(subject, measures::of_logits(&logits, labels)?)
        })
    }

    /// Scores every set with one method and measures each OOD set against the ID set.
    fn method(&mut self, method: &Method, subject: &Subject<'_>, figures: &[Figure]) -> Result<MethodResult> {
        let (method, search) = self.choose(method, subject)?;
        let scored = self.scores(&method, subject, subject.sets, &subject.banks)?;
        self.views(&method, subject, figures, &scored.folder, scored.scorer.as_deref())?;
        self.map_views(&method, subject, figures, &scored)?;
        for (set, (scores, path)) in subject.sets.iter().zip(scored.scores.iter().zip(scored.paths.values())) {
            let path = self.context.store.root().join(path).with_extension("csv");
            files::write_csv(&path, set.images.files.as_deref().map(Vec::as_slice), scores.as_slice())?;
        }
        let id = scored.scores[0].as_slice();
        let in_f64: Vec<f64> = id.iter().copied().map(f64::from).collect();
        let of = |tpr: f64| Some((tpr.to_string(), aggregate::threshold(&in_f64, tpr)?));
        let thresholds = THRESHOLDS.into_iter().filter_map(of).collect();
        let (reported, shifted) = scored.scores.split_at(subject.reported().len());
        let shifted: Vec<f32> = shifted.iter().flat_map(|scores| scores.as_slice()).copied().collect();
        let spectrum = (!shifted.is_empty()).then(|| [id, &shifted].concat());
        let grading = subject.grading();
        let mut sets = IndexMap::new();
        let scored_sets: Vec<_> = subject.reported().iter().map(|set| &**set).zip(reported).collect();
        let of_pixels = |sets: pixels::Scored<'_>| pixels::of_sets(sets, method.detector.post(), &subject.more);
        for &(set, scores) in &scored_sets[1..] {
            let name = &set.images.name;
            let mut of_set = grading.set(name, id, scores.as_slice(), spectrum.as_deref())?;
            if !subject.categories {
                of_set.measures.extend(of_pixels(&[scored_sets[0], (set, scores)])?);
            }
            sets.insert(name.clone(), of_set);
        }
        if subject.categories {
            let all: Vec<f32> = reported[1..].iter().flat_map(|scores| scores.as_slice()).copied().collect();
            let mut of_all = grading.set(ALL_KINDS, id, &all, None)?;
            of_all.measures.extend(of_pixels(&scored_sets)?);
            sets.insert(ALL_KINDS.to_owned(), of_all);
        }
        Ok(MethodResult {
            network: method.network,
            sets,
            scores: scored.paths,
            thresholds,
            fit_seconds: scored.fit_seconds,
            fit: scored.fit,
            score_seconds: scored.score_seconds,
            detector: Some(to_json(&method.detector)?),
            search,
            control: false,
        })
    }

    /// A method's scores on these sets, from disk if they were computed before.
    pub(super) fn scores(
        &mut self,
        method: &Method,
        subject: &Subject<'_>,
        sets: &[Arc<LoadedSet>],
        banks: &[Bank],
    ) -> Result<Scored> {
        let place = Place::of(method, subject)?;
        let (root, environment) = (self.context.store.root().to_owned(), self.environment.clone());
        let banks = sets.iter().zip(banks).map(|(set, bank)| self.with_second(method, subject, (set, bank.clone())));
        let banks = banks.collect::<Result<Vec<_>>>()?;
        let scored = Keeper::open(&root, &place, &environment)?.score(sets, &banks, || {
            let scratch = root.join(&place.folder).join("fit");
            self.fit(method, subject, &place, Some(&scratch))
        })?;
        self.scored_on.extend(scored.environments.iter().cloned());
        Ok(scored)
    }

    /// Fits a detector, on the train images if it learns from them; `scratch` is where an interrupted fit goes on from.
    pub(super) fn fit(
        &mut self,
        method: &Method,
        subject: &Subject<'_>,
        place: &Place,
        scratch: Option<&Path>,
    ) -> Result<Box<dyn Scorer>> {
        let detector = method.detector.build();
        let learns = detector.learns() != Learns::Nothing;
        let train = if learns { Some(self.train_bank(method, subject)?) } else { None };
        let (head, memory) = (subject.head(), subject.settings.fit_memory << 20);
        let device = Some(&self.context.device);
        let fit = Fit { train: train.as_ref(), head: head.as_ref(), memory, scratch, device };
        detector.fit(&fit).map_err(|error| place.name(error))
    }
}

/// The measures of the columns with a rate, in both conventions: a figure is by that of the first table.
pub(super) fn asked_for(experiment: &config::Experiment) -> Vec<Measure> {
    let sweeps = experiment.figures.iter().filter_map(|figure| match figure {
        Figure::Sweep(sweep) => Some(&sweep.columns),
        _ => None,
    });
    let columns = experiment.tables.iter().map(|table| &table.columns).chain(sweeps).flatten();
    let rates: BTreeSet<Tpr> =
        columns.clone().filter_map(|column| if let Column::FprAt(tpr) = column { Some(*tpr) } else { None }).collect();
    let conventions = [Protocol::IdPositiveClosest, Protocol::OodPositiveFirst];
    let limits: BTreeSet<Tpr> = columns
        .clone()
        .filter_map(|column| if let Column::ProAt(limit) = column { Some(*limit) } else { None })
        .collect();
    let limits = limits.into_iter().map(measures::pro_at);
    rates
        .into_iter()
        .flat_map(|tpr| conventions.map(|convention| measures::fpr_at(tpr, convention)))
        .chain(limits)
        .collect()
}

/// What the detector said, without the place, which is a path of this machine.
fn said(error: &Error) -> String {
    if let Error::Unfit { cause, .. } = error { cause.to_string() } else { error.to_string() }
}

/// The record of a network, or of an ensemble.
fn network_result(subject: &Subject<'_>, measures: Measures) -> NetworkResult {
    let (members, count) = (&subject.members, subject.members.len());
    let records = || members.iter().map(|member| &member.trained.record);
    let losses: Option<Vec<f64>> = records().map(|record| record.final_loss).collect();
    NetworkResult {
        folder: members[0].node.folder(),
        members: if subject.ensemble {
            members.iter().map(|member| member.node.folder()).collect()
        } else {
            Vec::new()
        },
        measures,
        confusion: None,
        views: None,
        steps: records().map(|record| record.steps).sum(),
        final_loss: losses.map(|losses| losses.iter().sum::<f64>() / count as f64),
        train_seconds: records().map(|record| record.train_seconds).sum(),
        parameters: records().map(|record| record.parameters).sum(),
        environment: Environment::of(records().map(|record| &record.environment)),
    }
}
