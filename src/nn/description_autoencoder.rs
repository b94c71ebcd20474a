//! EfficientAD's autoencoder: an image through few numbers to a teacher's descriptions of its patches.
//!
//! encoder: 4×4 convolutions of stride 2, five at 256×256 pixels, and one of 8×8 without activation; decoder: enlarged bilinearly to a 64th, a
//! 32nd and so on up to half of the image's rows, a 4×4 convolution after each; then to the descriptions' rows, and two 3×3 convolutions.
//!
//! - Paper: Batzner, Heckler & König, *EfficientAD*, WACV 2024, table 8.
//! - Code: `nelson1425/EfficientAD`, `get_autoencoder`, for 256×256 pixels; anomalib's for others, whose names the parameters have.
//! - Of images whose shorter side is less than 256, the first convolutions are as many as leave 8 rows and columns at least. Ours.

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::{
    nn::{Mode, Pass, Shape, layers::Conv2d},
    ops::{self, Activation, Convolution, Interpolation},
    rng,
};

/// Rows and columns of the last convolution of the encoder, so of images at least.
pub const LEAST_SIDE: usize = 8;
/// How often the paper's encoder halves rows and columns.
const HALVINGS: usize = 5;
/// How often rows are halved for each step of the decoder, and what is taken off then.
const STEPS: [(usize, usize); 6] = [(6, 1), (5, 0), (4, 1), (3, 0), (2, 1), (1, 1)];

/// How large it is.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    /// Channels; the first two convolutions have half as many.
    pub width: usize,
    /// Numbers that describe a patch.
    pub outputs: usize,
    /// The share of values that are left out while it learns.
    pub dropout: f64,
}

/// The autoencoder.
#[derive(Debug, Clone)]
pub struct Autoencoder {
    encoder: Vec<Conv2d>,
    code: Conv2d,
    /// Rows and columns before each convolution, and its dropout's stream.
    decoder: Vec<([usize; 2], Conv2d, String)>,
    /// Rows and columns of descriptions.
    grid: [usize; 2],
    last: [Conv2d; 2],
    dropout: f64,
}

/// How often an encoder halves rows and columns of images.
fn halvings([height, width]: [usize; 2]) -> usize {
    (0..HALVINGS).take_while(|halved| (height.min(width) >> halved) >= 2 * LEAST_SIDE).count()
}

impl Autoencoder {
    /// For images of `shape` and descriptions of these rows and columns.
    ///
    /// # Errors
    /// Those of the parameters.
    pub fn new(form: Form, shape: Shape, grid: [usize; 2], vb: &VarBuilder) -> Result<Self> {
        let (Form { width, outputs, dropout }, size) = (form, [shape.height, shape.width]);
        let (halvings, down, up) = (halvings(size), vb.pp("encoder"), vb.pp("decoder"));
        let mut channels = shape.channels;
        let encoder = (0..halvings).map(|at| {
            let outputs = if at < 2 { width / 2 } else { width };
            let conv =
                Conv2d::biased([channels, outputs], 4, Convolution::new(2, 1), &down.pp(format!("enconv{}", at + 1)));
            channels = outputs;
            conv
        });
        let encoder = encoder.collect::<Result<Vec<_>>>()?;
        let code = down.pp(format!("enconv{}", HALVINGS + 1));
        let steps = STEPS.iter().enumerate().filter(|(_, (halved, _))| *halved <= halvings + 1);
        let decoder = steps.map(|(at, (halved, less))| {
            let vb = up.pp(format!("deconv{}", at + 1));
            let conv = Conv2d::biased([width; 2], 4, Convolution::new(1, 2), &vb)?;
            Ok((
                size.map(|side| (side >> halved).saturating_sub(*less).max(1)),
                conv,
                format!("dropout/{}", vb.prefix()),
            ))
        });
        let last = |number: usize, outputs: usize| {
            let vb = up.pp(format!("deconv{number}"));
            Conv2d::biased([width, outputs], 3, Convolution::new(1, 1), &vb)
        };
        Ok(Self {
            code: Conv2d::biased([channels, width], LEAST_SIDE, Convolution::new(1, 0), &code)?,
            encoder,
            decoder: decoder.collect::<Result<_>>()?,
            grid,
            last: [last(STEPS.len() + 1, width)?, last(STEPS.len() + 2, outputs)?],
            dropout,
        })
    }

    /// (N, C, H, W) to (N, outputs, h, w).
    ///
    /// # Errors
    /// If the images have another shape.
    pub fn forward(&self, images: &Tensor, pass: &Pass) -> Result<Tensor> {
        let relu = |x: Tensor| pass.choose(Activation::Relu, |activation| ops::activate(&x, activation));
        let resize =
            |x: &Tensor, [rows, columns]: [usize; 2]| ops::resize(x, (rows, columns), Interpolation::Bilinear, false);
        let mut x = images.clone();
        for conv in &self.encoder {
            x = relu(conv.forward(&x, pass)?)?;
        }
        x = self.code.forward(&x, pass)?;
        for (size, conv, stream) in &self.decoder {
            x = relu(conv.forward(&resize(&x, *size)?, pass)?)?;
            if let Mode::Train { seed, step, .. } = pass.mode() {
                x = ops::dropout(&x, self.dropout, rng::stream(seed, stream, &step.to_string()))?;
            }
        }
        let [first, second] = &self.last;
        second.forward(&relu(first.forward(&resize(&x, self.grid)?, pass)?)?, pass)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_papers_code() {
        let steps = |side: usize| {
            let steps = STEPS.iter().filter(|(halved, _)| *halved <= halvings([side; 2]) + 1);
            steps.map(|(halved, less)| (side >> halved) - less).collect::<Vec<_>>()
        };
        assert_eq!((halvings([256; 2]), steps(256)), (5, vec![3, 8, 15, 32, 63, 127]));
        assert_eq!((halvings([64, 300]), steps(64)), (3, vec![3, 8, 15, 31]));
        assert_eq!(([8, 15, 16, 512].map(|side| halvings([side; 2]))), [0, 0, 1, 5]);
    }
}
