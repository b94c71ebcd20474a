//! Residual networks (He et al. 2016) in two forms: torchvision's, for images of 32×32 pixels or more (published ImageNet
//! weights load as they are), and OpenOOD's `resnet18_32x32` (`Jingkang50/OpenOOD`, `openood/networks/resnet18_32x32.py`), with
//! a 3×3 stem and no first pool, for small images.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;
use garde::Validate;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Error,
    nn::{
        Pass, Shape,
        architecture::{self, Architecture},
        backbone::{Backbone, Extractor, Family, IMAGENET, LastLayerOf, strided},
        layers::{BatchNorm2d, Conv2d, ConvInit, ConvNorm, within},
        shortcut::AveragePool,
        spectral_norm,
    },
    ops::{self, Activation, Convolution},
};

/// Settings of a ResNet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema, Validate)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Resnet")]
pub struct Settings {
    /// Layers: 18, 34, 50, 101 or 152.
    #[garde(range(min = 18, max = 152), custom(depth_is_known))]
    pub depth: usize,
    /// How many times wider the 3×3 convolutions of depth 50 and more are: 2 in torchvision's "wide" ones. Default: 1, the
    /// paper's.
    #[garde(range(min = 1, max = 64), custom(only_bottlenecks_are_wide(&self.depth)))]
    #[serde(default = "default_width")]
    pub width: usize,
}

fn default_width() -> usize {
    1
}

fn depth_is_known(depth: &usize, _: &()) -> garde::Result {
    if [18, 34, 50, 101, 152].contains(depth) {
        Ok(())
    } else {
        Err(garde::Error::new("must be 18, 34, 50, 101 or 152"))
    }
}

fn only_bottlenecks_are_wide(depth: &usize) -> impl FnOnce(&usize, &()) -> garde::Result {
    let wide = *depth >= 50;
    move |width, ()| {
        if wide || *width == 1 { Ok(()) } else { Err(garde::Error::new("must be 1 below depth 50")) }
    }
}

impl Family for Settings {
    const PRESETS: &[(&str, Self)] = &[
        ("resnet18", Self { depth: 18, width: 1 }),
        ("resnet34", Self { depth: 34, width: 1 }),
        ("resnet50", Self { depth: 50, width: 1 }),
        ("wide_resnet50_2", Self { depth: 50, width: 2 }),
    ];
    const LEAST_SIDE: usize = 32;
    const NORMALISATION: Option<[[f32; 3]; 2]> = Some(IMAGENET);

    fn build(&self, architecture: &Architecture, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Extractor>> {
        Ok(Box::new(ResNet::new(self, architecture, shape, vb)?))
    }

    fn stages(&self, size: [usize; 2]) -> Vec<(String, [usize; 3])> {
        stages(&Form::torchvision(self), size)
    }

    fn label(&self, _: &str) -> String {
        match self.width {
            1 => format!("resnet{}", self.depth),
            width => format!("wide_resnet{}_{width}", self.depth),
        }
    }

    fn elsewhere(&self, channels: usize, classes: usize) -> Option<String> {
        (channels == 3).then(|| format!("torchvision.models.{}(num_classes={classes})", self.label("")))
    }

    fn smoke(&self) -> Option<Backbone> {
        Some(Backbone::Resnet(Self { width: 1, ..self.clone() }))
    }
}

/// The stages' names, torchvision's.
const STAGES: [&str; 4] = ["layer1", "layer2", "layer3", "layer4"];
/// Channels inside the blocks of each stage.
const PLANES: [usize; 4] = [64, 128, 256, 512];

/// See [`Family::stages`].
pub(super) fn stages(form: &Form, size: [usize; 2]) -> Vec<(String, [usize; 3])> {
    // The stem and its pool halve rows and columns each.
    let strides = [if form.small { 1 } else { 4 }, 2, 2, 2];
    strided(size, (0..STAGES.len()).map(|at| (STAGES[at], form.outputs(PLANES[at]), strides[at])))
}

/// The trunk's four stages and their last map's average. Stages: `layer1` to `layer4`.
#[derive(Debug, Clone)]
pub struct ResNet {
    trunk: Trunk,
}

impl ResNet {
    /// torchvision's form, which starts its convolutions as He et al. 2015 (fan-out) and the rest as PyTorch.
    ///
    /// # Errors
    /// [`Error::Input`] below 32×32 pixels.
    pub fn new(settings: &Settings, architecture: &Architecture, shape: Shape, vb: VarBuilder) -> crate::Result<Self> {
        if shape.height.min(shape.width) < 32 {
            let message = format!(
                "resnet{} needs images of at least 32×32 pixels, not {}×{}",
                settings.depth, shape.height, shape.width
            );
            return Err(Error::input(message).hint("`resnet18_32x32` has a stem for small images"));
        }
        Ok(Self::build(Form::torchvision(settings), architecture, shape, vb)?)
    }

    /// OpenOOD's ResNet-18 for small images, with PyTorch's default initialisation as there.
    pub fn small(architecture: &Architecture, shape: Shape, vb: VarBuilder) -> Result<Self> {
        Self::build(Form::small(), architecture, shape, vb)
    }

    fn build(form: Form, architecture: &Architecture, shape: Shape, vb: VarBuilder) -> Result<Self> {
        let form = Form {
            activation: architecture.activation.into(),
            shortcut: architecture.shortcut,
            bound: architecture.spectral_norm.clone(),
            ..form
        };
        let trunk = Trunk::build(&form, shape, STAGES.len(), &vb)?;
        Ok(Self { trunk })
    }
}

impl Extractor for ResNet {
    fn extract(&self, images: &Tensor, pass: &Pass) -> Result<(Tensor, Vec<(String, Tensor)>)> {
        let maps = self.trunk.forward(images, pass)?;
        let features = ops::global_avg_pool2d(&maps[maps.len() - 1])?;
        Ok((features, STAGES.into_iter().map(str::to_owned).zip(maps).collect()))
    }

    fn stages_until(&self, images: &Tensor, last: &str, pass: &Pass) -> Result<Vec<(String, Tensor)>> {
        let count = STAGES.iter().position(|name| *name == last).map_or(STAGES.len(), |at| at + 1);
        let maps = self.trunk.first(count, images, pass)?;
        Ok(STAGES.into_iter().map(str::to_owned).zip(maps).collect())
    }

    fn last_layer(&self, _: usize) -> LastLayerOf {
        let features = self.trunk.channels();
        LastLayerOf { name: "fc", features, init: [within(features); 2], scale: None }
    }

    fn folded(&self) -> Result<Box<dyn Extractor>> {
        Ok(Box::new(Self { trunk: self.trunk.folded()? }))
    }
}

/// The stem and the first stages of a residual network: what gives feature maps.
#[derive(Debug, Clone)]
pub struct Trunk {
    stem: ConvNorm,
    pool: bool,
    stages: Vec<Vec<Block>>,
    channels: usize,
    activation: Activation,
}

impl Trunk {
    /// The first `stages` (1 to 4) of torchvision's form, for images of `shape`; later ones have no parameters here.
    pub fn new(settings: &Settings, shape: Shape, stages: usize, vb: &VarBuilder) -> Result<Self> {
        Self::build(&Form::torchvision(settings), shape, stages, vb)
    }

    fn build(form: &Form, shape: Shape, stages: usize, vb: &VarBuilder) -> Result<Self> {
        let (kernel, convolution) = if form.small { (3, Convolution::new(1, 1)) } else { (7, Convolution::new(2, 3)) };
        let mut size = [shape.height, shape.width];
        let channels = [shape.channels, PLANES[0]];
        let stem = form.conv(channels, kernel, convolution, &mut size, [vb.pp("conv1"), vb.pp("bn1")])?;
        if !form.small {
            size = size.map(|size| size.div_ceil(2));
        }
        let mut inputs = PLANES[0];
        let stages = STAGES.into_iter().zip(PLANES).zip(form.blocks).take(stages).map(|((name, planes), count)| {
            let vb = vb.pp(name);
            let block = |index| {
                let stride = if index == 0 && planes > PLANES[0] { 2 } else { 1 };
                let block = Block::new(form, [inputs, planes], stride, &mut size, &vb.pp(index));
                inputs = form.outputs(planes);
                block
            };
            (0..count).map(block).collect()
        });
        let stages = stages.collect::<Result<_>>()?;
        Ok(Self { stem, pool: !form.small, stages, channels: inputs, activation: form.activation })
    }

    /// Channels of the last map.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The map that leaves each stage, first to last.
    pub fn forward(&self, images: &Tensor, pass: &Pass) -> Result<Vec<Tensor>> {
        self.first(STAGES.len(), images, pass)
    }

    /// The same of the first `count` stages.
    fn first(&self, count: usize, images: &Tensor, pass: &Pass) -> Result<Vec<Tensor>> {
        let mut x = self.stem.forward(images, self.activation, pass)?;
        pass.end_stem();
        if self.pool {
            x = pass.max_pool2d(&x, ops::Pool::new(3, 2, 1))?;
        }
        let stage = |(name, blocks): (&str, &Vec<Block>)| {
            for block in blocks {
                x = block.forward(&x, pass)?;
            }
            x = pass.stage(name, x.clone())?;
            Ok(x.clone())
        };
        STAGES.into_iter().zip(&self.stages).take(count).map(stage).collect()
    }

    /// See [`Extractor::folded`].
    pub fn folded(&self) -> Result<Self> {
        let mut trunk = self.clone();
        trunk.stem.fold()?;
        trunk.stages.iter_mut().flatten().try_for_each(Block::fold)?;
        Ok(trunk)
    }
}

/// In what residual networks differ.
pub(super) struct Form {
    pub(super) blocks: [usize; 4],
    /// Blocks of 1×1, 3×3 and 1×1 convolutions with four times the planes, instead of two of 3×3.
    pub(super) bottleneck: bool,
    pub(super) width: usize,
    /// The stem for small images.
    small: bool,
    projection: &'static str,
    init: ConvInit,
    activation: Activation,
    shortcut: architecture::Shortcut,
    bound: Option<spectral_norm::Settings>,
}

impl Form {
    /// torchvision's ResNet-18.
    pub(super) const PLAIN: Self = Self {
        blocks: [2, 2, 2, 2],
        bottleneck: false,
        width: 1,
        small: false,
        projection: "downsample",
        init: ConvInit::HeFanOut,
        activation: Activation::Relu,
        shortcut: architecture::Shortcut::Convolution,
        bound: None,
    };

    pub(super) fn torchvision(settings: &Settings) -> Self {
        let blocks = match settings.depth {
            18 => [2, 2, 2, 2],
            34 | 50 => [3, 4, 6, 3],
            101 => [3, 4, 23, 3],
            _ => [3, 8, 36, 3],
        };
        let (bottleneck, width) = (settings.depth >= 50, settings.width);
        Self { blocks, bottleneck, width, ..Self::PLAIN }
    }

    pub(super) fn small() -> Self {
        Self { small: true, projection: "shortcut", init: ConvInit::Default, ..Self::PLAIN }
    }

    /// Channels that leave a block.
    fn outputs(&self, planes: usize) -> usize {
        if self.bottleneck { 4 * planes } else { planes }
    }

    /// For maps of `size`, which it changes to that of its result.
    pub(super) fn conv(
        &self,
        channels: [usize; 2],
        kernel: usize,
        convolution: Convolution,
        size: &mut [usize; 2],
        [conv, norm]: [VarBuilder; 2],
    ) -> Result<ConvNorm> {
        let conv =
            Conv2d::new(channels, kernel, convolution, self.init, &conv)?.bounded(self.bound.as_ref(), *size, &conv)?;
        *size = conv.output_size(*size)?;
        Ok(ConvNorm::new(conv, BatchNorm2d::new(channels[1], &norm)?))
    }
}

/// A residual block.
#[derive(Debug, Clone)]
pub(super) struct Block {
    convs: Vec<ConvNorm>,
    shortcut: Shortcut,
    activation: Activation,
}

#[derive(Debug, Clone)]
enum Shortcut {
    Identity,
    Projection(Box<ConvNorm>),
    AveragePool(AveragePool),
}

impl Block {
    pub(super) fn new(
        form: &Form,
        [inputs, planes]: [usize; 2],
        stride: usize,
        size: &mut [usize; 2],
        vb: &VarBuilder,
    ) -> Result<Self> {
        let mut before = *size;
        let (inner, outputs) = (planes * form.width, form.outputs(planes));
        let (one, three) = (Convolution::new(1, 0), Convolution::new(stride, 1));
        let convs = match form.bottleneck {
            // The stride is the 3×3 convolution's: torchvision's "v1.5".
            true => vec![([inputs, inner], 1, one), ([inner, inner], 3, three), ([inner, outputs], 1, one)],
            false => vec![([inputs, inner], 3, three), ([inner, outputs], 3, Convolution::new(1, 1))],
        };
        let convs = convs.into_iter().enumerate().map(|(i, (channels, kernel, convolution))| {
            let names = [vb.pp(format!("conv{}", i + 1)), vb.pp(format!("bn{}", i + 1))];
            form.conv(channels, kernel, convolution, size, names)
        });
        let convs = convs.collect::<Result<_>>()?;
        let shortcut = match form.shortcut {
            _ if stride == 1 && inputs == outputs => Shortcut::Identity,
            architecture::Shortcut::Convolution => {
                let (vb, one) = (vb.pp(form.projection), Convolution::new(stride, 0));
                Shortcut::Projection(form.conv([inputs, outputs], 1, one, &mut before, [vb.pp(0), vb.pp(1)])?.into())
            }
            architecture::Shortcut::AveragePool => Shortcut::AveragePool(AveragePool { channels: outputs, stride }),
        };
        Ok(Self { convs, shortcut, activation: form.activation })
    }

    pub(super) fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let [first @ .., last] = &self.convs[..] else { return Ok(x.clone()) };
        let mut hidden = x.clone();
        for conv in first {
            hidden = conv.forward(&hidden, self.activation, pass)?;
        }
        let skip = match &self.shortcut {
            Shortcut::Identity => x.clone(),
            Shortcut::Projection(projection) => projection.forward(x, Activation::Identity, pass)?,
            Shortcut::AveragePool(shortcut) => shortcut.forward(x)?,
        };
        last.forward_add(&hidden, &skip, self.activation, pass)
    }

    /// See [`Extractor::folded`].
    pub(super) fn fold(&mut self) -> Result<()> {
        self.convs.iter_mut().try_for_each(ConvNorm::fold)?;
        match &mut self.shortcut {
            Shortcut::Projection(projection) => projection.fold(),
            Shortcut::Identity | Shortcut::AveragePool(_) => Ok(()),
        }
    }
}
