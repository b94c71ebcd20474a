//! Layer normalisation (Ba et al. 2016) of every pixel over its channels, of maps that lie channel after channel.
//!
//! Of the C values of a pixel: x̂ = (x − mean) / √(var + ε) with mean and biased variance, y = γ·x̂ + β per channel. With g = γ·dy, and means
//! over the channels of a pixel: dx = (g − mean(g) − x̂·mean(g·x̂)) / √(var + ε).

use std::ops::Range;

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{
    Float,
    elementwise::BLOCK,
    float::sums_of,
    fresh::{Written, fresh},
    group_norm,
    op::{self, Array, Op},
    packed::unpack,
    wide::wide,
};

/// Pixels whose sums over channels one task takes; fixed, so that tasks do not depend on threads.
const RUN: usize = 256;

/// Normalises each pixel of `x` (N, C, H, W) over its channels, scales by `weight` (C) and shifts by `bias` (C): `torch.nn.LayerNorm(C)` of
/// the same maps with their channels last. f32 or f64.
///
/// # Errors
/// When the shapes do not fit together, or there are no values.
pub fn layer_norm2d(x: &Tensor, weight: &Tensor, bias: &Tensor, epsilon: f64) -> Result<Tensor> {
    let (images, channels, rows, columns) = x.dims4()?;
    if weight.dims() != [channels] || bias.dims() != [channels] || x.elem_count() == 0 {
        bail!("layer_norm2d: input {:?}, weight {:?} and bias {:?} do not fit", x.dims(), weight.dims(), bias.dims());
    }
    if op::is_on_gpu(x) {
        // One group of all channels of what is a row for each pixel.
        let pixels = x.permute((0, 2, 3, 1))?.contiguous()?.reshape((images * rows * columns, channels))?;
        let y = group_norm(&pixels, weight, bias, 1, epsilon, false)?;
        return y.reshape((images, rows, columns, channels))?.permute((0, 3, 1, 2))?.contiguous();
    }
    op::apply(LayerNorm2d { epsilon }, [x, weight, bias])
}

#[derive(Clone, Copy)]
struct LayerNorm2d {
    epsilon: f64,
}

/// The sizes of an input.
#[derive(Clone, Copy)]
struct Sizes {
    images: usize,
    channels: usize,
    /// Elements of a channel of an image.
    pixels: usize,
}

impl Sizes {
    fn of(shape: &Shape) -> Result<Self> {
        let (images, channels, rows, columns) = shape.dims4()?;
        Ok(Self { images, channels, pixels: rows * columns })
    }

    /// Planes that one parallel task handles.
    fn planes_a_task(self) -> usize {
        (BLOCK / self.pixels).max(1)
    }

    /// What `of` says of an image and some of its pixels, as `M` arrays of all pixels of all images.
    fn gather<T: Float, const M: usize>(self, of: impl Fn(usize, Range<usize>) -> [Vec<T>; M] + Sync) -> [Vec<T>; M] {
        let runs = self.pixels.div_ceil(RUN);
        let tasks = (0..self.images * runs).into_par_iter().map(|task| {
            let start = task % runs * RUN;
            of(task / runs, start..(start + RUN).min(self.pixels))
        });
        let mut all = [const { Vec::new() }; M];
        for parts in tasks.collect::<Vec<_>>() {
            all.iter_mut().zip(parts).for_each(|(all, part)| all.extend(part));
        }
        all
    }

    /// The channel of plane number `plane`, and the pixels of its image among those of all.
    fn place(self, plane: usize) -> (usize, Range<usize>) {
        let first = plane / self.channels * self.pixels;
        (plane % self.channels, first..first + self.pixels)
    }

    /// The planes of one image.
    fn image<T>(self, values: &[T], image: usize) -> impl Iterator<Item = &[T]> {
        let size = self.channels * self.pixels;
        values[image * size..(image + 1) * size].chunks(self.pixels)
    }
}

impl LayerNorm2d {
    /// Mean and 1/√(var + ε) of each pixel of each image.
    fn moments<T: Float>(&self, sizes: Sizes, x: &[T]) -> [Vec<T>; 2] {
        let channels = sizes.channels as f64;
        sizes.gather(|image, pixels| {
            wide!({
                let planes = || sizes.image(x, image).map(|plane| &plane[pixels.clone()]);
                let mut sums = vec![0.0; pixels.len()];
                for plane in planes() {
                    sums.iter_mut().zip(plane).for_each(|(sum, x)| *sum += x.to_f64());
                }
                let mean: Vec<T> = sums.iter().map(|sum| T::from_f64(sum / channels)).collect();
                let mut squares = vec![0.0; pixels.len()];
                for plane in planes() {
                    squares.iter_mut().zip(plane).zip(&mean).for_each(|((squares, x), mean)| {
                        let distance = (*x - *mean).to_f64();
                        *squares += distance * distance;
                    });
                }
                let scale = squares.iter().map(|squares| T::from_f64(1.0 / (squares / channels + self.epsilon).sqrt()));
                let scale = scale.collect();
                [mean, scale]
            })
        })
    }
}

impl Op<3> for LayerNorm2d {
    const NAME: &'static str = "layer_norm2d";

    fn cpu<T: Float>(&self, [x, weight, bias]: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        let sizes = Sizes::of(x.shape)?;
        let [mean, scale] = self.moments(sizes, x.data);
        let y = fresh(x.data.len(), |y| {
            let planes = y.par_chunks(sizes.pixels).zip(x.data.par_chunks(sizes.pixels)).enumerate();
            let planes = planes.with_min_len(sizes.planes_a_task()).map(|(plane, (y, x))| {
                let (channel, pixels) = sizes.place(plane);
                let (weight, bias) = (weight.data[channel], bias.data[channel]);
                let moments = mean[pixels.clone()].iter().zip(&scale[pixels]);
                y.write(x.iter().zip(moments).map(move |(x, (mean, scale))| (*x - *mean) * *scale * weight + bias))
            });
            planes.sum()
        });
        Ok((y, x.shape.clone()))
    }

    fn gradients(&self, [x, weight, _]: [&Tensor; 3], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 3]> {
        let packed = op::apply_no_grad(&Gradient { norm: *self, weight }, [x, dy])?;
        unpack(&packed, x.shape(), weight.elem_count())
    }
}

/// (x, dY) to dX, dW and db, packed.
struct Gradient<'a> {
    norm: LayerNorm2d,
    weight: &'a Tensor,
}

impl Gradient<'_> {
    /// mean(g) and mean(g·x̂) of each pixel of each image.
    fn means<T: Float>(sizes: Sizes, weight: &[T], [x, dy]: [&[T]; 2], [mean, scale]: [&[T]; 2]) -> [Vec<T>; 2] {
        sizes.gather(|image, pixels| {
            wide!({
                let first = image * sizes.pixels;
                let of_all = first + pixels.start..first + pixels.end;
                let (mean, scale) = (&mean[of_all.clone()], &scale[of_all]);
                let mut sums = [vec![0.0; pixels.len()], vec![0.0; pixels.len()]];
                let planes = sizes.image(x, image).zip(sizes.image(dy, image)).zip(weight);
                for ((x, dy), weight) in planes {
                    let [total, product] = &mut sums;
                    let values = x[pixels.clone()].iter().zip(&dy[pixels.clone()]).zip(mean.iter().zip(scale));
                    for ((total, product), ((x, dy), (mean, scale))) in total.iter_mut().zip(product).zip(values) {
                        let g = *weight * *dy;
                        *total += g.to_f64();
                        *product += (g * (*x - *mean) * *scale).to_f64();
                    }
                }
                sums.map(|sums| sums.iter().map(|sum| T::from_f64(sum / sizes.channels as f64)).collect())
            })
        })
    }
}

impl Op<2> for Gradient<'_> {
    const NAME: &'static str = "layer_norm2d's gradient";

    fn cpu<T: Float>(&self, [x, dy]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let sizes = Sizes::of(x.shape)?;
        let weight: Vec<T> = self.weight.to_vec1()?;
        let [mean, scale] = self.norm.moments(sizes, x.data);
        let [total, product] = Self::means(sizes, &weight, [x.data, dy.data], [&mean, &scale]);
        let packed = fresh(x.data.len() + 2 * sizes.channels, |packed| {
            let (dx, rest) = packed.split_at(x.data.len());
            let planes = dx.par_chunks(sizes.pixels).zip(x.data.par_chunks(sizes.pixels));
            let planes = planes.zip(dy.data.par_chunks(sizes.pixels)).enumerate().with_min_len(sizes.planes_a_task());
            let planes = planes.map(|(plane, ((dx, x), dy))| {
                let (channel, pixels) = sizes.place(plane);
                let weight = weight[channel];
                let [mean, scale, total, product] =
                    [&mean, &scale, &total, &product].map(|of_all| &of_all[pixels.clone()]);
                let sums = sums_of([x, dy, mean, scale], |[x, dy, mean, scale]| [dy * ((x - mean) * scale), dy]);
                let moments = mean.iter().zip(scale).zip(total.iter().zip(product));
                let values = x.iter().zip(dy).zip(moments).map(|((x, dy), ((mean, scale), (total, product)))| {
                    (weight * *dy - *total - (*x - *mean) * *scale * *product) * *scale
                });
                (dx.write(values), sums)
            });
            let (written, sums): (Vec<Written<'_>>, Vec<[f64; 2]>) = planes.unzip();
            // Image after image, channel after channel.
            let total =
                |c: usize, i: usize| sums.iter().skip(c).step_by(sizes.channels).map(|sums| sums[i]).sum::<f64>();
            let totals = (0..2 * sizes.channels).map(|at| T::from_f64(total(at % sizes.channels, at / sizes.channels)));
            written.into_iter().chain([rest.write(totals)]).sum()
        });
        let shape = packed.len().into();
        Ok((packed, shape))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;

    fn values(name: f64, shape: &[usize], dtype: DType) -> Var {
        let count = shape.iter().product::<usize>() as f64;
        let values = Tensor::arange(0.0, count, &Device::Cpu).unwrap().affine(name, 0.3).unwrap().sin().unwrap();
        Var::from_tensor(&values.reshape(shape).unwrap().to_dtype(dtype).unwrap()).unwrap()
    }

    fn flat(tensor: &Tensor) -> Vec<f64> {
        tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// y, dx, dw and db of Σ y·direction.
    fn all(norm: impl Fn(&Tensor, &Tensor, &Tensor) -> Result<Tensor>, shape: &[usize], dtype: DType) -> Vec<Vec<f64>> {
        let (x, weight, bias) =
            (values(1.7, shape, dtype), values(0.9, &shape[1..2], dtype), values(2.3, &shape[1..2], dtype));
        // Far from 0, so that a variance of raw squares would be lost.
        let x = Var::from_tensor(&(x.as_tensor() + 3.0).unwrap()).unwrap();
        let y = norm(&x, &weight, &bias).unwrap();
        let toward = values(0.7, shape, dtype);
        let gradients = (&y * toward.as_tensor()).unwrap().sum_all().unwrap().backward().unwrap();
        let of = |var: &Var| flat(gradients.get(var).unwrap());
        vec![flat(&y), of(&x), of(&weight), of(&bias)]
    }

    /// Group normalisation of one group knows the same of rows.
    #[test]
    fn a_pixel_is_normalised_as_a_row_of_one_group() {
        let rows = |x: &Tensor, weight: &Tensor, bias: &Tensor| {
            let (images, channels, height, width) = x.dims4()?;
            let rows = x.permute((0, 2, 3, 1))?.contiguous()?.reshape((images * height * width, channels))?;
            let y = group_norm(&rows, weight, bias, 1, 1e-6, false)?;
            y.reshape((images, height, width, channels))?.permute((0, 3, 1, 2))?.contiguous()
        };
        // Fewer pixels than a task takes, more, and one.
        for shape in [[2, 5, 3, 4], [2, 3, 17, 19], [3, 7, 1, 1]] {
            for (dtype, tolerance) in [(DType::F64, 1e-10), (DType::F32, 2e-4)] {
                let found = all(|x, weight, bias| layer_norm2d(x, weight, bias, 1e-6), &shape, dtype);
                for (found, expected) in found.iter().zip(all(rows, &shape, dtype)) {
                    assert_eq!(found.len(), expected.len());
                    let largest = expected.iter().fold(1.0f64, |most, value| most.max(value.abs()));
                    let worst = found.iter().zip(&expected).fold(0.0f64, |most, (a, b)| most.max((a - b).abs()));
                    assert!(worst <= tolerance * largest, "{shape:?} {dtype:?}: {worst} of {largest}");
                }
            }
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let tensor = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let error = layer_norm2d(&tensor(&[1, 3, 2, 2]), &tensor(&[2]), &tensor(&[3]), 1e-6).unwrap_err();
        assert!(error.to_string().contains("do not fit"), "{error}");
        assert!(layer_norm2d(&tensor(&[0, 3, 2, 2]), &tensor(&[3]), &tensor(&[3]), 1e-6).is_err());
    }
}
