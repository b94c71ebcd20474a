//! Holes in images: random erasing (Zhong et al. 2020) and cutout (DeVries & Taylor 2017).

use rand::Rng as _;
use rand_distr::{Distribution as _, StandardNormal};

use super::{Image, Window, below, sides};
use crate::{
    config::{Cutout, Erasing, Fill},
    data::Normalisation,
    rng::Rng,
};

/// torchvision's `RandomErasing`.
pub(super) fn rectangle(image: &mut Image, settings: &Erasing, normalisation: &Normalisation, rng: &mut Rng) {
    if rng.random_bool(settings.p)
        && let Some(window) = window(image.height, image.width, settings, rng)
    {
        fill(image, window, settings.value, normalisation, rng);
    }
}

/// `RandomErasing.get_params`: the first of ten draws that fits, or none.
pub(super) fn window(height: usize, width: usize, settings: &Erasing, rng: &mut Rng) -> Option<Window> {
    for _ in 0..10 {
        let [h, w] = sides(height * width, settings.scale, settings.ratio, rng);
        if h < height && w < width {
            let top = below(height - h + 1, rng);
            let left = below(width - w + 1, rng);
            return Some([top, left, h, w]);
        }
    }
    None
}

/// The authors' `Cutout`: squares about pixels drawn evenly, cut at the border.
pub(super) fn cutout(image: &mut Image, settings: &Cutout, normalisation: &Normalisation, rng: &mut Rng) {
    for _ in 0..settings.holes {
        let y = below(image.height, rng);
        let x = below(image.width, rng);
        let window = square(image.height, image.width, [y, x], settings.length);
        fill(image, window, settings.value, normalisation, rng);
    }
}

/// From `length / 2` before the pixel, `length / 2` on after it.
pub(super) fn square(height: usize, width: usize, [y, x]: [usize; 2], length: usize) -> Window {
    let (top, left) = (y.saturating_sub(length / 2), x.saturating_sub(length / 2));
    let (bottom, right) = ((y + length / 2).min(height), (x + length / 2).min(width));
    [top, left, bottom - top, right - left]
}

/// Fills a rectangle of every channel.
pub(super) fn fill(
    image: &mut Image,
    [top, left, height, width]: Window,
    value: Fill,
    normalisation: &Normalisation,
    rng: &mut Rng,
) {
    let columns = image.width;
    let level = |value: f32| (value * 255.0).round() as u8;
    for (channel, plane) in image.planes_mut().enumerate() {
        let (mean, std) = (normalisation.mean[channel], normalisation.std[channel]);
        for row in plane.chunks_exact_mut(columns).skip(top).take(height) {
            let hole = &mut row[left..left + width];
            match value {
                Fill::Mean => hole.fill(level(mean)),
                Fill::Black => hole.fill(0),
                Fill::Random => hole.fill_with(|| {
                    let draw: f32 = StandardNormal.sample(rng);
                    level(mean + std * draw)
                }),
            }
        }
    }
}
