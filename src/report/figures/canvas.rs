//! Draws a [`Picture`], as SVG or PNG, with the same code.
//!
//! Text is set in the embedded font, so figures are the same on machines without any. Sizes are in pixels of the SVG.

use std::sync::Once;

use image::{ImageEncoder, RgbImage, imageops};
use plotters::{
    backend::DrawingBackend,
    coord::Shift,
    prelude::{BitMapBackend, Circle, DrawingArea, IntoDrawingArea, PathElement, Polygon, SVGBackend, Text},
    style::{
        Color, FontStyle, FontTransform, IntoFont, RGBAColor, RGBColor, ShapeStyle, TextStyle, register_font,
        text_anchor::{HPos, Pos, VPos},
    },
};

use crate::{
    Error, Result,
    report::figures::{Axis, Mark, Panel, Picture, Style, shortened},
};

/// DejaVu Sans, cut to Latin, Greek and signs; see `assets/README.md`.
static FONT: &[u8] = include_bytes!("../../../assets/DejaVuSans-subset.ttf");
/// What an SVG viewer is asked for, and what the embedded font is registered as.
const FAMILY: &str = "DejaVu Sans, Verdana, sans-serif";

/// Pixels of the PNG to a pixel of the SVG, for sharp text on dense screens.
const PNG_SCALE: u32 = 2;
/// Drawn so many times larger, then averaged: the bitmap backend does not smooth thick lines.
const SMOOTHING: u32 = 2;

const PANEL_WIDTH: i32 = 330;
const PANEL_HEIGHT: i32 = 250;
const MOST_COLUMNS: usize = 3;
/// However long the texts: a PNG of twice that many pixels can still be opened everywhere.
const MOST_WIDTH: i32 = 1_600;
const MARGIN: i32 = 14;
/// Room beside a panel's axes for ticks and labels.
const LEFT: i32 = 62;
const RIGHT: i32 = 16;
const BOTTOM: i32 = 50;
const HEADING: i32 = 54;
const HEADING_INDENT: i32 = 6;
const LEGEND_LINE: i32 = 20;

const TITLE: i32 = 17;
const PANEL_TITLE: i32 = 13;
const LABEL: i32 = 12;
const TICK: i32 = 11;

/// The picture as an SVG document.
///
/// # Errors
/// A defect of the drawing library.
pub fn svg(picture: &Picture) -> Result<String> {
    let layout = Layout::of(picture)?;
    let mut text = String::new();
    {
        let root = SVGBackend::with_string(&mut text, (layout.width as u32, layout.height as u32)).into_drawing_area();
        Canvas { area: &root, scale: 1 }.picture(picture, &layout)?;
    }
    Ok(text)
}

/// The picture as a PNG file, [`PNG_SCALE`] times the SVG's size.
///
/// # Errors
/// A defect of the drawing library.
pub fn png(picture: &Picture) -> Result<Vec<u8>> {
    let layout = Layout::of(picture)?;
    let (width, height) = (layout.width as u32, layout.height as u32);
    let scale = PNG_SCALE * SMOOTHING;
    let mut large = RgbImage::new(width * scale, height * scale);
    {
        let root = BitMapBackend::with_buffer(&mut large, (width * scale, height * scale)).into_drawing_area();
        Canvas { area: &root, scale: scale as i32 }.picture(picture, &layout)?;
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

/// Where things stand.
struct Layout {
    width: i32,
    height: i32,
    columns: usize,
    panel_width: i32,
    /// Entries of the legend by line, with their places from the left.
    legend: Vec<Vec<(i32, usize)>>,
}

impl Layout {
    fn of(picture: &Picture) -> Result<Self> {
        static FONT_KNOWN: Once = Once::new();
        FONT_KNOWN.call_once(|| {
            // A failure shows as an error of every text that is measured below.
            let _ = register_font(FAMILY, FontStyle::Normal, FONT);
        });
        let panels = picture.panels.len().max(1);
        // Four panels are two and two, not three and one.
        let columns = if panels == 4 { 2 } else { panels.min(MOST_COLUMNS) };
        // A lone panel is as wide as its labels need.
        let ticks = picture.panels.first().map_or(0, |panel| panel.x.ticks.len()) as i32;
        let longest = picture.panels.iter().flat_map(|panel| &panel.x.ticks).flat_map(|tick| tick.1.lines());
        let longest = longest.map(|line| text_width(line, TICK)).collect::<Result<Vec<_>>>()?;
        let needed = LEFT + RIGHT + ticks * (longest.into_iter().max().unwrap_or(0) + 14);
        let panel_width = PANEL_WIDTH.max(needed).max(if panels == 1 { 460 } else { 0 });
        let panel_width = panel_width.min((MOST_WIDTH - 2 * MARGIN) / columns as i32);
        let headings = [(picture.title.as_str(), TITLE), (picture.subtitle.as_str(), LABEL)];
        let heading = headings.iter().map(|(text, size)| text_width(text, *size)).collect::<Result<Vec<_>>>()?;
        let heading = 2 * HEADING_INDENT + heading.into_iter().max().unwrap_or(0);
        let width = ((columns as i32 * panel_width).max(heading) + 2 * MARGIN).min(MOST_WIDTH);

        let mut legend: Vec<Vec<(i32, usize)>> = Vec::new();
        let mut end = width;
        for (index, (name, _)) in picture.legend.iter().enumerate() {
            let length = (30 + text_width(name, LABEL)? + 22).min(width - 2 * MARGIN);
            if end + length > width - MARGIN {
                legend.push(Vec::new());
                end = MARGIN + HEADING_INDENT;
            }
            if let Some(line) = legend.last_mut() {
                line.push((end, index));
            }
            end += length;
        }
        let rows = panels.div_ceil(columns) as i32;
        let below = if legend.is_empty() { MARGIN / 2 } else { legend.len() as i32 * LEGEND_LINE + MARGIN };
        Ok(Self { width, height: HEADING + rows * PANEL_HEIGHT + below, columns, panel_width, legend })
    }
}

fn text_width(text: &str, size: i32) -> Result<i32> {
    let style: TextStyle<'_> = (FAMILY, size).into_font().into();
    let (width, _) = style.font.box_size(text).map_err(failed)?;
    Ok(width as i32)
}

/// The text, cut so that it is no wider.
fn fitting(text: &str, size: i32, width: i32) -> Result<String> {
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

struct Canvas<'a, B: DrawingBackend> {
    area: &'a DrawingArea<B, Shift>,
    scale: i32,
}

impl<B: DrawingBackend> Canvas<'_, B> {
    fn picture(&self, picture: &Picture, layout: &Layout) -> Result<()> {
        self.area.fill(&RGBColor(255, 255, 255)).map_err(failed)?;
        let left = MARGIN + HEADING_INDENT;
        let title = fitting(&picture.title, TITLE, layout.width - 2 * left)?;
        let subtitle = fitting(&picture.subtitle, LABEL, layout.width - 2 * left)?;
        self.text(&title, (left, 22), TITLE, INK, (HPos::Left, VPos::Center), false)?;
        self.text(&subtitle, (left, 42), LABEL, PALE_INK, (HPos::Left, VPos::Center), false)?;
        for (index, panel) in picture.panels.iter().enumerate() {
            let (column, row) = ((index % layout.columns) as i32, (index / layout.columns) as i32);
            let frame = Frame {
                left: MARGIN + column * layout.panel_width + LEFT,
                right: MARGIN + (column + 1) * layout.panel_width - RIGHT,
                top: HEADING + row * PANEL_HEIGHT + if panel.title.is_empty() { 10 } else { 28 },
                bottom: HEADING + (row + 1) * PANEL_HEIGHT - BOTTOM,
            };
            self.panel(panel, &frame)?;
        }
        let first = layout.height - layout.legend.len() as i32 * LEGEND_LINE - MARGIN / 2;
        for (row, line) in layout.legend.iter().enumerate() {
            let y = first + row as i32 * LEGEND_LINE + LEGEND_LINE / 2;
            for (x, index) in line {
                let Some((name, style)) = picture.legend.get(*index) else { continue };
                self.line(&[(f64::from(*x), f64::from(y)), (f64::from(*x + 24), f64::from(y))], *style, 2.4)?;
                let name = fitting(name, LABEL, layout.width - MARGIN - x - 30)?;
                self.text(&name, (x + 30, y), LABEL, INK, (HPos::Left, VPos::Center), false)?;
            }
        }
        self.area.present().map_err(failed)
    }

    fn panel(&self, panel: &Panel, frame: &Frame) -> Result<()> {
        let middle = (frame.left + frame.right) / 2;
        let title = fitting(&panel.title, PANEL_TITLE, frame.right - frame.left)?;
        self.text(&title, (middle, frame.top - 14), PANEL_TITLE, INK, (HPos::Center, VPos::Center), false)?;
        let (left, right) = (f64::from(frame.left), f64::from(frame.right));
        let (top, bottom) = (f64::from(frame.top), f64::from(frame.bottom));
        let y_ticks = ticks(&panel.y, 5);
        for (value, label) in &y_ticks {
            let y = frame.y(panel, *value);
            self.line(&[(left, y), (right, y)], GRID, 1.0)?;
            let at = (frame.left - 6, y.round() as i32);
            self.text(label, at, TICK, PALE_INK, (HPos::Right, VPos::Center), false)?;
        }
        for (value, label) in ticks(&panel.x, 5) {
            let x = frame.x(panel, value);
            if panel.x.ticks.is_empty() {
                self.line(&[(x, top), (x, bottom)], GRID, 1.0)?;
            }
            for (row, line) in label.lines().enumerate() {
                let at = (x.round() as i32, frame.bottom + 12 + row as i32 * 14);
                let room = (frame.right - frame.left) / panel.x.ticks.len().max(1) as i32 - 4;
                let line = if panel.x.ticks.is_empty() { line.to_owned() } else { fitting(line, TICK, room)? };
                self.text(&line, at, TICK, PALE_INK, (HPos::Center, VPos::Center), false)?;
            }
        }
        for mark in &panel.marks {
            self.mark(mark, panel, frame)?;
        }
        self.line(&[(left, top), (left, bottom), (right, bottom)], AXIS, 1.0)?;
        let label = (middle, frame.bottom + 34);
        let x_label = fitting(&panel.x_label, LABEL, frame.right - frame.left)?;
        self.text(&x_label, label, LABEL, INK, (HPos::Center, VPos::Center), false)?;
        let widest = y_ticks.iter().map(|(_, label)| text_width(label, TICK)).collect::<Result<Vec<_>>>()?;
        let x = frame.left - 6 - widest.into_iter().max().unwrap_or(0) - 12;
        self.text(&panel.y_label, (x, (frame.top + frame.bottom) / 2), LABEL, INK, (HPos::Center, VPos::Center), true)
    }

    fn mark(&self, mark: &Mark, panel: &Panel, frame: &Frame) -> Result<()> {
        let place = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
            points.iter().map(|(x, y)| (frame.x(panel, *x), frame.y(panel, *y))).collect()
        };
        match mark {
            Mark::Line(points, style) => self.line(&place(points), *style, 1.8),
            Mark::Area(points, style) => {
                let points: Vec<_> = place(points).into_iter().map(|point| self.pixel(point)).collect();
                self.area.draw(&Polygon::new(points, color(*style).filled())).map_err(failed)
            }
            Mark::Dots(points, style) => place(points).into_iter().try_for_each(|point| {
                let dot = Circle::new(self.pixel(point), 3 * self.scale, color(*style).filled());
                self.area.draw(&dot).map_err(failed)
            }),
            Mark::Text((x, y), text) => {
                let at = (frame.x(panel, *x).round() as i32, frame.y(panel, *y).round() as i32 - 10);
                self.text(text, at, TICK, INK, (HPos::Center, VPos::Center), false)
            }
        }
    }

    fn line(&self, points: &[(f64, f64)], style: Style, width: f64) -> Result<()> {
        let stroke = ShapeStyle {
            color: color(style),
            filled: false,
            stroke_width: (width * f64::from(self.scale)).round().max(1.0) as u32,
        };
        let parts = if style.dashed { dashes(points) } else { vec![points.to_vec()] };
        for part in parts {
            let part: Vec<_> = part.into_iter().map(|point| self.pixel(point)).collect();
            self.area.draw(&PathElement::new(part, stroke)).map_err(failed)?;
        }
        Ok(())
    }

    fn text(
        &self,
        text: &str,
        (x, y): (i32, i32),
        size: i32,
        color: RGBColor,
        (horizontal, vertical): (HPos, VPos),
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

const INK: RGBColor = RGBColor(30, 30, 30);
const PALE_INK: RGBColor = RGBColor(90, 90, 90);
const AXIS: Style = Style { color: (90, 90, 90), opacity: 1.0, dashed: false };
const GRID: Style = Style { color: (228, 228, 228), opacity: 1.0, dashed: false };

/// The rectangle that the axes span, in pixels.
struct Frame {
    left: i32,
    right: i32,
    top: i32,
    bottom: i32,
}

impl Frame {
    fn x(&self, panel: &Panel, value: f64) -> f64 {
        f64::from(self.left) + part(value, panel.x.range) * f64::from(self.right - self.left)
    }

    fn y(&self, panel: &Panel, value: f64) -> f64 {
        f64::from(self.bottom) - part(value, panel.y.range) * f64::from(self.bottom - self.top)
    }
}

/// How far along the range a value lies: what is outside is drawn at the edge.
fn part(value: f64, (low, high): (f64, f64)) -> f64 {
    ((value - low) / (high - low)).clamp(0.0, 1.0)
}

fn color(style: Style) -> RGBAColor {
    let (red, green, blue) = style.color;
    RGBColor(red, green, blue).mix(style.opacity)
}

/// The axis's own ticks, or about `count` multiples of 1, 2 or 5 times a power of ten.
fn ticks(axis: &Axis, count: usize) -> Vec<(f64, String)> {
    if !axis.ticks.is_empty() {
        return axis.ticks.clone();
    }
    let (low, high) = axis.range;
    let rough = (high - low) / count as f64;
    let power = 10_f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough);
    let step = step.unwrap_or(rough);
    let decimals = (-step.log10().floor()).clamp(0.0, 6.0) as usize;
    let (first, last) = ((low / step - 1e-9).ceil() as i64, (high / step + 1e-9).floor() as i64);
    (first..=last).map(|multiple| (multiple as f64 * step, format!("{:.decimals$}", multiple as f64 * step))).collect()
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
    fn ticks_are_round_numbers() {
        let labels = |low, high| {
            let axis = Axis { range: (low, high), ticks: Vec::new() };
            ticks(&axis, 5).into_iter().map(|tick| tick.1).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(labels(0.0, 100.0), "0 20 40 60 80 100");
        assert_eq!(labels(-13.2, -2.9), "-10 -5");
        assert_eq!(labels(0.0, 0.13), "0.00 0.05 0.10");
        assert_eq!(labels(96.4, 97.1), "96.4 96.6 96.8 97.0");
    }

    #[test]
    fn dashes_leave_gaps() {
        let parts = dashes(&[(0.0, 0.0), (8.0, 0.0), (20.0, 0.0)]);
        assert_eq!(parts, [vec![(0.0, 0.0), (6.0, 0.0)], vec![(10.0, 0.0), (16.0, 0.0)]]);
    }
}
