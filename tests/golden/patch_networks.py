"""Patch SVDD's networks in PyTorch, of any widths: with n convolutions, patches have 4n and 8n pixels."""
import torch
import torch.nn.functional as F
from torch import nn


class Small(nn.Module):
    def __init__(self, channels, features):
        super().__init__()
        widths = [3, *channels, features]
        for at, (a, b) in enumerate(zip(widths, widths[1:])):
            self.add_module(f"conv{at + 1}", nn.Conv2d(a, b, 3, 2 if at == 0 else 1))

    def forward(self, x):
        convolutions = list(self.children())
        for conv in convolutions[:-1]:
            x = F.leaky_relu(conv(x), 0.1)
        return torch.tanh(convolutions[-1](x))


class Position(nn.Module):
    def __init__(self, features, hidden):
        super().__init__()
        self.fc1, self.fc2, self.fc3 = nn.Linear(features, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, 8)

    def forward(self, a, b):
        x = F.leaky_relu(self.fc1(a - b), 0.1)
        x = F.leaky_relu(self.fc2(x), 0.1)
        with torch.no_grad():
            weight = self.fc3.weight / self.fc3.weight.norm(dim=0, keepdim=True)
        return F.linear(x, weight, self.fc3.bias)


class PatchSvdd(nn.Module):
    def __init__(self, channels=(32, 64, 128, 128, 64, 32, 32), features=64, hidden=128):
        super().__init__()
        self.side = 4 * (len(channels) + 1)
        self.enc = Small(channels, features)
        self.conv1, self.conv2 = nn.Conv2d(features, hidden, 2), nn.Conv2d(hidden, features, 1)
        self.cls_large, self.cls_small = Position(features, hidden), Position(features, hidden)

    def small(self, x):
        return self.enc(x).flatten(1)

    def large(self, x):
        side = self.side
        quarters = torch.cat([x[..., y:y + side, z:z + side] for y in (0, side) for z in (0, side)])
        tl, tr, bl, br = self.enc(quarters).chunk(4)
        square = torch.cat([torch.cat([tl, tr], 3), torch.cat([bl, br], 3)], 2)
        return torch.tanh(self.conv2(F.leaky_relu(self.conv1(square), 0.1))).flatten(1)
