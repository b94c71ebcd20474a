//! The maps of new images: raw, as masks and over the images.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use indexmap::IndexMap;
use oodkit::{
    Error, Result,
    data::{self, Fit, Frame, painted},
    detectors::map::{Post, in_picture},
    report::{
        figures::{
            gallery::{Scale, VIRIDIS},
            overlay::{heat, outline},
        },
        maps::{Raw, write_image, write_mask},
    },
    run::predict::Answers,
};

/// How raw maps are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// NumPy's arrays of f32
    Npy,
    /// One channel of f32, in the layout that MVTec AD's official evaluation reads
    Tiff,
}

impl From<Format> for Raw {
    fn from(format: Format) -> Self {
        match format {
            Format::Npy => Self::Npy,
            Format::Tiff => Self::Tiff,
        }
    }
}

/// The folders that are written below `--out`.
const FOLDERS: [&str; 3] = ["masks", "overlays", "maps"];

/// The outline of a mask.
const OUTLINE: [u8; 3] = [255, 40, 40];

/// The maps of all images.
pub struct Maps<'a> {
    pub answers: &'a Answers,
    pub post: Post,
    /// From where on a pixel is anomalous.
    pub pixel: f64,
    /// How the files became images.
    pub fit: Fit,
}

impl Maps<'_> {
    /// Writes `maps/`, `masks/` and `overlays/` for these files with the paths below their inputs. A line of what they are, and the
    /// folders.
    ///
    /// # Errors
    /// Those of reading the files' sizes and of writing.
    pub fn write(
        &self,
        out: &Path,
        (names, relative): (&[PathBuf], &[&Path]),
        formats: &[Format],
    ) -> Result<(String, Vec<PathBuf>)> {
        let Some(maps) = self.answers.scores.maps() else {
            return Err(Error::Failed("the detector gave no maps".into()));
        };
        let shape = self.answers.images.shape();
        let size = [shape[1], shape[2]];
        let full = |image| self.post.full(maps.map(image), maps.grid(), size);
        // One scale for all, so that they can be compared.
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        for image in 0..maps.images() {
            for value in full(image) {
                (low, high) = (low.min(f64::from(value)), high.max(f64::from(value)));
            }
        }
        let scale = Scale { label: String::new(), range: (low, high.max(low + f64::EPSILON)), stops: VIRIDIS };
        let formats: Vec<Raw> = formats.iter().copied().map(Raw::from).collect();
        for (image, (name, below)) in names.iter().zip(relative).enumerate() {
            let full = full(image);
            let mut picture = heat(&painted(&self.answers.images.image(image)?, shape), &full, &scale);
            let mask: Vec<bool> = full.iter().map(|value| f64::from(*value) > self.pixel).collect();
            outline(&mut picture, &mask, OUTLINE);
            let at = |folder: &str, extension: &str| out.join(folder).join(below).with_extension(extension);
            write_image(&at("overlays", "png"), &picture)?;
            let file = data::picture_size(name)?;
            let whole = in_picture(&full, size, Frame::of(file, size, self.fit), file);
            write_mask(&at("masks", "png"), &whole, file, self.pixel)?;
            for format in &formats {
                format.write(&at("maps", format.extension()), &whole, file)?;
            }
        }
        let about = format!(
            "Masks are 255 where the map is above {}; masks and maps have the size of the files, overlays that of the network's input. \
             Colours go from {} to {} in all overlays.\n",
            self.pixel, low as f32, high as f32
        );
        let written = FOLDERS.iter().filter(|folder| **folder != "maps" || !formats.is_empty());
        Ok((about, written.map(|folder| out.join(folder)).collect()))
    }
}

/// Refuses a folder of results that holds masks, overlays or maps: those of images that are no longer there would lie beside the new
/// CSV, and masks of others would be written over.
///
/// # Errors
/// [`Error::Input`] naming the folder.
pub fn check_unused(out: &Path) -> Result<()> {
    let message = |what: &str| format!("--out {}: {what}", out.display());
    if out.exists() && !out.is_dir() {
        return Err(Error::input(message("it is no folder")).hint("give another --out"));
    }
    match FOLDERS.iter().find(|name| out.join(name).symlink_metadata().is_ok()) {
        Some(name) => Err(Error::input(message(&format!("it already holds {name}/")))
            .hint(format!("give another --out, or remove {} if nothing else is in it", out.display()))),
        None => Ok(()),
    }
}

/// Refuses files whose maps would have the same name.
///
/// # Errors
/// [`Error::Input`] naming two of them.
pub fn check_names(files: &IndexMap<PathBuf, PathBuf>) -> Result<()> {
    let mut seen: BTreeMap<PathBuf, &Path> = BTreeMap::new();
    for (file, below) in files {
        if let Some(other) = seen.insert(below.with_extension(""), file) {
            let message =
                format!("--input: the maps of {} and {} would have one name", other.display(), file.display());
            return Err(Error::input(message).hint("predict them one after the other, each with an --out of its own"));
        }
    }
    Ok(())
}
