//! What results record of the image sets.

use indexmap::IndexMap;

use crate::{
    Error, Result,
    config::sweep::FOLD,
    data::{self, Masks},
    run::{
        execute::Runner,
        plan::Node,
        results::{DatasetRecord, KindRecord, OutliersRecord},
        sets::LoadedSet,
    },
};

impl Runner<'_> {
    /// What the networks learned from beside the ID images, which must be one and the same.
    pub(super) fn outliers_record(&self) -> Result<Option<OutliersRecord>> {
        let mut found: Option<(&Node, OutliersRecord)> = None;
        for node in &self.plan.nodes {
            let Some(record) = self.context.store.record(node)?.outliers else { continue };
            match &found {
                Some((other, known)) if known.sha256 != record.sha256 => {
                    let [one, two] = [other, node].map(|node| self.context.store.folder(node));
                    return Err(Error::input(format!(
                        "{} and {} learned from other images of \"{}\": its files have changed in between",
                        one.display(),
                        two.display(),
                        record.name
                    ))
                    .hint("remove one of them to train it anew"));
                }
                Some(_) => {}
                None => found = Some((node, record)),
            }
        }
        Ok(found.map(|(_, record)| record))
    }

    pub(super) fn dataset_records(&mut self) -> Result<IndexMap<String, DatasetRecord>> {
        if self.plan.experiment.data.has_categories() {
            return self.category_records();
        }
        let trained = self.plan.nodes.iter().filter(|node| !node.shared).map(|node| self.context.store.record(node));
        let trained = trained.collect::<Result<Vec<_>>>()?.into_iter().find(|record| record.train_sha256.is_some());
        let mut sets = self.test_sets(&self.plan.experiment.data)?;
        sets.truncate(1 + self.plan.experiment.data.ood_sets().len());
        let group = |name: &str| {
            let set = self.plan.experiment.data.ood.iter().find(|set| set.name == name)?;
            set.group.clone()
        };
        let records = sets.iter().enumerate().map(|(position, set)| {
            // Only the ID set is learned from.
            let trained = trained.as_ref().filter(|_| position == 0);
            let record = DatasetRecord {
                class_sizes: if position == 0 { set.images.class_sizes() } else { Vec::new() },
                classes: if position == 0 { self.class_names(set) } else { Vec::new() },
                train: trained.map(|record| record.train_images),
                train_full: trained.and_then(|record| record.train_full),
                group: group(&set.images.name),
                ..DatasetRecord::of(set)
            };
            let computed = trained.and_then(|record| record.normalisation.as_ref());
            let computed = computed.map(|computed| format!("{} of its train images", computed.in_words()));
            let swept = position == 0 && self.plan.experiment.sweep.contains_key(FOLD);
            let folds = swept.then(|| "each cell tests on its own fold, and the numbers are those of one".to_owned());
            let notes: Vec<String> = record.note.iter().cloned().chain(computed).chain(folds).collect();
            let record = DatasetRecord { note: (!notes.is_empty()).then(|| notes.join(", ")), ..record };
            (set.images.name.clone(), record)
        });
        Ok(records.collect())
    }

    /// A record for each category, with its test sets in it.
    fn category_records(&mut self) -> Result<IndexMap<String, DatasetRecord>> {
        let plan = self.plan;
        let mut records = IndexMap::new();
        for task in plan.cells.iter().flat_map(|cell| &cell.tasks) {
            if records.contains_key(task.name()) {
                continue;
            }
            let data = &task.experiment.data;
            let (train, sets) = (self.train_images(&data.id)?, self.test_sets(data)?);
            let kinds = sets.iter().map(|set| {
                let masks = set.images.masks.as_ref();
                let record = KindRecord {
                    images: set.images.len(),
                    full: set.images.full_size,
                    unmarked: masks.map(Masks::empty),
                    sha256: set.sha256.clone(),
                    masks_sha256: set.masks_sha256.clone(),
                };
                (set.images.name.clone(), record)
            });
            let record = DatasetRecord {
                train: Some(train.images.len()),
                train_full: train.images.full_size,
                test: sets.iter().map(|set| set.images.len()).sum(),
                test_full: sets.iter().map(|set| set.images.full_size).sum(),
                kinds: kinds.collect(),
                // Each kind has its own.
                unmarked: None,
                masks_sha256: None,
                ..DatasetRecord::of(&sets[0])
            };
            records.insert(task.name().to_owned(), record);
        }
        Ok(records)
    }

    /// The names of the ID set's classes, if each has one.
    fn class_names(&self, id: &LoadedSet) -> Vec<String> {
        let names = data::class_names(&self.plan.experiment.data.id, &self.context.data);
        names.filter(|names| names.len() == id.images.classes).unwrap_or_default()
    }

    /// Of the covariate-shifted ID sets.
    pub(super) fn shifted_records(&mut self) -> Result<IndexMap<String, DatasetRecord>> {
        if self.plan.experiment.data.has_categories() {
            return Ok(IndexMap::new());
        }
        let sets = self.test_sets(&self.plan.experiment.data)?;
        let shifted = &sets[1 + self.plan.experiment.data.ood_sets().len()..];
        Ok(shifted.iter().map(|set| (set.images.name.clone(), DatasetRecord::of(set))).collect())
    }

    /// Of the sets that settings are chosen on, if any are.
    pub(super) fn validation_records(&mut self) -> Result<IndexMap<String, DatasetRecord>> {
        let searched = self.plan.experiment.methods().iter().any(|method| !method.search.is_empty());
        let sets = if searched { self.validation_sets(&self.plan.experiment.data)? } else { Vec::new() };
        Ok(sets.iter().map(|set| (set.images.name.clone(), DatasetRecord::of(set))).collect())
    }
}

impl DatasetRecord {
    /// Of a test set.
    fn of(set: &LoadedSet) -> Self {
        Self {
            train: None,
            train_full: None,
            test: set.images.len(),
            test_full: set.images.full_size,
            note: set.images.note.clone(),
            group: None,
            made_of: set.made_of.clone(),
            class_sizes: Vec::new(),
            classes: Vec::new(),
            kinds: IndexMap::new(),
            unmarked: set.images.masks.as_ref().map(Masks::empty),
            masks_sha256: set.masks_sha256.clone(),
            sha256: set.sha256.clone(),
        }
    }
}
