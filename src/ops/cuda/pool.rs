//! Launches of pool.cu.

use candle_core::{Result, Shape};

use super::{Gpu, Launch, View};
use crate::ops::pool::Windows;

/// A window and its moves; rows first.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Window {
    pub(in crate::ops) kernel: [usize; 2],
    pub(in crate::ops) stride: [usize; 2],
    pub(in crate::ops) padding: [usize; 2],
}

impl From<Windows> for Window {
    fn from(Windows { rows, columns }: Windows) -> Self {
        Self {
            kernel: [rows.kernel, columns.kernel],
            stride: [rows.stride, columns.stride],
            padding: [rows.padding, columns.padding],
        }
    }
}

impl Window {
    fn sizes(self, x: &Shape, y: &Shape) -> Result<([usize; 10], usize)> {
        let ((images, channels, height, width), (_, _, out_height, out_width)) = (x.dims4()?, y.dims4()?);
        let ([ky, kx], [sy, sx], [py, px]) = (self.kernel, self.stride, self.padding);
        Ok(([height, width, out_height, out_width, ky, kx, sy, sx, py, px], images * channels))
    }
}

/// `name` is `max_pool` or `avg_pool`; x (N, C, H, W) to `shape` (N, C, H', W').
pub(in crate::ops) fn forward<G: Gpu>(name: &str, x: View<'_, G>, shape: &Shape, window: Window) -> Result<G> {
    let (sizes, planes) = window.sizes(x.shape(), shape)?;
    let mut y = x.new_like(shape)?;
    let launch = Launch::new("pool", name, x.dtype())?;
    launch.sizes(sizes).size(planes).input(x).output(&mut y).each(x.device(), shape.elem_count())?;
    Ok(y)
}

/// (x, dY) to dX.
pub(in crate::ops) fn max_gradient<G: Gpu>(x: View<'_, G>, dy: View<'_, G>, window: Window) -> Result<G> {
    let (sizes, planes) = window.sizes(x.shape(), dy.shape())?;
    let mut dx = x.new_like(x.shape())?;
    let launch = Launch::new("pool", "max_pool_gradient", x.dtype())?;
    launch.sizes(sizes).size(planes).input(x).input(dy).output(&mut dx).each(x.device(), x.count())?;
    Ok(dx)
}

/// The mean of each window; padding counts as zeros when `with_padding`.
pub(in crate::ops) fn average<G: Gpu>(x: View<'_, G>, shape: &Shape, window: Window, with_padding: bool) -> Result<G> {
    let (sizes, planes) = window.sizes(x.shape(), shape)?;
    let mut y = x.new_like(shape)?;
    let launch = Launch::new("pool", "avg_pool", x.dtype())?.sizes(sizes).sizes([planes, with_padding.into()]);
    launch.input(x).output(&mut y).each(x.device(), shape.elem_count())?;
    Ok(y)
}

/// dX, of `shape`, of dY.
pub(in crate::ops) fn average_gradient<G: Gpu>(
    dy: View<'_, G>,
    shape: &Shape,
    window: Window,
    with_padding: bool,
) -> Result<G> {
    let (sizes, planes) = window.sizes(shape, dy.shape())?;
    let mut dx = dy.new_like(shape)?;
    let launch =
        Launch::new("pool", "avg_pool_gradient", dy.dtype())?.sizes(sizes).sizes([planes, with_padding.into()]);
    launch.input(dy).output(&mut dx).each(dy.device(), shape.elem_count())?;
    Ok(dx)
}

/// The mean of each plane of x (N, C, H, W).
pub(in crate::ops) fn global_average<G: Gpu>(x: View<'_, G>) -> Result<(G, Shape)> {
    let (images, channels, height, width) = x.shape().dims4()?;
    let shape = Shape::from((images, channels));
    let mut y = x.new_like(&shape)?;
    let launch = Launch::new("pool", "global_average", x.dtype())?.size(height * width).input(x).output(&mut y);
    launch.blocks(x.device(), images * channels)?;
    Ok((y, shape))
}

/// dX, of `shape`, of dY (N, C).
pub(in crate::ops) fn global_average_gradient<G: Gpu>(dy: View<'_, G>, shape: &Shape) -> Result<G> {
    let mut dx = dy.new_like(shape)?;
    let count = shape.elem_count();
    let launch = Launch::new("pool", "global_average_gradient", dy.dtype())?.sizes([count, count / dy.count()]);
    launch.input(dy).output(&mut dx).each(dy.device(), count)?;
    Ok(dx)
}
