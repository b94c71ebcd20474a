//! What a pass chose: the side of every activation and the place of every maximum.
//!
//! A pass that [`repeat`]s another's choices at other images is a smooth function of images and weights, whose differences
//! converge to what differentiating twice gives. It also leaves the network as it was: running statistics are not updated.

use std::cell::RefCell;

use candle_core::{Result, Tensor, bail};

use crate::ops::{self, Activation, Pool};

thread_local! {
    static PASS: RefCell<Pass> = const { RefCell::new(Pass::Plain) };
}

enum Pass {
    Plain,
    /// The gates so far.
    Recording(Vec<Tensor>),
    /// The gates, and how many of them were passed.
    Repeating(Gates, usize),
}

/// The choices of a pass, in the order in which it made them: the results of activations and the inputs of max-pools, without
/// a graph.
#[derive(Debug, Clone)]
pub struct Gates(Vec<Tensor>);

/// Runs a forward pass and returns its choices besides its result, which is what it would be otherwise.
///
/// # Errors
/// Those of the pass.
pub fn record<T>(pass: impl FnOnce() -> Result<T>) -> Result<(T, Gates)> {
    let (result, state) = during(Pass::Recording(Vec::new()), pass);
    match state {
        Pass::Recording(gates) => Ok((result?, Gates(gates))),
        _ => bail!("another pass was begun in the one that is recorded"),
    }
}

/// Runs a forward pass with the choices of an earlier one of the same network, on as many images.
///
/// # Errors
/// Those of the pass; or when it makes another number of choices, or others.
pub fn repeat<T>(gates: &Gates, pass: impl FnOnce() -> Result<T>) -> Result<T> {
    let (result, state) = during(Pass::Repeating(gates.clone(), 0), pass);
    match (result?, state) {
        (result, Pass::Repeating(gates, passed)) if passed == gates.0.len() => Ok(result),
        _ => bail!("the pass that was to be repeated made {} choices, this one another number", gates.0.len()),
    }
}

fn during<T>(state: Pass, pass: impl FnOnce() -> Result<T>) -> (Result<T>, Pass) {
    let outer = PASS.replace(state);
    let result = pass();
    (result, PASS.replace(outer))
}

/// Whether the pass that runs repeats another, and so must leave the network as it is.
pub(super) fn repeating() -> bool {
    PASS.with_borrow(|pass| matches!(pass, Pass::Repeating(..)))
}

/// `layer(activation)`, with the choices that are to be repeated.
pub(super) fn activate(activation: Activation, layer: impl FnOnce(Activation) -> Result<Tensor>) -> Result<Tensor> {
    if activation == Activation::Identity {
        return layer(activation);
    }
    if let Some(like) = next()? {
        return ops::activate_like(&layer(Activation::Identity)?, &like, activation);
    }
    let y = layer(activation)?;
    keep(&y);
    Ok(y)
}

/// Max-pooling, with the choices that are to be repeated.
pub(super) fn max_pool2d(x: &Tensor, pool: Pool) -> Result<Tensor> {
    if let Some(like) = next()? {
        return ops::max_pool2d_like(x, &like, pool);
    }
    keep(x);
    ops::max_pool2d(x, pool)
}

fn next() -> Result<Option<Tensor>> {
    PASS.with_borrow_mut(|pass| match pass {
        Pass::Repeating(gates, passed) => match gates.0.get(*passed) {
            Some(gate) => {
                *passed += 1;
                Ok(Some(gate.clone()))
            }
            None => bail!("the pass that was to be repeated made fewer choices"),
        },
        _ => Ok(None),
    })
}

fn keep(gate: &Tensor) {
    PASS.with_borrow_mut(|pass| {
        if let Pass::Recording(gates) = pass {
            gates.push(gate.detach());
        }
    });
}
