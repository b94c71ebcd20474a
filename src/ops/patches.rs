//! The patches of images as a matrix: one row per tap (c, i, j) of a convolution's kernel, one column per output pixel of
//! each image of a group ("im2col"), and back.

use std::ops::Range;

use candle_core::{Result, Tensor, bail};

use super::{Float, conv2d::Convolution};

/// The sizes of one convolution.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patches {
    pub(super) images: usize,
    pub(super) inputs: usize,
    pub(super) height: usize,
    pub(super) width: usize,
    pub(super) outputs: usize,
    pub(super) kernel_height: usize,
    pub(super) kernel_width: usize,
    pub(super) out_height: usize,
    pub(super) out_width: usize,
    convolution: Convolution,
}

/// One tap at one row of output pixels.
struct Run {
    tap: usize,
    out_row: usize,
    /// Output columns whose input lies inside the image; the others are padding.
    columns: Range<usize>,
    /// Where in the image the input of the first of these columns is; `None` when there are none.
    start: Option<usize>,
}

impl Patches {
    pub(super) fn new(x: &Tensor, weight: &Tensor, convolution: Convolution) -> Result<Self> {
        let (images, inputs, height, width) = x.dims4()?;
        let (outputs, weight_inputs, kernel_height, kernel_width) = weight.dims4()?;
        let out = [(height, kernel_height), (width, kernel_width)];
        let out: Vec<Option<usize>> = (0..2).map(|axis| convolution.output(axis, out[axis].0, out[axis].1)).collect();
        let (Some(out_height), Some(out_width)) = (out[0], out[1]) else {
            bail!("conv2d: input {:?}, weight {:?} and {convolution:?} do not fit", x.dims(), weight.dims());
        };
        if weight_inputs != inputs || weight.elem_count() == 0 || x.elem_count() == 0 {
            bail!("conv2d: input {:?}, weight {:?} and {convolution:?} do not fit", x.dims(), weight.dims());
        }
        Ok(Self {
            images,
            inputs,
            height,
            width,
            outputs,
            kernel_height,
            kernel_width,
            out_height,
            out_width,
            convolution,
        })
    }

    /// Rows of the matrix: C·kh·kw.
    pub(super) fn taps(&self) -> usize {
        self.inputs * self.kernel_height * self.kernel_width
    }

    /// Columns of the matrix for each image: H'·W'.
    pub(super) fn pixels(&self) -> usize {
        self.out_height * self.out_width
    }

    /// Elements of an input image.
    pub(super) fn image(&self) -> usize {
        self.inputs * self.height * self.width
    }

    /// The matrix of a group of images: `x` itself for one image under a 1×1 kernel, else written into `buffer`.
    pub(super) fn unfold<'a, T: Float>(&self, x: &'a [T], buffer: &'a mut Vec<T>) -> &'a [T] {
        let images = x.len() / self.image();
        if images == 1 && self.is_pointwise() {
            return x;
        }
        let (pitch, stride) = (images * self.pixels(), self.convolution.stride[1]);
        buffer.resize(self.taps() * pitch, T::zero());
        for (n, image) in x.chunks_exact(self.image()).enumerate() {
            self.for_each_run(|Run { tap, out_row, columns, start }| {
                let row = &mut buffer[tap * pitch + n * self.pixels() + out_row * self.out_width..][..self.out_width];
                let Some(start) = start else { return row.fill(T::zero()) };
                row[..columns.start].fill(T::zero());
                row[columns.end..].fill(T::zero());
                let row = &mut row[columns];
                if stride == 1 {
                    row.copy_from_slice(&image[start..start + row.len()]);
                } else {
                    row.iter_mut().zip(image[start..].iter().step_by(stride)).for_each(|(to, from)| *to = *from);
                }
            });
        }
        buffer
    }

    /// The transpose of [`Patches::unfold`]: adds every column to where it came from.
    pub(super) fn fold<T: Float>(&self, patches: &[T], x: &mut [T]) {
        let (pitch, stride) = (patches.len() / self.taps(), self.convolution.stride[1]);
        for (n, image) in x.chunks_exact_mut(self.image()).enumerate() {
            self.for_each_run(|Run { tap, out_row, columns, start }| {
                let Some(start) = start else { return };
                let row = &patches[tap * pitch + n * self.pixels() + out_row * self.out_width..][columns];
                if stride == 1 {
                    image[start..].iter_mut().zip(row).for_each(|(to, from)| *to += *from);
                } else {
                    image[start..].iter_mut().step_by(stride).zip(row).for_each(|(to, from)| *to += *from);
                }
            });
        }
    }

    /// A group of output images (n, O, pixels) as a matrix (O, n·pixels): itself for one image, else in `buffer`.
    pub(super) fn channels_first<'a, T: Float>(&self, images: &'a [T], buffer: &'a mut Vec<T>) -> &'a [T] {
        let (pixels, pitch) = (self.pixels(), images.len() / self.outputs);
        if pitch == pixels {
            return images;
        }
        buffer.resize(images.len(), T::zero());
        for (n, image) in images.chunks_exact(self.outputs * pixels).enumerate() {
            for (o, plane) in image.chunks_exact(pixels).enumerate() {
                buffer[o * pitch + n * pixels..][..pixels].copy_from_slice(plane);
            }
        }
        buffer
    }

    /// The inverse of [`Patches::channels_first`].
    pub(super) fn images_first<T: Float>(&self, matrix: &[T], images: &mut [T]) {
        let (pixels, pitch) = (self.pixels(), images.len() / self.outputs);
        for (n, image) in images.chunks_exact_mut(self.outputs * pixels).enumerate() {
            for (o, plane) in image.chunks_exact_mut(pixels).enumerate() {
                plane.copy_from_slice(&matrix[o * pitch + n * pixels..][..pixels]);
            }
        }
    }

    fn is_pointwise(&self) -> bool {
        (self.kernel_height, self.kernel_width) == (1, 1) && self.convolution == Convolution::new(1, 0)
    }

    fn for_each_run(&self, mut visit: impl FnMut(Run)) {
        let kernel = self.kernel_height * self.kernel_width;
        for tap in 0..self.taps() {
            let Convolution { stride, padding, dilation, .. } = self.convolution;
            let (channel, i, j) = (tap / kernel, tap % kernel / self.kernel_width, tap % self.kernel_width);
            let (i, j) = (i * dilation[0], j * dilation[1]);
            // Input column of output column q: q·stride + j − padding, inside from the first to before the end.
            let first = padding[1].saturating_sub(j).div_ceil(stride[1]);
            let end = (self.width + padding[1]).saturating_sub(j).div_ceil(stride[1]).min(self.out_width);
            let columns = first.min(end)..end;
            for out_row in 0..self.out_height {
                let row = (out_row * stride[0] + i).checked_sub(padding[0]).filter(|row| *row < self.height);
                let start = row
                    .filter(|_| !columns.is_empty())
                    .map(|row| (channel * self.height + row) * self.width + columns.start * stride[1] + j - padding[1]);
                visit(Run { tap, out_row, columns: columns.clone(), start });
            }
        }
    }
}
