//! Sums of neurons' anomaly factors on a GPU, where the activations are. On the CPU, `detectors::afdu::score` has them.

use candle_core::{DType, Layout, Result, Shape, Tensor, bail};

use super::{
    Float,
    cuda::{self, Gpu, View},
    op::{self, Array, Op},
};

/// What a layer's neurons were fitted to, on the GPU.
pub(crate) enum Curves {
    /// Tables.
    Tabulated {
        /// (neurons, 7) f32, `Head::to_words` each.
        heads: Tensor,
        /// (neurons, 256) u32, two nodes each, the first in the lower half.
        nodes: Tensor,
        /// (2·neurons + 1) u32: 0, then the ends in `tails` of each neuron's left and right one.
        ends: Tensor,
        /// f32, `Table::tails` of one neuron after another.
        tails: Tensor,
    },
    /// Clusters.
    Exact {
        /// (neurons, 3) f64: origin, bandwidth, least log density.
        scales: Tensor,
        /// (neurons + 1) u32: the place of each neuron's first cluster; the number of all clusters.
        starts: Tensor,
        /// f64, in bandwidths from the origin, increasing.
        centres: Tensor,
        /// f64, as many as centres: `Neighbourhood::breaks`, filled up with infinity.
        breaks: Tensor,
        /// f64, as many: `Neighbourhood::log_densities`, filled up with anything.
        log_densities: Tensor,
        /// f32, as many.
        weights: Tensor,
    },
}

/// Whether [`sums`] can take these activations.
pub(crate) fn is_on_gpu(values: &Tensor) -> bool {
    #[cfg(test)]
    if cuda::emulator::is_active() {
        return true;
    }
    values.device().is_cuda()
}

/// Each image's sum over neurons of log factors, at most `cap` each, or of factors if `raw`: (N) f64 of (N, neurons) f32 `values`.
/// NaN if one of the image's values is not finite.
///
/// # Errors
/// If shapes or types do not fit, or the activations are not on the GPU.
pub(crate) fn sums(values: &Tensor, curves: &Curves, cap: f64, raw: bool) -> Result<Tensor> {
    let (_, neurons) = values.dims2()?;
    let fitted = match curves {
        Curves::Tabulated { heads, .. } => heads.dims()[0],
        Curves::Exact { scales, .. } => scales.dims()[0],
    };
    if values.dtype() != DType::F32 || fitted != neurons {
        bail!("anomaly factors: {neurons} neurons' activations of {:?}, {fitted} fitted", values.dtype());
    }
    op::apply_no_grad(&Sums { curves, cap, raw }, [values])
}

struct Sums<'a> {
    curves: &'a Curves,
    cap: f64,
    raw: bool,
}

impl Op<1> for Sums<'_> {
    const NAME: &'static str = "anomaly factors";

    fn cpu<T: Float>(&self, _: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        bail!("{} of activations on the CPU", Self::NAME)
    }

    fn gpu<G: Gpu>(&self, [values]: [View<'_, G>; 1]) -> Result<(G, Shape)> {
        let tensors: Vec<&Tensor> = match self.curves {
            Curves::Tabulated { heads, nodes, ends, tails } => vec![heads, nodes, ends, tails],
            Curves::Exact { scales, starts, centres, breaks, log_densities, weights } => {
                vec![scales, starts, centres, breaks, log_densities, weights]
            }
        };
        let held: Vec<_> = tensors.iter().map(|tensor| tensor.storage_and_layout()).collect();
        let views = held.iter().map(|(storage, layout)| View::of(storage, layout)).collect::<Result<Vec<_>>>()?;
        let factors = match self.curves {
            Curves::Tabulated { .. } => cuda::anomaly_factor::tabulated(values, self.cap, op::same(views)?),
            Curves::Exact { .. } => cuda::anomaly_factor::exact(values, self.cap, op::same(views)?),
        }?;
        let (layout, images) = (Layout::contiguous(values.shape()), values.shape().dims()[0]);
        let log_factors = View { memory: &factors, layout: &layout };
        Ok((cuda::anomaly_factor::sums(log_factors, self.raw)?, images.into()))
    }
}
