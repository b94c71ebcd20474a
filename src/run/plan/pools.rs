//! What is made of train images, and what is computed of them once: how much it is, in words. And what of a plan is likely to be a slip.

use std::path::Path;

use indexmap::{IndexMap, IndexSet};

use super::{Node, Plan, describe::images_and_steps, images};
use crate::{
    data::{self, Dataset, Split, augment::Augment, enlarged::Outliers},
    run::store::{Progress, Store},
    train::{MOST_FIXED_BYTES, Train},
};

/// How many images sets have to learn from, each set looked at once.
pub(super) struct Counts<'a> {
    root: Option<&'a Path>,
    known: Vec<(Dataset, Option<usize>)>,
}

impl<'a> Counts<'a> {
    pub(super) fn below(root: Option<&'a Path>) -> Self {
        Self { root, known: Vec::new() }
    }

    /// Train images of a set, where it is known without reading them.
    pub(super) fn of(&mut self, dataset: &Dataset) -> Option<usize> {
        if let Some((_, count)) = self.known.iter().find(|(known, _)| known == dataset) {
            return *count;
        }
        let count = images(dataset, Split::Train, self.root);
        self.known.push((dataset.clone(), count));
        count
    }
}

/// Train images that are repeated, and of which some are turned; for all networks with the same images, seed and makers.
#[derive(Default)]
struct Pool {
    /// Images, and entries of an epoch.
    images: usize,
    entries: usize,
    /// Entries that the largest share turns, and whether another leaves some normal.
    turned: usize,
    normal: bool,
    /// Bytes of an image, and of what is kept of one.
    bytes: usize,
    kept: usize,
}

impl Pool {
    fn of(made: Option<&Outliers>, images: usize, shape: [usize; 3], kept: usize) -> Self {
        let entries = data::enlarged::an_epoch(images, made);
        Self { images, entries, bytes: shape.into_iter().product(), kept, ..Self::default() }
    }

    /// Takes in another network's share.
    fn share(&mut self, share: f64) {
        self.turned = self.turned.max((share * self.entries as f64).round() as usize);
        self.normal |= share < 1.0;
    }

    /// Images that pass through what is frozen.
    fn passes(&self) -> usize {
        self.turned + if self.normal { self.images } else { 0 }
    }
}

/// Of one made image, by the makers' weights.
fn seconds(made: &Outliers, shape: [usize; 3]) -> f64 {
    let weights: f64 = made.make.iter().map(|maker| maker.weight()).sum();
    let seconds: f64 = made.make.iter().map(|maker| maker.weight() * maker.seconds(shape)).sum();
    if weights > 0.0 { seconds / weights } else { 0.0 }
}

/// `20 s`, `under a second`
fn duration(seconds: f64) -> String {
    if seconds < 1.0 { "under a second".to_owned() } else { format!("about {seconds:.0} s") }
}

impl Plan {
    /// The networks that are still to be trained, with their recipes.
    pub(super) fn to_train<'a>(&'a self, store: &'a Store) -> impl Iterator<Item = (&'a Node, &'a Train)> {
        let left = self.nodes.iter().filter(|node| store.progress(node) != Progress::Done);
        left.filter_map(|node| Some((node, node.train.as_ref()?)))
    }

    /// What is made of the images of networks that are still to be trained, and what is computed once.
    pub(super) fn pools(&self, store: &Store, counts: &mut Counts<'_>) -> Vec<String> {
        let (mut made, mut kept) = (IndexMap::<String, Pool>::new(), IndexMap::<String, Pool>::new());
        let mut makers = IndexSet::new();
        let (mut making, mut unknown) = (0.0, false);
        for (node, train) in self.to_train(store) {
            let outliers = train.outliers.as_ref();
            // Images that are changed at random, or auxiliary ones among them, never come again.
            let again = train.augment == Augment::default() && node.outliers.is_none();
            let fixed = node.model.fixed().filter(|_| again);
            if outliers.is_none() && fixed.is_none() {
                continue;
            }
            let shape = data::shape(&node.data).or_else(|| data::shape(&self.experiment.data.id));
            let (Some(images), Some(shape)) = (counts.of(&node.data), shape) else {
                unknown = true;
                continue;
            };
            let bytes = node.model.fixed_bytes([shape[1], shape[2]]).filter(|_| again);
            let pool = || Pool::of(outliers, images.saturating_sub(train.validation), shape, bytes.unwrap_or_default());
            let share = outliers.map_or(0.0, |outliers| outliers.share);
            let same = outliers.map(|outliers| Outliers { share: 0.0, ..outliers.clone() });
            let key = format!("{:?}", (&node.data, node.seed, train.validation, same));
            if let Some(outliers) = outliers {
                if let Some((passed, _)) = images_and_steps(train, Some(images)) {
                    making += passed as f64 * share * seconds(outliers, shape);
                }
                makers.extend(outliers.make.iter().filter(|maker| maker.weight() > 0.0).map(|maker| maker.name()));
                made.entry(key.clone()).or_insert_with(pool).share(share);
            }
            if bytes.is_some() {
                let with = (fixed, &node.weights, node.upstream, &node.normalisation);
                kept.entry(format!("{key} {with:?}")).or_insert_with(pool).share(share);
            }
        }
        let sum = |pools: &IndexMap<String, Pool>, of: fn(&Pool) -> usize| pools.values().map(of).sum::<usize>();
        let in_pools = |count: usize| if count == 1 { "one pool".to_owned() } else { format!("{count} pools") };
        // Of a set whose images are not counted nothing is known.
        let least = if unknown { "at least " } else { "" };
        let mut lines = Vec::new();
        let turned = sum(&made, |pool| pool.turned);
        if turned > 0 {
            let (entries, bytes) = (sum(&made, |pool| pool.entries), sum(&made, |pool| pool.turned * pool.bytes));
            let (pools, makers) = (in_pools(made.len()), makers.into_iter().collect::<Vec<_>>().join(", "));
            lines.push(format!(
                "made     {least}{turned} of {entries} images ({pools}, {}) by {makers}; not stored but made as they are needed, {} of one thread \
                 in all",
                data::size(bytes as u64),
                duration(making)
            ));
        }
        if !kept.is_empty() {
            let (passes, bytes) = (sum(&kept, Pool::passes), sum(&kept, |pool| pool.passes() * pool.kept));
            let (pools, most) = (in_pools(kept.len()), data::size(MOST_FIXED_BYTES as u64));
            let often = match bytes > MOST_FIXED_BYTES {
                true => format!("{most} of it are kept at a time, and what is not passes again"),
                false => "each passes once".to_owned(),
            };
            lines.push(format!(
                "kept     {least}{passes} images' outputs of frozen backbones ({pools}, {}): {often}",
                data::size(bytes as u64)
            ));
        }
        lines
    }

    /// What is no error, and likely to be a slip, of the networks that are still to be trained; `root` is the data root.
    pub fn notes(&self, store: &Store, root: Option<&Path>) -> IndexSet<String> {
        let mut counts = Counts::below(root);
        let mut notes = IndexSet::new();
        for (node, train) in self.to_train(store) {
            let name = node.name();
            if let Some(frozen) = node.model.frozen().filter(|_| node.weights.is_none() && node.upstream.is_none()) {
                notes.insert(format!("networks.{name}: no weights are given, and {frozen}"));
            }
            let makers = train.outliers.iter().flat_map(|made| &made.make).filter(|maker| maker.weight() > 0.0);
            let others: Vec<&str> = makers.filter(|maker| maker.is_of_another()).map(|maker| maker.name()).collect();
            if !others.is_empty()
                && counts.of(&node.data).is_some_and(|count| count.saturating_sub(train.validation) == 1)
            {
                let (set, makers) = (&node.data.name, others.join(", "));
                notes.insert(format!(
                    "networks.{name}: \"{set}\" has one train image: {makers} paste from that image itself"
                ));
            }
        }
        notes
    }
}
