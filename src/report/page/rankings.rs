//! The images that a method finds most anomalous, and those that it judges most wrongly.

use std::path::Path;

use image::imageops;
use indexmap::IndexMap;

use crate::{
    Result,
    data::{ImageSet, painted},
    metrics::threshold,
    report::{
        figures::scores,
        page::{
            Images,
            html::short,
            parts::{Picture, Ranked, Ranking},
            pictures::jpeg,
        },
        variants::{of_method, representative},
    },
    run::results::Results,
};

/// Images of a list.
const SHOWN: usize = 6;
/// The share of normal images that is accepted.
const ACCEPTED: f64 = 0.95;
/// The longer side of a small picture, at most.
const SIDE: u32 = 72;

/// Of each method on each task, by the scores of the first seed; what has none is named.
pub(super) fn rankings(
    results: &Results,
    runs_root: &Path,
    images: Images<'_>,
    absent: &mut Vec<String>,
) -> Result<Vec<Ranking>> {
    let mut rankings = Vec::new();
    let tasks: Vec<Option<&String>> = match results.has_categories() {
        true => results.datasets.keys().map(Some).collect(),
        false => vec![None],
    };
    let (mut lacking, mut pictureless) = (Vec::new(), Vec::new());
    for category in tasks {
        let of_category = category.map(|category| results.of_category(category));
        let results = of_category.as_ref().unwrap_or(results);
        let Some(normal) = results.datasets.keys().next() else { continue };
        let task = category.unwrap_or(normal);
        // The images once for all methods.
        let sets: IndexMap<&str, Option<ImageSet>> =
            results.datasets.keys().map(|set| (set.as_str(), images(task, set))).collect();
        pictureless.extend(sets.iter().filter(|(_, set)| set.is_none()).map(|(name, _)| match category {
            Some(category) => format!("{category}/{name}"),
            None => (*name).to_owned(),
        }));
        for method in results.methods() {
            let Some(variant) = representative(of_method(results, method)) else { continue };
            if variant.methods().next().is_none() {
                continue;
            }
            let mut scored = Vec::new();
            let mut problem = None;
            for set in sets.keys().copied() {
                match scores::read(&variant, set, runs_root) {
                    Ok(scores) => scored.push((set, scores)),
                    Err(error) => problem = Some(error),
                }
            }
            if let Some(problem) = problem {
                lacking.push(format!("{} on {task} ({problem})", variant.label()));
                continue;
            }
            let task = if category.is_some() { task.as_str() } else { "" };
            rankings.push(ranking(task, &variant.label(), &scored, &sets)?);
        }
    }
    let told = |names: &[String]| {
        let more = names.len().saturating_sub(SHOWN);
        let shown = names[..names.len() - more].join(", ");
        if more > 0 { format!("{shown} and {more} more") } else { shown }
    };
    if !lacking.is_empty() {
        absent.push(format!("the images of {}", told(&lacking)));
    }
    if !rankings.is_empty() && !pictureless.is_empty() {
        absent.push(format!(
            "pictures of single images of {}: the data are not there as they were scored, or are too large to look at",
            told(&pictureless)
        ));
    }
    Ok(rankings)
}

/// An image of a set, and its score.
#[derive(Clone, Copy)]
struct Scored<'a> {
    set: &'a str,
    image: usize,
    score: f64,
}

impl<'a> Scored<'a> {
    /// All images of a set.
    fn all((set, scores): &(&'a str, Vec<f64>)) -> Vec<Self> {
        scores.iter().enumerate().map(|(image, score)| Self { set, image, score: *score }).collect()
    }
}

/// `scored` are the scores of each set, the normal one first.
fn ranking(
    task: &str,
    method: &str,
    scored: &[(&str, Vec<f64>)],
    sets: &IndexMap<&str, Option<ImageSet>>,
) -> Result<Ranking> {
    let normal: Vec<Scored> = scored.first().map(Scored::all).unwrap_or_default();
    let anomalous: Vec<Scored> = scored.iter().skip(1).flat_map(Scored::all).collect();
    let ids: Vec<f64> = normal.iter().map(|scored| scored.score).collect();
    let limit = threshold(&ids, ACCEPTED).unwrap_or(f64::INFINITY);
    let mut missed: Vec<Scored> = anomalous.iter().filter(|scored| scored.score <= limit).copied().collect();
    let mut flagged: Vec<Scored> = normal.iter().filter(|scored| scored.score > limit).copied().collect();
    let mut most: Vec<Scored> = normal.iter().chain(&anomalous).copied().collect();
    // Stable: of equal scores the first stand first.
    let largest_first = |left: &Scored, right: &Scored| right.score.total_cmp(&left.score);
    most.sort_by(largest_first);
    flagged.sort_by(largest_first);
    missed.sort_by(|left, right| left.score.total_cmp(&right.score));
    let summary = format!(
        "First seed: {} of {} anomalous images score as normal ones do, and {} of {} normal images as anomalous: the threshold {} accepts \
         {} % of the normal images.",
        missed.len(),
        anomalous.len(),
        flagged.len(),
        normal.len(),
        short(limit),
        100.0 * ACCEPTED
    );
    let list = |title: &str, images: Vec<Scored>| -> Result<(String, Vec<Ranked>)> {
        let shown = images.iter().take(SHOWN).map(|image| ranked(image, sets)).collect::<Result<Vec<_>>>()?;
        Ok((title.to_owned(), shown))
    };
    let lists = vec![
        list("Most anomalous of all", most)?,
        list("Anomalous, judged normal", missed)?,
        list("Normal, judged anomalous", flagged)?,
    ];
    Ok(Ranking { task: task.to_owned(), method: method.to_owned(), summary, lists })
}

fn ranked(scored: &Scored<'_>, sets: &IndexMap<&str, Option<ImageSet>>) -> Result<Ranked> {
    let set = sets.get(scored.set).and_then(Option::as_ref).filter(|set| scored.image < set.len());
    let file = set.and_then(|set| set.files.as_ref()?.get(scored.image));
    let name = match file {
        Some(file) => format!("{}: {file}", scored.set),
        None => format!("{}: image {}", scored.set, scored.image),
    };
    let picture = set.map(|set| thumbnail(set, scored.image, &name)).transpose()?;
    Ok(Ranked { name, score: short(scored.score), picture })
}

/// A small picture of an image.
fn thumbnail(set: &ImageSet, image: usize, name: &str) -> Result<Picture> {
    let painted = painted(&set.image(image)?, set.shape());
    let longest = painted.width().max(painted.height()).max(1);
    if longest <= SIDE {
        return jpeg(&painted, name.to_owned());
    }
    let side = |length: u32| (length * SIDE / longest).max(1);
    let (width, height) = (side(painted.width()), side(painted.height()));
    jpeg(&imageops::resize(&painted, width, height, imageops::FilterType::Triangle), name.to_owned())
}
