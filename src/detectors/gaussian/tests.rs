use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

use super::*;
use crate::{
    detectors::{DetectorConfig, feature_file::InMemory},
    nn::windows::Windows,
    pattern::uniform,
};

#[derive(serde::Deserialize)]
struct Golden {
    size: [usize; 2],
    side: usize,
    stride: usize,
    grid: [usize; 2],
    features: usize,
    train: usize,
    test: usize,
    shrinkage: f64,
    distances: Vec<f64>,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    sigma: f64,
    map: Vec<Option<f64>>,
}

impl Golden {
    fn read() -> Self {
        serde_json::from_str(include_str!("../../../tests/golden/gaussian.json")).unwrap()
    }

    /// A set of images as a network shows their windows.
    fn bank(&self, name: &str, images: usize) -> Bank {
        let features = self.features(name, images);
        let seen = Windowed {
            name: "patch",
            windows: Windows { side: self.side, stride: self.stride },
            size: self.size,
            features,
        };
        let none = Tensor::zeros((images, 1), DType::F32, &Device::Cpu).unwrap();
        let batches = InMemory::new(vec![("none".to_owned(), none.clone())]).unwrap().with_windows(vec![seen]);
        Bank { batches: Some(Arc::new(batches)), ..Bank::new(none.clone(), none) }
    }

    /// Some channels vary more than others.
    fn features(&self, name: &str, images: usize) -> Tensor {
        let values = uniform(name, &[images, self.features, self.grid[0], self.grid[1]]);
        let scales = Tensor::new(&[2.0, 1.5, 1.0, 0.5, 0.25], &Device::Cpu).unwrap().reshape((1, 5, 1, 1)).unwrap();
        (values.broadcast_mul(&scales).unwrap() + 0.25).unwrap().to_dtype(DType::F32).unwrap()
    }
}

fn fit(yaml: &str, train: &Bank, memory: usize) -> Result<Box<dyn Scorer>> {
    let config: DetectorConfig = serde_saphyr::from_str(yaml).unwrap();
    config.build().fit(&Fit { train: Some(train), memory, ..Fit::default() })
}

#[test]
fn windows_are_measured_as_by_scikit_learn_and_spread_pixel_by_pixel() {
    let golden = Golden::read();
    let (train, test) = (golden.bank("train", golden.train), golden.bank("test", golden.test));
    for Case { sigma, map } in &golden.cases {
        let scorer = fit(&format!("gaussian: {{ of: windows, sigma: {sigma} }}"), &train, 1 << 20).unwrap();
        let record = scorer.record().unwrap();
        assert!((record["shrinkage"].as_f64().unwrap() - golden.shrinkage).abs() < 1e-6, "{record}");
        assert_eq!(record["rows"], golden.train * golden.grid[0] * golden.grid[1]);
        let scores = scorer.score(&test).unwrap();
        let maps = scores.maps().unwrap();
        assert_eq!(maps.grid(), golden.size.map(|pixels| pixels.div_ceil(golden.stride)));
        assert_eq!(maps.values().len(), map.len());
        assert!(map.iter().flatten().count() > map.len() / 2);
        for (at, (found, expected)) in maps.values().iter().zip(map).enumerate() {
            match expected {
                Some(expected) => {
                    assert!((f64::from(*found) - expected).abs() < 1e-4 * expected, "{at}: {found}, {expected}")
                }
                // What no window covers.
                None => assert!(found.is_finite(), "{at}"),
            }
        }
        // Distances themselves lie between the map's.
        let most = golden.distances.iter().copied().fold(0.0, f64::max);
        assert!(scores.as_slice().iter().all(|score| f64::from(*score) <= most * (1.0 + 1e-6)));
    }
}

#[test]
fn company_does_not_change_a_bit_and_what_does_not_fit_is_said() {
    let golden = Golden::read();
    let (train, test) = (golden.bank("train", 300), golden.bank("test", golden.test));
    let scorer = fit("gaussian: { of: windows }", &train, 1 << 20).unwrap();
    let whole = scorer.score(&test).unwrap();
    let parts: Vec<f32> = (0..golden.test)
        .flat_map(|image| scorer.score(&test.subset(&[image]).unwrap()).unwrap().maps().unwrap().values().to_vec())
        .collect();
    assert_eq!(whole.maps().unwrap().values(), parts);
    let error = |result: Result<Box<dyn Scorer>>| result.err().unwrap().to_string();
    let one = Golden { grid: [1, 1], size: [8, 8], ..Golden::read() };
    assert!(
        error(fit("gaussian: { of: windows }", &one.bank("train", 1), 1 << 20))
            .contains("gaussian needs 2 train images")
    );
    let small = error(fit("gaussian: { of: windows }", &train, 500));
    assert!(small.contains("gaussian needs 1 MiB for the covariance of 5 features, and may use 0 MiB"), "{small}");
    let other = Golden { size: [27, 17], ..Golden::read() };
    let message = scorer.score(&other.bank("test", 1)).unwrap_err().to_string();
    assert!(message.contains("the windows \"patch\" are not those that the detector learned"), "{message}");
}

/// Rows in parts of any size give one estimate.
#[test]
fn an_estimate_does_not_depend_on_how_rows_come() {
    let golden = Golden::read();
    let values = golden.features("rows", 90).flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let rows: Vec<f64> = values.iter().copied().map(f64::from).collect();
    let of = |together: usize| {
        let mut moments = LedoitWolf::new(golden.features);
        rows.chunks(together * golden.features).for_each(|rows| moments.add(rows));
        moments.estimate()
    };
    let (whole, parts) = (of(5000), of(7));
    assert!(rows.len() / golden.features > 1024, "more than a block");
    assert_eq!(whole, parts);
    // Rows that are all alike vary nowhere, and are not shrunk.
    let mut alike = LedoitWolf::new(2);
    alike.add(&[1.0, 2.0, 1.0, 2.0, 1.0, 2.0]);
    assert_eq!(alike.estimate(), (vec![1.0, 2.0], vec![0.0; 4], 0.0));
}
