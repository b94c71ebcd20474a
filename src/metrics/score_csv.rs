//! Scores in CSV: one number a line, or the column `score` of several columns.

use std::{
    io::{self, BufReader, Read as _},
    path::Path,
};

use super::files::NOT_FINITE;
use crate::{Error, Result, fs::ShortLines, printable, say};

/// The column that is read where there are several: that of `scores.csv` and of `predictions.csv`.
const COLUMN: &str = "score";

/// What a file must look like.
const FORM: &str =
    "one number per line, perhaps below a title; or several columns below a header, one of them called score";

/// Reads the scores of a CSV file, every number exactly.
///
/// # Errors
/// [`Error::Input`] with the line: what is no finite number, another number of columns than line 1 has, several columns without
/// one called `score`, and a first line that may be a header as well as a score.
pub(super) fn read(path: &Path) -> Result<Vec<f64>> {
    let file = ShortLines::new(crate::fs::open_regular(path)?.0);
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(file);
    let mut record = csv::ByteRecord::new();
    let mut scores = Vec::new();
    // The place of the scores among so many columns.
    let mut columns = None;
    // Numbers that are written without a point, the first apart.
    let mut whole = 0;
    // The first line, if it is a whole number.
    let mut first = None;
    while reader.read_byte_record(&mut record).map_err(|error| unreadable(path, error.into()))? {
        let start = record.position().map_or(0, csv::Position::byte);
        let bad = |what: String| match line_at(path, start) {
            Ok(line) => Error::input(format!("{}, line {line}: {what}", path.display())).hint(FORM),
            Err(error) => error,
        };
        if record.len() == 1 && record[0].is_empty() {
            continue;
        }
        let (place, count) = match columns {
            Some(columns) => columns,
            None => {
                let header = header(&record).map_err(bad)?;
                columns = header.or(Some((0, 1)));
                if header.is_some() {
                    continue;
                }
                first =
                    std::str::from_utf8(&record[0]).ok().filter(|text| text.parse::<i64>().is_ok()).map(str::to_owned);
                (0, 1)
            }
        };
        if record.len() != count {
            let columns = |count: usize| if count == 1 { "1 column".to_owned() } else { format!("{count} columns") };
            return Err(bad(format!("{}, where the first line has {}", columns(record.len()), columns(count))));
        }
        let text = String::from_utf8_lossy(&record[place]);
        match text.parse::<f64>() {
            Ok(score) if score.is_finite() => {
                whole += usize::from(!scores.is_empty() && text.parse::<i64>().is_ok());
                scores.push(score);
            }
            Ok(score) => {
                let index = scores.len();
                return Err(bad(format!("the score with index {index} (counted from 0) is {score}")).hint(NOT_FINITE));
            }
            Err(_) => return Err(bad(format!("\"{}\" is not a number", printable(&text)))),
        }
    }
    let others = scores.len().saturating_sub(1);
    if let Some(first) = first.filter(|_| others > 0) {
        let place = format!("{}, line 1: {}", path.display(), printable(&first));
        if whole == 0 && first == "0" {
            let message =
                format!("{place} is a header or a score; the {others} numbers below it are written with a point");
            return Err(Error::input(message).hint(
                "pandas writes 0 above scores without a name: name them, to_csv(path, index=False, header=[\"score\"]); a score \
                 of 0 is written 0.0",
            ));
        }
        if whole > 0 && first != "0" {
            // Whole numbers stand below it, too: they are scores.
            return Ok(scores);
        }
        // A column's number above its scores, or a score that was written without a point.
        say(format!("{place} is counted as a score, of {}; as a header it would be called score", others + 1));
    }
    Ok(scores)
}

/// A line that is too long is the file's fault, anything else the system's.
fn unreadable(path: &Path, error: io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::InvalidData => Error::input(format!("{}: {error}", path.display())).hint(FORM),
        _ => Error::io("read", path)(error),
    }
}

/// The place of the scores and the number of columns, if the first line is a header.
fn header(record: &csv::ByteRecord) -> Result<Option<(usize, usize)>, String> {
    let names: Vec<String> = record.iter().map(|name| String::from_utf8_lossy(name).to_lowercase()).collect();
    let places: Vec<usize> = (0..names.len()).filter(|place| names[*place] == COLUMN).collect();
    match (&names[..], &places[..]) {
        (_, [place]) => Ok(Some((*place, names.len()))),
        ([name], _) => {
            // A number is none, however damaged.
            let is_title =
                name.parse::<f64>().is_err() && name.starts_with(|c: char| c.is_alphabetic() || "_#".contains(c));
            Ok(is_title.then_some((0, 1)))
        }
        (_, []) => Err(format!("{} columns, and none is called {COLUMN}", names.len())),
        (_, several) => Err(format!("{} columns are called {COLUMN}", several.len())),
    }
}

/// The line, from 1, of the record that starts at this byte, or after the line ends there.
fn line_at(path: &Path, start: u64) -> Result<usize> {
    let file = BufReader::new(crate::fs::open_regular(path)?.0);
    let mut line = 1;
    for (at, byte) in (0..).zip(file.bytes()) {
        let byte = byte.map_err(Error::io("read", path))?;
        if at >= start && !matches!(byte, b'\r' | b'\n') {
            break;
        }
        line += usize::from(byte == b'\n');
    }
    Ok(line)
}
