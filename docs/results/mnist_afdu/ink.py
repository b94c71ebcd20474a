"""How far one looks without a network: lit pixels where train digits have no ink. python ink.py DATA, which holds mnist, fashion_mnist,
emnist_letters and notmnist as IDX files. Needs numpy."""
import gzip
import pathlib
import sys

import numpy as np


def images(name, split):
    file = pathlib.Path(sys.argv[1]) / name / f"{split}-images-idx3-ubyte.gz"
    return np.frombuffer(gzip.decompress(file.read_bytes()), np.uint8, offset=16).reshape(-1, 28 * 28)


def auroc(id, ood):
    scores = np.concatenate([id, ood])
    values, place, count = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[place]
    return (rank[len(id):].sum() - len(ood) * (len(ood) + 1) / 2) / len(id) / len(ood)


inkless = (images("mnist", "train") > 0).mean(0) < 0.001
print(f"{inkless.sum()} of 784 pixels have ink in fewer than a thousandth of the train images")
score = lambda name: (images(name, "t10k")[:, inkless] > 0).sum(1)
for name in ("fashion_mnist", "emnist_letters", "notmnist"):
    print(f"{name}: AUROC {100 * auroc(score('mnist'), score(name)):.1f}")
