//! Plan and execute an experiment, and record what came of it.
//!
//! [`mod@plan`] turns a file into a graph of networks, [`execute`] does what is missing of it, [`store`] keeps it, and
//! [`results`] is the record that tables are made from.

mod attack;
pub mod bank;
pub(crate) mod controls;
pub mod device;
mod digests;
mod evaluation;
pub mod execute;
pub mod journal;
pub mod layers;
pub mod map_view;
pub mod merge;
mod pixels;
pub mod plan;
pub mod predict;
pub mod pseudo_view;
pub mod published;
mod ready;
mod records;
pub mod results;
pub mod samples_view;
mod schema_1;
mod scoring;
mod search;
mod sets;
pub mod speed;
pub mod store;
mod subject;
mod together;
mod training;
pub mod view;
