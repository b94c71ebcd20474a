//! The model's own map: what it shows of an image, smoothed, and an image's score taken from it.
//!
//! map = Gaussian_σ(resize(model's map)); score = its maximum, or as `score` says.
//!
//! - Of an autoencoder, the squared error of every pixel: Bergmann et al., *MVTec AD*, CVPR 2019, section 4.1.2.
//! - Smoothing: σ 4, as PaDiM's and PatchCore's official code at 224 and 256 pixels.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{
    Bank, Detector, Fit, Maps, Need, Scorer, Scores,
    map::{ImageScore, Post},
    patches::image_size,
};
use crate::{Error, Result, nn::Shown};

/// The map that the model makes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "OwnMap")]
pub struct Config {
    /// σ of the Gaussian that maps are smoothed with, in pixels of the image; 0: none. 4: PaDiM's and PatchCore's official code.
    #[garde(range(min = 0.0, max = 1000.0))]
    pub smooth: f64,
    /// What an image is scored by: `max` of its map, `patch` before smoothing, or `{ top: 0.01 }`, the mean of so large a share.
    #[garde(dive)]
    pub score: ImageScore,
}

impl Default for Config {
    fn default() -> Self {
        Self { smooth: 4.0, score: ImageScore::Max }
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Need] {
        &[Need::Map]
    }

    fn reads_batches(&self) -> bool {
        true
    }

    fn post(&self) -> Option<Post> {
        Some(Post { smooth: self.smooth, score: self.score })
    }

    fn grid(&self, shown: &Shown) -> Option<[usize; 2]> {
        let (_, rows, columns) = shown.map.as_ref()?.dims3().ok()?;
        Some([rows, columns])
    }

    fn fit(&self, _: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(OwnMap(Post { smooth: self.smooth, score: self.score })))
    }
}

struct OwnMap(Post);

impl Scorer for OwnMap {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let images = bank.layers()?;
        let size = image_size(images)?;
        let (mut grid, mut maps) = (None, Vec::new());
        images.stages("reading maps", &mut |_, batch| {
            let map = batch.map()?;
            let (_, rows, columns) = map.dims3()?;
            grid = Some([rows, columns]);
            maps.extend(map.flatten_all()?.to_vec1::<f32>()?);
            Ok(())
        })?;
        let grid = grid.ok_or_else(|| Error::Failed("there is no image to make a map of".into()))?;
        self.0.scores(Maps::new(grid, maps)?, size)
    }
}
