//! DDPM's U-Net: maps of an image and a time to maps of the same size, with the parameter names of diffusers' `UNet2DModel`.
//!
//! Levels halve rows and columns. On the way down each has `blocks` residual blocks; on the way up one more, and each reads the maps that a
//! block on the way down left, beside those of the block before it. Between them are a block, attention and a block. The time's embedding,
//! and that of a class, are added to the maps inside each block.
//!
//! - Paper: Ho et al., *Denoising Diffusion Probabilistic Models*, NeurIPS 2020, <https://arxiv.org/abs/2006.11239>, appendix B.
//! - Code: diffusers' `UNet2DModel` as `google/ddpm-cifar10-32` has it (`flip_sin_to_cos` false, `freq_shift` 1, `downsample_padding` 0,
//!   ε 1e-6); `luping-liu/DiffOOD` for the classes, which are diffusers' `num_class_embeds` with one more.
//! - First weights: PyTorch's, and 0 for the last layer of every block, of every attention and of all, as in the paper's code and in ADM.

pub mod names;
mod parts;

pub use parts::{Attention, ResidualBlock, sinusoid};

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
    ops::{self, Activation, Convolution, Interpolation},
    yaml::problems::{Path, Problem},
};
use parts::{Norm, zeroed};

/// Times the first channels: what the time's embedding has.
const EMBEDDING: usize = 4;

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
        let attending = self.attention.iter().filter_map(|level| widths.get(*level)).chain(widths.last());
        if let Some(width) = attending.into_iter().find(|width| !width.is_multiple_of(self.heads.max(1))) {
            let message = format!("{} heads do not divide {width} channels: each has a part of its own", self.heads);
            problems.push(problem(Path::default().join("heads"), message));
        }
        problems
    }

    /// What stands for it in a smoke run: as deep, and narrow.
    #[must_use]
    pub fn smoke(self) -> Self {
        // Heads go on dividing the channels.
        let channels = if self.heads == 1 { self.channels.min(4) } else { self.channels.min(4 * self.heads) };
        Self { channels, blocks: 1, ..self }
    }
}

/// Blocks of one level and what follows them.
#[derive(Debug, Clone)]
struct Level {
    blocks: Vec<ResidualBlock>,
    /// After each block, where there is any.
    attentions: Vec<Attention>,
    /// What changes rows and columns after the blocks; none at the last level.
    resample: Option<Conv2d>,
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
    time: [Linear; 2],
    /// (K + 1, D): of each class, and of none.
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
    /// Of maps with so many channels, which is told K classes, if any.
    ///
    /// # Errors
    /// Those of candle, and where heads do not divide the channels.
    pub fn new(settings: &Settings, maps: usize, classes: Option<usize>, vb: &VarBuilder) -> Result<Self> {
        let Settings { channels, blocks, .. } = *settings;
        let embedding = EMBEDDING * channels;
        let block = |[inputs, outputs]: [usize; 2], vb: VarBuilder| {
            ResidualBlock::new([inputs, outputs, embedding], settings.groups, settings.dropout, &vb)
        };
        let attention = |width: usize, vb: VarBuilder| Attention::new(width, settings.heads, settings.groups, &vb);
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
                let conv =
                    Conv2d::biased([width; 2], 3, Convolution::new(2, 0), &vb.pp("downsamplers").pp(0).pp("conv"))?;
                // Zeros after the last row and column alone: sides are even.
                level.resample = Some(conv.same());
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
                level.resample = Some(Conv2d::biased([width; 2], 3, same, &vb.pp("upsamplers").pp(0).pp("conv"))?);
            }
            up.push(level);
        }
        let classes = classes.map(|classes| {
            let start = Init::Randn { mean: 0.0, stdev: 1.0 };
            vb.get_with_hints((classes + 1, embedding), "class_embedding.weight", start)
        });
        Ok(Self {
            channels,
            time: [
                Linear::new(channels, embedding, &of_time.pp("linear_1"))?,
                Linear::new(embedding, embedding, &of_time.pp("linear_2"))?,
            ],
            classes: classes.transpose()?,
            first: Conv2d::biased([maps, channels], 3, same, &vb.pp("conv_in"))?,
            down,
            middle,
            up,
            norm: Norm::new(first, settings.groups, &vb.pp("conv_norm_out"))?,
            last: zeroed([first, maps], 3, same, &vb.pp("conv_out"))?,
        })
    }

    /// SiLU of the embedding of (N) times and (N) u32 classes, of which K is none: (N, D).
    fn embedding(&self, times: &[f64], classes: Option<&Tensor>, like: &Tensor, pass: &Pass) -> Result<Tensor> {
        let [first, second] = &self.time;
        let sinusoid = sinusoid(times, self.channels, like)?;
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

    /// Of maps (N, C, H, W) at N times, and of N u32 classes where it is told them, of which K is none: the same shape.
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
                x = down.forward(&x, pass)?;
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
                let (_, _, rows, columns) = x.dims4()?;
                let larger = ops::resize(&x, (2 * rows, 2 * columns), Interpolation::Nearest, false)?;
                x = up.forward(&larger, pass)?;
            }
        }
        self.last.forward(&self.norm.forward(&x, true, pass)?, pass)
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
