//! `detector: all`, protocols by name, and lists of pictures: what an experiment may ask for, and what comes of it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use candle_core::{Device, Tensor};
use oodkit::{
    config::{self, Experiment, load, overrides},
    detectors::{DetectorConfig, temperature_scaling::scaled_msp},
    metrics,
    nn::tta::Tta,
    run::results::Results,
};
use serde_json::{Value, json};

const EXPERIMENT: &str = "\
title: Protocols
data:
  id: { name: fashion_mnist_small, train_limit: 64, test_limit: 40 }
  ood: [{ name: digits, test_limit: 30, group: near }, { name: textures_small, test_limit: 30, group: far }]
networks:
  base:
    backbone: lenet
    train: &recipe { epochs: 1, batch_size: 16, optimizer: { sgd: { lr: 0.05 } } }
methods:
  - { network: base, detector: { all: { except: [afdu] } } }
tables:
  - { name: field, rows: method, columns: [fpr95, auroc], over: group, protocol: openood_v1_5 }
  - { name: draws, rows: ood, methods: [msp, knn], columns: [fpr95], protocol: energy_ood }
";

fn with(changes: &[(&str, &str)]) -> String {
    let mut text = EXPERIMENT.to_owned();
    for (from, to) in changes {
        assert!(text.contains(from), "{from}");
        text = text.replace(from, to);
    }
    text
}

fn parse(text: &str) -> Experiment {
    load::parse(text, "field.yaml").unwrap_or_else(|error| panic!("{error}"))
}

fn names(experiment: &Experiment) -> Vec<String> {
    experiment.methods().into_iter().map(|method| method.name).collect()
}

/// The detectors that `all` leaves out on a network with these keys.
fn left_out(network: &str) -> BTreeSet<&'static str> {
    let experiment =
        parse(&with(&[("backbone: lenet", network), ("{ all: { except: [afdu] } }", "all"), ("[msp, knn]", "[msp]")]));
    let names = names(&experiment);
    let left = DetectorConfig::NAMES.iter().copied().filter(|name| !names.iter().any(|own| own == name)).collect();
    let told: BTreeSet<&str> = experiment.left_out().into_iter().flat_map(|left| left.detectors).collect();
    assert_eq!(told, left, "what is left out is told");
    left
}

#[test]
fn all_is_what_a_network_can_have() {
    let set = |names: &[&'static str]| names.iter().copied().collect::<BTreeSet<_>>();
    // Those of maps, of two networks, of a diffusion model and with a network of their own are named, whatever the network.
    let maps = set(&["padim", "patchcore", "patch_svdd", "map", "reconstruction_change", "feature_denoising"]);
    let of_denoiser = set(&["diffood", "denoising_error", "diffpath", "elbo_ratio", "ddpm_ood"]);
    let maps = &maps | &of_denoiser;
    let plain = &set(&["mutual_information", "duq", "sngp"]) | &maps;
    assert_eq!(left_out("backbone: wrn40_2"), plain);
    assert_eq!(left_out("backbone: resnet18_32x32"), plain);
    assert_eq!(left_out("backbone: lenet"), &plain | &set(&["rankfeat"]));
    let of_head = set(&[
        "react", "dice", "ash", "scale", "adascale", "vra", "weiper", "rankfeat", "residual", "vim", "fdbd", "ora",
        "pnml", "nci",
    ]);
    assert_eq!(
        left_out("backbone: wrn40_2\n    head: sngp"),
        &(&of_head | &maps) | &set(&["mutual_information", "duq"])
    );
    let duq = "backbone: wrn40_2\n    head: duq\n    loss: { binary_cross_entropy: {} }";
    assert!(left_out(duq).is_superset(&(&of_head | &set(&["mutual_information", "sngp"]))));
    let of_ensemble = left_out("backbone: lenet\n    members: 2");
    let layers =
        set(&["energy", "duq", "afdu", "gram", "gradnorm", "grood", "openmax", "nnguide", "sngp", "odin", "nac"]);
    assert!(of_ensemble.is_superset(&(&of_head | &layers)), "{of_ensemble:?}");
    assert!(of_ensemble.is_disjoint(&set(&["mutual_information", "msp", "knn", "mahalanobis", "gen"])));
}

#[test]
fn all_follows_the_network_and_keeps_its_place() {
    let experiment = parse(&with(&[("methods:\n", "methods:\n  - { name: EBD, network: base, detector: energy }\n")]));
    let all = names(&experiment);
    assert_eq!(all[..3], ["EBD", "msp", "softmax_entropy"]);
    assert!(!all.contains(&"rankfeat".to_owned()) && !all.contains(&"afdu".to_owned()));
    let set = |text: &str| overrides::apply(&experiment, &[text.to_owned()]).unwrap();
    assert!(names(&set("networks.base.backbone=wrn40_2")).contains(&"rankfeat".to_owned()));
    let named = parse(&with(&[
        ("{ network: base, detector: { all", "{ name: field, network: base, detector: { all"),
        ("[msp, knn]", "['field: knn']"),
    ]));
    assert_eq!(names(&named)[0], "field: msp");

    // Shrinking moves what it changes to the end, once.
    let small = config::smoke(experiment);
    assert_eq!(names(&small).iter().collect::<BTreeSet<_>>(), all.iter().collect());
    assert_eq!(config::smoke(small.clone()), small);
    let text = serde_saphyr::to_string(&small).unwrap();
    assert_eq!(load::parse(&text, "small").unwrap_or_else(|error| panic!("{error}\n{text}")), small);
}

#[test]
fn what_cannot_be_is_refused_where_it_stands() {
    let all = "- { network: base, detector: { all: { except: [afdu] } } }";
    let heads = "needs features that are the means of the last feature maps, and those of \"base\", a lenet, are not";
    for (changes, place, reason) in [
        (&[(all, "- { network: base, detector: rankfeat }"), ("[msp, knn]", "[rankfeat]")][..], ":10:", heads),
        (
            &[
                (all, "- { network: base, detector: react }"),
                ("[msp, knn]", "[react]"),
                ("backbone: lenet", "backbone: lenet\n    head: sngp"),
            ],
            ":11:",
            "react reads the last linear layer, and the logits of \"base\" are not linear in its features",
        ),
        (&[("[afdu]", "[afdu, knnn]")], ":10:", "there is no detector \"knnn\" (did you mean \"knn\"?)"),
        (&[("[afdu]", "[afdu, afdu]")], ":10:", "\"afdu\" is given twice"),
        (&[("except:", "exept:")], ":10:", "unknown key `exept`"),
        (&[("{ all: { except: [afdu] } }", "{ alle: {} }")], ":10:", "there is no detector \"alle\""),
        (&[("{ all: { except: [afdu] } }", "{ all: {}, knn: {} }")], ":10:", "`knn` follows `all`"),
        (
            &[(all, "- { network: base, detector: knn }\n  - { network: base, detector: all }")],
            ":11:",
            "a method is called \"knn\" already; except it here, or give this entry a name of its own",
        ),
        (&[("network: base", "network: bas")], ":10:", "there is no network \"bas\""),
        (&[("[msp, knn]", "[msp, rankfeat]")], ":13:", "there is no method \"rankfeat\""),
        (
            &[("tables:", "evaluation: { redraw: { draws: 3 } }\ntables:")],
            ":14:",
            "energy_ood is ten draws of a fifth of the ID set",
        ),
        (&[("protocol: openood_v1_5", "protocol: openood_v1_5, sampling: redraw")], ":12:", "remove sampling"),
        (&[("over: group, ", "")], ":12:", "openood_v1_5 averages OOD sets by group"),
        (&[("group: near", "group: mean")], ":4:", "a group is letters"),
        (&[("group: near", "group: textures_small")], ":4:", "is the name of a group as well"),
        (&[("train_limit: 64", "group: near")], ":3:", "is for OOD sets"),
        (&[(", group: near", ""), (", group: far", "")], ":12:", "no OOD set has a group"),
        (&[("{ name: digits", "{ name: digits, format: image_list")], ":4:", "an image_list needs list"),
        (&[("{ name: digits", "{ name: digits, list: a.txt")], ":4:", "goes with `format: image_list`"),
    ] {
        let error = load::parse(&with(changes), "field.yaml").expect_err(reason).to_string();
        assert!(error.contains(&format!("field.yaml{place}")) && error.contains(reason), "{error}");
    }
}

struct Place(tempfile::TempDir);

impl Place {
    fn new(text: &str) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.write(text);
        place
    }

    /// Asserts that the program ends with 2 and says so.
    #[track_caller]
    fn refuses(&self, command: &str, message: &str) {
        let output = self.oodkit(command);
        let told = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{command}: {told}");
        assert!(told.contains(message), "{command}: {told}");
    }

    fn write(&self, text: &str) {
        let text = text.replace("PLACE", &self.0.path().display().to_string());
        std::fs::write(self.path("field.yaml"), text).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn oodkit(&self, command: &str) -> Output {
        let mut oodkit = Command::new(env!("CARGO_BIN_EXE_oodkit"));
        oodkit.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1").args(command.split(' '));
        oodkit.arg(self.path("field.yaml")).arg("--runs").arg(self.path("runs")).output().unwrap()
    }

    /// What a command prints.
    fn prints(&self, command: &str) -> String {
        let output = self.oodkit(command);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn results(&self) -> Results {
        let folder = std::fs::read_dir(self.path("runs/experiments")).unwrap().next().unwrap().unwrap().path();
        Results::read(&folder).unwrap().unwrap()
    }

    /// The stored logits on a set of the network whose scores are at `path`.
    fn outputs(&self, path: &Path, set: &str) -> Tensor {
        let network = self.path("runs").join(path.ancestors().nth(3).unwrap());
        let folder = std::fs::read_dir(network.join("outputs")).unwrap().next().unwrap().unwrap().path();
        let mut files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let file =
            files.find(|file| file.file_name().unwrap().to_string_lossy().starts_with(&format!("{set}-"))).unwrap();
        candle_core::safetensors::load(file, &Device::Cpu).unwrap().remove("logits").unwrap()
    }

    fn scores(&self, path: &Path) -> Vec<f32> {
        let scores = metrics::read_scores(&self.path("runs").join(path)).unwrap();
        scores.into_iter().map(|score| score as f32).collect()
    }
}

#[test]
fn the_whole_field_runs_and_stands_in_one_table() {
    let place = Place::new(EXPERIMENT);
    let plan = place.prints("plan");
    assert!(plan.contains("without  rankfeat on base: needs features that are the means"), "{plan}");
    assert_eq!(plan.matches("mutual_information").count(), 1, "{plan}");
    let table = place.prints("run");
    let results = place.results();
    let methods = &results.cells[0].seeds[0].tasks[0].methods;
    assert_eq!(methods.keys().cloned().collect::<Vec<_>>(), names(&parse(EXPERIMENT)));
    for name in methods.keys() {
        assert!(table.lines().any(|line| line.trim_start().starts_with(name.as_str())), "{name}\n{table}");
    }
    assert_eq!(results.datasets["digits"].group.as_deref(), Some("near"));

    // energy_ood needs no `evaluation.redraw`: ten draws of a fifth of the 40 ID images.
    let method = &methods["knn"];
    let [id, digits] = ["fashion_mnist_small", "digits"].map(|set| place.scores(&method.scores[set]));
    let expected = metrics::redraw(&id, &digits, 10, 8, 0, "digits").unwrap();
    assert_eq!(method.sets["digits"].redraw.as_ref(), Some(&expected));
    assert_eq!(expected["auroc"].n, 10);
    assert_eq!(table, place.prints("table"));
}

/// The second network of a detector has to be there, learn the same images, be one network and show what is read.
#[test]
fn a_second_network_that_cannot_serve_is_refused_where_it_is_named() {
    let all = "- { network: base, detector: { all: { except: [afdu] } } }";
    let recipe = "train: *recipe, loss: { reconstruction: {} }";
    let again = format!("again: {{ model: {{ autoencoder: {{ depth: 2, latent: 1 }} }}, {recipe} }}");
    let networks = format!("optimizer: {{ sgd: {{ lr: 0.05 }} }} }}\n  {again}");
    let place = "methods.0.detector.reconstruction_change.maker";
    for (settings, networks, message) in [
        ("{}", &networks, "has to be given: the network that shows images made again; name again"),
        ("{ maker: agian }", &networks, "there is no network \"agian\" (did you mean \"again\"?)"),
        (
            "{ maker: base }",
            &networks,
            "reconstruction_change reads images made again of it, and \"base\", of the kind classifier, shows none; name again",
        ),
        (
            "{ maker: again }",
            &networks.replace("again: {", "again: { data: mnist,"),
            "\"again\" learns \"mnist\", and what is scored are images such as those of \"fashion_mnist_small\"; give the experiment \
             one, such as `model: { autoencoder: {} }`",
        ),
        (
            "{ maker: again }",
            &networks.replace("again: {", "again: { members: 2,"),
            "reconstruction_change reads images made again of it, and \"again\", an ensemble, shows none; give the experiment one",
        ),
    ] {
        let method = format!("- {{ name: Change, network: base, detector: {{ reconstruction_change: {settings} }} }}");
        let changes =
            [(all, method.as_str()), ("[msp, knn]", "[Change]"), ("optimizer: { sgd: { lr: 0.05 } } }", networks)];
        let error = load::parse(&with(&changes), "field.yaml").expect_err(message);
        assert_eq!(error.exit_code(), 2);
        let error = error.to_string();
        assert!(error.starts_with("field.yaml:1") && error.contains(&format!(": {place}: {message}")), "{error}");
    }
    let method = "- { name: Change, network: base, detector: { diffood: { denoiser: base } } }";
    let error = load::parse(&with(&[(all, method), ("[msp, knn]", "[Change]")]), "field.yaml").unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let message = "methods.0.detector.diffood.denoiser: diffood reads the noise in noisy images of it, and \"base\", of the kind classifier, \
                   shows none; give the experiment one, such as `model: { diffusion: {} }`";
    assert!(error.to_string().contains(message), "{error}");
    // Of a network that cannot run again on other images; and a name is no setting to search.
    let good = "- { name: Change, network: base, detector: { reconstruction_change: { maker: again } } }";
    let changes = [(all, good), ("[msp, knn]", "[Change]"), ("optimizer: { sgd: { lr: 0.05 } } }", &networks)];
    parse(&with(&changes));
    let ensemble = with(&changes).replace("backbone: lenet", "backbone: lenet\n    members: 2");
    let searched = with(&changes)
        .replace("maker: again } } }", "of: features } }, search: { maker: [again] } }")
        .replace("group: far }]", "group: far }]\n  validation: { id: 8, made: all }");
    for (text, message) in [
        (ensemble, "reads what softmax ignores of the logits, and of the ensemble \"base\""),
        (searched, "names a network: give the detector one, and sweep over others"),
    ] {
        let error = load::parse(&text, "field.yaml").expect_err(message).to_string();
        assert!(error.contains(message), "{error}");
    }
}

/// Detectors that read layers look on while the outputs are computed; the outputs and their scores are those that each makes by itself.
#[test]
fn a_shared_pass_changes_no_bit() {
    let all = "- { network: base, detector: { all: { except: [afdu] } } }";
    let network = ("backbone: lenet", "backbone: { wide_resnet: { depth: 10, width: 1 } }");
    let tables = EXPERIMENT.find("tables:").map(|at| &EXPERIMENT[at..]).unwrap();
    let experiment = |methods: &[&str]| {
        let methods: Vec<String> =
            methods.iter().map(|name| format!("- {{ network: base, detector: {name} }}")).collect();
        with(&[network, (all, &methods.join("\n  ")), (tables, "")])
    };
    let files = |place: &Place| {
        let mut files: Vec<(String, Vec<u8>)> = Vec::new();
        let mut folders = vec![place.path("runs")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                let name = entry.strip_prefix(place.path("runs")).unwrap().display().to_string();
                match entry.is_dir() {
                    true => folders.push(entry),
                    false if name.ends_with(".npy") || name.contains("/outputs/") => {
                        files.push((name, std::fs::read(entry).unwrap()));
                    }
                    false => {}
                }
            }
        }
        files.sort();
        files
    };
    let squares = "{ gram: { powers: 2 } }";
    let named = |text: String| {
        text.replace("{ network: base, detector: { gram", "{ name: squares, network: base, detector: { gram")
    };
    let together = Place::new(&named(experiment(&["gram", "knn", squares, "rankfeat"])));
    together.prints("run");
    let apart = Place::new(&experiment(&["knn"]));
    apart.prints("run");
    for name in ["gram", squares, "rankfeat"] {
        apart.write(&named(experiment(&[name])));
        apart.prints("run");
    }
    let (expected, found) = (files(&apart), files(&together));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&found), names(&expected));
    assert_eq!(found.len(), 3 * 4 + 4, "scores of four methods on three sets, and outputs on them and the train set");
    for ((name, found), (_, expected)) in found.iter().zip(&expected) {
        assert!(found == expected, "{name} differs");
    }
}

/// Layers that the network does not have, weights, neighbours and directions that are too few, and memory that is too little, of
/// every combination of a search.
#[test]
fn what_cannot_be_fitted_is_told_before_training() {
    let all = "- { network: base, detector: { all: { except: [afdu] } } }";
    let validation = "far }]\n  validation: { id: 8, ood: [{ name: b, format: folder, path: PLACE/b }] }\nevaluation: { fit_memory: 1 }";
    let experiment = |method: &str| {
        let method = format!("- {{ name: tried, network: base, {method} }}");
        with(&[
            (all, &method),
            ("far }]", validation),
            ("[msp, knn]", "[tried]"),
            ("train_limit: 64", "train_limit: 1000"),
        ])
    };
    for (method, expected) in [
        (
            "detector: { gram: { powers: 32 } }",
            "gram: Gram needs 2 MiB for the bounds of 10 classes, and may use 1 MiB",
        ),
        ("detector: gram, search: { powers: [5, 32] }", "gram: Gram needs 2 MiB for the bounds of 10 classes"),
        (
            "detector: { mahalanobis: { layers: all } }",
            "mahalanobis: mahalanobis needs 2 MiB for its layers, and may use 1 MiB",
        ),
        ("detector: ddu", "ddu: ddu needs 2 MiB for the covariances of 10 classes, and may use 1 MiB"),
        ("detector: { mahalanobis: { layers: [conv3] } }", "mahalanobis: the network has no stage \"conv3\""),
        ("detector: { mahalanobis: { weights: [1, 2] } }", "mahalanobis has 2 weights for the layers penultimate"),
        (
            "detector: { nac: { layers: { conv3: {} } } }",
            "nac: the network has no stage \"conv3\" (did you mean \"conv",
        ),
        ("detector: { cfood: { alpha: 0.001 } }", "cfood: cfood compares with 1 of 1000 train images, and needs 2"),
        ("detector: cfood, search: { alpha: [0.1, 1] }", "cfood: cfood needs 3 MiB for 1000 reference images"),
        ("detector: { knn: { k: 1001 } }", "knn: k is 1001, and there are 1000 train images to be neighbours"),
        ("detector: knn, search: { k: [5, 1001] }", "knn: k is 1001, and there are 1000 train images"),
        (
            "detector: { nnguide: { k: 11, fraction: 0.01 } }",
            "nnguide: k is 11, and there are 10 train images to be neighbours",
        ),
        ("detector: nnguide, search: { fraction: [1, 0.009] }", "nnguide: k is 10, and there are 9 train images"),
        ("detector: { vim: { dimension: 84 } }", "vim: 84 of 84 features' directions leave no residual"),
        ("detector: { neco: { dimension: 85 } }", "neco: dimension is 85, and there are 84 features"),
        (
            "detector: neco, search: { max_logit: [true, false], dimension: [84] }",
            "neco: dimension is 84, all features",
        ),
        (
            "detector: { weiper: { repeats: 200 } }",
            "weiper: weiper needs 3 MiB for 200 perturbed last layers, and may use 1 MiB",
        ),
        ("detector: residual, search: { dimension: [83, 512] }", "residual: 512 of 84 features' directions leave"),
        (
            "detector: { kpca: { kernel: cosine_gaussian } }",
            "kpca: kpca needs 96 MiB for the covariance of 2048 features, and may use 1 MiB",
        ),
    ] {
        let place = place_of_search();
        place.write(&experiment(method));
        for command in ["plan", "run"] {
            place.refuses(command, expected);
            assert!(!place.path("runs/networks").exists(), "{method}: trained first");
        }
    }
    let place = Place::new(&experiment("detector: { gram: { powers: 5 } }"));
    place.prints("plan");
    // Of 8,000 of Fashion-MNIST's 60,000 images, which a plan does not count.
    let all = experiment("detector: { mahalanobis: { layers: all } }").replace("train_limit: 1000, ", "");
    place.write(&all.replace("fit_memory: 1 ", "fit_memory: 16 "));
    place.prints("plan");
}

#[test]
fn a_plan_says_what_settings_are_chosen_on_and_which_data_are_missing() {
    let place = place_of_search();
    place.write(&searched());
    let plan = place.prints("plan");
    let chosen = "\nchosen   on 8 test images of fashion_mnist_small against digits, b, where settings are searched\n";
    assert!(plan.contains(chosen) && !plan.contains("missing"), "{plan}");
    std::fs::remove_dir_all(place.path("b")).unwrap();
    let plan = place.prints("plan");
    let missing = plan.lines().find(|line| line.starts_with("missing  data set \"b\" (test) is not in ")).unwrap();
    assert!(missing.contains("(put its files there"), "{missing}");

    let place = Place::new(EXPERIMENT);
    let plan = place.prints("plan");
    let images = "\nimages   1×28×28 values, 10 classes, 64 to learn from, 40 to test on\n";
    assert!(plan.contains(images), "{plan}");
    // One epoch of 64 images in batches of 16.
    assert!(
        plan.ends_with("1 networks, 1 to train: 64 images forward and backward, 4 optimiser steps at most\n"),
        "{plan}"
    );
    assert!(plan.contains("\nwithout  afdu on base: the file excepts it\n") && !plan.contains("chosen"), "{plan}");
}

/// A search on eight held-out ID images and two validation sets; `c` and `b` are folders of pictures.
fn searched() -> String {
    let knn = "knn: { k: [5, 40] }, vra: { low: [0, 10], high: [90, 95] }";
    let methods = format!(
        "{{ name: ReAct, network: base, detector: react, search: {{ percentile: [10, 60, 99] }} }}\n  - {{ network: base, \
         detector: {{ all: {{ except: [afdu, gram], search: {{ {knn} }} }} }} }}"
    );
    with(&[
        ("{ name: digits, test_limit: 30, group: near }", "{ name: c, format: folder, path: PLACE/c, group: near }"),
        ("group: far }]", "group: far }]\n  validation: { id: 8, ood: [{ name: digits, test_limit: 20 }, B] }"),
        ("B]", "{ name: b, format: folder, path: PLACE/b }]"),
        ("{ network: base, detector: { all: { except: [afdu] } } }", &methods),
        ("test_limit: 40", "test_limit: 32"),
    ])
}

/// Where `b` and `c` are.
fn place_of_search() -> Place {
    let place = Place::new("");
    for (name, shade) in [("b", 7), ("c", 11)] {
        std::fs::create_dir(place.path(name)).unwrap();
        for picture in 0..12u32 {
            let pixel = |x, y| image::Luma([((x * shade + y * picture) % 256) as u8]);
            let path = place.path(name).join(format!("{picture}.png"));
            image::GrayImage::from_fn(28, 28, pixel).save(path).unwrap();
        }
    }
    place
}

#[test]
fn settings_are_chosen_on_validation_images_alone() {
    let place = place_of_search();
    place.write(&searched());
    let table = place.prints("run");
    let results = place.results();
    assert_eq!(results.datasets[0].test, 24, "eight of 32 ID images are left out of the test");
    let records: Vec<_> = results.validation.iter().map(|(name, record)| (name.as_str(), record.test)).collect();
    assert_eq!(records, [("fashion_mnist_small_validation", 8), ("digits", 20), ("b", 12)]);
    let methods = &results.cells[0].seeds[0].tasks[0].methods;
    let search = methods["ReAct"].search.as_ref().unwrap();
    assert_eq!(search.grid.iter().map(|tried| tried.values["percentile"].clone()).collect::<Vec<_>>(), [10, 60, 99]);
    assert_eq!(methods["vra"].search.as_ref().unwrap().grid.len(), 4);
    assert!(methods["react"].search.is_none(), "its settings stand in the file");

    // The scores of every combination are kept: the grid's numbers are theirs.
    let network = place.path("runs").join(methods["ReAct"].scores["c"].ancestors().nth(2).unwrap());
    let folders: Vec<PathBuf> = std::fs::read_dir(network).unwrap().map(|entry| entry.unwrap().path()).collect();
    let aurocs: Vec<f64> = folders
        .iter()
        .filter(|folder| folder.file_name().unwrap().to_string_lossy().starts_with("react-"))
        .filter_map(|folder| {
            let of = |set: &str| {
                let mut files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
                let path = files.find(|path| path.file_name().unwrap().to_string_lossy().starts_with(set))?;
                Some(place.scores(&path))
            };
            let id = of("fashion_mnist_small_validation-")?;
            let auroc = |set| Some(metrics::of_scores(&id, &of(set)?).unwrap()["auroc"]);
            Some((auroc("digits-")? + auroc("b-")?) / 2.0)
        })
        .collect();
    assert_eq!(aurocs.len(), 3);
    let best = aurocs.iter().copied().fold(f64::MIN, f64::max);
    for tried in &search.grid {
        assert!(aurocs.contains(&tried.mean) && tried.mean <= best, "{aurocs:?} {tried:?}");
    }
    let first = search.grid.iter().find(|tried| tried.mean == best).unwrap();
    assert_eq!(search.chosen, first.values, "the best, or the first of the best");
    assert_eq!(
        methods["ReAct"].detector.as_ref().unwrap()["react"]["percentile"],
        first.values["percentile"].as_f64().unwrap()
    );

    // The chosen setting scores as if the file had said so.
    let chosen = format!("{{ react: {{ percentile: {} }} }}", first.values["percentile"]);
    let plain = searched().replace("react, search: { percentile: [10, 60, 99] }", &chosen);
    place.write(&plain);
    place.prints("run");
    let said = place.results().cells[0].seeds[0].tasks[0].methods["ReAct"].clone();
    assert_eq!((said.scores, said.sets), (methods["ReAct"].scores.clone(), methods["ReAct"].sets.clone()));

    let line = format!("ReAct: percentile={}", first.values["percentile"]);
    assert!(table.contains("Chosen on validation OOD (digits, b against 8 images of"), "{table}");
    assert!(table.replace('\n', " ").contains(&line), "{table}");

    // Nothing is done twice.
    place.write(&searched());
    assert_eq!(place.prints("run"), table);
}

/// ODIN as its paper has it: temperature and noise chosen on validation OOD data, then scored through the network.
#[test]
fn odin_is_searched_and_scored_through_the_network() {
    let entry = "{ network: base, detector: { all: { except: [afdu] } } }";
    let odin =
        "{ name: ODIN, network: base, detector: odin, search: { temperature: [1, 1000], noise: [0, 0.004, 0.05] } }";
    let experiment = |entry_now: &str| {
        with(&[
            (entry, entry_now),
            (
                ", group: far }]",
                ", group: far }]\n  validation: { id: 10, ood: [{ name: b, format: folder, path: PLACE/b }] }",
            ),
            ("[msp, knn]", "[ODIN]"),
            ("test_limit: 40", "test_limit: 50"),
        ])
    };
    let place = place_of_search();
    place.write(&experiment(odin));
    place.prints("run");
    let results = place.results();
    let ours = &results.cells[0].seeds[0].tasks[0].methods["ODIN"];
    let search = ours.search.as_ref().unwrap();
    let tried: Vec<_> =
        search.grid.iter().map(|tried| (&tried.values["temperature"], &tried.values["noise"])).collect();
    assert_eq!(json!(tried), json!([[1, 0], [1, 0.004], [1, 0.05], [1000, 0], [1000, 0.004], [1000, 0.05]]));
    let best = search.grid.iter().map(|tried| tried.mean).fold(f64::MIN, f64::max);
    let first = search.grid.iter().find(|tried| tried.mean == best).unwrap();
    assert_eq!(search.chosen, first.values, "the best, or the first of the best");
    assert!(search.grid.iter().any(|tried| tried.mean != best), "{search:?}");

    // What it chose scores as if the file had said so; of no noise, by the stored logits alone.
    let detector = |temperature: &Value, noise: &Value| {
        format!(
            "{{ name: ODIN, network: base, detector: {{ odin: {{ temperature: {temperature}, noise: {noise} }} }} }}"
        )
    };
    let fixed = |temperature: &Value, noise: &Value| {
        place.write(&experiment(&detector(temperature, noise)));
        place.prints("run");
        place.results().cells[0].seeds[0].tasks[0].methods["ODIN"].clone()
    };
    let chosen = fixed(&first.values["temperature"], &first.values["noise"]);
    assert_eq!((&chosen.scores, &chosen.sets), (&ours.scores, &ours.sets));
    let [plain, noisy] = [json!(0), json!(0.05)].map(|noise| fixed(&json!(1000), &noise));
    for set in ["fashion_mnist_small", "digits", "textures_small"] {
        let [plain_scores, noisy_scores] = [&plain, &noisy].map(|method| place.scores(&method.scores[set]));
        assert!(plain_scores.iter().zip(&noisy_scores).all(|(plain, noisy)| plain != noisy), "{set}");
        let logits = place.outputs(&plain.scores[set], set);
        assert_eq!(plain_scores, scaled_msp(&logits, 1000.0).unwrap());
    }
    // A step towards the likeliest class makes the network surer of it.
    let mean = |scores: Vec<f32>| scores.iter().sum::<f32>() / scores.len() as f32;
    let set = "fashion_mnist_small";
    assert!(mean(place.scores(&noisy.scores[set])) < mean(place.scores(&plain.scores[set])));
}

/// The held-out ID images, and validation sets made of them or of another set's.
#[test]
fn settings_are_chosen_on_images_made_of_the_id_images() {
    let grey =
        ["uniform_noise", "arithmetic_mean", "geometric_mean", "jigsaw", "speckle_noise", "pixelation", "inversion"];
    let made = format!("made: [{}]", grey.join(", "));
    let experiment = |ood: &str| {
        with(&[
            (
                "{ network: base, detector: { all: { except: [afdu] } } }",
                "{ name: ODIN, network: base, detector: odin, search: { temperature: [1, 1000], noise: [0, 0.02] } }",
            ),
            (", group: far }]", &format!(", group: far }}]\n  validation: {{ id: 10, {ood}, by: fpr95 }}")),
            ("[msp, knn]", "[ODIN]"),
            ("test_limit: 40", "test_limit: 50"),
        ])
    };
    let place = place_of_search();
    place.write(&experiment(&made));
    let plan = place.prints("plan");
    assert!(
        plan.contains("chosen   on 10 test images of fashion_mnist_small against uniform_noise of these, "),
        "{plan}"
    );
    let table = place.prints("run");
    let caption = "Chosen on validation OOD (made of fashion_mnist_small_validation: uniform_noise, arithmetic_mean, \
                   geometric_mean, jigsaw, speckle_noise, pixelation, inversion against 10 images of \
                   fashion_mnist_small_validation) by the smallest mean FPR95 (ID positive): ODIN: temperature=";
    assert!(table.split_whitespace().collect::<Vec<_>>().join(" ").contains(caption), "{table}");
    let results = place.results();
    assert_eq!(results.datasets.keys().collect::<Vec<_>>(), ["fashion_mnist_small", "digits", "textures_small"]);
    let (names, records): (Vec<_>, Vec<_>) = results.validation.iter().unzip();
    assert_eq!(names[0], "fashion_mnist_small_validation");
    assert_eq!(names[1..], grey);
    assert_eq!(records[0].made_of, None);
    for record in &records[1..] {
        assert_eq!((record.made_of.as_deref(), record.test), (Some("fashion_mnist_small_validation"), 10));
    }
    let digests: BTreeSet<&String> = records.iter().map(|record| &record.sha256).collect();
    assert_eq!(digests.len(), 8);
    let search = results.cells[0].seeds[0].tasks[0].methods["ODIN"].search.clone().unwrap();
    assert_eq!(search.grid.len(), 4);
    for tried in &search.grid {
        assert_eq!(tried.ood.keys().collect::<Vec<_>>(), grey);
    }
    let best = search.grid.iter().map(|tried| tried.mean).fold(f64::MAX, f64::min);
    let first = search.grid.iter().find(|tried| tried.mean == best).unwrap();
    assert_eq!(search.chosen, first.values, "the smallest, or the first of the smallest");
    assert_eq!(place.prints("run"), table);

    // Of another set's, beside one that is read.
    let folder = |name: &str| format!("{{ name: {name}, format: folder, path: PLACE/{name} }}");
    let ood = format!("ood: [{}], made: [inversion, jigsaw], made_of: {}", folder("c"), folder("b"));
    place.write(&experiment(&ood));
    let table = place.prints("run");
    let caption = "validation OOD (c, made of b: inversion, jigsaw against 10 images";
    assert!(table.split_whitespace().collect::<Vec<_>>().join(" ").contains(caption), "{table}");
    let validation = place.results().validation;
    assert_eq!(validation.keys().skip(1).collect::<Vec<_>>(), ["c", "inversion", "jigsaw"]);
    assert_eq!((validation["jigsaw"].made_of.as_deref(), validation["jigsaw"].test), (Some("b"), 12));
    let of_id = &results.validation["jigsaw"].sha256;
    assert_ne!(&validation["jigsaw"].sha256, of_id);

    // What they are made of must not be what is reported on, whatever its name.
    let same = experiment(&format!("made: jigsaw, made_of: {}", folder("b")))
        .replace("{ name: digits, test_limit: 30,", "{ name: d, format: folder, path: PLACE/b/../b,");
    place.write(&same);
    place.refuses("run", "most images of \"b\" are in \"d\", which is reported on");
}

#[test]
fn a_search_that_would_see_the_test_is_refused() {
    for (from, to, reason) in [
        (
            "{ name: digits,",
            "{ name: textures_small,",
            "must not be chosen on \"textures_small\", which is reported on",
        ),
        ("id: 8", "id: fashion_mnist_small", "settings must not be chosen on \"fashion_mnist_small\""),
        ("path: PLACE/b", "path: PLACE/c", "settings must not be chosen on \"c\""),
        ("name: b,", "name: digits,", "\"digits\" is given twice"),
        ("id: 8", "id: 0", "must be at least 1"),
        ("id: 8", "id: -8", "a number of test images"),
        (
            "ood: [{ name: digits, test_limit: 20 }, { name: b, format: folder, path: PLACE/b }]",
            "ood: []",
            "must not be empty: name OOD sets, or write `made: all`",
        ),
        (
            ", ood: [{ name: digits, test_limit: 20 }, { name: b, format: folder, path: PLACE/b }]",
            "",
            "must not be empty",
        ),
        (
            "id: 8",
            "made: all, id: 8",
            "rgb_shift needs colour images, and \"fashion_mnist_small\" is grey: [uniform_noise, ",
        ),
        ("id: 8", "made: jigsaww, id: 8", "jigsaww"),
        ("id: 8", "made: [], id: 8", "must not be empty"),
        ("id: 8", "made: [jigsaw, jigsaw], id: 8", "\"jigsaw\" is given twice"),
        (
            "{ name: b, format: folder, path: PLACE/b }]",
            "{ name: jigsaw, format: folder, path: PLACE/b }], made: jigsaw",
            "\"jigsaw\" is given twice",
        ),
        ("id: 8", "made_of: cifar10, id: 8", "goes with `made`: `made: all`"),
        ("id: 8", "made: jigsaw, made_of: textures_small, id: 8", "settings must not be chosen on \"textures_small\""),
        ("id: 8", "by: loss, id: 8", "unknown value `loss`"),
        ("percentile: [10", "percentil: [10", "unknown field `percentil`"),
        ("[10, 60, 99]", "[10, sixty]", "invalid type"),
        ("[10, 60, 99]", "[10, 101]", "percentile=101: react.percentile: must be at most 100"),
        ("[10, 60, 99]", "[10, 10]", "10 is given twice"),
        ("[10, 60, 99]", "[]", "no values to try"),
        ("high: [90, 95]", "high: [5, 95]", "low=10, high=5"),
        ("detector: react,", "detector: { react: { percentile: 95.5 } },", "percentile: is given as 95.5 too"),
        ("knn: { k:", "knnn: { k:", "there is no detector \"knnn\""),
        ("  validation: { id: 8", "  # ", "needs images to choose on"),
    ] {
        let text = searched();
        assert!(text.contains(from), "{from}");
        let error = load::parse(&text.replace(from, to), "field.yaml").expect_err(reason).to_string();
        assert!(error.contains(reason), "{to}: {error}");
    }
    // Kinds of anomaly in one folder are sets of their own; normal images are of the kind `good`, said or not.
    let kinds = |validated: &str| {
        let set = |name: &str, kind: &str| {
            format!("{{ name: {name}, format: mvtec, path: PLACE/nut{kind}, size: 28, channels: 1 }}")
        };
        let text = searched().replace("{ name: b, format: folder, path: PLACE/b }", &set("b", validated));
        load::parse(
            &text.replace("format: folder, path: PLACE/c", "format: mvtec, path: PLACE/nut, kind: dent"),
            "field.yaml",
        )
    };
    kinds(", kind: scratch").unwrap();
    kinds("").unwrap();
    let error = kinds(", kind: dent").unwrap_err().to_string();
    assert!(error.contains("settings must not be chosen on \"c\""), "{error}");
    // Of three values, all wrong for the same reason.
    let misspelt = load::parse(&searched().replace("percentile: [10", "percentil: [10"), "field.yaml").unwrap_err();
    assert_eq!(misspelt.to_string().matches("unknown field").count(), 1, "{misspelt}");
    // The same pictures in another place.
    let place = place_of_search();
    let same =
        searched().replace("{ name: digits, test_limit: 20 }", "{ name: a, format: folder, path: PLACE/c/../c }");
    place.write(&same);
    place.refuses("run", "most images of \"a\" are in \"c\", which is reported on");
}

/// 32 train images span at most 32 directions, and `vim` compares with a subspace of half of LeNet's 84: it cannot learn.
#[test]
fn a_detector_that_cannot_be_fitted_leaves_the_others() {
    let few = ("train_limit: 64", "train_limit: 32");
    let except = ("except: [afdu]", "except: [afdu, knn, nnguide]");
    let place = Place::new(&with(&[few, except, ("[msp, knn]", "[msp, vim]")]));
    let output = place.oodkit("run");
    let (table, told) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{told}");
    let why = "the train images' features do not leave the subspace that vim compares with";
    assert!(told.contains(&format!("note: method vim (cell default, seed 0) is not scored: {why}")), "{told}");
    assert!(table.lines().any(|line| line.trim_start().starts_with("vim¹")), "{table}");
    assert!(table.contains(&format!("¹ not scored: {why}")), "{table}");
    let results = place.results();
    let task = results.tasks().next().unwrap();
    assert!(task.unfit["vim"].contains(why), "{:?}", task.unfit);
    assert!(!task.methods.contains_key("vim"));
    for name in ["msp", "energy", "mahalanobis", "gram", "react"] {
        assert_eq!(task.methods[name].sets.len(), 2, "{name}");
    }
    assert_eq!(place.prints("table"), table);

    // Named, it is what was asked for.
    let all = "- { network: base, detector: { all: { except: [afdu] } } }";
    place.write(&with(&[few, (all, "- { network: base, detector: vim }"), ("[msp, knn]", "[vim]")]));
    let output = place.oodkit("run");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains(why), "{told}");
}

/// Each set's scores with the names of its files, or its images' places; and the ID scores' thresholds.
#[test]
fn scores_have_names_and_thresholds() {
    let all = "- { network: base, detector: { all: { except: [afdu] } } }";
    let folder = ("name: digits, test_limit: 30,", "name: pictures, format: folder, path: PLACE/pictures,");
    let place = Place::new(&with(&[folder, (all, "- { network: base, detector: msp }"), ("[msp, knn]", "[msp]")]));
    let names = ["a, b.png", "below/c.png", "d.png"];
    std::fs::create_dir_all(place.path("pictures/below")).unwrap();
    for (shade, name) in names.iter().enumerate() {
        image::GrayImage::from_pixel(28, 28, image::Luma([90 * shade as u8]))
            .save(place.path("pictures").join(name))
            .unwrap();
    }
    place.prints("run");
    let results = place.results();
    let method = &results.tasks().next().unwrap().methods["msp"];
    let id = place.scores(&method.scores["fashion_mnist_small"]);
    for (share, accepted) in [("0.9", 36), ("0.95", 38), ("0.99", 40)] {
        let threshold = method.thresholds[share];
        let (below, up_to) = id.iter().fold((0, 0), |(below, up_to), score| {
            let score = f64::from(*score);
            (below + usize::from(score < threshold), up_to + usize::from(score <= threshold))
        });
        assert!(below < accepted && accepted <= up_to, "{share}: {below}, {up_to}");
    }
    for (set, path) in &method.scores {
        let scores = place.scores(path);
        let mut csv = csv::Reader::from_path(place.path("runs").join(path).with_extension("csv")).unwrap();
        assert_eq!(csv.headers().unwrap(), vec!["file", "score"]);
        let rows: Vec<(String, f32)> = csv.deserialize().map(Result::unwrap).collect();
        assert_eq!(rows.len(), scores.len());
        for (image, ((file, score), expected)) in rows.iter().zip(&scores).enumerate() {
            assert_eq!(score, expected);
            let name = if set == "pictures" { names[image].to_owned() } else { image.to_string() };
            assert_eq!(*file, name, "{set}");
        }
    }
}

/// A column that asks for it makes it measured, by the table's convention; results without it say how to get it.
#[test]
fn a_column_may_be_fpr_at_any_rate() {
    let all = "- { network: base, detector: { all: { except: [afdu] } } }";
    let changes = [(all, "- { network: base, detector: msp }"), ("[msp, knn]", "[msp]")];
    let place = Place::new(&with(&changes));
    place.prints("run");
    let more = [("[fpr95, auroc]", "[fpr@0.8, fpr95, auroc]"), ("columns: [fpr95]", "columns: [fpr@0.8]")];
    place.write(&with(&[&changes[..], &more[..]].concat()));
    let output = place.oodkit("table");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        told.contains("have no \"fpr@0.8_ood_positive_first\" yet") && told.contains("run the experiment again"),
        "{told}"
    );
    let table = place.prints("run");
    assert!(table.contains("FPR@0.8 ↓") && table.contains("FPR95 ↓"), "{table}");
    let results = place.results();
    let method = &results.tasks().next().unwrap().methods["msp"];
    let [id, digits] = ["fashion_mnist_small", "digits"].map(|set| place.scores(&method.scores[set]));
    let mut caught = digits;
    caught.sort_by(f32::total_cmp);
    // 24 of 30 is the rate.
    let threshold = caught[6];
    let rejected = id.iter().filter(|score| **score >= threshold).count() as f64 / 40.0;
    assert_eq!(method.sets["digits"].measures["fpr@0.8_ood_positive_first"], rejected);
    assert!(method.sets["digits"].redraw.as_ref().unwrap().contains_key("fpr@0.8_id_positive_closest"));
}

/// Small test sets: intervals, accuracies by class and what is confused, from a run to its files.
#[test]
fn a_run_measures_intervals_and_classes() {
    let folder = tempfile::tempdir().unwrap();
    let text = with(&[
        ("{ network: base, detector: { all: { except: [afdu] } } }", "{ name: MSP, network: base, detector: msp }"),
        ("  - { name: field, rows: method, columns: [fpr95, auroc], over: group, protocol: openood_v1_5 }\n", ""),
        (
            "{ name: draws, rows: ood, methods: [msp, knn], columns: [fpr95], protocol: energy_ood }",
            "{ name: small, rows: ood, columns: [accuracy, balanced_accuracy, worst_class_accuracy, auroc, fpr@0.9], intervals: true }\n\
             figures: [{ confusion: { network: base } }]",
        ),
    ]);
    let path = folder.path().join("small.yaml");
    std::fs::write(&path, text).unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_oodkit"))
        .args(["run", path.to_str().unwrap()])
        .env("OODKIT_RUNS", folder.path().join("runs"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let out = std::fs::read_dir(folder.path().join("runs/experiments")).unwrap().next().unwrap().unwrap().path();
    let results = Results::read(&out).unwrap().unwrap();
    let task = results.tasks().next().unwrap();
    let network = &task.networks["base"];
    let confusion = network.confusion.as_ref().unwrap();
    assert_eq!(confusion.0.iter().flatten().sum::<usize>(), 40);
    let right: usize = (0..10).map(|class| confusion.0[class][class]).sum();
    assert_eq!(network.measures["accuracy"], right as f64 / 40.0);
    assert!(network.measures["worst_class_accuracy"] <= network.measures["balanced_accuracy"]);
    let set = &task.methods["MSP"].sets["digits"];
    let [low, high] = set.intervals["auroc"];
    assert!(low < set.measures["auroc"] && set.measures["auroc"] < high, "{low} {high}");
    assert!(set.intervals.contains_key("fpr@0.9_id_positive_closest"));
    let table = std::fs::read_to_string(out.join("table_small.md")).unwrap();
    assert!(table.contains(&format!("[{:.2}, {:.2}]", low * 100.0, high * 100.0)), "{table}");
    assert!(out.join("confusion_base.png").is_file());
}

/// Accuracy and what is confused are of several views of each image, where that is asked for, with a word; scores are what they were.
#[test]
fn accuracy_of_several_views_moves_no_score() {
    let text = "\
title: Views
data:
  id: { name: fashion_mnist_small, train_limit: 200, test_limit: 200 }
  ood: [{ name: digits, test_limit: 20 }]
networks:
  base: { backbone: lenet, train: { epochs: 2, batch_size: 8, optimizer: { sgd: { lr: 0.05 } } } }
methods: [{ name: MSP, network: base, detector: msp }]
tables:
  - { name: all, rows: method, columns: [accuracy, auroc] }
  - { name: classes, rows: method, columns: [worst_class_accuracy] }
  - { name: scores, rows: method, columns: [auroc] }
";
    let said = "Accuracy is of the mean logits over 6 views of each image (mirror_translate); scores are of one.";
    let runs = ["", "evaluation: { tta: mirror_translate }\n"].map(|more| {
        let place = Place::new(&format!("{text}{more}"));
        let printed = place.prints("run");
        assert_eq!(printed.matches(said).count(), if more.is_empty() { 0 } else { 2 }, "{printed}");
        let results = place.results();
        let task = results.tasks().next().unwrap();
        let scores = ["fashion_mnist_small", "digits"].map(|set| place.scores(&task.methods["MSP"].scores[set]));
        (scores, task.methods["MSP"].sets["digits"].measures.clone(), task.networks["base"].clone())
    });
    let [(scores, measures, one), (same_scores, same_measures, several)] = runs;
    assert_eq!(scores, same_scores);
    assert_eq!(measures, same_measures);
    assert_eq!(one.views.map(Tta::views), None);
    assert_eq!(several.views.map(Tta::views), Some(6));
    assert_ne!(one.confusion.unwrap().0, several.confusion.unwrap().0);
    let place = Place::new(
        &format!("{text}evaluation: {{ tta: mirror }}\n")
            .replace("backbone: lenet", "model: { autoencoder: {} }, loss: { reconstruction: {} }")
            .replace("detector: msp", "detector: map"),
    );
    place.refuses("run", "evaluation.tta: no network classifies: leave this key out");
}

#[test]
fn intervals_are_asked_for_where_there_are_some() {
    let table = "{ name: field, rows: method, columns: [fpr95, auroc], over: group, protocol: openood_v1_5 }";
    for (wanted, reason) in [
        (
            "{ name: f, rows: method, columns: [auroc], intervals: true }",
            "intervals are of single OOD sets: add `over: each`",
        ),
        ("{ name: f, rows: ood, columns: [aupr], intervals: true }", "no column has one: add auroc"),
        (
            "{ name: f, rows: ood, columns: [auroc], protocol: energy_ood, intervals: true }",
            "these numbers are over random draws",
        ),
    ] {
        let error = load::parse(&with(&[(table, wanted)]), "field.yaml").unwrap_err().to_string();
        assert!(error.contains("tables.0.intervals") && error.contains(reason), "{error}");
    }
    parse(&with(&[(table, "{ name: f, rows: method, columns: [auroc], over: each, intervals: true }")]));
}

/// The OOD set digits beside ID images, and beside ID images and textures.
const SHIFTED: &str = "\
title: Full spectrum
data:
  id: { name: fashion_mnist_small, train_limit: 64, test_limit: 40 }
  ood: [{ name: digits, test_limit: 30 }]
  shifted: [{ name: textures_small, test_limit: 20 }]
networks:
  base: { backbone: lenet, train: { epochs: 1, batch_size: 16, optimizer: { sgd: { lr: 0.05 } } } }
methods:
  - { name: MSP, network: base, detector: msp }
  - { name: KNN, network: base, detector: { knn: { k: 3 } } }
tables:
  - { name: standard, rows: method, columns: [accuracy, fpr95, auroc], over: each, protocol: openood_v1_5 }
  - { name: spectrum, rows: method, columns: [accuracy, fpr95, auroc], over: each, protocol: openood_v1_5, sampling: full_spectrum }
";

#[test]
fn covariate_shifted_images_count_as_id_where_a_table_says_so() {
    let place = Place::new(SHIFTED);
    assert!(place.prints("plan").contains("shifted  textures_small, covariate-shifted ID"));
    let tables = place.prints("run");
    let results = place.results();
    assert_eq!(results.datasets.keys().collect::<Vec<_>>(), ["fashion_mnist_small", "digits"]);
    assert_eq!(results.shifted["textures_small"].test, 20);
    for (name, method) in &results.cells[0].seeds[0].tasks[0].methods {
        let [id, ood, shifted] =
            ["fashion_mnist_small", "digits", "textures_small"].map(|set| place.scores(&method.scores[set]));
        assert_eq!([id.len(), ood.len(), shifted.len()], [40, 30, 20]);
        let result = &method.sets["digits"];
        let of = |id: &[f32]| metrics::of_scores(id, &ood).unwrap();
        let spectrum = result.full_spectrum.as_ref().unwrap();
        for measure in ["auroc", "fpr95_ood_positive_first", "aupr_out_trapezoid"] {
            assert_eq!(result.measures[measure], of(&id)[measure], "{name} {measure}");
            assert_eq!(spectrum[measure], of(&[&id[..], &shifted].concat())[measure], "{name} {measure}");
        }
        assert_ne!(result.measures["auroc"], spectrum["auroc"]);
        let printed = |value: f64| format!("{:.2}", 100.0 * value);
        for value in [result.measures["auroc"], spectrum["auroc"]] {
            assert!(tables.contains(&printed(value)), "{value}: {tables}");
        }
    }
    let said = tables.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        said.matches("Covariate-shifted, counted as in-distribution but for accuracy: textures_small").count(),
        1,
        "{said}"
    );
}

/// A control has a number wherever a method has one, and its better side is that of all images that count as ID.
#[test]
fn control_rows_count_covariate_shifted_images_as_id() {
    let place = Place::new(&SHIFTED.replace("sampling: full_spectrum", "sampling: full_spectrum, controls: true"));
    let tables = place.prints("run");
    let results = place.results();
    let experiment = load::parse(SHIFTED, "field.yaml").unwrap();
    let data = experiment.data;
    let grey = |set: &oodkit::data::Dataset| -> Vec<f32> {
        let (root, split) = (Path::new("data"), oodkit::data::Split::Test);
        let images = oodkit::data::load_as(set, split, root, Some([1, 28, 28]), None).unwrap();
        let mean = |at: usize| images.image(at).unwrap().iter().map(|byte| f32::from(*byte)).sum::<f32>() / 784.0;
        (0..images.len()).map(mean).collect()
    };
    let [id, ood, shifted] = [&data.id, &data.ood[0], &data.shifted[0]].map(grey);
    let auroc = |id: &[f32]| metrics::of_scores(id, &ood).unwrap()["auroc"];
    let better = |id: &[f32]| auroc(id).max(1.0 - auroc(id));
    let found = &results.cells[0].seeds[0].tasks[0].methods["Mean grey (better side)"].sets["digits"];
    assert!((found.measures["auroc"] - better(&id)).abs() < 1e-9);
    let spectrum = found.full_spectrum.as_ref().unwrap()["auroc"];
    assert!((spectrum - better(&[&id[..], &shifted].concat())).abs() < 1e-9, "{spectrum}");
    assert_ne!(spectrum, found.measures["auroc"]);
    let row = tables.lines().find(|line| line.trim().starts_with("Mean grey (better side)")).unwrap();
    assert!(row.contains(&format!("{:.2}", 100.0 * spectrum)), "{row}");
}

#[test]
fn classes_that_are_held_out_are_no_shifted_images() {
    let place =
        Place::new(&SHIFTED.replace("name: fashion_mnist_small,", "name: fashion_mnist_small, held_out: [8, 9],"));
    place.prints("run");
    let results = place.results();
    assert_eq!(results.datasets.keys().collect::<Vec<_>>(), ["fashion_mnist_small", "digits", "held_out"]);
    assert_eq!(results.shifted.keys().collect::<Vec<_>>(), ["textures_small"]);
    let sets = &results.cells[0].seeds[0].tasks[0].methods["MSP"].sets;
    assert_eq!(sets.keys().collect::<Vec<_>>(), ["digits", "held_out"]);
}

#[test]
fn a_full_spectrum_without_shifted_sets_is_refused() {
    let said = |from: &str, to: &str| {
        let text = SHIFTED.replace(from, to);
        assert_ne!(text, SHIFTED);
        load::parse(&text, "field.yaml").unwrap_err().to_string()
    };
    let said_without = said("  shifted: [{ name: textures_small, test_limit: 20 }]\n", "");
    assert!(said_without.contains("full_spectrum needs covariate-shifted ID sets"), "{said_without}");
    let twice = said("name: textures_small", "name: digits");
    assert!(twice.contains("data.shifted.0: \"digits\" is given twice"), "{twice}");
    let group = said("name: textures_small,", "name: textures_small, group: near,");
    assert!(group.contains("data.shifted.0.group: is for OOD sets"), "{group}");
    let drawn = said("openood_v1_5, sampling", "energy_ood, sampling");
    assert!(drawn.contains("energy_ood has no covariate-shifted ID images"), "{drawn}");
    let intervals = said("sampling: full_spectrum", "sampling: full_spectrum, intervals: true");
    assert!(intervals.contains("intervals are computed without covariate-shifted images"), "{intervals}");
}

/// FLOPs of the U-Net of 4 and 8 channels on 14×14 and 7×7 positions below, counted by hand: two for each product of its convolutions, linear
/// layers and attention.
const FLOPS: f64 = 1948192.0;

/// A small diffusion model with a classifier, by every detector that reads one: priced before, and refused where it cannot serve.
#[test]
fn detectors_of_a_diffusion_model_are_priced_and_run() {
    let text = "\
title: Denoising
data:
  id: { name: fashion_mnist_small, train_limit: 24, test_limit: 12 }
  ood: [{ name: digits, test_limit: 9 }]
networks:
  base: { backbone: lenet, train: &recipe { epochs: 1, batch_size: 8, optimizer: { sgd: { lr: 0.05 } } } }
  ddpm:
    model: { diffusion: { unet: { channels: 4, multipliers: [1, 2], blocks: 1 }, unshuffle: 2, classes: true } }
    loss: { denoising: {} }
    train: *recipe
methods:
  - { name: DiffOOD, network: base, detector: { diffood: { denoiser: ddpm, levels: [40, 80], repeats: 2 } } }
  - { name: Blurred, network: base, detector: { diffood: { denoiser: ddpm, levels: [40], repeats: 1, by: blur } } }
  - { name: Mixed, network: base, detector: { diffood: { denoiser: ddpm, levels: [40], repeats: 1, by: interpolation } } }
  - { name: Noisy, network: base, detector: { diffood: { denoiser: ddpm, levels: [40], repeats: 1, by: noise } } }
  - { name: Errors, network: ddpm, detector: { denoising_error: { train_images: 20 } } }
  - { name: DiffPath, network: ddpm, detector: { diffpath: { components: 2 } } }
  - { name: Ratio, network: ddpm, detector: elbo_ratio }
  - { name: DDPM-OOD, network: ddpm, detector: { ddpm_ood: { steps: 10, skip: 4 } } }
tables: [{ name: all, rows: method, columns: [auroc] }]
";
    let place = Place::new(text);
    let plan = place.prints("plan");
    // (2 + 4) steps twice, for the class and without, and for each of two repeats.
    for (name, count) in
        [("DiffOOD", 24), ("Blurred", 4), ("Errors", 5), ("DiffPath", 10), ("Ratio", 10), ("DDPM-OOD", 21)]
    {
        let line = format!("denoising of {name}: {count} evaluations of a denoiser an image, ");
        let told = plan.lines().find_map(|told| told.strip_prefix(&line)).unwrap_or_else(|| panic!("{name}: {plan}"));
        let (flops, told) = told.split_once(" GFLOP: ").unwrap();
        assert_eq!(flops, format!("{:.3}", count as f64 * FLOPS / 1e9), "{name}");
        let seconds: f64 = told.split(' ').next().unwrap().parse().unwrap();
        assert!(seconds > 0.0 && told.ends_with(" s an image on this CPU"), "{plan}");
    }
    place.prints("run");
    let results = place.results();
    for (name, method) in &results.cells[0].seeds[0].tasks[0].methods {
        for (set, count) in [("fashion_mnist_small", 12), ("digits", 9)] {
            let scores = place.scores(&method.scores[set]);
            assert_eq!(scores.len(), count, "{name}");
            assert!(scores.iter().all(|score| score.is_finite()), "{name}");
            assert!(scores.iter().any(|score| *score != scores[0]), "{name}: {scores:?}");
        }
    }
    for (from, to, message) in [
        ("levels: [40, 80]", "levels: [40, 1000]", "methods.0.detector.diffood.levels: there is no step 1000"),
        (
            "levels: [40, 80]",
            "levels: [10, 80]",
            "methods.0.detector.diffood.stride: a stride of 20 skips the level 10",
        ),
        (", classes: true", "", "methods.0.detector.diffood.guidance: the denoiser is told no classes"),
        ("unshuffle: 2,", "unshuffle: 2, steps: 8,", "methods.0.detector.diffood.levels: there is no step 40"),
        ("denoiser: ddpm", "denoiser: base", "methods.0.detector.diffood.denoiser: diffood reads the noise"),
    ] {
        assert!(text.contains(from), "{from}");
        let place = Place::new(&text.replace(from, to).replace("repeats: 2", "repeats: 2, guidance: 1"));
        place.refuses("run", message);
        // A smoke run takes steps of its own in the place of these.
        place.refuses("run --smoke", message);
        assert!(!place.path("runs/networks").exists(), "{message}: trained first");
        assert!(!place.path("runs/smoke").exists(), "{message}: data were made first");
    }
}

/// A set beside itself after an attack: other scores, said in the record, and made of the same images again.
#[test]
fn a_set_is_attacked_on_a_network() {
    let text = "\
title: Attack
data:
  id: { name: fashion_mnist_small, train_limit: 24, test_limit: 12 }
  ood:
    - { name: digits, test_limit: 9 }
    - { name: digits_pgd8, of: digits, test_limit: 9, attack: { network: base, epsilon: 8 } }
networks:
  base: { backbone: lenet, train: { epochs: 1, batch_size: 8, optimizer: { sgd: { lr: 0.05 } } } }
  other: { backbone: lenet, train: { epochs: 1, batch_size: 12, optimizer: { sgd: { lr: 0.05 } } } }
methods:
  - { name: MSP, network: base, detector: msp }
  - { name: MSP of another, network: other, detector: msp }
tables: [{ name: all, rows: method, columns: [auroc], over: each, controls: true }]
seeds: [0, 1]
";
    let place = Place::new(text);
    place.prints("run");
    let results = place.results();
    let record = &results.datasets["digits_pgd8"];
    assert_eq!(record.note.as_deref(), Some("moved by up to 8/255 to make base sure, 10 steps of PGD"));
    assert_eq!(record.sha256, results.datasets["digits"].sha256);
    let scores = |seed: usize, method: &str, set: &str| {
        let methods = &results.cells[0].seeds[seed].tasks[0].methods;
        place.scores(&methods[method].scores[set])
    };
    for seed in [0, 1] {
        let [before, after] = ["digits", "digits_pgd8"].map(|set| scores(seed, "MSP", set));
        assert!(before.iter().zip(&after).all(|(before, after)| after < before), "{before:?} {after:?}");
        assert_ne!(scores(seed, "MSP of another", "digits"), scores(seed, "MSP of another", "digits_pgd8"));
    }
    let mean = |set: &str| results.cells[0].seeds[0].tasks[0].methods["Mean grey"].sets[set].measures.clone();
    assert_ne!(format!("{:?}", mean("digits")), format!("{:?}", mean("digits_pgd8")), "controls see the moved images");
    for (from, to, message) in [
        ("network: base, epsilon", "network: bass, epsilon", "there is no network \"bass\" (did you mean \"base\"?)"),
        ("epsilon: 8", "epsilon: 0", "data.ood.1.attack.epsilon: must be at least 1"),
        ("backbone: lenet, train", "backbone: lenet, members: 2, train", "\"base\" is an ensemble"),
        (
            "test_limit: 12 }",
            "test_limit: 12, attack: { network: base, epsilon: 8 } }",
            "goes with sets under data.ood",
        ),
    ] {
        assert!(text.contains(from), "{from}");
        let place = Place::new(&text.replacen(from, to, 1));
        place.refuses("run", message);
    }
}

const SAMPLED: &str = "\
title: Samples
data:
  id: { name: fashion_mnist_small, train_limit: 24, test_limit: 12 }
  ood: [{ name: digits, test_limit: 9 }]
networks:
  base: { backbone: lenet, train: { epochs: 1, batch_size: 8, optimizer: { sgd: { lr: 0.05 } } } }
  ddpm:
    model: { diffusion: { unet: { channels: 4, multipliers: [1, 2], blocks: 1 }, unshuffle: 2, classes: true, steps: 20 } }
    loss: { denoising: {} }
    train: { epochs: 2, batch_size: 8, optimizer: { adamw: { lr: 0.01 } }, ema: { decay: 0.5 }, validation: 4 }
methods:
  - { name: MSP, network: base, detector: msp }
  - { name: Errors, network: ddpm, detector: { denoising_error: { train_images: 20, levels: [3, 9] } } }
tables: [{ name: all, rows: method, columns: [auroc] }]
figures:
  - samples: { network: ddpm, images: 3, steps: 4, guidance: 1 }
  - training: { networks: [ddpm, base] }
";

/// The files of an experiment's folder with this ending, by name.
fn drawn(place: &Place, ending: &str) -> Vec<(String, Vec<u8>)> {
    let folder = std::fs::read_dir(place.path("runs/experiments")).unwrap().next().unwrap().unwrap().path();
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|own| own == ending));
    let name = |path: &Path| path.file_name().unwrap().to_string_lossy().into_owned();
    let mut files: Vec<_> = files.map(|path| (name(&path), std::fs::read(&path).unwrap())).collect();
    files.sort();
    files
}

/// Samples are made once, beside the network. Figures are drawn again from what lies there, without it.
#[test]
fn samples_and_losses_are_drawn_and_drawn_again() {
    let place = Place::new(SAMPLED);
    place.prints("run");
    let first = [drawn(&place, "png"), drawn(&place, "svg")];
    let names: Vec<&str> = first[0].iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["samples_ddpm.png", "training_ddpm_base.png"]);
    if let Some(out) = std::env::var_os("OODKIT_TEST_FIGURES") {
        first[0].iter().for_each(|(name, bytes)| std::fs::write(Path::new(&out).join(name), bytes).unwrap());
    }
    let losses = String::from_utf8(first[1][1].1.clone()).unwrap();
    for told in ["train images", "held-out images", "\nddpm\n", "\nbase\n"] {
        assert!(losses.contains(told), "{told}");
    }
    let sheet = image::load_from_memory(&first[0][0].1).unwrap();
    // Title and headings, a line for each of ten classes, images of 28 pixels as three each, everything twice as large.
    assert_eq!(sheet.height(), 2 * (54 + 22 + 10 * (84 + 5) + 44));
    let network = |folder: &Path, name: &str| {
        let found = place.results().cells[0].seeds[0].tasks[0].networks[name].folder.clone();
        folder.join("runs").join(found)
    };
    let ddpm = network(place.0.path(), "ddpm");
    let stored: Vec<_> = std::fs::read_dir(&ddpm).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let stored: Vec<_> =
        stored.iter().map(|name| name.to_string_lossy()).filter(|name| name.starts_with("samples-")).collect();
    assert_eq!(stored.len(), 1, "{stored:?}");
    std::fs::remove_file(ddpm.join("model.safetensors")).unwrap();
    place.prints("table");
    assert!([drawn(&place, "png"), drawn(&place, "svg")] == first);
    // Other samples of the same network need it.
    place.write(&SAMPLED.replace("guidance: 1", "guidance: 1, seed: 1"));
    place.refuses("table", "the figure was not there when the network was used");
}

/// Sheets that are written while a network learns change nothing of it, and show what the figure shows.
#[test]
fn sheets_while_a_network_learns_leave_it_what_it_is() {
    let [without, with] =
        [SAMPLED.to_owned(), SAMPLED.replace("guidance: 1", "guidance: 1, every_epochs: 1")].map(|text| {
            let place = Place::new(&text);
            place.prints("run");
            place
        });
    let folder = |place: &Place| {
        let found = place.results().cells[0].seeds[0].tasks[0].networks["ddpm"].folder.clone();
        place.path("runs").join(found)
    };
    let read = |place: &Place, name: &str| std::fs::read(folder(place).join(name)).unwrap();
    assert_eq!(folder(&without).strip_prefix(without.0.path()), folder(&with).strip_prefix(with.0.path()));
    assert!(read(&without, "model.safetensors") == read(&with, "model.safetensors"));
    let log = |place: &Place| {
        let text = String::from_utf8(read(place, "metrics.jsonl")).unwrap();
        text.lines().filter(|line| !line.contains("checkpoint")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(log(&without), log(&with));
    assert!(drawn(&without, "png") == drawn(&with, "png"));
    assert!(!folder(&without).join("samples-epoch-001.png").exists());
    without.write(&SAMPLED.replace("guidance: 1", "guidance: 1, every_epochs: 1"));
    let again = without.oodkit("run");
    assert!(String::from_utf8_lossy(&again.stderr).contains("ddpm has no samples-epoch-001.png"));
    assert!(!String::from_utf8_lossy(&with.oodkit("run").stderr).contains("ddpm has no"));
    let sheets = [1, 2].map(|epoch| {
        let sheet = image::load_from_memory(&read(&with, &format!("samples-epoch-{epoch:03}.png"))).unwrap();
        sheet.to_rgb8()
    });
    // 28 pixels as two each, and two between.
    assert_eq!(sheets[0].dimensions(), (2 + 3 * 58, 2 + 10 * 58));
    assert!(sheets[0] != sheets[1], "the images form");
    let entries = std::fs::read_dir(folder(&with)).unwrap().map(|entry| entry.unwrap().path());
    let stored = entries
        .filter(|path| path.to_string_lossy().contains("samples-"))
        .find(|path| path.extension().is_some_and(|own| own == "safetensors"));
    let tensors = candle_core::safetensors::load(stored.unwrap(), &Device::Cpu).unwrap();
    let images: Vec<u8> = tensors["images"].flatten_all().unwrap().to_vec1().unwrap();
    // The last is of the averaged weights, which are the result.
    let of_sheet = (0..30).flat_map(|image| (0..784).map(move |at| (image, at))).map(|(image, at)| {
        let (x, y) = (2 + 58 * (image % 3) + 2 * (at % 28), 2 + 58 * (image / 3) + 2 * (at / 28));
        sheets[1].get_pixel(x, y).0[0]
    });
    assert!(of_sheet.collect::<Vec<u8>>() == images);
}

#[test]
fn samples_and_losses_that_cannot_be_are_refused() {
    for (from, to, message) in [
        (
            "{ network: ddpm,",
            "{ network: base,",
            "figures.0.samples.network: \"base\", of the kind classifier, is no diffusion model; name ddpm",
        ),
        (
            "{ network: ddpm,",
            "{ network: ddpn,",
            "figures.0.samples.network: there is no network \"ddpn\" (did you mean \"ddpm\"?)",
        ),
        ("steps: 4", "steps: 21", "figures.0.samples.steps: the schedule of \"ddpm\" has 20 steps, and not 21"),
        ("steps: 4", "steps: 0", "figures.0.samples.steps: must be at least 1"),
        ("images: 3", "images: 17", "figures.0.samples.images: must be at most 16"),
        (", classes: true", "", "figures.0.samples.guidance: \"ddpm\" is told no classes, and guidance is towards one"),
        ("guidance: 1", "guidance: .nan", "figures.0.samples.guidance"),
        ("guidance: 1", "every_epochs: 0", "figures.0.samples.every_epochs: must be at least 1"),
        ("[ddpm, base]", "[ddpm, bas]", "figures.1.training.networks.1: there is no network \"bas\""),
        ("[ddpm, base]", "[ddpm, ddpm]", "figures.1.training.networks.1: \"ddpm\" is given twice"),
        (
            "train: { epochs: 1, batch_size: 8, optimizer: { sgd: { lr: 0.05 } } }",
            "weights: base.pth",
            "figures.1.training.networks.1: \"base\" has no `train`",
        ),
        ("[ddpm, base]", "[]", "figures.1.training.networks: must not be empty"),
        (
            "- training: { networks: [ddpm, base] }",
            "- samples: { network: ddpm, every_epochs: 1 }\n  - samples: { network: ddpm, seed: 1, every_epochs: 2 }",
            "figures.2.samples.every_epochs: another figure has it for \"ddpm\" already",
        ),
    ] {
        assert!(SAMPLED.contains(from), "{from}");
        let error = load::parse(&SAMPLED.replace(from, to), "field.yaml").expect_err(message);
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains(message), "{error}");
    }
    // A flow, and a model that is told no classes, are fine without guidance; by default a short schedule is taken whole.
    for (from, to) in [("steps: 20", "steps: 20, schedule: flow"), ("steps: 4, guidance: 1", "guidance: 0")] {
        parse(&SAMPLED.replace(from, to));
    }
}
