//! Sheets of pseudo-anomalies: what each maker of a recipe makes of the first train images, with the contours of their masks.

use std::path::Path;

use image::{ImageBuffer, Luma, RgbImage, imageops};

use crate::{
    Error, Result,
    config::PseudoFigure,
    report::figures::{
        gallery::{Gallery, Line},
        maps::{CELL, TRUTH, shown_size},
        overlay::{outline, painted},
        title,
    },
    report::variants::{of_network, representative},
    run::{
        pseudo_view::{self, Example, PseudoView},
        results::Results,
    },
};

/// A gallery for each task, by its name; reads what was stored beside the networks.
pub fn galleries(figure: &PseudoFigure, results: &Results, runs_root: &Path) -> Result<Vec<(String, Gallery)>> {
    let mut galleries: Vec<(String, Gallery)> = Vec::new();
    let network = network(figure, results, runs_root)?;
    let variant = representative(of_network(results, network))
        .ok_or_else(|| Error::input("figure pseudo: the results are empty"))?;
    // Where categories are swept, other cells have other tasks.
    for cell in std::iter::once(variant.cell).chain(&results.cells) {
        for (task, result) in cell.seeds.first().iter().flat_map(|seed| &seed.tasks) {
            let Some(found) = result.networks.get(network) else { continue };
            if galleries.iter().any(|(drawn, _)| drawn == task) {
                continue;
            }
            let view = pseudo_view::read(&pseudo_view::path(&runs_root.join(&found.folder), figure.images))?;
            let subtitle = format!(
                "{} · {network} · the first train images, before other random changes · orange: contour of the anomalous pixels",
                title(results)
            );
            galleries.push((task.clone(), gallery(format!("{task}: pseudo-anomalies"), subtitle, &view)));
        }
    }
    Ok(galleries)
}

/// The network that the figure names, or the first of which something is stored.
fn network<'a>(figure: &'a PseudoFigure, results: &'a Results, runs_root: &Path) -> Result<&'a str> {
    let all = || results.tasks().flat_map(|task| &task.networks);
    let stored = |folder: &Path| pseudo_view::path(&runs_root.join(folder), figure.images).exists();
    let found = match &figure.network {
        Some(name) => all().find(|(network, _)| *network == name),
        None => all().find(|(_, network)| stored(&network.folder)),
    };
    match (found, &figure.network) {
        (Some((name, _)), _) => Ok(name),
        (None, Some(name)) => {
            let near = crate::did_you_mean(name, all().map(|(network, _)| network.as_str()));
            Err(Error::input(format!("figure pseudo: the results have no network \"{name}\"{near}")))
        }
        (None, None) => Err(Error::input("figure pseudo: nothing that a network learns from is stored")
            .hint("run the experiment again: networks and scores are used again")),
    }
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
