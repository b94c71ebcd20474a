//! What reverse distillation learns: the one-class bottleneck embedding of a teacher's three stages, and the decoder that makes them again.
//!
//! embedding = blocks(\[conv(conv(stage 1)) | conv(stage 2) | stage 3\]) at half the rows and columns of stage 3, twice its channels; the
//! decoder makes stage 3, stage 2 and stage 1 of it, one after another, each by residual blocks whose first doubles rows and columns.
//!
//! - Paper: Deng & Li, *Anomaly Detection via Reverse Distillation from One-Class Embedding*, CVPR 2022, sections 3.2 and 3.3.
//! - Code: `hq-deng/RD4AD`, `resnet.py` (`BN_layer`, whose unused `conv4` and `bn4` are left out) and `de_resnet.py`; parameters have its
//!   names, below `bottleneck` and `decoder`, which are anomalib's.
//! - Of a ResNet, blocks are of its kind, as wide and as many as there. Ours, since the paper has ResNets alone: of another network, two basic
//!   blocks for each stage, of the stage's channels.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::{
    Error,
    nn::{
        Backbone, Pass,
        layers::{ConvNorm, DoublingNorm},
        resnet::{Block, Form},
    },
    ops::{self, Activation, Convolution},
};

/// Channels, rows and columns of what leaves a stage.
pub type Size = [usize; 3];

/// The bottleneck and the decoder.
#[derive(Debug, Clone)]
pub struct Reverse {
    /// Halves rows and columns of stage 1 twice.
    first: [ConvNorm; 2],
    /// Halves those of stage 2 once.
    second: ConvNorm,
    embed: Vec<Block>,
    /// The coarsest first.
    decoder: [Decoded; 3],
}

impl Reverse {
    /// For a teacher's stages of these sizes, from the finest to the coarsest.
    ///
    /// # Errors
    /// [`Error::Input`] if a stage has not half the rows and columns of the one before, or the last not an even number of them.
    pub fn new(teacher: &Backbone, stages: [Size; 3], vb: &VarBuilder) -> crate::Result<Self> {
        if let Some(problem) = problem(stages) {
            return Err(Error::input(format!("reverse distillation: {problem}")));
        }
        let form = match teacher {
            Backbone::Resnet(settings) => Form::torchvision(settings),
            _ => Form::PLAIN,
        };
        Ok(Self::build(&form, stages, vb)?)
    }

    fn build(form: &Form, stages: [Size; 3], vb: &VarBuilder) -> Result<Self> {
        let [one, two, three] = stages.map(|[channels, ..]| channels);
        let bottleneck = vb.pp("bottleneck");
        let halved = |channels: [usize; 2], mut size: [usize; 2], number: usize| {
            let names = [bottleneck.pp(format!("conv{number}")), bottleneck.pp(format!("bn{number}"))];
            form.conv(channels, 3, Convolution::new(2, 1), &mut size, names)
        };
        let [fine, middle, coarse] = stages.map(|[_, rows, columns]| [rows, columns]);
        let planes = |outputs: usize| if form.bottleneck { outputs / 4 } else { outputs };
        let (mut size, mut inputs) = (coarse, 3 * three);
        let embed = (0..form.blocks[0]).map(|index| {
            let vb = bottleneck.pp("bn_layer").pp(index);
            let block = Block::new(form, [inputs, planes(2 * three)], if index == 0 { 2 } else { 1 }, &mut size, &vb);
            inputs = 2 * three;
            block
        });
        let decoder = vb.pp("decoder");
        let decoded = |channels, size, number: usize| {
            Decoded::new(form, channels, size, form.blocks[number - 1], &decoder.pp(format!("layer{number}")))
        };
        Ok(Self {
            first: [halved([one, two], fine, 1)?, halved([two, three], middle, 2)?],
            second: halved([two, three], middle, 3)?,
            embed: embed.collect::<Result<_>>()?,
            decoder: [
                decoded([2 * three, three], coarse, 1)?,
                decoded([three, two], middle, 2)?,
                decoded([two, one], fine, 3)?,
            ],
        })
    }

    /// The three stages (N, C, H, W) made again, from the finest to the coarsest.
    ///
    /// # Errors
    /// When shapes do not fit.
    pub fn forward(&self, [one, two, three]: [&Tensor; 3], pass: &Pass) -> Result<[Tensor; 3]> {
        let [halve, again] = &self.first;
        let one = again.forward(&halve.forward(one, Activation::Relu, pass)?, Activation::Relu, pass)?;
        let mut x = ops::concat(&[&one, &self.second.forward(two, Activation::Relu, pass)?, three])?;
        for block in &self.embed {
            x = block.forward(&x, pass)?;
        }
        let [coarse, middle, fine] = &self.decoder;
        let three = coarse.forward(&x, pass)?;
        let two = middle.forward(&three, pass)?;
        Ok([fine.forward(&two, pass)?, two, three])
    }

    /// From now on, inference uses the weights as they are now.
    ///
    /// # Errors
    /// When candle fails.
    pub fn fold(&mut self) -> Result<()> {
        self.first.iter_mut().chain([&mut self.second]).try_for_each(ConvNorm::fold)?;
        self.embed.iter_mut().try_for_each(Block::fold)?;
        self.decoder.iter_mut().try_for_each(Decoded::fold)
    }
}

/// Why the decoder would not give back each stage at its own size.
pub fn problem(stages: [Size; 3]) -> Option<String> {
    let [fine, middle, coarse] = stages.map(|[_, rows, columns]| [rows, columns]);
    let twice = |size: [usize; 2]| size.map(|side| 2 * side);
    if fine == twice(middle) && middle == twice(coarse) && coarse.iter().all(|side| side % 2 == 0) {
        return None;
    }
    let sizes = [fine, middle, coarse].map(|[rows, columns]| format!("{rows}×{columns}")).join(", ");
    Some(format!(
        "the stages are of {sizes}: each must have half the rows and columns of the one before it, and the last an even number of both. At \
         the usual stages, images have a multiple of 32 rows and columns"
    ))
}

/// Residual blocks that make a stage of the next coarser one.
#[derive(Debug, Clone)]
struct Decoded {
    /// Of a bottleneck, the 1×1 convolution before.
    narrow: Option<ConvNorm>,
    double: DoublingNorm,
    last: ConvNorm,
    skip: DoublingNorm,
    more: Vec<Block>,
}

impl Decoded {
    /// For a result of `size`, of so many blocks.
    fn new(
        form: &Form,
        [inputs, outputs]: [usize; 2],
        mut size: [usize; 2],
        blocks: usize,
        vb: &VarBuilder,
    ) -> Result<Self> {
        let planes = if form.bottleneck { outputs / 4 } else { outputs };
        let (inner, first) = (planes * form.width, vb.pp(0));
        let names = |number: usize| [first.pp(format!("conv{number}")), first.pp(format!("bn{number}"))];
        let (one, three) = (Convolution::new(1, 0), Convolution::new(1, 1));
        let (narrow, double, last) = match form.bottleneck {
            true => (
                Some(form.conv([inputs, inner], 1, one, &mut size.map(|side| side / 2), names(1))?),
                DoublingNorm::new([inner, inner], names(2))?,
                form.conv([inner, outputs], 1, one, &mut size, names(3))?,
            ),
            false => (
                None,
                DoublingNorm::new([inputs, inner], names(1))?,
                form.conv([inner, outputs], 3, three, &mut size, names(2))?,
            ),
        };
        let upsample = first.pp("upsample");
        let more = (1..blocks).map(|index| Block::new(form, [outputs, planes], 1, &mut size, &vb.pp(index)));
        Ok(Self {
            narrow,
            double,
            last,
            skip: DoublingNorm::new([inputs, outputs], [upsample.pp(0), upsample.pp(1)])?,
            more: more.collect::<Result<_>>()?,
        })
    }

    fn forward(&self, x: &Tensor, pass: &Pass) -> Result<Tensor> {
        let narrowed = self.narrow.as_ref().map(|narrow| narrow.forward(x, Activation::Relu, pass)).transpose()?;
        let doubled = self.double.forward(narrowed.as_ref().unwrap_or(x), Activation::Relu, pass)?;
        let skip = self.skip.forward(x, Activation::Identity, pass)?;
        let mut y = self.last.forward_add(&doubled, &skip, Activation::Relu, pass)?;
        for block in &self.more {
            y = block.forward(&y, pass)?;
        }
        Ok(y)
    }

    fn fold(&mut self) -> Result<()> {
        self.narrow.iter_mut().chain([&mut self.last]).try_for_each(ConvNorm::fold)?;
        [&mut self.double, &mut self.skip].into_iter().try_for_each(DoublingNorm::fold)?;
        self.more.iter_mut().try_for_each(Block::fold)
    }
}
