"""Reference densities of mixtures of Gaussians by scikit-learn: mixture.json.

Run with numpy and scikit-learn. The start is one step from labels that go round: row i belongs to Gaussian i mod 4.
"""

import json
import pathlib

import numpy as np
import sklearn
from pattern import uniform
from sklearn.mixture import GaussianMixture

ROWS, SIZE, COUNT = 60, 3, 4
rows, other = uniform("mixture", ROWS, SIZE) ** 3 * 2, uniform("other", 9, SIZE)
labels = np.arange(ROWS) % COUNT
means = np.stack([rows[labels == part].mean(0) for part in range(COUNT)])
spread = [np.cov(rows[labels == part].T, bias=True) + 1e-6 * np.eye(SIZE) for part in range(COUNT)]
cases = []
for covariance in ["full", "diag"]:
    for most in [3, 200]:
        precisions = [np.linalg.inv(s) if covariance == "full" else 1 / np.diag(s) for s in spread]
        model = GaussianMixture(
            COUNT, covariance_type=covariance, max_iter=most, weights_init=np.full(COUNT, 1 / COUNT), means_init=means, precisions_init=np.array(precisions)
        )
        model.fit(rows)
        expected = model.score_samples(other).tolist()
        cases.append({"covariance": covariance, "most": most, "steps": model.n_iter_, "converged": bool(model.converged_), "expected": expected})
record = {"made_by": f"tests/golden/mixture.py: numpy {np.__version__}, scikit-learn {sklearn.__version__}", "cases": cases}
text = json.dumps(record).replace('{"covariance"', '\n{"covariance"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
