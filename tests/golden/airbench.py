"""Writes airbench.json: airbench's network by hand in numpy, f64, evaluating and training, and the filters that whiten.

Formulas of KellerJordan/cifar10-airbench (airbench94.py and airbench96.py). Parameters and images are those of pattern.py, rounded to f32
first. Filters and their names are ours: `whiten`, `group1` to `group3`, `head`.
"""

import json
import math
import pathlib

import numpy as np

from pattern import parameter, uniform

EPSILON = 1e-12
GROUPS = ["group1", "group2", "group3"]


def conv(x, weight, padding):
    x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(x, weight.shape[2:], axis=(2, 3))
    return np.einsum("nchwij,ocij->nohw", windows, weight, optimize=True)


def max_pool(x, size):
    n, c, h, w = x.shape
    x = x[:, :, : h // size * size, : w // size * size]
    return x.reshape(n, c, h // size, size, w // size, size).max((3, 5))


def gelu(x):
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


class Net:
    def __init__(self, widths, convs, momentum, classes=5, channels=3):
        self.convs, self.momentum = convs, momentum
        shapes = {"whiten.whitening": (8 * channels, channels, 2, 2), "whiten.bias": (8 * channels,)}
        inputs = 8 * channels
        for group, width in zip(GROUPS, widths):
            for at in range(1, convs + 1):
                shapes[f"{group}.conv{at}.weight"] = (width, inputs, 3, 3)
                for part in ["bias", "running_mean", "running_var"]:
                    shapes[f"{group}.norm{at}.{part}"] = (width,)
                inputs = width
        shapes["head.weight"] = (classes, inputs)
        self.state = {name: parameter(name, *shape).astype(np.float32).astype(np.float64) for name, shape in shapes.items()}

    def norm(self, name, x, train):
        mean, var = self.state[f"{name}.running_mean"], self.state[f"{name}.running_var"]
        if train:
            count = x.size // x.shape[1]
            batch = x.mean((0, 2, 3)), x.var((0, 2, 3))
            self.state[f"{name}.running_mean"] = (1 - self.momentum) * mean + self.momentum * batch[0]
            self.state[f"{name}.running_var"] = (1 - self.momentum) * var + self.momentum * batch[1] * count / (count - 1)
            mean, var = batch
        x = (x - mean[:, None, None]) / np.sqrt(var + EPSILON)[:, None, None]
        return x + self.state[f"{name}.bias"][:, None, None]

    def forward(self, x, train):
        state = self.state
        x = gelu(conv(x, state["whiten.whitening"], 0) + state["whiten.bias"][:, None, None])
        taps = {}
        for group in GROUPS:
            x = gelu(self.norm(f"{group}.norm1", max_pool(conv(x, state[f"{group}.conv1.weight"], 1), 2), train))
            first = x
            x = gelu(self.norm(f"{group}.norm2", conv(x, state[f"{group}.conv2.weight"], 1), train))
            if self.convs == 3:
                x = gelu(self.norm(f"{group}.norm3", conv(x, state[f"{group}.conv3.weight"], 1), train) + first)
            taps[group] = {"shape": x.shape, "values": sample(x)}
        features = max_pool(x, 3).reshape(len(x), -1)
        logits = features @ state["head.weight"].T / 9
        return {"logits": logits.ravel().tolist(), "features": sample(features), "taps": taps}


def sample(values, most=48):
    """Values at even distances, in order, as pattern.py's `sample`."""
    flat = values.ravel()
    return [float(f"{value:.12g}") for value in flat[:: max(1, len(flat) // most)]]


def network(widths, convs, momentum):
    net = Net(widths, convs, momentum)
    images = uniform("images", 4, 3, 32, 32).astype(np.float32).astype(np.float64) * 1.5
    record = {
        "settings": {"widths": widths, "convs": convs, "batch_norm": {"momentum": momentum}},
        "images": images.shape,
        "parameters": sorted(net.state),
        "trainable": sum(v.size for name, v in net.state.items() if "running" not in name and "whitening" not in name),
        "eval": net.forward(images, False),
        "train": net.forward(images, True),
    }
    record["buffers"] = {name: sample(value, 2) for name, value in net.state.items() if "running" in name}
    return record


def whitening(channels, kernel, epsilon):
    images = uniform("train images", 20, channels, 9, 8)
    # Neighbours that go together, so that no two variances are alike.
    images = images + np.roll(images, 1, 3) * 0.75
    images = (images + np.roll(images, 1, 2) * 0.5).astype(np.float32).astype(np.float64)
    windows = np.lib.stride_tricks.sliding_window_view(images, (kernel, kernel), axis=(2, 3))
    patches = windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, channels * kernel * kernel)
    values, vectors = np.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / np.sqrt(values + epsilon)).T[::-1]
    filters = filters * np.sign(filters[np.arange(len(filters)), np.abs(filters).argmax(1)])[:, None]
    return {
        "settings": {"kernel": kernel, "images": 20, "epsilon": epsilon},
        "shape": images.shape,
        "filters": np.concatenate([filters, -filters]).ravel().tolist(),
    }


golden = {
    "made_by": f"tests/golden/airbench.py: numpy {np.__version__}",
    "networks": [network([6, 10, 8], 2, 0.4), network([4, 6, 6], 3, 0.1)],
    "whitening": [whitening(3, 2, 5e-4), whitening(1, 3, 0.1)],
}
text = json.dumps(golden, separators=(",", ":")).replace('{"settings"', '\n{"settings"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
