//! Shuffled, augmented train batches, prepared on a thread while the step runs.
//!
//! A batch depends on nothing but (seed, step): the order of an epoch is the permutation drawn from the stream
//! (seed, `shuffle`, epoch), the random changes come from the stream (seed, `augment`, step). A run that continues at
//! step s therefore sees the batches that it would have seen.

use std::{
    ops::Range,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use candle_core::{Device, Tensor};
use rand::seq::SliceRandom;

use super::{ImageSet, Normalisation, augment::augment, image_set::normalised};
use crate::{Error, Result, config::Augment, rng};

/// Batches that wait while a step runs. Ours: one being ready hides the preparation, a second evens out its time.
const PREPARED: usize = 2;

/// What one training step learns from.
#[derive(Debug)]
pub struct Batch {
    /// (n, C, H, W) f32, augmented and normalised.
    pub images: Tensor,
    /// (n) u32, the classes.
    pub labels: Tensor,
    /// The epoch, from 0.
    pub epoch: u64,
    /// The step of this batch in the whole training, from 0.
    pub step: u64,
}

/// Steps of an epoch: n / batch_size, rounded up because the last batch may be smaller.
pub fn steps_per_epoch(n: usize, batch_size: usize) -> u64 {
    n.div_ceil(batch_size.max(1)) as u64
}

/// The train batches of a range of steps, in order.
#[derive(Debug)]
pub struct TrainBatches {
    // `None` once the iterator is over; dropped before the worker is joined, which tells the worker to stop.
    batches: Option<Receiver<Result<Batch>>>,
    worker: Option<JoinHandle<()>>,
}

impl TrainBatches {
    /// Starts preparing the batches of `steps`, which may begin anywhere and cross epochs.
    ///
    /// # Errors
    /// `Error::Input` when the set is empty or has no labels, `batch_size` is 0, or the normalisation is not for its
    /// channels.
    pub fn new(
        set: Arc<ImageSet>,
        norm: Normalisation,
        augment: Augment,
        batch_size: usize,
        seed: u64,
        steps: Range<u64>,
        device: Device,
    ) -> Result<Self> {
        if set.is_empty() {
            return Err(Error::input(format!("data set \"{}\" has no {} images", set.name, set.split)));
        }
        if set.labels.as_ref().is_none_or(|labels| labels.len() != set.len()) {
            return Err(Error::input(format!("data set \"{}\" has no labels to train on", set.name)));
        }
        if batch_size == 0 {
            return Err(Error::input("`batch_size` is 0"));
        }
        let tables = norm.tables(set.channels)?;
        let (sender, batches) = sync_channel(PREPARED);
        let source = Source { set, tables, augment, batch_size, seed, device };
        let worker = std::thread::Builder::new()
            .name("batches".into())
            .spawn(move || source.send(steps, &sender))
            .map_err(|error| Error::Failed(format!("cannot start the thread that prepares batches: {error}")))?;
        Ok(Self { batches: Some(batches), worker: Some(worker) })
    }

    /// Waits for the worker, which has nothing left to send to.
    fn finish(&mut self) -> Result<()> {
        self.batches = None;
        match self.worker.take().map(JoinHandle::join) {
            Some(Err(_)) => Err(Error::Failed("the thread that prepares batches panicked".into())),
            _ => Ok(()),
        }
    }
}

impl Iterator for TrainBatches {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.batches.as_ref()?.recv() {
            Ok(Ok(batch)) => Some(Ok(batch)),
            Ok(Err(error)) => {
                self.batches = None;
                Some(Err(error))
            }
            // The worker is gone: it is done, or it died.
            Err(_) => self.finish().err().map(Err),
        }
    }
}

impl Drop for TrainBatches {
    fn drop(&mut self) {
        // A panic of the worker was printed when it happened.
        let _ = self.finish();
    }
}

/// What the worker makes batches of.
struct Source {
    set: Arc<ImageSet>,
    tables: Vec<[f32; 256]>,
    augment: Augment,
    batch_size: usize,
    seed: u64,
    device: Device,
}

impl Source {
    /// Prepares and sends the batches of `steps` until one fails or nobody listens.
    fn send(&self, steps: Range<u64>, sender: &SyncSender<Result<Batch>>) {
        let per_epoch = steps_per_epoch(self.set.len(), self.batch_size);
        let mut order = (u64::MAX, Vec::new());
        for step in steps {
            let epoch = step / per_epoch;
            if order.0 != epoch {
                order = (epoch, self.order(epoch));
            }
            let start = (step % per_epoch) as usize * self.batch_size;
            let end = (start + self.batch_size).min(order.1.len());
            let batch = self.batch(&order.1[start..end], epoch, step);
            let failed = batch.is_err();
            if sender.send(batch).is_err() || failed {
                return;
            }
        }
    }

    /// The order of an epoch: a permutation of the images.
    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.set.len()).collect();
        order.shuffle(&mut rng::stream(self.seed, "shuffle", &epoch.to_string()));
        order
    }

    /// The batch of the images at `indices`.
    fn batch(&self, indices: &[usize], epoch: u64, step: u64) -> Result<Batch> {
        let set = &self.set;
        let mut rng = rng::stream(self.seed, "augment", &step.to_string());
        let mut bytes = Vec::with_capacity(indices.len() * set.image_len());
        for &i in indices {
            augment(set.image(i), set.height, set.width, &self.augment, &mut rng, &mut bytes);
        }
        let images = normalised(&bytes, indices.len(), set.shape(), &self.tables, &self.device)?;
        let labels: Vec<u32> = set.labels.iter().flat_map(|labels| indices.iter().map(|&i| labels[i])).collect();
        let labels = Tensor::from_vec(labels, indices.len(), &self.device)?;
        Ok(Batch { images, labels, epoch, step })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Split;

    fn set(n: usize) -> Arc<ImageSet> {
        Arc::new(ImageSet {
            name: "numbered".into(),
            split: Split::Train,
            channels: 3,
            height: 4,
            width: 4,
            pixels: (0..n * 48).map(|i| (i % 251) as u8).collect(),
            labels: Some((0..n as u32).collect()),
            classes: n,
            full_size: None,
            note: None,
        })
    }

    fn batches(n: usize, batch_size: usize, seed: u64, steps: Range<u64>) -> TrainBatches {
        let norm = Normalisation { mean: vec![0.4, 0.5, 0.6], std: vec![0.2, 0.25, 0.3] };
        let augment = Augment { flip: true, crop_padding: 1 };
        TrainBatches::new(set(n), norm, augment, batch_size, seed, steps, Device::Cpu).unwrap()
    }

    fn bits(batch: &Batch) -> (Vec<u32>, Vec<u32>, u64, u64) {
        let pixels = batch.images.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        (pixels.iter().map(|p| p.to_bits()).collect(), batch.labels.to_vec1().unwrap(), batch.epoch, batch.step)
    }

    #[test]
    fn every_epoch_shows_each_image_once_in_a_new_order() {
        assert_eq!(steps_per_epoch(10, 4), 3);
        let batches: Vec<Batch> = batches(10, 4, 0, 0..6).map(Result::unwrap).collect();
        assert_eq!(batches.iter().map(|b| b.labels.dims1().unwrap()).collect::<Vec<_>>(), [4, 4, 2, 4, 4, 2]);
        assert_eq!(batches.iter().map(|b| (b.epoch, b.step)).collect::<Vec<_>>()[2..4], [(0, 2), (1, 3)]);
        let epoch = |k: usize| -> Vec<u32> {
            batches[3 * k..3 * k + 3].iter().flat_map(|b| b.labels.to_vec1::<u32>().unwrap()).collect()
        };
        assert_ne!(epoch(0), epoch(1));
        for k in 0..2 {
            let mut labels = epoch(k);
            labels.sort_unstable();
            assert_eq!(labels, (0..10).collect::<Vec<u32>>());
        }
    }

    #[test]
    fn a_batch_depends_on_seed_and_step_only() {
        let all: Vec<_> = batches(23, 4, 7, 0..14).map(|b| bits(&b.unwrap())).collect();
        for start in [1, 5, 6, 13] {
            let late: Vec<_> = batches(23, 4, 7, start..14).map(|b| bits(&b.unwrap())).collect();
            assert_eq!(late, all[start as usize..]);
        }
        let other: Vec<_> = batches(23, 4, 8, 0..14).map(|b| bits(&b.unwrap())).collect();
        assert_ne!(other, all);
    }

    #[test]
    fn the_order_of_seed_0_is_what_it_always_was() {
        // Stored checkpoints continue only if a new version of rand draws the same.
        let labels: Vec<u32> = batches(8, 8, 0, 0..1).next().unwrap().unwrap().labels.to_vec1().unwrap();
        assert_eq!(labels, [7, 0, 2, 5, 3, 4, 1, 6]);
    }

    #[test]
    fn stopping_early_does_not_hang() {
        for taken in 0..4 {
            let mut batches = batches(100, 2, 0, 0..u64::MAX);
            for _ in 0..taken {
                batches.next().unwrap().unwrap();
            }
            drop(batches);
        }
        assert!(batches(4, 2, 0, 5..5).next().is_none());
    }

    #[test]
    fn sets_that_cannot_train_are_refused() {
        let new = |set: ImageSet, batch_size| {
            let norm = Normalisation { mean: vec![0.0; 3], std: vec![1.0; 3] };
            TrainBatches::new(Arc::new(set), norm, Augment::default(), batch_size, 0, 0..1, Device::Cpu)
                .unwrap_err()
                .to_string()
        };
        let good = || Arc::unwrap_or_clone(set(4));
        assert_eq!(new(good().take(0), 2), "data set \"numbered\" has no train images");
        assert_eq!(new(ImageSet { labels: None, ..good() }, 2), "data set \"numbered\" has no labels to train on");
        assert_eq!(new(good(), 0), "`batch_size` is 0");
        assert_eq!(
            new(ImageSet { channels: 1, ..good() }.take(4), 2),
            "`mean` has 3 values but the images have 1 channels"
        );
    }

    #[test]
    #[ignore = "a measurement: cargo test --lib batches::tests::cost -- --ignored --nocapture"]
    fn cost() {
        let (n, length) = (50_000, 3 * 32 * 32);
        let set = ImageSet {
            height: 32,
            width: 32,
            pixels: vec![7; n * length],
            labels: Some(vec![0; n]),
            ..(*set(0)).clone()
        };
        let norm = Normalisation { mean: vec![0.5; 3], std: vec![0.25; 3] };
        let augment = Augment { flip: true, crop_padding: 4 };
        let start = std::time::Instant::now();
        let steps = steps_per_epoch(n, 128);
        let batches = TrainBatches::new(Arc::new(set), norm, augment, 128, 0, 0..steps, Device::Cpu).unwrap();
        assert_eq!(batches.map(|batch| batch.unwrap().labels.dims1().unwrap()).sum::<usize>(), n);
        println!("50,000 images of 3×32×32 augmented and normalised on one thread: {:?}", start.elapsed());
    }
}
