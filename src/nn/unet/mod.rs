//! The U-Nets of DDPM, improved DDPM and ADM: maps of an image and a time to maps of the same size, with the parameter names of diffusers'
//! `UNet2DModel`.
//!
//! Levels halve rows and columns. On the way down each has `blocks` residual blocks; on the way up one more, and each reads the maps that a
//! block on the way down left, beside those of the block before it. Between them are a block, attention and a block. The time's embedding,
//! and that of a class, are added to the maps inside each block, or scale and shift them.
//!
//! - Papers: Ho et al., *Denoising Diffusion Probabilistic Models*, NeurIPS 2020, <https://arxiv.org/abs/2006.11239>, appendix B; Nichol &
//!   Dhariwal, *Improved DDPM*, ICML 2021, <https://arxiv.org/abs/2102.09672>; Dhariwal & Nichol, *Diffusion Models Beat GANs* (ADM), NeurIPS
//!   2021, <https://arxiv.org/abs/2105.05233>, section 3.
//! - Code: diffusers' `UNet2DModel` as `google/ddpm-cifar10-32` has it (`flip_sin_to_cos` false, `freq_shift` 1, `downsample_padding` 0,
//!   ε 1e-6); `luping-liu/DiffOOD` for the classes, which are diffusers' `num_class_embeds` with one more; `openai/improved-diffusion` and
//!   `openai/guided-diffusion`, `unet.py`, for [`Style::Adm`], whose keys are their flags.
//! - Of a learned variance (`learned_sigma`) the channels are made and left out: samplers and losses read the noise alone.
//! - First weights: PyTorch's, and 0 for the last layer of every block, of every attention and of all, as in the paper's code and in ADM.

pub mod names;
mod parts;

pub use parts::sinusoid;

use candle_core::{Result, Tensor, bail};
use candle_nn::{Init, VarBuilder};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    nn::{
        Pass,
        layers::{Conv2d, Linear},
    },
    ops::{self, Activation, Convolution},
    yaml::{
        named::is_default,
        problems::{Path, Problem},
    },
};
use parts::{Attention, Norm, ResidualBlock, Sides, doubled, zeroed};

/// Times the first channels: what the time's embedding has.
const EMBEDDING: usize = 4;

/// Whose code the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "UNetStyle")]
pub enum Style {
    /// DDPM's, as diffusers has it.
    #[default]
    Ddpm,
    /// That of improved DDPM and of ADM: cosines before sines in the embedding of times, ε 1e-5, strided convolutions with zeros on all sides,
    /// and one layer for queries, keys and values.
    Adm,
}

/// How rows and columns change from level to level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "UNetResample")]
pub enum Resample {
    /// A strided convolution; nearest neighbours and a convolution.
    #[default]
    Conv,
    /// Inside of a residual block of its own: means of 2×2 numbers; nearest neighbours.
    Residual,
}

/// How the output channels of the layer of queries, keys and values are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AttentionOrder {
    /// Among the heads, and each head's into its queries, keys and values.
    #[default]
    Legacy,
    /// Into queries, keys and values, and each of these among the heads.
    New,
}

/// Settings of a U-Net. The defaults are DDPM's for CIFAR-10.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "UNet")]
pub struct Settings {
    /// Channels of the first level's maps. DDPM's: 128.
    #[garde(range(min = 4, max = 4096))]
    pub channels: usize,
    /// Times these channels, of each level from the finest on; each further level halves rows and columns. DDPM's: 1, 2, 2, 2.
    #[garde(length(min = 1, max = 8), inner(range(min = 1, max = 64)))]
    pub multipliers: Vec<usize>,
    /// Residual blocks of each level on the way down. DDPM's: 2.
    #[garde(range(min = 1, max = 16))]
    pub blocks: usize,
    /// The levels with attention, counted from 0, the finest. The middle always has it. DDPM's: 1, which has 16×16 positions of 32×32 pixels.
    #[garde(inner(range(max = 7)))]
    pub attention: Vec<usize>,
    /// Heads of each attention. DDPM's: 1.
    #[garde(range(min = 1, max = 64))]
    pub heads: usize,
    /// Probability of dropout inside each block. DDPM's: 0.1.
    #[garde(range(min = 0.0, max = 0.99))]
    pub dropout: f64,
    /// Groups of channels that are normalised together, at most: where it does not divide the channels, the largest number that divides both.
    /// DDPM's: 32.
    #[garde(range(min = 1, max = 1024))]
    pub groups: usize,
    /// Whose code it is. Default: `ddpm`. `adm` is for weights of improved DDPM and ADM.
    #[garde(skip)]
    #[serde(skip_serializing_if = "is_default")]
    pub style: Style,
    /// Channels of each head, in the place of `heads`. ADM's: 64. Default: none.
    #[garde(range(min = 1, max = 4096))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub head_channels: Option<usize>,
    /// How queries, keys and values are divided, of `style: adm`. Default: `legacy`; `new` is `use_new_attention_order` of ADM's code.
    #[garde(skip)]
    #[serde(skip_serializing_if = "is_default")]
    pub attention_order: AttentionOrder,
    /// Whether the embedding scales and shifts normalised maps, in the place of being added before. Default: false, as in DDPM. Improved DDPM's
    /// and ADM's: true.
    #[garde(skip)]
    #[serde(skip_serializing_if = "is_default")]
    pub scale_shift: bool,
    /// How rows and columns change. Default: `conv`, as in DDPM and improved DDPM. ADM's: `residual`.
    #[garde(skip)]
    #[serde(skip_serializing_if = "is_default")]
    pub resample: Resample,
    /// Whether the output has as many channels again, of the learned variance, as published weights of improved DDPM and ADM have. They are left
    /// out and not learned. Default: false.
    #[garde(skip)]
    #[serde(skip_serializing_if = "is_default")]
    pub learned_sigma: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            channels: 128,
            multipliers: vec![1, 2, 2, 2],
            blocks: 2,
            attention: vec![1],
            heads: 1,
            dropout: 0.1,
            groups: 32,
            style: Style::Ddpm,
            head_channels: None,
            attention_order: AttentionOrder::Legacy,
            scale_shift: false,
            resample: Resample::Conv,
            learned_sigma: false,
        }
    }
}

impl Settings {
    /// Channels of each level.
    fn widths(&self) -> Vec<usize> {
        self.multipliers.iter().map(|multiplier| self.channels * multiplier).collect()
    }

    /// What rows and columns of the maps must be a multiple of.
    pub fn multiple(&self) -> usize {
        1 << (self.multipliers.len().max(1) - 1)
    }

    /// What is wrong with them together, each at its key.
    pub fn problems(&self) -> Vec<Problem> {
        let widths = self.widths();
        let problem = |path: Path, message| Problem { path, message };
        let attention = Path::default().join("attention");
        let levels = self.attention.iter().enumerate().filter(|(_, level)| **level >= widths.len());
        let mut problems: Vec<Problem> = levels
            .map(|(at, level)| {
                let message = format!(
                    "there is no level {level}: `multipliers` make {}, counted from 0, the finest",
                    widths.len()
                );
                problem(attention.join(at), message)
            })
            .collect();
        let mut attending = self.attention.iter().filter_map(|level| widths.get(*level)).chain(widths.last());
        let mut refuse = |key: &str, message| problems.push(problem(Path::default().join(key), message));
        match self.head_channels {
            Some(channels) => {
                if let Some(width) = attending.find(|width| !width.is_multiple_of(channels)) {
                    refuse("head_channels", format!("heads of {channels} channels do not divide {width} channels"));
                }
                if self.heads != Self::default().heads {
                    refuse("heads", "`head_channels` says how many heads there are: leave this key out".to_owned());
                }
            }
            None => {
                if let Some(width) = attending.find(|width| !width.is_multiple_of(self.heads.max(1))) {
                    let heads = self.heads;
                    refuse(
                        "heads",
                        format!("{heads} heads do not divide {width} channels: each has a part of its own"),
                    );
                }
            }
        }
        if self.style == Style::Ddpm && self.attention_order == AttentionOrder::New {
            let message = "goes with `style: adm`: DDPM has a layer for each of queries, keys and values";
            refuse("attention_order", message.to_owned());
        }
        problems
    }

    /// Heads of an attention of so many channels.
    fn heads_of(&self, channels: usize) -> usize {
        self.head_channels.map_or(self.heads, |each| channels / each.max(1))
    }

    /// What stands for it in a smoke run: as deep, and narrow.
    #[must_use]
    pub fn smoke(self) -> Self {
        // Heads go on dividing the channels.
        let channels = if self.heads == 1 { self.channels.min(4) } else { self.channels.min(4 * self.heads) };
        let head_channels = self.head_channels.map(|channels| channels.min(2));
        Self { channels, head_channels, blocks: 1, ..self }
    }
}

/// Blocks of one level and what follows them.
#[derive(Debug, Clone)]
struct Level {
    blocks: Vec<ResidualBlock>,
    /// After each block, where there is any.
    attentions: Vec<Attention>,
    /// What changes rows and columns after the blocks; none at the last level.
    resample: Option<Resampling>,
}

/// What changes rows and columns.
#[derive(Debug, Clone)]
enum Resampling {
    Down(Conv2d),
    Up(Conv2d),
    Block(Box<ResidualBlock>),
}

impl Resampling {
    fn forward(&self, x: &Tensor, embedding: &Tensor, pass: &Pass) -> Result<Tensor> {
        match self {
            Self::Down(conv) => conv.forward(x, pass),
            Self::Up(conv) => conv.forward(&doubled(x)?, pass),
            Self::Block(block) => block.forward(x, embedding, pass),
        }
    }
}

impl Level {
    /// The block of this number, and its attention.
    fn block(&self, at: usize, x: &Tensor, embedding: &Tensor, pass: &Pass) -> Result<Tensor> {
        let x = self.blocks[at].forward(x, embedding, pass)?;
        match self.attentions.get(at) {
            Some(attention) => attention.forward(&x, pass),
            None => Ok(x),
        }
    }
}

/// The network.
#[derive(Debug, Clone)]
pub struct UNet {
    channels: usize,
    style: Style,
    /// Channels of the maps that it is given and gives.
    maps: usize,
    time: [Linear; 2],
    /// (K, D): of each class that it is told.
    classes: Option<Tensor>,
    first: Conv2d,
    down: Vec<Level>,
    middle: (ResidualBlock, Attention, ResidualBlock),
    /// From the coarsest.
    up: Vec<Level>,
    norm: Norm,
    last: Conv2d,
}

impl UNet {
    /// Of maps with so many channels, which is told K classes, if any. One of them may stand for none.
    ///
    /// # Errors
    /// Those of candle, and where heads do not divide the channels.
    pub fn new(settings: &Settings, maps: usize, classes: Option<usize>, vb: &VarBuilder) -> Result<Self> {
        let Settings { channels, blocks, style, .. } = *settings;
        let embedding = EMBEDDING * channels;
        let sized = |[inputs, outputs]: [usize; 2], sides: Sides, vb: VarBuilder| {
            ResidualBlock::new([inputs, outputs, embedding], sides, settings, &vb)
        };
        let block = |channels: [usize; 2], vb: VarBuilder| sized(channels, Sides::Kept, vb);
        let attention = |width: usize, vb: VarBuilder| Attention::new(width, settings, &vb);
        let same = Convolution::new(1, 1);
        let (widths, of_time) = (settings.widths(), vb.pp("time_embedding"));
        let Some((&first, &coarsest)) = widths.first().zip(widths.last()) else { bail!("a U-Net has a level") };

        // Of every map that is kept on the way down.
        let (mut kept, mut before) = (vec![channels], channels);
        let mut down = Vec::new();
        for (at, &width) in widths.iter().enumerate() {
            let vb = vb.pp("down_blocks").pp(at);
            let mut level = Level { blocks: Vec::new(), attentions: Vec::new(), resample: None };
            for number in 0..blocks {
                level.blocks.push(block([before, width], vb.pp("resnets").pp(number))?);
                if settings.attention.contains(&at) {
                    level.attentions.push(attention(width, vb.pp("attentions").pp(number))?);
                }
                kept.push(width);
                before = width;
            }
            if at + 1 < widths.len() {
                let vb = vb.pp("downsamplers").pp(0);
                let conv = |by| Conv2d::biased([width; 2], 3, by, &vb.pp("conv"));
                level.resample = Some(match (settings.resample, style) {
                    (Resample::Residual, _) => Resampling::Block(Box::new(sized([width; 2], Sides::Halved, vb)?)),
                    // Zeros after the last row and column alone: sides are even.
                    (Resample::Conv, Style::Ddpm) => Resampling::Down(conv(Convolution::new(2, 0))?.same()),
                    (Resample::Conv, Style::Adm) => Resampling::Down(conv(Convolution::new(2, 1))?),
                });
                kept.push(width);
            }
            down.push(level);
        }
        let vb_middle = vb.pp("mid_block");
        let middle = (
            block([coarsest; 2], vb_middle.pp("resnets").pp(0))?,
            attention(coarsest, vb_middle.pp("attentions").pp(0))?,
            block([coarsest; 2], vb_middle.pp("resnets").pp(1))?,
        );
        let mut up = Vec::new();
        for (at, &width) in widths.iter().enumerate().rev() {
            let vb = vb.pp("up_blocks").pp(widths.len() - 1 - at);
            let mut level = Level { blocks: Vec::new(), attentions: Vec::new(), resample: None };
            for number in 0..=blocks {
                let beside = kept.pop().unwrap_or_default();
                level.blocks.push(block([before + beside, width], vb.pp("resnets").pp(number))?);
                if settings.attention.contains(&at) {
                    level.attentions.push(attention(width, vb.pp("attentions").pp(number))?);
                }
                before = width;
            }
            if at > 0 {
                let vb = vb.pp("upsamplers").pp(0);
                level.resample = Some(match settings.resample {
                    Resample::Residual => Resampling::Block(Box::new(sized([width; 2], Sides::Doubled, vb)?)),
                    Resample::Conv => Resampling::Up(Conv2d::biased([width; 2], 3, same, &vb.pp("conv"))?),
                });
            }
            up.push(level);
        }
        let classes = classes.map(|classes| {
            let start = Init::Randn { mean: 0.0, stdev: 1.0 };
            vb.get_with_hints((classes, embedding), "class_embedding.weight", start)
        });
        let outputs = if settings.learned_sigma { 2 * maps } else { maps };
        Ok(Self {
            channels,
            style,
            maps,
            time: [
                Linear::new(channels, embedding, &of_time.pp("linear_1"))?,
                Linear::new(embedding, embedding, &of_time.pp("linear_2"))?,
            ],
            classes: classes.transpose()?,
            first: Conv2d::biased([maps, channels], 3, same, &vb.pp("conv_in"))?,
            down,
            middle,
            up,
            norm: Norm::new(first, settings, &vb.pp("conv_norm_out"))?,
            last: zeroed([first, outputs], 3, same, &vb.pp("conv_out"))?,
        })
    }

    /// SiLU of the embedding of (N) times and (N) u32 classes: (N, D).
    fn embedding(&self, times: &[f64], classes: Option<&Tensor>, like: &Tensor, pass: &Pass) -> Result<Tensor> {
        let [first, second] = &self.time;
        let sinusoid = sinusoid(times, self.channels, self.style, like)?;
        let hidden = ops::silu(&first.forward(&sinusoid, Activation::Identity, pass)?)?;
        let embedding = second.forward(&hidden, Activation::Identity, pass)?;
        let embedding = match (&self.classes, classes) {
            (None, None) => embedding,
            (Some(table), Some(classes)) => {
                let table = pass.seen(table);
                let chosen = ops::one_hot(classes, table.dim(0)?)?.to_dtype(table.dtype())?;
                ops::add(&embedding, &chosen.matmul(&table)?, Activation::Identity)?
            }
            (Some(_), None) => bail!("this network is to be told classes, or that there is none"),
            (None, Some(_)) => bail!("this network is told no classes"),
        };
        ops::silu(&embedding)
    }

    /// Of maps (N, C, H, W) at N times, and of N u32 classes where it is told them: the same shape.
    ///
    /// # Errors
    /// When the shapes do not fit, or sides are no multiple of [`Settings::multiple`].
    pub fn forward(&self, x: &Tensor, times: &[f64], classes: Option<&Tensor>, pass: &Pass) -> Result<Tensor> {
        let (images, ..) = x.dims4()?;
        if times.len() != images {
            bail!("{} times of {images} images", times.len());
        }
        let embedding = self.embedding(times, classes, x, pass)?;
        let mut x = self.first.forward(x, pass)?;
        let mut kept = vec![x.clone()];
        for level in &self.down {
            for at in 0..level.blocks.len() {
                x = level.block(at, &x, &embedding, pass)?;
                kept.push(x.clone());
            }
            if let Some(down) = &level.resample {
                x = down.forward(&x, &embedding, pass)?;
                kept.push(x.clone());
            }
        }
        let (before, attention, after) = &self.middle;
        x = attention.forward(&before.forward(&x, &embedding, pass)?, pass)?;
        x = after.forward(&x, &embedding, pass)?;
        for level in &self.up {
            for at in 0..level.blocks.len() {
                let Some(beside) = kept.pop() else { bail!("a U-Net reads as many maps as it keeps") };
                x = level.block(at, &ops::concat(&[&x, &beside])?, &embedding, pass)?;
            }
            if let Some(up) = &level.resample {
                x = up.forward(&x, &embedding, pass)?;
            }
        }
        // What follows the noise is a learned variance.
        self.last.forward(&self.norm.forward(&x, true, pass)?, pass)?.narrow(1, 0, self.maps)?.contiguous()
    }
}

/// (N, C, H, W) to (N, C·f², H/f, W/f), as `torch.nn.PixelUnshuffle`.
///
/// # Errors
/// If f does not divide the sides.
pub fn unshuffle(x: &Tensor, factor: usize) -> Result<Tensor> {
    if factor == 1 {
        return Ok(x.clone());
    }
    let (images, channels, height, width) = x.dims4()?;
    if !height.is_multiple_of(factor) || !width.is_multiple_of(factor) {
        bail!("{height}×{width} pixels are no whole number of squares of {factor}×{factor}");
    }
    let (rows, columns) = (height / factor, width / factor);
    let squares = x.reshape(vec![images, channels, rows, factor, columns, factor])?;
    squares.permute(vec![0, 1, 3, 5, 2, 4])?.reshape((images, channels * factor * factor, rows, columns))
}

/// The inverse of [`unshuffle`].
///
/// # Errors
/// If f² does not divide the channels.
pub fn shuffle(x: &Tensor, factor: usize) -> Result<Tensor> {
    if factor == 1 {
        return Ok(x.clone());
    }
    let (images, channels, rows, columns) = x.dims4()?;
    if !channels.is_multiple_of(factor * factor) {
        bail!("{channels} channels are no whole number of squares of {factor}×{factor}");
    }
    let fewer = channels / (factor * factor);
    let squares = x.reshape(vec![images, fewer, factor, factor, rows, columns])?;
    squares.permute(vec![0, 1, 4, 2, 5, 3])?.reshape((images, fewer, rows * factor, columns * factor))
}
