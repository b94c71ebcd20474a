"""Golden values of src/detectors/patchcore.rs, by numpy and PyTorch from the paper's definitions, with all patches in the bank.

    pip install numpy scipy torch; python3 tests/golden/patchcore.py > tests/golden/patchcore.json
"""

import numpy as np
import torch
from stage_maps import TEST, TRAIN, image_scores, maps, numbers, to_grid, write


def patches(of, images, stages, grid, side):
    """(N, P, D): the order is that of anomalib, means and then interpolation."""
    parts = []
    for stage in stages:
        values = torch.from_numpy(maps(images, of)[stage])
        means = torch.nn.functional.avg_pool2d(values, side, 1, side // 2).numpy()
        parts.append(to_grid(means, grid, "bilinear"))
    values = np.concatenate(parts, axis=1)
    return values.reshape(images, values.shape[1], -1).transpose(0, 2, 1)


def case(settings, stages, grid, side=3, smooth=4, score="max", reweight=None):
    bank = patches("train", TRAIN, stages, grid, side).reshape(-1, sum(maps(1, "test")[s].shape[1] for s in stages))
    test = patches("test", TEST, stages, grid, side)
    between = np.linalg.norm(test[:, :, None] - bank[None, None], axis=-1)
    distances = between.min(axis=-1)
    scores = image_scores(distances.reshape(TEST, *grid), smooth, score)
    if reweight:
        for image in range(TEST):
            worst = distances[image].argmax()
            nearest = bank[between[image, worst].argmin()]
            around = np.argsort(np.linalg.norm(bank - nearest, axis=1), kind="stable")[:reweight]
            scores[image] *= 1 - np.exp(distances[image, worst]) / np.exp(between[image, worst][around]).sum()
    return {"settings": settings, "grid": grid, "maps": numbers(distances), "scores": numbers(scores)}


write(
    [
        case("{ coreset: { share: 1 } }", ["b", "c"], (4, 3)),
        case("{ coreset: { share: 1 }, reweight: 9, score: patch }", ["b", "c"], (4, 3), score="patch", reweight=9),
        case(
            "{ stages: [a, b, c], coreset: { share: 1, choose: random }, neighbourhood: 1, score: { top: 0.02 } }",
            ["a", "b", "c"],
            (8, 6),
            side=1,
            score=0.02,
        ),
        case(
            "{ stages: [a, b], grid: b, coreset: { share: 1 }, neighbourhood: 5, smooth: 0, reweight: 3 }",
            ["a", "b"],
            (4, 3),
            side=5,
            smooth=0,
            reweight=3,
        ),
    ]
)
