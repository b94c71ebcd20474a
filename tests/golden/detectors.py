"""Reference scores of the detectors: detectors.json. Run with scipy, torch, torchvision and pytorch-ood.

The formulas are written out with scipy in f64; pytorch-ood is asserted to agree.
"""
import importlib.metadata
import json
import pathlib

import numpy as np
import scipy
import torch
from pytorch_ood.detector import EnergyBased, Entropy, MaxLogit, MaxSoftmax
from pytorch_ood.detector import KNN
from scipy.special import log_expit, log_softmax, logsumexp, softmax
from scipy.stats import entropy

rng = np.random.default_rng(0)
logits = np.concatenate([
    rng.standard_normal((8, 5)) * 3,
    rng.standard_normal((4, 5)) * 0.01,
    rng.standard_normal((4, 5)) * 20,
    [[0, 0, 0, 0, 0], [7, 7, -7, -7, 7], [40, 0, 0, 0, 0], [-30, -31, -32, -33, -34]],
]).astype("f4").astype("f8")


def rest(row):
    """The probabilities of all but the likeliest class, added up without cancellation."""
    return np.exp(np.delete(log_softmax(row), row.argmax())).sum()


def generalised_entropy(row, gamma, classes):
    p = np.sort(softmax(row))[::-1]
    others = np.append(rest(row), 1 - p[1:])
    return (p[:classes] ** gamma * others[:classes] ** gamma).sum()


references = {
    "msp": [rest(row) for row in logits],
    "softmax_entropy": entropy(softmax(logits, axis=1), axis=1),
    "max_logit": -logits.max(axis=1),
    # Its logits are ln K, at most 0: the logarithms of the logits' sigmoids, as the test makes them.
    "duq": -log_expit(logits).max(axis=1),
    "energy": -logsumexp(logits, axis=1),
    "energy: { temperature: 0.5 }": -0.5 * logsumexp(logits / 0.5, axis=1),
    "energy: { temperature: 1000 }": -1000 * logsumexp(logits / 1000, axis=1),
    "gen": [generalised_entropy(row, 0.1, 5) for row in logits],
    "gen: { gamma: 2, classes: 3 }": [generalised_entropy(row, 2, 3) for row in logits],
}
tensor = torch.tensor(logits)
for name, other in {
    "msp": 1 + MaxSoftmax(None).predict_logits(tensor),
    "softmax_entropy": Entropy(None).predict_logits(tensor),
    "max_logit": MaxLogit(None).predict_logits(tensor),
    "energy": EnergyBased(None).predict_logits(tensor),
    "energy: { temperature: 0.5 }": EnergyBased(None, t=0.5).predict_logits(tensor),
    "energy: { temperature: 1000 }": EnergyBased(None, t=1000.0).predict_logits(tensor),
}.items():
    # pytorch-ood floors probabilities before it takes their logarithm.
    tolerance = 1e-5 if name == "softmax_entropy" else 1e-9
    np.testing.assert_allclose(references[name], other.numpy(), atol=tolerance, rtol=1e-9, err_msg=name)

# With features: the same rows as train and test features, so that a distance of zero and ties are among them.
train = rng.standard_normal((60, 5)).astype("f4").astype("f8")
features = np.concatenate([train[:4], rng.standard_normal((12, 5)) * np.repeat([0.01, 1, 100], 4)[:, None]]).astype("f4").astype("f8")


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


neighbours = {}
for k in [1, 5, 60]:
    distances = np.sort(np.linalg.norm(unit(features)[:, None] - unit(train)[None], axis=2), axis=1)[:, k - 1]
    reference = KNN(None, k=k).fit_features(torch.tensor(train), torch.zeros(60, dtype=int))
    np.testing.assert_allclose(distances, reference.predict_features(torch.tensor(features)).numpy(), atol=1e-7)
    neighbours[f"knn: {{ k: {k} }}"] = distances

record = {
    "made_by": f"tests/golden/detectors.py: scipy {scipy.__version__}, numpy {np.__version__}, torch {torch.__version__}, "
    f"pytorch-ood {importlib.metadata.version('pytorch-ood')}",
    "logits": logits.tolist(),
    "scores": [{"detector": name, "expected": [float(score) for score in scores]} for name, scores in references.items()],
    "train_features": train.tolist(),
    "features": features.tolist(),
    "feature_scores": [
        {"detector": name, "expected": [float(score) for score in scores]} for name, scores in neighbours.items()
    ],
}
text = json.dumps(record).replace('{"detector"', '\n{"detector"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
