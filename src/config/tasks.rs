//! The tasks of an experiment: one for its data, or one for each category of a folder in MVTec's layout.
//!
//! `data: { format: mvtec, path: mvtec, categories: [screw, transistor], size: 256 }` is short for a task for each category: its normal
//! train images, its normal test images, and a set of test images for each kind of anomaly.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{
    Error, Result,
    config::{Data, Validation},
    data::{self, Dataset, Format, mvtec, synthetic},
    printable,
    yaml::{limits::MOST_IMAGES, named::word_or_list},
};

/// The name under which results have all anomalous images of a task together.
pub const ALL_KINDS: &str = "all";

/// `all`, or a list of names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Categories {
    /// Every category there is, by name.
    #[default]
    All,
    /// These, in this order.
    Named(Vec<String>),
}

impl Serialize for Categories {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => serializer.serialize_str("all"),
            Self::Named(names) => names.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Categories {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let short = |word: &str| (word == "all").then_some(Self::All);
        word_or_list(deserializer, "`all` or a list of categories", short, Self::Named)
    }
}

impl JsonSchema for Categories {
    fn schema_name() -> Cow<'static, str> {
        "Categories".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "anyOf": [
            { "enum": ["all"] },
            { "type": "array", "items": { "type": "string" }, "minItems": 1, "uniqueItems": true },
        ] })
    }
}

/// Makes [`DataKeys`] of the keys that a folder of categories shares with a data set, beside those of its own.
macro_rules! data_keys {
    ($($(#[$about:meta])+ $key:ident: $Type:ty,)+) => {
        /// What `data` may say: an ID set and OOD sets, or a folder of categories.
        #[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        #[schemars(rename = "Data")]
        pub struct DataKeys {
            /// In-distribution: its train split trains the networks, its test split is what OOD data are told from.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            id: Option<Dataset>,
            /// Out-of-distribution sets; their test images are brought to the shape of the ID images. May be left out where the ID set
            /// has `held_out`.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            ood: Option<Vec<Dataset>>,
            /// Covariate-shifted ID sets, such as other photographs or drawings of the ID classes: their test images, brought to the
            /// shape of the ID images. In tables with `sampling: full_spectrum` they count as ID, as in OpenOOD's FS-OOD numbers; no
            /// other number has them.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            shifted: Vec<Dataset>,
            /// Auxiliary outliers, which networks whose loss has a term of them (`energy_margin`, `outlier_exposure`) learn to tell
            /// from the ID images: its train split, without labels, brought to the shape of the ID images and normalised as they are.
            /// Images that an OOD set is tested on are refused. energy_ood's is 80 Million Tiny Images, which was withdrawn;
            /// outlier-exposure offers `tiny_images_300k` in its place, OpenOOD takes part of Tiny ImageNet.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            outliers: Option<Dataset>,
            /// Data to choose settings on, of methods with `search`.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            validation: Option<Validation>,
            /// In place of `id` and `ood`: `mvtec`, a folder of categories in MVTec's layout, each a task of its own.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            format: Option<Format>,
            /// With `format`: which categories, `all` unless given. They can be swept.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            categories: Option<Categories>,
            $($(#[$about])+ #[serde(default, skip_serializing_if = "Option::is_none")] $key: Option<$Type>,)+
        }

        impl DataKeys {
            /// The first key that goes with `format` alone.
            fn of_categories(&self) -> Option<&'static str> {
                let given = [("categories", self.categories.is_some()), $((stringify!($key), self.$key.is_some())),+];
                given.into_iter().find(|(_, given)| *given).map(|(key, _)| key)
            }

            /// What all categories have in common.
            fn into_set(self) -> Dataset {
                Dataset { name: MVTEC.to_owned(), format: self.format, $($key: self.$key,)+ ..Dataset::default() }
            }

            /// The other way round.
            fn of_set(set: Dataset, categories: Option<Categories>) -> Self {
                Self { format: set.format, categories, $($key: set.$key,)+ ..Self::default() }
            }
        }
    };
}

data_keys! {
    /// With `format`: the folder of the categories, or of one; `<data root>/mvtec` unless given.
    path: PathBuf,
    /// With `format`: rows and columns that images and masks are brought to. Categories differ in the size of their images, so it
    /// is needed.
    size: data::Size,
    /// With `format`: as of a data set.
    resize: data::Resize,
    /// With `format`: as of a data set.
    crop: data::Cut,
    /// With `format`: as of a data set.
    #[serde(deserialize_with = "crate::data::brightness")]
    #[schemars(with = "Option<crate::data::BrightnessKey>")]
    brightness: data::Brightness,
    /// With `format`: 1 (grey) or 3 (RGB), which grey images are repeated to; as many as there are means, or 3, as published weights want it.
    #[schemars(range(min = 1, max = 3))]
    channels: usize,
    /// With `format`: as of a data set.
    mean: Vec<f32>,
    /// With `format`: as of a data set.
    std: Vec<f32>,
    /// With `format`: as of a data set.
    damaged: data::Damaged,
    /// With `format`: as of a data set.
    links: data::Links,
    /// With `format`: when a pixel of a resized mask is anomalous: `nearest` (unless given), `half` or `any`.
    mask_rule: data::MaskRule,
    /// With `format`: use only the first so many train images of each category.
    #[schemars(range(min = 1, max = MOST_IMAGES))]
    train_limit: usize,
    /// With `format`: use only the first so many test images of each set.
    #[schemars(range(min = 1, max = MOST_IMAGES))]
    test_limit: usize,
    /// With `format`: what a reader of the table must know of these files.
    note: String,
}

/// Channels of a category's images unless the configuration says otherwise.
const CHANNELS: usize = 3;

impl TryFrom<DataKeys> for Data {
    type Error = String;

    fn try_from(keys: DataKeys) -> Result<Self, String> {
        let Some(format) = keys.format else {
            if let Some(key) = keys.of_categories() {
                return Err(format!(
                    "`{key}` of data goes with `format: mvtec`; of a set, it stands under `id` or `ood`"
                ));
            }
            let DataKeys { id, ood, shifted, outliers, validation, .. } = keys;
            let id =
                id.ok_or("missing field `id`: the in-distribution set, or `format: mvtec` for a folder of categories")?;
            return Ok(Self { id, ood: ood.unwrap_or_default(), shifted, outliers, validation, categories: None });
        };
        if keys.id.is_some() || keys.ood.is_some() {
            return Err(
                "`format` stands in place of `id` and `ood`: each category has its own normal and anomalous images"
                    .to_owned(),
            );
        }
        if !format.has_categories() {
            return Err("only `format: mvtec` has categories; of other sets, the format stands under `id`".to_owned());
        }
        let (shifted, outliers, validation) = (keys.shifted.clone(), keys.outliers.clone(), keys.validation.clone());
        let categories = Some(keys.categories.clone().unwrap_or_default());
        let mut id = keys.into_set();
        id.channels = id.channels.or(id.mean.as_ref().map(Vec::len)).or(Some(CHANNELS));
        Ok(Self { id, ood: Vec::new(), shifted, outliers, validation, categories })
    }
}

/// The name of a folder of categories.
const MVTEC: &str = "mvtec";

impl From<Data> for DataKeys {
    fn from(data: Data) -> Self {
        let Data { id, ood, shifted, outliers, validation, categories } = data;
        let keys = match categories {
            None => Self { id: Some(id), ood: Some(ood), ..Self::default() },
            Some(categories) => Self::of_set(id, Some(categories)),
        };
        Self { shifted, outliers, validation, ..keys }
    }
}

impl Data {
    /// Whether it has a task for each category.
    pub fn has_categories(&self) -> bool {
        self.categories.is_some()
    }

    /// Whether images may have masks, which show where they are anomalous.
    pub fn may_have_masks(&self) -> bool {
        self.has_categories() || self.ood.iter().any(Dataset::may_have_masks)
    }

    /// The data of each task, whose ID set has the task's name. Categories and their kinds of anomaly are looked up below the data
    /// root; without one, as in a smoke run, they are made up.
    ///
    /// # Errors
    /// [`Error::Input`] naming the folder and what it lacks, or the category that is not there. A folder that is not there at all is
    /// no error here but of [`Data::check_categories`], so that a plan can be shown without data.
    pub fn tasks(&self, root: Option<&Path>) -> Result<Vec<Self>> {
        let Some(categories) = &self.categories else { return Ok(vec![self.clone()]) };
        let named = match categories {
            Categories::All => None,
            Categories::Named(names) => Some(&names[..]),
        };
        let folder = data::found(&self.id, root.unwrap_or(Path::new("")));
        let found = match root {
            Some(_) if folder.is_dir() => mvtec::categories(&folder, named)?,
            _ => {
                let (kinds, names) = match root {
                    None => (vec![synthetic::SPOT.to_owned()], &mvtec::MVTEC_AD[..SMOKE_CATEGORIES]),
                    Some(_) => (Vec::new(), &[MVTEC][..]),
                };
                let names =
                    named.map_or_else(|| names.iter().map(|name| (*name).to_owned()).collect(), <[String]>::to_vec);
                let one = |name: String| mvtec::Category { folder: folder.join(&name), name, kinds: kinds.clone() };
                names.into_iter().map(one).collect()
            }
        };
        refuse_alike(&folder, found.iter().map(|category| &category.name))?;
        found.into_iter().map(|category| self.task(&folder, category)).collect()
    }

    /// The data of one category.
    fn task(&self, folder: &Path, category: mvtec::Category) -> Result<Self> {
        if let Some(name) = category.kinds.iter().find(|kind| **kind == category.name || *kind == ALL_KINDS) {
            let place = category.folder.join("test").join(name);
            let what = if name == ALL_KINDS { "all kinds together" } else { "the category" };
            return Err(Error::input(format!("{}: \"{name}\" is the name of {what}", place.display()))
                .hint("rename this folder, and the one of its masks"));
        }
        refuse_alike(&category.folder.join("test"), &category.kinds)?;
        // Relative to where the configuration's own path starts.
        let below = category.folder.strip_prefix(folder).unwrap_or(Path::new(""));
        let path = self.id.path.clone().unwrap_or_else(|| PathBuf::from(MVTEC));
        let path = if below.as_os_str().is_empty() { path } else { path.join(below) };
        let id = Dataset { name: plain(&category.name), path: Some(path), ..self.id.clone() };
        let kind = |kind: String| Dataset { name: plain(&kind), kind: Some(kind), ..id.beside() };
        let ood = category.kinds.into_iter().map(kind).collect();
        Ok(Self { ood, categories: None, id, ..self.clone() })
    }

    /// Whether the folder of the categories is there.
    ///
    /// # Errors
    /// [`Error::Input`] naming it and what belongs there.
    pub fn check_categories(&self, root: &Path) -> Result<()> {
        let folder = data::found(&self.id, root);
        match self.has_categories() && !folder.is_dir() {
            true => mvtec::categories(&folder, None).map(|_| ()),
            false => Ok(()),
        }
    }
}

/// Refuses folders that would have one name in results.
fn refuse_alike<'a>(place: &Path, names: impl IntoIterator<Item = &'a String>) -> Result<()> {
    let mut known: BTreeMap<String, &String> = BTreeMap::new();
    for name in names {
        if let Some(other) = known.insert(plain(name), name) {
            let [one, two] = [other, name].map(|name| printable(name));
            return Err(Error::input(format!(
                "{}: the folders \"{one}\" and \"{two}\" would both be called \"{}\" in results",
                place.display(),
                plain(name)
            ))
            .hint("names are of letters, digits, `_`, `-` and `.`: rename one"));
        }
    }
    Ok(())
}

/// A folder's name as one that files may have.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '_' }).collect()
}

/// Categories of a smoke run, at most.
pub(super) const SMOKE_CATEGORIES: usize = 2;
