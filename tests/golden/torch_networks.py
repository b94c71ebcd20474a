"""The reference networks in PyTorch, where no package has them: for make_networks.py and for benches/torch_step.py.

Each returns logits, penultimate features and taps by name.
"""

from torch import nn
from torch.nn import functional as F


class LeNet(nn.Module):
    def __init__(self, channels, classes, flat):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(flat, 120), nn.Linear(120, 84), nn.Linear(84, classes)

    def forward(self, x):
        taps = {"conv1": F.max_pool2d(F.relu(self.conv1(x)), 2)}
        taps["conv2"] = F.max_pool2d(F.relu(self.conv2(taps["conv1"])), 2)
        features = F.relu(self.fc2(F.relu(self.fc1(taps["conv2"].flatten(1)))))
        return self.fc3(features), features, taps


class WideBlock(nn.Module):
    def __init__(self, inputs, outputs, stride, dropout):
        super().__init__()
        self.dropout = dropout
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        if inputs != outputs:
            self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        activated = F.relu(self.bn1(x))
        hidden = F.relu(self.bn2(self.conv1(activated)))
        residual = self.conv2(F.dropout(hidden, self.dropout, self.training))
        return residual + (self.convShortcut(activated) if hasattr(self, "convShortcut") else x)


class WideResNet(nn.Module):
    def __init__(self, depth, width, channels, classes, dropout=0.0):
        super().__init__()
        widths, count = [16, 16 * width, 32 * width, 64 * width], (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        for i in range(3):
            block = nn.Module()
            block.layer = nn.Sequential(
                *(WideBlock(widths[i + (j > 0)], widths[i + 1], 2 if i and not j else 1, dropout) for j in range(count))
            )
            setattr(self, f"block{i + 1}", block)
        self.bn1, self.fc = nn.BatchNorm2d(widths[3]), nn.Linear(widths[3], classes)

    def forward(self, x):
        taps, x = {}, self.conv1(x)
        for name in ["block1", "block2", "block3"]:
            x = taps[name] = getattr(self, name).layer(x)
        taps["relu"] = F.relu(self.bn1(x))
        features = F.adaptive_avg_pool2d(taps["relu"], 1).flatten(1)
        return self.fc(features), features, taps


class ResidualBlock(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class ResNet18(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        sizes = [64, 64, 128, 256, 512]
        for i in range(4):
            first = ResidualBlock(sizes[i], sizes[i + 1], 2 if i else 1)
            setattr(self, f"layer{i + 1}", nn.Sequential(first, ResidualBlock(sizes[i + 1], sizes[i + 1], 1)))
        self.fc = nn.Linear(512, classes)

    def forward(self, x):
        taps, x = {}, F.relu(self.bn1(self.conv1(x)))
        for name in ["layer1", "layer2", "layer3", "layer4"]:
            x = taps[name] = getattr(self, name)(x)
        features = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.fc(features), features, taps


class CifarBlock(ResidualBlock):
    """Option A of He et al. 2016: every second pixel, and zeros for the new channels, half of them on either side."""

    def __init__(self, inputs, outputs, stride):
        super().__init__(inputs, outputs, stride)
        pad = (outputs - inputs) // 2
        self.shortcut = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = Lambda(lambda x: F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, pad, pad)))


class Lambda(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class CifarResNet(nn.Module):
    def __init__(self, depth, channels, classes):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        sizes = [16, 16, 32, 64]
        for i in range(3):
            blocks = [CifarBlock(sizes[i], sizes[i + 1], 2 if i else 1)]
            blocks += [CifarBlock(sizes[i + 1], sizes[i + 1], 1) for _ in range((depth - 2) // 6 - 1)]
            setattr(self, f"layer{i + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(64, classes)

    def forward(self, x):
        taps, x = {}, F.relu(self.bn1(self.conv1(x)))
        for name in ["layer1", "layer2", "layer3"]:
            x = taps[name] = getattr(self, name)(x)
        features = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.linear(features), features, taps


class Vgg19(nn.Module):
    def __init__(self, channels, classes, first_pool, first=64):
        super().__init__()
        layers, self.ends = [], []
        for stage, (depth, times) in enumerate([(2, 1), (2, 2), (4, 4), (4, 8), (4, 8)]):
            width = times * first
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            if stage or first_pool:
                layers.append(nn.MaxPool2d(2))
            self.ends.append(len(layers))
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(8 * first, classes)

    def forward(self, x):
        taps, start = {}, 0
        for stage, end in enumerate(self.ends):
            x = taps[f"block{stage + 1}"] = self.features[start:end](x)
            start = end
        features = x.flatten(1)
        return self.classifier(features), features, taps
