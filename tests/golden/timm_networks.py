"""What timm's networks give for the weights and images of pattern.py, as tests/networks.rs reads it."""

import json
import pathlib

import timm
import torch
from torch.nn import functional as F

from pattern import directional, parameter, sample, uniform


def state_of(network):
    return {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}


def record(network, stages, count, side):
    """Logits, features, the maps that leave `stages`, and gradients of the loss in training mode, f64."""
    state = state_of(network)
    network.double()
    network.load_state_dict({k: torch.from_numpy(parameter(k, *v.shape)).float() for k, v in state.items()}, strict=False)
    images = (torch.from_numpy(uniform("images", count, 3, side, side)).float().double() * 1.5).requires_grad_()
    result = {
        "images": list(images.shape),
        "parameters": sorted(state),
        "trainable": sum(p.numel() for p in network.parameters()),
    }
    taps = {}
    for name in stages:
        network.get_submodule(name).register_forward_hook(lambda _, x, y, name=name: taps.update({name: y}))
    # What `forward_head(…, pre_logits=True)` gives.
    network.get_submodule("head.fc").register_forward_hook(lambda _, x, y: taps.update(features=x[0]))
    for mode in ["eval", "train"]:
        network.train(mode == "train")
        logits = network(images)
        result[mode] = {
            "logits": sample(logits, 10**6),
            "features": sample(taps["features"]),
            "taps": {name: {"shape": list(taps[name].shape), "values": sample(taps[name])} for name in stages},
        }
    loss = F.cross_entropy(logits, torch.arange(count) % 5)
    result["loss"] = loss.item()
    loss.backward()
    result["gradients"] = directional([(name, p.grad) for name, p in network.named_parameters()])
    result["input_gradient"] = sample(images.grad)
    result["buffers"] = {name: sample(b, 2) for name, b in network.named_buffers() if b.ndim}
    return result


def write(script, networks, presets):
    """NAME.json with the recorded networks and how large timm's presets are; of the first preset, names and shapes in NAME_names.txt."""
    script = pathlib.Path(script)
    sizes = {}
    for at, (ours, theirs) in enumerate(presets.items()):
        with torch.device("meta"):
            state = state_of(timm.create_model(theirs))
        sizes[ours] = {"tensors": len(state), "values": sum(value.numel() for value in state.values())}
        if at == 0:
            lines = [f"{name} {'x'.join(map(str, value.shape))}\n" for name, value in state.items()]
            script.with_name(f"{script.stem}_names.txt").write_text("".join(lines))
    golden = {
        "made_by": f"tests/golden/{script.name}: torch {torch.__version__}, timm {timm.__version__}",
        "networks": networks,
        "presets": sizes,
    }
    text = json.dumps(golden, separators=(",", ":"))
    for key in ["settings", "eval", "train"]:
        text = text.replace(f'"{key}":{{', f'\n"{key}":{{')
    script.with_suffix(".json").write_text(text + "\n")
