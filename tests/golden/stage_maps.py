"""Of padim.py and patchcore.py: made-up stage maps, and what both methods do with maps of distances."""

import json

import numpy as np
import torch
from pattern import uniform
from scipy.ndimage import gaussian_filter

STAGES = {"a": (3, 8, 6), "b": (4, 4, 3), "c": (2, 3, 2)}
IMAGE = (32, 24)
TRAIN, TEST = 12, 3


def maps(images, of, rounded=4):
    """By stage (N, C, H, W), float64, with few digits, so that the JSON is small and exact. Neighbouring channels go together."""
    result = {}
    for name, shape in STAGES.items():
        values = uniform(f"{of} {name}", images, *shape)
        values = values + 0.7 * np.roll(values, 1, axis=1) + uniform(f"mean {name}", 1, *shape)
        result[name] = np.round(values, rounded)
    return result


def to_grid(values, grid, mode):
    """(N, C, H, W) to (N, C, *grid): averaged where it is larger, `mode` of interpolation where it is smaller."""
    tensor = torch.from_numpy(values)
    if tensor.shape[-2] > grid[0] or tensor.shape[-1] > grid[1]:
        return torch.nn.functional.adaptive_avg_pool2d(tensor, grid).numpy()
    options = {} if mode == "nearest" else {"align_corners": False}
    return torch.nn.functional.interpolate(tensor, size=grid, mode=mode, **options).numpy()


def image_scores(distances, smooth, score):
    """Of (N, rows, columns) maps."""
    scores = []
    for distance in distances:
        full = torch.nn.functional.interpolate(
            torch.from_numpy(distance)[None, None], size=IMAGE, mode="bilinear", align_corners=False
        )[0, 0].numpy()
        full = gaussian_filter(full, sigma=smooth) if smooth else full
        if score == "max":
            scores.append(full.max())
        elif score == "patch":
            scores.append(distance.max())
        else:
            count = int(np.ceil(score * full.size))
            scores.append(np.sort(full.ravel())[-count:].mean())
    return scores


def numbers(array):
    return [float(f"{x:.8g}") for x in np.asarray(array).ravel().tolist()]


def write(cases):
    sets = {
        of: {name: {"shape": values.shape, "values": numbers(values)} for name, values in maps(images, of).items()}
        for of, images in [("train", TRAIN), ("test", TEST)]
    }
    print(json.dumps({"image_size": IMAGE, **sets, "cases": cases}))
