//! Images one below the other, each with a line about it.

use std::borrow::Cow;

use image::{RgbImage, imageops};

use crate::{
    Result,
    data::painted,
    report::figures::{
        canvas,
        gallery::{self, Gallery, Laid, Line},
    },
};

/// Pixels of a side at most: a larger image is shrunk.
const MOST_PIXELS: u32 = 112;

/// The sheet as PNG. Images are planes (C, H, W) of bytes, grey or red, green and blue, each of this shape.
///
/// # Errors
/// A defect of the drawing library.
pub fn png(title: &str, subtitle: &str, shape: [usize; 3], images: &[(String, Cow<'_, [u8]>)]) -> Result<Vec<u8>> {
    let line = |(label, pixels): &(String, Cow<'_, [u8]>)| Line {
        label: label.clone(),
        groups: vec![vec![shrunk(painted(pixels, shape))]],
    };
    let gallery = Gallery {
        title: title.to_owned(),
        subtitle: subtitle.to_owned(),
        headings: vec![String::new()],
        lines: images.iter().map(line).collect(),
        scales: Vec::new(),
        cell: gallery::CELL,
    };
    canvas::png(&Laid::of(&gallery)?)
}

fn shrunk(image: RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    let longest = width.max(height);
    if longest <= MOST_PIXELS {
        return image;
    }
    let side = |length: u32| (length * MOST_PIXELS / longest).max(1);
    imageops::thumbnail(&image, side(width), side(height))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes_become_colours_and_grey_is_grey() {
        let image = painted(&[1, 2, 3, 4, 5, 6], [3, 1, 2]);
        assert_eq!([image.get_pixel(0, 0).0, image.get_pixel(1, 0).0], [[1, 3, 5], [2, 4, 6]]);
        assert_eq!(painted(&[7, 8], [1, 2, 1]).get_pixel(0, 1).0, [8; 3]);
        assert_eq!(shrunk(RgbImage::new(400, 100)).dimensions(), (112, 28));
    }
}
