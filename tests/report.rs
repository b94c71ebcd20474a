//! Tables and figures from hand-made results: every writer, every figure, and what goes wrong.

use std::{fs, path::Path};

use oodkit::{
    Error,
    config::{self, Experiment, Figure, Table, load, overrides},
    metrics::{MeanStd, Measures, Protocol, write_npy},
    report::{
        self, csv, json, latex, markdown,
        table::{self, Rendered},
        terminal,
    },
    run::results::{
        Cell, DatasetRecord, Environment, MethodResult, NetworkResult, Results, SeedResult, SetResult, TaskResult,
    },
};
use serde_json::{Value, json};

const SETS: [&str; 3] = ["textures", "svhn", "places365"];

/// The sparsity paper's experiment as a user would write it: λ swept over 0 and the file's own 0.01.
fn experiment(tables: Value, figures: Value) -> Experiment {
    let train = json!({"epochs": 1, "batch_size": 128, "optimizer": {"sgd": {"lr": 0.1}}});
    serde_json::from_value(json!({
        "title": "Sparsity & energy, 100 % of CIFAR_10",
        "seeds": [0, 1, 2],
        "data": {"id": "cifar10", "ood": SETS},
        "networks": {
            "base": {"backbone": "lenet", "train": train},
            "tuned": {"from": "base", "train": train, "loss": {"cross_entropy": {}, "sparsity": {"weight": 0.01}}},
        },
        "methods": [
            {"name": "MSP", "network": "base", "detector": "msp"},
            {"name": "EBD", "network": "base", "detector": "energy"},
            {"name": "Sparsity", "network": "tuned", "detector": "energy"},
        ],
        "sweep": {"networks.tuned.loss.sparsity.weight": [0, 0.01]},
        "tables": tables,
        "figures": figures,
    }))
    .unwrap()
}

fn record(test: usize, test_full: usize, note: Option<&str>) -> DatasetRecord {
    let note = note.map(str::to_owned);
    let (test_full, sha256) = (Some(test_full), "0".repeat(64));
    DatasetRecord {
        unmarked: None,
        masks_sha256: None,
        train: None,
        train_full: None,
        test,
        test_full,
        note,
        sha256,
        class_sizes: Vec::new(),
        classes: Vec::new(),
        group: None,
        made_of: None,
        kinds: Default::default(),
    }
}

fn environment() -> Environment {
    Environment { oodkit: "0.1.0".into(), commit: "0123abc".into(), device: "cpu (2 threads, AMD EPYC)".into() }
}

/// How well a method does, from bad (0) to perfect (1), as a whole set of numbers that differ from each other.
fn metrics(quality: f64) -> Measures {
    let numbers = [
        ("auroc", 0.5 + quality / 2.0),
        ("fpr95_id_positive_closest", 1.0 - quality),
        ("fpr95_ood_positive_first", 0.98 - quality * 0.98),
        ("aupr_in_ap", 0.6 + quality * 0.4),
        ("aupr_out_ap", 0.3 + quality * 0.7),
        ("aupr_in_trapezoid", 0.61 + quality * 0.39),
        ("aupr_out_trapezoid", 0.31 + quality * 0.69),
    ];
    numbers.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

/// Three seeds in two cells; MSP and EBD are the same in both, as they read `base`. Two sets are not the papers'.
fn results(experiment: &Experiment) -> Results {
    let cell = |weight: f64| Cell {
        name: format!("weight={weight}"),
        values: [("networks.tuned.loss.sparsity.weight".to_owned(), json!(weight))].into_iter().collect(),
        seeds: (0..3).map(|seed| seed_result(seed, weight)).collect(),
    };
    let cifar10 = DatasetRecord { train: Some(50_000), train_full: Some(50_000), ..record(10_000, 10_000, None) };
    Results {
        schema: oodkit::run::results::SCHEMA,
        experiment: "cifar10_sparsity".into(),
        title: experiment.title.clone(),
        smoke: false,
        shifted: Default::default(),
        outliers: None,
        datasets: [
            ("cifar10".to_owned(), cifar10),
            ("textures".to_owned(), record(5_640, 5_640, None)),
            ("svhn".to_owned(), record(10_000, 26_032, None)),
            ("places365".to_owned(), record(10_000, 10_000, Some("JPEG-recompressed"))),
        ]
        .into_iter()
        .collect(),
        validation: Default::default(),
        cells: vec![cell(0.0), cell(0.01)],
        environment: environment(),
        overrides: Vec::new(),
        config: serde_json::to_value(experiment).unwrap(),
    }
}

fn seed_result(seed: u64, weight: f64) -> SeedResult {
    let network = |name: &str, accuracy: f64| NetworkResult {
        members: Vec::new(),
        folder: format!("networks/{name}/seed{seed}").into(),
        measures: [("accuracy".to_owned(), accuracy + seed as f64 * 0.001)].into_iter().collect(),
        confusion: None,
        views: None,
        steps: 391,
        final_loss: Some(0.1),
        train_seconds: 60.0,
        parameters: 44_426,
        environment: environment(),
    };
    let tuned = if weight > 0.0 { (0.94, 0.85) } else { (0.945, 0.70) };
    let method = |name: &str, network: &str, quality: f64| {
        let sets = SETS.iter().enumerate().map(|(index, set)| {
            let quality = quality - index as f64 * 0.05 + seed as f64 * 0.01;
            let mut measures = metrics(quality);
            let draws =
                measures.iter().map(|(key, value)| (key.clone(), MeanStd { mean: value + 0.001, std: 0.004, n: 10 }));
            let redraw = Some(draws.collect());
            measures.extend([("gap".to_owned(), 3.0 + quality), ("gap_sd".to_owned(), 1.0 + quality)]);
            ((*set).to_owned(), SetResult { measures, intervals: Default::default(), full_spectrum: None, redraw })
        });
        let scores = std::iter::once("cifar10")
            .chain(SETS)
            .map(|set| (set.to_owned(), format!("scores/{name}-{weight}/{set}.npy").into()));
        let (sets, scores) = (sets.collect(), scores.collect());
        let network = network.into();
        (
            name.to_owned(),
            MethodResult {
                network,
                sets,
                scores,
                fit_seconds: 0.0,
                fit: None,
                score_seconds: 0.1,
                detector: None,
                search: None,
                thresholds: Default::default(),
                control: false,
            },
        )
    };
    let task = TaskResult {
        unfit: Default::default(),
        networks: [("base".to_owned(), network("base", 0.9448)), ("tuned".to_owned(), network("tuned", tuned.0))]
            .into_iter()
            .collect(),
        methods: [method("MSP", "base", 0.5), method("EBD", "base", 0.7), method("Sparsity", "tuned", tuned.1)]
            .into_iter()
            .collect(),
    };
    SeedResult { seed, tasks: [("cifar10".to_owned(), task)].into_iter().collect() }
}

fn expect_table2() -> Value {
    json!({
        "file": "paper/sparsity_table2.csv",
        "source": "Chen & Li 2023, table 2",
        "where": {"id_dataset": "CIFAR-10"},
        "row": "method",
        // Three of its six, so that there are differences to show.
        "sets": SETS,
        "columns": {"fpr95": "fpr95", "auroc": "auroc", "aupr": "aupr"},
    })
}

fn expect_table1() -> Value {
    json!({
        "file": "paper/sparsity_table1.csv",
        "source": "Chen & Li 2023, table 1",
        "where": {"id_dataset": "CIFAR-10"},
        "row": "ood_dataset",
        "rows": {"textures": "Texture", "svhn": "SVHN", "places365": "Places365", "mean": "Mean"},
        "columns": {
            "EBD.fpr95": "fpr95_base", "EBD.auroc": "auroc_base",
            "Sparsity.fpr95": "fpr95_tuned", "Sparsity.auroc": "auroc_tuned",
        },
    })
}

fn build(table: Value, results: &Results) -> oodkit::Result<Rendered> {
    let table: Table = serde_json::from_value(table).unwrap();
    table::build(&table, results, Path::new("experiments"))
}

/// The error's message and hint.
fn refused(table: Value, results: &Results) -> String {
    match build(table, results).unwrap_err() {
        Error::Input { message, hint } => format!("{message}\nhint: {}", hint.unwrap_or_default()),
        other => panic!("not an input error: {other}"),
    }
}

fn compared() -> Rendered {
    let results = results(&experiment(json!([]), json!([])));
    let table = json!({
        "name": "methods", "title": "OOD detection", "rows": "method",
        "columns": ["accuracy", "fpr95", "auroc", "aupr"], "expect": expect_table2(),
    });
    build(table, &results).unwrap()
}

#[test]
fn methods_beside_the_paper_in_every_format() {
    let table = compared();
    insta::assert_snapshot!("methods_terminal", terminal::text(&table, None));
    insta::assert_snapshot!("methods_markdown", markdown::text(&table));
    insta::assert_snapshot!("methods_csv", csv::text(&table));
    insta::assert_snapshot!("methods_caption", csv::caption(&table));
    insta::assert_snapshot!("methods_latex", latex::text(&table));
    insta::assert_snapshot!("methods_json", json::text(&table));
}

/// The caption's lines on fits, of a table of all methods.
fn told_of_fits(results: &Results) -> Vec<String> {
    let table = json!({"name": "methods", "rows": "method", "columns": ["auroc"]});
    let caption = build(table, results).unwrap().caption;
    let lines = caption.into_iter().skip_while(|line| !line.starts_with("Protocol")).skip(1);
    lines.take_while(|line| !line.starts_with("In-distribution")).collect()
}

#[test]
fn what_fits_met_is_told_of_few_methods() {
    let mut results = results(&experiment(json!([]), json!([])));
    assert_eq!(told_of_fits(&results), [""; 0]);
    // Results of before are read as they were.
    let json = serde_json::to_value(&results).unwrap();
    assert!(!json.to_string().contains("\"fit\""));
    assert_eq!(serde_json::from_value::<Results>(json).unwrap(), results);

    let fit = |atoms: usize, passes: usize| json!({"neurons": 4694, "constant": 0, "with_atoms": atoms, "passes": passes, "mean_table_error": 0.004_249});
    for cell in &mut results.cells {
        for (seed, first) in cell.seeds.iter_mut().zip([true, false, false]) {
            seed.tasks[0].methods["MSP"].fit = Some(fit(if first { 2994 } else { 7 }, 1));
            seed.tasks[0].methods["EBD"].fit = Some(fit(2994, 2));
            seed.tasks[0].methods["Sparsity"].fit = Some(json!({"jitter": 1.26e-7, "classes_left_out": [3, 12]}));
        }
    }
    assert_eq!(
        told_of_fits(&results),
        [
            "Fits, seed 0; what is 0 is left out.",
            "MSP, EBD: neurons 4694, with atoms 2994, mean table error 0.0042.",
            "Sparsity (weight=0), Sparsity (weight=0.01): jitter 1.3e-7, classes left out 3 12.",
        ]
    );
    let json = serde_json::to_value(&results).unwrap();
    assert_eq!(serde_json::from_value::<Results>(json).unwrap(), results);

    for fit in [json!({}), json!({"jitter": 0.0, "classes_left_out": []})] {
        results.cells.iter_mut().flat_map(|cell| &mut cell.seeds).for_each(|seed| {
            seed.tasks[0].methods.values_mut().for_each(|method| method.fit = Some(fit.clone()));
        });
        assert_eq!(told_of_fits(&results), [""; 0]);
    }
    let mut cell = results.cells[1].clone();
    for weight in 2..5 {
        cell.name = format!("weight={weight}");
        cell.values["networks.tuned.loss.sparsity.weight"] = json!(weight);
        results.cells.push(cell.clone());
    }
    results.cells.iter_mut().flat_map(|cell| &mut cell.seeds).for_each(|seed| {
        seed.tasks[0].methods.values_mut().for_each(|method| method.fit = Some(fit(1, 1)));
    });
    assert_eq!(told_of_fits(&results), ["What the detectors' fits met is in results.json, under `fit`."]);
}

#[test]
fn a_narrow_terminal_gets_the_table_in_pieces() {
    let text = terminal::text(&compared(), Some(80));
    let table = text.lines().take_while(|line| !line.starts_with("* best"));
    assert!(table.into_iter().all(|line| line.chars().count() <= 80), "{text}");
    insta::assert_snapshot!("methods_terminal_narrow", text);
}

#[test]
fn ood_sets_as_rows_with_methods_side_by_side() {
    let results = results(&experiment(json!([]), json!([])));
    let table = json!({
        "name": "sets", "rows": "ood", "methods": ["EBD", "Sparsity"], "columns": ["fpr95", "auroc"],
        "sampling": "redraw", "expect": expect_table1(),
    });
    let table = build(table, &results).unwrap();
    insta::assert_snapshot!("sets_terminal", terminal::text(&table, None));
    insta::assert_snapshot!("sets_latex", latex::text(&table));
    insta::assert_snapshot!("sets_csv", csv::text(&table));
}

#[test]
fn one_seed_takes_its_spread_from_the_draws() {
    let mut results = results(&experiment(json!([]), json!([])));
    for cell in &mut results.cells {
        cell.seeds.truncate(1);
    }
    let table = |sampling: &str| {
        let table = json!({
            "name": "sets", "rows": "ood", "methods": ["EBD"], "columns": ["auroc", "accuracy"], "sampling": sampling
        });
        terminal::text(&build(table, &results).unwrap(), None)
    };
    insta::assert_snapshot!("one_seed_redraw", table("redraw"));
    insta::assert_snapshot!("one_seed_full", table("full"));
}

#[test]
fn the_sweep_as_rows_with_a_set_per_column_group() {
    let results = results(&experiment(json!([]), json!([])));
    let table = json!({
        "name": "lambda", "rows": "sweep", "columns": ["accuracy", "aupr_in", "aupr_out"], "over": "each",
        "protocol": "ood_positive_first", "methods": ["Sparsity", "MSP"],
    });
    let table = build(table, &results).unwrap();
    insta::assert_snapshot!("sweep_terminal", terminal::text(&table, None));
    insta::assert_snapshot!("sweep_markdown", markdown::text(&table));
}

/// A gap is no share: not times a hundred, and told in the caption; in the score's own unit no row is the best.
#[test]
fn gaps_stand_in_their_own_unit() {
    let results = results(&experiment(json!([]), json!([])));
    let table = json!({"name": "gaps", "rows": "method", "columns": ["auroc", "gap", "gap_sd"]});
    insta::assert_snapshot!("gaps_markdown", markdown::text(&build(table, &results).unwrap()));
}

#[test]
fn what_is_missing_is_a_dash_and_fewer_seeds_are_told() {
    let mut results = results(&experiment(json!([]), json!([])));
    results.cells[0].seeds[1].tasks[0].methods["MSP"].sets.shift_remove("svhn");
    results.cells[0].seeds.iter_mut().for_each(|seed| {
        seed.tasks[0].methods["EBD"].sets.shift_remove("svhn");
    });
    results.cells[1].seeds[2].tasks[0].methods.shift_remove("Sparsity");
    let table = json!({"name": "holes", "rows": "method", "columns": ["auroc"]});
    insta::assert_snapshot!("missing_mean", terminal::text(&build(table, &results).unwrap(), None));
    let table = json!({"name": "holes", "rows": "method", "columns": ["auroc"], "over": "each"});
    insta::assert_snapshot!("missing_each", markdown::text(&build(table, &results).unwrap()));
}

#[test]
fn a_smoke_run_is_loud_and_never_beside_a_paper() {
    let mut results = results(&experiment(json!([]), json!([])));
    results.smoke = true;
    let table = json!({"name": "smoke", "rows": "method", "columns": ["auroc"], "expect": expect_table2()});
    let error = refused(table, &results);
    assert!(error.contains("shows no \"fpr95\""), "the paper's file is checked all the same: {error}");
    let table = json!({
        "name": "smoke", "rows": "method", "columns": ["fpr95", "auroc", "aupr"], "expect": expect_table2()
    });
    let table = build(table, &results).unwrap();
    assert!(table.columns.iter().all(|column| !column.paper));
    assert!(table.notes.is_empty());
    insta::assert_snapshot!("smoke_terminal", terminal::text(&table, None));
    assert!(markdown::text(&table).contains("> **SMOKE RUN on synthetic data: numbers mean nothing**"));
    assert!(latex::text(&table).contains("\\textbf{SMOKE RUN on synthetic data: numbers mean nothing}"));
    assert!(csv::caption(&table).contains("SMOKE RUN on synthetic data: numbers mean nothing\n"));
    let csv = csv::text(&table);
    assert!(csv.lines().skip(1).all(|row| row.ends_with(",SMOKE RUN")), "{csv}");
    assert!(json::text(&table).contains("SMOKE RUN"));
}

#[test]
fn equals_are_all_best_and_a_lone_number_is_not() {
    let mut results = results(&experiment(json!([]), json!([])));
    for cell in &mut results.cells {
        for seed in &mut cell.seeds {
            // A difference that two decimals do not show.
            let mut twin = seed.tasks[0].methods["EBD"].clone();
            twin.sets.values_mut().for_each(|set| set.measures["auroc"] += 1e-6);
            seed.tasks[0].methods.insert("MSP".into(), twin);
        }
    }
    let best = |results: &Results, methods: Value| {
        let table = json!({"name": "ties", "rows": "method", "columns": ["auroc"], "methods": methods});
        let table = build(table, results).unwrap();
        table.rows.iter().map(|row| row.cells[0].best).collect::<Vec<_>>()
    };
    assert_eq!(best(&results, json!(["MSP", "EBD", "Sparsity"])), [false, false, false, true]);
    // A contest that all win has no winner, as accuracy where all methods read one network.
    assert_eq!(best(&results, json!(["MSP", "EBD"])), [false, false]);
    assert_eq!(best(&results, json!(["EBD"])), [false]);
    for method in results.cells.iter_mut().flat_map(|cell| &mut cell.seeds).map(|seed| &mut seed.tasks[0].methods) {
        method["Sparsity"].sets.values_mut().for_each(|set| set.measures["auroc"] -= 0.5);
    }
    assert_eq!(best(&results, json!(["MSP", "EBD", "Sparsity"])), [true, true, false, false]);
}

#[test]
fn what_a_table_must_be_told_with_is_in_its_notes() {
    let mut results = results(&experiment(json!([]), json!([])));
    let accuracy = json!({"name": "t", "rows": "method", "columns": ["accuracy", "auroc"], "methods": ["MSP", "EBD"]});
    let notes = |results: &Results| {
        let table = build(accuracy.clone(), results).unwrap();
        let marks = table.rows.iter().map(|row| row.marks.clone()).collect::<Vec<_>>();
        (table.notes.clone(), marks, table.caption.join("\n"))
    };
    let (none, _, caption) = notes(&results);
    assert!(none.is_empty() && !caption.contains("largest"), "{none:?} {caption}");

    // Two classes, and MSP's and EBD's detectors order images alike; the set of classes says so, not the numbers.
    results.datasets[0].class_sizes = vec![4_000, 6_000];
    let (none, _, caption) = notes(&results);
    assert!(none.is_empty(), "{none:?}");
    assert!(caption.contains("Always naming the largest of 2 classes gives 60.00 % accuracy."), "{caption}");
    for methods in results.cells.iter_mut().flat_map(|cell| &mut cell.seeds).map(|seed| &mut seed.tasks[0].methods) {
        methods["MSP"].detector = Some(json!({"msp": {}}));
        methods["EBD"].detector = Some(json!({"gen": {"gamma": 0.1}}));
    }
    let alike = "equal by nature: with two classes MSP, EBD order images alike";
    assert_eq!((notes(&results).0, notes(&results).1), (vec![alike.to_owned()], vec![vec![0], vec![0]]));
    results.datasets[0].class_sizes = vec![4_000, 5_000, 1_000];
    assert!(notes(&results).0.is_empty());

    // Accuracy near the largest class, and an AUROC below one half.
    for task in results.cells.iter_mut().flat_map(|cell| &mut cell.seeds).map(|seed| &mut seed.tasks[0]) {
        task.networks["base"].measures["accuracy"] = 0.74;
        task.methods["EBD"].sets.values_mut().for_each(|set| set.measures["auroc"] = 0.289);
    }
    let little = "network \"base\" learned little: accuracy 74.00 %, where naming the largest class gives 50.00 %";
    let wrong = "AUROC below 50: OOD images score as less anomalous than ID images";
    let expected = vec![little.to_owned(), wrong.to_owned()];
    assert_eq!((notes(&results).0, notes(&results).1), (expected.clone(), vec![vec![0], vec![0, 1]]));
    // With methods side by side, the column is marked.
    let table = json!({"name": "t", "rows": "ood", "columns": ["auroc"], "methods": ["EBD"]});
    let table = build(table, &results).unwrap();
    assert_eq!((table.notes.len(), table.columns[0].marks.len(), table.rows[0].marks.len()), (2, 1, 1));
}

#[test]
fn names_cannot_break_a_format() {
    let hostile = r"50% <of> a_b & c|d {e} $f #g ^h ~i \j *k* ±λ";
    let mut results = results(&experiment(json!([]), json!([])));
    for cell in &mut results.cells {
        for seed in &mut cell.seeds {
            let method = seed.tasks[0].methods.shift_remove("MSP").unwrap();
            seed.tasks[0].methods.insert(hostile.to_owned(), method);
        }
    }
    results.config["methods"][0]["name"] = json!(hostile);
    results.title = format!("{hostile}\nsecond line, \"quoted\"");
    let table = json!({"name": "hostile", "rows": "method", "columns": ["auroc"], "methods": [hostile]});
    let table = build(table, &results).unwrap();
    let line = |text: String| text.lines().filter(|line| line.contains("50")).collect::<Vec<_>>().join("\n");
    insta::assert_snapshot!("hostile_markdown", line(markdown::text(&table)));
    insta::assert_snapshot!("hostile_latex", line(latex::text(&table)));
    insta::assert_snapshot!("hostile_csv", line(csv::text(&table)));
    let parsed: Value = serde_json::from_str(&json::text(&table)).unwrap();
    assert_eq!(parsed["rows"][0]["labels"][0], hostile);
}

/// The first column and the AUROC of a CSV, read as `csv.reader` does; with `comment`, as `pandas.read_csv(comment="#")`.
fn read_plainly(text: &str, comment: Option<u8>) -> Vec<(String, f64)> {
    let mut reader = ::csv::ReaderBuilder::new().comment(comment).from_reader(text.as_bytes());
    let auroc = reader.headers().unwrap().iter().position(|name| name == "auroc").unwrap();
    reader.records().map(|record| record.unwrap()).map(|row| (row[0].to_owned(), row[auroc].parse().unwrap())).collect()
}

#[test]
fn the_csv_is_plain_whatever_a_method_is_called() {
    for name in ["x #1", "#1", "a \"b\" c", "a, b", "two\nlines", "two\r\nlines", "\"", "5\" #2,\n", "# , \"#\""] {
        let mut results = results(&experiment(json!([]), json!([])));
        for seed in results.cells.iter_mut().flat_map(|cell| &mut cell.seeds) {
            let method = seed.tasks[0].methods.shift_remove("MSP").unwrap();
            seed.tasks[0].methods.insert(name.to_owned(), method);
        }
        results.config["methods"][0]["name"] = json!(name);
        results.title = "A title\nof, \"two\" lines # 1".into();
        let table = json!({"name": "t", "rows": "method", "columns": ["auroc"], "methods": [name, "EBD"]});
        let table = build(table, &results).unwrap();
        let ours = |row: usize| table.rows[row].cells[0].ours.unwrap().mean;
        let expected = [(name.to_owned(), ours(0)), ("EBD".to_owned(), ours(1))];
        let text = csv::text(&table);
        assert_eq!(read_plainly(&text, None), expected, "{text}");
        assert_eq!(read_plainly(&text, Some(b'#')), expected, "{text}");
        assert!(text.starts_with("method,auroc,"), "{text}");
        let caption = csv::caption(&table);
        assert!(caption.starts_with("A title of, \"two\" lines # 1\nPercent; "), "{caption}");
    }
}

#[test]
fn the_csv_can_be_read_as_a_papers() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("ours.csv"), csv::text(&compared())).unwrap();
    let results = results(&experiment(json!([]), json!([])));
    let table = json!({
        "name": "again", "rows": "method", "columns": ["auroc"],
        "expect": {"file": "ours.csv", "source": "us", "row": "method", "sets": SETS, "columns": {"auroc": "auroc"}},
    });
    let table = table::build(&serde_json::from_value(table).unwrap(), &results, folder.path()).unwrap();
    let differences: Vec<_> = table.rows.iter().map(|row| row.cells[0].difference).collect();
    assert_eq!(differences, [Some(0.0); 4]);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let mut results = results(&experiment(json!([]), json!([])));
    let table = |change: &dyn Fn(&mut Value)| {
        let mut table = json!({
            "name": "t", "rows": "method", "columns": ["fpr95", "auroc", "aupr"], "expect": expect_table2()
        });
        change(&mut table);
        table
    };
    let mut messages = Vec::new();
    let changes: [&dyn Fn(&mut Value); 9] = [
        &|table| table["methods"] = json!(["EBD", "Sparsty"]),
        &|table| table["expect"]["file"] = json!("paper/none.csv"),
        &|table| table["expect"]["row"] = json!("methd"),
        &|table| table["expect"]["where"] = json!({"id_datset": "CIFAR-10"}),
        &|table| table["expect"]["where"] = json!({"id_dataset": "CIFAR-11"}),
        &|table| table["expect"]["where"] = json!({}),
        &|table| table["expect"]["rows"] = json!({"EBD": "EBB"}),
        &|table| table["expect"]["columns"] = json!({"auroc": "aurok"}),
        &|table| table["expect"]["columns"] = json!({"accuracy": "auroc"}),
    ];
    for change in changes {
        messages.push(refused(table(change), &results));
    }
    let folder = tempfile::tempdir().unwrap();
    for text in ["method,auroc\nEBD,nan\n", "# a comment\nmethod,auroc\nMSP,1\nEBD,9O.1\n", "method,auroc\nEBD,1,2\n"] {
        fs::write(folder.path().join("broken.csv"), text).unwrap();
        let table = json!({
            "name": "t", "rows": "method", "columns": ["auroc"],
            "expect": {"file": "broken.csv", "source": "us", "row": "method", "columns": {"auroc": "auroc"}},
        });
        let error = table::build(&serde_json::from_value(table).unwrap(), &results, folder.path()).unwrap_err();
        messages.push(error.to_string().replace(&folder.path().display().to_string(), "…"));
    }
    for cell in &mut results.cells {
        let methods = cell.seeds.iter_mut().flat_map(|seed| seed.tasks[0].methods.values_mut());
        methods.flat_map(|method| method.sets.values_mut()).for_each(|set| set.redraw = None);
    }
    messages.push(refused(table(&|table| table["sampling"] = json!("redraw")), &results));
    insta::assert_snapshot!("refused", messages.join("\n\n"));
}

/// Everything a reader is told beside the numbers.
fn told(table: &Rendered) -> String {
    let notes = table.notes.iter().enumerate().map(|(index, note)| format!("{} {note}", index + 1));
    table.caption.iter().cloned().chain(notes).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_mean_over_other_sets_is_no_replication() {
    let results = results(&experiment(json!([]), json!([])));
    let with = |rows: &str, sets: Value| {
        let mut expect = expect_table2();
        expect["sets"] = sets;
        let columns = json!(["accuracy", "auroc", "fpr95", "aupr"]);
        build(json!({"name": "t", "rows": rows, "columns": columns, "expect": expect}), &results).unwrap()
    };
    let six = json!(["textures", "svhn", "places365", "lsun_crop", "lsun_resize", "isun"]);
    for rows in ["method", "sweep"] {
        let other = with(rows, six.clone());
        let cells: Vec<_> = other.rows.iter().flat_map(|row| &row.cells).collect();
        assert!(cells.iter().any(|cell| cell.paper.is_some()), "the paper's number is shown");
        assert!(cells.iter().all(|cell| cell.difference.is_none()), "{rows}");
        let note = other.notes.iter().position(|note| {
            note == "not the paper's mean: over 3 (textures, svhn, places365), the paper's over 6 (textures, svhn, \
                     places365, lsun_crop, lsun_resize, isun)"
        });
        let note = note.unwrap_or_else(|| panic!("{}", told(&other)));
        assert!(other.columns.iter().all(|column| column.paper == column.marks.contains(&note)));

        let same = with(rows, json!(["svhn", "places365", "textures"]));
        assert!(same.rows.iter().flat_map(|row| &row.cells).any(|cell| cell.difference.is_some()), "in any order");
        assert!(!told(&same).contains("not the paper's mean"));
    }
    // As many sets, but others.
    assert!(told(&with("method", json!(["svhn", "isun", "textures"]))).contains("not the paper's mean"));
    assert!(told(&with("method", json!([]))).contains("the paper's over unstated sets"));
}

#[test]
fn a_mean_row_is_compared_by_names_too() {
    let results = results(&experiment(json!([]), json!([])));
    let folder = tempfile::tempdir().unwrap();
    let with = |text: &str| {
        fs::write(folder.path().join("paper.csv"), text).unwrap();
        let table = json!({
            "name": "t", "rows": "ood", "methods": ["EBD"], "columns": ["auroc"],
            "expect": {"file": "paper.csv", "source": "P", "row": "set", "columns": {"EBD.auroc": "auroc"}},
        });
        table::build(&serde_json::from_value(table).unwrap(), &results, folder.path()).unwrap()
    };
    let same = with("set,auroc\ntextures,1\nsvhn,2\nplaces365,3\nmean,2\n");
    assert!(same.rows[3].cells[0].difference.is_some() && !told(&same).contains("the paper's mean"), "{}", told(&same));
    let other = with("set,auroc\ntextures,1\nsvhn,2\nisun,3\nmean,2\n");
    let differences: Vec<_> = other.rows.iter().map(|row| row.cells[0].difference.is_some()).collect();
    assert_eq!(differences, [true, true, false, false]);
    assert_eq!(other.rows[3].cells[0].paper, Some(2.0));
    let note = "not the paper's mean: over 3 (textures, svhn, places365), the paper's over 3 (isun, svhn, textures)";
    assert!(other.notes.iter().any(|known| known == note), "{}", told(&other));
    // What the paper does not have needs no excuse.
    assert!(other.rows[2].marks.is_empty());
}

#[test]
fn each_set_stands_beside_the_papers() {
    let results = results(&experiment(json!([]), json!([])));
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("paper.csv"), "method,accuracy,svhn,textures\nEBD,90,80,\nMSP,91,81,\n").unwrap();
    let with = |columns: Value| {
        let table = json!({
            "name": "t", "rows": "method", "columns": ["auroc", "accuracy"], "over": "each",
            "expect": {"file": "paper.csv", "source": "P", "row": "method", "columns": columns},
        });
        let experiment = experiment(json!([table]), json!([]));
        config::check(&experiment).unwrap();
        table::build(&experiment.tables[0], &results, folder.path()).unwrap()
    };
    let table = with(json!({"accuracy": "accuracy", "svhn.auroc": "svhn", "textures.auroc": "textures"}));
    // Accuracy, textures, svhn, places365; the paper leaves textures out.
    assert_eq!(table.columns.iter().map(|column| column.paper).collect::<Vec<_>>(), [true, false, true, false]);
    assert_eq!(table.rows[1].cells[2].paper, Some(80.0));
    assert_eq!(table.rows[1].cells[2].difference, Some(table.rows[1].cells[2].ours.unwrap().mean - 80.0));
    assert!(told(&table).contains("Paper: P;"));
    // Nothing of the paper's is shown, so it is not named.
    let table = with(json!({"textures.auroc": "textures"}));
    assert!(!told(&table).contains("Paper") && table.notes.is_empty(), "{}", told(&table));
}

#[test]
fn a_set_larger_than_the_complete_one_is_no_subset() {
    let mut results = results(&experiment(json!([]), json!([])));
    results.datasets["textures"].test = 6_000;
    let table = json!({
        "name": "t", "rows": "method", "columns": ["fpr95", "auroc", "aupr"], "expect": expect_table2()
    });
    let told = told(&build(table, &results).unwrap());
    assert!(told.contains("textures (6000 test images (the complete set has 5640))"), "{told}");
    assert!(
        told.contains("not the paper's data: textures is a set of 6000 test images (the complete set has 5640)"),
        "{told}"
    );
    assert!(!told.contains("subset of 6000"));
}

#[test]
fn training_elsewhere_and_changes_on_the_command_line_are_told() {
    let mut results = results(&experiment(json!([]), json!([])));
    let table = json!({"name": "t", "rows": "method", "columns": ["accuracy", "auroc", "fpr95", "aupr"],
        "expect": expect_table2()});
    let here = "oodkit 0.1.0, commit 0123abc, cpu (2 threads, AMD EPYC)";
    let same = told(&build(table.clone(), &results).unwrap());
    assert!(same.contains(&format!("\n{here}.\n")) && !same.contains("Trained"), "{same}");

    let gpu = Environment { commit: "4567def".into(), device: "cuda (H100)".into(), ..environment() };
    results.cells[1].seeds[2].tasks[0].networks["tuned"].environment = gpu.clone();
    results.cells[1].seeds[1].tasks[0].networks["tuned"].environment = gpu;
    results.overrides = vec!["networks.tuned.train.epochs=1".into(), "seeds=[0,\u{1b}1, 2]".into()];
    let table = build(table, &results).unwrap();
    let told = told(&table);
    let elsewhere = "oodkit 0.1.0, commit 4567def, cuda (H100)";
    assert!(told.contains(&format!("Trained: {here}; {elsewhere}. Scored: {here}.")), "{told}");
    assert!(told.contains("Changed on the command line: networks.tuned.train.epochs=1, seeds=[0, 1, 2]."), "{told}");
    let note = table.notes.iter().position(|note| note == "not the paper's setting: changed on the command line");
    let note = note.expect(&told);
    assert!(table.columns.iter().all(|column| column.marks.contains(&note) == column.paper));
}

#[test]
fn what_a_table_or_text_may_not_say() {
    const GOOD: &str = r#"title: T
about: |
  one line
  and another
seeds: [0]
data: { id: mnist, ood: [fashion_mnist, digits] }
networks: { base: { backbone: lenet, train: { epochs: 1, batch_size: 8, optimizer: { sgd: { lr: 0.1 } } } } }
methods:
  - { name: MSP, network: base, detector: msp }
  - { name: EBD, network: base, detector: { energy: { temperature: 1 } } }
sweep: { methods.1.detector.energy.temperature: [1, 2] }
tables:
  - { name: a, rows: method, columns: [fpr95], expect: { file: x.csv, source: P, row: m, sets: [digits], rows: { EBD (temperature=2): E }, columns: { fpr95: f } } }
  - { name: b, rows: ood, columns: [auroc], expect: { file: x.csv, source: P, row: m, rows: { digits: D, svhn: S, mean: M }, columns: { EBD.auroc: f } } }
  - { name: c, rows: sweep, methods: [EBD], over: each, columns: [aupr], expect: { file: x.csv, source: P, row: m, rows: { temperature=1: A }, columns: { digits.aupr: f } } }
figures:
  - { sweep: { method: EBD, columns: [auroc, fpr95] } }
"#;
    let experiment = load::parse(GOOD, "good").unwrap();
    let fewer = ["data.ood=[digits]".to_owned()];
    overrides::apply(&experiment, &fewer).expect("fewer sets on the command line break no table");
    let mut said = Vec::new();
    for (from, to) in [
        ("sets: [digits], ", ""),
        ("sets: [digits], ", "sets: [digits, digits], "),
        ("rows: { digits: D", "sets: [digits], rows: { digits: D"),
        ("rows: { temperature=1: A }", "sets: [digits]"),
        ("EBD (temperature=2)", "EBDD"),
        ("EBD (temperature=2)", "EBD (temperature=3)"),
        ("EBD (temperature=2)", "mean"),
        ("digits: D", "digit: D"),
        ("mean: M", "maen: M"),
        ("temperature=1: A", "temperature=3: A"),
        ("EBD.auroc: f", "auroc: f"),
        ("EBD.auroc: f", "EBD (temperature=3).auroc: f"),
        ("digits.aupr: f", "digts.aupr: f"),
        ("digits.aupr: f", "aupr: f"),
        ("rows: ood,", "rows: ood, over: each,"),
        ("title: T", r#"title: "T\e[2J""#),
        ("title: T", r#"title: "two\nlines""#),
        ("  one line", "  one\u{202e} line"),
        ("name: MSP", r#"name: "MSP\a""#),
        ("digits: D", r#""\e": D"#),
        ("[auroc, fpr95]", "[auroc, auroc]"),
    ] {
        assert!(GOOD.contains(from), "{from}");
        let words = match load::parse(&GOOD.replacen(from, to, 1), "bad") {
            Err(Error::Input { message, .. }) => message.lines().next().unwrap_or_default().to_owned(),
            other => format!("ACCEPTED {other:?}"),
        };
        assert!(!words.contains(['\u{1b}', '\u{7}', '\u{202e}']), "{words:?}");
        said.push(format!("{from} → {}\n  {words}", to.escape_default()));
    }
    insta::assert_snapshot!("tables_and_texts_refused", said.join("\n"));
}

/// Scores that look like a network's: bell-shaped, ID low and OOD higher by `apart`.
fn scores(count: usize, apart: f64, salt: usize) -> Vec<f32> {
    // The mean of twelve low-discrepancy numbers is nearly normal, and the same on every machine.
    let number = |index: usize, term: usize| ((index * 12 + term + salt * 7919) as f64 * 0.618_033_988_749_895).fract();
    let bell = |index| {
        let mixed = index * 2_654_435_761 % 1_000_003;
        (0..12).map(|term| number(mixed * (term + 3), term)).sum::<f64>() - 6.0
    };
    (0..count).map(|index| (bell(index) * 1.6 - 9.0 + apart) as f32).collect()
}

fn write_scores(results: &Results, runs: &Path) {
    for cell in &results.cells {
        for (name, method) in &cell.seeds[0].tasks[0].methods {
            let quality = match (name.as_str(), cell.name.as_str()) {
                ("MSP", _) => 1.5,
                ("Sparsity", "weight=0.01") => 5.0,
                _ => 2.5,
            };
            for (index, path) in method.scores.values().enumerate() {
                let path = runs.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let apart = if index == 0 { 0.0 } else { quality * (1.2 - 0.2 * index as f64) };
                write_npy(&path, &scores(2_000, apart, index)).unwrap();
            }
        }
    }
}

#[test]
fn a_report_is_tables_and_figures_in_files() {
    let experiment = experiment(
        json!([
            {"name": "methods", "rows": "method", "columns": ["fpr95", "auroc", "aupr"], "expect": expect_table2()},
            {"name": "lambda", "rows": "sweep", "columns": ["auroc"]},
        ]),
        json!([
            {"roc": {"methods": ["EBD", "Sparsity"]}},
            {"histogram": {"methods": ["EBD", "Sparsity"]}},
            {"accuracy": {"networks": ["base", "tuned"]}},
            {"sweep": {"method": "Sparsity", "columns": ["fpr95", "auroc", "accuracy"]}},
        ]),
    );
    let results = results(&experiment);
    let folder = tempfile::tempdir().unwrap();
    let out = std::env::var_os("OODKIT_TEST_FIGURES").map_or(folder.path().join("out"), Into::into);
    write_scores(&results, folder.path());
    let report = report::write(&results, &experiment, Path::new("experiments"), folder.path(), &out).unwrap();

    let names: Vec<_> = report.files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "table_methods.md",
            "table_methods.csv",
            "table_methods.caption.txt",
            "table_methods.tex",
            "table_methods.json",
            "table_lambda.md",
            "table_lambda.csv",
            "table_lambda.caption.txt",
            "table_lambda.tex",
            "table_lambda.json",
            "roc_EBD_Sparsity.svg",
            "roc_EBD_Sparsity.png",
            "histogram_EBD_Sparsity.svg",
            "histogram_EBD_Sparsity.png",
            "accuracy_base_tuned.svg",
            "accuracy_base_tuned.png",
            "sweep_Sparsity.svg",
            "sweep_Sparsity.png",
        ]
    );
    assert_eq!(report.text.matches("Sparsity (weight=0.01)").count(), 1);
    let svg = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    // The first table is by the convention in which ID is positive.
    assert!(svg("roc_EBD_Sparsity.svg").contains("95 % of ID accepted: FPR95 is the share of OOD accepted"));
    let spread = "mean ± population standard deviation over 3 seeds";
    assert!(svg("sweep_Sparsity.svg").contains(&format!("{spread} of each value, not of differences between values")));
    assert!(svg("accuracy_base_tuned.svg").contains(spread));
    assert!(svg("histogram_EBD_Sparsity.svg").contains("the outermost bars count what lies beyond them"));
    for path in &report.files {
        let bytes = fs::read(path).unwrap();
        match path.extension().unwrap().to_str().unwrap() {
            "svg" => is_a_drawing(&String::from_utf8(bytes).unwrap()),
            "png" => is_a_picture(&bytes, &fs::read_to_string(path.with_extension("svg")).unwrap()),
            _ => assert!(!bytes.is_empty()),
        }
    }
    let again = report::write(&results, &experiment, Path::new("experiments"), folder.path(), &folder.path().join("b"));
    for (first, second) in report.files.iter().zip(&again.unwrap().files) {
        assert!(fs::read(first).unwrap() == fs::read(second).unwrap(), "{} differs", second.display());
    }
}

/// Well-formed as far as figures go: elements nest, attributes are quoted, and text is there.
fn is_a_drawing(svg: &str) {
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{}", &svg[..80]);
    let mut open = Vec::new();
    for tag in svg.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').expect("every < has its >");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name));
        } else if !tag.ends_with('/') {
            open.push(tag.split_whitespace().next().unwrap());
        }
    }
    assert!(open.is_empty());
    assert!(svg.contains("Sparsity &amp; energy, 100 % of CIFAR_10"));
}

/// Twice the SVG's size, with ink on it and a white border around.
fn is_a_picture(png: &[u8], svg: &str) {
    let picture = image::load_from_memory(png).unwrap().to_rgb8();
    let (width, height) = picture.dimensions();
    assert!(svg.contains(&format!("width=\"{}\" height=\"{}\"", width / 2, height / 2)), "{}", &svg[..120]);
    let white = picture.pixels().filter(|pixel| pixel.0 == [255; 3]).count();
    assert!(white > 0 && white < picture.pixels().len() * 99 / 100);
    let edge =
        (0..width).flat_map(|x| [(x, 0), (x, height - 1)]).chain((0..height).flat_map(|y| [(0, y), (width - 1, y)]));
    assert!(edge.into_iter().all(|(x, y)| picture.get_pixel(x, y).0 == [255; 3]), "something is cut off");
}

#[test]
fn the_dashed_line_of_a_roc_is_where_the_table_reads_fpr95() {
    let table = json!([{"name": "t", "rows": "method", "columns": ["fpr95"], "protocol": "openood_v1_5"}]);
    let experiment = experiment(table, json!([{"roc": {"methods": ["EBD"]}}]));
    let folder = tempfile::tempdir().unwrap();
    let results = results(&experiment);
    write_scores(&results, folder.path());
    let out = folder.path().join("out");
    report::write(&results, &experiment, Path::new("experiments"), folder.path(), &out).unwrap();
    let svg = fs::read_to_string(out.join("roc_EBD.svg")).unwrap();
    assert!(
        svg.contains("95 % of OOD rejected: FPR95 is the share of ID rejected") && !svg.contains("of ID accepted:")
    );
}

#[test]
fn a_figure_without_its_scores_names_the_file() {
    let experiment = experiment(json!([]), json!([{"roc": {"methods": ["EBD"]}}]));
    let folder = tempfile::tempdir().unwrap();
    let write = |experiment: &Experiment| {
        report::write(&results(experiment), experiment, Path::new("experiments"), folder.path(), folder.path())
            .unwrap_err()
            .to_string()
    };
    assert!(write(&experiment).contains("EBD-0/cifar10.npy"), "{}", write(&experiment));
    let unknown: Experiment = self::experiment(json!([]), json!([{"histogram": {"methods": ["EBDD"]}}]));
    assert!(write(&unknown).contains("no method \"EBDD\" (did you mean \"EBD\"?)"), "{}", write(&unknown));
    let unswept = self::experiment(json!([]), json!([{"sweep": {"method": "EBD", "columns": ["auroc"]}}]));
    assert!(write(&unswept).contains("no sweep reaches method \"EBD\""), "{}", write(&unswept));
}

/// The width and height of an SVG.
fn size(svg: &str) -> (u32, u32) {
    let number = |key: &str| svg.split_once(key).unwrap().1.split('"').next().unwrap().parse().unwrap();
    (number("width=\""), number("height=\""))
}

#[test]
fn figures_of_one_name_do_not_overwrite_each_other() {
    let sweep = |column: &str| json!({"sweep": {"method": "Sparsity", "columns": [column]}});
    let experiment = experiment(json!([]), json!([sweep("auroc"), sweep("fpr95"), sweep("aupr")]));
    let folder = tempfile::tempdir().unwrap();
    let results = results(&experiment);
    let report = report::write(&results, &experiment, Path::new("experiments"), folder.path(), folder.path()).unwrap();
    let names: Vec<_> = report.files.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    assert_eq!(
        names,
        [
            "sweep_Sparsity.svg",
            "sweep_Sparsity.png",
            "sweep_Sparsity_2.svg",
            "sweep_Sparsity_2.png",
            "sweep_Sparsity_3.svg",
            "sweep_Sparsity_3.png"
        ]
    );
    let text = |index: usize| fs::read_to_string(&report.files[index]).unwrap();
    assert!(text(0).contains("AUROC") && text(2).contains("FPR95") && text(4).contains("AUPR"));
}

#[test]
fn a_thousand_cells_and_long_names_make_a_figure_that_can_be_opened() {
    let experiment = experiment(
        json!([]),
        json!([
            {"accuracy": {"networks": ["tuned"]}},
            {"sweep": {"method": "Sparsity", "columns": ["fpr95", "auroc", "accuracy"]}},
        ]),
    );
    let mut results = results(&experiment);
    let cell = results.cells[0].clone();
    results.title = "A title that does not end ".repeat(50);
    results.cells = (0..1_000)
        .map(|index| {
            let weight = f64::from(index) * 0.001_234;
            let values = [("networks.tuned.loss.sparsity.weight".to_owned(), json!(weight))].into_iter().collect();
            Cell { name: format!("weight={weight}-and-much-more-{index}"), values, seeds: cell.seeds.clone() }
        })
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let out =
        std::env::var_os("OODKIT_TEST_FIGURES").map_or(folder.path().join("out"), |out| Path::new(&out).join("large"));
    let report = report::write(&results, &experiment, Path::new("experiments"), folder.path(), &out).unwrap();
    let svg = |name: &str| fs::read_to_string(out.join(name)).unwrap();
    for path in report.files.iter().filter(|path| path.extension().unwrap() == "svg") {
        let (width, height) = size(&fs::read_to_string(path).unwrap());
        assert!(width <= 1_600 && height <= 600, "{}: {width} × {height}", path.display());
    }
    assert!(svg("accuracy_tuned.svg").contains("the first 16 of 1000 bars"));
    assert!(svg("sweep_Sparsity.svg").contains("one of 84 values labelled"));
    assert_eq!(svg("sweep_Sparsity.svg").matches("<circle").count(), 3_000, "no value is left out of the lines");
}

/// `textures` and `svhn` are near, `places365` is far.
fn grouped(table: Value) -> Rendered {
    let mut experiment = experiment(json!([table]), json!([]));
    let mut results = results(&experiment);
    for (set, group) in SETS.into_iter().zip(["near", "near", "far"]) {
        results.datasets[set].group = Some(group.to_owned());
        experiment.data.ood.iter_mut().find(|own| own.name == set).unwrap().group = Some(group.to_owned());
    }
    results.config = serde_json::to_value(&experiment).unwrap();
    let experiments = Path::new(env!("CARGO_MANIFEST_DIR")).join("experiments");
    table::build(&experiment.tables[0], &results, &experiments).unwrap()
}

#[test]
fn groups_of_sets_have_means_of_their_own() {
    let columns = json!({
        "name": "g", "rows": "method", "methods": ["EBD"], "columns": ["accuracy", "fpr95", "auroc"],
        "over": "group", "protocol": "openood_v1_5",
    });
    let rendered = grouped(columns);
    let headers: Vec<_> = rendered.columns.iter().map(|header| header.group.as_deref()).collect();
    assert_eq!(headers, [None, Some("near"), Some("near"), Some("far"), Some("far")]);
    // EBD's quality is 0.7 on textures, 0.65 on SVHN and 0.6 on Places365, and 0.01 better with each seed.
    let means: Vec<f64> = rendered.rows[0].cells.iter().map(|cell| cell.ours.unwrap().mean).collect();
    let expected = [94.58, 98.0 * (1.0 - 0.685), 50.0 * (1.0 + 0.685), 98.0 * (1.0 - 0.61), 50.0 * (1.0 + 0.61)];
    for (ours, expected) in means.iter().zip(expected) {
        assert!((ours - expected).abs() < 1e-9, "{means:?}");
    }
    assert!(rendered.caption.iter().any(|line| line == "Mean of near: unweighted, over 2 sets (textures, svhn)."));
    assert!(rendered.caption.iter().any(|line| line.starts_with("Protocol openood_v1_5: complete OOD sets")));
    assert!(!rendered.caption.iter().any(|line| line.starts_with("OOD mean")));

    let rows = |protocol: &str| {
        let table = json!({"name": "g", "rows": "ood", "methods": ["EBD"], "columns": ["auroc"], "protocol": protocol});
        let rendered = grouped(table);
        let row = |row: &table::Row| (row.labels[0].clone(), row.summary, row.cells[0].ours.unwrap().mean);
        rendered.rows.iter().map(row).collect::<Vec<_>>()
    };
    let names = |protocol| rows(protocol).into_iter().map(|(name, summary, _)| (name, summary)).collect::<Vec<_>>();
    let expected = [
        ("textures", false),
        ("svhn", false),
        ("near mean", true),
        ("places365", false),
        ("far mean", true),
        ("mean", true),
    ];
    let expected = expected.map(|(name, summary)| (name.to_owned(), summary));
    assert_eq!(names("ood_positive_first"), expected);
    assert_eq!(names("openood_v1_5"), expected[..5]);
    assert!((rows("openood_v1_5")[2].2 - 50.0 * 1.685).abs() < 1e-9);
}

#[test]
fn a_papers_group_is_compared_over_the_same_sets_only() {
    let table = |near: Value| {
        json!({
            "name": "g", "rows": "method", "methods": ["EBD"], "columns": ["auroc"], "over": "group",
            "expect": {
                "file": "paper/sparsity_table2.csv", "source": "Nobody", "where": {"id_dataset": "CIFAR-10"},
                "row": "method", "groups": {"near": near, "far": ["places365"]},
                "columns": {"near.auroc": "auroc", "far.auroc": "aupr"},
            },
        })
    };
    let differences = |rendered: &Rendered| -> Vec<bool> {
        rendered.rows[0].cells.iter().map(|cell| cell.difference.is_some()).collect()
    };
    let same = grouped(table(json!(["svhn", "textures"])));
    assert_eq!(differences(&same), [true, true]);
    let other = grouped(table(json!(["svhn", "cifar100"])));
    assert_eq!(differences(&other), [false, true]);
    let note = "not the paper's mean: over 2 (textures, svhn), the paper's over 2 (svhn, cifar100)";
    assert!(other.notes.iter().any(|known| known == note), "{:?}", other.notes);
}

#[test]
fn energy_oods_protocol_is_that_of_the_draws() {
    let number = |table: Value| {
        let experiment = experiment(json!([table]), json!([]));
        let rendered = table::build(&experiment.tables[0], &results(&experiment), Path::new("experiments")).unwrap();
        rendered.rows[0].cells[0].ours.unwrap()
    };
    let table = json!({"name": "t", "rows": "method", "columns": ["fpr95"], "protocol": "energy_ood"});
    let spelt = json!({"name": "t", "rows": "method", "columns": ["fpr95"], "sampling": "redraw"});
    let full = json!({"name": "t", "rows": "method", "columns": ["fpr95"]});
    assert_eq!(number(table.clone()), number(spelt));
    assert_ne!(number(table), number(full));
}

#[test]
fn intervals_stand_beside_single_sets() {
    let mut results = results(&experiment(json!([]), json!([])));
    let table = json!({
        "name": "small", "rows": "method", "columns": ["accuracy", "auroc", "aupr"], "over": "each", "intervals": true,
    });
    let missing = refused(table.clone(), &results);
    assert!(
        missing.starts_with("table \"small\": the results have no intervals yet\nhint: run the experiment again"),
        "{missing}"
    );
    for (seed, result) in results.cells.iter_mut().flat_map(|cell| &mut cell.seeds).enumerate() {
        for set in result.tasks[0].methods.values_mut().flat_map(|method| method.sets.values_mut()) {
            set.intervals.insert("auroc".to_owned(), [0.5 + 0.01 * (seed % 3) as f64, 0.9]);
        }
    }
    let small = build(table.clone(), &results).unwrap();
    // Of three seeds, the mean of each end.
    let shown = markdown::text(&small);
    assert!(shown.contains("± 0.41 [51.00, 90.00] |"), "{shown}");
    assert!(shown.contains("In brackets: the 95 % interval over test images"), "{shown}");
    for text in [terminal::text(&small, None), latex::text(&small)] {
        assert!(text.contains(" [51.00, 90.00]"), "{text}");
    }
    let header = csv::text(&small).lines().next().unwrap().to_owned();
    assert!(header.starts_with("method,accuracy,accuracy_std,accuracy_n,textures.auroc,textures.auroc_std,textures.auroc_n,textures.auroc_low,textures.auroc_high,textures.aupr,textures.aupr_std,textures.aupr_n,svhn"), "{header}");
    let mut reader = ::csv::Reader::from_reader(csv::text(&small).as_bytes().to_vec().leak() as &[u8]);
    let first = reader.records().next().unwrap().unwrap();
    let low = reader.headers().unwrap().iter().position(|name| name == "textures.auroc_low").unwrap();
    assert_eq!(first[low].parse::<f64>().unwrap().round(), 51.0);
    // A mean over sets has none.
    let rows = build(
        json!({ "name": "small", "rows": "ood", "methods": ["EBD"], "columns": ["auroc"], "intervals": true }),
        &results,
    );
    let rows = rows.unwrap();
    assert!(rows.rows[..3].iter().all(|row| row.cells[0].interval.is_some()));
    assert_eq!(rows.rows[3].cells[0].interval, None);
    // Without being asked for they are not shown, and nothing of them is written.
    let mut plain = table;
    plain.as_object_mut().unwrap().remove("intervals");
    assert!(!json::text(&build(plain, &results).unwrap()).contains("interval"));
}

#[test]
fn a_confusion_matrix_shows_each_class() {
    let mut results = results(&experiment(json!([]), json!([])));
    let figure: Figure = serde_json::from_value(json!({ "confusion": { "network": "tuned" } })).unwrap();
    let drawn =
        |results: &Results| oodkit::report::figures::draw(&figure, results, Protocol::default(), Path::new("runs"));
    let missing = drawn(&results).unwrap_err();
    assert!(missing.to_string().contains("do not count what \"tuned\" confuses"), "{missing}");
    let table = json!({ "name": "t", "rows": "method", "columns": ["balanced_accuracy"] });
    assert!(refused(table, &results).contains("the results have no \"balanced_accuracy\" yet"));

    results.datasets[0].classes = ["cat", "dog", "ship"].map(str::to_owned).to_vec();
    for result in results.cells.iter_mut().flat_map(|cell| &mut cell.seeds) {
        let network = result.tasks[0].networks.get_mut("tuned").unwrap();
        network.confusion = Some(oodkit::metrics::Confusion(vec![vec![6, 4, 0], vec![1, 9, 0], vec![0, 0, 0]]));
    }
    let svg = drawn(&results).unwrap().remove(0).svg;
    let texts: Vec<&str> = svg.lines().filter(|line| !line.trim_start().starts_with('<') && !line.is_empty()).collect();
    for expected in ["60", "40", "10", "90", "cat", "dog", "ship", "taken for", "class"] {
        assert!(texts.iter().any(|text| text.trim() == expected), "{expected}: {texts:?}");
    }
    assert!(svg.contains("3 seeds together"), "{svg}");
    let refused = serde_json::from_value::<Figure>(json!({ "confusion": { "networks": ["tuned"] } }));
    assert!(refused.is_err());
}

#[test]
fn a_sweep_shows_what_seeds_share_as_differences() {
    let results = results(&experiment(json!([]), json!([])));
    let drawn = |figure: Value| {
        let figure: Figure = serde_json::from_value(figure).unwrap();
        oodkit::report::figures::draw(&figure, &results, Protocol::default(), Path::new("runs")).unwrap().remove(0).svg
    };
    let figure = json!({ "sweep": { "method": "Sparsity", "columns": ["auroc"] } });
    assert!(drawn(figure).contains("over 3 seeds of each value, not of differences between values"));
    // Every seed gains as much as every other: the numbers spread by 0.41, the differences by nothing, so there is no band.
    let svg = drawn(json!({ "sweep": { "method": "Sparsity", "columns": ["auroc"], "differences": true } }));
    assert!(svg.contains("of the differences of 3 seeds, each to its own"), "{svg}");
    assert!(svg.contains("difference to 0.0, points") && !svg.contains("<polygon"), "{svg}");
}

/// What a run would have logged of a network's training.
fn write_log(runs: &Path, network: &str, steps: u64, terms: &[&str]) {
    let folder = runs.join("networks").join(network).join("seed0");
    fs::create_dir_all(&folder).unwrap();
    let mut lines = String::new();
    for step in 1..=steps {
        let loss = 1.0 / step as f64;
        let terms: serde_json::Map<String, Value> =
            terms.iter().zip(1..).map(|(name, part)| ((*name).to_owned(), json!(loss / f64::from(part)))).collect();
        lines +=
            &json!({"event": "step", "step": step, "epoch": 0, "lr": 0.1, "loss": loss, "terms": terms}).to_string();
        lines += "\n";
        if step % 10 == 0 {
            lines += &json!({"event": "epoch", "epoch": 0, "step": step, "loss": loss, "validation": 2.0 * loss})
                .to_string();
            lines += "\n";
        }
    }
    fs::write(folder.join("metrics.jsonl"), lines).unwrap();
}

#[test]
fn losses_are_drawn_of_what_training_logged() {
    let experiment = experiment(json!([]), json!([]));
    let mut results = results(&experiment);
    for cell in &mut results.cells {
        let tuned = &mut cell.seeds[0].tasks[0].networks["tuned"];
        tuned.folder = format!("networks/tuned-{}/seed0", cell.name).into();
    }
    let folder = tempfile::tempdir().unwrap();
    let drawn = |networks: &[&str]| {
        let figure: Figure = serde_json::from_value(json!({ "training": { "networks": networks } })).unwrap();
        oodkit::report::figures::draw(&figure, &results, Protocol::default(), folder.path())
    };
    let missing = drawn(&["base"]).unwrap_err().to_string();
    assert!(missing.contains("\"base\" has no record of training") && missing.contains("metrics.jsonl"), "{missing}");
    write_log(folder.path(), "base", 1000, &["cross_entropy"]);
    write_log(folder.path(), "tuned-weight=0", 30, &["cross_entropy", "sparsity"]);
    write_log(folder.path(), "tuned-weight=0.01", 2, &["cross_entropy", "sparsity"]);
    let drawn_once = drawn(&["tuned", "base"]).unwrap().remove(0);
    assert_eq!(drawn_once.stem, "training_tuned_base");
    assert_eq!(drawn(&["tuned", "base"]).unwrap().remove(0), drawn_once);
    is_a_drawing(&drawn_once.svg);
    is_a_picture(&drawn_once.png, &drawn_once.svg);
    if let Some(out) = std::env::var_os("OODKIT_TEST_FIGURES") {
        fs::write(Path::new(&out).join("training.png"), &drawn_once.png).unwrap();
    }
    for told in [
        "tuned (weight=0)",
        "tuned (weight=0.01)",
        "base",
        "step, means of 4",
        "loss, log scale",
        "train images, all terms with their weights",
        "held-out images",
        "sparsity, without its weight",
    ] {
        assert!(drawn_once.svg.contains(told), "{told}");
    }
    // A lone term is the whole loss.
    let base = drawn(&["base"]).unwrap().remove(0).svg;
    assert!(!base.contains("cross_entropy") && base.contains("train images"));
    let unknown = drawn(&["bas"]).unwrap_err().to_string();
    assert!(
        unknown.contains("figure training: the results have no network \"bas\" (did you mean \"base\"?)"),
        "{unknown}"
    );
    fs::write(folder.path().join("networks/base/seed0/metrics.jsonl"), "{\"event\": 3}\n").unwrap();
    let damaged = drawn(&["base"]).unwrap_err().to_string();
    assert!(damaged.contains("metrics.jsonl:1: no line of a log"), "{damaged}");
}
