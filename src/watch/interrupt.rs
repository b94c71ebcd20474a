//! Ctrl-C: finish the step, save a checkpoint, say how to go on. A second one stops at once.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use crate::{Error, Result};

/// Whether the user asked to stop. Clones share the same answer.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// One that is set by Ctrl-C, SIGTERM or SIGHUP; the second signal exits with 130 without waiting.
    ///
    /// # Errors
    /// If the process has another handler already.
    pub fn on_signals() -> Result<Self> {
        let interrupt = Self::default();
        let flag = interrupt.clone();
        ctrlc::set_handler(move || {
            if flag.0.swap(true, Ordering::SeqCst) {
                std::process::exit(130);
            }
            crate::say("\nstopping after this step; once more to stop at once");
        })
        .map_err(|error| Error::Failed(format!("cannot catch Ctrl-C: {error}")))?;
        Ok(interrupt)
    }

    /// Asks to stop, as Ctrl-C does.
    pub fn set(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether somebody asked to stop.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// [`Error::Interrupted`] if somebody asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.is_set() { Err(Error::Interrupted) } else { Ok(()) }
    }
}
