//! Training the nodes of a plan, once each.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use crate::{
    Error, Result,
    data::{self, ImageSet, Normalisation, Split, enlarged::Outliers},
    digest,
    fs::remove_if_there,
    losses::Objective,
    nn::{Model, Shape, params::Params, weights},
    rng,
    run::{
        execute::Runner,
        journal::Journal,
        plan::Node,
        published::{self, WeightsRecord},
        results::OutliersRecord,
        sets::LoadedSet,
        store::{NetworkRecord, Progress, write_json},
    },
    train::{self, Job, checkpoint::Checkpoint},
    watch::events::Observer,
};

/// A trained network, ready to be used.
pub(super) struct Trained {
    pub(super) network: Box<dyn Model>,
    pub(super) record: NetworkRecord,
    /// Of its weights' file.
    pub(super) sha256: String,
    pub(super) folder: PathBuf,
    pub(super) normalisation: Normalisation,
}

impl Runner<'_> {
    /// Trains a node unless it is done.
    pub(super) fn train(&mut self, index: usize) -> Result<()> {
        let node = &self.plan.nodes[index];
        let store = &self.context.store;
        let _lock = store.lock(node, &self.context.interrupt)?;
        let folder = store.folder(node);
        let checkpoint = folder.join("checkpoint.safetensors");
        if store.progress(node) == Progress::Done {
            store.record(node)?;
            return remove_if_there(&checkpoint);
        }
        let train = self.images_of(node)?;
        published::refuse_classes(node, &train.images)?;
        let (shape, published) = published::start(node, &train.images)?;
        let Shape { channels, height, width, classes } = shape;
        let params = Params::new(node.seed, &self.context.device);
        let network = node.model.build(shape, params.builder())?;
        let mut carried = None;
        if let Some(upstream) = node.upstream {
            let upstream = &self.plan.nodes[upstream];
            let record = store.record(upstream)?;
            // One that learned data of its own is known by them.
            if !upstream.shared {
                self.refuse_other_images(upstream, &train.sha256)?;
            }
            // What is taken goes on with images that are normalised as those it learned from.
            carried = match upstream.shared {
                true => Some(upstream.normalisation(record.normalisation.as_ref())?),
                false => record.normalisation.clone(),
            };
            let (mut model, _) = store.model(upstream, &record)?;
            if upstream.model != node.model {
                let mut state = params.all()?;
                model.retain(|name, _| state.contains_key(name));
                state.extend(model);
                model = state;
            }
            params.load(&model, &store.folder(upstream).join("model.safetensors"))?;
        }
        let mut weights_record = None;
        if let (Some(fitted), Some(from)) = (published, &node.weights) {
            let notes = fitted.notes.clone();
            published::put(fitted, &params, &from.path)?;
            weights_record = Some(WeightsRecord {
                source: from.source.clone(),
                sha256: from.sha256.clone().unwrap_or_default(),
                notes,
            });
        }
        let outliers = match &node.outliers {
            None => None,
            Some(dataset) => Some(self.set(dataset, Split::Train, Some(train.images.shape()))?),
        };
        let of_model = node.model.normalisation(channels);
        let computed = match carried {
            _ if of_model.is_some() => of_model,
            _ if node.train.is_none() || node.normalisation.is_some() => None,
            // Whatever the ID set gives: what it starts from knows no other images.
            Some(carried) => Some(carried),
            None if data::given_normalisation(&node.data)?.is_some() => None,
            None => Some(data::statistics(&train.images)?),
        };
        let normalisation = node.normalisation(computed.as_ref())?;
        let mut train_images = 0;
        let fitted = match &node.train {
            None => None,
            Some(recipe) => {
                let what =
                    format!("{}, seed {} ({}/{})", self.plan.uses(node), node.seed, index + 1, self.plan.nodes.len());
                let (held_out, images) = hold_out(&train.images, recipe.validation, node.seed)?;
                train_images = images.len();
                let saved = Checkpoint::read(&checkpoint)?;
                let positions = saved.as_ref().map(|saved| saved.state.positions.clone()).unwrap_or_default();
                let mut journal = Journal::open(&folder, &positions)?;
                let labels = images.labels.as_deref().unwrap_or_default();
                // Whatever changes what a frozen part makes of an image changes this.
                let with = node.model.fixed().map(|fixed| {
                    let made = recipe.outliers.clone().map(|made| Outliers { share: 0.0, ..made });
                    let weights = node.weights.as_ref().map(|weights| &weights.sha256);
                    let upstream = node.upstream.map(|upstream| &self.plan.nodes[upstream].identity);
                    let all =
                        (fixed, weights, upstream, node.seed, &train.sha256, recipe.validation, made, &normalisation);
                    serde_json::json!(all).to_string()
                });
                let objective = Objective::new(&node.loss, labels, shape.classes)?;
                let job = Job {
                    what: &what,
                    model: network.as_ref(),
                    params: &params,
                    objective: &objective,
                    recipe,
                    own: node.model.own(),
                    seed: node.seed,
                    images,
                    window: node.model.window(),
                    data: &train.sha256,
                    outliers: outliers.as_ref().map(|set| (set.images.clone(), set.sha256.as_str())),
                    validation: held_out.as_ref(),
                    normalisation: &normalisation,
                    fixed: with.as_deref().map(|with| (&self.fixed, with)),
                    device: &self.context.device,
                    checkpoint: &checkpoint,
                };
                let mut sheets = self.sheets(index, network.as_ref(), [channels, height, width])?;
                let mut observers: Vec<&mut dyn Observer> = journal.observers().into();
                observers.extend(sheets.as_mut().map(|sheets| sheets as &mut dyn Observer));
                Some(train::fit(&job, saved, &mut observers, &self.context.interrupt)?)
            }
        };
        let metadata = BTreeMap::from([
            ("format".to_owned(), "pt".to_owned()),
            ("oodkit".to_owned(), self.environment.oodkit.clone()),
            ("identity".to_owned(), node.identity.to_string()),
            ("seed".to_owned(), node.seed.to_string()),
        ]);
        let model = folder.join("model.safetensors");
        weights::write(&model, &params.all()?, &metadata)?;
        let record = NetworkRecord {
            schema: NetworkRecord::SCHEMA,
            identity: node.identity.clone(),
            seed: node.seed,
            shape: [channels, height, width, classes],
            steps: fitted.map_or(0, |fitted| fitted.steps),
            final_loss: fitted.map(|fitted| fitted.final_loss),
            train_seconds: fitted.map_or(0.0, |fitted| fitted.seconds),
            parameters: params.count(),
            train_images,
            train_full: fitted.and(train.images.full_size),
            model_sha256: Some(digest::of_file(&model)?),
            train_sha256: fitted.map(|_| train.sha256.clone()),
            normalisation: computed,
            outliers: outliers.map(|set| OutliersRecord {
                name: set.images.name.clone(),
                images: set.images.len(),
                full: set.images.full_size,
                note: set.images.note.clone(),
                sha256: set.sha256.clone(),
            }),
            weights: weights_record,
            environment: self.environment.clone(),
        };
        write_json(&folder.join("network.json"), &record)?;
        remove_if_there(&checkpoint)
    }

    /// The images that a node learns from; of one that is used as it is, those it is used on, for its shape.
    pub(super) fn images_of(&mut self, node: &Node) -> Result<Arc<LoadedSet>> {
        match node.train {
            Some(_) if node.shared => self.own_images(&node.data),
            Some(_) => self.train_images(&node.data),
            None => self.id_test_images(&node.data),
        }
    }

    /// Refuses to build on a network that learned other images than those that lie there now.
    pub(super) fn refuse_other_images(&self, node: &Node, train_sha256: &str) -> Result<()> {
        let Some(learned) = self.context.store.record(node)?.train_sha256 else { return Ok(()) };
        if learned == train_sha256 {
            return Ok(());
        }
        let folder = self.context.store.folder(node);
        Err(Error::input(format!(
            "the train images of {} are not those that {} was trained on (SHA-256 {} now, {} then)",
            node.data.name,
            folder.display(),
            &train_sha256[..12],
            learned.get(..12).unwrap_or("?")
        ))
        .hint(format!("put the old images back, or remove {} to train it anew", folder.display())))
    }

    /// Loads a finished node.
    pub(super) fn load(&self, node: &Node) -> Result<Trained> {
        let folder = self.context.store.folder(node);
        let record = self.context.store.record(node)?;
        let [channels, height, width, classes] = record.shape;
        let params = Params::new(node.seed, &self.context.device);
        let network = node.model.build(Shape { channels, height, width, classes }, params.builder())?;
        let (model, sha256) = self.context.store.model(node, &record)?;
        params.load(&model, &folder.join("model.safetensors"))?;
        let normalisation = node.normalisation(record.normalisation.as_ref())?;
        Ok(Trained { network, record, sha256, folder, normalisation })
    }
}

/// The images held out by seed, and those to learn from.
pub(super) fn hold_out(images: &Arc<ImageSet>, count: usize, seed: u64) -> Result<(Option<ImageSet>, Arc<ImageSet>)> {
    use rand::seq::SliceRandom;
    if count == 0 {
        return Ok((None, images.clone()));
    }
    if count >= images.len() {
        return Err(Error::input(format!(
            "train.validation holds out {count} of {}'s {} train images: none would be left",
            images.name,
            images.len()
        )));
    }
    let mut order: Vec<usize> = (0..images.len()).collect();
    order.shuffle(&mut rng::stream(seed, "validation", ""));
    let (held_out, rest) = order.split_at_mut(count);
    rest.sort_unstable();
    Ok((Some(images.subset(held_out)), Arc::new(images.subset(rest))))
}
