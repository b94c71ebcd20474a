//! Learned positions of an image's patches, resampled for images of another size than they were learned on.
//!
//! Positions of a grid of g×g patches become those of r×c ones by a bicubic filter that is as wide as the coarser grid's step, W_r·P·W_cᵀ for
//! each channel. With s = max(g/r, 1) the weight of the old position j in the new one i is proportional to
//! k((j + ½ − (i + ½)·g/r) / s), where k is Keys's kernel with a = −½, cut off at the borders, and weights of a position add up to 1.
//!
//! - Paper of the kernel: Keys, *Cubic convolution interpolation for digital image processing*, IEEE TASSP 1981.
//! - Code: timm's `resample_abs_pos_embed`, which is PyTorch's `interpolate(mode="bicubic", antialias=True)`: a is −½ there, as in Pillow, and
//!   −¾ without `antialias`. A grid that stays as it is is not resampled.

use candle_core::{Device, Result, Tensor};
use candle_nn::VarBuilder;

use crate::nn::{Pass, transformer::START};

/// The position of each token, by timm's name `pos_embed`.
#[derive(Debug, Clone)]
pub struct Positions {
    /// (1, prefix + g², width)
    embed: Tensor,
    /// Tokens before those of the patches.
    prefix: usize,
    /// What rows and columns of the image's grid take of the learned ones: (r, g) and (c, g). `None` where the grids are one.
    weights: Option<[Tensor; 2]>,
}

impl Positions {
    /// Of `prefix` tokens and a grid of `learned`×`learned` patches, for images of `grid` patches down and across.
    ///
    /// # Errors
    /// Those of candle.
    pub fn new(width: usize, prefix: usize, learned: usize, grid: [usize; 2], vb: &VarBuilder) -> Result<Self> {
        let embed = vb.get_with_hints((1, prefix + learned * learned, width), "pos_embed", START)?;
        let matrix = |new: usize| {
            let weights = Tensor::from_vec(bicubic(learned, new), (new, learned), &Device::Cpu)?;
            weights.to_dtype(embed.dtype())?.to_device(embed.device())
        };
        let weights = match grid == [learned; 2] {
            true => None,
            false => Some([matrix(grid[0])?, matrix(grid[1])?]),
        };
        Ok(Self { embed, prefix, weights })
    }

    /// (1, prefix + r·c, width), of the patches row after row.
    ///
    /// # Errors
    /// If there is no memory for it.
    pub fn forward(&self, pass: &Pass) -> Result<Tensor> {
        let embed = pass.seen(&self.embed);
        let Some([rows, columns]) = &self.weights else { return Ok(embed) };
        let (_, count, width) = embed.dims3()?;
        let ((down, learned), across) = (rows.dims2()?, columns.dim(0)?);
        let patches = embed.narrow(1, self.prefix, count - self.prefix)?.reshape((learned, learned, width))?;
        // Columns first, as PyTorch: the sum of each axis is a product of matrices, whose first axis it is.
        let patches = patches.transpose(0, 1)?.reshape((learned, learned * width))?;
        let patches = columns.matmul(&patches)?.reshape((across, learned, width))?;
        let patches = patches.transpose(0, 1)?.reshape((learned, across * width))?;
        let patches = rows.matmul(&patches)?.reshape((1, down * across, width))?;
        match self.prefix {
            0 => Ok(patches),
            prefix => Tensor::cat(&[&embed.narrow(1, 0, prefix)?, &patches], 1),
        }
    }
}

/// What each of `new` places along an axis takes of `old` ones: `new` rows of `old` weights, as PyTorch's antialiased bicubic interpolation has
/// them.
///
/// # Panics
/// When there is no old place.
pub fn bicubic(old: usize, new: usize) -> Vec<f64> {
    assert!(old > 0, "no position to resample");
    let step = old as f64 / new as f64;
    let spread = step.max(1.0);
    // Keys's kernel ends at 2.
    let reach = 2.0 * spread;
    let mut weights = vec![0.0; new * old];
    for (at, row) in weights.chunks_exact_mut(old).enumerate() {
        let centre = step * (at as f64 + 0.5);
        let first = (centre - reach + 0.5).max(0.0) as usize;
        let end = ((centre + reach + 0.5) as usize).min(old);
        for (place, weight) in row.iter_mut().enumerate().take(end).skip(first) {
            *weight = keys((place as f64 - centre + 0.5) / spread);
        }
        let sum: f64 = row.iter().sum();
        row.iter_mut().for_each(|weight| *weight /= sum);
    }
    weights
}

/// Keys's kernel with a = −½.
fn keys(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    match x {
        _ if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        _ if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}
