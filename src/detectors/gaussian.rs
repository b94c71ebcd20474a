//! One Gaussian of all normal images: how far an image's features lie from those of the train images, or those of each of its windows.
//!
//! score = √((z − μ)ᵀ Σ⁻¹ (z − μ)) for the features z, each divided by its length, with the train images' mean μ and their covariance
//! Σ = (1 − ρ)·S + ρ·tr(S)/D·I, where S divides by N and ρ is Ledoit and Wolf's. With `of: windows` there is one Gaussian for the windows at all
//! places, and map = the mean of the windows that cover a place, each weighted by a Gaussian about its centre.
//!
//! - Papers: Li et al., *CutPaste*, CVPR 2021, <https://arxiv.org/abs/2104.04015>, section 2.3, and 2.4 for windows; Ledoit & Wolf, *A
//!   well-conditioned estimator for large-dimensional covariance matrices*, Journal of Multivariate Analysis 2004, for ρ; Rippel et al., *Modeling
//!   the Distribution of Normal Data in Pre-Trained Deep Features for Anomaly Detection*, ICPR 2020, whose density this is.
//! - Reference code: `Runinho/pytorch-cutpaste`, `density.py` and `eval.py`, with scikit-learn's `LedoitWolf`.
//! - Deviation: FCDD's Gaussian upsampling, which CutPaste takes for its windows, is not divided by the sum of its weights, so that the border
//!   of an image, which fewer windows cover, has lower values.
//! - `mahalanobis` has a mean for each class, a pseudo-inverse in the place of ρ, and features as long as they are; `ddu` a covariance for each
//!   class. Sums are f64, of the images one after another; the fit holds 3·D² numbers of 8 bytes.

use serde::{Deserialize, Serialize};

use super::{
    Bank, Batches, Check, Detector, Fit, Fitting, Learner, Learns, Maps, Output, Pushed, Scorer, Scores, Scoring,
    check_memory, finite,
    map::{ImageScore, Post},
    pushed,
    resample::Axis,
    same,
    windows::Layout,
};
use crate::{
    Error, Result,
    linalg::{Cholesky, LedoitWolf},
    nn::{Shown, windows::Windowed},
    yaml::named::is_default,
};

/// Settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Gaussian")]
pub struct Config {
    /// What the Gaussian is of: an image's `features`, or those of its `windows`, which make a map.
    #[garde(skip)]
    pub of: Of,
    /// Whether features are divided by their length. CutPaste's: true.
    #[garde(skip)]
    pub unit: bool,
    /// With `of: windows`, σ of the Gaussian about a window's centre, in pixels. FCDD's for MVTec AD: 12.
    #[garde(range(min = 0.1, max = 10_000.0))]
    pub sigma: f64,
    /// With `of: windows`, σ of the Gaussian that the map is smoothed by, in pixels. Ours: 0, none, since the map is smooth.
    #[garde(range(min = 0.0, max = 1000.0))]
    pub smooth: f64,
    /// With `of: windows`, what an image is scored by. CutPaste's: `max`.
    #[garde(dive)]
    #[serde(skip_serializing_if = "is_default")]
    pub score: ImageScore,
}

/// What the Gaussian is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "GaussianOf")]
pub enum Of {
    /// The features of whole images.
    #[default]
    Features,
    /// Those of windows.
    Windows,
}

impl Default for Config {
    fn default() -> Self {
        Self { of: Of::Features, unit: true, sigma: 12.0, smooth: 0.0, score: ImageScore::Max }
    }
}

impl Config {
    fn read(&self) -> Post {
        Post { smooth: self.smooth, score: self.score, enlarge: None }
    }

    fn check(&self, features: usize, images: usize, memory: usize) -> Result<()> {
        if self.of == Of::Features && images == 1 {
            return Err(few(1));
        }
        let bytes = 3 * size_of::<f64>() * features * features;
        check_memory("gaussian needs", &format!("the covariance of {features} features"), [bytes, memory])
            .map_err(|error| error.hint("raise evaluation.fit_memory (--memory)"))
    }

    fn moments(&self, features: usize) -> LedoitWolf {
        LedoitWolf::new(features)
    }

    /// Rows in f64, at length 1 if they are to be.
    fn rows(&self, values: &[f32], size: usize) -> Vec<f64> {
        let mut rows: Vec<f64> = values.iter().copied().map(f64::from).collect();
        if self.unit {
            for row in rows.chunks_exact_mut(size) {
                // PyTorch's `normalize`.
                let length = row.iter().map(|x| x * x).sum::<f64>().sqrt().max(1e-12);
                row.iter_mut().for_each(|x| *x /= length);
            }
        }
        rows
    }

    fn fitted(&self, moments: LedoitWolf) -> Result<Gaussian> {
        let rows = moments.count();
        if rows < 2 {
            return Err(few(rows));
        }
        let (mean, covariance, shrinkage) = moments.estimate();
        let size = mean.len();
        let covariance = Cholesky::new(covariance, size)
            .ok_or_else(|| Error::Failed("gaussian: no feature varies among the train images".into()))?;
        Ok(Gaussian { config: self.clone(), mean, covariance, shrinkage, rows })
    }
}

/// Refuses too few train images.
fn few(images: usize) -> Error {
    Error::input(format!("gaussian needs 2 train images for a covariance, and there is {images}"))
        .hint("add normal train images, or raise `train_limit`")
}

/// The windows that a network shows.
fn windows(shown: &Shown) -> Result<&Windowed> {
    shown.windows.first().ok_or_else(|| Error::Failed("gaussian: the network shows no windows".into()))
}

/// The Gaussian.
struct Gaussian {
    config: Config,
    mean: Vec<f64>,
    covariance: Cholesky,
    shrinkage: f64,
    /// Images or windows that it was learned from.
    rows: usize,
}

impl Gaussian {
    /// The distance of each row of values.
    fn distances(&self, values: &[f32]) -> Vec<f32> {
        let size = self.mean.len();
        let mut rows = self.config.rows(values, size);
        for row in rows.chunks_exact_mut(size) {
            row.iter_mut().zip(&self.mean).for_each(|(x, mean)| *x -= mean);
        }
        self.covariance.inverse_forms(rows).into_iter().map(|form| form.sqrt() as f32).collect()
    }

    fn record(&self) -> serde_json::Value {
        serde_json::json!({ "features": self.mean.len(), "rows": self.rows, "shrinkage": self.shrinkage })
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        match self.of {
            Of::Features => &[Output::Features],
            Of::Windows => &[Output::Windows],
        }
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn pushed(&self) -> Option<&dyn Pushed> {
        (self.of == Of::Windows).then_some(self as _)
    }

    fn post(&self) -> Option<Post> {
        (self.of == Of::Windows).then(|| self.read())
    }

    fn grid(&self, shown: &Shown) -> Option<[usize; 2]> {
        let layout = Layout::of(shown.windows.first().filter(|_| self.of == Of::Windows)?).ok()?;
        Some(layout.cells(layout.stride()))
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| {
            let features = match self.of {
                Of::Features => about.shown.features()?.dim(1)?,
                Of::Windows => windows(about.shown)?.features.dim(1)?,
            };
            Ok(self.check(features, about.most(), about.memory).map(|()| None)?)
        }))
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        if self.of == Of::Windows {
            return pushed::fit(self, fit);
        }
        let features = &fit.train()?.features;
        let (images, size) = features.dims2()?;
        self.check(size, images, fit.memory)?;
        let mut moments = self.moments(size);
        moments.add(&self.rows(&finite(features)?, size));
        Ok(Box::new(OfFeatures(self.fitted(moments)?)))
    }
}

impl Pushed for Config {
    fn start(&self, fit: &Fit<'_>) -> Result<Fitting> {
        Ok(Fitting::Learning(Box::new(Learning { config: self.clone(), memory: fit.memory, seen: None })))
    }
}

/// The windows of the train images so far.
struct Learning {
    config: Config,
    memory: usize,
    seen: Option<(Layout, LedoitWolf)>,
}

impl Learner for Learning {
    fn what(&self) -> &'static str {
        "fitting a Gaussian to windows"
    }

    fn see(&mut self, start: usize, batch: &Shown) -> Result<()> {
        let (layout, moments) = match &mut self.seen {
            Some(seen) => seen,
            None => {
                let layout = Layout::of(windows(batch)?)?;
                self.config.check(layout.features, 2, self.memory)?;
                let moments = self.config.moments(layout.features);
                self.seen.insert((layout, moments))
            }
        };
        moments.add(&self.config.rows(&layout.read(batch, start)?, layout.features));
        Ok(())
    }

    fn passed(self: Box<Self>, _: &dyn Batches) -> Result<Fitting> {
        let Some((layout, moments)) = self.seen else {
            return Err(Error::Failed("gaussian saw no train image".into()));
        };
        let Config { sigma, .. } = self.config;
        let axes = layout.spread(layout.stride(), |away| (-0.5 * (away / sigma).powi(2)).exp());
        Ok(Fitting::Ready(Box::new(OfWindows { gaussian: self.config.fitted(moments)?, layout, axes })))
    }
}

/// Of whole images.
struct OfFeatures(Gaussian);

impl Scorer for OfFeatures {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let values = finite(&bank.features)?;
        same("features", bank.features.dim(1)?, self.0.mean.len())?;
        Scores::new(self.0.distances(&values))
    }

    fn record(&self) -> Option<serde_json::Value> {
        Some(self.0.record())
    }
}

/// Of windows.
struct OfWindows {
    gaussian: Gaussian,
    layout: Layout,
    axes: [Axis; 2],
}

impl Scorer for OfWindows {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        pushed::score(self, bank, "scoring windows", false)
    }

    fn scoring<'a>(&'a self, images: &dyn Batches) -> Result<Box<dyn Scoring + 'a>> {
        let [rows, columns] = self.layout.cells(self.layout.stride());
        Ok(Box::new(Scored { of: self, maps: Vec::with_capacity(images.images() * rows * columns) }))
    }

    fn record(&self) -> Option<serde_json::Value> {
        Some(self.gaussian.record())
    }
}

/// The maps so far.
struct Scored<'a> {
    of: &'a OfWindows,
    maps: Vec<f32>,
}

impl Scoring for Scored<'_> {
    fn see(&mut self, start: usize, batch: &Shown) -> Result<()> {
        let OfWindows { gaussian, layout, axes } = self.of;
        self.maps.extend(layout.maps(&gaussian.distances(&layout.read(batch, start)?), axes));
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Scores> {
        let OfWindows { gaussian, layout, .. } = self.of;
        let maps = Maps::new(layout.cells(layout.stride()), self.maps)?;
        gaussian.config.read().scores(maps, layout.size)
    }
}

#[cfg(test)]
mod tests;
