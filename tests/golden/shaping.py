"""Reference scores of the detectors that change features, the last layer or feature maps: shaping.json. Run with numpy, scipy, torch,
torchvision and pytorch-ood.

The formulas are written out with numpy in f64; pytorch-ood is asserted to agree where it has the same.
"""
import importlib.metadata
import json
import pathlib

import numpy as np
import scipy
import torch
from pytorch_ood.detector import ASH, DICE, SCALE, ReAct
from scipy.special import logsumexp

rng = np.random.default_rng(0)
f32 = lambda values: values.astype("f4").astype("f8")
DIM, CLASSES = 16, 5
signed = {"train": f32(rng.standard_normal((40, DIM)) * 2), "features": f32(rng.standard_normal((10, DIM)) * 2)}
positive = {name: np.abs(rows) + (rows < -1) for name, rows in signed.items()}
weight, bias = f32(rng.standard_normal((CLASSES, DIM))), f32(rng.standard_normal(CLASSES))
largest_difference = {}


def energy(features, weight=weight):
    return -logsumexp(features @ weight.T + bias, axis=1)


def kept(features, percent):
    """1 for the features that ASH keeps."""
    count = features.shape[1]
    order = np.argsort(-features, axis=1, kind="stable")[:, : max(count - int(np.round(count * percent / 100)), 1)]
    mask = np.zeros_like(features)
    np.put_along_axis(mask, order, 1, axis=1)
    return mask


def sharpening(features, percent):
    above = np.maximum(features, 0)
    return np.exp(above.sum(axis=1) / (above * kept(features, percent)).sum(axis=1))[:, None]


def scores(rows, check):
    """Every detector's scores; `check` compares them with pytorch-ood's."""
    train, z = rows["train"], rows["features"]
    tensor, head = torch.tensor(z), lambda z: z.flatten(1) @ torch.tensor(weight).T + torch.tensor(bias)
    maps = tensor[:, :, None, None]
    result = {}

    def add(name, expected, other=None):
        result[name] = expected
        if other is not None and check:
            relative = np.abs(expected - other.numpy()) / np.maximum(np.abs(expected), 1)
            largest_difference[name] = relative.max()

    for percent in [90, 50]:
        react = ReAct(None, head, percentile=percent / 100).fit_feature_maps(torch.tensor(train), torch.zeros(len(train), dtype=int))
        expected = energy(np.minimum(z, np.percentile(train, percent)))
        add(f"react: {{ percentile: {percent} }}", expected, react.predict_feature_maps(tensor))
        dice = DICE(None, torch.tensor(weight), torch.tensor(bias), percent / 100)
        dice.fit_features(torch.tensor(train), torch.zeros(len(train), dtype=int))
        contribution = weight * train.mean(axis=0)
        masked = np.where(contribution > np.percentile(contribution, percent), weight, 0)
        add(f"dice: {{ percentile: {percent} }}", energy(z, masked), dice.predict_features(tensor))
    for percent in [90, 65]:
        mask = kept(z, percent)
        count = mask[0].sum()
        shaped = {
            "p": z * mask,
            "b": mask * z.sum(axis=1, keepdims=True) / count,
            "s": z * mask * sharpening(z, percent),
        }
        for variant, rows in shaped.items():
            ash = ASH(None, head, variant=f"ash-{variant}", percentile=percent / 100)
            name = f"ash: {{ variant: {variant}, percentile: {percent} }}"
            add(name, energy(rows), ash.predict_feature_maps(maps))
        other = SCALE(None, head, percentile=percent / 100).predict_feature_maps(maps)
        add(f"scale: {{ percentile: {percent} }}", energy(z * sharpening(z, percent)), other)
    for low, high in [(10, 90), (60, 95)]:
        below, above = np.percentile(train, [low, high])
        name = f"vra: {{ low: {low}, high: {high}, below: %s }}"
        add(name % "clip", energy(np.clip(z, below, above)))
        add(name % "zero", energy(np.where(z < below, 0, np.minimum(z, above))))
    for bare, spelt in [("react", "react: { percentile: 90 }"), ("vra", "vra: { low: 10, high: 90, below: clip }"),
                        ("dice", "dice: { percentile: 90 }"), ("ash", "ash: { variant: b, percentile: 90 }")]:
        result[bare] = result[spelt]
    return result


def numbers(values):
    """f32 values in their shortest form."""
    return [numbers(row) for row in values] if values.ndim > 1 else [float(str(np.float32(value))) for value in values]


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
}
for name, difference in largest_difference.items():
    print(f"{name}: {difference:.1e} from pytorch-ood")
    # pytorch-ood's DICE calculates contributions and weights in f32.
    assert difference < (1e-6 if name.startswith("dice") else 1e-12), name
text = json.dumps(record).replace('{"detector"', '\n{"detector"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
