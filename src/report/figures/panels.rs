//! Panels with axes, and a legend below them all.

use plotters::backend::DrawingBackend;

use crate::{
    Result,
    report::figures::{
        Axis, Mark, Panel, Picture, Sign, Style,
        canvas::{
            AFTER, AROUND, BEFORE, Canvas, HEADING, HEADING_INDENT, INK, LABEL, MARGIN, MOST_WIDTH, PALE_INK, SUBTITLE,
            Sheet, TICK, TITLE, fitting, text_width,
        },
    },
};

const PANEL_WIDTH: i32 = 330;
const PANEL_HEIGHT: i32 = 250;
/// Of panels one below the other.
const STACKED_WIDTH: i32 = 640;
const MOST_COLUMNS: usize = 3;
/// Room beside a panel's axes for ticks and labels.
const LEFT: i32 = 62;
const RIGHT: i32 = 16;
const BOTTOM: i32 = 50;
const LEGEND_LINE: i32 = 20;

const AXIS: Style = Style { color: (90, 90, 90), opacity: 1.0, sign: Sign::Line };
const GRID: Style = Style { color: (228, 228, 228), opacity: 1.0, sign: Sign::Line };

/// A picture, and where things stand in it.
pub struct Panels<'a> {
    picture: &'a Picture,
    width: i32,
    height: i32,
    columns: usize,
    panel_width: i32,
    /// Entries of the legend by line, with their places from the left.
    legend: Vec<Vec<(i32, usize)>>,
}

impl<'a> Panels<'a> {
    /// Of a picture.
    ///
    /// # Errors
    /// A defect of the drawing library.
    pub fn of(picture: &'a Picture) -> Result<Self> {
        let panels = picture.panels.len().max(1);
        let columns = match panels {
            _ if picture.stacked => 1,
            // Not three and one.
            4 => 2,
            _ => panels.min(MOST_COLUMNS),
        };
        // A lone panel is as wide as its labels need.
        let ticks = picture.panels.first().map_or(0, |panel| panel.x.ticks.len()) as i32;
        let longest = picture.panels.iter().flat_map(|panel| &panel.x.ticks).flat_map(|tick| tick.1.lines());
        let longest = longest.map(|line| text_width(line, TICK)).collect::<Result<Vec<_>>>()?;
        let needed = LEFT + RIGHT + ticks * (longest.into_iter().max().unwrap_or(0) + 14);
        let headings = [(picture.title.as_str(), TITLE), (picture.subtitle.as_str(), LABEL)];
        let heading = headings.iter().map(|(text, size)| text_width(text, *size)).collect::<Result<Vec<_>>>()?;
        let heading = 2 * HEADING_INDENT + heading.into_iter().max().unwrap_or(0);
        let least = match panels {
            _ if picture.stacked => STACKED_WIDTH.max(heading),
            1 => 460,
            _ => PANEL_WIDTH,
        };
        let panel_width = least.max(needed).min((MOST_WIDTH - 2 * MARGIN) / columns as i32);
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
        let height = HEADING + rows * PANEL_HEIGHT + below;
        Ok(Self { picture, width, height, columns, panel_width, legend })
    }
}

impl Sheet for Panels<'_> {
    fn size(&self) -> (i32, i32) {
        (self.width, self.height)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>) -> Result<()> {
        let picture = self.picture;
        canvas.heading(&picture.title, &picture.subtitle, self.width)?;
        for (index, panel) in picture.panels.iter().enumerate() {
            let (column, row) = ((index % self.columns) as i32, (index / self.columns) as i32);
            let frame = Frame {
                left: MARGIN + column * self.panel_width + LEFT,
                right: MARGIN + (column + 1) * self.panel_width - RIGHT,
                top: HEADING + row * PANEL_HEIGHT + if panel.title.is_empty() { 10 } else { 28 },
                bottom: HEADING + (row + 1) * PANEL_HEIGHT - BOTTOM,
            };
            frame.panel(canvas, panel)?;
        }
        let first = self.height - self.legend.len() as i32 * LEGEND_LINE - MARGIN / 2;
        for (row, line) in self.legend.iter().enumerate() {
            let y = first + row as i32 * LEGEND_LINE + LEGEND_LINE / 2;
            for (x, index) in line {
                let Some((name, style)) = picture.legend.get(*index) else { continue };
                sign(canvas, (*x, y), *style)?;
                let name = fitting(name, LABEL, self.width - MARGIN - x - 30)?;
                canvas.text(&name, (x + 30, y), LABEL, INK, AFTER)?;
            }
        }
        Ok(())
    }
}

/// What stands before a name of the legend, 24 pixels wide.
fn sign<B: DrawingBackend>(canvas: &Canvas<'_, B>, (x, y): (i32, i32), style: Style) -> Result<()> {
    let (left, right, y) = (f64::from(x), f64::from(x + 24), f64::from(y));
    match style.sign {
        Sign::Line | Sign::Dashes => canvas.line(&[(left, y), (right, y)], style, 2.4),
        Sign::Dots => canvas.dot(((left + right) / 2.0, y), style),
        Sign::Area => canvas.polygon(&[(left, y - 5.0), (right, y - 5.0), (right, y + 5.0), (left, y + 5.0)], style),
    }
}

/// The rectangle that the axes span, in pixels.
struct Frame {
    left: i32,
    right: i32,
    top: i32,
    bottom: i32,
}

impl Frame {
    fn panel<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>, panel: &Panel) -> Result<()> {
        let middle = (self.left + self.right) / 2;
        let title = fitting(&panel.title, SUBTITLE, self.right - self.left)?;
        canvas.text(&title, (middle, self.top - 14), SUBTITLE, INK, AROUND)?;
        let (left, right) = (f64::from(self.left), f64::from(self.right));
        let (top, bottom) = (f64::from(self.top), f64::from(self.bottom));
        let y_ticks = ticks(&panel.y, 5);
        for (value, label) in &y_ticks {
            let y = self.y(panel, *value);
            canvas.line(&[(left, y), (right, y)], GRID, 1.0)?;
            let at = (self.left - 6, y.round() as i32);
            canvas.text(label, at, TICK, PALE_INK, BEFORE)?;
        }
        for (value, label) in ticks(&panel.x, 5) {
            let x = self.x(panel, value);
            if panel.x.ticks.is_empty() {
                canvas.line(&[(x, top), (x, bottom)], GRID, 1.0)?;
            }
            for (row, line) in label.lines().enumerate() {
                let at = (x.round() as i32, self.bottom + 12 + row as i32 * 14);
                let room = (self.right - self.left) / panel.x.ticks.len().max(1) as i32 - 4;
                let line = if panel.x.ticks.is_empty() { line.to_owned() } else { fitting(line, TICK, room)? };
                canvas.text(&line, at, TICK, PALE_INK, AROUND)?;
            }
        }
        for mark in &panel.marks {
            self.mark(canvas, mark, panel)?;
        }
        canvas.line(&[(left, top), (left, bottom), (right, bottom)], AXIS, 1.0)?;
        let label = (middle, self.bottom + 34);
        let x_label = fitting(&panel.x_label, LABEL, self.right - self.left)?;
        canvas.text(&x_label, label, LABEL, INK, AROUND)?;
        let widest = y_ticks.iter().map(|(_, label)| text_width(label, TICK)).collect::<Result<Vec<_>>>()?;
        let x = self.left - 6 - widest.into_iter().max().unwrap_or(0) - 12;
        canvas.upright(&panel.y_label, (x, (self.top + self.bottom) / 2), LABEL, INK)
    }

    fn mark<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>, mark: &Mark, panel: &Panel) -> Result<()> {
        let place = |points: &[(f64, f64)]| -> Vec<(f64, f64)> {
            points.iter().map(|(x, y)| (self.x(panel, *x), self.y(panel, *y))).collect()
        };
        match mark {
            Mark::Line(points, style) => canvas.line(&place(points), *style, 1.8),
            Mark::Area(points, style) => canvas.polygon(&place(points), *style),
            Mark::Dots(points, style) => place(points).into_iter().try_for_each(|point| canvas.dot(point, *style)),
            Mark::Text((x, y), text) => {
                let at = (self.x(panel, *x).round() as i32, self.y(panel, *y).round() as i32 - 10);
                canvas.text(text, at, TICK, INK, AROUND)
            }
        }
    }

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
}
