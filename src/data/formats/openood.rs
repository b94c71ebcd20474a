//! OpenOOD's data folder: pictures in two folders, and lists of them for each benchmark.

use std::path::{Path, PathBuf};

use super::{Contents, Format, Layout, Paint, Painter, Site, image_list};
use crate::{
    Error, Result,
    data::{Dataset, Split, listing::Listing},
};

/// This format.
pub(super) struct Openood;

/// The file that lists a split's pictures.
fn list(site: &Site, split: Split) -> PathBuf {
    let benchmark = site.folder.join("benchmark_imglist").join(site.dataset.list.as_deref().unwrap_or_default());
    benchmark.join(format!("{split}_{}.txt", site.dataset.source()))
}

/// The folder that the paths of a list start at.
fn images(site: &Site, list: &Path) -> PathBuf {
    let [classic, large] = ["images_classic", "images_largescale"].map(|images| site.folder.join(images));
    let first = image_list::first(list);
    if first.is_some_and(|first| large.join(&first).exists() && !classic.join(&first).exists()) {
        large
    } else {
        classic
    }
}

impl Layout for Openood {
    fn locate(&self, site: &Site, split: Split) -> Result<Vec<PathBuf>, String> {
        image_list::locate(&site.folder, list(site, split))
    }

    fn is_list(&self) -> bool {
        true
    }

    fn listing(&self, site: &Site, split: Split) -> Result<Listing> {
        image_list::listing(site, &images(site, &list(site, split)), split, |split| list(site, split))
    }

    fn contents(&self, site: &Site, split: Split) -> Result<Contents> {
        let list = list(site, split);
        image_list::contents(site.dataset, &images(site, &list), list)
    }

    fn home(&self) -> Option<&'static str> {
        Some("openood")
    }

    fn hint(&self) -> Option<&'static str> {
        Some(
            "`path` is OpenOOD's data folder, with benchmark_imglist/, and `list` a benchmark there: cifar10, cifar100, imagenet",
        )
    }

    fn keys(&self) -> &'static [&'static str] {
        &["list"]
    }

    fn problem(&self, dataset: &Dataset) -> Option<(Option<&'static str>, String)> {
        match &dataset.list {
            Some(list) if !list.is_empty() => super::no_split(dataset),
            _ => Some((None, "openood needs list: a benchmark, as `list: cifar10`".to_owned())),
        }
    }

    /// The lists of synthetic images stand beside them.
    fn smoke(&self, dataset: &mut Dataset) {
        dataset.format = Some(Format::ImageList);
    }

    fn paint(&self) -> Paint {
        image_list::ImageList.paint()
    }

    fn write(&self, _: &mut Painter, _: &Path, _: [usize; 2]) -> Result<()> {
        let message = "synthetic images are not laid out as OpenOOD's: `format: image_list` is the same";
        Err(Error::Failed(message.into()))
    }
}
