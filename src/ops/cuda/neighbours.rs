//! Launches of neighbours.cu.

use candle_core::{DType, Layout, Result, Shape, bail};

use super::{Gpu, Launch, View};

/// Images of a block, and rows of a tile; `TILE` of neighbours.cu.
const TILE: usize = 64;
/// Blocks that keep a large GPU busy; few in tests, so that a part of the rows is several tiles.
const BLOCKS: usize = if cfg!(test) { 5 } else { 512 };

/// For each of (N, D) images the `most` closest rows, 1 to M, of a bank (M, D) with offsets (M): (N, most, 2) f64, closeness and row. The
/// closest are first, and of equals the first row.
pub(in crate::ops) fn closest<G: Gpu>(
    images: View<'_, G>,
    bank: View<'_, G>,
    offsets: View<'_, G>,
    most: usize,
) -> Result<(G, Shape)> {
    let ((count, columns), (rows, _)) = (images.shape().dims2()?, bank.shape().dims2()?);
    if [images.count(), bank.count()].into_iter().any(|elements| u32::try_from(elements).is_err()) {
        bail!("neighbours: a tensor of more than 2^32 elements; use smaller batches");
    }
    let device = images.device();
    let groups = count.div_ceil(TILE);
    let parts = (BLOCKS / groups.max(1)).clamp(1, rows.div_ceil(TILE));
    let lists = Layout::contiguous((count, parts, most));
    let mut closeness = images.new_like(lists.shape())?;
    let mut found = G::uninitialised(device, lists.shape(), DType::U32)?;
    Launch::new("neighbours", "neighbours", images.dtype())?
        .sizes([count, rows, columns, parts, most])
        .input(images)
        .input(bank)
        .input(offsets)
        .output(&mut closeness)
        .output(&mut found)
        .blocks(device, groups * parts)?;
    let shape = Shape::from((count, most, 2));
    let mut merged = G::uninitialised(device, &shape, DType::F64)?;
    Launch::new("neighbours", "neighbours_merged", images.dtype())?
        .sizes([count, parts, most])
        .input(View { memory: &closeness, layout: &lists })
        .input(View { memory: &found, layout: &lists })
        .output(&mut merged)
        .each(device, lists.shape().elem_count())?;
    Ok((merged, shape))
}
