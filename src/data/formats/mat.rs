//! Numeric arrays in MATLAB v5 `.mat` files: as much of the format as SVHN's files use.
//!
//! A file is a 128-byte header and elements; an element is a tag (type, bytes) and its data; an array is an element that
//! holds elements: flags, sizes, name, values; a compressed element is a zlib stream of one (MathWorks: "MAT-File Format",
//! Level 5). Written here because the `matfile` crate allocates what a file claims and keeps every array of it.

use std::{
    collections::BTreeMap,
    io::{self, BufReader, Read, Write},
    path::Path,
};

use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};

use super::idx::most_unpacked;
use crate::{Error, Result, data::unreadable, fs::open_regular};

/// An array, its values in column-major order.
#[derive(Debug, PartialEq)]
pub(super) struct Array {
    pub dims: Vec<usize>,
    pub values: Values,
}

/// Values of an array as far as images and labels need them.
#[derive(Debug, PartialEq)]
pub(super) enum Values {
    Bytes(Vec<u8>),
    Numbers(Vec<f64>),
}

// Element types, table 1-1 of the format.
const MATRIX: u32 = 14;
const COMPRESSED: u32 = 15;

/// More dimensions than any image array has.
const MAX_DIMS: u64 = 8;
/// MATLAB's longest name is 63.
const MAX_NAME: u64 = 255;
/// Most values of an array that does not hold unsigned bytes, each of which becomes an f64. Ours: 2 million, twenty times the
/// labels of SVHN's train split and four times those of its `extra`.
const MAX_NUMBERS: usize = 2 << 20;

/// Reads the arrays called `names`; others are skipped.
///
/// # Errors
/// `Error::Input` when the file is not MATLAB v5, is truncated, or an element claims more than the file can hold.
pub(super) fn read(path: &Path, names: &[&str]) -> Result<BTreeMap<String, Array>> {
    let (file, length) = open_regular(path)?;
    let mut file = BufReader::new(file);
    parse(&mut file, length, names).map_err(unreadable(path))
}

/// The content of a file of `length` bytes. Malformed content is an `io::Error` of kind `InvalidData` or `UnexpectedEof`.
fn parse(file: &mut impl Read, length: u64, names: &[&str]) -> io::Result<BTreeMap<String, Array>> {
    let mut header = [0; 128];
    file.read_exact(&mut header)?;
    let big_endian = match &header[124..] {
        [0, 1, b'I', b'M'] => false,
        [1, 0, b'M', b'I'] => true,
        _ => return Err(malformed("not a MATLAB v5 file (v7.3 files are HDF5, which is not read)")),
    };
    let mut arrays = BTreeMap::new();
    let mut source = Source { reader: file, left: length.saturating_sub(128), big_endian };
    while source.left > 0 {
        let (kind, size) = (source.u32()?, u64::from(source.u32()?));
        source.claim(size)?;
        let array = match kind {
            COMPRESSED => {
                let zipped = BufReader::new((&mut source.reader).take(size));
                let possible = most_unpacked(size);
                let mut inner = Source { reader: ZlibDecoder::new(zipped), left: possible, big_endian };
                let (kind, claimed) = (inner.u32()?, u64::from(inner.u32()?));
                inner.claim(claimed)?;
                inner.left = claimed;
                let array = if kind == MATRIX { array(&mut inner, names)? } else { None };
                // The end of the stream is where zlib compares its checksum.
                if array.is_some() && inner.reader.read(&mut [0])? > 0 {
                    return Err(malformed("a compressed element holds more than its array"));
                }
                // What the decoder left of this element.
                let mut zipped = inner.reader.into_inner().into_inner();
                io::copy(&mut zipped, &mut io::sink())?;
                array
            }
            _ => {
                let mut inner = Source { reader: (&mut source.reader).take(size), left: size, big_endian };
                let array = if kind == MATRIX { array(&mut inner, names)? } else { None };
                io::copy(&mut inner.reader, &mut io::sink())?;
                array
            }
        };
        source.left -= size;
        if let Some((name, array)) = array {
            arrays.insert(name, array);
        }
    }
    Ok(arrays)
}

/// The array of a matrix element, if it is numeric and wanted.
fn array(source: &mut Source<impl Read>, names: &[&str]) -> io::Result<Option<(String, Array)>> {
    let flags = source.element(8)?;
    let class = source.integers(&flags)?.first().copied().unwrap_or(0) as u64;
    let dims = source.element(4 * MAX_DIMS)?;
    let dims: Vec<usize> = source
        .integers(&dims)?
        .into_iter()
        .map(|size| usize::try_from(size).map_err(|_| malformed("an array has a negative size")))
        .collect::<io::Result<_>>()?;
    let name = source.element(MAX_NAME)?;
    let name = String::from_utf8_lossy(&name.bytes).into_owned();
    // Classes 6..=15 are numbers; bit 11 says complex.
    if !names.contains(&name.as_str()) || !(6..=15).contains(&(class & 0xff)) {
        return Ok(None);
    }
    if class & 0x0800 != 0 {
        return Err(malformed(format!("array {name} is complex")));
    }
    let values = source.element(source.left)?;
    let count = values.bytes.len() / values.width()?;
    let product = dims.iter().try_fold(1usize, |product, &size| product.checked_mul(size));
    if product != Some(count) || !values.bytes.len().is_multiple_of(values.width()?) {
        return Err(malformed(format!("array {name} claims {dims:?} values but holds {count}")));
    }
    if values.kind != 2 && count > MAX_NUMBERS {
        let what = format!(
            "array {name} holds {count} numbers that are no unsigned bytes; more than {MAX_NUMBERS} are not read"
        );
        return Err(malformed(what));
    }
    let values = if values.kind == 2 { Values::Bytes(values.bytes) } else { Values::Numbers(source.numbers(&values)?) };
    Ok(Some((name, Array { dims, values })))
}

/// An element without structure.
struct Element {
    kind: u32,
    bytes: Vec<u8>,
}

impl Element {
    /// Bytes of a value of this type.
    fn width(&self) -> io::Result<usize> {
        match self.kind {
            1 | 2 => Ok(1),
            3 | 4 => Ok(2),
            5..=7 => Ok(4),
            9 | 12 | 13 => Ok(8),
            kind => Err(malformed(format!("element type {kind} is not a number"))),
        }
    }
}

/// A reader that knows how much may still come.
struct Source<R> {
    reader: R,
    left: u64,
    big_endian: bool,
}

impl<R: Read> Source<R> {
    /// Refuses a claim of more than can come, before anything is allocated for it.
    fn claim(&self, size: u64) -> io::Result<()> {
        if size > self.left {
            return Err(malformed(format!("an element claims {size} bytes where at most {} remain", self.left)));
        }
        Ok(())
    }

    fn bytes(&mut self, size: u64) -> io::Result<Vec<u8>> {
        self.claim(size)?;
        let mut bytes = Vec::new();
        (&mut self.reader).take(size).read_to_end(&mut bytes)?;
        if (bytes.len() as u64) < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= size;
        Ok(bytes)
    }

    fn u32(&mut self) -> io::Result<u32> {
        let bytes = self.bytes(4)?;
        let bytes = bytes.try_into().map_err(|_| io::ErrorKind::UnexpectedEof)?;
        Ok(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// The next element, of at most `limit` bytes, and its padding to 8 bytes.
    fn element(&mut self, limit: u64) -> io::Result<Element> {
        let tag = self.u32()?;
        // The small form: size and type share a word, the data is in the next four bytes.
        if let size @ 1.. = tag >> 16 {
            if size > 4 {
                return Err(malformed(format!("a small element claims {size} bytes")));
            }
            let mut bytes = self.bytes(4)?;
            bytes.truncate(size as usize);
            return Ok(Element { kind: tag & 0xffff, bytes });
        }
        let size = u64::from(self.u32()?);
        if size > limit {
            return Err(malformed(format!("an element claims {size} bytes where at most {limit} make sense")));
        }
        let bytes = self.bytes(size)?;
        let padding = size.next_multiple_of(8) - size;
        // The last element of an array may lack its padding.
        self.bytes(padding.min(self.left))?;
        Ok(Element { kind: tag, bytes })
    }

    /// The values of a short element of 32-bit integers.
    fn integers(&self, element: &Element) -> io::Result<Vec<i64>> {
        if !matches!(element.kind, 5 | 6) || !element.bytes.len().is_multiple_of(4) {
            return Err(malformed(format!("element type {} where 32-bit integers belong", element.kind)));
        }
        Ok(self.numbers(element)?.into_iter().map(|number| number as i64).collect())
    }

    fn numbers(&self, element: &Element) -> io::Result<Vec<f64>> {
        let kind = element.kind;
        let number = |bytes: &[u8]| {
            // Into eight little-endian bytes, so that the narrow types are prefixes.
            let mut wide = [0; 8];
            let width = bytes.len();
            wide[..width].copy_from_slice(bytes);
            if self.big_endian {
                wide[..width].reverse();
            }
            let bits = u64::from_le_bytes(wide);
            match kind {
                1 => f64::from(bits as i8),
                3 => f64::from(bits as i16),
                5 => f64::from(bits as i32),
                7 => f64::from(f32::from_bits(bits as u32)),
                9 => f64::from_bits(bits),
                12 => bits as i64 as f64,
                _ => bits as f64,
            }
        };
        Ok(element.bytes.chunks_exact(element.width()?).map(number).collect())
    }
}

fn malformed(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// A file of byte arrays.
pub(super) fn write(arrays: &[(&str, Vec<usize>, Vec<u8>)], compressed: bool, big_endian: bool) -> Result<Vec<u8>> {
    let word = |value: usize| if big_endian { (value as u32).to_be_bytes() } else { (value as u32).to_le_bytes() };
    let element = |kind: usize, data: &[u8]| {
        let mut element = [word(kind), word(data.len())].concat();
        element.extend_from_slice(data);
        element.resize(element.len().next_multiple_of(8), 0);
        element
    };
    let mut file = b"MATLAB 5.0 MAT-file".to_vec();
    file.resize(124, b' ');
    file.extend(if big_endian { *b"\x01\x00MI" } else { *b"\x00\x01IM" });
    for (name, dims, values) in arrays {
        // Class 9 is uint8; element types: 6 uint32, 5 int32, 1 int8, 2 uint8, 14 array, 15 compressed.
        let flags = element(6, &[word(9), word(0)].concat());
        let dims = element(5, &dims.iter().flat_map(|dim| word(*dim)).collect::<Vec<u8>>());
        let array = element(14, &[flags, dims, element(1, name.as_bytes()), element(2, values)].concat());
        if compressed {
            let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
            let zipped =
                encoder.write_all(&array).and_then(|()| encoder.finish()).map_err(Error::io("write", "zlib"))?;
            // Compressed elements are not padded.
            file.extend([word(15), word(zipped.len())].concat());
            file.extend(zipped);
        } else {
            file.extend(array);
        }
    }
    Ok(file)
}
