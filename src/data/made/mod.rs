//! OOD images made of other images, for choosing settings where there are no OOD data to choose on: the validation
//! distributions of outlier exposure.
//!
//! Hendrycks, Mazeika & Dietterich 2019, *Deep Anomaly Detection with Outlier Exposure*, <https://arxiv.org/abs/1812.04606>,
//! appendix, which makes them of ID images. The constants are those of its code (hendrycks/outlier-exposure, `CIFAR/test.py`),
//! for 32×32 RGB, and energy_ood's, whose `test.py --validate` is the same; both take the test images of the other CIFAR. Ours
//! are for any size, and rounded to bytes, as all images here are.
//!
//! Every image has a random stream of its own, so that nothing but its set's name and its place decides what is drawn.

mod arithmetic_mean;
mod geometric_mean;
mod inversion;
mod jigsaw;
mod pixelation;
mod rgb_shift;
mod speckle_noise;
mod uniform_noise;

pub use arithmetic_mean::arithmetic_mean;
pub use geometric_mean::geometric_mean;
pub use inversion::inversion;
pub use jigsaw::jigsaw;
pub use pixelation::pixelation;
pub use rgb_shift::rgb_shift;
pub use speckle_noise::speckle_noise;
pub use uniform_noise::uniform_noise;

use std::{borrow::Cow, sync::Arc};

use rand::Rng as _;
use rayon::prelude::*;

use super::{
    ImageSet,
    pixels::{Made, Pixels},
};
use crate::{
    Error, Result,
    rng::{self, Rng},
    yaml::words::words,
};

words! {
    /// A distribution of OOD images that are made of other images, and of as many.
    pub enum Distribution as pub(super) maker: Maker {
        /// Bytes at random; the images give but their number and shape.
        UniformNoise = "uniform_noise" in uniform_noise::UniformNoise,
        /// The mean of two images.
        ArithmeticMean = "arithmetic_mean" in arithmetic_mean::ArithmeticMean,
        /// The geometric mean of two images.
        GeometricMean = "geometric_mean" in geometric_mean::GeometricMean,
        /// Quarters and halves of quarters in other places.
        Jigsaw = "jigsaw" in jigsaw::Jigsaw,
        /// Noise that grows with the brightness.
        SpeckleNoise = "speckle_noise" in speckle_noise::SpeckleNoise,
        /// A fifth of the resolution.
        Pixelation = "pixelation" in pixelation::Pixelation,
        /// Channels moved on by one, the new first one mirrored. Not of grey images.
        RgbShift = "rgb_shift" in rgb_shift::RgbShift,
        /// Green and blue inverted, or the one channel of grey images.
        Inversion = "inversion" in inversion::Inversion,
    }
}

/// What makes an image of others.
pub(super) trait Maker: Sync {
    /// Whether it cannot be made of grey images.
    fn needs_colour(&self) -> bool {
        false
    }

    /// Whether it is made of two images.
    fn needs_two(&self) -> bool {
        false
    }

    /// The bytes of an image of the same shape.
    ///
    /// # Errors
    /// Those of reading an image.
    fn make(&self, of: &Source, rng: &mut Rng) -> Result<Vec<u8>>;
}

/// The image that another is made of, and those beside it.
pub(super) struct Source<'a> {
    images: &'a ImageSet,
    index: usize,
}

impl Source<'_> {
    /// The image (C, H, W).
    fn image(&self) -> Result<Cow<'_, [u8]>> {
        self.images.image(self.index)
    }

    /// Another image, each as likely; of at least two images.
    fn another(&self, rng: &mut Rng) -> Result<Cow<'_, [u8]>> {
        let drawn = rng.random_range(0..self.images.len() - 1);
        self.images.image(drawn + usize::from(drawn >= self.index))
    }

    /// Channels, rows, columns.
    fn shape(&self) -> [usize; 3] {
        self.images.shape()
    }
}

impl Distribution {
    /// Whether it cannot be made of grey images.
    pub fn needs_colour(self) -> bool {
        self.maker().needs_colour()
    }

    /// As many images as there are, without labels, under the distribution's name. The same images under the same name give
    /// the same bytes.
    ///
    /// # Errors
    /// `Error::Input` when it needs colour and the images are grey, or two images and there is one.
    pub fn of(self, images: &ImageSet) -> Result<ImageSet> {
        let (name, count) = (&images.name, images.len());
        if self.needs_colour() && images.channels != 3 {
            let others: Vec<&str> =
                Self::ALL.iter().filter(|other| !other.needs_colour()).map(|other| other.name()).collect();
            return Err(Error::input(format!(
                "data.validation.made: {self} needs colour images, and \"{name}\" is grey"
            ))
            .hint(format!("made: [{}]", others.join(", "))));
        }
        if self.maker().needs_two() && count < 2 {
            return Err(Error::input(format!("data.validation.made: {self} needs two images, and \"{name}\" has one"))
                .hint("hold out more ID images (data.validation.id)"));
        }
        let places = 0..count;
        let pixels = if images.pixels.held().is_some() {
            let made = places.into_par_iter().map(|index| self.image(images, index)).collect::<Result<Vec<_>>>()?;
            Pixels::Held(made.concat())
        } else {
            Pixels::Made(Made { distribution: self, source: Arc::new(images.clone()), places: places.collect() })
        };
        Ok(ImageSet {
            name: self.name().to_owned(),
            pixels,
            labels: None,
            classes: 0,
            files: None,
            masks: None,
            note: None,
            ..*images
        })
    }

    /// The image made of image `index`, and maybe of another, of a set that [`Distribution::of`] takes.
    pub(super) fn image(self, images: &ImageSet, index: usize) -> Result<Vec<u8>> {
        let mut rng = rng::stream(0, self.name(), &format!("{} {index}", images.name));
        self.maker().make(&Source { images, index }, &mut rng)
    }
}
