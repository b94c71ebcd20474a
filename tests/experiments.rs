//! Files in `experiments/` are read, planned and, but for the largest, smoke-run through the program, as a user would.

use std::{fs, path::Path};

use assert_cmd::Command;

fn oodkit(runs: &Path) -> Command {
    let mut command = Command::cargo_bin("oodkit").unwrap();
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("OODKIT_RUNS", runs).env("NO_COLOR", "1");
    command
}

fn smoke(name: &str) {
    let runs = tempfile::tempdir().unwrap();
    let plan = oodkit(runs.path()).args(["plan", name]).output().unwrap();
    assert!(plan.status.success(), "{}", String::from_utf8_lossy(&plan.stderr));
    assert!(String::from_utf8_lossy(&plan.stdout).contains("to train"));

    let run = oodkit(runs.path()).args(["run", name, "--smoke"]).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    assert!(text.contains("SMOKE RUN"), "a smoke run must say so:\n{text}");
    assert!(!text.contains("NaN"), "{text}");

    let folder = runs.path().join("smoke/experiments").join(name);
    let results: serde_json::Value =
        serde_json::from_str(&fs::read_to_string(folder.join("results.json")).unwrap()).unwrap();
    assert_eq!(results["smoke"], true);
    for file in text.lines().skip_while(|line| *line != "files").skip(1) {
        assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(file.trim()).exists(), "{file} was announced");
    }

    // The second run finds everything done, and says the same.
    let again = oodkit(runs.path()).args(["run", name, "--smoke"]).output().unwrap();
    assert_eq!(text, String::from_utf8_lossy(&again.stdout));
    assert!(!String::from_utf8_lossy(&again.stderr).contains("epoch"), "nothing is trained twice");
    let table = oodkit(runs.path()).args(["table", name, "--smoke"]).output().unwrap();
    assert_eq!(text, String::from_utf8_lossy(&table.stdout));
    let plan = oodkit(runs.path()).args(["plan", name, "--smoke"]).output().unwrap();
    assert!(String::from_utf8_lossy(&plan.stdout).contains(" 0 to train"));
}

/// A test for each file, so that they run side by side and a failure names its file.
macro_rules! smoke_tests {
    ($($name:ident),* $(,)?) => {
        const TESTED: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { smoke(stringify!($name)); })*
    };
}

smoke_tests!(
    afdu_sensitivity,
    cifar10_diffood_cpu,
    cifar10_energy_margin_cpu,
    cifar10_fast,
    cifar10_lambda_cpu,
    cifar10_openood_cpu,
    cifar10_sparsity_cpu,
    cifar10_vgg19_afdu_cpu,
    cifar10_wrn28_afdu_cpu,
    fashion_afdu,
    fashion_diffood,
    fashion_diffood_attack,
    fashion_diffood_controls,
    fashion_diffood_settings,
    fashion_sparsity,
    fer2013_vgg19_afdu_cpu,
    imagenet200_openood,
    mnist_afdu,
    mvtec_anomaly_dino,
    quickstart,
    surface_quickstart,
    surfaces,
    surfaces_ablation,
    surfaces_autoencoder,
    surfaces_fusion,
    surfaces_pseudo_ratio,
    surfaces_all,
    reconstruction_change,
    transfer
);

/// Planned, not run, since they would take minutes: their two-core profiles, which are run, differ in the network and the schedule
/// alone, or their twins on CIFAR-10, ImageNet-200 and five surfaces in the data.
const PLANNED: &[&str] = &[
    "cifar100_diffood",
    "cifar100_openood",
    "cifar100_sparsity",
    "cifar10_diffood",
    "cifar10_energy_margin",
    "cifar10_lambda",
    "cifar10_openood",
    "cifar10_published",
    "cifar10_sparsity",
    "cifar10_sparsity_resnet20",
    "cifar10_vgg19_afdu",
    "cifar10_wrn28_afdu",
    "fer2013_vgg19_afdu",
    "imagenet_diffood",
    "imagenet_openood",
    "mvtec_ablation",
    "mvtec_fusion",
    "mvtec_pseudo_ratio",
    // The same network as that of surfaces_fusion, with other settings of its training.
    "surfaces_fusion_tried",
    "surfaces_screw",
    "surfaces_trial",
];

#[test]
fn large_experiments_are_planned() {
    for name in PLANNED {
        let runs = tempfile::tempdir().unwrap();
        let plan = oodkit(runs.path()).args(["plan", name]).output().unwrap();
        assert!(plan.status.success(), "{}", String::from_utf8_lossy(&plan.stderr));
    }
}

/// Four changes at five levels, of four sets of 250 images.
#[test]
fn the_price_of_denoising_is_of_all_cells() {
    let runs = tempfile::tempdir().unwrap();
    for (set, images) in [("title=Controls", 20_000), ("seeds=[0, 1]", 40_000), ("data.ood.0.test_limit=50", 16_000)] {
        let plan = oodkit(runs.path()).args(["plan", "fashion_diffood_controls", "--set", set]).output().unwrap();
        let text = String::from_utf8_lossy(&plan.stdout);
        assert!(text.contains(&format!(" for {images} test images on this CPU")), "{set}: {text}");
    }
}

#[test]
fn every_experiment_is_smoke_run_or_planned() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = files
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    names.sort();
    let mut tested = [TESTED, PLANNED].concat();
    tested.sort_unstable();
    assert_eq!(names, tested, "add the new file to smoke_tests! or PLANNED above");
}
