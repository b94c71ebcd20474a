//! Images as users have them: several sizes, grey among colour, other formats, damaged files, labels that do not fit.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};

/// A folder with images and an experiment.
struct Place {
    folder: tempfile::TempDir,
}

const COLOURS: [[u8; 3]; 3] = [[220, 40, 40], [40, 220, 40], [40, 40, 220]];

/// One of three classes, told by its colour; `variant` makes images differ.
fn picture(class: usize, variant: u8, side: u32) -> RgbImage {
    let [red, green, blue] = COLOURS[class].map(|value| value.saturating_add(variant));
    RgbImage::from_fn(side, side, |x, y| Rgb([red, green, blue.wrapping_add(((x + y) % 7) as u8)]))
}

impl Place {
    /// `class_folders` of 32×32 images: 8 to learn and 4 to test of each class; and 6 OOD images.
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        for class in 0..3 {
            for variant in 0..12 {
                let split = if variant < 8 { "train" } else { "test" };
                place.save(&format!("mine/{split}/c{class}/{variant:02}.png"), picture(class, variant, 32));
            }
        }
        for variant in 0..6 {
            place.save(&format!("others/{variant}.png"), RgbImage::from_pixel(32, 32, Rgb([40 * variant; 3])));
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn save(&self, name: &str, image: impl Into<DynamicImage>) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image.into().save(path).unwrap();
    }

    /// Runs the experiment on `id` with a backbone; the exit code, and what was said.
    fn run_on(&self, backbone: &str, id: &str, ood: &str) -> (Option<i32>, String) {
        let experiment = format!(
            "title: Own images\ndata:\n  id: {id}\n  ood: [{ood}]\nnetworks:\n  base: {{ backbone: {backbone}, train: \
             {{ epochs: 8, batch_size: 8, optimizer: {{ adamw: {{ lr: 0.003 }} }} }} }}\nmethods: [{{ name: MSP, network: base, \
             detector: msp }}]\ntables: [{{ name: all, rows: method, columns: [accuracy, auroc] }}]\n"
        );
        fs::write(self.path("own.yaml"), experiment).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_oodkit"))
            .args(["run", "own.yaml", "--data", ".", "--runs", "runs"])
            .current_dir(self.folder.path())
            .env("NO_COLOR", "1")
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        (output.status.code(), said)
    }

    fn run(&self, id: &str) -> (Option<i32>, String) {
        self.run_on("lenet", id, OTHERS)
    }

    fn trained(&self) -> bool {
        self.path("runs/networks").exists()
    }
}

const OTHERS: &str = "{ name: others, format: folder }";
const MINE: &str = "{ name: mine, format: class_folders, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25] }";

fn mine(more: &str) -> String {
    MINE.replace(" }", &format!(", {more} }}"))
}

/// The accuracy in the printed table.
fn accuracy(said: &str) -> f64 {
    let row = said.lines().find(|line| line.trim_start().starts_with("MSP ")).unwrap_or_else(|| panic!("{said}"));
    row.split_whitespace().nth(1).unwrap().trim_start_matches('*').parse().unwrap()
}

#[test]
fn one_test_image_of_another_size_changes_nothing_for_the_others() {
    for backbone in ["lenet", "wrn10_1"] {
        let backbone =
            if backbone == "lenet" { "lenet" } else { "{ wide_resnet: { depth: 10, width: 1, dropout: 0 } }" };
        let place = Place::new();
        // The first of the test images.
        place.save("mine/test/c0/08.png", picture(0, 8, 48));
        let (code, said) = place.run_on(backbone, MINE, OTHERS);
        assert_eq!((code, accuracy(&said)), (Some(0), 100.0), "{said}");
    }
}

#[test]
fn train_images_of_several_sizes_need_a_size() {
    let place = Place::new();
    place.save("mine/train/c1/00.png", picture(1, 0, 40));
    let (code, said) = place.run(MINE);
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("00.png has 32×32 pixels") && said.contains("00.png has 40×40"), "{said}");
    assert!(said.contains("`size: 32`") && !place.trained(), "{said}");
    let (code, said) = place.run(&mine("size: 32"));
    assert_eq!((code, accuracy(&said)), (Some(0), 100.0), "{said}");
    // A size is part of what a network is.
    let (code, said) = place.run(&mine("size: [24, 32]"));
    assert_eq!((code, accuracy(&said)), (Some(0), 100.0), "{said}");
    assert_eq!(fs::read_dir(place.path("runs/networks")).unwrap().count(), 2);
    for (size, reason) in
        [("size: 0", "from 1 to 16384"), ("size: 20000", "from 1 to 16384"), ("size: [1, 2, 3]", "size")]
    {
        let (code, said) = place.run(&mine(size));
        assert!(code == Some(2) && said.contains(reason), "{said}");
    }
}

#[test]
fn a_grey_image_that_comes_first_leaves_the_set_in_colour() {
    let place = Place::new();
    for name in ["mine/train/c0/00.png", "mine/test/c0/08.png"] {
        place.save(name, DynamicImage::from(picture(0, 0, 32)).into_luma8());
    }
    let (code, said) = place.run(MINE);
    assert_eq!(code, Some(0), "{said}");
    assert!(accuracy(&said) > 80.0, "{said}");
    // Channels follow the means, and can be said.
    let (code, said) = place.run("{ name: mine, format: class_folders, mean: [0.4], std: [0.2] }");
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = place.run(&mine("channels: 1"));
    assert!(code == Some(2) && said.contains("1 channels have 3 values under `mean`"), "{said}");
    let (code, said) = place.run("{ name: mine, format: class_folders, mean: [0.4, 0.4], std: [0.2, 0.2] }");
    assert!(code == Some(2) && said.contains("images have 1 channel (grey) or 3 (RGB)"), "{said}");
}

/// An image list of the folder set: the label of each class in `train` and in `test`; `None` leaves a class out.
fn lists(place: &Place, train: [Option<i32>; 3], test: [Option<i32>; 3]) -> String {
    for (split, labels, variants) in [("train", train, 0..8), ("test", test, 8..12)] {
        let lines = labels.iter().enumerate().filter_map(|(class, label)| Some((class, (*label)?))).flat_map(
            |(class, label)| {
                variants.clone().map(move |variant| format!("{split}/c{class}/{variant:02}.png {label}\n"))
            },
        );
        fs::write(place.path(&format!("{split}.txt")), lines.collect::<String>()).unwrap();
    }
    mine("list: \"{split}.txt\"").replace("class_folders", "image_list")
}

#[test]
fn labels_that_do_not_fit_are_told_before_training() {
    let place = Place::new();
    let all = [Some(0), Some(1), Some(2)];
    for (train, test, reason) in [
        // Class 2 would be counted as ID and always be wrong.
        ([Some(0), Some(1), None], all, "has label 2, and the networks know the classes 0 to 1"),
        (
            [Some(1), Some(2), Some(3)],
            [Some(1), Some(2), Some(3)],
            "no train image has label 0; the labels are 1, 2, 3",
        ),
        (
            [Some(0), Some(5), Some(9)],
            [Some(0), Some(5), Some(9)],
            "no train image has label 1; the labels are 0, 5, 9",
        ),
        ([Some(-1); 3], [Some(-1); 3], "the train images of \"mine\" have no labels"),
        (all, [Some(-1); 3], "the test images of \"mine\" have no labels"),
    ] {
        let id = lists(&place, train, test);
        let (code, said) = place.run(&id);
        assert!(code == Some(2) && said.contains(reason), "{reason}: {said}");
        assert!(!place.trained());
    }
    // A test list may lack a class: the network has it all the same.
    let id = lists(&place, all, [Some(0), Some(1), None]);
    let (code, said) = place.run(&id);
    assert_eq!((code, accuracy(&said)), (Some(0), 100.0), "{said}");
    let record =
        fs::read_dir(place.path("runs/networks")).unwrap().next().unwrap().unwrap().path().join("seed0/network.json");
    let record: serde_json::Value = serde_json::from_slice(&fs::read(record).unwrap()).unwrap();
    assert_eq!(record["shape"], serde_json::json!([3, 32, 32, 3]));
}

#[test]
fn images_of_every_format_are_read_and_other_files_are_counted() {
    let place = Place::new();
    fs::remove_dir_all(place.path("others")).unwrap();
    let formats = [
        ("png", ImageFormat::Png),
        ("bmp", ImageFormat::Bmp),
        ("webp", ImageFormat::WebP),
        ("tif", ImageFormat::Tiff),
        ("ppm", ImageFormat::Pnm),
        ("gif", ImageFormat::Gif),
        ("jfif", ImageFormat::Jpeg),
    ];
    fs::create_dir_all(place.path("others")).unwrap();
    for (variant, (name, format)) in formats.into_iter().enumerate() {
        let path = place.path(&format!("others/{variant}.{name}"));
        DynamicImage::from(picture(variant % 3, 90, 32)).save_with_format(path, format).unwrap();
    }
    let (code, said) = place.run(MINE);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("others (all 7 test images)"), "{said}");
    fs::write(place.path("others/labels.csv"), "no image").unwrap();
    let (_, said) = place.run(MINE);
    assert!(said.contains("others (all 7 test images, 1 file that is no image left out)"), "{said}");
}

#[test]
fn a_damaged_image_is_refused_unless_it_is_to_be_skipped() {
    let place = Place::new();
    let jpeg = place.path("others/3.jpg");
    picture(1, 60, 32).save(&jpeg).unwrap();
    let whole = fs::read(&jpeg).unwrap();
    fs::write(&jpeg, &whole[..whole.len() * 9 / 10]).unwrap();
    let (code, said) = place.run(MINE);
    assert!(code == Some(2) && said.contains("3.jpg: the image ends too early"), "{said}");
    assert!(!place.trained());
    let (code, said) = place.run_on("lenet", MINE, "{ name: others, format: folder, damaged: skip }");
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("others (subset of 6 of 7 test images, 1 damaged image left out)"), "{said}");
    // Of an ID set the label goes with its image.
    let place = Place::new();
    fs::write(place.path("mine/train/c0/03.png"), b"\x89PNG\r\n\x1a\nno more").unwrap();
    let (code, said) = place.run(MINE);
    assert!(code == Some(2) && said.contains("03.png"), "{said}");
    let (code, said) = place.run(&mine("damaged: skip"));
    assert_eq!((code, accuracy(&said)), (Some(0), 100.0), "{said}");
    assert!(said.contains("subset of 23 of 24 train images"), "{said}");
}

#[cfg(unix)]
#[test]
fn a_pipe_named_as_an_image_is_refused_at_once() {
    let place = Place::new();
    let pipe = place.path("others/9.png");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let (code, said) = place.run(MINE);
    assert!(code == Some(2) && said.contains("9.png is not a regular file"), "{said}");
    fs::remove_file(pipe).unwrap();
    let list = lists(&place, [Some(0), Some(1), Some(2)], [Some(0), Some(1), Some(2)]);
    let target = place.path("mine/test/c0/08.png");
    fs::remove_file(&target).unwrap();
    assert!(Command::new("mkfifo").arg(&target).status().unwrap().success());
    let (code, said) = place.run(&list);
    assert!(code == Some(2) && said.contains("08.png is not a regular file"), "{said}");
    assert!(Path::new(&target).exists());
}
