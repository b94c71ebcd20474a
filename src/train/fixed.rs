//! What a model makes of images before anything that learns, computed once an image and kept for all epochs and, within a process, for
//! all networks that share it.
//!
//! A sweep of a frozen backbone's head passes each image through the backbone once, not once a step of every cell.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use candle_core::Tensor;

use crate::{Result, data::batches::Batch, nn::Model};

/// Bytes that are kept, at most, ours: 256×256 images of one category, normal and made, in what EfficientNet-Lite0's first stages give. What
/// does not fit is computed each time.
pub const MOST_BYTES: usize = 2 << 30;

/// What was computed, by what it was computed with.
#[derive(Debug)]
pub struct Fixed {
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// (1, …) tensors of an image of the [pool](Batch::entries), for each thing that they were computed with.
    of: HashMap<String, HashMap<u64, Vec<Tensor>>>,
    bytes: usize,
    /// Images that were computed.
    computed: u64,
}

impl Default for Fixed {
    fn default() -> Self {
        Self::holding(MOST_BYTES)
    }
}

impl Fixed {
    /// One that keeps so many bytes.
    pub fn holding(most: usize) -> Self {
        Self { most, kept: Mutex::default() }
    }

    /// Images that were passed through a fixed part so far.
    pub fn computed(&self) -> u64 {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).computed
    }

    /// What `model` makes of a batch before anything that learns; `None` of a model without such a part, or of images that never come
    /// again. `with` says what else it depends on: the weights, the images, the seed.
    ///
    /// # Errors
    /// Those of the model.
    pub fn of(&self, with: &str, model: &dyn Model, batch: &Batch) -> Result<Option<Vec<Tensor>>> {
        let Some(entries) = &batch.entries else { return Ok(None) };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut *kept;
        if !kept.of.contains_key(with) {
            // What others left makes room for what is used now.
            let needed = kept.bytes > self.most / 2;
            if needed {
                kept.of.clear();
                kept.bytes = 0;
            }
            kept.of.insert(with.to_owned(), HashMap::new());
        }
        let images = kept.of.entry(with.to_owned()).or_default();
        let mut new: HashMap<u64, Vec<Tensor>> = HashMap::new();
        let mut absent: Vec<usize> = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            if !images.contains_key(entry) && !absent.iter().any(|other| entries[*other] == *entry) {
                absent.push(at);
            }
        }
        if !absent.is_empty() {
            let places: Vec<u32> = absent.iter().map(|at| *at as u32).collect();
            let places = Tensor::from_vec(places, absent.len(), batch.images.device())?;
            let Some(made) = model.fixed(&batch.images.index_select(&places, 0)?)? else { return Ok(None) };
            kept.computed += absent.len() as u64;
            for (row, at) in absent.iter().enumerate() {
                // Copies, since a part of a batch would keep all of it.
                let of_image = made.iter().map(|tensor| tensor.narrow(0, row, 1)?.copy());
                let of_image = of_image.collect::<candle_core::Result<Vec<_>>>()?;
                let bytes: usize = of_image.iter().map(|part| part.elem_count() * part.dtype().size_in_bytes()).sum();
                if kept.bytes + bytes <= self.most {
                    kept.bytes += bytes;
                    images.insert(entries[*at], of_image);
                } else {
                    new.insert(entries[*at], of_image);
                }
            }
        }
        let of_image = |entry: &u64| images.get(entry).or_else(|| new.get(entry));
        let rows: Vec<&Vec<Tensor>> = entries.iter().filter_map(of_image).collect();
        let parts = rows.first().map_or(0, |parts| parts.len());
        let joined = (0..parts).map(|part| {
            let column: Vec<&Tensor> = rows.iter().map(|parts| &parts[part]).collect();
            Tensor::cat(&column, 0)
        });
        Ok(Some(joined.collect::<candle_core::Result<_>>()?))
    }
}
