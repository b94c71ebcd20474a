"""FCDD's enlargement and loss in PyTorch, f64: fcdd.json. Run with torch and scipy (versions in the file).

As `liznerski/fcdd` has them: a transposed convolution with a Gaussian, and the logarithm of a mean."""
import json
import pathlib

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from scipy.signal.windows import gaussian

from pattern import uniform

LEAST = 1e-6


def kernel(field, sigma):
    if field % 2:
        line = gaussian(field, std=sigma)
    else:
        line = gaussian(field - 1, std=sigma)
        middle = (field - 1) // 2
        line = np.insert(line, middle, line[middle]) / 2
    return torch.from_numpy(np.outer(line, line))


def enlarged(maps, size, jump, start, field, sigma):
    """(N, h, w) at `size` rows and columns, the first value about the pixel `start`."""
    pad, even = (field - 1) // 2, 1 - field % 2
    rest = [side - (count - 1) * jump - 1 - even for side, count in zip(size, maps.shape[1:])]
    found = F.conv_transpose2d(maps[:, None], kernel(field, sigma)[None, None], stride=jump, output_padding=rest)
    found = found[:, 0, pad - start:, pad - start:][:, : size[0], : size[1]]
    assert found.shape[1:] == tuple(size)
    return found


def loss(z, anomalous, masks, supervision, shape):
    """`anomalous`: which images are; `masks`: which of their pixels are."""
    distance = (z.pow(2).sum(1) + 1).sqrt() - 1
    away = lambda a: -torch.log(-torch.expm1(-(a + LEAST)))
    if supervision == "image":
        means = distance.flatten(1).mean(1)
        return torch.stack([away(a) if is_anomalous else a for a, is_anomalous in zip(means, anomalous)]).mean()
    full = enlarged(distance, masks.shape[1:], *shape)
    parts = []
    for image, mask in zip(full, masks):
        parts.append((image * (1 - mask)).mean())
        if mask.sum() > 0:
            parts[-1] = parts[-1] + away((image * mask).mean())
    return torch.stack(parts).mean()


maps = []
for name, grid, size, jump, field, sigma in [
    ("as theirs", (4, 4), (32, 32), 8, 62, 12.0),
    ("odd", (5, 3), (20, 12), 4, 9, 1.5),
    ("of one", (6, 6), (6, 6), 1, 5, 1.0),
    ("left over", (4, 5), (15, 19), 4, 12, 2.0),
]:
    values = torch.tensor(uniform(name, 1, *grid))
    full = enlarged(values, size, jump, (jump - 1) // 2, field, sigma)
    maps.append({"grid": grid, "size": size, "sigma": sigma, "field": field, "map": values.flatten().tolist(), "full": full.flatten().tolist()})

N, SIDE, GRID, JUMP, FIELD, SIGMA = 4, 16, 4, 4, 14, 3.0
masks = torch.zeros(N, SIDE, SIDE).double()
masks[2, 3:9, 5:7] = 1
masks[3] = 1
cases = []
for supervision in ["image", "mask"]:
    z = torch.tensor(uniform("z", N, 1, GRID, GRID)) * 2
    z[0] = 0        # a normal image at the origin
    z.requires_grad_()
    value = loss(z, [False, False, True, True], masks, supervision, (JUMP, (JUMP - 1) // 2, FIELD, SIGMA))
    value.backward()
    cases.append({"supervision": supervision, "value": value.item(), "gradient": z.grad.flatten().tolist()})
record = {
    "made_by": f"tests/golden/fcdd.py: torch {torch.__version__}, scipy {scipy.__version__}",
    "maps": maps,
    "loss": {"sigma": SIGMA, "field": FIELD, "side": SIDE, "masks": masks.flatten().int().tolist(), "cases": cases},
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(record) + "\n")
