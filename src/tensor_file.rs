//! Writes safetensors files whose bytes depend on nothing but their contents.
//!
//! Each file carries a [`checksum`] in its metadata. The format's own crate keeps metadata in a hash map, so equal files would differ in the order of their keys; reading is
//! left to it.

use std::collections::BTreeMap;
use std::path::Path;

use safetensors::Dtype;

use crate::{Error, Result, checksum, fs};

/// A tensor on its way to a file.
pub(crate) struct Entry<'a> {
    /// Unique in its file.
    pub(crate) name: &'a str,
    /// Of its elements.
    pub(crate) dtype: Dtype,
    /// Sizes of its axes.
    pub(crate) shape: &'a [usize],
    /// Row-major, little-endian.
    pub(crate) bytes: &'a [u8],
}

/// Writes `entries` in their order (sort them), `metadata` and a checksum of all to `path`, all or nothing.
///
/// # Errors
/// [`Error::Failed`] if an entry's bytes do not fit its shape, [`Error::Io`] if the file cannot be written.
pub(crate) fn write(path: &Path, entries: &[Entry<'_>], metadata: &BTreeMap<String, String>) -> Result<()> {
    let mut header = serde_json::Map::new();
    // First, where it is looked for.
    let mut described = serde_json::Map::from_iter([(checksum::KEY.to_owned(), checksum::blank().into())]);
    described.extend(metadata.iter().map(|(key, value)| (key.clone(), value.as_str().into())));
    header.insert("__metadata__".into(), described.into());
    let mut start = 0;
    for Entry { name, dtype, shape, bytes } in entries {
        let bits = shape.iter().try_fold(dtype.bitsize(), |bits, size| bits.checked_mul(*size));
        if bits != bytes.len().checked_mul(8) || header.contains_key(*name) {
            return Err(Error::Failed(format!("tensor {name:?} cannot be stored as {dtype:?} {shape:?}")));
        }
        let end = start + bytes.len();
        let description = serde_json::json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] });
        header.insert((*name).into(), description);
        start = end;
    }
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    // Spaces after the header align the data to eight bytes.
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut start = (header.len() as u64).to_le_bytes().to_vec();
    start.append(&mut header);
    checksum::fill(&mut start, entries.iter().map(|entry| entry.bytes));
    fs::write_atomic(path, |out| {
        out.write_all(&start)?;
        entries.iter().try_for_each(|entry| out.write_all(entry.bytes))
    })
}
