//! Channels brought to mean 0 and variance 1 by what was seen of the train images before the first step.
//!
//! y = (x − μ) / σ for each channel, with the biased variance σ² over all images and positions. A channel that never varies is only shifted.
//!
//! - Paper: Batzner, Heckler & König, *EfficientAD*, WACV 2024, appendix A.1: a teacher's outputs, and the features that it learned.
//! - Code: `nelson1425/EfficientAD`, `teacher_normalization`.
//! - Deviation: of more than [`MOST_IMAGES`] train images, so many are taken at even distances; the code takes 10,000 of ImageNet.

use candle_core::{DType, Result, Tensor, Var, bail};
use candle_nn::{Init, VarBuilder};

use crate::ops;

/// Images that moments are taken of, at most. Ours: more than any category of MVTec AD has.
pub const MOST_IMAGES: usize = 1024;
/// A smaller variance is none.
const LEAST_VARIANCE: f64 = 1e-12;

/// Each channel's mean and variance.
#[derive(Debug, Clone)]
pub struct Standard {
    mean: Var,
    variance: Var,
}

impl Standard {
    /// Mean 0 and variance 1, in buffers of PyTorch's names of running statistics.
    ///
    /// # Errors
    /// Those of the parameters.
    pub fn new(channels: usize, vb: &VarBuilder) -> Result<Self> {
        let of = |name: &str, value: f64| Var::from_tensor(&vb.get_with_hints(channels, name, Init::Const(value))?);
        Ok(Self { mean: of("running_mean", 0.0)?, variance: of("running_var", 1.0)? })
    }

    /// (N, C, h, w) to the same, standardised.
    ///
    /// # Errors
    /// If it has other channels.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mean = self.mean.as_detached_tensor();
        let scale = self.variance.as_detached_tensor().sqrt()?.recip()?;
        let shift = (mean * &scale)?.neg()?;
        let [scale, shift] = [scale, shift].map(|each| each.reshape((1, (), 1, 1)));
        x.broadcast_mul(&scale?)?.broadcast_add(&shift?)
    }
}

/// What a model makes of images.
type Shows<'a> = Box<dyn Fn(&Tensor) -> Result<Tensor> + 'a>;

/// What a model wants to know of the train images before the first step.
pub struct Survey<'a> {
    all: Vec<Box<dyn Look + 'a>>,
    cut: Option<Shows<'a>>,
    /// How many images it wants, from the first on; `None`: some of all.
    first: Option<usize>,
}

/// Something that is to be known of train images.
pub(super) trait Look {
    /// A batch of them, normalised.
    ///
    /// # Errors
    /// If the images have another shape.
    fn see(&mut self, images: &Tensor) -> Result<()>;

    /// After the last batch.
    ///
    /// # Errors
    /// If there was none.
    fn finish(self: Box<Self>) -> Result<()>;
}

impl<'a> Survey<'a> {
    /// The moments of what `of` makes of images (N, C, H, W), (N, c, h, w), for `into`.
    pub fn new(into: &'a Standard, of: impl Fn(&Tensor) -> Result<Tensor> + 'a) -> Self {
        Self { all: Vec::new(), cut: None, first: None }.and(into, of)
    }

    /// Something else, of so many images, from the first on.
    pub(super) fn of_first(images: usize, look: impl Look + 'a) -> Self {
        Self { all: vec![Box::new(look)], cut: None, first: Some(images) }
    }

    /// The places of the images that it is to see, of so many.
    pub fn places(&self, all: usize) -> Vec<usize> {
        let seen = all.min(self.first.unwrap_or(MOST_IMAGES));
        match self.first {
            Some(_) => (0..seen).collect(),
            None => (0..seen).map(|at| at * all / seen).collect(),
        }
    }

    /// And those of something else.
    #[must_use]
    pub fn and(mut self, into: &'a Standard, of: impl Fn(&Tensor) -> Result<Tensor> + 'a) -> Self {
        let moments = Moments { of: Box::new(of), into, count: 0.0, mean: Vec::new(), squares: Vec::new() };
        self.all.push(Box::new(moments));
        self
    }

    /// The same, of what `cut` makes of images.
    #[must_use]
    pub fn of_parts(self, cut: impl Fn(&Tensor) -> Result<Tensor> + 'a) -> Self {
        Self { cut: Some(Box::new(cut)), ..self }
    }

    /// A batch of train images, normalised.
    ///
    /// # Errors
    /// If the images have another shape.
    pub fn see(&mut self, images: &Tensor) -> Result<()> {
        let images = self.cut.as_ref().map_or_else(|| Ok(images.clone()), |cut| cut(images))?;
        self.all.iter_mut().try_for_each(|look| look.see(&images))
    }

    /// After the last batch.
    ///
    /// # Errors
    /// If there was none.
    pub fn finish(self) -> Result<()> {
        self.all.into_iter().try_for_each(|look| look.finish())
    }
}

/// The moments of what is made of images, so far.
struct Moments<'a> {
    of: Shows<'a>,
    into: &'a Standard,
    /// Values of a channel so far, their mean, and the sum of squared distances from it.
    count: f64,
    mean: Vec<f64>,
    squares: Vec<f64>,
}

impl Look for Moments<'_> {
    fn see(&mut self, images: &Tensor) -> Result<()> {
        let x = (self.of)(images)?.detach();
        let moments = ops::moments(&x)?.to_dtype(DType::F64)?.to_vec2::<f64>()?;
        let [mean, variance] = &moments[..] else { bail!("moments of {} rows", moments.len()) };
        let new = (x.elem_count() / mean.len().max(1)) as f64;
        self.mean.resize(mean.len(), 0.0);
        self.squares.resize(mean.len(), 0.0);
        // Chan, Golub & LeVeque 1979: the moments of two sets together.
        let total = self.count + new;
        for (channel, (mean, variance)) in mean.iter().zip(variance).enumerate() {
            let away = mean - self.mean[channel];
            self.mean[channel] += away * new / total;
            self.squares[channel] += variance * new + away * away * self.count * new / total;
        }
        self.count = total;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        if self.count == 0.0 {
            bail!("there are no train images to take moments of");
        }
        let variance = self.squares.iter().map(|squares| squares / self.count);
        let variance = variance.map(|variance| if variance < LEAST_VARIANCE { 1.0 } else { variance });
        for (var, values) in [(&self.into.mean, self.mean.clone()), (&self.into.variance, variance.collect())] {
            var.set(&Tensor::new(values, var.device())?.to_dtype(var.dtype())?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;
    use candle_nn::VarMap;

    use super::*;

    #[test]
    fn moments_are_of_all_batches_together() {
        let map = VarMap::new();
        let vb = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
        let standard = Standard::new(2, &vb).unwrap();
        let tensor =
            |values: &[f32], images: usize| Tensor::from_slice(values, (images, 2, 1, 2), &Device::Cpu).unwrap();
        // The second channel never varies.
        let (one, two) = (tensor(&[1.0, 2.0, 7.0, 7.0], 1), tensor(&[5.0, 8.0, 7.0, 7.0, 4.0, 4.0, 7.0, 7.0], 2));
        let mut survey = Survey::new(&standard, |x| Ok(x.clone()));
        survey.see(&one).unwrap();
        survey.see(&two).unwrap();
        survey.finish().unwrap();
        // Of 1, 2, 5, 8, 4, 4: mean 4, variance (9 + 4 + 1 + 16) / 6.
        assert_eq!(standard.mean.to_vec1::<f32>().unwrap(), [4.0, 7.0]);
        assert_eq!(standard.variance.to_vec1::<f32>().unwrap(), [5.0, 1.0]);
        let y = standard
            .forward(&tensor(&[4.0, 9.0, 7.0, 8.0], 1))
            .unwrap()
            .flatten_all()
            .unwrap()
            .to_vec1::<f32>()
            .unwrap();
        for (y, expected) in y.iter().zip([0.0, 5f32.sqrt(), 0.0, 1.0]) {
            assert!((y - expected).abs() < 1e-6, "{y}, not {expected}");
        }
        assert!(Survey::new(&standard, |x| Ok(x.clone())).finish().is_err(), "no image");
    }
}
