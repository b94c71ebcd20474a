//! What a run tells those who watch it: progress bar, JSONL, TensorBoard, tests.

use crate::Result;

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event<'a> {
    /// Training of a network starts, or continues.
    Started {
        /// `tuned, λ=0.01, seed 0`: what the progress bar is called.
        what: &'a str,
        /// Steps already done.
        step: u64,
        /// Steps in all.
        total: u64,
    },
    /// A step was taken.
    Step {
        /// From 1.
        step: u64,
        /// From 0.
        epoch: u64,
        /// The learning rate it used.
        lr: f64,
        /// The whole loss.
        loss: f64,
        /// Each term, unweighted, by name.
        terms: &'a [(&'static str, f64)],
        /// What else is watched, by name, as shares of the batch: a classifier's `accuracy`.
        watched: &'a [(&'a str, f64)],
    },
    /// An epoch ended.
    Epoch {
        /// From 0.
        epoch: u64,
        /// Steps done.
        step: u64,
        /// Mean loss over the epoch's images.
        loss: f64,
        /// What else is watched, by name, as shares of the epoch's train images (as seen while training).
        watched: &'a [(&'a str, f64)],
        /// On held-out train images, if some are: the `accuracy` of a classifier, else the mean `loss`.
        validation: Option<(&'static str, f64)>,
    },
    /// A checkpoint is about to be written: what was observed so far must be safe on disk.
    Checkpoint {
        /// Steps done.
        step: u64,
    },
    /// Training ended.
    Finished {
        /// Steps done.
        step: u64,
    },
}

/// Watches a run.
pub trait Observer {
    /// Called on the training thread; a failure stops the run.
    fn on(&mut self, event: &Event<'_>) -> Result<()>;

    /// Whether it looks at the network when this epoch, from 0, has ended. The network then has the weights that would be left.
    fn looks(&self, _epoch: u64) -> bool {
        false
    }

    /// The observer's name and the bytes it has written (and handed to the disk), if it writes a file that a continued run must cut back to
    /// where the checkpoint was.
    fn bookmark(&mut self) -> Result<Option<(&'static str, u64)>> {
        Ok(None)
    }
}
