//! Tiny synthetic data sets in every format's own files, for tests and smoke runs.
//!
//! A smoke run goes through the same readers as a real one. Each class is a grating of its own direction under noise, so
//! that a network can learn it; each data set has its own wavelengths, so that sets can be told apart.

use std::{
    f32::consts::PI,
    fs::{self, File},
    path::{Component, Path, PathBuf},
};

use image::{ColorType, ImageFormat};
use rand::Rng as _;

use super::{Format, SYNTHETIC, Split, check, folder, format, formats::Paint, known};
use crate::{Error, Result, data::Dataset, fs::temporary_name, rng};

/// The one kind of anomaly in MVTec's layout.
pub const SPOT: &str = "spot";

/// Changes when the same arguments make other images.
const VERSION: u32 = 1;

/// Sees to it that `train` and `test` images of `dataset` in its own format are where [`super::load`] looks for it under
/// `root`, with a file `SYNTHETIC` beside them that says how they were made.
///
/// What these arguments make already is left alone. Otherwise the set is made in a hidden folder beside and renamed, so
/// neither a reader nor the next run ever meets half a set, and one process after another does so.
///
/// Formats with fixed sizes have them; the images of known sets have their shape; others are 28×28 grey (IDX) or 32×32
/// RGB. Classes are dealt out in turn. The same arguments write the same bytes.
///
/// # Errors
/// `Error::Input` when the name is unknown and no format is given, or the place is outside `root` or holds files that are
/// not synthetic; `Error::Io` when it cannot be written.
pub fn write(dataset: &Dataset, root: &Path, train: usize, test: usize, seed: u64) -> Result<()> {
    let format = format(dataset)?;
    let folder = folder(dataset, root);
    let inside =
        folder.strip_prefix(root).is_ok_and(|rest| rest.components().all(|part| matches!(part, Component::Normal(_))));
    if !inside || folder == root {
        let (name, folder, root) = (&dataset.name, folder.display(), root.display());
        return Err(Error::input(format!(
            "synthetic data for \"{name}\" would go to {folder}, which is not under {root}"
        )));
    }
    format.layout().check_write(dataset, root)?;
    // The name, too: it chooses the patterns.
    let mark = format!(
        "Made by oodkit to test itself; not real data.\nversion {VERSION}, {}, {format:?}, {train} train, {test} test, seed {seed}\n",
        dataset.name
    );
    let parent = folder.parent().unwrap_or(root);
    fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
    // Held until the end: of two processes that want the same, the second finds it made.
    let lock = root.join(".synthetic.lock");
    let locked = File::create(&lock).map_err(Error::io("create", &lock))?;
    locked.lock().map_err(Error::io("lock", &lock))?;

    match fs::read_to_string(folder.join(SYNTHETIC)) {
        // Somebody may have deleted files beside it.
        Ok(found) if found == mark && is_there(dataset, root, [train, test]) => return Ok(()),
        Err(_) if folder.exists() => {
            return Err(Error::input(format!("{} exists and is not synthetic: not overwritten", folder.display())));
        }
        _ => {}
    }
    let made = make(dataset, format, parent, &folder, &mark, (train, test, seed))?;
    // What was made with other arguments goes away in one step, too.
    let old = Temporary::new(parent, &folder);
    if folder.exists() {
        fs::rename(&folder, &old.0).map_err(Error::io("replace", &folder))?;
    }
    fs::rename(&made.0, &folder).map_err(Error::io("create", &folder))
}

/// Whether the files of every split that has images are there.
fn is_there(dataset: &Dataset, root: &Path, images: [usize; 2]) -> bool {
    let splits = [Split::Train, Split::Test].into_iter().zip(images).filter(|(_, images)| *images > 0);
    check(dataset, &splits.map(|(split, _)| split).collect::<Vec<_>>(), root).is_ok()
}

/// A folder that is removed when dropped; after a rename there is nothing left to remove.
struct Temporary(PathBuf);

impl Temporary {
    /// A hidden name in `parent`, not there yet.
    fn new(parent: &Path, folder: &Path) -> Self {
        let name = temporary_name(parent, folder);
        // A process of an earlier boot may have had our id and been killed.
        let _ = fs::remove_dir_all(&name);
        Self(name)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The whole set in a hidden folder in `parent`.
fn make(
    dataset: &Dataset,
    format: Format,
    parent: &Path,
    folder: &Path,
    mark: &str,
    (train, test, seed): (usize, usize, u64),
) -> Result<Temporary> {
    let made = Temporary::new(parent, folder);
    let folder = &made.0;
    fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    save(&folder.join(SYNTHETIC), mark.as_bytes())?;
    let mut painter = Painter::new(dataset, format, seed);
    format.layout().write(&mut painter, folder, [train, test])?;
    Ok(made)
}

/// Paints the images of a data set.
pub(super) struct Painter {
    /// Channels, rows, columns.
    pub(super) shape: [usize; 3],
    classes: usize,
    /// The label of the first class in the files.
    pub(super) first_label: usize,
    /// Pixels per wave, of each channel.
    wavelengths: [f32; 3],
    rng: rng::Rng,
}

impl Painter {
    fn new(dataset: &Dataset, format: Format, seed: u64) -> Self {
        let known = known(dataset.source());
        let Paint { shape, classes, free } = format.layout().paint();
        let known = known.filter(|_| free);
        let mut rng = rng::stream(seed, "synthetic", &dataset.name);
        Self {
            shape: known.and_then(|known| known.shape).unwrap_or(shape),
            classes: known.map(|known| known.classes).filter(|classes| *classes > 0).unwrap_or(classes),
            first_label: known.map_or(0, |known| known.first_label as usize),
            wavelengths: std::array::from_fn(|_| rng.random_range(3.0..12.0)),
            rng,
        }
    }

    /// The class of image `i`, from 0.
    pub(super) fn class(&self, i: usize) -> usize {
        i % self.classes
    }

    /// Image `i`: (C, H, W).
    pub(super) fn image(&mut self, i: usize) -> Vec<u8> {
        let [channels, height, width] = self.shape;
        let (sin, cos) = (PI * self.class(i) as f32 / self.classes as f32).sin_cos();
        let phase = self.rng.random_range(0.0..2.0 * PI);
        let mut image = Vec::with_capacity(channels * height * width);
        for wavelength in &self.wavelengths[..channels] {
            for y in 0..height {
                for x in 0..width {
                    let wave = (2.0 * PI / wavelength * (x as f32 * cos + y as f32 * sin) + phase).sin();
                    // `as` saturates at the ends of a byte.
                    image.push((128.0 + 90.0 * wave + self.rng.random_range(-30.0..30.0)) as u8);
                }
            }
        }
        image
    }

    /// Image `i` as a PNG in `folder`.
    pub(super) fn save_picture(&mut self, i: usize, folder: &Path) -> Result<()> {
        let image = self.image(i);
        self.save_image(&image, self.shape, &folder.join(format!("{i:05}.png")))
    }

    /// An image with a bright square of a quarter of its side in MVTec's layout below `folder`, and its mask.
    pub(super) fn save_spot(&mut self, i: usize, folder: &Path) -> Result<()> {
        let [channels, height, width] = self.shape;
        let [top, left] = [height, width].map(|side| self.rng.random_range(0..side - side / 4));
        let inside = |at: usize| {
            let (row, column) = (at / width % height, at % width);
            (top..top + height / 4).contains(&row) && (left..left + width / 4).contains(&column)
        };
        let mut image = self.image(i);
        image.iter_mut().enumerate().filter(|(at, _)| inside(*at)).for_each(|(_, pixel)| *pixel = 255);
        let mask: Vec<u8> = (0..height * width).map(|at| if inside(at) { 255 } else { 0 }).collect();
        self.save_image(&image, [channels, height, width], &folder.join(format!("test/{SPOT}/{i:05}.png")))?;
        self.save_image(&mask, [1, height, width], &folder.join(format!("ground_truth/{SPOT}/{i:05}_mask.png")))
    }

    fn save_image(&self, image: &[u8], [channels, height, width]: [usize; 3], path: &Path) -> Result<()> {
        let plane = height * width;
        let interleaved: Vec<u8> =
            (0..plane).flat_map(|p| (0..channels).map(move |c| c * plane + p)).map(|at| image[at]).collect();
        let colour = if channels == 1 { ColorType::L8 } else { ColorType::Rgb8 };
        let mut png = std::io::Cursor::new(Vec::new());
        image::write_buffer_with_format(&mut png, &interleaved, width as u32, height as u32, colour, ImageFormat::Png)
            .map_err(|error| Error::Failed(format!("cannot encode a PNG: {error}")))?;
        let folder = path.parent().unwrap_or(path);
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        save(path, png.get_ref())
    }
}

/// Writes a whole file.
pub(super) fn save(path: &Path, bytes: &[u8]) -> Result<()> {
    fs::write(path, bytes).map_err(Error::io("write", path))
}
