"""The U-Net of src/nn/unet in PyTorch, f64, as diffusers has it: unet.json.

Run with torch and diffusers (versions in the file). Nothing is downloaded: weights are those of pattern.py.

- `cifar`: the settings of `google/ddpm-cifar10-32` (its config.json, written out below) at a quarter of the width and of the groups; forward, and one training step
  with the mean squared error of noise.
- `classes`: classes with one row more, of none, several heads, a group norm of fewer groups, and pixels unshuffled by 2.
- `embedding`: of times, diffusers' own, in single precision."""
import json
import math
import pathlib

import diffusers
import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from diffusers.models.embeddings import get_timestep_embedding
from torch import nn

from pattern import directional, parameter, sample, uniform


class Exact(nn.Module):
    """diffusers' embedding of times, which it calculates in single precision, in double."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, times):
        half = self.channels // 2
        rates = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float64) / (half - 1))
        waves = times.double()[:, None] * rates
        exact = torch.cat([waves.sin(), waves.cos()], 1)
        theirs = get_timestep_embedding(times, self.channels, downscale_freq_shift=1)
        assert (exact - theirs).abs().max() < 2e-4
        return exact


def unet(channels, widths, attention, blocks, size, **more):
    """`google/ddpm-cifar10-32`'s config.json, but for what is given."""
    levels = len(widths)
    down = ["AttnDownBlock2D" if at in attention else "DownBlock2D" for at in range(levels)]
    up = ["AttnUpBlock2D" if levels - 1 - at in attention else "UpBlock2D" for at in range(levels)]
    settings = dict(
        act_fn="silu",
        attention_head_dim=None,
        center_input_sample=False,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        mid_block_scale_factor=1,
        norm_eps=1e-6,
        norm_num_groups=32,
        time_embedding_type="positional",
    )
    network = UNet2DModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        block_out_channels=widths,
        layers_per_block=blocks,
        down_block_types=down,
        up_block_types=up,
        **{**settings, **more},
    )
    network = network.double().eval()
    state = {name: torch.tensor(parameter(name, *old.shape)).float().double() for name, old in network.state_dict().items()}
    network.load_state_dict(state)
    network.time_proj = Exact(widths[0])
    return network


def of(network, noisy, times, labels, target, unshuffled):
    if unshuffled > 1:
        noisy = F.pixel_unshuffle(noisy, unshuffled)
    output = network(noisy, torch.tensor(times, dtype=torch.float64), class_labels=labels).sample
    if unshuffled > 1:
        output = F.pixel_shuffle(output, unshuffled)
    loss = F.mse_loss(output, target)
    loss.backward()
    return {
        "images": list(target.shape),
        "times": times,
        "classes": None if labels is None else labels.tolist(),
        "output": sample(output, 200),
        "loss": loss.item(),
        "parameters": sum(value.numel() for value in network.parameters()),
        "gradients": directional([(name, value.grad) for name, value in network.named_parameters()]),
    }


images = torch.tensor(uniform("images", 2, 3, 32, 32))
noise = torch.tensor(uniform("noise", 2, 3, 32, 32))
cifar = of(unet(3, (32, 64, 64, 64), (1,), 2, 32, norm_num_groups=8), images, [7.0, 412.0], None, noise, 1)

images = torch.tensor(uniform("images", 3, 1, 8, 12))
noise = torch.tensor(uniform("noise", 3, 1, 8, 12))
# 4 heads of 12 channels. Of 24, 48, 72 and 96 channels, 8 groups are what they have in common with 40.
network = unet(4, (24, 48), (1,), 1, (4, 6), attention_head_dim=12, norm_num_groups=8, num_class_embeds=6)
classes = of(network, images, [0.0, 500.5, 999.0], torch.tensor([4, 5, 0]), noise, 2)

record = {
    "made_by": f"tests/golden/unet.py: torch {torch.__version__}, diffusers {diffusers.__version__}",
    "cifar": {"settings": {"channels": 32, "multipliers": [1, 2, 2, 2], "blocks": 2, "attention": [1], "groups": 8, "dropout": 0.0}, **cifar},
    "classes": {
        "settings": {"channels": 24, "multipliers": [1, 2], "blocks": 1, "attention": [1], "heads": 4, "groups": 40, "dropout": 0.0},
        **classes,
    },
    "embedding": {
        "times": [0.0, 1.0, 999.0],
        "even": sample(get_timestep_embedding(torch.tensor([0.0, 1.0, 999.0], dtype=torch.float64), 8, downscale_freq_shift=1)),
        "odd": sample(get_timestep_embedding(torch.tensor([0.0, 1.0, 999.0], dtype=torch.float64), 7, downscale_freq_shift=1)),
    },
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(record) + "\n")
