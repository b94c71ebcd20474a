//! The three passes of a convolution, tile by tile (see [`super::kernel`]), on images with margins of zeros.
//!
//! Forward and input gradient are the same sweep over target pixels; they differ in where windows start, in the taps and
//! in how the weight is laid out. With a stride s, the pixels of the input gradient fall into s·s phases, each with taps of
//! its own, so that no zero is multiplied. The weight gradient swaps the roles of pixels and taps.
//!
//! The batch is cut into tasks by its shape, never by the number of threads, and partial sums are added in a fixed order.

use rayon::prelude::*;

use super::{
    geometry::{Geometry, Padded},
    kernel::{Isa, Kernel, TILE},
};
use crate::ops::{
    Activation, Float,
    activation::{Curve as _, with_curve},
};

/// Tasks that a pass is cut into, if its shape allows: enough to keep the threads of one machine busy to the end.
const TASKS: usize = 16;
/// Target pixels for which a block of weights is read once, at least; fewer would read weights more than they compute.
pub(super) const PIXELS: usize = 256;
/// Numbers in all partial weight gradients together, 8 MB of f32.
const PARTIAL: usize = 1 << 21;

/// What an output pixel becomes after the sum over its window.
#[derive(Debug, Clone, Copy)]
pub(in crate::ops) struct Ending<'a, T> {
    /// Added, of the output's shape.
    pub(in crate::ops) add: Option<&'a [T]>,
    /// Applied last.
    pub(in crate::ops) activation: Activation,
}

impl<T: Float> Ending<'_, T> {
    /// Nothing but the sum.
    pub(in crate::ops) const NONE: Self = Self { add: None, activation: Activation::Identity };
}

/// A block of target channels that one kernel computes together.
struct Block<T: Float> {
    kernel: Kernel<T>,
    /// Target channels.
    first: usize,
    count: usize,
    /// The source channels of its group start here in a padded image.
    source: usize,
    /// Sums start with these, one for each lane.
    initial: Vec<T>,
    /// For each phase, one row of lanes for each tap.
    rows: Vec<Vec<T>>,
}

/// Target pixels that have the same taps.
struct Phase {
    /// Where their windows start in a padded source image, and where they are in a target plane.
    starts: Vec<u32>,
    targets: Vec<u32>,
    /// Offsets of the taps from a window's start, in the source channels of a group.
    taps: Vec<u32>,
}

/// One pass over target pixels: target[n, first + l, pixel] = initial[l] + Σ_tap source[n, start + tap] · rows[tap][l].
struct Sweep<T: Float> {
    images: usize,
    source: Padded,
    source_image: usize,
    target_channels: usize,
    target_plane: usize,
    phases: Vec<Phase>,
    blocks: Vec<Block<T>>,
}

/// How a batch is cut: every task takes one chunk of the images and one share of the blocks.
struct Parts {
    /// Images of a chunk.
    chunk: usize,
    chunks: usize,
    /// Blocks of a share.
    share: usize,
    /// Images of a chunk that are taken together.
    group: usize,
}

impl Parts {
    /// Of `images` of `pixels` pixels and `blocks` blocks, with at most so many chunks.
    fn new(images: usize, pixels: usize, blocks: usize, most: usize) -> Self {
        let enough = PIXELS.div_ceil(pixels);
        let chunk = images.div_ceil(most).max(enough).min(images);
        let chunks = images.div_ceil(chunk);
        Self { chunk, chunks, share: blocks.div_ceil(TASKS.div_ceil(chunks)), group: enough.min(chunk) }
    }
}

/// A pointer into a result whose parts different tasks write.
struct Target<T>(*mut T);

#[expect(unsafe_code, reason = "tasks write disjoint parts of one result")]
// SAFETY: it is only written through, and each task writes its own images and channels.
unsafe impl<T: Send> Sync for Target<T> {}

/// y (N, O, H', W') as elements; `bias` (O).
pub(in crate::ops) fn forward<T: Float>(
    g: &Geometry,
    isa: Isa,
    x: &[T],
    weight: &[T],
    bias: Option<&[T]>,
    ending: Ending<'_, T>,
) -> Vec<T> {
    let (source, phase) = windows(g);
    let taps = phase.taps.len();
    let blocks = blocks(g.convolution.groups, g.group_outputs(), g.group_inputs() * source.plane(), isa, |block| {
        let mut rows = vec![T::zero(); taps * block.kernel.lanes];
        pack(&block.kernel, &weight[block.first * taps..][..block.count * taps], block.count, taps, &mut rows);
        block.rows = vec![rows];
        if let Some(bias) = bias {
            block.initial[..block.count].copy_from_slice(&bias[block.first..][..block.count]);
        }
    });
    let sweep = Sweep {
        images: g.images,
        source,
        source_image: g.inputs * g.input_pixels(),
        target_channels: g.outputs,
        target_plane: g.pixels(),
        phases: vec![phase],
        blocks,
    };
    sweep.run(x, ending)
}

/// dX (N, C, H, W) as elements.
pub(in crate::ops) fn input_gradient<T: Float>(g: &Geometry, isa: Isa, dy: &[T], weight: &[T]) -> Vec<T> {
    let axes = [Axis::new(g, 0), Axis::new(g, 1)];
    let [rows, columns] = &axes;
    let source = Padded::new(g.outputs, g.output, [rows.before, columns.before], [rows.after, columns.after]);
    let (pitch, plane) = (source.padded[1], source.plane());
    let mut phases = Vec::new();
    // The taps of each phase, as indices of the kernel.
    let mut kernel_taps: Vec<Vec<usize>> = Vec::new();
    for row in &rows.phases {
        for column in &columns.phases {
            let pixels = (0..row.pixels).flat_map(|r| (0..column.pixels).map(move |c| (r, c)));
            let stride = g.convolution.stride;
            let target = |(r, c)| (row.first + r * stride[0]) * g.input[1] + column.first + c * stride[1];
            let each = |o: usize| {
                row.taps.iter().flat_map(move |(_, r)| column.taps.iter().map(move |(_, c)| o * plane + r * pitch + c))
            };
            kernel_taps.push(
                row.taps.iter().flat_map(|(i, _)| column.taps.iter().map(move |(j, _)| i * g.kernel[1] + j)).collect(),
            );
            phases.push(Phase {
                starts: pixels.clone().map(|(r, c)| offset(r * pitch + c)).collect(),
                targets: pixels.map(|at| offset(target(at))).collect(),
                taps: (0..g.group_outputs()).flat_map(each).map(offset).collect(),
            });
        }
    }
    let (inputs, outputs, taps) = (g.group_inputs(), g.group_outputs(), g.taps());
    let blocks = blocks(g.convolution.groups, inputs, outputs * plane, isa, |block| {
        let (group, first) = (block.first / inputs, block.first % inputs);
        let lanes = block.kernel.lanes;
        let pack = |kernel_taps: &Vec<usize>| {
            let mut rows = vec![T::zero(); outputs * kernel_taps.len() * lanes];
            let each = (0..outputs).flat_map(|o| kernel_taps.iter().map(move |tap| (o, tap)));
            for (row, (o, tap)) in rows.chunks_exact_mut(lanes).zip(each) {
                let from = &weight[((group * outputs + o) * inputs + first) * taps + tap..];
                row.iter_mut().zip(from.iter().step_by(taps)).take(block.count).for_each(|(to, from)| *to = *from);
            }
            rows
        };
        block.rows = kernel_taps.iter().map(pack).collect();
    });
    let sweep = Sweep {
        images: g.images,
        source,
        source_image: g.outputs * g.pixels(),
        target_channels: g.inputs,
        target_plane: g.input_pixels(),
        phases,
        blocks,
    };
    sweep.run(dy, Ending::NONE)
}

/// dW (O, C/groups, kh, kw) as elements.
pub(in crate::ops) fn weight_gradient<T: Float>(g: &Geometry, isa: Isa, dy: &[T], x: &[T]) -> Vec<T> {
    let (source, phase) = windows(g);
    let taps = phase.taps.len();
    let (pixels, image, out_image) = (g.pixels(), g.inputs * g.input_pixels(), g.outputs * g.pixels());
    let blocks = blocks::<T>(g.convolution.groups, g.group_outputs(), g.group_inputs() * source.plane(), isa, |_| ());
    // Few partial sums for large weights, which have many blocks to share out instead.
    let Parts { chunk, chunks, share, group } =
        Parts::new(g.images, pixels, blocks.len(), (PARTIAL / g.weights()).clamp(1, TASKS));
    let starts = over_images(&phase.starts, group, source.image());
    let shares: Vec<&[Block<T>]> = blocks.chunks(share).collect();
    let tasks: Vec<(usize, &[Block<T>])> =
        shares.iter().flat_map(|share| (0..chunks).map(move |chunk| (chunk, *share))).collect();
    let partial = tasks.into_par_iter().map(|(index, share)| {
        let mut sums: Vec<Vec<T>> = share.iter().map(|block| vec![T::zero(); taps * block.kernel.lanes]).collect();
        let (mut margins, mut rows, mut buffer) = (Vec::new(), Vec::new(), [T::zero(); _]);
        let images = index * chunk..((index + 1) * chunk).min(g.images);
        for first in images.clone().step_by(group) {
            let count = group.min(images.end - first);
            let padded = source.copy(&x[first * image..][..count * image], &mut margins);
            let dy = &dy[first * out_image..][..count * out_image];
            for (block, sums) in share.iter().zip(&mut sums) {
                let (kernel, lanes) = (block.kernel, block.kernel.lanes);
                rows.resize(rows.len().max(count * pixels * lanes), T::zero());
                for (to, dy) in rows.chunks_exact_mut(pixels * lanes).zip(dy.chunks_exact(out_image)) {
                    let from = &dy[block.first * pixels..][..block.count * pixels];
                    pack(&kernel, from, block.count, pixels, to);
                }
                let reach = &starts[..count * pixels];
                for first in (0..taps).step_by(kernel.pixels) {
                    let tile = std::array::from_fn(|p| phase.taps[(first + p).min(taps - 1)]);
                    let zero = &[T::zero(); TILE * 6][..lanes];
                    #[expect(unsafe_code, reason = "the kernel reads through pointers")]
                    // SAFETY: `windows` keeps every start plus every tap within the channels of a group of a padded image,
                    // and `over_images` within `count` of them, which `padded` holds; `rows` has a row of lanes for each
                    // pixel and `zero` one.
                    unsafe {
                        let x = padded[block.source..].as_ptr();
                        kernel.tile(x, &tile, reach, rows.as_ptr(), zero.as_ptr(), &mut buffer);
                    }
                    let sums = sums[first * lanes..].iter_mut().take(kernel.pixels * lanes);
                    sums.zip(&buffer).for_each(|(sum, part)| *sum += *part);
                }
            }
        }
        sums
    });
    let partial: Vec<Vec<Vec<T>>> = partial.collect();
    let mut dw = vec![T::zero(); g.weights()];
    let mut targets: Vec<(&Block<T>, &mut [T], usize, usize)> = Vec::new();
    let mut rest = &mut dw[..];
    for (s, share) in shares.iter().enumerate() {
        for (b, block) in share.iter().enumerate() {
            let (part, left) = rest.split_at_mut(block.count * taps);
            targets.push((block, part, s, b));
            rest = left;
        }
    }
    targets.into_par_iter().for_each(|(block, dw, s, b)| {
        let lanes = block.kernel.lanes;
        // Chunk after chunk, whichever finished first: the order of a sum is part of its result.
        let mut total = partial[s * chunks][b].clone();
        for part in &partial[s * chunks + 1..][..chunks - 1] {
            total.iter_mut().zip(&part[b]).for_each(|(total, part)| *total += *part);
        }
        #[expect(unsafe_code, reason = "the transpose reads and writes through pointers")]
        // SAFETY: `total` has `taps` rows of `lanes` numbers, of which `count` become rows of `taps` in `dw`.
        unsafe {
            block.kernel.transpose(total.as_ptr(), lanes, [taps, block.count], dw.as_mut_ptr(), taps);
        }
    });
    dw
}

/// db (O): the sums of dY over images and pixels, in f64.
pub(in crate::ops) fn bias_gradient<T: Float>(dy: &[T], outputs: usize, pixels: usize) -> Vec<T> {
    let sum = |o: usize| dy.chunks_exact(pixels).skip(o).step_by(outputs).map(crate::ops::sum).sum::<f64>();
    (0..outputs).into_par_iter().with_min_len(4).map(|o| T::from_f64(sum(o))).collect()
}

/// The padded input of a convolution, and the windows of its output pixels.
fn windows(g: &Geometry) -> (Padded, Phase) {
    let (stride, padding, dilation) = (g.convolution.stride, g.convolution.padding, g.convolution.dilation);
    let source = Padded::new(g.inputs, g.input, padding, padding);
    let (pitch, plane) = (source.padded[1], source.plane());
    let pixels = (0..g.output[0]).flat_map(|r| (0..g.output[1]).map(move |c| (r, c)));
    let kernel = (0..g.kernel[0]).flat_map(|i| (0..g.kernel[1]).map(move |j| (i, j)));
    let tap = |c: usize| kernel.clone().map(move |(i, j)| c * plane + i * dilation[0] * pitch + j * dilation[1]);
    let phase = Phase {
        starts: pixels.map(|(r, c)| offset(r * stride[0] * pitch + c * stride[1])).collect(),
        targets: (0..g.pixels()).map(offset).collect(),
        taps: (0..g.group_inputs()).flat_map(tap).map(offset).collect(),
    };
    (source, phase)
}

/// The blocks of `groups` groups of `channels` target channels; `source` elements of a padded image belong to each group.
fn blocks<T: Float>(
    groups: usize,
    channels: usize,
    source: usize,
    isa: Isa,
    fill: impl Fn(&mut Block<T>) + Sync + Send,
) -> Vec<Block<T>> {
    let mut blocks = Vec::new();
    for group in 0..groups {
        let mut first = 0;
        for kernel in T::kernels(isa, channels) {
            let count = kernel.lanes.min(channels - first);
            blocks.push(Block {
                kernel,
                first: group * channels + first,
                count,
                source: group * source,
                initial: vec![T::zero(); kernel.lanes],
                rows: Vec::new(),
            });
            first += count;
        }
    }
    blocks.par_iter_mut().for_each(fill);
    blocks
}

/// `rows` rows of `columns` numbers as columns of a matrix whose rows have the kernel's lanes.
fn pack<T: Float>(kernel: &Kernel<T>, from: &[T], rows: usize, columns: usize, to: &mut [T]) {
    assert!(from.len() == rows * columns && to.len() >= columns * kernel.lanes && rows <= kernel.lanes);
    #[expect(unsafe_code, reason = "the transpose reads and writes through pointers")]
    // SAFETY: both matrices fit their slices, asserted above.
    unsafe {
        kernel.transpose(from.as_ptr(), columns, [rows, columns], to.as_mut_ptr(), kernel.lanes);
    }
}

/// The same places in `images` images of `image` elements.
fn over_images(places: &[u32], images: usize, image: usize) -> Vec<u32> {
    (0..images).flat_map(|n| places.iter().map(move |place| offset(n * image + *place as usize))).collect()
}

/// An offset within a few images.
///
/// # Panics
/// When they have more than 2³² elements, which [`Geometry::new`] refuses.
fn offset(elements: usize) -> u32 {
    u32::try_from(elements).expect("the images of one task have fewer than 2^32 elements")
}

/// How the input pixels along one axis fall into phases.
struct Axis {
    before: usize,
    after: usize,
    phases: Vec<AxisPhase>,
}

/// The input pixels `first`, `first` + stride, …
struct AxisPhase {
    first: usize,
    pixels: usize,
    /// Taps that reach them, and the padded output pixel that the tap pairs with the first of them.
    taps: Vec<(usize, usize)>,
}

impl Axis {
    /// Input pixel r gets dY[o]·w[i] wherever o·stride + i·dilation − padding = r.
    fn new(g: &Geometry, axis: usize) -> Self {
        let [stride, padding, dilation] = [g.convolution.stride, g.convolution.padding, g.convolution.dilation]
            .map(|pair| isize::try_from(pair[axis]).expect("`Geometry::new` allows 31 bits"));
        let (size, outputs) = (g.input[axis], g.output[axis] as isize);
        let found = (0..size.min(stride as usize)).map(|first| {
            let pixels = (size - first).div_ceil(stride as usize);
            let taps = (0..g.kernel[axis]).filter_map(|i| {
                let at = first as isize + padding - i as isize * dilation;
                (at.rem_euclid(stride) == 0).then_some((i, at.div_euclid(stride)))
            });
            (first, pixels, taps.collect::<Vec<(usize, isize)>>())
        });
        let found: Vec<_> = found.collect();
        let all = || found.iter().flat_map(|(_, pixels, taps)| taps.iter().map(move |(_, at)| (*pixels, *at)));
        let before = all().map(|(_, at)| -at).max().unwrap_or(0).max(0);
        let after = all().map(|(pixels, at)| at + pixels as isize - outputs).max().unwrap_or(0).max(0);
        let phases = found.into_iter().map(|(first, pixels, taps)| {
            let taps = taps.into_iter().map(|(i, at)| (i, (at + before) as usize)).collect();
            AxisPhase { first, pixels, taps }
        });
        Self { before: before as usize, after: after as usize, phases: phases.collect() }
    }
}

impl<T: Float> Sweep<T> {
    fn run(&self, source: &[T], ending: Ending<'_, T>) -> Vec<T> {
        let target_image = self.target_channels * self.target_plane;
        let Parts { chunk, chunks, share, group } =
            Parts::new(self.images, self.target_plane, self.blocks.len(), TASKS);
        let places = |phase: &Phase| {
            let starts = over_images(&phase.starts, group, self.source.image());
            (starts, over_images(&phase.targets, group, target_image))
        };
        let places: Vec<(Vec<u32>, Vec<u32>)> = self.phases.iter().map(places).collect();
        let tasks: Vec<(usize, &[Block<T>])> =
            (0..chunks).flat_map(|chunk| self.blocks.chunks(share).map(move |share| (chunk, share))).collect();
        let mut result: Vec<T> = Vec::with_capacity(self.images * target_image);
        let target = Target(result.as_mut_ptr());
        tasks.into_par_iter().for_each_init(Vec::new, |margins, (index, share)| {
            let images = index * chunk..((index + 1) * chunk).min(self.images);
            for first in images.clone().step_by(group) {
                let count = group.min(images.end - first);
                let source = &source[first * self.source_image..][..count * self.source_image];
                let padded = self.source.copy(source, margins);
                for block in share {
                    let from = first * target_image + block.first * self.target_plane;
                    for (p, (starts, targets)) in places.iter().enumerate() {
                        let pixels = count * self.phases[p].starts.len();
                        #[expect(unsafe_code, reason = "tasks write disjoint parts of one result")]
                        // SAFETY: `from` plus every target of this image group lies within the result's images and the
                        // block's channels, which no other task writes; the phases' targets are different pixels.
                        unsafe {
                            let to = { &target }.0.add(from);
                            self.tiles(block, p, padded, &starts[..pixels], &targets[..pixels], to);
                        }
                    }
                    for image in 0..count {
                        let from = from + image * target_image;
                        #[expect(unsafe_code, reason = "tasks write disjoint parts of one result")]
                        // SAFETY: this task has just written these planes, all pixels of `count` channels of one image.
                        let planes = unsafe {
                            std::slice::from_raw_parts_mut({ &target }.0.add(from), block.count * self.target_plane)
                        };
                        finish(planes, from, ending);
                    }
                }
            }
        });
        #[expect(unsafe_code, reason = "a result that is not zeroed before it is written")]
        // SAFETY: the tasks cover every image and every block of channels, the phases every pixel of a plane.
        unsafe {
            result.set_len(self.images * target_image);
        }
        result
    }

    /// The pixels `targets` of one block and phase.
    ///
    /// # Safety
    /// `to` plus every target plus `count` planes can be written and nobody else does.
    #[expect(unsafe_code, reason = "the kernel reads and writes through pointers")]
    unsafe fn tiles(&self, block: &Block<T>, phase: usize, padded: &[T], starts: &[u32], targets: &[u32], to: *mut T) {
        let (kernel, taps, rows) = (block.kernel, &self.phases[phase].taps, &block.rows[phase]);
        let source = padded[block.source..].as_ptr();
        let mut buffer = [T::zero(); _];
        for first in (0..starts.len()).step_by(kernel.pixels) {
            let valid = kernel.pixels.min(starts.len() - first);
            let tile = std::array::from_fn(|p| starts[(first + p).min(starts.len() - 1)]);
            // SAFETY: every start plus every tap lies within the channels of a group of the padded images, because the
            // margins were made for them; `rows` has a row of lanes for each tap, `initial` one.
            unsafe { kernel.tile(source, &tile, taps, rows.as_ptr(), block.initial.as_ptr(), &mut buffer) };
            let targets = &targets[first..first + valid];
            for run in targets.chunk_by(|a, b| a + 1 == *b) {
                let from = run.as_ptr().addr().wrapping_sub(targets.as_ptr().addr()) / size_of::<u32>() * kernel.lanes;
                let to = to.wrapping_add(run[0] as usize);
                // SAFETY: the tile has a row of lanes for each pixel of the run, the target a plane for each of the block's
                // channels, `target_plane` apart, in which the run's pixels are neighbours.
                unsafe {
                    let from = buffer.as_ptr().add(from);
                    if run.len() == 1 {
                        (0..block.count).for_each(|lane| *to.add(lane * self.target_plane) = *from.add(lane));
                    } else {
                        kernel.transpose(from, kernel.lanes, [run.len(), block.count], to, self.target_plane);
                    }
                }
            }
        }
    }
}

/// Adds and activates what was just written from element `from` of the result on, while it is in the cache.
pub(super) fn finish<T: Float>(values: &mut [T], from: usize, ending: Ending<'_, T>) {
    if let Some(add) = ending.add {
        values.iter_mut().zip(&add[from..]).for_each(|(value, add)| *value += *add);
    }
    match ending.activation {
        Activation::Identity => (),
        activation => {
            with_curve!(activation, curve => values.iter_mut().for_each(|value| *value = curve.value(*value)))
        }
    }
}
