//! Detectors that change features, the last layer or feature maps, and then score: golden values and hostile input.

#[path = "common/scores.rs"]
mod scores;

use std::sync::Arc;

use candle_core::{DType, Device, Tensor};
use garde::Validate;
use oodkit::{
    Result,
    detectors::{Bank, Batches, DetectorConfig, Fit, LayerShape, Scorer, feature_file::InMemory, rankfeat::rankfeat},
    nn::{self, Backbone, Head, Pass, Shape, Shown, params::Params, pass::Side},
};
use scores::{Reference, assert_scores, tensor};

#[derive(serde::Deserialize)]
struct Golden {
    weight: Vec<Vec<f32>>,
    bias: Vec<f32>,
    shaped: Vec<Shaped>,
    gram: Grams,
    rankfeat: Maps,
}

#[derive(serde::Deserialize)]
struct Grams {
    maps: TrainAndTest,
    flat: TrainAndTest,
    logits: TrainAndTest,
    scores: Vec<Reference>,
}

#[derive(serde::Deserialize)]
struct TrainAndTest {
    train: Vec<Vec<f32>>,
    test: Vec<Vec<f32>>,
}

#[derive(serde::Deserialize)]
struct Maps {
    maps: Vec<Vec<f32>>,
    expected: Vec<f64>,
}

#[derive(serde::Deserialize)]
struct Shaped {
    train: Vec<Vec<f32>>,
    features: Vec<Vec<f32>>,
    scores: Vec<Reference>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/shaping.json")).unwrap()
}

fn head(weight: &[Vec<f32>], bias: &[f32]) -> Head {
    Head { weight: tensor(weight), bias: Tensor::new(bias, &Device::Cpu).unwrap() }
}

fn of_features(features: &Tensor) -> Bank {
    Bank::new(features.clone(), features.clone())
}

fn of_layers(logits: Tensor, features: Tensor, layers: Vec<(&str, Tensor)>) -> Bank {
    let layers = layers.into_iter().map(|(name, values)| (name.to_owned(), values)).collect();
    let batches = InMemory::new(layers).unwrap().with_outputs(Some(&logits), Some(&features));
    let batches = Some(Arc::new(batches) as _);
    Bank { batches, ..Bank::new(logits, features) }
}

fn config(yaml: &str) -> DetectorConfig {
    serde_saphyr::from_str(yaml).unwrap()
}

fn fit(yaml: &str, train: &Tensor, head: &Head) -> Result<Box<dyn Scorer>> {
    let train = of_features(train);
    config(yaml).build().fit(&Fit { train: Some(&train), head: Some(head), memory: 1 << 20, ..Fit::default() })
}

#[test]
fn shaped_energies_are_those_of_numpy_and_pytorch_ood() {
    let golden = golden();
    let head = head(&golden.weight, &golden.bias);
    for Shaped { train, features, scores } in &golden.shaped {
        let features = of_features(&tensor(features));
        for Reference { detector, expected } in scores {
            let scorer = fit(detector, &tensor(train), &head).unwrap();
            assert_scores(scorer.score(&features).unwrap().as_slice(), expected, detector);
        }
    }
}

const SHAPING: [&str; 8] = [
    "react",
    "dice: { percentile: 50 }",
    "ash",
    "ash: { variant: s }",
    "ash: { variant: p }",
    "scale",
    "vra",
    "vra: { thresholds: each }",
];

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
    assert_scores(scorer.score(&of_features(&even)).unwrap().as_slice(), &[expected], "scale");
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
        "lts: { percentile: 100 }",
        "vra: { low: 91 }",
        "vra: { high: 100.5 }",
    ] {
        assert!(config(yaml).validate().is_err(), "{yaml}");
    }
    assert!(config("vra: { low: 91 }").validate().unwrap_err().to_string().contains("greater than `high`, 90"));
    assert!(serde_saphyr::from_str::<DetectorConfig>("ash: { variant: x }").is_err());
}

/// The golden train and test images of Gram: layers with and without pixels.
fn grams(golden: &Golden) -> [Bank; 2] {
    let bank = |of: fn(&TrainAndTest) -> &Vec<Vec<f32>>| {
        let Grams { maps, flat, logits, .. } = &golden.gram;
        let (logits, flat, maps) = (tensor(of(logits)), tensor(of(flat)), tensor(of(maps)));
        let maps = maps.reshape((maps.dims()[0], 3, 2, 2)).unwrap();
        of_layers(logits, flat.clone(), vec![("maps", maps), ("flat", flat)])
    };
    [bank(|set| &set.train), bank(|set| &set.test)]
}

#[test]
fn gram_is_that_of_numpy_and_pytorch_ood() {
    let golden = golden();
    let [train, test] = grams(&golden);
    for Reference { detector, expected } in &golden.gram.scores {
        let fit = Fit { train: Some(&train), memory: 1 << 20, ..Fit::default() };
        let scorer = config(detector).build().fit(&fit).unwrap();
        assert_scores(scorer.score(&test).unwrap().as_slice(), expected, detector);
        assert_eq!(scorer.record().unwrap()["classes_never_predicted"], serde_json::json!([4]));
    }
}

#[test]
fn gram_refuses_what_it_cannot_hold_and_other_layers() {
    let golden = golden();
    let [train, test] = grams(&golden);
    // Bounds of 5 classes × 5 powers × 7 channels take 2,800 bytes.
    let fit = |train, memory| config("gram").build().fit(&Fit { train: Some(train), memory, ..Fit::default() });
    let error = fit(&train, 2799).err().unwrap();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("Gram needs 1 MiB for the bounds of 5 classes, and may use 0 MiB"), "{error}");
    let scorer = fit(&train, 2800).unwrap();
    let flat = test.features.clone();
    let other = of_layers(test.logits.clone(), flat.clone(), vec![("flat", flat.clone())]);
    assert!(scorer.score(&other).unwrap_err().to_string().contains("layer 1 was maps [3, 2, 2] and is flat [4]"));
    let broken = of_layers(test.logits.clone(), flat.clone(), vec![("flat", flat.affine(f64::NAN, 0.0).unwrap())]);
    let error = fit(&broken, 1 << 20).err().unwrap().to_string();
    assert_eq!(error, "a neuron of the layer flat is NaN on image 0");
    // A layer of zeros, whose bounds are 0, and images that exceed them.
    let dead = of_layers(test.logits.clone(), flat.clone(), vec![("flat", flat.zeros_like().unwrap())]);
    let scorer = fit(&dead, 1 << 20).unwrap();
    assert_eq!(scorer.score(&dead).unwrap().as_slice(), [0.0; 8]);
    let alive = of_layers(test.logits.clone(), flat.clone(), vec![("flat", flat)]);
    assert!(scorer.score(&alive).unwrap().as_slice().iter().all(|score| *score > 0.0));
}

#[test]
fn rankfeat_is_that_of_numpy_and_pytorch_ood() {
    let golden = golden();
    let Maps { maps, expected } = &golden.rankfeat;
    let maps = tensor(maps).reshape((8, 16, 3, 2)).unwrap();
    let means = maps.flatten_from(2).unwrap().mean(2).unwrap();
    let head = head(&golden.weight, &golden.bias);
    assert_scores(&rankfeat(&maps, &head).unwrap(), expected, "the function");
    let scorer = config("rankfeat").build().fit(&Fit { head: Some(&head), ..Fit::default() }).unwrap();
    let layers = |maps: &Tensor| vec![("maps", maps.clone()), ("fc", means.clone())];
    let bank = of_layers(means.clone(), means.clone(), layers(&maps));
    assert_scores(scorer.score(&bank).unwrap().as_slice(), expected, "the detector");

    let pooled = maps.flatten_from(2).unwrap().max(2).unwrap();
    for (features, layers) in [(pooled, layers(&maps)), (means.clone(), layers(&maps.narrow(1, 0, 8).unwrap()))] {
        let error = scorer.score(&of_layers(means.clone(), features, layers)).unwrap_err();
        assert!(error.to_string().contains("not the means of the last feature maps, those of \"maps\""), "{error}");
    }
    let flat = of_layers(means.clone(), means.clone(), vec![("fc", means.clone())]);
    assert!(scorer.score(&flat).unwrap_err().to_string().contains("needs feature maps, and the network shows none"));
}

/// The layers of one pass of a network.
#[derive(Debug)]
struct Watched(Shown);

impl Batches for Watched {
    fn images(&self) -> usize {
        self.0.layers[0].values.dims()[0]
    }

    fn layers(&self) -> Result<Vec<LayerShape>> {
        Ok(self.0.layers.iter().map(LayerShape::from).collect())
    }

    fn pass(&self, _: &str, _: bool, each: &mut dyn FnMut(usize, &Shown) -> Result<()>) -> Result<()> {
        each(0, &self.0)
    }

    fn subset(&self, _: &[usize]) -> Result<Arc<dyn Batches>> {
        unreachable!("nothing is learned")
    }
}

#[test]
fn rankfeat_takes_networks_that_average_their_last_maps() {
    let shape = Shape { channels: 3, height: 32, width: 32, classes: 4 };
    let images = Tensor::arange(0f32, (2 * 3 * 32 * 32) as f32, &Device::Cpu).unwrap();
    let images = images.sin().unwrap().reshape((2, 3, 32, 32)).unwrap();
    let backbones = [
        (serde_json::json!({ "wide_resnet": { "depth": 10, "width": 1 } }), None),
        ("resnet18_32x32".into(), None),
        ("efficientnet_lite0".into(), None),
        (
            serde_json::json!({ "swin": { "width": 4, "depths": [2, 1, 1, 1], "heads": [1, 2, 2, 4], "window": 4 } }),
            None,
        ),
        ("vgg19_bn".into(), Some("those of \"features.50\"")),
        ("lenet".into(), Some("those of \"conv2\"")),
    ];
    for ((backbone, refused), side) in
        backbones.into_iter().flat_map(|case| [(case.clone(), Side::Before), (case, Side::After)])
    {
        let backbone: Backbone = serde_json::from_value(backbone).unwrap();
        let params = Params::new(0, &Device::Cpu);
        let network = nn::build(&backbone.clone().into(), shape, params.builder()).unwrap().folded().unwrap();
        let pass = Pass::eval().keeping_layers(side);
        let outputs = network.show(&images, &pass).unwrap();
        let batches = Some(Arc::new(Watched(outputs.clone())) as _);
        let bank = Bank { batches, ..Bank::new(outputs.logits.unwrap(), outputs.features.unwrap()) };
        let head = network.head();
        let scorer = config("rankfeat").build().fit(&Fit { head: head.as_ref(), ..Fit::default() }).unwrap();
        match (scorer.score(&bank), refused) {
            (Ok(scores), None) => assert_eq!(scores.as_slice().len(), 2),
            (Err(error), Some(reason)) => assert!(error.to_string().contains(reason), "{error}"),
            (other, _) => panic!("{backbone:?}: {other:?}"),
        }
    }
}

/// The pattern that is taken away is the strongest one, even where two are almost as strong.
#[test]
fn rankfeat_tells_close_patterns_apart() {
    for ratio in [0.5, 0.9, 0.99] {
        // Two channels, orthogonal rows: singular values 2 and 2·ratio.
        let maps = [1.0, 1.0, 1.0, 1.0, ratio, ratio, -ratio, -ratio];
        let [before, after] = oodkit::detectors::rankfeat::means(&maps, 2);
        assert_eq!(before, [1.0, 0.0]);
        assert!(after.iter().all(|mean| mean.abs() < 1e-6), "{after:?}");
    }
}
