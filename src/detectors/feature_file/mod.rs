//! What a network gave on a set of images, from a file that any framework can write: how detectors serve networks that
//! oodkit does not know.
//!
//! A safetensors file with some of `logits` (N, K), `features` (N, D), `members` (N, M, K: the logits of an ensemble of at least
//! two), `labels` (N), `head.weight` (K, D), `head.bias` (K) and any number of `taps.<layer>`, (N, C, H, W) or (N, D): neurons
//! before or after their non-linearity, which are taken as they are. Numbers of any floating-point type are taken as f32, labels
//! of any integer type. The metadata `image_size` (`256x256`: rows x columns) is for detectors that give maps. Labels that the detector does not read may be anything: −1, the classes of another set. Tensors of other
//! names are left alone with a note, unless their name is that of a missing tensor but for a slip of the keyboard.

mod belongs;
mod in_memory;

pub use in_memory::InMemory;

use std::{io::Read as _, path::Path, sync::Arc};

use candle_core::{D, DType, Tensor};

use belongs::Shared;

use super::{Bank, Batches as _, Detector, DetectorConfig, Fit, Learns, Output, Scores};
use crate::{
    Error, Result, did_you_mean,
    nn::{
        Head, Shown,
        weights::{names_in_safetensors, read_safetensors_of},
    },
    printable, say,
};

/// The names that have a meaning, besides `taps.<layer>`.
const NAMES: [&str; 6] = ["logits", "features", "members", LABELS, "head.weight", "head.bias"];
const LABELS: &str = "labels";
const IMAGE_SIZE: &str = "image_size";

/// Rows or columns of images at most.
const MOST_PIXELS: usize = 1 << 14;

/// First bytes of files that are given in the stead of safetensors.
const OTHERS: [(&[u8], &str); 4] = [
    (b"PK\x03\x04", "a zip archive, such as torch.save and numpy.savez write"),
    (b"\x93NUMPY", "an array of NumPy's"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (b"\x80", "a pickle, such as older versions of torch.save write"),
];
const AS_SAFETENSORS: &str = "write it with safetensors.torch.save_file({\"features\": …, \"logits\": …}, path), or the same of safetensors.numpy: \
     docs/guide/detectors.md shows how";

/// The contents of one file.
#[derive(Debug, Clone)]
pub struct FeatureFile {
    path: String,
    images: usize,
    logits: Option<Tensor>,
    features: Option<Tensor>,
    members: Option<Tensor>,
    labels: Option<Vec<u32>>,
    head: Option<Head>,
    layers: Option<Arc<InMemory>>,
    /// Names of tensors that nothing reads.
    unused: Vec<String>,
}

impl FeatureFile {
    /// Reads and checks a file, and its labels if they are asked for.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file and the tensor: a name that is a slip, sizes that do not fit each other, NaN or infinity,
    /// a label that is no class. NaN in `taps.*` is left to the detector: AFDU learns without it and counts it, and scores no
    /// image that has it.
    pub fn read(path: &Path, labelled: bool) -> Result<Self> {
        let shown = path.display().to_string();
        let refuse = |reason: String| Error::input(format!("{shown}: {reason}"));
        let mut bytes = Vec::new();
        let (opened, _) = crate::fs::open_regular(path).map_err(|error| match error {
            Error::Io { source, .. } => refuse(format!("cannot be read: {source}")),
            other => other,
        })?;
        (&opened).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
        let broken = |reason: String| match OTHERS.iter().find(|(magic, _)| bytes.starts_with(magic)) {
            Some((_, what)) => refuse(format!("{what}, and no safetensors file")).hint(AS_SAFETENSORS),
            None => refuse(reason).hint(AS_SAFETENSORS),
        };
        let names = names_in_safetensors(&bytes).map_err(broken)?;
        let unused = without_use(&names, &shown)?;
        let (mut tensors, metadata) = read_safetensors_of(&bytes, has_use).map_err(broken)?;
        let image_size = metadata.get(IMAGE_SIZE).map(|text| size_of(text).map_err(&refuse)).transpose()?;
        drop(bytes);
        let mut named = Vec::new();
        for name in tensors.keys().cloned().collect::<Vec<_>>() {
            if let Some(layer) = name.strip_prefix("taps.") {
                named.extend(tensors.remove(&name).map(|tensor| (layer.to_owned(), tensor)));
            }
        }
        let mut read = |name: &str, rank: usize| -> Result<Option<Tensor>> {
            tensors.remove(name).map(|tensor| floats(&tensor, name, &[rank], true).map_err(&refuse)).transpose()
        };
        let (logits, features, members) = (read("logits", 2)?, read("features", 2)?, read("members", 3)?);
        if let Some(one) = members.as_ref().filter(|members| members.dims()[1] < 2) {
            let reason =
                format!("members is {:?}, the logits of one network, which has no other to disagree with", one.dims());
            return Err(refuse(reason)
                .hint("(N, M, K): the logits of M networks, 5 as a rule; call those of one network logits"));
        }
        let head = match (read("head.weight", 2)?, read("head.bias", 1)?) {
            (Some(weight), bias) => {
                let bias = bias.map_or_else(|| weight.narrow(1, 0, 1)?.squeeze(1)?.zeros_like(), Ok)?;
                Some(Head { weight, bias })
            }
            (None, Some(_)) => return Err(refuse("head.bias stands there without head.weight".into())),
            (None, None) => None,
        };
        let labels = tensors.remove(LABELS);
        let label_rows = labels.as_ref().map(|labels| labels.dims().first().copied().unwrap_or(1));
        let labels = labels.filter(|_| labelled).map(|labels| classes(&labels).map_err(&refuse)).transpose()?;
        let mut layers = Vec::new();
        for (name, tensor) in named {
            layers.push((name.clone(), floats(&tensor, &format!("taps.{name}"), &[2, 4], false).map_err(&refuse)?));
        }
        let mut rows: Vec<(String, usize)> = Vec::new();
        let mut count = |name: &str, tensor: &Tensor| rows.push((name.to_owned(), tensor.dims()[0]));
        logits.iter().for_each(|tensor| count("logits", tensor));
        features.iter().for_each(|tensor| count("features", tensor));
        members.iter().for_each(|tensor| count("members", tensor));
        layers.iter().for_each(|(name, tensor)| count(&format!("taps.{name}"), tensor));
        rows.extend(label_rows.map(|rows| (LABELS.to_owned(), rows)));
        let Some((first, images)) = rows.first().cloned() else {
            return Err(refuse("it holds no logits, features, labels or taps".into()));
        };
        if let Some((name, other)) = rows.iter().find(|(_, rows)| *rows != images) {
            return Err(refuse(format!("{first} has {images} rows and {name} has {other}: one per image each")));
        }
        if images == 0 {
            return Err(refuse(format!("{first} has no rows")));
        }
        let outputs = Shown { logits: logits.clone(), features: features.clone(), ..Shown::default() };
        let file = Self {
            path: shown.clone(),
            images,
            logits,
            features,
            members,
            labels,
            head,
            layers: (!layers.is_empty()).then(|| Arc::new(InMemory { images, layers, outputs, image_size })),
            unused,
        };
        file.check_classes().map_err(refuse)?;
        Ok(file)
    }

    /// Tells of the tensors that nothing reads.
    fn note_unused(&self) {
        let names: Vec<String> = self.unused.iter().map(|name| format!("\"{}\"", printable(name))).collect();
        if !names.is_empty() {
            say(format!("{}: no use for the tensors {}, which are left alone", self.path, names.join(", ")));
        }
    }

    fn layers(&self) -> Result<&InMemory> {
        self.layers.as_deref().ok_or_else(|| Error::input(format!("{} has no taps.<layer>", self.path)))
    }

    /// Labels, logits and head agree on the number of classes, head and features on their length.
    fn check_classes(&self) -> Result<(), String> {
        let columns = |tensor: &Tensor| tensor.dims()[1];
        if let Some(logits) = &self.logits
            && let Some((image, label)) = self.label_from(columns(logits))
        {
            return Err(format!("the label of image {image} is {label}, and logits has {} columns", columns(logits)));
        }
        let Some(Head { weight, bias }) = &self.head else { return Ok(()) };
        if bias.dims() != [weight.dims()[0]] {
            return Err(format!(
                "head.weight is {:?} and head.bias {:?}: a row for each class, as in PyTorch",
                weight.dims(),
                bias.dims()
            ));
        }
        self.check_fits(weight)
    }

    /// Labels, logits and features are those of this last layer, of this file or another.
    fn check_fits(&self, weight: &Tensor) -> Result<(), String> {
        let head = weight.dims();
        for (name, tensor, size) in [("logits", &self.logits, head[0]), ("features", &self.features, head[1])] {
            if let Some(have) = tensor.as_ref().map(|tensor| tensor.dims()[1]).filter(|have| *have != size) {
                return Err(format!("{name} has {have} columns, which does not fit head.weight, {head:?}"));
            }
        }
        match self.label_from(head[0]) {
            Some((image, label)) => {
                Err(format!("the label of image {image} is {label}, which does not fit head.weight, {head:?}"))
            }
            None => Ok(()),
        }
    }

    /// The first label that is none of so many classes, and its image.
    fn label_from(&self, classes: usize) -> Option<(usize, u32)> {
        let labels = self.labels.iter().flatten().copied();
        labels.enumerate().find(|(_, label)| *label as usize >= classes)
    }

    /// The last linear layer, if the file has one.
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// The bank for a detector, to learn from it or to score it; what is missing and not needed is empty.
    ///
    /// # Errors
    /// [`Error::Input`] naming the tensors that are needed and not there.
    pub fn bank(&self, detector: &DetectorConfig, learns: Learns) -> Result<Bank> {
        let present = |output: Output| match output {
            Output::Logits | Output::RawLogits | Output::Kernels => self.logits.is_some(),
            Output::Members => self.members.is_some(),
            Output::Features => self.features.is_some(),
            Output::Layers | Output::LastMaps => self.layers.is_some(),
            Output::Stages => {
                self.layers.as_ref().is_some_and(|all| all.layers.iter().any(|(_, layer)| layer.rank() == 4))
            }
            // The last layer may be in another file.
            Output::Head => true,
            Output::Gradients | Output::Map | Output::Images | Output::Softmax => false,
            Output::Scores | Output::Noised | Output::Embedding | Output::Pairs => false,
            Output::Makers | Output::Windows | Output::Patches | Output::Parts | Output::Noise => false,
        };
        let needs = detector.detector().needs().iter().filter(|output| !present(**output));
        let mut missing: Vec<&str> = needs.map(|output| tensor(*output)).collect();
        missing.extend((learns == Learns::LabelledImages && self.labels.is_none()).then_some(LABELS));
        if !missing.is_empty() {
            let (name, missing) = (detector.name(), missing.join(" and "));
            let message = format!("{}: the detector {name} needs {missing}, not in the file", self.path);
            return Err(Error::input(message).hint("oodkit detectors lists what each detector needs"));
        }
        let empty = || Tensor::zeros((self.images, 0), DType::F32, &candle_core::Device::Cpu);
        let [logits, features] = [&self.logits, &self.features].map(|given| given.clone().map_or_else(empty, Ok));
        Ok(Bank {
            members: self.members.clone(),
            labels: self.labels.clone(),
            batches: self.layers.clone().map(|layers| layers as _),
            ..Bank::new(logits?, features?)
        })
    }
}

/// The name of an output in a feature file.
fn tensor(output: Output) -> &'static str {
    match output {
        Output::Logits | Output::RawLogits | Output::Softmax | Output::Kernels => "logits",
        Output::Members => "members",
        Output::Features => "features",
        Output::Layers | Output::LastMaps | Output::Stages => "taps.<layer>",
        Output::Gradients => "gradients",
        Output::Images => "images",
        Output::Map | Output::Scores | Output::Noised => "map",
        Output::Embedding => "embedding",
        Output::Pairs => "pairs",
        Output::Makers => "makers",
        Output::Windows => "windows",
        Output::Parts => "parts",
        Output::Patches => "patches",
        Output::Noise => "noise",
        Output::Head => "head.weight",
    }
}

impl DetectorConfig {
    /// What it needs, by the names of a feature file, with what values have to be where the name does not tell.
    pub fn wanted(&self) -> Vec<&'static str> {
        let outputs = self.detector().needs().iter().map(|output| match output {
            Output::Kernels => "logits (ln K)",
            Output::Layers => "taps.<layer> (taken as is)",
            Output::LastMaps => "taps.<layer> (the last with pixels)",
            Output::Stages => "taps.<layer> (feature maps)",
            plain => tensor(*plain),
        });
        let learned: &[&str] = match self.detector().learns() {
            Learns::Nothing => &[],
            Learns::Images => &["a train set"],
            Learns::LabelledImages => &["a train set", LABELS],
        };
        let second = self.detector().second().map(|_| "a second network");
        outputs.chain(learned.iter().copied()).chain(second).collect()
    }
}

/// Fits a detector on one file, if it is one that fits, scores others in turn, and hands over each one's scores with its place
/// in `inputs`. What the fit met, if it tells.
///
/// All files are checked before the fit. The first stays in memory, the others are read again to be scored, one at a time.
///
/// # Errors
/// [`Error::Input`] if the detector needs what the files do not have, the files do not fit each other, the detector can make
/// nothing of them, or AFDU is told a side of the non-linearity or finds no neuron that varies; those of `each`.
pub fn score(
    config: &DetectorConfig,
    fit: Option<&Path>,
    inputs: &[&Path],
    memory: usize,
    each: &mut dyn FnMut(usize, &Scores) -> Result<()>,
) -> Result<Option<serde_json::Value>> {
    let detector = config.build();
    detector.check_on_file()?;
    if detector.needs().contains(&Output::Gradients) {
        let message = format!("--detector: {} runs the network again, and a file has only what it gave", config.name());
        return Err(Error::input(message).hint("an experiment has the network: oodkit run"));
    }
    let learns = detector.learns();
    if learns != Learns::Nothing && fit.is_none() {
        let message = format!("the detector {} learns from the train set: give its file with --fit", config.name());
        return Err(Error::input(message).hint("oodkit detectors lists what each detector needs"));
    }
    let train_file = fit.map(|path| FeatureFile::read(path, learns == Learns::LabelledImages)).transpose()?;
    train_file.iter().for_each(FeatureFile::note_unused);
    let mut train = match &train_file {
        Some(file) if learns != Learns::Nothing => Some(file.bank(config, learns)?),
        _ => None,
    };
    let chosen = train_file.as_ref().map(|file| chosen_layers(&*detector, file)).transpose()?.flatten();
    if let (Some(train), Some(layers)) = (&mut train, &chosen) {
        train.batches = Some(layers.clone());
    }
    let mut shared = train_file.as_ref().and_then(Shared::of);
    let check = |shared: &Shared, file: &FeatureFile| shared.check(file, config);
    if let (Some(shared), Some(file)) = (&shared, &train_file) {
        check(shared, file)?;
    }
    let mut first = None;
    for (index, path) in inputs.iter().enumerate() {
        let (input, bank) = input_bank(config, train_file.as_ref(), chosen.as_ref(), path)?;
        input.note_unused();
        if detector.needs().contains(&Output::Head) && shared.is_none() && input.head.is_none() {
            let message = format!("{}: the detector {} needs head.weight, not in the file", input.path, config.name());
            return Err(Error::input(message));
        }
        if let (None, Some(found)) = (&shared, Shared::of(&input)) {
            train_file.iter().try_for_each(|file| check(&found, file))?;
            inputs[..index].iter().try_for_each(|path| check(&found, &FeatureFile::read(path, false)?))?;
            shared = Some(found);
        }
        shared.iter().try_for_each(|shared| check(shared, &input))?;
        first.get_or_insert(bank);
    }
    let learned_from = fit.or(inputs.first().copied()).map(|path| path.display().to_string()).unwrap_or_default();
    let head = shared.as_ref().map(|shared| &shared.head);
    let scorer = detector.fit(&Fit { train: train.as_ref(), head, memory, ..Fit::default() }).map_err(|error| {
        let advice = "other train images or settings may do: oodkit detectors lists what each detector needs";
        of_detector(config, &learned_from, error, advice)
    })?;
    if let Some(file) = &train_file {
        scorer.check_fit().map_err(|error| error.at(&file.path))?;
    }
    for (index, path) in inputs.iter().enumerate() {
        let bank = match first.take() {
            Some(bank) => bank,
            None => input_bank(config, train_file.as_ref(), chosen.as_ref(), path)?.1,
        };
        let scores = scorer.score(&bank).map_err(|error| {
            let advice = "other images or settings may do: they must be of the network that the detector learned from";
            of_detector(config, &path.display().to_string(), error, advice)
        })?;
        each(index, &scores)?;
    }
    Ok(scorer.record())
}

/// What a detector could not do with a file is for who gave the file and the detector.
fn of_detector(config: &DetectorConfig, file: &str, error: Error, advice: &str) -> Error {
    let name = config.name();
    match error {
        Error::Failed(reason) => {
            let reason = reason.strip_prefix(&format!("{name}: ")).unwrap_or(&reason);
            Error::input(format!("{file}: the detector {name}: {reason}")).hint(advice)
        }
        other => other.at(&format!("{file}: the detector {name}")),
    }
}

/// A file of images to score, as a bank that fits the train images'.
fn input_bank(
    config: &DetectorConfig,
    train: Option<&FeatureFile>,
    chosen: Option<&Arc<InMemory>>,
    path: &Path,
) -> Result<(FeatureFile, Bank)> {
    let input = FeatureFile::read(path, false)?;
    let mut bank = input.bank(config, Learns::Nothing)?;
    if let Some(train) = train {
        let pairs = [("logits", &train.logits, &input.logits), ("features", &train.features, &input.features)];
        for (what, a, b) in pairs {
            if let (Some(a), Some(b)) = (a, b)
                && a.dim(D::Minus1)? != b.dim(D::Minus1)?
            {
                let (a, b) = (a.dim(D::Minus1)?, b.dim(D::Minus1)?);
                return Err(Error::input(format!(
                    "{what} has {a} columns in {} and {b} in {}",
                    train.path, input.path
                )));
            }
        }
        if let Some(layers) = chosen {
            bank.batches = Some(same_layers(train, layers, &input)?);
        }
    }
    Ok((input, bank))
}

/// The layers of the train images that a detector reads, if it chooses.
fn chosen_layers(detector: &dyn Detector, train: &FeatureFile) -> Result<Option<Arc<InMemory>>> {
    let Some(all) = &train.layers else { return Ok(None) };
    let chosen = detector.chooses(&all.layers()?).map_err(|error| error.at(&train.path))?;
    let read = |chosen: Vec<usize>| chosen.iter().map(|&place| all.layers[place].clone()).collect();
    chosen.map(|chosen| Ok(Arc::new(InMemory::new(read(chosen))?))).transpose()
}

/// The same layers of other images, in the same order.
fn same_layers(train: &FeatureFile, chosen: &InMemory, input: &FeatureFile) -> Result<Arc<InMemory>> {
    let all = input.layers()?;
    let same = chosen.layers.iter().map(|(name, learned)| {
        let Some((_, values)) = all.layers.iter().find(|(other, _)| other == name) else {
            return Err(Error::input(format!("taps.{name} is in {} and not in {}", train.path, input.path)));
        };
        let (a, b) = (&learned.dims()[1..], &values.dims()[1..]);
        if a != b {
            return Err(Error::input(format!(
                "taps.{name} is {a:?} an image in {} and {b:?} in {}",
                train.path, input.path
            )));
        }
        Ok((name.clone(), values.clone()))
    });
    Ok(Arc::new(InMemory::new(same.collect::<Result<_>>()?)?))
}

/// `256x256`: rows and columns.
fn size_of(text: &str) -> Result<[usize; 2], String> {
    let side = |text: &str| text.parse().ok().filter(|side| (1..=MOST_PIXELS).contains(side));
    let sides = text.split_once('x').and_then(|(rows, columns)| Some([side(rows)?, side(columns)?]));
    sides.ok_or_else(|| {
        let shown: String = text.chars().take(40).collect();
        format!("the metadata {IMAGE_SIZE} is \"{}\", and must be rows x columns, as 256x256", printable(&shown))
    })
}

fn has_use(name: &str) -> bool {
    NAMES.contains(&name) || name.starts_with("taps.")
}

/// The tensors that have no use here.
///
/// # Errors
/// [`Error::Input`] if the name of one is nearly that of a tensor that the file lacks.
fn without_use(names: &[String], shown: &str) -> Result<Vec<String>> {
    let absent = NAMES.into_iter().filter(|known| !names.iter().any(|name| name == known));
    let unused: Vec<String> = names.iter().filter(|name| !has_use(name)).cloned().collect();
    for name in &unused {
        let near = did_you_mean(name, absent.clone());
        if !near.is_empty() {
            let message = format!("{shown}: there is no use for a tensor \"{}\"{near}", printable(name));
            return Err(Error::input(message).hint(format!("the names are {} and taps.<layer>", NAMES.join(", "))));
        }
    }
    Ok(unused)
}

/// A tensor as f32, of one of the ranks; a message otherwise.
fn floats(tensor: &Tensor, name: &str, ranks: &[usize], finite: bool) -> Result<Tensor, String> {
    let dims = tensor.dims();
    if !ranks.contains(&dims.len()) || dims[1..].contains(&0) {
        let ranks: Vec<String> = ranks.iter().map(usize::to_string).collect();
        return Err(format!("{name} is {dims:?}, and must have {} axes, none of size 0", ranks.join(" or ")));
    }
    if !matches!(tensor.dtype(), DType::F16 | DType::BF16 | DType::F32 | DType::F64) {
        return Err(format!("{name} holds {:?}, and must hold floating-point numbers", tensor.dtype()));
    }
    let as_f32 = tensor.to_dtype(DType::F32).map_err(|error| format!("{name}: {error}"))?;
    if finite {
        let values =
            as_f32.flatten_all().and_then(|values| values.to_vec1::<f32>()).map_err(|error| error.to_string())?;
        if let Some((index, value)) = values.iter().enumerate().find(|(_, value)| !value.is_finite()) {
            let row = index / dims[1..].iter().product::<usize>().max(1);
            return Err(format!("{name} holds {value} in row {row} (counted from 0)"));
        }
    }
    Ok(as_f32)
}

/// Labels of any integer type.
fn classes(labels: &Tensor) -> Result<Vec<u32>, String> {
    if labels.rank() != 1 || labels.dtype().is_float() {
        return Err(format!(
            "labels is {:?} of {:?}, and must be one whole number per image",
            labels.dims(),
            labels.dtype()
        ));
    }
    let values =
        labels.to_dtype(DType::I64).and_then(|labels| labels.to_vec1::<i64>()).map_err(|error| error.to_string())?;
    let class = |(image, label): (usize, i64)| {
        u32::try_from(label).map_err(|_| format!("the label of image {image} is {label}, which is no class"))
    };
    values.into_iter().enumerate().map(class).collect()
}
