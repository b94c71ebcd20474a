//! Launches of resize.cu.

use candle_core::{Result, Shape};

use super::{Gpu, Launch, View};

/// How an output pixel is made from input pixels; `Kind` of resize.cu.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) enum Kind {
    Nearest = 0,
    Bilinear = 1,
    BilinearCorners = 2,
}

/// `SIZES` of resize.cu, and the number of planes; `x` and `y` are the shapes before and after.
fn sizes(kind: Kind, x: &Shape, y: &Shape) -> Result<[usize; 6]> {
    let ((images, channels, height, width), (_, _, new_height, new_width)) = (x.dims4()?, y.dims4()?);
    Ok([kind as usize, height, new_height, width, new_width, images * channels])
}

/// x resized to `shape`.
pub(in crate::ops) fn forward<G: Gpu>(x: View<'_, G>, shape: &Shape, kind: Kind) -> Result<G> {
    let mut y = x.new_like(shape)?;
    let launch = Launch::new("resize", "resize", x.dtype())?.sizes(sizes(kind, x.shape(), shape)?);
    launch.input(x).output(&mut y).each(x.device(), shape.elem_count())?;
    Ok(y)
}

/// dX, of `shape`, of dY.
pub(in crate::ops) fn gradient<G: Gpu>(dy: View<'_, G>, shape: &Shape, kind: Kind) -> Result<G> {
    let mut dx = dy.new_like(shape)?;
    let launch = Launch::new("resize", "resize_gradient", dy.dtype())?.sizes(sizes(kind, shape, dy.shape())?);
    launch.input(dy).output(&mut dx).each(dy.device(), shape.elem_count())?;
    Ok(dx)
}
