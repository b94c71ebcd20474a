//! A plan in words.

use std::{fmt::Write as _, path::Path};

use indexmap::IndexMap;

use super::{Node, Plan, Task, images, pools::Counts};
use crate::{
    Error,
    config::search::HeldOut,
    data::{self, Split, batches::in_rounds, enlarged::an_epoch, given_normalisation},
    detectors::Second,
    run::{
        ready::data_problems,
        store::{Progress, Store},
    },
    train::Train,
};

impl Plan {
    /// The graph and what of it is done, for people. With the data root, also what of the data is missing there.
    pub fn describe(&self, store: &Store, data: Option<&Path>) -> String {
        let mut text = format!("{}: {}\n", self.name, self.experiment.title);
        let cells: Vec<&str> = self.cells.iter().map(|cell| cell.name.as_str()).collect();
        let seeds: Vec<String> = self.experiment.seeds.iter().map(u64::to_string).collect();
        let id = &self.experiment.data.id;
        for (name, anomalous) in self.tasks() {
            let against =
                if anomalous.is_empty() { String::new() } else { format!(" against {}", anomalous.join(", ")) };
            let _ = writeln!(text, "data     {name}{against}");
        }
        let by_data =
            (self.nodes.iter()).any(|node| node.normalisation.is_none() && node.model.normalisation(1).is_none());
        if by_data && given_normalisation(id).is_ok_and(|given| given.is_none()) {
            let _ = writeln!(text, "         normalised by the mean and std of its train images, which are computed");
        }
        if !self.experiment.data.shifted.is_empty() {
            let shifted: Vec<&str> = self.experiment.data.shifted.iter().map(|set| set.name.as_str()).collect();
            let _ = writeln!(text, "shifted  {}, covariate-shifted ID", shifted.join(", "));
        }
        let _ = writeln!(text, "images   {}", self.images(data));
        if let Some(outliers) = &self.experiment.data.outliers {
            let _ = writeln!(text, "outliers {} to learn from", outliers.name);
        }
        if let Some(validation) = &self.experiment.data.validation {
            let id = match &validation.id {
                HeldOut::Images(count) => format!("{count} test images of {}", self.experiment.data.id.name),
                HeldOut::Set(set) => set.name.clone(),
                HeldOut::Val(_) => format!("the val/ images of {}", self.experiment.data.id.name),
            };
            let mut ood: Vec<String> = validation.ood.iter().map(|set| set.name.clone()).collect();
            let source = validation.made_of.as_ref().map_or("these", |set| &set.name);
            ood.extend(validation.made.iter().map(|made| format!("{made} of {source}")));
            let _ = writeln!(text, "chosen   on {id} against {}, where settings are searched", ood.join(", "));
        }
        for problem in data.map(|data| data_problems(self, store, data)).into_iter().flatten() {
            let hint = match &problem {
                Error::Input { hint: Some(hint), .. } => format!(" ({hint})"),
                _ => String::new(),
            };
            let _ = writeln!(text, "missing  {problem}{hint}");
        }
        let _ = writeln!(text, "cells    {}", cells.join(", "));
        let _ = writeln!(text, "seeds    {}", seeds.join(", "));
        let methods: Vec<String> = self.experiment.methods().into_iter().map(|method| method.name).collect();
        let _ = writeln!(text, "methods  {}", methods.join(", "));
        for method in self.experiment.methods() {
            if let Some(Second { key, network: Some(second), .. }) = method.detector.detector().second() {
                let _ = writeln!(text, "reads    {}: {}, and {second} as its {key}", method.name, method.network);
            }
        }
        for (network, names) in self.experiment.excepted() {
            let _ = writeln!(text, "without  {} on {network}: the file excepts it", names.join(", "));
        }
        for left in self.experiment.left_out() {
            let _ = writeln!(text, "without  {} on {}: {}", left.detectors.join(", "), left.network, left.why);
        }
        let _ = writeln!(text, "networks");
        let mut left = 0;
        for (index, node) in self.nodes.iter().enumerate() {
            let progress = store.progress(node);
            let state = match (progress, &node.train) {
                (Progress::Done, _) => "done",
                (Progress::Partial, _) => "to be continued",
                (Progress::Missing, Some(_)) => "to do",
                // Its weights are read and kept as they are.
                (Progress::Missing, None) => "to store",
            };
            left += usize::from(progress != Progress::Done && node.train.is_some());
            let from = node.upstream.map(|upstream| format!(" from #{upstream}")).unwrap_or_default();
            let _ = writeln!(
                text,
                "  #{index:<3} {:<16} seed {:<4} {:<32} {}{from}",
                state,
                node.seed,
                self.uses(node),
                node.folder().display()
            );
        }
        let mut counts = Counts::below(data);
        let _ = writeln!(text, "{} networks, {} to train{}", self.nodes.len(), left, self.cost(store, &mut counts));
        for line in self.pools(store, &mut counts) {
            let _ = writeln!(text, "{line}");
        }
        for note in self.notes(store, data) {
            let _ = writeln!(text, "note     {note}");
        }
        text
    }

    /// The tasks of all cells by name, each once, with their anomalous sets.
    pub fn tasks(&self) -> IndexMap<&str, Vec<String>> {
        let tasks = self.cells.iter().flat_map(|cell| &cell.tasks);
        let sets = |task: &Task| task.experiment.data.ood_sets().into_iter().map(|set| set.name).collect();
        tasks.map(|task| (task.name(), sets(task))).collect()
    }

    /// Size and classes of the images that networks learn, as far as they are known without reading images.
    fn images(&self, data: Option<&Path>) -> String {
        let id = &self.experiment.data.id;
        if self.experiment.data.has_categories() {
            return self.images_of_categories(data);
        }
        let first = || data.and_then(|root| data::glance(id, Split::Train, root)).and_then(|(_, shape)| shape);
        let size = data::shape(id)
            .or_else(first)
            .map(|[channels, height, width]| format!("{channels}×{height}×{width} values"));
        let named = || data.and_then(|root| data::class_names(id, root)).map(|names| names.len());
        let classes =
            data::classes(id).or_else(named).filter(|classes| *classes > 0).map(|classes| format!("{classes} classes"));
        let counted = [(Split::Train, "to learn from"), (Split::Test, "to test on")];
        let counts = counted.map(|(split, what)| images(id, split, data).map(|count| format!("{count} {what}")));
        let known: Vec<String> = [size, classes].into_iter().chain(counts).flatten().collect();
        match known.is_empty() {
            true => "known when they are read".to_owned(),
            false => known.join(", "),
        }
    }

    /// The same of all categories together.
    fn images_of_categories(&self, root: Option<&Path>) -> String {
        let [height, width] = self.experiment.data.id.size.map_or([0, 0], data::Size::sides);
        let mut known = vec![format!("{height}×{width} pixels")];
        let mut counted: IndexMap<&str, [Option<usize>; 2]> = IndexMap::new();
        for task in self.cells.iter().flat_map(|cell| &cell.tasks) {
            let data = &task.experiment.data;
            counted.entry(task.name()).or_insert_with(|| {
                let tested: Option<usize> =
                    std::iter::once(&data.id).chain(&data.ood).map(|set| images(set, Split::Test, root)).sum();
                [images(&data.id, Split::Train, root), tested]
            });
        }
        for (which, what) in ["to learn from", "to test on"].into_iter().enumerate() {
            let all: Option<usize> = counted.values().map(|counts| counts[which]).sum();
            known.extend(all.map(|all| format!("{all} {what}")));
        }
        known.join(", ")
    }

    /// `: 1200000 images forward and backward, 800 optimiser steps`, where it is known for all networks that are not done.
    fn cost(&self, store: &Store, counts: &mut Counts<'_>) -> String {
        let of = |(node, train): (&Node, &Train)| images_and_steps(train, counts.of(&node.data));
        let costs: Option<Vec<(u64, u64)>> = self.to_train(store).map(of).collect();
        match costs {
            Some(costs) if !costs.is_empty() => {
                let [images, steps] =
                    [costs.iter().map(|cost| cost.0).sum::<u64>(), costs.iter().map(|cost| cost.1).sum()];
                format!(": {images} images forward and backward, {steps} optimiser steps at most")
            }
            _ => String::new(),
        }
    }

    /// `base`, or `tuned [weight=0.01]` where only some cells use the node under that name.
    pub fn uses(&self, node: &Node) -> String {
        let mut by_name: IndexMap<&str, Vec<&str>> = IndexMap::new();
        for (name, cell) in &node.uses {
            by_name.entry(name).or_default().push(cell);
        }
        let named = by_name.into_iter().map(|(name, cells)| match cells.len() == self.cells.len() {
            true => name.to_owned(),
            false => format!("{name} [{}]", cells.join("; ")),
        });
        named.collect::<Vec<_>>().join(", ")
    }
}

/// How many images a training passes forward and backward, in how many steps, at most, where it is known; of a set of `count` images.
pub(super) fn images_and_steps(train: &Train, count: Option<usize>) -> Option<(u64, u64)> {
    let batch = train.batch_size as u64;
    let epoch = |count: usize| an_epoch(count.saturating_sub(train.validation), train.outliers.as_ref()) as u64;
    let epoch = count.map(epoch);
    let whole = epoch.map(|count| match &train.reptile {
        None if train.drop_last => {
            let steps = count / batch * train.epochs as u64;
            (steps * batch, steps)
        }
        None => (count * train.epochs as u64, count.div_ceil(batch) * train.epochs as u64),
        // Every batch of a round is whole.
        Some(reptile) => {
            let steps = in_rounds(count.div_ceil(batch), reptile.inner_steps as u64) * train.epochs as u64;
            (steps * batch, steps)
        }
    });
    match (whole, train.max_steps.map(|steps| steps as u64)) {
        (Some((_, steps)), Some(most)) if steps > most => Some((most * batch, most)),
        (None, Some(most)) => Some((most * batch, most)),
        (whole, _) => whole,
    }
}
