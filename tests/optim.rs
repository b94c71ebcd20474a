//! Optimisers, clipping, the average of the weights and schedules against PyTorch (`tests/golden/optim.py`).

mod common;
#[path = "optim/recipe.rs"]
mod recipe;

use candle_core::{DType, Tensor, Var, backprop::GradStore};
use common::{assert_close, numbers, uniform, values};
use oodkit::{
    ops::optimizer::norm,
    train::{
        optim::{Average, Optimizer},
        recipe::Ema,
        reptile, schedule,
    },
};
use serde_json::{Value, json};

fn golden() -> Value {
    serde_json::from_str(include_str!("golden/optim.json")).unwrap()
}

fn variable(name: &str, shape: &[usize]) -> Var {
    Var::from_tensor(&uniform(name, shape)).unwrap()
}

/// The optimiser of a configuration without `lr`, which the steps give.
fn optimizer(rule: &Value, clip: &Value, parameters: Vec<(String, Var)>) -> oodkit::Result<Optimizer> {
    let mut rule = rule.clone();
    for settings in rule.as_object_mut().unwrap().values_mut() {
        settings["lr"] = json!(0.1);
    }
    let clip = serde_json::from_value(clip.clone()).unwrap();
    Optimizer::new(&serde_json::from_value(rule).unwrap(), clip, parameters)
}

/// The gradients of step `step` in the golden runs.
fn gradients(a: &Var, b: &Var, step: usize) -> GradStore {
    let term = |var: &Var, name: &str| {
        let gradient = (uniform(&format!("gradient {name} {step}"), var.dims()) * 10.0).unwrap();
        (var.as_tensor() * gradient).unwrap().sum_all().unwrap()
    };
    let mut loss = term(a, "a");
    if step != 0 && step != 3 {
        loss = (loss + term(b, "b")).unwrap();
    }
    loss.backward().unwrap()
}

fn copies(state: std::collections::BTreeMap<String, Tensor>) -> std::collections::BTreeMap<String, Tensor> {
    state.into_iter().map(|(name, tensor)| (name, tensor.copy().unwrap())).collect()
}

/// A parameter that is paced follows its gradients as under an optimiser of its own, whatever the schedule and the others do.
#[test]
fn a_paced_parameter_has_its_share_of_every_learning_rate() {
    for rule in [json!({ "sgd": { "momentum": 0.9, "weight_decay": 0.1 } }), json!({ "adamw": {} })] {
        let ([a, b], [alone, other]) = ([(); 2].map(|()| variable("a", &[3])), [(); 2].map(|()| variable("a", &[3])));
        let named = |name: &str, var: &Var| (name.to_owned(), var.clone());
        let start = |parameters| optimizer(&rule, &Value::Null, parameters).unwrap();
        let mut both =
            start(vec![named("trunk.a", &a), named("own.a", &b)]).paced(0.125, |name| name.starts_with("trunk"));
        let (mut slow, mut fast) = (start(vec![named("a", &alone)]), start(vec![named("a", &other)]));
        for lr in [0.1, 0.4, 0.025] {
            let gradients = |vars: &[&Var]| {
                let square = |var: &&Var| var.as_tensor().sqr().unwrap().sum_all().unwrap();
                vars.iter().map(square).reduce(|sum, next| (sum + next).unwrap()).unwrap().backward().unwrap()
            };
            both.step(&gradients(&[&a, &b]), lr).unwrap();
            slow.step(&gradients(&[&alone]), lr * 0.125).unwrap();
            fast.step(&gradients(&[&other]), lr).unwrap();
            assert_eq!([values(&a), values(&b)], [values(&alone), values(&other)], "{rule}, lr {lr}");
        }
        assert_ne!(values(&a), values(&b));
    }
}

#[test]
fn optimisers_match_pytorch_with_missing_gradients_and_after_restarts() {
    for case in golden()["cases"].as_array().unwrap() {
        let what = format!("{} {} {}", case["rule"], case["clip"], case["decay"]);
        let (a, b) = (variable("a", &[2, 3]), variable("b", &[4]));
        let parameters = || vec![("a".to_owned(), a.clone()), ("b".to_owned(), b.clone())];
        let start = || optimizer(&case["rule"], &case["clip"], parameters()).unwrap();
        let average = || case["decay"].as_f64().map(|decay| Average::new(&Ema { decay }, parameters()));
        let (mut running, mut averaged) = (start(), average());
        for (step, expected) in case["history"].as_array().unwrap().iter().enumerate() {
            running.step(&gradients(&a, &b, step), 0.1 / (step + 1) as f64).unwrap();
            let mut actual: Vec<f64> = values(&a).into_iter().chain(values(&b)).collect();
            // As after a checkpoint: new ones with a copy of the old state.
            let state = copies(running.state().unwrap());
            running = start();
            running.load_state(&state).unwrap();
            if let Some(old) = &mut averaged {
                old.update().unwrap();
                let state = copies(old.values().clone());
                actual = values(&state["a"]).into_iter().chain(values(&state["b"])).collect();
                averaged = average();
                averaged.as_mut().unwrap().load(&state).unwrap();
            }
            assert_close(&what, &actual, &numbers(expected), 1e-12);
        }
    }
}

/// Parameters larger than a parallel task, in f32, where each element must go the way of a small parameter.
#[test]
fn large_parameters_are_updated_like_small_ones() {
    let size = 40_001;
    for rule in [
        json!({ "sgd": { "momentum": 0.9, "weight_decay": 0.01, "nesterov": true } }),
        json!({ "sgd": { "weight_decay": 0.01 } }),
        json!({ "adamw": {} }),
    ] {
        let f32s = |name: &str| uniform(name, &[size]).to_dtype(DType::F32).unwrap();
        let var = |values: Tensor| Var::from_tensor(&values.contiguous().unwrap()).unwrap();
        let whole = var(f32s("weights"));
        let parts: Vec<Var> = (0..size)
            .step_by(5000)
            .map(|i| var(f32s("weights").narrow(0, i, 5000.min(size - i)).unwrap().copy().unwrap()))
            .collect();
        let mut one = optimizer(&rule, &json!(null), vec![("whole".into(), whole.clone())]).unwrap();
        let named = parts.iter().enumerate().map(|(i, part)| (i.to_string(), part.clone()));
        let mut many = optimizer(&rule, &json!(null), named.collect()).unwrap();
        for step in 0..3 {
            let direction = f32s(&format!("gradient {step}"));
            one.step(&(whole.as_tensor() * &direction).unwrap().sum_all().unwrap().backward().unwrap(), 0.1).unwrap();
            let joined = Tensor::cat(&parts.iter().map(Var::as_tensor).collect::<Vec<_>>(), 0).unwrap();
            many.step(&(joined * &direction).unwrap().sum_all().unwrap().backward().unwrap(), 0.1).unwrap();
        }
        let joined = Tensor::cat(&parts.iter().map(Var::as_tensor).collect::<Vec<_>>(), 0).unwrap();
        assert_eq!(values(&whole), values(&joined), "{rule}");
        assert_ne!(values(&whole), values(&f32s("weights")));
    }
}

#[test]
fn norms_are_those_of_all_elements_together() {
    let (a, b) = (uniform("a", &[300, 200]), uniform("b", &[7]));
    let squares: f64 = values(&a).iter().chain(&values(&b)).map(|value| value * value).sum();
    assert_close("norm", &[norm([&a, &b]).unwrap()], &[squares.sqrt()], 1e-12);
    assert_close("transposed", &[norm([&a.t().unwrap(), &b]).unwrap()], &[squares.sqrt()], 1e-12);
    assert_eq!(norm([]).unwrap(), 0.0);
    // Neither the squares nor their sum are f32.
    let single = a.to_dtype(DType::F32).unwrap();
    let squares: f64 = values(&single).iter().map(|value| value * value).sum();
    assert_close("f32", &[norm([&single]).unwrap()], &[squares.sqrt()], 1e-12);
    let huge = Tensor::new(&[3e38f32, 0.0, -4e-7], a.device()).unwrap();
    assert_close("huge", &[norm([&huge, &huge]).unwrap() / 3e38], &[2f64.sqrt()], 1e-7);
    assert!(norm([&a.to_dtype(DType::F16).unwrap()]).is_err());
}

/// As in PyTorch: what is not a number is not clipped to one.
#[test]
fn a_norm_that_is_not_a_number_spoils_the_weights() {
    let (a, b) = (variable("a", &[2]), variable("b", &[2]));
    let parameters = vec![("a".to_owned(), a.clone()), ("b".to_owned(), b.clone())];
    let mut sgd = optimizer(&json!({ "sgd": { "momentum": 0.0 } }), &json!({ "norm": 1.0 }), parameters).unwrap();
    let loss = ((a.as_tensor() * f64::NAN).unwrap() + b.as_tensor()).unwrap().sum_all().unwrap();
    sgd.step(&loss.backward().unwrap(), 0.1).unwrap();
    assert!(values(&a).into_iter().chain(values(&b)).all(f64::is_nan));
}

#[test]
fn what_does_not_fit_is_refused() {
    let nothing = json!(null);
    let plain = optimizer(&json!({ "sgd": { "nesterov": true } }), &nothing, Vec::new());
    assert_eq!(plain.unwrap_err().to_string(), "sgd: nesterov needs momentum above 0");
    let a = variable("a", &[2]);
    let mut sgd = optimizer(&json!({ "sgd": {} }), &nothing, vec![("a".into(), a.clone())]).unwrap();
    for (name, shape) in [("velocity.a", 3), ("velocity.b", 2), ("steps.a", 2), ("a", 2)] {
        let error = sgd.load_state(&[(name.to_owned(), uniform("v", &[shape]))].into()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the optimiser state's {name} of shape [{shape}] fits no parameter of the network")
        );
    }
    // Parts without their steps, and those of another rule.
    let rule = json!({ "sgd": { "momentum": 0.9 } });
    let mut sgd = optimizer(&rule, &nothing, vec![("a".into(), a.clone())]).unwrap();
    let one = Tensor::new(1.0, &candle_core::Device::Cpu).unwrap();
    let (steps, part) = (("steps.a", one), |name| (name, uniform("v", &[2])));
    for (state, what) in [
        (vec![part("velocity.a")], "0 steps and [\"velocity\"]"),
        (vec![steps.clone()], "1 steps and []"),
        (vec![steps.clone(), part("mean.a"), part("square.a")], "1 steps and [\"mean\", \"square\"]"),
    ] {
        let state = state.into_iter().map(|(name, tensor)| (name.to_owned(), tensor)).collect();
        let error = sgd.load_state(&state).unwrap_err().to_string();
        assert_eq!(error, format!("the optimiser state of a is {what}; sgd keeps its steps and [\"velocity\"]"));
    }
    sgd.load_state(&[steps, part("velocity.a")].map(|(name, tensor)| (name.to_owned(), tensor)).into()).unwrap();
    let mut average = Average::new(&Ema { decay: 0.9 }, vec![("a".into(), a)]);
    for (name, shape) in [("a", 3), ("b", 2)] {
        let error = average.load(&[(name.to_owned(), uniform("v", &[shape]))].into()).unwrap_err();
        assert_eq!(error.to_string(), "the averaged weights in the checkpoint are not those of this network");
    }
}

#[test]
fn schedules_match_pytorch() {
    for (name, schedule) in [
        ("cosine", json!({ "cosine": {} })),
        ("multi_step", json!({ "multi_step": { "milestones": [3, 7], "gamma": 0.2 } })),
        ("exponential", json!({ "exponential": { "gamma": 0.985 } })),
    ] {
        let train = serde_json::from_value(json!({
            "epochs": 10, "batch_size": 1, "optimizer": { "adamw": { "lr": 0.1 } }, "schedule": schedule
        }));
        let train = train.unwrap();
        let rates: Vec<f64> = (0..60).map(|step| schedule::lr(&train, 6, 60, step)).collect();
        assert_close(name, &rates, &numbers(&golden()["schedules"][name]), 1e-15);
    }
}

/// Rounds of Reptile on a toy against numpy (`tests/golden/reptile.py`), each step as after a checkpoint.
#[test]
fn rounds_of_reptile_match_numpy() {
    let golden: Value = serde_json::from_str(include_str!("golden/reptile.json")).unwrap();
    let inner = golden["inner_steps"].as_u64().unwrap() as usize;
    let settings = json!({ "inner_steps": inner, "rate": golden["rate"] });
    let settings: reptile::Settings = serde_json::from_value(settings).unwrap();
    let (a, b) = (variable("a", &[2, 3]), variable("b", &[4]));
    let parameters = || vec![("a".to_owned(), a.clone()), ("b".to_owned(), b.clone())];
    let both = || -> Vec<f64> { values(&a).into_iter().chain(values(&b)).collect() };
    let sgd = || optimizer(&json!({ "sgd": { "momentum": 0.9 } }), &Value::Null, parameters()).unwrap();
    let loss = |var: &Var, name: &str, class: &Value| {
        let curvature = uniform(&format!("curvature {name} {class}"), var.dims()).affine(0.5, 1.0).unwrap();
        let away = (var.as_tensor() - uniform(&format!("target {name} {class}"), var.dims())).unwrap();
        (away.sqr().unwrap() * curvature).unwrap().sum_all().unwrap()
    };
    let mut steps = golden["steps"].as_array().unwrap().iter();
    for (class, expected) in golden["classes"].as_array().unwrap().iter().zip(golden["rounds"].as_array().unwrap()) {
        let (mut start, mut inner_optimizer) = (reptile::Start::new(&settings, parameters()), sgd());
        start.begin().unwrap();
        for _ in 0..inner {
            let whole = ((loss(&a, "a", class) + loss(&b, "b", class)).unwrap() * 0.5).unwrap();
            inner_optimizer.step(&whole.backward().unwrap(), 0.1).unwrap();
            assert_close("step", &both(), &numbers(steps.next().unwrap()), 1e-12);
            let saved = copies(start.values().clone());
            start = reptile::Start::new(&settings, parameters());
            start.load(&saved).unwrap();
        }
        start.end().unwrap();
        assert_close("round", &both(), &numbers(expected), 1e-12);
        assert!(start.values().is_empty(), "no round is under way");
    }
    let mut start = reptile::Start::new(&settings, parameters());
    for state in [
        copies(Default::default()),
        [("a".to_owned(), uniform("a", &[6])), ("b".to_owned(), uniform("b", &[4]))].into(),
    ] {
        let error = start.load(&state).unwrap_err().to_string();
        assert_eq!(error, "the weights that a round began with are not those of this network");
    }
}
