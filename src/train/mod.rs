//! Training: the loop ([`fit()`]), optimisers, schedules, checkpoints.

pub mod checkpoint;
mod fit;
pub mod optim;
pub mod schedule;

pub use fit::{Fitted, Job, fit};
