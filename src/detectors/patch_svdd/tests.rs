use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::{
    detectors::{DetectorConfig, feature_file::InMemory},
    nn::windows::{Windowed, Windows},
    pattern::uniform,
};

#[derive(serde::Deserialize)]
struct Golden {
    detector: Of,
}

#[derive(serde::Deserialize)]
struct Of {
    size: [usize; 2],
    train: usize,
    test: usize,
    features: usize,
    side: usize,
    stride: usize,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    settings: String,
    maps: Vec<f64>,
    scores: Vec<f64>,
}

impl Of {
    fn read() -> Self {
        serde_json::from_str::<Golden>(include_str!("../../../tests/golden/patch_svdd.json")).unwrap().detector
    }

    fn bank(&self, set: &str, images: usize) -> Bank {
        let sizes = [("large", 2 * self.side, 4 * self.stride), ("small", self.side, self.stride)];
        let windows = sizes.map(|(name, side, stride)| {
            let windows = Windows { side, stride };
            let [rows, columns] = windows.grid(self.size).unwrap();
            let features = uniform(&format!("{set} {name}"), &[images, self.features, rows, columns]);
            Windowed { name, windows, size: self.size, features: features.to_dtype(DType::F32).unwrap() }
        });
        let none = Tensor::zeros((images, 1), DType::F32, &Device::Cpu).unwrap();
        let batches = InMemory::new(vec![("none".to_owned(), none.clone())]).unwrap().with_windows(windows.to_vec());
        Bank { batches: Some(Arc::new(batches)), ..Bank::new(none.clone(), none) }
    }
}

fn fit(yaml: &str, train: &Bank, memory: usize) -> Result<Box<dyn Scorer>> {
    let config: DetectorConfig = serde_saphyr::from_str(yaml).unwrap();
    config.build().fit(&Fit { train: Some(train), memory, ..Fit::default() })
}

#[test]
fn maps_are_those_of_all_distances_pixel_by_pixel() {
    let golden = Of::read();
    let (train, test) = (golden.bank("train", golden.train), golden.bank("test", golden.test));
    assert_eq!(golden.cases.len(), 4);
    for Case { settings, maps, scores } in &golden.cases {
        let scorer = fit(&format!("patch_svdd: {{ {settings} }}"), &train, 1 << 20).unwrap();
        let found = scorer.score(&test).unwrap();
        let grid = found.maps().unwrap().grid();
        // Large windows alone are constant in larger cells.
        let cell = if settings.contains("large") { 4 * golden.stride } else { golden.stride };
        assert_eq!(grid, golden.size.map(|pixels| pixels.div_ceil(cell)), "{settings}");
        let [rows, columns] = golden.size.map(|pixels| pixels / golden.stride);
        let step = cell / golden.stride;
        let expected = (0..golden.test * rows * columns)
            .filter(|at| (at / columns % rows).is_multiple_of(step) && (at % columns).is_multiple_of(step))
            .map(|at| maps[at]);
        let expected: Vec<f64> = expected.collect();
        let near = |what: &str, found: &[f32], expected: &[f64]| {
            assert_eq!(found.len(), expected.len(), "{settings}");
            for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
                let error = (f64::from(*found) - expected).abs();
                assert!(error < 1e-5 * expected, "{settings}: {what} {at}: {found}, not {expected}");
            }
        };
        near("map", found.maps().unwrap().values(), &expected);
        near("score", found.as_slice(), scores);
    }
    let scorer = fit("patch_svdd", &train, 1 << 20).unwrap();
    let record = scorer.record().unwrap();
    assert_eq!((&record["patches"], &record["windows"]), (&(4 * (6 + 9 * 13)).into(), &"large small".into()));
    // A train image's own windows are at no distance.
    assert!(scorer.score(&train).unwrap().as_slice().iter().all(|score| *score == 0.0));
    let whole = scorer.score(&test).unwrap();
    let parts: Vec<f32> = (0..golden.test)
        .flat_map(|image| scorer.score(&test.subset(&[image]).unwrap()).unwrap().maps().unwrap().values().to_vec())
        .collect();
    assert_eq!(whole.maps().unwrap().values(), parts);
}

#[test]
fn what_cannot_be_fitted_is_said() {
    let golden = Of::read();
    let train = golden.bank("train", golden.train);
    let error = |yaml: &str, memory: usize| fit(yaml, &train, memory).err().unwrap();
    let small = error("patch_svdd", 1 << 10);
    assert_eq!(small.exit_code(), 2);
    assert!(
        small.to_string().contains("patch_svdd needs 1 MiB for all 492 windows of the train images, and may use 0 MiB"),
        "{small}"
    );
    let unknown = error("patch_svdd: { windows: [smal] }", 1 << 20).to_string();
    assert!(
        unknown
            .contains("windows: the network has none called \"smal\" (did you mean \"small\"?); it has large, small"),
        "{unknown}"
    );
    let other = Of { size: [48, 80], ..Of::read() };
    let message = fit("patch_svdd", &train, 1 << 20).unwrap().score(&other.bank("test", 1)).unwrap_err().to_string();
    assert!(message.contains("the windows \"large\" are not those that the detector learned"), "{message}");
}
