//! Sets as they lie on disk: without parts, with classes to leave out, in the layouts of other programs.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use image::{Rgb, RgbImage};
use oodkit::{
    config::load::parse,
    data::{self, Dataset, Division, Format, ImageSet, Split},
};

fn save(path: PathBuf, colour: [u8; 3]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let image = RgbImage::from_fn(16, 16, |x, y| Rgb(colour.map(|value| value.wrapping_add((x * 3 + y) as u8))));
    image.save(path).unwrap();
}

/// Class folders without parts: so many images of each class.
fn flat(sizes: &[(&str, usize)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (class, (name, images)) in sizes.iter().enumerate() {
        for image in 0..*images {
            save(folder.path().join(format!("mine/{name}/{image:02}.png")), [80 * class as u8, 7 * image as u8, 9]);
        }
    }
    folder
}

fn mine() -> Dataset {
    Dataset { format: Some(Format::ClassFolders), ..Dataset::named("mine") }
}

fn divided(test: f64, seed: u64) -> Dataset {
    Dataset { split: Some(Division { test: Some(test), seed, ..Division::default() }), ..mine() }
}

fn both(dataset: &Dataset, root: &Path) -> [ImageSet; 2] {
    [Split::Train, Split::Test].map(|split| data::load(dataset, split, root).unwrap())
}

fn names(set: &ImageSet) -> BTreeSet<String> {
    set.files.iter().flat_map(|files| files.iter().cloned()).collect()
}

fn error(dataset: &Dataset, split: Split, root: &Path) -> String {
    let error = data::load(dataset, split, root).unwrap_err();
    let oodkit::Error::Input { message, hint } = error else { panic!("{error}") };
    format!("{message} ({})", hint.unwrap_or_default())
}

#[test]
fn class_folders_without_parts_are_divided_by_class() {
    let folder = flat(&[("ant", 10), ("bee", 5), ("cat", 2)]);
    let [train, test] = both(&divided(0.2, 0), folder.path());
    assert_eq!((train.class_sizes(), test.class_sizes()), (vec![8, 4, 1], vec![2, 1, 1]));
    assert!(names(&train).is_disjoint(&names(&test)));
    assert_eq!(names(&train).union(&names(&test)).count(), 17);
    assert!(train.note.clone().unwrap().contains("20 % of each class drawn to test on, seed 0"));
    // The same again, others with another seed, and a file more moves one at most.
    assert_eq!(names(&both(&divided(0.2, 0), folder.path())[1]), names(&test));
    assert_ne!(names(&both(&divided(0.2, 1), folder.path())[1]), names(&test));
    save(folder.path().join("mine/ant/05b.png"), [1, 2, 3]);
    let more = names(&both(&divided(0.2, 0), folder.path())[1]);
    assert!(more.intersection(&names(&test)).count() >= 3, "{more:?}");
}

#[test]
fn a_list_is_divided_whatever_its_order() {
    let folder = flat(&[("ant", 6), ("bee", 6)]);
    let lines: Vec<String> = (0..12).map(|i| format!("{}/{:02}.png {}", ["ant", "bee"][i / 6], i % 6, i / 6)).collect();
    let list = Dataset { format: Some(Format::ImageList), list: Some("all.txt".into()), ..divided(0.5, 3) };
    let write = |lines: &[String]| fs::write(folder.path().join("all.txt"), lines.join("\n")).unwrap();
    write(&lines);
    let [train, test] = both(&list, folder.path());
    assert_eq!((train.class_sizes(), test.class_sizes()), (vec![3, 3], vec![3, 3]));
    let backwards: Vec<String> = lines.iter().rev().cloned().collect();
    write(&backwards);
    assert_eq!(both(&list, folder.path()).map(|set| names(&set)), [names(&train), names(&test)]);
    // Class folders are divided alike: names decide.
    assert_eq!(names(&both(&divided(0.5, 3), folder.path())[1]), names(&test));
    write(&[lines.clone(), vec![lines[0].clone()]].concat());
    assert!(error(&list, Split::Test, folder.path()).contains("all.txt: ant/00.png is listed twice"));
}

#[test]
fn what_cannot_be_divided_says_why() {
    let folder = flat(&[("ant", 3), ("bee", 1)]);
    let said = error(&divided(0.2, 0), Split::Train, folder.path());
    assert!(said.contains("class \"bee\" has 1 image, and `split` needs 2 of each"), "{said}");
    assert!(data::check(&divided(0.2, 0), &[Split::Test], folder.path()).is_err());
    // Without `split` there is nothing to learn from, and all is tested on.
    let said = error(&mine(), Split::Train, folder.path());
    assert!(said.contains("its class folders can be divided: `split: { test: 0.2 }`"), "{said}");
    assert_eq!(data::load(&mine(), Split::Test, folder.path()).unwrap().len(), 4);
    // Parts by another name are no classes.
    fs::rename(folder.path().join("mine/ant"), folder.path().join("mine/Training")).unwrap();
    fs::remove_dir_all(folder.path().join("mine/bee")).unwrap();
    let said = error(&divided(0.2, 0), Split::Train, folder.path());
    assert!(said.contains("Training looks like a part of a set, not like a class"), "{said}");
    fs::rename(folder.path().join("mine/Training"), folder.path().join("mine/train")).unwrap();
    fs::create_dir(folder.path().join("mine/train/ant")).unwrap();
    let said = error(&divided(0.2, 0), Split::Train, folder.path());
    assert!(said.contains("`split` divides class folders, and this set has parts"), "{said}");
}

#[test]
fn folds_test_on_every_image_once() {
    let folder = flat(&[("ant", 7), ("bee", 6)]);
    let mut tested: Vec<String> = Vec::new();
    for fold in 0..3 {
        let split = Some(Division { folds: Some(3), fold: Some(fold), ..Division::default() });
        let [train, test] = both(&Dataset { split, ..mine() }, folder.path());
        assert!(names(&train).is_disjoint(&names(&test)));
        assert_eq!(train.len() + test.len(), 13);
        assert!(test.class_sizes().iter().all(|size| (2..=3).contains(size)));
        assert!(test.note.clone().unwrap().contains(&format!("fold {fold} of 0 to 2, seed 0")));
        tested.extend(names(&test));
    }
    let distinct: BTreeSet<&String> = tested.iter().collect();
    assert_eq!((tested.len(), distinct.len()), (13, 13));
    let split = Some(Division { folds: Some(7), ..Division::default() });
    let said = error(&Dataset { split, ..mine() }, Split::Test, folder.path());
    assert!(said.contains("class \"bee\" has 6 images, and `split` needs 7 of each"), "{said}");
}

fn classes(names: &[&str]) -> Option<Vec<String>> {
    Some(names.iter().map(|name| (*name).to_owned()).collect())
}

#[test]
fn classes_are_chosen_and_ordered() {
    let folder = flat(&[("ant", 4), ("bee", 3), ("cat", 2)]);
    let root = folder.path();
    let dataset = Dataset { classes: classes(&["cat", "ant"]), ..divided(0.5, 0) };
    let [train, test] = both(&dataset, root);
    assert_eq!((train.classes, train.class_sizes(), test.class_sizes()), (2, vec![1, 2], vec![1, 2]));
    assert!(train.files.iter().flat_map(|files| files.iter()).all(|file| !file.starts_with("bee")));
    assert!(train.note.clone().unwrap().starts_with("classes cat, ant"));
    assert_eq!(data::class_names(&dataset, root), classes(&["cat", "ant"]));
    let said = error(&Dataset { classes: classes(&["cat", "aunt"]), ..divided(0.5, 0) }, Split::Train, root);
    assert!(said.contains("has no class \"aunt\" (did you mean \"ant\"?), named under `classes`"), "{said}");
    assert!(said.contains("its classes are ant, bee, cat"), "{said}");
    let held = Dataset { held_out: vec!["ant".into()], ..divided(0.5, 0) };
    assert_eq!(data::class_names(&held, root), classes(&["bee", "cat"]));
    assert_eq!(both(&held, root).map(|set| set.class_sizes()), [vec![1, 1], vec![2, 1]]);
    let all = ["ant", "bee", "cat"].map(str::to_owned).to_vec();
    let said = error(&Dataset { held_out: all, ..divided(0.5, 0) }, Split::Train, root);
    assert!(said.contains("all classes of data set \"mine\" are held out"), "{said}");
}

#[test]
fn a_class_that_train_lacks_is_refused_unless_it_is_held_out() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (name, images) in [("train/ant", 2), ("train/bee", 2), ("test/ant", 1), ("test/bee", 1), ("test/wasp", 3)] {
        (0..images).for_each(|image| save(root.join(format!("mine/{name}/{image}.png")), [image, 0, 0]));
    }
    let said = error(&mine(), Split::Test, root);
    assert!(said.contains("wasp: no class of the train images") && said.contains("`held_out`"), "{said}");
    let held = Dataset { held_out: vec!["wasp".into()], ..mine() };
    assert_eq!(both(&held, root).map(|set| set.class_sizes()), [vec![2, 2], vec![1, 1]]);
    // The experiment's OOD set of it.
    let data = oodkit::config::Data {
        id: held,
        ood: Vec::new(),
        shifted: Vec::new(),
        outliers: None,
        validation: None,
        categories: None,
    };
    let [ood] = &data.ood_sets()[..] else { panic!() };
    let ood = data::load(ood, Split::Test, root).unwrap();
    assert_eq!((ood.name.as_str(), ood.len()), ("held_out", 3));
    assert!(ood.note.unwrap().contains("class wasp"));
}

#[test]
fn a_list_may_hold_out_a_class_that_only_its_test_images_have() {
    let folder = flat(&[("ant", 3), ("bee", 3), ("wasp", 2)]);
    let root = folder.path();
    fs::write(root.join("train.txt"), "ant/00.png 0\nbee/00.png 1\nbee/01.png 1\n").unwrap();
    fs::write(root.join("test.txt"), "wasp/00.png 2\nant/01.png 0\nbee/02.png 1\nwasp/01.png 2\n").unwrap();
    let list = Dataset { format: Some(Format::ImageList), list: Some("{split}.txt".into()), ..mine() };
    let id = Dataset { held_out: vec!["2".into()], ..list.clone() };
    assert_eq!(both(&id, root).map(|set| (set.classes, set.class_sizes())), [(2, vec![1, 2]), (2, vec![1, 1])]);
    let said = error(&Dataset { held_out: vec!["3".into()], ..list.clone() }, Split::Train, root);
    assert!(said.contains("has no class \"3\""), "{said}");
    // Any order, and labels with gaps.
    let turned = Dataset { classes: classes(&["2", "0"]), ..list };
    assert_eq!(data::load(&turned, Split::Test, root).unwrap().labels, Some(vec![0, 1, 0]));
    let data = oodkit::config::Data {
        id,
        ood: Vec::new(),
        shifted: Vec::new(),
        outliers: None,
        validation: None,
        categories: None,
    };
    assert_eq!(data::load(&data.ood_sets()[0], Split::Test, root).unwrap().len(), 2);
}

#[test]
fn classes_of_a_known_set_are_numbers() {
    let root = tempfile::tempdir().unwrap();
    let known = Dataset::named("fashion_mnist");
    data::synthetic::write(&known, root.path(), 40, 20, 0).unwrap();
    let id = Dataset { held_out: vec!["0".into(), "7".into()], ..known.clone() };
    let [train, test] = both(&id, root.path());
    assert_eq!((train.len(), train.classes, train.class_sizes()), (32, 8, vec![4; 8]));
    assert_eq!(data::classes(&id), Some(8));
    let data = oodkit::config::Data {
        id,
        ood: Vec::new(),
        shifted: Vec::new(),
        outliers: None,
        validation: None,
        categories: None,
    };
    let held = data::load(&data.ood_sets()[0], Split::Test, root.path()).unwrap();
    assert_eq!((held.len(), held.len() + test.len()), (4, 20));
    let all = data::load(&known, Split::Test, root.path()).unwrap();
    let labels = all.labels.as_ref().unwrap();
    assert!(
        (0..20)
            .filter(|i| [0, 7].contains(&labels[*i]))
            .map(|i| all.image(i).unwrap())
            .eq((0..4).map(|i| held.image(i).unwrap()))
    );
    // The same files under a name of one's own.
    let some = Dataset { of: Some("fashion_mnist".into()), classes: classes(&["3"]), ..Dataset::named("dresses") };
    assert_eq!(data::load(&some, Split::Test, root.path()).unwrap().len(), 2);
}

const EXPERIMENT: &str = "title: t\ndata:\n  id: { name: mine, format: class_folders, mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2] }\n  \
                          ood: [{ name: others, format: folder }]\nnetworks:\n  base: { backbone: { wide_resnet: { depth: 10, width: \
                          1, dropout: 0 } }, train: { epochs: 1, batch_size: 8, optimizer: { sgd: { lr: 0.01 } } } }\nmethods: [{ \
                          name: MSP, network: base, detector: msp }]\ntables: [{ name: all, rows: method, columns: [accuracy, auroc] }]\n";

fn with(keys: &str) -> String {
    EXPERIMENT.replace("class_folders,", &format!("class_folders, {keys},"))
}

#[test]
fn keys_that_contradict_each_other_are_told_with_their_place() {
    for (keys, said) in [
        ("split: { test: 1.0 }", "own:3:"),
        ("split: { test: 0 }", "is a share above 0 and below 1"),
        ("split: {}", "give the share to test on"),
        ("split: { test: 0.2, folds: 3 }", "not both"),
        ("split: { folds: 1 }", "at least 2"),
        ("split: { folds: 3, fold: 3 }", "the last is 2"),
        ("split: { test: 0.2, fold: 1 }", "goes with folds"),
        ("split: { share: 0.2 }", "share"),
        ("classes: [a, b, a]", "\"a\" is given twice"),
        ("classes: [a, b], held_out: [b]", "\"b\" is under `classes`, so it is learned"),
        ("of: cifar_10, classes: [a]", "own:3:"),
    ] {
        let text = with(keys).replace("mine, format: class_folders, of", "mine, of");
        let message = parse(&text, "own").unwrap_err().to_string();
        assert!(message.contains(said), "{keys}: {message}");
    }
    let list = EXPERIMENT.replace("class_folders,", "image_list, list: all.txt,");
    let message = parse(&list, "own").unwrap_err().to_string();
    assert!(message.contains("its train and test images would be the same"), "{message}");
    let both = list.replace("all.txt", "\"{split}.txt\", split: { test: 0.5 }");
    assert!(parse(&both, "own").unwrap_err().to_string().contains("divides one list"));
    let folder = EXPERIMENT
        .replace("{ name: others, format: folder }", "{ name: others, format: folder, split: { test: 0.5 } }");
    assert!(parse(&folder, "own").unwrap_err().to_string().contains("goes with class_folders or image_list"));
    let none = EXPERIMENT.replace("  ood: [{ name: others, format: folder }]\n", "");
    assert!(parse(&none, "own").unwrap_err().to_string().contains("needs OOD sets"));
    assert!(parse(&none.replace("class_folders,", "class_folders, held_out: [a],"), "own").is_ok());
    let twice = with("held_out: [a]").replace("name: others", "name: held_out");
    assert!(parse(&twice, "own").unwrap_err().to_string().contains("give this one another name"));
}

/// Runs oodkit in a folder that has an experiment `own.yaml`.
fn oodkit(folder: &Path, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_oodkit"))
        .args(arguments)
        .args(["--data", ".", "--runs", "runs"])
        .current_dir(folder)
        .env("NO_COLOR", "1")
        .output()
        .unwrap();
    (output.status.code(), [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap()).concat())
}

#[test]
fn a_run_on_one_folder_tests_on_what_it_did_not_learn_and_on_held_out_classes() {
    let folder = flat(&[("ant", 10), ("bee", 10), ("wasp", 4)]);
    save(folder.path().join("others/1.png"), [250, 250, 250]);
    let text = with("split: { test: 0.3 }, held_out: [wasp]");
    fs::write(folder.path().join("own.yaml"), &text).unwrap();
    let (code, said) = oodkit(folder.path(), &["run", "own.yaml"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains("held_out (all 4 test images") && said.contains("14 train") && said.contains("6 test"),
        "{said}"
    );
    // Another split learns other images, and so is another network.
    fs::write(folder.path().join("own.yaml"), text.replace("test: 0.3", "test: 0.3, seed: 1")).unwrap();
    let (code, said) = oodkit(folder.path(), &["run", "own.yaml"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(fs::read_dir(folder.path().join("runs/networks")).unwrap().count(), 2);
    // Told before any work.
    fs::write(folder.path().join("own.yaml"), text.replace("wasp", "vasp")).unwrap();
    for command in ["plan", "run"] {
        let (code, said) = oodkit(folder.path(), &[command, "own.yaml"]);
        assert!(said.contains("has no class \"vasp\" (did you mean \"wasp\"?)"), "{said}");
        assert_eq!(code, Some(if command == "plan" { 0 } else { 2 }));
    }
    // A smoke run has synthetic images for it.
    fs::write(folder.path().join("own.yaml"), &text).unwrap();
    let (code, said) = oodkit(folder.path(), &["run", "own.yaml", "--smoke"]);
    assert_eq!(code, Some(0), "{said}");
}

/// The experiment with other keys of the ID set, run; what was said.
fn run(folder: &Path, text: &str) -> String {
    fs::write(folder.join("own.yaml"), text).unwrap();
    let (code, said) = oodkit(folder, &["run", "own.yaml"]);
    assert_eq!(code, Some(0), "{said}");
    said
}

/// The record of the one network that is there.
fn record(folder: &Path) -> serde_json::Value {
    let networks: Vec<_> = fs::read_dir(folder.join("runs/networks")).unwrap().collect();
    assert_eq!(networks.len(), 1);
    let path = networks[0].as_ref().unwrap().path().join("seed0/network.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn mean_and_std_are_those_of_the_train_images_unless_given() {
    let folder = flat(&[("ant", 6), ("bee", 6)]);
    fs::rename(folder.path().join("mine"), folder.path().join("train")).unwrap();
    fs::create_dir(folder.path().join("mine")).unwrap();
    fs::rename(folder.path().join("train"), folder.path().join("mine/train")).unwrap();
    for class in ["ant", "bee"] {
        save(folder.path().join(format!("mine/test/{class}/1.png")), [200, 10, 90]);
    }
    save(folder.path().join("others/1.png"), [250, 250, 250]);
    let statistics = "mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]";
    let text = EXPERIMENT.replace(&format!(", {statistics}"), "");
    let said = run(folder.path(), &text);
    // By hand, from the pixels that were painted.
    let mut expected = Vec::new();
    for channel in 0..3 {
        let bytes: Vec<f64> = (0..2u32)
            .flat_map(|class| (0..6u32).map(move |image| [80 * class, 7 * image, 9][channel]))
            .flat_map(|first| (0..256u32).map(move |at| f64::from((first + (at % 16) * 3 + at / 16) as u8)))
            .collect();
        let mean = bytes.iter().sum::<f64>() / bytes.len() as f64;
        let variance = bytes.iter().map(|byte| (byte - mean) * (byte - mean)).sum::<f64>() / bytes.len() as f64;
        expected.push([mean / 255.0, variance.sqrt() / 255.0]);
    }
    let recorded = &record(folder.path())["normalisation"];
    for (channel, [mean, std]) in expected.iter().enumerate() {
        let of = |key: &str| recorded[key][channel].as_f64().unwrap();
        assert!((of("mean") - mean).abs() < 1e-7 && (of("std") - std).abs() < 1e-7, "{recorded}: {expected:?}");
    }
    let caption = format!("mean {:.3}, {:.3}, {:.3} and std", expected[0][0], expected[1][0], expected[2][0]);
    assert!(said.contains(&caption) && said.contains("of its train images"), "{said}");
    // Known before anything is read, and used again.
    let (_, said) = oodkit(folder.path(), &["plan", "own.yaml"]);
    assert!(
        said.contains("mean and std of its train images, which are computed") && said.contains(" 0 to train"),
        "{said}"
    );
    let (code, said) =
        oodkit(folder.path(), &["export", "--experiment", "own.yaml", "--network", "base", "--out", "out"]);
    assert_eq!(code, Some(0), "{said}");
    let exported: serde_json::Value =
        serde_json::from_slice(&fs::read(folder.path().join("out/model.json")).unwrap()).unwrap();
    let means = |of: &serde_json::Value| -> Vec<f32> { serde_json::from_value(of.clone()).unwrap() };
    assert_eq!(means(&exported["input"]["mean"]), means(&recorded["mean"]));
    // Means that are given are another network, and recorded in its identity as before.
    run(folder.path(), EXPERIMENT);
    assert_eq!(fs::read_dir(folder.path().join("runs/networks")).unwrap().count(), 2);
}

#[test]
fn statistics_that_cannot_be_had_are_told() {
    let text = EXPERIMENT.replace("mean: [0.5, 0.5, 0.5], ", "");
    assert!(parse(&text, "own").unwrap_err().to_string().contains("needs mean as well"));
    let text = EXPERIMENT.replace(", mean: [0.5, 0.5, 0.5], std: [0.2, 0.2, 0.2]", "");
    let start = text.find("train: {").unwrap();
    let end = text.find("\nmethods").unwrap();
    let frozen = format!("{}weights: w.safetensors }}{}", &text[..start], &text[end..]);
    let message = parse(&frozen, "own").unwrap_err().to_string();
    assert!(message.contains("weights that are used as they are need the mean and std"), "{message}");
    let folder = flat(&[]);
    for image in 0..2 {
        let path = folder.path().join(format!("mine/a/{image}.png"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        RgbImage::from_pixel(16, 16, Rgb([image, 7, 9])).save(path).unwrap();
    }
    let set = data::load(&mine(), Split::Test, folder.path()).unwrap();
    let message = data::statistics(&set).unwrap_err().to_string();
    assert!(message.contains("channel 1 of all test images of \"mine\" has one value"), "{message}");
}

#[test]
fn val_is_what_settings_are_chosen_on_or_what_is_tested() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for part in ["train", "val"] {
        for (class, name) in ["ant", "bee"].into_iter().enumerate() {
            (0..6).for_each(|i| {
                save(root.join(format!("mine/{part}/{name}/{i}.png")), [90 * class as u8, 9 * i, part.len() as u8])
            });
        }
    }
    // As ImageNet lies: no test/.
    let test = data::load(&mine(), Split::Test, root).unwrap();
    assert_eq!((test.len(), test.name.as_str()), (12, "mine"));
    assert_eq!(test.note.as_deref(), Some("the images of val/, as there is no test/"));
    let said = error(&mine(), Split::Val, root);
    assert!(said.contains("no folder test/ beside val/, so val/ is what is tested on"), "{said}");
    // Beside test/.
    save(root.join("mine/test/ant/1.png"), [5, 5, 5]);
    save(root.join("mine/test/bee/1.png"), [95, 5, 5]);
    let test = data::load(&mine(), Split::Test, root).unwrap();
    assert_eq!((test.len(), test.note), (2, None));
    let val = data::load(&mine(), Split::Val, root).unwrap();
    assert_eq!((val.len(), val.name.as_str(), val.labels.unwrap()[6..].to_vec()), (12, "mine_val", vec![1; 6]));
    save(root.join("others/1.png"), [250, 250, 250]);
    (0..4).for_each(|i| save(root.join(format!("chosen/{i}.png")), [10 * i, 200, 0]));
    let text = EXPERIMENT
        .replace("ood: [{ name: others, format: folder }]", "ood: [{ name: others, format: folder }]\n  validation: { id: val, ood: [{ name: chosen, format: folder }] }")
        .replace("detector: msp }", "detector: { temperature_scaling: {} } }, { name: KNN, network: base, detector: knn, search: { k: [1, 2] } }");
    let text = text.replace("{ name: MSP, network: base, detector: { temperature_scaling: {} } }, ", "");
    fs::write(root.join("own.yaml"), &text).unwrap();
    let (_, said) = oodkit(root, &["plan", "own.yaml"]);
    assert!(said.contains("chosen   on the val/ images of mine against chosen"), "{said}");
    let said = run(root, &text);
    assert!(said.contains("mine_val"), "{said}");
    fs::remove_dir_all(root.join("mine/test")).unwrap();
    let (code, said) = oodkit(root, &["run", "own.yaml"]);
    assert!(code == Some(2) && said.contains("val/ is what is tested on"), "{said}");
}

#[test]
fn fer2013_has_validation_images() {
    let root = tempfile::tempdir().unwrap();
    let dataset = Dataset::named("fer2013");
    data::synthetic::write(&dataset, root.path(), 8, 4, 0).unwrap();
    assert_eq!(data::load(&dataset, Split::Val, root.path()).unwrap().len(), 1);
    // Other formats have none, unless somebody makes them.
    let cifar = Dataset::named("cifar10");
    data::synthetic::write(&cifar, root.path(), 8, 4, 0).unwrap();
    assert!(error(&cifar, Split::Val, root.path()).contains("no val.bin"));
}

#[test]
fn sets_are_resized_cropped_and_shifted_as_the_id_set_is() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    // A bright border around the middle that a crop of a half keeps.
    let framed =
        |inner: [u8; 3]| {
            RgbImage::from_fn(32, 32, |x, y| {
                if (8..24).contains(&x) && (8..24).contains(&y) { Rgb(inner) } else { Rgb([255; 3]) }
            })
        };
    for (name, inner) in
        [("train/ant", [60, 0, 0]), ("train/bee", [0, 60, 0]), ("test/ant", [60, 0, 0]), ("test/bee", [0, 60, 0])]
    {
        for image in 0..2 {
            let path = root.join(format!("mine/{name}/{image}.png"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            framed(inner).save(path).unwrap();
        }
    }
    let keys = |resize: &str, crop: &str| -> Dataset {
        serde_json::from_value(serde_json::json!({
            "name": "mine", "format": "class_folders", "size": 16,
            "resize": serde_json::from_str::<serde_json::Value>(resize).unwrap(),
            "crop": serde_json::from_str::<serde_json::Value>(crop).unwrap(),
        }))
        .unwrap()
    };
    let half = data::load(&keys("null", "0.5"), Split::Train, root).unwrap();
    assert_eq!(half.shape(), [3, 16, 16]);
    assert!(half.image(0).unwrap().iter().all(|byte| *byte <= 60));
    // Read at a shape, held or not, the same.
    let again = data::load_as(&keys("null", "0.5"), Split::Train, root, Some([3, 16, 16]), Some(0)).unwrap();
    assert_eq!(again.sha256().unwrap(), half.sha256().unwrap());
    let all = data::load(&keys("{\"mode\": \"nearest\"}", "\"none\""), Split::Train, root).unwrap();
    assert_eq!((all.image(0).unwrap()[0], all.image(0).unwrap()[8 * 16 + 8]), (255, 60));
    // Bilinear with anti-aliasing is what nothing means.
    let whole = data::load(&keys("null", "null"), Split::Train, root).unwrap();
    let said = data::load(&keys("{\"mode\": \"bilinear\", \"antialias\": true}", "1.0"), Split::Train, root).unwrap();
    assert_eq!(whole.sha256().unwrap(), said.sha256().unwrap());
    // OOD images lose their borders as well: of a frame around black nothing is left.
    fs::create_dir_all(root.join("others")).unwrap();
    framed([0, 0, 0]).save(root.join("others/1.png")).unwrap();
    fs::create_dir_all(root.join("black")).unwrap();
    RgbImage::new(16, 16).save(root.join("black/1.png")).unwrap();
    let black = Dataset { format: Some(Format::Folder), ..Dataset::named("black") };
    let black = data::load(&black, Split::Test, root).unwrap().sha256().unwrap();
    // Every image is shifted for itself: of one grey nothing but the target is left.
    fs::create_dir_all(root.join("grey")).unwrap();
    RgbImage::from_pixel(16, 16, Rgb([128; 3])).save(root.join("grey/1.png")).unwrap();
    let shifted = |brightness: &str, memory| {
        let keys = serde_json::json!({
            "name": "others", "format": "folder", "size": 16, "crop": 0.5,
            "brightness": serde_json::from_str::<serde_json::Value>(brightness).unwrap(),
        });
        let set: Dataset = serde_json::from_value(keys).unwrap();
        data::load_as(&set, Split::Test, root, Some([3, 16, 16]), memory).unwrap()
    };
    let of = |set: data::ImageSet| set.image(0).unwrap().to_vec();
    assert_eq!(of(shifted("\"median\"", None)), [128; 768]);
    assert_eq!(of(shifted("{\"median\": 0.8}", Some(0))), [204; 768]);
    assert_eq!(of(shifted("\"none\"", None)), [0; 768]);
    assert_eq!(shifted("\"median\"", None).note.unwrap(), "every image shifted to a median grey of 0.5");
    for (keys, same) in [("crop: 0.5", true), ("crop: 1.0", false), ("crop: 0.5, brightness: { median: 0 }", true)] {
        let text = with(&format!("size: 16, {keys}"));
        run(root, &text);
        let experiments = fs::read_dir(root.join("runs/experiments")).unwrap().map(|entry| entry.unwrap().path());
        let newest =
            experiments.max_by_key(|path| fs::metadata(path.join("results.json")).unwrap().modified().unwrap());
        let results = fs::read_to_string(newest.unwrap().join("results.json")).unwrap();
        let results: serde_json::Value = serde_json::from_str(&results).unwrap();
        assert_eq!(results["datasets"]["others"]["sha256"].as_str() == Some(&black), same, "{keys}");
    }
    for (keys, said) in [
        ("size: 16, crop: 0", "is a share from 0.1 to 1, or none"),
        ("size: 16, crop: 1.5", "is a share from 0.1 to 1, or none"),
        ("size: 16, crop: all", "a share from 0.1 to 1, or `none`"),
        ("size: 16, resize: { mode: lanczos }", "lanczos"),
        ("brightness: { median: 1.5 }", "a median grey is from 0 to 1"),
        ("brightness: mean", "`none`, `median`, or `{ median: 0.8 }`"),
        ("size: 16, resize: { smooth: true }", "smooth"),
    ] {
        let message = parse(&with(keys), "own").unwrap_err().to_string();
        assert!(message.contains(said), "{keys}: {message}");
    }
    for key in ["crop: 0.5", "brightness: median"] {
        let other = EXPERIMENT.replace("others, format: folder", &format!("others, format: folder, {key}"));
        assert!(parse(&other, "own").unwrap_err().to_string().contains("goes with the ID set"));
    }
}

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data")
}

/// The byte at a place of an image of `tests/golden/data/cifar_python.py`.
fn painted(image: usize) -> Vec<u8> {
    (0..3072).map(|place| (7 * image + place / 16) as u8).collect()
}

#[test]
fn torchvisions_cifar_pickles_are_read() {
    let cifar10 = Dataset { path: Some(golden()), ..Dataset::named("cifar10") };
    let test = data::load(&cifar10, Split::Test, Path::new(".")).unwrap();
    assert_eq!((test.labels.clone(), test.classes, test.shape()), (Some(vec![3, 8, 0]), 10, [3, 32, 32]));
    assert!((0..3).all(|i| *test.image(i).unwrap() == painted(i)));
    let train = data::load(&cifar10, Split::Train, Path::new(".")).unwrap();
    assert_eq!(train.labels, Some(vec![1, 2, 3, 4, 5]));
    assert!((0..5).all(|i| *train.image(i).unwrap() == painted(i + 1)));
    // Python 3 writes bytes for Python 2 as text, and what it is to be encoded by.
    let protocol_2 = Dataset { path: Some(golden().join("protocol-2")), ..Dataset::named("cifar10") };
    let test = data::load(&protocol_2, Split::Test, Path::new(".")).unwrap();
    assert_eq!(test.labels, Some(vec![3, 8, 0]));
    assert!((0..3).all(|i| *test.image(i).unwrap() == painted(i)));
    // The folder itself may be named; columns that lie together are turned.
    let cifar100 = Dataset { path: Some(golden().join("cifar-100-python")), ..Dataset::named("cifar100") };
    let test = data::load(&cifar100, Split::Test, Path::new(".")).unwrap();
    assert_eq!(test.labels, Some(vec![49, 99]));
    assert!((0..2).all(|i| *test.image(i).unwrap() == painted(i)));
}

#[test]
fn damaged_cifar_pickles_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cifar-10-batches-py/test_batch");
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let cifar10 = Dataset { path: Some(folder.path().to_owned()), ..Dataset::named("cifar10") };
    let whole = fs::read(golden().join("cifar-10-batches-py/test_batch")).unwrap();
    let at = |needle: &[u8]| whole.windows(needle.len()).position(|window| window == needle).unwrap();
    let changed = |place: usize, byte: u8| {
        let mut bytes = whole.clone();
        bytes[place] = byte;
        bytes
    };
    for (bytes, reason) in [
        (whole[..5000].to_vec(), "the end of the data"),
        (b"N.".to_vec(), "a pickle of no dictionary"),
        (b"cos\nsystem\nU\x04echo\x85R.".to_vec(), "a pickle of no dictionary"),
        (changed(at(b"U\x06labels") + 2, b'x'), "a pickle without `labels`"),
        (changed(at(b"U\x04data") + 2, b'x'), "a pickle without `data`"),
        (changed(at(b"(K\x03K\x08K\x00e") + 2, 11), "label 11 of record 0 is not below 10"),
        // Another type, and another shape, than the bytes are.
        (changed(at(b"U\x02u1") + 3, b'4'), "`data` is not uint8 (3, 3072)"),
        (changed(at(b"K\x01K\x03M\x00\x0c") + 3, 4), "`data` is not uint8 (3, 3072)"),
    ] {
        fs::write(&path, bytes).unwrap();
        let said = error(&cifar10, Split::Test, Path::new("."));
        assert!(said.contains("test_batch: ") && said.contains(reason), "{reason}: {said}");
    }
    // A file of nothing but its length, and one that never ends.
    fs::File::create(&path).unwrap().set_len((1 << 30) + 1).unwrap();
    assert!(error(&cifar10, Split::Test, Path::new(".")).contains("too large"));
    #[cfg(unix)]
    {
        fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert!(error(&cifar10, Split::Test, Path::new(".")).contains("cifar10"));
    }
}

#[test]
fn torchvisions_folders_of_idx_files_are_found() {
    let root = tempfile::tempdir().unwrap();
    for (name, theirs) in [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST")] {
        let dataset = Dataset::named(name);
        data::synthetic::write(&dataset, root.path(), 10, 6, 0).unwrap();
        let expected = data::load(&dataset, Split::Test, root.path()).unwrap().sha256().unwrap();
        let theirs = root.path().join(theirs);
        fs::create_dir_all(&theirs).unwrap();
        fs::rename(root.path().join(name), theirs.join("raw")).unwrap();
        for path in [None, Some(root.path().to_owned()), Some(theirs.clone()), Some(theirs.join("raw"))] {
            let found = Dataset { path: path.clone(), ..dataset.clone() };
            let set = data::load(&found, Split::Test, root.path()).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            assert_eq!(set.sha256().unwrap(), expected);
            data::check(&found, &[Split::Train, Split::Test], root.path()).unwrap();
        }
    }
}

#[test]
fn torchvisions_folder_is_found_for_a_set_of_ones_own_if_it_is_the_only_one() {
    let root = tempfile::tempdir().unwrap();
    data::synthetic::write(&Dataset::named("mnist"), root.path(), 10, 6, 0).unwrap();
    fs::create_dir_all(root.path().join("mine/KMNIST")).unwrap();
    fs::rename(root.path().join("mnist"), root.path().join("mine/KMNIST/raw")).unwrap();
    let mine = Dataset { format: Some(data::Format::Idx), ..Dataset::named("mine") };
    assert_eq!(data::load(&mine, Split::Test, root.path()).unwrap().len(), 6);
    let (one, other) = (root.path().join("mine/KMNIST/raw"), root.path().join("mine/MNIST/raw"));
    fs::create_dir_all(&other).unwrap();
    for file in fs::read_dir(one).unwrap() {
        let path = file.unwrap().path();
        fs::copy(&path, other.join(path.file_name().unwrap())).unwrap();
    }
    assert!(data::load(&mine, Split::Test, root.path()).is_err());
}

#[test]
fn a_sweep_over_folds_tests_on_each() {
    let folder = flat(&[("ant", 6), ("bee", 6)]);
    save(folder.path().join("others/1.png"), [250, 250, 250]);
    let text = with("split: { folds: 3, fold: 0 }") + "sweep: { data.id.split.fold: [0, 1, 2] }\n";
    let said = run(folder.path(), &text);
    assert!(said.contains("each cell tests on its own fold"), "{said}");
    assert_eq!(fs::read_dir(folder.path().join("runs/networks")).unwrap().count(), 3);
    // A network of each fold, which has seen none of the images that it is tested on.
    let mut digests = BTreeSet::new();
    for network in fs::read_dir(folder.path().join("runs/networks")).unwrap() {
        let record = fs::read_to_string(network.unwrap().path().join("seed0/network.json")).unwrap();
        let record: serde_json::Value = serde_json::from_str(&record).unwrap();
        assert_eq!(record["train_images"], 8);
        digests.insert(record["train_sha256"].to_string());
    }
    assert_eq!(digests.len(), 3);
    let other = text.replace("data.id.split.fold: [0, 1, 2]", "data.id.split.seed: [0, 1]");
    assert!(parse(&other, "own").unwrap_err().to_string().contains("`data` cannot be swept"));
    let beyond = text.replace("[0, 1, 2]", "[0, 3]");
    assert!(parse(&beyond, "own").unwrap_err().to_string().contains("the last is 2"));
}

#[cfg(unix)]
#[test]
fn links_are_followed_only_where_it_is_said() {
    use std::os::unix::fs::symlink;
    let folder = flat(&[("ant", 3), ("bee", 3)]);
    let root = folder.path();
    let with =
        |links: &str, dataset: Dataset| Dataset { links: serde_json::from_value(links.into()).unwrap(), ..dataset };
    let refused = |dataset: &Dataset| error(dataset, Split::Test, root);
    // A file that stays inside, one that leads out, a folder of each kind.
    save(root.join("elsewhere/9.png"), [9; 3]);
    let link = root.join("mine/bee/9.png");
    symlink("../ant/00.png", &link).unwrap();
    assert!(
        refused(&mine())
            .contains("9.png is a symbolic link (links inside a data set are not followed unless `links: follow`")
    );
    assert_eq!(data::load(&with("follow", mine()), Split::Test, root).unwrap().class_sizes(), [3, 4]);
    fs::remove_file(&link).unwrap();
    symlink(root.join("elsewhere/9.png"), &link).unwrap();
    assert!(refused(&with("follow", mine())).contains("9.png is a symbolic link out of"));
    assert_eq!(data::load(&with("anywhere", mine()), Split::Test, root).unwrap().class_sizes(), [3, 4]);
    fs::remove_file(&link).unwrap();
    symlink("nothing.png", &link).unwrap();
    assert!(refused(&with("anywhere", mine())).contains("9.png is a symbolic link to nothing"));
    fs::remove_file(&link).unwrap();
    // A class that is a link; loops and folders that would count twice.
    symlink(root.join("elsewhere"), root.join("mine/cat")).unwrap();
    assert!(refused(&with("follow", mine())).contains("cat is a symbolic link out of"));
    assert_eq!(data::load(&with("anywhere", mine()), Split::Test, root).unwrap().class_sizes(), [3, 3, 1]);
    symlink(root.join("elsewhere"), root.join("mine/dog")).unwrap();
    assert!(refused(&with("anywhere", mine())).contains("a folder that is read already"));
    fs::remove_file(root.join("mine/dog")).unwrap();
    fs::remove_file(root.join("mine/cat")).unwrap();
    symlink("../..", root.join("mine/bee/up")).unwrap();
    assert!(refused(&with("anywhere", mine())).contains("a folder that is read already"));
    fs::remove_file(root.join("mine/bee/up")).unwrap();
    symlink("/dev/zero", &link).unwrap();
    assert!(refused(&with("anywhere", mine())).contains("is not a regular file"));
    fs::remove_file(&link).unwrap();
    // Lists have the same rule.
    let list = Dataset { format: Some(Format::ImageList), list: Some("all.txt".into()), ..mine() };
    symlink("../ant/00.png", &link).unwrap();
    symlink(root.join("elsewhere"), root.join("mine/out")).unwrap();
    fs::write(root.join("all.txt"), "bee/9.png 0\n").unwrap();
    assert!(refused(&list).contains("without `links: follow`"));
    assert_eq!(data::load(&with("follow", list.clone()), Split::Test, root).unwrap().len(), 1);
    fs::write(root.join("all.txt"), "out/9.png 0\n").unwrap();
    assert!(refused(&with("follow", list.clone())).contains("out is a symbolic link out of"));
    assert_eq!(data::load(&with("anywhere", list), Split::Test, root).unwrap().len(), 1);
}

#[test]
fn openoods_folder_is_read_by_its_lists() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("openood");
    for (images, list, lines) in [
        ("images_classic", "cifar10/train_mine.txt", "mine/a/1.png 0\nmine/b/1.png 1\nmine/b/2.png 1"),
        ("images_classic", "cifar10/test_mine.txt", "mine/a/3.png 0\nmine/b/3.png 1"),
        ("images_classic", "cifar10/val_mine.txt", "mine/a/4.png 0"),
        ("images_classic", "cifar10/test_near.txt", "near/1.png -1\nnear/2.png -1"),
        ("images_largescale", "cifar10/test_large.txt", "large/1.png -1"),
    ] {
        let path = root.join("benchmark_imglist").join(list);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, lines).unwrap();
        for (image, line) in lines.lines().enumerate() {
            save(root.join(images).join(line.split(' ').next().unwrap()), [40 * image as u8, 90, lines.len() as u8]);
        }
    }
    fs::create_dir_all(root.join("images_largescale")).unwrap();
    let openood =
        |name: &str| Dataset { format: Some(Format::Openood), list: Some("cifar10".into()), ..Dataset::named(name) };
    let size = |dataset: &Dataset, split| data::load(dataset, split, folder.path()).unwrap().len();
    let sizes = [Split::Train, Split::Test, Split::Val].map(|split| size(&openood("mine"), split));
    assert_eq!((sizes, size(&openood("near"), Split::Test), size(&openood("large"), Split::Test)), ([3, 2, 1], 2, 1));
    // Elsewhere, and under a name of one's own.
    let moved = Dataset { path: Some(root.clone()), of: Some("near".into()), ..openood("other") };
    assert_eq!(size(&moved, Split::Test), 2);
    let said = error(&openood("far"), Split::Test, folder.path());
    assert!(said.contains("test_far.txt") && said.contains("OpenOOD's data folder"), "{said}");
    let text = EXPERIMENT
        .replace("class_folders,", "openood, list: cifar10,")
        .replace("others, format: folder", "near, format: openood, list: cifar10");
    let said = run(folder.path(), &text);
    assert!(said.contains("all 2 test images"), "{said}");
    fs::write(folder.path().join("own.yaml"), &text).unwrap();
    let (code, said) = oodkit(folder.path(), &["run", "own.yaml", "--smoke"]);
    assert_eq!(code, Some(0), "{said}");
    let without = text.replace(", list: cifar10", "");
    assert!(parse(&without, "own").unwrap_err().to_string().contains("openood needs list"));
}

#[test]
fn a_plan_of_ones_own_images_says_how_many_there_are_and_how_large() {
    let folder = flat(&[("ant", 10), ("bee", 10), ("cat", 10)]);
    save(folder.path().join("others/1.png"), [250, 250, 250]);
    fs::write(folder.path().join("own.yaml"), with("split: { test: 0.2 }")).unwrap();
    let output = assert_cmd::Command::cargo_bin("oodkit")
        .unwrap()
        .arg("plan")
        .arg(folder.path().join("own.yaml"))
        .arg("--data")
        .arg(folder.path())
        .arg("--runs")
        .arg(folder.path().join("runs"))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let line = text.lines().find(|line| line.starts_with("images ")).unwrap_or_else(|| panic!("{text}"));
    assert!(line.ends_with("values, 3 classes, 24 to learn from, 6 to test on"), "{line}");
    assert!(text.contains("1 to train: "), "{text}");
}
