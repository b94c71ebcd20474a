//! Launches of anomaly_factor.cu.

use candle_core::{DType, Layout, Result};

use super::{Gpu, Launch, THREADS, View};

/// Neurons of a block of `tabulated`; `COLUMNS` of anomaly_factor.cu.
const COLUMNS: usize = 32;

/// Log factors of `values` (N, neurons) by tables: heads (neurons, 7), nodes (neurons, 256), ends (2·neurons + 1), tails.
pub(in crate::ops) fn tabulated<G: Gpu>(values: View<'_, G>, cap: f64, tables: [View<'_, G>; 4]) -> Result<G> {
    let (images, neurons) = values.shape().dims2()?;
    let mut factors = values.new_like(values.shape())?;
    let launch = Launch::new("anomaly_factor", "tabulated", values.dtype())?.sizes([images, neurons]).real(cap);
    let launch = tables.into_iter().fold(launch, Launch::input).input(values).output(&mut factors);
    launch.blocks(values.device(), neurons.div_ceil(COLUMNS))?;
    Ok(factors)
}

/// The same from clusters: scales (neurons, 3), starts (neurons + 1), and for each cluster a centre, break, log density and
/// weight.
pub(in crate::ops) fn exact<G: Gpu>(values: View<'_, G>, cap: f64, clusters: [View<'_, G>; 6]) -> Result<G> {
    let (images, neurons) = values.shape().dims2()?;
    let mut factors = values.new_like(values.shape())?;
    let launch = Launch::new("anomaly_factor", "exact", values.dtype())?.sizes([images, neurons]).real(cap);
    let launch = clusters.into_iter().fold(launch, Launch::input).input(values).output(&mut factors);
    launch.blocks(values.device(), neurons * images.div_ceil(THREADS))?;
    Ok(factors)
}

/// Each image's sum, f64 (N), of `log_factors` (N, neurons), or of the factors if `raw`.
pub(in crate::ops) fn sums<G: Gpu>(log_factors: View<'_, G>, raw: bool) -> Result<G> {
    let (images, neurons) = log_factors.shape().dims2()?;
    let layout = Layout::contiguous(images);
    let mut sums = G::uninitialised(log_factors.device(), layout.shape(), DType::F64)?;
    let launch = Launch::new("anomaly_factor", "sums", log_factors.dtype())?.sizes([neurons, usize::from(raw)]);
    launch.input(log_factors).output(&mut sums).blocks(log_factors.device(), images)?;
    Ok(sums)
}
