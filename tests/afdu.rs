//! AFDU: golden values from numpy, scipy and KDEpy, properties, and the whole detector on made-up layers.

use std::sync::Arc;

use candle_core::{Device, Tensor};
use oodkit::{
    Result,
    detectors::{
        Bank, Batches, Detector, Fit, LayerShape,
        afdu::{
            Aggregate, Config, Constant, Engine, Granularity, Layers, Tap,
            bandwidth::{Rule, bandwidth, isj_t},
            density::{Density, exp},
            factor::Neighbourhood,
            fit,
            kmeans::{Clusters, Distinct, kmeans},
            neuron::{Model, Neuron},
            score,
            table::{NODES, Table},
            view,
        },
    },
    nn::{Shown, pass::Layer},
    ops::Activation,
    rng,
};
use proptest::prelude::*;
use rand_distr::{Distribution, StandardNormal};
use serde::Deserialize;

#[derive(Deserialize)]
struct Golden {
    isj: Vec<GoldenIsj>,
    kmeans: Vec<GoldenKmeans>,
    factors: Vec<GoldenFactors>,
    layers: std::collections::BTreeMap<String, GoldenLayer>,
    cap: f64,
    scores: std::collections::BTreeMap<String, Vec<f64>>,
}

#[derive(Deserialize)]
struct GoldenIsj {
    name: String,
    points: Vec<f64>,
    weights: Vec<f64>,
    kdepy_grid: [f64; 2],
    kdepy_t: f64,
    bandwidth: Option<f64>,
}

#[derive(Deserialize)]
struct GoldenKmeans {
    name: String,
    values: Vec<f32>,
    cases: Vec<GoldenClusters>,
}

#[derive(Deserialize)]
struct GoldenClusters {
    clusters: usize,
    least: f64,
}

#[derive(Deserialize)]
struct GoldenFactors {
    name: String,
    centres: Vec<f32>,
    weights: Vec<f64>,
    k: usize,
    sigma: f64,
    bandwidth: f64,
    at: Vec<f32>,
    log_density: Vec<f64>,
    log_factor: Vec<f64>,
}

#[derive(Deserialize)]
struct GoldenLayer {
    train: Vec<f32>,
    test: Vec<f32>,
}

fn golden() -> Golden {
    serde_json::from_str(include_str!("golden/afdu.json")).unwrap()
}

fn near(a: f64, b: f64, tolerance: f64, what: &str) {
    assert!((a - b).abs() <= tolerance * b.abs().max(1.0), "{what}: {a}, expected {b}");
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// `count` standard normal numbers.
fn normal(count: usize, name: &str) -> Vec<f32> {
    StandardNormal.sample_iter(&mut rng::stream(0, "afdu test", name)).take(count).collect()
}

fn sorted(mut values: Vec<f32>) -> Vec<f32> {
    values.sort_by(f32::total_cmp);
    values
}

fn model(values: &[f32], config: &Config) -> Model {
    match Neuron::fit(&mut values.to_vec(), config) {
        Neuron::Varied(model) => model,
        other => panic!("{other:?}"),
    }
}

fn exact(model: &Model, values: &[f32]) -> Vec<f32> {
    let mut factors = vec![0.0; values.len()];
    model.log_factors_of(values, &mut factors);
    factors
}

fn tabulated(model: &Model, values: &[f32]) -> Vec<f32> {
    let table = Table::new(model);
    let mut factors = vec![0.0; values.len()];
    table.curve().log_factors(model.cap() as f32, values, &mut factors);
    factors
}

#[test]
fn isj_equals_kdepy_up_to_its_defects() {
    for case in golden().isj {
        let t = isj_t(&case.points, &case.weights, case.kdepy_grid[0]..case.kdepy_grid[1]).unwrap();
        near(t / case.kdepy_t, 1.0, 1e-4, &case.name);
        let found = bandwidth(Rule::Isj, &case.points, &case.weights);
        assert_eq!(found.is_some(), case.bandwidth.is_some(), "{}", case.name);
        near(found.unwrap_or(1.0) / case.bandwidth.unwrap_or(1.0), 1.0, 1e-5, &case.name);
    }
    // Measured with KDEpy's equation when the design was made: 500 quantiles of a normal variable.
    let normal = &golden().isj[0];
    near(bandwidth(Rule::Isj, &normal.points, &normal.weights).unwrap(), 0.34837, 2e-5, "normal");
}

#[test]
fn rules_of_thumb_are_the_textbooks() {
    let points: Vec<f64> = (0..100).map(f64::from).collect();
    let ones = vec![1.0; 100];
    let deviation = (9999.0_f64 / 12.0).sqrt();
    near(bandwidth(Rule::Scott, &points, &ones).unwrap(), 1.06 * deviation * 100f64.powf(-0.2), 1e-12, "Scott");
    // The interquartile range divided by 1.34 is larger than the deviation here.
    near(bandwidth(Rule::Silverman, &points, &ones).unwrap(), 0.9 * deviation * 100f64.powf(-0.2), 1e-12, "Silverman");
    let mut tails = points.clone();
    tails[99] = 1e6;
    near(bandwidth(Rule::Silverman, &tails, &ones).unwrap(), 0.9 * 50.0 / 1.34 * 100f64.powf(-0.2), 1e-12, "tails");
}

/// The sum of squared distances from the centres.
fn squares(data: &Distinct, clusters: &Clusters) -> f64 {
    let mut cost = 0.0;
    let mut first = 0;
    for (centre, end) in clusters.centres.iter().zip(&clusters.ends) {
        for index in first..*end {
            cost += data.counts[index] * (data.values[index] - centre).powi(2);
        }
        first = *end;
    }
    cost
}

/// The least such sum of any clusters: dynamic programming over the last cluster's start, which never falls as its end grows.
fn least_squares(data: &Distinct, clusters: usize) -> f64 {
    let count = data.values.len();
    let mut sums = vec![[0.0; 3]];
    for (value, n) in data.values.iter().zip(&data.counts) {
        let x = value - data.values[count / 2];
        let [counts, moments, powers] = sums[sums.len() - 1];
        sums.push([counts + n, moments + n * x, powers + n * x * x]);
    }
    let cost = |first: usize, end: usize| {
        let [count, moment, power] = std::array::from_fn(|of| sums[end][of] - sums[first][of]);
        (power - moment * moment / count).max(0.0)
    };
    let mut best: Vec<f64> = (0..=count).map(|end| if end == 0 { 0.0 } else { cost(0, end) }).collect();
    for used in 1..clusters {
        let mut next = vec![f64::INFINITY; count + 1];
        // Ends, and the starts among which their best one is.
        let mut open = vec![(used + 1..count + 1, used..count)];
        while let Some((ends, starts)) = open.pop() {
            if ends.is_empty() {
                continue;
            }
            let end = usize::midpoint(ends.start, ends.end);
            let among = (starts.start..starts.end.min(end)).map(|start| (best[start] + cost(start, end), start));
            let (least, start) = among.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
            next[end] = least;
            open.extend([(ends.start..end, starts.start..start + 1), (end + 1..ends.end, start..starts.end)]);
        }
        best = next;
    }
    best[count]
}

/// As many clusters as the detector makes. The distance from the optimum is measured, and a little more.
#[test]
fn five_hundred_clusters_are_nearly_the_best_possible() {
    type Shape = fn(f32) -> f32;
    let shapes: [(&str, Shape, f64); 4] = [
        ("normal", |x| x, 1.25),
        ("ReLU", |x| (x + 0.3).max(0.0), 1.25),
        ("two modes", |x| x + 6.0 * x.signum(), 1.25),
        ("heavy tails", |x| x * x * x, 1.25),
    ];
    for (name, shape, most) in shapes {
        let data = Distinct::of(&sorted(normal(6000, &format!("clusters {name}")).into_iter().map(shape).collect()));
        let clusters = kmeans(&data, 500);
        let (found, least) = (squares(&data, &clusters), least_squares(&data, 500));
        println!("{name}: {found:e} by {} clusters, {least:e} at least, {}", clusters.centres.len(), found / least);
        assert!(found >= least * (1.0 - 1e-9) && found <= least * most, "{name}: {found}, at least {least}");
    }
}

#[test]
fn clusters_are_nearly_the_best_possible() {
    for case in golden().kmeans {
        let data = Distinct::of(&sorted(case.values.clone()));
        for expected in case.cases {
            let clusters = kmeans(&data, expected.clusters);
            let cost = squares(&data, &clusters);
            near(least_squares(&data, expected.clusters) / expected.least, 1.0, 1e-6, "the optimum");
            let what = format!("{} into {}: {cost}, at least {}", case.name, expected.clusters, expected.least);
            // Measured, and a little more. Four clusters of the mixture end in a local optimum.
            let most = match (case.name.as_str(), expected.clusters) {
                ("mixture", 4) => 1.54,
                ("mixture", 20) => 1.06,
                ("rounded", 20) => 1.19,
                ("relu", 20) => 1.35,
                _ => 1.01,
            };
            assert!(cost >= expected.least * (1.0 - 1e-9) && cost <= expected.least * most, "{what}");
            assert_eq!(clusters.centres.len(), expected.clusters);
            assert!(clusters.centres.is_sorted_by(|a, b| a < b));
            assert_eq!(clusters.counts.iter().sum::<f64>(), case.values.len() as f64);
        }
    }
}

#[test]
fn densities_and_factors_equal_scipy_and_numpy() {
    for case in golden().factors {
        let density = Density::new(&wide(&case.centres), &case.weights, case.bandwidth);
        let neighbourhood = Neighbourhood::new(&density, case.k, case.sigma);
        assert_eq!(neighbourhood.breaks.len(), case.centres.len().saturating_sub(case.k));
        let positions: Vec<f64> = case.at.iter().map(|at| density.position(f64::from(*at))).collect();
        let mut found = positions.clone();
        density.log_sums(&mut found);
        let scale = (case.bandwidth * (2.0 * std::f64::consts::PI).sqrt()).ln();
        for index in 0..positions.len() {
            let what = format!("{} at {}", case.name, case.at[index]);
            // gaussian_kde underflows far out.
            if case.log_density[index].is_finite() {
                near(found[index] - scale, case.log_density[index], 1e-6, &what);
            }
            near(neighbourhood.log_density(positions[index]) - found[index], case.log_factor[index], 2e-6, &what);
        }
    }
}

#[test]
fn scores_equal_numpy() {
    let golden = golden();
    let layers = |of: fn(&GoldenLayer) -> &Vec<f32>, images: usize| {
        let layers = golden.layers.iter().map(|(name, layer)| {
            let values = of(layer).clone();
            let shape = (images, values.len() / images);
            (name.clone(), Tensor::from_vec(values, shape, &Device::Cpu).unwrap(), Activation::Relu)
        });
        Made::bank(layers.collect())
    };
    let (train, test) = (layers(|layer| &layer.train, 80), layers(|layer| &layer.test, 6));
    for (name, expected) in &golden.scores {
        for (engine, tolerance) in [(Engine::Exact, 1e-5), (Engine::Tabulated, 3e-2)] {
            let aggregate = serde_json::from_value(serde_json::json!(name)).unwrap();
            let config = Config { aggregate, engine, tap: Tap::Pre, cap: golden.cap, ..Config::default() };
            let found = scores(&config, &train, &test);
            for (found, expected) in found.iter().zip(expected) {
                near(f64::from(*found), *expected, tolerance, &format!("{name}, {engine:?}"));
            }
        }
    }
}

#[test]
fn the_exponential_is_accurate() {
    for step in -8700..=8800 {
        let x = step as f32 / 100.0;
        let expected = f64::from(x).exp();
        assert!((f64::from(exp(x)) / expected - 1.0).abs() < 2e-7, "{x}");
    }
    assert_eq!(exp(0.0), 1.0);
    assert!(exp(-1e9) < 1e-37 && exp(1e9).is_finite() && exp(f32::NAN).is_nan());
}

#[test]
fn usual_values_have_a_factor_of_one_and_far_ones_a_large_one() {
    let config = Config::default();
    let model = model(&normal(5000, "bulk"), &config);
    let usual = exact(&model, &[-1.0, -0.3, 0.0, 0.5, 1.2]);
    assert!(usual.iter().all(|factor| factor.abs() < 0.1), "{usual:?}");
    let far = exact(&model, &[4.5, 6.0, 9.0, 1e9, f32::INFINITY, f32::NEG_INFINITY, f32::NAN]);
    assert!(far.is_sorted() && far[0] > 1.0 && far[3..].iter().all(|factor| *factor == 80.0), "{far:?}");
}

#[test]
fn weights_are_repetitions() {
    let points = wide(&sorted(normal(60, "points")));
    let weights: Vec<f64> = (0..60).map(|index| f64::from(index % 4 + 1)).collect();
    let values: Vec<f32> =
        points.iter().zip(&weights).flat_map(|(point, weight)| vec![*point as f32; *weight as usize]).collect();
    let config = Config::default();
    let repeated = model(&values, &config);
    near(
        repeated.density.bandwidth,
        bandwidth(Rule::Isj, &points, &weights).unwrap(),
        1e-9,
        "the bandwidth of repeated values",
    );
    let weighted = Density::new(&points, &weights, repeated.density.bandwidth);
    assert_eq!(weighted.centres(), repeated.density.centres());
    assert_eq!(weighted.weights(), repeated.density.weights());
}

#[test]
fn tables_stand_for_exact_factors() {
    let config = Config::default();
    type Shape = fn(f32) -> f32;
    // With the mean error, the largest from the 2nd to the 98th percentile, and the largest anywhere: measured, and a
    // little more. The largest are where the neighbourhood's density takes a step.
    let shapes: [(&str, Shape, [f64; 3]); 6] = [
        ("normal", |x| x, [0.003, 0.04, 0.15]),
        ("ReLU", |x| (x + 0.3).max(0.0), [0.002, 0.03, 0.1]),
        ("bimodal", |x| x + 6.0 * x.signum(), [0.005, 0.07, 0.8]),
        ("far off", |x| 1000.0 + 0.01 * x, [0.003, 0.03, 0.3]),
        ("two needles", |x| 1000.0 * x.signum() + x.powi(3), [0.002, 0.04, 0.2]),
        ("heavy tails", |x| x * x * x, [0.02, 0.25, 0.25]),
    ];
    for (name, shape, [mean, usually, anywhere]) in shapes {
        let values: Vec<f32> = normal(4000, name).into_iter().map(shape).collect();
        let model = model(&values, &config);
        let error = Table::new(&model).error(&model);
        let sorted = sorted(values);
        let usual: Vec<f32> = (80..3920).map(|rank| f32::midpoint(sorted[rank], sorted[rank + 1])).collect();
        let pairs = exact(&model, &usual).into_iter().zip(tabulated(&model, &usual));
        let off = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let bandwidths = model.density.centres().last().unwrap() * 2.0;
        println!("{name}: {error:?}, usually {off}, {bandwidths} bandwidths");
        assert!(error.mean < mean && f64::from(off) < usually && error.largest < anywhere, "{name}: {error:?}, {off}");
        let ends: Vec<f32> = [-1e30, -1e4, 1e4, 1e30, f32::NAN].to_vec();
        assert_eq!(exact(&model, &ends), tabulated(&model, &ends), "{name}");
    }
    assert_eq!(Table::new(&model(&normal(100, "size"), &config)).nodes.len(), NODES);
}

/// Layers made up for a test.
#[derive(Debug, Clone)]
struct Made {
    layers: Vec<Layer>,
    batch: usize,
}

impl Made {
    fn bank(layers: Vec<(String, Tensor, Activation)>) -> Bank {
        let layers: Vec<Layer> =
            layers.into_iter().map(|(name, values, activation)| Layer { name, values, activation }).collect();
        Self { layers, batch: 7 }.into_bank()
    }

    fn into_bank(self) -> Bank {
        let images = self.images();
        let nothing = Tensor::zeros((images, 1), candle_core::DType::F32, &Device::Cpu).unwrap();
        Bank { batches: Some(Arc::new(self)), ..Bank::new(nothing.clone(), nothing) }
    }
}

impl Batches for Made {
    fn images(&self) -> usize {
        self.layers[0].values.dims()[0]
    }

    fn layers(&self) -> Result<Vec<LayerShape>> {
        Ok(self.layers.iter().map(LayerShape::from).collect())
    }

    fn pass(&self, _: &str, _: bool, each: &mut dyn FnMut(usize, &Shown) -> Result<()>) -> Result<()> {
        for start in (0..self.images()).step_by(self.batch) {
            let count = self.batch.min(self.images() - start);
            let part = |layer: &Layer| Layer { values: layer.values.narrow(0, start, count).unwrap(), ..layer.clone() };
            each(start, &Shown { layers: self.layers.iter().map(part).collect(), ..Shown::default() })?;
        }
        Ok(())
    }

    fn subset(&self, images: &[usize]) -> Result<Arc<dyn Batches>> {
        let indices = Tensor::new(images.iter().map(|image| *image as u32).collect::<Vec<_>>(), &Device::Cpu)?;
        let part = |layer: &Layer| Ok(Layer { values: layer.values.index_select(&indices, 0)?, ..layer.clone() });
        Ok(Arc::new(Self { layers: self.layers.iter().map(part).collect::<Result<_>>()?, batch: self.batch }))
    }
}

fn scores(config: &Config, train: &Bank, test: &Bank) -> Vec<f32> {
    let fit = Fit { train: Some(train), memory: 1 << 30, ..Fit::default() };
    config.fit(&fit).unwrap().score(test).unwrap().as_slice().to_vec()
}

/// A convolution of 3 maps of 4×5 pixels and a linear layer of 10.
fn layers(images: usize, name: &str, scale: f32) -> Made {
    let values = |count: usize, layer: &str| {
        normal(images * count, &format!("{name} {layer}")).into_iter().map(|x| x * scale).collect::<Vec<_>>()
    };
    let maps = Tensor::from_vec(values(60, "conv"), (images, 3, 4, 5), &Device::Cpu).unwrap();
    let last = Tensor::from_vec(values(10, "fc"), (images, 10), &Device::Cpu).unwrap();
    let layer = |name: &str, values, activation| Layer { name: name.into(), values, activation };
    Made { layers: vec![layer("conv", maps, Activation::Relu), layer("fc", last, Activation::Identity)], batch: 16 }
}

fn fitted(config: &Config, train: &Made, memory: usize, scratch: Option<&std::path::Path>) -> fit::Fitted {
    fit::fit(config, train, memory, scratch).unwrap()
}

#[test]
fn anomalous_layers_score_higher_under_every_setting() {
    let (train, id, ood) = (layers(300, "train", 1.0), layers(20, "id", 1.0), layers(20, "ood", 3.0));
    let base = Config { clusters: 40, tap: Tap::Pre, ..Config::default() };
    let settings = [
        base.clone(),
        Config { tap: Tap::Post, ..base.clone() },
        Config { aggregate: Aggregate::Log, ..base.clone() },
        Config { aggregate: Aggregate::Standardised, ..base.clone() },
        Config { granularity: Granularity::Channel, aggregate: Aggregate::Log, ..base.clone() },
        Config { bandwidth: Rule::Silverman, ..base.clone() },
        Config { bandwidth: Rule::Scott, ..base.clone() },
        Config { layers: Layers::Named(vec!["conv".into()]), ..base.clone() },
        Config { images: Some(100), ..base.clone() },
        Config { floor: 1e-3, ..base.clone() },
        Config { engine: Engine::Exact, ..base.clone() },
    ];
    for config in settings {
        let fitted = fitted(&config, &train, 1 << 30, None);
        let [id, ood] = [&id, &ood].map(|set| score::scores(&fitted, set).unwrap());
        assert_eq!(id.len(), 20);
        let higher = |x: &f32| id.iter().filter(|y| *y < x).count();
        let pairs: usize = ood.iter().map(higher).sum();
        assert!(pairs > 360, "{config:?}: {pairs} of 400 pairs in order");
    }
}

#[test]
fn batches_do_not_matter_to_the_bit() {
    let (train, test) = (layers(60, "train", 1.0), layers(20, "id", 1.5));
    for engine in [Engine::Tabulated, Engine::Exact] {
        let fitted = fitted(&Config { engine, ..Config::default() }, &train, 1 << 30, None);
        let whole = score::scores(&fitted, &test).unwrap();
        let single = score::scores(&fitted, &Made { batch: 1, ..test.clone() }).unwrap();
        assert_eq!(whole, single);
        let backwards = test.subset(&(0..20).rev().collect::<Vec<_>>()).unwrap();
        let mut backwards = score::scores(&fitted, backwards.as_ref()).unwrap();
        backwards.reverse();
        assert_eq!(whole, backwards);
    }
}

/// More neurons than a group has, so that there is more than one block.
fn many_neurons(images: usize, name: &str) -> Made {
    let values = normal(images * 300, name);
    let values = Tensor::from_vec(values, (images, 300), &Device::Cpu).unwrap();
    let small = layers(images, name, 1.0).layers;
    let large = Layer { name: "large".into(), values, activation: Activation::Relu };
    Made { layers: small.into_iter().chain([large]).collect(), batch: 9 }
}

#[test]
fn neither_memory_nor_interruptions_change_a_bit() {
    let (train, test) = (many_neurons(50, "train"), many_neurons(5, "test"));
    for engine in [Engine::Tabulated, Engine::Exact] {
        let config = Config { engine, aggregate: Aggregate::Standardised, ..Config::default() };
        let whole = fitted(&config, &train, 1 << 30, None);
        assert_eq!(whole.record.passes, 1);
        let expected = score::scores(&whole, &test).unwrap();

        let scratch = tempfile::tempdir().unwrap();
        let least = fit::least_memory(&config, 370, 50);
        let refused = fit::fit(&config, &train, least - 1, None).unwrap_err();
        assert_eq!(refused.exit_code(), 2);
        assert!(refused.to_string().contains("for the 370 neurons of these layers"), "{refused}");
        let blocks = fitted(&config, &train, least, Some(scratch.path()));
        assert_eq!(blocks.record.passes, 4);
        assert_eq!(score::scores(&blocks, &test).unwrap(), expected);

        // What is on disk is taken: nothing is passed over any more, but for the block that is gone, and one that is cut off.
        let mut files: Vec<_> = std::fs::read_dir(scratch.path()).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        assert_eq!(files.len(), 4);
        std::fs::remove_file(&files[1]).unwrap();
        let bytes = std::fs::read(&files[3]).unwrap();
        std::fs::write(&files[3], &bytes[..bytes.len() / 2]).unwrap();
        let counting = Counting { inner: train.clone(), passes: Default::default() };
        let resumed = fit::fit(&config, &counting, least, Some(scratch.path())).unwrap();
        assert_eq!(counting.passes.load(std::sync::atomic::Ordering::SeqCst), 2);
        assert_eq!(resumed.layers, whole.layers);
        assert_eq!(fit::Record { passes: 1, ..resumed.record.clone() }, whole.record);
        assert_eq!(score::scores(&resumed, &test).unwrap(), expected);

        // Those of other settings are not.
        let other = Config { k: 3, ..config.clone() };
        let counting = Counting { inner: train.clone(), passes: Default::default() };
        fit::fit(&other, &counting, least, Some(scratch.path())).unwrap();
        assert_eq!(counting.passes.load(std::sync::atomic::Ordering::SeqCst), 4);
    }
}

#[derive(Debug)]
struct Counting {
    inner: Made,
    passes: std::sync::atomic::AtomicUsize,
}

impl Batches for Counting {
    fn images(&self) -> usize {
        self.inner.images()
    }

    fn layers(&self) -> Result<Vec<LayerShape>> {
        self.inner.layers()
    }

    fn pass(&self, what: &str, layers: bool, each: &mut dyn FnMut(usize, &Shown) -> Result<()>) -> Result<()> {
        self.passes.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        self.inner.pass(what, layers, each)
    }

    fn subset(&self, images: &[usize]) -> Result<Arc<dyn Batches>> {
        self.inner.subset(images)
    }
}

#[test]
fn dead_constant_and_nonsensical_neurons_are_counted() {
    let images = 40;
    let mut values = normal(images * 6, "odd");
    for (image, row) in values.chunks_exact_mut(6).enumerate() {
        row[1] = 0.5;
        row[2] = f32::NAN;
        row[3] = [f32::INFINITY, 0.0][image % 2];
        row[4] = (row[4] - 1.5).max(0.0);
    }
    let made = |values: Vec<f32>| {
        let values = Tensor::from_vec(values, (images, 6), &Device::Cpu).unwrap();
        Made { layers: vec![Layer { name: "odd".into(), values, activation: Activation::Identity }], batch: 8 }
    };
    let train = made(values.clone());
    let finite: Vec<f32> = values.into_iter().map(|value| if value.is_finite() { value } else { 0.0 }).collect();
    for engine in [Engine::Tabulated, Engine::Exact] {
        let config =
            Config { constant: Constant::Layer, cap: 9.0, aggregate: Aggregate::Log, engine, ..Config::default() };
        let told = fitted(&config, &train, 1 << 30, None);
        let record = &told.record;
        let counts = [record.neurons, record.constant, record.absent, record.with_atoms, record.unusable_activations];
        assert_eq!(counts, [6, 2, 1, 1, images + images / 2]);
        let factors = score::factors(&told, &told.layers[0].chosen, &train, &[0, 1]).unwrap();
        assert_eq!(factors.activations.len(), 12);
        assert!(factors.log_factors.iter().all(|factor| (-9.0..=9.0).contains(factor)));
        // The constant neuron is anomalous elsewhere; the one that was never a number tells nothing.
        let of = |fitted: &fit::Fitted, neuron: usize, values: [f32; 4]| {
            let mut found = [-1.0; 4];
            fitted.curves.log_factors(neuron, &values, &mut found);
            found
        };
        let constant = of(&told, 1, [0.5, 0.5 + 1e-6, 100.0, f32::NAN]);
        assert!(constant[0] == 0.0 && constant[1] < 1e-3 && constant[2..] == [9.0, 9.0], "{constant:?}");
        let hostile = [0.0, f32::INFINITY, -3.0, f32::NAN];
        assert_eq!(of(&told, 2, hostile), [0.0; 4]);
        assert_eq!(of(&told, 4, hostile)[3], 9.0);
        let ignored = fitted(&Config { constant: Constant::Ignore, ..config.clone() }, &train, 1 << 30, None);
        assert_eq!(of(&ignored, 1, hostile), [0.0; 4]);
        for aggregate in [Aggregate::Paper, Aggregate::Log, Aggregate::Standardised] {
            let fitted = fitted(&Config { aggregate, ..config.clone() }, &train, 1 << 30, None);
            // What was left out of the fit does not rule scores.
            let usual = score::scores(&fitted, &made(finite.clone())).unwrap();
            assert!(usual.iter().all(|score| score.abs() < 30.0), "{engine:?}, {aggregate:?}: {usual:?}");
            // The neuron that was never a number is no exception.
            for (neuron, value) in [(0, f32::NAN), (2, f32::NAN), (3, f32::INFINITY), (5, f32::NEG_INFINITY)] {
                let mut broken = finite.clone();
                broken[11 * 6 + neuron] = value;
                let error = score::scores(&fitted, &made(broken)).unwrap_err().to_string();
                assert_eq!(
                    error, "a neuron of the layer odd is NaN or infinite on image 11",
                    "{engine:?}, {aggregate:?}"
                );
            }
        }
    }
}

/// By name, what a fit counts of 400 images, and a factor where the neuron never was.
#[test]
fn what_each_kind_of_neuron_is_counted_as() {
    type Value = fn(usize, f32) -> f32;
    // Constant, absent, with atoms, fell back.
    let kinds: [(&str, Value, [usize; 4]); 10] = [
        ("alive", |_, x| x, [0, 0, 0, 0]),
        ("dead", |_, _| 0.0, [1, 0, 0, 0]),
        ("constant", |_, _| 0.75, [1, 0, 0, 0]),
        ("never a number", |_, _| f32::NAN, [0, 1, 0, 0]),
        ("two-valued", |image, _| [0.0, 1.0][image % 2], [0, 0, 0, 1]),
        ("two-valued, one image apart", |image, _| if image == 7 { 0.5 } else { 1.0 }, [0, 0, 1, 1]),
        ("often dead", |_, x| (x - 1.0).max(0.0), [0, 0, 1, 0]),
        ("saturated above", |_, x| x.min(0.5), [0, 0, 1, 0]),
        ("saturated on both sides", |_, x| x.clamp(-0.5, 0.5), [0, 0, 1, 0]),
        ("nearly saturated", |_, x| (3.0 * x).tanh(), [0, 0, 0, 0]),
    ];
    for (name, value, expected) in kinds {
        let values: Vec<f32> = normal(400, name).into_iter().enumerate().map(|(image, x)| value(image, x)).collect();
        let values = Tensor::from_vec(values, (400, 1), &Device::Cpu).unwrap();
        let layer = Layer { name: name.into(), values, activation: Activation::Identity };
        let train = Made { layers: vec![layer], batch: 64 };
        for engine in [Engine::Tabulated, Engine::Exact] {
            let fitted = fitted(&Config { engine, ..Config::default() }, &train, 1 << 30, None);
            let record = &fitted.record;
            let counts = [record.constant, record.absent, record.with_atoms, record.fell_back];
            assert_eq!(counts, expected, "{name}, {engine:?}");
            let mut factors = [0.0; 2];
            fitted.curves.log_factors(0, &[1000.0, -1000.0], &mut factors);
            let far = if expected[0] + expected[1] == 0 { 80.0 } else { 0.0 };
            assert_eq!(factors, [far; 2], "{name}, {engine:?}");
        }
    }
}

#[test]
fn a_record_says_how_far_tables_are_off_and_of_how_many_that_is_known() {
    let train = many_neurons(50, "train");
    let record = |engine| fitted(&Config { engine, ..Config::default() }, &train, 1 << 30, None).record;
    // 370 neurons, of which one in 17 is measured.
    let tables = record(Engine::Tabulated).tables.unwrap();
    near(tables.tables_measured, 22.0 / 370.0, 1e-12, "measured");
    assert!(tables.largest_table_error > tables.mean_table_error && tables.mean_table_error > 0.0, "{tables:?}");
    let written = serde_json::to_value(record(Engine::Tabulated)).unwrap();
    assert_eq!(written["tables_off_by_a_tenth"], tables.tables_off_by_a_tenth);
    assert_eq!(written["largest_table_error"], tables.largest_table_error);
    let written = serde_json::to_value(record(Engine::Exact)).unwrap();
    assert!(written.as_object().unwrap().keys().all(|key| !key.contains("table")), "{written}");
}

#[test]
fn unknown_layers_are_named() {
    let config = Config { layers: Layers::Named(vec!["cnov".into()]), ..Config::default() };
    let error = fit::fit(&config, &layers(10, "train", 1.0), 1 << 30, None).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    let expected = "the network has no layer \"cnov\" (did you mean \"conv\"?); it has conv, fc";
    assert_eq!(error.to_string(), expected);
    // Another network's layers are not scored.
    let fitted = fitted(&Config::default(), &layers(10, "train", 1.0), 1 << 30, None);
    assert!(score::scores(&fitted, &many_neurons(4, "other")).is_ok());
    let mut other = layers(4, "other", 1.0);
    other.layers.reverse();
    assert!(score::scores(&fitted, &other).unwrap_err().to_string().contains("the layer conv is not what it was"));
}

#[test]
fn channels_are_means_of_pixels_after_the_tap() {
    let layer = |values: [f32; 4]| Layer {
        name: "conv".into(),
        values: Tensor::from_vec(values.to_vec(), (1, 1, 2, 2), &Device::Cpu).unwrap(),
        activation: Activation::Relu,
    };
    let set = Made { layers: vec![layer([1.0, -2.0, 3.0, -6.0])], batch: 1 };
    let config = |tap| Config { granularity: Granularity::Channel, tap, ..Config::default() };
    for (tap, expected) in [(Tap::Pre, -1.0), (Tap::Post, 1.0)] {
        let fitted = fitted(&config(tap), &set, 1 << 30, None);
        let found = score::factors(&fitted, &fitted.layers[0].chosen, &set, &[0]).unwrap();
        assert_eq!(found.activations, [expected]);
    }
}

#[test]
fn maps_are_means_over_channels() {
    let (train, test) = (layers(60, "train", 1.0), layers(5, "test", 2.0));
    let config = Config { tap: Tap::Pre, ..Config::default() };
    let layer = view::layer(&config, &train.layers().unwrap(), None, true).unwrap();
    assert_eq!(layer.shape.name, "conv");
    let all = fitted(&config, &train, 1 << 30, None);
    let maps = view::maps(&all, &layer, &test, &[4, 1]).unwrap();
    assert_eq!(maps.size, [4, 5]);
    let values: Vec<f32> = test.layers[0].values.flatten_all().unwrap().to_vec1().unwrap();
    let factors = score::factors(&all, &all.layers[0].chosen, &test, &[4, 1]).unwrap();
    // Value by value.
    for (index, (value, factor)) in factors.activations.iter().zip(&factors.log_factors).enumerate() {
        let mut found = [0.0];
        all.curves.log_factors(index % 60, &[*value], &mut found);
        assert_eq!(found, [*factor]);
    }
    for (index, image) in [4, 1].into_iter().enumerate() {
        for pixel in 0..20 {
            let mean = |of: &dyn Fn(usize) -> f32| f64::from((of(0) + of(1) + of(2)) / 3.0);
            let activation = mean(&|channel| values[image * 60 + channel * 20 + pixel]);
            near(f64::from(maps.activations[index * 20 + pixel]), activation, 1e-6, "activation");
            let factor = mean(&|channel| factors.log_factors[index * 60 + channel * 20 + pixel]);
            near(f64::from(maps.log_factors[index * 20 + pixel]), factor, 1e-6, "factor");
        }
    }
    // A detector of this layer alone gives the same bits.
    let alone = fitted(&view::only(&config, &layer), &train, 1 << 30, None);
    assert_eq!(alone.layers.len(), 1);
    assert_eq!(view::maps(&alone, &layer, &test, &[4, 1]).unwrap(), maps);
}

#[test]
fn a_profile_is_what_the_detector_fits() {
    let mut train = layers(500, "profile", 1.0);
    // The second map's middle varies most.
    let wider = Tensor::new(&[[[[1f32]], [[3.0]], [[2.0]]]], &Device::Cpu).unwrap();
    train.layers[0].values = train.layers[0].values.broadcast_mul(&wider).unwrap();
    let config = Config { tap: Tap::Pre, engine: Engine::Exact, images: Some(400), ..Config::default() };
    let layer = view::layer(&config, &train.layers().unwrap(), Some("conv"), false).unwrap();
    let neuron = view::choose_neuron(&config, &layer, &train).unwrap();
    assert_eq!(neuron, 20 + 2 * 5 + 2);
    let profile = view::profile(&config, &layer, &train, neuron).unwrap();

    // Factors are those of the whole detector, and the density is one.
    let all = fitted(&config, &train, 1 << 30, None);
    let at: Vec<f32> = profile.values.iter().map(|value| *value as f32).collect();
    let mut factors = vec![0.0; at.len()];
    all.curves.log_factors(layer.neurons.start + neuron, &at, &mut factors);
    for (index, value) in at.iter().enumerate() {
        near(profile.log_factors[index], f64::from(factors[index]), 1e-3, &format!("factor at {value}"));
        near(profile.log_factor(*value), f64::from(factors[index]), 1e-6, &format!("factor of {value}"));
    }
    assert!(profile.values.is_sorted());
    let area = |heights: &[f64]| -> f64 {
        let values = profile.values.windows(2).zip(heights.windows(2));
        values.map(|(x, y)| (x[1] - x[0]) * f64::midpoint(y[0], y[1])).sum()
    };
    near(area(&profile.densities), 1.0, 2e-3, "the density's area");
    let [low, high] = profile.range;
    let bars = profile.histogram.len() as f64;
    near(profile.histogram.iter().sum::<f64>() * (high - low) / bars, 1.0, 1e-9, "the histogram's area");
    // Of the images that are learned from, not of all.
    let learned: Vec<f32> = (0..400)
        .map(|image| image * 500 / 400)
        .collect::<Vec<_>>()
        .into_iter()
        .map(|image: usize| {
            train.layers[0].values.flatten_all().unwrap().get(image * 60 + neuron).unwrap().to_scalar::<f32>().unwrap()
        })
        .collect();
    let mean = learned.iter().copied().map(f64::from).sum::<f64>() / 400.0;
    let variance = learned.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / 400.0;
    near(profile.moments[0], mean, 1e-9, "mean");
    near(profile.moments[1], variance.sqrt(), 1e-6, "deviation");
    let sorted = sorted(learned);
    assert_eq!(profile.range, [f64::from(sorted[0]), f64::from(sorted[399])]);
}

#[test]
fn a_picture_needs_a_layer_a_neuron_and_a_distribution() {
    let train = layers(30, "train", 1.0);
    let shapes = train.layers().unwrap();
    let config = Config::default();
    let told = |result: Result<_>| result.map(drop).unwrap_err().to_string();
    let layer = |config: &Config, name, maps| view::layer(config, &shapes, name, maps);
    assert_eq!(told(layer(&config, Some("fc"), true)), "the layer fc has no feature maps; conv can be drawn");
    let expected = "the detector reads no layer \"cnov\" (did you mean \"conv\"?); it reads conv, fc";
    assert_eq!(told(layer(&config, Some("cnov"), false)), expected);
    let dense = Config { layers: Layers::Named(vec!["fc".into()]), ..config.clone() };
    let expected = "none of the detector's layers has feature maps; it reads fc";
    assert_eq!(told(layer(&dense, None, true)), expected);
    let fc = layer(&dense, None, false).unwrap();
    view::check_neuron(&fc, 9).unwrap();
    let expected = "the layer fc has 10 neurons, 0 to 9: there is no neuron 10";
    assert_eq!(view::check_neuron(&fc, 10).unwrap_err().to_string(), expected);
    // A dead neuron has no distribution.
    let mut dead = train.clone();
    dead.layers[1].values = Tensor::zeros((30, 10), candle_core::DType::F32, &Device::Cpu).unwrap();
    let error = view::profile(&dense, &fc, &dead, 3).unwrap_err().to_string();
    assert_eq!(error, "neuron 3 of the layer fc is 0 on all train images: there is no distribution to draw");
}

#[test]
fn settings_are_read_and_checked() {
    let read = |yaml: &str| serde_saphyr::from_str::<Config>(yaml).map_err(|error| error.to_string());
    assert_eq!(read("{}").unwrap(), Config::default());
    assert_eq!(read("layers: all").unwrap().layers, Layers::All);
    let named = Layers::Named(vec!["conv1".into(), "fc1".into()]);
    assert_eq!(read("layers: [conv1, fc1]").unwrap().layers, named);
    let config = read("{ granularity: channel, tap: pre, k: 3, aggregate: standardised, engine: exact }").unwrap();
    assert_eq!((config.granularity, config.tap, config.k), (Granularity::Channel, Tap::Pre, 3));
    let json = serde_json::to_value(&config).unwrap();
    assert_eq!(serde_json::from_value::<Config>(json).unwrap(), config);
    assert!(read("layers: some").unwrap_err().contains("`all` or a list of layers' names"));
    assert!(read("taps: pre").unwrap_err().contains("unknown field `taps`"));
    use garde::Validate;
    Config::default().validate().unwrap();
    for wrong in
        ["clusters: 1", "k: 0", "sigma: 0", "cap: 81", "floor: -1", "images: 1", "layers: []", "layers: [a, a]"]
    {
        assert!(read(wrong).unwrap().validate().is_err(), "{wrong}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    /// Factors do not depend on a neuron's units: powers of two, so that no rounding differs.
    #[test]
    fn units_do_not_matter(seed in 0..1000_u32, power in -20..20_i32, shift in -8..8_i32) {
        let round = |x: f32| (x * 1024.0).round() / 1024.0;
        let values: Vec<f32> = normal(80, &format!("{seed}")).into_iter().map(round).collect();
        let scale = 2_f32.powi(power);
        let change = |values: &[f32]| values.iter().map(|x| (x + shift as f32) * scale).collect::<Vec<f32>>();
        // Between the places where neighbourhoods change, midpoints of 1024ths: there, the last bit decides.
        let at = [-3.0, -0.5, 0.0, 0.25, 2.0, 5.0].map(|at| at + 3.0 / 8192.0);
        let config = Config::default();
        let here = exact(&model(&values, &config), &at);
        let there = exact(&model(&change(&values), &config), &change(&at));
        for (a, b) in here.iter().zip(&there) {
            prop_assert!((a - b).abs() <= 1e-4 * a.abs().max(1.0), "{a} and {b}");
        }
    }

    /// Whatever a neuron was fitted to, and whatever it is asked: never NaN, never above the cap, and tables say about the same.
    #[test]
    fn hostile_neurons_never_give_nan(
        values in prop::collection::vec(
            prop_oneof![
                any::<f32>(), Just(0.0), Just(-0.0), Just(1.0), Just(f32::NAN), Just(f32::INFINITY), Just(f32::MIN_POSITIVE),
                Just(1e-45), -1f32..1.0, Just(1.0 + f32::EPSILON), Just(3e38), Just(1e30),
            ],
            1..60,
        ),
        at in prop::collection::vec(prop_oneof![any::<f32>(), -2f32..2.0, Just(f32::NAN), Just(1e30)], 1..20),
        k in 1..7_usize,
        rule in prop_oneof![Just(Rule::Isj), Just(Rule::Silverman), Just(Rule::Scott)],
        floor in prop_oneof![Just(0.0), 0.0..1.0],
    ) {
        let config = Config { k, bandwidth: rule, floor, clusters: 20, ..Config::default() };
        if let Neuron::Varied(model) = Neuron::fit(&mut values.clone(), &config) {
            let at: Vec<f32> = at.into_iter().chain(values).collect();
            for factor in exact(&model, &at).into_iter().chain(tabulated(&model, &at)) {
                prop_assert!((-80.0..=80.0).contains(&factor), "{factor}");
            }
        }
    }

    /// Clusters are intervals of all values, nearest to their centres.
    #[test]
    fn clusters_partition(values in prop::collection::vec(-1e3f32..1e3, 1..200), clusters in 1..30_usize) {
        let data = Distinct::of(&sorted(values));
        let found = kmeans(&data, clusters);
        prop_assert!(found.centres.len() <= clusters.min(data.values.len()) && !found.centres.is_empty());
        prop_assert_eq!(*found.ends.last().unwrap(), data.values.len());
        prop_assert!(found.ends.is_sorted_by(|a, b| a < b) && found.centres.is_sorted());
        prop_assert_eq!(found.counts.iter().sum::<f64>(), data.counts.iter().sum::<f64>());
    }
}
