//! Which of a set's classes are taken, and in which order.

use std::collections::BTreeMap;

use super::{ImageSet, files::with_note};
use crate::{Error, Result, data::Dataset, did_you_mean, printable};

/// Names that a message or a caption lists at most.
const LISTED: usize = 4;

/// The classes that are wanted of a set that has `names`, in the order of their labels: those of the configuration, else `usual`;
/// without those that are held out.
///
/// # Errors
/// A class that the set does not have; none is left.
pub(super) fn chosen(dataset: &Dataset, names: &[String], usual: &[String]) -> Result<Vec<String>> {
    let asked = [
        ("classes", dataset.classes.iter().flatten().collect::<Vec<_>>()),
        ("held_out", dataset.held_out.iter().collect()),
    ];
    for (key, class) in asked.iter().flat_map(|(key, classes)| classes.iter().map(move |class| (key, *class))) {
        if !names.contains(class) {
            let near = did_you_mean(class, names.iter().map(String::as_str));
            let (set, class) = (&dataset.name, printable(class));
            return Err(Error::input(format!(
                "data set \"{set}\" has no class \"{class}\"{near}, named under `{key}`"
            ))
            .hint(format!("its classes are {}", listed(names))));
        }
    }
    let wanted = dataset.classes.as_deref().unwrap_or(usual);
    let left: Vec<String> = wanted.iter().filter(|class| !dataset.held_out.contains(class)).cloned().collect();
    if left.is_empty() {
        return Err(Error::input(format!("all classes of data set \"{}\" are held out", dataset.name)));
    }
    Ok(left)
}

/// Whether the configuration says which classes to take.
pub(super) fn are_chosen(dataset: &Dataset) -> bool {
    dataset.classes.is_some() || !dataset.held_out.is_empty()
}

/// For captions: `3 of 8 classes`, or which they are; nothing where all are there.
pub(super) fn in_words(chosen: &[String], all: usize) -> Option<String> {
    match chosen.len() {
        few if few >= all => None,
        1 => Some(format!("class {}", listed(chosen))),
        few if few <= LISTED => Some(format!("classes {}", listed(chosen))),
        few => Some(format!("{few} of {all} classes")),
    }
}

fn listed(names: &[String]) -> String {
    let few: Vec<String> = names.iter().take(LISTED * 3).map(|name| printable(name)).collect();
    let more = if names.len() > few.len() { ", …" } else { "" };
    few.join(", ") + more
}

/// Chosen classes of a set whose classes are numbers.
pub(super) struct Numbered {
    /// The numbers, in the order of the new labels.
    pub(super) names: Vec<String>,
    /// By the old label.
    new: Vec<Option<u32>>,
}

impl Numbered {
    /// Of a set with so many classes.
    pub(super) fn of(dataset: &Dataset, all: usize) -> Result<Self> {
        let numbers: Vec<String> = (0..all).map(|label| label.to_string()).collect();
        let names = chosen(dataset, &numbers, &numbers)?;
        let places: BTreeMap<&String, u32> = names.iter().zip(0..).collect();
        let new = numbers.iter().map(|number| places.get(number).copied()).collect();
        Ok(Self { names, new })
    }

    /// What the label becomes, if its class is wanted.
    pub(super) fn renumbered(&self, label: u32) -> Option<u32> {
        self.new.get(label as usize).copied().flatten()
    }

    pub(super) fn in_words(&self) -> Option<String> {
        in_words(&self.names, self.new.len())
    }
}

/// The images of the classes that are wanted, numbered in their order.
pub(super) fn only(dataset: &Dataset, images: ImageSet) -> Result<ImageSet> {
    if !are_chosen(dataset) {
        return Ok(images);
    }
    let Some(labels) = &images.labels else { return Err(without_labels(dataset)) };
    let chosen = Numbered::of(dataset, images.classes)?;
    let (kept, new): (Vec<usize>, Vec<u32>) =
        labels.iter().enumerate().filter_map(|(image, label)| Some((image, chosen.renumbered(*label)?))).unzip();
    let complete = images.full_size.is_none_or(|full| full == images.len());
    let mut left = images.subset(&kept);
    left.labels = Some(new);
    left.classes = chosen.names.len();
    left.full_size = if complete { Some(kept.len()) } else { images.full_size };
    Ok(match chosen.in_words() {
        Some(note) => with_note(left, note),
        None => left,
    })
}

pub(super) fn without_labels(dataset: &Dataset) -> Error {
    Error::input(format!("`classes` and `held_out` choose by labels, and data set \"{}\" has none", dataset.name))
}
