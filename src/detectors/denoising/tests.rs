use candle_core::Device;
use rand::Rng as _;
use rand_distr::StandardNormal;

use super::*;
use crate::{
    detectors::{About, DetectorConfig, diffood::Answers, map_rows},
    nn::{
        Model, Pass, Shown,
        denoiser::{Course, Prediction},
        sampler::tests::{gaussian, layer},
    },
    pattern::{uniform, values},
};

/// The network of tests/golden/denoisers.py: one hidden layer.
struct Hidden;

impl Model for Hidden {
    fn show(&self, images: &Tensor, _: &Pass) -> candle_core::Result<Shown> {
        let features = images.flatten_from(1)?.matmul(&uniform("hidden", &[6, 8]).t()?)?.relu()?;
        let logits = features.matmul(&uniform("last", &[3, 6]).t()?)?;
        Ok(Shown { logits: Some(logits), features: Some(features), ..Shown::default() })
    }

    fn folded(&self) -> candle_core::Result<Box<dyn Model>> {
        unreachable!("nothing folds it")
    }
}

/// Of every detector what it measures, with the noise of the reference.
#[test]
fn what_is_measured_is_what_numpy_measures() {
    #[derive(serde::Deserialize)]
    struct Golden {
        mean: Vec<f32>,
        std: Vec<f32>,
        cases: Vec<Case>,
    }
    #[derive(serde::Deserialize)]
    struct Case {
        detector: String,
        expected: Vec<f64>,
    }
    let golden: Golden = serde_json::from_str(include_str!("../../../tests/golden/denoisers.json")).unwrap();
    let normalisation = Normalisation { mean: golden.mean, std: golden.std };
    let images = uniform("images", &[5, 2, 2, 2]).to_dtype(DType::F32).unwrap().to_dtype(DType::F64).unwrap();
    let noises: Vec<Tensor> = (0..12).map(|at| uniform(&format!("noise {at}"), &[5, 2, 2, 2])).collect();
    let denoiser = layer(Course::Linear, Prediction::Noise);
    let answers = Answers { network: &Hidden, normalisation: &normalisation, together: 3 };
    let as_network = renormalised(&images, &Normalisation::signed(2), &normalisation).unwrap();
    let logits = Hidden.show(&as_network, &Pass::eval()).unwrap().logits.unwrap();
    let classes = map_rows(&logits, |row| crate::detectors::argmax(row) as u32).unwrap();
    assert!(classes.iter().any(|class| *class != classes[0]), "{classes:?}");
    let mut kinds = std::collections::BTreeMap::new();
    for Case { detector, expected } in &golden.cases {
        let config: DetectorConfig = serde_saphyr::from_str(detector).unwrap();
        for together in [64, 3] {
            let guide = Guide { denoiser: &denoiser, guidance: 0.0, together };
            // Scores are f32.
            let (found, tolerance) = match &config {
                DetectorConfig::DenoisingError(config) => {
                    let noise: Vec<Vec<Tensor>> = noises.chunks(2).map(<[Tensor]>::to_vec).collect();
                    (config.errors(&guide, &images, &noise[..2]), 1e-9)
                }
                DetectorConfig::Diffpath(config) => (config.sums(&guide, &images), 1e-9),
                DetectorConfig::ElboRatio(config) => (config.densities(&guide, &images, &noises), 1e-9),
                DetectorConfig::DdpmOod(config) => (config.distances(&guide, &images, &noises), 1e-9),
                DetectorConfig::Diffood(config) => {
                    let scores = config.scores(&guide, &answers, &images, &classes, &noises[..2], None);
                    (scores.map(|scores| scores.into_iter().map(f64::from).collect()), 1e-6)
                }
                other => panic!("{other:?}"),
            };
            let found = found.unwrap();
            assert_eq!(found.len(), expected.len(), "{detector}");
            let far = found.iter().zip(expected).map(|(one, other)| (one - other).abs() / other.abs().max(1.0));
            let far = far.fold(0.0, f64::max);
            assert!(far < tolerance, "{detector}: {far}");
            let most: &mut f64 = kinds.entry(config.name()).or_default();
            *most = most.max(far);
        }
    }
    // For docs/agreement.md.
    println!("{kinds:?}");
    assert_eq!(kinds.len(), 5, "{kinds:?}");
}

/// Noise of the nearest train images, one for each repeat, whatever goes together.
#[test]
fn noise_of_neighbours_is_numpys() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("../../../tests/golden/denoisers.json")).unwrap();
    let of = |key: &str| serde_json::from_value::<Vec<f32>>(golden[key].clone()).unwrap();
    let normalisation = Normalisation { mean: of("mean"), std: of("std") };
    let images = |name: &str, count| {
        let images = uniform(name, &[count, 2, 2, 2]).to_dtype(DType::F32).unwrap();
        images.to_dtype(DType::F64).unwrap()
    };
    let (images, train) = (images("images", 5), images("train", 7));
    let shown = |images: &Tensor| {
        let images = renormalised(images, &Normalisation::signed(2), &normalisation).unwrap();
        Hidden.show(&images, &Pass::eval()).unwrap()
    };
    let features = |images: &Tensor| shown(images).features.unwrap().to_dtype(DType::F32).unwrap();
    let classes = map_rows(&shown(&images).logits.unwrap(), |row| crate::detectors::argmax(row) as u32).unwrap();
    let case = &golden["inverted"];
    let config: DetectorConfig = serde_saphyr::from_str(case["detector"].as_str().unwrap()).unwrap();
    let DetectorConfig::Diffood(config) = config else { panic!("{config:?}") };
    let denoiser = layer(Course::Linear, Prediction::Noise);
    let answers = Answers { network: &Hidden, normalisation: &normalisation, together: 3 };
    let near = neighbours::Near::new(&features(&train), train, None).unwrap();
    let expected: Vec<f64> = serde_json::from_value(case["expected"].clone()).unwrap();
    for (together, all) in [(64, true), (2, true), (3, false)] {
        let guide = Guide { denoiser: &denoiser, guidance: 0.0, together };
        let (way, mut made) = (config.way_up(denoiser.schedule()), std::collections::BTreeMap::new());
        let mut scores = |start: usize, count: usize| {
            let images = images.narrow(0, start, count).unwrap();
            let noise = near.noise(&guide, &way, &features(&images), 2, &mut made).unwrap();
            config.scores(&guide, &answers, &images, &classes[start..start + count], &noise, None).unwrap()
        };
        let found = if all { scores(0, 5) } else { [scores(0, 2), scores(2, 3)].concat() };
        for (found, expected) in found.iter().zip(&expected) {
            assert!((f64::from(*found) - expected).abs() < 1e-6, "{together}: {found}, not {expected}");
        }
        let nearest: Vec<[u32; 2]> = serde_json::from_value(case["nearest"].clone()).unwrap();
        let used: std::collections::BTreeSet<u32> = nearest.into_iter().flatten().collect();
        assert!(made.keys().eq(&used), "no other is made into noise");
    }
}

/// Of images of a Gaussian the error is known: a²σ²/(a²σ² + s²).
#[test]
fn the_error_of_a_gaussian_is_the_one_in_closed_form() {
    let of = [0.2, 0.3];
    let denoiser = gaussian(Course::Linear, Prediction::Noise, 1000, of);
    let guide = Guide { denoiser: &denoiser, guidance: 0.0, together: 64 };
    let mut stream = rng::stream(0, "images", "");
    let pixels: Vec<f64> =
        (&mut stream).sample_iter::<f64, _>(StandardNormal).take(20_000).map(|x| of[0] + of[1] * x).collect();
    let images = Tensor::from_vec(pixels, (2, 1, 100, 100), &Device::Cpu).unwrap();
    let config = crate::detectors::denoising_error::Config { levels: vec![50, 400], ..Default::default() };
    let noise = |level: usize| vec![noise(&images, (0, "test", level)).unwrap()];
    let found = config.errors(&guide, &images, &[noise(0), noise(1)]).unwrap();
    for (at, level) in [50, 400].into_iter().enumerate() {
        let place = denoiser.schedule().place(level);
        let [signal, spread] = [place.signal * of[1], place.noise].map(|x| x * x);
        let exact = signal / (signal + spread);
        for image in 0..2 {
            let error = found[image * 2 + at];
            assert!((error / exact - 1.0).abs() < 0.05, "{level}: {error}, not {exact}");
        }
    }
}

#[test]
fn noise_is_an_images_own_whatever_stands_beside_it() {
    let images = uniform("images", &[4, 1, 3, 3]).to_dtype(DType::F32).unwrap();
    let all = values(&noise(&images, (3, "test", 0)).unwrap());
    let order = Tensor::new(&[2u32, 0], &Device::Cpu).unwrap();
    let some = values(&noise(&images.index_select(&order, 0).unwrap(), (3, "test", 0)).unwrap());
    assert_eq!(some, [&all[18..27], &all[..9]].concat());
    for other in [(4, "test", 0), (3, "other", 0), (3, "test", 1)] {
        assert_ne!(values(&noise(&images, other).unwrap())[..9], all[..9], "{other:?}");
    }
    assert_ne!(all[..9], all[9..18]);
    // Bits that processors may differ in.
    let nearly = (images + 1e-7).unwrap();
    assert_eq!(values(&noise(&nearly, (3, "test", 0)).unwrap()), all);
}

#[test]
fn z_scores_are_of_train_images() {
    let usual = Usual::of(&[1.0, 5.0, 3.0, 5.0], 2);
    assert_eq!((&usual.mean[..], &usual.deviation[..]), (&[2.0, 5.0][..], &[1.0, 1.0][..]));
    assert_eq!(usual.standardised(&[4.0, 6.0, 2.0, 5.0]), [2.0, 1.0, 0.0, 0.0]);
    assert_eq!(row_means(&[4.0, 6.0, 2.0, 5.0], 2), [5.0, 3.5]);
}

/// What a plan says before anything is trained, by the denoiser's steps and classes and by a network of three classes.
#[test]
fn what_a_denoiser_cannot_do_is_refused_at_its_key() {
    let shown = Shown { logits: Some(Tensor::zeros((1, 3), DType::F32, &Device::Cpu).unwrap()), ..Shown::default() };
    let of = |detector: &str, steps, classes| {
        let config: DetectorConfig = serde_saphyr::from_str(detector).unwrap();
        let denoiser = Some(Denoises { steps, classes, needs_class: false });
        let about = About { layers: &[], shown: &shown, denoiser, train: Some(60), memory: 1 << 20 };
        let checked = config.detector().depends().unwrap()(about);
        checked.map_err(|refusal| (refusal.key, refusal.error.to_string(), refusal.error.exit_code()))
    };
    for (detector, steps, classes, key, message) in [
        ("diffood", 360, 3, "levels", "there is no step 360: the denoiser's schedule has 360"),
        ("diffood: { levels: [10], stride: 20 }", 1000, 3, "stride", "a stride of 20 skips the level 10 whole"),
        ("diffood: { levels: [240, 120] }", 1000, 3, "levels", "levels rise, and 120 follows 240"),
        (
            "diffood: { guidance: 2 }",
            1000,
            0,
            "guidance",
            "the denoiser is told no classes, and guidance is towards one",
        ),
        ("diffood", 1000, 10, "denoiser", "it is told 10 classes, and the network whose answers are compared knows 3"),
        ("diffood: { sampler: ancestral }", 1000, 3, "sampler", "ancestral steps add noise"),
        (
            "diffood: { noise: knn_inverted, levels: [360], stride: 120 }",
            1000,
            3,
            "stride",
            "a stride of 120 leaves much of a neighbour in its noise",
        ),
        ("diffood: { train_images: 5 }", 1000, 3, "train_images", "goes with noise: knn_inverted"),
        ("diffood: { noise: knn_inverted, repeats: 61 }", 1000, 3, "repeats", "and there are 60 train images"),
        (
            "diffood: { noise: knn_inverted, train_images: 3 }",
            1000,
            3,
            "train_images",
            "a neighbour for each of 4 repeats, of 3 images",
        ),
        ("denoising_error", 500, 0, "levels", "there is no step 500"),
        ("ddpm_ood", 50, 0, "steps", "100 steps do not fit a schedule of 50"),
        ("ddpm_ood: { sampler: ancestral }", 1000, 0, "sampler", "ancestral steps add noise"),
        ("diffpath", 5, 0, "steps", "10 steps do not fit a schedule of 5"),
        (
            "elbo_ratio: { low: [0.2, 0.1] }",
            1000,
            0,
            "low",
            "from 0.2 to 0.1 of a schedule of 1000 steps there is no step",
        ),
        ("elbo_ratio: { low: [0.01, 0.05] }", 10, 0, "low", "of a schedule of 10 steps there is no step"),
    ] {
        let (found, told, code) = of(detector, steps, classes).unwrap_err();
        assert_eq!((found, code), (Some(key), 2), "{detector}");
        assert!(told.contains(message), "{detector}: {told}");
    }
    let (key, told, code) = of("diffpath: { components: 61 }", 1000, 0).unwrap_err();
    assert_eq!((key, code), (None, 2));
    assert!(told.contains("components is 61, and there are 60 train images"), "{told}");
    for (detector, classes) in
        [("diffood", 3), ("diffood", 0), ("diffood: { guidance: 0 }", 0), ("ddpm_ood", 0), ("elbo_ratio", 3)]
    {
        of(detector, 1000, classes).unwrap();
    }
}

/// ADM's weights of classes: what tells none has no use for them.
#[test]
fn a_denoiser_that_needs_a_class_is_refused_where_none_is_told() {
    let shown = Shown::default();
    let denoiser = Denoises { steps: 1000, classes: 3, needs_class: true };
    let of = |detector: &str| {
        let config: DetectorConfig = serde_saphyr::from_str(detector).unwrap();
        let about = About { layers: &[], shown: &shown, denoiser: Some(denoiser), train: Some(60), memory: 1 << 20 };
        config.detector().depends().unwrap()(about).map_err(|refusal| refusal.error)
    };
    for detector in ["denoising_error", "diffpath", "elbo_ratio", "ddpm_ood"] {
        let error = of(detector).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("cannot go without a class"), "{detector}: {error}");
    }
    // DiffOOD tells it, without guidance.
    of("diffood").unwrap();
    let error = of("diffood: { guidance: 2 }").unwrap_err();
    assert!(error.to_string().contains("guidance is away from that"), "{error}");
    let config: DetectorConfig = serde_saphyr::from_str("diffood").unwrap();
    assert_eq!(config.detector().evaluations(denoiser), Some(144));
}

#[test]
fn evaluations_are_those_of_the_papers() {
    let of = |detector: &str, classes| {
        let config: DetectorConfig = serde_saphyr::from_str(detector).unwrap();
        config.detector().evaluations(Denoises { steps: 1000, classes, needs_class: false }).unwrap()
    };
    assert_eq!(of("diffood", 10), 288);
    assert_eq!(of("diffood: { sampler: pndm }", 10), 504);
    assert_eq!(of("diffood", 0), 144);
    assert_eq!(of("diffood: { noise: knn_inverted }", 0), 144 + 4 * 49);
    assert_eq!(of("diffood: { guidance: 0, levels: [360] }", 10), 72);
    assert_eq!([of("ddpm_ood", 0), of("ddpm_ood: { skip: 16 }", 0)], [1275, 357]);
    assert_eq!([of("diffpath", 0), of("elbo_ratio", 0), of("denoising_error", 0)], [10, 10, 5]);
}
