"""The autoencoder of src/models/autoencoder.rs in PyTorch, f64: autoencoder.json. Run with torch (version in the file)."""
import json
import pathlib

import torch
import torch.nn.functional as F
from torch import nn

from pattern import directional, parameter, sample, uniform

CHANNELS, LATENT, DEPTH = 3, 5, 3
CELL = 4


def block(inputs, outputs, stride):
    return nn.ModuleDict({
        "conv": nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
        "bn": nn.BatchNorm2d(outputs),
    })


class Autoencoder(nn.Module):
    def __init__(self, colours):
        super().__init__()
        widths = [CHANNELS * min(4, 2**level) for level in range(DEPTH)]
        self.encoder = nn.ModuleList(block(i, o, 2) for i, o in zip([colours, *widths], widths))
        self.code = nn.Conv2d(widths[-1], LATENT, 1)
        down = [*widths[::-1], widths[0]]
        self.decoder = nn.ModuleList(block(i, o, 1) for i, o in zip([LATENT, *down], down))
        self.image = nn.Conv2d(widths[0], colours, 3, 1, 1)

    def forward(self, x):
        for layer in self.encoder:
            x = F.relu(layer["bn"](layer["conv"](x)))
        x = self.code(x)
        for at, layer in enumerate(self.decoder):
            if at > 0:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = F.relu(layer["bn"](layer["conv"](x)))
        return self.image(x)


network = Autoencoder(3).double()
state = {
    name: torch.tensor(parameter(name, *tensor.shape)).float().double()
    for name, tensor in network.state_dict().items()
    if not name.endswith("num_batches_tracked")
}
network.load_state_dict(state, strict=False)
images = torch.tensor(uniform("images", 2, 3, 16, 24))

network.eval()
with torch.no_grad():
    again = network(images)
    errors = F.avg_pool2d((images - again).pow(2).mean(1, keepdim=True), CELL).squeeze(1)

network.train()
loss = F.mse_loss(network(images), images)
loss.backward()
gradients = directional([(name, value.grad) for name, value in network.named_parameters()])

record = {
    "made_by": f"tests/golden/autoencoder.py: torch {torch.__version__}",
    "settings": {"channels": CHANNELS, "latent": LATENT, "depth": DEPTH},
    "images": list(images.shape),
    "again": sample(again),
    "map_shape": list(errors.shape),
    "map": sample(errors),
    "loss": loss.item(),
    "gradients": gradients,
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(record) + "\n")
