//! Fitting every neuron of the chosen layers under a limit of memory.
//!
//! Neurons are taken in blocks whose activations on all train images fit into the memory; each block is one pass over the train
//! images, then all cores fit its neurons. A finished block is written to the scratch folder, where an interrupted fit finds it.
//! Neither the limit nor the number of threads changes a bit of the result.

use std::{ops::Range, path::Path, sync::Arc};

use rayon::prelude::*;

use super::{
    Aggregate, Config, Constant, Engine,
    layers::{self, Chosen},
    neuron::{Model, Neuron},
    part::{Part, Piece},
    table::{Curve, Error, Head, NODES, Tables},
};
use crate::{
    Result,
    detectors::{self, Batches},
};

/// Neurons that are fitted together, and whose factors are added up before they are added to others.
const GROUP: usize = 128;

/// Tables are compared with exact factors for one neuron in so many: it costs as much as to make the table. Ours: coprime with the
/// usual widths of feature maps, so that all their columns are met.
const MEASURED: usize = 17;

/// The bytes of a table's tails, and a little more: 1,020 to 1,970 on average for LeNets fitted to MNIST.
const TAILS: usize = 2048;

/// A table with a larger difference in its log factors than this, a tenth of the factor, is off.
const OFF: f64 = 0.1;

/// A fitted AFDU.
#[derive(Debug)]
pub struct Fitted {
    /// Its settings.
    pub config: Config,
    /// The layers it reads.
    pub layers: Vec<FittedLayer>,
    /// Its neurons, layer after layer.
    pub curves: Curves,
    /// What the fit met.
    pub record: Record,
}

/// A layer, and how its mean log factor varies over the train images.
#[derive(Debug, Clone, PartialEq)]
pub struct FittedLayer {
    /// Which it is.
    pub chosen: Chosen,
    /// Mean and standard deviation of the layer's mean log factor, for [`Aggregate::Standardised`]; the deviation is 1 where
    /// there is none.
    pub train: Option<[f64; 2]>,
}

/// What a fit met and how well tables stand for it.
#[derive(Debug, Clone, PartialEq, Default, serde::Serialize)]
pub struct Record {
    /// All neurons.
    pub neurons: usize,
    /// Those that took one value only.
    pub constant: usize,
    /// Those without a finite activation.
    pub absent: usize,
    /// Those with a value that so many images share that the bandwidth was chosen without it.
    pub with_atoms: usize,
    /// Those for which the rule found no bandwidth, so that Silverman's was taken.
    pub fell_back: usize,
    /// Train activations that were left out because they were NaN, infinite or beyond 10³⁰.
    pub unusable_activations: usize,
    /// Train images.
    pub images: usize,
    /// Passes over them.
    pub passes: usize,
    /// How well tables stand for exact factors, if there are tables.
    #[serde(flatten)]
    pub tables: Option<TableErrors>,
}

/// How far tabulated log factors are from exact ones.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct TableErrors {
    /// The share of the tables that were compared with exact factors, one neuron in 17; the rest is of these.
    pub tables_measured: f64,
    /// The largest difference anywhere: at centres and between nodes.
    pub largest_table_error: f64,
    /// The mean difference on train activations.
    pub mean_table_error: f64,
    /// The share of tables with a difference above 0.1 anywhere.
    pub tables_off_by_a_tenth: f64,
}

impl TableErrors {
    /// `None` if no table was measured.
    fn of(errors: &[Error], tables: usize) -> Option<Self> {
        let share = |count: usize, of: usize| count as f64 / of as f64;
        (!errors.is_empty()).then(|| Self {
            tables_measured: share(errors.len(), tables),
            largest_table_error: errors.iter().map(|error| error.largest).fold(0.0, f64::max),
            mean_table_error: errors.iter().map(|error| error.mean).sum::<f64>() / errors.len() as f64,
            tables_off_by_a_tenth: share(errors.iter().filter(|error| error.largest > OFF).count(), errors.len()),
        })
    }
}

/// Every neuron's log factor as a function.
#[derive(Debug)]
pub enum Curves {
    /// Tables, and the largest log factor.
    Tabulated(Tables, f32),
    /// Clusters; a [`Head`] alone where there are none. The largest log factor.
    Exact(Vec<Result<Box<Model>, Head>>, f32),
}

impl Curves {
    /// ln WAF of values by a neuron, never NaN; that of NaN is the cap, or 0 by a neuron that tells nothing.
    pub fn log_factors(&self, neuron: usize, values: &[f32], factors: &mut [f32]) {
        match self {
            Self::Tabulated(tables, cap) => tables.curve(neuron).log_factors(*cap, values, factors),
            Self::Exact(neurons, cap) => match &neurons[neuron] {
                Err(head) => Curve::constant(head).log_factors(*cap, values, factors),
                Ok(model) => model.log_factors_of(values, factors),
            },
        }
    }
}

/// Fits all neurons in `memory` bytes.
///
/// # Errors
/// [`crate::Error::Input`] if that is less than [`least_memory`], or a layer is not there;
/// [`crate::Error::Interrupted`] when the user asks to stop.
pub fn fit(config: &Config, train: &dyn Batches, memory: usize, scratch: Option<&Path>) -> Result<Fitted> {
    let chosen = layers::choose(config, &train.layers()?)?;
    let subset = subset(config, train)?;
    let train = subset.as_deref().unwrap_or(train);
    let neurons = chosen.last().map_or(0, |layer| layer.neurons.end);
    check_memory(config, neurons, train.images(), memory)?;
    let blocks = blocks(config, &chosen, train.images(), memory);
    let mut parts: Vec<Part> = Vec::new();
    let mut sums = Vec::new();
    for (index, block) in blocks.iter().enumerate() {
        let place = format!("{config:?} {chosen:?} {} images, block {block:?}", train.images());
        let path = scratch.map(|scratch| scratch.join(format!("neurons-{:08}.safetensors", block.start)));
        let stored = match &path {
            Some(path) => Part::read(path, &place, config)?,
            None => None,
        };
        let mut part = match stored {
            Some(part) => part,
            None => {
                let part_of = match blocks.len() {
                    1 => String::new(),
                    all => format!(", part {} of {all}", index + 1),
                };
                let values = collect(config, &chosen, block, train, &format!("fitting AFDU{part_of}"))?;
                let what = format!("fitting AFDU{part_of}: neurons");
                let part = fit_block(config, &chosen, block, &values, sums, train, &what)?;
                if let Some(path) = &path {
                    part.write(path, &place)?;
                }
                part
            }
        };
        sums = std::mem::take(&mut part.sums);
        parts.push(part);
    }
    assemble(config, chosen, train.images(), parts, &sums)
}

/// The bytes that a fit of so many neurons needs: all of them fitted, and the activations of one group on all images.
pub fn least_memory(config: &Config, neurons: usize, images: usize) -> usize {
    neurons * fitted_bytes(config, images) + GROUP.min(neurons) * images * size_of::<f32>()
}

/// Refuses a fit of so many neurons to at most `images` train images in less than [`least_memory`].
///
/// # Errors
/// [`crate::Error::Input`] with both numbers.
pub fn check_memory(config: &Config, neurons: usize, images: usize, memory: usize) -> Result<()> {
    let least = least_memory(config, neurons, config.images.map_or(images, |most| most.min(images)));
    let advice = "raise evaluation.fit_memory (--memory), name fewer layers, or take `granularity: channel`";
    detectors::check_memory("AFDU needs at least", &format!("the {neurons} neurons of these layers"), [least, memory])
        .map_err(|error| error.hint(advice))
}

/// The most bytes that a fitted neuron takes, as a rule.
fn fitted_bytes(config: &Config, images: usize) -> usize {
    match config.engine {
        // Twice, while the blocks' tables are joined.
        Engine::Tabulated => 2 * (NODES * size_of::<u16>() + size_of::<Head>() + TAILS),
        Engine::Exact => config.clusters.min(images) * 2 * size_of::<[f64; 2]>(),
    }
}

/// The train images that are learned from, if not all are.
pub(super) fn subset(config: &Config, train: &dyn Batches) -> Result<Option<Arc<dyn Batches>>> {
    match config.images {
        Some(images) if images < train.images() => Ok(Some(train.subset(&evenly(images, train.images()))?)),
        _ => Ok(None),
    }
}

/// The positions of `images` evenly spaced ones of `all`.
pub(super) fn evenly(images: usize, all: usize) -> Vec<usize> {
    (0..images).map(|image| image * all / images).collect()
}

/// Ranges of neurons, whole groups each, whose activations fit into the memory beside the finished tables.
fn blocks(config: &Config, chosen: &[Chosen], images: usize, memory: usize) -> Vec<Range<usize>> {
    let neurons = chosen.last().map_or(0, |layer| layer.neurons.end);
    let capacity = memory.saturating_sub(neurons * fitted_bytes(config, images)) / (images.max(1) * size_of::<f32>());
    let mut blocks: Vec<Range<usize>> = Vec::new();
    for group in groups(chosen) {
        match blocks.last_mut() {
            Some(block) if group.end - block.start <= capacity => block.end = group.end,
            _ => blocks.push(group),
        }
    }
    blocks
}

/// Neurons of one layer each.
fn groups(chosen: &[Chosen]) -> impl Iterator<Item = Range<usize>> {
    chosen.iter().flat_map(|layer| {
        let end = layer.neurons.end;
        layer.neurons.clone().step_by(GROUP).map(move |first| first..(first + GROUP).min(end))
    })
}

/// The activations of a block of neurons on all images: neuron after neuron.
fn collect(
    config: &Config,
    chosen: &[Chosen],
    block: &Range<usize>,
    train: &dyn Batches,
    what: &str,
) -> Result<Vec<f32>> {
    let images = train.images();
    let mut values = vec![0.0_f32; block.len() * images];
    train.pass(what, true, &mut |start, batch| {
        for layer in chosen {
            let wanted = layer.neurons.start.max(block.start)..layer.neurons.end.min(block.end);
            if wanted.is_empty() {
                continue;
            }
            let count = layer.neurons.len();
            let into = &mut values[(wanted.start - block.start) * images..(wanted.end - block.start) * images];
            layers::with_rows(config, layer, &batch.layers, |rows| {
                into.par_chunks_mut(16 * images).enumerate().for_each(|(tile, columns)| {
                    let first = wanted.start - layer.neurons.start + 16 * tile;
                    let width = columns.len() / images;
                    for (image, row) in rows.chunks_exact(count).enumerate() {
                        for (neuron, value) in row[first..first + width].iter().enumerate() {
                            columns[neuron * images + start + image] = *value;
                        }
                    }
                });
            })?;
        }
        Ok(())
    })?;
    Ok(values)
}

/// Fits a block's neurons. `sums` are each layer's and image's log factors of the neurons before the block, if there are any.
/// `what` names the work on the progress bar.
fn fit_block(
    config: &Config,
    chosen: &[Chosen],
    block: &Range<usize>,
    values: &[f32],
    sums: Vec<f64>,
    train: &dyn Batches,
    what: &str,
) -> Result<Part> {
    let images = values.len() / block.len();
    let standardised = config.aggregate == Aggregate::Standardised;
    let groups: Vec<Range<usize>> =
        groups(chosen).filter(|group| block.start <= group.start && group.end <= block.end).collect();
    let fit_group = |group: &Range<usize>| {
        let mut sums = vec![0.0; if standardised { images } else { 0 }];
        let mut sorted = vec![0.0; images];
        let mut factors = vec![0.0; images];
        let pieces = group.clone().map(|neuron| {
            let column = &values[(neuron - block.start) * images..(neuron - block.start + 1) * images];
            sorted.copy_from_slice(column);
            let piece = Piece::new(Neuron::fit(&mut sorted, config), config.engine, neuron % MEASURED == 0);
            if standardised {
                piece.log_factors(config.cap as f32, column, &mut factors);
                sums.iter_mut().zip(&factors).for_each(|(sum, factor)| *sum += f64::from(*factor));
            }
            piece
        });
        (pieces.collect::<Vec<Piece>>(), sums)
    };
    let mut fitted: Vec<(Vec<Piece>, Vec<f64>)> = Vec::with_capacity(groups.len());
    train.work(what, groups.len(), &mut |range| {
        fitted.par_extend(groups[range].par_iter().map(fit_group));
        Ok(())
    })?;
    let mut totals = sums;
    if standardised && totals.is_empty() {
        totals = vec![0.0; chosen.len() * images];
    }
    let mut part = Part::default();
    for (group, (pieces, sums)) in groups.iter().zip(fitted) {
        part.pieces.extend(pieces);
        let layer = chosen.iter().position(|layer| layer.neurons.contains(&group.start)).unwrap_or(0);
        let totals = totals.iter_mut().skip(layer * images);
        totals.zip(sums).for_each(|(total, sum)| *total += sum);
    }
    part.unusable = values.iter().filter(|value| !super::neuron::is_usable(**value)).count();
    part.sums = totals;
    Ok(part)
}

fn assemble(config: &Config, chosen: Vec<Chosen>, images: usize, parts: Vec<Part>, sums: &[f64]) -> Result<Fitted> {
    let mut record = Record { images, passes: parts.len(), ..Record::default() };
    let mut pieces = Vec::new();
    for part in parts {
        record.unusable_activations += part.unusable;
        pieces.extend(part.pieces);
    }
    record.note(&pieces);
    let mut layers = Vec::new();
    let mut models = Vec::new();
    let mut tables = match config.engine {
        Engine::Tabulated => Tables::with_capacity(pieces.len()),
        Engine::Exact => Tables::default(),
    };
    let mut pieces = pieces.into_iter();
    for (index, layer) in chosen.into_iter().enumerate() {
        let pieces: Vec<Piece> = pieces.by_ref().take(layer.neurons.len()).collect();
        let bandwidth = match config.constant {
            Constant::Ignore => None,
            Constant::Layer => median(pieces.iter().filter_map(Piece::bandwidth).collect()),
        };
        for piece in pieces {
            let head = match piece {
                Piece::Model(model) => {
                    models.push(Ok(model));
                    continue;
                }
                Piece::Table { table, .. } => {
                    tables.push(table.curve());
                    continue;
                }
                Piece::Constant(value) => Head::constant(value, bandwidth),
                Piece::Absent => Head::constant(0.0, None),
            };
            match config.engine {
                Engine::Exact => models.push(Err(head)),
                Engine::Tabulated => tables.push(Curve::constant(&head)),
            }
        }
        let train = (config.aggregate == Aggregate::Standardised)
            .then(|| spread(&sums[index * images..(index + 1) * images], layer.neurons.len()));
        layers.push(FittedLayer { chosen: layer, train });
    }
    let cap = config.cap as f32;
    let curves = match config.engine {
        Engine::Tabulated => Curves::Tabulated(tables, cap),
        Engine::Exact => Curves::Exact(models, cap),
    };
    Ok(Fitted { config: config.clone(), layers, curves, record })
}

/// Mean and standard deviation over images of the mean over `neurons`.
fn spread(sums: &[f64], neurons: usize) -> [f64; 2] {
    let means: Vec<f64> = sums.iter().map(|sum| sum / neurons as f64).collect();
    let (mean, deviation) = super::bandwidth::moments(&means, &vec![1.0; means.len()]);
    [mean, if deviation > 0.0 { deviation } else { 1.0 }]
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

impl Record {
    fn note(&mut self, pieces: &[Piece]) {
        self.neurons = pieces.len();
        let (mut errors, mut tables) = (Vec::<Error>::new(), 0);
        for piece in pieces {
            match piece {
                Piece::Constant(_) => self.constant += 1,
                Piece::Absent => self.absent += 1,
                Piece::Table { error, .. } => {
                    errors.extend(error);
                    tables += 1;
                }
                Piece::Model(_) => {}
            }
            if let Some((fell_back, atoms)) = piece.irregular() {
                self.fell_back += usize::from(fell_back);
                self.with_atoms += usize::from(atoms);
            }
        }
        self.tables = TableErrors::of(&errors, tables);
    }
}
