//! The figures that lie in an experiment's folder, and the heat maps that a run stored.

use std::{io::Cursor, path::Path};

use image::{ImageEncoder as _, ImageReader, RgbImage, codecs::jpeg::JpegEncoder};

use crate::{
    Error, Result,
    config::{self, MapsFigure},
    fs::read_if_there,
    report::{
        figures::{self, Files},
        page::parts::{Example, Figure, Gallery, Picture},
    },
    run::results::Results,
};

/// Bytes of a drawing that is taken as it is. Ours: larger ones hold pixels as shapes, and the picture is smaller.
const LARGE_DRAWING: usize = 256 << 10;
/// JPEG's quality of pictures whose originals are beside the scores. Ours: contours of one pixel can be seen.
const QUALITY: u8 = 88;

/// The figures that are there; what is not is named.
pub(super) fn figures(
    experiment: &config::Experiment,
    results: &Results,
    folder: &Path,
    without_maps: bool,
    absent: &mut Vec<String>,
) -> Result<Vec<Figure>> {
    let mut shown = Vec::new();
    for (figure, files) in experiment.figures.iter().zip(figures::files(&experiment.figures, results)) {
        if without_maps && matches!(figure, config::Figure::Maps(_)) {
            continue;
        }
        let mut found = false;
        for Files { stem, title, .. } in &files {
            match read(folder, stem, title)? {
                Some(figure) => {
                    found = true;
                    shown.push(figure);
                }
                None => {
                    let is_there = ["svg", "png"].iter().any(|ending| folder.join(format!("{stem}.{ending}")).exists());
                    absent.extend(is_there.then(|| format!("{stem}, which is no drawing of oodkit")));
                }
            }
        }
        if let (false, Some(first)) = (found, files.first()) {
            absent.push(format!("the figure \"{}\", which is not drawn: oodkit table draws it", first.title));
        }
    }
    Ok(shown)
}

/// A figure, as the drawing or as the picture.
fn read(folder: &Path, stem: &str, title: &str) -> Result<Option<Figure>> {
    let read = |ending: &str| read_if_there(&folder.join(format!("{stem}.{ending}")));
    let svg = read("svg")?.filter(|bytes| bytes.starts_with(b"<svg ") && std::str::from_utf8(bytes).is_ok());
    let png = read("png")?.filter(|bytes| bytes.starts_with(b"\x89PNG\r\n\x1a\n"));
    // The picture has twice the drawing's size.
    let size = png.as_ref().and_then(|png| {
        let (width, height) = ImageReader::new(Cursor::new(png)).with_guessed_format().ok()?.into_dimensions().ok()?;
        Some([(width / 2).max(1), (height / 2).max(1)])
    });
    let (ending, media, bytes) = match (svg, png) {
        (Some(svg), Some(png)) if svg.len() > LARGE_DRAWING && png.len() < svg.len() => ("png", "image/png", png),
        (Some(svg), _) => ("svg", "image/svg+xml", svg),
        (None, Some(png)) => ("png", "image/png", png),
        (None, None) => return Ok(None),
    };
    let alt = format!("{title}. The tables have the numbers.");
    let picture = Picture { media, bytes, size, alt };
    Ok(Some(Figure { title: title.to_owned(), file: format!("{stem}.{ending}"), picture }))
}

/// The heat maps of each task, image by image, from what a run stored.
///
/// # Errors
/// What was stored is not there or is damaged.
pub(super) fn galleries(experiment: &config::Experiment, results: &Results, runs_root: &Path) -> Result<Vec<Gallery>> {
    let mut galleries = Vec::new();
    let files = figures::files(&experiment.figures, results);
    for (figure, files) in experiment.figures.iter().zip(files) {
        let config::Figure::Maps(figure) = figure else { continue };
        for (task, gallery) in figures::maps::galleries(figure, results, runs_root)? {
            let file = files.iter().find(|file| file.category.as_ref() == Some(&task));
            galleries.push(Gallery {
                file: file.map(|file| format!("{}.png", file.stem)).unwrap_or_default(),
                ..of_maps(figure, &gallery)?
            });
        }
    }
    Ok(galleries)
}

fn of_maps(figure: &MapsFigure, gallery: &figures::gallery::Gallery) -> Result<Gallery> {
    let example = |line: &figures::gallery::Line| {
        let pictures = line.groups.iter().flatten().zip(&gallery.headings);
        let cell = |(picture, heading): (&RgbImage, &String)| {
            let what = if figure.methods.contains(heading) { "Heat map of " } else { "" };
            Ok((heading.clone(), jpeg(picture, format!("{what}{heading}: {}", line.label))?))
        };
        Ok(Example { label: line.label.clone(), cells: pictures.map(cell).collect::<Result<_>>()? })
    };
    let scales = gallery.scales.iter().map(|scale| (scale.label.clone(), scale.range.0, scale.range.1));
    Ok(Gallery {
        title: gallery.title.clone(),
        subtitle: gallery.subtitle.clone(),
        file: String::new(),
        examples: gallery.lines.iter().map(example).collect::<Result<_>>()?,
        scales: scales.collect(),
    })
}

/// A photograph, small.
pub(super) fn jpeg(picture: &RgbImage, alt: String) -> Result<Picture> {
    let mut bytes = Vec::new();
    let (width, height) = picture.dimensions();
    JpegEncoder::new_with_quality(&mut bytes, QUALITY)
        .write_image(picture.as_raw(), width, height, image::ExtendedColorType::Rgb8)
        .map_err(|error| Error::Failed(format!("cannot write a picture of the page: {error}")))?;
    Ok(Picture { media: "image/jpeg", bytes, size: Some([width, height]), alt })
}
