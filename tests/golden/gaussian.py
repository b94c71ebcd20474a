"""One Gaussian of windows, with scikit-learn and pixel by pixel, f64: gaussian.json. Run with numpy and scikit-learn (versions in the file).

A map's cells are as large as the windows' stride; a cell's centre stands for it."""
import json
import pathlib

import numpy as np
import sklearn
from pattern import uniform
from sklearn.covariance import LedoitWolf

SIZE, SIDE, STRIDE, D, TRAIN, TEST = (26, 17), 8, 4, 5, 6, 2
GRID = tuple((pixels - SIDE) // STRIDE + 1 for pixels in SIZE)


def rows(name, images):
    """(N, D, h, w) features as f32 has them, and the rows of all windows at length 1."""
    scales = np.array([2, 1.5, 1, 0.5, 0.25])[:, None, None]
    features = (uniform(name, images, D, *GRID) * scales + 0.25).astype("f4").astype("f8")
    rows = features.transpose(0, 2, 3, 1).reshape(-1, D)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def maps(distances, sigma):
    """Each cell's mean of the windows that cover its centre, weighted by where theirs are."""
    cells = [-(-pixels // STRIDE) for pixels in SIZE]
    map = np.zeros((len(distances), *cells))
    centre = lambda at, pixels: (at * STRIDE + min((at + 1) * STRIDE, pixels) - 1) / 2
    for i, j in np.ndindex(*cells):
        y, x = centre(i, SIZE[0]), centre(j, SIZE[1])
        total = 0
        for a, b in np.ndindex(*GRID):
            # The pixel at the centre, or the one before it.
            covers = lambda at, place: at * STRIDE <= int(place) < at * STRIDE + SIDE
            if covers(a, y) and covers(b, x):
                away = (y - a * STRIDE - (SIDE - 1) / 2) ** 2 + (x - b * STRIDE - (SIDE - 1) / 2) ** 2
                weight = np.exp(-away / (2 * sigma**2))
                map[:, i, j] += weight * distances[:, a, b]
                total += weight
        # What no window covers is left to the Rust test.
        map[:, i, j] /= total if total else np.nan
    return map


model = LedoitWolf().fit(rows("train", TRAIN))
distances = np.sqrt(model.mahalanobis(rows("test", TEST))).reshape(TEST, *GRID)
cases = [{"sigma": sigma, "map": [None if np.isnan(x) else x for x in maps(distances, sigma).ravel()]} for sigma in (2.0, 12.0)]
record = {
    "made_by": f"tests/golden/gaussian.py: numpy {np.__version__}, scikit-learn {sklearn.__version__}",
    "size": SIZE, "side": SIDE, "stride": STRIDE, "grid": GRID, "features": D, "train": TRAIN, "test": TEST,
    "shrinkage": model.shrinkage_, "distances": distances.ravel().tolist(), "cases": cases,
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(record) + "\n")
