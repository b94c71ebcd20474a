//! What a feature file holds of images, in batches.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use crate::{
    Error, Result,
    detectors::{Batches, LayerShape},
    nn::{Shown, pass::Layer, windows::Windowed},
    ops::Activation,
};

/// Images of a batch. Ours: enough to keep two cores busy.
const BATCH: usize = 256;

/// Neurons that are all in memory.
#[derive(Debug)]
pub struct InMemory {
    pub(super) images: usize,
    pub(super) layers: Vec<(String, Tensor)>,
    /// Logits, features and maps of all images, if they are known.
    pub(super) outputs: Shown,
    /// Rows and columns of the images, if they are known.
    pub(super) image_size: Option<[usize; 2]>,
}

impl InMemory {
    /// Of layers' neurons, (N, C, H, W) or (N, D) f32 each, of the same N images. They are taken as they are: which
    /// non-linearity comes before or after them is not known, and taken to be none.
    ///
    /// # Errors
    /// If there is no layer, or their numbers of images differ.
    pub fn new(layers: Vec<(String, Tensor)>) -> Result<Self> {
        let images = layers.first().map_or(0, |(_, values)| values.dims()[0]);
        match layers.iter().all(|(_, values)| values.dims()[0] == images) && images > 0 {
            true => Ok(Self { images, layers, outputs: Shown::default(), image_size: None }),
            false => Err(Error::Failed("the layers' neurons are not of the same images".into())),
        }
    }

    /// With the (N, K) logits and (N, D) features of the same images.
    #[must_use]
    pub fn with_outputs(self, logits: Option<&Tensor>, features: Option<&Tensor>) -> Self {
        Self { outputs: Shown { logits: logits.cloned(), features: features.cloned(), ..self.outputs }, ..self }
    }

    /// With the (N, h, w) maps of the same images.
    #[must_use]
    pub fn with_map(self, map: Tensor) -> Self {
        Self { outputs: Shown { map: Some(map), ..self.outputs }, ..self }
    }

    /// With what is seen of windows of the same images.
    #[must_use]
    pub fn with_windows(self, windows: Vec<Windowed>) -> Self {
        Self { outputs: Shown { windows, ..self.outputs }, ..self }
    }

    /// With the (N, h, w) parts of the maps of the same images.
    #[must_use]
    pub fn with_parts(self, parts: Vec<(&'static str, Tensor)>) -> Self {
        Self { outputs: Shown { parts, ..self.outputs }, ..self }
    }

    /// With the rows and columns of the images, which maps of scores are brought to.
    #[must_use]
    pub fn with_image_size(self, size: [usize; 2]) -> Self {
        Self { image_size: Some(size), ..self }
    }

    fn batch(&self, start: usize, images: usize) -> Result<Shown> {
        let layer = |(name, values): &(String, Tensor)| {
            let values = values.narrow(0, start, images)?;
            Ok(Layer { name: name.clone(), values, activation: Activation::Identity })
        };
        let layers = self.layers.iter().map(layer).collect::<Result<Vec<_>>>()?;
        let maps = layers.iter().filter(|layer| layer.values.rank() == 4);
        let stages = maps.map(|layer| (layer.name.clone(), layer.values.clone())).collect();
        Ok(Shown { layers, stages, ..self.outputs.narrow(start, images)? })
    }
}

impl Batches for InMemory {
    fn images(&self) -> usize {
        self.images
    }

    fn layers(&self) -> Result<Vec<LayerShape>> {
        Ok(self.batch(0, 1)?.layers.iter().map(LayerShape::from).collect())
    }

    fn pass(&self, _: &str, _: bool, each: &mut dyn FnMut(usize, &Shown) -> Result<()>) -> Result<()> {
        for start in (0..self.images).step_by(BATCH) {
            each(start, &self.batch(start, BATCH.min(self.images - start))?)?;
        }
        Ok(())
    }

    fn image_size(&self) -> Option<[usize; 2]> {
        self.image_size
    }

    fn subset(&self, images: &[usize]) -> Result<Arc<dyn Batches>> {
        let indices: Vec<u32> = images.iter().map(|image| *image as u32).collect();
        let indices = Tensor::from_vec(indices, images.len(), &Device::Cpu)?;
        let chosen = |(name, values): &(String, Tensor)| Ok((name.clone(), values.index_select(&indices, 0)?));
        let layers = self.layers.iter().map(chosen).collect::<Result<_>>()?;
        let of = |output: &Option<Tensor>| output.as_ref().map(|values| values.index_select(&indices, 0)).transpose();
        let Shown { logits, features, map, windows, parts, .. } = &self.outputs;
        let parts = parts.iter().map(|(name, part)| Ok((*name, part.index_select(&indices, 0)?)));
        let windows = windows
            .iter()
            .map(|seen| Ok(Windowed { features: seen.features.index_select(&indices, 0)?, ..seen.clone() }));
        let outputs = Shown {
            logits: of(logits)?,
            features: of(features)?,
            map: of(map)?,
            windows: windows.collect::<Result<_>>()?,
            parts: parts.collect::<Result<_>>()?,
            ..Shown::default()
        };
        Ok(Arc::new(Self { images: images.len(), layers, outputs, image_size: self.image_size }))
    }
}
