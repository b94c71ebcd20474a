//! A table as one neutral value, from results and a paper's CSV.

mod best;
mod caption;
mod numbers;
mod plan;
mod rendered;

use std::path::Path;

use indexmap::{IndexMap, IndexSet};

use crate::{
    Error, Result,
    config::{Rows, Sampling, Table},
    metrics::{self, Column, measures::PRO},
    report::{
        expect::Paper,
        remarks,
        variants::{self, Variant},
    },
    run::results::{Results, SetResult},
};

pub(in crate::report) use numbers::{Number, Sets};
pub use numbers::{mean_std, signed, two_decimals};
use plan::{ColumnPlan, RowPlan, Slice};
pub use rendered::{Cell, Header, Rendered, Row};

/// Makes the table that the experiment asks for. Reads results and the paper's CSV, nothing else.
///
/// # Errors
/// The table names a method or network that the results do not have, asks for draws that were not made, or expects a
/// paper's numbers that cannot be read.
pub fn build(table: &Table, results: &Results, experiments_dir: &Path) -> Result<Rendered> {
    Builder::new(table, results, experiments_dir)?.build()
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

    fn row(&mut self, plan: &RowPlan<'a>, columns: &[ColumnPlan<'a>]) -> Row {
        let mut marks = plan.marks.clone();
        let mut cells = Vec::new();
        for column in columns {
            let Some(variant) = plan.variant.or(column.variant) else { continue };
            let slice = plan.slice.or(column.slice).unwrap_or(Slice::Mean);
            let metric = column.header.metric;
            let sets = self.sets_of(slice);
            let number = Number {
                column: metric,
                sets: if let Slice::Set(set) = slice { Sets::One(set) } else { Sets::Mean(&sets) },
                protocol: self.table.protocol,
                sampling: self.table.sampled(),
            };
            let ours = number.of(&variant);
            let paper = self.paper.as_ref().zip(plan.theirs.as_ref()).zip(column.theirs.as_ref());
            let paper = paper.and_then(|((paper, row), column)| paper.number(row, column));
            // Accuracy is about no OOD set.
            let comparable = metric.is_of_classes() || plan.comparable && column.comparable;
            let difference = ours.zip(paper).filter(|_| comparable).map(|(ours, paper)| ours.mean - paper);
            // A group of one set has that set's.
            let of_one = match sets[..] {
                [set] => Number { sets: Sets::One(set), ..number },
                _ => number,
            };
            let interval = if column.header.intervals { of_one.interval(&variant) } else { None };
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
