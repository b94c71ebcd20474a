//! What a table's `expect` may speak of: our names of the columns and rows that a paper's numbers stand beside.

use std::borrow::Cow;

use crate::{
    config::{Categories, Expect, Experiment, Over, Rows, Table},
    data::{mvtec, registry},
    metrics::Column,
    yaml::problems::{Path, Problem, first_repeated, no_such},
};

/// The row that averages the OOD sets.
pub const MEAN: &str = "mean";

/// The column as it is written in YAML.
pub fn column_name(column: Column) -> Cow<'static, str> {
    Cow::Borrowed(match column {
        Column::FprAt(tpr) => return Cow::Owned(format!("fpr@{tpr}")),
        Column::ProAt(limit) => return Cow::Owned(format!("pro@{limit}")),
        Column::Ap => "ap",
        Column::BestF1 => "best_f1",
        Column::PixelAuroc => "pixel_auroc",
        Column::PixelAp => "pixel_ap",
        Column::PixelF1 => "pixel_f1",
        Column::Pro => "pro",
        Column::Aupimo => "aupimo",
        Column::Accuracy => "accuracy",
        Column::BalancedAccuracy => "balanced_accuracy",
        Column::WorstClassAccuracy => "worst_class_accuracy",
        Column::Fpr95 => "fpr95",
        Column::Auroc => "auroc",
        Column::Aupr => "aupr",
        Column::AuprIn => "aupr_in",
        Column::AuprOut => "aupr_out",
        Column::Gap => "gap",
        Column::GapSd => "gap_sd",
    })
}

/// What `expect.columns` may call a column, best first: `svhn.fpr95` in a group with these names, and plainly `fpr95`
/// where there is no group or no other.
pub fn column_keys(group: &[String], column: Column, alone: bool) -> Vec<String> {
    let column = column_name(column);
    let mut keys: Vec<String> = group.iter().map(|name| format!("{name}.{column}")).collect();
    if alone || group.is_empty() {
        keys.push(column.into_owned());
    }
    keys
}

/// What a method is called in one cell of a sweep: `Sparsity (weight=0.01)`.
pub fn in_cell(method: &str, cell: &str) -> String {
    format!("{method} ({cell})")
}

/// Whether a key may be the name of a cell.
pub fn names_cells(expect: &Expect) -> bool {
    expect.rows.keys().chain(expect.columns.keys()).any(|key| key.contains(['(', '=']))
}

/// The problems of the `expect` at `path`. Without the names of the sweep's `cells`, whatever may be one passes.
pub fn problems(
    path: &Path,
    expect: &Expect,
    table: &Table,
    experiment: &Experiment,
    cells: Option<&[String]>,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |path: Path, message: String| problems.push(Problem { path, message });
    let names = Names { table, experiment, cells: cells.unwrap_or_default() };
    let unsettled = |key: &str| cells.is_none() && !experiment.sweep.is_empty() && key.contains(['(', '=']);

    if expect.columns.is_empty() {
        add(path.join("columns"), "must not be empty".into());
    }
    let (known, tolerated) = names.columns();
    for key in expect.columns.keys().filter(|key| !tolerated.contains(key) && !unsettled(key)) {
        if !known.contains(key) {
            let message = no_such("column", key, known.iter().map(String::as_str));
            add(path.join("columns").join(key.as_str()), message);
        }
    }
    let (known, tolerated) = names.rows();
    for key in expect.rows.keys().filter(|key| !tolerated.contains(key) && !unsettled(key)) {
        if !known.contains(key) {
            let message = no_such("row", key, known.iter().map(String::as_str));
            add(path.join("rows").join(key.as_str()), message);
        }
    }
    let is_mean = |key: &String| *key != column_name(Column::Accuracy);
    let averages = !table.rows.are_sets() && table.over == Over::OodMean && expect.columns.keys().any(is_mean);
    if averages && expect.sets.is_empty() {
        let message =
            "needs sets: the OOD sets that the paper's means are over, by our names: `sets: [svhn, textures]`";
        add(path.clone(), message.into());
    }
    if !averages && !expect.sets.is_empty() {
        add(path.join("sets"), "goes with a column that is a mean over OOD sets: this table expects none".into());
    }
    let in_groups = table.over == Over::Group && expect.columns.keys().any(is_mean);
    for group in experiment.groups().keys().filter(|_| table.rows.are_sets() || in_groups) {
        let shown = |key: &String| key.starts_with(&format!("{group}."));
        let expected = if in_groups { expect.columns.keys().any(shown) } else { expect.rows.contains_key(*group) };
        if expected && !expect.groups.contains_key(*group) {
            let message = format!(
                "needs groups: the OOD sets that the paper's mean of \"{group}\" is over, by our names: `groups: {{ {group}: \
                 [..] }}`"
            );
            add(path.clone(), message);
        }
    }
    if !expect.groups.is_empty() && !table.rows.are_sets() && table.over != Over::Group {
        add(path.join("groups"), "goes with means of groups: `over: group`, or `rows: ood`".into());
    }
    for (group, sets) in &expect.groups {
        if let Some(index) = first_repeated(sets) {
            add(path.join("groups").join(group.as_str()).join(index), format!("\"{}\" is given twice", sets[index]));
        }
    }
    if let Some(index) = first_repeated(&expect.sets) {
        add(path.join("sets").join(index), format!("\"{}\" is given twice", expect.sets[index]));
    }
    problems
}

/// Our names of the rows and columns of a table.
struct Names<'a> {
    table: &'a Table,
    experiment: &'a Experiment,
    cells: &'a [String],
}

impl Names<'_> {
    /// Those in the table, and those that would be there if the experiment had all the sets that oodkit knows: fewer sets
    /// on the command line must not break a table.
    fn columns(&self) -> (Vec<String>, Vec<String>) {
        let of_groups = |groups: &[Vec<String>]| -> Vec<String> {
            let keys = |group: &Vec<String>| {
                let columns = self.table.columns.iter();
                columns.flat_map(|column| column_keys(group, *column, groups.len() == 1)).collect::<Vec<_>>()
            };
            groups.iter().flat_map(keys).collect()
        };
        let alone = |names: Vec<String>| names.into_iter().map(|name| vec![name]).collect::<Vec<_>>();
        match (self.table.rows, self.table.over) {
            (Rows::Ood | Rows::Task, _) => {
                let group = |method: &String| {
                    let cells = self.cells.iter().map(|cell| in_cell(method, cell));
                    std::iter::once(method.clone()).chain(cells).collect()
                };
                (of_groups(&self.methods().iter().map(group).collect::<Vec<_>>()), Vec::new())
            }
            (_, Over::OodMean) => (of_groups(&[Vec::new()]), Vec::new()),
            (_, over) => {
                let (ours, known) =
                    if over == Over::Each { (self.sets(), all_sets()) } else { (self.groups(), self.their_groups()) };
                let mut keys = of_groups(&alone(ours));
                // Accuracy is the same in each group, and stands before them.
                keys.retain(|key| !key.ends_with(".accuracy"));
                if self.table.columns.contains(&Column::Accuracy) {
                    keys.insert(0, column_name(Column::Accuracy).into_owned());
                }
                (keys, of_groups(&alone(known)))
            }
        }
    }

    /// As [`Names::columns`].
    fn rows(&self) -> (Vec<String>, Vec<String>) {
        if self.table.rows.are_sets() {
            let ours = self.sets().into_iter().chain(self.groups()).chain([MEAN.to_owned()]);
            return (ours.collect(), all_sets().into_iter().chain(self.their_groups()).collect());
        }
        let methods = self.methods();
        let mut rows = methods.clone();
        if self.table.rows == Rows::Sweep && methods.len() == 1 {
            rows.extend_from_slice(self.cells);
        }
        rows.extend(methods.iter().flat_map(|method| self.cells.iter().map(|cell| in_cell(method, cell))));
        (rows, Vec::new())
    }

    fn methods(&self) -> Vec<String> {
        let all = || self.experiment.methods().into_iter().map(|method| method.name).collect();
        self.table.methods.clone().unwrap_or_else(all)
    }

    fn groups(&self) -> Vec<String> {
        self.experiment.groups().into_keys().map(str::to_owned).collect()
    }

    /// Those that the paper has.
    fn their_groups(&self) -> Vec<String> {
        self.table.expect.iter().flat_map(|expect| expect.groups.keys().cloned()).collect()
    }

    fn sets(&self) -> Vec<String> {
        match &self.experiment.data.categories {
            None => self.experiment.data.ood_sets().into_iter().map(|set| set.name).collect(),
            Some(Categories::Named(names)) => names.clone(),
            Some(Categories::All) => mvtec::MVTEC_AD.map(str::to_owned).to_vec(),
        }
    }
}

fn all_sets() -> Vec<String> {
    registry::all().iter().map(|set| set.name).chain(mvtec::MVTEC_AD).map(str::to_owned).collect()
}
