"""Reference scores of the detectors: detectors.json. Run with numpy, scipy, scikit-learn, mpmath, torch and pytorch-ood.

The formulas are those of references.py; pytorch-ood is asserted to agree.
"""
import importlib.metadata
import json
import pathlib
from types import SimpleNamespace

import numpy as np
import of_pytorch_ood
import references
import scipy
import torch
from scipy.special import log_expit

rng = np.random.default_rng(0)
logits = np.concatenate([
    rng.standard_normal((8, 5)) * 3,
    rng.standard_normal((4, 5)) * 0.01,
    rng.standard_normal((4, 5)) * 20,
    [[0, 0, 0, 0, 0], [7, 7, -7, -7, 7], [40, 0, 0, 0, 0], [-30, -31, -32, -33, -34]],
]).astype("f4").astype("f8")


d = SimpleNamespace(logits=logits)
scores = {
    "msp": references.msp(d),
    "softmax_entropy": references.softmax_entropy(d),
    "max_logit": references.max_logit(d),
    # Its logits are ln K, at most 0: the logarithms of the logits' sigmoids, as the test makes them.
    "duq": references.duq(SimpleNamespace(logits=log_expit(logits))),
    "energy": references.energy(d),
    "energy: { temperature: 0.5 }": references.energy(d, 0.5),
    "energy: { temperature: 1000 }": references.energy(d, 1000),
    "gen": references.gen(d),
    "gen: { gamma: 2, classes: 3 }": references.gen(d, 2, 3),
}
for name, other in {
    "msp": of_pytorch_ood.msp(d),
    "softmax_entropy": of_pytorch_ood.softmax_entropy(d),
    "max_logit": of_pytorch_ood.max_logit(d),
    "energy": of_pytorch_ood.energy(d),
    "energy: { temperature: 0.5 }": of_pytorch_ood.energy(d, 0.5),
    "energy: { temperature: 1000 }": of_pytorch_ood.energy(d, 1000),
}.items():
    # pytorch-ood floors probabilities before it takes their logarithm.
    tolerance = 1e-5 if name == "softmax_entropy" else 1e-9
    np.testing.assert_allclose(scores[name], other.numpy(), atol=tolerance, rtol=1e-9, err_msg=name)

# With features: the same rows as train and test features, so that a distance of zero and ties are among them.
train = rng.standard_normal((60, 5)).astype("f4").astype("f8")
features = np.concatenate([train[:4], rng.standard_normal((12, 5)) * np.repeat([0.01, 1, 100], 4)[:, None]]).astype("f4").astype("f8")


d = SimpleNamespace(features=features, train_features=train, labels=np.zeros(60, dtype=int))
neighbours = {}
for k in [1, 5, 60]:
    neighbours[f"knn: {{ k: {k} }}"] = distances = references.knn(d, k)
    np.testing.assert_allclose(distances, of_pytorch_ood.knn(d, k).numpy(), atol=1e-7)

record = {
    "made_by": f"tests/golden/detectors.py: scipy {scipy.__version__}, numpy {np.__version__}, torch {torch.__version__}, "
    f"pytorch-ood {importlib.metadata.version('pytorch-ood')}",
    "logits": logits.tolist(),
    "scores": [{"detector": name, "expected": [float(score) for score in values]} for name, values in scores.items()],
    "train_features": train.tolist(),
    "features": features.tolist(),
    "feature_scores": [
        {"detector": name, "expected": [float(score) for score in values]} for name, values in neighbours.items()
    ],
}
text = json.dumps(record).replace('{"detector"', '\n{"detector"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
