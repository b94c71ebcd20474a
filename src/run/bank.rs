//! One forward pass per network and data set, kept on disk for every detector and every later run.

use std::{collections::BTreeMap, ops::Range, path::Path};

use candle_core::{DType, Device, Tensor};

use crate::{
    Error, Result,
    data::{ImageSet, Normalisation},
    detectors::Bank,
    nn::{
        Mode, Network,
        weights::{self, read_safetensors},
    },
    run::interrupt::Interrupt,
};

/// Runs `images` through the network in evaluation mode, `batch` at a time; the outputs are f32 on the CPU.
///
/// # Errors
/// [`Error::Interrupted`] between batches when the user asks to stop.
pub fn compute(
    network: &dyn Network,
    images: &ImageSet,
    normalisation: &Normalisation,
    batch: usize,
    device: &Device,
    interrupt: &Interrupt,
    mut progress: impl FnMut(usize),
) -> Result<Bank> {
    let network = network.folded()?;
    let (mut logits, mut features) = (Vec::new(), Vec::new());
    for start in (0..images.len()).step_by(batch) {
        interrupt.check()?;
        let range: Range<usize> = start..(start + batch).min(images.len());
        progress(range.end);
        let outputs = network.forward(&images.tensor(range, normalisation, device)?, Mode::Eval)?;
        // Detached: a bank must not keep the graph of its forward pass alive.
        logits.push(outputs.logits.detach().to_dtype(DType::F32)?.to_device(&Device::Cpu)?);
        features.push(outputs.features.detach().to_dtype(DType::F32)?.to_device(&Device::Cpu)?);
    }
    Ok(Bank { logits: Tensor::cat(&logits, 0)?, features: Tensor::cat(&features, 0)?, labels: images.labels.clone() })
}

/// Reads a bank that [`write()`] wrote, or `None` if there is none; `labels` come from the image set.
///
/// # Errors
/// [`Error::Input`] if the file is something else.
pub fn read(path: &Path, labels: Option<Vec<u32>>) -> Result<Option<Bank>> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    let damaged = |reason: &str| {
        Error::input(format!("{} does not hold a network's outputs: {reason}", path.display()))
            .hint("remove the file: it is made again")
    };
    let (mut tensors, _) = read_safetensors(&bytes).map_err(|reason| damaged(&reason))?;
    match (tensors.remove("logits"), tensors.remove("features")) {
        (Some(logits), Some(features)) => Ok(Some(Bank { logits, features, labels })),
        _ => Err(damaged("logits or features are missing")),
    }
}

/// Writes a bank's logits and features.
pub fn write(path: &Path, bank: &Bank) -> Result<()> {
    let tensors = [("features", &bank.features), ("logits", &bank.logits)];
    let tensors = tensors.map(|(name, tensor)| (name.to_owned(), tensor.clone())).into();
    weights::write(path, &tensors, &BTreeMap::new())
}
