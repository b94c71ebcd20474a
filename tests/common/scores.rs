//! Golden scores of detectors.

use candle_core::{Device, Tensor};

/// What a detector, as YAML, gives.
#[derive(serde::Deserialize)]
pub struct Reference {
    pub detector: String,
    pub expected: Vec<f64>,
}

pub fn tensor(rows: &[Vec<f32>]) -> Tensor {
    Tensor::from_vec(rows.concat(), (rows.len(), rows[0].len()), &Device::Cpu).unwrap()
}

/// Every score is within 10⁻⁶ of what is expected, relatively, or within 10⁻⁷.
#[track_caller]
pub fn assert_scores(scores: &[f32], expected: &[f64], what: &str) {
    assert_eq!(scores.len(), expected.len(), "{what}");
    for (score, expected) in scores.iter().zip(expected) {
        let error = (f64::from(*score) - expected).abs();
        assert!(error <= 1e-6 * expected.abs().max(0.1), "{what}: {score}, expected {expected}");
    }
}
