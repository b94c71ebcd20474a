//! Optimisers with PyTorch's semantics, gradient clipping and the moving average of the weights.

pub mod adamw;
pub mod sgd;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var, backprop::GradStore};

use crate::{
    Error, Result,
    ops::optimizer::{self as ops, Direction},
    train::recipe::{Clip, Ema},
    yaml::keys::keys,
};

keys! {
    /// How weights follow gradients.
    #[schemars(rename = "Optimizer")]
    pub enum Rules: Rule {
        /// Stochastic gradient descent in PyTorch's form.
        Sgd = "sgd" in sgd::Settings,
        /// Adam with decoupled weight decay (Loshchilov & Hutter 2019) in PyTorch's form.
        Adamw = "adamw" in adamw::Settings,
    }
}

/// How a parameter follows its gradients.
pub trait Rule {
    /// The learning rate before the schedule.
    fn lr(&self) -> f64;

    /// What is wrong with its settings together, and with which of them.
    fn problem(&self) -> Option<(&'static str, &'static str)> {
        None
    }

    /// The parts of a parameter's memory, in alphabetical order.
    fn remembered(&self) -> &'static [&'static str];

    /// One step with learning rate `lr`.
    ///
    /// # Errors
    /// If shapes do not fit.
    fn step(&self, parameter: &mut Parameter, gradient: &Tensor, lr: f64, direction: Direction) -> Result<()>;
}

/// `torch.optim.SGD` (dampening 0) or `torch.optim.AdamW` over named parameters, changed in place.
///
/// - SGD: g ← ∇w + wd·w; v ← μ·v + g (v = g at a parameter's first step); g ← g + μ·v with Nesterov, else v; w ← w − lr·g.
/// - AdamW: m ← β₁·m + (1 − β₁)·g; v ← β₂·v + (1 − β₂)·g²; w ← w·(1 − lr·wd) − lr·m̂/(√v̂ + ε), where m̂ = m/(1 − β₁ᵗ),
///   v̂ = v/(1 − β₂ᵗ) and t counts the steps of the parameter.
///
/// A parameter without a gradient is left alone, its weight decay too. One that is [paced](Optimizer::paced) has another learning rate.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rules,
    clip: Option<Clip>,
    parameters: Vec<Parameter>,
}

/// A parameter and what its rule remembers.
#[derive(Debug)]
pub struct Parameter {
    name: String,
    var: Var,
    /// Its learning rate over that of the others.
    pace: f64,
    /// Steps taken.
    steps: u64,
    /// What the rule remembers; nothing before the first step.
    memory: BTreeMap<&'static str, Tensor>,
}

/// What checkpoints call the number of a parameter's steps.
const STEPS: &str = "steps";

impl Optimizer {
    /// Over `parameters`, by name; the learning rate is an argument of [`Optimizer::step`].
    ///
    /// # Errors
    /// [`Error::Input`] for settings that do not go together, such as Nesterov without momentum, as in PyTorch.
    pub fn new(rule: &Rules, clip: Option<Clip>, parameters: Vec<(String, Var)>) -> Result<Self> {
        if let Some((key, problem)) = rule.problem() {
            return Err(Error::input(format!("{}: {key} {problem}", rule.name())));
        }
        let parameters = parameters.into_iter();
        let parameters =
            parameters.map(|(name, var)| Parameter { name, var, pace: 1.0, steps: 0, memory: BTreeMap::new() });
        Ok(Self { rule: rule.clone(), clip, parameters: parameters.collect() })
    }

    /// The same where the parameters of which `of` is true have `pace` times the learning rate of the others.
    #[must_use]
    pub fn paced(mut self, pace: f64, of: impl Fn(&str) -> bool) -> Self {
        self.parameters.iter_mut().filter(|parameter| of(&parameter.name)).for_each(|parameter| parameter.pace = pace);
        self
    }

    /// One step with learning rate `lr`.
    pub fn step(&mut self, gradients: &GradStore, lr: f64) -> Result<()> {
        let direction = self.clipped(gradients)?;
        for parameter in &mut self.parameters {
            let Some(gradient) = gradients.get(parameter.var.as_tensor()) else { continue };
            parameter.steps += 1;
            let lr = lr * parameter.pace;
            self.rule.step(parameter, gradient, lr, direction)?;
        }
        Ok(())
    }

    /// `clip_grad_norm_` or `clip_grad_value_` of PyTorch, as factor and bound, so that gradients are read once.
    fn clipped(&self, gradients: &GradStore) -> Result<Direction> {
        let unchanged = Direction { scale: 1.0, bound: f64::INFINITY, decay: 0.0 };
        Ok(match self.clip {
            None => unchanged,
            Some(Clip::Value(bound)) => Direction { bound, ..unchanged },
            Some(Clip::Norm(most)) => {
                let all = self.parameters.iter().filter_map(|parameter| gradients.get(parameter.var.as_tensor()));
                let scale = most / (ops::norm(all)? + 1e-6);
                // Not `min`, which would pass over a NaN: as in PyTorch it spoils the weights, which training then refuses.
                Direction { scale: if scale > 1.0 { 1.0 } else { scale }, ..unchanged }
            }
        })
    }

    /// What the next step depends on beside the parameters, for a checkpoint; later steps change these tensors.
    pub fn state(&self) -> Result<BTreeMap<String, Tensor>> {
        let mut state = BTreeMap::new();
        for Parameter { name, steps, memory, .. } in self.parameters.iter().filter(|parameter| parameter.steps > 0) {
            state.extend(memory.iter().map(|(part, value)| (format!("{part}.{name}"), value.clone())));
            state.insert(format!("{STEPS}.{name}"), Tensor::new(*steps as f64, &Device::Cpu)?);
        }
        Ok(state)
    }

    /// Continues from a copy of an [`Optimizer::state`]; parameters that it does not name start anew.
    ///
    /// # Errors
    /// [`Error::Input`] when it names a parameter that is not here, or one of another shape, or does not have of each the number
    /// of steps and the parts that this rule remembers. Nothing is changed then.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let remembered = self.rule.remembered();
        let mut loaded: Vec<(u64, BTreeMap<&str, Tensor>)> = vec![Default::default(); self.parameters.len()];
        for (key, value) in state {
            // What another rule remembers is told of below.
            let known = key.split_once('.').and_then(|(part, name)| {
                let index = self.parameters.iter().position(|parameter| parameter.name == name)?;
                let dims = if part == STEPS { &[] } else { self.parameters[index].var.dims() };
                (value.dims() == dims).then_some((part, index))
            });
            let Some((part, index)) = known else {
                return Err(Error::input(format!(
                    "the optimiser state's {key} of shape {:?} fits no parameter of the network",
                    value.dims()
                )));
            };
            if part == STEPS {
                loaded[index].0 = value.to_dtype(DType::F64)?.to_scalar::<f64>()? as u64;
            } else {
                let var = &self.parameters[index].var;
                let copy = value.to_device(var.device())?.to_dtype(var.dtype())?.copy()?;
                loaded[index].1.insert(part, copy);
            }
        }
        for (parameter, (steps, memory)) in self.parameters.iter().zip(&loaded) {
            let started = *steps > 0 && memory.keys().eq(remembered);
            if !started && (*steps, memory.len()) != (0, 0) {
                return Err(Error::input(format!(
                    "the optimiser state of {} is {steps} steps and {:?}; {} keeps its steps and {remembered:?}",
                    parameter.name,
                    memory.keys().collect::<Vec<_>>(),
                    self.rule.name()
                )));
            }
        }
        for (parameter, (steps, mut memory)) in self.parameters.iter_mut().zip(loaded) {
            let parts = remembered.iter().filter_map(|part| Some((*part, memory.remove(part)?)));
            (parameter.steps, parameter.memory) = (steps, parts.collect());
        }
        Ok(())
    }
}

impl Parameter {
    /// A part of the memory, zeros at first; the tensor shares its elements with it.
    fn part(&mut self, part: &'static str) -> Result<Tensor> {
        if let Some(tensor) = self.memory.get(part) {
            return Ok(tensor.clone());
        }
        let zeros = self.var.as_detached_tensor().zeros_like()?;
        self.memory.insert(part, zeros.clone());
        Ok(zeros)
    }
}

/// The exponential moving average of weights, as `torch.optim.swa_utils.get_ema_multi_avg_fn`: e ← d·e + (1 − d)·w, where
/// the first step sets e = w.
#[derive(Debug)]
pub struct Average {
    decay: f64,
    parameters: Vec<(String, Var)>,
    values: BTreeMap<String, Tensor>,
}

impl Average {
    /// Of `parameters`; nothing is averaged yet.
    pub fn new(ema: &Ema, parameters: Vec<(String, Var)>) -> Self {
        Self { decay: ema.decay, parameters, values: BTreeMap::new() }
    }

    /// Takes the weights in, after an optimiser's step.
    pub fn update(&mut self) -> Result<()> {
        for (name, var) in &self.parameters {
            match self.values.get(name) {
                Some(average) => ops::average(average, var, self.decay)?,
                None => drop(self.values.insert(name.clone(), var.as_detached_tensor().copy()?)),
            }
        }
        Ok(())
    }

    /// The averages by name; later updates change these tensors.
    pub fn values(&self) -> &BTreeMap<String, Tensor> {
        &self.values
    }

    /// Continues from a copy of [`Average::values`].
    ///
    /// # Errors
    /// [`Error::Input`] when they are not those of these parameters. Nothing is changed then.
    pub fn load(&mut self, values: &BTreeMap<String, Tensor>) -> Result<()> {
        self.values = copies_of(&self.parameters, values, "the averaged weights in the checkpoint")?;
        Ok(())
    }
}

/// Copies of values by name, as these parameters are; `what` names the values where they are those of others.
pub(super) fn copies_of(
    parameters: &[(String, Var)],
    values: &BTreeMap<String, Tensor>,
    what: &str,
) -> Result<BTreeMap<String, Tensor>> {
    let fits = |(name, var): &(String, Var)| values.get(name).is_some_and(|value| value.dims() == var.dims());
    if values.len() != parameters.len() || !parameters.iter().all(fits) {
        return Err(Error::input(format!("{what} are not those of this network")));
    }
    let copy = |(name, var): &(String, Var)| {
        Ok((name.clone(), values[name].to_device(var.device())?.to_dtype(var.dtype())?.copy()?))
    };
    parameters.iter().map(copy).collect()
}
