//! The contract of every detector, by a loop over the registry, and golden values of each.

#[path = "common/inputs.rs"]
mod inputs;

use std::{collections::HashMap, sync::Arc};

use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use inputs::Set;
use oodkit::{
    data::Normalisation,
    detectors::{
        Bank, DetectorConfig, Fit, Learns, energy::energy, feature_file::InMemory, knn::knn, max_logit::max_logit,
        msp::msp, softmax_entropy::softmax_entropy,
    },
    metrics::of_scores,
    nn::{
        Denoiser, Head, Model, Output, Pass, Shown,
        denoiser::{Course, Prediction, Schedule, Settings},
        heads::HeadLayer,
        layers::Linear,
        windows::{Windowed, Windows},
    },
    rng,
};
use rand_distr::{Distribution, StandardNormal};

const CLASSES: usize = 6;

/// What a network gives whose features are its logits: all that a detector may read, from one table of numbers.
fn bank(logits: Vec<f32>, classes: usize) -> Bank {
    let images = logits.len() / classes;
    let class =
        |row: &[f32]| (0..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best }) as u32;
    let labels = Some(logits.chunks_exact(classes).map(class).collect());
    // A second opinion that wavers by as much as the noise.
    let other: Vec<f32> = logits.iter().map(|logit| logit + 3.0 * (37.0 * logit).sin()).collect();
    let [logits, other] =
        [logits, other].map(|values| Tensor::from_vec(values, (images, classes), &Device::Cpu).unwrap());
    let members = Some(Tensor::stack(&[&logits, &other], 1).unwrap());
    // Feature maps of one pixel, of which the features are the means.
    let maps = logits.reshape((images, classes, 1, 1)).unwrap();
    let batches = InMemory::new(vec![("maps".to_owned(), maps.clone())]).unwrap();
    let batches = batches.with_outputs(Some(&logits), Some(&logits)).with_image_size([3, 2]);
    // The less certain, the more anomalous.
    let batches = batches.with_map(logits.max_keepdim(1).unwrap().neg().unwrap().unsqueeze(2).unwrap());
    let batches = batches.with_windows(vec![seen(2, [2, 2], &maps)]);
    // Pixels in 0..1 are numbers from −50 to 50.
    let normalisation = Normalisation { mean: vec![0.5; classes], std: vec![0.01; classes] };
    let inputs = Set { network: Identity::new(classes), images: maps, normalisation, batch: 64 };
    let second = Some(Arc::new(Set { network: Arc::new(Peaks(Standing::new(classes))), ..inputs.clone() }) as _);
    let (batches, inputs) = (Some(Arc::new(batches) as _), Some(Arc::new(inputs) as _));
    Bank { members, labels, batches, inputs, second, ..Bank::new(logits.clone(), logits) }
}

/// Windows of images of a size that lie side by side.
fn seen(side: usize, size: [usize; 2], features: &Tensor) -> Windowed {
    Windowed { name: "patch", windows: Windows { side, stride: side }, size, features: features.clone() }
}

/// The network whose images, features and logits are the same numbers. It knows how images with noise become images, too.
struct Identity(HeadLayer, Standing);

impl Identity {
    fn new(classes: usize) -> Arc<Self> {
        let weight = Tensor::eye(classes, DType::F32, &Device::Cpu).unwrap();
        let bias = Tensor::zeros(classes, DType::F32, &Device::Cpu).unwrap();
        let parameters = HashMap::from([("weight".to_owned(), weight), ("bias".to_owned(), bias)]);
        let vb = VarBuilder::from_tensors(parameters, DType::F32, &Device::Cpu);
        Arc::new(Self(Linear::new(classes, classes, &vb).unwrap().into(), Standing::new(classes)))
    }
}

impl Model for Identity {
    fn show(&self, images: &Tensor, pass: &Pass) -> candle_core::Result<Shown> {
        let (logits, features) = self.0.forward(images.flatten_from(1)?, pass)?;
        let (logits, features, leaves) = (Some(logits), Some(features), pass.take_leaves());
        Ok(Shown { logits, features, leaves, ..Shown::default() })
    }

    fn folded(&self) -> candle_core::Result<Box<dyn Model>> {
        Ok(Box::new(Self(self.0.clone(), self.1.clone())))
    }

    fn denoiser(&self) -> Option<&dyn Denoiser> {
        Some(&self.1)
    }
}

/// The denoiser in closed form of images of which one class stands out by 8, each with noise of deviation 1, where pixels in -1..1 are numbers
/// from -50 to 50.
#[derive(Clone)]
struct Standing {
    classes: usize,
    schedule: Schedule,
}

impl Standing {
    fn new(classes: usize) -> Self {
        Self { classes, schedule: Schedule::new(Settings { course: Course::Linear, steps: 1000 }) }
    }
}

impl Denoiser for Standing {
    fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    fn prediction(&self) -> Prediction {
        Prediction::Noise
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn products(&self, _: &Tensor) -> candle_core::Result<u64> {
        Ok(0)
    }

    fn output(&self, noisy: &Tensor, time: f64, classes: Option<&[u32]>) -> candle_core::Result<Tensor> {
        let place = if time < 0.0 { Schedule::clean() } else { self.schedule.place(time as usize) };
        let (peak, deviation) = (8.0 / 50.0, 1.0 / 50.0);
        let variance = (place.signal * deviation).powi(2) + place.noise.powi(2);
        let values = noisy.flatten_all()?.to_vec1::<f32>()?;
        let mut output = Vec::with_capacity(values.len());
        for (image, row) in values.chunks_exact(self.classes).enumerate() {
            let row: Vec<f64> = row.iter().copied().map(f64::from).collect();
            // Of a class that is not known, as likely as the image is with each.
            let likely = |class: usize| match classes {
                Some(known) => f64::from(known[image] as usize == class),
                None => {
                    let of = |class: usize| place.signal * peak * row[class] / variance;
                    1.0 / (0..self.classes).map(|other| (of(other) - of(class)).exp()).sum::<f64>()
                }
            };
            let away = row.iter().enumerate().map(|(class, x)| x - place.signal * peak * likely(class));
            output.extend(away.map(|away| (away * place.noise / variance) as f32));
        }
        Tensor::from_vec(output, noisy.shape(), noisy.device())
    }
}

/// Makes the largest number of an image again, and nothing else of it; and the same denoiser.
struct Peaks(Standing);

impl Model for Peaks {
    fn show(&self, images: &Tensor, _: &Pass) -> candle_core::Result<Shown> {
        let largest = images.broadcast_eq(&images.max_keepdim(1)?)?.to_dtype(images.dtype())?;
        Ok(Shown { images: Some((images * largest)?), ..Shown::default() })
    }

    fn folded(&self) -> candle_core::Result<Box<dyn Model>> {
        Ok(Box::new(Self(self.0.clone())))
    }

    fn denoiser(&self) -> Option<&dyn Denoiser> {
        Some(&self.0)
    }
}

/// `images` rows of standard normal logits; one class of each stands out by `confidence`.
fn synthetic(images: usize, confidence: f32, name: &str) -> Vec<f32> {
    let mut rng = rng::stream(0, "detector test", name);
    let mut logits: Vec<f32> = StandardNormal.sample_iter(&mut rng).take(images * CLASSES).collect();
    for (image, row) in logits.chunks_exact_mut(CLASSES).enumerate() {
        row[image % CLASSES] += confidence;
    }
    logits
}

fn score(config: &DetectorConfig, bank: &Bank) -> oodkit::Result<Vec<f32>> {
    let detector = config.build();
    let train = self::bank(synthetic(600, 8.0, "train"), CLASSES);
    let train = (detector.learns() != Learns::Nothing).then_some(&train);
    let weight = Tensor::eye(CLASSES, DType::F32, &Device::Cpu).unwrap();
    let head = Head { bias: weight.zeros_like().unwrap().get(0).unwrap(), weight };
    let scorer = detector.fit(&Fit { train, head: Some(&head), memory: 1 << 20, ..Fit::default() })?;
    let kernels = detector.needs().contains(&Output::Kernels).then(|| of_kernels(bank));
    Ok(scorer.score(kernels.as_ref().unwrap_or(bank))?.as_slice().to_vec())
}

/// Logits such as a DUQ head's, at most 0: ln sigmoid of the given ones.
fn of_kernels(bank: &Bank) -> Bank {
    let ln_sigmoid = |x: f64| if x.is_finite() { x.min(0.0) - (-x.abs()).exp().ln_1p() } else { x };
    let values = bank.logits.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    let values = values.into_iter().map(|logit| ln_sigmoid(f64::from(logit)) as f32).collect();
    Bank { logits: Tensor::from_vec(values, bank.logits.shape(), &Device::Cpu).unwrap(), ..bank.clone() }
}

fn every_detector() -> impl Iterator<Item = DetectorConfig> {
    DetectorConfig::NAMES.iter().map(|name| match *name {
        // Its 1,275 evaluations an image would take minutes.
        "ddpm_ood" => serde_saphyr::from_str("ddpm_ood: { steps: 20, skip: 8 }").unwrap(),
        // Its 2,000 steps of learning would, too.
        "feature_denoising" => serde_saphyr::from_str("feature_denoising: { steps: 50, width: 16 }").unwrap(),
        name => DetectorConfig::default_of(name).unwrap(),
    })
}

/// Those that read nothing but logits, and learn nothing.
fn of_logits() -> impl Iterator<Item = DetectorConfig> {
    every_detector().filter(|config| {
        let detector = config.build();
        let of_logits = |need: &Output| matches!(need, Output::Logits | Output::RawLogits | Output::Kernels);
        detector.learns() == Learns::Nothing && detector.needs().iter().all(of_logits)
    })
}

#[test]
fn the_registry_lists_each_detector_once() {
    let names: std::collections::BTreeSet<&str> = DetectorConfig::NAMES.iter().copied().collect();
    assert_eq!(names.len(), DetectorConfig::NAMES.len());
    assert!(["msp", "gen", "map"].iter().all(|name| names.contains(name)), "as YAML has them: {names:?}");
}

/// How near each detector's scores are to a reference's stands in a row of that page, which begins with the detector as YAML.
#[test]
fn the_agreement_of_each_detector_is_listed() {
    let rows =
        include_str!("../docs/agreement.md").lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    let listed: Vec<&str> = rows
        .map(|(yaml, _)| match serde_saphyr::from_str::<DetectorConfig>(yaml) {
            Ok(config) => config.name(),
            Err(error) => panic!("docs/agreement.md: {yaml}: {error}"),
        })
        .collect();
    for name in DetectorConfig::NAMES {
        assert!(listed.contains(name), "docs/agreement.md has no row of {name}: `make agreement` makes them");
    }
}

/// Those that look on at others' forward passes do as well without the bank's own logits and features.
#[test]
fn batches_are_all_that_some_read() {
    let empty = |bank: &Bank| {
        let none = Tensor::zeros((0, 0), DType::F32, &Device::Cpu).unwrap();
        Bank { logits: none.clone(), features: none, members: None, inputs: None, ..bank.clone() }
    };
    let [train, test] =
        [(600, "train"), (30, "test")].map(|(images, name)| bank(synthetic(images, 8.0, name), CLASSES));
    let weight = Tensor::eye(CLASSES, DType::F32, &Device::Cpu).unwrap();
    let head = Head { bias: weight.zeros_like().unwrap().get(0).unwrap(), weight };
    let mut names = Vec::new();
    for detector in every_detector().filter(|config| config.build().pushed().is_some()) {
        names.push(detector.name());
        let scores = |train: &Bank, test: &Bank| {
            let fit = Fit { train: Some(train), head: Some(&head), memory: 1 << 20, ..Fit::default() };
            detector.build().fit(&fit).unwrap().score(test).unwrap()
        };
        assert_eq!(
            scores(&empty(&train), &empty(&test)).as_slice(),
            scores(&train, &test).as_slice(),
            "{}",
            detector.name()
        );
    }
    assert_eq!(names, ["gram", "rankfeat", "padim", "patchcore", "patch_svdd", "map"]);
}

/// Two stages of maps: 4×6 with four channels and 2×3 with three, of images of 16×24, an anomaly in one corner of the last.
fn staged(images: usize, name: &str) -> Bank {
    let stage = |stage: &str, [channels, rows, columns]: [usize; 3]| {
        let mut rng = rng::stream(0, "stages", &format!("{name} {stage}"));
        let size = images * channels * rows * columns;
        let mut values: Vec<f32> = StandardNormal.sample_iter(&mut rng).take(size).collect();
        if name == "test" {
            values[(images - 1) * channels * rows * columns..]
                .chunks_exact_mut(rows * columns)
                .for_each(|map| map[0] += 9.0);
        }
        (stage.to_owned(), Tensor::from_vec(values, (images, channels, rows, columns), &Device::Cpu).unwrap())
    };
    let stages = vec![stage("layer1", [4, 4, 6]), stage("layer2", [3, 2, 3])];
    let map = stages[0].1.mean(1).unwrap().abs().unwrap();
    let windows = seen(4, [16, 24], &stages[0].1);
    let batches = InMemory::new(stages).unwrap().with_image_size([16, 24]).with_map(map).with_windows(vec![windows]);
    Bank { batches: Some(Arc::new(batches) as _), ..bank(vec![0.0; images * CLASSES], CLASSES) }
}

/// Where an anomaly is, the map is largest; the image's score is what is made of the map on reading it.
#[test]
fn maps_are_there_where_they_are_promised_and_show_where_the_anomaly_is() {
    let (train, test) = (staged(60, "train"), staged(5, "test"));
    let mut mapping = Vec::new();
    for config in every_detector() {
        let Some(post) = config.post() else {
            let scores = score(&config, &bank(synthetic(3, 8.0, "id"), CLASSES));
            assert!(scores.is_ok(), "{}", config.name());
            continue;
        };
        mapping.push(config.name());
        let own = config.name() == "map";
        let (needs, learns) = match config.name() {
            "map" => (Output::Map, Learns::Nothing),
            "patch_svdd" => (Output::Windows, Learns::Images),
            _ => (Output::Stages, Learns::Images),
        };
        let detector = config.build();
        assert_eq!((detector.needs(), detector.learns()), (&[needs][..], learns), "no class is needed");
        let fit = Fit { train: Some(&train), memory: 1 << 20, ..Fit::default() };
        let scores = config.build().fit(&fit).unwrap().score(&test).unwrap();
        let maps = scores.maps().unwrap();
        assert_eq!((maps.images(), maps.grid()), (5, [4, 6]), "{}", config.name());
        for (image, score) in scores.as_slice().iter().enumerate() {
            assert_eq!(*score, post.image(maps.map(image), maps.grid(), [16, 24]), "{}", config.name());
        }
        let full = post.full(maps.map(4), maps.grid(), [16, 24]);
        let largest = (0..full.len()).fold(0, |best, at| if full[at] > full[best] { at } else { best });
        assert!(largest / 24 < 8 && largest % 24 < 8, "{}: {largest}", config.name());
        let others = scores.as_slice()[..4].iter().copied().fold(0.0, f32::max);
        assert!(scores.as_slice()[4] > 1.3 * others, "{}: {:?}", config.name(), scores.as_slice());
        assert_eq!(config.build().fit(&fit).unwrap().record().is_some(), !own);
    }
    assert_eq!(mapping, ["padim", "patchcore", "patch_svdd", "map"]);
}

#[test]
fn a_bare_name_and_a_map_are_the_same() {
    for config in DetectorConfig::all() {
        let name = config.name();
        let json = serde_json::to_value(&config).unwrap();
        assert_eq!(json.as_object().unwrap().keys().collect::<Vec<_>>(), [name]);
        assert_eq!(serde_json::from_value::<DetectorConfig>(json).unwrap(), config);
        for yaml in [name.to_owned(), format!("{name}: {{}}"), format!("\"{name}\"")] {
            assert_eq!(serde_saphyr::from_str::<DetectorConfig>(&yaml).unwrap(), config, "{yaml}");
        }
    }
}

#[test]
fn settings_are_read_and_checked() {
    let energy = |temperature| DetectorConfig::Energy(oodkit::detectors::energy::Config { temperature });
    let read = |yaml: &str| serde_saphyr::from_str::<DetectorConfig>(yaml).map_err(|error| error.to_string());
    assert_eq!(read("energy: { temperature: 2 }").unwrap(), energy(2.0));
    assert!(energy(0.0).validate().is_err() && energy(-1.0).validate().is_err());

    for (yaml, expected) in [
        ("enrgy", "there is no detector \"enrgy\" (did you mean \"energy\"?); `oodkit detectors` lists them"),
        ("enrgy: {}", "there is no detector \"enrgy\" (did you mean \"energy\"?); `oodkit detectors` lists them"),
        ("zzz", "there is no detector \"zzz\"; `oodkit detectors` lists them"),
        ("energy: { temprature: 2 }", "unknown field `temprature`"),
        ("msp: { temperature: 2 }", "unknown field `temperature`"),
        ("{ energy: {}, msp: {} }", "a method has one detector, but `msp` follows `energy`"),
        ("{}", "expected a detector's name, or a map of one name to its settings"),
        ("[energy]", "a detector's name, or a map of one name to its settings"),
        ("3", "a detector's name, or a map of one name to its settings"),
    ] {
        let error = read(yaml).unwrap_err();
        assert!(error.contains(expected), "{yaml}: {error}");
    }
    let error = DetectorConfig::default_of("mspp").unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().contains("did you mean \"msp\"?"));
}

#[test]
fn the_schema_allows_names_and_maps() {
    let schema = serde_json::to_value(schemars::schema_for!(DetectorConfig)).unwrap();
    let forms = schema["anyOf"].as_array().unwrap();
    assert_eq!(forms[0]["enum"], serde_json::json!(DetectorConfig::NAMES));
    let long = forms[1].to_string();
    for name in DetectorConfig::NAMES {
        assert!(long.contains(&format!("\"required\":[\"{name}\"]")), "{long}");
    }
}

#[test]
fn one_finite_score_per_image() {
    for config in every_detector() {
        let scores = score(&config, &bank(synthetic(37, 8.0, "id"), CLASSES)).unwrap();
        assert_eq!(scores.len(), 37);
        assert!(scores.iter().all(|score| score.is_finite()));
    }
}

#[test]
fn batches_and_order_do_not_matter_to_the_bit() {
    let logits = synthetic(41, 3.0, "id");
    let rows: Vec<&[f32]> = logits.chunks_exact(CLASSES).collect();
    let reversed = rows.iter().rev().copied().flatten().copied().collect();
    for config in every_detector() {
        let whole = score(&config, &bank(logits.clone(), CLASSES)).unwrap();
        let parts = rows.chunks(7).flat_map(|rows| score(&config, &bank(rows.concat(), CLASSES)).unwrap());
        assert_eq!(parts.collect::<Vec<_>>(), whole, "{}", config.name());
        let mut backwards = score(&config, &bank(Vec::clone(&reversed), CLASSES)).unwrap();
        backwards.reverse();
        assert_eq!(whole, backwards, "{}", config.name());
    }
}

#[test]
fn the_order_of_classes_does_not_matter() {
    let logits = synthetic(20, 3.0, "id");
    let mirrored: Vec<f32> = logits.chunks_exact(CLASSES).flat_map(|row| row.iter().rev().copied()).collect();
    for config in of_logits() {
        let (a, b) = (score(&config, &bank(logits.clone(), CLASSES)), score(&config, &bank(mirrored.clone(), CLASSES)));
        for (a, b) in a.unwrap().iter().zip(b.unwrap()) {
            assert!((a - b).abs() <= 1e-6 * a.abs().max(1.0), "{}: {a} and {b}", config.name());
        }
    }
}

#[test]
fn unsure_images_score_higher() {
    let (id, ood) = (bank(synthetic(200, 8.0, "id"), CLASSES), bank(synthetic(200, 0.0, "ood"), CLASSES));
    // Where no logit stands out, each is where it usually is, and these features vary alike in all directions: AFDU's, the
    // residual's and ViM's own tests have images that they find unusual. Of a last layer that is the identity, DICE leaves out whole
    // classes, and of maps of one pixel RankFeat leaves nothing. To NAC all neurons count alike, and of these six one stands out. To
    // PaDiM and to one Gaussian, which know no class, what lies between the classes is usual. Noise of these steps hides all classes,
    // also from a denoiser of features, whose own test has features that it finds unusual. Of six features the largest is too few
    // for LTS, and one direction off five for kernel PCA.
    // Every tenth train image, which CF-OOD compares with, is of one of three classes here. No logits of features at length 1 are sure, which
    // pNML needs.
    const UNFIT: [&str; 16] = [
        "afdu",
        "cfood",
        "ddpm_ood",
        "denoising_error",
        "dice",
        "elbo_ratio",
        "feature_denoising",
        "gaussian",
        "kpca",
        "lts",
        "nac",
        "padim",
        "pnml",
        "rankfeat",
        "residual",
        "vim",
    ];
    let read = |yaml: &str| serde_saphyr::from_str::<DetectorConfig>(yaml).unwrap();
    let hiding_less = [
        "denoising_error: { levels: [5, 20] }",
        "denoising_error: { levels: [5, 20], standardise: false }",
        // Of one pixel a channel there is no detail: the band that is subtracted hides all.
        "elbo_ratio: { low: [0.3, 0.5], high: [0.005, 0.03] }",
        "ddpm_ood: { steps: 100, skip: 200 }",
        "diffood: { target: images, clean: true, time: exact }",
        "diffpath: { covariance: diagonal, components: 3 }",
        "cfood: { alpha: 0.8 }",
        "lts: { percentile: 50 }",
        "kpca: { kernel: cosine_gaussian, frequencies: 128 }",
    ];
    let fit = every_detector().filter(|config| !UNFIT.contains(&config.name()));
    for config in fit.chain(hiding_less.map(read)) {
        let auroc = of_scores(&score(&config, &id).unwrap(), &score(&config, &ood).unwrap()).unwrap()["auroc"];
        assert!(auroc > 0.9, "{}: AUROC {auroc}", config.name());
    }
}

#[test]
fn more_evidence_for_the_likeliest_class_scores_lower() {
    for config in of_logits() {
        let logits: Vec<f32> = (0..30).flat_map(|evidence| [0.5, -1.0, 1.0 + evidence as f32 * 0.5]).collect();
        let scores = score(&config, &bank(logits, 3)).unwrap();
        assert!(scores.windows(2).all(|pair| pair[0] > pair[1]), "{}: {scores:?}", config.name());
    }
}

#[test]
fn nothing_and_nonsense_are_errors() {
    for config in of_logits() {
        for (images, classes) in [(0, 4), (4, 0), (0, 0)] {
            let logits = Tensor::zeros((images, classes), DType::F32, &Device::Cpu).unwrap();
            assert!(score(&config, &Bank { logits, ..bank(vec![0.0], 1) }).is_err());
        }
        assert!(
            score(&config, &Bank { logits: Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap(), ..bank(vec![0.0], 1) })
                .is_err()
        );
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let error = score(&config, &bank(vec![0.0, 1.0, 2.0, bad], 2)).unwrap_err();
            assert_eq!(error.to_string(), format!("logit 1 of image 1 is {bad}"));
        }
    }
}

#[test]
fn extreme_logits_stay_finite() {
    for config in of_logits() {
        let scores = score(&config, &bank(vec![3e38, -3e38, 0.0, -3e38, -3e38, -3e38, 1e-45, 0.0, -0.0], 3)).unwrap();
        assert_eq!(scores.len(), 3, "{}", config.name());
    }
}

#[test]
fn sure_images_are_told_apart_where_f32_confidence_is_one() {
    let logits = Tensor::new(&[[30f32, 0.0, 0.0], [40.0, 0.0, 0.0]], &Device::Cpu).unwrap();
    let scores = msp(&logits).unwrap();
    assert!(scores[0] > scores[1] && scores[1] > 0.0, "{scores:?}");
    assert!((scores[0] / (2.0 * (-30f32).exp()) - 1.0).abs() < 1e-6);
}

#[derive(serde::Deserialize)]
struct Golden {
    logits: Vec<Vec<f32>>,
    scores: Vec<GoldenScores>,
}

#[derive(serde::Deserialize)]
struct GoldenScores {
    detector: String,
    expected: Vec<f64>,
}

#[test]
fn equal_to_scipy_and_pytorch_ood() {
    let golden: Golden = serde_json::from_str(include_str!("golden/detectors.json")).unwrap();
    let bank = bank(golden.logits.concat(), golden.logits[0].len());
    let mut seen = Vec::new();
    for reference in &golden.scores {
        let config: DetectorConfig = serde_saphyr::from_str(&reference.detector).unwrap();
        seen.push(config.name());
        let scores = score(&config, &bank).unwrap();
        assert_eq!(scores.len(), reference.expected.len());
        for (score, expected) in scores.iter().zip(&reference.expected) {
            let error = (f64::from(*score) - expected).abs();
            assert!(error <= 1e-6 * expected.abs().max(1.0), "{}: {score}, expected {expected}", reference.detector);
        }
    }
    assert!(of_logits().all(|config| seen.contains(&config.name())), "every detector of logits has golden values");
}

#[test]
fn functions_are_what_the_detectors_compute() {
    let bank = bank(synthetic(10, 2.0, "id"), CLASSES);
    for (name, scores) in [
        ("msp", msp(&bank.logits)),
        ("softmax_entropy", softmax_entropy(&bank.logits)),
        ("max_logit", max_logit(&bank.logits)),
        ("energy", energy(&bank.logits, 1.0)),
    ] {
        assert_eq!(score(&DetectorConfig::default_of(name).unwrap(), &bank).unwrap(), scores.unwrap());
    }
}

#[derive(serde::Deserialize)]
struct GoldenFeatures {
    train_features: Vec<Vec<f32>>,
    features: Vec<Vec<f32>>,
    feature_scores: Vec<GoldenScores>,
}

#[test]
fn neighbours_are_those_of_numpy_and_pytorch_ood() {
    let golden: GoldenFeatures = serde_json::from_str(include_str!("golden/detectors.json")).unwrap();
    let (train, test) = (bank(golden.train_features.concat(), 5), bank(golden.features.concat(), 5));
    for reference in &golden.feature_scores {
        let config: DetectorConfig = serde_saphyr::from_str(&reference.detector).unwrap();
        let scorer = config.build().fit(&Fit { train: Some(&train), ..Fit::default() }).unwrap();
        for (score, expected) in scorer.score(&test).unwrap().as_slice().iter().zip(&reference.expected) {
            let error = (f64::from(*score) - expected).abs();
            assert!(error <= 1e-6 * expected.max(0.1), "{}: {score}, expected {expected}", reference.detector);
        }
    }
}

#[test]
fn neighbours_must_exist_and_zero_features_are_one_away() {
    let train = Tensor::new(&[[1f32, 0.0], [0.0, 2.0]], &Device::Cpu).unwrap();
    let zero = Tensor::zeros((1, 2), DType::F32, &Device::Cpu).unwrap();
    assert_eq!(knn(&train, &zero, 2).unwrap(), [1.0]);
    assert!(knn(&train, &zero, 3).unwrap_err().to_string().contains("k is 3, and there are 2 train images"));
    let nan = Tensor::new(&[[1f32, f32::NAN]], &Device::Cpu).unwrap();
    assert_eq!(knn(&train, &nan, 1).unwrap_err().to_string(), "feature 1 of image 0 is NaN");
}
