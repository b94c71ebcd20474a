"""Reference scores of detectors that differentiate the network: input_gradients.json.

Run with numpy, torch and pytorch-ood. A WRN-10-1 in f64, whose weights and images pattern.py makes. The formulas are written out
here, and pytorch-ood is asserted to agree where it computes the same. What the program reads as f32 (logits and features) is rounded
here too. Steps follow signs, and states fall into bins: it is asserted that no rounding could turn one.
"""

import importlib.metadata
import json
import pathlib
import unittest.mock

import numpy as np
import torch
from pattern import parameter, uniform
from pytorch_ood import detector as pytorch_ood
from scipy.linalg import pinvh
from scipy.special import logsumexp
from torch_networks import WideResNet

torch.set_default_dtype(torch.float64)

CLASSES, TRAIN, TESTS = 5, 100, 8
DEVIATIONS = [0.25, 0.1875, 0.3125]

net = WideResNet(10, 1, 3, CLASSES).eval()
net.load_state_dict({
    name: torch.from_numpy(parameter(name, *value.shape).astype("f4").astype("f8")) if value.ndim else value
    for name, value in net.state_dict().items()
})
images = lambda name, count: torch.from_numpy((1.5 * uniform(name, count, 3, 8, 8).astype("f4")).astype("f8"))
train, test = images("train images", TRAIN), images("test images", TESTS)
# The later ones are stranger.
test[TESTS // 2:] *= 2
labels = np.arange(TRAIN) % CLASSES
f32 = lambda x: x.detach().numpy().astype("f4").astype("f8")
scores = {}


def step_down(x, gradient, noise, pixels="all"):
    size = gradient.abs()
    assert (size > 1e-10 * size.median()).all(), size.min()
    sign = torch.where(gradient >= 0, 1.0, -1.0)
    if pixels == "one":
        size = size.flatten(1)
        first, second = size.topk(2, dim=1).values.T
        assert (first > (1 + 1e-5) * second).all(), "no other value may be the steepest in f32"
        sign = sign * torch.zeros_like(size).scatter_(1, size.argmax(dim=1, keepdim=True), 1).view_as(x)
    return (x - noise * sign / torch.tensor(DEVIATIONS).view(1, 3, 1, 1)).detach()


def odin(temperature, noise, pixels="all"):
    x = test.clone().requires_grad_()
    log_p = torch.log_softmax(net(x)[0] / temperature, dim=1)
    (gradient,) = torch.autograd.grad(-log_p.max(dim=1).values.sum(), x)
    logits = torch.from_numpy(f32(net(step_down(x, gradient, noise, pixels))[0])) / temperature
    return np.log1p(-torch.softmax(logits, dim=1).max(dim=1).values.numpy())


for setting, (temperature, noise) in {
    "odin": (1000, 0.0014),
    "odin: { temperature: 1, noise: 0.004 }": (1, 0.004),
    "odin: { temperature: 10, noise: 0 }": (10, 0),
}.items():
    scores[setting] = odin(temperature, noise)
    moved = np.abs(scores[setting] / odin(temperature, 0) - 1)
    print(f"{setting}: moved by {moved.min():.1e} or more")
    assert not noise or (moved > 1e-5).all()
    theirs = pytorch_ood.ODIN(lambda x: net(x)[0], eps=noise, temperature=temperature, norm_std=DEVIATIONS).predict(test)
    np.testing.assert_allclose(np.log1p(theirs.detach().numpy()), scores[setting], rtol=1e-6, err_msg=setting)

# pytorch-ood does not have i-ODIN.
for temperature, noise in [(1000, 0.0014), (1, 0.5)]:
    setting = f"odin: {{ temperature: {temperature}, noise: {noise}, pixels: one }}"
    scores[setting] = odin(temperature, noise, "one")


def stage(name, x):
    _, features, taps = net(x)
    return features if name == "penultimate" else taps[name].mean(dim=(2, 3))


def mahalanobis(name, noise, normalise=False):
    unit = lambda z: z / np.linalg.norm(z, axis=1, keepdims=True) if normalise else z
    z = unit(f32(stage(name, train)))
    means = np.stack([z[labels == k].mean(axis=0) for k in range(CLASSES)])
    away = z - means[labels]
    precision = pinvh(away.T @ away / TRAIN)

    def distances(z):
        offsets = z[:, None] - means[None]
        return np.einsum("nci,ij,ncj->nc", offsets, precision, offsets)

    x = test.clone().requires_grad_()
    z = stage(name, x)
    rounded = unit(f32(z))
    nearest = means[distances(rounded).argmin(axis=1)]
    slopes = torch.from_numpy(2 * (rounded - nearest) @ precision)
    z = torch.nn.functional.normalize(z, dim=1) if normalise else z
    (gradient,) = torch.autograd.grad((z * slopes).sum(), x)
    moved = step_down(x, gradient, noise) if noise else x
    return distances(unit(f32(stage(name, moved)))).min(axis=1)


ALL = ["block1", "block2", "block3", "relu"]
for setting, layers, weights, noise in [
    ("mahalanobis", ["penultimate"], [1], 0),
    ("mahalanobis: { noise: 0.002 }", ["penultimate"], [1], 0.002),
    ("mahalanobis: { layers: all }", ALL, [1] * 4, 0),
    ("mahalanobis: { layers: all, noise: 0.001 }", ALL, [1] * 4, 0.001),
    ("mahalanobis: { layers: [penultimate, block2], weights: [2, -0.5], noise: 0.005 }",
     ["penultimate", "block2"], [2, -0.5], 0.005),
]:
    scores[setting] = sum(weight * mahalanobis(name, noise) for name, weight in zip(layers, weights))
scores["mahalanobis: { normalise: true, noise: 0.002 }"] = mahalanobis("penultimate", 0.002, normalise=True)
scores["mahalanobis: { normalise: true, layers: all, noise: 0.001 }"] = sum(mahalanobis(name, 0.001, normalise=True) for name in ALL)
without_ridge = unittest.mock.patch.object(torch, "eye", lambda size, **_: torch.zeros(size, size))
# A feature is 0 on every image.
pseudo_inverse = unittest.mock.patch.object(torch.linalg, "inv", lambda scatter: torch.linalg.pinv(scatter, hermitian=True))
for noise, setting in [(0, "mahalanobis"), (0.002, "mahalanobis: { noise: 0.002 }")]:
    theirs = pytorch_ood.MahalanobisODIN(lambda x: net(x)[1], eps=noise, norm_std=DEVIATIONS)
    with without_ridge, pseudo_inverse:
        theirs._base.fit_features(net(train)[1].detach(), torch.from_numpy(labels))
    # It divides by the scatter, N times the covariance, and by 2; features are not rounded there.
    theirs = 2 * TRAIN * theirs.predict(test).numpy()
    np.testing.assert_allclose(theirs, scores[setting], rtol=1e-6, err_msg=setting)


def parts(names, x):
    logits, features, taps = net(x)
    layers = [features if name == "penultimate" else taps[name] for name in names]
    loss = -torch.log_softmax(logits, dim=1).mean(dim=1).sum()
    gradients = torch.autograd.grad(loss, layers)
    pooled = lambda values: values.flatten(2).sum(dim=2) if values.ndim == 4 else values
    return [(pooled(z) * pooled(g)).detach().numpy() for z, g in zip(layers, gradients)]


def nac(layers):
    """NAC-UE by the reference's arrays: M thresholds, and one beyond that nothing reaches."""
    known, new = parts(layers, train), parts(layers, test)
    scores = 0
    for (bins, filled, steepness), known, new in zip(layers.values(), known, new):
        spaced = np.emath.logn(1e3, np.linspace(1, np.sqrt(1e3), num=bins // 2))
        thresholds = np.concatenate([spaced[:-1], (1 - spaced)[::-1]])
        thresholds[-1] += 1e-2
        states = [1 / (1 + np.exp(-steepness * part)) for part in (known, new)]
        for state in states:
            # Nothing is below the first.
            distance = np.abs(state[..., None] - thresholds[1:])
            assert ((distance > 1e-9).all(axis=2) | (state == 0.5)).all(), distance.min()
        known, new = (np.digitize(state, thresholds) - 1 for state in states)
        counts = np.stack([np.bincount(column, minlength=len(thresholds)) for column in known.T])
        coverage = np.minimum(counts / filled, 1)
        scores = scores - np.take_along_axis(coverage, new.T, axis=1).mean(axis=0) / len(layers)
        print(f"NAC: {len(np.unique(known))} of {bins - 2} bins are used, coverages up to {coverage.max()}")
    return scores


for layers in [
    {"penultimate": (50, 50, 100)},
    {"block1": (20, 7, 0.05), "block2": (50, 5, 0.2), "penultimate": (8, 40, 30), "relu": (500, 3, 0.5)},
]:
    written = ", ".join(
        f"{name}: {{ bins: {bins}, filled: {filled}, steepness: {steepness} }}"
        for name, (bins, filled, steepness) in layers.items()
    )
    scores[f"nac: {{ layers: {{ {written} }}, images: {TRAIN} }}"] = nac(layers)
scores["nac"] = scores[next(name for name in scores if name.startswith("nac"))]

def adascale(variant="a", low=75, high=85, features=5, shifts=1, weight=10, share=0.05, step=0.5):
    """By ranks, as the reference; at least one value and one feature, where it may take none."""
    def shift(images):
        x = images.clone().requires_grad_()
        logits, z, _ = net(x)
        (gradient,) = torch.autograd.grad(logits.max(dim=1).values.sum(), x)
        ranked, order = gradient.abs().flatten(1).sort(dim=1)
        count = max(int(ranked.shape[1] * share), 1)
        assert (ranked[:, 0] > 0).all() and (ranked[:, count] > (1 + 1e-6) * ranked[:, count - 1]).all()
        mask = torch.zeros_like(ranked).scatter_(1, order[:, :count], 1).view_as(x)
        before, after = f32(z), f32(net((x + step * mask * gradient.sign()).detach())[1])
        order = np.argsort(-before, axis=1, kind="stable")
        top = lambda rows, percent: np.take_along_axis(rows, order[:, : max(int(rows.shape[1] * percent / 100), 1)], axis=1)
        return top(np.maximum(after, 0), features).sum(axis=1) + weight * top(np.abs(before - after), shifts).sum(axis=1), before

    (known, _), (new, z) = shift(train), shift(test)
    assert np.abs(new[:, None] / known - 1).min() > 1e-5, "no rank may change in f32"
    percent = low + (known[None] > new[:, None]).mean(axis=1) * (high - low)
    size = z.shape[1]
    assert np.abs(size * percent / 100 % 1 - 0.5).min() > 1e-6
    k = size - np.round(size * percent / 100).astype(int)
    above = np.sort(np.maximum(z, 0), axis=1)[:, ::-1]
    r = above.sum(axis=1) / np.where(np.arange(size) < k[:, None], above, 0).sum(axis=1)
    print(f"AdaSCALE: percentages from {percent.min():.2f} to {percent.max():.2f}, r from {r.min():.2f} to {r.max():.2f}")
    (matrix, bias), r = [p.detach().numpy() for p in (net.fc.weight, net.fc.bias)], r[:, None]
    logits = np.exp(r) * z @ matrix.T + bias if variant == "a" else r**2 * (z @ matrix.T + bias)
    return -logsumexp(logits, axis=1)


for settings in [{}, {"variant": "l"}, {"low": 60, "high": 95, "features": 20, "shifts": 10, "weight": 2, "share": 0.2, "step": 0.1}]:
    written = ", ".join(f"{key}: {value}" for key, value in settings.items())
    scores[f"adascale: {{ {written} }}" if settings else "adascale"] = adascale(**settings)

record = {
    "made_by": f"tests/golden/input_gradients.py: numpy {np.__version__}, torch {torch.__version__}, "
    f"pytorch-ood {importlib.metadata.version('pytorch-ood')}",
    "classes": CLASSES,
    "deviations": DEVIATIONS,
    "scores": [{"detector": name, "expected": [float(score) for score in values]} for name, values in scores.items()],
}
text = json.dumps(record, indent=None).replace('{"detector"', '\n{"detector"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
