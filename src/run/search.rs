//! Choosing a detector's settings on validation images.
//!
//! Each combination is fitted and scored like any other method, on the validation sets' outputs, and its scores are kept: an
//! interrupted search goes on where it was. The sets that are reported on take no part. Combinations that are shown batches are fitted in
//! one pass over the train images ([`super::together`]).

use std::{cmp::Ordering, collections::BTreeSet, sync::Arc};

use indexmap::IndexMap;
use rand::seq::index;
use serde_json::Value;

use crate::{
    Error, Result,
    config::{
        self, Method,
        search::{By, HeldOut, combinations, in_words, with},
    },
    data::{Split, made::Distribution},
    detectors::{Bank, Scores},
    metrics::measures,
    rng,
    run::{
        execute::Runner,
        plan::to_json,
        results::{Combination, Search},
        scoring::{Keeper, Place},
        sets::LoadedSet,
        subject::Subject,
    },
};

/// The validation sets, the ID set first, and a network's outputs on them.
pub(super) struct Validation {
    pub(super) sets: Vec<Arc<LoadedSet>>,
    /// None before they are computed.
    pub(super) banks: Vec<Bank>,
    by: By,
}

impl Validation {
    /// How a combination does: the mean over the OOD sets, and each of them.
    fn measured(&self, scores: &[Scores]) -> Result<(f64, IndexMap<String, f64>)> {
        let id = scores[0].as_slice();
        let mut ood = IndexMap::new();
        for (set, scores) in self.sets.iter().zip(scores).skip(1) {
            let measures = measures::of_scores(id, scores.as_slice())?;
            let key = match self.by {
                By::Auroc => "auroc",
                By::Fpr95 => "fpr95_id_positive_closest",
            };
            ood.extend(measures.get(key).map(|value| (set.images.name.clone(), *value)));
        }
        Ok((ood.values().sum::<f64>() / ood.len() as f64, ood))
    }

    /// Keeps a combination with this mean if it does better than the best so far: of equals the first.
    fn keep_better(&self, best: &mut Option<(f64, Tried)>, mean: f64, tried: Tried) {
        let better = match self.by {
            By::Auroc => Ordering::Greater,
            By::Fpr95 => Ordering::Less,
        };
        if best.as_ref().is_none_or(|(known, _)| mean.total_cmp(known) == better) {
            *best = Some((mean, tried));
        }
    }
}

/// A method with one combination of the values of its search.
pub(super) struct Tried {
    values: IndexMap<String, Value>,
    pub(super) method: Method,
}

impl Tried {
    /// The method under its own name.
    fn chosen(self, method: &Method) -> Method {
        Method { name: method.name.clone(), ..self.method }
    }
}

/// All combinations of a method's search.
pub(super) fn tried(method: &Method) -> Result<Vec<Tried>> {
    let with = |values: IndexMap<String, Value>| {
        let detector = with(&method.detector, &values).map_err(Error::input)?;
        let name = format!("{} ({})", method.name, in_words(&values));
        Ok(Tried { method: Method { name, detector, ..method.clone() }, values })
    };
    combinations(&method.search).into_iter().map(with).collect()
}

impl Runner<'_> {
    /// The ID images that are reported on, and those held out of them for validation.
    pub(super) fn id_sets(&mut self, data: &config::Data) -> Result<(Arc<LoadedSet>, Option<Arc<LoadedSet>>)> {
        let all = self.id_test_images(&data.id)?;
        let Some(HeldOut::Images(count)) = data.validation.as_ref().map(|validation| &validation.id) else {
            return Ok((all, None));
        };
        let (count, images) = (*count, all.images.len());
        if count >= images {
            let message = format!("data.validation.id: {count} of {images} test images leave none to report on");
            return Err(Error::input(message).hint("hold out fewer, or name a data set"));
        }
        let key = format!("{}held out {count}", to_json(&data.id)?);
        if !self.held_out.contains_key(&key) {
            let mut rng = rng::stream(0, "validation", &data.id.name);
            let drawn: BTreeSet<usize> = index::sample(&mut rng, images, count).into_iter().collect();
            let (held, left): (Vec<usize>, Vec<usize>) = (0..images).partition(|image| drawn.contains(image));
            let mut validation = all.images.subset(&held);
            validation.name.push_str("_validation");
            let loaded = |images| LoadedSet::of(images, &self.context.interrupt).map(Arc::new);
            let pair = [loaded(all.images.subset(&left))?, loaded(validation)?];
            self.held_out.insert(key.clone(), pair);
        }
        let [left, held] = &self.held_out[&key];
        Ok((left.clone(), Some(held.clone())))
    }

    /// The validation sets, the ID set first; none if there are none.
    pub(super) fn validation_sets(&mut self, data: &config::Data) -> Result<Vec<Arc<LoadedSet>>> {
        let Some(validation) = &data.validation else { return Ok(Vec::new()) };
        let (id, held_out) = self.id_sets(data)?;
        let like = Some(id.images.shape());
        let id = match (&validation.id, held_out) {
            (HeldOut::Set(set), _) => self.set(set, Split::Test, like)?,
            (HeldOut::Val(_), _) => self.set(&data.id, Split::Val, like)?,
            (HeldOut::Images(_), held_out) => held_out.unwrap_or(id),
        };
        let mut sets = vec![id];
        for dataset in &validation.ood {
            sets.push(self.set(dataset, Split::Test, like)?);
        }
        let source = self.made_of(validation, like)?.unwrap_or_else(|| sets[0].clone());
        for &distribution in &validation.made {
            sets.push(self.made(distribution, &source)?);
        }
        Ok(sets)
    }

    /// The images of other sets than the ID images that validation sets are made of.
    fn made_of(&mut self, validation: &config::Validation, like: Option<[usize; 3]>) -> Result<Option<Arc<LoadedSet>>> {
        validation.made_of.as_ref().map(|set| self.set(set, Split::Test, like)).transpose()
    }

    /// A set made of the images of another, once.
    fn made(&mut self, distribution: Distribution, source: &LoadedSet) -> Result<Arc<LoadedSet>> {
        let key = format!("{distribution} of {}", source.file_stem());
        if let Some(set) = self.sets.get(&key) {
            return Ok(set.clone());
        }
        let made_of = Some(source.images.name.clone());
        let loaded = LoadedSet::of(distribution.of(&source.images)?, &self.context.interrupt)?;
        let set = Arc::new(LoadedSet { made_of, ..loaded });
        self.sets.insert(key, set.clone());
        Ok(set)
    }

    /// Refuses to choose settings on sets of which most images are among those that are reported on, whatever their names.
    pub(super) fn check_validation(&mut self) -> Result<()> {
        let data = &self.plan.experiment.data;
        let mut sets = self.validation_sets(data)?;
        let (Some(id), Some(validation)) = (sets.first(), &data.validation) else { return Ok(()) };
        let like = Some(id.images.shape());
        sets.extend(self.made_of(validation, like)?);
        let digests = sets.iter().map(|set| set.images.digests()).collect::<Result<Vec<_>>>()?;
        for reported in self.test_sets(data)? {
            let known = reported.images.distinct()?;
            let copies = |digests: &[[u8; 32]]| digests.iter().filter(|digest| known.contains(*digest)).count();
            // Large sets may have a few pictures in common by accident.
            let same = sets.iter().zip(&digests).find(|(_, digests)| 2 * copies(digests) > digests.len());
            if let Some((same, _)) = same {
                let (same, reported) = (&same.images.name, &reported.images.name);
                let message =
                    format!("data.validation: most images of \"{same}\" are in \"{reported}\", which is reported on");
                return Err(Error::input(message).hint("choose settings on other images than those of the tables"));
            }
        }
        Ok(())
    }

    /// What a search chooses on, without a network's outputs.
    pub(super) fn validation(&mut self, data: &config::Data) -> Result<Option<Validation>> {
        let sets = self.validation_sets(data)?;
        Ok(data.validation.as_ref().map(|validation| Validation { sets, banks: Vec::new(), by: validation.by }))
    }

    /// The method with the settings that do best on the validation sets, the first of equals; and how all of them did.
    pub(super) fn choose(&mut self, method: &Method, subject: &Subject<'_>) -> Result<(Method, Option<Search>)> {
        if method.search.is_empty() {
            return Ok((method.clone(), None));
        }
        let missing = || Error::Failed(format!("method {}: there are no validation data to search on", method.name));
        let validation = subject.validation.as_ref().ok_or_else(missing)?;
        let mut grid = Vec::new();
        let mut best = None;
        for tried in tried(method)? {
            let scored = self.scores(&tried.method, subject, &validation.sets, &validation.banks)?;
            let (mean, ood) = validation.measured(&scored.scores)?;
            let seconds = scored.fit_seconds + scored.score_seconds;
            grid.push(Combination { values: tried.values.clone(), mean, ood, seconds });
            validation.keep_better(&mut best, mean, tried);
        }
        let (_, best) = best.ok_or_else(missing)?;
        let chosen = best.values.clone();
        Ok((best.chosen(method), Some(Search { by: validation.by, chosen, grid })))
    }

    /// The method that [`choose`](Self::choose) would give by the scores that are kept; `None` if some are missing.
    pub(super) fn chosen(&self, method: &Method, subject: &Subject<'_>) -> Result<Option<Method>> {
        let Some(validation) = &subject.validation else { return Ok(None) };
        let mut best = None;
        for tried in tried(method)? {
            let place = Place::of(&tried.method, subject)?;
            let keeper = Keeper::open(self.context.store.root(), &place, &self.environment)?;
            let stored = validation.sets.iter().map(|set| Ok(keeper.stored(set)?.map(|(scores, _)| scores)));
            let Some(scores) = stored.collect::<Result<Option<Vec<_>>>>()? else { return Ok(None) };
            let (mean, _) = validation.measured(&scores)?;
            validation.keep_better(&mut best, mean, tried);
        }
        Ok(best.map(|(_, best)| best.chosen(method)))
    }
}
