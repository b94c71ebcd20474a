//! The tensors that a pickle of PyTorch's describes: views of storages, which need not be contiguous.
//!
//! A tensor is (storage, offset, sizes, strides). The pickle is read as data ([`pickle`](crate::pickle)), so a file cannot run
//! code. candle has a reader of its own; it refuses most strided tensors and skips tensors that it cannot read, and hostile
//! files make it allocate gigabytes or panic.
//!
//! Format: `torch/serialization.py` and `torch/_utils.py` (`_rebuild_tensor_v2`) of PyTorch 2.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    rc::Rc,
};

use candle_core::{DType, Device, Tensor};

use super::{elements, quoted, shortened};
use crate::pickle::{Id, Pickle, Value};

/// A pickle of more bytes describes no weights (a network of 10⁵ tensors has 20 MB).
pub(super) const LARGEST_PICKLE: u64 = 1 << 26;
/// Tensors may share storages (tied weights), so together they may be so many times larger than the file, and no more.
const LARGEST_GROWTH: u64 = 2;
/// PyTorch's own limit of a tensor's axes.
const MOST_AXES: usize = 64;
/// Where training scripts put the weights among the rest of a checkpoint.
const USUAL_KEYS: [&str; 5] = ["state_dict", "model_state_dict", "model", "net", "network"];

/// The tensors of the state dict by name; an error says what is wrong. What is no tensor is passed over.
///
/// `length` is the file's, in bytes: it bounds what the tensors take together. `storage` gives the bytes of a storage by its
/// key, and is asked once for each.
pub(super) fn tensors(
    pickle: &Pickle,
    length: u64,
    mut storage: impl FnMut(&str) -> Result<Vec<u8>, String>,
) -> Result<BTreeMap<String, Tensor>, String> {
    let (mut budget, mut unread) = (length.saturating_mul(LARGEST_GROWTH), length);
    let mut storages: BTreeMap<String, Rc<[u8]>> = BTreeMap::new();
    let mut tensors = BTreeMap::new();
    for (name, id) in state_dict(pickle)? {
        let at = |reason: String| format!("tensor {}: {reason}", quoted(name));
        let view = View::read(pickle, id).map_err(at)?;
        budget = (budget.checked_sub(view.bytes()))
            .ok_or_else(|| at("the tensors are far larger together than the file".into()))?;
        let bytes = match storages.entry(view.storage.clone()) {
            Entry::Occupied(entry) => entry.get().clone(),
            Entry::Vacant(entry) => {
                let bytes = storage(&view.storage).map_err(at)?;
                unread = (unread.checked_sub(bytes.len() as u64))
                    .ok_or_else(|| at("the storages are larger together than the file".into()))?;
                entry.insert(bytes.into()).clone()
            }
        };
        let tensor = view.tensor(&bytes).map_err(at)?;
        if tensors.insert(name.to_owned(), tensor).is_some() {
            return Err(at("occurs twice".into()));
        }
    }
    Ok(tensors)
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
            let class = pickle.global(*callable).map(|(module, name)| format!("{module}.{name}"));
            let class = class.map_or_else(String::new, |class| format!(" {}", shortened(&class)));
            return Err(format!("a whole Python object{class}, not a dictionary of tensors"));
        }
        _ => return Err("no dictionary of tensors".into()),
    };
    // Many keys may name one dictionary: each is looked into once.
    let mut looked_into = BTreeMap::new();
    let children: Vec<(&str, Id)> = items
        .iter()
        .filter_map(|(key, value)| Some((pickle.text(*key)?, *value)))
        .filter(|(_, value)| *looked_into.entry(*value).or_insert_with(|| !tensors(*value).is_empty()))
        .collect();
    if let Some((_, found)) = USUAL_KEYS.iter().find_map(|usual| children.iter().find(|(key, _)| key == usual)) {
        return Ok(tensors(*found));
    }
    let own = tensors(pickle.root());
    match children.as_slice() {
        _ if !own.is_empty() => Ok(own),
        [(_, found)] => Ok(tensors(*found)),
        [] => Err("no tensors".into()),
        several => {
            let keys: Vec<_> = several.iter().take(10).map(|(key, _)| quoted(key)).collect();
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
            return Err(format!("of a kind that is not supported ({})", shortened(function)));
        };
        let (dtype, storage, stored) = storage_of(pickle, *storage)?;
        let numbers = |id: Id| -> Option<Vec<usize>> {
            let items = pickle.items(id).filter(|items| items.len() <= MOST_AXES)?;
            items.iter().map(|id| pickle.size(*id)).collect()
        };
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

/// Element type, key and elements of a storage.
fn storage_of(pickle: &Pickle, id: Id) -> Result<(DType, String, usize), String> {
    let Stored { class, key, elements } = Stored::read(pickle, pickle.get(id)).ok_or("a storage of an unknown kind")?;
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
        other => return Err(format!("elements of a type that is not supported ({})", shortened(other))),
    };
    Ok((dtype, key.to_owned(), elements))
}

/// What a pickle says of a storage.
pub(super) struct Stored<'a> {
    /// PyTorch's class of it, which says the element type.
    class: &'a str,
    /// Its name in the file.
    pub(super) key: &'a str,
    /// How many elements it has.
    pub(super) elements: usize,
}

impl<'a> Stored<'a> {
    /// `("storage", torch.FloatStorage, key, location, elements)`, and before PyTorch 1.6 a sixth: `None`, or of which other
    /// storage it is a part, which nothing writes since 0.4.
    pub(super) fn read(pickle: &'a Pickle, value: &Value) -> Option<Self> {
        let Value::Persistent(identity) = value else { return None };
        let [kind, class, key, _, elements, rest @ ..] = pickle.items(*identity)? else { return None };
        let whole = rest.is_empty() || matches!(rest, [part] if *pickle.get(*part) == Value::Nothing);
        let ("storage", ("torch", class), true) = (pickle.text(*kind)?, pickle.global(*class)?, whole) else {
            return None;
        };
        Some(Self { class, key: pickle.text(*key)?, elements: pickle.size(*elements)? })
    }

    /// Bytes of an element, known also for types that are not read.
    pub(super) fn width(&self) -> Option<usize> {
        Some(match self.class {
            "ByteStorage" | "BoolStorage" | "CharStorage" => 1,
            "HalfStorage" | "BFloat16Storage" | "ShortStorage" => 2,
            "FloatStorage" | "IntStorage" => 4,
            "DoubleStorage" | "LongStorage" | "ComplexFloatStorage" => 8,
            "ComplexDoubleStorage" => 16,
            _ => return None,
        })
    }
}
