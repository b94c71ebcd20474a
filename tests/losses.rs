//! Loss terms against PyTorch and central differences, and the objective that adds them up.

use candle_core::{DType, Device, Tensor, Var};
use oodkit::{
    losses::{
        Loss, Objective, Step, cross_entropy, energy_margin, logit_norm, outlier_exposure, sparsity,
        weighted_cross_entropy,
    },
    nn::Shown,
};

#[derive(serde::Deserialize)]
struct Golden {
    logits: Vec<Vec<f64>>,
    labels: Vec<u32>,
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    term: String,
    value: f64,
    gradient: Vec<Vec<f64>>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/losses.json")).unwrap()
}

impl Golden {
    fn logits(&self, dtype: DType) -> Var {
        let logits = Tensor::new(self.logits.clone(), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
        Var::from_tensor(&logits).unwrap()
    }

    fn labels(&self) -> Tensor {
        Tensor::new(self.labels.clone(), &Device::Cpu).unwrap()
    }
}

fn outputs(logits: &Tensor, features: &Tensor) -> Shown {
    Shown { logits: Some(logits.clone()), features: Some(features.clone()), ..Shown::default() }
}

fn objective(yaml: &str) -> Objective {
    Objective::new(&serde_saphyr::from_str(yaml).unwrap(), &[], 0).unwrap()
}

fn value(term: &str, logits: &Tensor, labels: &Tensor) -> candle_core::Result<Tensor> {
    match term {
        "cross_entropy" => cross_entropy(logits, labels, 0.0),
        "label_smoothing" => cross_entropy(logits, labels, 0.1),
        "logit_norm" => logit_norm(logits, labels, 0.04),
        "sparsity" => sparsity(logits),
        "energy_margin" | "outlier_exposure" => {
            // Half of the rows are of ID images, the other half of outliers, as in the golden values.
            let (images, rows) = (logits.dim(0)? / 2, logits.dim(0)?);
            let (learned, outliers) = (logits.narrow(0, 0, images)?, logits.narrow(0, images, rows - images)?);
            if term == "energy_margin" {
                energy_margin(&learned, &outliers, -4.0, -2.0)
            } else {
                outlier_exposure(&outliers)
            }
        }
        _ => {
            let objective = objective("{ cross_entropy: { weight: 1.5 }, sparsity: { weight: 0.01 } }");
            Ok(objective.value(&Step::new(logits, &outputs(logits, logits), Some(labels)))?.total)
        }
    }
}

fn numbers(tensor: &Tensor) -> Vec<f64> {
    tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn values_and_gradients_are_pytorchs() {
    let golden = golden();
    assert_eq!(golden.cases.len(), 7);
    for case in &golden.cases {
        for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 1e-6)] {
            let logits = golden.logits(dtype);
            let loss = value(&case.term, &logits, &golden.labels()).unwrap();
            let got = numbers(&loss)[0];
            assert!(
                (got - case.value).abs() <= tolerance * case.value.abs(),
                "{}: {got}, not {}",
                case.term,
                case.value
            );
            let gradient = numbers(loss.backward().unwrap().get(&logits).unwrap());
            for (got, expected) in gradient.iter().zip(case.gradient.concat()) {
                // LogitNorm's is 10⁷ at a row of zeros, and ours is 10⁻¹² of it off there.
                let tolerance = tolerance.max(1e-11 * expected.abs());
                assert!((got - expected).abs() <= tolerance, "{} in {dtype:?}: {got}, not {expected}", case.term);
            }
        }
    }
}

#[test]
fn gradients_are_central_differences() {
    const H: f64 = 1e-5;
    // No entry within H of 0, where the L1 norm has a kink; no energy is near its margin.
    let points: Vec<f64> = (0..15).map(|i| ((i * 7) % 15) as f64 * 0.37 - 2.5).collect();
    let labels = Tensor::new(&[2u32, 0, 1], &Device::Cpu).unwrap();
    let at = |points: &[f64]| Var::from_slice(points, (3, 5), &Device::Cpu).unwrap();
    let terms =
        ["cross_entropy", "sparsity", "total", "label_smoothing", "logit_norm", "energy_margin", "outlier_exposure"];
    for term in terms {
        let logits = at(&points);
        let loss = value(term, &logits, &labels).unwrap();
        let gradient = numbers(loss.backward().unwrap().get(&logits).unwrap());
        for (place, got) in gradient.iter().enumerate() {
            let shifted = |by: f64| {
                let mut points = points.clone();
                points[place] += by;
                numbers(&value(term, &at(&points), &labels).unwrap())[0]
            };
            let expected = (shifted(H) - shifted(-H)) / (2.0 * H);
            assert!((got - expected).abs() < 1e-9, "{term} at {place}: {got}, not {expected}");
        }
    }
}

#[test]
fn the_l1_norm_leaves_exact_zeros_alone() {
    let activations = Var::new(&[[0f32, -0.0, 2.0, -3.0]], &Device::Cpu).unwrap();
    let loss = sparsity(&activations).unwrap();
    assert_eq!(numbers(&loss), [5.0]);
    assert_eq!(numbers(loss.backward().unwrap().get(&activations).unwrap()), [0.0, 0.0, 1.0, -1.0]);
}

#[test]
fn nan_is_not_hidden() {
    let labels = Tensor::new(&[0u32], &Device::Cpu).unwrap();
    let logits = Tensor::new(&[[1.0f32, f32::NAN, 0.0]], &Device::Cpu).unwrap();
    assert!(numbers(&cross_entropy(&logits, &labels, 0.0).unwrap())[0].is_nan());
    assert!(numbers(&sparsity(&logits).unwrap())[0].is_nan());
    assert!(numbers(&logit_norm(&logits, &labels, 0.04).unwrap())[0].is_nan());
}

/// Two linear layers on fixed numbers: weights whose gradients show what the objective differentiates.
fn gradients(yaml: &str) -> (Vec<f64>, Vec<f64>, Vec<(&'static str, f64)>) {
    let golden = golden();
    let input = golden.logits(DType::F32);
    let first = Var::from_tensor(&(Tensor::eye(4, DType::F32, &Device::Cpu).unwrap() * 0.5).unwrap()).unwrap();
    let second = Var::from_tensor(&Tensor::eye(4, DType::F32, &Device::Cpu).unwrap()).unwrap();
    let features = input.matmul(&first).unwrap();
    let logits = features.matmul(&second).unwrap();
    let labels = golden.labels();
    let loss = objective(yaml).value(&Step::new(&logits, &outputs(&logits, &features), Some(&labels))).unwrap();
    let gradients = loss.total.backward().unwrap();
    let of = |var: &Var| gradients.get(var).map(numbers).unwrap_or_default();
    (of(&first), of(&second), loss.terms.iter().map(|(name, value)| (*name, numbers(value)[0])).collect())
}

#[test]
fn a_weight_of_zero_is_recorded_but_changes_no_bit() {
    let without = gradients("{ cross_entropy: {} }");
    for target in ["logits", "features"] {
        let with = gradients(&format!("{{ cross_entropy: {{}}, sparsity: {{ weight: 0, target: {target} }} }}"));
        assert_eq!((&with.0, &with.1), (&without.0, &without.1));
        assert_eq!(with.2.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["cross_entropy", "sparsity"]);
        assert!(with.2[1].1 > 0.0, "the unweighted term is recorded");
        assert_eq!(with.2[0], without.2[0]);
    }
    let changed = gradients("{ cross_entropy: {}, sparsity: { weight: 0.01 } }");
    assert_ne!(changed.0, without.0);
}

#[test]
fn a_weight_of_zero_hides_a_term_that_is_not_finite() {
    let logits = Var::new(&[[1f32, 2.0]], &Device::Cpu).unwrap();
    let features = Tensor::new(&[[f32::INFINITY]], &Device::Cpu).unwrap();
    let labels = Tensor::new(&[0u32], &Device::Cpu).unwrap();
    let objective = objective("{ cross_entropy: {}, sparsity: { weight: 0, target: features } }");
    let outputs = outputs(&logits, &features);
    let loss = objective.value(&Step::new(&logits, &outputs, Some(&labels))).unwrap();
    assert!(numbers(&loss.total)[0].is_finite() && numbers(&loss.terms[1].1)[0].is_infinite());
}

#[test]
fn energies_beyond_their_margins_cost_nothing() {
    let logits = |rows: &[[f32; 2]]| Var::from_slice(&rows.concat(), (rows.len(), 2), &Device::Cpu).unwrap();
    // Energies of about −30 and −1, each on the right side of its margin, then on the wrong one.
    let (low, high) = (logits(&[[30.0, 0.0], [0.0, 30.0]]), logits(&[[0.5, 0.0]]));
    let loss = energy_margin(&low, &high, -23.0, -5.0).unwrap();
    assert_eq!(numbers(&loss), [0.0]);
    let gradients = loss.backward().unwrap();
    assert!([&low, &high].iter().all(|var| numbers(gradients.get(var).unwrap()).iter().all(|g| *g == 0.0)));
    let loss = energy_margin(&high, &low, -23.0, -5.0).unwrap();
    let energy = -(1.0 + 0.5f64.exp()).ln();
    let expected = (energy + 23.0).powi(2) + 25.0f64.powi(2);
    assert!((numbers(&loss)[0] - expected).abs() < 1e-4 * expected);
    // A step down the gradient lowers the energy of ID images and raises that of outliers.
    let gradients = loss.backward().unwrap();
    assert!(numbers(gradients.get(&high).unwrap()).iter().all(|g| *g < 0.0));
    assert!(numbers(gradients.get(&low).unwrap()).iter().all(|g| *g >= 0.0));
}

#[test]
fn terms_of_outliers_refuse_a_batch_without() {
    let logits = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    let labels = Tensor::zeros(2, DType::U32, &Device::Cpu).unwrap();
    for term in ["energy_margin", "outlier_exposure"] {
        let objective = objective(&format!("{{ {term}: {{}} }}"));
        let outputs = outputs(&logits, &logits);
        let value = |outliers: Option<Tensor>| {
            let outliers = outliers.map(|logits| Shown { logits: Some(logits), ..Shown::default() });
            let (labels, outliers) = (Some(&labels), outliers.as_ref());
            objective.value(&Step { outliers, ..Step::new(&logits, &outputs, labels) })
        };
        assert!(value(None).unwrap_err().to_string().contains("needs auxiliary outliers"));
        assert_eq!(value(Some(logits.clone())).unwrap().terms[0].0, term);
        assert!(value(Some(logits.narrow(0, 0, 0).unwrap())).is_err(), "{term} of no outlier");
    }
}

#[test]
fn the_target_chooses_what_is_made_sparse() {
    // The features do not depend on the last layer.
    let (first, second, _) = gradients("{ sparsity: { weight: 1, target: features } }");
    assert!(!first.is_empty() && second.is_empty());
    let (first, second, _) = gradients("{ sparsity: { weight: 1, target: logits } }");
    assert!(!first.is_empty() && !second.is_empty());
}

#[test]
fn an_empty_objective_is_refused() {
    for yaml in ["{}", "{ cross_entropy: { weight: 0 } }", "{ cross_entropy: { weight: 0 }, sparsity: { weight: 0 } }"]
    {
        let loss: Loss = serde_saphyr::from_str(yaml).unwrap();
        let error = Objective::new(&loss, &[], 0).err().unwrap();
        assert_eq!(error.exit_code(), 2);
        assert_eq!(error.to_string(), "the loss is empty: no term has a weight above 0");
    }
}

#[test]
fn bad_shapes_and_labels_are_errors() {
    let logits = Tensor::zeros((2, 3), DType::F32, &Device::Cpu).unwrap();
    let labels = |labels: &[u32]| Tensor::new(labels, &Device::Cpu).unwrap();
    assert!(cross_entropy(&logits, &labels(&[0, 2]), 0.0).is_ok());
    assert!(cross_entropy(&logits, &labels(&[0, 3]), 0.0).is_err());
    assert!(cross_entropy(&logits, &labels(&[0]), 0.0).is_err());
    assert!(cross_entropy(&logits, &labels(&[0, 1, 2]), 0.0).is_err());
    for shape in [(0, 3), (3, 0)] {
        let empty = Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        assert!(cross_entropy(&empty, &Tensor::zeros(shape.0, DType::U32, &Device::Cpu).unwrap(), 0.0).is_err());
    }
    assert!(sparsity(&Tensor::zeros((0, 3), DType::F32, &Device::Cpu).unwrap()).is_err());
    assert!(sparsity(&Tensor::zeros(3, DType::F32, &Device::Cpu).unwrap()).is_err());
}

#[derive(serde::Deserialize)]
struct Weighted {
    weights: Vec<f64>,
    label_smoothing: f64,
    value: f64,
    gradient: Vec<Vec<f64>>,
}

#[test]
fn classes_count_by_their_weights_as_in_pytorch() {
    let golden = golden();
    let cases: Vec<Weighted> = serde_json::from_str(include_str!("golden/class_weights.json")).unwrap();
    assert_eq!(cases.len(), 4);
    for case in cases {
        for (dtype, tolerance) in [(DType::F64, 1e-13), (DType::F32, 1e-6)] {
            let weights = Tensor::new(case.weights.clone(), &Device::Cpu).unwrap().to_dtype(dtype).unwrap();
            let at = |logits: &Tensor| {
                weighted_cross_entropy(logits, &golden.labels(), case.label_smoothing, &weights).unwrap()
            };
            let logits = golden.logits(dtype);
            let loss = at(&logits);
            let got = numbers(&loss)[0];
            assert!((got - case.value).abs() <= tolerance * case.value.abs(), "{got}, not {}", case.value);
            let gradient = numbers(loss.backward().unwrap().get(&logits).unwrap());
            for (place, (got, expected)) in gradient.iter().zip(case.gradient.concat()).enumerate() {
                assert!((got - expected).abs() <= tolerance, "{dtype:?}: {got}, not {expected}");
                if dtype == DType::F64 && place < 24 {
                    let shifted = |by: f64| {
                        let mut points = golden.logits.concat();
                        points[place] += by;
                        numbers(&at(&Tensor::from_vec(points, (8, 4), &Device::Cpu).unwrap()))[0]
                    };
                    let difference = (shifted(1e-5) - shifted(-1e-5)) / 2e-5;
                    assert!((got - difference).abs() < 1e-7, "{place}: {got}, not {difference}");
                }
            }
        }
    }
}

#[test]
fn class_weights_are_given_or_balanced() {
    let loss = |yaml: &str| serde_saphyr::from_str::<Loss>(yaml).unwrap();
    let value = |yaml: &str| {
        let logits = Tensor::new(&[[2.0f64, 0.0, -1.0], [0.5, 0.0, 1.0], [0.0, 0.0, 0.3]], &Device::Cpu).unwrap();
        let labels = Tensor::new(&[0u32, 0, 2], &Device::Cpu).unwrap();
        // Six train images: three of class 0, two of class 1, one of class 2.
        let objective = Objective::new(&loss(yaml), &[0, 0, 0, 1, 1, 2], 3).unwrap();
        let outputs = outputs(&logits, &logits);
        let step = Step::new(&logits, &outputs, Some(&labels));
        numbers(&objective.value(&step).unwrap().total)[0]
    };
    let balanced = value("{ cross_entropy: { class_weights: balanced } }");
    let given = value(&format!("{{ cross_entropy: {{ class_weights: [{}, 1, 2] }} }}", 2.0 / 3.0));
    assert!((balanced - given).abs() < 1e-15);
    assert!((balanced - value("{ cross_entropy: {} }")).abs() > 0.01);
    assert!((value("{ cross_entropy: { class_weights: [4, 4, 4] } }") - value("{ cross_entropy: {} }")).abs() < 1e-15);

    let error = |yaml: &str, labels: &[u32]| Objective::new(&loss(yaml), labels, 3).err().unwrap().to_string();
    let four = error("{ cross_entropy: { class_weights: [1, 2, 3, 4] } }", &[0, 1, 2]);
    assert_eq!(four, "`class_weights` has 4 numbers for 3 classes");
    let zeros = error("{ cross_entropy: { class_weights: [0, 0, 0] } }", &[0, 1, 2]);
    assert_eq!(zeros, "`class_weights` are all 0: there would be nothing to learn");
    let absent = error("{ cross_entropy: { class_weights: balanced } }", &[0, 2]);
    assert_eq!(absent, "class 1 has no train image, so `class_weights: balanced` has no weight for it");
    // Networks of files without the key keep their identity.
    let plain = serde_json::to_value(loss("{ cross_entropy: {} }")).unwrap();
    assert_eq!(plain["cross_entropy"], serde_json::json!({ "weight": 1.0 }));
    let kept = serde_json::to_value(loss("{ cross_entropy: { class_weights: balanced } }")).unwrap();
    assert_eq!(kept["cross_entropy"]["class_weights"], "balanced");
}
