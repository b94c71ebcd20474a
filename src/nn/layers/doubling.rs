//! Twice as many rows and columns by a transposed convolution.

use candle_core::{DType, Result, Tensor, bail};
use candle_nn::VarBuilder;

use super::{BatchNorm2d, within};
use crate::{
    nn::{Mode, Pass},
    ops::{self, Activation, Convolution},
};

/// Rows and columns of its kernel, and its stride: each input pixel makes a square of its own.
const SIDE: usize = 2;

/// A transposed 2×2 convolution of stride 2 without bias, and the batch normalisation after it.
#[derive(Debug, Clone)]
pub struct DoublingNorm {
    weight: Tensor,
    norm: BatchNorm2d,
    /// Weight and bias of both as one, for inference.
    folded: Option<[Tensor; 2]>,
}

impl DoublingNorm {
    /// From `inputs` to `outputs` channels. It starts as PyTorch's `ConvTranspose2d`, uniform within ±1/√(4·outputs): RD4AD gives other
    /// first values to `Conv2d` alone.
    pub fn new([inputs, outputs]: [usize; 2], [conv, norm]: [VarBuilder; 2]) -> Result<Self> {
        let init = within(outputs * SIDE * SIDE);
        let weight = conv.get_with_hints((inputs, outputs, SIDE, SIDE), "weight", init)?;
        Ok(Self { weight, norm: BatchNorm2d::new(outputs, &norm)?, folded: None })
    }

    /// activation(normalised result): (N, C, H, W) to (N, O, 2H, 2W).
    pub fn forward(&self, x: &Tensor, activation: Activation, pass: &Pass) -> Result<Tensor> {
        let doubled = |weight: &Tensor, bias: Option<&Tensor>| {
            let (x, weight) = (pass.operand(x)?, pass.operand(weight)?);
            ops::conv_transpose2d(&x, &weight, bias, Convolution::new(SIDE, 0), [0; 2])
        };
        match (&self.folded, pass.mode()) {
            (Some(_), Mode::Train { .. }) => bail!("a network that was folded for inference cannot learn"),
            (Some([weight, bias]), Mode::Eval) if !x.track_op() => {
                let y = doubled(weight, Some(bias))?;
                pass.hold([x, &y]);
                pass.activate(&self.norm.name, activation, |activation| ops::activate(&y, activation))
            }
            _ => {
                let y = doubled(&pass.seen(&self.weight), None)?;
                pass.hold([x, &y]);
                self.norm.forward(&y.to_dtype(x.dtype())?, activation, pass)
            }
        }
    }

    /// From now on, inference uses one convolution with the parameters as they are now.
    pub fn fold(&mut self) -> Result<()> {
        let (scale, shift) = self.norm.scale_and_shift()?;
        let weight = self.weight.detach().to_dtype(DType::F64)?.broadcast_mul(&scale.reshape((1, (), 1, 1))?)?;
        let dtype = self.weight.dtype();
        self.folded = Some([weight.to_dtype(dtype)?, shift.to_dtype(dtype)?]);
        Ok(())
    }
}
