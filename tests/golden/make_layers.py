"""Writes layers.json: PyTorch's values and gradients of our operations other than convolution, in f64, on the values of
pattern.py.

python make_layers.py   (torch 2.15.0, numpy; any recent version should do)

Gradients are those of sum(y * toward), where toward is uniform("toward", shape of y).
"""

import json
import pathlib

import numpy
import torch
from torch.nn import functional as F

from operations import record, variable
from pattern import uniform


def stepped(name, *shape):
    """Rounded to halves: many zeros, corners and ties."""
    x = variable(name, *shape)
    return x, x + ((x * 2).round() / 2 - x).detach()


ACTIVATIONS = [lambda x: x, F.relu, lambda x: F.leaky_relu(x, 0.1), F.relu6]


def activation(kind, *shape):
    x, z = stepped("x", *shape)
    return record(ACTIVATIONS[kind](8 * z), x=x)


def smooth(kind, *shape):
    x = variable("x", *shape)
    return record([F.silu, F.gelu, lambda x: F.softmax(x, -1)][kind](5 * x), x=x)


def add(kind, *shape):
    (a, rounded), b = stepped("a", *shape), variable("b", *shape)
    return record(ACTIVATIONS[kind](8 * rounded + b), a=a, b=b)


def batch_norm(n, c, h, w, training, kind):
    x, weight, bias = variable("x", n, c, h, w), variable("weight", c), variable("bias", c)
    mean, var = torch.from_numpy(uniform("mean", c)), 1 + 0.5 * torch.from_numpy(uniform("var", c))
    y = F.batch_norm(x, mean, var, 9 * weight, bias, bool(training), 0.1, 1e-5)
    return record(ACTIVATIONS[kind](y), x=x, weight=weight, bias=bias)


def group_norm(n, c, h, w, groups, silu):
    x, weight, bias = variable("x", n, c, h, w), variable("weight", c), variable("bias", c)
    y = F.group_norm(x, groups, weight, bias, 1e-5)
    return record(F.silu(y) if silu else y, x=x, weight=weight, bias=bias)


def max_pool2d(n, c, h, w, kh, kw, sh, sw, ph, pw, ceil, ties):
    x, z = stepped("x", n, c, h, w)
    return record(F.max_pool2d(z if ties else x, (kh, kw), (sh, sw), (ph, pw), ceil_mode=bool(ceil)), x=x)


def avg_pool2d(n, c, h, w, kh, kw, sh, sw, ph, pw, ceil, count):
    x = variable("x", n, c, h, w)
    return record(F.avg_pool2d(x, (kh, kw), (sh, sw), (ph, pw), bool(ceil), bool(count)), x=x)


def resize(n, c, h, w, to_h, to_w, kind):
    x = variable("x", n, c, h, w)
    mode = [dict(mode="nearest"), dict(mode="bilinear"), dict(mode="bilinear", align_corners=True)][kind]
    return record(F.interpolate(x, (to_h, to_w), **mode), x=x)


def cross_entropy(n, k, percent):
    x = variable("x", n, k)
    labels = torch.arange(n) * 7 % k
    return record(F.cross_entropy(5 * x, labels, label_smoothing=percent / 100), x=x)


def linear(n, i, o):
    x, weight, bias = variable("x", n, i), variable("weight", o, i), variable("bias", o)
    return record(F.linear(x, weight, bias), x=x, weight=weight, bias=bias)


SHAPES = [(3, 5), (2, 3, 4, 5), (1,)]
NORMS = [(4, 3, 5, 6), (2, 1, 1, 1), (1, 2, 7, 3), (5, 4, 1, 2), (2, 2, 40, 30)]
#           n c h w   kh kw sh sw ph pw
POOLS = [
    (2, 3, 6, 8, 2, 2, 2, 2, 0, 0), (1, 2, 7, 5, 2, 2, 2, 2, 0, 0), (2, 2, 7, 8, 3, 3, 2, 2, 1, 1),
    (1, 1, 1, 1, 1, 1, 1, 1, 0, 0), (1, 2, 1, 1, 3, 3, 2, 2, 1, 1), (2, 1, 9, 9, 3, 3, 1, 1, 1, 1),
    (1, 1, 5, 6, 2, 2, 3, 3, 0, 0), (2, 2, 9, 11, 3, 2, 2, 3, 1, 0), (1, 2, 8, 7, 5, 4, 3, 1, 2, 2), (1, 1, 6, 6, 4, 4, 4, 4, 2, 2),
]
RESIZES = [
    (2, 2, 4, 5, 8, 10), (1, 2, 1, 1, 3, 4), (1, 1, 5, 4, 1, 1), (2, 1, 7, 6, 4, 3), (1, 3, 5, 7, 12, 9), (1, 1, 3, 3, 3, 3),
    (1, 1, 2, 9, 7, 2),
]

key = lambda case: " ".join(str(int(value)) for value in case)
cases = lambda f, cases: {key(case): f(*case) for case in cases}
golden = {
    "versions": {"torch": torch.__version__, "numpy": numpy.__version__},
    "activation": cases(activation, [(kind, *shape) for kind in (1, 2, 3) for shape in SHAPES]),
    "smooth": cases(smooth, [(kind, *shape) for kind in (0, 1, 2) for shape in SHAPES]),
    "add": cases(add, [(kind, *shape) for kind in range(4) for shape in SHAPES]),
    "batch_norm": cases(batch_norm, [
        (*norm, training, kind) for norm in NORMS for training, kind in [(1, 0), (1, 1), (1, 2), (1, 3), (0, 0), (0, 1), (0, 3)]
    ]),
    "group_norm": cases(group_norm, [
        (*norm, groups, silu) for norm in NORMS[:1] + NORMS[2:] + [(2, 6, 3, 3), (1, 4, 1, 1)] for groups in (1, 2, 3, 4)
        if norm[1] % groups == 0 and norm[1] // groups * norm[2] * norm[3] > 1 for silu in (0, 1)
    ]),
    "max_pool2d": cases(max_pool2d, [(*pool, ceil, ties) for pool in POOLS for ceil in (0, 1) for ties in (0, 1)]),
    "avg_pool2d": cases(avg_pool2d, [(*pool, ceil, count) for pool in POOLS for ceil in (0, 1) for count in (0, 1)]),
    "resize": cases(resize, [(*case, kind) for case in RESIZES for kind in (0, 1, 2)]),
    # Sizes of one, below, at and above the rows that one of our tasks computes.
    "linear": cases(linear, [(1, 1, 1), (3, 5, 2), (32, 7, 32), (33, 4, 65), (70, 40, 33), (2, 256, 120)]),
    "cross_entropy": cases(cross_entropy, [(n, k, s) for n, k in [(1, 1), (5, 3), (4, 40)] for s in (0, 10, 100)]),
}
path = pathlib.Path(__file__).with_name("layers.json")
text = json.dumps(golden, separators=(",", ":"))
path.write_text(text.replace('},"', '},\n"') + "\n")
