//! The texture part and the self-calibrated convolution against PyTorch's: `tests/golden/stl.py`.

use candle_core::{DType, Device, Result, Tensor, Var};
use oodkit::nn::{Pass, params::Params, pass::Side, self_calibrated, stl};
use serde_json::Value;

use crate::{
    TRAIN,
    common::{assert_close, numbers, uniform, values},
    network::{directional, parameter, sampled},
};

fn golden(part: &str) -> Vec<Value> {
    let all: Value = serde_json::from_str(include_str!("../golden/stl.json")).unwrap();
    all[part].as_array().unwrap().clone()
}

type Forward = Box<dyn Fn(&Tensor, &Pass) -> Result<Tensor>>;

/// A part, its folded twin, its parameters: of the golden weights.
struct Part {
    forward: Forward,
    folded: Forward,
    params: Params,
}

fn texture(settings: &stl::Settings, inputs: usize, grid: [usize; 2], dtype: DType) -> Part {
    let params = Params::new(0, &Device::Cpu);
    let part = stl::Stl::new(settings, inputs, grid, &params.builder().set_dtype(dtype)).unwrap();
    load(&params);
    let mut folded = part.clone();
    folded.fold().unwrap();
    assert_eq!(part.channels(), 3 * settings.width);
    Part {
        forward: Box::new(move |x, pass| part.forward(x, pass)),
        folded: Box::new(move |x, pass| folded.forward(x, pass)),
        params,
    }
}

fn calibrated(settings: &self_calibrated::Settings, inputs: usize, grid: [usize; 2], dtype: DType) -> Part {
    let params = Params::new(0, &Device::Cpu);
    let part =
        self_calibrated::SelfCalibrated::new(settings, inputs, grid, &params.builder().set_dtype(dtype)).unwrap();
    load(&params);
    let mut folded = part.clone();
    folded.fold().unwrap();
    assert_eq!(part.channels(), settings.channels(inputs));
    Part {
        forward: Box::new(move |x, pass| part.forward(x, pass)),
        folded: Box::new(move |x, pass| folded.forward(x, pass)),
        params,
    }
}

fn load(params: &Params) {
    let all = params.all().unwrap();
    let state = all.iter().map(|(name, old)| (name.clone(), parameter(name, old.dims()))).collect();
    params.load(&state, std::path::Path::new("test")).unwrap();
}

/// Outputs, gradients and running statistics are PyTorch's: to what f32 allows, and in f64.
fn matches(what: &str, golden: &Value, maps: &str, inputs: usize, build: impl Fn([usize; 2], DType) -> Part) {
    let shape: Vec<usize> = serde_json::from_value(golden["shape"].clone()).unwrap();
    let grid = [shape[2], shape[3]];
    let maps = uniform(maps, &[shape[0], inputs, grid[0], grid[1]]).to_dtype(DType::F32).unwrap();
    for (dtype, value, gradient) in [(DType::F32, 1e-5, 1e-4), (DType::F64, 1e-10, 1e-8)] {
        let (part, what) = (build(grid, dtype), format!("{what} {dtype:?}"));
        let maps = Var::from_tensor(&maps.to_dtype(dtype).unwrap()).unwrap();
        for forward in [&part.forward, &part.folded] {
            let y = forward(&maps.as_detached_tensor(), &Pass::eval()).unwrap();
            assert!(!y.track_op(), "{what}: inference keeps a graph");
            assert_close(&what, &sampled(&y, 96), &numbers(&golden["eval"]), value);
        }
        let y = (part.forward)(&maps, &Pass::new(TRAIN)).unwrap();
        assert_eq!(y.dims(), shape);
        assert_close(&format!("{what} learning"), &sampled(&y, 96), &numbers(&golden["train"]), value);
        let toward = uniform("toward", y.dims()).to_dtype(dtype).unwrap();
        let gradients = (&y * toward).unwrap().sum_all().unwrap().backward().unwrap();
        let largest = |expected: &[f64]| expected.iter().fold(0.0f64, |most, value| most.max(value.abs()));
        let of_maps = numbers(&golden["input"]);
        let size = largest(&of_maps);
        for (actual, expected) in sampled(gradients.get(&maps).unwrap(), 48).iter().zip(&of_maps) {
            assert!((actual - expected).abs() < gradient * size, "{what} input: {actual}, {expected}");
        }
        let expected = golden["gradients"].as_object().unwrap();
        assert_eq!(expected.len(), part.params.trainable().len(), "{what}");
        for (name, var) in part.params.trainable() {
            let [norm, dot] = directional(&name, gradients.get(&var).unwrap_or_else(|| panic!("{what} {name}")));
            let expected = numbers(&expected[&name]);
            // What a batch normalisation takes off again has a gradient of rounding errors.
            let size = if expected[0] < 1e-12 { 1.0 } else { expected[0] };
            let error = (norm - expected[0]).abs().max((dot - expected[1]).abs());
            assert!(error < gradient * size, "{what} {name}: {norm} {dot}, {expected:?}");
        }
        let all = part.params.all().unwrap();
        for (name, expected) in golden["buffers"].as_object().unwrap() {
            assert_close(&format!("{what} {name}"), &sampled(&all[name], 2), &numbers(expected), value);
        }
    }
}

#[test]
fn the_texture_part_matches_pytorch() {
    for golden in golden("stl") {
        let settings: stl::Settings = serde_json::from_value(golden["settings"].clone()).unwrap();
        let maps = golden["maps"].as_str().unwrap();
        matches(&format!("{:?}", settings.assign), &golden, maps, 5, |grid, dtype| texture(&settings, 5, grid, dtype));
    }
}

#[test]
fn the_self_calibrated_convolution_matches_pytorch() {
    for golden in golden("self_calibrated") {
        let settings: self_calibrated::Settings = serde_json::from_value(golden["settings"].clone()).unwrap();
        let inputs = golden["inputs"].as_u64().unwrap() as usize;
        matches(&format!("{settings:?}"), &golden, "stages", inputs, |grid, dtype| {
            calibrated(&settings, inputs, grid, dtype)
        });
    }
}

/// What a pass keeps changes how pairs are computed, not what is computed.
#[test]
fn a_pass_that_keeps_layers_learns_the_same() {
    let settings: stl::Settings = serde_json::from_value(golden("stl")[0]["settings"].clone()).unwrap();
    let part = texture(&settings, 5, [8, 12], DType::F64);
    let maps = Var::from_tensor(&uniform("stages", &[2, 5, 8, 12])).unwrap();
    let results = |pass: &Pass| {
        let y = (part.forward)(&maps, pass).unwrap();
        let gradients = (&y * uniform("toward", y.dims())).unwrap().sum_all().unwrap().backward().unwrap();
        let parameters = part.params.trainable();
        let parameters = parameters.iter().map(|(_, var)| values(gradients.get(var).unwrap()));
        let all = [values(&y), values(gradients.get(&maps).unwrap())].into_iter().chain(parameters);
        all.flatten().collect::<Vec<f64>>()
    };
    let keeping = Pass::new(TRAIN).keeping_layers(Side::After);
    assert_close("kept", &results(&keeping), &results(&Pass::new(TRAIN)), 1e-9);
    let layers = keeping.take_layers();
    assert!(layers.iter().any(|layer| layer.name == "ptfem.qco_2.f1.0" && layer.values.dims() == [2, 2, 4, 16]));
}

/// Moving a value of the maps changes the result as the gradient says.
#[test]
fn gradients_of_the_parts_are_differences() {
    let golden = golden("stl");
    let maps = uniform(golden[0]["maps"].as_str().unwrap(), &[2, 5, 8, 12]);
    let settings: stl::Settings = serde_json::from_value(golden[0]["settings"].clone()).unwrap();
    for part in [
        texture(&settings, 5, [8, 12], DType::F64),
        texture(&stl::Settings { assign: stl::Assign::Paper, ..settings }, 5, [8, 12], DType::F64),
        calibrated(&self_calibrated::Settings { width: 4, ..Default::default() }, 5, [8, 12], DType::F64),
    ] {
        let value = |maps: &Tensor| {
            let y = (part.forward)(maps, &Pass::new(TRAIN)).unwrap();
            (&y * uniform("toward", y.dims())).unwrap().sum_all().unwrap()
        };
        let variable = Var::from_tensor(&maps).unwrap();
        let gradient = values(value(&variable).backward().unwrap().get(&variable).unwrap());
        let plain = values(&maps);
        for place in (0..plain.len()).step_by(plain.len() / 24) {
            let moved = |by: f64| {
                let mut moved = plain.clone();
                moved[place] += by;
                value(&Tensor::from_vec(moved, maps.shape(), &Device::Cpu).unwrap()).to_scalar::<f64>().unwrap()
            };
            let difference = (moved(1e-6) - moved(-1e-6)) / 2e-6;
            let error = (difference - gradient[place]).abs();
            assert!(error < 1e-5 * gradient[place].abs().max(1.0), "{place}: {difference}, {}", gradient[place]);
        }
    }
}

/// Images of one colour, all zeros among them, and images of two colours whose cells are constant.
#[test]
fn constant_maps_give_numbers() {
    let settings = stl::Settings { width: 8, ..Default::default() };
    let part = texture(&settings, 5, [16, 16], DType::F32);
    let halves = Tensor::cat(&[uniform("a", &[2, 5, 1, 1]), uniform("b", &[2, 5, 1, 1])], 3).unwrap();
    let halves = halves.reshape((2, 5, 1, 2, 1)).unwrap().broadcast_as((2, 5, 16, 2, 8)).unwrap();
    for maps in [
        Tensor::zeros((2, 5, 16, 16), DType::F32, &Device::Cpu).unwrap(),
        uniform("colour", &[2, 5, 1, 1]).broadcast_as((2, 5, 16, 16)).unwrap(),
        halves.reshape((2, 5, 16, 16)).unwrap(),
    ] {
        let maps = Var::from_tensor(&maps.to_dtype(DType::F32).unwrap().contiguous().unwrap()).unwrap();
        for pass in [Pass::new(TRAIN), Pass::eval()] {
            let y = (part.forward)(&maps, &pass).unwrap();
            assert!(values(&y).iter().all(|value| value.is_finite()));
            let gradients = y.sqr().unwrap().sum_all().unwrap().backward().unwrap();
            for id in gradients.get_ids() {
                assert!(values(gradients.get_id(*id).unwrap()).iter().all(|value| value.is_finite()));
            }
        }
    }
}

#[test]
fn what_cannot_be_built_is_refused_by_the_name_of_the_setting() {
    let builder = Params::new(0, &Device::Cpu).builder();
    let default = stl::Settings::default;
    let stl = |settings: stl::Settings| stl::Stl::new(&settings, 5, [32, 48], &builder).unwrap_err();
    let calibrated = |settings| self_calibrated::SelfCalibrated::new(&settings, 5, [8, 8], &builder).unwrap_err();
    for (error, name) in [
        (stl(stl::Settings { scales: vec![1, 3], ..default() }), "3 does not divide the 32×48 grid"),
        (stl(stl::Settings { scales: vec![], ..default() }), "scales"),
        (stl(stl::Settings { scales: vec![0], ..default() }), "scales"),
        (stl(stl::Settings { scales: vec![2, 2], ..default() }), "scales"),
        (stl(stl::Settings { levels: 0, ..default() }), "levels"),
        (stl(stl::Settings { cooccurrence_levels: 0, ..default() }), "cooccurrence_levels"),
        (stl(stl::Settings { width: 6, ..default() }), "width"),
        (calibrated(self_calibrated::Settings { rate: 9, ..Default::default() }), "`rate` is 9"),
        (calibrated(self_calibrated::Settings { rate: 0, ..Default::default() }), "rate"),
        (calibrated(self_calibrated::Settings { width: 0, ..Default::default() }), "width"),
    ] {
        assert!(error.exit_code() == 2 && error.to_string().contains(name), "{error}");
    }
}
