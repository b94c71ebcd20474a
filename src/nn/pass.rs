//! One forward pass: how the network is used, and what is kept of what happens inside.
//!
//! Every layer is handed the pass. A plain one keeps nothing; what it is asked to keep is taken out of it afterwards. What stands after a
//! non-linearity is a function of what stands before it, so that a pass [before](Side::Before) serves detectors of either; one
//! [after](Side::After) is quicker.

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};

use candle_core::{DType, Result, Tensor, Var};

use crate::{
    nn::{
        Precision,
        choices::{Choices, Choosing},
        footprint,
    },
    ops::{self, Activation, Pool},
};

/// The name of what the head reads, (N, D), beside those of the stages.
pub const PENULTIMATE: &str = "penultimate";

/// The name of the layers before the first stage, where they are frozen.
pub const STEM: &str = "stem";

/// Whether the network learns or is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Running statistics, no dropout; parameters are constants, so gradients exist with respect to the images only, and
    /// without those no graph is kept.
    Eval,
    /// Batch statistics (and their running averages updated), dropout drawn from the stream of (seed, step).
    Train {
        /// The run's seed.
        seed: u64,
        /// The optimiser step, from 0.
        step: u64,
        /// What convolutions and linear layers calculate in.
        precision: Precision,
    },
}

/// Where a layer's values are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Before the non-linearity. Layers that compute it on the way are taken apart for it.
    Before,
    /// After it.
    After,
}

/// One layer's neurons on a batch of images.
#[derive(Debug, Clone)]
pub struct Layer {
    /// The PyTorch name of the module that computes `values`: `conv1`, `features.1`, `block1.layer.0.bn2`.
    pub name: String,
    /// (N, C, H, W) or (N, D) f32, without a graph.
    pub values: Tensor,
    /// The non-linearity that follows; the identity where `values` stand after it, and after the last linear layer.
    pub activation: Activation,
}

/// What left one stage, in a pass that is differentiated by it.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// The name of the stage, or [`PENULTIMATE`].
    pub name: String,
    /// (N, C, H, W) or (N, D), without a graph.
    pub values: Tensor,
    /// A zero of the same shape. A gradient with respect to it is one with respect to `values`.
    pub variable: Tensor,
}

/// One forward pass of a network.
#[derive(Debug)]
pub struct Pass {
    mode: Mode,
    /// The stage up to which the network is used, whatever the mode.
    frozen: RefCell<Option<String>>,
    /// Whether batch normalisation keeps its statistics, though its weights learn.
    kept: Cell<bool>,
    /// Where layers' values are taken; `None`: nowhere.
    side: Option<Side>,
    layers: RefCell<Vec<Layer>>,
    /// The stages that are differentiated by.
    wanted: Vec<String>,
    leaves: RefCell<Vec<Leaf>>,
    choosing: RefCell<Choosing>,
    /// Whether shapes alone matter.
    sketches: bool,
    /// (N) u32.
    classes: Option<Tensor>,
    /// The place of the first image among those held out.
    judged: Option<usize>,
    largest: Cell<usize>,
    sum: Cell<usize>,
    products: Cell<u64>,
}

impl Pass {
    /// A plain pass in this mode.
    pub fn new(mode: Mode) -> Self {
        Self {
            mode,
            frozen: RefCell::default(),
            kept: Cell::default(),
            side: None,
            layers: RefCell::default(),
            wanted: Vec::new(),
            leaves: RefCell::default(),
            choosing: RefCell::default(),
            sketches: false,
            classes: None,
            judged: None,
            largest: Cell::default(),
            sum: Cell::default(),
            products: Cell::default(),
        }
    }

    /// A plain pass in [`Mode::Eval`].
    pub fn eval() -> Self {
        Self::new(Mode::Eval)
    }

    /// The same that keeps every layer's neurons. On the CPU, the outputs are those of a plain pass to the bit; on a GPU, to rounding.
    #[must_use]
    pub fn keeping_layers(self, side: Side) -> Self {
        Self { side: Some(side), ..self }
    }

    /// The same of which the results' shapes alone matter: what is the same for each part of an image may be computed of one.
    #[must_use]
    pub fn sketching(self) -> Self {
        Self { sketches: true, ..self }
    }

    /// Whether it is one of which shapes alone matter.
    pub(crate) fn is_sketch(&self) -> bool {
        self.sketches
    }

    /// The same that can be differentiated by these stages; [`PENULTIMATE`] is what the head reads. The outputs' graph begins at the
    /// first of them, or at the images, if these are variables. Nothing before it is differentiated.
    #[must_use]
    pub fn differentiating(self, stages: &[String]) -> Self {
        Self { wanted: stages.to_vec(), ..self }
    }

    /// The same that records its [choices](Choices).
    #[must_use]
    pub fn recording(self) -> Self {
        Self { choosing: RefCell::new(Choosing::Recording(Vec::new())), ..self }
    }

    /// The same that makes the choices of an earlier pass of the same network on as many images, and leaves the network as it is:
    /// running statistics are not updated.
    #[must_use]
    pub fn repeating(self, choices: &Choices) -> Self {
        Self { choosing: RefCell::new(Choosing::repeating(choices)), ..self }
    }

    /// Whether the network learns or is used, where the pass is.
    pub fn mode(&self) -> Mode {
        match *self.frozen.borrow() {
            Some(_) => Mode::Eval,
            None => self.mode,
        }
    }

    /// From here to the end of the stage called `name`, or of the [stem](STEM), the network is used and does not learn.
    pub(crate) fn freeze_until(&self, name: &str) {
        *self.frozen.borrow_mut() = Some(name.to_owned());
    }

    /// The same of images of these classes, (N) u32.
    #[must_use]
    pub fn telling(self, classes: Option<&Tensor>) -> Self {
        Self { classes: classes.cloned(), ..self }
    }

    /// The (N) u32 classes of the images, where they are told.
    pub fn classes(&self) -> Option<&Tensor> {
        self.classes.as_ref()
    }

    /// The same that shows what losses read though the network does not learn, of images that are held out, of which the first has this
    /// place among all: what is drawn of an image depends on its place alone.
    #[must_use]
    pub fn judging(self, first: usize) -> Self {
        Self { judged: Some(first), ..self }
    }

    /// The place of the first image, of a pass that [judges](Self::judging).
    pub fn judged(&self) -> Option<usize> {
        self.judged
    }

    /// From here on, batch normalisation normalises by its running averages and leaves them as they are, though its weights learn; or
    /// again by each batch.
    pub(crate) fn keep_statistics(&self, keep: bool) {
        self.kept.set(keep);
    }

    /// Whether batch normalisation normalises by its running averages, where the pass is.
    pub(super) fn keeps_statistics(&self) -> bool {
        self.kept.get() || self.mode() == Mode::Eval
    }

    /// Every layer's neurons, from input to output, of a pass that [keeps](Self::keeping_layers) them.
    pub fn take_layers(&self) -> Vec<Layer> {
        self.layers.take()
    }

    /// The stages, from input to output, that the pass is [differentiated](Self::differentiating) by.
    pub fn take_leaves(&self) -> Vec<Leaf> {
        self.leaves.take()
    }

    /// The choices of a pass that [records](Self::recording) them.
    pub fn take_choices(&self) -> Choices {
        self.choosing.take().into_choices()
    }

    /// An error unless a [repeating](Self::repeating) pass made as many choices as the one that it repeats.
    ///
    /// # Errors
    /// See above.
    pub fn all_repeated(&self) -> Result<()> {
        self.choosing.borrow().all_repeated()
    }

    /// Bytes that the convolution that holds most held so far: what it read, added and wrote.
    pub fn largest(&self) -> usize {
        self.largest.get()
    }

    /// Bytes that all convolutions so far held, one after another.
    pub fn sum(&self) -> usize {
        self.sum.get()
    }

    /// Multiplications, each with an addition, of all convolutions, linear layers and attention so far: half of the FLOPs.
    pub fn products(&self) -> u64 {
        self.products.get()
    }

    /// A parameter as the pass sees it: a constant unless the network learns, so that inference keeps no graph.
    pub(crate) fn seen(&self, parameter: &Tensor) -> Tensor {
        match self.mode() {
            Mode::Eval => parameter.detach(),
            Mode::Train { .. } => parameter.clone(),
        }
    }

    /// An operand of a convolution or linear layer, in the type that the pass calculates in. The gradient returns in the type of
    /// `tensor`.
    pub(super) fn operand(&self, tensor: &Tensor) -> Result<Tensor> {
        match self.mode() {
            Mode::Train { precision: Precision::Bf16, .. } => tensor.to_dtype(DType::BF16),
            _ => Ok(tensor.clone()),
        }
    }

    /// Whether nothing is kept or repeated of what happens inside, so that layers may be computed together.
    pub(super) fn is_plain(&self) -> bool {
        self.side.is_none() && matches!(*self.choosing.borrow(), Choosing::Freely)
    }

    /// Whether it repeats another, and so must leave the network as it is.
    pub(super) fn repeats(&self) -> bool {
        matches!(*self.choosing.borrow(), Choosing::Repeating { .. })
    }

    /// `layer(activation)`, with the layer's values kept if they are wanted.
    pub(super) fn activate(
        &self,
        name: &str,
        activation: Activation,
        layer: impl FnOnce(Activation) -> Result<Tensor>,
    ) -> Result<Tensor> {
        match self.side.filter(|_| activation != Activation::Identity) {
            None => self.choose(activation, layer),
            Some(Side::Before) => {
                let values = layer(Activation::Identity)?;
                self.keep(name, &values, activation);
                self.choose(activation, |activation| ops::activate(&values, activation))
            }
            Some(Side::After) => {
                let values = self.choose(activation, layer)?;
                self.keep(name, &values, Activation::Identity);
                Ok(values)
            }
        }
    }

    /// Keeps a layer's values, which stand before `activation`, if they are wanted.
    pub(super) fn note(&self, name: &str, values: &Tensor, activation: Activation) -> Result<()> {
        match self.side {
            None => {}
            Some(Side::Before) => self.keep(name, values, activation),
            Some(Side::After) => self.keep(name, &ops::activate(&values.detach(), activation)?, Activation::Identity),
        }
        Ok(())
    }

    fn keep(&self, name: &str, values: &Tensor, activation: Activation) {
        self.layers.borrow_mut().push(Layer { name: name.to_owned(), values: values.detach(), activation });
    }

    /// Called by a backbone where its first stage begins, if it has layers before that.
    pub(super) fn end_stem(&self) {
        self.end(STEM);
    }

    /// What is frozen until here learns from here on.
    fn end(&self, name: &str) {
        let ends = self.frozen.borrow().as_deref() == Some(name);
        if ends {
            *self.frozen.borrow_mut() = None;
        }
    }

    /// What leaves the stage called `name`, as who reads the stage and the next stage are to have it.
    pub(crate) fn stage(&self, name: &str, output: Tensor) -> Result<Tensor> {
        self.end(name);
        if !self.wanted.iter().any(|wanted| wanted == name) {
            return Ok(output);
        }
        let variable = Var::from_tensor(&output.zeros_like()?)?.into_inner();
        let sum = ops::add(&output, &variable, Activation::Identity)?;
        self.leaves.borrow_mut().push(Leaf { name: name.to_owned(), values: output.detach(), variable });
        Ok(sum)
    }

    /// `layer(activation)`, with the choices that are to be repeated.
    pub(super) fn choose(
        &self,
        activation: Activation,
        layer: impl FnOnce(Activation) -> Result<Tensor>,
    ) -> Result<Tensor> {
        if activation == Activation::Identity {
            return layer(activation);
        }
        let like = self.choosing.borrow_mut().next()?;
        if let Some(like) = like {
            return ops::activate_like(&layer(Activation::Identity)?, &like, activation);
        }
        let y = layer(activation)?;
        self.choosing.borrow_mut().keep(&y);
        Ok(y)
    }

    /// Max-pooling, with the choices that are to be repeated.
    pub(super) fn max_pool2d(&self, x: &Tensor, pool: Pool) -> Result<Tensor> {
        let mut choosing = self.choosing.borrow_mut();
        if let Some(like) = choosing.next()? {
            return ops::max_pool2d_like(x, &like, pool);
        }
        choosing.keep(x);
        ops::max_pool2d(x, pool)
    }

    /// Counts what the convolutions of another pass, part of this one, held.
    pub(crate) fn hold_as(&self, part: &Self) {
        self.largest.set(self.largest.get().max(part.largest()));
        self.sum.set(self.sum.get() + part.sum());
    }

    /// Called by each layer with the values that it gives, each a sum of so many products.
    pub(super) fn multiply(&self, y: &Tensor, products: usize) {
        self.products.set(self.products.get() + (y.elem_count() * products) as u64);
    }

    /// Called by each convolution with the maps that it holds.
    pub(super) fn hold<'a>(&self, maps: impl IntoIterator<Item = &'a Tensor>) {
        let together = maps.into_iter().map(footprint::bytes).sum();
        self.largest.set(self.largest.get().max(together));
        self.sum.set(self.sum.get() + together);
    }
}
