//! Bringing pictures to one shape: grey ↔ RGB, resize, centre crop.
//!
//! The steps are torchvision's `Resize(s)` and `CenterCrop(s)` on PIL images, which energy_ood and OpenOOD apply to their
//! OOD sets; values agree with Pillow's to one grey level (Pillow rounds between its two passes, we do not).

use image::{ImageBuffer, Luma, imageops};
use rayon::prelude::*;

use super::{
    form::{Fit, Mode, Resize},
    resample,
};
use crate::{Error, Result};

/// What is done where nothing is said.
const BILINEAR: Resize = Resize { mode: Mode::Bilinear, antialias: true };

/// All images of `pixels` (N, C, H, W) at the shape `to` = \[C', H', W'\].
pub(super) fn images(pixels: &[u8], from: [usize; 3], to: [usize; 3], fit: Fit) -> Result<Vec<u8>> {
    check(from)?;
    check(to)?;
    let length = from.iter().product::<usize>();
    let mut result = vec![0; pixels.len() / length * to.iter().product::<usize>()];
    result
        .par_chunks_exact_mut(to.iter().product())
        .zip(pixels.par_chunks_exact(length))
        .try_for_each(|(out, image)| one(image, from, to, fit, out))?;
    Ok(result)
}

/// One image (C, H, W) at the shape `to`, into `out`.
pub(super) fn one(image: &[u8], from: [usize; 3], to: [usize; 3], fit: Fit, out: &mut [u8]) -> Result<()> {
    let [_, height, width] = from;
    let grey;
    let planes = if from[0] == 3 && to[0] == 1 {
        grey = luma(image);
        &grey
    } else {
        image
    };
    let planes: Vec<Vec<u8>> = planes
        .chunks_exact(height * width)
        .map(|plane| resize(plane, [height, width], [to[1], to[2]], fit))
        .collect::<Result<_>>()?;
    // A grey picture's one plane is repeated for R, G and B.
    for (out, plane) in out.chunks_exact_mut(to[1] * to[2]).zip(planes.iter().cycle()) {
        out.copy_from_slice(plane);
    }
    if let Some(brightness) = fit.brightness {
        brightness.shift(out, to[0]);
    }
    Ok(())
}

/// Luma of planes R, G, B, in Pillow's fixed-point form of 0.299 R + 0.587 G + 0.114 B.
pub(super) fn luma(image: &[u8]) -> Vec<u8> {
    let (red, rest) = image.split_at(image.len() / 3);
    let (green, blue) = rest.split_at(rest.len() / 2);
    let pixels = red.iter().zip(green).zip(blue);
    pixels
        .map(|((&r, &g), &b)| {
            ((u32::from(r) * 19595 + u32::from(g) * 38470 + u32::from(b) * 7471 + 0x8000) >> 16) as u8
        })
        .collect()
}

/// What an image is scaled to, and where in that the result begins.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// Rows and columns.
    pub scaled: [usize; 2],
    /// The row and the column of its first pixel.
    pub corner: [usize; 2],
}

impl Frame {
    /// Of an image of `height` by `width` that is brought to `rows` by `columns`.
    pub fn of([height, width]: [usize; 2], [rows, columns]: [usize; 2], fit: Fit) -> Self {
        let scaled = match fit.share() {
            None => [rows, columns],
            Some(share) => {
                let [cover_rows, cover_columns] = [rows, columns].map(|side| (side as f64 / share).round() as usize);
                if height * cover_columns <= width * cover_rows {
                    [cover_rows, width * cover_rows / height]
                } else {
                    [height * cover_columns / width, cover_columns]
                }
            }
        };
        Self { scaled, corner: [centre(scaled[0] - rows), centre(scaled[1] - columns)] }
    }
}

/// One plane scaled so that it just covers `to`, or more where less is kept, then cut about the centre; or scaled to it.
fn resize(plane: &[u8], [height, width]: [usize; 2], [rows, columns]: [usize; 2], fit: Fit) -> Result<Vec<u8>> {
    let Frame { scaled: [scaled_rows, scaled_columns], corner: [top, left] } =
        Frame::of([height, width], [rows, columns], fit);
    let scaled = if [scaled_rows, scaled_columns] == [height, width] {
        plane.to_vec()
    } else if let Some(Resize { mode, antialias }) = fit.resize.filter(|resize| *resize != BILINEAR) {
        resample::planes(plane, [height, width], [scaled_rows, scaled_columns], mode, antialias)
    } else {
        let too_large = || Error::input(format!("a {height}×{width} picture is too large to resize"));
        let side = |length: usize| u32::try_from(length).map_err(|_| too_large());
        let plane = ImageBuffer::<Luma<u8>, _>::from_raw(side(width)?, side(height)?, plane).ok_or_else(too_large)?;
        imageops::resize(&plane, side(scaled_columns)?, side(scaled_rows)?, imageops::FilterType::Triangle).into_raw()
    };
    let kept = scaled.chunks_exact(scaled_columns).skip(top).take(rows);
    Ok(kept.flat_map(|row| &row[left..left + columns]).copied().collect())
}

/// Half of `excess`, a half rounded to even as Python's `round` does in torchvision's `CenterCrop`.
fn centre(excess: usize) -> usize {
    let half = excess / 2;
    if excess % 2 == 1 && half % 2 == 1 { half + 1 } else { half }
}

/// Refuses shapes that no image has.
fn check([channels, height, width]: [usize; 3]) -> Result<()> {
    if (channels == 1 || channels == 3) && height > 0 && width > 0 {
        return Ok(());
    }
    Err(Error::input(format!("{channels} channels of {height}×{width} pixels: images have 1 or 3 channels and a size")))
}

#[cfg(test)]
mod tests {
    use super::{super::form::Brightness, *};

    fn pixels(values: &serde_json::Value) -> Vec<u8> {
        values.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u8).collect()
    }

    #[test]
    fn resizes_crops_and_greys_as_torchvision_on_pillow() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/data/conform.json")).unwrap();
        let shape = |v: &serde_json::Value| -> [usize; 3] { serde_json::from_value(v.clone()).unwrap() };
        let cases = golden["cases"].as_array().unwrap();
        assert!(cases.len() >= 6);
        for case in cases {
            let ours =
                images(&pixels(&case["image"]), shape(&case["from"]), shape(&case["to"]), Fit::default()).unwrap();
            let theirs = pixels(&case["expected"]);
            assert_eq!(ours.len(), theirs.len());
            // Pillow rounds to a byte between its passes: one grey level.
            let worst = ours.iter().zip(&theirs).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            assert!(worst <= 1, "{} differs by {worst}", case["name"]);
        }
    }

    #[test]
    fn modes_and_crops_are_those_of_pillow_and_opencv() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/data/resize.json")).unwrap();
        let cases = golden["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 13);
        for case in cases {
            let of = |key: &str| -> [usize; 3] { serde_json::from_value(case[key].clone()).unwrap() };
            let keys = serde_json::json!({ "mode": case["mode"], "antialias": case["antialias"] });
            let resize: Resize = serde_json::from_value(keys).unwrap();
            let fit = Fit {
                resize: Some(resize),
                crop: Some(serde_json::from_value(case["crop"].clone()).unwrap()),
                ..Fit::default()
            };
            let ours = images(&pixels(&case["image"]), of("from"), of("to"), fit).unwrap();
            let theirs = pixels(&case["expected"]);
            assert_eq!(ours.len(), theirs.len());
            let worst = ours.iter().zip(&theirs).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
            // Pillow rounds between the passes of the default, and OpenCV computes in f32; all others agree to the byte.
            let tolerance = u8::from(resize == BILINEAR || (!resize.antialias && resize.mode != Mode::Nearest));
            assert!(worst <= tolerance, "{resize:?} {:?}: off by {worst}", fit.crop);
        }
    }

    #[test]
    fn grey_to_rgb_repeats() {
        assert_eq!(
            images(&[1, 2, 3, 4], [1, 2, 2], [3, 2, 2], Fit::default()).unwrap(),
            [1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]
        );
    }

    #[test]
    fn images_are_shifted_to_a_median_grey() {
        let at = |median: f64| Fit { brightness: Some(Brightness::Median(median)), ..Fit::default() };
        let shifted = |image: &[u8], shape, median| images(image, shape, shape, at(median)).unwrap();
        // The median of 10, 20, 40, 250 is 30, and 0.4 is 102.
        assert_eq!(shifted(&[10, 250, 40, 20], [1, 2, 2], 0.4), [82, 255, 112, 92]);
        assert_eq!(shifted(&[10, 250, 40, 20], [1, 2, 2], 0.0), [0, 220, 10, 0]);
        // Of colours it is that of the luma, 0.299·R + 0.587·G + 0.114·B = 81: all channels move alike, and hues stay.
        assert_eq!(shifted(&[100, 80, 40], [3, 1, 1], 0.4), [121, 101, 61]);
        // Each image for itself, at the size that it is brought to.
        let both = images(&[10, 10, 200, 200], [1, 1, 2], [1, 1, 1], at(0.5)).unwrap();
        assert_eq!(both, [128, 128]);
    }

    #[test]
    fn impossible_shapes_are_refused() {
        assert!(images(&[0; 4], [1, 2, 2], [2, 2, 2], Fit::default()).is_err());
        assert!(images(&[0; 4], [1, 2, 2], [1, 0, 2], Fit::default()).is_err());
    }
}
