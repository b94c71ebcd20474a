//! oodkit: train, fine-tune, score and compare out-of-distribution and image-anomaly methods from YAML.
//!
//! Reading order: [`config`] (what a file may say) → [`run`] (plan and execute it) → [`data`], [`nn`], [`losses`],
//! [`models`], [`train`] (a trained model) → [`detectors`] (scores) → [`metrics`] (numbers) → [`report`] (tables, figures). Below them
//! all are [`yaml`] (text to values) and [`watch`] (events, progress bars, interrupts).
//!
//! The parts stand by themselves. Larger scores are more anomalous, everywhere:
//!
//! ```
//! use candle_core::{Device, Tensor};
//! use oodkit::detectors::energy::energy;
//!
//! let logits = |rows: [[f32; 2]; 2]| Tensor::new(&rows, &Device::Cpu);
//! let id = energy(&logits([[9.0, 0.0], [0.0, 7.0]])?, 1.0)?;
//! let ood = energy(&logits([[1.0, 0.0], [0.0, 8.0]])?, 1.0)?;
//! // Three of the four pairs are in order.
//! assert_eq!(oodkit::metrics::of_scores(&id, &ood)?["auroc"], 0.75);
//! # Ok::<(), oodkit::Error>(())
//! ```

pub mod config;
pub mod data;
pub mod detectors;
pub mod losses;
pub mod metrics;
pub mod models;
pub mod nn;
pub mod ops;
pub mod report;
pub mod rng;
pub mod run;
pub mod train;
pub mod watch;
pub mod yaml;

mod checksum;
mod digest;
mod error;
mod fs;
mod linalg;
#[cfg(test)]
mod pattern;
mod pickle;
#[cfg(test)]
mod rooms;
mod tensor_file;

pub use error::{Error, Result, did_you_mean, for_terminal, printable, say};
pub use fs::write_atomic;
