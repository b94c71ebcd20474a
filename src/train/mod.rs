//! Training: the loop ([`fit()`]), the [recipe], optimisers, schedules, checkpoints.

pub mod checkpoint;
mod fit;
mod fixed;
pub mod optim;
pub mod recipe;
pub mod schedule;

pub use fit::{Fitted, Job, fit};
pub use fixed::{Fixed, MOST_BYTES as MOST_FIXED_BYTES};
pub use recipe::Train;
