"""Writes uncertainty.json: networks with bounded spectral norms, DDU's densities and SNGP's variances, by PyTorch, numpy and scipy.

python uncertainty.py   (torch 2.15.0, numpy, scipy; any recent versions should do)
"""

import json
import pathlib
import types

import numpy as np
import references
import scipy.special
import scipy.stats
import torch
import torch_networks
from pattern import directional, parameter, sample, uniform
from torch import nn
from torch.nn import functional as F

torch_networks.F = types.SimpleNamespace(**{**vars(F), "relu": lambda x: F.leaky_relu(x, 0.01)})


def unit(x):
    return x / x.norm().clamp_min(1e-12)


class Bounded(nn.Module):
    """A convolution (on images of `size`) or linear layer, W / (max(1, sigma/c) + eps), after DDU's spectral_norm_conv_inplace."""

    def __init__(self, layer, coefficient, size):
        super().__init__()
        self.weight, self.bias, self.coefficient = layer.weight, layer.bias, coefficient
        conv = isinstance(layer, nn.Conv2d)
        self.convolution = dict(stride=layer.stride, padding=layer.padding) if conv else None
        self.true = conv and layer.kernel_size != (1, 1)
        self.input = (1, layer.weight.shape[1], *size) if self.true else None
        inputs = int(np.prod(self.input)) if self.true else layer.weight[0].numel()
        probe = F.conv2d(torch.zeros(self.input), layer.weight, **self.convolution) if self.true else None
        self.output = probe.shape if self.true else None
        self.register_buffer("weight_u", torch.zeros(probe.numel() if self.true else layer.weight.shape[0]))
        self.register_buffer("weight_v", torch.zeros(inputs))

    def apply_map(self, v):
        if self.true:
            return F.conv2d(v.view(self.input), self.weight, **self.convolution).flatten()
        return self.weight.flatten(1) @ v

    def transposed(self, u):
        if self.true:
            grad = torch.nn.grad.conv2d_input(self.input, self.weight, u.view(self.output), **self.convolution)
            return grad.flatten()
        return self.weight.flatten(1).T @ u

    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.weight_v = unit(self.transposed(self.weight_u))
                self.weight_u = unit(self.apply_map(self.weight_v))
        sigma = self.weight_u @ self.apply_map(self.weight_v)
        factor = torch.maximum(torch.ones(()).double(), sigma / self.coefficient) + (1e-5 if self.true else 0.0)
        if self.convolution is None:
            return F.linear(x, self.weight / factor, self.bias)
        return F.conv2d(x, self.weight / factor, self.bias, **self.convolution)


def bounded(network, coefficient, images, last):
    """Every convolution and linear layer but the last, with the size that its input has."""
    sizes, hooks = {}, []
    layers = {n: m for n, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear)) and n != last}
    for name, layer in layers.items():
        hooks.append(layer.register_forward_hook(lambda _, x, y, name=name: sizes.update({name: x[0].shape[2:]})))
    network(images.float())
    for hook in hooks:
        hook.remove()
    for name, layer in layers.items():
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, Bounded(layer, coefficient, sizes[name]))
    return network


class AveragePoolBlock(torch_networks.WideBlock):
    """The shortcut of DDU's `mod` networks."""

    def forward(self, x):
        act = torch_networks.F.relu
        residual = self.conv2(act(self.bn2(self.conv1(act(self.bn1(x))))))
        stride = x.shape[2] // residual.shape[2] if x.shape[2] % 2 == 0 else (x.shape[2] + 1) // residual.shape[2]
        pooled = F.avg_pool2d(x, 1 if x.shape[2] % 2 else stride, stride)
        zeros = torch.zeros(len(x), residual.shape[1] - x.shape[1], *residual.shape[2:], dtype=x.dtype)
        return residual + torch.cat([pooled, zeros], 1)


class SngpHead(nn.Module):
    def __init__(self, features, reduction, count, classes, feature_scale):
        super().__init__()
        self.register_buffer("random_projection", torch.zeros(reduction, features))
        self.register_buffer("random_weight", torch.zeros(count, reduction))
        self.register_buffer("random_phase", torch.zeros(count))
        self.norm, self.beta = nn.LayerNorm(reduction), nn.Parameter(torch.zeros(classes, count))
        self.feature_scale = feature_scale

    def forward(self, x):
        self.phi = torch.cos(self.norm(x @ self.random_projection.T) @ self.random_weight.T + self.random_phase)
        return self.phi / self.feature_scale @ self.beta.T


class T2fnormHead(nn.Linear):
    def forward(self, x):
        return super().forward((F.normalize(x, dim=-1) if self.training else x) / 0.1)


class ElogitnormHead(nn.Linear):
    """All differences between the classes' weights, as the reference has them."""

    def forward(self, x):
        logits = super().forward(x)
        if not self.training:
            return logits
        apart = (self.weight[:, None] - self.weight[None]).norm(dim=2) + torch.eye(len(self.weight)).double()
        largest, place = logits.max(1)
        return logits / ((logits - largest[:, None]).abs() / apart[place]).mean(1, keepdim=True)


def record(network, images, labels):
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    network.double()
    network.load_state_dict({k: torch.from_numpy(parameter(k, *v.shape)).float() for k, v in state.items()}, strict=False)
    result = {"images": list(images.shape), "parameters": sorted(state)}
    for mode in ["eval", "train", "after"]:
        network.train(mode == "train")
        logits, features, _ = network(images)
        features = network.fc3.phi if isinstance(getattr(network, "fc3", None), SngpHead) else features
        result[mode] = {"logits": sample(logits, 10**6), "features": sample(features)}
        if mode == "train":
            loss = F.cross_entropy(logits, labels)
    loss.backward()
    result["gradients"] = directional([(name, p.grad) for name, p in network.named_parameters()])
    result["buffers"] = {name: sample(b, 2) for name, b in network.named_buffers() if b.ndim}
    return result


def images(count, channels, size):
    return torch.from_numpy(uniform("images", count, channels, size, size)).float().double() * 1.5


def networks():
    lenet = bounded(torch_networks.LeNet(1, 10, 256), 0.8, images(2, 1, 28), "fc3")
    yield "lenet", lenet, images(3, 1, 28)
    sngp = bounded(torch_networks.LeNet(1, 10, 256), 3.0, images(2, 1, 28), "fc3")
    sngp.fc3 = SngpHead(84, 16, 40, 10, 4.0)
    yield "lenet sngp", sngp, images(3, 1, 28)
    for name, head in [("t2fnorm", T2fnormHead), ("elogitnorm", ElogitnormHead)]:
        other = bounded(torch_networks.LeNet(1, 10, 256), 0.8, images(2, 1, 28), "fc3")
        other.fc3 = head(84, 10)
        yield f"lenet {name}", other, images(3, 1, 28)
    plain = bounded(torch_networks.WideResNet(10, 2, 3, 7), 0.8, images(2, 3, 18), "fc")
    yield "wide_resnet", plain, images(3, 3, 18)
    pooled = torch_networks.WideResNet(10, 2, 3, 7)
    for module in pooled.modules():
        if isinstance(module, torch_networks.WideBlock):
            module.__class__ = AveragePoolBlock
            if hasattr(module, "convShortcut"):
                del module.convShortcut
    yield "wide_resnet average_pool", bounded(pooled, 0.8, images(2, 3, 18), "fc"), images(3, 3, 18)
    yield "resnet18_32x32", bounded(torch_networks.ResNet18(3, 5), 0.8, images(2, 3, 9), "fc"), images(3, 3, 9)


def singular_values():
    """Of convolutions on small images, by SVD of their matrices."""
    for inputs, outputs, kernel, stride, padding, height, width in [(2, 3, 3, 1, 1, 5, 6), (3, 2, 3, 2, 1, 6, 7), (2, 4, 5, 1, 0, 7, 6), (4, 3, 1, 2, 0, 5, 5)]:
        weight = torch.from_numpy(parameter("conv.weight", outputs, inputs, kernel, kernel))
        basis = torch.eye(inputs * height * width).double().view(-1, inputs, height, width)
        matrix = F.conv2d(basis, weight, stride=stride, padding=padding).flatten(1).numpy()
        yield dict(channels=[inputs, outputs], kernel=kernel, stride=stride, padding=padding, size=[height, width], sigma=float(np.linalg.svd(matrix, compute_uv=False)[0]))


def ddu():
    labels = np.repeat([0, 1, 3, 4], [14, 11, 1, 9])
    centres = 2 * uniform("centres", 5, 4)
    train = (uniform("train", len(labels), 4) @ (np.eye(4) + 0.5 * uniform("mix", 4, 4)) + centres[labels]).astype(np.float32)
    test = (2.5 * uniform("test", 6, 4)).astype(np.float32)
    for name, dead in [("regular", False), ("a dead feature", True)]:
        x, z = train.astype(float).copy(), test.astype(float)
        if dead:
            x[labels == 1, 2] = 0.25
        classes = [0, 1, 4]
        scale = np.mean([np.trace(np.cov(x[labels == c].T)) / 4 for c in classes])
        jitter = 1e-12 * scale if dead else 0.0
        densities = [scipy.stats.multivariate_normal(x[labels == c].mean(0), np.cov(x[labels == c].T) + jitter * np.eye(4), allow_singular=False).logpdf(z) for c in classes] if not dead else [references.log_normal(x[labels == c], z, jitter) for c in classes]
        yield dict(name=name, train=x.tolist(), labels=labels.tolist(), test=z.tolist(), jitter=jitter, left_out=[3], log_densities=scipy.special.logsumexp(densities, 0).tolist())


def sngp():
    train, test = [np.cos(6 * uniform(n, c, 5)).astype(np.float32).astype(float) for n, c in [("phi train", 30), ("phi test", 6)]]
    logits = (4 * uniform("phi logits", 6, 3)).astype(np.float32).astype(float)
    for ridge, factor in [(1.0, 25.0), (0.1, 2.0)]:
        d = types.SimpleNamespace(features=test, train_features=train, logits=logits)
        variances = references.sngp_variances(d, ridge)
        entropy, evidence = (references.sngp(d, ridge, factor, uncertainty) for uncertainty in ["entropy", "dempster_shafer"])
        yield dict(ridge=ridge, mean_field=factor, train=train.tolist(), test=test.tolist(), logits=logits.tolist(), variances=variances.tolist(), entropy=entropy.tolist(), dempster_shafer=evidence.tolist())


torch.manual_seed(0)
golden = {"versions": {"torch": torch.__version__, "numpy": np.__version__, "scipy": scipy.__version__}}
golden["networks"] = {name: record(network, x, torch.arange(len(x)) % 5) for name, network, x in networks()}
golden.update(singular_values=list(singular_values()), ddu=list(ddu()), sngp=list(sngp()))
text = json.dumps(golden, separators=(",", ":")).replace('"eval"', '\n"eval"').replace('"train":', '\n"train":')
pathlib.Path(__file__).with_name("uncertainty.json").write_text(text + "\n")
