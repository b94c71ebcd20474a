"""CutPaste's network, loss and windows in PyTorch, f64: cutpaste.json. Run with torch (version in the file)."""
import json
import pathlib

import torch
import torch.nn.functional as F
from pattern import directional, parameter, sample, uniform
from torch import nn
from torch_networks import CifarResNet

HEAD, CLASSES, MAKERS = [7, 5], 3, [0, 0, 1, 2]


class CutPaste(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = CifarResNet(20, 3, 10)
        widths = [64, *HEAD]
        layers = [layer for a, b in zip(widths, HEAD) for layer in (nn.Linear(a, b), nn.BatchNorm1d(b), nn.ReLU())]
        self.cutpaste = nn.ModuleDict({"head": nn.Sequential(*layers), "out": nn.Linear(HEAD[-1], CLASSES)})

    def features(self, images):
        return self.trunk(images)[1]

    def forward(self, images):
        features = self.features(images)
        return self.cutpaste["out"](self.cutpaste["head"](features)), features


model = CutPaste().double()
ours = lambda name: name.removeprefix("trunk.")
with torch.no_grad():
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.dtype == torch.float64:
            # The Rust tests round parameters to f32.
            value.copy_(torch.from_numpy(parameter(ours(name), *value.shape)).float().double())

images = torch.from_numpy(uniform("images", 4, 3, 16, 16))
model.eval()
with torch.no_grad():
    logits, features = model(images)
    # Windows of 16×16 at every 8 pixels of larger images, one by one.
    large = torch.from_numpy(uniform("large", 2, 3, 24, 36))
    windows = [[[model(image[None, :, y:y + 16, x:x + 16]) for x in (0, 8, 16)] for y in (0, 8)] for image in large]
    seen = torch.stack([torch.stack([torch.cat([one[1] for one in row]) for row in rows]) for rows in windows]).permute(0, 3, 1, 2)
    mean = torch.stack([torch.cat([one[0] for row in rows for one in row]).mean(0) for rows in windows])
model.train()
learned, _ = model(images)
loss = F.cross_entropy(learned, torch.tensor(MAKERS))
loss.backward()
used = [(ours(name), parameter.grad) for name, parameter in model.named_parameters() if parameter.grad is not None]
record = {
    "made_by": f"tests/golden/cutpaste.py: torch {torch.__version__}",
    "makers": MAKERS,
    "logits": logits.flatten().tolist(),
    "features": sample(features),
    "windows": sample(seen),
    "mean": mean.flatten().tolist(),
    "learned": learned.flatten().tolist(),
    "loss": loss.item(),
    "gradients": directional(used),
    "buffers": {name: sample(value) for name, value in model.cutpaste.named_buffers() if value.dtype == torch.float64},
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(record) + "\n")
