//! Whether files and what is in them belong together: mixed-up rows or networks have the same shapes, and their scores look like any.

use candle_core::Tensor;

use super::FeatureFile;
use crate::{
    Error, Result,
    detectors::{DetectorConfig, Learns},
    nn::{Head, Output},
};

/// Images whose logits are compared at a time.
const BLOCK: usize = 4096;

/// How far a logit may be from the head's, relative to what is summed. In bf16, the coarsest type that networks compute in, each
/// of the two factors of a product and the sum are off by 2⁻⁹ at most.
const TOLERANCE: f64 = 3.0 / 512.0;

/// The last layer that files share, and the file that brought it.
pub(super) struct Shared {
    pub(super) head: Head,
    path: String,
}

impl Shared {
    /// That of a file which has one.
    pub(super) fn of(file: &FeatureFile) -> Option<Self> {
        Some(Self { head: file.head.clone()?, path: file.path.clone() })
    }

    /// Refuses a file that is of another last layer, as far as a detector has use for it.
    ///
    /// # Errors
    /// [`Error::Input`] naming the file, what of it does not fit and, of logits, the image that is furthest off.
    pub(super) fn check(&self, file: &FeatureFile, detector: &DetectorConfig) -> Result<()> {
        let refused = |reason: String| Error::input(format!("{}: {reason} of {}", file.path, self.path));
        file.check_fits(&self.head.weight).map_err(refused)?;
        // Others relate no file to another: each may be of a network of its own.
        let (needs, learns) = (detector.detector().needs(), detector.detector().learns());
        let one_network = learns != Learns::Nothing || needs.contains(&Output::Head);
        if let Some(head) = &file.head
            && one_network
        {
            for (name, own, shared) in
                [("weight", &head.weight, &self.head.weight), ("bias", &head.bias, &self.head.bias)]
            {
                if let Some([own, shared]) = first_difference(own, shared)? {
                    return Err(refused(format!("head.{name} holds {own} where there is {shared} in that"))
                        .hint("all files must be of one network: export them by the same model, head.bias included"));
                }
            }
        }
        match &file.head {
            Some(own) => file.check_logits(own, needs),
            None if one_network => file.check_logits(&self.head, needs),
            None => Ok(()),
        }
    }
}

/// The first numbers that differ, of tensors of the same shape.
fn first_difference(a: &Tensor, b: &Tensor) -> Result<Option<[f32; 2]>> {
    let [a, b] = [a, b].map(|tensor| tensor.flatten_all()?.to_vec1::<f32>());
    Ok(a?.into_iter().zip(b?).find(|(a, b)| a != b).map(|(a, b)| [a, b]))
}

/// A logit that the head does not give.
struct Stray {
    /// How far off it is, relative to what is summed.
    share: f64,
    image: usize,
    class: usize,
    expected: f32,
    found: f32,
}

impl FeatureFile {
    /// Refuses logits that the head does not make of the features, of a detector that reads more than one of the three.
    fn check_logits(&self, head: &Head, needs: &[Output]) -> Result<()> {
        let raw = needs.contains(&Output::RawLogits);
        let read =
            [raw || needs.contains(&Output::Logits), needs.contains(&Output::Features), needs.contains(&Output::Head)];
        let (Some(logits), Some(features)) = (&self.logits, &self.features) else { return Ok(()) };
        if read.iter().filter(|read| **read).count() < 2 {
            return Ok(());
        }
        let (worst, strays) = strays(logits, features, head, raw)?;
        let Some(Stray { image, class, expected, found, .. }) = worst.filter(|_| strays > 0) else { return Ok(()) };
        let message = format!(
            "{}: logits are not what head.weight and head.bias make of features in {strays} of {} images: furthest off is \
             logit {class} of image {image}, which is {found} and should be {expected}",
            self.path, self.images
        );
        Err(Error::input(message).hint(
            "take all three from one network, logits and features from one pass over the same images: features are what the last \
             layer reads, logits what it gives, before any softmax, and head.bias is left out only if there is none",
        ))
    }
}

/// The logit that is furthest off, and the number of images with one that is off by more than the tolerance. Unless they are
/// `raw`, what is added to all logits of an image does not count: it is what softmax forgets.
fn strays(logits: &Tensor, features: &Tensor, head: &Head, raw: bool) -> Result<(Option<Stray>, usize)> {
    let (images, classes) = logits.dims2()?;
    let size = features.dims2()?.1;
    let weight = head.weight.flatten_all()?.to_vec1::<f32>()?;
    let bias = head.bias.to_vec1::<f32>()?;
    let lengths: Vec<f64> = weight.chunks_exact(size).map(length).collect();
    let columns = head.weight.t()?;
    let (mut worst, mut count): (Option<Stray>, usize) = (None, 0);
    for start in (0..images).step_by(BLOCK) {
        let rows = BLOCK.min(images - start);
        let block = features.narrow(0, start, rows)?;
        let products = block.matmul(&columns)?.flatten_all()?.to_vec1::<f32>()?;
        let found = logits.narrow(0, start, rows)?.flatten_all()?.to_vec1::<f32>()?;
        let features = block.flatten_all()?.to_vec1::<f32>()?;
        let by_image = products.chunks_exact(classes).zip(found.chunks_exact(classes)).zip(features.chunks_exact(size));
        for (row, ((products, found), features)) in by_image.enumerate() {
            let expected: Vec<f64> = products.iter().zip(&bias).map(|(x, b)| f64::from(*x) + f64::from(*b)).collect();
            let apart = expected.iter().zip(found).map(|(expected, found)| f64::from(*found) - expected);
            let added = if raw { 0.0 } else { apart.clone().sum::<f64>() / classes as f64 };
            let features = length(features);
            let furthest = apart.enumerate().map(|(class, apart)| {
                let summed = features * lengths[class] + f64::from(bias[class].abs()) + f64::from(found[class].abs());
                let share = match (apart - added).abs() {
                    0.0 => 0.0,
                    apart if apart.is_nan() => f64::INFINITY,
                    apart => apart / summed,
                };
                let expected = (expected[class] + added) as f32;
                Stray { share, image: start + row, class, expected, found: found[class] }
            });
            let furthest = furthest.reduce(|a, b| if b.share > a.share { b } else { a });
            count += usize::from(furthest.as_ref().is_some_and(|stray| stray.share > TOLERANCE));
            worst = match (worst, furthest) {
                (Some(worst), Some(other)) if other.share <= worst.share => Some(worst),
                (worst, furthest) => furthest.or(worst),
            };
        }
    }
    Ok((worst, count))
}

/// ‖row‖₂
fn length(row: &[f32]) -> f64 {
    row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt()
}
