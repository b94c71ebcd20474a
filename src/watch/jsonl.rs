//! What happened, as one JSON object a line: `{"event":"step","step":1,"epoch":0,"lr":0.1,"loss":2.3,...}`.
//!
//! Lines carry no time of day, so the `step` and `epoch` lines of a run that was interrupted and continued equal those of
//! one that was not, byte for byte. The `started` lines differ (one for each beginning), and so do the `checkpoint` lines:
//! when they are due depends on the clock.

use std::{
    fs::{File, OpenOptions},
    io::{BufRead, BufReader, BufWriter, ErrorKind, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use indexmap::IndexMap;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    Error, Result,
    fs::{ShortLines, open_regular},
    watch::events::{Event, Observer},
};

/// The log's name in a network's folder.
pub const FILE: &str = "metrics.jsonl";

/// Writes every event to a file.
#[derive(Debug)]
pub struct Jsonl {
    path: PathBuf,
    file: BufWriter<File>,
    position: u64,
}

impl Jsonl {
    /// Its name in a checkpoint.
    pub const NAME: &str = "jsonl";

    /// Starts the file anew, or continues it after its first `keep_bytes` (a [`Jsonl::position`] that a checkpoint
    /// recorded): what was written after the checkpoint will be written again.
    ///
    /// # Errors
    /// The file cannot be opened, or is shorter than `keep_bytes`.
    pub fn open(path: &Path, keep_bytes: Option<u64>) -> Result<Self> {
        let (file, position) = continue_file(path, keep_bytes)?;
        Ok(Self { path: path.to_path_buf(), file: BufWriter::new(file), position })
    }

    /// Bytes written so far, all of them on disk: what a checkpoint records.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn position(&mut self) -> Result<u64> {
        self.file.flush().and_then(|()| self.file.get_ref().sync_data()).map_err(Error::io("write", &self.path))?;
        Ok(self.position)
    }
}

impl Observer for Jsonl {
    fn bookmark(&mut self) -> Result<Option<(&'static str, u64)>> {
        Ok(Some((Self::NAME, self.position()?)))
    }

    fn on(&mut self, event: &Event<'_>) -> Result<()> {
        let mut line = as_json(event).to_string();
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(Error::io("write", &self.path))?;
        self.position += line.len() as u64;
        match event {
            // Steps come by the thousand; everything else is worth seeing at once.
            Event::Step { .. } => Ok(()),
            _ => self.file.flush().map_err(Error::io("write", &self.path)),
        }
    }
}

/// What a log tells of a network's losses.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Losses {
    /// Of every step its number, from 1, and the whole loss.
    pub steps: Vec<(u64, f64)>,
    /// Of every term, unweighted, the same.
    pub terms: IndexMap<String, Vec<(u64, f64)>>,
    /// The mean over the held-out images after epochs, by the steps done then; empty where none were held out, or of a classifier, whose
    /// accuracy is looked at.
    pub held_out: Vec<(u64, f64)>,
}

/// The parts of a line that tell of losses.
#[derive(Deserialize)]
struct Line {
    event: String,
    step: u64,
    #[serde(default)]
    loss: Option<f64>,
    #[serde(default)]
    terms: IndexMap<String, Option<f64>>,
    #[serde(default)]
    validation: Option<f64>,
    #[serde(default)]
    accuracy: Option<f64>,
}

impl Losses {
    /// Reads a log; `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Input`] naming the line that is none of a log's.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let file = match open_regular(path) {
            Ok((file, _)) => file,
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut losses = Self::default();
        for (number, line) in BufReader::new(ShortLines::new(file)).lines().enumerate() {
            let wrong = |why: &dyn std::fmt::Display| {
                Error::input(format!("{}:{}: no line of a log: {why}", path.display(), number + 1))
                    .hint("remove the network's folder to train it anew")
            };
            let line = line.map_err(|error| wrong(&error))?;
            let line: Line = serde_json::from_str(&line).map_err(|error| wrong(&error))?;
            losses.take(line);
        }
        Ok(Some(losses))
    }

    fn take(&mut self, line: Line) {
        let step = line.step;
        match line.event.as_str() {
            "step" => {
                self.steps.extend(line.loss.map(|loss| (step, loss)));
                for (name, value) in line.terms {
                    self.terms.entry(name).or_default().extend(value.map(|value| (step, value)));
                }
            }
            // What is watched of a classifier, held-out images as well, is its accuracy.
            "epoch" if line.accuracy.is_none() => self.held_out.extend(line.validation.map(|loss| (step, loss))),
            _ => {}
        }
    }
}

/// Opens a log to write at its end: empty, or cut to its first `keep` bytes. Returns the file and its length.
pub(super) fn continue_file(path: &Path, keep: Option<u64>) -> Result<(File, u64)> {
    let mut file =
        OpenOptions::new().create(true).write(true).truncate(false).open(path).map_err(Error::io("open", path))?;
    let length = file.metadata().map_err(Error::io("read", path))?.len();
    let keep = keep.unwrap_or(0);
    if length < keep {
        return Err(Error::input(format!(
            "{} has {length} bytes, but the checkpoint was taken when it had {keep}",
            path.display()
        ))
        .hint("the log was changed by hand: delete the network's folder to train it anew"));
    }
    file.set_len(keep).and_then(|()| file.seek(SeekFrom::Start(keep))).map_err(Error::io("write", path))?;
    Ok((file, keep))
}

/// The same with more numbers.
fn with(mut line: Value, numbers: &[(&str, f64)]) -> Value {
    for (name, value) in numbers {
        line[*name] = json!(value);
    }
    line
}

fn as_json(event: &Event<'_>) -> Value {
    match *event {
        Event::Started { what, step, total } => json!({"event": "started", "what": what, "step": step, "total": total}),
        Event::Step { step, epoch, lr, loss, terms, watched } => {
            // A number that JSON does not have (NaN) becomes null.
            let terms: Map<String, Value> =
                terms.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
            let line = json!({"event": "step", "step": step, "epoch": epoch, "lr": lr, "loss": loss, "terms": terms});
            with(line, watched)
        }
        Event::Epoch { epoch, step, loss, watched, validation } => {
            let line = json!({"event": "epoch", "epoch": epoch, "step": step, "loss": loss});
            let mut line = with(line, watched);
            line["validation"] = json!(validation.map(|(_, value)| value));
            line
        }
        Event::Checkpoint { step } => json!({"event": "checkpoint", "step": step}),
        Event::Finished { step } => json!({"event": "finished", "step": step}),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(step: u64) -> Event<'static> {
        Event::Step {
            step,
            epoch: 0,
            lr: 0.1,
            loss: 2.5,
            terms: &[("cross_entropy", 2.5)],
            watched: &[("accuracy", 0.25)],
        }
    }

    #[test]
    fn a_continued_log_equals_an_undisturbed_one() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let (whole, cut) = (folder.path().join("whole.jsonl"), folder.path().join("cut.jsonl"));
        let mut log = Jsonl::open(&whole, None)?;
        (1..=4).try_for_each(|number| log.on(&step(number)))?;
        log.position()?;

        let mut log = Jsonl::open(&cut, None)?;
        (1..=2).try_for_each(|number| log.on(&step(number)))?;
        let checkpoint = log.position()?;
        log.on(&step(3))?;
        drop(log);
        let mut log = Jsonl::open(&cut, Some(checkpoint))?;
        (3..=4).try_for_each(|number| log.on(&step(number)))?;
        log.position()?;

        let text = std::fs::read_to_string(&cut).unwrap();
        assert_eq!(text, std::fs::read_to_string(&whole).unwrap());
        assert_eq!(
            text.lines().next(),
            Some(
                r#"{"event":"step","step":1,"epoch":0,"lr":0.1,"loss":2.5,"terms":{"cross_entropy":2.5},"accuracy":0.25}"#
            )
        );
        Ok(())
    }

    #[test]
    fn losses_are_read_as_they_were_written() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(FILE);
        assert_eq!(Losses::read(&path)?, None);
        let mut log = Jsonl::open(&path, None)?;
        log.on(&Event::Started { what: "base", step: 0, total: 2 })?;
        for (number, loss) in [(1, 2.5), (2, f64::NAN)] {
            let terms = [("denoising", loss), ("other", 0.5)];
            log.on(&Event::Step { step: number, epoch: 0, lr: 0.1, loss, terms: &terms, watched: &[] })?;
        }
        let epoch =
            |watched, name| Event::Epoch { epoch: 0, step: 2, loss: 1.0, watched, validation: Some((name, 0.75)) };
        log.on(&epoch(&[], "loss"))?;
        log.on(&epoch(&[("accuracy", 0.5)], "accuracy"))?;
        log.on(&Event::Checkpoint { step: 2 })?;
        log.on(&Event::Finished { step: 2 })?;
        drop(log);
        let of = |points: &[(u64, f64)]| points.to_vec();
        let terms = [("denoising", of(&[(1, 2.5)])), ("other", of(&[(1, 0.5), (2, 0.5)]))];
        let terms = terms.into_iter().map(|(name, points)| (name.to_owned(), points)).collect();
        let expected = Losses { steps: of(&[(1, 2.5)]), terms, held_out: of(&[(2, 0.75)]) };
        assert_eq!(Losses::read(&path)?, Some(expected));

        let mut text = std::fs::read_to_string(&path).unwrap();
        text.truncate(text.find("\"loss\"").unwrap());
        std::fs::write(&path, text).unwrap();
        let told = Losses::read(&path).unwrap_err().to_string();
        assert!(told.contains("metrics.jsonl:2: no line of a log: EOF"), "{told}");
        Ok(())
    }

    #[test]
    fn a_new_run_starts_anew_and_a_shortened_log_is_refused() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log.jsonl");
        std::fs::write(&path, "left over\n").unwrap();
        assert!(Jsonl::open(&path, Some(11)).unwrap_err().to_string().contains("has 10 bytes"));
        assert_eq!(Jsonl::open(&path, None)?.position()?, 0);
        Ok(())
    }
}
