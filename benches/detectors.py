"""Detectors on given features, oodkit's beside pytorch-ood's: seconds to fit and to score, the most memory.

Both read the same random features and take turns; the least of three turns counts. pytorch-ood's detectors are called as its
documentation does, with the settings that oodkit has as defaults. It has no Relation: OpenOOD's formula, written down with torch
for a block of images at a time, stands in for it.

    benches/detectors.py [--clustered] [TRAIN TEST FEATURES [NAME ...]]

Features are those of noise after a ReLU; with `--clustered` those of a network that is sure: near to their class's centre, with a last layer
that tells the classes apart, and half of the test images near to none.
"""
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import torch
from pytorch_ood import detector as ood
from safetensors.torch import save_file
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, TensorDataset

CLASSES = 10
ROUNDS = 3
OURS = "target/release/examples/detectors"


class Relation:
    """OpenOOD's relation_postprocessor, some images at a time."""

    def fit(self, z, logits, labels):
        self.z, self.p = normalize(z), logits.softmax(1)

    def score(self, z, logits):
        scores = []
        for z, p in zip(normalize(z).split(256), logits.softmax(1).split(256)):
            related = (z @ self.z.T).clamp(min=0) * (p @ self.p.T)
            scores.append(-torch.where(related > 0.03, related, 0).sum(1))
        return torch.cat(scores)


class Features:
    """A detector of pytorch-ood with fit_features and predict_features."""

    def __init__(self, detector):
        self.detector = detector

    def fit(self, z, logits, labels):
        self.detector.fit_features(z, labels)

    def score(self, z, logits):
        return torch.cat([self.detector.predict_features(part) for part in z.split(1024)])


class Logits:
    """One with fit_logits and predict_logits."""

    def __init__(self, detector, learns=True):
        self.detector, self.learns = detector, learns

    def fit(self, z, logits, labels):
        if self.learns:
            self.detector.fit_logits(logits, labels)

    def score(self, z, logits):
        return self.detector.predict_logits(logits)


class Inputs:
    """One that calls the network: here the features are its input."""

    def __init__(self, detector, learns=True):
        self.detector, self.learns = detector, learns

    def fit(self, z, logits, labels):
        if self.learns:
            self.detector.fit(DataLoader(TensorDataset(z, labels), batch_size=1024))

    def score(self, z, logits):
        return torch.cat([self.detector.predict(part) for part in z.split(1024)])


def detectors(head):
    """By oodkit's name."""
    identity = torch.nn.Identity()
    weight, bias = head.weight.detach(), head.bias.detach()
    return {
        "knn": Features(ood.KNN(None, k=50)),
        "nnguide": Inputs(ood.NNGuide(identity, head, k=10)),
        "relation": Relation(),
        "gram": Inputs(ood.Gram(head, [identity], CLASSES, num_poles_list=range(1, 6)).to("cpu")),
        "vim": Features(ood.ViM(None, d=weight.shape[1] // 2, w=weight, b=bias)),
        "mahalanobis": Features(ood.Mahalanobis(None)),
        "rmds": Features(ood.RMD(None)),
        "she": Inputs(ood.SHE(identity, head)),
        "dice": Features(ood.DICE(None, w=weight, b=bias, p=0.9)),
        "fdbd": Inputs(ood.fDBD(identity, head)),
        "nci": Inputs(ood.NCI(identity, head)),
        "openmax": Logits(ood.OpenMax(None)),
        "kl_matching": Logits(ood.KLMatching(None)),
        "temperature_scaling": Logits(ood.TemperatureScaling(None)),
        "gen": Logits(ood.GEN(None), learns=False),
        "energy": Logits(ood.EnergyBased(None), learns=False),
    }


def theirs(name, train, test, head):
    detector = detectors(head)[name]
    with torch.no_grad() if name != "temperature_scaling" else torch.enable_grad():
        begun = time.perf_counter()
        detector.fit(*train)
        fitted = time.perf_counter()
        detector.score(*test[:2])
        return fitted - begun, time.perf_counter() - fitted


def alone(name, folder):
    """In a process of its own, so that its memory is its own."""
    train = torch.load(folder / "train.pt")
    test = torch.load(folder / "test.pt")
    head = torch.nn.Linear(train[0].shape[1], CLASSES)
    head.load_state_dict(torch.load(folder / "head.pt"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rounds = [theirs(name, train, test, head)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps({"fit": rounds[0][0], "score": rounds[0][1], "peak_mib": peak // 1024, "before_mib": before // 1024}))


def run(command):
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode:
        return {"error": (answer.stderr.strip().splitlines() or ["failed"])[-1]}
    return json.loads(answer.stdout.strip().splitlines()[-1])


def best(turns):
    failed = [turn for turn in turns if "error" in turn]
    return failed[0] if failed else {key: min(turn[key] for turn in turns) for key in ("fit", "score", "peak_mib")}


def main(train, test, size, names, clustered):
    generator = torch.Generator().manual_seed(0)
    head = torch.nn.Linear(size, CLASSES)
    centres = torch.randn(CLASSES, size, generator=generator)
    with torch.no_grad():
        head.weight.copy_(centres * 6 / size if clustered else centres / size**0.5)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        torch.save(head.state_dict(), folder / "head.pt")
        for split, images in (("train", train), ("test", test)):
            z = torch.randn(images, size, generator=generator)
            if clustered:
                near = centres[torch.arange(images) % CLASSES]
                if split == "test":
                    near[images // 2 :] = torch.randn(images - images // 2, size, generator=generator)
                z = 2 * near + 0.5 * z
            z = z.clamp(min=0)
            with torch.no_grad():
                logits = head(z)
            # As with a network that is right: pytorch-ood's SHE takes those images alone.
            labels = logits.argmax(1)
            torch.save((z, logits, labels), folder / f"{split}.pt")
            tensors = {"features": z, "logits": logits, "labels": labels, "head.weight": head.weight.detach(), "head.bias": head.bias.detach()}
            save_file({**tensors, "taps.features": z.clone()}, folder / f"{split}.safetensors")
        print(f"{os.cpu_count()} cores, torch {torch.__version__}, {train} train images, {test} test images, {size} features{', clustered' * clustered}")
        print("detector              oodkit: fit s  score s    MiB   pytorch-ood: fit s  score s    MiB   times as fast")
        # pytorch-ood's Gram multiplies channels by channels: by name, and with fewer images.
        for name in names or [name for name in detectors(head) if name != "gram"]:
            turns = [
                (
                    run([OURS, folder / "train.safetensors", folder / "test.safetensors", name]),
                    run([sys.executable, __file__, "--alone", name, str(folder)]),
                )
                for _ in range(ROUNDS)
            ]
            own, other = best([turn[0] for turn in turns]), best([turn[1] for turn in turns])
            if "error" in own:
                raise SystemExit(f"{name}: {own['error']}")
            line = f"{name:20s} {own['fit']:14.3f} {own['score']:8.3f} {own['peak_mib']:6d}"
            if "error" in other:
                print(f"{line}   {other['error']}", flush=True)
                continue
            times = (other["fit"] + other["score"]) / (own["fit"] + own["score"])
            print(f"{line} {other['fit']:20.3f} {other['score']:8.3f} {other['peak_mib']:6d} {times:15.1f}", flush=True)


if sys.argv[1:2] == ["--alone"]:
    alone(sys.argv[2], pathlib.Path(sys.argv[3]))
else:
    arguments = [argument for argument in sys.argv[1:] if argument != "--clustered"]
    main(*map(int, arguments[:3] or (50_000, 10_000, 640)), arguments[3:], "--clustered" in sys.argv)
