//! Data sets as experiments use them: every format through the public functions, missing and damaged files, and the sets
//! that the repository carries.

use std::{
    collections::BTreeMap,
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
    sync::Arc,
};

use candle_core::Device;
use oodkit::{
    Error,
    data::{
        self, Dataset, Format, ImageSet, Split,
        augment::Plain,
        batches::{Source, TrainBatches},
        registry, synthetic,
    },
    rng,
};
use rand::Rng;

/// Damaged JPEGs tried.
const JPEG_ROUNDS: usize = 200;

/// A data set of every format, known and not, but for OpenOOD's lists and MVTec's categories, which have tests of their own.
fn every_format() -> Vec<Dataset> {
    let known = ["mnist", "cifar10", "cifar100", "svhn", "fer2013", "textures", "emnist_letters"].map(Dataset::named);
    let own = |format: Format| Dataset {
        list: (format == Format::ImageList).then(|| "my_image_list/{split}.txt".into()),
        format: Some(format),
        ..Dataset::named(format!("my_{format}"))
    };
    let others = [Format::Openood, Format::Mvtec, Format::Cifar10, Format::Cifar100, Format::Svhn, Format::Fer2013];
    let formats = Format::ALL.into_iter().filter(|format| !others.contains(format));
    known.into_iter().chain(formats.map(own)).collect()
}

fn embedded() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("data")
}

/// Every file under a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[test]
fn every_format_goes_through_its_reader() {
    let root = tempfile::tempdir().unwrap();
    for dataset in every_format() {
        let name = &dataset.name;
        synthetic::write(&dataset, root.path(), 21, 12, 0).unwrap();
        data::check(&dataset, &[Split::Train, Split::Test], root.path()).unwrap();
        for (split, n) in [(Split::Train, 21), (Split::Test, 12)] {
            let set = data::load(&dataset, split, root.path()).unwrap();
            assert_eq!((set.len(), set.split, &set.name), (n, split, name), "{name}");
            assert_eq!(set.note.as_deref(), Some("synthetic"), "{name}");
            assert_eq!(set.pixels.held().unwrap().len(), n * set.image_len(), "{name}");
            let complete = data::full_size(&dataset, split);
            assert_eq!(set.full_size, complete.or(Some(n)), "{name}");
            if let Some(shape) = data::shape(&dataset) {
                assert_eq!(set.shape(), shape, "{name}");
            }
            match registry::known(name).map_or(0, |known| known.classes) {
                classes @ 1.. => assert_eq!(set.classes, classes, "{name}"),
                0 => assert_eq!(set.classes == 0, set.labels.is_none(), "{name}"),
            }
            // Dealt out in turn; class folders are read class by class.
            if let Some(labels) = &set.labels {
                let turns: Vec<u32> = (0..n).map(|i| (i % set.classes) as u32).collect();
                let mut sorted = labels.clone();
                sorted.sort_unstable();
                let mut expected = turns.clone();
                expected.sort_unstable();
                assert_eq!(sorted, expected, "{name}");
                assert!(dataset.format == Some(Format::ClassFolders) || *labels == turns, "{name}");
            }
            let limited = Dataset { train_limit: Some(5), test_limit: Some(3), ..dataset.clone() };
            let limited = data::load(&limited, split, root.path()).unwrap();
            let limit = if split == Split::Train { 5 } else { 3 };
            let labels: Option<Vec<u32>> = limited.labels.clone();
            assert_eq!((limited.len(), limited.full_size), (limit, set.full_size), "{name}");
            // Five images are of five classes, whether the files have them in turn or class by class.
            assert!(labels.is_none_or(|labels| labels == (0..limit as u32).collect::<Vec<_>>()), "{name}");
            if dataset.format != Some(Format::ClassFolders) {
                assert_eq!(limited, set.clone().take(limit), "{name}");
            }
            let small = data::load_as(&dataset, split, root.path(), Some([3, 9, 7]), None).unwrap();
            assert_eq!(small, set.conform(3, 9, 7).unwrap(), "{name}");
        }
    }
}

#[test]
fn the_same_seed_writes_the_same_bytes() {
    let bytes = |seed| -> Vec<BTreeMap<PathBuf, Vec<u8>>> {
        let write = |dataset: Dataset| {
            let root = tempfile::tempdir().unwrap();
            synthetic::write(&dataset, root.path(), 6, 6, seed).unwrap();
            let name = |path: &Path| path.strip_prefix(root.path()).unwrap().to_owned();
            files(root.path()).iter().map(|path| (name(path), fs::read(path).unwrap())).collect()
        };
        every_format().into_iter().map(write).collect()
    };
    assert!(bytes(1) == bytes(1));
    assert!(bytes(1) != bytes(2));
}

#[test]
fn synthetic_data_are_made_once_and_whole_however_many_ask() {
    let root = tempfile::tempdir().unwrap();
    let names = ["mnist", "svhn", "textures"];
    let write = |name: &str, train| synthetic::write(&Dataset::named(name), root.path(), train, 4, 0).unwrap();
    let load = |name: &str| data::load(&Dataset::named(name), Split::Train, root.path()).unwrap();
    // A reader that has its own set made meets all of it while others ask for the same.
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for name in names {
                    write(name, 12);
                    assert_eq!(load(name).len(), 12, "{name}");
                }
            });
        }
    });
    let left: Vec<PathBuf> = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(left.len(), names.len() + 1, "three sets and the lock: {left:?}");

    // The same again leaves the files as they are; other arguments, or a file that is gone, make them anew.
    let file = root.path().join("mnist/train-images-idx3-ubyte.gz");
    let whole = fs::read(&file).unwrap();
    fs::write(&file, b"touched").unwrap();
    write("mnist", 12);
    assert_eq!(fs::read(&file).unwrap(), b"touched");
    write("mnist", 13);
    assert_eq!(load("mnist").len(), 13);
    write("mnist", 12);
    assert_eq!(fs::read(&file).unwrap(), whole);
    fs::remove_file(&file).unwrap();
    write("mnist", 12);
    assert_eq!(fs::read(&file).unwrap(), whole);

    // A folder of an earlier version, whose mark says less, and what a killed process left.
    fs::write(root.path().join("mnist/SYNTHETIC"), "Made by oodkit to test itself; not real data.\n").unwrap();
    fs::create_dir(root.path().join(".mnist.1-0.tmp")).unwrap();
    write("mnist", 12);
    assert_eq!(load("mnist").len(), 12);
}

#[test]
fn synthetic_data_never_replaces_real_data() {
    let root = tempfile::tempdir().unwrap();
    let message = |dataset: &Dataset| synthetic::write(dataset, root.path(), 2, 2, 0).unwrap_err().to_string();
    fs::create_dir(root.path().join("mnist")).unwrap();
    assert!(message(&Dataset::named("mnist")).ends_with("mnist exists and is not synthetic: not overwritten"));
    for path in ["/elsewhere", "../up", "a/../../up", "."] {
        let dataset = Dataset { path: Some(path.into()), ..Dataset::named("svhn") };
        assert!(message(&dataset).contains("which is not under"), "{path}: {}", message(&dataset));
    }
}

#[test]
fn missing_sets_say_where_they_were_looked_for_and_how_to_get_them() {
    let root = tempfile::tempdir().unwrap();
    let place = root.path().display().to_string();
    let check = |dataset: &Dataset, split: Split| match data::check(dataset, &[split], root.path()) {
        Err(Error::Input { message, hint }) => {
            // A hint says where the data root is, unless it is `data`.
            let hint = hint.unwrap_or_default().replace(&format!("OODKIT_DATA={place} "), "").replace(&place, "data");
            (message.replace(&place, "ROOT"), hint)
        }
        other => panic!("{other:?}"),
    };
    for (name, split, message, hint) in [
        (
            "mnist",
            Split::Train,
            "data set \"mnist\" (train) is not in ROOT/mnist: no train-images-idx3-ubyte or train-images-idx3-ubyte.gz",
            "make data set=mnist",
        ),
        (
            "cifar10",
            Split::Test,
            "data set \"cifar10\" (test) is not in ROOT/cifar10: no test_batch.bin",
            "make data set=cifar10",
        ),
        (
            "cifar100",
            Split::Train,
            "data set \"cifar100\" (train) is not in ROOT/cifar100: no train.bin",
            "make data set=cifar100",
        ),
        ("svhn", Split::Test, "data set \"svhn\" (test) is not in ROOT/svhn: no test_32x32.mat", "make data set=svhn"),
        (
            "textures",
            Split::Test,
            "data set \"textures\" (test) is not in ROOT/textures: no such folder",
            "unpack dtd-r1.0.1.tar.gz of the DTD home page and put its images/ into data/textures (data/README.md says more)",
        ),
        (
            "cifar20",
            Split::Test,
            "unknown data set \"cifar20\" (did you mean \"cifar10\"?)",
            "`oodkit list` shows the known ones; a set of your own needs a `format`, and a `path` if it is elsewhere",
        ),
    ] {
        let (found, advice) = check(&Dataset::named(name), split);
        assert_eq!((found.as_str(), advice.as_str()), (message, hint));
        assert!(data::load(&Dataset::named(name), split, root.path()).is_err());
    }
    let own = Dataset { format: Some(Format::ClassFolders), ..Dataset::named("mine") };
    let (message, hint) = check(&own, Split::Train);
    assert_eq!(message, "data set \"mine\" (train) is not in ROOT/mine: no folder train/ with a folder per class");
    assert_eq!(
        hint,
        "put its files there, or say where they are with `path` (a relative one starts at the data folder)"
    );
}

#[test]
fn statistics_come_from_the_config_or_the_registry() {
    let known = data::normalisation(&Dataset::named("cifar100")).unwrap();
    assert_eq!((known.mean[0], known.std[2]), (125.3 / 255.0, 66.7 / 255.0));
    let own = Dataset { mean: Some(vec![0.5]), std: Some(vec![0.1]), ..Dataset::named("mnist") };
    assert_eq!(data::normalisation(&own).unwrap().mean, [0.5]);
    let message = |dataset: Dataset| data::normalisation(&dataset).unwrap_err().to_string();
    assert_eq!(
        message(Dataset::named("textures")),
        "data set \"textures\" has no `mean` and `std`, which weights that are used as they are need"
    );
    assert_eq!(message(Dataset { std: None, ..own.clone() }), "data set \"mnist\" has `mean` but no `std`");
    let uneven = Dataset { std: Some(vec![0.1; 3]), ..own };
    assert_eq!(message(uneven), "data set \"mnist\" has 1 values under `mean` but 3 under `std`");
}

/// Loads both splits of a folder with one damaged file: `Ok`, or an error that is the user's to mend, but no panic.
fn survives(dataset: &Dataset, root: &Path, what: &str) -> usize {
    [Split::Train, Split::Test]
        .into_iter()
        .filter(|&split| match catch_unwind(|| data::load(dataset, split, root)) {
            Ok(Ok(set)) => {
                assert_eq!(set.pixels.held().unwrap().len(), set.len() * set.image_len(), "{what}");
                let labels = set.labels.iter().flatten();
                assert!(labels.into_iter().all(|label| (*label as usize) < set.classes), "{what}");
                false
            }
            Ok(Err(Error::Input { .. })) => true,
            Ok(Err(error)) => panic!("{what}: {error}"),
            Err(_) => panic!("{what}: panicked"),
        })
        .count()
}

#[test]
fn damaged_files_are_errors_and_never_panics() {
    for dataset in every_format() {
        let root = tempfile::tempdir().unwrap();
        synthetic::write(&dataset, root.path(), 5, 3, 0).unwrap();
        let mut rng = rng::stream(0, "damage", &dataset.name);
        let mut found = files(root.path());
        found.retain(|file| !file.ends_with("SYNTHETIC") && !file.ends_with(".synthetic.lock"));
        // Pictures are alike: two of them stand for all.
        let pictures = found.iter().filter(|file| file.extension().is_some_and(|e| e == "png")).count();
        let lists = found.iter().filter(|file| file.extension().is_some_and(|e| e == "txt")).cloned();
        let found: Vec<PathBuf> = if pictures > 0 { found[..2].iter().cloned().chain(lists).collect() } else { found };
        for file in &found {
            let whole = fs::read(file).unwrap();
            let name = file.file_name().unwrap().to_string_lossy();
            let mut refused = 0;
            let lengths = (0..24).map(|i| i * whole.len() / 24).chain([1, 3, 8, 16, 130, whole.len() - 1]);
            for length in lengths.filter(|length| *length < whole.len()) {
                fs::write(file, &whole[..length]).unwrap();
                refused += survives(&dataset, root.path(), &format!("{name} cut to {length} of {} bytes", whole.len()));
            }
            // A CIFAR file of no records is harmless beside four others, a table may end after a row.
            assert!(refused >= 20, "{name}: only {refused} of some 30 cuts were noticed");
            for round in 0..60 {
                let mut damaged = whole.clone();
                // The beginning holds the sizes.
                let range = if round % 2 == 0 { 0..whole.len() } else { 0..whole.len().min(200) };
                for _ in 0..=round % 4 {
                    damaged[rng.random_range(range.clone())] = rng.random();
                }
                fs::write(file, &damaged).unwrap();
                survives(&dataset, root.path(), &format!("{name} with changed bytes, round {round}"));
            }
            fs::write(file, [&whole[..], &[0; 7]].concat()).unwrap();
            survives(&dataset, root.path(), &format!("{name} with bytes added"));
            fs::write(file, &whole).unwrap();
        }
        assert_eq!(survives(&dataset, root.path(), "restored"), 0);
    }
}

#[test]
fn damaged_jpegs_are_errors_and_never_panics() {
    let root = tempfile::tempdir().unwrap();
    let dataset = Dataset { format: Some(Format::Folder), ..Dataset::named("jpegs") };
    let file = root.path().join("jpegs/1.jpg");
    fs::create_dir(root.path().join("jpegs")).unwrap();
    let mut rng = rng::stream(0, "damage", "jpeg");
    image::RgbImage::from_fn(40, 30, |_, _| image::Rgb(rng.random())).save(&file).unwrap();
    let whole = fs::read(&file).unwrap();
    assert_eq!(data::load(&dataset, Split::Test, root.path()).unwrap().shape(), [3, 30, 40]);
    for round in 0..JPEG_ROUNDS {
        let mut damaged = whole.clone();
        if round % 3 == 0 {
            damaged.truncate(rng.random_range(0..whole.len()));
        }
        // The first 600 bytes are the tables.
        let end = if round % 2 == 0 { damaged.len() } else { damaged.len().min(600) };
        for _ in 0..round % 5 {
            if let Some(byte) = damaged.get_mut(rng.random_range(0..end.max(1))) {
                *byte = rng.random();
            }
        }
        fs::write(&file, &damaged).unwrap();
        survives(&dataset, root.path(), &format!("JPEG, round {round}"));
    }
}

#[test]
fn the_embedded_sets_are_what_their_readme_says() {
    let load = |name: &str, split| data::load(&Dataset::named(name), split, &embedded()).unwrap();
    let count = |set: &ImageSet| {
        let mut counts = BTreeMap::new();
        set.labels.iter().flatten().for_each(|label| *counts.entry(*label).or_insert(0) += 1);
        counts.into_values().collect::<Vec<usize>>()
    };
    let train = load("fashion_mnist_small", Split::Train);
    assert_eq!(
        (train.shape(), train.len(), train.full_size, count(&train)),
        ([1, 28, 28], 8000, Some(60_000), vec![800; 10])
    );
    assert_eq!(train.labels.as_ref().unwrap()[..8], [9, 0, 0, 3, 0, 2, 7, 2]);
    let test = load("fashion_mnist_small", Split::Test);
    assert_eq!((test.len(), count(&test), &test.note), (2000, vec![200; 10], &None));
    let digits = load("digits", Split::Test);
    assert_eq!((digits.shape(), digits.len(), count(&digits).len()), ([1, 8, 8], 1797, 10));
    // The first row of the first digit, 0 0 5 13 9 1 0 0 of 16.
    assert_eq!(digits.pixels.held().unwrap()[..8], [0, 0, 80, 207, 143, 16, 0, 0]);
    let textures = load("textures_small", Split::Test);
    assert_eq!((textures.shape(), count(&textures)), ([1, 28, 28], vec![324; 3]));
    for set in [&digits, &textures] {
        assert_eq!(set.full_size, Some(set.len()));
    }
    let error = data::check(&Dataset::named("digits"), &[Split::Train], &embedded()).unwrap_err();
    assert!(error.to_string().contains("\"digits\" (train) is not in"), "{error}");
}

#[test]
fn the_embedded_files_have_the_digests_of_their_readme() {
    use sha2::{Digest, Sha256};
    let folder = embedded().join("embedded");
    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    let zipped = files(&folder).into_iter().filter(|file| file.extension().is_some_and(|e| e == "gz"));
    let checked = zipped.map(|file| {
        let digest = format!("{:x}", Sha256::digest(fs::read(&file).unwrap()));
        let name = file.strip_prefix(&folder).unwrap().display().to_string();
        assert!(readme.contains(&format!("{digest}  {name}")), "{digest}  {name}");
    });
    assert_eq!(checked.count(), 8);
}

#[test]
fn the_embedded_surfaces_are_what_their_readme_says() {
    use sha2::{Digest, Sha256};
    let folder = embedded().join("embedded/surfaces");
    let mut files: Vec<_> =
        files(&folder).into_iter().filter(|file| file.extension().is_some_and(|e| e == "png" || e == "jpg")).collect();
    files.sort();
    // As `sha256sum` writes them.
    let lines = files.iter().map(|file| {
        let digest = Sha256::digest(fs::read(file).unwrap());
        format!("{digest:x}  ./{}\n", file.strip_prefix(&folder).unwrap().display())
    });
    let digest = format!("{:x}", Sha256::digest(lines.collect::<String>()));
    let readme = fs::read_to_string(folder.with_file_name("README.md")).unwrap();
    assert!(readme.contains(&digest), "{digest}");
    let bytes: u64 = files.iter().map(|file| fs::metadata(file).unwrap().len()).sum();
    assert!(bytes < 1_500_000, "{bytes} bytes");
    let count = |part: &str| files.iter().filter(|file| file.starts_with(folder.join(part))).count();
    for category in ["brick", "grass", "gravel"] {
        let parts = ["train/good", "test/good", "test", "ground_truth"];
        assert_eq!(parts.map(|part| count(&format!("{category}/{part}"))), [160, 24, 24 + 28, 28]);
        assert_eq!(
            ["000", "090", "180", "270"].map(|turn| count(&format!("pretext/train/{category}_{turn}"))),
            [32; 4]
        );
        for kind in ["dent", "ripple", "scratch", "stain"] {
            let mask =
                image::open(folder.join(format!("{category}/ground_truth/{kind}/000_mask.png"))).unwrap().to_luma8();
            assert_eq!(mask.dimensions(), (64, 64));
            let marked = mask.pixels().filter(|pixel| pixel.0[0] == 255).count();
            assert!((50..1000).contains(&marked) && mask.pixels().all(|pixel| [0, 255].contains(&pixel.0[0])));
        }
    }
    let pretext = Dataset {
        format: Some(Format::ClassFolders),
        path: Some("embedded/surfaces/pretext".into()),
        ..Dataset::named("pretext")
    };
    let pretext = data::load(&pretext, Split::Train, &embedded()).unwrap();
    assert_eq!((pretext.classes, pretext.shape()), (12, [1, 64, 64]));
}

#[test]
fn an_embedded_set_becomes_normalised_batches() {
    let dataset = Dataset { train_limit: Some(1000), ..Dataset::named("fashion_mnist_small") };
    let set = Arc::new(data::load(&dataset, Split::Train, &embedded()).unwrap());
    let source = Source {
        images: set,
        labelled: true,
        outliers: None,
        made: None,
        normalisation: data::normalisation(&dataset).unwrap(),
        augment: Plain { flip: true.into(), ..Plain::default() }.into(),
        window: None,
        round: None,
        batch_size: 128,
        drop_last: false,
        seed: 0,
        device: Device::Cpu,
    };
    let batches = TrainBatches::new(source, 0..8).unwrap();
    let (mut n, mut sum) = (0, 0.0);
    for batch in batches {
        let batch = batch.unwrap();
        assert_eq!(batch.images.dims()[1..], [1, 28, 28]);
        n += batch.images.dims()[0];
        sum += f64::from(batch.images.sum_all().unwrap().to_scalar::<f32>().unwrap());
    }
    assert_eq!(n, 1000);
    // Mirroring moves pixels but changes none: the mean stays that of Fashion-MNIST, about 0.
    let mean = sum / (1000.0 * 784.0);
    assert!(mean.abs() < 0.03, "{mean}");
}

#[test]
#[ignore = "needs complete sets: OODKIT_DATA=FOLDER cargo test --test data -- --ignored"]
fn complete_sets_have_the_sizes_and_statistics_of_the_registry() {
    let root = PathBuf::from(std::env::var_os("OODKIT_DATA").expect("OODKIT_DATA names a data root"));
    let mut checked = 0;
    for known in registry::all().iter().filter(|known| !known.folder.starts_with("embedded")) {
        let dataset = Dataset::named(known.name);
        for split in [Split::Train, Split::Test] {
            if data::check(&dataset, &[split], &root).is_err() {
                continue;
            }
            let set = data::load(&dataset, split, &root).unwrap();
            println!("{} {split}: {} of {:?}, {:?}", known.name, set.len(), set.full_size, set.shape());
            checked += 1;
            if split == Split::Test || known.mean.is_empty() {
                continue;
            }
            for (channel, (mean, std)) in known.mean.iter().zip(known.std).enumerate() {
                let plane = set.height * set.width;
                let values =
                    (0..set.len()).flat_map(|i| set.image(i).unwrap()[channel * plane..(channel + 1) * plane].to_vec());
                let (mut sum, mut squares) = (0.0, 0.0);
                for value in values.map(|byte| f64::from(byte) / 255.0) {
                    sum += value;
                    squares += value * value;
                }
                let n = (set.len() * plane) as f64;
                let (measured, deviation) = (sum / n, (squares / n - (sum / n).powi(2)).sqrt());
                println!("  channel {channel}: mean {measured:.4} ({mean:.4}), std {deviation:.4} ({std:.4})");
                assert!((measured - f64::from(*mean)).abs() < 1e-3 && (deviation - f64::from(*std)).abs() < 1e-3);
            }
        }
    }
    assert!(checked > 0, "nothing in {}", root.display());
}

#[test]
fn a_size_and_channels_are_what_networks_are_built_for() {
    let mnist = Dataset::named("mnist");
    assert_eq!(data::shape(&mnist), Some([1, 28, 28]));
    assert_eq!(data::shape(&Dataset { size: Some(data::Size::Square(32)), ..mnist.clone() }), Some([1, 32, 32]));
    let means = Some(vec![0.5; 3]);
    assert_eq!(data::shape(&Dataset { mean: means.clone(), ..mnist.clone() }), Some([3, 28, 28]));
    assert_eq!(data::classes(&Dataset { size: Some(data::Size::Square(32)), ..mnist }), Some(10));
    let mine = Dataset { format: Some(data::Format::ClassFolders), mean: means, ..Dataset::named("mine") };
    assert_eq!(data::shape(&mine), None);
    let sized = Dataset { size: Some(data::Size::Sides([48, 64])), ..mine };
    assert_eq!((data::shape(&sized), data::classes(&sized)), (Some([3, 48, 64]), None));
}
