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
//! Which images alternating flips mirror first is drawn from the stream (seed, `mirrored`), and follows the epoch, or of outliers the pass.
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
    augment::{self, About, Alternation, Image, crop::window_of},
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

/// Steps of an epoch: n / batch_size, rounded up because the last batch may be smaller, or down where such a batch is dropped.
pub fn steps_per_epoch(n: usize, batch_size: usize, drop_last: bool) -> u64 {
    let size = batch_size.max(1);
    if drop_last { (n / size) as u64 } else { n.div_ceil(size) as u64 }
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
    /// Whether the images that are left of an epoch after its last whole batch are passed over.
    pub drop_last: bool,
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
        let steps = steps_per_epoch(self.per_epoch(), self.batch_size, self.drop_last);
        self.round.map_or(steps, |round| in_rounds(steps, round))
    }

    /// The images at these places, each in a pass over the set, changed, as bytes (n, C, H, W).
    fn changed(&self, set: &Changing<'_>, places: &[(usize, u64)], purpose: &str, step: u64) -> Result<Vec<u8>> {
        let Source { augment: changes, seed, normalisation, .. } = self;
        let (set, alternation) = (set.images, set.alternation);
        let mirrors = |at: usize| alternation.is_some_and(|each| each.mirrors(places[at].0, places[at].1));
        let mut bytes = set.read(&places.iter().map(|(place, _)| *place).collect::<Vec<_>>())?;
        match changes {
            Augment::Plain(changes) => {
                let mut rng = rng::stream(*seed, purpose, &step.to_string());
                let mut changed = Vec::with_capacity(bytes.len());
                for (at, image) in bytes.chunks_exact(set.image_len()).enumerate() {
                    augment::plain(image, set.height, set.width, changes, mirrors(at), &mut rng, &mut changed);
                }
                bytes = changed;
            }
            Augment::List(changes) => {
                // A stream for each image, so that every thread can change some.
                bytes.par_chunks_exact_mut(set.image_len()).enumerate().for_each(|(at, image)| {
                    let mut rng = rng::stream(*seed, purpose, &format!("{step} {at}"));
                    let about = About { normalisation, mirrored: mirrors(at) };
                    augment::change(image, set.shape(), changes, &about, &mut rng);
                });
            }
        }
        Ok(bytes)
    }
}

/// A set whose images are changed, and which of them alternating flips mirror.
struct Changing<'a> {
    images: &'a ImageSet,
    alternation: Option<&'a Alternation>,
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
        if source.steps_per_epoch() == 0 {
            let (name, n, size) = (&set.name, source.per_epoch(), source.batch_size);
            let message = format!("`drop_last` leaves no batch of {size} of the {n} images of an epoch of \"{name}\"");
            return Err(Error::input(message).hint("leave it out, or give a smaller `batch_size`"));
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
    /// Of the images, and of the outliers.
    alternations: Option<[Alternation; 2]>,
}

impl Worker {
    fn new(source: Source, tables: Vec<[f32; 256]>, rounds: Option<Rounds>) -> Self {
        let outliers = source.outliers.as_ref().map_or(0, |(outliers, _)| outliers.len());
        let order = Order::new(source.seed, "shuffle", source.per_epoch());
        let outlier_order = Order::new(source.seed, "shuffle outliers", outliers);
        let made = source.made.as_ref();
        let enlarged = made.map(|made| Enlarged::new(made.clone(), source.images.clone(), source.seed));
        let alternations = source.augment.alternates().map(|p| {
            let of = |(images, purpose)| Alternation::new(images, p, source.seed, purpose);
            [(source.images.len(), "augment"), (outliers, "augment outliers")].map(of)
        });
        Self { source, tables, order, rounds, outlier_order, enlarged, alternations }
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

        let alternations = self.alternations.as_ref();
        let changing = Changing { images: set, alternation: alternations.map(|[of_images, _]| of_images) };
        let seen: Vec<_> = places.iter().map(|place| (*place, epoch)).collect();
        let mut bytes = self.source.changed(&changing, &seen, "augment", step)?;
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
            let place = |at| (self.outlier_order.of(at / len)[(at % len) as usize], at / len);
            let seen: Vec<(usize, u64)> = (first..first + *each as u64).map(place).collect();
            let changing = Changing { images: outliers, alternation: alternations.map(|[_, of_outliers]| of_outliers) };
            bytes.extend(self.source.changed(&changing, &seen, "augment outliers", step)?);
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
mod tests;
