//! Rows on a GPU: candidates by products in f32, settled on the CPU as those by eight bits are.
//!
//! For each image the GPU finds the rows that are closest in f32, [`MARGIN`] more than are asked for. Of these the CPU finds the closest in
//! f64. Every other row is at most as close in f32 as the last of them. [`OnGpu::error`] is how far closeness in f32 can be from that in f64.
//! Where the two leave it open whether another row is among the closest, the image goes the CPU's way. That is so where many rows are nearly
//! the same, or few much longer than the rest. So the rows that are found, and their closeness, are the CPU's to the bit.

use candle_core::{Device, Tensor};
use rayon::prelude::*;

use super::{Candidate, Candidates, Near, Neighbours, product};
use crate::{Result, ops::neighbours, say};

/// Rows that the GPU finds beyond those that are asked for.
pub(super) const MARGIN: usize = 32;
/// The GPU finds no more rows than these and the margin, so that its lists take 300 MB at most; more are looked for on the CPU.
pub(super) const MOST: usize = 1024;
/// Images that go to the GPU at a time, at most; few in tests, so that there are several times.
const IMAGES: usize = if cfg!(test) { 40 } else { 2048 };
/// Values of these images, at most: 64 MiB.
const VALUES: usize = 1 << 24;
/// Bytes of a GPU beside the rows: images, lists and what is found.
const BESIDE: usize = 512 << 20;
/// What a kernel adds to an index, at most.
const INDICES: usize = 1 << 20;
/// Lengths for which the CPU finds what the numbers say (as in the parent's description), and no product in f32 is infinite.
const LENGTHS: std::ops::RangeInclusive<f64> = 1e-10..=1e10;

/// The rows of [`Neighbours`] on a GPU.
pub(super) struct OnGpu {
    device: Device,
    /// (M, D) and (M)
    rows: Tensor,
    offsets: Tensor,
    /// The largest length of a row, and the largest offset.
    length: f64,
    offset: f64,
}

impl OnGpu {
    /// `None` if the device is no GPU, or the rows would take more than half of what is free there: the rest is the networks'. Then
    /// neighbours are looked for on the CPU, as they are if a row's length is out of range.
    pub fn new(of: &Neighbours, device: &Device) -> Option<Self> {
        neighbours::free_memory(device).and_then(|free| Self::in_memory(of, device, free))
    }

    /// The same where so many bytes are free.
    pub fn in_memory(of: &Neighbours, device: &Device, free: usize) -> Option<Self> {
        let values = of.rows.len();
        // Kernels have indices of 32 bits, with room for the places of a tile in each of many blocks.
        if u32::try_from(values + INDICES).is_err() {
            return stays_on_cpu("the rows have too many values for a kernel");
        }
        let bytes = size_of::<f32>() * (values + of.rows()) + BESIDE;
        if bytes > free / 2 {
            return stays_on_cpu(&format!("{} MiB are more than half of what is free on the GPU", bytes >> 20));
        }
        let lengths: Vec<f64> = of.rows.par_chunks_exact(of.columns).map(length).collect();
        if !lengths.iter().all(|length| in_range(*length)) {
            return stays_on_cpu("a row is too long or too short for f32");
        }
        let offsets: Vec<f32> = of.offsets.iter().map(|offset| *offset as f32).collect();
        let largest = |values: &[f64]| values.iter().fold(0.0, |largest: f64, value| largest.max(value.abs()));
        let rows = Tensor::from_slice(&of.rows, (of.rows(), of.columns), device);
        let offsets = Tensor::from_vec(offsets, of.rows(), device);
        match (rows, offsets) {
            (Ok(rows), Ok(offsets)) => Some(Self {
                device: device.clone(),
                rows,
                offsets,
                length: largest(&lengths),
                offset: largest(&of.offsets),
            }),
            // Others may have taken the memory meanwhile.
            (Err(error), _) | (_, Err(error)) => stays_on_cpu(&error.to_string()),
        }
    }

    /// As [`Neighbours::closest`].
    pub fn closest(&self, of: &Neighbours, images: &[f32], k: usize) -> Result<Vec<Vec<Near>>> {
        if k > MOST {
            return of.closest_on_cpu(images, k);
        }
        let mut found = match self.surely_closest(of, images, k) {
            Ok(found) => found,
            // Others may have taken the memory meanwhile.
            Err(error) => {
                say(format!("neighbours of {} images are looked for on the CPU: {error}", images.len() / of.columns));
                return of.closest_on_cpu(images, k);
            }
        };
        let open: Vec<usize> = (0..found.len()).filter(|at| found[*at].is_none()).collect();
        let rest: Vec<f32> = open.iter().flat_map(|at| &images[at * of.columns..][..of.columns]).copied().collect();
        for (at, closest) in open.into_iter().zip(of.closest_on_cpu(&rest, k)?) {
            found[at] = Some(closest);
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// The `k` closest rows to each image, `None` where f32 leaves open which they are. `k` is at most [`MOST`].
    pub fn surely_closest(&self, of: &Neighbours, images: &[f32], k: usize) -> Result<Vec<Option<Vec<Near>>>> {
        let (columns, most) = (of.columns, (k + MARGIN).min(of.rows()));
        let mut all = Vec::with_capacity(images.len() / columns);
        for images in images.chunks((VALUES / columns).clamp(1, IMAGES) * columns) {
            let found = self.found(images, columns, most)?;
            let each = images.par_chunks_exact(columns).zip(found.par_chunks_exact(most));
            all.par_extend(each.map(|(image, found)| self.settled(of, image, found, k)));
        }
        Ok(all)
    }

    /// The GPU's `most` rows of each image, each a pair of closeness and row, the closest first.
    pub fn found(&self, images: &[f32], columns: usize, most: usize) -> Result<Vec<[f64; 2]>> {
        let images = Tensor::from_slice(images, (images.len() / columns, columns), &self.device)?;
        let found = neighbours::closest(&images, &self.rows, &self.offsets, most)?;
        Ok(found.flatten_all()?.to_vec1()?.as_chunks::<2>().0.to_vec())
    }

    /// The closest in f64 of these pairs of closeness and row, if no other row can be among them.
    fn settled(&self, of: &Neighbours, image: &[f32], found: &[[f64; 2]], k: usize) -> Option<Vec<Near>> {
        let length = length(image);
        if !in_range(length) {
            return None;
        }
        let error = self.error(of.columns, length);
        let mut candidates = Candidates::new(k);
        candidates.found.extend(found.iter().map(|[closeness, row]| Candidate {
            lower: ((closeness - error) as f32).next_down(),
            upper: ((closeness + error) as f32).next_up(),
            row: *row as u32,
        }));
        candidates.settle(of, image);
        // A tie is open too: of equals the first row is closer, and it may be another.
        let [least, _] = found[found.len() - 1];
        let sure = found.len() == of.rows() || candidates.last().is_some_and(|last| least + error < last);
        sure.then(|| candidates.into_closest())
    }

    /// How far an image's closeness to a row in f32 can be from that in f64, for an image of this length.
    ///
    /// A closeness is x·y + o. With u = 2⁻²⁴ and γ_h = h·u / (1 − h·u), its sum in f32 is off by at most γ_h·(Σ|x_i·y_i| + |o|) if no term
    /// meets more than h roundings, in whatever order it is summed (Higham, *Accuracy and Stability of Numerical Algorithms*, 3.1 and 4.2).
    /// Σ|x_i·y_i| is at most ‖x‖·‖y‖. Of one long sum h would be D + 1. The kernel adds up [`neighbours::CHUNK`] products, then these sums,
    /// then o. A term meets a rounding of its product and one of each addition but the first. Products that are fused with additions
    /// meet fewer. One more rounding is more than all of f64, D · 2⁻⁵³ with D ≤ 66,000.
    ///
    /// What is lost where numbers are too small for f32 is no more than its smallest normal number, for each product and each sum.
    pub fn error(&self, columns: usize, length: f64) -> f64 {
        let roundings = (columns.min(neighbours::CHUNK) + columns.div_ceil(neighbours::CHUNK) + 1) as f64;
        let rounding = roundings * 2.0_f64.powi(-24);
        let lost = (2 * columns + 2) as f64 * f64::from(f32::MIN_POSITIVE);
        // The lengths themselves are rounded, in f64.
        1.001 * (rounding / (1.0 - rounding) * (length * self.length + self.offset) + lost)
    }
}

/// Says why a GPU is not used.
fn stays_on_cpu(reason: &str) -> Option<OnGpu> {
    say(format!("nearest neighbours are looked for on the CPU: {reason}"));
    None
}

fn length(values: &[f32]) -> f64 {
    product(values, values).sqrt()
}

fn in_range(length: f64) -> bool {
    length == 0.0 || LENGTHS.contains(&length)
}
