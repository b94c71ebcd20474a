//! What figures are drawn with, as SVG or PNG by the same code.
//!
//! Text is set in the embedded font, so figures are the same on machines without any. Sizes are in pixels of the SVG.

use std::sync::Once;

use image::{ImageEncoder, RgbImage, imageops};
use plotters::{
    backend::DrawingBackend,
    coord::Shift,
    prelude::{BitMapBackend, Circle, DrawingArea, IntoDrawingArea, PathElement, Polygon, Rectangle, SVGBackend, Text},
    style::{
        Color, FontStyle, FontTransform, IntoFont, RGBAColor, RGBColor, ShapeStyle, TextStyle, register_font,
        text_anchor::{HPos, Pos, VPos},
    },
};

use crate::{
    Error, Result,
    report::figures::{Sign, Style, shortened},
};

/// DejaVu Sans, cut to Latin, Greek and signs; see `assets/README.md`.
static FONT: &[u8] = include_bytes!("../../../assets/DejaVuSans-subset.ttf");
/// What an SVG viewer is asked for, and what the embedded font is registered as.
const FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";

/// Pixels of the PNG to a pixel of the SVG, for sharp text on dense screens.
const PNG_SCALE: u32 = 2;
/// Drawn so many times larger, then averaged: the bitmap backend does not smooth thick lines.
const SMOOTHING: u32 = 2;

/// However long the texts: a PNG of twice that many pixels can still be opened everywhere.
pub const MOST_WIDTH: i32 = 1_600;
/// White around everything.
pub const MARGIN: i32 = 14;
/// What the title and the line below it take.
pub const HEADING: i32 = 54;
/// How far the title stands from the margin.
pub const HEADING_INDENT: i32 = 6;

/// Size of the title.
pub const TITLE: i32 = 17;
/// Size of a heading.
pub const SUBTITLE: i32 = 13;
/// Size of a label.
pub const LABEL: i32 = 12;
/// Size of a number at an axis.
pub const TICK: i32 = 11;

/// Text.
pub const INK: RGBColor = RGBColor(30, 30, 30);
/// Text that is read second.
pub const PALE_INK: RGBColor = RGBColor(90, 90, 90);

/// Something that can be drawn.
pub trait Sheet {
    /// Width and height.
    fn size(&self) -> (i32, i32);
    /// Draws it on a white canvas of its size.
    ///
    /// # Errors
    /// A defect of the drawing library.
    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>) -> Result<()>;
}

/// The sheet as an SVG document.
///
/// # Errors
/// A defect of the drawing library.
pub fn svg(sheet: &impl Sheet) -> Result<String> {
    let (width, height) = sheet.size();
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (width as u32, height as u32)).into_drawing_area();
        Canvas { area: &root, scale: 1 }.whole(sheet)?;
    }
    Ok(text)
}

/// The sheet as a PNG file, [`PNG_SCALE`] times the SVG's size.
///
/// # Errors
/// A defect of the drawing library.
pub fn png(sheet: &impl Sheet) -> Result<Vec<u8>> {
    let (width, height) = sheet.size();
    let (width, height) = (width as u32, height as u32);
    let scale = PNG_SCALE * SMOOTHING;
    let mut large = RgbImage::new(width * scale, height * scale);
    {
        let root = BitMapBackend::with_buffer(&mut large, (width * scale, height * scale)).into_drawing_area();
        Canvas { area: &root, scale: scale as i32 }.whole(sheet)?;
    }
    let small = imageops::thumbnail(&large, width * PNG_SCALE, height * PNG_SCALE);
    let mut bytes = Vec::new();
    image::codecs::png::PngEncoder::new(&mut bytes)
        .write_image(small.as_raw(), small.width(), small.height(), image::ExtendedColorType::Rgb8)
        .map_err(failed)?;
    Ok(bytes)
}

fn failed(error: impl std::fmt::Display) -> Error {
    Error::Failed(format!("cannot draw a figure: {error}"))
}

/// How wide a text is.
///
/// # Errors
/// A defect of the drawing library.
pub fn text_width(text: &str, size: i32) -> Result<i32> {
    static FONT_KNOWN: Once = Once::new();
    FONT_KNOWN.call_once(|| {
        // A failure shows as an error of the text that is measured.
        let _ = register_font(FAMILY, FontStyle::Normal, FONT);
    });
    let style: TextStyle<'_> = (FAMILY, size).into_font().into();
    let (width, _) = style.font.box_size(text).map_err(failed)?;
    Ok(width as i32)
}

/// The text, cut so that it is no wider.
///
/// # Errors
/// A defect of the drawing library.
pub fn fitting(text: &str, size: i32, width: i32) -> Result<String> {
    let mut length = text.chars().count();
    let mut cut = text.to_owned();
    loop {
        let own = text_width(&cut, size)?;
        if own <= width || length <= 1 {
            return Ok(cut);
        }
        // Letters are about equally wide, so a long text is cut in few steps.
        let guess = length as f64 * f64::from(width.max(0)) / f64::from(own);
        length = (guess as usize).clamp(1, length - 1);
        cut = shortened(text, length);
    }
}

/// Where a text stands from its point.
pub type Anchor = (HPos, VPos);
/// Right of it.
pub const AFTER: Anchor = (HPos::Left, VPos::Center);
/// Left of it.
pub const BEFORE: Anchor = (HPos::Right, VPos::Center);
/// Around it.
pub const AROUND: Anchor = (HPos::Center, VPos::Center);

/// What is drawn on.
pub struct Canvas<'a, B: DrawingBackend> {
    area: &'a DrawingArea<B, Shift>,
    scale: i32,
}

impl<B: DrawingBackend> Canvas<'_, B> {
    fn whole(&self, sheet: &impl Sheet) -> Result<()> {
        self.area.fill(&RGBColor(255, 255, 255)).map_err(failed)?;
        sheet.draw(self)?;
        self.area.present().map_err(failed)
    }

    /// The title and the line below it, on a sheet of this width.
    pub fn heading(&self, title: &str, subtitle: &str, width: i32) -> Result<()> {
        let left = MARGIN + HEADING_INDENT;
        self.text(&fitting(title, TITLE, width - 2 * left)?, (left, 22), TITLE, INK, AFTER)?;
        self.text(&fitting(subtitle, LABEL, width - 2 * left)?, (left, 42), LABEL, PALE_INK, AFTER)
    }

    /// A line through points.
    pub fn line(&self, points: &[(f64, f64)], style: Style, width: f64) -> Result<()> {
        let stroke = ShapeStyle {
            color: color(style),
            filled: false,
            stroke_width: (width * f64::from(self.scale)).round().max(1.0) as u32,
        };
        let parts = if style.sign == Sign::Dashes { dashes(points) } else { vec![points.to_vec()] };
        for part in parts {
            let part: Vec<_> = part.into_iter().map(|point| self.pixel(point)).collect();
            self.area.draw(&PathElement::new(part, stroke)).map_err(failed)?;
        }
        Ok(())
    }

    /// A filled outline.
    pub fn polygon(&self, points: &[(f64, f64)], style: Style) -> Result<()> {
        let points: Vec<_> = points.iter().map(|point| self.pixel(*point)).collect();
        self.area.draw(&Polygon::new(points, color(style).filled())).map_err(failed)
    }

    /// A filled rectangle between two corners.
    pub fn rectangle(&self, corners: [(i32, i32); 2], (red, green, blue): (u8, u8, u8)) -> Result<()> {
        let corners = corners.map(|(x, y)| (x * self.scale, y * self.scale));
        self.area.draw(&Rectangle::new(corners, RGBColor(red, green, blue).filled())).map_err(failed)
    }

    /// A dot.
    pub fn dot(&self, at: (f64, f64), style: Style) -> Result<()> {
        let dot = Circle::new(self.pixel(at), 3 * self.scale, color(style).filled());
        self.area.draw(&dot).map_err(failed)
    }

    /// A line of text.
    pub fn text(&self, text: &str, at: (i32, i32), size: i32, color: RGBColor, anchor: Anchor) -> Result<()> {
        self.turned(text, at, size, color, anchor, false)
    }

    /// A line of text, from bottom to top.
    pub fn upright(&self, text: &str, at: (i32, i32), size: i32, color: RGBColor) -> Result<()> {
        self.turned(text, at, size, color, AROUND, true)
    }

    fn turned(
        &self,
        text: &str,
        (x, y): (i32, i32),
        size: i32,
        color: RGBColor,
        (horizontal, vertical): Anchor,
        upright: bool,
    ) -> Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        let mut font = (FAMILY, size * self.scale).into_font();
        if upright {
            font = font.transform(FontTransform::Rotate270);
        }
        let style = TextStyle::from(font).color(&color).pos(Pos::new(horizontal, vertical));
        self.area.draw(&Text::new(text.to_owned(), (x * self.scale, y * self.scale), style)).map_err(failed)
    }

    fn pixel(&self, (x, y): (f64, f64)) -> (i32, i32) {
        let scale = f64::from(self.scale);
        ((x * scale).round() as i32, (y * scale).round() as i32)
    }
}

fn color(style: Style) -> RGBAColor {
    let (red, green, blue) = style.color;
    RGBColor(red, green, blue).mix(style.opacity)
}

/// A line cut into pieces of 6 pixels with gaps of 4.
fn dashes(points: &[(f64, f64)]) -> Vec<Vec<(f64, f64)>> {
    let (mut parts, mut part) = (Vec::new(), Vec::new());
    let (mut drawing, mut left) = (true, 6.0);
    for pair in points.windows(2) {
        let [(mut x, mut y), (end_x, end_y)] = *pair else { continue };
        if drawing && part.is_empty() {
            part.push((x, y));
        }
        loop {
            let length = (end_x - x).hypot(end_y - y);
            if length <= left {
                left -= length;
                if drawing {
                    part.push((end_x, end_y));
                }
                break;
            }
            (x, y) = (x + (end_x - x) * left / length, y + (end_y - y) * left / length);
            if drawing {
                part.push((x, y));
                parts.push(std::mem::take(&mut part));
            } else {
                part.push((x, y));
            }
            drawing = !drawing;
            left = if drawing { 6.0 } else { 4.0 };
        }
    }
    if part.len() > 1 {
        parts.push(part);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dashes_leave_gaps() {
        let parts = dashes(&[(0.0, 0.0), (8.0, 0.0), (20.0, 0.0)]);
        assert_eq!(parts, [vec![(0.0, 0.0), (6.0, 0.0)], vec![(10.0, 0.0), (16.0, 0.0)]]);
    }
}
