//! LeNet-5 (LeCun et al. 1998) in the form of DDU (`omegafragger/DDU`, `net/lenet.py`): unpadded convolutions, max-pooling,
//! ReLU; 84 features.

use candle_core::Tensor;
use candle_nn::VarBuilder;

use crate::{
    Error, Result,
    nn::{
        Pass, Shape,
        architecture::Architecture,
        backbone::{Extractor, Family, LastLayerOf, Part},
        layers::{Conv2d, Linear, within},
    },
    ops::{self, Activation, Convolution, Pool},
    yaml::registry::no_settings,
};

no_settings!();

impl Family for Settings {
    const LEAST_SIDE: usize = 16;
    const LACKS: &[Part] = &[Part::Shortcut];
    const POOLS_MAPS: bool = false;
    const FEW_PIXELS: bool = true;
    const STEM: bool = false;

    fn build(&self, architecture: &Architecture, shape: Shape, vb: VarBuilder) -> crate::Result<Box<dyn Extractor>> {
        Ok(Box::new(LeNet::new(architecture, shape, vb)?))
    }

    fn stages(&self, size: [usize; 2]) -> Vec<(String, [usize; 3])> {
        let left = |size: [usize; 2]| size.map(|size: usize| size.saturating_sub(4) / 2);
        let (first, second) = (left(size), left(left(size)));
        let stage = |name: &str, channels, [rows, columns]: [usize; 2]| (name.to_owned(), [channels, rows, columns]);
        vec![stage("conv1", 6, first), stage("conv2", 16, second)]
    }
}

/// Stages: `conv1` (N, 6, ·, ·) and `conv2` (N, 16, ·, ·), after ReLU and pooling.
#[derive(Debug, Clone)]
pub struct LeNet {
    conv1: Conv2d,
    conv2: Conv2d,
    fc1: Linear,
    fc2: Linear,
    activation: Activation,
}

impl LeNet {
    /// For images of 16×16 pixels or more; 256 inputs to the first linear layer at 28×28.
    ///
    /// # Errors
    /// [`Error::Input`] for smaller images.
    pub fn new(architecture: &Architecture, shape: Shape, vb: VarBuilder) -> Result<Self> {
        let left =
            |size: usize| size.checked_sub(4).and_then(|size| (size / 2).checked_sub(4)).map_or(0, |size| size / 2);
        let inputs = 16 * left(shape.height) * left(shape.width);
        if inputs == 0 {
            let message = format!("lenet needs images of at least 16×16 pixels, not {}×{}", shape.height, shape.width);
            return Err(Error::input(message).hint("use a data set with larger images, or `resnet18_32x32`"));
        }
        let bound = architecture.spectral_norm.as_ref();
        let conv = |channels, size, vb: &VarBuilder| {
            Conv2d::biased(channels, 5, Convolution::new(1, 0), vb)?.bounded(bound, size, vb)
        };
        let linear = |inputs, outputs, vb: &VarBuilder| Linear::new(inputs, outputs, vb)?.bounded(bound, vb);
        let size = [shape.height, shape.width];
        Ok(Self {
            conv1: conv([shape.channels, 6], size, &vb.pp("conv1"))?,
            conv2: conv([6, 16], size.map(|size| (size - 4) / 2), &vb.pp("conv2"))?,
            fc1: linear(inputs, 120, &vb.pp("fc1"))?,
            fc2: linear(120, 84, &vb.pp("fc2"))?,
            activation: architecture.activation.into(),
        })
    }
}

impl Extractor for LeNet {
    fn extract(&self, images: &Tensor, pass: &Pass) -> candle_core::Result<(Tensor, Vec<(String, Tensor)>)> {
        let conv1 = pass.stage("conv1", self.pooled("conv1", &self.conv1.forward(images, pass)?, pass)?)?;
        let conv2 = pass.stage("conv2", self.pooled("conv2", &self.conv2.forward(&conv1, pass)?, pass)?)?;
        let hidden = self.fc1.forward(&conv2.flatten_from(1)?, self.activation, pass)?;
        let features = self.fc2.forward(&hidden, self.activation, pass)?;
        Ok((features, vec![("conv1".to_owned(), conv1), ("conv2".to_owned(), conv2)]))
    }

    fn last_layer(&self, _: usize) -> LastLayerOf {
        LastLayerOf { name: "fc3", features: 84, init: [within(84); 2], scale: None }
    }

    fn folded(&self) -> candle_core::Result<Box<dyn Extractor>> {
        let mut network = self.clone();
        [&mut network.conv1, &mut network.conv2].into_iter().try_for_each(Conv2d::fold)?;
        [&mut network.fc1, &mut network.fc2].into_iter().try_for_each(Linear::fold)?;
        Ok(Box::new(network))
    }
}

impl LeNet {
    /// The activation after the pool: equal to before it, for it is monotone, on a quarter of the values.
    fn pooled(&self, name: &str, maps: &Tensor, pass: &Pass) -> candle_core::Result<Tensor> {
        pass.note(name, maps, self.activation)?;
        let pooled = pass.max_pool2d(maps, Pool::new(2, 2, 0))?;
        pass.choose(self.activation, |activation| ops::activate(&pooled, activation))
    }
}
