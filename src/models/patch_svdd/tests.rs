use std::{collections::BTreeMap, path::Path};

use candle_core::{DType, Device, Var};

use super::*;
use crate::{
    losses::{patch_position, patch_svdd},
    nn::{Precision, params::Params},
    pattern::{assert_close, parameter, sampled, uniform, values},
};

#[derive(serde::Deserialize)]
struct Golden {
    large: Vec<f64>,
    small: Vec<f64>,
    draws: BTreeMap<String, Drawn>,
    position: f64,
    svdd: f64,
    gradients: BTreeMap<String, Vec<f64>>,
}

#[derive(serde::Deserialize)]
struct Drawn {
    apart: Vec<([usize; 2], [usize; 2], u32)>,
    near: Vec<[[usize; 2]; 2]>,
    logits: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
}

const TRAIN: Mode = Mode::Train { seed: 0, step: 3, precision: Precision::F32 };
const SIZE: [usize; 2] = [40, 48];

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../../tests/golden/patch_svdd.json")).unwrap()
}

fn settings() -> Settings {
    Settings { channels: vec![4, 5, 4], features: 6, hidden: 7, ..Settings::default() }
}

fn images(dtype: DType) -> Tensor {
    uniform("patches of", &[3, 3, SIZE[0], SIZE[1]]).to_dtype(dtype).unwrap()
}

/// The golden network.
fn network(dtype: DType) -> (Params, PatchSvdd) {
    let (params, settings) = (Params::new(0, &Device::Cpu), settings());
    let vb = params.builder().set_dtype(dtype);
    let position = |name: &str| Position::new(&settings, DIRECTIONS.len(), &vb.pp(name)).unwrap();
    let network = PatchSvdd {
        encoder: Encoder::new(&settings, 3, &vb).unwrap(),
        positions: [position("cls_large"), position("cls_small")],
        windows: settings.windows(),
        noise: settings.noise,
    };
    let all = params.all().unwrap();
    let state = all.iter().map(|(name, old)| (name.clone(), parameter(name, old.dims()))).collect();
    params.load(&state, Path::new("test")).unwrap();
    (params, network)
}

/// A convolution over an image is one over each of its windows.
#[test]
fn all_windows_together_are_pytorchs_one_by_one() {
    let golden = golden();
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-9)] {
        let (_, network) = network(dtype);
        let shown = network.show(&images(dtype), &Pass::eval()).unwrap();
        let [large, small] = &shown.windows[..] else { panic!("two sizes") };
        assert_eq!((large.name, large.features.dims()), ("large", &[3, 6, 1, 2][..]));
        assert_eq!((small.name, small.features.dims()), ("small", &[3, 6, 7, 9][..]));
        for seen in [large, small] {
            let [rows, columns] = seen.windows.grid(SIZE).unwrap();
            assert_eq!((seen.size, &seen.features.dims()[2..]), (SIZE, &[rows, columns][..]));
        }
        assert_close("large", &sampled(&large.features), &golden.large, tolerance);
        assert_close("small", &sampled(&small.features), &golden.small, tolerance);
        // Patches that are cut out have the same embeddings, to rounding.
        let cut = network.windows.map(|windows| {
            let images = images(dtype);
            let [rows, columns] = windows.grid(SIZE).unwrap();
            windows.of(&images, 0..images.dim(0).unwrap() * rows * columns).unwrap()
        });
        let embedded = network.encoder.patches(cut.each_ref(), &Pass::eval()).unwrap();
        for (seen, embedded) in [large, small].into_iter().zip(embedded) {
            let rows = seen.features.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap();
            assert_close(seen.name, &values(&embedded), &values(&rows), tolerance);
        }
        assert!(shown.patches().is_err(), "patches are drawn while it learns");
    }
}

#[test]
fn what_it_learns_from_given_patches_is_pytorchs() {
    let golden = golden();
    for (dtype, tolerance) in [(DType::F32, 1e-5), (DType::F64, 1e-9)] {
        let (params, network) = network(dtype);
        let draws = ["large", "small"].map(|name| {
            let (drawn, side) = (&golden.draws[name], if name == "large" { 32 } else { 16 });
            let noise = [0, 1].map(|at| {
                let values = uniform(&format!("noise {name} {at}"), &[3, 3, side, side]);
                (values * 0.1).unwrap().to_dtype(DType::F32).unwrap()
            });
            let apart = drawn.apart.iter().map(|(first, second, direction)| ([*first, *second], *direction));
            Draws { side, apart: apart.collect(), noise, near: drawn.near.clone() }
        });
        let shown = network.learn(&images(dtype), &draws, &Pass::new(TRAIN)).unwrap();
        for (name, pairs) in ["large", "small"].iter().zip(shown.patches().unwrap()) {
            let drawn = &golden.draws[*name];
            assert_close(name, &values(&pairs.logits), &drawn.logits, tolerance);
            assert_close(name, &sampled(&pairs.near[0]), &drawn.first, tolerance);
            assert_close(name, &sampled(&pairs.near[1]), &drawn.second, tolerance);
        }
        let (position, svdd) = (patch_position(&shown.patches).unwrap(), patch_svdd(&shown.patches).unwrap());
        assert_close("position", &values(&position), &[golden.position], tolerance);
        assert_close("svdd", &values(&svdd), &[golden.svdd], tolerance);
        let second = shown.narrow(1, 2).unwrap();
        assert_eq!(values(&second.patches().unwrap()[1].logits), values(&shown.patches[1].logits)[8..]);
        if dtype == DType::F32 {
            continue;
        }
        // The pair of small patches of the last image is one patch twice: as in PyTorch, that has no gradient.
        let gradients = (position + (svdd * 0.5).unwrap()).unwrap().backward().unwrap();
        for (name, var) in params.trainable() {
            let Some(expected) = golden.gradients.get(&name) else {
                assert!(name.ends_with(".fc3.weight") && gradients.get(&var).is_none(), "{name} does not learn");
                continue;
            };
            let gradient = values(gradients.get(&var).unwrap_or_else(|| panic!("{name}")));
            let toward = values(&uniform(&format!("toward {name}"), var.dims()));
            let norm = gradient.iter().map(|value| value * value).sum::<f64>().sqrt();
            let dot: f64 = gradient.iter().zip(toward).map(|(value, toward)| value * toward).sum();
            assert_close(&name, &[norm, dot], expected, 1e-8);
        }
        assert_eq!(golden.gradients.len() + 2, params.trainable().len());
    }
}

#[test]
fn losses_change_as_their_gradients_say() {
    let shape = [2, 3];
    let [a, b] = ["a", "b"].map(|name| uniform(name, &shape));
    let logits = uniform("directions", &[2, 8]);
    let directions = Tensor::new(&[7_u32, 2], &Device::Cpu).unwrap();
    let of = |logits: &Tensor, a: &Tensor, b: &Tensor| {
        let pairs = PatchPairs { logits: logits.clone(), directions: directions.clone(), near: [a.clone(), b.clone()] };
        let sizes = [pairs.clone(), pairs];
        (patch_position(&sizes).unwrap() + patch_svdd(&sizes).unwrap()).unwrap()
    };
    let variables = [&logits, &a, &b].map(|tensor| Var::from_tensor(tensor).unwrap());
    let [logits, a, b] = variables.each_ref().map(|var| var.as_tensor().clone());
    let gradients = of(&logits, &a, &b).backward().unwrap();
    for (place, variable) in variables.iter().enumerate() {
        let (plain, slopes) = (values(variable), values(gradients.get(variable).unwrap()));
        for (at, slope) in slopes.iter().enumerate() {
            let moved = |by: f64| {
                let mut moved = plain.clone();
                moved[at] += by;
                let moved = Tensor::from_vec(moved, variable.shape(), &Device::Cpu).unwrap();
                let mut all = variables.each_ref().map(|var| var.as_detached_tensor());
                all[place] = moved;
                of(&all[0], &all[1], &all[2]).to_scalar::<f64>().unwrap()
            };
            let difference = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            assert!((difference - slope).abs() < 1e-7, "{place} {at}: {difference}, not {slope}");
        }
    }
    let alike = Var::from_tensor(&a.detach()).unwrap();
    let pairs = PatchPairs { logits: logits.detach(), directions, near: [alike.as_tensor().clone(), a.detach()] };
    let gradients = patch_svdd(&[pairs]).unwrap().backward().unwrap();
    assert!(values(gradients.get(&alike).unwrap()).iter().all(|slope| *slope == 0.0), "of equal embeddings");
    assert!(patch_svdd(&[]).is_err() && patch_position(&[]).is_err());
}

#[test]
fn patches_are_drawn_by_seed_and_step_and_lie_in_the_image() {
    let draws = |step: u64, side: usize| {
        let mut rng = rng::stream(5, "patches", &step.to_string());
        Draws::new(400, [3, 40, 48], side, 0.5, (&mut rng, &Device::Cpu)).unwrap()
    };
    for side in [16, 32] {
        let drawn = draws(1, side);
        let again = draws(1, side);
        assert_eq!((&drawn.apart, &drawn.near), (&again.apart, &again.near));
        assert_eq!(values(&drawn.noise[1]), values(&again.noise[1]));
        assert_ne!(drawn.near, draws(2, side).near);
        let inside = |[top, left]: [usize; 2]| top + side <= 40 && left + side <= 48;
        let mut seen = [0; 8];
        for ([first, second], direction) in &drawn.apart {
            assert!(inside(*first) && inside(*second));
            seen[*direction as usize] += 1;
            for axis in 0..2 {
                let (from, to) = (first[axis] as i64, second[axis] as i64);
                let along = DIRECTIONS[*direction as usize][axis];
                // Three to four quarters of a side away, unless the border is nearer.
                let most = [40 - side, 48 - side][axis] as i64;
                let away = (to - from) * along;
                let border = if along > 0 { most - from } else { from };
                let (least, far) = (3 * side as i64 / 4, side as i64 - 1);
                assert!(along == 0 && to == from || (away == border && border <= far) || (least..=far).contains(&away));
            }
        }
        assert!(seen.iter().all(|count| *count > 25), "{seen:?}");
        for [first, second] in &drawn.near {
            assert!(inside(*first) && inside(*second));
            let away = [0, 1].map(|axis| first[axis].abs_diff(second[axis]));
            assert!(away.iter().all(|away| *away <= 1));
        }
        // One draw a channel and one a pixel, of deviation ½ each.
        let noise = values(&drawn.noise[0]);
        let mean = noise.iter().sum::<f64>() / noise.len() as f64;
        let variance = noise.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / noise.len() as f64;
        assert!(mean.abs() < 0.06 && (variance - 0.5).abs() < 0.04, "{mean} {variance}");
        let first: Vec<f64> =
            noise.chunks(side * side).map(|plane| plane.iter().sum::<f64>() / plane.len() as f64).collect();
        let spread = first.iter().map(|x| x * x).sum::<f64>() / first.len() as f64;
        assert!((spread - 0.25).abs() < 0.04, "{spread}");
    }
}

#[test]
fn what_cannot_be_built_is_named() {
    let build = |settings: &Settings, side: usize| {
        let params = Params::new(0, &Device::Cpu);
        settings.build(Shape { channels: 3, height: side, width: 48, classes: 1 }, params.builder()).err().unwrap()
    };
    let small = build(&settings(), 31);
    assert_eq!((small.exit_code(), settings().least_side()), (2, 32));
    assert!(small.to_string().contains("patches of 32×32 pixels have no room in images of 31×48"), "{small}");
    for stride in [3, 5, 6, 8] {
        let other = Settings { stride, ..settings() };
        let error = build(&other, 40).to_string();
        let words =
            format!("patch_svdd: stride: {stride} must be even and divide the number of convolutions, 4 with these");
        assert!(error.contains(&words), "{error}");
        assert_eq!(other.problems(None).len(), 1);
    }
    assert_eq!(Settings::default().least_side(), 64);
    // What stands for the code's network on the 32×32 pixels of a smoke run.
    let smoke = Settings::default().smoke();
    assert_eq!((smoke.least_side(), smoke.problems(None).len()), (32, 0));
}
