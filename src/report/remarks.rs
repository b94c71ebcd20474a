//! What a reader of a table must be told beside its numbers: a network that learned little, scores in the wrong order, rows that are
//! equal for a reason.

use crate::{
    metrics::Column,
    nn::tta::Tta,
    report::{
        table::{Row, two_decimals},
        variants::Variant,
    },
    run::results::{DatasetRecord, Results, SeedResult},
};

/// Detectors that order images of two classes alike: each falls as the larger of two probabilities rises, at any temperature.
const ALIKE: [&str; 4] = ["msp", "softmax_entropy", "gen", "temperature_scaling"];

/// `Of 3 classes the largest has 40.00 % of the ID test images: as much accuracy has who always names it.` `None` if the record does
/// not count classes.
pub fn largest_class(results: &Results) -> Option<String> {
    let (classes, share) = largest(results.datasets.values().next()?)?;
    let share = two_decimals(share * 100.0);
    Some(format!("Always naming the largest of {classes} classes gives {share} % accuracy."))
}

/// `Accuracy is of the mean logits over 6 views of each image (mirror_translate); scores are of one.` `None` where all is of one view.
pub fn views(results: &Results) -> Option<String> {
    Some(format!("Accuracy is of the mean logits over {}; scores are of one.", views_in_words(results)?))
}

/// `6 views of each image (mirror_translate)`, or `1 or 6 (mirror_translate) views of each image, by row` where a sweep changes them.
pub fn views_in_words(results: &Results) -> Option<String> {
    let networks = results.tasks().flat_map(|task| task.networks.values());
    let mut found: Vec<Option<Tta>> = Vec::new();
    for network in networks.filter(|network| network.measures.contains_key("accuracy")) {
        if !found.contains(&network.views) {
            found.push(network.views);
        }
    }
    let words = |tta: &Option<Tta>| match tta {
        None => "1".to_owned(),
        Some(tta) => format!("{} ({})", tta.views(), tta.name()),
    };
    match &found[..] {
        [] | [None] => None,
        [Some(tta)] => Some(format!("{} views of each image ({})", tta.views(), tta.name())),
        [first @ .., last] => {
            let first: Vec<String> = first.iter().map(words).collect();
            Some(format!("{} or {} views of each image, by row", first.join(", "), words(last)))
        }
    }
}

/// How many classes the ID set has, and the share that the largest has of its test images.
fn largest(id: &DatasetRecord) -> Option<(usize, f64)> {
    let largest = *id.class_sizes.iter().max()?;
    (id.test > 0).then(|| (id.class_sizes.len(), largest as f64 / id.test as f64))
}

/// The remark on a method whose network has come less than half of the way from naming the largest class to no mistake. Ours: a
/// network below it makes more mistakes than a half-way one, and its scores are about classes that it does not know.
pub fn learned_little(results: &Results, method: &Variant<'_>) -> Option<String> {
    let (_, share) = largest(results.datasets.values().next()?)?;
    let networks = method.cell.seeds.iter().filter_map(|seed| {
        let task = seed.task()?;
        Some((&task.methods.get(method.name)?.network, task))
    });
    let found: Vec<(&String, f64)> = networks
        .filter_map(|(network, task)| Some((network, *task.networks.get(network)?.measures.get("accuracy")?)))
        .collect();
    let (name, _) = found.first()?;
    let accuracy = found.iter().map(|(_, accuracy)| accuracy).sum::<f64>() / found.len() as f64;
    (accuracy < (1.0 + share) / 2.0).then(|| {
        let (accuracy, share) = (two_decimals(accuracy * 100.0), two_decimals(share * 100.0));
        format!(
            "network \"{name}\" learned little: accuracy {accuracy} %, where naming the largest class gives {share} %"
        )
    })
}

/// `The same with every seed, so ± 0.00: PaDiM, control rows.` Of methods that had several seeds and no number of which depends on them;
/// `None` if there are none.
pub fn same_with_every_seed(methods: &[Variant<'_>]) -> Option<String> {
    let same = |method: &&Variant<'_>| {
        let sets = |seed: &SeedResult| -> Vec<_> {
            seed.tasks.values().filter_map(|task| Some(task.methods.get(method.name)?.sets.clone())).collect()
        };
        let of_seeds: Vec<_> = method.cell.seeds.iter().map(sets).filter(|sets| !sets.is_empty()).collect();
        of_seeds.len() > 1 && of_seeds.iter().all(|sets| *sets == of_seeds[0])
    };
    let (controls, methods): (Vec<&Variant<'_>>, Vec<_>) =
        methods.iter().filter(same).partition(|method| method.is_control());
    let mut names: Vec<String> = methods.into_iter().map(Variant::label).collect();
    if !controls.is_empty() {
        names.push("control rows".to_owned());
    }
    (!names.is_empty()).then(|| format!("The same with every seed, so ± 0.00: {}.", names.join(", ")))
}

/// The remark on AUROCs of which one is below 50 %.
pub fn wrong_order(row: &Row, columns: &[Column]) -> Option<&'static str> {
    let mut aurocs = row.cells.iter().zip(columns).filter(|(_, column)| **column == Column::Auroc);
    let below = aurocs.any(|(cell, _)| cell.ours.is_some_and(|ours| ours.mean < 50.0));
    below.then_some("AUROC below 50: OOD images score as less anomalous than ID images")
}

/// Groups of rows, by index, that must be equal: methods that order the images of two classes alike, on one network.
pub fn alike(results: &Results, rows: &[Option<Variant<'_>>]) -> Vec<Vec<usize>> {
    if results.datasets.values().next().is_none_or(|id| id.class_sizes.len() != 2) {
        return Vec::new();
    }
    let keys: Vec<_> = rows.iter().map(|row| network_of_alike((*row)?)).collect();
    let first = |at: usize| keys[at].is_some() && !keys[..at].contains(&keys[at]);
    let group = |at: usize| (at..keys.len()).filter(|other| keys[*other] == keys[at]).collect::<Vec<_>>();
    (0..keys.len()).filter(|at| first(*at)).map(group).filter(|group| group.len() > 1).collect()
}

/// The network and the cell of a method that is one of [`ALIKE`].
fn network_of_alike<'a>(method: Variant<'a>) -> Option<(&'a str, &'a str)> {
    let (_, result) = method.methods().next()?;
    let detector = result.detector.as_ref()?.as_object()?.keys().next()?.as_str();
    ALIKE.contains(&detector).then_some((result.network.as_str(), method.cell.name.as_str()))
}
