"""Golden values of tests/pixel.rs: measures of maps against masks, by scipy and scikit-learn and by the definitions in numpy.

    pip install numpy scipy scikit-learn; python3 tests/golden/pixel.py > tests/golden/pixel.json

PRO is written from its definition (MVTec AD's official evaluation): all thresholds, 8-connected regions, linear interpolation at the
limit. AUPIMO from Bertoldo et al. 2024 with every threshold.
"""

import json

import numpy as np
from pattern import uniform
from scipy.ndimage import label
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

SIDE, ANOMALOUS, NORMAL = 64, 5, 30


def images(steps):
    """Maps and masks; `steps` makes ties."""
    for i in range(ANOMALOUS + NORMAL):
        scores = uniform(f"map {i}", SIDE, SIDE).astype(np.float32)
        r, c = np.indices((SIDE, SIDE))
        mask = ((r // 5 + 3 * (c // 7) + i) % (6 + i) == 0) & (i < ANOMALOUS)
        scores = scores + np.float32(1.25) * mask.astype(np.float32)
        if steps:
            scores = np.floor(scores * np.float32(steps)) / np.float32(steps)
        yield scores.astype(np.float32), mask


def pro(maps, limit):
    scores = np.concatenate([m.ravel() for m, _ in maps])
    normal = np.concatenate([~mask.ravel() for _, mask in maps])
    weights, count = [], 0
    for _, mask in maps:
        labels, n = label(mask, structure=np.ones((3, 3)))
        count += n
        areas = np.bincount(labels.ravel(), minlength=n + 1)
        weight = np.where(labels > 0, 1.0 / areas[labels], 0.0)
        weights.append(weight.ravel())
    weights = np.concatenate(weights)
    order = np.argsort(-scores, kind="stable")
    scores, normal, weights = scores[order], normal[order], weights[order]
    last = np.append(scores[1:] != scores[:-1], True)
    x = np.concatenate([[0.0], (np.cumsum(normal) / normal.sum())[last]])
    y = np.concatenate([[0.0], (np.cumsum(weights) / count)[last]])
    inside = x <= limit
    x, y = np.append(x[inside], limit), np.append(y[inside], np.interp(limit, x, y))
    return np.trapezoid(y, x) / limit, count


def aupimo(maps, low=1e-5, high=1e-4):
    normal = np.concatenate([m.ravel() for m, mask in maps if not mask.any()])
    thresholds = np.unique(np.concatenate([m.ravel() for m, _ in maps]))[::-1]
    normal = np.sort(normal)
    x = (len(normal) - np.searchsorted(normal, thresholds, side="left")) / len(normal)
    values = []
    for m, mask in maps:
        if not mask.any():
            continue
        found = np.sort(m[mask])
        y = (len(found) - np.searchsorted(found, thresholds, side="left")) / len(found)
        # At one rate the curve rises; its ends are what the trapezoids to either side use.
        area, grid = 0.0, np.unique(x[x > 0])
        first = {g: y[np.argmax(x == g)] for g in grid}
        final = {g: y[len(x) - 1 - np.argmax((x == g)[::-1])] for g in grid}
        before = y[x == 0].max(initial=0.0)
        for i, g in enumerate(grid):
            a, b = (0.0 if i == 0 else grid[i - 1]), g
            lo, hi = max(a, low), min(b, high)
            if hi <= lo:
                continue
            ya, yb = (before, first[b]) if i == 0 else (final[grid[i - 1]], first[b])
            at = lambda r: before if a == 0.0 else ya + (yb - ya) * np.log(r / a) / np.log(b / a)
            area += np.log(hi / lo) * (at(lo) + at(hi)) / 2
        values.append(area / np.log(high / low))
    return float(np.mean(values))


cases = []
for steps in (0, 8, 64):
    maps = list(images(steps))
    truth = np.concatenate([mask.ravel() for _, mask in maps])
    scores = np.concatenate([m.ravel() for m, _ in maps]).astype(np.float64)
    precision, recall, _ = precision_recall_curve(truth, scores)
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-300)).max()
    area, count = pro(maps, 0.3)
    # In the order of tests/pixel.rs.
    expected = [roc_auc_score(truth, scores), average_precision_score(truth, scores), f1, area, aupimo(maps)]
    cases.append({"steps": steps, "regions": count, "expected": expected, "pro_005": pro(maps, 0.05)[0]})
print(json.dumps(cases, indent=1))
