//! Convolution as a matrix product over unrolled patches.
//!
//! y[n, o] = Σ_c Σ_ij w[o, c, i, j] · x[n, c, s·r + i − p, s·q + j − p] + b[o]
//!
//! An image becomes a matrix with one row per tap (c, i, j) and one column per output pixel ("im2col"), so that
//! forward, input gradient and weight gradient are one matrix product each: Y = W·X, dX = fold(Wᵀ·dY), dW = Σ dY·Xᵀ.
//! candle's own backward is a loop of dot products, several times slower, and always computes dX, even for the images.
//! Images are split into chunks that run in parallel; within a chunk, small images share a product.

use candle_core::{CpuStorage, CustomOp2, CustomOp3, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{
    Float, by_float, elements,
    gemm::{Matrix, matmul},
    patches::Patches,
    sum,
};

/// How a convolution moves over its input; rows first in every pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Convolution {
    /// Input pixels between neighbouring output pixels.
    pub stride: [usize; 2],
    /// Zeros added before and after each axis.
    pub padding: [usize; 2],
    /// Input pixels between neighbouring taps of the kernel.
    pub dilation: [usize; 2],
    /// Groups of channels that do not see each other; as many as there are channels makes it depthwise.
    pub groups: usize,
}

impl Convolution {
    /// The same stride and padding on both axes, no dilation, one group.
    pub const fn new(stride: usize, padding: usize) -> Self {
        Self { stride: [stride; 2], padding: [padding; 2], dilation: [1; 2], groups: 1 }
    }

    /// The same with dilation.
    pub const fn dilated(self, dilation: usize) -> Self {
        Self { dilation: [dilation; 2], ..self }
    }

    /// The same with groups.
    pub const fn grouped(self, groups: usize) -> Self {
        Self { groups, ..self }
    }

    /// Output pixels along an axis of `size` pixels under `kernel` taps; `None` when the kernel does not fit.
    pub(super) fn output(&self, axis: usize, size: usize, kernel: usize) -> Option<usize> {
        let padded = self.padding[axis].checked_mul(2)?.checked_add(size)?;
        let reach = kernel.checked_sub(1)?.checked_mul(self.dilation[axis])?.checked_add(1)?;
        let (stride, dilation) = (self.stride[axis], self.dilation[axis]);
        if stride == 0 || dilation == 0 || reach > padded { None } else { Some((padded - reach) / stride + 1) }
    }
}

/// Two-dimensional convolution (cross-correlation, as PyTorch's `conv2d`).
///
/// `x`: (N, C, H, W); `weight`: (O, C/groups, kh, kw); `bias`: (O); result: (N, O, H', W') with
/// H' = (H + 2·padding − dilation·(kh − 1) − 1) / stride + 1. f32 or f64. The gradient with respect to `x` is computed only
/// when something upstream needs it.
///
/// # Errors
/// When the shapes do not fit together, a stride, dilation or group count is 0, or the batch is empty.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, convolution: Convolution) -> Result<Tensor> {
    if convolution.groups > 1 {
        let one = Convolution { groups: 1, ..convolution };
        let (xs, weights) = (x.chunk(convolution.groups, 1)?, weight.chunk(convolution.groups, 0)?);
        let parts = xs.iter().zip(&weights).map(|(x, weight)| conv2d(x, weight, None, one));
        let y = Tensor::cat(&parts.collect::<Result<Vec<_>>>()?, 1)?;
        return match bias {
            Some(bias) => y.broadcast_add(&bias.reshape((1, (), 1, 1))?),
            None => Ok(y),
        };
    }
    let patches = Patches::new(x, weight, convolution)?;
    if let Some(bias) = bias
        && bias.dims() != [patches.outputs]
    {
        bail!("conv2d: bias has shape {:?}, the weight has {} output channels", bias.dims(), patches.outputs);
    }
    let op = Conv2d { patches, input_needs_gradient: x.track_op() };
    let (x, weight) = (x.contiguous()?, weight.contiguous()?);
    match bias {
        Some(bias) => x.apply_op3(&weight, &bias.contiguous()?, op),
        None => x.apply_op2(&weight, op),
    }
}

/// The three matrix products of a convolution, over chunks of images in parallel.
impl Patches {
    /// Images in one parallel task: a sixteenth of the batch, whatever the number of threads.
    fn chunk(&self) -> usize {
        self.images.div_ceil(16).max(1)
    }

    /// Images in one matrix product: enough for about 256 columns, so that small images use the product well.
    fn group(&self) -> usize {
        256_usize.div_ceil(self.pixels()).clamp(1, self.chunk())
    }

    fn forward<T: Float>(&self, x: &[T], weight: &[T], bias: Option<&[T]>) -> Vec<T> {
        let (pixels, image, out_image) = (self.pixels(), self.image(), self.outputs * self.pixels());
        let mut y = vec![T::zero(); self.images * out_image];
        let weight = Matrix::new(weight, self.outputs, self.taps());
        let chunks = y.par_chunks_mut(self.chunk() * out_image).zip(x.par_chunks(self.chunk() * image));
        chunks.for_each(|(y, x)| {
            let (mut unfolded, mut product) = (Vec::new(), Vec::new());
            for (y, x) in y.chunks_mut(self.group() * out_image).zip(x.chunks(self.group() * image)) {
                let columns = y.len() / self.outputs;
                let patches = Matrix::new(self.unfold(x, &mut unfolded), self.taps(), columns);
                if columns == pixels {
                    matmul(y, false, weight, patches);
                } else {
                    product.resize(y.len(), T::zero());
                    matmul(&mut product, false, weight, patches);
                    self.images_first(&product, y);
                }
                if let Some(bias) = bias {
                    for (plane, bias) in y.chunks_exact_mut(pixels).zip(bias.iter().cycle()) {
                        plane.iter_mut().for_each(|value| *value += *bias);
                    }
                }
            }
        });
        y
    }

    fn input_gradient<T: Float>(&self, dy: &[T], weight: &[T]) -> Vec<T> {
        let (image, out_image) = (self.image(), self.outputs * self.pixels());
        let mut dx = vec![T::zero(); self.images * image];
        let weight = Matrix::new(weight, self.outputs, self.taps()).transposed();
        let chunks = dx.par_chunks_mut(self.chunk() * image).zip(dy.par_chunks(self.chunk() * out_image));
        chunks.for_each(|(dx, dy)| {
            let (mut patches, mut gathered) = (Vec::new(), Vec::new());
            for (dx, dy) in dx.chunks_mut(self.group() * image).zip(dy.chunks(self.group() * out_image)) {
                let columns = dy.len() / self.outputs;
                let dy = Matrix::new(self.channels_first(dy, &mut gathered), self.outputs, columns);
                patches.resize(self.taps() * columns, T::zero());
                matmul(&mut patches, false, weight, dy);
                self.fold(&patches, dx);
            }
        });
        dx
    }

    fn weight_gradient<T: Float>(&self, dy: &[T], x: &[T]) -> Vec<T> {
        let (image, out_image, taps) = (self.image(), self.outputs * self.pixels(), self.taps());
        let chunks = dy.par_chunks(self.chunk() * out_image).zip(x.par_chunks(self.chunk() * image));
        let partial = chunks.map(|(dy, x)| {
            let mut dw = vec![T::zero(); self.outputs * taps];
            let (mut unfolded, mut gathered) = (Vec::new(), Vec::new());
            for (dy, x) in dy.chunks(self.group() * out_image).zip(x.chunks(self.group() * image)) {
                let columns = dy.len() / self.outputs;
                let patches = Matrix::new(self.unfold(x, &mut unfolded), taps, columns);
                let dy = Matrix::new(self.channels_first(dy, &mut gathered), self.outputs, columns);
                matmul(&mut dw, true, dy, patches.transposed());
            }
            dw
        });
        let partial: Vec<Vec<T>> = partial.collect();
        // Chunk after chunk, whichever finished first: the order of a sum is part of its result.
        let mut total = vec![T::zero(); self.outputs * taps];
        for part in partial {
            total.iter_mut().zip(part).for_each(|(total, part)| *total += part);
        }
        total
    }

    fn bias_gradient<T: Float>(&self, dy: &[T]) -> Vec<T> {
        let mut total = vec![0.0; self.outputs];
        for image in dy.chunks_exact(self.outputs * self.pixels()) {
            for (total, plane) in total.iter_mut().zip(image.chunks_exact(self.pixels())) {
                *total += sum(plane);
            }
        }
        total.into_iter().map(T::from_f64).collect()
    }
}

struct Conv2d {
    patches: Patches,
    input_needs_gradient: bool,
}

impl Conv2d {
    fn gradients(&self, x: &Tensor, weight: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Tensor)> {
        let patches = self.patches;
        let input = match self.input_needs_gradient {
            true => Some(gradient.apply_op2_no_bwd(weight, &InputGradient(patches))?),
            false => None,
        };
        Ok((input, gradient.apply_op2_no_bwd(x, &WeightGradient(patches))?))
    }

    fn forward<T: Float>(
        &self,
        (x, x_layout): (&CpuStorage, &Layout),
        (weight, weight_layout): (&CpuStorage, &Layout),
        bias: Option<(&CpuStorage, &Layout)>,
    ) -> Result<(CpuStorage, Shape)> {
        let p = &self.patches;
        let bias = bias.map(|(bias, layout)| elements::<T>(bias, layout)).transpose()?;
        let y = p.forward(elements::<T>(x, x_layout)?, elements(weight, weight_layout)?, bias);
        Ok((T::to_cpu_storage_owned(y), (p.images, p.outputs, p.out_height, p.out_width).into()))
    }

    fn name(&self) -> &'static str {
        "conv2d"
    }
}

impl CustomOp2 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(&self, x: &CpuStorage, xl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        by_float!(x, self.forward((x, xl), (w, wl), None))
    }

    fn bwd(&self, x: &Tensor, w: &Tensor, _: &Tensor, gradient: &Tensor) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let (dx, dw) = self.gradients(x, w, &gradient.contiguous()?)?;
        Ok((dx, Some(dw)))
    }
}

impl CustomOp3 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        xl: &Layout,
        w: &CpuStorage,
        wl: &Layout,
        b: &CpuStorage,
        bl: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        by_float!(x, self.forward((x, xl), (w, wl), Some((b, bl))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        _: &Tensor,
        gradient: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let gradient = gradient.contiguous()?;
        let (dx, dw) = self.gradients(x, w, &gradient)?;
        Ok((dx, Some(dw), Some(gradient.apply_op1_no_bwd(&BiasGradient(self.patches))?)))
    }
}

/// (dY, W) to dX.
struct InputGradient(Patches);

impl InputGradient {
    fn run<T: Float>(&self, dy: &CpuStorage, dyl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        let dx = self.0.input_gradient(elements::<T>(dy, dyl)?, elements(w, wl)?);
        Ok((T::to_cpu_storage_owned(dx), (self.0.images, self.0.inputs, self.0.height, self.0.width).into()))
    }
}

impl CustomOp2 for InputGradient {
    fn name(&self) -> &'static str {
        "conv2d's input gradient"
    }

    fn cpu_fwd(&self, dy: &CpuStorage, dyl: &Layout, w: &CpuStorage, wl: &Layout) -> Result<(CpuStorage, Shape)> {
        by_float!(dy, self.run(dy, dyl, w, wl))
    }
}

/// (dY, X) to dW.
struct WeightGradient(Patches);

impl WeightGradient {
    fn run<T: Float>(&self, dy: &CpuStorage, dyl: &Layout, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        let dw = self.0.weight_gradient(elements::<T>(dy, dyl)?, elements(x, xl)?);
        let shape = (self.0.outputs, self.0.inputs, self.0.kernel_height, self.0.kernel_width);
        Ok((T::to_cpu_storage_owned(dw), shape.into()))
    }
}

impl CustomOp2 for WeightGradient {
    fn name(&self) -> &'static str {
        "conv2d's weight gradient"
    }

    fn cpu_fwd(&self, dy: &CpuStorage, dyl: &Layout, x: &CpuStorage, xl: &Layout) -> Result<(CpuStorage, Shape)> {
        by_float!(dy, self.run(dy, dyl, x, xl))
    }
}

/// dY to db.
struct BiasGradient(Patches);

impl BiasGradient {
    fn run<T: Float>(&self, dy: &CpuStorage, dyl: &Layout) -> Result<(CpuStorage, Shape)> {
        let db = self.0.bias_gradient(elements::<T>(dy, dyl)?);
        Ok((T::to_cpu_storage_owned(db), self.0.outputs.into()))
    }
}

impl candle_core::CustomOp1 for BiasGradient {
    fn name(&self) -> &'static str {
        "conv2d's bias gradient"
    }

    fn cpu_fwd(&self, dy: &CpuStorage, dyl: &Layout) -> Result<(CpuStorage, Shape)> {
        by_float!(dy, self.run(dy, dyl))
    }
}
