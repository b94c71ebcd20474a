//! Which rows and columns a table has, before there are numbers.

use super::{Builder, Header};
use crate::{
    config::{
        Over, Rows,
        expect::{MEAN, column_keys},
    },
    metrics::{self, Column, Protocol},
    report::variants::Variant,
};

/// A row before its numbers: who it is about.
pub(super) struct RowPlan<'a> {
    pub labels: Vec<String>,
    /// The paper's row.
    pub theirs: Option<String>,
    /// The method, unless the columns say.
    pub variant: Option<Variant<'a>>,
    /// The OOD set, unless the columns say; [`Slice::Mean`] for their mean.
    pub slice: Option<Slice<'a>>,
    /// Whether the paper's numbers are about the same sets.
    pub comparable: bool,
    pub marks: Vec<usize>,
}

/// A column before its numbers.
pub(super) struct ColumnPlan<'a> {
    pub header: Header,
    pub variant: Option<Variant<'a>>,
    pub slice: Option<Slice<'a>>,
    /// The paper's column.
    pub theirs: Option<String>,
    /// Whether the paper's numbers are about the same sets.
    pub comparable: bool,
}

#[derive(Clone, Copy, PartialEq)]
pub(super) enum Slice<'a> {
    Set(&'a str),
    /// The mean over a group of sets.
    Group(&'a str),
    Mean,
}

impl<'a> Builder<'a> {
    pub(super) fn columns(&mut self, rows: &[RowPlan<'a>]) -> Vec<ColumnPlan<'a>> {
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

    pub(super) fn rows(&mut self) -> Vec<RowPlan<'a>> {
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
    pub(super) fn sets_of(&self, slice: Slice<'a>) -> Vec<&'a str> {
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
}

/// What a paper's CSV may call the method: its full label first; its bare name only where it is the file's own.
fn names(variant: &Variant<'_>) -> Vec<String> {
    let mut names = vec![variant.label()];
    if variant.swept && variant.base {
        names.push(variant.name.to_owned());
    }
    names
}
