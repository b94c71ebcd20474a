//! One training step at a time, on request, for `benches/compare.py`: reads lines, answers each with milliseconds.
//!
//! `cargo run --release --example step lenet`, then press Enter for a step.

use std::{
    io::{BufRead as _, Write as _},
    time::Instant,
};

use candle_core::{Device, Tensor};
use oodkit::{
    Error, Result,
    config::{Backbone, Loss, Sgd as SgdConfig},
    losses::{Objective, Step},
    nn::{self, Mode, Shape, params::Params},
    rng,
    train::optim::Sgd,
};
use rand::Rng as _;

fn main() -> Result<()> {
    let case = std::env::args().nth(1).unwrap_or_default();
    let (backbone, batch, channels, side) = match case.as_str() {
        "lenet" => ("lenet", 128, 1, 28),
        "wrn40_2" => ("wrn40_2", 64, 3, 32),
        other => return Err(Error::input(format!("no case \"{other}\"")).hint("lenet or wrn40_2")),
    };
    let backbone = Backbone::by_name(backbone).map_err(Error::input)?;
    let device = Device::Cpu;
    let params = Params::new(0, &device);
    let shape = Shape { channels, height: side, width: side, classes: 10 };
    let network = nn::build(&backbone, shape, params.builder())?;
    let objective = Objective::new(&Loss::default())?;
    let config = SgdConfig { lr: 0.01, momentum: 0.9, nesterov: false, weight_decay: 5e-4 };
    let mut optimizer = Sgd::new(&config, params.trainable())?;

    let mut stream = rng::stream(0, "bench", "images");
    let pixels: Vec<f32> = (0..batch * channels * side * side).map(|_| stream.random_range(-1.0..1.0)).collect();
    let images = Tensor::from_vec(pixels, (batch, channels, side, side), &device)?;
    let labels = Tensor::from_vec((0..batch as u32).map(|i| i % 10).collect::<Vec<_>>(), batch, &device)?;

    let mut stdout = std::io::stdout();
    for (step, _) in std::io::stdin().lock().lines().enumerate() {
        let started = Instant::now();
        let outputs = network.forward(&images, Mode::Train { seed: 0, step: step as u64 })?;
        let (loss, _) = objective.value(&Step { outputs: &outputs, labels: &labels })?;
        optimizer.step(&loss.backward()?, config.lr)?;
        let milliseconds = started.elapsed().as_secs_f64() * 1e3;
        writeln!(stdout, "{milliseconds}").and_then(|()| stdout.flush()).map_err(Error::io("write", "stdout"))?;
    }
    Ok(())
}
