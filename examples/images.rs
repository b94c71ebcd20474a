//! What sets of image files cost, for `benches/run-images`.
//!
//! `images make FOLDER IMAGES CLASSES SIDE` writes class folders of small images, JPEG and PNG in turn. `images read FOLDER MIB SIDE` lists
//! them, takes their digest, and makes the batches of one epoch and of one pass to score; images may take MIB. It prints seconds,
//! microseconds an image, and the most memory that the process has held.

mod common;

use std::{fs, path::Path, sync::Arc, time::Instant};

use candle_core::Device;
use image::{Rgb, RgbImage};
use oodkit::{
    Error, Result,
    data::{
        self, Dataset, Format, Normalisation, Size, Split,
        augment::Plain,
        batches::{Source, TrainBatches, in_order, steps_per_epoch},
    },
    rng,
};
use rand::Rng as _;
use rayon::prelude::*;

// As in the program.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Images a batch.
const BATCH: usize = 128;

fn main() -> Result<()> {
    oodkit::ops::keep_freed_memory();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize| -> Result<usize> {
        let given = arguments.get(index).ok_or_else(|| Error::input("a number is missing"))?;
        given.parse().map_err(|_| Error::input(format!("\"{given}\" is not a number")))
    };
    let folder = || arguments.get(1).map(Path::new).ok_or_else(|| Error::input("a folder is missing"));
    match arguments.first().map(String::as_str) {
        Some("make") => make(folder()?, number(2)?, number(3)?, number(4)?),
        Some("read") => read(folder()?, number(2)? as u64, number(3)?),
        _ => Err(Error::input("`make FOLDER IMAGES CLASSES SIDE` or `read FOLDER MIB SIDE`")),
    }
}

/// Smooth images with noise, so that they compress as photographs do.
fn make(folder: &Path, images: usize, classes: usize, side: usize) -> Result<()> {
    let one = |index: usize| -> Result<()> {
        let class = folder.join(format!("set/train/{:04}", index % classes));
        fs::create_dir_all(&class).map_err(Error::io("create", &class))?;
        let mut rng = rng::stream(0, "images", &index.to_string());
        let [red, green, blue]: [u8; 3] = rng.random();
        let image = RgbImage::from_fn(side as u32, side as u32, |x, y| {
            let noise: u8 = rng.random_range(0..16);
            Rgb([red.wrapping_add((3 * x) as u8), green.wrapping_add((2 * y) as u8), blue].map(|value| value ^ noise))
        });
        let file = class.join(format!("{index:07}.{}", if index.is_multiple_of(2) { "jpg" } else { "png" }));
        image.save(&file).map_err(|error| Error::Failed(format!("{}: {error}", file.display())))
    };
    (0..images).into_par_iter().try_for_each(one)
}

fn read(root: &Path, memory: u64, side: usize) -> Result<()> {
    let (format, size) = (Some(Format::ClassFolders), Some(Size::Square(side)));
    let dataset = Dataset { format, size, channels: Some(3), ..Dataset::named("set") };
    let begun = Instant::now();
    let set = data::load_as(&dataset, Split::Train, root, None, Some(memory << 20))?;
    let form = if set.pixels.held().is_some() { "held" } else { "decoded as needed" };
    let images = set.len();
    println!("{images} images of {:?}, {form}", set.shape());
    let print = |what: &str, begun: Instant| {
        let seconds = begun.elapsed().as_secs_f64();
        println!(
            "{what:<8} {seconds:7.2} s {:7.1} us an image, peak {} MiB",
            1e6 * seconds / images as f64,
            common::peak()
        );
    };
    print("list", begun);
    let begun = Instant::now();
    let digest = set.sha256()?;
    print("digest", begun);
    let set = Arc::new(set);
    let normalisation = Normalisation { mean: vec![0.5; 3], std: vec![0.25; 3] };
    let source = Source {
        images: set.clone(),
        labelled: true,
        outliers: None,
        made: None,
        normalisation: normalisation.clone(),
        augment: Plain { flip: true.into(), crop_padding: 4, ..Plain::default() }.into(),
        window: None,
        round: None,
        batch_size: BATCH,
        drop_last: false,
        seed: 0,
        device: Device::Cpu,
    };
    let begun = Instant::now();
    for batch in TrainBatches::new(source, 0..steps_per_epoch(images, BATCH, false))? {
        batch?;
    }
    print("epoch", begun);
    let begun = Instant::now();
    in_order(&set, BATCH, &normalisation, &Device::Cpu, |_, _| Ok(()))?;
    print("pass", begun);
    println!("SHA-256 {digest}");
    Ok(())
}
