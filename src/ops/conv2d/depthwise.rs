//! Depthwise convolution: each channel has a kernel of its own, so there is nothing to share between channels, and
//! neighbouring pixels of a row are computed together instead.
//!
//! Rows are taken from planes with margins of zeros. With a stride, a row is first dealt out by column phase, so that the
//! pixels that a tap needs are neighbours whatever the stride.

use rayon::prelude::*;

use super::{direct::Ending, geometry::Geometry};
use crate::ops::{Float, conv2d::direct::finish};

/// One plane with margins, its columns dealt out by their phase: column c of the image is number c / stride of phase
/// c mod stride.
struct Plane<T> {
    values: Vec<T>,
    /// Elements of one phase of a row.
    pitch: usize,
    stride: usize,
}

impl<T: Float> Plane<T> {
    fn new(g: &Geometry) -> Self {
        let stride = g.convolution.stride[1];
        let pitch = (g.input[1] + 2 * g.convolution.padding[1]).div_ceil(stride);
        let rows = g.input[0] + 2 * g.convolution.padding[0];
        Self { values: vec![T::zero(); rows * stride * pitch], pitch, stride }
    }

    /// Where row `row` and column `column` of the plane with margins are.
    fn at(&self, row: usize, column: usize) -> usize {
        (row * self.stride + column % self.stride) * self.pitch + column / self.stride
    }

    fn fill(&mut self, g: &Geometry, plane: &[T]) {
        let [top, left] = g.convolution.padding;
        for (r, row) in plane.chunks_exact(g.input[1]).enumerate() {
            if self.stride == 1 {
                let at = self.at(r + top, left);
                self.values[at..at + row.len()].copy_from_slice(row);
            } else {
                for (c, value) in row.iter().enumerate() {
                    let at = self.at(r + top, c + left);
                    self.values[at] = *value;
                }
            }
        }
    }

    fn take(&self, g: &Geometry, plane: &mut [T]) {
        let [top, left] = g.convolution.padding;
        for (r, row) in plane.chunks_exact_mut(g.input[1]).enumerate() {
            for (c, value) in row.iter_mut().enumerate() {
                *value = self.values[self.at(r + top, c + left)];
            }
        }
    }

    /// For each tap, where its input of the first pixel of output row `row` is.
    fn starts(&self, g: &Geometry, row: usize) -> impl Iterator<Item = usize> {
        let (stride, dilation) = (g.convolution.stride, g.convolution.dilation);
        let [kh, kw] = g.kernel;
        (0..kh).flat_map(move |i| (0..kw).map(move |j| self.at(row * stride[0] + i * dilation[0], j * dilation[1])))
    }
}

/// As [`super::direct::forward`].
pub(super) fn forward<T: Float>(
    g: &Geometry,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    ending: Ending<'_, T>,
) -> Vec<T> {
    let (pixels, taps) = (g.pixels(), g.taps());
    let mut y = vec![T::zero(); g.images * g.outputs * pixels];
    let planes = y.par_chunks_mut(pixels).zip(x.par_chunks(g.input_pixels())).enumerate();
    planes.with_min_len(4).for_each_init(
        || Plane::new(g),
        |plane, (n, (y, x))| {
            let channel = n % g.outputs;
            let weight = &weight[channel * taps..][..taps];
            plane.fill(g, x);
            for (r, y) in y.chunks_exact_mut(g.output[1]).enumerate() {
                y.fill(bias.map_or(T::zero(), |bias| bias[channel]));
                for (start, weight) in plane.starts(g, r).zip(weight) {
                    y.iter_mut().zip(&plane.values[start..]).for_each(|(y, x)| *y += *weight * *x);
                }
            }
            finish(y, n * pixels, ending);
        },
    );
    y
}

/// As [`super::direct::input_gradient`], for groups of one input and any number of outputs: with a single channel there is as
/// little to share.
pub(super) fn input_gradient<T: Float>(g: &Geometry, dy: &[T], weight: &[T]) -> Vec<T> {
    let (pixels, taps, outputs) = (g.pixels(), g.taps(), g.group_outputs());
    let mut dx = vec![T::zero(); g.images * g.inputs * g.input_pixels()];
    let planes = dx.par_chunks_mut(g.input_pixels()).zip(dy.par_chunks(outputs * pixels)).enumerate();
    planes.with_min_len(4).for_each_init(
        || Plane::new(g),
        |plane, (n, (dx, dy))| {
            let weight = &weight[n % g.inputs * outputs * taps..][..outputs * taps];
            plane.values.fill(T::zero());
            for (dy, weight) in dy.chunks_exact(pixels).zip(weight.chunks_exact(taps)) {
                for (r, dy) in dy.chunks_exact(g.output[1]).enumerate() {
                    let starts: Vec<usize> = plane.starts(g, r).collect();
                    for (start, weight) in starts.into_iter().zip(weight) {
                        plane.values[start..].iter_mut().zip(dy).for_each(|(dx, dy)| *dx += *weight * *dy);
                    }
                }
            }
            plane.take(g, dx);
        },
    );
    dx
}

/// As [`super::direct::weight_gradient`].
pub(super) fn weight_gradient<T: Float>(g: &Geometry, dy: &[T], x: &[T]) -> Vec<T> {
    let (pixels, input_pixels, taps) = (g.pixels(), g.input_pixels(), g.taps());
    let mut dw = vec![T::zero(); g.weights()];
    dw.par_chunks_mut(taps).enumerate().for_each_init(
        || Plane::new(g),
        |plane, (channel, dw)| {
            for n in (channel..g.images * g.outputs).step_by(g.outputs) {
                plane.fill(g, &x[n * input_pixels..][..input_pixels]);
                for (r, dy) in dy[n * pixels..][..pixels].chunks_exact(g.output[1]).enumerate() {
                    for (start, dw) in plane.starts(g, r).zip(dw.iter_mut()) {
                        *dw += dot(dy, &plane.values[start..]);
                    }
                }
            }
        },
    );
    dw
}

/// In eight interleaved parts, so that it vectorises.
fn dot<T: Float>(a: &[T], b: &[T]) -> T {
    let mut parts = [T::zero(); 8];
    let (chunks, b_chunks) = (a.chunks_exact(8), b[..a.len()].chunks_exact(8));
    let rest = chunks.remainder().iter().zip(b_chunks.remainder()).fold(T::zero(), |sum, (a, b)| sum + *a * *b);
    for (a, b) in chunks.zip(b_chunks) {
        for ((part, a), b) in parts.iter_mut().zip(a).zip(b) {
            *part += *a * *b;
        }
    }
    parts.into_iter().fold(rest, |sum, part| sum + part)
}
