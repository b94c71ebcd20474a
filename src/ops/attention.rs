//! Self-attention with its gradient, without a matrix of all pairs of tokens: weights are made for some queries at a time, and made
//! again on the way back.
//!
//! Of each head: P = softmax(scale·Qᵀ·K) over the keys, Y = V·Pᵀ. With dY the gradient of Y: dV = dY·P, dP = dYᵀ·V,
//! dS = scale·P·(dP − Σ P·dP), dQ = K·dSᵀ, dK = Q·dS. With a bias, P = softmax(scale·Qᵀ·K + B), and dB = P·(dP − Σ P·dP) is summed over
//! the images that have it.
//!
//! - Paper: Vaswani et al., *Attention Is All You Need*, NeurIPS 2017, <https://arxiv.org/abs/1706.03762>. That the weights need not be
//!   kept: Rabe & Staats, *Self-attention Does Not Need O(n²) Memory*, 2021, <https://arxiv.org/abs/2112.05682>.

use std::ops::Range;

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
    let sizes = Sizes::of(qkv, heads, scale, order)?;
    if op::is_on_gpu(qkv) {
        return sizes.composed(qkv, None);
    }
    op::apply(Attention(sizes), [qkv])
}

/// The same with `bias` (K, heads, T, T), which is added to the scaled products of each query (a row) and key (a column) before the softmax:
/// image i, counted from 0, has the bias i mod K, so that K divides the images. The bias has a gradient, too.
///
/// # Errors
/// As [`attention`], and when the bias does not fit.
pub fn biased_attention(qkv: &Tensor, bias: &Tensor, heads: usize, scale: f64, order: Order) -> Result<Tensor> {
    let sizes = Sizes::of(qkv, heads, scale, order)?;
    let (kinds, of, rows, columns) = bias.dims4()?;
    let fits = [of, rows, columns] == [heads, sizes.tokens, sizes.tokens] && kinds > 0;
    if !fits || !sizes.images.is_multiple_of(kinds) {
        bail!("attention: a bias of {:?} does not fit queries, keys and values {:?}", bias.dims(), qkv.dims());
    }
    if op::is_on_gpu(qkv) {
        return sizes.composed(qkv, Some(bias));
    }
    op::apply(Biased(sizes), [qkv, bias])
}

impl Sizes {
    fn of(qkv: &Tensor, heads: usize, scale: f64, order: Order) -> Result<Self> {
        let (images, first, second) = qkv.dims3()?;
        let [channels, tokens] = if order == Order::Channels { [first, second] } else { [second, first] };
        if heads == 0 || !channels.is_multiple_of(3 * heads) || qkv.elem_count() == 0 {
            bail!("attention: {heads} heads do not fit queries, keys and values {:?}", qkv.dims());
        }
        Ok(Self { images, tokens, heads, depth: channels / (3 * heads), scale, order })
    }
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
    fn composed(self, qkv: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let Self { images, tokens, heads, depth, scale, order } = self;
        // (N, heads, T, depth) each.
        let parts = match order {
            Order::Channels => qkv.reshape((images, 3, heads, depth, tokens))?.permute((1, 0, 2, 4, 3))?,
            Order::Tokens => qkv.reshape((images, tokens, 3, heads, depth))?.permute((2, 0, 3, 1, 4))?,
        };
        let parts = parts.contiguous()?;
        let mut products = (parts.get(0)? * scale)?.matmul(&parts.get(1)?.t()?)?;
        if let Some(bias) = bias {
            let shape = products.shape().clone();
            let by_kind = products.reshape(((), bias.dim(0)?, heads, tokens, tokens))?;
            products = by_kind.broadcast_add(bias)?.reshape(shape)?;
        }
        let weights = softmax(&products)?;
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
    fn blocks(self) -> impl Iterator<Item = Range<usize>> {
        let size = (WEIGHTS / self.tokens).clamp(1, self.tokens);
        (0..self.tokens).step_by(size).map(move |start| start..self.tokens.min(start + size))
    }

    /// The (T, T) bias of a head of an image, if there is one.
    fn bias_of<T>(self, bias: Option<&[T]>, image: usize, head: usize) -> Option<&[T]> {
        let square = self.tokens * self.tokens;
        let bias = bias?;
        let kind = image % (bias.len() / (self.heads * square));
        bias.chunks_exact(square).nth(kind * self.heads + head)
    }

    /// The (queries, T) weights P of the queries of `block`, row after row. `bias`: of all queries.
    fn weights<T: Float>(
        self,
        weights: &mut [T],
        block: Range<usize>,
        [queries, keys]: [Matrix<'_, T>; 2],
        bias: Option<&[T]>,
    ) {
        matmul(weights, false, queries.columns(block.clone()).transposed(), keys);
        let scale = T::from_f64(self.scale);
        for (query, row) in block.zip(weights.chunks_exact_mut(self.tokens)) {
            wide!(row.iter_mut().for_each(|value| *value *= scale));
            if let Some(bias) = bias {
                let bias = &bias[query * self.tokens..][..self.tokens];
                wide!(row.iter_mut().zip(bias).for_each(|(value, bias)| *value += *bias));
            }
            let most = largest(row);
            wide!(row.iter_mut().for_each(|value| *value = Float::exp(*value - most)));
            let factor = T::from_f64(1.0 / sum(row));
            wide!(row.iter_mut().for_each(|value| *value *= factor));
        }
    }

    /// `parts` times C channels of every image, which `head` writes head by head; and what else it makes, image after image and head after
    /// head.
    fn each_head<T: Float>(self, parts: usize, head: impl Fn(usize, usize) -> Made<T> + Sync) -> (Vec<T>, Vec<Vec<T>>) {
        let mut all = vec![T::from_f64(0.0); self.images * self.of_image(parts)];
        let images = all.par_chunks_mut(self.of_image(parts)).enumerate().map(|(at, image)| {
            let heads: Vec<_> = (0..self.heads).into_par_iter().map(|of| head(at, of)).collect();
            let mut others = Vec::with_capacity(self.heads);
            for (of, made) in heads.into_iter().enumerate() {
                made.parts.iter().for_each(|(part, first, values)| {
                    self.write(image, parts, [*part, of], *first, values);
                });
                others.push(made.slopes);
            }
            others
        });
        let others: Vec<Vec<Vec<T>>> = images.collect();
        (all, others.into_iter().flatten().collect())
    }

    fn forward<T: Float>(self, qkv: &[T], bias: Option<&[T]>) -> Vec<T> {
        let (y, _) = self.each_head(1, |image, head| {
            let bias = self.bias_of(bias, image, head);
            let image = &qkv[image * self.of_image(3)..][..self.of_image(3)];
            let [q, k, v] = [0, 1, 2].map(|part| self.matrix(image, 3, part, head));
            let mut weights = Vec::new();
            let made = self.blocks().map(|block| {
                weights.resize(block.len() * self.tokens, T::from_f64(0.0));
                self.weights(&mut weights, block.clone(), [q, k], bias);
                let mut mixed = vec![T::from_f64(0.0); self.depth * block.len()];
                matmul(&mut mixed, false, v, Matrix::new(&weights, block.len(), self.tokens).transposed());
                (0, block.start, mixed)
            });
            Made { parts: made.collect(), slopes: Vec::new() }
        });
        y
    }

    /// The gradient of queries, keys and values, as they lie; with `learns`, also the (T, T) gradient of each head's bias, image after image.
    fn backward<T: Float>(self, qkv: &[T], bias: Option<&[T]>, dy: &[T], learns: bool) -> (Vec<T>, Vec<Vec<T>>) {
        let scale = T::from_f64(self.scale);
        self.each_head(3, |image, head| {
            let bias = self.bias_of(bias, image, head);
            let dy = self.matrix(&dy[image * self.of_image(1)..][..self.of_image(1)], 1, 0, head);
            let image = &qkv[image * self.of_image(3)..][..self.of_image(3)];
            let [q, k, v] = [0, 1, 2].map(|part| self.matrix(image, 3, part, head));
            let zeros = |count: usize| vec![T::from_f64(0.0); self.depth * count];
            let (mut weights, mut slopes) = (Vec::new(), Vec::new());
            let (mut dk, mut dv) = (zeros(self.tokens), zeros(self.tokens));
            let mut made = Made { parts: Vec::new(), slopes: Vec::new() };
            for block in self.blocks() {
                let (rows, start) = (block.len(), block.start);
                weights.resize(rows * self.tokens, T::from_f64(0.0));
                slopes.resize(rows * self.tokens, T::from_f64(0.0));
                self.weights(&mut weights, block.clone(), [q, k], bias);
                let (q, dy) = (q.columns(block.clone()), dy.columns(block));
                matmul(&mut dv, true, dy, Matrix::new(&weights, rows, self.tokens));
                matmul(&mut slopes, false, dy.transposed(), v);
                for (ds, p) in slopes.chunks_exact_mut(self.tokens).zip(weights.chunks_exact(self.tokens)) {
                    let mean = T::from_f64(sum_of([&*ds, p], |[ds, p]| ds * p));
                    if learns {
                        made.slopes.extend(ds.iter().zip(p).map(|(ds, p)| *p * (*ds - mean)));
                    }
                    wide!(ds.iter_mut().zip(p).for_each(|(ds, p)| *ds = scale * *p * (*ds - mean)));
                }
                let slopes = Matrix::new(&slopes, rows, self.tokens);
                let mut dq = zeros(rows);
                matmul(&mut dq, false, k, slopes.transposed());
                made.parts.push((0, start, dq));
                matmul(&mut dk, true, q, slopes);
            }
            made.parts.extend([(1, 0, dk), (2, 0, dv)]);
            made
        })
    }
}

/// What one head of one image makes.
struct Made<T> {
    /// (part, first token, values) of (depth, tokens) matrices.
    parts: Vec<(usize, usize, Vec<T>)>,
    /// The gradient of its bias, if that is asked for.
    slopes: Vec<T>,
}

struct Attention(Sizes);

impl Op<1> for Attention {
    const NAME: &'static str = "attention";

    fn cpu<T: Float>(&self, [qkv]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        Ok((self.0.forward(qkv.data, None), self.0.result()))
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
        Ok((self.0.backward(qkv.data, None, dy.data, false).0, qkv.shape.clone()))
    }
}

struct Biased(Sizes);

impl Op<2> for Biased {
    const NAME: &'static str = "biased attention";

    fn cpu<T: Float>(&self, [qkv, bias]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        Ok((self.0.forward(qkv.data, Some(bias.data)), self.0.result()))
    }

    fn gradients(&self, [qkv, bias]: [&Tensor; 2], _: &Tensor, dy: &Tensor) -> Result<[Option<Tensor>; 2]> {
        let learns = bias.track_op();
        let packed = op::apply_no_grad(&BiasedGradient { sizes: self.0, learns }, [qkv, bias, dy])?;
        let of_qkv = packed.narrow(0, 0, qkv.elem_count())?.reshape(qkv.shape())?;
        // Copied, because a view would keep the large array alive as long as an optimiser keeps the gradient.
        let of_bias =
            || packed.narrow(0, qkv.elem_count(), bias.elem_count())?.force_contiguous()?.reshape(bias.shape());
        Ok([Some(of_qkv), learns.then(of_bias).transpose()?])
    }
}

/// (queries, keys and values; bias; dY) to the gradients of the first and, if the bias learns, of the second, packed.
struct BiasedGradient {
    sizes: Sizes,
    learns: bool,
}

impl Op<3> for BiasedGradient {
    const NAME: &'static str = "biased attention's gradient";

    fn cpu<T: Float>(&self, [qkv, bias, dy]: [Array<'_, T>; 3]) -> Result<(Vec<T>, Shape)> {
        let (mut packed, slopes) = self.sizes.backward(qkv.data, Some(bias.data), dy.data, self.learns);
        if self.learns {
            // In the order of the images, whatever thread came first.
            let mut sums = vec![0.0; bias.data.len()];
            let square = self.sizes.tokens * self.sizes.tokens;
            for (at, slopes) in slopes.iter().enumerate() {
                let sums = &mut sums[at * square % bias.data.len()..][..square];
                sums.iter_mut().zip(slopes).for_each(|(sum, slope)| *sum += slope.to_f64());
            }
            packed.extend(sums.into_iter().map(T::from_f64));
        }
        let shape = packed.len().into();
        Ok((packed, shape))
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
            let whole = sizes.composed(&qkv, None).unwrap();
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

    /// The second image of each pair has another bias than the first; 200 tokens are two blocks of queries.
    #[test]
    fn a_bias_is_added_and_learns() {
        for (order, tokens, heads) in [(Order::Tokens, 200, 1), (Order::Tokens, 6, 2), (Order::Channels, 6, 2)] {
            let shape = if order == Order::Channels { [4, 24, tokens] } else { [4, tokens, 24] };
            let qkv = Var::from_tensor(&(uniform("qkv", &shape) * 3.0).unwrap()).unwrap();
            let bias = Var::from_tensor(&(uniform("bias", &[2, heads, tokens, tokens]) * 2.0).unwrap()).unwrap();
            let sizes = Sizes { images: 4, tokens, heads, depth: 8 / heads, scale: 0.7, order };
            let ours = biased_attention(&qkv, &bias, heads, 0.7, order).unwrap();
            let whole = sizes.composed(&qkv, Some(&bias)).unwrap();
            assert!(farthest(&ours, &whole) < 1e-12, "{order:?}: {}", farthest(&ours, &whole));
            assert!(farthest(&ours, &attention(&qkv, heads, 0.7, order).unwrap()) > 1e-3);
            let toward = uniform("toward", ours.dims());
            let gradients = |y: &Tensor| (y * &toward).unwrap().sum_all().unwrap().backward().unwrap();
            let (found, expected) = (gradients(&ours), gradients(&whole));
            for of in [&qkv, &bias] {
                let far = farthest(found.get(of).unwrap(), expected.get(of).unwrap());
                assert!(far < 1e-11, "{order:?}, gradients: {far}");
            }
            // A bias that is a constant: the same for the rest.
            let constant = gradients(&biased_attention(&qkv, &bias.detach(), heads, 0.7, order).unwrap());
            assert_eq!(farthest(constant.get(&qkv).unwrap(), found.get(&qkv).unwrap()), 0.0);
            assert!(constant.get(&bias).is_none());
        }
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let qkv = uniform("qkv", &[4, 12, 5]);
        let biased = |shape: &[usize]| biased_attention(&qkv, &uniform("bias", shape), 2, 1.0, Order::Channels);
        assert!(biased(&[1, 2, 5, 5]).is_ok() && biased(&[4, 2, 5, 5]).is_ok());
        assert!(biased(&[3, 2, 5, 5]).is_err() && biased(&[1, 1, 5, 5]).is_err() && biased(&[1, 2, 5, 4]).is_err());
        let qkv = uniform("qkv", &[1, 12, 5]);
        assert!(attention(&qkv, 2, 1.0, Order::Channels).is_ok());
        assert!(attention(&qkv, 3, 1.0, Order::Channels).is_err());
        assert!(attention(&qkv, 0, 1.0, Order::Channels).is_err());
        assert!(attention(&qkv, 1, 1.0, Order::Tokens).is_err());
        assert!(attention(&uniform("none", &[1, 12, 0]), 1, 1.0, Order::Channels).is_err());
    }
}
