//! Patch SVDD's score: how far the patches that cover a place are from the nearest of all train images' patches.
//!
//! map = Π over patch sizes of the mean, over the windows that cover a place, of min_t ‖z − z_t‖, for the embedding z of a window and those of all
//! train images' windows of its size; or their sum. The image's score is its largest value.
//!
//! - Paper: Yi & Yoon, *Patch SVDD*, ACCV 2020, <https://arxiv.org/abs/2006.16067>, equations 6 to 8.
//! - Reference code: `nuclearboy95/Anomaly-Detection-PatchSVDD-PyTorch`, `inspection.py` and `utils.py`: its `mult` is `product`.
//! - Deviations: the nearest is exact for both sizes, where the code's of small patches is approximate (NGT). A map is kept in cells of as many pixels
//!   as divide all windows' sides and strides, in which it is constant, and read as bilinear between their centres. What no window covers has the
//!   value of the nearest, and 0 in the code.
//! - The fit holds (4·D + 16)·5/4 bytes for each window of the train images, of all of them: 355 MiB for 320 images of 256×256 pixels with D = 64 at
//!   strides of 4 and 16. A stride twice as large needs a quarter, and a sixteenth of the time.

use candle_core::Device;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::{
    Bank, Batches, Check, Detector, Fit, Fitting, Learner, Learns, Maps, Output, Pushed, Scorer, Scores, Scoring,
    check_memory,
    map::{ImageScore, Post},
    pushed,
    resample::Axis,
    similarity::Neighbours,
    windows::Layout,
};
use crate::{Error, Result, did_you_mean, nn::Shown, yaml::problems::first_repeated};

/// Settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, garde::Validate, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "PatchSvddScore")]
pub struct Config {
    /// Which windows are read, by name: `large` and `small` of Patch SVDD. Default: all that the network shows.
    #[garde(custom(once))]
    pub windows: Option<Vec<String>>,
    /// How the maps of several windows become one. The paper's: `product`.
    #[garde(skip)]
    pub combine: Combine,
    /// σ of the Gaussian that the map is smoothed by, in pixels. The code's: 0, none.
    #[garde(range(min = 0.0, max = 1000.0))]
    pub smooth: f64,
    /// What an image is scored by. The code's: the largest value of a map that is constant in its cells, which is `patch`.
    #[garde(dive)]
    pub score: ImageScore,
}

/// How the maps of several windows become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "PatchSvddCombine")]
pub enum Combine {
    /// Their product: large where all are.
    #[default]
    Product,
    /// Their sum: large where any is.
    Sum,
}

impl Default for Config {
    fn default() -> Self {
        Self { windows: None, combine: Combine::Product, smooth: 0.0, score: ImageScore::Patch }
    }
}

/// Garde: a list names something, and nothing twice.
fn once(windows: &Option<Vec<String>>, _: &()) -> garde::Result {
    match windows {
        Some(names) if names.is_empty() => Err(garde::Error::new("names no windows; leave it out for all")),
        Some(names) => match first_repeated(names) {
            Some(index) => Err(garde::Error::new(format!("\"{}\" is named twice", names[index]))),
            None => Ok(()),
        },
        None => Ok(()),
    }
}

impl Config {
    fn read(&self) -> Post {
        Post { smooth: self.smooth, score: self.score, enlarge: None }
    }

    /// The windows that are read of a network that shows this.
    fn layouts(&self, shown: &Shown) -> Result<Vec<Layout>> {
        let known = || shown.windows.iter().map(|seen| seen.name);
        if shown.windows.is_empty() {
            return Err(Error::Failed("patch_svdd: the network shows no windows".into()));
        }
        let named = |name: &String| {
            shown.windows.iter().find(|seen| seen.name == name).ok_or_else(|| {
                let (near, all) = (did_you_mean(name, known()), known().collect::<Vec<_>>().join(", "));
                Error::input(format!("windows: the network has none called \"{name}\"{near}; it has {all}"))
            })
        };
        let seen = match &self.windows {
            Some(names) => names.iter().map(named).collect::<Result<Vec<_>>>()?,
            None => shown.windows.iter().collect(),
        };
        seen.into_iter().map(Layout::of).collect()
    }

    /// The bytes that a fit to so many images holds.
    fn bytes(layouts: &[Layout], images: usize, memory: usize) -> Result<usize> {
        let each =
            |layout: &Layout| images.saturating_mul(layout.count() * Neighbours::bytes_of_a_row(layout.features));
        let bytes = layouts.iter().map(each).sum();
        let count: usize = layouts.iter().map(|layout| images.saturating_mul(layout.count())).sum();
        check_memory("patch_svdd needs", &format!("all {count} windows of the train images"), [bytes, memory])
            .map_err(|error| {
                error.hint(
                    "raise evaluation.fit_memory (--memory), or the model's `stride`; `train_limit` takes fewer images",
                )
            })?;
        Ok(bytes)
    }
}

/// Pixels of a cell in which the maps of all windows are constant.
fn cell(layouts: &[Layout]) -> usize {
    fn divisor(a: usize, b: usize) -> usize {
        if b == 0 { a } else { divisor(b, a % b) }
    }
    layouts.iter().flat_map(|layout| [layout.side(), layout.stride()]).fold(0, divisor)
}

impl Detector for Config {
    fn needs(&self) -> &'static [Output] {
        &[Output::Windows]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn pushed(&self) -> Option<&dyn Pushed> {
        Some(self)
    }

    fn post(&self) -> Option<Post> {
        Some(self.read())
    }

    fn grid(&self, shown: &Shown) -> Option<[usize; 2]> {
        let layouts = self.layouts(shown).ok()?;
        Some(layouts.first()?.cells(cell(&layouts)))
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| {
            let bytes = Self::bytes(&self.layouts(about.shown)?, about.least(), about.memory)?;
            Ok(about.train.map(|_| bytes))
        }))
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        pushed::fit(self, fit)
    }
}

impl Pushed for Config {
    fn start(&self, fit: &Fit<'_>) -> Result<Fitting> {
        let images = fit.train()?.batches()?.images();
        let (config, device) = (self.clone(), fit.device.cloned());
        Ok(Fitting::Learning(Box::new(Gathering { config, images, memory: fit.memory, device, all: Vec::new() })))
    }
}

/// The windows of the train images so far.
struct Gathering {
    config: Config,
    images: usize,
    memory: usize,
    device: Option<Device>,
    all: Vec<(Layout, Vec<f32>)>,
}

impl Learner for Gathering {
    fn what(&self) -> &'static str {
        "gathering patches"
    }

    fn see(&mut self, start: usize, batch: &Shown) -> Result<()> {
        if self.all.is_empty() {
            let layouts = self.config.layouts(batch)?;
            Config::bytes(&layouts, self.images, self.memory)?;
            let room = |layout: &Layout| Vec::with_capacity(self.images * layout.count() * layout.features);
            self.all = layouts.into_iter().map(|layout| (layout.clone(), room(&layout))).collect();
        }
        for (layout, rows) in &mut self.all {
            rows.extend(layout.read(batch, start)?);
        }
        Ok(())
    }

    fn passed(self: Box<Self>, _: &dyn Batches) -> Result<Fitting> {
        if self.all.is_empty() {
            return Err(Error::Failed("patch_svdd saw no train image".into()));
        }
        let layouts: Vec<Layout> = self.all.iter().map(|(layout, _)| layout.clone()).collect();
        let cell = cell(&layouts);
        let scale = |(layout, rows): (Layout, Vec<f32>)| {
            let axes = layout.spread(cell, |_| 1.0);
            let bank = Neighbours::by_distance(rows, layout.features)?.on(self.device.as_ref());
            Ok(Scale { bank, axes, layout })
        };
        let scales = self.all.into_iter().map(scale).collect::<Result<_>>()?;
        Ok(Fitting::Ready(Box::new(PatchSvdd { config: self.config, cell, scales })))
    }
}

/// The windows of one size.
struct Scale {
    layout: Layout,
    bank: Neighbours,
    axes: [Axis; 2],
}

impl Scale {
    /// The map of each image of a batch, one after another.
    fn maps(&self, batch: &Shown, start: usize) -> Result<Vec<f32>> {
        let rows = self.layout.read(batch, start)?;
        let mut maps = Vec::new();
        for image in rows.chunks_exact(self.layout.count() * self.layout.features) {
            let nearest = self.bank.closest(image, 1)?;
            let each = image.par_chunks_exact(self.layout.features).zip(&nearest);
            let distances: Vec<f32> = each.map(|(row, near)| self.bank.distance(row, near[0].row) as f32).collect();
            maps.extend(self.layout.maps(&distances, &self.axes));
        }
        Ok(maps)
    }
}

/// All that was learned.
struct PatchSvdd {
    config: Config,
    cell: usize,
    scales: Vec<Scale>,
}

impl PatchSvdd {
    fn cells(&self) -> [usize; 2] {
        self.scales[0].layout.cells(self.cell)
    }
}

impl Scorer for PatchSvdd {
    fn score(&self, bank: &Bank) -> Result<Scores> {
        pushed::score(self, bank, "scoring Patch SVDD", false)
    }

    fn scoring<'a>(&'a self, images: &dyn Batches) -> Result<Box<dyn Scoring + 'a>> {
        let [rows, columns] = self.cells();
        Ok(Box::new(Scored { of: self, maps: Vec::with_capacity(images.images() * rows * columns) }))
    }

    fn record(&self) -> Option<serde_json::Value> {
        let patches: usize = self.scales.iter().map(|scale| scale.bank.rows()).sum();
        let windows: Vec<&str> = self.scales.iter().map(|scale| scale.layout.name()).collect();
        Some(serde_json::json!({ "patches": patches, "windows": windows.join(" "), "cell": self.cell }))
    }
}

/// The maps so far.
struct Scored<'a> {
    of: &'a PatchSvdd,
    maps: Vec<f32>,
}

impl Scoring for Scored<'_> {
    fn see(&mut self, start: usize, batch: &Shown) -> Result<()> {
        let mut together: Option<Vec<f32>> = None;
        for scale in &self.of.scales {
            let maps = scale.maps(batch, start)?;
            together = Some(match together {
                None => maps,
                Some(mut all) => {
                    all.iter_mut().zip(maps).for_each(|(value, map)| match self.of.config.combine {
                        Combine::Product => *value *= map,
                        Combine::Sum => *value += map,
                    });
                    all
                }
            });
        }
        self.maps.extend(together.unwrap_or_default());
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<Scores> {
        let maps = Maps::new(self.of.cells(), self.maps)?;
        self.of.config.read().scores(maps, self.of.scales[0].layout.size)
    }
}

#[cfg(test)]
mod tests;
