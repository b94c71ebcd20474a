//! Launches of batch_norm.cu.

use candle_core::{DType, Layout, Result, Shape};

use super::{Gpu, Launch, View};
use crate::ops::Activation;

/// How the sums over channels are laid out.
struct Sums {
    images: usize,
    channels: usize,
    pixels: usize,
    /// Blocks a channel: enough for about 1024 together, none with less than four elements a thread. Depends on the shape only,
    /// so that sums have one order.
    splits: usize,
}

impl Sums {
    fn new(shape: &Shape) -> Result<Self> {
        let (images, channels, height, width) = shape.dims4()?;
        let pixels = height * width;
        let most = (images * pixels).div_ceil(4 * super::THREADS).max(1);
        Ok(Self { images, channels, pixels, splits: (1024 / channels.max(1)).clamp(1, most) })
    }

    fn sizes(&self) -> [usize; 4] {
        [self.images, self.channels, self.pixels, self.splits]
    }

    fn parts<G: Gpu>(&self, device: &G::Device) -> Result<(G, Layout)> {
        let shape = Shape::from((2, self.channels, self.splits));
        Ok((G::uninitialised(device, &shape, DType::F64)?, Layout::contiguous(shape)))
    }

    fn blocks(&self) -> usize {
        self.channels * self.splits
    }
}

/// What a batch normalisation is besides its tensors.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Settings {
    pub(in crate::ops) epsilon: f64,
    pub(in crate::ops) activation: Activation,
}

/// (2, C): mean and biased variance of each channel.
pub(in crate::ops) fn moments<G: Gpu>(x: View<'_, G>) -> Result<(G, Shape)> {
    let sums = Sums::new(x.shape())?;
    let (device, shape) = (x.device(), Shape::from((2, sums.channels)));
    let (mut parts, layout) = sums.parts::<G>(device)?;
    let launch = Launch::new("batch_norm", "moment_parts", x.dtype())?;
    launch.sizes(sums.sizes()).input(x).output(&mut parts).blocks(device, sums.blocks())?;
    let mut moments = x.new_like(&shape)?;
    let launch = Launch::new("batch_norm", "moments", x.dtype())?;
    let parts = View { memory: &parts, layout: &layout };
    launch.sizes(sums.sizes()).input(x).input(parts).output(&mut moments).each(device, sums.channels)?;
    Ok((moments, shape))
}

/// y of x, weight (C), bias (C) and moments (2, C).
pub(in crate::ops) fn forward<G: Gpu>(
    x: View<'_, G>,
    weight: View<'_, G>,
    bias: View<'_, G>,
    moments: View<'_, G>,
    settings: Settings,
) -> Result<G> {
    let sums = Sums::new(x.shape())?;
    let mut y = x.new_like(x.shape())?;
    Launch::new("batch_norm", "batch_norm", x.dtype())?
        .sizes([x.count(), sums.channels, sums.pixels])
        .activation(settings.activation)
        .real(settings.epsilon)
        .input(x)
        .input(weight)
        .input(bias)
        .input(moments)
        .output(&mut y)
        .each(x.device(), x.count())?;
    Ok(y)
}

/// (x, y, dY) to dX, dW and db, packed; `share` is 1 / (N·H·W) where the gradient flows through the moments, else 0.
pub(in crate::ops) fn gradient<G: Gpu>(
    [x, y, dy]: [View<'_, G>; 3],
    weight: View<'_, G>,
    moments: View<'_, G>,
    share: f64,
    settings: Settings,
) -> Result<(G, Shape)> {
    let sizes = Sums::new(x.shape())?;
    let device = x.device();
    let (mut parts, layout) = sizes.parts::<G>(device)?;
    Launch::new("batch_norm", "batch_norm_gradient_parts", x.dtype())?
        .sizes(sizes.sizes())
        .activation(settings.activation)
        .input(x)
        .input(y)
        .input(dy)
        .input(moments)
        .output(&mut parts)
        .blocks(device, sizes.blocks())?;
    let sums_layout = Layout::contiguous((2, sizes.channels));
    let mut sums = x.new_like(sums_layout.shape())?;
    Launch::new("batch_norm", "batch_norm_gradient_sums", x.dtype())?
        .sizes([sizes.channels, sizes.splits])
        .real(settings.epsilon)
        .input(moments)
        .input(View { memory: &parts, layout: &layout })
        .output(&mut sums)
        .each(device, sizes.channels)?;
    let shape = Shape::from(x.count() + 2 * sizes.channels);
    let mut packed = x.new_like(&shape)?;
    Launch::new("batch_norm", "batch_norm_input_gradient", x.dtype())?
        .sizes([x.count(), sizes.channels, sizes.pixels])
        .activation(settings.activation)
        .real(settings.epsilon)
        .real(share)
        .input(x)
        .input(y)
        .input(dy)
        .input(weight)
        .input(moments)
        .input(View { memory: &sums, layout: &sums_layout })
        .output(&mut packed)
        .each(device, shape.elem_count())?;
    Ok((packed, shape))
}
