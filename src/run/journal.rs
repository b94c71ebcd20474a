//! The observers of a training run, cut back to its checkpoint when it continues.

use std::{collections::BTreeMap, path::Path};

use crate::{
    Result,
    watch::{
        events::Observer,
        jsonl::{self, Jsonl},
        progress::Progress,
        tensorboard::TensorBoard,
    },
};

/// Progress bar, `metrics.jsonl` and TensorBoard events of one network.
pub struct Journal {
    progress: Progress,
    jsonl: Jsonl,
    tensorboard: TensorBoard,
}

impl Journal {
    /// Opens the files in a network's folder; `positions` are those of the checkpoint it continues from.
    pub fn open(folder: &Path, positions: &BTreeMap<String, u64>) -> Result<Self> {
        Ok(Self {
            progress: Progress::on_stderr(),
            jsonl: Jsonl::open(&folder.join(jsonl::FILE), positions.get(Jsonl::NAME).copied())?,
            tensorboard: TensorBoard::open(folder, positions.get(TensorBoard::NAME).copied())?,
        })
    }

    /// All of them, for [`crate::train::fit()`].
    pub fn observers(&mut self) -> [&mut dyn Observer; 3] {
        [&mut self.progress, &mut self.jsonl, &mut self.tensorboard]
    }
}
