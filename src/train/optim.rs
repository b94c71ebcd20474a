//! Optimisers with PyTorch's semantics.

use std::collections::BTreeMap;

use candle_core::{Tensor, Var, backprop::GradStore};

use crate::{Error, Result, config};

/// Stochastic gradient descent as `torch.optim.SGD` (dampening 0):
///
/// g ← ∇w + wd·w; v ← μ·v + g (v = g at a parameter's first step); g ← g + μ·v with Nesterov, else v; w ← w − lr·g.
///
/// A parameter without a gradient is left alone, its weight decay too.
#[derive(Debug)]
pub struct Sgd {
    momentum: f64,
    nesterov: bool,
    weight_decay: f64,
    parameters: Vec<(String, Var)>,
    velocity: BTreeMap<String, Tensor>,
}

impl Sgd {
    /// Over `parameters`, by name; the learning rate is an argument of [`Sgd::step`].
    ///
    /// # Errors
    /// [`Error::Input`] for Nesterov without momentum, as in PyTorch.
    pub fn new(config: &config::Sgd, parameters: Vec<(String, Var)>) -> Result<Self> {
        if config.nesterov && config.momentum <= 0.0 {
            return Err(Error::input("sgd: nesterov needs a momentum above 0").hint("set `momentum: 0.9`"));
        }
        let (momentum, nesterov, weight_decay) = (config.momentum, config.nesterov, config.weight_decay);
        Ok(Self { momentum, nesterov, weight_decay, parameters, velocity: BTreeMap::new() })
    }

    /// One step with learning rate `lr`.
    pub fn step(&mut self, gradients: &GradStore, lr: f64) -> Result<()> {
        for (name, var) in &self.parameters {
            let Some(gradient) = gradients.get(var.as_tensor()) else { continue };
            let weight = var.as_detached_tensor();
            let mut update = gradient.detach();
            if self.weight_decay != 0.0 {
                update = (update + (&weight * self.weight_decay)?)?;
            }
            if self.momentum != 0.0 {
                let velocity = match self.velocity.get(name) {
                    Some(velocity) => ((velocity * self.momentum)? + &update)?,
                    None => update.clone(),
                };
                update = if self.nesterov { (update + (&velocity * self.momentum)?)? } else { velocity.clone() };
                self.velocity.insert(name.clone(), velocity);
            }
            var.set(&(weight - (update * lr)?)?)?;
        }
        Ok(())
    }

    /// The velocity of each parameter that has one, by parameter name.
    pub fn state(&self) -> BTreeMap<String, Tensor> {
        self.velocity.clone()
    }

    /// Continues from a [`Sgd::state`]; parameters that it does not name start without velocity.
    ///
    /// # Errors
    /// [`Error::Input`] when it names a parameter that is not here, or one of another shape.
    pub fn load_state(&mut self, state: &BTreeMap<String, Tensor>) -> Result<()> {
        let mut velocity = BTreeMap::new();
        for (name, value) in state {
            let var = self.parameters.iter().find(|(known, _)| known == name).map(|(_, var)| var);
            let Some(var) = var.filter(|var| var.dims() == value.dims()) else {
                return Err(Error::input(format!(
                    "the optimiser state's {name} of shape {:?} fits no parameter of the network",
                    value.dims()
                )));
            };
            velocity.insert(name.clone(), value.to_device(var.device())?.to_dtype(var.dtype())?);
        }
        self.velocity = velocity;
        Ok(())
    }
}
