//! Rectified linear unit with PyTorch's gradient.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};
use rayon::prelude::*;

use super::{BLOCK, Float, by_float, elements};

/// max(x, 0) elementwise; NaN stays NaN. The gradient at 0 is 0, as in PyTorch (candle's is 1).
pub fn relu(x: &Tensor) -> Result<Tensor> {
    x.contiguous()?.apply_op1(Relu)
}

struct Relu;

impl Relu {
    fn run<T: Float>(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = elements::<T>(x, layout)?;
        let mut y = vec![T::zero(); x.len()];
        y.par_chunks_mut(BLOCK).zip(x.par_chunks(BLOCK)).for_each(|(y, x)| {
            for (y, x) in y.iter_mut().zip(x) {
                *y = if *x < T::zero() { T::zero() } else { *x };
            }
        });
        Ok((T::to_cpu_storage_owned(y), layout.shape().clone()))
    }
}

impl CustomOp1 for Relu {
    fn name(&self) -> &'static str {
        "relu"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        by_float!(x, self.run(x, layout))
    }

    fn bwd(&self, _: &Tensor, y: &Tensor, gradient: &Tensor) -> Result<Option<Tensor>> {
        Ok(Some(y.apply_op2_no_bwd(&gradient.contiguous()?, &ReluGradient)?))
    }
}

/// (y, dY) to dX.
struct ReluGradient;

impl ReluGradient {
    fn run<T: Float>(&self, y: &CpuStorage, yl: &Layout, dy: &CpuStorage, dyl: &Layout) -> Result<(CpuStorage, Shape)> {
        let (y, dy) = (elements::<T>(y, yl)?, elements::<T>(dy, dyl)?);
        let mut dx = vec![T::zero(); y.len()];
        let blocks = dx.par_chunks_mut(BLOCK).zip(y.par_chunks(BLOCK)).zip(dy.par_chunks(BLOCK));
        blocks.for_each(|((dx, y), dy)| {
            for ((dx, y), dy) in dx.iter_mut().zip(y).zip(dy) {
                *dx = if *y <= T::zero() { T::zero() } else { *dy };
            }
        });
        Ok((T::to_cpu_storage_owned(dx), yl.shape().clone()))
    }
}

impl CustomOp2 for ReluGradient {
    fn name(&self) -> &'static str {
        "relu's gradient"
    }

    fn cpu_fwd(&self, y: &CpuStorage, yl: &Layout, dy: &CpuStorage, dyl: &Layout) -> Result<(CpuStorage, Shape)> {
        by_float!(y, self.run(y, yl, dy, dyl))
    }
}
