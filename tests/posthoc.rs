//! Post-hoc detectors that read features, the last layer or the train set: golden values, and what they refuse.

#[expect(dead_code, reason = "other tests use the rest")]
mod common;
#[path = "common/inputs.rs"]
mod inputs;
#[path = "common/scores.rs"]
mod scores;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use common::uniform;
use inputs::Set;
use oodkit::{
    data::Normalisation,
    detectors::{Bank, DetectorConfig, Fit, grood, weiper},
    nn::{Head, Model, Pass, Shown},
};
use scores::{Reference, assert_scores, tensor};

#[derive(serde::Deserialize)]
struct Golden {
    weight: Vec<Vec<f32>>,
    bias: Vec<f32>,
    labels: Vec<u32>,
    train_features: Vec<Vec<f32>>,
    features: Vec<Vec<f32>>,
    train_logits: Vec<Vec<f32>>,
    logits: Vec<Vec<f32>>,
    scores: Vec<Reference>,
    dependent_train_features: Vec<Vec<f32>>,
    dependent_features: Vec<Vec<f32>>,
    dependent_scores: Vec<Reference>,
    perturbed_scores: Vec<Reference>,
    outlier_scores: Vec<Reference>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/posthoc.json")).unwrap()
}

fn bank(features: &[Vec<f32>], logits: &[Vec<f32>], labels: Option<&[u32]>) -> Bank {
    let labels = labels.map(<[u32]>::to_vec);
    Bank { labels, ..Bank::new(tensor(logits), tensor(features)) }
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
    let fit = Fit { train: Some(train), head: Some(head), memory: 1 << 20, ..Fit::default() };
    Ok(config.build().fit(&fit)?.score(test)?.as_slice().to_vec())
}

fn check(references: &[Reference], head: &Head, train: &Bank, test: &Bank) {
    for Reference { detector, expected } in references {
        assert_scores(&score(detector, head, train, test).unwrap(), expected, detector);
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

/// With directions that numpy has, too.
#[test]
fn perturbed_last_layers_are_those_of_numpy() {
    let golden = golden();
    for Reference { detector, expected } in &golden.perturbed_scores {
        let DetectorConfig::Weiper(config) = serde_saphyr::from_str(detector).unwrap() else { panic!("{detector}") };
        let (rows, size) = (config.repeats * golden.bias.len(), golden.features[0].len());
        let directions = uniform("directions", &[rows, size]).flatten_all().unwrap().to_vec1::<f64>().unwrap();
        let of = |directions: &[f64]| {
            weiper::Fitted::new(&config, &golden.head(), &tensor(&golden.train_features), directions)
        };
        assert_scores(&of(&directions).unwrap().scores(&tensor(&golden.features)).unwrap(), expected, detector);
        assert!(of(&directions[1..]).err().unwrap().to_string().contains("directions where there must be"));
    }
    let drawn = |yaml: &str| score(yaml, &golden.head(), &golden.train(), &golden.test()).unwrap();
    assert_eq!(drawn("weiper: { repeats: 3 }"), drawn("weiper: { repeats: 3, seed: 0 }"));
    assert_ne!(drawn("weiper: { repeats: 3 }"), drawn("weiper: { repeats: 3, seed: 1 }"));
}

/// With a prototype that numpy has, too.
#[test]
fn prototypes_move_as_in_numpy() {
    let golden = golden();
    let outlier = uniform("outlier", &[golden.features[0].len()]).to_vec1::<f64>().unwrap();
    let (train, test) = (golden.train(), golden.test());
    for Reference { detector, expected } in &golden.outlier_scores {
        let DetectorConfig::Grood(config) = serde_saphyr::from_str(detector).unwrap() else { panic!("{detector}") };
        let of = |labels: &[u32], outlier: &[f64]| {
            grood::Fitted::new(config.by, &train.logits, &train.features, labels, outlier.to_vec())
        };
        let fitted = of(&golden.labels, &outlier).unwrap();
        assert_scores(&fitted.scores(&test.features).unwrap(), expected, detector);
        // As many rows at once as there are, or one.
        let each = (0..test.features.dims()[0]).flat_map(|at| fitted.scores(&test.features.narrow(0, at, 1).unwrap()));
        assert_eq!(each.flatten().collect::<Vec<_>>(), fitted.scores(&test.features).unwrap(), "{detector}");
        assert!(of(&golden.labels[1..], &outlier).is_err() && of(&golden.labels, &outlier[1..]).is_err());
    }
    let wrong: Vec<u32> = golden.labels.iter().map(|_| 9).collect();
    let error = grood::Fitted::new(grood::By::Neighbour, &train.logits, &train.features, &wrong, outlier).err();
    assert_eq!(error.unwrap().to_string(), "grood: no train image is classified correctly");
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
    assert_eq!(refused("neco", constant), "no feature varies among the train images");
    assert_eq!(refused("kpca", constant), "no direction of the features varies among the train images");
    assert_eq!(refused("weiper", constant), "no feature varies among the train images");
    for (settings, reason) in [
        ("dimension: 3", "dimension is 3, and there are 2 features"),
        ("dimension: 2, max_logit: false", "dimension is 2, all features: without max_logit every score is -1"),
    ] {
        let error = refused(&format!("neco: {{ {settings} }}"), |_, _, _| ());
        assert!(error.contains(reason), "{error}");
    }
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

const LABELLED: [&str; 7] = ["temperature_scaling", "mahalanobis", "rmds", "she", "openmax", "ora", "grood"];

#[test]
fn classes_that_lack_what_they_need() {
    // The network takes the third image for class 0 and not for 1, so that 1 has but the last.
    let confused = |_: &mut Head, train: &mut Bank, _: &mut Bank| {
        train.logits = tensor(&[[1f32, 0.0], [2.0, 0.0], [2.0, 0.0], [0.0, 2.0]].map(Vec::from));
    };
    let wrong = |_: &mut Head, train: &mut Bank, _: &mut Bank| train.labels = Some(vec![1, 1, 0, 0]);
    assert_eq!(refused("she", wrong), "she: no train image is classified correctly");
    assert!(refused("openmax", wrong).starts_with("openmax: no class has two train images"));
    assert!(refused("cfood", confused).contains("cfood compares with 0 of 4 train images, and needs 2"));
    assert!(refused("nnguide: { k: 5 }", confused).contains("k is 5, and there are 4 train images"));
    assert!(refused("nnguide: { k: 3, fraction: 0.5 }", confused).contains("k is 3, and there are 2 train images"));
    let twins = |head: &mut Head, _: &mut Bank, _: &mut Bank| head.weight = head.weight.ones_like().unwrap();
    for name in ["fdbd", "ora"] {
        assert_eq!(refused(name, twins), "there is no boundary between classes 0 and 1, of the same weights");
    }
    let alone = |head: &mut Head, _: &mut Bank, _: &mut Bank| {
        head.weight = head.weight.narrow(0, 0, 1).unwrap();
        head.bias = head.bias.narrow(0, 0, 1).unwrap();
    };
    assert_eq!(refused("pnml", alone), "pnml: one class leaves nothing to regret");

    // What remains of SHE's patterns scores every image, and zeros are related to nothing.
    let rows = [[1f32, 0.0], [2.0, 0.5], [0.0, 1.0], [0.25, 2.0]].map(Vec::from);
    let (train, test) = (bank(&rows, &rows, Some(&[0, 0, 0, 0])), bank(&[vec![0.0, 0.0]], &[vec![0.0, 1.0]], None));
    let head = Head { weight: tensor(&rows[1..3]), bias: Tensor::new(&[0f32, 0.5], &Device::Cpu).unwrap() };
    let she = score("she", &head, &train, &train).unwrap();
    assert_eq!(she, [-1.5, -3.125, -0.25, -0.875]);
    for name in ["relation", "nnguide: { k: 2 }", "gradnorm"] {
        assert_eq!(score(name, &head, &train, &test).unwrap(), [0.0], "{name}");
    }
    // Zeros have no length, and stay as they are.
    let labelled = bank(&rows, &rows, Some(&[0, 0, 1, 1]));
    for name in ["mahalanobis: { normalise: true }", "rmds: { normalise: true }"] {
        assert!(score(name, &head, &labelled, &test).unwrap()[0].is_finite(), "{name}");
    }
    // Features equal to the mean.
    let mean = bank(&[vec![0.8125, 0.875]], &[vec![0.0, 1.0]], None);
    assert_eq!(score("nci: { alpha: 0 }", &head, &train, &mean).unwrap(), [0.0]);
    assert!(score("fdbd", &head, &train, &mean).unwrap()[0].is_finite());
    for name in ["neco", "ora"] {
        assert_eq!(score(name, &head, &train, &mean).unwrap(), [0.0], "{name}");
    }
    // No feature is positive: logits stay as they are.
    let negative = bank(&[vec![-1.0, -2.0]], &[vec![0.0, 1.0]], None);
    assert_eq!(score("lts", &head, &train, &negative).unwrap(), score("energy", &head, &train, &negative).unwrap());
}

/// ‖∂L/∂W‖₁ by central differences of L = −1/K·Σ_c ln softmax(W·z + b)_c.
#[test]
fn gradient_norms_are_those_of_central_differences() {
    let golden = golden();
    let loss = |weight: &[Vec<f64>], z: &[f32]| {
        let logits: Vec<f64> = weight
            .iter()
            .zip(&golden.bias)
            .map(|(row, b)| f64::from(*b) + row.iter().zip(z).map(|(w, x)| w * f64::from(*x)).sum::<f64>())
            .collect();
        let log_sum = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        log_sum - logits.iter().sum::<f64>() / logits.len() as f64
    };
    let scores = score("gradnorm", &golden.head(), &golden.train(), &golden.test()).unwrap();
    let mut weight: Vec<Vec<f64>> =
        golden.weight.iter().map(|row| row.iter().copied().map(f64::from).collect()).collect();
    for (score, z) in scores.into_iter().zip(&golden.features) {
        let mut norm = 0.0;
        for at in 0..weight.len() * z.len() {
            let (class, feature) = (at / z.len(), at % z.len());
            let value = weight[class][feature];
            let mut at = |step: f64| {
                weight[class][feature] = value + step;
                loss(&weight, z)
            };
            norm += ((at(1e-5) - at(-1e-5)) / 2e-5).abs();
            weight[class][feature] = value;
        }
        assert!((f64::from(score) + norm).abs() < 1e-6 * norm, "{score}, not {}", -norm);
    }
}

#[test]
fn numbers_that_are_none_and_other_sizes_are_refused() {
    let mut names: Vec<String> = golden().scores.into_iter().map(|scores| scores.detector).collect();
    // GradNorm and LTS learn nothing, and OpenMax nothing from two images of a class: both are as far from their mean.
    names.retain(|name| !name.contains(':') && !["gradnorm", "lts", "openmax"].contains(&name.as_str()));
    // Its golden values are of perturbations that are given, or of none.
    names.push("weiper".to_owned());
    // As few images as there are here.
    let few = |name: String| match name.as_str() {
        "nnguide" => "nnguide: { k: 1 }".to_owned(),
        "cfood" => "cfood: { alpha: 1 }".to_owned(),
        _ => name,
    };
    for name in names.into_iter().map(few) {
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

/// The two networks of the golden values: one hidden layer, and a maker that is a matrix.
enum Small {
    Hidden,
    Maker,
}

impl Model for Small {
    fn show(&self, images: &Tensor, _: &Pass) -> candle_core::Result<Shown> {
        let x = images.flatten_from(1)?;
        Ok(match self {
            Self::Hidden => {
                let features = x.matmul(&uniform("hidden", &[5, 12]).t()?)?.relu()?;
                let logits = features.matmul(&uniform("last", &[4, 5]).t()?)?;
                Shown { logits: Some(logits), features: Some(features), ..Shown::default() }
            }
            Self::Maker => {
                let matrix = (Tensor::eye(12, DType::F64, &Device::Cpu)? + (0.1 * uniform("maker", &[12, 12]))?)?;
                Shown { images: Some(x.matmul(&matrix.t()?)?.reshape(images.shape())?), ..Shown::default() }
            }
        })
    }

    fn folded(&self) -> candle_core::Result<Box<dyn Model>> {
        unreachable!("nothing folds it")
    }
}

/// Two networks on the same images, each of which has a normalisation of its own.
#[test]
fn a_second_network_makes_images_again_as_in_numpy() {
    #[derive(serde::Deserialize)]
    struct Golden {
        network: Normalised,
        maker: Normalised,
        scores: Vec<Reference>,
    }
    #[derive(serde::Deserialize)]
    struct Normalised {
        mean: Vec<f32>,
        std: Vec<f32>,
    }
    let golden: Golden = serde_json::from_str(include_str!("golden/reconstruction_change.json")).unwrap();
    let pixels = uniform("pixels", &[6, 3, 2, 2]).affine(0.5, 0.5).unwrap();
    let pixels = pixels.to_dtype(DType::F32).unwrap().to_dtype(DType::F64).unwrap();
    let set = |network: Small, Normalised { mean, std }: Normalised| {
        let [of, by] = [&mean, &std].map(|values| {
            let values = Tensor::new(&values[..], &Device::Cpu).unwrap().to_dtype(DType::F64).unwrap();
            values.reshape((1, 3, 1, 1)).unwrap()
        });
        let images = pixels.broadcast_sub(&of).unwrap().broadcast_div(&by).unwrap();
        Set { network: Arc::new(network), images, normalisation: Normalisation { mean, std }, batch: 4 }
    };
    let (network, maker) = (set(Small::Hidden, golden.network), set(Small::Maker, golden.maker));
    let Shown { logits, features, .. } = network.network.show(&network.images, &Pass::eval()).unwrap();
    let [logits, features] = [logits, features].map(|rows| rows.unwrap().to_dtype(DType::F32).unwrap());
    let known = Bank::new(logits, features);
    let bank = Bank { inputs: Some(Arc::new(network)), second: Some(Arc::new(maker)), ..known.clone() };
    let head = self::golden().head();
    for Reference { detector, expected } in &golden.scores {
        assert_scores(&score(detector, &head, &known, &bank).unwrap(), expected, detector);
    }
    assert_eq!(golden.scores.len(), 12);
    let some = bank.subset(&[5, 1]).unwrap();
    let [all, some] = [bank, some].map(|bank| score("reconstruction_change", &head, &known, &bank).unwrap());
    assert_eq!(some, [all[5], all[1]]);
}
