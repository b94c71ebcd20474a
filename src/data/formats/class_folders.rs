//! A folder of images for each class.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Layout, Paint, Painter, Site, splits};
use crate::{
    Error, Result,
    data::{
        Dataset, Split, classes, damaged,
        links::Followed,
        listing::{Found, Listing, file_name, subfolders, walk},
        picture,
    },
};

/// Names of folders that hold parts of a set, in lower case, and not a class.
const PARTS: [&str; 7] = ["train", "training", "test", "testing", "val", "valid", "validation"];

/// This format.
pub(super) struct ClassFolders;

impl Layout for ClassFolders {
    fn locate(&self, site: &Site, split: Split) -> Result<Vec<PathBuf>, String> {
        locate(&site.folder, site.dataset, split).map(|place| vec![place])
    }

    fn is_apart(&self) -> bool {
        true
    }

    fn chooses_classes(&self) -> bool {
        true
    }

    fn listing(&self, site: &Site, split: Split) -> Result<Listing> {
        listing(&site.folder, site.dataset, split)
    }

    fn class_names(&self, site: &Site) -> Option<Vec<String>> {
        class_names(&site.folder, site.dataset).ok()
    }

    fn problem(&self, _: &Dataset) -> Option<(Option<&'static str>, String)> {
        None
    }

    fn paint(&self) -> Paint {
        Paint { shape: [3, 32, 32], classes: 10, free: true }
    }

    fn write(&self, painter: &mut Painter, folder: &Path, images: [usize; 2]) -> Result<()> {
        splits(images).try_for_each(|(split, n)| {
            (0..n).try_for_each(|i| {
                let class = format!("class_{:03}", painter.class(i));
                painter.save_picture(i, &folder.join(split.name()).join(class))
            })
        })
    }
}

/// The folder of a split's class folders, or what was looked for. A folder without parts is tested on as a whole, and is divided
/// where the configuration says how. Where there is no `test/`, as in ImageNet, `val/` is tested on.
fn locate(folder: &Path, dataset: &Dataset, split: Split) -> Result<PathBuf, String> {
    let own = folder.join(split.name());
    let has = |part: &str| folder.join(part).is_dir();
    if split == Split::Val && has("val") && !has("test") {
        return Err("folder test/ beside val/, so val/ is what is tested on".to_owned());
    }
    if own.is_dir() {
        return Ok(own);
    }
    if split == Split::Test && has("val") {
        return Ok(folder.join("val"));
    }
    let undivided = is_undivided(folder);
    if undivided && (dataset.split.is_some() || split == Split::Test) {
        return Ok(folder.to_owned());
    }
    let wanted = format!("folder {split}/ with a folder per class");
    Err(if undivided {
        format!("{wanted}; its class folders can be divided: `split: {{ test: 0.2 }}`")
    } else {
        wanted
    })
}

/// Whether there are class folders without parts above them.
fn is_undivided(folder: &Path) -> bool {
    let mut entries = fs::read_dir(folder).into_iter().flatten().flatten();
    !["train", "test", "val"].iter().any(|part| folder.join(part).is_dir())
        && entries.any(|entry| entry.path().is_dir())
}

/// The images of a split of class folders. Classes are the folders of `train/` (of what there is, where that is not there), by
/// name, unless the configuration says which.
fn listing(folder: &Path, dataset: &Dataset, split: Split) -> Result<Listing> {
    let root = locate(folder, dataset, split).map_err(|missing| damaged(folder, format!("no {missing}")))?;
    if dataset.split.is_some() && root != folder {
        return Err(Error::input(format!(
            "{}: `split` divides class folders, and this set has parts",
            folder.display()
        ))
        .hint(format!("leave `split` out, or point `path` at one of them: {}", root.display())));
    }
    let (all, names) = class_folders(folder, dataset)?;
    let mut found = Found::of(dataset, folder)?;
    let mut labels = Vec::new();
    let mut listing = Listing::default();
    for path in subfolders(&root, &mut found.followed)? {
        let class = file_name(&path);
        if root == folder && PARTS.contains(&class.to_lowercase().as_str()) {
            return Err(Error::input(format!("{} looks like a part of a set, not like a class", path.display()))
                .hint("the parts are called train/, test/ and val/: rename them, or rename the class"));
        }
        let Some(label) = names.iter().position(|name| *name == class) else {
            if classes::are_chosen(dataset) && all.contains(&class) {
                continue;
            }
            return Err(Error::input(format!("{}: no class of the train images", path.display())).hint(
                "what is not learned is out-of-distribution: name the class under `held_out`, or move it into an OOD set",
            ));
        };
        let before = found.images.len();
        walk(&path, 0, &mut found)?;
        if found.images.len() == before {
            return Err(Error::input(format!("class folder {} holds no images", path.display())).hint(picture::READ));
        }
        labels.resize(found.images.len(), label as u32);
    }
    listing.notes.extend(classes::in_words(&names, all.len()));
    if split == Split::Test && file_name(&root) == "val" && root != folder {
        listing.notes.push("the images of val/, as there is no test/".to_owned());
    }
    Listing {
        place: root.clone(),
        root,
        files: found.images,
        labels: Some(labels),
        classes: names.len(),
        names,
        others: found.others,
        ..listing
    }
    .part(dataset, split)
}

/// The names of the classes in their order.
fn class_names(folder: &Path, dataset: &Dataset) -> Result<Vec<String>> {
    class_folders(folder, dataset).map(|(_, names)| names)
}

/// The names of all class folders of all parts, and of those that are wanted in the order of their labels.
fn class_folders(folder: &Path, dataset: &Dataset) -> Result<(Vec<String>, Vec<String>)> {
    let mut parts = Vec::new();
    for split in [Split::Train, Split::Test, Split::Val] {
        if let Ok(part) = locate(folder, dataset, split) {
            let mut followed = Followed::of(dataset, folder)?;
            let names: Vec<String> = subfolders(&part, &mut followed)?.iter().map(|path| file_name(path)).collect();
            parts.push(names);
        }
    }
    let usual = parts.first().cloned().unwrap_or_default();
    let mut all: Vec<String> = parts.into_iter().flatten().collect();
    all.sort_unstable();
    all.dedup();
    let chosen = if classes::are_chosen(dataset) { classes::chosen(dataset, &all, &usual)? } else { usual };
    Ok((all, chosen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{
        ImageSet,
        form::Wanted,
        formats::examples::{save, wanted},
    };

    fn read_classes(folder: &Path, split: Split, wanted: &Wanted) -> Result<ImageSet> {
        listing(folder, &Dataset::named("mine"), split)?.read(split, wanted)
    }

    #[test]
    fn classes_are_the_train_folders_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        save(&root.join("train/cat/1.png"), (4, 4), [10, 20, 30]);
        save(&root.join("train/ant/2.JPEG"), (4, 4), [200, 200, 200]);
        save(&root.join("train/ant/deep/1.png"), (4, 4), [1, 2, 3]);
        fs::write(root.join("train/ant/readme.txt"), "no picture").unwrap();
        fs::write(root.join("train/ant/._2.png"), "no picture either").unwrap();
        // The test part lacks the first class: labels still mean the same.
        save(&root.join("test/cat/9.png"), (4, 4), [0, 0, 0]);

        let train = read_classes(root, Split::Train, &wanted(None, None)).unwrap();
        assert_eq!((train.labels.clone(), train.classes, train.shape()), (Some(vec![0, 0, 1]), 2, [3, 4, 4]));
        assert_eq!(train.image(2).unwrap()[..16], [10; 16]);
        assert_eq!(train.image(1).unwrap()[32..], [3; 16]);
        let test = read_classes(root, Split::Test, &wanted(Some([1, 2, 2]), None)).unwrap();
        assert_eq!((test.shape(), test.classes, test.labels), ([1, 2, 2], 2, Some(vec![1])));
        // Two pictures are one of each class, though two of the first come before.
        let two = read_classes(root, Split::Train, &wanted(None, Some(2))).unwrap();
        assert_eq!((two.labels.clone(), two.full_size), (Some(vec![0, 1]), Some(3)));
        assert_eq!([0, 1].map(|image| two.image(image).unwrap()), [0, 2].map(|image| train.image(image).unwrap()));
        let one = read_classes(root, Split::Train, &wanted(None, Some(1))).unwrap();
        assert_eq!((one.len(), one.labels, one.full_size), (1, Some(vec![0]), Some(3)));

        save(&root.join("test/dog/1.png"), (4, 4), [0, 0, 0]);
        let error = read_classes(root, Split::Test, &wanted(None, None)).unwrap_err().to_string();
        assert!(error.contains("dog: no class of the train images"), "{error}");
    }
}
