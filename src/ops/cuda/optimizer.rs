//! Launches of optimizer.cu.

use candle_core::{Layout, Result, bail};

use super::{Gpu, Launch, View};

/// Runs `kernel` with these parameters on each element of `target`, given the same elements of `sources`.
pub(in crate::ops) fn update<G: Gpu, const N: usize>(
    (kernel, parameters): (&str, Vec<f64>),
    (target, layout): (&mut G, &Layout),
    sources: [(&G, &Layout); N],
) -> Result<()> {
    let count = layout.shape().elem_count();
    if layout.contiguous_offsets() != Some((0, count)) {
        bail!("{kernel}: what is updated is part of a tensor");
    }
    let (device, dtype) = (target.device().clone(), target.dtype());
    let mut launch = Launch::new("optimizer", kernel, dtype)?.size(count);
    for parameter in parameters {
        launch = launch.real(parameter);
    }
    for (memory, its) in sources {
        if memory.dtype() != dtype || its.shape() != layout.shape() || !its.is_contiguous() {
            bail!("{kernel}: {:?} {:?} for {dtype:?} {:?}", memory.dtype(), its.shape(), layout.shape());
        }
        launch = launch.input(View { memory, layout: its });
    }
    launch.output(target).each(&device, count)
}
