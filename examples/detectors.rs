//! What detectors cost on features that are given: seconds to fit and to score, those of the
//! processors, the most memory. Called by `make bench-detectors`.
//!
//!     detectors TRAIN.safetensors TEST.safetensors DETECTOR...
//!
//! prints one line of JSON for each detector: a name, or YAML as in an experiment, such as `patchcore: { reweight: 9 }`.

#[path = "common/clock.rs"]
mod clock;
mod common;

use std::path::Path;

use clock::Clock;
use oodkit::{
    Error, Result,
    detectors::{DetectorConfig, Fit, Learns, feature_file::FeatureFile},
};

// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As `evaluation.fit_memory`.
const MEMORY: usize = 2 << 30;

fn main() -> Result<()> {
    oodkit::ops::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [train, test, detectors @ ..] = &arguments[..] else {
        return Err(Error::input("`detectors TRAIN.safetensors TEST.safetensors DETECTOR...`"));
    };
    let read = |path: &String| FeatureFile::read(Path::new(path), true);
    let (train, test) = (read(train)?, read(test)?);
    for yaml in detectors {
        let config = serde_saphyr::from_str::<DetectorConfig>(yaml);
        let config = config.map_err(|error| Error::input(format!("{yaml}: {error}")))?;
        let (name, detector) = (config.name(), config.build());
        let (known, scored) = (train.bank(&config, detector.learns())?, test.bank(&config, Learns::Nothing)?);
        let wants_train = detector.learns() != Learns::Nothing;
        let fit = Fit { train: wants_train.then_some(&known), head: train.head(), memory: MEMORY, ..Fit::default() };
        let begun = Clock::start();
        let scorer = detector.fit(&fit)?;
        let [fit, fit_cpu] = begun.add([0.0; 2]);
        let begun = Clock::start();
        scorer.score(&scored)?;
        let [score, score_cpu] = begun.add([0.0; 2]);
        println!(
            "{}",
            serde_json::json!({
                "name": name, "fit": fit, "score": score, "fit_cpu": fit_cpu, "score_cpu": score_cpu, "peak_mib": common::peak(),
            })
        );
    }
    Ok(())
}
