//! Sets of image files that are not held in memory: the same results, the same errors.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use image::{Rgb, RgbImage};
use serde_json::Value;

const EXPERIMENT: &str = "
title: Larger than memory
seeds: [3]
data:
  id: { name: mine, format: class_folders, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25] }
  ood:
    - { name: others, format: folder }
    - { name: listed, format: image_list, path: '.', list: list.txt }
  outliers: { name: strangers, format: folder }
  validation: { id: 4, made: [uniform_noise, arithmetic_mean] }
networks:
  base:
    backbone: lenet
    loss: { cross_entropy: {}, outlier_exposure: { weight: 0.5 } }
    train:
      epochs: 2
      batch_size: 5
      validation: 5
      keep: best
      augment: [horizontal_flip, { random_crop: { padding: 2 } }]
      optimizer: { adamw: { lr: 0.003 } }
methods:
  - { name: MSP, network: base, detector: msp }
  - { name: ODIN, network: base, detector: odin, search: { temperature: [1, 10] } }
  - { name: Mahalanobis, network: base, detector: mahalanobis }
  - { name: AFDU, network: base, detector: { afdu: { layers: [conv1] } } }
figures: [{ factors: { method: AFDU, images: 2 } }]
tables: [{ name: all, rows: method, columns: [accuracy, auroc] }]
";

struct Place {
    folder: tempfile::TempDir,
}

fn picture(class: u32, variant: u32) -> RgbImage {
    let shade = |x: u32, y: u32| ((x * (3 + class) + y * 5 + variant * 11) % 97) as u8;
    RgbImage::from_fn(32, 32, |x, y| Rgb([(17 * class) as u8 + shade(x, y), shade(y, x), 60]))
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        for class in 0..3 {
            for variant in 0..12 {
                let split = if variant < 8 { "train" } else { "test" };
                place.save(&format!("mine/{split}/c{class}/{variant:02}.png"), &picture(class, variant));
            }
        }
        let mut list = String::new();
        for variant in 0..6 {
            place.save(&format!("others/{variant}.png"), &picture(9, variant));
            place.save(&format!("strangers/{variant}.jpg"), &picture(7, variant));
            place.save(&format!("pool/{variant}.bmp"), &picture(5, variant));
            list = format!("pool/{variant}.bmp -1\n{list}");
        }
        fs::write(place.path("list.txt"), list).unwrap();
        fs::write(place.path("large.yaml"), EXPERIMENT).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn save(&self, name: &str, image: &RgbImage) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        image.save(path).unwrap();
    }

    fn oodkit(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oodkit"));
        command.args(arguments).args(["--data", "."]).current_dir(self.folder.path()).env("NO_COLOR", "1");
        command.env_remove("OODKIT_MEMORY").output().unwrap()
    }

    fn run(&self, runs: &str, more: &[&str]) -> (Option<i32>, String) {
        let output = self.oodkit(&[&["run", "large.yaml", "--runs", runs], more].concat());
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        (output.status.code(), said)
    }

    /// The results without times, and the checksum that is of times too.
    fn results(&self, runs: &str) -> Value {
        let folder = fs::read_dir(self.path(runs).join("experiments")).unwrap().next().unwrap().unwrap().path();
        let mut results = serde_json::from_slice(&fs::read(folder.join("results.json")).unwrap()).unwrap();
        without_times(&mut results);
        results
    }
}

fn without_times(value: &mut Value) {
    match value {
        Value::Object(map) => {
            map.retain(|key, _| key != "checksum" && !key.ends_with("seconds"));
            map.values_mut().for_each(without_times);
        }
        Value::Array(values) => values.iter_mut().for_each(without_times),
        _ => {}
    }
}

/// The files below a folder whose bytes must be the same: weights, outputs, scores, figures.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if ["safetensors", "npy"].iter().any(|wanted| path.extension().is_some_and(|found| found == *wanted)) {
            found.push((path.clone(), fs::read(path).unwrap()));
        }
    }
    found.sort();
    found
}

#[test]
fn results_are_the_same_bits_whether_images_are_held_or_not() {
    let place = Place::new();
    let (code, said) = place.run("held", &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(!said.contains("decoded each time"), "{said}");
    let (code, said) = place.run("streamed", &["--memory", "0"]);
    assert_eq!(code, Some(0), "{said}");
    for note in ["mine (train): 24 images take 0.1 MiB", "mine (test): 12", "others (test): 6", "listed (test): 6"] {
        assert!(said.contains(note), "{note}: {said}");
    }
    assert!(said.contains("strangers (train): 6") && said.contains("0.0 MiB (as --memory says)"), "{said}");

    assert!(place.results("held") == place.results("streamed"));
    let [held, streamed] = ["held", "streamed"].map(|runs| files(&place.path(runs).join("networks")));
    assert!(held.len() > 10, "{held:?}");
    for ((held_path, held), (streamed_path, streamed)) in held.iter().zip(&streamed) {
        assert!(held == streamed, "{} and {}", held_path.display(), streamed_path.display());
    }
    assert_eq!(held.len(), streamed.len());

    // New images as well.
    let predict = |runs, more: &[&str]| {
        let arguments =
            ["predict", "--experiment", "large.yaml", "--method", "Mahalanobis", "--input", "others", "--runs"];
        let output = place.oodkit(&[&arguments, &[runs, "--out", runs][..], more].concat());
        assert!(output.status.success(), "{output:?}");
        ["predictions.csv", "most_anomalous.png"].map(|name| fs::read(place.path(runs).join(name)).unwrap())
    };
    assert!(predict("held", &[]) == predict("streamed", &["--memory", "0"]));
}

/// Few methods, and many epochs to stop in.
fn plain(epochs: usize) -> String {
    format!(
        "title: Plain\ndata:\n  id: {{ name: mine, format: class_folders, mean: [0.5, 0.5, 0.5], std: [0.25, 0.25, 0.25] }}\n  \
         ood: [{{ name: others, format: folder }}]\nnetworks:\n  base: {{ backbone: lenet, train: {{ epochs: {epochs}, batch_size: 8, \
         optimizer: {{ adamw: {{ lr: 0.003 }} }}, augment: {{ flip: true, crop_padding: 2 }} }} }}\nmethods: [{{ name: MSP, network: \
         base, detector: msp }}]\n"
    )
}

#[cfg(unix)]
#[test]
fn an_interrupted_training_on_files_goes_on_to_the_same_bits() {
    let place = Place::new();
    fs::write(place.path("large.yaml"), plain(40)).unwrap();
    let (code, said) = place.run("held", &[]);
    assert_eq!(code, Some(0), "{said}");
    let mut child = Command::new(env!("CARGO_BIN_EXE_oodkit"))
        .args(["run", "large.yaml", "--runs", "streamed", "--data", ".", "--memory", "0"])
        .current_dir(place.folder.path())
        .env("NO_COLOR", "1")
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains("epoch 2 done")));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let rest: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert!(rest.iter().all(|line| !line.contains("epoch 40 done")), "it ended before it was stopped");
    let (code, said) = place.run("streamed", &["--memory", "0"]);
    assert!(code == Some(0) && said.contains("continued at step"), "{said}");
    assert!(place.results("held") == place.results("streamed"));
    let [held, streamed] = ["held", "streamed"].map(|runs| files(&place.path(runs).join("networks")));
    let bytes = |files: &[(PathBuf, Vec<u8>)]| files.iter().map(|(_, bytes)| bytes.clone()).collect::<Vec<_>>();
    assert!(bytes(&held) == bytes(&streamed));
}

#[test]
fn sets_are_held_one_after_the_other_while_there_is_room() {
    let place = Place::new();
    // The 244 train images come first and leave no room in 1 MiB for 152 test images, but for 6 others.
    for (split, images) in [("train", 220), ("test", 140)] {
        for variant in 0..images {
            place.save(&format!("mine/{split}/c{}/more{variant}.png", variant % 3), &picture(variant % 3, variant));
        }
    }
    fs::write(place.path("large.yaml"), plain(1)).unwrap();
    let (code, said) = place.run("runs", &["--memory", "1"]);
    let notes: Vec<&str> = said.lines().filter(|line| line.contains("decoded each time")).collect();
    let note = "mine (test): 152 images take 0.4 MiB and are decoded each time they are needed; images may take 1.0 MiB (as \
                --memory says)";
    assert_eq!((code, notes), (Some(0), vec![note]), "{said}");
}

#[test]
fn a_damaged_image_is_named_before_any_training_or_left_out_as_it_is_of_held_sets() {
    let place = Place::new();
    let path = place.path("mine/train/c1/03.png");
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    for more in [&[][..], &["--memory", "0"]] {
        let (code, said) = place.run("refused", more);
        assert!(code == Some(2) && said.contains("mine/train/c1/03.png"), "{said}");
        assert!(!place.path("refused/networks").exists(), "{said}");
    }
    let skip = ["--set", "data.id.damaged=skip"];
    for (runs, more) in [("held", &skip[..]), ("streamed", &[&skip[..], &["--memory", "0"]].concat())] {
        let (code, said) = place.run(runs, more);
        assert_eq!(code, Some(0), "{said}");
    }
    assert_eq!(place.results("held")["datasets"]["mine"]["train"], 18);
    assert!(place.results("held") == place.results("streamed"));
}

#[test]
fn copies_of_what_is_reported_on_are_found_in_sets_that_are_not_held() {
    let place = Place::new();
    fs::copy(place.path("others/2.png"), place.path("strangers/copy.png")).unwrap();
    let (code, said) = place.run("runs", &["--memory", "0"]);
    assert!(code == Some(2) && said.contains("1 of the auxiliary outliers \"strangers\" are test images"), "{said}");
}
