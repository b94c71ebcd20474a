//! Of the tests of PaDiM and PatchCore: the golden values that `tests/golden/stage_maps.py` writes, and banks of made-up stages.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{DType, Device, Tensor};

use super::{Bank, DetectorConfig, Fit, Scores, feature_file::InMemory};

#[derive(serde::Deserialize)]
pub struct Golden {
    image_size: [usize; 2],
    train: BTreeMap<String, Stage>,
    test: BTreeMap<String, Stage>,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Stage {
    shape: [usize; 4],
    values: Vec<f32>,
}

#[derive(serde::Deserialize)]
struct Case {
    settings: String,
    grid: [usize; 2],
    maps: Vec<f32>,
    scores: Vec<f32>,
}

impl Golden {
    pub fn train(&self) -> Bank {
        self.bank(&self.train)
    }

    pub fn test(&self) -> Bank {
        self.bank(&self.test)
    }

    fn bank(&self, stages: &BTreeMap<String, Stage>) -> Bank {
        let tensor = |stage: &Stage| Tensor::from_vec(stage.values.clone(), &stage.shape, &Device::Cpu).unwrap();
        bank(stages.iter().map(|(name, stage)| (name.clone(), tensor(stage))).collect(), self.image_size)
    }

    /// Checks every case's maps and scores, to 1e-4.
    pub fn check(&self, detector: &str) {
        for case in &self.cases {
            let config = config(&format!("{detector}: {}", case.settings));
            let scores = score(&config, &self.train(), &self.test()).unwrap();
            let maps = scores.maps().unwrap();
            assert_eq!(maps.grid(), case.grid, "{}", case.settings);
            for (what, found, expected) in
                [("maps", maps.values(), &case.maps), ("scores", scores.as_slice(), &case.scores)]
            {
                assert_eq!(found.len(), expected.len());
                for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
                    let error = (found - expected).abs();
                    assert!(error <= 1e-4 * expected.abs(), "{}: {what} {at}: {found}, {expected}", case.settings);
                }
            }
        }
    }
}

pub fn config(yaml: &str) -> DetectorConfig {
    serde_saphyr::from_str(yaml).unwrap()
}

/// Stages alone, without logits and features.
pub fn bank(stages: Vec<(String, Tensor)>, image_size: [usize; 2]) -> Bank {
    let none = Tensor::zeros((0, 0), DType::F32, &Device::Cpu).unwrap();
    let batches = InMemory::new(stages).unwrap().with_image_size(image_size);
    Bank { batches: Some(Arc::new(batches)), ..Bank::new(none.clone(), none) }
}

pub fn score(config: &DetectorConfig, train: &Bank, test: &Bank) -> crate::Result<Scores> {
    config.build().fit(&Fit { train: Some(train), memory: 1 << 24, ..Fit::default() })?.score(test)
}
