"""Writes swin.json: timm's Swin transformer, small, with the weights and images of pattern.py, f64; and swin_names.txt: the names and sizes of
its parameters.

python swin.py   (torch 2.3.1, timm 1.0.31)

A map that is smaller than the window has a smaller table of position biases in timm: it is given the middle of the table that ours has, and
the gradient of the rest is 0.
"""

import json
import pathlib
import re

import numpy
import timm
import torch
from timm.models.swin_transformer import SwinTransformer
from torch.nn import functional as F

from pattern import directional, parameter, sample, uniform

CLASSES = 5
TABLE = "relative_position_bias_table"


def crop(window, high, wide):
    """Where the table of a window of `high`×`wide` tokens lies in that of `window`×`window`."""
    return slice(window - high, window + high - 1), slice(window - wide, window + wide - 1)


def network(settings, size):
    net = SwinTransformer(
        img_size=size, patch_size=settings["patch"], in_chans=3, num_classes=CLASSES, embed_dim=settings["width"],
        depths=settings["depths"], num_heads=settings["heads"], window_size=settings["window"], drop_path_rate=0,
    )
    return net.double()


def record(settings, count, size):
    net, window = network(settings, size), settings["window"]
    side, places, state, shapes = 2 * window - 1, {}, {}, {}
    for name, value in net.state_dict().items():
        shape = list(value.shape)
        if name.endswith(TABLE):
            shape[0] = side * side
            places[name] = crop(window, *net.get_submodule(name.rsplit(".", 1)[0]).window_size)
        shapes[name] = shape
        given = torch.from_numpy(parameter(name, *shape)).float()
        if name in places:
            given = given.reshape(side, side, -1)[places[name]].reshape(value.shape)
        state[name] = given
    net.load_state_dict(state)
    images = torch.from_numpy(uniform("images", count, 3, *size)).float().double() * 1.5
    images.requires_grad_()
    features, taps = net.forward_intermediates(images)
    features = net.forward_head(features, pre_logits=True)
    logits = net.head.fc(features)
    assert torch.equal(logits, net(images))
    loss = F.cross_entropy(logits, torch.arange(count) % CLASSES)
    loss.backward()
    gradients = []
    for name, value in net.named_parameters():
        gradient = value.grad
        if name in places:
            whole = torch.zeros(side, side, gradient.shape[1], dtype=gradient.dtype)
            rows, columns = places[name]
            whole[rows, columns] = gradient.reshape(rows.stop - rows.start, columns.stop - columns.start, -1)
            gradient = whole.reshape(side * side, -1)
        gradients.append((name, gradient))
    return {
        "settings": settings,
        "images": [count, 3, *size],
        "parameters": sorted(shapes),
        "trainable": sum(int(numpy.prod(shape)) for shape in shapes.values()),
        "eval": {
            "logits": sample(logits, 10**6),
            "features": sample(features),
            "taps": {f"layers.{at}": {"shape": list(tap.shape), "values": sample(tap)} for at, tap in enumerate(taps)},
        },
        "loss": loss.item(),
        "gradients": directional(gradients),
        "images_gradient": sample(images.grad, 96),
    }


def names(name):
    """A line for each parameter: its name, with a-b for blocks a to b of equal sizes, and its sizes."""
    net = timm.create_model(name, pretrained=False)
    blocks = [len(stage.blocks) for stage in net.layers]
    lines = [f"# {name.split('_patch')[0]} {sum(p.numel() for p in net.parameters())}"]
    for name, value in net.state_dict().items():
        block = re.match(r"layers\.(\d+)\.blocks\.(\d+)\.", name)
        if block and block[2] != "0":
            continue
        if block:
            name = name.replace(".blocks.0.", f".blocks.0-{blocks[int(block[1])] - 1}.")
        lines.append(f"{name} {'x'.join(map(str, value.shape))}")
    return lines


torch.set_num_threads(1)
golden = {
    "made_by": f"tests/golden/swin.py: torch {torch.__version__}, timm {timm.__version__}",
    "networks": [
        # Windows that fit; the third stage's map is one, the fourth's is smaller.
        record({"width": 8, "depths": [2, 2, 2, 1], "heads": [2, 2, 4, 4], "window": 4, "patch": 4}, 3, (64, 64)),
        # Maps of 9×22, 5×11, 3×6 and 2×3: padded windows, shifted along one axis alone, odd maps that are halved.
        record({"width": 6, "depths": [2, 2, 3, 2], "heads": [1, 3, 2, 1], "window": 4, "patch": 4}, 2, (36, 88)),
        record({"width": 4, "depths": [3, 2, 1, 1], "heads": [2, 1, 4, 8], "window": 3, "patch": 2}, 2, (50, 26)),
    ],
}
here = pathlib.Path(__file__)
text = json.dumps(golden, separators=(",", ":")).replace('{"settings"', '\n{"settings"').replace('"eval"', '\n"eval"')
here.with_suffix(".json").write_text(text + "\n")
lists = [names(f"swin_{size}_patch4_window7_224") for size in ["tiny", "small", "base"]]
here.with_name("swin_names.txt").write_text("\n".join(line for lines in lists for line in lines) + "\n")
