//! The network of airbench: whitened patches, three groups of convolutions that halve the maps, and a largest value of each channel.
//!
//! Whitening → GELU → 3 × (conv → max-pool → norm → GELU → conv → norm → GELU) → global maximum → linear without bias, times `logit_scale`.
//! Each filter bank begins as the identity (Dirac) where it can. Features may be as low as −0.17, the least of GELU: detectors that shape
//! features after a ReLU find none here.
//!
//! - Paper: Jordan, *94% on CIFAR-10 in 3.29 Seconds on a Single GPU*, 2024, <https://arxiv.org/abs/2404.00498>.
//! - Code: `KellerJordan/cifar10-airbench`, `airbench94.py`, `airbench95.py` and `airbench96.py`.
//! - Deviation: the last pool there is 3×3, which is the whole map of images of 32×32 pixels; of others it is the whole map here.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    nn::{
        Pass, Shape,
        architecture::Architecture,
        backbone::{Backbone, Extractor, Family, LastLayerOf, Part},
        layers::{BatchNorm2d, Conv2d, ConvNorm, Whitening, whitening, within},
        standard::Survey,
    },
    ops::{self, Activation, Convolution, Pool},
};

/// Settings of airbench's network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Airbench")]
pub struct Settings {
    /// Channels of the three groups; the last are the features. airbench94's: 64, 256, 256.
    #[garde(inner(range(min = 1, max = 8192)))]
    pub widths: [usize; 3],
    /// Convolutions of a group; the third has a shortcut from the first. airbench94's and 95's: 2, airbench96's: 3.
    #[garde(range(min = 2, max = 3))]
    #[serde(default = "default_convs")]
    pub convs: usize,
    /// The first layer's filters.
    #[garde(dive)]
    #[serde(default)]
    pub whitening: whitening::Settings,
    /// What follows the convolutions of a group.
    #[garde(dive)]
    #[serde(default)]
    pub batch_norm: BatchNorm,
    /// What logits are multiplied by, of a linear head and those that are made of one. airbench's: 1/9.
    #[garde(range(min = 1e-6, max = 1e6))]
    #[serde(default = "default_logit_scale")]
    pub logit_scale: f64,
}

const fn default_convs() -> usize {
    2
}

const fn default_logit_scale() -> f64 {
    1.0 / 9.0
}

/// Settings of batch normalisation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "AirbenchBatchNorm")]
pub struct BatchNorm {
    /// The share that a batch has in the running averages, as PyTorch counts it. airbench94's and 95's: 0.4, airbench96's: 0.1.
    #[garde(range(min = 0.0, max = 1.0))]
    pub momentum: f64,
    /// ε, beside the variance. airbench's: 1e-12.
    #[garde(range(min = 1e-16, max = 1.0))]
    pub epsilon: f64,
    /// Whether the scale is 1 throughout. airbench's: `frozen`.
    #[garde(skip)]
    pub scale: Scale,
}

/// The scale of batch normalisation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "BatchNormScale")]
pub enum Scale {
    /// It is 1 and does not learn.
    #[default]
    Frozen,
    /// It starts at 1 and learns, as PyTorch's.
    Learned,
}

impl BatchNorm {
    const USUAL: Self = Self { momentum: 0.4, epsilon: 1e-12, scale: Scale::Frozen };

    fn build(&self, channels: usize, vb: &VarBuilder) -> Result<BatchNorm2d> {
        let norm = match self.scale {
            Scale::Frozen => BatchNorm2d::shifted(channels, vb)?,
            Scale::Learned => BatchNorm2d::new(channels, vb)?,
        };
        Ok(norm.momentum(self.momentum).epsilon(self.epsilon))
    }
}

impl Default for BatchNorm {
    fn default() -> Self {
        Self::USUAL
    }
}

impl Settings {
    const fn usual(widths: [usize; 3]) -> Self {
        Self {
            widths,
            convs: default_convs(),
            whitening: whitening::Settings::USUAL,
            batch_norm: BatchNorm::USUAL,
            logit_scale: default_logit_scale(),
        }
    }

    /// airbench96's.
    const DEEPER: Self =
        Self { convs: 3, batch_norm: BatchNorm { momentum: 0.1, ..BatchNorm::USUAL }, ..Self::usual([128, 384, 512]) };

    /// Rows or columns after the whitening and after each group.
    fn sizes(&self, size: usize) -> [usize; 4] {
        let first = (size + 1).saturating_sub(self.whitening.kernel);
        [first, first / 2, first / 4, first / 8]
    }
}

impl Family for Settings {
    const PRESETS: &[(&str, Self)] = &[
        ("airbench94", Self::usual([64, 256, 256])),
        ("airbench95", Self::usual([128, 384, 384])),
        ("airbench96", Self::DEEPER),
    ];
    /// With patches of 2×2.
    const LEAST_SIDE: usize = 9;
    const LACKS: &[Part] = &[Part::SpectralNorm, Part::Activation, Part::Shortcut];
    const POOLS_MAPS: bool = false;
    const SURVEYS: bool = true;

    fn build(&self, _: &Architecture, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Extractor>> {
        if [shape.height, shape.width].into_iter().any(|size| self.sizes(size)[3] == 0) {
            let least = self.whitening.kernel + 7;
            let message = format!(
                "airbench needs images of at least {least}×{least} pixels, not {}×{}",
                shape.height, shape.width
            );
            return Err(Error::input(message).hint("use a data set with larger images"));
        }
        Ok(Box::new(Airbench::new(self, shape, &vb)?))
    }

    fn stages(&self, size: [usize; 2]) -> Vec<(String, [usize; 3])> {
        let [rows, columns] = size.map(|size| self.sizes(size));
        (0..GROUPS.len()).map(|at| (GROUPS[at].to_owned(), [self.widths[at], rows[at + 1], columns[at + 1]])).collect()
    }

    fn label(&self, name: &str) -> String {
        Self::PRESETS.iter().find(|(_, preset)| preset == self).map_or(name, |(preset, _)| *preset).to_owned()
    }

    fn smoke(&self) -> Option<Backbone> {
        Some(Backbone::Airbench(Self { widths: self.widths.map(|width| width.min(8)), ..self.clone() }))
    }
}

/// The groups' names, as stages and before those of their parameters.
const GROUPS: [&str; 3] = ["group1", "group2", "group3"];
/// The first layer's name.
const WHITEN: &str = "whiten";

/// Features: as many as the last group has channels. Stages: `group1` to `group3`.
#[derive(Debug, Clone)]
pub struct Airbench {
    whitening: Whitening,
    groups: Vec<Group>,
    features: usize,
    logit_scale: f64,
}

impl Airbench {
    /// The filters of the first layer are 0 until the train images are [surveyed](crate::nn::Model::survey).
    fn new(settings: &Settings, shape: Shape, vb: &VarBuilder) -> Result<Self> {
        let whitening = Whitening::new(shape.channels, &settings.whitening, &vb.pp(WHITEN))?;
        let mut inputs = settings.whitening.filters(shape.channels);
        let group = |(name, outputs): (&str, usize)| {
            let group = Group::new([inputs, outputs], settings, &vb.pp(name));
            inputs = outputs;
            group
        };
        let groups = GROUPS.into_iter().zip(settings.widths).map(group).collect::<Result<_>>()?;
        Ok(Self { whitening, groups, features: settings.widths[2], logit_scale: settings.logit_scale })
    }
}

impl Extractor for Airbench {
    fn extract(&self, images: &Tensor, pass: &Pass) -> Result<(Tensor, Vec<(String, Tensor)>)> {
        let mut x = gelu(WHITEN, &self.whitening.forward(images, pass)?, pass)?;
        pass.end_stem();
        let mut stages = Vec::with_capacity(GROUPS.len());
        for (name, group) in GROUPS.into_iter().zip(&self.groups) {
            x = pass.stage(name, group.forward(&x, pass)?)?;
            stages.push((name.to_owned(), x.clone()));
        }
        let (_, _, rows, columns) = x.dims4()?;
        let whole = Pool { kernel: [rows, columns], stride: [rows, columns], padding: [0; 2], ceil_mode: false };
        Ok((pass.max_pool2d(&x, whole)?.flatten_from(1)?, stages))
    }

    fn survey(&self) -> Option<Survey<'_>> {
        self.whitening.survey()
    }

    fn last_layer(&self, _: usize) -> LastLayerOf {
        LastLayerOf {
            name: "head",
            features: self.features,
            init: [within(self.features); 2],
            scale: Some(self.logit_scale),
        }
    }

    fn folded(&self) -> Result<Box<dyn Extractor>> {
        let mut network = self.clone();
        for group in &mut network.groups {
            group.conv2.fold()?;
            group.conv3.iter_mut().try_for_each(ConvNorm::fold)?;
        }
        Ok(Box::new(network))
    }
}

/// GELU, whose values are the layer's neurons: what stands before it does not follow from them.
fn gelu(name: &str, x: &Tensor, pass: &Pass) -> Result<Tensor> {
    let y = ops::gelu(x)?;
    pass.note(name, &y, Activation::Identity)?;
    Ok(y)
}

/// Two or three 3×3 convolutions.
#[derive(Debug, Clone)]
struct Group {
    /// The names of its layers, for who looks at them.
    names: [String; 3],
    conv1: Conv2d,
    norm1: BatchNorm2d,
    conv2: ConvNorm,
    conv3: Option<ConvNorm>,
}

impl Group {
    fn new([inputs, outputs]: [usize; 2], settings: &Settings, vb: &VarBuilder) -> Result<Self> {
        let conv = |name: &str, inputs| Conv2d::dirac([inputs, outputs], 3, Convolution::new(1, 1), &vb.pp(name));
        let norm = |name: &str| settings.batch_norm.build(outputs, &vb.pp(name));
        Ok(Self {
            names: ["norm1", "norm2", "norm3"].map(|name| vb.pp(name).prefix()),
            conv1: conv("conv1", inputs)?,
            norm1: norm("norm1")?,
            conv2: ConvNorm::new(conv("conv2", outputs)?, norm("norm2")?),
            conv3: (settings.convs == 3)
                .then(|| Ok::<_, candle_core::Error>(ConvNorm::new(conv("conv3", outputs)?, norm("norm3")?)))
                .transpose()?,
        })
    }

    /// (N, C, H, W) to (N, O, ⌊H/2⌋, ⌊W/2⌋).
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let [first, second, third] = &self.names;
        let halved = pass.max_pool2d(&self.conv1.forward(x, pass)?, Pool::new(2, 2, 0))?;
        let shortcut = gelu(first, &self.norm1.forward(&halved, Activation::Identity, pass)?, pass)?;
        let y = gelu(second, &self.conv2.forward(&shortcut, Activation::Identity, pass)?, pass)?;
        match &self.conv3 {
            None => Ok(y),
            Some(conv3) => gelu(third, &conv3.forward_add(&y, &shortcut, Activation::Identity, pass)?, pass),
        }
    }
}
