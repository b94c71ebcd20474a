//! DUQ against PyTorch's double backward (`tests/golden/duq.py`), central differences, and from a file to scores.

mod common;
#[path = "common/network.rs"]
mod network;

use std::path::Path;

use candle_core::{DType, Device, Tensor, Var, backprop::GradStore};
use common::{assert_close, numbers, uniform, values};
use network::{directional, parameter, sampled};
use oodkit::{
    data::batches::Batch,
    losses::{Loss, Objective, StepLoss, Trace, binary_cross_entropy, gradient_penalty::STEP},
    nn::{
        self, Architecture, Backbone, Mode, Model, Nonlinearity, Pass, Precision, Shape, duq, heads::Head,
        params::Params, wide_resnet,
    },
};
use serde_json::Value;

const TRAIN: Mode = Mode::Train { seed: 0, step: 0, precision: Precision::F32 };

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/duq.json")).unwrap()
}

/// A network of duq.py in its first state, and its batch.
struct Case {
    golden: Value,
    network: Box<dyn Model>,
    params: Params,
    images: Tensor,
    labels: Tensor,
}

impl Case {
    fn new(name: &str, dtype: DType) -> Self {
        let all = golden();
        let golden = all[name].clone();
        let number = |key: &str| golden[key].as_f64().unwrap();
        let dims: Vec<usize> = serde_json::from_value(golden["images"].clone()).unwrap();
        let shape = Shape { channels: dims[1], height: dims[2], width: dims[3], classes: number("classes") as usize };
        let backbone = match name {
            "batch_norm" => Backbone::WideResnet(wide_resnet::Settings { depth: 10, width: 1, dropout: 0.0 }),
            _ => Backbone::Lenet(Default::default()),
        };
        let activation = if name == "leaky_relu" { Nonlinearity::LeakyRelu } else { Nonlinearity::Relu };
        let head = Head::Duq(duq::Settings {
            length_scale: number("length_scale"),
            momentum: all["momentum"].as_f64().unwrap(),
            centroid: Some(number("size") as usize),
        });
        let params = Params::new(0, &Device::Cpu);
        let architecture = Architecture { head, activation, ..backbone.into() };
        let network = nn::build(&architecture, shape, params.builder().set_dtype(dtype)).unwrap();
        let state = params.all().unwrap().into_iter().map(|(name, old)| (name.clone(), parameter(&name, old.dims())));
        params.load(&state.collect(), Path::new("test")).unwrap();
        let images = uniform("images", &dims).to_dtype(DType::F32).unwrap().to_dtype(dtype).unwrap();
        let labels = Tensor::from_iter((0..dims[0] as u32).map(|i| i % shape.classes as u32), &Device::Cpu).unwrap();
        Self { golden, network, params, images: (images * 1.5).unwrap(), labels }
    }

    /// The relative difference of gradients from PyTorch's, in their norms and along a direction.
    fn worst(&self, gradients: &GradStore, expected: &Value) -> f64 {
        let differences = self.params.trainable().into_iter().map(|(name, var)| {
            // Without a gradient, it is 0.
            let [norm, dot] = gradients.get(&var).map_or([0.0; 2], |gradient| directional(&name, gradient));
            let expected = numbers(&expected[&name]);
            assert!(expected[0] > 1e-6, "{name}: nothing to compare");
            (norm - expected[0]).abs().max((dot - expected[1]).abs()) / expected[0]
        });
        differences.fold(0.0, f64::max)
    }

    /// The penalty's gradients in order of their names.
    fn gradients(&self, step: f64) -> Vec<Vec<f64>> {
        let gradients = self.penalty(Some(step)).backward().unwrap();
        let of = |var: Var| gradients.get(&var).map(values);
        self.params.trainable().into_iter().filter_map(|(_, var)| of(var)).collect()
    }

    fn penalty(&self, step: Option<f64>) -> Tensor {
        let (outputs, trace) = Trace::forward(&*self.network, &self.images, TRAIN).unwrap();
        trace.gradient_penalty(&outputs, step).unwrap()
    }
}

const CASES: [&str; 3] = ["relu", "leaky_relu", "batch_norm"];

#[test]
fn kernels_loss_and_their_gradients_are_pytorchs() {
    for name in CASES {
        let case = Case::new(name, DType::F64);
        let mut names: Vec<String> = case.params.all().unwrap().into_keys().collect();
        names.sort();
        assert_eq!(serde_json::to_value(names).unwrap(), case.golden["parameters"], "{name}");
        let outputs = case.network.show(&case.images, &Pass::new(TRAIN)).unwrap();
        assert_close(name, &values(outputs.logits().unwrap()), &numbers(&case.golden["log_kernels"]), 1e-9);
        let loss = binary_cross_entropy(outputs.logits().unwrap(), &case.labels).unwrap();
        assert_close(name, &values(&loss), &[case.golden["loss"].as_f64().unwrap()], 1e-9);
        let worst = case.worst(&loss.backward().unwrap(), &case.golden["of_loss"]);
        assert!(worst < 1e-8, "{name}: {worst}");
        assert!(case.network.head().is_none());
    }
}

/// With half the step a quarter of the error: what is left is that of a central difference and nothing else.
#[test]
fn the_penalty_and_its_gradient_are_those_of_a_double_backward() {
    for name in CASES {
        let case = Case::new(name, DType::F64);
        let at = |step: f64| {
            let penalty = case.penalty(Some(step));
            assert_close(name, &values(&penalty), &[case.golden["penalty"].as_f64().unwrap()], 1e-9);
            case.worst(&penalty.backward().unwrap(), &case.golden["of_penalty"])
        };
        let (usual, half, small) = (at(STEP), at(STEP / 2.0), at(STEP / 100.0));
        assert!(usual < 1e-4, "{name}: {usual}");
        assert!((3.5..4.5).contains(&(usual / half)), "{name}: {usual} and {half}");
        assert!(small < 1e-7, "{name}: {small}");

        // As used.
        let case = Case::new(name, DType::F32);
        let worst = case.worst(&case.penalty(Some(STEP)).backward().unwrap(), &case.golden["of_penalty"]);
        assert!(worst < 5e-4, "{name} in f32: {worst}");
    }
}

/// The largest relative distance of a parameter's gradients.
fn apart(a: &[Vec<f64>], b: &[Vec<f64>]) -> f64 {
    let norm = |of: &mut dyn Iterator<Item = f64>| of.map(|x| x * x).sum::<f64>().sqrt();
    let pairs = a.iter().zip(b);
    pairs
        .map(|(a, b)| norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied()))
        .fold(0.0, f64::max)
}

#[test]
fn the_step_hardly_matters_in_f32() {
    for name in ["relu", "leaky_relu"] {
        let of = |dtype, step| Case::new(name, dtype).gradients(step);
        let usual = of(DType::F32, STEP);
        let rounding = apart(&usual, &of(DType::F64, STEP));
        for step in [STEP / 2.0, STEP * 2.0] {
            let change = apart(&of(DType::F32, step), &usual);
            println!("{name}, {step}: {change:e}, rounding {rounding:e}");
            assert!(change < 3.0 * rounding && rounding < 1e-3, "{name}, {step}: {change}, rounding {rounding}");
        }
    }
}

#[test]
fn the_gradient_of_the_penalty_is_its_central_difference() {
    const H: f64 = 1e-6;
    let case = Case::new("leaky_relu", DType::F64);
    let gradients = case.penalty(Some(STEP / 100.0)).backward().unwrap();
    for (name, var) in case.params.trainable() {
        let (gradient, before) = (values(gradients.get(&var).unwrap()), var.as_detached_tensor().copy().unwrap());
        let toward = uniform(&format!("toward {name}"), var.dims());
        let at = |h: f64| {
            var.set(&(&before + (&toward * h).unwrap()).unwrap()).unwrap();
            values(&case.penalty(None))[0]
        };
        let difference = (at(H) - at(-H)) / (2.0 * H);
        var.set(&before).unwrap();
        let dot: f64 = gradient.iter().zip(values(&toward)).map(|(gradient, toward)| gradient * toward).sum();
        assert!((dot - difference).abs() < 1e-6 * dot.abs().max(1.0), "{name}: {dot}, not {difference}");
    }
}

#[test]
fn the_penalty_leaves_the_network_as_it_was() {
    let case = Case::new("batch_norm", DType::F32);
    case.network.show(&case.images, &Pass::new(TRAIN)).unwrap();
    let once: Vec<_> = case.params.all().unwrap().into_iter().map(|(name, value)| (name, values(&value))).collect();
    let case = Case::new("batch_norm", DType::F32);
    case.penalty(Some(STEP)).backward().unwrap();
    let penalised: Vec<_> =
        case.params.all().unwrap().into_iter().map(|(name, value)| (name, values(&value))).collect();
    assert_eq!(once, penalised, "running statistics are updated once");
    // Another seed drops other elements; the same gives the same bits.
    assert_eq!(values(&case.penalty(Some(STEP))), values(&case.penalty(Some(STEP))));
}

#[test]
fn a_step_is_the_references() {
    let all = golden();
    let number = |key: &str| all[key].as_f64().unwrap();
    for name in CASES {
        let case = Case::new(name, DType::F64);
        let yaml = format!("{{ binary_cross_entropy: {{}}, gradient_penalty: {{ weight: {} }} }}", number("penalty"));
        let objective = Objective::new(&serde_saphyr::from_str::<Loss>(&yaml).unwrap(), &[], 0).unwrap();
        let (images, labels) = (case.images.clone(), Some(case.labels.clone()));
        let batch = Batch { normal: images.dims()[0], images, labels, entries: None, marked: None, epoch: 0, step: 0 };
        let StepLoss { total, terms, watched } = objective.loss(&*case.network, &batch, TRAIN).unwrap();
        assert_eq!(watched.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["accuracy"]);
        let terms: Vec<&str> = terms.iter().map(|(term, _)| *term).collect();
        assert_eq!(terms, ["binary_cross_entropy", "gradient_penalty"]);
        let gradients = total.backward().unwrap();
        for (_, var) in case.params.trainable() {
            let gradient = (gradients.get(&var).unwrap() * number("lr")).unwrap();
            var.set(&(var.as_detached_tensor() - gradient).unwrap()).unwrap();
        }
        case.network.after_step(&case.images, &case.labels).unwrap();
        let after = case.params.all().unwrap();
        for (buffer, expected) in case.golden["buffers"].as_object().unwrap() {
            let actual = sampled(&after[buffer], 20);
            assert_close(&format!("{name} {buffer}"), &actual, &numbers(expected), 1e-6);
        }
    }
}

#[test]
fn extreme_kernels_give_finite_losses() {
    let labels = Tensor::new(&[0u32, 1, 2], &Device::Cpu).unwrap();
    let log_kernels =
        Tensor::new(&[[0f32, -1e30, -0.0], [-1e30, -1e4, -1e-30], [0.0, 0.0, 0.0]], &Device::Cpu).unwrap();
    let log_kernels = Var::from_tensor(&log_kernels).unwrap();
    let loss = binary_cross_entropy(&log_kernels, &labels).unwrap();
    assert!(values(&loss)[0].is_finite());
    let gradient = values(loss.backward().unwrap().get(&log_kernels).unwrap());
    assert!(gradient.iter().all(|value| value.is_finite()), "{gradient:?}");
    // Far from its own centroid an image is still drawn to it.
    assert!((gradient[4] + 1.0 / 9.0).abs() < 1e-7);
    for labels in [vec![0u32, 1, 3], vec![], vec![0, 1]] {
        assert!(binary_cross_entropy(&log_kernels, &Tensor::new(labels, &Device::Cpu).unwrap()).is_err());
    }
}

const EXPERIMENT: &str = "\
title: DUQ
data:
  id: { name: fashion_mnist_small, path: EMBEDDED/fashion_mnist_small, train_limit: 96, test_limit: 32 }
  ood: [{ name: digits, path: EMBEDDED/digits, test_limit: 32 }]
networks:
  base: { backbone: lenet, train: &recipe { epochs: 2, batch_size: 32, optimizer: { sgd: { lr: 0.05 } } } }
  duq:
    backbone: lenet
    head: duq
    train: *recipe
    loss: { binary_cross_entropy: {}, gradient_penalty: { weight: 0.5 } }
methods:
  - { name: DUQ, network: duq, detector: duq }
tables: [{ name: t, rows: method, columns: [accuracy, auroc] }]
";

fn experiment() -> String {
    EXPERIMENT.replace("EMBEDDED", concat!(env!("CARGO_MANIFEST_DIR"), "/data/embedded"))
}

#[test]
fn losses_and_detectors_of_other_heads_are_told_at_the_key() {
    for (from, to, expected) in [
        ("    loss: { binary_cross_entropy: {}, gradient_penalty: { weight: 0.5 } }\n", "", "a DUQ head gives kernels"),
        ("    head: duq\n", "", "binary_cross_entropy is of the kernels of a DUQ network: give it `head: duq`"),
        ("network: duq, detector: duq", "network: base, detector: duq", "\"base\" is none"),
        ("    head: duq\n", "    head: duq\n    members: 2\n", "duq reads the kernels of a DUQ network"),
        ("head: duq", "head: { duq: { length: 1 } }", "unknown"),
        ("head: duq", "head: { duq: { length_scale: 0 } }", "must be at least"),
    ] {
        let text = experiment();
        assert_eq!(text.matches(from).count(), 1, "{from}");
        let error = oodkit::config::load::parse(&text.replace(from, to), "here").unwrap_err().to_string();
        assert!(error.contains(expected), "{to}: {error}");
    }
}
