//! The parts of a U-Net.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};

use super::{AttentionOrder, Settings, Style};
use crate::{
    nn::{
        Mode, Pass,
        layers::{Conv2d, Linear},
        transformer::of_tokens,
    },
    ops::{self, Activation, Convolution, Interpolation, Order, Pool},
    rng,
};

/// The longest wave of an embedding of times, over 2π.
const LONGEST: f64 = 10_000.0;

/// sin and cos of (N) times at rates that fall from 1 to 1/10,000: (N, channels), of `like`'s type and device. Of [`Style::Adm`], cos comes
/// before sin, and the lowest rate is one step above 1/10,000.
///
/// # Errors
/// Those of candle.
pub fn sinusoid(times: &[f64], channels: usize, style: Style, like: &Tensor) -> Result<Tensor> {
    let half = channels / 2;
    let waves: [fn(f64) -> f64; 2] = match style {
        Style::Ddpm => [f64::sin, f64::cos],
        Style::Adm => [f64::cos, f64::sin],
    };
    let parts = if style == Style::Ddpm { half.max(2) - 1 } else { half };
    let rate = |at: usize| (-LONGEST.ln() * at as f64 / parts as f64).exp();
    let of = |wave: fn(f64) -> f64, time: f64| (0..half).map(move |at| wave(time * rate(at)));
    // An odd number of channels ends with a 0.
    let row = |time: &f64| {
        let [first, second] = waves.map(|wave| of(wave, *time));
        first.chain(second).chain((channels % 2 == 1).then_some(0.0)).collect::<Vec<_>>()
    };
    let values: Vec<f64> = times.iter().flat_map(row).collect();
    Tensor::from_vec(values, (times.len(), channels), &candle_core::Device::Cpu)?
        .to_dtype(like.dtype())?
        .to_device(like.device())
}

/// Twice the rows and columns, each number four times.
///
/// # Errors
/// Those of candle.
pub(super) fn doubled(x: &Tensor) -> Result<Tensor> {
    let (_, _, rows, columns) = x.dims4()?;
    ops::resize(x, (2 * rows, 2 * columns), Interpolation::Nearest, false)
}

/// A convolution that starts at 0.
///
/// # Errors
/// Those of candle.
pub(super) fn zeroed(channels: [usize; 2], kernel: usize, by: Convolution, vb: &VarBuilder) -> Result<Conv2d> {
    Conv2d::starting(channels, kernel, by, [Init::Const(0.0); 2], vb)
}

/// Group normalisation of maps.
#[derive(Debug, Clone)]
pub(super) struct Norm {
    weight: Tensor,
    bias: Tensor,
    groups: usize,
    epsilon: f64,
}

impl Norm {
    /// Of as many groups as divide both the channels and the settings' `groups`.
    pub(super) fn new(channels: usize, settings: &Settings, vb: &VarBuilder) -> Result<Self> {
        let (mut common, mut rest) = (channels, settings.groups);
        while rest != 0 {
            (common, rest) = (rest, common % rest);
        }
        Ok(Self {
            weight: vb.get_with_hints(channels, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(channels, "bias", Init::Const(0.0))?,
            groups: common,
            epsilon: match settings.style {
                Style::Ddpm => 1e-6,
                Style::Adm => 1e-5,
            },
        })
    }

    pub(super) fn forward(&self, x: &Tensor, silu: bool, pass: &Pass) -> Result<Tensor> {
        ops::group_norm(x, &pass.seen(&self.weight), &pass.seen(&self.bias), self.groups, self.epsilon, silu)
    }
}

/// What a residual block does to rows and columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sides {
    Kept,
    /// The mean of every 2×2 numbers.
    Halved,
    Doubled,
}

impl Sides {
    fn of(self, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Kept => Ok(x.clone()),
            Self::Halved => ops::avg_pool2d(x, Pool::new(2, 2, 0), true),
            Self::Doubled => doubled(x),
        }
    }
}

/// sides(x) + conv2(dropout(SiLU(told(conv1(sides(SiLU(norm1(x)))))))), where x passes through a 1×1 convolution if the channels change.
/// With e = time_emb_proj(embedding), told(h) is norm2(h + e), or of two parts of e, scale and shift, norm2(h)·(1 + scale) + shift.
#[derive(Debug, Clone)]
pub(super) struct ResidualBlock {
    norm1: Norm,
    conv1: Conv2d,
    time: Linear,
    scale_shift: bool,
    norm2: Norm,
    conv2: Conv2d,
    shortcut: Option<Conv2d>,
    sides: Sides,
    dropout: f64,
    dropout_stream: String,
}

impl ResidualBlock {
    /// Of channels that it reads and makes and of an embedding's.
    ///
    /// # Errors
    /// Those of candle.
    pub(super) fn new(
        [inputs, outputs, embedding]: [usize; 3],
        sides: Sides,
        settings: &Settings,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let same = Convolution::new(1, 1);
        let shortcut = (inputs != outputs)
            .then(|| Conv2d::biased([inputs, outputs], 1, Convolution::new(1, 0), &vb.pp("conv_shortcut")));
        let told = if settings.scale_shift { 2 * outputs } else { outputs };
        Ok(Self {
            norm1: Norm::new(inputs, settings, &vb.pp("norm1"))?,
            conv1: Conv2d::biased([inputs, outputs], 3, same, &vb.pp("conv1"))?,
            time: Linear::new(embedding, told, &vb.pp("time_emb_proj"))?,
            scale_shift: settings.scale_shift,
            norm2: Norm::new(outputs, settings, &vb.pp("norm2"))?,
            conv2: zeroed([outputs; 2], 3, same, &vb.pp("conv2"))?,
            shortcut: shortcut.transpose()?,
            sides,
            dropout: settings.dropout,
            dropout_stream: format!("dropout/{}", vb.prefix()),
        })
    }

    /// Of maps (N, C, H, W) and SiLU of an embedding (N, D).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(super) fn forward(&self, x: &Tensor, embedding: &Tensor, pass: &Pass) -> Result<Tensor> {
        let hidden = self.sides.of(&self.norm1.forward(x, true, pass)?)?;
        let x = &self.sides.of(x)?;
        let mut hidden = self.told(&self.conv1.forward(&hidden, pass)?, embedding, pass)?;
        if let Mode::Train { seed, step, .. } = pass.mode() {
            hidden = ops::dropout(&hidden, self.dropout, rng::stream(seed, &self.dropout_stream, &step.to_string()))?;
        }
        match &self.shortcut {
            Some(shortcut) => self.conv2.forward_add(&hidden, &shortcut.forward(x, pass)?, pass),
            None => self.conv2.forward_add(&hidden, x, pass),
        }
    }

    /// SiLU of normalised maps that know the embedding.
    fn told(&self, hidden: &Tensor, embedding: &Tensor, pass: &Pass) -> Result<Tensor> {
        let told = self.time.forward(embedding, Activation::Identity, pass)?.unsqueeze(2)?.unsqueeze(3)?;
        if !self.scale_shift {
            return self.norm2.forward(&hidden.broadcast_add(&told)?, true, pass);
        }
        let channels = hidden.dim(1)?;
        let [scale, shift] = [told.narrow(1, 0, channels)?, told.narrow(1, channels, channels)?];
        let normal = self.norm2.forward(hidden, false, pass)?;
        ops::silu(&normal.broadcast_mul(&(scale + 1.0)?)?.broadcast_add(&shift)?)
    }
}

/// x + out(softmax(Q·Kᵀ/√d)·V) of all positions, Q, K and V of normalised maps.
#[derive(Debug, Clone)]
pub(super) struct Attention {
    heads: usize,
    norm: Norm,
    layers: Layers,
}

/// What makes Q, K and V, and what their result becomes.
#[derive(Debug, Clone)]
enum Layers {
    /// Of [`Style::Ddpm`].
    Apart { qkv: Box<[Linear; 3]>, out: Linear },
    /// Of [`Style::Adm`].
    Joint { qkv: Box<Conv2d>, out: Conv2d, order: AttentionOrder },
}

impl Attention {
    /// Its heads must divide the channels.
    ///
    /// # Errors
    /// Those of candle, and where they do not divide them.
    pub(super) fn new(channels: usize, settings: &Settings, vb: &VarBuilder) -> Result<Self> {
        let heads = settings.heads_of(channels);
        if heads == 0 || !channels.is_multiple_of(heads) {
            candle_core::bail!("{heads} heads do not divide {channels} channels");
        }
        let vb_out = vb.pp("to_out").pp(0);
        let layers = match settings.style {
            Style::Ddpm => {
                let linear = |name: &str| Linear::new(channels, channels, &vb.pp(name));
                let zero = Init::Const(0.0);
                Layers::Apart {
                    qkv: Box::new([linear("to_q")?, linear("to_k")?, linear("to_v")?]),
                    out: Linear::with_init([channels; 2], zero, zero, &vb_out)?,
                }
            }
            Style::Adm => {
                let one = Convolution::new(1, 0);
                Layers::Joint {
                    qkv: Box::new(Conv2d::biased([channels, 3 * channels], 1, one, &vb.pp("qkv"))?),
                    out: zeroed([channels; 2], 1, one, &vb_out)?,
                    order: settings.attention_order,
                }
            }
        };
        Ok(Self { heads, norm: Norm::new(channels, settings, &vb.pp("group_norm"))?, layers })
    }

    /// Of maps (N, C, H, W).
    ///
    /// # Errors
    /// When the shapes do not fit.
    pub(super) fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (images, channels, height, width) = x.dims4()?;
        let positions = height * width;
        let scale = ((channels / self.heads) as f64).powf(-0.5);
        let normal = self.norm.forward(x, false, pass)?;
        match &self.layers {
            Layers::Apart { qkv, out } => {
                let tokens = normal.flatten_from(2)?.transpose(1, 2)?.contiguous()?;
                let each =
                    |layer: &Linear| of_tokens(layer, &tokens, pass)?.reshape((images * positions, channels, 1, 1));
                let [query, key, value] = &**qkv;
                let qkv = ops::concat(&[&each(query)?, &each(key)?, &each(value)?])?;
                let qkv = qkv.reshape((images, positions, 3 * channels))?;
                let y = ops::attention(&qkv, self.heads, scale, Order::Tokens)?;
                pass.hold([x, &qkv, &y]);
                pass.multiply(&y, 2 * positions);
                let y = of_tokens(out, &y, pass)?;
                ops::add(x, &y.transpose(1, 2)?.reshape(x.shape())?.contiguous()?, Activation::Identity)
            }
            Layers::Joint { qkv, out, order } => {
                // Where a head's queries, keys and values lie together, every head is as an image of its own.
                let (parts, heads) = match order {
                    AttentionOrder::Legacy => (images * self.heads, 1),
                    AttentionOrder::New => (images, self.heads),
                };
                let qkv = qkv.forward(&normal, pass)?.reshape((parts, (), positions))?;
                let y = ops::attention(&qkv, heads, scale, Order::Channels)?.reshape(x.shape())?;
                pass.hold([x, &qkv, &y]);
                pass.multiply(&y, 2 * positions);
                out.forward_add(&y, x, pass)
            }
        }
    }
}
