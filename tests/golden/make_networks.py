"""Writes networks.json: what PyTorch's versions of our networks give for the weights and images of pattern.py.

python make_networks.py   (torch 2.15.0, torchvision 0.29.2, timm 1.0.31, numpy; any recent versions should do. resnet20 was
made with torch 2.3.1, wide_resnet50_2 with torch 2.3.1 and torchvision 0.18.1.)
"""

import json
import pathlib

import numpy
import timm
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from pattern import directional, parameter, sample, uniform
from torch_networks import CifarResNet, LeNet, ResNet18, Vgg19, WideResNet


def observed(network, taps, last):
    """A package's network that also returns the input of its last layer and the outputs of some of its modules."""
    found, forward = {}, network.forward
    for name in taps:
        network.get_submodule(name).register_forward_hook(lambda _, x, y, name=name: found.update({name: y}))
    network.get_submodule(last).register_forward_hook(lambda _, x, y: found.update(features=x[0]))
    network.forward = lambda x: (forward(x), found["features"], {name: found[name] for name in taps})
    return network


def resnet(name, classes):
    network = getattr(torchvision.models, name)(num_classes=classes)
    return observed(network, ["layer1", "layer2", "layer3", "layer4"], "fc")


def efficientnet_lite0(classes):
    network = timm.create_model("tf_efficientnet_lite0", num_classes=classes)
    return observed(network, [f"blocks.{i}" for i in range(7)], "classifier")


def record(network, images, labels):
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    network.double()
    network.load_state_dict({k: torch.from_numpy(parameter(k, *v.shape)).float() for k, v in state.items()}, strict=False)
    result = {"parameters": sorted(state), "trainable": sum(p.numel() for p in network.parameters())}
    # Too large to learn in a test: one pass is compared.
    large = result["trainable"] > 50e6
    for mode in ["eval"] if large else ["eval", "train"]:
        network.train(mode == "train")
        logits, features, taps = network(images)
        result[mode] = {
            "logits": sample(logits, 10**6),
            "features": sample(features),
            "taps": {k: {"shape": list(v.shape), "values": sample(v)} for k, v in taps.items()},
        }
    if large:
        return result
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    result["loss"] = loss.item()
    result["gradients"] = directional([(name, p.grad) for name, p in network.named_parameters()])
    result["buffers"] = {name: sample(b, 2) for name, b in network.named_buffers() if b.ndim}
    return result


def images(count, channels, size):
    return torch.from_numpy(uniform("images", count, channels, size, size)).float().double() * 1.5


torch.set_num_threads(2)
cases = [
    ("lenet 28", LeNet(1, 10, 256), 2, 1, 28),
    ("lenet 32", LeNet(3, 7, 400), 2, 3, 32),
    ("wide_resnet 16 2", WideResNet(16, 2, 3, 10), 2, 3, 32),
    ("wide_resnet 10 1", WideResNet(10, 1, 1, 5), 3, 1, 28),
    ("resnet18_32x32", ResNet18(3, 10), 2, 3, 32),
    ("resnet20", CifarResNet(20, 3, 10), 2, 3, 32),
    ("resnet18", resnet("resnet18", 10), 2, 3, 64),
    ("resnet50", resnet("resnet50", 7), 2, 3, 64),
    ("wide_resnet50_2", resnet("wide_resnet50_2", 3), 1, 3, 32),
    ("efficientnet_lite0", efficientnet_lite0(10), 2, 3, 64),
    ("vgg19_bn 32", Vgg19(3, 10, True), 4, 3, 32),
    ("vgg19_bn 28", Vgg19(1, 10, False), 2, 1, 28),
    ("vgg19_bn 48 narrow", Vgg19(1, 7, True, first=4), 3, 1, 48),
]
golden = {"versions": {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm.__version__,
                        "numpy": numpy.__version__}}
for name, network, count, channels, size in cases:
    labels = torch.arange(count) % 5
    golden[name] = {"images": [count, channels, size, size], **record(network, images(count, channels, size), labels)}
path = pathlib.Path(__file__).with_name("networks.json")
path.write_text(json.dumps(golden, separators=(",", ":")).replace('"eval"', '\n"eval"').replace('"train":', '\n"train":') + "\n")
