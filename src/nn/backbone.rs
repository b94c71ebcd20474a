//! The list of backbones, and what each says of itself.

use std::fmt;

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};

use crate::{
    Result,
    data::Normalisation,
    nn::{
        Output, Pass, Shape, airbench, architecture::Architecture, convnext, efficientnet, lenet, regnet, resnet,
        resnet_cifar, resnet18_32x32, standard::Survey, swin, vgg, vit, wide_resnet,
    },
    yaml::registry::registry,
};

/// What a backbone is, as its settings say.
pub trait Family: Sized + Clone + 'static {
    /// Short names and the settings that they stand for.
    const PRESETS: &[(&str, Self)] = &[];
    /// Rows and columns of images, at least.
    const LEAST_SIDE: usize = 1;
    /// What it cannot be built with.
    const LACKS: &[Part] = &[];
    /// Whether its features are the means of its last feature maps.
    const POOLS_MAPS: bool = true;
    /// Whether its feature maps have so few pixels that a smoke run can fit each.
    const FEW_PIXELS: bool = false;
    /// Whether layers with weights come before its first stage: they are its [stem](super::pass::STEM).
    const STEM: bool = true;
    /// Whether it takes something from the train images before the first step, as a classifier alone has it do.
    const SURVEYS: bool = false;
    /// Mean and deviation of the RGB images in 0..1 that its published weights were trained with; `None` where there are no such
    /// weights, or they differ in it.
    const NORMALISATION: Option<[[f32; 3]; 2]> = None;

    /// [`Self::NORMALISATION`], or where weights differ in it that of the ones which fit these settings.
    fn normalisation(&self) -> Option<[[f32; 3]; 2]> {
        Self::NORMALISATION
    }

    /// How the ends of timm's tags start, behind the point, of the weights that [`Self::normalisation`] is of; empty: of all that fit.
    fn tags(&self) -> &'static [&'static str] {
        &[]
    }

    /// The layers up to the features, for images of `shape`, with parameters from `vb`.
    ///
    /// # Errors
    /// [`Error::Input`](crate::Error::Input) when images of this shape do not fit the network.
    fn build(&self, architecture: &Architecture, shape: Shape, vb: VarBuilder) -> Result<Box<dyn Extractor>>;

    /// The stages that its layers show, from input to output: their names, and their channels, rows and columns of images with `size` rows
    /// and columns that fit it.
    fn stages(&self, size: [usize; 2]) -> Vec<(String, [usize; 3])>;

    /// Rows and columns of the patches that it cuts images into, which have a whole number of them; 1 where any size goes.
    fn patch(&self) -> usize {
        1
    }

    /// What plans and folders call it; its name unless it is told by its settings.
    fn label(&self, name: &str) -> String {
        name.to_owned()
    }

    /// What loads its weights in Python, for images of so many channels; `None` where no package has this network.
    fn elsewhere(&self, _channels: usize, _classes: usize) -> Option<String> {
        None
    }

    /// Our name for another program's name of a parameter.
    fn our_name(&self, _theirs: &str) -> Option<String> {
        None
    }

    /// What stands for it in a smoke run: as deep, and narrow. `None`: itself.
    fn smoke(&self) -> Option<Backbone> {
        None
    }

    /// What a layer is called in what stands for it in a smoke run.
    fn layer_in_smoke(&self, layer: &str) -> String {
        layer.to_owned()
    }
}

/// A backbone's layers, from images to features.
pub trait Extractor: fmt::Debug + Send + Sync {
    /// Of (N, C, H, W) images: the (N, D) features, and the maps that leave each stage with its name, from input to output.
    ///
    /// # Errors
    /// If the images have another shape.
    fn extract(&self, images: &Tensor, pass: &Pass) -> candle_core::Result<(Tensor, Vec<(String, Tensor)>)>;

    /// The maps that leave the stages up to the one called `last`, which is one of them, and maybe those of later ones; nothing that only
    /// later ones need has to be computed.
    ///
    /// # Errors
    /// As [`Extractor::extract`].
    fn stages_until(&self, images: &Tensor, _last: &str, pass: &Pass) -> candle_core::Result<Vec<(String, Tensor)>> {
        Ok(self.extract(images, pass)?.1)
    }

    /// As [`Model::survey`](super::Model::survey).
    fn survey(&self) -> Option<Survey<'_>> {
        None
    }

    /// The backbone's own last layer for so many classes.
    fn last_layer(&self, classes: usize) -> LastLayerOf;

    /// As [`Model::folded`](super::Model::folded).
    ///
    /// # Errors
    /// If there is no memory for it.
    fn folded(&self) -> candle_core::Result<Box<dyn Extractor>>;
}

/// The stages of a backbone each of whose strides leaves ⌈size / stride⌉ rows and columns: of their names, channels and strides.
pub(super) fn strided<'a>(
    mut size: [usize; 2],
    stages: impl IntoIterator<Item = (&'a str, usize, usize)>,
) -> Vec<(String, [usize; 3])> {
    let of = |(name, channels, stride): (&str, usize, usize)| {
        size = size.map(|size| size.div_ceil(stride));
        (name.to_owned(), [channels, size[0], size[1]])
    };
    stages.into_iter().map(of).collect()
}

/// What is to be known of a backbone to make its last layer.
#[derive(Debug, Clone, Copy)]
pub struct LastLayerOf {
    /// The layer's name.
    pub name: &'static str,
    /// D.
    pub features: usize,
    /// How weights and biases start.
    pub init: [Init; 2],
    /// What logits are multiplied by, of a layer without bias; `None`: with bias, and as they are.
    pub scale: Option<f64>,
}

/// ImageNet's mean and deviation: torchvision's `ImageClassification` presets, timm's `IMAGENET_DEFAULT_MEAN` and `_STD`.
pub(super) const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];

/// What a network may be built with besides its backbone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// A bound on the spectral norm of its layers.
    SpectralNorm,
    /// Another non-linearity.
    Activation,
    /// Other residual shortcuts.
    Shortcut,
}

registry! {
    /// An architecture: a name (`lenet`), or a name with its settings (`wide_resnet: { depth: 40, width: 2 }`).
    pub enum Backbone: Family, "an architecture's name, or a map of its name and settings" {
        /// LeNet-5 in the form that DDU uses: 28×28 or larger, 84 features.
        Lenet = "lenet" in lenet,
        /// Wide ResNet (Zagoruyko & Komodakis 2016) as in energy_ood. `wrn40_2` and `wrn28_10` are short for the usual ones.
        WideResnet = "wide_resnet" in wide_resnet,
        /// ResNet (He et al. 2016) as in torchvision, whose weights it takes: for images of 32×32 pixels or more. `resnet18`,
        /// `resnet34`, `resnet50` and `wide_resnet50_2` are short for the usual ones.
        Resnet = "resnet" in resnet,
        /// ResNet-18 with a 3×3 stem and no first pool, for small images: OpenOOD's network of this name.
        Resnet18Small = "resnet18_32x32" in resnet18_32x32,
        /// ResNet for CIFAR-10 (He et al. 2016, section 4.2), shortcuts without parameters, as `akamaster/pytorch_resnet_cifar10`, whose
        /// weights it takes. `resnet20`, `resnet32`, `resnet44`, `resnet56` and `resnet110` are short for the paper's.
        ResnetCifar = "resnet_cifar" in resnet_cifar,
        /// EfficientNet-Lite0 (Tan & Le 2019) as timm's `tf_efficientnet_lite0`, whose weights it takes.
        EfficientnetLite0 = "efficientnet_lite0" in efficientnet,
        /// VGG-19 with batch normalisation and one linear layer (DDU's form).
        Vgg19Bn = "vgg19_bn" in vgg,
        /// The network of airbench (Jordan 2024), which whitens patches first, for a fast 94 % of CIFAR-10. `airbench94`, `airbench95` and
        /// `airbench96` are short for the usual ones.
        Airbench = "airbench" in airbench,
        /// ConvNeXt (Liu et al. 2022) as in timm, whose weights it takes: for images of 32×32 pixels or more. `convnext_tiny`,
        /// `convnext_small` and `convnext_base` are short for the paper's.
        Convnext = "convnext" in convnext,
        /// RegNetY (Radosavovic et al. 2020) as in timm and torchvision, whose weights it takes: for images of 32×32 pixels or more.
        /// `regnety_16gf` is short for timm's `regnety_160`.
        Regnety = "regnety" in regnet,
        /// Swin transformer (Liu et al. 2021) as in timm, whose weights it takes: attention inside of windows. `swin_tiny`, `swin_small` and
        /// `swin_base` are short for the paper's.
        Swin = "swin" in swin,
        /// Vision transformers (Dosovitskiy et al. 2021; DINOv2, Oquab et al. 2024) as timm's, whose weights it takes. `vit_s16`, `vit_b16`,
        /// `dinov2_s14` and `dinov2_b14` are short for the usual ones.
        Vit = "vit" in vit,
    }
}

impl Backbone {
    /// The layers: see [`Family::build`].
    pub(super) fn build(
        &self,
        architecture: &Architecture,
        shape: Shape,
        vb: VarBuilder,
    ) -> Result<Box<dyn Extractor>> {
        of_settings!(self, settings => settings.build(architecture, shape, vb))
    }

    /// The layers alone, as they are without other constraints.
    ///
    /// # Errors
    /// As [`Family::build`].
    pub fn extractor(&self, shape: Shape, vb: VarBuilder) -> Result<Box<dyn Extractor>> {
        self.build(&self.clone().into(), shape, vb)
    }

    /// What its layers show.
    pub fn shows(&self) -> Vec<Output> {
        let mut shown = vec![Output::Features, Output::Stages, Output::Layers, Output::Gradients];
        if self.pools_maps() {
            shown.push(Output::LastMaps);
        }
        shown
    }

    /// As [`Family::LEAST_SIDE`].
    pub fn least_side(&self) -> usize {
        fn of<F: Family>(_: &F) -> usize {
            F::LEAST_SIDE
        }
        of_settings!(self, settings => of(settings))
    }

    /// As [`Family::stages`].
    pub fn stages(&self, size: [usize; 2]) -> Vec<(String, [usize; 3])> {
        of_settings!(self, settings => settings.stages(size))
    }

    /// As [`Family::STEM`].
    pub fn has_stem(&self) -> bool {
        fn of<F: Family>(_: &F) -> bool {
            F::STEM
        }
        of_settings!(self, settings => of(settings))
    }

    /// Whether it can be built with this: see [`Family::LACKS`].
    pub fn has(&self, part: Part) -> bool {
        fn lacks<F: Family>(_: &F) -> &'static [Part] {
            F::LACKS
        }
        !of_settings!(self, settings => lacks(settings)).contains(&part)
    }

    /// The names of the backbones that can be built with this.
    pub fn all_with(part: Part) -> Vec<&'static str> {
        let example = |name: &&str| {
            let preset = || Self::presets().find(|(_, preset)| preset.name() == *name);
            Self::by_name(name).ok().or_else(|| preset().map(|(_, preset)| preset))
        };
        Self::NAMES.iter().filter(|name| example(name).is_some_and(|backbone| backbone.has(part))).copied().collect()
    }

    /// As [`Family::POOLS_MAPS`].
    pub fn pools_maps(&self) -> bool {
        fn of<F: Family>(_: &F) -> bool {
            F::POOLS_MAPS
        }
        of_settings!(self, settings => of(settings))
    }

    /// As [`Family::SURVEYS`].
    pub fn surveys(&self) -> bool {
        fn of<F: Family>(_: &F) -> bool {
            F::SURVEYS
        }
        of_settings!(self, settings => of(settings))
    }

    /// As [`Family::FEW_PIXELS`].
    pub fn has_few_pixels(&self) -> bool {
        fn of<F: Family>(_: &F) -> bool {
            F::FEW_PIXELS
        }
        of_settings!(self, settings => of(settings))
    }

    /// As [`Family::normalisation`].
    pub fn normalisation(&self) -> Option<Normalisation> {
        let [mean, std] = of_settings!(self, settings => settings.normalisation())?;
        Some(Normalisation { mean: mean.to_vec(), std: std.to_vec() })
    }

    /// As [`Family::tags`].
    pub fn tags(&self) -> &'static [&'static str] {
        of_settings!(self, settings => settings.tags())
    }

    /// As [`Family::patch`].
    pub fn patch(&self) -> usize {
        of_settings!(self, settings => settings.patch())
    }

    /// As [`Family::label`].
    pub fn label(&self) -> String {
        of_settings!(self, settings => settings.label(self.name()))
    }

    /// As [`Family::elsewhere`].
    pub fn elsewhere(&self, channels: usize, classes: usize) -> Option<String> {
        of_settings!(self, settings => settings.elsewhere(channels, classes))
    }

    /// As [`Family::our_name`].
    pub fn our_name(&self, theirs: &str) -> Option<String> {
        of_settings!(self, settings => settings.our_name(theirs))
    }

    /// As [`Family::smoke`].
    pub fn smoke(&self) -> Option<Self> {
        of_settings!(self, settings => settings.smoke())
    }

    /// As [`Family::layer_in_smoke`].
    pub fn layer_in_smoke(&self, layer: &str) -> String {
        of_settings!(self, settings => settings.layer_in_smoke(layer))
    }
}
