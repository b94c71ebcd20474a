//! CutPaste's scar: a thin strip of the image, its colours jittered, turned and pasted elsewhere in it.
//!
//! - Paper: Li, Sohn, Yoon & Pfister, *CutPaste*, CVPR 2021.
//! - Reference code: Runinho/pytorch-cutpaste `CutPasteScar`, with Pillow's `rotate(expand=True)`.
//! - Deviations: it never reaches the last row and column, which ours does. Pillow makes a quarter turn
//!   without the border that shows nothing.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    super::augment::{Image, below, crop::cut, even, spread::rising},
    MOST_SIDE, Made, Maker, SIDE, Source, jitter, paste, scale,
};
use crate::{Result, rng::Rng, yaml::limits::MOST_WEIGHT};

/// Settings of `scar`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Scar")]
pub struct Settings {
    /// Its share among the makers. Ours: 1, equal shares.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// The strip's columns, from and to. The paper's: 2 and 16.
    #[garde(inner(range(min = 1.0, max = MOST_SIDE as f64)), custom(rising))]
    pub width: [f64; 2],
    /// Its rows, from and to. The paper's: 10 and 25.
    #[garde(inner(range(min = 1.0, max = MOST_SIDE as f64)), custom(rising))]
    pub length: [f64; 2],
    /// The angle in degrees, counter-clockwise, from and to. The paper's: −45 and 45.
    #[garde(inner(range(min = -360.0, max = 360.0)), custom(rising))]
    pub degrees: [f64; 2],
    /// The jitter of its brightness, contrast, saturation and hue. The paper's: 0.1.
    #[garde(range(min = 0.0, max = 0.5))]
    pub jitter: f64,
    /// The shorter side of the images that `width` and `length` are for; they scale with the image's. Reference code: 256.
    #[garde(range(min = 1, max = MOST_SIDE))]
    pub side: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { weight: 1.0, width: [2.0, 16.0], length: [10.0, 25.0], degrees: [-45.0, 45.0], jitter: 0.1, side: SIDE }
    }
}

impl Maker for Settings {
    const MILLISECONDS: f64 = 0.2;

    fn weight(&self) -> f64 {
        self.weight
    }

    fn check(&self, shape: [usize; 3]) -> std::result::Result<(), String> {
        let [_, height, width] = shape;
        let scale = scale(shape, self.side);
        // However it is turned, its box is no wider than its diagonal.
        let diagonal = (self.width[1] * scale).ceil().hypot((self.length[1] * scale).ceil());
        if diagonal + 1.0 <= height.min(width) as f64 {
            return Ok(());
        }
        Err(format!(
            "width: a strip of {} by {} pixels of {} is larger than an image of {height}×{width} once it is turned",
            self.width[1], self.length[1], self.side
        ))
    }

    fn make(&self, of: &Source<'_>, rng: &mut Rng) -> Result<Made> {
        let mut image = of.image();
        let [rows, columns] = sides(self, of.shape(), rng);
        let from = [below(image.height - rows + 1, rng), below(image.width - columns + 1, rng)];
        let mut patch = cut(&image, [from[0], from[1], rows, columns]);
        jitter(&mut patch, self.jitter, rng);
        let (patch, covers) = turned(&patch, even(self.degrees, rng));
        let place = of.place([patch.height, patch.width], &covers, rng);
        let mut mask = vec![0; image.height * image.width];
        paste(&mut image, &mut mask, &patch, place, &covers);
        Ok(Made { image: image.bytes, mask })
    }
}

/// The strip's rows and columns.
fn sides(settings: &Settings, shape: [usize; 3], rng: &mut Rng) -> [usize; 2] {
    let scale = scale(shape, settings.side);
    let columns = even(settings.width, rng);
    let rows = even(settings.length, rng);
    [rows, columns].map(|side| ((side * scale).round() as usize).max(1))
}

/// Pillow's `rotate(degrees, expand=True)` with the nearest pixel, and which pixels show the image.
fn turned(image: &Image, degrees: f64) -> (Image, Vec<bool>) {
    let (height, width) = (image.height as f64, image.width as f64);
    let angle = -degrees.rem_euclid(360.0).to_radians();
    // To 15 places, so that quarter turns are exact.
    let [cos, sin] = [angle.cos(), angle.sin()].map(|value| format!("{value:.15}").parse().unwrap_or(value));
    let to = |x: f64, y: f64, [c, f]: [f64; 2]| [cos * x + sin * y + c, -sin * x + cos * y + f];
    let offset = {
        let [x, y] = to(-width / 2.0, -height / 2.0, [0.0; 2]);
        [x + width / 2.0, y + height / 2.0]
    };
    let corners = [(0.0, 0.0), (width, 0.0), (width, height), (0.0, height)].map(|(x, y)| to(x, y, offset));
    let side = |axis: usize| {
        let ends = corners.map(|corner| corner[axis]);
        let most = ends.into_iter().fold(f64::NEG_INFINITY, f64::max).ceil();
        most - ends.into_iter().fold(f64::INFINITY, f64::min).floor()
    };
    let (columns, rows) = (side(0), side(1));
    let [c, f] = to(-(columns - width) / 2.0, -(rows - height) / 2.0, offset);
    // In fixed point with 16 bits after the point, as Pillow's `affine_fixed`.
    let fix = |value: f64| (value * 65536.0 + 0.5).floor() as i64;
    let inside = |at: i64, length: usize| usize::try_from(at >> 16).ok().filter(|at| *at < length);
    let start = [fix(c + cos * 0.5 + sin * 0.5), fix(f - sin * 0.5 + cos * 0.5)];
    let (rows, columns) = (rows as usize, columns as usize);
    let from = |place: usize| {
        let (x, y) = ((place % columns) as i64, (place / columns) as i64);
        let column = inside(start[0] + x * fix(cos) + y * fix(sin), image.width)?;
        let row = inside(start[1] + x * fix(-sin) + y * fix(cos), image.height)?;
        Some(row * image.width + column)
    };
    let places: Vec<Option<usize>> = (0..rows * columns).map(from).collect();
    let shown =
        |plane: &[u8]| -> Vec<u8> { places.iter().map(|place| place.map_or(0, |place| plane[place])).collect() };
    let bytes = image.planes().flat_map(shown).collect();
    (Image { height: rows, width: columns, bytes }, places.iter().map(Option::is_some).collect())
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{golden, made, numbered, spread_evenly},
        *,
    };
    use crate::rng::stream;

    #[test]
    fn strips_are_turned_as_pillow_does() {
        let cases = golden("turned");
        let cases = cases.as_array().unwrap();
        assert!(cases.len() >= 20);
        for case in cases {
            let bytes: Vec<u8> = serde_json::from_value(case["image"].clone()).unwrap();
            let [height, width]: [usize; 2] = serde_json::from_value(case["shape"].clone()).unwrap();
            let degrees = case["degrees"].as_f64().unwrap();
            let (ours, covers) = turned(&Image { height, width, bytes }, degrees);
            let expected: Vec<u8> = serde_json::from_value(case["expected"].clone()).unwrap();
            let alpha: Vec<bool> = serde_json::from_value(case["alpha"].clone()).unwrap();
            let sides: [usize; 2] = serde_json::from_value(case["sides"].clone()).unwrap();
            assert_eq!([ours.height, ours.width], sides, "{height}×{width} by {degrees}");
            assert_eq!(ours.bytes, expected, "{height}×{width} by {degrees}");
            assert_eq!(covers, alpha);
        }
    }

    #[test]
    fn sides_and_angles_have_their_laws_and_scale_with_the_image() {
        let mut rng = stream(3, "sides", "");
        for (side, factor) in [(25_600, 100.0), (12_800, 50.0)] {
            let draws: Vec<[usize; 2]> =
                (0..20_000).map(|_| sides(&Settings::default(), [1, side, 3 * side], &mut rng)).collect();
            let of = |axis: usize| draws.iter().map(|sides| sides[axis] as f64 / factor).collect::<Vec<_>>();
            spread_evenly(&of(0), [9.99, 25.01]);
            spread_evenly(&of(1), [1.99, 16.01]);
        }
        let literal = Settings { side: 64, width: [3.0, 3.0], length: [20.0, 20.0], ..Settings::default() };
        assert_eq!(sides(&literal, [1, 64, 64], &mut rng), [20, 3]);
        // In a tiny image, a strip has a pixel at least.
        assert_eq!(sides(&Settings { width: [1.0, 1.0], ..literal }, [1, 8, 8], &mut rng)[1], 1);
    }

    #[test]
    fn a_strip_is_pasted_at_every_angle() {
        // As long strips as fit, one pixel wide, whose mask shows the angle.
        let settings =
            Settings { width: [2.0, 2.0], length: [60.0, 60.0], jitter: 0.0, side: 96, ..Settings::default() };
        let set = numbered([1, 96, 96]);
        let angles: Vec<f64> = (0..1500)
            .map(|draw| {
                let (made, before) = made(&settings, &set, draw);
                assert!((0..96 * 96).all(|at| made.mask[at] == 1 || made.image[at] == before[at]));
                let on =
                    || (0..96 * 96).filter(|at| made.mask[*at] == 1).map(|at| ((at / 96) as f64, (at % 96) as f64));
                let count = on().count() as f64;
                assert!((100.0..140.0).contains(&count), "{count}");
                let mean = on().fold((0.0, 0.0), |sum, (y, x)| (sum.0 + y / count, sum.1 + x / count));
                let (mut yy, mut xy) = (0.0, 0.0);
                for (y, x) in on() {
                    yy += (y - mean.0).powi(2);
                    xy += (y - mean.0) * (x - mean.1);
                }
                // Counter-clockwise, the upper end goes left: x falls with −y.
                (xy / yy).atan().to_degrees()
            })
            .collect();
        spread_evenly(&angles, [-46.0, 46.0]);
    }

    #[test]
    fn a_strip_larger_than_the_image_is_refused() {
        assert_eq!(Settings::default().check([3, 64, 64]), Ok(()));
        let long = Settings { length: [10.0, 256.0], ..Settings::default() };
        let problem = "width: a strip of 16 by 256 pixels of 256 is larger than an image of 64×80 once it is turned";
        assert_eq!(long.check([3, 64, 80]), Err(problem.to_owned()));
    }
}
