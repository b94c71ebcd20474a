"""How training scales: time an epoch over images, one thread beside all, memory over epochs. Standard library only.

    cargo build --release && python3 benches/scaling.py [rounds]

Trains LeNet on the first images of the embedded Fashion-MNIST, and prints a Markdown table. The runs of a round follow each
other, and the table gives the medians of the rounds (default 3), so that what else the machine does falls on all of them.
"""
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
THREADS = len(os.sched_getaffinity(0))
EXPERIMENT = """\
title: Scaling
data:
  id: {{ name: fashion_mnist_small, train_limit: {images}, test_limit: 100 }}
  ood: [{{ name: digits, test_limit: 100 }}]
networks:
  base:
    backbone: lenet
    train:
      epochs: {epochs}
      batch_size: 100
      optimizer: {{ sgd: {{ lr: 0.01, momentum: 0.9 }} }}
      augment: {{ flip: true, crop_padding: 2 }}
methods:
  - {{ name: EBD, network: base, detector: energy }}
"""
RUNS = [  # images, epochs, threads
    (1000, 4, THREADS), (2000, 4, THREADS), (4000, 4, THREADS), (8000, 4, THREADS),
    (8000, 4, 1), (8000, 1, THREADS), (8000, 16, THREADS),
]


def train(images, epochs, threads):
    """Seconds an epoch and peak memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "scaling.yaml"
        file.write_text(EXPERIMENT.format(images=images, epochs=epochs))
        # candle's own pool has a variable of its own.
        environment = {**os.environ, "RAYON_NUM_THREADS": str(threads), "CANDLE_NUM_THREADS": str(threads)}
        command = [ROOT / "target/release/oodkit", "run", file, "--runs", f"{folder}/runs"]
        child = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        error = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        if status:
            sys.exit(f"the run failed:\n{error.decode()}")
        (record,) = pathlib.Path(folder).glob("runs/networks/*/seed0/network.json")
        return json.loads(record.read_text())["train_seconds"] / epochs, usage.ru_maxrss / 1024


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    measured = [[train(*run) for run in RUNS] for _ in range(rounds)]
    print("| images | epochs | threads | s an epoch | ms an image | peak MiB |")
    print("|---|---|---|---|---|---|")
    for (images, epochs, threads), results in zip(RUNS, zip(*measured)):
        seconds, memory = (statistics.median(column) for column in zip(*results))
        print(f"| {images} | {epochs} | {threads} | {seconds:.2f} | {1000 * seconds / images:.3f} | {memory:.0f} |")


main()
