//! The self-calibrated convolution of Liu et al., *Improving Convolutional Networks with Self-Calibrated Convolutions*, CVPR 2020,
//! <https://mmcheng.net/scconv/> (`MCG-NKU/SCNet`, `scnet.py`), on the third stage of a ResNet as Tang et al. 2025 have it.
//!
//! y = K4(K3(x) · σ(x + Up(K2(average of x over r×r pixels)))), with K a 3×3 convolution and batch normalisation, Up to the nearest pixel.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    nn::{
        Pass,
        layers::{BatchNorm2d, Conv2d, ConvInit, ConvNorm},
    },
    ops::{self, Activation, Convolution, Interpolation, Pool},
};

/// Settings of a self-calibrated convolution.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "SelfCalibrated")]
pub struct Settings {
    /// Channels. An input of more is reduced by a 1×1 convolution, batch normalisation and ReLU first, as in SCNet's blocks; one of fewer
    /// stays as it is. Ours: 256, since Tang et al. give none, and without a reduction ResNet-50's 1024 channels would take 28 million weights.
    #[garde(range(min = 1, max = 4096))]
    pub width: usize,
    /// r: rows and columns of pixels that are averaged. Default: 4, SCNet's; Tang et al. give none.
    #[garde(range(min = 1, max = 256))]
    pub rate: usize,
    /// Whether a ReLU comes last, as in an older version of SCNet's code. Default: no, as Tang et al. end with convolution and normalisation.
    #[garde(skip)]
    pub relu: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self { width: 256, rate: 4, relu: false }
    }
}

impl Settings {
    /// Channels of what it makes of maps of `inputs` channels.
    pub fn channels(&self, inputs: usize) -> usize {
        self.width.min(inputs)
    }

    /// That it can be built for maps of `grid` rows and columns.
    ///
    /// # Errors
    /// [`Error::Input`] naming the setting that is out of its range, and `rate` where the grid is smaller.
    pub fn check(&self, grid: [usize; 2]) -> crate::Result<()> {
        if let Err(report) = self.validate() {
            return Err(Error::input(format!(
                "the self-calibrated convolution's settings: {}",
                report.to_string().trim_end()
            )));
        }
        match self.problem(grid) {
            None => Ok(()),
            Some(message) => Err(Error::input(message)),
        }
    }

    /// What is wrong with `rate` on this grid.
    pub fn problem(&self, [rows, columns]: [usize; 2]) -> Option<String> {
        let rate = self.rate;
        (rows.min(columns) < rate).then(|| {
            format!(
                "`rate` is {rate}, more than a grid of {rows}×{columns} has: choose a smaller `rate`, or larger images"
            )
        })
    }
}

/// The convolution.
#[derive(Debug, Clone)]
pub struct SelfCalibrated {
    reduction: Option<ConvNorm>,
    k2: ConvNorm,
    k3: ConvNorm,
    k4: ConvNorm,
    rate: usize,
    last: Activation,
    channels: usize,
}

impl SelfCalibrated {
    /// For maps of `inputs` channels, and `grid` rows and columns.
    ///
    /// # Errors
    /// As [`Settings::check`].
    pub fn new(settings: &Settings, inputs: usize, grid: [usize; 2], vb: &VarBuilder) -> crate::Result<Self> {
        settings.check(grid)?;
        let channels = settings.channels(inputs);
        let layer = |inputs, kernel, [conv, norm]: [VarBuilder; 2]| -> Result<ConvNorm> {
            let convolution = Convolution::new(1, kernel / 2);
            let conv = Conv2d::new([inputs, channels], kernel, convolution, ConvInit::HeFanOut, &conv)?;
            Ok(ConvNorm::new(conv, BatchNorm2d::new(channels, &norm)?))
        };
        let inner = |name: &str, first: usize| {
            let vb = vb.pp("scconv").pp(name);
            layer(channels, 3, [vb.pp(first), vb.pp(first + 1)])
        };
        Ok(Self {
            reduction: (channels < inputs).then(|| layer(inputs, 1, [vb.pp("conv1"), vb.pp("bn1")])).transpose()?,
            k2: inner("k2", 1)?,
            k3: inner("k3", 0)?,
            k4: inner("k4", 0)?,
            rate: settings.rate,
            last: if settings.relu { Activation::Relu } else { Activation::Identity },
            channels,
        })
    }

    /// Channels of the result.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// (N, C, H, W) to (N, [`channels`](Self::channels), H, W).
    ///
    /// # Errors
    /// When the shape does not fit.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let x = match &self.reduction {
            Some(reduction) => reduction.forward(x, Activation::Relu, pass)?,
            None => x.clone(),
        };
        let (_, _, height, width) = x.dims4()?;
        let coarse = ops::avg_pool2d(&x, Pool::new(self.rate, self.rate, 0), true)?;
        let coarse = self.k2.forward(&coarse, Activation::Identity, pass)?;
        let coarse = ops::resize(&coarse, (height, width), Interpolation::Nearest, false)?;
        let gate = ops::add(&x, &coarse, Activation::Identity)?;
        let y = ops::gate(&self.k3.forward(&x, Activation::Identity, pass)?, &gate)?;
        self.k4.forward(&y, self.last, pass)
    }

    /// From now on, inference uses the weights as they are now.
    ///
    /// # Errors
    /// When candle fails.
    pub fn fold(&mut self) -> Result<()> {
        self.reduction.iter_mut().chain([&mut self.k2, &mut self.k3, &mut self.k4]).try_for_each(ConvNorm::fold)
    }
}
