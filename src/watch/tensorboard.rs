//! What happened, as scalars for TensorBoard.
//!
//! An event file is a sequence of records: length (u64), its masked CRC-32C, the data, and theirs; all little-endian.
//! The data are protocol-buffer messages `Event { wall_time = 1, step = 2, file_version = 3 | summary = 5 }` with
//! `Summary { value = 1 { tag = 1, simple_value = 2 } }`, few enough to encode by hand
//! (tensorflow: `core/lib/io/record_writer.h`, `core/util/event.proto`, `core/framework/summary.proto`).

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    Error, Result,
    watch::{
        events::{Event, Observer},
        jsonl::continue_file,
    },
};

/// The file's name: one per folder, so that a run continues in the file it began. TensorBoard asks only for `tfevents`.
pub const FILE: &str = "events.out.tfevents.oodkit";

/// Writes losses, learning rate and accuracies.
#[derive(Debug)]
pub struct TensorBoard {
    path: PathBuf,
    file: BufWriter<File>,
    position: u64,
    clock: fn() -> f64,
}

impl TensorBoard {
    /// Its name in a checkpoint.
    pub const NAME: &str = "tensorboard";

    /// Starts [`FILE`] in `folder` anew, or continues it after its first `keep` bytes (a [`TensorBoard::position`] that a
    /// checkpoint recorded).
    ///
    /// # Errors
    /// The file cannot be opened, or is shorter than `keep`.
    pub fn open(folder: &Path, keep: Option<u64>) -> Result<Self> {
        Self::with_clock(folder, keep, || {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
        })
    }

    /// [`TensorBoard::open`] with another clock (seconds since 1970): equal times give equal files.
    ///
    /// # Errors
    /// As [`TensorBoard::open`].
    pub fn with_clock(folder: &Path, keep: Option<u64>, clock: fn() -> f64) -> Result<Self> {
        std::fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
        let path = folder.join(FILE);
        let (file, position) = continue_file(&path, keep)?;
        let mut board = Self { path, file: BufWriter::new(file), position, clock };
        if position == 0 {
            let mut version = event(clock(), 0);
            field(&mut version, 3, b"brain.Event:2");
            board.record(&version)?;
        }
        Ok(board)
    }

    /// Bytes written so far, all of them on disk: what a checkpoint records.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn position(&mut self) -> Result<u64> {
        self.file.flush().and_then(|()| self.file.get_ref().sync_data()).map_err(Error::io("write", &self.path))?;
        Ok(self.position)
    }

    fn scalars(&mut self, step: u64, scalars: &[(&str, f64)]) -> Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut entry = Vec::new();
            field(&mut entry, 1, tag.as_bytes());
            entry.push(2 << 3 | 5);
            entry.extend((*value as f32).to_le_bytes());
            field(&mut summary, 1, &entry);
        }
        let mut event = event((self.clock)(), step);
        field(&mut event, 5, &summary);
        self.record(&event)
    }

    fn record(&mut self, data: &[u8]) -> Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend(length);
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(data);
        record.extend(masked_crc(data).to_le_bytes());
        self.file.write_all(&record).map_err(Error::io("write", &self.path))?;
        self.position += record.len() as u64;
        Ok(())
    }
}

impl Observer for TensorBoard {
    fn bookmark(&mut self) -> Result<Option<(&'static str, u64)>> {
        Ok(Some((Self::NAME, self.position()?)))
    }

    fn on(&mut self, event: &Event<'_>) -> Result<()> {
        match *event {
            Event::Step { step, lr, loss, terms, watched, .. } => {
                let names: Vec<_> = terms.iter().map(|(name, value)| (format!("loss/{name}"), *value)).collect();
                let shares: Vec<_> = watched.iter().map(|(name, share)| (format!("{name}/batch"), *share)).collect();
                let mut scalars = vec![("loss/total", loss), ("lr", lr)];
                scalars.extend(shares.iter().map(|(name, share)| (name.as_str(), *share)));
                scalars.extend(names.iter().map(|(name, value)| (name.as_str(), *value)));
                self.scalars(step, &scalars)
            }
            Event::Epoch { step, watched, validation, .. } => {
                let shares = watched.iter().map(|(name, share)| (format!("{name}/train"), *share));
                let validation = validation.map(|(name, value)| (format!("{name}/validation"), value));
                let named: Vec<_> = shares.chain(validation).collect();
                let scalars: Vec<_> = named.iter().map(|(name, value)| (name.as_str(), *value)).collect();
                self.scalars(step, &scalars)?;
                self.file.flush().map_err(Error::io("write", &self.path))
            }
            Event::Finished { .. } => self.file.flush().map_err(Error::io("write", &self.path)),
            Event::Started { .. } | Event::Checkpoint { .. } => Ok(()),
        }
    }
}

/// The CRC that TFRecord stores: rotated and shifted, so that the CRC of data that hold CRCs stays a good one.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// An `Event` message so far: wall time and step; like every protocol-buffer writer, without a step of 0.
fn event(wall_time: f64, step: u64) -> Vec<u8> {
    let mut message = vec![1 << 3 | 1];
    message.extend(wall_time.to_le_bytes());
    if step > 0 {
        message.push(2 << 3);
        varint(&mut message, step);
    }
    message
}

/// A field of bytes: text or an embedded message.
fn field(message: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    message.push(number << 3 | 2);
    varint(message, bytes.len() as u64);
    message.extend(bytes);
}

/// Seven bits a byte, lowest first, the top bit set on all but the last.
fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `tests/golden/tensorboard_events.py` writes, and reads, with the real TensorBoard.
    fn write(folder: &Path, keep: Option<u64>, steps: std::ops::RangeInclusive<u64>) -> Result<u64> {
        let mut board = TensorBoard::with_clock(folder, keep, || 1_700_000_000.25)?;
        for step in steps {
            let loss = 2.5 / step as f64;
            let terms = [("cross_entropy", loss), ("sparsity", 0.125)];
            board.on(&Event::Step { step, epoch: 0, lr: 0.1, loss, terms: &terms, watched: &[("accuracy", 0.5)] })?;
            if step % 200 == 0 {
                board.on(&Event::Epoch {
                    epoch: 0,
                    step,
                    loss,
                    watched: &[("accuracy", 0.75)],
                    validation: Some(("accuracy", 0.625)),
                })?;
            }
        }
        board.position()
    }

    #[test]
    fn the_bytes_are_those_of_the_real_tensorboard() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), None, 199..=201)?;
        let golden = include_bytes!("../../tests/golden/events.out.tfevents.oodkit");
        assert_eq!(std::fs::read(folder.path().join(FILE)).unwrap(), golden);
        Ok(())
    }

    #[test]
    fn a_continued_file_equals_an_undisturbed_one() -> Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let checkpoint = write(folder.path(), None, 199..=200)?;
        write(folder.path(), Some(checkpoint), 201..=250)?;
        write(folder.path(), Some(checkpoint), 201..=201)?;
        let golden = include_bytes!("../../tests/golden/events.out.tfevents.oodkit");
        assert_eq!(std::fs::read(folder.path().join(FILE)).unwrap(), golden);
        Ok(())
    }

    #[test]
    fn varints_are_little_endian_groups_of_seven() {
        let mut message = Vec::new();
        varint(&mut message, 300);
        assert_eq!(message, [0xac, 0x02]);
    }
}
