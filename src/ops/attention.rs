//! Self-attention with its gradient, without a matrix of all pairs of tokens: weights are made for some queries at a time, and made
//! again on the way back.
//!
//! Of each head: P = softmax(scale·Qᵀ·K) over the keys, Y = V·Pᵀ. With dY the gradient of Y: dV = dY·P, dP = dYᵀ·V,
//! dS = scale·P·(dP − Σ P·dP), dQ = K·dSᵀ, dK = Q·dS.
//!
//! - Paper: Vaswani et al., *Attention Is All You Need*, NeurIPS 2017, <https://arxiv.org/abs/1706.03762>. That the weights need not be
//!   kept: Rabe & Staats, *Self-attention Does Not Need O(n²) Memory*, 2021, <https://arxiv.org/abs/2112.05682>.

use candle_core::{Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::{
    Float,
    float::{largest, sum, sum_of},
    gemm::{Matrix, matmul},
    op::{self, Array, Op},
    softmax,
    wide::wide,
};

/// Weights that are made at a time: 128 KiB of f32, which stay in a core's cache. Ours.
const WEIGHTS: usize = 32 * 1024;

/// How queries, keys and values lie in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// (N, 3·C, T): every channel's tokens side by side, as a convolution gives them.
    Channels,
    /// (N, T, 3·C): every token's channels side by side, as a linear layer gives them.
    Tokens,
}

/// What each token takes of the values of all tokens of its image. `qkv`: queries, keys and values of C channels each, one after another,
/// in this order; f32 or f64. Each of `heads` equal parts of the channels attends for itself. Result: (N, C, T) or (N, T, C).
/// `scale`: the factor of the products, mostly 1/√(C/heads).
///
/// # Errors
/// When `3·heads` does not divide the channels, or nothing is there.
pub fn attention(qkv: &Tensor, heads: usize, scale: f64, order: Order) -> Result<Tensor> {
    let (images, first, second) = qkv.dims3()?;
    let [channels, tokens] = if order == Order::Channels { [first, second] } else { [second, first] };
    if heads == 0 || !channels.is_multiple_of(3 * heads) || qkv.elem_count() == 0 {
        bail!("attention: {heads} heads do not fit queries, keys and values {:?}", qkv.dims());
    }
    let sizes = Sizes { images, tokens, heads, depth: channels / (3 * heads), scale, order };
    if op::is_on_gpu(qkv) {
        return sizes.composed(qkv);
    }
    op::apply(Attention(sizes), [qkv])
}

#[derive(Debug, Clone, Copy)]
struct Sizes {
    images: usize,
    tokens: usize,
    heads: usize,
    /// Channels of a head.
    depth: usize,
    scale: f64,
    order: Order,
}

impl Sizes {
    /// By products of whole matrices, which a GPU has.
    fn composed(self, qkv: &Tensor) -> Result<Tensor> {
        let Self { images, tokens, heads, depth, scale, order } = self;
        // (N, heads, T, depth) each.
        let parts = match order {
            Order::Channels => qkv.reshape((images, 3, heads, depth, tokens))?.permute((1, 0, 2, 4, 3))?,
            Order::Tokens => qkv.reshape((images, tokens, 3, heads, depth))?.permute((2, 0, 3, 1, 4))?,
        };
        let parts = parts.contiguous()?;
        let weights = softmax(&(parts.get(0)? * scale)?.matmul(&parts.get(1)?.t()?)?)?;
        let mixed = weights.matmul(&parts.get(2)?)?;
        match order {
            Order::Channels => mixed.transpose(2, 3)?.reshape((images, heads * depth, tokens)),
            Order::Tokens => mixed.transpose(1, 2)?.reshape((images, tokens, heads * depth)),
        }
    }

    fn result(self) -> Shape {
        let (images, width, tokens) = (self.images, self.heads * self.depth, self.tokens);
        if self.order == Order::Channels { (images, width, tokens).into() } else { (images, tokens, width).into() }
    }

    /// Elements of one image's `parts` times C channels.
    fn of_image(self, parts: usize) -> usize {
        parts * self.heads * self.depth * self.tokens
    }

    /// The (depth, T) matrix of a head of one of an image's `parts`.
    fn matrix<T: Float>(self, image: &[T], parts: usize, part: usize, head: usize) -> Matrix<'_, T> {
        let width = parts * self.heads * self.depth;
        let start = (part * self.heads + head) * self.depth;
        match self.order {
            Order::Channels => {
                let rows = &image[start * self.tokens..(start + self.depth) * self.tokens];
                Matrix::new(rows, self.depth, self.tokens)
            }
            Order::Tokens => Matrix::new(image, self.tokens, width).columns(start..start + self.depth).transposed(),
        }
    }

    /// Writes a (depth, tokens) matrix, row after row, to a head of one of an image's `parts`, to the tokens from `first` on.
    fn write<T: Float>(self, image: &mut [T], parts: usize, [part, head]: [usize; 2], first: usize, values: &[T]) {
        let width = parts * self.heads * self.depth;
        let start = (part * self.heads + head) * self.depth;
        let count = values.len() / self.depth;
        match self.order {
            Order::Channels => {
                for (channel, row) in values.chunks_exact(count).enumerate() {
                    let from = (start + channel) * self.tokens + first;
                    image[from..from + count].copy_from_slice(row);
                }
            }
            Order::Tokens => {
                for (token, row) in image.chunks_exact_mut(width).skip(first).take(count).enumerate() {
                    let channels = row[start..start + self.depth].iter_mut();
                    channels.zip(values.iter().skip(token).step_by(count)).for_each(|(to, from)| *to = *from);
                }
            }
        }
    }

    /// Ranges of queries whose weights are made at a time.
    fn blocks(self) -> impl Iterator<Item = std::ops::Range<usize>> {
        let size = (WEIGHTS / self.tokens).clamp(1, self.tokens);
        (0..self.tokens).step_by(size).map(move |start| start..self.tokens.min(start + size))
    }

    /// The (queries, T) weights P, row after row.
    fn weights<T: Float>(self, weights: &mut [T], queries: Matrix<'_, T>, keys: Matrix<'_, T>) {
        matmul(weights, false, queries.transposed(), keys);
        let scale = T::from_f64(self.scale);
        for row in weights.chunks_exact_mut(self.tokens) {
            wide!(row.iter_mut().for_each(|value| *value *= scale));
            let most = largest(row);
            wide!(row.iter_mut().for_each(|value| *value = Float::exp(*value - most)));
            let factor = T::from_f64(1.0 / sum(row));
            wide!(row.iter_mut().for_each(|value| *value *= factor));
        }
    }

    /// `parts` times C channels of every image, which `head` writes head by head.
    fn each_head<T: Float>(
        self,
        parts: usize,
        head: impl Fn(usize, usize) -> Vec<(usize, usize, Vec<T>)> + Sync,
    ) -> Vec<T> {
        let mut all = vec![T::from_f64(0.0); self.images * self.of_image(parts)];
        all.par_chunks_mut(self.of_image(parts)).enumerate().for_each(|(at, image)| {
            let heads: Vec<_> = (0..self.heads).into_par_iter().map(|of| head(at, of)).collect();
            for (of, made) in heads.iter().enumerate() {
                made.iter().for_each(|(part, first, values)| self.write(image, parts, [*part, of], *first, values));
            }
        });
        all
    }
}

struct Attention(Sizes);

impl Op<1> for Attention {
    const NAME: &'static str = "attention";

    fn cpu<T: Float>(&self, [qkv]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let sizes = self.0;
        let y = sizes.each_head(1, |image, head| {
            let image = &qkv.data[image * sizes.of_image(3)..][..sizes.of_image(3)];
            let [q, k, v] = [0, 1, 2].map(|part| sizes.matrix(image, 3, part, head));
            let mut weights = Vec::new();
            let made = sizes.blocks().map(|block| {
                weights.resize(block.len() * sizes.tokens, T::from_f64(0.0));
                sizes.weights(&mut weights, q.columns(block.clone()), k);
                let mut mixed = vec![T::from_f64(0.0); sizes.depth * block.len()];
                matmul(&mut mixed, false, v, Matrix::new(&weights, block.len(), sizes.tokens).transposed());
                (0, block.start, mixed)
            });
            made.collect()
        });
        Ok((y, sizes.result()))
    }

    fn gradients(&self, [qkv]: [&Tensor; 1], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(op::apply_no_grad(&Gradient(self.0), [qkv, dy])?)])
    }
}

/// (queries, keys and values; dY) to their gradients, as they lie.
struct Gradient(Sizes);

impl Op<2> for Gradient {
    const NAME: &'static str = "attention's gradient";

    fn cpu<T: Float>(&self, [qkv, dy]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let sizes = self.0;
        let scale = T::from_f64(sizes.scale);
        let gradient = sizes.each_head(3, |image, head| {
            let dy = sizes.matrix(&dy.data[image * sizes.of_image(1)..][..sizes.of_image(1)], 1, 0, head);
            let image = &qkv.data[image * sizes.of_image(3)..][..sizes.of_image(3)];
            let [q, k, v] = [0, 1, 2].map(|part| sizes.matrix(image, 3, part, head));
            let zeros = |count: usize| vec![T::from_f64(0.0); sizes.depth * count];
            let (mut weights, mut slopes) = (Vec::new(), Vec::new());
            let (mut dk, mut dv) = (zeros(sizes.tokens), zeros(sizes.tokens));
            let mut made = Vec::new();
            for block in sizes.blocks() {
                let (rows, start) = (block.len(), block.start);
                let (q, dy) = (q.columns(block.clone()), dy.columns(block));
                weights.resize(rows * sizes.tokens, T::from_f64(0.0));
                slopes.resize(rows * sizes.tokens, T::from_f64(0.0));
                sizes.weights(&mut weights, q, k);
                matmul(&mut dv, true, dy, Matrix::new(&weights, rows, sizes.tokens));
                matmul(&mut slopes, false, dy.transposed(), v);
                for (ds, p) in slopes.chunks_exact_mut(sizes.tokens).zip(weights.chunks_exact(sizes.tokens)) {
                    let mean = T::from_f64(sum_of([&*ds, p], |[ds, p]| ds * p));
                    wide!(ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = scale * *p * (*ds - mean)));
                }
                let slopes = Matrix::new(&slopes, rows, sizes.tokens);
                let mut dq = zeros(rows);
                matmul(&mut dq, false, k, slopes.transposed());
                made.push((0, start, dq));
                matmul(&mut dk, true, q, slopes);
            }
            made.extend([(1, 0, dk), (2, 0, dv)]);
            made
        });
        Ok((gradient, qkv.shape.clone()))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Var};

    use super::*;
    use crate::pattern::uniform;

    fn farthest(a: &Tensor, b: &Tensor) -> f64 {
        let far = (a - b).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        far.to_dtype(DType::F64).unwrap().to_scalar().unwrap()
    }

    /// Of several blocks of queries (300 tokens), and of one.
    #[test]
    fn blocks_give_what_whole_matrices_give() {
        for (order, tokens, heads) in [(Order::Channels, 300, 1), (Order::Tokens, 300, 2), (Order::Channels, 7, 2)] {
            let shape = if order == Order::Channels { [2, 24, tokens] } else { [2, tokens, 24] };
            let qkv = Var::from_tensor(&(uniform("qkv", &shape) * 3.0).unwrap()).unwrap();
            let sizes = Sizes { images: 2, tokens, heads, depth: 8 / heads, scale: 0.7, order };
            let ours = attention(&qkv, heads, 0.7, order).unwrap();
            let whole = sizes.composed(&qkv).unwrap();
            assert_eq!(ours.dims(), whole.dims());
            assert!(farthest(&ours, &whole) < 1e-12, "{order:?}: {}", farthest(&ours, &whole));
            let toward = uniform("toward", ours.dims());
            let gradient = |y: &Tensor| {
                let gradients = (y * &toward).unwrap().sum_all().unwrap().backward().unwrap();
                gradients.get(&qkv).unwrap().clone()
            };
            let far = farthest(&gradient(&ours), &gradient(&whole));
            assert!(far < 1e-11, "{order:?}, gradients: {far}");
        }
        let blocks = Sizes { images: 1, tokens: 300, heads: 1, depth: 1, scale: 1.0, order: Order::Channels }.blocks();
        assert_eq!(blocks.map(|block| block.len()).collect::<Vec<_>>(), [109, 109, 82]);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let qkv = uniform("qkv", &[1, 12, 5]);
        assert!(attention(&qkv, 2, 1.0, Order::Channels).is_ok());
        assert!(attention(&qkv, 3, 1.0, Order::Channels).is_err());
        assert!(attention(&qkv, 0, 1.0, Order::Channels).is_err());
        assert!(attention(&qkv, 1, 1.0, Order::Tokens).is_err());
        assert!(attention(&uniform("none", &[1, 12, 0]), 1, 1.0, Order::Channels).is_err());
    }
}
