//! The numbers of a table: which seeds have them, and how they are printed.

use crate::{
    config::Sampling,
    metrics::{self, Column, MeanStd, Protocol, Unit, measures::Needs},
    report::variants::Variant,
    run::results::{SeedResult, SetResult},
};

/// Two decimals, as every table and figure prints percent.
pub fn two_decimals(number: f64) -> String {
    // Not "-0.00".
    format!("{:.2}", if number.abs() < 0.005 { 0.0 } else { number })
}

/// `96.51`, or `96.51 ± 0.19` if there is a spread to tell of.
pub fn mean_std(number: &MeanStd, plus_minus: &str) -> String {
    match number.n {
        0 | 1 => two_decimals(number.mean),
        _ => format!("{} {plus_minus} {}", two_decimals(number.mean), two_decimals(number.std)),
    }
}

/// `+1.23`, `-1.23`, `0.00`.
pub fn signed(number: f64) -> String {
    let text = two_decimals(number);
    if number >= 0.005 { format!("+{text}") } else { text }
}

/// A number that methods have: a column, on some sets, by a protocol.
#[derive(Debug, Clone, Copy)]
pub struct Number<'a> {
    /// What is counted.
    pub column: Column,
    /// What it is of.
    pub sets: Sets<'a>,
    /// How it is counted.
    pub protocol: Protocol,
    /// Which of the images.
    pub sampling: Sampling,
}

/// What a number is of, besides the ID set.
#[derive(Debug, Clone, Copy)]
pub enum Sets<'a> {
    /// An OOD set, or a category.
    One(&'a str),
    /// The mean over these.
    Mean(&'a [&'a str]),
}

impl Number<'_> {
    /// The mean over a method's seeds, in percent if it is a share.
    ///
    /// A seed that lacks the number is left out, as is a mean over sets of which one is missing.
    pub fn of(&self, variant: &Variant<'_>) -> Option<MeanStd> {
        let seeds = self.by_seed(variant)?;
        match seeds.as_slice() {
            [] => None,
            // One seed: what spread there is, is that of its draws.
            [(_, one)] if variant.cell.seeds.len() == 1 => Some(*one),
            several => Some(MeanStd::of(&several.iter().map(|(_, number)| number.mean).collect::<Vec<_>>())),
        }
    }

    /// That of each seed that has it; `None` of a column that no protocol has.
    pub fn by_seed(&self, variant: &Variant<'_>) -> Option<Vec<(u64, MeanStd)>> {
        let measure = metrics::measure_for(self.column, self.protocol)?;
        let scale = if measure.unit == Unit::Share { 100.0 } else { 1.0 };
        let one = |value| MeanStd { mean: value, std: 0.0, n: 1 };
        let one_set = |set: &SetResult| match self.sampling {
            // What is no share is not drawn: on average a random subset's gap is the whole set's.
            Sampling::Redraw if measure.unit == Unit::Share => {
                set.redraw.as_ref().and_then(|draws| draws.get(&*measure.key)).copied()
            }
            _ => {
                let spectrum = self.sampling == Sampling::FullSpectrum;
                let measures = if spectrum { set.full_spectrum.as_ref()? } else { &set.measures };
                measures.get(&*measure.key).copied().map(one)
            }
        };
        let of_seed = |seed: &SeedResult| match self.sets {
            Sets::One(set) => one_set(seed.measured(variant.name, set)?),
            Sets::Mean(sets) => {
                let mean_of = |set: &&str| Some(one_set(seed.measured(variant.name, set)?)?.mean);
                let means: Option<Vec<f64>> = sets.iter().map(mean_of).collect();
                let means = means.filter(|means| !means.is_empty())?;
                Some(one(means.iter().sum::<f64>() / means.len() as f64))
            }
        };
        let of_classes = matches!(measure.needs, Needs::Logits(_));
        let found = variant.methods().filter_map(|(seed, method)| {
            let number = match of_classes {
                true => one(*seed.task()?.networks.get(&method.network)?.measures.get(&*measure.key)?),
                false => of_seed(seed)?,
            };
            Some((seed.seed, MeanStd { mean: number.mean * scale, std: number.std * scale, n: number.n }))
        });
        Some(found.collect())
    }

    /// Its 95 % interval over test images, in percent; of several seeds, the mean of each end. `None` of a mean over sets.
    pub fn interval(&self, variant: &Variant<'_>) -> Option<[f64; 2]> {
        let Sets::One(set) = self.sets else { return None };
        let measure = metrics::measure_for(self.column, self.protocol)?;
        let found: Option<Vec<[f64; 2]>> = variant
            .methods()
            .map(|(seed, _)| seed.measured(variant.name, set)?.intervals.get(&*measure.key).copied())
            .collect();
        let found = found.filter(|found| !found.is_empty())?;
        Some([0, 1].map(|end| 100.0 * found.iter().map(|interval| interval[end]).sum::<f64>() / found.len() as f64))
    }
}
