//! CutPaste: a network learns which maker of pseudo-anomalies changed an image, and its features are then compared with those of normal images.
//!
//! logits = W·head(z) + b of the features z of a backbone, with 1 + M classes for M makers; head: of each width a linear layer, batch
//! normalisation and ReLU. It learns with `loss: { pseudo_class: {} }`, and the detector `gaussian` reads z. With `patch`, the network sees square
//! windows: while it learns one of each image, cut before an outlier is made of it, and in evaluation all at every `stride` pixels.
//!
//! - Paper: Li et al., *CutPaste: Self-Supervised Learning for Anomaly Detection and Localization*, CVPR 2021,
//!   <https://arxiv.org/abs/2104.04015>: ResNet-18, 3-way, 64×64 patches at a stride of 4 for maps.
//! - Code: none was published. `Runinho/pytorch-cutpaste`: `head: [512, 128]`, which are its defaults; `optimizer: { sgd: { lr: 0.03, momentum: 0.9,
//!   weight_decay: 0.00003 } }`, a cosine, 256 epochs of 256 steps in the paper.
//! - The paper's best numbers are of five such networks together, whose scores are averaged: an ensemble is not built in. `seeds` trains the five.
//! - Deviations: that code keeps the backbone frozen for its first 20 steps; here `train.trunk_lr` makes it learn more slowly, and `freeze`
//!   freezes its first parts. A last batch of one image is normalised by running averages in the head, which PyTorch refuses.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    models::{
        Freeze, Kind,
        freeze::{ALL, NONE},
        stages::wrong,
    },
    nn::{
        Backbone, Mode, Model, Output, Pass, Shape, Shown,
        backbone::Extractor,
        layers::{BatchNorm2d, Linear},
        pass::PENULTIMATE,
        windows::{Windowed, Windows},
    },
    ops::Activation,
    yaml::problems::{Path, Problem},
};

/// What stands before the names of the head's parameters.
const OWN: &str = "cutpaste";
/// Windows that pass through the network at a time, ours: some 64 MiB of an EfficientNet-Lite0's first maps.
const TOGETHER: usize = 128;
/// Rows and columns of a window in a smoke run, and pixels between two.
const SMOKE: [usize; 2] = [16, 8];

/// Settings of CutPaste.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Validate, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Cutpaste")]
pub struct Settings {
    /// The layers up to the features. The paper's: `resnet18` with ImageNet weights.
    #[garde(dive)]
    pub backbone: Backbone,
    /// Classes that are told apart: a normal image, and one for each maker of `train.outliers.make`. The paper's 3-way: 3.
    #[garde(range(min = 2, max = 64))]
    #[serde(default = "three_way")]
    pub classes: usize,
    /// Widths of the layers between the features and the last layer. Default: 512 and 128, of `Runinho/pytorch-cutpaste`.
    #[garde(length(max = 64), inner(range(min = 1, max = 65_536)))]
    #[serde(default = "projection")]
    pub head: Vec<usize>,
    /// Rows and columns of the windows that it sees. The paper's for maps: 64. Default: none; it sees whole images.
    #[garde(range(min = 1, max = 65_536))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub patch: Option<usize>,
    /// With `patch`, pixels from one window to the next in evaluation. The paper's: 4. Default: 8, a quarter of the time.
    #[garde(range(min = 1, max = 65_536))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stride: Option<usize>,
    /// Which parts of the backbone keep their weights and statistics: a list of the first ones, or the last of these, or `none`. The paper's:
    /// none.
    #[garde(skip)]
    #[serde(default = "none")]
    pub freeze: Freeze,
}

fn three_way() -> usize {
    3
}

fn projection() -> Vec<usize> {
    vec![512, 128]
}

fn none() -> Freeze {
    Freeze::Until(NONE.to_owned())
}

const STRIDE: usize = 8;

impl Settings {
    fn windows(&self) -> Option<Windows> {
        Some(Windows { side: self.patch?, stride: self.stride.unwrap_or(STRIDE) })
    }

    fn problem(&self, size: Option<[usize; 2]>) -> std::result::Result<(), Problem> {
        let wrong = |key: &str, message| Problem { path: Path::default().join(key), message };
        // Names are the same for all sizes.
        self.freeze.place(&self.backbone, &self.backbone.stages([256; 2]))?;
        if self.freeze.last() == ALL {
            let message =
                "none of the features would learn: use `model: { features: { backbone: … } }` without `train`";
            return Err(wrong("freeze", message.to_owned()));
        }
        match self.patch {
            None if self.stride.is_some() => {
                return Err(wrong("stride", "goes with `patch`: whole images are seen once".to_owned()));
            }
            Some(patch) if patch < self.backbone.least_side() => {
                let (name, least) = (self.backbone.name(), self.backbone.least_side());
                return Err(wrong(
                    "patch",
                    format!("{name} needs at least {least}×{least} pixels, not {patch}×{patch}"),
                ));
            }
            Some(patch) if !patch.is_multiple_of(self.backbone.patch()) => {
                let (name, whole) = (self.backbone.name(), self.backbone.patch());
                let message = format!("{name} needs a whole number of patches of {whole}×{whole} pixels");
                return Err(wrong("patch", message));
            }
            Some(patch) => {
                if let Some([height, width]) = size.filter(|size| size.iter().any(|side| patch > *side)) {
                    let message = format!("a window of {patch}×{patch} has no room in images of {height}×{width}");
                    return Err(wrong("patch", message));
                }
            }
            None => {}
        }
        Ok(())
    }
}

impl Kind for Settings {
    fn shows(&self) -> Vec<Output> {
        let seen = if self.patch.is_some() { Output::Windows } else { Output::Features };
        vec![Output::Makers, seen]
    }

    fn build(&self, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Model>> {
        self.problem(Some([shape.height, shape.width])).map_err(wrong(OWN))?;
        let windows = self.windows();
        let side = windows.map(|windows| windows.side);
        let seen = Shape { height: side.unwrap_or(shape.height), width: side.unwrap_or(shape.width), ..shape };
        let trunk = self.backbone.extractor(seen, vb.clone())?;
        let (vb, mut inputs) = (vb.pp(OWN), trunk.last_layer(self.classes).features);
        let mut head = Vec::with_capacity(self.head.len());
        for (at, &width) in self.head.iter().enumerate() {
            // PyTorch's `Sequential` of a linear layer, a normalisation and a ReLU each.
            let vb = vb.pp("head");
            let linear = Linear::new(inputs, width, &vb.pp(3 * at))?;
            head.push((linear, BatchNorm2d::new(width, &vb.pp(3 * at + 1))?));
            inputs = width;
        }
        let out = Linear::new(inputs, self.classes, &vb.pp("out"))?;
        Ok(Box::new(Cutpaste { trunk, head, out, windows, freeze: self.freeze.last().to_owned() }))
    }

    fn backbone(&self) -> Option<&Backbone> {
        Some(&self.backbone)
    }

    fn own(&self) -> Option<&'static str> {
        Some(OWN)
    }

    fn frozen(&self) -> Option<String> {
        let part = self.freeze.last();
        (part != NONE).then(|| {
            format!("what is frozen, up to {part}, stays as random as it starts: give it `weights`, or `freeze: none`")
        })
    }

    fn problems(&self, size: Option<[usize; 2]>) -> Vec<Problem> {
        self.problem(size).err().into_iter().collect()
    }

    fn window(&self) -> Option<usize> {
        self.patch
    }

    fn makers(&self) -> Option<usize> {
        Some(self.classes - 1)
    }

    fn canonical(self) -> Self {
        let freeze = Freeze::Until(self.freeze.last().to_owned());
        let stride = self.patch.map(|_| self.stride.unwrap_or(STRIDE));
        Self { freeze, stride, ..self }
    }

    fn patch(&self) -> usize {
        if self.patch.is_some() { 1 } else { self.backbone.patch() }
    }

    fn label(&self, name: &str) -> String {
        format!("{} {name}", self.backbone.label())
    }

    fn smoke(self) -> Self {
        let backbone = self.backbone.smoke().unwrap_or(self.backbone);
        let freeze = self.freeze.renamed(|name| backbone.layer_in_smoke(&name));
        let head = self.head.into_iter().map(|width| width.min(8)).collect();
        Self { backbone, freeze, head, ..self }.on_small_images()
    }

    fn on_small_images(self) -> Self {
        let [side, stride] = SMOKE;
        let least = side.max(self.backbone.least_side()).next_multiple_of(self.backbone.patch());
        let patch = self.patch.map(|patch| patch.min(least));
        Self { stride: patch.map(|_| self.stride.unwrap_or(STRIDE).max(stride)), patch, ..self }
    }
}

/// The network.
#[derive(Debug)]
struct Cutpaste {
    trunk: Box<dyn Extractor>,
    head: Vec<(Linear, BatchNorm2d)>,
    out: Linear,
    windows: Option<Windows>,
    /// The last part that does not learn, or `none`.
    freeze: String,
}

impl Cutpaste {
    /// (N, D) features of whole images or of windows.
    fn features(&self, images: &Tensor, pass: &Pass) -> Result<Tensor> {
        if self.freeze != NONE {
            pass.freeze_until(&self.freeze);
        }
        pass.stage(PENULTIMATE, self.trunk.extract(images, pass)?.0)
    }

    /// (N, 1 + M) logits of features.
    fn logits(&self, features: Tensor, pass: &Pass) -> Result<Tensor> {
        // A single vector has no variance.
        pass.keep_statistics(features.dim(0)? == 1);
        let mut x = features;
        for (linear, norm) in &self.head {
            x = linear.forward(&x, Activation::Identity, pass)?.unsqueeze(2)?.unsqueeze(3)?;
            x = norm.forward(&x, Activation::Relu, pass)?.flatten_from(1)?;
        }
        pass.keep_statistics(false);
        self.out.forward(&x, Activation::Identity, pass)
    }

    /// What is seen of every window of (N, C, H, W) images, some windows at a time.
    fn look(&self, images: &Tensor, windows: Windows, pass: &Pass) -> Result<Shown> {
        let (count, _, height, width) = images.dims4()?;
        let Some([rows, columns]) = windows.grid([height, width]) else { candle_core::bail!("there is no window") };
        let mut features = Vec::new();
        // Image by image, so that an image's bits do not depend on those beside it.
        for image in 0..count {
            let (image, all) = (images.narrow(0, image, 1)?, rows * columns);
            if pass.is_sketch() {
                features.push(self.features(&windows.of(&image, 0..1)?, pass)?.repeat((all, 1))?);
                continue;
            }
            for first in (0..all).step_by(TOGETHER) {
                let together = windows.of(&image, first..(first + TOGETHER).min(all))?;
                features.push(self.features(&together, pass)?);
            }
        }
        let features = Tensor::cat(&features, 0)?;
        let logits = self.logits(features.clone(), pass)?;
        // Of an image, the mean over its windows.
        let makers = logits.reshape((count, rows * columns, ()))?.mean(1)?;
        let features = features.reshape((count, rows, columns, ()))?.permute((0, 3, 1, 2))?.contiguous()?;
        let seen = Windowed { name: "patch", windows, size: [height, width], features };
        Ok(Shown { makers: Some(makers), windows: vec![seen], ..Shown::default() })
    }
}

impl Model for Cutpaste {
    fn show(&self, images: &Tensor, pass: &Pass) -> Result<Shown> {
        match (self.windows, pass.mode()) {
            (Some(windows), Mode::Eval) => self.look(images, windows, pass),
            (windows, _) => {
                let features = self.features(images, pass)?;
                let makers = Some(self.logits(features.clone(), pass)?);
                Ok(Shown { features: windows.is_none().then_some(features), makers, ..Shown::default() })
            }
        }
    }

    fn folded(&self) -> Result<Box<dyn Model>> {
        let Self { head, out, windows, freeze, .. } = self;
        let trunk = self.trunk.folded()?;
        Ok(Box::new(Self { trunk, head: head.clone(), out: out.clone(), windows: *windows, freeze: freeze.clone() }))
    }
}
