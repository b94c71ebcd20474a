"""SimpleNet's features, projection, discriminator and loss in PyTorch, f64: simplenet.json. Run with torch (version in the file).

Layers are linear over rows of positions and one batch norm over these, as in `DonaldRR/SimpleNet`."""
import json
import pathlib

import torch
import torch.nn.functional as F
from torch import nn

from pattern import directional, parameter, sample, uniform

HIDDEN, MARGIN = 6, 0.5
SHAPES = [(2, 5, 6, 8), (2, 7, 3, 4)]


class Network(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.projection = nn.Linear(channels, channels)
        self.discriminator = nn.ModuleDict({
            "conv": nn.Linear(channels, HIDDEN),
            "bn": nn.BatchNorm1d(HIDDEN),
            "last": nn.Linear(HIDDEN, 1, bias=False),
        })

    def judge(self, rows):
        parts = self.discriminator
        return parts["last"](F.leaky_relu(parts["bn"](parts["conv"](rows)), 0.2))


def features(maps):
    """Means over 3×3 patches cut out of each stage, then on the first stage's grid."""
    means = []
    for stage in maps:
        n, c, h, w = stage.shape
        patches = F.unfold(stage, 3, padding=1).reshape(n, c, 9, h, w)
        means.append(F.interpolate(patches.mean(2), SHAPES[0][2:], mode="bilinear", align_corners=False))
    return torch.cat(means, 1)


maps = [torch.tensor(uniform(f"stage {at}", *shape)) for at, shape in enumerate(SHAPES)]
found = features(maps)
n, c, h, w = found.shape
rows = found.permute(0, 2, 3, 1).reshape(-1, c)
network = Network(c).double()
# Weights as those of 1×1 convolutions: the same values in the same order.
state = {}
for name, tensor in network.state_dict().items():
    if name.endswith("num_batches_tracked"):
        continue
    shape = (*tensor.shape, 1, 1) if tensor.dim() == 2 else tensor.shape
    state[name] = torch.tensor(parameter(name, *shape)).float().double().reshape(tensor.shape)
network.load_state_dict(state, strict=False)

network.eval()
with torch.no_grad():
    used = -network.judge(network.projection(rows))

network.train()
projected = network.projection(rows)
noise = torch.tensor(uniform("noise", n, c, h, w)).permute(0, 2, 3, 1).reshape(-1, c)
scores = network.judge(torch.cat([projected, projected + noise]))
true, fake = scores[: len(rows)], scores[len(rows):]
# As their code has it: D is large where a position is normal.
loss = torch.clip(-true + MARGIN, min=0).mean() + torch.clip(fake + MARGIN, min=0).mean()
loss.backward()

s, t = torch.tensor(uniform("scores", 2, 3, 4)).requires_grad_(), torch.tensor(uniform("noised", 2, 3, 4)).requires_grad_()
value = torch.clip(s + MARGIN, min=0).mean() + torch.clip(MARGIN - t, min=0).mean()
value.backward()
gradients = [(name, p.grad.reshape(*p.shape, 1, 1) if p.dim() == 2 else p.grad) for name, p in network.named_parameters()]
record = {
    "made_by": f"tests/golden/simplenet.py: torch {torch.__version__}",
    "shapes": SHAPES,
    "hidden": HIDDEN,
    "features": sample(found, 96),
    "eval": sample(used.reshape(n, h, w), 96),
    "train": [sample(-part.reshape(n, h, w), 48) for part in (true, fake)],
    "loss": loss.item(),
    "gradients": directional(gradients),
    "buffers": {name: sample(value, 6) for name, value in network.named_buffers() if "running" in name},
    "term": {"margin": MARGIN, "value": value.item(), "scores": s.grad.flatten().tolist(), "noised": t.grad.flatten().tolist()},
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(record) + "\n")
