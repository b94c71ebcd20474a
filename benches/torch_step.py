"""The work of examples/step.rs in PyTorch: reads lines, answers each with the milliseconds of one training step."""
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 6, 5), nn.Conv2d(6, 16, 5)
        self.fc1, self.fc2, self.fc3 = nn.Linear(256, 120), nn.Linear(120, 84), nn.Linear(84, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2).flatten(1)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride, dropout):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2, self.conv2 = nn.BatchNorm2d(outputs), nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.dropout, self.equal = dropout, inputs == outputs
        self.shortcut = None if self.equal else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        out = F.relu(self.bn1(x))
        skip = x if self.equal else self.shortcut(out)
        out = F.relu(self.bn2(self.conv1(out)))
        return skip + self.conv2(F.dropout(out, self.dropout, self.training))


class WideResNet(nn.Module):
    def __init__(self, depth=40, width=2, dropout=0.3):
        super().__init__()
        n = (depth - 4) // 6
        widths = [16, 16 * width, 32 * width, 64 * width]
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        blocks = []
        for stage in range(3):
            for i in range(n):
                inputs = widths[stage] if i == 0 else widths[stage + 1]
                blocks.append(Block(inputs, widths[stage + 1], 2 if i == 0 and stage > 0 else 1, dropout))
        self.blocks, self.bn = nn.Sequential(*blocks), nn.BatchNorm2d(widths[3])
        self.fc = nn.Linear(widths[3], 10)

    def forward(self, x):
        x = F.relu(self.bn(self.blocks(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


def main():
    torch.set_num_threads(int(sys.argv[2]))
    torch.manual_seed(0)
    net, batch, shape = {"lenet": (LeNet, 128, (1, 28, 28)), "wrn40_2": (WideResNet, 64, (3, 32, 32))}[sys.argv[1]]
    net = net().train()
    images, labels = torch.rand(batch, *shape) * 2 - 1, torch.arange(batch) % 10
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
    for _ in sys.stdin:
        started = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
        print((time.perf_counter() - started) * 1e3, flush=True)


main()
