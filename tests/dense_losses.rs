//! The losses of positions against an independent PyTorch version and central differences, and at their edges.

use candle_core::{DType, Device, Tensor, Var};
use oodkit::losses::{
    consistency::{Order, consistency},
    hypersphere,
    score_margin::{Pair, score_margin},
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

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
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
            let (name, got) = (format!("{} with {} marked, {dtype:?}", case.term, case.masks), numbers(&loss)[0]);
            assert!(
                (got - case.value).abs() <= tolerance * case.value.abs().max(1.0),
                "{name}: {got}, not {}",
                case.value
            );
            let gradients = loss.backward().unwrap();
            for (variable, expected) in [(&embedding, &case.embedding), (&scores, &case.scores)] {
                let got = gradients.get(variable).map_or_else(|| vec![0.0; expected.len()], numbers);
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
        for (values, gradient, of_embedding) in [(&embedding, &case.embedding, true), (&scores, &case.scores, false)] {
            // The last image is one of equal positions, where distances have a kink of width 10⁻⁴.
            for at in (0..values.elem_count() * 3 / 4).step_by(7) {
                let at_shift = |shift: f64| {
                    let mut moved = numbers(values);
                    moved[at] += shift;
                    let moved = Tensor::from_vec(moved, values.dims(), &Device::Cpu).unwrap();
                    let (e, s) = if of_embedding { (&moved, &scores) } else { (&embedding, &moved) };
                    numbers(&value(&case.term, e, s, &marked).unwrap())[0]
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
    let plain = numbers(&consistency(&embedding, &scores, &marked, 2, Order::Paper).unwrap())[0];
    let (embedding, scores, marked) = (wider(&embedding, 2), wider(&scores, 1), wider(&marked, 1));
    assert_eq!(numbers(&consistency(&embedding, &scores, &marked, 2, Order::Paper).unwrap())[0], plain);
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
                let gradient = numbers(loss.backward().unwrap().get(&embedding).unwrap())[0];
                let (value, marked) = (numbers(&loss)[0], numbers(&marked)[0]);
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
