//! Brightness, contrast, saturation, hue, sharpness and changes of grey levels, as Pillow's `ImageEnhance` and `ImageOps`.

use garde::Validate;
use rand::seq::SliceRandom;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    About, Alter, Image, even,
    spread::{Spread, within},
};
use crate::{data::conform::luma, rng::Rng};

/// Settings of `color_jitter`. torchvision's defaults: 0, no change.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ColorJitter {
    /// The factor of brightness: from max(0, 1 − b) to 1 + b, or from one of two numbers to the other.
    #[garde(custom(within(0.0, 100.0)))]
    pub brightness: Spread,
    /// The factor of contrast, likewise.
    #[garde(custom(within(0.0, 100.0)))]
    pub contrast: Spread,
    /// The factor of saturation, likewise; grey images have none.
    #[garde(custom(within(0.0, 100.0)))]
    pub saturation: Spread,
    /// The turn of the hue, in turns: from −h to h, or from one of two numbers to the other; grey images have none.
    #[garde(custom(within(-0.5, 0.5)))]
    pub hue: Spread,
}

/// torchvision's `ColorJitter`: four factors drawn evenly, applied in a random order.
impl Alter for ColorJitter {
    fn alter(&self, image: &mut Image, _: &About<'_>, rng: &mut Rng) {
        let (order, [brightness, contrast, saturation, hue]) = draw(self, rng);
        for kind in order {
            match kind {
                0 => adjust_brightness(image, brightness),
                1 => adjust_contrast(image, contrast),
                2 => adjust_saturation(image, saturation),
                // Through HSV and back, bytes lose some of their colour; torchvision goes there only when asked to.
                _ if self.hue.about(0.0) == [0.0, 0.0] => {}
                _ => turn_hue(image, hue),
            }
        }
    }
}

/// `ColorJitter.get_params`: the order of brightness, contrast, saturation and hue, and their values.
pub(super) fn draw(settings: &ColorJitter, rng: &mut Rng) -> ([usize; 4], [f64; 4]) {
    let mut order = [0, 1, 2, 3];
    order.shuffle(rng);
    let mut factor = |spread: Spread| {
        let [from, to] = spread.about(1.0);
        even([from.max(0.0), to], rng)
    };
    let factors = [settings.brightness, settings.contrast, settings.saturation].map(&mut factor);
    let hue = even(settings.hue.about(0.0), rng);
    (order, [factors[0], factors[1], factors[2], hue])
}

/// Pillow's `Image.blend` of bytes: `from` at 0, `to` at 1, beyond them at other factors.
fn blend(from: u8, to: u8, factor: f32) -> u8 {
    // A cast cuts to 0..=255 and towards 0, as Pillow does.
    (f32::from(from) + factor * (f32::from(to) - f32::from(from))) as u8
}

/// `ImageEnhance.Brightness`.
pub(in crate::data) fn adjust_brightness(image: &mut Image, factor: f64) {
    levels(image, |level| blend(0, level, factor as f32));
}

/// `ImageEnhance.Contrast`: about the mean grey level, which is rounded.
pub(in crate::data) fn adjust_contrast(image: &mut Image, factor: f64) {
    let grey = if image.planes().len() == 3 { luma(&image.bytes) } else { image.bytes.clone() };
    let sum: u64 = grey.iter().map(|level| u64::from(*level)).sum();
    let mean = (sum as f64 / grey.len() as f64 + 0.5) as u8;
    levels(image, |level| blend(mean, level, factor as f32));
}

/// `ImageEnhance.Color`: about the pixel's own grey level.
pub(in crate::data) fn adjust_saturation(image: &mut Image, factor: f64) {
    if image.planes().len() != 3 {
        return;
    }
    let grey = luma(&image.bytes);
    for plane in image.planes_mut() {
        plane.iter_mut().zip(&grey).for_each(|(pixel, grey)| *pixel = blend(*grey, *pixel, factor as f32));
    }
}

/// torchvision's `adjust_hue`: a part of a turn, through Pillow's HSV bytes.
pub(in crate::data) fn turn_hue(image: &mut Image, turns: f64) {
    // From −127 to 127 steps of 256, which the byte goes round by.
    let steps = (turns * 255.0) as i32 as u8;
    let Some([red, green, blue]) = image.colours_mut() else { return };
    for ((red, green), blue) in red.iter_mut().zip(green).zip(blue) {
        let [hue, saturation, value] = hsv([*red, *green, *blue]);
        [*red, *green, *blue] = rgb([hue.wrapping_add(steps), saturation, value]);
    }
}

/// Pillow's `rgb2hsv_row`.
pub(in crate::data) fn hsv([red, green, blue]: [u8; 3]) -> [u8; 3] {
    let most = red.max(green).max(blue);
    let least = red.min(green).min(blue);
    if most == least {
        return [0, 0, most];
    }
    let range = f32::from(most - least);
    let [from_red, from_green, from_blue] = [red, green, blue].map(|level| f32::from(most - level) / range);
    let sixths = if red == most {
        from_blue - from_green
    } else if green == most {
        (2.0 + f64::from(from_red) - f64::from(from_blue)) as f32
    } else {
        (4.0 + f64::from(from_green) - f64::from(from_red)) as f32
    };
    let turns = ((f64::from(sixths) / 6.0 + 1.0) % 1.0) as f32;
    let saturation = range / f32::from(most);
    [(f64::from(turns) * 255.0) as u8, (f64::from(saturation) * 255.0) as u8, most]
}

/// Pillow's `hsv2rgb_row`.
pub(in crate::data) fn rgb([hue, saturation, value]: [u8; 3]) -> [u8; 3] {
    if saturation == 0 {
        return [value; 3];
    }
    let sixths = f64::from(hue) * 6.0 / 255.0;
    let sixth = sixths.floor();
    let part = f64::from((sixths - sixth) as f32);
    let saturation = f64::from((f64::from(saturation) / 255.0) as f32);
    let level = |factor: f64| (f64::from(value) * factor).round() as u8;
    let p = level(1.0 - saturation);
    let q = level(1.0 - saturation * part);
    let t = level(1.0 - saturation * (1.0 - part));
    match sixth as u32 % 6 {
        0 => [value, t, p],
        1 => [q, value, p],
        2 => [p, value, t],
        3 => [p, q, value],
        4 => [t, p, value],
        _ => [value, p, q],
    }
}

/// `ImageEnhance.Sharpness`: about the image smoothed by (1, 1, 1; 1, 5, 1; 1, 1, 1) / 13, whose border is the image's.
pub(in crate::data) fn adjust_sharpness(image: &mut Image, factor: f64) {
    let (height, width) = (image.height, image.width);
    for plane in image.planes_mut() {
        let before = plane.to_vec();
        for y in 1..height.saturating_sub(1) {
            for x in 1..width.saturating_sub(1) {
                let around = (y - 1..=y + 1).flat_map(|y| &before[y * width + x - 1..=y * width + x + 1]);
                let sum = around.map(|level| u32::from(*level)).sum::<u32>() + 4 * u32::from(before[y * width + x]);
                let smooth = (f64::from(sum) / 13.0 + 0.5) as u8;
                plane[y * width + x] = blend(smooth, before[y * width + x], factor as f32);
            }
        }
    }
}

/// `ImageOps.posterize`: the upper `bits` of every level.
pub(in crate::data) fn posterize(image: &mut Image, bits: u32) {
    levels(image, |level| level & !((1_u32 << (8 - bits)) - 1) as u8);
}

/// `ImageOps.solarize`: levels from `threshold` are turned round.
pub(in crate::data) fn solarize(image: &mut Image, threshold: f64) {
    levels(image, |level| if f64::from(level) < threshold { level } else { 255 - level });
}

/// `ImageOps.autocontrast`: each channel's levels stretched to 0..=255.
pub(in crate::data) fn stretch(image: &mut Image) {
    for plane in image.planes_mut() {
        let lowest = plane.iter().copied().min().unwrap_or(0);
        let highest = plane.iter().copied().max().unwrap_or(0);
        if highest > lowest {
            let scale = 255.0 / f64::from(highest - lowest);
            let offset = -f64::from(lowest) * scale;
            plane.iter_mut().for_each(|level| *level = (f64::from(*level) * scale + offset) as u8);
        }
    }
}

/// `ImageOps.equalize`: each channel's levels made equally frequent.
pub(in crate::data) fn equalize(image: &mut Image) {
    for plane in image.planes_mut() {
        let mut counts = [0_usize; 256];
        plane.iter().for_each(|level| counts[usize::from(*level)] += 1);
        let last = counts.iter().rev().find(|count| **count > 0).copied().unwrap_or(0);
        let step = (plane.len() - last) / 255;
        if step == 0 {
            continue;
        }
        let mut sum = step / 2;
        let table: Vec<u8> = counts
            .iter()
            .map(|count| {
                let level = sum / step;
                sum += count;
                level.min(255) as u8
            })
            .collect();
        plane.iter_mut().for_each(|level| *level = table[usize::from(*level)]);
    }
}

/// Every level by a rule.
fn levels(image: &mut Image, rule: impl Fn(u8) -> u8) {
    let table: [u8; 256] = std::array::from_fn(|level| rule(level as u8));
    image.bytes.iter_mut().for_each(|level| *level = table[usize::from(*level)]);
}
