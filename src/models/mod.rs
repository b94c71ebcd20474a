//! Models: what learns from batches and shows named outputs. One file each, with its settings.

pub mod autoencoder;
pub mod classifier;
pub mod cutpaste;
pub mod diffusion;
pub mod efficient_ad;
pub mod fcdd;
pub mod features;
mod freeze;
pub mod fusion;
pub mod metaformer;
pub mod patch_description;
pub mod patch_svdd;
pub mod reverse_distillation;
pub mod simplenet;
mod stages;
pub mod stfpm;
pub mod students;
pub mod taken;
mod teacher;
pub mod tiled;
pub mod uninformed_students;

pub use freeze::Freeze;

use candle_nn::VarBuilder;

use crate::{
    Error, Result,
    data::Normalisation,
    nn::{Backbone, Model, Output, Shape},
    yaml::{problems::Problem, registry::registry},
};

/// What a model is, as its settings say.
pub trait Kind: Sized + Clone + 'static {
    /// Short names and the settings that they stand for.
    const PRESETS: &[(&str, Self)] = &[];

    /// What it shows.
    fn shows(&self) -> Vec<Output>;

    /// The model, for images and classes of `shape`, with parameters from `vb`.
    ///
    /// # Errors
    /// [`Error::Input`] when images of this shape do not fit it.
    fn build(&self, shape: Shape, vb: VarBuilder) -> Result<Box<dyn Model>>;

    /// The backbone, for published weights and what they were trained with.
    fn backbone(&self) -> Option<&Backbone> {
        None
    }

    /// Our name for another program's name of a parameter.
    fn our_name(&self, theirs: &str) -> Option<String> {
        self.backbone().and_then(|backbone| backbone.our_name(theirs))
    }

    /// What its images are normalised by, with so many channels, whatever the data's mean and deviation are; `None`: by these.
    fn normalisation(&self, _channels: usize) -> Option<Normalisation> {
        None
    }

    /// Whether it is told the classes of images while it learns, whatever its loss is.
    fn is_told_classes(&self) -> bool {
        false
    }

    /// T, the steps of the schedule of a diffusion model; `None` of any other.
    fn schedule_steps(&self) -> Option<usize> {
        None
    }

    /// What stands before the names of the parameters that published weights of the backbone lack: they start anew. `None`: of no other
    /// than a head.
    fn own(&self) -> Option<&'static str> {
        None
    }

    /// What decides what it makes of images before anything that learns, beside the weights; `None` if all of it learns.
    fn fixed(&self) -> Option<serde_json::Value> {
        None
    }

    /// Bytes of what is [fixed](Kind::fixed) of an image with so many rows and columns; `None` where nothing is.
    fn fixed_bytes(&self, _size: [usize; 2]) -> Option<usize> {
        None
    }

    /// Why its backbone keeps its first weights, and what to do where these are random; `None` where all of it learns.
    fn frozen(&self) -> Option<String> {
        None
    }

    /// What is wrong with its settings for images of so many rows and columns, each at its key; where these are not known yet, what is
    /// wrong whatever they are.
    fn problems(&self, _size: Option<[usize; 2]>) -> Vec<Problem> {
        Vec::new()
    }

    /// Rows and columns of the positions that losses of pixels are of, for images of this size; `None` of a model without.
    fn grid(&self, _size: [usize; 2]) -> Option<[usize; 2]> {
        None
    }

    /// Rows and columns of the square windows that it learns, one of each image; `None` of a model that learns whole images.
    fn window(&self) -> Option<usize> {
        None
    }

    /// How many makers of outliers it tells apart; `None` of a model that tells none.
    fn makers(&self) -> Option<usize> {
        None
    }

    /// The same written in one way, if there are several: what is equal has one identity.
    #[must_use]
    fn canonical(self) -> Self {
        self
    }

    /// What plans and folders call it.
    fn label(&self, name: &str) -> String {
        name.to_owned()
    }

    /// Rows and columns of images, at least.
    fn least_side(&self) -> usize {
        self.backbone().map_or(1, Backbone::least_side)
    }

    /// Rows and columns of the patches that images have a whole number of; 1 where any size goes.
    fn patch(&self) -> usize {
        self.backbone().map_or(1, Backbone::patch)
    }

    /// What stands for it where its weights are not there and it has to learn: itself, unless nothing of it could.
    fn learning(&self) -> Option<ModelConfig> {
        None
    }

    /// What stands for it in a smoke run, unless its weights are published ones.
    #[must_use]
    fn smoke(self) -> Self {
        self
    }

    /// What stands for it on the small images of a smoke run where its weights are published ones.
    #[must_use]
    fn on_small_images(self) -> Self {
        self
    }
}

registry! {
    /// A model: its kind, with its settings.
    pub enum ModelConfig: Kind, "a model's kind, or a map of its kind and settings" {
        /// A backbone and a last layer that tells classes: what `backbone` and the keys beside it are short for.
        Classifier = "classifier" in classifier,
        /// A backbone without a last layer: what frozen features are read from.
        Features = "features" in features,
        /// An autoencoder of convolutions: an image is anomalous where it cannot be made again.
        Autoencoder = "autoencoder" in autoencoder,
        /// Textures of a backbone's low stages and the meaning of a high one, fused, with a score of every position.
        Fusion = "fusion" in fusion,
        /// FCDD: a backbone up to a stage, and the distance of one number of each position from the origin.
        Fcdd = "fcdd" in fcdd,
        /// MF, our reading of Metaformer: a transformer makes patches again, and attention of the image's own weighs its errors.
        Metaformer = "metaformer" in metaformer,
        /// Reverse distillation (RD): a student makes a frozen backbone's stages again from a narrow embedding of them.
        ReverseDistillation = "reverse_distillation" in reverse_distillation,
        /// SimpleNet: a discriminator of a frozen backbone's features and the same with noise.
        Simplenet = "simplenet" in simplenet,
        /// STFPM: a student of a frozen backbone's own kind learns its stages.
        Stfpm = "stfpm" in stfpm,
        /// A small network that describes patches, distilled from a frozen backbone: the teacher of those that follow.
        PatchDescription = "patch_description" in patch_description,
        /// EfficientAD: a student and an autoencoder learn a teacher's descriptions of patches.
        EfficientAd = "efficient_ad" in efficient_ad,
        /// Uninformed students (US): several learn a teacher's descriptions of patches, and differ where an image is not normal.
        UninformedStudents = "uninformed_students" in uninformed_students,
        /// Any of these on tiles of large images.
        Tiled = "tiled" in tiled,
        /// CutPaste: a backbone that learns which maker of pseudo-anomalies changed an image, seen whole or window by window.
        Cutpaste = "cutpaste" in cutpaste,
        /// A diffusion model: a U-Net that tells images from the noise in them, for detectors and samplers that denoise.
        Diffusion = "diffusion" in diffusion,
        /// Patch SVDD: embeddings of patches of two sizes, to be compared with those of all train images.
        PatchSvdd = "patch_svdd" in patch_svdd,
    }
}

impl ModelConfig {
    /// As [`Kind::shows`].
    pub fn shows(&self) -> Vec<Output> {
        of_settings!(self, settings => settings.shows())
    }

    /// As [`Kind::build`].
    ///
    /// # Errors
    /// As there.
    pub fn build(&self, shape: Shape, vb: VarBuilder) -> Result<Box<dyn Model>> {
        if [shape.channels, shape.height, shape.width].contains(&0) {
            return Err(Error::input(format!("no network can be built for {shape:?}: every size must be at least 1")));
        }
        of_settings!(self, settings => settings.build(shape, vb))
    }

    /// As [`Kind::backbone`].
    pub fn backbone(&self) -> Option<&Backbone> {
        of_settings!(self, settings => settings.backbone())
    }

    /// As [`Kind::our_name`].
    pub fn our_name(&self, theirs: &str) -> Option<String> {
        of_settings!(self, settings => settings.our_name(theirs))
    }

    /// As [`Kind::normalisation`].
    pub fn normalisation(&self, channels: usize) -> Option<Normalisation> {
        of_settings!(self, settings => settings.normalisation(channels))
    }

    /// As [`Kind::is_told_classes`].
    pub fn is_told_classes(&self) -> bool {
        of_settings!(self, settings => settings.is_told_classes())
    }

    /// As [`Kind::schedule_steps`].
    pub fn schedule_steps(&self) -> Option<usize> {
        of_settings!(self, settings => settings.schedule_steps())
    }

    /// As [`Kind::own`].
    pub fn own(&self) -> Option<&'static str> {
        of_settings!(self, settings => settings.own())
    }

    /// As [`Kind::fixed`].
    pub fn fixed(&self) -> Option<serde_json::Value> {
        of_settings!(self, settings => settings.fixed())
    }

    /// As [`Kind::fixed_bytes`].
    pub fn fixed_bytes(&self, size: [usize; 2]) -> Option<usize> {
        of_settings!(self, settings => settings.fixed_bytes(size))
    }

    /// As [`Kind::frozen`].
    pub fn frozen(&self) -> Option<String> {
        of_settings!(self, settings => settings.frozen())
    }

    /// As [`Kind::problems`].
    pub fn problems(&self, size: Option<[usize; 2]>) -> Vec<Problem> {
        of_settings!(self, settings => settings.problems(size))
    }

    /// As [`Kind::grid`].
    pub fn grid(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        of_settings!(self, settings => settings.grid(size))
    }

    /// As [`Kind::window`].
    pub fn window(&self) -> Option<usize> {
        of_settings!(self, settings => settings.window())
    }

    /// As [`Kind::makers`].
    pub fn makers(&self) -> Option<usize> {
        of_settings!(self, settings => settings.makers())
    }

    /// As [`Kind::canonical`].
    #[must_use]
    pub fn canonical(mut self) -> Self {
        of_settings!(&mut self, settings => *settings = settings.clone().canonical());
        self
    }

    /// As [`Kind::label`].
    pub fn label(&self) -> String {
        of_settings!(self, settings => settings.label(self.name()))
    }

    /// As [`Kind::least_side`].
    pub fn least_side(&self) -> usize {
        of_settings!(self, settings => settings.least_side())
    }

    /// As [`Kind::patch`].
    pub fn patch(&self) -> usize {
        of_settings!(self, settings => settings.patch())
    }

    /// As [`Kind::learning`].
    #[must_use]
    pub fn learning(self) -> Self {
        of_settings!(&self, settings => settings.learning()).unwrap_or(self)
    }

    /// Whether it can be trained.
    pub fn learns(&self) -> bool {
        self.clone().learning() == *self
    }

    /// As [`Kind::smoke`], or of one whose weights are `published`, [`Kind::on_small_images`].
    #[must_use]
    pub fn smoke(self, published: bool) -> Self {
        fn of<K: Kind>(settings: &mut K, published: bool) {
            let model = settings.clone();
            *settings = if published { model.on_small_images() } else { model.smoke() };
        }
        let mut model = self;
        of_settings!(&mut model, settings => of(settings, published));
        model
    }
}

/// The least number that both divide; of numbers beyond all sizes, one beyond them.
pub(crate) fn common_multiple(one: usize, other: usize) -> usize {
    let (mut divisor, mut rest) = (one.max(1), other.max(1));
    while rest > 0 {
        (divisor, rest) = (rest, divisor % rest);
    }
    (one.max(1) / divisor).saturating_mul(other.max(1))
}
