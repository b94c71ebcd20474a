"""Patch description networks and the autoencoder of EfficientAD in PyTorch: for patch_description.py and benches/torch_step.py."""
import torch.nn as nn
import torch.nn.functional as F


class Small(nn.Module):
    def __init__(self, channels, outputs, padded):
        super().__init__()
        self.padded = padded
        pads = [3, 3, 1, 0] if padded else [0] * 4
        widths = [3, channels, 2 * channels, 2 * channels, outputs]
        for at, (kernel, pad) in enumerate(zip([4, 4, 3, 4], pads)):
            setattr(self, f"conv{at + 1}", nn.Conv2d(widths[at], widths[at + 1], kernel, padding=pad))

    def forward(self, x):
        pool = lambda x: F.avg_pool2d(x, 2, 2, padding=int(self.padded))
        x = pool(F.relu(self.conv1(x)))
        x = pool(F.relu(self.conv2(x)))
        return self.conv4(F.relu(self.conv3(x)))


class Patches(nn.Module):
    """Those of uninformed students."""

    KERNELS = {"p17": [6, 5, 5, 4], "p33": [5, 5, 2, 4], "p65": [5, 5, 5, 4, 1]}
    PADS = {"p17": [3, 2, 2, 1], "p33": [2, 2, 1, 1], "p65": [2, 2, 2, 1, 0]}
    WIDTHS = {"p17": [1, 2, 2], "p33": [1, 2, 2], "p65": [1, 1, 2, 2]}
    POOLS = {"p17": 0, "p33": 2, "p65": 3}

    def __init__(self, layers, channels, outputs, padded):
        super().__init__()
        self.layers = layers
        widths = [3] + [channels * width for width in self.WIDTHS[layers]] + [outputs]
        for at, kernel in enumerate(self.KERNELS[layers]):
            conv = nn.Conv2d(widths[at], widths[at + 1], kernel, padding=self.PADS[layers][at] if padded else 0)
            setattr(self, f"conv{at + 1}", conv)

    def forward(self, x):
        count = len(self.KERNELS[self.layers])
        for at in range(count):
            x = getattr(self, f"conv{at + 1}")(x)
            if at < count - 1:
                x = F.leaky_relu(x, 0.005)
            if at < self.POOLS[self.layers]:
                x = F.max_pool2d(x, 2, 2)
        return x


def network(layers, channels, outputs, padded):
    return Small(channels, outputs, padded) if layers == "small" else Patches(layers, channels, outputs, padded)


class Encoder(nn.Module):
    def __init__(self, width, halvings):
        super().__init__()
        self.halvings = halvings
        channels = 3
        for at in range(halvings):
            outputs = width // 2 if at < 2 else width
            setattr(self, f"enconv{at + 1}", nn.Conv2d(channels, outputs, 4, stride=2, padding=1))
            channels = outputs
        self.enconv6 = nn.Conv2d(channels, width, 8)

    def forward(self, x):
        for at in range(self.halvings):
            x = F.relu(getattr(self, f"enconv{at + 1}")(x))
        return self.enconv6(x)


class Decoder(nn.Module):
    """At 256 rows: 3, 8, 15, 32, 63, 127, as anomalib counts them."""

    def __init__(self, width, outputs, size, halvings, grid):
        super().__init__()
        all = [(6, 1), (5, 0), (4, 1), (3, 0), (2, 1), (1, 1)]
        self.steps = [(at + 1, [(side >> k) - less for side in size]) for at, (k, less) in enumerate(all) if k <= halvings + 1]
        self.grid = grid
        for number, _ in self.steps:
            setattr(self, f"deconv{number}", nn.Conv2d(width, width, 4, padding=2))
        self.deconv7 = nn.Conv2d(width, width, 3, padding=1)
        self.deconv8 = nn.Conv2d(width, outputs, 3, padding=1)

    def forward(self, x):
        for number, size in self.steps:
            x = F.interpolate(x, size=size, mode="bilinear")
            x = F.relu(getattr(self, f"deconv{number}")(x))
        x = F.interpolate(x, size=self.grid, mode="bilinear")
        return self.deconv8(F.relu(self.deconv7(x)))


class Autoencoder(nn.Module):
    def __init__(self, width, outputs, size, halvings, grid):
        super().__init__()
        self.encoder = Encoder(width, halvings)
        self.decoder = Decoder(width, outputs, size, halvings, grid)

    def forward(self, x):
        return self.decoder(self.encoder(x))
