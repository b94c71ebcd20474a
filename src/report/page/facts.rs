//! Where the numbers come from.

use indexmap::IndexMap;

use crate::{
    report::page::parts::Facts,
    run::results::{DatasetRecord, Environment, Results},
};

/// What an experiment's results say of their origin.
pub(super) fn facts(results: &Results) -> Vec<Facts> {
    let seeds: indexmap::IndexSet<u64> =
        results.cells.iter().flat_map(|cell| cell.seeds.iter().map(|seed| seed.seed)).collect();
    let trained: Vec<&Environment> =
        results.tasks().flat_map(|task| task.networks.values()).map(|network| &network.environment).collect();
    let mut rows = vec![
        row("Experiment", &results.experiment),
        row("Scored by", in_words(&results.environment)),
        row("Seeds", seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ")),
    ];
    if !trained.is_empty() {
        rows.insert(1, row("Trained by", in_words(&Environment::of(trained.into_iter()))));
    }
    if results.cells.len() > 1 {
        rows.push(row("Sweep", results.cells.iter().map(|cell| &*cell.name).collect::<Vec<_>>().join(", ")));
    }
    if !results.overrides.is_empty() {
        rows.push(row("Changed on the command line", results.overrides.join(" ")));
    }
    rows.push(row("Schema of results.json", results.schema.to_string()));
    let roles = [("ID and OOD sets", &results.datasets), ("Shifted sets", &results.shifted)];
    let roles = roles.into_iter().chain([("Validation sets", &results.validation)]);
    let sets = roles.filter(|(_, sets)| !sets.is_empty()).map(|(title, sets)| {
        let title = if title.starts_with("ID") && results.has_categories() { "Categories" } else { title };
        Facts { title: title.to_owned(), rows: sets.iter().map(|(name, record)| row(name, of_set(record))).collect() }
    });
    let outliers = results.outliers.iter().map(|outliers| {
        let note = outliers.note.iter().map(|note| format!("; {note}")).collect::<String>();
        let words = format!("{} images; SHA-256 {}{note}", outliers.images, outliers.sha256);
        Facts { title: "Auxiliary outliers".to_owned(), rows: vec![row(&outliers.name, words)] }
    });
    let mut all = vec![Facts { title: String::new(), rows }];
    all.extend(sets.chain(outliers));
    all.push(networks(results));
    all.retain(|facts| !facts.rows.is_empty());
    all
}

fn row(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_owned(), value.into())
}

fn in_words(environment: &Environment) -> String {
    format!("oodkit {}, commit {}, {}", environment.oodkit, environment.commit, environment.device)
}

fn of_set(record: &DatasetRecord) -> String {
    let mut parts: Vec<String> = record.train.iter().map(|train| format!("{train} train images")).collect();
    parts.push(match record.test_full {
        Some(full) if full != record.test => format!("{} test images of {full}", record.test),
        _ => format!("{} test images", record.test),
    });
    parts.extend(record.note.clone());
    parts.push(format!("SHA-256 of the test images {}", record.sha256));
    parts.extend(record.masks_sha256.as_ref().map(|masks| format!("of their masks {masks}")));
    let kind = |(name, kind): (&String, &crate::run::results::KindRecord)| format!("{name} {}", kind.images);
    let kinds: Vec<String> = record.kinds.iter().map(kind).collect();
    parts.extend((!kinds.is_empty()).then(|| format!("test images by kind: {}", kinds.join(", "))));
    parts.join("; ")
}

/// The networks, each once: where it is, and what it took.
fn networks(results: &Results) -> Facts {
    let mut rows: IndexMap<String, String> = IndexMap::new();
    for (name, network) in results.tasks().flat_map(|task| &task.networks) {
        let folder = network.folder.display();
        rows.entry(format!("{name}: {folder}")).or_insert_with(|| {
            format!("{} parameters, {} steps, {:.0} seconds", network.parameters, network.steps, network.train_seconds)
        });
    }
    Facts { title: "Networks".to_owned(), rows: rows.into_iter().collect() }
}
