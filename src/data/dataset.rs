//! What a file says of a data set.

use std::path::PathBuf;

use garde::Validate;
use schemars::{JsonSchema, Schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Attack, Cut, Damaged, Division, Format, Links, Resize, Size};
use crate::yaml::{
    limits::MOST_IMAGES,
    named::{string_or_map, string_or_object},
};

/// A data set: a known name (`svhn`), or a map that changes or replaces what is known about it.
///
/// `{ name: mine, format: folder, path: ~/pictures }` is a set of your own.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields, remote = "Self")]
#[schemars(transform = string_or_object)]
pub struct Dataset {
    /// The name in tables and of files, and the key of the built-in description (see `oodkit list`).
    #[garde(length(min = 1))]
    pub name: String,
    /// The built-in set whose files and description these are, under a name of your own: `{ name: animals, of: cifar10, classes:
    /// [2, 3, 4, 5, 6, 7] }`. The set's own name unless given.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub of: Option<String>,
    /// How the files are laid out; known for built-in names.
    #[garde(skip)]
    #[serde(default)]
    pub format: Option<Format>,
    /// Where the files are; `<data root>/<name>` unless given. Relative paths start at the data root.
    #[garde(skip)]
    #[serde(default)]
    pub path: Option<PathBuf>,
    /// Which classes are taken, in the order of their labels: names of class folders, or numbers of labels. All unless given.
    #[garde(inner(length(min = 1)))]
    #[serde(default, deserialize_with = "some_classes", skip_serializing_if = "Option::is_none")]
    #[schemars(transform = words_or_numbers)]
    pub classes: Option<Vec<String>>,
    /// Of the ID set: classes that no network learns. Their images are the OOD set `held_out`.
    #[garde(skip)]
    #[serde(default, deserialize_with = "class_list", skip_serializing_if = "Vec::is_empty")]
    #[schemars(transform = words_or_numbers)]
    pub held_out: Vec<String>,
    /// Divides class folders or a list that have no train and test parts: `{ test: 0.2 }` draws a fifth of each class to test on,
    /// `{ folds: 5, fold: 0 }` tests on one of five parts.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub split: Option<Division>,
    /// Per-channel mean of the pixels in 0..1; known for built-in names. Of an ID set without it, mean and std are those of the
    /// train images, which the network's record keeps.
    #[garde(inner(inner(range(min = 0.0, max = 1.0))))]
    #[serde(default)]
    pub mean: Option<Vec<f32>>,
    /// Per-channel standard deviation of the pixels in 0..1.
    #[garde(inner(inner(range(min = 1e-6, max = 1.0))))]
    #[serde(default)]
    pub std: Option<Vec<f32>>,
    /// Rows and columns that images are brought to, one number or two: the shorter side is resized to fit (bilinear), the rest is
    /// cropped about the centre. Of the ID set; all other sets take its shape. Not given, the images have one size already.
    #[garde(inner(custom(sides)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<Size>,
    /// How images are resized to the size: `{ mode: bicubic, antialias: true }`. Bilinear with anti-aliasing unless given. Of the
    /// ID set; all other sets are resized alike.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resize: Option<Resize>,
    /// How much of the resized image the size takes in: 0.875 is torchvision's `Resize(256)` and `CenterCrop(224)` with `size:
    /// 224`; `none` resizes both sides and cuts nothing off. 1 unless given. Of the ID set; all other sets are cropped alike.
    #[garde(custom(share))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crop: Option<Cut>,
    /// `median` shifts every image so that its median grey is 0.5, `{ median: 0.8 }` so that it is 0.8; `none` (unless given) does not.
    /// What leaves the range is cut off: a number near the train images' own median cuts least. Of the ID set; all other sets
    /// are shifted alike.
    #[garde(inner(custom(in_range)))]
    #[serde(default, deserialize_with = "crate::data::brightness", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<crate::data::BrightnessKey>")]
    pub brightness: Option<crate::data::Brightness>,
    /// 1 (grey) or 3 (RGB), of the ID set; as many as there are means unless given. Grey images are repeated, colour images
    /// become grey by luma.
    #[garde(range(min = 1, max = 3))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channels: Option<usize>,
    /// What to do with an image that cannot be read: `refuse` (unless given) or `skip`, which captions count.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damaged: Option<Damaged>,
    /// Which symbolic links inside the set are followed: `follow` those that stay in its folder, or `anywhere`. Unless given, links
    /// are refused. The folder itself may be one.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub links: Option<Links>,
    /// Use only the first so many train images; of pictures in folders, the first of every folder in turn. The table then
    /// says "subset".
    #[garde(range(min = 1, max = MOST_IMAGES))]
    #[serde(default)]
    pub train_limit: Option<usize>,
    /// Use only so many test images, chosen as with `train_limit`.
    #[garde(range(min = 1, max = MOST_IMAGES))]
    #[serde(default)]
    pub test_limit: Option<usize>,
    /// What a reader of the table must know of these files: `JPEG-recompressed`.
    #[garde(skip)]
    #[serde(default)]
    pub note: Option<String>,
    /// With `format: image_list`, the file that lists the pictures; `{split}` in it stands for `train` or `test`. Relative paths
    /// start at the data root. With `format: openood`, a benchmark: `cifar10`.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<String>,
    /// With `format: mvtec`: the folder of `test/` whose images are tested on, a kind of anomaly; `good` unless given.
    #[garde(inner(length(min = 1)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// With `format: folder`, of an OOD set: the folder of the masks, which show where an image is anomalous. A mask has the path of its
    /// image below the folder of images, `000.png` or `000_mask.png`. Relative paths start at the data root.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masks: Option<PathBuf>,
    /// With masks: when a pixel of a resized mask is anomalous: `nearest` (unless given), `half` or `any`.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask_rule: Option<super::MaskRule>,
    /// Of an OOD set: which sets it is averaged with, in tables with means by group. Any word; OpenOOD has `near` and `far`.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Of an OOD set: its images are moved so that a network is surer of them, before anything scores them: `{ network: base, epsilon: 8 }`.
    /// Give it a name of its own: `{ name: mnist_pgd8, of: mnist, attack: { network: base, epsilon: 8 } }`.
    #[garde(dive)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attack: Option<Attack>,
}

impl Dataset {
    /// The name by which its files and its built-in description are found.
    pub fn source(&self) -> &str {
        self.of.as_deref().unwrap_or(&self.name)
    }

    /// The data set that oodkit knows by this name, as it comes.
    pub fn named(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// Whether it may have masks, which show where its images are anomalous.
    pub fn may_have_masks(&self) -> bool {
        self.masks.is_some() || self.format.is_some_and(Format::has_categories)
    }

    /// The same files, for a set that is tested on beside this one: without the shape, which it takes from it, and without what goes with
    /// learning.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self {
            size: None,
            resize: None,
            crop: None,
            brightness: None,
            channels: None,
            mean: None,
            std: None,
            train_limit: None,
            ..self.clone()
        }
    }

    /// Whether it is an image list that serves as train and as test images.
    pub(crate) fn is_one_list(&self) -> bool {
        self.format.is_some_and(|format| format.layout().is_one_for_all(self))
    }
}

/// The least share of an image that a crop keeps. Ours: less is a slip, and needs absurd memory.
const LEAST_SHARE: f64 = 0.1;

fn share(crop: &Option<Cut>, _: &()) -> garde::Result {
    match crop {
        Some(Cut::Share(share)) if !(LEAST_SHARE..=1.0).contains(share) => {
            Err(garde::Error::new(format!("is a share from {LEAST_SHARE} to 1, or none")))
        }
        _ => Ok(()),
    }
}

fn in_range(brightness: &crate::data::Brightness, _: &()) -> garde::Result {
    let crate::data::Brightness::Median(median) = brightness;
    if (0.0..=1.0).contains(median) { Ok(()) } else { Err(garde::Error::new("a median grey is from 0 to 1")) }
}

/// Pixels of a side, at most: no image that is read has more.
const MOST_PIXELS: usize = 16_384;

fn sides(size: &Size, _: &()) -> garde::Result {
    match size.sides().iter().all(|side| (1..=MOST_PIXELS).contains(side)) {
        true => Ok(()),
        false => Err(garde::Error::new(format!("rows and columns are from 1 to {MOST_PIXELS}"))),
    }
}

impl<'de> Deserialize<'de> for Dataset {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Long(#[serde(with = "Dataset")] Dataset);

        fn short(name: &str) -> Result<Long, String> {
            Ok(Long(Dataset::named(name)))
        }
        string_or_map(deserializer, "a data set's name, or a map with `name` and more", short).map(|long| long.0)
    }
}

impl Serialize for Dataset {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Self::serialize(self, serializer)
    }
}

/// A list of names of classes; numbers stand for themselves.
fn class_list<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a class is a name or the number of a label")]
    enum Class {
        Number(u64),
        Name(String),
    }
    let classes = Vec::<Class>::deserialize(deserializer)?.into_iter().map(|class| match class {
        Class::Number(number) => number.to_string(),
        Class::Name(name) => name,
    });
    Ok(classes.collect())
}

/// [`class_list`], or none.
fn some_classes<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Vec<String>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(transparent)]
    struct Classes(#[serde(deserialize_with = "class_list")] Vec<String>);
    Ok(Option::<Classes>::deserialize(deserializer)?.map(|classes| classes.0))
}

/// Schema transform: the items of a list may be numbers.
fn words_or_numbers(schema: &mut Schema) {
    schema.insert(
        "items".to_owned(),
        serde_json::json!({ "anyOf": [{ "type": "string" }, { "type": "integer", "minimum": 0 }] }),
    );
}
