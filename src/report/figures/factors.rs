//! Feature maps of ID and OOD images, and the log anomaly factors over them (the AFDU paper's figures 5 and 6).
//!
//! Each image stands beside the mean over the layer's channels of its activations and of its log anomaly factors: the second
//! is what a score by log factors is the mean of. One scale holds for all sets.

use std::path::Path;

use candle_core::Tensor;
use image::{Rgb, RgbImage};

use crate::{
    Result,
    config::{FactorsFigure, Figure},
    report::figures::{
        gallery::{CELL, GREYS, Gallery, Line, Scale, VIRIDIS},
        id_set, method,
        scores::view,
        title,
    },
    run::results::Results,
};

/// Groups in a line.
const MOST_IN_LINE: usize = 4;

/// Pixels of a side at most: a larger map or picture is shown as means of squares of pixels.
const MOST_PIXELS: usize = 56;

/// Beyond these quantiles of all pixels, values have the colour of the scale's end, so that one outlier does not hide the rest.
const TAIL: f64 = 0.01;

/// Where the scale of log factors ends, at least and at most: factors of 1.1, so that differences that mean nothing stay dark, and
/// of 55, about where the paper's scale ends. Pixels that the train images never paint have factors of e^80.
const ENDS: [f64; 2] = [0.1, 4.0];

/// The picture; reads what was stored beside the scores.
pub fn gallery(figure: &FactorsFigure, results: &Results, runs_root: &Path) -> Result<Gallery> {
    let variant = method(results, "factors", &figure.method)?;
    let (seed, file) = view(&variant, &Figure::Factors(figure.clone()), results, runs_root)?;
    let sets = file.maps(results.datasets.len())?;
    let scale = |label: &str, range, stops| Scale { label: label.to_owned(), range, stops };
    let all = |of: fn(&crate::run::view::SetMaps) -> &Tensor| -> Result<Vec<f32>> {
        let values = sets.iter().map(|set| Ok(of(set).flatten_all()?.to_vec1()?)).collect::<Result<Vec<Vec<f32>>>>()?;
        Ok(values.concat())
    };
    let (_, highest) = range(all(|set| &set.log_factors)?);
    let activations = scale("activation", range(all(|set| &set.activations)?), GREYS);
    // 0: as dense as its neighbourhood.
    let factors = scale("ln anomaly factor", (0.0, highest.clamp(ENDS[0], ENDS[1])), VIRIDIS);
    let mut lines = Vec::new();
    for (name, set) in results.datasets.keys().zip(&sets) {
        let label = if name == id_set(results)? { format!("{name} (ID)") } else { name.clone() };
        let groups = groups(set, &activations, &factors)?;
        for (index, groups) in groups.chunks(MOST_IN_LINE).enumerate() {
            let label = if index == 0 { label.clone() } else { String::new() };
            lines.push(Line { label, groups: groups.to_vec() });
        }
    }
    Ok(Gallery {
        title: format!("{}: activations and anomaly factors of {}", variant.label(), file.what()),
        subtitle: format!(
            "{} · seed {seed} · {}, means over channels, {} · first images of each set",
            title(results),
            file.what(),
            file.side()
        ),
        headings: ["image", "activations", "ln factors"].map(str::to_owned).into(),
        lines,
        scales: vec![activations, factors],
        cell: CELL,
    })
}

/// A set's images, each beside its maps.
fn groups(set: &crate::run::view::SetMaps, activations: &Scale, factors: &Scale) -> Result<Vec<Vec<RgbImage>>> {
    let images = set.pictures.dims()[0];
    let groups = (0..images).map(|image| {
        let picture = set.pictures.get(image)?.to_dtype(candle_core::DType::F32)?;
        let channels = picture.dims()[0];
        let planes = (0..channels).map(|channel| reduced(&picture.get(channel)?)).collect::<Result<Vec<_>>>()?;
        let plain = painted(&planes[0], |at| {
            Rgb(std::array::from_fn(|part| planes[part.min(channels - 1)].values[at].round() as u8))
        });
        let map = |maps: &Tensor, scale: &Scale| -> Result<RgbImage> {
            let plane = reduced(&maps.get(image)?)?;
            Ok(painted(&plane, |at| Rgb(scale.color(f64::from(plane.values[at])))))
        };
        Ok(vec![plain, map(&set.activations, activations)?, map(&set.log_factors, factors)?])
    });
    groups.collect()
}

/// Numbers in rows.
struct Plane {
    columns: usize,
    values: Vec<f32>,
}

/// Means over squares, as small as they can be with at most [`MOST_PIXELS`] a side; parts of squares are left out.
fn reduced(plane: &Tensor) -> Result<Plane> {
    let (rows, columns) = plane.dims2()?;
    let square = rows.max(columns).div_ceil(MOST_PIXELS).min(rows).min(columns).max(1);
    let values: Vec<f32> = plane.flatten_all()?.to_vec1()?;
    let (high, wide) = (rows / square, columns / square);
    let mean = |row: usize, column: usize| {
        let inside = (0..square * square).map(|at| {
            let (row, column) = (row * square + at / square, column * square + at % square);
            f64::from(values[row * columns + column])
        });
        (inside.sum::<f64>() / (square * square) as f64) as f32
    };
    let values = (0..high).flat_map(|row| (0..wide).map(move |column| (row, column)));
    Ok(Plane { columns: wide, values: values.map(|(row, column)| mean(row, column)).collect() })
}

fn painted(plane: &Plane, color: impl Fn(usize) -> Rgb<u8>) -> RgbImage {
    let rows = plane.values.len() / plane.columns.max(1);
    RgbImage::from_fn(plane.columns as u32, rows as u32, |x, y| color(y as usize * plane.columns + x as usize))
}

/// The finite values without their tails; never empty.
fn range(mut values: Vec<f32>) -> (f64, f64) {
    values.retain(|value| value.is_finite());
    values.sort_unstable_by(f32::total_cmp);
    let last = values.len().saturating_sub(1);
    let tail = (last as f64 * TAIL) as usize;
    match (values.get(tail), values.get(last - tail)) {
        (Some(low), Some(high)) if low < high => (f64::from(*low), f64::from(*high)),
        (Some(only), _) => (f64::from(*only) - 0.5, f64::from(*only) + 0.5),
        _ => (0.0, 1.0),
    }
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn large_maps_are_means_of_squares() {
        let plane = Tensor::arange(0f32, 120.0 * 114.0, &Device::Cpu).unwrap().reshape((120, 114)).unwrap();
        let reduced = reduced(&plane).unwrap();
        // Squares of three.
        assert_eq!((reduced.columns, reduced.values.len()), (38, 38 * 40));
        assert_eq!(reduced.values[0], 115.0);
        assert_eq!(reduced.values[39], 115.0 + 3.0 * 114.0 + 3.0);
    }

    #[test]
    fn a_range_is_never_empty() {
        assert_eq!(range(vec![f32::NAN]), (0.0, 1.0));
        assert_eq!(range(vec![2.0; 9]), (1.5, 2.5));
        assert_eq!(range((0..=200).map(|value| value as f32).collect()), (2.0, 198.0));
    }
}
