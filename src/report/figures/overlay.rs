//! A map over its image: colours, and the outline of a mask.

use image::{Rgb, RgbImage};

use super::gallery::Scale;

/// How much of a colour lies over the image.
const OPACITY: f64 = 0.5;

/// The image in grey below the colours of a map of its size.
///
/// # Panics
/// When the map is smaller than the image.
pub fn heat(image: &RgbImage, map: &[f32], scale: &Scale) -> RgbImage {
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let Rgb([red, green, blue]) = *image.get_pixel(x, y);
        let grey = 0.299 * f64::from(red) + 0.587 * f64::from(green) + 0.114 * f64::from(blue);
        let colour = scale.color(f64::from(map[(y * image.width() + x) as usize]));
        Rgb(colour.map(|part| (OPACITY * f64::from(part) + (1.0 - OPACITY) * grey).round() as u8))
    })
}

/// Draws the outline of what is set in a mask of the image's size: its pixels that have a neighbour which is not set, or none.
///
/// # Panics
/// When the mask is smaller than the image.
pub fn outline(image: &mut RgbImage, mask: &[bool], colour: [u8; 3]) {
    let (width, height) = (image.width() as usize, image.height() as usize);
    let set = |x: usize, y: usize| x < width && y < height && mask[y * width + x];
    for y in 0..height {
        for x in 0..width {
            let around = [(x.wrapping_sub(1), y), (x + 1, y), (x, y.wrapping_sub(1)), (x, y + 1)];
            if set(x, y) && !around.into_iter().all(|(x, y)| set(x, y)) {
                image.put_pixel(x as u32, y as u32, Rgb(colour));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{data::painted, report::figures::gallery::GREYS};

    #[test]
    fn colours_lie_over_grey_and_outlines_are_one_pixel() {
        let image = painted(&[200, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0], [3, 2, 2]);
        assert_eq!(image.get_pixel(0, 0), &Rgb([200, 100, 0]));
        let scale = Scale { label: String::new(), range: (0.0, 2.0), stops: GREYS };
        let over = heat(&image, &[2.0, 1.0, 0.0, -5.0], &scale);
        let greys: Vec<u8> = over.pixels().map(|pixel| pixel.0[0]).collect();
        // 0.299 · 200 + 0.587 · 100 = 118.5
        assert_eq!(greys, [187, 64, 0, 0]);

        let mut image = RgbImage::new(5, 5);
        let mask: Vec<bool> = (0..25).map(|at| at / 5 >= 1 && at % 5 >= 1).collect();
        outline(&mut image, &mask, [255, 0, 0]);
        let rows: Vec<String> = (0..5)
            .map(|y| (0..5).map(|x| if image.get_pixel(x, y).0[0] == 255 { '#' } else { '.' }).collect())
            .collect();
        assert_eq!(rows, [".....", ".####", ".#..#", ".#..#", ".####"]);
    }
}
