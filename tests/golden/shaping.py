"""Reference scores of the detectors that change features, the last layer or feature maps: shaping.json. Run with numpy, scipy, torch,
torchvision and pytorch-ood.

The formulas are those of references.py; pytorch-ood is asserted to agree where it has the same.
"""
import importlib.metadata
import json
import pathlib
from types import SimpleNamespace

import numpy as np
import of_pytorch_ood
import references
import scipy
import torch

rng = np.random.default_rng(0)
f32 = lambda values: values.astype("f4").astype("f8")
DIM, CLASSES = 16, 5
signed = {"train": f32(rng.standard_normal((40, DIM)) * 2), "features": f32(rng.standard_normal((10, DIM)) * 2)}
positive = {name: np.abs(rows) + (rows < -1) for name, rows in signed.items()}
weight, bias = f32(rng.standard_normal((CLASSES, DIM))), f32(rng.standard_normal(CLASSES))
largest_difference = {}


def scores(rows, check):
    """Every detector's scores; `check` compares them with pytorch-ood's."""
    train, z = rows["train"], rows["features"]
    d = SimpleNamespace(weight=weight, bias=bias, train_features=train, features=z, labels=np.zeros(len(train), dtype=int))
    result = {}

    def add(name, theirs=True, **settings):
        full = f"{name}: {{ {', '.join(f'{key}: {value}' for key, value in settings.items())} }}"
        result[full] = expected = getattr(references, name)(d, **settings)
        if theirs and check:
            other = getattr(of_pytorch_ood, name)(d, **(theirs if isinstance(theirs, dict) else settings)).numpy()
            largest_difference[full] = (np.abs(expected - other) / np.maximum(np.abs(expected), 1)).max()

    for percentile in [90, 50]:
        add("react", percentile=percentile)
        add("dice", percentile=percentile)
    for percentile in [90, 65]:
        for variant in "pbs":
            add("ash", variant=variant, percentile=percentile)
        add("scale", percentile=percentile)
    for low, high in [(10, 90), (60, 95)]:
        for below in ["clip", "zero"]:
            add("vra", theirs=False, low=low, high=high, below=below)
        for below in ["clip", "zero"]:
            theirs = below == "clip" and {"low": low, "high": high}
            add("vra", theirs=theirs, low=low, high=high, below=below, thresholds="each")
    for bare, spelt in [("react", "react: { percentile: 90 }"), ("vra", "vra: { low: 10, high: 90, below: clip }"),
                        ("dice", "dice: { percentile: 90 }"), ("ash", "ash: { variant: b, percentile: 90 }")]:
        result[bare] = result[spelt]
    return result


def grams():
    """Two layers, of feature maps and without pixels, of which the second may be negative."""
    images = {"train": 50, "test": 8}
    maps = {name: np.abs(f32(rng.standard_normal((count, 3, 2, 2)))) for name, count in images.items()}
    flat = {name: f32(rng.standard_normal((count, 4))) for name, count in images.items()}
    # No train image is predicted as the last class, and one test image is: the last.
    logits = {name: f32(rng.standard_normal((count, CLASSES)) - 9 * (np.arange(CLASSES) == CLASSES - 1)) for name, count in images.items()}
    logits["test"][-1, -1] = 9
    cases = []
    for powers in [5, 10, 1]:
        d = SimpleNamespace(
            train_taps=[maps["train"], flat["train"]], taps=[maps["test"], flat["test"]],
            train_logits=logits["train"], logits=logits["test"],
        )
        expected = references.gram(d, powers)
        # pytorch-ood refuses classes without train images, so there is one here. The image predicted as its class is not compared.
        d.train_taps = [np.concatenate([rows, rows[:1]]) for rows in d.train_taps]
        d.train_logits = np.concatenate([d.train_logits, 9.0 * (np.arange(CLASSES) == CLASSES - 1)[None]])
        other = of_pytorch_ood.gram(d, powers).numpy()
        largest_difference[f"gram, powers to {powers}"] = (np.abs(expected - other) / np.maximum(expected, 1))[:-1].max()
        cases.append({"detector": f"gram: {{ powers: {powers} }}", "expected": expected})
    cases.append({**cases[0], "detector": "gram"})
    return {"maps": maps, "flat": flat, "logits": logits, "cases": cases}


def numbers(values):
    """f32 values in their shortest form."""
    return [numbers(row) for row in values] if values.ndim > 1 else [float(str(np.float32(value))) for value in values]


last_maps = f32(rng.standard_normal((8, DIM, 3, 2)))
last_maps[:4] = np.abs(last_maps[:4])
last_maps[7] = 0
mapped = SimpleNamespace(weight=weight, bias=bias, taps=[last_maps])
rankfeat = references.rankfeat(mapped)
largest_difference["rankfeat"] = (np.abs(rankfeat - of_pytorch_ood.rankfeat(mapped).numpy()) / np.abs(rankfeat)).max()
gram_case = grams()

record = {
    "made_by": f"tests/golden/shaping.py: numpy {np.__version__}, scipy {scipy.__version__}, torch {torch.__version__}, "
    f"pytorch-ood {importlib.metadata.version('pytorch-ood')}",
    "weight": numbers(weight),
    "bias": numbers(bias),
    "shaped": [
        {"train": numbers(rows["train"]), "features": numbers(rows["features"]), "scores": [
            {"detector": name, "expected": [float(score) for score in expected]}
            for name, expected in scores(rows, check=rows is positive).items()
        ]}
        for rows in [positive, signed]
    ],
    "rankfeat": {"maps": numbers(last_maps.reshape(8, -1)), "expected": rankfeat.tolist()},
    "gram": {
        **{part: {name: numbers(rows.reshape(len(rows), -1)) for name, rows in gram_case[part].items()}
           for part in ["maps", "flat", "logits"]},
        "scores": [{"detector": case["detector"], "expected": case["expected"].tolist()} for case in gram_case["cases"]],
    },
}
for name, difference in largest_difference.items():
    print(f"{name}: {difference:.1e} from pytorch-ood")
    # pytorch-ood's VRA has its thresholds in f32.
    assert difference < (1e-6 if name.startswith("vra") else 1e-12), name
text = json.dumps(record).replace('{"detector"', '\n{"detector"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
