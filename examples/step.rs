//! One step of a workload at a time, for `benches/compare.py`: reads lines, answers each with the milliseconds it took.
//!
//! `cargo run --release --example step wrn40_2`, then press Enter for a step; `… wrn40_2 --profile 10` takes ten steps by
//! itself, for a profiler to record.

#[path = "common/learning.rs"]
mod learning;

use std::{
    io::{BufRead as _, Write as _},
    time::Instant,
};

use Work::{Attention, Block, Eval, Part, Stages, Train};
use candle_core::{Device, Tensor, Var};
use oodkit::{
    Error, Result,
    data::{batches::Batch, enlarged::Marked},
    losses::{Loss, Objective},
    models::ModelConfig,
    nn::{self, Backbone, Mode, Pass, Precision, Shape, params::Params, resnet, self_calibrated, stl},
    ops::{self, Convolution, Order},
    rng,
    train::{
        optim::{Average, Optimizer, Rules},
        recipe::{Clip, Ema},
    },
};
use rand::Rng as _;

/// What a step does: with the network of this name, or with one of a diffusion U-Net's pieces.
#[derive(Clone, Copy)]
enum Work {
    /// Forward, cross-entropy, backward, SGD.
    Train(&'static str),
    /// Forward in evaluation mode.
    Eval(&'static str),
    /// Forward to the first stages of a ResNet, in training mode, and backward from the mean squares of their maps.
    Stages(&'static str, usize),
    /// Group normalisation in 8 groups, SiLU and a 3×3 convolution, and backward from the result's mean square.
    Block,
    /// One head of self-attention over all pixels between 1×1 convolutions, and backward alike.
    Attention,
    /// A part of the fusion network of this width on the low or the third stage, in training mode, and backward from the result's mean
    /// square.
    Part(&'static str, usize),
    /// A model with losses of its own: forward, losses, backward, optimiser.
    Dense(&'static Dense),
    /// The output of the diffusion model of this JSON at one time, told no class, in evaluation mode.
    Denoise(&'static str),
}

/// A model with its recipe, as JSON.
struct Dense {
    model: &'static str,
    loss: &'static str,
    optimizer: &'static str,
    /// Whether half of the images are anomalous in a square.
    made: bool,
    /// What is done to large gradients, and the average of the weights.
    steadied: Option<(Clip, Ema)>,
}

const FUSION: Dense = Dense {
    model: r#"{ "fusion": { "backbone": "efficientnet_lite0", "width": 64, "stl": { "width": 64 }, "sc": { "width": 64 } } }"#,
    loss: r#"{ "hypersphere": {}, "score_margin": {}, "consistency": {} }"#,
    optimizer: r#"{ "sgd": { "lr": 0.01, "momentum": 0.9, "weight_decay": 3e-5 } }"#,
    made: true,
    steadied: None,
};

const RD: Dense = Dense {
    model: r#"{ "reverse_distillation": { "backbone": "efficientnet_lite0" } }"#,
    loss: r#"{ "distillation": { "of": "flat" } }"#,
    optimizer: r#"{ "adamw": { "lr": 0.005, "betas": [0.5, 0.999], "weight_decay": 0 } }"#,
    made: false,
    steadied: None,
};

const PATCH_SVDD: Dense = Dense {
    model: r#"{ "patch_svdd": {} }"#,
    loss: r#"{ "patch_position": {}, "patch_svdd": {} }"#,
    optimizer: r#"{ "adamw": { "lr": 0.0001, "weight_decay": 0 } }"#,
    made: false,
    steadied: None,
};

const UNET: Dense = Dense {
    model: r#"{ "diffusion": {
        "unet": { "channels": 24, "multipliers": [1, 2], "blocks": 1, "attention": [1], "dropout": 0 },
        "unshuffle": 2, "schedule": "cosine", "classes": true
    } }"#,
    loss: r#"{ "denoising": {} }"#,
    optimizer: r#"{ "adamw": { "lr": 0.001, "weight_decay": 0 } }"#,
    made: false,
    steadied: Some((Clip::Norm(1.0), Ema { decay: 0.999 })),
};

/// Name, work, batch, channels, rows and columns; `benches/torch_step.py` has the same table.
const CASES: [(&str, Work, usize, usize, usize); 33] = [
    ("lenet", Train("lenet"), 128, 1, 28),
    ("wrn40_2", Train("wrn40_2"), 64, 3, 32),
    ("wrn40_2_eval", Eval("wrn40_2"), 128, 3, 32),
    ("wrn28_10_eval", Eval("wrn28_10"), 8, 3, 32),
    ("vgg19", Train("vgg19_bn"), 64, 3, 32),
    ("resnet50_stages", Stages("resnet50", 3), 4, 3, 256),
    ("efficientnet_eval", Eval("efficientnet_lite0"), 16, 3, 224),
    ("convnext_tiny", Eval("convnext_tiny"), 8, 3, 224),
    ("regnety_16gf", Eval("regnety_16gf"), 4, 3, 224),
    ("swin_tiny", Eval("swin_tiny"), 8, 3, 224),
    ("vit_s16", Eval("vit_s16"), 8, 3, 224),
    ("dinov2_s14", Eval("dinov2_s14"), 1, 3, 448),
    ("unet", Work::Dense(&UNET), 64, 1, 28),
    ("unet_eval", Work::Denoise(UNET.model), 64, 1, 28),
    ("unet_block32", Block, 64, 32, 32),
    ("unet_block64", Block, 64, 64, 16),
    ("unet_block128", Block, 64, 128, 8),
    ("attention49", Attention, 64, 64, 7),
    ("attention256", Attention, 64, 64, 16),
    ("tem64", Part("tem", 64), 32, 64, 32),
    ("ptfem64", Part("ptfem", 64), 32, 128, 32),
    ("ptfem64_8", Part("ptfem8", 64), 32, 128, 32),
    ("stl64", Part("stl", 64), 32, 64, 32),
    ("sc64", Part("sc", 64), 32, 64, 32),
    ("tem256", Part("tem", 256), 32, 256, 32),
    ("ptfem256", Part("ptfem", 256), 32, 512, 32),
    ("ptfem256_8", Part("ptfem8", 256), 32, 512, 32),
    ("stl256", Part("stl", 256), 32, 256, 32),
    ("sc256", Part("sc", 256), 32, 256, 32),
    ("fusion64", Work::Dense(&FUSION), 32, 3, 256),
    ("rd", Work::Dense(&RD), 16, 3, 256),
    ("efficient_ad", Work::Dense(&EFFICIENT_AD), 4, 3, 256),
    ("patch_svdd", Work::Dense(&PATCH_SVDD), 8, 3, 256),
];

const EFFICIENT_AD: Dense = Dense {
    model: r#"{ "efficient_ad": { "dropout": 0 } }"#,
    loss: r#"{ "regression": { "hard": 0.999 } }"#,
    optimizer: r#"{ "adamw": { "lr": 0.0001, "weight_decay": 0.00001 } }"#,
    made: false,
    steadied: None,
};

// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> Result<()> {
    oodkit::ops::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let name = arguments.first().map_or("", String::as_str);
    let Some(&(_, work, batch, channels, side)) = CASES.iter().find(|(case, ..)| *case == name) else {
        let names = CASES.map(|(name, ..)| name).join(", ");
        return Err(Error::input(format!("no case \"{name}\"")).hint(format!("the cases are {names}")));
    };
    let images = noise("images", &[batch, channels, side, side])?;
    let mut step = prepare(work, &images)?;
    if let [_, profile, steps] = arguments.as_slice()
        && profile == "--profile"
    {
        let steps = steps.parse().map_err(|_| Error::input(format!("\"{steps}\" is not a number of steps")))?;
        return (0..steps).try_for_each(step);
    }
    let mut stdout = std::io::stdout();
    for (index, _) in std::io::stdin().lock().lines().enumerate() {
        let started = Instant::now();
        step(index as u64)?;
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        writeln!(stdout, "{milliseconds}").and_then(|()| stdout.flush()).map_err(Error::io("write", "stdout"))?;
    }
    Ok(())
}

/// The step as a function of its index.
fn prepare(work: Work, images: &Tensor) -> Result<Box<dyn FnMut(u64) -> Result<()>>> {
    let params = Params::new(0, &Device::Cpu);
    let (_, channels, height, width) = images.dims4()?;
    let backbone = |name| Backbone::by_name(name).map_err(Error::input);
    let build =
        |name| nn::build(&backbone(name)?.into(), Shape { channels, height, width, classes: 10 }, params.builder());
    let images = images.clone();
    let c = channels;
    Ok(match work {
        Block => piece(&images, &[&[c], &[c], &[c, c, 3, 3], &[c]], block)?,
        Attention => piece(&images, &[&[3 * c, c, 1, 1], &[3 * c], &[c, c, 1, 1], &[c]], attention)?,
        Part(name, channels_of_part) => {
            let part = part(name, channels_of_part, channels, [height, width], &params)?;
            let images = Var::from_tensor(&images)?;
            Box::new(move |step| {
                let pass = Pass::new(Mode::Train { seed: 0, step, precision: Precision::F32 });
                part(&images, &pass)?.sqr()?.mean_all()?.backward()?;
                Ok(())
            })
        }
        Train(name) => {
            let mut learn = learning::step(name, &images, Precision::F32)?;
            Box::new(move |step| learn(step).map(|_| ()))
        }
        Work::Dense(of) => dense(of, &images)?,
        Work::Denoise(model) => {
            let shape = Shape { channels, height, width, classes: 10 };
            let model = read::<ModelConfig>(model)?.build(shape, params.builder())?.folded()?;
            Box::new(move |_| {
                let denoiser = model.denoiser().ok_or_else(|| Error::input("this model is no denoiser"))?;
                denoiser.output(&images, 500.0, None)?;
                Ok(())
            })
        }
        Eval(name) => {
            let network = build(name)?.folded()?;
            Box::new(move |_| Ok(network.show(&images, &Pass::eval()).map(|_| ())?))
        }
        Stages(name, stages) => {
            let Backbone::Resnet(settings) = backbone(name)? else {
                return Err(Error::input(format!("{name} is no ResNet")));
            };
            let trunk = resnet::Trunk::new(
                &settings,
                Shape { channels, height, width, classes: 0 },
                stages,
                &params.builder(),
            )?;
            Box::new(move |step| {
                let maps =
                    trunk.forward(&images, &Pass::new(Mode::Train { seed: 0, step, precision: Precision::F32 }))?;
                let loss = maps.iter().map(|map| map.sqr()?.mean_all()).reduce(|a, b| a? + b?);
                loss.transpose()?.map(|loss| loss.backward()).transpose()?;
                Ok(())
            })
        }
    })
}

fn read<T: serde::de::DeserializeOwned>(json: &str) -> Result<T> {
    serde_json::from_str(json).map_err(|error| Error::input(format!("{json}: {error}")))
}

/// A step of such a model on these images.
fn dense(of: &Dense, images: &Tensor) -> Result<Box<dyn FnMut(u64) -> Result<()>>> {
    let (count, channels, height, side) = images.dims4()?;
    let (model, loss, rule): (ModelConfig, Loss, Rules) = (read(of.model)?, read(of.loss)?, read(of.optimizer)?);
    let params = Params::new(0, &Device::Cpu);
    let told = model.is_told_classes();
    let labels = told.then(|| Tensor::from_iter((0..count as u32).map(|i| i % 10), &Device::Cpu)).transpose()?;
    let classes = if told { 10 } else { 1 };
    let model = model.build(Shape { channels, height, width: side, classes }, params.builder())?;
    let objective = Objective::new(&loss, &[], 0)?;
    let (clip, ema) = of.steadied.clone().unzip();
    let mut optimizer = Optimizer::new(&rule, clip, params.trainable())?;
    let mut average = ema.map(|ema| Average::new(&ema, params.trainable()));
    let (normal, middle) = (if of.made { count / 2 } else { count }, side / 4..side / 2);
    let anomalous = |at: usize| {
        let (image, row, column) = (at / (height * side), at / side % height, at % side);
        u8::from(image >= normal && middle.contains(&row) && middle.contains(&column))
    };
    let pixels: Vec<u8> = (0..count * height * side).map(anomalous).collect();
    let makers = (0..count).map(|image| u32::from(image >= normal)).collect();
    let marked = of.made.then_some(Marked { pixels, size: [height, side], cell: 0.25, makers });
    let images = images.clone();
    Ok(Box::new(move |step| {
        let (images, labels, marked) = (images.clone(), labels.clone(), marked.clone());
        let batch = Batch { images, normal, labels, entries: None, marked, epoch: 0, step };
        let mode = Mode::Train { seed: 0, step, precision: Precision::F32 };
        let loss = objective.loss(&*model, &batch, mode)?.total;
        optimizer.step(&loss.backward()?, rule.lr())?;
        average.as_mut().map_or(Ok(()), Average::update)
    }))
}

type Forward = Box<dyn Fn(&Tensor, &Pass) -> candle_core::Result<Tensor>>;

/// A part of the fusion network, for maps of so many channels.
fn part(name: &str, width: usize, inputs: usize, grid: [usize; 2], params: &Params) -> Result<Forward> {
    let vb = params.builder();
    let settings = stl::Settings { width, ..stl::Settings::default() };
    let pyramid = |settings| -> Result<Forward> {
        let part = stl::ptfem::Ptfem::new(&settings, &vb)?;
        Ok(Box::new(move |x, pass| part.forward(x, pass)))
    };
    match name {
        "tem" => {
            let part = stl::tem::Tem::new(&settings, &vb)?;
            Ok(Box::new(move |x, pass| part.forward(x, pass)))
        }
        "ptfem" => pyramid(settings),
        "ptfem8" => pyramid(stl::Settings { scales: vec![8], ..settings }),
        "stl" => {
            let part = stl::Stl::new(&settings, inputs, grid, &vb)?;
            Ok(Box::new(move |x, pass| part.forward(x, pass)))
        }
        _ => {
            let settings = self_calibrated::Settings { width, ..self_calibrated::Settings::default() };
            let part = self_calibrated::SelfCalibrated::new(&settings, inputs, grid, &vb)?;
            Ok(Box::new(move |x, pass| part.forward(x, pass)))
        }
    }
}

/// Forward through `layer` and backward to its inputs, the first of which is `images`.
fn piece(
    images: &Tensor,
    weights: &[&[usize]],
    layer: fn(&Tensor, &[Var]) -> candle_core::Result<Tensor>,
) -> Result<Box<dyn FnMut(u64) -> Result<()>>> {
    let images = Var::from_tensor(images)?;
    let weights = weights.iter().enumerate().map(|(i, shape)| Ok(Var::from_tensor(&noise(&i.to_string(), shape)?)?));
    let weights = weights.collect::<Result<Vec<_>>>()?;
    Ok(Box::new(move |_| {
        layer(&images, &weights)?.sqr()?.mean_all()?.backward()?;
        Ok(())
    }))
}

fn block(x: &Tensor, weights: &[Var]) -> candle_core::Result<Tensor> {
    let x = ops::group_norm(x, &weights[0], &weights[1], 8, 1e-5, true)?;
    ops::conv2d(&x, &weights[2], Some(&weights[3]), Convolution::new(1, 1))
}

fn attention(x: &Tensor, weights: &[Var]) -> candle_core::Result<Tensor> {
    let one = Convolution::new(1, 0);
    let qkv = ops::conv2d(x, &weights[0], Some(&weights[1]), one)?.flatten_from(2)?;
    let mixed = ops::attention(&qkv, 1, (x.dim(1)? as f64).powf(-0.5), Order::Channels)?;
    ops::conv2d(&mixed.reshape(x.shape())?, &weights[2], Some(&weights[3]), one)
}

fn noise(name: &str, shape: &[usize]) -> Result<Tensor> {
    let mut stream = rng::stream(0, "bench", name);
    let values = (0..shape.iter().product()).map(|_| stream.random_range(-1.0f32..1.0)).collect();
    Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
}
