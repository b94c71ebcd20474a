//! MF, our reading of Metaformer: a transformer makes an image again, patch by patch, and one more attention says where its errors count.
//!
//! tokens z = norm(blocks(patches·E + positions)); each leaves through a narrow code, c = z·C.
//! attention a = softmax over patches of z·q/√width for one learned query q: it depends on the image, and adds up to 1.
//! decoder: patches made again = norm(blocks(c·D + positions + (Σ a·z)·P))·W.
//! map = T·a of the patch · mean over channels of (image − made again)², averaged over squares of [`CELL`] pixels, for T patches.
//!
//! - Paper: Wu, Chen, Fuh, Liu, *Learning Unsupervised Metaformer for Anomaly Detection*, ICCV 2021. Neither code nor settings were at hand,
//!   only its abstract: one universal model that reconstructs, "meta-learned model parameters", and "instance-aware attention to
//!   emphasize the focal regions", where "the reconstruction gap" is explored. **This is no reproduction**: all the rest is ours.
//! - Meta-learned parameters: `train: { reptile: {} }` on labelled data of its own, of which every class is a task. A network `from` it then
//!   adapts to each category.
//! - Instance-aware attention: a, through which the whole image is told to the decoder, so that the loss of the reconstruction teaches q.
//! - The narrow code stands for what keeps an autoencoder from copying: without it, an anomaly is made again like all else.
//! - Names and positions are those of a masked autoencoder's decoder (He et al., CVPR 2022), blocks those of [`transformer`].
//! - It learns with `loss: { reconstruction: {} }`.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    models::{Kind, autoencoder::CELL, stages::wrong},
    nn::{
        Mode, Model, Output, Pass, Shape, Shown,
        layers::Linear,
        transformer::{self, Block, LayerNorm, PatchEmbed, of_tokens},
    },
    ops::{self, Interpolation, Pool},
    yaml::problems::{Path, Problem},
};

/// Settings of our reading of Metaformer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Metaformer")]
pub struct Settings {
    /// Rows and columns of a patch, a multiple of 4 that divides those of the image. Ours: 16, a vision transformer's.
    #[garde(range(min = CELL, max = 256), custom(whole_cells))]
    pub patch: usize,
    /// Numbers of a token. Ours: 128, which two cores train in minutes.
    #[garde(range(min = 1, max = 4096))]
    pub width: usize,
    /// Blocks before the code, and as many after it. Ours: 2.
    #[garde(range(min = 1, max = 48))]
    pub depth: usize,
    /// Heads of each attention; they divide the width. Ours: 4, of 32 numbers each.
    #[garde(range(min = 1, max = 64))]
    pub heads: usize,
    /// Numbers of the code of a patch. Ours: 16, a 48th of a patch's in colour, as of the autoencoder here.
    #[garde(range(min = 1, max = 4096))]
    pub latent: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self { patch: 16, width: 128, depth: 2, heads: 4, latent: 16 }
    }
}

fn whole_cells(patch: &usize, _: &()) -> garde::Result {
    match patch.is_multiple_of(CELL) {
        true => Ok(()),
        false => Err(garde::Error::new(format!("must be a multiple of {CELL}: maps have a number for so many pixels"))),
    }
}

impl Kind for Settings {
    fn shows(&self) -> Vec<Output> {
        vec![Output::Images, Output::Map]
    }

    fn build(&self, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Model>> {
        match self.problems(Some([shape.height, shape.width])).into_iter().next() {
            Some(problem) => Err(wrong("metaformer")(problem)),
            None => Ok(Box::new(Metaformer::new(self, shape, &vb)?)),
        }
    }

    fn problems(&self, size: Option<[usize; 2]>) -> Vec<Problem> {
        let Self { patch, width, heads, .. } = *self;
        let problem = |key: &str, message| Problem { path: Path::default().join(key), message };
        let heads = (!width.is_multiple_of(heads.max(1))).then(|| {
            problem("heads", format!("{heads} heads do not divide a width of {width}: each has a part of its own"))
        });
        let cut = size.filter(|size| size.iter().any(|side| !side.is_multiple_of(patch.max(1))));
        let cut = cut.map(|[height, width]| {
            problem("patch", format!("{height}×{width} pixels are no whole number of patches of {patch}×{patch}"))
        });
        heads.into_iter().chain(cut).collect()
    }

    fn smoke(self) -> Self {
        Self { patch: CELL, width: 8, heads: self.heads.min(2), depth: self.depth.min(1), latent: self.latent.min(4) }
    }
}

/// The network.
#[derive(Debug, Clone)]
struct Metaformer {
    patch: usize,
    embed: PatchEmbed,
    /// (1, T, width)
    positions: Tensor,
    encoder: Vec<Block>,
    encoded: LayerNorm,
    /// (width)
    query: Tensor,
    /// Of what the query found.
    instance: Linear,
    code: Linear,
    decode: Linear,
    /// (1, T, width)
    decoder_positions: Tensor,
    decoder: Vec<Block>,
    decoded: LayerNorm,
    pixels: Linear,
}

impl Metaformer {
    fn new(
        settings: &Settings,
        Shape { channels, height, width: columns, .. }: Shape,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let Settings { patch, width, depth, heads, latent } = *settings;
        let tokens = height / patch * (columns / patch);
        let positions = |name: &str| vb.get_with_hints((1, tokens, width), name, transformer::START);
        Ok(Self {
            patch,
            embed: PatchEmbed::new(channels, patch, width, &vb.pp("patch_embed"))?,
            positions: positions("pos_embed")?,
            encoder: Block::several(depth, width, heads, &vb.pp("blocks"))?,
            encoded: LayerNorm::new(width, &vb.pp("norm"))?,
            query: vb.get_with_hints(width, "instance.query", transformer::START)?,
            instance: transformer::linear(width, width, &vb.pp("instance").pp("proj"))?,
            code: transformer::linear(width, latent, &vb.pp("code"))?,
            decode: transformer::linear(latent, width, &vb.pp("decoder_embed"))?,
            decoder_positions: positions("decoder_pos_embed")?,
            decoder: Block::several(depth, width, heads, &vb.pp("decoder_blocks"))?,
            decoded: LayerNorm::new(width, &vb.pp("decoder_norm"))?,
            pixels: transformer::linear(width, patch * patch * channels, &vb.pp("decoder_pred"))?,
        })
    }

    /// (N, T): how much of the query's attention each of the tokens (N, T, width) has.
    fn attention(&self, tokens: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (images, count, width) = tokens.dims3()?;
        let query = pass.seen(&self.query).reshape((width, 1))?;
        let scores = tokens.reshape((images * count, width))?.matmul(&query)?;
        ops::softmax(&(scores.reshape((images, count))? / (width as f64).sqrt())?)
    }

    /// The patches (N, T, patch·patch·C), pixel after pixel, as an image of so many rows and columns of patches.
    fn image(&self, patches: &Tensor, [rows, columns]: [usize; 2]) -> Result<Tensor> {
        let (images, _, numbers) = patches.dims3()?;
        let (patch, channels) = (self.patch, numbers / (self.patch * self.patch));
        let patches = patches.reshape(vec![images, rows, columns, patch, patch, channels])?;
        patches.permute(vec![0, 5, 1, 3, 2, 4])?.reshape((images, channels, rows * patch, columns * patch))
    }
}

impl Model for Metaformer {
    fn show(&self, images: &Tensor, pass: &Pass) -> Result<Shown> {
        let (count, _, height, width) = images.dims4()?;
        let grid = [height / self.patch, width / self.patch];
        let mut tokens = self.embed.forward(images, pass)?.broadcast_add(&pass.seen(&self.positions))?;
        for block in &self.encoder {
            tokens = block.forward(&tokens, pass)?;
        }
        let tokens = self.encoded.forward(&tokens, pass)?;
        let attention = self.attention(&tokens, pass)?;
        let found = of_tokens(&self.instance, &attention.unsqueeze(1)?.matmul(&tokens)?, pass)?;

        let code = of_tokens(&self.code, &tokens, pass)?;
        let decoded = of_tokens(&self.decode, &code, pass)?.broadcast_add(&pass.seen(&self.decoder_positions))?;
        let mut decoded = decoded.broadcast_add(&found)?;
        for block in &self.decoder {
            decoded = block.forward(&decoded, pass)?;
        }
        let patches = of_tokens(&self.pixels, &self.decoded.forward(&decoded, pass)?, pass)?;
        let again = self.image(&patches, grid)?;
        let map = match pass.mode() {
            Mode::Train { .. } => None,
            Mode::Eval => {
                let errors = (images - &again)?.sqr()?.mean_keepdim(1)?;
                let errors = ops::avg_pool2d(&errors, Pool::new(CELL, CELL, 0), true)?;
                let weights = (attention * (grid[0] * grid[1]) as f64)?.reshape((count, 1, grid[0], grid[1]))?;
                let weights = ops::resize(&weights, (height / CELL, width / CELL), Interpolation::Nearest, false)?;
                Some((errors * weights)?.squeeze(1)?)
            }
        };
        Ok(Shown { images: Some(again), map, ..Shown::default() })
    }

    fn folded(&self) -> Result<Box<dyn Model>> {
        Ok(Box::new(self.clone()))
    }
}
