//! The U-Net against diffusers' (`tests/golden/unet.py`), and the diffusion model that is made of it.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use candle_core::{DType, Device, Tensor, Var};
use oodkit::{
    data::batches::Batch,
    losses::Objective,
    models::{Kind as _, ModelConfig},
    nn::{
        Mode, Model, Pass, Precision, Shape,
        denoiser::Schedule,
        params::Params,
        unet::{self, UNet},
        weights::{
            WeightsHead,
            fit::{Fitted, Wanted},
        },
    },
    train::optim::Optimizer,
};
use serde_json::Value;

use crate::{
    TRAIN,
    common::{assert_close, numbers, uniform, values},
    network::{directional, parameter, sampled},
};

const SMALL: &str =
    "diffusion: { unet: { channels: 4, multipliers: [1, 2], blocks: 1, attention: [0], heads: 2, dropout: 0 }";

fn golden() -> Value {
    serde_json::from_str(include_str!("../golden/unet.json")).unwrap()
}

fn load(params: &Params) {
    let all = params.all().unwrap();
    let state = all.iter().map(|(name, old)| (name.clone(), parameter(name, old.dims()))).collect();
    params.load(&state, Path::new("test")).unwrap();
}

/// The forward pass, the loss of one training step, and its gradients.
fn is_diffusers(name: &str, unshuffled: usize, classes: Option<usize>, dtypes: &[(DType, f64)]) {
    let golden = &golden()[name];
    let settings: unet::Settings = serde_json::from_value(golden["settings"].clone()).unwrap();
    let dims: Vec<usize> = serde_json::from_value(golden["images"].clone()).unwrap();
    let (times, maps) = (numbers(&golden["times"]), dims[1] * unshuffled * unshuffled);
    let labels: Option<Vec<u32>> = serde_json::from_value(golden["classes"].clone()).unwrap();
    let labels = labels.map(|labels| Tensor::new(labels, &Device::Cpu).unwrap());
    for &(dtype, tolerance) in dtypes {
        let params = Params::new(0, &Device::Cpu);
        let network = UNet::new(&settings, maps, classes, &params.builder().set_dtype(dtype)).unwrap();
        load(&params);
        assert_eq!(params.count() as u64, golden["parameters"].as_u64().unwrap());
        let [images, noise] = ["images", "noise"].map(|name| uniform(name, &dims).to_dtype(dtype).unwrap());
        let forward = |images: &Tensor, pass: &Pass| {
            let maps = unet::unshuffle(images, unshuffled).unwrap();
            let output = network.forward(&maps, &times, labels.as_ref(), pass).unwrap();
            unet::shuffle(&output, unshuffled).unwrap()
        };
        let used = forward(&images, &Pass::eval());
        assert!(!used.track_op(), "{name}: inference keeps a graph");
        assert_close(name, &sampled(&used, 200), &numbers(&golden["output"]), tolerance);
        if dtype == DType::F32 {
            continue;
        }
        let learning = forward(&images, &Pass::new(TRAIN));
        let loss = oodkit::losses::denoising(&learning, &noise).unwrap();
        assert_close("loss", &values(&loss), &[golden["loss"].as_f64().unwrap()], tolerance);
        let gradients = loss.backward().unwrap();
        let expected = golden["gradients"].as_object().unwrap();
        assert_eq!(expected.len(), params.trainable().len());
        for (parameter, var) in params.trainable() {
            let [norm, dot] = directional(&parameter, gradients.get(&var).unwrap());
            let expected = numbers(&expected[&parameter]);
            // Softmax takes off again what a key's bias adds.
            if parameter.ends_with("to_k.bias") {
                assert!(norm < 1e-12 && expected[0] < 1e-12, "{parameter}: {norm}");
                continue;
            }
            assert!(expected[0] > 1e-6, "{parameter}: nothing to compare");
            let relative = [norm / expected[0], dot / expected[0]];
            assert_close(&parameter, &relative, &[1.0, expected[1] / expected[0]], 1e-8);
        }
    }
}

#[test]
fn a_unet_of_ddpms_shape_is_diffusers() {
    is_diffusers("cifar", 1, None, &[(DType::F32, 1e-4), (DType::F64, 1e-9)]);
}

#[test]
fn a_unet_that_is_told_classes_is_diffusers() {
    is_diffusers("classes", 2, Some(6), &[(DType::F32, 1e-4), (DType::F64, 1e-9)]);
}

#[test]
fn times_are_embedded_as_by_diffusers() {
    let golden = &golden()["embedding"];
    let like = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
    for (channels, name) in [(8, "even"), (7, "odd")] {
        let waves = unet::sinusoid(&numbers(&golden["times"]), channels, unet::Style::Ddpm, &like).unwrap();
        assert_close(name, &values(&waves), &numbers(&golden[name]), 1e-4);
    }
}

/// Up and down, skips, attention, classes and times: with respect to the maps and to one number of each kind of parameter.
#[test]
fn a_unets_output_changes_as_its_gradients_say() {
    for more in [
        serde_json::json!({ "heads": 2 }),
        serde_json::json!({ "style": "adm", "scale_shift": true, "resample": "residual", "head_channels": 3, "learned_sigma": true }),
        serde_json::json!({ "style": "adm", "scale_shift": true, "heads": 2, "attention_order": "new" }),
    ] {
        changes_as_its_gradients_say(&more);
    }
}

fn changes_as_its_gradients_say(more: &Value) {
    let mut settings = serde_json::json!({
        "channels": 6, "multipliers": [1, 2], "blocks": 1, "attention": [0], "dropout": 0.0, "groups": 4
    });
    settings.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let settings: unet::Settings = serde_json::from_value(settings).unwrap();
    let params = Params::new(0, &Device::Cpu);
    let network = UNet::new(&settings, 2, Some(4), &params.builder().set_dtype(DType::F64)).unwrap();
    load(&params);
    let dims = [2, 2, 4, 6];
    let labels = Tensor::new(&[3u32, 1], &Device::Cpu).unwrap();
    let (plain, toward) = (uniform("maps", &dims), uniform("toward", &dims));
    let value = |maps: &Tensor, pass: &Pass| {
        let output = network.forward(maps, &[3.0, 40.5], Some(&labels), pass).unwrap();
        (output * &toward).unwrap().sum_all().unwrap()
    };
    let maps = Var::from_tensor(&plain).unwrap();
    let gradients = value(&maps, &Pass::new(TRAIN)).backward().unwrap();
    let near = |what: &str, slope: f64, gradient: f64| {
        assert!((slope - gradient).abs() < 1e-6 * slope.abs().max(1.0), "{what}: {slope}, not {gradient}");
    };
    let moved = |tensor: &Tensor, at: usize, by: f64| {
        let mut numbers = values(tensor);
        numbers[at] += by;
        Tensor::from_vec(numbers, tensor.dims(), &Device::Cpu).unwrap()
    };
    let of_maps = values(gradients.get(&maps).unwrap());
    for at in (0..of_maps.len()).step_by(7) {
        let at_place = |by| values(&value(&moved(&plain, at, by), &Pass::eval()))[0];
        near(&format!("maps {at}"), (at_place(1e-5) - at_place(-1e-5)) / 2e-5, of_maps[at]);
    }
    for (name, var) in params.trainable() {
        let before = var.as_detached_tensor().copy().unwrap();
        let at = before.elem_count() / 2;
        let at_place = |by| {
            var.set(&moved(&before, at, by)).unwrap();
            values(&value(&plain, &Pass::eval()))[0]
        };
        let slope = (at_place(1e-5) - at_place(-1e-5)) / 2e-5;
        var.set(&before).unwrap();
        near(&name, slope, values(gradients.get(&var).unwrap())[at]);
    }
}

fn small(more: &str) -> ModelConfig {
    serde_saphyr::from_str(&format!("{SMALL}{more} }}")).unwrap()
}

fn built(config: &ModelConfig, seed: u64) -> (Box<dyn Model>, Params) {
    let params = Params::new(seed, &Device::Cpu);
    let shape = Shape { channels: 1, height: 8, width: 8, classes: 3 };
    (config.build(shape, params.builder()).unwrap(), params)
}

fn batch(images: usize) -> Batch {
    let pixels = uniform("images", &[images, 1, 8, 8]).to_dtype(DType::F32).unwrap();
    let labels = Tensor::from_iter((0..images as u32).map(|at| at % 3), &Device::Cpu).unwrap();
    Batch { normal: images, images: pixels, labels: Some(labels), entries: None, marked: None, epoch: 0, step: 0 }
}

fn train(seed: u64, step: u64) -> Mode {
    Mode::Train { seed, step, precision: Precision::F32 }
}

fn objective() -> Objective {
    Objective::new(&serde_saphyr::from_str("{ denoising: {} }").unwrap(), &[], 0).unwrap()
}

/// Of a flow, the target is ε − x₀, so that ε is known; of noise it is standard normal, and another at every step.
#[test]
fn what_is_drawn_depends_on_seed_and_step_only() {
    let (network, _) = built(&small(""), 0);
    let batch = batch(64);
    let noise = |mode| {
        let shown = network.show(&batch.images, &Pass::new(mode).telling(batch.labels.as_ref())).unwrap();
        values(&shown.denoised().unwrap()[1])
    };
    let first = noise(train(0, 0));
    assert_eq!(first, noise(train(0, 0)));
    assert_ne!(first, noise(train(0, 1)));
    assert_ne!(first, noise(train(1, 0)));
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let squares: Vec<f64> = first.iter().map(|value| value * value).collect();
    assert!(mean(&first).abs() < 0.06 && (mean(&squares) - 1.0).abs() < 0.1, "{} {}", mean(&first), mean(&squares));
    // Used, it shows nothing.
    let shown = network.show(&batch.images, &Pass::eval()).unwrap();
    assert!(shown.denoised().is_err() && shown.logits.is_none() && shown.map.is_none());
}

/// The same of an image whatever batch it is in, so that two epochs can be compared.
#[test]
fn held_out_images_are_judged_alike_in_any_batch() {
    for more in ["", ", schedule: flow", ", classes: true, drop: 0.5"] {
        let (network, params) = built(&small(more), 1);
        // The last layer starts at 0.
        load(&params);
        let batch = batch(6);
        let judge = |start: usize, count: usize| {
            let [images, labels] =
                [&batch.images, batch.labels.as_ref().unwrap()].map(|all| all.narrow(0, start, count).unwrap());
            objective().judge(&*network, &images, Some(&labels), start).unwrap()
        };
        let (name, all) = judge(0, 6);
        assert_eq!((name, all), judge(0, 6));
        let parts: f64 = [judge(0, 1), judge(1, 3), judge(4, 2)].iter().map(|(_, sum)| sum).sum();
        assert_eq!(name, "loss");
        assert!((all - parts).abs() < 1e-4 * all && all > 0.0, "{more}: {all} {parts}");
        assert_ne!(judge(0, 3).1, judge(3, 3).1);
    }
}

#[test]
fn every_schedule_and_prediction_learns() {
    for more in ["", ", predicts: v, schedule: cosine", ", schedule: flow", ", unshuffle: 2, classes: true, steps: 50"]
    {
        let (network, params) = built(&small(more), 2);
        let json = serde_json::json!({ "adamw": { "lr": 0.01 } });
        let clip = serde_json::from_value(serde_json::json!({ "norm": 1.0 })).unwrap();
        let rule = serde_json::from_value(json).unwrap();
        let mut optimizer = Optimizer::new(&rule, Some(clip), params.trainable()).unwrap();
        // All images are of one brightness, which is easily told.
        let mut batch = batch(16);
        batch.images = (batch.images * 0.0).unwrap().affine(1.0, 0.5).unwrap();
        let judge = || objective().judge(&*network, &batch.images, batch.labels.as_ref(), 0).unwrap().1 / 16.0;
        let before = judge();
        for step in 0..40 {
            let loss = objective().loss(&*network, &batch, train(0, step)).unwrap();
            optimizer.step(&loss.total.backward().unwrap(), 0.01).unwrap();
        }
        let after = judge();
        assert!(after < 0.6 * before, "{more}: {before} became {after}");
    }
}

#[test]
fn a_denoisers_output_is_the_networks_at_one_time() {
    let noisy = uniform("noisy", &[3, 1, 8, 8]).to_dtype(DType::F32).unwrap();
    let (network, params) = built(&small(", classes: true"), 3);
    load(&params);
    let denoiser = network.denoiser().unwrap();
    assert_eq!((denoiser.classes(), denoiser.schedule().steps()), (3, 1000));
    let output = |time, classes: Option<&[u32]>| values(&denoiser.output(&noisy, time, classes).unwrap());
    let told = output(500.0, Some(&[0, 1, 2]));
    assert_ne!(told, output(501.0, Some(&[0, 1, 2])));
    assert_ne!(told, output(500.0, Some(&[1, 1, 2])));
    assert_ne!(told, output(500.0, None));
    // The class after the last is none.
    assert_eq!(output(500.0, Some(&[3, 3, 3])), output(500.0, None));
    let message = |result: candle_core::Result<Tensor>| result.unwrap_err().to_string();
    assert!(message(denoiser.output(&noisy, 1.0, Some(&[4, 0, 0]))).contains("4 is not one of 4 classes"));
    assert!(message(denoiser.output(&noisy, 1.0, Some(&[0, 0]))).contains("2 classes of 3 images"));
    assert!(!denoiser.output(&noisy, 1.0, None).unwrap().track_op());

    let (unconditional, _) = built(&small(""), 3);
    let denoiser = unconditional.denoiser().unwrap();
    assert!(message(denoiser.output(&noisy, 1.0, Some(&[0, 0, 0]))).contains("is told no classes"));

    // Of a network that is 0, an image of noise alone is a noisy image over its factor.
    let place = denoiser.schedule().place(999);
    let predicted = denoiser.predict(&noisy, place, None).unwrap();
    assert_close("image", &values(&predicted.image), &values(&(noisy / place.signal).unwrap()), 1e-4);
    assert_eq!(Schedule::clean().time, -1.0);
}

/// Names of DDPM's code and of older diffusers, with 1×1 convolutions in attention, in a file of weights.
#[test]
fn weights_of_ddpms_names_fit() {
    let yaml = "diffusion: { unet: { channels: 4, multipliers: [1, 2, 2], blocks: 1, attention: [1] } }";
    let config: ModelConfig = serde_saphyr::from_str(yaml).unwrap();
    let shape = Shape { channels: 3, height: 8, width: 8, classes: 2 };
    let params = Params::new(7, &Device::Cpu);
    config.build(shape, params.builder()).unwrap();
    let ours = params.all().unwrap();
    let fit = |tensors: BTreeMap<String, Tensor>, shape: Shape| -> oodkit::Result<Fitted> {
        let (model, names) = (config.clone(), config.clone());
        let build = move |shape, vb: candle_nn::VarBuilder| model.build(shape, vb).map(|_| ());
        let wanted = Wanted::of(Arc::new(build), None, shape)?;
        let wanted = wanted.named_by(Arc::new(move |theirs| names.our_name(theirs)));
        wanted.fit(tensors, WeightsHead::File, Path::new("net.safetensors"))
    };
    let attention = [("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")];
    let older = |name: &String| {
        attention
            .iter()
            .fold(name.clone(), |name, (ours, theirs)| name.replace(&format!(".{ours}."), &format!(".{theirs}.")))
    };
    let ddpms = |name: &String| {
        let mut name = name.clone();
        for (ours, theirs) in [
            ("time_embedding.linear_1", "temb.dense.0"),
            ("time_embedding.linear_2", "temb.dense.1"),
            ("down_blocks", "down"),
            ("up_blocks.0", "up.2"),
            ("up_blocks.1", "up.1"),
            ("up_blocks.2", "up.0"),
            ("mid_block.resnets.0", "mid.block_1"),
            ("mid_block.resnets.1", "mid.block_2"),
            ("mid_block.attentions.0", "mid.attn_1"),
            ("attentions", "attn"),
            ("resnets", "block"),
            ("group_norm", "norm"),
            ("time_emb_proj", "temb_proj"),
            ("conv_shortcut", "nin_shortcut"),
            ("downsamplers.0", "downsample"),
            ("upsamplers.0", "upsample"),
            ("conv_norm_out", "norm_out"),
            ("to_q", "q"),
            ("to_k", "k"),
            ("to_v", "v"),
            ("to_out.0", "proj_out"),
        ] {
            name = name.replace(ours, theirs);
        }
        format!("module.{name}")
    };
    let squared = |name: &str, tensor: &Tensor| match name.contains("attentions") && tensor.rank() == 2 {
        true => tensor.unsqueeze(2).unwrap().unsqueeze(3).unwrap(),
        false => tensor.clone(),
    };
    for (what, theirs) in [("older", &older as &dyn Fn(&String) -> String), ("ddpm", &ddpms)] {
        let given: BTreeMap<String, Tensor> = ours
            .iter()
            .map(|(name, tensor)| (theirs(name), if what == "ddpm" { squared(name, tensor) } else { tensor.clone() }))
            .collect();
        assert_ne!(given.keys().collect::<Vec<_>>(), ours.keys().collect::<Vec<_>>());
        let fitted = fit(given, shape).unwrap();
        assert_eq!(fitted.tensors.keys().collect::<Vec<_>>(), ours.keys().collect::<Vec<_>>(), "{what}");
        for (name, tensor) in &ours {
            assert_eq!(fitted.tensors[name].dims(), tensor.dims(), "{what} {name}");
            assert_eq!(values(&fitted.tensors[name]), values(tensor), "{what} {name}");
        }
        assert!(fitted.notes.iter().any(|note| note.contains("names are changed")), "{:?}", fitted.notes);
        assert_eq!(fitted.notes.iter().any(|note| note.contains("1×1 convolutions")), what == "ddpm");
    }
    // Of other channels and of another width, what differs is told.
    let error = fit(ours.clone(), Shape { channels: 1, ..shape }).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let error = error.to_string();
    assert!(error.contains("it is for images of 3 channels where the data have 1"), "{error}");
    let wider: ModelConfig = serde_saphyr::from_str(&yaml.replace("channels: 4", "channels: 8")).unwrap();
    let params = Params::new(7, &Device::Cpu);
    wider.build(shape, params.builder()).unwrap();
    let error = fit(params.all().unwrap(), shape).unwrap_err().to_string();
    assert!(error.contains("of another shape: conv_in.bias ([8] where [4] is wanted)"), "{error}");
}

/// As many classes as the table has rows, less the one of none.
#[test]
fn weights_say_how_many_classes_they_are_told() {
    let config = small(", classes: true");
    let shape = Shape { channels: 1, height: 8, width: 8, classes: 3 };
    let (_, params) = built(&config, 0);
    let model = config.clone();
    let wanted = |classes| {
        let model = model.clone();
        let build = move |shape, vb: candle_nn::VarBuilder| model.build(shape, vb).map(|_| ());
        Wanted::of(Arc::new(build), None, Shape { classes, ..shape }).unwrap()
    };
    let tensors = params.all().unwrap();
    assert_eq!(tensors["class_embedding.weight"].dims(), [4, 16]);
    assert_eq!(wanted(10).classes(&tensors).unwrap(), Some(3));
    let error = wanted(10).fit(tensors, WeightsHead::File, Path::new("net.pth")).unwrap_err().to_string();
    assert!(error.contains("3 classes where the data have 10"), "{error}");
}

#[test]
fn settings_that_do_not_go_together_are_told_at_their_keys() {
    for (yaml, size, key, message) in [
        ("{ unet: { attention: [1, 4] } }", None, "unet.attention.1", "there is no level 4"),
        ("{ unet: { channels: 24, heads: 5 } }", None, "unet.heads", "5 heads do not divide 48 channels"),
        ("{}", Some([28, 28]), "unet.multipliers", "a multiple of 8, not 28×28: give fewer, or `size: 32`"),
        (
            "{ unshuffle: 2, unet: { multipliers: [1, 2, 2] } }",
            Some([28, 28]),
            "unet.multipliers",
            "after `unshuffle: 2`",
        ),
        ("{ predicts: velocity }", None, "predicts", "velocity is that of `schedule: flow`"),
        ("{ schedule: flow, predicts: noise }", None, "predicts", "has `velocity` alone"),
        ("{ drop: 0.2 }", None, "drop", "goes with `classes: true`"),
    ] {
        let settings: oodkit::models::diffusion::Settings = serde_saphyr::from_str(yaml).unwrap();
        let problems = settings.problems(size);
        let [problem] = &problems[..] else { panic!("{yaml}: {problems:?}") };
        assert_eq!(problem.path.to_string(), key, "{yaml}");
        assert!(problem.message.contains(message), "{yaml}: {}", problem.message);
    }
    let good: oodkit::models::diffusion::Settings = serde_saphyr::from_str("{ schedule: flow, unshuffle: 2 }").unwrap();
    assert_eq!(good.problems(Some([32, 48])), []);
    // What is equal has one identity.
    let written =
        |yaml: &str| serde_saphyr::from_str::<ModelConfig>(&format!("diffusion: {yaml}")).unwrap().canonical();
    assert_eq!(written("{ schedule: flow }"), written("{ schedule: flow, predicts: velocity }"));
    assert_eq!(written("{ classes: true }"), written("{ classes: true, drop: 0.1 }"));
}
