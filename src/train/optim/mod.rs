//! Optimisers with PyTorch's semantics, gradient clipping and the moving average of the weights.

pub mod adamw;
pub mod muon;
pub mod sgd;

use std::collections::BTreeMap;

use candle_core::{DType, Device, Tensor, Var, backprop::GradStore};

use crate::{
    Error, Result,
    ops::optimizer::{self as ops, Direction},
    train::{
        groups::{self, Group},
        recipe::{Clip, Ema},
    },
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
        /// Momentum made orthogonal, for filters and matrices (Jordan et al. 2024, airbench94_muon).
        Muon = "muon" in muon::Settings,
    }
}

/// How a parameter follows its gradients.
pub trait Rule {
    /// The learning rate before the schedule.
    fn lr(&self) -> f64;

    /// The same rule with this learning rate and decay, where they are given.
    fn altered(&self, lr: Option<f64>, weight_decay: Option<f64>) -> Rules;

    /// What is wrong with its settings together, and with which of them.
    fn problem(&self) -> Option<(&'static str, &'static str)> {
        None
    }

    /// How many dimensions a parameter has, at least.
    fn least_dims(&self) -> usize {
        0
    }

    /// The parts of a parameter's memory, in alphabetical order.
    fn remembered(&self) -> &'static [&'static str];

    /// One step with learning rate `lr`.
    ///
    /// # Errors
    /// If shapes do not fit.
    fn step(&self, parameter: &mut Parameter, gradient: &Tensor, lr: f64, direction: Direction) -> Result<()>;
}

/// v: the momentum of a parameter, in its memory.
const VELOCITY: &str = "velocity";

/// What is wrong with Nesterov's form of this momentum, for [`Rule::problem`].
fn nesterov_problem(nesterov: bool, momentum: f64) -> Option<(&'static str, &'static str)> {
    (nesterov && momentum == 0.0).then_some(("nesterov", "needs momentum above 0"))
}

/// `torch.optim.SGD` (dampening 0) or `torch.optim.AdamW` over named parameters, changed in place.
///
/// - SGD: g ← ∇w + wd·w; v ← μ·v + g (v = g at a parameter's first step); g ← g + μ·v with Nesterov, else v; w ← w − lr·g.
/// - AdamW: m ← β₁·m + (1 − β₁)·g; v ← β₂·v + (1 − β₂)·g²; w ← w·(1 − lr·wd) − lr·m̂/(√v̂ + ε), where m̂ = m/(1 − β₁ᵗ),
///   v̂ = v/(1 − β₂ᵗ) and t counts the steps of the parameter.
///
/// A parameter without a gradient is left alone, its weight decay too. One that is [paced](Optimizer::paced) has another learning rate;
/// one of a [group](Optimizer::grouped) has the group's settings.
#[derive(Debug)]
pub struct Optimizer {
    rule: Rules,
    clip: Option<Clip>,
    parameters: Vec<Parameter>,
    /// Those of groups.
    rules: Vec<Rules>,
}

/// A parameter and what its rule remembers.
#[derive(Debug)]
pub struct Parameter {
    name: String,
    var: Var,
    /// Its learning rate over that of the others.
    pace: f64,
    /// The place of its group, if it is in one.
    group: Option<usize>,
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
        let start = |(name, var)| Parameter { name, var, pace: 1.0, group: None, steps: 0, memory: BTreeMap::new() };
        let parameters = parameters.into_iter().map(start).collect();
        Ok(Self { rule: rule.clone(), clip, parameters, rules: Vec::new() })
    }

    /// The same where the parameters of which `of` is true have `pace` times the learning rate of the others.
    #[must_use]
    pub fn paced(mut self, pace: f64, of: impl Fn(&str) -> bool) -> Self {
        self.parameters.iter_mut().filter(|parameter| of(&parameter.name)).for_each(|parameter| parameter.pace = pace);
        self
    }

    /// The same with these groups, whose learning rates are arguments of [`Optimizer::step_grouped`].
    ///
    /// # Errors
    /// [`Error::Input`] for a group that no parameter belongs to, or whose settings do not go together.
    pub fn grouped(mut self, groups: &[Group]) -> Result<Self> {
        if let Some((at, keys, problem)) = groups::setting_problems(groups).into_iter().next() {
            return Err(Error::input(format!("groups.{at}.{}: {problem}", keys.join("."))));
        }
        let names: Vec<&str> = self.parameters.iter().map(|parameter| parameter.name.as_str()).collect();
        if let Some((at, problem)) = groups::empty(groups, &names).into_iter().next() {
            return Err(Error::input(format!("groups.{at}.match: {problem}")));
        }
        self.rules = groups.iter().map(|group| group.rule(&self.rule)).collect();
        let parameters = self.parameters.iter();
        let sizes = parameters.map(|parameter| (parameter.name.as_str(), parameter.var.dims().len()));
        if let Some((_, problem)) = groups::too_flat(groups, &self.rule, sizes) {
            return Err(Error::input(problem));
        }
        self.parameters.iter_mut().for_each(|parameter| parameter.group = groups::first(groups, &parameter.name));
        Ok(self)
    }

    /// One step with learning rate `lr`, where there are no groups.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn step(&mut self, gradients: &GradStore, lr: f64) -> Result<()> {
        self.step_grouped(gradients, lr, &[])
    }

    /// One step with learning rate `lr`, and those of the groups; the parameters of a group without one stay as they are.
    ///
    /// # Errors
    /// If shapes do not fit.
    pub fn step_grouped(&mut self, gradients: &GradStore, lr: f64, groups: &[Option<f64>]) -> Result<()> {
        let direction = self.clipped(gradients, groups)?;
        for parameter in &mut self.parameters {
            let Some(gradient) = gradients.get(parameter.var.as_tensor()) else { continue };
            let (rule, lr) = match parameter.group {
                None => (&self.rule, lr * parameter.pace),
                Some(group) => {
                    let Some(lr) = groups.get(group).copied().flatten() else { continue };
                    (&self.rules[group], lr)
                }
            };
            parameter.steps += 1;
            rule.step(parameter, gradient, lr, direction)?;
        }
        Ok(())
    }

    /// `clip_grad_norm_` or `clip_grad_value_` of PyTorch, as factor and bound, so that gradients are read once.
    fn clipped(&self, gradients: &GradStore, groups: &[Option<f64>]) -> Result<Direction> {
        let unchanged = Direction { scale: 1.0, bound: f64::INFINITY, decay: 0.0 };
        Ok(match self.clip {
            None => unchanged,
            Some(Clip::Value(bound)) => Direction { bound, ..unchanged },
            Some(Clip::Norm(most)) => {
                // In PyTorch what does not learn has no gradient.
                let learns = |group: usize| groups.get(group).is_some_and(Option::is_some);
                let all = self.parameters.iter().filter(|parameter| parameter.group.is_none_or(learns));
                let all = all.filter_map(|parameter| gradients.get(parameter.var.as_tensor()));
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
            let rule = self.rule_of(parameter);
            let remembered = rule.remembered();
            let started = *steps > 0 && memory.keys().eq(remembered);
            if !started && (*steps, memory.len()) != (0, 0) {
                return Err(Error::input(format!(
                    "the optimiser state of {} is {steps} steps and {:?}; {} keeps its steps and {remembered:?}",
                    parameter.name,
                    memory.keys().collect::<Vec<_>>(),
                    rule.name()
                )));
            }
        }
        let remembered: Vec<_> = self.parameters.iter().map(|parameter| self.rule_of(parameter).remembered()).collect();
        for ((parameter, (steps, mut memory)), remembered) in self.parameters.iter_mut().zip(loaded).zip(remembered) {
            let parts = remembered.iter().filter_map(|part| Some((*part, memory.remove(part)?)));
            (parameter.steps, parameter.memory) = (steps, parts.collect());
        }
        Ok(())
    }

    /// How a parameter follows its gradients.
    fn rule_of(&self, parameter: &Parameter) -> &Rules {
        parameter.group.map_or(&self.rule, |group| &self.rules[group])
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
