//! `oodkit report`: one HTML page of an experiment, whole, bounded, and safe whatever names are in it.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use assert_cmd::Command;
use oodkit::{
    config::Experiment,
    data::{ImageSet, Split},
    metrics::write_npy,
    report::{
        self,
        page::{self, MOST, Places},
    },
    run::results::Results,
};
use serde_json::{Value, json};

/// A name that would be markup.
const HOSTILE: &str = "<script>alert(\"x\")</script> & 'y' <img src=x onerror=alert(1)>";

/// LeNet and two methods on two OOD sets.
fn experiment(title: &str, tables: Value, figures: Value) -> Experiment {
    let train = json!({"epochs": 1, "batch_size": 128, "optimizer": {"sgd": {"lr": 0.1}}});
    serde_json::from_value(json!({
        "title": title,
        "seeds": [0],
        "data": {"id": "mnist", "ood": ["digits", "fashion_mnist"]},
        "networks": {"base": {"backbone": "lenet", "train": train}},
        "methods": [
            {"name": "MSP", "network": "base", "detector": "msp"},
            {"name": "EBD", "network": "base", "detector": "energy"},
        ],
        "tables": tables,
        "figures": figures,
    }))
    .unwrap()
}

fn tables() -> Value {
    json!([{"name": "all", "title": "All of it", "rows": "method", "columns": ["fpr95", "auroc"]}])
}

/// Its results, with an energy method of this name.
fn results(experiment: &Experiment, name: &str) -> Results {
    let environment = json!({"oodkit": "0.1.0", "commit": "0123abc", "device": "cpu (2 threads)"});
    let set = |test: usize| json!({"train": null, "train_full": null, "test": test, "test_full": test, "note": null, "sha256": "0".repeat(64)});
    let method = |folder: &str, quality: f64| {
        let measures = json!({"measures": {"auroc": quality, "fpr95_id_positive_closest": 1.0 - quality}});
        let scores = |set: &str| format!("scores/{folder}/{set}.npy");
        json!({
            "network": "base",
            "sets": {"digits": measures, "fashion_mnist": measures},
            "scores": {"mnist": scores("mnist"), "digits": scores("digits"), "fashion_mnist": scores("fashion_mnist")},
            "fit_seconds": 0.0, "score_seconds": 0.1,
        })
    };
    let network = json!({
        "folder": "networks/base/seed0", "measures": {"accuracy": 0.98}, "steps": 10, "final_loss": 0.1, "train_seconds": 1.0,
        "parameters": 44_426, "environment": environment,
    });
    let methods = json!({"MSP": method("msp", 0.912_3), name: method("ebd", 0.876_5)});
    serde_json::from_value(json!({
        "schema": oodkit::run::results::SCHEMA, "experiment": "trial", "title": experiment.title, "smoke": false,
        "datasets": {"mnist": set(200), "digits": set(100), "fashion_mnist": set(50)},
        "cells": [{
            "name": "default", "values": {},
            "seeds": [{"seed": 0, "tasks": {"mnist": {"networks": {"base": network}, "methods": methods}}}],
        }],
        "environment": environment, "overrides": [], "config": experiment,
    }))
    .unwrap()
}

/// Normal scores from 0 to 1, those of others from 0.5.
fn write_scores(runs: &Path) {
    for folder in ["msp", "ebd"] {
        for (set, count, low) in [("mnist", 200, 0.0), ("digits", 100, 0.5), ("fashion_mnist", 50, 0.5)] {
            let scores: Vec<f32> = (0..count).map(|at| low + at as f32 / count as f32).collect();
            let path = runs.join(format!("scores/{folder}/{set}.npy"));
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            write_npy(&path, &scores).unwrap();
        }
    }
}

/// A folder with an experiment's stored scores.
struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        write_scores(place.folder.path());
        place
    }

    fn out(&self) -> PathBuf {
        self.folder.path().join("out")
    }

    fn build(&self, experiment: &Experiment, results: &Results, most: usize) -> page::html::Built {
        self.build_with(experiment, results, most, &mut |_, _| None)
    }

    fn build_with(
        &self,
        experiment: &Experiment,
        results: &Results,
        most: usize,
        images: page::Images<'_>,
    ) -> page::html::Built {
        let out = self.out();
        let places = Places { experiments: Path::new("experiments"), runs: self.folder.path(), folder: &out };
        page::build(results, experiment, places, images, most).unwrap()
    }
}

/// The elements that have no end.
const VOID: [&str; 4] = ["meta", "img", "input", "br"];

/// The tags of a page, in order: its own style and script are taken out first.
fn tags(html: &str) -> Vec<String> {
    let html = html.replacen(page::html::STYLE, "", 1).replacen(page::html::SCRIPT, "", 1);
    html.split('<').skip(1).map(|rest| rest.split_once('>').expect("every < has its >").0.to_owned()).collect()
}

/// Every element is closed in its order, every attribute quoted, every id used once, every link leads to one.
fn is_well_formed(html: &str) {
    assert!(html.starts_with("<!DOCTYPE html>\n<html lang=\"en\">") && html.ends_with("</html>\n"));
    let (mut open, mut ids, mut links) = (Vec::new(), BTreeSet::new(), BTreeSet::new());
    for tag in tags(html).iter().skip(1) {
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop().as_deref(), Some(name));
            continue;
        }
        let name = tag.split_whitespace().next().unwrap();
        if !VOID.contains(&name) {
            open.push(name.to_owned());
        }
        let attribute = |key: &str| Some(tag.split_once(&format!(" {key}=\""))?.1.split('"').next().unwrap());
        if let Some(id) = attribute("id") {
            assert!(ids.insert(id.to_owned()), "{id} stands twice");
        }
        links.extend(attribute("href").map(|link| link.strip_prefix('#').expect("links stay on the page").to_owned()));
        if let Some(source) = attribute("src") {
            assert!(source.starts_with("data:image/") && name == "img", "{}", &tag[..80.min(tag.len())]);
            assert!(attribute("alt").is_some_and(|alt| !alt.is_empty()), "a picture without words");
        }
        // What stands in quotes is text.
        let bare: String = tag.split('"').step_by(2).collect::<String>().to_lowercase();
        for forbidden in [" style=", " on", " srcset=", "'"] {
            assert!(!bare.contains(forbidden), "{bare}");
        }
    }
    assert!(open.is_empty(), "{open:?}");
    assert!(links.is_subset(&ids), "{:?}", links.difference(&ids));
    // Nothing is loaded: there is no address of a network in any attribute, and the policy forbids it.
    assert!(tags(html).iter().all(|tag| !tag.contains("http:") && !tag.contains("https:")));
    assert!(!page::html::STYLE.contains("url(") && !page::html::STYLE.contains("@import"));
    assert!(html.contains("content=\"default-src 'none'; img-src data:; style-src 'sha256-"));
}

#[test]
fn a_page_holds_tables_figures_images_provenance_and_configuration() {
    let experiment = experiment(
        "Trial & error",
        tables(),
        json!([{"roc": {"methods": ["MSP", "EBD"]}}, {"accuracy": {"networks": ["base"]}}]),
    );
    let (place, results) = (Place::new(), results(&experiment, "EBD"));
    report::write(&results, &experiment, Path::new("experiments"), place.folder.path(), &place.out()).unwrap();
    fs::remove_file(place.out().join("accuracy_base.svg")).unwrap();
    let built = place.build(&experiment, &results, MOST);
    let html = &built.html;
    is_well_formed(html);
    assert_eq!(built.left_out, 0);
    for told in [
        "<title>Trial &amp; error</title>",
        ">All of it</h3>",
        // Numbers as printed, and as they are sorted by.
        "data-value=\"91.23\">",
        "<strong>91.23 *</strong>",
        "87.65</td>",
        "<strong>8.77 *</strong>",
        "12.35</td>",
        "ROC curves of MSP, EBD <code>roc_MSP_EBD.svg</code>",
        "Accuracy of base <code>accuracy_base.png</code>",
        "data:image/svg+xml;base64,",
        "data:image/png;base64,",
        "digits: image 99",
        "oodkit 0.1.0, commit 0123abc, cpu (2 threads)",
        "backbone:",
        "pictures of single images of mnist, digits, fashion_mnist",
    ] {
        assert!(html.contains(told), "{told}");
    }
    // 190 of the normal scores are up to 0.945; those of others begin at 0.5.
    assert!(html.contains("68 of 150 anomalous images score as normal ones do"));
    assert!(html.contains("10 of 200 normal images as anomalous"));
    // The same bytes again.
    assert_eq!(place.build(&experiment, &results, MOST), built);
    // Without figures and scores the page says so.
    fs::remove_dir_all(place.out()).unwrap();
    fs::remove_dir_all(place.folder.path().join("scores")).unwrap();
    let html = place.build(&experiment, &results, MOST).html;
    is_well_formed(&html);
    assert!(html.contains("the figure &quot;ROC curves of MSP, EBD&quot;, which is not drawn: oodkit table draws it"));
    assert!(html.contains("the images of MSP on mnist (") && html.contains("EBD on mnist ("));
}

#[test]
fn hostile_names_stay_text() {
    let tables = json!([{"name": "all", "title": HOSTILE, "rows": "method", "columns": ["auroc"], "over": "each"}]);
    let experiment = experiment(HOSTILE, tables, json!([]));
    let (place, mut results) = (Place::new(), results(&experiment, HOSTILE));
    results.config["methods"][1]["name"] = json!(HOSTILE);
    results.datasets["digits"].note = Some(HOSTILE.to_owned());
    results.environment.device = HOSTILE.to_owned();
    results.overrides = vec![HOSTILE.to_owned()];
    let html = place.build(&experiment, &results, MOST).html;
    is_well_formed(&html);
    assert!(!html.contains("<script>alert") && !html.contains("<img src=x"));
    assert!(html.matches("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; &#39;y&#39;").count() > 5);
}

#[test]
fn a_file_that_is_no_drawing_is_not_shown() {
    let experiment = experiment("Trial", tables(), json!([{"roc": {"methods": ["MSP"]}}]));
    let (place, results) = (Place::new(), results(&experiment, "EBD"));
    fs::create_dir_all(place.out()).unwrap();
    for ending in ["svg", "png"] {
        fs::write(place.out().join(format!("roc_MSP.{ending}")), "<html><script>alert(1)</script></html>").unwrap();
    }
    let html = place.build(&experiment, &results, MOST).html;
    is_well_formed(&html);
    assert!(html.contains("roc_MSP, which is no drawing of oodkit") && !html.contains("data:image/svg"));
}

#[test]
fn images_are_shown_small_beside_their_names() {
    let experiment = experiment("Trial", tables(), json!([]));
    let (place, results) = (Place::new(), results(&experiment, "EBD"));
    let mut asked = Vec::new();
    let mut images = |task: &str, set: &str| {
        asked.push(format!("{task}/{set}"));
        let count = results.datasets[set].test;
        let pixels: Vec<u8> = (0..count * 28 * 28).map(|at| (at % 251) as u8).collect();
        let mut images = ImageSet::unlabelled(set, Split::Test, [1, 28, 28], pixels);
        images.files = Some(std::sync::Arc::new((0..count).map(|at| format!("a & b/{at}.png")).collect()));
        (set != "mnist").then_some(images)
    };
    let html = place.build_with(&experiment, &results, MOST, &mut images).html;
    is_well_formed(&html);
    assert_eq!(asked, ["mnist/mnist", "mnist/digits", "mnist/fashion_mnist"]);
    assert!(html.contains("alt=\"digits: a &amp; b/99.png\" width=\"28\" height=\"28\">"), "{html}");
    assert!(html.contains("pictures of single images of mnist: "));
}

#[test]
fn pictures_that_have_no_room_are_counted() {
    let sweep = |method: &str| json!({"roc": {"methods": [method]}});
    let experiment = experiment("Trial", tables(), json!([sweep("MSP"), sweep("EBD"), sweep("MSP"), sweep("EBD")]));
    let (place, results) = (Place::new(), results(&experiment, "EBD"));
    report::write(&results, &experiment, Path::new("experiments"), place.folder.path(), &place.out()).unwrap();
    for name in ["roc_MSP", "roc_EBD", "roc_MSP_2", "roc_EBD_2"] {
        fs::remove_file(place.out().join(format!("{name}.png"))).unwrap();
        let path = place.out().join(format!("{name}.svg"));
        let large = fs::read_to_string(&path).unwrap() + &"<!-- -->".repeat(25_000);
        fs::write(&path, large).unwrap();
    }
    let all = place.build(&experiment, &results, MOST);
    assert_eq!((all.left_out, all.html.matches("<img ").count()), (0, 4));
    assert!(all.html.contains("roc_EBD_2.svg"));
    let most = 800_000;
    let built = place.build(&experiment, &results, most);
    is_well_formed(&built.html);
    assert!(built.html.len() <= most, "{}", built.html.len());
    assert_eq!((built.left_out, built.html.matches("<img ").count()), (2, 2));
    assert!(built.html.contains("2 of 4 figures, for want of room: roc_MSP_2.svg, roc_EBD_2.svg"), "{}", built.html);
    assert!(built.html.contains(&format!("<code>{}</code>", place.out().display())));
}

/// The program, started in the repository's root, with a folder for runs.
fn oodkit(runs: &Path, arguments: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::cargo_bin("oodkit").unwrap();
    command.current_dir(env!("CARGO_MANIFEST_DIR")).env("NO_COLOR", "1").env("OODKIT_RUNS", runs);
    let output = command.args(arguments).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn a_smoke_run_becomes_a_page_and_an_experiment_without_results_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    for (arguments, told) in [
        (
            &["report", "quickstart", "--smoke"][..],
            "hint: oodkit run quickstart --smoke\n      or make exp=quickstart smoke=1",
        ),
        (&["report", "quickstrat"][..], "no experiment \"quickstrat\" in experiments (did you mean \"quickstart\"?)"),
    ] {
        let (code, printed, said) = oodkit(&runs, arguments);
        assert_eq!((code, printed.as_str()), (Some(2), ""), "{said}");
        assert!(said.contains(told), "{said}");
    }
    let (code, _, said) = oodkit(&runs, &["run", "quickstart", "--smoke"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, printed, said) = oodkit(&runs, &["report", "quickstart", "--smoke"]);
    assert_eq!(code, Some(0), "{said}");
    let path = runs.join("smoke/experiments/quickstart/page.html");
    assert!(printed.contains(&format!("{} (", path.display())), "{printed}");
    let html = fs::read_to_string(&path).unwrap();
    is_well_formed(&html);
    assert!(html.len() < MOST && html.contains("SMOKE RUN"));
    // Each number of each table.
    let table = fs::read_to_string(path.with_file_name("table_methods.json")).unwrap();
    let table: Value = serde_json::from_str(&table).unwrap();
    let rows = table["rows"].as_array().unwrap();
    for mean in rows.iter().flat_map(|row| row["cells"].as_array().unwrap()).map(|cell| &cell["ours"]["mean"]) {
        assert!(html.contains(&format!("data-value=\"{}\"", mean.as_f64().unwrap())), "{mean}");
    }
    // Its images are there as they were scored, and are small.
    assert!(html.contains("data:image/jpeg;base64,") && !html.contains("pictures of single images"), "no pictures");
    assert_eq!(html.matches("data:image/svg+xml;base64,").count(), 4);

    let out = folder.path().join("elsewhere/my page.html");
    let (code, _, said) = oodkit(&runs, &["report", "quickstart", "--smoke", "--out", out.to_str().unwrap()]);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(fs::read_to_string(&out).unwrap(), html);
    let (code, _, said) = oodkit(&runs, &["report", "quickstart", "--smoke", "--out", folder.path().to_str().unwrap()]);
    assert_eq!(code, Some(2));
    assert!(said.contains("is a folder"), "{said}");
}

/// A surface experiment has a page with its categories, heat maps to slide through, and images of each.
#[test]
fn categories_have_heat_maps_and_images() {
    let folder = tempfile::tempdir().unwrap();
    let runs = folder.path().join("runs");
    let (code, _, said) = oodkit(&runs, &["run", "surface_quickstart", "--smoke"]);
    assert_eq!(code, Some(0), "{said}");
    let (code, _, said) = oodkit(&runs, &["report", "surface_quickstart", "--smoke"]);
    assert_eq!(code, Some(0), "{said}");
    let experiment = runs.join("smoke/experiments/surface_quickstart");
    let html = fs::read_to_string(experiment.join("page.html")).unwrap();
    is_well_formed(&html);
    let results: Value = serde_json::from_str(&fs::read_to_string(experiment.join("results.json")).unwrap()).unwrap();
    let tasks = results["cells"][0]["seeds"][0]["tasks"].as_object().unwrap();
    assert!(tasks.len() > 1, "{}", tasks.len());
    assert_eq!(html.matches("type=\"range\"").count(), tasks.len(), "a slider for each category");
    for task in tasks.keys() {
        assert!(html.contains(task.as_str()), "{task}");
    }
    for method in ["PaDiM", "PatchCore"] {
        assert!(html.contains(&format!("Heat map of {method}: ")), "{method}");
    }
    assert!(!html.contains("whose sheets are shown"), "stored maps were not read");

    // A damaged map is told of, and the sheet stands in its place.
    let views: Vec<PathBuf> = files_below(&runs)
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("maps-")))
        .collect();
    assert!(!views.is_empty());
    views.iter().for_each(|path| fs::write(path, "{").unwrap());
    let (code, _, said) = oodkit(&runs, &["report", "surface_quickstart", "--smoke"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(fs::read_to_string(experiment.join("page.html")).unwrap().contains("whose sheets are shown"));
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}
