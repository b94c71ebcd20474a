//! What models of a teacher and a student have in common: the map of how far the two are apart.

use candle_core::{Result, Tensor};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::distillation::angles,
    nn::{Mode, Pass, Shown},
    ops::{self, Interpolation},
};

/// What stands before the names of all that learns.
pub(super) const OWN: &str = "student";
/// See [`Kind::frozen`](super::Kind::frozen).
pub(super) const RANDOM_TEACHER: &str =
    "a teacher does not learn, so it stays as random as it starts: give it `weights`";

/// How the maps of several stages become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Combine {
    /// Their sum: large where any stage is.
    Sum,
    /// Their product: large where all stages are.
    Product,
}

impl Combine {
    /// The map of (teacher's, student's) maps (N, C, h, w), whose first are the finest: at each position 1 − cosine of their angle, brought
    /// to the rows and columns of the first, bilinearly; (N, h, w), a constant. `None` without pairs.
    ///
    /// # Errors
    /// If the shapes of a pair differ or are empty.
    pub fn map(self, pairs: &[(Tensor, Tensor)], align_corners: bool) -> Result<Option<Tensor>> {
        let mut all: Option<Tensor> = None;
        for (teacher, student) in pairs {
            let map = angles(teacher, &student.detach())?.unsqueeze(1)?;
            let Some(before) = all else {
                all = Some(map);
                continue;
            };
            let (_, _, rows, columns) = before.dims4()?;
            let map = ops::resize(&map, (rows, columns), Interpolation::Bilinear, align_corners)?;
            all = Some(match self {
                Self::Sum => (before + map)?,
                Self::Product => (before * map)?,
            });
        }
        all.map(|map| map.squeeze(1)).transpose()
    }

    /// What a teacher and a student show: the pairs, and in evaluation the map of those whose place is in `scored`.
    pub(super) fn shown(
        self,
        pairs: Vec<(Tensor, Tensor)>,
        scored: &[usize],
        align_corners: bool,
        pass: &Pass,
    ) -> Result<Shown> {
        let map = match pass.mode() {
            Mode::Train { .. } => None,
            Mode::Eval => {
                let scored: Vec<_> = scored.iter().filter_map(|place| pairs.get(*place).cloned()).collect();
                self.map(&scored, align_corners)?
            }
        };
        Ok(Shown { pairs, map, ..Shown::default() })
    }
}
