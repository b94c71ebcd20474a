//! The parts of a model's map, brought to one measure by what they are on train images.

use candle_core::{Device, Tensor};

use super::{
    Batches, Fitting, Learner, check_memory, first_not_finite,
    own_map::{Config, Of, OwnMap},
};
use crate::{Error, Result, nn::Shown};

/// EfficientAD's quantiles, and what the part is to be there.
const QUANTILES: [f64; 2] = [0.9, 0.995];
const VALUES: [f64; 2] = [0.0, 0.1];

/// How a part of the map is measured: (part − zero) / unit.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Measure {
    pub name: String,
    pub zero: f64,
    pub unit: f64,
}

/// The mean of the parts (N, h, w), each measured.
///
/// # Errors
/// If they are not those that were measured.
pub(super) fn measured(parts: &[(&'static str, Tensor)], measures: &[Measure]) -> candle_core::Result<Tensor> {
    if parts.len() != measures.len() {
        candle_core::bail!("a map of {} parts, of which {} were measured", parts.len(), measures.len());
    }
    let count = parts.len() as f64;
    let each = parts.iter().zip(measures).map(|((_, part), Measure { zero, unit, .. })| {
        let scale = 1.0 / (unit * count);
        part.affine(scale, -zero * scale)
    });
    let each = each.collect::<candle_core::Result<Vec<_>>>()?;
    let Some((first, others)) = each.split_first() else { candle_core::bail!("a map of no parts") };
    others.iter().try_fold(first.clone(), |sum, part| sum + part)
}

/// Bytes of the parts of the maps of so many images, of which a network gives such parts of each.
///
/// # Errors
/// [`Error::Input`] if `memory` has no room for them.
pub(super) fn bytes(parts: &[(&'static str, Tensor)], images: usize, memory: usize) -> Result<usize> {
    let values = parts.iter().map(|(_, part)| part.elem_count() / part.dims()[0].max(1));
    let bytes = images.saturating_mul(values.sum::<usize>() * size_of::<f32>());
    check_memory("map needs", &format!("the maps of {images} train images"), [bytes, memory])
        .map_err(|error| error.hint("raise evaluation.fit_memory (--memory), or take fewer train images"))?;
    Ok(bytes)
}

/// The parts of the train images' maps so far.
pub(super) struct Measuring {
    config: Config,
    images: usize,
    memory: usize,
    parts: Vec<(String, Vec<f32>)>,
}

impl Measuring {
    /// Of so many train images, in at most `memory` bytes.
    pub fn new(config: Config, images: usize, memory: usize) -> Self {
        Self { config, images, memory, parts: Vec::new() }
    }
}

impl Learner for Measuring {
    fn what(&self) -> &'static str {
        "measuring maps"
    }

    fn see(&mut self, start: usize, batch: &Shown) -> Result<()> {
        let parts = batch.parts()?;
        if self.parts.is_empty() {
            bytes(parts, self.images, self.memory)?;
            let room = |part: &Tensor| Vec::with_capacity(self.images * part.elem_count() / part.dims()[0].max(1));
            self.parts = parts.iter().map(|(name, part)| ((*name).to_owned(), room(part))).collect();
        }
        for ((name, part), (_, seen)) in parts.iter().zip(&mut self.parts) {
            let values = part.to_device(&Device::Cpu)?.flatten_all()?.to_vec1::<f32>()?;
            if let Some(value) = first_not_finite(&values) {
                let message = format!("the {name} part of the map holds {value}, among the images from {start} on");
                return Err(Error::Failed(message));
            }
            seen.extend(values);
        }
        Ok(())
    }

    fn passed(self: Box<Self>, _: &dyn Batches) -> Result<Fitting> {
        let measure = |(name, mut values): (String, Vec<f32>)| {
            let (zero, unit) = match self.config.of {
                Of::Deviations => deviation(&values),
                _ => quantiles(&mut values),
            };
            // A part that is the same everywhere is only shifted.
            Measure { name, zero, unit: if unit > 0.0 { unit } else { 1.0 } }
        };
        let parts: Vec<Measure> = self.parts.into_iter().map(measure).collect();
        if parts.is_empty() {
            return Err(Error::Failed("map saw no train image".into()));
        }
        Ok(Fitting::Ready(Box::new(OwnMap { of: self.config.of, parts, post: self.config.read() })))
    }
}

/// Mean and deviation.
fn deviation(values: &[f32]) -> (f64, f64) {
    let count = values.len() as f64;
    let mean = values.iter().copied().map(f64::from).sum::<f64>() / count;
    let variance = values.iter().map(|value| (f64::from(*value) - mean).powi(2)).sum::<f64>() / count;
    (mean, variance.sqrt())
}

/// The lower quantile, and what is 1 where the values at both are 0 and 0.1.
fn quantiles(values: &mut [f32]) -> (f64, f64) {
    values.sort_unstable_by(f32::total_cmp);
    let [low, high] = QUANTILES.map(|quantile| at(values, quantile));
    (low, (high - low) / (VALUES[1] - VALUES[0]))
}

/// A quantile of sorted values, linear between two: PyTorch's default.
fn at(sorted: &[f32], quantile: f64) -> f64 {
    let place = quantile * (sorted.len() - 1) as f64;
    let [low, high] = [place.floor(), place.ceil()].map(|place| f64::from(sorted[place as usize]));
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use candle_core::{DType, Device};

    use super::*;
    use crate::{
        detectors::{
            Bank,
            feature_file::InMemory,
            golden_maps::{config, score},
        },
        pattern::uniform,
    };

    fn bank(who: &str, images: usize, scale: f32) -> Bank {
        let part = |name: &'static str| {
            let values = uniform(&format!("{who} {name}"), &[images, 4, 5]).to_dtype(DType::F32).unwrap();
            (name, (values.sqr().unwrap() * f64::from(scale)).unwrap())
        };
        let layer = Tensor::zeros((images, 1, 1, 1), DType::F32, &Device::Cpu).unwrap();
        let batches = InMemory::new(vec![("layer".into(), layer)]).unwrap();
        let batches = batches.with_parts(vec![part("a"), part("b")]).with_image_size([8, 10]);
        let none = Tensor::zeros((0, 0), DType::F32, &Device::Cpu).unwrap();
        Bank { batches: Some(Arc::new(batches)), ..Bank::new(none.clone(), none) }
    }

    #[test]
    fn parts_are_measured_as_in_pytorch() {
        let golden: serde_json::Value =
            serde_json::from_str(include_str!("../../tests/golden/patch_description.json")).unwrap();
        for of in ["quantiles", "deviations"] {
            let config = config(&format!("map: {{ of: {of} }}"));
            let scores = score(&config, &bank("train", 7, 1.0), &bank("test", 3, 1.0)).unwrap();
            let maps = scores.maps().unwrap();
            let expected: Vec<f32> = serde_json::from_value(golden["measured"][of].clone()).unwrap();
            assert_eq!((maps.grid(), maps.values().len()), ([4, 5], expected.len()));
            for (found, expected) in maps.values().iter().zip(&expected) {
                assert!((found - expected).abs() < 1e-5 * expected.abs().max(1.0), "{of}: {found}, not {expected}");
            }
            // Parts that never vary are only shifted.
            let flat = score(&config, &bank("train", 7, 0.0), &bank("test", 3, 0.0)).unwrap();
            assert!(flat.maps().unwrap().values().iter().all(|value| *value == 0.0), "{of}");
            // What is no number, and what has no room, is named.
            let error = score(&config, &bank("train", 7, f32::NAN), &bank("test", 3, 1.0)).unwrap_err().to_string();
            assert!(error.contains("the a part of the map holds NaN"), "{error}");
            let train = bank("train", 20_000, 1.0);
            let fit = crate::detectors::Fit { train: Some(&train), memory: 1 << 20, ..Default::default() };
            let error = config.build().fit(&fit).err().unwrap();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains("map needs 4 MiB for the maps of 20000 train images"), "{error}");
        }
    }
}
