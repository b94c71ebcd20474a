//! Pseudo-anomalies: images with a part that is made anomalous, and which pixels these are.
//!
//! A maker is one file with its settings. It changes an image and says which region it changed. [`Marks`] turns that into a
//! mask, and [`Foreground`] keeps changes on the object. [`of`] is the pool: its image number `entry` depends on the seed, the
//! maker's name and settings, and the entry alone.
//!
//! Lengths in pixels are for an image whose shorter side has 256, as in the literature, and scale with that side. Makers
//! with such lengths have a key `side` that says another number.

mod confetti;
mod cutpaste;
mod foreground;
mod marks;
mod nsa;
mod perlin;
mod poisson;
mod scar;
mod texture;

pub use foreground::Foreground;
pub use marks::{Changed, Marks};

use std::borrow::Cow;

use rand::Rng as _;

use super::{
    ImageSet, Normalisation,
    augment::{About, Alter, ColorJitter, Image, Spread, below, crop::window_of},
};
use crate::{
    Error, Result,
    rng::{self, Rng},
    yaml::registry::registry,
};
use foreground::Object;

registry! {
    /// What makes a pseudo-anomaly of a normal image. Each has a `weight`, its share in a list of them.
    pub enum Pseudo: Maker, "a maker's name, or a map of its name and settings" {
        /// A rectangle of the image, its colours jittered, pasted elsewhere in it (CutPaste, Li et al. 2021).
        CutPaste = "cutpaste" in cutpaste,
        /// A thin strip of the image, its colours jittered, turned and pasted elsewhere in it (CutPaste's scar, Li et al. 2021).
        Scar = "scar" in scar,
        /// Blurred dark squares of random colours, sizes and angles (confetti noise, Liznerski et al. 2021).
        Confetti = "confetti" in confetti,
        /// Another image, strongly changed, blended in where Perlin noise is high (DRAEM, Zavrtanik et al. 2021).
        Perlin = "perlin" in perlin,
        /// Rectangles of another image, joined to this one without a seam (NSA, Schlüter et al. 2022).
        Nsa = "nsa" in nsa,
    }
}

/// What a maker's settings do.
pub trait Maker: Sized + 'static {
    /// Names with settings.
    const PRESETS: &'static [(&'static str, Self)] = &[];
    /// Whether it takes another image of the set.
    const OF_ANOTHER: bool = false;
    /// Milliseconds that a colour image of 256×256 takes one thread: `docs/performance.md`.
    const MILLISECONDS: f64;

    /// Its share among the makers of a list.
    fn weight(&self) -> f64;

    /// Whether it can work on images of a shape (channels, rows, columns).
    ///
    /// # Errors
    /// What is wrong, in words that follow the maker's place in a file: `area: …`.
    fn check(&self, shape: [usize; 3]) -> std::result::Result<(), String>;

    /// The changed image, and in `mask` the region that was changed.
    ///
    /// # Errors
    /// Those of reading an image.
    fn make(&self, of: &Source<'_>, rng: &mut Rng) -> Result<Made>;
}

/// A pseudo-anomaly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Made {
    /// The bytes (C, H, W).
    pub image: Vec<u8>,
    /// (H, W), 1 where a pixel is anomalous, else 0.
    pub mask: Vec<u8>,
}

/// The image that a pseudo-anomaly is made of, or a window of it, and those beside it.
#[derive(Debug)]
pub struct Source<'a> {
    images: &'a ImageSet,
    shape: [usize; 3],
    index: usize,
    bytes: Cow<'a, [u8]>,
    foreground: &'a Foreground,
    object: Option<Object>,
}

impl<'a> Source<'a> {
    /// Image `index` of a set. `foreground` says where it may be changed.
    ///
    /// # Errors
    /// Those of [`ImageSet::image`]; `Error::Input` when no object is found.
    ///
    /// # Panics
    /// When `index` is not below the number of images.
    pub fn new(images: &'a ImageSet, index: usize, foreground: &'a Foreground) -> Result<Self> {
        Self::of((images, images.shape()), index, images.image(index)?, foreground)
    }

    /// The same with these bytes, changed at random or not: of the whole image or of a window of it, as the shape tells.
    fn of(
        (images, shape): (&'a ImageSet, [usize; 3]),
        index: usize,
        bytes: Cow<'a, [u8]>,
        foreground: &'a Foreground,
    ) -> Result<Self> {
        let object = foreground.object(&bytes, shape).map_err(|problem| {
            Error::input(format!("foreground: {problem} in {}", named(images, index)))
                .hint("lower `threshold`, or leave `foreground` out")
        })?;
        Ok(Self { images, shape, index, bytes, foreground, object })
    }

    /// Another image, each as likely, or a window of it; the same image if there is one only.
    fn another(&self, rng: &mut Rng) -> Result<Self> {
        let others = self.images.len() - 1;
        let index = match others {
            0 => self.index,
            _ => Some(below(others, rng)).map_or(0, |drawn| drawn + usize::from(drawn >= self.index)),
        };
        let mut bytes = self.images.image(index)?;
        if self.shape != self.images.shape() {
            let [_, height, width] = self.images.shape();
            let whole = Image { height, width, bytes: bytes.into_owned() };
            bytes = Cow::Owned(window_of(&whole, [self.shape[1], self.shape[2]], rng).bytes);
        }
        Self::of((self.images, self.shape), index, bytes, self.foreground)
    }

    /// Channels, rows, columns.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// A copy that can be changed.
    fn image(&self) -> Image {
        let [_, height, width] = self.shape();
        Image { height, width, bytes: self.bytes.to_vec() }
    }

    /// Where a region of so many rows and columns is put: its top row and left column. Every place inside the image is as likely, or
    /// the object decides. `covers` says which of its pixels count.
    fn place(&self, sides: [usize; 2], covers: &[bool], rng: &mut Rng) -> [usize; 2] {
        let [_, height, width] = self.shape();
        match &self.object {
            Some(object) => object.place(sides, covers, rng),
            None => [below(height - sides[0] + 1, rng), below(width - sides[1] + 1, rng)],
        }
    }
}

impl Pseudo {
    /// Its share among the makers of a list.
    pub fn weight(&self) -> f64 {
        of_settings!(self, settings => settings.weight())
    }

    /// As [`Maker::OF_ANOTHER`].
    pub fn is_of_another(&self) -> bool {
        fn of<M: Maker>(_: &M) -> bool {
            M::OF_ANOTHER
        }
        of_settings!(self, settings => of(settings))
    }

    /// Seconds that an image of a shape (channels, rows, columns) takes one thread, about.
    pub fn seconds(&self, [_, height, width]: [usize; 3]) -> f64 {
        fn of<M: Maker>(_: &M) -> f64 {
            M::MILLISECONDS
        }
        of_settings!(self, settings => of(settings)) / 1000.0 * (height * width) as f64 / (SIDE * SIDE) as f64
    }

    /// Whether it can work on images of a shape (channels, rows, columns).
    ///
    /// # Errors
    /// What is wrong, in words that follow the maker's place in a file: `area: …`.
    pub fn check(&self, shape: [usize; 3]) -> std::result::Result<(), String> {
        of_settings!(self, settings => settings.check(shape))
    }

    /// The changed image, and in `mask` the region that was changed, which may be empty.
    ///
    /// # Errors
    /// Those of reading an image.
    pub fn make(&self, of: &Source<'_>, rng: &mut Rng) -> Result<Made> {
        of_settings!(self, settings => settings.make(of, rng))
    }
}

/// How often an image is made again if none of its pixels is anomalous. Ours: enough that a chance of one half does not end a
/// training.
const ATTEMPTS: usize = 50;

/// The image number `entry` of the pool: made of image `entry` mod N by a maker drawn by the weights. The bytes `image` (C, H, W) of the given
/// shape are that image, changed at random or not, or a window of it.
///
/// The maker is drawn from the stream (seed, `pseudo`, entry), all else from (seed, its name, `pseudo` entry). So another mix
/// leaves the images of a maker as they are. At least one pixel is anomalous: the image is made again from the same stream until
/// one is.
///
/// # Errors
/// `Error::Input` when there is no image or no maker with a weight, no object is found, or fifty draws change no pixel; those of
/// reading an image.
pub fn of(
    make: &[Pseudo],
    marks: &Marks,
    foreground: &Foreground,
    (images, shape): (&ImageSet, [usize; 3]),
    (entry, image): (usize, &[u8]),
    seed: u64,
) -> Result<Made> {
    if images.is_empty() {
        return Err(Error::input(format!("pseudo-anomalies: data set \"{}\" has no images", images.name)));
    }
    let maker = &make[place(make, entry, seed)?];
    let mut rng = rng::stream(seed, maker.name(), &format!("pseudo {entry}"));
    let source = Source::of((images, shape), entry % images.len(), Cow::Borrowed(image), foreground)?;
    for _ in 0..ATTEMPTS {
        let Made { image, mask: region } = maker.make(&source, &mut rng)?;
        let mask = marks.mask(&source.bytes, &image, region, source.shape());
        if mask.contains(&1) {
            return Ok(Made { image, mask });
        }
    }
    let (name, image) = (maker.name(), named(images, source.index));
    let hint = match marks {
        Marks::Changed(_) => "a smaller `tolerance` or `median`, `mask: region`, or no image of one colour only",
        Marks::Region(_) => "larger sizes",
    };
    Err(Error::input(format!("make: {name} makes no pixel of {image} anomalous in {ATTEMPTS} draws")).hint(hint))
}

/// The place among `make` of the maker that image number `entry` of the pool is made by, drawn by the weights.
///
/// # Errors
/// `Error::Input` when no maker has a weight.
pub(super) fn place(make: &[Pseudo], entry: usize, seed: u64) -> Result<usize> {
    let total: f64 = make.iter().map(Pseudo::weight).sum();
    let mut left = rng::stream(seed, "pseudo", &entry.to_string()).random::<f64>() * total;
    let mut weighted = (0..make.len()).filter(|place| make[*place].weight() > 0.0);
    let found = weighted.clone().find(|place| {
        left -= make[*place].weight();
        left < 0.0
    });
    // Rounding may leave a little behind the last.
    found
        .or(weighted.next_back())
        .ok_or_else(|| Error::input("make: no maker has a weight above 0").hint("make: [cutpaste, scar, confetti]"))
}

/// For errors: the image's file, or its place.
fn named(images: &ImageSet, index: usize) -> String {
    let file = images.files.as_ref().and_then(|files| files.get(index));
    file.map_or_else(
        || format!("image {index} of \"{}\"", images.name),
        |file| format!("{file} of \"{}\"", images.name),
    )
}

/// How much longer a length is in an image of this shape than in one whose shorter side is `side`.
fn scale([_, height, width]: [usize; 3], side: usize) -> f64 {
    height.min(width) as f64 / side as f64
}

/// The side of the images that lengths of the literature are for.
const SIDE: usize = 256;
/// The largest `side`, ours: beyond any image.
const MOST_SIDE: usize = 65_536;

/// torchvision's `ColorJitter` of one strength: brightness, contrast and saturation by 1 ± `strength`, the hue by ± `strength`
/// turns.
fn jitter(image: &mut Image, strength: f64, rng: &mut Rng) {
    let about = Spread::About(strength);
    let jitter = ColorJitter { brightness: about, contrast: about, saturation: about, hue: about };
    let normalisation = Normalisation { mean: Vec::new(), std: Vec::new() };
    jitter.alter(image, &About { normalisation: &normalisation, mirrored: false }, rng);
}

/// Pastes a patch at a place, where `covers` says so. Marks it in `region`.
fn paste(image: &mut Image, region: &mut [u8], patch: &Image, [top, left]: [usize; 2], covers: &[bool]) {
    let (rows, columns, width) = (patch.height, patch.width, image.width);
    let at = |place: usize| (top + place / columns) * width + left + place % columns;
    let covered = || (0..rows * columns).filter(|place| covers[*place]);
    for (plane, patch) in image.planes_mut().zip(patch.planes()) {
        covered().for_each(|place| plane[at(place)] = patch[place]);
    }
    covered().for_each(|place| region[at(place)] = 1);
}

#[cfg(test)]
mod tests;
