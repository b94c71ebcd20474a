//! Maps of a task's test images against their masks.

use rayon::prelude::*;

use crate::{
    Result,
    data::Masks,
    detectors::{Scores, map::Post},
    metrics::{Measure, Measures, measures, pixel::Pixels},
    run::sets::LoadedSet,
};

/// Images whose maps are held at the size of the images at a time.
const TOGETHER: usize = 64;

/// Sets and their scores, of which the first holds normal images.
pub(super) type Scored<'a> = &'a [(&'a LoadedSet, &'a Scores)];

/// The pixel measures of all sets together; none without masks or maps.
///
/// # Errors
/// Scores that are not finite.
pub(super) fn of_sets(sets: Scored<'_>, post: Option<Post>, more: &[Measure]) -> Result<Measures> {
    let pixels = gathered(sets, post)?;
    Ok(pixels.map_or_else(Measures::new, |mut pixels| measures::of_pixels(&mut pixels, more)))
}

/// The pixels of the normal images and of the anomalous ones that have masks; `None` without masks or maps.
///
/// # Errors
/// Scores that are not finite.
pub(super) fn gathered(sets: Scored<'_>, post: Option<Post>) -> Result<Option<Pixels>> {
    let (Some(post), true) = (post, sets.iter().skip(1).any(|(set, _)| set.images.masks.is_some())) else {
        return Ok(None);
    };
    // Normal images need no masks.
    let measured = sets.iter().enumerate().filter(|(place, (set, _))| *place == 0 || set.images.masks.is_some());
    let count = measured.clone().map(|(_, (set, _))| set.images.len() * set.images.height * set.images.width);
    let mut pixels = Pixels::with_capacity(count.sum());
    for (_, (set, scores)) in measured {
        let size = [set.images.height, set.images.width];
        let normal = Masks::normal(size, set.images.len());
        let masks = set.images.masks.as_ref().unwrap_or(&normal);
        let Some(maps) = scores.maps() else { return Ok(None) };
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
