//! Learning from auxiliary outliers: what a step sees, what training does to energies, and what is refused.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use candle_core::{D, Device, Tensor};
use oodkit::{
    Result,
    config::Network as Recipe,
    data::{
        self, Dataset, ImageSet, Normalisation, Split,
        batches::{Source, TrainBatches},
        synthetic,
    },
    detectors::energy::energy,
    losses::{Loss, Objective, Step},
    nn::{Mode, Model, Pass, Shape, params::Params},
    train::{self, Job, Train, checkpoint::Checkpoint, optim::Optimizer},
    watch::{
        events::{Event, Observer},
        interrupt::Interrupt,
    },
};

fn embedded(name: &str, split: Split, limit: usize) -> ImageSet {
    let dataset = Dataset { train_limit: Some(limit), test_limit: Some(limit), ..Dataset::named(name) };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
    data::load_as(&dataset, split, &root, Some([1, 28, 28]), None).unwrap()
}

fn normalisation() -> Normalisation {
    data::normalisation(&Dataset::named("fashion_mnist_small")).unwrap()
}

/// What is told of training: the value of a term at every step.
struct Watch {
    term: &'static str,
    values: Vec<f64>,
}

impl Observer for Watch {
    fn on(&mut self, event: &Event<'_>) -> Result<()> {
        if let Event::Step { terms, .. } = event {
            self.values.extend(terms.iter().find(|(name, _)| *name == self.term).map(|(_, value)| *value));
        }
        Ok(())
    }
}

/// A network in the making.
struct Student {
    params: Params,
    network: Box<dyn Model>,
    folder: tempfile::TempDir,
}

impl Student {
    fn new(backbone: &str) -> Self {
        let recipe: Recipe = serde_saphyr::from_str(&format!("backbone: {backbone}")).unwrap();
        let params = Params::new(0, &Device::Cpu);
        let shape = Shape { channels: 1, height: 28, width: 28, classes: 10 };
        let network = recipe.model().unwrap().build(shape, params.builder()).unwrap();
        Self { params, network, folder: tempfile::tempdir().unwrap() }
    }

    fn checkpoint(&self) -> PathBuf {
        self.folder.path().join("checkpoint.safetensors")
    }

    /// Trains on images and, if the loss wants them, outliers, from where the checkpoint left it if there is one.
    fn learn(&self, recipe: &str, loss: &str, images: &ImageSet, outliers: Option<&ImageSet>) -> Result<Watch> {
        let recipe: Train = serde_saphyr::from_str(recipe).unwrap();
        let loss: Loss = serde_saphyr::from_str(loss).unwrap();
        let digest = outliers.map(|set| set.sha256().unwrap());
        let checkpoint = self.checkpoint();
        let job = Job {
            what: "a student",
            model: self.network.as_ref(),
            params: &self.params,
            objective: &Objective::new(&loss, &[], 0)?,
            recipe: &recipe,
            own: None,
            seed: 0,
            images: Arc::new(images.clone()),
            data: &images.sha256()?,
            outliers: outliers.map(|set| Arc::new(set.clone())).zip(digest.as_deref()),
            window: None,
            validation: None,
            normalisation: &normalisation(),
            fixed: None,
            device: &Device::Cpu,
            checkpoint: &checkpoint,
        };
        let mut watch = Watch { term: loss.of_outliers().next().unwrap_or("cross_entropy"), values: Vec::new() };
        train::fit(&job, Checkpoint::read(&checkpoint)?, &mut [&mut watch], &Interrupt::default())?;
        Ok(watch)
    }

    fn logits(&self, images: &ImageSet) -> Tensor {
        let inputs = images.tensor(0..images.len(), &normalisation(), &Device::Cpu).unwrap();
        self.network.show(&inputs, &Pass::eval()).unwrap().logits.unwrap()
    }

    fn mean_energy(&self, images: &ImageSet) -> f64 {
        let energies = energy(&self.logits(images), 1.0).unwrap();
        energies.iter().map(|energy| f64::from(*energy)).sum::<f64>() / energies.len() as f64
    }

    fn mean_confidence(&self, images: &ImageSet) -> f64 {
        let softmax = candle_nn::ops::softmax(&self.logits(images), D::Minus1).unwrap();
        f64::from(softmax.max(D::Minus1).unwrap().mean_all().unwrap().to_scalar::<f32>().unwrap())
    }
}

fn bits(params: &Params) -> BTreeMap<String, Vec<u32>> {
    let all = params.all().unwrap().into_iter();
    let bits = |tensor: Tensor| -> Vec<u32> {
        tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap().iter().map(|number| number.to_bits()).collect()
    };
    all.map(|(name, tensor)| (name, bits(tensor))).collect()
}

const WIDE: &str = "{ wide_resnet: { depth: 10, width: 1, dropout: 0.3 } }";
const STEP: &str = "{ epochs: 1, batch_size: 4, max_steps: 1, optimizer: { sgd: { lr: 0.1 } }, augment: { flip: true, crop_padding: 2 } }";

/// What energy_ood's loop does, in its order: one pass over images and outliers together, losses of the two parts.
#[test]
fn a_step_is_one_pass_over_images_and_outliers_together() {
    let (images, outliers) =
        (embedded("fashion_mnist_small", Split::Train, 20), embedded("textures_small", Split::Test, 30));
    let loss = "{ cross_entropy: {}, energy_margin: { weight: 0.1 }, outlier_exposure: { weight: 0.5 }, sparsity: { weight: 0.01, target: features } }";
    let student = Student::new(WIDE);
    student.learn(STEP, loss, &images, Some(&outliers)).unwrap();

    let by_hand = Student::new(WIDE);
    let recipe: Train = serde_saphyr::from_str(STEP).unwrap();
    let source = Source {
        images: Arc::new(images),
        labelled: true,
        outliers: Some((Arc::new(outliers), 8)),
        made: None,
        normalisation: normalisation(),
        augment: recipe.augment.clone(),
        window: None,
        round: None,
        batch_size: 4,
        drop_last: false,
        seed: 0,
        device: Device::Cpu,
    };
    let batch = TrainBatches::new(source, 0..1).unwrap().next().unwrap().unwrap();
    assert_eq!((batch.images.dims4().unwrap().0, batch.normal), (12, 4));
    let mode = Mode::Train { seed: 0, step: 0, precision: recipe.precision };
    let both = by_hand.network.show(&batch.images, &Pass::new(mode)).unwrap();
    let (learned, unlabelled) = (both.narrow(0, 4).unwrap(), both.narrow(4, 8).unwrap());
    let step = Step { outliers: Some(&unlabelled), ..Step::new(&batch.images, &learned, batch.labels.as_ref()) };
    let loss = Objective::new(&serde_saphyr::from_str(loss).unwrap(), &[], 0).unwrap().value(&step).unwrap();
    let mut optimizer = Optimizer::new(&recipe.optimizer, None, by_hand.params.trainable()).unwrap();
    optimizer.step(&loss.total.backward().unwrap(), 0.1).unwrap();
    assert_eq!(bits(&student.params), bits(&by_hand.params));
}

#[test]
fn batch_normalisation_sees_the_outliers_even_of_a_term_of_weight_zero() {
    let (images, outliers) =
        (embedded("fashion_mnist_small", Split::Train, 20), embedded("textures_small", Split::Test, 30));
    let statistics = |loss: &str, outliers: Option<&ImageSet>| {
        let student = Student::new(WIDE);
        student.learn(STEP, loss, &images, outliers).unwrap();
        bits(&student.params).into_iter().filter(|(name, _)| name.contains("running")).collect::<BTreeMap<_, _>>()
    };
    let plain = statistics("{ cross_entropy: {} }", None);
    assert!(!plain.is_empty());
    let control = statistics("{ cross_entropy: {}, energy_margin: { weight: 0 } }", Some(&outliers));
    assert_ne!(control, plain);
    assert_eq!(control, statistics("{ cross_entropy: {}, outlier_exposure: { weight: 0.5 } }", Some(&outliers)));
}

#[test]
fn stopped_and_continued_it_ends_with_the_same_bits() {
    let (images, outliers) =
        (embedded("fashion_mnist_small", Split::Train, 40), embedded("textures_small", Split::Test, 19));
    let loss = "{ cross_entropy: {}, energy_margin: {} }";
    let recipe = |steps: usize| {
        format!(
            "{{ epochs: 9, batch_size: 16, max_steps: {steps}, outlier_ratio: 1, optimizer: {{ adamw: {{ lr: 0.001 }} }}, \
             augment: {{ flip: true, crop_padding: 2 }} }}"
        )
    };
    let whole = Student::new("lenet");
    let at_once = whole.learn(&recipe(7), loss, &images, Some(&outliers)).unwrap();
    let parted = Student::new("lenet");
    let mut values = Vec::new();
    for steps in [1, 4, 7] {
        values.extend(parted.learn(&recipe(steps), loss, &images, Some(&outliers)).unwrap().values);
    }
    assert_eq!((values, bits(&parted.params)), (at_once.values, bits(&whole.params)));

    // Not on other outliers, nor without.
    let others = embedded("digits", Split::Test, 19);
    let told = parted.learn(&recipe(9), loss, &images, Some(&others)).err().unwrap().to_string();
    assert!(told.contains("was taken on other outliers than those of digits now"), "{told}");
}

/// LeNet that has learned a little, and outliers in two halves: to learn, and to look at.
fn trained() -> (Student, ImageSet, ImageSet, [ImageSet; 2]) {
    let (images, test) =
        (embedded("fashion_mnist_small", Split::Train, 256), embedded("fashion_mnist_small", Split::Test, 100));
    let digits = embedded("digits", Split::Test, 900);
    let halves = [0, 6].map(|first| digits.subset(&(first..900).step_by(9).collect::<Vec<_>>()));
    let student = Student::new("lenet");
    let recipe = "{ epochs: 4, batch_size: 16, optimizer: { sgd: { lr: 0.05, momentum: 0.9 } } }";
    student.learn(recipe, "{ cross_entropy: {} }", &images, None).unwrap();
    fs::remove_file(student.checkpoint()).unwrap();
    (student, images, test, halves)
}

const TUNE: &str = "{ epochs: 1, batch_size: 8, optimizer: { sgd: { lr: 0.01, momentum: 0.9 } }, clip: { norm: 5 }, schedule: { cosine: {} } }";

#[test]
fn energy_margins_part_the_energies_of_images_and_outliers() {
    let (student, images, test, [outliers, unseen]) = trained();
    let gap = |student: &Student| student.mean_energy(&unseen) - student.mean_energy(&test);
    let before = gap(&student);
    // Within reach of LeNet.
    let loss = "{ cross_entropy: {}, energy_margin: { m_in: -12, m_out: -4 } }";
    let values = student.learn(TUNE, loss, &images, Some(&outliers)).unwrap().values;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (first, last) = (mean(&values[..8]), mean(&values[values.len() - 8..]));
    assert!(last < 0.5 * first, "the term went from {first} to {last}");
    let after = gap(&student);
    assert!(after > before + 2.0, "the gap went from {before} to {after}");
}

#[test]
fn outlier_exposure_makes_outliers_uncertain() {
    let (student, images, test, [outliers, unseen]) = trained();
    let before = [student.mean_confidence(&test), student.mean_confidence(&unseen)];
    let loss = "{ cross_entropy: {}, outlier_exposure: {} }";
    let values = student.learn(TUNE, loss, &images, Some(&outliers)).unwrap().values;
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
    let (first, last) = (mean(&values[..8]), mean(&values[values.len() - 8..]));
    assert!(last < first && last > 10f64.ln(), "the term went from {first} to {last}");
    let after = [student.mean_confidence(&test), student.mean_confidence(&unseen)];
    assert!(after[1] < 0.8 * before[1] && after[0] > before[0], "{before:?} became {after:?}");
}

const EXPERIMENT: &str = "\
title: Outliers
data:
  id: { name: fashion_mnist_small, train_limit: 16, test_limit: 16 }
  ood: [{ name: digits, test_limit: 16 }, OOD]
  outliers: { name: others, format: folder, path: OUTLIERS, train_limit: 40, note: made up }
networks:
  base:
    backbone: lenet
    train: &recipe { epochs: 1, batch_size: 8, optimizer: { sgd: { lr: 0.01 } } }
  margin: { from: base, train: *recipe, loss: { cross_entropy: {}, energy_margin: {} } }
  exposed: { from: base, train: *recipe, loss: { cross_entropy: {}, outlier_exposure: {} } }
methods:
  - { name: EBD, network: base, detector: energy }
  - { name: Energy margin, network: margin, detector: energy }
  - { name: OE, network: exposed, detector: msp }
tables: [{ name: t, rows: method, columns: [accuracy, auroc] }]
";

struct Place {
    folder: tempfile::TempDir,
}

impl Place {
    fn new() -> Self {
        let place = Self { folder: tempfile::tempdir().unwrap() };
        place.make("others", 1);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// 64 pictures under `<name>/train`, 32 under `<name>/test`.
    fn make(&self, name: &str, seed: u64) {
        let dataset = Dataset { format: Some(data::Format::Folder), ..Dataset::named(name) };
        synthetic::write(&dataset, self.folder.path(), 64, 32, seed).unwrap();
    }

    fn oodkit(&self, command: &str, ood: &str, outliers: &str, more: &[&str]) -> (bool, String) {
        let outliers = self.path(outliers).display().to_string();
        let text = EXPERIMENT.replace("OOD", ood).replace("OUTLIERS", &outliers);
        fs::write(self.path("outliers.yaml"), text).unwrap();
        let output = Command::new(env!("CARGO_BIN_EXE_oodkit"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .arg(command)
            .arg(self.path("outliers.yaml"))
            .arg("--runs")
            .arg(self.path("runs"))
            .args(more)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8(said).unwrap()).concat();
        (output.status.success(), said)
    }
}

#[test]
fn what_was_learned_from_is_recorded_and_must_stay() {
    let place = Place::new();
    let (_, planned) = place.oodkit("plan", "{ name: textures_small, test_limit: 16 }", "others", &[]);
    assert!(planned.contains("\noutliers others to learn from\n"), "{planned}");
    let (done, said) = place.oodkit("run", "{ name: textures_small, test_limit: 16 }", "others", &[]);
    assert!(done, "{said}");
    let learned = "Auxiliary outliers, learned from: others (subset of 40 of 64 train images, made up, synthetic).";
    assert!(said.contains(learned), "{said}");
    let experiment = fs::read_dir(place.path("runs/experiments")).unwrap().next().unwrap().unwrap().path();
    let results: serde_json::Value =
        serde_json::from_slice(&fs::read(experiment.join("results.json")).unwrap()).unwrap();
    let dataset = Dataset { format: Some(data::Format::Folder), train_limit: Some(40), ..Dataset::named("others") };
    let images = data::load_as(&dataset, Split::Train, place.folder.path(), Some([1, 28, 28]), None).unwrap();
    assert_eq!(results["outliers"]["sha256"], images.sha256().unwrap());
    assert_eq!(results["outliers"]["images"], 40);

    // Other files are other outliers: what learns from them is trained anew, beside what was there.
    let networks = || fs::read_dir(place.path("runs/networks")).unwrap().count();
    assert_eq!(networks(), 3);
    place.make("others", 2);
    assert!(place.oodkit("run", "{ name: textures_small, test_limit: 16 }", "others", &[]).0);
    assert_eq!(networks(), 5);
    let more = ["--set", "networks.exposed.loss.outlier_exposure.weight=0.25"];
    let (done, said) = place.oodkit("run", "{ name: textures_small, test_limit: 16 }", "others", &more);
    assert!(done && networks() == 6, "{said}");
    // A limit of its own makes other networks.
    let (done, said) = place.oodkit(
        "run",
        "{ name: textures_small, test_limit: 16 }",
        "others",
        &["--set", "data.outliers.train_limit=39"],
    );
    assert!(done && said.contains("subset of 39 of 64"), "{said}");
}

#[test]
fn what_is_tested_on_is_not_learned_from() {
    let place = Place::new();
    let refused = |ood: &str, outliers: &str| {
        let (done, said) =
            place.oodkit("run", &ood.replace("DIR", &place.folder.path().display().to_string()), outliers, &[]);
        assert!(!done && said.contains("what a network learned cannot test it"), "{said}");
        assert!(!place.path("runs/networks").exists(), "told before any work: {said}");
        said.replace(&place.folder.path().display().to_string(), "DIR")
    };
    let told = refused("{ name: elsewhere, format: folder, path: DIR/others/train }", "others");
    assert!(
        told.contains("\"others\" and the OOD set \"elsewhere\" are the same pictures, in DIR/others/train"),
        "{told}"
    );
    // A folder without parts is one set, whatever it is wanted for.
    fs::rename(place.path("others/test"), place.path("tested")).unwrap();
    let told = refused("{ name: tested, format: folder, path: DIR/tested }", "tested");
    assert!(told.contains("are the same pictures, in DIR/tested"), "{told}");
    // Copies are found when they are read.
    fs::create_dir(place.path("copied")).unwrap();
    for (index, entry) in fs::read_dir(place.path("others/train")).unwrap().take(3).enumerate() {
        fs::copy(entry.unwrap().path(), place.path(&format!("copied/{index}.png"))).unwrap();
    }
    let ood = format!("{{ name: copied, format: folder, path: {} }}", place.path("copied").display());
    let (done, said) = place.oodkit("run", &ood, "others", &["--set", "data.outliers.train_limit=64"]);
    assert!(!done, "{said}");
    let told = "3 of the auxiliary outliers \"others\" are test images of the OOD set \"copied\"";
    assert!(said.contains(told) && !place.path("runs/networks").exists(), "{said}");
}
