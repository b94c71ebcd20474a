//! Maps one after another along their channels.
//!
//! The gradient of candle's concatenation adds each part, a view, to a tensor of zeros.

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{
    Float,
    fresh::fresh,
    op::{self, Array, Op},
};

/// The channels of all `maps` (N, Cᵢ, H, W), in order: (N, ΣCᵢ, H, W).
///
/// # Errors
/// When there are no maps or values, or the maps differ in more than their channels.
pub fn concat(maps: &[&Tensor]) -> Result<Tensor> {
    let Some(first) = maps.first() else { bail!("concat: there are no maps") };
    let (images, _, height, width) = first.dims4()?;
    for map in maps {
        let (others, _, rows, columns) = map.dims4()?;
        if [others, rows, columns] != [images, height, width] || map.elem_count() == 0 {
            bail!("concat: {:?} beside {:?}", map.dims(), first.dims());
        }
    }
    match *maps {
        _ if op::is_on_gpu(first) => Tensor::cat(maps, 1),
        [only] => Ok(only.clone()),
        [a, b] => op::apply(Concat, [a, b]),
        [a, b, c] => op::apply(Concat, [a, b, c]),
        _ => {
            let (left, right) = maps.split_at(maps.len() / 2);
            concat(&[&concat(left)?, &concat(right)?])
        }
    }
}

struct Concat;

impl<const N: usize> Op<N> for Concat {
    const NAME: &'static str = "concat";

    fn cpu<T: Float>(&self, inputs: [Array<'_, T>; N]) -> Result<(Vec<T>, Shape)> {
        let (images, _, height, width) = inputs[0].shape.dims4()?;
        let lengths = inputs.map(|input| input.data.len() / images);
        let y = fresh(images * lengths.iter().sum::<usize>(), |y| {
            let images = y.par_chunks(lengths.iter().sum()).enumerate().map(|(image, mut y)| {
                let mut written = Vec::with_capacity(N);
                for (input, length) in inputs.iter().zip(lengths) {
                    let (part, rest) = y.split_at(length);
                    written.push(part.write(input.data[image * length..][..length].iter().copied()));
                    y = rest;
                }
                written.into_iter().sum()
            });
            images.sum()
        });
        let channels = lengths.iter().sum::<usize>() / (height * width);
        Ok((y, (images, channels, height, width).into()))
    }

    fn gradients(&self, inputs: [&Tensor; N], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; N]> {
        let mut first = 0;
        let parts = inputs.iter().map(|input| {
            let part = Part { first, count: input.dim(1)? };
            first += part.count;
            op::gradient(input, &part, [dy])
        });
        op::same(parts.collect::<Result<Vec<_>>>()?)
    }
}

/// Some adjacent channels.
struct Part {
    first: usize,
    count: usize,
}

impl Op<1> for Part {
    const NAME: &'static str = "concat's gradient";

    fn cpu<T: Float>(&self, [dy]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let (images, channels, height, width) = dy.shape.dims4()?;
        let (image, length) = (channels * height * width, self.count * height * width);
        let dx = fresh(images * length, |dx| {
            let images = dx.par_chunks(length).zip(dy.data.par_chunks(image));
            images.map(|(dx, dy)| dx.write(dy[self.first * height * width..].iter().take(length).copied())).sum()
        });
        Ok((dx, (images, self.count, height, width).into()))
    }
}
