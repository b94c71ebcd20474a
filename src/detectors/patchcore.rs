//! PatchCore: an anomaly lies far from every patch of the train images.
//!
//! A patch is a position of the grid; its features are the means of what leaves several stages over 3×3 positions around it. A memory
//! bank keeps some of the train images' patches, and map = the distance to the nearest of them. The map is brought to the images' size
//! and smoothed; the image's score is its maximum, or as `score` says. With `reweight: b`, the image's score is multiplied by
//! w = 1 − exp(‖x − m‖) / Σ exp(‖x − n‖), of the image's most anomalous patch x, its nearest m in the bank, and the b rows n of the
//! bank that are nearest to m, m among them. `score: patch` with `reweight: 9` is the paper's score of an image.
//!
//! - Paper: Roth et al., *Towards Total Recall in Industrial Anomaly Detection*, CVPR 2022, <https://arxiv.org/abs/2106.08265>.
//! - Reference code: `amazon-science/patchcore-inspection`, which does not reweight and scores an image by its most anomalous patch
//!   before smoothing (`score: patch`); anomalib's `Patchcore`, which reweights with 9.
//! - As in both, beyond the border of a stage there are zeros, which the means count; coarser stages are brought to the grid
//!   bilinearly. The reference code then takes means over neighbouring channels until 1024 are left; this, as anomalib, does not.
//!   Stages larger than the grid, which `grid` may name, are averaged over what lies in a position.
//! - The bank is a greedy coreset of a random sample of the patches, chosen by distances after a random projection, as in the
//!   reference code; there, the sample is all patches. anomalib projects by scikit-learn's sparse matrices.
//! - The fit holds 4·(D + p) + 16 bytes for each sampled patch of D channels and p projected ones, and a quarter more at its peak. A
//!   sample that `evaluation.fit_memory` has no room for is smaller, which the fit's record says.
//! - Neighbours are exact: of bounds by eight-bit products, only those that can be the nearest are computed, in f64.

mod sample;

use std::ops::Range;

use candle_core::Device;
use rand::Rng as _;
use rand_distr::{Distribution, StandardNormal};
use rayon::prelude::*;

use super::{
    Bank, Batches, Fit, Fitting, Learner, Maps, Scorer, Scores, Scoring,
    coreset::Greedy,
    in_f64,
    map::{ImageScore, Post},
    patches::{Layout, Patchwise, Settings, image_size, odd, stages_once},
    pushed,
    similarity::Neighbours,
};
use crate::{Error, Result, linalg::project, nn::Shown, rng};

use sample::{Patches, Sample};

/// Rows that are projected at a time.
const BLOCK: usize = 1024;

/// Settings.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "Patchcore")]
pub struct Config {
    /// The stages that are read; absent: the second and the third, as in the paper, or all of a network that has fewer than three.
    #[garde(custom(stages_once))]
    pub stages: Option<Vec<String>>,
    /// The stage whose rows and columns the map has; absent: the one with the most.
    #[garde(skip)]
    pub grid: Option<String>,
    /// Rows and columns of the neighbourhood that a patch is the mean of: 3 in the paper. 1: the position alone.
    #[garde(range(min = 1, max = 31), custom(odd))]
    pub neighbourhood: usize,
    /// Which patches the memory bank keeps.
    #[garde(dive)]
    pub coreset: Coreset,
    /// b, the neighbours that an image's score is reweighted by: 9 in anomalib. Absent: none, as in the reference code. All of the
    /// bank, if it has fewer.
    #[garde(range(min = 2, max = 10_000))]
    pub reweight: Option<usize>,
    /// Of the sample, the projection and the first patch: another number draws others.
    #[garde(skip)]
    pub seed: u64,
    /// σ of the Gaussian that the map is smoothed by, in pixels of the network's input: 4 in the reference code. 0: none.
    #[garde(range(min = 0.0, max = 1000.0))]
    pub smooth: f64,
    /// What an image is scored by. Ours: the maximum of the full map, as PaDiM; `patch` in the reference code.
    #[garde(dive)]
    pub score: ImageScore,
}

/// Which patches the memory bank keeps.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "PatchcoreCoreset")]
pub struct Coreset {
    /// How they are chosen: greedily in the paper.
    #[garde(skip)]
    pub choose: Choose,
    /// How many are kept; of a greedy choice no more than `subsample`. Absent: a share.
    #[garde(range(min = 1, max = 100_000_000), custom(within(self.choose, self.subsample)))]
    pub size: Option<usize>,
    /// Which share of all patches of the train images is kept, 0.1 unless `size` is there: the reference code's and anomalib's. No more
    /// than the sample has.
    #[garde(range(min = 1e-9, max = 1.0), custom(one_of_both(self.size)))]
    pub share: Option<f64>,
    /// Patches of the random sample that a greedy choice is made from. Ours: 100,000, which two cores go through in minutes; the
    /// reference code goes through all.
    #[garde(range(min = 1, max = 1_000_000_000))]
    pub subsample: usize,
    /// p, the dimensions after the random projection: 128 in the reference code. None is made where there are no more channels.
    #[garde(range(min = 1, max = 100_000))]
    pub projection: usize,
}

/// How patches are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "PatchcoreChoose")]
pub enum Choose {
    /// Each as far as can be from those before it.
    #[default]
    Greedy,
    /// At random.
    Random,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stages: None,
            grid: None,
            neighbourhood: 3,
            coreset: Coreset::default(),
            reweight: None,
            seed: 0,
            smooth: 4.0,
            score: ImageScore::Max,
        }
    }
}

impl Default for Coreset {
    fn default() -> Self {
        Self { choose: Choose::Greedy, size: None, share: None, subsample: 100_000, projection: 128 }
    }
}

/// Patches of a smoke run: in the bank and in the sample.
const SMOKE: [usize; 2] = [50, 1000];

/// The share where neither it nor a size is given.
const SHARE: f64 = 0.1;

fn within(choose: Choose, subsample: usize) -> impl FnOnce(&Option<usize>, &()) -> garde::Result {
    move |size, _| match size {
        Some(size) if choose == Choose::Greedy && *size > subsample => {
            Err(garde::Error::new(format!("more than the {subsample} of `subsample` that are chosen from")))
        }
        _ => Ok(()),
    }
}

fn one_of_both(size: Option<usize>) -> impl FnOnce(&Option<f64>, &()) -> garde::Result {
    move |share, _| match (size, share) {
        (Some(_), Some(_)) => Err(garde::Error::new("stands beside `size`: give one of them")),
        _ => Ok(()),
    }
}

/// How many patches a fit takes, of how many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counts {
    /// Of all train images.
    patches: usize,
    /// In the sample.
    sampled: usize,
    /// In the memory bank.
    kept: usize,
    /// Whether there was no room for the sample that was asked for.
    cut: bool,
}

impl Counts {
    const CUT: &str = "the sample is as large as evaluation.fit_memory lets it be";
}

impl Config {
    /// Dimensions after the projection, if there is one.
    fn projection(&self, layout: &Layout) -> Option<usize> {
        let projected = self.coreset.projection < layout.channels();
        (self.coreset.choose == Choose::Greedy && projected).then_some(self.coreset.projection)
    }

    /// At the fit's peak: the row, its projection and its place, the distance to and the place of the nearest, and a quarter for what
    /// neighbours are screened by.
    fn bytes_of_a_patch(&self, layout: &Layout) -> usize {
        Neighbours::bytes_of_a_row(layout.channels() + self.projection(layout).unwrap_or(0))
    }

    fn counts(&self, layout: &Layout, images: usize, memory: usize) -> Result<Counts> {
        let patches = images.saturating_mul(layout.positions());
        let coreset = &self.coreset;
        let share = coreset.share.unwrap_or(SHARE);
        let wanted = coreset.size.unwrap_or((share * patches as f64).ceil() as usize).clamp(1, patches.max(1));
        let sample = match coreset.choose {
            Choose::Greedy => coreset.subsample.min(patches),
            Choose::Random => wanted,
        };
        let room = memory / self.bytes_of_a_patch(layout);
        if room == 0 {
            let message = format!("patchcore needs {} bytes for a patch", self.bytes_of_a_patch(layout));
            return Err(Error::input(message).hint("raise evaluation.fit_memory (--memory)"));
        }
        let sampled = sample.min(room);
        Ok(Counts { patches, sampled, kept: wanted.min(sampled), cut: sampled < sample })
    }
}

/// (N, `columns`) rows projected at random to (N, `to`).
fn projected(rows: &[f32], columns: usize, to: usize, seed: u64) -> Vec<f32> {
    let mut stream = rng::stream(seed, "PatchCore's projection", &format!("{columns} to {to}"));
    let scale = 1.0 / (to as f64).sqrt();
    let directions: Vec<f64> =
        StandardNormal.sample_iter(&mut stream).take(to * columns).map(|x: f64| x * scale).collect();
    let mut all = Vec::with_capacity(rows.len() / columns * to);
    for rows in rows.chunks(BLOCK * columns) {
        all.extend(project(&in_f64(rows), &directions, columns).into_iter().map(|value| value as f32));
    }
    all
}

/// Keeps these rows, in the order in which they stand.
fn keep(rows: &mut Vec<f32>, columns: usize, mut places: Vec<usize>) {
    places.sort_unstable();
    for (to, from) in places.iter().enumerate() {
        rows.copy_within(from * columns..(from + 1) * columns, to * columns);
    }
    rows.truncate(places.len() * columns);
    rows.shrink_to_fit();
}

/// The memory bank.
struct Patchcore {
    patches: Patches,
    bank: Neighbours,
    reweight: Option<usize>,
    post: Post,
    counts: Counts,
}

impl Patchcore {
    /// The map of each image of a batch, and what its score is multiplied by.
    fn look(&self, batch: &Shown, start: usize) -> Result<(Vec<f32>, Vec<f64>)> {
        let values = self.patches.layout.read(batch, start)?;
        let positions = self.patches.layout.positions();
        let images = self.patches.layout.images(&values);
        let (mut maps, mut weights) = (Vec::with_capacity(images * positions), Vec::with_capacity(images));
        // A few at a time: the patches of a batch may be many times what the batch is.
        for first in (0..images).step_by(rayon::current_num_threads()) {
            let together = first..(first + rayon::current_num_threads()).min(images);
            let rows: Vec<Vec<f32>> = together.into_par_iter().map(|image| self.patches.of(&values, image)).collect();
            for rows in rows {
                let nearest: Vec<u32> = self.bank.closest(&rows, 1)?.iter().map(|closest| closest[0].row).collect();
                let each = rows.par_chunks_exact(self.bank.columns()).zip(&nearest);
                let map: Vec<f32> = each.map(|(patch, nearest)| self.bank.distance(patch, *nearest) as f32).collect();
                weights.push(match self.reweight {
                    Some(neighbours) => {
                        let far = (1..map.len()).fold(0, |far, at| if map[at] > map[far] { at } else { far });
                        self.weight(
                            &rows[far * self.bank.columns()..][..self.bank.columns()],
                            nearest[far],
                            neighbours,
                        )?
                    }
                    None => 1.0,
                });
                maps.extend(map);
            }
        }
        Ok((maps, weights))
    }

    /// w of a patch and its nearest row.
    fn weight(&self, patch: &[f32], nearest: u32, neighbours: usize) -> Result<f64> {
        let around = self.bank.closest(self.bank.row(nearest), neighbours.min(self.counts.kept))?;
        let distances: Vec<f64> = around[0].iter().map(|near| self.bank.distance(patch, near.row)).collect();
        let own = self.bank.distance(patch, nearest);
        // The exponentials would overflow.
        let most = distances.iter().copied().fold(own, f64::max);
        let sum: f64 = distances.iter().map(|distance| (distance - most).exp()).sum();
        Ok(1.0 - (own - most).exp() / sum)
    }
}

impl Config {
    /// The rows of a coreset of these, chosen greedily.
    fn choose(&self, rows: &[f32], layout: &Layout, counts: &Counts, train: &dyn Batches) -> Result<Vec<usize>> {
        let projection = self.projection(layout).map(|to| projected(rows, layout.channels(), to, self.seed));
        let (rows, columns) = match &projection {
            Some(projected) => (&projected[..], self.coreset.projection),
            None => (rows, layout.channels()),
        };
        let name = counts.sampled.to_string();
        let first = rng::stream(self.seed, "PatchCore's first patch", &name).random_range(0..counts.sampled);
        let mut greedy = Greedy::new(rows, columns, first);
        let mut all = false;
        train.work("choosing PatchCore's memory bank", counts.kept - 1, &mut |steps: Range<usize>| {
            all = all || steps.into_iter().any(|_| !greedy.step());
            Ok(())
        })?;
        Ok(greedy.taken().to_vec())
    }
}

impl Patchwise for Config {
    fn settings(&self) -> Settings<'_> {
        Settings {
            who: "patchcore",
            stages: self.stages.as_deref(),
            default: 1..3,
            grid: self.grid.as_deref(),
            post: Post { smooth: self.smooth, score: self.score, enlarge: None },
        }
    }

    fn stages(&mut self) -> (&mut Option<Vec<String>>, &mut Option<String>) {
        (&mut self.stages, &mut self.grid)
    }

    fn bytes(&self, layout: &Layout, images: Option<usize>, memory: usize) -> Result<Option<usize>> {
        let counts = self.counts(layout, images.unwrap_or(1), memory)?;
        Ok(images.map(|_| counts.sampled * self.bytes_of_a_patch(layout)))
    }

    fn learner(&self, images: usize, fit: &Fit<'_>) -> Result<Box<dyn Learner>> {
        let (config, device, memory) = (self.clone(), fit.device.cloned(), fit.memory);
        Ok(Box::new(Gathering { config, images, memory, device, gathered: None }))
    }

    fn shrink(&mut self) {
        let Coreset { size, share, subsample, .. } = &mut self.coreset;
        (*size, *share, *subsample) = (Some(SMOKE[0]), None, SMOKE[1]);
    }
}

/// The train images' patches so far.
struct Gathering {
    config: Config,
    images: usize,
    memory: usize,
    device: Option<Device>,
    gathered: Option<(Patches, Sample, Counts)>,
}

impl Learner for Gathering {
    fn what(&self) -> &'static str {
        "gathering PatchCore's patches"
    }

    fn see(&mut self, start: usize, batch: &Shown) -> Result<()> {
        let (patches, sample, _) = match &mut self.gathered {
            Some(gathered) => gathered,
            None => {
                let config = &self.config;
                let layout = Layout::of_shown(&config.settings(), batch)?;
                let counts = config.counts(&layout, self.images, self.memory)?;
                if counts.cut {
                    let Counts { sampled, patches, .. } = counts;
                    crate::say(format!("PatchCore: {}, {sampled} of {patches} patches", Counts::CUT));
                }
                let sample = Sample::new(&counts, layout.channels(), config.seed);
                self.gathered.insert((Patches::new(layout, config.neighbourhood), sample, counts))
            }
        };
        sample.add(patches, &patches.layout.read(batch, start)?, start);
        Ok(())
    }

    fn passed(self: Box<Self>, train: &dyn Batches) -> Result<Fitting> {
        let Self { config, gathered, device, .. } = *self;
        let Some((patches, Sample { mut rows, .. }, mut counts)) = gathered else {
            return Err(Error::Failed("patchcore saw no train image".into()));
        };
        let columns = patches.layout.channels();
        if counts.kept < counts.sampled {
            let places = config.choose(&rows, &patches.layout, &counts, train)?;
            counts.kept = places.len();
            keep(&mut rows, columns, places);
        }
        let bank = Neighbours::by_distance(rows, columns)?.on(device.as_ref());
        let post = config.settings().post;
        Ok(Fitting::Ready(Box::new(Patchcore { patches, bank, reweight: config.reweight, post, counts })))
    }
}

impl Scorer for Patchcore {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        pushed::score(self, bank, "scoring PatchCore", false)
    }

    fn scoring<'a>(&'a self, images: &dyn Batches) -> Result<Box<dyn Scoring + 'a>> {
        let maps = Vec::with_capacity(images.images() * self.patches.layout.positions());
        Ok(Box::new(Scored { of: self, size: image_size(images)?, maps, weights: Vec::new() }))
    }

    fn record(&self) -> Option<serde_json::Value> {
        let Counts { patches, sampled, kept, cut } = self.counts;
        let layout = &self.patches.layout;
        let note = if cut { Counts::CUT } else { "" };
        Some(serde_json::json!({
            "patches": patches,
            "sampled": sampled,
            "kept": kept,
            "channels": layout.channels(),
            "positions": layout.positions(),
            "stages": layout.names(),
            "memory": note,
        }))
    }
}

/// The maps so far, and what scores are multiplied by.
struct Scored<'a> {
    of: &'a Patchcore,
    size: [usize; 2],
    maps: Vec<f32>,
    weights: Vec<f64>,
}

impl Scoring for Scored<'_> {
    fn see(&mut self, start: usize, batch: &Shown) -> Result<()> {
        let (maps, weights) = self.of.look(batch, start)?;
        self.maps.extend(maps);
        self.weights.extend(weights);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Scores> {
        let scores = self.of.post.scores(Maps::new(self.of.patches.layout.grid, self.maps)?, self.size)?;
        match self.of.reweight {
            Some(_) => scores.times(&self.weights),
            None => Ok(scores),
        }
    }
}

#[cfg(test)]
mod tests;
