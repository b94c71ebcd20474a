//! What images are brought to as they are read, and what becomes of those that cannot be read.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::registry::known;
use crate::config::Dataset;

/// Rows and columns of images: one number for both, or two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
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
    /// The most images.
    pub(super) limit: Option<usize>,
    pub(super) damaged: Damaged,
    /// Bytes of decoded images that may be held; `None` holds any.
    pub(super) memory: Option<u64>,
}
