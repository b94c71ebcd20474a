"""Writes convolution.json: PyTorch's convolutions and transposed convolutions in f64, on the values of pattern.py.

python make_convolution.py   (torch 2.15.0, numpy; any recent version should do)

Cases: N C H W O kh kw, stride, padding and dilation by rows and columns, groups; output padding for transposed ones.
"""

import json
import pathlib

import numpy
import torch
from torch.nn import functional as F

from operations import record, variable

# N C H W O kh kw, stride and padding of both axes; no dilation, one group.
SQUARE = [
    (2, 3, 7, 6, 4, 3, 3, 1, 1), (1, 1, 5, 5, 2, 5, 5, 1, 0), (3, 2, 9, 7, 3, 3, 3, 2, 1), (2, 4, 6, 6, 5, 1, 1, 1, 0),
    (2, 4, 5, 7, 3, 1, 1, 2, 0), (1, 3, 1, 1, 2, 3, 3, 1, 1), (1, 3, 1, 1, 2, 1, 1, 1, 0), (33, 2, 4, 4, 3, 3, 3, 1, 1),
    (2, 1, 28, 28, 6, 5, 5, 1, 0), (2, 2, 8, 9, 2, 2, 3, 3, 2), (2, 2, 11, 10, 2, 7, 7, 2, 3), (1, 2, 2, 3, 2, 3, 3, 2, 1),
    (40, 6, 12, 12, 16, 5, 5, 1, 0), (17, 3, 1, 2, 2, 1, 1, 1, 0), (2, 2, 3, 3, 2, 5, 5, 3, 4),
]
CONVOLUTIONS = [
    *((*case[:7], case[7], case[7], case[8], case[8], 1, 1, 1) for case in SQUARE),
    (2, 4, 7, 6, 6, 3, 3, 1, 1, 1, 1, 1, 1, 2), (2, 6, 9, 8, 6, 3, 3, 1, 1, 1, 1, 1, 1, 6), (2, 5, 11, 9, 5, 5, 5, 2, 2, 2, 2, 1, 1, 5),
    (1, 3, 9, 12, 4, 3, 3, 1, 1, 2, 2, 2, 2, 1), (1, 3, 13, 10, 4, 3, 2, 3, 2, 1, 0, 2, 3, 1), (2, 2, 4, 9, 3, 1, 7, 1, 1, 0, 3, 1, 1, 1),
    (2, 2, 9, 4, 3, 5, 2, 2, 1, 2, 1, 1, 2, 1), (1, 4, 1, 1, 8, 3, 3, 2, 2, 1, 1, 1, 1, 4), (3, 9, 8, 8, 12, 2, 2, 2, 2, 0, 0, 1, 1, 3),
]
TRANSPOSED = [
    (2, 3, 5, 4, 4, 3, 3, 1, 1, 1, 1, 1, 1, 1, 0, 0), (2, 4, 4, 4, 3, 4, 4, 2, 2, 1, 1, 1, 1, 1, 0, 0),
    (2, 4, 3, 5, 6, 3, 3, 2, 2, 1, 1, 1, 1, 2, 1, 1), (1, 2, 4, 3, 2, 2, 3, 3, 2, 0, 1, 1, 2, 1, 2, 1),
    (1, 6, 1, 1, 6, 4, 4, 1, 1, 0, 0, 1, 1, 6, 0, 0),
]


def conv2d(n, c, h, w, o, kh, kw, *rest):
    stride, padding, dilation, groups = rest[0:2], rest[2:4], rest[4:6], rest[6]
    x, weight, bias = variable("x", n, c, h, w), variable("weight", o, c // groups, kh, kw), variable("bias", o)
    return record(F.conv2d(x, weight, bias, stride, padding, dilation, groups), x=x, weight=weight, bias=bias)


def conv_transpose2d(n, c, h, w, o, kh, kw, *rest):
    stride, padding, dilation, groups, more = rest[0:2], rest[2:4], rest[4:6], rest[6], rest[7:9]
    x, weight, bias = variable("x", n, c, h, w), variable("weight", c, o // groups, kh, kw), variable("bias", o)
    y = F.conv_transpose2d(x, weight, bias, stride, padding, more, groups, dilation)
    return record(y, x=x, weight=weight, bias=bias)


def key(case):
    return " ".join(map(str, case))


golden = {
    "versions": {"torch": torch.__version__, "numpy": numpy.__version__},
    "conv2d": {key(case): conv2d(*case) for case in CONVOLUTIONS},
    "conv_transpose2d": {key(case): conv_transpose2d(*case) for case in TRANSPOSED},
}
path = pathlib.Path(__file__).with_name("convolution.json")
text = json.dumps(golden, separators=(",", ":"))
path.write_text(text.replace('},"', '},\n"') + "\n")
