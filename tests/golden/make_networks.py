"""Writes networks.json: what PyTorch's versions of our networks give for the weights and images of pattern.py.

python make_networks.py   (torch 2.15.0, numpy; any recent version should do)
"""

import json
import pathlib

import numpy
import torch
from torch import nn
from torch.nn import functional as F

from pattern import parameter, sample, uniform


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
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        if inputs != outputs:
            self.convShortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        activated = F.relu(self.bn1(x))
        residual = self.conv2(F.relu(self.bn2(self.conv1(activated))))
        return residual + (self.convShortcut(activated) if hasattr(self, "convShortcut") else x)


class WideResNet(nn.Module):
    def __init__(self, depth, width, channels, classes):
        super().__init__()
        widths, count = [16, 16 * width, 32 * width, 64 * width], (depth - 4) // 6
        self.conv1 = nn.Conv2d(channels, 16, 3, 1, 1, bias=False)
        for i in range(3):
            block = nn.Module()
            block.layer = nn.Sequential(
                *(WideBlock(widths[i + (j > 0)], widths[i + 1], 2 if i and not j else 1) for j in range(count))
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


class Vgg19(nn.Module):
    def __init__(self, channels, classes, first_pool):
        super().__init__()
        layers, self.ends = [], []
        for stage, (depth, width) in enumerate([(2, 64), (2, 128), (4, 256), (4, 512), (4, 512)]):
            for _ in range(depth):
                layers += [nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
                channels = width
            if stage or first_pool:
                layers.append(nn.MaxPool2d(2))
            self.ends.append(len(layers))
        self.features, self.classifier = nn.Sequential(*layers), nn.Linear(512, classes)

    def forward(self, x):
        taps, start = {}, 0
        for stage, end in enumerate(self.ends):
            x = taps[f"block{stage + 1}"] = self.features[start:end](x)
            start = end
        features = x.flatten(1)
        return self.classifier(features), features, taps


def record(network, images, labels):
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    network.double()
    network.load_state_dict({k: torch.from_numpy(parameter(k, *v.shape)).float() for k, v in state.items()}, strict=False)
    result = {"parameters": sorted(state), "trainable": sum(p.numel() for p in network.parameters())}
    for mode in ["eval", "train"]:
        network.train(mode == "train")
        logits, features, taps = network(images)
        result[mode] = {
            "logits": sample(logits, 10**6),
            "features": sample(features),
            "taps": {k: {"shape": list(v.shape), "values": sample(v)} for k, v in taps.items()},
        }
    loss = F.cross_entropy(logits, labels)
    loss.backward()
    result["loss"] = loss.item()
    result["gradients"] = {
        name: [float((p.grad.numpy() ** 2).sum() ** 0.5), float((p.grad.numpy() * uniform(f"toward {name}", *p.shape)).sum())]
        for name, p in network.named_parameters()
    }
    result["buffers"] = {name: sample(b, 8) for name, b in network.named_buffers() if b.ndim}
    return result


def images(count, channels, size):
    return torch.from_numpy(uniform("images", count, channels, size, size)).float().double() * 1.5


torch.set_num_threads(2)
cases = [
    ("lenet 28", LeNet(1, 10, 256), 2, 1, 28),
    ("lenet 32", LeNet(3, 7, 400), 2, 3, 32),
    ("wide_resnet 16 2", WideResNet(16, 2, 3, 10), 2, 3, 32),
    ("wide_resnet 10 1", WideResNet(10, 1, 1, 5), 3, 1, 28),
    ("resnet18", ResNet18(3, 10), 2, 3, 32),
    ("vgg19_bn 32", Vgg19(3, 10, True), 4, 3, 32),
    ("vgg19_bn 28", Vgg19(1, 10, False), 2, 1, 28),
]
golden = {"versions": {"torch": torch.__version__, "numpy": numpy.__version__}}
for name, network, count, channels, size in cases:
    labels = torch.arange(count) % 5
    golden[name] = {"images": [count, channels, size, size], **record(network, images(count, channels, size), labels)}
path = pathlib.Path(__file__).with_name("networks.json")
path.write_text(json.dumps(golden, separators=(",", ":")).replace('"eval"', '\n"eval"').replace('"train":', '\n"train":') + "\n")
