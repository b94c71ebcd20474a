//! Files from outside, damaged at random: a parser answers, or says what is wrong with its input; none panics. Experiments, overrides,
//! weights, features, scores and results are here; data sets and images are in `tests/data.rs`.
//!
//! Each parser starts from valid files and damages them as fuzzers do, a few hundred times, or for `OODKIT_FUZZ_SECONDS`: `make fuzz` takes
//! a minute for each. Rounds are numbered and drawn from a fixed stream, so that a failure comes again. What failed is kept
//! below `target/hostile`, and belongs among the seeds once it is mended.

use std::{
    env, fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use oodkit::{
    Error,
    config::{load, overrides},
    detectors::feature_file::FeatureFile,
    metrics::files::read_scores,
    nn::weights,
    rng,
    run::results::Results,
};
use rand::Rng;

/// How often a file is damaged unless a time is given.
const ROUNDS: u64 = 300;
/// What a number becomes.
const NUMBERS: [&str; 10] =
    ["0", "-1", "1", "255", "65536", "4294967296", "18446744073709551616", "1e308", "-1e-320", "nan"];
/// What a byte becomes.
const BYTES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'{', b'"', b'\n'];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a folder with this ending.
fn seeds(folder: &str, ending: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(root().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    paths.sort();
    paths.into_iter().map(|path| fs::read(path).unwrap()).collect()
}

/// The bytes after one to four small accidents; `other` is another seed.
fn damaged(bytes: &[u8], other: &[u8], rng: &mut impl Rng) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..rng.random_range(1..=4) {
        let at = rng.random_range(0..=bytes.len());
        let end = (at + rng.random_range(0..=64)).min(bytes.len());
        match rng.random_range(0..8) {
            0 if at < bytes.len() => bytes[at] ^= 1 << rng.random_range(0..8),
            1 if at < bytes.len() => bytes[at] = BYTES[rng.random_range(0..BYTES.len())],
            2 => bytes.truncate(at),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            5 => {
                let from = rng.random_range(0..=other.len());
                let to = (from + rng.random_range(0..=64)).min(other.len());
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            6 if end - at >= 8 => {
                // A length that is too large, as a little-endian number.
                let value = [u64::MAX, 1 << 63, 1 << 32, (1 << 31) - 1, bytes.len() as u64][rng.random_range(0..5)];
                bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
            }
            _ => {
                // The next number in a text.
                let Some(start) = bytes[at..].iter().position(u8::is_ascii_digit).map(|digit| at + digit) else {
                    continue;
                };
                let digits = bytes[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
                let number = NUMBERS[rng.random_range(0..NUMBERS.len())];
                bytes.splice(start..start + digits, number.bytes());
            }
        }
    }
    bytes
}

/// Damages `seeds` for as long as the environment says, and has `parse` read each.
fn survives(name: &str, seeds: &[Vec<u8>], mut parse: impl FnMut(&[u8]) -> Result<(), Error>) {
    assert!(!seeds.is_empty(), "{name} has no seeds");
    let seconds = env::var("OODKIT_FUZZ_SECONDS").ok().map(|text| text.parse().unwrap());
    let end = seconds.map(|seconds| Instant::now() + Duration::from_secs_f64(seconds));
    let (mut rng, mut round, mut refused) = (rng::stream(0, "hostile", name), 0_u64, 0_u64);
    while end.map_or(round < ROUNDS, |end| Instant::now() < end) {
        let [one, other] = [0; 2].map(|_| &seeds[rng.random_range(0..seeds.len())]);
        let bytes = damaged(one, other, &mut rng);
        let problem = match catch_unwind(AssertUnwindSafe(|| parse(&bytes))) {
            Ok(Ok(())) => None,
            Ok(Err(Error::Input { message, .. })) => {
                refused += 1;
                message.is_empty().then(|| "it says nothing".to_owned())
            }
            Ok(Err(error)) => Some(format!("not told as the input's: {error}")),
            Err(_) => Some("it panicked".to_owned()),
        };
        if let Some(problem) = problem {
            let folder = root().join("target/hostile");
            fs::create_dir_all(&folder).unwrap();
            let kept = folder.join(format!("{name}-{round}"));
            fs::write(&kept, &bytes).unwrap();
            panic!("{name}, round {round}: {problem}; the bytes are in {}", kept.display());
        }
        round += 1;
    }
    assert!(refused > 0, "{name}: nothing of {round} was refused");
    println!("{name}: {round} rounds, {refused} refused");
}

/// The same of a parser of files with this name's ending.
fn survives_as_file(name: &str, ending: &str, seeds: &[Vec<u8>], parse: impl Fn(&Path) -> Result<(), Error>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(format!("damaged.{ending}"));
    survives(name, seeds, |bytes| {
        fs::write(&path, bytes).unwrap();
        parse(&path)
    });
}

#[test]
fn experiments() {
    // Without their includes, which are files of their own.
    let whole = |text: &Vec<u8>| !String::from_utf8_lossy(text).contains("!include");
    let seeds: Vec<Vec<u8>> = seeds("experiments", ".yaml").into_iter().filter(whole).collect();
    survives("experiments", &seeds, |bytes| load::parse(&String::from_utf8_lossy(bytes), "damaged").map(drop));
}

#[test]
fn command_line_overrides() {
    let text = "{ title: A, data: { id: fashion_mnist_small, ood: [digits] }, networks: { base: { backbone: lenet, train: { epochs: 1, \
                batch_size: 8, optimizer: { sgd: { lr: 0.1 } } } } }, methods: [{ network: base, detector: knn }] }";
    let experiment = load::parse(text, "overrides").unwrap();
    let seeds = [
        "seeds=[0, 1]",
        "networks.base.train.optimizer={ adamw: { lr: 1e-3 } }",
        "methods.0.detector.knn.k=7",
        "data.ood=[{ name: digits, test_limit: 5 }]",
    ];
    let seeds = seeds.map(|text| text.as_bytes().to_vec());
    survives("overrides", &seeds, |bytes| {
        overrides::apply(&experiment, &[String::from_utf8_lossy(bytes).into_owned()]).map(drop)
    });
}

#[test]
fn published_weights() {
    survives_as_file("pth", "pth", &seeds("tests/golden", ".pth"), |path| weights::read(path).map(drop));
    survives_as_file("safetensors", "safetensors", &seeds("tests/golden", ".safetensors"), |path| {
        weights::read(path).map(drop)
    });
}

#[test]
fn features_of_other_programs() {
    let tensor = |columns: usize| {
        let values: Vec<f32> = (0..6 * columns).map(|at| at as f32 / 7.0).collect();
        candle_core::Tensor::from_vec(values, (6, columns), &candle_core::Device::Cpu).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("seed.safetensors");
    let tensors = std::collections::HashMap::from([("logits", tensor(3)), ("features", tensor(4))]);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    let seeds = [fs::read(&path).unwrap()];
    survives_as_file("features", "safetensors", &seeds, |path| FeatureFile::read(path, false).map(drop));
}

#[test]
fn scores_of_other_programs() {
    survives_as_file("npy", "npy", &seeds("tests/golden/npy", ".npy"), |path| read_scores(path).map(drop));
    let csv =
        ["0.25\n-1\n3e4\n", "image,score\na.png,1\nb.png,2.5\n", "score\n1\n2\n"].map(|text| text.as_bytes().to_vec());
    survives_as_file("csv", "csv", &csv, |path| read_scores(path).map(drop));
}

#[test]
fn stored_results() {
    let folders = fs::read_dir(root().join("docs/results")).unwrap().map(|entry| entry.unwrap().path());
    let stored: Vec<Vec<u8>> = folders.filter_map(|folder| fs::read(folder.join("results.json")).ok()).collect();
    let short: Vec<Vec<u8>> = stored.into_iter().filter(|text| text.len() < 100_000).collect();
    survives_as_file("results", "json", &short, |path| Results::read_file(path).map(drop));
}
