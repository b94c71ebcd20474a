//! Soft spectral normalisation: a layer may stretch its input by a given factor at most.
//!
//! W̄ = W / (max(1, σ/c) + ε), where σ estimates the largest singular value of the layer's linear map and c is the bound. With
//! v = Aᵀu/‖Aᵀu‖ and u = Av/‖Av‖ once in every training pass (power iteration; A is the map, linear in W), σ = ⟨u, Av⟩, whose
//! gradient takes u and v for constants. Evaluation leaves u and v alone and rescales all the same.
//!
//! - Papers: Miyato et al., ICLR 2018, <https://arxiv.org/abs/1802.05957> (power iteration inside training); Gouk et al. 2021
//!   (the maps of convolutions, the bound); DDU, Mukhoti et al., CVPR 2023, <https://arxiv.org/abs/2102.11582>.
//! - Reference code: DDU `net/spectral_normalization/` (`spectral_norm_conv_inplace.py`, `spectral_norm_fc.py`).
//! - As there, A is the convolution itself, on images of the layer's size, for kernels of several taps (ε = 1e-5), and the matrix
//!   W for 1×1 convolutions (ε = 0). Deviation: linear layers but the last are bounded too, as by their matrix; DDU's networks
//!   with convolutions have no others, and its LeNet is not bounded at all.

use candle_core::{Result, Tensor, Var, bail};
use candle_nn::{Init, VarBuilder};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    nn::{Mode, Pass},
    ops::{self, Convolution},
};

/// A bound c on how much a layer may stretch its input: weights whose spectral norm σ is larger are divided by σ/c.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "SpectralNorm")]
pub struct Settings {
    /// c: 3 in DDU and DUE, 6 in SNGP (uncertainty-baselines).
    #[garde(range(min = 1e-3, max = 1e6))]
    pub coefficient: f64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { coefficient: 3.0 }
    }
}

/// What DDU's convolutions add to the factor that they divide by.
const EPSILON: f64 = 1e-5;
/// The least norm that a vector is divided by: PyTorch's.
const LEAST: f64 = 1e-12;

/// The weight of a convolution or of a linear layer, whose spectral norm may be bounded.
#[derive(Debug, Clone)]
pub struct Weight {
    value: Tensor,
    bound: Bound,
}

#[derive(Debug, Clone)]
enum Bound {
    None,
    Soft(SpectralNorm),
    /// `value` is rescaled already.
    Folded,
}

impl From<Tensor> for Weight {
    fn from(value: Tensor) -> Self {
        Self { value, bound: Bound::None }
    }
}

impl Weight {
    /// The same with a bound. Of a convolution, `layer` has how it moves and the rows and columns of its input.
    pub fn bounded(
        self,
        bound: Option<&Settings>,
        layer: Option<(Convolution, [usize; 2])>,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let Some(bound) = bound else { return Ok(self) };
        let bound = Bound::Soft(SpectralNorm::new(bound.coefficient, &self.value, layer, vb)?);
        Ok(Self { bound, ..self })
    }

    /// The parameter itself: its shape, its element type.
    pub fn raw(&self) -> &Tensor {
        &self.value
    }

    /// As the layer uses it: a constant in evaluation, and rescaled where it is bounded.
    ///
    /// # Errors
    /// In training, when it was folded.
    pub fn seen(&self, pass: &Pass) -> Result<Tensor> {
        let value = pass.seen(&self.value);
        match (&self.bound, pass.mode()) {
            (Bound::None, _) | (Bound::Folded, Mode::Eval) => Ok(value),
            (Bound::Soft(norm), _) => norm.rescaled(&value, pass),
            (Bound::Folded, Mode::Train { .. }) => bail!("a network that was folded for inference cannot learn"),
        }
    }

    /// From now on the weight as it is now, without an estimate in every pass.
    pub fn fold(&mut self) -> Result<()> {
        if matches!(self.bound, Bound::Soft(_)) {
            *self = Self { value: self.seen(&Pass::eval())?, bound: Bound::Folded };
        }
        Ok(())
    }
}

/// The estimate of a map's largest singular value.
#[derive(Debug, Clone)]
struct SpectralNorm {
    coefficient: f64,
    map: Map,
    /// The left and right singular vectors so far, flat.
    u: Var,
    v: Var,
}

/// A linear map, made by a weight.
#[derive(Debug, Clone, Copy)]
enum Map {
    /// (I) to (O) by a weight (O, I, …).
    Matrix,
    /// (C, H, W) to (O, H', W').
    Convolution { convolution: Convolution, input: [usize; 3], output: [usize; 3], output_padding: [usize; 2] },
}

impl SpectralNorm {
    fn new(
        coefficient: f64,
        weight: &Tensor,
        layer: Option<(Convolution, [usize; 2])>,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let outputs = weight.dim(0)?;
        let (map, inputs, outputs) = match (layer, weight.dims()) {
            (Some((convolution, size)), [_, group_inputs, kernel @ ..]) if kernel != [1, 1] => {
                let input = [group_inputs * convolution.groups, size[0], size[1]];
                let Some([rows, columns]) = convolution.output_size(size, [kernel[0], kernel[1]]) else {
                    bail!("{}: a kernel {kernel:?} does not fit images {size:?}", vb.prefix());
                };
                let output = [outputs, rows, columns];
                // The rows and columns that the last step of the kernel does not reach.
                let left = |axis: usize| {
                    (size[axis] + 2 * convolution.padding[axis])
                        .saturating_sub(convolution.dilation[axis] * (kernel[axis] - 1) + 1)
                        % convolution.stride[axis]
                };
                let map = Map::Convolution { convolution, input, output, output_padding: [left(0), left(1)] };
                (map, input.iter().product(), output.iter().product())
            }
            _ => (Map::Matrix, weight.elem_count() / outputs, outputs),
        };
        // Of norm 1 or so, until the first training pass makes it so.
        let vector = |name, count: usize| {
            let init = Init::Randn { mean: 0.0, stdev: 1.0 / (count as f64).sqrt() };
            Var::from_tensor(&vb.get_with_hints(count, name, init)?)
        };
        Ok(Self { coefficient, map, u: vector("weight_u", outputs)?, v: vector("weight_v", inputs)? })
    }

    fn rescaled(&self, weight: &Tensor, pass: &Pass) -> Result<Tensor> {
        if matches!(pass.mode(), Mode::Train { .. }) && !pass.repeats() {
            let weight = weight.detach();
            self.v.set(&unit(&self.map.transposed(&weight, &self.u.as_detached_tensor())?)?)?;
            self.u.set(&unit(&self.map.apply(&weight, &self.v.as_detached_tensor())?)?)?;
        }
        // Copies, because the next pass changes the vectors, and the graph may be walked after it.
        let (u, v) = (self.u.as_detached_tensor().copy()?, self.v.as_detached_tensor().copy()?);
        let sigma = (self.map.apply(weight, &v)? * u)?.sum_all()?;
        let epsilon = self.map.epsilon();
        let excess = (sigma / self.coefficient)?;
        if excess.to_dtype(candle_core::DType::F64)?.to_scalar::<f64>()? > 1.0 {
            weight.broadcast_div(&(excess + epsilon)?)
        } else {
            weight / (1.0 + epsilon)
        }
    }
}

impl Map {
    fn apply(&self, weight: &Tensor, v: &Tensor) -> Result<Tensor> {
        match *self {
            Self::Matrix => weight.flatten_from(1)?.matmul(&v.unsqueeze(1)?)?.flatten_all(),
            Self::Convolution { convolution, input: [channels, rows, columns], .. } => {
                ops::conv2d(&v.reshape((1, channels, rows, columns))?, weight, None, convolution)?.flatten_all()
            }
        }
    }

    fn transposed(&self, weight: &Tensor, u: &Tensor) -> Result<Tensor> {
        match *self {
            Self::Matrix => u.unsqueeze(0)?.matmul(&weight.flatten_from(1)?)?.flatten_all(),
            Self::Convolution { convolution, output: [channels, rows, columns], output_padding, .. } => {
                let u = u.reshape((1, channels, rows, columns))?;
                ops::conv_transpose2d(&u, weight, None, convolution, output_padding)?.flatten_all()
            }
        }
    }

    fn epsilon(&self) -> f64 {
        match self {
            Self::Matrix => 0.0,
            Self::Convolution { .. } => EPSILON,
        }
    }
}

/// x / max(‖x‖, 1e-12)
fn unit(x: &Tensor) -> Result<Tensor> {
    x.broadcast_div(&x.sqr()?.sum_all()?.sqrt()?.maximum(LEAST)?)
}
