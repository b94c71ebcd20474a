"""Patch SVDD in PyTorch and numpy, f64: patch_svdd.json. Run with torch and scipy (versions in the file).

Patch by patch, as `nuclearboy95/Anomaly-Detection-PatchSVDD-PyTorch` goes through an image; with four narrow convolutions in the place of eight, so
that patches have 16 and 32 pixels."""
import json
import pathlib

import numpy as np
import scipy
import torch
import torch.nn.functional as F
from patch_networks import PatchSvdd
from pattern import directional, parameter, sample, uniform
from scipy.spatial.distance import cdist

CHANNELS, FEATURES, HIDDEN, STRIDE = [4, 5, 4], 6, 7, 4
SMALL = 4 * (len(CHANNELS) + 1)

model = PatchSvdd(CHANNELS, FEATURES, HIDDEN).double()
with torch.no_grad():
    for name, value in model.named_parameters():
        value.copy_(torch.from_numpy(parameter(name, *value.shape)).float().double())
images = torch.from_numpy(uniform("patches of", 3, 3, 40, 48))


def windows(embed, side, stride):
    """(N, D, h, w), one by one."""
    places = [range(0, size - side + 1, stride) for size in images.shape[2:]]
    with torch.no_grad():
        seen = [[embed(images[..., y:y + side, x:x + side]) for x in places[1]] for y in places[0]]
    return torch.stack([torch.stack(row, -1) for row in seen], -2)


# Some of the second patches would leave the image.
draws = {
    "large": {"apart": [[[8, 3], [0, 0], 0], [[0, 16], [8, 16], 6], [[2, 5], [2, 16], 4]], "near": [[[1, 2], [2, 2]], [[8, 0], [7, 1]], [[0, 9], [0, 10]]]},
    "small": {"apart": [[[20, 3], [5, 16], 2], [[9, 9], [9, 23], 4], [[24, 30], [11, 30], 1]], "near": [[[1, 2], [1, 1]], [[24, 0], [23, 1]], [[5, 5], [5, 5]]]},
}
position = svdd = 0
learned = {}
for name, side in [("large", 2 * SMALL), ("small", SMALL)]:
    embed, classify = getattr(model, name), getattr(model, f"cls_{name}")
    cut = lambda corners: torch.stack([image[:, y:y + side, x:x + side] for image, (y, x) in zip(images, corners)])
    noise = [torch.from_numpy((0.1 * uniform(f"noise {name} {at}", 3, 3, side, side)).astype("f4").astype("f8")) for at in (0, 1)]
    first, second, direction = zip(*draws[name]["apart"])
    logits = classify(embed(cut(first) + noise[0]), embed(cut(second) + noise[1]))
    near = [embed(cut(corners)) for corners in zip(*draws[name]["near"])]
    position = position + F.cross_entropy(logits, torch.tensor(direction))
    svdd = svdd + (near[0] - near[1]).norm(dim=1).mean()
    learned[name] = {**draws[name], "logits": logits.flatten().tolist(), "first": sample(near[0]), "second": sample(near[1])}
(position + 0.5 * svdd).backward()
gradients = [(name, value.grad) for name, value in model.named_parameters() if value.grad is not None]
assert {name for name, _ in model.named_parameters()} - {name for name, _ in gradients} == {"cls_large.fc3.weight", "cls_small.fc3.weight"}


def distributed(values, size, side, stride):
    """The mean of the windows that cover a pixel."""
    total, count = np.zeros(size), np.zeros(size)
    for (i, j), value in np.ndenumerate(values):
        place = (slice(i * stride, i * stride + side), slice(j * stride, j * stride + side))
        total[place] += value
        count[place] += 1
    assert count.min() > 0
    return total / count


SIZE, TRAIN, TEST = (48, 64), 4, 2
maps = {}
for name, side, stride in [("large", 2 * SMALL, 4 * STRIDE), ("small", SMALL, STRIDE)]:
    grid = [(pixels - side) // stride + 1 for pixels in SIZE]
    rows = {of: uniform(f"{of} {name}", images, FEATURES, *grid).astype("f4").astype("f8").transpose(0, 2, 3, 1) for of, images in [("train", TRAIN), ("test", TEST)]}
    nearest = cdist(rows["test"].reshape(-1, FEATURES), rows["train"].reshape(-1, FEATURES)).min(1).reshape(TEST, *grid)
    full = np.stack([distributed(values, SIZE, side, stride) for values in nearest])
    cells = full[:, ::STRIDE, ::STRIDE]
    assert (full == cells.repeat(STRIDE, 1).repeat(STRIDE, 2)).all()
    maps[name] = cells
cases = [(f"combine: {name}", combine(maps["large"], maps["small"])) for name, combine in [("product", np.multiply), ("sum", np.add)]]
cases += [(f"windows: [{name}]", maps[name]) for name in maps]
record = {
    "made_by": f"tests/golden/patch_svdd.py: torch {torch.__version__}, scipy {scipy.__version__}",
    "large": sample(windows(model.large, 2 * SMALL, 4 * STRIDE)),
    "small": sample(windows(model.small, SMALL, STRIDE)),
    "draws": learned, "position": position.item(), "svdd": svdd.item(), "gradients": directional(gradients),
    "detector": {
        "size": SIZE, "train": TRAIN, "test": TEST, "features": FEATURES, "side": SMALL, "stride": STRIDE,
        "cases": [{"settings": settings, "maps": map.ravel().tolist(), "scores": map.max((1, 2)).tolist()} for settings, map in cases],
    },
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(record) + "\n")
