//! Layers with PyTorch's parameter names and default initialisation.

mod doubling;
mod layer_norm;
pub mod whitening;

pub use doubling::DoublingNorm;
pub use layer_norm::LayerNorm2d;
pub use whitening::Whitening;

use candle_core::{DType, Result, Tensor, Var, bail};
use candle_nn::{Init, VarBuilder};

use crate::{
    nn::{
        Head, Mode, Pass,
        spectral_norm::{self, Weight},
    },
    ops::{self, Activation, Convolution, Statistics},
};

/// How a convolution's weights start.
#[derive(Debug, Clone, Copy)]
pub enum ConvInit {
    /// PyTorch's default: uniform within ±1/√fan_in.
    Default,
    /// He et al. 2015 for ReLU, fan-out: normal with deviation √(2·groups / (kernel²·outputs)).
    HeFanOut,
    /// The same with the fan-in: normal with deviation √(2·groups / (kernel²·inputs)).
    HeFanIn,
}

/// ±1/√fan_in, PyTorch's default for the weights and biases of linear and convolutional layers.
pub fn within(fan_in: usize) -> Init {
    let bound = 1.0 / (fan_in as f64).sqrt();
    Init::Uniform { lo: -bound, up: bound }
}

/// He et al. 2015 for ReLU.
pub fn he(fan: usize) -> Init {
    Init::Randn { mean: 0.0, stdev: 2f64.sqrt() / (fan as f64).sqrt() }
}

/// A convolution with a square kernel.
#[derive(Debug, Clone)]
pub struct Conv2d {
    weight: Weight,
    bias: Option<Tensor>,
    convolution: Convolution,
    same: bool,
}

impl Conv2d {
    /// Without bias; from `inputs` to `outputs` channels.
    pub fn new(
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        convolution: Convolution,
        init: ConvInit,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let init = match init {
            ConvInit::Default => within(inputs / convolution.groups * kernel * kernel),
            ConvInit::HeFanOut => he(outputs / convolution.groups * kernel * kernel),
            ConvInit::HeFanIn => he(inputs / convolution.groups * kernel * kernel),
        };
        let weight = vb.get_with_hints((outputs, inputs / convolution.groups, kernel, kernel), "weight", init)?;
        Ok(Self { weight: weight.into(), bias: None, convolution, same: false })
    }

    /// Without bias. The first filters, one for each input channel, start as the identity: PyTorch's `dirac_` of `weight[:inputs]`; the
    /// others as PyTorch's default.
    pub fn dirac(
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        convolution: Convolution,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let known = vb.contains_tensor("weight");
        let conv = Self::new([inputs, outputs], kernel, convolution, ConvInit::Default, vb)?;
        let weight = conv.weight.raw();
        // What was there before is no first value.
        if !known {
            let same = inputs.min(outputs);
            let (taps, centre) = (kernel * kernel, kernel / 2 * (kernel + 1));
            let mut identity = vec![0f32; same * inputs * taps];
            (0..same).for_each(|at| identity[(at * inputs + at) * taps + centre] = 1.0);
            let identity = Tensor::from_vec(identity, (same, inputs, kernel, kernel), weight.device())?;
            let mut start = vec![identity.to_dtype(weight.dtype())?];
            if outputs > same {
                start.push(weight.detach().narrow(0, same, outputs - same)?);
            }
            Var::from_tensor(weight)?.set(&Tensor::cat(&start, 0)?)?;
        }
        Ok(conv)
    }

    /// With bias, PyTorch's default initialisation.
    pub fn biased(channels: [usize; 2], kernel: usize, convolution: Convolution, vb: &VarBuilder) -> Result<Self> {
        let fan_in = channels[0] / convolution.groups * kernel * kernel;
        let bias = Some(vb.get_with_hints(channels[1], "bias", within(fan_in))?);
        Ok(Self { bias, ..Self::new(channels, kernel, convolution, ConvInit::Default, vb)? })
    }

    /// With bias; its weight and its bias start as asked.
    pub fn starting(
        [inputs, outputs]: [usize; 2],
        kernel: usize,
        convolution: Convolution,
        [weight, bias]: [Init; 2],
        vb: &VarBuilder,
    ) -> Result<Self> {
        let weight = vb.get_with_hints((outputs, inputs / convolution.groups, kernel, kernel), "weight", weight)?;
        Ok(Self::of(weight, vb.get_with_hints(outputs, "bias", bias)?, convolution))
    }

    /// Of a weight (O, C/groups, k, k) and a bias (O) from elsewhere.
    pub(super) fn of(weight: Tensor, bias: Tensor, convolution: Convolution) -> Self {
        Self { weight: weight.into(), bias: Some(bias), convolution, same: false }
    }

    /// The same with TensorFlow's `SAME` padding in place of its own: ⌈size / stride⌉ pixels leave each axis, and an odd
    /// zero goes to the end.
    #[must_use]
    pub fn same(self) -> Self {
        Self { same: true, ..self }
    }

    /// The same with a bound on the spectral norm that it has on images of `size`.
    pub fn bounded(self, bound: Option<&spectral_norm::Settings>, size: [usize; 2], vb: &VarBuilder) -> Result<Self> {
        Ok(Self { weight: self.weight.bounded(bound, Some((self.convolution, size)), vb)?, ..self })
    }

    /// Rows and columns of what it makes of images of `size`.
    pub fn output_size(&self, size: [usize; 2]) -> Result<[usize; 2]> {
        let (_, _, height, width) = self.weight.raw().dims4()?;
        match self.convolution.output_size(size, [height, width]) {
            Some(size) => Ok(size),
            None => bail!("a kernel of {height}×{width} does not fit images of {size:?}"),
        }
    }

    /// From now on, inference uses the weight as it is now.
    pub fn fold(&mut self) -> Result<()> {
        self.weight.fold()
    }

    /// The weight as the pass sees it.
    pub(super) fn weight(&self, pass: &Pass) -> Result<Tensor> {
        self.weight.seen(pass)
    }

    /// (N, C, H, W) to (N, O, H', W').
    pub fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (weight, convolution) = self.placed(&self.weight.seen(pass)?, x)?;
        let bias = self.bias.as_ref().map(|bias| pass.operand(&pass.seen(bias))).transpose()?;
        let y = ops::conv2d(&pass.operand(x)?, &pass.operand(&weight)?, bias.as_ref(), convolution)?;
        pass.hold([x, &y]);
        pass.multiply(&y, self.weight.raw().elem_count() / weight.dim(0)?);
        y.to_dtype(x.dtype())
    }

    /// activation([`Conv2d::forward`]), in one pass where no gradient is asked for.
    pub fn forward_activated(&self, x: &Tensor, activation: Activation, pass: &Pass) -> Result<Tensor> {
        match pass.mode() {
            Mode::Eval if !x.track_op() => self.infer(x, None, activation, pass),
            _ => ops::activate(&self.forward(x, pass)?, activation),
        }
    }

    /// [`Conv2d::forward`] plus `add` (N, O, H', W').
    pub fn forward_add(&self, x: &Tensor, add: &Tensor, pass: &Pass) -> Result<Tensor> {
        match pass.mode() {
            Mode::Eval if !x.track_op() => self.infer(x, Some(add), Activation::Identity, pass),
            _ => {
                let y = self.forward(x, pass)?;
                pass.hold([x, add, &y]);
                ops::add(&y, add, Activation::Identity)
            }
        }
    }

    /// activation(convolution + bias + add) in one pass, without gradient.
    fn infer(&self, x: &Tensor, add: Option<&Tensor>, activation: Activation, pass: &Pass) -> Result<Tensor> {
        let (weight, convolution) = self.placed(&self.weight.seen(pass)?, x)?;
        let bias = self.bias.as_ref().map(|bias| pass.seen(bias));
        let y = ops::conv2d_inference(x, &weight, bias.as_ref(), add, convolution, activation)?;
        pass.hold([x, &y].into_iter().chain(add));
        pass.multiply(&y, self.weight.raw().elem_count() / weight.dim(0)?);
        Ok(y)
    }

    /// The weight and the padding for this input.
    ///
    /// Where `SAME` wants one zero more at the end, a symmetric padding of that width with a zero tap before the others is
    /// the same and spares a padded copy of the input.
    fn placed(&self, weight: &Tensor, x: &Tensor) -> Result<(Tensor, Convolution)> {
        let (mut weight, mut convolution) = (weight.clone(), self.convolution);
        for axis in 0..2 {
            if self.same {
                let (size, kernel, stride) = (x.dim(axis + 2)?, weight.dim(axis + 2)?, convolution.stride[axis]);
                let padding = ((size.div_ceil(stride) - 1) * stride + kernel).saturating_sub(size);
                convolution.padding[axis] = padding.div_ceil(2);
                if padding % 2 == 1 {
                    weight = weight.pad_with_zeros(axis + 2, 1, 0)?;
                }
            }
        }
        Ok((weight, convolution))
    }
}

/// A convolution and the batch normalisation after it.
#[derive(Debug, Clone)]
pub struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm2d,
    /// Both as one convolution, for inference.
    folded: Option<Conv2d>,
}

impl ConvNorm {
    /// Of its parts.
    pub fn new(conv: Conv2d, norm: BatchNorm2d) -> Self {
        Self { conv, norm, folded: None }
    }

    /// activation(normalised convolution): (N, C, H, W) to (N, O, H', W').
    pub fn forward(&self, x: &Tensor, activation: Activation, pass: &Pass) -> Result<Tensor> {
        match self.folded(x, pass)? {
            Some(conv) => {
                pass.activate(&self.norm.name, activation, |activation| conv.infer(x, None, activation, pass))
            }
            None => self.norm.forward(&self.conv.forward(x, pass)?, activation, pass),
        }
    }

    /// activation(normalised convolution + add), with `add` (N, O, H', W').
    pub fn forward_add(&self, x: &Tensor, add: &Tensor, activation: Activation, pass: &Pass) -> Result<Tensor> {
        pass.activate(&self.norm.name, activation, |activation| {
            if let Some(conv) = self.folded(x, pass)? {
                return conv.infer(x, Some(add), activation, pass);
            }
            let y = self.conv.forward(x, pass)?;
            pass.hold([x, add, &y]);
            ops::add(&self.norm.forward(&y, Activation::Identity, pass)?, add, activation)
        })
    }

    /// The mean of each row of the normalised convolution, which is 1×1 without bias: (N, C, H, W) to (N, O, H, 1).
    ///
    /// The convolution's pixels are not made. Their means are the convolution of means, and their moments, which normalise while the
    /// network learns, follow from those of `x`: with the weight w, w·mean(x) and w·cov(x)·wᵀ.
    pub fn forward_mean(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (images, channels, rows, columns) = x.dims4()?;
        let means = ops::global_avg_pool2d(&x.reshape((images, channels * rows, columns, 1))?)?;
        let means = means.reshape((images, channels, rows, 1))?;
        // By given moments, the mean of normalised pixels is their normalised mean.
        if pass.keeps_statistics() {
            return self.forward(&means, Activation::Identity, pass);
        }
        let mean = means.mean((0, 2, 3))?.unsqueeze(1)?;
        let covariance = (ops::channel_products(x)? / (images * rows * columns) as f64)?;
        let covariance = (covariance - mean.matmul(&mean.t()?)?)?;
        let weight = self.conv.weight.seen(pass)?.flatten_from(1)?;
        let variance = (weight.matmul(&covariance)? * &weight)?.sum(1)?;
        let y = self.conv.forward(&means, pass)?;
        self.norm.normalise(&y, &weight.matmul(&mean)?.squeeze(1)?, &variance, images * rows * columns, pass)
    }

    /// From now on, inference uses one convolution with the parameters as they are now.
    pub fn fold(&mut self) -> Result<()> {
        let (scale, shift) = self.norm.scale_and_shift()?;
        self.conv.fold()?;
        let weight = self.conv.weight.seen(&Pass::eval())?;
        let dtype = weight.dtype();
        let weight = weight.broadcast_mul(&scale.to_dtype(dtype)?.reshape(((), 1, 1, 1))?)?;
        let shift = match &self.conv.bias {
            None => shift,
            Some(bias) => (shift + (bias.detach().to_dtype(DType::F64)? * scale)?)?,
        };
        self.folded = Some(Conv2d { weight: weight.into(), bias: Some(shift.to_dtype(dtype)?), ..self.conv });
        Ok(())
    }

    /// The one convolution, if `x` may pass through it: gradients with respect to images take the long way.
    fn folded(&self, x: &Tensor, pass: &Pass) -> Result<Option<&Conv2d>> {
        match (&self.folded, pass.mode()) {
            (Some(_), Mode::Train { .. }) => bail!("a network that was folded for inference cannot learn"),
            (Some(_), Mode::Eval) if x.track_op() => Ok(None),
            (folded, _) => Ok(folded.as_ref()),
        }
    }
}

/// A linear layer: y = x·Wᵀ + b.
#[derive(Debug, Clone)]
pub struct Linear {
    name: String,
    weight: Weight,
    bias: Tensor,
    /// What it multiplies its result by.
    scale: Option<f64>,
}

impl Linear {
    /// PyTorch's default initialisation.
    pub fn new(inputs: usize, outputs: usize, vb: &VarBuilder) -> Result<Self> {
        Self::with_init([inputs, outputs], within(inputs), within(inputs), vb)
    }

    /// From `inputs` to `outputs` features, starting as asked.
    pub fn with_init([inputs, outputs]: [usize; 2], weight: Init, bias: Init, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            name: vb.prefix(),
            weight: vb.get_with_hints((outputs, inputs), "weight", weight)?.into(),
            bias: vb.get_with_hints(outputs, "bias", bias)?,
            scale: None,
        })
    }

    /// Without bias, its result multiplied by `scale`.
    pub fn scaled([inputs, outputs]: [usize; 2], weight: Init, scale: f64, vb: &VarBuilder) -> Result<Self> {
        Ok(Self {
            name: vb.prefix(),
            weight: vb.get_with_hints((outputs, inputs), "weight", weight)?.into(),
            bias: Tensor::zeros(outputs, vb.dtype(), vb.device())?,
            scale: Some(scale),
        })
    }

    /// Without bias.
    pub fn unbiased([inputs, outputs]: [usize; 2], weight: Init, vb: &VarBuilder) -> Result<Self> {
        Ok(Self { scale: None, ..Self::scaled([inputs, outputs], weight, 1.0, vb)? })
    }

    /// The same with a bound on its spectral norm.
    pub fn bounded(self, bound: Option<&spectral_norm::Settings>, vb: &VarBuilder) -> Result<Self> {
        Ok(Self { weight: self.weight.bounded(bound, None, vb)?, ..self })
    }

    /// From now on, inference uses the weight as it is now.
    pub fn fold(&mut self) -> Result<()> {
        self.weight.fold()
    }

    /// (N, inputs) to (N, outputs), which `activation` of the network's follows: the identity after the last layer.
    pub fn forward(&self, x: &Tensor, activation: Activation, pass: &Pass) -> Result<Tensor> {
        let y = self.of_rows(x, pass)?;
        pass.note(&self.name, &y, activation)?;
        pass.choose(activation, |activation| ops::activate(&y, activation))
    }

    /// (R, inputs) to (R, outputs) of rows that are parts of images, such as tokens: they are no image's neurons, so that none are kept.
    pub fn of_rows(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let (weight, bias) = (self.seen(pass)?, pass.seen(&self.bias));
        let input = pass.operand(x)?;
        let y = if input.dtype() == x.dtype() {
            ops::linear(x, &weight, &bias)?
        } else {
            input.matmul(&pass.operand(&weight)?.t()?)?.to_dtype(x.dtype())?.broadcast_add(&bias)?
        };
        pass.multiply(&y, weight.dim(1)?);
        Ok(y)
    }

    /// Its weight (outputs, inputs) as the pass sees it.
    pub(super) fn seen(&self, pass: &Pass) -> Result<Tensor> {
        self.as_scaled(self.weight.seen(pass)?)
    }

    /// The layer as detectors see it.
    pub fn head(&self) -> Head {
        let weight = self.weight.raw().detach();
        // A product of a matrix and a number cannot fail.
        let weight = self.as_scaled(weight.clone()).unwrap_or(weight);
        Head { weight, bias: self.bias.detach() }
    }

    /// A weight with what the result is multiplied by.
    fn as_scaled(&self, weight: Tensor) -> Result<Tensor> {
        match self.scale {
            None => Ok(weight),
            Some(scale) => weight * scale,
        }
    }
}

/// Batch normalisation with running averages, as `torch.nn.BatchNorm2d`.
#[derive(Debug, Clone)]
pub struct BatchNorm2d {
    name: String,
    weight: Tensor,
    bias: Tensor,
    running_mean: Var,
    running_var: Var,
    epsilon: f64,
    momentum: f64,
}

/// PyTorch's defaults.
const EPSILON: f64 = 1e-5;
const MOMENTUM: f64 = 0.1;

impl BatchNorm2d {
    /// Weight 1, bias 0, running mean 0, running variance 1.
    pub fn new(channels: usize, vb: &VarBuilder) -> Result<Self> {
        let weight = vb.get_with_hints(channels, "weight", Init::Const(1.0))?;
        Self::with(weight, vb.get_with_hints(channels, "bias", Init::Const(0.0))?, vb)
    }

    /// Weight 0, bias 0, running mean 0, running variance 1: what ends a residual branch that starts as nothing.
    pub fn closed(channels: usize, vb: &VarBuilder) -> Result<Self> {
        let weight = vb.get_with_hints(channels, "weight", Init::Const(0.0))?;
        Self::with(weight, vb.get_with_hints(channels, "bias", Init::Const(0.0))?, vb)
    }

    /// Without weight and bias: running mean 0, running variance 1.
    pub fn plain(channels: usize, vb: &VarBuilder) -> Result<Self> {
        let (dtype, device) = (vb.dtype(), vb.device());
        Self::with(Tensor::ones(channels, dtype, device)?, Tensor::zeros(channels, dtype, device)?, vb)
    }

    /// With bias, and without weight: that is 1 and does not learn.
    pub fn shifted(channels: usize, vb: &VarBuilder) -> Result<Self> {
        let weight = Tensor::ones(channels, vb.dtype(), vb.device())?;
        Self::with(weight, vb.get_with_hints(channels, "bias", Init::Const(0.0))?, vb)
    }

    fn with(weight: Tensor, bias: Tensor, vb: &VarBuilder) -> Result<Self> {
        let channels = weight.elem_count();
        Ok(Self {
            name: vb.prefix(),
            weight,
            bias,
            running_mean: Var::from_tensor(&vb.get_with_hints(channels, "running_mean", Init::Const(0.0))?)?,
            running_var: Var::from_tensor(&vb.get_with_hints(channels, "running_var", Init::Const(1.0))?)?,
            epsilon: EPSILON,
            momentum: MOMENTUM,
        })
    }

    /// The same with another ε than 1e-5.
    #[must_use]
    pub fn epsilon(self, epsilon: f64) -> Self {
        Self { epsilon, ..self }
    }

    /// The same with another momentum than 0.1: the share that a batch has in the running averages, as PyTorch counts it.
    #[must_use]
    pub fn momentum(self, momentum: f64) -> Self {
        Self { momentum, ..self }
    }

    /// activation(normalised (N, C, H, W)), in one pass over the data.
    pub fn forward(&self, x: &Tensor, activation: Activation, pass: &Pass) -> Result<Tensor> {
        let (moments, statistics) = match pass.keeps_statistics() {
            true => {
                let running = [self.running_mean.as_detached_tensor(), self.running_var.as_detached_tensor()];
                (Tensor::stack(&running, 0)?, Statistics::Given)
            }
            false => {
                let moments = ops::moments(x)?;
                if !pass.repeats() {
                    self.update_running(&moments, x.elem_count() / x.dim(1)?)?;
                }
                (moments, Statistics::Batch)
            }
        };
        let (weight, bias) = (pass.seen(&self.weight), pass.seen(&self.bias));
        pass.activate(&self.name, activation, |activation| {
            ops::batch_norm(x, &weight, &bias, &moments, statistics, self.epsilon, activation)
        })
    }

    /// Normalises (N, C, H, W) with the moments (C) of the `count` values that it stands for, through which the gradient passes.
    fn normalise(&self, x: &Tensor, mean: &Tensor, variance: &Tensor, count: usize, pass: &Pass) -> Result<Tensor> {
        // Rounding may leave less than nothing.
        let variance = ops::relu(variance)?;
        if !pass.repeats() {
            self.update_running(&Tensor::stack(&[mean.detach(), variance.detach()], 0)?, count)?;
        }
        let scale = (pass.seen(&self.weight) / (variance + self.epsilon)?.sqrt()?)?;
        let shift = (pass.seen(&self.bias) - (mean * &scale)?)?;
        let [scale, shift] = [scale, shift].map(|each| each.reshape((1, (), 1, 1)));
        x.broadcast_mul(&scale?)?.broadcast_add(&shift?)
    }

    /// What inference multiplies each channel by and then adds: (C), f64.
    fn scale_and_shift(&self) -> Result<(Tensor, Tensor)> {
        let [weight, bias, mean, variance] =
            [&self.weight, &self.bias, self.running_mean.as_tensor(), self.running_var.as_tensor()]
                .map(|values| values.detach().to_dtype(DType::F64));
        let scale = (weight? / (variance? + self.epsilon)?.sqrt()?)?;
        let shift = (bias? - (mean? * &scale)?)?;
        Ok((scale, shift))
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
            running.set(&((running.as_detached_tensor() * (1.0 - self.momentum))? + (new * self.momentum)?)?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use candle_nn::VarMap;

    use super::*;

    /// Batch normalisation with frozen statistics, of which PyTorch's `eval()` of the module alone is the model.
    #[test]
    fn statistics_may_be_kept_while_weights_learn() {
        let map = VarMap::new();
        let vb = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
        let norm = BatchNorm2d::new(2, &vb).unwrap();
        let tensor = |values: &[f32], shape: &[usize]| Tensor::from_slice(values, shape, &Device::Cpu).unwrap();
        norm.running_mean.set(&tensor(&[1.0, -2.0], &[2])).unwrap();
        norm.running_var.set(&tensor(&[4.0, 0.25], &[2])).unwrap();
        let statistics = || [&norm.running_mean, &norm.running_var].map(|var| var.to_vec1::<f32>().unwrap());
        let before = statistics();
        let x = Var::from_tensor(&tensor(&[3.0, 1.0, 0.0, -2.0, 5.0, 2.0, 1.0, -3.0], &[2, 2, 1, 2])).unwrap();
        let direction = tensor(&[1.0, 2.0, -1.0, 3.0, 0.5, 1.0, 2.0, -2.0], &[2, 2, 1, 2]);
        let flat = |tensor: &Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();

        let pass = Pass::new(Mode::Train { seed: 0, step: 0, precision: crate::nn::Precision::F32 });
        pass.keep_statistics(true);
        let y = norm.forward(&x, Activation::Identity, &pass).unwrap();
        assert_eq!(flat(&y), flat(&norm.forward(&x.detach(), Activation::Identity, &Pass::eval()).unwrap()));
        assert_eq!(statistics(), before);
        let gradients = (y * &direction).unwrap().sum_all().unwrap().backward().unwrap();
        let near = |of: &Tensor, expected: &[f32]| {
            let found = flat(gradients.get(of).unwrap());
            assert!(found.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-3 * b.abs().max(1.0)), "{found:?}");
        };
        // Σ d·(x − mean)/√var and Σ d of each channel; d/√var, with nothing through the moments.
        near(&norm.weight, &[(2.0 + 0.0 + 2.0 + 1.0) / 2.0, (-2.0 + 0.0 + 6.0 + 2.0) / 0.5]);
        near(&norm.bias, &[4.5, 2.0]);
        near(x.as_tensor(), &[0.5, 1.0, -2.0, 6.0, 0.25, 0.5, 4.0, -4.0]);

        pass.keep_statistics(false);
        norm.forward(&x, Activation::Identity, &pass).unwrap();
        assert_ne!(statistics(), before);
    }

    /// PyTorch counts the inputs of a group.
    #[test]
    fn the_bias_of_a_grouped_convolution_starts_within_its_own_fan_in() {
        let map = VarMap::new();
        let vb = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
        let conv = Conv2d::biased([64, 64], 3, Convolution::new(1, 1).grouped(64), &vb).unwrap();
        let bias: Vec<f32> = conv.bias.unwrap().to_vec1().unwrap();
        let largest = bias.iter().fold(0.0f32, |most, value| most.max(value.abs()));
        // Of 64 uniform draws within 1/√9, all below half of it: once in 2⁶⁴.
        assert!(largest > 1.0 / 6.0 && largest <= 1.0 / 3.0, "{largest}");
    }
}
