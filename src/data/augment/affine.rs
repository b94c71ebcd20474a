//! Rotation, shear and translation: Pillow's affine transform.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    About, Alter, Image, even,
    spread::{Spread, within},
};
use crate::rng::Rng;

/// How a pixel between pixels is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Interpolation {
    /// The nearest pixel.
    #[default]
    Nearest,
    /// The mean of the four around it, by distance.
    Bilinear,
}

/// Settings of `rotation`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rotation {
    /// The angle in degrees: from −d to d, or from one of two numbers to the other.
    #[garde(custom(within(-360.0, 360.0)))]
    pub degrees: Spread,
    /// torchvision's default: `nearest`.
    #[garde(skip)]
    #[serde(default)]
    pub interpolation: Interpolation,
    /// The grey level where there is no image. torchvision's default: 0.
    #[garde(skip)]
    #[serde(default)]
    pub fill: u8,
}

/// (a, b, c, d, e, f): output pixel (x, y) shows the place (a·x + b·y + c, d·x + e·y + f) of the image.
type Matrix = [f64; 6];

/// How the pixels of a turned image are found.
#[derive(Debug, Clone, Copy)]
pub(in crate::data) struct Look {
    pub(in crate::data) interpolation: Interpolation,
    pub(in crate::data) fill: u8,
}

/// torchvision's `RandomRotation`: an angle drawn evenly.
impl Alter for Rotation {
    fn alter(&self, image: &mut Image, _: &About<'_>, rng: &mut Rng) {
        let degrees = even(self.degrees.about(0.0), rng);
        rotate(image, degrees, Look { interpolation: self.interpolation, fill: self.fill });
    }
}

/// Pillow's `rotate` about the centre, counter-clockwise, at the image's size.
pub(in crate::data) fn rotate(image: &mut Image, degrees: f64, look: Look) {
    let angle = -degrees.rem_euclid(360.0).to_radians();
    // To 15 places, so that quarter turns are exact.
    let [cos, sin] = [angle.cos(), angle.sin()].map(|value| format!("{value:.15}").parse().unwrap_or(value));
    let (x, y) = (image.width as f64 / 2.0, image.height as f64 / 2.0);
    transform(image, [cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y], look);
}

/// torchvision's `affine` with a shear along the rows about the corner, by `by` pixels a row.
pub(super) fn shear_x(image: &mut Image, by: f64, look: Look) {
    transform(image, [1.0, by, 0.0, 0.0, 1.0, 0.0], look);
}

/// The same along the columns.
pub(super) fn shear_y(image: &mut Image, by: f64, look: Look) {
    transform(image, [1.0, 0.0, 0.0, by, 1.0, 0.0], look);
}

/// torchvision's `affine` with a translation of whole pixels, right and down.
pub(super) fn translate(image: &mut Image, [x, y]: [f64; 2], look: Look) {
    transform(image, [1.0, 0.0, -x, 0.0, 1.0, -y], look);
}

/// Pillow's `transform(size, AFFINE, matrix, …)`.
fn transform(image: &mut Image, matrix: Matrix, look: Look) {
    let mut bytes = vec![look.fill; image.bytes.len()];
    for (plane, out) in image.planes().zip(bytes.chunks_exact_mut(image.height * image.width)) {
        match look.interpolation {
            Interpolation::Nearest => nearest(plane, image.height, image.width, &matrix, out),
            Interpolation::Bilinear => bilinear(plane, image.height, image.width, &matrix, out),
        }
    }
    image.bytes = bytes;
}

/// In fixed point with 16 bits after the point, as Pillow's `affine_fixed`.
fn nearest(plane: &[u8], height: usize, width: usize, [a, b, c, d, e, f]: &Matrix, out: &mut [u8]) {
    let fix = |value: f64| (value * 65536.0 + 0.5).floor() as i64;
    let inside = |at: i64, length: usize| usize::try_from(at >> 16).ok().filter(|at| *at < length);
    let (x0, y0) = (fix(c + a * 0.5 + b * 0.5), fix(f + d * 0.5 + e * 0.5));
    for (y, out) in out.chunks_exact_mut(width).enumerate() {
        for (x, out) in out.iter_mut().enumerate() {
            let (x, y) = (x as i64, y as i64);
            let column = inside(x0 + x * fix(*a) + y * fix(*b), width);
            let row = inside(y0 + x * fix(*d) + y * fix(*e), height);
            if let (Some(row), Some(column)) = (row, column) {
                *out = plane[row * width + column];
            }
        }
    }
}

/// The four pixels around, weighted by distance and cut to a byte, as Pillow's `bilinear_filter8`.
fn bilinear(plane: &[u8], height: usize, width: usize, [a, b, c, d, e, f]: &Matrix, out: &mut [u8]) {
    let between = |from: u8, to: u8, part: f64| f64::from(from) + (f64::from(to) - f64::from(from)) * part;
    for (y, out) in out.chunks_exact_mut(width).enumerate() {
        for (x, out) in out.iter_mut().enumerate() {
            let (x, y) = (x as f64 + 0.5, y as f64 + 0.5);
            let (at_x, at_y) = (a * x + b * y + c, d * x + e * y + f);
            if !(0.0..width as f64).contains(&at_x) || !(0.0..height as f64).contains(&at_y) {
                continue;
            }
            let (at_x, at_y) = (at_x - 0.5, at_y - 0.5);
            let (left, top) = (at_x.floor(), at_y.floor());
            let (part_x, part_y) = (at_x - left, at_y - top);
            // A place before the first pixel, or after the last, shows that pixel.
            let column = |at: f64| at.clamp(0.0, (width - 1) as f64) as usize;
            let row = |at: f64| at.clamp(0.0, (height - 1) as f64) as usize * width;
            let along = |row: usize| between(plane[row + column(left)], plane[row + column(left + 1.0)], part_x);
            let (above, below) = (along(row(top)), along(row(top + 1.0)));
            *out = (above + (below - above) * part_y) as u8;
        }
    }
}
