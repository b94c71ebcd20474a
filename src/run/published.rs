//! Published weights that networks of a plan start from.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    Error, Result,
    data::{self, Format, ImageSet, download::HUB},
    digest,
    models::taken,
    nn::{
        Output, Shape,
        params::Params,
        weights::{
            self, Weights, WeightsHead,
            fit::{Fitted, Wanted},
        },
    },
    run::{execute::Runner, plan::Node, store::Progress},
    say,
};

/// A file of weights, found and known by its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Published {
    /// The file or tag as the experiment names it.
    pub source: String,
    /// Where it is.
    pub path: PathBuf,
    /// Of all of it; `None` if it is not there, which a plan can be made with but not carried out.
    pub sha256: Option<String>,
    /// Where the last layer comes from.
    pub head: WeightsHead,
}

/// What a network's record says of the weights that it started from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WeightsRecord {
    /// The file or tag as the experiment names it.
    pub source: String,
    /// Of the file.
    pub sha256: String,
    /// What was changed in the names, and left out.
    pub notes: Vec<String>,
}

impl Published {
    /// What of them can change a network.
    pub(super) fn identity(&self) -> Value {
        match (&self.sha256, self.head) {
            (None, _) => json!({ "absent": self.source }),
            (Some(sha256), WeightsHead::File) => json!(sha256),
            (Some(sha256), WeightsHead::New) => json!({ "sha256": sha256, "head": "new" }),
        }
    }

    /// Refuses weights that are not there.
    pub(super) fn check(&self) -> Result<()> {
        let reason = match std::fs::metadata(&self.path) {
            // Opening anything else might wait for ever.
            Ok(metadata) if metadata.is_file() => return Ok(()),
            Ok(_) => "not a regular file".to_owned(),
            Err(error) => error.to_string(),
        };
        let hub = self.source.starts_with(HUB);
        Err(Error::input(format!("cannot read the weights {}: {reason}", self.path.display())).hint(match hub {
            true => format!("oodkit data {} fetches them (make data set={0})", self.source),
            false => {
                "`weights:` is a .safetensors or .pth file, relative to the folder that oodkit is started in".into()
            }
        }))
    }
}

/// The files of weights that a plan names, each read once.
#[derive(Debug)]
pub(super) struct Files<'a> {
    /// Where downloaded ones are.
    cache: &'a Path,
    digests: BTreeMap<PathBuf, String>,
}

impl<'a> Files<'a> {
    pub(super) fn below(cache: &'a Path) -> Self {
        Self { cache, digests: BTreeMap::new() }
    }

    /// The file that `weights` names.
    pub(super) fn get(&mut self, weights: &Weights) -> Result<Published> {
        let path = weights.path(self.cache);
        let mut published = Published { source: weights.file.clone(), path, sha256: None, head: weights.head };
        if published.check().is_ok() {
            let known = self.digests.get(&published.path).cloned();
            let digest = known.map_or_else(|| digest::of_file(&published.path), Ok)?;
            self.digests.insert(published.path.clone(), digest.clone());
            published.sha256 = Some(digest);
        }
        Ok(published)
    }
}

impl Runner<'_> {
    /// Refuses what cannot be had of images whose size the file need not say, before any network is trained.
    fn check_sizes(&mut self) -> Result<()> {
        let untrained = |node: &&Node| node.train.is_some() && self.context.store.progress(node) != Progress::Done;
        for node in self.plan.nodes.iter().filter(untrained).collect::<Vec<_>>() {
            if data::shape(&node.data).is_some() {
                continue;
            }
            let images = self.images_of(node)?.images.clone();
            let place = |error: Error| error.at(&self.plan.path.display().to_string());
            refuse_grid(node, [images.height, images.width]).map_err(place)?;
            refuse_classes(node, &images).map_err(place)?;
            if node.weights.is_none() {
                let [channels, height, width] = images.shape();
                let shape = Shape { channels, height, width, classes: images.classes };
                let name = node.name();
                wanted(node, shape).map_err(|error| place(error.at(&format!("networks.{name}"))))?;
                let upstream = node.upstream.map(|upstream| &self.plan.nodes[upstream].model);
                if let Some(message) = upstream.and_then(|from| taken::problem(from, &node.model, shape)) {
                    return Err(place(Error::input(format!("networks.{name}.from: {message}"))));
                }
            }
        }
        Ok(())
    }

    /// Refuses weights that do not fit the networks that are still to be made of them, before any is trained; and test images of
    /// classes that the heads of those that are used as they are do not have.
    pub(super) fn check_weights(&mut self) -> Result<()> {
        self.check_sizes()?;
        let mut checked = BTreeSet::new();
        for node in &self.plan.nodes {
            let Some(published) = &node.weights else { continue };
            let done = self.context.store.progress(node) == Progress::Done;
            // Seeds and recipes change nothing here.
            let same = format!("{published:?} {:?} {} {done}", node.model, node.train.is_some());
            if (done && node.train.is_some()) || !checked.insert(same) {
                continue;
            }
            let images = self.images_of(node)?;
            if done {
                let [.., classes] = self.context.store.record(node)?.shape;
                check_classes(node, &images.images, classes, published)?;
                continue;
            }
            let (_, fitted) = start(node, &images.images)?;
            for note in fitted.iter().flat_map(|fitted| &fitted.notes) {
                say(format!("{}: weights {}: {note}", self.plan.uses(node), published.source));
            }
        }
        Ok(())
    }
}

/// The shape of a node's network for the images it learns from (or, if it learns nothing, is used on), and the weights that it
/// starts from.
///
/// # Errors
/// If its weights do not fit.
pub(super) fn start(node: &Node, images: &ImageSet) -> Result<(Shape, Option<Fitted>)> {
    let (channels, height, width) = (images.channels, images.height, images.width);
    let mut shape = Shape { channels, height, width, classes: images.classes };
    let Some(published) = &node.weights else { return Ok((shape, None)) };
    let tensors = weights::read(&published.path)?;
    if node.train.is_none() {
        // Test images need not be of all classes.
        let any = Shape { classes: shape.classes.max(1), ..shape };
        shape.classes = wanted(node, any)?.classes(&tensors)?.unwrap_or(any.classes);
        check_classes(node, images, shape.classes, published)?;
    }
    let fitted = wanted(node, shape)?.fit(tensors, published.head, &published.path)?;
    Ok((shape, Some(fitted)))
}

/// Refuses a loss that cannot be had of the grid that a model has on these images, whose size a file need not say.
fn refuse_grid(node: &Node, size: [usize; 2]) -> Result<()> {
    let grid = node.model.grid(size).filter(|_| node.train.is_some());
    let name = node.name();
    match grid.and_then(|grid| node.loss.problems_on(grid).into_iter().next()) {
        Some((term, (key, message))) => Err(Error::input(format!("networks.{name}.loss.{term}.{key}: {message}"))),
        None => Ok(()),
    }
}

/// Refuses to tell a model the classes of images that have none, or one.
pub(super) fn refuse_classes(node: &Node, images: &ImageSet) -> Result<()> {
    if !node.model.is_told_classes() || node.train.is_none() || images.classes > 1 && images.labels.is_some() {
        return Ok(());
    }
    let (name, set) = (node.name(), &images.name);
    let message = format!("networks.{name}.model: \"{set}\" has no classes that the model could be told");
    Err(Error::input(message).hint("leave `classes` of the model out"))
}

/// The tensors of a node's model.
fn wanted(node: &Node, shape: Shape) -> Result<Wanted> {
    let (model, names) = (node.model.clone(), node.model.clone());
    // What is used as it is must be whole.
    let own = node.model.own().filter(|_| node.train.is_some());
    let wanted =
        Wanted::of(Arc::new(move |shape, vb| model.build(shape, vb).map(|_| ())), node.model.backbone(), shape)?;
    Ok(wanted.but(own).named_by(Arc::new(move |theirs| names.our_name(theirs))))
}

/// Refuses a set of several classes that are not those of the weights' head: a class would stand for another one, or for none.
fn check_classes(node: &Node, images: &ImageSet, classes: usize, published: &Published) -> Result<()> {
    let tells = node.model.shows().contains(&Output::Logits);
    // A set of one class asks nothing of a head: what is read is what comes before it.
    if !(tells || node.model.is_told_classes()) || node.train.is_none() && images.classes <= 1 {
        return Ok(());
    }
    let name = &node.data.name;
    let by_folder = node.data.format == Some(Format::ClassFolders);
    let known = data::classes(&node.data).or(by_folder.then_some(images.classes)).filter(|known| *known != classes);
    let beyond = images.labels.iter().flatten().find(|label| **label as usize >= classes);
    let what = match (known, beyond) {
        (Some(known), _) => format!("\"{name}\" has {known}"),
        (None, Some(label)) => format!("\"{name}\" has images of class {label}, counted from 0"),
        (None, None) => return Ok(()),
    };
    let path = published.path.display();
    if !tells {
        return Err(Error::input(format!("the weights {path} are told {classes} classes where {what}"))
            .hint("leave `classes` of the model out where the weights have none, or train it on these images"));
    }
    Err(Error::input(format!("the head of the weights {path} has {classes} classes where {what}"))
        .hint("`weights: { file: …, head: new }` with `train` learns a head for the classes of the data"))
}

/// Puts weights into a network's parameters; a head that they lack stays as it started.
pub(super) fn put(fitted: Fitted, params: &Params, path: &Path) -> Result<()> {
    let mut state = params.all()?;
    state.extend(fitted.tensors);
    params.load(&state, path)
}
