//! Architectures and their settings.

use garde::Validate;
use schemars::{JsonSchema, Schema, json_schema};
use serde::{Deserialize, Deserializer, Serialize};

use crate::yaml::named::{string_or_map, unknown_name, variant_by_name};

/// An architecture: a name (`lenet`), or a name with its settings (`wide_resnet: { depth: 40, width: 2 }`).
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema, Validate)]
#[serde(rename_all = "snake_case")]
#[schemars(transform = backbone_names)]
pub enum Backbone {
    /// LeNet-5 in the form that DDU uses: 28×28 or larger, 84 features.
    Lenet(#[garde(skip)] Empty),
    /// Wide ResNet (Zagoruyko & Komodakis 2016) as in energy_ood. `wrn40_2` and `wrn28_10` are short for the usual ones.
    WideResnet(#[garde(dive)] WideResnet),
    /// ResNet (He et al. 2016) as in torchvision, whose weights it takes: for images of 32×32 pixels or more. `resnet18`,
    /// `resnet34`, `resnet50` and `wide_resnet50_2` are short for the usual ones.
    Resnet(#[garde(dive)] Resnet),
    /// ResNet-18 with a 3×3 stem and no first pool, for small images: OpenOOD's network of this name.
    #[serde(rename = "resnet18_32x32")]
    Resnet18Small(#[garde(skip)] Empty),
    /// ResNet for CIFAR-10 (He et al. 2016, section 4.2), shortcuts without parameters, as `akamaster/pytorch_resnet_cifar10`, whose
    /// weights it takes. `resnet20`, `resnet32`, `resnet44`, `resnet56` and `resnet110` are short for the paper's.
    ResnetCifar(#[garde(dive)] ResnetCifar),
    /// EfficientNet-Lite0 (Tan & Le 2019) as timm's `tf_efficientnet_lite0`, whose weights it takes.
    EfficientnetLite0(#[garde(skip)] Empty),
    /// VGG-19 with batch normalisation and one linear layer (DDU's form).
    Vgg19Bn(#[garde(dive)] Vgg19),
}

/// No settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Empty {}

/// Settings of a Wide ResNet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct WideResnet {
    /// Layers, 6n + 4: 16, 22, 28, 40.
    #[garde(range(min = 10, max = 1000), custom(depth_is_6n_plus_4))]
    pub depth: usize,
    /// How many times wider than a plain ResNet.
    #[garde(range(min = 1, max = 64))]
    pub width: usize,
    /// Dropout probability inside each block: 0.3 in energy_ood and in the WRN paper for CIFAR.
    #[garde(range(min = 0.0, max = 0.99))]
    #[serde(default = "default_wrn_dropout")]
    pub dropout: f64,
}

fn default_wrn_dropout() -> f64 {
    0.3
}

fn depth_is_6n_plus_4(depth: &usize, _: &()) -> garde::Result {
    if depth % 6 == 4 { Ok(()) } else { Err(garde::Error::new("must be 6n + 4 (10, 16, 22, 28, 34, 40, …)")) }
}

/// Settings of a ResNet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct Resnet {
    /// Layers: 18, 34, 50, 101 or 152.
    #[garde(range(min = 18, max = 152), custom(depth_is_known))]
    pub depth: usize,
    /// How many times wider the 3×3 convolutions of depth 50 and more are: 2 in torchvision's "wide" ones. Default: 1, the
    /// paper's.
    #[garde(range(min = 1, max = 64), custom(only_bottlenecks_are_wide(&self.depth)))]
    #[serde(default = "default_resnet_width")]
    pub width: usize,
}

fn default_resnet_width() -> usize {
    1
}

fn depth_is_known(depth: &usize, _: &()) -> garde::Result {
    if [18, 34, 50, 101, 152].contains(depth) {
        Ok(())
    } else {
        Err(garde::Error::new("must be 18, 34, 50, 101 or 152"))
    }
}

fn only_bottlenecks_are_wide(depth: &usize) -> impl FnOnce(&usize, &()) -> garde::Result {
    let wide = *depth >= 50;
    move |width, ()| {
        if wide || *width == 1 { Ok(()) } else { Err(garde::Error::new("must be 1 below depth 50")) }
    }
}

/// Settings of a ResNet for CIFAR-10.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct ResnetCifar {
    /// Layers, 6n + 2: 20, 32, 44, 56, 110.
    #[garde(range(min = 8, max = 1000), custom(depth_is_6n_plus_2))]
    pub depth: usize,
}

fn depth_is_6n_plus_2(depth: &usize, _: &()) -> garde::Result {
    if depth % 6 == 2 { Ok(()) } else { Err(garde::Error::new("must be 6n + 2, such as 20, 32 or 56")) }
}

/// Settings of a VGG-19.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
pub struct Vgg19 {
    /// Channels of the first stage; the others have 2, 4, 8 and 8 times as many. Default: 64, the paper's. A quarter of it
    /// costs a sixteenth.
    #[garde(range(min = 1, max = 1024))]
    #[serde(default = "default_vgg_width", skip_serializing_if = "is_default_vgg_width")]
    pub width: usize,
}

fn default_vgg_width() -> usize {
    64
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it")]
fn is_default_vgg_width(width: &usize) -> bool {
    *width == default_vgg_width()
}

impl Default for Vgg19 {
    fn default() -> Self {
        Self { width: default_vgg_width() }
    }
}

/// The architectures' names.
const VARIANTS: [&str; 7] =
    ["lenet", "wide_resnet", "resnet", "resnet18_32x32", "resnet_cifar", "efficientnet_lite0", "vgg19_bn"];

/// Short names of architectures with settings.
const PRESETS: [(&str, Backbone); 11] = [
    ("wrn40_2", Backbone::WideResnet(WideResnet { depth: 40, width: 2, dropout: 0.3 })),
    ("wrn28_10", Backbone::WideResnet(WideResnet { depth: 28, width: 10, dropout: 0.3 })),
    ("resnet18", Backbone::Resnet(Resnet { depth: 18, width: 1 })),
    ("resnet34", Backbone::Resnet(Resnet { depth: 34, width: 1 })),
    ("resnet50", Backbone::Resnet(Resnet { depth: 50, width: 1 })),
    ("wide_resnet50_2", Backbone::Resnet(Resnet { depth: 50, width: 2 })),
    ("resnet20", Backbone::ResnetCifar(ResnetCifar { depth: 20 })),
    ("resnet32", Backbone::ResnetCifar(ResnetCifar { depth: 32 })),
    ("resnet44", Backbone::ResnetCifar(ResnetCifar { depth: 44 })),
    ("resnet56", Backbone::ResnetCifar(ResnetCifar { depth: 56 })),
    ("resnet110", Backbone::ResnetCifar(ResnetCifar { depth: 110 })),
];

impl Backbone {
    /// The names that may stand for an architecture.
    pub fn names() -> impl Iterator<Item = &'static str> {
        VARIANTS.into_iter().chain(PRESETS.iter().map(|(preset, _)| *preset))
    }

    /// The architecture's own name, whatever its settings.
    pub fn variant(&self) -> &'static str {
        match self {
            Self::Lenet(_) => "lenet",
            Self::WideResnet(_) => "wide_resnet",
            Self::Resnet(_) => "resnet",
            Self::Resnet18Small(_) => "resnet18_32x32",
            Self::ResnetCifar(_) => "resnet_cifar",
            Self::EfficientnetLite0(_) => "efficientnet_lite0",
            Self::Vgg19Bn(_) => "vgg19_bn",
        }
    }

    /// The architecture that a bare name stands for.
    ///
    /// # Errors
    /// A message that lists the names, if there is no such name or it needs settings.
    pub fn by_name(name: &str) -> Result<Self, String> {
        match PRESETS.iter().find(|(preset, _)| *preset == name) {
            Some((_, backbone)) => Ok(backbone.clone()),
            None if VARIANTS.contains(&name) => variant_by_name(name),
            None => Err(unknown_name(name, &Self::names().collect::<Vec<_>>())),
        }
    }
}

impl<'de> Deserialize<'de> for Backbone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(remote = "Backbone", rename_all = "snake_case")]
        enum Long {
            Lenet(Empty),
            WideResnet(WideResnet),
            Resnet(Resnet),
            #[serde(rename = "resnet18_32x32")]
            Resnet18Small(Empty),
            ResnetCifar(ResnetCifar),
            EfficientnetLite0(Empty),
            Vgg19Bn(Vgg19),
        }
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Wrapper(#[serde(with = "Long")] Backbone);

        fn short(name: &str) -> Result<Wrapper, String> {
            Backbone::by_name(name).map(Wrapper)
        }
        string_or_map(deserializer, "an architecture's name, or a map of its name and settings", short)
            .map(|wrapper| wrapper.0)
    }
}

/// Schema transform of [`Backbone`]: the names, short or with settings.
fn backbone_names(schema: &mut Schema) {
    let long = std::mem::take(schema);
    *schema = json_schema!({
        "anyOf": [{ "enum": Backbone::names().filter(|name| Backbone::by_name(name).is_ok()).collect::<Vec<_>>() }, long]
    });
}
