//! What figures and their files are called.

use std::collections::BTreeSet;

use crate::{config::Figure, run::results::Results};

/// A figure's files, without their endings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// `roc_EBD_Sparsity`.
    pub stem: String,
    /// What is drawn, in words.
    pub title: String,
    /// The task that it is of, where each has a figure.
    pub category: Option<String>,
}

/// The files of each of these figures, as far as the results' tasks have one: of what only some networks learned from, not all are there.
pub fn files(figures: &[Figure], results: &Results) -> Vec<Vec<Files>> {
    let mut taken = BTreeSet::new();
    let of = |figure: &Figure| {
        let (kind, names) = named(figure);
        let one = |category: Option<&String>| {
            let on = category.map(|category| format!(" on {category}")).unwrap_or_default();
            let of = if names.is_empty() { String::new() } else { format!(" of {}", names.join(", ")) };
            Files {
                stem: free(&stem(kind, category, &names), &mut taken),
                title: format!("{}{of}{on}", in_words(kind)),
                category: category.cloned(),
            }
        };
        categories(figure, results).into_iter().map(one).collect()
    };
    figures.iter().map(of).collect()
}

/// The tasks that have a figure each; one figure is of all of them.
fn categories<'a>(figure: &Figure, results: &'a Results) -> Vec<Option<&'a String>> {
    let several = results.has_categories();
    match figure {
        Figure::Maps(_) | Figure::Pseudo(_) | Figure::Roc(_) | Figure::Histogram(_) | Figure::Samples(_) if several => {
            results.datasets.keys().map(Some).collect()
        }
        Figure::Maps(_) | Figure::Pseudo(_) => results.datasets.keys().take(1).map(Some).collect(),
        _ => vec![None],
    }
}

/// The kind of a figure, and the methods or networks that it is of.
pub(super) fn named(figure: &Figure) -> (&'static str, Vec<String>) {
    match figure {
        Figure::Roc(figure) => ("roc", figure.methods.clone()),
        Figure::Histogram(figure) => ("histogram", figure.methods.clone()),
        Figure::Accuracy(figure) => ("accuracy", figure.networks.clone()),
        Figure::Confusion(figure) => ("confusion", vec![figure.network.clone()]),
        Figure::Sweep(figure) => ("sweep", vec![figure.method.clone()]),
        Figure::SetScores(figure) => ("set_scores", vec![figure.method.clone()]),
        Figure::Factors(figure) => ("factors", [&figure.method].into_iter().chain(&figure.layer).cloned().collect()),
        Figure::Neuron(figure) => {
            let neuron = figure.neuron.map(|neuron| neuron.to_string());
            ("neuron", [&figure.method].into_iter().chain(&figure.layer).chain(&neuron).cloned().collect())
        }
        Figure::Maps(figure) => ("maps", figure.methods.clone()),
        Figure::Pseudo(figure) => ("pseudo", figure.network.iter().cloned().collect()),
        Figure::Samples(figure) => ("samples", vec![figure.network.clone()]),
        Figure::Training(figure) => ("training", figure.networks.clone()),
        Figure::PixelCurves(figure) => ("pixel_curves", figure.methods.clone()),
    }
}

fn in_words(kind: &str) -> &str {
    match kind {
        "roc" => "ROC curves",
        "histogram" => "Score histograms",
        "accuracy" => "Accuracy",
        "confusion" => "Confusion matrix",
        "sweep" => "Sweep",
        "set_scores" => "Scores along the sweep",
        "factors" => "Anomaly factors",
        "neuron" => "Activations and anomaly factor",
        "maps" => "Heat maps",
        "pseudo" => "Pseudo-anomalies",
        "samples" => "Samples",
        "training" => "Losses",
        "pixel_curves" => "ROC and PRO curves over pixels",
        other => other,
    }
}

/// `roc_EBD_Sparsity`, `maps_screw_PaDiM`: letters, digits and `-` of the names; long ones are cut.
pub(super) fn stem(kind: &str, category: Option<&String>, names: &[String]) -> String {
    let safe = |name: &String| -> String {
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' }).collect()
    };
    let names = category.into_iter().chain(names).map(safe).collect::<Vec<_>>().join("_");
    format!("{kind}_{}", names.chars().take(80).collect::<String>())
}

/// The stem, or the first of `stem_2` and so on that is not taken; it is then. In lower case: some file systems do not tell `MSP` from
/// `msp`.
pub fn free(stem: &str, taken: &mut BTreeSet<String>) -> String {
    (1..)
        .map(|number| if number == 1 { stem.to_owned() } else { format!("{stem}_{number}") })
        .find(|stem| taken.insert(stem.to_lowercase()))
        .unwrap_or_default()
}
