//! Every malformed input and the exact message it gives.
//!
//! A case is a name, what the user gave, and what oodkit said; the snapshots under `tests/snapshots/` are the table.
//! To add a kind of input (data files, weights, command lines), add a test that fills a [`Table`].

use std::{fs, path::Path};

use oodkit::{
    Error,
    config::{self, Experiment, load, overrides, sweep},
};

/// An experiment that has one of everything; the cases break it in one place.
const GOOD: &str = "\
title: Good
seeds: [0, 1]
data:
  id: mnist
  ood: [fashion_mnist, { name: digits, test_limit: 100 }]
networks:
  base:
    backbone: { wide_resnet: { depth: 16, width: 2 } }
    train: !include ../configs/train/short.yaml
  tuned:
    from: base
    train:
      <<: !include ../configs/train/short.yaml
      epochs: 1
    loss: { cross_entropy: {}, sparsity: { weight: 0.01 } }
methods:
  - { name: MSP, network: base, detector: msp }
  - { name: Sparsity, network: tuned, detector: msp }
evaluation:
  redraw: { draws: 10 }
sweep:
  networks.tuned.loss.sparsity.weight: [0, 0.01]
tables:
  - name: main
    rows: method
    columns: [fpr95, auroc]
    methods: [MSP, Sparsity]
    sampling: redraw
    expect: { file: paper/x.csv, source: Nobody, row: method, sets: [fashion_mnist, digits], columns: { fpr95: fpr95 } }
figures:
  - roc: { methods: [MSP] }
  - sweep: { method: Sparsity, columns: [auroc] }
";

/// The block that [`GOOD`] includes.
const SHORT: &str = "\
epochs: 2
batch_size: 8
optimizer:
  sgd: { lr: 0.1, momentum: 0.9 }
schedule: { cosine: {} }
";

/// What was given and what was said, case by case.
#[derive(Default)]
struct Table {
    text: String,
    cases: usize,
}

impl Table {
    /// Adds a case; `said` is the error as the command line prints it.
    fn add(&mut self, name: &str, given: &str, said: &str) {
        self.cases += 1;
        let given = if given.is_empty() { String::new() } else { format!("{}\n", given.trim_end()) };
        self.text.push_str(&format!("## {name}\n{given}>>>\n{}\n\n", said.trim_end()));
    }
}

/// An error as the command line prints it: the message, an empty line, the hint.
fn said<T>(result: Result<T, Error>) -> String {
    match result {
        Ok(_) => "ACCEPTED".into(),
        Err(Error::Input { message, hint }) => match hint {
            Some(hint) => format!("{message}\n\nhint: {hint}"),
            None => message,
        },
        Err(other) => panic!("bad input must be Error::Input, got {other:?}"),
    }
}

/// A folder like the repository: an experiment, the block it includes, and further files.
fn repository(experiment: &[u8], block: &str, more: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::create_dir_all(folder.path().join("experiments")).unwrap();
    fs::create_dir_all(folder.path().join("configs/train")).unwrap();
    fs::write(folder.path().join("experiments/bad.yaml"), experiment).unwrap();
    fs::write(folder.path().join("configs/train/short.yaml"), block).unwrap();
    for (name, content) in more {
        fs::write(folder.path().join(name), content).unwrap();
    }
    folder
}

fn loaded(folder: &Path) -> String {
    said(load::load(&folder.join("experiments/bad.yaml"))).replace(&format!("{}/", folder.display()), "")
}

fn good() -> Experiment {
    let folder = repository(GOOD.as_bytes(), SHORT, &[]);
    load::load(&folder.path().join("experiments/bad.yaml")).unwrap().experiment
}

#[test]
fn the_unbroken_experiment_is_accepted() {
    let experiment = good();
    assert_eq!(sweep::cells(&experiment).unwrap().len(), 2);
    assert_eq!(experiment.networks["tuned"].train.as_ref().unwrap().epochs, 1);
}

/// Breaks [`GOOD`] by replacing some text that occurs in it once.
fn broken(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "`{from}` must occur once");
    GOOD.replacen(from, to, 1)
}

#[test]
fn experiments() {
    #[rustfmt::skip]
    let cases = [
        // The text is no YAML, or not one document.
        ("a bracket is not closed", "[0, 1]", "[0, 1"),
        ("a tab indents", "  id: mnist", "\tid: mnist"),
        ("a line is indented wrongly", "  ood:", "   ood:"),
        ("a quote is not closed", "title: Good", "title: \"Good"),
        ("text after a quoted value", "title: Good", "title: \"Good\" one"),
        ("a key twice", "seeds: [0, 1]", "seeds: [0]\nseeds: [1]"),
        ("an alias of nothing", "title: Good", "title: *name"),
        ("a second document", "title: Good", "title: Good\n---\ntitle: Better"),
        ("a merge of no map", "<<: !include ../configs/train/short.yaml", "<<: 3"),
        // A key that does not exist.
        ("an unknown key at the top", "seeds:", "seed:"),
        ("an unknown key like no other", "seeds:", "xyzzy:"),
        ("an unknown key in a network", "    from: base", "    form: base"),
        ("an unknown key in a recipe", "      epochs: 1", "      epoch: 1"),
        ("an unknown key in a loss term", "sparsity: { weight: 0.01 }", "sparsity: { lambda: 0.01 }"),
        ("an unknown loss term", "loss: { cross_entropy: {}, sparsity", "loss: { cross_entropy: {}, sparsty"),
        ("an unknown key of an architecture", "depth: 16", "dept: 16"),
        ("an unknown key of a data set", "test_limit: 100", "limit: 100"),
        ("a setting of a detector out of range", "{ name: MSP, network: base, detector: msp }", "{ name: MSP, network: base, detector: { knn: { k: 0 } } }"),
        ("a setting where there is none", "{ name: MSP, network: base, detector: msp }", "{ name: MSP, network: base, detector: { msp: { temperature: 2 } } }"),
        // A name that does not exist.
        ("an unknown architecture", "{ wide_resnet: { depth: 16, width: 2 } }", "lenett"),
        ("an unknown architecture with settings", "wide_resnet:", "wide_resnett:"),
        ("an architecture that needs settings", "{ wide_resnet: { depth: 16, width: 2 } }", "wide_resnet"),
        ("an unknown detector", "network: base, detector: msp", "network: base, detector: mps"),
        ("an unknown detector with settings", "network: base, detector: msp", "network: base, detector: { mps: {} }"),
        ("an unknown column", "columns: [fpr95, auroc]", "columns: [fpr95, aurok]"),
        ("an unknown kind of rows", "rows: method", "rows: methods"),
        ("an unknown figure", "roc:", "rok:"),
        ("two architectures", "{ wide_resnet: { depth: 16, width: 2 } }", "{ lenet: {}, resnet18_32x32: {} }"),
        // The wrong type.
        ("text for a number", "epochs: 1", "epochs: many"),
        ("a fraction for a whole number", "epochs: 1", "epochs: 1.5"),
        ("a negative whole number", "epochs: 1", "epochs: -1"),
        ("a number beyond 64 bits", "seeds: [0, 1]", "seeds: [99999999999999999999]"),
        ("a list for text", "title: Good", "title: [Good]"),
        ("nothing for text", "title: Good", "title:"),
        ("text for a list", "ood: [fashion_mnist, { name: digits, test_limit: 100 }]", "ood: fashion_mnist"),
        ("a list for a data set", "id: mnist", "id: [mnist]"),
        ("a number for a data set", "id: mnist", "id: 7"),
        ("text for a map", "evaluation:\n  redraw: { draws: 10 }", "evaluation: redraw"),
        ("a list for a map", "    from: base\n", "    - from\n"),
        ("yes for true", "epochs: 1", "epochs: 1\n      optimizer: { sgd: { lr: 0.1, momentum: 0.9, nesterov: yes } }"),
        ("a number for a detector", "network: base, detector: msp", "network: base, detector: 3"),
        // A key that must be there.
        ("no title", "title: Good\n", ""),
        ("no data", "data:\n  id: mnist\n  ood: [fashion_mnist, { name: digits, test_limit: 100 }]\n", ""),
        ("an architecture without its width", "depth: 16, width: 2", "depth: 16"),
        ("a data set without a name", "{ name: digits, test_limit: 100 }", "{ test_limit: 100 }"),
        ("a figure without all that it needs", "sweep: { method: Sparsity, columns: [auroc] }", "sweep: {}"),
        ("a figure in block style", "  - sweep: { method: Sparsity, columns: [auroc] }", "  - sweep:\n      columns: [auroc]"),
        ("a figure of networks", "roc: { methods: [MSP] }", "accuracy: {}"),
        ("a table without all that it needs", "    rows: method\n    columns: [fpr95, auroc]\n", ""),
        // Out of range.
        ("no seeds", "seeds: [0, 1]", "seeds: []"),
        ("an empty title", "title: Good", "title: ''"),
        ("no epochs", "epochs: 1", "epochs: 0"),
        ("a depth that no network has", "depth: 16", "depth: 17"),
        ("a negative weight", "sparsity: { weight: 0.01 }", "sparsity: { weight: -0.01 }"),
        ("a weight that is not a number", "sparsity: { weight: 0.01 }", "sparsity: { weight: .nan }"),
        ("an infinite weight", "sparsity: { weight: 0.01 }", "sparsity: { weight: .inf }"),
        ("dropout that drops all", "width: 2", "width: 2, dropout: 1"),
        ("no draws", "draws: 10", "draws: 0"),
        ("more draws than anybody waits for", "draws: 10", "draws: 1000000000000"),
        ("epochs without end", "epochs: 1", "epochs: 18446744073709551615"),
        ("a batch that no memory holds", "epochs: 1", "epochs: 1\n      batch_size: 18446744073709551615"),
        ("steps without end", "epochs: 1", "epochs: 1\n      max_steps: 18446744073709551615"),
        ("a checkpoint in a thousand years", "epochs: 1", "epochs: 1\n      checkpoint: { every_minutes: 1.0e300 }"),
        ("a warm-up without end", "epochs: 1", "epochs: 1\n      warmup_epochs: 1.0e300"),
        ("a milestone after the end of time", "epochs: 1", "epochs: 1\n      schedule: { multi_step: { milestones: [1, 18446744073709551615] } }"),
        ("a network too deep", "depth: 16", "depth: 100000000000000000"),
        ("a network too wide", "width: 2", "width: 100000000000000000"),
        ("a limit beyond all sets", "test_limit: 100", "test_limit: 18446744073709551615"),
        ("a forward pass that no memory holds", "  redraw: { draws: 10 }", "  redraw: { draws: 10 }\n  batch_size: 1000000"),
        ("a name that cannot name a file", "name: main", "name: ../main"),
        // Names that refer to nothing, or twice to the same.
        ("a network without origin", "    from: base\n", ""),
        ("a network with two origins", "    from: base\n", "    from: base\n    backbone: lenet\n"),
        ("a network from nowhere", "    from: base", "    from: bse"),
        ("a network from itself", "    from: base", "    from: tuned"),
        ("a network that is not trained", "    train: !include ../configs/train/short.yaml\n", ""),
        ("a network's name with a dot", "  tuned:\n", "  tuned.1:\n"),
        ("a method of no network", "network: base, detector: msp", "network: bass, detector: msp"),
        ("two methods of one name", "name: Sparsity, network", "name: MSP, network"),
        ("two methods of one detector", "  - { name: MSP, network: base, detector: msp }\n  - { name: Sparsity, network", "  - { network: base, detector: msp }\n  - { network"),
        ("two seeds alike", "seeds: [0, 1]", "seeds: [3, 3]"),
        ("an OOD set that is the ID set", "ood: [fashion_mnist,", "ood: [mnist,"),
        ("outliers that are the ID set", "  id: mnist\n", "  id: mnist\n  outliers: mnist\n"),
        ("outliers that are unknown", "  id: mnist\n", "  id: mnist\n  outliers: tiny_image_300k\n"),
        ("outliers that nothing learns from", "  id: mnist\n", "  id: mnist\n  outliers: tiny_images_300k\n"),
        ("a margin without outliers", "sparsity: { weight: 0.01 }", "sparsity: { weight: 0.01 }, energy_margin: {}"),
        ("an exposure without outliers", "sparsity: { weight: 0.01 }", "sparsity: { weight: 0.01 }, outlier_exposure: {}"),
        ("margins the wrong way round", "sparsity: { weight: 0.01 }", "sparsity: { weight: 0.01 }, energy_margin: { m_in: -5, m_out: -23 }"),
        ("a margin that is not finite", "sparsity: { weight: 0.01 }", "sparsity: { weight: 0.01 }, energy_margin: { m_in: -.inf }"),
        ("a ratio of outliers to no term of them", "epochs: 1", "epochs: 1\n      outlier_ratio: 3"),
        ("no outliers a batch", "epochs: 1", "epochs: 1\n      outlier_ratio: 0"),
        ("more outliers than memory", "epochs: 1", "epochs: 1\n      outlier_ratio: 1000"),
        ("outliers for kernels", "  id: mnist\n  ood: [fashion_mnist, { name: digits, test_limit: 100 }]\nnetworks:\n  base:\n    backbone: { wide_resnet: { depth: 16, width: 2 } }", "  id: mnist\n  ood: [fashion_mnist]\n  outliers: tiny_images_300k\nnetworks:\n  base:\n    backbone: lenet\n    head: duq\n    loss: { binary_cross_entropy: {}, outlier_exposure: {} }"),
        ("an OOD set twice", "{ name: digits, test_limit: 100 }", "fashion_mnist"),
        ("a loss without terms", "loss: { cross_entropy: {}, sparsity: { weight: 0.01 } }", "loss: { cross_entropy: null }"),
        ("a loss whose terms weigh nothing", "loss: { cross_entropy: {}, sparsity: { weight: 0.01 } }", "loss: { cross_entropy: { weight: 0 }, sparsity: { weight: 0 } }"),
        ("a loss whose only term weighs nothing", "loss: { cross_entropy: {}, sparsity: { weight: 0.01 } }", "loss: { cross_entropy: { weight: 0 } }"),
        ("as many images held out as there are", "epochs: 1", "epochs: 1\n      validation: 60000"),
        ("images too small for the network", "id: mnist\n  ood: [fashion_mnist, { name: digits, test_limit: 100 }]\nnetworks:\n  base:\n    backbone: { wide_resnet: { depth: 16, width: 2 } }", "id: { name: digits, mean: [0.5], std: [0.5] }\n  ood: [fashion_mnist]\nnetworks:\n  base:\n    backbone: lenet"),
        ("an unknown head", "    from: base\n", "    backbone: lenet\n    head: linaer\n"),
        ("a head for a network that has one", "    from: base\n", "    from: base\n    head: linear\n"),
        ("a shortcut for a network without", "    from: base\n", "    backbone: lenet\n    shortcut: average_pool\n"),
        ("a leak for a network that wants none", "    from: base\n", "    backbone: efficientnet_lite0\n    activation: leaky_relu\n"),
        ("the best of nothing", "epochs: 1", "epochs: 1\n      keep: best"),
        ("Nesterov without momentum", "epochs: 1", "epochs: 1\n      optimizer: { sgd: { lr: 0.1, nesterov: true } }"),
        ("a group of no parameters", "epochs: 1", "epochs: 1\n      groups: [{ match: \"head.*\", lr: 1 }]"),
        ("a group that an earlier one leaves nothing", "epochs: 1", "epochs: 1\n      groups: [{ match: \"*\" }, { match: \"*.bias\" }]"),
        ("a group with a rate that its optimiser gives", "epochs: 1", "epochs: 1\n      groups: [{ match: \"*\", lr: 1, optimizer: { adamw: { lr: 1 } } }]"),
        ("a group whose schedule falls", "epochs: 1", "epochs: 1\n      groups: [{ match: \"*\", schedule: { multi_step: { milestones: [2, 1] } } }]"),
        ("groups beside a trunk's rate", "epochs: 1", "epochs: 1\n      trunk_lr: 0.1\n      groups: [{ match: \"*\" }]"),
        ("filters' optimiser for biases", "epochs: 1", "epochs: 1\n      optimizer: { muon: { lr: 0.24 } }"),
        ("slow weights of averages", "epochs: 1", "epochs: 1\n      lookahead: {}\n      ema: {}"),
        ("slow weights that never move", "epochs: 1", "epochs: 1\n      max_steps: 4\n      lookahead: {}"),
        ("a peak after the end", "epochs: 1", "epochs: 1\n      schedule: { triangle: { peak_at: 2 } }"),
        ("a border of no pixels", "epochs: 1", "epochs: 1\n      augment: { padding: reflect }"),
        ("a mirror smaller than the border", "epochs: 1", "epochs: 1\n      augment: { crop_padding: 28, padding: reflect }"),
        ("a listed mirror smaller than the border", "epochs: 1", "epochs: 1\n      augment: [{ random_crop: { padding: 29, padding_mode: symmetric } }]"),
        ("a group that learns longer than the others", "epochs: 1", "epochs: 1\n      groups: [{ match: \"*\", epochs: 2 }]"),
        ("a group of a parameter misspelt", "epochs: 1", "epochs: 1\n      groups: [{ match: \"fc.wieght\" }]"),
        ("an optimiser without its settings", "epochs: 1", "epochs: 1\n      optimizer: muon"),
        ("a schedule without its value", "epochs: 1", "epochs: 1\n      schedule:\n        cosine:"),
        ("optimisers of a group without settings", "epochs: 1", "epochs: 1\n      groups: [{ match: \"*\", optimizer: muon, lr: 1 }]"),
        ("a head for a detector", "name: MSP, network: base, detector: msp", "name: MSP, network: base, detector: t2fnorm"),
        ("a flip that nobody knows", "epochs: 1", "epochs: 1\n      augment: { flip: sometimes }"),
        ("batches that are all dropped", "epochs: 1", "epochs: 1\n      validation: 59999\n      drop_last: true"),
        ("views that nobody knows", "  redraw: { draws: 10 }", "  redraw: { draws: 10 }\n  tta: upside_down"),
        ("airbench's groups of four convolutions", "{ wide_resnet: { depth: 16, width: 2 } }", "{ airbench: { widths: [4, 4, 4], convs: 4 } }"),
        ("a whitened network that is no classifier", "    backbone: { wide_resnet: { depth: 16, width: 2 } }", "    model: { fcdd: { backbone: airbench94, stage: group1 } }"),
        ("patches that do not fill the images", "{ wide_resnet: { depth: 16, width: 2 } }", "vit_s16"),
        ("heads that do not divide a width", "{ wide_resnet: { depth: 16, width: 2 } }", "{ vit: { heads: 5, patch: 7 } }"),
        ("milestones that fall", "epochs: 1", "epochs: 1\n      schedule: { multi_step: { milestones: [5, 3] } }"),
        ("a table of an unknown method", "methods: [MSP, Sparsity]", "methods: [MSP, Sparsty]"),
        ("a table with a column twice", "columns: [fpr95, auroc]", "columns: [fpr95, fpr95]"),
        ("a redraw table without a redraw", "evaluation:\n  redraw: { draws: 10 }\n", ""),
        ("the paper's numbers for a column that is not shown", "columns: { fpr95: fpr95 }", "columns: { aupr: aupr }"),
        ("a figure of an unknown method", "roc: { methods: [MSP] }", "roc: { methods: [ODIN] }"),
        ("a sweep figure without a sweep", "sweep:\n  networks.tuned.loss.sparsity.weight: [0, 0.01]\n", ""),
        ("a data set's name that leads elsewhere", "{ name: digits, test_limit: 100 }", "{ name: ../../evil/x, format: folder }"),
        ("a data set's name that is absolute", "{ name: digits, test_limit: 100 }", "{ name: /etc, format: folder }"),
        ("a data set's name that is hidden", "{ name: digits, test_limit: 100 }", "{ name: .., format: folder }"),
        ("an unknown data set", "id: mnist", "id: minst"),
        ("an unknown data set like no other", "ood: [fashion_mnist,", "ood: [my_pictures,"),
        ("an unknown data set in a map", "name: digits", "name: digit"),
        ("an ID set without labels", "id: mnist", "id: textures"),
        ("an ID set with half of its statistics", "id: mnist", "id: { name: mine, format: class_folders, mean: [0.5] }"),
        ("a sweep of no values", "sparsity.weight: [0, 0.01]", "sparsity.weight: []"),
        ("a sweep of an unknown key", "sparsity.weight: [0, 0.01]", "sparsity.wait: [0, 0.01]"),
        ("a sweep of a wrong type", "sparsity.weight: [0, 0.01]", "sparsity.weight: [0, much]"),
        ("a sweep of data", "networks.tuned.loss.sparsity.weight: [0, 0.01]", "data.ood: [[digits], [svhn]]"),
        ("a sweep of seeds", "networks.tuned.loss.sparsity.weight: [0, 0.01]", "seeds: [[0], [1]]"),
        ("a sweep to a loss that weighs nothing", "networks.tuned.loss.sparsity.weight: [0, 0.01]", "networks.base.loss.cross_entropy.weight: [1, 0]"),
        ("a sweep of what cannot be swept", "networks.tuned.loss.sparsity.weight: [0, 0.01]", "title: [a, b]"),
        ("means without as many deviations", "id: mnist", "id: { name: mnist, mean: [0.1], std: [0.1, 0.2] }"),
        // Includes.
        ("an include that is not there", "train: !include ../configs/train/short.yaml", "train: !include ../configs/train/shrt.yaml"),
        ("an include outside the repository", "train: !include ../configs/train/short.yaml", "train: !include ../../../../etc/passwd"),
        ("an include by an absolute path", "train: !include ../configs/train/short.yaml", "train: !include /etc/passwd"),
        ("an include of itself", "train: !include ../configs/train/short.yaml", "train: !include bad.yaml"),
        ("an include of a folder", "train: !include ../configs/train/short.yaml", "train: !include ../configs"),
        ("an include of nothing", "train: !include ../configs/train/short.yaml", "train: !include"),
    ];
    let mut table = Table::default();
    for (name, from, to) in cases {
        let folder = repository(broken(from, to).as_bytes(), SHORT, &[]);
        table.add(name, &format!("{from} → {to}"), &loaded(folder.path()));
    }
    assert!(table.cases >= 40);
    insta::assert_snapshot!(table.text);
}

#[test]
fn whole_files() {
    let mut table = Table::default();
    let deep = format!("sweep: {{ seeds: {}x{} }}", "[".repeat(5000), "]".repeat(5000));
    let mut bomb = String::from("x0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..10 {
        let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
        bomb.push_str(&format!("  x{level}: &a{level} [{aliases}]\n"));
    }
    let bomb = format!("sweep:\n  {bomb}");
    let long = "#".repeat(2_000_000);
    let cases: [(&str, &[u8]); 9] = [
        ("an empty file", b""),
        ("only a comment", b"# nothing here\n"),
        ("no map but text", b"experiment"),
        ("no map but a list", b"- title: x\n"),
        ("bytes that are not UTF-8", b"title: Good\nabout: caf\xe9\n"),
        ("a byte of zero", b"title: Go\0od\n"),
        ("five thousand brackets", deep.as_bytes()),
        ("a billion laughs", bomb.as_bytes()),
        ("two million characters", long.as_bytes()),
    ];
    for (name, content) in cases {
        let folder = repository(content, SHORT, &[]);
        let given = String::from_utf8_lossy(&content[..content.len().min(90)]).replace('\0', "\\0");
        table.add(name, &given, &loaded(folder.path()));
    }
    table.add("a file that is not there", "", &said(load::load(Path::new("experiments/nowhere.yaml"))));
    table.add("a folder", "", &said(load::load(Path::new("src"))));
    insta::assert_snapshot!(table.text);
}

#[test]
fn included_files() {
    let mut table = Table::default();
    let cases = [
        ("an unknown key", SHORT.replace("batch_size", "batchsize")),
        ("a missing key", SHORT.replace("batch_size: 8\n", "")),
        ("a wrong type", SHORT.replace("epochs: 2", "epochs: two")),
        ("out of range", SHORT.replace("lr: 0.1", "lr: -0.1")),
        ("no YAML", SHORT.replace("cosine: {} }", "cosine: {}")),
        ("an empty file", String::new()),
        ("an include that is not there", SHORT.replace("{ cosine: {} }", "!include cosine.yaml")),
    ];
    for (name, block) in cases {
        let folder = repository(GOOD.as_bytes(), &block, &[]);
        table.add(name, &block, &loaded(folder.path()));
    }
    let circle = SHORT.replace("{ cosine: {} }", "!include other.yaml");
    let folder = repository(GOOD.as_bytes(), &circle, &[("configs/train/other.yaml", "cosine: !include short.yaml\n")]);
    table.add("includes in a circle", &circle, &loaded(folder.path()));
    insta::assert_snapshot!(table.text);
}

#[test]
fn command_line_overrides() {
    let experiment = good();
    let mut table = Table::default();
    for given in [
        "seeds",
        "=3",
        "seeds=",
        "seed=[0]",
        "seeds=[0",
        "seeds=[0,0]",
        "seeds=zero",
        "seeds=[]",
        "networks.tund.train.epochs=2",
        "networks.tuned.train.epoch=2",
        "networks.tuned.train.epochs=two",
        "networks.tuned.train.epochs=-1",
        "networks.tuned.train.epochs=0",
        "networks.tuned.train.epochs.x=0",
        "networks.base.loss.sparsity.weight=0.1",
        "networks.base.backbone=lenett",
        "networks.base.backbone.wide_resnet.depth=17",
        "networks.tuned.train.optimizer={adam: {}}",
        "networks.tuned.from=nowhere",
        "networks.tuned.loss={}",
        "networks.tuned.loss=null",
        "networks.tuned.loss.sparsity.weight=.nan",
        "methods.7.name=x",
        "methods.first.name=x",
        "methods.0.detector=mps",
        "data.ood=svhn",
        "data.ood=[mnist]",
        "data.id={name: mnist, colour: red}",
        "title=2024",
        "title=null",
        "evaluation.redraw=null",
        "evaluation.redraw.draws=1000000",
        "data.id.name=../mnist",
        "sweep.networks.tuned.loss.sparsity.wait=[1]",
    ] {
        table.add("", given, &said(overrides::apply(&experiment, &[given.to_owned()])));
    }
    insta::assert_snapshot!(table.text.replace("## \n", "## "));
}

#[test]
fn sweeps() {
    let experiment = good();
    let mut table = Table::default();
    for given in [
        "{ networks.tuned.loss.sparsity.weight: [] }",
        "{ networks.tuned.loss.sparsity.wait: [0] }",
        "{ networks.tund.loss.sparsity.weight: [0] }",
        "{ networks.tuned.loss.sparsity.weight: [0, much] }",
        "{ networks.tuned.loss.sparsity.weight: [0, -1] }",
        "{ networks.tuned.loss.sparsity.weight: [0.1, 0.10] }",
        "{ networks.tuned.loss.sparsity.weight: [0, 0.0] }",
        "{ networks.base.loss.sparsity.weight: [0, 1] }",
        "{ title: [a, b] }",
        "{ tables.0.name: [a, b] }",
        "{ sweep.x: [a, b] }",
        "{ networks.tuned.from: [base, bass] }",
        "{ seeds: [[0], [1]] }",
        "{ data: [mnist] }",
        "{ data.ood: [[digits], [svhn]] }",
        "{ data.id.train_limit: [10, 20] }",
        "{ networks.tuned.loss.cross_entropy.weight: [1, 0], networks.tuned.loss.sparsity.weight: [0] }",
    ] {
        let swept = overrides::apply(&experiment, &[format!("sweep={given}")]).unwrap();
        table.add("", given, &said(sweep::cells(&swept)));
    }
    for given in ["sweep=3", "sweep={ seeds: 3 }"] {
        table.add("", given, &said(overrides::apply(&experiment, &[given.to_owned()])));
    }
    let values: Vec<u64> = (0..101).collect();
    let large =
        format!("sweep={{ networks.tuned.loss.sparsity.weight: {values:?}, networks.tuned.train.epochs: {values:?} }}");
    let swept = overrides::apply(&experiment, &[large]).unwrap();
    table.add("", "101 × 101 values", &said(sweep::cells(&swept)));
    insta::assert_snapshot!(table.text.replace("## \n", "## "));
}

#[test]
fn text_that_is_no_file() {
    let mut table = Table::default();
    table.add("an include without a file", "", &said(load::parse("title: !include x.yaml\n", "standard input")));
    let mut experiment = good();
    experiment.methods[0].network = "nowhere".into();
    experiment.seeds.clear();
    table.add("two problems of a built experiment", "", &said(config::check(&experiment)));
    insta::assert_snapshot!(table.text);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 300, ..Default::default() })]

    /// Whatever a slip of the keyboard makes of a file, it is read or refused, and a refusal says something.
    #[test]
    fn damaged_experiments_are_read_or_refused(
        at in 0..GOOD.len(), cut in 0usize..12, put in "[ \\t\\n:{}\\[\\],&*!|>'\"%@#0-9a-z.é\u{0}-]{0,6}",
    ) {
        let whole = GOOD.replace("!include ../configs/train/short.yaml", "{ epochs: 1, batch_size: 2 }");
        let characters: Vec<char> = whole.chars().collect();
        let (at, end) = (at.min(characters.len()), (at + cut).min(characters.len()));
        let damaged: String = characters[..at].iter().copied().chain(put.chars()).chain(characters[end..].iter().copied()).collect();
        if let Err(error) = load::parse(&damaged, "damaged") {
            proptest::prop_assert!(matches!(error, Error::Input { .. }) && error.to_string().starts_with("damaged"), "{error:?}");
        }
    }
}

/// File systems take names of 255 bytes, and files are named by two names, a hash and an ending.
#[test]
fn names_too_long_for_a_file_are_refused_before_any_work() {
    let long = "n".repeat(101);
    let refused = |from: &str, to: &str, key: &str| {
        let folder = repository(broken(from, to).as_bytes(), SHORT, &[]);
        let said = loaded(folder.path());
        let expected = format!("{key}: is a name of 101 bytes; at most 100: it names files");
        assert!(said.contains(&expected), "{said}");
    };
    refused("{ name: digits, test_limit: 100 }", &format!("{{ name: {long}, format: folder }}"), "data.ood.1.name");
    refused("test_limit: 100 }", &format!("group: {long} }}"), "data.ood.1.group");
    refused("  tuned:\n", &format!("  {long}:\n"), &format!("networks.{long}"));
    refused("name: main", &format!("name: {long}"), "tables.0.name");
}
