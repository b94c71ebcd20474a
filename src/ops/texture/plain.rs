//! The same of candle's operations, for GPUs and as what the others are compared with. Tables of pixels by levels are made in full.

use candle_core::{D, Result, Tensor};

use super::{Assign, LEAST_NORM, LEAST_RANGE, Quantiser};

pub(super) fn cosine_similarity(x: &Tensor, means: &Tensor) -> Result<Tensor> {
    let ((images, channels, height, width), (_, _, down, across)) = (x.dims4()?, means.dims4()?);
    let x = unit(x)?.reshape((images, channels, down, height / down, across, width / across))?;
    let means = unit(means)?.reshape((images, channels, down, 1, across, 1))?;
    x.broadcast_mul(&means)?.sum(1)?.reshape((images, height, width))
}

/// Vectors along axis 1, of length 1, or shorter where they have no direction; those have no gradient.
fn unit(x: &Tensor) -> Result<Tensor> {
    let squares = x.sqr()?.sum_keepdim(1)?;
    let directed = squares.gt(LEAST_NORM * LEAST_NORM)?;
    let (zeros, ones) = (squares.zeros_like()?, squares.ones_like()?);
    // Where there is no direction the root is of a constant.
    let norms = directed.where_cond(&squares, &ones)?.sqrt()?;
    let scales = directed.where_cond(&norms.recip()?, &zeros)?;
    let short = directed.where_cond(&zeros, &(ones / LEAST_NORM)?)?;
    x.broadcast_mul(&scales)? + x.detach().broadcast_mul(&short)?
}

/// Levels (…, levels) of the last axis of `similarities` (…, K), and the weight of each similarity's hits of them, (…, K, levels).
fn quantise(similarities: &Tensor, quantiser: Quantiser) -> Result<(Tensor, Tensor)> {
    let levels = quantiser.levels;
    let least = similarities.min_keepdim(D::Minus1)?;
    let range = (similarities.max_keepdim(D::Minus1)? - &least)?;
    let places: Vec<f64> = quantiser.places().collect();
    let row = |values: Vec<f64>| Tensor::new(values, similarities.device())?.to_dtype(similarities.dtype());
    let values = range.broadcast_mul(&row(places)?.reshape(along(similarities, levels))?)?.broadcast_add(&least)?;
    let varied = range.detach().gt(LEAST_RANGE)?;
    let divisor = varied.where_cond(&range.detach(), &range.detach().ones_like()?)?;
    let bins = (similarities.detach().broadcast_sub(&least.detach())?.broadcast_div(&divisor)? * levels as f64)?;
    let bins = bins.unsqueeze(D::Minus1)?;
    let numbers = row((0..levels).map(|n| n as f64).collect())?.reshape(along(&bins, levels))?;
    let hit = match quantiser.assign {
        Assign::Paper => (bins - 0.5)?.ceil()?.clamp(1.0, levels as f64)?.broadcast_sub(&(numbers + 1.0)?)?.eq(0.0)?,
        Assign::Official => (bins - 0.5)?.broadcast_sub(&numbers)?.abs()?.lt(1.0)?,
    };
    let distances = values.unsqueeze(D::Minus2)?.broadcast_sub(&similarities.unsqueeze(D::Minus1)?)?;
    let (above, below) = (distances.detach().gt(0.0)?, distances.detach().lt(0.0)?);
    let signs = (above.to_dtype(distances.dtype())? - below.to_dtype(distances.dtype())?)?;
    let varied = varied.unsqueeze(D::Minus1)?.to_dtype(distances.dtype())?;
    let hit = hit.to_dtype(distances.dtype())?.broadcast_mul(&varied)?;
    let weights = ((distances * signs)?.affine(-1.0, 1.0)? * hit)?;
    Ok((values, weights))
}

/// The shape of a row of `levels` that is spread over all axes of `like` but the last.
fn along(like: &Tensor, levels: usize) -> Vec<usize> {
    let mut shape = vec![1; like.rank()];
    shape[like.rank() - 1] = levels;
    shape
}

/// `counts` divided by their sum over the last axis; 0 where there are none.
fn shares(counts: &Tensor) -> Result<Tensor> {
    let total = counts.sum_keepdim(D::Minus1)?;
    let none = total.detach().eq(0.0)?.to_dtype(counts.dtype())?;
    counts.broadcast_div(&(total + none)?)
}

pub(super) fn quantise_and_count(similarities: &Tensor, quantiser: Quantiser) -> Result<Tensor> {
    let (levels, weights) = quantise(similarities, quantiser)?;
    Tensor::stack(&[levels, shares(&weights.sum(1)?)?], 1)
}

pub(super) fn redistribute(features: &Tensor, similarities: &Tensor, quantiser: Quantiser) -> Result<Tensor> {
    features.matmul(&quantise(similarities, quantiser)?.1.t()?)
}

pub(super) fn cooccurrence(similarities: &Tensor, scale: usize, quantiser: Quantiser) -> Result<Tensor> {
    let ((images, height, width), levels) = (similarities.dims3()?, quantiser.levels);
    let (rows, columns, cells) = (height / scale, width / scale, scale * scale);
    let cell = similarities.reshape((images, scale, rows, scale, columns))?.transpose(2, 3)?;
    let (values, weights) = quantise(&cell.reshape((images, cells, rows * columns))?, quantiser)?;
    let shape = (images, cells, levels, levels);
    let counts = if rows < 2 || columns < 2 {
        Tensor::zeros(shape, similarities.dtype(), similarities.device())?
    } else {
        let weights = weights.reshape((images, cells, rows, columns, levels))?;
        let corner = |row, column| {
            let part = weights.narrow(2, row, rows - 1)?.narrow(3, column, columns - 1)?;
            part.reshape((images * cells, (rows - 1) * (columns - 1), levels))
        };
        corner(0, 0)?.t()?.matmul(&corner(1, 1)?)?.reshape(shape)?
    };
    let shares = shares(&counts.flatten_from(2)?)?;
    let right = values.unsqueeze(2)?.broadcast_as(shape)?.flatten_from(2)?;
    let left = values.unsqueeze(3)?.broadcast_as(shape)?.flatten_from(2)?;
    Tensor::stack(&[right, left, shares], 1)
}
