//! The texture enhancement module: how often each similarity to the mean occurs in an image, and what that says of each pixel.
//!
//! 1. z = two convolutions of x; m = mean of z over pixels; M = cosine of each pixel of z and m.
//! 2. QCO-1D: M is quantised into levels; D = MLP of (level, share of the hits, m), one vector a level.
//! 3. D′ = attention among levels; each pixel receives the vectors of the levels that it hits.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::{LEAKY, Pointwise, Quantiser, Settings, conv_norm};
use crate::{
    nn::{Pass, layers::ConvNorm},
    ops::{self, Activation},
};

/// The module.
#[derive(Debug, Clone)]
pub struct Tem {
    quantiser: Quantiser,
    qco: Qco,
    k: Pointwise,
    q: Pointwise,
    v: Pointwise,
    out: ConvNorm,
}

/// The one-dimensional quantisation and counting operator and its layers.
#[derive(Debug, Clone)]
struct Qco {
    conv1: ConvNorm,
    conv2: Pointwise,
    f1: Pointwise,
    f2: Pointwise,
    out: ConvNorm,
}

impl Tem {
    /// Of these settings' width.
    pub fn new(settings: &Settings, vb: &VarBuilder) -> Result<Self> {
        let (width, half, quarter) = (settings.width, settings.width / 2, settings.width / 4);
        let qco = vb.pp("qco");
        let plain = |channels, name: &str| Pointwise::new(channels, Activation::Identity, &vb.pp(name));
        Ok(Self {
            quantiser: settings.quantiser(settings.levels),
            qco: Qco {
                conv1: conv_norm([width, width], 3, &qco.pp("conv1.0"))?,
                conv2: Pointwise::new([width, half], Activation::Identity, &qco.pp("conv2"))?,
                f1: Pointwise::new([2, quarter], LEAKY, &qco.pp("f1.0"))?,
                f2: Pointwise::new([quarter, half], Activation::Relu, &qco.pp("f2"))?,
                out: conv_norm([width, half], 1, &qco.pp("out"))?,
            },
            k: plain([half, half], "k")?,
            q: plain([half, half], "q")?,
            v: plain([half, half], "v")?,
            out: conv_norm([half, width], 1, &vb.pp("out"))?,
        })
    }

    /// (N, width, H, W) to the same shape.
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (images, _, height, width) = x.dims4()?;
        let (levels, similarities) = self.qco.forward(x, self.quantiser, pass)?;
        let row = |layer: &Pointwise| layer.forward(&levels, pass)?.squeeze(2);
        let (k, q, v) = (row(&self.k)?, row(&self.q)?, row(&self.v)?);
        let attention = ops::softmax(&product(&k.t()?, &q, pass)?)?;
        let mixed = product(&v, &attention.t()?, pass)?;
        let features = self.out.forward(&mixed.unsqueeze(2)?, Activation::Relu, pass)?.squeeze(2)?;
        let y = ops::redistribute(&features, &similarities, self.quantiser)?;
        y.reshape((images, y.dim(1)?, height, width))
    }

    /// From now on, inference uses the weights as they are now.
    pub(super) fn fold(&mut self) -> Result<()> {
        [&mut self.qco.conv1, &mut self.qco.out, &mut self.out].into_iter().try_for_each(ConvNorm::fold)
    }
}

impl Qco {
    /// A vector for each level, (N, width / 2, 1, levels), and each pixel's similarity to the mean, (N, H·W).
    fn forward(&self, x: &Tensor, quantiser: Quantiser, pass: &Pass) -> Result<(Tensor, Tensor)> {
        let x = self.conv2.forward(&self.conv1.forward(x, LEAKY, pass)?, pass)?;
        let (images, channels, _, _) = x.dims4()?;
        let mean = ops::global_avg_pool2d(&x)?.reshape((images, channels, 1, 1))?;
        let similarities = ops::cosine_similarity(&x, &mean)?.flatten_from(1)?;
        let counted = ops::quantise_and_count(&similarities, quantiser)?.unsqueeze(2)?;
        let counted = self.f2.forward(&self.f1.forward(&counted, pass)?, pass)?;
        let mean = mean.broadcast_as((images, channels, 1, quantiser.levels))?;
        let levels = self.out.forward(&ops::concat(&[&counted, &mean])?, Activation::Relu, pass)?;
        Ok((levels, similarities))
    }
}

/// Matrix products of a batch, in the type that the pass calculates in.
fn product(left: &Tensor, right: &Tensor, pass: &Pass) -> Result<Tensor> {
    pass.operand(left)?.matmul(&pass.operand(right)?)?.to_dtype(left.dtype())
}
