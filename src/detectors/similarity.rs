//! Inner products with every train image, some images at a time, and the largest of them.

use candle_core::{Device, Tensor};

use super::{Peak, map_rows};
use crate::Result;

/// Products held at a time. Ours: 64 MiB of f32.
const BLOCK: usize = 16 << 20;
/// The most images that are multiplied at a time.
const TOGETHER: usize = 256;

/// The train images' rows.
pub(super) struct Products {
    transposed: Tensor,
    rows: usize,
    columns: usize,
}

impl Products {
    /// With the rows of (M, D) values.
    pub fn new(values: &[f32], columns: usize) -> Result<Self> {
        let rows = values.len() / columns;
        Ok(Self { transposed: Tensor::from_slice(values, (rows, columns), &Device::Cpu)?.t()?, rows, columns })
    }

    /// How many images to multiply at a time.
    pub fn together(&self) -> usize {
        (BLOCK / self.rows).clamp(1, TOGETHER)
    }

    /// The products (B, M) of the rows (B, D), at most as many as [`Products::together`]. Always as many are multiplied, so that
    /// a row's products do not depend on its company.
    pub fn of(&self, block: &[f32]) -> Result<Vec<f32>> {
        let mut padded = block.to_vec();
        padded.resize(self.together() * self.columns, 0.0);
        let padded = Tensor::from_vec(padded, (self.together(), self.columns), &Device::Cpu)?;
        let mut products: Vec<f32> = padded.matmul(&self.transposed)?.flatten_all()?.to_vec1()?;
        products.truncate(block.len() / self.columns * self.rows);
        Ok(products)
    }
}

/// The `k` largest of an image's similarities to the train images, the k-th of them last; 1 ≤ k ≤ their number. The index settles
/// ties, so that the same neighbours are found every time.
pub(super) fn nearest(similarities: &[f32], k: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..similarities.len() as u32).collect();
    let by = |a: &u32, b: &u32| similarities[*b as usize].total_cmp(&similarities[*a as usize]).then(a.cmp(b));
    order.select_nth_unstable_by(k - 1, by);
    order.truncate(k);
    order
}

/// ln Σ_c exp f_c of each row of (N, K) logits; errors as [`map_rows`].
pub(super) fn log_sums(logits: &Tensor) -> Result<Vec<f64>> {
    map_rows(logits, |row| Peak::of(row).log_sum())
}
