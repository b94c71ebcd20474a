//! Control rows: trivial statistics of images, measured as a method is. A method's number means little where one of them reaches it.
//!
//! Each statistic gives two rows. The first scores an image by how far its statistic lies from the median of the train images, in
//! units of their median absolute deviation: it knows no more than a method does. The second takes the side that tells each set better,
//! large or small, which it learns of the test images: it bounds what the statistic can tell. A last row scores an image by how far its
//! pixels are from the mean train image: what makes images again should see more.

use std::sync::Arc;

use indexmap::IndexMap;
use rayon::prelude::*;

use crate::{
    Result,
    config::{ALL_KINDS, Experiment},
    data::{self, Dataset, ImageSet},
    metrics::measures,
    run::{
        evaluation::{Grading, asked_for},
        execute::Runner,
        results::MethodResult,
        sets::LoadedSet,
    },
};

impl Runner<'_> {
    /// The control rows of a task, by name.
    ///
    /// # Errors
    /// Those of reading the images, the train images among them.
    pub(super) fn controls(
        &mut self,
        experiment: &Experiment,
        sets: &[Arc<LoadedSet>],
        seed: u64,
    ) -> Result<IndexMap<String, MethodResult>> {
        let data = &experiment.data;
        let train = self.train_images(&data.id)?;
        let root = &self.context.data;
        let of = |(set, dataset): (&LoadedSet, &Dataset)| {
            Statistics::of(&set.images, data::file_sizes(dataset, &set.images, root))
        };
        let (id, ood) = (&data.id, data.ood_sets());
        let mut learned = of((&train, id))?;
        let mean_image = mean_image(&train.images)?;
        // A distance is scored as it is: nothing of the train images is needed but their mean.
        learned.0.push((MEAN_IMAGE, Vec::new()));
        let of = |(set, dataset): (&LoadedSet, &Dataset)| of((set, dataset))?.and_distances(&set.images, &mean_image);
        let described = sets.iter().map(|set| &**set).zip([id].into_iter().chain(&ood).chain(&data.shifted));
        let tested = described.map(of).collect::<Result<Vec<_>>>()?;
        let (redraw, more) = (experiment.redraw(), asked_for(experiment));
        let intervals = experiment.tables.iter().any(|table| table.intervals);
        let grading = Grading { seed, redraw: redraw.as_ref(), more: &more, intervals };
        let mut rows: IndexMap<String, MethodResult> = IndexMap::new();
        for (name, train) in &learned.0 {
            let values =
                |set: &Statistics| set.0.iter().find(|(known, _)| known == name).map(|(_, values)| values.clone());
            // Only where all sets have files are there sizes to compare.
            let Some(values) = tested.iter().map(values).collect::<Option<Vec<_>>>() else { continue };
            let (reported, shifted) = values.split_at(1 + ood.len());
            let [normal, others @ ..] = reported else { continue };
            let row = Row { name, train, normal };
            // Covariate-shifted images count as ID.
            let spectrum = (!shifted.is_empty()).then(|| [&normal[..], &shifted.concat()].concat());
            let spectrum = spectrum.as_ref().map(|normal| Row { normal, ..row });
            let names = sets.iter().skip(1).map(|set| set.images.name.as_str());
            let all = self.plan.experiment.data.has_categories().then(|| (ALL_KINDS, others.concat()));
            for (set, values) in names.zip(others.iter().cloned()).chain(all) {
                let grade = |(name, [normal, scores]): (String, [Vec<f32>; 2])| {
                    Ok((name, grading.set(set, &normal, &scores, None)?))
                };
                let mut graded = row.scores(&values).into_iter().map(grade).collect::<Result<Vec<_>>>()?;
                // The better side may be another one there.
                for ((_, graded), (_, [normal, scores])) in
                    graded.iter_mut().zip(spectrum.iter().flat_map(|row| row.scores(&values)))
                {
                    graded.full_spectrum = Some(measures::of_scores_and(&normal, &scores, &more)?);
                }
                for (name, graded) in graded {
                    rows.entry(name).or_insert_with(MethodResult::control).sets.insert(set.to_owned(), graded);
                }
            }
        }
        Ok(rows)
    }
}

/// What is added to the name of a row that takes the better side.
const BETTER_SIDE: &str = " (better side)";

/// The row of distances from the mean train image.
pub(crate) const MEAN_IMAGE: &str = "Mean image";

/// The mean of each value (C, H, W) of the images, 0..255; sums are of whole numbers, so that their order changes nothing.
fn mean_image(images: &ImageSet) -> Result<Vec<f64>> {
    let add = |mut sums: Vec<u64>, image: usize| -> Result<Vec<u64>> {
        sums.iter_mut().zip(images.image(image)?.iter()).for_each(|(sum, value)| *sum += u64::from(*value));
        Ok(sums)
    };
    let none = || vec![0; images.image_len()];
    let both = |one: Vec<u64>, other: Vec<u64>| -> Result<Vec<u64>> {
        Ok(one.into_iter().zip(other).map(|(a, b)| a + b).collect())
    };
    let sums = (0..images.len()).into_par_iter().try_fold(none, add).try_reduce(none, both)?;
    Ok(sums.into_iter().map(|sum| sum as f64 / images.len().max(1) as f64).collect())
}

/// The statistics, by name, each of every image of one set.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statistics(pub(super) Vec<(&'static str, Vec<f64>)>);

impl Statistics {
    /// Of images as the network is fed them, before they are normalised, and of the `bytes` of their files, if they have files.
    ///
    /// # Errors
    /// Those of reading the images.
    pub(super) fn of(images: &ImageSet, bytes: Option<Vec<u64>>) -> Result<Self> {
        let each = (0..images.len()).into_par_iter().map(|image| {
            let grey = grey(&images.image(image)?, images.channels);
            Ok([mean(&grey), deviation(&grey), sharpness(&grey, images.height, images.width)])
        });
        let each: Vec<[f64; 3]> = each.collect::<Result<_>>()?;
        let column = |at: usize| each.iter().map(|values| values[at]).collect();
        let mut all = vec![("Mean grey", column(0)), ("Contrast", column(1)), ("Sharpness", column(2))];
        all.extend(bytes.map(|bytes| ("File size", bytes.into_iter().map(|bytes| bytes as f64).collect())));
        Ok(Self(all))
    }

    /// The same and, of each image, the mean over its values of (value − that of the mean image)².
    fn and_distances(mut self, images: &ImageSet, mean: &[f64]) -> Result<Self> {
        let distance = |image: usize| -> Result<f64> {
            let image = images.image(image)?;
            let squares = image.iter().zip(mean).map(|(value, mean)| (f64::from(*value) - mean).powi(2));
            Ok(squares.sum::<f64>() / mean.len().max(1) as f64)
        };
        self.0.push((MEAN_IMAGE, (0..images.len()).into_par_iter().map(distance).collect::<Result<_>>()?));
        Ok(self)
    }
}

/// A statistic of the train images, the normal test images and the images of other sets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) name: &'static str,
    pub(super) train: &'a [f64],
    pub(super) normal: &'a [f64],
}

impl Row<'_> {
    /// The names of its two rows, and for each the scores of the normal images and of `others`; larger means more anomalous. A distance
    /// from the mean image has one row, of itself.
    pub(super) fn scores(&self, others: &[f64]) -> Vec<(String, [Vec<f32>; 2])> {
        if self.name == MEAN_IMAGE {
            let plain = [self.normal, others].map(|values| values.iter().map(|value| *value as f32).collect());
            return vec![(self.name.to_owned(), plain)];
        }
        let (centre, spread) = robust(self.train);
        let far = |values: &[f64]| values.iter().map(|value| ((value - centre).abs() / spread) as f32).collect();
        let larger =
            others.iter().flat_map(|other| self.normal.iter().map(move |normal| other.total_cmp(normal) as i64));
        let sign = if larger.sum::<i64>() < 0 { -1.0 } else { 1.0 };
        let signed = |values: &[f64]| values.iter().map(|value| (sign * value) as f32).collect();
        vec![
            (self.name.to_owned(), [far(self.normal), far(others)]),
            (format!("{}{BETTER_SIDE}", self.name), [signed(self.normal), signed(others)]),
        ]
    }
}

/// The median and the median absolute deviation from it; 1 for a deviation of 0, which changes no order.
fn robust(values: &[f64]) -> (f64, f64) {
    let centre = median(values.to_vec());
    let spread = median(values.iter().map(|value| (value - centre).abs()).collect());
    (centre, if spread > 0.0 { spread } else { 1.0 })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count => f64::midpoint(values[(count - 1) / 2], values[count / 2]),
    }
}

/// Luma in 0..255 of an image (C, H, W).
fn grey(image: &[u8], channels: usize) -> Vec<f64> {
    if channels != 3 {
        return image.iter().map(|byte| f64::from(*byte)).collect();
    }
    let (red, rest) = image.split_at(image.len() / 3);
    let (green, blue) = rest.split_at(rest.len() / 2);
    let luma = |((red, green), blue): ((&u8, &u8), &u8)| {
        0.299 * f64::from(*red) + 0.587 * f64::from(*green) + 0.114 * f64::from(*blue)
    };
    red.iter().zip(green).zip(blue).map(luma).collect()
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    (values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len().max(1) as f64).sqrt()
}

/// The variance of the Laplacian, 4 neighbours less 4 times the pixel, away from the border; 0 of an image without an inside.
fn sharpness(grey: &[f64], rows: usize, columns: usize) -> f64 {
    let inside =
        (1..rows.saturating_sub(1)).flat_map(|row| (1..columns.saturating_sub(1)).map(move |at| row * columns + at));
    let laplacian = |at: usize| grey[at - 1] + grey[at + 1] + grey[at - columns] + grey[at + columns] - 4.0 * grey[at];
    deviation(&inside.map(laplacian).collect::<Vec<_>>()).powi(2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        data::{ImageSet, Split},
        metrics::Ranking,
    };

    #[test]
    fn statistics_are_those_of_the_luma() {
        let images = ImageSet::unlabelled(
            "two",
            Split::Test,
            [1, 3, 3],
            vec![0, 0, 0, 0, 90, 0, 0, 0, 0, 10, 10, 10, 10, 10, 10, 10, 10, 10],
        );
        let Statistics(all) = Statistics::of(&images, Some(vec![70, 80])).unwrap();
        assert_eq!(all[0], ("Mean grey", vec![10.0, 10.0]));
        // 8 of −10 and one of 80: √(8·100 + 6400)/3.
        assert!((all[1].1[0] - 800.0_f64.sqrt()).abs() < 1e-12 && all[1].1[1] == 0.0);
        assert_eq!(all[3], ("File size", vec![70.0, 80.0]));
        assert_eq!(grey(&[100, 50, 200], 3), [0.299 * 100.0 + 0.587 * 50.0 + 0.114 * 200.0]);
        // numpy: scipy.ndimage.laplace(image)[1:-1, 1:-1].var() of a ramp of squares.
        let squares: Vec<f64> = (0..16).map(|at| f64::from(at * at)).collect();
        assert_eq!(sharpness(&squares, 4, 4), 0.0);
        let mut spike = vec![0.0; 16];
        spike[5] = 4.0;
        // −16, 4, 4, 0.
        assert_eq!(sharpness(&spike, 4, 4), 68.0);
        assert_eq!(sharpness(&[1.0, 2.0], 1, 2), 0.0);
    }

    #[test]
    fn a_row_scores_by_distance_from_the_train_images_and_by_the_better_side() {
        let row = Row { name: "Mean grey", train: &[10.0, 12.0, 14.0, 16.0, 18.0], normal: &[13.0, 20.0] };
        // Median 14, deviations 4 2 0 2 4.
        let [(name, [normal, others]), (better, [up, down])] = &row.scores(&[4.0, 13.0])[..] else {
            panic!("two rows")
        };
        assert_eq!((name.as_str(), better.as_str()), ("Mean grey", "Mean grey (better side)"));
        assert_eq!((normal, others), (&vec![0.5, 3.0], &vec![5.0, 0.5]));
        // The others are darker.
        assert_eq!((up, down), (&vec![-13.0, -20.0], &vec![-4.0, -13.0]));
        // Of one value, distances are those of the statistic itself.
        let row = Row { train: &[7.0; 3], ..row };
        assert_eq!(row.scores(&[9.0])[0].1[1], [2.0]);
    }

    #[test]
    fn distances_from_the_mean_image_are_scores_themselves() {
        let set = |pixels: &[u8]| ImageSet::unlabelled("some", Split::Train, [1, 1, 2], pixels.to_vec());
        let mean = mean_image(&set(&[10, 0, 20, 255, 30, 0])).unwrap();
        assert_eq!(mean, [20.0, 85.0]);
        let Statistics(all) = Statistics(Vec::new()).and_distances(&set(&[20, 85, 26, 77, 255, 0]), &mean).unwrap();
        // (6² + 8²)/2 and (235² + 85²)/2.
        assert_eq!(all, [(MEAN_IMAGE, vec![0.0, 50.0, 31225.0])]);
        let row = Row { name: MEAN_IMAGE, train: &[], normal: &[1.0, 2.0] };
        assert_eq!(row.scores(&[0.5]), [(MEAN_IMAGE.to_owned(), [vec![1.0, 2.0], vec![0.5]])]);
    }

    /// As the README of `data/embedded` says: its defects were made so.
    #[test]
    fn controls_of_the_embedded_defects_are_neither_blind_nor_enough() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("data/embedded/surfaces");
        let of = |path: String| {
            let (format, channels) = (Some(data::Format::Folder), Some(1));
            let dataset = Dataset { format, channels, path: Some(path.into()), ..Dataset::named("tiles") };
            let images = data::load(&dataset, Split::Test, &folder).unwrap();
            let sizes = data::file_sizes(&dataset, &images, &folder);
            Statistics::of(&images, sizes).unwrap().0
        };
        let mut means: IndexMap<String, f64> = IndexMap::new();
        for category in ["brick", "grass", "gravel"] {
            let [train, normal] = ["train", "test"].map(|part| of(format!("{category}/{part}/good")));
            let kinds = ["dent", "ripple", "scratch", "stain"].map(|kind| of(format!("{category}/test/{kind}")));
            for (at, (name, train)) in train.iter().enumerate() {
                let others: Vec<f64> = kinds.iter().flat_map(|kind| kind[at].1.clone()).collect();
                for (name, [normal, scores]) in (Row { name, train, normal: &normal[at].1 }).scores(&others) {
                    let auroc = Ranking::new(&normal, &scores).unwrap().auroc();
                    assert!((0.45..0.86).contains(&auroc), "{category} {name} {auroc}");
                    *means.entry(name).or_default() += auroc / 3.0;
                }
            }
        }
        assert_eq!(means.len(), 8);
        assert!(means.values().all(|mean| (0.6..0.8).contains(mean)), "{means:?}");
    }
}
