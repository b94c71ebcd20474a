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
    /// For each thing that they were computed with.
    of: HashMap<String, Images>,
    /// Images that were computed.
    computed: u64,
}

/// (1, …) tensors of each image of a [pool](Batch::entries), and their bytes.
#[derive(Debug, Default)]
struct Images {
    of: HashMap<u64, Vec<Tensor>>,
    bytes: usize,
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

    /// Forgets all.
    pub fn clear(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).of.clear();
    }

    /// What `model` makes of a batch before anything that learns; `None` of a model without such a part, or of images that never come
    /// again. `with` says what else it depends on: the weights, the images, the seed. What was computed with something else goes where
    /// there is no room for both.
    ///
    /// # Errors
    /// Those of the model.
    pub fn of(&self, with: &str, model: &dyn Model, batch: &Batch) -> Result<Option<Vec<Tensor>>> {
        let Some(entries) = &batch.entries else { return Ok(None) };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let mut images = kept.of.remove(with).unwrap_or_default();
        let absent: Vec<usize> = (0..entries.len())
            .filter(|at| !images.of.contains_key(&entries[*at]) && !entries[..*at].contains(&entries[*at]))
            .collect();
        let mut passing = HashMap::new();
        if !absent.is_empty() {
            let places = Tensor::from_iter(absent.iter().map(|at| *at as u32), batch.images.device())?;
            let Some(made) = model.fixed(&batch.images.index_select(&places, 0)?)? else { return Ok(None) };
            kept.computed += absent.len() as u64;
            for (row, at) in absent.iter().enumerate() {
                // Of its own memory: a view, and candle's `copy` of one, would keep the whole batch.
                let parts = made.iter().map(|tensor| tensor.narrow(0, row, 1)?.force_contiguous());
                let parts = parts.collect::<candle_core::Result<Vec<_>>>()?;
                let bytes: usize = parts.iter().map(|part| part.elem_count() * part.dtype().size_in_bytes()).sum();
                let others: usize = kept.of.values().map(|images| images.bytes).sum();
                if images.bytes + bytes + others > self.most {
                    kept.of.clear();
                }
                if images.bytes + bytes <= self.most {
                    images.bytes += bytes;
                    images.of.insert(entries[*at], parts);
                } else {
                    passing.insert(entries[*at], parts);
                }
            }
        }
        let rows = entries.iter().filter_map(|entry| images.of.get(entry).or_else(|| passing.get(entry)));
        let rows: Vec<&Vec<Tensor>> = rows.collect();
        let joined = (0..rows.first().map_or(0, |parts| parts.len())).map(|part| {
            let column: Vec<&Tensor> = rows.iter().map(|parts| &parts[part]).collect();
            Tensor::cat(&column, 0)
        });
        let joined = joined.collect::<candle_core::Result<_>>()?;
        kept.of.insert(with.to_owned(), images);
        Ok(Some(joined))
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{CpuStorage, Device, Storage};

    use super::*;
    use crate::nn::{Pass, Shown};

    /// What it makes of images before it learns is their double.
    struct Doubling;

    impl Model for Doubling {
        fn show(&self, _: &Tensor, _: &Pass) -> candle_core::Result<Shown> {
            Ok(Shown::default())
        }

        fn fixed(&self, images: &Tensor) -> candle_core::Result<Option<Vec<Tensor>>> {
            Ok(Some(vec![(images * 2.0)?]))
        }

        fn folded(&self) -> candle_core::Result<Box<dyn Model>> {
            Ok(Box::new(Self))
        }
    }

    fn batch(entries: &[u64]) -> Batch {
        let images: Vec<f32> = entries.iter().flat_map(|entry| [*entry as f32; 12]).collect();
        let images = Tensor::from_vec(images, (entries.len(), 3, 2, 2), &Device::Cpu).unwrap();
        Batch {
            images,
            normal: entries.len(),
            entries: Some(entries.to_vec()),
            marked: None,
            labels: None,
            epoch: 0,
            step: 0,
        }
    }

    #[test]
    fn an_image_is_kept_once_and_takes_its_own_memory_alone() {
        let fixed = Fixed::holding(3 * 48);
        for entries in [[1, 2, 1], [2, 3, 3], [4, 1, 5]] {
            let made = fixed.of("all", &Doubling, &batch(&entries)).unwrap().unwrap();
            let expected: Vec<f32> = entries.iter().flat_map(|entry| [2.0 * *entry as f32; 12]).collect();
            assert_eq!(made[0].flatten_all().unwrap().to_vec1::<f32>().unwrap(), expected);
        }
        assert_eq!(fixed.computed(), 5);
        let kept = fixed.kept.lock().unwrap();
        let images = &kept.of["all"];
        // The fourth and the fifth have no room.
        assert_eq!((images.of.len(), images.bytes), (3, 3 * 48));
        for part in images.of.values().flatten() {
            let (storage, _) = part.storage_and_layout();
            let Storage::Cpu(CpuStorage::F32(values)) = &*storage else { panic!("f32 on the CPU") };
            assert_eq!(values.len(), 12);
        }
    }
}
