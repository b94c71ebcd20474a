"""Reference values of intervals and of accuracies by class: intervals.json. Run with numpy and scikit-learn (versions are in the file).

DeLong's variance from its definition, pair by pair. The bootstrap with numpy's own random numbers and a hundred times as many
resamples: its ends are known to a tenth of what a thousand resamples leave open.
"""
import json
import pathlib
import sys

import numpy as np
import sklearn
from sklearn.metrics import balanced_accuracy_score, confusion_matrix

Z = 1.959963984540054


def delong(id_scores, ood_scores):
    """Structural components: for each OOD image the mean of psi over ID images, and the reverse."""
    psi = (ood_scores[:, None] > id_scores[None, :]) + 0.5 * (ood_scores[:, None] == id_scores[None, :])
    auroc = psi.mean()
    variance = psi.mean(1).var(ddof=1) / len(ood_scores) + psi.mean(0).var(ddof=1) / len(id_scores)
    reach = Z * np.sqrt(variance)
    return float(variance), [max(0.0, float(auroc - reach)), min(1.0, float(auroc + reach))]


def closest(id_scores, ood_scores, level=0.95):
    """energy_ood's rule as in metrics.py, on larger-is-more-anomalous scores: from the threshold that accepts every ID image to
    the stricter ones, the first whose share of accepted ID images is closest to the level."""
    thresholds = np.unique(np.concatenate([id_scores, ood_scores]))
    accepted = np.searchsorted(np.sort(id_scores), thresholds, "right") / len(id_scores)
    walk = np.arange(int(np.argmax(accepted == 1.0)), -1, -1)
    at = thresholds[walk][np.argmin(np.abs(accepted[walk] - level))]
    return (ood_scores <= at).mean()


def first(id_scores, ood_scores, level=0.95):
    """The strictest threshold that catches the level of OOD images."""
    at = np.sort(ood_scores)[::-1][int(np.ceil(level * len(ood_scores) - 1e-9)) - 1]
    return (id_scores >= at).mean()


def bootstrap(id_scores, ood_scores, rule, rng, resamples):
    values = [
        rule(rng.choice(id_scores, len(id_scores)), rng.choice(ood_scores, len(ood_scores))) for _ in range(resamples)
    ]
    return [float(x) for x in np.quantile(values, [0.025, 0.975])]


def numbers(values):
    return " ".join(repr(float(value)) for value in values)


rng = np.random.default_rng(0)
cases = {
    "normal": (rng.normal(0, 1, 120), rng.normal(1.5, 1, 80)),
    "tied": (rng.integers(0, 8, 90), rng.integers(2, 10, 60)),
    "good": (rng.normal(0, 1, 200), rng.normal(4, 1, 200)),
    "wrong order": (rng.normal(1, 1, 40), rng.normal(0, 2, 50)),
    "few": (np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0])),
}
found = []
for name, (id_scores, ood_scores) in cases.items():
    id_scores, ood_scores = id_scores.astype(float), ood_scores.astype(float)
    variance, auroc = delong(id_scores, ood_scores)
    found.append({
        "name": name,
        "id": numbers(id_scores),
        "ood": numbers(ood_scores),
        "auroc_variance": variance,
        "auroc": auroc,
        "fpr95_id_positive_closest": bootstrap(id_scores, ood_scores, closest, rng, 100_000),
        "fpr95_ood_positive_first": bootstrap(id_scores, ood_scores, first, rng, 100_000),
    })

logits = rng.normal(size=(60, 4)).astype(np.float32)
labels = rng.choice(4, 60, p=[0.6, 0.25, 0.15, 0.0])
logits[np.arange(60), labels] += 1
taken_for = logits.argmax(1)
counts = confusion_matrix(labels, taken_for, labels=range(4))
classes = {
    "logits": numbers(logits.ravel()),
    "labels": labels.tolist(),
    "confusion": counts.tolist(),
    "accuracy": float((taken_for == labels).mean()),
    "balanced_accuracy": float(balanced_accuracy_score(labels, taken_for)),
    "worst_class_accuracy": float(min(counts[k, k] / counts[k].sum() for k in range(3))),
}
versions = {"python": sys.version.split()[0], "numpy": np.__version__, "scikit-learn": sklearn.__version__}
text = json.dumps({"versions": versions, "cases": found, "classes": classes}, indent=1)
pathlib.Path(__file__).with_name("intervals.json").write_text(text + "\n")
