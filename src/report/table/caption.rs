//! The sentences and footnotes under a table that its reader needs.

use super::{Builder, Row, plan::Slice};
use crate::{
    config::{Over, Sampling, expect::MEAN},
    metrics::{self, Column, Protocol, Unit},
    report::{chosen, controls, fits, pixels, remarks},
    run::results::{DatasetRecord, Environment, Results},
};

impl<'a> Builder<'a> {
    pub(super) fn caption(&self, rows: &[Row], compared: bool) -> Vec<String> {
        let Self { table, results, sets, .. } = self;
        let mut caption = Vec::new();
        let seeds = self.seeds();
        let listed = seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let spread = match (table.sampled(), seeds.len()) {
            (Sampling::Full | Sampling::FullSpectrum, 0 | 1) => format!("one seed ({listed}), so no ±"),
            (Sampling::Full | Sampling::FullSpectrum, n) => {
                format!("mean ± population standard deviation over n = {n} seeds ({listed})")
            }
            (Sampling::Redraw, 0 | 1) => {
                let draws =
                    rows.iter().flat_map(|row| &row.cells).filter_map(|cell| cell.ours).map(|ours| ours.n).max();
                let mean = if table.rows.are_sets() || table.over != Over::Each {
                    "; a mean over OOD sets has no ±"
                } else {
                    ""
                };
                match draws {
                    Some(n) if n > 1 => format!(
                        "mean ± population standard deviation over n = {n} random subsets of each OOD set, \
                         one seed ({listed}){mean}"
                    ),
                    _ => format!("mean over random subsets of each OOD set, one seed ({listed}){mean}"),
                }
            }
            (Sampling::Redraw, n) => format!(
                "mean ± population standard deviation over n = {n} seeds ({listed}) of the mean over random subsets \
                 of each OOD set"
            ),
        };
        let unit = |column: &Column| metrics::measure_for(*column, table.protocol).map(|measure| measure.unit);
        let gaps = table.columns.iter().any(|column| unit(column) != Some(Unit::Share));
        let unit = match gaps {
            true => "Percent, but for the gap",
            false => "Percent",
        };
        caption.push(format!("{unit}; {spread}."));
        caption.extend(remarks::same_with_every_seed(&self.variants));
        if gaps {
            caption.push("Gap: the mean OOD score less the mean ID score, in the score's unit.".to_owned());
        }
        if table.columns.contains(&Column::GapSd) {
            caption.push("Gap/SD: the gap in population standard deviations of the ID scores.".to_owned());
        }
        if table.rows.are_sets() || table.over == Over::Group {
            for (group, sets) in &self.groups {
                caption.push(format!("Mean of {group}: unweighted, over {}.", counted(sets)));
            }
        }
        let whole = table.rows.are_sets() && table.protocol != Protocol::OpenoodV15;
        if sets.len() > 1 && (whole || !table.rows.are_sets() && table.over == Over::OodMean) {
            let of = if results.has_categories() { "Mean over categories" } else { "OOD mean" };
            caption.push(format!("{of}: unweighted, over {}.", counted(sets)));
        }
        if table.intervals {
            caption.push("In brackets: the 95 % interval over test images, of single OOD sets.".to_owned());
            caption.push(
                "AUROC's is by DeLong's variance, FPR's by a bootstrap (1,000 resamples, percentiles).".to_owned(),
            );
            if seeds.len() > 1 {
                caption.push("Each end of an interval is the mean over seeds.".to_owned());
            }
        }
        if table.columns.iter().any(|column| !column.is_of_classes()) {
            let by_protocol = |column: &Column| {
                use Column::{Aupr, AuprIn, AuprOut, Fpr95, FprAt};
                matches!(column, Fpr95 | FprAt(_) | Aupr | AuprIn | AuprOut)
            };
            if !results.has_categories() || table.columns.iter().any(by_protocol) {
                caption.push(protocol(table.protocol).to_owned());
            }
            caption.extend(pixels::lines(table, &self.variants, results));
            caption.extend(fits::lines(&self.variants));
            caption.extend(chosen::line(&self.variants, results));
            caption.extend(controls::lines(table, &self.variants, sets));
        }
        let data: Vec<_> = results.datasets.iter().map(|(name, record)| describe(name, record)).collect();
        if results.has_categories() {
            caption.push("Each category has its own normal train images.".to_owned());
            caption.extend(data.into_iter().map(|category| format!("Category {category}.")));
        } else if let Some((id, ood)) = data.split_first() {
            caption.push(format!("In-distribution: {id}."));
            if table.sampled() == Sampling::FullSpectrum {
                let shifted: Vec<_> = results.shifted.iter().map(|(name, record)| describe(name, record)).collect();
                let shifted = shifted.join("; ");
                caption.push(format!("Covariate-shifted, counted as in-distribution but for accuracy: {shifted}."));
            }
            caption.push(format!("Out-of-distribution: {}.", ood.join("; ")));
        }
        if table.columns.contains(&Column::Accuracy) {
            caption.extend(remarks::largest_class(results));
        }
        if table.columns.iter().any(|column| column.is_of_classes()) {
            caption.extend(remarks::views(results));
        }
        if let Some(outliers) = &results.outliers {
            let parts = [Some(part(outliers.images, outliers.full, "train")), outliers.note.clone()];
            let parts = joined(parts).unwrap_or_default();
            caption.push(format!("Auxiliary outliers, learned from: {} ({parts}).", outliers.name));
        }
        if let Some(paper) = self.paper.as_ref().filter(|_| compared) {
            caption.push(format!("Paper: {}; difference = ours − paper.", paper.source()));
        }
        if !results.overrides.is_empty() {
            // Typed by hand: nothing checked that it stays in its line.
            let changed = results.overrides.join(", ").replace(char::is_control, " ");
            caption.push(format!("Changed on the command line: {changed}."));
        }
        caption.push(environments(results));
        caption
    }

    /// The footnotes that numbers on these OOD sets need beside a paper's.
    pub(super) fn not_the_papers(&mut self, sets: &[&str]) -> Vec<usize> {
        let records = &self.results.datasets;
        let id = records.first().map(|(name, _)| name.as_str());
        let known = id.into_iter().chain(sets.iter().copied());
        let scored = known.filter_map(|name| Some((name.to_owned(), departure(records.get(name)?)?)));
        let outliers = self.results.outliers.iter().filter_map(|record| {
            let parts = [other(record.images, record.full, "train"), record.note.clone()];
            Some((format!("the auxiliary outliers' {}", record.name), joined(parts)?))
        });
        let found: Vec<(String, String)> = scored.chain(outliers).collect();
        let notes = found.into_iter().map(|(name, difference)| format!("not the paper's data: {name} is {difference}"));
        notes.map(|note| self.note(note)).collect()
    }

    /// The footnote that our mean needs beside a paper's, unless both are over the same sets.
    pub(super) fn not_the_papers_mean(&mut self, slice: Slice<'a>) -> Option<usize> {
        let paper = self.paper.as_ref()?;
        let ours = self.sets_of(slice);
        let (same, theirs): (bool, Vec<&str>) = if let Slice::Group(group) = slice {
            let theirs: Vec<&str> = paper.group(group).iter().map(String::as_str).collect();
            (theirs.len() == ours.len() && theirs.iter().all(|set| ours.contains(set)), theirs)
        } else if self.table.rows.are_sets() {
            // The CSV's other rows are the paper's sets.
            let theirs = paper.others(paper.row(&[MEAN.to_owned()])?);
            let ours: Vec<_> = self.sets.iter().map(|set| paper.row(&[(*set).to_owned()])).collect();
            (theirs.len() == ours.len() && theirs.iter().all(|set| ours.contains(&Some(set))), theirs)
        } else {
            let theirs: Vec<&str> = paper.sets().iter().map(String::as_str).collect();
            (theirs.len() == self.sets.len() && theirs.iter().all(|set| self.sets.contains(set)), theirs)
        };
        let of = |sets: &[&str]| match sets.len() {
            0 => "unstated sets".to_owned(),
            n => format!("{n} ({})", sets.join(", ")),
        };
        let note = format!("not the paper's mean: over {}, the paper's over {}", of(&ours), of(&theirs));
        (!same).then(|| self.note(note))
    }
}

/// How a data set departs from the complete, original one.
fn departure(record: &DatasetRecord) -> Option<String> {
    let train = record.train.and_then(|train| other(train, record.train_full, "train"));
    joined([train, other(record.test, record.test_full, "test"), record.note.clone()])
}

/// How so many images are not the complete set.
fn other(used: usize, full: Option<usize>, of: &str) -> Option<String> {
    match full? {
        full if used < full => Some(format!("a subset of {used} of {full} {of} images")),
        full if used > full => Some(format!("a set of {used} {of} images (the complete set has {full})")),
        _ => None,
    }
}

fn joined(parts: impl IntoIterator<Item = Option<String>>) -> Option<String> {
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn part(used: usize, full: Option<usize>, of: &str) -> String {
    match full {
        Some(full) if full == used => format!("all {used} {of} images"),
        Some(full) if used < full => format!("subset of {used} of {full} {of} images"),
        Some(full) => format!("{used} {of} images (the complete set has {full})"),
        None => format!("{used} {of} images"),
    }
}

/// `2 sets (svhn, textures)`
fn counted(sets: &[&str]) -> String {
    let plural = if sets.len() == 1 { "" } else { "s" };
    format!("{} set{plural} ({})", sets.len(), sets.join(", "))
}

fn describe(name: &str, record: &DatasetRecord) -> String {
    let train = record.train.map(|used| part(used, record.train_full, "train"));
    let kinds = (!record.kinds.is_empty()).then(|| {
        let normal = record.kinds.values().next().map_or(0, |kind| kind.images);
        format!("{normal} of them normal")
    });
    let parts = [train, Some(part(record.test, record.test_full, "test")), kinds, record.note.clone()];
    format!("{name} ({})", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

/// What made the numbers: one line for training and scoring if they are the same.
fn environments(results: &Results) -> String {
    let words = |environment: &Environment| {
        format!("oodkit {}, commit {}, {}", environment.oodkit, environment.commit, environment.device)
    };
    let scored = &results.environment;
    let networks = results.tasks().flat_map(|task| task.networks.values());
    let mut trained: Vec<&Environment> = Vec::new();
    for network in networks {
        let known = |other: &&Environment| {
            (&other.commit, &other.device) == (&network.environment.commit, &network.environment.device)
        };
        if !trained.iter().any(known) {
            trained.push(&network.environment);
        }
    }
    if trained.iter().all(|trained| (&trained.commit, &trained.device) == (&scored.commit, &scored.device)) {
        return format!("{}.", words(scored));
    }
    let trained: Vec<String> = trained.into_iter().map(words).collect();
    format!("Trained: {}. Scored: {}.", trained.join("; "), words(scored))
}

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::IdPositiveClosest => {
            "Protocol id_positive_closest: ID is positive; FPR95 at the threshold whose true positive rate is closest to \
             95 %; AUPR by average precision."
        }
        Protocol::OodPositiveFirst => {
            "Protocol ood_positive_first: OOD is positive; FPR95 at the first threshold whose true positive rate is at \
             least 95 %; AUPR by trapezoid."
        }
        Protocol::EnergyOod => {
            "Protocol energy_ood: ten random subsets of each OOD set with a fifth as many images as the ID set; ID is \
             positive; FPR95 at the threshold whose true positive rate is closest to 95 %; AUPR by average precision."
        }
        Protocol::OpenoodV15 => {
            "Protocol openood_v1_5: complete OOD sets, averaged by group; OOD is positive; FPR95 at the first threshold \
             whose true positive rate is at least 95 %; AUPR by trapezoid."
        }
    }
}
