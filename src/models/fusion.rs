//! The fusion network: textures of a backbone's low stages and the meaning of a high one, put together position by position, and a
//! score of each.
//!
//! low = [stage 1 | stage 2] on one grid, through [STL](crate::nn::stl); high = stage 3 through a
//! [self-calibrated convolution](crate::nn::self_calibrated), enlarged to the grid; embedding ψ = 1×1 convolution of [low | high];
//! score = 1×1 convolution of ψ to one number.
//!
//! - Paper: Tang et al., *Image anomaly detection algorithm using multi-level feature fusion network*, J. NUDT 2025, section 1. No code
//!   was published. The ablation of its table 4 leaves out `stl`, `sc`, and the loss terms of the score.
//! - Ours, since the paper does not say: the grid, the width of ψ, that what the stages give is standardised, and that a position of ψ is
//!   one 1×1 convolution with nothing after it.
//! - It learns with `loss: { hypersphere: {}, score_margin: {}, consistency: {} }` and `train: { outliers: { make: … } }`.

use candle_core::{DType, Result, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Error, did_you_mean,
    models::Kind,
    nn::{
        Backbone, Model, Output, Pass, Shape, Shown,
        backbone::Extractor,
        layers::{BatchNorm2d, Conv2d},
        self_calibrated::{self, SelfCalibrated},
        stl::{self, Stl},
    },
    ops::{self, Activation, Convolution, Interpolation, Pool},
};

/// What stands before the names of all parameters but the backbone's.
const OWN: &str = "fusion";
/// The image's rows over those of the three stages, unless they are named: torchvision's `layer1`, `layer2` and `layer3`.
const STRIDES: [usize; 3] = [4, 8, 16];
/// Words that stand for stages in `freeze`.
const ALL: &str = "all";
const NONE: &str = "none";

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
    #[serde(default = "yes")]
    pub standardise: bool,
    /// Up to which stage the backbone keeps its weights and statistics: a stage, `all` or `none`. The paper does not say. Ours: `all`, which
    /// was better on real surfaces at every budget of two cores.
    #[garde(length(min = 1))]
    #[serde(default = "all")]
    pub freeze: String,
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

fn yes() -> bool {
    true
}

fn all() -> String {
    ALL.to_owned()
}

impl Kind for Settings {
    fn shows(&self) -> Vec<Output> {
        vec![Output::Embedding, Output::Scores, Output::Map]
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
        (freeze == ALL).then(|| serde_json::json!([backbone, stages, grid]))
    }

    fn label(&self, name: &str) -> String {
        format!("{} {name}", self.backbone.label())
    }

    fn smoke(self) -> Self {
        let backbone = self.backbone.smoke().unwrap_or(self.backbone);
        let renamed = |name: String| backbone.layer_in_smoke(&name);
        let stages = self.stages.map(|stages| stages.map(renamed));
        let (grid, freeze) = (self.grid.map(renamed), renamed(self.freeze));
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

/// The three stages on their way to the grid.
#[derive(Debug, Clone)]
struct Stages {
    names: [String; 3],
    channels: [usize; 3],
    grid: [usize; 2],
    /// Rows and columns of the third.
    high: [usize; 2],
}

impl Stages {
    /// Those that the settings name, of a backbone whose stages have these names, channels and sizes, from input to output.
    fn of(settings: &Settings, all: &[(String, [usize; 3])], rows: usize) -> crate::Result<Self> {
        let listed = || all.iter().map(|(name, _)| &name[..]).collect::<Vec<_>>().join(", ");
        let unknown = |key: &str, name: &str| {
            let near = did_you_mean(name, all.iter().map(|(name, _)| &name[..]));
            Error::input(format!("fusion: {key}: {} has no stage \"{name}\"{near}", settings.backbone.name()))
                .hint(format!("its stages: {}", listed()))
        };
        let place = |key, name: &str| all.iter().position(|(other, _)| other == name).ok_or_else(|| unknown(key, name));
        let chosen = match &settings.stages {
            Some(names) => names.iter().map(|name| place("stages", name)).collect::<crate::Result<Vec<_>>>()?,
            None => {
                let of_stride =
                    |stride: usize| all.iter().rposition(|(_, [_, height, _])| *height == rows.div_ceil(stride));
                let found: Option<Vec<usize>> = STRIDES.into_iter().map(of_stride).collect();
                found.ok_or_else(|| {
                    let message = format!(
                        "fusion: {} has no stages of a quarter, an eighth and a sixteenth of {rows} rows",
                        settings.backbone.name()
                    );
                    Error::input(message).hint(format!("name three with `stages`, of: {}", listed()))
                })?
            }
        };
        if !chosen.is_sorted_by(|one, next| one < next) {
            return Err(Error::input("fusion: stages: two low ones and a high one, from input to output")
                .hint(format!("from input to output: {}", listed())));
        }
        let grid = match &settings.grid {
            Some(name) => place("grid", name)?,
            None => chosen[1],
        };
        if ![ALL, NONE].contains(&&settings.freeze[..]) && place("freeze", &settings.freeze)? > chosen[2] {
            let (freeze, last) = (&settings.freeze, &all[chosen[2]].0);
            let message = format!("fusion: freeze: \"{freeze}\" comes after {last}, the last stage that is read");
            return Err(Error::input(message).hint("`freeze: all` leaves the whole backbone as it is"));
        }
        let [one, two, three] = [0, 1, 2].map(|at: usize| &all[chosen[at]]);
        let [_, height, width] = all[grid].1;
        Ok(Self {
            names: [one, two, three].map(|(name, _)| name.clone()),
            channels: [one, two, three].map(|(_, [channels, ..])| *channels),
            grid: [height, width],
            high: [three.1[1], three.1[2]],
        })
    }
}

/// The network.
#[derive(Debug)]
struct Fusion {
    trunk: Box<dyn Extractor>,
    freeze: String,
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
        let image = Tensor::zeros((1, shape.channels, shape.height, shape.width), DType::F32, vb.device())?;
        let (_, shown) = trunk.extract(&image, &Pass::eval())?;
        let sizes = shown.iter().map(|(name, maps)| {
            let (_, channels, height, width) = maps.dims4()?;
            Ok((name.clone(), [channels, height, width]))
        });
        let stages = Stages::of(settings, &sizes.collect::<Result<Vec<_>>>()?, shape.height)?;
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
            freeze: settings.freeze.clone(),
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
            NONE => self.trunk.stages_until(images, last, pass)?,
            stage => {
                pass.freeze_until(stage);
                self.trunk.stages_until(images, last, pass)?
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
        Ok(Shown { embedding: Some(embedding), map: Some(map), ..Shown::default() })
    }

    fn folded(&self) -> Result<Box<dyn Model>> {
        let (mut stl, mut sc) = (self.stl.clone(), self.sc.clone());
        stl.as_mut().map(Stl::fold).transpose()?;
        sc.as_mut().map(SelfCalibrated::fold).transpose()?;
        Ok(Box::new(Self {
            trunk: self.trunk.folded()?,
            freeze: self.freeze.clone(),
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
