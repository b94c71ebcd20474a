//! Sheets of pseudo-anomalies: what each maker of a recipe makes of the first train images, with the contours of their masks.

use std::path::Path;

use image::{ImageBuffer, Luma, RgbImage, imageops};

use crate::{
    Error, Result,
    config::PseudoFigure,
    data::painted,
    report::figures::{
        gallery::{Gallery, Line},
        maps::{CELL, TRUTH, shown_size},
        network,
        overlay::outline,
        title,
    },
    run::{
        pseudo_view::{self, Example, PseudoView},
        results::{NetworkResult, Results},
    },
};

/// A gallery for each task, by its name; reads what was stored beside the network that the figure names, or the first of which something is.
pub fn galleries(figure: &PseudoFigure, results: &Results, runs_root: &Path) -> Result<Vec<(String, Gallery)>> {
    let stored = |folder: &Path| pseudo_view::path(&runs_root.join(folder), figure.images);
    let mut all = results.tasks().flat_map(|task| &task.networks);
    let name = match &figure.network {
        Some(name) => name,
        None => all.find(|(_, network)| stored(&network.folder).exists()).map(|(name, _)| name).ok_or_else(|| {
            Error::input("figure pseudo: nothing that a network learns from is stored")
                .hint("run the experiment again: networks and scores are used again")
        })?,
    };
    let of = |(task, found): (&str, &NetworkResult)| {
        let view = pseudo_view::read(&stored(&found.folder))?;
        let subtitle = format!(
            "{} · {name} · the first train images, before other random changes · orange: contour of the anomalous pixels",
            title(results)
        );
        Ok((task.to_owned(), gallery(format!("{task}: pseudo-anomalies"), subtitle, &view)))
    };
    network(results, "pseudo", name)?.into_iter().map(of).collect()
}

/// A line for each maker, a column for each image.
fn gallery(title: String, subtitle: String, view: &PseudoView) -> Gallery {
    Gallery {
        title,
        subtitle,
        headings: view.images.clone(),
        lines: view
            .makers
            .iter()
            .map(|(name, examples)| Line { label: name.clone(), groups: vec![examples.iter().map(shown).collect()] })
            .collect(),
        scales: Vec::new(),
        cell: CELL,
    }
}

/// An image with its mask's contour, at the size that it is shown at.
fn shown(Example { shape, image, mask }: &Example) -> RgbImage {
    let [_, rows, columns] = *shape;
    let (width, height) = shown_size(rows, columns);
    let mut shown = imageops::resize(&painted(image, *shape), width, height, imageops::FilterType::Triangle);
    let mask = ImageBuffer::<Luma<u8>, _>::from_fn(columns as u32, rows as u32, |x, y| {
        Luma([mask[y as usize * columns + x as usize]])
    });
    let mask = imageops::resize(&mask, width, height, imageops::FilterType::Nearest);
    let mask: Vec<bool> = mask.pixels().map(|pixel| pixel.0[0] != 0).collect();
    outline(&mut shown, &mask, TRUTH);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::figures::{canvas, gallery::Laid};

    #[test]
    fn a_line_shows_what_a_maker_makes_of_each_image() {
        let inside = |at: usize| (8..24).contains(&(at / 64)) && (40..56).contains(&(at % 64));
        let example = |level: u8| Example {
            shape: [1, 32, 64],
            image: vec![level; 2048],
            mask: (0..2048).map(|at| u8::from(inside(at))).collect(),
        };
        let makers = ["cutpaste", "scar"].map(|name| (name.to_owned(), vec![example(9), example(200)]));
        let view = PseudoView { images: vec!["000.png".into(), "001.png".into()], makers: makers.into() };
        let gallery = gallery("title".into(), "sub".into(), &view);
        assert_eq!(gallery.headings, ["000.png", "001.png"]);
        assert_eq!(gallery.lines.iter().map(|line| line.label.as_str()).collect::<Vec<_>>(), ["cutpaste", "scar"]);
        for line in &gallery.lines {
            let [dark, bright] = &line.groups[0][..] else { panic!("two images") };
            assert_eq!(dark.dimensions(), (128, 64));
            // Shown twice as large: the square's corner is at column 80, row 16.
            for (image, level) in [(dark, 9), (bright, 200)] {
                let at = |x, y| image.get_pixel(x, y).0;
                assert_eq!([at(80, 16), at(111, 47)], [TRUTH; 2]);
                assert_eq!([at(95, 30), at(79, 16)], [[level; 3]; 2], "inside and outside the contour is the image");
            }
        }
        let drawn = image::load_from_memory(&canvas::png(&Laid::of(&gallery).unwrap()).unwrap()).unwrap();
        assert!(drawn.width() > 4 * 128 && drawn.height() > 4 * 128);
    }
}
