//! What `torch.save` wrote before PyTorch 1.6, and still writes with `_use_new_zipfile_serialization=False`.
//!
//! Five pickles one after the other: a magic number, the protocol's version, the machine's sizes, the object, and the list of
//! the storages' keys. Then, for each key in that order, the number of elements (8 bytes) and the elements.
//!
//! Format: `torch/serialization.py` (`_legacy_save`, `_legacy_load`) of PyTorch 2.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{Read, Seek, SeekFrom},
};

use candle_core::Tensor;

use super::{
    pth::{self, LARGEST_PICKLE, Stored},
    quoted,
};
use crate::pickle::{Pickle, Value};

/// The magic number, 0x1950a86a20f9469cfc6c, as the pickle holds it.
const MAGIC: &[u8] = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19";
/// Within how many bytes it stands, whatever the pickle's protocol.
pub(super) const START: u64 = 32;
/// The protocol's only version.
const PROTOCOL: i64 = 1001;

/// Whether a file that starts so is one of these.
pub(super) fn starts(bytes: &[u8]) -> bool {
    bytes.first() == Some(&0x80) && bytes.windows(MAGIC.len()).any(|window| window == MAGIC)
}

/// The tensors of the file by name; an error says what is wrong with it.
pub(super) fn read(mut file: File) -> Result<BTreeMap<String, Tensor>, String> {
    let io = |error: std::io::Error| error.to_string();
    let length = file.metadata().map_err(io)?.len();
    let mut start = Vec::new();
    file.by_ref().take(LARGEST_PICKLE).read_to_end(&mut start).map_err(io)?;
    let mut at = 0;
    let mut next = || {
        let (pickle, taken) = Pickle::parse_first(start.get(at..).unwrap_or_default())?;
        at += taken;
        Ok::<_, String>(pickle)
    };
    let (_magic, protocol, machine) = (next()?, next()?, next()?);
    if *protocol.get(protocol.root()) != Value::Int(PROTOCOL) {
        return Err("a version of PyTorch's older format that is not known".into());
    }
    if !little_endian(&machine) {
        return Err("written on a big-endian machine".into());
    }
    let (pickle, keys) = (next()?, next()?);
    let places = places(&pickle, &keys, at as u64, &mut file, length)?;
    pth::tensors(&pickle, length, |key| {
        let (start, count) = *places.get(key).ok_or_else(|| format!("no storage {}", quoted(key)))?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(start)).map_err(io)?;
        file.by_ref().take(count).read_to_end(&mut bytes).map_err(io)?;
        Ok(bytes)
    })
}

/// What `sys_info` says; files of all the machines that are left say so.
fn little_endian(machine: &Pickle) -> bool {
    let Value::Dict(items) = machine.get(machine.root()) else { return false };
    items
        .iter()
        .any(|(key, value)| machine.text(*key) == Some("little_endian") && *machine.get(*value) == Value::Bool(true))
}

/// Where in the file the bytes of each storage are, and how many, by its key.
fn places(
    pickle: &Pickle,
    keys: &Pickle,
    mut at: u64,
    file: &mut File,
    length: u64,
) -> Result<BTreeMap<String, (u64, u64)>, String> {
    let described = pickle.values().iter().filter_map(|value| Stored::read(pickle, value));
    let described: BTreeMap<_, _> = described.map(|stored| (stored.key.to_owned(), stored)).collect();
    let mut places = BTreeMap::new();
    for key in keys.items(keys.root()).ok_or("no list of storages")? {
        let key = keys.text(*key).ok_or("a storage without a name")?;
        let broken = |what: &str| format!("storage {}: {what}", quoted(key));
        let stored = described.get(key).ok_or_else(|| broken("nothing says what it holds"))?;
        let width = stored.width().ok_or_else(|| broken("elements of an unknown type"))? as u64;
        let mut count = [0; 8];
        file.seek(SeekFrom::Start(at)).map_err(|error| error.to_string())?;
        file.read_exact(&mut count).map_err(|_| broken("the file ends before it"))?;
        let count = u64::from_le_bytes(count);
        if count != stored.elements as u64 {
            return Err(broken(&format!("{count} elements where {} are promised", stored.elements)));
        }
        let bytes = count.checked_mul(width).ok_or_else(|| broken("an impossible size"))?;
        let end = (at + 8).checked_add(bytes).filter(|end| *end <= length);
        places.insert(key.to_owned(), (at + 8, bytes));
        at = end.ok_or_else(|| broken("the file ends within it"))?;
    }
    Ok(places)
}
