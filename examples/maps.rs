//! What maps cost: their measures, and PatchCore's fit. Called by `benches/pro.py` and by hand.
//!
//! `maps measure MAPS MASKS SIDE` reads f32 maps and u8 masks (0 is normal), SIDE × SIDE each, one after the other and little-endian.
//! `maps patchcore IMAGES SIDE CHANNELS KEPT [MIB]` makes features as they are asked for, SIDE × SIDE positions an image, and fits
//! PatchCore to all their patches; the fit may take MIB. Both print one line of JSON with seconds and the most memory.

#[path = "common/clock.rs"]
mod clock;
mod common;

use std::{
    fs::File,
    io::{BufReader, Read},
    sync::Arc,
};

use candle_core::{Device, Tensor};
use clock::Clock;
use oodkit::{
    Error, Result,
    detectors::{Bank, Batches, DetectorConfig, Fit, LayerShape},
    metrics::pixel::Pixels,
    nn::Shown,
    rng,
};
use rand::Rng as _;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;
use serde_json::{Value, json};

// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// As `evaluation.fit_memory`.
const MEMORY: usize = 2048;
/// Images a batch.
const BATCH: usize = 8;
/// What the channels of made features have in common.
const FACTORS: usize = 24;
/// Positions that share their factors: 4 rows and columns.
const SMOOTH: usize = 4;

fn main() -> Result<()> {
    oodkit::ops::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| -> Result<usize> {
        let given = arguments.get(index).ok_or_else(|| Error::input("a number is missing"))?;
        given.parse().map_err(|_| Error::input(format!("\"{given}\" is not a number")))
    };
    let usage = || Error::input("`maps measure MAPS MASKS SIDE` or `maps patchcore IMAGES SIDE CHANNELS KEPT [MIB]`");
    let found = match arguments.first().map(String::as_str) {
        Some("measure") if arguments.len() == 4 => measure([&arguments[1], &arguments[2]], number(3)?)?,
        Some("patchcore") if arguments.len() >= 5 => {
            let made = Made { images: number(1)?, side: number(2)?, channels: number(3)? };
            let memory = if arguments.len() > 5 { number(5)? } else { MEMORY };
            patchcore(made, number(4)?, memory << 20)?
        }
        _ => return Err(usage()),
    };
    println!("{found}");
    Ok(())
}

fn measure(files: [&String; 2], side: usize) -> Result<Value> {
    let open = |path: &String| File::open(path).map(BufReader::new).map_err(Error::io("read", path));
    let (mut maps, mut masks, mut images) = (open(files[0])?, open(files[1])?, 0);
    let (mut bytes, mut mask) = (vec![0; 4 * side * side], vec![0; side * side]);
    let all = masks.get_ref().metadata().map_err(Error::io("read", files[1]))?.len();
    let mut pixels = Pixels::with_capacity(all as usize);
    // Reading is no part of the measures.
    let mut added = [0.0; 2];
    while masks.read_exact(&mut mask).is_ok() {
        maps.read_exact(&mut bytes).map_err(Error::io("read", files[0]))?;
        let scores: Vec<f32> = bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let mask: Vec<bool> = mask.iter().map(|byte| *byte != 0).collect();
        let begun = Clock::start();
        pixels.add(&scores, Some(&mask), [side; 2])?;
        added = begun.add(added);
        images += 1;
    }
    let begun = Clock::start();
    let found = pixels.measure(0.3).ok_or_else(|| Error::input("no anomalous or no normal pixel"))?;
    let [seconds, cpu] = begun.add(added);
    Ok(json!({
        "images": images, "seconds": seconds, "cpu_seconds": cpu, "peak_mib": common::peak(),
        "pixel_auroc": found.auroc, "pixel_ap": found.ap, "pixel_f1": found.best_f1, "pro": found.pro,
    }))
}

fn patchcore(made: Made, kept: usize, memory: usize) -> Result<Value> {
    let patches = made.images * made.side * made.side;
    let bank = 4 * patches * made.channels;
    let yaml = format!("patchcore: {{ coreset: {{ size: {kept}, subsample: {patches} }} }}");
    let config = serde_saphyr::from_str::<DetectorConfig>(&yaml);
    let config = config.map_err(|error| Error::input(format!("{yaml}: {error}")))?;
    let none = Tensor::zeros((made.images, 1), candle_core::DType::F32, &Device::Cpu)?;
    let before = common::peak();
    let known = Bank { batches: Some(Arc::new(made)), ..Bank::new(none.clone(), none) };
    let begun = Clock::start();
    let scorer = config.build().fit(&Fit { train: Some(&known), head: None, memory, ..Fit::default() })?;
    let [seconds, cpu] = begun.add([0.0; 2]);
    Ok(json!({
        "fit": seconds, "fit_cpu": cpu, "peak_mib": common::peak(), "peak_before_mib": before, "bank_mib": bank >> 20, "record": scorer.record(),
    }))
}

/// Features that are made again for each pass: smooth over the image, with channels that go together, and noise.
#[derive(Debug)]
struct Made {
    images: usize,
    /// Rows and columns of positions.
    side: usize,
    channels: usize,
}

impl Made {
    /// (C, P) of one image.
    fn image(&self, image: usize, mixing: &[f32]) -> Vec<f32> {
        let positions = self.side * self.side;
        let coarse = self.side.div_ceil(SMOOTH);
        let mut rng = rng::stream(0, "maps", &image.to_string());
        let normal = StandardNormal.sample_iter(&mut rng).take(coarse * coarse * FACTORS);
        let factors: Vec<f32> = normal.collect();
        let mut values = vec![0.0; self.channels * positions];
        for (values, mixing) in values.chunks_exact_mut(positions).zip(mixing.chunks_exact(FACTORS)) {
            let of = |factors: &[f32]| mixing.iter().zip(factors).map(|(a, b)| a * b).sum::<f32>();
            let smooth: Vec<f32> = factors.chunks_exact(FACTORS).map(of).collect();
            for (position, value) in values.iter_mut().enumerate() {
                let (row, column) = (position / self.side, position % self.side);
                let noise: f32 = rng.random_range(-1.0..1.0);
                *value = (smooth[row / SMOOTH * coarse + column / SMOOTH] + noise).max(0.0);
            }
        }
        values
    }
}

impl Batches for Made {
    fn images(&self) -> usize {
        self.images
    }

    fn layers(&self) -> Result<Vec<LayerShape>> {
        Ok(Vec::new())
    }

    fn pass(&self, _: &str, _: bool, each: &mut dyn FnMut(usize, &Shown) -> Result<()>) -> Result<()> {
        let mixing: Vec<f32> =
            StandardNormal.sample_iter(&mut rng::stream(0, "maps", "mixing")).take(self.channels * FACTORS).collect();
        for start in (0..self.images).step_by(BATCH) {
            let images = start..(start + BATCH).min(self.images);
            let shape = (images.len(), self.channels, self.side, self.side);
            let values: Vec<Vec<f32>> = images.into_par_iter().map(|image| self.image(image, &mixing)).collect();
            let stages = vec![("stage".to_owned(), Tensor::from_vec(values.concat(), shape, &Device::Cpu)?)];
            each(start, &Shown { stages, ..Shown::default() })?;
        }
        Ok(())
    }

    fn subset(&self, _: &[usize]) -> Result<Arc<dyn Batches>> {
        Err(Error::Failed("made features have no parts".into()))
    }
}
