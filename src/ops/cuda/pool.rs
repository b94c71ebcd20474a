//! Launches of pool.cu.

use candle_core::{Result, Shape};

use super::{Gpu, Launch, View};
use crate::ops::pool::Windows;

impl Windows {
    /// `SIZES` of pool.cu.
    fn words(self) -> [usize; 10] {
        let (r, c) = (self.rows, self.columns);
        [r.size, c.size, r.count, c.count, r.kernel, c.kernel, r.stride, c.stride, r.padding, c.padding]
    }
}

/// The largest of each window: x (N, C, H, W) to `shape` (N, C, H', W').
pub(in crate::ops) fn max<G: Gpu>(x: View<'_, G>, shape: &Shape, windows: Windows) -> Result<G> {
    let planes = shape.elem_count() / windows.count();
    let mut y = x.new_like(shape)?;
    let launch = Launch::new("pool", "max_pool", x.dtype())?;
    launch.sizes(windows.words()).size(planes).input(x).output(&mut y).each(x.device(), shape.elem_count())?;
    Ok(y)
}

/// Of each window of x, what lies where the largest of `like` is.
pub(in crate::ops) fn max_like<G: Gpu>(
    like: View<'_, G>,
    x: View<'_, G>,
    shape: &Shape,
    windows: Windows,
) -> Result<G> {
    let planes = shape.elem_count() / windows.count();
    let mut y = x.new_like(shape)?;
    let launch = Launch::new("pool", "max_pool_like", x.dtype())?.sizes(windows.words()).size(planes);
    launch.input(like).input(x).output(&mut y).each(x.device(), shape.elem_count())?;
    Ok(y)
}

/// (x, dY) to dX.
pub(in crate::ops) fn max_gradient<G: Gpu>(x: View<'_, G>, dy: View<'_, G>, windows: Windows) -> Result<G> {
    let planes = x.count() / windows.pixels();
    let mut dx = x.new_like(x.shape())?;
    let launch = Launch::new("pool", "max_pool_gradient", x.dtype())?;
    launch.sizes(windows.words()).size(planes).input(x).input(dy).output(&mut dx).each(x.device(), x.count())?;
    Ok(dx)
}

/// The mean of each window; padding counts as zeros when `with_padding`.
pub(in crate::ops) fn average<G: Gpu>(
    x: View<'_, G>,
    shape: &Shape,
    windows: Windows,
    with_padding: bool,
) -> Result<G> {
    let planes = shape.elem_count() / windows.count();
    let mut y = x.new_like(shape)?;
    let launch =
        Launch::new("pool", "avg_pool", x.dtype())?.sizes(windows.words()).sizes([planes, with_padding.into()]);
    launch.input(x).output(&mut y).each(x.device(), shape.elem_count())?;
    Ok(y)
}

/// dX, of `shape`, of dY.
pub(in crate::ops) fn average_gradient<G: Gpu>(
    dy: View<'_, G>,
    shape: &Shape,
    windows: Windows,
    with_padding: bool,
) -> Result<G> {
    let planes = shape.elem_count() / windows.pixels();
    let mut dx = dy.new_like(shape)?;
    let launch = Launch::new("pool", "avg_pool_gradient", dy.dtype())?
        .sizes(windows.words())
        .sizes([planes, with_padding.into()]);
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
