//! Launches of activation.cu.

use candle_core::Result;

use super::{Gpu, Launch, View};
use crate::{ops::Activation, rng::Rng};

/// y of x.
pub(in crate::ops) fn activation<G: Gpu>(x: View<'_, G>, activation: Activation) -> Result<G> {
    let mut y = x.new_like(x.shape())?;
    let launch = Launch::new("activation", "activation", x.dtype())?;
    launch.size(x.count()).activation(activation).input(x).output(&mut y).each(x.device(), x.count())?;
    Ok(y)
}

/// dx of y and dy.
pub(in crate::ops) fn gradient<G: Gpu>(y: View<'_, G>, dy: View<'_, G>, activation: Activation) -> Result<G> {
    let mut dx = y.new_like(y.shape())?;
    let launch = Launch::new("activation", "activation_gradient", y.dtype())?;
    launch.size(y.count()).activation(activation).input(y).input(dy).output(&mut dx).each(y.device(), y.count())?;
    Ok(dx)
}

/// activation(a + b).
pub(in crate::ops) fn add<G: Gpu>(a: View<'_, G>, b: View<'_, G>, activation: Activation) -> Result<G> {
    let mut y = a.new_like(a.shape())?;
    let launch = Launch::new("activation", "add", a.dtype())?.size(a.count()).activation(activation);
    launch.input(a).input(b).output(&mut y).each(a.device(), a.count())?;
    Ok(y)
}

/// y of x for an elementwise kernel without parameters: `silu`, `gelu`.
pub(in crate::ops) fn unary<G: Gpu>(name: &str, x: View<'_, G>) -> Result<G> {
    let mut y = x.new_like(x.shape())?;
    Launch::new("activation", name, x.dtype())?.size(x.count()).input(x).output(&mut y).each(x.device(), x.count())?;
    Ok(y)
}

/// dx of x and dy for one: `silu_gradient`, `gelu_gradient`.
pub(in crate::ops) fn unary_gradient<G: Gpu>(name: &str, x: View<'_, G>, dy: View<'_, G>) -> Result<G> {
    let mut dx = x.new_like(x.shape())?;
    let launch = Launch::new("activation", name, x.dtype())?;
    launch.size(x.count()).input(x).input(dy).output(&mut dx).each(x.device(), x.count())?;
    Ok(dx)
}

/// Zero where word i of `rng` is below `threshold`, else `scale` times x.
pub(in crate::ops) fn dropout<G: Gpu>(x: View<'_, G>, threshold: u32, scale: f64, rng: &Rng) -> Result<G> {
    const WORDS: usize = 16;
    let mut y = x.new_like(x.shape())?;
    let seed = rng.get_seed();
    let key = seed.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]) as usize);
    let stream = [rng.get_stream() as u32, (rng.get_stream() >> 32) as u32].map(|word| word as usize);
    Launch::new("activation", "dropout", x.dtype())?
        .sizes([x.count(), crate::rng::ROUNDS, threshold as usize])
        .sizes(key)
        .sizes(stream)
        .real(scale)
        .input(x)
        .output(&mut y)
        .each(x.device(), x.count().div_ceil(WORDS))?;
    Ok(y)
}
