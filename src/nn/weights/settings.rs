//! Published weights to start from.

use std::path::{Path, PathBuf};

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeStruct as _};

use crate::{data::download::HubFile, yaml::named};

/// Published weights: a file (`net.pth`) or a tag of the hub (`hub:timm/resnet18.tv_in1k`), or a map that says more.
///
/// `{ file: net.pth, head: new }` takes all but the last layer, for classes of your own.
#[derive(Debug, Clone, PartialEq, JsonSchema, Validate)]
#[schemars(transform = named::string_or_object)]
#[schemars(deny_unknown_fields)]
pub struct Weights {
    /// A `.safetensors` or PyTorch's `.pth`, relative to the folder that oodkit is started in; or `hub:owner/name`, for the
    /// `model.safetensors` of that repository (`hub:owner/name/file` for another one, `hub:owner/name@revision` for another
    /// revision than `main`), which `oodkit data hub:owner/name` fetches.
    #[garde(length(min = 1), custom(well_formed))]
    pub file: String,
    /// Whether the last layer is the file's. Default: it is, and its classes must be those of the data.
    #[garde(skip)]
    #[serde(default)]
    pub head: WeightsHead,
}

/// Where the last layer comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WeightsHead {
    /// The file.
    #[default]
    File,
    /// It starts as an untrained network's and is to be learned. The file's is left out; it need not have one.
    New,
}

/// What a network's images are normalised by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Normalise {
    /// The mean and the std of the ID set: those given with it, known of it, or computed of its train images.
    #[default]
    Data,
    /// The mean and the std that the backbone's published weights were trained with. ImageNet's for `resnet`, `convnext`, `regnety`, `swin`, and
    /// a `vit` with `layer_scale`, as DINOv2 has; 0.5 and 0.5 for `efficientnet_lite0` and other `vit`, timm's; those of the published CIFAR
    /// weights for `resnet_cifar` and `wide_resnet`.
    Weights,
}

impl Weights {
    /// The file on the hub, if that is where they are from.
    pub fn hub(&self) -> Option<HubFile> {
        HubFile::parse(&self.file)?.ok()
    }

    /// Where the file is: as given, or for a tag of the hub where it is kept below `cache`.
    pub fn path(&self, cache: &Path) -> PathBuf {
        self.hub().map_or_else(|| PathBuf::from(&self.file), |hub| hub.path(cache))
    }
}

fn well_formed(file: &str, _: &()) -> garde::Result {
    match HubFile::parse(file) {
        Some(Err(message)) => Err(garde::Error::new(message)),
        _ => Ok(()),
    }
}

impl Serialize for Weights {
    /// A file alone is written short: results that were stored before there was a map stay those of their experiment.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.head == WeightsHead::default() {
            return serializer.serialize_str(&self.file);
        }
        let mut map = serializer.serialize_struct("Weights", 2)?;
        map.serialize_field("file", &self.file)?;
        map.serialize_field("head", &self.head)?;
        map.end()
    }
}

impl<'de> Deserialize<'de> for Weights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(remote = "Weights", deny_unknown_fields)]
        struct Long {
            file: String,
            #[serde(default)]
            head: WeightsHead,
        }
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Wrapper(#[serde(with = "Long")] Weights);

        fn short(file: &str) -> Result<Wrapper, String> {
            Ok(Wrapper(Weights { file: file.to_owned(), head: WeightsHead::default() }))
        }
        named::string_or_map(deserializer, "a file of weights, or a map with `file` and `head`", short)
            .map(|wrapper| wrapper.0)
    }
}
