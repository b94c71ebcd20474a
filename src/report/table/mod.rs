//! A table as one neutral value, from results and a paper's CSV.

mod caption;
mod numbers;

use std::{borrow::Cow, path::Path};

use indexmap::{IndexMap, IndexSet};
use serde::Serialize;

use crate::{
    Error, Result,
    config::{
        Over, Rows, Sampling, Table,
        expect::{MEAN, column_keys},
    },
    metrics::{self, Better, Column, MeanStd, Protocol},
    report::{
        expect::Paper,
        remarks,
        variants::{self, Variant},
    },
    run::results::{Results, SetResult},
};

pub(in crate::report) use numbers::by_seed;
use numbers::interval;
pub use numbers::{mean_std, number, signed, two_decimals};

/// The key of the PRO that is always computed.
const PRO: &str = "pro@0.3";

/// What every writer writes. All numbers but gaps are percent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Rendered {
    /// Names the files.
    pub name: String,
    /// What stands above the table.
    pub title: String,
    /// Set for a smoke run: to be shown loudly.
    pub warning: Option<String>,
    /// Sentences a reader needs: unit, protocol, data, seeds, the paper, device and commit.
    pub caption: Vec<String>,
    /// Headers of the columns that name a row.
    pub labels: Vec<String>,
    /// Headers of the columns with numbers.
    pub columns: Vec<Header>,
    /// In order.
    pub rows: Vec<Row>,
    /// Footnotes; a mark is an index into them.
    pub notes: Vec<String>,
}

/// The header of a number.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Header {
    /// What neighbouring columns share: an OOD set, or a method with `rows: ood`.
    pub group: Option<String>,
    /// Which number.
    pub metric: Column,
    /// Whether the paper's number and the difference stand beside ours.
    pub paper: bool,
    /// Whether intervals stand beside ours.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub intervals: bool,
    /// Footnotes to the group.
    pub marks: Vec<usize>,
}

/// A row.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// One for each of [`Rendered::labels`].
    pub labels: Vec<String>,
    /// Whether it sums up the rows above it.
    pub summary: bool,
    /// Footnotes to the row.
    pub marks: Vec<usize>,
    /// One for each of [`Rendered::columns`].
    pub cells: Vec<Cell>,
}

/// A number, the paper's, and what lies between them.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Cell {
    /// Ours, in percent; n counts seeds, or draws in a table of one seed with `sampling: redraw`.
    pub ours: Option<MeanStd>,
    /// The paper's, in percent.
    pub paper: Option<f64>,
    /// The 95 % interval of ours over test images, in percent; of several seeds, the mean of each end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interval: Option<[f64; 2]>,
    /// Ours less the paper's, of the unrounded mean; none where the two are means over different sets.
    pub difference: Option<f64>,
    /// Whether ours is the best (or as good as the best, as printed) of those it competes with.
    pub best: bool,
}

impl Cell {
    /// `96.51 ± 0.19 [95.90, 97.10]`, as far as there is a spread and an interval; a dash if there is no number.
    pub(super) fn ours(&self, plus_minus: &str, dash: &str) -> String {
        let Some(ours) = &self.ours else { return dash.to_owned() };
        let interval = self.interval.map(|[low, high]| format!(" [{}, {}]", two_decimals(low), two_decimals(high)));
        mean_std(ours, plus_minus) + &interval.unwrap_or_default()
    }

    /// Its columns in a plain-text table: `ours` alone, or paper, ours and difference beside a paper's number.
    pub(super) fn plain(&self, paper: bool, ours: String) -> Vec<String> {
        if !paper {
            return vec![ours];
        }
        let dash = || "–".to_owned();
        vec![self.paper.map_or_else(dash, two_decimals), ours, self.difference.map_or_else(dash, signed)]
    }
}

impl Header {
    /// `FPR95 ↓`: the number and where better is.
    pub fn title(&self) -> Cow<'static, str> {
        match self.metric {
            // Of the protocol's positive class, which the caption names.
            Column::Aupr => Cow::Borrowed("AUPR ↑"),
            // Of images beside that of pixels, which has a title of its own.
            Column::Ap => Cow::Borrowed("AP ↑"),
            // Protocols change how a number is computed, not what it is called.
            column => {
                metrics::measure_for(column, Protocol::default()).map_or(Cow::Borrowed(""), |measure| measure.title)
            }
        }
    }
}

/// Makes the table that the experiment asks for. Reads results and the paper's CSV, nothing else.
///
/// # Errors
/// The table names a method or network that the results do not have, asks for draws that were not made, or expects a
/// paper's numbers that cannot be read.
pub fn build(table: &Table, results: &Results, experiments_dir: &Path) -> Result<Rendered> {
    Builder::new(table, results, experiments_dir)?.build()
}

/// A row before its numbers: who it is about.
struct RowPlan<'a> {
    labels: Vec<String>,
    /// The paper's row.
    theirs: Option<String>,
    /// The method, unless the columns say.
    variant: Option<Variant<'a>>,
    /// The OOD set, unless the columns say; [`Slice::Mean`] for their mean.
    slice: Option<Slice<'a>>,
    /// Whether the paper's numbers are about the same sets.
    comparable: bool,
    marks: Vec<usize>,
}

/// A column before its numbers.
struct ColumnPlan<'a> {
    header: Header,
    variant: Option<Variant<'a>>,
    slice: Option<Slice<'a>>,
    /// The paper's column.
    theirs: Option<String>,
    /// Whether the paper's numbers are about the same sets.
    comparable: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Slice<'a> {
    Set(&'a str),
    /// The mean over a group of sets.
    Group(&'a str),
    Mean,
}

struct Builder<'a> {
    table: &'a Table,
    results: &'a Results,
    variants: Vec<Variant<'a>>,
    sets: Vec<&'a str>,
    /// The sets of each group.
    groups: IndexMap<&'a str, Vec<&'a str>>,
    paper: Option<Paper>,
    notes: Vec<String>,
}

impl<'a> Builder<'a> {
    fn new(table: &'a Table, results: &'a Results, experiments_dir: &Path) -> Result<Self> {
        let known: IndexMap<&str, ()> = results.methods().into_iter().map(|name| (name, ())).collect();
        let shown: Vec<&str> = match &table.methods {
            Some(methods) => methods.iter().map(String::as_str).collect(),
            None => known.keys().copied().collect(),
        };
        if let Some(unknown) = shown.iter().find(|name| !known.contains_key(*name)) {
            return Err(Error::input(format!(
                "table \"{}\": the results have no method \"{unknown}\"{}",
                table.name,
                crate::did_you_mean(unknown, known.keys().copied())
            ))
            .hint("run the experiment again if the method is new in its file"));
        }
        let controls = if table.controls { results.controls() } else { IndexSet::new() };
        if table.controls && controls.is_empty() {
            return Err(Error::input(format!("table \"{}\": the results have no control rows yet", table.name))
                .hint("run the experiment again: networks and scores are used again"));
        }
        let shown = shown.into_iter().chain(controls);
        let variants: Vec<_> = shown.flat_map(|name| variants::of_method(results, name)).collect();
        let drawn = |set: &SetResult| set.redraw.is_some();
        if table.sampled() == Sampling::Redraw
            && !variants.iter().flat_map(Variant::methods).all(|(_, method)| method.sets.values().all(drawn))
        {
            return Err(Error::input(format!("table \"{}\" is over random draws, and no draws were made", table.name))
                .hint("run the experiment again: networks and scores are used again"));
        }
        // What is computed only where a table asks for it.
        let absent = |what: &str| {
            let message = format!("table \"{}\": the results have no {what} yet", table.name);
            Error::input(message).hint("run the experiment again: networks and scores are used again")
        };
        let any_set = |is: &dyn Fn(&SetResult) -> bool| {
            variants.iter().flat_map(Variant::methods).any(|(_, method)| method.sets.values().any(is))
        };
        for column in &table.columns {
            let Some(measure) = metrics::measure_for(*column, table.protocol) else { continue };
            let mut networks = results.tasks().flat_map(|task| task.networks.values());
            let lacks = match column {
                Column::FprAt(_) => any_set(&|set| !set.measures.contains_key(&*measure.key)),
                // Only maps have it, and only all anomalous images together.
                Column::ProAt(_) => {
                    any_set(&|set| set.measures.contains_key(PRO) && !set.measures.contains_key(&*measure.key))
                }
                // Older than the schema's first file is accuracy alone.
                column if column.is_of_classes() => networks
                    .any(|network| !network.measures.is_empty() && !network.measures.contains_key(&*measure.key)),
                _ => false,
            };
            if lacks {
                return Err(absent(&format!("\"{}\"", measure.key)));
            }
        }
        if table.intervals && any_set(&|set| set.intervals.is_empty()) {
            return Err(absent("intervals"));
        }
        let paper = match &table.expect {
            Some(expect) => Some(Paper::read(expect, &table.columns, experiments_dir)?),
            None => None,
        };
        let sets = results.sets().map(|(name, _)| name).collect();
        let mut groups: IndexMap<&str, Vec<&str>> = IndexMap::new();
        for (name, record) in results.sets() {
            if let Some(group) = &record.group {
                groups.entry(group).or_default().push(name);
            }
        }
        // The file was checked all the same: a smoke run is there to find what is broken.
        let paper = paper.filter(|_| !results.smoke);
        Ok(Self { table, results, variants, sets, groups, paper, notes: Vec::new() })
    }

    fn build(mut self) -> Result<Rendered> {
        let plans = self.rows();
        let columns = self.columns(&plans);
        let mut rows: Vec<Row> = plans.iter().map(|plan| self.row(plan, &columns)).collect();
        self.mark_best(&mut rows, &plans, &columns);
        let mut columns = columns;
        self.remark(&plans, &mut rows, &mut columns);
        let caption = self.caption(&rows, columns.iter().any(|column| column.theirs.is_some()));
        let labels = match self.table.rows {
            Rows::Method => vec!["Method".to_owned()],
            Rows::Ood => vec!["OOD set".to_owned()],
            Rows::Task => vec!["Category".to_owned()],
            Rows::Sweep => vec!["Sweep".to_owned(), "Method".to_owned()],
        };
        Ok(Rendered {
            name: self.table.name.clone(),
            title: self.table.title.clone().unwrap_or_else(|| self.results.title.clone()),
            warning: self.results.smoke.then(|| "SMOKE RUN on synthetic data: numbers mean nothing".to_owned()),
            caption,
            labels,
            columns: columns.into_iter().map(|column| column.header).collect(),
            rows,
            notes: self.notes,
        })
    }

    fn columns(&mut self, rows: &[RowPlan<'a>]) -> Vec<ColumnPlan<'a>> {
        let table = self.table;
        // Groups: (variant, slice) with the names under which `expect.columns` may know them.
        type Group<'a> = (Option<String>, Vec<String>, Option<Variant<'a>>, Option<Slice<'a>>);
        let groups: Vec<Group<'a>> = match (table.rows, table.over) {
            (Rows::Ood | Rows::Task, _) => self
                .variants
                .iter()
                .map(|variant| (Some(variant.label()), names(variant), Some(*variant), None))
                .collect(),
            (_, Over::OodMean) => vec![(None, vec![], None, Some(Slice::Mean))],
            (_, Over::Each) => self
                .sets
                .iter()
                .map(|set| (Some((*set).to_owned()), vec![(*set).to_owned()], None, Some(Slice::Set(set))))
                .collect(),
            (_, Over::Group) => self
                .groups
                .keys()
                .map(|group| (Some((*group).to_owned()), vec![(*group).to_owned()], None, Some(Slice::Group(group))))
                .collect(),
        };
        let alone = groups.len() == 1;
        let mut columns = Vec::new();
        let mut plan = |this: &mut Self, (group, names, variant, slice): &Group<'a>, metric: Column| {
            let theirs = this.paper.as_ref().and_then(|paper| {
                let column = paper.column(&column_keys(names, metric, alone))?;
                let mut rows = rows.iter().filter_map(|row| row.theirs.as_ref());
                rows.any(|row| paper.number(row, column).is_some()).then(|| column.to_owned())
            });
            let (mut marks, mut comparable) = (Vec::new(), true);
            if theirs.is_some() {
                marks = match slice {
                    Some(Slice::Mean) if metric.is_of_classes() => this.not_the_papers(&[]),
                    Some(slice) => this.not_the_papers(&this.sets_of(*slice)),
                    None => Vec::new(),
                };
                if let Some(slice @ (Slice::Mean | Slice::Group(_))) = slice
                    && !metric.is_of_classes()
                {
                    let mark = this.not_the_papers_mean(*slice);
                    comparable = mark.is_none();
                    marks.extend(mark);
                }
                if !this.results.overrides.is_empty() {
                    marks.push(this.note("not the paper's setting: changed on the command line".to_owned()));
                }
            }
            let has_intervals =
                metrics::measure_for(metric, table.protocol).is_some_and(|measure| measure.has_interval());
            let intervals = table.intervals && has_intervals;
            let header = Header { group: group.clone(), metric, paper: theirs.is_some(), intervals, marks };
            columns.push(ColumnPlan { header, variant: *variant, slice: *slice, theirs, comparable });
        };
        // With columns for each OOD set or group of sets, accuracies are the same in each: they stand once, before them.
        let once = table.over != Over::OodMean && !table.rows.are_sets();
        let (before, each): (Vec<Column>, Vec<Column>) =
            table.columns.iter().partition(|metric| once && metric.is_of_classes());
        for metric in before {
            plan(self, &(None, vec![], None, Some(Slice::Mean)), metric);
        }
        for group in &groups {
            // Beside others, a control's first number is enough.
            let control = group.2.is_some_and(|variant| variant.is_control());
            let shown = each.iter().filter(|metric| !control || !(metric.is_of_classes() || metric.is_of_pixels()));
            for metric in shown.take(if control { 1 } else { each.len() }) {
                plan(self, group, *metric);
            }
        }
        columns
    }

    fn rows(&mut self) -> Vec<RowPlan<'a>> {
        match self.table.rows {
            Rows::Method => {
                let one = |variant: &Variant<'a>| RowPlan {
                    labels: vec![variant.label()],
                    theirs: self.their_row(&names(variant)),
                    variant: Some(*variant),
                    slice: None,
                    comparable: true,
                    marks: Vec::new(),
                };
                self.variants.iter().map(one).collect()
            }
            Rows::Sweep => {
                let alone = self.variants.iter().all(|variant| variant.name == self.variants[0].name);
                let one = |variant: &Variant<'a>| {
                    let mut keys = names(variant);
                    if alone {
                        keys.insert(0, variant.cell.name.clone());
                    }
                    let cell = if variant.swept { variant.cell.name.clone() } else { "any".to_owned() };
                    let labels = vec![cell, variant.name.to_owned()];
                    let theirs = self.their_row(&keys);
                    RowPlan {
                        labels,
                        theirs,
                        variant: Some(*variant),
                        slice: None,
                        comparable: true,
                        marks: Vec::new(),
                    }
                };
                self.by_cell().iter().map(one).collect()
            }
            Rows::Ood | Rows::Task => {
                let mut slices = Vec::new();
                for (group, members) in &self.groups {
                    slices.extend(members.iter().map(|set| Slice::Set(set)));
                    slices.push(Slice::Group(group));
                }
                let grouped = |set: &&&str| self.groups.values().flatten().any(|member| member == *set);
                slices.extend(self.sets.iter().filter(|set| !grouped(set)).map(|set| Slice::Set(set)));
                // OpenOOD has no mean over near and far sets.
                if self.sets.len() > 1 && self.table.protocol != Protocol::OpenoodV15 {
                    slices.push(Slice::Mean);
                }
                slices.into_iter().map(|slice| self.ood_row(slice)).collect()
            }
        }
    }

    fn ood_row(&mut self, slice: Slice<'a>) -> RowPlan<'a> {
        let (name, label) = match slice {
            Slice::Set(set) => (set, set.to_owned()),
            Slice::Group(group) => (group, format!("{group} {MEAN}")),
            Slice::Mean => (MEAN, MEAN.to_owned()),
        };
        let theirs = self.their_row(&[name.to_owned()]);
        let (mut marks, mut comparable) = (Vec::new(), true);
        if theirs.is_some() {
            marks = self.not_the_papers(&self.sets_of(slice));
            if !matches!(slice, Slice::Set(_)) {
                let mark = self.not_the_papers_mean(slice);
                comparable = mark.is_none();
                marks.extend(mark);
            }
        }
        RowPlan { labels: vec![label], theirs, variant: None, slice: Some(slice), comparable, marks }
    }

    /// The OOD sets that a number is over.
    fn sets_of(&self, slice: Slice<'a>) -> Vec<&'a str> {
        match slice {
            Slice::Set(set) => vec![set],
            Slice::Group(group) => self.groups.get(group).cloned().unwrap_or_default(),
            Slice::Mean => self.sets.clone(),
        }
    }

    /// The paper's row for ours with these names, best first.
    fn their_row(&self, names: &[String]) -> Option<String> {
        self.paper.as_ref()?.row(names).map(str::to_owned)
    }

    /// Cells in order, and in each the methods in order; methods that the sweep does not reach come first.
    fn by_cell(&self) -> Vec<Variant<'a>> {
        let (swept, fixed): (Vec<_>, Vec<_>) = self.variants.iter().copied().partition(|variant| variant.swept);
        let cells = self.results.cells.iter();
        let swept = cells.flat_map(|cell| {
            swept.iter().copied().filter(|variant| variant.cell.name == cell.name).collect::<Vec<_>>()
        });
        fixed.into_iter().chain(swept).collect()
    }

    fn row(&mut self, plan: &RowPlan<'a>, columns: &[ColumnPlan<'a>]) -> Row {
        let mut marks = plan.marks.clone();
        let mut cells = Vec::new();
        for column in columns {
            let Some(variant) = plan.variant.or(column.variant) else { continue };
            let slice = plan.slice.or(column.slice).unwrap_or(Slice::Mean);
            let set = if let Slice::Set(set) = slice { Some(set) } else { None };
            let metric = column.header.metric;
            let sets = self.sets_of(slice);
            let ours = number(&variant, metric, set, &sets, self.table.protocol, self.table.sampled());
            let paper = self.paper.as_ref().zip(plan.theirs.as_ref()).zip(column.theirs.as_ref());
            let paper = paper.and_then(|((paper, row), column)| paper.number(row, column));
            // Accuracy is about no OOD set.
            let comparable = metric.is_of_classes() || plan.comparable && column.comparable;
            let difference = ours.zip(paper).filter(|_| comparable).map(|(ours, paper)| ours.mean - paper);
            let interval = match sets[..] {
                [set] if column.header.intervals => interval(&variant, metric, set, self.table.protocol),
                _ => None,
            };
            cells.push(Cell { ours, interval, paper, difference, best: false });
        }
        // With several seeds, n counts them.
        let planned = self.seeds().len();
        let fewest = cells.iter().filter_map(|cell| cell.ours).map(|ours| ours.n).min();
        if let Some(fewest) = fewest.filter(|fewest| planned > 1 && *fewest < planned) {
            marks.push(self.note(format!("only {fewest} of {planned} seeds")));
        }
        Row {
            labels: plan.labels.clone(),
            summary: matches!(plan.slice, Some(Slice::Mean | Slice::Group(_))),
            marks,
            cells,
        }
    }

    /// Marks what a reader must be told beside the numbers.
    fn remark(&mut self, plans: &[RowPlan<'a>], rows: &mut [Row], columns: &mut [ColumnPlan<'a>]) {
        for (plan, row) in plans.iter().zip(&mut *rows) {
            let why = plan.variant.and_then(|method| method.unfit());
            row.marks.extend(why.map(|why| self.note(format!("not scored: {why}"))));
        }
        for column in &mut *columns {
            let why = column.variant.and_then(|method| method.unfit());
            column.header.marks.extend(why.map(|why| self.note(format!("not scored: {why}"))));
        }
        // Of a smoke run all of this is true and says nothing.
        if self.results.smoke {
            return;
        }
        for (plan, row) in plans.iter().zip(&mut *rows) {
            let little = plan.variant.and_then(|method| remarks::learned_little(self.results, &method));
            let metrics: Vec<Column> = columns.iter().map(|column| column.header.metric).collect();
            let wrong = remarks::wrong_order(row, &metrics).map(str::to_owned);
            row.marks.extend(little.into_iter().chain(wrong).map(|remark| self.note(remark)));
        }
        for column in &mut *columns {
            let little = column.variant.and_then(|method| remarks::learned_little(self.results, &method));
            column.header.marks.extend(little.map(|remark| self.note(remark)));
        }
        let methods: Vec<_> = plans.iter().map(|plan| plan.variant).collect();
        for group in remarks::alike(self.results, &methods) {
            let names: Vec<String> = group.iter().filter_map(|at| Some(methods[*at]?.label())).collect();
            let note = format!("equal by nature: with two classes {} order images alike", names.join(", "));
            let note = self.note(note);
            group.into_iter().for_each(|at| rows[at].marks.push(note));
        }
    }

    /// Methods compete: down a column, or with `rows: ood` along a row with their other selves in the same metric.
    fn mark_best(&self, rows: &mut [Row], plans: &[RowPlan<'a>], columns: &[ColumnPlan<'a>]) {
        for metric in &self.table.columns {
            let of_metric: Vec<usize> =
                (0..columns.len()).filter(|index| columns[*index].header.metric == *metric).collect();
            let contests: Vec<Vec<(usize, usize)>> = match self.table.rows {
                Rows::Ood | Rows::Task => {
                    (0..rows.len()).map(|row| of_metric.iter().map(|column| (row, *column)).collect()).collect()
                }
                Rows::Method | Rows::Sweep => {
                    of_metric.iter().map(|column| (0..rows.len()).map(|row| (row, *column)).collect()).collect()
                }
            };
            let sign = match metrics::measure_for(*metric, self.table.protocol).map(|measure| measure.better) {
                Some(Better::Larger) => 1.0,
                Some(Better::Smaller) => -1.0,
                Some(Better::Neither) | None => continue,
            };
            // A control is no method to be better than.
            let of_method = |(row, column): &(usize, usize)| {
                let variant = plans[*row].variant.or(columns[*column].variant);
                !variant.is_some_and(|variant| variant.is_control())
            };
            for contest in contests {
                let contest: Vec<_> = contest.into_iter().filter(of_method).collect();
                // As printed: what looks equal is equal.
                let printed = |(row, column): &(usize, usize), rows: &[Row]| {
                    let ours = rows[*row].cells[*column].ours?;
                    Some((ours.mean * sign * 100.0).round())
                };
                let values: Vec<f64> = contest.iter().filter_map(|place| printed(place, rows)).collect();
                // Nobody is best where all are equal, as in the accuracy of the one network that all methods read.
                let differ = values.iter().any(|value| *value != values[0]);
                let Some(best) = values.iter().copied().max_by(f64::total_cmp).filter(|_| differ) else { continue };
                for place in contest {
                    if printed(&place, rows) == Some(best) {
                        rows[place.0].cells[place.1].best = true;
                    }
                }
            }
        }
    }

    fn seeds(&self) -> Vec<u64> {
        let mut seeds: Vec<u64> =
            self.results.cells.iter().flat_map(|cell| cell.seeds.iter().map(|seed| seed.seed)).collect();
        seeds.sort_unstable();
        seeds.dedup();
        seeds
    }

    /// The index of the footnote, which is added unless it is there.
    fn note(&mut self, note: String) -> usize {
        self.notes.iter().position(|known| *known == note).unwrap_or_else(|| {
            self.notes.push(note);
            self.notes.len() - 1
        })
    }
}

/// What a paper's CSV may call the method: its full label first; its bare name only where it is the file's own.
fn names(variant: &Variant<'_>) -> Vec<String> {
    let mut names = vec![variant.label()];
    if variant.swept && variant.base {
        names.push(variant.name.to_owned());
    }
    names
}
