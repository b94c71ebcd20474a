"""Writes optim.json: five steps of PyTorch's optimisers, clipping and weight averaging, and learning rates, in f64.

python optim.py   (torch 2.15.0, numpy; any recent version should do)

Parameters and gradients are those of pattern.py, gradients 10 times as large; the second parameter has none at steps 0 and 3.
"""

import json
import math
import pathlib

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pattern import uniform


class Two(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = (torch.nn.Parameter(torch.from_numpy(uniform(n, *s))) for n, s in [("a", (2, 3)), ("b", (4,))])

    def values(self):
        return self.a.flatten().tolist() + self.b.flatten().tolist()


def steps(make, clip=None, decay=None):
    net = Two()
    optimizer = make(net.parameters())
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
    history = []
    for step in range(5):
        optimizer.param_groups[0]["lr"] = 0.1 / (step + 1)
        net.a.grad = torch.from_numpy(uniform(f"gradient a {step}", 2, 3)) * 10
        net.b.grad = None if step in (0, 3) else torch.from_numpy(uniform(f"gradient b {step}", 4)) * 10
        if clip:
            clip(net.parameters())
        optimizer.step()
        if average:
            average.update_parameters(net)
        history.append((average.module if average else net).values())
    return history


def schedules():
    """Learning rates at each of 60 optimiser steps, 6 an epoch, from lr 0.1."""
    def run(make, per_step):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        scheduler, rates = make(optimizer), []
        for step in range(60):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if per_step or step % 6 == 5:
                scheduler.step()
        return rates

    def cosine(optimizer):
        factor = lambda step: (1e-6 + (0.1 - 1e-6) * 0.5 * (1 + math.cos(step / 60 * math.pi))) / 0.1
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda=factor)

    multi_step = lambda optimizer: torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 7], 0.2)
    exponential = lambda optimizer: torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.985)
    return {"cosine": run(cosine, True), "multi_step": run(multi_step, False), "exponential": run(exponential, False)}


RECIPES = [  # our configuration, and what it is in PyTorch
    ({"sgd": {}}, None),
    ({"sgd": {"momentum": 0.9, "weight_decay": 5e-4}}, None),
    ({"sgd": {"momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}}, None),
    ({"sgd": {"momentum": 0.9, "nesterov": True}}, None),
    ({"sgd": {"weight_decay": 0.1}}, {"norm": 3.0}),
    ({"sgd": {"momentum": 0.5, "weight_decay": 0.1, "nesterov": True}}, {"norm": 3.0}),
    ({"sgd": {"momentum": 0.9}}, {"norm": 1e3}),
    ({"sgd": {"momentum": 0.9, "weight_decay": 0.1, "nesterov": True}}, {"value": 2.5}),
    ({"adamw": {}}, None),
    ({"adamw": {"betas": [0.5, 0.9], "epsilon": 1e-3, "weight_decay": 0.0}}, None),
    ({"adamw": {"weight_decay": 0.5}}, {"norm": 0.3}),
    ({"adamw": {"betas": [0.8, 0.99]}}, {"value": 0.7}),
]


def maker(rule):
    (name, settings), = rule.items()
    settings = {"eps" if key == "epsilon" else key: value for key, value in settings.items()}
    return lambda parameters: {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name](parameters, lr=0.1, **settings)


def clipper(clip):
    if clip:
        (name, most), = clip.items()
        f = {"norm": torch.nn.utils.clip_grad_norm_, "value": torch.nn.utils.clip_grad_value_}[name]
        return lambda parameters: f(parameters, most)


cases = [(rule, clip, None) for rule, clip in RECIPES] + [(RECIPES[1][0], None, 0.9), ({"adamw": {}}, {"norm": 1.0}, 0.5)]
golden = {
    "made_by": f"tests/golden/optim.py: torch {torch.__version__}",
    "schedules": schedules(),
    "cases": [
        {"rule": rule, "clip": clip, "decay": decay, "history": steps(maker(rule), clipper(clip), decay)}
        for rule, clip, decay in cases
    ],
}
text = json.dumps(golden, separators=(",", ":")).replace('{"rule"', '\n{"rule"').replace('"cases"', '\n"cases"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
