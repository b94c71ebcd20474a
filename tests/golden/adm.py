"""The U-Net of improved DDPM and ADM in PyTorch, f64, written from the papers and with the parameter names of their published weights: adm.json.

Run with torch (version in the file). Nothing is downloaded: weights are those of pattern.py.

- Papers: Nichol & Dhariwal, *Improved DDPM*, ICML 2021; Dhariwal & Nichol, *Diffusion Models Beat GANs*, NeurIPS 2021, section 3.
- Names, the embedding of times, ε, the two orders of queries, keys and values, and the flags of published weights: `unet.py`, `nn.py` and the README of
  `openai/guided-diffusion` and `openai/improved-diffusion`.
- Of each network the output's noise, the loss of one training step on it, and the gradients. Of published weights, how many there are."""
import json
import math
import pathlib

import torch
import torch.nn.functional as F

from pattern import directional, parameter, sample, uniform


class Network:
    """Parameters come to be where they are first asked for: of pattern.py, or without values, to be counted."""

    def __init__(self, *, channels, multipliers, blocks, attention, heads=1, head_channels=None, attention_order="legacy", scale_shift=False,
                 resample="conv", learned_sigma=False, groups=32, dropout=0.0, style="adm", classes=None, counted=False):
        assert style == "adm"
        self.__dict__.update({name: value for name, value in locals().items() if name != "self"})
        self.parameters = {}

    def get(self, name, *shape):
        if name not in self.parameters:
            values = torch.empty(shape, device="meta") if self.counted else torch.tensor(parameter(name, *shape)).float().double()
            self.parameters[name] = values.requires_grad_()
        assert self.parameters[name].shape == torch.Size(shape), name
        return self.parameters[name]

    def linear(self, x, name, outputs):
        return F.linear(x, self.get(f"{name}.weight", outputs, x.shape[1]), self.get(f"{name}.bias", outputs))

    def conv(self, x, name, outputs, kernel=3, stride=1):
        weight = self.get(f"{name}.weight", outputs, x.shape[1], kernel, kernel)
        return F.conv2d(x, weight, self.get(f"{name}.bias", outputs), stride=stride, padding=kernel // 2)

    def norm(self, x, name):
        channels = x.shape[1]
        groups = math.gcd(channels, self.groups)
        return F.group_norm(x, groups, self.get(f"{name}.weight", channels), self.get(f"{name}.bias", channels), 1e-5)

    def residual(self, x, embedding, name, outputs, sides=lambda x: x):
        hidden = sides(F.silu(self.norm(x, f"{name}.in_layers.0")))
        hidden = self.conv(hidden, f"{name}.in_layers.2", outputs)
        told = self.linear(F.silu(embedding), f"{name}.emb_layers.1", 2 * outputs if self.scale_shift else outputs)[:, :, None, None]
        if self.scale_shift:
            scale, shift = told[:, :outputs], told[:, outputs:]
            hidden = self.norm(hidden, f"{name}.out_layers.0") * (1 + scale) + shift
        else:
            hidden = self.norm(hidden + told, f"{name}.out_layers.0")
        hidden = self.conv(F.silu(hidden), f"{name}.out_layers.3", outputs)
        x = sides(x)
        return hidden + (x if x.shape[1] == outputs else self.conv(x, f"{name}.skip_connection", outputs, kernel=1))

    def attend(self, x, name):
        images, channels, height, width = x.shape
        heads = self.heads if self.head_channels is None else channels // self.head_channels
        depth = channels // heads
        tokens = self.norm(x, f"{name}.norm").flatten(2)
        qkv = F.conv1d(tokens, self.get(f"{name}.qkv.weight", 3 * channels, channels, 1), self.get(f"{name}.qkv.bias", 3 * channels))
        if self.attention_order == "legacy":
            parts = qkv.reshape(images, heads, 3, depth, -1).unbind(2)
        else:
            parts = qkv.reshape(images, 3, heads, depth, -1).unbind(1)
        query, key, value = parts
        weights = torch.softmax(query.transpose(2, 3) @ key / math.sqrt(depth), -1)
        mixed = (value @ weights.transpose(2, 3)).reshape(images, channels, -1)
        out = F.conv1d(mixed, self.get(f"{name}.proj_out.weight", channels, channels, 1), self.get(f"{name}.proj_out.bias", channels))
        return x + out.reshape(x.shape)

    def down(self, x, embedding, name):
        if self.resample == "conv":
            return self.conv(x, f"{name}.op", x.shape[1], stride=2)
        return self.residual(x, embedding, name, x.shape[1], lambda x: F.avg_pool2d(x, 2))

    def up(self, x, embedding, name):
        twice = lambda x: x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        if self.resample == "conv":
            return self.conv(twice(x), f"{name}.conv", x.shape[1])
        return self.residual(x, embedding, name, x.shape[1], twice)

    def __call__(self, x, times, labels=None):
        maps, wide = x.shape[1], 4 * self.channels
        embedding = waves(times, self.channels).to(x)
        embedding = self.linear(F.silu(self.linear(embedding, "time_embed.0", wide)), "time_embed.2", wide)
        if self.classes is not None:
            embedding = embedding + self.get("label_emb.weight", self.classes, wide)[labels]
        x = self.conv(x, "input_blocks.0.0", self.channels)
        kept, number = [x], 1
        for level, multiplier in enumerate(self.multipliers):
            for _ in range(self.blocks):
                x = self.residual(x, embedding, f"input_blocks.{number}.0", multiplier * self.channels)
                if level in self.attention:
                    x = self.attend(x, f"input_blocks.{number}.1")
                kept.append(x)
                number += 1
            if level + 1 < len(self.multipliers):
                x = self.down(x, embedding, f"input_blocks.{number}.0")
                kept.append(x)
                number += 1
        x = self.residual(x, embedding, "middle_block.0", x.shape[1])
        x = self.attend(x, "middle_block.1")
        x = self.residual(x, embedding, "middle_block.2", x.shape[1])
        number = 0
        for level, multiplier in reversed(list(enumerate(self.multipliers))):
            for block in range(self.blocks + 1):
                name = f"output_blocks.{number}"
                x = self.residual(torch.cat([x, kept.pop()], 1), embedding, f"{name}.0", multiplier * self.channels)
                place = 1
                if level in self.attention:
                    x = self.attend(x, f"{name}.{place}")
                    place += 1
                if level > 0 and block == self.blocks:
                    x = self.up(x, embedding, f"{name}.{place}")
                number += 1
        x = F.silu(self.norm(x, "out.0"))
        return self.conv(x, "out.2", 2 * maps if self.learned_sigma else maps)


def waves(times, channels):
    half = channels // 2
    rates = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float64) / half)
    angles = torch.tensor(times, dtype=torch.float64)[:, None] * rates
    return F.pad(torch.cat([angles.cos(), angles.sin()], 1), (0, channels % 2))


def step(settings, shape, times, labels=None):
    images, noise = (torch.tensor(uniform(name, *shape)) for name in ("images", "noise"))
    network = Network(**settings, classes=None if labels is None else 5)
    output = network(images, times, labels)
    assert output.shape[1] == shape[1] * (2 if settings.get("learned_sigma") else 1)
    output = output[:, : shape[1]]
    loss = F.mse_loss(output, noise)
    loss.backward()
    return {
        "settings": {"style": "adm", **settings},
        "images": list(shape),
        "times": times,
        "classes": labels,
        "output": sample(output, 200),
        "loss": loss.item(),
        "gradients": directional([(name, value.grad) for name, value in network.parameters.items()]),
    }


def count(size, settings, classes=None):
    network = Network(**settings, classes=classes, counted=True)
    network(torch.empty(1, 3, size, size, device="meta"), [0.0], None if classes is None else torch.zeros(1, dtype=torch.int64, device="meta"))
    return {
        "settings": {"style": "adm", **settings},
        "size": size,
        "classes": classes,
        "tensors": len(network.parameters),
        "parameters": sum(value.numel() for value in network.parameters.values()),
    }


ADM = {"scale_shift": True, "resample": "residual", "learned_sigma": True, "dropout": 0.0}
IMPROVED = {"scale_shift": True, "heads": 4, "learned_sigma": True, "multipliers": [1, 2, 2, 2], "blocks": 3, "attention": [1, 2]}
record = {
    "made_by": f"tests/golden/adm.py: torch {torch.__version__}",
    # 4 heads of 8 channels in the middle.
    "adm": step({"channels": 16, "multipliers": [1, 2], "blocks": 2, "attention": [1], "head_channels": 8, "groups": 8, **ADM},
                (2, 3, 8, 12), [7.0, 412.5], [4, 0]),
    "improved": step({"channels": 16, "multipliers": [1, 2, 2], "blocks": 1, "attention": [1, 2], "heads": 2, "groups": 8, "dropout": 0.0, "scale_shift": True,
                      "learned_sigma": True}, (2, 3, 8, 8), [0.0, 999.0]),
    "new": step({"channels": 16, "multipliers": [1, 2], "blocks": 1, "attention": [0], "head_channels": 4, "groups": 8, "dropout": 0.0,
                 "attention_order": "new", "resample": "residual"}, (2, 1, 4, 6), [500.0, 20.0]),
    "published": {
        "adm_64": count(64, {"channels": 192, "multipliers": [1, 2, 3, 4], "blocks": 3, "attention": [1, 2, 3], "head_channels": 64,
                             "attention_order": "new", **ADM}, 1000),
        "adm_128": count(128, {"channels": 256, "multipliers": [1, 1, 2, 3, 4], "blocks": 2, "attention": [2, 3, 4], "heads": 4, **ADM}, 1000),
        "adm_256": count(256, {"channels": 256, "multipliers": [1, 1, 2, 2, 4, 4], "blocks": 2, "attention": [3, 4, 5], "head_channels": 64, **ADM}, 1000),
        "improved_cifar10": count(32, {"channels": 128, "dropout": 0.3, **IMPROVED}),
    },
    "embedding": {
        "times": [0.0, 1.0, 999.0],
        "even": sample(waves([0.0, 1.0, 999.0], 8)),
        "odd": sample(waves([0.0, 1.0, 999.0], 7)),
    },
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(record) + "\n")
