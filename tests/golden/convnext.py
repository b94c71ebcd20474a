"""Writes convnext.json: small networks of timm's ConvNeXt, and the names and shapes of convnext_tiny."""

import torch
from timm.models.convnext import ConvNeXt

from timm_networks import record, write

STAGES = [f"stages.{at}" for at in range(4)]


def network(depths, widths, count, side):
    # Sides that are no multiples of 32: what is left over is dropped.
    result = record(ConvNeXt(num_classes=5, depths=depths, dims=widths), STAGES, count, side)
    return {"settings": {"depths": depths, "widths": widths}, **result}


torch.manual_seed(0)
networks = [network([1, 2, 1, 1], [4, 6, 8, 12], 2, 64), network([2, 1, 1, 1], [5, 5, 8, 6], 3, 51)]
write(__file__, networks, {name: name for name in ["convnext_tiny", "convnext_small", "convnext_base"]})
