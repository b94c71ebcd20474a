//! Mean and deviation of a set's pixels.

use super::{ImageSet, Normalisation, image_set::TOGETHER};
use crate::{Error, Result};

/// The mean and the standard deviation (of the whole, not of a sample) of each channel's pixels in 0..1, over all images.
///
/// Bytes are counted, so the sums are exact and do not depend on any order; mean and deviation are f64, rounded once.
///
/// # Errors
/// An image that cannot be read; a channel that has one value only.
pub fn statistics(images: &ImageSet) -> Result<Normalisation> {
    let (channels, plane) = (images.channels, images.height * images.width);
    let mut counts = vec![[0u64; 256]; channels];
    let places: Vec<usize> = (0..images.len()).collect();
    for places in places.chunks(TOGETHER) {
        for (plane, channel) in images.read(places)?.chunks_exact(plane).zip((0..channels).cycle()) {
            let counts = &mut counts[channel];
            plane.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        }
    }
    let of = |(channel, counts): (usize, &[u64; 256])| {
        let pixels = counts.iter().sum::<u64>() as f64;
        let mean_of = |of: &dyn Fn(f64) -> f64| {
            let bytes = (0..=255u8).zip(counts);
            bytes.map(|(byte, count)| *count as f64 * of(f64::from(byte))).sum::<f64>() / pixels
        };
        let mean = mean_of(&|byte| byte);
        let variance = mean_of(&|byte| (byte - mean).powi(2));
        if variance <= 0.0 {
            return Err(Error::input(format!(
                "channel {channel} of all {} images of \"{}\" has one value, so there is no deviation to normalise by",
                images.split, images.name
            ))
            .hint("give `mean` and `std`, or `channels: 1` for grey images"));
        }
        Ok(((mean / 255.0) as f32, (variance.sqrt() / 255.0) as f32))
    };
    let (mean, std) = counts.iter().enumerate().map(of).collect::<Result<Vec<_>>>()?.into_iter().unzip();
    Ok(Normalisation { mean, std })
}
