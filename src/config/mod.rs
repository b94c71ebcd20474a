//! What an experiment file may say, and how it is read.
//!
//! [`experiment`] holds the types: read it to know every key. [`load`] reads a file into them with precise errors,
//! [`overrides`] applies `key=value`, and [`sweep`] expands the grid.

pub mod experiment;
pub mod load;
pub mod named;
pub mod overrides;
pub mod sweep;

pub use experiment::*;
