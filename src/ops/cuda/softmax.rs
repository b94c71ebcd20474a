//! Launches of softmax.cu.

use candle_core::{DType, Layout, Result, Shape};

use super::{Gpu, Launch, View};

/// Softmax over rows of `columns` elements.
pub(in crate::ops) fn softmax<G: Gpu>(x: View<'_, G>, columns: usize) -> Result<G> {
    let mut y = x.new_like(x.shape())?;
    let launch = Launch::new("softmax", "softmax", x.dtype())?.size(columns).input(x).output(&mut y);
    launch.blocks(x.device(), x.count() / columns)?;
    Ok(y)
}

/// dx of y and dy.
pub(in crate::ops) fn gradient<G: Gpu>(y: View<'_, G>, dy: View<'_, G>, columns: usize) -> Result<G> {
    let mut dx = y.new_like(y.shape())?;
    let launch = Launch::new("softmax", "softmax_gradient", y.dtype())?.size(columns).input(y).input(dy);
    launch.output(&mut dx).blocks(y.device(), y.count() / columns)?;
    Ok(dx)
}

/// The mean cross-entropy of `logits` (N, K) against `labels` (N) u32; `own` and `every` are the target's shares of the label and
/// of every class. NaN if a label is no class: to look first would wait for the device.
pub(in crate::ops) fn cross_entropy<G: Gpu>(
    logits: View<'_, G>,
    labels: View<'_, G>,
    [own, every]: [f64; 2],
) -> Result<G> {
    let (images, classes) = logits.shape().dims2()?;
    let device = logits.device();
    let layout = Layout::contiguous(images);
    let mut losses = G::uninitialised(device, layout.shape(), DType::F64)?;
    Launch::new("softmax", "cross_entropy", logits.dtype())?
        .size(classes)
        .real(own)
        .real(every)
        .input(logits)
        .input(labels)
        .output(&mut losses)
        .blocks(device, images)?;
    let mut loss = logits.new_like(&Shape::from(()))?;
    let launch = Launch::new("softmax", "mean_loss", logits.dtype())?.size(images);
    launch.input(View { memory: &losses, layout: &layout }).output(&mut loss).blocks(device, 1)?;
    Ok(loss)
}

/// dLogits of the loss's gradient, a scalar.
pub(in crate::ops) fn cross_entropy_gradient<G: Gpu>(
    logits: View<'_, G>,
    labels: View<'_, G>,
    dloss: View<'_, G>,
    [own, every]: [f64; 2],
) -> Result<G> {
    let (images, classes) = logits.shape().dims2()?;
    let mut gradient = logits.new_like(logits.shape())?;
    Launch::new("softmax", "cross_entropy_gradient", logits.dtype())?
        .sizes([images, classes])
        .real(own)
        .real(every)
        .input(logits)
        .input(labels)
        .input(dloss)
        .output(&mut gradient)
        .blocks(logits.device(), images)?;
    Ok(gradient)
}
