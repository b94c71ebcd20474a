//! Images against Pillow's, drawn parameters against torchvision's distributions (tests/golden/augment.py).

use serde_json::Value;

use super::{
    affine::{self, Look},
    rand_augment::Kind,
    *,
};
use crate::{
    data::augment::{
        ColorJitter, Crop, Cutout, Erasing, Fill, Interpolation, RandAugment, ResizedCrop, Rotation, Spread,
    },
    rng::stream,
};

fn golden() -> Value {
    serde_json::from_str(include_str!("../../../tests/golden/augment.json")).unwrap()
}

fn of<T: serde::de::DeserializeOwned>(value: &Value) -> T {
    serde_json::from_value(value.clone()).unwrap()
}

fn norm() -> Normalisation {
    Normalisation { mean: vec![0.2, 0.4, 0.6], std: vec![0.1, 0.2, 0.3] }
}

fn about(normalisation: &Normalisation) -> About<'_> {
    About { normalisation, mirrored: false }
}

#[test]
fn images_are_pillows_to_the_byte() {
    let golden = golden();
    let images: Vec<Image> = golden["images"]
        .as_array()
        .unwrap()
        .iter()
        .map(|image| {
            let [_, height, width]: [usize; 3] = of(&image["shape"]);
            Image { height, width, bytes: of(&image["bytes"]) }
        })
        .collect();
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 100);
    for case in cases {
        let mut image = images[of::<usize>(&case["image"])].clone();
        let number = |key: &str| of::<f64>(&case[key]);
        let look = || Look {
            interpolation: if of(&case["bilinear"]) { Interpolation::Bilinear } else { Interpolation::Nearest },
            fill: of(&case["fill"]),
        };
        let kind: String = of(&case["kind"]);
        match kind.as_str() {
            "horizontal_flip" | "vertical_flip" => {
                let list = of(&serde_json::json!([{ kind.as_str(): { "p": 1.0 } }]));
                let (shape, n) = ([image.planes().len(), image.height, image.width], norm());
                change(&mut image.bytes, shape, &Vec::<Change>::clone(&list), &about(&n), &mut stream(0, "", ""));
            }
            "random_crop" => {
                let (padding, fill) = (of(&case["padding"]), of(&case["fill"]));
                let settings = Crop { padding, padding_mode: of(&case["mode"]), fill };
                crop::cut_padded(&mut image, of(&case["top"]), of(&case["left"]), &settings);
            }
            "resized_crop" => {
                image = crop::resize(&crop::cut(&image, of(&case["window"])), image.height, image.width);
            }
            "resize" => {
                let [height, width]: [usize; 2] = of(&case["size"]);
                image = crop::resize(&image, height, width);
            }
            "rotate" => affine::rotate(&mut image, number("degrees"), look()),
            "shear" if case["axis"] == "x" => affine::shear_x(&mut image, number("by"), look()),
            "shear" => affine::shear_y(&mut image, number("by"), look()),
            "translate" => affine::translate(&mut image, of(&case["by"]), look()),
            "brightness" => colour::adjust_brightness(&mut image, number("factor")),
            "contrast" => colour::adjust_contrast(&mut image, number("factor")),
            "saturation" => colour::adjust_saturation(&mut image, number("factor")),
            "sharpness" => colour::adjust_sharpness(&mut image, number("factor")),
            "hue" => colour::turn_hue(&mut image, number("turns")),
            "posterize" => colour::posterize(&mut image, of(&case["bits"])),
            "solarize" => colour::solarize(&mut image, number("threshold")),
            "auto_contrast" => colour::stretch(&mut image),
            "equalize" => colour::equalize(&mut image),
            other => panic!("{other}"),
        }
        let parameters: Vec<_> = case.as_object().unwrap().iter().filter(|(key, _)| *key != "expected").collect();
        assert_eq!(image.bytes, of::<Vec<u8>>(&case["expected"]), "{parameters:?}");
    }
}

#[test]
fn colours_are_pillows_over_the_whole_cube() {
    let checks = &golden()["colours"];
    let levels: Vec<u8> = (0..=255).step_by(of(&checks["step"])).collect();
    let sum = |of: fn([u8; 3]) -> [u8; 3]| {
        let colours = levels.iter().flat_map(|r| levels.iter().flat_map(|g| levels.iter().map(|b| [*r, *g, *b])));
        let bytes = colours.flat_map(of);
        bytes.zip(1_u64..).map(|(byte, at)| u64::from(byte) * (at % 9973)).sum::<u64>()
    };
    assert_eq!(sum(colour::hsv), of::<u64>(&checks["to_hsv"]));
    assert_eq!(sum(colour::rgb), of::<u64>(&checks["to_rgb"]));
}

#[test]
fn windows_have_torchvisions_distribution() {
    const DRAWS: usize = 20_000;
    for case in golden()["moments"].as_array().unwrap() {
        let (height, width): (usize, usize) = (of(&case["height"]), of(&case["width"]));
        let (scale, ratio) = (of(&case["scale"]), of(&case["ratio"]));
        let resized = case["kind"] == "random_resized_crop";
        let mut rng = stream(3, "windows", "");
        let draws: Vec<[usize; 4]> = (0..DRAWS)
            .map(|_| match resized {
                true => crop::window(height, width, &ResizedCrop { scale, ratio }, &mut rng),
                false => {
                    let settings = Erasing { scale, ratio, ..Erasing::default() };
                    erase::window(height, width, &settings, &mut rng).unwrap_or_default()
                }
            })
            .collect();
        let (means, stds): ([f64; 4], [f64; 4]) = (of(&case["mean"]), of(&case["std"]));
        for part in 0..4 {
            assert!(draws.iter().all(|d| d[0] + d[2] <= height && d[1] + d[3] <= width));
            let values = || draws.iter().map(|draw| draw[part] as f64);
            let mean = values().sum::<f64>() / DRAWS as f64;
            let std = (values().map(|value| (value - mean).powi(2)).sum::<f64>() / DRAWS as f64).sqrt();
            let error = 5.0 * (stds[part] + 1e-9) / (DRAWS as f64).sqrt();
            assert!((mean - means[part]).abs() < error, "{case}: {part}: {mean}");
            assert!((std - stds[part]).abs() < 2.0 * error, "{case}: {part}: {std}");
        }
    }
}

/// Whether values are spread evenly over a range: a share in each of ten bins, within five standard errors.
pub(in crate::data) fn spread_evenly(values: &[f64], [from, to]: [f64; 2]) {
    let mut bins = [0_usize; 10];
    for value in values {
        assert!((from..=to).contains(value), "{value}");
        bins[(((value - from) / (to - from) * 10.0) as usize).min(9)] += 1;
    }
    let n = values.len() as f64;
    for bin in bins {
        assert!((bin as f64 - 0.1 * n).abs() < 5.0 * (0.09 * n).sqrt(), "{bins:?}");
    }
}

#[test]
fn jitter_draws_evenly_and_in_every_order() {
    let settings: ColorJitter =
        serde_saphyr::from_str("{ brightness: 0.4, contrast: [0.5, 0.9], saturation: 3, hue: 0.2 }").unwrap();
    let mut rng = stream(4, "jitter", "");
    let draws: Vec<_> = (0..12_000).map(|_| colour::draw(&settings, &mut rng)).collect();
    for (part, range) in [[0.6, 1.4], [0.5, 0.9], [0.0, 4.0], [-0.2, 0.2]].into_iter().enumerate() {
        spread_evenly(&draws.iter().map(|(_, values)| values[part]).collect::<Vec<_>>(), range);
    }
    let mut orders = std::collections::BTreeMap::new();
    draws.iter().for_each(|(order, _)| *orders.entry(order).or_insert(0) += 1);
    assert_eq!(orders.len(), 24);
    assert!(orders.values().all(|count| (400..600).contains(count)), "{orders:?}");
    // What is not asked for changes nothing.
    let mut image = Image { height: 1, width: 2, bytes: vec![1, 2, 3, 90, 150, 255] };
    let before = image.clone();
    ColorJitter::default().alter(&mut image, &about(&norm()), &mut rng);
    assert_eq!(image, before);
}

#[test]
fn rand_augment_draws_each_change_evenly_up_and_down() {
    let settings = RandAugment::default();
    let mut rng = stream(5, "kinds", "");
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..28_000 {
        let kind = format!("{:?}", rand_augment::draw(331, 662, &settings, &mut rng));
        *counts.entry(kind).or_insert(0_usize) += 1;
    }
    // Strength 9 of 0..=30: 0.3 of the most.
    let signed = [("ShearX", 0.09), ("ShearY", 0.09), ("TranslateX", 90.0), ("TranslateY", 45.0), ("Rotate", 9.0)];
    let enhanced = ["Brightness", "Color", "Contrast", "Sharpness"].map(|name| (name, 0.27));
    let mut seen = 0;
    for (name, strength) in signed.into_iter().chain(enhanced) {
        for sign in [-1.0, 1.0] {
            let near = |kind: &str| -> bool {
                let Some(value) = kind.strip_prefix(name).and_then(|rest| rest.strip_prefix('(')) else { return false };
                (value.trim_end_matches(')').parse::<f64>().unwrap() - sign * strength).abs() < 1e-9
            };
            let count: usize = counts.iter().filter(|(kind, _)| near(kind)).map(|(_, count)| count).sum();
            assert!((850..1150).contains(&count), "{name} {sign}: {count}");
            seen += count;
        }
    }
    for name in ["Identity", "Posterize(7)", "Solarize(178.5)", "AutoContrast", "Equalize"] {
        let count = counts[name];
        assert!((1800..2200).contains(&count), "{name}: {count}");
        seen += count;
    }
    assert_eq!(seen, 28_000);
    // An image takes the change that was drawn.
    let mut image = Image { height: 1, width: 3, bytes: vec![10, 200, 130] };
    let look = Look { interpolation: Interpolation::Nearest, fill: 0 };
    rand_augment::apply(&mut image, Kind::Solarize(178.5), look);
    assert_eq!(image.bytes, [10, 55, 130]);
    rand_augment::apply(&mut image, Kind::TranslateX(1.0), look);
    assert_eq!(image.bytes, [0, 10, 55]);
}

#[test]
fn rotations_are_even_and_flips_have_their_chance() {
    // A quarter turn or none, by a range of one value.
    let settings = |range| Rotation { degrees: Spread::Between(range), interpolation: Interpolation::Nearest, fill: 0 };
    let mut rng = stream(6, "rotation", "");
    let mut image = Image { height: 2, width: 2, bytes: vec![1, 2, 3, 4] };
    settings([90.0, 90.0]).alter(&mut image, &about(&norm()), &mut rng);
    assert_eq!(image.bytes, [2, 4, 1, 3]);
    let angles: Vec<f64> = (0..5000).map(|_| even(Spread::About(30.0).about(0.0), &mut rng)).collect();
    spread_evenly(&angles, [-30.0, 30.0]);

    for (name, p) in [("horizontal_flip", 0.5), ("vertical_flip", 0.2)] {
        let list: Vec<Change> = of(&serde_json::json!([{ name: { "p": p } }]));
        let flipped = (0..4000).filter(|_| {
            let mut bytes = [1, 2, 3, 4];
            change(&mut bytes, [1, 2, 2], &list, &about(&norm()), &mut rng);
            bytes != [1, 2, 3, 4]
        });
        let count = flipped.count() as f64;
        assert!((count - 4000.0 * p).abs() < 5.0 * (4000.0 * p * (1.0 - p)).sqrt(), "{name}: {count}");
    }
}

#[test]
fn crops_after_padding_start_everywhere_evenly() {
    let settings = Crop { padding: 1, padding_mode: crate::data::augment::PaddingMode::Constant, fill: 0 };
    let mut rng = stream(7, "crop", "");
    let mut counts = std::collections::BTreeMap::new();
    for _ in 0..9000 {
        let mut image = Image { height: 2, width: 2, bytes: vec![1, 2, 3, 4] };
        settings.alter(&mut image, &about(&norm()), &mut rng);
        *counts.entry(image.bytes).or_insert(0) += 1;
    }
    assert_eq!(counts.len(), 9);
    assert!(counts.values().all(|count| (840..1160).contains(count)), "{counts:?}");
}

#[test]
fn holes_are_where_and_what_they_should_be() {
    // The authors' square: from y − 2 to y + 2 for a length of 4, cut at the border.
    assert_eq!(erase::square(10, 10, [5, 5], 4), [3, 3, 4, 4]);
    assert_eq!(erase::square(10, 10, [0, 9], 4), [0, 7, 2, 3]);
    let blank = || Image { height: 6, width: 8, bytes: vec![9; 3 * 48] };
    let mut rng = stream(8, "holes", "");
    let mut image = blank();
    erase::fill(&mut image, [1, 2, 3, 4], Fill::Mean, &norm(), &mut rng);
    for (plane, level) in image.planes().zip([51, 102, 153]) {
        for (at, pixel) in plane.iter().enumerate() {
            let inside = (1..4).contains(&(at / 8)) && (2..6).contains(&(at % 8));
            assert_eq!(*pixel, if inside { level } else { 9 });
        }
    }
    // A normal draw for each pixel, about the mean and with the std.
    let (mut sum, mut squares, mut n) = (0.0, 0.0, 0.0);
    for _ in 0..200 {
        let mut image = blank();
        erase::fill(&mut image, [0, 0, 6, 8], Fill::Random, &norm(), &mut rng);
        for pixel in image.planes().nth(1).unwrap() {
            let value = (f64::from(*pixel) / 255.0 - 0.4) / 0.2;
            (sum, squares, n) = (sum + value, squares + value * value, n + 1.0);
        }
    }
    assert!((sum / n).abs() < 0.05 && (squares / n - 1.0).abs() < 0.06, "{} {}", sum / n, squares / n);
    // One hole, whose centre is anywhere.
    let settings = Cutout { length: 2, holes: 1, value: Fill::Black };
    let mut hit = [0; 48];
    for _ in 0..4800 {
        let mut image = blank();
        settings.alter(&mut image, &about(&norm()), &mut rng);
        image.planes().next().unwrap().iter().zip(&mut hit).for_each(|(pixel, hit)| *hit += usize::from(*pixel == 0));
    }
    // A pixel inside is in the squares of four centres.
    assert!((300..500).contains(&hit[9]) && (50..150).contains(&hit[47]), "{hit:?}");
    let erased = (0..2000).filter(|_| {
        let mut image = blank();
        Erasing { value: Fill::Black, ..Erasing::default() }.alter(&mut image, &about(&norm()), &mut rng);
        image != blank()
    });
    assert!((880..1120).contains(&erased.count()));
}

#[test]
fn changes_are_made_in_the_order_of_the_list() {
    let changed = |yaml: &str| {
        let list: Vec<Change> = match serde_saphyr::from_str(yaml).unwrap() {
            crate::data::augment::Augment::List(list) => list,
            crate::data::augment::Augment::Plain(_) => panic!("a list"),
        };
        let mut bytes = [10, 20, 30, 40];
        change(&mut bytes, [1, 1, 4], &list, &about(&norm()), &mut stream(0, "order", ""));
        bytes
    };
    let (bright, turn) = ("color_jitter: { brightness: [2, 2] }", "horizontal_flip: { p: 1 }");
    assert_eq!(changed(&format!("[{{ {bright} }}, {{ {turn} }}]")), [80, 60, 40, 20]);
    // A rotation that moves everything out leaves its fill, brightened or not.
    let out = "random_crop: { padding: 9, fill: 7, padding_mode: constant }";
    let first = changed(&format!("[{{ {out} }}, {{ {bright} }}]"));
    let last = changed(&format!("[{{ {bright} }}, {{ {out} }}]"));
    assert!(first.contains(&14) && last.contains(&7), "{first:?} {last:?}");
    assert_eq!(changed("[]"), [10, 20, 30, 40]);
}
