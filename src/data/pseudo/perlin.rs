//! Perlin noise as a mask, and another image, strongly changed, blended in where it is high.
//!
//! The noise has 2ᵃ by 2ᵇ cells, a and b drawn evenly, is turned by an even angle, and counts where it is above a threshold. There the
//! image becomes β·image + (1 − β)·texture, β drawn evenly.
//!
//! - Paper: Zavrtanik, Kristan & Skočaj, *DRAEM*, ICCV 2021.
//! - Reference code: VitjanZ/DRAEM `data_loader.py`, `perlin.py`.
//! - Deviations: textures are other images of the set, moved round by a random number of rows and columns, where DRAEM has those of
//!   DTD. The noise is computed at the turned places, where DRAEM turns its pixels; beyond its border both are 0. Cells need not
//!   be whole pixels. With a `foreground`, the mask is cut to the object, as MemSeg does.

use std::f64::consts::{SQRT_2, TAU};

use garde::Validate;
use rand::Rng as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    super::augment::{below, even, spread::rising},
    Made, Maker, Source, texture,
};
use crate::{Result, rng::Rng, yaml::limits::MOST_WEIGHT};

/// Settings of `perlin`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Perlin")]
pub struct Settings {
    /// Its share among the makers. Ours: 1, equal shares.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// The power of two that the noise has cells of along a side, from and to. DRAEM's: 0 and 5.
    #[garde(inner(range(max = 10)), custom(rising_powers))]
    pub cells: [u32; 2],
    /// The angle in degrees that the noise is turned by, from and to. DRAEM's: −90 and 90.
    #[garde(inner(range(min = -360.0, max = 360.0)), custom(rising))]
    pub degrees: [f64; 2],
    /// The noise above which the image is changed, from −1 to 1. DRAEM's: 0.5.
    #[garde(range(min = -1.0, max = 0.99))]
    pub threshold: f64,
    /// The share of the image that stays below the texture, from and to. DRAEM's: 0 and 0.8.
    #[garde(inner(range(min = 0.0, max = 0.999)), custom(rising))]
    pub keep: [f64; 2],
    /// How many changes the texture gets, of ten. DRAEM's: 3.
    #[garde(range(max = texture::CHANGES))]
    pub changes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { weight: 1.0, cells: [0, 5], degrees: [-90.0, 90.0], threshold: 0.5, keep: [0.0, 0.8], changes: 3 }
    }
}

/// Refuses ranges that are the wrong way round.
fn rising_powers(powers: &[u32; 2], (): &()) -> garde::Result {
    rising(&powers.map(f64::from), &())
}

impl Maker for Settings {
    const OF_ANOTHER: bool = true;
    const MILLISECONDS: f64 = 13.9;

    fn weight(&self) -> f64 {
        self.weight
    }

    fn check(&self, _: [usize; 3]) -> std::result::Result<(), String> {
        Ok(())
    }

    fn make(&self, of: &Source<'_>, rng: &mut Rng) -> Result<Made> {
        let mut image = of.image();
        let (height, width) = (image.height, image.width);
        let noise = Noise::drawn([0; 2].map(|_| 1 << rng.random_range(self.cells[0]..=self.cells[1])), rng);
        let values = noise.turned([height, width], even(self.degrees, rng));
        let on_object = |at: usize| of.object.as_ref().is_none_or(|object| object.has(at));
        let high = |(at, value): (usize, f64)| u8::from(value > self.threshold && on_object(at));
        let mask: Vec<u8> = values.into_iter().enumerate().map(high).collect();

        let mut texture = of.another(rng)?.image();
        texture::change(&mut texture, self.changes, rng);
        let (down, right) = (below(height, rng), below(width, rng));
        let keep = even(self.keep, rng);
        for (plane, texture) in image.planes_mut().zip(texture.planes()) {
            for at in (0..height * width).filter(|at| mask[*at] == 1) {
                let (y, x) = ((at / width + down) % height, (at % width + right) % width);
                let texture = f64::from(texture[y * width + x]);
                plane[at] = (keep * f64::from(plane[at]) + (1.0 - keep) * texture).round() as u8;
            }
        }
        Ok(Made { image: image.bytes, mask })
    }
}

/// Perlin noise: gradients of length 1 at the corners of cells.
struct Noise {
    /// Cells along the rows and along the columns.
    cells: [usize; 2],
    /// At each corner, down and right; one more corner than cells.
    gradients: Vec<[f64; 2]>,
}

impl Noise {
    fn drawn(cells: [usize; 2], rng: &mut Rng) -> Self {
        let corners = (cells[0] + 1) * (cells[1] + 1);
        let gradient = |angle: f64| [angle.cos(), angle.sin()];
        Self { cells, gradients: (0..corners).map(|_| gradient(TAU * rng.random::<f64>())).collect() }
    }

    /// The value at a place in cells, √2 times what blends the four corners' planes by the quintic curve.
    fn at(&self, place: [f64; 2]) -> f64 {
        let corner: [usize; 2] = std::array::from_fn(|axis| (place[axis] as usize).min(self.cells[axis] - 1));
        let part: [f64; 2] = std::array::from_fn(|axis| place[axis] - corner[axis] as f64);
        let ramp = |down: usize, right: usize| {
            let gradient = self.gradients[(corner[0] + down) * (self.cells[1] + 1) + corner[1] + right];
            gradient[0] * (part[0] - down as f64) + gradient[1] * (part[1] - right as f64)
        };
        let [y, x] = part.map(|t| ((6.0 * t - 15.0) * t + 10.0) * t * t * t);
        let between = |from: f64, to: f64, part: f64| from + (to - from) * part;
        SQRT_2 * between(between(ramp(0, 0), ramp(1, 0), y), between(ramp(0, 1), ramp(1, 1), y), x)
    }

    /// The values of an image's pixels, turned counter-clockwise about its centre; 0 beyond the border.
    fn turned(&self, [height, width]: [usize; 2], degrees: f64) -> Vec<f64> {
        let (sin, cos) = degrees.to_radians().sin_cos();
        let middle = [(height - 1) as f64 / 2.0, (width - 1) as f64 / 2.0];
        let cells = [self.cells[0] as f64 / height as f64, self.cells[1] as f64 / width as f64];
        let inside = |place: f64, length: usize| (-1e-9..length as f64 - 1.0 + 1e-9).contains(&place);
        let value = |at: usize| {
            let (dy, dx) = ((at / width) as f64 - middle[0], (at % width) as f64 - middle[1]);
            let (y, x) = (middle[0] + sin * dx + cos * dy, middle[1] + cos * dx - sin * dy);
            match inside(y, height) && inside(x, width) {
                true => self.at([y.max(0.0) * cells[0], x.max(0.0) * cells[1]]),
                false => 0.0,
            }
        };
        (0..height * width).map(value).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{flat, golden, made, near},
        *,
    };
    use crate::rng::stream;

    #[test]
    fn noise_is_draems() {
        let cases = golden("perlin");
        let cases = cases.as_array().unwrap();
        assert!(cases.len() >= 4);
        for case in cases {
            let cells: [usize; 2] = serde_json::from_value(case["cells"].clone()).unwrap();
            let sides: [usize; 2] = serde_json::from_value(case["sides"].clone()).unwrap();
            let angles: Vec<f64> = serde_json::from_value(case["angles"].clone()).unwrap();
            let noise = Noise { cells, gradients: angles.iter().map(|angle| [angle.cos(), angle.sin()]).collect() };
            let expected: Vec<f64> = serde_json::from_value(case["expected"].clone()).unwrap();
            let values = noise.turned(sides, 0.0);
            assert!(values.iter().zip(&expected).all(|(ours, theirs)| (ours - theirs).abs() < 1e-12), "{cells:?}");
            // A half turn is the image upside down; a quarter of a square image its transpose, mirrored.
            let back: Vec<f64> = noise.turned(sides, 180.0).into_iter().rev().collect();
            assert!(back.iter().zip(&values).all(|(back, value)| (back - value).abs() < 1e-6));
            if sides[0] == sides[1] {
                let (side, quarter) = (sides[0], noise.turned(sides, 90.0));
                for (y, x) in (0..side).flat_map(|y| (0..side).map(move |x| (y, x))) {
                    let from = values[x * side + side - 1 - y];
                    assert!((quarter[y * side + x] - from).abs() < 1e-6, "counter-clockwise, the right side goes up");
                }
            }
        }
    }

    #[test]
    fn cells_and_gradients_are_drawn_evenly() {
        let mut rng = stream(9, "perlin", "");
        let noise = Noise::drawn([63, 63], &mut rng);
        let angles: Vec<f64> = noise.gradients.iter().map(|[down, right]| right.atan2(*down)).collect();
        super::super::tests::spread_evenly(&angles, [-TAU / 2.0, TAU / 2.0]);
        assert!(noise.gradients.iter().all(|[down, right]| (down.hypot(*right) - 1.0).abs() < 1e-12));
        // The share of high noise in numpy, of 6,000 draws: 0.1514 and 0.0488, deviations 0.060 and 0.031.
        let set = flat([1, 64, 64], 100);
        let share = |threshold: f64| {
            let settings = Settings { threshold, ..Settings::default() };
            let marked = |draw| made(&settings, &set, draw).0.mask.iter().map(|mark| f64::from(*mark)).sum::<f64>();
            (0..400).map(marked).sum::<f64>() / 400.0 / 4096.0
        };
        near(share(0.3), 0.1514, 0.012);
        near(share(0.5), 0.0488, 0.0062);
    }

    #[test]
    fn texture_lies_over_what_is_kept_of_the_image() {
        // Another image of 200 over one of 100, nothing changed: 200 − 100·β.
        let mut set = flat([3, 32, 32], 100);
        set.pixels = [vec![100; 3072], vec![200; 3072]].concat().into();
        let settings = Settings { changes: 0, ..Settings::default() };
        let mut levels = Vec::new();
        for draw in 0..800 {
            let (made, _) = made(&settings, &set, draw);
            let Some(at) = made.mask.iter().position(|mark| *mark == 1) else { continue };
            levels.push(f64::from(made.image[at]));
            for at in 0..3072 {
                assert!(made.mask[at % 1024] == 1 || made.image[at] == 100);
                assert!(made.mask[at % 1024] == 0 || f64::from(made.image[at]) == levels[levels.len() - 1]);
            }
        }
        assert!(levels.iter().all(|level| (120.0..=200.0).contains(level)));
        near(levels.iter().sum::<f64>() / levels.len() as f64, 160.0, 3.0);
        // Changes make other levels of it.
        let strong = |draw| made(&Settings { keep: [0.0, 0.0], ..Settings::default() }, &set, draw).0.image;
        assert!((0..20).any(|draw| strong(draw).iter().any(|level| ![100, 200].contains(level))));
    }
}
