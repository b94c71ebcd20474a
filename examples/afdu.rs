//! What AFDU costs, for `benches/afdu.py`: one line of JSON.
//!
//! `afdu network lenet TRAIN TEST` fits all neurons of a network with random weights on TRAIN random images and scores TEST;
//! `afdu neurons COUNT TRAIN TEST CLUSTERS` does so for COUNT made-up normal neurons, with both engines.

mod common;

use std::{sync::Arc, time::Instant};

use candle_core::{Device, Tensor};
use oodkit::{
    Error, Result,
    detectors::{
        Batches, LayerShape,
        afdu::{Config, Engine, Tap, fit, score},
    },
    nn::{
        self, Backbone, Model, Pass, Shape, Shown,
        params::Params,
        pass::{Layer, Side},
    },
    ops::Activation,
    rng,
};
use rand_distr::{Distribution, StandardNormal};

// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Images a batch: what the program takes for these networks.
const BATCH: usize = 256;

fn main() -> Result<()> {
    oodkit::ops::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| -> Result<usize> {
        let given = arguments.get(index).ok_or_else(|| Error::input("a number is missing"))?;
        given.parse().map_err(|_| Error::input(format!("\"{given}\" is not a number")))
    };
    match arguments.first().map(String::as_str) {
        Some("network") => network(&arguments[1], number(2)?, number(3)?),
        Some("neurons") => neurons(number(1)?, number(2)?, number(3)?, number(4)?),
        _ => Err(Error::input("`network lenet|vgg19_bn TRAIN TEST` or `neurons COUNT TRAIN TEST CLUSTERS`")),
    }
}

fn seconds<T>(body: impl FnOnce() -> Result<T>) -> Result<(f64, T)> {
    let begun = Instant::now();
    let result = body()?;
    Ok((begun.elapsed().as_secs_f64(), result))
}

/// Seconds of processor time that all threads have taken: what a busy machine does not change much.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name, which may hold anything: user and system time in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

fn network(name: &str, train: usize, test: usize) -> Result<()> {
    let shape = if name == "lenet" { [1, 28, 28] } else { [3, 32, 32] };
    let backbone = Backbone::by_name(name).map_err(Error::input)?;
    let params = Params::new(0, &Device::Cpu);
    let [channels, height, width] = shape;
    let network =
        nn::build(&backbone.into(), Shape { channels, height, width, classes: 10 }, params.builder())?.folded()?;
    let network: Arc<dyn Model> = network.into();
    let set = |images| Watched { network: network.clone(), shape, images: (0..images).collect() };
    let (train, test) = (set(train), set(test));
    let config = Config { tap: Tap::Pre, ..Config::default() };
    let (fit_seconds, fitted) = seconds(|| fit::fit(&config, &train, 2 << 30, None))?;
    // In turn, so that whatever else the machine does falls on both.
    let (mut forward, mut scored, mut processor) = (f64::INFINITY, f64::INFINITY, [f64::INFINITY; 2]);
    for _ in 0..3 {
        let begun = processor_seconds();
        forward = forward.min(seconds(|| test.plain())?.0);
        let between = processor_seconds();
        scored = scored.min(seconds(|| score::scores(&fitted, &test))?.0);
        processor = [processor[0].min(between - begun), processor[1].min(processor_seconds() - between)];
    }
    let exact = Config { engine: Engine::Exact, ..config };
    let few = Watched { images: test.images[..test.images.len().div_ceil(20)].to_vec(), ..test.clone() };
    let (neurons, passes, tables) = (fitted.record.neurons, fitted.record.passes, fitted.record.tables.clone());
    let peak = common::peak();
    drop(fitted);
    // Clusters take more than tables: 4.6 GiB for VGG19.
    let (exact_fit_seconds, fitted) = seconds(|| fit::fit(&exact, &train, 8 << 30, None))?;
    let (exact, _) = seconds(|| score::scores(&fitted, &few))?;
    let line = serde_json::json!({
        "neurons": neurons, "train": train.images(), "test": test.images(), "passes": passes,
        "fit_seconds": fit_seconds, "forward_seconds": forward, "tabulated_seconds": scored, "peak_mib": peak,
        "forward_processor_seconds": processor[0], "tabulated_processor_seconds": processor[1],
        "exact_fit_seconds": exact_fit_seconds, "exact_seconds_per_image": exact / few.images() as f64,
        "largest_table_error": tables.as_ref().map(|tables| tables.largest_table_error),
        "mean_table_error": tables.as_ref().map(|tables| tables.mean_table_error),
    });
    println!("{line}");
    Ok(())
}

fn neurons(count: usize, train: usize, test: usize, clusters: usize) -> Result<()> {
    let made = |images: usize, name: &str| -> Result<Made> {
        let values: Vec<f32> =
            StandardNormal.sample_iter(&mut rng::stream(0, "afdu bench", name)).take(images * count).collect();
        Ok(Made { values: Tensor::from_vec(values, (images, count), &Device::Cpu)? })
    };
    let (train, test) = (made(train, "train")?, made(test, "test")?);
    let mut line = serde_json::json!({ "neurons": count, "train": train.images(), "test": test.images() });
    for (engine, name) in [(Engine::Tabulated, "tabulated"), (Engine::Exact, "exact")] {
        let config = Config { engine, clusters, ..Config::default() };
        let (mut fitting, mut scoring) = (f64::INFINITY, f64::INFINITY);
        for _ in 0..3 {
            let (spent, fitted) = seconds(|| fit::fit(&config, &train, 2 << 30, None))?;
            fitting = fitting.min(spent);
            scoring = scoring.min(seconds(|| score::scores(&fitted, &test))?.0);
        }
        line[format!("{name}_fit_us_per_neuron")] = (1e6 * fitting / count as f64).into();
        line[format!("{name}_ns_per_value")] = (1e9 * scoring / (count * test.images()) as f64).into();
    }
    line["peak_mib"] = common::peak().into();
    println!("{line}");
    Ok(())
}

/// A network on random images, each drawn from its number.
#[derive(Clone)]
struct Watched {
    network: Arc<dyn Model>,
    shape: [usize; 3],
    images: Vec<usize>,
}

impl std::fmt::Debug for Watched {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Watched").finish_non_exhaustive()
    }
}

impl Watched {
    /// Images are noise on one of eight patterns, made anew for each pass from few random numbers, so that they cost little.
    fn batch(&self, images: &[usize]) -> Result<Tensor> {
        let [channels, height, width] = self.shape;
        let pixels = channels * height * width;
        let mut values = Vec::with_capacity(images.len() * pixels);
        for image in images {
            let mut state = *image as u32 ^ 0x9E37_79B9;
            for pixel in 0..pixels {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let pattern = ((pixel * (image % 8 + 1)) % 17) as f32 / 17.0;
                values.push(pattern + (state >> 8) as f32 / (1 << 24) as f32 - 1.0);
            }
        }
        Ok(Tensor::from_vec(values, (images.len(), channels, height, width), &Device::Cpu)?)
    }

    /// The pass that needs no neurons.
    fn plain(&self) -> Result<()> {
        for images in self.images.chunks(BATCH) {
            self.network.show(&self.batch(images)?, &Pass::eval())?;
        }
        Ok(())
    }
}

impl Batches for Watched {
    fn images(&self) -> usize {
        self.images.len()
    }

    fn layers(&self) -> Result<Vec<LayerShape>> {
        let batch = self.batch(&self.images[..1])?;
        let pass = Pass::eval().keeping_layers(Side::Before);
        Ok(self.network.show(&batch, &pass)?.layers.iter().map(LayerShape::from).collect())
    }

    fn pass(&self, _: &str, _: bool, each: &mut dyn FnMut(usize, &Shown) -> Result<()>) -> Result<()> {
        for (index, images) in self.images.chunks(BATCH).enumerate() {
            let batch = self.batch(images)?;
            let pass = Pass::eval().keeping_layers(Side::Before);
            each(index * BATCH, &self.network.show(&batch, &pass)?)?;
        }
        Ok(())
    }

    fn subset(&self, images: &[usize]) -> Result<Arc<dyn Batches>> {
        Ok(Arc::new(Self { images: images.iter().map(|image| self.images[*image]).collect(), ..self.clone() }))
    }
}

/// One layer in memory.
#[derive(Debug)]
struct Made {
    values: Tensor,
}

impl Batches for Made {
    fn images(&self) -> usize {
        self.values.dims()[0]
    }

    fn layers(&self) -> Result<Vec<LayerShape>> {
        Ok(vec![LayerShape {
            name: "made".into(),
            dims: self.values.dims()[1..].to_vec(),
            activation: Activation::Identity,
        }])
    }

    fn pass(&self, _: &str, _: bool, each: &mut dyn FnMut(usize, &Shown) -> Result<()>) -> Result<()> {
        for start in (0..self.images()).step_by(BATCH) {
            let values = self.values.narrow(0, start, BATCH.min(self.images() - start))?;
            let layers = vec![Layer { name: "made".into(), values, activation: Activation::Identity }];
            each(start, &Shown { layers, ..Shown::default() })?;
        }
        Ok(())
    }

    fn subset(&self, _: &[usize]) -> Result<Arc<dyn Batches>> {
        Err(Error::Failed("all images are read".into()))
    }
}
