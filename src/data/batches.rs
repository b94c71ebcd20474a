//! Shuffled, augmented train batches, prepared on a thread while the step runs.
//!
//! A batch depends on nothing but (seed, step): the order of an epoch is the permutation drawn from the stream
//! (seed, `shuffle`, epoch), the random changes come from the stream (seed, `augment`, step), or for a list of changes from
//! that of each image of the batch (seed, `augment`, step and place). A run that continues at step s therefore sees the batches
//! that it would have seen.
//!
//! Auxiliary outliers are an endless sequence: one permutation of their set after another, the p-th drawn from the stream
//! (seed, `shuffle outliers`, p), of which step s takes images s·m to s·m + m − 1, changed by the stream
//! (seed, `augment outliers`, s). energy_ood reads its 80 million in the order of their file, from a random one in every epoch.
//!
//! With rounds, a batch is of one class, and follows from (seed, step) too: see [`Rounds`].
//!
//! Made outliers take the place of images: an epoch is then a permutation of the [enlarged](super::enlarged) set, and in a batch
//! the images that stayed normal come first.
//!
//! A network may learn square windows of images: of each image of a batch one, drawn from the stream (seed, `window`, step) after its random
//! changes and before an outlier is made of it.

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
use rayon::prelude::*;

use super::{
    ImageSet, Normalisation,
    ahead::ahead,
    augment::{self, Image, crop::window_of},
    enlarged::{Enlarged, Marked, Outliers, an_epoch},
    image_set::normalised,
    rounds::Rounds,
};
use crate::{Error, Result, data::augment::Augment, rng};

/// Batches that wait while a step runs. Ours: one being ready hides the preparation, a second evens out its time.
const PREPARED: usize = 2;

/// What one training step learns from.
#[derive(Debug)]
pub struct Batch {
    /// (n + m, C, H, W) f32, augmented and normalised: n normal images or windows of them, then m outliers if there are any.
    pub images: Tensor,
    /// n; 0 where all images of the batch were turned into outliers.
    pub normal: usize,
    /// What the images are known by, if the same come again: equal numbers are equal images, of one source. `None` where they are changed
    /// at random, or auxiliary outliers are among them.
    pub entries: Option<Vec<u64>>,
    /// Which pixels of the n + m images are anomalous, if outliers are made.
    pub marked: Option<Marked>,
    /// (n) u32, the classes of the normal images, if they are known.
    pub labels: Option<Tensor>,
    /// The epoch, from 0.
    pub epoch: u64,
    /// The step of this batch in the whole training, from 0.
    pub step: u64,
}

impl Batch {
    /// The images that an epoch is made of: the normal ones, and outliers that were made of normal ones; not auxiliary outliers.
    pub fn learned(&self) -> usize {
        self.marked.as_ref().map_or(self.normal, Marked::images)
    }
}

/// Steps of an epoch: n / batch_size, rounded up because the last batch may be smaller.
pub fn steps_per_epoch(n: usize, batch_size: usize) -> u64 {
    n.div_ceil(batch_size.max(1)) as u64
}

/// The same in whole rounds of so many steps.
pub fn in_rounds(steps: u64, round: u64) -> u64 {
    steps.next_multiple_of(round.max(1))
}

/// Hands `each` every batch of a set in its order, as it is: the places, and the images (n, C, H, W) normalised. The next batch is
/// prepared on a thread meanwhile.
///
/// # Errors
/// Those of [`ImageSet::tensor`] and of `each`.
pub fn in_order(
    images: &ImageSet,
    batch: usize,
    norm: &Normalisation,
    device: &Device,
    mut each: impl FnMut(Range<usize>, &Tensor) -> Result<()>,
) -> Result<()> {
    let make = |range| images.tensor(range, norm, device);
    ahead(images.len(), batch, make, |range, tensor| each(range, &tensor))
}

/// What batches are made of, and how.
#[derive(Debug, Clone)]
pub struct Source {
    /// The normal images to learn.
    pub images: Arc<ImageSet>,
    /// Whether their classes are needed.
    pub labelled: bool,
    /// Batches in a row that are of one class, drawn anew after them; `None`: an epoch has each image once.
    pub round: Option<u64>,
    /// Auxiliary outliers of the same shape, and how many of them every batch has.
    pub outliers: Option<(Arc<ImageSet>, usize)>,
    /// Outliers that are made of the normal images.
    pub made: Option<Outliers>,
    /// The statistics that all are normalised with.
    pub normalisation: Normalisation,
    /// The random changes of all.
    pub augment: Augment,
    /// Rows and columns of the windows that are learned, in the place of whole images; not beside auxiliary outliers.
    pub window: Option<usize>,
    /// Images in a batch, without auxiliary outliers.
    pub batch_size: usize,
    /// The seed of order and changes.
    pub seed: u64,
    /// Where the batches are to be.
    pub device: Device,
}

impl Source {
    /// Images of an epoch.
    fn per_epoch(&self) -> usize {
        an_epoch(self.images.len(), self.made.as_ref())
    }

    /// Steps of an epoch; of whole rounds, if there are rounds.
    pub fn steps_per_epoch(&self) -> u64 {
        let steps = steps_per_epoch(self.per_epoch(), self.batch_size);
        self.round.map_or(steps, |round| in_rounds(steps, round))
    }

    /// The images at these places, changed, as bytes (n, C, H, W).
    fn changed(&self, set: &ImageSet, places: &[usize], purpose: &str, step: u64) -> Result<Vec<u8>> {
        let Source { augment: changes, seed, normalisation, .. } = self;
        let mut bytes = set.read(places)?;
        match changes {
            Augment::Plain(changes) => {
                let mut rng = rng::stream(*seed, purpose, &step.to_string());
                let mut changed = Vec::with_capacity(bytes.len());
                for image in bytes.chunks_exact(set.image_len()) {
                    augment::plain(image, set.height, set.width, changes, &mut rng, &mut changed);
                }
                bytes = changed;
            }
            Augment::List(changes) => {
                // A stream for each image, so that every thread can change some.
                bytes.par_chunks_exact_mut(set.image_len()).enumerate().for_each(|(at, image)| {
                    let mut rng = rng::stream(*seed, purpose, &format!("{step} {at}"));
                    augment::change(image, set.shape(), changes, normalisation, &mut rng);
                });
            }
        }
        Ok(bytes)
    }
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
    /// `Error::Input` when the set is empty or has no labels, there are no outliers or they have another shape, `batch_size`
    /// is 0, or the normalisation is not for the channels.
    pub fn new(source: Source, steps: Range<u64>) -> Result<Self> {
        let set = &source.images;
        if set.is_empty() {
            return Err(Error::input(format!("data set \"{}\" has no {} images", set.name, set.split)));
        }
        if (source.labelled || source.round.is_some())
            && set.labels.as_ref().is_none_or(|labels| labels.len() != set.len())
        {
            return Err(Error::input(format!("data set \"{}\" has no labels to train on", set.name)));
        }
        if source.batch_size == 0 {
            return Err(Error::input("`batch_size` is 0"));
        }
        if let Some((outliers, _)) = &source.outliers
            && (outliers.is_empty() || outliers.shape() != set.shape())
        {
            let (name, n, shape, wanted) = (&outliers.name, outliers.len(), outliers.shape(), set.shape());
            return Err(Error::input(format!(
                "outliers \"{name}\": {n} images of {shape:?} beside images of {wanted:?}"
            )));
        }
        if let Some(side) = source.window.filter(|side| *side > set.height.min(set.width)) {
            let (name, [_, height, width]) = (&set.name, set.shape());
            let message =
                format!("images of {height}×{width} pixels, as those of \"{name}\", have no windows of {side}×{side}");
            return Err(Error::input(message));
        }
        let tables = source.normalisation.tables(set.channels)?;
        let rounds = source.round.map(|steps| Rounds::new(set, steps, source.batch_size, source.seed)).transpose()?;
        let (sender, batches) = sync_channel(PREPARED);
        let worker = std::thread::Builder::new()
            .name("batches".into())
            .spawn(move || Worker::new(source, tables, rounds).send(steps, &sender))
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

/// Makes the batches.
struct Worker {
    source: Source,
    tables: Vec<[f32; 256]>,
    order: Order,
    rounds: Option<Rounds>,
    outlier_order: Order,
    enlarged: Option<Enlarged>,
}

impl Worker {
    fn new(source: Source, tables: Vec<[f32; 256]>, rounds: Option<Rounds>) -> Self {
        let outliers = source.outliers.as_ref().map_or(0, |(outliers, _)| outliers.len());
        let order = Order::new(source.seed, "shuffle", source.per_epoch());
        let outlier_order = Order::new(source.seed, "shuffle outliers", outliers);
        let made = source.made.as_ref();
        let enlarged = made.map(|made| Enlarged::new(made.clone(), source.images.clone(), source.seed));
        Self { source, tables, order, rounds, outlier_order, enlarged }
    }

    /// Prepares and sends the batches of `steps` until one fails or nobody listens.
    fn send(mut self, steps: Range<u64>, sender: &SyncSender<Result<Batch>>) {
        for step in steps {
            let batch = self.batch(step);
            let failed = batch.is_err();
            if sender.send(batch).is_err() || failed {
                return;
            }
        }
    }

    fn batch(&mut self, step: u64) -> Result<Batch> {
        let Source { images: set, outliers, batch_size, device, .. } = &self.source;
        let images = self.source.per_epoch();
        let per_epoch = self.source.steps_per_epoch();
        let epoch = step / per_epoch;
        let start = (step % per_epoch) as usize * batch_size;
        let entries = match &self.rounds {
            Some(rounds) => rounds.of(step),
            None => self.order.of(epoch)[start..(start + batch_size).min(images)].to_vec(),
        };
        // Those that stay normal come first.
        let (entries, normal) = match &self.enlarged {
            None => {
                let count = entries.len();
                (entries, count)
            }
            Some(enlarged) => enlarged.parted(&entries),
        };
        let places: Vec<usize> = entries.iter().map(|entry| entry % set.len()).collect();
        let labels = set.labels.as_ref().map(|labels| places[..normal].iter().map(|&i| labels[i]).collect());
        let labels = labels.map(|labels: Vec<u32>| Tensor::from_vec(labels, normal, device)).transpose()?;

        let mut bytes = self.source.changed(set, &places, "augment", step)?;
        let mut shape = set.shape();
        if let Some(side) = self.source.window {
            let mut rng = rng::stream(self.source.seed, "window", &step.to_string());
            let [_, height, width] = set.shape();
            let whole = bytes.chunks_exact(set.image_len()).map(|image| Image { height, width, bytes: image.to_vec() });
            bytes = whole.flat_map(|image| window_of(&image, [side; 2], &mut rng).bytes).collect();
            shape = [set.channels, side, side];
        }
        let enlarged = self.enlarged.as_ref();
        let marked = enlarged.map(|enlarged| enlarged.turn(&entries, normal, shape, &mut bytes)).transpose()?;
        let mut count = places.len();
        if let Some((outliers, each)) = outliers {
            let (first, len) = (step * *each as u64, outliers.len() as u64);
            let places: Vec<usize> =
                (first..first + *each as u64).map(|at| self.outlier_order.of(at / len)[(at % len) as usize]).collect();
            bytes.extend(self.source.changed(outliers, &places, "augment outliers", step)?);
            count += each;
        }
        let images = normalised(&bytes, count, shape, &self.tables, device)?;
        let unchanged = self.source.augment == Augment::default() && self.source.window.is_none() && outliers.is_none();
        let known =
            |(at, entry): (usize, &usize)| if at < normal { places[at] as u64 } else { (set.len() + entry) as u64 };
        let entries = unchanged.then(|| entries.iter().enumerate().map(known).collect());
        Ok(Batch { images, normal, entries, marked, labels, epoch, step })
    }
}

/// The orders of a set's images, one for each pass over it.
struct Order {
    seed: u64,
    purpose: &'static str,
    /// The pass that `places` is the order of.
    pass: Option<u64>,
    places: Vec<usize>,
}

impl Order {
    fn new(seed: u64, purpose: &'static str, images: usize) -> Self {
        Self { seed, purpose, pass: None, places: vec![0; images] }
    }

    /// The order of a pass: a permutation of the images.
    fn of(&mut self, pass: u64) -> &[usize] {
        if self.pass != Some(pass) {
            self.pass = Some(pass);
            self.places.iter_mut().enumerate().for_each(|(place, slot)| *slot = place);
            self.places.shuffle(&mut rng::stream(self.seed, self.purpose, &pass.to_string()));
        }
        &self.places
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Pixels, Split, augment::Plain};

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
            files: None,
            masks: None,
            note: None,
        })
    }

    fn source(images: Arc<ImageSet>, batch_size: usize, seed: u64) -> Source {
        Source {
            images,
            labelled: true,
            round: None,
            outliers: None,
            made: None,
            normalisation: Normalisation { mean: vec![0.4, 0.5, 0.6], std: vec![0.2, 0.25, 0.3] },
            augment: Plain { flip: true, crop_padding: 1 }.into(),
            window: None,
            batch_size,
            seed,
            device: Device::Cpu,
        }
    }

    fn batches(n: usize, batch_size: usize, seed: u64, steps: Range<u64>) -> TrainBatches {
        TrainBatches::new(source(set(n), batch_size, seed), steps).unwrap()
    }

    fn bits(batch: &Batch) -> (Vec<u32>, Vec<u32>, u64, u64) {
        let pixels = batch.images.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        (
            pixels.iter().map(|p| p.to_bits()).collect(),
            batch.labels.as_ref().unwrap().to_vec1().unwrap(),
            batch.epoch,
            batch.step,
        )
    }

    #[test]
    fn every_epoch_shows_each_image_once_in_a_new_order() {
        assert_eq!(steps_per_epoch(10, 4), 3);
        let batches: Vec<Batch> = batches(10, 4, 0, 0..6).map(Result::unwrap).collect();
        assert_eq!(batches.iter().map(|b| b.normal).collect::<Vec<_>>(), [4, 4, 2, 4, 4, 2]);
        assert_eq!(batches.iter().map(|b| (b.epoch, b.step)).collect::<Vec<_>>()[2..4], [(0, 2), (1, 3)]);
        let epoch = |k: usize| -> Vec<u32> {
            batches[3 * k..3 * k + 3]
                .iter()
                .flat_map(|b| b.labels.as_ref().unwrap().to_vec1::<u32>().unwrap())
                .collect()
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
        let labels: Vec<u32> = batches(8, 8, 0, 0..1).next().unwrap().unwrap().labels.unwrap().to_vec1().unwrap();
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
    fn a_file_that_vanishes_in_the_middle_is_named_and_ends_it() {
        let folder = tempfile::tempdir().unwrap();
        let files: Vec<_> = (0..9).map(|image| folder.path().join(format!("{image}.png"))).collect();
        for file in &files {
            image::RgbImage::from_pixel(4, 4, image::Rgb([9; 3])).save(file).unwrap();
        }
        let pixels = Pixels::of_files(files, [3, 4, 4], crate::data::Fit::default()).unwrap();
        let images = Arc::new(ImageSet { pixels, ..(*set(9)).clone() });
        let mut batches = TrainBatches::new(source(images.clone(), 3, 0), 0..30_000).unwrap();
        assert!(batches.next().unwrap().is_ok());
        std::fs::remove_file(folder.path().join("5.png")).unwrap();
        let error = batches.by_ref().find_map(Result::err).unwrap().to_string();
        assert!(error.contains("5.png"), "{error}");
        assert!(batches.next().is_none());
        let norm = Normalisation { mean: vec![0.5; 3], std: vec![0.5; 3] };
        let mut seen = 0;
        let error = in_order(&images, 2, &norm, &Device::Cpu, |range, _| {
            seen = range.end;
            Ok(())
        });
        assert!(error.unwrap_err().to_string().contains("5.png"));
        assert_eq!(seen, 4);
    }

    #[test]
    fn sets_that_cannot_train_are_refused() {
        let refused = |source: Source| TrainBatches::new(source, 0..1).unwrap_err().to_string();
        let new = |set: ImageSet, batch_size| refused(source(Arc::new(set), batch_size, 0));
        let good = || Arc::unwrap_or_clone(set(4));
        assert_eq!(new(good().take(0), 2), "data set \"numbered\" has no train images");
        assert_eq!(new(ImageSet { labels: None, ..good() }, 2), "data set \"numbered\" has no labels to train on");
        assert_eq!(new(good(), 0), "`batch_size` is 0");
        assert_eq!(
            new(ImageSet { channels: 1, ..good() }.take(4), 2),
            "`mean` has 3 values but the images have 1 channels"
        );
        let beside = |outliers| refused(Source { outliers: Some((Arc::new(outliers), 2)), ..source(set(4), 2, 0) });
        assert_eq!(beside(good().take(0)), "outliers \"numbered\": 0 images of [3, 4, 4] beside images of [3, 4, 4]");
        let grey = ImageSet { channels: 1, ..good() };
        assert_eq!(beside(grey), "outliers \"numbered\": 12 images of [1, 4, 4] beside images of [3, 4, 4]");
    }

    #[test]
    fn outliers_follow_the_images_in_endless_permutations() {
        // Plain images, so that each can be recognised: image i of the outliers has only bytes 100 + i.
        let outliers = ImageSet {
            pixels: (0..7 * 48).map(|at| 100 + (at / 48) as u8).collect(),
            labels: None,
            ..(*set(0)).clone()
        };
        let beside = |seed, steps| {
            let augment = Plain { flip: true, crop_padding: 0 }.into();
            let source =
                Source { outliers: Some((Arc::new(outliers.clone()), 5)), augment, ..source(set(10), 4, seed) };
            TrainBatches::new(source, steps).unwrap().map(Result::unwrap).collect::<Vec<Batch>>()
        };
        let plain = Source { augment: Plain { flip: true, crop_padding: 0 }.into(), ..source(set(10), 4, 3) };
        let plain: Vec<Batch> = TrainBatches::new(plain, 0..7).unwrap().map(Result::unwrap).collect();
        let tables = source(set(1), 1, 0).normalisation.tables(3).unwrap();
        let mut seen = Vec::new();
        for (batch, plain) in beside(3, 0..7).iter().zip(&plain) {
            // The images to learn are those of a run without outliers, and the last, smaller batch has as many outliers.
            let n = plain.normal;
            assert_eq!(batch.images.dim(0).unwrap(), n + 5);
            let learned = Batch {
                images: batch.images.narrow(0, 0, n).unwrap(),
                labels: batch.labels.clone(),
                entries: None,
                marked: None,
                ..*batch
            };
            assert_eq!(bits(&learned), bits(plain));
            for value in
                batch.images.narrow(0, n, 5).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap().chunks(48)
            {
                seen.push((100..107).position(|byte: usize| tables[0][byte] == value[0]).unwrap());
            }
        }
        for pass in seen.chunks(7) {
            let mut sorted = pass.to_vec();
            sorted.sort_unstable();
            assert_eq!(sorted, [0, 1, 2, 3, 4, 5, 6]);
        }
        assert_ne!(seen[..7], seen[7..14]);
        // A run that continues sees what it would have seen.
        let all: Vec<_> = beside(3, 0..7).iter().map(bits).collect();
        assert_eq!(beside(3, 4..7).iter().map(bits).collect::<Vec<_>>(), all[4..]);
    }

    #[test]
    fn a_list_changes_each_image_from_its_own_stream() {
        let list = "[{ random_crop: { padding: 1 } }, horizontal_flip, { color_jitter: { brightness: 0.5 } }]";
        let augment: Augment = serde_saphyr::from_str(list).unwrap();
        let batches = |images: Arc<ImageSet>, steps| {
            let source = Source { augment: augment.clone(), ..source(images, 4, 3) };
            TrainBatches::new(source, steps).unwrap().map(|batch| bits(&batch.unwrap())).collect::<Vec<_>>()
        };
        let all = batches(set(10), 0..7);
        // A run that continues sees what it would have seen, whatever the threads did.
        assert_eq!(batches(set(10), 4..7), all[4..]);
        assert_eq!(batches(set(10), 0..7), all);
        // The same image is changed in another way in another place of a batch and in another step.
        let same = ImageSet { pixels: [7; 48].repeat(10).into(), ..(*set(10)).clone() };
        let changed = batches(Arc::new(same), 0..2);
        let images: std::collections::BTreeSet<Vec<u32>> =
            changed.iter().flat_map(|(pixels, ..)| pixels.chunks(48).map(<[u32]>::to_vec)).collect();
        assert!(images.len() >= 4, "{}", images.len());
    }

    #[test]
    #[ignore = "a measurement: cargo test --lib batches::tests::cost -- --ignored --nocapture"]
    fn cost() {
        let (n, length) = (50_000, 3 * 32 * 32);
        let set = ImageSet {
            height: 32,
            width: 32,
            pixels: vec![7; n * length].into(),
            labels: Some(vec![0; n]),
            ..(*set(0)).clone()
        };
        let normalisation = Normalisation { mean: vec![0.5; 3], std: vec![0.25; 3] };
        let augment = Plain { flip: true, crop_padding: 4 }.into();
        let start = std::time::Instant::now();
        let source = Source { normalisation, augment, ..source(Arc::new(set), 128, 0) };
        let batches = TrainBatches::new(source, 0..steps_per_epoch(n, 128)).unwrap();
        assert_eq!(batches.map(|batch| batch.unwrap().normal).sum::<usize>(), n);
        println!("50,000 images of 3×32×32 augmented and normalised on one thread: {:?}", start.elapsed());
    }
}
