//! OOD images made of other images, for choosing settings where there are no OOD data to choose on: the validation
//! distributions of outlier exposure.
//!
//! Hendrycks, Mazeika & Dietterich 2019, *Deep Anomaly Detection with Outlier Exposure*, <https://arxiv.org/abs/1812.04606>,
//! appendix, which makes them of ID images. The constants are those of its code (hendrycks/outlier-exposure, `CIFAR/test.py`),
//! for 32×32 RGB, and energy_ood's, whose `test.py --validate` is the same; both take the test images of the other CIFAR. Ours
//! are for any size, and rounded to bytes, as all images here are.
//!
//! Every image has a random stream of its own, so that nothing but its set's name and its place decides what is drawn.

use std::{fmt, sync::Arc};

use rand::Rng as _;
use rand_distr::{Distribution as _, StandardNormal};
use rayon::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    ImageSet,
    pixels::{Made, Pixels},
};
use crate::{
    Error, Result,
    rng::{self, Rng},
};

/// A distribution of OOD images that are made of other images, and of as many.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Distribution {
    /// Bytes at random; the images give but their number and shape.
    UniformNoise,
    /// The mean of two images.
    ArithmeticMean,
    /// The geometric mean of two images.
    GeometricMean,
    /// Quarters and halves of quarters in other places.
    Jigsaw,
    /// Noise that grows with the brightness.
    SpeckleNoise,
    /// A fifth of the resolution.
    Pixelation,
    /// Channels moved on by one, the new first one mirrored. Not of grey images.
    RgbShift,
    /// Green and blue inverted, or the one channel of grey images.
    Inversion,
}

impl Distribution {
    /// All of them, in the order of the reference.
    pub const ALL: [Self; 8] = [
        Self::UniformNoise,
        Self::ArithmeticMean,
        Self::GeometricMean,
        Self::Jigsaw,
        Self::SpeckleNoise,
        Self::Pixelation,
        Self::RgbShift,
        Self::Inversion,
    ];

    /// As in an experiment file.
    pub fn name(self) -> &'static str {
        match self {
            Self::UniformNoise => "uniform_noise",
            Self::ArithmeticMean => "arithmetic_mean",
            Self::GeometricMean => "geometric_mean",
            Self::Jigsaw => "jigsaw",
            Self::SpeckleNoise => "speckle_noise",
            Self::Pixelation => "pixelation",
            Self::RgbShift => "rgb_shift",
            Self::Inversion => "inversion",
        }
    }

    /// Whether it cannot be made of grey images.
    pub fn needs_colour(self) -> bool {
        self == Self::RgbShift
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
        if matches!(self, Self::ArithmeticMean | Self::GeometricMean) && count < 2 {
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
        let (count, shape) = (images.len(), images.shape());
        let mut rng = rng::stream(0, self.name(), &format!("{} {index}", images.name));
        let image = images.image(index)?;
        Ok(match self {
            Self::UniformNoise => uniform_noise(image.len(), &mut rng),
            Self::ArithmeticMean => arithmetic_mean(&image, &images.image(another(index, count, &mut rng))?),
            Self::GeometricMean => geometric_mean(&image, &images.image(another(index, count, &mut rng))?),
            Self::Jigsaw => jigsaw(&image, shape),
            Self::SpeckleNoise => speckle_noise(&image, &mut rng),
            Self::Pixelation => pixelation(&image, shape),
            Self::RgbShift => rgb_shift(&image, shape),
            Self::Inversion => inversion(&image, shape),
        })
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// An image's index but for `index`, each as likely; of at least two images.
fn another(index: usize, count: usize, rng: &mut Rng) -> usize {
    let drawn = rng.random_range(0..count - 1);
    drawn + usize::from(drawn >= index)
}

/// Bytes from 0 to 255, each as likely and for itself.
///
/// The paper draws over the classifier's input space; the code from −1 to 1 after normalisation, which for CIFAR are bytes from
/// 62 to 188 or so. Ours: the input space of images, which are bytes.
pub fn uniform_noise(bytes: usize, rng: &mut Rng) -> Vec<u8> {
    let mut noise = vec![0; bytes];
    rng.fill(noise.as_mut_slice());
    noise
}

/// (a + b) / 2 of two images of one shape, halves rounded up.
pub fn arithmetic_mean(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(&a, &b)| u16::midpoint(a.into(), u16::from(b) + 1) as u8).collect()
}

/// √(a·b) of two images of one shape, rounded; black where one of them is.
pub fn geometric_mean(a: &[u8], b: &[u8]) -> Vec<u8> {
    a.iter().zip(b).map(|(&a, &b)| (f64::from(a) * f64::from(b)).sqrt().round() as u8).collect()
}

/// An image (C, H, W) whose quarters have other places: the lower left one goes to the upper right, the lower right one to the
/// lower left, the upper right one to the lower right with its left and right halves swapped, and in the upper left one the upper
/// and lower halves are swapped.
///
/// No pixel is lost: what an odd number of rows or columns has in the middle stays there.
pub fn jigsaw(image: &[u8], [_, height, width]: [usize; 3]) -> Vec<u8> {
    let (rows, columns) = (height / 2, width / 2);
    let (below, right) = (height - rows, width - columns);
    let source = |y: usize, x: usize| match (y < rows, y >= below, x < columns, x >= right) {
        (true, _, true, _) => (halves_swapped(y, rows), x),
        (true, _, _, true) => (y + below, x - right),
        (_, true, true, _) => (y, x + right),
        (_, true, _, true) => (y - below, right + halves_swapped(x - right, columns)),
        _ => (y, x),
    };
    let mut made = Vec::with_capacity(image.len());
    for channel in image.chunks_exact(height * width) {
        made.extend((0..height * width).map(|at| {
            let (y, x) = source(at / width, at % width);
            channel[y * width + x]
        }));
    }
    made
}

/// Where position `i` of `n` comes from if the two halves change places.
fn halves_swapped(i: usize, n: usize) -> usize {
    let half = n / 2;
    match i {
        _ if i < half => i + n - half,
        _ if i >= n - half => i + half - n,
        _ => i,
    }
}

/// x + x·n of each byte, n normal with deviation 1, cut off at 0 and 255.
pub fn speckle_noise(image: &[u8], rng: &mut Rng) -> Vec<u8> {
    let noisy = |&byte: &u8| {
        let noise: f64 = StandardNormal.sample(rng);
        (f64::from(byte) * (1.0 + noise)).round().clamp(0.0, 255.0) as u8
    };
    image.iter().map(noisy).collect()
}

/// An image (C, H, W) at a fifth of its rows and columns (of 32 at 6), and back: box filters both ways, as Pillow's `BOX`. A pixel
/// is of the cell that its centre is in, and cells are averaged first over columns, then over rows, each rounded.
pub fn pixelation(image: &[u8], [_, height, width]: [usize; 3]) -> Vec<u8> {
    let (rows, columns) = ((height / 5).max(1), (width / 5).max(1));
    let mut made = Vec::with_capacity(image.len());
    for channel in image.chunks_exact(height * width) {
        let narrow: Vec<u8> = channel.chunks_exact(width).flat_map(|row| cell_means(row, columns)).collect();
        let small: Vec<Vec<u8>> = (0..columns)
            .map(|x| narrow.iter().skip(x).step_by(columns).copied().collect::<Vec<u8>>())
            .map(|column| cell_means(&column, rows))
            .collect();
        made.extend((0..height * width).map(|at| {
            let (y, x) = (at / width, at % width);
            small[(2 * x + 1) * columns / (2 * width)][(2 * y + 1) * rows / (2 * height)]
        }));
    }
    made
}

/// The rounded means of `cells` equal stretches, at most as many as there are values. A value on the border of two is of the first.
fn cell_means(values: &[u8], cells: usize) -> Vec<u8> {
    let mut sums = vec![(0u64, 0u64); cells];
    for (i, &value) in values.iter().enumerate() {
        let (sum, count) = &mut sums[((2 * i + 1) * cells).div_ceil(2 * values.len()) - 1];
        *sum += u64::from(value);
        *count += 1;
    }
    sums.into_iter().map(|(sum, count)| ((2 * sum + count) / (2 * count)) as u8).collect()
}

/// An RGB image (3, H, W) as green, blue, red, the green one mirrored left to right.
pub fn rgb_shift(image: &[u8], [_, height, width]: [usize; 3]) -> Vec<u8> {
    let (red, others) = image.split_at(height * width);
    let (green, blue) = others.split_at(height * width);
    let mirrored = green.chunks_exact(width).flat_map(|row| row.iter().rev());
    mirrored.chain(blue).chain(red).copied().collect()
}

/// 255 − x of every channel (C, H, W) but the first, which is left so that the image is farther from any real one; of a grey image
/// (ours) of its one channel.
pub fn inversion(image: &[u8], [channels, height, width]: [usize; 3]) -> Vec<u8> {
    let kept = if channels == 1 { 0 } else { height * width };
    image.iter().enumerate().map(|(at, &byte)| if at < kept { byte } else { 255 - byte }).collect()
}
