//! Training: the loop ([`fit()`]), the [recipe], optimisers, schedules, checkpoints, and first weights that were learned ([reptile]).

pub mod checkpoint;
mod fit;
mod fixed;
pub mod groups;
pub mod lookahead;
pub mod optim;
pub mod recipe;
pub mod reptile;
pub mod schedule;

pub use fit::{Fitted, Job, fit};
pub use fixed::{Fixed, MOST_BYTES as MOST_FIXED_BYTES};
pub use recipe::Train;
