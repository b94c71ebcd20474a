//! Plan and execute an experiment, and record what came of it.

pub mod events;
pub mod results;
