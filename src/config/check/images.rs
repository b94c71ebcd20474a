//! Whether a network and the images that it sees go together.

use super::Found;
use crate::{
    config::Network,
    data::{self, Dataset, Split},
    nn::{Backbone, weights::Normalise},
    yaml::problems::Path,
};

impl Found {
    /// Whether it is known what images are normalised by.
    pub(super) fn normalise(&mut self, path: &Path, network: &Network, id: &Dataset) {
        let known = network.built_on().as_ref().and_then(Backbone::normalisation);
        let path_of = path.join("normalise");
        let of_model = network.model().is_some_and(|model| model.normalisation(1).is_some());
        match network.normalise {
            Normalise::Weights if of_model => {
                let message = "this model brings pixels to -1..1, whatever its weights are: leave this key out";
                self.add(path_of, message);
            }
            Normalise::Data if of_model => {}
            Normalise::Data
                if network.train.is_none() && data::given_normalisation(id).is_ok_and(|given| given.is_none()) =>
            {
                let or = if known.is_some() { "write `normalise: weights`, or " } else { "" };
                let message = format!(
                    "weights that are used as they are need the mean and std that they were trained with: {or}give them with \
                     \"{}\", one number per channel",
                    id.name
                );
                self.add(path.clone(), message);
            }
            Normalise::Weights if network.from.is_some() => {
                self.add(path_of, "goes with weights: a network `from` another has that one's");
            }
            Normalise::Weights if network.weights.is_none() => {
                self.add(path_of, "goes with weights, and this network starts untrained");
            }
            Normalise::Weights => {
                let channels = data::shape(id).map(|[channels, ..]| channels).or(id.channels);
                let tags = network.built_on().as_ref().map(Backbone::tags).unwrap_or_default();
                let hub = network.weights.as_ref().and_then(|weights| weights.hub());
                let other = hub.as_ref().and_then(|file| file.repository.rsplit_once('.')).map(|(_, tag)| tag);
                if let Some(tag) =
                    other.filter(|tag| !tags.is_empty() && !tags.iter().any(|known| tag.starts_with(known)))
                {
                    let message = format!(
                        "oodkit knows the mean and std of this backbone's weights whose tag starts with {}, not of `{tag}`: leave this \
                         key out, and give `mean` and `std` with data.id, as timm's `default_cfg` has them",
                        tags.join(" or ")
                    );
                    self.add(path_of, message);
                } else if known.is_none() {
                    let message = "oodkit knows no mean and std of this backbone's weights: give them with data.id";
                    self.add(path_of, message);
                } else if channels == Some(1) {
                    let message =
                        format!("is of RGB images, and those of \"{}\" are grey: write `channels: 3` there", id.name);
                    self.add(path_of, message);
                }
            }
            Normalise::Data => {}
        }
    }

    /// Whether a network can be built and trained for the images of an ID set, as far as they are known before reading.
    pub(super) fn fits(&mut self, path: &Path, network: &Network, dataset: &Dataset, id: &Dataset) {
        let smallest = network.model().map_or(1, |model| model.least_side());
        // All sets take the ID set's shape.
        if let Some([_, height, width]) = data::shape(id)
            && height.min(width) < smallest
        {
            let message = format!(
                "needs images of at least {smallest}×{smallest} pixels, and those of \"{}\" are {height}×{width}",
                id.name
            );
            self.add(path.join(if network.model.is_some() { "model" } else { "backbone" }), message);
        }
        let patch = network.model().map_or(1, |model| model.patch());
        if let Some([_, height, width]) = data::shape(id)
            && [height, width].iter().any(|side| !side.is_multiple_of(patch))
        {
            let most = height.max(width);
            let (below, above) = ((most / patch).max(1) * patch, (most / patch + 1) * patch);
            let message = format!(
                "cuts images into patches of {patch}×{patch} pixels, and those of \"{}\" are {height}×{width}, no whole number of them: \
                 `size: {below}` or `size: {above}` with that set would be",
                id.name
            );
            self.add(path.join(if network.model.is_some() { "model" } else { "backbone" }), message);
        }
        let limit = dataset.train_limit.unwrap_or(usize::MAX);
        if let Some(train) = &network.train
            && let Some(images) = data::full_size(dataset, Split::Train).or(dataset.train_limit).map(|n| n.min(limit))
            && train.validation >= images
        {
            let message = format!("{} of {images} train images: none would be left to learn from", train.validation);
            self.add(path.join("train").join("validation"), message);
        }
    }
}
