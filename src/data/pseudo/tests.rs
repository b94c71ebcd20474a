//! What all makers share: the list, the pool, and that an image is its place in it.

use std::{borrow::Cow, sync::Arc};

use garde::Validate as _;
use rayon::prelude::*;

use super::*;
pub(super) use crate::data::augment::tests::spread_evenly;
use crate::{data::Split, rng::stream};

/// A part of `tests/golden/pseudo.json`, which `pseudo.py` made.
pub(super) fn golden(part: &str) -> serde_json::Value {
    let golden: serde_json::Value = serde_json::from_str(include_str!("../../../tests/golden/pseudo.json")).unwrap();
    golden[part].clone()
}

/// A set of images of these bytes.
fn set_of(shape: [usize; 3], bytes: Vec<u8>) -> ImageSet {
    let files = ["good/000.png", "good/001.png", "good/002.png"].map(str::to_owned);
    ImageSet { files: Some(Arc::new(files.into())), ..ImageSet::unlabelled("surfaces", Split::Train, shape, bytes) }
}

/// One image of one level.
pub(super) fn flat(shape: [usize; 3], level: u8) -> ImageSet {
    set_of(shape, vec![level; shape.iter().product()])
}

/// One image whose rows differ by 7 levels and columns by 1, modulo 256.
pub(super) fn numbered([channels, height, width]: [usize; 3]) -> ImageSet {
    let level = |at: usize| (at / width * 7 + at % width) as u8;
    set_of([channels, height, width], (0..height * width).map(level).collect::<Vec<u8>>().repeat(channels))
}

/// Three images of waves and noise.
fn surfaces([channels, height, width]: [usize; 3]) -> ImageSet {
    let mut rng = stream(0, "surfaces", "");
    let length = channels * height * width;
    let level = |at: usize| {
        let (y, x, image) = ((at / width % height) as f64, (at % width) as f64, (at / length) as f64);
        (120.0 + 60.0 * (0.3 * x + image).sin() * (0.2 * y).cos() + rng.random_range(-8.0..8.0)) as u8
    };
    set_of([channels, height, width], (0..3 * length).map(level).collect())
}

/// What settings make of the first image, and that image.
pub(super) fn made<'a>(settings: &impl Maker, set: &'a ImageSet, draw: u64) -> (Made, Cow<'a, [u8]>) {
    let foreground = Foreground::default();
    let source = Source::new(set, 0, &foreground).unwrap();
    (settings.make(&source, &mut stream(draw, "made", "")).unwrap(), set.image(0).unwrap())
}

/// Whether a number is another, within a tolerance.
pub(super) fn near(value: f64, expected: f64, tolerance: f64) {
    assert!((value - expected).abs() <= tolerance, "{value} is not within {tolerance} of {expected}");
}

fn all() -> Vec<Pseudo> {
    Pseudo::NAMES.iter().map(|name| Pseudo::by_name(name).unwrap()).collect()
}

fn pool(make: &[Pseudo], images: &ImageSet, entry: usize, seed: u64) -> Result<Made> {
    made_of(make, &Marks::default(), &Foreground::default(), images, entry, seed)
}

#[test]
fn a_list_has_words_and_maps() {
    let read = |yaml: &str| serde_saphyr::from_str::<Vec<Pseudo>>(yaml);
    let list = read("[cutpaste, { confetti: { weight: 2 } }]").unwrap();
    assert_eq!(
        list.iter().map(|maker| (maker.name(), maker.weight())).collect::<Vec<_>>(),
        [("cutpaste", 1.0), ("confetti", 2.0)]
    );
    assert_eq!(read("[cutpaste, { scar: {} }]").unwrap()[1], Pseudo::by_name("scar").unwrap());
    let message = read("[cutpast]").unwrap_err().to_string();
    assert!(message.contains("unknown name `cutpast` (did you mean \"cutpaste\"?)"), "{message}");
    // What is wrong by itself is found without an image.
    for (yaml, problem) in [
        ("cutpaste: { area: [0.15, 0.02] }", "the first is above the second"),
        ("cutpaste: { area: [0.1, 1.2] }", "greater than 1"),
        ("scar: { width: [16, 2] }", "the first is above the second"),
        ("confetti: { sides: [54, 8] }", "the first is above the second"),
        ("confetti: { kernel: 24 }", "must be odd"),
        ("perlin: { cells: [3, 1] }", "the first is above the second"),
        ("nsa: { resize: [2, 1] }", "the first is above the second"),
        ("nsa: { weight: -1 }", "lower than 0"),
    ] {
        let maker: Pseudo = serde_saphyr::from_str(yaml).unwrap();
        let report = maker.validate().unwrap_err().to_string();
        assert!(report.contains(problem), "{yaml}: {report}");
    }
    all().iter().for_each(|maker| maker.validate().unwrap());
}

#[test]
fn what_is_larger_than_the_image_is_refused() {
    let problem = |yaml: &str, shape| serde_saphyr::from_str::<Pseudo>(yaml).unwrap().check(shape).unwrap_err();
    assert!(
        problem("cutpaste: { area: [0.9, 0.95], aspect: [3, 3] }", [3, 64, 64]).starts_with("area: a paste of 0.95")
    );
    assert!(problem("scar: { length: [10, 300] }", [3, 64, 64]).starts_with("width: a strip of 16 by 300 pixels"));
    assert!(problem("confetti: { sides: [8, 300] }", [1, 64, 64]).starts_with("sides: a square of 300 pixels of 256"));
    assert!(problem("nsa: { half: [0.5, 0.6] }", [1, 64, 64]).starts_with("half: a paste of twice 0.5"));
    for shape in [[1, 64, 64], [3, 256, 256], [3, 96, 256], [1, 16, 16]] {
        all().iter().for_each(|maker| assert_eq!(maker.check(shape), Ok(()), "{} {shape:?}", maker.name()));
    }
}

#[test]
fn every_maker_changes_a_part_of_grey_and_colour_images_of_every_shape() {
    let exact: Marks = serde_saphyr::from_str("changed: { median: 1 }").unwrap();
    for shape in [[1, 64, 64], [3, 64, 64], [3, 40, 90], [3, 90, 40], [1, 16, 16]] {
        let set = surfaces(shape);
        for maker in all() {
            for entry in 0..12 {
                let make = [maker.clone()];
                let made = made_of(&make, &exact, &Foreground::default(), &set, entry, 1).unwrap();
                let before = set.image(entry % 3).unwrap();
                assert_eq!((made.image.len(), made.mask.len()), (before.len(), shape[1] * shape[2]));
                // The mask is of pixels that differ by more than the tolerance on average, and of no others.
                for at in 0..made.mask.len() {
                    let planes = (0..shape[0]).map(|channel| channel * made.mask.len() + at);
                    let change: u32 = planes.map(|at| u32::from(made.image[at].abs_diff(before[at]))).sum();
                    let marked = change > shape[0] as u32;
                    assert_eq!(made.mask[at] == 1, marked, "{} {shape:?} {entry}", maker.name());
                }
                assert!(made.mask.contains(&1));
            }
        }
    }
}

#[test]
fn an_image_is_its_seed_maker_and_entry_alone() {
    let set = surfaces([3, 48, 48]);
    let mix = all();
    let one_by_one: Vec<Made> = (0..60).map(|entry| pool(&mix, &set, entry, 7).unwrap()).collect();
    let at_once: Vec<Made> =
        (0..60_usize).into_par_iter().rev().map(|entry| pool(&mix, &set, entry, 7).unwrap()).collect();
    assert!(one_by_one.iter().eq(at_once.iter().rev()));
    assert!((0..60).all(|entry| pool(&mix, &set, entry, 8).unwrap() != one_by_one[entry]));
    // Entries of one image differ, and every maker takes part.
    assert!((0..57).all(|entry| one_by_one[entry] != one_by_one[entry + 3]));
    // Another mix, or another place in it, leaves the images of a maker as they are.
    let alone = |maker: &Pseudo, entry| pool(std::slice::from_ref(maker), &set, entry, 7).unwrap();
    for maker in &mix {
        assert!((0..60).any(|entry| alone(maker, entry) == one_by_one[entry]), "{}", maker.name());
    }
    assert!((0..60).all(|entry| mix.iter().any(|maker| alone(maker, entry) == one_by_one[entry])));
}

#[test]
fn makers_are_drawn_by_their_weights() {
    let list: Vec<Pseudo> =
        serde_saphyr::from_str("[{ cutpaste: { weight: 0.25 } }, { scar: { weight: 0.25 } }, { nsa: { weight: 0 } }, { confetti: { weight: 0.5 } }]")
            .unwrap();
    let mut counts = std::collections::BTreeMap::new();
    for entry in 0..8000 {
        *counts.entry(list[place(&list, entry, 3).unwrap()].name()).or_insert(0.0) += 1.0;
    }
    assert!(!counts.contains_key("nsa"));
    near(counts["cutpaste"], 2000.0, 200.0);
    near(counts["scar"], 2000.0, 200.0);
    near(counts["confetti"], 4000.0, 230.0);
    let none: Vec<Pseudo> = serde_saphyr::from_str("[{ nsa: { weight: 0 } }]").unwrap();
    let message = pool(&none, &flat([1, 16, 16], 0), 0, 0).unwrap_err().to_string();
    assert_eq!(message, "make: no maker has a weight above 0");
}

#[test]
fn an_image_that_cannot_be_changed_is_named() {
    // A paste of one colour on itself changes nothing, and the region is marked nevertheless.
    let set = flat([1, 32, 32], 0);
    let make: Vec<Pseudo> = serde_saphyr::from_str("[{ cutpaste: { jitter: 0 } }]").unwrap();
    let message = pool(&make, &set, 3, 0).unwrap_err().to_string();
    assert_eq!(message, "make: cutpaste makes no pixel of good/000.png of \"surfaces\" anomalous in 50 draws");
    let region: Marks = serde_saphyr::from_str("region").unwrap();
    let made = made_of(&make, &region, &Foreground::default(), &set, 3, 0).unwrap();
    assert!(made.mask.contains(&1) && made.image == vec![0; 1024]);
    let border: Foreground = serde_saphyr::from_str("border").unwrap();
    let message = made_of(&make, &region, &border, &set, 0, 0).unwrap_err().to_string();
    let expected =
        "foreground: no pixel differs by more than 60 from the border's median colour in good/000.png of \"surfaces\"";
    assert_eq!(message, expected);
    let empty = set.take(0);
    assert_eq!(
        pool(&make, &empty, 0, 0).unwrap_err().to_string(),
        "pseudo-anomalies: data set \"surfaces\" has no images"
    );
}

#[test]
fn with_a_foreground_changes_touch_the_object() {
    // A dark square of 24 in a bright image of 96.
    let mut set = surfaces([3, 96, 96]);
    let dark = |at: usize| (36..60).contains(&(at / 96 % 96)) && (50..74).contains(&(at % 96));
    let bytes = set.read(&[0, 1, 2]).unwrap();
    set.pixels = bytes.iter().enumerate().map(|(at, byte)| if dark(at) { byte / 3 } else { 230 + byte / 16 }).collect();
    let border: Foreground = serde_saphyr::from_str("border").unwrap();
    for maker in all() {
        let touched = |foreground: &Foreground| {
            let hits = (0..60).filter(|entry| {
                let made =
                    made_of(std::slice::from_ref(&maker), &Marks::default(), foreground, &set, *entry, 2).unwrap();
                (0..96 * 96).any(|at| made.mask[at] == 1 && dark(at))
            });
            hits.count()
        };
        let (with, without) = (touched(&border), touched(&Foreground::default()));
        // A first square of confetti may be light enough to change nothing, if it is small.
        assert!(with >= 58 && with > without, "{}: {with} with, {without} without", maker.name());
    }
}

#[test]
#[ignore = "a measurement: cargo test --release --lib pseudo::tests::cost -- --ignored --nocapture"]
fn cost() {
    for channels in [1, 3] {
        let set = surfaces([channels, 256, 256]);
        for name in ["none", "border: { threshold: 5 }"] {
            let foreground: Foreground = serde_saphyr::from_str(name).unwrap();
            for maker in all() {
                let start = std::time::Instant::now();
                for entry in 0..200 {
                    made_of(std::slice::from_ref(&maker), &Marks::default(), &foreground, &set, entry, 0).unwrap();
                }
                let each = start.elapsed().as_secs_f64() * 1000.0 / 200.0;
                println!("{} of {channels}×256×256, foreground {name}: {each:.2} ms", maker.name());
            }
        }
    }
}

/// The image number `entry` of the pool, of the set's image as it is.
fn made_of(
    make: &[Pseudo],
    marks: &Marks,
    foreground: &Foreground,
    set: &ImageSet,
    entry: usize,
    seed: u64,
) -> Result<Made> {
    let image = if set.is_empty() { Cow::Borrowed(&[][..]) } else { set.image(entry % set.len())? };
    of(make, marks, foreground, (set, set.shape()), (entry, &image), seed)
}
