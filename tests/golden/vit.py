"""Writes vit.json, small vision transformers of timm in f64, and vit_names.txt, the parameters of its published ones.

Run with torch and timm (versions in the file). Parameters and images are those of pattern.py, rounded to f32 first.
"""

import json
import pathlib

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer

from pattern import directional, parameter, sample, uniform

# timm brings positions to f32 before it resamples them, which would hide what differs by less than 1e-7.
torch.Tensor.float = lambda self: self
torch.set_num_threads(1)

PRESETS = {
    "vit_s16": "vit_small_patch16_224",
    "vit_b16": "vit_base_patch16_224",
    "dinov2_s14": "vit_small_patch14_dinov2",
    "dinov2_b14": "vit_base_patch14_dinov2",
}


def network(settings, shape, classes):
    net = VisionTransformer(
        img_size=settings["pretrained_size"],
        patch_size=settings["patch"],
        in_chans=shape[1],
        num_classes=classes,
        embed_dim=settings["width"],
        depth=settings["depth"],
        num_heads=settings["heads"],
        init_values=settings.get("layer_scale"),
        dynamic_img_size=True,
    ).double()
    state = {name: torch.tensor(parameter(name, *old.shape), dtype=torch.float32).double() for name, old in net.state_dict().items()}
    net.load_state_dict(state)
    rows, columns = (side // settings["patch"] for side in shape[2:])
    found = {}

    def keep(name):
        def hook(_, inputs, tokens):
            found[name] = tokens[:, 1:].transpose(1, 2).unflatten(2, (rows, columns))

        net.get_submodule(name).register_forward_hook(hook)

    for name in [*(f"blocks.{at}" for at in range(settings["depth"])), "norm"]:
        keep(name)
    net.head.register_forward_hook(lambda _, inputs, logits: found.update(features=inputs[0]))

    images = torch.tensor(uniform("images", *shape), dtype=torch.float32).double() * 1.5
    images.requires_grad_()
    logits = net(images)
    features = found.pop("features")
    loss = F.cross_entropy(logits, torch.arange(shape[0]) % classes)
    for name, maps in found.items():
        loss = loss + (maps * torch.tensor(uniform(f"toward {name}", *maps.shape))).mean()
    loss.backward()
    return {
        "settings": settings,
        "images": list(shape),
        "parameters": sorted(state),
        "eval": {
            "logits": sample(logits, 10**6),
            "features": sample(features),
            "taps": {name: {"shape": list(maps.shape), "values": sample(maps)} for name, maps in found.items()},
        },
        "loss": loss.item(),
        "input_gradient": sample(images.grad, 100),
        "gradients": directional([(name, value.grad) for name, value in net.named_parameters()]),
    }


def bicubic(old, new):
    """What each of `new` values takes of `old` ones."""
    # Of two columns: torch 2.3.1 gives all rows the first one's values where there is one column.
    columns = torch.eye(old).double()[None, :, :, None].repeat(1, 1, 1, 2)
    weights = F.interpolate(columns, size=(new, 2), mode="bicubic", antialias=True)
    return {"old": old, "new": new, "weights": sample(weights[0, :, :, 0].T.contiguous(), 400)}


base = {"width": 12, "depth": 2, "heads": 3, "patch": 4}
golden = {
    "made_by": f"tests/golden/vit.py: torch {torch.__version__}, timm {timm.__version__}",
    "networks": [
        network({**base, "pretrained_size": 16}, (3, 3, 16, 16), 5),
        # More rows and fewer columns than there are positions for.
        network({**base, "layer_scale": 0.1, "pretrained_size": 20}, (2, 3, 28, 12), 4),
        # As many columns as there are positions for.
        network({**base, "width": 8, "depth": 3, "heads": 2, "pretrained_size": 32, "patch": 8}, (2, 1, 56, 32), 3),
    ],
    "bicubic": [bicubic(*sizes) for sizes in [(37, 32), (37, 3), (14, 28), (5, 1), (1, 4), (2, 5)]],
}
here = pathlib.Path(__file__)
here.with_suffix(".json").write_text(json.dumps(golden) + "\n")

lines = []
for preset, name in PRESETS.items():
    state = timm.create_model(name, num_classes=1000).state_dict()
    lines += [preset, *(f"{name} {'x'.join(map(str, value.shape))}" for name, value in sorted(state.items()))]
here.with_name("vit_names.txt").write_text("\n".join(lines) + "\n")
