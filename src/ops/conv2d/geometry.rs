//! The sizes of a convolution, and where its windows lie.

use candle_core::{Result, bail};

use super::{Convolution, direct::PIXELS};
use crate::ops::Float;

/// The sizes of one convolution; pairs are rows, columns.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Geometry {
    pub(in crate::ops) images: usize,
    /// Input channels of all groups.
    pub(in crate::ops) inputs: usize,
    pub(in crate::ops) input: [usize; 2],
    /// Output channels of all groups.
    pub(in crate::ops) outputs: usize,
    pub(in crate::ops) output: [usize; 2],
    pub(in crate::ops) kernel: [usize; 2],
    pub(in crate::ops) convolution: Convolution,
}

impl Geometry {
    /// The convolution of `x` (N, C, H, W) with `weight` (O, C/groups, kh, kw).
    ///
    /// # Errors
    /// When they do not fit together, one is empty, or the kernels cannot count so far.
    pub(in crate::ops) fn new(x: &[usize], weight: &[usize], convolution: Convolution) -> Result<Self> {
        let fit = || {
            let (&[images, inputs, height, width], &[outputs, group_inputs, kh, kw]) = (x, weight) else { return None };
            let groups = convolution.groups;
            let whole =
                groups > 0 && Some(inputs) == group_inputs.checked_mul(groups) && outputs.is_multiple_of(groups);
            let output = [convolution.output(0, height, kh)?, convolution.output(1, width, kw)?];
            let sizes = Self { images, inputs, input: [height, width], outputs, output, kernel: [kh, kw], convolution };
            let empty = [images, inputs, height, width, outputs].contains(&0);
            if whole && !empty { Some(sizes) } else { None }
        };
        match fit() {
            Some(sizes) if sizes.are_countable() => Ok(sizes),
            Some(_) => bail!(
                "conv2d: input {x:?}, weight {weight:?} and {convolution:?} are too large: places in the images of a task are \
                 counted in 32 bits"
            ),
            None => bail!("conv2d: input {x:?}, weight {weight:?} and {convolution:?} do not fit"),
        }
    }

    /// Whether numbers of 32 bits count the places in the images, with their margins, that one task handles together in any
    /// pass; and tensors have lengths at all.
    fn are_countable(&self) -> bool {
        let Convolution { stride, padding, dilation, .. } = self.convolution;
        let elements = |images: usize, channels: usize, [height, width]: [usize; 2]| {
            height.checked_mul(width)?.checked_mul(channels)?.checked_mul(images)
        };
        let most = |elements: Option<usize>, most: usize| elements.is_some_and(|elements| elements <= most);
        // As many images as make PIXELS target pixels.
        let task = |[height, width]: [usize; 2]| self.images.min(PIXELS.div_ceil(height.saturating_mul(width)));
        let (forward, backward) = (task(self.output), task(self.input));
        // The depthwise kernels round a row up to whole strides.
        let padded = [0, 1].map(|axis| (self.input[axis] + 2 * padding[axis]).saturating_add(axis * stride[axis]));
        // Margins of dY: the kernel's reach before, and after it up to the last input pixel.
        let toward = [0, 1].map(|axis| {
            let last = ((self.input[axis] + padding[axis]) / stride[axis]).saturating_add(1).max(self.output[axis]);
            last.saturating_add((self.kernel[axis] - 1) * dilation[axis] / stride[axis])
        });
        [stride, padding, dilation].as_flattened().iter().all(|value| *value <= i32::MAX as usize)
            && [
                elements(forward, self.inputs, padded),
                elements(forward, self.outputs, self.output),
                elements(backward, self.outputs, toward),
                elements(backward, self.inputs, self.input),
            ]
            .into_iter()
            .all(|elements| most(elements, u32::MAX as usize))
            && [elements(self.images, self.inputs, self.input), elements(self.images, self.outputs, self.output)]
                .into_iter()
                .all(|elements| most(elements, isize::MAX as usize / size_of::<f64>()))
    }

    /// Input channels that an output channel sees.
    pub(in crate::ops) fn group_inputs(&self) -> usize {
        self.inputs / self.convolution.groups
    }

    /// Output channels that see the same input channels.
    pub(in crate::ops) fn group_outputs(&self) -> usize {
        self.outputs / self.convolution.groups
    }

    /// Pixels of an output plane.
    pub(in crate::ops) fn pixels(&self) -> usize {
        self.output[0] * self.output[1]
    }

    /// Pixels of an input plane.
    pub(in crate::ops) fn input_pixels(&self) -> usize {
        self.input[0] * self.input[1]
    }

    /// Taps of the kernel: rows times columns.
    pub(in crate::ops) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Elements of the weight.
    pub(in crate::ops) fn weights(&self) -> usize {
        self.outputs * self.group_inputs() * self.taps()
    }
}

/// Planes with a margin of zeros, so that every window lies inside.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Padded {
    channels: usize,
    size: [usize; 2],
    before: [usize; 2],
    /// Size with its margins.
    pub(in crate::ops) padded: [usize; 2],
}

impl Padded {
    /// Planes of `size` with `before` and `after` zeros on each axis.
    pub(in crate::ops) fn new(channels: usize, size: [usize; 2], before: [usize; 2], after: [usize; 2]) -> Self {
        let padded = [before[0] + size[0] + after[0], before[1] + size[1] + after[1]];
        Self { channels, size, before, padded }
    }

    /// Elements of a plane.
    pub(in crate::ops) fn plane(&self) -> usize {
        self.padded[0] * self.padded[1]
    }

    /// Elements of an image.
    pub(in crate::ops) fn image(&self) -> usize {
        self.channels * self.plane()
    }

    /// `images` with margins: themselves when there are none, else in `buffer`, whose margins are zeros already if it held
    /// images of the same sizes.
    pub(in crate::ops) fn copy<'a, T: Float>(&self, images: &'a [T], buffer: &'a mut Vec<T>) -> &'a [T] {
        if self.padded == self.size {
            return images;
        }
        let ([_, width], [_, pitch]) = (self.size, self.padded);
        let planes = images.chunks_exact(self.size[0] * width);
        let wanted = planes.len() * self.plane();
        if buffer.len() < wanted {
            buffer.resize(wanted, T::zero());
        }
        for (to, from) in buffer.chunks_exact_mut(self.plane()).zip(planes) {
            let rows = to[self.before[0] * pitch..].chunks_exact_mut(pitch).zip(from.chunks_exact(width));
            rows.for_each(|(to, from)| to[self.before[1]..][..width].copy_from_slice(from));
        }
        &buffer[..wanted]
    }
}
