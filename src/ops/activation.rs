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

    /// Calls `body` with `self`, which each copy of `body` then knows when it is compiled: its loops have no branches.
    #[inline(always)]
    pub(super) fn specialised<R>(self, body: impl FnOnce(Self) -> R) -> R {
        match self {
            Self::Identity => body(Self::Identity),
            Self::Relu => body(Self::Relu),
            Self::LeakyRelu(slope) => body(Self::LeakyRelu(slope)),
            Self::Relu6 => body(Self::Relu6),
        }
    }

    /// y of x.
    #[inline(always)]
    pub(super) fn value<T: Float>(self, x: T) -> T {
        let zero = T::zero();
        match self {
            Self::Identity => x,
            Self::Relu => {
                if x < zero {
                    zero
                } else {
                    x
                }
            }
            Self::LeakyRelu(slope) => {
                if x < zero {
                    x * T::from_f64(slope)
                } else {
                    x
                }
            }
            Self::Relu6 => {
                let six = T::from_f64(6.0);
                if x < zero {
                    zero
                } else if x > six {
                    six
                } else {
                    x
                }
            }
        }
    }

    /// dx of y and dy.
    #[inline(always)]
    pub(super) fn gradient<T: Float>(self, y: T, dy: T) -> T {
        let zero = T::zero();
        match self {
            Self::Identity => dy,
            Self::Relu => {
                if y <= zero {
                    zero
                } else {
                    dy
                }
            }
            Self::LeakyRelu(slope) => {
                if y <= zero {
                    dy * T::from_f64(slope)
                } else {
                    dy
                }
            }
            Self::Relu6 => {
                if y <= zero || y >= T::from_f64(6.0) {
                    zero
                } else {
                    dy
                }
            }
        }
    }
}
