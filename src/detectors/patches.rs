//! What leaves a network's stages, position by position on one grid: what PaDiM and PatchCore read, and what makes detectors of them.

use std::ops::Range;

use candle_core::{DType, Device};

use super::{
    Batches, Check, Detector, Fit, Fitting, Learner, Learns, Output, Pushed, Scorer, Smoke, first_not_finite,
    map::Post, pushed,
};
use crate::{Error, Result, did_you_mean, nn::Shown, ops::wide, yaml::problems::first_repeated};

/// The settings that detectors of patches share: `stages`, `grid`, `smooth` and `score`. Each keeps them among its own, where their
/// defaults have a source of their own, and a wrong key is refused where it stands.
#[derive(Debug, Clone)]
pub(super) struct Settings<'a> {
    /// The detector, for messages.
    pub who: &'static str,
    /// The stages' names; absent: those of `default`.
    pub stages: Option<&'a [String]>,
    /// Places among all stages, from input to output; all of a network that has fewer.
    pub default: Range<usize>,
    /// The stage whose grid it is; absent: the one with most positions, the first of equals.
    pub grid: Option<&'a str>,
    /// What becomes of the map.
    pub post: Post,
}

/// A detector that reads patches, learns from train images, and gives a map of each image.
pub(super) trait Patchwise {
    /// What it shares with the others.
    fn settings(&self) -> Settings<'_>;
    /// Its settings that name stages, to rename them.
    fn stages(&mut self) -> (&mut Option<Vec<String>>, &mut Option<String>);
    /// The bytes that a fit to so many images holds at its peak, if they are known without that number or it is there.
    ///
    /// # Errors
    /// [`Error::Input`] if no fit has room in `memory` bytes.
    fn bytes(&self, layout: &Layout, images: Option<usize>, memory: usize) -> Result<Option<usize>>;
    /// What learns from so many train images, in at most the fit's memory.
    ///
    /// # Errors
    /// [`Error::Input`] if there are too few.
    fn learner(&self, images: usize, fit: &Fit<'_>) -> Result<Box<dyn Learner>>;
    /// As [`Detector::smoke`], stages' names apart.
    fn shrink(&mut self) {}
}

impl<D: Patchwise> Detector for D {
    fn needs(&self) -> &'static [Output] {
        &[Output::Stages]
    }

    fn learns(&self) -> Learns {
        Learns::Images
    }

    fn pushed(&self) -> Option<&dyn Pushed> {
        Some(self)
    }

    fn post(&self) -> Option<Post> {
        Some(self.settings().post)
    }

    fn grid(&self, shown: &Shown) -> Option<[usize; 2]> {
        Some(Layout::of_shown(&self.settings(), shown).ok()?.grid)
    }

    fn depends(&self) -> Option<Check<'_>> {
        Some(Box::new(|about| {
            let layout = Layout::of_shown(&self.settings(), about.shown)?;
            Ok(self.bytes(&layout, about.train, about.memory)?)
        }))
    }

    /// Stages get the names that they have in the network that stands for the detector's own.
    fn smoke(&mut self, smoke: &mut Smoke<'_>) {
        let (stages, grid) = self.stages();
        let names = stages.iter_mut().flatten().chain(grid);
        names.for_each(|name| *name = (smoke.layer)(name));
        self.shrink();
    }

    fn fit(&self, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
        pushed::fit(self, fit)
    }
}

impl<D: Patchwise> Pushed for D {
    fn start(&self, fit: &Fit<'_>) -> Result<Fitting> {
        Ok(Fitting::Learning(self.learner(fit.train()?.batches()?.images(), fit)?))
    }
}

/// The stages that are read, and the grid that they are brought to.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Layout {
    pub stages: Vec<Stage>,
    /// Rows and columns.
    pub grid: [usize; 2],
}

/// The maps of one stage.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Stage {
    pub name: String,
    pub channels: usize,
    /// Rows and columns.
    pub size: [usize; 2],
}

/// Whether several stages, of more than a pixel, have the rows and columns of the first.
fn of_one_size(shown: &[(&str, &[usize])]) -> bool {
    let size = |(_, dims): &(&str, &[usize])| dims[dims.len().saturating_sub(2)..].to_vec();
    shown.len() > 1
        && size(&shown[0]).iter().product::<usize>() > 1
        && shown.iter().all(|stage| size(stage) == size(&shown[0]))
}

impl Layout {
    /// Of a network that shows this.
    ///
    /// # Errors
    /// As [`Layout::of`].
    pub fn of_shown(settings: &Settings<'_>, shown: &Shown) -> Result<Self> {
        Self::of(settings, &shown.stages.iter().map(|(name, maps)| (&name[..], maps.dims())).collect::<Vec<_>>())
    }

    /// Of stages with these names and (N, C, H, W).
    ///
    /// # Errors
    /// [`Error::Input`] that lists the stages, if there is none of a name, or none at all.
    fn of(settings: &Settings<'_>, shown: &[(&str, &[usize])]) -> Result<Self> {
        if shown.is_empty() {
            let message = format!("{} reads what leaves a network's stages, and this one shows none", settings.who);
            return Err(Error::input(message).hint("classifiers' backbones show theirs"));
        }
        let known = || shown.iter().map(|(name, _)| *name);
        let find = |name: &str| {
            shown.iter().find(|(known, _)| *known == name).ok_or_else(|| {
                let (near, all) = (did_you_mean(name, known()), known().collect::<Vec<_>>().join(", "));
                Error::input(format!("the network has no stage \"{name}\"{near}; it has {all}"))
            })
        };
        let chosen = match settings.stages {
            Some(names) => names.iter().map(|name| find(name)).collect::<Result<Vec<_>>>()?,
            // A transformer's are all of one size: the last stands behind its norm, as AnomalyDINO reads it.
            None if of_one_size(shown) => shown[shown.len() - 1..].iter().collect(),
            None if shown.len() < settings.default.end => shown.iter().collect(),
            None => shown[settings.default.clone()].iter().collect(),
        };
        let stage = |(name, dims): &&(&str, &[usize])| match dims {
            [_, channels, rows, columns] => {
                Ok(Stage { name: (*name).to_owned(), channels: *channels, size: [*rows, *columns] })
            }
            _ => Err(Error::Failed(format!("the stage \"{name}\" is {dims:?}, and no feature maps"))),
        };
        let stages = chosen.iter().map(stage).collect::<Result<Vec<_>>>()?;
        let grid = match settings.grid {
            Some(name) => stages.iter().find(|stage| stage.name == name).map(|stage| stage.size).ok_or_else(|| {
                let names: Vec<&str> = stages.iter().map(|stage| &stage.name[..]).collect();
                let near = did_you_mean(name, names.iter().copied());
                Error::input(format!(
                    "grid: \"{name}\" is none of the stages that are read{near}: {}",
                    names.join(", ")
                ))
            })?,
            None => stages.iter().map(|stage| stage.size).rev().max_by_key(|size| size[0] * size[1]).unwrap_or([1, 1]),
        };
        Ok(Self { stages, grid })
    }

    /// Positions of the grid.
    pub fn positions(&self) -> usize {
        self.grid[0] * self.grid[1]
    }

    /// The stages' names, for a fit's record.
    pub fn names(&self) -> String {
        self.stages.iter().map(|stage| &stage.name[..]).collect::<Vec<_>>().join(" ")
    }

    /// Channels of all stages together.
    pub fn channels(&self) -> usize {
        self.stages.iter().map(|stage| stage.channels).sum()
    }

    /// Each stage's (N, C, H, W) values of a batch whose first image is at position `start` of its set.
    ///
    /// # Errors
    /// [`Error::Input`] if the batch lacks a stage or has one of another size; [`Error::Failed`] naming the first image with a value
    /// that is NaN or infinite.
    pub fn read(&self, batch: &Shown, start: usize) -> Result<Vec<Vec<f32>>> {
        let read = |stage: &Stage| {
            let Stage { name, channels, size: [rows, columns] } = stage;
            let maps = batch.stages.iter().find(|(other, _)| other == name).map(|(_, maps)| maps);
            let wanted = [*channels, *rows, *columns];
            let Some(maps) = maps.filter(|maps| maps.rank() == 4 && maps.dims()[1..] == wanted) else {
                let found =
                    maps.map_or_else(|| "is not there".to_owned(), |maps| format!("is {:?}", &maps.dims()[1..]));
                let message = format!("the stage \"{name}\" {found}, and was {wanted:?} when the detector learned");
                return Err(Error::input(message));
            };
            let maps = maps.to_device(&Device::Cpu)?.to_dtype(DType::F32)?;
            let values = maps.flatten_all()?.to_vec1::<f32>()?;
            let size = (channels * rows * columns).max(1);
            for (image, values) in values.chunks_exact(size).enumerate() {
                if let Some(value) = first_not_finite(values) {
                    let message = format!("the stage \"{name}\" of image {} holds {value}", start + image);
                    return Err(Error::Failed(message));
                }
            }
            Ok(values)
        };
        self.stages.iter().map(read).collect()
    }

    /// How many images a batch has.
    pub fn images(&self, values: &[Vec<f32>]) -> usize {
        let first = &self.stages[0];
        values[0].len() / (first.channels * first.size[0] * first.size[1]).max(1)
    }
}

/// The size that maps are brought to.
///
/// # Errors
/// [`Error::Input`] if it is not known, which feature files may leave open.
pub(super) fn image_size(images: &dyn Batches) -> Result<[usize; 2]> {
    images.image_size().ok_or_else(|| {
        Error::input("maps are brought to the images' size, and it is not known").hint(
            "write it into the feature file: save_file(tensors, path, metadata={\"image_size\": \"256x256\"}), rows x \
             columns",
        )
    })
}

/// Garde: a list names something, and nothing twice.
pub(super) fn stages_once(stages: &Option<Vec<String>>, _: &()) -> garde::Result {
    match stages {
        Some(names) if names.is_empty() => Err(garde::Error::new("names no stage; leave it out for the default")),
        Some(names) => match first_repeated(names) {
            Some(index) => Err(garde::Error::new(format!("\"{}\" is named twice", names[index]))),
            None => Ok(()),
        },
        None => Ok(()),
    }
}

/// Garde: a neighbourhood has a middle.
pub(super) fn odd(size: &usize, _: &()) -> garde::Result {
    if size % 2 == 1 { Ok(()) } else { Err(garde::Error::new("must be odd: a patch lies in the middle of it")) }
}

/// The means over `side` × `side` values around each, zeros beyond the border among them.
pub(super) fn means(map: &[f32], [rows, columns]: [usize; 2], side: usize) -> Vec<f32> {
    if side == 1 {
        return map.to_vec();
    }
    let reach = side / 2;
    let mut along = map.to_vec();
    for (sums, row) in along.chunks_exact_mut(columns).zip(map.chunks_exact(columns)) {
        for away in 1..=reach.min(columns - 1) {
            add(&mut sums[away..], row);
            add(sums, &row[away..]);
        }
    }
    let mut means = along.clone();
    for away in 1..=reach.min(rows - 1) {
        add(&mut means[away * columns..], &along);
        add(&mut means, &along[away * columns..]);
    }
    let scale = 1.0 / (side * side) as f32;
    means.iter_mut().for_each(|sum| *sum *= scale);
    means
}

/// As many as both have.
fn add(sums: &mut [f32], values: &[f32]) {
    wide!(sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::detectors::map::ImageScore;

    fn settings<'a>(stages: Option<&'a [String]>, grid: Option<&'a str>) -> Settings<'a> {
        let post = Post { smooth: 0.0, score: ImageScore::Max, enlarge: None };
        Settings { who: "PaDiM", stages, default: 1..3, grid, post }
    }

    fn layout(stages: Option<&[String]>, grid: Option<&str>) -> Result<Layout> {
        let settings = settings(stages, grid);
        let shown: [(&str, &[usize]); 4] =
            [("a", &[1, 8, 16, 16]), ("b", &[1, 4, 8, 6]), ("c", &[1, 2, 4, 3]), ("d", &[1, 3, 4, 3])];
        Layout::of(&settings, &shown)
    }

    /// A smoke run has other networks, whose stages have other names, and few patches.
    #[test]
    fn stages_are_renamed_for_a_smoke_run() {
        use crate::detectors::golden_maps::config;
        let (mut search, layer) = (Default::default(), |name: &str| name.replace("layer", "block"));
        for (yaml, expected) in [
            ("padim: { stages: [layer1, layer2], grid: layer2 }", "padim: { stages: [block1, block2], grid: block2 }"),
            (
                "patchcore: { stages: [layer3], coreset: { size: 5000 } }",
                "patchcore: { stages: [block3], coreset: { size: 50, subsample: 1000 } }",
            ),
            ("patchcore", "patchcore: { coreset: { size: 50, subsample: 1000 } }"),
            ("mahalanobis: { layers: [layer1, penultimate] }", "mahalanobis: { layers: [block1, penultimate] }"),
        ] {
            let mut config = config(yaml);
            let mut smoke = Smoke { search: &mut search, set: &mut Vec::new(), layer: &layer, neurons: &mut || false };
            config.detector_mut().smoke(&mut smoke);
            assert_eq!(config, super::super::golden_maps::config(expected));
        }
    }

    #[test]
    fn stages_are_those_that_are_named_on_the_grid_that_is_asked_for() {
        let default = layout(None, None).unwrap();
        assert_eq!((default.channels(), default.grid), (6, [8, 6]));
        assert_eq!(layout(None, Some("c")).unwrap().grid, [4, 3]);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let named = layout(Some(&names(&["d", "a"])), None).unwrap();
        assert_eq!((named.stages[0].name.as_str(), named.channels(), named.grid), ("d", 11, [16, 16]));
        let error = |result: Result<Layout>| result.unwrap_err().to_string();
        assert_eq!(
            error(layout(Some(&names(&["layer2"])), None)),
            "the network has no stage \"layer2\"; it has a, b, c, d"
        );
        assert_eq!(error(layout(None, Some("a"))), "grid: \"a\" is none of the stages that are read: b, c");
        let settings = settings(None, None);
        assert!(error(Layout::of(&settings, &[])).contains("this one shows none"));
        let one: [(&str, &[usize]); 1] = [("a", &[1, 8, 16, 16])];
        assert_eq!(Layout::of(&settings, &one).unwrap().channels(), 8);
    }
}
