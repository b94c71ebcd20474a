//! FCDD's loss: images, or regions of them, near the origin or away from it.
//!
//! A = √(z² + 1) − 1 for the output z of a position, a = its mean over the map of an image;
//! `image`: the mean over images of a for a normal one, of −ln(1 − exp(−a)) for an anomalous one.
//! `mask`: with A enlarged to the image by Gaussians, and m the anomalous pixels, the mean over images of mean(A·(1 − m)), and where there are
//! anomalous pixels also −ln(1 − exp(−mean(A·m))); both means are over all pixels.
//!
//! - Paper: Liznerski et al., *Explainable Deep One-Class Classification*, ICLR 2021, <https://arxiv.org/abs/2007.01760>, equations 2 and 3.
//! - Code: `liznerski/fcdd`, `training/fcdd.py`. Its logarithm is of a mean, unlike that of [`hypersphere`](super::hypersphere), which is of each
//!   position.
//! - Deviation: 1e-6 is added to what the logarithm is of a distance of, as in [`hypersphere`](super::hypersphere), in the place of 1e-31 to its
//!   argument: gradients stay finite in f32.

use candle_core::{Result, Tensor, bail};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::{
        Term, Value,
        hypersphere::{distance, likelihood},
    },
    nn::{Output, receptive::Receptive},
    yaml::limits::MOST_WEIGHT,
};

/// Normal images near the origin, anomalous ones away from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "FcddLoss")]
pub struct Settings {
    /// Its factor. The paper's: 1.
    #[garde(range(min = 0.0, max = MOST_WEIGHT))]
    pub weight: f64,
    /// What is known of an anomalous image. The paper's, unless it has masks: `image`.
    #[garde(skip)]
    pub supervision: Supervision,
    /// With `supervision: mask`, how maps are brought to the size of the masks.
    #[garde(dive)]
    pub enlarge: Receptive,
}

/// What is known of an anomalous image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Supervision {
    /// That it is anomalous.
    #[default]
    Image,
    /// Which of its pixels are.
    Mask,
}

impl Default for Settings {
    fn default() -> Self {
        Self { weight: 1.0, supervision: Supervision::default(), enlarge: Receptive::default() }
    }
}

impl Term for Settings {
    fn weight(&self) -> f64 {
        self.weight
    }

    fn needs(&self) -> &'static [Output] {
        &[Output::Embedding]
    }

    fn of_masks(&self) -> bool {
        true
    }

    fn tells_anomalies(&self) -> bool {
        true
    }

    fn value(&self, _: &[u32], _: usize) -> crate::Result<Value> {
        let Self { supervision, enlarge, .. } = *self;
        Ok(Box::new(move |step| {
            let embedding = step.all.embedding()?;
            match (supervision, step.marked) {
                (Supervision::Mask, Some(marked)) => {
                    by_mask(embedding, &step.anomalous(marked.size, embedding)?, enlarge)
                }
                _ => {
                    let (all, made) =
                        (embedding.dim(0)?, step.outliers.map_or(Ok(0), |made| made.embedding()?.dim(0))?);
                    let anomalous = (0..all).map(|image| f64::from(u8::from(image >= all - made)));
                    by_image(embedding, &Tensor::from_iter(anomalous, embedding.device())?.to_dtype(embedding.dtype())?)
                }
            }
        }))
    }
}

/// The loss of (N, C, h, w) embeddings; `anomalous` (N) is 1 for an anomalous image and 0 for a normal one. f32 or f64.
///
/// # Errors
/// If shapes differ.
pub fn by_image(embedding: &Tensor, anomalous: &Tensor) -> Result<Tensor> {
    let means = distance(embedding)?.flatten_from(1)?.mean(1)?;
    let normal = anomalous.affine(-1.0, 1.0)?;
    ((&means * normal)? - (likelihood(&means)? * anomalous)?)?.mean_all()
}

/// The loss of (N, C, h, w) embeddings; `anomalous` (N, H, W) is 1 at anomalous pixels and 0 at normal ones. f32 or f64.
///
/// # Errors
/// If there are fewer pixels than positions.
pub fn by_mask(embedding: &Tensor, anomalous: &Tensor, enlarge: Receptive) -> Result<Tensor> {
    let (images, height, width) = anomalous.dims3()?;
    let full = enlarged(&distance(embedding)?, [height, width], enlarge)?;
    let mean = |marked: &Tensor| (&full * marked)?.flatten_from(1)?.mean(1);
    let inside = mean(anomalous)?;
    // Of an image without anomalous pixels there is nothing to push away.
    let any = anomalous.reshape((images, ()))?.max(1)?;
    (mean(&anomalous.affine(-1.0, 1.0)?)? - (likelihood(&inside)? * any)?)?.mean_all()
}

/// Maps (N, h, w) at `size` rows and columns.
fn enlarged(maps: &Tensor, size: [usize; 2], enlarge: Receptive) -> Result<Tensor> {
    let (_, rows, columns) = maps.dims3()?;
    if rows > size[0] || columns > size[1] || rows * columns == 0 {
        bail!("a map of {rows}×{columns} cannot be enlarged to {size:?}");
    }
    let axis = |grid: usize, size: usize| {
        let weights = enlarge.weights(grid, size).concat();
        Tensor::from_vec(weights, (size, grid), maps.device())?.to_dtype(maps.dtype())
    };
    let (down, across) = (axis(rows, size[0])?, axis(columns, size[1])?.t()?);
    down.broadcast_matmul(&maps.broadcast_matmul(&across)?)
}
