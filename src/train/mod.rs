//! Training: the loop ([`fit()`]), the [recipe], optimisers, schedules, checkpoints.

pub mod checkpoint;
mod fit;
pub mod optim;
pub mod recipe;
pub mod schedule;

pub use fit::{Fitted, Job, fit};
pub use recipe::Train;
