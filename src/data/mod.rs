//! Data sets: held as u8, brought to one shape, augmented in batch.
//!
//! A format is one file with one function that reads a split into an [`ImageSet`]; [`registry`] lists the sets oodkit
//! knows by name; [`batches`] turns a set into shuffled, augmented train batches on a thread.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the files of a data set are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// MNIST's: `{train,t10k}-{images-idx3,labels-idx1}-ubyte`, plain or `.gz`; images may be alone.
    Idx,
    /// CIFAR-10's binary version: `data_batch_{1..5}.bin`, `test_batch.bin`.
    Cifar10,
    /// CIFAR-100's binary version: `train.bin`, `test.bin`; the fine labels are used.
    Cifar100,
    /// SVHN's cropped digits: `train_32x32.mat`, `test_32x32.mat` (MATLAB v5; label 10 is the digit 0).
    Svhn,
    /// FER2013's `fer2013.csv` (emotion, pixels, Usage): train = Training, test = PrivateTest.
    Fer2013,
    /// `train/<class>/*.png` and `test/<class>/*.png`; PNG or JPEG; classes in alphabetical order.
    ClassFolders,
    /// Any pictures under `test/` if there is one, else under the folder itself, without labels: for OOD sets.
    Folder,
}

/// Which part of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Split {
    /// What networks learn from.
    Train,
    /// What is reported on.
    Test,
}

/// The images of one split, in memory as bytes.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageSet {
    /// The data set's name.
    pub name: String,
    /// Which part of it.
    pub split: Split,
    /// 1 (grey) or 3 (RGB).
    pub channels: usize,
    /// Rows of a picture.
    pub height: usize,
    /// Columns of a picture.
    pub width: usize,
    /// (N, C, H, W), 0..=255.
    pub pixels: Vec<u8>,
    /// One class per image, from 0; `None` for unlabelled sets.
    pub labels: Option<Vec<u32>>,
    /// How many classes the set has; 0 without labels.
    pub classes: usize,
    /// How many images the complete split has, if known: fewer here means "subset" in every caption.
    pub full_size: Option<usize>,
    /// What a reader of a table must know of these images: `JPEG-recompressed`, `synthetic`.
    pub note: Option<String>,
}
