"""Pieces of the makers of pseudo-anomalies, by numpy, scipy, scikit-image and Pillow: pseudo.json.

- turned: Pillow's rotate(expand=True) of a strip, and the alpha channel that goes with it.
- confetti: FCDD's squares by numpy, turned by scikit-image (order 0), blurred by scipy with PyTorch's `reflect` (scipy's `mirror`).
  Squares are away from the border, where FCDD's code turns windows about another point.
- perlin: DRAEM's formula (perlin.py, rand_perlin_2d_np) with given angles.
- poisson: Poisson's equation by a sparse direct solver.
"""
import json
import pathlib

import numpy as np
import PIL
import scipy
import scipy.ndimage
import scipy.sparse
import scipy.sparse.linalg
import skimage
from PIL import Image
from skimage.transform import rotate

rng = np.random.default_rng(18)


def turned():
    cases = []
    for height, width in [(10, 2), (25, 16), (17, 7), (3, 9), (1, 1)]:
        for degrees in [0, -45, 45, 12.3, -33.7, 101.4]:
            array = rng.integers(0, 256, (height, width), dtype=np.uint8)
            patch = Image.fromarray(array).convert("RGBA").rotate(degrees, expand=True)
            grey, alpha = np.asarray(patch)[..., 0], np.asarray(patch)[..., 3]
            cases.append({
                "image": array.ravel().tolist(), "shape": [height, width], "degrees": degrees,
                "sides": list(grey.shape), "expected": grey.ravel().tolist(), "alpha": (alpha == 255).ravel().tolist(),
            })
    return cases


def layer(blobs, shape, channels):
    """FCDD's confetti_noise for given squares: painted by size, turned one after the other."""
    res = np.zeros((channels, *shape), dtype=np.int64)
    for blob in sorted(blobs, key=lambda blob: blob["side"]):
        s, (y, x) = blob["side"], blob["centre"]
        first = -(s // 2) if s % 2 else -(s // 2) + 1
        res[:, y + first : y + s // 2 + 1, x + first : x + s // 2 + 1] = np.array(blob["colour"])[:, None, None]
    for blob in blobs:
        s, (y, x) = blob["side"], blob["centre"]
        low, high = int(np.floor(0.75 * s)), int(np.ceil(0.75 * s))
        window = (slice(y - low, y + high), slice(x - low, x + high))
        for channel in range(channels):
            part = res[channel][window].astype(np.float64)
            res[channel][window] = rotate(part, blob["degrees"], order=0, cval=0, center=(low, low), clip=False)
    return res


def confetti():
    cases = []
    for shape, kernel, sigma, coloured, black in [
        ((3, 48, 60), 9, 2.0, [(20, 20, 12), (20, 40, 9)], [(25, 30, 11)]),
        ((3, 64, 64), 25, 5.0, [(20, 22, 15), (30, 30, 22), (30, 44, 22)], [(22, 22, 8)]),
        ((1, 40, 40), 5, 1.3, [(15, 15, 10), (24, 26, 10)], [(20, 20, 7), (30, 10, 6)]),
        ((1, 30, 30), 1, 1.0, [(15, 15, 8)], [(10, 18, 9)]),
        ((3, 40, 52), 25, 5.0, [(12, 12, 14)], [(26, 39, 16)]),
    ]:
        channels = shape[0]
        blobs = {}
        for key, given in [("coloured", coloured), ("black", black)]:
            colours = {s: rng.integers(-256, 0, channels).tolist() for *_, s in given}
            # In the order of their centres, as FCDD's mask has them.
            blobs[key] = [{
                "centre": [y, x], "side": s, "degrees": float(rng.uniform(-45, 45)),
                "colour": colours[s] if key == "coloured" else [-255],
            } for y, x, s in sorted(given)]
        drawn = layer(blobs["coloured"], shape[1:], channels) + layer(blobs["black"], shape[1:], 1)
        at = np.arange(kernel) - kernel // 2
        weights = np.exp(-(at**2) / (2 * sigma**2))
        weights /= weights.sum()
        blurred = drawn.astype(np.float64)
        for axis in (1, 2):
            blurred = scipy.ndimage.correlate1d(blurred, weights, axis=axis, mode="mirror")
        cases.append({
            "shape": shape, "kernel": kernel, "sigma": sigma, **blobs,
            "drawn": drawn.ravel().tolist(), "blurred": [value or 0 for value in np.round(blurred, 2).ravel().tolist()],
        })
    return cases


def perlin():
    cases = []
    for cells, sides in [((1, 1), (16, 16)), ((2, 4), (16, 16)), ((4, 1), (12, 20)), ((8, 8), (24, 24))]:
        angles = 2 * np.pi * rng.random((cells[0] + 1, cells[1] + 1))
        gradients = np.stack((np.cos(angles), np.sin(angles)), axis=-1)
        delta = (cells[0] / sides[0], cells[1] / sides[1])
        d = (sides[0] // cells[0], sides[1] // cells[1])
        grid = np.mgrid[0 : cells[0] : delta[0], 0 : cells[1] : delta[1]].transpose(1, 2, 0) % 1

        def ramp(down, right):
            corners = gradients[down : cells[0] + down, right : cells[1] + right]
            corners = corners.repeat(d[0], axis=0).repeat(d[1], axis=1)
            return ((grid - np.array([down, right])) * corners).sum(axis=-1)

        t = 6 * grid**5 - 15 * grid**4 + 10 * grid**3
        left = ramp(0, 0) + (ramp(1, 0) - ramp(0, 0)) * t[..., 0]
        right = ramp(0, 1) + (ramp(1, 1) - ramp(0, 1)) * t[..., 0]
        noise = np.sqrt(2) * (left + (right - left) * t[..., 1])
        cases.append({
            "cells": cells, "sides": sides, "angles": angles.ravel().tolist(), "expected": np.round(noise, 13).ravel().tolist(),
        })
    return cases


def poisson():
    cases = []
    for (rows, columns), mixed in [((3, 3), False), ((3, 7), True), ((9, 6), False), ((9, 6), True), ((24, 31), False),
                                   ((24, 31), True)]:
        under, patch = rng.integers(0, 256, (2, rows, columns)).astype(np.float64)
        inside = [(y, x) for y in range(1, rows - 1) for x in range(1, columns - 1)]
        index = {place: at for at, place in enumerate(inside)}
        matrix = scipy.sparse.lil_matrix((len(inside), len(inside)))
        right = np.zeros(len(inside))
        for (y, x), at in index.items():
            matrix[at, at] = 4
            for other in [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]:
                ours, theirs = under[y, x] - under[other], patch[y, x] - patch[other]
                right[at] += ours if mixed and abs(ours) > abs(theirs) else theirs
                if other in index:
                    matrix[at, index[other]] = -1
                else:
                    right[at] += under[other]
        made = under.copy()
        for value, (y, x) in zip(scipy.sparse.linalg.spsolve(matrix.tocsc(), right), inside):
            made[y, x] = value
        cases.append({
            "sides": [rows, columns], "mixed": mixed, "under": under.ravel().tolist(), "patch": patch.ravel().tolist(),
            "expected": np.round(made, 10).ravel().tolist(),
        })
    return cases


golden = {
    "versions": {
        "numpy": np.__version__, "scipy": scipy.__version__, "scikit-image": skimage.__version__, "pillow": PIL.__version__,
    },
    "turned": turned(), "confetti": confetti(), "perlin": perlin(), "poisson": poisson(),
}
path = pathlib.Path(__file__).with_suffix(".json")
path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
