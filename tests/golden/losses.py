"""Reference values and gradients of the loss terms, in f64: losses.json. Run with torch (version in the file)."""
import json
import pathlib

import torch
import torch.nn.functional as F

torch.manual_seed(0)
logits = torch.cat([
    torch.randn(4, 4) * 2,
    torch.tensor([[0.0, 0, 0, 0], [3, 3, -1, 0], [80, -80, 0, 1], [-500, -501, -502, -503]]),
]).double()
labels = torch.tensor([0, 3, 1, 2, 0, 1, 1, 3])


# Of the terms of outliers: the first four rows are of ID images, the others of outliers.
IMAGES = 4
M_IN, M_OUT = -4.0, -2.0


def energy_margin(f):
    energy = -torch.logsumexp(f, dim=1)
    return F.relu(energy[:IMAGES] - M_IN).pow(2).mean() + F.relu(M_OUT - energy[IMAGES:]).pow(2).mean()


def outlier_exposure(f):
    return -(f[IMAGES:].mean(1) - torch.logsumexp(f[IMAGES:], dim=1)).mean()


def case(name, value):
    activations = logits.clone().requires_grad_()
    loss = value(activations)
    (gradient,) = torch.autograd.grad(loss, activations)
    return {"term": name, "value": loss.item(), "gradient": gradient.tolist()}


record = {
    "made_by": f"tests/golden/losses.py: torch {torch.__version__}",
    "logits": logits.tolist(),
    "labels": labels.tolist(),
    "cases": [
        case("cross_entropy", lambda f: F.cross_entropy(f, labels)),
        case("sparsity", lambda f: f.abs().sum(dim=1).mean()),
        case("label_smoothing", lambda f: F.cross_entropy(f, labels, label_smoothing=0.1)),
        case("logit_norm", lambda f: F.cross_entropy(f / (f.norm(dim=1, keepdim=True) + 1e-7) / 0.04, labels)),
        case("energy_margin", energy_margin),
        case("outlier_exposure", outlier_exposure),
        case("total", lambda f: 1.5 * F.cross_entropy(f, labels) + 0.01 * f.abs().sum(dim=1).mean()),
    ],
}
text = json.dumps(record).replace('{"term"', '\n{"term"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
