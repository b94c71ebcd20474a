//! The model's own map: what it shows of an image, smoothed, and an image's score taken from it.
//!
//! map = Gaussian_σ(resize(model's map)); score = its maximum, or as `score` says.
//!
//! - Of the fusion network, the score of every position (Tang et al., J. NUDT 2025, equation 9), or with `of: distance` the distance of
//!   its embedding ψ from the origin, √(‖ψ‖² + 1) − 1 (Liznerski et al., *FCDD*, ICLR 2021).
//! - Of an autoencoder, the squared error of every pixel: Bergmann et al., *MVTec AD*, CVPR 2019, section 4.1.2.
//! - Of a teacher and a student, how far they are apart: Deng & Li, CVPR 2022; Wang et al., BMVC 2021.
//! - Of EfficientAD and of uninformed students, the mean of two parts, each brought to one measure by what it is on train images. `of: quantiles`:
//!   0.1·(part − q₀.₉) / (q₀.₉₉₅ − q₀.₉) (Batzner et al., *EfficientAD*, WACV 2024, section 3.4); `of: deviations`: (part − mean) / deviation
//!   (Bergmann et al., *Uninformed Students*, CVPR 2020, equation 8). EfficientAD takes the quantiles of train images that it holds out; these
//!   are of all of them.
//! - Of FCDD, the distance of every position; `enlarge: {}`, `smooth: 0` and `score: mean` are its code's.
//! - Reference code: none was published for the autoencoder. PaDiM's and PatchCore's smooth their maps alike.
//! - Smoothing: σ 4, as PaDiM's and PatchCore's official code at 224 and 256 pixels.

use candle_core::Tensor;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Bank, Batches, Check, Detector, Fit, Fitting, Learns, Maps, Output, Pushed, Scorer, Scores, Scoring,
    map::{ImageScore, Post},
    parts::{self, Measure, Measuring, measured},
    patches::image_size,
    pushed,
};
use crate::{
    Error, Result,
    losses::hypersphere,
    nn::{Shown, receptive::Receptive},
    yaml::named::is_default,
};

/// The map that the model makes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "OwnMap")]
pub struct Config {
    /// What the map is of: the model's `score` of a position, the `distance` of its embedding from the origin, or the mean of the parts of its
    /// map, each measured by its `quantiles` or its `deviations` on train images. Ours: `score`.
    #[garde(skip)]
    #[serde(skip_serializing_if = "is_default")]
    pub of: Of,
    /// σ of the Gaussian that maps are smoothed with, in pixels of the image; 0: none. 4: PaDiM's and PatchCore's official code.
    #[garde(range(min = 0.0, max = 1000.0))]
    pub smooth: f64,
    /// What an image is scored by: `max` of its map, `patch` before smoothing, `mean` before it, or `{ top: 0.01 }`, the mean of so large a
    /// share.
    #[garde(dive)]
    pub score: ImageScore,
    /// The Gaussian by which a map is brought to the image's size. Default: none, and bilinear interpolation.
    #[garde(dive)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enlarge: Option<Receptive>,
}

/// What a model shows of a position that can be its score.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// The model's own score.
    #[default]
    Score,
    /// The distance of its embedding from the origin.
    Distance,
    /// The mean of the parts of its map, of which each has 0 at its 0.9 quantile on train images and 0.1 at its 0.995 quantile.
    Quantiles,
    /// The mean of the parts of its map, of which each has mean 0 and deviation 1 on train images.
    Deviations,
}

impl Of {
    /// The (N, h, w) map, of parts that were measured so.
    fn map(self, shown: &Shown, parts: &[Measure]) -> Result<Tensor> {
        Ok(match self {
            Self::Score => shown.map()?.clone(),
            Self::Distance => hypersphere::distance(shown.embedding()?)?,
            Self::Quantiles | Self::Deviations => measured(shown.parts()?, parts)?,
        })
    }

    fn learns(self) -> bool {
        matches!(self, Self::Quantiles | Self::Deviations)
    }
}

impl Default for Config {
    fn default() -> Self {
        Self { of: Of::default(), smooth: 4.0, score: ImageScore::Max, enlarge: None }
    }
}

impl Config {
    pub(super) fn read(&self) -> Post {
        Post { smooth: self.smooth, score: self.score, enlarge: self.enlarge }
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        match self.of {
            Of::Score => &[Output::Map],
            Of::Distance => &[Output::Embedding],
            Of::Quantiles | Of::Deviations => &[Output::Parts],
        }
    }

    fn learns(&self) -> Learns {
        if self.of.learns() { Learns::Images } else { Learns::Nothing }
    }

    fn pushed(&self) -> Option<&dyn Pushed> {
        Some(self)
    }

    fn post(&self) -> Option<Post> {
        Some(self.read())
    }

    fn grid(&self, shown: &Shown) -> Option<[usize; 2]> {
        let dims = match self.of {
            Of::Score | Of::Distance => self.of.map(shown, &[]).ok()?.dims3(),
            Of::Quantiles | Of::Deviations => shown.parts().ok()?.first()?.1.dims3(),
        };
        let (_, rows, columns) = dims.ok()?;
        Some([rows, columns])
    }

    fn depends(&self) -> Option<Check<'_>> {
        self.of.learns().then(|| -> Check<'_> {
            Box::new(|about| {
                let of = |images| parts::bytes(about.shown.parts()?, images, about.memory);
                Ok(about.train.map(of).transpose()?)
            })
        })
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        pushed::fit(self, fit)
    }
}

impl Pushed for Config {
    fn start(&self, fit: &Fit<'_>) -> Result<Fitting> {
        if self.of.learns() {
            let images = fit.train()?.batches()?.images();
            return Ok(Fitting::Learning(Box::new(Measuring::new(self.clone(), images, fit.memory))));
        }
        Ok(Fitting::Ready(Box::new(OwnMap { of: self.of, parts: Vec::new(), post: self.read() })))
    }
}

pub(super) struct OwnMap {
    pub of: Of,
    /// How the parts are measured, where the map is of them.
    pub parts: Vec<Measure>,
    pub post: Post,
}

impl Scorer for OwnMap {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        pushed::score(self, bank, "reading maps", false)
    }

    fn record(&self) -> Option<serde_json::Value> {
        if self.parts.is_empty() {
            return None;
        }
        let parts = self.parts.iter().map(|part| (part.name.clone(), serde_json::json!([part.zero, part.unit])));
        Some(serde_json::json!({ "parts": parts.collect::<serde_json::Map<_, _>>() }))
    }

    fn scoring<'a>(&'a self, images: &dyn Batches) -> Result<Box<dyn Scoring + 'a>> {
        Ok(Box::new(Read {
            map: self,
            size: image_size(images)?,
            grid: None,
            maps: Vec::new(),
            images: images.images(),
        }))
    }
}

/// The maps so far.
struct Read<'a> {
    map: &'a OwnMap,
    size: [usize; 2],
    grid: Option<[usize; 2]>,
    maps: Vec<f32>,
    /// Of the whole set.
    images: usize,
}

impl Scoring for Read<'_> {
    fn see(&mut self, _: usize, batch: &Shown) -> Result<()> {
        let map = self.map.of.map(batch, &self.map.parts)?;
        let (_, rows, columns) = map.dims3()?;
        if self.grid.is_none() {
            self.maps.reserve(self.images * rows * columns);
        }
        self.grid = Some([rows, columns]);
        self.maps.extend(map.flatten_all()?.to_vec1::<f32>()?);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Scores> {
        let grid = self.grid.ok_or_else(|| Error::Failed("there is no image to make a map of".into()))?;
        self.map.post.scores(Maps::new(grid, self.maps)?, self.size)
    }
}
