//! Reconstruction change: a second network makes an image again, and an image is anomalous where this changes the network's answer.
//!
//! score = ‖u(f(x)) − u(f(x′))‖ for an answer f of the network, an image x, the image x′ that the maker makes of it, with pixels
//! clamped to 0..1, and u(v) = v / ‖v‖₂, or v itself.
//!
//! - Paper: Liu et al., *Diffusion Denoising Process for Perceptron Bias in Out-of-distribution Detection* (DiffOOD),
//!   <https://arxiv.org/abs/2211.11255>. There x′ is x with noise, denoised by a diffusion model, and the score is the change between
//!   levels of noise.
//! - Reference code: `luping-liu/DiffOOD`, `detect/ood_detect.py`: it takes the L1 norm of unit vectors, of logits unless told
//!   otherwise, and clamps made images. The defaults are these.
//! - Deviation: one maker in the place of all levels, such as an autoencoder, and one pass of each network. It is the control that
//!   DiffOOD has to beat.
//! - x′ is normalised as the network's images are, whatever the maker's are normalised by.

use candle_core::Tensor;

use super::{
    Bank, Detector, Fit, Scorer, Scores, Second, finite_from, in_f64, inputs::renormalised, log_softmax, map_rows_from,
    same,
};
use crate::{
    Result,
    nn::{Output, Pass},
};

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ReconstructionChange")]
pub struct Config {
    /// The network of this experiment that makes images again, such as an autoencoder. It has to be given.
    #[garde(inner(length(min = 1)))]
    pub maker: Option<String>,
    /// What is compared. DiffOOD's default: logits.
    #[garde(skip)]
    pub of: Of,
    /// How long a difference is. DiffOOD's: l1.
    #[garde(skip)]
    pub norm: Norm,
    /// Whether vectors are made unit vectors first. DiffOOD does so.
    #[garde(skip)]
    pub unit: bool,
}

/// What is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Of {
    /// The logits.
    Logits,
    /// Their softmax.
    Softmax,
    /// The features.
    Features,
}

/// The norm of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// Σ|v|.
    L1,
    /// √Σv².
    L2,
}

impl Default for Config {
    fn default() -> Self {
        Self { maker: None, of: Of::Logits, norm: Norm::L1, unit: true }
    }
}

impl Norm {
    fn of(self, values: impl Iterator<Item = f64>) -> f64 {
        match self {
            Self::L1 => values.map(f64::abs).sum(),
            Self::L2 => values.map(|value| value * value).sum::<f64>().sqrt(),
        }
    }
}

impl Config {
    /// How far each of (N, D) answers `after` lies from the one `before`. `start` is the position of the first image in its set.
    ///
    /// # Errors
    /// [`Error::Failed`](crate::Error::Failed) if there is no answer, or naming the image whose answer is NaN or infinite; if `before`
    /// and `after` are of other sizes.
    pub fn changes(&self, before: &Tensor, after: &Tensor, start: usize) -> Result<Vec<f32>> {
        let [before, after] = [self.vectors(before, start)?, self.vectors(after, start)?];
        same("answers", after.len(), before.len())?;
        let pairs = before.iter().zip(&after).map(|(before, after)| {
            same("numbers of an answer", after.len(), before.len())?;
            Ok(self.norm.of(before.iter().zip(after).map(|(before, after)| after - before)) as f32)
        });
        pairs.collect()
    }

    /// What of each row is compared.
    fn vectors(&self, rows: &Tensor, start: usize) -> Result<Vec<Vec<f64>>> {
        let mut vectors: Vec<Vec<f64>> = match self.of {
            Of::Logits => map_rows_from(rows, start, <[f64]>::to_vec)?,
            Of::Softmax => map_rows_from(rows, start, |row| log_softmax(row).into_iter().map(f64::exp).collect())?,
            Of::Features => finite_from(rows, start)?.chunks_exact(rows.dim(1)?).map(in_f64).collect(),
        };
        for vector in vectors.iter_mut().filter(|_| self.unit) {
            let length = Norm::L2.of(vector.iter().copied());
            // A vector of zeros has no direction, and stays.
            vector.iter_mut().filter(|_| length > 0.0).for_each(|value| *value /= length);
        }
        Ok(vectors)
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        match self.of {
            Of::Logits => &[Output::RawLogits, Output::Gradients],
            Of::Softmax => &[Output::Logits, Output::Gradients],
            Of::Features => &[Output::Features, Output::Gradients],
        }
    }

    fn second(&self) -> Option<Second<'_>> {
        Some(Second { key: "maker", network: self.maker.as_deref(), needs: &[Output::Images] })
    }

    fn fit(&self, _: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(self.clone()))
    }
}

impl Scorer for Config {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let (inputs, maker) = (bank.inputs()?, bank.second()?);
        let known = if self.of == Of::Features { &bank.features } else { &bank.logits };
        for images in [inputs.images(), maker.images()] {
            same("images", images, known.dim(0)?)?;
        }
        let mut scores = Vec::with_capacity(maker.images());
        maker.pass("scoring reconstruction_change", &mut |start, images| {
            let again = maker.network().show(images, &Pass::eval())?.images()?.detach();
            let again = renormalised(&again, maker.normalisation(), inputs.normalisation())?;
            let shown = inputs.network().show(&again, &Pass::eval())?;
            let after = if self.of == Of::Features { shown.features()? } else { shown.logits()? }.detach();
            scores.extend(self.changes(&known.narrow(0, start, images.dim(0)?)?, &after, start)?);
            Ok(())
        })?;
        Scores::new(scores)
    }
}
