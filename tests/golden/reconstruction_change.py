"""Reference scores of a detector that reads two networks: reconstruction_change.json.

Run with numpy, scipy and mpmath. The network is one hidden layer, the maker a matrix, and pattern.py makes their weights. They are
normalised by other means and deviations. Made pixels leave 0..1 in places. What the program reads as f32 (logits and features) is
rounded here too.
"""

import json
import pathlib

import numpy as np
import references
from pattern import uniform

CHANNELS, SIDE, FEATURES, CLASSES, IMAGES = 3, 2, 5, 4, 6
NETWORK = {"mean": [0.5, 0.4375, 0.375], "std": [0.25, 0.1875, 0.3125]}
MAKER = {"mean": [0.25, 0.5, 0.625], "std": [0.5, 0.125, 0.25]}

f32 = lambda x: x.astype("f4").astype("f8")
size = CHANNELS * SIDE * SIDE
pixels = f32((uniform("pixels", IMAGES, CHANNELS, SIDE, SIDE) + 1) / 2)
column = lambda values: np.array(values)[:, None, None]
normalised = lambda x, by: (x - column(by["mean"])) / column(by["std"])
plain = lambda x, by: x * column(by["std"]) + column(by["mean"])


def network(x):
    features = np.maximum(x.reshape(IMAGES, size) @ uniform("hidden", FEATURES, size).T, 0)
    return f32(features), f32(features @ uniform("last", CLASSES, FEATURES).T)


made = normalised(pixels, MAKER).reshape(IMAGES, size) @ (np.eye(size) + 0.1 * uniform("maker", size, size)).T
made = plain(made.reshape(pixels.shape), MAKER)
outside = (made < 0) | (made > 1)
assert 0 < outside.mean() < 0.5, outside.mean()
before, after = network(normalised(pixels, NETWORK)), network(normalised(made.clip(0, 1), NETWORK))
scores = []
for of in ["logits", "softmax", "features"]:
    for norm in ["l1", "l2"]:
        for unit in [True, False]:
            answers = [answer[of != "features"] for answer in (before, after)]
            settings = f"reconstruction_change: {{ of: {of}, norm: {norm}, unit: {str(unit).lower()} }}"
            expected = references.reconstruction_change(*answers, of=of, norm=norm, unit=unit)
            scores.append({"detector": settings, "expected": expected.tolist()})
record = {"made_by": f"tests/golden/reconstruction_change.py: numpy {np.__version__}", "network": NETWORK, "maker": MAKER, "scores": scores}
text = json.dumps(record).replace('{"detector"', '\n{"detector"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
