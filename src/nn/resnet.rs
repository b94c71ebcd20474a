//! ResNet-18 (He et al. 2016) with a 3×3 stem and no first pool, for small images: OpenOOD's `resnet18_32x32`
//! (`Jingkang50/OpenOOD`, `openood/networks/resnet18_32x32.py`), whose projections are called `shortcut.0` and `.1`.

use std::collections::BTreeMap;

use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

use crate::{
    nn::{
        Head, Mode, Network, Outputs, Shape,
        layers::{BatchNorm2d, Conv2d, ConvInit, Linear},
    },
    ops,
};

/// 512 features, the global average of the last map. Taps: `layer1` to `layer4`.
#[derive(Debug, Clone)]
pub struct ResNet18 {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    layers: [[Block; 2]; 4],
    fc: Linear,
}

impl ResNet18 {
    /// PyTorch's default initialisation, as in OpenOOD.
    pub fn new(shape: Shape, vb: VarBuilder) -> Result<Self> {
        let layer = |name: &str, inputs: usize, outputs: usize, stride: usize| -> Result<[Block; 2]> {
            let vb = vb.pp(name);
            Ok([Block::new(inputs, outputs, stride, &vb.pp(0))?, Block::new(outputs, outputs, 1, &vb.pp(1))?])
        };
        Ok(Self {
            conv1: Conv2d::new(shape.channels, 64, 3, 1, 1, ConvInit::Default, &vb.pp("conv1"))?,
            bn1: BatchNorm2d::new(64, &vb.pp("bn1"))?,
            layers: [
                layer("layer1", 64, 64, 1)?,
                layer("layer2", 64, 128, 2)?,
                layer("layer3", 128, 256, 2)?,
                layer("layer4", 256, 512, 2)?,
            ],
            fc: Linear::new(512, shape.classes, &vb.pp("fc"))?,
        })
    }
}

impl Network for ResNet18 {
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Outputs> {
        let mut taps = BTreeMap::new();
        let mut x = self.bn1.forward_relu(&self.conv1.forward(images, mode)?, mode)?;
        for (name, [first, second]) in ["layer1", "layer2", "layer3", "layer4"].into_iter().zip(&self.layers) {
            x = second.forward(&first.forward(&x, mode)?, mode)?;
            taps.insert(name, x.clone());
        }
        let features = ops::global_avg_pool2d(&x)?;
        Ok(Outputs { logits: self.fc.forward(&features, mode)?, features, taps })
    }

    fn head(&self) -> Head {
        self.fc.head()
    }
}

#[derive(Debug, Clone)]
struct Block {
    conv1: Conv2d,
    bn1: BatchNorm2d,
    conv2: Conv2d,
    bn2: BatchNorm2d,
    shortcut: Option<(Conv2d, BatchNorm2d)>,
}

impl Block {
    fn new(inputs: usize, outputs: usize, stride: usize, vb: &VarBuilder) -> Result<Self> {
        let shortcut = if stride == 1 && inputs == outputs {
            None
        } else {
            let vb = vb.pp("shortcut");
            let conv = Conv2d::new(inputs, outputs, 1, stride, 0, ConvInit::Default, &vb.pp(0))?;
            Some((conv, BatchNorm2d::new(outputs, &vb.pp(1))?))
        };
        Ok(Self {
            conv1: Conv2d::new(inputs, outputs, 3, stride, 1, ConvInit::Default, &vb.pp("conv1"))?,
            bn1: BatchNorm2d::new(outputs, &vb.pp("bn1"))?,
            conv2: Conv2d::new(outputs, outputs, 3, 1, 1, ConvInit::Default, &vb.pp("conv2"))?,
            bn2: BatchNorm2d::new(outputs, &vb.pp("bn2"))?,
            shortcut,
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let hidden = self.bn1.forward_relu(&self.conv1.forward(x, mode)?, mode)?;
        let residual = self.bn2.forward(&self.conv2.forward(&hidden, mode)?, mode)?;
        let sum = match &self.shortcut {
            Some((conv, bn)) => bn.forward(&conv.forward(x, mode)?, mode)? + residual,
            None => x + residual,
        };
        ops::relu(&sum?)
    }
}
