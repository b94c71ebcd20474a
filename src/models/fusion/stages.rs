//! Which stages of the backbone the fusion network reads, and on which grid.

use super::Settings;
use crate::{
    models::stages::{Stage, place, places, usual},
    yaml::problems::{Path, Problem},
};

/// The places of the stages that settings name.
struct Named {
    stages: Option<[usize; 3]>,
    grid: Option<usize>,
    freeze: Option<usize>,
}

impl Named {
    fn of(settings: &Settings, all: &[Stage]) -> Result<Self, Problem> {
        let Settings { backbone, .. } = settings;
        let stages = match &settings.stages {
            None => None,
            Some(names) => {
                let found = places(backbone, all, names, "are two low ones and a high one")?;
                Some([found[0], found[1], found[2]])
            }
        };
        let grid = settings.grid.as_ref();
        let grid = grid.map(|name| place(backbone, all, Path::default().join("grid"), name)).transpose()?;
        Ok(Self { stages, grid, freeze: settings.freeze.place(backbone, all)? })
    }
}

/// What is wrong with the names of stages, whatever the images' size.
pub(super) fn misnamed(settings: &Settings) -> Option<Problem> {
    // The names are the same for all sizes.
    Named::of(settings, &settings.backbone.stages([256; 2])).err()
}

/// The three stages on their way to the grid.
#[derive(Debug, Clone)]
pub(super) struct Stages {
    pub(super) names: [String; 3],
    pub(super) channels: [usize; 3],
    pub(super) grid: [usize; 2],
    /// Rows and columns of the third.
    pub(super) high: [usize; 2],
}

impl Stages {
    /// Those that the settings name, for images with `size` rows and columns.
    pub(super) fn of(settings: &Settings, size: [usize; 2]) -> Result<Self, Problem> {
        let all = settings.backbone.stages(size);
        let named = Named::of(settings, &all)?;
        let chosen = match named.stages {
            Some(chosen) => chosen,
            None => usual(&settings.backbone, &all, size[0])?,
        };
        if named.freeze.is_some_and(|last| last > chosen[2]) {
            let (freeze, last) = (settings.freeze.last(), &all[chosen[2]].0);
            let message = format!(
                "\"{freeze}\" comes after {last}, the last stage that is read: `freeze: all` leaves the whole backbone as it is"
            );
            return Err(Problem { path: Path::default().join("freeze"), message });
        }
        let [one, two, three] = chosen.map(|at| &all[at]);
        let [_, rows, columns] = all[named.grid.unwrap_or(chosen[1])].1;
        Ok(Self {
            names: [one, two, three].map(|(name, _)| name.clone()),
            channels: [one, two, three].map(|(_, [channels, ..])| *channels),
            grid: [rows, columns],
            high: [three.1[1], three.1[2]],
        })
    }
}
