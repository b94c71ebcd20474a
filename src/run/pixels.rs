//! Maps of a task's test images against their masks.

use std::sync::Arc;

use rayon::prelude::*;

use crate::{
    Result,
    detectors::{Scores, map::Post},
    metrics::{Measure, Measures, measures, pixel::Pixels},
    run::sets::LoadedSet,
};

/// Images whose maps are held at the size of the images at a time.
const TOGETHER: usize = 64;

/// The pixel measures of all sets together, of which the first holds normal images; none without masks or maps.
///
/// # Errors
/// Scores that are not finite.
pub(super) fn of_sets(
    sets: &[Arc<LoadedSet>],
    scores: &[Scores],
    post: Option<Post>,
    more: &[Measure],
) -> Result<Measures> {
    let pixels = gathered(sets, scores, post)?;
    Ok(pixels.map_or_else(Measures::new, |mut pixels| measures::of_pixels(&mut pixels, more)))
}

/// The pixels of all sets; `None` without masks or maps.
///
/// # Errors
/// Scores that are not finite.
pub(super) fn gathered(sets: &[Arc<LoadedSet>], scores: &[Scores], post: Option<Post>) -> Result<Option<Pixels>> {
    let Some(post) = post else { return Ok(None) };
    let masks = sets.iter().filter_map(|set| set.images.masks.as_ref().map(|masks| (set, masks)));
    let mut pixels =
        Pixels::with_capacity(masks.map(|(set, masks)| set.images.len() * masks.height * masks.width).sum());
    for (set, scores) in sets.iter().zip(scores) {
        let (Some(masks), Some(maps)) = (&set.images.masks, scores.maps()) else {
            return Ok(None);
        };
        let size = [masks.height, masks.width];
        let places: Vec<usize> = (0..maps.images()).collect();
        for places in places.chunks(TOGETHER) {
            let full: Vec<_> = places
                .par_iter()
                .filter_map(|&image| {
                    let mask = masks.image(image)?.iter().map(|pixel| *pixel != 0).collect::<Vec<bool>>();
                    Some((post.full(maps.map(image), maps.grid(), size), mask))
                })
                .collect();
            for (map, mask) in full {
                pixels.add(&map, Some(&mask), size)?;
            }
        }
    }
    Ok(Some(pixels))
}
