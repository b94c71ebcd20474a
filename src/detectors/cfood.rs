//! CF-OOD: how far a reference set's neighbourhoods have to grow before enough of them hold an image.
//!
//! score = the smallest κ of a grid at which at least the share k of the n reference images have the image within the distance of
//! their own ⌊κ·n⌋-th neighbour, or their first, features scaled to length 1; 1 where there is none. The reference images are the share
//! α of the train images. The grid has 100 even values from 0.001 to 0.1, 81 from 0.105 to 0.5 and 49 from 0.51 to 0.99, without those
//! that have the neighbour of the one before.
//!
//! - Paper: Angiulli, Fassetti, Zupi, *CF-OOD: Concentration-Free Density Estimation for Reliable Out-of-Distribution Detection*, SISAP
//!   2025, <https://doi.org/10.1007/978-3-032-06069-3_5>, of which only the authors' code was read.
//! - Reference code: OpenOOD `cfood_postprocessor.py`, by the authors, whose confidence is the negative of this score; pytorch-ood 0.4.0
//!   does not have it.
//! - Deviations: each reference image is as far from the next in the set's order, where the reference draws them. Distances are f64.
//!   Features of zeros stay as they are. Fewer than two reference images are refused, of which the reference has no neighbour.
//! - A score is one of 231 numbers, so that many images share one.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    Bank, Check, Detector, Fit, Learns, Output, Scorer, Scores, Smoke, check_memory, finite, normalised, same,
};
use crate::{Error, Result, linalg::square_distance};

/// Values of the grid.
const GRID: usize = 230;

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Cfood")]
pub struct Config {
    /// α, the share of the train images that are compared with: 0.1 in OpenOOD, which searches 0.1, 0.5 and 1.
    #[garde(range(min = 1e-6, max = 1.0))]
    pub alpha: f64,
    /// The share of them whose neighbourhoods have to hold an image: 0.01 in OpenOOD, which searches 0.001 to 0.05.
    #[garde(range(min = 1e-6, max = 1.0))]
    pub k: f64,
}

impl Default for Config {
    fn default() -> Self {
        Self { alpha: 0.1, k: 0.01 }
    }
}

impl Config {
    /// How many of so many train images of so many features are compared with.
    ///
    /// # Errors
    /// [`Error::Input`] if they are fewer than two, or do not fit into the memory.
    pub fn references(&self, images: usize, features: usize, memory: usize) -> Result<usize> {
        let count = self.compared(images)?;
        let bytes = count.saturating_mul(size_of::<f64>() * (features + GRID));
        check_memory("cfood needs", &format!("{count} reference images"), [bytes, memory])
            .map_err(|error| error.hint("raise evaluation.fit_memory (--memory), or give it a smaller alpha"))?;
        Ok(count)
    }

    /// The same, whatever the memory.
    fn compared(&self, images: usize) -> Result<usize> {
        let count = (self.alpha * images as f64) as usize;
        if count < 2 {
            let message = format!("cfood compares with {count} of {images} train images, and needs 2");
            return Err(Error::input(message).hint("give it a larger alpha"));
        }
        Ok(count)
    }
}

/// The grid's κ for so many reference images, and the place of each one's neighbour among the sorted distances, the image's own first.
fn grid(images: usize) -> Vec<(f64, usize)> {
    // numpy's `linspace`, whose rounding decides where a neighbour changes.
    let even = |from: f64, to: f64, count: usize| {
        let step = (to - from) / (count - 1) as f64;
        (0..count).map(move |at| if at + 1 == count { to } else { at as f64 * step + from })
    };
    let all = even(0.001, 0.1, 100).chain(even(0.105, 0.5, 81)).chain(even(0.51, 0.99, 49));
    let mut kept: Vec<(f64, usize)> = Vec::with_capacity(GRID);
    for kappa in all {
        // Towards 0, also of what is below.
        let place = (kappa * images as f64 - 1.0).max(0.0) as usize + 1;
        if kept.last().is_none_or(|last| place > last.1) {
            kept.push((kappa, place));
        }
    }
    kept
}

struct Fitted {
    /// D.
    size: usize,
    /// Row after row (n, D), at length 1.
    references: Vec<f64>,
    kappas: Vec<f64>,
    /// Of each reference image the squared distance of its neighbour for each κ (n, κ), ascending.
    reach: Vec<f64>,
    k: f64,
}

impl Fitted {
    fn new(config: &Config, train: &Bank, memory: usize) -> Result<Self> {
        let values = finite(&train.features)?;
        let (images, size) = train.features.dims2()?;
        let count = config.references(images, size, memory)?;
        let chosen = (0..count).flat_map(|index| {
            let image = index * images / count;
            values[image * size..][..size].iter().copied()
        });
        let references = normalised(&chosen.collect::<Vec<f32>>(), size);
        let (kappas, places): (Vec<f64>, Vec<usize>) = grid(count).into_iter().unzip();
        let mut reach = vec![0.0; count * places.len()];
        let mut compare = |images: Range<usize>| {
            let reach = &mut reach[images.start * places.len()..images.end * places.len()];
            let rows = &references[images.start * size..images.end * size];
            let rows = reach.par_chunks_exact_mut(places.len()).zip(rows.par_chunks_exact(size));
            rows.for_each(|(reach, row)| {
                let others = references.chunks_exact(size);
                let mut distances: Vec<f64> = others.map(|other| square_distance(row, other)).collect();
                distances.sort_unstable_by(f64::total_cmp);
                reach.iter_mut().zip(&places).for_each(|(reach, place)| *reach = distances[*place]);
            });
            Ok(())
        };
        match &train.batches {
            // With a progress bar, until the user asks to stop.
            Some(batches) => batches.work("comparing CF-OOD's images", count, &mut compare)?,
            None => compare(0..count)?,
        }
        Ok(Self { size, references, kappas, reach, k: config.k })
    }

    /// The least κ at which enough reference images have this one among their neighbours.
    fn kappa(&self, image: &[f64]) -> f64 {
        let count = self.references.len() / self.size;
        // How many hold the image from a κ on.
        let mut first = vec![0usize; self.kappas.len()];
        for (row, reach) in self.references.chunks_exact(self.size).zip(self.reach.chunks_exact(self.kappas.len())) {
            let distance = square_distance(image, row);
            let at = reach.partition_point(|reach| *reach < distance);
            if let Some(holding) = first.get_mut(at) {
                *holding += 1;
            }
        }
        let mut holding = 0;
        let enough = first.iter().position(|more| {
            holding += more;
            holding as f64 / count as f64 >= self.k
        });
        enough.map_or(1.0, |at| self.kappas[at])
    }
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Features]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        Ok(Box::new(Fitted::new(self, fit.train()?, fit.memory)?))
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| {
            self.compared(about.most())?;
            match about.train {
                Some(images) => {
                    let features = about.shown.features()?.dim(1)?;
                    Ok(self.references(images, features, about.memory).map(|_| None)?)
                }
                None => Ok(None),
            }
        }))
    }

    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        smoke.set("alpha", &mut self.alpha, 1.0);
    }
}

impl Scorer for Fitted {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        let values = finite(&bank.features)?;
        same("features", bank.features.dim(1)?, self.size)?;
        let rows = normalised(&values, self.size);
        Scores::new(rows.par_chunks_exact(self.size).map(|image| self.kappa(image) as f32).collect())
    }

    fn record(&self) -> Option<serde_json::Value> {
        let images = self.references.len() / self.size;
        Some(serde_json::json!({ "reference_images": images, "distinct_kappas": self.kappas.len() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_has_one_value_for_each_neighbour() {
        assert_eq!(grid(100_000).len(), GRID);
        let ten = grid(10);
        let places: Vec<usize> = ten.iter().map(|(_, place)| *place).collect();
        assert_eq!(places, [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        assert_eq!(grid(2), [(0.001, 1)]);
        for images in 2..600 {
            assert!(grid(images).iter().all(|(_, place)| (1..images).contains(place)), "{images}");
        }
    }
}
