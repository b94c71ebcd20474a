//! Train and test parts drawn from images that come without.
//!
//! Every image has a draw that depends on its name and the seed only, and the images of a class are taken in the order of their
//! draws. So the order of files changes nothing, and one image more moves few others to the other part.

use std::collections::BTreeMap;

use garde::Validate;
use rand::RngCore as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Split;
use crate::rng;

/// Most folds. Ours: more are leave-one-out, which nobody trains networks for.
pub(crate) const MOST_FOLDS: usize = 1000;

/// How a set that has no train and test parts is divided: by the share to test on, or in folds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Division {
    /// The share of each class's images to test on, above 0 and below 1; at least one image, and not all.
    #[garde(range(min = 0.0, max = 1.0))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test: Option<f64>,
    /// In place of `test`: into how many parts each class is divided, for cross-validation. Every image is in one of them.
    #[garde(range(min = 2, max = MOST_FOLDS))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub folds: Option<usize>,
    /// With `folds`: the one to test on, from 0. The others are learned from. 0 unless given.
    #[garde(range(min = 0, max = MOST_FOLDS))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fold: Option<usize>,
    /// Another seed draws other images. 0 unless given.
    #[garde(skip)]
    #[serde(default)]
    pub seed: u64,
}

impl Division {
    /// What is wrong with it, and at which key.
    pub(crate) fn problem(&self) -> Option<(&'static str, String)> {
        match (self.test, self.folds, self.fold) {
            (Some(_), Some(_), _) => {
                Some(("folds", "give test (a share) or folds (a number of parts), not both".into()))
            }
            (None, None, _) => Some(("test", "give the share to test on, `test: 0.2`, or `folds: 5`".into())),
            (Some(test), None, _) if !(test > 0.0 && test < 1.0) => {
                Some(("test", "is a share above 0 and below 1".into()))
            }
            (Some(_), None, Some(_)) => Some(("fold", "goes with folds".into())),
            (None, Some(folds), Some(fold)) if fold >= folds => {
                Some(("fold", format!("folds are counted from 0, so the last is {}", folds.saturating_sub(1))))
            }
            _ => None,
        }
    }

    /// For captions: `20 % of each class drawn to test on, seed 0`.
    pub(super) fn in_words(&self) -> String {
        match self.folds {
            Some(folds) => format!("fold {} of 0 to {}, seed {}", self.fold.unwrap_or(0), folds - 1, self.seed),
            None => {
                let percent = (self.test.unwrap_or(0.0) * 1e4).round() / 1e2;
                format!("{percent} % of each class drawn to test on, seed {}", self.seed)
            }
        }
    }

    /// Whether each image belongs to `split`: by its name, which no other image has, and its class.
    ///
    /// # Errors
    /// A class with too few images, and how many it needs.
    pub(super) fn of(&self, names: &[String], labels: Option<&[u32]>, split: Split) -> Result<Vec<bool>, TooFew> {
        let mut classes: BTreeMap<u32, Vec<(u64, usize)>> = BTreeMap::new();
        for (image, name) in names.iter().enumerate() {
            let class = labels.map_or(0, |labels| labels[image]);
            let draw = rng::stream(self.seed, "split", name).next_u64();
            classes.entry(class).or_default().push((draw, image));
        }
        let mut tested = vec![false; names.len()];
        // Counted on from class to class, so that the folds have equal sizes to one image.
        let mut turn = 0;
        for (class, mut images) in classes {
            images.sort_unstable_by(|a, b| a.0.cmp(&b.0).then_with(|| names[a.1].cmp(&names[b.1])));
            let (found, needed) = (images.len(), self.folds.unwrap_or(2));
            if found < needed {
                return Err(TooFew { class, found, needed });
            }
            match self.folds {
                Some(folds) => {
                    for (_, image) in images {
                        tested[image] = turn % folds == self.fold.unwrap_or(0);
                        turn += 1;
                    }
                }
                None => {
                    let share = (found as f64 * self.test.unwrap_or(0.0)).round() as usize;
                    images[..share.clamp(1, found - 1)].iter().for_each(|(_, image)| tested[*image] = true);
                }
            }
        }
        Ok(tested.into_iter().map(|tested| tested == (split == Split::Test)).collect())
    }
}

/// A class that cannot be divided.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooFew {
    pub(super) class: u32,
    pub(super) found: usize,
    pub(super) needed: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn share(test: f64, seed: u64) -> Division {
        Division { test: Some(test), seed, ..Division::default() }
    }

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|image| format!("{image:03}.png")).collect()
    }

    #[test]
    fn every_class_gives_its_share_whatever_the_order() {
        let (names, labels): (Vec<String>, Vec<u32>) =
            names(100).into_iter().enumerate().map(|(image, name)| (name, u32::from(image >= 70))).unzip();
        let tested = share(0.2, 0).of(&names, Some(&labels), Split::Test).unwrap();
        let learned = share(0.2, 0).of(&names, Some(&labels), Split::Train).unwrap();
        assert!(tested.iter().zip(&learned).all(|(a, b)| a != b));
        let count = |of: &[bool], class| of.iter().zip(&labels).filter(|(is, label)| **is && **label == class).count();
        assert_eq!([count(&tested, 0), count(&tested, 1)], [14, 6]);
        assert_ne!(tested[..14], [true; 14]);
        let backwards: Vec<String> = names.iter().rev().cloned().collect();
        let labels_backwards: Vec<u32> = labels.iter().rev().copied().collect();
        let again = share(0.2, 0).of(&backwards, Some(&labels_backwards), Split::Test).unwrap();
        assert!(again.iter().rev().eq(&tested));
        assert_ne!(share(0.2, 1).of(&names, Some(&labels), Split::Test).unwrap(), tested);
    }

    #[test]
    fn small_classes_keep_an_image_in_each_part() {
        for (test, expected) in [(0.01, 1), (0.5, 2), (0.99, 2)] {
            let tested = share(test, 0).of(&names(3), None, Split::Test).unwrap();
            assert_eq!(tested.iter().filter(|tested| **tested).count(), expected, "{test}");
        }
        let one = share(0.2, 0).of(&names(3), Some(&[0, 4, 0]), Split::Test);
        assert_eq!(one, Err(TooFew { class: 4, found: 1, needed: 2 }));
    }

    #[test]
    fn folds_are_disjoint_equal_and_cover_everything() {
        let labels: Vec<u32> = (0..53).map(|image| image % 3).collect();
        let fold = |fold, split| {
            let division = Division { folds: Some(5), fold: Some(fold), ..Division::default() };
            division.of(&names(53), Some(&labels), split).unwrap()
        };
        let mut times = [0; 53];
        for k in 0..5 {
            let tested = fold(k, Split::Test);
            assert!(tested.iter().zip(fold(k, Split::Train)).all(|(tested, learned)| *tested != learned));
            let sizes: Vec<usize> =
                (0..3).map(|class| (0..53).filter(|image| tested[*image] && labels[*image] == class).count()).collect();
            assert!(sizes.iter().all(|size| (3..=4).contains(size)), "{sizes:?}");
            assert!((10..=11).contains(&sizes.iter().sum::<usize>()));
            (0..53).for_each(|image| times[image] += usize::from(tested[image]));
        }
        assert_eq!(times, [1; 53]);
        let few = Division { folds: Some(5), ..Division::default() }.of(&names(4), None, Split::Test);
        assert_eq!(few, Err(TooFew { class: 0, found: 4, needed: 5 }));
    }
}
