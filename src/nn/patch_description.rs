//! Patch description networks: convolutions that describe every patch of an image by some numbers, all patches at once.
//!
//! `small` is EfficientAD's PDN-S: 4×4, mean of 2×2, 4×4, mean of 2×2, 3×3, 4×4, ReLU between. It sees 33×33 pixels, every fourth.
//! `p17`, `p33` and `p65` are those of *Uninformed Students*: convolutions, maxima of 2×2 and leaky ReLU (0.005). They see patches of so many
//! pixels, every first, fourth and eighth.
//!
//! - Papers: Batzner, Heckler & König, *EfficientAD*, WACV 2024, <https://arxiv.org/abs/2303.14535>, table 6; Bergmann et al., *Uninformed
//!   Students*, CVPR 2020, <https://arxiv.org/abs/1911.02357>, the tables of its appendix.
//! - Code: `nelson1425/EfficientAD`, `common.py`, whose padding this is; `denguir/student-teacher-anomaly-detection`, `AnomalyNet.py`, for `p65`.
//!   Parameters have anomalib's names, `conv1` and so on.
//! - Without padding, the description at (i, j) is that of the patch whose first pixel is (s·i, s·j), for a stride of s pixels. *Uninformed
//!   Students* has a description of every pixel; here it is of every s-th.
//! - Padding of `p17`, `p33` and `p65` is ours: the papers have none.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    nn::{Pass, layers::Conv2d},
    ops::{self, Activation, Convolution, Pool},
};

/// The slope of the leaky ReLU of *Uninformed Students*.
const LEAK: f64 = 0.005;

/// A network that describes patches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Patches")]
pub struct Settings {
    /// Which layers. Default: `small`, EfficientAD's PDN-S.
    #[garde(skip)]
    pub layers: Layers,
    /// Channels of the first convolution; those between it and the last have twice as many. Both papers': 128.
    #[garde(range(min = 1, max = 1024))]
    pub channels: usize,
    /// Numbers that describe a patch. EfficientAD's: 384. *Uninformed Students*: 128.
    #[garde(range(min = 1, max = 4096))]
    pub outputs: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { layers: Layers::default(), channels: 128, outputs: 384 }
    }
}

/// The layers of a network that describes patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Layers {
    /// EfficientAD's PDN-S: patches of 33×33 pixels, every fourth.
    #[default]
    Small,
    /// Patches of 17×17 pixels, every one.
    P17,
    /// Patches of 33×33 pixels, every fourth.
    P33,
    /// Patches of 65×65 pixels, every eighth.
    P65,
}

/// A convolution, and what follows it.
struct Layer {
    kernel: usize,
    /// Zeros beyond every border, where there is padding.
    padding: usize,
    /// Times the first channels; 0: the outputs.
    width: usize,
    /// Whether squares of 2×2 become one.
    pooled: bool,
}

const fn layer(kernel: usize, padding: usize, width: usize, pooled: bool) -> Layer {
    Layer { kernel, padding, width, pooled }
}

impl Layers {
    fn all(self) -> &'static [Layer] {
        const SMALL: [Layer; 4] =
            [layer(4, 3, 1, true), layer(4, 3, 2, true), layer(3, 1, 2, false), layer(4, 0, 0, false)];
        const P17: [Layer; 4] =
            [layer(6, 3, 1, false), layer(5, 2, 2, false), layer(5, 2, 2, false), layer(4, 1, 0, false)];
        const P33: [Layer; 4] =
            [layer(5, 2, 1, true), layer(5, 2, 2, true), layer(2, 1, 2, false), layer(4, 1, 0, false)];
        const P65: [Layer; 5] = [
            layer(5, 2, 1, true),
            layer(5, 2, 1, true),
            layer(5, 2, 2, true),
            layer(4, 1, 2, false),
            layer(1, 0, 0, false),
        ];
        match self {
            Self::Small => &SMALL,
            Self::P17 => &P17,
            Self::P33 => &P33,
            Self::P65 => &P65,
        }
    }

    /// As in YAML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::P17 => "p17",
            Self::P33 => "p33",
            Self::P65 => "p65",
        }
    }

    fn activation(self) -> Activation {
        match self {
            Self::Small => Activation::Relu,
            Self::P17 | Self::P33 | Self::P65 => Activation::LeakyRelu(LEAK),
        }
    }

    /// The 2×2 pool; EfficientAD's is padded where its convolutions are.
    fn pool(self, padded: bool) -> Pool {
        Pool::new(2, 2, usize::from(padded && self == Self::Small))
    }

    /// Pixels from one patch to the next.
    pub fn stride(self) -> usize {
        1 << self.all().iter().filter(|layer| layer.pooled).count()
    }

    /// Rows and columns of a patch.
    pub fn patch(self) -> usize {
        match self {
            Self::P17 => 17,
            Self::Small | Self::P33 => 33,
            Self::P65 => 65,
        }
    }

    /// Rows and columns of descriptions of images of so many; `None` of images that have no patch.
    pub fn grid(self, size: [usize; 2], padded: bool) -> Option<[usize; 2]> {
        let pool = self.pool(padded).padding[0];
        let side = |mut side: usize| {
            for layer in self.all() {
                let padding = if padded { layer.padding } else { 0 };
                side = (side + 2 * padding + 1).checked_sub(layer.kernel).filter(|side| *side > 0)?;
                if layer.pooled {
                    side = (side + 2 * pool) / 2;
                }
            }
            (side > 0).then_some(side)
        };
        Some([side(size[0])?, side(size[1])?])
    }

    /// Rows and columns of images, at least.
    pub fn least_side(self, padded: bool) -> usize {
        (1..=self.patch()).find(|side| self.grid([*side; 2], padded).is_some()).unwrap_or(self.patch())
    }
}

impl Settings {
    /// What stands for it in a smoke run: as deep, and narrow.
    #[must_use]
    pub fn smoke(self) -> Self {
        Self { channels: self.channels.min(4), outputs: self.outputs.min(8), ..self }
    }
}

/// A network that describes patches.
#[derive(Debug, Clone)]
pub struct PatchNetwork {
    layers: Layers,
    convolutions: Vec<Conv2d>,
    padded: bool,
}

impl PatchNetwork {
    /// From images of `inputs` channels, with or without `padded` borders. The last layer has `times` the outputs.
    ///
    /// # Errors
    /// Those of the parameters.
    pub fn new(settings: &Settings, inputs: usize, padded: bool, times: usize, vb: &VarBuilder) -> Result<Self> {
        let mut channels = inputs;
        let convolution = |(at, layer): (usize, &Layer)| {
            let outputs = match layer.width {
                0 => settings.outputs * times,
                width => settings.channels * width,
            };
            let padding = if padded { layer.padding } else { 0 };
            let convolution = Convolution::new(1, padding);
            let vb = vb.pp(format!("conv{}", at + 1));
            let made = Conv2d::biased([channels, outputs], layer.kernel, convolution, &vb);
            channels = outputs;
            made
        };
        let convolutions = settings.layers.all().iter().enumerate().map(convolution).collect::<Result<_>>()?;
        Ok(Self { layers: settings.layers, convolutions, padded })
    }

    /// (N, C, H, W) to the (N, outputs, h, w) descriptions.
    ///
    /// # Errors
    /// If the images have another number of channels, or no patch.
    pub fn forward(&self, images: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (mut x, last) = (images.clone(), self.convolutions.len() - 1);
        let pool = self.layers.pool(self.padded);
        for (at, (layer, convolution)) in self.layers.all().iter().zip(&self.convolutions).enumerate() {
            x = convolution.forward(&x, pass)?;
            if at == last {
                break;
            }
            x = pass.choose(self.layers.activation(), |activation| ops::activate(&x, activation))?;
            if layer.pooled {
                x = match self.layers {
                    Layers::Small => ops::avg_pool2d(&x, pool, true)?,
                    Layers::P17 | Layers::P33 | Layers::P65 => pass.max_pool2d(&x, pool)?,
                };
            }
        }
        Ok(x)
    }

    /// A (N, h, w) map of the descriptions of images of `size` with as many values on each border as patches that are not whole: the nearest
    /// value. A value then covers the middle pixels of its patch.
    ///
    /// # Errors
    /// Those of the copies.
    pub fn with_margin(&self, map: &Tensor, size: [usize; 2]) -> Result<Tensor> {
        let (_, rows, columns) = map.dims3()?;
        let stride = self.layers.stride();
        let mut map = map.clone();
        for (axis, (side, found)) in size.into_iter().zip([rows, columns]).enumerate() {
            let margin = side.div_ceil(stride).saturating_sub(found);
            map = map.pad_with_same(axis + 1, margin / 2, margin - margin / 2)?;
        }
        Ok(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_those_of_the_papers_code() {
        for (layers, size, padded, expected) in [
            (Layers::Small, 256, false, Some(56)),
            (Layers::Small, 256, true, Some(64)),
            (Layers::Small, 33, false, Some(1)),
            (Layers::Small, 32, false, None),
            (Layers::P17, 17, false, Some(1)),
            (Layers::P17, 16, false, None),
            (Layers::P33, 33, false, Some(1)),
            (Layers::P65, 65, false, Some(1)),
            (Layers::P65, 256, true, Some(31)),
            (Layers::P33, 256, true, Some(64)),
            (Layers::P17, 256, true, Some(256)),
        ] {
            assert_eq!(
                layers.grid([size; 2], padded),
                expected.map(|side| [side; 2]),
                "{layers:?} of {size}, {padded}"
            );
        }
        assert_eq!(Layers::Small.grid([256, 33], false), Some([56, 1]));
        assert_eq!([Layers::Small, Layers::P17].map(|layers| layers.least_side(false)), [33, 17]);
    }
}
