"""What the scripts of operations share: inputs of pattern.py, and the record of a result and its gradients.

Gradients are those of sum(y * toward), where toward is uniform("toward", shape of y).
"""

import torch

from pattern import sample, uniform


def variable(name, *shape):
    return torch.from_numpy(uniform(name, *shape)).requires_grad_()


def record(y, **inputs):
    toward = torch.from_numpy(uniform("toward", *y.shape))
    gradients = torch.autograd.grad((y * toward).sum(), list(inputs.values()))
    few = lambda tensor: sample(tensor, 16)
    return {"shape": list(y.shape), "y": few(y), **{f"d{k}": few(g) for k, g in zip(inputs, gradients)}}
