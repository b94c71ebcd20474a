"""Writes ops.json: PyTorch's values and gradients of our operations, in f64, on the values of pattern.py.

python make_ops.py   (torch 2.15.0, numpy; any recent version should do)

Gradients are those of sum(y * toward), where toward is uniform("toward", shape of y).
"""

import json
import pathlib

import numpy
import torch
from torch import nn
from torch.nn import functional as F

from pattern import sample, uniform


def variable(name, *shape):
    return torch.from_numpy(uniform(name, *shape)).requires_grad_()


def record(y, **inputs):
    toward = torch.from_numpy(uniform("toward", *y.shape))
    gradients = torch.autograd.grad((y * toward).sum(), list(inputs.values()))
    return {"shape": list(y.shape), "y": sample(y), **{f"d{k}": sample(g) for k, g in zip(inputs, gradients)}}


def conv2d(n, c, h, w, o, kh, kw, stride, padding):
    x, weight, bias = variable("x", n, c, h, w), variable("weight", o, c, kh, kw), variable("bias", o)
    return record(F.conv2d(x, weight, bias, stride, padding), x=x, weight=weight, bias=bias)


def max_pool2d(n, c, h, w, kernel, stride, padding, ties):
    x = variable("x", n, c, h, w)
    # Rounding to a few levels makes ties, where the choice of the winner shows.
    z = x + ((x * 2).round() / 2 - x).detach() if ties else x
    return record(F.max_pool2d(z, kernel, stride, padding), x=x)


def batch_norm(n, c, h, w, training, relu):
    x, weight, bias = variable("x", n, c, h, w), variable("weight", c), variable("bias", c)
    mean, var = torch.from_numpy(uniform("mean", c)), 1 + 0.5 * torch.from_numpy(uniform("var", c))
    y = F.batch_norm(x, mean, var, weight, bias, training, 0.1, 1e-5)
    return {**record(F.relu(y) if relu else y, x=x, weight=weight, bias=bias), "mean": sample(mean), "var": sample(var)}


def relu(*shape):
    x = variable("x", *shape)
    z = x + ((x * 2).round() / 2 - x).detach()  # many exact zeros
    return record(F.relu(z), x=x)


CONVOLUTIONS = [
    (2, 3, 7, 6, 4, 3, 3, 1, 1), (1, 1, 5, 5, 2, 5, 5, 1, 0), (3, 2, 9, 7, 3, 3, 3, 2, 1), (2, 4, 6, 6, 5, 1, 1, 1, 0),
    (2, 4, 5, 7, 3, 1, 1, 2, 0), (1, 3, 1, 1, 2, 3, 3, 1, 1), (1, 3, 1, 1, 2, 1, 1, 1, 0), (33, 2, 4, 4, 3, 3, 3, 1, 1),
    (2, 1, 28, 28, 6, 5, 5, 1, 0), (2, 2, 8, 9, 2, 2, 3, 3, 2), (2, 2, 11, 10, 2, 7, 7, 2, 3), (1, 2, 2, 3, 2, 3, 3, 2, 1),
    (40, 6, 12, 12, 16, 5, 5, 1, 0), (17, 3, 1, 2, 2, 1, 1, 1, 0), (2, 2, 3, 3, 2, 5, 5, 3, 4),
]
POOLS = [
    (2, 3, 6, 8, 2, 2, 0), (1, 2, 7, 5, 2, 2, 0), (2, 2, 7, 8, 3, 2, 1), (1, 1, 1, 1, 1, 1, 0), (1, 2, 1, 1, 3, 2, 1),
    (2, 1, 9, 9, 3, 1, 1), (1, 1, 5, 6, 2, 3, 0),
]
NORMS = [(4, 3, 5, 6), (2, 1, 1, 1), (1, 2, 7, 3), (5, 4, 1, 2), (8, 2, 8, 8)]

key = lambda case: " ".join(str(int(value)) for value in case)
golden = {
    "versions": {"torch": torch.__version__, "numpy": numpy.__version__},
    "conv2d": {key(case): conv2d(*case) for case in CONVOLUTIONS},
    "max_pool2d": {key(case): max_pool2d(*case) for pool in POOLS for case in [(*pool, False), (*pool, True)]},
    "batch_norm": {
        key(case): batch_norm(*case) for norm in NORMS for case in [(*norm, t, r) for t in (True, False) for r in (True, False)]
    },
    "relu": {key(case): relu(*case) for case in [(3, 5), (2, 3, 4, 5), (1,)]},
}
path = pathlib.Path(__file__).with_name("ops.json")
text = json.dumps(golden, separators=(",", ":"))
path.write_text(text.replace('},"', '},\n"') + "\n")
