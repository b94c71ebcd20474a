//! Convolutions from matrix products (cuBLAS) and the kernels of convolution.cu around them.
//!
//! Images become columns, one for each output pixel, of one row for each tap (c, i, j); with them Y = W·X, dX = fold(Wᵀ·dY)
//! and dW = dY·Xᵀ. The first two are batched over images and groups. The third sums over all images in the product itself:
//! there the columns of all images lie side by side. The columns of some images at a time are made anew in each direction, so
//! that no more than [`COLUMNS`] elements are needed beside the tensors. Depthwise convolutions have kernels of their own.

use candle_core::{Layout, Result, Shape, bail};

use super::{Gpu, Launch, View};
use crate::ops::{Activation, Convolution, conv2d::geometry::Geometry};

/// Elements of the unfolded images that exist at a time (256 MiB of f32), unless a single image has more. Few in tests, so that
/// both ways are gone.
const COLUMNS: usize = if cfg!(test) { 1 << 11 } else { 1 << 26 };

impl Geometry {
    /// Elements of an input image.
    fn image(&self) -> usize {
        self.inputs * self.input_pixels()
    }

    /// Elements of an output image.
    fn out_image(&self) -> usize {
        self.outputs * self.pixels()
    }

    /// Rows of an image's columns, over all groups.
    fn rows(&self) -> usize {
        self.inputs * self.taps()
    }

    /// Whether an input channel is seen by output channels that see no other.
    fn is_channelwise(&self) -> bool {
        self.group_inputs() == 1 && self.inputs > 1
    }

    /// Whether an image is its own columns.
    fn is_pointwise(&self) -> bool {
        let Convolution { stride, padding, .. } = self.convolution;
        (self.kernel, stride, padding) == ([1, 1], [1, 1], [0, 0])
    }

    /// `SIZES` of convolution.cu.
    fn words(&self) -> [usize; 13] {
        let ([h, w], [kh, kw], [oh, ow]) = (self.input, self.kernel, self.output);
        let Convolution { stride: [sy, sx], padding: [py, px], dilation: [dy, dx], .. } = self.convolution;
        [self.inputs, h, w, kh, kw, oh, ow, sy, sx, py, px, dy, dx]
    }

    /// First and number of the images that are unfolded at a time.
    fn parts(&self) -> impl Iterator<Item = (usize, usize)> {
        let each = (COLUMNS / (self.rows() * self.pixels())).clamp(1, self.images);
        let images = self.images;
        (0..images).step_by(each).map(move |first| (first, each.min(images - first)))
    }
}

/// `shape` with `strides`, from `offset` on.
fn layout(shape: impl Into<Shape>, strides: &[usize], offset: usize) -> Layout {
    Layout::new(shape.into(), strides.to_vec(), offset)
}

/// Images `first..first + count` of an array of `image` elements each.
fn images<G: Gpu>(view: View<'_, G>, first: usize, count: usize, image: usize) -> Layout {
    layout(count * image, &[1], view.layout.start_offset() + first * image)
}

/// The columns of `count` images of `x`; element (tap, pixel) of image k is at k·image_stride + tap·tap_stride + pixel.
fn unfold<G: Gpu>(x: View<'_, G>, sizes: &Geometry, count: usize, [image_stride, tap_stride]: [usize; 2]) -> Result<G> {
    let elements = count * sizes.rows() * sizes.pixels();
    let mut columns = x.new_like(&elements.into())?;
    Launch::new("convolution", "unfold", x.dtype())?
        .sizes(sizes.words())
        .sizes([count, image_stride, tap_stride])
        .input(x)
        .output(&mut columns)
        .each(x.device(), elements)?;
    Ok(columns)
}

/// The weights as (count·groups, O/groups, taps/groups), for a product with each of `count` images: with a stride of 0 for one
/// group, repeated for several, where no single stride says it.
fn repeated<G: Gpu>(weight: View<'_, G>, sizes: &Geometry, count: usize) -> Result<(Option<G>, Layout)> {
    let groups = sizes.convolution.groups;
    let (rows, columns) = (sizes.outputs / groups, sizes.rows() / groups);
    if groups == 1 {
        return Ok((None, layout((count, rows, columns), &[0, columns, 1], weight.layout.start_offset())));
    }
    let shape = Shape::from((count * groups, rows, columns));
    let mut copy = weight.new_like(&shape)?;
    let all = layout((count, weight.count()), &[0, 1], weight.layout.start_offset());
    weight.memory.copy_strided_src(&mut copy, 0, &all)?;
    Ok((Some(copy), Layout::contiguous(shape)))
}

/// Y (N, O, H', W') of X, W and perhaps a bias.
pub(in crate::ops) fn forward<G: Gpu>(
    x: View<'_, G>,
    weight: View<'_, G>,
    bias: Option<View<'_, G>>,
    sizes: &Geometry,
) -> Result<G> {
    let mut y = if sizes.is_channelwise() { depthwise(x, weight, sizes)? } else { product(x, weight, sizes)? };
    if bias.is_some() {
        finish(&mut y, &sizes.output_shape(), weight, bias, None, Activation::Identity)?;
    }
    Ok(y)
}

fn product<G: Gpu>(x: View<'_, G>, weight: View<'_, G>, sizes: &Geometry) -> Result<G> {
    let groups = sizes.convolution.groups;
    let (rows, taps, pixels) = (sizes.outputs / groups, sizes.rows() / groups, sizes.pixels());
    let mut y = None;
    for (first, count) in sizes.parts() {
        let part = images(x, first, count, sizes.image());
        let (repeated, weight_layout) = repeated(weight, sizes, count)?;
        let shape = (count * groups, taps, pixels);
        let product = |columns: &G, offset| {
            let columns_layout = layout(shape, &[taps * pixels, pixels, 1], offset);
            let weights = repeated.as_ref().unwrap_or(weight.memory);
            weights.matmul(columns, (count * groups, rows, pixels, taps), &weight_layout, &columns_layout)
        };
        let product = if sizes.is_pointwise() {
            product(x.memory, part.start_offset())?
        } else {
            let part = View { memory: x.memory, layout: &part };
            product(&unfold(part, sizes, count, [sizes.rows() * pixels, pixels])?, 0)?
        };
        if count == sizes.images {
            return Ok(product);
        }
        let y = match &mut y {
            Some(y) => y,
            None => y.insert(x.new_like(&sizes.output_shape())?),
        };
        let all = Layout::contiguous(count * sizes.out_image());
        product.copy_strided_src(y, first * sizes.out_image(), &all)?;
    }
    match y {
        Some(y) => Ok(y),
        None => x.new_like(&sizes.output_shape()),
    }
}

fn depthwise<G: Gpu>(x: View<'_, G>, weight: View<'_, G>, sizes: &Geometry) -> Result<G> {
    let mut y = x.new_like(&sizes.output_shape())?;
    Launch::new("convolution", "depthwise", x.dtype())?
        .sizes(sizes.words())
        .sizes([sizes.images, sizes.group_outputs()])
        .input(x)
        .input(weight)
        .output(&mut y)
        .each(x.device(), sizes.images * sizes.out_image())?;
    Ok(y)
}

/// activation(Y + bias + add), with what there is of these.
pub(in crate::ops) fn inference<G: Gpu>(
    x: View<'_, G>,
    weight: View<'_, G>,
    bias: Option<View<'_, G>>,
    add: Option<View<'_, G>>,
    activation: Activation,
    sizes: &Geometry,
) -> Result<G> {
    let mut y = forward(x, weight, None, sizes)?;
    if bias.is_some() || add.is_some() || activation != Activation::Identity {
        finish(&mut y, &sizes.output_shape(), weight, bias, add, activation)?;
    }
    Ok(y)
}

/// In place: activation(y + bias + add) for y of `shape` (N, O, …). `weight` is any tensor of y's device and type.
pub(in crate::ops) fn finish<G: Gpu>(
    y: &mut G,
    shape: &Shape,
    weight: View<'_, G>,
    bias: Option<View<'_, G>>,
    add: Option<View<'_, G>>,
    activation: Activation,
) -> Result<()> {
    let ([_, outputs, pixels], count) = (channels(shape)?, shape.elem_count());
    Launch::new("convolution", "finish", weight.dtype())?
        .sizes([count, outputs, pixels, bias.is_some().into(), add.is_some().into()])
        .activation(activation)
        .input(bias.unwrap_or(weight))
        .input(add.unwrap_or(weight))
        .output(y)
        .each(weight.device(), count)
}

/// dX of dY and W.
pub(in crate::ops) fn input_gradient<G: Gpu>(dy: View<'_, G>, weight: View<'_, G>, sizes: &Geometry) -> Result<G> {
    let mut dx = dy.new_like(&sizes.input_shape())?;
    if sizes.is_channelwise() {
        Launch::new("convolution", "depthwise_input_gradient", dy.dtype())?
            .sizes(sizes.words())
            .sizes([sizes.images, sizes.group_outputs()])
            .input(dy)
            .input(weight)
            .output(&mut dx)
            .each(dy.device(), sizes.images * sizes.image())?;
        return Ok(dx);
    }
    let groups = sizes.convolution.groups;
    let (rows, taps, pixels) = (sizes.outputs / groups, sizes.rows() / groups, sizes.pixels());
    for (first, count) in sizes.parts() {
        let part = images(dy, first, count, sizes.out_image());
        let (repeated, weight_layout) = repeated(weight, sizes, count)?;
        let dy_layout = layout((count * groups, rows, pixels), &[rows * pixels, pixels, 1], part.start_offset());
        let weights = repeated.as_ref().unwrap_or(weight.memory);
        let transposed = weight_layout.transpose(1, 2)?;
        let columns = weights.matmul(dy.memory, (count * groups, taps, pixels, rows), &transposed, &dy_layout)?;
        if sizes.is_pointwise() && count == sizes.images {
            return Ok(columns);
        }
        let mut folded = dy.new_like(&(count * sizes.image()).into())?;
        let columns_layout = Layout::contiguous(count * sizes.rows() * pixels);
        Launch::new("convolution", "fold", dy.dtype())?
            .sizes(sizes.words())
            .size(count)
            .input(View { memory: &columns, layout: &columns_layout })
            .output(&mut folded)
            .each(dy.device(), count * sizes.image())?;
        if count == sizes.images {
            return Ok(folded);
        }
        folded.copy_strided_src(&mut dx, first * sizes.image(), &Layout::contiguous(count * sizes.image()))?;
    }
    Ok(dx)
}

/// dW of dY and X.
pub(in crate::ops) fn weight_gradient<G: Gpu>(dy: View<'_, G>, x: View<'_, G>, sizes: &Geometry) -> Result<G> {
    let device = dy.device();
    if sizes.is_channelwise() {
        let mut dw = dy.new_like(&sizes.weight_shape())?;
        Launch::new("convolution", "depthwise_weight_gradient", dy.dtype())?
            .sizes(sizes.words())
            .sizes([sizes.images, sizes.group_outputs()])
            .input(dy)
            .input(x)
            .output(&mut dw)
            .blocks(device, sizes.weight_shape().elem_count())?;
        return Ok(dw);
    }
    let groups = sizes.convolution.groups;
    let (rows, taps, pixels) = (sizes.outputs / groups, sizes.rows() / groups, sizes.pixels());
    // dY with images side by side is what unfolding it under a 1×1 kernel gives.
    let gather = Geometry {
        inputs: sizes.outputs,
        input: sizes.output,
        kernel: [1, 1],
        convolution: Convolution::new(1, 0),
        ..*sizes
    };
    let mut total = None;
    for (first, count) in sizes.parts() {
        let (dy_part, x_part) = (images(dy, first, count, sizes.out_image()), images(x, first, count, sizes.image()));
        let (dy, x) = (View { memory: dy.memory, layout: &dy_part }, View { memory: x.memory, layout: &x_part });
        let side_by_side = count * pixels;
        let gathered = unfold(dy, &gather, count, [pixels, side_by_side])?;
        let columns = unfold(x, sizes, count, [pixels, side_by_side])?;
        let left = Layout::contiguous((groups, rows, side_by_side));
        let right = Layout::contiguous((groups, taps, side_by_side)).transpose(1, 2)?;
        let part = gathered.matmul(&columns, (groups, rows, taps, side_by_side), &left, &right)?;
        match &mut total {
            None => total = Some(part),
            Some(total) => {
                let layout = Layout::contiguous(sizes.weight_shape());
                Launch::new("convolution", "accumulate", dy.dtype())?
                    .size(layout.shape().elem_count())
                    .input(View { memory: &part, layout: &layout })
                    .output(total)
                    .each(device, layout.shape().elem_count())?;
            }
        }
    }
    match total {
        Some(total) => Ok(total),
        None => dy.new_like(&sizes.weight_shape()),
    }
}

/// db (O) of dY (N, O, …).
pub(in crate::ops) fn bias_gradient<G: Gpu>(dy: View<'_, G>) -> Result<(G, Shape)> {
    let sizes = channels(dy.shape())?;
    let shape = Shape::from(sizes[1]);
    let mut db = dy.new_like(&shape)?;
    let launch = Launch::new("convolution", "bias_gradient", dy.dtype())?;
    launch.sizes(sizes).input(dy).output(&mut db).blocks(dy.device(), sizes[1])?;
    Ok((db, shape))
}

/// Images, channels and pixels of a shape (N, O, …).
fn channels(shape: &Shape) -> Result<[usize; 3]> {
    match shape.dims() {
        [images, outputs, plane @ ..] => Ok([*images, *outputs, plane.iter().product()]),
        other => bail!("a bias needs images and channels, not {other:?}"),
    }
}
