//! The layers that make features of counted pairs, without keeping what lies between them.
//!
//! At a scale of 8 with 8 levels there are 4096 pairs an image, four times the pixels of a 32×32 grid, and each layer's result would be kept
//! for the backward pass. Here a few images pass through all layers at a time; backward, they do so again.

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use crate::ops::{
    Activation, Convolution, Float,
    activation::{Curve as _, with_curve},
    conv2d::{self, direct::Ending, geometry::Geometry},
    float::sum,
    op::{self, Array, Op},
};

/// Elements of the widest layer's result that are alive at a time, at most, where an image does not have more: 4 MB of f32.
const ALIVE: usize = 1 << 20;

/// W₃·second(W₂·first(W₁·c)) + s of the vectors c of `pairs` (N, C₀, R, P), with `weights` Wₖ (Cₖ, Cₖ₋₁, 1, 1) and s of `shared`
/// (N, C₃, R, 1), which the P vectors of a row have in common: (N, C₃, R, P). f32 or f64, on the CPU.
///
/// The gradient is with respect to all.
///
/// # Errors
/// When the shapes do not fit, there are no values, or a leaky ReLU's slope is negative.
pub fn pair_features(
    pairs: &Tensor,
    weights: [&Tensor; 3],
    activations: [Activation; 2],
    shared: &Tensor,
) -> Result<Tensor> {
    let (images, inputs, rows, columns) = pairs.dims4()?;
    let mut channels = [inputs; 4];
    for (layer, weight) in weights.iter().enumerate() {
        let (outputs, inputs, height, width) = weight.dims4()?;
        if inputs != channels[layer] || [height, width] != [1, 1] {
            bail!("pair_features: weights {:?} do not follow {} channels", weight.dims(), channels[layer]);
        }
        channels[layer + 1] = outputs;
    }
    if shared.dims() != [images, channels[3], rows, 1] || pairs.elem_count() == 0 || channels.contains(&0) {
        bail!("pair_features: pairs {:?}, weights to {channels:?} and {:?} do not fit", pairs.dims(), shared.dims());
    }
    activations.into_iter().try_for_each(Activation::check)?;
    let layers = Layers { images, channels, size: [rows, columns], activations, alive: ALIVE };
    apply(layers, pairs, weights, shared)
}

pub(super) fn apply(layers: Layers, pairs: &Tensor, weights: [&Tensor; 3], shared: &Tensor) -> Result<Tensor> {
    let weights = Tensor::cat(&[weights[0].flatten_all()?, weights[1].flatten_all()?, weights[2].flatten_all()?], 0)?;
    op::apply(PairFeatures(layers), [pairs, &weights, shared])
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Layers {
    pub(super) images: usize,
    /// Of the pairs, and of what each layer makes of them.
    pub(super) channels: [usize; 4],
    /// Rows of pairs, and pairs in a row.
    pub(super) size: [usize; 2],
    /// After the first layer and the second.
    pub(super) activations: [Activation; 2],
    /// See [`ALIVE`].
    pub(super) alive: usize,
}

impl Layers {
    fn pixels(&self) -> usize {
        self.size[0] * self.size[1]
    }

    /// The numbers of images that pass at a time.
    fn chunks(&self) -> impl Iterator<Item = usize> {
        let widest = self.channels.into_iter().max().unwrap_or(1);
        let most = (self.alive / (widest * self.pixels())).max(1);
        let images = self.images;
        (0..images).step_by(most).map(move |first| most.min(images - first))
    }

    fn geometry(&self, layer: usize, images: usize) -> Result<Geometry> {
        let [inputs, outputs] = [self.channels[layer], self.channels[layer + 1]];
        Geometry::new(&[images, inputs, self.size[0], self.size[1]], &[outputs, inputs, 1, 1], Convolution::new(1, 0))
    }

    /// Each layer's part of all weights.
    fn weights<'a, T>(&self, all: &'a [T]) -> [&'a [T]; 3] {
        let [a, b, c, d] = self.channels;
        let (first, rest) = all.split_at(a * b);
        let (second, third) = rest.split_at(b * c);
        [first, second, &third[..c * d]]
    }

    /// What the first layer and the second make of some images.
    fn hidden<T: Float>(&self, images: usize, pairs: &[T], weights: [&[T]; 3]) -> Result<[Vec<T>; 2]> {
        let layer = |layer: usize, x: &[T]| -> Result<Vec<T>> {
            let ending = Ending { add: None, activation: self.activations[layer] };
            Ok(conv2d::run(&self.geometry(layer, images)?, x, weights[layer], None, ending))
        };
        let first = layer(0, pairs)?;
        let second = layer(1, &first)?;
        Ok([first, second])
    }
}

struct PairFeatures(Layers);

impl Op<3> for PairFeatures {
    const NAME: &'static str = "pair_features";

    fn cpu<T: Float>(&self, [pairs, weights, shared]: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        let layers = &self.0;
        let ([inputs, .., outputs], [rows, columns]) = (layers.channels, layers.size);
        let weights = layers.weights(weights.data);
        let mut y = Vec::with_capacity(layers.images * outputs * layers.pixels());
        let (mut pairs, mut shared) = (pairs.data, shared.data);
        for images in layers.chunks() {
            let (now, later) = pairs.split_at(images * inputs * layers.pixels());
            let (each, others) = shared.split_at(images * outputs * rows);
            let [_, second] = layers.hidden(images, now, weights)?;
            let mut part = conv2d::run(&layers.geometry(2, images)?, &second, weights[2], None, Ending::NONE);
            part.par_chunks_mut(columns).zip(each).with_min_len(64).for_each(|(y, shared)| {
                y.iter_mut().for_each(|y| *y += *shared);
            });
            y.extend_from_slice(&part);
            (pairs, shared) = (later, others);
        }
        Ok((y, (layers.images, outputs, rows, columns).into()))
    }

    fn gradients(
        &self,
        [pairs, weights, shared]: [&Tensor; 3],
        _: &Tensor,
        dy: &Tensor,
    ) -> Result<[Option<Tensor>; 3]> {
        let packed = op::apply_no_grad(&PairFeaturesGradient(self.0), [pairs, weights, dy])?;
        let mut start = 0;
        let mut next = |like: &Tensor| -> Result<Option<Tensor>> {
            // Copied, because a view would keep all three alive as long as an optimiser keeps one.
            let part = packed.narrow(0, start, like.elem_count())?.force_contiguous()?.reshape(like.shape())?;
            start += like.elem_count();
            Ok(Some(part))
        };
        Ok([next(pairs)?, next(weights)?, next(shared)?])
    }
}

/// (pairs, weights, dY) to the gradients of pairs, weights and what rows share, one after the other.
struct PairFeaturesGradient(Layers);

impl Op<3> for PairFeaturesGradient {
    const NAME: &'static str = "pair_features' gradient";

    fn cpu<T: Float>(&self, [pairs, weights, dy]: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        let layers = &self.0;
        let ([inputs, .., outputs], columns) = (layers.channels, layers.size[1]);
        let mut packed = Vec::with_capacity(pairs.data.len() + weights.data.len() + dy.data.len() / columns);
        let mut of_weights = vec![T::zero(); weights.data.len()];
        let weights = layers.weights(weights.data);
        let (mut later_pairs, mut later_dy) = (pairs.data, dy.data);
        for images in layers.chunks() {
            let (pairs, rest) = later_pairs.split_at(images * inputs * layers.pixels());
            later_pairs = rest;
            let (dy, rest) = later_dy.split_at(images * outputs * layers.pixels());
            later_dy = rest;
            let hidden = layers.hidden(images, pairs, weights)?;
            let mut gradient: Option<Vec<T>> = None;
            let mut end = of_weights.len();
            for layer in (0..3).rev() {
                let geometry = layers.geometry(layer, images)?;
                let dy = gradient.as_deref().unwrap_or(dy);
                let x = if layer == 0 { pairs } else { &hidden[layer - 1] };
                let of_weight = conv2d::weight_gradient(&geometry, dy, x);
                let start = end - of_weight.len();
                of_weights[start..end].iter_mut().zip(of_weight).for_each(|(sum, part)| *sum += part);
                end = start;
                let mut dx = conv2d::input_gradient(&geometry, dy, weights[layer]);
                if layer > 0 {
                    with_curve!(layers.activations[layer - 1], curve => {
                        dx.par_iter_mut().zip(x).with_min_len(1 << 14).for_each(|(dx, y)| *dx = curve.gradient(*y, *dx));
                    });
                }
                gradient = Some(dx);
            }
            packed.extend(gradient.unwrap_or_default());
        }
        packed.extend(of_weights);
        packed.par_extend(dy.data.par_chunks(columns).with_min_len(64).map(|row| T::from_f64(sum(row))));
        let shape = packed.len().into();
        Ok((packed, shape))
    }
}
