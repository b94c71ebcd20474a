"""The texture part and the self-calibrated convolution of src/nn in PyTorch: for stl.py and benches/torch_step.py.

The texture part is STLNet's with all widths in terms of one, and with tables of pixels by levels in full.
"""
import torch
import torch.nn.functional as F
from torch import nn


class Conv(nn.Module):
    """A convolution without bias, perhaps batch normalisation; over 1×N images where STLNet has one dimension."""

    def __init__(self, inputs, outputs, kernel=1, norm=True, relu=False):
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, 1, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs) if norm else nn.Identity()
        self.relu = nn.ReLU() if relu else nn.Identity()

    def forward(self, x):
        return self.relu(self.bn(self.conv(x)))


def quantise(m, levels, assign):
    """Levels (..., N) of the last axis of m (..., K), and the weights (..., K, N) of the hits."""
    low, high = m.min(-1, keepdim=True)[0], m.max(-1, keepdim=True)[0]
    n = torch.arange(levels, dtype=m.dtype)
    if assign == "official":
        level = (2 * n + 1) / (2 * levels) * (high - low) + low
        weight = 1 - (level.unsqueeze(-2) - m.unsqueeze(-1)).abs()
        step = (level[..., 1] - level[..., 0])[..., None, None]
        return level, weight * (weight > 1 - step)
    level = (n + 1) / levels * (high - low) + low
    difference = level.unsqueeze(-2) - m.unsqueeze(-1)
    # As shares of the range, and what lies below all levels belongs to the first.
    share = difference / (high - low).unsqueeze(-1)
    hit = (share >= -0.5 / levels) & (share < 0.5 / levels)
    hit[..., 0] |= share[..., 0] >= 0.5 / levels
    return level, (1 - difference.abs()) * hit


def margin(m, levels):
    """How far the similarities (..., K) are from where hits or signs change, in levels."""
    low, high = m.min(-1, keepdim=True)[0], m.max(-1, keepdim=True)[0]
    place = (m - low) / (high - low) * levels
    inner = (m > low) & (m < high)
    return ((place * 2 - (place * 2).round()).abs() / 2)[inner].min()


def cosine(a, b):
    return (F.normalize(a, dim=1) * F.normalize(b, dim=1)).sum(1)


class Qco1d(nn.Module):
    def __init__(self, width, levels, assign):
        super().__init__()
        half, quarter = width // 2, width // 4
        self.levels, self.assign, self.margin = levels, assign, None
        self.conv1, self.conv2 = nn.Sequential(Conv(width, width, 3), nn.LeakyReLU()), Conv(width, half, norm=False)
        self.f1 = nn.Sequential(Conv(2, quarter, norm=False), nn.LeakyReLU())
        self.f2, self.out = Conv(quarter, half, norm=False), Conv(width, half)

    def forward(self, x):
        x = self.conv2(self.conv1(x))
        mean = F.adaptive_avg_pool2d(x, 1)
        m = cosine(mean, x).flatten(1)
        self.margin = margin(m.detach(), self.levels)
        level, weight = quantise(m, self.levels, self.assign)
        count = weight.sum(1)
        count = count / count.sum(-1, keepdim=True)
        d = F.relu(self.f2(self.f1(torch.stack([level, count], 1).unsqueeze(2))))
        return F.relu(self.out(torch.cat([d, mean.expand(-1, -1, 1, self.levels)], 1))), weight


class Tem(nn.Module):
    def __init__(self, width, levels, assign):
        super().__init__()
        half = width // 2
        self.qco = Qco1d(width, levels, assign)
        self.k, self.q, self.v = (Conv(half, half, norm=False) for _ in range(3))
        self.out = Conv(half, width)

    def forward(self, x):
        d, weight = self.qco(x)
        k, q, v = (layer(d).squeeze(2) for layer in (self.k, self.q, self.v))
        attention = (k.transpose(1, 2) @ q).softmax(-1)
        features = F.relu(self.out((attention @ v.transpose(1, 2)).transpose(1, 2).unsqueeze(2))).squeeze(2)
        return (features @ weight.transpose(1, 2)).reshape(x.shape)


class Qco2d(nn.Module):
    def __init__(self, width, scale, levels, assign):
        super().__init__()
        half, quarter = width // 2, width // 4
        self.scale, self.levels, self.assign, self.margin = scale, levels, assign, None
        self.f1, self.f2 = nn.Sequential(Conv(3, quarter, norm=False), nn.LeakyReLU()), Conv(quarter, half, norm=False)
        self.out = nn.Sequential(Conv(width + half, half, relu=True), Conv(half, half))

    def forward(self, x):
        n, c, height, width = x.shape
        s, levels = self.scale, self.levels
        h, w = height // s, width // s
        mean = F.adaptive_avg_pool2d(x, s)
        m = cosine(F.adaptive_avg_pool2d(mean, (height, width)), x)
        m = m.reshape(n, s, h, s, w).transpose(2, 3).reshape(n, s * s, h * w)
        self.margin = margin(m.detach(), levels)
        level, weight = quantise(m, levels, self.assign)
        weight = weight.reshape(n, s * s, h, w, levels)
        # Of each pixel and the one below it to the right, all pairs of levels.
        pairs = weight[:, :, :-1, :-1, :, None] * weight[:, :, 1:, 1:, None, :]
        count = pairs.sum((2, 3)).flatten(2)
        count = count / count.sum(-1, keepdim=True)
        of_right = level[:, :, None, :].expand(-1, -1, levels, -1).flatten(2)
        of_left = level[:, :, :, None].expand(-1, -1, -1, levels).flatten(2)
        pairs = F.relu(self.f2(self.f1(torch.stack([of_right, of_left, count], 1))))
        shared = mean.reshape(n, c, s * s, 1).expand(-1, -1, -1, levels * levels)
        return self.out(torch.cat([shared, pairs], 1)).mean(-1).reshape(n, -1, s, s)


class Ptfem(nn.Module):
    def __init__(self, width, scales, levels, assign):
        super().__init__()
        self.conv, self.scales = Conv(2 * width, width, norm=False), scales
        for scale in scales:
            setattr(self, f"qco_{scale}", Qco2d(width, scale, levels, assign))
        self.out = Conv(width // 2 * len(scales), width)

    def forward(self, x):
        x = self.conv(x)
        branches = [getattr(self, f"qco_{scale}")(x) for scale in self.scales]
        branches = [F.interpolate(branch, x.shape[2:], mode="bilinear", align_corners=True) for branch in branches]
        return F.relu(self.out(torch.cat(branches, 1)))


class Stl(nn.Module):
    def __init__(self, inputs, width, levels=128, cooccurrence_levels=8, scales=(1, 2, 4, 8), assign="official"):
        super().__init__()
        self.conv_start = Conv(inputs, width)
        self.tem, self.ptfem = Tem(width, levels, assign), Ptfem(width, scales, cooccurrence_levels, assign)

    def forward(self, x):
        x = F.relu(self.conv_start(x))
        both = torch.cat([self.tem(x), x], 1)
        return torch.cat([self.ptfem(both), both], 1)


class SelfCalibrated(nn.Module):
    def __init__(self, inputs, width, rate=4, relu=False):
        super().__init__()
        channels, self.relu, self.rate = min(inputs, width), relu, rate
        if channels < inputs:
            self.conv1, self.bn1 = nn.Conv2d(inputs, channels, 1, bias=False), nn.BatchNorm2d(channels)
        layer = lambda: [nn.Conv2d(channels, channels, 3, 1, 1, bias=False), nn.BatchNorm2d(channels)]
        self.scconv = nn.Module()
        self.scconv.k2 = nn.Sequential(nn.AvgPool2d(rate, rate), *layer())
        self.scconv.k3, self.scconv.k4 = nn.Sequential(*layer()), nn.Sequential(*layer())

    def forward(self, x):
        if hasattr(self, "conv1"):
            x = F.relu(self.bn1(self.conv1(x)))
        gate = torch.sigmoid(x + F.interpolate(self.scconv.k2(x), x.shape[2:]))
        y = self.scconv.k4(self.scconv.k3(x) * gate)
        return F.relu(y) if self.relu else y
