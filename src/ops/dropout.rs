//! Dropout from a named random stream.

use candle_core::{Result, Shape, Tensor, bail};
use rand::RngCore as _;
use rayon::prelude::*;

#[cfg(any(feature = "cuda", test))]
use super::cuda;
use super::{
    Float,
    elementwise::BLOCK,
    fresh::{Written, fresh},
    op::{self, Array, Op},
};
use crate::rng::Rng;

/// Sets each element to 0 with probability `p` and scales the others by 1 / (1 − p) (Srivastava et al. 2014, inverted).
///
/// `p` in [0, 1). Element i of `x`, in order, is decided by word i of `rng`, which is taken as it was made: the same
/// generator drops the same elements.
///
/// # Errors
/// When `p` is outside [0, 1).
pub fn dropout(x: &Tensor, p: f64, rng: Rng) -> Result<Tensor> {
    if !(0.0..1.0).contains(&p) {
        bail!("dropout: probability {p} is outside [0, 1)");
    }
    if p == 0.0 {
        return Ok(x.clone());
    }
    op::apply(Dropout { p, rng }, [x])
}

/// The operation is linear, so its backward is itself. It keeps the generator instead of a mask.
#[derive(Clone)]
struct Dropout {
    p: f64,
    rng: Rng,
}

impl Dropout {
    /// What the kept elements are multiplied by.
    fn scale(&self) -> f64 {
        1.0 / (1.0 - self.p)
    }

    /// A random word below it drops its element.
    fn threshold(&self) -> u32 {
        (self.p * 2f64.powi(32)) as u32
    }
}

impl Op<1> for Dropout {
    const NAME: &'static str = "dropout";

    fn cpu<T: Float>(&self, [x]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let (scale, threshold) = (T::from_f64(self.scale()), self.threshold());
        let y = fresh(x.data.len(), |y| {
            let blocks = y.par_chunks(BLOCK).zip(x.data.par_chunks(BLOCK)).enumerate().map(|(block, (y, x))| {
                let mut rng = self.rng.clone();
                rng.set_word_pos((block * BLOCK) as u128);
                let mut words = [[0; 4]; 1024];
                let parts = y.chunks(words.len()).zip(x.chunks(words.len())).map(|(y, x)| {
                    rng.fill_bytes(words.as_flattened_mut());
                    y.write(x.iter().zip(&words).map(move |(x, word)| {
                        *x * if u32::from_le_bytes(*word) < threshold { T::zero() } else { scale }
                    }))
                });
                parts.sum::<Written<'_>>()
            });
            blocks.sum()
        });
        Ok((y, x.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [x]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        let y = cuda::activation::dropout(x, self.threshold(), self.scale(), &self.rng)?;
        Ok((y, x.shape().clone()))
    }

    fn gradients(&self, _: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(op::apply_no_grad(self, [dy])?)])
    }
}
