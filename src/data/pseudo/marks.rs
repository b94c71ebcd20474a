//! Which pixels of a pseudo-anomaly are anomalous.

use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize};

use crate::yaml::named::{Empty, string_or_map, string_or_object, variant_by_name};

/// Which pixels are anomalous: `changed`, or `region`.
#[derive(Debug, Clone, PartialEq, Serialize, Validate, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Marks", transform = string_or_object)]
pub enum Marks {
    /// Those of the region that differ from the image that it was made of.
    Changed(#[garde(dive)] Changed),
    /// All of the region that the maker worked on, whether a pixel changed or not.
    Region(#[garde(skip)] Empty),
}

impl Default for Marks {
    fn default() -> Self {
        Self::Changed(Changed::default())
    }
}

/// Settings of `changed`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "ChangedMarks")]
pub struct Changed {
    /// Grey levels: a pixel is anomalous if its channels differ by more on average. NSA's default: 1.
    #[garde(range(min = 0.0, max = 255.0))]
    pub tolerance: f64,
    /// Side of the square, odd, in pixels of the image, that cleans the mask of grain: a pixel of the region is anomalous if most of
    /// the region's pixels in the square about it differ. 1 takes each pixel for itself. NSA's median filter has 5, but counts pixels
    /// outside the region too, which leaves nothing of a line below 3 pixels.
    #[garde(range(min = 1, max = 31), custom(odd))]
    pub median: usize,
}

impl Default for Changed {
    fn default() -> Self {
        Self { tolerance: 1.0, median: 5 }
    }
}

/// Refuses even numbers.
pub(super) fn odd(number: &usize, (): &()) -> garde::Result {
    if number % 2 == 1 { Ok(()) } else { Err(garde::Error::new("must be odd")) }
}

impl<'de> Deserialize<'de> for Marks {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Long {
            Changed(Changed),
            Region(Empty),
        }
        let long = string_or_map(deserializer, "`changed`, `region`, or a map with settings", variant_by_name::<Long>)?;
        Ok(match long {
            Long::Changed(settings) => Self::Changed(settings),
            Long::Region(empty) => Self::Region(empty),
        })
    }
}

impl Marks {
    /// The mask (H, W) of an image made of another (C, H, W) by a change of a region (H, W).
    pub(super) fn mask(
        &self,
        before: &[u8],
        after: &[u8],
        region: Vec<u8>,
        [channels, height, width]: [usize; 3],
    ) -> Vec<u8> {
        let Self::Changed(Changed { tolerance, median }) = self else { return region };
        let pixels = height * width;
        let most = tolerance * channels as f64;
        let changed = |at: usize| {
            let planes = (0..channels).map(|channel| channel * pixels + at);
            planes.map(|at| u32::from(before[at].abs_diff(after[at]))).sum::<u32>()
        };
        let differs = |(at, inside): (usize, &u8)| u8::from(*inside == 1 && f64::from(changed(at)) > most);
        let mut mask: Vec<u8> = region.iter().enumerate().map(differs).collect();
        if *median == 1 {
            return mask;
        }
        // Rows without a pixel of the region count for nothing.
        let row = |at: usize| at / width;
        let first = region.iter().position(|inside| *inside == 1).map_or(0, row) * width;
        let end = region.iter().rposition(|inside| *inside == 1).map_or(0, |at| row(at) + 1) * width;
        let sides = [(end - first) / width, width];
        let most = majority(&mask[first..end], &region[first..end], sides, *median);
        mask[first..end].copy_from_slice(&most);
        mask
    }
}

/// The pixels of `among` of which, in the square of an odd side about them, most pixels of `among` are set; all (H, W), zeros and ones.
/// A median filter of the set where `among` is everything, in which what is beyond the border does not count.
pub(super) fn majority(set: &[u8], among: &[u8], sides: [usize; 2], side: usize) -> Vec<u8> {
    let (set, all) = (square_sums(set, sides, side), square_sums(among, sides, side));
    let sums = set.iter().zip(&all).zip(among);
    sums.map(|((set, all), inside)| u8::from(*inside == 1 && 2 * set > *all)).collect()
}

/// The sum of the square of an odd side about each pixel.
fn square_sums(values: &[u8], [height, width]: [usize; 2], side: usize) -> Vec<u32> {
    let reach = side / 2;
    // Along a line of `length` values, `step` apart: what comes in less what goes out.
    let along = |values: &[u32], start: usize, step: usize, length: usize, sums: &mut [u32]| {
        let at = |place: usize| values[start + place * step];
        let mut sum: u32 = (0..reach.min(length)).map(at).sum();
        for place in 0..length {
            sum += if place + reach < length { at(place + reach) } else { 0 };
            sums[start + place * step] = sum;
            sum -= if place >= reach { at(place - reach) } else { 0 };
        }
    };
    let values: Vec<u32> = values.iter().map(|value| u32::from(*value)).collect();
    let (mut rows, mut squares) = (vec![0; values.len()], vec![0; values.len()]);
    (0..height).for_each(|row| along(&values, row * width, 1, width, &mut rows));
    (0..width).for_each(|column| along(&rows, column, width, height, &mut squares));
    squares
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(yaml: &str) -> Marks {
        serde_saphyr::from_str(yaml).unwrap()
    }

    #[test]
    fn words_and_maps_are_read() {
        assert_eq!(marks("changed"), Marks::default());
        assert_eq!(marks("region"), Marks::Region(Empty {}));
        let given = Marks::Changed(Changed { tolerance: 0.0, median: 3 });
        assert_eq!(marks("changed: { tolerance: 0, median: 3 }"), given);
        assert!(serde_saphyr::from_str::<Marks>("chnged").unwrap_err().to_string().contains("changed"));
        assert!(Marks::Changed(Changed { tolerance: 0.0, median: 4 }).validate().is_err());
        assert!(Marks::Changed(Changed { tolerance: 256.0, median: 1 }).validate().is_err());
    }

    #[test]
    fn a_pixel_is_changed_if_its_channels_differ_by_more_on_average() {
        // Three pixels of three channels: sums of 3, 4 and 255, the last outside the region.
        let before = [10, 10, 10, 10, 10, 10, 10, 10, 0];
        let after = [11, 14, 10, 9, 10, 10, 11, 10, 255];
        let mask = |marks: Marks| marks.mask(&before, &after, vec![1, 1, 0], [3, 1, 3]);
        assert_eq!(mask(marks("changed: { median: 1 }")), [0, 1, 0]);
        assert_eq!(mask(marks("changed: { median: 1, tolerance: 0 }")), [1, 1, 0]);
        assert_eq!(mask(marks("changed: { median: 1, tolerance: 2 }")), [0, 0, 0]);
        assert_eq!(mask(marks("region")), [1, 1, 0]);
    }

    #[test]
    fn grain_goes_and_thin_regions_stay() {
        // A line of one pixel, changed but for two pixels apart: a median filter would leave nothing.
        let region: Vec<u8> = (0..81).map(|at| u8::from(at / 9 == 4)).collect();
        let after: Vec<u8> = (0..81).map(|at| if at / 9 == 4 && at % 4 != 2 { 90 } else { 10 }).collect();
        assert_eq!(Marks::default().mask(&[10; 81], &after, region.clone(), [1, 9, 9]), region);
        // One changed pixel of a large region is grain.
        let one: Vec<u8> = (0..81).map(|at| if at == 40 { 90 } else { 10 }).collect();
        assert!(!Marks::default().mask(&[10; 81], &one, vec![1; 81], [1, 9, 9]).contains(&1));
    }

    #[test]
    fn majorities_are_counted_in_a_square_among_the_region() {
        let (height, width) = (9, 13);
        let set: Vec<u8> = (0..height * width).map(|at| u8::from(at * (at + 7) * 31 % 101 < 50)).collect();
        let everything = vec![1; height * width];
        let some: Vec<u8> = (0..height * width).map(|at| u8::from(at % 5 > 1)).collect();
        for (among, side) in [(&everything, 3), (&everything, 7), (&some, 5), (&some, 31)] {
            let set: Vec<u8> = set.iter().zip(among).map(|(set, inside)| set * inside).collect();
            let counted = |at: usize| {
                let near = |a: usize, b: usize| a.abs_diff(b) <= side / 2;
                let square = (0..height * width).filter(|other| {
                    among[*other] == 1 && near(other / width, at / width) && near(other % width, at % width)
                });
                let (ones, all) = square.fold((0, 0), |(ones, all), other| (ones + usize::from(set[other]), all + 1));
                u8::from(among[at] == 1 && 2 * ones > all)
            };
            let expected: Vec<u8> = (0..height * width).map(counted).collect();
            assert!(side > 9 || (expected.contains(&1) && expected.contains(&0)));
            assert_eq!(majority(&set, among, [height, width], side), expected);
        }
    }
}
