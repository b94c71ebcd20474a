//! What a page is made of, as text and pictures: all that [`html`](super::html) knows.

/// What a page shows.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Page {
    /// The experiment's title.
    pub title: String,
    /// What its file says about it.
    pub about: Option<String>,
    /// To be shown loudly.
    pub warning: Option<String>,
    /// In the order of the experiment.
    pub tables: Vec<Table>,
    /// In the order of the experiment.
    pub figures: Vec<Figure>,
    /// Heat maps.
    pub galleries: Vec<Gallery>,
    /// The most anomalous and the most wrongly judged images.
    pub rankings: Vec<Ranking>,
    /// Where the numbers come from; the first is always open.
    pub facts: Vec<Facts>,
    /// The resolved experiment.
    pub config: String,
    /// The folder where everything lies.
    pub folder: String,
    /// What is not shown, and why.
    pub absent: Vec<String>,
}

/// A table.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Table {
    /// Above it.
    pub title: String,
    /// The file that holds the same.
    pub file: String,
    /// Below it.
    pub caption: Vec<String>,
    /// Footnotes; a mark is an index into them.
    pub notes: Vec<String>,
    /// Headers of the columns that name a row.
    pub labels: Vec<String>,
    /// Headers of the columns of numbers.
    pub columns: Vec<Column>,
    /// In order.
    pub rows: Vec<Row>,
}

/// The header of a column of numbers.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Column {
    /// What neighbouring columns share.
    pub group: Option<String>,
    /// `FPR95 ↓`.
    pub title: String,
    /// `paper`, `ours`, `difference`, where they stand side by side.
    pub kind: Option<&'static str>,
    /// Footnotes.
    pub marks: Vec<usize>,
}

/// A row.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Row {
    /// One for each of [`Table::labels`].
    pub labels: Vec<String>,
    /// Whether it sums up others: it stays last.
    pub summary: bool,
    /// Footnotes.
    pub marks: Vec<usize>,
    /// One for each of [`Table::columns`].
    pub cells: Vec<Cell>,
}

/// A number.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Cell {
    /// As printed.
    pub text: String,
    /// What it is sorted by.
    pub value: Option<f64>,
    /// Whether it is the best of those that it competes with.
    pub best: bool,
}

/// A picture's file.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Picture {
    /// `image/png`.
    pub media: &'static str,
    /// The file.
    pub bytes: Vec<u8>,
    /// Columns and rows at which it is shown.
    pub size: Option<[u32; 2]>,
    /// What it shows, in words.
    pub alt: String,
}

/// A figure.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Figure {
    /// Below it.
    pub title: String,
    /// The name of its file.
    pub file: String,
    /// What is drawn.
    pub picture: Picture,
}

/// Heat maps of a task.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Gallery {
    /// Above it.
    pub title: String,
    /// Below the title.
    pub subtitle: String,
    /// The file that holds the same.
    pub file: String,
    /// The images.
    pub examples: Vec<Example>,
    /// What the colours of each method mean: its name, and the values of both ends.
    pub scales: Vec<(String, f64, f64)>,
}

/// An image and its maps.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Example {
    /// Its kind and its file.
    pub label: String,
    /// What each picture is, and the picture.
    pub cells: Vec<(String, Picture)>,
}

/// What a method says of the images of a task.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ranking {
    /// The task; empty if there is one.
    pub task: String,
    /// The method.
    pub method: String,
    /// In a sentence: how many are on the wrong side.
    pub summary: String,
    /// Titles and images.
    pub lists: Vec<(String, Vec<Ranked>)>,
}

/// An image with its score.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Ranked {
    /// Its set and its file.
    pub name: String,
    /// As printed.
    pub score: String,
    /// It, small.
    pub picture: Option<Picture>,
}

/// Names and values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Facts {
    /// Above them.
    pub title: String,
    /// In order.
    pub rows: Vec<(String, String)>,
}
