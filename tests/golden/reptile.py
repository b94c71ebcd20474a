"""Writes reptile.json: four rounds of Reptile on a toy, by hand in numpy, f64.

The loss of class c is ½ Σ k_c·(w − t_c)². The inner optimiser is SGD with momentum 0.9 and learning rate 0.1, anew in every round.
"""

import json
import pathlib

import numpy as np

from pattern import uniform

SHAPES = {"a": (2, 3), "b": (4,)}
INNER, RATE, ROUNDS = 3, 0.3, [2, 0, 2, 1]


def gradient(name, class_, weight):
    curvature = 1.0 + 0.5 * uniform(f"curvature {name} {class_}", *weight.shape)
    return curvature * (weight - uniform(f"target {name} {class_}", *weight.shape))


start = {name: uniform(name, *shape) for name, shape in SHAPES.items()}
steps, rounds = [], []
flat = lambda weights: np.concatenate([weight.ravel() for weight in weights.values()]).tolist()
for class_ in ROUNDS:
    weights = {name: weight.copy() for name, weight in start.items()}
    velocity = {name: np.zeros_like(weight) for name, weight in start.items()}
    for _ in range(INNER):
        for name, weight in weights.items():
            velocity[name] = 0.9 * velocity[name] + gradient(name, class_, weight)
            weights[name] = weight - 0.1 * velocity[name]
        steps.append(flat(weights))
    start = {name: weight + RATE * (weights[name] - weight) for name, weight in start.items()}
    rounds.append(flat(start))

record = {
    "made_by": f"tests/golden/reptile.py: numpy {np.__version__}",
    "inner_steps": INNER,
    "rate": RATE,
    "classes": ROUNDS,
    "steps": steps,
    "rounds": rounds,
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(record) + "\n")
