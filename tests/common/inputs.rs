//! A network and images that are all in memory, for detectors that differentiate.

use std::{fmt, sync::Arc};

use candle_core::{Device, Tensor};
use oodkit::{Result, data::Normalisation, detectors::Inputs, nn::Model};

#[derive(Clone)]
pub struct Set {
    pub network: Arc<dyn Model>,
    /// (N, C, H, W)
    pub images: Tensor,
    pub normalisation: Normalisation,
    /// Images at a time.
    pub batch: usize,
}

impl fmt::Debug for Set {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Set").field("images", &self.images.dims()).finish_non_exhaustive()
    }
}

impl Inputs for Set {
    fn images(&self) -> usize {
        self.images.dims()[0]
    }

    fn network(&self) -> &dyn Model {
        &*self.network
    }

    fn normalisation(&self) -> &Normalisation {
        &self.normalisation
    }

    fn pass(&self, _: &str, each: &mut dyn FnMut(usize, &Tensor) -> Result<()>) -> Result<()> {
        for start in (0..self.images()).step_by(self.batch) {
            each(start, &self.images.narrow(0, start, self.batch.min(self.images() - start))?)?;
        }
        Ok(())
    }

    fn subset(&self, images: &[usize]) -> Result<Arc<dyn Inputs>> {
        let indices: Vec<u32> = images.iter().map(|image| *image as u32).collect();
        let images = self.images.index_select(&Tensor::new(&indices[..], &Device::Cpu)?, 0)?;
        Ok(Arc::new(Self { images, ..self.clone() }))
    }
}
