//! Confetti noise: blurred dark squares of random colours, sizes and angles, added to the image.
//!
//! Two layers are added up. In each, every pixel is the centre of a square with one probability, and at least one is. A square's
//! side is a whole number, each as likely, and all squares of a side have one colour in an image: each channel a whole number from
//! −256 to −1 in the coloured layer, −255 in the other. Smaller squares are drawn first, and what lies on top counts. About each
//! centre in turn, the window of 3/4 of the side is turned by an angle, with all that is in it. The sum is blurred and cut to
//! whole levels. Where it changes the image by less than 0.025 levels on average, and its opposite changes it more, the opposite
//! is added.
//!
//! - Paper: Liznerski et al., *Explainable Deep One-Class Classification*, ICLR 2021 (FCDD).
//! - Reference code: liznerski/fcdd `datasets/noise.py`, `noise_modes.py` (`confetti`), `datasets/online_supervisor.py`, at images of
//!   240 pixels.
//! - Deviations: near the border its windows are turned about another point, and its last row and column are never turned. A grey
//!   image's colours have one channel. With a `foreground`, centres are on the object, and as many on average as without.

use garde::Validate;
use rand::Rng as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    super::augment::{even, spread::rising},
    MOST_SIDE, Made, Maker, SIDE, Source,
    marks::odd,
    scale,
};
use crate::{Result, rng::Rng, yaml::limits::MOST_WEIGHT};

/// Settings of `confetti`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Confetti")]
pub struct Settings {
    /// Its share among the makers. Ours: 1, equal shares.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// The probability that a pixel is the centre of a coloured square, in an image of `side` by `side`. 0 leaves them out: on grey
    /// images of three channels, their hue alone gives them away. FCDD's: 1.8e-5.
    #[garde(range(min = 0.0, max = 1e-2))]
    pub coloured: f64,
    /// The same of black squares. FCDD's: 1.2e-5.
    #[garde(range(min = 0.0, max = 1e-2))]
    pub black: f64,
    /// Sides of squares in pixels, from and to. FCDD's: 8 and 54.
    #[garde(inner(range(min = 1, max = MOST_SIDE)), custom(rising_sides))]
    pub sides: [usize; 2],
    /// The angle in degrees, from and to. FCDD's: −45 and 45.
    #[garde(inner(range(min = -360.0, max = 360.0)), custom(rising))]
    pub degrees: [f64; 2],
    /// Pixels of the side of the blur's kernel, odd; 1 is no blur. FCDD's: 25.
    #[garde(range(min = 1, max = 511), custom(odd))]
    pub kernel: usize,
    /// The standard deviation of the blur in pixels. FCDD's: 5.
    #[garde(range(min = 1e-3, max = 256.0))]
    pub sigma: f64,
    /// The shorter side of the images that `sides`, `kernel` and `sigma` are for; they scale with the image's. Ours: 256, as the fusion
    /// paper uses FCDD's numbers, which are for 240.
    #[garde(range(min = 1, max = MOST_SIDE))]
    pub side: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            weight: 1.0,
            coloured: 1.8e-5,
            black: 1.2e-5,
            sides: [8, 54],
            degrees: [-45.0, 45.0],
            kernel: 25,
            sigma: 5.0,
            side: SIDE,
        }
    }
}

/// Refuses ranges that are the wrong way round.
fn rising_sides(sides: &[usize; 2], (): &()) -> garde::Result {
    rising(&sides.map(|side| side as f64), &())
}

impl Maker for Settings {
    const MILLISECONDS: f64 = 3.3;

    fn weight(&self) -> f64 {
        self.weight
    }

    fn check(&self, shape: [usize; 3]) -> std::result::Result<(), String> {
        let [_, height, width] = shape;
        if self.coloured == 0.0 && self.black == 0.0 {
            return Err("black: there are no squares: `coloured` is 0 as well".to_owned());
        }
        if self.sides[1] as f64 * scale(shape, self.side) <= height.min(width) as f64 {
            return Ok(());
        }
        let (most, side) = (self.sides[1], self.side);
        Err(format!("sides: a square of {most} pixels of {side} is larger than an image of {height}×{width}"))
    }

    fn make(&self, of: &Source<'_>, rng: &mut Rng) -> Result<Made> {
        let shape = of.shape();
        let mut noise = Noise::new(shape);
        for (probability, coloured) in [(self.coloured, true), (self.black, false)] {
            let blobs = blobs(self, of, probability, coloured, rng);
            noise.add(&blobs, coloured);
        }
        let scale = scale(shape, self.side);
        let reach = ((self.kernel / 2) as f64 * scale).round() as usize;
        noise.blur(&kernel(reach, self.sigma * scale));
        let mut image = of.bytes.to_vec();
        noise.apply(&mut image);
        Ok(Made { image, mask: noise.region() })
    }
}

/// A square before it is turned.
#[derive(Debug, Clone, PartialEq)]
struct Blob {
    centre: [usize; 2],
    /// Its side before it is scaled, which its colour is of.
    class: usize,
    side: usize,
    /// What each channel is changed by.
    colour: Vec<i16>,
    degrees: f64,
}

/// The squares of a layer, in the order of their centres.
fn blobs(settings: &Settings, of: &Source<'_>, probability: f64, coloured: bool, rng: &mut Rng) -> Vec<Blob> {
    if probability == 0.0 {
        return Vec::new();
    }
    let [channels, height, width] = of.shape();
    let scale = scale(of.shape(), settings.side);
    // As many as in an image of the literature, whatever the size, on the whole image or on the object.
    let among = of.object.as_ref().map_or(height * width, |object| object.pixels().len());
    let probability = (probability / (scale * scale) * (height * width) as f64 / among as f64).min(1.0);
    let places = of.object.as_ref().map(|object| object.pixels());
    let centres =
        successes(among, probability, rng).into_iter().map(|at| places.map_or(at, |places| places[at] as usize));
    let classes = settings.sides;
    let mut blobs: Vec<Blob> = centres
        .map(|at| {
            let class = rng.random_range(classes[0] as u32..=classes[1] as u32) as usize;
            let side = ((class as f64 * scale).round() as usize).max(1);
            Blob { centre: [at / width, at % width], class, side, colour: Vec::new(), degrees: 0.0 }
        })
        .collect();
    let mut present: Vec<usize> = blobs.iter().map(|blob| blob.class).collect();
    present.sort_unstable();
    present.dedup();
    for class in present {
        let level = |rng: &mut Rng| if coloured { rng.random_range(-256..=-1) } else { -255 };
        let colour: Vec<i16> = (0..if coloured { channels } else { 1 }).map(|_| level(rng)).collect();
        blobs.iter_mut().filter(|blob| blob.class == class).for_each(|blob| blob.colour.clone_from(&colour));
    }
    blobs.iter_mut().for_each(|blob| blob.degrees = even(settings.degrees, rng));
    blobs
}

/// The places of successes among `n` trials of one probability, given that there is one at least: gaps between them are geometric.
fn successes(n: usize, probability: f64, rng: &mut Rng) -> Vec<usize> {
    let failure = (-probability).ln_1p();
    let any = (n as f64 * failure).exp_m1();
    let first = (rng.random::<f64>() * any).ln_1p() / failure;
    let mut places = vec![(first as usize).min(n - 1)];
    loop {
        let gap = (-rng.random::<f64>()).ln_1p() / failure;
        // A cast of what is too large is the largest.
        let next = places[places.len() - 1].saturating_add(1).saturating_add(gap as usize);
        if next >= n {
            return places;
        }
        places.push(next);
    }
}

/// Rows and columns from and to, the ends not included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rectangle {
    rows: [usize; 2],
    columns: [usize; 2],
}

impl Rectangle {
    fn meets(&self, other: &Self) -> bool {
        let meet = |a: [usize; 2], b: [usize; 2]| a[0] < b[1] && b[0] < a[1];
        meet(self.rows, other.rows) && meet(self.columns, other.columns)
    }

    fn with(&self, other: &Self) -> Self {
        let around = |a: [usize; 2], b: [usize; 2]| [a[0].min(b[0]), a[1].max(b[1])];
        Self { rows: around(self.rows, other.rows), columns: around(self.columns, other.columns) }
    }
}

/// What is added to an image.
struct Noise {
    shape: [usize; 3],
    /// (C, H, W), grey levels.
    levels: Vec<f32>,
    /// Where it may differ from 0; they do not meet.
    touched: Vec<Rectangle>,
}

impl Noise {
    fn new(shape: [usize; 3]) -> Self {
        Self { shape, levels: vec![0.0; shape.iter().product()], touched: Vec::new() }
    }

    /// `before` places before the centre and `after` after it, inside the image.
    fn around(&self, centre: [usize; 2], before: usize, after: usize) -> Rectangle {
        let along = |at: usize, length: usize| [at.saturating_sub(before), (at + after).min(length)];
        Rectangle { rows: along(centre[0], self.shape[1]), columns: along(centre[1], self.shape[2]) }
    }

    /// Draws a layer and adds it.
    fn add(&mut self, blobs: &[Blob], coloured: bool) {
        let [channels, height, width] = self.shape;
        let planes = if coloured { channels } else { 1 };
        let mut layer = vec![0_i16; planes * height * width];
        let mut painted: Vec<&Blob> = blobs.iter().collect();
        painted.sort_by_key(|blob| blob.class);
        for blob in painted {
            let half = blob.side / 2;
            let Rectangle { rows, columns } = self.around(blob.centre, (blob.side - 1) / 2, half + 1);
            for (plane, level) in layer.chunks_exact_mut(height * width).zip(&blob.colour) {
                for row in plane.chunks_exact_mut(width).take(rows[1]).skip(rows[0]) {
                    row[columns[0]..columns[1]].fill(*level);
                }
            }
        }
        let windows: Vec<Rectangle> =
            blobs.iter().map(|blob| self.around(blob.centre, 3 * blob.side / 4, (3 * blob.side).div_ceil(4))).collect();
        for (blob, window) in blobs.iter().zip(&windows) {
            for plane in layer.chunks_exact_mut(height * width) {
                turn(plane, width, *window, blob);
            }
        }
        // A square of one or two pixels is not all in its window.
        let squares = blobs.iter().map(|blob| self.around(blob.centre, (blob.side - 1) / 2, blob.side / 2 + 1));
        let touched: Vec<Rectangle> = squares.zip(windows).map(|(square, window)| square.with(&window)).collect();
        for channel in 0..channels {
            let plane = &layer[if coloured { channel * height * width } else { 0 }..][..height * width];
            let sums = &mut self.levels[channel * height * width..][..height * width];
            sums.iter_mut().zip(plane).for_each(|(sum, level)| *sum += f32::from(*level));
        }
        touched.into_iter().for_each(|rectangle| self.touch(rectangle));
    }

    /// Adds a rectangle to those that are touched, joined with all that it meets.
    fn touch(&mut self, mut rectangle: Rectangle) {
        while let Some(at) = self.touched.iter().position(|other| other.meets(&rectangle)) {
            rectangle = rectangle.with(&self.touched.swap_remove(at));
        }
        self.touched.push(rectangle);
    }

    /// A separable filter, the image mirrored at its border without repeating it (`reflect` of PyTorch), cut to whole levels.
    fn blur(&mut self, kernel: &[f32]) {
        let [channels, height, width] = self.shape;
        let reach = kernel.len() / 2;
        let grown = |at: [usize; 2], length: usize| [at[0].saturating_sub(reach), (at[1] + reach).min(length)];
        for rectangle in std::mem::take(&mut self.touched) {
            let (rows, columns) = (grown(rectangle.rows, height), grown(rectangle.columns, width));
            self.touch(Rectangle { rows, columns });
        }
        for Rectangle { rows, columns } in &self.touched {
            let wide = columns[1] - columns[0];
            let mirrored = |at: usize, step: usize, length: usize| reflected((at + step) as i64 - reach as i64, length);
            let places: Vec<usize> = (0..wide + 2 * reach).map(|step| mirrored(columns[0], step, width)).collect();
            for channel in 0..channels {
                let plane = &mut self.levels[channel * height * width..][..height * width];
                let mut along = vec![0.0_f32; (rows[1] - rows[0]) * wide];
                for (row, sums) in (rows[0]..rows[1]).zip(along.chunks_exact_mut(wide)) {
                    let row = &plane[row * width..][..width];
                    let row: Vec<f32> = places.iter().map(|place| row[*place]).collect();
                    for (step, weight) in kernel.iter().enumerate() {
                        sums.iter_mut().zip(&row[step..]).for_each(|(sum, level)| *sum += weight * level);
                    }
                }
                for row in rows[0]..rows[1] {
                    let mut sums = vec![0.0_f32; wide];
                    for (step, weight) in kernel.iter().enumerate() {
                        let from = mirrored(row, step, height);
                        // All other rows are 0 here.
                        if (rows[0]..rows[1]).contains(&from) {
                            let row = &along[(from - rows[0]) * wide..][..wide];
                            sums.iter_mut().zip(row).for_each(|(sum, level)| *sum += weight * level);
                        }
                    }
                    let out = &mut plane[row * width + columns[0]..][..wide];
                    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum.trunc());
                }
            }
        }
    }

    /// The places of the pixels that are touched, channel by channel.
    fn places(&self) -> impl Iterator<Item = usize> + '_ {
        let [channels, height, width] = self.shape;
        let rows = self.touched.iter().flat_map(move |Rectangle { rows, columns }| {
            (rows[0]..rows[1]).map(move |row| row * width + columns[0]..row * width + columns[1])
        });
        (0..channels).flat_map(move |channel| {
            let start = channel * height * width;
            rows.clone().flat_map(move |row| start + row.start..start + row.end)
        })
    }

    /// Adds it to an image, or its opposite where it would not be seen.
    fn apply(&mut self, image: &mut [u8]) {
        let after = |level: u8, change: f32| (f32::from(level) + change).clamp(0.0, 255.0);
        let mean = |sign: f32| {
            let change = |at: usize| f64::from(after(image[at], sign * self.levels[at]) - f32::from(image[at]));
            (self.places().map(change).sum::<f64>() / image.len() as f64).abs()
        };
        let sign = if mean(1.0) < SEEN && mean(-1.0) > mean(1.0) { -1.0 } else { 1.0 };
        // Whole numbers, so the cast is exact.
        self.places().for_each(|at| image[at] = after(image[at], sign * self.levels[at]) as u8);
    }

    /// Where a channel differs from 0, whether the image shows it or not.
    fn region(&self) -> Vec<u8> {
        let [_, height, width] = self.shape;
        let mut region = vec![0; height * width];
        self.places().filter(|at| self.levels[*at] != 0.0).for_each(|at| region[at % (height * width)] = 1);
        region
    }
}

/// FCDD's `invert_threshold`: mean grey levels of a change that is seen.
const SEEN: f64 = 0.025;

/// Turns a window of a plane about a square's centre: the nearest pixel, and 0 where it is outside the window.
fn turn(plane: &mut [i16], width: usize, Rectangle { rows, columns }: Rectangle, blob: &Blob) {
    let (wide, high) = (columns[1] - columns[0], rows[1] - rows[0]);
    let before: Vec<i16> =
        (rows[0]..rows[1]).flat_map(|row| &plane[row * width + columns[0]..][..wide]).copied().collect();
    let (sin, cos) = blob.degrees.to_radians().sin_cos();
    let centre = [(blob.centre[0] - rows[0]) as f64, (blob.centre[1] - columns[0]) as f64];
    let inside = |at: f64, length: usize| {
        let at = at.round();
        (0.0..length as f64).contains(&at).then_some(at as usize)
    };
    for y in 0..high {
        for x in 0..wide {
            let (dy, dx) = (y as f64 - centre[0], x as f64 - centre[1]);
            let column = inside(centre[1] + cos * dx - sin * dy, wide);
            let row = inside(centre[0] + sin * dx + cos * dy, high);
            let level = row.zip(column).map_or(0, |(row, column)| before[row * wide + column]);
            plane[(rows[0] + y) * width + columns[0] + x] = level;
        }
    }
}

/// Weights of a Gaussian, 2·reach + 1 of them, which add up to 1.
fn kernel(reach: usize, sigma: f64) -> Vec<f32> {
    let weight = |at: usize| (-(at as f64 - reach as f64).powi(2) / (2.0 * sigma * sigma)).exp();
    let total: f64 = (0..2 * reach + 1).map(weight).sum();
    (0..2 * reach + 1).map(|at| (weight(at) / total) as f32).collect()
}

/// A place mirrored at the ends of a line, which are not repeated.
fn reflected(at: i64, length: usize) -> usize {
    if length == 1 {
        return 0;
    }
    let round = 2 * (length as i64 - 1);
    let at = at.rem_euclid(round);
    at.min(round - at) as usize
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            Foreground,
            tests::{flat, golden, made, near, spread_evenly},
        },
        *,
    };
    use crate::rng::stream;

    fn floats(value: &serde_json::Value) -> Vec<f64> {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn squares_are_drawn_and_turned_as_in_numpy_and_scikit_image() {
        let cases = golden("confetti");
        let cases = cases.as_array().unwrap();
        assert!(cases.len() >= 4);
        for case in cases {
            let shape: [usize; 3] = serde_json::from_value(case["shape"].clone()).unwrap();
            let blob = |blob: &serde_json::Value| Blob {
                centre: serde_json::from_value(blob["centre"].clone()).unwrap(),
                class: serde_json::from_value(blob["side"].clone()).unwrap(),
                side: serde_json::from_value(blob["side"].clone()).unwrap(),
                colour: serde_json::from_value(blob["colour"].clone()).unwrap(),
                degrees: blob["degrees"].as_f64().unwrap(),
            };
            let mut noise = Noise::new(shape);
            for (key, coloured) in [("coloured", true), ("black", false)] {
                let blobs: Vec<Blob> = case[key].as_array().unwrap().iter().map(blob).collect();
                noise.add(&blobs, coloured);
            }
            let drawn: Vec<f64> = noise.levels.iter().map(|level| f64::from(*level)).collect();
            assert_eq!(drawn, floats(&case["drawn"]));
            // What is not touched is 0.
            let touched: std::collections::BTreeSet<usize> = noise.places().collect();
            assert!((0..drawn.len()).all(|at| drawn[at] == 0.0 || touched.contains(&at)));
            noise.blur(&kernel(case["kernel"].as_u64().unwrap() as usize / 2, case["sigma"].as_f64().unwrap()));
            let touched: std::collections::BTreeSet<usize> = noise.places().collect();
            for (at, expected) in floats(&case["blurred"]).into_iter().enumerate() {
                // Theirs is not cut to whole levels, for what is near one.
                let ours = f64::from(noise.levels[at]);
                assert!(
                    (ours - (expected - 0.02).trunc()).abs() < 1e-9 || (ours - (expected + 0.02).trunc()).abs() < 1e-9
                );
                assert!(ours == 0.0 || touched.contains(&at));
            }
        }
    }

    #[test]
    fn centres_are_those_of_independent_pixels_of_which_one_is_at_least() {
        let mut rng = stream(4, "successes", "");
        for (n, probability) in [(400, 0.002), (400, 0.05), (1, 0.3), (6, 1.0)] {
            let (mut counts, mut hits) = (Vec::new(), vec![0_usize; n]);
            for _ in 0..20_000 {
                let places = successes(n, probability, &mut rng);
                assert!(places.windows(2).all(|pair| pair[0] < pair[1]));
                places.iter().for_each(|place| hits[*place] += 1);
                counts.push(places.len() as f64);
            }
            // Given one at least, the mean is n·p / (1 − (1 − p)ⁿ), and every place has the same share of it.
            let mean = n as f64 * probability / (1.0 - (1.0 - probability).powi(n as i32));
            let deviation = (mean * (1.0 + n as f64 * probability)).sqrt();
            near(counts.iter().sum::<f64>() / 20_000.0, mean, 5.0 * deviation / 20_000_f64.sqrt());
            let each = 20_000.0 * mean / n as f64;
            assert!(
                hits.iter().all(|hits| (*hits as f64 - each).abs() < 5.5 * each.sqrt() + 1e-9),
                "{n} {probability}"
            );
        }
    }

    #[test]
    fn counts_sides_colours_and_angles_have_fcdds_laws_at_every_size() {
        let (none, settings) = (Foreground::default(), Settings::default());
        for (height, width) in [(256, 256), (128, 128), (512, 512), (128, 256)] {
            let set = flat([3, height, width], 9);
            let of = Source::new(&set, 0, &none).unwrap();
            let mut rng = stream(5, "blobs", "");
            for (probability, coloured) in [(1.8e-5, true), (1.2e-5, false)] {
                let layers: Vec<Vec<Blob>> =
                    (0..4000).map(|_| blobs(&settings, &of, probability, coloured, &mut rng)).collect();
                let expected = probability * 65_536.0 * (height.max(width) / height.min(width)) as f64;
                let mean = expected / (1.0 - (-expected).exp());
                near(layers.iter().map(|layer| layer.len() as f64).sum::<f64>() / 4000.0, mean, 0.08 * mean.sqrt());
                let all = || layers.iter().flatten();
                spread_evenly(&all().map(|blob| blob.degrees).collect::<Vec<_>>(), [-45.0, 45.0]);
                // 47 sides: a whole number of levels from 7.5 to 54.5.
                let mut sides = [0; 47];
                all().for_each(|blob| sides[blob.class - 8] += 1);
                let each = all().count() as f64 / 47.0;
                assert!(sides.iter().all(|count| (f64::from(*count) - each).abs() < 5.0 * each.sqrt()), "{sides:?}");
                let scale = height.min(width) as f64 / 256.0;
                assert!(all().all(|blob| blob.side == (blob.class as f64 * scale).round() as usize));
                if coloured {
                    for channel in 0..3 {
                        let levels: Vec<f64> = all().map(|blob| f64::from(blob.colour[channel])).collect();
                        spread_evenly(&levels, [-256.0, -1.0]);
                        assert!(levels.contains(&-256.0) && levels.contains(&-1.0));
                    }
                    // A colour for each side, not for each square, and not for each channel.
                    for layer in &layers {
                        for pair in layer.iter().flat_map(|a| layer.iter().map(move |b| (a, b))) {
                            assert!(pair.0.class != pair.1.class || pair.0.colour == pair.1.colour);
                        }
                    }
                    let grey = all().filter(|blob| blob.colour[0] == blob.colour[1]).count();
                    assert!(grey * 50 < all().count());
                } else {
                    assert!(all().all(|blob| blob.colour == [-255]));
                }
            }
        }
    }

    #[test]
    fn what_is_not_seen_is_turned_round() {
        let [black, grey] = [0, 200].map(|level| flat([3, 64, 64], level));
        for draw in 0..50 {
            // On black, dark confetti changes nothing, so its opposite is added; on all else it darkens.
            let (bright, before) = made(&Settings::default(), &black, draw);
            assert!(bright.image.iter().zip(&*before).all(|(after, before)| after >= before));
            let (dark, before) = made(&Settings::default(), &grey, draw);
            assert!(dark.image.iter().zip(&*before).all(|(after, before)| after <= before));
            assert_eq!(bright.mask, dark.mask);
            // The region is where any channel changes: FCDD's own mask.
            let changed = |at: usize| (0..3).any(|channel| dark.image[channel * 4096 + at] != 200);
            assert!((0..4096).all(|at| changed(at) == (dark.mask[at] == 1)));
        }
    }

    #[test]
    fn a_layer_may_be_left_out_but_not_both() {
        let set = flat([3, 64, 64], 150);
        let black = Settings { coloured: 0.0, ..Settings::default() };
        let grey = |made: &Made| (0..4096).all(|at| made.image[at] == made.image[4096 + at]);
        assert!((0..20).all(|draw| grey(&made(&black, &set, draw).0) && made(&black, &set, draw).0.mask.contains(&1)));
        assert!((0..20).any(|draw| !grey(&made(&Settings::default(), &set, draw).0)));
        assert_eq!(black.check([3, 64, 64]), Ok(()));
        let none = Settings { black: 0.0, ..black };
        assert_eq!(none.check([3, 64, 64]), Err("black: there are no squares: `coloured` is 0 as well".to_owned()));
    }

    #[test]
    fn centres_are_on_the_object_and_as_many() {
        let mut set = flat([1, 64, 64], 200);
        let pixel = |at: usize| if (20..40).contains(&(at / 64)) && (30..50).contains(&(at % 64)) { 50 } else { 200 };
        set.pixels = (0..64 * 64).map(pixel).collect();
        let foreground: Foreground = serde_saphyr::from_str("border").unwrap();
        let of = Source::new(&set, 0, &foreground).unwrap();
        let mut rng = stream(6, "object", "");
        let layers: Vec<Vec<Blob>> =
            (0..3000).map(|_| blobs(&Settings::default(), &of, 1.8e-5, true, &mut rng)).collect();
        let on = |blob: &Blob| (20..40).contains(&blob.centre[0]) && (30..50).contains(&blob.centre[1]);
        assert!(layers.iter().flatten().all(on));
        near(layers.iter().map(|layer| layer.len() as f64).sum::<f64>() / 3000.0, 1.702, 0.1);
    }
}
