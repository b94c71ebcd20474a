"""Reference values of the ranking metrics: metrics.json. Run with numpy and scikit-learn (versions are in the file)."""
import json
import pathlib
import sys

import numpy as np
import sklearn
from sklearn.metrics import auc, average_precision_score, precision_recall_curve, roc_auc_score, roc_curve


def fpr_id_positive_closest(confidence_id, confidence_ood, level=0.95):
    """energy_ood's rule, restated: of the distinct thresholds, from the strictest that accepts every ID image to the
    stricter ones, the first whose recall is closest to the level."""
    thresholds = np.unique(np.concatenate([confidence_id, confidence_ood]))[::-1]
    accepted_id = np.array([(confidence_id >= t).sum() for t in thresholds])
    accepted_ood = np.array([(confidence_ood >= t).sum() for t in thresholds])
    complete = int(np.argmax(accepted_id == len(confidence_id)))
    walk = np.arange(complete, -1, -1)
    recall = accepted_id[walk] / len(confidence_id)
    return accepted_ood[walk][np.argmin(np.abs(recall - level))] / len(confidence_ood)


def fpr_ood_positive_first(labels, scores, level=0.95):
    """OpenOOD's rule, on every threshold."""
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    return fpr[np.argmax(tpr >= level)]


def trapezoid(labels, scores):
    precision, recall, _ = precision_recall_curve(labels, scores)
    return auc(recall, precision)


def expected(id_scores, ood_scores):
    scores = np.concatenate([id_scores, ood_scores])
    ood = np.concatenate([np.zeros(len(id_scores), int), np.ones(len(ood_scores), int)])
    return {
        "auroc": roc_auc_score(ood, scores),
        "fpr95_id_positive_closest": fpr_id_positive_closest(-id_scores, -ood_scores),
        "fpr95_ood_positive_first": fpr_ood_positive_first(ood, scores),
        "aupr_in_ap": average_precision_score(1 - ood, -scores),
        "aupr_out_ap": average_precision_score(ood, scores),
        "aupr_in_trapezoid": trapezoid(1 - ood, -scores),
        "aupr_out_trapezoid": trapezoid(ood, scores),
    }


def text(scores):
    """As text: not every JSON reader gives each float back to the last bit."""
    return " ".join(repr(float(score)) for score in scores)


rng = np.random.default_rng(0)
normal = rng.standard_normal
cases = {
    "random": (normal(150), normal(100) + 1),
    "random f32": (normal(150).astype("f4"), (normal(100) + 1).astype("f4")),
    "imbalance 1:5": (normal(200), normal(40) + 0.5),
    "imbalance 5:1": (normal(40), normal(200) + 0.5),
    "worse than chance": (normal(60) + 1, normal(60)),
    "heavy ties": (rng.integers(0, 5, 120).astype("f4"), rng.integers(1, 6, 90).astype("f4")),
    "two values": (rng.integers(0, 2, 50) * 1.0, rng.integers(0, 2, 30) * 1.0),
    "equal groups": (np.repeat(np.arange(40.0), 2), np.repeat(np.arange(40.0), 2)),
    "all equal": (np.full(7, 0.25), np.full(5, 0.25)),
    "signed zeros": (np.array([-0.0, 0.0, 1.0]), np.array([0.0, -0.0, 2.0])),
    "perfect": (np.arange(20.0), np.arange(20.0) + 20),
    "reversed": (np.arange(20.0) + 20, np.arange(20.0)),
    "one each": (np.array([0.0]), np.array([1.0])),
    "one each, reversed": (np.array([1.0]), np.array([0.0])),
    "one each, equal": (np.array([1.0]), np.array([1.0])),
    "one against many": (np.array([0.3]), normal(30)),
    "many against one": (normal(30), np.array([0.3])),
    "recall hits 95 % exactly": (np.arange(20.0), np.array([17.5, 18.2, 18.5, 18.7, 19.5, 3.0])),
    "two recalls about equally close": (np.arange(10.0), np.array([8.5, 8.6, 9.5, -1.0])),
    "equal ID scores": (np.array([1.0, 1.0]), np.array([0.0, 2.0])),
    "tiny": (normal(40) * 1e-300, (normal(40) + 1) * 1e-300),
    "denormal f32": ((rng.integers(-9, 9, 40) * 1.4e-45).astype("f4"), (rng.integers(-5, 15, 40) * 1.4e-45).astype("f4")),
    "huge": (normal(40) * 1e307, (normal(40) + 1) * 1e307),
    "huge f32": ((normal(40) * 5e37).astype("f4"), ((normal(40) + 1) * 5e37).astype("f4")),
    "one bit apart": (1 + np.arange(0, 30) * 2.0**-52, 1 + np.arange(10, 50) * 2.0**-52),
    "softmax-like": (1 - np.exp(-8 * rng.random(120)).astype("f4"), 1 - np.exp(-3 * rng.random(80)).astype("f4")),
}
for n in (19, 20, 21, 39, 40, 41, 99, 100, 101):
    cases[f"{n} integers"] = (rng.integers(0, n, n).astype("f8"), rng.integers(n // 3, n + n // 3, n // 2).astype("f8"))

with np.errstate(over="ignore"):
    record = {
        "made_by": f"tests/golden/metrics.py: scikit-learn {sklearn.__version__}, numpy {np.__version__}, "
        f"Python {sys.version.split()[0]}",
        "cases": [
            {
                "name": name,
                "f32": id_scores.dtype == np.float32,
                "id": text(id_scores),
                "ood": text(ood_scores),
                "expected": {key: float(value) for key, value in expected(id_scores, ood_scores).items()},
            }
            for name, (id_scores, ood_scores) in cases.items()
        ],
    }
lines = json.dumps(record).replace('{"name"', '\n{"name"')
pathlib.Path(__file__).with_suffix(".json").write_text(lines + "\n")
