"""A block of timm's vision transformer, and the network of src/models/metaformer.rs in PyTorch, f64: metaformer.json.

Run with torch and timm (versions in the file)."""
import json
import pathlib

import timm
import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed
from timm.models.vision_transformer import Block
from torch import nn

from pattern import directional, parameter, sample, uniform

PATCH, WIDTH, DEPTH, HEADS, LATENT = 8, 12, 2, 3, 5
CELL = 4


def block(width, heads):
    return Block(width, heads, qkv_bias=True, norm_layer=lambda width: nn.LayerNorm(width, eps=1e-6))


def loaded(network):
    network = network.double()
    state = {name: torch.tensor(parameter(name, *old.shape)).float().double() for name, old in network.state_dict().items()}
    network.load_state_dict(state)
    return network


class Metaformer(nn.Module):
    def __init__(self, colours, height, width):
        super().__init__()
        self.grid = height // PATCH, width // PATCH
        count = self.grid[0] * self.grid[1]
        self.patch_embed = PatchEmbed((height, width), PATCH, colours, WIDTH)
        self.pos_embed = nn.Parameter(torch.zeros(1, count, WIDTH))
        self.blocks = nn.ModuleList(block(WIDTH, HEADS) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.instance = nn.ParameterDict({"query": nn.Parameter(torch.zeros(WIDTH))})
        self.instance["proj"] = nn.Linear(WIDTH, WIDTH)
        self.code = nn.Linear(WIDTH, LATENT)
        self.decoder_embed = nn.Linear(LATENT, WIDTH)
        self.decoder_pos_embed = nn.Parameter(torch.zeros(1, count, WIDTH))
        self.decoder_blocks = nn.ModuleList(block(WIDTH, HEADS) for _ in range(DEPTH))
        self.decoder_norm = nn.LayerNorm(WIDTH, eps=1e-6)
        self.decoder_pred = nn.Linear(WIDTH, PATCH * PATCH * colours)

    def forward(self, images):
        z = self.patch_embed(images) + self.pos_embed
        for layer in self.blocks:
            z = layer(z)
        z = self.norm(z)
        attention = torch.softmax(torch.einsum("ntd,d->nt", z, self.instance["query"]) / WIDTH**0.5, 1)
        found = self.instance["proj"](torch.einsum("nt,ntd->nd", attention, z))
        y = self.decoder_embed(self.code(z)) + self.decoder_pos_embed + found[:, None]
        for layer in self.decoder_blocks:
            y = layer(y)
        y = self.decoder_pred(self.decoder_norm(y))
        # As a masked autoencoder's `unpatchify`.
        rows, columns = self.grid
        y = y.reshape(len(y), rows, columns, PATCH, PATCH, -1)
        y = torch.einsum("nhwpqc->nchpwq", y).reshape(images.shape)
        return y, attention


torch.manual_seed(0)
tokens = torch.tensor(uniform("tokens", 2, 7, WIDTH), requires_grad=True)
one = loaded(block(WIDTH, HEADS))
output = one(tokens)
(output * torch.tensor(uniform("toward output", *output.shape))).sum().backward()
of_block = {
    "output": sample(output, 200),
    "input_gradient": sample(tokens.grad, 200),
    "gradients": directional([(name, value.grad) for name, value in one.named_parameters()]),
}

images = torch.tensor(uniform("images", 2, 3, 16, 24))
network = loaded(Metaformer(3, 16, 24))
again, attention = network(images)
loss = F.mse_loss(again, images)
loss.backward()
errors = F.avg_pool2d((images - again).pow(2).mean(1, keepdim=True), CELL).squeeze(1)
weights = attention.reshape(2, *network.grid) * attention.shape[1]
weights = weights.repeat_interleave(PATCH // CELL, 1).repeat_interleave(PATCH // CELL, 2)

record = {
    "made_by": f"tests/golden/metaformer.py: torch {torch.__version__}, timm {timm.__version__}",
    "block": {"tokens": list(tokens.shape), "heads": HEADS, **of_block},
    "settings": {"patch": PATCH, "width": WIDTH, "depth": DEPTH, "heads": HEADS, "latent": LATENT},
    "images": list(images.shape),
    "again": sample(again),
    "attention": sample(attention),
    "map_shape": list(errors.shape),
    "map": sample(errors * weights),
    "loss": loss.item(),
    "gradients": directional([(name, value.grad) for name, value in network.named_parameters()]),
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(record) + "\n")
