//! PyTorch's zip archives (`.pth`, `.pt`; what `torch.save` writes since 1.6) as tensors.
//!
//! An archive holds `<folder>/data.pkl`, a pickle that describes the tensors, and `<folder>/data/<key>`, the storages they
//! are views of: a tensor is (storage, offset, sizes, strides) and need not be contiguous. The pickle is read as data
//! ([`pickle`](super::pickle)), so a file cannot run code. candle has a reader of its own; it refuses most strided tensors
//! and skips tensors that it cannot read, and hostile files make it allocate gigabytes or panic.
//!
//! Format: `torch/serialization.py` and `torch/_utils.py` (`_rebuild_tensor_v2`) of PyTorch 2.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::rc::Rc;

use candle_core::{DType, Device, Tensor};
use zip::ZipArchive;

use super::elements;
use super::pickle::{Id, Pickle, Value};

/// A pickle larger than this describes no weights (a network of 10⁵ tensors has 20 MB).
const LARGEST_PICKLE: u64 = 1 << 28;
/// Tensors may share storages (tied weights), but not so that a small file fills the memory.
const LARGEST_GROWTH: u64 = 8;
/// Where training scripts put the weights among the rest of a checkpoint.
const USUAL_KEYS: [&str; 5] = ["state_dict", "model_state_dict", "model", "net", "network"];

/// The tensors of an archive by name; an error says what is wrong with it. What is no tensor is passed over.
pub(super) fn read(file: File) -> Result<BTreeMap<String, Tensor>, String> {
    let mut archive = Archive::open(file)?;
    let pickle = Pickle::parse(&archive.entry("data.pkl", LARGEST_PICKLE)?)?;
    let mut budget = archive.length.saturating_mul(LARGEST_GROWTH);
    let mut storages = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    for (name, id) in state_dict(&pickle)? {
        let view = View::read(&pickle, id).map_err(|reason| format!("tensor {name:?}: {reason}"))?;
        budget = (budget.checked_sub(view.bytes()))
            .ok_or_else(|| format!("tensor {name:?}: the tensors are far larger together than the file"))?;
        let storage = match storages.get(&view.storage) {
            Some(bytes) => Rc::clone(bytes),
            None => {
                let limit = archive.length;
                let bytes: Rc<[u8]> = archive.entry(&format!("data/{}", view.storage), limit)?.into();
                storages.insert(view.storage.clone(), Rc::clone(&bytes));
                bytes
            }
        };
        let tensor = view.tensor(&storage).map_err(|reason| format!("tensor {name:?}: {reason}"))?;
        if tensors.insert(name.to_owned(), tensor).is_some() {
            return Err(format!("tensor {name:?} occurs twice"));
        }
    }
    Ok(tensors)
}

struct Archive {
    zip: ZipArchive<BufReader<File>>,
    /// The archive's one folder, with its slash.
    folder: String,
    /// Bytes of the file, which no stored entry can exceed.
    length: u64,
}

impl Archive {
    fn open(file: File) -> Result<Self, String> {
        let length = file.metadata().map_err(|error| error.to_string())?.len();
        let zip = ZipArchive::new(BufReader::new(file)).map_err(|error| format!("a broken zip archive: {error}"))?;
        let pickles: Vec<_> = zip
            .file_names()
            .filter_map(|name| name.ok()?.strip_suffix("data.pkl").map(str::to_owned))
            .filter(|folder| folder.is_empty() || folder.ends_with('/'))
            .collect();
        let [folder] = pickles.as_slice() else {
            return Err(format!("a zip archive with {} data.pkl, where PyTorch's have one", pickles.len()));
        };
        let folder = folder.clone();
        let mut archive = Self { zip, folder, length };
        if archive.zip.file_names().any(|name| name.is_ok_and(|name| name == format!("{}byteorder", archive.folder)))
            && archive.entry("byteorder", 16)? != b"little"
        {
            return Err("written on a big-endian machine".into());
        }
        Ok(archive)
    }

    /// The bytes of `<folder>/<name>`, at most `limit` of them.
    fn entry(&mut self, name: &str, limit: u64) -> Result<Vec<u8>, String> {
        let path = format!("{}{name}", self.folder);
        let entry = self.zip.by_name(&path).map_err(|error| format!("archive entry {path}: {error}"))?;
        let size = entry.size();
        if size > limit.min(self.length) {
            return Err(format!("archive entry {path} claims {size} bytes"));
        }
        let mut bytes = Vec::new();
        entry.take(size).read_to_end(&mut bytes).map_err(|error| format!("archive entry {path}: {error}"))?;
        if bytes.len() as u64 != size {
            return Err(format!("archive entry {path} has {} of its {size} bytes", bytes.len()));
        }
        Ok(bytes)
    }
}

/// Names and values of the tensors of the state dict, wherever in the pickled object it is.
fn state_dict(pickle: &Pickle) -> Result<Vec<(&str, Id)>, String> {
    let tensors = |id: Id| -> Vec<(&str, Id)> {
        let Value::Dict(items) = pickle.get(id) else { return Vec::new() };
        let named = items.iter().filter_map(|(key, value)| Some((pickle.text(*key)?, *value)));
        named.filter(|(_, value)| rebuilt(pickle, *value).is_some()).collect()
    };
    let items = match pickle.get(pickle.root()) {
        Value::Dict(items) => items,
        Value::Call(callable, _) => {
            let class = pickle.global(*callable).map_or_else(String::new, |(module, name)| format!(" {module}.{name}"));
            return Err(format!("a whole Python object{class}, not a dictionary of tensors"));
        }
        _ => return Err("no dictionary of tensors".into()),
    };
    let children: Vec<_> = items
        .iter()
        .filter_map(|(key, value)| Some((pickle.text(*key)?, tensors(*value))))
        .filter(|(_, tensors)| !tensors.is_empty())
        .collect();
    if let Some((_, found)) =
        USUAL_KEYS.iter().find_map(|usual| children.iter().find(|(key, tensors)| key == usual && !tensors.is_empty()))
    {
        return Ok(found.clone());
    }
    let own = tensors(pickle.root());
    match children.as_slice() {
        _ if !own.is_empty() => Ok(own),
        [(_, found)] => Ok(found.clone()),
        [] => Err("no tensors".into()),
        several => {
            let keys: Vec<_> = several.iter().map(|(key, _)| format!("{key:?}")).collect();
            Err(format!("several dictionaries of tensors ({}), none under a usual name", keys.join(", ")))
        }
    }
}

/// The function and the arguments of a call that rebuilds a tensor.
fn rebuilt(pickle: &Pickle, id: Id) -> Option<(&str, &[Id])> {
    let Value::Call(callable, arguments) = pickle.get(id) else { return None };
    let (module, name) = pickle.global(*callable)?;
    let known = matches!(module, "torch._utils" | "torch._tensor") && name.starts_with("_rebuild");
    known.then_some((name, pickle.items(*arguments)?))
}

/// A tensor as the pickle describes it.
struct View {
    storage: String,
    dtype: DType,
    offset: usize,
    sizes: Vec<usize>,
    strides: Vec<usize>,
    /// Elements in all; not more than the storage has.
    count: usize,
    /// Elements of the storage.
    stored: usize,
}

impl View {
    fn read(pickle: &Pickle, id: Id) -> Result<Self, String> {
        let (function, arguments) = rebuilt(pickle, id).ok_or("no tensor")?;
        let arguments = match (function, arguments) {
            // A parameter or subclass around a plain tensor; two levels at most, so that nothing can go round in circles.
            ("_rebuild_parameter" | "_rebuild_parameter_with_state", [inner, ..]) => rebuilt(pickle, *inner)
                .filter(|(name, _)| *name == "_rebuild_tensor_v2")
                .map(|(_, arguments)| arguments),
            ("_rebuild_from_type_v2", [function, _, inner, ..]) => pickle
                .global(*function)
                .filter(|function| *function == ("torch._utils", "_rebuild_tensor_v2"))
                .and_then(|_| pickle.items(*inner)),
            ("_rebuild_tensor_v2" | "_rebuild_tensor", arguments) => Some(arguments),
            _ => None,
        };
        let Some([storage, offset, sizes, strides, ..]) = arguments else {
            return Err(format!("of a kind that is not supported ({function})"));
        };
        let (dtype, storage, stored) = storage_of(pickle, *storage)?;
        let numbers = |id: Id| -> Option<Vec<usize>> { pickle.items(id)?.iter().map(|id| pickle.size(*id)).collect() };
        let offset = pickle.size(*offset).ok_or("an impossible offset")?;
        let sizes = numbers(*sizes).ok_or("impossible sizes")?;
        let strides = numbers(*strides).filter(|strides| strides.len() == sizes.len()).ok_or("impossible strides")?;
        let count = elements(&sizes).ok_or_else(|| format!("impossible sizes {sizes:?}"))?;
        if count > stored {
            return Err(format!("{count} elements from a storage of {stored} (save it with .clone())"));
        }
        // The element that lies furthest must be in the storage.
        let furthest = sizes.iter().zip(&strides).try_fold(offset, |place, (size, stride)| {
            size.saturating_sub(1).checked_mul(*stride).and_then(|step| place.checked_add(step))
        });
        if count > 0 && furthest.is_none_or(|furthest| furthest >= stored) {
            return Err(format!(
                "sizes {sizes:?}, strides {strides:?} and offset {offset} leave its storage of {stored}"
            ));
        }
        Ok(Self { storage, dtype, offset, sizes, strides, count, stored })
    }

    fn bytes(&self) -> u64 {
        (self.count as u64).saturating_mul(self.dtype.size_in_bytes() as u64)
    }

    /// The elements in row-major order.
    fn tensor(&self, storage: &[u8]) -> Result<Tensor, String> {
        let width = self.dtype.size_in_bytes();
        if self.stored.checked_mul(width) != Some(storage.len()) {
            return Err(format!("its storage has {} bytes where {} elements are promised", storage.len(), self.stored));
        }
        let mut bytes = Vec::with_capacity(self.count * width);
        let mut index = vec![0; self.sizes.len()];
        let mut place = self.offset;
        for _ in 0..self.count {
            let start = place * width;
            bytes.extend_from_slice(storage.get(start..start + width).ok_or("it leaves its storage")?);
            // One further, as an odometer: from the last axis to the first.
            for ((at, size), stride) in index.iter_mut().zip(&self.sizes).zip(&self.strides).rev() {
                *at += 1;
                place += stride;
                if *at < *size {
                    break;
                }
                place -= *at * stride;
                *at = 0;
            }
        }
        Tensor::from_raw_buffer(&bytes, self.dtype, &self.sizes, &Device::Cpu).map_err(|error| error.to_string())
    }
}

/// Element type, key and elements of a storage: `("storage", torch.FloatStorage, key, location, elements)`.
fn storage_of(pickle: &Pickle, id: Id) -> Result<(DType, String, usize), String> {
    let Value::Persistent(identity) = pickle.get(id) else { return Err("no storage".into()) };
    let Some([kind, class, key, _, elements]) = pickle.items(*identity) else { return Err("no storage".into()) };
    let (Some("storage"), Some(("torch", class)), Some(key), Some(elements)) =
        (pickle.text(*kind), pickle.global(*class), pickle.text(*key), pickle.size(*elements))
    else {
        return Err("a storage of an unknown kind".into());
    };
    let dtype = match class {
        "FloatStorage" => DType::F32,
        "DoubleStorage" => DType::F64,
        "HalfStorage" => DType::F16,
        "BFloat16Storage" => DType::BF16,
        "LongStorage" => DType::I64,
        "IntStorage" => DType::I32,
        "ShortStorage" => DType::I16,
        // candle has no truth values; 0 and 1.
        "ByteStorage" | "BoolStorage" => DType::U8,
        other => return Err(format!("elements of a type that is not supported ({other})")),
    };
    Ok((dtype, key.to_owned(), elements))
}
