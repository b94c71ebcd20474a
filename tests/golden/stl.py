"""The texture part and the self-calibrated convolution in PyTorch, f64: stl.json. Run with torch (version in the file)."""
import json
import pathlib

import torch

from pattern import directional, parameter, sample, uniform
from stl_networks import SelfCalibrated, Stl

# Levels and cells of all kinds; no similarity as near to where its hits change as f32 rounds.
STL = {"width": 8, "levels": 12, "cooccurrence_levels": 4, "scales": [1, 2, 4]}
MARGIN = 5e-4


def load(network):
    state = {
        name: torch.tensor(parameter(name, *tensor.shape)).float().double()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    network.double().load_state_dict(state, strict=False)
    return network


def record(network, maps):
    """As used, and one step; of the sum of y·toward."""
    network.eval()
    maps = torch.tensor(maps).float().double().requires_grad_()
    with torch.no_grad():
        case = {"eval": sample(network(maps), 96)}
    network.train()
    y = network(maps)
    (y * torch.tensor(uniform("toward", *y.shape))).sum().backward()
    gradients = directional([(name, value.grad) for name, value in network.named_parameters()])
    buffers = {name: sample(value, 2) for name, value in network.named_buffers() if "running" in name}
    case |= {"shape": list(y.shape), "train": sample(y, 96), "input": sample(maps.grad), "gradients": gradients}
    return case | {"buffers": buffers}


def stl(assign):
    for attempt in range(1000):
        network, name = load(Stl(5, **STL, assign=assign)), f"stages {attempt}"
        maps = uniform(name, 2, 5, 8, 12)
        case = record(network, maps)
        operators = [module for module in network.modules() if hasattr(module, "margin")]
        # The least of the margins in training; evaluation is checked alike.
        least = min(float(operator.margin) for operator in operators)
        network = load(network).eval()
        network(torch.tensor(maps))
        least = min(least, *(float(operator.margin) for operator in operators))
        if least > MARGIN:
            return {"maps": name, "margin": least, "settings": STL | {"assign": assign}} | case
    raise SystemExit("no maps keep the margin")


def self_calibrated(inputs, **settings):
    case = record(load(SelfCalibrated(inputs, **settings)), uniform("stages", 2, inputs, 9, 8))
    return {"inputs": inputs, "settings": settings} | case


cases = {
    "made_by": f"tests/golden/stl.py: torch {torch.__version__}",
    "stl": [stl("official"), stl("paper")],
    "self_calibrated": [self_calibrated(6, width=6, rate=4), self_calibrated(7, width=4, rate=3, relu=True)],
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(cases) + "\n")
