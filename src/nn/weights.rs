//! Weights in and out: safetensors and PyTorch's `.pth`, and whether they fit a network.

mod pickle;
mod pth;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use safetensors::tensor::View;
use safetensors::{Dtype, SafeTensors};

use crate::{Error, Result, did_you_mean, tensor_file};

/// What wrappers put before every name: `DataParallel` and `torch.compile`.
const WRAPPERS: [&str; 2] = ["module.", "_orig_mod."];
/// Batch norm's step counter, which no network of ours has.
const COUNTER: &str = "num_batches_tracked";
/// What `torch.save` wrote before 1.6: protocol 2, then its magic number as a long of ten bytes.
const LEGACY: [u8; 14] = *b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19";

/// Reads all tensors of a file, by name, to the CPU, each with the element type it is stored with (truth values as u8).
///
/// The file's contents decide what it is: safetensors, or the zip archive that `torch.save` writes since PyTorch 1.6,
/// holding a state dict or a checkpoint with one in it (`state_dict`, `model`, …). Strided and shared storages are followed.
/// A pickle is read as data, so no file can run code. If every name starts with `module.` (`DataParallel`) or
/// `_orig_mod.` (`torch.compile`), that is taken off.
///
/// # Errors
/// [`Error::Io`] if the file cannot be read; [`Error::Input`], naming the file, if it is neither, is damaged, claims
/// sizes that it does not have, holds element types that candle lacks, or is in PyTorch's older format.
pub fn read(path: &Path) -> Result<BTreeMap<String, Tensor>> {
    let refuse = |reason: String| {
        Error::input(format!("cannot use the weights {}: {reason}", path.display()))
            .hint("save `model.state_dict()` with `torch.save`, or write a safetensors file")
    };
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let mut start = Vec::new();
    file.by_ref().take(LEGACY.len() as u64).read_to_end(&mut start).map_err(Error::io("read", path))?;
    file.seek(SeekFrom::Start(0)).map_err(Error::io("read", path))?;
    let tensors = if start.starts_with(b"PK\x03\x04") {
        pth::read(file).map_err(refuse)?
    } else if start == LEGACY {
        return Err(refuse("PyTorch's format from before 1.6".into()).hint(
            "convert it with a newer PyTorch: python -c \"import sys, torch; torch.save(torch.load(sys.argv[1], \
             map_location='cpu'), sys.argv[2])\" old.pth new.pth",
        ));
    } else if start.get(8) == Some(&b'{') {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        read_safetensors(&bytes).map_err(refuse)?.0
    } else {
        let reason =
            if start.is_empty() { "it is empty" } else { "neither safetensors nor a zip archive of PyTorch's" };
        return Err(refuse(reason.into()));
    };
    Ok(unwrapped(tensors))
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

/// Why weights do not fit a network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mismatch {
    /// Names that the network has and the weights lack, sorted.
    pub missing: Vec<String>,
    /// Names that the weights have and the network lacks, sorted.
    pub unexpected: Vec<String>,
    /// (name, wanted sizes, given sizes) of tensors of another shape, sorted by name.
    pub wrong_shape: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl Mismatch {
    /// As an [`Error::Input`] that names the file the weights came from.
    pub fn in_file(&self, path: &Path) -> Error {
        Error::input(format!("the weights {} do not fit the network: {self}", path.display()))
            .hint("check that the network's kind, its depth and its number of classes are those of the weights")
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let near = |name: &str| did_you_mean(name, self.unexpected.iter().map(String::as_str));
        let groups = [
            ("missing", self.missing.iter().map(|name| format!("{name}{}", near(name))).collect::<Vec<_>>()),
            ("unexpected", self.unexpected.clone()),
            (
                "of another shape",
                (self.wrong_shape.iter())
                    .map(|(name, wanted, given)| format!("{name} ({given:?} where {wanted:?} is wanted)"))
                    .collect(),
            ),
        ];
        let mut separator = "";
        for (what, names) in groups.iter().filter(|(_, names)| !names.is_empty()) {
            // A handful is enough to see what is going on.
            let shown = names.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
            let more = names.len().saturating_sub(5);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            write!(out, "{separator}{} {what}: {shown}{more}", names.len())?;
            separator = "; ";
        }
        Ok(())
    }
}

/// Whether `given` has exactly the tensors of `wanted` (sizes by name); batch norm's `num_batches_tracked` never counts.
///
/// # Errors
/// All the differences at once.
pub fn match_names(wanted: &BTreeMap<String, Vec<usize>>, given: &BTreeMap<String, Tensor>) -> Result<(), Mismatch> {
    let counts = |name: &&String| name.rsplit('.').next() != Some(COUNTER);
    let wanted_names: BTreeSet<_> = wanted.keys().filter(counts).collect();
    let given_names: BTreeSet<_> = given.keys().filter(counts).collect();
    let mismatch = Mismatch {
        missing: wanted_names.difference(&given_names).map(|name| (*name).clone()).collect(),
        unexpected: given_names.difference(&wanted_names).map(|name| (*name).clone()).collect(),
        wrong_shape: wanted
            .iter()
            .filter(|(name, _)| counts(name))
            .filter_map(|(name, sizes)| Some((name, sizes, given.get(name)?.dims())))
            .filter(|(_, wanted, given)| wanted.as_slice() != *given)
            .map(|(name, wanted, given)| (name.clone(), wanted.clone(), given.to_vec()))
            .collect(),
    };
    if mismatch == Mismatch::default() { Ok(()) } else { Err(mismatch) }
}

/// What a safetensors file says beside its tensors.
type Metadata = BTreeMap<String, String>;

/// The tensors and the metadata in the bytes of a safetensors file; an error says what is wrong with them.
pub(crate) fn read_safetensors(bytes: &[u8]) -> Result<(BTreeMap<String, Tensor>, Metadata), String> {
    let broken = |error| format!("a broken safetensors file: {error}");
    let file = SafeTensors::deserialize(bytes).map_err(broken)?;
    let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
    let metadata = header.metadata().iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        let dtype = match view.dtype() {
            Dtype::BOOL => DType::U8,
            other => DType::try_from(other)
                .map_err(|_| format!("tensor {name:?}: elements of a type that is not supported ({other:?})"))?,
        };
        elements(view.shape()).ok_or_else(|| format!("tensor {name:?}: impossible sizes {:?}", view.shape()))?;
        let tensor = Tensor::from_raw_buffer(view.data(), dtype, view.shape(), &Device::Cpu)
            .map_err(|error| format!("tensor {name:?}: {error}"))?;
        tensors.insert(name.to_owned(), tensor);
    }
    Ok((tensors, metadata))
}

/// How many elements these sizes make; `None` if the strides of such a tensor, even an empty one, would overflow.
fn elements(sizes: &[usize]) -> Option<usize> {
    sizes.iter().try_fold(1_usize, |product, size| product.checked_mul((*size).max(1)))?;
    Some(sizes.iter().product())
}

/// The same tensors without the prefixes that wrappers put before every name.
fn unwrapped(mut tensors: BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    while let Some(prefix) =
        WRAPPERS.iter().find(|prefix| !tensors.is_empty() && tensors.keys().all(|name| name.starts_with(**prefix)))
    {
        tensors = tensors
            .into_iter()
            .filter_map(|(name, tensor)| Some((name.strip_prefix(prefix)?.to_owned(), tensor)))
            .collect();
    }
    tensors
}
