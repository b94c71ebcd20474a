//! CutPaste: a rectangle of the image, its colours jittered, pasted elsewhere in it.
//!
//! The rectangle's share of the area is even, its aspect even in the logarithm, both of its places even over those inside the
//! image.
//!
//! - Paper: Li, Sohn, Yoon & Pfister, *CutPaste: Self-Supervised Learning for Anomaly Detection and Localization*, CVPR 2021. The
//!   authors' code is not public.
//! - Reference code: Runinho/pytorch-cutpaste `CutPasteNormal`.
//! - Deviations: it never reaches the last row and column, which ours does. Of an image that is not square, aspects that do not fit
//!   are not drawn.

use garde::Validate;
use rand::Rng as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    super::augment::{below, crop::cut, even, spread::rising},
    Made, Maker, Source, jitter, paste,
};
use crate::{Result, rng::Rng, yaml::limits::MOST_WEIGHT};

/// Settings of `cutpaste`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "CutPaste")]
pub struct Settings {
    /// Its share among the makers. Ours: 1, equal shares.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// The rectangle's share of the image's area, from and to. The paper's: 0.02 and 0.15.
    #[garde(inner(range(min = 1e-6, max = 1.0)), custom(rising))]
    pub area: [f64; 2],
    /// Its width over its height, from and to, even in the logarithm. The paper's: 0.3 and 1 / 0.3.
    #[garde(inner(range(min = 1e-3, max = 1e3)), custom(rising))]
    pub aspect: [f64; 2],
    /// The jitter of its brightness, contrast, saturation and hue. The paper's: 0.1.
    #[garde(range(min = 0.0, max = 0.5))]
    pub jitter: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { weight: 1.0, area: [0.02, 0.15], aspect: [0.3, 1.0 / 0.3], jitter: 0.1 }
    }
}

impl Maker for Settings {
    const MILLISECONDS: f64 = 1.2;

    fn weight(&self) -> f64 {
        self.weight
    }

    fn check(&self, [_, height, width]: [usize; 3]) -> std::result::Result<(), String> {
        match fitting(self.area[1], self.aspect, [height, width]) {
            Some(_) => Ok(()),
            None => Err(format!(
                "area: a paste of {} of the area is larger than an image of {height}×{width} at each `aspect` from {} to {}",
                self.area[1], self.aspect[0], self.aspect[1]
            )),
        }
    }

    fn make(&self, of: &Source<'_>, rng: &mut Rng) -> Result<Made> {
        let mut image = of.image();
        let [rows, columns] = sides(self, [image.height, image.width], rng);
        let from = [below(image.height - rows + 1, rng), below(image.width - columns + 1, rng)];
        let mut patch = cut(&image, [from[0], from[1], rows, columns]);
        jitter(&mut patch, self.jitter, rng);
        let covers = vec![true; rows * columns];
        let place = of.place([rows, columns], &covers, rng);
        let mut mask = vec![0; image.height * image.width];
        paste(&mut image, &mut mask, &patch, place, &covers);
        Ok(Made { image: image.bytes, mask })
    }
}

/// Those of the aspects with which a share of the area is inside an image.
fn fitting(share: f64, [narrowest, widest]: [f64; 2], [height, width]: [usize; 2]) -> Option<[f64; 2]> {
    let (height, width) = (height as f64, width as f64);
    let area = share * height * width;
    let fitting = [narrowest.max(area / (height * height)), widest.min(width * width / area)];
    // Of a full image, both ends are its aspect, to rounding.
    (fitting[0] <= fitting[1] * (1.0 + 1e-9)).then_some([fitting[0], fitting[1].max(fitting[0])])
}

/// The rectangle's rows and columns.
fn sides(settings: &Settings, [height, width]: [usize; 2], rng: &mut Rng) -> [usize; 2] {
    let share = rng.random_range(settings.area[0]..=settings.area[1]);
    // What does not fit was refused before; the whole image is what is left of it here.
    let aspects = fitting(share, settings.aspect, [height, width]).unwrap_or([width as f64 / height as f64; 2]);
    let aspect = even(aspects.map(f64::ln), rng).exp();
    let area = share * (height * width) as f64;
    // Rounded half to even, as Python does.
    let side = |square: f64, most: usize| (square.sqrt().round_ties_even() as usize).clamp(1, most);
    [side(area / aspect, height), side(area * aspect, width)]
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{flat, made, spread_evenly},
        *,
    };
    use crate::rng::stream;

    #[test]
    fn areas_and_aspects_have_their_laws() {
        let mut rng = stream(2, "sides", "");
        let draws: Vec<[usize; 2]> = (0..20_000).map(|_| sides(&Settings::default(), [2560, 2560], &mut rng)).collect();
        let area = |[rows, columns]: &[usize; 2]| (rows * columns) as f64 / (2560.0 * 2560.0);
        let aspect = |[rows, columns]: &[usize; 2]| (*columns as f64 / *rows as f64).ln();
        // Sides are whole pixels, which widens the ranges a little.
        spread_evenly(&draws.iter().map(area).collect::<Vec<_>>(), [0.0199, 0.1501]);
        let most = (1.0_f64 / 0.3).ln() + 0.003;
        spread_evenly(&draws.iter().map(aspect).collect::<Vec<_>>(), [-most, most]);
    }

    #[test]
    fn what_does_not_fit_is_not_drawn_or_refused() {
        let mut rng = stream(2, "sides", "long");
        for _ in 0..2000 {
            let [rows, columns] = sides(&Settings::default(), [64, 512], &mut rng);
            assert!((1..=64).contains(&rows) && (1..=512).contains(&columns));
            let share = (rows * columns) as f64 / (64.0 * 512.0);
            assert!((0.019..0.153).contains(&share), "{rows}×{columns}");
        }
        assert_eq!(Settings::default().check([3, 64, 512]), Ok(()));
        let whole = Settings { area: [0.5, 1.0], ..Settings::default() };
        assert_eq!(whole.check([3, 64, 64]), Ok(()));
        assert_eq!(sides(&Settings { area: [1.0, 1.0], ..whole.clone() }, [64, 64], &mut rng), [64, 64]);
        let wide = Settings { area: [0.1, 0.9], aspect: [2.0, 3.0], ..Settings::default() };
        let problem = "area: a paste of 0.9 of the area is larger than an image of 64×64 at each `aspect` from 2 to 3";
        assert_eq!(wide.check([1, 64, 64]), Err(problem.to_owned()));
    }

    #[test]
    fn the_region_is_a_rectangle_of_the_image_pasted_anywhere_inside() {
        // Without jitter, what is pasted is somewhere in the image.
        let settings = Settings { jitter: 0.0, ..Settings::default() };
        let set = super::super::tests::numbered([1, 32, 32]);
        let (mut tops, mut bottoms) = (0, 0);
        for draw in 0..2000 {
            let (made, before) = made(&settings, &set, draw);
            let inside: Vec<usize> = (0..1024).filter(|at| made.mask[*at] == 1).collect();
            let (first, last) = (inside[0], inside[inside.len() - 1]);
            let (rows, columns) = (last / 32 - first / 32 + 1, last % 32 - first % 32 + 1);
            assert_eq!(inside.len(), rows * columns);
            assert!((0..1024).all(|at| made.mask[at] == 1 || made.image[at] == before[at]));
            // Rows of the image differ by 7 levels, columns by 1, so the corner tells where it was cut.
            let moved = made.image[first].wrapping_sub(before[first]);
            assert!(inside.iter().all(|at| made.image[*at].wrapping_sub(before[*at]) == moved));
            tops += usize::from(first < 32);
            bottoms += usize::from(last / 32 == 31);
        }
        // Every place is as likely: with r rows, 1 of 33 − r at either end. The mean over the law of r is 0.047.
        assert!((60..140).contains(&tops) && (60..140).contains(&bottoms), "{tops} {bottoms}");
    }

    #[test]
    fn colours_are_jittered() {
        // Grey 100 with brightness 0.9 to 1.1 alone: contrast about the mean of one colour, no hue.
        let set = flat([1, 32, 32], 100);
        let level = |draw| {
            let (made, _) = made(&Settings::default(), &set, draw);
            let at = made.mask.iter().position(|mark| *mark == 1).unwrap();
            f64::from(made.image[at])
        };
        let levels: Vec<f64> = (0..4000).map(level).collect();
        let mean = levels.iter().sum::<f64>() / 4000.0;
        // Bytes are cut, not rounded: half a level less.
        assert!((mean - 99.5).abs() < 0.4, "{mean}");
        assert!(levels.iter().all(|level| (89.0..=110.0).contains(level)));
        assert!(levels.contains(&90.0) && levels.contains(&109.0));
    }
}
