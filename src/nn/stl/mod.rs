//! Low-level texture: the network part of Zhu et al., *Learning Statistical Texture for Semantic Segmentation* (STLNet), CVPR 2021,
//! <https://arxiv.org/abs/2103.04133>, as Tang et al. 2025 use it on the first stages of a ResNet.
//!
//! x = ReLU(BN(1×1 convolution of the stages)); T = [TEM](tem) of x; P = [PTFEM](ptfem) of (T, x); the result is (P, T, x). Parameters are named
//! as in STLNet's code (`lanyunzhu99/Learning-Statistical-Texture-for-Semantic-Segmentation`, `STLNet.py`); all widths scale with `width`.
//! Where a map is constant, it has no texture: nothing is counted, and nothing is NaN.

pub mod ptfem;
pub mod tem;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::ops::{Assign, Quantiser};
use crate::{
    Error,
    nn::{
        Pass,
        layers::{BatchNorm2d, Conv2d, ConvInit, ConvNorm},
    },
    ops::{self, Activation, Convolution},
};

use ptfem::Ptfem;
use tem::Tem;

/// PyTorch's default slope, which STLNet's code takes.
const LEAKY: Activation = Activation::LeakyRelu(0.01);

/// Settings of the texture part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Stl")]
pub struct Settings {
    /// Channels of x, T and P each. Default: 256, STLNet's. A multiple of 4: inside there are a half and a quarter as many.
    #[garde(range(min = 4, max = 4096), custom(a_multiple_of_four))]
    pub width: usize,
    /// Levels that TEM quantises similarities into. Default: 128, STLNet's.
    #[garde(range(min = 2, max = 4096))]
    pub levels: usize,
    /// Levels that PTFEM quantises similarities into, whose pairs are counted. Default: 8, STLNet's.
    #[garde(range(min = 2, max = 64))]
    pub cooccurrence_levels: usize,
    /// In how many rows and columns of cells PTFEM counts, one branch each. Default: 1, 2, 4 and 8, as Tang et al.; STLNet has 1, 2, 3 and 6.
    #[garde(length(min = 1, max = 16), inner(range(min = 1, max = 256)), custom(each_once))]
    pub scales: Vec<usize>,
    /// Which levels a similarity is counted at. Default: `official`, what STLNet's weights were learned with.
    #[garde(skip)]
    pub assign: Assign,
}

impl Default for Settings {
    fn default() -> Self {
        Self { width: 256, levels: 128, cooccurrence_levels: 8, scales: vec![1, 2, 4, 8], assign: Assign::Official }
    }
}

fn a_multiple_of_four(width: &usize, (): &()) -> garde::Result {
    if width.is_multiple_of(4) { Ok(()) } else { Err(garde::Error::new("must be a multiple of 4")) }
}

fn each_once(scales: &[usize], (): &()) -> garde::Result {
    let twice = |(at, scale): (usize, &usize)| scales[..at].contains(scale);
    if scales.iter().enumerate().any(twice) { Err(garde::Error::new("a scale is named twice")) } else { Ok(()) }
}

impl Settings {
    /// Channels of the result: those of P, T and x.
    pub fn channels(&self) -> usize {
        3 * self.width
    }

    /// That these settings can be built for maps of `grid` rows and columns.
    ///
    /// # Errors
    /// [`Error::Input`] naming the setting that is out of its range, and `scales` where one does not divide the grid.
    pub fn check(&self, grid: [usize; 2]) -> crate::Result<()> {
        if let Err(report) = self.validate() {
            return Err(Error::input(format!("the texture part's settings: {}", report.to_string().trim_end())));
        }
        match self.problem(grid) {
            None => Ok(()),
            Some((_, message)) => Err(Error::input(message)),
        }
    }

    /// What is wrong with `scales` on this grid, and with which of them.
    pub fn problem(&self, [rows, columns]: [usize; 2]) -> Option<(usize, String)> {
        let divides = |scale: usize| [rows, columns].iter().all(|side| *side > 0 && side.is_multiple_of(scale));
        let at = self.scales.iter().position(|scale| !divides(*scale))?;
        let scale = self.scales[at];
        let message = format!(
            "{scale} does not divide the {rows}×{columns} grid: leave it out of `scales`, or choose another `size`. A grid is the size divided by \
             a power of 2"
        );
        Some((at, message))
    }

    fn quantiser(&self, levels: usize) -> Quantiser {
        Quantiser { levels, assign: self.assign }
    }
}

/// The texture part.
#[derive(Debug, Clone)]
pub struct Stl {
    conv_start: ConvNorm,
    tem: Tem,
    ptfem: Ptfem,
    channels: usize,
}

impl Stl {
    /// For maps of `inputs` channels, and `grid` rows and columns.
    ///
    /// # Errors
    /// As [`Settings::check`].
    pub fn new(settings: &Settings, inputs: usize, grid: [usize; 2], vb: &VarBuilder) -> crate::Result<Self> {
        settings.check(grid)?;
        Ok(Self {
            conv_start: conv_norm([inputs, settings.width], 1, &vb.pp("conv_start"))?,
            tem: Tem::new(settings, &vb.pp("tem"))?,
            ptfem: Ptfem::new(settings, &vb.pp("ptfem"))?,
            channels: settings.channels(),
        })
    }

    /// Channels of the result.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// (N, C, H, W) of the low stages, concatenated, to (N, [`channels`](Self::channels), H, W).
    ///
    /// # Errors
    /// When the shape does not fit.
    pub fn forward(&self, stages: &Tensor, pass: &Pass) -> Result<Tensor> {
        let x = self.conv_start.forward(stages, Activation::Relu, pass)?;
        let texture = self.tem.forward(&x, pass)?;
        let both = ops::concat(&[&texture, &x])?;
        let pyramid = self.ptfem.forward(&both, pass)?;
        ops::concat(&[&pyramid, &both])
    }

    /// From now on, inference uses the weights as they are now.
    ///
    /// # Errors
    /// When candle fails.
    pub fn fold(&mut self) -> Result<()> {
        self.conv_start.fold()?;
        self.tem.fold()?;
        self.ptfem.fold()
    }
}

/// A convolution without bias that keeps rows and columns, and its batch normalisation: `conv` and `bn`.
fn conv_norm(channels: [usize; 2], kernel: usize, vb: &VarBuilder) -> Result<ConvNorm> {
    Ok(ConvNorm::new(conv(channels, kernel, vb)?, BatchNorm2d::new(channels[1], &vb.pp("bn"))?))
}

fn conv(channels: [usize; 2], kernel: usize, vb: &VarBuilder) -> Result<Conv2d> {
    Conv2d::new(channels, kernel, Convolution::new(1, kernel / 2), ConvInit::Default, &vb.pp("conv"))
}

/// A 1×1 convolution with neither bias nor normalisation, and its activation.
#[derive(Debug, Clone)]
struct Pointwise {
    name: String,
    conv: Conv2d,
    activation: Activation,
}

impl Pointwise {
    fn new(channels: [usize; 2], activation: Activation, vb: &VarBuilder) -> Result<Self> {
        Ok(Self { name: vb.prefix(), conv: conv(channels, 1, vb)?, activation })
    }

    /// (N, C, H, W) to (N, O, H, W).
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let y = self.conv.forward(x, pass)?;
        pass.activate(&self.name, self.activation, |activation| ops::activate(&y, activation))
    }
}
