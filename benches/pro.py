"""Measures of maps against masks: oodkit's beside MVTec's official algorithm for PRO and scikit-learn's for the others.

    pip install numpy scipy scikit-learn
    cargo build --release --locked --example maps
    python3 benches/pro.py [--threads N] [--rounds N] [IMAGES ...]

PRO is the algorithm of MVTec AD's official evaluation (compute_pro and trapezoid), written anew from its definition: of each image the
8-connected regions, an array of what each pixel adds to the false positives and one of what it adds to the overlap, one argsort of all
pixels, cumulative sums, the last of equal scores. Pixel AUROC, AP and F1 are scikit-learn's. Both tools measure the same made maps, one
thread unless given, in turn; the least of the rounds counts, as time and as the processors' time, which other work on the machine
hardly changes. Reading files is in no time. Numbers must agree to 1e-6. Above 200 maps scikit-learn is left out.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import tempfile
import time

import numpy as np
from scipy.ndimage import gaussian_filter, label

PROGRAM = os.environ.get("MAPS", "target/release/examples/maps")
SIDE, LIMIT, WITH_SKLEARN = 256, 0.3, 200


def made(images, rng):
    """Smooth maps that are higher in most regions of the mask; every other image is anomalous, with up to four regions."""
    rows, columns = np.mgrid[:SIDE, :SIDE]
    for i in range(images):
        mask = np.zeros((SIDE, SIDE), bool)
        for _ in range(rng.integers(1, 5) if i % 2 == 0 else 0):
            (y, x), (height, width) = rng.uniform(0, SIDE, 2), rng.uniform(4, 24, 2)
            mask |= ((rows - y) / height) ** 2 + ((columns - x) / width) ** 2 < 1
        coarse = rng.normal(size=(SIDE // 8, SIDE // 8)).repeat(8, 0).repeat(8, 1)
        scores = gaussian_filter(coarse + rng.uniform(0.5, 4) * mask, 4)
        yield scores.astype(np.float32), mask


def official(maps, masks):
    """PRO up to LIMIT."""
    false = np.zeros(maps.shape, np.uint32)
    overlap = np.zeros(maps.shape, np.float64)
    normal = regions = 0
    for i, mask in enumerate(masks):
        labels, count = label(mask, np.ones((3, 3), int))
        regions += count
        outside = labels == 0
        normal += outside.sum()
        false[i][outside] = 1
        for k in range(1, count + 1):
            region = labels == k
            overlap[i][region] = 1.0 / region.sum()
    scores = maps.ravel()
    order = np.argsort(scores)[::-1]
    scores, false, overlap = scores[order], false.ravel()[order], overlap.ravel()[order]
    last = np.append(np.diff(scores) != 0, True)
    x = (np.cumsum(false, dtype=np.uint64) / normal)[last]
    y = (np.cumsum(overlap) / regions)[last]
    x, y = np.concatenate([[0.0], x, [1.0]]), np.clip(np.concatenate([[0.0], y, [1.0]]), None, 1.0)
    inside = x <= LIMIT
    y_end = np.interp(LIMIT, x, y)
    x, y = np.append(x[inside], LIMIT), np.append(y[inside], y_end)
    return np.trapezoid(y, x) / LIMIT


def sklearns(maps, masks):
    from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score

    truth, scores = masks.ravel(), maps.ravel()
    precision, recall, _ = precision_recall_curve(truth, scores)
    f1 = (2 * precision * recall / np.maximum(precision + recall, 1e-300)).max()
    return {"pixel_auroc": roc_auc_score(truth, scores), "pixel_ap": average_precision_score(truth, scores), "pixel_f1": f1}


def timed(work, *arguments):
    """Seconds, those of the processors, and what was found."""
    begun, cpu = time.perf_counter(), time.process_time()
    found = work(*arguments)
    return time.perf_counter() - begun, time.process_time() - cpu, found


def least(times):
    """Of seconds and those of the processors, each by itself."""
    return "  ".join(f"{min(column):7.2f} s" for column in zip(*times))


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("images", type=int, nargs="*", default=[83, 1725])
    arguments = arguments.parse_args()
    environment = {**os.environ, "RAYON_NUM_THREADS": str(arguments.threads)}
    for images in arguments.images:
        with tempfile.TemporaryDirectory() as folder:
            pairs = made(images, np.random.default_rng(images))
            maps, masks = np.empty((images, SIDE, SIDE), np.float32), np.empty((images, SIDE, SIDE), bool)
            for i, (scores, mask) in enumerate(pairs):
                maps[i], masks[i] = scores, mask
            paths = [pathlib.Path(folder) / name for name in ("maps", "masks")]
            maps.tofile(paths[0]), masks.tofile(paths[1])
            ours, theirs, others = [], [], []
            for _ in range(arguments.rounds):
                said = subprocess.run([PROGRAM, "measure", *paths, str(SIDE)], check=True, stdout=subprocess.PIPE, env=environment)
                ours.append(json.loads(said.stdout))
                theirs.append(timed(official, maps, masks))
                if images <= WITH_SKLEARN:
                    others.append(timed(sklearns, maps, masks))
        found = {"pro": theirs[0][2], **(others[0][2] if others else {})}
        for name, value in found.items():
            assert abs(ours[0][name] - value) < 1e-6, (name, ours[0][name], value)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{images} maps of {SIDE}x{SIDE}, {arguments.threads} threads, least of {arguments.rounds} rounds: time, processors' time, memory")
        print(f"  oodkit: PRO, pixel AUROC, AP, F1, AUPIMO  {least((o['seconds'], o['cpu_seconds']) for o in ours)}  {ours[0]['peak_mib']:6} MiB")
        print(f"  the official algorithm: PRO               {least(t[:2] for t in theirs)}  {peak:6.0f} MiB")
        if others:
            print(f"  scikit-learn: pixel AUROC, AP, F1         {least(t[:2] for t in others)}")
        print(f"  equal to 1e-6: {', '.join(found)}", flush=True)


main()
