//! Layers with PyTorch's parameter names and default initialisation.

use candle_core::{Result, Tensor, Var};
use candle_nn::{
    Init, VarBuilder,
    init::{FanInOut, NonLinearity, NormalOrUniform},
};

use crate::{
    nn::{Head, Mode},
    ops::{self, Activation, Convolution, Statistics},
};

/// How a convolution's weights start.
#[derive(Debug, Clone, Copy)]
pub enum ConvInit {
    /// PyTorch's default: uniform within ±1/√fan_in.
    Default,
    /// He et al. 2015 for ReLU, fan-out: normal with deviation √(2 / (kernel²·outputs)).
    HeFanOut,
}

/// ±1/√fan_in, PyTorch's default for the weights and biases of linear and convolutional layers.
fn within(fan_in: usize) -> Init {
    let bound = 1.0 / (fan_in as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

/// A parameter as `mode` sees it: a constant unless the network learns, so that inference keeps no graph.
fn seen(parameter: &Tensor, mode: Mode) -> Tensor {
    match mode {
        Mode::Eval => parameter.detach(),
        Mode::Train { .. } => parameter.clone(),
    }
}

/// A square convolution.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Tensor,
    bias: Option<Tensor>,
    convolution: Convolution,
}

impl Conv2d {
    /// With bias, PyTorch's default initialisation, stride 1.
    pub fn biased(inputs: usize, outputs: usize, kernel: usize, padding: usize, vb: &VarBuilder) -> Result<Self> {
        let fan_in = inputs * kernel * kernel;
        let bias = Some(vb.get_with_hints(outputs, "bias", within(fan_in))?);
        Ok(Self { bias, ..Self::new(inputs, outputs, kernel, 1, padding, ConvInit::Default, vb)? })
    }

    /// Without bias.
    pub fn new(
        inputs: usize,
        outputs: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
        init: ConvInit,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let init = match init {
            ConvInit::Default => within(inputs * kernel * kernel),
            ConvInit::HeFanOut => Init::Kaiming {
                dist: NormalOrUniform::Normal,
                fan: FanInOut::FanOut,
                non_linearity: NonLinearity::ReLU,
            },
        };
        let weight = vb.get_with_hints((outputs, inputs, kernel, kernel), "weight", init)?;
        Ok(Self { weight, bias: None, convolution: Convolution::new(stride, padding) })
    }

    /// (N, C, H, W) to (N, O, H', W').
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let bias = self.bias.as_ref().map(|bias| seen(bias, mode));
        ops::conv2d(x, &seen(&self.weight, mode), bias.as_ref(), self.convolution)
    }
}

/// A linear layer: y = x·Wᵀ + b.
#[derive(Debug, Clone)]
pub struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    /// PyTorch's default initialisation.
    pub fn new(inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Self> {
        Self::with_bias(inputs, outputs, within(inputs), vb)
    }

    /// PyTorch's default initialisation of the weights; biases start as `bias`.
    pub fn with_bias(inputs: usize, outputs: usize, bias: Init, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints((outputs, inputs), "weight", within(inputs))?,
            bias: vb.get_with_hints(outputs, "bias", bias)?,
        })
    }

    /// (N, inputs) to (N, outputs).
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        x.matmul(&seen(&self.weight, mode).t()?)?.broadcast_add(&seen(&self.bias, mode))
    }

    /// The layer as detectors see it.
    pub fn head(&self) -> Head {
        Head { weight: self.weight.detach(), bias: self.bias.detach() }
    }
}

/// Batch normalisation with running averages, as `torch.nn.BatchNorm2d` (ε 1e-5, momentum 0.1: PyTorch's defaults).
#[derive(Debug, Clone)]
pub struct BatchNorm2d {
    weight: Tensor,
    bias: Tensor,
    running_mean: Var,
    running_var: Var,
}

const EPSILON: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

impl BatchNorm2d {
    /// Weight 1, bias 0, running mean 0, running variance 1.
    pub fn new(channels: usize, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            weight: vb.get_with_hints(channels, "weight", Init::Const(1.0))?,
            bias: vb.get_with_hints(channels, "bias", Init::Const(0.0))?,
            running_mean: Var::from_tensor(&vb.get_with_hints(channels, "running_mean", Init::Const(0.0))?)?,
            running_var: Var::from_tensor(&vb.get_with_hints(channels, "running_var", Init::Const(1.0))?)?,
        })
    }

    /// Normalised (N, C, H, W).
    pub fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.apply(x, mode, Activation::Identity)
    }

    /// Normalised, then ReLU, in one pass over the data.
    pub fn forward_relu(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        self.apply(x, mode, Activation::Relu)
    }

    fn apply(&self, x: &Tensor, mode: Mode, activation: Activation) -> Result<Tensor> {
        let (moments, statistics) = match mode {
            Mode::Eval => {
                let running = [self.running_mean.as_detached_tensor(), self.running_var.as_detached_tensor()];
                (Tensor::stack(&running, 0)?, Statistics::Given)
            }
            Mode::Train { .. } => {
                let moments = ops::moments(x)?;
                self.update_running(&moments, x.elem_count() / x.dim(1)?)?;
                (moments, Statistics::Batch)
            }
        };
        let (weight, bias) = (seen(&self.weight, mode), seen(&self.bias, mode));
        ops::batch_norm(x, &weight, &bias, &moments, statistics, EPSILON, activation)
    }

    /// PyTorch averages the unbiased variance although it normalises with the biased one.
    fn update_running(&self, moments: &Tensor, count: usize) -> Result<()> {
        if count < 2 {
            candle_core::bail!("batch normalisation cannot train on one value a channel: use a larger batch");
        }
        let unbiased = count as f64 / (count - 1) as f64;
        for (running, new) in
            [(&self.running_mean, moments.get(0)?), (&self.running_var, (moments.get(1)? * unbiased)?)]
        {
            running.set(&((running.as_detached_tensor() * (1.0 - MOMENTUM))? + (new * MOMENTUM)?)?)?;
        }
        Ok(())
    }
}
