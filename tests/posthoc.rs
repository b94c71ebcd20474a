//! Post-hoc detectors that read features, the last layer or the train set: golden values, and what they refuse.

use candle_core::{Device, Tensor};
use oodkit::{
    detectors::{Bank, DetectorConfig, Fit},
    nn::Head,
};

#[derive(serde::Deserialize)]
struct Golden {
    weight: Vec<Vec<f32>>,
    bias: Vec<f32>,
    labels: Vec<u32>,
    train_features: Vec<Vec<f32>>,
    features: Vec<Vec<f32>>,
    train_logits: Vec<Vec<f32>>,
    logits: Vec<Vec<f32>>,
    scores: Vec<Scores>,
    dependent_train_features: Vec<Vec<f32>>,
    dependent_features: Vec<Vec<f32>>,
    dependent_scores: Vec<Scores>,
}

#[derive(serde::Deserialize)]
struct Scores {
    detector: String,
    expected: Vec<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/posthoc.json")).unwrap()
}

fn tensor(rows: &[Vec<f32>]) -> Tensor {
    Tensor::from_vec(rows.concat(), (rows.len(), rows[0].len()), &Device::Cpu).unwrap()
}

fn bank(features: &[Vec<f32>], logits: &[Vec<f32>], labels: Option<&[u32]>) -> Bank {
    let labels = labels.map(<[u32]>::to_vec);
    Bank { logits: tensor(logits), features: tensor(features), members: None, labels, activations: None }
}

impl Golden {
    fn train(&self) -> Bank {
        bank(&self.train_features, &self.train_logits, Some(&self.labels))
    }

    fn test(&self) -> Bank {
        bank(&self.features, &self.logits, None)
    }

    fn head(&self) -> Head {
        Head { weight: tensor(&self.weight), bias: Tensor::new(&self.bias[..], &Device::Cpu).unwrap() }
    }
}

fn score(detector: &str, head: &Head, train: &Bank, test: &Bank) -> oodkit::Result<Vec<f32>> {
    let config: DetectorConfig = serde_saphyr::from_str(detector).unwrap();
    let fit = Fit { train: Some(train), head: Some(head), memory: 1 << 20, scratch: None };
    Ok(config.build().fit(&fit)?.score(test)?.as_slice().to_vec())
}

fn check(references: &[Scores], head: &Head, train: &Bank, test: &Bank) {
    for Scores { detector, expected } in references {
        let scores = score(detector, head, train, test).unwrap();
        assert_eq!(scores.len(), expected.len());
        for (score, expected) in scores.iter().zip(expected) {
            let error = (f64::from(*score) - expected).abs();
            assert!(error <= 1e-6 * expected.abs().max(0.1), "{detector}: {score}, expected {expected}");
        }
    }
}

#[test]
fn equal_to_numpy_and_pytorch_ood() {
    let golden = golden();
    check(&golden.scores, &golden.head(), &golden.train(), &golden.test());
}

#[test]
fn covariances_that_lack_rank_have_pseudo_inverses() {
    let golden = golden();
    let train = bank(&golden.dependent_train_features, &golden.train_logits, Some(&golden.labels));
    let test = bank(&golden.dependent_features, &golden.logits, None);
    check(&golden.dependent_scores, &golden.head(), &train, &test);
}

/// Four images of two classes, two features; `change` makes them unfit.
fn refused(detector: &str, change: impl Fn(&mut Head, &mut Bank, &mut Bank)) -> String {
    let rows = [[1f32, 0.0], [2.0, 0.5], [0.0, 1.0], [0.25, 2.0]].map(Vec::from);
    let (mut train, mut test) = (bank(&rows, &rows, Some(&[0, 0, 1, 1])), bank(&rows, &rows, None));
    let mut head = Head { weight: tensor(&rows[1..3]), bias: Tensor::new(&[0f32, 0.5], &Device::Cpu).unwrap() };
    change(&mut head, &mut train, &mut test);
    score(detector, &head, &train, &test).unwrap_err().to_string()
}

#[test]
fn what_cannot_be_learned_from_is_refused() {
    let constant = |_: &mut Head, train: &mut Bank, _: &mut Bank| train.features = train.features.ones_like().unwrap();
    assert_eq!(refused("mahalanobis", constant), "no feature varies among the train images of a class");
    assert_eq!(refused("rmds", constant), "no feature varies among the train images of a class");
    let subspace = |_: &mut Head, train: &mut Bank, _: &mut Bank| {
        train.features = tensor(&[[1f32, 2.0], [2.0, 4.0], [3.0, 6.0], [-1.0, -2.0]].map(Vec::from));
    };
    let error = refused("vim", |head, train, test| {
        head.bias = head.bias.zeros_like().unwrap();
        subspace(head, train, test);
    });
    assert!(error.contains("do not leave the subspace"), "{error}");
    for detector in ["vim: { dimension: 2 }", "residual: { dimension: 2 }", "residual: { dimension: 512 }"] {
        let error = refused(detector, |_, _, _| ());
        assert!(error.ends_with("of 2 features' directions leave no residual"), "{error}");
    }
    let other_label = |_: &mut Head, train: &mut Bank, _: &mut Bank| train.labels = Some(vec![0, 1, 2, 1]);
    assert_eq!(refused("temperature_scaling", other_label), "there is a label 2 among the train images, and 2 logits");
    let no_labels = |_: &mut Head, train: &mut Bank, _: &mut Bank| train.labels = None;
    let few_labels = |_: &mut Head, train: &mut Bank, _: &mut Bank| train.labels = Some(vec![0, 1]);
    for detector in LABELLED {
        assert!(refused(detector, no_labels).contains("needs the train images' classes"), "{detector}");
        assert_eq!(refused(detector, few_labels), "2 labels where there must be 4");
    }
}

const LABELLED: [&str; 3] = ["temperature_scaling", "mahalanobis", "rmds"];

#[test]
fn numbers_that_are_none_and_other_sizes_are_refused() {
    let mut names: Vec<String> = golden().scores.into_iter().map(|scores| scores.detector).collect();
    names.retain(|name| !name.contains(':') && !name.starts_with("gen"));
    for name in names {
        for bad in [f32::NAN, f32::INFINITY] {
            let rows = [[1f32, 0.0], [bad, 0.5], [0.0, 1.0], [0.25, 2.0]].map(Vec::from);
            let unfit = bank(&rows, &rows, Some(&[0, 0, 1, 1]));
            let (learned, scored) = (
                refused(&name, |_, train, _| *train = unfit.clone()),
                refused(&name, |_, _, test| *test = unfit.clone()),
            );
            for error in [learned, scored] {
                assert!(error.ends_with(&format!("0 of image 1 is {bad}")), "{name}: {error}");
            }
        }
        // A temperature suits any count of classes.
        if name != "temperature_scaling" {
            let wider = [[1f32, 0.0, 1.0], [2.0, 0.5, 3.0]].map(Vec::from);
            let error = refused(&name, |_, _, test| *test = bank(&wider, &wider, None));
            assert!(error.contains("where there must be 2"), "{name}: {error}");
        }
    }
}
