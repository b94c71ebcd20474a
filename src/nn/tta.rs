//! Logits as the mean over several views of each image: test-time augmentation.
//!
//! - Code: `KellerJordan/cifar10-airbench`, `infer_mirror` and `infer_mirror_translate` of `airbench94.py`.

use std::sync::Arc;

use candle_core::{Result, Tensor, bail};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::nn::{Model, Pass, Shown};

/// Which views of a test image the prediction is the mean of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tta {
    /// The image and its mirror image: two views.
    Mirror,
    /// Half the weight on these two; half on the same of the image moved by one pixel up and left, and by one down and right, after reflection
    /// at the border: six views. airbench's.
    MirrorTranslate,
}

impl Tta {
    /// How many views it is the mean of.
    pub fn views(self) -> usize {
        match self {
            Self::Mirror => 2,
            Self::MirrorTranslate => 6,
        }
    }

    /// Its key.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mirror => "mirror",
            Self::MirrorTranslate => "mirror_translate",
        }
    }
}

/// A model whose logits are means over views. It shows nothing else.
pub struct Views {
    model: Arc<dyn Model>,
    tta: Tta,
}

impl Views {
    /// Of this model.
    pub fn new(model: Arc<dyn Model>, tta: Tta) -> Self {
        Self { model, tta }
    }

    /// The mean over an image and its mirror image.
    fn mirrored(&self, images: &Tensor, pass: &Pass) -> Result<Tensor> {
        let logits = |images: &Tensor| self.model.show(images, pass)?.logits().cloned();
        let columns = (0..images.dim(3)? as i64).rev();
        (logits(images)? + logits(&at(images, 3, columns)?)?)? * 0.5
    }
}

impl Model for Views {
    fn show(&self, images: &Tensor, pass: &Pass) -> Result<Shown> {
        let mut logits = self.mirrored(images, pass)?;
        if self.tta == Tta::MirrorTranslate {
            let moved = |by: i64| self.mirrored(&moved(images, by)?, pass);
            let moved = (moved(-1)? + moved(1)?)?;
            logits = ((logits * 0.5)? + (moved * 0.25)?)?;
        }
        Ok(Shown { logits: Some(logits), ..Shown::default() })
    }

    fn folded(&self) -> Result<Box<dyn Model>> {
        Ok(Box::new(Self { model: self.model.folded()?.into(), tta: self.tta }))
    }
}

/// What stands `by` pixels further down and right, after reflection at the border, the border's pixel once.
fn moved(images: &Tensor, by: i64) -> Result<Tensor> {
    let mut moved = images.clone();
    for axis in [2, 3] {
        let size = images.dim(axis)? as i64;
        if size < 2 {
            bail!("images of one row or column have nothing to reflect");
        }
        let inside = |place: i64| if place < 0 { -place } else { place.min(2 * size - 2 - place) };
        moved = at(&moved, axis, (0..size).map(|place| inside(place + by)))?;
    }
    Ok(moved)
}

/// The lines at these places of an axis.
fn at(images: &Tensor, axis: usize, places: impl Iterator<Item = i64>) -> Result<Tensor> {
    let places: Vec<u32> = places.map(|place| place as u32).collect();
    let count = places.len();
    images.contiguous()?.index_select(&Tensor::from_vec(places, count, images.device())?, axis)
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    /// Two logits: the pixel in the corner, and 10 times the one in the middle.
    struct Looks;

    impl Model for Looks {
        fn show(&self, images: &Tensor, _: &Pass) -> Result<Shown> {
            let pixel = |at: usize| images.narrow(2, at, 1)?.narrow(3, at, 1)?.reshape((images.dim(0)?, 1));
            let logits = Tensor::cat(&[pixel(0)?, (pixel(1)? * 10.0)?], 1)?;
            Ok(Shown { logits: Some(logits), ..Shown::default() })
        }

        fn folded(&self) -> Result<Box<dyn Model>> {
            Ok(Box::new(Looks))
        }
    }

    #[test]
    fn views_are_airbenchs() {
        // 1 2 3 / 4 5 6 / 7 8 9, and the same times 2.
        let one = Tensor::arange(1f32, 10.0, &Device::Cpu).unwrap().reshape((1, 1, 3, 3)).unwrap();
        let images = Tensor::cat(&[&one, &(&one * 2.0).unwrap()], 0).unwrap();
        let of = |tta| {
            let shown = Views::new(Arc::new(Looks), tta).show(&images, &Pass::eval()).unwrap();
            shown.logits().unwrap().to_vec2::<f32>().unwrap()
        };
        assert_eq!(of(Tta::Mirror), [[2.0, 50.0], [4.0, 100.0]]);
        // Padded by reflection: 5 4 5 6 5 / 2 1 2 3 2 / 5 4 5 6 5 / 8 7 8 9 8 / 5 4 5 6 5. The windows at 0 and at 2 begin 5 4 5 / 2 1 2 and
        // 5 6 5 / 8 9 8, whose mirror images have the same corners and middles.
        let translated = |first: [f32; 2], second: [f32; 2]| [0, 1].map(|at| (first[at] + second[at]) / 2.0);
        let [corner, middle] = translated([5.0, 1.0], [5.0, 9.0]);
        assert_eq!(of(Tta::MirrorTranslate)[0], [0.5 * 2.0 + 0.5 * corner, 0.5 * 50.0 + 0.5 * 10.0 * middle]);
    }

    #[test]
    fn a_line_cannot_be_reflected() {
        let images = Tensor::zeros((1, 1, 1, 4), candle_core::DType::F32, &Device::Cpu).unwrap();
        assert!(moved(&images, 1).is_err());
    }
}
