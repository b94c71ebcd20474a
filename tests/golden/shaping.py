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
from pytorch_ood.detector import ASH, DICE, SCALE, Gram, RankFeat, ReAct, VRA
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
        below, above = np.percentile(train, [low, high], axis=0)
        each = VRA(None, head, low / 100, high / 100).fit_feature_maps(torch.tensor(train), torch.zeros(len(train), dtype=int))
        name = name.replace(" }", ", thresholds: each }")
        add(name % "clip", energy(np.clip(z, below, above)), each.predict_feature_maps(tensor))
        add(name % "zero", energy(np.where(z < below, 0, np.minimum(z, above))))
    for bare, spelt in [("react", "react: { percentile: 90 }"), ("vra", "vra: { low: 10, high: 90, below: clip }"),
                        ("dice", "dice: { percentile: 90 }"), ("ash", "ash: { variant: b, percentile: 90 }")]:
        result[bare] = result[spelt]
    return result


def gram_sums(maps, power):
    """(N, C): the row sums of the Gram matrices of (N, C, ...) maps."""
    raised = maps.reshape(*maps.shape[:2], -1) ** power
    sums = np.einsum("ncx,ndx->nc", raised, raised)
    return np.sign(sums) * np.abs(sums) ** (1 / power)


def gram(train, test, logits, powers):
    """Scores of the images `test`; `train` and `test` are lists of layers, `logits` those of both."""
    predicted = [rows.argmax(axis=1) for rows in logits]
    held = np.zeros(len(predicted[0]), dtype=bool)
    for label in range(CLASSES):
        held[np.flatnonzero(predicted[0] == label)[9::10]] = True

    def deviations(layer, images, labels):
        total = np.zeros(len(labels))
        for power in powers:
            usual, sums = gram_sums(train[layer], power), gram_sums(images[layer], power)
            for image, label in enumerate(labels):
                rows = usual[~held & (predicted[0] == label)] if (predicted[0] == label).any() else usual[~held]
                least, most = rows.min(axis=0), rows.max(axis=0)
                total[image] += (np.maximum(least - sums[image], 0) / np.abs(least + 1e-6)).sum()
                total[image] += (np.maximum(sums[image] - most, 0) / np.abs(most + 1e-6)).sum()
        return total

    scores = np.zeros(len(predicted[1]))
    for layer in range(len(train)):
        expected = deviations(layer, [maps[held] for maps in train], predicted[0][held]).mean()
        scores += deviations(layer, test, predicted[1]) / (expected or 1)
    return scores


def gram_of_pytorch_ood(train, test, logits, powers):
    position, layers = [], []
    for maps in train:
        layers.append(lambda x, maps=maps: (position.append(x) if x.dim() == 1 else None, torch.tensor(maps)[position[-1]])[1])
    head = lambda _: torch.tensor(logits[0])[position[-1]]
    detector = Gram(head, layers, CLASSES, list(powers))
    # Every tenth image is held out, where pytorch-ood draws them.
    every_tenth = lambda count: torch.tensor([*range(9, count, 10), *(i for i in range(count) if i % 10 != 9)])
    drawn, torch.randperm = torch.randperm, every_tenth
    labels = torch.tensor(logits[0].argmax(axis=1))
    detector.fit([(torch.arange(len(labels)), labels)])
    torch.randperm = drawn
    return detector.predict_structured(torch.tensor(logits[1]), [torch.tensor(maps) for maps in test]).numpy()


def rankfeat(maps):
    changed = []
    for image in maps:
        u, s, vh = np.linalg.svd(image.reshape(len(image), -1), full_matrices=False)
        changed.append((image.reshape(len(image), -1) - s[0] * np.outer(u[:, 0], vh[0])).mean(axis=1))
    return energy(np.array(changed))


def grams():
    """Two layers, of feature maps and without pixels, of which the second may be negative."""
    images = {"train": 50, "test": 8}
    maps = {name: np.abs(f32(rng.standard_normal((count, 3, 2, 2)))) for name, count in images.items()}
    flat = {name: f32(rng.standard_normal((count, 4))) for name, count in images.items()}
    # No train image is predicted as the last class, and one test image is: the last.
    logits = {name: f32(rng.standard_normal((count, CLASSES)) - 9 * (np.arange(CLASSES) == CLASSES - 1)) for name, count in images.items()}
    logits["test"][-1, -1] = 9
    layers = lambda name: [maps[name], flat[name]]
    cases = []
    for powers in [5, 10, 1]:
        arguments = (layers("train"), layers("test"), [logits["train"], logits["test"]], range(1, powers + 1))
        expected = gram(*arguments)
        # pytorch-ood refuses classes without train images, so there is one here. The image predicted as its class is not compared.
        one_more = [np.concatenate([rows, rows[:1]]) for rows in arguments[0]]
        label = np.concatenate([logits["train"], 9.0 * (np.arange(CLASSES) == CLASSES - 1)[None]])
        other = gram_of_pytorch_ood(one_more, arguments[1], [label, logits["test"]], arguments[3])
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
without = RankFeat(None, lambda maps: maps.mean(dim=(2, 3)) @ torch.tensor(weight).T + torch.tensor(bias))
other = without.predict_feature_maps(torch.tensor(last_maps)).numpy()
largest_difference["rankfeat"] = (np.abs(rankfeat(last_maps) - other) / np.abs(other)).max()
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
    "rankfeat": {"maps": numbers(last_maps.reshape(8, -1)), "expected": rankfeat(last_maps).tolist()},
    "gram": {
        **{part: {name: numbers(rows.reshape(len(rows), -1)) for name, rows in gram_case[part].items()}
           for part in ["maps", "flat", "logits"]},
        "scores": [{"detector": case["detector"], "expected": case["expected"].tolist()} for case in gram_case["cases"]],
    },
}
for name, difference in largest_difference.items():
    print(f"{name}: {difference:.1e} from pytorch-ood")
    # pytorch-ood's DICE, Gram and VRA calculate partly in f32.
    assert difference < (1e-6 if name.startswith(("dice", "gram", "vra")) else 1e-12), name
text = json.dumps(record).replace('{"detector"', '\n{"detector"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
