//! Folders of categories in MVTec's layout: tasks, masks, tables by category, and what is wrong with files.

#[path = "surfaces/metaformer.rs"]
mod metaformer;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use image::{GrayImage, Luma, Rgb, RgbImage};
use serde_json::Value;

/// A folder with categories, a labelled set, and an experiment.
struct Place {
    folder: tempfile::TempDir,
}

/// The experiment's data, networks and methods; a network learns colours and is used on every category.
const DATA: &str = "{ format: mvtec, path: parts, size: 32 }";
const NETWORKS: &str = "{ colours: { backbone: lenet, data: { name: colours, format: class_folders }, train: { epochs: 1, batch_size: 8, \
                        optimizer: { adamw: { lr: 0.003 } } } } }";
const METHODS: &str = "[{ name: KNN, network: colours, detector: { knn: { k: 1 } } }]";

impl Place {
    /// Two categories of 32×32 images: 6 to learn, 4 normal ones to test, 3 with a scratch and 2 with a dent; and three colours.
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        for (category, grey) in [("bolt", 60), ("nut", 160)] {
            for i in 0..6 {
                place.image(&format!("parts/{category}/train/good/{i:03}.png"), grey, i, None);
            }
            for i in 0..4 {
                place.image(&format!("parts/{category}/test/good/{i:03}.png"), grey, i + 6, None);
            }
            for (kind, count) in [("scratch", 3), ("dent", 2)] {
                for i in 0..count {
                    let at = 4 + 3 * u32::from(i);
                    place.image(&format!("parts/{category}/test/{kind}/{i:03}.png"), grey, i, Some(at));
                    place.mask(&format!("parts/{category}/ground_truth/{kind}/{i:03}_mask.png"), 32, Some(at));
                }
            }
        }
        for (class, colour) in [[200, 30, 30], [30, 200, 30], [30, 30, 200]].into_iter().enumerate() {
            for i in 0..6 {
                let image = RgbImage::from_fn(32, 32, |x, y| {
                    Rgb(colour.map(|value: u8| value.saturating_add(((x * y + i) % 9) as u8)))
                });
                place.save(&format!("colours/train/c{class}/{i}.png"), |path| image.save(path).unwrap());
            }
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn save(&self, name: &str, save: impl Fn(&Path)) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        save(&path);
    }

    /// A grey image under a pattern, with a bright square of 8 pixels at a place, if there is one.
    fn image(&self, name: &str, grey: u8, variant: u8, defect: Option<u32>) {
        let image = RgbImage::from_fn(32, 32, |x, y| {
            let inside = defect.is_some_and(|at| (at..at + 8).contains(&x) && (at..at + 8).contains(&y));
            Rgb(if inside { [250, 240, 20] } else { [grey + ((x + y + u32::from(variant)) % 11) as u8; 3] })
        });
        self.save(name, |path| image.save(path).unwrap());
    }

    /// The mask of such a square, or an empty one.
    fn mask(&self, name: &str, side: u32, defect: Option<u32>) {
        let mask = GrayImage::from_fn(side, side, |x, y| {
            let inside = defect.is_some_and(|at| (at..at + 8).contains(&x) && (at..at + 8).contains(&y));
            Luma([if inside { 255 } else { 0 }])
        });
        self.save(name, |path| mask.save(path).unwrap());
    }

    /// Calls the program on an experiment; the exit code, and what it said.
    fn oodkit(&self, command: &str, [data, networks, methods]: [&str; 3], more: &[&str]) -> (Option<i32>, String) {
        let tables = match data.starts_with("{ format: mvtec") {
            true => {
                "tables:\n  - { name: parts, rows: task, columns: [auroc, ap, best_f1, pixel_auroc] }\n  - { name: methods, rows: \
                 method, columns: [auroc] }\n"
            }
            false => "tables:\n  - { name: methods, rows: method, columns: [accuracy, auroc] }\n",
        };
        let experiment = format!("title: Parts\ndata: {data}\nnetworks: {networks}\nmethods: {methods}\n{tables}");
        fs::write(self.path("parts.yaml"), experiment).unwrap();
        self.call(&[&[command, "parts.yaml"], more].concat())
    }

    /// Calls the program; the exit code, and what it said.
    fn call(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_oodkit"))
            .args(arguments)
            .args(["--data", ".", "--runs", "runs"])
            .current_dir(self.folder.path())
            .env("NO_COLOR", "1")
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    }

    fn run(&self, data: &str) -> (Option<i32>, String) {
        self.oodkit("run", [data, NETWORKS, METHODS], &[])
    }

    /// Calls `predict` on the last experiment.
    fn predict(&self, more: &[&str]) -> (Option<i32>, String) {
        self.call(&[&["predict", "--experiment", "parts.yaml"], more].concat())
    }

    fn results(&self) -> Value {
        let folders = fs::read_dir(self.path("runs/experiments"))
            .unwrap()
            .map(|entry| entry.unwrap().path().join("results.json"));
        let newest =
            folders.filter(|file| file.is_file()).max_by_key(|file| fs::metadata(file).unwrap().modified().unwrap());
        serde_json::from_slice(&fs::read(newest.unwrap()).unwrap()).unwrap()
    }

    /// What is said of a run that does not start.
    #[track_caller]
    fn refused(&self, data: &str) -> String {
        let (code, said) = self.run(data);
        assert_eq!(code, Some(2), "{said}");
        assert!(!self.path("runs/networks").exists(), "something was trained: {said}");
        said
    }
}

#[track_caller]
fn has(said: &str, parts: &[&str]) {
    for part in parts {
        assert!(said.contains(part), "no {part:?} in: {said}");
    }
}

#[test]
fn each_category_is_a_task_and_a_shared_network_is_trained_once() {
    let place = Place::new();
    let (code, plan) = place.oodkit("plan", [DATA, NETWORKS, METHODS], &[]);
    assert_eq!(code, Some(0), "{plan}");
    has(
        &plan,
        &[
            "bolt against dent, scratch",
            "nut against dent, scratch",
            "32×32 pixels, 12 to learn from, 18 to test on",
            "1 networks, 1 to train",
        ],
    );
    let (code, said) = place.run(DATA);
    assert_eq!(code, Some(0), "{said}");
    has(&said, &["Category", "bolt", "nut", "mean", "Mean over categories: unweighted, over 2 sets (bolt, nut)"]);
    has(&said, &["bolt (all 6 train images, all 9 test images, 4 of them normal)"]);
    let results = place.results();
    let tasks = &results["cells"][0]["seeds"][0]["tasks"];
    assert_eq!(tasks.as_object().unwrap().keys().collect::<Vec<_>>(), ["bolt", "nut"]);
    for category in ["bolt", "nut"] {
        let sets = &tasks[category]["methods"]["KNN"]["sets"];
        assert_eq!(sets.as_object().unwrap().keys().collect::<Vec<_>>(), ["dent", "scratch", "all"]);
        // All five anomalous images against the four normal ones: the mean of the kinds, weighted by their images.
        let auroc = |set: &str| sets[set]["measures"]["auroc"].as_f64().unwrap();
        assert!((auroc("all") - (2.0 * auroc("dent") + 3.0 * auroc("scratch")) / 5.0).abs() < 1e-12);
        // In one class there is nothing to be right about, and without maps there are no pixels.
        assert_eq!(tasks[category]["networks"]["colours"]["measures"], serde_json::json!({}));
        assert_eq!(sets["all"]["measures"]["pixel_auroc"], Value::Null);
        assert_eq!(results["datasets"][category]["kinds"]["scratch"]["images"], 3);
    }
    let networks: Vec<_> = fs::read_dir(place.path("runs/networks")).unwrap().collect();
    assert_eq!(networks.len(), 1, "{networks:?}");
    // What a detector learned of one category is not taken for what it learned of another.
    let [bolt, nut] =
        ["bolt", "nut"].map(|category| tasks[category]["methods"]["KNN"]["scores"][category].as_str().unwrap());
    assert_ne!(Path::new(bolt).parent(), Path::new(nut).parent());
}

/// A model that tells no classes learns each category by itself; frozen features are one network for all.
#[test]
fn models_without_classes_stand_in_the_same_table() {
    let place = Place::new();
    let networks = "\n  again: { model: { autoencoder: { channels: 4, latent: 2, depth: 2 } }, loss: { reconstruction: {} }, train: { epochs: \
                    3, batch_size: 3, validation: 2, keep: best, optimizer: { adamw: { lr: 0.003 } } } }\n  colours: { model: { features: { \
                    backbone: resnet20 } }, weights: { file: none.safetensors } }";
    let methods = "[{ name: Autoencoder, network: again, detector: map }]";
    let only = networks.split("\n  colours").next().unwrap();
    let (code, plan) = place.oodkit("plan", [DATA, only, methods], &[]);
    assert_eq!(code, Some(0), "{plan}");
    has(&plan, &["2 networks, 2 to train", "maps of Autoencoder: 18 of 8×8"]);
    // A frozen network is one for both categories, and is not trained.
    fs::write(place.path("none.safetensors"), "").unwrap();
    let (code, plan) = place.oodkit(
        "plan",
        [DATA, &networks.replace("none.safetensors }", "none.safetensors }, normalise: weights"), methods],
        &[],
    );
    assert_eq!(code, Some(0), "{plan}");
    has(&plan, &["3 networks, 2 to train", "to store"]);
    let (code, said) = place.oodkit("run", [DATA, only, methods], &[]);
    assert_eq!(code, Some(0), "{said}");
    has(&said, &["validation loss "]);
    assert!(!said.contains("accuracy"), "{said}");
    let results = place.results();
    for category in ["bolt", "nut"] {
        let task = &results["cells"][0]["seeds"][0]["tasks"][category];
        let measures = &task["methods"]["Autoencoder"]["sets"]["all"]["measures"];
        assert!(measures["pixel_auroc"].as_f64().unwrap() > 0.9, "{category}: {measures}");
        assert_eq!(task["networks"]["again"]["measures"], serde_json::json!({}));
    }
    // The same scores for the same images, and no class.
    let input = place.path("parts/bolt/test/dent");
    let new = ["--task", "bolt", "--method", "Autoencoder", "--quantile", "0.9", "--input", input.to_str().unwrap()];
    let (code, csv) = place.predict(&new);
    assert_eq!(code, Some(0), "{csv}");
    assert!(csv.contains("000.png,,,"), "{csv}");
    has(&csv, &["train images that were held out of 6; the detector learns from no image"]);

    // A network that serves every category, and each category's own autoencoder in one score.
    let colours = NETWORKS.strip_prefix("{ colours:").and_then(|rest| rest.strip_suffix(" }")).unwrap();
    let two = format!("{only}\n  colours:{colours}");
    let change =
        "[{ name: Change, network: colours, detector: { reconstruction_change: { maker: again, of: features } } }]";
    let (code, said) = place.oodkit("run", [DATA, &two, change], &[]);
    assert_eq!(code, Some(0), "{said}");
    let results = place.results();
    let paths = ["bolt", "nut"].map(|category| {
        let change = &results["cells"][0]["seeds"][0]["tasks"][category]["methods"]["Change"];
        assert!(change["sets"]["all"]["measures"]["auroc"].as_f64().is_some(), "{category}: {change}");
        change["scores"][category].as_str().unwrap().to_owned()
    });
    assert_ne!(paths[0], paths[1], "each category has a second network of its own");

    // What a model does not show cannot be read, by a loss or by a detector.
    let refused = |networks: &str, methods: &str| {
        let (code, said) = place.oodkit("run", [DATA, networks, methods], &[]);
        assert_eq!(code, Some(2), "{said}");
        said
    };
    let classifying = only.replace("reconstruction", "cross_entropy");
    let said = refused(&classifying, methods);
    has(
        &said,
        &[
            "cross_entropy reads logits of a softmax, and \"again\", of the kind autoencoder, shows none",
            "reconstruction",
        ],
    );
    // The network has one fault, so there is one message.
    assert!(!said.contains("nothing to classify"), "{said}");
    let said = refused(&only.replace("loss: { reconstruction: {} }, ", ""), methods);
    has(&said, &["write `loss: { reconstruction: {} }` (cross_entropy is the default of `loss`)"]);
    assert!(!said.contains("nothing to classify"), "{said}");
    for (detector, words) in [
        (
            "energy",
            "energy reads logits, and \"again\", of the kind autoencoder, shows none: it shows images made again, a map and layers, \
             and the detector `map` reads its map",
        ),
        (
            "patchcore",
            "patchcore reads stages, and \"again\", of the kind autoencoder, shows none: it shows images made again, a map",
        ),
    ] {
        has(&refused(only, &methods.replace("detector: map", &format!("detector: {detector}"))), &[words]);
    }
    let own = methods.replace("again", "colours");
    let words = "map reads a map, and \"colours\", of the kind features, shows none: padim and patchcore make maps of its stages";
    has(&refused(networks, &own), &[words]);
    let energy = own.replace("detector: map", "detector: energy");
    has(
        &refused(networks, &energy),
        &["shows none: it shows features, stages, layers", "`oodkit detectors` lists what reads them"],
    );
    // What a model that is not trained needs, and what one that nothing trains.
    let (before, recipe) = only.split_once(", train: ").unwrap();
    has(
        &refused(&format!("{before} }}"), methods),
        &["give train (a recipe): a model of the kind autoencoder has to learn"],
    );
    let frozen = networks.replace(", weights: { file: none.safetensors }", "");
    let said = refused(&frozen, methods);
    has(&said, &["networks.colours: give weights (a file): a model of the kind features does not learn"]);
    let recipe = recipe.trim_end().strip_suffix('}').unwrap().trim_end();
    for (weights, words) in [
        ("", "give `weights` in the place of `train`"),
        (", weights: { file: none.safetensors }", "use it without `train` (cross_entropy is the default of `loss`)"),
    ] {
        let trained = format!("{}{weights}, train: {recipe} }}", frozen.strip_suffix(" }").unwrap());
        has(&refused(&trained, methods), &["\"colours\", of the kind features, shows none", words]);
    }
    let headed = networks.replace("none.safetensors", "none.safetensors, head: new");
    has(&refused(&headed, methods), &["a model of the kind features has no head: leave this key out"]);
    let again = format!("{frozen}\n  more: {{ from: again }}");
    has(
        &refused(&again, methods),
        &["networks.more: give train (a recipe): without it this network is \"again\" itself"],
    );
    let both = only.replace("model:", "backbone: lenet, model:");
    has(&refused(&both, methods), &["give backbone or model, not both"]);
    let headed = only.replace("model:", "head: duq, model:");
    has(&refused(&headed, methods), &["head", "`model` says how it is built"]);
    let deep = only.replace("depth: 2", "depth: 6");
    has(&refused(&deep, methods), &["needs images of at least 64×64 pixels"]);
    let all = methods.replace("detector: map", "detector: all");
    let (code, said) = place.oodkit("plan", [DATA, only, &all], &[]);
    // Of all detectors, what reads layers alone.
    assert_eq!(code, Some(0), "{said}");
    has(&said, &["Autoencoder: afdu"]);
    assert!(!said.contains("Autoencoder: map") && !said.contains("maps of"), "{said}");
    let (code, said) =
        place.oodkit("run", [DATA, only, methods], &["--set", "figures=[{ accuracy: { networks: [again] } }]"]);
    assert_eq!(code, Some(2), "{said}");
    has(&said, &["\"again\", of the kind autoencoder, tells no classes"]);
    let lacking = "{ base: { model: { classifier: { backbone: lenet, shortcut: average_pool } }, data: { name: colours, format: \
                   class_folders }, train: { epochs: 1, batch_size: 8, optimizer: { adamw: { lr: 0.003 } } } } }";
    has(
        &refused(lacking, "[{ name: MSP, network: base, detector: msp }]"),
        &["lenet has no such shortcuts", "shortcut"],
    );
    let unknown = only.replace("autoencoder:", "autoencodr:");
    has(&refused(&unknown, methods), &["autoencodr", "autoencoder"]);
}

/// A student of a frozen teacher is trained and scored for each category; what does not go together is refused.
#[test]
fn students_of_a_teacher_stand_in_the_same_table() {
    let place = Place::new();
    let recipe = "train: { epochs: 4, batch_size: 3, validation: 2, keep: best, optimizer: { adamw: { lr: 0.005, betas: [0.5, 0.999], \
                  weight_decay: 0 } } }";
    let network =
        |name: &str, model: &str, loss: &str| format!("{name}: {{ model: {{ {model} }}, loss: {loss}, {recipe} }}");
    let stages = "stages: [layer1, layer2, layer3]";
    let rd = format!("reverse_distillation: {{ backbone: resnet20, {stages} }}");
    let networks = format!(
        "{{ {}, {} }}",
        network("rd", &rd, "{ distillation: { of: flat } }"),
        network("stfpm", &format!("stfpm: {{ backbone: resnet20, {stages} }}"), "{ distillation: { weight: 2 } }")
    );
    let methods =
        "[{ name: RD, network: rd, detector: map }, { name: STFPM, network: stfpm, detector: { map: { smooth: 0 } } }]";
    let (code, plan) = place.oodkit("plan", [DATA, &networks, methods], &[]);
    assert_eq!(code, Some(0), "{plan}");
    has(&plan, &["4 networks, 4 to train", "maps of RD: 18 of 32×32", "maps of STFPM: 18 of 32×32"]);
    has(&plan, &["kept     16 images' outputs of frozen backbones (4 pools, "]);
    let (code, said) = place.oodkit("run", [DATA, &networks, methods], &[]);
    assert_eq!(code, Some(0), "{said}");
    has(&said, &["validation loss "]);
    let results = place.results();
    for (category, method) in [("bolt", "RD"), ("nut", "RD"), ("bolt", "STFPM"), ("nut", "STFPM")] {
        let measures =
            &results["cells"][0]["seeds"][0]["tasks"][category]["methods"][method]["sets"]["all"]["measures"];
        // A teacher of random weights knows where little, and whether well.
        assert!(measures["auroc"].as_f64().unwrap() > 0.8, "{category} {method}: {measures}");
    }
    // What is exported scores as what was trained.
    let export = ["export", "--experiment", "parts.yaml", "--network", "rd", "--out", "exported"];
    let (code, said) = place.call(&export);
    assert_eq!(code, Some(2), "{said}");
    has(&said, &["--task: the experiment has several tasks", "name one of bolt, nut"]);
    let (code, said) = place.call(&[&export[..], &["--task", "nut"]].concat());
    assert_eq!(code, Some(0), "{said}");
    let about: serde_json::Value =
        serde_json::from_slice(&fs::read(place.path("exported/model.json")).unwrap()).unwrap();
    assert_eq!((&about["task"], &about["methods"][0]["name"]), (&"nut".into(), &"RD".into()));
    let scores = |results: &serde_json::Value| {
        let paths = &results["cells"][0]["seeds"][0]["tasks"]["nut"]["methods"]["RD"]["scores"];
        ["nut", "dent", "scratch"].map(|set| fs::read(place.path("runs").join(paths[set].as_str().unwrap())).unwrap())
    };
    let (trained, number) = (scores(&results), |values: &serde_json::Value| values.to_string());
    let (mean, std) = (number(&about["input"]["mean"]), number(&about["input"]["std"]));
    let data = DATA.replace("size: 32", &format!("size: 32, categories: [nut], mean: {mean}, std: {std}"));
    let used = format!("{{ rd: {{ model: {{ {rd} }}, weights: exported/model.safetensors, normalise: data }} }}");
    let (code, said) = place.oodkit("run", [&data, &used, "[{ name: RD, network: rd, detector: map }]"], &[]);
    assert_eq!(code, Some(0), "{said}");
    assert!(scores(&place.results()) == trained, "exported weights score otherwise");
    let refused = |networks: &str, methods: &str, words: &[&str]| {
        let (code, said) = place.oodkit("run", [DATA, networks, methods], &[]);
        assert_eq!(code, Some(2), "{said}");
        has(&said, words);
    };
    let one = "[{ name: RD, network: rd, detector: map }]";
    let other = |loss: &str| format!("{{ {} }}", network("rd", &rd, loss));
    refused(
        &other("{ reconstruction: {} }"),
        one,
        &[
            "reconstruction reads images made again, and \"rd\", of the kind reverse_distillation, shows none: write `loss: { distillation: {} }`",
        ],
    );
    refused(
        &other("{ distillation: { of: pixels } }"),
        one,
        &["unknown value `pixels` (did you mean \"pixel\"?)", "values here: pixel, flat"],
    );
    refused(
        &other("{ distillation: {} }"),
        &one.replace("map", "padim"),
        &[
            "padim reads stages, and \"rd\", of the kind reverse_distillation, shows none",
            "the detector `map` reads its map",
        ],
    );
    let unknown = other("{ distillation: {} }").replace("layer2", "layer5");
    refused(
        &unknown,
        one,
        &[
            "networks.rd.model.reverse_distillation.stages.1: resnet_cifar has no stage \"layer5\"",
            "its stages: layer1, layer2, layer3",
        ],
    );
    let odd = DATA.replace("size: 32", "size: 36");
    let (code, said) = place.oodkit("run", [&odd, &other("{ distillation: {} }"), one], &[]);
    assert_eq!(code, Some(2), "{said}");
    has(&said, &["the stages are of 36×36, 18×18, 9×9", "a multiple of 32 rows and columns"]);
    let small = DATA.replace("size: 32", "size: 24");
    let (code, said) =
        place.oodkit("run", [&small, &other("{ distillation: {} }").replace(&format!(", {stages}"), ""), one], &[]);
    assert_eq!(code, Some(2), "{said}");
    has(&said, &["networks.rd.model: needs images of at least 32×32 pixels"]);
}

/// A discriminator of frozen features is trained and scored for each category.
#[test]
fn simplenet_learns_from_normal_images_and_noise() {
    let place = Place::new();
    let recipe = "train: { epochs: 6, batch_size: 6, validation: 2, keep: best, optimizer: { adamw: { lr: 0.002 } } }";
    let network = |settings: &str, loss: &str| {
        let settings = format!("backbone: resnet20, stages: [layer1, layer2], {settings}");
        format!("{{ simple: {{ model: {{ simplenet: {{ {settings} }} }}, loss: {loss}, {recipe} }} }}")
    };
    let method = "[{ name: SimpleNet, network: simple, detector: map }]";
    let networks = network("hidden: 16, noise: 0.1", "{ truncated_l1: {} }");
    let (code, said) = place.oodkit("run", [DATA, &networks, method], &[]);
    assert_eq!(code, Some(0), "{said}");
    has(&said, &["validation loss ", "stays as random as it starts: give it `weights`"]);
    let results = place.results();
    for category in ["bolt", "nut"] {
        let measures =
            &results["cells"][0]["seeds"][0]["tasks"][category]["methods"]["SimpleNet"]["sets"]["all"]["measures"];
        assert!(measures["auroc"].as_f64().unwrap() > 0.8, "{category}: {measures}");
    }
    let (code, said) = place.oodkit("speed", [DATA, &networks, method], &["--batch", "1,3", "--task", "nut"]);
    assert_eq!(code, Some(0), "{said}");
    has(
        &said,
        &[
            "| Method | ms an image, 1 together | ms an image, 3 together |",
            "\n| SimpleNet | ",
            "Images of nut, seed 0.",
            "speed.md",
        ],
    );
    let refused = |networks: &str, words: &[&str]| {
        let (code, said) = place.oodkit("run", [DATA, networks, method], &[]);
        assert_eq!(code, Some(2), "{said}");
        has(&said, words);
    };
    refused(
        &network("hidden: 16", "{ distillation: {} }"),
        &["distillation reads pairs", "of the kind simplenet, shows none: write `loss: { truncated_l1: {} }`"],
    );
    refused(
        &network("hidden: 16", "{ truncated_l1: { weight: 0 }, sparsity: { weight: 1 } }"),
        &["sparsity reads logits", "write `loss: { truncated_l1: {} }`"],
    );
    refused(&network("hidden: 0", "{ truncated_l1: {} }"), &["networks.simple.model.simplenet.hidden"]);
    refused(&network("noise: -1", "{ truncated_l1: {} }"), &["networks.simple.model.simplenet.noise"]);
    refused(
        &networks.replace("layer2]", "layer5]"),
        &["networks.simple.model.simplenet.stages.1: resnet_cifar has no stage \"layer5\""],
    );
    let other = networks.replace("simplenet:", "reverse_distillation:").replace("layer2]", "layer2, layer3]");
    let other = other.replace(", hidden: 16, noise: 0.1", "");
    refused(&other, &["truncated_l1 reads scores of positions", "write `loss: { distillation: {} }`"]);
}

/// Large images are seen in tiles, by frozen features and by a student.
#[test]
fn large_images_are_seen_in_tiles() {
    let place = Place::new();
    let data = DATA.replace("size: 32", "size: 64");
    let recipe = "train: { epochs: 3, batch_size: 3, optimizer: { adamw: { lr: 0.005 } } }";
    let networks = |tiles: &str, stage: &str| {
        let inner = format!("stfpm: {{ backbone: resnet20, stages: [layer1, {stage}] }}");
        let model = format!("{{ tiled: {{ model: {{ {inner} }}, {tiles} }} }}");
        format!("{{ student: {{ model: {model}, loss: {{ distillation: {{ weight: 2 }} }}, {recipe} }} }}")
    };
    let method = "[{ name: STFPM, network: student, detector: { map: { smooth: 0 } } }]";
    let good = networks("size: 32", "layer3");
    let (code, plan) = place.oodkit("plan", [&data, &good, method], &[]);
    assert_eq!(code, Some(0), "{plan}");
    has(&plan, &["maps of STFPM: 18 of 64×64", "resnet20_stfpm_tiled-nut"]);
    let (code, said) = place.oodkit("run", [&data, &good, method], &[]);
    assert_eq!(code, Some(0), "{said}");
    let results = place.results();
    for category in ["bolt", "nut"] {
        let task = &results["cells"][0]["seeds"][0]["tasks"][category];
        let auroc = task["methods"]["STFPM"]["sets"]["all"]["measures"]["auroc"].as_f64().unwrap();
        assert!(auroc > 0.6, "{category}: {auroc}");
    }
    let (code, said) = place.oodkit("run", [&data, &good, method], &["--smoke"]);
    assert_eq!(code, Some(0), "{said}");
    for (networks, words) in [
        (networks("size: 48", "layer3"), vec!["networks.student.model.tiled.size", "must be a multiple of 32"]),
        (networks("size: 32, overlap: 32", "layer3"), vec!["model.tiled.overlap", "more than half of a tile of 32"]),
        (networks("size: 96", "layer3"), vec!["networks.student.model: needs images of at least 96×96 pixels"]),
        (
            networks("size: 32", "layer5"),
            vec!["networks.student.model.tiled.model.stfpm.stages.1: resnet_cifar has no stage \"layer5\""],
        ),
        (
            good.replace("stfpm: { backbone: resnet20, stages: [layer1, layer3] }", "classifier: { backbone: lenet }"),
            vec!["distillation reads pairs", "of the kind tiled, shows none"],
        ),
    ] {
        let (code, said) = place.oodkit("run", [&data, &networks, method], &[]);
        assert_eq!(code, Some(2), "{said}");
        has(&said, &words);
    }
    let odd = DATA.replace("size: 32", "size: 80");
    let (code, said) = place.oodkit("run", [&odd, &good, method], &[]);
    assert_eq!(code, Some(2), "{said}");
    has(
        &said,
        &["networks.student.model.tiled.size: 80×80 pixels are no whole number of tiles of 32", "64 or 96 rows"],
    );
}

/// A teacher is distilled once, of the train images of all categories, and taken by what learns each of them.
#[test]
fn a_teacher_is_distilled_once_and_taken_by_the_students_of_every_category() {
    let place = Place::new();
    let recipe = "train: { epochs: 3, batch_size: 3, optimizer: { adamw: { lr: 0.002, weight_decay: 0.00001 } } }";
    let patches = "patches: { channels: 4, outputs: 8 }";
    let teacher = |own: &str| {
        let model = format!("patch_description: {{ backbone: resnet20, stages: [layer1, layer2], {patches} }}");
        format!("teacher: {{ model: {{ {model} }}, {own}loss: {{ regression: {{}} }}, {recipe} }}")
    };
    let ad = format!(
        "ad: {{ model: {{ efficient_ad: {{ {patches}, padding: true, width: 8 }} }}, from: teacher, loss: {{ regression: {{ hard: 0.99 }} }}, {recipe} }}"
    );
    let us = format!(
        "us: {{ model: {{ uninformed_students: {{ {patches}, padding: true }} }}, from: teacher, loss: {{ regression: {{}} }}, {recipe} }}"
    );
    let own = "data: { name: all_parts, format: mvtec, path: parts }, ";
    let networks = format!("{{ {}, {ad}, {us} }}", teacher(own));
    let methods = "[{ name: EfficientAD, network: ad, detector: { map: { of: quantiles, smooth: 0 } } }, { name: US, network: us, detector: { \
                   map: { of: deviations } } }]";
    let (code, plan) = place.oodkit("plan", [DATA, &networks, methods], &[]);
    assert_eq!(code, Some(0), "{plan}");
    has(&plan, &["5 networks, 5 to train", "maps of EfficientAD: 18 of 8×8", "maps of US: 18 of 8×8"]);
    // Of the networks that take a teacher, none is said to be random.
    assert_eq!(plan.matches("stays as random").count(), 1, "{plan}");
    has(&plan, &["networks.teacher: no weights are given, and a teacher does not learn"]);
    let (code, said) = place.oodkit("run", [DATA, &networks, methods], &[]);
    assert_eq!(code, Some(0), "{said}");
    let results = place.results();
    for (category, method) in [("bolt", "EfficientAD"), ("nut", "EfficientAD"), ("bolt", "US"), ("nut", "US")] {
        let of = &results["cells"][0]["seeds"][0]["tasks"][category]["methods"][method];
        let measures = &of["sets"]["all"]["measures"];
        assert!(measures["auroc"].as_f64().is_some_and(f64::is_finite), "{category} {method}: {measures}");
        // A teacher of random weights, and students of a few steps: what is found is not the point.
        assert!(measures["pixel_auroc"].as_f64().is_some_and(f64::is_finite), "{category} {method}: {measures}");
    }
    // What all have of the teacher is the teacher's, to the bit; their outputs' statistics are of their own images.
    let (mut taught, mut seen) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(place.path("runs/networks")).unwrap() {
        let folder = entry.unwrap().path().join("seed0");
        let record: Value = serde_json::from_slice(&fs::read(folder.join("network.json")).unwrap()).unwrap();
        seen.push(record["train_images"].as_u64().unwrap());
        let state =
            candle_core::safetensors::load(folder.join("model.safetensors"), &candle_core::Device::Cpu).unwrap();
        let bits = |name: &str| -> Option<Vec<f32>> {
            state.get(name).map(|values| values.flatten_all().unwrap().to_vec1().unwrap())
        };
        taught.push((
            bits("teacher.conv1.weight").unwrap(),
            bits("teacher.conv4.bias").unwrap(),
            bits("teacher_outputs.running_mean"),
        ));
    }
    seen.sort_unstable();
    assert_eq!(seen, [6, 6, 6, 6, 12]);
    assert!(taught.iter().all(|(weight, bias, _)| *weight == taught[0].0 && *bias == taught[0].1));
    let mut means: Vec<_> = taught.iter().filter_map(|(_, _, mean)| mean.clone()).collect();
    assert!(means.len() == 4 && means.iter().all(|mean| mean.iter().any(|value| *value != 0.0)));
    means.dedup();
    assert!(means.len() > 1, "categories have statistics of their own");

    // A student sees images normalised as the teacher's were, whatever its own set gives.
    let given = DATA.replace("size: 32", "size: 32, categories: [nut], mean: [0.1, 0.2, 0.3], std: [0.5, 0.6, 0.7]");
    let (code, said) = place.oodkit("run", [&given, &networks, methods], &[]);
    assert_eq!(code, Some(0), "{said}");
    let task = &place.results()["cells"][0]["seeds"][0]["tasks"]["nut"];
    let normalised = |network: &str| -> Value {
        let folder = place.path("runs").join(task["networks"][network]["folder"].as_str().unwrap());
        let record: Value = serde_json::from_slice(&fs::read(folder.join("network.json")).unwrap()).unwrap();
        record["normalisation"].clone()
    };
    assert!(normalised("teacher")["mean"][0].as_f64().unwrap() > 0.2, "{}", normalised("teacher"));
    assert_eq!([normalised("ad"), normalised("us")], [normalised("teacher"), normalised("teacher")]);

    let refused = |networks: &str, methods: &str, data: &str, words: &[&str]| {
        let (code, said) = place.oodkit("run", [data, networks, methods], &[]);
        assert_eq!(code, Some(2), "{networks}: {said}");
        has(&said, words);
        assert!(!said.contains("epoch"), "something was trained: {said}");
    };
    let one = "[{ name: EfficientAD, network: ad, detector: map }]";
    let with = |ad: &str| format!("{{ {}, {ad} }}", teacher(""));
    let larger = ad.replace("outputs: 8", "outputs: 6");
    for (ad, words) in [
        (
            larger.clone(),
            &[
                "parts.yaml:3:",
                "networks.ad.from: 2 common parameters are of another shape: teacher.conv4.bias (and 1 more) is [8] in \
               patch_description and [6] in efficient_ad: give both the same settings",
            ][..],
        ),
        (ad.replace("padding: true", "padding: false"), &["networks.ad.model: needs images of at least 33×33 pixels"]),
        (ad.replace("from: teacher", "from: teachr"), &["networks.ad.from: ", "did you mean \"teacher\"?"]),
        (
            format!(
                "{ad}, us: {{ model: {{ uninformed_students: {{ {patches}, further: [{{ layers: p17, channels: 4, outputs: 8 }}], padding: true }} \
                 }}, from: teacher, loss: {{ regression: {{}} }}, {recipe} }}"
            ),
            &[
                "networks.us.from: patch_description has no teacher.further.0.conv1.bias, which would stay as random as it starts",
            ],
        ),
        (
            ad.replace("model: {", "backbone: lenet, model: {"),
            &["give backbone or model, not both", "give backbone or from, not both"],
        ),
        (
            ad.replace(recipe, "seed: 1").replace(", seed: 1", ""),
            &["networks.ad: give train (a recipe): \"teacher\" gives a part"],
        ),
        (ad.replace("loss: { regression: { hard: 0.99 } }, ", ""), &["write `loss: { regression: {} }`"]),
        (
            ad.replace("regression: { hard: 0.99 }", "regression: { hard: 1 }"),
            &["loss.regression.hard: must be at most"],
        ),
        (ad.replace("regression: { hard: 0.99 }", "compactness: {}"), &["compactness reads an embedding of positions"]),
        (
            ad.replace("regression: { hard: 0.99 }", "regression: {}, student_penalty: {}"),
            &["student_penalty needs auxiliary outliers"],
        ),
        (
            format!(
                "{ad}, auto: {{ model: {{ autoencoder: {{}} }}, from: teacher, loss: {{ reconstruction: {{}} }}, {recipe} }}"
            ),
            &["networks.auto.from: patch_description and autoencoder have no parameter in common: bn1.bias, "],
        ),
    ] {
        refused(&with(&ad), one, DATA, words);
    }
    refused(
        &with(&ad).replace("layer2", "layer9"),
        one,
        DATA,
        &["model.patch_description.stages.1: resnet_cifar has no stage \"layer9\""],
    );
    refused(
        &format!("{{ auto: {{ model: {{ autoencoder: {{}} }}, loss: {{ reconstruction: {{}} }}, {recipe} }} }}"),
        "[{ network: auto, detector: { map: { of: quantiles } } }]",
        DATA,
        &["map reads the parts of a map, and \"auto\", of the kind autoencoder, shows none"],
    );
    // A category that is a link is none of the set's own images.
    let elsewhere = tempfile::tempdir().unwrap();
    fs::create_dir_all(elsewhere.path().join("train/good")).unwrap();
    std::os::unix::fs::symlink(elsewhere.path(), place.path("parts/washer")).unwrap();
    let shared = format!("{{ {}, {ad} }}", teacher(own)).replace("outputs: 8", "outputs: 6");
    let named = DATA.replace("path: parts", "path: parts, categories: [nut]");
    refused(&shared, one, &named, &["parts/washer is a symbolic link"]);
    fs::remove_file(place.path("parts/washer")).unwrap();
    // Where the images say their size, it is refused once they are read, before a step.
    let colours =
        "{ id: { name: colours, format: class_folders }, ood: [{ name: dents, format: folder, path: dents }] }";
    place.image("dents/0.png", 60, 0, Some(4));
    place.image("colours/test/c0/0.png", 60, 0, None);
    refused(&with(&larger), one, colours, &["parts.yaml: networks.ad.from: 2 common parameters are of another shape"]);
    refused(
        &with(&ad.replace("padding: true", "padding: false")),
        one,
        colours,
        &["images of 32×32 have no patch of 33×33"],
    );
}

#[test]
fn fcdd_is_scored_by_its_mean_and_its_enlarged_map() {
    let place = Place::new();
    let recipe = "train: { epochs: 2, batch_size: 6, optimizer: { sgd: { lr: 0.01, momentum: 0.9, nesterov: true } }, outliers: { make: \
                  [confetti], repeat: 2 } }";
    let networks =
        |loss: &str| format!("{{ fcdd: {{ model: {{ fcdd: {{ backbone: resnet18 }} }}, loss: {loss}, {recipe} }} }}");
    let method = |map: &str| format!("[{{ name: FCDD, network: fcdd, detector: {{ map: {map} }} }}]");
    let theirs = method("{ enlarge: {}, smooth: 0, score: mean }");
    let (code, plan) = place.oodkit("plan", [DATA, &networks("{ fcdd: {} }"), &theirs], &[]);
    assert_eq!(code, Some(0), "{plan}");
    has(
        &plan,
        &[
            "maps of FCDD: 18 of 4×4",
            "no weights are given, and what is frozen, up to the stage before the one that is read, stays as random",
        ],
    );
    for loss in ["{ fcdd: {} }", "{ fcdd: { supervision: mask, enlarge: { sigma: 6, field: 31 } } }"] {
        let (code, said) = place.oodkit("run", [DATA, &networks(loss), &theirs], &[]);
        assert_eq!(code, Some(0), "{said}");
        let task = &place.results()["cells"][0]["seeds"][0]["tasks"]["nut"]["methods"]["FCDD"];
        let measures = &task["sets"]["all"]["measures"];
        assert!(measures["auroc"].as_f64().is_some() && measures["pixel_auroc"].as_f64().is_some(), "{measures}");
    }
    for (networks, methods, wrong) in [
        (networks("{ reconstruction: {} }"), theirs.clone(), "write `loss: { fcdd: {} }`"),
        (networks("{ fcdd: { supervision: pixel } }"), theirs.clone(), "values here: image, mask"),
        (networks("{ fcdd: { enlarge: { sigma: 0 } } }"), theirs.clone(), "fcdd.enlarge.sigma: must be at least"),
        (networks("{ fcdd: {} }"), method("{ enlarge: { field: 0 } }"), "map.enlarge.field: must be at least 1"),
        (
            networks("{ fcdd: {} }").replace(", outliers: { make: [confetti], repeat: 2 }", ""),
            theirs.clone(),
            "fcdd reads the masks of made outliers",
        ),
        (
            networks("{ fcdd: {} }").replace("resnet18", "resnet18, stage: layer5"),
            theirs.clone(),
            "networks.fcdd.model.fcdd.stage: resnet has no stage",
        ),
    ] {
        let (code, said) = place.oodkit("run", [DATA, &networks, &methods], &[]);
        assert_eq!(code, Some(2), "{networks}: {said}");
        has(&said, &[wrong]);
    }
}

#[test]
fn cutpaste_is_scored_by_one_gaussian_of_images_and_of_windows() {
    let place = Place::new();
    let recipe = "train: { epochs: 2, batch_size: 6, optimizer: { sgd: { lr: 0.01, momentum: 0.9 } }, outliers: { make: [cutpaste, scar], \
                  share: 0.6667, repeat: 2 } }";
    let network = |name: &str, settings: &str| {
        format!(
            "{name}: {{ model: {{ cutpaste: {{ backbone: resnet20, head: [8]{settings} }} }}, loss: {{ pseudo_class: {{}} }}, {recipe} }}"
        )
    };
    let (image, windows) = (network("image", ""), network("windows", ", patch: 16, stride: 4"));
    let methods = "[{ name: Images, network: image, detector: gaussian }, { name: Windows, network: windows, detector: { gaussian: { of: \
                   windows, sigma: 3 } } }]";
    let both = format!("{{ {image}, {windows} }}");
    let (code, plan) = place.oodkit("plan", [DATA, &both, methods], &[]);
    assert_eq!(code, Some(0), "{plan}");
    has(&plan, &["4 networks, 4 to train", "maps of Windows: 18 of 8×8"]);
    let (code, said) = place.oodkit("run", [DATA, &both, methods], &[]);
    assert_eq!(code, Some(0), "{said}");
    let results = place.results();
    for category in ["bolt", "nut"] {
        let measures = |method: &str| {
            results["cells"][0]["seeds"][0]["tasks"][category]["methods"][method]["sets"]["all"]["measures"].clone()
        };
        let (images, windows) = (measures("Images"), measures("Windows"));
        assert!(images["auroc"].as_f64().is_some() && images["pixel_auroc"].is_null(), "{images}");
        // Windows of a few steps find a bright square among plain images.
        assert!(windows["pixel_auroc"].as_f64().unwrap() > 0.7, "{category}: {windows}");
    }
    let one = "[{ name: Images, network: image, detector: gaussian }]";
    let of = |settings: &str| format!("{{ {} }}", network("image", settings));
    let map = "[{ name: Images, network: image, detector: { gaussian: { of: windows } } }]";
    for (networks, methods, words) in [
        (
            of("").replace("[cutpaste, scar]", "[cutpaste, scar, confetti]"),
            one,
            "networks.image.train.outliers.make: 3 of them, and the model tells 3 classes apart, of which one is that of normal images: give it \
             `classes: 4`",
        ),
        (of(", classes: 2"), one, "networks.image.train.outliers.make: 2 of them, and the model tells 2 classes apart"),
        (of("").replace("pseudo_class", "hypersphere"), one, "write `loss: { pseudo_class: {} }`"),
        (
            of("").replace(", outliers: { make: [cutpaste, scar], share: 0.6667, repeat: 2 }", ""),
            one,
            "pseudo_class reads the masks of made outliers",
        ),
        (
            of(", patch: 64"),
            map,
            "networks.image.model.cutpaste.patch: a window of 64×64 has no room in images of 32×32",
        ),
        (of(", stride: 4"), one, "networks.image.model.cutpaste.stride: goes with `patch`"),
        (of(", patch: 0"), one, "patch: must be at least 1"),
        (of(""), map, "gaussian reads features of windows, and \"image\", of the kind cutpaste, shows none"),
        (of(", patch: 16"), one, "gaussian reads features, and \"image\", of the kind cutpaste, shows none"),
        (
            of(", patch: 1"),
            map,
            "networks.image.train.outliers.make.1.scar.width: a strip of 16 by 25 pixels of 256 is larger than an image of 1×1",
        ),
    ] {
        let (code, said) = place.oodkit("run", [DATA, &networks, methods], &[]);
        assert_eq!(code, Some(2), "{networks}: {said}");
        has(&said, &[words]);
    }
    // Windows that have room in the file's images are made to fit those of a smoke run.
    let large = format!("{{ {} }}", network("image", ", patch: 64"));
    let data = "{ format: mvtec, categories: [screw], size: 256 }";
    let (code, said) = place.oodkit("run", [data, &large, map], &["--smoke"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn patch_svdd_is_scored_by_the_nearest_patches_of_two_sizes() {
    let place = Place::new();
    let recipe = "train: { epochs: 2, batch_size: 6, optimizer: { adamw: { lr: 0.001, weight_decay: 0 } } }";
    let networks = |settings: &str, loss: &str| {
        let model = format!("patch_svdd: {{ channels: [4, 4, 4], features: 6, hidden: 8{settings} }}");
        format!("{{ patches: {{ model: {{ {model} }}, loss: {loss}, {recipe} }} }}")
    };
    let loss = "{ patch_position: {}, patch_svdd: {} }";
    let method = |detector: &str| format!("[{{ name: Patches, network: patches, detector: {detector} }}]");
    let (code, plan) = place.oodkit("plan", [DATA, &networks("", loss), &method("patch_svdd")], &[]);
    assert_eq!(code, Some(0), "{plan}");
    // 26 windows of an image: 25 small ones and a large one.
    has(&plan, &["2 networks, 2 to train", "maps of Patches: 18 of 8×8"]);
    for detector in ["patch_svdd", "{ patch_svdd: { windows: [small], smooth: 1, score: max } }"] {
        let (code, said) = place.oodkit("run", [DATA, &networks("", loss), &method(detector)], &[]);
        assert_eq!(code, Some(0), "{said}");
        for category in ["bolt", "nut"] {
            let task = &place.results()["cells"][0]["seeds"][0]["tasks"][category]["methods"]["Patches"];
            let measures = &task["sets"]["all"]["measures"];
            assert!(measures["auroc"].as_f64().unwrap() > 0.7, "{category}: {measures}");
            assert!(measures["pixel_auroc"].as_f64().unwrap() > 0.6, "{category}: {measures}");
        }
    }
    let plain = method("patch_svdd");
    for (data, networks, methods, words) in [
        (
            DATA,
            networks("", "{ reconstruction: {} }"),
            &plain,
            "write `loss: { patch_position: {}, patch_svdd: { weight: 0.001 } }`",
        ),
        (
            DATA,
            networks(", stride: 3", loss),
            &plain,
            "networks.patches.model.patch_svdd.stride: 3 must be even and divide the number of convolutions, 4 with these `channels`",
        ),
        (
            DATA,
            networks("", loss).replace("channels: [4, 4, 4], features: 6, hidden: 8", ""),
            &plain,
            "networks.patches.model: needs images of at least 64×64 pixels, and those of",
        ),
        (
            DATA,
            networks("", loss).replace("batch_size", "validation: 2, batch_size"),
            &plain,
            "networks.patches.train.validation: patch_position is of what the model shows while it learns",
        ),
        (
            DATA,
            networks("", loss),
            &method("{ patch_svdd: { windows: [tiny] } }"),
            "the network has none called \"tiny\"",
        ),
        (DATA, networks("", loss), &method("{ patch_svdd: { windows: [small, small] } }"), "\"small\" is named twice"),
        (
            DATA,
            networks("", loss),
            &method("patchcore"),
            "patchcore reads stages, and \"patches\", of the kind patch_svdd, shows none",
        ),
        (
            DATA,
            networks("", loss),
            &method("map"),
            "map reads a map, and \"patches\", of the kind patch_svdd, shows none",
        ),
    ] {
        let (code, said) = place.oodkit("run", [data, &networks, methods], &[]);
        assert_eq!(code, Some(2), "{networks}: {said}");
        has(&said, &[words]);
        assert!(!said.contains("step"), "{said}");
    }
    // All windows of the train images are held, or none: before training.
    let (large, more) = (DATA.replace("size: 32", "size: 256"), ["--set", "evaluation.fit_memory=1"]);
    let whole = networks("", loss).replace("channels: [4, 4, 4], features: 6, hidden: 8", "");
    let (code, said) = place.oodkit("run", [&large, &whole, &plain], &more);
    assert_eq!(code, Some(2), "{said}");
    has(&said, &["windows of the train images, and may use 1 MiB", "`stride`"]);
    let data = "{ format: mvtec, categories: [screw], size: 256 }";
    let (code, said) = place.oodkit("run", [data, &whole, &plain], &["--smoke"]);
    assert_eq!(code, Some(0), "{said}");
}

/// The columns `file` and `score` of a CSV.
fn scores_of(csv: &str) -> Vec<(String, f64)> {
    let columns: Vec<Vec<&str>> = csv.lines().map(|line| line.split(',').collect()).collect();
    let at = |name: &str| columns[0].iter().position(|column| *column == name).unwrap();
    let (file, score) = (at("file"), at("score"));
    columns[1..].iter().map(|line| (line[file].to_owned(), line[score].parse().unwrap())).collect()
}

#[test]
fn maps_of_categories_are_measured_and_made_of_new_images() {
    let place = Place::new();
    let methods = "[{ name: PaDiM, network: colours, detector: { padim: { dimensions: 12 } } }, \
                   { name: PatchCore, network: colours, detector: { patchcore: { coreset: { share: 0.5 } } } }]";
    let (code, said) = place.oodkit("run", [DATA, NETWORKS, methods], &[]);
    assert_eq!(code, Some(0), "{said}");
    let results = place.results();
    let bolt = &results["cells"][0]["seeds"][0]["tasks"]["bolt"]["methods"];
    for name in ["PaDiM", "PatchCore"] {
        let measures = &bolt[name]["sets"]["all"]["measures"];
        assert!(measures["auroc"].as_f64().unwrap() > 0.9, "{name}: {measures}");
        assert!(measures["pixel_auroc"].as_f64().unwrap() > 0.85, "{name}: {measures}");
    }
    let (code, said) = place.predict(&["--method", "PatchCore", "--input", "parts/bolt/test"]);
    assert_eq!(code, Some(2), "{said}");
    has(&said, &["--task: the experiment has several tasks", "name one of bolt, nut"]);
    let bolts =
        ["--method", "PatchCore", "--task", "bolt", "--input", "parts/bolt/test", "--out", "scored", "--maps", "tiff"];
    let (code, said) = place.predict(&bolts);
    assert_eq!(code, Some(0), "{said}");
    has(
        &said,
        &[
            "is the 0.995 quantile of 1 train images that were held out of 6, by a fit to the others.",
            "It is the largest of 1: 0.995 needs 200 held-out images.",
        ],
    );
    let csv = fs::read_to_string(place.path("scored/predictions.csv")).unwrap();
    assert!(csv.starts_with("file,class,probability,score,decision\nparts/bolt/test/dent/000.png,,,"), "{csv}");
    let predicted = scores_of(&csv);
    assert_eq!(predicted.len(), 9);
    for set in ["bolt", "scratch", "dent"] {
        let file = place.path("runs").join(bolt["PatchCore"]["scores"][set].as_str().unwrap()).with_extension("csv");
        for (file, score) in scores_of(&fs::read_to_string(file).unwrap()) {
            let (_, found) = predicted.iter().find(|(name, _)| name.ends_with(&file)).unwrap();
            assert!((score - found).abs() <= 1e-6 * score, "{set} {file}: {score}, {found}");
        }
    }
    // Half of what the anomalous image with the lowest score has: the square's middle is above it, and no normal image is.
    let anomalous = predicted.iter().filter(|(file, _)| !file.contains("/good/"));
    let half = anomalous.map(|(_, score)| score / 2.0).fold(f64::INFINITY, f64::min).to_string();
    fs::remove_dir_all(place.path("scored")).unwrap();
    let (code, said) = place.predict(&[&bolts[..], &["--threshold", &half]].concat());
    assert_eq!(code, Some(0), "{said}");
    has(&said, &["9 images: 4 ID, 5 OOD."]);
    for (kind, middle) in [("scratch/002", Some(14)), ("dent/001", Some(11)), ("good/003", None)] {
        let mask = image::open(place.path(&format!("scored/masks/{kind}.png"))).unwrap().to_luma8();
        assert_eq!(mask.dimensions(), (32, 32));
        assert!(place.path(&format!("scored/maps/{kind}.tiff")).is_file());
        assert!(place.path(&format!("scored/overlays/{kind}.png")).is_file());
        let set = mask.pixels().filter(|pixel| pixel.0[0] == 255).count();
        match middle {
            Some(at) => assert!(mask.get_pixel(at, at).0[0] == 255 && set < 500, "{kind}: {set} pixels"),
            None => assert_eq!(set, 0, "{kind}"),
        }
    }
}

#[test]
fn control_rows_are_trivial_statistics_and_a_note_tells_what_they_reach() {
    let place = Place::new();
    let controls = ["--set", "tables.0.controls=true", "--set", "tables.1.controls=true"];
    let (code, said) = place.oodkit("run", [DATA, NETWORKS, METHODS], &controls);
    assert_eq!(code, Some(0), "{said}");
    let results = place.results();
    for category in ["bolt", "nut"] {
        let methods = &results["cells"][0]["seeds"][0]["tasks"][category]["methods"];
        let names = ["KNN", "Mean grey", "Mean grey (better side)", "Contrast", "Contrast (better side)"];
        assert_eq!(methods.as_object().unwrap().keys().take(5).collect::<Vec<_>>(), names);
        assert_eq!(methods.as_object().unwrap().len(), 10);
        assert!(methods["Mean image"]["sets"]["all"]["measures"]["auroc"].is_number());
        assert!(methods["File size"]["sets"]["all"]["measures"]["auroc"].is_number());
        // A square of another grey changes the mean and the contrast of every anomalous image.
        for name in &names[1..] {
            assert_eq!(methods[name]["sets"]["all"]["measures"]["auroc"], 1.0, "{name} of {category}");
            assert_eq!(methods[name]["control"], true);
            assert_eq!(methods[name]["sets"]["scratch"]["measures"]["auroc"], 1.0);
        }
        assert_eq!(methods["KNN"]["control"], Value::Null);
    }
    has(
        &said,
        &[
            "Sharpness (better side)",
            "Mean image: the mean squared distance",
            "Control rows are statistics of the images",
            "Where a control reaches a method in AUROC, the number says nothing of the method:\nOn bolt: ",
            " 100.00, where KNN ",
            "\nOn nut: ",
            "Without maps or masks there are no pixel measures: KNN.\n",
        ],
    );
    // They are no methods, though tables name them.
    let predict = |name: &str| {
        let new = ["--method", name, "--task", "bolt", "--input", "parts/bolt/test"];
        place.predict(&[&controls[..], &new].concat())
    };
    for name in ["Mean grey", "Contrast (better side)"] {
        let (code, said) = predict(name);
        assert_eq!(code, Some(2), "{said}");
        has(
            &said,
            &["a control row, which is a statistic of images and no method to predict with", "its methods are KNN\n"],
        );
    }
    let (code, unknown) = predict("Mean gray");
    assert!(code == Some(2) && unknown.contains("has no such method\n\nhint: its methods are KNN\n"), "{unknown}");
    for line in
        said.lines().skip_while(|line| !line.starts_with("Percent")).take_while(|line| !line.starts_with("oodkit"))
    {
        assert!(line.split_whitespace().count() <= 20, "a long line: {line}");
    }
    let (code, said) = place.oodkit("run", [DATA, NETWORKS, METHODS], &[]);
    assert!(code == Some(0) && !said.contains("Mean grey"), "{said}");
    // Nothing in a statistic of images depends on the seed.
    let (code, said) =
        place.oodkit("run", [DATA, NETWORKS, METHODS], &[&controls[..], &["--set", "seeds=[0, 1]"]].concat());
    assert_eq!(code, Some(0), "{said}");
    has(&said, &["(0, 1).\nThe same with every seed, so ± 0.00: control rows.\n"]);
}

#[test]
fn what_makers_make_is_drawn_for_each_category_and_what_is_too_large_is_refused() {
    let place = Place::new();
    let networks = |make: &str| {
        let recipe = "epochs: 1, batch_size: 6, optimizer: { sgd: { lr: 0.01 } }";
        let plain = "model: { autoencoder: { channels: 4, latent: 4 } }, loss: { reconstruction: {} }";
        let fusion =
            "model: { fusion: { backbone: resnet18, stl: null, sc: null, width: 4 } }, loss: { hypersphere: {} }";
        format!(
            "{{ plain: {{ {plain}, train: {{ {recipe} }} }}, parts: {{ {fusion}, train: {{ {recipe}, outliers: {{ make: {make}, \
             repeat: 1 }} }} }} }}"
        )
    };
    let methods = "[{ name: Parts, network: parts, detector: { map: { of: distance } } }]";
    let run = |make: &str, figure: &str| {
        let figures = format!("figures=[{{ pseudo: {figure} }}]");
        place.oodkit("run", [DATA, &networks(make), methods], &["--set", &figures])
    };
    let (code, said) = run("[cutpaste, { confetti: { weight: 2 } }]", "{ images: 3 }");
    assert_eq!(code, Some(0), "{said}");
    for name in ["pseudo_bolt", "pseudo_nut"] {
        has(&said, &[&format!("{name}.svg"), &format!("{name}.png")]);
    }
    let folder = fs::read_dir(place.path("runs/experiments")).unwrap().next().unwrap().unwrap().path();
    let drawn = image::load_from_memory(&fs::read(folder.join("pseudo_nut.png")).unwrap()).unwrap();
    // Title and headings, a line for each maker, three images in each.
    assert_eq!(drawn.height(), 2 * (54 + 22 + 2 * (128 + 5) + 44));
    assert!(drawn.width() > 2 * 3 * 128);
    // Another figure of the same network is stored without training it again.
    let (code, said) = run("[cutpaste, { confetti: { weight: 2 } }]", "{ network: parts, images: 1 }");
    assert_eq!(code, Some(0), "{said}");
    has(&said, &["pseudo_bolt_parts.png"]);
    // A maker of weight 0 makes nothing, here as in training.
    let (code, said) = run("[cutpaste, { confetti: { weight: 0 } }]", "{ images: 2 }");
    assert_eq!(code, Some(0), "{said}");
    has(&said, &["pseudo_bolt.png"]);

    for (make, figure, wrong) in [
        ("[cutpaste]", "{ network: plain }", "figures.0.pseudo.network: \"plain\" learns from no made outliers"),
        (
            "[cutpaste]",
            "{ network: part }",
            "figures.0.pseudo.network: there is no network \"part\" (did you mean \"parts\"?)",
        ),
        (
            "[cutpaste, { scar: { length: [10, 250] } }]",
            "{}",
            "networks.parts.train.outliers.make.1.scar.width: a strip of 16 by 250",
        ),
        (
            "[{ cutpaste: { area: [0.1, 1.5] } }]",
            "{}",
            "networks.parts.train.outliers.make.0.cutpaste.area.1: must be at most 1",
        ),
        ("[{ cutpaste: { area: [0.2, 0.1] } }]", "{}", "the first is above the second"),
    ] {
        let (code, said) = run(make, figure);
        assert_eq!(code, Some(2), "{make}: {said}");
        has(&said, &[wrong]);
    }
}

/// With the line and the column.
#[test]
fn settings_of_a_model_are_refused_at_their_place_in_the_file() {
    let place = Place::new();
    let run = |data: &str, model: &str, loss: &str, more: &str| {
        let recipe = format!("epochs: 1, batch_size: 6, outliers: {{ make: [cutpaste] }}, {more}");
        let networks = format!("{{ parts: {{ {model}, loss: {loss}, train: {{ {recipe} }} }} }}");
        let (code, said) = place.oodkit("run", [data, &networks, "[{ network: parts, detector: map }]"], &[]);
        assert_eq!(code, Some(2), "{model} {loss} {more}: {said}");
        said
    };
    let fusion = |settings: &str| format!("model: {{ fusion: {{ backbone: resnet18, {settings} }} }}");
    let (all, sgd) = ("{ hypersphere: {}, score_margin: {} }", "optimizer: { sgd: { lr: 0.01 } }");
    let still = "optimizer: { sgd: { lr: 0 } }, trunk_lr: 0.1";
    for (model, loss, more, key, wrong) in [
        (
            fusion("stl: null, sc: null, freeze: layer5"),
            all,
            sgd,
            "model.fusion.freeze",
            "resnet has no stage \"layer5\" (did you mean \"layer4\"?); its parts: stem, layer1, layer2, layer3, layer4; all and none \
             stand for these",
        ),
        (
            fusion("stl: null, sc: null, freeze: layer4"),
            all,
            sgd,
            "model.fusion.freeze",
            "\"layer4\" comes after layer3",
        ),
        (
            fusion("stl: null, sc: null, freeze: [layer1]"),
            all,
            sgd,
            "model.fusion.freeze",
            "must list the first parts without gaps",
        ),
        (
            fusion("stl: null, sc: null, stages: [layer1, layer2, layer33]"),
            all,
            sgd,
            "model.fusion.stages.2",
            "resnet has no stage \"layer33\" (did you mean \"layer3\"?); its stages: layer1, layer2, layer3, layer4",
        ),
        (fusion("stl: null, sc: null, grid: layer9"), all, sgd, "model.fusion.grid", "resnet has no stage \"layer9\""),
        // Of 32×32 pixels the grid has 4×4 positions, and the last stage 2×2.
        (fusion("sc: null"), all, sgd, "model.fusion.stl.scales.3", "8 does not divide the 4×4 grid"),
        (fusion("stl: null"), all, sgd, "model.fusion.sc.rate", "`rate` is 4, more than a grid of 2×2 has"),
        (
            fusion("stl: null, sc: null"),
            "{ hypersphere: {}, score_margin: {}, consistency: { patch: 5 } }",
            sgd,
            "loss.consistency.patch",
            "a grid of 4×4 has no patch of 5×5: choose a smaller one, or larger images",
        ),
        (
            fusion("stl: null, sc: null, freeze: none"),
            all,
            still,
            "train.trunk_lr",
            "follows optimizer.lr in proportion",
        ),
        (
            "model: { autoencoder: { channels: 4, latent: 4 } }".to_owned(),
            "{ reconstruction: {} }",
            &format!("{sgd}, trunk_lr: 0.1"),
            "train.trunk_lr",
            "goes with a model that has parts of its own beside its trunk",
        ),
        ("backbone: resnet18".to_owned(), all, sgd, "loss.hypersphere", "write `model: { fusion: { backbone: … } }`"),
    ] {
        let said = run(DATA, &model, loss, more);
        has(&said, &["parts.yaml:3:", &format!("networks.parts.{key}: "), wrong]);
    }
    // A patch that is out of its range is one mistake.
    let said = run(
        DATA,
        &fusion("stl: null, sc: null"),
        "{ hypersphere: {}, score_margin: {}, consistency: { patch: 65 } }",
        sgd,
    );
    has(&said, &["networks.parts.loss.consistency.patch: "]);
    assert_eq!(said.matches("patch: ").count() + said.matches("has no patch").count(), 2, "{said}");
    // Where the images say their size, the loss is refused once they are read, before a step.
    let (colours, patch) =
        ("{ id: { name: colours, format: class_folders }, ood: [{ name: dents, format: folder, path: dents }] }", 5);
    place.image("dents/0.png", 60, 0, Some(4));
    place.image("colours/test/c0/0.png", 60, 0, None);
    let loss = format!("{{ hypersphere: {{}}, score_margin: {{}}, consistency: {{ patch: {patch} }} }}");
    let said = run(colours, &fusion("stl: null, sc: null"), &loss, sgd);
    has(&said, &["parts.yaml: networks.parts.loss.consistency.patch: a grid of 4×4 has no patch of 5×5"]);
    // The second network is refused before the first learns.
    let network = |model: &str, loss: &str| {
        let recipe = format!("epochs: 1, batch_size: 6, outliers: {{ make: [cutpaste] }}, {sgd}");
        format!("{{ {model}, loss: {loss}, train: {{ {recipe} }} }}")
    };
    let first = network(&fusion("stl: null, sc: null"), "{ hypersphere: {} }");
    for (second, wrong) in [
        (network(&fusion("stl: null, sc: null"), &loss), "networks.parts.loss.consistency.patch: a grid of 4×4"),
        (
            network(&fusion("stl: { scales: [1, 3] }, sc: null"), "{ hypersphere: {} }"),
            "parts.yaml: networks.parts: 3 does not divide the 4×4 grid",
        ),
    ] {
        let networks = format!("{{ first: {first}, parts: {second} }}");
        let (code, said) =
            place.oodkit("run", [colours, &networks, "[{ network: parts, detector: { map: { of: distance } } }]"], &[]);
        assert_eq!(code, Some(2), "{said}");
        has(&said, &[wrong]);
        assert!(!said.contains("step"), "{said}");
    }
}

/// A patch that the file's images have room for is made to fit those of a smoke run.
#[test]
fn a_smoke_run_of_large_patches_runs() {
    let place = Place::new();
    let model = "model: { fusion: { backbone: efficientnet_lite0, stl: null, sc: null, width: 4 } }";
    let loss = "{ hypersphere: {}, score_margin: {}, consistency: { patch: 8 } }";
    let train =
        "{ epochs: 1, batch_size: 4, optimizer: { sgd: { lr: 0.01 } }, outliers: { make: [cutpaste], repeat: 1 } }";
    let networks = format!("{{ parts: {{ {model}, loss: {loss}, train: {train} }} }}");
    let data = "{ format: mvtec, categories: [screw], size: 256 }";
    let (code, said) = place.oodkit("run", [data, &networks, "[{ network: parts, detector: map }]"], &["--smoke"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_plan_says_what_is_made_what_is_kept_and_what_may_be_a_slip() {
    let place = Place::new();
    let plan = |data: &str, make: &str, freeze: &str, more: &[&str]| {
        let model =
            format!("model: {{ fusion: {{ backbone: resnet18, stl: null, sc: null, width: 4, freeze: {freeze} }} }}");
        let made = format!("outliers: {{ make: {make}, repeat: 4, share: 0.5 }}, optimizer: {{ sgd: {{ lr: 0.01 }} }}");
        let train = format!("train: {{ epochs: 3, batch_size: 6, {made} }}");
        let networks = format!("{{ parts: {{ {model}, loss: {{ hypersphere: {{}} }}, {train} }} }}");
        let methods = "[{ network: parts, detector: { map: { of: distance } } }]";
        let (code, said) = place.oodkit("plan", [data, &networks, methods], more);
        assert_eq!(code, Some(0), "{said}");
        said
    };
    let said = plan(DATA, "[nsa]", "all", &[]);
    // 6 images of a category 4 times; 3×32×32 bytes; 192 channels on 4×4 positions and 256 on 2×2, in f32.
    has(
        &said,
        &[
            "144 images forward and backward, 24 optimiser steps",
            "made     24 of 48 images (2 pools, 0.1 MiB) by nsa; not stored but made as they are needed, under a second of one thread in all",
            "kept     36 images' outputs of frozen backbones (2 pools, 0.6 MiB): each passes once",
            "note     networks.parts: no weights are given, and the backbone is frozen as random as it starts",
        ],
    );
    assert!(!said.contains("one train image"), "{said}");
    // All shares draw from one pool; of the largest, no image stays normal, and of the others all do.
    let said = plan(DATA, "[cutpaste]", "all", &["--sweep", "networks.parts.train.outliers.share=[0, 0.25, 1]"]);
    has(&said, &["made     48 of 48 images (2 pools", "kept     60 images' outputs of frozen backbones (2 pools"]);
    let said = plan(DATA, "[cutpaste]", "none", &[]);
    assert!(!said.contains("kept  ") && !said.contains("note  "), "{said}");
    // Of one image there is no other.
    let one = "{ format: mvtec, path: parts, categories: [nut], size: 32, train_limit: 1 }";
    has(
        &plan(one, "[cutpaste, nsa, perlin]", "[stem]", &[]),
        &[
            "the backbone up to stem is frozen as random as it starts",
            "note     networks.parts: \"nut\" has one train image: nsa, perlin paste from that image itself",
        ],
    );
    assert!(!plan(one, "[cutpaste]", "none", &[]).contains("one train image"));
}

#[test]
fn a_plan_counts_an_image_as_often_as_it_is_repeated() {
    let place = Place::new();
    let images = |repeat: usize| -> usize {
        let model =
            "model: { fusion: { backbone: resnet18, stl: null, sc: null, width: 4 } }, loss: { hypersphere: {} }";
        let train = format!("epochs: 3, batch_size: 6, outliers: {{ make: [cutpaste], repeat: {repeat} }}");
        let networks =
            format!("{{ parts: {{ {model}, train: {{ {train}, optimizer: {{ sgd: {{ lr: 0.01 }} }} }} }} }}");
        let methods = "[{ name: Parts, network: parts, detector: { map: { of: distance } } }]";
        let (code, said) = place.oodkit("plan", [DATA, &networks, methods], &[]);
        assert_eq!(code, Some(0), "{said}");
        let (before, _) = said.split_once(" images forward").unwrap();
        before.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(images(4), 4 * images(1));
}

#[test]
fn made_outliers_that_make_no_sense_are_refused_before_any_work() {
    let place = Place::new();
    let run = |loss: &str, recipe: &str, detector: &str| {
        let model = "model: { fusion: { backbone: resnet18, stl: null, sc: null, width: 4 } }";
        let train = format!("{{ epochs: 1, batch_size: 6, optimizer: {{ sgd: {{ lr: 0.01 }} }}, {recipe} }}");
        let networks = format!("{{ parts: {{ {model}, loss: {loss}, train: {train} }} }}");
        place.oodkit(
            "run",
            [DATA, &networks, &format!("[{{ name: Parts, network: parts, detector: {detector} }}]")],
            &[],
        )
    };
    let (all, made) = ("{ hypersphere: {}, score_margin: {} }", "outliers: { make: [cutpaste] }");
    for (loss, recipe, detector, wrong) in [
        (all, "outliers: { make: [cutpaste], share: 1.5 }", "map", "outliers.share: must be at most 1"),
        (all, "outliers: { make: [cutpaste], repeat: 0 }", "map", "outliers.repeat: must be at least 1"),
        (all, "outliers: { make: [] }", "map", "outliers.make: must not be empty"),
        (all, "outliers: { make: [{ cutpaste: { weight: 0 } }] }", "map", "no maker has a weight above 0"),
        (
            all,
            "outliers: { make: [cutpast] }",
            "map",
            "unknown name `cutpast` (did you mean \"cutpaste\"?); the names are cutpaste, scar, confetti, perlin, nsa",
        ),
        ("{ consistency: {} }", made, "map", "networks.parts.loss.consistency: tells nothing apart"),
        ("{ consistency: {}, hypersphere: { weight: 0 } }", made, "map", "loss.consistency: tells nothing apart"),
        (all, "max_steps: 1", "map", "hypersphere reads the masks of made outliers"),
        (all, &format!("{made}, validation: 1, keep: best"), "map", "which are all normal"),
        ("{ hypersphere: {} }", made, "map", "no term of the loss of \"parts\" teaches it: add `score_margin: {}`"),
        ("{ score_margin: {} }", made, "{ map: { of: distance } }", "teaches it: add `hypersphere: {}`"),
        ("{ reconstruction: {} }", made, "map", "reconstruction reads images made again"),
        ("{ hypersphere: {}, outlier_exposure: {} }", made, "map", "goes without auxiliary outliers"),
        (
            all,
            &format!("{made}, trunk_lr: 0.1"),
            "map",
            "networks.parts.train.trunk_lr: the whole trunk is frozen: leave it out, or let a part of the trunk learn",
        ),
        (all, &format!("{made}, trunk_lr: -1"), "map", "networks.parts.train.trunk_lr: must be at least 0"),
    ] {
        let (code, said) = run(loss, recipe, detector);
        assert_eq!(code, Some(2), "{loss} {recipe}: {said}");
        has(&said, &[wrong]);
    }
}

#[test]
fn maps_and_their_curves_are_drawn_for_each_category() {
    let place = Place::new();
    let methods = "[{ name: KNN, network: colours, detector: { knn: { k: 1 } } }, { name: PaDiM, network: colours, detector: { padim: { \
                   dimensions: 8 } } }]";
    let figures = |figures: &str| ["--set".to_owned(), format!("figures=[{figures}]")];
    let run =
        |figures: [String; 2]| place.oodkit("run", [DATA, NETWORKS, methods], &figures.each_ref().map(String::as_str));
    let (code, said) =
        run(figures("{ maps: { methods: [PaDiM], images: 3 } }, { pixel_curves: { methods: [PaDiM] } }"));
    assert_eq!(code, Some(0), "{said}");
    for name in ["maps_bolt_PaDiM", "maps_nut_PaDiM", "pixel_curves_PaDiM"] {
        has(&said, &[&format!("{name}.svg"), &format!("{name}.png")]);
    }
    let file = |name: &str| {
        let folder = fs::read_dir(place.path("runs/experiments")).unwrap().next().unwrap().unwrap().path();
        fs::read(folder.join(name)).unwrap()
    };
    // Title and headings, a normal image, a dent and a scratch and another dent, the scale.
    let drawn = image::load_from_memory(&file("maps_nut_PaDiM.png")).unwrap();
    assert_eq!(drawn.height(), 2 * (54 + 22 + 4 * (128 + 5) + 44));
    let svg = String::from_utf8(file("maps_nut_PaDiM.svg")).unwrap();
    assert!(svg.contains("href=\"data:image/png;base64,iVBORw0KGgo"));
    let svg = String::from_utf8(file("pixel_curves_PaDiM.svg")).unwrap();
    has(&svg, &["bolt: ROC", "nut: PRO", "overlap with regions (%)"]);
    // Of each category, its normal images against each of its kinds of anomalies.
    let (code, said) = run(figures("{ roc: { methods: [KNN, PaDiM] } }, { histogram: { methods: [PaDiM] } }"));
    assert_eq!(code, Some(0), "{said}");
    for category in ["bolt", "nut"] {
        let folders = fs::read_dir(place.path("runs/experiments")).unwrap().map(|entry| entry.unwrap().path());
        let file =
            folders.map(|folder| folder.join(format!("roc_{category}_KNN_PaDiM.svg"))).find(|file| file.is_file());
        let svg = fs::read_to_string(file.unwrap()).unwrap();
        has(&svg, &[&format!("{category} against scratch"), &format!("{category} against dent")]);
        has(&said, &[&format!("roc_{category}_KNN_PaDiM.png"), &format!("histogram_{category}_PaDiM.png")]);
    }
    let (code, said) = run(figures("{ maps: { methods: [KNN] } }"));
    assert_eq!(code, Some(2));
    has(&said, &["knn gives no map of an image; padim, patchcore, patch_svdd and map do"]);
}

#[test]
fn controls_are_taken_of_ood_sets_too() {
    let place = Place::new();
    fs::create_dir_all(place.path("colours/test")).unwrap();
    for class in 0..3 {
        fs::create_dir_all(place.path(&format!("colours/test/c{class}"))).unwrap();
        let [from, to] = ["train", "test"].map(|split| place.path(&format!("colours/{split}/c{class}/0.png")));
        fs::copy(from, to).unwrap();
    }
    for i in 0..4 {
        place.image(&format!("bright/{i}.png"), 220, i, None);
    }
    let data = "{ id: { name: colours, format: class_folders }, ood: [{ name: bright, format: folder }] }";
    let networks = NETWORKS.replace("data: { name: colours, format: class_folders }, ", "");
    let (code, said) = place.oodkit("run", [data, &networks, METHODS], &["--set", "tables.0.controls=true"]);
    assert_eq!(code, Some(0), "{said}");
    let methods = &place.results()["cells"][0]["seeds"][0]["tasks"]["colours"]["methods"];
    assert_eq!(methods["Mean grey"]["sets"]["bright"]["measures"]["auroc"], 1.0);
    has(&said, &["On bright: ", "Mean grey"]);
}

#[test]
fn categories_are_chosen_and_swept() {
    let place = Place::new();
    let (code, said) = place.oodkit("run", [DATA, NETWORKS, METHODS], &["--set", "data.categories=[nut]"]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(place.results()["datasets"].as_object().unwrap().keys().collect::<Vec<_>>(), ["nut"]);
    let sweep = ["--sweep", "data.categories=[[bolt],[nut]]"];
    let (code, said) = place.oodkit("plan", [DATA, NETWORKS, METHODS], &sweep);
    assert_eq!(code, Some(0), "{said}");
    has(&said, &["bolt against", "nut against", "categories=bolt", "categories=nut", "1 networks, 0 to train"]);
    // A folder that is a category itself.
    let (code, said) = place.run("{ format: mvtec, path: parts/nut, size: 32 }");
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(place.results()["datasets"].as_object().unwrap().keys().collect::<Vec<_>>(), ["nut"]);
}

#[test]
fn a_smoke_run_makes_categories_up() {
    let place = Place::new();
    for data in [DATA, "{ format: mvtec, categories: [cable, pill, screw], size: 256 }"] {
        let (code, said) = place.oodkit("run", [data, NETWORKS, METHODS], &["--smoke"]);
        assert_eq!(code, Some(0), "{said}");
        has(&said, &["SMOKE RUN", "mean"]);
    }
}

#[test]
fn an_empty_mask_and_a_set_without_masks_are_no_errors() {
    let place = Place::new();
    place.mask("parts/nut/ground_truth/dent/001_mask.png", 32, None);
    fs::remove_dir_all(place.path("parts/bolt/ground_truth")).unwrap();
    let (code, said) = place.run(DATA);
    assert_eq!(code, Some(0), "{said}");
    has(&said, &["Anomalous images without a marked pixel at this size, left out of pixel measures: 1 of nut."]);
    let results = place.results();
    assert_eq!(results["datasets"]["nut"]["kinds"]["dent"]["unmarked"], 1);
    assert_eq!(results["datasets"]["bolt"]["kinds"]["dent"]["unmarked"], Value::Null);
}

#[test]
fn masks_that_do_not_fit_are_named() {
    let place = Place::new();
    let mask = "parts/nut/ground_truth/scratch/001_mask.png";
    let good = fs::read(place.path(mask)).unwrap();
    fs::remove_file(place.path(mask)).unwrap();
    has(&place.refused(DATA), &["test/scratch/001.png has no mask", "ground_truth/scratch/001_mask.png", "hint"]);
    place.mask(mask, 64, Some(4));
    has(
        &place.refused(DATA),
        &["001_mask.png has 64×64 pixels", "test/scratch/001.png has 32×32", "same size"]
            .map(|part| if part == "same size" { "hint" } else { part }),
    );
    fs::write(place.path(mask), &good[..good.len() / 2]).unwrap();
    has(&place.refused(DATA), &["001_mask.png"]);
    fs::write(place.path(mask), "no image").unwrap();
    has(&place.refused(DATA), &["001_mask.png"]);
    fs::write(place.path(mask), &good).unwrap();
    // A kind without a folder of masks, where others have one.
    fs::rename(place.path("parts/nut/ground_truth/dent"), place.path("dent")).unwrap();
    has(&place.refused(DATA), &["test/dent/000.png has no mask", "without the whole folder ground_truth/"]);
}

#[test]
fn folders_that_are_no_categories_are_named() {
    let place = Place::new();
    has(
        &place.refused("{ format: mvtec, path: nothing, size: 32 }"),
        &["nothing: no such folder", "CATEGORY/train/good", "mvtec.com/company/research/datasets/mvtec-ad"],
    );
    // Weights that are not there are told with it.
    let networks =
        "{ again: { model: { features: { backbone: resnet18 } }, weights: nowhere.safetensors, normalise: weights } }";
    let method = "[{ name: PaDiM, network: again, detector: padim }]";
    let missing = "{ format: mvtec, path: nothing, categories: [nut], size: 32 }";
    let (code, said) = place.oodkit("run", [missing, networks, method], &[]);
    assert_eq!(code, Some(2), "{said}");
    has(&said, &["nothing: no such folder", "cannot read the weights nowhere.safetensors"]);
    fs::create_dir_all(place.path("empty")).unwrap();
    has(&place.refused("{ format: mvtec, path: empty, size: 32 }"), &["empty: no folder with train/good/ in it"]);
    has(
        &place.refused("{ format: mvtec, path: parts, categories: [nutt], size: 32 }"),
        &["no category \"nutt\"", "did you mean \"nut\"?", "there are bolt, nut"],
    );
    has(
        &place.refused("{ format: mvtec, path: parts/nut, categories: [bolt], size: 32 }"),
        &["it is the category \"nut\" itself"],
    );
    fs::rename(place.path("parts/nut/test/good"), place.path("good")).unwrap();
    has(&place.refused(DATA), &["parts/nut/test: no folder good/"]);
    fs::rename(place.path("good"), place.path("parts/nut/test/good")).unwrap();
    fs::rename(place.path("parts/nut/test/dent"), place.path("parts/nut/test/all")).unwrap();
    has(&place.refused(DATA), &["test/all: \"all\" is the name of all kinds together", "rename this folder"]);
    fs::remove_dir_all(place.path("parts/nut/test/all")).unwrap();
    fs::remove_dir_all(place.path("parts/nut/test/scratch")).unwrap();
    has(&place.refused(DATA), &["parts/nut/test: no folder of anomalous images"]);
}

#[test]
fn images_that_cannot_be_read_are_named() {
    let place = Place::new();
    fs::write(place.path("parts/nut/test/dent/000.png"), "no image").unwrap();
    has(&place.refused(DATA), &["test/dent/000.png"]);
    place.image("parts/nut/test/dent/000.png", 160, 0, Some(4));
    for entry in fs::read_dir(place.path("parts/nut/test/good")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    has(&place.refused(DATA), &["nut/test/good", "holds no images"]);
}

#[test]
fn keys_that_do_not_go_together_are_told_at_their_place() {
    let place = Place::new();
    has(&place.refused("{ format: mvtec, path: parts }"), &["parts.yaml:2", "needs `size`", "size: 256"]);
    has(&place.refused("{ format: mvtec, path: parts, size: 0 }"), &["parts.yaml:2", "data.size", "from 1 to"]);
    has(
        &place.refused("{ format: idx, path: parts, size: 32 }"),
        &["parts.yaml:2", "only `format: mvtec` has categories"],
    );
    has(&place.refused("{ format: mvtec, id: digits, size: 32 }"), &["`format` stands in place of `id` and `ood`"]);
    has(
        &place.refused("{ id: digits, ood: [svhn], categories: all }"),
        &["`categories` of data goes with `format: mvtec`"],
    );
    has(&place.refused("{ ood: [svhn] }"), &["missing field `id`", "format: mvtec"]);
    has(
        &place.refused("{ format: mvtec, path: parts, size: 32, categories: [nut, nut] }"),
        &["data.categories.1", "given twice"],
    );
    has(
        &place.refused("{ format: mvtec, path: parts, size: 32, categories: [\"../secret\"] }"),
        &["is not the name of a folder"],
    );
    has(&place.refused("{ format: mvtec, path: parts, size: 32, mask_rule: most }"), &["mask_rule", "most", "nearest"]);
    has(
        &place.refused("{ format: mvtec, path: parts, size: 32, channels: 3, mean: [0.5], std: [0.5] }"),
        &["data.channels", "3 channels have 1 values"],
    );
    let classifies = NETWORKS.replace("data: { name: colours, format: class_folders }, ", "");
    let (code, said) = place.oodkit("run", [DATA, &classifies, METHODS], &[]);
    assert_eq!(code, Some(2), "{said}");
    has(&said, &["networks.colours.train", "nothing to classify", "`weights` without `train`"]);
}

#[test]
fn maps_are_measured_against_masks() {
    let place = Place::new();
    place.mask("parts/nut/ground_truth/dent/001_mask.png", 32, None);
    let methods = "[{ name: PaDiM, network: colours, detector: { padim: { dimensions: 4, smooth: 1 } } }]";
    let aupimo = ["--set", "tables.1.columns=[auroc, pro, aupimo]"];
    let (code, said) = place.oodkit("run", [DATA, NETWORKS, methods], &aupimo);
    assert_eq!(code, Some(0), "{said}");
    has(
        &said,
        &[
            "AUPIMO is a dash for bolt, nut: the normal test images have fewer than 100000 pixels.\n",
            "PRO is divided by the false positive rate that it is integrated up to.\nThat rate is 0.3, unless",
            "Fits of bolt, seed 0; what is 0 is left out.\nPaDiM: images 6, ",
            "Each category has its own normal train images.\nCategory bolt (",
        ],
    );
    let results = place.results();
    let tasks = &results["cells"][0]["seeds"][0]["tasks"];
    for category in ["bolt", "nut"] {
        let measures = &tasks[category]["methods"]["PaDiM"]["sets"]["all"]["measures"];
        // A bright square on a plain surface is found, and where it is.
        for key in ["auroc", "best_f1_out"] {
            assert_eq!(measures[key], 1.0, "{category} {key}: {measures}");
        }
        assert!(measures["pixel_auroc"].as_f64().unwrap() > 0.9, "{category}: {measures}");
        assert!(measures["pro@0.3"].as_f64().unwrap() > 0.6, "{category}: {measures}");
        // The normal images have too few pixels for its bounds.
        assert_eq!(measures["aupimo"], Value::Null);
        let maps = place.path("runs").join(tasks[category]["methods"]["PaDiM"]["scores"][category].as_str().unwrap());
        let maps = maps.with_extension("maps.npy");
        // Four maps at the grid of the first stage, not at the size of the images.
        assert!(maps.is_file(), "{}", maps.display());
        assert!(fs::metadata(&maps).unwrap().len() < 4 * 32 * 32 * 4, "{}", maps.display());
    }
    // The scores are known: only measures are taken again.
    let (code, again) = place.oodkit("run", [DATA, NETWORKS, methods], &aupimo);
    assert_eq!(code, Some(0), "{again}");
    assert_eq!(place.results()["cells"], results["cells"]);
}

/// An ID set of normal nuts, and a folder of anomalous ones with their masks.
const ONE_TASK: &str = "{ id: { name: nut, format: mvtec, path: parts/nut, size: 32, channels: 3 }, ood: [{ name: bent, format: folder, \
                        path: bent/images, masks: bent/masks }] }";

const PADIM: &str = "[{ name: PaDiM, network: colours, detector: { padim: { dimensions: 4, smooth: 1 } } }]";

impl Place {
    /// The same, with the anomalous nuts and their masks in folders of their own.
    fn with_folder() -> Self {
        let place = Self::new();
        for (kind, count) in [("dent", 2), ("scratch", 3)] {
            for i in 0..count {
                let at = 4 + 3 * u32::from(i);
                place.image(&format!("bent/images/{kind}/{i:03}.png"), 160, i, Some(at));
                place.mask(&format!("bent/masks/{kind}/{i:03}.png"), 32, Some(at));
            }
        }
        place
    }

    /// Runs PaDiM on these data with a table of these columns, and figures.
    fn padim(&self, data: &str, [rows, columns, figures]: [&str; 3]) -> (Option<i32>, String) {
        let tables = format!("tables=[{{ name: t, rows: {rows}, columns: [{columns}] }}]");
        let figures = format!("figures=[{figures}]");
        self.oodkit("run", [data, NETWORKS, PADIM], &["--set", &tables, "--set", &figures])
    }
}

#[test]
fn a_folder_with_masks_is_measured_by_its_pixels() {
    let place = Place::with_folder();
    let columns = "auroc, pixel_auroc, pixel_ap, pro, pro@0.1";
    let figures = "{ maps: { methods: [PaDiM], images: 2 } }, { pixel_curves: { methods: [PaDiM] } }";
    let (code, said) = place.padim(ONE_TASK, ["ood", columns, figures]);
    assert_eq!(code, Some(0), "{said}");
    has(
        &said,
        &["Masks are brought to that size by the rule nearest.", "maps_nut_PaDiM.png", "pixel_curves_PaDiM.png"],
    );
    let of_folder = place.results();
    // What a category with the same images and masks has.
    let (code, said) = place.padim("{ format: mvtec, path: parts/nut, size: 32 }", ["task", columns, ""]);
    assert_eq!(code, Some(0), "{said}");
    let of_category = place.results();
    let measures = |results: &Value, set: &str| {
        results["cells"][0]["seeds"][0]["tasks"]["nut"]["methods"]["PaDiM"]["sets"][set]["measures"].clone()
    };
    let (one, other) = (measures(&of_folder, "bent"), measures(&of_category, "all"));
    assert!(one["pixel_auroc"].as_f64().unwrap() > 0.9, "{one}");
    for key in ["auroc", "pixel_auroc", "pixel_ap", "pro@0.3", "pro@0.1"] {
        assert!(one[key].is_number() && one[key] == other[key], "{key}: {one} {other}");
    }
    let record = &of_folder["datasets"]["bent"];
    assert_eq!((&record["unmarked"], record["masks_sha256"].as_str().map(str::len)), (&Value::from(0), Some(64)));

    // An empty mask is counted, and a set without masks has a dash beside one that has them.
    place.mask("bent/masks/dent/001.png", 32, None);
    let two = ONE_TASK.replace("}] }", "}, { name: plain, format: folder, path: bent/images }] }");
    let (code, said) = place.padim(&two, ["ood", "auroc, pixel_auroc", ""]);
    assert_eq!(code, Some(0), "{said}");
    has(&said, &["Anomalous images without a marked pixel at this size, left out of pixel measures: 1 of bent."]);
    assert_eq!(measures(&place.results(), "plain")["pixel_auroc"], Value::Null);
    // A limit takes the first of every folder, and their masks.
    let few = ONE_TASK.replace("masks:", "test_limit: 2, mask_rule: any, masks:");
    let (code, said) = place.padim(&few, ["ood", "auroc, pixel_auroc", ""]);
    assert_eq!(code, Some(0), "{said}");
    has(&said, &["by the rule any", "subset of 2 of 5 test images"]);
    let (code, said) = place.padim(ONE_TASK, ["ood", "pixel_auroc", "{ maps: { methods: [PaDiM] } }"]);
    assert_eq!(code, Some(0), "{said}");
    let smoke = ["--smoke", "--set", "tables=[{ name: t, rows: ood, columns: [pixel_auroc] }]"];
    let (code, smoke) = place.oodkit("run", [ONE_TASK, NETWORKS, PADIM], &smoke);
    assert_eq!(code, Some(0), "{smoke}");
}

#[test]
fn masks_of_a_folder_that_do_not_fit_are_named() {
    let place = Place::with_folder();
    let refused = |data: &str, parts: &[&str]| {
        let (code, said) = place.padim(data, ["ood", "auroc, pixel_auroc", ""]);
        assert_eq!(code, Some(2), "{said}");
        assert!(!place.path("runs/networks").exists(), "something was trained: {said}");
        has(&said, parts);
    };
    let with = |from: &str, to: &str| ONE_TASK.replace(from, to);
    refused(&with("bent/masks", "bent/truth"), &["\"bent\": masks: ", "bent/truth is no folder", "hint"]);
    refused(&with("bent/masks", "bent/masks/dent/000.png"), &["bent/masks/dent/000.png is no folder"]);
    refused(
        &with("bent/masks", "bent/images"),
        &["bent/images lies in the folder of the images", "folders of their own"],
    );
    let mask = "bent/masks/scratch/001.png";
    let good = fs::read(place.path(mask)).unwrap();
    fs::remove_file(place.path(mask)).unwrap();
    refused(
        ONE_TASK,
        &["images/scratch/001.png has no mask: no", "masks/scratch/001_mask.png", "black where nobody knows"],
    );
    place.mask(mask, 64, Some(4));
    refused(ONE_TASK, &["masks/scratch/001.png has 64×64 pixels", "images/scratch/001.png has 32×32"]);
    fs::write(place.path(mask), &good[..good.len() / 2]).unwrap();
    refused(ONE_TASK, &["masks/scratch/001.png", "make the mask again"]);
    fs::write(place.path(mask), &good).unwrap();
    place.mask("bent/masks/scratch/009.png", 32, Some(4));
    refused(ONE_TASK, &["masks/scratch/009.png is a mask without an image in ", "bent/images", "take it away"]);
    fs::remove_file(place.path("bent/masks/scratch/009.png")).unwrap();
    // Keys that do not go together.
    let of_pixels = ["needs masks of anomalous pixels", "or an OOD set with `masks`"];
    refused(
        &with(", masks: bent/masks", "")
            .replace("format: mvtec, path: parts/nut", "format: class_folders, path: colours"),
        &of_pixels,
    );
    refused(&with("masks: bent/masks", "mask_rule: any"), &["data.ood.0.mask_rule", "goes with `masks`"]);
    refused(&with("masks: bent/masks", "kind: dent"), &["data.ood.0.kind", "goes with `format: mvtec`"]);
    refused(
        &with("format: mvtec, path", "masks: bent/masks, format: mvtec, path"),
        &["data.id.masks", "goes with `format: folder`"],
    );
    refused(
        &with("}] }", "}], shifted: [{ name: far, format: folder, path: bent/images, masks: bent/masks }] }"),
        &["data.shifted.0.masks", "goes with an OOD set"],
    );
    // A category's masks are refused alike.
    place.mask("parts/nut/ground_truth/dent/007_mask.png", 32, Some(4));
    has(&place.refused(DATA), &["ground_truth/dent/007_mask.png is a mask without an image in ", "test/dent"]);
}

#[test]
fn masks_are_found_and_read_as_people_have_them() {
    let place = Place::new();
    let pixel_auroc = |place: &Place| {
        let methods = "[{ name: PaDiM, network: colours, detector: { padim: { dimensions: 4, smooth: 1 } } }]";
        let (code, said) =
            place.oodkit("run", ["{ format: mvtec, path: parts/nut, size: 32 }", NETWORKS, methods], &[]);
        assert_eq!(code, Some(0), "{said}");
        let tasks = &place.results()["cells"][0]["seeds"][0]["tasks"];
        tasks["nut"]["methods"]["PaDiM"]["sets"]["all"]["measures"]["pixel_auroc"].as_f64().unwrap()
    };
    let usual = pixel_auroc(&place);
    let mask = |name: &str| place.path("parts/nut/ground_truth").join(name);
    let inside = |at: u32, x: u32, y: u32| (at..at + 8).contains(&x) && (at..at + 8).contains(&y);
    // Transparent outside the mark, one of 65,535 levels, another ending and name, and a folder below the kind's.
    let clear =
        image::RgbaImage::from_fn(32, 32, |x, y| image::Rgba([255, 255, 255, if inside(4, x, y) { 255 } else { 0 }]));
    clear.save(mask("scratch/000_mask.png")).unwrap();
    let faint = image::ImageBuffer::from_fn(32, 32, |x, y| Luma([u16::from(inside(7, x, y))]));
    faint.save(mask("scratch/001_mask.png")).unwrap();
    fs::rename(mask("scratch/002_mask.png"), mask("scratch/002.PNG")).unwrap();
    for (from, to) in [("test/dent", "001.png"), ("ground_truth/dent", "001_mask.png")] {
        let folder = place.path("parts/nut").join(from);
        fs::create_dir_all(folder.join("below")).unwrap();
        fs::rename(folder.join(to), folder.join("below").join(to.replace("001", "000"))).unwrap();
    }
    assert_eq!(pixel_auroc(&place), usual);
}

#[test]
fn folders_of_one_name_in_results_are_refused() {
    let place = Place::new();
    fs::rename(place.path("parts/nut/test/dent"), place.path("parts/nut/test/scratch 1")).unwrap();
    fs::create_dir_all(place.path("parts/nut/test/scratch_1")).unwrap();
    let said = place.refused(DATA);
    has(&said, &["the folders \"scratch 1\" and \"scratch_1\" would both be called \"scratch_1\"", "rename one"]);
    fs::remove_dir_all(place.path("parts/nut/test/scratch_1")).unwrap();
    fs::rename(place.path("parts/nut"), place.path("parts/b$lt")).unwrap();
    fs::rename(place.path("parts/bolt"), place.path("parts/b!lt")).unwrap();
    has(&place.refused(DATA), &["both be called \"b_lt\""]);
}

#[test]
fn figures_follow_the_masks_and_the_sweep() {
    let place = Place::new();
    let file = "title: Maps\ndata: { format: mvtec, path: parts, size: 32, categories: [nut] }\nnetworks: NETWORKS\nmethods: [{ name: \
                PaDiM, network: colours, detector: { padim: { dimensions: 4, smooth: 1 } } }]\ntables: [{ name: t, rows: task, columns: \
                [pro] }]\nfigures: [{ maps: { methods: [PaDiM], images: 2 } }]\n";
    fs::write(place.path("maps.yaml"), file.replace("NETWORKS", NETWORKS)).unwrap();
    let run = |more: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_oodkit"))
            .args(["run", "maps.yaml", "--data", ".", "--runs", "runs"])
            .args(more)
            .current_dir(place.folder.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let folders = fs::read_dir(place.path("runs/experiments")).unwrap().map(|entry| entry.unwrap().path());
        let drawn = folders.map(|folder| folder.join("maps_nut_PaDiM.png")).filter(|file| file.is_file());
        let newest = drawn.max_by_key(|file| fs::metadata(file).unwrap().modified().unwrap());
        newest.map(|file| fs::read(file).unwrap())
    };
    let first = run(&[]).unwrap();
    assert_eq!(run(&[]).unwrap(), first);
    place.mask("parts/nut/ground_truth/dent/000_mask.png", 32, Some(20));
    assert_ne!(run(&[]).unwrap(), first, "the contour is that of the mask before");
    // Each cell has its own category.
    run(&["--sweep", "data.categories=[[bolt],[nut]]"]);
}

#[test]
fn a_network_with_data_of_its_own_is_another_at_another_shape() {
    let place = Place::new();
    let hash = |data: &str| {
        let (code, said) = place.oodkit("plan", [data, NETWORKS, METHODS], &[]);
        assert_eq!(code, Some(0), "{said}");
        said.lines().find_map(|line| Some(line.split("networks/").nth(1)?.split('/').next()?.to_owned())).unwrap()
    };
    let usual = hash(DATA);
    assert_eq!(hash("{ format: mvtec, path: parts, size: 32, categories: [nut] }"), usual);
    for other in ["size: 48", "size: 32, channels: 1", "size: 32, crop: none", "size: 32, brightness: median"] {
        assert_ne!(hash(&format!("{{ format: mvtec, path: parts, {other} }}")), usual, "{other}");
    }
}

#[test]
fn a_mask_serves_one_image_and_an_image_has_one_mask() {
    let place = Place::with_folder();
    // The mask of an image, left among the images, would be an image with that image's mask; so would a copy of another ending.
    let by_folder = |mask: &str| {
        let (code, said) = place.padim(ONE_TASK, ["ood", "auroc, pixel_auroc", ""]);
        assert_eq!(code, Some(2), "{said}");
        has(&said, &["bent/masks/dent/000", mask, "hint"]);
        said
    };
    for (stray, other) in [("000_mask.png", "000.png"), ("000.jpg", "000.png")] {
        let of_category = format!("parts/nut/test/dent/{stray}");
        place.image(&of_category, 160, 0, Some(4));
        let said = place.refused(DATA);
        has(&said, &["ground_truth/dent/000_mask.png would be the mask of two images: "]);
        has(&said, &[&of_category, &format!("parts/nut/test/dent/{other}")]);
        let (code, plan) = place.oodkit("plan", [DATA, NETWORKS, METHODS], &[]);
        assert_eq!(code, Some(0), "{plan}");
        has(&plan, &["would be the mask of two images: ", stray]);
        fs::remove_file(place.path(&of_category)).unwrap();
    }
    fs::rename(place.path("bent/masks/dent/000.png"), place.path("bent/masks/dent/000_mask.png")).unwrap();
    for stray in ["000_mask.png", "000.bmp"] {
        let image = format!("bent/images/dent/{stray}");
        place.image(&image, 160, 0, Some(4));
        let said = by_folder("000_mask.png would be the mask of two images: ");
        has(&said, &[&image, "bent/images/dent/000.png"]);
        fs::remove_file(place.path(&image)).unwrap();
    }
    for other in ["000.png", "000_mask.bmp"] {
        let mask = format!("bent/masks/dent/{other}");
        place.mask(&mask, 32, Some(9));
        let said = by_folder("bent/images/dent/000.png has two masks: ");
        has(&said, &[&mask, "bent/masks/dent/000_mask.png"]);
        fs::remove_file(place.path(&mask)).unwrap();
    }
    // An image may be called a mask, if it has its own.
    place.image("bent/images/dent/000_mask.png", 160, 0, Some(4));
    place.mask("bent/masks/dent/000_mask_mask.png", 32, Some(4));
    let (code, said) = place.padim(ONE_TASK, ["ood", "auroc, pixel_auroc", ""]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn the_kind_of_a_set_is_a_folder_of_anomalies() {
    let place = Place::new();
    let with = |kind: &str| {
        let ood = format!("ood: [{{ name: bent, format: mvtec, path: parts/nut{kind} }}]");
        format!("{{ id: {{ name: nut, format: mvtec, path: parts/nut, size: 32, channels: 3 }}, {ood} }}")
    };
    for kind in ["../train/good", "../../bolt/test/dent", "dent/", "..", ".hidden"] {
        let said = place.refused(&with(&format!(", kind: \"{kind}\"")));
        has(&said, &["data.ood.0.kind", "parts.yaml:2", &format!("\"{kind}\" is not the name of a folder")]);
    }
    let same = ["\"bent\" and the ID set \"nut\" are the same test images, in ", "parts/nut/test/good", "`kind`"];
    has(&place.refused(&with(", kind: good")), &same);
    has(&place.refused(&with("")), &same);
    has(&place.refused(&with(", kind: good").replace("parts/nut, kind", "./parts/../parts/nut, kind")), &same);
    // Normal images of another category are none of this one's.
    for fine in [with(", kind: dent"), with(", kind: good").replace("parts/nut, kind", "parts/bolt, kind")] {
        let (code, said) = place.run(&fine);
        assert_eq!(code, Some(0), "{said}");
    }
}

#[test]
fn a_size_that_is_none_is_named() {
    let place = Place::new();
    for size in ["-3", "1.5", "64px", "true", "[64]", "[64, 64, 3]", "[64, 1.5]", "{ rows: 3 }"] {
        let said = place.refused(&format!("{{ format: mvtec, path: parts, size: {size} }}"));
        has(&said, &["parts.yaml:2", "is no size: write `256`, or rows and columns, `[256, 192]`"]);
        assert!(!said.contains("variant"), "{said}");
    }
    for (size, named) in [("-3", "-3"), ("1.5", "1.5"), ("64px", "\"64px\""), ("[64]", "[64]")] {
        let said = place.refused(&format!("{{ format: mvtec, path: parts, size: {size} }}"));
        has(&said, &[&format!("{named} is no size")]);
    }
    for (key, named) in [
        ("crop: 3px", "\"3px\" is no crop: write a share from 0.1 to 1, or `none`"),
        ("brightness: bright", "\"bright\" is no brightness: write `none`, `median`, or `{ median: 0.8 }`"),
    ] {
        let said = place.refused(&format!("{{ format: mvtec, path: parts, size: 32, {key} }}"));
        has(&said, &["parts.yaml:2", named]);
    }
}

#[test]
fn a_place_that_is_empty_is_not_the_data_root() {
    let place = Place::with_folder();
    for (from, to, key) in [
        ("masks: bent/masks", "masks: \"\"", "data.ood.0.masks"),
        ("path: bent/images", "path: \"\"", "data.ood.0.path"),
        ("path: parts/nut", "path: \"\"", "data.id.path"),
    ] {
        has(&place.refused(&ONE_TASK.replace(from, to)), &["parts.yaml:2", key, "is empty", "leave the key out"]);
    }
    let said = place.refused("{ format: mvtec, path: \"\", size: 32 }");
    has(&said, &["parts.yaml:2", "data.path", "is empty"]);
    let colours = NETWORKS.replace("format: class_folders", "format: class_folders, path: \"\"");
    let (code, said) = place.oodkit("run", [DATA, &colours, METHODS], &[]);
    assert_eq!(code, Some(2), "{said}");
    has(&said, &["networks.colours.data.path", "is empty"]);
}

#[test]
fn masks_that_are_all_black_are_said_to_be() {
    let place = Place::new();
    for (kind, count) in [("scratch", 3), ("dent", 2)] {
        for i in 0..count {
            place.mask(&format!("parts/nut/ground_truth/{kind}/{i:03}_mask.png"), 32, None);
        }
    }
    let (code, said) = place.padim("{ format: mvtec, path: parts/nut, size: 32 }", ["task", "auroc, pixel_auroc", ""]);
    assert_eq!(code, Some(0), "{said}");
    has(&said, &["No mask marks a pixel at this size, so there are no pixel measures: PaDiM.\n", "5 of nut."]);
    assert!(!said.contains("Without maps or masks"), "{said}");
}

#[test]
fn a_share_that_is_none_is_told_with_its_own_kind() {
    let place = Place::new();
    for (column, like) in [("pro@0", "pro@0.05"), ("pro@x", "pro@0.05"), ("fpr@0", "fpr@0.9")] {
        let (code, said) = place.padim(DATA, ["task", column, ""]);
        assert_eq!(code, Some(2), "{said}");
        has(&said, &[&format!("{column}: the rate is a number above 0 and up to 1, with six digits at most: {like}")]);
    }
}

#[test]
fn one_image_is_too_few_for_padim_and_its_folder_is_named() {
    let place = Place::new();
    let one = "{ format: mvtec, path: parts, size: 32, train_limit: 1 }";
    let (code, said) = place.padim(one, ["task", "auroc", ""]);
    assert_eq!(code, Some(2), "{said}");
    has(
        &said,
        &["padim needs 2 train images for a covariance, and there is 1", "\"bolt\"", "parts/bolt", "train_limit"],
    );
    assert!(!place.path("runs/networks").exists(), "something was trained: {said}");
}

#[test]
fn masks_that_nobody_reads_are_told() {
    let place = Place::new();
    let unread = |said: &str| said.lines().filter(|line| line.contains("is not read")).count();
    let (code, said) = place.run(DATA);
    assert_eq!((code, unread(&said)), (Some(0), 0), "{said}");
    place.mask("parts/nut/ground_truth/good/000_mask.png", 32, Some(4));
    place.mask("parts/nut/ground_truth/rust/000_mask.png", 32, Some(4));
    let (code, said) = place.run(DATA);
    assert_eq!((code, unread(&said)), (Some(0), 2), "{said}");
    has(&said, &["nut/ground_truth/good is not read: normal images have no masks\n"]);
    has(&said, &["nut/ground_truth/rust is not read: there is no folder ", "nut/test/rust\n"]);
    // What should be a folder of masks and is none.
    fs::remove_dir_all(place.path("parts/nut/ground_truth")).unwrap();
    fs::write(place.path("parts/nut/ground_truth"), "masks").unwrap();
    fs::remove_dir_all(place.path("runs")).unwrap();
    has(&place.refused(DATA), &["parts/nut/ground_truth is no folder", "take it away"]);
    let (_, plan) = place.oodkit("plan", [DATA, NETWORKS, METHODS], &[]);
    has(&plan, &["parts/nut/ground_truth is no folder"]);
}

#[test]
fn train_images_among_the_test_images_are_told() {
    let place = Place::new();
    let (code, said) = place.run(DATA);
    assert!(code == Some(0) && !said.contains(" cop"), "{said}");
    for (from, to) in [("good/001", "good/009"), ("good/002", "good/000"), ("good/003", "dent/001")] {
        fs::copy(place.path(&format!("parts/nut/train/{from}.png")), place.path(&format!("parts/nut/test/{to}.png")))
            .unwrap();
    }
    let (code, said) = place.run(DATA);
    assert_eq!(code, Some(0), "{said}");
    has(
        &said,
        &[
            "nut: 2 test images are copies of train images, the first test/good/000.png of train/good/002.png\n",
            "nut, dent: 1 test image is a copy of a train image, test/dent/001.png of train/good/003.png\n",
        ],
    );
}

#[test]
fn a_plan_finds_masks_that_are_missing() {
    let place = Place::with_folder();
    let plan = |data: &str| {
        let (code, said) = place.oodkit("plan", [data, NETWORKS, METHODS], &[]);
        assert_eq!(code, Some(0), "{said}");
        said
    };
    for data in [DATA, ONE_TASK] {
        let said = plan(data);
        assert!(!said.contains("missing"), "{said}");
    }
    fs::remove_file(place.path("parts/nut/ground_truth/scratch/001_mask.png")).unwrap();
    has(&plan(DATA), &["missing  ", "test/scratch/001.png has no mask"]);
    place.mask("parts/nut/ground_truth/scratch/001_mask.png", 32, Some(7));
    place.mask("parts/bolt/ground_truth/dent/007_mask.png", 32, Some(4));
    has(&plan(DATA), &["missing  ", "ground_truth/dent/007_mask.png is a mask without an image"]);
    fs::remove_file(place.path("bent/masks/scratch/001.png")).unwrap();
    has(&plan(ONE_TASK), &["missing  ", "images/scratch/001.png has no mask"]);
    has(&plan(&ONE_TASK.replace("bent/masks", "bent/truth")), &["missing  ", "bent/truth is no folder"]);
}
