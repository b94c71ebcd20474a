//! Weights in and out: safetensors and PyTorch's `.pth`, and whether they fit a network.

pub mod fit;
pub mod names;

mod archive;
mod legacy;
mod pth;
mod settings;

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::Path,
};

use candle_core::{DType, Device, Tensor};
use safetensors::{
    Dtype, SafeTensors,
    tensor::{TensorView, View},
};

pub use fit::{Mismatch, match_names};
pub use settings::{Normalise, Weights, WeightsHead};

use crate::{Error, Result, checksum, tensor_file};

/// A file of more bytes is no network of ours: the largest has 0.6 GB.
const LARGEST_FILE: u64 = 1 << 33;
/// A header of more bytes describes no tensors that are weights.
const LARGEST_HEADER: u64 = 1 << 24;

/// Reads all tensors of a file, by name, to the CPU, each with the element type it is stored with (truth values as u8,
/// integers that candle has no type for as i64).
///
/// The file's contents decide what it is: safetensors, or what `torch.save` writes, a zip archive since PyTorch 1.6 and pickles
/// before, holding a state dict or a checkpoint with one in it (`state_dict`, `model`, …). Strided and shared storages are
/// followed. A pickle is read as data, so no file can run code. What a file may ask for is bounded by its length.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; [`Error::Input`], naming the file, if it is none of these, is damaged, claims
/// sizes that it does not have, or holds element types that candle lacks.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let refuse = |reason: String| {
        Error::input(format!("cannot use the weights {}: {reason}", path.display()))
            .hint("save `model.state_dict()` with `torch.save`, or write a safetensors file")
    };
    let (mut file, length) = open(path)?;
    if length > LARGEST_FILE {
        return Err(refuse(format!("it has {length} bytes, and at most {LARGEST_FILE} are read")));
    }
    let mut start = Vec::new();
    file.by_ref().take(legacy::START).read_to_end(&mut start).map_err(Error::io("read", path))?;
    file.seek(SeekFrom::Start(0)).map_err(Error::io("read", path))?;
    if start.starts_with(b"PK\x03\x04") {
        archive::read(file).map_err(refuse)
    } else if legacy::starts(&start) {
        legacy::read(file).map_err(refuse)
    } else if start.get(8) == Some(&b'{') {
        let mut bytes = Vec::new();
        file.take(length).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        Ok(read_safetensors(&bytes).map_err(refuse)?.0)
    } else if start.is_empty() {
        Err(refuse("it is empty".into()))
    } else {
        Err(refuse("neither safetensors nor a file of PyTorch's".into()))
    }
}

/// A regular file and its length.
fn open(path: &Path) -> Result<(File, u64)> {
    let metadata = std::fs::metadata(path).map_err(Error::io("read", path))?;
    if !metadata.is_file() {
        return Err(Error::input(format!("cannot use the weights {}: not a regular file", path.display())));
    }
    Ok((File::open(path).map_err(Error::io("read", path))?, metadata.len()))
}

/// Writes tensors as safetensors, all or nothing; the same tensors and metadata always give the same bytes.
///
/// Wider element types come first, so that each tensor is aligned, and names are sorted within a width.
///
/// # Errors
/// [`Error::Candle`] if a tensor cannot be brought to the CPU, [`Error::Io`] if the file cannot be written.
pub fn write(path: &Path, tensors: &BTreeMap<String, Tensor>, metadata: &BTreeMap<String, String>) -> Result<()> {
    let mut on_cpu = Vec::new();
    for (name, tensor) in tensors {
        on_cpu.push((name, tensor.to_device(&Device::Cpu)?));
    }
    on_cpu.sort_by_key(|(_, tensor)| std::cmp::Reverse(tensor.dtype().size_in_bytes()));
    let bytes: Vec<_> = on_cpu.iter().map(|(_, tensor)| View::data(tensor)).collect();
    let entries: Vec<_> = on_cpu
        .iter()
        .zip(&bytes)
        .map(|((name, tensor), bytes)| tensor_file::Entry {
            name,
            dtype: View::dtype(tensor),
            shape: tensor.dims(),
            bytes,
        })
        .collect();
    tensor_file::write(path, &entries, metadata)
}

/// What a safetensors file says beside its tensors.
type Metadata = BTreeMap<String, String>;

/// The tensors and the metadata in the bytes of a safetensors file; an error says what is wrong with them.
pub(crate) fn read_safetensors(bytes: &[u8]) -> Result<(BTreeMap<String, Tensor>, Metadata), String> {
    read_safetensors_of(bytes, |_| true)
}

/// As [`read_safetensors`], of the tensors with a wanted name; the others are not looked at.
pub(crate) fn read_safetensors_of(
    bytes: &[u8],
    wanted: impl Fn(&str) -> bool,
) -> Result<(BTreeMap<String, Tensor>, Metadata), String> {
    let broken = |error| format!("a broken safetensors file: {error}");
    let header = bytes.first_chunk().map_or(0, |length| u64::from_le_bytes(*length));
    if header > LARGEST_HEADER && header < bytes.len() as u64 {
        return Err(format!("a safetensors header of {header} bytes, where weights have a few thousand"));
    }
    if checksum::holds(bytes) == Some(false) {
        return Err(checksum::BROKEN.to_owned());
    }
    let file = SafeTensors::deserialize(bytes).map_err(broken)?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
    let metadata = header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter().filter(|(name, _)| wanted(name)) {
        elements(view.shape()).ok_or_else(|| format!("tensor {name:?}: impossible sizes {:?}", view.shape()))?;
        let tensor = of_view(&view).map_err(|reason| format!("tensor {name:?}: {reason}"))?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok((tensors, metadata))
}

/// The names of the tensors in the bytes of a safetensors file, sorted.
pub(crate) fn names_in_safetensors(bytes: &[u8]) -> Result<Vec<String>, String> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| format!("a broken safetensors file: {error}"))?;
    let mut names: Vec<String> = file.names().into_iter().map(str::to_owned).collect();
    names.sort_unstable();
    Ok(names)
}

/// A tensor of the file's own type; integers that candle has no type for are i64.
fn of_view(view: &TensorView<'_>) -> Result<Tensor, String> {
    let (bytes, shape) = (view.data(), view.shape());
    let integers = match view.dtype() {
        Dtype::I8 => Some(bytes.iter().map(|byte| i64::from(byte.cast_signed())).collect()),
        Dtype::U16 => {
            Some(bytes.as_chunks().0.iter().map(|bytes| i64::from(u16::from_le_bytes(*bytes))).collect::<Vec<_>>())
        }
        Dtype::U64 => {
            let integers = bytes.as_chunks().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
            Some(
                integers
                    .map(|integer| i64::try_from(integer).map_err(|_| format!("{integer} is larger than 2^63 - 1")))
                    .collect::<Result<_, _>>()?,
            )
        }
        _ => None,
    };
    let tensor = match (integers, view.dtype()) {
        (Some(integers), _) => Tensor::from_vec(integers, shape, &Device::Cpu),
        (None, Dtype::BOOL) => Tensor::from_raw_buffer(bytes, DType::U8, shape, &Device::Cpu),
        (None, other) => {
            let dtype =
                DType::try_from(other).map_err(|_| format!("elements of a type that is not supported ({other:?})"))?;
            Tensor::from_raw_buffer(bytes, dtype, shape, &Device::Cpu)
        }
    };
    tensor.map_err(|error| error.to_string())
}

/// How many elements these sizes make; `None` if the strides of such a tensor, even an empty one, would overflow.
fn elements(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(1_usize, |product, size| product.checked_mul((*size).max(1)))?;
    Some(sizes.iter().product())
}

/// A name from a file for a message: control characters escaped, and not too much of it.
fn quoted(name: &str) -> String {
    format!("{:?}", shortened(name))
}

/// Not too much of a name from a file.
fn shortened(name: &str) -> String {
    const MOST: usize = 80;
    let start: String = name.chars().take(MOST).collect();
    if start.len() < name.len() { start + "…" } else { start }
}
