"""Weighted cross-entropy by PyTorch's formula, in f64: class_weights.json. Run with numpy; the logits are those of losses.json.

torch.nn.CrossEntropyLoss(weight=w, label_smoothing=s), reduction mean (ATen's cross_entropy_loss_label_smoothing):
[(1 - s) sum_i w_yi (-log p_i,yi) + s / K sum_i sum_k w_k (-log p_i,k)] / sum_i w_yi.
"""
import json
import pathlib

import numpy as np

here = pathlib.Path(__file__).parent
golden = json.loads((here / "losses.json").read_text())
logits = np.array(golden["logits"], dtype=np.float64)
labels = np.array(golden["labels"])
rows = np.arange(len(labels))
classes = logits.shape[1]
shifted = logits - logits.max(axis=1, keepdims=True)
log_p = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))

cases = []
for weights, smoothing in [([1, 1, 1, 1], 0.0), ([0.5, 2, 1, 3], 0.0), ([0.5, 2, 1, 3], 0.1), ([0, 2, 1, 0.25], 0.2)]:
    w = np.array(weights, dtype=np.float64)
    total = w[labels].sum()
    value = ((1 - smoothing) * (w[labels] * -log_p[rows, labels]).sum() + smoothing / classes * (w * -log_p).sum()) / total
    # d(-log p_k)/df_j = p_j - [j = k]
    targets = np.zeros_like(logits)
    targets[rows, labels] = (1 - smoothing) * w[labels]
    targets += smoothing / classes * w
    gradient = (targets.sum(axis=1, keepdims=True) * np.exp(log_p) - targets) / total
    cases.append({"weights": [float(v) for v in weights], "label_smoothing": smoothing, "value": value, "gradient": gradient.tolist()})
(here / "class_weights.json").write_text(json.dumps(cases).replace('{"weights"', '\n{"weights"') + "\n")
