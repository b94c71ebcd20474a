"""The whole field of post-hoc detectors beside the forward passes alone: seconds, processor time.

    cargo build --release && python3 benches/field.py [IMAGES [ROUNDS]]

WRN-40-2 after one epoch on 2,000 made images of ten classes, which are told apart by their colour; an ID set and seven OOD sets of IMAGES
(10,000) each, made too, so that no data set is needed: what methods cost depends on what an image shows only for those that search
the train set, which are left out. The forward passes are those of `she`, which reads train features. Rows take turns, ROUNDS (2) times, in
a runs folder that has the trained network and nothing else; the least counts. Needs numpy, and a GB under the temporary folder.
"""
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import tempfile
import time

import numpy as np

PROGRAM = pathlib.Path("target/release/oodkit").resolve()
OOD_SETS = 7
ROWS = {
    "forward passes (she)": "she",
    "the field without gradients and search of the train set": "{ all: { except: [afdu, knn, nnguide, relation, odin, nac, adascale, cfood, grood] } }",
}


def images(rng, n, spread):
    """CIFAR-10's records: a label, and noise around its class's colour."""
    colours = np.random.default_rng(7).integers(60, 196, (10, 3, 1))
    labels = np.arange(n) % 10
    pixels = (colours[labels] + rng.normal(0, spread, (n, 3, 1024))).reshape(n, 3072)
    return np.concatenate([labels[:, None], pixels.clip(0, 255)], 1).astype(np.uint8)


def make(data, n):
    rng = np.random.default_rng(0)
    for name, spread in [("id", 40), *((f"ood{i}", 10 * i + 10) for i in range(OOD_SETS))]:
        folder = data / name
        folder.mkdir()
        train = images(rng, 50, spread)
        for i in range(5):
            (images(rng, 400, spread) if name == "id" else train).tofile(folder / f"data_batch_{i + 1}.bin")
        images(rng, n, spread).tofile(folder / "test_batch.bin")


def experiment(detector):
    sets = ", ".join(f"{{ name: ood{i}, format: cifar10, path: ood{i} }}" for i in range(OOD_SETS))
    return f"""
title: The field's cost
seeds: [0]
data:
  id: {{ name: cifar10, path: id }}
  ood: [{sets}]
networks:
  base:
    backbone: {{ wide_resnet: {{ depth: 40, width: 2, dropout: 0 }} }}
    train: {{ epochs: 1, batch_size: 64, optimizer: {{ sgd: {{ lr: 0.05, momentum: 0.9 }} }} }}
methods:
  - {{ network: base, detector: {detector} }}
tables: [{{ name: all, rows: method, columns: [fpr95, auroc] }}]
"""


def run(folder, name, detector, runs):
    """Seconds, and seconds of processor time, of one `oodkit run`."""
    file = folder / f"{name}.yaml"
    file.write_text(experiment(detector))
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [PROGRAM, "run", file, "--data", folder / "data", "--runs", runs]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ, NO_COLOR="1"))
    if done.returncode:
        sys.exit(done.stdout + done.stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, busy


def main():
    n, rounds = (int(word) for word in (sys.argv[1:] + ["10000", "2"][len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "data").mkdir()
        make(folder / "data", n)
        trained = folder / "trained"
        subprocess.run([PROGRAM, "--version"], check=True)
        run(folder, "train", "msp", trained)
        shutil.rmtree(trained / "experiments")
        for outputs in trained.glob("networks/*/*/outputs"):
            shutil.rmtree(outputs)
        best = {}
        for turn in range(rounds):
            for i, (name, detector) in enumerate(ROWS.items()):
                runs = folder / "runs"
                shutil.copytree(trained, runs)
                took = run(folder, f"row{i}", detector, runs)
                shutil.rmtree(runs)
                best[name] = min(best.get(name, took), took)
                print(f"turn {turn + 1}: {name}: {took[0]:.1f} s, {took[1]:.1f} s of processor time", file=sys.stderr)
        first = best[next(iter(ROWS))][0]
        print("\n| | time, s | processor time, s | to the first |\n|---|---|---|---|")
        for name, (seconds, busy) in best.items():
            print(f"| {name} | {seconds:.1f} | {busy:.1f} | {seconds / first:.2f} |")


if __name__ == "__main__":
    main()
