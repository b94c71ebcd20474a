//! The fusion network: textures of a backbone's low stages and the meaning of a high one, put together position by position, and a
//! score of each.
//!
//! low = [stage 1 | stage 2] on one grid, through [STL](crate::nn::stl); high = stage 3 through a
//! [self-calibrated convolution](crate::nn::self_calibrated), enlarged to the grid; embedding ψ = 1×1 convolution of [low | high];
//! score = 1×1 convolution of ψ to one number. PaDiM and PatchCore may read what is fused as its stages `low`, `high` and `embedding`.
//!
//! - Paper: Tang et al., *Image anomaly detection algorithm using multi-level feature fusion network*, J. NUDT 2025, section 1. No code
//!   was published. The ablation of its table 4 leaves out `stl`, `sc`, and the loss terms of the score.
//! - Ours, since the paper does not say: the grid, the width of ψ, that what the stages give is standardised, and that a position of ψ is
//!   one 1×1 convolution with nothing after it.
//! - It learns with `loss: { hypersphere: {}, score_margin: {}, consistency: {} }` and `train: { outliers: { make: … } }`.

mod stages;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    models::{
        Kind,
        freeze::{ALL, Freeze, NONE},
        stages::wrong,
    },
    nn::{
        Backbone, Model, Output, Pass, Shape, Shown,
        backbone::Extractor,
        layers::{BatchNorm2d, Conv2d},
        self_calibrated::{self, SelfCalibrated},
        stl::{self, Stl},
    },
    ops::{self, Activation, Convolution, Interpolation, Pool},
    yaml::{
        named::is_default,
        problems::{Path, Problem},
    },
};
use stages::Stages;

/// What stands before the names of all parameters but the backbone's.
const OWN: &str = "fusion";

/// Settings of the fusion network.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Fusion")]
pub struct Settings {
    /// The layers that the stages are of. The paper's: `resnet50`.
    #[garde(dive)]
    pub backbone: Backbone,
    /// Two low stages and a high one, by name. Default: the last that have a quarter, an eighth and a sixteenth of the image's rows, which
    /// are a ResNet's `layer1`, `layer2` and `layer3`, as in the paper.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stages: Option<[String; 3]>,
    /// The stage whose rows and columns are the grid's. Default: the second low one, so 32×32 of an image of 256×256: the smallest on which
    /// the paper's scale 8 makes sense.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grid: Option<String>,
    /// Channels of the embedding: the paper's C₁, which it does not give. Ours: 64, of a trial on real surfaces.
    #[garde(range(min = 1, max = 4096))]
    #[serde(default = "sixty_four")]
    pub width: usize,
    /// Texture learning of the low stages (STLNet); `null` goes without it.
    #[garde(dive)]
    #[serde(default = "stl_default")]
    pub stl: Option<stl::Settings>,
    /// The self-calibrated convolution of the high stage; `null` goes without it.
    #[garde(dive)]
    #[serde(default = "sc_default")]
    pub sc: Option<self_calibrated::Settings>,
    /// Whether each channel of a stage is brought to mean 0 and deviation 1 first (batch normalisation without weights): stages differ in
    /// size by an order. Ours: true.
    #[garde(skip)]
    #[serde(default = "crate::yaml::named::yes")]
    pub standardise: bool,
    /// Which parts of the backbone keep their weights and statistics: a list of the first ones, `[stem, layer1]`, or the last of these,
    /// `layer1`; `stem` is what comes before the first stage; or `all` or `none`. The paper does not say. Ours: `all`, which is
    /// ahead on real surfaces after 300 steps (docs/results/surfaces_fusion_tried).
    #[garde(skip)]
    #[serde(default)]
    pub freeze: Freeze,
    /// What batch normalisation does in the parts of the backbone that learn. The paper does not say. Ours: `train`, as in PyTorch unless a
    /// module is set to `eval()`.
    #[garde(skip)]
    #[serde(default, skip_serializing_if = "is_default")]
    pub batch_norm: BatchNorm,
}

/// What batch normalisation does in layers whose weights learn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BatchNorm {
    /// It normalises by each batch, and its running averages follow.
    #[default]
    Train,
    /// It normalises by the running averages that the weights came with, and keeps them. Its scales and shifts learn. For small batches, and
    /// for batches that are half pseudo-anomalies.
    Frozen,
}

fn sixty_four() -> usize {
    64
}

fn stl_default() -> Option<stl::Settings> {
    Some(stl::Settings::default())
}

fn sc_default() -> Option<self_calibrated::Settings> {
    Some(self_calibrated::Settings::default())
}

impl Kind for Settings {
    fn shows(&self) -> Vec<Output> {
        vec![Output::Embedding, Output::Scores, Output::Map, Output::Stages]
    }

    fn build(&self, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Model>> {
        Ok(Box::new(Fusion::new(self, shape, &vb)?))
    }

    fn backbone(&self) -> Option<&Backbone> {
        Some(&self.backbone)
    }

    fn own(&self) -> Option<&'static str> {
        Some(OWN)
    }

    fn fixed(&self) -> Option<serde_json::Value> {
        let Self { backbone, stages, grid, freeze, .. } = self;
        (freeze.last() == ALL).then(|| serde_json::json!([backbone, stages, grid]))
    }

    fn fixed_bytes(&self, size: [usize; 2]) -> Option<usize> {
        let Stages { channels: [one, two, three], grid, high, .. } = Stages::of(self, size).ok()?;
        let pixels = |[rows, columns]: [usize; 2]| rows * columns;
        let numbers = (one + two) * pixels(grid) + three * pixels(high);
        self.fixed().map(|_| numbers * size_of::<f32>())
    }

    fn frozen(&self) -> Option<String> {
        let last = Some(self.freeze.last()).filter(|last| *last != NONE)?;
        let what = if last == ALL { "the backbone".to_owned() } else { format!("the backbone up to {last}") };
        Some(format!("{what} is frozen as random as it starts: give it `weights`, or `freeze: none`"))
    }

    fn problems(&self, size: Option<[usize; 2]>) -> Vec<Problem> {
        let stages = match size {
            Some(size) => Stages::of(self, size),
            None => return stages::misnamed(self).into_iter().collect(),
        };
        let Stages { grid, high, .. } = match stages {
            Ok(stages) => stages,
            Err(problem) => return vec![problem],
        };
        let stl = self.stl.as_ref().and_then(|stl| stl.problem(grid));
        let path = |part: &str, key: &str| Path::default().join(part).join(key);
        let stl = stl.map(|(at, message)| Problem { path: path("stl", "scales").join(at), message });
        let sc = self.sc.as_ref().and_then(|sc| sc.problem(high));
        stl.into_iter().chain(sc.map(|message| Problem { path: path("sc", "rate"), message })).collect()
    }

    fn grid(&self, size: [usize; 2]) -> Option<[usize; 2]> {
        Stages::of(self, size).ok().map(|stages| stages.grid)
    }

    fn canonical(self) -> Self {
        let freeze = Freeze::Until(self.freeze.last().to_owned());
        // What is frozen keeps its statistics anyway.
        let batch_norm = if self.freeze.last() == ALL { BatchNorm::default() } else { self.batch_norm };
        Self { freeze, batch_norm, ..self }
    }

    fn label(&self, name: &str) -> String {
        format!("{} {name}", self.backbone.label())
    }

    fn smoke(self) -> Self {
        let backbone = self.backbone.smoke().unwrap_or(self.backbone);
        let renamed = |name: String| backbone.layer_in_smoke(&name);
        let stages = self.stages.map(|stages| stages.map(renamed));
        let (grid, freeze) = (self.grid.map(renamed), self.freeze.renamed(renamed));
        Self { stages, grid, freeze, backbone, ..self }.on_small_images()
    }

    /// Narrow, with parts that a grid of 4×4 has room for.
    fn on_small_images(self) -> Self {
        let stl = self.stl.map(|stl| stl::Settings {
            width: 8,
            levels: 8,
            cooccurrence_levels: 4,
            scales: vec![1, 2],
            ..stl
        });
        let sc = self.sc.map(|sc| self_calibrated::Settings { width: 8, rate: 1, ..sc });
        Self { width: 8, stl, sc, ..self }
    }
}

/// The network.
#[derive(Debug)]
struct Fusion {
    trunk: Box<dyn Extractor>,
    freeze: String,
    batch_norm: BatchNorm,
    stages: Stages,
    standard: Option<[BatchNorm2d; 3]>,
    stl: Option<Stl>,
    sc: Option<SelfCalibrated>,
    fuse: Conv2d,
    score: Conv2d,
}

impl Fusion {
    fn new(settings: &Settings, shape: Shape, vb: &VarBuilder) -> crate::Result<Self> {
        let trunk = settings.backbone.extractor(shape, vb.clone())?;
        let stages = Stages::of(settings, [shape.height, shape.width]).map_err(wrong(OWN))?;
        let vb = vb.pp(OWN);
        let [one, two, three] = stages.channels;
        let standard = settings.standardise.then(|| -> Result<_> {
            let of = |at: usize| BatchNorm2d::plain(stages.channels[at], &vb.pp("standard").pp(at));
            Ok([of(0)?, of(1)?, of(2)?])
        });
        let stl = settings.stl.as_ref().map(|stl| Stl::new(stl, one + two, stages.grid, &vb.pp("stl"))).transpose()?;
        let high = stages.high;
        let sc = settings.sc.as_ref().map(|sc| SelfCalibrated::new(sc, three, high, &vb.pp("sc"))).transpose()?;
        let low = stl.as_ref().map_or(one + two, Stl::channels);
        let high = sc.as_ref().map_or(three, SelfCalibrated::channels);
        let plain = Convolution::new(1, 0);
        Ok(Self {
            trunk,
            freeze: settings.freeze.last().to_owned(),
            batch_norm: settings.batch_norm,
            standard: standard.transpose()?,
            stl,
            sc,
            fuse: Conv2d::biased([low + high, settings.width], 1, plain, &vb.pp("fuse"))?,
            score: Conv2d::biased([settings.width, 1], 1, plain, &vb.pp("score"))?,
            stages,
        })
    }

    /// The three stages, the low ones on the grid.
    fn stages(&self, images: &Tensor, pass: &Pass) -> Result<Vec<Tensor>> {
        let [.., last] = &self.stages.names;
        let all = match &self.freeze[..] {
            ALL => {
                // A pass of its own: stages after the last that is read must not learn either.
                let frozen = Pass::eval();
                let stages = self.trunk.stages_until(&images.detach(), last, &frozen)?;
                pass.hold_as(&frozen);
                stages
            }
            first => {
                if first != NONE {
                    pass.freeze_until(first);
                }
                pass.keep_statistics(self.batch_norm == BatchNorm::Frozen);
                let stages = self.trunk.stages_until(images, last, pass);
                pass.keep_statistics(false);
                stages?
            }
        };
        let taken = |(at, name): (usize, &String)| {
            let Some((_, maps)) = all.iter().find(|(other, _)| other == name) else {
                candle_core::bail!("the backbone shows no stage {name}")
            };
            // The high stage is enlarged last: its convolutions are then of fewer positions.
            let maps = if at < 2 { on_grid(maps, self.stages.grid)? } else { maps.clone() };
            Ok(if self.freeze == ALL { maps.detach() } else { maps })
        };
        self.stages.names.iter().enumerate().map(taken).collect()
    }
}

impl Model for Fusion {
    fn show(&self, images: &Tensor, pass: &Pass) -> Result<Shown> {
        self.show_fixed(&self.stages(images, pass)?, pass)
    }

    fn fixed(&self, images: &Tensor) -> Result<Option<Vec<Tensor>>> {
        (self.freeze == ALL).then(|| self.stages(images, &Pass::eval())).transpose()
    }

    fn show_fixed(&self, stages: &[Tensor], pass: &Pass) -> Result<Shown> {
        let standard = |at: usize| match &self.standard {
            Some(standard) => standard[at].forward(&stages[at], Activation::Identity, pass),
            None => Ok(stages[at].clone()),
        };
        let low = ops::concat(&[&standard(0)?, &standard(1)?])?;
        let low = match &self.stl {
            Some(stl) => stl.forward(&low, pass)?,
            None => low,
        };
        let high = standard(2)?;
        let high = match &self.sc {
            Some(sc) => sc.forward(&high, pass)?,
            None => high,
        };
        let both = ops::concat(&[&low, &on_grid(&high, self.stages.grid)?])?;
        let embedding = self.fuse.forward(&both, pass)?;
        let map = self.score.forward(&embedding, pass)?.squeeze(1)?;
        let stages = [("low", &low), ("high", &high), ("embedding", &embedding)];
        let stages = stages.map(|(name, maps)| (name.to_owned(), maps.clone())).into();
        Ok(Shown { embedding: Some(embedding), map: Some(map), stages, ..Shown::default() })
    }

    fn folded(&self) -> Result<Box<dyn Model>> {
        let (mut stl, mut sc) = (self.stl.clone(), self.sc.clone());
        stl.as_mut().map(Stl::fold).transpose()?;
        sc.as_mut().map(SelfCalibrated::fold).transpose()?;
        Ok(Box::new(Self {
            trunk: self.trunk.folded()?,
            freeze: self.freeze.clone(),
            batch_norm: self.batch_norm,
            stages: self.stages.clone(),
            standard: self.standard.clone(),
            stl,
            sc,
            fuse: self.fuse.clone(),
            score: self.score.clone(),
        }))
    }
}

/// Maps (N, C, H, W) on a grid: means of the positions that make up one where these are whole, else between the nearest.
fn on_grid(maps: &Tensor, [rows, columns]: [usize; 2]) -> Result<Tensor> {
    let (_, _, height, width) = maps.dims4()?;
    match (height, width) {
        _ if [height, width] == [rows, columns] => Ok(maps.clone()),
        _ if height % rows == 0 && width % columns == 0 && height / rows == width / columns => {
            ops::avg_pool2d(maps, Pool::new(height / rows, height / rows, 0), true)
        }
        _ => ops::resize(maps, (rows, columns), Interpolation::Bilinear, false),
    }
}
