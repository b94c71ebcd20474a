//! MVTec AD's layout: folders that normal and anomalous images lie in, and masks beside them.
//!
//! A category has `train/good`, `test/good`, one folder `test/<kind>` for each kind of anomaly, and
//! `ground_truth/<kind>/<name>_mask.png`. A set whose folder is one of categories has the train images of all of them. MPDD, Kolektor
//! SDD and one's own folders are laid out alike. Without `ground_truth/` the labels are of whole images.

use std::path::{Path, PathBuf};

use super::{Contents, Layout, Paint, Painter, Site, Wanted, splits};
use crate::{
    Error, Result,
    data::{
        Dataset, ImageSet, Split, damaged,
        links::Followed,
        listing::{self, Listing},
        masks::{self, Masks, Mirror},
        synthetic::SPOT,
    },
    did_you_mean, printable,
};

/// The folder of normal images, and the name of a category's normal test set.
pub const GOOD: &str = "good";

/// The categories of MVTec AD, in the order of its table.
pub const MVTEC_AD: [&str; 15] = [
    "carpet",
    "grid",
    "leather",
    "tile",
    "wood",
    "bottle",
    "cable",
    "capsule",
    "hazelnut",
    "metal_nut",
    "pill",
    "screw",
    "toothbrush",
    "transistor",
    "zipper",
];

/// This format.
pub(super) struct Mvtec;

impl Layout for Mvtec {
    fn locate(&self, site: &Site, split: Split) -> Result<Vec<PathBuf>, String> {
        places(&site.folder, site.dataset, split)
    }

    fn read(&self, site: &Site, split: Split, wanted: &Wanted) -> Result<ImageSet> {
        let (folder, dataset, listing) = (&site.folder, site.dataset, self.listing(site, split)?);
        let found = truth(site, split, &listing)?;
        let images = listing.read(split, wanted)?;
        let size = [images.height, images.width];
        let masks = match found {
            Truth::None => return Ok(images),
            Truth::Normal => Masks::normal(size, images.len()),
            Truth::Masks(found) => {
                let files: Vec<PathBuf> =
                    images.files.iter().flat_map(|files| files.iter()).map(|file| folder.join(file)).collect();
                Masks::read(dataset, (&files, &found), size, wanted.fit)?
            }
        };
        Ok(ImageSet { masks: Some(masks), ..images })
    }

    fn check_masks(&self, site: &Site) -> Result<()> {
        truth(site, Split::Test, &self.listing(site, Split::Test)?).map(|_| ())
    }

    fn unread(&self, site: &Site) -> Result<Vec<String>> {
        let (truth, test) = (site.folder.join(TRUTH), site.folder.join("test"));
        if !truth.is_dir() {
            return Ok(Vec::new());
        }
        let why = |place: PathBuf| {
            let (name, place) = (name_of(&place), place.display());
            let images = test.join(&name);
            if name == GOOD {
                Some(format!("{place} is not read: normal images have no masks"))
            } else if images.is_dir() {
                None
            } else {
                Some(format!("{place} is not read: there is no folder {}", images.display()))
            }
        };
        Ok(listing::folders_in(&truth)?.into_iter().filter_map(why).collect())
    }

    fn is_apart(&self) -> bool {
        true
    }

    fn has_categories(&self) -> bool {
        true
    }

    fn listing(&self, site: &Site, split: Split) -> Result<Listing> {
        let (folder, dataset) = (&site.folder, site.dataset);
        let places = places(folder, dataset, split).map_err(|missing| damaged(folder, format!("no {missing}")))?;
        if places != [folder.join(part(dataset, split))] {
            // A category that is a link to elsewhere is refused as an image would be.
            listing::subfolders(folder, &mut Followed::of(dataset, folder)?)?;
        }
        let (mut images, mut others) = (Vec::new(), 0);
        for place in &places {
            let (found, left) = listing::images_below(dataset, folder, place)?;
            images.extend(found);
            others += left;
        }
        let place = if let [one] = &places[..] { one } else { folder };
        Ok(Listing::of_one_class((place, folder), images, kind(dataset), others))
    }

    fn contents(&self, site: &Site, split: Split) -> Result<Contents> {
        let places = places(&site.folder, site.dataset, split).map_err(|missing| site.lacks(missing))?;
        match &places[..] {
            [one] => Contents::of_folder(site, one, Vec::new()),
            _ => Ok(Contents::of_images(&site.folder, self.listing(site, split)?.files)),
        }
    }

    fn keys(&self) -> &'static [&'static str] {
        &["kind", "mask_rule"]
    }

    fn problem(&self, dataset: &Dataset) -> Option<(Option<&'static str>, String)> {
        match &dataset.kind {
            Some(kind) if !is_plain(kind) => Some((Some("kind"), format!("\"{kind}\" is not the name of a folder"))),
            _ => super::no_split(dataset),
        }
    }

    fn smoke(&self, dataset: &mut Dataset) {
        if kind(dataset) != GOOD {
            dataset.kind = Some(SPOT.to_owned());
        }
    }

    fn paint(&self) -> Paint {
        Paint { shape: [3, 32, 32], classes: 1, free: false }
    }

    fn write(&self, painter: &mut Painter, folder: &Path, images: [usize; 2]) -> Result<()> {
        splits(images).try_for_each(|(split, n)| match split {
            Split::Train => (0..n).try_for_each(|i| painter.save_picture(i, &folder.join("train").join(GOOD))),
            _ => (0..n).try_for_each(|i| {
                painter.save_picture(i, &folder.join("test").join(GOOD))?;
                painter.save_spot(i, folder)
            }),
        })
    }
}

/// The folder of the masks.
const TRUTH: &str = "ground_truth";

/// Whether it is the name of a folder in another, that may be one of images.
pub fn is_plain(name: &str) -> bool {
    !name.is_empty() && !name.starts_with('.') && !name.contains(['/', '\\'])
}

/// What is known of the pixels of a split's images.
enum Truth {
    /// The labels are of whole images.
    None,
    /// None is anomalous.
    Normal,
    /// The file of each image's mask.
    Masks(masks::Found),
}

/// The masks of a split's images, found without reading them.
///
/// # Errors
/// Those of [`Mirror::find`]; [`Error::Input`] for a place of masks that is no folder.
fn truth(site: &Site, split: Split, listing: &Listing) -> Result<Truth> {
    let (dataset, folder) = (site.dataset, site.folder.join(TRUTH));
    if split != Split::Test || folder.symlink_metadata().is_err() {
        return Ok(Truth::None);
    }
    if !folder.is_dir() {
        return Err(Error::input(format!("{} is no folder", folder.display())).hint(
            "it is the folder of the masks: put them there, or take it away, and the labels are of whole images",
        ));
    }
    if kind(dataset) == GOOD {
        return Ok(Truth::Normal);
    }
    let mirror = Mirror {
        images: &site.folder.join(part(dataset, split)),
        masks: &folder.join(kind(dataset)),
        folder: &site.folder,
        without: "every image of an anomaly needs one; without the whole folder ground_truth/ the labels are of whole images",
    };
    mirror.find(dataset, listing.files()).map(Truth::Masks)
}

/// The kind of anomaly whose images a set's test images are; `good` unless the configuration says otherwise.
pub fn kind(dataset: &Dataset) -> &str {
    dataset.kind.as_deref().unwrap_or(GOOD)
}

/// The folder of a split's images, relative to the category's.
fn part(dataset: &Dataset, split: Split) -> PathBuf {
    match split {
        Split::Train => Path::new("train").join(GOOD),
        Split::Test => Path::new("test").join(kind(dataset)),
        Split::Val => Path::new("validation").join(GOOD),
    }
}

/// The folder of a split's images, or those of the train images of all categories in a folder of these; or what was looked for.
fn places(folder: &Path, dataset: &Dataset, split: Split) -> Result<Vec<PathBuf>, String> {
    let part = part(dataset, split);
    let place = folder.join(&part);
    if place.is_dir() {
        return Ok(vec![place]);
    }
    let categories = match split {
        Split::Train => listing::folders_in(folder).unwrap_or_default(),
        Split::Test | Split::Val => Vec::new(),
    };
    let found: Vec<PathBuf> =
        categories.iter().map(|category| category.join(&part)).filter(|place| place.is_dir()).collect();
    if found.is_empty() { Err(format!("folder {}/", part.display())) } else { Ok(found) }
}

/// A category: a task of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Category {
    /// Its folder's name.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    /// The kinds of anomaly that it is tested on, by name.
    pub kinds: Vec<String>,
}

/// The categories in `folder`: those of these names, in this order, or all, by name. A folder with `train/good` is one itself.
///
/// # Errors
/// [`Error::Input`] naming the folder and what it lacks, or a category that is not there.
pub fn categories(folder: &Path, wanted: Option<&[String]>) -> Result<Vec<Category>> {
    let is_one = |place: &Path| place.join("train").join(GOOD).is_dir();
    let missing = |what: String| {
        Error::input(format!("{}: no {what}", folder.display())).hint(
            "MVTec's layout is CATEGORY/train/good, CATEGORY/test/good, CATEGORY/test/KIND; `path` is the folder of the categories, or one of them. \
             MVTec AD itself is to be had at https://www.mvtec.com/company/research/datasets/mvtec-ad (not for commercial use)",
        )
    };
    if is_one(folder) {
        let name =
            folder.canonicalize().ok().and_then(|folder| Some(folder.file_name()?.to_string_lossy().into_owned()));
        let one = category(name.unwrap_or_else(|| GOOD.to_owned()), folder.to_owned())?;
        return match wanted {
            Some(wanted) if wanted != [one.name.clone()] => Err(missing(format!(
                "category \"{}\": it is the category \"{}\" itself",
                wanted.iter().map(|name| printable(name)).collect::<Vec<_>>().join("\", \""),
                printable(&one.name)
            ))),
            _ => Ok(vec![one]),
        };
    }
    let there: Vec<PathBuf> = match folder.is_dir() {
        true => listing::folders_in(folder)?.into_iter().filter(|place| is_one(place)).collect(),
        false => return Err(missing("such folder".to_owned())),
    };
    let names: Vec<String> = there.iter().map(|place| name_of(place)).collect();
    let chosen = match wanted {
        None if there.is_empty() => return Err(missing("folder with train/good/ in it".to_owned())),
        None => names.clone(),
        Some(wanted) => wanted.to_vec(),
    };
    chosen
        .into_iter()
        .map(|name| match names.iter().position(|known| *known == name) {
            Some(place) => category(name, there[place].clone()),
            None => {
                let nearest = did_you_mean(&name, names.iter().map(String::as_str));
                let known = names.iter().map(|name| printable(name)).collect::<Vec<_>>().join(", ");
                let known = if known.is_empty() { "none".to_owned() } else { known };
                Err(missing(format!("category \"{}\"{nearest}; there are {known}", printable(&name))))
            }
        })
        .collect()
}

fn category(name: String, folder: PathBuf) -> Result<Category> {
    let test = folder.join("test");
    let missing = |what: &str| {
        Error::input(format!("{}: no {what}", test.display()))
            .hint("a category has test/good with normal images and a folder test/KIND for each kind of anomaly")
    };
    if !test.join(GOOD).is_dir() {
        return Err(missing("folder good/"));
    }
    let kinds: Vec<String> =
        listing::folders_in(&test)?.iter().map(|place| name_of(place)).filter(|name| name != GOOD).collect();
    if kinds.is_empty() {
        return Err(missing("folder of anomalous images"));
    }
    Ok(Category { name, folder, kinds })
}

fn name_of(place: &Path) -> String {
    place.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
