//! PaDiM: every position of an image has a Gaussian of its own, and an anomaly lies far from its position's.
//!
//! A position's features are some channels, drawn at random, of what leaves several stages. With the mean μ and the covariance Σ of
//! the train images' features at the position, map = √((x − μ)ᵀ (Σ + ε·I)⁻¹ (x − μ)). The map is brought to the images' size and
//! smoothed; the image's score is its maximum, or as `score` says.
//!
//! - Paper: Defard et al., *PaDiM: a Patch Distribution Modeling Framework for Anomaly Detection and Localization*, ICPR 2020
//!   workshops, <https://arxiv.org/abs/2011.08785>.
//! - Reference code: `xiahaifeng1995/PaDiM-Anomaly-Detection-Localization-master`, which the field takes for the official one;
//!   anomalib's `Padim`. Both divide the covariance by N − 1 and repeat the coarser stages' values (nearest), as this does. anomalib
//!   adds 1e-5 more to the diagonal, and draws its channels from torch's global generator.
//! - Stages larger than the grid, which `grid` may name, are averaged over what lies in a position.
//! - Sums are f64, of the images one after another; the covariance is factored by Cholesky and never inverted. The fit holds
//!   P·d·(d + 5)/2 numbers of 8 bytes, for P positions and d channels: 172 MB for 64 × 64 positions and 100 channels.

use std::{borrow::Cow, ops::Range};

use rand::seq::index;
use rayon::prelude::*;

use super::{
    Activations, Bank, Check, Detector, Fit, Maps, Need, Scorer, Scores, Smoke, check_memory,
    map::{ImageScore, Post},
    patches::{Choice, Layout, image_size, in_smoke, means, odd, stages_once},
    resample::{Grow, axis, resample},
};
use crate::{Error, Result, linalg::triangles, nn::Outputs, ops::wide, rng};

/// Neighbouring positions that are treated together: their values share cache lines.
const TILE: usize = 16;
/// Positions whose covariances are factored side by side.
const LANES: usize = 8;
/// Images that a position's factor is applied to at a time, where there are so many.
const MANY: usize = 32;
/// And where there are fewer.
const FEW: usize = 8;

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Padim")]
pub struct Config {
    /// The stages that are read; absent: the first three, as in the paper, or all of a network that has fewer.
    #[garde(custom(stages_once))]
    pub stages: Option<Vec<String>>,
    /// The stage whose rows and columns the map has; absent: the one with the most.
    #[garde(skip)]
    pub grid: Option<String>,
    /// Rows and columns of the neighbourhood whose mean a position stands for, as of PatchCore's patches. 1, the position alone, in the
    /// paper.
    #[garde(range(min = 1, max = 31), custom(odd))]
    #[serde(skip_serializing_if = "is_one")]
    pub neighbourhood: usize,
    /// d, the channels that are drawn of all: 100 in the paper for ResNet-18, 550 for WideResNet-50-2. All, if there are no more.
    #[garde(range(min = 1, max = 100_000))]
    pub dimensions: usize,
    /// ε on the covariance's diagonal: 0.01 in the paper.
    #[garde(range(min = 1e-12, max = 1e6))]
    pub epsilon: f64,
    /// Of the draw of channels: another number draws others.
    #[garde(skip)]
    pub seed: u64,
    /// σ of the Gaussian that the map is smoothed by, in pixels of the network's input: 4 in the reference code. 0: none.
    #[garde(range(min = 0.0, max = 1000.0))]
    pub smooth: f64,
    /// What an image is scored by: the maximum in the paper.
    #[garde(dive)]
    pub score: ImageScore,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stages: None,
            grid: None,
            neighbourhood: 1,
            dimensions: 100,
            epsilon: 0.01,
            seed: 0,
            smooth: 4.0,
            score: ImageScore::Max,
        }
    }
}

impl Config {
    fn choice(&self) -> Choice<'_> {
        Choice { who: "padim", stages: self.stages.as_deref(), default: 0..3, grid: self.grid.as_deref() }
    }

    /// Refuses stages that a network with these outputs does not have, and a fit that does not fit into `memory` bytes.
    ///
    /// # Errors
    /// [`Error::Input`] that lists the stages, or says how much memory it takes.
    pub fn check(&self, outputs: &Outputs, memory: usize) -> Result<()> {
        self.check_memory(&Layout::of_outputs(&self.choice(), outputs)?, memory)
    }

    /// The bytes that a fit holds of a network that gives these outputs, however many the train images.
    ///
    /// # Errors
    /// [`Error::Input`] that lists the stages, if it lacks one.
    pub fn memory_needed(&self, outputs: &Outputs) -> Result<usize> {
        Ok(self.bytes(&Layout::of_outputs(&self.choice(), outputs)?))
    }

    fn bytes(&self, layout: &Layout) -> usize {
        layout.positions() * Moments::numbers(self.dimensions.min(layout.channels())) * size_of::<f64>()
    }

    fn check_memory(&self, layout: &Layout, memory: usize) -> Result<()> {
        let [rows, columns] = layout.grid;
        let of = format!("the covariances of {rows} × {columns} positions");
        check_memory("padim needs", &of, [self.bytes(layout), memory]).map_err(|error| {
            error.hint("raise evaluation.fit_memory (--memory), take fewer dimensions, or a coarser grid")
        })
    }
}

/// What is only written where it is asked for keeps the hashes of scores without it.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands over a reference")]
fn is_one(side: &usize) -> bool {
    *side == 1
}

/// Which channels of which stage, in rising order.
fn draw(config: &Config, layout: &Layout) -> Vec<(usize, usize)> {
    let all: Vec<(usize, usize)> = layout
        .stages
        .iter()
        .enumerate()
        .flat_map(|(stage, shape)| (0..shape.channels).map(move |channel| (stage, channel)))
        .collect();
    if config.dimensions >= all.len() {
        return all;
    }
    let mut stream = rng::stream(config.seed, "PaDiM's dimensions", &all.len().to_string());
    let mut drawn = index::sample(&mut stream, all.len(), config.dimensions).into_vec();
    drawn.sort_unstable();
    drawn.into_iter().map(|at| all[at]).collect()
}

/// What is read of every image: the drawn channels on the grid.
struct Reading {
    layout: Layout,
    drawn: Vec<(usize, usize)>,
    neighbourhood: usize,
}

/// The drawn channels of a batch, (N, d, P).
struct Read {
    images: usize,
    values: Vec<f32>,
}

impl Reading {
    fn read(&self, batch: &super::Batch, start: usize) -> Result<Read> {
        let values = self.layout.read(batch, start)?;
        let (images, positions) = (self.layout.images(&values), self.layout.positions());
        let [rows, columns] = self.layout.grid;
        let axes: Vec<_> = self
            .layout
            .stages
            .iter()
            .map(|stage| [axis(stage.size[0], rows, Grow::Nearest), axis(stage.size[1], columns, Grow::Nearest)])
            .collect();
        let mut read = vec![0.0; images * self.drawn.len() * positions];
        let planes = read.par_chunks_exact_mut(positions).enumerate();
        planes.for_each(|(at, plane)| {
            let (image, (stage, channel)) = (at / self.drawn.len(), self.drawn[at % self.drawn.len()]);
            let (shape, [down, across]) = (&self.layout.stages[stage], &axes[stage]);
            let size = shape.size[0] * shape.size[1];
            let map = &values[stage][(image * shape.channels + channel) * size..][..size];
            let map = match self.neighbourhood {
                1 => Cow::Borrowed(map),
                side => Cow::Owned(means(map, shape.size, side)),
            };
            if shape.size == self.layout.grid {
                plane.copy_from_slice(&map);
            } else {
                plane.copy_from_slice(&resample(&map, shape.size[1], down, across));
            }
        });
        Ok(Read { images, values: read })
    }
}

impl Read {
    /// The value of each image in turn, of a dimension, at positions that follow each other.
    fn at(&self, dimensions: usize, dimension: usize, positions: usize, first: usize) -> impl Iterator<Item = &[f32]> {
        let plane = move |image: usize| (image * dimensions + dimension) * positions + first;
        (0..self.images).map(move |image| &self.values[plane(image)..])
    }
}

/// Of each position, one after another: d values of a first image, the d sums of the images' differences to it, and of the products of
/// these the lower triangle, row after row. After the fit: the mean, the inverses of the factor's diagonal, and the factor.
struct Moments {
    dimensions: usize,
    images: usize,
    numbers: Vec<f64>,
}

impl Moments {
    /// Numbers of a position.
    fn numbers(dimensions: usize) -> usize {
        2 * dimensions + dimensions * (dimensions + 1) / 2
    }

    fn new(dimensions: usize, positions: usize) -> Self {
        Self { dimensions, images: 0, numbers: vec![0.0; positions * Self::numbers(dimensions)] }
    }

    /// Adds the images of a batch. No bit depends on which images come together.
    fn add(&mut self, read: &Read) {
        let (size, each) = (self.dimensions, Self::numbers(self.dimensions));
        let positions = self.numbers.len() / each;
        let first_of_all = self.images == 0;
        self.numbers.par_chunks_mut(TILE * each).enumerate().for_each_init(Vec::new, |rows, (tile, numbers)| {
            let count = numbers.len() / each;
            rows.clear();
            rows.resize(count * read.images * size, 0.0_f64);
            for dimension in 0..size {
                for (image, values) in read.at(size, dimension, positions, tile * TILE).enumerate() {
                    for (place, value) in values[..count].iter().enumerate() {
                        rows[(place * read.images + image) * size + dimension] = f64::from(*value);
                    }
                }
            }
            let places = numbers.chunks_exact_mut(each).zip(rows.chunks_exact_mut(read.images * size));
            for (numbers, rows) in places {
                let (shift, rest) = numbers.split_at_mut(size);
                let (sums, products) = rest.split_at_mut(size);
                if first_of_all {
                    shift.copy_from_slice(&rows[..size]);
                }
                wide!({
                    for row in rows.chunks_exact_mut(size) {
                        row.iter_mut().zip(&*shift).for_each(|(value, shift)| *value -= shift);
                        sums.iter_mut().zip(&*row).for_each(|(sum, value)| *sum += value);
                    }
                    add_products(products, rows, size);
                });
            }
        });
        self.images += read.images;
    }

    /// Groups of positions that are factored side by side.
    fn groups(&self) -> usize {
        (self.numbers.len() / Self::numbers(self.dimensions)).div_ceil(LANES)
    }

    /// From sums to means and factors, of some groups.
    ///
    /// # Errors
    /// [`Error::Failed`] if a covariance has no factor.
    fn factor(&mut self, epsilon: f64, groups: Range<usize>) -> Result<()> {
        let (size, each, images) = (self.dimensions, Self::numbers(self.dimensions), self.images as f64);
        let end = (groups.end * LANES * each).min(self.numbers.len());
        let numbers = &mut self.numbers[groups.start * LANES * each..end];
        let factor = |triangles: &mut Vec<[f64; LANES]>, (group, numbers): (usize, &mut [f64])| {
            triangles.clear();
            triangles.resize(size * (size + 1) / 2, [0.0; LANES]);
            let count = numbers.len() / each;
            for lane in 0..LANES {
                // The last group may be short: it has its last position again.
                let numbers = &mut numbers[lane.min(count - 1) * each..][..each];
                let (sums, products) = numbers[size..].split_at_mut(size);
                for row in 0..size {
                    let start = row * (row + 1) / 2;
                    for column in 0..=row {
                        let product = products[start + column] - sums[row] * sums[column] / images;
                        let ridge = if row == column { epsilon } else { 0.0 };
                        triangles[start + column][lane] = product / (images - 1.0) + ridge;
                    }
                }
            }
            triangles::cholesky(triangles, size).map_err(|lane| {
                let place = (groups.start + group) * LANES + lane.min(count - 1);
                Error::Failed(format!(
                    "the covariance at position {place} has no factor: epsilon {epsilon} is too small"
                ))
            })?;
            for (lane, numbers) in numbers.chunks_exact_mut(each).enumerate() {
                let (mean, rest) = numbers.split_at_mut(size);
                let (sums, products) = rest.split_at_mut(size);
                mean.iter_mut().zip(&*sums).for_each(|(mean, sum)| *mean += sum / images);
                products.iter_mut().zip(&*triangles).for_each(|(product, lanes)| *product = lanes[lane]);
                for (row, inverse) in sums.iter_mut().enumerate() {
                    *inverse = 1.0 / triangles[row * (row + 3) / 2][lane];
                }
            }
            Ok(())
        };
        numbers.par_chunks_mut(LANES * each).enumerate().try_for_each_init(Vec::new, factor)
    }

    /// The distance of each image at each position: (N, P).
    fn distances(&self, read: &Read) -> Vec<f32> {
        let (size, each) = (self.dimensions, Self::numbers(self.dimensions));
        let positions = self.numbers.len() / each;
        let tiles = self.numbers.par_chunks(TILE * each).enumerate().map_init(Vec::new, |columns, (tile, numbers)| {
            let count = numbers.len() / each;
            let width = if read.images < MANY { FEW } else { MANY };
            let padded = read.images.next_multiple_of(width);
            columns.clear();
            // By position, block of images, dimension and image.
            columns.resize(count * padded * size, 0.0_f64);
            for dimension in 0..size {
                for (image, values) in read.at(size, dimension, positions, tile * TILE).enumerate() {
                    let (block, lane) = (image / width, image % width);
                    for (place, value) in values[..count].iter().enumerate() {
                        let mean = numbers[place * each + dimension];
                        let at = (place * padded + block * width) * size + dimension * width + lane;
                        columns[at] = f64::from(*value) - mean;
                    }
                }
            }
            let mut found = Vec::with_capacity(count * padded);
            let places = numbers.chunks_exact(each).zip(columns.chunks_exact_mut(padded * size));
            for (numbers, columns) in places {
                let (inverses, factor) = numbers[size..].split_at(size);
                for block in columns.chunks_exact_mut(width * size) {
                    match width {
                        MANY => found.extend(wide!(lengths::<MANY>(inverses, factor, block))),
                        _ => found.extend(wide!(lengths::<FEW>(inverses, factor, block))),
                    }
                }
            }
            (padded, found)
        });
        let tiles: Vec<(usize, Vec<f32>)> = tiles.collect();
        let mut maps = vec![0.0; read.images * positions];
        for (tile, (padded, found)) in tiles.iter().enumerate() {
            for (place, found) in found.chunks_exact(*padded).enumerate() {
                for (image, distance) in found[..read.images].iter().enumerate() {
                    maps[image * positions + tile * TILE + place] = *distance;
                }
            }
        }
        maps
    }
}

/// Adds the products of the columns of `rows` (N, size) to the lower triangle `sums`, row after row of it; image after image, so that
/// no bit depends on how many come together.
#[inline(always)]
fn add_products(sums: &mut [f64], rows: &[f64], size: usize) {
    let mut start = 0;
    for row in 0..size {
        let sums = &mut sums[start..][..=row];
        start += row + 1;
        let mut four = rows.chunks_exact(4 * size);
        for images in &mut four {
            let [a, b, c, d] = [0, 1, 2, 3].map(|image| &images[image * size..][..=row]);
            let [x, y, z, w] = [a[row], b[row], c[row], d[row]];
            for ((((sum, a), b), c), d) in sums.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                *sum = (((*sum + x * a) + y * b) + z * c) + w * d;
            }
        }
        for image in four.remainder().chunks_exact(size) {
            let by = image[row];
            sums.iter_mut().zip(&image[..=row]).for_each(|(sum, value)| *sum += by * value);
        }
    }
}

/// ‖L⁻¹x‖ of W vectors x side by side, (size, W), which are replaced by L⁻¹x. L: its lower triangle, row after row.
#[inline(always)]
fn lengths<const W: usize>(inverses: &[f64], factor: &[f64], columns: &mut [f64]) -> [f32; W] {
    let (columns, _) = columns.as_chunks_mut::<W>();
    let mut squares = [0.0; W];
    let mut start = 0;
    for row in 0..inverses.len() {
        let (known, rest) = columns.split_at_mut(row);
        let this = &mut rest[0];
        for (weight, known) in factor[start..][..row].iter().zip(known) {
            this.iter_mut().zip(known).for_each(|(x, known)| *x -= weight * *known);
        }
        for (x, square) in this.iter_mut().zip(&mut squares) {
            *x *= inverses[row];
            *square += *x * *x;
        }
        start += row + 1;
    }
    squares.map(|square| square.sqrt() as f32)
}

/// A Gaussian for each position.
struct Padim {
    reading: Reading,
    moments: Moments,
    post: Post,
}

impl Padim {
    fn fit(config: &Config, post: Post, train: &dyn Activations, memory: usize) -> Result<Self> {
        if train.images() < 2 {
            let message = format!("padim needs 2 train images for a covariance, and there are {}", train.images());
            return Err(Error::input(message));
        }
        let mut fitted: Option<(Reading, Moments)> = None;
        train.stages("fitting PaDiM", &mut |start, batch| {
            let (reading, moments) = match &mut fitted {
                Some(fitted) => fitted,
                None => {
                    let layout = Layout::of_batch(&config.choice(), batch)?;
                    config.check_memory(&layout, memory)?;
                    let drawn = draw(config, &layout);
                    let moments = Moments::new(drawn.len(), layout.positions());
                    fitted.insert((Reading { layout, drawn, neighbourhood: config.neighbourhood }, moments))
                }
            };
            moments.add(&reading.read(batch, start)?);
            Ok(())
        })?;
        let Some((reading, mut moments)) = fitted else {
            return Err(Error::Failed("padim saw no train image".into()));
        };
        train.work("factoring PaDiM's covariances", moments.groups(), &mut |groups| {
            moments.factor(config.epsilon, groups)
        })?;
        Ok(Self { reading, moments, post })
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Need] {
        &[Need::Stages, Need::Train]
    }

    fn reads_batches(&self) -> bool {
        true
    }

    fn post(&self) -> Option<Post> {
        Some(Post { smooth: self.smooth, score: self.score })
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        let post = Post { smooth: self.smooth, score: self.score };
        Ok(Box::new(Padim::fit(self, post, fit.train()?.layers()?, fit.memory)?))
    }

    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        in_smoke(&mut self.stages, &mut self.grid, smoke);
    }

    fn grid(&self, outputs: &Outputs) -> Option<[usize; 2]> {
        Some(Layout::of_outputs(&self.choice(), outputs).ok()?.grid)
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| {
            self.check(about.outputs, about.memory)?;
            Ok(Some(self.memory_needed(about.outputs)?))
        }))
    }
}

impl Scorer for Padim {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let images = bank.layers()?;
        let size = image_size(images)?;
        let mut maps = Vec::with_capacity(images.images() * self.reading.layout.positions());
        images.stages("scoring PaDiM", &mut |start, batch| {
            maps.extend(self.moments.distances(&self.reading.read(batch, start)?));
            Ok(())
        })?;
        self.post.scores(Maps::new(self.reading.layout.grid, maps)?, size)
    }

    fn record(&self) -> Option<serde_json::Value> {
        let Reading { layout, drawn, .. } = &self.reading;
        let stages: Vec<&str> = layout.stages.iter().map(|stage| &stage.name[..]).collect();
        Some(serde_json::json!({
            "images": self.moments.images,
            "positions": layout.positions(),
            "dimensions": drawn.len(),
            "of_channels": layout.channels(),
            "stages": stages.join(" "),
        }))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Tensor};
    use rand_distr::{Distribution, StandardNormal};

    use super::super::golden_maps::{Golden, bank, config, score};

    #[test]
    fn equal_to_numpy_with_an_inverse_at_every_position() {
        serde_json::from_str::<Golden>(include_str!("../../tests/golden/padim.json")).unwrap().check("padim");
    }

    fn stage(images: usize, name: &str) -> Tensor {
        let mut stream = crate::rng::stream(0, "PaDiM test", name);
        let values: Vec<f32> = StandardNormal.sample_iter(&mut stream).take(images * 6 * 20).collect();
        Tensor::from_vec(values, (images, 6, 4, 5), &Device::Cpu).unwrap()
    }

    /// More images than a factor is applied to at a time, alone and together.
    #[test]
    fn company_does_not_change_a_bit_and_draws_are_by_seed() {
        let train = bank(vec![("a".into(), stage(30, "train"))], [8, 10]);
        let test = stage(37, "test");
        let of = |images: &Tensor, yaml: &str| {
            let scores = score(&config(yaml), &train, &bank(vec![("a".into(), images.clone())], [8, 10])).unwrap();
            scores.maps().unwrap().values().to_vec()
        };
        let whole = of(&test, "padim: { dimensions: 4 }");
        let parts: Vec<f32> =
            (0..37).flat_map(|image| of(&test.narrow(0, image, 1).unwrap(), "padim: { dimensions: 4 }")).collect();
        assert_eq!(whole, parts);
        assert_ne!(whole, of(&test, "padim: { dimensions: 4, seed: 1 }"));
        // A neighbourhood is the mean over it, of train and test images alike.
        let blurred = |images: &Tensor| {
            images
                .pad_with_zeros(2, 1, 1)
                .unwrap()
                .pad_with_zeros(3, 1, 1)
                .unwrap()
                .avg_pool2d_with_stride(3, 1)
                .unwrap()
        };
        let around = of(&test, "padim: { dimensions: 4, neighbourhood: 3 }");
        let trained = bank(vec![("a".into(), blurred(&stage(30, "train")))], [8, 10]);
        let tested = bank(vec![("a".into(), blurred(&test))], [8, 10]);
        let alone = score(&config("padim: { dimensions: 4 }"), &trained, &tested).unwrap();
        let alone = alone.maps().unwrap().values();
        assert!(around.iter().zip(alone).all(|(a, b)| (a - b).abs() < 1e-4 * b.abs().max(1.0)));
        assert_ne!(around, whole);
        let all = of(&test, "padim");
        assert_eq!(all, of(&test, "padim: { seed: 1 }"));
    }

    #[test]
    fn what_cannot_be_fitted_is_said() {
        let of = |images: usize, yaml: &str| {
            let train = bank(vec![("a".into(), stage(images, "train"))], [8, 10]);
            score(&config(yaml), &train, &train).unwrap_err().to_string()
        };
        assert!(of(1, "padim").contains("padim needs 2 train images for a covariance, and there are 1"));
        assert!(of(3, "padim: { stages: [layer1] }").contains("the network has no stage \"layer1\"; it has a"));
        let other = bank(vec![("a".into(), Tensor::zeros((2, 6, 4, 4), DType::F32, &Device::Cpu).unwrap())], [8, 10]);
        let train = bank(vec![("a".into(), stage(9, "train"))], [8, 10]);
        let error = score(&config("padim"), &train, &other).unwrap_err().to_string();
        assert!(error.contains("the stage \"a\" is [6, 4, 4], and was [6, 4, 5] when the detector learned"), "{error}");
        let mut values = stage(9, "train").flatten_all().unwrap().to_vec1::<f32>().unwrap();
        values[3 * 120 + 7] = f32::NAN;
        let nan = Tensor::from_vec(values, (9, 6, 4, 5), &Device::Cpu).unwrap();
        let nan = bank(vec![("a".into(), nan)], [8, 10]);
        let error = score(&config("padim"), &nan, &train).unwrap_err().to_string();
        assert_eq!(error, "the stage \"a\" of image 3 holds NaN");
        let memory = super::super::Fit { train: Some(&train), memory: 1 << 10, ..super::super::Fit::default() };
        let error = config("padim").build().fit(&memory).err().unwrap().to_string();
        assert!(
            error.contains("padim needs 1 MiB for the covariances of 4 × 5 positions, and may use 0 MiB"),
            "{error}"
        );
    }
}
