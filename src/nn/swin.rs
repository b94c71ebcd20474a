//! Swin transformer: tokens attend to those of their window, windows are shifted in every second block, and maps are halved between stages.
//!
//! Patches → norm → stage → 3 × (four neighbours together, normalised, and projected to twice the width → stage) → norm → average → linear.
//! block: y = x + attention(norm1(x)); z = y + mlp(norm2(y)). attention of a window = softmax(Q·Kᵀ/√d + B + M)·V for each head: B is a learned
//! number of where the key lies seen from the query, M is −100 between tokens that are neighbours only because the map was rolled.
//!
//! - Paper: Liu et al., *Swin Transformer: Hierarchical Vision Transformer using Shifted Windows*, ICCV 2021,
//!   <https://arxiv.org/abs/2103.14030>.
//! - Code: timm's `swin_transformer.py` (`SwinTransformer`), its names, ε and first values. As there, maps that are no multiple of the window
//!   are padded with zeros at their ends, after normalisation, and a map that is no larger than the window is one window.
//! - Deviation: there, a map that is smaller than the window has a smaller table of B. Here the table keeps its size, and such a map uses its
//!   middle, so that the same weights fit images of any size.
//! - Deviation: there is no stochastic depth, timm's `drop_path_rate`, whose default is 0.1.

use candle_core::{Device, Result, Tensor};
use candle_nn::{Init, VarBuilder};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    nn::{
        Pass, Shape,
        architecture::Architecture,
        backbone::{Backbone, Extractor, Family, IMAGENET, LastLayerOf, Part, strided},
        layers::Linear,
        transformer::{self, LayerNorm, PatchEmbed, of_tokens},
    },
    ops::{self, Activation, Order},
};

/// Settings of a Swin transformer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Swin")]
pub struct Settings {
    /// Channels of the first stage; each later one has twice as many. Swin-T's and Swin-S's: 96, Swin-B's: 128.
    #[garde(range(min = 1, max = 4096))]
    pub width: usize,
    /// Blocks of each stage. Swin-T's: 2, 2, 6, 2; Swin-S's and Swin-B's: 2, 2, 18, 2.
    #[garde(inner(range(min = 1, max = 96)))]
    pub depths: [usize; 4],
    /// Heads of each stage's attention; they divide its channels. Swin-T's and Swin-S's: 3, 6, 12, 24; Swin-B's: 4, 8, 16, 32.
    #[garde(inner(range(min = 1, max = 1024)), custom(divide(&self.width)))]
    pub heads: [usize; 4],
    /// Rows and columns of a window. Default: 7, the paper's.
    #[garde(range(min = 1, max = 64))]
    #[serde(default = "default_window")]
    pub window: usize,
    /// Rows and columns of a patch, which divide those of the images. Default: 4, the paper's.
    #[garde(range(min = 1, max = 64))]
    #[serde(default = "default_patch")]
    pub patch: usize,
}

const fn default_window() -> usize {
    7
}

const fn default_patch() -> usize {
    4
}

fn divide(width: &usize) -> impl FnOnce(&[usize; 4], &()) -> garde::Result {
    let width = *width;
    move |heads, ()| match undivided(width, heads) {
        None => Ok(()),
        Some((heads, width)) => Err(garde::Error::new(format!("{heads} heads do not divide {width} channels"))),
    }
}

/// Heads that do not divide a stage's channels, and these.
fn undivided(width: usize, heads: &[usize; 4]) -> Option<(usize, usize)> {
    let stages = heads.iter().enumerate().map(|(at, heads)| (*heads, width << at));
    stages.into_iter().find(|(heads, width)| *heads == 0 || !width.is_multiple_of(*heads))
}

impl Settings {
    const fn usual(width: usize, blocks: usize, heads: [usize; 4]) -> Self {
        Self { width, depths: [2, 2, blocks, 2], heads, window: default_window(), patch: default_patch() }
    }

    /// Channels of a stage.
    fn channels(&self, stage: usize) -> usize {
        self.width << stage
    }
}

impl Family for Settings {
    const PRESETS: &[(&str, Self)] = &[
        ("swin_tiny", Self::usual(96, 6, [3, 6, 12, 24])),
        ("swin_small", Self::usual(96, 18, [3, 6, 12, 24])),
        ("swin_base", Self::usual(128, 18, [4, 8, 16, 32])),
    ];
    const LACKS: &[Part] = &[Part::SpectralNorm, Part::Activation, Part::Shortcut];
    /// timm's for `swin_*_patch4_window7_224.ms_in1k`.
    const NORMALISATION: Option<[[f32; 3]; 2]> = Some(IMAGENET);

    fn build(&self, _: &Architecture, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Extractor>> {
        if let Some((heads, width)) = undivided(self.width, &self.heads) {
            let message = format!("swin: {heads} heads do not divide {width} channels");
            return Err(Error::input(message).hint("each stage has twice as many channels as the one before"));
        }
        let (Shape { height, width, .. }, patch) = (shape, self.patch);
        if [height, width].iter().any(|side| *side == 0 || !side.is_multiple_of(patch)) {
            let message = format!(
                "swin cuts images into patches of {patch}×{patch} pixels, and {height}×{width} are no whole number of them"
            );
            return Err(Error::input(message).hint("bring the ID set to a size, such as `size: 224`"));
        }
        Ok(Box::new(Swin::new(self, shape, &vb)?))
    }

    fn stages(&self, size: [usize; 2]) -> Vec<(String, [usize; 3])> {
        let stride = |at| if at == 0 { self.patch } else { 2 };
        strided(size, (0..STAGES.len()).map(|at| (STAGES[at], self.channels(at), stride(at))))
    }

    fn label(&self, name: &str) -> String {
        Self::PRESETS.iter().find(|(_, preset)| preset == self).map_or(name, |(preset, _)| *preset).to_owned()
    }

    fn patch(&self) -> usize {
        self.patch.max(1)
    }

    /// None: timm's has to be made for one size of images, and its tables shrink where a map is smaller than a window.
    fn elsewhere(&self, _: usize, _: usize) -> Option<String> {
        None
    }

    /// Windows and patches of 4×4 at most: the images of a smoke run have several, and sides that the patches divide.
    fn smoke(&self) -> Option<Backbone> {
        Some(Backbone::Swin(Self {
            width: 4,
            heads: [1, 2, 2, 4],
            window: self.window.min(4),
            patch: 1 << self.patch.trailing_zeros().min(2),
            ..self.clone()
        }))
    }
}

/// The stages' names, timm's.
const STAGES: [&str; 4] = ["layers.0", "layers.1", "layers.2", "layers.3"];
/// ε of a layer normalisation, PyTorch's default, which timm's Swin keeps.
const EPSILON: f64 = 1e-5;
/// Times the width: what the two layers of a block have between them.
const EXPANSION: usize = 4;
/// What is added to the products of tokens that are no neighbours. timm's.
const APART: f32 = -100.0;

/// Features: as many as the last stage has channels. Stages: `layers.0` to `layers.3`: 1/4, 1/8, 1/16 and 1/32 of the image's rows and columns
/// with patches of 4×4, before the last normalisation.
#[derive(Debug, Clone)]
pub struct Swin {
    patch: usize,
    embed: PatchEmbed,
    embedded: LayerNorm,
    stages: Vec<Stage>,
    norm: LayerNorm,
    features: usize,
}

impl Swin {
    /// Linear layers and tables start normal with deviation 0.02, biases at 0, the patches' convolution as PyTorch's default: as in timm, whose
    /// normal is cut at ±2.
    fn new(settings: &Settings, shape: Shape, vb: &VarBuilder) -> Result<Self> {
        let (patch, width) = (settings.patch, settings.width);
        let mut size = [shape.height / patch, shape.width / patch];
        let stage = |at: usize| {
            let stage = Stage::new(settings, at, size, &vb.pp(STAGES[at]));
            size = size.map(|side| side.div_ceil(2));
            stage
        };
        let stages = (0..STAGES.len()).map(stage).collect::<Result<_>>()?;
        let features = settings.channels(STAGES.len() - 1);
        Ok(Self {
            patch,
            embed: PatchEmbed::new(shape.channels, patch, width, &vb.pp("patch_embed"))?,
            embedded: norm(width, &vb.pp("patch_embed").pp("norm"))?,
            stages,
            norm: norm(features, &vb.pp("norm"))?,
            features,
        })
    }

    /// What leaves the first `count` stages, and the last one's tokens.
    fn first(&self, count: usize, images: &Tensor, pass: &Pass) -> Result<(Tensor, Vec<(String, Tensor)>)> {
        let (_, _, height, width) = images.dims4()?;
        let mut size = [height, width].map(|side| side / self.patch);
        let mut tokens = self.embedded.forward(&self.embed.forward(images, pass)?, pass)?;
        pass.end_stem();
        let mut shown = Vec::with_capacity(count);
        for (name, stage) in STAGES.into_iter().zip(&self.stages).take(count) {
            (tokens, size) = stage.forward(&tokens, size, pass)?;
            let maps = pass.stage(name, maps(&tokens, size)?)?;
            tokens = maps.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
            shown.push((name.to_owned(), maps));
        }
        Ok((tokens, shown))
    }
}

impl Extractor for Swin {
    fn extract(&self, images: &Tensor, pass: &Pass) -> Result<(Tensor, Vec<(String, Tensor)>)> {
        let (tokens, stages) = self.first(STAGES.len(), images, pass)?;
        let (_, _, rows, columns) = stages[STAGES.len() - 1].1.dims4()?;
        let normal = maps(&self.norm.forward(&tokens, pass)?, [rows, columns])?;
        // Its means are the features, so that it is the last layer with pixels.
        pass.note("norm", &normal, Activation::Identity)?;
        Ok((ops::global_avg_pool2d(&normal)?, stages))
    }

    fn stages_until(&self, images: &Tensor, last: &str, pass: &Pass) -> Result<Vec<(String, Tensor)>> {
        let count = STAGES.iter().position(|name| *name == last).map_or(STAGES.len(), |at| at + 1);
        Ok(self.first(count, images, pass)?.1)
    }

    fn last_layer(&self, _: usize) -> LastLayerOf {
        let init = [transformer::START, Init::Const(0.0)];
        LastLayerOf { name: "head.fc", features: self.features, init, scale: None }
    }

    fn folded(&self) -> Result<Box<dyn Extractor>> {
        Ok(Box::new(self.clone()))
    }
}

fn norm(width: usize, vb: &VarBuilder) -> Result<LayerNorm> {
    Ok(LayerNorm::new(width, vb)?.epsilon(EPSILON))
}

/// (N, T, C) of rows and columns to (N, C, H, W).
fn maps(tokens: &Tensor, [rows, columns]: [usize; 2]) -> Result<Tensor> {
    let (images, _, channels) = tokens.dims3()?;
    tokens.transpose(1, 2)?.contiguous()?.reshape((images, channels, rows, columns))
}

/// Blocks on maps of one size, and before them, but for the first stage, what halves the maps.
#[derive(Debug, Clone)]
struct Stage {
    merging: Option<Merging>,
    blocks: Vec<Block>,
}

impl Stage {
    /// For maps of `size`, which the halved ones have.
    fn new(settings: &Settings, at: usize, size: [usize; 2], vb: &VarBuilder) -> Result<Self> {
        let (width, heads, window) = (settings.channels(at), settings.heads[at], settings.window);
        let merging = (at > 0).then(|| Merging::new(settings.channels(at - 1), &vb.pp("downsample"))).transpose()?;
        let parted = [false, true].map(|shifted| Parted::new(size, window, shifted, vb));
        let [plain, shifted] = parted;
        let (plain, shifted) = (plain?, shifted?);
        let blocks = (0..settings.depths[at]).map(|at| {
            let parted = if at % 2 == 0 { &plain } else { &shifted };
            Block::new(width, heads, parted.clone(), window, &vb.pp("blocks").pp(at))
        });
        Ok(Self { merging, blocks: blocks.collect::<Result<_>>()? })
    }

    /// (N, T, C) of maps of `size` to the tokens and the size of what leaves the stage.
    fn forward(&self, tokens: &Tensor, size: [usize; 2], pass: &Pass) -> Result<(Tensor, [usize; 2])> {
        let (mut tokens, size) = match &self.merging {
            None => (tokens.clone(), size),
            Some(merging) => (merging.forward(tokens, size, pass)?, size.map(|side| side.div_ceil(2))),
        };
        for block in &self.blocks {
            tokens = block.forward(&tokens, size, pass)?;
        }
        Ok((tokens, size))
    }
}

/// Puts the channels of 2×2 tokens together, and projects them to twice as many as one had. An odd map is padded with zeros at its end.
#[derive(Debug, Clone)]
struct Merging {
    norm: LayerNorm,
    reduction: Linear,
}

impl Merging {
    fn new(inputs: usize, vb: &VarBuilder) -> Result<Self> {
        let reduction = Linear::unbiased([4 * inputs, 2 * inputs], transformer::START, &vb.pp("reduction"))?;
        Ok(Self { norm: norm(4 * inputs, &vb.pp("norm"))?, reduction })
    }

    /// (N, H·W, C) to (N, ⌈H/2⌉·⌈W/2⌉, 2·C).
    fn forward(&self, tokens: &Tensor, [rows, columns]: [usize; 2], pass: &Pass) -> Result<Tensor> {
        let (images, _, channels) = tokens.dims3()?;
        let x = tokens.reshape((images, rows, columns, channels))?;
        let x = x.pad_with_zeros(1, 0, rows % 2)?.pad_with_zeros(2, 0, columns % 2)?;
        let [rows, columns] = [rows, columns].map(|side| side.div_ceil(2));
        // Of each four, column after column: timm's order of their channels.
        let x = x.reshape(&[images, rows, 2, columns, 2, channels][..])?.permute([0, 1, 3, 4, 2, 5])?;
        let x = x.contiguous()?.reshape((images, rows * columns, 4 * channels))?;
        of_tokens(&self.reduction, &self.norm.forward(&x, pass)?, pass)
    }
}

/// How a map is parted into windows.
#[derive(Debug, Clone)]
struct Parted {
    /// Rows and columns of the map.
    size: [usize; 2],
    window: [usize; 2],
    /// How far the map is rolled before.
    shift: [usize; 2],
    /// (T·T) u32, T the tokens of a window: for each query and each key in turn, the row of the table that holds their bias.
    offsets: Tensor,
    /// (windows, 1, T, T), what is added between tokens that come from different ends of a rolled map.
    mask: Option<Tensor>,
}

impl Parted {
    fn new(size: [usize; 2], largest: usize, shifted: bool, vb: &VarBuilder) -> Result<Self> {
        let window = size.map(|side| side.min(largest));
        let shift = |side| if shifted && side > largest { largest / 2 } else { 0 };
        let shift = size.map(shift);
        let tokens = window[0] * window[1];
        let place = |token: usize| [token / window[1], token % window[1]];
        let offset = |pair: usize| {
            let (query, key) = (place(pair / tokens), place(pair % tokens));
            let [row, column] = [0, 1].map(|axis| query[axis] + largest - 1 - key[axis]);
            (row * (2 * largest - 1) + column) as u32
        };
        let offsets = Tensor::from_vec((0..tokens * tokens).map(offset).collect(), tokens * tokens, &Device::Cpu)?;
        let mask = (shift != [0; 2]).then(|| mask(size, window, shift)?.to_device(vb.device())?.to_dtype(vb.dtype()));
        Ok(Self { size, window, shift, offsets: offsets.to_device(vb.device())?, mask: mask.transpose()? })
    }

    /// (N, H·W, C) to (N · windows, T, C).
    fn part(&self, tokens: &Tensor) -> Result<Tensor> {
        let (images, count, channels) = tokens.dims3()?;
        let ([rows, columns], [high, wide]) = (self.size, self.window);
        if count != rows * columns {
            candle_core::bail!("{count} tokens are not those of a map of {rows}×{columns}, for which swin was built");
        }
        let mut x = tokens.reshape((images, rows, columns, channels))?;
        for axis in 0..2 {
            x = x.roll(-(self.shift[axis] as i32), axis + 1)?;
        }
        for axis in 0..2 {
            x = x.pad_with_zeros(axis + 1, 0, self.padded()[axis] - self.size[axis])?;
        }
        let [down, across] = self.grid();
        let x = x.reshape(&[images, down, high, across, wide, channels][..])?.permute([0, 1, 3, 2, 4, 5])?;
        x.contiguous()?.reshape((images * down * across, high * wide, channels))
    }

    /// [`Self::part`] taken back.
    fn join(&self, windows: &Tensor) -> Result<Tensor> {
        let (count, _, channels) = windows.dims3()?;
        let ([rows, columns], [high, wide], [down, across]) = (self.size, self.window, self.grid());
        let images = count / (down * across);
        let x = windows.reshape(&[images, down, across, high, wide, channels][..])?.permute([0, 1, 3, 2, 4, 5])?;
        let [padded_rows, padded_columns] = self.padded();
        let mut x = x.contiguous()?.reshape((images, padded_rows, padded_columns, channels))?;
        x = x.narrow(1, 0, rows)?.narrow(2, 0, columns)?;
        for axis in 0..2 {
            x = x.roll(self.shift[axis] as i32, axis + 1)?;
        }
        x.contiguous()?.reshape((images, rows * columns, channels))
    }

    /// Rows and columns of windows.
    fn grid(&self) -> [usize; 2] {
        [0, 1].map(|axis| self.size[axis].div_ceil(self.window[axis]))
    }

    /// Rows and columns of the map with what fills the last windows.
    fn padded(&self) -> [usize; 2] {
        let grid = self.grid();
        [0, 1].map(|axis| grid[axis] * self.window[axis])
    }

    /// What is added to the products of a window's tokens: (1 or windows, heads, T, T) of the table (offsets, heads).
    fn bias(&self, table: &Tensor) -> Result<Tensor> {
        let tokens = self.window[0] * self.window[1];
        let bias = table.index_select(&self.offsets, 0)?.t()?.contiguous()?.reshape((1, (), tokens, tokens))?;
        match &self.mask {
            None => Ok(bias),
            Some(mask) => bias.broadcast_add(mask),
        }
    }
}

/// (windows, 1, T, T) f32: 0 between tokens of a window that were neighbours before the map of `size` was rolled by `shift`, else [`APART`].
fn mask(size: [usize; 2], window: [usize; 2], shift: [usize; 2]) -> Result<Tensor> {
    let grid = [0, 1].map(|axis| size[axis].div_ceil(window[axis]));
    // As timm counts them, from the end of the padded map.
    let part = |axis: usize, at: usize| {
        let left = grid[axis] * window[axis] - at;
        if shift[axis] == 0 || left > window[axis] { 0 } else { 1 + usize::from(left <= shift[axis]) }
    };
    let (windows, tokens) = (grid[0] * grid[1], window[0] * window[1]);
    let mut values = Vec::with_capacity(windows * tokens * tokens);
    for at in 0..windows {
        let [top, left] = [at / grid[1] * window[0], at % grid[1] * window[1]];
        let of = |token: usize| [part(0, top + token / window[1]), part(1, left + token % window[1])];
        let parts: Vec<[usize; 2]> = (0..tokens).map(of).collect();
        values
            .extend(parts.iter().flat_map(|query| parts.iter().map(move |key| if query == key { 0.0 } else { APART })));
    }
    Tensor::from_vec(values, (windows, 1, tokens, tokens), &Device::Cpu)
}

/// A block, which normalises before each of its two parts.
#[derive(Debug, Clone)]
struct Block {
    parted: Parted,
    heads: usize,
    norm1: LayerNorm,
    /// Queries, keys and values, one after another.
    qkv: Linear,
    /// ((2·window − 1)², heads): row after row, how far the query lies below the key, and within it how far to its right.
    table: Tensor,
    proj: Linear,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    /// What the neurons between the last two are called.
    neurons: String,
}

impl Block {
    fn new(width: usize, heads: usize, parted: Parted, window: usize, vb: &VarBuilder) -> Result<Self> {
        let (hidden, attn, mlp) = (EXPANSION * width, vb.pp("attn"), vb.pp("mlp"));
        let offsets = (2 * window - 1) * (2 * window - 1);
        Ok(Self {
            parted,
            heads,
            norm1: norm(width, &vb.pp("norm1"))?,
            qkv: transformer::linear(width, 3 * width, &attn.pp("qkv"))?,
            table: attn.get_with_hints((offsets, heads), "relative_position_bias_table", transformer::START)?,
            proj: transformer::linear(width, width, &attn.pp("proj"))?,
            norm2: norm(width, &vb.pp("norm2"))?,
            fc1: transformer::linear(width, hidden, &mlp.pp("fc1"))?,
            fc2: transformer::linear(hidden, width, &mlp.pp("fc2"))?,
            neurons: mlp.pp("act").prefix(),
        })
    }

    /// (N, T, width) of maps of `size` to the same.
    fn forward(&self, tokens: &Tensor, size: [usize; 2], pass: &Pass) -> Result<Tensor> {
        let attended = self.attend(&self.parted.part(&self.norm1.forward(tokens, pass)?)?, pass)?;
        let tokens = ops::add(tokens, &self.parted.join(&attended)?, Activation::Identity)?;
        let before = of_tokens(&self.fc1, &self.norm2.forward(&tokens, pass)?, pass)?;
        let hidden = ops::gelu(&before)?;
        pass.hold([&before, &hidden]);
        // What stands before GELU does not follow from what stands after it: its values are the neurons.
        if !pass.is_plain() {
            pass.note(&self.neurons, &maps(&hidden, size)?, Activation::Identity)?;
        }
        ops::add(&tokens, &of_tokens(&self.fc2, &hidden, pass)?, Activation::Identity)
    }

    /// (N · windows, T, width) to the same.
    fn attend(&self, windows: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (_, count, width) = windows.dims3()?;
        let qkv = of_tokens(&self.qkv, windows, pass)?;
        let bias = self.parted.bias(&pass.seen(&self.table))?;
        let scale = ((width / self.heads) as f64).powf(-0.5);
        let y = ops::biased_attention(&qkv, &bias, self.heads, scale, Order::Tokens)?;
        pass.hold([&qkv, &y]);
        pass.multiply(&y, 2 * count);
        of_tokens(&self.proj, &y, pass)
    }
}
