//! The pyramid texture feature extraction module: how often similarities of neighbouring pixels occur together, in cells of several sizes.
//!
//! x = 1×1 convolution of the input. For each scale s (QCO-2D): the similarity of each pixel to the mean of its cell, of s×s cells, is
//! quantised; the pairs of levels of neighbours are counted; each pair becomes a vector, MLP of (levels, share, mean), and these are averaged.
//! Branches are enlarged to the grid (bilinear, corners aligned) and fused. STLNet pools a grid to a multiple of the levels first, which
//! changes nothing at 32×32 and 64×64; here a scale must divide the grid instead.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use super::{LEAKY, Pointwise, Quantiser, Settings, conv_norm};
use crate::{
    nn::{
        Mode, Pass,
        layers::{BatchNorm2d, ConvNorm, within},
    },
    ops::{self, Activation, Convolution, Interpolation, Pool},
};

/// The module.
#[derive(Debug, Clone)]
pub struct Ptfem {
    conv: Pointwise,
    branches: Vec<Qco>,
    out: ConvNorm,
}

/// The two-dimensional quantisation and counting operator of one scale and its layers.
#[derive(Debug, Clone)]
struct Qco {
    scale: usize,
    quantiser: Quantiser,
    f1: Pointwise,
    f2: Pointwise,
    first: Shared,
    last: ConvNorm,
}

impl Ptfem {
    /// Of these settings' width.
    pub fn new(settings: &Settings, vb: &VarBuilder) -> Result<Self> {
        let (width, half) = (settings.width, settings.width / 2);
        let branches = settings.scales.iter().map(|scale| Qco::new(settings, *scale, &vb.pp(format!("qco_{scale}"))));
        Ok(Self {
            conv: Pointwise::new([2 * width, width], Activation::Identity, &vb.pp("conv"))?,
            branches: branches.collect::<Result<_>>()?,
            out: conv_norm([settings.scales.len() * half, width], 1, &vb.pp("out"))?,
        })
    }

    /// (N, 2·width, H, W) to (N, width, H, W).
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let x = self.conv.forward(x, pass)?;
        let (_, _, height, width) = x.dims4()?;
        let branches = self
            .branches
            .iter()
            .map(|branch| ops::resize(&branch.forward(&x, pass)?, (height, width), Interpolation::Bilinear, true));
        let branches = branches.collect::<Result<Vec<_>>>()?;
        self.out.forward(&ops::concat(&branches.iter().collect::<Vec<_>>())?, Activation::Relu, pass)
    }

    /// From now on, inference uses the weights as they are now.
    pub(super) fn fold(&mut self) -> Result<()> {
        let last = self.branches.iter_mut().map(|branch| &mut branch.last);
        last.chain([&mut self.out]).try_for_each(ConvNorm::fold)
    }
}

impl Qco {
    fn new(settings: &Settings, scale: usize, vb: &VarBuilder) -> Result<Self> {
        let (width, half, quarter) = (settings.width, settings.width / 2, settings.width / 4);
        Ok(Self {
            scale,
            quantiser: settings.quantiser(settings.cooccurrence_levels),
            f1: Pointwise::new([3, quarter], LEAKY, &vb.pp("f1.0"))?,
            f2: Pointwise::new([quarter, half], Activation::Relu, &vb.pp("f2"))?,
            first: Shared::new([width, half, half], &vb.pp("out.0"))?,
            last: conv_norm([half, half], 1, &vb.pp("out.1"))?,
        })
    }

    /// (N, width, H, W) to (N, width / 2, scale, scale).
    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (images, channels, height, width) = x.dims4()?;
        let (scale, cells) = (self.scale, self.scale * self.scale);
        let cell = [height / scale, width / scale];
        let mean = ops::avg_pool2d(x, Pool { kernel: cell, stride: cell, padding: [0; 2], ceil_mode: false }, true)?;
        let similarities = ops::cosine_similarity(x, &mean)?;
        let pairs = ops::cooccurrence(&similarities, scale, self.quantiser)?;
        let mean = mean.reshape((images, channels, cells, 1))?;
        let y = self.last.forward_mean(&self.features(&pairs, &mean, pass)?, pass)?;
        y.reshape((images, y.dim(1)?, scale, scale))
    }

    /// What the layers but the last make of `pairs` (N, 3, cells, pairs) and the cells' means (N, width, cells, 1): (N, width / 2, cells,
    /// pairs). While the network learns on a CPU, nothing is kept of what lies between.
    fn features(&self, pairs: &Tensor, mean: &Tensor, pass: &Pass) -> Result<Tensor> {
        let learns = matches!(pass.mode(), Mode::Train { .. });
        if learns && pass.is_plain() && !ops::is_on_gpu(pairs) {
            let [of_means, own] = self.first.weights(pass)?;
            let shared = ops::conv2d(mean, &of_means, None, Convolution::new(1, 0))?;
            let weights = [&self.f1.conv.weight(pass)?, &self.f2.conv.weight(pass)?, &own];
            let features = ops::pair_features(pairs, weights, [self.f1.activation, self.f2.activation], &shared)?;
            return self.first.norm.forward(&features, Activation::Relu, pass);
        }
        let pairs = self.f2.forward(&self.f1.forward(pairs, pass)?, pass)?;
        self.first.forward(&pairs, mean, pass)
    }
}

/// A 1×1 convolution without bias of (what a cell's pairs share, what each pair has), concatenated, batch normalisation and ReLU.
///
/// What is shared is multiplied once a cell, not once a pair: the concatenation would be the largest tensor of the network.
#[derive(Debug, Clone)]
struct Shared {
    weight: Tensor,
    /// Input channels that are shared, and others.
    inputs: [usize; 2],
    norm: BatchNorm2d,
}

impl Shared {
    fn new([shared, own, outputs]: [usize; 3], vb: &VarBuilder) -> Result<Self> {
        let inputs = shared + own;
        let weight = vb.pp("conv").get_with_hints((outputs, inputs, 1, 1), "weight", within(inputs))?;
        Ok(Self { weight, inputs: [shared, own], norm: BatchNorm2d::new(outputs, &vb.pp("bn"))? })
    }

    /// The weights of what is shared, and of the rest.
    fn weights(&self, pass: &Pass) -> Result<[Tensor; 2]> {
        let (weight, [shared, own]) = (pass.seen(&self.weight), self.inputs);
        Ok([weight.narrow(1, 0, shared)?, weight.narrow(1, shared, own)?])
    }

    /// `pairs` (N, own, cells, pairs) and `cells` (N, shared, cells, 1) to (N, outputs, cells, pairs).
    fn forward(&self, pairs: &Tensor, cells: &Tensor, pass: &Pass) -> Result<Tensor> {
        let [of_cells, of_pairs] = self.weights(pass)?;
        let part = |x: &Tensor, weight: &Tensor| {
            let y = ops::conv2d(&pass.operand(x)?, &pass.operand(weight)?, None, Convolution::new(1, 0))?;
            pass.hold([x, &y]);
            y.to_dtype(x.dtype())
        };
        let (shared, own) = (part(cells, &of_cells)?, part(pairs, &of_pairs)?);
        self.norm.forward(&own.broadcast_add(&shared)?, Activation::Relu, pass)
    }
}
