"""Reference scores of detectors that read features, the last layer or the train set: posthoc.json.

Run with numpy, scipy, torch and pytorch-ood. The formulas are written out with numpy in f64; pytorch-ood is asserted to agree, up
to the constant factors that stand beside it. Features and weights are multiples of 1/64, so that their products are exact in f32:
the program and the references read the same numbers.
"""
import importlib.metadata
import json
import pathlib
import unittest.mock

import numpy as np
import scipy
import torch
from pytorch_ood import detector as pytorch_ood
from scipy.linalg import pinvh
from scipy.optimize import brentq, minimize_scalar
from scipy.special import log_softmax, logsumexp, softmax

# pytorch-ood converts features to f32; here it computes in f64.
torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double

rng = np.random.default_rng(1)
IMAGES, TESTS, FEATURES, CLASSES = 90, 16, 6, 4


def dyadic(rows):
    return np.round(rows * 64) / 64


weight = dyadic(rng.standard_normal((CLASSES, FEATURES)))
bias = dyadic(rng.standard_normal(CLASSES) * 0.5)
# Features scatter around their class's weights, more along some directions than along others, and away from zero.
labels = np.arange(IMAGES) % CLASSES
scales = [2, 1.5, 1, 0.75, 0.5, 0.25]
train = dyadic(weight[labels] + rng.standard_normal((IMAGES, FEATURES)) * scales + 0.5)
test = dyadic(np.concatenate([
    weight[labels[:8]] + rng.standard_normal((8, FEATURES)) * scales + 0.5,
    rng.standard_normal((8, FEATURES)) * 2,
]))
train_logits, logits = train @ weight.T + bias, test @ weight.T + bias
for values in [weight, bias, train, test, train_logits, logits]:
    assert (values == values.astype("f4")).all()

tensors = {"z": torch.tensor(test), "f": torch.tensor(logits)}
fit_z, fit_f, fit_y = torch.tensor(train), torch.tensor(train_logits), torch.tensor(labels)
linear = torch.nn.Linear(FEATURES, CLASSES).double()
linear.weight.data, linear.bias.data = torch.tensor(weight), torch.tensor(bias)

references = {}


def agree(name, ours, theirs=None, rtol=1e-9, atol=0, where=slice(None)):
    """Keeps a reference; `theirs` is pytorch-ood's, brought to our scale."""
    references[name] = ours
    if theirs is not None:
        theirs = theirs.detach().numpy() if isinstance(theirs, torch.Tensor) else theirs
        ours, theirs = ours[where], theirs[where]
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol, err_msg=name)
        worst = np.max(np.abs(ours - theirs) / np.maximum(np.abs(ours), 1e-300))
        print(f"{name:40} {worst:.1e} of pytorch-ood")


# GEN: pytorch-ood has the mean over the M classes.
p = softmax(logits, axis=1)
for gamma, classes in [(0.1, 100), (0.1, 2), (2.0, 3)]:
    top = -np.sort(-p, axis=1)[:, :classes]
    m = top.shape[1]
    agree(
        f"gen: {{ gamma: {gamma}, classes: {classes} }}",
        (top**gamma * (1 - top) ** gamma).sum(axis=1),
        m * pytorch_ood.GEN(None, gamma=gamma, M=m).predict_logits(tensors["f"]),
        where=((p > 1e-7) & (p < 1 - 1e-7)).all(axis=1),  # it clamps
    )

# KL matching.
train_p = softmax(train_logits, axis=1)
means = np.stack([train_p[train_p.argmax(axis=1) == k].mean(axis=0) for k in range(CLASSES)])
divergences = (p[:, None] * (np.log(p[:, None]) - np.log(means[None]))).sum(axis=2)
agree("kl_matching", divergences.min(axis=1), pytorch_ood.KLMatching(None).fit_logits(fit_f, fit_y).predict_logits(tensors["f"]))

# Temperature scaling. 50 steps of L-BFGS do not get pytorch-ood to the minimum; to go on from there nearly does.
loss = lambda inverse: -log_softmax(inverse * train_logits, axis=1)[np.arange(IMAGES), labels].mean()
temperature = 1 / minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-12}).x
scaler = pytorch_ood.TemperatureScaling(None)
for _ in range(40):
    scaler.fit_logits(fit_f, fit_y)
assert abs(scaler.t.item() / temperature - 1) < 1e-3, (scaler.t, temperature)
print("temperature", temperature, scaler.t.item())
scaler.t.data = torch.tensor(temperature, dtype=torch.float64)
agree(
    "temperature_scaling",
    np.log(1 - softmax(logits / temperature, axis=1).max(axis=1)),
    np.log(1 + scaler.predict_logits(tensors["f"]).detach().numpy()),
    rtol=1e-7,
)


# Mahalanobis and RMDS: pytorch-ood inverts the scatter, N times the covariance, and halves the former. Without its ridge of 1e-6.
def mahalanobis(train, labels, test):
    centres = np.stack([train[labels == k].mean(axis=0) for k in np.unique(labels)])
    away = train - centres[np.searchsorted(np.unique(labels), labels)]
    precision = pinvh(away.T @ away / len(train))
    offsets = test[:, None] - centres[None]
    return np.einsum("nci,ij,ncj->nc", offsets, precision, offsets)


without_ridge = unittest.mock.patch.object(torch, "eye", lambda size, **_: torch.zeros(size, size))
class_distances = mahalanobis(train, labels, test)
background = mahalanobis(train, np.zeros(IMAGES), test)
with without_ridge:
    theirs = pytorch_ood.Mahalanobis(None).fit_features(fit_z, fit_y).predict_features(tensors["z"])
    agree("mahalanobis", class_distances.min(axis=1), 2 * IMAGES * theirs)
    theirs = pytorch_ood.RMD(None).fit_features(fit_z, fit_y).predict_features(tensors["z"])
    agree("rmds", (class_distances - background).min(axis=1), IMAGES * theirs)

# Residual and ViM.
origin = -np.linalg.pinv(weight) @ bias
_, vectors = np.linalg.eigh((train - origin).T @ (train - origin) / IMAGES)
for dimension in [2, 3, 5]:
    null = vectors[:, : FEATURES - dimension]
    residual = np.linalg.norm((test - origin) @ null, axis=1)
    alpha = train_logits.max(axis=1).mean() / np.linalg.norm((train - origin) @ null, axis=1).mean()
    agree(f"residual: {{ dimension: {dimension} }}", residual)
    agree(
        f"vim: {{ dimension: {dimension} }}",
        alpha * residual - logsumexp(logits, axis=1),
        pytorch_ood.ViM(None, dimension, linear.weight, linear.bias).fit_features(fit_z, fit_y).predict_features(tensors["z"]),
        atol=1e-9,
    )
references["residual"], references["vim"] = references["residual: { dimension: 3 }"], references["vim: { dimension: 3 }"]

# GradNorm: by autograd of the last layer, with the mean over the classes; and by central differences.
for temperature in [1.0, 2.5]:
    norms = np.abs(test).sum(axis=1) * np.abs(softmax(logits / temperature, axis=1) - 1 / CLASSES).sum(axis=1) / temperature
    theirs = pytorch_ood.GradNorm(linear, param_filter=lambda name: name == "weight", temperature=temperature)
    agree(f"gradnorm: {{ temperature: {temperature} }}", -norms, theirs.predict(tensors["z"]))
references["gradnorm"] = references["gradnorm: { temperature: 1.0 }"]

# fDBD.
mean, predicted = train.mean(axis=0), logits.argmax(axis=1)
gaps = np.linalg.norm(weight[predicted][:, None] - weight[None], axis=2)
gaps[np.arange(TESTS), predicted] = 1
boundaries = ((logits.max(axis=1, keepdims=True) - logits) / gaps).sum(axis=1) / (CLASSES - 1)
agree(
    "fdbd",
    -boundaries / np.linalg.norm(test - mean, axis=1),
    pytorch_ood.fDBD(torch.nn.Identity(), linear).fit_features(fit_z).predict_features(tensors["z"]),
)
agree("fdbd: { relative_to: origin }", -boundaries / np.linalg.norm(test, axis=1))

# NCI.
for alpha in [0, 1e-4, 0.5]:
    along = (weight[predicted] * (test - mean)).sum(axis=1) / np.linalg.norm(test - mean, axis=1)
    agree(
        f"nci: {{ alpha: {alpha} }}",
        -along - alpha * np.abs(test).sum(axis=1),
        pytorch_ood.NCI(torch.nn.Identity(), linear, alpha=alpha).fit_features(fit_z).predict_features(tensors["z"]),
    )
references["nci"] = references["nci: { alpha: 0.0001 }"]

# SHE.
correct = train_logits.argmax(axis=1) == labels
patterns = np.stack([train[correct & (labels == k)].mean(axis=0) for k in range(CLASSES)])
agree(
    "she",
    -(test * patterns[predicted]).sum(axis=1),
    pytorch_ood.SHE(torch.nn.Identity(), linear).fit_features(fit_z, fit_y).predict_features(tensors["z"]),
)

# NNGuide.
unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)
energies = logsumexp(train_logits, axis=1)
for k, fraction in [(10, 1), (1, 1), (90, 1), (4, 0.1)]:
    count = int(np.ceil(IMAGES * fraction))
    chosen = np.arange(count) * IMAGES // count
    products = np.sort(unit(test) @ (unit(train) * energies[:, None])[chosen].T, axis=1)[:, -k:]
    theirs = pytorch_ood.NNGuide(torch.nn.Identity(), linear, k=k).fit_features(fit_z[chosen], fit_y[chosen])
    agree(
        f"nnguide: {{ k: {k}, fraction: {fraction} }}",
        -products.mean(axis=1) * logsumexp(logits, axis=1),
        theirs.predict_features(tensors["z"]),
    )
references["nnguide"] = references["nnguide: { k: 10, fraction: 1 }"]

# Relation, which pytorch-ood does not have.
relations = np.maximum(unit(test) @ unit(train).T, 0) * (p @ train_p.T)
assert np.abs(relations - 0.03).min() > 1e-6, "no relation may change sides in f32"
counted = np.where(relations > 0.03, relations, 0)
for power in [1, 2, 8]:
    agree(f"relation: {{ power: {power} }}", -(counted**power).sum(axis=1))
references["relation"] = references["relation: { power: 1 }"]
agree("relation: { threshold: 0 }", -relations.sum(axis=1))


# OpenMax: the log-odds of pytorch-ood's probability. Its Weibull is fitted by scipy's simplex, which stops early, on all images
# with labels, here the correct ones; ours is the root of the likelihood's derivative.
def weibull(tail):
    """shape, ln scale, of ln(1 + (x - min) / 10000)"""
    x = np.log1p((tail - tail.min()) / 10000)
    derivative = lambda k: (np.exp(k * (x - x.max())) * x).sum() / np.exp(k * (x - x.max())).sum() - 1 / k - x.mean()
    shape = brentq(derivative, 1, 1e9, xtol=1e-9, rtol=1e-15)
    return shape, np.log(np.exp(shape * x).mean()) / shape


for tail, alpha in [(20, 3), (5, 4), (10, 10)]:
    top = min(alpha, CLASSES)
    outside = np.ones((TESTS, CLASSES))
    for k in range(CLASSES):
        rows = train_logits[correct & (labels == k)]
        centre = rows.mean(axis=0)
        distances = np.sort(np.linalg.norm(rows - centre, axis=1))[-tail:]
        shape, log_scale = weibull(distances)
        away = np.log1p((np.linalg.norm(logits - centre, axis=1) - distances.min()) / 10000)
        outside[:, k] = -np.expm1(-np.exp(shape * (away - log_scale)))
    ranks = np.argsort(np.argsort(-logits, axis=1), axis=1)
    weights = np.where(ranks < top, (top - ranks) / top, 0) * outside
    theirs = pytorch_ood.OpenMax(None, tailsize=tail, alpha=alpha).fit_logits(fit_f[correct], fit_y[correct])
    unknown = theirs.predict_logits(tensors["f"]).numpy()
    agree(
        f"openmax: {{ tail: {tail}, classes: {alpha} }}",
        (logits * weights).sum(axis=1) - logsumexp(logits * (1 - weights), axis=1),
        np.log(unknown / (1 - unknown)),
        rtol=1e-2, atol=1e-2,
    )
references["openmax"] = references["openmax: { tail: 20, classes: 3 }"]

# A dead neuron and one that is the sum of two others: the covariance lacks rank, and a pseudo-inverse ignores what never varied.
deficient = lambda rows: np.concatenate([rows, rows[:, :1] + rows[:, 1:2], 0 * rows[:, :1]], axis=1)
dependent = {
    "mahalanobis": mahalanobis(deficient(train), labels, deficient(test)).min(axis=1),
    "rmds": (
        mahalanobis(deficient(train), labels, deficient(test))
        - mahalanobis(deficient(train), np.zeros(IMAGES), deficient(test))
    ).min(axis=1),
}

lists = lambda scores: [
    {"detector": name, "expected": [float(score) for score in values]} for name, values in scores.items()
]
record = {
    "made_by": f"tests/golden/posthoc.py: numpy {np.__version__}, scipy {scipy.__version__}, torch {torch.__version__}, "
    f"pytorch-ood {importlib.metadata.version('pytorch-ood')}",
    "weight": weight.tolist(),
    "bias": bias.tolist(),
    "labels": labels.tolist(),
    "train_features": train.tolist(),
    "features": test.tolist(),
    "train_logits": train_logits.tolist(),
    "logits": logits.tolist(),
    "scores": lists(references),
    "dependent_train_features": deficient(train).tolist(),
    "dependent_features": deficient(test).tolist(),
    "dependent_scores": lists(dependent),
}
text = json.dumps(record).replace('{"detector"', '\n{"detector"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
