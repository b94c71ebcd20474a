//! The parts of a transformer against timm's, and our reading of Metaformer against PyTorch (`tests/golden/metaformer.py`).

use std::path::Path;

use candle_core::{DType, Device, Tensor, Var};
use oodkit::{
    data::batches::Batch,
    losses::Objective,
    models::{ModelConfig, metaformer},
    nn::{Model, Pass, Shape, params::Params, transformer::Block},
};
use serde_json::Value;

use crate::{
    TRAIN,
    common::{assert_close, numbers, uniform, values},
    network::{directional, parameter, sampled},
};

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/metaformer.json")).unwrap()
}

/// The golden values of the parameters.
fn load(params: &Params) {
    let all = params.all().unwrap();
    let state = all.iter().map(|(name, old)| (name.clone(), parameter(name, old.dims()))).collect();
    params.load(&state, Path::new("test")).unwrap();
}

#[test]
fn a_block_and_its_gradients_are_timms() {
    let golden = &golden()["block"];
    let shape: Vec<usize> = serde_json::from_value(golden["tokens"].clone()).unwrap();
    let heads = golden["heads"].as_u64().unwrap() as usize;
    for (dtype, tolerance) in [(DType::F32, 1e-4), (DType::F64, 1e-9)] {
        let params = Params::new(0, &Device::Cpu);
        let block = Block::new(shape[2], heads, &params.builder().set_dtype(dtype)).unwrap();
        load(&params);
        let tokens = Var::from_tensor(&uniform("tokens", &shape).to_dtype(dtype).unwrap()).unwrap();
        let used = block.forward(&tokens.detach(), &Pass::eval()).unwrap();
        assert!(!used.track_op());
        let learning = block.forward(&tokens, &Pass::new(TRAIN)).unwrap();
        for output in [&used, &learning] {
            assert_close("output", &sampled(output, 200), &numbers(&golden["output"]), tolerance);
        }
        let toward = uniform("toward output", &shape).to_dtype(dtype).unwrap();
        let gradients = (learning * &toward).unwrap().sum_all().unwrap().backward().unwrap();
        let input = gradients.get(&tokens).unwrap();
        assert_close("tokens", &sampled(input, 200), &numbers(&golden["input_gradient"]), 10.0 * tolerance);
        let expected = golden["gradients"].as_object().unwrap();
        assert_eq!(expected.len(), params.trainable().len());
        for (name, var) in params.trainable() {
            let found = directional(&name, gradients.get(&var).unwrap());
            assert_close(&name, &found, &numbers(&expected[&name]), 10.0 * tolerance);
        }
        if dtype == DType::F32 {
            continue;
        }
        let (plain, gradient) = (values(&tokens), values(input));
        for at in (0..plain.len()).step_by(23) {
            let moved = |by: f64| {
                let mut moved = plain.clone();
                moved[at] += by;
                let moved = Tensor::from_vec(moved, &shape[..], &Device::Cpu).unwrap();
                let output = block.forward(&moved, &Pass::eval()).unwrap();
                values(&(output * &toward).unwrap().sum_all().unwrap())[0]
            };
            let slope = (moved(1e-5) - moved(-1e-5)) / 2e-5;
            assert!((slope - gradient[at]).abs() < 1e-7 * slope.abs().max(1.0), "{at}: {slope}, not {}", gradient[at]);
        }
    }
    let error = Block::new(6, 4, &Params::new(0, &Device::Cpu).builder()).unwrap_err().to_string();
    assert!(error.contains("4 heads do not divide a width of 6"), "{error}");
}

#[test]
fn our_metaformer_is_pytorchs() {
    let golden = golden();
    let settings: metaformer::Settings = serde_json::from_value(golden["settings"].clone()).unwrap();
    let dims: Vec<usize> = serde_json::from_value(golden["images"].clone()).unwrap();
    let shape = Shape { channels: dims[1], height: dims[2], width: dims[3], classes: 1 };
    let params = Params::new(0, &Device::Cpu);
    let model = ModelConfig::Metaformer(settings).build(shape, params.builder().set_dtype(DType::F64)).unwrap();
    load(&params);
    let images = uniform("images", &dims);
    for model in [&model, &model.folded().unwrap()] {
        let shown = model.show(&images, &Pass::eval()).unwrap();
        assert_close("images", &sampled(shown.images().unwrap(), 48), &numbers(&golden["again"]), 1e-9);
        let map = shown.map().unwrap();
        assert_eq!(serde_json::to_value(map.dims()).unwrap(), golden["map_shape"]);
        assert_close("map", &sampled(map, 48), &numbers(&golden["map"]), 1e-9);
        assert!(!map.track_op());
    }
    let objective = Objective::new(&serde_saphyr::from_str("{ reconstruction: {} }").unwrap(), &[], 0).unwrap();
    let batch = Batch { normal: 2, images, labels: None, entries: None, marked: None, epoch: 0, step: 0 };
    let step = objective.loss(&*model, &batch, TRAIN).unwrap();
    assert_close("loss", &values(&step.total), &[golden["loss"].as_f64().unwrap()], 1e-9);
    let gradients = step.total.backward().unwrap();
    let expected = golden["gradients"].as_object().unwrap();
    assert_eq!(expected.len(), params.trainable().len());
    // The attention's query is among them: the loss of the reconstruction teaches it.
    assert!(numbers(&expected["instance.query"])[0] > 0.01);
    for (name, var) in params.trainable() {
        assert_close(&name, &directional(&name, gradients.get(&var).unwrap()), &numbers(&expected[&name]), 1e-9);
    }
}

/// An image's errors are weighted by attention that adds up to one: of attention that is even, the map is that of the errors alone.
#[test]
fn attention_that_is_even_weighs_nothing() {
    let shape = Shape { channels: 3, height: 32, width: 16, classes: 1 };
    let params = Params::new(4, &Device::Cpu);
    let yaml = "metaformer: { patch: 8, width: 12, depth: 1, heads: 2, latent: 3 }";
    let model = serde_saphyr::from_str::<ModelConfig>(yaml).unwrap().build(shape, params.builder()).unwrap();
    let images = uniform("images", &[2, 3, 32, 16]).to_dtype(DType::F32).unwrap();
    let show = |model: &dyn Model| {
        let shown = model.show(&images, &Pass::eval()).unwrap();
        let errors = (&images - shown.images().unwrap()).unwrap().sqr().unwrap().mean_all().unwrap();
        (values(shown.map().unwrap()), values(&errors)[0])
    };
    let mean = |map: &[f64]| map.iter().sum::<f64>() / map.len() as f64;
    let set = |factor: f64| {
        let mut state = params.all().unwrap();
        let query = uniform("query", &[12]).affine(factor, 0.0).unwrap();
        state.insert("instance.query".to_owned(), query);
        params.load(&state, Path::new("test")).unwrap();
    };
    set(0.0);
    let (even, errors) = show(&*model);
    assert!((mean(&even) - errors).abs() < 1e-5, "{} {errors}", mean(&even));
    set(40.0);
    let (uneven, errors) = show(&*model);
    assert!((mean(&uneven) - errors).abs() > 1e-3, "{} {errors}", mean(&uneven));
}
