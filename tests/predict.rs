//! `oodkit predict`: what a run measured on its test images comes out again, bit for bit, and what users do with new images.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    sync::LazyLock,
};

use assert_cmd::Command;
use oodkit::{metrics, run::results::Results};

const EXPERIMENT: &str = "\
title: New images
seeds: [5, 6]
data:
  id: { name: animals, format: class_folders, mean: [0.5], std: [0.5] }
  ood: [{ name: noise, format: folder }]
networks:
  base: { backbone: lenet, train: { epochs: 2, batch_size: 8, optimizer: { sgd: { lr: 0.05 } } } }
  again: { model: { autoencoder: { channels: 2, latent: 2, depth: 2 } }, loss: { reconstruction: {} }, train: { epochs: 1, batch_size: 8,
    optimizer: { sgd: { lr: 0.05 } } } }
  pair: { backbone: lenet, members: 2, train: { epochs: 1, batch_size: 8, optimizer: { sgd: { lr: 0.05 } } } }
methods:
  - { name: MSP, network: base, detector: msp }
  - { name: KNN, network: base, detector: { knn: { k: 3 } } }
  - { name: ODIN, network: base, detector: odin }
  - { name: Pair, network: pair, detector: mutual_information }
  - { name: Gram, network: base, detector: gram }
  - { name: PaDiM, network: base, detector: { padim: { dimensions: 12, grid: conv2 } } }
  - { name: PatchCore, network: base, detector: { patchcore: { coreset: { size: 60 }, reweight: 4, score: patch } } }
  - { name: Change, network: base, detector: { reconstruction_change: { maker: again, of: features } } }
sweep: { methods.1.detector.knn.k: [1, 3] }
";

const CLASSES: [&str; 3] = ["cat", "dog", "emu"];
/// Test images of each class.
const TESTED: usize = 7;

/// Stripes whose width is the class's, with noise.
fn save(path: &Path, class: usize, salt: usize, side: u32) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let pixel = |x: u32, y: u32| {
        let noise = (((x as usize * 31 + y as usize * 57 + salt * 101) * 2_654_435_761) >> 7) % 97;
        let stripe = if (x / (2 + 3 * class as u32)).is_multiple_of(2) { 40 } else { 150 };
        image::Luma([(stripe + noise) as u8])
    };
    image::GrayImage::from_fn(side, side, pixel).save(path).unwrap();
}

/// The experiment, run once. Nothing drops a static: the folder is left in the target folder.
static RUN: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let root = folder.path();
    for (class, name) in CLASSES.iter().enumerate() {
        for index in 0..12 {
            save(&root.join(format!("data/animals/train/{name}/{index:02}.png")), class, index, 28);
        }
        for index in 0..TESTED {
            save(&root.join(format!("data/animals/test/{name}/{index:02}.png")), class, 50 + index, 28);
        }
    }
    for index in 0..9 {
        save(&root.join(format!("data/noise/{index}.png")), 5, 90 + index, 28);
    }
    fs::write(root.join("animals.yaml"), EXPERIMENT).unwrap();
    let output = oodkit(root).args(["run", "animals.yaml"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder
});

fn oodkit(root: &Path) -> Command {
    let mut command = Command::cargo_bin("oodkit").unwrap();
    command.current_dir(root).env("NO_COLOR", "1");
    command
}

/// `oodkit predict` with these arguments, split at spaces.
fn predict(arguments: &str) -> Output {
    let arguments = arguments.split_whitespace().map(str::to_owned);
    let command = ["predict", "--experiment", "animals.yaml"].map(str::to_owned);
    oodkit(RUN.path()).args(command.into_iter().chain(arguments)).output().unwrap()
}

/// A line of the CSV.
#[derive(Debug, PartialEq)]
struct Line {
    file: String,
    class: String,
    probability: f64,
    score: f32,
    decision: String,
}

fn lines(csv: &[u8]) -> Vec<Line> {
    assert!(csv.starts_with(b"file,class,probability,score,decision\n"), "{}", String::from_utf8_lossy(csv));
    let line = |line: csv::StringRecord| Line {
        file: line[0].to_owned(),
        class: line[1].to_owned(),
        probability: line[2].parse().unwrap(),
        score: line[3].parse().unwrap(),
        decision: line[4].to_owned(),
    };
    csv::Reader::from_reader(csv).records().map(|record| line(record.unwrap())).collect()
}

fn answered(arguments: &str) -> Vec<Line> {
    let output = predict(arguments);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    lines(&output.stdout)
}

fn refused(arguments: &str) -> String {
    let output = predict(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments}: {said}");
    assert!(output.stdout.is_empty(), "{arguments} printed");
    said
}

fn results() -> Results {
    let mut found = fs::read_dir(RUN.path().join("runs/experiments")).unwrap();
    Results::read(&found.next().unwrap().unwrap().path()).unwrap().unwrap()
}

#[test]
fn the_test_images_get_the_scores_of_the_run_bit_for_bit() {
    let _ = &*RUN;
    let results = results();
    for cell in &results.cells {
        for (seed, (name, method)) in
            cell.seeds.iter().flat_map(|seed| seed.tasks[0].methods.iter().map(move |m| (seed, m)))
        {
            let of = format!("--method {name} --seed {} --cell {}", seed.seed, cell.name);
            for (set, input) in [("animals", "data/animals/test"), ("noise", "data/noise")] {
                let lines = answered(&format!("{of} --input {input}"));
                let expected = metrics::read_scores(&RUN.path().join("runs").join(&method.scores[set])).unwrap();
                let found: Vec<f64> = lines.iter().map(|line| f64::from(line.score)).collect();
                if name != "PaDiM" && name != "PatchCore" {
                    assert_eq!(found, expected, "{of} on {set}");
                    continue;
                }
                // In a run they look on at passes of fewer images, for Gram reads all layers: sums may end in other bits.
                assert_eq!(found.len(), expected.len());
                for (found, expected) in found.iter().zip(expected) {
                    assert!((found - expected).abs() <= 1e-6 * expected, "{of} on {set}: {found}, {expected}");
                }
            }
            // The folders are the classes, and the network's accuracy on them is the run's.
            let lines = answered(&format!("{of} --input data/animals/test"));
            let right = lines.iter().filter(|line| line.file.contains(&format!("/{}/", line.class))).count();
            let accuracy = seed.tasks[0].networks[&method.network].measures["accuracy"];
            assert_eq!(right as f64 / (3 * TESTED) as f64, accuracy, "{of}");
            assert!(lines.iter().all(|line| line.probability > 1.0 / 3.0 - 1e-6 && line.probability <= 1.0));
        }
    }
    // In one cell k is 1, in the other 3.
    let knn = |cell: &str| answered(&format!("--method KNN --input data/noise{cell}"));
    assert_ne!(knn(" --cell k=1"), knn(" --cell k=3"));
    assert_eq!(knn(""), knn(" --cell k=3"), "the file's own value");
    let output = oodkit(RUN.path())
        .args(["predict", "--experiment", "animals.yaml", "--method", "KNN (k=1)", "--input", "data/noise"])
        .output()
        .unwrap();
    assert_eq!(lines(&output.stdout), knn(" --cell k=1"));
}

#[test]
fn the_threshold_accepts_the_share_that_was_asked_for() {
    let count = |arguments: &str| {
        let lines = answered(&format!("--method MSP --input data/animals/test {arguments}"));
        lines.iter().filter(|line| line.decision == "ID").count()
    };
    // At least 95 % of 21 images are 20, half of them are 11.
    assert_eq!((count(""), count("--tpr 0.95"), count("--tpr 0.5"), count("--tpr 1")), (20, 20, 11, 21));
    let lines = answered("--method MSP --input data/animals/test --threshold 0.25");
    for line in &lines {
        assert_eq!(line.decision, if line.score > 0.25 { "OOD" } else { "ID" });
    }
    assert_eq!(count("--threshold -1"), 0);
    let output = predict("--method MSP --input data/noise --tpr 0.5");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("accepts 52.38 % of the 21 ID test images (animals)."), "{said}");
    for (arguments, expected) in [
        ("--tpr 95", "--tpr 95: not a share above 0 and up to 1"),
        ("--tpr 0", "--tpr 0: not a share"),
        ("--tpr NaN", "--tpr NaN: not a share"),
        ("--threshold inf", "--threshold inf: not a finite number"),
        ("--tpr 0.5 --threshold 1", "cannot be used with"),
    ] {
        let said = refused(&format!("--method MSP --input data/noise {arguments}"));
        assert!(said.contains(expected), "{arguments}: {said}");
    }
}

/// `3 of 30 pixels`: the set pixels of a mask.
fn set_pixels(path: &Path) -> (usize, usize) {
    let mask = image::open(path).unwrap().to_luma8();
    assert!(mask.pixels().all(|pixel| [0, 255].contains(&pixel.0[0])));
    (mask.pixels().filter(|pixel| pixel.0[0] == 255).count(), mask.pixels().len())
}

#[test]
fn maps_masks_and_overlays_are_written_with_a_threshold_of_held_out_images() {
    let root = RUN.path();
    save(&root.join("parts/bent/000.png"), 5, 3, 28);
    save(&root.join("parts/good/000.png"), 1, 70, 56);
    image::GrayImage::from_fn(40, 28, |x, y| image::Luma([((x * 7 + y * 3) % 200) as u8]))
        .save(root.join("parts/bent/001.png"))
        .unwrap();
    let output = predict("--method PaDiM --input parts --out mapped --maps npy,tiff");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    let words = "is the 0.995 quantile of 7 train images that were held out of 36, by a fit to the others. It is the largest of 7: 0.995 \
                 needs 200 held-out images. The network itself was trained on them, so it may know them too well.\n";
    assert!(printed.contains(words), "{printed}");
    assert!(printed.ends_with("  mapped/masks\n  mapped/overlays\n  mapped/maps\n"), "{printed}");
    let lines = lines(&fs::read(root.join("mapped/predictions.csv")).unwrap());
    let files: Vec<&str> = lines.iter().map(|line| line.file.as_str()).collect();
    assert_eq!(files, ["parts/bent/000.png", "parts/bent/001.png", "parts/good/000.png"]);
    let threshold: f64 = printed.split("is OOD. ").nth(1).unwrap().split(' ').next().unwrap().parse().unwrap();
    for (line, size) in lines.iter().zip([(28, 28), (40, 28), (56, 56)]) {
        let at = |folder: &str, ending: &str| {
            root.join("mapped").join(folder).join(line.file.strip_prefix("parts/").unwrap()).with_extension(ending)
        };
        let (set, pixels) = set_pixels(&at("masks", "png"));
        assert_eq!(pixels, size.0 * size.1);
        let anomalous = f64::from(line.score) > threshold;
        assert_eq!(line.decision, if anomalous { "OOD" } else { "ID" });
        let overlay = image::open(at("overlays", "png")).unwrap();
        assert_eq!((overlay.width(), overlay.height()), (28, 28));
        let map = fs::read(at("maps", "npy")).unwrap();
        let values: Vec<f32> =
            map[map.len() - 4 * pixels..].chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().unwrap())).collect();
        assert!(String::from_utf8_lossy(&map[..128]).contains(&format!("({}, {})", size.1, size.0)));
        assert_eq!(values.iter().filter(|value| f64::from(**value) > threshold).count(), set, "{}", line.file);
        if size == (28, 28) {
            // The score is the map's maximum, and the mask is empty where the image is normal.
            assert_eq!(values.iter().copied().fold(f32::NEG_INFINITY, f32::max), line.score);
            assert_eq!(set > 0, anomalous);
        }
        let mut tiff = tiff::decoder::Decoder::new(fs::File::open(at("maps", "tiff")).unwrap()).unwrap();
        let tiff::decoder::DecodingResult::F32(raw) = tiff.read_image().unwrap() else { panic!("not f32") };
        assert_eq!(raw, values);
    }
    assert!(lines[0].score > lines[2].score && lines[0].decision == "OOD", "{lines:?}");

    let said = |arguments: &str| {
        let output = predict(&format!("--method PaDiM --input parts {arguments}"));
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(said("--quantile 0.5").contains("is the 0.5 quantile of 7 train images"));
    // Of 7 images, 0.86 leaves one above the threshold's place only from 8 images on.
    for (quantile, needed) in
        [("0.5", None), ("0.85", None), ("0.86", Some(8)), ("0.9", Some(10)), ("0.99", Some(100)), ("1", None)]
    {
        let said = said(&format!("--quantile {quantile}"));
        let words = needed.map(|needed| format!("It is the largest of 7: {quantile} needs {needed} held-out images."));
        assert_eq!(said.contains("the largest of"), words.is_some(), "{said}");
        assert!(words.is_none_or(|words| said.contains(&words)), "{said}");
    }
    assert!(said("--tpr 0.95").contains("% of the 21 ID test images (animals)"));
    // Any method: its scores are what they were.
    let held_out = answered("--method MSP --input data/noise --quantile 0.9");
    assert_eq!(held_out.len(), 9);
    for (line, other) in held_out.iter().zip(answered("--method MSP --input data/noise")) {
        assert_eq!(line.score.to_bits(), other.score.to_bits());
    }
    for (arguments, expected) in [
        ("--method MSP --input parts --out o --maps npy", "--maps: msp gives no maps"),
        ("--method PaDiM --input parts --maps npy", "--out <DIR>"),
        ("--method PaDiM --input parts --maps png", "invalid value 'png'"),
        ("--method PaDiM --input parts --quantile 2", "--quantile 2: not a share above 0 and up to 1"),
        ("--method PaDiM --input parts --quantile 0.9 --tpr 0.9", "cannot be used with"),
        (
            "--method PaDiM --input parts/bent parts/good --out o",
            "the maps of parts/bent/000.png and parts/good/000.png",
        ),
    ] {
        let said = refused(arguments);
        assert!(said.contains(expected), "{arguments}: {said}");
    }
    assert!(!root.join("o").exists());

    // Of an earlier call's images, nothing may lie beside a new CSV; nor are a user's own masks written over.
    let before = fs::read(root.join("mapped/predictions.csv")).unwrap();
    for method in ["PaDiM", "MSP"] {
        let said = refused(&format!("--method {method} --input data/noise --out mapped"));
        assert!(
            said.contains("--out mapped: it already holds masks/\n\nhint: give another --out, or remove mapped"),
            "{said}"
        );
    }
    assert_eq!(fs::read(root.join("mapped/predictions.csv")).unwrap(), before);
    assert!(!root.join("mapped/masks/0.png").exists());
    fs::create_dir_all(root.join("own/maps")).unwrap();
    assert!(refused("--method PaDiM --input parts --out own").contains("--out own: it already holds maps/"));
    let said = refused("--method PaDiM --input parts --out mapped/predictions.csv");
    assert!(said.contains("--out mapped/predictions.csv: it is no folder"), "{said}");
}

#[test]
fn files_folders_and_patterns_at_any_size_are_read_at_the_networks_shape() {
    let root = RUN.path();
    save(&root.join("new/large.png"), 1, 3, 56);
    let image = image::open(root.join("data/animals/test/dog/01.png")).unwrap();
    image.to_rgb8().save(root.join("new/colour.png")).unwrap();
    fs::write(root.join("new/readme.txt"), "no image").unwrap();
    let folder = answered("--method MSP --input new");
    let files: Vec<&str> = folder.iter().map(|line| line.file.as_str()).collect();
    assert_eq!(files, ["new/colour.png", "new/large.png"]);
    let said = String::from_utf8(predict("--method MSP --input new").stderr).unwrap();
    assert!(said.contains("new: 1 other files are left out"), "{said}");
    assert!(said.contains("images of 1×28×28 values"), "{said}");
    // Grey in three channels is grey.
    let one = answered("--method MSP --input data/animals/test/dog/01.png");
    assert_eq!((one.len(), one[0].score.to_bits()), (1, folder[0].score.to_bits()));
    // Each file once, in the order of the inputs.
    let several =
        answered("--method MSP --input data/animals/test/d*/0[12].png new/l*.png data/animals/test/dog/01.png");
    let files: Vec<&str> = several.iter().map(|line| line.file.as_str()).collect();
    let dog = |index: &str| format!("data/animals/test/dog/{index}.png");
    assert_eq!(files, [&dog("01"), &dog("02"), "new/large.png"]);

    let out = root.join("out");
    let output = predict("--method MSP --input data/animals/test data/noise --out out");
    assert!(output.status.success());
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.starts_with("30 images: "), "{printed}");
    assert!(
        printed.ends_with("files\n  out/predictions.csv\n  out/predictions.caption.txt\n  out/most_anomalous.png\n"),
        "{printed}"
    );
    let lines = lines(&fs::read(out.join("predictions.csv")).unwrap());
    assert_eq!(lines.len(), 30);
    let sheet = image::open(out.join("most_anomalous.png")).unwrap();
    assert!(sheet.height() > 2 * 10 * 76 && sheet.width() > 600, "{:?}", (sheet.width(), sheet.height()));
    if let Some(keep) = std::env::var_os("OODKIT_TEST_FIGURES") {
        fs::copy(out.join("most_anomalous.png"), PathBuf::from(keep).join("most_anomalous.png")).unwrap();
    }
    let caption = fs::read_to_string(out.join("predictions.caption.txt")).unwrap();
    assert!(caption.contains("MSP of animals") && caption.contains("seed 5: detector msp"), "{caption}");
}

#[test]
fn images_that_cannot_be_read_are_listed() {
    let root = RUN.path();
    save(&root.join("mixed/good.png"), 0, 1, 28);
    fs::write(root.join("mixed/broken.png"), "not an image").unwrap();
    let said = refused("--method MSP --input mixed missing.png");
    assert!(said.contains("2 of 3 images cannot be read:\n  mixed/broken.png"), "{said}");
    assert!(
        said.contains("missing.png") && said.contains("hint: take them away, or leave them out with --damaged skip")
    );
    let output = predict("--method MSP --input mixed missing.png --damaged skip");
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains("mixed/broken.png"), "{said}");
    assert!(said.contains("1 images: ") && said.contains("2 could not be read and are left out"), "{said}");
    assert_eq!(lines(&output.stdout).len(), 1);
    let said = refused("--method MSP --input mixed/broken.png --damaged skip");
    assert!(said.contains("1 of 1 images cannot be read"), "{said}");
    fs::create_dir_all(root.join("empty")).unwrap();
    assert!(refused("--method MSP --input empty").contains("--input empty: the folder holds no images"));
    assert!(refused("--method MSP --input no/*.png").contains("--input no/*.png: no file has such a name"));
}

#[test]
fn what_the_experiment_does_not_have_is_refused_by_name() {
    for (arguments, expected) in [
        ("--method MPS", "--method MPS: animals"),
        (
            "--method MPS",
            "has no such method (did you mean \"MSP\"?)\n\nhint: its methods are MSP, KNN, ODIN, Pair, Gram, PaDiM, PatchCore",
        ),
        ("--method MSP --seed 4", "--seed 4: not a seed of the results\n\nhint: their seeds are 5, 6"),
        ("--method KNN --cell k=2", "has no such cell (did you mean \"k="),
        ("--method MSP --cell k=2", "has no such cell"),
    ] {
        let said = refused(&format!("{arguments} --input data/noise"));
        assert!(said.contains(expected), "{arguments}: {said}");
    }
    // Not run with these values: nothing is trained here.
    let said = refused("--method MSP --input data/noise --set seeds=[7]");
    assert!(said.contains("no results of animals") && said.contains("hint: make exp="), "{said}");
}

/// Who ran an experiment with changes is told what they were.
#[test]
fn a_run_with_changes_is_named_where_there_is_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let experiment = "{ title: Small, data: { id: fashion_mnist_small, ood: [digits] }, networks: { base: { backbone: lenet, train: { epochs: \
                      1, batch_size: 8, optimizer: { sgd: { lr: 0.05 } } } } }, methods: [{ name: MSP, network: base, detector: msp }] }";
    fs::write(folder.path().join("small.yaml"), experiment).unwrap();
    let changes =
        ["--smoke", "--set", "networks.base.train.batch_size=4 seeds=[3]", "--sweep", "networks.base.train.epochs=[1]"];
    let run = |arguments: &[&str]| oodkit(folder.path()).args(arguments).output().unwrap();
    let output = run(&[&["run", "small.yaml"], &changes[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    save(&folder.path().join("new.png"), 0, 1, 28);
    let predict = ["predict", "--experiment", "small.yaml", "--method", "MSP", "--input", "new.png"];
    let output = run(&[&predict[..], &["--smoke"]].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    let wanted = "hint: make exp=small.yaml smoke=1\n      or add what a run changed: --set \"networks.base.train.batch_size=4 \
                  seeds=[3]\" --sweep \"networks.base.train.epochs=[1]\"\n";
    assert!(said.contains(wanted), "{said}");
    // What is told can be typed.
    let output = run(&[&predict[..], &changes[..]].concat());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Another file of this name has none of these results.
    fs::create_dir(folder.path().join("other")).unwrap();
    fs::copy(folder.path().join("small.yaml"), folder.path().join("other/small.yaml")).unwrap();
    let output = run(&[&["predict", "--experiment", "other/small.yaml"], &predict[3..], &["--smoke"]].concat());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("no results of small") && !said.contains("or add what"), "{said}");
}
