//! The image sets of a run: each is read once, brought to the shape of the ID images, and known by its digest.

use std::{collections::BTreeMap, sync::Arc};

use crate::{
    Error, Result, config,
    data::{self, Dataset, ImageSet, Masks, Split},
    nn::Shape,
    run::{execute::Runner, plan::to_json, results::content, store::Progress},
    say,
    watch::{interrupt::Interrupt, progress::Pass},
};

/// An image set and its digest.
pub(super) struct LoadedSet {
    pub(super) images: Arc<ImageSet>,
    pub(super) sha256: String,
    /// The digest of its masks, if it has masks.
    pub(super) masks_sha256: Option<String>,
    /// The set that it was made of, if it was.
    pub(super) made_of: Option<String>,
    /// What tells these images from those of the same digest before an attack.
    pub(super) attacked: Option<String>,
}

impl LoadedSet {
    /// Looks at every image: whatever cannot be decoded is found here.
    pub(super) fn of(images: ImageSet, interrupt: &Interrupt) -> Result<Self> {
        let mut bar = Pass::new(&format!("reading {}", images.name), images.len(), "images");
        let sha256 = images.sha256_telling(|done| {
            bar.set(done);
            interrupt.check()
        })?;
        let masks_sha256 = images.masks.as_ref().map(Masks::sha256);
        Ok(Self { sha256, masks_sha256, images: Arc::new(images), made_of: None, attacked: None })
    }

    /// What tells its images and masks from others.
    pub(super) fn content(&self) -> String {
        content(&self.sha256, self.masks_sha256.as_deref())
    }

    /// A file name that no other content has.
    pub(super) fn file_stem(&self) -> String {
        let attacked = self.attacked.as_ref().map(|hash| format!("-{hash}")).unwrap_or_default();
        format!("{}-{}{attacked}", self.images.name, &self.sha256[..12])
    }
}

/// The name of a set that is read once.
fn set_key(dataset: &Dataset, split: Split, like: Option<[usize; 3]>) -> Result<String> {
    Ok(format!("{}{like:?}{split}", to_json(dataset)?))
}

/// The error of an ID set without labels.
fn unlabelled(images: &ImageSet) -> Error {
    Error::input(format!("data.id: the {} images of \"{}\" have no labels", images.split, images.name))
        .hint("an ID set needs the class of every image; sets without classes can be OOD sets")
}

/// Refuses labels of classes that the networks do not know.
fn known_classes(images: &ImageSet, classes: usize) -> Result<()> {
    let (name, split) = (&images.name, images.split);
    let labels = images.labels.as_ref().ok_or_else(|| unlabelled(images))?;
    match labels.iter().position(|&label| label as usize >= classes) {
        None => Ok(()),
        Some(image) => Err(Error::input(format!(
            "data.id: image {image} of the {split} split of \"{name}\" has label {}, and the networks know the classes 0 to {}",
            labels[image],
            classes.saturating_sub(1)
        ))
        .hint("images of other classes are out-of-distribution: put them into an OOD set")),
    }
}

impl Runner<'_> {
    /// Reads a split once; OOD sets are brought to the shape of `like`.
    pub(super) fn set(&mut self, dataset: &Dataset, split: Split, like: Option<[usize; 3]>) -> Result<Arc<LoadedSet>> {
        // All sets are resized, cropped and shifted as the ID set is.
        let id = &self.plan.experiment.data.id;
        let dataset = &Dataset { resize: id.resize, crop: id.crop, brightness: id.brightness, ..dataset.clone() };
        let key = set_key(dataset, split, like)?;
        if let Some(set) = self.sets.get(&key) {
            return Ok(set.clone());
        }
        self.context.interrupt.check()?;
        let memory = self.context.memory.bytes.saturating_sub(self.held());
        let mut images = data::load_as(dataset, split, &self.context.data, like, Some(memory))?;
        if let Some(attack) = &dataset.attack {
            images.note = Some(images.note.into_iter().chain([attack.in_words()]).collect::<Vec<_>>().join(", "));
        }
        if images.pixels.held().is_none() {
            say(format!(
                "{} ({split}): {} images take {} and are decoded each time they are needed; images may take {}",
                images.name,
                images.len(),
                data::size(images.bytes()),
                self.context.memory
            ));
        }
        let set = Arc::new(LoadedSet::of(images, &self.context.interrupt)?);
        self.sets.insert(key, set.clone());
        Ok(set)
    }

    /// Bytes of all images that are held.
    fn held(&self) -> u64 {
        // A set may be asked for by several names.
        let sets = self.sets.values().chain(self.held_out.values().flatten());
        let sets: BTreeMap<_, _> = sets.map(|set| (Arc::as_ptr(set), &set.images.pixels)).collect();
        sets.values().filter_map(|pixels| pixels.held()).map(|bytes| bytes.len() as u64).sum()
    }

    /// What networks of an ID set are built for. A network that is there says it; else the images to learn from do, and only of
    /// networks that do not learn the test images.
    pub(super) fn shape(&mut self, id: &Dataset) -> Result<Shape> {
        if let Some(shape) = self.shapes.get(&id.name) {
            return Ok(*shape);
        }
        let (plan, store) = (self.plan, &self.context.store);
        let mut nodes = plan.nodes.iter().filter(|node| node.data.name == id.name && !node.shared);
        let recorded = nodes.clone().find(|node| store.progress(node) == Progress::Done);
        let shape = if let Some(node) = recorded {
            let [channels, height, width, classes] = store.record(node)?.shape;
            Shape { channels, height, width, classes }
        } else {
            let learns = nodes.any(|node| node.train.is_some());
            let split = if learns { Split::Train } else { Split::Test };
            let set = self.set(id, split, None)?;
            if set.images.labels.is_none() {
                return Err(unlabelled(&set.images));
            }
            // The same images are asked for by their shape from now on.
            self.sets.insert(set_key(id, split, Some(set.images.shape()))?, set.clone());
            let [channels, height, width] = set.images.shape();
            Shape { channels, height, width, classes: set.images.classes }
        };
        self.shapes.insert(id.name.clone(), shape);
        Ok(shape)
    }

    /// The train images of the ID set, as a cell of the sweep has it.
    pub(super) fn train_images(&mut self, id: &Dataset) -> Result<Arc<LoadedSet>> {
        let Shape { channels, height, width, classes } = self.shape(id)?;
        let set = self.set(id, Split::Train, Some([channels, height, width]))?;
        known_classes(&set.images, classes)?;
        Ok(set)
    }

    /// All test images of the ID set.
    pub(super) fn id_test_images(&mut self, id: &Dataset) -> Result<Arc<LoadedSet>> {
        let Shape { channels, height, width, classes } = self.shape(id)?;
        let set = self.set(id, Split::Test, Some([channels, height, width]))?;
        known_classes(&set.images, classes)?;
        Ok(set)
    }

    /// The train images of a data set that a network has for itself, at the shape of the images that it is used on.
    pub(super) fn own_images(&mut self, own: &Dataset) -> Result<Arc<LoadedSet>> {
        let task = self.plan.cells.first().and_then(|cell| cell.tasks.first());
        let id = task.map_or(&self.plan.experiment.data.id, |task| &task.experiment.data.id);
        let Shape { channels, height, width, .. } = self.shape(id)?;
        let set = self.set(own, Split::Train, Some([channels, height, width]))?;
        match set.images.labels {
            Some(_) => Ok(set),
            None => Err(unlabelled(&set.images)),
        }
    }

    /// The test images of the ID set and, in its shape, of each OOD set and then of each covariate-shifted ID set.
    pub(super) fn test_sets(&mut self, data: &config::Data) -> Result<Vec<Arc<LoadedSet>>> {
        let (id, _) = self.id_sets(data)?;
        let like = Some(id.images.shape());
        let mut sets = vec![id];
        for dataset in data.ood_sets().iter().chain(&data.shifted) {
            sets.push(self.set(dataset, Split::Test, like)?);
        }
        Ok(sets)
    }
}
