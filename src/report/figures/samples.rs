//! Sheets of what a diffusion model makes of noise: a line for each class that it is told, or a few lines without.

use std::path::Path;

use image::{RgbImage, imageops};

use crate::{
    Result,
    config::SamplesFigure,
    data::painted,
    report::figures::{
        gallery::{self, Gallery, Line},
        maps::{CELL, shown_size},
        network, title,
    },
    run::{
        results::{NetworkResult, Results},
        samples_view::{self, Made, SamplesView},
    },
};

/// A gallery for each task, by its name; reads what was stored beside the network.
pub fn galleries(figure: &SamplesFigure, results: &Results, runs_root: &Path) -> Result<Vec<(String, Gallery)>> {
    let name = &figure.network;
    let of = |(task, found): (&str, &NetworkResult)| {
        let view = samples_view::read(&samples_view::path(&runs_root.join(&found.folder), figure))?;
        let title_of = if results.has_categories() { format!("{task}: what") } else { "What".to_owned() };
        let subtitle = format!("{} · {}", title(results), how(figure, &view.made));
        Ok((task.to_owned(), gallery(format!("{title_of} {name} makes of noise"), subtitle, &view)))
    };
    network(results, "samples", name)?.into_iter().map(of).collect()
}

/// `50 steps of DDIM · guidance 2 · noise of seed 0 · the first 20 of 100 classes`
fn how(figure: &SamplesFigure, made: &Made) -> String {
    let method = if made.flow { "Euler's method" } else { "DDIM" };
    let mut parts = vec![format!("{} steps of {method}", made.steps)];
    if made.classes > 0 {
        parts.push(format!("guidance {}", figure.guidance));
    }
    parts.push(format!("noise of seed {}", figure.seed));
    if made.classes > made.labels.len() {
        parts.push(format!("the first {} of {} classes", made.labels.len(), made.classes));
    }
    parts.join(" · ")
}

fn gallery(title: String, subtitle: String, view: &SamplesView) -> Gallery {
    let [_, rows, columns] = view.shape;
    let longest = rows.max(columns).max(1) as i32;
    // Of small images, every pixel is a square of the same size.
    let cell = (gallery::CELL + longest / 2) / longest * longest;
    let cell = if cell == 0 { CELL } else { cell.min(CELL) };
    let lines = view.lines.iter().zip(&view.made.labels);
    let lines = lines.map(|(images, label)| Line {
        label: label.clone(),
        groups: vec![images.iter().map(|image| shown(image, view.shape, cell)).collect()],
    });
    let headings = vec![String::new(); view.lines.iter().map(Vec::len).max().unwrap_or(0)];
    Gallery { title, subtitle, headings, lines: lines.collect(), scales: Vec::new(), cell }
}

/// An image at no more pixels than can be seen.
fn shown(image: &[u8], shape: [usize; 3], cell: i32) -> RgbImage {
    let [_, rows, columns] = shape;
    let image = painted(image, shape);
    if rows.max(columns) as i32 <= cell {
        return image;
    }
    let (width, height) = shown_size(rows, columns);
    imageops::resize(&image, width, height, imageops::FilterType::Triangle)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::report::figures::{canvas, gallery::Laid};

    fn view(shape: [usize; 3], labels: &[&str]) -> SamplesView {
        let image = |level: usize| vec![level as u8; shape.iter().product()];
        let lines = (0..labels.len()).map(|line| vec![image(line), image(100 + line)]).collect();
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let made = Made { network: String::new(), steps: 50, flow: false, classes: 20, labels };
        SamplesView { shape, lines, made }
    }

    #[test]
    fn a_line_is_a_class_and_pixels_of_small_images_are_whole() {
        let view = view([1, 28, 28], &["shirt", "class 1"]);
        let gallery = gallery("title".into(), "sub".into(), &view);
        assert_eq!(gallery.cell, 84);
        assert_eq!(gallery.lines.iter().map(|line| line.label.as_str()).collect::<Vec<_>>(), ["shirt", "class 1"]);
        for (at, line) in gallery.lines.iter().enumerate() {
            let [first, second] = &line.groups[0][..] else { panic!("two images") };
            assert_eq!([first, second].map(|image| image.get_pixel(9, 9).0[0] as usize), [at, 100 + at]);
            assert_eq!(first.dimensions(), (28, 28));
        }
        let drawn = image::load_from_memory(&canvas::png(&Laid::of(&gallery).unwrap()).unwrap()).unwrap();
        assert!(drawn.width() > 4 * 84 && drawn.height() > 4 * 84);
    }

    #[test]
    fn large_images_are_shrunk() {
        for (side, cell) in [(32, 64), (64, 64), (100, 100), (150, CELL), (256, CELL)] {
            let gallery = gallery(String::new(), String::new(), &view([3, side, side / 2], &[""]));
            let image = &gallery.lines[0].groups[0][0];
            assert_eq!(gallery.cell, cell, "{side}");
            assert_eq!(image.height() as i32, (side as i32).min(cell));
        }
    }

    #[test]
    fn a_subtitle_tells_how_they_are_made() {
        let figure: SamplesFigure = serde_json::from_value(json!({ "network": "ddpm", "guidance": 2 })).unwrap();
        let told = view([1, 2, 2], &["a"; 3]).made;
        assert_eq!(how(&figure, &told), "50 steps of DDIM · guidance 2 · noise of seed 0 · the first 3 of 20 classes");
        let untold = Made { flow: true, classes: 0, ..told };
        assert_eq!(how(&figure, &untold), "50 steps of Euler's method · noise of seed 0");
    }
}
