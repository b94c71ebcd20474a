//! What a pass chose: the side of every activation and the place of every maximum.
//!
//! A pass that [repeats](super::Pass::repeating) another's choices at other images is a smooth function of images and weights, whose
//! differences converge to what differentiating twice gives.

use candle_core::{Result, Tensor, bail};

/// The choices of a pass, in the order in which it made them: the results of activations and the inputs of max-pools, without
/// a graph.
#[derive(Debug, Clone, Default)]
pub struct Choices(Vec<Tensor>);

/// What a pass does about its choices.
#[derive(Debug, Default)]
pub(super) enum Choosing {
    #[default]
    Freely,
    /// The choices so far.
    Recording(Vec<Tensor>),
    /// The choices, and how many of them were made.
    Repeating { choices: Choices, made: usize },
}

impl Choosing {
    pub(super) fn repeating(choices: &Choices) -> Self {
        Self::Repeating { choices: choices.clone(), made: 0 }
    }

    pub(super) fn into_choices(self) -> Choices {
        match self {
            Self::Recording(choices) => Choices(choices),
            Self::Repeating { choices, .. } => choices,
            Self::Freely => Choices::default(),
        }
    }

    /// The next choice, if it is made already.
    pub(super) fn next(&mut self) -> Result<Option<Tensor>> {
        match self {
            Self::Repeating { choices, made } => match choices.0.get(*made) {
                Some(choice) => {
                    *made += 1;
                    Ok(Some(choice.clone()))
                }
                None => bail!("the pass that was to be repeated made fewer choices"),
            },
            _ => Ok(None),
        }
    }

    pub(super) fn keep(&mut self, choice: &Tensor) {
        if let Self::Recording(choices) = self {
            choices.push(choice.detach());
        }
    }

    pub(super) fn all_repeated(&self) -> Result<()> {
        match self {
            Self::Repeating { choices, made } if *made != choices.0.len() => {
                bail!("the pass that was to be repeated made {} choices, this one another number", choices.0.len())
            }
            _ => Ok(()),
        }
    }
}
