//! A convolution whose filters whiten patches of the train images; they are computed before the first step and do not learn.
//!
//! The covariance of the first images' k×k patches x (all channels, not centred) is Σ = mean(x·xᵀ) = Σ_i λ_i·v_i·v_iᵀ. Filter i is
//! v_i / √(λ_i + ε), the largest λ first. The negatives of all of them follow. The bias learns.
//!
//! - Code: `KellerJordan/cifar10-airbench`, `init_whitening_conv` of `airbench94.py`, after Page's ResNet-9 (myrtle.ai) and tysam-code's
//!   hlb-CIFAR10. The signs of eigenvectors are arbitrary; here each one's largest element is positive.

use candle_core::{DType, Result, Tensor, Var, bail};
use candle_nn::{Init, VarBuilder};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Conv2d;
use crate::{
    linalg::Eigen,
    nn::{
        Pass,
        standard::{Look, Survey},
    },
    ops::Convolution,
};

/// How the filters come to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Whitening")]
pub struct Settings {
    /// k, rows and columns of a patch. airbench's: 2.
    #[garde(range(min = 1, max = 8))]
    pub kernel: usize,
    /// How many train images the patches are of, from the first on. airbench's: 5000.
    #[garde(range(min = 1, max = 10_000_000))]
    pub images: usize,
    /// ε, beside the variances of normalised pixels. airbench's: 5e-4.
    #[garde(range(min = 1e-12, max = 1e3))]
    pub epsilon: f64,
}

impl Settings {
    /// airbench's.
    pub(in crate::nn) const USUAL: Self = Self { kernel: 2, images: 5000, epsilon: 5e-4 };

    /// Filters, for images of so many channels: two for each element of a patch.
    pub fn filters(&self, channels: usize) -> usize {
        2 * channels * self.kernel * self.kernel
    }
}

impl Default for Settings {
    fn default() -> Self {
        Self::USUAL
    }
}

/// The layer: (N, C, H, W) to (N, 2·C·k², H − k + 1, W − k + 1).
#[derive(Debug, Clone)]
pub struct Whitening {
    settings: Settings,
    /// (2·C·k², C, k, k); zeros until the train images are seen.
    filters: Var,
    conv: Conv2d,
}

impl Whitening {
    /// Filters of 0 in the buffer `whitening`, and a `bias` that starts at 0.
    ///
    /// # Errors
    /// Those of the parameters.
    pub fn new(channels: usize, settings: &Settings, vb: &VarBuilder) -> Result<Self> {
        let Settings { kernel, .. } = *settings;
        let outputs = settings.filters(channels);
        let filters = vb.get_with_hints((outputs, channels, kernel, kernel), "whitening", Init::Const(0.0))?;
        let filters = Var::from_tensor(&filters)?;
        let bias = vb.get_with_hints(outputs, "bias", Init::Const(0.0))?;
        // It shares its elements with the buffer.
        let weight = filters.as_detached_tensor().into();
        let conv = Conv2d { weight, bias: Some(bias), convolution: Convolution::new(1, 0), same: false };
        Ok(Self { settings: settings.clone(), filters, conv })
    }

    /// The whitened patches.
    ///
    /// # Errors
    /// If the images have other channels, or are smaller than a patch.
    pub fn forward(&self, images: &Tensor, pass: &Pass) -> Result<Tensor> {
        self.conv.forward(images, pass)
    }

    /// What gives it its filters; `None` where it has them, as weights that were loaded have.
    pub fn survey(&self) -> Option<Survey<'_>> {
        let sum = self.filters.as_detached_tensor().abs().and_then(|each| each.sum_all()?.to_dtype(DType::F64));
        let known = sum.and_then(|sum| sum.to_scalar::<f64>()).is_ok_and(|sum| sum != 0.0);
        let patches = Patches { into: self, count: 0, products: Vec::new() };
        (!known).then(|| Survey::of_first(self.settings.images, patches))
    }
}

/// Values of patches that are multiplied at a time: 32 MiB of f64.
const TOGETHER: usize = 1 << 22;

/// The products of patches with themselves, so far.
struct Patches<'a> {
    into: &'a Whitening,
    /// Patches.
    count: usize,
    /// Σ x·xᵀ, of C·k² rows.
    products: Vec<f64>,
}

impl Look for Patches<'_> {
    fn see(&mut self, images: &Tensor) -> Result<()> {
        let kernel = self.into.settings.kernel;
        let (count, channels, height, width) = images.dims4()?;
        if height.min(width) < kernel {
            bail!("images of {height}×{width} have no patches of {kernel}×{kernel}");
        }
        let together = (TOGETHER / (channels * kernel * kernel * height * width)).max(1);
        (0..count).step_by(together).try_for_each(|first| {
            self.see_some(&images.narrow(0, first, together.min(count - first))?, [channels, height, width])
        })
    }

    fn finish(self: Box<Self>) -> Result<()> {
        if self.count == 0 {
            bail!("there are no train images to whiten patches of");
        }
        let size = (self.products.len() as f64).sqrt().round() as usize;
        let covariance = self.products.iter().map(|sum| sum / self.count as f64).collect();
        let Some(Eigen { values, vectors }) = Eigen::new(covariance, size) else {
            bail!("the covariance of the train images' patches is not finite");
        };
        let scaled = values.iter().zip(vectors.chunks_exact(size)).flat_map(|(value, vector)| {
            let largest = vector.iter().fold(0.0, |most: f64, each| if each.abs() > most.abs() { *each } else { most });
            // Rounding may leave less than nothing.
            let scale = largest.signum() / (value.max(0.0) + self.into.settings.epsilon).sqrt();
            vector.iter().map(move |each| each * scale)
        });
        let half: Vec<f64> = scaled.collect();
        let whole: Vec<f64> = half.iter().copied().chain(half.iter().map(|each| -each)).collect();
        let filters = &self.into.filters;
        let whole = Tensor::from_vec(whole, filters.shape(), &candle_core::Device::Cpu)?;
        filters.set(&whole.to_dtype(filters.dtype())?.to_device(filters.device())?)
    }
}

impl Patches<'_> {
    /// Some of the images.
    fn see_some(&mut self, images: &Tensor, [channels, height, width]: [usize; 3]) -> Result<()> {
        let kernel = self.into.settings.kernel;
        let places =
            (0..channels).flat_map(|channel| (0..kernel * kernel).map(move |at| [channel, at / kernel, at % kernel]));
        let elements = places.map(|[channel, row, column]| {
            let rows = images.narrow(1, channel, 1)?.narrow(2, row, height + 1 - kernel)?;
            rows.narrow(3, column, width + 1 - kernel)?.flatten_all()
        });
        let patches = Tensor::stack(&elements.collect::<Result<Vec<_>>>()?, 0)?.detach().to_dtype(DType::F64)?;
        let products = patches.matmul(&patches.t()?.contiguous()?)?.flatten_all()?.to_vec1::<f64>()?;
        self.products.resize(products.len(), 0.0);
        self.products.iter_mut().zip(products).for_each(|(sum, product)| *sum += product);
        self.count += patches.dim(1)?;
        Ok(())
    }
}
