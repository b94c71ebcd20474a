//! The parts of a vision transformer: patches of an image as tokens, and blocks of self-attention, with timm's parameter names.
//!
//! block: y = x + attention(norm1(x)); z = y + mlp(norm2(y)). attention = softmax(Q·Kᵀ/√d)·V in each of `heads` parts of the width, put
//! together and projected; mlp = fc2(GELU(fc1)). With a layer scale, each channel of both is multiplied by a number that learns.
//!
//! - Paper: Dosovitskiy et al., *An Image is Worth 16x16 Words*, ICLR 2021, <https://arxiv.org/abs/2010.11929>.
//! - Code: timm's `vision_transformer.py` (`Block`, `Attention`, `LayerScale`, `Mlp`, `PatchEmbed`), its names, ε, and first values (`init_weights_vit_timm`).
//!   There is no dropout, as in timm's defaults.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::{
    nn::{
        Pass,
        layers::{Conv2d, Linear},
    },
    ops::{self, Activation, Convolution, Order},
};

/// ε of a layer normalisation, in timm's vision transformers.
const EPSILON: f64 = 1e-6;
/// Times the width: what the two layers of a block have between them, in timm and in the paper.
const EXPANSION: usize = 4;
/// How weights and learned positions start, in timm.
pub const START: Init = Init::Randn { mean: 0.0, stdev: 0.02 };

/// A linear layer as it starts in a transformer: its bias at 0.
///
/// # Errors
/// Those of candle.
pub fn linear(inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Linear> {
    Linear::with_init([inputs, outputs], START, Init::Const(0.0), vb)
}

/// A layer of every token: (N, T, inputs) to (N, T, outputs).
///
/// # Errors
/// When the shapes do not fit.
pub fn of_tokens(layer: &Linear, tokens: &Tensor, pass: &Pass) -> Result<Tensor> {
    let (images, count, width) = tokens.dims3()?;
    let y = layer.of_rows(&tokens.reshape((images * count, width))?, pass)?;
    y.reshape((images, count, ()))
}

/// Layer normalisation of every token, as `torch.nn.LayerNorm` with ε 1e-6.
#[derive(Debug, Clone)]
pub struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f64,
}

impl LayerNorm {
    /// Weight 1, bias 0.
    ///
    /// # Errors
    /// Those of candle.
    pub fn new(width: usize, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints(width, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(width, "bias", Init::Const(0.0))?,
            epsilon: EPSILON,
        })
    }

    /// The same with another ε than 1e-6.
    #[must_use]
    pub fn epsilon(self, epsilon: f64) -> Self {
        Self { epsilon, ..self }
    }

    /// (N, T, width) to the same.
    ///
    /// # Errors
    /// When the width is another.
    pub fn forward(&self, tokens: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (images, count, width) = tokens.dims3()?;
        let rows = tokens.reshape((images * count, width))?;
        // One group of all channels.
        let y = ops::group_norm(&rows, &pass.seen(&self.weight), &pass.seen(&self.bias), 1, self.epsilon, false)?;
        y.reshape((images, count, width))
    }
}

/// Cuts an image into square patches, each of which becomes a token: a convolution whose stride is its kernel.
#[derive(Debug, Clone)]
pub struct PatchEmbed {
    proj: Conv2d,
}

impl PatchEmbed {
    /// Of patches of `patch`×`patch` pixels.
    ///
    /// # Errors
    /// Those of candle.
    pub fn new(channels: usize, patch: usize, width: usize, vb: &VarBuilder) -> Result<Self> {
        let proj = Conv2d::biased([channels, width], patch, Convolution::new(patch, 0), &vb.pp("proj"))?;
        Ok(Self { proj })
    }

    /// (N, C, H, W) to (N, H/patch · W/patch, width), row after row.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, images: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.proj.forward(images, pass)?.flatten_from(2)?.transpose(1, 2)?.contiguous()
    }
}

/// Self-attention of several heads.
#[derive(Debug, Clone)]
pub struct Attention {
    heads: usize,
    /// Queries, keys and values, one after another.
    qkv: Linear,
    proj: Linear,
}

impl Attention {
    /// Of `heads` heads, which must divide the width.
    ///
    /// # Errors
    /// Those of candle, and where they do not divide it.
    pub fn new(width: usize, heads: usize, vb: &VarBuilder) -> Result<Self> {
        if heads == 0 || !width.is_multiple_of(heads) {
            candle_core::bail!("{heads} heads do not divide a width of {width}");
        }
        Ok(Self { heads, qkv: linear(width, 3 * width, &vb.pp("qkv"))?, proj: linear(width, width, &vb.pp("proj"))? })
    }

    /// (N, T, width) to the same.
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, tokens: &Tensor, pass: &Pass) -> Result<Tensor> {
        let qkv = of_tokens(&self.qkv, tokens, pass)?;
        let depth = tokens.dim(2)? / self.heads;
        let y = ops::attention(&qkv, self.heads, (depth as f64).powf(-0.5), Order::Tokens)?;
        pass.hold([&qkv, &y]);
        pass.multiply(&y, 2 * tokens.dim(1)?);
        of_tokens(&self.proj, &y, pass)
    }
}

/// A number for each channel, which it is multiplied by.
#[derive(Debug, Clone)]
struct LayerScale {
    gamma: Tensor,
}

impl LayerScale {
    fn new(width: usize, start: f64, vb: &VarBuilder) -> Result<Self> {
        Ok(Self { gamma: vb.get_with_hints(width, "gamma", Init::Const(start))? })
    }

    /// (N, T, width) to the same.
    fn forward(&self, tokens: &Tensor, pass: &Pass) -> Result<Tensor> {
        tokens.broadcast_mul(&pass.seen(&self.gamma))
    }
}

/// A block of an encoder, which normalises before each of its two parts.
#[derive(Debug, Clone)]
pub struct Block {
    /// The name of what its GELU gives.
    name: String,
    norm1: LayerNorm,
    attn: Attention,
    ls1: Option<LayerScale>,
    norm2: LayerNorm,
    fc1: Linear,
    fc2: Linear,
    ls2: Option<LayerScale>,
}

impl Block {
    /// Of `heads` heads, which must divide the width.
    ///
    /// # Errors
    /// As [`Attention::new`].
    pub fn new(width: usize, heads: usize, vb: &VarBuilder) -> Result<Self> {
        Self::scaled(width, heads, None, vb)
    }

    /// The same with a layer scale of which each number starts at `layer_scale`, if there is one.
    ///
    /// # Errors
    /// As [`Attention::new`].
    pub fn scaled(width: usize, heads: usize, layer_scale: Option<f64>, vb: &VarBuilder) -> Result<Self> {
        let (hidden, mlp) = (EXPANSION * width, vb.pp("mlp"));
        let scale = |name| layer_scale.map(|start| LayerScale::new(width, start, &vb.pp(name))).transpose();
        Ok(Self {
            name: mlp.pp("act").prefix(),
            norm1: LayerNorm::new(width, &vb.pp("norm1"))?,
            attn: Attention::new(width, heads, &vb.pp("attn"))?,
            ls1: scale("ls1")?,
            norm2: LayerNorm::new(width, &vb.pp("norm2"))?,
            fc1: linear(width, hidden, &mlp.pp("fc1"))?,
            fc2: linear(hidden, width, &mlp.pp("fc2"))?,
            ls2: scale("ls2")?,
        })
    }

    /// So many blocks, named from 0.
    ///
    /// # Errors
    /// As [`Block::new`].
    pub fn several(count: usize, width: usize, heads: usize, vb: &VarBuilder) -> Result<Vec<Self>> {
        (0..count).map(|at| Self::new(width, heads, &vb.pp(at))).collect()
    }

    /// (N, T, width) to the same.
    ///
    /// Of the layers whose neurons are [kept](Pass::keeping_layers), it has what its GELU gives, (N, 4·width, T, 1).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, tokens: &Tensor, pass: &Pass) -> Result<Tensor> {
        let attended = self.attn.forward(&self.norm1.forward(tokens, pass)?, pass)?;
        let tokens = ops::add(tokens, &scaled(self.ls1.as_ref(), attended, pass)?, Activation::Identity)?;
        let hidden = ops::gelu(&of_tokens(&self.fc1, &self.norm2.forward(&tokens, pass)?, pass)?)?;
        if !pass.is_plain() {
            let neurons = hidden.transpose(1, 2)?.unsqueeze(3)?.contiguous()?;
            pass.note(&self.name, &neurons, Activation::Identity)?;
        }
        let made = scaled(self.ls2.as_ref(), of_tokens(&self.fc2, &hidden, pass)?, pass)?;
        ops::add(&tokens, &made, Activation::Identity)
    }
}

/// What a part of a block gives, with its layer scale.
fn scaled(scale: Option<&LayerScale>, tokens: Tensor, pass: &Pass) -> Result<Tensor> {
    match scale {
        Some(scale) => scale.forward(&tokens, pass),
        None => Ok(tokens),
    }
}
