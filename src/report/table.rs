//! A table as one neutral value, from results and a paper's CSV.

use std::{borrow::Cow, path::Path};

use indexmap::{IndexMap, IndexSet};
use serde::Serialize;

use crate::{
    Error, Result,
    config::{
        Over, Rows, Sampling, Table,
        expect::{MEAN, column_keys},
    },
    metrics::{self, Better, Column, MeanStd, Protocol, Unit, measures::Needs},
    report::{
        chosen, controls,
        expect::Paper,
        fits, remarks,
        variants::{self, Variant},
    },
    run::results::{DatasetRecord, Environment, Results, SeedResult, SetResult},
};

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

/// Two decimals, as every table and figure prints percent.
pub fn two_decimals(number: f64) -> String {
    // Not "-0.00".
    format!("{:.2}", if number.abs() < 0.005 { 0.0 } else { number })
}

/// `96.51`, or `96.51 ± 0.19` if there is a spread to tell of.
pub fn mean_std(number: &MeanStd, plus_minus: &str) -> String {
    match number.n {
        0 | 1 => two_decimals(number.mean),
        _ => format!("{} {plus_minus} {}", two_decimals(number.mean), two_decimals(number.std)),
    }
}

/// `+1.23`, `-1.23`, `0.00`.
pub fn signed(number: f64) -> String {
    let text = two_decimals(number);
    if number >= 0.005 { format!("+{text}") } else { text }
}

/// Makes the table that the experiment asks for. Reads results and the paper's CSV, nothing else.
///
/// # Errors
/// The table names a method or network that the results do not have, asks for draws that were not made, or expects a
/// paper's numbers that cannot be read.
pub fn build(table: &Table, results: &Results, experiments_dir: &Path) -> Result<Rendered> {
    Builder::new(table, results, experiments_dir)?.build()
}

/// The mean over seeds of one number of a method, in percent if it is a share. `set` is an OOD set; none means the mean over `sets`.
///
/// A seed that lacks the number is left out, as is a mean over sets of which one is missing.
pub fn number(
    variant: &Variant<'_>,
    column: Column,
    set: Option<&str>,
    sets: &[&str],
    protocol: Protocol,
    sampling: Sampling,
) -> Option<MeanStd> {
    let seeds = by_seed(variant, column, set, sets, protocol, sampling)?;
    match seeds.as_slice() {
        [] => None,
        // One seed: what spread there is, is that of its draws.
        [(_, one)] if variant.cell.seeds.len() == 1 => Some(*one),
        several => Some(MeanStd::of(&several.iter().map(|(_, number)| number.mean).collect::<Vec<_>>())),
    }
}

/// The number of each seed that has it; `None` of a column that no protocol has.
pub(super) fn by_seed(
    variant: &Variant<'_>,
    column: Column,
    set: Option<&str>,
    sets: &[&str],
    protocol: Protocol,
    sampling: Sampling,
) -> Option<Vec<(u64, MeanStd)>> {
    let measure = metrics::measure_for(column, protocol)?;
    let scale = if measure.unit == Unit::Share { 100.0 } else { 1.0 };
    let one = |value| MeanStd { mean: value, std: 0.0, n: 1 };
    let one_set = |set: &SetResult| match sampling {
        // What is no share is not drawn: on average a random subset's gap is the whole set's.
        Sampling::Redraw if measure.unit == Unit::Share => {
            set.redraw.as_ref().and_then(|draws| draws.get(&*measure.key)).copied()
        }
        _ => {
            let spectrum = sampling == Sampling::FullSpectrum;
            let measures = if spectrum { set.full_spectrum.as_ref()? } else { &set.measures };
            measures.get(&*measure.key).copied().map(one)
        }
    };
    let of_seed = |seed: &SeedResult| match set {
        Some(set) => one_set(seed.measured(variant.name, set)?),
        None => {
            let mean_of = |set: &&str| Some(one_set(seed.measured(variant.name, set)?)?.mean);
            let means: Option<Vec<f64>> = sets.iter().map(mean_of).collect();
            let means = means.filter(|means| !means.is_empty())?;
            Some(one(means.iter().sum::<f64>() / means.len() as f64))
        }
    };
    let of_classes = matches!(measure.needs, Needs::Logits(_));
    let found = variant.methods().filter_map(|(seed, method)| {
        let number = match of_classes {
            true => one(*seed.task()?.networks.get(&method.network)?.measures.get(&*measure.key)?),
            false => of_seed(seed)?,
        };
        Some((seed.seed, MeanStd { mean: number.mean * scale, std: number.std * scale, n: number.n }))
    });
    Some(found.collect())
}

/// The 95 % interval of a number over test images, in percent; of several seeds, the mean of each end.
fn interval(variant: &Variant<'_>, column: Column, set: &str, protocol: Protocol) -> Option<[f64; 2]> {
    let measure = metrics::measure_for(column, protocol)?;
    let found: Option<Vec<[f64; 2]>> = variant
        .methods()
        .map(|(seed, _)| seed.measured(variant.name, set)?.intervals.get(&*measure.key).copied())
        .collect();
    let found = found.filter(|found| !found.is_empty())?;
    Some([0, 1].map(|end| 100.0 * found.iter().map(|interval| interval[end]).sum::<f64>() / found.len() as f64))
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
                column if column.is_of_classes() => {
                    networks.any(|network| !network.measures.contains_key(&*measure.key))
                }
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

    fn caption(&self, rows: &[Row], compared: bool) -> Vec<String> {
        let Self { table, results, sets, .. } = self;
        let mut caption = Vec::new();
        let seeds = self.seeds();
        let listed = seeds.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
        let spread = match (table.sampled(), seeds.len()) {
            (Sampling::Full | Sampling::FullSpectrum, 0 | 1) => format!("one seed ({listed}), so no ±"),
            (Sampling::Full | Sampling::FullSpectrum, n) => {
                format!("mean ± population standard deviation over n = {n} seeds ({listed})")
            }
            (Sampling::Redraw, 0 | 1) => {
                let draws =
                    rows.iter().flat_map(|row| &row.cells).filter_map(|cell| cell.ours).map(|ours| ours.n).max();
                let mean = if table.rows.are_sets() || table.over != Over::Each {
                    "; a mean over OOD sets has no ±"
                } else {
                    ""
                };
                match draws {
                    Some(n) if n > 1 => format!(
                        "mean ± population standard deviation over n = {n} random subsets of each OOD set, \
                         one seed ({listed}){mean}"
                    ),
                    _ => format!("mean over random subsets of each OOD set, one seed ({listed}){mean}"),
                }
            }
            (Sampling::Redraw, n) => format!(
                "mean ± population standard deviation over n = {n} seeds ({listed}) of the mean over random subsets \
                 of each OOD set"
            ),
        };
        let unit = |column: &Column| metrics::measure_for(*column, table.protocol).map(|measure| measure.unit);
        let gaps = table.columns.iter().any(|column| unit(column) != Some(Unit::Share));
        let unit = match gaps {
            true => {
                "Percent, but for the gap: mean OOD score less mean ID score, in the score's unit, or in population standard deviations of \
                 ID scores (SD)"
            }
            false => "Percent",
        };
        caption.push(format!("{unit}; {spread}."));
        if table.rows.are_sets() || table.over == Over::Group {
            for (group, sets) in &self.groups {
                caption.push(format!("Mean of {group}: unweighted, over {}.", counted(sets)));
            }
        }
        let whole = table.rows.are_sets() && table.protocol != Protocol::OpenoodV15;
        if sets.len() > 1 && (whole || !table.rows.are_sets() && table.over == Over::OodMean) {
            let of = if results.has_categories() { "Mean over categories" } else { "OOD mean" };
            caption.push(format!("{of}: unweighted, over {}.", counted(sets)));
        }
        if table.intervals {
            caption.push(
                "In brackets: the 95 % interval over test images, of single OOD sets; of AUROC by DeLong's variance, of FPR by a \
                 bootstrap (1,000 resamples, percentiles). Of several seeds, the mean of each end."
                    .to_owned(),
            );
        }
        if table.columns.iter().any(|column| !column.is_of_classes()) {
            let by_protocol = |column: &Column| {
                use Column::{Aupr, AuprIn, AuprOut, Fpr95, FprAt};
                matches!(column, Fpr95 | FprAt(_) | Aupr | AuprIn | AuprOut)
            };
            if !results.has_categories() || table.columns.iter().any(by_protocol) {
                caption.push(protocol(table.protocol).to_owned());
            }
            if table.columns.iter().any(|column| column.is_of_pixels()) {
                caption.push(PIXELS.to_owned());
            }
            caption.extend(fits::line(&self.variants));
            caption.extend(chosen::line(&self.variants, results));
            caption.extend(controls::lines(table, &self.variants, sets));
        }
        let data: Vec<_> = results.datasets.iter().map(|(name, record)| describe(name, record)).collect();
        if results.has_categories() {
            caption.push(format!("Categories, each with its own normal train images: {}.", data.join("; ")));
            if table.columns.iter().any(|column| column.is_of_pixels()) {
                caption.extend(unmarked(results));
            }
        } else if let Some((id, ood)) = data.split_first() {
            caption.push(format!("In-distribution: {id}."));
            if table.sampled() == Sampling::FullSpectrum {
                let shifted: Vec<_> = results.shifted.iter().map(|(name, record)| describe(name, record)).collect();
                let shifted = shifted.join("; ");
                caption.push(format!("Covariate-shifted, counted as in-distribution but for accuracy: {shifted}."));
            }
            caption.push(format!("Out-of-distribution: {}.", ood.join("; ")));
        }
        if table.columns.contains(&Column::Accuracy) {
            caption.extend(remarks::largest_class(results));
        }
        if let Some(outliers) = &results.outliers {
            let parts = [Some(part(outliers.images, outliers.full, "train")), outliers.note.clone()];
            let parts = joined(parts).unwrap_or_default();
            caption.push(format!("Auxiliary outliers, learned from: {} ({parts}).", outliers.name));
        }
        if let Some(paper) = self.paper.as_ref().filter(|_| compared) {
            caption.push(format!("Paper: {}; difference = ours − paper.", paper.source()));
        }
        if !results.overrides.is_empty() {
            // Typed by hand: nothing checked that it stays in its line.
            let changed = results.overrides.join(", ").replace(char::is_control, " ");
            caption.push(format!("Changed on the command line: {changed}."));
        }
        caption.push(environments(results));
        caption
    }

    /// The footnotes that numbers on these OOD sets need beside a paper's.
    fn not_the_papers(&mut self, sets: &[&str]) -> Vec<usize> {
        let records = &self.results.datasets;
        let id = records.first().map(|(name, _)| name.as_str());
        let known = id.into_iter().chain(sets.iter().copied());
        let scored = known.filter_map(|name| Some((name.to_owned(), departure(records.get(name)?)?)));
        let outliers = self.results.outliers.iter().filter_map(|record| {
            let parts = [other(record.images, record.full, "train"), record.note.clone()];
            Some((format!("the auxiliary outliers' {}", record.name), joined(parts)?))
        });
        let found: Vec<(String, String)> = scored.chain(outliers).collect();
        let notes = found.into_iter().map(|(name, difference)| format!("not the paper's data: {name} is {difference}"));
        notes.map(|note| self.note(note)).collect()
    }

    /// The footnote that our mean needs beside a paper's, unless both are over the same sets.
    fn not_the_papers_mean(&mut self, slice: Slice<'a>) -> Option<usize> {
        let paper = self.paper.as_ref()?;
        let ours = self.sets_of(slice);
        let (same, theirs): (bool, Vec<&str>) = if let Slice::Group(group) = slice {
            let theirs: Vec<&str> = paper.group(group).iter().map(String::as_str).collect();
            (theirs.len() == ours.len() && theirs.iter().all(|set| ours.contains(set)), theirs)
        } else if self.table.rows.are_sets() {
            // The CSV's other rows are the paper's sets.
            let theirs = paper.others(paper.row(&[MEAN.to_owned()])?);
            let ours: Vec<_> = self.sets.iter().map(|set| paper.row(&[(*set).to_owned()])).collect();
            (theirs.len() == ours.len() && theirs.iter().all(|set| ours.contains(&Some(set))), theirs)
        } else {
            let theirs: Vec<&str> = paper.sets().iter().map(String::as_str).collect();
            (theirs.len() == self.sets.len() && theirs.iter().all(|set| self.sets.contains(set)), theirs)
        };
        let of = |sets: &[&str]| match sets.len() {
            0 => "unstated sets".to_owned(),
            n => format!("{n} ({})", sets.join(", ")),
        };
        let note = format!("not the paper's mean: over {}, the paper's over {}", of(&ours), of(&theirs));
        (!same).then(|| self.note(note))
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

/// How a data set departs from the complete, original one.
fn departure(record: &DatasetRecord) -> Option<String> {
    let train = record.train.and_then(|train| other(train, record.train_full, "train"));
    joined([train, other(record.test, record.test_full, "test"), record.note.clone()])
}

/// How so many images are not the complete set.
fn other(used: usize, full: Option<usize>, of: &str) -> Option<String> {
    match full? {
        full if used < full => Some(format!("a subset of {used} of {full} {of} images")),
        full if used > full => Some(format!("a set of {used} {of} images (the complete set has {full})")),
        _ => None,
    }
}

fn joined(parts: impl IntoIterator<Item = Option<String>>) -> Option<String> {
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

fn part(used: usize, full: Option<usize>, of: &str) -> String {
    match full {
        Some(full) if full == used => format!("all {used} {of} images"),
        Some(full) if used < full => format!("subset of {used} of {full} {of} images"),
        Some(full) => format!("{used} {of} images (the complete set has {full})"),
        None => format!("{used} {of} images"),
    }
}

/// `2 sets (svhn, textures)`
fn counted(sets: &[&str]) -> String {
    let plural = if sets.len() == 1 { "" } else { "s" };
    format!("{} set{plural} ({})", sets.len(), sets.join(", "))
}

/// Images that have no part in pixel measures.
fn unmarked(results: &Results) -> Option<String> {
    let of = |(name, record): (&String, &DatasetRecord)| {
        let count: usize = record.kinds.values().filter_map(|kind| kind.unmarked).sum();
        (count > 0).then(|| format!("{count} of {name}"))
    };
    let all: Vec<String> = results.datasets.iter().filter_map(of).collect();
    (!all.is_empty())
        .then(|| format!("Anomalous images whose mask marks nothing, left out of pixel measures: {}.", all.join(", ")))
}

fn describe(name: &str, record: &DatasetRecord) -> String {
    let train = record.train.map(|used| part(used, record.train_full, "train"));
    let kinds = (!record.kinds.is_empty()).then(|| {
        let normal = record.kinds.values().next().map_or(0, |kind| kind.images);
        format!("{normal} of them normal")
    });
    let parts = [train, Some(part(record.test, record.test_full, "test")), kinds, record.note.clone()];
    format!("{name} ({})", parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
}

/// What made the numbers: one line for training and scoring if they are the same.
fn environments(results: &Results) -> String {
    let words = |environment: &Environment| {
        format!("oodkit {}, commit {}, {}", environment.oodkit, environment.commit, environment.device)
    };
    let scored = &results.environment;
    let networks = results.tasks().flat_map(|task| task.networks.values());
    let mut trained: Vec<&Environment> = Vec::new();
    for network in networks {
        let known = |other: &&Environment| {
            (&other.commit, &other.device) == (&network.environment.commit, &network.environment.device)
        };
        if !trained.iter().any(known) {
            trained.push(&network.environment);
        }
    }
    if trained.iter().all(|trained| (&trained.commit, &trained.device) == (&scored.commit, &scored.device)) {
        return format!("{}.", words(scored));
    }
    let trained: Vec<String> = trained.into_iter().map(words).collect();
    format!("Trained: {}. Scored: {}.", trained.join("; "), words(scored))
}

/// The key of the PRO that is always computed.
const PRO: &str = "pro@0.3";

/// How pixel measures are taken.
const PIXELS: &str = "Pixel measures: on the raw scores of all pixels of all test images at the size that the network is fed; PRO counts \
                      8-connected regions alike, against the normal pixels of all images, and is divided by the rate it is integrated up \
                      to (0.3 unless the column says otherwise).";

fn protocol(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::IdPositiveClosest => {
            "Protocol id_positive_closest: ID is positive; FPR95 at the threshold whose true positive rate is closest to \
             95 %; AUPR by average precision."
        }
        Protocol::OodPositiveFirst => {
            "Protocol ood_positive_first: OOD is positive; FPR95 at the first threshold whose true positive rate is at \
             least 95 %; AUPR by trapezoid."
        }
        Protocol::EnergyOod => {
            "Protocol energy_ood: ten random subsets of each OOD set with a fifth as many images as the ID set; ID is \
             positive; FPR95 at the threshold whose true positive rate is closest to 95 %; AUPR by average precision."
        }
        Protocol::OpenoodV15 => {
            "Protocol openood_v1_5: complete OOD sets, averaged by group; OOD is positive; FPR95 at the first threshold \
             whose true positive rate is at least 95 %; AUPR by trapezoid."
        }
    }
}
