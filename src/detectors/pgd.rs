//! Projected gradient descent on images, towards what a network takes them for: it is surer of the moved images than of the first.
//!
//! A step is x ← Π(x − α·sign(−∇_x ln max_c softmax(f(x))_c)), where Π keeps a pixel within 0..1 and ε of where it began. It begins at the
//! image, not at random within the bounds: the network is sure of something there already.
//!
//! - Paper: Madry et al. 2018, *Towards Deep Learning Models Resistant to Adversarial Attacks*, <https://arxiv.org/abs/1706.06083>.
//! - The gradient is ODIN's at temperature 1, which does not vanish where the network is sure.

use candle_core::Tensor;

use super::{
    Inputs,
    inputs::{renormalised, slopes},
    numbers, odin,
};
use crate::{
    Result,
    data::{Attack, Normalisation},
};

/// The bytes (N, C, H, W) of all images afterwards: what is within whole grey levels of bytes is rounded to one.
///
/// # Errors
/// Those of the network; [`Error::Interrupted`](crate::Error::Interrupted) when the user asks to stop.
pub fn moved(attack: &Attack, inputs: &dyn Inputs) -> Result<Vec<u8>> {
    let surer = odin::Config { temperature: 1.0, noise: 0.0, ..odin::Config::default() };
    let normalisation = inputs.normalisation();
    let channels = normalisation.std.len();
    let pixels = Normalisation { mean: vec![0.0; channels], std: vec![1.0; channels] };
    let epsilon = f64::from(attack.epsilon) / 255.0;
    let mut all = Vec::new();
    inputs.pass("attacking", &mut |start, images| {
        let first = numbers(&renormalised(images, normalisation, &pixels)?)?;
        let mut levels = first.clone();
        let mut moved = images.clone();
        for _ in 0..attack.steps {
            inputs.check()?;
            let slopes = slopes(&surer.gradient(inputs, &moved)?, start)?;
            for ((x, slope), first) in levels.iter_mut().zip(slopes).zip(&first) {
                // A pixel that does not matter stays.
                let step = if slope == 0.0 { 0.0 } else { attack.step() * slope.signum() };
                *x = (*x - step).clamp(first - epsilon, first + epsilon).clamp(0.0, 1.0);
            }
            let as_pixels = Tensor::from_vec(levels.clone(), images.shape(), images.device())?;
            moved = renormalised(&as_pixels.to_dtype(images.dtype())?, &pixels, normalisation)?;
        }
        all.extend(levels.into_iter().map(|level| (level * 255.0).round() as u8));
        Ok(())
    })?;
    Ok(all)
}
