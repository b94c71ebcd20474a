//! The average of each plane.

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

#[cfg(any(feature = "cuda", test))]
use super::cuda;
use super::{
    Float,
    elementwise::BLOCK,
    float::sum,
    fresh::fresh,
    op::{self, Array, Op},
};

/// Mean over rows and columns: (N, C, H, W) to (N, C).
///
/// # Errors
/// When there are no values.
pub fn global_avg_pool2d(x: &Tensor) -> Result<Tensor> {
    let (_, _, height, width) = x.dims4()?;
    if x.elem_count() == 0 {
        bail!("global_avg_pool2d: the means of an input of shape {:?} are undefined", x.dims());
    }
    op::apply(GlobalAvgPool2d { height, width }, [x])
}

#[derive(Clone, Copy)]
struct GlobalAvgPool2d {
    height: usize,
    width: usize,
}

impl GlobalAvgPool2d {
    fn pixels(&self) -> usize {
        self.height * self.width
    }

    fn planes_a_task(&self) -> usize {
        (BLOCK / self.pixels()).max(1)
    }
}

impl Op<1> for GlobalAvgPool2d {
    const NAME: &'static str = "global_avg_pool2d";

    fn cpu<T: Float>(&self, [x]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let planes = x.data.par_chunks(self.pixels()).with_min_len(self.planes_a_task());
        let means = planes.map(|plane| T::from_f64(sum(plane) / self.pixels() as f64));
        Ok((means.collect(), x.shape.dims()[..2].into()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        cuda::pool::global_average(x)
    }

    fn gradients(&self, _: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(op::apply_no_grad(&GlobalAvgPool2dGradient(*self), [dy])?)])
    }
}

/// dY to dX.
struct GlobalAvgPool2dGradient(GlobalAvgPool2d);

impl Op<1> for GlobalAvgPool2dGradient {
    const NAME: &'static str = "global_avg_pool2d's gradient";

    fn cpu<T: Float>(&self, [dy]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let (pixels, share) = (self.0.pixels(), T::from_f64(1.0 / self.0.pixels() as f64));
        let dx = fresh(dy.data.len() * pixels, |dx| {
            let planes = dx.par_chunks(pixels).zip(dy.data).with_min_len(self.0.planes_a_task());
            planes.map(|(dx, dy)| dx.fill(*dy * share, |_| ())).sum()
        });
        let (images, channels) = dy.shape.dims2()?;
        Ok((dx, (images, channels, self.0.height, self.0.width).into()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [dy]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        let (images, channels) = dy.shape().dims2()?;
        let shape = (images, channels, self.0.height, self.0.width).into();
        Ok((cuda::pool::global_average_gradient(dy, &shape)?, shape))
    }
}
