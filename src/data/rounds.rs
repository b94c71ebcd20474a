//! Batches in rounds of one class each, for [Reptile](crate::train::reptile).
//!
//! The class of round r is drawn from the stream (seed, `round class`, r). Its batches go through one permutation of the class's images after
//! another, the p-th drawn from the stream (seed, `round images`, r and p): a small class comes again within a batch.

use rand::{Rng as _, seq::SliceRandom};

use super::ImageSet;
use crate::{Error, Result, rng};

/// The places that batches take.
#[derive(Debug)]
pub(super) struct Rounds {
    seed: u64,
    /// Batches of a round, and images of a batch.
    steps: u64,
    batch: usize,
    /// The places of each class's images, of classes that have some.
    classes: Vec<Vec<usize>>,
}

impl Rounds {
    /// Refuses a set without two classes.
    pub(super) fn new(set: &ImageSet, steps: u64, batch: usize, seed: u64) -> Result<Self> {
        let mut classes = vec![Vec::new(); set.classes];
        for (place, label) in set.labels.iter().flatten().enumerate() {
            if let Some(class) = classes.get_mut(*label as usize) {
                class.push(place);
            }
        }
        classes.retain(|class| !class.is_empty());
        if steps == 0 {
            return Err(Error::input("`inner_steps` is 0"));
        }
        if classes.len() < 2 {
            return Err(Error::input(format!(
                "reptile: every round is of another class, and the train images of \"{}\" are of {} class",
                set.name,
                classes.len()
            ))
            .hint("give the network `data` with several classes, or leave `reptile` out"));
        }
        Ok(Self { seed, steps, batch, classes })
    }

    /// The places of the images of this step's batch.
    pub(super) fn of(&self, step: u64) -> Vec<usize> {
        let (round, at) = (step / self.steps, (step % self.steps) as usize);
        let mut class = rng::stream(self.seed, "round class", &round.to_string());
        let class = &self.classes[class.random_range(0..self.classes.len())];
        let images = at * self.batch..(at + 1) * self.batch;
        let passes = images.start / class.len()..=(images.end - 1) / class.len();
        let all = passes.clone().flat_map(|pass| {
            let mut order = class.clone();
            order.shuffle(&mut rng::stream(self.seed, "round images", &format!("{round} {pass}")));
            order
        });
        all.skip(images.start - passes.start() * class.len()).take(self.batch).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Split;

    fn set(labels: &[u32], classes: usize) -> ImageSet {
        let pixels = vec![0; labels.len()];
        ImageSet {
            labels: Some(labels.to_vec()),
            classes,
            ..ImageSet::unlabelled("some", Split::Train, [1, 1, 1], pixels)
        }
    }

    #[test]
    fn a_round_goes_through_one_class_again_and_again() {
        // Class 1 has no image.
        let labels = [0, 2, 2, 0, 3, 2, 0, 2, 2, 3, 0, 0, 2, 2];
        let rounds = Rounds::new(&set(&labels, 4), 3, 4, 7).unwrap();
        let mut seen = [0; 4];
        for round in 0..60 {
            let places: Vec<usize> = (3 * round..3 * round + 3).flat_map(|step| rounds.of(step)).collect();
            let class = labels[places[0]];
            assert!(places.iter().all(|place| labels[*place] == class), "round {round}: {places:?}");
            seen[class as usize] += 1;
            let count = labels.iter().filter(|label| **label == class).count();
            for pass in places.chunks_exact(count) {
                let mut pass = pass.to_vec();
                pass.sort_unstable();
                pass.dedup();
                assert_eq!(pass.len(), count, "round {round}: {places:?}");
            }
        }
        assert!(seen[1] == 0 && [0, 2, 3].iter().all(|class| (8..=32).contains(&seen[*class])), "{seen:?}");
        let other = Rounds::new(&set(&labels, 4), 3, 4, 8).unwrap();
        assert_ne!([0, 1, 2, 3, 4, 5].map(|step| rounds.of(step)), [0, 1, 2, 3, 4, 5].map(|step| other.of(step)));
        // Stored checkpoints continue only if a new version of rand draws the same.
        assert_eq!(
            [0, 1, 2, 3].map(|step| rounds.of(step)),
            [[6, 0, 11, 10], [3, 10, 6, 0], [3, 11, 10, 3], [2, 1, 12, 7]]
        );
    }

    #[test]
    fn one_class_is_refused() {
        for (labels, classes) in [(&[0, 0, 0][..], 1), (&[1, 1][..], 3)] {
            let error = Rounds::new(&set(labels, classes), 5, 2, 0).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            let said = error.to_string();
            assert!(said.contains("the train images of \"some\" are of 1 class"), "{said}");
        }
    }
}
