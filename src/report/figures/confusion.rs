//! Which class a network takes for which: a square of shares, a row for each class.

use plotters::backend::DrawingBackend;

use crate::{
    Error, Result,
    metrics::Confusion,
    report::{
        figures::{
            GREY,
            canvas::{
                AROUND, BEFORE, Canvas, HEADING, HEADING_INDENT, INK, LABEL, MARGIN, MOST_WIDTH, PALE_INK, Sheet, TICK,
                TITLE, fitting, text_width,
            },
            id_set, title,
        },
        remarks::views_in_words,
        variants,
    },
    run::results::Results,
};

/// A confusion matrix, and where things stand in it.
pub struct Matrix {
    /// Above all.
    pub title: String,
    subtitle: String,
    /// Images by class and the class they were taken for, over all seeds.
    counts: Confusion,
    classes: Vec<String>,
    /// The side of a cell.
    cell: i32,
    /// Whether names below the cells are level: where each is narrower than a cell.
    level: bool,
    /// Where cells begin.
    left: i32,
    top: i32,
}

/// The side of a cell, by the number of classes at most; only the first two have room for a number.
const CELLS: [(usize, i32); 4] = [(12, 46), (24, 34), (50, 16), (usize::MAX, 9)];
/// The smallest side with a number in it.
const WITH_NUMBERS: i32 = 34;
/// The smallest side with a name beside it.
const WITH_NAMES: i32 = 14;
/// Room for names at most.
const NAMES: i32 = 150;
/// The colour of all images of a class: dark blue, which white text can be read on.
const FULL: [f64; 3] = [8.0, 69.0, 148.0];
/// Below this share a cell has no number.
const SHOWN: f64 = 0.005;

impl Matrix {
    /// Of a network with the file's own values, or those of the first cell.
    ///
    /// # Errors
    /// The results have no such network, or no count of its confusions: they are older, or of more than 100 classes.
    pub fn of(name: &str, results: &Results) -> Result<Self> {
        let all = variants::of_network(results, name);
        let variant = variants::representative(all.into_iter().filter(|one| one.networks().next().is_some()).collect());
        let variant = variant.ok_or_else(|| {
            let known = results.tasks().flat_map(|task| task.networks.keys());
            let near = crate::did_you_mean(name, known.map(String::as_str));
            Error::input(format!("figure confusion: the results have no network \"{name}\"{near}"))
        })?;
        let seeds = variant.networks().count();
        let found: Vec<&Confusion> = variant.networks().filter_map(|network| network.confusion.as_ref()).collect();
        let (Some(first), true) = (found.first(), found.len() == seeds) else {
            let message = format!("figure confusion: the results do not count what \"{name}\" confuses");
            return Err(Error::input(message).hint(
                "run the experiment again: networks and outputs are used again; more than 100 classes are not counted",
            ));
        };
        let mut counts = Confusion(vec![vec![0; first.classes()]; first.classes()]);
        for one in &found {
            for (sum, count) in counts.0.iter_mut().flatten().zip(one.0.iter().flatten()) {
                *sum += count;
            }
        }
        let record = results.datasets.values().next();
        let names = record.map(|record| record.classes.clone()).filter(|names| names.len() == counts.classes());
        let classes = names.unwrap_or_else(|| (0..counts.classes()).map(|class| class.to_string()).collect());
        let cell = CELLS.iter().find(|(most, _)| classes.len() <= *most).map_or(9, |(_, cell)| *cell);
        let widths = classes.iter().map(|name| text_width(name, TICK)).collect::<Result<Vec<_>>>()?;
        let longest = widths.into_iter().max().unwrap_or(0).min(NAMES);
        let room = if cell < WITH_NAMES { 0 } else { longest + 8 };
        let seeds = if seeds == 1 { "one seed".to_owned() } else { format!("{seeds} seeds together") };
        let network = if variant.swept { format!("{name} ({})", variant.cell.name) } else { name.to_owned() };
        let views = views_in_words(results).map(|views| format!(" · of {views}")).unwrap_or_default();
        Ok(Self {
            title: format!("What {network} takes {} for", id_set(results)?),
            subtitle: format!("{} · % of each row's test images · {seeds}{views}", title(results)),
            counts,
            classes,
            cell,
            level: longest < cell,
            left: MARGIN + 24 + room,
            top: HEADING + 8,
        })
    }

    fn side(&self) -> i32 {
        self.classes.len() as i32 * self.cell
    }
}

impl Sheet for Matrix {
    fn size(&self) -> (i32, i32) {
        let headings = [(self.title.as_str(), TITLE), (self.subtitle.as_str(), LABEL)];
        let heading = headings.iter().filter_map(|(text, size)| text_width(text, *size).ok()).max().unwrap_or(0);
        let room = if self.level { 16 } else { self.left - MARGIN - 24 };
        let width = (self.left + self.side() + MARGIN).max(heading + 2 * (MARGIN + HEADING_INDENT));
        (width.min(MOST_WIDTH), self.top + self.side() + room + 28 + MARGIN)
    }

    fn draw<B: DrawingBackend>(&self, canvas: &Canvas<'_, B>) -> Result<()> {
        canvas.heading(&self.title, &self.subtitle, self.size().0)?;
        let at = |place: usize| place as i32 * self.cell;
        for class in 0..self.classes.len() {
            for other in 0..self.classes.len() {
                let share = self.counts.share(class, other).unwrap_or(0.0);
                let (left, top) = (self.left + at(other), self.top + at(class));
                let [red, green, blue] = FULL.map(|full| (255.0 - (255.0 - full) * share).round() as u8);
                canvas.rectangle([(left, top), (left + self.cell - 1, top + self.cell - 1)], (red, green, blue))?;
                if self.cell >= WITH_NUMBERS && share >= SHOWN {
                    let color = if share > 0.5 { plotters::style::RGBColor(255, 255, 255) } else { INK };
                    let middle = (left + self.cell / 2, top + self.cell / 2);
                    canvas.text(&format!("{:.0}", share * 100.0), middle, TICK, color, AROUND)?;
                }
            }
        }
        let bottom = self.top + self.side();
        if self.cell >= WITH_NAMES {
            for (class, name) in self.classes.iter().enumerate() {
                let name = fitting(name, TICK, NAMES)?;
                let middle = at(class) + self.cell / 2;
                canvas.text(&name, (self.left - 6, self.top + middle), TICK, PALE_INK, BEFORE)?;
                let width = text_width(&name, TICK)?;
                if self.level {
                    canvas.text(&name, (self.left + middle, bottom + 12), TICK, PALE_INK, AROUND)?;
                } else {
                    canvas.upright(&name, (self.left + middle, bottom + 6 + width / 2), TICK, PALE_INK)?;
                }
            }
        }
        let [left, right] = [self.left, self.left + self.side()].map(|x| f64::from(x) - 0.5);
        let [top, bottom] = [self.top, bottom].map(|y| f64::from(y) - 0.5);
        canvas.line(&[(left, top), (right, top), (right, bottom), (left, bottom), (left, top)], GREY, 1.0)?;
        let below = (self.left + self.side() / 2, self.size().1 - MARGIN - 6);
        canvas.text("taken for", below, LABEL, INK, AROUND)?;
        canvas.upright("class", (MARGIN + 8, self.top + self.side() / 2), LABEL, INK)
    }
}
