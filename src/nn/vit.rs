//! Vision transformers: an image's patches and one token of the whole image pass through blocks of self-attention.
//!
//! tokens x = \[class; patches·E + b\] + positions; blocks as in [`transformer`]; features = norm(x) of the class token.
//!
//! - Papers: Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, <https://arxiv.org/abs/2010.11929>; Oquab et al., *DINOv2*,
//!   TMLR 2024, <https://arxiv.org/abs/2304.07193>. The factor of each channel behind a part of a block (`layer_scale`): Touvron et al.,
//!   *Going deeper with Image Transformers*, ICCV 2021, <https://arxiv.org/abs/2103.17239>.
//! - Code: timm's `vision_transformer.py`, whose weights load as they are: `vit_small_patch16_224`, `vit_base_patch16_224`,
//!   `vit_small_patch14_dinov2` and `vit_base_patch14_dinov2` with a class token, `global_pool='token'` and `dynamic_img_size=True`.
//! - Images of another size than the weights' have [resampled positions](positions).
//! - A stage is of patches alone: what the class token takes along passes beside it. Behind the last block, patches have no part in the
//!   features any more.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    nn::{
        Pass, Shape,
        architecture::Architecture,
        backbone::{Backbone, Extractor, Family, IMAGENET, LastLayerOf, Part},
        positions::Positions,
        transformer::{self, Block, LayerNorm, PatchEmbed},
    },
};

/// Settings of a vision transformer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Vit")]
pub struct Settings {
    /// Numbers of a token, and so of the features. ViT-S's: 384, ViT-B's: 768.
    #[garde(range(min = 1, max = 4096))]
    pub width: usize,
    /// Blocks. ViT-S's and ViT-B's: 12.
    #[garde(range(min = 1, max = 64))]
    pub depth: usize,
    /// Heads of each attention; they divide the width. ViT-S's: 6, ViT-B's: 12, of 64 numbers each.
    #[garde(range(min = 1, max = 64), custom(divides(self.width)))]
    pub heads: usize,
    /// Rows and columns of a patch; they divide those of the image. DINOv2's: 14. Default: 16, ViT-S/16's.
    #[garde(range(min = 1, max = 256))]
    pub patch: usize,
    /// What each channel behind an attention and behind two linear layers is multiplied by at first; it learns. DINOv2's in timm: 1e-5. Default:
    /// nothing is multiplied, as in ViT.
    #[garde(range(min = 0.0, max = 1.0))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub layer_scale: Option<f64>,
    /// Rows and columns of the images that positions are learned for, a multiple of `patch`; those of other images are resampled. DINOv2's:
    /// 518. Default: 224, that of ViT.
    #[garde(range(min = 1, max = 8192), custom(whole(self.patch)))]
    pub pretrained_size: usize,
}

/// Positions of each axis, at most. Ours: a hundred million numbers of a width of 1500.
const MOST_POSITIONS: usize = 256;

fn divides(width: usize) -> impl FnOnce(&usize, &()) -> garde::Result {
    move |heads, ()| match width.is_multiple_of((*heads).max(1)) {
        true => Ok(()),
        false => Err(garde::Error::new(format!("{heads} heads do not divide a width of {width}"))),
    }
}

fn whole(patch: usize) -> impl FnOnce(&usize, &()) -> garde::Result {
    move |size, ()| match size / patch.max(1) {
        _ if !size.is_multiple_of(patch.max(1)) => {
            Err(garde::Error::new(format!("must be a whole number of patches of {patch}")))
        }
        count if count > MOST_POSITIONS => {
            Err(garde::Error::new(format!("{count} patches along a side; at most {MOST_POSITIONS} have a position")))
        }
        _ => Ok(()),
    }
}

impl Settings {
    /// ViT-S/16.
    const SMALL: Self = Self { width: 384, depth: 12, heads: 6, patch: 16, layer_scale: None, pretrained_size: 224 };
    /// ViT-B/16.
    const BASE: Self = Self { width: 768, heads: 12, ..Self::SMALL };

    const fn dinov2(self) -> Self {
        Self { patch: 14, layer_scale: Some(1e-5), pretrained_size: 518, ..self }
    }

    /// Patches down and across.
    fn grid(&self, size: [usize; 2]) -> [usize; 2] {
        size.map(|side| side / self.patch.max(1))
    }

    /// What nobody wrote into a file, and so nobody checked.
    fn check(&self) -> crate::Result<()> {
        self.validate().map_err(|report| Error::input(format!("vit: {}", report.to_string().trim_end())))
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::SMALL
    }
}

impl Family for Settings {
    const PRESETS: &[(&str, Self)] = &[
        ("vit_s16", Self::SMALL),
        ("vit_b16", Self::BASE),
        ("dinov2_s14", Self::SMALL.dinov2()),
        ("dinov2_b14", Self::BASE.dinov2()),
    ];
    const LACKS: &[Part] = &[Part::SpectralNorm, Part::Activation, Part::Shortcut];
    const POOLS_MAPS: bool = false;

    fn build(&self, _: &Architecture, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Extractor>> {
        self.check()?;
        let Shape { height, width, .. } = shape;
        let patch = self.patch;
        if [height, width].iter().any(|side| *side == 0 || !side.is_multiple_of(patch)) {
            let message = format!("vit: {height}×{width} pixels are no whole number of patches of {patch}×{patch}");
            return Err(Error::input(message)
                .hint(format!("bring images to such a size: `size` of the data is a multiple of {patch}")));
        }
        Ok(Box::new(Vit::new(self, shape, &vb)?))
    }

    fn stages(&self, size: [usize; 2]) -> Vec<(String, [usize; 3])> {
        let [rows, columns] = self.grid(size);
        names(self.depth).map(|name| (name, [self.width, rows, columns])).collect()
    }

    fn patch(&self) -> usize {
        // One of no pixels is refused, and nobody divides by it before.
        self.patch.max(1)
    }

    /// ImageNet's of those with a `layer_scale`, which DINOv2 has; 0.5 and 0.5 of those without, as Google's weights (`augreg`) have it.
    fn normalisation(&self) -> Option<[[f32; 3]; 2]> {
        Some(if self.layer_scale.is_some() { IMAGENET } else { [[0.5; 3]; 2] })
    }

    /// Others of the same architecture, such as DINO's and DeiT's, were trained with ImageNet's mean and deviation.
    fn tags(&self) -> &'static [&'static str] {
        if self.layer_scale.is_some() { &["lvd142m"] } else { &["augreg", "orig"] }
    }

    fn label(&self, name: &str) -> String {
        Self::PRESETS.iter().find(|(_, preset)| preset == self).map_or(name, |(preset, _)| *preset).to_owned()
    }

    fn elsewhere(&self, channels: usize, classes: usize) -> Option<String> {
        let name = match self.label("").as_str() {
            "vit_s16" => "vit_small_patch16_224",
            "vit_b16" => "vit_base_patch16_224",
            "dinov2_s14" => "vit_small_patch14_dinov2",
            "dinov2_b14" => "vit_base_patch14_dinov2",
            _ => return None,
        };
        Some(format!("timm.create_model('{name}', num_classes={classes}, in_chans={channels}, dynamic_img_size=True)"))
    }

    /// Of the same patches, so that it takes the same images.
    fn smoke(&self) -> Option<Backbone> {
        let heads = self.heads.min(2);
        Some(Backbone::Vit(Self { width: self.width.min(4 * heads), heads, ..self.clone() }))
    }
}

/// The last stage's name: what leaves the norm before the head.
const NORM: &str = "norm";

/// The names of the stages of so many blocks.
fn names(depth: usize) -> impl Iterator<Item = String> {
    (0..depth).map(|at| format!("blocks.{at}")).chain([NORM.to_owned()])
}

/// Features: the class token behind the last norm, as many as the width. Stages: `blocks.0` to the last block and `norm`, each the (N, width,
/// H/patch, W/patch) tokens of the patches behind it.
#[derive(Debug, Clone)]
pub struct Vit {
    embed: PatchEmbed,
    /// (1, 1, width)
    class: Tensor,
    positions: Positions,
    blocks: Vec<Block>,
    norm: LayerNorm,
    /// Patches down and across.
    grid: [usize; 2],
    width: usize,
}

impl Vit {
    /// Starts as timm does: positions and linear layers normal with deviation 0.02, the class token with 1e-6, patches as PyTorch's
    /// convolutions.
    fn new(settings: &Settings, shape: Shape, vb: &VarBuilder) -> Result<Self> {
        let Settings { width, depth, heads, patch, layer_scale, pretrained_size } = *settings;
        let grid = settings.grid([shape.height, shape.width]);
        let blocks = vb.pp("blocks");
        Ok(Self {
            embed: PatchEmbed::new(shape.channels, patch, width, &vb.pp("patch_embed"))?,
            class: vb.get_with_hints((1, 1, width), "cls_token", Init::Randn { mean: 0.0, stdev: 1e-6 })?,
            positions: Positions::new(width, 1, pretrained_size / patch, grid, vb)?,
            blocks: (0..depth)
                .map(|at| Block::scaled(width, heads, layer_scale, &blocks.pp(at)))
                .collect::<Result<_>>()?,
            norm: LayerNorm::new(width, &vb.pp(NORM))?,
            grid,
            width,
        })
    }

    /// (N, C, H, W) images to the (N, 1 + T, width) tokens that the first block reads.
    fn tokens(&self, images: &Tensor, pass: &Pass) -> Result<Tensor> {
        let patches = self.embed.forward(images, pass)?;
        let (count, found, _) = patches.dims3()?;
        let [rows, columns] = self.grid;
        if found != rows * columns {
            candle_core::bail!("{found} patches of an image, and the network is built for {rows}×{columns}");
        }
        let class = pass.seen(&self.class).broadcast_as((count, 1, self.width))?.contiguous()?;
        let tokens = Tensor::cat(&[&class, &patches], 1)?.broadcast_add(&self.positions.forward(pass)?)?;
        pass.end_stem();
        Ok(tokens)
    }

    /// What leaves the first `count` stages, and all tokens (N, 1 + T, width) as they leave the last of these.
    fn first(&self, count: usize, images: &Tensor, pass: &Pass) -> Result<(Vec<(String, Tensor)>, Tensor)> {
        let mut tokens = self.tokens(images, pass)?;
        let mut stages = Vec::with_capacity(count);
        for (at, name) in names(self.blocks.len()).take(count).enumerate() {
            tokens = match self.blocks.get(at) {
                Some(block) => block.forward(&tokens, pass)?,
                None => self.norm.forward(&tokens, pass)?,
            };
            // Between the two linear layers of a block there are four times as many numbers, twice, beside what enters them.
            pass.hold([&tokens; 9]);
            let maps = self.maps(&tokens)?;
            let own = maps.id();
            let maps = pass.stage(&name, maps)?;
            // A stage that is differentiated by stands in the place of the tokens that it shows.
            if maps.id() != own {
                let patches = maps.flatten_from(2)?.transpose(1, 2)?;
                tokens = Tensor::cat(&[&tokens.narrow(1, 0, 1)?.contiguous()?, &patches.contiguous()?], 1)?;
            }
            stages.push((name, maps));
        }
        Ok((stages, tokens))
    }

    /// The tokens of patches as (N, width, rows, columns). Nobody may read them, so that they lie as they did.
    fn maps(&self, tokens: &Tensor) -> Result<Tensor> {
        let [rows, columns] = self.grid;
        let patches = tokens.narrow(1, 1, rows * columns)?;
        patches.reshape(((), rows, columns, self.width))?.permute((0, 3, 1, 2))
    }
}

impl Extractor for Vit {
    fn extract(&self, images: &Tensor, pass: &Pass) -> Result<(Tensor, Vec<(String, Tensor)>)> {
        let (stages, tokens) = self.first(self.blocks.len() + 1, images, pass)?;
        Ok((tokens.narrow(1, 0, 1)?.squeeze(1)?.contiguous()?, stages))
    }

    fn stages_until(&self, images: &Tensor, last: &str, pass: &Pass) -> Result<Vec<(String, Tensor)>> {
        let all = self.blocks.len() + 1;
        let count = names(self.blocks.len()).position(|name| name == last).map_or(all, |at| at + 1);
        Ok(self.first(count, images, pass)?.0)
    }

    fn last_layer(&self, _: usize) -> LastLayerOf {
        LastLayerOf { name: "head", features: self.width, init: [transformer::START, Init::Const(0.0)], scale: None }
    }

    fn folded(&self) -> Result<Box<dyn Extractor>> {
        Ok(Box::new(self.clone()))
    }
}
