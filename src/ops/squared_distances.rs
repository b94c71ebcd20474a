//! Mean squared distances of vectors, one for each class, to the centres of the classes.
//!
//! candle makes three tensors of the size of the vectors for it, and hands each to threads that spin while they wait.

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{
    Float,
    op::{self, Array, Op},
};

/// mean_d (z_ndc − e_dc)² of `z` (N, D, C) and `centers` (D, C): (N, C). The gradient is with respect to `z` only.
///
/// # Errors
/// When the shapes do not fit or there is no dimension to take the mean over.
pub fn squared_distances(z: &Tensor, centers: &Tensor) -> Result<Tensor> {
    let (_, size, classes) = z.dims3()?;
    if centers.dims() != [size, classes] || z.elem_count() == 0 {
        bail!("squared_distances: vectors {:?} and centres {:?} do not fit", z.dims(), centers.dims());
    }
    let centers = centers.detach();
    if !z.device().is_cpu() {
        return z.broadcast_sub(&centers)?.sqr()?.mean(1);
    }
    op::apply(SquaredDistances, [z, &centers])
}

struct SquaredDistances;

impl Op<2> for SquaredDistances {
    const NAME: &'static str = "squared_distances";

    fn cpu<T: Float>(&self, [z, centers]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let (images, size, classes) = z.shape.dims3()?;
        let distances = z.data.par_chunks(size * classes).flat_map_iter(|z| {
            let mut sums = vec![0.0; classes];
            for (z, e) in z.chunks_exact(classes).zip(centers.data.chunks_exact(classes)) {
                for (sum, (z, e)) in sums.iter_mut().zip(z.iter().zip(e)) {
                    let difference = (*z - *e).to_f64();
                    *sum += difference * difference;
                }
            }
            sums.into_iter().map(move |sum| T::from_f64(sum / size as f64))
        });
        Ok((distances.collect(), (images, classes).into()))
    }

    fn gradients(&self, [z, centers]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        Ok([op::gradient(z, &Gradient, [z, centers, dy])?, None])
    }
}

/// (z, centres, dY) to dZ = 2/D·(z − e)·dY.
struct Gradient;

impl Op<3> for Gradient {
    const NAME: &'static str = "squared_distances' gradient";

    fn cpu<T: Float>(&self, [z, centers, dy]: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        let (_, size, classes) = z.shape.dims3()?;
        let factor = T::from_f64(2.0 / size as f64);
        let images = z.data.par_chunks(size * classes).zip(dy.data.par_chunks(classes));
        let dz = images.flat_map_iter(|(z, dy)| {
            let rows = z.chunks_exact(classes).zip(centers.data.chunks_exact(classes));
            rows.flat_map(move |(z, e)| z.iter().zip(e).zip(dy).map(move |((z, e), dy)| factor * (*z - *e) * *dy))
        });
        Ok((dz.collect(), z.shape.clone()))
    }
}
