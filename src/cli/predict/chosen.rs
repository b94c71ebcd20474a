//! The method that scores new images, and its threshold.

use std::fmt::Write as _;

use indexmap::IndexSet;
use oodkit::{
    Error, Result,
    config::Method,
    detectors::DetectorConfig,
    did_you_mean, metrics,
    report::{
        table::two_decimals,
        variants::{self, Variant},
    },
    run::{
        plan::Task,
        predict::{Answers, HeldOut},
        results::{MethodResult, Results, SeedResult},
    },
};

use super::{Predict, QUANTILE, TPR};
use crate::cli::Opened;

/// What scores, and from which score on an image is OOD.
pub struct Chosen<'a> {
    pub variant: Variant<'a>,
    pub task: &'a Task,
    pub seed: u64,
    pub method: Method,
    pub rule: Rule,
}

/// Where the threshold comes from.
pub enum Rule {
    /// It is known before anything is scored; in words.
    Known { threshold: f64, words: String },
    /// It is this quantile of held-out images' scores.
    HeldOut(f64),
}

/// From where on something is anomalous.
pub struct Decision {
    /// Of an image's score.
    pub threshold: f64,
    /// Of a map's pixels.
    pub pixel: f64,
    /// Where the threshold comes from.
    pub words: String,
}

impl Rule {
    pub fn decision(&self, answers: &Answers) -> Decision {
        match (self, &answers.held_out) {
            (Self::Known { threshold, words }, _) => {
                Decision { threshold: *threshold, pixel: *threshold, words: words.clone() }
            }
            (Self::HeldOut(_), Some(held_out)) => {
                let HeldOut { quantile, images, of, threshold, fitted, .. } = held_out;
                let by = if *fitted { ", by a fit to the others" } else { "; the detector learns from no image" };
                let mut words = format!(
                    "{threshold} is the {quantile} quantile of {images} train images that were held out of {of}{by}"
                );
                if let Some(needed) = enough(*quantile).filter(|needed| images < needed) {
                    let _ = write!(words, ". It is the largest of {images}: {quantile} needs {needed} held-out images");
                }
                if held_out.trained_on {
                    words.push_str(". The network itself was trained on them, so it may know them too well");
                }
                let pixel = held_out.pixel.unwrap_or(held_out.threshold);
                Decision { threshold: held_out.threshold, pixel, words }
            }
            (Self::HeldOut(quantile), None) => {
                let words = format!("no image was held out for the {quantile} quantile");
                Decision { threshold: f64::INFINITY, pixel: f64::INFINITY, words }
            }
        }
    }
}

/// How many images there must be so that a quantile of them is not always the largest: 1 / (1 − quantile). `None` for 1, which is the
/// largest by its meaning.
fn enough(quantile: f64) -> Option<usize> {
    // 1 / (1 − 0.99) is 100 + 9e-14 in f64.
    (quantile < 1.0).then(|| ((1.0 / (1.0 - quantile)) * (1.0 - 1e-9)).ceil() as usize)
}

impl<'a> Chosen<'a> {
    pub fn of(results: &'a Results, opened: &'a Opened, arguments: &Predict) -> Result<Self> {
        let wanted = &arguments.method;
        if let Some(cell) = &arguments.cell {
            let cells: Vec<&str> = results.cells.iter().map(|cell| cell.name.as_str()).collect();
            if !cells.contains(&cell.as_str()) {
                let near = did_you_mean(cell, cells.iter().copied());
                let message = format!("--cell {cell}: {} has no such cell{near}", opened.plan.name);
                return Err(Error::input(message).hint(format!("its cells are {}", cells.join(", "))));
            }
        }
        let controls = results.controls();
        let names = results.tasks().flat_map(|task| task.methods.keys()).map(String::as_str);
        let names: IndexSet<&str> = names.filter(|name| !controls.contains(name)).collect();
        let all = || names.iter().flat_map(|name| variants::of_method(results, name));
        let in_cell = |variant: &Variant<'_>| {
            arguments.cell.as_ref().is_none_or(|cell| !variant.swept || variant.cell.name == *cell)
        };
        let labelled = all().find(|variant| variant.swept && variant.label() == *wanted && in_cell(variant));
        let named = || all().filter(|variant| variant.name == wanted && in_cell(variant)).collect();
        let variant = labelled.or_else(|| variants::representative(named())).ok_or_else(|| {
            let control = controls.iter().any(|name| {
                wanted == name || variants::of_method(results, name).iter().any(|variant| variant.label() == *wanted)
            });
            let message = match control {
                true => format!(
                    "--method {wanted}: a control row, which is a statistic of images and no method to predict with"
                ),
                false => {
                    let near = did_you_mean(wanted, names.iter().copied());
                    format!("--method {wanted}: {} has no such method{near}", opened.plan.name)
                }
            };
            Error::input(message)
                .hint(format!("its methods are {}", names.iter().copied().collect::<Vec<_>>().join(", ")))
        })?;
        let gone = || Error::input(format!("{} has no method \"{}\" any more", opened.plan.name, variant.name));
        let cell = opened.plan.cells.iter().find(|cell| cell.name == variant.cell.name).ok_or_else(gone)?;
        let task = cell.task(arguments.task.as_deref()).map_err(|error| error.at("--task"))?;
        let of_task = |seed: &'a SeedResult| Some((seed.seed, seed.tasks.get(task.name())?.methods.get(variant.name)?));
        let scored: Vec<(u64, &MethodResult)> = variant.cell.seeds.iter().filter_map(of_task).collect();
        let found = scored.iter().find(|(seed, _)| arguments.seed.is_none_or(|wanted| wanted == *seed));
        let (seed, result) = *found.ok_or_else(|| {
            let seeds = scored.iter().map(|(seed, _)| seed.to_string()).collect::<Vec<_>>().join(", ");
            Error::input(format!("--seed {}: not a seed of the results", arguments.seed.unwrap_or_default()))
                .hint(format!("their seeds are {seeds}"))
        })?;
        // With the settings that it scored with: a search may have chosen them.
        let method = cell.experiment.methods().into_iter().find(|method| method.name == variant.name);
        let mut method = method.ok_or_else(gone)?;
        if let Some(settings) = &result.detector {
            let unusable = |error| Error::input(format!("the settings of {wanted} in results.json: {error}"));
            method.detector = serde_json::from_value::<DetectorConfig>(settings.clone()).map_err(unusable)?;
        }
        let by_test_images = arguments.tpr.is_some() || arguments.threshold.is_some();
        let usual = method.detector.post().filter(|_| !by_test_images).map(|_| QUANTILE);
        if let Some(quantile) = arguments.quantile.or(usual) {
            return Ok(Self { variant, task, seed, method, rule: Rule::HeldOut(quantile) });
        }
        let tpr = arguments.tpr.unwrap_or(TPR);
        let id = task.name();
        let path = result.scores.get(id);
        let path = path.ok_or_else(|| Error::input(format!("the results name no ID scores of {wanted}")))?;
        let scores = metrics::read_scores(&opened.store.root().join(path))?;
        let recorded = || result.thresholds.get(&tpr.to_string()).copied();
        let threshold =
            arguments.threshold.or_else(recorded).or_else(|| metrics::threshold(&scores, tpr)).unwrap_or_default();
        let accepted = scores.iter().filter(|score| **score <= threshold).count();
        let words = format!(
            "{threshold} accepts {} % of the {} ID test images ({id})",
            two_decimals(100.0 * accepted as f64 / scores.len() as f64),
            scores.len()
        );
        Ok(Self { variant, task, seed, method, rule: Rule::Known { threshold, words } })
    }
}
