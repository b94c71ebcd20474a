//! What figures of maps show, kept beside the scores: a few images with their masks and maps, and the curves over all pixels.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use serde_json::{Value, json};

use crate::{
    Result,
    config::{Figure, Method},
    metrics::pixel::Curves,
    nn::weights,
    run::{
        execute::Runner,
        pixels,
        plan::{short_hash, to_json},
        scoring::Scored,
        subject::Subject,
        view,
    },
};

/// Changes when what is stored changes its meaning.
const VERSION: u32 = 1;

/// The share of the normal test images' pixels that the threshold of predictions accepts. Ours: that of `predict`, whose images are
/// held out of the train images. These are test images, so the prediction is to be looked at, and no number.
pub const ACCEPTED: f64 = 0.995;

/// An image with its mask and its map.
#[derive(Debug, Clone, PartialEq)]
pub struct Example {
    /// Its set and its file.
    pub label: String,
    /// Channels, rows, columns.
    pub shape: [usize; 3],
    /// C·H·W.
    pub image: Vec<u8>,
    /// H·W, 1 where it is anomalous; all 0 of a normal image, or if it is not known.
    pub mask: Vec<u8>,
    /// H·W.
    pub map: Vec<f32>,
}

/// What is stored of a method and a category.
#[derive(Debug, Clone, PartialEq)]
pub struct MapView {
    /// A normal image, then anomalous ones.
    pub examples: Vec<Example>,
    /// The median of the normal test images' pixels, and the largest value of the examples' maps.
    pub range: (f64, f64),
    /// The value that [`ACCEPTED`] of the normal test images' pixels do not exceed.
    pub threshold: f64,
    /// Over all pixels; `None` without masks.
    pub curves: Option<Curves>,
}

/// The images that a figure shows, if it shows maps of this method.
fn images(figure: &Figure, method: &str) -> Option<usize> {
    let named = |methods: &[String]| methods.iter().any(|name| name == method);
    match figure {
        Figure::Maps(figure) if named(&figure.methods) => Some(figure.images),
        Figure::PixelCurves(figure) if named(&figure.methods) => Some(0),
        _ => None,
    }
}

/// Where the view of so many images lies beside the scores of a detector. `sets` are their names and what tells their
/// images and masks from others ([`Results::mapped`](super::results::Results::mapped)).
pub fn path<'a>(
    scores: &Path,
    images: usize,
    detector: Option<&Value>,
    sets: impl Iterator<Item = (&'a str, String)>,
) -> PathBuf {
    let hash = short_hash(&json!([VERSION, images, detector, sets.collect::<Vec<_>>()]));
    scores.join(format!("maps-{hash}.safetensors"))
}

impl Runner<'_> {
    /// Stores what the figures show of a method's maps, unless it is stored.
    pub(super) fn map_views(
        &self,
        method: &Method,
        subject: &Subject<'_>,
        figures: &[Figure],
        scored: &Scored,
    ) -> Result<()> {
        let Some(post) = method.detector.post() else { return Ok(()) };
        let detector = to_json(&method.detector)?;
        for count in figures.iter().filter_map(|figure| images(figure, &method.name)) {
            let sets = subject.reported();
            let contents = sets.iter().map(|set| (set.images.name.as_str(), set.content()));
            let path = path(&scored.folder, count, Some(&detector), contents);
            if path.exists() {
                continue;
            }
            let size = [sets[0].images.height, sets[0].images.width];
            let full = |set: usize, image: usize| {
                let maps = scored.scores[set].maps()?;
                Some(post.full(maps.map(image), maps.grid(), size))
            };
            let mut normal: Vec<f32> = (0..sets[0].images.len()).filter_map(|image| full(0, image)).flatten().collect();
            if normal.is_empty() {
                continue;
            }
            normal.sort_unstable_by(f32::total_cmp);
            let at = |share: f64| normal[((share * normal.len() as f64).ceil() as usize).clamp(1, normal.len()) - 1];
            let (low, threshold) = (at(0.5), at(ACCEPTED));
            let most = sets.iter().skip(1).map(|set| set.images.len()).max().unwrap_or(0);
            let in_turn = (0..most).flat_map(|image| (1..sets.len()).map(move |set| (set, image)));
            let in_turn = in_turn.filter(|(set, image)| *image < sets[*set].images.len()).take(count);
            let chosen: Vec<(usize, usize)> = std::iter::once((0, 0)).chain(in_turn).collect();
            let (mut shown, mut masks, mut maps, mut labels) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
            for &(set, image) in &chosen {
                let images = &sets[set].images;
                shown.extend_from_slice(&images.image(image)?);
                let mask = images.masks.as_ref().and_then(|masks| masks.image(image));
                masks.extend(mask.unwrap_or_else(|| vec![0; size[0] * size[1]]));
                maps.extend(full(set, image).unwrap_or_default());
                let file = images.files.as_ref().and_then(|files| files[image].rsplit('/').next());
                let name = if set == 0 { "normal" } else { &images.name };
                labels.push(format!("{name} {}", file.map_or_else(|| image.to_string(), str::to_owned)));
            }
            let high = maps.iter().copied().fold(low, f32::max);
            let high = if high > low { high } else { low + 1.0 };
            let [count, rows, columns] = [chosen.len(), size[0], size[1]];
            let cpu = &Device::Cpu;
            let mut tensors = BTreeMap::from([
                ("images".to_owned(), Tensor::from_vec(shown, (count, sets[0].images.channels, rows, columns), cpu)?),
                ("masks".to_owned(), Tensor::from_vec(masks, (count, rows, columns), cpu)?),
                ("maps".to_owned(), Tensor::from_vec(maps, (count, rows, columns), cpu)?),
                ("values".to_owned(), Tensor::from_vec(vec![low, high, threshold], 3, cpu)?),
            ]);
            let pairs: Vec<_> = sets.iter().map(|set| &**set).zip(&scored.scores).collect();
            let pixels = pixels::gathered(&pairs, Some(post))?;
            if let Some(curves) = pixels.and_then(|mut pixels| pixels.curves()) {
                for (name, curve) in [("roc", curves.roc), ("pro", curves.pro)] {
                    tensors.insert(name.to_owned(), Tensor::from_vec(curve.concat(), (curve.len(), 2), cpu)?);
                }
            }
            let metadata = BTreeMap::from([("labels".to_owned(), json!(labels).to_string())]);
            weights::write(&path, &tensors, &metadata)?;
        }
        Ok(())
    }
}

/// Reads what a run stored.
///
/// # Errors
/// [`Error::Input`] if there is no such file, or it is something else.
pub fn read(path: &Path) -> Result<MapView> {
    view::File::read(path.to_path_buf())?.parsed(parsed)
}

fn parsed(tensors: &BTreeMap<String, Tensor>, metadata: &BTreeMap<String, String>) -> Option<MapView> {
    let of = |name: &str, dtype: DType| tensors.get(name).filter(|tensor| tensor.dtype() == dtype);
    let (images, masks, maps) = (of("images", DType::U8)?, of("masks", DType::U8)?, of("maps", DType::F32)?);
    let (count, channels, rows, columns) = images.dims4().ok()?;
    let labels: Vec<String> = serde_json::from_str(metadata.get("labels")?).ok()?;
    let sizes = [count, rows, columns];
    if masks.dims() != sizes || maps.dims() != sizes || labels.len() != count || ![1, 3].contains(&channels) {
        return None;
    }
    let examples = labels.into_iter().enumerate().map(|(at, label)| {
        Some(Example {
            label,
            shape: [channels, rows, columns],
            image: images.get(at).ok()?.flatten_all().ok()?.to_vec1().ok()?,
            mask: masks.get(at).ok()?.flatten_all().ok()?.to_vec1().ok()?,
            map: maps.get(at).ok()?.flatten_all().ok()?.to_vec1().ok()?,
        })
    });
    let [low, high, threshold] = of("values", DType::F32)?.to_vec1::<f32>().ok()?[..] else { return None };
    let curve = |name: &str| -> Option<Vec<[f64; 2]>> {
        let points = of(name, DType::F64)?.to_vec2::<f64>().ok()?;
        points.into_iter().map(|point| point.try_into().ok()).collect()
    };
    let curves = curve("roc").zip(curve("pro")).map(|(roc, pro)| Curves { roc, pro });
    let examples = examples.collect::<Option<_>>()?;
    let range = (f64::from(low), f64::from(high));
    (low < high).then_some(MapView { examples, range, threshold: f64::from(threshold), curves })
}
