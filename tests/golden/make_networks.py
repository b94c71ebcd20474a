"""Writes networks.json: what PyTorch's versions of our networks give for the weights and images of pattern.py.

python make_networks.py   (torch 2.15.0, numpy; any recent version should do)
"""

import json
import pathlib

import numpy
import torch
from torch.nn import functional as F

from pattern import parameter, sample, uniform
from torch_networks import LeNet, ResNet18, Vgg19, WideResNet


def record(network, images, labels):
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    network.double()
    network.load_state_dict({k: torch.from_numpy(parameter(k, *v.shape)).float() for k, v in state.items()}, strict=False)
    result = {"parameters": sorted(state), "trainable": sum(p.numel() for p in network.parameters())}
    for mode in ["eval", "train"]:
        network.train(mode == "train")
        logits, features, taps = network(images)
        result[mode] = {
            "logits": sample(logits, 10**6),
            "features": sample(features),
            "taps": {k: {"shape": list(v.shape), "values": sample(v)} for k, v in taps.items()},
        }
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    result["loss"] = loss.item()
    result["gradients"] = {
        name: [float((p.grad.numpy() ** 2).sum() ** 0.5), float((p.grad.numpy() * uniform(f"toward {name}", *p.shape)).sum())]
        for name, p in network.named_parameters()
    }
    result["buffers"] = {name: sample(b, 8) for name, b in network.named_buffers() if b.ndim}
    return result


def images(count, channels, size):
    return torch.from_numpy(uniform("images", count, channels, size, size)).float().double() * 1.5


torch.set_num_threads(2)
cases = [
    ("lenet 28", LeNet(1, 10, 256), 2, 1, 28),
    ("lenet 32", LeNet(3, 7, 400), 2, 3, 32),
    ("wide_resnet 16 2", WideResNet(16, 2, 3, 10), 2, 3, 32),
    ("wide_resnet 10 1", WideResNet(10, 1, 1, 5), 3, 1, 28),
    ("resnet18", ResNet18(3, 10), 2, 3, 32),
    ("vgg19_bn 32", Vgg19(3, 10, True), 4, 3, 32),
    ("vgg19_bn 28", Vgg19(1, 10, False), 2, 1, 28),
]
golden = {"versions": {"torch": torch.__version__, "numpy": numpy.__version__}}
for name, network, count, channels, size in cases:
    labels = torch.arange(count) % 5
    golden[name] = {"images": [count, channels, size, size], **record(network, images(count, channels, size), labels)}
path = pathlib.Path(__file__).with_name("networks.json")
path.write_text(json.dumps(golden, separators=(",", ":")).replace('"eval"', '\n"eval"').replace('"train":', '\n"train":') + "\n")
