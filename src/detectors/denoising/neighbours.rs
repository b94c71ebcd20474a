//! Noise that an image's neighbours come from: what DDIM makes of the train images nearest to it, on the way up.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};

use super::{evenly, read};
use crate::{
    Result,
    detectors::{Fit, check_memory, knn::unit, similarity::Neighbours},
    nn::sampler::{Chain, Guide, Sampler, Way, together},
};

/// Train images that are told by what a network makes of them.
pub(in crate::detectors) struct Near {
    /// Features of length 1.
    known: Neighbours,
    /// (M, C, H, W) in -1..1.
    images: Tensor,
}

impl Near {
    /// Of (M, D) `features` and the (M, C, H, W) `images` in -1..1 that they are of.
    ///
    /// # Errors
    /// If a feature is NaN or infinite.
    pub(in crate::detectors) fn new(features: &Tensor, images: Tensor, device: Option<&Device>) -> Result<Self> {
        Ok(Self { known: Neighbours::by_product(unit(features)?, features.dim(1)?)?.on(device), images })
    }

    /// Of no more than `most` of the fit's train images, at even distances, in at most its memory.
    ///
    /// # Errors
    /// As [`Near::new`], and those of reading images; [`Error::Input`](crate::Error::Input) if there is no room for them.
    pub(in crate::detectors) fn of(fit: &Fit<'_>, most: usize) -> Result<Self> {
        let bank = fit.train()?;
        let inputs = bank.inputs()?;
        let count = inputs.images().min(most);
        let chosen = evenly(count, inputs.images());
        let rows = Tensor::from_iter(chosen.iter().map(|row| *row as u32), bank.features.device())?;
        let features = bank.features.index_select(&rows, 0)?;
        let room = |images: &Tensor| {
            // Images as they are read, all together, and what each becomes.
            let bytes = count.saturating_mul(3 * size_of::<f32>() * images.elem_count() / images.dim(0)?);
            check_memory("diffood needs", &format!("{count} train images and their noise"), [bytes, fit.memory])
                .map_err(|error| error.hint("raise evaluation.fit_memory (--memory), or take fewer train_images"))
        };
        let what = "reading images to find neighbours among";
        Self::new(&features, read(&*inputs.subset(&chosen)?, what, &room)?, fit.device)
    }

    /// How many there are.
    pub(in crate::detectors) fn count(&self) -> usize {
        self.known.rows()
    }

    /// For images of these (N, D) features the noise of each of their nearest, (N, C, H, W) `repeats` times; the nearest first. What was made on
    /// the way is `made`, and is not made again.
    ///
    /// # Errors
    /// Those of the denoiser.
    pub(in crate::detectors) fn noise(
        &self,
        guide: &Guide<'_>,
        way: &Way,
        features: &Tensor,
        repeats: usize,
        made: &mut BTreeMap<u32, Tensor>,
    ) -> Result<Vec<Tensor>> {
        let nearest = self.known.closest(&unit(features)?, repeats)?;
        let mut missing: Vec<u32> = nearest.iter().flatten().map(|near| near.row).collect();
        missing.sort_unstable();
        missing.dedup();
        missing.retain(|row| !made.contains_key(row));
        // No class is told: the image's own would be that of another.
        let guide = Guide { guidance: 0.0, ..*guide };
        for rows in missing.chunks(guide.together.max(1)) {
            let chosen = self.images.index_select(&Tensor::new(rows, self.images.device())?, 0)?;
            let mut chains = [Chain::new(Sampler::default(), guide.denoiser, way, &chosen, None)];
            together(&guide, &mut chains)?;
            for (at, row) in rows.iter().enumerate() {
                made.insert(*row, chains[0].images().get(at)?);
            }
        }
        let of = |repeat: usize| {
            let rows: Vec<&Tensor> = nearest.iter().map(|near| &made[&near[repeat].row]).collect();
            Ok(Tensor::stack(&rows, 0)?)
        };
        (0..repeats).map(of).collect()
    }
}
