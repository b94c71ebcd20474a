//! What an experiment file may say, and how it is read.
//!
//! [`experiment`] holds the types that are an experiment's own, [`methods`] what is compared, [`search`] what is chosen, [`tables`]
//! what is made of it. The keys of data sets, networks, losses, recipes and detectors stand with what they set: in
//! [`data`](crate::data), [`nn`](crate::nn), [`losses`](crate::losses), [`train`](crate::train) and
//! [`detectors`](crate::detectors). [`load`] reads a file, [`check`](mod@check) refuses what the types cannot ([`expect`] does for
//! a paper's numbers), [`overrides`] applies `key=value`, [`sweep`] expands the grid, [`smoke`](mod@smoke) shrinks an experiment to
//! seconds, and [`schema`](mod@schema) describes the file to editors.

pub mod check;
pub mod expect;
pub mod experiment;
pub mod load;
pub mod methods;
pub mod overrides;
pub mod schema;
pub mod search;
pub mod smoke;
pub mod sweep;
pub mod tables;
pub mod tasks;

pub use check::check;
pub use experiment::*;
pub use methods::{All, Detectors, Method, MethodEntry};
pub use schema::schema;
pub use search::{By, Grid, HeldOut, Validation};
pub use smoke::smoke;
pub use tables::*;
pub use tasks::{ALL_KINDS, Categories, DataKeys};
