//! Ranking metrics against scikit-learn and energy_ood, their invariances, aggregation, and score files.

use std::path::Path;

use oodkit::{
    Error,
    metrics::{
        self, Better, Column, Confusion, MeanStd, Measures, Protocol, Ranking, Tpr, Unit, accuracy, intervals,
        measure_for, measures, of_scores,
        ranking::{Positive, Score},
        read_scores, redraw, run_cli, write_npy,
    },
};
use proptest::prelude::*;

#[derive(serde::Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    f32: bool,
    #[serde(deserialize_with = "numbers")]
    id: Vec<f64>,
    #[serde(deserialize_with = "numbers")]
    ood: Vec<f64>,
    expected: Measures,
}

/// Numbers in a string: serde_json's own may be one bit off.
fn numbers<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<f64>, D::Error> {
    let text: String = serde::Deserialize::deserialize(deserializer)?;
    Ok(text.split(' ').map(|number| number.parse().unwrap()).collect())
}

fn golden() -> Vec<Case> {
    serde_json::from_str::<Golden>(include_str!("golden/metrics.json")).unwrap().cases
}

fn narrow(scores: &[f64]) -> Vec<f32> {
    scores.iter().map(|score| *score as f32).collect()
}

fn assert_close(got: &Measures, expected: &Measures, what: &str) {
    assert_eq!(expected.len(), 7);
    for (key, expected) in expected {
        let got = got[key];
        assert!((got - expected).abs() <= 1e-12, "{what}: {key} is {got}, expected {expected}");
    }
}

#[test]
fn equal_to_scikit_learn_and_energy_ood() {
    let cases = golden();
    assert!(cases.len() > 30);
    for case in cases {
        assert_close(&of_scores(&case.id, &case.ood).unwrap(), &case.expected, &case.name);
        if case.f32 {
            let (id, ood) = (narrow(&case.id), narrow(&case.ood));
            assert_close(&of_scores(&id, &ood).unwrap(), &case.expected, &format!("{} in f32", case.name));
        }
    }
}

/// By trying every score as a threshold.
#[test]
fn the_best_f1_is_that_of_the_best_threshold() {
    for case in golden() {
        let f1 = |threshold: f64| {
            let caught = |scores: &[f64]| scores.iter().filter(|score| **score >= threshold).count() as f64;
            let (hits, false_hits) = (caught(&case.ood), caught(&case.id));
            2.0 * hits / (case.ood.len() as f64 + hits + false_hits)
        };
        let best = case.id.iter().chain(&case.ood).copied().map(f1).fold(0.0, f64::max);
        let got = of_scores(&case.id, &case.ood).unwrap()["best_f1_out"];
        assert!((got - best).abs() < 1e-12, "{}: {got}, expected {best}", case.name);
    }
}

#[test]
fn single_functions_are_the_fields() {
    for case in golden() {
        let ranking = Ranking::new(&case.id, &case.ood).unwrap();
        let all = ranking.areas();
        assert_eq!(all.auroc, ranking.auroc());
        assert_eq!(all.aupr_in_ap, ranking.average_precision(Positive::Id));
        assert_eq!(all.aupr_out_ap, ranking.average_precision(Positive::Ood));
        assert_eq!(all.aupr_in_trapezoid, ranking.trapezoid(Positive::Id));
        assert_eq!(all.aupr_out_trapezoid, ranking.trapezoid(Positive::Ood));
    }
}

fn message(error: Error) -> String {
    assert_eq!(error.exit_code(), 2, "{error} is not an input error");
    error.to_string()
}

#[test]
fn bad_scores_are_refused_with_their_index() {
    let refused = |id: &[f32], ood: &[f32]| message(of_scores(id, ood).unwrap_err());
    assert_eq!(refused(&[], &[1.0]), "there are no ID scores");
    assert_eq!(refused(&[1.0], &[]), "there are no OOD scores");
    assert_eq!(refused(&[1.0, f32::NAN, f32::NAN], &[1.0]), "ID score 1 is NaN");
    assert_eq!(refused(&[1.0], &[0.0, 1.0, f32::NEG_INFINITY]), "OOD score 2 is -inf");
}

#[test]
fn many_scores_keep_twelve_digits() {
    // 300 000 distinct scores against closed forms: OOD i sits above exactly i + 1 of n ID scores.
    let n = 150_000usize;
    let id: Vec<f32> = (0..n).map(|i| (2 * i) as f32).collect();
    let ood: Vec<f32> = (0..n).map(|i| (2 * i + 1) as f32).collect();
    let got = of_scores(&id, &ood).unwrap();
    assert!((got["auroc"] - (n as f64 + 1.0) / (2.0 * n as f64)).abs() < 1e-15);
    // With ID positive, threshold i accepts i ID and i − 1 OOD scores: mean of i / (2 i − 1), summed from the small end.
    let ap = (1..=n).rev().map(|i| i as f64 / (2 * i - 1) as f64 - 0.5).sum::<f64>() / n as f64 + 0.5;
    assert!((got["aupr_in_ap"] - ap).abs() < 1e-14);
}

/// energy_ood's walk over thresholds, literally, in O(n²).
fn closest_by_enumeration(id: &[f32], ood: &[f32]) -> f64 {
    let mut thresholds: Vec<f32> = id.iter().chain(ood).copied().collect();
    thresholds.sort_by(f32::total_cmp);
    thresholds.dedup();
    let accepted = |scores: &[f32], at: f32| scores.iter().filter(|score| **score <= at).count();
    let complete = thresholds.iter().position(|at| accepted(id, *at) == id.len()).unwrap();
    let mut best = (f64::INFINITY, 0.0);
    for at in thresholds[..=complete].iter().rev() {
        let distance = (accepted(id, *at) as f64 / id.len() as f64 - 0.95).abs();
        if distance < best.0 {
            best = (distance, accepted(ood, *at) as f64 / ood.len() as f64);
        }
    }
    best.1
}

/// OpenOOD's rule on every threshold, in O(n²).
fn first_by_enumeration(id: &[f32], ood: &[f32]) -> f64 {
    let mut thresholds = ood.to_vec();
    thresholds.sort_by(|a, b| b.total_cmp(a));
    let share =
        |scores: &[f32], at: f32| scores.iter().filter(|score| **score >= at).count() as f64 / scores.len() as f64;
    let at = thresholds.into_iter().find(|at| share(ood, *at) >= 0.95).unwrap();
    share(id, at)
}

/// Scores with many ties, few ties, or none.
fn scores() -> impl Strategy<Value = Vec<f32>> {
    let value = prop_oneof![(0..4i32).prop_map(|x| x as f32), (0..60i32).prop_map(|x| x as f32), -1e6f32..1e6];
    proptest::collection::vec(value, 1..120)
}

/// The measures that are shares: they depend on the order of scores alone.
fn shares<S: Score>(id: &[S], ood: &[S]) -> Measures {
    let mut measures = of_scores(id, ood).unwrap();
    measures.retain(|key, _| measures::find(key).unwrap().unit == Unit::Share);
    assert_eq!(measures.len(), 8);
    measures
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn thresholds_are_those_of_the_literal_rules(id in scores(), ood in scores()) {
        let got = of_scores(&id, &ood).unwrap();
        prop_assert_eq!(got["fpr95_id_positive_closest"], closest_by_enumeration(&id, &ood));
        prop_assert_eq!(got["fpr95_ood_positive_first"], first_by_enumeration(&id, &ood));
    }

    #[test]
    fn strictly_monotone_maps_change_nothing(id in scores(), ood in scores()) {
        let map = |scores: &[f32]| -> Vec<f64> {
            scores.iter().map(|score| f64::from(*score)).map(|score| score.cbrt().mul_add(3.0, -7.0)).collect()
        };
        prop_assert_eq!(shares(&id, &ood), shares(&map(&id), &map(&ood)));
    }

    #[test]
    fn swapping_the_classes_mirrors(id in scores(), ood in scores()) {
        let (got, swapped) = (of_scores(&id, &ood).unwrap(), of_scores(&ood, &id).unwrap());
        prop_assert!((got["auroc"] + swapped["auroc"] - 1.0).abs() < 1e-15);
        let negate = |scores: &[f32]| -> Vec<f32> { scores.iter().map(|score| -score).collect() };
        let mirrored = of_scores(&negate(&ood), &negate(&id)).unwrap();
        prop_assert!((got["auroc"] - mirrored["auroc"]).abs() < 1e-15);
        prop_assert!((got["aupr_in_ap"] - mirrored["aupr_out_ap"]).abs() < 1e-14);
        prop_assert!((got["aupr_in_trapezoid"] - mirrored["aupr_out_trapezoid"]).abs() < 1e-14);
    }

    #[test]
    fn order_does_not_matter_to_the_bit(
        (id, shuffled_id) in scores().prop_flat_map(|id| (Just(id.clone()), Just(id).prop_shuffle())),
        (ood, shuffled_ood) in scores().prop_flat_map(|ood| (Just(ood.clone()), Just(ood).prop_shuffle())),
    ) {
        prop_assert_eq!(shares(&id, &ood), shares(&shuffled_id, &shuffled_ood));
    }

    #[test]
    fn repeating_all_scores_changes_nothing(id in scores(), ood in scores()) {
        let got = shares(&id, &ood);
        let twice = shares(&[id.clone(), id].concat(), &[ood.clone(), ood].concat());
        for ((key, a), (_, b)) in got.iter().zip(twice.iter()) {
            prop_assert!((a - b).abs() < 1e-14, "{}: {} and {}", key, a, b);
        }
    }

    #[test]
    fn metrics_are_shares(id in scores(), ood in scores()) {
        for (key, value) in shares(&id, &ood) {
            prop_assert!((0.0..=1.0).contains(&value), "{} is {}", key, value);
        }
    }
}

#[test]
fn means_and_population_deviations() {
    assert_eq!(MeanStd::of(&[1.0, 2.0, 3.0, 6.0]), MeanStd { mean: 3.0, std: 3.5f64.sqrt(), n: 4 });
    assert_eq!(MeanStd::of(&[0.1]), MeanStd { mean: 0.1, std: 0.0, n: 1 });
    assert_eq!(MeanStd::of(&[0.1; 3]).std, 0.0);
    let none = MeanStd::of(&[]);
    assert!(none.mean.is_nan() && none.std.is_nan() && none.n == 0);
}

#[test]
fn redraw_takes_random_subsets() {
    let id: Vec<f32> = (0..50).map(|i| i as f32).collect();
    let ood: Vec<f32> = (0..40).map(|i| (i + 20) as f32).collect();
    let full = of_scores(&id, &ood).unwrap();

    let drawn = redraw(&id, &ood, 200, 10, 0, "svhn").unwrap();
    let shares = full.keys().filter(|key| measures::find(key).unwrap().unit == Unit::Share);
    assert!(drawn.keys().eq(shares));
    let auroc = drawn["auroc"];
    assert_eq!(auroc.n, 200);
    // The AUROC of a random subset is unbiased; 0.04 is several standard errors of the mean of 200 draws.
    assert!(auroc.std > 0.01 && (auroc.mean - full["auroc"]).abs() < 0.04, "{auroc:?} and {}", full["auroc"]);

    assert_eq!(drawn, redraw(&id, &ood, 200, 10, 0, "svhn").unwrap());
    assert_ne!(drawn, redraw(&id, &ood, 200, 10, 1, "svhn").unwrap());
    assert_ne!(drawn, redraw(&id, &ood, 200, 10, 0, "isun").unwrap());

    // Without replacement: a subset as large as the set is the set, and a smaller set is used whole.
    for size in [40, 41, 1000] {
        for (key, value) in redraw(&id, &ood, 3, size, 0, "svhn").unwrap() {
            assert_eq!((value.mean, value.std, value.n), (full[&key], 0.0, 3));
        }
    }
    assert!(redraw(&id, &ood, 0, 10, 0, "svhn").is_err());
    assert!(redraw(&id, &ood, 1, 0, 0, "svhn").is_err());
    assert!(redraw(&id, &[], 1, 10, 0, "svhn").is_err());
}

#[test]
fn accuracy_counts_the_first_largest() {
    let logits = |rows: &[[f32; 3]]| {
        candle_core::Tensor::from_slice(rows.as_flattened(), (rows.len(), 3), &candle_core::Device::Cpu).unwrap()
    };
    let rows = logits(&[[0.0, 1.0, 2.0], [3.0, 3.0, 1.0], [3.0, 3.0, 1.0], [-1.0, -2.0, -3.0]]);
    assert_eq!(accuracy(&rows, &[2, 0, 1, 0]).unwrap(), 0.75);
    assert_eq!(accuracy(&rows, &[7, 7, 7, 7]).unwrap(), 0.0);
    assert_eq!(accuracy(&logits(&[[f32::NAN, f32::NAN, f32::NAN]]), &[0]).unwrap(), 0.0);
    assert!(accuracy(&rows, &[0]).is_err());
}

#[test]
fn columns_mean_what_the_protocol_says() {
    use Protocol::{IdPositiveClosest, OodPositiveFirst};
    let all = [Column::Fpr95, Column::Auroc, Column::Aupr, Column::AuprIn, Column::AuprOut];
    let keys = |protocol| all.map(|column| measure_for(column, protocol).unwrap().key.into_owned());
    assert_eq!(
        keys(IdPositiveClosest),
        ["fpr95_id_positive_closest", "auroc", "aupr_in_ap", "aupr_in_ap", "aupr_out_ap"]
    );
    assert_eq!(
        keys(OodPositiveFirst),
        ["fpr95_ood_positive_first", "auroc", "aupr_out_trapezoid", "aupr_in_trapezoid", "aupr_out_trapezoid"]
    );
    let better = |column| measure_for(column, OodPositiveFirst).unwrap().better;
    assert_eq!(better(Column::Fpr95), Better::Smaller);
    assert_eq!(better(Column::Gap), Better::Neither);
    for column in [Column::Accuracy, Column::Auroc, Column::AuprIn, Column::AuprOut, Column::GapSd] {
        assert_eq!(better(column), Better::Larger);
    }
    for column in [Column::Accuracy, Column::BalancedAccuracy, Column::WorstClassAccuracy] {
        assert_eq!(
            measure_for(column, OodPositiveFirst).unwrap().key,
            serde_json::to_value(column).unwrap().as_str().unwrap()
        );
    }
    let mut keys: Vec<&str> = measures::ALL.iter().map(|measure| &*measure.key).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), measures::ALL.len(), "a key stands for one measure");
}

#[test]
fn a_gap_is_in_units_and_in_deviations() {
    // Means 2 and 5; ID scores 1, 3 deviate by 1.
    let gap = |id: &[f32], ood: &[f32]| {
        let measures = of_scores(id, ood).unwrap();
        (measures["gap"], measures.get("gap_sd").copied())
    };
    assert_eq!(gap(&[1.0, 3.0], &[4.0, 6.0]), (3.0, Some(3.0)));
    assert_eq!(gap(&[2.0, 6.0], &[8.0, 12.0]), (6.0, Some(3.0)));
    assert_eq!(gap(&[1.0, 1.0], &[0.0]), (-1.0, None));
}

#[derive(serde::Deserialize)]
struct GoldenIntervals {
    cases: Vec<IntervalCase>,
    classes: Classes,
}

#[derive(serde::Deserialize)]
struct IntervalCase {
    name: String,
    #[serde(deserialize_with = "numbers")]
    id: Vec<f64>,
    #[serde(deserialize_with = "numbers")]
    ood: Vec<f64>,
    auroc_variance: f64,
    auroc: [f64; 2],
    fpr95_id_positive_closest: [f64; 2],
    fpr95_ood_positive_first: [f64; 2],
}

#[derive(serde::Deserialize)]
struct Classes {
    #[serde(deserialize_with = "numbers")]
    logits: Vec<f64>,
    labels: Vec<u32>,
    confusion: Confusion,
    accuracy: f64,
    balanced_accuracy: f64,
    worst_class_accuracy: f64,
}

fn golden_intervals() -> GoldenIntervals {
    serde_json::from_str(include_str!("golden/intervals.json")).unwrap()
}

#[test]
fn intervals_are_delongs_and_the_bootstraps() {
    for case in golden_intervals().cases {
        let variance = Ranking::new(&case.id, &case.ood).unwrap().auroc_variance().unwrap();
        assert!((variance - case.auroc_variance).abs() < 1e-14, "{}: {variance}", case.name);
        let found = intervals(&case.id, &case.ood, (0, "x"), &[]).unwrap();
        for end in [0, 1] {
            assert!((found["auroc"][end] - case.auroc[end]).abs() < 1e-12, "{}: {found:?}", case.name);
            // An end moves by a step of one image's share, and by what a thousand resamples leave open.
            for (key, expected) in [
                ("fpr95_id_positive_closest", case.fpr95_id_positive_closest),
                ("fpr95_ood_positive_first", case.fpr95_ood_positive_first),
            ] {
                let width = expected[1] - expected[0];
                if width == 0.0 {
                    assert!(!found.contains_key(key), "{} {key}: {found:?}", case.name);
                    continue;
                }
                let off = (found[key][end] - expected[end]).abs();
                assert!(off <= 0.1 * width + 1e-12, "{} {key}: {:?}, numpy {expected:?}", case.name, found[key]);
            }
        }
        assert_eq!(found, intervals(&case.id, &case.ood, (0, "x"), &[]).unwrap());
    }
}

#[test]
fn intervals_are_left_out_where_they_would_say_nothing() {
    let keys = |id: &[f64], ood: &[f64]| intervals(id, ood, (0, ""), &[]).unwrap().into_keys().collect::<Vec<_>>();
    let rates = ["fpr95_id_positive_closest", "fpr95_ood_positive_first"];
    // One image, and scores that do not overlap: DeLong's variance is none or 0, which is not certainty.
    assert_eq!(keys(&[1.0], &[0.0, 2.0]), rates);
    assert!(keys(&[1.0, 2.0], &[3.0, 4.0]).is_empty());
    let many: Vec<f64> = (0..=metrics::intervals::MOST_RESAMPLED).map(|score| score as f64).collect();
    assert_eq!(keys(&many, &[0.5, 3.5]), ["auroc"]);
    let rate = measures::fpr_at("0.8".parse().unwrap(), Protocol::OodPositiveFirst);
    let found = intervals(&[1.0, 2.0, 5.0], &[3.0, 4.0, 2.5], (0, ""), std::slice::from_ref(&rate)).unwrap();
    assert!(found.contains_key(&*rate.key) && rate.has_interval());
    assert!(!measures::find("gap").unwrap().has_interval());
}

#[test]
fn classes_are_counted_as_scikit_learn_counts_them() {
    let Classes { logits, labels, confusion, accuracy: share, balanced_accuracy, worst_class_accuracy } =
        golden_intervals().classes;
    let logits = candle_core::Tensor::from_vec(narrow(&logits), (labels.len(), 4), &candle_core::Device::Cpu).unwrap();
    let found = Confusion::of(&logits, &labels).unwrap();
    assert_eq!(found, confusion);
    // The last class has no test images.
    assert_eq!(found.by_class()[3], None);
    assert_eq!(accuracy(&logits, &labels).unwrap(), share);
    let of = measures::of_logits(&logits, &labels).unwrap();
    assert!((of["balanced_accuracy"] - balanced_accuracy).abs() < 1e-15);
    assert_eq!(of["worst_class_accuracy"], worst_class_accuracy);
    // The first of equal logits, as accuracy takes it.
    let rows = candle_core::Tensor::new(&[[3f32, 3.0, 1.0], [0.0, 1.0, 1.0]], &candle_core::Device::Cpu).unwrap();
    assert_eq!(Confusion::of(&rows, &[1, 1]).unwrap().0, [[0, 0, 0], [1, 1, 0], [0, 0, 0]]);
    assert!(message(Confusion::of(&rows, &[1, 3]).unwrap_err()).contains("the label of image 1 is 3"));
    let nan = candle_core::Tensor::new(&[[f32::NAN, 3.0]], &candle_core::Device::Cpu).unwrap();
    assert!(message(Confusion::of(&nan, &[1]).unwrap_err()).contains("the logits of image 0 are not all numbers"));
}

/// A `.npy` file of format `version` with this header and data.
fn npy(version: u8, header: &str, data: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY".to_vec();
    bytes.extend([version, 0]);
    match version {
        1 => bytes.extend((header.len() as u16).to_le_bytes()),
        _ => bytes.extend((header.len() as u32).to_le_bytes()),
    }
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn read(name: &str, bytes: &[u8]) -> oodkit::Result<Vec<f64>> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    read_scores(&path)
}

/// The message without the temporary folder.
fn refused(name: &str, bytes: &[u8]) -> String {
    let message = message(read(name, bytes).unwrap_err());
    message[message.find(name).unwrap()..].to_owned()
}

#[test]
fn numpy_files_are_read() {
    let bytes = include_bytes!("golden/npy/f4.npy");
    assert_eq!(read("F4.NPY", bytes).unwrap(), [0.5, -1.25, f64::from(3e38f32)]);
    // Written by numpy.save; see tests/golden/npy.py.
    for (name, expected) in [
        ("f4", vec![0.5, -1.25, 3e38f32 as f64]),
        ("f8_big_endian", vec![0.1, -2.5, 1e300]),
        ("i8_column", vec![-3.0, 0.0, 9_007_199_254_740_992.0]),
        ("u1_fortran_column", vec![0.0, 7.0, 255.0]),
        ("bool", vec![1.0, 0.0]),
        ("i2_big_endian_v2", vec![-2.0, 300.0]),
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/npy/{name}.npy"));
        assert_eq!(read_scores(&path).unwrap(), expected, "{name}");
    }
}

#[test]
fn written_files_read_back_and_are_numpys_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scores.npy");
    write_npy(&path, &[0.5, -1.25, 3e38]).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), include_bytes!("golden/npy/f4.npy"));
    let many: Vec<f32> = (0..300_001).map(|i| i as f32 * 0.1).collect();
    write_npy(&path, &many).unwrap();
    assert_eq!(narrow(&read_scores(&path).unwrap()), many);
    // A file is no folder.
    assert!(write_npy(&path.join("scores.npy"), &many).is_err());
}

#[test]
fn bad_numpy_files_are_refused() {
    let f4 = |shape: &str| format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
    let numbers = |scores: &[f32]| scores.iter().flat_map(|score| score.to_le_bytes()).collect::<Vec<u8>>();
    let cases: [(&str, Vec<u8>, &str); 17] = [
        ("empty", vec![], "not a .npy file: it does not start with \\x93NUMPY and a version"),
        ("text", b"1.0\n2.0\n3.0\n".to_vec(), "not a .npy file: it does not start with \\x93NUMPY and a version"),
        ("version", npy(9, "", &[]), "version 9.0 of the .npy format is unknown"),
        ("cut", b"\x93NUMPY\x01\x00\xff\xff".to_vec(), "the .npy header claims 65535 bytes; at most 10000 are read"),
        (
            "cut",
            b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(),
            "the .npy header claims 4294967295 bytes; at most 10000 are read",
        ),
        ("cut", b"\x93NUMPY\x01\x00\x80\x00{'descr'".to_vec(), "the .npy header is cut off"),
        ("cut", b"\x93NUMPY\x01\x00\x80".to_vec(), "the .npy header is cut off"),
        ("keys", npy(1, "{}", &[]), "the .npy header lacks 'descr'"),
        ("deep", npy(1, &"(".repeat(9999), &[]), "the .npy header lacks 'descr'"),
        (
            "claims",
            npy(1, &f4("(1000000000000,)"), &[0; 4]),
            "the header says 1000000000000 numbers of 4 bytes, but 4 bytes follow it",
        ),
        (
            "overflow",
            npy(1, &f4("(18446744073709551615,)"), &[0; 4]),
            "the header says 18446744073709551615 numbers of 4 bytes, but 4 bytes follow it",
        ),
        ("short", npy(1, &f4("(2,)"), &[0; 7]), "the header says 2 numbers of 4 bytes, but 7 bytes follow it"),
        (
            "matrix",
            npy(1, &f4("(2, 2)"), &[0; 16]),
            "the array's shape is [2, 2], but scores are one number per image, (N) or (N, 1)",
        ),
        (
            "scalar",
            npy(1, &f4("()"), &[0; 4]),
            "the array's shape is [], but scores are one number per image, (N) or (N, 1)",
        ),
        ("shape", npy(1, &f4("(-1,)"), &[0; 4]), "the .npy header's shape is not a tuple of numbers"),
        ("none", npy(1, &f4("(0,)"), &[]), "there are no scores"),
        ("nan", npy(1, &f4("(3,)"), &numbers(&[0.0, 1.0, f32::NAN])), "the score with index 2 (counted from 0) is NaN"),
    ];
    for (name, bytes, expected) in cases {
        let name = format!("{name}.npy");
        assert_eq!(refused(&name, &bytes), format!("{name}: {expected}"));
    }
    let typed = |descr: &str| {
        refused("type.npy", &npy(2, &format!("{{'descr': {descr}, 'fortran_order': False, 'shape': (1,), }}"), &[0; 8]))
    };
    for descr in ["'<c8'", "'|O'", "'<f2'", "'<U3'", "''", "'é'"] {
        assert!(typed(descr).contains("are not read; use scores.astype(\"float32\")"), "{}", typed(descr));
    }
    assert!(typed("[('a', '<f4')]").contains("numbers of type"));
    let beyond = npy(1, "{'descr': '<i8', 'fortran_order': False, 'shape': (1,), }", &(1i64 << 53 | 1).to_le_bytes());
    assert_eq!(
        refused("big.npy", &beyond),
        "big.npy: the integer with index 0 is beyond ±2^53: f64 cannot hold it exactly"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_numpy_file_panics(header in ".{0,80}", version in 1u8..4, data in proptest::collection::vec(any::<u8>(), 0..64)) {
        let _ = read("any.npy", &npy(version, &header, &data));
        let typed = format!("{{'descr': '<f4', 'shape': {header}}}");
        let _ = read("any.npy", &npy(version, &typed, &data));
    }
}

#[test]
fn csv_files_are_read() {
    assert_eq!(read("s.csv", b"1\n-2.5\n3e-1").unwrap(), [1.0, -2.5, 0.3]);
    assert_eq!(read("s.csv", b"\xef\xbb\xbfscore\r\n1\r\n\r\n2\r\n").unwrap(), [1.0, 2.0]);
    assert_eq!(read("s.csv", b"\"score\"\n\"1.5\"\n\" 2 \"\n").unwrap(), [1.5, 2.0]);
    assert_eq!(read("s.csv", b"\"MSP\"\n1.5\n").unwrap(), [1.5]);
    // numpy.savetxt(header=…).
    assert_eq!(read("s.csv", b"# energy\n1.0e+00\n2.0e+00\n").unwrap(), [1.0, 2.0]);
    assert_eq!(read("S.CSV", b"1\n2\n").unwrap(), [1.0, 2.0]);
    assert_eq!(refused("s.csv", b"score\n"), "s.csv: there are no scores");
    assert_eq!(refused("s.csv", b"1\ntwo\n"), "s.csv, line 2: \"two\" is not a number");
    assert_eq!(refused("s.csv", b"1,2\n"), "s.csv, line 1: 2 columns, and none is called score");
    assert_eq!(refused("s.csv", b"id,ood\n1\n"), "s.csv, line 1: 2 columns, and none is called score");
    assert_eq!(refused("s.csv", b"a\n1\nNaN\n"), "s.csv, line 3: the score with index 1 (counted from 0) is NaN");
    assert_eq!(refused("s.csv", b"1e999\n"), "s.csv, line 1: the score with index 0 (counted from 0) is inf");
    assert_eq!(refused("s.csv", b"1\n\xff\xff\n"), "s.csv, line 2: \"\u{fffd}\u{fffd}\" is not a number");
    // Lines are counted where they end in \r\n and where some are empty.
    assert_eq!(refused("s.csv", b"a\r\n1\r\n\r\n  \r\nx\r\n"), "s.csv, line 5: \"x\" is not a number");
    assert_eq!(refused("s.csv", b"1.2.3\n"), "s.csv, line 1: \"1.2.3\" is not a number");
    assert_eq!(refused("s.csv", b"1\n2,3\n"), "s.csv, line 2: 2 columns, where the first line has 1 column");
    assert_eq!(refused("s.txt", b"1\n"), "s.txt: scores are read from .npy and .csv files");
    assert!(read_scores(Path::new("missing.npy")).is_err());
}

#[test]
fn the_column_score_is_read_of_several() {
    // oodkit's own scores.csv, names with commas, quotes and line ends included.
    let folder = tempfile::tempdir().unwrap();
    let names = ["a.png", "b, c.png", "d \"e\".png", "f\ng.png"];
    let mut csv = csv::Writer::from_writer(Vec::new());
    csv.write_record(["file", "score"]).unwrap();
    for (name, score) in names.iter().zip(["0", "-1.5", "2", "3"]) {
        csv.write_record([name, score]).unwrap();
    }
    let path = folder.path().join("scores.csv");
    std::fs::write(&path, csv.into_inner().unwrap()).unwrap();
    assert_eq!(read_scores(&path).unwrap(), [0.0, -1.5, 2.0, 3.0]);
    // As pandas writes a frame with its index, and predictions.csv.
    assert_eq!(read("s.csv", b",Score\n0,0.5\n1,0.25\n").unwrap(), [0.5, 0.25]);
    let predictions = b"file,class,probability,score,decision\na.png,3,0.5,-2.5,ID\n";
    assert_eq!(read("s.csv", predictions).unwrap(), [-2.5]);
    assert_eq!(refused("s.csv", b",0\n0,0.5\n"), "s.csv, line 1: 2 columns, and none is called score");
    assert_eq!(refused("s.csv", b"score,Score\n1,2\n"), "s.csv, line 1: 2 columns are called score");
    assert_eq!(
        refused("s.csv", b"file,score\na.png,1\nb.png\n"),
        "s.csv, line 3: 1 column, where the first line has 2 columns"
    );
    assert_eq!(refused("s.csv", b"file,score\na.png,\n"), "s.csv, line 2: \"\" is not a number");
}

#[test]
fn a_first_line_that_may_be_a_header_is_not_counted_in_silence() {
    // pandas.Series(scores).to_csv(path, index=False) writes 0 above them.
    let pandas = |scores: usize| {
        let lines: String = (0..scores).map(|score| format!("{}\n", score as f64 + 0.5)).collect();
        format!("0\n{lines}").into_bytes()
    };
    let expected = "s.csv, line 1: 0 is a header or a score; the 200 numbers below it are written with a point";
    assert_eq!(refused("s.csv", &pandas(200)), expected);
    assert_eq!(refused("s.csv", &[&b"\xef\xbb\xbf"[..], &pandas(200)].concat()), expected);
    assert_eq!(refused("s.csv", b"\"0\"\n0.5\n"), expected.replace("200 numbers", "1 numbers"));
    // A column's number, as pandas writes it above one of several.
    let third = [&b"3"[..], &pandas(200)[1..]].concat();
    assert_eq!(read("s.csv", &third).unwrap().len(), 201);
    assert_eq!(read("s.csv", b"3\n1\n0.5\n").unwrap(), [3.0, 1.0, 0.5]);
    assert!(refused("s.csv", &vec![b'1'; (1 << 20) + 1]).ends_with("a line of more than 1048576 bytes"));
    assert_eq!(read("s.csv", b"0.0\n0.5\n").unwrap(), [0.0, 0.5]);
    assert_eq!(read("s.csv", b"0\n").unwrap(), [0.0]);
    // Whole numbers may be scores: counted, and said.
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let said_of = |text: &str| {
        let (id, ood) = (path("id.csv", text), path("ood.csv", "3\n4\n"));
        let output = assert_cmd::Command::cargo_bin("oodkit")
            .unwrap()
            .arg("metrics")
            .arg("--id")
            .arg(id)
            .arg("--ood")
            .arg(ood)
            .output();
        String::from_utf8(output.unwrap().stderr).unwrap()
    };
    assert!(said_of("3\n0.5\n1.5\n").contains("id.csv, line 1: 3 is counted as a score, of 3; as a header it would"));
    assert_eq!(said_of("3\n1\n0.5\n"), "");
    let (id, ood) = (path("id.csv", "0\n1\n2\n"), path("ood.csv", "3\n4\n"));
    let mut command = assert_cmd::Command::cargo_bin("oodkit").unwrap();
    let output = command.arg("metrics").arg("--id").arg(&id).arg("--ood").arg(&ood).assert().success();
    let said = String::from_utf8(output.get_output().stderr.clone()).unwrap();
    let expected = "id.csv, line 1: 0 is counted as a score, of 3; as a header it would be called score\n";
    assert!(said.ends_with(expected) && said.lines().count() == 1, "{said}");
}

#[test]
fn what_is_wrong_with_a_score_file_comes_with_advice() {
    let advice = |name: &str, bytes: &[u8]| read(name, bytes).unwrap_err().advice().unwrap_or_default().to_owned();
    let f4 = "{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }\n";
    for (name, bytes, expected) in [
        ("a.npy", b"text".to_vec(), "numpy.save"),
        ("a.npy", npy(1, f4, &[0; 7]), "numpy.save"),
        ("a.npy", npy(1, f4, &f32::NAN.to_le_bytes().repeat(2)), "find out where it comes from"),
        ("a.npy", npy(1, &f4.replace("(2,)", "(0,)"), &[]), "numpy.save"),
        ("a.csv", b"".to_vec(), "numpy.save"),
        ("a.csv", b"1\ntwo\n".to_vec(), "one number per line"),
        ("a.csv", b"1\ninf\n".to_vec(), "find out where it comes from"),
        ("a.csv", b"0\n1.5\n".to_vec(), "header=[\"score\"]"),
        ("a.txt", b"1\n".to_vec(), "numpy.save"),
    ] {
        assert!(advice(name, &bytes).contains(expected), "{name}: {}", advice(name, &bytes));
    }
}

#[test]
fn the_command_prints_every_field_at_full_precision() {
    let folder = tempfile::tempdir().unwrap();
    let case = golden().into_iter().find(|case| case.name == "random").unwrap();
    let path = |name: &str, scores: &[f64]| {
        let path = folder.path().join(name);
        let lines: Vec<String> = scores.iter().map(f64::to_string).collect();
        std::fs::write(&path, lines.join("\n")).unwrap();
        path
    };
    let (id, ood) = (path("id.csv", &case.id), path("ood.csv", &case.ood));
    let expected = of_scores(&case.id, &case.ood).unwrap();

    let text = run_cli(&id, &ood, true).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let keys: Vec<&str> = json.as_object().unwrap().keys().map(String::as_str).collect();
    let measured = expected.keys().map(String::as_str);
    assert!(keys.into_iter().eq(measured.chain(["n_id", "n_ood", "intervals"])));
    for (key, value) in expected.iter() {
        assert!(text.contains(&format!("\"{key}\": {value}")), "{key} is {value} in {text}");
    }
    let found = intervals(&case.id, &case.ood, (0, ""), &[]).unwrap();
    assert_eq!(json["intervals"], serde_json::json!(found));
    assert!(found.keys().eq(["auroc", "fpr95_id_positive_closest", "fpr95_ood_positive_first"]));
    assert_eq!((json["n_id"].as_u64(), json["n_ood"].as_u64()), (Some(150), Some(100)));

    let plain = run_cli(&id, &ood, false).unwrap();
    let (plain, about) = plain.rsplit_once('\n').unwrap();
    let lines: Vec<(&str, &str)> = plain.lines().map(|line| line.split_once("  ").unwrap()).collect();
    assert_eq!(lines.len(), expected.len() + 2);
    for ((name, value), (key, expected)) in lines.iter().zip(expected.iter()) {
        let (value, interval) = value.trim().split_once("  ").unwrap_or((value.trim(), ""));
        assert_eq!((name.trim(), value.parse()), (key.as_str(), Ok(*expected)));
        let [low, high] = found.get(key.as_str()).copied().unwrap_or_default();
        assert_eq!(interval, if high > 0.0 { format!("[{low:.4}, {high:.4}]") } else { String::new() });
    }
    assert!(about.contains("by DeLong's variance of the AUROC, by a bootstrap of FPR95"));
    assert!(message(run_cli(&id, &path("bad.csv", &[0.0, f64::NAN]), true).unwrap_err()).contains("bad.csv, line 2"));
}

#[test]
fn a_threshold_accepts_at_least_the_share() {
    let id: Vec<f64> = (1..=20).rev().map(f64::from).collect();
    let threshold = |tpr| oodkit::metrics::threshold(&id, tpr);
    assert_eq!([0.95, 0.951, 0.5, 1.0, 1e-9].map(threshold), [19.0, 20.0, 10.0, 20.0, 1.0].map(Some));
    // Equal scores are accepted together.
    assert_eq!(oodkit::metrics::threshold(&[2.0, 2.0, 2.0, 1.0], 0.5), Some(2.0));
    assert_eq!(oodkit::metrics::threshold(&[], 0.95), None);
}

/// By walking every threshold, as the two conventions are defined.
#[test]
fn fpr_at_any_rate_is_that_of_its_convention() {
    let share = |scores: &[f64], count: &dyn Fn(f64) -> bool| {
        scores.iter().filter(|score| count(**score)).count() as f64 / scores.len() as f64
    };
    for case in golden() {
        let (id, ood) = (&case.id, &case.ood);
        let mut thresholds: Vec<f64> = id.iter().chain(ood).copied().collect();
        thresholds.sort_by(f64::total_cmp);
        thresholds.dedup();
        for text in ["0.5", "0.8", "0.9", "0.95", "0.999", "1"] {
            let tpr: Tpr = text.parse().unwrap();
            let [closest, first] = [Protocol::IdPositiveClosest, Protocol::OodPositiveFirst]
                .map(|convention| measures::fpr_at(tpr, convention));
            assert_eq!(closest.key, format!("fpr@{text}_id_positive_closest"));
            assert_eq!(first.key, format!("fpr@{text}_ood_positive_first"));
            let got = measures::of_scores_and(id, ood, &[closest.clone(), first.clone()]).unwrap();
            // The strictest threshold, score ≥ it, that catches the rate.
            let caught = thresholds.iter().rev().find(|at| share(ood, &|score| score >= **at) >= tpr.share()).unwrap();
            assert_eq!(got[&*first.key], share(id, &|score| score >= *caught), "{} {text}", case.name);
            // The share of ID images accepted that is closest; of equally close ones the larger, of equal ones the loosest threshold.
            let accepted = |at: f64| share(id, &|score| score <= at);
            let distance = |at: f64| (accepted(at) - tpr.share()).abs();
            let best = thresholds.iter().map(|at| distance(*at)).fold(f64::INFINITY, f64::min).min(tpr.share());
            let at = thresholds.iter().rev().find(|at| distance(**at) == best).copied();
            let fpr = at.map_or(0.0, |at| share(ood, &|score| score <= at));
            // At recall 1 the walk starts at the strictest threshold.
            let all = id.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let fpr = if at.is_some_and(|at| accepted(at) == 1.0) { share(ood, &|score| score <= all) } else { fpr };
            assert_eq!(got[&*closest.key], fpr, "{} {text}", case.name);
            if text == "0.95" {
                assert_eq!(got[&*closest.key], got["fpr95_id_positive_closest"]);
                assert_eq!(got[&*first.key], got["fpr95_ood_positive_first"]);
            }
        }
    }
    for wrong in ["0", "-0.1", "1.1", "NaN", "", "0.12345678", "95"] {
        let error = serde_json::from_value::<Column>(format!("fpr@{wrong}").into()).unwrap_err().to_string();
        assert!(error.contains("the rate is a number above 0 and up to 1"), "{wrong}: {error}");
    }
    let column: Column = serde_json::from_str("\"fpr@0.90\"").unwrap();
    assert_eq!(serde_json::to_string(&column).unwrap(), "\"fpr@0.9\"");
    assert_eq!(serde_json::from_str::<Column>("\"auroc\"").unwrap(), Column::Auroc);
    assert!(serde_json::from_str::<Column>("\"aurok\"").unwrap_err().to_string().contains("unknown variant `aurok`"));
}
