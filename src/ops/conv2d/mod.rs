//! Convolution: forward, input gradient and weight gradient by direct kernels.
//!
//! y[n, o] = Σ_c Σ_ij w[o, c, i, j] · x[n, c, s·r + d·i − p, s·q + d·j − p] + b[o]
//!
//! candle's own backward is a loop of dot products, several times slower, and always computes dX, even for the images.

#[cfg(test)]
mod tests;

pub(super) mod depthwise;
pub(super) mod direct;
pub(super) mod geometry;
pub(super) mod kernel;

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use self::{direct::Ending, geometry::Geometry, kernel::Isa};
#[cfg(any(feature = "cuda", test))]
use super::cuda;
use super::{
    Activation, Float,
    op::{Array, Op, apply, apply_no_grad, gradient},
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

    /// Output rows and columns of images of `size` under a kernel; `None` when it does not fit.
    pub(crate) fn output_size(&self, size: [usize; 2], kernel: [usize; 2]) -> Option<[usize; 2]> {
        Some([self.output(0, size[0], kernel[0])?, self.output(1, size[1], kernel[1])?])
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
/// H' = (H + 2·padding − dilation·(kh − 1) − 1) / stride + 1, rounded down. f32 or f64. The gradient with respect to `x` is
/// computed only when something upstream needs it.
///
/// # Errors
/// When the shapes do not fit together, a stride, dilation or group count is 0, the batch is empty, or an image with its margins
/// has 2³² elements or more.
pub fn conv2d(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>, convolution: Convolution) -> Result<Tensor> {
    let geometry = Geometry::new(x.dims(), weight.dims(), convolution)?;
    match bias {
        Some(bias) => {
            fits("conv2d", bias, geometry.outputs)?;
            apply(Forward(geometry), [x, weight, bias])
        }
        None => apply(Forward(geometry), [x, weight]),
    }
}

/// activation(conv2d(x, weight, bias) + add) in one pass, as a constant: inference keeps no graph.
///
/// `add`: of the result's shape, the other branch of a residual block. Otherwise as [`conv2d`].
///
/// # Errors
/// As [`conv2d`], and when `add` has another shape than the result, or a leaky ReLU's slope is negative.
pub fn conv2d_inference(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    add: Option<&Tensor>,
    convolution: Convolution,
    activation: Activation,
) -> Result<Tensor> {
    activation.check()?;
    let geometry = Geometry::new(x.dims(), weight.dims(), convolution)?;
    if let Some(bias) = bias {
        fits("conv2d_inference", bias, geometry.outputs)?;
    }
    if let Some(add) = add
        && add.dims() != [&[geometry.images, geometry.outputs][..], &geometry.output].concat()
    {
        bail!("conv2d_inference: what is added has shape {:?}, the result {geometry:?}", add.dims());
    }
    let bias = bias.map(|bias| bias.detach().contiguous()).transpose()?;
    let op = Inference { geometry, bias, activation };
    match add {
        Some(add) => apply_no_grad(&op, [x, weight, add]),
        None => apply_no_grad(&op, [x, weight]),
    }
}

/// Two-dimensional transposed convolution (as PyTorch's `conv_transpose2d`): the input gradient of [`conv2d`] as a layer.
///
/// `x`: (N, C, H, W); `weight`: (C, O/groups, kh, kw); `bias`: (O); result: (N, O, H', W') with
/// H' = (H − 1)·stride − 2·padding + dilation·(kh − 1) + `output_padding` + 1. f32 or f64.
///
/// # Errors
/// When the shapes do not fit together, `output_padding` is not below the stride or the dilation, the batch is empty, or an image
/// with its margins has 2³² elements or more.
pub fn conv_transpose2d(
    x: &Tensor,
    weight: &Tensor,
    bias: Option<&Tensor>,
    convolution: Convolution,
    output_padding: [usize; 2],
) -> Result<Tensor> {
    let ((images, _, height, width), (_, group_outputs, kh, kw)) = (x.dims4()?, weight.dims4()?);
    let size = |axis: usize, input: usize, kernel: usize| {
        let (stride, dilation) = (convolution.stride[axis], convolution.dilation[axis]);
        let between = input.checked_sub(1)?.checked_mul(stride)?;
        let reach = kernel.checked_sub(1)?.checked_mul(dilation)?.checked_add(1)?;
        let whole = between.checked_add(reach)?.checked_add(output_padding[axis])?;
        let fits = output_padding[axis] < stride.max(dilation);
        whole.checked_sub(convolution.padding[axis].checked_mul(2)?).filter(|_| fits)
    };
    // The convolution that has this one as its input gradient.
    let geometry = || {
        let input = [images, group_outputs.checked_mul(convolution.groups)?, size(0, height, kh)?, size(1, width, kw)?];
        let geometry = Geometry::new(&input, weight.dims(), convolution).ok()?;
        ([geometry.outputs, geometry.output[0], geometry.output[1]] == x.dims()[1..]).then_some(geometry)
    };
    let Some(geometry) = geometry() else {
        bail!(
            "conv_transpose2d: input {:?}, weight {:?}, output padding {output_padding:?} and {convolution:?} do not fit, or \
             are too large",
            x.dims(),
            weight.dims()
        )
    };
    match bias {
        Some(bias) => {
            fits("conv_transpose2d", bias, geometry.inputs)?;
            apply(Transposed(geometry), [x, weight, bias])
        }
        None => apply(Transposed(geometry), [x, weight]),
    }
}

/// Σ x·xᵀ over images and pixels of `x` (N, C, H, W), whose pixels are vectors of C channels: (C, C).
///
/// It is the weight gradient of a 1×1 convolution whose output gradient is its input. f32 or f64.
///
/// # Errors
/// When there are no values.
pub fn channel_products(x: &Tensor) -> Result<Tensor> {
    let channels = x.dims4()?.1;
    let geometry = Geometry::new(x.dims(), &[channels, channels, 1, 1], Convolution::new(1, 0))?;
    apply(ChannelProducts(geometry), [x])?.reshape((channels, channels))
}

fn fits(what: &str, bias: &Tensor, outputs: usize) -> Result<()> {
    if bias.dims() != [outputs] {
        bail!("{what}: bias has shape {:?}, there are {outputs} output channels", bias.dims());
    }
    Ok(())
}

impl Geometry {
    pub(super) fn output_shape(&self) -> Shape {
        (self.images, self.outputs, self.output[0], self.output[1]).into()
    }

    pub(super) fn input_shape(&self) -> Shape {
        (self.images, self.inputs, self.input[0], self.input[1]).into()
    }

    pub(super) fn weight_shape(&self) -> Shape {
        (self.outputs, self.group_inputs(), self.kernel[0], self.kernel[1]).into()
    }

    /// Whether each channel is a group of its own, on both sides.
    fn is_depthwise(&self) -> bool {
        self.group_inputs() == 1 && self.group_outputs() == 1
    }
}

/// (x, weight) or (x, weight, bias) to y.
struct Forward(Geometry);

impl Forward {
    fn y<T: Float>(&self, x: &[T], weight: &[T], bias: Option<&[T]>) -> (Vec<T>, Shape) {
        (run(&self.0, x, weight, bias, Ending::NONE), self.0.output_shape())
    }

    /// dX and dW.
    fn gradients(&self, x: &Tensor, weight: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        Ok([gradient(x, &InputGradient(self.0), [dy, weight])?, gradient(weight, &WeightGradient(self.0), [dy, x])?])
    }
}

/// y of slices.
pub(super) fn run<T: Float>(g: &Geometry, x: &[T], weight: &[T], bias: Option<&[T]>, ending: Ending<'_, T>) -> Vec<T> {
    if g.is_depthwise() {
        depthwise::forward(g, x, weight, bias, ending)
    } else {
        direct::forward(g, Isa::best(), x, weight, bias, ending)
    }
}

/// dX of slices.
pub(super) fn input_gradient<T: Float>(g: &Geometry, dy: &[T], weight: &[T]) -> Vec<T> {
    if g.group_inputs() == 1 {
        depthwise::input_gradient(g, dy, weight)
    } else {
        direct::input_gradient(g, Isa::best(), dy, weight)
    }
}

/// dW of slices.
pub(super) fn weight_gradient<T: Float>(g: &Geometry, dy: &[T], x: &[T]) -> Vec<T> {
    if g.is_depthwise() { depthwise::weight_gradient(g, dy, x) } else { direct::weight_gradient(g, Isa::best(), dy, x) }
}

impl Op<2> for Forward {
    const NAME: &'static str = "conv2d";

    fn cpu<T: Float>(&self, [x, weight]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        Ok(self.y(x.data, weight.data, None))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x, weight]: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        Ok((cuda::convolution::forward(x, weight, None, &self.0)?, self.0.output_shape()))
    }

    fn gradients(&self, [x, weight]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        self.gradients(x, weight, dy)
    }
}

impl Op<3> for Forward {
    const NAME: &'static str = "conv2d";

    fn cpu<T: Float>(&self, [x, weight, bias]: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        Ok(self.y(x.data, weight.data, Some(bias.data)))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x, weight, bias]: [cuda::View<'_, G>; 3]) -> Result<(G, Shape)> {
        Ok((cuda::convolution::forward(x, weight, Some(bias), &self.0)?, self.0.output_shape()))
    }

    fn gradients(&self, [x, weight, bias]: [&Tensor; 3], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let [dx, dw] = self.gradients(x, weight, dy)?;
        Ok([dx, dw, gradient(bias, &BiasGradient, [dy])?])
    }
}

/// (x, weight) or (x, weight, what is added) to the activated y.
struct Inference {
    geometry: Geometry,
    /// Not an input, because candle knows no operations of four tensors.
    bias: Option<Tensor>,
    activation: Activation,
}

impl Inference {
    fn y<T: Float>(&self, x: &[T], weight: &[T], add: Option<&[T]>) -> Result<(Vec<T>, Shape)> {
        let bias = self.bias.as_ref().map(Tensor::to_vec1::<T>).transpose()?;
        let ending = Ending { add, activation: self.activation };
        Ok((run(&self.geometry, x, weight, bias.as_deref(), ending), self.geometry.output_shape()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn y_on_gpu<G: cuda::Gpu>(
        &self,
        x: cuda::View<'_, G>,
        weight: cuda::View<'_, G>,
        add: Option<cuda::View<'_, G>>,
    ) -> Result<(G, Shape)> {
        let held = self.bias.as_ref().map(Tensor::storage_and_layout);
        let bias = held.as_ref().map(|(storage, layout)| cuda::View::of(storage, layout)).transpose()?;
        let y = cuda::convolution::inference(x, weight, bias, add, self.activation, &self.geometry)?;
        Ok((y, self.geometry.output_shape()))
    }
}

impl Op<2> for Inference {
    const NAME: &'static str = "conv2d";

    fn cpu<T: Float>(&self, [x, weight]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        self.y(x.data, weight.data, None)
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x, weight]: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        self.y_on_gpu(x, weight, None)
    }
}

impl Op<3> for Inference {
    const NAME: &'static str = "conv2d";

    fn cpu<T: Float>(&self, [x, weight, add]: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        self.y(x.data, weight.data, Some(add.data))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x, weight, add]: [cuda::View<'_, G>; 3]) -> Result<(G, Shape)> {
        self.y_on_gpu(x, weight, Some(add))
    }
}

/// (dY, weight) to dX.
struct InputGradient(Geometry);

impl Op<2> for InputGradient {
    const NAME: &'static str = "conv2d's input gradient";

    fn cpu<T: Float>(&self, [dy, weight]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        Ok((input_gradient(&self.0, dy.data, weight.data), self.0.input_shape()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [dy, weight]: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        Ok((cuda::convolution::input_gradient(dy, weight, &self.0)?, self.0.input_shape()))
    }
}

/// (x, weight) or (x, weight, bias) to the y of the transposed convolution: x is the dY of the convolution of this geometry, y its
/// dX.
struct Transposed(Geometry);

impl Transposed {
    /// dX and dW: y is linear in both.
    fn gradients(&self, x: &Tensor, weight: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        Ok([gradient::<2, _>(x, &Forward(self.0), [dy, weight])?, gradient(weight, &WeightGradient(self.0), [x, dy])?])
    }
}

impl Op<2> for Transposed {
    const NAME: &'static str = "conv_transpose2d";

    fn cpu<T: Float>(&self, inputs: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        InputGradient(self.0).cpu(inputs)
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, inputs: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        InputGradient(self.0).gpu(inputs)
    }

    fn gradients(&self, [x, weight]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        self.gradients(x, weight, dy)
    }
}

impl Op<3> for Transposed {
    const NAME: &'static str = "conv_transpose2d";

    fn cpu<T: Float>(&self, [x, weight, bias]: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        let (mut y, shape) = InputGradient(self.0).cpu([x, weight])?;
        y.par_chunks_mut(self.0.input_pixels()).enumerate().for_each(|(plane, y)| {
            let bias = bias.data[plane % bias.data.len()];
            y.iter_mut().for_each(|y| *y += bias);
        });
        Ok((y, shape))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x, weight, bias]: [cuda::View<'_, G>; 3]) -> Result<(G, Shape)> {
        let (mut y, shape) = InputGradient(self.0).gpu([x, weight])?;
        cuda::convolution::finish(&mut y, &shape, weight, Some(bias), None, Activation::Identity)?;
        Ok((y, shape))
    }

    fn gradients(&self, [x, weight, bias]: [&Tensor; 3], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let [dx, dw] = self.gradients(x, weight, dy)?;
        Ok([dx, dw, gradient(bias, &BiasGradient, [dy])?])
    }
}

/// (dY, x) to dW.
struct WeightGradient(Geometry);

impl Op<2> for WeightGradient {
    const NAME: &'static str = "conv2d's weight gradient";

    fn cpu<T: Float>(&self, [dy, x]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        Ok((weight_gradient(&self.0, dy.data, x.data), self.0.weight_shape()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [dy, x]: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        Ok((cuda::convolution::weight_gradient(dy, x, &self.0)?, self.0.weight_shape()))
    }
}

/// x to Σ x·xᵀ (C, C, 1, 1).
struct ChannelProducts(Geometry);

impl Op<1> for ChannelProducts {
    const NAME: &'static str = "channel_products";

    fn cpu<T: Float>(&self, [x]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        WeightGradient(self.0).cpu([x, x])
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        WeightGradient(self.0).gpu([x, x])
    }

    /// dx = (dY + dYᵀ)·x.
    fn gradients(&self, [x]: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        let both = (dy + dy.transpose(0, 1)?)?;
        Ok([gradient::<2, _>(x, &Forward(self.0), [x, &both])?])
    }
}

/// dY (N, O, H', W') to db (O).
struct BiasGradient;

impl Op<1> for BiasGradient {
    const NAME: &'static str = "conv2d's bias gradient";

    fn cpu<T: Float>(&self, [dy]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let (_, outputs, height, width) = dy.shape.dims4()?;
        Ok((direct::bias_gradient(dy.data, outputs, height * width), outputs.into()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [dy]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        cuda::convolution::bias_gradient(dy)
    }
}
