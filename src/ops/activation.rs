//! The elementwise functions that other operations end with.

use candle_core::{Result, bail};

use super::Float;

/// What a batch normalisation or a convolution ends with, in the same pass. NaN stays NaN.
///
/// Each is monotone and has a gradient that its own result tells, so nothing but the result needs keeping. At the corners
/// the gradient is PyTorch's: that of the flat side, and for the leaky ReLU that of the leak.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// x
    Identity,
    /// max(x, 0)
    Relu,
    /// x where x > 0, else this slope (at least 0; PyTorch's default is 0.01) times x.
    LeakyRelu(f64),
    /// min(max(x, 0), 6)
    Relu6,
}

impl Activation {
    /// # Errors
    /// When a leak's slope is negative or not a number: the sign of the result would not tell the gradient.
    pub(super) fn check(self) -> Result<()> {
        match self {
            Self::LeakyRelu(slope) if !(0.0..f64::INFINITY).contains(&slope) => {
                bail!("a leaky ReLU's slope is a number of at least 0, not {slope}")
            }
            _ => Ok(()),
        }
    }
}

/// An [`Activation`] as a type, so that loops over it are compiled for each and have no branches.
pub(super) trait Curve: Copy + Send + Sync {
    /// y of x.
    fn value<T: Float>(self, x: T) -> T;

    /// dx of y and dy.
    fn gradient<T: Float>(self, y: T, dy: T) -> T;
}

/// `$body` with `$curve` the [`Curve`] of `$activation`.
macro_rules! with_curve {
    ($activation:expr, $curve:ident => $body:expr) => {
        match $activation {
            $crate::ops::Activation::Identity => {
                let $curve = $crate::ops::activation::Identity;
                $body
            }
            $crate::ops::Activation::Relu => {
                let $curve = $crate::ops::activation::Relu;
                $body
            }
            $crate::ops::Activation::LeakyRelu(slope) => {
                let $curve = $crate::ops::activation::LeakyRelu(slope);
                $body
            }
            $crate::ops::Activation::Relu6 => {
                let $curve = $crate::ops::activation::Relu6;
                $body
            }
        }
    };
}
pub(super) use with_curve;

#[derive(Clone, Copy)]
pub(super) struct Identity;

impl Curve for Identity {
    #[inline(always)]
    fn value<T: Float>(self, x: T) -> T {
        x
    }

    #[inline(always)]
    fn gradient<T: Float>(self, _: T, dy: T) -> T {
        dy
    }
}

#[derive(Clone, Copy)]
pub(super) struct Relu;

impl Curve for Relu {
    #[inline(always)]
    fn value<T: Float>(self, x: T) -> T {
        if x < T::zero() { T::zero() } else { x }
    }

    #[inline(always)]
    fn gradient<T: Float>(self, y: T, dy: T) -> T {
        if y <= T::zero() { T::zero() } else { dy }
    }
}

/// With its slope.
#[derive(Clone, Copy)]
pub(super) struct LeakyRelu(pub(super) f64);

impl Curve for LeakyRelu {
    #[inline(always)]
    fn value<T: Float>(self, x: T) -> T {
        let leak = x * T::from_f64(self.0);
        if x < T::zero() { leak } else { x }
    }

    #[inline(always)]
    fn gradient<T: Float>(self, y: T, dy: T) -> T {
        let leak = dy * T::from_f64(self.0);
        if y <= T::zero() { leak } else { dy }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Relu6;

impl Curve for Relu6 {
    #[inline(always)]
    fn value<T: Float>(self, x: T) -> T {
        let six = T::from_f64(6.0);
        let x = if x < T::zero() { T::zero() } else { x };
        if x > six { six } else { x }
    }

    #[inline(always)]
    fn gradient<T: Float>(self, y: T, dy: T) -> T {
        let dy = if y <= T::zero() { T::zero() } else { dy };
        if y >= T::from_f64(6.0) { T::zero() } else { dy }
    }
}
