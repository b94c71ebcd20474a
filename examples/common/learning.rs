//! A classifier's training step on one batch, again and again, as `step` and `gpu_check` time it.

use candle_core::{Device, Tensor};
use oodkit::{
    Error, Result,
    data::batches::Batch,
    losses::{Loss, Objective},
    nn::{self, Backbone, Mode, Precision, Shape, params::Params},
    train::optim::{Optimizer, Rules, sgd},
};

/// Classes; image i is of class i modulo these.
const CLASSES: u32 = 10;

/// Forward, cross-entropy, backward and SGD of the backbone of this name on (N, C, H, W) `images`, as a function of the step's index that
/// gives the loss.
///
/// # Errors
/// If there is no such backbone, or images of this shape do not fit it.
pub fn step(name: &str, images: &Tensor, precision: Precision) -> Result<impl FnMut(u64) -> Result<Tensor> + use<>> {
    let (normal, channels, height, width) = images.dims4()?;
    let backbone = Backbone::by_name(name).map_err(Error::input)?;
    let params = Params::new(0, images.device());
    let shape = Shape { channels, height, width, classes: CLASSES as usize };
    let model = nn::build(&backbone.into(), shape, params.builder())?;
    let objective = Objective::new(&Loss::default(), &[], 0)?;
    let rule = Rules::Sgd(sgd::Settings { lr: 0.01, momentum: 0.9, nesterov: false, weight_decay: 5e-4 });
    let mut optimizer = Optimizer::new(&rule, None, params.trainable())?;
    let labels =
        Tensor::from_iter((0..normal as u32).map(|i| i % CLASSES), &Device::Cpu)?.to_device(images.device())?;
    let images = images.clone();
    Ok(move |step| {
        let batch = Batch {
            images: images.clone(),
            normal,
            labels: Some(labels.clone()),
            entries: None,
            marked: None,
            epoch: 0,
            step,
        };
        let loss = objective.loss(&*model, &batch, Mode::Train { seed: 0, step, precision })?.total;
        optimizer.step(&loss.backward()?, rule.lr())?;
        Ok(loss)
    })
}
