"""PaDiM and PatchCore on given features, oodkit's beside anomalib's: seconds to fit and to score.

    pip install torch numpy scipy scikit-learn safetensors; pip install --no-deps anomalib
    cargo build --release --locked --example detectors
    python3 benches/maps.py [--threads N] [TRAIN TEST]

Both read the same random features, as many threads each, and take turns; the least of three turns counts, as time
and as the processors' time, which other work on the machine hardly changes. anomalib's own classes are
loaded without its package, which would import Lightning and timm: MultiVariateGaussian and AnomalyMapGenerator for PaDiM, KCenterGreedy
and PatchcoreModel's nearest neighbours for PatchCore. Its times begin where the features are: no backbone runs.

Features: as of a ResNet-18 at 256x256, smooth over the image, with channels that go together. PaDiM draws 100 of 448 channels on 64x64
positions. PatchCore reads 384 channels on 32x32 positions; both choose greedily, as many patches from as many.
"""

import argparse
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import types

import numpy as np
import torch
from safetensors.torch import save_file

PROGRAM = os.environ.get("DETECTORS", "target/release/examples/detectors")
ROUNDS = 3
IMAGE = 256
STAGES = {"layer1": (64, 64), "layer2": (128, 32), "layer3": (256, 16)}
KEPT = 2000


def anomalib():
    """Its classes, from their files alone."""
    root = pathlib.Path(importlib.util.find_spec("anomalib").submodule_search_locations[0])

    def module(name, **contents):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
        vars(sys.modules[name]).update(contents)

    def load(name, path):
        spec = importlib.util.spec_from_file_location(name, root / path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
        return sys.modules[name]

    class Mixin:
        pass

    for name in ("anomalib", "anomalib.models", "anomalib.models.components"):
        module(name)
    module("anomalib.models.components.base", DynamicBufferMixin=Mixin)
    projection = load("anomalib.projection", "models/components/dimensionality_reduction/random_projection.py")
    module("anomalib.models.components.dimensionality_reduction", SparseRandomProjection=projection.SparseRandomProjection)
    blur = load_blur(load)
    sys.modules["anomalib.models.components"].GaussianBlur2d = blur
    gaussian = load("anomalib.gaussian", "models/components/stats/multi_variate_gaussian.py").MultiVariateGaussian
    greedy = load("anomalib.greedy", "models/components/sampling/k_center_greedy.py").KCenterGreedy
    padim_map = load("anomalib.padim_map", "models/image/padim/anomaly_map.py").AnomalyMapGenerator
    return types.SimpleNamespace(gaussian=gaussian, greedy=greedy, padim_map=padim_map, nearest=nearest_of(root))


def load_blur(load):
    try:
        return load("anomalib.blur", "models/components/filters/blur.py").GaussianBlur2d
    except ImportError:
        # It calls kornia for its kernel; the same kernel without it.
        class Blur(torch.nn.Module):
            def __init__(self, kernel_size, sigma, channels):
                super().__init__()
                at = torch.arange(kernel_size[0]) - kernel_size[0] // 2
                bell = torch.exp(-0.5 * (at / sigma[0]) ** 2)
                self.kernel = bell / bell.sum()

            def forward(self, x):
                half = len(self.kernel) // 2
                x = torch.nn.functional.pad(x, [half] * 4, mode="reflect")
                x = torch.nn.functional.conv2d(x, self.kernel[None, None, None])
                return torch.nn.functional.conv2d(x, self.kernel[None, None, :, None])

        return Blur


def nearest_of(root):
    """The two functions of PatchcoreModel that need nothing else of it."""
    import ast

    source = (root / "models/image/patchcore/torch_model.py").read_text()
    tree = ast.parse(source)
    names = ("euclidean_dist", "nearest_neighbors", "compute_anomaly_score")
    model = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "PatchcoreModel")
    model.body = [node for node in model.body if isinstance(node, ast.FunctionDef) and node.name in names]
    model.bases = []
    size = next(
        node for node in tree.body if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "DEFAULT_CHUNK_SIZE"
    )
    space = {"torch": torch, "F": torch.nn.functional}
    exec(compile(ast.Module([size, model], []), "patchcore", "exec"), space)  # noqa: S102
    return space["PatchcoreModel"]


def features(images, seed):
    """By stage, smooth over the image, with channels that go together; the same directions for all images."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(1)
    maps = {}
    for name, (channels, side) in STAGES.items():
        mixing = torch.randn(channels, 24, generator=fixed)
        coarse = torch.randn(images, 24, 8, 8, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
        values = torch.einsum("cd,nduv->ncuv", mixing, smooth)
        maps[name] = (values + 0.5 * torch.randn(values.shape, generator=generator)).relu().contiguous()
    return maps


def now():
    """Seconds, and those of the processors."""
    return np.array([time.perf_counter(), time.process_time()])


def padim(them, train, test):
    """Fit and score, from the stages' maps."""

    def embedding(maps):
        size = maps["layer1"].shape[-2:]
        parts = [maps["layer1"], *(torch.nn.functional.interpolate(maps[name], size=size, mode="nearest") for name in ("layer2", "layer3"))]
        return torch.index_select(torch.cat(parts, 1), 1, drawn)

    drawn = torch.randperm(448, generator=torch.Generator().manual_seed(0))[:100]
    begun = now()
    statistics = them.gaussian().fit(embedding(train))
    fitted = now()
    maps = them.padim_map()(embedding=embedding(test), mean=statistics[0], inv_covariance=statistics[1], image_size=(IMAGE, IMAGE))
    maps.amax(dim=(1, 2, 3))
    return fitted - begun, now() - fitted


def patchcore(them, train, test):
    def embedding(maps):
        pooled = [torch.nn.functional.avg_pool2d(maps[name], 3, 1, 1) for name in ("layer2", "layer3")]
        second = torch.nn.functional.interpolate(pooled[1], size=pooled[0].shape[-2:], mode="bilinear")
        both = torch.cat((pooled[0], second), 1)
        return both.permute(0, 2, 3, 1).reshape(-1, both.shape[1])

    begun = now()
    bank = embedding(train)
    bank = them.greedy(embedding=bank, sampling_ratio=KEPT / len(bank)).sample_coreset()
    fitted = now()
    model = types.SimpleNamespace(memory_bank=bank, num_neighbors=9, euclidean_dist=them.nearest.euclidean_dist)
    model.nearest_neighbors = lambda embedding, n_neighbors: them.nearest.nearest_neighbors(model, embedding, n_neighbors)
    queries = embedding(test)
    scores, locations = model.nearest_neighbors(embedding=queries, n_neighbors=1)
    images = len(test["layer2"])
    scores, locations = scores.reshape(images, -1), locations.reshape(images, -1)
    them.nearest.compute_anomaly_score(model, scores, locations, queries)
    maps = scores.reshape(images, 1, 32, 32)
    maps = torch.nn.functional.interpolate(maps, size=(IMAGE, IMAGE), mode="bilinear")
    them.padim_map().blur(maps)
    return fitted - begun, now() - fitted


def ours(detector, paths, threads):
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    said = subprocess.run([PROGRAM, *paths, detector], check=True, stdout=subprocess.PIPE, env=environment).stdout
    found = json.loads(said)
    return np.array([found["fit"], found["fit_cpu"]]), np.array([found["score"], found["score_cpu"]])


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--threads", type=int, default=1)
    arguments.add_argument("sizes", type=int, nargs="*", default=[200, 50])
    arguments = arguments.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    them = anomalib()
    train, test = (features(images, seed) for images, seed in zip(arguments.sizes, (2, 3)))
    everything = arguments.sizes[0] * 1024
    cases = {
        "PaDiM": (padim, "padim: { stages: [layer1, layer2, layer3] }"),
        "PatchCore": (
            patchcore,
            f"patchcore: {{ stages: [layer2, layer3], reweight: 9, score: patch, "
            f"coreset: {{ size: {KEPT}, subsample: {everything} }} }}",
        ),
    }
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        paths = [str(pathlib.Path(folder) / f"{name}.safetensors") for name in ("train", "test")]
        for path, maps in zip(paths, (train, test)):
            tensors = {f"taps.{name}": values.contiguous() for name, values in maps.items()}
            save_file(tensors, path, metadata={"image_size": f"{IMAGE}x{IMAGE}"})
        print(f"{arguments.sizes[0]} train and {arguments.sizes[1]} test images, {arguments.threads} threads: seconds to fit and to score")
        for name, (theirs, detector) in cases.items():
            turns = [(ours(detector, paths, arguments.threads), theirs(them, train, test)) for _ in range(ROUNDS)]
            for who, at in (("oodkit", 0), ("anomalib", 1)):
                for what, clock in (("time", 0), ("processors", 1)):
                    fit, score = min(((turn[at][0][clock], turn[at][1][clock]) for turn in turns), key=sum)
                    print(f"{name:10} {who:9} {what:10} {fit:8.2f} {score:8.2f} {fit + score:8.2f}", flush=True)


main()
