//! What published weights want their images normalised by.

use crate::{config::Backbone, data::Normalisation};

/// ImageNet's: torchvision's `ImageClassification` presets, timm's `IMAGENET_DEFAULT_MEAN` and `_STD`. Those of the CIFAR weights
/// of akamaster/pytorch_resnet_cifar10 as well (`trainer.py`).
const IMAGENET: [[f32; 3]; 2] = [[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]];
/// timm's for `tf_efficientnet_lite0.in1k`. The weights on PyPI are the same network's: on 600 images of Tiny ImageNet, enlarged to
/// 128×128, they are right for 28.8 % with these and for 19.3 % with ImageNet's.
const INCEPTION: [[f32; 3]; 2] = [[0.5; 3]; 2];
/// energy_ood's and pytorch-ood's for CIFAR-10 and CIFAR-100 alike, in 255ths.
const CIFAR: [[f32; 3]; 2] =
    [[125.3 / 255.0, 123.0 / 255.0, 113.9 / 255.0], [63.0 / 255.0, 62.1 / 255.0, 66.7 / 255.0]];

/// Mean and deviation of RGB images that the published weights of a backbone were trained with; `None` where there are no
/// such weights, or they differ in it.
pub fn of(backbone: &Backbone) -> Option<Normalisation> {
    let [mean, std] = match backbone {
        Backbone::Resnet(_) | Backbone::ResnetCifar(_) => IMAGENET,
        Backbone::EfficientnetLite0(_) => INCEPTION,
        Backbone::WideResnet(_) => CIFAR,
        // OpenOOD's ResNet-18 has CIFAR-10's for CIFAR-10 and CIFAR-100's for CIFAR-100.
        Backbone::Resnet18Small(_) | Backbone::Lenet(_) | Backbone::Vgg19Bn(_) => return None,
    };
    Some(Normalisation { mean: mean.to_vec(), std: std.to_vec() })
}
