"""Writes recipe.json: what recipes have beside PyTorch's optimisers, by hand in numpy, f64.

Groups of parameters under torch.optim.SGD's formula, the triangular schedule as numpy's interp, Lookahead with torch.lerp's formula, and Muon as airbench94_muon.py.
Parameters and gradients are those of pattern.py, gradients 10 times as large.
"""

import json
import pathlib

import numpy as np

from pattern import uniform

SHAPES = {"conv.weight": (2, 3), "norm.bias": (4,), "head.weight": (3, 2), "head.bias": (3,)}
STEPS, EPOCH = 12, 4  # steps in all, and of an epoch
USUAL = {"lr": 0.1, "weight_decay": 5e-4, "momentum": 0.9}
GROUPS = [  # match, and what differs; `until` is a step
    ({"match": "*norm*.bias", "lr": 6.4, "weight_decay": 7.8e-6}, ["norm.bias"]),
    ({"match": "*.bias", "epochs": 2}, ["head.bias"]),
    ({"match": "head.*", "epochs": 2, "schedule": {"triangle": {"start": 1, "peak_at": 0, "end": 0}}}, ["head.weight"]),
]
TRIANGLE = {"start": 0.2, "peak_at": 0.4, "end": 0.07}


def triangle(settings, total):
    places = [0, int(settings["peak_at"] * total), total]
    return np.interp(np.arange(1 + total), places, [settings["start"], 1.0, settings["end"]])


def gradient(name, step):
    return uniform(f"gradient {name} {step}", *SHAPES[name]) * 10


def flat(weights):
    return np.concatenate([weights[name].ravel() for name in SHAPES]).tolist()


def grouped():
    weights = {name: uniform(name, *shape) for name, shape in SHAPES.items()}
    velocity, history = {}, []
    factors = triangle(TRIANGLE, STEPS)
    for step in range(STEPS):
        for name in SHAPES:
            group = next((group for group, names in GROUPS if name in names), {})
            lr, decay = group.get("lr", USUAL["lr"]), group.get("weight_decay", USUAL["weight_decay"])
            end = group.get("epochs", 10) * EPOCH
            if step >= end:
                continue
            factor = triangle({"start": 1, "peak_at": 0, "end": 0}, end)[step] if "schedule" in group else factors[step]
            g = gradient(name, step) + decay * weights[name]
            velocity[name] = USUAL["momentum"] * velocity[name] + g if name in velocity else g
            weights[name] = weights[name] - lr * factor * (g + USUAL["momentum"] * velocity[name])
        history.append(flat(weights))
    return history


def lerp(start, end, weight):
    return start + weight * (end - start) if weight < 0.5 else end - (end - start) * (1 - weight)


def lookahead(every, decay, power, steps=11):
    weights = {name: uniform(name, *shape) for name, shape in SHAPES.items()}
    slow, history = dict(weights), []
    for step in range(steps):
        weights = {name: value - 0.1 * gradient(name, step) for name, value in weights.items()}
        done = step + 1
        if done % every == 0:
            kept = decay * (done / steps) ** power
            slow = {name: lerp(slow[name], value, 1 - kept) for name, value in weights.items()}
        if done % every == 0 or done == steps:
            weights = dict(slow)
        history.append(flat(weights))
    return history


def newton_schulz(matrix, steps):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix / (np.linalg.norm(matrix) + 1e-7)
    if matrix.shape[0] > matrix.shape[1]:
        x = x.T
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if matrix.shape[0] > matrix.shape[1] else x


MUON_SHAPES = {"filters": (4, 2, 3, 3), "upright": (5, 2)}


def muon(lr, momentum, nesterov, steps, rescale, weight_decay):
    weights = {name: uniform(name, *shape) for name, shape in MUON_SHAPES.items()}
    velocity, history = {name: 0 for name in weights}, []
    for step in range(4):
        for name, weight in weights.items():
            g = uniform(f"gradient {name} {step}", *weight.shape) * 10
            velocity[name] = momentum * velocity[name] + g
            way = g + momentum * velocity[name] if nesterov else velocity[name]
            if rescale:
                weight = weight * len(weight) ** 0.5 / np.linalg.norm(weight)
            update = newton_schulz(way.reshape(len(way), -1), steps).reshape(way.shape)
            weights[name] = weight * (1 - lr * weight_decay) - lr * update
        history.append(np.concatenate([weight.ravel() for weight in weights.values()]).tolist())
    return history


golden = {
    "made_by": f"tests/golden/recipe.py: numpy {np.__version__}",
    "recipe": {
        "epochs": STEPS // EPOCH,
        "batch_size": 1,
        "optimizer": {"sgd": {**USUAL, "nesterov": True}},
        "schedule": {"triangle": TRIANGLE},
        "groups": [group for group, _ in GROUPS],
    },
    "grouped": grouped(),
    "triangles": [
        {"settings": settings, "total": total, "factors": triangle(settings, total)[:-1].tolist()}
        for settings, total in [
            ({"start": 0.2, "peak_at": 0.23, "end": 0.07}, 476),
            ({"start": 0.2, "peak_at": 0.1, "end": 0.0}, 37),
            ({"start": 0.0, "peak_at": 1.0, "end": 0.5}, 10),
        ]
    ],
    "lookaheads": [
        {"settings": {"every": every, "decay": decay, "power": power}, "history": lookahead(every, decay, power)}
        for every, decay, power in [(5, 0.95**5, 3.0), (2, 0.5, 0.0), (4, 0.2, 1.0)]
    ],
    "muons": [
        {"settings": settings, "history": muon(**settings)}
        for settings in [
            {"lr": 0.24, "momentum": 0.6, "nesterov": True, "steps": 3, "rescale": True, "weight_decay": 0.0},
            {"lr": 0.1, "momentum": 0.9, "nesterov": False, "steps": 5, "rescale": False, "weight_decay": 0.05},
        ]
    ],
}
text = json.dumps(golden, separators=(",", ":"))
for key in ["recipe", "grouped", "triangles", "lookaheads", "muons", "settings"]:
    text = text.replace(f'"{key}":', f'\n"{key}":')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
