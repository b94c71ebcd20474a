//! Strong random changes of an image that is blended in as a texture: those of DRAEM, which has them of imgaug.
//!
//! - Reference code: VitjanZ/DRAEM `data_loader.py`, `augmenters`; imgaug 0.4.
//! - Deviations: brightness is changed in all channels alike, where imgaug changes that of a random colour space; hues and saturations
//!   are Pillow's. Of grey images, those are left as they are.

use rand::{Rng as _, seq::index};

use super::super::augment::{
    Image,
    affine::{Interpolation, Look, rotate},
    colour::{adjust_sharpness, equalize, hsv, posterize, rgb, solarize, stretch},
    even,
};
use crate::rng::Rng;

/// How many changes there are.
pub(super) const CHANGES: usize = 10;

/// Makes `count` different changes, in a random order.
pub(super) fn change(image: &mut Image, count: usize, rng: &mut Rng) {
    for kind in index::sample(rng, CHANGES, count.min(CHANGES)) {
        apply(image, kind, rng);
    }
}

/// Makes the change number `kind`, its strength drawn.
fn apply(image: &mut Image, kind: usize, rng: &mut Rng) {
    let level = |value: f64| value.round().clamp(0.0, 255.0) as u8;
    match kind {
        // GammaContrast((0.5, 2.0), per_channel=True)
        0 => {
            for plane in image.planes_mut() {
                let gamma = even([0.5, 2.0], rng);
                map(plane, |byte| level(255.0 * (byte / 255.0).powf(gamma)));
            }
        }
        // MultiplyAndAddToBrightness(mul=(0.8, 1.2), add=(-30, 30))
        1 => {
            let (factor, more) = (even([0.8, 1.2], rng), even([-30.0, 30.0], rng));
            map(&mut image.bytes, |byte| level(byte * factor + more));
        }
        // EnhanceSharpness(): a factor from 0 to 3
        2 => adjust_sharpness(image, even([0.0, 3.0], rng)),
        // AddToHueAndSaturation((-50, 50), per_channel=True)
        3 => {
            let [hue, saturation] = [0; 2].map(|_| rng.random_range(-50..=50_i16));
            if let Some([reds, greens, blues]) = image.colours_mut() {
                for ((red, green), blue) in reds.iter_mut().zip(greens).zip(blues) {
                    let [h, s, v] = hsv([*red, *green, *blue]);
                    let turned = (i16::from(h) + hue).rem_euclid(256) as u8;
                    [*red, *green, *blue] = rgb([turned, (i16::from(s) + saturation).clamp(0, 255) as u8, v]);
                }
            }
        }
        // Solarize(0.5, threshold=(32, 128))
        4 => {
            let (does, threshold) = (rng.random_bool(0.5), even([32.0, 128.0], rng));
            if does {
                solarize(image, threshold);
            }
        }
        // Posterize(): 1 to 8 bits
        5 => posterize(image, rng.random_range(1..=8)),
        // Invert()
        6 => image.bytes.iter_mut().for_each(|byte| *byte = 255 - *byte),
        7 => stretch(image),
        8 => equalize(image),
        // Affine(rotate=(-45, 45))
        _ => rotate(image, even([-45.0, 45.0], rng), Look { interpolation: Interpolation::Bilinear, fill: 0 }),
    }
}

/// Maps every byte by a function of its level.
fn map(bytes: &mut [u8], of: impl Fn(f64) -> u8) {
    let table: [u8; 256] = std::array::from_fn(|byte| of(byte as f64));
    bytes.iter_mut().for_each(|byte| *byte = table[usize::from(*byte)]);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rng::stream;

    fn ramp() -> Image {
        Image { height: 8, width: 32, bytes: (0..3 * 256).map(|at| ((at * 5 + at / 256 * 60) % 256) as u8).collect() }
    }

    fn changed(kind: usize, draw: u64) -> Image {
        let mut image = ramp();
        apply(&mut image, kind, &mut stream(draw, "texture", ""));
        image
    }

    #[test]
    fn every_kind_changes_an_image_and_keeps_its_size() {
        for kind in 0..CHANGES {
            let made: BTreeSet<Vec<u8>> = (0..20).map(|draw| changed(kind, draw).bytes).collect();
            assert!(made.iter().all(|bytes| bytes.len() == ramp().bytes.len()));
            // Three have nothing random, and a ramp is stretched and even already.
            let least = match kind {
                6 => 1,
                7 | 8 => 1,
                4 | 5 => 6,
                _ => 15,
            };
            assert!(made.len() >= least, "{kind}: {}", made.len());
        }
        assert!(changed(6, 0).bytes.iter().zip(ramp().bytes).all(|(after, before)| *after == 255 - before));
    }

    #[test]
    fn strengths_stay_in_their_ranges() {
        for draw in 0..200 {
            // The middle level of a gamma from 0.5 to 2: 255·0.5 to the power.
            for (plane, before) in changed(0, draw).planes().zip(ramp().planes()) {
                let at = before.iter().position(|byte| *byte == 100).unwrap();
                assert!((39..=160).contains(&plane[at]), "{}", plane[at]);
            }
            let at = ramp().bytes.iter().position(|byte| *byte == 100).unwrap();
            assert!((50..=150).contains(&changed(1, draw).bytes[at]));
            assert!(changed(4, draw).bytes[at] == 100 || changed(4, draw).bytes[at] == 155);
        }
    }

    #[test]
    fn changes_are_different_ones_in_every_order() {
        let mut orders = BTreeSet::new();
        for draw in 0..3000 {
            let order = index::sample(&mut stream(draw, "texture", ""), CHANGES, 3).into_vec();
            assert_eq!(order.iter().collect::<BTreeSet<_>>().len(), 3);
            orders.insert(order);
        }
        assert!(orders.len() > 680, "{} of 720", orders.len());
        let mut image = ramp();
        change(&mut image, 0, &mut stream(0, "texture", ""));
        assert_eq!(image, ramp());
    }
}
