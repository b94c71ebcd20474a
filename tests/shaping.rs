//! Detectors that change features, the last layer or feature maps, and then score: golden values and hostile input.

use candle_core::{DType, Device, Tensor};
use garde::Validate;
use oodkit::{
    Result,
    detectors::{Bank, DetectorConfig, Fit, Scorer},
    nn::Head,
};

#[derive(serde::Deserialize)]
struct Golden {
    weight: Vec<Vec<f32>>,
    bias: Vec<f32>,
    shaped: Vec<Shaped>,
}

#[derive(serde::Deserialize)]
struct Shaped {
    train: Vec<Vec<f32>>,
    features: Vec<Vec<f32>>,
    scores: Vec<Reference>,
}

#[derive(serde::Deserialize)]
struct Reference {
    detector: String,
    expected: Vec<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/shaping.json")).unwrap()
}

fn tensor(rows: &[Vec<f32>]) -> Tensor {
    Tensor::from_vec(rows.concat(), (rows.len(), rows[0].len()), &Device::Cpu).unwrap()
}

fn head(weight: &[Vec<f32>], bias: &[f32]) -> Head {
    Head { weight: tensor(weight), bias: Tensor::new(bias, &Device::Cpu).unwrap() }
}

fn of_features(features: &Tensor) -> Bank {
    Bank { logits: features.clone(), features: features.clone(), members: None, labels: None, activations: None }
}

fn config(yaml: &str) -> DetectorConfig {
    serde_saphyr::from_str(yaml).unwrap()
}

fn fit(yaml: &str, train: &Tensor, head: &Head) -> Result<Box<dyn Scorer>> {
    let train = of_features(train);
    config(yaml).build().fit(&Fit { train: Some(&train), head: Some(head), memory: 1 << 20, scratch: None })
}

#[track_caller]
fn assert_close(scores: &[f32], expected: &[f64], what: &str) {
    assert_eq!(scores.len(), expected.len(), "{what}");
    for (score, expected) in scores.iter().zip(expected) {
        let error = (f64::from(*score) - expected).abs();
        assert!(error <= 1e-6 * expected.abs().max(0.1), "{what}: {score}, expected {expected}");
    }
}

#[test]
fn shaped_energies_are_those_of_numpy_and_pytorch_ood() {
    let golden = golden();
    let head = head(&golden.weight, &golden.bias);
    for Shaped { train, features, scores } in &golden.shaped {
        let features = of_features(&tensor(features));
        for Reference { detector, expected } in scores {
            let scorer = fit(detector, &tensor(train), &head).unwrap();
            assert_close(scorer.score(&features).unwrap().as_slice(), expected, detector);
        }
    }
}

const SHAPING: [&str; 7] =
    ["react", "dice: { percentile: 50 }", "ash", "ash: { variant: s }", "ash: { variant: p }", "scale", "vra"];

#[test]
fn images_without_a_positive_feature_have_scores() {
    let golden = golden();
    let head = head(&golden.weight, &golden.bias);
    for detector in SHAPING {
        let scorer = fit(detector, &tensor(&golden.shaped[1].train), &head).unwrap();
        let rows = [vec![0.0; 16], vec![-1.0; 16], vec![f32::MIN_POSITIVE; 16], vec![1e6; 16]];
        assert_eq!(scorer.score(&of_features(&tensor(&rows))).unwrap().as_slice().len(), 4, "{detector}");
    }
    // 640 equal features of which 6 count: the exponent would be 107.
    let wide = Head {
        weight: Tensor::ones((2, 640), DType::F32, &Device::Cpu).unwrap(),
        bias: Tensor::new(&[0f32, 0.0], &Device::Cpu).unwrap(),
    };
    let even = Tensor::ones((1, 640), DType::F32, &Device::Cpu).unwrap();
    let scorer = fit("scale: { percentile: 99 }", &even, &wide).unwrap();
    let expected = -640.0 * 80f64.exp();
    assert_close(scorer.score(&of_features(&even)).unwrap().as_slice(), &[expected], "scale");
}

#[test]
fn nonsense_is_an_error() {
    let golden = golden();
    let good = head(&golden.weight, &golden.bias);
    let train = tensor(&golden.shaped[0].train);
    for detector in SHAPING {
        let error = |bank: &Bank, head: &Head| match fit(detector, &train, head).and_then(|scorer| scorer.score(bank)) {
            Ok(scores) => panic!("{detector}: {scores:?}"),
            Err(error) => error.to_string(),
        };
        let mut bad = golden.shaped[0].features.clone();
        bad[3][2] = f32::NAN;
        assert_eq!(error(&of_features(&tensor(&bad)), &good), "feature 2 of image 3 is NaN", "{detector}");
        let none = Tensor::zeros((0, 16), DType::F32, &Device::Cpu).unwrap();
        assert!(error(&of_features(&none), &good).contains("there is nothing to score"), "{detector}");
        let narrow = Head { weight: good.weight.narrow(1, 0, 15).unwrap(), bias: good.bias.clone() };
        assert!(error(&of_features(&train), &narrow).contains("16 features do not fit"), "{detector}");
        let broken = Head { weight: good.weight.clone(), bias: good.bias.affine(f64::NAN, 0.0).unwrap() };
        assert!(error(&of_features(&train), &broken).contains("of the last layer is NaN"), "{detector}");
        let headless = config(detector).build();
        let fit = Fit { train: Some(&of_features(&train)), ..Fit::default() };
        assert!(headless.fit(&fit).err().unwrap().to_string().contains("needs the last linear layer"), "{detector}");
    }
    for detector in ["react", "vra", "dice"] {
        for bad in [of_features(&Tensor::zeros((0, 16), DType::F32, &Device::Cpu).unwrap()), {
            let mut bad = golden.shaped[0].train.clone();
            bad[39][15] = f32::NAN;
            of_features(&tensor(&bad))
        }] {
            assert!(fit(detector, &bad.features, &good).is_err(), "{detector}");
        }
    }
    let zeros = Tensor::zeros((4, 16), DType::F32, &Device::Cpu).unwrap();
    let error = fit("dice", &zeros, &good).err().unwrap().to_string();
    assert_eq!(error, "dice: no weight contributes more than percentile 90, 0");
}

#[test]
fn settings_have_ranges() {
    for yaml in [
        "react: { percentile: 101 }",
        "dice: { percentile: 100 }",
        "ash: { percentile: 100 }",
        "scale: { percentile: -1 }",
        "vra: { low: 91 }",
        "vra: { high: 100.5 }",
    ] {
        assert!(config(yaml).validate().is_err(), "{yaml}");
    }
    assert!(config("vra: { low: 91 }").validate().unwrap_err().to_string().contains("greater than `high`, 90"));
    assert!(serde_saphyr::from_str::<DetectorConfig>("ash: { variant: x }").is_err());
}
