//! Score files: NumPy's `.npy` and plain `.csv`, and the metrics of two of them.
//!
//! The `.npy` reader is our own: npyz 0.9 multiplies the header's dimensions unchecked and parses nested brackets by
//! recursion, so that a hostile header ends the program. Only what scores need is read: one number per image.

use std::{
    io::{BufReader, BufWriter, Read, Write},
    path::Path,
};

use super::{intervals, measures, score_csv};
use crate::{
    Error, Result,
    fs::{read_if_there, write_atomic},
};

/// What to do with a file that is not what it should be.
const WRITE_ANEW: &str = "write it anew, in Python: numpy.save(\"scores.npy\", scores), one number for each image";

/// Why a number is refused.
pub(super) const NOT_FINITE: &str =
    "a score that is not a finite number has no place in a ranking; find out where it comes from";

/// Reads one score per image from a `.npy` file (one-dimensional or N × 1, any real number type but f2) or a `.csv` file
/// (one number per line below a title or none, or the column `score` below a header). Every number is kept exactly.
///
/// # Errors
/// [`Error::Input`] if the file is not of that form, is empty, or holds NaN or an infinity; with its index or line. So is a CSV
/// file whose first line may be a header or a score: pandas' `0`.
pub fn read_scores(path: &Path) -> Result<Vec<f64>> {
    let scores = match path.extension().map(|extension| extension.to_ascii_lowercase()) {
        Some(extension) if extension == "npy" => read_npy(path)?,
        Some(extension) if extension == "csv" => score_csv::read(path)?,
        _ => {
            return Err(
                Error::input(format!("{}: scores are read from .npy and .csv files", path.display())).hint(WRITE_ANEW)
            );
        }
    };
    if scores.is_empty() {
        return Err(Error::input(format!("{}: there are no scores", path.display())).hint(WRITE_ANEW));
    }
    match scores.iter().enumerate().find(|(_, score)| !score.is_finite()) {
        Some((index, score)) => {
            Err(Error::input(format!("{}: the score with index {index} (counted from 0) is {score}", path.display()))
                .hint(NOT_FINITE))
        }
        None => Ok(scores),
    }
}

/// Writes scores as a one-dimensional `.npy` file of f32 (little-endian, format 1.0), whole or not at all.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written.
pub fn write_npy(path: &Path, scores: &[f32]) -> Result<()> {
    write_array(path, &[scores.len()], scores)
}

/// Writes an array of this shape, its last axis running fastest, as [`write_npy`].
///
/// # Errors
/// [`Error::Io`] if the file cannot be written; [`Error::Failed`] unless the shape has as many elements.
pub fn write_array(path: &Path, shape: &[usize], values: &[f32]) -> Result<()> {
    if shape.iter().product::<usize>() != values.len() {
        return Err(Error::Failed(format!("{}: {} values are no {shape:?}", path.display(), values.len())));
    }
    let axes = shape.iter().map(|axis| format!("{axis},")).collect::<Vec<_>>().join(" ");
    // As NumPy writes it: a comma after the last axis only where it is the only one.
    let axes = if shape.len() > 1 { axes.trim_end_matches(',') } else { &axes };
    let mut header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({axes}), }}");
    // The header ends with a newline on a multiple of 64 bytes, so that the numbers can be memory-mapped.
    let padding = (PREFIX + header.len() + 1).next_multiple_of(64) - (PREFIX + header.len() + 1);
    header.push_str(&" ".repeat(padding));
    header.push('\n');
    write_atomic(path, |file| {
        let mut file = BufWriter::new(file);
        file.write_all(MAGIC)?;
        file.write_all(&[1, 0])?;
        file.write_all(&(header.len() as u16).to_le_bytes())?;
        file.write_all(header.as_bytes())?;
        for value in values {
            file.write_all(&value.to_le_bytes())?;
        }
        file.flush()
    })
}

/// Writes scores as CSV with the columns `file` and `score`, unless they stand there already. Without names of files, `file` is the
/// image's place in its set, from 0.
///
/// # Errors
/// [`Error::Io`] if the file cannot be written; [`Error::Failed`] unless there are as many names as scores.
pub(crate) fn write_csv(path: &Path, names: Option<&[String]>, scores: &[f32]) -> Result<()> {
    if let Some(names) = names.filter(|names| names.len() != scores.len()) {
        let message = format!("{}: {} files have {} scores", path.display(), names.len(), scores.len());
        return Err(Error::Failed(message));
    }
    let mut csv = csv::Writer::from_writer(Vec::new());
    let failed = |error: &dyn std::fmt::Display| Error::Failed(format!("cannot write {}: {error}", path.display()));
    csv.write_record(["file", "score"]).map_err(|error| failed(&error))?;
    for (image, score) in scores.iter().enumerate() {
        let name = names.map_or_else(|| image.to_string(), |names| names[image].clone());
        csv.write_record([name, score.to_string()]).map_err(|error| failed(&error))?;
    }
    let text = csv.into_inner().map_err(|error| failed(&error))?;
    match read_if_there(path)? {
        Some(there) if there == text => Ok(()),
        _ => write_atomic(path, |file| file.write_all(&text)),
    }
}

/// `oodkit metrics`: what two score files give, as lines of name and value, or as one JSON object.
///
/// Values are fractions of 1, gaps excepted, with as many digits as it takes to read the same f64 back. JSON has the keys of
/// the [measures](super::measures) of scores, then `n_id` and `n_ood`, then `intervals` with the two ends of each 95 % interval by
/// key ([`intervals`](fn@intervals)).
///
/// # Errors
/// As [`read_scores`].
pub fn run_cli(id: &Path, ood: &Path, json: bool) -> Result<String> {
    let (id, ood) = (read_scores(id)?, read_scores(ood)?);
    let metrics = measures::of_scores(&id, &ood)?;
    let counts = [("n_id", id.len()), ("n_ood", ood.len())];
    let intervals = intervals(&id, &ood, (0, ""), &[])?;
    if json {
        let mut object: serde_json::Map<_, _> =
            metrics.iter().map(|(key, value)| (key.clone(), (*value).into())).collect();
        object.extend(counts.map(|(key, count)| (key.to_owned(), count.into())));
        object.insert("intervals".to_owned(), serde_json::json!(intervals));
        return Ok(format!("{:#}", serde_json::Value::Object(object)));
    }
    let interval = |key: &String| intervals.get(key).map(|[low, high]| format!("  [{low:.4}, {high:.4}]"));
    let of = |(key, value): (&String, &f64)| format!("{value}{}", interval(key).unwrap_or_default());
    let values = metrics.iter().map(|(key, value)| (key.as_str(), of((key, value))));
    let lines: Vec<(&str, String)> = values.chain(counts.map(|(key, count)| (key, count.to_string()))).collect();
    let width = lines.iter().map(|(key, _)| key.len()).max().unwrap_or_default();
    let lines: Vec<String> = lines.iter().map(|(key, value)| format!("{key:width$}  {value}")).collect();
    let about =
        "in brackets: the 95 % interval over test images, by DeLong's variance of the AUROC, by a bootstrap of FPR95";
    Ok(if intervals.is_empty() { lines.join("\n") } else { format!("{}\n{about}", lines.join("\n")) })
}

const MAGIC: &[u8] = b"\x93NUMPY";

/// Bytes before the header's text in format 1.0: magic, version, length.
const PREFIX: usize = 10;

/// NumPy itself refuses longer headers (`max_header_size`).
const LONGEST_HEADER: usize = 10_000;

/// Bytes read at a time; a multiple of every item size.
const BLOCK: usize = 1 << 20;

fn read_npy(path: &Path) -> Result<Vec<f64>> {
    let (shape, scores) = read_array(path)?;
    match shape[..] {
        [_] | [_, 1] => Ok(scores),
        _ => {
            let message = format!("the array's shape is {shape:?}, but scores are one number per image, (N) or (N, 1)");
            Err(Error::input(format!("{}: {message}", path.display())).hint(WRITE_ANEW))
        }
    }
}

/// The shape of a `.npy` file's array and its numbers, the last axis running fastest.
///
/// # Errors
/// [`Error::Input`] if the file is none, its length is not what its header says, or its numbers are of another kind than
/// [`read_scores`] takes or in Fortran's order.
pub(crate) fn read_array(path: &Path) -> Result<(Vec<u64>, Vec<f64>)> {
    let bad = |what: String| Error::input(format!("{}: {what}", path.display())).hint(WRITE_ANEW);
    let io = || Error::io("read", path);
    let (file, size) = crate::fs::open_regular(path)?;
    let mut reader = BufReader::new(file);

    let mut prefix = Vec::new();
    reader.by_ref().take(8).read_to_end(&mut prefix).map_err(io())?;
    let wide = match prefix.strip_prefix(MAGIC) {
        Some([1, 0]) => false,
        Some([2 | 3, 0]) => true,
        Some([major, minor]) => return Err(bad(format!("version {major}.{minor} of the .npy format is unknown"))),
        _ => return Err(bad("not a .npy file: it does not start with \\x93NUMPY and a version".into())),
    };
    let mut length = [0; 4];
    let digits = if wide { &mut length[..] } else { &mut length[..2] };
    reader.read_exact(digits).map_err(|_| bad("the .npy header is cut off".into()))?;
    let length = u32::from_le_bytes(length) as usize;
    if length > LONGEST_HEADER {
        return Err(bad(format!("the .npy header claims {length} bytes; at most {LONGEST_HEADER} are read")));
    }
    let mut header = vec![0; length];
    reader.read_exact(&mut header).map_err(|_| bad("the .npy header is cut off".into()))?;
    let header = String::from_utf8_lossy(&header);
    let (item, shape) = parse_header(&header).map_err(bad)?;

    let start = if wide { PREFIX + 2 } else { PREFIX } + length;
    let count = shape.iter().try_fold(1_u64, |count, axis| count.checked_mul(*axis));
    let claimed = count.and_then(|count| count.checked_mul(item.size as u64)?.checked_add(start as u64));
    let Some(count) = count.filter(|_| claimed == Some(size)) else {
        return Err(bad(format!(
            "the header says {} numbers of {} bytes, but {} bytes follow it",
            count.map_or_else(|| format!("{shape:?}"), |count| count.to_string()),
            item.size,
            size.saturating_sub(start as u64)
        )));
    };

    // As large as the file says it is, which was just compared with the file itself.
    let mut scores = Vec::with_capacity(count as usize);
    let mut block = vec![0; BLOCK];
    let mut left = count as usize * item.size;
    while left > 0 {
        let block = &mut block[..left.min(BLOCK)];
        reader.read_exact(block).map_err(io())?;
        for bytes in block.chunks_exact(item.size) {
            let index = scores.len();
            let score = item.decode(bytes).ok_or_else(|| {
                bad(format!("the integer with index {index} is beyond ±2^53: f64 cannot hold it exactly"))
            })?;
            scores.push(score);
        }
        left -= block.len();
    }
    Ok((shape, scores))
}

/// How a number is stored: NumPy's type string, such as `<f4`.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Item {
    big_endian: bool,
    kind: char,
    size: usize,
}

impl Item {
    fn parse(descr: &str) -> Option<Self> {
        let mut chars = descr.chars();
        let big_endian = match chars.next()? {
            '<' | '|' | '=' => false,
            '>' => true,
            _ => return None,
        };
        let kind = chars.next()?;
        let size = chars.as_str().parse().ok()?;
        matches!((kind, size), ('f', 4 | 8) | ('i' | 'u', 1 | 2 | 4 | 8) | ('b', 1)).then_some(Self {
            big_endian,
            kind,
            size,
        })
    }

    /// The number in `bytes` of length `size`; `None` if f64 cannot hold it.
    fn decode(self, bytes: &[u8]) -> Option<f64> {
        // Into the low bytes of a little-endian u64.
        let mut low = [0; 8];
        for (place, byte) in low.iter_mut().zip(bytes) {
            *place = *byte;
        }
        if self.big_endian {
            low[..self.size].reverse();
        }
        let unsigned = u64::from_le_bytes(low);
        let exact = |integer: i128| (integer.unsigned_abs() <= 1 << 53).then_some(integer as f64);
        match (self.kind, self.size) {
            ('f', 4) => Some(f64::from(f32::from_bits(unsigned as u32))),
            ('f', _) => Some(f64::from_bits(unsigned)),
            ('i', size) => {
                let unused = 64 - 8 * size as u32;
                exact(i128::from((unsigned << unused).cast_signed() >> unused))
            }
            _ => exact(i128::from(unsigned)),
        }
    }
}

/// The item type and shape in a header such as `{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }`.
///
/// The order of an array with one axis that is longer than 1 is the same in C and Fortran; others must be in C's.
fn parse_header(header: &str) -> Result<(Item, Vec<u64>), String> {
    let value = |key: &str| {
        let (_, rest) = header.split_once(&format!("'{key}'")).ok_or(format!("the .npy header lacks '{key}'"))?;
        Ok::<_, String>(rest.trim_start().trim_start_matches(':').trim_start())
    };
    let descr = value("descr")?;
    let quoted = descr.strip_prefix('\'').and_then(|rest| rest.split_once('\'')).map(|(descr, _)| descr);
    let item = quoted.and_then(Item::parse).ok_or_else(|| {
        let shown: String = quoted.unwrap_or(descr).chars().take(20).collect();
        format!("numbers of type {shown:?} are not read; use scores.astype(\"float32\")")
    })?;
    let shape = value("shape")?;
    let shape = shape
        .strip_prefix('(')
        .and_then(|rest| rest.split_once(')'))
        .map(|(numbers, _)| numbers)
        .and_then(|numbers| {
            let numbers = numbers.split(',').map(str::trim).filter(|number| !number.is_empty());
            numbers.map(|number| number.parse().ok()).collect::<Option<Vec<u64>>>()
        })
        .ok_or("the .npy header's shape is not a tuple of numbers")?;
    if value("fortran_order")?.starts_with("True") && shape.iter().filter(|axis| **axis != 1).count() > 1 {
        return Err("the array is in Fortran's order; use numpy.ascontiguousarray".into());
    }
    Ok((item, shape))
}
