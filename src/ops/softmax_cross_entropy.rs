//! Softmax and cross-entropy in one operation.
//!
//! With targets t_k = (1 − s)·\[k = y\] + s/K (label smoothing s, Szegedy et al. 2016), the loss of a row is
//! logsumexp(f) − Σ t_k·f_k and its gradient softmax(f) − t.

use candle_core::{DType, Result, Shape, Tensor, bail};
use rayon::prelude::*;

#[cfg(any(feature = "cuda", test))]
use super::cuda;
use super::{
    Float,
    float::{largest, sum, sum_of},
    fresh::fresh,
    op::{self, Array, Op},
    softmax::rows_a_task,
};

/// The mean cross-entropy of `logits` (N, K) against `labels` (N) u32, a scalar, as PyTorch's `cross_entropy`.
///
/// `label_smoothing` in [0, 1]: the share of the target that is spread evenly over the classes; 0 is PyTorch's default.
///
/// # Errors
/// When shapes or types do not fit, there are no values, a label is not below K or `label_smoothing` is outside [0, 1].
pub fn softmax_cross_entropy(logits: &Tensor, labels: &Tensor, label_smoothing: f64) -> Result<Tensor> {
    let (images, classes) = logits.dims2()?;
    if labels.dims() != [images] || labels.dtype() != DType::U32 {
        bail!("cross-entropy: {images} rows of logits, labels {:?} of type {:?}", labels.dims(), labels.dtype());
    }
    if images == 0 || classes == 0 {
        bail!("the cross-entropy of {images} × {classes} logits is undefined");
    }
    if !(0.0..=1.0).contains(&label_smoothing) {
        bail!("cross-entropy: label smoothing {label_smoothing} is outside [0, 1]");
    }
    op::apply(CrossEntropy { labels: labels.detach(), label_smoothing }, [logits])
}

#[derive(Clone)]
struct CrossEntropy {
    /// (N)
    labels: Tensor,
    label_smoothing: f64,
}

impl CrossEntropy {
    /// The labels, each below `classes`.
    fn labels(&self, classes: usize) -> Result<Vec<usize>> {
        let labels = self.labels.to_vec1::<u32>()?.into_iter().map(|label| label as usize);
        let label = |label| match label < classes {
            true => Ok(label),
            false => bail!("cross-entropy: label {label}, but there are {classes} classes"),
        };
        labels.map(label).collect()
    }

    /// Of the own class, and of every class.
    fn targets(&self, classes: usize) -> (f64, f64) {
        (1.0 - self.label_smoothing, self.label_smoothing / classes as f64)
    }
}

impl Op<1> for CrossEntropy {
    const NAME: &'static str = "softmax_cross_entropy";

    fn cpu<T: Float>(&self, [logits]: [Array<'_, T>; 1]) -> Result<(Vec<T>, Shape)> {
        let (images, classes) = logits.shape.dims2()?;
        let (labels, (own, every)) = (self.labels(classes)?, self.targets(classes));
        let loss = |row: &[T], label: usize| {
            // Distances from the largest logit, which cancels out.
            let most = largest(row);
            let distance = |value: T| (value - most).to_f64();
            let spread = if every > 0.0 { every * sum_of([row], |[value]| value - most) } else { 0.0 };
            sum_of([row], |[value]| (value - most).exp()).ln() - own * distance(row[label]) - spread
        };
        let rows = logits.data.par_chunks(classes).zip(&labels).with_min_len(rows_a_task(classes));
        let losses: Vec<f64> = rows.map(|(row, label)| loss(row, *label)).collect();
        Ok((vec![T::from_f64(losses.iter().sum::<f64>() / images as f64)], ().into()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [logits]: [cuda::View<'_, G>; 1]) -> Result<(G, Shape)> {
        let (storage, layout) = self.labels.storage_and_layout();
        let (labels, (own, every)) = (cuda::View::of(&storage, layout)?, self.targets(logits.shape().dims2()?.1));
        Ok((cuda::softmax::cross_entropy(logits, labels, [own, every])?, ().into()))
    }

    fn gradients(&self, [logits]: [&Tensor; 1], _: &Tensor, dloss: &Tensor) -> Result<[Option<Tensor>; 1]> {
        Ok([Some(op::apply_no_grad(&CrossEntropyGradient(self.clone()), [logits, dloss])?)])
    }
}

/// (logits, dLoss) to dLogits.
struct CrossEntropyGradient(CrossEntropy);

impl Op<2> for CrossEntropyGradient {
    const NAME: &'static str = "softmax_cross_entropy's gradient";

    fn cpu<T: Float>(&self, [logits, dloss]: [Array<'_, T>; 2]) -> Result<(Vec<T>, Shape)> {
        let (images, classes) = logits.shape.dims2()?;
        let (labels, (own, every)) = (self.0.labels(classes)?, self.0.targets(classes));
        let each = dloss.data[0].to_f64() / images as f64;
        let (own, every) = (T::from_f64(own * each), T::from_f64(every * each));
        let gradient = fresh(logits.data.len(), |gradient| {
            let rows = gradient.par_chunks(classes).zip(logits.data.par_chunks(classes)).zip(&labels);
            let rows = rows.with_min_len(rows_a_task(classes)).map(|((gradient, row), label)| {
                let most = largest(row);
                gradient.write_and(row.iter().map(move |value| (*value - most).exp()), |gradient| {
                    let factor = T::from_f64(each / sum(gradient));
                    gradient.iter_mut().for_each(|value| *value = *value * factor - every);
                    gradient[*label] -= own;
                })
            });
            rows.sum()
        });
        Ok((gradient, logits.shape.clone()))
    }

    #[cfg(any(feature = "cuda", test))]
    fn gpu<G: cuda::Gpu>(&self, [logits, dloss]: [cuda::View<'_, G>; 2]) -> Result<(G, Shape)> {
        let (storage, layout) = self.0.labels.storage_and_layout();
        let (labels, (own, every)) = (cuda::View::of(&storage, layout)?, self.0.targets(logits.shape().dims2()?.1));
        let gradient = cuda::softmax::cross_entropy_gradient(logits, labels, dloss, [own, every])?;
        Ok((gradient, logits.shape().clone()))
    }
}
