//! Killed at any moment, a run that is started again ends with the same bits.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, SystemTime},
};

use oodkit::rng;
use rand::Rng as _;
use serde_json::Value;

/// LeNet, with bounded layers and random features, on a little of the embedded data: seconds, a checkpoint every three steps,
/// chosen by validation; once with each optimiser, once with all that a step can carry along, once with centroids that follow the features, once
/// with slow weights and filters of the train images.
const EXPERIMENT: &str = "\
title: Killed again and again
seeds: [0, 1]
data:
  id: { name: fashion_mnist_small, train_limit: 600, test_limit: 200 }
  ood: [{ name: digits, test_limit: 200 }]
networks:
  base:
    backbone: lenet
    spectral_norm: {}
    head: sngp
    train: &recipe
      epochs: 2
      batch_size: 32
      optimizer: { sgd: { lr: 0.05, momentum: 0.9, nesterov: true, weight_decay: 5.0e-4 } }
      schedule: { cosine: {} }
      augment: { flip: true, crop_padding: 2 }
      validation: 100
      keep: best
      checkpoint: { every_steps: 3 }
  tuned:
    from: base
    train:
      <<: *recipe
      optimizer: { adamw: { lr: 0.002 } }
      clip: { norm: 1.0 }
      ema: { decay: 0.9 }
    loss: { cross_entropy: {}, sparsity: { weight: 0.01 } }
  duq:
    backbone: lenet
    head: duq
    train: { <<: *recipe, epochs: 1 }
    loss: { binary_cross_entropy: {}, gradient_penalty: { weight: 0.5 } }
  fast:
    backbone: { airbench: { widths: [4, 4, 4], whitening: { images: 50 } } }
    train:
      <<: *recipe
      epochs: 1
      validation: 84
      drop_last: true
      groups: [{ match: \"*.norm*.bias\", lr: 0.2, weight_decay: 0 }, { match: head.*, epochs: 0 }]
      schedule: { triangle: {} }
      lookahead: {}
      augment: { flip: alternating, crop_padding: 2, padding: reflect }
methods:
  - { name: EBD, network: base, detector: energy }
  - { name: Sparsity, network: tuned, detector: energy }
  - { name: DUQ, network: duq, detector: duq }
  - { name: Fast, network: fast, detector: energy }
evaluation: { redraw: { draws: 3 } }
tables:
  - { name: methods, rows: method, columns: [accuracy, auroc] }
";

fn start(folder: &Path, runs: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_oodkit"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .arg("run")
        .arg(folder.join("killed.yaml"))
        .arg("--runs")
        .arg(folder.join(runs))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
}

/// Weights, outputs and scores by path, and the results without times.
fn outcome(runs: &Path) -> (BTreeMap<PathBuf, Vec<u8>>, Value) {
    let mut found = Vec::new();
    files(&runs.join("networks"), &mut found);
    let kept = found.into_iter().filter(|path| {
        let extension = path.extension().unwrap_or_default();
        assert!(!path.to_string_lossy().contains("checkpoint"), "{} is left over", path.display());
        assert!(extension != "tmp", "{} is left over", path.display());
        extension == "safetensors" || extension == "npy"
    });
    let bytes = kept.map(|path| (path.strip_prefix(runs).unwrap().to_path_buf(), fs::read(&path).unwrap())).collect();
    // The folder's name has a hash of the experiment's path.
    let experiment = fs::read_dir(runs.join("experiments")).unwrap().next().unwrap().unwrap().path();
    let mut results = serde_json::from_slice(&fs::read(experiment.join("results.json")).unwrap()).unwrap();
    remove_times(&mut results);
    (bytes, results)
}

fn remove_times(value: &mut Value) {
    match value {
        Value::Object(map) => {
            // Those of the file follow from the seconds.
            map.retain(|key, _| key != "seconds" && !key.ends_with("_seconds") && key != "checksum");
            map.values_mut().for_each(remove_times);
        }
        Value::Array(values) => values.iter_mut().for_each(remove_times),
        _ => {}
    }
}

/// Steps in `metrics.jsonl`, in the order they were written.
fn steps(runs: &Path) -> BTreeMap<PathBuf, Vec<u64>> {
    let mut found = Vec::new();
    files(&runs.join("networks"), &mut found);
    let logs = found.into_iter().filter(|path| path.ends_with("metrics.jsonl"));
    let steps = logs.map(|path| {
        let text = fs::read_to_string(&path).unwrap();
        let events = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let steps = events.filter(|event| event["event"] == "step").map(|event| event["step"].as_u64().unwrap());
        (path.strip_prefix(runs).unwrap().to_path_buf(), steps.collect())
    });
    steps.collect()
}

/// What is kept of networks and detectors.
fn kept(runs: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let networks = runs.join("networks");
    if networks.exists() {
        files(&networks, &mut found);
    }
    found
}

/// Lines in every `metrics.jsonl`.
fn logged(runs: &Path) -> usize {
    let logs = kept(runs).into_iter().filter(|path| path.ends_with("metrics.jsonl"));
    logs.map(|path| fs::read_to_string(&path).unwrap().lines().count()).sum()
}

/// Files of scores.
fn scored(runs: &Path) -> Vec<PathBuf> {
    kept(runs).into_iter().filter(|path| path.extension().is_some_and(|extension| extension == "npy")).collect()
}

/// Files of outputs and of scores.
fn looked(runs: &Path) -> usize {
    let is_output = |path: &&PathBuf| {
        path.extension().is_some_and(|extension| extension == "safetensors")
            && path.components().any(|part| part.as_os_str() == "outputs")
    };
    kept(runs).iter().filter(is_output).count() + scored(runs).len()
}

/// Steps of a network that was not cut short: those of the ones of a single epoch, or of the others.
fn whole(steps: &[u64]) -> u64 {
    if steps.len() > 16 { 32 } else { 16 }
}

#[test]
fn twenty_kills_do_not_change_a_bit() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("killed.yaml"), EXPERIMENT).unwrap();
    assert!(start(folder.path(), "undisturbed").wait().unwrap().success());

    // By what it did, not by the clock: other work on the machine changes how long that takes.
    let killed = folder.path().join("killed");
    let mut rng = rng::stream(0, "test", "kills");
    for kill in 0..20 {
        let mut child = start(folder.path(), "killed");
        let enough = logged(&killed) + rng.random_range(1..=6);
        while logged(&killed) < enough {
            assert!(child.try_wait().unwrap().is_none(), "it ended before kill {kill}: the experiment is too short");
            thread::sleep(Duration::from_millis(2));
        }
        // At any moment of a step, of saving and of what follows.
        thread::sleep(Duration::from_millis(rng.random_range(0..60)));
        child.kill().unwrap();
        child.wait().unwrap();
    }
    // However far the kills let it come, this completes it.
    assert!(start(folder.path(), "killed").wait().unwrap().success());

    let (bytes, results) = outcome(&killed);
    let (expected_bytes, expected_results) = outcome(&folder.path().join("undisturbed"));
    assert_eq!(bytes.keys().collect::<Vec<_>>(), expected_bytes.keys().collect::<Vec<_>>());
    for (path, content) in &bytes {
        assert!(*content == expected_bytes[path], "{} differs", path.display());
    }
    assert_eq!(results, expected_results);
    let steps = steps(&killed);
    assert_eq!(steps.len(), 8);
    for (path, steps) in steps {
        assert_eq!(steps, (1..=whole(&steps)).collect::<Vec<_>>(), "{}", path.display());
    }
}

/// Settings chosen on validation data: of ODIN on a network and the images, of k-NN by the train set.
const SEARCH: &str = "\
title: Killed while it searches
data:
  id: { name: fashion_mnist_small, train_limit: 200, test_limit: 60 }
  ood: [{ name: textures_small, test_limit: 40 }]
  validation: { id: 20, ood: [{ name: digits, test_limit: 30 }], by: fpr95 }
networks:
  base: { backbone: lenet, train: { epochs: 2, batch_size: 20, optimizer: { sgd: { lr: 0.05 } } } }
methods:
  - { name: ODIN, network: base, detector: odin, search: { temperature: [1, 10, 1000], noise: [0, 0.002, 0.02] } }
  - { name: KNN, network: base, detector: knn, search: { k: [2, 10, 50] } }
tables:
  - { name: methods, rows: method, columns: [fpr95, auroc] }
";

/// The same bits as of a search that nothing disturbed, and nothing is scored twice.
#[test]
fn a_search_goes_on_where_it_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("killed.yaml"), SEARCH).unwrap();
    assert!(start(folder.path(), "undisturbed").wait().unwrap().success());
    let undisturbed = folder.path().join("undisturbed");
    let all = scored(&undisturbed).len();
    assert_eq!(all, 2 * (9 + 3) + 2 * 2, "two validation sets by each combination, two others by the chosen");

    let killed = folder.path().join("killed");
    let mut rng = rng::stream(0, "test", "kills of a search");
    let mut kept: BTreeMap<PathBuf, SystemTime> = BTreeMap::new();
    let mut kills = 0;
    while scored(&killed).len() < all {
        let mut child = start(folder.path(), "killed");
        let enough = (scored(&killed).len() + rng.random_range(2..=6)).min(all);
        while scored(&killed).len() < enough {
            assert!(child.try_wait().unwrap().is_none(), "it ended with {} of {all} scores", scored(&killed).len());
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(rng.random_range(0..10)));
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        for path in scored(&killed) {
            let written = fs::metadata(&path).unwrap().modified().unwrap();
            kept.entry(path).or_insert(written);
        }
    }
    assert!(start(folder.path(), "killed").wait().unwrap().success());
    assert!(kills >= 4, "it ended after {kills} kills: the search is too short");
    assert_eq!(outcome(&killed), outcome(&undisturbed));
    // But for the one whose record was not yet written when the kill came.
    let again = kept.iter().filter(|(path, written)| fs::metadata(path).unwrap().modified().unwrap() != **written);
    assert!(again.count() <= kills, "what was scored is kept");
}

/// One forward pass over each set for the outputs and for two detectors that read layers, of which one learns from the train set.
const SHARED: &str = "\
title: Killed in passes that are shared
data:
  id: { name: fashion_mnist_small, train_limit: 400, test_limit: 100 }
  ood: [{ name: digits, test_limit: 100 }, { name: textures_small, test_limit: 40 }]
networks:
  base: { backbone: lenet, train: { epochs: 1, batch_size: 40, optimizer: { sgd: { lr: 0.05 } } } }
methods:
  - { name: EBD, network: base, detector: energy }
  - { name: KNN, network: base, detector: knn }
  - { name: Gram, network: base, detector: gram }
  - { name: Gram to 2, network: base, detector: { gram: { powers: 2 } } }
tables:
  - { name: methods, rows: method, columns: [fpr95, auroc] }
";

#[test]
fn passes_that_are_shared_go_on_where_they_were_killed() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("killed.yaml"), SHARED).unwrap();
    assert!(start(folder.path(), "undisturbed").wait().unwrap().success());
    let undisturbed = folder.path().join("undisturbed");
    let all = looked(&undisturbed);
    assert_eq!(all, 4 + 4 * 3, "the outputs on four sets; the scores of four methods on three");

    let killed = folder.path().join("killed");
    let mut rng = rng::stream(0, "test", "kills of shared passes");
    let mut kills = 0;
    while looked(&killed) < all {
        let mut child = start(folder.path(), "killed");
        let is_trained = |runs: &Path| kept(runs).iter().any(|path| path.ends_with("model.safetensors"));
        // Within the pass over the train set first, then after one file or two more.
        let enough = if is_trained(&killed) { (looked(&killed) + rng.random_range(1..=2)).min(all) } else { 0 };
        while !is_trained(&killed) || looked(&killed) < enough {
            assert!(child.try_wait().unwrap().is_none(), "it ended with {} of {all} files", looked(&killed));
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(rng.random_range(0..20)));
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
    }
    assert!(start(folder.path(), "killed").wait().unwrap().success());
    assert!(kills >= 5, "it ended after {kills} kills: the passes are too short");
    assert_eq!(outcome(&killed), outcome(&undisturbed));
}

/// Ctrl-C saves a checkpoint wherever it is, ends with 130, and the next run continues from that step.
#[cfg(unix)]
#[test]
fn an_interrupt_saves_and_says_how_to_go_on() {
    let folder = tempfile::tempdir().unwrap();
    // Too long to finish, and no checkpoint of its own accord.
    let long = EXPERIMENT.replace("epochs: 2", "epochs: 400").replace("every_steps: 3", "every_minutes: 60");
    fs::write(folder.path().join("killed.yaml"), long).unwrap();
    let run = |wait: Duration| {
        let child = Command::new(env!("CARGO_BIN_EXE_oodkit"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .arg("run")
            .arg(folder.path().join("killed.yaml"))
            .arg("--runs")
            .arg(folder.path().join("runs"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        thread::sleep(wait);
        assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130));
        assert!(output.stdout.is_empty(), "data goes to stdout, and there is none yet");
        String::from_utf8(output.stderr).unwrap()
    };
    let first = run(Duration::from_secs(2));
    assert!(first.contains("interrupted\n\nhint: the same command continues where it stopped"), "{first}");
    assert!(first.contains("stopping after this step"), "{first}");
    let second = run(Duration::from_secs(2));
    assert!(second.contains("continued at step"), "{second}");
}

/// Two processes with the same work do not corrupt each other: the second waits, then finds the work done.
#[test]
fn two_processes_share_the_work() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("killed.yaml"), EXPERIMENT).unwrap();
    let mut both = [start(folder.path(), "shared"), start(folder.path(), "shared")];
    for child in &mut both {
        assert!(child.wait().unwrap().success());
    }
    for steps in steps(&folder.path().join("shared")).values() {
        assert_eq!(*steps, (1..=whole(steps)).collect::<Vec<_>>());
    }
}
