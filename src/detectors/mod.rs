//! Detectors: what turns a network's outputs into scores. Larger means more anomalous, everywhere.
//!
//! A detector is one file: its settings, a pure function, and the two impls. It is listed once, in `registry!` below;
//! the contract tests in `tests/detectors.rs` then cover it.

mod about;
pub mod adascale;
pub mod afdu;
pub mod ash;
pub mod cfood;
pub mod coreset;
pub mod ddpm_ood;
pub mod ddu;
mod denoising;
pub mod denoising_error;
mod describe;
pub mod dice;
pub mod diffood;
pub mod diffpath;
pub mod duq;
pub mod elbo_ratio;
pub mod energy;
pub mod fdbd;
pub mod feature_denoising;
pub mod feature_file;
pub mod gaussian;
pub mod r#gen;
#[cfg(test)]
mod golden_maps;
pub mod gradnorm;
pub mod gram;
pub mod grood;
pub mod inputs;
pub mod kl_matching;
pub mod knn;
pub mod kpca;
pub mod lts;
pub mod mahalanobis;
pub mod map;
pub mod max_logit;
pub mod msp;
pub mod mutual_information;
pub mod nac;
pub mod nci;
pub mod neco;
pub mod nnguide;
pub mod odin;
pub mod openmax;
pub mod ora;
mod own_map;
pub mod padim;
mod parts;
pub mod patch_svdd;
pub mod patchcore;
mod patches;
pub mod pgd;
pub mod pnml;
pub mod pushed;
pub mod rankfeat;
pub mod react;
pub mod reconstruction_change;
mod record;
mod registry;
pub mod relation;
mod resample;
pub mod residual;
pub mod rmds;
mod rows;
pub mod scale;
mod scores;
pub mod shaping;
pub mod she;
mod similarity;
pub mod sngp;
pub mod softmax_entropy;
pub mod stages;
pub mod temperature_scaling;
pub mod views;
pub mod vim;
pub mod vra;
pub mod weiper;
mod windows;

pub use about::{About, Check, Refusal, Smoke};
pub use denoising::Denoises;
pub use inputs::Inputs;
pub use pushed::{Fitting, Learner, Pushed, Scoring};
pub use record::in_words;
pub use rows::classified;
pub use scores::{Maps, Scores};

use std::{any::Any, fmt, ops::Range, path::Path, sync::Arc};

use candle_core::{Device, Tensor};

use crate::{
    Error, Result,
    nn::{Head, Output, Shown, heads, pass::Layer},
    ops::Activation,
};

use registry::{file, name};
use rows::{
    Peak, argmax, centred, check_memory, class_means, distance, finite, finite_from, first_not_finite, in_f64,
    log_softmax, map_both, map_rows, map_rows_from, mean_row, normalised, numbers, of_each, relative, same, score_rows,
    with_values,
};

registry::registry! {
    /// One minus the maximum softmax probability (Hendrycks & Gimpel 2017).
    Msp = msp,
    /// Shannon entropy of the softmax.
    SoftmaxEntropy = softmax_entropy,
    /// The negated maximum logit (Hendrycks et al. 2022).
    MaxLogit = max_logit,
    /// The free energy of the logits (Liu et al. 2020).
    Energy = energy,
    /// How much the members of a deep ensemble disagree (Lakshminarayanan et al. 2017).
    MutualInformation = mutual_information,
    /// The distance to the nearest centroid of a DUQ network (van Amersfoort et al. 2020).
    Duq = duq,
    /// Distance to the k-th nearest train image's features (Sun et al. 2022).
    Knn = knn,
    /// Anomaly factors of every neuron (AFDU).
    Afdu = afdu,
    /// The features' density under one Gaussian for each class (Mukhoti et al. 2023).
    Ddu = ddu,
    /// The uncertainty of logits that shrink with the last layer's variance (Liu et al. 2020).
    Sngp = sngp,
    /// The energy after features are clipped from above (ReAct, Sun et al. 2021).
    React = react,
    /// The energy by the last layer's weights that contribute most (Sun & Li 2022).
    Dice = dice,
    /// The energy of an image's largest features alone (Djurisic et al. 2023).
    Ash = ash,
    /// The energy after features are scaled by how far the largest dominate (Xu et al. 2024).
    Scale = scale,
    /// The energy of logits that are scaled by how far the largest features dominate (LTS, Djurisic et al. 2025).
    Lts = lts,
    /// The energy after features or logits are scaled as much as each image suggests (AdaSCALE, Regmi 2025).
    Adascale = adascale,
    /// The energy after features are clipped from both sides (Xu et al. 2023).
    Vra = vra,
    /// How unusual the features, and the logits of perturbed last layers, are as a whole (WeiPer+KLD, Granz et al. 2024).
    Weiper = weiper,
    /// How far channels go together otherwise than usual, in every layer (Sastry & Oore 2020).
    Gram = gram,
    /// The energy without the strongest pattern of the last feature maps (RankFeat, Song et al. 2022).
    Rankfeat = rankfeat,
    /// A generalised entropy of the softmax (Liu et al. 2023).
    Gen = r#gen,
    /// The divergence from the nearest class's usual softmax (Hendrycks et al. 2022).
    KlMatching = kl_matching,
    /// The maximum softmax probability of calibrated logits (Guo et al. 2017).
    TemperatureScaling = temperature_scaling,
    /// The Mahalanobis distance to the nearest class (Lee et al. 2018).
    Mahalanobis = mahalanobis,
    /// The Mahalanobis distance to the nearest class, less that to all train images as one (Ren et al. 2021).
    Rmds = rmds,
    /// How far features lie off the train images' main directions (Wang et al. 2022).
    Residual = residual,
    /// How far features lie off the train images' main directions, against the logits (Wang et al. 2022).
    Vim = vim,
    /// How little of the features lies along the train images' main directions (NECO, Ben Ammar et al. 2024).
    Neco = neco,
    /// How far mapped features lie off the train images' main directions (CoP and CoRP, Fang et al. 2024).
    Kpca = kpca,
    /// The norm of the last layer's gradient towards uniformity (Huang et al. 2021).
    Gradnorm = gradnorm,
    /// How a prototype of strange images would move for the image (GROOD, ElAraby et al. 2023).
    Grood = grood,
    /// The distance to decision boundaries (Liu & Qin 2024).
    Fdbd = fdbd,
    /// The widest angle to a decision boundary, seen from the train images' centre (ORA, Demirel et al. 2025).
    Ora = ora,
    /// How far features point along their class's weights (Liu & Qin 2025).
    Nci = nci,
    /// How much of the class's mean pattern the features hold (SHE, Zhang et al. 2023).
    She = she,
    /// The energy, guided by the nearest train images (Park et al. 2023).
    Nnguide = nnguide,
    /// How far neighbourhoods of train images have to grow to hold an image (CF-OOD, Angiulli et al. 2025).
    Cfood = cfood,
    /// The regret of a learner that would have had to know the class (pNML, Bibas et al. 2021).
    Pnml = pnml,
    /// How many train images are related by features and softmax (Kim et al. 2023).
    Relation = relation,
    /// The log-odds of an unknown class (Bendale & Boult 2016).
    Openmax = openmax,
    /// The scaled softmax after a step towards the likeliest class (Liang et al. 2018).
    Odin = odin,
    /// How usual each neuron's part in the network's certainty is (Liu et al. 2024).
    Nac = nac,
    /// How far a network's answer changes when a second network makes the image again (what is left of DiffOOD without levels).
    ReconstructionChange = reconstruction_change,
    /// How sharply a network's answer changes under denoising (DiffOOD, Liu et al. 2022).
    Diffood = diffood,
    /// How far the noise that a diffusion model predicts is from the one that was added.
    DenoisingError = denoising_error,
    /// How wrong a denoiser of the train images' features is about an image's.
    FeatureDenoising = feature_denoising,
    /// How usual the way from an image to noise is (DiffPath, Heng et al. 2024).
    Diffpath = diffpath,
    /// What an image's content costs a diffusion model, against its detail (Goodier & Campbell 2023).
    ElboRatio = elbo_ratio,
    /// How far images made again from ever more noise are from themselves (DDPM-OOD, Graham et al. 2023).
    DdpmOod = ddpm_ood,
    /// The distance to one Gaussian of the train images' features, or of those of their windows (CutPaste, Li et al. 2021).
    Gaussian = gaussian,
    /// The distance of every position's features to a Gaussian of the train images' there (Defard et al. 2021).
    Padim = padim,
    /// The distance of every position's features to the nearest of a memory bank (PatchCore, Roth et al. 2022).
    Patchcore = patchcore,
    /// The distance of windows' features to the nearest of all train images' windows (Patch SVDD, Yi & Yoon 2020).
    PatchSvdd = patch_svdd,
    /// The map that the model itself makes of an image.
    Map = own_map,
}

/// The outputs of one network on one set, computed once and shared by every detector.
#[derive(Debug, Clone)]
pub struct Bank {
    /// (N, K) f32 logits on the CPU; of an ensemble, ln of its members' mean softmax.
    pub logits: Tensor,
    /// (N, D) f32 penultimate features on the CPU; of an ensemble, those of its members one after another.
    pub features: Tensor,
    /// (N, M, K) f32 logits of the M members of an ensemble, on the CPU.
    pub members: Option<Tensor>,
    /// (N) classes, for labelled sets.
    pub labels: Option<Vec<u32>>,
    /// The same images batch by batch, with what is too much to hold: stages, layers and maps.
    pub batches: Option<Arc<dyn Batches>>,
    /// The network and the images, to run it again or to differentiate one by the other.
    pub inputs: Option<Arc<dyn Inputs>>,
    /// The second network and the same images as it takes them, for a detector that [reads](Detector::second) one.
    pub second: Option<Arc<dyn Inputs>>,
}

impl Bank {
    /// Logits and features alone.
    pub fn new(logits: Tensor, features: Tensor) -> Self {
        Self { logits, features, members: None, labels: None, batches: None, inputs: None, second: None }
    }

    /// The same of the images at these positions, in this order.
    ///
    /// # Errors
    /// If there is no such image.
    pub fn subset(&self, images: &[usize]) -> Result<Self> {
        let indices: Vec<u32> = images.iter().map(|image| *image as u32).collect();
        let indices = Tensor::from_vec(indices, images.len(), &Device::Cpu)?;
        Ok(Self {
            logits: self.logits.index_select(&indices, 0)?,
            features: self.features.index_select(&indices, 0)?,
            members: self.members.as_ref().map(|members| members.index_select(&indices, 0)).transpose()?,
            labels: self.labels.as_ref().map(|labels| images.iter().map(|image| labels[*image]).collect()),
            batches: self.batches.as_ref().map(|batches| batches.subset(images)).transpose()?,
            inputs: self.inputs.as_ref().map(|inputs| inputs.subset(images)).transpose()?,
            second: self.second.as_ref().map(|inputs| inputs.subset(images)).transpose()?,
        })
    }

    /// The images batch by batch, for a detector that reads stages, layers or maps.
    ///
    /// # Errors
    /// [`Error::Failed`] if there are none.
    pub fn batches(&self) -> Result<&dyn Batches> {
        let missing =
            || Error::Failed("the detector needs what the network shows of batches, and there is nothing".into());
        self.batches.as_deref().ok_or_else(missing)
    }

    /// The network and the images, for a detector that needs them.
    ///
    /// # Errors
    /// [`Error::Failed`] if there are none.
    pub fn inputs(&self) -> Result<&dyn Inputs> {
        let missing = || Error::Failed("the detector needs the network and the images, and there are none".into());
        self.inputs.as_deref().ok_or_else(missing)
    }

    /// The second network and the images, for a detector that reads one.
    ///
    /// # Errors
    /// [`Error::Failed`] if there are none.
    pub fn second(&self) -> Result<&dyn Inputs> {
        let missing = || Error::Failed("the detector needs a second network, and there is none".into());
        self.second.as_deref().ok_or_else(missing)
    }
}

/// What a network shows of one image set, read in passes over it. Layers stand before their non-linearity or after it.
pub trait Batches: fmt::Debug + Send + Sync {
    /// N.
    fn images(&self) -> usize;
    /// The layers' names and sizes, from input to output.
    fn layers(&self) -> Result<Vec<LayerShape>>;
    /// Calls `each` with the position of a batch's first image and the batch, in order of the images. Without `layers` none need be
    /// there, which saves time and memory. `what` names the pass on its progress bar.
    ///
    /// # Errors
    /// Those of `each`; [`Error::Interrupted`] between batches when the user asks to stop.
    fn pass(&self, what: &str, layers: bool, each: &mut dyn FnMut(usize, &Shown) -> Result<()>) -> Result<()>;
    /// Rows and columns of the images as the network takes them, if they are known.
    fn image_size(&self) -> Option<[usize; 2]> {
        None
    }
    /// Calls `each` with ranges that cover `0..steps` one after the other: work on what a pass gave, under a progress bar that
    /// `what` names.
    ///
    /// # Errors
    /// Those of `each`; [`Error::Interrupted`] between ranges when the user asks to stop.
    fn work(&self, _what: &str, steps: usize, each: &mut dyn FnMut(Range<usize>) -> Result<()>) -> Result<()> {
        each(0..steps)
    }
    /// The images at these positions, in this order.
    fn subset(&self, images: &[usize]) -> Result<Arc<dyn Batches>>;
}

/// A layer's name and size.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerShape {
    /// As [`Layer::name`].
    pub name: String,
    /// (C, H, W) or (D).
    pub dims: Vec<usize>,
    /// The non-linearity that follows.
    pub activation: Activation,
}

impl From<&Layer> for LayerShape {
    fn from(layer: &Layer) -> Self {
        Self { name: layer.name.clone(), dims: layer.values.dims()[1..].to_vec(), activation: layer.activation }
    }
}

/// What of the train images a detector learns from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learns {
    /// Nothing: it only scores.
    Nothing,
    /// What the network shows of them.
    Images,
    /// The same, and their classes.
    LabelledImages,
}

/// What a detector may learn from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Fit<'a> {
    /// The in-distribution train set; `None` unless the detector [learns](Detector::learns) of it.
    pub train: Option<&'a Bank>,
    /// The network's last linear layer, if it has one.
    pub head: Option<&'a Head>,
    /// Bytes that the fit may hold at a time.
    pub memory: usize,
    /// A folder for what an interrupted fit goes on from; the caller removes it after the fit.
    pub scratch: Option<&'a Path>,
    /// Where the network runs, and a detector that has work for a GPU may do it; `None`: on the CPU. Scores do not depend on it.
    pub device: Option<&'a Device>,
}

impl<'a> Fit<'a> {
    /// The train set and its classes, for a detector that needs both.
    ///
    /// # Errors
    /// [`Error::Failed`] if the caller did not give them.
    pub fn labelled_train(&self) -> Result<(&'a Bank, &'a [u32])> {
        let train = self.train()?;
        match &train.labels {
            Some(labels) => Ok((train, labels)),
            None => Err(Error::Failed("the detector needs the train images' classes, and there are none".into())),
        }
    }

    /// The train set, for a detector that needs it.
    ///
    /// # Errors
    /// [`Error::Failed`] if the caller gave none.
    pub fn train(&self) -> Result<&'a Bank> {
        self.train.ok_or_else(|| Error::Failed("the detector needs the train set, and there is none".into()))
    }

    /// The last linear layer, for a detector that needs it.
    ///
    /// # Errors
    /// [`Error::Input`] if the network has none.
    pub fn head(&self) -> Result<&'a Head> {
        self.head.ok_or_else(|| {
            let message =
                "the detector needs the last linear layer, and the network's logits are not linear in its features";
            Error::input(message).hint("take a network with the usual head")
        })
    }
}

/// The second network of a detector that reads two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Second<'a> {
    /// The setting that names it.
    pub key: &'static str,
    /// Its name in the experiment, once one is given.
    pub network: Option<&'a str>,
    /// What it has to show.
    pub needs: &'static [Output],
}

/// Learns what it needs from in-distribution train data, and yields something that can score.
pub trait Detector {
    /// What it reads of the images to score, and of train images if it learns of them: all of it has to be among what the model shows.
    fn needs(&self) -> &'static [Output];
    /// What of the train images it learns from. Without it they are not run through the network.
    fn learns(&self) -> Learns {
        Learns::Nothing
    }
    /// The same as one that is shown batches, if all it reads of images, train images included, comes with them: it then shares others'
    /// forward passes. Layers are seen after their non-linearity.
    fn pushed(&self) -> Option<&dyn Pushed> {
        None
    }
    /// Of a detector that gives a map of each image: how the map is brought to the images' size, and what an image is scored by.
    fn post(&self) -> Option<map::Post> {
        None
    }
    /// Rows and columns of its maps, of a network that gives these outputs; `None` without maps, or of a network that it does not fit.
    fn grid(&self, _shown: &Shown) -> Option<[usize; 2]> {
        None
    }
    /// The network that it reads beside its own, if one of its settings names one. It is trained first, and the scores are of both.
    fn second(&self) -> Option<Second<'_>> {
        None
    }
    /// What of it depends on the network, or on how many train images there are. `None` where nothing does.
    fn depends(&self) -> Option<Check<'_>> {
        None
    }
    /// How often it runs such a denoiser for each image that it scores; `None` of one that runs none.
    fn evaluations(&self, _denoises: Denoises) -> Option<usize> {
        None
    }
    /// Why `all` leaves it out for a network with this head, in words that follow its name.
    fn left_out(&self, _head: &heads::Head) -> Option<&'static str> {
        self.post().map(|_| "gives a map of each image, and takes memory by their size: name it to have it")
    }
    /// What figures can show of its fit.
    fn views(&self) -> Option<&dyn views::Views> {
        None
    }
    /// Refuses settings that have no effect on a feature file, whose layers are taken as they are.
    ///
    /// # Errors
    /// [`Error::Input`] naming the setting.
    fn check_on_file(&self) -> Result<()> {
        Ok(())
    }
    /// Which layers of a feature file it reads, by their places; `None` of a detector that takes them as they are.
    ///
    /// # Errors
    /// [`Error::Input`] naming a layer that is not there.
    fn chooses(&self, _layers: &[LayerShape]) -> Result<Option<Vec<usize>>> {
        Ok(None)
    }
    /// Becomes what seconds and a few images suffice for.
    fn smoke(&mut self, _smoke: &mut Smoke<'_>) {}
    /// Learns.
    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>>;
}

/// Scores images by their outputs. What else a detector learned is a matter of its own type, which [`Any`] finds.
pub trait Scorer: Any {
    /// One score per row of the bank. A row's score does not depend on the other rows.
    fn score(&self, bank: &Bank) -> Result<Scores>;
    /// Refuses a fit by which every image has the same score.
    ///
    /// # Errors
    /// [`Error::Input`] saying what it learned from.
    fn check_fit(&self) -> Result<()> {
        Ok(())
    }
    /// The scores of a set whose batches are shown to it, of a detector that is [`Pushed`].
    ///
    /// # Errors
    /// [`Error::Failed`] for any other detector; if it cannot score these images.
    fn scoring<'a>(&'a self, _images: &dyn Batches) -> Result<Box<dyn Scoring + 'a>> {
        Err(Error::Failed("the detector reads sets, not batches".into()))
    }
    /// What a person who reads the scores should know about the fit: it is kept beside them.
    fn record(&self) -> Option<serde_json::Value> {
        None
    }
}
