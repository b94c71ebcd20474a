//! oodkit: train, fine-tune, score and compare out-of-distribution and image-anomaly methods from YAML.
//!
//! Reading order: [`config`] (what a file may say) → [`run`] (plan and execute it) → [`data`], [`nn`], [`losses`],
//! [`train`] (a trained network) → [`detectors`] (scores) → [`metrics`] (numbers) → [`report`] (tables, figures).

pub mod config;
pub mod data;
pub mod detectors;
pub mod losses;
pub mod metrics;
pub mod nn;
pub mod ops;
pub mod report;
pub mod rng;
pub mod run;
pub mod train;

mod digest;
mod error;
mod fs;
mod tensor_file;

pub use error::{Error, Result, did_you_mean};
