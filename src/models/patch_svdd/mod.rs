//! Patch SVDD: a small network learns embeddings of patches of two sizes, and an anomaly lies far from every patch of the train images.
//!
//! Patches of K and of 2K pixels; the large one's embedding is made of those of its four quarters. While it learns, the network draws of each image
//! and size two patches that lie apart, in one of eight directions that a classifier is to tell (`patch_position`), and two that lie nearly at one
//! place, whose embeddings are to be near (`patch_svdd`). In evaluation it shows all windows: the small ones at every `stride` pixels, the large ones
//! at four times that. The detector `patch_svdd` looks for the nearest of all train images'.
//!
//! - Paper: Yi & Yoon, *Patch SVDD: Patch-level SVDD for Anomaly Detection and Segmentation*, ACCV 2020, <https://arxiv.org/abs/2006.16067>.
//! - Code: `nuclearboy95/Anomaly-Detection-PatchSVDD-PyTorch`; its recipe is `loss: { patch_position: {}, patch_svdd: { weight: 0.001 } }` in its
//!   README, a weight of 1 by default, `optimizer: { adamw: { lr: 0.0001, weight_decay: 0 } }`, batches of 64, 300 epochs of 100 times the images.
//! - As there, the classifier's last weights are divided by the length of their columns and never learn; only their biases do.
//! - Deviations: a batch has the four pairs of one image, and not of four images. Images are normalised as elsewhere, by the mean and the deviation
//!   of each channel, where the code takes off the mean train image; `noise` is in that unit. A jitter is a pixel at least.

mod draws;
mod encoder;
#[cfg(test)]
mod tests;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    models::{Kind, stages::wrong},
    nn::{
        Mode, Model, Output, Pass, Shape, Shown,
        windows::{PatchPairs, Windowed, Windows},
    },
    rng,
    yaml::problems::{Path, Problem},
};
use draws::{DIRECTIONS, Draws};
use encoder::{Encoder, Position};

/// Images that pass through the network at a time in evaluation, ours: its maps are half as large as they are, and 128 channels wide.
const TOGETHER: usize = 4;
/// Widths of a smoke run, whose patches are of 16 and 32 pixels.
const SMOKE: [usize; 3] = [4; 3];

/// Settings of Patch SVDD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "PatchSvdd")]
pub struct Settings {
    /// Channels after each 3×3 convolution but the last. With n convolutions, patches have 4n and 8n pixels. The code's: 32, 64, 128, 128, 64, 32
    /// and 32, for patches of 32 and 64.
    #[garde(length(min = 1, max = 63), inner(range(min = 1, max = 4096)))]
    pub channels: Vec<usize>,
    /// D, the numbers of an embedding. The code's: 64.
    #[garde(range(min = 1, max = 4096))]
    pub features: usize,
    /// Width of the layer between four embeddings and theirs together, and of the classifier's. The code's: 128.
    #[garde(range(min = 1, max = 65_536))]
    pub hidden: usize,
    /// Pixels from one small window to the next in evaluation; large ones are four times as far apart. The code's: 4, and 16.
    #[garde(range(min = 2, max = 64))]
    pub stride: usize,
    /// Deviation of the noise on patches that lie apart, in units of normalised pixels. Default: 0.1, which is the code's 0.02 of pixels in 0..1
    /// where these have a deviation of 0.2.
    #[garde(range(min = 0.0, max = 100.0))]
    pub noise: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { channels: vec![32, 64, 128, 128, 64, 32, 32], features: 64, hidden: 128, stride: 4, noise: 0.1 }
    }
}

impl Settings {
    /// The large and the small windows.
    fn windows(&self) -> [Windows; 2] {
        let side = 4 * (self.channels.len() + 1);
        [Windows { side: 2 * side, stride: 4 * self.stride }, Windows { side, stride: self.stride }]
    }

    fn problem(&self) -> std::result::Result<(), Problem> {
        let convolutions = self.channels.len() + 1;
        if self.stride.is_multiple_of(2) && convolutions.is_multiple_of(self.stride) {
            return Ok(());
        }
        let message = format!(
            "{} must be even and divide the number of convolutions, {convolutions} with these `channels`",
            self.stride
        );
        Err(Problem { path: Path::default().join("stride"), message })
    }
}

impl Kind for Settings {
    fn shows(&self) -> Vec<Output> {
        vec![Output::Patches, Output::Windows]
    }

    fn build(&self, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Model>> {
        self.problem().map_err(wrong("patch_svdd"))?;
        let Shape { channels, height, width, .. } = shape;
        let least = self.least_side();
        if height.min(width) < least {
            let message = format!("patches of {least}×{least} pixels have no room in images of {height}×{width}");
            return Err(crate::Error::input(message).hint("choose a larger `size` of the data, or fewer `channels`"));
        }
        let position = |name: &str| Position::new(self, DIRECTIONS.len(), &vb.pp(name));
        Ok(Box::new(PatchSvdd {
            encoder: Encoder::new(self, channels, &vb)?,
            positions: [position("cls_large")?, position("cls_small")?],
            windows: self.windows(),
            noise: self.noise,
        }))
    }

    fn problems(&self, _: Option<[usize; 2]>) -> Vec<Problem> {
        self.problem().err().into_iter().collect()
    }

    fn least_side(&self) -> usize {
        self.windows()[0].side
    }

    fn smoke(self) -> Self {
        let channels = if self.channels.len() > SMOKE.len() { SMOKE.to_vec() } else { self.channels };
        let stride = if (channels.len() + 1).is_multiple_of(self.stride) { self.stride } else { 2 };
        Self { channels, stride, features: self.features.min(8), hidden: self.hidden.min(8), noise: self.noise }
    }
}

/// The network.
#[derive(Debug, Clone)]
struct PatchSvdd {
    encoder: Encoder,
    /// Of the large and the small patches.
    positions: [Position; 2],
    windows: [Windows; 2],
    noise: f64,
}

impl PatchSvdd {
    /// What is seen of these patches of the images.
    fn learn(&self, images: &Tensor, draws: &[Draws; 2], pass: &Pass) -> Result<Shown> {
        let (count, cut) = (images.dim(0)?, draws.each_ref().map(|draws| draws.cut(images)));
        let [large, small] = cut;
        let embedded = self.encoder.patches([&large?, &small?], pass)?;
        let mut patches = Vec::with_capacity(2);
        for ((embedded, draws), position) in embedded.iter().zip(draws).zip(&self.positions) {
            let of = |at: usize| embedded.narrow(0, at * count, count);
            patches.push(PatchPairs {
                logits: position.forward(&of(0)?, &of(1)?, pass)?,
                directions: draws.directions(images.device())?,
                near: [of(2)?, of(3)?],
            });
        }
        Ok(Shown { patches, ..Shown::default() })
    }

    /// What is seen of all windows, a few images at a time.
    fn look(&self, images: &Tensor, pass: &Pass) -> Result<Shown> {
        let (count, _, height, width) = images.dims4()?;
        let mut all = [const { Vec::new() }; 2];
        for first in (0..count).step_by(TOGETHER) {
            let some = images.narrow(0, first, TOGETHER.min(count - first))?;
            let seen = self.encoder.windows(&some, pass)?;
            all.iter_mut().zip(seen).for_each(|(all, seen)| all.push(seen));
        }
        let names = ["large", "small"];
        let seen = names.into_iter().zip(self.windows).zip(&all).map(|((name, windows), features)| {
            Ok(Windowed { name, windows, size: [height, width], features: Tensor::cat(features, 0)? })
        });
        Ok(Shown { windows: seen.collect::<Result<_>>()?, ..Shown::default() })
    }
}

impl Model for PatchSvdd {
    fn show(&self, images: &Tensor, pass: &Pass) -> Result<Shown> {
        let Mode::Train { seed, step, .. } = pass.mode() else { return self.look(images, pass) };
        let (count, channels, height, width) = images.dims4()?;
        let mut rng = rng::stream(seed, "patches", &step.to_string());
        let [large, small] = self.windows.map(|windows| {
            let draws = (&mut rng, images.device());
            Draws::new(count, [channels, height, width], windows.side, self.noise, draws)
        });
        self.learn(images, &[large?, small?], pass)
    }

    fn folded(&self) -> Result<Box<dyn Model>> {
        Ok(Box::new(self.clone()))
    }
}
