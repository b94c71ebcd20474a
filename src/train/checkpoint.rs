//! What is needed to continue training, in one file.
//!
//! `checkpoint.safetensors` holds the tensors `model.<name>`, `optimizer.<part>.<name>`, `average.<name>`, `best.<name>`, `start.<name>`
//! and `slow.<name>`, and [`State`] as JSON in its metadata. Random streams are named by step (see [`crate::rng`]): the step is all there is to
//! save of them.

use std::{collections::BTreeMap, path::Path};

use candle_core::Tensor;
use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    fs::read_if_there,
    nn::weights::{self, read_safetensors},
};

/// Where training stands, beside the tensors.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// SHA-256 of the train images it learns from: it must not continue on others.
    pub data: String,
    /// SHA-256 of the auxiliary outliers it learns from, if it does: they must not change either.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outliers: Option<String>,
    /// Optimiser steps done.
    pub step: u64,
    /// Seconds of training so far.
    pub seconds: f64,
    /// Sums over the images of the epoch under way.
    pub epoch: EpochSums,
    /// Mean loss over the last epoch that was finished.
    pub last_loss: Option<f64>,
    /// The best on validation images so far, if weights are chosen by it: the accuracy, or the negated loss.
    pub best: Option<f64>,
    /// The name of what that is of; `None` in checkpoints of earlier versions, and while nothing is chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_by: Option<String>,
    /// Bytes that each observer had written, by its name: what came after them is written again.
    pub positions: BTreeMap<String, u64>,
}

/// Sums over images.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EpochSums {
    /// Loss times images.
    pub loss: f64,
    /// What else is watched, by name: the images classified rightly are a classifier's `accuracy`.
    #[serde(default)]
    pub watched: BTreeMap<String, f64>,
    /// Images classified rightly, of checkpoints that were written before other things were watched.
    #[serde(default, skip_serializing)]
    pub correct: Option<u64>,
    /// Images.
    pub images: u64,
}

impl State {
    /// Takes note of a `quality` by this measure, larger being better, if it is at least as good as the best so far. What is no number is
    /// never the best, and numbers of two measures are not compared.
    pub fn is_best(&mut self, measure: &str, quality: f64) -> bool {
        let comparable = self.best_by.as_deref().is_none_or(|by| by == measure);
        let best = quality.is_finite() && (!comparable || Some(quality) >= self.best);
        if best {
            (self.best, self.best_by) = (Some(quality), Some(measure.to_owned()));
        }
        best
    }
}

impl EpochSums {
    /// With what an earlier version counted under its name of today.
    fn renewed(mut self) -> Self {
        if let Some(correct) = self.correct.take() {
            self.watched.insert("accuracy".to_owned(), correct as f64);
        }
        self
    }
}

/// A checkpoint as read back.
#[derive(Debug)]
pub struct Checkpoint {
    /// Where training stood.
    pub state: State,
    /// Weights and running statistics.
    pub model: BTreeMap<String, Tensor>,
    /// The optimiser's tensors.
    pub optimizer: BTreeMap<String, Tensor>,
    /// The moving average of the weights; empty unless the recipe asks for it.
    pub average: BTreeMap<String, Tensor>,
    /// The best weights so far; empty unless weights are chosen by validation accuracy.
    pub best: BTreeMap<String, Tensor>,
    /// The weights at the beginning of the round under way; empty unless the recipe has [rounds](super::reptile).
    pub start: BTreeMap<String, Tensor>,
    /// The slow weights and running statistics; empty unless the recipe has a [lookahead](super::lookahead).
    pub slow: BTreeMap<String, Tensor>,
}

impl Checkpoint {
    /// Reads the checkpoint at `path`, its tensors on the CPU, or `None` if there is none.
    ///
    /// # Errors
    /// [`Error::Input`] if the file is not a checkpoint of this version.
    pub fn read(path: &Path) -> Result<Option<Self>> {
        let Some(bytes) = read_if_there(path)? else { return Ok(None) };
        let damaged = |reason: String| Self::unusable(path, Error::input(reason));
        let (tensors, metadata) = read_safetensors(&bytes).map_err(damaged)?;
        let state = metadata.get("state").ok_or_else(|| damaged("it has no state".to_owned()))?;
        let state: State = serde_json::from_str(state).map_err(|error| damaged(error.to_string()))?;
        let state = State { epoch: state.epoch.renewed(), ..state };
        let mut parts = ["model.", "optimizer.", "average.", "best.", "start.", "slow."].map(|prefix| {
            let part = tensors
                .iter()
                .filter_map(|(name, tensor)| name.strip_prefix(prefix).map(|name| (name.to_owned(), tensor.clone())));
            part.collect::<BTreeMap<_, _>>()
        });
        let [model, optimizer, average, best, start, slow] = parts.each_mut().map(std::mem::take);
        Ok(Some(Self { state, model, optimizer, average, best, start, slow }))
    }

    /// What is told of the checkpoint at `path` when its content is wrong in this way; other errors are returned unchanged.
    pub fn unusable(path: &Path, error: Error) -> Error {
        match error {
            Error::Input { message, .. } => {
                Error::input(format!("{} is not a checkpoint of this version: {message}", path.display()))
                    .hint("remove the file to train this network from the start")
            }
            other => other,
        }
    }

    /// Writes the checkpoint whole or not at all.
    pub fn write(&self, path: &Path) -> Result<()> {
        let parts = [
            ("model.", &self.model),
            ("optimizer.", &self.optimizer),
            ("average.", &self.average),
            ("best.", &self.best),
            ("start.", &self.start),
            ("slow.", &self.slow),
        ];
        let tensors = parts.into_iter().flat_map(|(prefix, part)| {
            part.iter().map(move |(name, tensor)| (format!("{prefix}{name}"), tensor.clone()))
        });
        let tensors: BTreeMap<String, Tensor> = tensors.collect();
        let state = serde_json::to_string(&self.state)
            .map_err(|error| Error::Failed(format!("cannot serialise the training state: {error}")))?;
        weights::write(path, &tensors, &[("state".to_owned(), state)].into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_of_an_earlier_version_goes_on() {
        let old: EpochSums = serde_json::from_str(r#"{"loss":2.5,"correct":7,"images":8}"#).unwrap();
        let new = old.renewed();
        assert_eq!((new.loss, new.images, new.watched["accuracy"]), (2.5, 8, 7.0));
        let text = serde_json::to_string(&new).unwrap();
        assert_eq!(text, r#"{"loss":2.5,"watched":{"accuracy":7.0},"images":8}"#);
        assert_eq!(serde_json::from_str::<EpochSums>(&text).unwrap().renewed(), new);
    }

    #[test]
    fn the_best_is_by_one_measure() {
        let old = r#"{"data":"d","step":4,"seconds":1.0,"epoch":{"loss":0.0,"images":0},"last_loss":null,"best":0.5,"positions":{}}"#;
        let mut state: State = serde_json::from_str(old).unwrap();
        // An earlier version did not say of what: what is judged now is taken for it.
        assert!(!state.is_best("accuracy", 0.25) && !state.is_best("accuracy", f64::NAN));
        assert!(state.is_best("accuracy", 0.5) && state.is_best("accuracy", 0.75));
        assert!(serde_json::to_string(&state).unwrap().contains(r#""best":0.75,"best_by":"accuracy""#));
        // A negated loss is below any accuracy.
        assert!(state.is_best("loss", -2.0) && !state.is_best("loss", -3.0) && state.is_best("loss", -1.0));
        assert_eq!((state.best, state.best_by.as_deref()), (Some(-1.0), Some("loss")));
    }

    #[test]
    fn what_is_written_is_read_back() -> Result<()> {
        let folder = tempfile::tempdir().map_err(Error::io("create", "temporary folder"))?;
        let path = folder.path().join("checkpoint.safetensors");
        assert!(Checkpoint::read(&path)?.is_none());

        let tensor = Tensor::new(&[0.1f32, -2.5], &candle_core::Device::Cpu)?;
        let state = State {
            step: 17,
            seconds: 0.1 + 0.2,
            last_loss: Some(1.0 / 3.0),
            positions: [("jsonl".to_owned(), 12)].into(),
            ..State::default()
        };
        let written = Checkpoint {
            state: state.clone(),
            model: [("fc.weight".to_owned(), tensor.clone())].into(),
            optimizer: [("fc.weight".to_owned(), tensor.affine(2.0, 0.0)?)].into(),
            average: BTreeMap::new(),
            best: BTreeMap::new(),
            start: BTreeMap::new(),
            slow: BTreeMap::new(),
        };
        written.write(&path)?;
        let read = Checkpoint::read(&path)?.expect("was written");
        assert_eq!(read.state, state);
        assert_eq!(read.model["fc.weight"].to_vec1::<f32>()?, [0.1, -2.5]);
        assert_eq!(read.optimizer["fc.weight"].to_vec1::<f32>()?, [0.2, -5.0]);
        assert!(read.best.is_empty());
        let told = Checkpoint::unusable(&path, Error::input("velocity.a fits nothing"));
        assert!(
            matches!(told, Error::Input { message, hint: Some(_) } if message.contains("checkpoint.safetensors is not"))
        );

        for cut in [0, 7, 8, 20, 60] {
            let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
            let damaged = folder.path().join("damaged");
            std::fs::write(&damaged, &bytes[..cut]).map_err(Error::io("write", &damaged))?;
            assert!(matches!(Checkpoint::read(&damaged), Err(Error::Input { .. })), "cut at {cut}");
        }
        // One flipped bit would make the loss explode, or only a little worse.
        let mut bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
        *bytes.last_mut().expect("holds tensors") ^= 0x40;
        std::fs::write(&path, &bytes).map_err(Error::io("write", &path))?;
        let error = Checkpoint::read(&path).expect_err("was damaged").to_string();
        assert!(error.ends_with("its bytes do not match its checksum: it was damaged or edited after it was written"));
        Ok(())
    }
}
