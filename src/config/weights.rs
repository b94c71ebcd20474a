//! Published weights to start from.

use std::path::{Path, PathBuf};

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, ser::SerializeStruct as _};

use crate::config::named;

/// What stands before a tag of the hub.
pub const HUB: &str = "hub:";
/// The file of a hub's repository unless the tag names another: what timm and transformers write.
const HUB_FILE: &str = "model.safetensors";

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
    /// The mean and the std that the backbone's published weights were trained with. ImageNet's for `resnet`, torchvision's; 0.5 and
    /// 0.5 for `efficientnet_lite0`, timm's; those of the published CIFAR weights for `resnet_cifar` and `wide_resnet`.
    Weights,
}

/// A file on the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubFile {
    /// `owner/name`.
    pub repository: String,
    /// A branch, tag or commit; `main` unless the tag says another.
    pub revision: String,
    /// Its path in the repository.
    pub file: String,
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

impl HubFile {
    /// The tag `hub:owner/name[@revision][/file]`; `None` for anything that does not start with `hub:`, an error for a tag that is
    /// not of this form.
    pub fn parse(tag: &str) -> Option<Result<Self, String>> {
        let rest = tag.strip_prefix(HUB)?;
        Some(
            Self::of(rest)
                .ok_or_else(|| format!("`{HUB}owner/name`, with `@revision` or `/file` after it, not {tag:?}")),
        )
    }

    fn of(rest: &str) -> Option<Self> {
        let (owner, rest) = rest.split_once('/')?;
        let (name, file) = rest.split_once('/').unwrap_or((rest, HUB_FILE));
        let (name, revision) = name.split_once('@').unwrap_or((name, "main"));
        // Each part is a folder or file of the cache, so none may lead out of it.
        let plain = |part: &str| {
            let allowed = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
            !part.is_empty() && part.chars().all(allowed) && !part.starts_with('.')
        };
        let all = [owner, name, revision].into_iter().chain(file.split('/')).all(plain);
        all.then(|| Self {
            repository: format!("{owner}/{name}"),
            revision: revision.to_owned(),
            file: file.to_owned(),
        })
    }

    /// Where it is kept below `cache`.
    pub fn path(&self, cache: &Path) -> PathBuf {
        cache.join(&self.repository).join(&self.revision).join(&self.file)
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
