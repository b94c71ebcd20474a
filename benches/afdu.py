"""AFDU's cost beside a straightforward numpy and scipy version, in one run: `make bench-afdu`.

Needs numpy, scipy, scikit-learn and KDEpy, and target/release/examples/afdu (or the path in OODKIT_AFDU). The numpy version takes
one neuron after the other, all its values at once; what it costs is linear in both, so few of them are enough. Both take turns,
and the least of three turns counts, so that what else the machine does falls on both.
"""

import json
import os
import subprocess
import time
import tracemalloc

import numpy as np
from KDEpy.bw_selection import improved_sheather_jones
from sklearn.cluster import KMeans

PROGRAM = os.environ.get("OODKIT_AFDU", "target/release/examples/afdu")
TRAIN, TEST, NEURONS, CLUSTERS = 10_000, 2_000, 256, 500


def ours(*arguments):
    return json.loads(subprocess.run([PROGRAM, *map(str, arguments)], check=True, capture_output=True).stdout)


def numpy_fit(values):
    kmeans = KMeans(CLUSTERS, n_init=1, random_state=0).fit(values.reshape(-1, 1))
    counts = np.bincount(kmeans.labels_, minlength=CLUSTERS).astype(float)
    centres = kmeans.cluster_centers_[:, 0]
    order = np.argsort(centres)
    centres, counts = centres[order], counts[order]
    return centres, counts / counts.sum(), improved_sheather_jones(centres.reshape(-1, 1), counts)


def numpy_score(neuron, values, k=5, sigma=1.0):
    centres, weights, bandwidth = neuron

    def log_density(at):
        z = -0.5 * ((at[:, None] - centres) / bandwidth) ** 2 + np.log(weights)
        peak = z.max(axis=1)
        return np.log(np.exp(z - peak[:, None]).sum(axis=1)) + peak

    k_distance = np.sort(np.abs(centres[:, None] - centres), axis=1)[:, k]
    at_centres = np.exp(log_density(centres))
    near = np.argpartition(np.abs(values[:, None] - centres), k, axis=1)[:, :k]
    distances = k_distance[near]
    w = np.exp(-((distances / distances.min(axis=1, keepdims=True) - 1) ** 2) / (2 * sigma**2))
    return np.log((w * at_centres[near]).sum(axis=1) / w.sum(axis=1)) - log_density(values)


def numpy_costs(neurons=3):
    """Microseconds to fit a neuron, nanoseconds to score a value."""
    rng = np.random.default_rng(0)
    fitting, scoring = [], []
    for _ in range(neurons):
        train, test = rng.normal(size=TRAIN), rng.normal(size=TEST)
        begun = time.perf_counter()
        neuron = numpy_fit(train)
        fitting.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        numpy_score(neuron, test)
        scoring.append(time.perf_counter() - begun)
    return 1e6 * min(fitting), 1e9 * min(scoring) / TEST


def numpy_peak():
    """MiB that one neuron's values, its fit and its scores take beyond the libraries."""
    rng = np.random.default_rng(0)
    tracemalloc.start()
    numpy_score(numpy_fit(rng.normal(size=TRAIN)), rng.normal(size=TEST))
    return tracemalloc.get_traced_memory()[1] / 2**20


def main():
    print(f"{os.cpu_count()} cores, {TRAIN} train values, {TEST} test values, {CLUSTERS} clusters")
    rounds = [(numpy_costs(), ours("neurons", NEURONS, TRAIN, TEST, CLUSTERS)) for _ in range(3)]
    fit, score = (min(costs[index] for costs, _ in rounds) for index in (0, 1))
    print(f"numpy and scipy      fit {fit:10.0f} us a neuron, score {score:10.1f} ns a value, {numpy_peak():.0f} MiB for one neuron")
    for engine in ("exact", "tabulated"):
        own_fit = min(own[f"{engine}_fit_us_per_neuron"] for _, own in rounds)
        own_score = min(own[f"{engine}_ns_per_value"] for _, own in rounds)
        print(
            f"oodkit, {engine:10s}   fit {own_fit:10.0f} us a neuron, score {own_score:10.1f} ns a value: "
            f"{fit / own_fit:.0f} and {score / own_score:.0f} times numpy's speed"
        )
    print(f"oodkit's process holds at most {rounds[0][1]['peak_mib']} MiB, {4 * NEURONS * (TRAIN + TEST) >> 20} of them the values")
    print("\ngrowth; fit: us a neuron, score: ns a value")
    print("neurons  train   test clusters  fit tab.  fit exact  score tab.  score exact   MiB")
    for row in [
        (256, 10_000, 1_000, 500),
        (1024, 10_000, 1_000, 500),
        (256, 2_500, 1_000, 500),
        (256, 40_000, 1_000, 500),
        (256, 10_000, 4_000, 500),
        (256, 10_000, 1_000, 125),
        (256, 10_000, 1_000, 2_000),
    ]:
        own = ours("neurons", *row)
        fits = [own[f"{engine}_fit_us_per_neuron"] for engine in ("tabulated", "exact")]
        scores = [own[f"{engine}_ns_per_value"] for engine in ("tabulated", "exact")]
        print("{:7d} {:6d} {:6d} {:8d}".format(*row), "{:9.0f}  {:9.0f}".format(*fits), "{:11.1f}  {:11.0f}".format(*scores), f"{own['peak_mib']:5d}")
    print("\nnetworks with random weights, tabulated")
    for name, train, test in [("lenet", 60_000, 20_480), ("vgg19_bn", 1_000, 256)]:
        own = ours("network", name, train, test)
        more, more_work = (own[f"tabulated_{kind}"] / own[f"forward_{kind}"] - 1 for kind in ("seconds", "processor_seconds"))
        exact = own["exact_seconds_per_image"]
        print(
            f"{name}: {own['neurons']} neurons, {own['train']} train images in {own['passes']} passes: fit"
            f" {own['fit_seconds']:.1f} s, peak {own['peak_mib']} MiB; forward {1e6 * own['forward_seconds'] / test:.0f} us an"
            f" image, scoring adds {100 * more:.0f} % of time, {100 * more_work:.0f} % of processor time"
            f"; exact: fit {own['exact_fit_seconds']:.1f} s, {1e6 * exact:.0f} us an image"
            + f"; table errors: largest {own['largest_table_error']:.3f}, mean {own['mean_table_error']:.5f}"
        )


main()
