"""DDU in numpy on the features of a run of mnist_afdu, for several jitters: python ddu.py RUNS DATA (numpy, safetensors).

RUNS and DATA as in OODKIT_RUNS and OODKIT_DATA, DATA/mnist with the usual files. Prints, for the plain network of seed 0, the AUROC
against Fashion-MNIST by jitter, and by class how many features are 0 for all its train images.
"""

import gzip
import json
import pathlib
import sys

import numpy
from safetensors.numpy import load_file

runs, data = map(pathlib.Path, sys.argv[1:])
results = json.loads((runs / "experiments" / "mnist_afdu" / "results.json").read_text())
network = runs / results["cells"][0]["seeds"][0]["networks"]["base"]["folder"]
outputs = max((network / "outputs").iterdir())


def features(name, images):
    """A set's, told by its number of images."""
    for path in sorted(outputs.glob(f"{name}-*")):
        found = load_file(path)["features"]
        if len(found) == images:
            return found.astype(float)
    sys.exit(f"no outputs of {images} images of {name} in {outputs}")


def labels():
    for name in ["train-labels-idx1-ubyte.gz", "train-labels-idx1-ubyte"]:
        path = data / "mnist" / name
        if path.exists():
            raw = gzip.open(path).read() if name.endswith("gz") else path.read_bytes()
            return numpy.frombuffer(raw, numpy.uint8)[8:]
    sys.exit(f"no train labels in {data / 'mnist'}")


def log_likelihood(x, gaussians):
    """ln of the sum of the classes' densities, no prior."""
    logs = []
    for mean, factor in gaussians:
        z = numpy.linalg.solve(factor, (x - mean).T)
        logs.append(-0.5 * (z**2).sum(0) - numpy.log(numpy.diag(factor)).sum())
    logs = numpy.array(logs)
    return logs.max(0) + numpy.log(numpy.exp(logs - logs.max(0)).sum(0))


def auroc(negative, positive):
    both = numpy.concatenate([negative, positive])
    _, inverse, counts = numpy.unique(both, return_inverse=True, return_counts=True)
    ranks = (numpy.cumsum(counts) - (counts - 1) / 2)[inverse]
    n = len(positive)
    return (ranks[len(negative) :].sum() - n * (n + 1) / 2) / (n * len(negative))


train, classes = features("mnist", 60_000), labels()
test, ood = features("mnist", 10_000), features("fashion_mnist", 10_000)
print("features that are 0 for a whole class:", [int((train[classes == c] == 0).all(0).sum()) for c in range(10)])
for jitter in [1e-12, 1e-8, 1e-4, 1e-2, 1e-1, 1]:
    gaussians = []
    for c in range(10):
        own = train[classes == c]
        covariance = numpy.cov(own.T) + jitter * numpy.eye(own.shape[1])
        try:
            gaussians.append((own.mean(0), numpy.linalg.cholesky(covariance)))
        except numpy.linalg.LinAlgError:
            break
    if len(gaussians) < 10:
        print(f"jitter {jitter:g}: a covariance is not positive definite")
        continue
    print(f"jitter {jitter:g}: {100 * auroc(-log_likelihood(test, gaussians), -log_likelihood(ood, gaussians)):.2f}")
