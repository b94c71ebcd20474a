//! `oodkit merge`: what several machines measured of one experiment becomes one record, and what does not belong together does not.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use oodkit::{report::table, run::results::Results};
use serde_json::{Value, json};

/// A committed record in schema 2.
fn record() -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/results/fashion_sparsity");
    serde_json::to_value(Results::read(&folder).unwrap().unwrap()).unwrap()
}

/// The record with this seed alone.
fn of_seed(seed: u64) -> Value {
    let mut record = record();
    record["config"]["seeds"] = json!([seed]);
    for cell in record["cells"].as_array_mut().unwrap() {
        let mut own = cell["seeds"][0].clone();
        own["seed"] = json!(seed);
        cell["seeds"] = json!([own]);
    }
    record
}

struct Place(tempfile::TempDir);

impl Place {
    fn new(records: &[Value]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for (name, record) in ["a.json", "b.json"].iter().zip(records) {
            fs::write(place.path(name), record.to_string()).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn merge(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_oodkit"));
        command.current_dir(self.0.path()).arg("merge").args(["a.json", "b.json"]).args(arguments).output().unwrap()
    }

    /// What stderr says of two records that are not joined.
    fn refuses(records: &[Value]) -> String {
        let place = Self::new(records);
        let output = place.merge(&["--out", "c.json"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(!place.path("c.json").exists());
        String::from_utf8(output.stderr).unwrap()
    }
}

#[test]
fn seeds_of_two_machines_become_one_record() {
    let mut other = of_seed(2);
    other["environment"]["device"] = json!("another machine");
    let place = Place::new(&[other, of_seed(0)]);
    let output = place.merge(&["--out", "c.json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let merged = Results::read_file(&place.path("c.json")).unwrap();
    assert_eq!(merged.config["seeds"], json!([2, 0]));
    for cell in &merged.cells {
        assert_eq!(cell.seeds.iter().map(|seed| seed.seed).collect::<Vec<_>>(), [0, 2]);
    }
    assert!(merged.environment.device.starts_with("another machine and "), "{}", merged.environment.device);
    let experiment: oodkit::config::Experiment = serde_json::from_value(merged.config.clone()).unwrap();
    let rendered = table::build(&experiment.tables[0], &merged, Path::new("experiments")).unwrap();
    assert!(rendered.caption[0].contains("n = 2 seeds (0, 2)"), "{:?}", rendered.caption);
    // Without --out, the same on stdout.
    let printed: Value = serde_json::from_slice(&place.merge(&[]).stdout).unwrap();
    assert_eq!(printed, serde_json::to_value(&merged).unwrap());
}

#[test]
fn cells_of_two_machines_become_one_record() {
    let path = "networks.tuned.loss.sparsity.weight";
    let cell = |weight: f64| {
        let mut record = record();
        record["config"]["sweep"] = json!({ path: [weight] });
        record["cells"][0]["name"] = json!(format!("weight={weight}"));
        record["cells"][0]["values"] = json!({ path: weight });
        record["cells"] = json!([record["cells"][0].clone()]);
        record
    };
    let place = Place::new(&[cell(0.1), cell(0.2)]);
    assert!(place.merge(&["--out", "c.json"]).status.success());
    let merged = Results::read_file(&place.path("c.json")).unwrap();
    assert_eq!(merged.cells.iter().map(|cell| cell.name.as_str()).collect::<Vec<_>>(), ["weight=0.1", "weight=0.2"]);
    assert_eq!(merged.config["sweep"], json!({ path: [0.1, 0.2] }));
    let mut plain = cell(0.1);
    plain["config"]["sweep"] = json!({});
    let told = Place::refuses(&[cell(0.1), plain]);
    assert!(told.contains("sweep: [\"networks.tuned.loss.sparsity.weight\"] and []"), "{told}");
}

#[test]
fn the_same_measured_twice_is_kept_once() {
    let mut slower = of_seed(0);
    let task = &mut slower["cells"][0]["seeds"][0]["tasks"]["fashion_mnist"];
    task["methods"]["EBD"]["fit_seconds"] = json!(1234.5);
    let place = Place::new(&[of_seed(0), slower]);
    assert!(place.merge(&["--out", "c.json"]).status.success());
    let merged = Results::read_file(&place.path("c.json")).unwrap();
    assert_eq!(merged.cells[0].seeds.len(), 1);
}

#[test]
fn what_differs_is_refused_with_the_difference() {
    let mut other = of_seed(1);
    let set = &mut other["config"]["networks"]["base"]["train"]["epochs"];
    let epochs = set.clone();
    *set = json!(77);
    let told = Place::refuses(&[of_seed(0), other]);
    assert!(
        told.contains("a.json and b.json are not of one configuration")
            && told.contains(&format!("config.networks.base.train.epochs: {epochs} and 77")),
        "{told}"
    );

    let mut other = of_seed(1);
    other["datasets"]["digits"]["sha256"] = json!("0123");
    let told = Place::refuses(&[of_seed(0), other]);
    assert!(told.contains("datasets.digits.sha256: ") && told.contains(" and \"0123\""), "{told}");

    let mut other = of_seed(0);
    let measures =
        &mut other["cells"][0]["seeds"][0]["tasks"]["fashion_mnist"]["methods"]["EBD"]["sets"]["digits"]["measures"];
    let auroc = measures["auroc"].clone();
    measures["auroc"] = json!(0.123);
    let told = Place::refuses(&[of_seed(0), other]);
    assert!(
        told.contains("seed 0 was measured twice, with differing numbers")
            && told.contains(&format!("fashion_mnist.methods.EBD.sets.digits.measures.auroc: {auroc} and 0.123")),
        "{told}"
    );

    let told = Place::refuses(&[of_seed(0), json!({"schema": 9})]);
    assert!(told.contains("b.json is of schema 9"), "{told}");
}
