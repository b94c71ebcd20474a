//! What images are brought to as they are read, and what becomes of those that cannot be read.

use std::borrow::Cow;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::Value;

use super::{conform, registry::known};
use crate::data::Dataset;

/// Rows and columns of images: one number for both, or two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Size {
    /// As many rows as columns.
    Square(usize),
    /// Rows, then columns.
    Sides([usize; 2]),
}

impl Size {
    /// Rows and columns.
    pub fn sides(self) -> [usize; 2] {
        match self {
            Self::Square(side) => [side, side],
            Self::Sides(sides) => sides,
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = Value::deserialize(deserializer)?;
        let side = |value: &Value| value.as_u64().and_then(|side| usize::try_from(side).ok());
        let size = match given.as_array().map(Vec::as_slice) {
            Some([rows, columns]) => side(rows).zip(side(columns)).map(|(rows, columns)| Self::Sides([rows, columns])),
            Some(_) => None,
            None => side(&given).map(Self::Square),
        };
        size.ok_or_else(|| {
            D::Error::custom(format_args!("{given} is no size: write `256`, or rows and columns, `[256, 192]`"))
        })
    }
}

/// How images are brought to another size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// How a pixel is made of others. Bilinear unless given, as in torchvision.
    #[serde(default)]
    pub mode: Mode,
    /// Whether a pixel is made of all that it covers where an image shrinks. True unless given, as torchvision does with images
    /// of files; OpenCV and albumentations do not. Nearest neighbours have none.
    #[serde(default = "crate::yaml::named::yes")]
    pub antialias: bool,
}

/// How a pixel is made of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Linear along rows and columns.
    #[default]
    Bilinear,
    /// Cubic along rows and columns: Keys' kernel, with a = −1/2 as in Pillow, and −3/4 as in PyTorch and OpenCV without
    /// anti-aliasing.
    Bicubic,
    /// The nearest pixel.
    Nearest,
}

/// How much of an image the size takes in.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Cut {
    /// The shorter side is resized to the size divided by this share, and what exceeds the size is cut off about the centre.
    Share(f64),
    /// Both sides are resized, and nothing is cut off.
    None(Uncropped),
}

impl<'de> Deserialize<'de> for Cut {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let given = Value::deserialize(deserializer)?;
        match (given.as_f64(), given.as_str()) {
            (Some(share), _) => Ok(Self::Share(share)),
            (_, Some("none")) => Ok(Self::None(Uncropped::None)),
            _ => Err(D::Error::custom(format_args!("{given} is no crop: write a share from 0.1 to 1, or `none`"))),
        }
    }
}

/// The word for no crop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Uncropped {
    /// `none`.
    None,
}

/// The median grey that every image is shifted to.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Brightness {
    /// In 0..1.
    Median(#[schemars(range(min = 0.0, max = 1.0))] f64),
}

impl Brightness {
    /// For captions.
    pub(super) fn in_words(self) -> String {
        let Self::Median(median) = self;
        format!("every image shifted to a median grey of {median}")
    }

    /// Shifts all bytes of an image (C, H, W) by one number, so that the median of its grey (of its luma, if it is RGB) is this one,
    /// to half a grey level. What leaves 0..=255 is cut off there.
    pub(super) fn shift(self, image: &mut [u8], channels: usize) {
        let Self::Median(median) = self;
        let luma = if channels == 3 { Cow::Owned(conform::luma(image)) } else { Cow::Borrowed(&*image) };
        // Up from a half, so that images of one grey become one grey whatever theirs was.
        let shift = (255.0 * median - median_of(&luma) + 0.5).floor() as i16;
        image.iter_mut().for_each(|byte| *byte = (i16::from(*byte) + shift).clamp(0, 255) as u8);
    }
}

/// The median of bytes, of an even number the mean of the two in the middle; 0 of none.
pub(super) fn median_of(bytes: &[u8]) -> f64 {
    let mut counts = [0_usize; 256];
    bytes.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
    let at = |place: usize| {
        let mut below = 0;
        let byte = counts.iter().position(|count| {
            below += count;
            below > place
        });
        byte.unwrap_or_default() as f64
    };
    (at(bytes.len().saturating_sub(1) / 2) + at(bytes.len() / 2)) / 2.0
}

/// A word under the key `brightness`.
#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum BrightnessWord {
    None,
    Median,
}

/// What the key `brightness` says.
#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum BrightnessKey {
    Word(BrightnessWord),
    Target(Brightness),
}

/// What is done for the key `brightness`.
pub(crate) fn brightness<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Brightness>, D::Error> {
    let given = Value::deserialize(deserializer)?;
    let key = BrightnessKey::deserialize(&given).map_err(|_| {
        D::Error::custom(format_args!("{given} is no brightness: write `none`, `median`, or `{{ median: 0.8 }}`"))
    })?;
    Ok(match key {
        BrightnessKey::Word(BrightnessWord::None) => None,
        BrightnessKey::Word(BrightnessWord::Median) => Some(Brightness::Median(MIDDLE)),
        BrightnessKey::Target(target) => Some(target),
    })
}

/// What `brightness: median` shifts to. Ours: the middle of the range, which needs to know nothing of other images.
const MIDDLE: f64 = 0.5;

/// How images are brought to their size and brightness.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Fit {
    /// Bilinear with anti-aliasing if none is given.
    pub(super) resize: Option<Resize>,
    /// A share of 1 if none is given.
    pub(super) crop: Option<Cut>,
    /// As it is if none is given.
    pub(super) brightness: Option<Brightness>,
}

impl Fit {
    /// Of a data set's keys.
    pub fn of(dataset: &Dataset) -> Self {
        Self { resize: dataset.resize, crop: dataset.crop, brightness: dataset.brightness }
    }

    /// The share of an image that is kept, or `None` where nothing is cut off.
    pub(super) fn share(self) -> Option<f64> {
        match self.crop {
            None => Some(1.0),
            Some(Cut::Share(share)) => Some(share),
            Some(Cut::None(_)) => None,
        }
    }

    /// Whether an image that has the size already stays as it is.
    pub(super) fn keeps(self) -> bool {
        self.share().is_none_or(|share| share >= 1.0) && self.brightness.is_none()
    }
}

/// What to do with an image that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Damaged {
    /// Stop before any work and name the file.
    #[default]
    Refuse,
    /// Leave it out; captions say how many there were.
    Skip,
}

/// Which symbolic links inside a set are followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Links {
    /// Those that lead to a place in the set's folder.
    Follow,
    /// All: what an archive of others links to is read as well.
    Anywhere,
}

/// What images are brought to; what is `None` follows the files, which must then agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Form {
    /// 1 or 3.
    pub(super) channels: Option<usize>,
    /// Rows and columns.
    pub(super) size: Option<[usize; 2]>,
}

impl Form {
    /// All of it.
    pub(super) fn exact([channels, height, width]: [usize; 3]) -> Self {
        Self { channels: Some(channels), size: Some([height, width]) }
    }

    /// What the configuration and the registry say: as many channels as there are means.
    pub(super) fn of(dataset: &Dataset) -> Self {
        let means = known(dataset.source()).map(|known| known.mean.len()).filter(|means| *means > 0);
        let channels = dataset.channels.or(dataset.mean.as_ref().map(Vec::len)).or(means);
        Self { channels, size: dataset.size.map(Size::sides) }
    }

    /// This form, and of what it leaves open, that of `shape`.
    pub(super) fn or(self, [channels, height, width]: [usize; 3]) -> [usize; 3] {
        let [height, width] = self.size.unwrap_or([height, width]);
        [self.channels.unwrap_or(channels), height, width]
    }
}

/// How files of images are read.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Wanted {
    pub(super) form: Form,
    pub(super) fit: Fit,
    /// The most images.
    pub(super) limit: Option<usize>,
    pub(super) damaged: Damaged,
    /// Bytes of decoded images that may be held; `None` holds any.
    pub(super) memory: Option<u64>,
}
