//! The rows of a bank that are closest to images, on a GPU. `detectors::similarity` looks for them on the CPU, and settles these.

use candle_core::{DType, Device, Result, Shape, Tensor, bail};

#[cfg(any(feature = "cuda", test))]
use super::cuda::{self, Gpu, View};
use super::{
    Float,
    op::{self, Array, Op},
};

/// Products that a kernel adds up in f32 before it adds their sum to that of the products before; `CHUNK` of neighbours.cu.
pub(crate) const CHUNK: usize = 32;

/// Bytes that are free on a GPU; `None` of another device.
pub(crate) fn free_memory(device: &Device) -> Option<usize> {
    #[cfg(test)]
    if cuda::emulator::is_active() {
        return Some(1 << 32);
    }
    match device {
        #[cfg(feature = "cuda")]
        Device::Cuda(cuda) => cuda.cuda_stream().context().mem_get_info().ok().map(|(free, _)| free),
        _ => None,
    }
}

/// For each of (N, D) f32 `images` the `most` of (M, D) `rows` whose product with it, in f32, and offset (M) are largest: (N, most, 2) f64,
/// this closeness and the row, the closest first and of equals the first. NaN is never among them. 1 ≤ `most` ≤ M.
///
/// # Errors
/// If shapes or types do not fit, or the tensors are not on a GPU.
pub(crate) fn closest(images: &Tensor, rows: &Tensor, offsets: &Tensor, most: usize) -> Result<Tensor> {
    let ((_, columns), (count, of_rows)) = (images.dims2()?, rows.dims2()?);
    if images.dtype() != DType::F32 || columns != of_rows || offsets.dims() != [count] {
        bail!("{}: {columns} columns of {:?}, {of_rows} of the rows", Closest::NAME, images.dtype());
    }
    if !(1..=count).contains(&most) {
        bail!("{}: {most} of {count} rows", Closest::NAME);
    }
    op::apply_no_grad(&Closest { most }, [images, rows, offsets])
}

struct Closest {
    most: usize,
}

impl Op<3> for Closest {
    const NAME: &'static str = "neighbours";

    fn cpu<T: Float>(&self, _: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        bail!("{}: {} rows for each image, on the CPU", Self::NAME, self.most)
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: Gpu>(&self, [images, rows, offsets]: [View<'_, G>; 3]) -> Result<(G, Shape)> {
        cuda::neighbours::closest(images, rows, offsets, self.most)
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng as _;

    use super::*;
    use crate::ops::emulated;

    /// Quarters from -1 to 1, whose sums f32 holds exactly in any order.
    fn quarters(name: &str, count: usize) -> Vec<f32> {
        let mut rng = crate::rng::stream(0, "neighbours test", name);
        (0..count).map(|_| rng.random_range(-4..=4) as f32 / 4.0).collect()
    }

    /// Closeness and row of all rows, the closest first.
    fn sorted(image: &[f32], rows: &[f32], offsets: &[f32]) -> Vec<(f32, usize)> {
        let each = rows.chunks_exact(image.len()).zip(offsets).map(|(row, offset)| {
            let product: f32 = row.iter().zip(image).map(|(a, b)| a * b).sum();
            product + offset
        });
        let mut all: Vec<(f32, usize)> = each.zip(0..).collect();
        // Stable, so that of equals the first row stays first.
        all.sort_by(|a, b| b.0.partial_cmp(&a.0).unwrap());
        all
    }

    fn tensor(values: &[f32], shape: impl Into<Shape>) -> Tensor {
        Tensor::from_slice(values, shape.into(), &Device::Cpu).unwrap()
    }

    #[track_caller]
    fn check(images: &[f32], rows: &[f32], offsets: &[f32], columns: usize, most: usize) {
        let (count, of) = (images.len() / columns, rows.len() / columns);
        let [images_in, rows_in] = [(images, count), (rows, of)].map(|(values, n)| tensor(values, (n, columns)));
        let found = emulated(|| closest(&images_in, &rows_in, &tensor(offsets, of), most)).unwrap();
        let found = found.to_vec3::<f64>().unwrap();
        assert_eq!(found.len(), count);
        for (at, (image, found)) in images.chunks_exact(columns).zip(found).enumerate() {
            let found: Vec<(f32, usize)> = found.iter().map(|pair| (pair[0] as f32, pair[1] as usize)).collect();
            let expected = &sorted(image, rows, offsets)[..most];
            assert_eq!(found, expected, "image {at} of {count}, {of} rows of {columns}, {most}");
        }
    }

    #[test]
    fn the_closest_of_all_rows() {
        for columns in [3, 64, 176] {
            // Not multiples of a tile; one row; parts without rows.
            for (images, rows) in [(1, 333), (70, 300), (130, 64), (2, 1), (3, 65)] {
                let x = quarters(&format!("images {images} {columns}"), images * columns);
                let bank = quarters(&format!("rows {rows} {columns}"), rows * columns);
                let offsets = quarters(&format!("offsets {rows}"), rows);
                for most in [1, 9, 50, rows] {
                    check(&x, &bank, &offsets, columns, most.min(rows));
                }
            }
        }
    }

    /// Ties are many where columns are few, and all where rows are the same.
    #[test]
    fn of_equals_the_first() {
        let (x, zero) = (quarters("images", 9), vec![0.0; 3 * 400]);
        for most in [1, 9, 50, 400] {
            check(&x, &zero, &[0.5; 400], 3, most);
            check(&x, &[0.25; 3 * 400], &[0.0; 400], 3, most);
            check(&x, &quarters("few", 3 * 400), &[0.0; 400], 3, most);
            check(&[0.0; 6], &quarters("few", 3 * 400), &[0.0; 400], 3, most);
        }
    }

    /// An offset of −∞ puts a row behind all others, and not out.
    #[test]
    fn rows_may_be_infinitely_far() {
        let (x, bank) = (quarters("images", 5 * 64), quarters("rows", 200 * 64));
        let offsets: Vec<f32> = (0..200).map(|row| if row % 3 == 0 { 0.0 } else { f32::NEG_INFINITY }).collect();
        for most in [1, 50, 67, 120, 200] {
            check(&x, &bank, &offsets, 64, most);
        }
        check(&x, &bank, &[f32::NEG_INFINITY; 200], 64, 9);
    }

    #[test]
    fn nan_is_not_close() {
        let (x, bank) = (quarters("images", 2 * 5), quarters("rows", 90 * 5));
        let mut offsets = [0.0; 90];
        offsets[7] = f32::NAN;
        let found = emulated(|| closest(&tensor(&x, (2, 5)), &tensor(&bank, (90, 5)), &tensor(&offsets, 90), 89));
        for found in found.unwrap().to_vec3::<f64>().unwrap() {
            let mut rows: Vec<usize> = found.iter().map(|pair| pair[1] as usize).collect();
            rows.sort_unstable();
            assert_eq!(rows, (0..90).filter(|row| *row != 7).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let (x, bank, offsets) = (tensor(&[0.0; 6], (2, 3)), tensor(&[0.0; 12], (4, 3)), tensor(&[0.0; 4], 4));
        for (x, offsets, most) in [(&x, &offsets, 0), (&x, &offsets, 5), (&x, &tensor(&[0.0; 3], 3), 1)] {
            assert!(emulated(|| closest(x, &bank, offsets, most)).is_err());
        }
        assert!(emulated(|| closest(&tensor(&[0.0; 8], (2, 4)), &bank, &offsets, 1)).is_err());
        assert!(closest(&x, &bank, &offsets, 1).is_err(), "it is on the CPU");
    }
}
