//! What a fit will meet, before there is a trained network, and what a smoke run makes of a detector.

use indexmap::IndexMap;
use serde::Serialize;
use serde_json::Value;

use super::{Denoises, LayerShape};
use crate::{Error, nn::Shown};

/// What a network gives of one image, whatever its weights, and how much it learns from.
#[derive(Debug, Clone, Copy)]
pub struct About<'a> {
    /// Every layer, from input to output.
    pub layers: &'a [LayerShape],
    /// Of one image.
    pub shown: &'a Shown,
    /// The denoiser that is read: the second network, if the detector reads one, else this one.
    pub denoiser: Option<Denoises>,
    /// How many train images there are, if that is known.
    pub train: Option<usize>,
    /// Bytes that the fit may hold at a time.
    pub memory: usize,
}

impl About<'_> {
    /// How many train images there are at least.
    pub fn least(&self) -> usize {
        self.train.unwrap_or(1)
    }

    /// How many train images there may be.
    pub fn most(&self) -> usize {
        self.train.unwrap_or(usize::MAX)
    }
}

/// Refuses what cannot be fitted; else the bytes that the fit holds at its peak, where they are told beforehand.
pub type Check<'a> = Box<dyn Fn(About<'_>) -> Result<Option<usize>, Refusal> + 'a>;

/// Why a detector cannot be fitted.
#[derive(Debug)]
pub struct Refusal {
    /// The setting that is wrong, if it is one.
    pub key: Option<&'static str>,
    /// What is wrong.
    pub error: Error,
}

impl<E: Into<Error>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self { key: None, error: error.into() }
    }
}

/// Neighbours in a smoke run: there are few train images.
const NEIGHBOURS: usize = 5;
/// Main directions of the features in a smoke run: those of a network that hardly learned lie in few.
const DIRECTIONS: usize = 2;

/// What a smoke run has, as far as detectors depend on it.
pub struct Smoke<'a> {
    /// The values that are tried of the detector's settings.
    pub search: &'a mut IndexMap<String, Vec<Value>>,
    /// The settings that have a value of a smoke run's own now, whatever is given or tried.
    pub set: &'a mut Vec<(String, Value)>,
    /// What a layer is called in the network that stands for the detector's own.
    pub layer: &'a dyn Fn(&str) -> String,
    /// Whether the detector may fit each neuron by itself; to be asked once.
    pub neurons: &'a mut dyn FnMut() -> bool,
}

impl Smoke<'_> {
    /// Takes this value in the place of those given or tried.
    pub fn set<T: Serialize>(&mut self, key: &str, setting: &mut T, value: T) {
        *setting = value;
        self.search.shift_remove(key);
        // Settings are numbers, words and lists of them, all of which JSON has.
        self.set.extend(serde_json::to_value(&*setting).ok().map(|value| (key.to_owned(), value)));
    }

    /// Only the first steps of a schedule, which the smallest has.
    pub fn few_steps(&mut self, key: &str, levels: &mut Vec<usize>) {
        self.set(key, levels, vec![1, 2]);
    }

    /// Only such directions as a network that hardly learned has.
    pub fn few_directions(&mut self, dimension: &mut Option<usize>) {
        self.set("dimension", dimension, Some(DIRECTIONS));
    }

    /// Only such k as so few images have, given or to be tried.
    pub fn few_neighbours(&mut self, k: &mut usize) {
        match self.search.get_mut("k") {
            None => {
                *k = (*k).min(NEIGHBOURS);
                self.set.push(("k".to_owned(), Value::from(*k)));
            }
            Some(values) => {
                values.retain(|k| k.as_u64().is_some_and(|k| k <= NEIGHBOURS as u64));
                if values.is_empty() {
                    values.push(Value::from(NEIGHBOURS));
                }
            }
        }
    }
}
