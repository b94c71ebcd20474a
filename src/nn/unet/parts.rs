//! The parts of a U-Net.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use crate::{
    nn::{
        Mode, Pass,
        layers::{Conv2d, Linear},
        transformer::of_tokens,
    },
    ops::{self, Activation, Convolution, Order},
    rng,
};

/// Of group normalisation, in DDPM.
const EPSILON: f64 = 1e-6;
/// The longest wave of an embedding of times, over 2π.
const LONGEST: f64 = 10_000.0;

/// sin and cos of (N) times at rates that fall from 1 to 1/10,000: (N, channels), of `like`'s type and device.
///
/// # Errors
/// Those of candle.
pub fn sinusoid(times: &[f64], channels: usize, like: &Tensor) -> Result<Tensor> {
    let half = channels / 2;
    let rate = |at: usize| (-LONGEST.ln() * at as f64 / (half.max(2) - 1) as f64).exp();
    let of = |wave: fn(f64) -> f64, time: f64| (0..half).map(move |at| wave(time * rate(at)));
    // An odd number of channels ends with a 0.
    let row = |time: &f64| {
        of(f64::sin, *time).chain(of(f64::cos, *time)).chain((channels % 2 == 1).then_some(0.0)).collect::<Vec<_>>()
    };
    let values: Vec<f64> = times.iter().flat_map(row).collect();
    Tensor::from_vec(values, (times.len(), channels), &candle_core::Device::Cpu)?
        .to_dtype(like.dtype())?
        .to_device(like.device())
}

/// A convolution that starts at 0.
///
/// # Errors
/// Those of candle.
pub(super) fn zeroed(channels: [usize; 2], kernel: usize, by: Convolution, vb: &VarBuilder) -> Result<Conv2d> {
    Conv2d::with_init(channels, kernel, by, Init::Const(0.0), vb)
}

/// Group normalisation of maps.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
}

impl Norm {
    /// Of as many groups as divide both the channels and `groups`.
    pub(super) fn new(channels: usize, groups: usize, vb: &VarBuilder) -> Result<Self> {
        let (mut common, mut rest) = (channels, groups);
        while rest != 0 {
            (common, rest) = (rest, common % rest);
        }
        Ok(Self {
            weight: vb.get_with_hints(channels, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(channels, "bias", Init::Const(0.0))?,
            groups: common,
        })
    }

    pub(super) fn forward(&self, x: &Tensor, silu: bool, pass: &Pass) -> Result<Tensor> {
        ops::group_norm(x, &pass.seen(&self.weight), &pass.seen(&self.bias), self.groups, EPSILON, silu)
    }
}

/// x + conv2(dropout(SiLU(norm2(conv1(SiLU(norm1(x))) + time_emb_proj(embedding))))), where x passes through a 1×1 convolution if the channels
/// change.
#[derive(Debug, Clone)]
pub struct ResidualBlock {
    norm1: Norm,
    conv1: Conv2d,
    time: Linear,
    norm2: Norm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
    dropout: f64,
    dropout_stream: String,
}

impl ResidualBlock {
    /// Of channels that it reads and makes and of an embedding's.
    ///
    /// # Errors
    /// Those of candle.
    pub fn new([inputs, outputs, embedding]: [usize; 3], groups: usize, dropout: f64, vb: &VarBuilder) -> Result<Self> {
        let same = Convolution::new(1, 1);
        let shortcut = (inputs != outputs)
            .then(|| Conv2d::biased([inputs, outputs], 1, Convolution::new(1, 0), &vb.pp("conv_shortcut")));
        Ok(Self {
            norm1: Norm::new(inputs, groups, &vb.pp("norm1"))?,
            conv1: Conv2d::biased([inputs, outputs], 3, same, &vb.pp("conv1"))?,
            time: Linear::new(embedding, outputs, &vb.pp("time_emb_proj"))?,
            norm2: Norm::new(outputs, groups, &vb.pp("norm2"))?,
            conv2: zeroed([outputs; 2], 3, same, &vb.pp("conv2"))?,
            shortcut: shortcut.transpose()?,
            dropout,
            dropout_stream: format!("dropout/{}", vb.prefix()),
        })
    }

    /// Of maps (N, C, H, W) and SiLU of an embedding (N, D).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor, embedding: &Tensor, pass: &Pass) -> Result<Tensor> {
        let hidden = self.conv1.forward(&self.norm1.forward(x, true, pass)?, pass)?;
        let added = self.time.forward(embedding, Activation::Identity, pass)?;
        let hidden = hidden.broadcast_add(&added.unsqueeze(2)?.unsqueeze(3)?)?;
        let mut hidden = self.norm2.forward(&hidden, true, pass)?;
        if let Mode::Train { seed, step, .. } = pass.mode() {
            hidden = ops::dropout(&hidden, self.dropout, rng::stream(seed, &self.dropout_stream, &step.to_string()))?;
        }
        match &self.shortcut {
            Some(shortcut) => self.conv2.forward_add(&hidden, &shortcut.forward(x, pass)?, pass),
            None => self.conv2.forward_add(&hidden, x, pass),
        }
    }
}

/// x + to_out(softmax(Q·Kᵀ/√d)·V) of all positions, Q, K and V of normalised maps.
#[derive(Debug, Clone)]
pub struct Attention {
    heads: usize,
    norm: Norm,
    query: Linear,
    key: Linear,
    value: Linear,
    out: Linear,
}

impl Attention {
    /// Of `heads` heads, which must divide the channels.
    ///
    /// # Errors
    /// Those of candle, and where they do not divide them.
    pub fn new(channels: usize, heads: usize, groups: usize, vb: &VarBuilder) -> Result<Self> {
        if heads == 0 || !channels.is_multiple_of(heads) {
            candle_core::bail!("{heads} heads do not divide {channels} channels");
        }
        let linear = |name: &str| Linear::new(channels, channels, &vb.pp(name));
        let zero = Init::Const(0.0);
        Ok(Self {
            heads,
            norm: Norm::new(channels, groups, &vb.pp("group_norm"))?,
            query: linear("to_q")?,
            key: linear("to_k")?,
            value: linear("to_v")?,
            out: Linear::with_init([channels; 2], zero, zero, &vb.pp("to_out").pp(0))?,
        })
    }

    /// Of maps (N, C, H, W).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (images, channels, height, width) = x.dims4()?;
        let (positions, depth) = (height * width, channels / self.heads);
        let tokens = self.norm.forward(x, false, pass)?.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
        let each = |layer: &Linear| of_tokens(layer, &tokens, pass)?.reshape((images * positions, channels, 1, 1));
        let qkv = ops::concat(&[&each(&self.query)?, &each(&self.key)?, &each(&self.value)?])?;
        let qkv = qkv.reshape((images, positions, 3 * channels))?;
        let y = ops::attention(&qkv, self.heads, (depth as f64).powf(-0.5), Order::Tokens)?;
        pass.hold([x, &qkv, &y]);
        pass.multiply(&y, 2 * positions);
        let y = of_tokens(&self.out, &y, pass)?;
        ops::add(x, &y.transpose(1, 2)?.reshape(x.shape())?.contiguous()?, Activation::Identity)
    }
}
