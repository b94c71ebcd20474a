//! Groups of parameters, the triangle, Lookahead and Muon against numpy (`tests/golden/recipe.py`).

use std::collections::BTreeMap;

use candle_core::{Tensor, Var, backprop::GradStore};
use oodkit::train::{
    Train, groups,
    lookahead::{self, Lookahead},
    optim::Optimizer,
    schedule::{self, Place},
};
use serde_json::{Value, json};

use super::{
    common::{assert_close, numbers, uniform, values},
    copies, variable,
};

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/recipe.json")).unwrap()
}

/// The parameters, in the order that their values are written down in.
fn parameters() -> Vec<(String, Var)> {
    let shapes: [(&str, &[usize]); 4] =
        [("conv.weight", &[2, 3]), ("norm.bias", &[4]), ("head.weight", &[3, 2]), ("head.bias", &[3])];
    shapes.map(|(name, shape)| (name.to_owned(), variable(name, shape))).into()
}

fn all(parameters: &[(String, Var)]) -> Vec<f64> {
    parameters.iter().flat_map(|(_, var)| values(var)).collect()
}

fn gradients(parameters: &[(String, Var)], step: usize) -> GradStore {
    let terms = parameters.iter().map(|(name, var)| {
        let gradient = (uniform(&format!("gradient {name} {step}"), var.dims()) * 10.0).unwrap();
        (var.as_tensor() * gradient).unwrap().sum_all().unwrap()
    });
    terms.reduce(|sum, term| (sum + term).unwrap()).unwrap().backward().unwrap()
}

#[test]
fn groups_match_numpy_and_go_on_after_restarts() {
    let golden = golden();
    let train: Train = serde_json::from_value(golden["recipe"].clone()).unwrap();
    let parameters = parameters();
    let start = || Optimizer::new(&train.optimizer, None, parameters.clone()).unwrap().grouped(&train.groups).unwrap();
    let mut running = start();
    for (step, expected) in golden["grouped"].as_array().unwrap().iter().enumerate() {
        let place = Place { steps_per_epoch: 4, total_steps: 12, step: step as u64 };
        let lr = schedule::lr(&train, 4, 12, step as u64);
        running.step_grouped(&gradients(&parameters, step), lr, &groups::rates(&train, place)).unwrap();
        assert_close(&format!("step {step}"), &all(&parameters), &numbers(expected), 1e-11);
        let state = copies(running.state().unwrap());
        running = start();
        running.load_state(&state).unwrap();
    }
}

/// What no longer learns has no part in the norm that gradients are clipped to.
#[test]
fn clipping_passes_over_what_does_not_learn() {
    let clipped = |names: &str, rates: &[Option<f64>]| {
        let parameters = parameters();
        let groups = [serde_json::from_value(json!({ "match": names })).unwrap()];
        let rule = serde_json::from_value(json!({ "sgd": { "lr": 1 } })).unwrap();
        let clip = Some(serde_json::from_value(json!({ "norm": 1.0 })).unwrap());
        let mut optimizer = Optimizer::new(&rule, clip, parameters.clone()).unwrap().grouped(&groups).unwrap();
        let before = all(&parameters);
        optimizer.step_grouped(&gradients(&parameters, 0), 1.0, rates).unwrap();
        all(&parameters).iter().zip(before).map(|(after, before)| (after - before).powi(2)).sum::<f64>().sqrt()
    };
    for rates in [[Some(1.0)], [None]] {
        assert_close("the norm of a step", &[clipped("head.*", &rates)], &[1.0], 1e-6);
    }
}

#[test]
fn groups_that_do_not_fit_are_refused() {
    let refused = |group: Value| {
        let rule = serde_json::from_value(json!({ "sgd": { "lr": 1 } })).unwrap();
        let group = serde_json::from_value(group).unwrap();
        Optimizer::new(&rule, None, parameters()).unwrap().grouped(&[group]).unwrap_err().to_string()
    };
    let error = refused(json!({ "match": "fc.*" }));
    assert!(
        error.starts_with("groups.0.match: no parameter that learns fits \"fc.*\": they are called conv.weight, "),
        "{error}"
    );
    let error = refused(json!({ "match": "*", "lr": 1, "optimizer": { "adamw": { "lr": 1 } } }));
    assert_eq!(error, "groups.0.lr: goes without `optimizer`: give `lr` there, in adamw");
}

#[test]
fn triangles_match_numpy() {
    for case in golden()["triangles"].as_array().unwrap() {
        let total = case["total"].as_u64().unwrap();
        let recipe = json!({
            "epochs": 1, "batch_size": 1, "optimizer": { "sgd": { "lr": 1 } },
            "schedule": { "triangle": case["settings"] },
        });
        let train: Train = serde_json::from_value(recipe).unwrap();
        let rates: Vec<f64> = (0..total).map(|step| schedule::lr(&train, total, total, step)).collect();
        assert_close("triangle", &rates, &numbers(&case["factors"]), 1e-14);
    }
}

#[test]
fn lookahead_matches_numpy_and_goes_on_after_restarts() {
    for case in golden()["lookaheads"].as_array().unwrap() {
        let settings: lookahead::Settings = serde_json::from_value(case["settings"].clone()).unwrap();
        let parameters = parameters();
        let mut running = Lookahead::new(&settings, parameters.clone()).unwrap();
        let history = case["history"].as_array().unwrap();
        for (step, expected) in history.iter().enumerate() {
            let gradients = gradients(&parameters, step);
            for (_, var) in &parameters {
                let down = (gradients.get(var.as_tensor()).unwrap() * 0.1).unwrap();
                var.set(&(var.as_detached_tensor() - down).unwrap()).unwrap();
            }
            running.update(step as u64 + 1, history.len() as u64).unwrap();
            assert_close(&format!("{settings:?}, step {step}"), &all(&parameters), &numbers(expected), 1e-12);
            let slow: BTreeMap<String, Tensor> = copies(running.values().clone());
            running = Lookahead::new(&settings, parameters.clone()).unwrap();
            running.load(&slow).unwrap();
        }
        let error = running.load(&BTreeMap::new()).unwrap_err().to_string();
        assert_eq!(error, "the slow weights of lookahead are not those of this network");
    }
}

#[test]
fn muon_matches_numpy_and_goes_on_after_restarts() {
    for case in golden()["muons"].as_array().unwrap() {
        let shapes: [(&str, &[usize]); 2] = [("filters", &[4, 2, 3, 3]), ("upright", &[5, 2])];
        let parameters: Vec<_> = shapes.map(|(name, shape)| (name.to_owned(), variable(name, shape))).into();
        let rule = serde_json::from_value(json!({ "muon": case["settings"] })).unwrap();
        let start = || Optimizer::new(&rule, None, parameters.clone()).unwrap().grouped(&[]).unwrap();
        let mut running = start();
        for (step, expected) in case["history"].as_array().unwrap().iter().enumerate() {
            running.step(&gradients(&parameters, step), case["settings"]["lr"].as_f64().unwrap()).unwrap();
            assert_close(&format!("{rule:?}, step {step}"), &all(&parameters), &numbers(expected), 1e-11);
            let state = copies(running.state().unwrap());
            running = start();
            running.load_state(&state).unwrap();
        }
    }
}

#[test]
fn muon_refuses_what_has_no_rows_and_columns() {
    let rule = serde_json::from_value(json!({ "muon": { "lr": 1 } })).unwrap();
    let start = || Optimizer::new(&rule, None, parameters()).unwrap();
    let error = start().grouped(&[]).unwrap_err().to_string();
    assert!(
        error.starts_with("muon is for filters and matrices, and norm.bias is neither: give it another"),
        "{error}"
    );
    let biases = json!({ "match": "*.bias", "optimizer": { "sgd": { "lr": 1 } } });
    start().grouped(&[serde_json::from_value(biases).unwrap()]).unwrap();
}
