//! A block of fitted neurons, in memory and as a file that an interrupted fit goes on from.

use std::{collections::BTreeMap, path::Path};

use candle_core::{Device, Tensor, WithDType};

use super::{
    Config, Engine,
    density::Density,
    neuron::{Model, Neuron},
    table::{Error, HEAD_WORDS, Head, NODES, Table},
};
use crate::{
    Result,
    fs::read_if_there,
    nn::weights::{self, read_safetensors},
};

/// A fitted neuron, as its engine keeps it.
#[derive(Debug, Clone)]
pub enum Piece {
    /// Tabulated.
    Table {
        /// The table.
        table: Table,
        /// h
        bandwidth: f64,
        /// As [`Piece::irregular`].
        irregular: (bool, bool),
        /// If it was measured.
        error: Option<Error>,
    },
    /// Exact.
    Model(Box<Model>),
    /// One value only.
    Constant(f32),
    /// No value.
    Absent,
}

impl Piece {
    /// What `engine` keeps of a neuron, with the table's error if that is to be `measured`.
    pub fn new(neuron: Neuron, engine: Engine, measured: bool) -> Self {
        match (neuron, engine) {
            (Neuron::Absent, _) => Self::Absent,
            (Neuron::Constant(value), _) => Self::Constant(value),
            (Neuron::Varied(model), Engine::Exact) => Self::Model(Box::new(model)),
            (Neuron::Varied(model), Engine::Tabulated) => {
                let table = Table::new(&model);
                let error = measured.then(|| table.error(&model));
                let (bandwidth, irregular) = (model.density.bandwidth, (model.fell_back, model.atoms > 0.0));
                Self::Table { table, bandwidth, irregular, error }
            }
        }
    }

    /// h, if it has one.
    pub fn bandwidth(&self) -> Option<f64> {
        match self {
            Self::Table { bandwidth, .. } => Some(*bandwidth),
            Self::Model(model) => Some(model.density.bandwidth),
            Self::Constant(_) | Self::Absent => None,
        }
    }

    /// Whether the rule found no bandwidth, and whether there were atoms.
    pub fn irregular(&self) -> Option<(bool, bool)> {
        match self {
            Self::Table { irregular, .. } => Some(*irregular),
            Self::Model(model) => Some((model.fell_back, model.atoms > 0.0)),
            Self::Constant(_) | Self::Absent => None,
        }
    }

    /// ln WAF of values that the neuron was fitted to.
    pub fn log_factors(&self, cap: f32, values: &[f32], factors: &mut [f32]) {
        match self {
            Self::Table { table, .. } => table.curve().log_factors(cap, values, factors),
            Self::Model(model) => model.log_factors_of(values, factors),
            Self::Constant(_) | Self::Absent => factors.fill(0.0),
        }
    }
}

/// A block of fitted neurons.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// In order.
    pub pieces: Vec<Piece>,
    /// By layer and image, the sum of the log factors of all neurons up to the end of this block; empty unless layers are
    /// standardised.
    pub sums: Vec<f64>,
    /// Train activations that no neuron could use.
    pub unusable: usize,
}

/// What a file of another meaning is told by: raised when tables or what stands beside them change.
const FORMAT: &str = "2";

/// Numbers that each neuron is stored with: what it is, then what [`Part::write`] lists.
const NUMBERS: usize = 8;

impl Part {
    /// Writes it; `place` says what it is a part of.
    pub fn write(&self, path: &Path, place: &str) -> Result<()> {
        let (mut numbers, mut heads, mut nodes) = (Vec::<f64>::new(), Vec::<f32>::new(), Vec::<u8>::new());
        let mut tails = Vec::<f32>::new();
        let (mut centres, mut weights) = (Vec::<f64>::new(), Vec::<f32>::new());
        let flag = |flag: bool| f64::from(u8::from(flag));
        for piece in &self.pieces {
            numbers.extend(match piece {
                Piece::Absent => [0.0; NUMBERS],
                Piece::Constant(value) => [1.0, f64::from(*value), 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
                Piece::Table { table, bandwidth, irregular: (fell_back, atoms), error } => {
                    heads.extend(table.head.to_words());
                    nodes.extend(table.nodes.iter().flat_map(|node| node.to_le_bytes()));
                    tails.extend(table.tails.iter().flatten());
                    let [left, right] = table.tails.each_ref().map(|tail| tail.len() as f64);
                    let [largest, mean] = error.map_or([f64::NAN; 2], |error| [error.largest, error.mean]);
                    [2.0, *bandwidth, flag(*fell_back), flag(*atoms), largest, mean, left, right]
                }
                Piece::Model(model) => {
                    let density = &model.density;
                    centres.extend(density.centres());
                    weights.extend(density.weights());
                    let (count, fell_back) = (density.centres().len() as f64, flag(model.fell_back));
                    [3.0, density.bandwidth, fell_back, model.atoms, density.origin, model.floor(), count, 0.0]
                }
            });
        }
        let mut tensors: BTreeMap<String, Tensor> = BTreeMap::new();
        let mut keep = |name: &str, tensor: Tensor| tensors.insert(name.to_owned(), tensor);
        keep("numbers", vector(numbers)?);
        keep("heads", vector(heads)?);
        keep("nodes", vector(nodes)?);
        keep("tails", vector(tails)?);
        keep("centres", vector(centres)?);
        keep("weights", vector(weights)?);
        keep("sums", vector(self.sums.clone())?);
        let format = FORMAT.to_owned();
        let metadata = [("format", format), ("place", place.to_owned()), ("unusable", self.unusable.to_string())];
        weights::write(path, &tensors, &metadata.map(|(key, value)| (key.to_owned(), value)).into())
    }

    /// Reads what [`Part::write`] wrote; `None` if there is no file, or one of another `place` or format, or not a whole one: it is made
    /// again then.
    pub fn read(path: &Path, place: &str, config: &Config) -> Result<Option<Self>> {
        let Some(bytes) = read_if_there(path)? else { return Ok(None) };
        let Ok((tensors, metadata)) = read_safetensors(&bytes) else { return Ok(None) };
        let is = |key: &str, value: &str| metadata.get(key).is_some_and(|stored| stored == value);
        if !is("format", FORMAT) || !is("place", place) {
            return Ok(None);
        }
        Ok(Self::from_tensors(&tensors, &metadata, config))
    }

    fn from_tensors(
        tensors: &BTreeMap<String, Tensor>,
        metadata: &BTreeMap<String, String>,
        config: &Config,
    ) -> Option<Self> {
        let heads: Vec<f32> = stored(tensors, "heads")?;
        let nodes: Vec<u8> = stored(tensors, "nodes")?;
        let tails: Vec<f32> = stored(tensors, "tails")?;
        let centres: Vec<f64> = stored(tensors, "centres")?;
        let weights: Vec<f32> = stored(tensors, "weights")?;
        let mut tables = heads.as_chunks::<HEAD_WORDS>().0.iter().zip(nodes.chunks_exact(2 * NODES));
        let (mut first, mut tails) = (0, tails.as_slice());
        let mut part = Self { sums: stored(tensors, "sums")?, ..Self::default() };
        part.unusable = metadata.get("unusable")?.parse().ok()?;
        for numbers in stored::<f64>(tensors, "numbers")?.as_chunks::<NUMBERS>().0 {
            let [kind, a, fell_back, atoms, b, c, count, right] = *numbers;
            part.pieces.push(match kind as u8 {
                0 => Piece::Absent,
                1 => Piece::Constant(a as f32),
                2 => {
                    let (head, nodes) = tables.next()?;
                    let nodes = nodes.as_chunks().0.iter().map(|node| u16::from_le_bytes(*node)).collect();
                    let mut tail = |length: f64| Some(tails.split_off(..length as usize)?.to_vec());
                    let tails = [tail(count)?, tail(right)?];
                    let table = Table { head: Head::from_words(*head), nodes, tails };
                    let error = (!b.is_nan()).then_some(Error { largest: b, mean: c });
                    Piece::Table { table, bandwidth: a, irregular: (fell_back != 0.0, atoms != 0.0), error }
                }
                _ => {
                    let range = first..first + count as usize;
                    first = range.end;
                    let (centres, weights) = (centres.get(range.clone())?, weights.get(range)?);
                    let density = Density::from_parts(b, a, centres.to_vec(), weights.to_vec());
                    Piece::Model(Box::new(Model::new(density, c, fell_back != 0.0, atoms, config)))
                }
            });
        }
        Some(part)
    }
}

fn vector<T: WithDType>(values: Vec<T>) -> Result<Tensor> {
    let count = values.len();
    Ok(Tensor::from_vec(values, count, &Device::Cpu)?)
}

fn stored<T: WithDType>(tensors: &BTreeMap<String, Tensor>, name: &str) -> Option<Vec<T>> {
    tensors.get(name)?.to_vec1().ok()
}
