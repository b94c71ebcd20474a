"""Writes duq.json: DUQ's kernels, loss, gradient penalty and centroids as PyTorch's double backward has them, in f64.

python duq.py   (torch and numpy, versions in the file)

The head and the step are those of y0ast/deterministic-uncertainty-quantification (utils/cnn_duq.py, train_duq_cifar.py),
written anew; networks, weights and images are those of make_networks.py.
"""

import json
import pathlib

import numpy
import torch
from torch import nn
from torch.nn import functional as F

from pattern import directional, parameter, sample, uniform
from torch_networks import LeNet, WideResNet

MOMENTUM, PENALTY, LR = 0.9, 0.5, 0.05


class Duq(nn.Module):
    def __init__(self, size, classes, features, length_scale):
        super().__init__()
        self.length_scale = length_scale
        self.W = nn.Parameter(torch.empty(size, classes, features))
        self.register_buffer("N", torch.empty(classes))
        self.register_buffer("m", torch.empty(size, classes))

    def embed(self, features):
        return torch.einsum("ij,mnj->imn", features, self.W)

    def forward(self, features):
        difference = self.embed(features) - (self.m / self.N).unsqueeze(0)
        return (-(difference**2).mean(1) / (2 * self.length_scale**2)).exp()

    def update(self, features, y):
        z = self.embed(features)
        self.N = MOMENTUM * self.N + (1 - MOMENTUM) * y.sum(0)
        self.m = MOMENTUM * self.m + (1 - MOMENTUM) * torch.einsum("ijk,ik->jk", z, y)


def value(name, shape):
    """As parameter of tests/duq.rs."""
    return uniform(name, *shape) + 12 if name.endswith(".N") else parameter(name, *shape)


def with_zeros(parameters, gradients):
    return [(n, torch.zeros_like(p) if g is None else g) for (n, p), g in zip(parameters, gradients)]


def record(network, last, size, length_scale, count, channels, pixels, classes):
    old = getattr(network, last)
    setattr(network, last, Duq(size, classes, old.in_features, length_scale))
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    network.double()
    network.load_state_dict({k: torch.from_numpy(value(k, v.shape)).float() for k, v in state.items()}, strict=False)
    images = torch.from_numpy(uniform("images", count, channels, pixels, pixels)).float().double() * 1.5
    labels = torch.arange(count) % classes
    y = F.one_hot(labels, classes).double()
    parameters = list(network.named_parameters())

    network.train()
    images.requires_grad_(True)
    kernels, _, _ = network(images)
    loss = F.binary_cross_entropy(kernels, y)
    (g,) = torch.autograd.grad(kernels.sum(), images, create_graph=True)
    norms = g.flatten(1).norm(2, dim=1)
    penalty = ((norms - 1) ** 2).mean()
    tensors = [p for _, p in parameters]
    of_loss = torch.autograd.grad(loss, tensors, retain_graph=True)
    of_penalty = torch.autograd.grad(penalty, tensors, allow_unused=True)
    with torch.no_grad():
        for p, a, b in zip(tensors, of_loss, of_penalty):
            p -= LR * (a + PENALTY * (torch.zeros_like(p) if b is None else b))
        network.eval()
        _, features, _ = network(images)
        getattr(network, last).update(features, y)
    buffers = {k: sample(v, 20) for k, v in network.named_buffers() if v.ndim}
    return {
        "images": [count, channels, pixels, pixels], "size": size, "length_scale": length_scale, "classes": classes, "parameters": sorted(state),
        "log_kernels": sample(kernels.log(), 10**6), "norms": sample(norms), "loss": loss.item(), "penalty": penalty.item(),
        "of_loss": directional(with_zeros(parameters, of_loss)), "of_penalty": directional(with_zeros(parameters, of_penalty)), "buffers": buffers,
    }


torch.set_num_threads(2)
golden = {"versions": {"torch": torch.__version__, "numpy": numpy.__version__},
          "momentum": MOMENTUM, "penalty": PENALTY, "lr": LR}
golden["relu"] = record(LeNet(1, 10, 256), "fc3", 84, 0.5, 6, 1, 28, 10)
golden["batch_norm"] = record(WideResNet(10, 1, 3, 10), "fc", 16, 0.1, 5, 3, 12, 4)
relu, F.relu = F.relu, lambda x: F.leaky_relu(x, 0.01)
golden["leaky_relu"] = record(LeNet(1, 10, 256), "fc3", 20, 1.0, 6, 1, 28, 3)
F.relu = relu
path = pathlib.Path(__file__).with_suffix(".json")
path.write_text(json.dumps(golden, separators=(",", ":")).replace('"of_', '\n"of_').replace('"buffers"', '\n"buffers"') + "\n")
