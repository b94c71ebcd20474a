"""The bottleneck and the decoder of reverse distillation (Deng & Li 2022) in PyTorch, for stages of any channels."""
import torch
import torch.nn.functional as F
from torch import nn


def conv(inputs, outputs, kernel, stride=1):
    return nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)


class Block(nn.Module):
    """A residual block; `stride` 2 halves rows and columns, `double` doubles them."""

    def __init__(self, inputs, outputs, wide=0, stride=1, double=False):
        super().__init__()
        self.deep = wide > 0
        inner = outputs // 4 * wide if self.deep else outputs
        moving = (lambda i, o: nn.ConvTranspose2d(i, o, 2, 2, bias=False)) if double else (lambda i, o: conv(i, o, 3, stride))
        if self.deep:
            self.conv1, self.conv2, self.conv3 = conv(inputs, inner, 1), moving(inner, inner), conv(inner, outputs, 1)
            self.bn3 = nn.BatchNorm2d(outputs)
        else:
            self.conv1, self.conv2 = moving(inputs, inner), conv(inner, outputs, 3)
        self.bn1, self.bn2 = nn.BatchNorm2d(inner), nn.BatchNorm2d(inner)
        self.skip = None
        if double:
            self.skip = "upsample"
            self.upsample = nn.Sequential(moving(inputs, outputs), nn.BatchNorm2d(outputs))
        elif stride != 1 or inputs != outputs:
            self.skip = "downsample"
            self.downsample = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs))

    def forward(self, x):
        skip = x if self.skip is None else getattr(self, self.skip)(x)
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.deep:
            y = self.bn3(self.conv3(F.relu(y)))
        return F.relu(y + skip)


class Bottleneck(nn.Module):
    def __init__(self, channels, blocks, wide):
        super().__init__()
        one, two, three = channels
        self.conv1, self.bn1 = conv(one, two, 3, 2), nn.BatchNorm2d(two)
        self.conv2, self.bn2 = conv(two, three, 3, 2), nn.BatchNorm2d(three)
        self.conv3, self.bn3 = conv(two, three, 3, 2), nn.BatchNorm2d(three)
        first = [Block(3 * three, 2 * three, wide, 2)]
        self.bn_layer = nn.Sequential(*first, *(Block(2 * three, 2 * three, wide) for _ in range(blocks - 1)))

    def forward(self, stages):
        one = F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(stages[0]))))))
        two = F.relu(self.bn3(self.conv3(stages[1])))
        return self.bn_layer(torch.cat([one, two, stages[2]], 1))


class Decoder(nn.Module):
    def __init__(self, channels, blocks, wide):
        super().__init__()
        one, two, three = channels
        for number, (inputs, outputs) in enumerate([(2 * three, three), (three, two), (two, one)]):
            layer = [Block(inputs, outputs, wide, double=True)]
            layer += [Block(outputs, outputs, wide) for _ in range(blocks[number] - 1)]
            setattr(self, f"layer{number + 1}", nn.Sequential(*layer))

    def forward(self, x):
        three = self.layer1(x)
        two = self.layer2(three)
        return [self.layer3(two), two, three]


class Reverse(nn.Module):
    """`wide`: 0 for basic blocks, else how many times wider the inner convolutions of bottleneck blocks are."""

    def __init__(self, channels, blocks, wide):
        super().__init__()
        self.bottleneck = Bottleneck(channels, blocks[0], wide)
        self.decoder = Decoder(channels, blocks, wide)

    def forward(self, stages):
        return self.decoder(self.bottleneck(stages))
