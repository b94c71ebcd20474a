//! The test images of an experiment as they were scored, where they are still there.

use std::path::Path;

use crate::{
    config::Data,
    data::{self, Dataset, ImageSet, Split},
    run::{plan::Plan, results::Results},
};

/// Test images of a set that are looked at. Ours: more would take longer than a page may.
const MOST_IMAGES: usize = 20_000;
/// Bytes of a set's decoded images.
const MOST_BYTES: u64 = 256 << 20;

/// The test images of a task's set below the data root: what is there, is read quickly and is what was scored, by its digest.
pub fn images(plan: &Plan, results: &Results, data_root: &Path, task: &str, set: &str) -> Option<ImageSet> {
    let (sha256, count) = match results.datasets.get(task) {
        Some(record) if results.has_categories() => {
            let kind = record.kinds.get(set)?;
            (&kind.sha256, kind.images)
        }
        _ => {
            let record = results.datasets.get(set)?;
            (&record.sha256, record.test)
        }
    };
    if count > MOST_IMAGES {
        return None;
    }
    let mut tasks = plan.cells.iter().flat_map(|cell| &cell.tasks);
    let data = &tasks.find(|known| known.name() == task)?.experiment.data;
    let described = described(data, set)?;
    let read = |shape| {
        let images = data::load_as(&described, Split::Test, data_root, shape, Some(MOST_BYTES)).ok()?;
        // Others are decoded each time, which takes as long as it takes.
        images.pixels.held().is_some().then_some(images)
    };
    let is_scored = |images: &ImageSet| images.len() == count && images.sha256().is_ok_and(|known| known == *sha256);
    // At the shape that networks are fed: that of the files, or that of the ID set.
    read(None).filter(is_scored).or_else(|| read(Some(data::shape(&data.id)?)).filter(is_scored))
}

/// The description of a set, read as the ID set is; none of images that an attack changed.
fn described(data: &Data, set: &str) -> Option<Dataset> {
    let id = &data.id;
    let ood = data.ood_sets();
    let found = std::iter::once(id).chain(&ood).find(|known| known.name == set).cloned()?;
    let described = Dataset { resize: id.resize, crop: id.crop, brightness: id.brightness, ..found };
    described.attack.is_none().then_some(described)
}
