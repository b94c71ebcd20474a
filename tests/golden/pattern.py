"""Pseudo-random values that Rust and Python compute alike (tests/common/mod.rs), so that no weights need storing."""

import numpy as np


def uniform(name, *shape):
    """In [-1, 1), f64: SplitMix64 of (FNV-1a hash of the name) + index."""
    seed = 0xCBF29CE484222325
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    count = int(np.prod(shape, dtype=np.int64))
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return ((z >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0).reshape(shape)


def parameter(name, *shape):
    """A plausible value for the parameter of this name: weights of He's deviation, norms near 1, the rest near 0."""
    values = uniform(name, *shape)
    if len(shape) >= 2:
        return values * np.sqrt(6.0 / np.prod(shape[1:]))
    if name.endswith("running_var") or name.endswith("weight"):
        return 1.0 + 0.3 * values
    return 0.1 * values


def directional(gradients):
    """Of (name, gradient) pairs: by name the norm, and the product with uniform("toward <name>")."""
    import torch

    toward = {name: torch.from_numpy(uniform(f"toward {name}", *gradient.shape)) for name, gradient in gradients}
    return {name: sample(torch.stack([gradient.norm(), (gradient * toward[name]).sum()])) for name, gradient in gradients}


def sample(tensor, most=48):
    """Values at even distances, in order: all of a small tensor, `most` of a large one."""
    flat = tensor.detach().double().numpy().ravel()
    step = max(1, len(flat) // most)
    return [float(f"{value:.12g}") for value in flat[::step]]
