"""Scores of `oodkit score` beside pytorch-ood's and numpy's, on the same random numbers: the tables of docs/agreement.md.

Every detector that can score a feature file reads f32 numbers from one; the others read the same numbers and compute in f64. The
references are those of the golden values: tests/golden/references.py and of_pytorch_ood.py.

    benches/agreement.py [NAME ...]
"""
import importlib.metadata
import os
import pathlib
import platform
import subprocess
import sys
import tempfile
from types import SimpleNamespace

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "tests/golden"))

import make_afdu
import numpy as np
import of_pytorch_ood
import references
import torch
from safetensors.numpy import save_file

PROGRAM = os.environ.get("OODKIT", "target/release/oodkit")
CLASSES, TRAIN, TEST, FEATURES = 10, 10_000, 500, 640
rng = np.random.default_rng(0)
f32 = lambda values: values.astype("f4").astype("f8")


def logits(features, weight, bias):
    """Logits as a file has them."""
    return f32(features @ weight.T + bias)


def of_features():
    """Features as after a ReLU, of classes that overlap; half of the test images are of none."""
    centres = rng.standard_normal((CLASSES, FEATURES))
    labels = rng.integers(CLASSES, size=TRAIN)
    some = rng.integers(CLASSES, size=TEST // 2)
    train = f32(np.maximum(0.12 * centres[labels] + rng.standard_normal((TRAIN, FEATURES)), 0))
    test = f32(np.maximum(np.concatenate([
        0.12 * centres[some] + rng.standard_normal((TEST // 2, FEATURES)),
        1.3 * rng.standard_normal((TEST - TEST // 2, FEATURES)),
    ]), 0))
    weight = f32(0.13 * centres + 0.03 * rng.standard_normal(centres.shape))
    bias = f32(0.1 * rng.standard_normal(CLASSES) - weight.sum(axis=1) * train.mean())
    return SimpleNamespace(
        weight=weight, bias=bias, labels=labels, train_features=train, features=test,
        train_logits=logits(train, weight, bias), logits=logits(test, weight, bias),
    )


def of_maps():
    """Two layers of feature maps, of which the features are the means of the last."""
    gains = rng.uniform(0.5, 1.5, (CLASSES, 32))

    def maps(images, spread):
        first = rng.standard_normal((images, 16, 8, 8)) * rng.uniform(0.5, spread, (images, 1, 1, 1))
        last = (rng.standard_normal((images, 32, 4, 4)) + 0.2) * gains[rng.integers(CLASSES, size=images)][:, :, None, None]
        return [f32(np.maximum(layer, 0)) for layer in (first, last)]

    train, test = maps(1000, 1.5), maps(200, 2)
    features, train_features = f32(test[-1].mean(axis=(2, 3))), f32(train[-1].mean(axis=(2, 3)))
    usual = 0.5 * gains
    weight, bias = f32(10 * usual), f32(-5 * (usual**2).sum(axis=1))
    return SimpleNamespace(
        weight=weight, bias=bias, taps=test, train_taps=train, features=features, train_features=train_features,
        train_logits=logits(train_features, weight, bias), logits=logits(features, weight, bias),
    )


def of_neurons():
    """Two layers of neurons; fewer train images than AFDU has clusters, so that no clustering is compared."""
    usual = [rng.normal(0, 2, neurons) for neurons in (12, 8)]
    layers = lambda images, spread: [f32(rng.normal(mean, spread, (images, len(mean)))) for mean in usual]
    return SimpleNamespace(train_taps=layers(400, 1), taps=layers(200, 1.5))


def of_members():
    """Five networks that agree more or less."""
    common = 3 * rng.standard_normal((TEST, 1, CLASSES))
    apart = rng.standard_normal((TEST, 5, CLASSES)) * rng.uniform(0.01, 3, (TEST, 1, 1))
    return SimpleNamespace(members=f32(common + apart))


def of_kernels():
    """ln K of a DUQ head."""
    return SimpleNamespace(logits=f32(-4 * rng.random((TEST, CLASSES))))


def afdu(d, engine=None):
    """Whatever the engine, exactly."""
    return make_afdu.scores(list(zip(d.train_taps, d.taps)), cap=80)["paper"]


def temperature_scaling(d):
    return of_pytorch_ood.temperature_scaling(d, references.best_temperature(d))


def openmax(d):
    return of_pytorch_ood.openmax(d, weibull=references.weibull)


def vra(d, low, high, thresholds):
    return of_pytorch_ood.vra(d, low, high)


SAME = "as it is"
#: Detector, settings, pytorch-ood's class, what brings its scores to ours; what calls it, unless the function of the detector's name.
CASES = {
    of_features: [
        ("msp", {}, "MaxSoftmax", "1 + score"),
        ("softmax_entropy", {}, "Entropy", SAME),
        ("max_logit", {}, "MaxLogit", SAME),
        ("energy", {}, "EnergyBased", SAME),
        ("gen", {}, "GEN", "× M, the classes: it has their mean"),
        ("kl_matching", {}, "KLMatching", SAME),
        ("temperature_scaling", {}, "TemperatureScaling", "ln(1 + score); its T of 50 steps of L-BFGS"),
        ("temperature_scaling", {}, "TemperatureScaling", "ln(1 + score); the T of the numpy version", temperature_scaling),
        ("odin", {"noise": 0}, "ODIN", "ln(1 + score)"),
        ("openmax", {}, "OpenMax", "ln(p / (1 − p)) of its probability p; its Weibull distributions of scipy's simplex"),
        ("openmax", {}, "OpenMax", "the same; the Weibull distributions of the numpy version", openmax),
        ("knn", {}, "KNN", SAME),
        ("nnguide", {}, "NNGuide", SAME),
        ("nnguide", {"k": 100, "fraction": 0.01}, "NNGuide", f"{SAME}, on every hundredth train image"),
        ("cfood", {}),
        ("cfood", {"k": 0.05}),
        ("relation", {}),
        ("relation", {"power": 8}),
        ("mahalanobis", {}, "Mahalanobis", "× 2 N: it inverts N times the covariance, and halves"),
        ("rmds", {}, "RMD", "× N: it inverts N times the covariance"),
        ("mahalanobis", {"normalise": True}, "Mahalanobis", "× 2 N, of features at length 1"),
        ("rmds", {"normalise": True}, "RMD", "× N, of features at length 1"),
        ("gaussian", {}),
        ("gaussian", {"unit": False}),
        ("ddu", {}),
        ("sngp", {}),
        ("sngp", {"uncertainty": "dempster_shafer"}),
        ("residual", {}),
        ("vim", {}, "ViM", SAME),
        ("neco", {}),
        ("neco", {"max_logit": False}),
        ("kpca", {}),
        ("kpca", {"explained": 0.99}),
        ("gradnorm", {}, "GradNorm", SAME),
        ("fdbd", {}, "fDBD", SAME),
        ("fdbd", {"relative_to": "origin"}),
        ("ora", {}),
        ("nci", {}, "NCI", SAME),
        ("pnml", {}, "PNML", SAME),
        ("she", {}, "SHE", SAME),
        ("react", {}, "ReAct", SAME),
        ("dice", {}, "DICE", SAME),
        ("ash", {"variant": "b"}, "ASH", SAME),
        ("ash", {"variant": "p"}, "ASH", SAME),
        ("ash", {"variant": "s"}, "ASH", SAME),
        ("scale", {}, "SCALE", SAME),
        ("lts", {}, "LTS", SAME),
        ("vra", {}),
        ("weiper", {"distance": 0, "repeats": 1}),
        ("vra", {"low": 1, "high": 99, "thresholds": "each"}, "VRA", SAME, vra),
    ],
    of_maps: [("gram", {}, "Gram", SAME), ("rankfeat", {}, "RankFeat", SAME)],
    of_neurons: [("afdu", {"engine": "exact"}), ("afdu", {})],
    of_members: [("mutual_information", {})],
    of_kernels: [("duq", {})],
}


def write(d, folder):
    """Train and test images as feature files; the same head in both."""
    head = {"head.weight": d.weight, "head.bias": d.bias} if hasattr(d, "weight") else {}
    paths = {}
    for split, prefix in (("train", "train_"), ("test", "")):
        tensors = {name: getattr(d, prefix + name) for name in ("logits", "features") if hasattr(d, prefix + name)}
        if split == "test" and hasattr(d, "members"):
            tensors["members"] = d.members
        for index, layer in enumerate(getattr(d, prefix + "taps", [])):
            tensors[f"taps.layer{index}"] = layer
        if tensors:
            tensors = {name: values.astype("f4") for name, values in {**tensors, **head}.items()}
            if split == "train" and hasattr(d, "labels"):
                tensors["labels"] = d.labels
            paths[split] = folder / f"{split}.safetensors"
            save_file(tensors, paths[split])
    return paths


def ours(detector, paths, folder):
    out = folder / "scores.npy"
    fit = ["--fit", paths["train"]] if "train" in paths else []
    subprocess.run([PROGRAM, "score", "--detector", detector, *fit, "--input", paths["test"], "--out", out], check=True, stderr=subprocess.PIPE)
    return np.load(out).astype("f8")


def apart(scores, reference):
    """Largest difference relative to the largest reference, and to its own; pairs of images that are in the other order."""
    gaps, sizes = np.abs(scores - reference), np.abs(reference)
    one, other = np.subtract.outer(scores, scores), np.subtract.outer(reference, reference)
    turned = np.sum(one * other < 0) // 2
    each = np.divide(gaps, sizes, out=np.where(gaps > 0, np.inf, 0), where=sizes > 0)
    return f"{gaps.max() / sizes.max():.1e} | {each.max():.1e} | {turned}"


def row(d, paths, folder, name, settings, of=None, scale=None, theirs=None):
    written = ", ".join(f"{key}: {str(value).lower()}" for key, value in settings.items())
    detector = f"{name}: {{ {written} }}" if settings else name
    scores = ours(detector, paths, folder)
    numpy = apart(scores, (afdu if name == "afdu" else getattr(references, name))(d, **settings))
    other = "| | | |"
    if of:
        call = theirs or getattr(of_pytorch_ood, name)
        other = f"{of}: {scale} | {apart(scores, call(d, **settings).detach().numpy())} |"
    print(f"| `{detector}` | {numpy} | {other}", flush=True)


def main(names):
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("pytorch-ood", "torch", "numpy", "scipy"))
    print(f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores; {versions}\n")
    print("| detector | numpy: of the largest | of each | pairs turned | pytorch-ood | of the largest | of each | pairs turned |")
    print("| :-- | --: | --: | --: | :-- | --: | --: | --: |")
    for make, cases in CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            folder, d = pathlib.Path(folder), make()
            paths = write(d, folder)
            for name, *case in cases:
                if not names or name in names:
                    row(d, paths, folder, name, *case)


torch.set_num_threads(2)
main(sys.argv[1:])
