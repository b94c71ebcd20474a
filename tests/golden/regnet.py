"""Writes regnet.json: small networks of timm's RegNetY, and the names and shapes of regnety_160, the paper's RegNetY-16GF."""

import torch
from timm.models.regnet import RegNet, RegNetCfg

from timm_networks import record, write

STAGES = ["s1", "s2", "s3", "s4"]


def network(w0, wa, wm, depth, group, count, side):
    built = RegNet(RegNetCfg(w0=w0, wa=wa, wm=wm, group_size=group, depth=depth, se_ratio=0.25), num_classes=5)
    stages = [list(getattr(built, name).children()) for name in STAGES]
    widths = [blocks[0].conv3.conv.out_channels for blocks in stages]
    settings = {"depths": [len(blocks) for blocks in stages], "widths": widths, "group": group}
    return {"settings": settings, **record(built, STAGES, count, side)}


torch.manual_seed(0)
# Groups of several channels, one group where a stage has fewer, and a side that is no multiple of 32.
networks = [network(24, 16, 1.6, 6, 8, 2, 64), network(16, 20, 2.0, 5, 32, 3, 51)]
write(__file__, networks, {"regnety_16gf": "regnety_160"})
