//! SimpleNet against PyTorch (`tests/golden/simplenet.py`), and its noise.

use candle_core::{DType, Device, Tensor, Var};
use oodkit::{
    losses::truncated_l1,
    models::{
        ModelConfig,
        simplenet::{Discriminator, features},
    },
    nn::{Mode, Pass, Precision, Shape, params::Params},
};
use serde_json::Value;

use crate::{
    TRAIN,
    common::{assert_close, numbers, uniform, values},
    network::{directional, parameter, sampled},
};

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/simplenet.json")).unwrap()
}

#[test]
fn features_scores_and_gradients_are_pytorchs() {
    let golden = golden();
    let shapes: Vec<[usize; 4]> = serde_json::from_value(golden["shapes"].clone()).unwrap();
    let hidden = golden["hidden"].as_u64().unwrap() as usize;
    for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F64, 1e-9)] {
        let of = |name: &str, shape: &[usize]| uniform(name, shape).to_dtype(dtype).unwrap();
        let maps: Vec<Tensor> =
            shapes.iter().enumerate().map(|(at, shape)| of(&format!("stage {at}"), shape)).collect();
        let found = features(&maps).unwrap();
        assert_eq!(found.dims(), [2, 12, 6, 8]);
        assert_close("features", &sampled(&found, 96), &numbers(&golden["features"]), tolerance);
        let params = Params::new(0, &Device::Cpu);
        let network = Discriminator::new(12, hidden, &params.builder().set_dtype(dtype)).unwrap();
        let all = params.all().unwrap();
        let state = all.iter().map(|(name, old)| (name.clone(), parameter(name, old.dims()))).collect();
        params.load(&state, std::path::Path::new("test")).unwrap();
        let projected = network.project(&found, &Pass::eval()).unwrap();
        let used = network.scores(&projected, &Pass::eval()).unwrap();
        assert_close("used", &sampled(&used, 96), &numbers(&golden["eval"]), tolerance);

        let pass = Pass::new(TRAIN);
        let projected = network.project(&found, &pass).unwrap();
        let noised = (&projected + of("noise", projected.dims())).unwrap();
        let scores = network.scores(&Tensor::cat(&[&projected, &noised], 0).unwrap(), &pass).unwrap();
        let halves = [0, 2].map(|start| scores.narrow(0, start, 2).unwrap());
        for (half, expected) in halves.iter().zip(golden["train"].as_array().unwrap()) {
            assert_close("learning", &sampled(half, 48), &numbers(expected), 10.0 * tolerance);
        }
        let loss = truncated_l1(&halves[0], Some(&halves[1]), 0.5).unwrap();
        assert_close("loss", &values(&loss), &[golden["loss"].as_f64().unwrap()], tolerance);
        let all = params.all().unwrap();
        for (name, expected) in golden["buffers"].as_object().unwrap() {
            assert_close(name, &sampled(&all[name], 6), &numbers(expected), tolerance);
        }
        if dtype == DType::F32 {
            continue;
        }
        let gradients = loss.backward().unwrap();
        let expected = golden["gradients"].as_object().unwrap();
        assert_eq!(expected.len(), params.trainable().len());
        for (name, var) in params.trainable() {
            let [norm, dot] = directional(&name, gradients.get(&var).unwrap());
            let expected = numbers(&expected[&name]);
            // Batch normalisation takes away what a bias before it adds: its gradient is rounding.
            let error = (norm - expected[0]).abs().max((dot - expected[1]).abs());
            assert!(error < 1e-8 * expected[0].max(1e-4), "{name}: {norm} {dot}, {expected:?}");
        }
    }
}

#[test]
fn the_loss_and_its_gradients_are_pytorchs_and_central_differences() {
    let golden = &golden()["term"];
    let margin = golden["margin"].as_f64().unwrap();
    let [scores, noised] = ["scores", "noised"].map(|name| Var::from_tensor(&uniform(name, &[2, 3, 4])).unwrap());
    let loss = truncated_l1(&scores, Some(&noised), margin).unwrap();
    assert_close("value", &values(&loss), &[golden["value"].as_f64().unwrap()], 1e-12);
    let gradients = loss.backward().unwrap();
    for (name, variable, other) in [("scores", &scores, &noised), ("noised", &noised, &scores)] {
        let gradient = values(gradients.get(variable).unwrap());
        assert_close(name, &gradient, &numbers(&golden[name]), 1e-12);
        for at in (0..24).step_by(5) {
            let moved = |by: f64| {
                let mut moved = values(variable);
                moved[at] += by;
                let moved = Tensor::from_vec(moved, (2, 3, 4), &Device::Cpu).unwrap();
                let (scores, noised) =
                    if name == "scores" { (&moved, other.as_tensor()) } else { (other.as_tensor(), &moved) };
                values(&truncated_l1(scores, Some(noised), margin).unwrap())[0]
            };
            let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            assert!((slope - gradient[at]).abs() < 1e-8, "{name} at {at}: {slope}, not {}", gradient[at]);
        }
    }
    // Images that are held out come without noise.
    let alone = truncated_l1(&scores, None, margin).unwrap();
    let all = truncated_l1(&scores, Some(&Tensor::full(9.0, (2, 3, 4), &Device::Cpu).unwrap()), margin).unwrap();
    assert_eq!(values(&alone), values(&all));
}

#[test]
fn a_step_has_its_own_noise_of_the_deviation_that_is_asked_for() {
    let shape = Shape { channels: 3, height: 32, width: 32, classes: 1 };
    let images = uniform("images", &[2, 3, 32, 32]).to_dtype(DType::F32).unwrap();
    let build = |noise: f64| {
        let yaml = format!("simplenet: {{ backbone: resnet20, stages: [layer1, layer2], hidden: 8, noise: {noise} }}");
        let config: ModelConfig = serde_saphyr::from_str(&yaml).unwrap();
        config.build(shape, Params::new(0, &Device::Cpu).builder()).unwrap()
    };
    let show = |noise, step| {
        let mode = Mode::Train { seed: 3, step, precision: Precision::F32 };
        let shown = build(noise).show(&images, &Pass::new(mode)).unwrap();
        let (map, noised) = (shown.map().unwrap(), shown.noised.as_ref().unwrap());
        assert_eq!((map.dims(), noised.dims()), (&[2, 32, 32][..], &[2, 32, 32][..]));
        (values(map), values(noised))
    };
    let (map, noised) = show(0.0, 0);
    assert_eq!(map, noised);
    assert_eq!(show(0.5, 1), show(0.5, 1));
    let [one, other] = [1, 2].map(|step| show(0.5, step).1);
    assert_ne!(one, other);
    let far = |noise| {
        let (map, noised) = show(noise, 0);
        let squares: f64 = map.iter().zip(&noised).map(|(a, b)| (a - b).powi(2)).sum();
        (squares / map.len() as f64).sqrt()
    };
    // A leaky ReLU is nearly linear for little noise, and both are normalised together.
    let ratio = far(0.02) / far(0.01);
    assert!((ratio - 2.0).abs() < 0.02, "{ratio}");
    let used = build(0.5).show(&images, &Pass::eval()).unwrap();
    assert!(used.noised.is_none() && used.map().is_ok());
}
