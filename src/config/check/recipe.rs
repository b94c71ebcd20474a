//! What is wrong with the parts of a recipe that stand together, or beside a network.

use super::Found;
use crate::{
    config::Network,
    data::{
        self, Dataset, Split,
        augment::{Augment, Change, PaddingMode, Plain},
        batches::steps_per_epoch,
        enlarged::an_epoch,
    },
    models::ModelConfig,
    nn::{Shape, params::is_buffer, weights::fit},
    train::{Train, groups},
    yaml::problems::Path,
};

/// Names of parameters do not depend on the shape of images: this one stands for a shape that is known only when images are read.
const SOME_SHAPE: [usize; 3] = [3, 224, 224];

/// Images of an epoch, as far as their number is known before reading.
fn images_of_epoch(train: &Train, learned: &Dataset) -> Option<usize> {
    let all = data::full_size(learned, Split::Train).into_iter().chain(learned.train_limit).min()?;
    Some(an_epoch(all.saturating_sub(train.validation), train.outliers.as_ref()))
}

impl Found {
    /// Whether a whole batch is left of an epoch, as far as the number of images is known before reading.
    pub(super) fn drop_last(&mut self, path: &Path, train: &Train, learned: &Dataset) {
        if !train.drop_last {
            return;
        }
        let path = path.join("drop_last");
        if let Some(images) = images_of_epoch(train, learned).filter(|images| (1..train.batch_size).contains(images)) {
            let message = format!(
                "leaves no batch of {} of the {images} images of an epoch: leave it out, or give a smaller `batch_size`",
                train.batch_size
            );
            self.add(path.clone(), message);
        }
        if train.reptile.is_some() {
            self.add(path, "goes without `reptile`, whose batches are whole: leave it out");
        }
    }

    /// Whether a backbone that takes something from the train images is a classifier's, which has it do so.
    pub(super) fn surveys(&mut self, path: &Path, network: &Network) {
        let Some(model) = network.model.as_ref().filter(|_| network.from.is_none() && network.weights.is_none()) else {
            return;
        };
        if let Some(backbone) = model.backbone().filter(|backbone| backbone.surveys())
            && !matches!(model, ModelConfig::Classifier(_))
        {
            let message = format!(
                "{} whitens by the train images of a classifier: train it as `backbone`, and start this network `from` that one",
                backbone.name()
            );
            self.add(path.join("model"), message);
        }
    }

    /// Whether there are pixels around images to fill, and enough within them to mirror.
    pub(super) fn padding(&mut self, path: &Path, train: &Train, learned: &Dataset) {
        let path = path.join("augment");
        let side = data::shape(learned).map(|[_, height, width]| height.min(width));
        let mut mirrored = |path: Path, pixels: usize, mode: PaddingMode| {
            if let Some(most) = side.and_then(|side| mode.most(side)).filter(|most| pixels > *most) {
                self.add(path, format!("images of this size have {most} pixels to mirror, not {pixels}"));
            }
        };
        match &train.augment {
            Augment::Plain(plain) => mirrored(path.join("crop_padding"), plain.crop_padding, plain.padding),
            Augment::List(changes) => {
                for (at, change) in changes.iter().enumerate() {
                    if let Change::RandomCrop(crop) = change {
                        let path = path.join(at).join("random_crop").join("padding");
                        mirrored(path, crop.padding, crop.padding_mode);
                    }
                }
            }
        }
        if let Augment::Plain(Plain { crop_padding: 0, padding, .. }) = &train.augment
            && *padding != PaddingMode::Constant
        {
            let message = "goes with `crop_padding`, how many pixels there are around an image: `crop_padding: 2`";
            self.add(path.join("padding"), message);
        }
    }

    /// Whether there is one kind of slow weights, and steps for them to move.
    pub(super) fn lookahead(&mut self, path: &Path, train: &Train, learned: &Dataset) {
        let Some(lookahead) = &train.lookahead else { return };
        let path = path.join("lookahead");
        let epoch = images_of_epoch(train, learned);
        let all = epoch.map(|images| train.epochs as u64 * steps_per_epoch(images, train.batch_size, train.drop_last));
        let steps = all.into_iter().chain(train.max_steps.map(|most| most as u64)).min();
        if let Some(problem) = steps.and_then(|steps| lookahead.problem(steps)) {
            self.add(path.join("every"), problem);
        }
        if train.ema.is_some() {
            self.add(path, "goes without `ema`: the weights that it leaves are averages already");
        }
    }

    /// Whether each group of parameters has some, and settings that go together.
    pub(super) fn groups(&mut self, path: &Path, train: &Train, root: &Network, id: &Dataset) {
        if train.groups.is_empty() && train.optimizer.least_dims() == 0 {
            return;
        }
        let (usual, path) = (path.join("optimizer"), path.join("groups"));
        for (at, keys, message) in groups::setting_problems(&train.groups) {
            self.add(keys.into_iter().fold(path.join(at), |path, key| path.join(key)), message);
        }
        for (at, group) in train.groups.iter().enumerate() {
            if group.epochs.is_some_and(|own| own > train.epochs) {
                let message = format!("more than the recipe's {}: leave it out to learn in all of them", train.epochs);
                self.add(path.join(at).join("epochs"), message);
            }
        }
        if train.trunk_lr.is_some() && !train.groups.is_empty() {
            let message = "goes without `trunk_lr`: a group gives a trunk a learning rate of its own, `{ match: \"layer*\", lr: … }`";
            self.add(path.clone(), message);
        }
        let Some(model) = root.model() else { return };
        let [channels, height, width] = data::shape(id).unwrap_or(SOME_SHAPE);
        let shape = Shape { channels, height, width, classes: data::classes(id).unwrap_or(2).max(1) };
        // A model that cannot be built is told of elsewhere.
        let Ok(sizes) = fit::sizes(&|shape, vb| model.build(shape, vb).map(|_| ()), shape) else { return };
        let names: Vec<&str> = sizes.keys().map(String::as_str).filter(|name| !is_buffer(name)).collect();
        for (at, message) in groups::empty(&train.groups, &names) {
            self.add(path.join(at).join("match"), message);
        }
        let flat = names.iter().map(|name| (*name, sizes[*name].len()));
        if let Some((group, message)) = groups::too_flat(&train.groups, &train.optimizer, flat) {
            self.add(group.map_or(usual, |group| path.join(group)), message);
        }
    }
}
