//! Small pictures in lines, with the scales of their colours below them all.

use image::RgbImage;
use plotters::backend::DrawingBackend;

use crate::{
    Result,
    report::figures::{
        Sign, Style,
        canvas::{
            AFTER, AROUND, BEFORE, Canvas, HEADING, HEADING_INDENT, INK, LABEL, MARGIN, MOST_WIDTH, PALE_INK, Sheet,
            TICK, TITLE, fitting, text_width,
        },
    },
};

/// A figure of small pictures.
#[derive(Debug, Clone, PartialEq)]
pub struct Gallery {
    /// Above all.
    pub title: String,
    /// Below the title, smaller.
    pub subtitle: String,
    /// What the pictures of a group are, from left to right; above the first line.
    pub headings: Vec<String>,
    /// Top to bottom.
    pub lines: Vec<Line>,
    /// Below all, side by side.
    pub scales: Vec<Scale>,
    /// Side of the square that a picture stands in.
    pub cell: i32,
}

/// Groups of pictures side by side.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// Left of them; may be empty.
    pub label: String,
    /// Each as many as there are headings.
    pub groups: Vec<Vec<RgbImage>>,
}

/// What colours mean.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    /// Left of the bar.
    pub label: String,
    /// Lowest and highest value; what lies beyond has the colour of the end.
    pub range: (f64, f64),
    /// Evenly spaced colours, two or more.
    pub stops: &'static [[u8; 3]],
}

/// Black to white.
pub const GREYS: &[[u8; 3]] = &[[0, 0, 0], [255, 255, 255]];

/// matplotlib's viridis (van der Walt & Smith 2015, CC0) at every tenth: as light as it is large, for all readers.
pub const VIRIDIS: &[[u8; 3]] = &[
    [68, 1, 84],
    [72, 36, 117],
    [65, 68, 135],
    [53, 95, 141],
    [42, 120, 142],
    [33, 145, 140],
    [34, 168, 132],
    [68, 191, 112],
    [122, 209, 81],
    [189, 223, 38],
    [253, 231, 37],
];

impl Scale {
    /// The colour of a value; NaN has that of the lowest.
    pub fn color(&self, value: f64) -> [u8; 3] {
        let (low, high) = self.range;
        let place = ((value - low) / (high - low)).clamp(0.0, 1.0) * (self.stops.len() - 1) as f64;
        // A cast of NaN is 0.
        let stop = (place as usize).min(self.stops.len() - 2);
        let share = if place.is_nan() { 0.0 } else { place - stop as f64 };
        let [left, right] = [self.stops[stop], self.stops[stop + 1]];
        std::array::from_fn(|part| {
            let [left, right] = [f64::from(left[part]), f64::from(right[part])];
            (left + (right - left) * share).round() as u8
        })
    }
}

/// Side of the square of a picture that says little.
pub const CELL: i32 = 76;
const GAP: i32 = 5;
/// Between groups.
const WIDE_GAP: i32 = 20;
const HEADINGS: i32 = 22;
const BAR_WIDTH: i32 = 150;
const BAR_HEIGHT: i32 = 12;
/// Pieces of a bar.
const BAR_STEPS: i32 = 50;
const BELOW: i32 = 44;

/// A gallery, and where things stand in it.
pub struct Laid<'a> {
    gallery: &'a Gallery,
    width: i32,
    /// Where pictures begin.
    left: i32,
    /// From one group to the next.
    group: i32,
    /// Where each scale begins, and its line.
    scales: Vec<(i32, i32)>,
}

impl<'a> Laid<'a> {
    /// Of a gallery.
    ///
    /// # Errors
    /// A defect of the drawing library.
    pub fn of(gallery: &'a Gallery) -> Result<Self> {
        let widest = |texts: Vec<(&str, i32)>| -> Result<i32> {
            let widths = texts.into_iter().map(|(text, size)| text_width(text, size)).collect::<Result<Vec<_>>>()?;
            Ok(widths.into_iter().max().unwrap_or(0))
        };
        let labels = widest(gallery.lines.iter().map(|line| (line.label.as_str(), LABEL)).collect())?;
        let heading = widest(vec![(&gallery.title, TITLE), (&gallery.subtitle, LABEL)])? + 2 * HEADING_INDENT;
        let left = MARGIN + HEADING_INDENT + labels.min(MOST_WIDTH / 4) + 12;
        let group = gallery.headings.len() as i32 * (gallery.cell + GAP) - GAP + WIDE_GAP;
        let groups = gallery.lines.iter().map(|line| line.groups.len()).max().unwrap_or(0) as i32;
        let rooms = gallery.scales.iter().map(|scale| Ok(text_width(&scale.label, LABEL)? + SCALE_ROOM));
        let rooms = rooms.collect::<Result<Vec<i32>>>()?;
        let in_one_line = MARGIN + HEADING_INDENT + rooms.iter().sum::<i32>();
        let widest = (left + groups * group - WIDE_GAP + MARGIN).max(heading + 2 * MARGIN).max(in_one_line);
        let width = widest.min(MOST_WIDTH);
        Ok(Self { gallery, width, left, group, scales: in_lines(&rooms, width) })
    }
}

/// Where things of these widths begin that stand side by side, and in which line.
fn in_lines(rooms: &[i32], width: i32) -> Vec<(i32, i32)> {
    let first = MARGIN + HEADING_INDENT;
    let (mut x, mut line) = (first, 0);
    let place = |room: &i32| {
        if x > first && x + room > width {
            (x, line) = (first, line + 1);
        }
        let here = (x, line);
        x += room;
        here
    };
    rooms.iter().map(place).collect()
}

/// What a bar takes beside its label.
const SCALE_ROOM: i32 = 10 + BAR_WIDTH + 60;

impl Sheet for Laid<'_> {
    fn size(&self) -> (i32, i32) {
        let scales = 1 + self.scales.last().map_or(0, |(_, line)| *line);
        let pictures = self.gallery.lines.len() as i32 * (self.gallery.cell + GAP);
        (self.width, HEADING + HEADINGS + pictures + scales * BELOW)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>) -> Result<()> {
        let gallery = self.gallery;
        let cell = gallery.cell;
        canvas.heading(&gallery.title, &gallery.subtitle, self.width)?;
        let groups = gallery.lines.iter().map(|line| line.groups.len()).max().unwrap_or(0);
        for group in 0..groups as i32 {
            for (column, heading) in gallery.headings.iter().enumerate() {
                let x = self.left + group * self.group + column as i32 * (cell + GAP) + cell / 2;
                let heading = fitting(heading, TICK, cell)?;
                canvas.text(&heading, (x, HEADING + HEADINGS / 2), TICK, PALE_INK, AROUND)?;
            }
        }
        let mut y = HEADING + HEADINGS;
        for line in &gallery.lines {
            let label = fitting(&line.label, LABEL, self.left - 12 - MARGIN - HEADING_INDENT)?;
            canvas.text(&label, (self.left - 12, y + cell / 2), LABEL, INK, BEFORE)?;
            for (group, pictures) in line.groups.iter().enumerate() {
                for (column, picture) in pictures.iter().enumerate() {
                    let x = self.left + group as i32 * self.group + column as i32 * (cell + GAP);
                    draw_picture(canvas, picture, (x, y), cell)?;
                }
            }
            y += cell + GAP;
        }
        for (scale, (x, line)) in gallery.scales.iter().zip(&self.scales) {
            draw_scale(canvas, scale, (*x, y + 10 + line * BELOW))?;
        }
        Ok(())
    }
}

/// A picture in the middle of a cell, its sides in their proportion.
fn draw_picture<B: DrawingBackend>(
    canvas: &Canvas<'_, B>,
    picture: &RgbImage,
    (x, y): (i32, i32),
    cell: i32,
) -> Result<()> {
    let (columns, rows) = picture.dimensions();
    let longest = columns.max(rows).max(1);
    let length = |count: u32| (f64::from(cell) * f64::from(count) / f64::from(longest)).round().max(1.0);
    let (width, height) = (length(columns), length(rows));
    let (x, y) = (x + (cell - width as i32) / 2, y + (cell - height as i32) / 2);
    let at_x = |column: u32| x + (width * f64::from(column) / f64::from(columns)).round() as i32;
    let at_y = |row: u32| y + (height * f64::from(row) / f64::from(rows)).round() as i32;
    for [left, top, right, bottom] in rectangles(picture) {
        let corners = [(at_x(left), at_y(top)), (at_x(right), at_y(bottom))];
        let [red, green, blue] = picture.get_pixel(left, top).0;
        canvas.rectangle(corners, (red, green, blue))?;
    }
    Ok(())
}

/// Rectangles of one colour each (left, top, right, bottom) that make up a picture: far fewer than pixels, mostly.
fn rectangles(picture: &RgbImage) -> Vec<[u32; 4]> {
    let (columns, rows) = picture.dimensions();
    let mut finished = Vec::new();
    // Those that reach the row above.
    let mut open: Vec<[u32; 4]> = Vec::new();
    for row in 0..rows {
        let mut next = Vec::new();
        let mut left = 0;
        while left < columns {
            let color = picture.get_pixel(left, row);
            let right = (left..columns).find(|at| picture.get_pixel(*at, row) != color).unwrap_or(columns);
            let above =
                open.iter().position(|[l, t, r, _]| [*l, *r] == [left, right] && picture.get_pixel(*l, *t) == color);
            next.push(match above {
                Some(above) => {
                    let [left, top, right, _] = open.swap_remove(above);
                    [left, top, right, row + 1]
                }
                None => [left, row, right, row + 1],
            });
            left = right;
        }
        finished.append(&mut open);
        open = next;
    }
    finished.append(&mut open);
    finished
}

/// A bar with its ends' values.
fn draw_scale<B: DrawingBackend>(canvas: &Canvas<'_, B>, scale: &Scale, (x, y): (i32, i32)) -> Result<()> {
    let label = text_width(&scale.label, LABEL)?;
    canvas.text(&scale.label, (x, y + BAR_HEIGHT / 2), LABEL, INK, AFTER)?;
    let (low, high) = scale.range;
    let left = x + label + 10;
    for step in 0..BAR_STEPS {
        let [red, green, blue] = scale.color(low + (high - low) * (f64::from(step) + 0.5) / f64::from(BAR_STEPS));
        let at = |step: i32| left + BAR_WIDTH * step / BAR_STEPS;
        canvas.rectangle([(at(step), y), (at(step + 1), y + BAR_HEIGHT)], (red, green, blue))?;
    }
    let (right, bottom) = (f64::from(left + BAR_WIDTH), f64::from(y + BAR_HEIGHT));
    let (left_edge, top) = (f64::from(left), f64::from(y));
    let outline = [(left_edge, top), (right, top), (right, bottom), (left_edge, bottom), (left_edge, top)];
    canvas.line(&outline, Style { color: (90, 90, 90), opacity: 1.0, sign: Sign::Line }, 1.0)?;
    // Two digits.
    let decimals = (1.0 - (high - low).log10().floor()).clamp(0.0, 6.0) as usize;
    for (place, sign, value) in [(0, "≤ ", low), (1, "", f64::midpoint(low, high)), (2, "≥ ", high)] {
        let at = (left + BAR_WIDTH * place / 2, y + BAR_HEIGHT + 9);
        canvas.text(&format!("{sign}{value:.decimals$}"), at, TICK, PALE_INK, AROUND)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_lie_between_the_ends() {
        let scale = Scale { label: String::new(), range: (-1.0, 3.0), stops: GREYS };
        assert_eq!(scale.color(-1.0), [0; 3]);
        assert_eq!(scale.color(1.0), [128; 3]);
        assert_eq!(scale.color(3.0), [255; 3]);
        assert_eq!(scale.color(f64::INFINITY), [255; 3]);
        assert_eq!(scale.color(f64::NAN), [0; 3]);
        let scale = Scale { stops: VIRIDIS, ..scale };
        assert_eq!([scale.color(-9.0), scale.color(1.0), scale.color(9.0)], [VIRIDIS[0], VIRIDIS[5], VIRIDIS[10]]);
    }

    #[test]
    fn what_does_not_fit_in_a_line_begins_the_next() {
        let first = MARGIN + HEADING_INDENT;
        let width = first + 700;
        let expected = [(first, 0), (first + 300, 0), (first, 1), (first, 2), (first + 200, 2)];
        assert_eq!(in_lines(&[300, 400, 900, 200, 300], width), expected);
    }

    #[test]
    fn rectangles_cover_every_pixel_once() {
        let picture = RgbImage::from_fn(7, 5, |x, y| image::Rgb([u8::from(x > 2 && y > 1), u8::from(x == y), 0]));
        let mut seen = [0; 35];
        let rectangles = rectangles(&picture);
        for [left, top, right, bottom] in &rectangles {
            for (x, y) in (*top..*bottom).flat_map(|y| (*left..*right).map(move |x| (x, y))) {
                assert_eq!(picture.get_pixel(x, y), picture.get_pixel(*left, *top));
                seen[(y * 7 + x) as usize] += 1;
            }
        }
        assert_eq!(seen, [1; 35]);
        assert!(rectangles.len() < 30, "{}", rectangles.len());
    }
}
