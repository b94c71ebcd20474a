//! The losses of positions against an independent PyTorch version and central differences, and at their edges.

mod common;

use candle_core::{DType, Device, Tensor, Var};
use common::{assert_close, numbers, uniform, values};
use oodkit::{
    detectors::map::{ImageScore, Post},
    losses::{
        compactness,
        consistency::{Order, consistency},
        distillation::{self, distillation},
        fcdd::{by_image, by_mask},
        hypersphere, regression,
        score_margin::{Pair, score_margin},
        student_penalty,
    },
    nn::receptive::Receptive,
};

#[derive(serde::Deserialize)]
struct Golden {
    shape: [usize; 4],
    embedding: Vec<f64>,
    scores: Vec<f64>,
    marked: Vec<f64>,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    term: String,
    masks: String,
    value: f64,
    embedding: Vec<f64>,
    scores: Vec<f64>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/dense_losses.json")).unwrap()
}

impl Golden {
    fn tensors(&self, dtype: DType) -> [Tensor; 3] {
        let [n, c, h, w] = self.shape;
        let tensor = |values: &Vec<f64>, shape: &[usize]| {
            Tensor::from_vec(values.clone(), shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
        };
        [tensor(&self.embedding, &[n, c, h, w]), tensor(&self.scores, &[n, h, w]), tensor(&self.marked, &[n, h, w])]
    }
}

fn masks(name: &str, marked: &Tensor) -> Tensor {
    match name {
        "some" => marked.clone(),
        "none" => marked.zeros_like().unwrap(),
        _ => marked.ones_like().unwrap(),
    }
}

fn value(term: &str, embedding: &Tensor, scores: &Tensor, anomalous: &Tensor) -> candle_core::Result<Tensor> {
    match term {
        "hypersphere" => hypersphere(embedding, anomalous),
        "score_margin image" => score_margin(scores, anomalous, [2.5, 5.0], Pair::Image),
        "score_margin batch" => score_margin(scores, anomalous, [2.5, 5.0], Pair::Batch),
        "consistency paper" => consistency(embedding, scores, anomalous, 2, Order::Paper),
        "consistency reversed" => consistency(embedding, scores, anomalous, 2, Order::Reversed),
        _ => candle_core::bail!("no term {term}"),
    }
}

#[test]
fn values_and_gradients_are_pytorchs() {
    let golden = golden();
    assert_eq!(golden.cases.len(), 15);
    for case in &golden.cases {
        for (dtype, tolerance, slope) in [(DType::F64, 1e-9, 1e-8), (DType::F32, 1e-5, 1e-4)] {
            let [embedding, scores, marked] = golden.tensors(dtype);
            let [embedding, scores] = [embedding, scores].map(|tensor| Var::from_tensor(&tensor).unwrap());
            let loss = value(&case.term, &embedding, &scores, &masks(&case.masks, &marked)).unwrap();
            let (name, got) = (format!("{} with {} marked, {dtype:?}", case.term, case.masks), values(&loss)[0]);
            assert!(
                (got - case.value).abs() <= tolerance * case.value.abs().max(1.0),
                "{name}: {got}, not {}",
                case.value
            );
            let gradients = loss.backward().unwrap();
            for (variable, expected) in [(&embedding, &case.embedding), (&scores, &case.scores)] {
                let got = gradients.get(variable).map_or_else(|| vec![0.0; expected.len()], values);
                let largest = expected.iter().fold(0f64, |most, value| most.max(value.abs()));
                for (at, (got, expected)) in got.iter().zip(expected).enumerate() {
                    // Near the origin the hypersphere's gradient is a hundred times that elsewhere: see below.
                    assert!((got - expected).abs() <= slope * largest.max(1e-3), "{name}, {at}: {got}, not {expected}");
                }
            }
        }
    }
}

#[test]
fn gradients_are_central_differences() {
    let golden = golden();
    let [embedding, scores, marked] = golden.tensors(DType::F64);
    for case in golden.cases.iter().filter(|case| case.masks == "some") {
        for (point, gradient, of_embedding) in [(&embedding, &case.embedding, true), (&scores, &case.scores, false)] {
            // The last image is one of equal positions, where distances have a kink of width 10⁻⁴.
            for at in (0..point.elem_count() * 3 / 4).step_by(7) {
                let at_shift = |shift: f64| {
                    let mut moved = values(point);
                    moved[at] += shift;
                    let moved = Tensor::from_vec(moved, point.dims(), &Device::Cpu).unwrap();
                    let (e, s) = if of_embedding { (&moved, &scores) } else { (&embedding, &moved) };
                    values(&value(&case.term, e, s, &marked).unwrap())[0]
                };
                let step = 1e-6;
                let slope = (at_shift(step) - at_shift(-step)) / (2.0 * step);
                assert!((slope - gradient[at]).abs() <= 1e-6, "{} at {at}: {slope}, not {}", case.term, gradient[at]);
            }
        }
    }
}

/// A grid of 7×7 has nine whole patches of 2×2.
#[test]
fn what_is_left_beside_whole_patches_does_not_count() {
    let [embedding, scores, marked] = golden().tensors(DType::F64);
    let wider = |tensor: &Tensor, axis: usize| {
        tensor.pad_with_zeros(axis, 0, 1).unwrap().pad_with_zeros(axis + 1, 0, 1).unwrap()
    };
    let plain = values(&consistency(&embedding, &scores, &marked, 2, Order::Paper).unwrap())[0];
    let (embedding, scores, marked) = (wider(&embedding, 2), wider(&scores, 1), wider(&marked, 1));
    assert_eq!(values(&consistency(&embedding, &scores, &marked, 2, Order::Paper).unwrap())[0], plain);
    assert!(consistency(&embedding, &scores, &marked, 8, Order::Paper).is_err());
}

/// A → 0 at anomalous positions: the loss is large and finite, and pushes outwards.
#[test]
fn an_anomalous_position_at_the_origin_is_no_catastrophe() {
    for dtype in [DType::F32, DType::F64] {
        for size in [0.0, 1e-30, 1e-10, 1e-4, 1e-2, 1e3, 1e15] {
            let embedding = Tensor::full(size, (1, 2, 1, 1), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let embedding = Var::from_tensor(&embedding).unwrap();
            for marked in [0.0, 1.0] {
                let marked = Tensor::full(marked, (1, 1, 1), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
                let loss = hypersphere(&embedding, &marked).unwrap();
                let gradient = values(loss.backward().unwrap().get(&embedding).unwrap())[0];
                let (value, marked) = (values(&loss)[0], values(&marked)[0]);
                assert!(value.is_finite() && gradient.is_finite(), "{dtype:?} at {size}: {value}, {gradient}");
                assert!(
                    if marked == 1.0 { gradient <= 0.0 } else { gradient >= 0.0 },
                    "{dtype:?} at {size}: {gradient}"
                );
                if size == 0.0 && marked == 1.0 {
                    assert!((value - 1e6f64.ln() / 2.0).abs() < 1e-3, "{value}");
                }
            }
        }
    }
}

/// Two stages of three images, as `tests/golden/distillation.py` has them.
fn stages(dtype: DType) -> Vec<[Tensor; 2]> {
    let of = |who: &str, at: usize, shape: &[usize; 4]| uniform(&format!("{who} {at}"), shape).to_dtype(dtype).unwrap();
    let shapes = [[3, 5, 6, 8], [3, 7, 3, 4]];
    shapes.iter().enumerate().map(|(at, shape)| ["teacher", "student"].map(|who| of(who, at, shape))).collect()
}

#[test]
fn distillation_is_pytorchs_and_its_gradients_are_central_differences() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("golden/distillation.json")).unwrap();
    let cases = golden["losses"].as_array().unwrap();
    assert_eq!(cases.len(), 2);
    for case in cases {
        let of: distillation::Of = serde_json::from_value(case["of"].clone()).unwrap();
        let expected: Vec<Vec<f64>> = case["gradients"].as_array().unwrap().iter().map(numbers).collect();
        for (dtype, tolerance) in [(DType::F64, 1e-12), (DType::F32, 1e-5)] {
            let variable =
                |[teacher, student]: [Tensor; 2]| (teacher, Var::from_tensor(&student).unwrap().into_inner());
            let pairs: Vec<_> = stages(dtype).into_iter().map(variable).collect();
            let loss = distillation(&pairs, of).unwrap();
            assert_close(&format!("{of:?}"), &values(&loss), &[case["value"].as_f64().unwrap()], tolerance);
            let gradients = loss.backward().unwrap();
            for ((_, student), expected) in pairs.iter().zip(&expected) {
                assert_close(&format!("{of:?}"), &values(gradients.get(student).unwrap()), expected, tolerance);
            }
        }
        for (stage, gradient) in expected.iter().enumerate() {
            for at in (0..gradient.len()).step_by(31) {
                let moved = |by: f64| {
                    let mut pairs: Vec<(Tensor, Tensor)> = stages(DType::F64).into_iter().map(Into::into).collect();
                    let mut student = values(&pairs[stage].1);
                    student[at] += by;
                    pairs[stage].1 = Tensor::from_vec(student, pairs[stage].1.shape(), &Device::Cpu).unwrap();
                    values(&distillation(&pairs, of).unwrap())[0]
                };
                let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!((slope - gradient[at]).abs() < 1e-9, "{of:?} {stage} {at}: {slope}, not {}", gradient[at]);
            }
        }
    }
}

/// A vector of zeros has no direction: its cosine is 0.
#[test]
fn students_without_a_direction_give_numbers() {
    for dtype in [DType::F32, DType::F64] {
        let teacher = uniform("teacher", &[1, 4, 2, 2]).to_dtype(dtype).unwrap();
        let student = Var::from_tensor(&teacher.zeros_like().unwrap()).unwrap();
        let pairs = [(teacher.clone(), student.as_tensor().clone())];
        for of in [distillation::Of::Pixel, distillation::Of::Flat] {
            let loss = distillation(&pairs, of).unwrap();
            assert_eq!(values(&loss), [1.0], "{of:?}");
            assert!(values(loss.backward().unwrap().get(&student).unwrap()).iter().all(|slope| slope.is_finite()));
        }
        // A student that is the teacher, twice as long, is where it is to be.
        let pairs = [(teacher.clone(), (&teacher * 2.0).unwrap())];
        assert!(values(&distillation(&pairs, distillation::Of::Pixel).unwrap())[0].abs() < 1e-6);
        assert!(values(&distillation(&pairs, distillation::Of::Flat).unwrap())[0].abs() < 1e-6);
    }
    let maps = |channels: usize| uniform("maps", &[1, channels, 2, 2]);
    assert!(distillation(&[], distillation::Of::Pixel).is_err());
    assert!(distillation(&[(maps(2), maps(3))], distillation::Of::Pixel).is_err());
    assert!(distillation(&[(maps(2), maps(3))], distillation::Of::Flat).is_err());
}

#[derive(serde::Deserialize)]
struct PatchLoss {
    term: String,
    value: f64,
    gradients: Vec<Vec<f64>>,
}

/// The maps that the losses of descriptions of patches are of, as `tests/golden/patch_description.py` has them, in the order of its gradients.
fn described(term: &str) -> Vec<Tensor> {
    let names: Vec<String> = match term {
        "compactness" => vec!["embedding".to_owned()],
        "student_penalty" => vec!["student 0".to_owned()],
        _ => (0..3).flat_map(|at| ["teacher", "student"].map(|who| format!("{who} {at}"))).collect(),
    };
    names.iter().map(|name| uniform(name, &[3, 5, 4, 6])).collect()
}

fn of_patches(term: &str, maps: &[Tensor]) -> Tensor {
    let pairs: Vec<_> = maps.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    match term {
        "compactness" => compactness(&maps[0]),
        "student_penalty" => student_penalty(&[(maps[0].zeros_like().unwrap(), maps[0].clone())]),
        "regression None" => regression(&pairs, None),
        hard => regression(&pairs, Some(hard.strip_prefix("regression ").unwrap().parse().unwrap())),
    }
    .unwrap()
}

#[test]
fn losses_of_descriptions_are_pytorchs_and_their_gradients_are_central_differences() {
    let golden: serde_json::Value = serde_json::from_str(include_str!("golden/patch_description.json")).unwrap();
    let cases: Vec<PatchLoss> = serde_json::from_value(golden["losses"].clone()).unwrap();
    assert_eq!(cases.len(), 5);
    for PatchLoss { term, value, gradients } in cases {
        for (dtype, tolerance) in [(DType::F64, 1e-10), (DType::F32, 1e-4)] {
            let maps: Vec<Tensor> = (described(&term).iter())
                .map(|maps| Var::from_tensor(&maps.to_dtype(dtype).unwrap()).unwrap().into_inner())
                .collect();
            let loss = of_patches(&term, &maps);
            assert_close(&term, &values(&loss), &[value], tolerance);
            let found = loss.backward().unwrap();
            for (maps, expected) in maps.iter().zip(&gradients) {
                assert_close(&term, &values(found.get(maps).unwrap()), expected, tolerance);
            }
        }
        let maps = described(&term);
        for (which, gradient) in gradients.iter().enumerate() {
            for at in (0..gradient.len()).step_by(29) {
                let moved = |by: f64| {
                    let mut maps = maps.clone();
                    let mut moved = values(&maps[which]);
                    moved[at] += by;
                    maps[which] = Tensor::from_vec(moved, maps[which].shape(), &Device::Cpu).unwrap();
                    values(&of_patches(&term, &maps))[0]
                };
                let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
                assert!((slope - gradient[at]).abs() < 1e-7, "{term} {which} {at}: {slope}, not {}", gradient[at]);
            }
        }
    }
    // A channel that does not vary is correlated with none, and pulls at nothing.
    let flat = Var::from_tensor(&(uniform("embedding", &[2, 3, 2, 2]) * 0.0).unwrap()).unwrap();
    let loss = compactness(&flat).unwrap();
    assert_eq!(values(&loss), [0.0]);
    assert!(values(loss.backward().unwrap().get(&flat).unwrap()).iter().all(|slope| *slope == 0.0));
    // Where all squares are equal, all are hard.
    let [ones, twos] =
        [1.0, 2.0].map(|value| (uniform("embedding", &[1, 2, 2, 2]) * 0.0).unwrap().affine(1.0, value).unwrap());
    assert_eq!(values(&regression(&[(ones.clone(), twos.clone())], Some(0.999)).unwrap()), [1.0]);
    assert!(regression(&[], None).is_err() && student_penalty(&[]).is_err());
    assert!(regression(&[(ones, twos.narrow(1, 0, 1).unwrap())], None).is_err());
}

#[derive(serde::Deserialize)]
struct Fcdd {
    maps: Vec<Enlarged>,
    loss: FcddLoss,
}

#[derive(serde::Deserialize)]
struct Enlarged {
    grid: [usize; 2],
    size: [usize; 2],
    sigma: f64,
    field: usize,
    map: Vec<f32>,
    full: Vec<f64>,
}

#[derive(serde::Deserialize)]
struct FcddLoss {
    sigma: f64,
    field: usize,
    side: usize,
    masks: Vec<f64>,
    cases: Vec<FcddCase>,
}

#[derive(serde::Deserialize)]
struct FcddCase {
    supervision: String,
    value: f64,
    gradient: Vec<f64>,
}

fn fcdd() -> Fcdd {
    serde_json::from_str(include_str!("golden/fcdd.json")).unwrap()
}

/// A transposed convolution with a Gaussian, cropped, as in FCDD's code.
#[test]
fn maps_are_enlarged_by_gaussians_as_in_fcdd() {
    let cases = fcdd().maps;
    assert_eq!(cases.len(), 4);
    for Enlarged { grid, size, sigma, field, map, full } in cases {
        let post = Post { smooth: 0.0, score: ImageScore::Mean, enlarge: Some(Receptive { sigma, field }) };
        let found: Vec<f64> = post.full(&map, grid, size).into_iter().map(f64::from).collect();
        assert_close(&format!("{grid:?} to {size:?}"), &found, &full, 1e-6);
        let mean = map.iter().sum::<f32>() / map.len() as f32;
        assert!((post.image(&map, grid, size) - mean).abs() < 1e-6, "the mean is of the grid");
    }
}

#[test]
fn fcdds_loss_is_pytorchs_and_its_gradients_are_central_differences() {
    let FcddLoss { sigma, field, side, masks, cases } = fcdd().loss;
    let enlarge = Receptive { sigma, field };
    let z = |dtype| {
        let z = (uniform("z", &[4, 1, 4, 4]) * 2.0).unwrap();
        // A normal image at the origin.
        let others = z.narrow(0, 1, 3).unwrap();
        Tensor::cat(&[&z.narrow(0, 0, 1).unwrap().zeros_like().unwrap(), &others], 0).unwrap().to_dtype(dtype).unwrap()
    };
    let value = |supervision: &str, z: &Tensor| {
        let tensor = |values: &[f64], shape: &[usize]| {
            Tensor::from_vec(values.to_vec(), shape, &Device::Cpu).unwrap().to_dtype(z.dtype()).unwrap()
        };
        match supervision {
            "image" => by_image(z, &tensor(&[0.0, 0.0, 1.0, 1.0], &[4])).unwrap(),
            _ => by_mask(z, &tensor(&masks, &[4, side, side]), enlarge).unwrap(),
        }
    };
    assert_eq!(cases.len(), 2);
    for FcddCase { supervision, value: expected, gradient } in cases {
        for (dtype, tolerance) in [(DType::F64, 1e-9), (DType::F32, 1e-5)] {
            let z = Var::from_tensor(&z(dtype)).unwrap();
            let loss = value(&supervision, &z);
            assert_close(&supervision, &values(&loss), &[expected], tolerance);
            let found = values(loss.backward().unwrap().get(&z).unwrap());
            assert_close(&supervision, &found, &gradient, tolerance);
        }
        let plain = values(&z(DType::F64));
        for at in 0..plain.len() {
            let moved = |by: f64| {
                let mut moved = plain.clone();
                moved[at] += by;
                values(&value(&supervision, &Tensor::from_vec(moved, (4, 1, 4, 4), &Device::Cpu).unwrap()))[0]
            };
            let slope = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            assert!((slope - gradient[at]).abs() < 1e-7, "{supervision} {at}: {slope}, not {}", gradient[at]);
        }
    }
    // Anomalous images at the origin are no catastrophe, and images without anomalous pixels push nothing away.
    let zeros = Var::zeros((4, 1, 4, 4), DType::F32, &Device::Cpu).unwrap();
    for supervision in ["image", "mask"] {
        let loss = value(supervision, &zeros);
        assert!(values(&loss)[0].is_finite() && values(&loss)[0] > 1.0, "{supervision}: {loss}");
        let gradients = loss.backward().unwrap();
        assert!(values(gradients.get(&zeros).unwrap()).iter().all(|slope| slope.is_finite()), "{supervision}");
    }
    let none = Tensor::zeros((4, side, side), DType::F64, &Device::Cpu).unwrap();
    let all_normal = by_image(&z(DType::F64), &Tensor::zeros(4, DType::F64, &Device::Cpu).unwrap()).unwrap();
    assert!(values(&all_normal)[0] > 0.0 && by_mask(&z(DType::F64), &none, enlarge).is_ok());
    assert!(by_mask(&z(DType::F64), &none.narrow(1, 0, 3).unwrap(), enlarge).is_err(), "fewer pixels than positions");
}
