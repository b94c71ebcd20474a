"""Teachers and students in PyTorch, f64: distillation.json. Run with torch (version in the file).

With anomalib beside it (`--anomalib FOLDER`, where its package is), the networks here are compared with anomalib's at a ResNet's channels."""
import importlib.util
import json
import pathlib
import sys

import torch
import torch.nn.functional as F

from pattern import directional, parameter, sample, uniform
from reverse_networks import Reverse


def load(network):
    state = {
        name: torch.tensor(parameter(name, *tensor.shape)).float().double()
        for name, tensor in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    network.double().load_state_dict(state, strict=False)
    return network


def reverse(channels, blocks, wide):
    """As used, and one step of the sum of y·toward."""
    sizes = [(16, 24), (8, 12), (4, 6)]
    stages = [torch.tensor(uniform(f"stage {at}", 3, c, *size)) for at, (c, size) in enumerate(zip(channels, sizes))]
    network = load(Reverse(channels, blocks, wide)).eval()
    with torch.no_grad():
        used = [sample(made) for made in network(stages)]
    network.train()
    made = network(stages)
    sum((y * torch.tensor(uniform(f"toward {at}", *y.shape))).sum() for at, y in enumerate(made)).backward()
    return {
        "channels": channels,
        "blocks": blocks,
        "wide": wide,
        "eval": used,
        "train": [sample(y) for y in made],
        "gradients": directional([(name, value.grad) for name, value in network.named_parameters()]),
        "buffers": {name: sample(value, 2) for name, value in network.named_buffers() if "running" in name},
    }


def as_anomalib(folder):
    def module(path):
        spec = importlib.util.spec_from_file_location("of_anomalib", pathlib.Path(folder) / path)
        found = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found)
        return found

    ocbe = module("models/image/reverse_distillation/components/bottleneck.py")
    backbone = module("models/components/backbone/resnet_decoder.py")
    for name, channels, blocks, wide in [("resnet18", [64, 128, 256], [2, 2, 2], 0), ("resnet50", [256, 512, 1024], [3, 4, 6], 1)]:
        ours = load(Reverse(channels, blocks, wide)).eval()
        bottleneck, decoder = ocbe.get_bottleneck_layer(name).double(), backbone.get_decoder(name).double()
        # conv4 and bn4 are theirs alone, and unused.
        unused = bottleneck.load_state_dict(ours.bottleneck.state_dict(), strict=False)
        assert not unused.unexpected_keys and all(key.startswith(("conv4", "bn4")) for key in unused.missing_keys)
        decoder.load_state_dict(ours.decoder.state_dict())
        stages = [torch.randn(1, c, 32 // 2**at, 32 // 2**at).double() for at, c in enumerate(channels)]
        with torch.no_grad():
            theirs = decoder.eval()(bottleneck.eval()(stages))
            apart = max((one - other).abs().max() / other.abs().max() for one, other in zip(ours(stages), theirs))
        assert apart < 1e-12, f"{name}: {apart}"
    return "; networks as anomalib's"


def pairs():
    shapes = [(3, 5, 6, 8), (3, 7, 3, 4)]
    return [tuple(torch.tensor(uniform(f"{who} {at}", *shape)) for who in ("teacher", "student")) for at, shape in enumerate(shapes)]


def flat(teacher, student):
    return (1 - F.cosine_similarity(teacher.flatten(1), student.flatten(1))).mean()


def pixel(teacher, student):
    found = (1 - F.cosine_similarity(teacher, student)).mean()
    # STFPM's own form, and anomalib's.
    apart = (F.normalize(teacher) - F.normalize(student)).pow(2)
    assert torch.isclose(apart.sum(1).mean() / 2, found, rtol=1e-12)
    images, _, rows, columns = teacher.shape
    assert torch.isclose(0.5 / (rows * columns) * apart.sum() / images, found, rtol=1e-12)
    return found


def loss(name, term):
    of = [(teacher, student.requires_grad_()) for teacher, student in pairs()]
    value = sum(term(*pair) for pair in of)
    value.backward()
    return {"of": name, "value": value.item(), "gradients": [student.grad.flatten().tolist() for _, student in of]}


def maps(combine, align_corners):
    all = [1 - F.cosine_similarity(*pair) for pair in pairs()]
    all = [F.interpolate(map[:, None], size=(6, 8), mode="bilinear", align_corners=align_corners)[:, 0] for map in all]
    map = all[0] + all[1] if combine == "sum" else all[0] * all[1]
    return {"combine": combine, "align_corners": align_corners, "map": map.flatten().tolist()}


compared = as_anomalib(sys.argv[2]) if sys.argv[1:2] == ["--anomalib"] else ""
record = {
    "made_by": f"tests/golden/distillation.py: torch {torch.__version__}{compared}",
    "reverse": [reverse([5, 6, 9], [2, 2, 2], 0), reverse([4, 8, 12], [3, 4, 6], 2)],
    "losses": [loss("flat", flat), loss("pixel", pixel)],
    "maps": [maps("sum", True), maps("product", False)],
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(record) + "\n")
