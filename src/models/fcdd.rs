//! FCDD: a backbone up to a stage, and one number of each position, whose distance from the origin is the map.
//!
//! z = 1×1 convolution of the stage; map = A = √(z² + 1) − 1.
//!
//! - Paper: Liznerski et al., *Explainable Deep One-Class Classification*, ICLR 2021, <https://arxiv.org/abs/2007.01760>.
//! - Code: `liznerski/fcdd`, `FCDD_CNN224_VGG_F`: VGG-11 with batch normalisation up to an eighth of the rows, its first three stages as they
//!   are. The recipe for MVTec AD: `loss: { fcdd: {} }`, `outliers: { make: [confetti], share: 0.5 }`, SGD with learning rate 0.001, Nesterov
//!   momentum 0.9 and weight decay 0.0001, `schedule: { exponential: { gamma: 0.985 } }`, 200 epochs, batches of 128. An image is scored by
//!   the mean of its map, and pixels by the map enlarged: `map: { enlarge: {}, smooth: 0, score: mean }`.
//! - Deviations: the code's frozen layers go on to normalise by the batch, ours by what they were trained with. Images are not cropped or
//!   jittered unless the recipe's `augment` says so, and their local contrast is left alone.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    losses::hypersphere::distance,
    models::{
        Kind,
        freeze::{ALL, Freeze, NONE},
        stages::{Stage, fixed_maps_of, maps_of, place, wrong},
    },
    nn::{Backbone, Mode, Model, Output, Pass, Shape, Shown, backbone::Extractor, layers::Conv2d},
    ops::Convolution,
    yaml::problems::{Path, Problem},
};

/// What stands before the names of all parameters but the backbone's.
const OWN: &str = "fcdd";
/// The image's rows over those of the stage that is read, unless it is named.
const STRIDE: usize = 8;

/// Settings of FCDD.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Fcdd")]
pub struct Settings {
    /// The layers that the stage is of. The paper's, which is not among these: VGG-11 with batch normalisation and ImageNet weights.
    #[garde(dive)]
    pub backbone: Backbone,
    /// The stage that is read, by name. Default: the last that has an eighth of the image's rows, as in the paper's code.
    #[garde(inner(length(min = 1)))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// Which parts of the backbone keep their weights and statistics: a list of the first ones, or the last of these, or `all` or `none`.
    /// Default: up to the stage before the one that is read, since the paper's code freezes all but the last layers at that size.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze: Option<Freeze>,
}

/// What is read of the backbone, on images of a size.
struct Read {
    stage: Stage,
    /// The last part that does not learn, `all` or `none`.
    freeze: String,
}

impl Settings {
    fn read(&self, size: [usize; 2]) -> std::result::Result<Read, Problem> {
        let (backbone, all) = (&self.backbone, self.backbone.stages(size));
        let path = |key: &str| Path::default().join(key);
        let at = match &self.stage {
            Some(name) => place(backbone, &all, path("stage"), name)?,
            None => {
                let eighth = size[0].div_ceil(STRIDE);
                all.iter().rposition(|(_, [_, rows, _])| *rows == eighth).ok_or_else(|| {
                    let known = all.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>().join(", ");
                    let (name, rows) = (backbone.name(), size[0]);
                    let message = format!("{name} has no stage of an eighth of {rows} rows: name one of {known}");
                    Problem { path: path("stage"), message }
                })?
            }
        };
        let before = at.checked_sub(1).map_or(NONE, |before| &all[before].0);
        let freeze = match &self.freeze {
            None => before.to_owned(),
            Some(freeze) => {
                if freeze.place(backbone, &all)?.is_some_and(|last| last > at) {
                    let message = format!("\"{}\" comes after {}, the stage that is read", freeze.last(), all[at].0);
                    return Err(Problem { path: path("freeze"), message });
                }
                freeze.last().to_owned()
            }
        };
        Ok(Read { stage: all[at].clone(), freeze })
    }
}

impl Kind for Settings {
    fn shows(&self) -> Vec<Output> {
        vec![Output::Embedding, Output::Map]
    }

    fn build(&self, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Model>> {
        let trunk = self.backbone.extractor(shape, vb.clone())?;
        let Read { stage, freeze } = self.read([shape.height, shape.width]).map_err(wrong(OWN))?;
        let (name, [channels, ..]) = stage;
        let score = Conv2d::biased([channels, 1], 1, Convolution::new(1, 0), &vb.pp(OWN).pp("score"))?;
        Ok(Box::new(Fcdd { trunk, stage: [name], freeze, score }))
    }

    fn backbone(&self) -> Option<&Backbone> {
        Some(&self.backbone)
    }

    fn own(&self) -> Option<&'static str> {
        Some(OWN)
    }

    fn fixed(&self) -> Option<serde_json::Value> {
        let Self { backbone, stage, freeze } = self;
        (freeze.as_ref()?.last() == ALL).then(|| serde_json::json!(["stage", backbone, stage]))
    }

    fn fixed_bytes(&self, size: [usize; 2]) -> Option<usize> {
        let (_, sizes) = self.read(size).ok()?.stage;
        self.fixed().map(|_| sizes.iter().product::<usize>() * size_of::<f32>())
    }

    fn frozen(&self) -> Option<String> {
        let part = self.freeze.as_ref().map_or("the stage before the one that is read", Freeze::last);
        (part != NONE).then(|| {
            format!("what is frozen, up to {part}, stays as random as it starts: give it `weights`, or `freeze: none`")
        })
    }

    fn problems(&self, size: Option<[usize; 2]>) -> Vec<Problem> {
        // Names are the same for all sizes.
        let problem = match size {
            None if self.stage.is_none() => None,
            _ => self.read(size.unwrap_or([256; 2])).err(),
        };
        problem.into_iter().collect()
    }

    fn grid(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        let (_, [_, rows, columns]) = self.read(size).ok()?.stage;
        Some([rows, columns])
    }

    fn canonical(self) -> Self {
        let freeze = self.freeze.map(|freeze| Freeze::Until(freeze.last().to_owned()));
        Self { freeze, ..self }
    }

    fn label(&self, name: &str) -> String {
        format!("{} {name}", self.backbone.label())
    }

    fn smoke(self) -> Self {
        let backbone = self.backbone.smoke().unwrap_or(self.backbone);
        let renamed = |name: String| backbone.layer_in_smoke(&name);
        let (stage, freeze) = (self.stage.map(renamed), self.freeze.map(|freeze| freeze.renamed(renamed)));
        Self { stage, freeze, backbone }
    }
}

/// The network.
#[derive(Debug)]
struct Fcdd {
    trunk: Box<dyn Extractor>,
    stage: [String; 1],
    freeze: String,
    score: Conv2d,
}

impl Fcdd {
    /// The stage that is read.
    fn stage(&self, images: &Tensor, pass: &Pass) -> Result<Vec<Tensor>> {
        match &self.freeze[..] {
            ALL => fixed_maps_of(self.trunk.as_ref(), &self.stage, images, pass),
            part => {
                if part != NONE {
                    pass.freeze_until(part);
                }
                maps_of(self.trunk.as_ref(), &self.stage, images, pass)
            }
        }
    }
}

impl Model for Fcdd {
    fn show(&self, images: &Tensor, pass: &Pass) -> Result<Shown> {
        self.show_fixed(&self.stage(images, pass)?, pass)
    }

    fn fixed(&self, images: &Tensor) -> Result<Option<Vec<Tensor>>> {
        (self.freeze == ALL).then(|| self.stage(images, &Pass::eval())).transpose()
    }

    fn show_fixed(&self, stage: &[Tensor], pass: &Pass) -> Result<Shown> {
        let [maps] = stage else { candle_core::bail!("FCDD reads one stage, not {}", stage.len()) };
        let embedding = self.score.forward(maps, pass)?;
        let map = match pass.mode() {
            Mode::Train { .. } => None,
            Mode::Eval => Some(distance(&embedding)?),
        };
        Ok(Shown { embedding: Some(embedding), map, ..Shown::default() })
    }

    fn folded(&self) -> Result<Box<dyn Model>> {
        let (stage, freeze) = (self.stage.clone(), self.freeze.clone());
        Ok(Box::new(Self { trunk: self.trunk.folded()?, stage, freeze, score: self.score.clone() }))
    }
}
