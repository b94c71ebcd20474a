//! The keys of an experiment file.
//!
//! Every struct refuses unknown keys, every number has a range, and every default says where it comes from. A key that
//! changes a result is part of a network's identity; a key that does not (checkpoint cadence, figures) is not.

use std::collections::BTreeMap;

use garde::Validate;
use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    config::{
        methods::MethodEntry,
        search::{HeldOut, Validation},
        tables::{Evaluation, Figure, Redraw, Sampling, Table},
        tasks::{Categories, DataKeys},
    },
    data::Dataset,
    losses::Loss,
    models::ModelConfig,
    nn::{
        Architecture, Backbone, Nonlinearity, Output,
        architecture::Shortcut,
        heads::Head,
        spectral_norm,
        weights::{Normalise, Weights},
    },
    train::Train,
    yaml::named::is_default,
};

/// An experiment: data, networks, the methods that score with them, and the tables and figures to make of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// One line, printed by `list` and above the tables.
    #[garde(length(min = 1))]
    pub title: String,
    /// What the experiment shows, what it costs, and what is known about its result.
    #[garde(skip)]
    #[serde(default)]
    pub about: String,
    /// One full repetition (initial weights, batch order, augmentation, draws) per seed.
    #[garde(length(min = 1))]
    #[serde(default = "default_seeds")]
    pub seeds: Vec<u64>,
    /// The in-distribution data and the sets to tell from it.
    #[garde(dive)]
    pub data: Data,
    /// Networks by name; one may start `from` another.
    #[garde(length(min = 1), dive)]
    pub networks: BTreeMap<String, Network>,
    /// A method is a network and the detector that reads it.
    #[garde(length(min = 1), dive)]
    pub methods: Vec<MethodEntry>,
    /// How scores become numbers.
    #[garde(dive)]
    #[serde(default)]
    pub evaluation: Evaluation,
    /// A grid: path of a key below `networks`, `methods` or `evaluation`, values to try.
    /// `networks.tuned.loss.sparsity.weight: [0, 0.01]`
    #[garde(skip)]
    #[serde(default)]
    pub sweep: IndexMap<String, Vec<serde_json::Value>>,
    /// The tables to print and write.
    #[garde(dive)]
    #[serde(default)]
    pub tables: Vec<Table>,
    /// The figures to draw.
    #[garde(dive)]
    #[serde(default)]
    pub figures: Vec<Figure>,
}

fn default_seeds() -> Vec<u64> {
    vec![0]
}

/// The data of an experiment; what they may say is [`DataKeys`](crate::config::tasks::DataKeys).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(try_from = "DataKeys", into = "DataKeys")]
pub struct Data {
    /// The in-distribution set; of a folder of categories, what all of them have in common.
    #[garde(dive)]
    pub id: Dataset,
    /// Out-of-distribution sets.
    #[garde(dive)]
    pub ood: Vec<Dataset>,
    /// Covariate-shifted ID sets.
    #[garde(dive)]
    pub shifted: Vec<Dataset>,
    /// Auxiliary outliers.
    #[garde(dive)]
    pub outliers: Option<Dataset>,
    /// Data to choose settings on.
    #[garde(dive)]
    pub validation: Option<Validation>,
    /// Which categories of a folder in MVTec's layout are tasks of their own; `None` of a single task.
    #[garde(skip)]
    pub categories: Option<Categories>,
}

/// The name of the OOD set of the classes that are held out.
pub const HELD_OUT: &str = "held_out";

impl Data {
    /// The OOD sets: those of the file, and the classes of the ID set that are held out.
    pub fn ood_sets(&self) -> Vec<Dataset> {
        self.ood.iter().cloned().chain(self.held_out()).collect()
    }

    /// The classes of the ID set that are held out, as a set: its test images of them, or all where the configuration divides it.
    fn held_out(&self) -> Option<Dataset> {
        let id = &self.id;
        (!id.held_out.is_empty()).then(|| Dataset {
            name: HELD_OUT.to_owned(),
            of: Some(id.source().to_owned()),
            classes: Some(id.held_out.clone()),
            held_out: Vec::new(),
            split: None,
            ..id.beside()
        })
    }

    /// The sets that are read for choosing settings, the ID set first unless it is part of `id`, what others are made of last.
    pub fn validation_sets(&self) -> impl Iterator<Item = &Dataset> {
        let id = self.validation.as_ref().and_then(|validation| match &validation.id {
            HeldOut::Set(set) => Some(&**set),
            HeldOut::Images(_) | HeldOut::Val(_) => None,
        });
        let ood = self.validation.iter().flat_map(|validation| validation.ood.iter().chain(&validation.made_of));
        id.into_iter().chain(ood)
    }
}

/// A network: how it is built or where it starts, its loss and its training recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Network {
    /// A classifier's layers up to the features. One of `backbone`, `model` and `from` is given, or `model` and `from`.
    #[garde(dive)]
    #[serde(default)]
    pub backbone: Option<Backbone>,
    /// A model of another kind. `backbone` with the keys beside it is short for `model: { classifier: { backbone: … } }`.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelConfig>,
    /// The layer after the features, with `backbone`. Default: the backbone's linear layer.
    #[garde(dive)]
    #[serde(default)]
    pub head: Option<Head>,
    /// A bound on the spectral norm of every convolution and linear layer but the head, with `backbone`. Default: none.
    #[garde(dive)]
    #[serde(default)]
    pub spectral_norm: Option<spectral_norm::Settings>,
    /// The non-linearity, with `backbone`. Default: the backbone's.
    #[garde(skip)]
    #[serde(default)]
    pub activation: Option<Nonlinearity>,
    /// The residual blocks' shortcuts, with `backbone`. Default: the backbone's.
    #[garde(skip)]
    #[serde(default)]
    pub shortcut: Option<Shortcut>,
    /// The network of this experiment whose trained weights this one starts from (fine-tuning). With `model`, those of the parameters whose
    /// names both models have; the others start anew.
    #[garde(skip)]
    #[serde(default)]
    pub from: Option<String>,
    /// Published weights to start from, with `backbone`: a `.safetensors` or `.pth`, or a tag of the hub.
    #[garde(dive)]
    #[serde(default)]
    pub weights: Option<Weights>,
    /// What images are normalised by, with `weights`: `data` (unless given) or `weights`. A network `from` another has that one's.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "is_default")]
    pub normalise: Normalise,
    /// The training recipe. Absent: the weights are used as they are (only with `weights`).
    #[garde(dive)]
    #[serde(default)]
    pub train: Option<Train>,
    /// A data set of its own to learn, with `train`, in place of the ID set: its train split, brought to the ID set's size and channels.
    /// Detectors still learn from the ID set. For features that are learned once and serve many tasks.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Dataset>,
    /// The training objective, a weighted sum of terms.
    #[garde(dive)]
    #[serde(default)]
    pub loss: Loss,
    /// A deep ensemble (Lakshminarayanan et al. 2017, <https://arxiv.org/abs/1612.01474>): so many networks of this recipe,
    /// whose mean softmax is the prediction. 5 in that paper, DDU and AFDU. Member i is the network of seed
    /// `seed + 1000·i`, shared with every experiment that has it. Absent: one network.
    #[garde(range(min = 1, max = MOST_MEMBERS))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<usize>,
}

/// Networks of an ensemble, at most. Ours: far beyond any paper's.
const MOST_MEMBERS: usize = 100;
/// Between the seeds of two members. Ours: experiments count their seeds from 0 and have fewer.
const MEMBER_SEEDS: u64 = 1000;

impl Network {
    /// The model, of a network that says what it is; that of one `from` another is the other's.
    pub fn model(&self) -> Option<ModelConfig> {
        let classifier = |backbone: &Backbone| {
            ModelConfig::Classifier(Architecture {
                backbone: backbone.clone(),
                head: self.head.clone().unwrap_or_default(),
                spectral_norm: self.spectral_norm.clone(),
                activation: self.activation.unwrap_or_default(),
                shortcut: self.shortcut.unwrap_or_default(),
            })
        };
        self.backbone.as_ref().map(classifier).or_else(|| self.model.clone())
    }

    /// What it shows, if it says what it is: of an ensemble only what does not depend on a member's layers.
    pub fn shows(&self) -> Option<Vec<Output>> {
        let mut shown = self.model()?.shows();
        if let Some(members) = self.members {
            shown.retain(|output| [Output::Logits, Output::Features].contains(output));
            if members > 1 {
                shown.push(Output::Members);
            }
        }
        Some(shown)
    }

    /// Whether it learns from the auxiliary outliers of `data.outliers`.
    pub fn learns_auxiliary(&self) -> bool {
        self.train.is_some() && self.loss.of_outliers().next().is_some()
    }

    /// The backbone of its model, if that has one.
    pub fn built_on(&self) -> Option<Backbone> {
        self.model()?.backbone().cloned()
    }

    /// The seeds of the networks that stand for this one in the repetition `seed`: `seed` itself, and of an ensemble one
    /// for each further member, modulo 2⁶⁴.
    pub fn seeds(&self, seed: u64) -> Vec<u64> {
        (0..self.members.unwrap_or(1) as u64).map(|member| seed.wrapping_add(member * MEMBER_SEEDS)).collect()
    }
}

impl Experiment {
    /// The draws to make: those asked for, or energy_ood's where a table is by that protocol.
    pub fn redraw(&self) -> Option<Redraw> {
        let needed = self.tables.iter().any(|table| table.sampled() == Sampling::Redraw);
        self.evaluation.redraw.clone().or_else(|| needed.then(Redraw::default))
    }

    /// The groups of the OOD sets and their members, in the order of the sets.
    pub fn groups(&self) -> IndexMap<&str, Vec<&str>> {
        let mut groups: IndexMap<&str, Vec<&str>> = IndexMap::new();
        for set in &self.data.ood {
            if let Some(group) = &set.group {
                groups.entry(group).or_default().push(&set.name);
            }
        }
        groups
    }
}
