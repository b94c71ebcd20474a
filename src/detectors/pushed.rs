//! Detectors that are shown batches: they learn from some, pass after pass, and score others as they come, so that many of them share one
//! forward pass and none holds a set.

use super::{Bank, Batches, Fit, Scorer, Scores};
use crate::{Result, nn::Shown};

/// A detector all of whose reading, of train images included, is done in batches.
pub trait Pushed {
    /// Whether it reads layers. Without it batches may come without them.
    fn reads_layers(&self) -> bool {
        false
    }

    /// How its fit begins. Of the train set only [`Bank::batches`] need be there.
    ///
    /// # Errors
    /// As the detector's fit.
    fn start(&self, fit: &Fit<'_>) -> Result<Fitting>;
}

/// Where a fit stands.
pub enum Fitting {
    /// It has to see the train images, for the first time or once more.
    Learning(Box<dyn Learner>),
    /// It is done.
    Ready(Box<dyn Scorer>),
}

/// Learns from batches that it is shown.
pub trait Learner {
    /// What the next pass is called on its progress bar.
    fn what(&self) -> &'static str;

    /// The positions of the train images that the next pass is over; `None`: all.
    fn images(&self) -> Option<&[usize]> {
        None
    }

    /// A batch, and the position of its first image in the pass; in order.
    ///
    /// # Errors
    /// As the detector's fit.
    fn see(&mut self, start: usize, batch: &Shown) -> Result<()>;

    /// Called after each pass. [`Batches::work`] of the train images has progress bars for what is left to do.
    ///
    /// # Errors
    /// As the detector's fit.
    fn passed(self: Box<Self>, train: &dyn Batches) -> Result<Fitting>;
}

/// Scores the images of one set as they come.
pub trait Scoring {
    /// As [`Learner::see`].
    ///
    /// # Errors
    /// As [`Scorer::score`].
    fn see(&mut self, start: usize, batch: &Shown) -> Result<()>;

    /// After the last batch, the scores of all images.
    ///
    /// # Errors
    /// As [`Scorer::score`].
    fn finish(self: Box<Self>) -> Result<Scores>;
}

/// A fit by itself.
///
/// # Errors
/// Those of the passes and of the learner.
pub fn fit(detector: &dyn Pushed, fit: &Fit<'_>) -> Result<Box<dyn Scorer>> {
    let mut fitting = detector.start(fit)?;
    loop {
        let learner = match fitting {
            Fitting::Ready(scorer) => return Ok(scorer),
            Fitting::Learning(learner) => learner,
        };
        fitting = learn(learner, fit.train()?.batches()?, detector.reads_layers())?;
    }
}

/// One pass of a learner by itself.
///
/// # Errors
/// Those of the pass and of the learner.
pub fn learn(mut learner: Box<dyn Learner>, train: &dyn Batches, layers: bool) -> Result<Fitting> {
    let some = learner.images().map(|images| train.subset(images)).transpose()?;
    let what = learner.what();
    some.as_deref().unwrap_or(train).pass(what, layers, &mut |start, batch| learner.see(start, batch))?;
    learner.passed(train)
}

/// The scores of a set by itself.
///
/// # Errors
/// Those of the pass and of the scorer.
pub fn score(scorer: &dyn Scorer, bank: &Bank, what: &str, layers: bool) -> Result<Scores> {
    let images = bank.batches()?;
    let mut scoring = scorer.scoring(images)?;
    images.pass(what, layers, &mut |start, batch| scoring.see(start, batch))?;
    scoring.finish()
}
