//! The similarity of each pixel to the mean of its cell.

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{LEAST_NORM, plain};
use crate::ops::{
    Float,
    fresh::fresh,
    op::{self, Array, Op},
    wide::wide,
};

/// The cosine of the angle between each pixel of `x` (N, C, H, W) and the vector of its cell in `means` (N, C, h, w): (N, H, W).
///
/// Cells are H/h × W/w pixels. Vectors shorter than 1e-12 are not made longer, as in PyTorch's `normalize`; unlike there, they have no
/// gradient, which would be 1e12 times that of others.
///
/// # Errors
/// When the shapes do not fit, cells are not of one size, or there are no values.
pub fn cosine_similarity(x: &Tensor, means: &Tensor) -> Result<Tensor> {
    let cells = Cells::new(x, means)?;
    match op::is_on_gpu(x) {
        true => plain::cosine_similarity(x, means),
        false => op::apply(Cosine(cells), [x, means]),
    }
}

#[derive(Debug, Clone, Copy)]
struct Cells {
    channels: usize,
    /// Rows and columns of the image.
    size: [usize; 2],
    /// Rows and columns of cells.
    cells: [usize; 2],
}

impl Cells {
    fn new(x: &Tensor, means: &Tensor) -> Result<Self> {
        let ((images, channels, height, width), (rows, features, down, across)) = (x.dims4()?, means.dims4()?);
        let fit = images == rows && channels == features && x.elem_count() > 0;
        if !fit || down == 0 || across == 0 || height % down != 0 || width % across != 0 {
            bail!("cosine_similarity: pixels {:?} and means {:?} do not fit", x.dims(), means.dims());
        }
        Ok(Self { channels, size: [height, width], cells: [down, across] })
    }

    fn pixels(self) -> usize {
        self.size[0] * self.size[1]
    }

    fn count(self) -> usize {
        self.cells[0] * self.cells[1]
    }

    /// A plane of cells as a plane of pixels.
    fn spread<T: Float>(self, cells: &[T], pixels: &mut [T]) {
        let ([height, width], [down, across]) = (self.size, self.cells);
        let band = height / down * width;
        for (cells, rows) in cells.chunks(across).zip(pixels.chunks_mut(band)) {
            let (first, others) = rows.split_at_mut(width);
            for (cell, pixels) in cells.iter().zip(first.chunks_mut(width / across)) {
                pixels.fill(*cell);
            }
            others.chunks_mut(width).for_each(|row| row.copy_from_slice(first));
        }
    }

    /// Sums of a plane of pixels over cells.
    fn gather<T: Float>(self, pixels: &[T], cells: &mut [T]) {
        let ([height, width], [down, across]) = (self.size, self.cells);
        let mut line = vec![T::zero(); width];
        for (cells, rows) in cells.chunks_mut(across).zip(pixels.chunks(height / down * width)) {
            line.fill(T::zero());
            for row in rows.chunks(width) {
                line.iter_mut().zip(row).for_each(|(sum, value)| *sum += *value);
            }
            for (cell, part) in cells.iter_mut().zip(line.chunks(width / across)) {
                *cell = part.iter().fold(T::zero(), |sum, value| sum + *value);
            }
        }
    }

    /// 1 / length of the vectors of `planes` of so many elements: of each pixel, or of each cell.
    fn inverse_norms<T: Float>(values: &[T], plane: usize) -> Vec<T> {
        let mut sums = vec![T::zero(); plane];
        wide!(for values in values.chunks(plane) {
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += *value * *value);
        });
        sums.iter().map(|sum| T::from_f64(1.0 / sum.to_f64().sqrt().max(LEAST_NORM))).collect()
    }
}

struct Cosine(Cells);

impl Op<2> for Cosine {
    const NAME: &'static str = "cosine_similarity";

    fn cpu<T: Float>(&self, [x, means]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let cells = self.0;
        let (images, [height, width]) = (x.shape.dims4()?.0, cells.size);
        let y = fresh(images * cells.pixels(), |y| {
            let images = y.par_chunks(cells.pixels()).zip(x.data.par_chunks(cells.channels * cells.pixels()));
            let images = images.zip(means.data.par_chunks(cells.channels * cells.count()));
            let images = images.map(|((y, x), means)| {
                let [mut products, mut mean] = [vec![T::zero(); cells.pixels()], vec![T::zero(); cells.pixels()]];
                for (x, means) in x.chunks(cells.pixels()).zip(means.chunks(cells.count())) {
                    cells.spread(means, &mut mean);
                    wide!(products.iter_mut().zip(x.iter().zip(&mean)).for_each(|(sum, (x, mean))| *sum += *x * *mean));
                }
                let of_pixels = Cells::inverse_norms(x, cells.pixels());
                cells.spread(&Cells::inverse_norms(means, cells.count()), &mut mean);
                let scales = of_pixels.iter().zip(&mean).map(|(pixel, mean)| *pixel * *mean);
                y.write(products.iter().zip(scales).map(|(product, scale)| *product * scale))
            });
            images.sum()
        });
        Ok((y, (images, height, width).into()))
    }

    fn gradients(&self, [x, means]: [&Tensor; 2], y: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let packed = op::apply_no_grad(&CosineGradient { cells: self.0, y }, [x, means, dy])?;
        let of_x = packed.narrow(0, 0, x.elem_count())?.reshape(x.shape())?;
        let of_means = packed.narrow(0, x.elem_count(), means.elem_count())?.reshape(means.shape())?;
        Ok([Some(of_x), Some(of_means)])
    }
}

/// (x, means, dY) to the gradients of x and of the means, one after the other.
///
/// With y = x·m / (|x|·|m|): dx = dy·(m/|m| − y·x/|x|) / |x|, and the same of m with the roles exchanged.
struct CosineGradient<'a> {
    cells: Cells,
    y: &'a Tensor,
}

impl Op<3> for CosineGradient<'_> {
    const NAME: &'static str = "cosine_similarity's gradient";

    fn cpu<T: Float>(&self, [x, means, dy]: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        let cells = self.cells;
        let (pixels, count, channels) = (cells.pixels(), cells.count(), cells.channels);
        let y = self.y.flatten_all()?.to_vec1::<T>()?;
        // A vector without a direction has no gradient; the others have one through it.
        let most = T::from_f64(0.999 / LEAST_NORM);
        let directed = |scale: &T| if *scale < most { *scale } else { T::zero() };
        let packed = fresh(x.data.len() + means.data.len(), |packed| {
            let (of_x, of_means) = packed.split_at(x.data.len());
            let images = of_x.par_chunks(channels * pixels).zip(of_means.par_chunks(channels * count));
            let images = images.zip(x.data.par_chunks(channels * pixels)).zip(means.data.par_chunks(channels * count));
            let images = images.zip(y.par_chunks(pixels)).zip(dy.data.par_chunks(pixels));
            let images = images.map(|(((((of_x, of_means), x), means), y), dy)| {
                let of_pixels = Cells::inverse_norms(x, pixels);
                let of_cells = Cells::inverse_norms(means, count);
                let mut mean = vec![T::zero(); pixels];
                cells.spread(&of_cells, &mut mean);
                // dx = across·m − along·x; dm = Σ across·x − along·m.
                let across: Vec<T> =
                    dy.iter().zip(of_pixels.iter().zip(&mean)).map(|(dy, (x, m))| *dy * *x * *m).collect();
                let weighted: Vec<T> = dy.iter().zip(y).map(|(dy, y)| *dy * *y).collect();
                let [mut of_mean, mut products] = [vec![T::zero(); count], vec![T::zero(); pixels]];
                cells.gather(&weighted, &mut of_mean);
                let along = |weighted: &[T], scales: &[T]| -> Vec<T> {
                    let scales = scales.iter().map(directed);
                    weighted.iter().zip(scales).map(|(dy, scale)| *dy * scale * scale).collect()
                };
                let (along, along_mean) = (along(&weighted, &of_pixels), along(&of_mean, &of_cells));
                let only = |scale: &T, value: T| if *scale < most { value } else { T::zero() };
                let across_x: Vec<T> =
                    across.iter().zip(&of_pixels).map(|(value, scale)| only(scale, *value)).collect();
                let planes = of_x.chunks(pixels).zip(of_means.chunks(count));
                let planes = planes.zip(x.chunks(pixels).zip(means.chunks(count)));
                let planes = planes.map(|((of_x, of_means), (x, means))| {
                    cells.spread(means, &mut mean);
                    wide!({
                        let scaled = products.iter_mut().zip(across.iter().zip(x));
                        scaled.for_each(|(product, (scale, x))| *product = *scale * *x);
                    });
                    cells.gather(&products, &mut of_mean);
                    let pixels = across_x.iter().zip(&mean).zip(along.iter().zip(x));
                    let of_x = of_x.write(pixels.map(|((across, m), (along, x))| *across * *m - *along * *x));
                    let means = of_mean.iter().zip(along_mean.iter().zip(means)).zip(&of_cells);
                    let means = means.map(|((sum, (along, mean)), scale)| only(scale, *sum) - *along * *mean);
                    [of_x, of_means.write(means)].into_iter().sum()
                });
                planes.sum()
            });
            images.sum()
        });
        let shape = packed.len().into();
        Ok((packed, shape))
    }
}
