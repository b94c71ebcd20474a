//! What must be there before any work starts: data, weights, a device that has the precision, and no test image among what is learned.

use std::{collections::BTreeSet, path::Path};

use crate::{
    Error, Result,
    config::HeldOut,
    data::{self, Copies, Dataset, Format, Split},
    nn::Precision,
    run::{
        execute::{Context, Runner},
        plan::{Node, Plan},
        published::Published,
        store::{Progress, Store},
    },
    say,
};

/// The nodes that are not done.
fn untrained<'a>(plan: &'a Plan, store: &Store) -> impl Iterator<Item = &'a Node> {
    plan.nodes.iter().filter(|node| store.progress(node) != Progress::Done)
}

/// What of the sets and weights that the plan will read is not there, or is not to be read together.
pub(super) fn data_problems(plan: &Plan, store: &Store, data: &Path) -> Vec<Error> {
    let trains = untrained(plan, store).next().is_some();
    let learns_outliers = untrained(plan, store).any(|node| node.outliers.is_some());
    let mut named = BTreeSet::new();
    let weights = untrained(plan, store).filter_map(|node| node.weights.as_ref());
    let weights = weights.filter(|weights| named.insert(&weights.path)).map(Published::check);
    if let Err(missing) = plan.experiment.data.check_categories(data) {
        return std::iter::once(Err(missing)).chain(weights).filter_map(Result::err).collect();
    }
    // A sweep may choose another fold; the files are the same for every cell.
    let sets = &plan.experiment.data;
    let id_splits: &[Split] = if trains { &[Split::Train, Split::Test] } else { &[Split::Test] };
    let ids: Vec<&Dataset> = match sets.has_categories() {
        true => plan.cells.iter().flat_map(|cell| &cell.tasks).map(|task| &task.experiment.data.id).collect(),
        false => vec![&sets.id],
    };
    // Detectors learn from a category's train images whether or not a network does.
    let id_splits = if sets.has_categories() { &[Split::Train, Split::Test] } else { id_splits };
    let id = ids.into_iter().map(|id| data::check(id, id_splits, data));
    let own = untrained(plan, store).filter(|node| node.shared && node.train.is_some());
    let own = own.map(|node| data::check(&node.data, &[Split::Train], data));
    let val = sets.validation.as_ref().filter(|validation| matches!(validation.id, HeldOut::Val(_)));
    let val = val.map_or(Ok(()), |_| data::check(&sets.id, &[Split::Val], data));
    let mut tested = sets.ood_sets();
    if sets.has_categories() {
        let tasks = plan.cells.iter().flat_map(|cell| &cell.tasks);
        for kind in tasks.flat_map(|task| &task.experiment.data.ood) {
            // A sweep may name a category several times.
            if !tested.contains(kind) {
                tested.push(kind.clone());
            }
        }
    }
    let ood = tested
        .iter()
        .chain(&sets.shifted)
        .chain(sets.validation_sets())
        .map(|set| data::check(set, &[Split::Test], data));
    let same = sets.ood.iter().map(|set| refuse_same(&sets.id, set, data));
    let outliers = sets.outliers.iter().flat_map(|set| {
        let there = if learns_outliers { data::check(set, &[Split::Train], data) } else { Ok(()) };
        [there, refuse_tested(set, &sets.ood, data)]
    });
    id.chain(own).chain([val]).chain(ood).chain(same).chain(outliers).chain(weights).filter_map(Result::err).collect()
}

/// Every set that the plan will read is there, or the error names all that are not.
pub(super) fn check_data(plan: &Plan, context: &Context) -> Result<()> {
    let mut problems = data_problems(plan, &context.store, &context.data);
    match problems.len() {
        0 => Ok(()),
        1 => Err(problems.remove(0)),
        _ => {
            let mut hints = Vec::new();
            let mut lines = Vec::new();
            for problem in problems {
                match problem {
                    Error::Input { message, hint } => {
                        lines.push(message);
                        hints.extend(hint);
                    }
                    other => return Err(other),
                }
            }
            hints.dedup();
            Err(Error::input(lines.join("\n")).hint(hints.join("\n      ")))
        }
    }
}

/// Refuses an OOD set whose files are the ID set's test images: nothing can be told from itself.
fn refuse_same(id: &Dataset, ood: &Dataset, root: &Path) -> Result<()> {
    let [one, two] = [id, ood].map(|set| data::pictures(set, Split::Test, root));
    match one.filter(|one| two.as_ref() == Some(one)) {
        None => Ok(()),
        Some(place) => Err(Error::input(format!(
            "data.ood: \"{}\" and the ID set \"{}\" are the same test images, in {}",
            ood.name,
            id.name,
            place.display()
        ))
        .hint("give the OOD set another `path`; in MVTec's layout, name the folder of an anomaly under `kind`")),
    }
}

/// Refuses outliers to learn from whose files an OOD set is tested on. Copies are found when they are read.
fn refuse_tested(outliers: &Dataset, ood: &[Dataset], root: &Path) -> Result<()> {
    let Some(learned) = data::pictures(outliers, Split::Train, root) else { return Ok(()) };
    for set in ood {
        if let Some(tested) = data::pictures(set, Split::Test, root)
            && (learned.starts_with(&tested) || tested.starts_with(&learned))
        {
            let (outliers, tested) = (&outliers.name, &set.name);
            return Err(Error::input(format!(
                "the auxiliary outliers \"{outliers}\" and the OOD set \"{tested}\" are the same pictures, in {}",
                learned.display()
            ))
            .hint("what a network learned cannot test it: leave the set out of `data.ood`, or give it a train/ and a test/ folder"));
        }
    }
    Ok(())
}

/// Tells what of the data of surfaces is not read, and which test images are train images as well: neither is an error, and both may be a
/// slip.
pub(super) fn tell_of_data(plan: &Plan, root: &Path) -> Result<()> {
    let mut told = BTreeSet::new();
    for task in plan.cells.iter().flat_map(|cell| &cell.tasks) {
        let data = &task.experiment.data;
        let tested: Vec<&Dataset> = std::iter::once(&data.id).chain(&data.ood).collect();
        let mut lines = Vec::new();
        for set in &tested {
            lines.extend(data::unread(set, root)?);
        }
        if data.id.format.is_some_and(Format::has_categories) {
            lines.extend(data::copies(&data.id, &tested, root)?.iter().map(|copies| in_words(copies, task.name())));
        }
        lines.into_iter().filter(|line| told.insert(line.clone())).for_each(say);
    }
    Ok(())
}

/// `nut, dent: 1 test image is a copy of a train image, test/dent/001.png of train/good/003.png`
fn in_words(Copies { set, count, first: [copy, train] }: &Copies, task: &str) -> String {
    let place = if set == task { task.to_owned() } else { format!("{task}, {set}") };
    match count {
        1 => format!("{place}: 1 test image is a copy of a train image, {copy} of {train}"),
        _ => format!("{place}: {count} test images are copies of train images, the first {copy} of {train}"),
    }
}

/// No network is to learn in a type that the device does not have.
pub(super) fn check_precision(plan: &Plan, context: &Context) -> Result<()> {
    let learns_in_bf16 = |node: &&Node| {
        node.train.as_ref().is_some_and(|train| train.precision == Precision::Bf16)
            && context.store.progress(node) != Progress::Done
    };
    match plan.nodes.iter().find(learns_in_bf16) {
        Some(node) if !context.device.is_cuda() => {
            let name = node.name();
            Err(Error::input(format!("networks.{name}.train.precision: bf16 needs a GPU, and this runs on the CPU"))
                .hint("use --device cuda (make exp=... device=cuda, which builds a program for it first), or precision: f32"))
        }
        _ => Ok(()),
    }
}

impl Runner<'_> {
    /// Refuses outliers that networks are still to learn from and an OOD set is tested on, copies included: a network that
    /// knows the answers is no test of how it tells what it does not know.
    pub(super) fn check_outliers(&mut self) -> Result<()> {
        let Some(dataset) = untrained(self.plan, &self.context.store).find_map(|node| node.outliers.as_ref()) else {
            return Ok(());
        };
        let tested = self.test_sets(&self.plan.experiment.data)?;
        let outliers = self.set(dataset, Split::Train, tested.first().map(|id| id.images.shape()))?;
        let digests = outliers.images.digests()?;
        let ood = self.plan.experiment.data.ood_sets().len();
        for (place, tested) in tested.iter().enumerate().skip(1) {
            let known = tested.images.distinct()?;
            let learned = digests.iter().filter(|digest| known.contains(*digest)).count();
            if learned > 0 {
                let (name, tested) = (&outliers.images.name, &tested.images.name);
                let kind = if place <= ood { "OOD set" } else { "covariate-shifted ID set" };
                return Err(Error::input(format!(
                    "{learned} of the auxiliary outliers \"{name}\" are test images of the {kind} \"{tested}\""
                ))
                .hint(
                    "what a network learned cannot test it: take these images out of one of the two sets, or leave one out",
                ));
            }
        }
        Ok(())
    }
}
