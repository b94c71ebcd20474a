//! ODIN: a step of the image towards its likeliest class makes a network surer of what it knows than of what it does not.
//!
//! score = ln(1 − max_c softmax(f(x′) / T)_c) at x′ = x − ε·sign(−∇_x ln softmax(f(x) / T)_ŷ)/σ, with the likeliest class ŷ of the
//! normalised image x and the deviations σ that its channels were divided by: ε is in units of pixels in 0..1.
//!
//! - Paper: Liang, Li, Srikant, *Enhancing the Reliability of Out-of-distribution Image Detection in Neural Networks*, ICLR 2018,
//!   <https://arxiv.org/abs/1706.02690>.
//! - Reference code: `facebookresearch/odin`; energy_ood `utils/score_calculation.py`, OpenOOD `odin_postprocessor.py`; pytorch-ood
//!   `ODIN`. All give max_c softmax(f(x′) / T)_c or its negative; the logarithm of the rest changes no order, and keeps sure images
//!   apart.
//! - σ is that of the in-distribution set. OpenOOD divides by 63.0/255, 62.1/255 and 66.7/255 on every data set.
//! - The gradient at the logits is taken times T / (1 − softmax_ŷ), a positive number of each image, which the sign forgets: a sure
//!   image's own vanishes in f32.
//! - i-ODIN (`pixels: one`) takes the step in one value of the image alone, that of the largest |∇|, the first of equals. Paper: Regmi,
//!   *Image-based Outlier Synthesis With Training Data*, 2024, <https://arxiv.org/abs/2411.10794>; reference code: OpenOOD
//!   `iodin_postprocessor.py`. A pixel has a value for each channel, of which one moves.
//! - T and ε are to be chosen on validation distributions; energy_ood tries T of 1, 10, 100, 1000 and ten ε from 0 to 0.0048.
//!   With `noise: 0` nothing is differentiated, and the score is of the logits alone.

use std::ops::Range;

use candle_core::{Tensor, Var};

use super::{
    Bank, Detector, Fit, Inputs, Output, Scorer, Scores, argmax, inputs, log_softmax, map_rows, same,
    temperature_scaling::scaled_msp,
};
use crate::{Result, nn::Pass};

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Odin")]
pub struct Config {
    /// T: 1000 in OpenOOD and pytorch-ood, the paper's choice.
    #[garde(range(min = 1e-3, max = 1e6))]
    pub temperature: f64,
    /// ε: 0.0014 in OpenOOD and pytorch-ood, the paper's choice for DenseNet on CIFAR-10.
    #[garde(range(min = 0.0, max = 1.0))]
    pub noise: f64,
    /// Which of an image's values move: `all` in the paper, `one` in i-ODIN.
    #[garde(skip)]
    #[serde(skip_serializing_if = "crate::yaml::named::is_default")]
    pub pixels: Pixels,
}

/// Which of an image's values move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "OdinPixels")]
pub enum Pixels {
    /// All of them.
    #[default]
    All,
    /// That of the steepest gradient.
    One,
}

impl Default for Config {
    fn default() -> Self {
        Self { temperature: 1000.0, noise: 0.0014, pixels: Pixels::All }
    }
}

impl Pixels {
    /// Where an image's values move that have these slopes.
    fn places(self, slopes: &[f64]) -> Range<usize> {
        match self {
            Self::All => 0..slopes.len(),
            Self::One => {
                let steepest = argmax(&slopes.iter().map(|slope| slope.abs()).collect::<Vec<f64>>());
                steepest..steepest + 1
            }
        }
    }
}

impl Config {
    /// The gradient of −ln softmax(f(x) / T)_ŷ with respect to (N, C, H, W) `images` x, times a positive number of each image.
    ///
    /// # Errors
    /// Those of the network; if a logit is NaN or infinite.
    pub fn gradient(&self, inputs: &dyn Inputs, images: &Tensor) -> Result<Tensor> {
        let images = Var::from_tensor(&images.detach())?.into_inner();
        let shown = inputs.network().show(&images, &Pass::eval())?;
        let logits = shown.logits()?;
        let v = map_rows(&logits.detach(), |row| self.slopes(row))?.concat();
        inputs::pull_back(logits, v, &images)
    }

    /// (p − e_ŷ) / (1 − p_ŷ) for p = softmax(f / T): the softmax of the other classes among themselves, and −1.
    fn slopes(&self, row: &[f64]) -> Vec<f64> {
        let likeliest = argmax(row);
        let mut others: Vec<f64> = row.iter().map(|logit| logit / self.temperature).collect();
        others.remove(likeliest);
        let mut slopes: Vec<f64> = if others.is_empty() { Vec::new() } else { log_softmax(&others) };
        slopes.iter_mut().for_each(|slope| *slope = slope.exp());
        slopes.insert(likeliest, -1.0);
        slopes
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        if self.noise > 0.0 { &[Output::Logits, Output::Gradients] } else { &[Output::Logits] }
    }

    fn fit(&self, _: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(self.clone()))
    }
}

impl Scorer for Config {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        // Also of the images as they are, and of the moved ones all together: what is wrong is told by the place in the set.
        let plain = scaled_msp(&bank.logits, self.temperature)?;
        if self.noise == 0.0 {
            return Scores::new(plain);
        }
        let inputs = bank.inputs()?;
        same("images", inputs.images(), plain.len())?;
        let mut all = Vec::new();
        inputs.pass("scoring ODIN", &mut |start, images| {
            let gradient = self.gradient(inputs, images)?;
            let deviations = &inputs.normalisation().std;
            let places = |slopes: &[f64]| self.pixels.places(slopes);
            let moved = inputs::step_down_in(images, &gradient, self.noise, deviations, start, places)?;
            all.push(inputs.network().show(&moved, &Pass::eval())?.logits()?.detach());
            Ok(())
        })?;
        Scores::new(scaled_msp(&Tensor::cat(&all, 0)?, self.temperature)?)
    }
}
