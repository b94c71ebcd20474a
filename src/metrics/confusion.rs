//! Which class was taken for which.

use candle_core::{DType, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// Counts of test images, by class (row) and by the class they were taken for (column).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Confusion(pub Vec<Vec<usize>>);

impl Confusion {
    /// Of (N, K) logits and the labels of the same images. An image is taken for the class of its largest logit, the first of
    /// equal ones.
    ///
    /// # Errors
    /// [`Error::Input`] if there are no images, no classes, another number of labels, a label of K or more, or NaN.
    pub fn of(logits: &Tensor, labels: &[u32]) -> Result<Self> {
        let (images, classes) = logits.dims2()?;
        if images == 0 || classes == 0 || images != labels.len() {
            let message =
                format!("cannot count the classes of {images} × {classes} logits with {} labels", labels.len());
            return Err(Error::input(message));
        }
        let logits = logits.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
        let mut counts = vec![vec![0; classes]; classes];
        for (image, (row, label)) in logits.chunks_exact(classes).zip(labels).enumerate() {
            if row.iter().any(|logit| logit.is_nan()) {
                return Err(Error::input(format!("the logits of image {image} are not all numbers")));
            }
            let first_largest = |best: usize, class: usize| if row[class] > row[best] { class } else { best };
            let taken_for = (1..classes).fold(0, first_largest);
            let row = counts.get_mut(*label as usize).ok_or_else(|| {
                Error::input(format!("the label of image {image} is {label}, and logits has {classes} columns"))
            })?;
            row[taken_for] += 1;
        }
        Ok(Self(counts))
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.0.len()
    }

    /// The share of each class's images that were taken for it, in 0..=1; `None` for a class without images.
    pub fn by_class(&self) -> Vec<Option<f64>> {
        (0..self.classes()).map(|class| self.share(class, class)).collect()
    }

    /// The share of a class's images that were taken for `other`, in 0..=1; `None` without images.
    pub fn share(&self, class: usize, other: usize) -> Option<f64> {
        let row = &self.0[class];
        let images: usize = row.iter().sum();
        (images > 0).then(|| row[other] as f64 / images as f64)
    }
}
