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

mod moments;

use std::borrow::Cow;

use rand::seq::index;
use rayon::prelude::*;

use super::{
    Bank, Batches, Fit, Fitting, Learner, Maps, Scorer, Scores, Scoring, check_memory,
    map::{ImageScore, Post},
    patches::{Layout, Patchwise, Settings, image_size, means, odd, stages_once},
    pushed,
    resample::{Grow, axis, resample},
};
use crate::{Error, Result, nn::Shown, rng};

use moments::{Moments, Read};

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

impl Reading {
    fn read(&self, batch: &Shown, start: usize) -> Result<Read> {
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

/// A Gaussian for each position.
struct Padim {
    reading: Reading,
    moments: Moments,
    post: Post,
}

/// Refuses too few train images.
fn enough(images: usize) -> Result<()> {
    let are = match images {
        0 => "are none",
        1 => "is 1",
        _ => return Ok(()),
    };
    Err(Error::input(format!("padim needs 2 train images for a covariance, and there {are}"))
        .hint("add normal train images, or raise `train_limit`"))
}

impl Patchwise for Config {
    fn settings(&self) -> Settings<'_> {
        Settings {
            who: "padim",
            stages: self.stages.as_deref(),
            default: 0..3,
            grid: self.grid.as_deref(),
            post: Post { smooth: self.smooth, score: self.score, enlarge: None },
        }
    }

    fn stages(&mut self) -> (&mut Option<Vec<String>>, &mut Option<String>) {
        (&mut self.stages, &mut self.grid)
    }

    fn bytes(&self, layout: &Layout, images: Option<usize>, memory: usize) -> Result<Option<usize>> {
        images.map_or(Ok(()), enough)?;
        let numbers = Moments::numbers(self.dimensions.min(layout.channels()));
        let bytes = layout.positions() * numbers * size_of::<f64>();
        let [rows, columns] = layout.grid;
        let of = format!("the covariances of {rows} × {columns} positions");
        check_memory("padim needs", &of, [bytes, memory]).map_err(|error| {
            error.hint("raise evaluation.fit_memory (--memory), take fewer dimensions, or a coarser grid")
        })?;
        Ok(Some(bytes))
    }

    fn learner(&self, images: usize, fit: &Fit<'_>) -> Result<Box<dyn Learner>> {
        enough(images)?;
        Ok(Box::new(Learning { config: self.clone(), memory: fit.memory, fitted: None }))
    }
}

/// The train images so far.
struct Learning {
    config: Config,
    memory: usize,
    fitted: Option<(Reading, Moments)>,
}

impl Learner for Learning {
    fn what(&self) -> &'static str {
        "fitting PaDiM"
    }

    fn see(&mut self, start: usize, batch: &Shown) -> Result<()> {
        let (reading, moments) = match &mut self.fitted {
            Some(fitted) => fitted,
            None => {
                let layout = Layout::of_shown(&self.config.settings(), batch)?;
                self.config.bytes(&layout, None, self.memory)?;
                let drawn = draw(&self.config, &layout);
                let moments = Moments::new(drawn.len(), layout.positions());
                let neighbourhood = self.config.neighbourhood;
                self.fitted.insert((Reading { layout, drawn, neighbourhood }, moments))
            }
        };
        moments.add(&reading.read(batch, start)?);
        Ok(())
    }

    fn passed(self: Box<Self>, train: &dyn Batches) -> Result<Fitting> {
        let Self { config, fitted, .. } = *self;
        let Some((reading, mut moments)) = fitted else {
            return Err(Error::Failed("padim saw no train image".into()));
        };
        train.work("factoring PaDiM's covariances", moments.groups(), &mut |groups| {
            moments.factor(config.epsilon, groups)
        })?;
        Ok(Fitting::Ready(Box::new(Padim { reading, moments, post: config.settings().post })))
    }
}

impl Scorer for Padim {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        pushed::score(self, bank, "scoring PaDiM", false)
    }

    fn scoring<'a>(&'a self, images: &dyn Batches) -> Result<Box<dyn Scoring + 'a>> {
        let maps = Vec::with_capacity(images.images() * self.reading.layout.positions());
        Ok(Box::new(Scored { padim: self, size: image_size(images)?, maps }))
    }

    fn record(&self) -> Option<serde_json::Value> {
        let Reading { layout, drawn, .. } = &self.reading;
        Some(serde_json::json!({
            "images": self.moments.images(),
            "positions": layout.positions(),
            "dimensions": drawn.len(),
            "of_channels": layout.channels(),
            "stages": layout.names(),
        }))
    }
}

/// The maps so far.
struct Scored<'a> {
    padim: &'a Padim,
    size: [usize; 2],
    maps: Vec<f32>,
}

impl Scoring for Scored<'_> {
    fn see(&mut self, start: usize, batch: &Shown) -> Result<()> {
        self.maps.extend(self.padim.moments.distances(&self.padim.reading.read(batch, start)?));
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Scores> {
        self.padim.post.scores(Maps::new(self.padim.reading.layout.grid, self.maps)?, self.size)
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
        assert!(of(1, "padim").contains("padim needs 2 train images for a covariance, and there is 1"));
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
