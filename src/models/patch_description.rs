//! A patch description network that learns what a frozen backbone says of every patch: a small teacher, distilled from a large network.
//!
//! target = the backbone's stages, each channel standardised, brought to the descriptions' rows and columns and put together; where these are
//! more or fewer channels than the descriptions have, a fixed random projection of them, or with `decode` the descriptions are projected.
//!
//! - Papers: Batzner, Heckler & König, *EfficientAD*, WACV 2024, section 3.1 and appendix A.2: PDN-S learns a WideResNet-101's `layer2` and
//!   `layer3` on ImageNet. Bergmann et al., *Uninformed Students*, CVPR 2020, section 3.1: a description of 128 numbers, from which a layer that
//!   is left out afterwards makes a ResNet-18's features, and [`compactness`](crate::losses::compactness).
//! - Code: `nelson1425/EfficientAD`, `pretraining.py`; its recipe is `loss: { regression: {} }`, Adam with learning rate 0.0001 and weight decay
//!   0.00001, 60,000 batches of 16. `denguir/student-teacher-anomaly-detection`, `teacher_training.py`.
//! - Deviations: the code shows the backbone the image at twice the size, reduces channels by means of neighbours, and standardises afterwards.
//!   *Uninformed Students* compares with features of a patch alone, and learns patches of random scale. Here both see the same image once.
//! - With `further`, networks of several sizes of patches learn the same at once; the loss is the sum of theirs.
//! - Other models take it `from` a network of this model: its parameters are below `teacher`.

use candle_core::{Result, Tensor};
use candle_nn::{Init, VarBuilder};
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    models::{
        Kind,
        stages::{bytes, chosen, fixed_maps_of, image_bytes, images_and_stages, wrong},
        students::RANDOM_TEACHER,
        teacher::{MOST_FURTHER, TEACHER, all_sizes, grid, no_size_twice, of_size},
    },
    nn::{
        Backbone, Model, Output, Pass, Shape, Shown,
        backbone::Extractor,
        layers::Conv2d,
        patch_description::{self, PatchNetwork},
        standard::{Standard, Survey},
    },
    ops::{self, Convolution, Interpolation},
    yaml::problems::Problem,
};

/// Settings of a distilled patch description network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PatchDescription")]
pub struct Settings {
    /// What is learned from; it does not learn. EfficientAD's: a WideResNet-101 with ImageNet weights, which is not among these.
    #[garde(dive)]
    pub backbone: Backbone,
    /// The stages that are learned, by name. Default: the last that have a quarter, an eighth and a sixteenth of the image's rows, which are a
    /// ResNet's `layer1`, `layer2` and `layer3`. EfficientAD's: `[layer2, layer3]`.
    #[garde(inner(length(min = 1)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<Vec<String>>,
    /// The network that learns. Default: EfficientAD's PDN-S.
    #[garde(dive)]
    #[serde(default)]
    pub patches: patch_description::Settings,
    /// Networks of other sizes of patches, which learn the same beside it. *Uninformed Students* has three. Default: none.
    #[garde(length(max = MOST_FURTHER), dive, custom(no_size_twice(&self.patches)))]
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<patch_description::Settings>,
    /// Whether zeros stand beyond the image's border, so that descriptions are as many as a stage's positions. Default: `true`, as
    /// EfficientAD's code has it while it distils.
    #[garde(skip)]
    #[serde(default = "crate::yaml::named::yes")]
    pub padding: bool,
    /// Whether a 1×1 convolution that learns makes the backbone's channels of the descriptions, as in *Uninformed Students*. Default: `false`.
    #[garde(skip)]
    #[serde(default)]
    pub decode: bool,
}

impl Kind for Settings {
    fn shows(&self) -> Vec<Output> {
        vec![Output::Pairs, Output::Embedding]
    }

    fn build(&self, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Model>> {
        Ok(Box::new(Distilled::new(self, shape, &vb)?))
    }

    fn backbone(&self) -> Option<&Backbone> {
        Some(&self.backbone)
    }

    fn own(&self) -> Option<&'static str> {
        Some(TEACHER)
    }

    fn fixed(&self) -> Option<serde_json::Value> {
        Some(images_and_stages(&self.backbone, self.stages.as_deref()))
    }

    fn fixed_bytes(&self, size: [usize; 2]) -> Option<usize> {
        // The images are kept, too.
        Some(image_bytes(size) + bytes(&self.backbone, self.stages.as_deref(), size)?)
    }

    fn frozen(&self) -> Option<String> {
        Some(RANDOM_TEACHER.to_owned())
    }

    fn problems(&self, size: Option<[usize; 2]>) -> Vec<Problem> {
        chosen(&self.backbone, self.stages.as_deref(), size).err().into_iter().collect()
    }

    fn label(&self, name: &str) -> String {
        format!("{} {name}", self.backbone.label())
    }

    fn least_side(&self) -> usize {
        let patches = self.patches().map(|patches| patches.layers.least_side(self.padding));
        patches.fold(self.backbone.least_side(), usize::max)
    }

    fn smoke(self) -> Self {
        let backbone = self.backbone.smoke().unwrap_or_else(|| self.backbone.clone());
        let renamed = |name: String| backbone.layer_in_smoke(&name);
        let stages = self.stages.as_ref().map(|stages| stages.iter().cloned().map(renamed).collect());
        Self { stages, backbone, ..self.on_small_images() }
    }

    fn on_small_images(self) -> Self {
        let further = self.further.into_iter().map(patch_description::Settings::smoke).collect();
        Self { patches: self.patches.smoke(), further, padding: true, ..self }
    }
}

impl Settings {
    fn patches(&self) -> impl Iterator<Item = &patch_description::Settings> {
        all_sizes(&self.patches, &self.further)
    }
}

/// The networks, and what they learn from.
#[derive(Debug)]
struct Distilled {
    backbone: Box<dyn Extractor>,
    stages: Vec<String>,
    source: Standard,
    /// That of `patches`, and the further ones.
    scales: Vec<Scale>,
}

/// A network of one size of patches.
#[derive(Debug, Clone)]
struct Scale {
    /// Rows and columns of descriptions.
    grid: [usize; 2],
    teacher: PatchNetwork,
    /// (outputs, C, 1, 1), of the standardised stages.
    projection: Option<Tensor>,
    decoder: Option<Conv2d>,
}

/// The model's name, for messages.
const NAME: &str = "patch_description";

impl Distilled {
    fn new(settings: &Settings, shape: Shape, vb: &VarBuilder) -> crate::Result<Self> {
        let size = [shape.height, shape.width];
        let backbone = settings.backbone.extractor(shape, vb.clone())?;
        let stages = chosen(&settings.backbone, settings.stages.as_deref(), Some(size));
        let stages = stages.map_err(wrong(NAME))?.unwrap_or_default();
        let channels: usize = stages.iter().map(|(_, [channels, ..])| channels).sum();
        let vb = vb.pp(TEACHER);
        let scale = |(at, patches): (usize, &patch_description::Settings)| {
            Scale::new(settings, patches, shape, channels, &of_size(vb.clone(), at))
        };
        let scales = settings.patches().enumerate().map(scale).collect::<crate::Result<_>>()?;
        let source = Standard::new(channels, &vb.pp("source"))?;
        let stages = stages.into_iter().map(|(name, _)| name).collect();
        Ok(Self { backbone, stages, source, scales })
    }

    fn stages(&self, images: &Tensor, pass: &Pass) -> Result<Vec<Tensor>> {
        fixed_maps_of(self.backbone.as_ref(), &self.stages, images, pass)
    }
}

impl Model for Distilled {
    fn show(&self, images: &Tensor, pass: &Pass) -> Result<Shown> {
        let stages = self.stages(images, pass)?;
        self.show_fixed(&[vec![images.clone()], stages].concat(), pass)
    }

    fn fixed(&self, images: &Tensor) -> Result<Option<Vec<Tensor>>> {
        // The network that learns sees the images, too.
        Ok(Some([vec![images.clone()], self.stages(images, &Pass::eval())?].concat()))
    }

    fn show_fixed(&self, fixed: &[Tensor], pass: &Pass) -> Result<Shown> {
        let Some((images, stages)) = fixed.split_first() else {
            candle_core::bail!("a patch description network sees images, and there are none")
        };
        let (mut pairs, mut embeddings) = (Vec::new(), Vec::new());
        for scale in &self.scales {
            let described = scale.teacher.forward(images, pass)?;
            let made = match &scale.decoder {
                Some(decoder) => decoder.forward(&described, pass)?,
                None => described.clone(),
            };
            pairs.push((scale.target(&self.source, stages)?.detach(), made));
            embeddings.push(described);
        }
        let embedding = Some(embeddings.remove(0));
        Ok(Shown { pairs, embedding, further: embeddings, ..Shown::default() })
    }

    /// Of the stages at the first network's rows and columns: for all, since a channel's moments hardly depend on them.
    fn survey(&self) -> Option<Survey<'_>> {
        Some(Survey::new(&self.source, |images| self.scales[0].joined(&self.stages(images, &Pass::eval())?)))
    }

    fn folded(&self) -> Result<Box<dyn Model>> {
        Ok(Box::new(Self {
            backbone: self.backbone.folded()?,
            stages: self.stages.clone(),
            source: self.source.clone(),
            scales: self.scales.clone(),
        }))
    }
}

impl Scale {
    fn new(
        settings: &Settings,
        patches: &patch_description::Settings,
        shape: Shape,
        channels: usize,
        vb: &VarBuilder,
    ) -> crate::Result<Self> {
        let grid = grid(NAME, patches, settings.padding, [shape.height, shape.width])?;
        let outputs = patches.outputs;
        let teacher = PatchNetwork::new(patches, shape.channels, settings.padding, 1, vb)?;
        let (mut projection, mut decoder) = (None, None);
        if settings.decode {
            decoder = Some(Conv2d::biased([outputs, channels], 1, Convolution::new(1, 0), &vb.pp("decoder"))?);
        } else if channels != outputs {
            let init = Init::Randn { mean: 0.0, stdev: 1.0 / (channels as f64).sqrt() };
            let weights = vb.pp("source").get_with_hints((outputs, channels, 1, 1), "random_projection", init)?;
            projection = Some(weights);
        }
        Ok(Self { grid, teacher, projection, decoder })
    }

    /// The stages at the descriptions' rows and columns, put together.
    fn joined(&self, stages: &[Tensor]) -> Result<Tensor> {
        let [rows, columns] = self.grid;
        let at_grid = |maps: &Tensor| {
            let (_, _, height, width) = maps.dims4()?;
            if [height, width] == self.grid {
                return Ok(maps.clone());
            }
            ops::resize(maps, (rows, columns), Interpolation::Bilinear, false)
        };
        Tensor::cat(&stages.iter().map(at_grid).collect::<Result<Vec<_>>>()?, 1)
    }

    /// What is learned, of the stages.
    fn target(&self, source: &Standard, stages: &[Tensor]) -> Result<Tensor> {
        let target = source.forward(&self.joined(stages)?)?;
        match &self.projection {
            Some(weights) => ops::conv2d(&target, &weights.detach(), None, Convolution::new(1, 0)),
            None => Ok(target),
        }
    }
}
