//! An autoencoder of convolutions: it learns to make normal images again through few numbers, and fails where an image is not normal.
//!
//! encoder: `depth` times a 3×3 convolution of stride 2, batch normalisation, ReLU; a 1×1 convolution to `latent` channels.
//! decoder: a 3×3 convolution, and `depth` times an enlargement by 2 (nearest), a 3×3 convolution, batch normalisation, ReLU; a last
//! 3×3 convolution to the image. map = mean over channels of (image − made again)², averaged over squares of [`CELL`] pixels.
//!
//! - Paper: Bergmann et al., *MVTec AD*, CVPR 2019, <https://doi.org/10.1109/CVPR.2019.00982>, section 4.1.2, compares such a network
//!   by the same per-pixel error (its "L2 autoencoder"). Width, depth and the enlargement in place of transposed convolutions are ours.
//! - It learns with `loss: { reconstruction: {} }`.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    models::Kind,
    nn::{
        Mode, Model, Output, Pass, Shape, Shown,
        layers::{BatchNorm2d, Conv2d, ConvInit, ConvNorm},
    },
    ops::{self, Activation, Convolution, Interpolation, Pool},
};

/// Rows and columns of pixels that one number of the map stands for. Ours: maps of 15 categories are then some 30 MB, and what a σ of 4
/// smooths anyway is all that is lost.
pub const CELL: usize = 4;
/// Times the first width, at most, however deep.
const WIDEST: usize = 4;

/// Settings of an autoencoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Autoencoder")]
pub struct Settings {
    /// Channels of the first convolution; each further one has twice as many, up to four times. Ours: 32, which two cores train.
    #[garde(range(min = 1, max = 1024))]
    pub channels: usize,
    /// Channels of the code. Ours: 16 at a sixteenth of the rows and columns, a 48th of the numbers of a colour image.
    #[garde(range(min = 1, max = 4096))]
    pub latent: usize,
    /// How often rows and columns are halved. Ours: 4.
    #[garde(range(min = 2, max = 8))]
    pub depth: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { channels: 32, latent: 16, depth: 4 }
    }
}

impl Settings {
    /// Channels after each halving.
    fn widths(&self) -> Vec<usize> {
        (0..self.depth).map(|level| self.channels * WIDEST.min(1 << level)).collect()
    }
}

impl Kind for Settings {
    fn shows(&self) -> Vec<Output> {
        vec![Output::Images, Output::Map, Output::Layers]
    }

    fn build(&self, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Model>> {
        let multiple = 1 << self.depth;
        if [shape.height, shape.width].iter().any(|side| side % multiple != 0) {
            let (height, width, depth) = (shape.height, shape.width, self.depth);
            let message = format!(
                "an autoencoder of depth {depth} needs sides of a multiple of {multiple}, not {height}×{width}"
            );
            return Err(Error::input(message).hint("choose another `size` of the data, or another `depth`"));
        }
        Ok(Box::new(Autoencoder::new(self, shape, &vb)?))
    }

    fn least_side(&self) -> usize {
        1 << self.depth
    }

    fn smoke(self) -> Self {
        Self { channels: self.channels.min(4), ..self }
    }
}

/// The network.
#[derive(Debug, Clone)]
struct Autoencoder {
    encoder: Vec<ConvNorm>,
    code: Conv2d,
    /// The first does not enlarge.
    decoder: Vec<ConvNorm>,
    image: Conv2d,
}

impl Autoencoder {
    fn new(settings: &Settings, shape: Shape, vb: &VarBuilder) -> Result<Self> {
        let widths = settings.widths();
        let block = |[inputs, outputs]: [usize; 2], stride: usize, vb: VarBuilder| {
            let convolution = Convolution::new(stride, 1);
            let conv = Conv2d::new([inputs, outputs], 3, convolution, ConvInit::HeFanOut, &vb.pp("conv"))?;
            Ok(ConvNorm::new(conv, BatchNorm2d::new(outputs, &vb.pp("bn"))?))
        };
        let before = [shape.channels].into_iter().chain(widths.iter().copied());
        let encoder = before.zip(&widths).enumerate();
        let encoder = encoder.map(|(at, (inputs, outputs))| block([inputs, *outputs], 2, vb.pp("encoder").pp(at)));
        let last = widths[settings.depth - 1];
        let down: Vec<usize> = widths.iter().rev().copied().chain([widths[0]]).collect();
        let decoder = [settings.latent].into_iter().chain(down.iter().copied()).zip(&down).enumerate();
        let decoder = decoder.map(|(at, (inputs, outputs))| block([inputs, *outputs], 1, vb.pp("decoder").pp(at)));
        Ok(Self {
            encoder: encoder.collect::<Result<_>>()?,
            code: Conv2d::biased([last, settings.latent], 1, Convolution::new(1, 0), &vb.pp("code"))?,
            decoder: decoder.collect::<Result<_>>()?,
            image: Conv2d::biased([widths[0], shape.channels], 3, Convolution::new(1, 1), &vb.pp("image"))?,
        })
    }
}

impl Model for Autoencoder {
    fn show(&self, images: &Tensor, pass: &Pass) -> Result<Shown> {
        let mut x = images.clone();
        for block in &self.encoder {
            x = block.forward(&x, Activation::Relu, pass)?;
        }
        x = self.code.forward(&x, pass)?;
        for (at, block) in self.decoder.iter().enumerate() {
            if at > 0 {
                let (_, _, rows, columns) = x.dims4()?;
                x = ops::resize(&x, (2 * rows, 2 * columns), Interpolation::Nearest, false)?;
            }
            x = block.forward(&x, Activation::Relu, pass)?;
        }
        let again = self.image.forward(&x, pass)?;
        let map = match pass.mode() {
            Mode::Train { .. } => None,
            Mode::Eval => {
                let errors = (images - &again)?.sqr()?.mean_keepdim(1)?;
                Some(ops::avg_pool2d(&errors, Pool::new(CELL, CELL, 0), true)?.squeeze(1)?)
            }
        };
        Ok(Shown { images: Some(again), map, layers: pass.take_layers(), ..Shown::default() })
    }

    fn folded(&self) -> Result<Box<dyn Model>> {
        let mut folded = self.clone();
        folded.encoder.iter_mut().chain(&mut folded.decoder).try_for_each(ConvNorm::fold)?;
        Ok(Box::new(folded))
    }
}
