//! Where the object of an image is, so that changes fall on it.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use super::{
    super::augment::below,
    marks::{majority, odd},
};
use crate::{
    rng::Rng,
    yaml::named::{Empty, string_or_map, string_or_object, variant_by_name},
};

/// Where an image may be changed: `none`, anywhere, or on what the `border`'s colour sets apart.
#[derive(Debug, Clone, PartialEq, Serialize, Validate, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Foreground", transform = string_or_object)]
pub enum Foreground {
    /// Anywhere: of textures, and objects that fill the image.
    None(#[garde(skip)] Empty),
    /// On the pixels that differ from the median colour of the image's border.
    Border(#[garde(dive)] Border),
}

impl Default for Foreground {
    fn default() -> Self {
        Self::None(Empty {})
    }
}

/// Settings of `border`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "BorderForeground")]
pub struct Border {
    /// Grey levels: a pixel is of the object if one of its channels differs by more. NSA has 60 for bright backgrounds and 20
    /// for dark ones, and their grey levels as well. Ours: 60, which leaves out shadows.
    #[garde(range(min = 0.0, max = 255.0))]
    pub threshold: f64,
    /// Side of the median filter that cleans the object, odd, in pixels of the image; 1 is none. NSA's: 7.
    #[garde(range(min = 1, max = 31), custom(odd))]
    pub median: usize,
    /// The share of a paste that lies on the object, at least. Twenty places are tried, and where none has so much, the best is taken.
    /// NSA's least overlap: 0.25.
    #[garde(range(min = 0.0, max = 1.0))]
    pub overlap: f64,
}

impl Default for Border {
    fn default() -> Self {
        Self { threshold: 60.0, median: 7, overlap: 0.25 }
    }
}

impl<'de> Deserialize<'de> for Foreground {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Long {
            None(Empty),
            Border(Border),
        }
        let long = string_or_map(deserializer, "`none`, `border`, or a map with settings", variant_by_name::<Long>)?;
        Ok(match long {
            Long::None(empty) => Self::None(empty),
            Long::Border(settings) => Self::Border(settings),
        })
    }
}

/// How many places of a paste are tried. Ours.
const PLACES: usize = 20;

/// The pixels of an object.
#[derive(Debug)]
pub(super) struct Object {
    height: usize,
    width: usize,
    set: Vec<u8>,
    /// The places of those that are set, in rising order; there is one.
    pixels: Vec<u32>,
    overlap: f64,
}

impl Foreground {
    /// The object of an image (C, H, W); `None` if changes may fall anywhere.
    ///
    /// # Errors
    /// What is wrong, if there is no object.
    pub(super) fn object(&self, image: &[u8], [_, height, width]: [usize; 3]) -> Result<Option<Object>, String> {
        let Self::Border(Border { threshold, median, overlap }) = self else { return Ok(None) };
        let mut set = vec![0; height * width];
        for plane in image.chunks_exact(height * width) {
            let background = border_median(plane, height, width);
            for (set, pixel) in set.iter_mut().zip(plane) {
                *set |= u8::from(f64::from(pixel.abs_diff(background)) > *threshold);
            }
        }
        let cleaned = || majority(&set, &vec![1; set.len()], [height, width], *median);
        let set = if *median == 1 { set } else { cleaned() };
        let pixels: Vec<u32> = (0..).zip(&set).filter(|(_, set)| **set == 1).map(|(at, _)| at).collect();
        if pixels.is_empty() {
            return Err(format!("no pixel differs by more than {threshold} from the border's median colour"));
        }
        Ok(Some(Object { height, width, set, pixels, overlap: *overlap }))
    }
}

/// The median of a plane's outermost pixels.
fn border_median(plane: &[u8], height: usize, width: usize) -> u8 {
    let rows = plane.chunks_exact(width);
    let ends = plane[..width].iter().chain(&plane[(height - 1) * width..]);
    let mut border: Vec<u8> = rows.flat_map(|row| [row[0], row[width - 1]]).chain(ends.copied()).collect();
    let middle = border.len() / 2;
    *border.select_nth_unstable(middle).1
}

impl Object {
    /// The places of its pixels, in rising order.
    pub(super) fn pixels(&self) -> &[u32] {
        &self.pixels
    }

    /// Whether a pixel is of it.
    pub(super) fn has(&self, place: usize) -> bool {
        self.set[place] == 1
    }

    /// Where a region is put: about a random pixel of the object, inside the image, so that enough of it lies on the object.
    pub(super) fn place(&self, [rows, columns]: [usize; 2], covers: &[bool], rng: &mut Rng) -> [usize; 2] {
        let mut best = (-1.0, [0, 0]);
        for _ in 0..PLACES {
            let centre = self.pixels[below(self.pixels.len(), rng)] as usize;
            let top = (centre / self.width).saturating_sub(rows / 2).min(self.height - rows);
            let left = (centre % self.width).saturating_sub(columns / 2).min(self.width - columns);
            let share = self.share([top, left], columns, covers);
            if share > best.0 {
                best = (share, [top, left]);
            }
            if share >= self.overlap {
                break;
            }
        }
        best.1
    }

    /// Which share of a region's pixels is the object's.
    fn share(&self, [top, left]: [usize; 2], columns: usize, covers: &[bool]) -> f64 {
        let covered = (0..covers.len()).filter(|place| covers[*place]);
        let (mut on, mut all) = (0, 0);
        for place in covered {
            on += u32::from(self.set[(top + place / columns) * self.width + left + place % columns]);
            all += 1;
        }
        f64::from(on) / f64::from(all.max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::stream;

    /// A grey image of 40×60 with noise of 10 levels, a disc of radius 8 about (20, 30), and a speck.
    fn disc() -> Vec<u8> {
        let level = |at: usize| {
            let (y, x) = ((at / 60) as i32, (at % 60) as i32);
            let inside = (y - 20).pow(2) + (x - 30).pow(2) <= 64;
            if inside || (y, x) == (5, 5) { 90 } else { 200 + (at % 11) as u8 }
        };
        (0..40 * 60).map(level).collect()
    }

    fn object(foreground: &str, image: &[u8], shape: [usize; 3]) -> Option<Object> {
        serde_saphyr::from_str::<Foreground>(foreground).unwrap().object(image, shape).unwrap()
    }

    #[test]
    fn the_object_is_what_differs_from_the_border_without_specks() {
        assert!(object("none", &disc(), [1, 40, 60]).is_none());
        let found = object("border", &disc(), [1, 40, 60]).unwrap();
        let inside = |y: usize, x: usize| found.set[y * 60 + x] == 1;
        assert!(inside(20, 30) && inside(14, 30) && !inside(5, 5) && !inside(0, 0) && !inside(20, 45));
        // A disc of radius 8 has 197 pixels; a median rounds it off.
        assert!((185..200).contains(&found.pixels.len()), "{}", found.pixels.len());
        assert!(object("border: { median: 1 }", &disc(), [1, 40, 60]).unwrap().has(5 * 60 + 5));
        // Of colours, one channel is enough.
        let colours: Vec<u8> = [vec![7; 2400], vec![200; 2400], disc()].concat();
        assert_eq!(object("border", &colours, [3, 40, 60]).unwrap().set, found.set);
        let none = serde_saphyr::from_str::<Foreground>("border: { threshold: 120 }").unwrap();
        let problem = none.object(&disc(), [1, 40, 60]).unwrap_err();
        assert_eq!(problem, "no pixel differs by more than 120 from the border's median colour");
    }

    #[test]
    fn pastes_lie_on_the_object_inside_the_image() {
        let found = object("border: { overlap: 0.6 }", &disc(), [1, 40, 60]).unwrap();
        let covers = vec![true; 10 * 6];
        let mut rng = stream(1, "place", "");
        let mut places = std::collections::BTreeSet::new();
        for _ in 0..500 {
            let place = found.place([10, 6], &covers, &mut rng);
            assert!(found.share(place, 6, &covers) >= 0.6, "{place:?}");
            places.insert(place);
        }
        assert!(places.len() > 80, "{}", places.len());
        // What cannot lie on it so far takes the best place.
        let covers = vec![true; 40 * 60];
        assert_eq!(found.place([40, 60], &covers, &mut rng), [0, 0]);
    }
}
