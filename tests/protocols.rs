//! `detector: all`, protocols by name, and lists of pictures: what an experiment may ask for, and what comes of it.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use oodkit::{
    config::{self, Experiment, load, overrides},
    detectors::DetectorConfig,
    metrics,
    run::results::Results,
};

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
    let plain = set(&["mutual_information", "duq", "sngp"]);
    assert_eq!(left_out("backbone: wrn40_2"), plain);
    assert_eq!(left_out("backbone: resnet18_32x32"), plain);
    assert_eq!(left_out("backbone: lenet"), &plain | &set(&["rankfeat"]));
    let of_head = set(&["react", "dice", "ash", "scale", "vra", "rankfeat", "residual", "vim", "fdbd", "nci"]);
    assert_eq!(left_out("backbone: wrn40_2\n    head: sngp"), &of_head | &set(&["mutual_information", "duq"]));
    let duq = "backbone: wrn40_2\n    head: duq\n    loss: { binary_cross_entropy: {} }";
    assert!(left_out(duq).is_superset(&(&of_head | &set(&["mutual_information", "sngp"]))));
    let of_ensemble = left_out("backbone: lenet\n    members: 2");
    let layers = set(&["energy", "duq", "afdu", "gram", "gradnorm", "openmax", "nnguide", "sngp", "odin", "nac"]);
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
        std::fs::write(place.path("field.yaml"), text).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn oodkit(&self, command: &str) -> Output {
        let mut oodkit = Command::new(env!("CARGO_BIN_EXE_oodkit"));
        oodkit.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1").arg(command);
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
    let methods = &results.cells[0].seeds[0].methods;
    assert_eq!(methods.keys().cloned().collect::<Vec<_>>(), names(&parse(EXPERIMENT)));
    for name in methods.keys() {
        assert!(table.lines().any(|line| line.trim_start().starts_with(name.as_str())), "{name}\n{table}");
    }
    assert_eq!(results.datasets["digits"].group.as_deref(), Some("near"));

    // energy_ood needs no `evaluation.redraw`: ten draws of a fifth of the 40 ID images.
    let method = &methods["knn"];
    let [id, digits] = ["fashion_mnist_small", "digits"].map(|set| place.scores(&method.scores[set]));
    let expected = metrics::redraw(&id, &digits, 10, 8, 0, "digits").unwrap();
    assert_eq!(method.ood["digits"].redraw.as_ref(), Some(&expected));
    assert_eq!(expected["auroc"].n, 10);
    assert_eq!(table, place.prints("table"));
}
