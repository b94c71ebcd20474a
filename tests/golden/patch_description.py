"""Patch description networks, EfficientAD and uninformed students in PyTorch, f64: patch_description.json. Run with torch (version in the file).

With EfficientAD's code beside it (`--code FOLDER`, where `common.py` is), the small network and the autoencoder here are compared with its own."""
import importlib.util
import json
import pathlib
import sys

import torch
import torch.nn.functional as F

from description_networks import Autoencoder, Patches, Small, network
from pattern import directional, parameter, sample, uniform

torch.set_default_dtype(torch.float64)


def load(module, prefix=""):
    state = {name: torch.tensor(parameter(prefix + name, *old.shape)).float().double() for name, old in module.state_dict().items()}
    module.load_state_dict(state)
    return module


def as_the_code(folder):
    spec = importlib.util.spec_from_file_location("common", pathlib.Path(folder) / "common.py")
    code = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(code)
    image = torch.randn(1, 3, 256, 256)
    for padded in [False, True]:
        ours, theirs = Small(128, 384, padded), code.get_pdn_small(384, padding=padded)
        ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values())))
        assert torch.equal(ours(image), theirs(image)), f"padding {padded}"
    ours, theirs = Autoencoder(64, 384, [256, 256], 5, [56, 56]), code.get_autoencoder(384)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values())))
    assert torch.equal(ours(image), theirs(image))
    return "; PDN-S and autoencoder as EfficientAD's code"


def networks():
    cases = []
    images = torch.tensor(uniform("images", 2, 3, 70, 72))
    for layers in ["small", "p17", "p33", "p65"]:
        for padded in [False, True]:
            net = load(network(layers, 2, 3, padded))
            found = net(images)
            (found * torch.tensor(uniform("toward", *found.shape))).sum().backward()
            gradients = directional([(name, value.grad) for name, value in net.named_parameters()])
            cases.append({"layers": layers, "padded": padded, "shape": list(found.shape), "values": sample(found), "gradients": gradients})
    return cases


def standard(x, mean, variance):
    return (x - mean[:, None, None]) / variance.sqrt()[:, None, None]


def margin(map, size, stride):
    """As many of the nearest values as make up for patches that are not whole."""
    pads = []
    for side, found in zip(size[::-1], map.shape[:0:-1]):
        pad = -(-side // stride) - found
        pads += [pad // 2, pad - pad // 2]
    return F.pad(map[:, None], pads, mode="replicate")[:, 0]


def hard(squares, q):
    return squares[squares >= torch.quantile(squares, q)].mean()


SIZE, OUTPUTS, WIDTH = [48, 64], 5, 4


def outputs_of():
    return [torch.tensor(parameter(f"teacher_outputs.running_{name}", OUTPUTS)).float().double() for name in ["mean", "var"]]


def efficient_ad():
    images = torch.tensor(uniform("images", 3, 3, *SIZE))
    teacher, student = load(Small(2, OUTPUTS, False), "teacher."), load(Small(2, 2 * OUTPUTS, False), "student.")
    with torch.no_grad():
        taught = standard(teacher(images), *outputs_of())
    autoencoder = load(Autoencoder(WIDTH, OUTPUTS, SIZE, 2, list(taught.shape[2:])), "autoencoder.")
    seen, made = student(images), autoencoder(images)
    local, other = seen[:, :OUTPUTS], seen[:, OUTPUTS:]
    loss = hard((taught - local) ** 2, 0.9) + ((taught - made) ** 2).mean() + ((made - other) ** 2).mean()
    loss.backward()
    parameters = [(f"{name}.{key}", value) for name, net in [("student", student), ("autoencoder", autoencoder)] for key, value in net.named_parameters()]
    maps = [((taught - local) ** 2).mean(1), ((made - other) ** 2).mean(1)]
    maps = [margin(map.detach(), SIZE, 4) for map in maps]
    return {
        "size": SIZE, "outputs": OUTPUTS, "width": WIDTH, "loss": loss.item(),
        "gradients": directional([(name, value.grad) for name, value in parameters]),
        "grid": list(maps[0].shape[1:]), "local": sample(maps[0]), "global": sample(maps[1]), "map": sample((maps[0] + maps[1]) / 2),
    }


def students():
    images = torch.tensor(uniform("images", 3, 3, *SIZE))
    teacher = load(Patches("p33", 2, OUTPUTS, False), "teacher.")
    all = [load(Patches("p33", 2, OUTPUTS, False), f"students.{at}.") for at in range(3)]
    with torch.no_grad():
        taught = standard(teacher(images), *outputs_of())
        made = torch.stack([student(images) for student in all])
        # The paper's: the squared error of the mean, and the mean squared length less that of the mean.
        error = ((made.mean(0) - taught) ** 2).sum(1) / OUTPUTS
        variance = ((made**2).sum(2).mean(0) - (made.mean(0) ** 2).sum(1)) / OUTPUTS
        loss = sum(((student - taught) ** 2).mean() for student in made)
    error, variance = [margin(map, SIZE, 4) for map in (error, variance)]
    return {"loss": loss.item(), "error": sample(error), "variance": sample(variance)}


def students_of_two_sizes():
    """Padded, so that an image of 48 rows has patches of 65 pixels; maps of the larger patches at the grid of the smaller."""
    images = torch.tensor(uniform("images", 3, 3, *SIZE))
    found, maps, loss = {}, [], 0
    for layers, stride, below in [("p33", 4, ""), ("p65", 8, "further.0.")]:
        teacher = load(Patches(layers, 2, OUTPUTS, True), "teacher." + below)
        all = [load(Patches(layers, 2, OUTPUTS, True), f"students.{below}{at}.") for at in range(3)]
        moments = [torch.tensor(parameter(f"teacher_outputs.{below}running_{name}", OUTPUTS)).float().double() for name in ["mean", "var"]]
        with torch.no_grad():
            taught = standard(teacher(images), *moments)
            made = torch.stack([student(images) for student in all])
            loss = loss + sum(((student - taught) ** 2).mean() for student in made)
            error, variance = ((made.mean(0) - taught) ** 2).mean(1), made.var(0, correction=0).mean(1)
        for name, map in [("error", error), ("variance", variance)]:
            map = F.interpolate(margin(map, SIZE, stride)[:, None], size=[12, 16], mode="bilinear")[:, 0]
            found[f"{name} of {layers}"] = sample(map)
            maps.append(map)
    return {"loss": loss.item(), "map": sample(torch.stack(maps).mean(0)), **found}


def losses():
    shape = (3, 5, 4, 6)
    maps = lambda name: torch.tensor(uniform(name, *shape))
    cases = []

    def case(name, value, leaves):
        value.backward()
        cases.append({"term": name, "value": value.item(), "gradients": [sample(leaf.grad, leaf.numel()) for leaf in leaves]})

    for q in [None, 0.9, 0.999]:
        pairs = [[maps(f"{who} {at}").requires_grad_() for who in ["teacher", "student"]] for at in range(3)]
        squares = [(teacher - student) ** 2 for teacher, student in pairs]
        first = squares[0].mean() if q is None else hard(squares[0], q)
        case(f"regression {q}", first + squares[1].mean() + squares[2].mean(), [leaf for pair in pairs for leaf in pair])
    student = maps("student 0").requires_grad_()
    case("student_penalty", (student**2).mean(), [student])
    embedding = maps("embedding").requires_grad_()
    flat = embedding.transpose(0, 1).flatten(1)
    correlations = torch.corrcoef(flat)
    case("compactness", (correlations**2).sum() - (torch.diagonal(correlations) ** 2).sum(), [embedding])
    return cases


def measured():
    """Parts of maps of train images, and of others measured by them."""
    train, test = [[torch.tensor(uniform(f"{who} {name}", images, 4, 5)) ** 2 for name in ["a", "b"]] for who, images in [("train", 7), ("test", 3)]]
    quantiles, deviations = 0, 0
    for part, new in zip(train, test):
        low, high = torch.quantile(part, 0.9), torch.quantile(part, 0.995)
        quantiles = quantiles + 0.5 * (0.1 * (new - low) / (high - low))
        deviations = deviations + 0.5 * (new - part.mean()) / part.std(correction=0)
    return {"quantiles": quantiles.flatten().tolist(), "deviations": deviations.flatten().tolist()}


compared = as_the_code(sys.argv[2]) if sys.argv[1:2] == ["--code"] else ""
record = {
    "made_by": f"tests/golden/patch_description.py: torch {torch.__version__}{compared}",
    "networks": networks(),
    "efficient_ad": efficient_ad(),
    "students": students(),
    "students_of_two_sizes": students_of_two_sizes(),
    "losses": losses(),
    "measured": measured(),
}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(record) + "\n")
