//! NSA: rectangles of another image, resized and joined to this one without a seam.
//!
//! A rectangle's half sides are 0.03 + Gamma(2, 0.05) of the image's, cut to a range. It is resized by a normal factor, cut to a range,
//! and pasted anywhere inside by Poisson's equation. Beyond the first, each further rectangle has a chance of one half.
//!
//! - Paper: Schlüter, Tan, Hou & Kainz, *Natural Synthetic Anomalies for Self-Supervised Anomaly Detection and Localization*,
//!   ECCV 2022.
//! - Reference code: hmsch/natural-synthetic-anomalies `self_sup_tasks.py`, `train_mvtec.py` (`Shift`).
//! - Deviations: an object decides where rectangles are cut and put by `foreground`, and a rectangle is pasted whole; the code has a
//!   rule and numbers for each category, and leaves out what is background in both images.

use garde::Validate;
use rand::Rng as _;
use rand_distr::{Distribution as _, Gamma, Normal};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    super::{
        augment::{Image, below, crop::cut, spread::rising},
        form::Mode,
        resample,
    },
    Made, Maker, Source,
    poisson::pasted,
};
use crate::{Error, Result, rng::Rng, yaml::limits::MOST_WEIGHT};

/// Settings of `nsa`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Nsa")]
pub struct Settings {
    /// Its share among the makers. Ours: 1, equal shares.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// Rectangles at most. The paper's: 3 for most objects, 4 for textures. Default: 3.
    #[garde(range(min = 1, max = 64))]
    pub patches: usize,
    /// Half of a rectangle's side by the image's, from and to; once it is resized, the whole side. The paper's for most categories: 0.03
    /// and 0.4.
    #[garde(inner(range(min = 1e-3, max = 1.0)), custom(rising))]
    pub half: [f64; 2],
    /// What is added to the gamma draw of a half side. The paper's: 0.03.
    #[garde(range(min = 0.0, max = 1.0))]
    pub offset: f64,
    /// The shape of the gamma distribution. The paper's: 2.
    #[garde(range(min = 0.01, max = 1000.0))]
    pub shape: f64,
    /// Its scale. The paper's: 0.05.
    #[garde(range(min = 1e-4, max = 1.0))]
    pub scale: f64,
    /// The factor that a rectangle is resized by, from and to; a normal draw about 1 with deviation 0.5 is cut to it. The paper's: 0.7 and
    /// 1.3, for textures 0.5 and 2.
    #[garde(inner(range(min = 0.05, max = 20.0)), custom(rising))]
    pub resize: [f64; 2],
    /// Whose differences between neighbours are kept. The paper's `Shift`: `normal`.
    #[garde(skip)]
    pub clone: Clone,
}

/// Whose differences between neighbours a paste keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "NsaClone")]
pub enum Clone {
    /// The rectangle's.
    #[default]
    Normal,
    /// The larger of the rectangle's and the image's.
    Mixed,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            weight: 1.0,
            patches: 3,
            half: [0.03, 0.4],
            offset: 0.03,
            shape: 2.0,
            scale: 0.05,
            resize: [0.7, 1.3],
            clone: Clone::Normal,
        }
    }
}

/// The least side of a rectangle: one pixel has an inside.
const LEAST: usize = 3;

impl Maker for Settings {
    const OF_ANOTHER: bool = true;
    const MILLISECONDS: f64 = 4.8;

    fn weight(&self) -> f64 {
        self.weight
    }

    fn check(&self, [_, height, width]: [usize; 3]) -> std::result::Result<(), String> {
        if self.half[0] >= 0.5 {
            return Err(format!("half: a paste of twice {} of the side is larger than the image", self.half[0]));
        }
        match height.min(width) >= LEAST {
            true => Ok(()),
            false => Err(format!("half: an image of {height}×{width} has no room for a paste of three pixels")),
        }
    }

    fn make(&self, of: &Source<'_>, rng: &mut Rng) -> Result<Made> {
        let other = of.another(rng)?;
        let (mut image, theirs) = (of.image(), other.image());
        let mut mask = vec![0; image.height * image.width];
        for patch in 0..self.patches {
            if patch > 0 && !rng.random_bool(0.5) {
                continue;
            }
            let sides = self.cut_sides([image.height, image.width], rng)?;
            let window = window(self, &other, sides, rng);
            let to = self.resized([window[2], window[3]], [image.height, image.width], rng)?;
            let patch = cut(&theirs, window);
            let bytes = resample::planes(&patch.bytes, [patch.height, patch.width], to, Mode::Bilinear, false);
            let place = of.place(to, &vec![true; to[0] * to[1]], rng);
            join(
                &mut image,
                &mut mask,
                &Image { height: to[0], width: to[1], bytes },
                place,
                self.clone == Clone::Mixed,
            );
        }
        Ok(Made { image: image.bytes, mask })
    }
}

impl Settings {
    /// Half rows and half columns of a rectangle, in pixels.
    fn cut_sides(&self, sides: [usize; 2], rng: &mut Rng) -> Result<[usize; 2]> {
        let failed = |error| Error::Failed(format!("nsa: shape {} and scale {}: {error}", self.shape, self.scale));
        let gamma = Gamma::new(self.shape, self.scale).map_err(failed)?;
        Ok(sides.map(|side| {
            let [least, most] = self.half.map(|share| (share * side as f64).round());
            (((self.offset + gamma.sample(rng)) * side as f64).clamp(least, most) as usize).max(1)
        }))
    }

    /// Rows and columns of a rectangle once it is resized: the code's three steps, inside the image.
    fn resized(&self, [rows, columns]: [usize; 2], sides: [usize; 2], rng: &mut Rng) -> Result<[usize; 2]> {
        let failed = |error| Error::Failed(format!("nsa: {error}"));
        let normal = Normal::new(1.0, 0.5).map_err(failed)?;
        let factor = f64::clamp(normal.sample(rng), self.resize[0], self.resize[1]);
        let (rows, columns) = (rows as f64, columns as f64);
        let cut = |length: f64, side: usize| {
            let [least, most] = self.half.map(|share| (share * side as f64).round());
            length.floor().clamp(least, most)
        };
        let high = cut(factor * rows, sides[0]);
        let wide = cut(high / rows * columns, sides[1]);
        let high = cut(wide / columns * rows, sides[0]);
        Ok([(high, sides[0]), (wide, sides[1])].map(|(length, side)| (length as usize).clamp(LEAST, side)))
    }
}

/// A rectangle about a random place, cut at the image's border.
fn window(settings: &Settings, of: &Source<'_>, half: [usize; 2], rng: &mut Rng) -> [usize; 4] {
    let [_, height, width] = of.shape();
    let sides = [height, width];
    let centre = match &of.object {
        Some(object) => {
            let at = object.pixels()[below(object.pixels().len(), rng)] as usize;
            [at / width, at % width]
        }
        None => std::array::from_fn(|axis| {
            let least = (settings.half[0] * sides[axis] as f64).round() as usize;
            least + below((sides[axis] - 2 * least).max(1), rng)
        }),
    };
    let along = |axis: usize| {
        let from = centre[axis].saturating_sub(half[axis]);
        let to = (centre[axis] + half[axis]).clamp(from + 1, sides[axis]);
        (from, to - from)
    };
    let ((top, rows), (left, columns)) = (along(0), along(1));
    [top, left, rows, columns]
}

/// Pastes a patch by Poisson's equation, and marks its inside.
fn join(image: &mut Image, region: &mut [u8], patch: &Image, [top, left]: [usize; 2], mixed: bool) {
    let (rows, columns, width) = (patch.height, patch.width, image.width);
    let at = |place: usize| (top + place / columns) * width + left + place % columns;
    for (plane, patch) in image.planes_mut().zip(patch.planes()) {
        let under: Vec<f64> = (0..rows * columns).map(|place| f64::from(plane[at(place)])).collect();
        let patch: Vec<f64> = patch.iter().map(|level| f64::from(*level)).collect();
        for (place, level) in pasted(&under, &patch, [rows, columns], mixed).into_iter().enumerate() {
            // Halves go up, whatever the last bits of the transform are.
            plane[at(place)] = (level + 0.5 + 1e-6).floor().clamp(0.0, 255.0) as u8;
        }
    }
    for y in 1..rows - 1 {
        region[(top + y) * width + left + 1..][..columns - 2].fill(1);
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{made, near, numbered},
        *,
    };
    use crate::rng::stream;

    #[test]
    fn half_sides_are_a_cut_gamma_draw() {
        let mut rng = stream(7, "gamma", "");
        let draws: Vec<f64> = (0..20_000)
            .map(|_| Settings::default().cut_sides([10_000, 10_000], &mut rng).unwrap()[0] as f64 / 10_000.0)
            .collect();
        // 0.03 + Gamma(2, 0.05): mean 0.13, deviation 0.0707. Above 0.4, 0.5 % of the draws are cut.
        near(draws.iter().sum::<f64>() / 20_000.0, 0.1297, 0.002);
        let below = |most: f64| draws.iter().filter(|draw| **draw < most).count() as f64 / 20_000.0;
        // P(Gamma(2, 1) < x) = 1 − (1 + x)·exp(−x).
        for most in [0.05, 0.08, 0.13, 0.2, 0.3] {
            let x: f64 = (most - 0.03) / 0.05;
            near(below(most), 1.0 - (1.0 + x) * (-x).exp(), 0.015);
        }
        assert!(draws.iter().all(|draw| (0.03..=0.4).contains(draw)));
        let cut = draws.iter().filter(|draw| **draw == 0.4).count() as f64 / 20_000.0;
        near(cut, 8.4 * (-7.4_f64).exp(), 0.003);
    }

    #[test]
    fn rectangles_are_resized_within_the_range_and_keep_their_shape() {
        let settings = Settings { half: [0.01, 0.4], ..Settings::default() };
        let mut rng = stream(8, "resize", "");
        let factors: Vec<f64> = (0..10_000)
            .map(|_| {
                let [rows, columns] = settings.resized([1000, 500], [10_000, 10_000], &mut rng).unwrap();
                near(rows as f64 / columns as f64, 2.0, 0.01);
                rows as f64 / 1000.0
            })
            .collect();
        // A normal draw about 1 with deviation 0.5, cut to 0.7..1.3: 27.4 % at either end.
        let share = |of: &dyn Fn(f64) -> bool| factors.iter().filter(|factor| of(**factor)).count() as f64 / 10_000.0;
        near(share(&|factor| factor <= 0.7005), 0.2743, 0.025);
        near(share(&|factor| factor >= 1.2995), 0.2743, 0.025);
        near(share(&|factor| factor < 1.0), 0.5, 0.025);
        assert!(factors.iter().all(|factor| (0.695..=1.305).contains(factor)));
    }

    #[test]
    fn the_image_outside_is_untouched_and_there_is_no_seam() {
        let set = numbered([3, 64, 64]);
        let mut regions = 0.0;
        for draw in 0..400 {
            let (made, before) = made(&Settings::default(), &set, draw);
            assert!(made.mask.contains(&1));
            for at in 0..3 * 4096 {
                assert!(made.mask[at % 4096] == 1 || made.image[at] == before[at]);
            }
            // Rows from one of the region to one outside.
            let rows = (0..64).filter(|row| made.mask[row * 64..][..64].contains(&1)).count();
            regions += rows as f64 / 400.0;
        }
        assert!((8.0..28.0).contains(&regions), "{regions}");
    }

    #[test]
    fn one_to_three_rectangles_each_further_one_by_a_coin() {
        // Small ones of one pixel inside, so that they hardly meet.
        let settings = Settings { half: [0.012, 0.012], ..Settings::default() };
        let set = numbered([1, 256, 256]);
        let counts: Vec<usize> = (0..600)
            .map(|draw| {
                let (made, _) = made(&settings, &set, draw);
                made.mask.iter().filter(|mark| **mark == 1).count()
            })
            .collect();
        let share = |count: usize| counts.iter().filter(|n| **n == count).count() as f64 / 600.0;
        near(share(1), 0.25, 0.09);
        near(share(2), 0.5, 0.1);
        near(share(3), 0.25, 0.09);
    }
}
