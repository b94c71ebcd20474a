"""Reference scores of detectors that read features, the last layer or the train set: posthoc.json.

Run it by benches/with-pytorch-ood. The formulas are those of references.py; pytorch-ood and sklearn are asserted to agree. Features
and weights are multiples of 1/64, so that their products are exact in f32: the program and the references read the same numbers.
Scores that agree with those of the file but for rounding stay as they are there, whatever machine they were made on.
"""
import importlib.metadata
import json
import pathlib
import unittest.mock
from types import SimpleNamespace

import numpy as np
import of_pytorch_ood
import references
import scipy
import sklearn
import torch
from pattern import uniform
from pytorch_ood import detector as pytorch_ood
from scipy.special import softmax
from sklearn.covariance import LedoitWolf
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

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

d = SimpleNamespace(
    weight=weight, bias=bias, labels=labels, train_features=train, features=test, train_logits=train_logits, logits=logits
)
scores = {}


def agree(name, theirs=True, rtol=1e-9, atol=0, where=slice(None), **settings):
    """Keeps a reference, with which pytorch-ood's has to agree."""
    written = ", ".join(f"{key}: {str(value).lower()}" for key, value in settings.items())
    full = f"{name}: {{ {written} }}" if settings else name
    scores[full] = ours = getattr(references, name)(d, **settings)
    if theirs:
        theirs = getattr(of_pytorch_ood, name)(d, **(theirs if isinstance(theirs, dict) else settings)).detach().numpy()
        ours, theirs = ours[where], theirs[where]
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol, err_msg=full)
        worst = np.max(np.abs(ours - theirs) / np.maximum(np.abs(ours), 1e-300))
        print(f"{full:40} {worst:.1e} of pytorch-ood")


p = softmax(logits, axis=1)
unclamped = ((p > 1e-7) & (p < 1 - 1e-7)).all(axis=1)
for gamma, classes in [(0.1, 100), (0.1, 2), (2.0, 3)]:
    agree("gen", where=unclamped, gamma=gamma, classes=classes)

agree("kl_matching")

# 50 steps of L-BFGS do not get pytorch-ood to the minimum; to go on from there nearly does.
temperature = references.best_temperature(d)
scaler = pytorch_ood.TemperatureScaling(None)
for _ in range(40):
    scaler.fit_logits(*of_pytorch_ood.logits(d))
assert abs(scaler.t.item() / temperature - 1) < 1e-3, (scaler.t, temperature)
print("temperature", temperature, scaler.t.item())
agree("temperature_scaling", theirs={"temperature": temperature}, rtol=1e-7)

# By scikit-learn, as in `Runinho/pytorch-cutpaste`.
for unit in [True, False]:
    agree("gaussian", theirs=False, unit=unit)
    rows = [rows / np.linalg.norm(rows, axis=1, keepdims=True) if unit else rows for rows in (train, test)]
    theirs = np.sqrt(LedoitWolf().fit(rows[0]).mahalanobis(rows[1]))
    np.testing.assert_allclose(scores[f"gaussian: {{ unit: {str(unit).lower()} }}"], theirs, rtol=1e-9)
scores["gaussian"] = scores["gaussian: { unit: true }"]

# Without pytorch-ood's ridge of 1e-6.
with unittest.mock.patch.object(torch, "eye", lambda size, **_: torch.zeros(size, size)):
    for name in ["mahalanobis", "rmds"]:
        agree(name)
        agree(name, normalise=True)

for dimension in [2, 3, 5]:
    agree("residual", theirs=False, dimension=dimension)
    agree("vim", atol=1e-9, dimension=dimension)
scores["residual"], scores["vim"] = scores["residual: { dimension: 3 }"], scores["vim: { dimension: 3 }"]

# pytorch-ood does not have it: by sklearn, as in the authors' code.
scaler = StandardScaler().fit(train)
standard = [scaler.transform(rows) for rows in (train, test)]
along = PCA(FEATURES).fit(standard[0]).transform(standard[1])
for dimension in [1, 3, 6]:
    agree("neco", theirs=False, dimension=dimension)
    share = np.linalg.norm(along[:, :dimension], axis=1) / np.linalg.norm(standard[1], axis=1)
    np.testing.assert_allclose(scores[f"neco: {{ dimension: {dimension} }}"], -share * logits.max(axis=1), rtol=1e-9)
agree("neco", theirs=False, dimension=3, max_logit=False)
scores["neco"] = scores["neco: { dimension: 3 }"]

for explained in [0.85, 0.3, 0.999]:
    agree("kpca", theirs=False, explained=explained)
scores["kpca"] = scores["kpca: { explained: 0.85 }"]

# By autograd of the last layer, with the mean over the classes; the test has central differences.
for temperature in [1.0, 2.5]:
    agree("gradnorm", temperature=temperature)
scores["gradnorm"] = scores["gradnorm: { temperature: 1.0 }"]

# Where no feature is positive pytorch-ood has NaN.
for percentile in [95, 65, 30]:
    agree("lts", where=(test > 0).any(axis=1), percentile=percentile)
scores["lts"] = scores["lts: { percentile: 95 }"]

agree("fdbd")
agree("fdbd", theirs=False, relative_to="origin")

agree("ora", theirs=False)

for alpha in [0, 1e-4, 0.5]:
    agree("nci", alpha=alpha)
scores["nci"] = scores["nci: { alpha: 0.0001 }"]

agree("pnml")

agree("she")

for k, fraction in [(10, 1), (1, 1), (90, 1), (4, 0.1)]:
    agree("nnguide", k=k, fraction=fraction)
scores["nnguide"] = scores["nnguide: { k: 10, fraction: 1 }"]

for alpha, k in [(1, 0.01), (0.1, 0.01), (0.5, 0.05), (1, 0.2)]:
    agree("cfood", theirs=False, alpha=alpha, k=k)
scores["cfood"] = scores["cfood: { alpha: 0.1, k: 0.01 }"]
assert len(np.unique(scores["cfood: { alpha: 1, k: 0.01 }"])) > 5, "images are told apart"
# pytorch-ood does not have it. Of perturbations there is a list of its own: here are none.
def between_bins(rows, bins):
    """No value but the outermost may be where one bin ends and the next begins."""
    places = (rows - train_ends[0]) * bins / (train_ends[1] - train_ends[0])
    inside = (places > 0) & (places < bins)
    assert (np.abs(places - np.round(places)) > 1e-9)[inside].all()


for settings in [{"distance": 0, "repeats": 1, "bins": 101}, {"distance": 0, "repeats": 3, "bins": 29, "smoothing": 4, "smoothing_perturbed": 7,
                  "epsilon": 0.5, "epsilon_perturbed": 0.001, "lambda_1": 2.5, "lambda_2": 0.1}]:
    for known, new in [(train, test), (train_logits, logits)]:
        train_ends = known.min(), known.max()
        between_bins(np.concatenate([known, new]), settings["bins"])
    agree("weiper", theirs=False, **settings)

assert np.abs(references.relations(d) - 0.03).min() > 1e-6, "no relation may change sides in f32"
for power in [1, 2, 8]:
    agree("relation", theirs=False, power=power)
scores["relation"] = scores["relation: { power: 1 }"]
agree("relation", theirs=False, threshold=0)

# pytorch-ood's Weibull distribution is fitted by scipy's simplex, which stops early.
for tail, classes in [(20, 3), (5, 4), (10, 10)]:
    agree("openmax", rtol=1e-2, atol=1e-2, tail=tail, classes=classes)
scores["openmax"] = scores["openmax: { tail: 20, classes: 3 }"]

# A dead neuron and one that is the sum of two others: the covariance lacks rank, and a pseudo-inverse ignores what never varied.
deficient = lambda rows: np.concatenate([rows, rows[:, :1] + rows[:, 1:2], 0 * rows[:, :1]], axis=1)
lacking = SimpleNamespace(labels=labels, train_features=deficient(train), features=deficient(test), logits=logits)
dependent = {name: getattr(references, name)(lacking) for name in ["mahalanobis", "rmds"]}
# Two of the eight directions do not vary.
for dimension in [3, 8]:
    dependent[f"neco: {{ dimension: {dimension} }}"] = references.neco(lacking, dimension)

dependent["kpca"] = references.kpca(lacking)
# By names that Rust has, too.
perturbed = {}
for settings in [{"repeats": 7}, {"distance": 0.5, "repeats": 2, "bins": 30, "smoothing": 3, "smoothing_perturbed": 40, "lambda_1": 0.5, "lambda_2": 2}]:
    d.directions = uniform("directions", settings["repeats"] * CLASSES, FEATURES)
    written = ", ".join(f"{key}: {value}" for key, value in settings.items())
    perturbed[f"weiper: {{ {written} }}"] = references.weiper(d, **settings)

d.outlier = uniform("outlier", FEATURES)
outliers = {f"grood: {{ by: {by} }}": references.grood(d, by) for by in ["neighbour", "norm"]}
# By autograd of the loss, as in the authors' code.
prototypes = np.stack([train[labels == label].mean(axis=0) for label in range(CLASSES)])
outlier = torch.from_numpy(d.outlier).requires_grad_()
away = torch.from_numpy(test)[:, None] - torch.vstack([torch.from_numpy(prototypes), outlier])
losses = torch.nn.functional.cross_entropy(-away.norm(dim=2), torch.from_numpy(logits.argmax(axis=1)), reduction="none")
norms = [torch.autograd.grad(loss, outlier, retain_graph=True)[0].abs().sum().item() for loss in losses]
np.testing.assert_allclose(norms, outliers["grood: { by: norm }"], rtol=1e-9)

path = pathlib.Path(__file__).with_suffix(".json")
before = json.loads(path.read_text()) if path.exists() else {}


def lists(key, all):
    known = {line["detector"]: line["expected"] for line in before.get(key, [])}
    kept = lambda old, new: old if old and len(old) == len(new) and np.allclose(old, new, rtol=1e-11, atol=1e-12) else new
    return [{"detector": name, "expected": kept(known.get(name), [float(score) for score in scores])} for name, scores in all.items()]


record = {
    "made_by": f"tests/golden/posthoc.py: numpy {np.__version__}, scipy {scipy.__version__}, "
    f"scikit-learn {sklearn.__version__}, torch {torch.__version__}, pytorch-ood {importlib.metadata.version('pytorch-ood')}",
    "weight": weight.tolist(),
    "bias": bias.tolist(),
    "labels": labels.tolist(),
    "train_features": train.tolist(),
    "features": test.tolist(),
    "train_logits": train_logits.tolist(),
    "logits": logits.tolist(),
    "scores": lists("scores", scores),
    "dependent_train_features": deficient(train).tolist(),
    "dependent_features": deficient(test).tolist(),
    "dependent_scores": lists("dependent_scores", dependent),
    "perturbed_scores": lists("perturbed_scores", perturbed),
    "outlier_scores": lists("outlier_scores", outliers),
}
text = json.dumps(record).replace('{"detector"', '\n{"detector"')
path.write_text(text + "\n")
