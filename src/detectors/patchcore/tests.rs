use candle_core::{Device, Tensor};
use garde::Validate as _;

use super::{
    super::{
        DetectorConfig, Fit,
        golden_maps::{Golden, bank, config, score},
    },
    *,
};

fn golden() -> Golden {
    serde_json::from_str(include_str!("../../../tests/golden/patchcore.json")).unwrap()
}

#[test]
fn equal_to_numpy_with_all_patches() {
    golden().check("patchcore");
}

fn fitted(yaml: &str, train: &Bank, memory: usize) -> (serde_json::Value, Vec<f32>) {
    let scorer = config(yaml).build().fit(&Fit { train: Some(train), memory, ..Fit::default() }).unwrap();
    let scores = scorer.score(train).unwrap();
    (scorer.record().unwrap(), scores.maps().unwrap().values().to_vec())
}

/// Of the train images' own patches, those in the bank are at distance 0.
#[test]
fn a_bank_keeps_as_many_patches_as_it_is_to() {
    let train = golden().train();
    let zeros = |yaml: &str, memory: usize| {
        let (record, maps) = fitted(yaml, &train, memory);
        assert_eq!(maps.len(), 12 * 12);
        let zeros = maps.iter().filter(|distance| **distance == 0.0).count();
        assert_eq!(record["kept"], zeros, "{yaml}: {record}");
        (record["sampled"].as_u64().unwrap(), zeros)
    };
    assert_eq!(zeros("patchcore", 1 << 20), (144, 15));
    assert_eq!(zeros("patchcore: { coreset: { size: 20, subsample: 50, projection: 3 } }", 1 << 20), (50, 20));
    assert_eq!(zeros("patchcore: { coreset: { choose: random, share: 0.25 } }", 1 << 20), (36, 36));
    // (6 + 3) · 4 + 16 bytes, and a quarter more, for each patch.
    assert_eq!(zeros("patchcore: { coreset: { size: 20, projection: 3 } }", 65 * 30), (30, 20));
    let (record, _) = fitted("patchcore: { coreset: { size: 20, projection: 3 } }", &train, 65 * 30);
    assert_eq!(record["memory"], "the sample is as large as evaluation.fit_memory lets it be");
    let error = config("patchcore").build().fit(&Fit { train: Some(&train), memory: 40, ..Fit::default() });
    assert!(error.err().unwrap().to_string().contains("patchcore needs 50 bytes for a patch"));
}

/// A greedy bank leaves no patch as far away as a random one of the same size does.
#[test]
fn a_greedy_bank_covers_more_than_a_random_one() {
    let train = golden().train();
    let farthest = |yaml: &str| fitted(yaml, &train, 1 << 20).1.into_iter().fold(0.0, f32::max);
    for seed in 0..3 {
        let greedy = farthest(&format!("patchcore: {{ seed: {seed}, coreset: {{ size: 20 }} }}"));
        let random = farthest(&format!("patchcore: {{ seed: {seed}, coreset: {{ size: 20, choose: random }} }}"));
        assert!(greedy < 0.8 * random, "{greedy}, {random}");
    }
}

#[test]
fn equal_patches_are_kept_once() {
    let ones = Tensor::ones((4, 2, 3, 3), candle_core::DType::F32, &Device::Cpu).unwrap();
    let train = bank(vec![("a".into(), ones)], [6, 6]);
    // Corners, edges and the middle.
    let (record, maps) = fitted("patchcore: { coreset: { size: 20 } }", &train, 1 << 20);
    assert_eq!((record["kept"].as_u64(), maps), (Some(3), vec![0.0; 36]));
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    let problem = |yaml: &str| config(yaml).validate().unwrap_err().to_string();
    assert!(problem("patchcore: { coreset: { size: 5, share: 0.5 } }").contains("stands beside `size`"));
    assert!(problem("patchcore: { coreset: { size: 50, subsample: 20 } }").contains("more than the 20"));
    assert!(problem("patchcore: { neighbourhood: 4 }").contains("must be odd"));
    assert!(problem("patchcore: { stages: [] }").contains("names no stage"));
    assert!(problem("patchcore: { stages: [a, b, a] }").contains("\"a\" is named twice"));
    assert!(problem("patchcore: { score: { top: 0 } }").contains("lower than"));
    assert!(matches!(config("patchcore"), DetectorConfig::Patchcore(config) if config.validate().is_ok()));
    let test = golden().test();
    assert!(score(&config("patchcore: { reweight: 500, coreset: { size: 4 } }"), &test, &test).is_ok());
}
