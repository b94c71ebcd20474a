//! What detectors cost on features that are given: seconds to fit and to score, the most memory. Called by `make bench-detectors`.
//!
//!     detectors TRAIN.safetensors TEST.safetensors NAME...
//!
//! prints one line of JSON for each detector, with its default settings.

mod common;

use std::{path::Path, time::Instant};

use oodkit::{
    Error, Result,
    detectors::{DetectorConfig, Fit, Need, feature_file::FeatureFile},
};

// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As `evaluation.fit_memory`.
const MEMORY: usize = 2 << 30;

fn main() -> Result<()> {
    oodkit::ops::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [train, test, names @ ..] = &arguments[..] else {
        return Err(Error::input("`detectors TRAIN.safetensors TEST.safetensors NAME...`"));
    };
    let read = |path: &String| FeatureFile::read(Path::new(path), &[Need::TrainLabels]);
    let (train, test) = (read(train)?, read(test)?);
    for name in names {
        let detector = DetectorConfig::default_of(name)?.build();
        let (known, scored) = (train.bank(name, detector.needs())?, test.bank(name, detector.needs())?);
        let wants_train = detector.needs().contains(&Need::Train);
        let fit = Fit { train: wants_train.then_some(&known), head: train.head(), memory: MEMORY, scratch: None };
        let begun = Instant::now();
        let scorer = detector.fit(&fit)?;
        let fit_seconds = begun.elapsed().as_secs_f64();
        let begun = Instant::now();
        scorer.score(&scored)?;
        let score_seconds = begun.elapsed().as_secs_f64();
        println!(
            "{}",
            serde_json::json!({ "name": name, "fit": fit_seconds, "score": score_seconds, "peak_mib": common::peak() })
        );
    }
    Ok(())
}
