//! Launches of group_norm.cu.

use candle_core::{DType, Layout, Result, Shape};

use super::{Gpu, Launch, View};

/// What a group normalisation is besides its tensors.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Settings {
    pub(in crate::ops) groups: usize,
    pub(in crate::ops) epsilon: f64,
    pub(in crate::ops) silu: bool,
}

impl Settings {
    /// `SIZES` of group_norm.cu: images, channels, channels of a group, elements of a channel of an image.
    fn sizes(&self, x: &Shape) -> [usize; 4] {
        let [images, channels] = [x.dims()[0], x.dims()[1]];
        [images, channels, channels / self.groups, x.dims()[2..].iter().product()]
    }

    /// (2, N·groups) f64: mean and 1/√(var + ε) of each group in each image.
    fn moments<G: Gpu>(&self, x: View<'_, G>) -> Result<(G, Layout)> {
        let slabs = x.shape().dims()[0] * self.groups;
        let (mut moments, layout) = doubles::<G>(x.device(), slabs)?;
        let launch = Launch::new("group_norm", "group_moments", x.dtype())?.sizes(self.sizes(x.shape()));
        launch.real(self.epsilon).input(x).output(&mut moments).blocks(x.device(), slabs)?;
        Ok((moments, layout))
    }
}

fn doubles<G: Gpu>(device: &G::Device, count: usize) -> Result<(G, Layout)> {
    let shape = Shape::from((2, count));
    Ok((G::uninitialised(device, &shape, DType::F64)?, Layout::contiguous(shape)))
}

/// y of x, weight (C) and bias (C).
pub(in crate::ops) fn forward<G: Gpu>(
    x: View<'_, G>,
    weight: View<'_, G>,
    bias: View<'_, G>,
    settings: Settings,
) -> Result<G> {
    let (moments, layout) = settings.moments(x)?;
    let mut y = x.new_like(x.shape())?;
    Launch::new("group_norm", "group_norm", x.dtype())?
        .sizes(settings.sizes(x.shape()))
        .size(settings.silu.into())
        .input(x)
        .input(weight)
        .input(bias)
        .input(View { memory: &moments, layout: &layout })
        .output(&mut y)
        .each(x.device(), x.count())?;
    Ok(y)
}

/// (x, dY) to dX, dW and db, packed.
pub(in crate::ops) fn gradient<G: Gpu>(
    [x, dy]: [View<'_, G>; 2],
    weight: View<'_, G>,
    bias: View<'_, G>,
    settings: Settings,
) -> Result<(G, Shape)> {
    let (device, sizes, silu) = (x.device(), settings.sizes(x.shape()), usize::from(settings.silu));
    let [images, channels, ..] = sizes;
    let (moments, moments_layout) = settings.moments(x)?;
    let moments = View { memory: &moments, layout: &moments_layout };
    let (mut sums, sums_layout) = doubles::<G>(device, images * channels)?;
    Launch::new("group_norm", "group_norm_plane_sums", x.dtype())?
        .sizes(sizes)
        .size(silu)
        .input(x)
        .input(dy)
        .input(weight)
        .input(bias)
        .input(moments)
        .output(&mut sums)
        .blocks(device, images * channels)?;
    let sums = View { memory: &sums, layout: &sums_layout };
    let (mut means, means_layout) = doubles::<G>(device, images * settings.groups)?;
    Launch::new("group_norm", "group_norm_slab_means", x.dtype())?
        .sizes(sizes)
        .input(weight)
        .input(sums)
        .output(&mut means)
        .each(device, images * settings.groups)?;
    let shape = Shape::from(x.count() + 2 * channels);
    let mut packed = x.new_like(&shape)?;
    Launch::new("group_norm", "group_norm_input_gradient", x.dtype())?
        .sizes(sizes)
        .size(silu)
        .input(x)
        .input(dy)
        .input(weight)
        .input(bias)
        .input(moments)
        .input(View { memory: &means, layout: &means_layout })
        .output(&mut packed)
        .each(device, x.count())?;
    let launch = Launch::new("group_norm", "group_norm_weight_gradient", x.dtype())?;
    launch.sizes(sizes).input(sums).output(&mut packed).each(device, channels)?;
    Ok((packed, shape))
}
