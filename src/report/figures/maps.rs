//! Heat maps over images, beside the true masks and what a threshold makes of the maps.
//!
//! Everything is brought to the size that it is shown at first, so that contours are one pixel wide whatever the image's size.

use std::path::Path;

use image::{ImageBuffer, Luma, Rgb, RgbImage, imageops};

use crate::{
    Error, Result,
    config::MapsFigure,
    data::painted,
    detectors::map::{ImageScore, Post},
    report::figures::{
        gallery::{Gallery, Line, Scale, VIRIDIS},
        method,
        overlay::{heat, outline},
        title,
    },
    run::{
        map_view::{self, ACCEPTED, Example, MapView},
        results::{Mapped, Results},
    },
};

/// Side of an image as shown, of its longer side.
pub const CELL: i32 = 128;
/// How much of the prediction's colour covers the image. Ours: the image can still be seen.
const FILL: f64 = 0.6;
/// Okabe & Ito's orange, around what is anomalous in truth.
pub const TRUTH: [u8; 3] = [230, 159, 0];
const TRUE: &str = "orange: true contour";
/// Their sky blue, on what is predicted.
const PREDICTED: [u8; 3] = [86, 180, 233];

/// Maps are smooth already.
const UNSMOOTHED: Post = Post { smooth: 0.0, score: ImageScore::Max, enlarge: None };

/// A gallery for each task, by its name; reads what was stored beside the scores.
pub fn galleries(figure: &MapsFigure, results: &Results, runs_root: &Path) -> Result<Vec<(String, Gallery)>> {
    let mut galleries = Vec::new();
    for task in results.mapped() {
        let of = |name: &String| {
            let view = view(name, "maps", figure.images, &task, results, runs_root)?;
            Ok((name.clone(), view))
        };
        let methods = figure.methods.iter().map(of).collect::<Result<Vec<_>>>()?;
        let note = task.note.map(|note| format!(" · {note}")).unwrap_or_default();
        let subtitle = format!("{}{note} · first images of each kind", title(results));
        let title = format!("{}: heat maps", task.name);
        galleries.push((task.name.to_owned(), gallery(title, subtitle, &methods, figure.predictions)));
    }
    Ok(galleries)
}

/// What was stored of a method's maps of one task, of the first seed.
pub fn view(
    name: &str,
    figure: &str,
    images: usize,
    task: &Mapped<'_>,
    results: &Results,
    runs_root: &Path,
) -> Result<MapView> {
    let variant = method(results, figure, name)?;
    // Where categories are swept, another cell has it.
    let cells = std::iter::once(variant.cell).chain(&results.cells);
    let mut firsts = cells.filter_map(|cell| cell.seeds.first());
    let found = firsts.find_map(|seed| seed.tasks.get(task.name)?.methods.get(name));
    let folder = found.and_then(|found| Some((found, found.scores.values().next()?.parent()?)));
    let Some((found, folder)) = folder else {
        return Err(Error::input(format!("the results name no scores of {name} on {}", task.name))
            .hint("run the experiment again"));
    };
    let path = map_view::path(&runs_root.join(folder), images, found.detector.as_ref(), task.sets.iter().cloned());
    map_view::read(&path)
}

/// A line for each image: the image, its mask's contour, and for each method, by its name, the heat map and perhaps the prediction.
pub fn gallery(title: String, subtitle: String, methods: &[(String, MapView)], predictions: bool) -> Gallery {
    let scale = |(name, view): &(String, MapView)| Scale { label: name.clone(), range: view.range, stops: VIRIDIS };
    let scales: Vec<Scale> = methods.iter().map(scale).collect();
    let of_method = |(name, _): &(String, MapView)| {
        std::iter::once(name.clone()).chain(predictions.then(|| "prediction".to_owned()))
    };
    let views: Vec<&MapView> = methods.iter().map(|(_, view)| view).collect();
    let examples = views.first().map_or(&[][..], |view| &view.examples);
    Gallery {
        title,
        subtitle: match predictions {
            true => format!("{subtitle} · {TRUE} · blue: above {} % of the normal test pixels", 100.0 * ACCEPTED),
            false => format!("{subtitle} · {TRUE}"),
        },
        headings: ["image", "truth"].map(str::to_owned).into_iter().chain(methods.iter().flat_map(of_method)).collect(),
        lines: (0..examples.len())
            .map(|at| Line { label: examples[at].label.clone(), groups: vec![cells(at, &views, &scales, predictions)] })
            .collect(),
        scales,
        cell: CELL,
    }
}

/// Of the example at this position, which all methods share.
fn cells(at: usize, views: &[&MapView], scales: &[Scale], predictions: bool) -> Vec<RgbImage> {
    let example = &views[0].examples[at];
    let [_, rows, columns] = example.shape;
    let (width, height) = shown_size(rows, columns);
    let image =
        imageops::resize(&painted(&example.image, example.shape), width, height, imageops::FilterType::Triangle);
    let mask = ImageBuffer::<Luma<u8>, _>::from_fn(columns as u32, rows as u32, |x, y| {
        Luma([example.mask[y as usize * columns + x as usize]])
    });
    let mask = imageops::resize(&mask, width, height, imageops::FilterType::Nearest);
    let mask: Vec<bool> = mask.pixels().map(|pixel| pixel.0[0] != 0).collect();
    let over = |paint: &dyn Fn(u32, u32, [u8; 3]) -> [u8; 3]| {
        let mut painted = RgbImage::from_fn(width, height, |x, y| Rgb(paint(x, y, image.get_pixel(x, y).0)));
        outline(&mut painted, &mask, TRUTH);
        painted
    };
    let mut cells = vec![image.clone(), over(&|_, _, pixel| pixel)];
    for (view, scale) in views.iter().zip(scales) {
        let Some(Example { map, .. }) = view.examples.get(at) else { continue };
        let map = UNSMOOTHED.full(map, [rows, columns], [height as usize, width as usize]);
        let value = |x: u32, y: u32| f64::from(map[(y * width + x) as usize]);
        cells.push(heat(&image, &map, scale));
        if predictions {
            cells.push(over(&|x, y, pixel| match value(x, y) > view.threshold {
                true => mixed(pixel, PREDICTED, FILL),
                false => pixel,
            }));
        }
    }
    cells
}

/// Columns and rows at which an image is shown: its longer side fills the cell.
pub fn shown_size(rows: usize, columns: usize) -> (u32, u32) {
    let longest = rows.max(columns).max(1);
    let side = |length: usize| ((length * CELL as usize) as f64 / longest as f64).round().max(1.0) as u32;
    (side(columns), side(rows))
}

fn mixed(under: [u8; 3], over: [u8; 3], share: f64) -> [u8; 3] {
    std::array::from_fn(|part| {
        let (under, over) = (f64::from(under[part]), f64::from(over[part]));
        (under + (over - under) * share).round() as u8
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::figures::{canvas, gallery::Laid};

    /// A grey ramp of 64 × 32 with a square of anomalous pixels, which one method finds and the other misses.
    fn example() -> Vec<(String, MapView)> {
        let (rows, columns) = (32, 64);
        let of = |value: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
            (0..rows * columns).map(|at| value(at / columns, at % columns)).collect()
        };
        let inside = |row: usize, column: usize| (8..24).contains(&row) && (40..56).contains(&column);
        let method = |name: &str, map: Vec<f32>| {
            let anomalous = Example {
                label: "square 000.png".into(),
                shape: [1, rows, columns],
                image: (0..rows * columns).map(|at| (at % columns * 3) as u8).collect(),
                mask: (0..rows * columns).map(|at| u8::from(inside(at / columns, at % columns))).collect(),
                map,
            };
            let normal = Example {
                label: "good 000.png".into(),
                mask: vec![0; rows * columns],
                map: vec![0.0; rows * columns],
                ..anomalous.clone()
            };
            let view = MapView { examples: vec![anomalous, normal], range: (0.0, 2.0), threshold: 0.5, curves: None };
            (name.to_owned(), view)
        };
        vec![
            method("finds", of(&|row, column| if inside(row, column) { 2.0 } else { 0.0 })),
            method("misses", of(&|row, _| if row < 8 { 1.0 } else { 0.0 })),
        ]
    }

    #[test]
    fn a_line_shows_image_contour_heat_and_prediction() {
        let gallery = gallery("title".into(), "sub".into(), &example(), true);
        assert_eq!(gallery.headings, ["image", "truth", "finds", "prediction", "misses", "prediction"]);
        let [anomalous, normal] = [0, 1].map(|line| &gallery.lines[line].groups[0]);
        // Shown twice as large: the square's corner is at column 80, row 16.
        assert!(anomalous.iter().all(|cell| cell.dimensions() == (128, 64)));
        let at = |cell: usize, x, y| anomalous[cell].get_pixel(x, y).0;
        assert_eq!([at(1, 80, 16), at(1, 111, 47)], [TRUTH; 2]);
        assert_eq!(at(1, 95, 30), at(0, 95, 30), "inside the contour is the image");
        assert_eq!(at(1, 79, 16), at(0, 79, 16));
        let under = |colour| mixed(at(0, 95, 30), colour, 0.5);
        assert_eq!([at(2, 95, 30), at(4, 95, 30)], [under(VIRIDIS[10]), under(VIRIDIS[0])]);
        let filled = mixed(at(0, 95, 30), PREDICTED, FILL);
        assert_eq!([at(3, 95, 30), at(5, 95, 30)], [filled, at(0, 95, 30)]);
        assert_eq!(at(5, 10, 4), mixed(at(0, 10, 4), PREDICTED, FILL));
        assert_eq!(normal[1], normal[0], "a normal image has no contour");
        let heats = super::gallery("title".into(), "sub".into(), &example(), false);
        assert_eq!(heats.headings, ["image", "truth", "finds", "misses"]);
        assert_eq!(heats.lines[0].groups[0], [0, 1, 2, 4].map(|cell| anomalous[cell].clone()));
        let png = canvas::png(&Laid::of(&gallery).unwrap()).unwrap();
        let drawn = image::load_from_memory(&png).unwrap();
        assert!(drawn.width() > 12 * 128 && drawn.height() > 4 * 128, "{}×{}", drawn.width(), drawn.height());
    }

    #[test]
    fn sides_keep_their_proportion() {
        assert_eq!(shown_size(256, 256), (128, 128));
        assert_eq!(shown_size(32, 64), (128, 64));
        assert_eq!(shown_size(1000, 1), (1, 128));
    }
}
