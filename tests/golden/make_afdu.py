"""Golden values of AFDU: afdu.json.

KDEpy 1.1.12 (its fixed-point equation, on a grid of ours: see src/detectors/afdu/bandwidth.rs), numpy 2.4.6, scipy 1.17.1
(gaussian_kde, DCT). Clustering is compared with the optimum, found by dynamic programming; everything else is written down
from the paper's equations as directly as numpy allows.
"""

import json
import pathlib

import numpy as np
from KDEpy.binning import linear_binning
from KDEpy.bw_selection import _fixed_point
from scipy.fft import dct
from scipy.optimize import brentq
from scipy.stats import gaussian_kde, norm

GRID = 1024
PADDING = 0.1


def isj(points, weights, low=None, high=None):
    """t and the bandwidth; the grid reaches PADDING beyond the points unless its ends are given."""
    span = points.max() - points.min()
    low = points.min() - PADDING * span if low is None else low
    high = points.max() + PADDING * span if high is None else high
    binned = linear_binning(points.reshape(-1, 1), np.linspace(low, high, GRID).reshape(-1, 1), weights)
    a2 = dct(binned)[1:] ** 2
    frequencies = np.power(np.arange(1, GRID, dtype=np.float64), 2)
    n = len(points)
    tolerance = 1e-11 + 0.01 * (min(max(n, 50), 1050) - 50) / 1000
    while tolerance < 1:
        try:
            t, result = brentq(_fixed_point, 0, tolerance, args=(n, frequencies, a2), full_output=True, disp=False)
            if result.converged and t > 0:
                return t, np.sqrt(t) * (high - low)
        except ValueError:
            pass
        tolerance *= 2
    return None, None


def optimal_clusters(values, counts, clusters):
    """The least sum of squares of any partition into intervals, by dynamic programming."""
    n = len(values)
    w = np.concatenate([[0], np.cumsum(counts)])
    m = np.concatenate([[0], np.cumsum(counts * values)])
    s = np.concatenate([[0], np.cumsum(counts * values**2)])
    i = np.arange(n + 1)

    def cost(first, end):
        weight = w[end] - w[first]
        return np.maximum(s[end] - s[first] - (m[end] - m[first]) ** 2 / np.maximum(weight, 1e-300), 0)

    best = cost(np.zeros(n + 1, int), i)
    for _ in range(clusters - 1):
        new = np.empty(n + 1)
        new[0] = 0
        for end in range(1, n + 1):
            new[end] = np.min(best[:end] + cost(i[:end], np.full(end, end)))
        best = new
    return best[n]


def density(points, weights, bandwidth, at):
    """gaussian_kde scales its bandwidth by the standard deviation of the weighted points."""
    kde = gaussian_kde(points, bw_method=lambda self: 1.0, weights=weights)
    kde.set_bandwidth(bandwidth / np.sqrt(kde.covariance[0, 0]))
    return kde(at)


def factors(centres, weights, bandwidth, k, sigma, at):
    """Log anomaly factors, one value after the other."""
    k_distance = np.sort(np.abs(centres[:, None] - centres[None, :]), axis=1)[:, min(k, len(centres) - 1)]
    at_centres = density(centres, weights, bandwidth, centres)
    found = []
    for p in at:
        near = np.argsort(np.abs(centres - p), kind="stable")[:k]
        w = np.exp(-((k_distance[near] / k_distance[near].min() - 1) ** 2) / (2 * sigma**2))
        z = -0.5 * ((p - centres) / bandwidth) ** 2 + np.log(weights / weights.sum())
        log_kde = np.log(np.sum(np.exp(z - z.max()))) + z.max() - np.log(bandwidth * np.sqrt(2 * np.pi))
        found.append(np.log(np.sum(w * at_centres[near]) / np.sum(w)) - log_kde)
    return np.array(found)


def scores(layers, cap):
    """Of pairs of train and test activations, (images, neurons) each, by every aggregate. There are at most as many train images as
    clusters: every activation is a centre."""
    total = {"paper": 0, "log": 0, "standardised": 0}
    for train, test in layers:
        on_test, on_train = np.zeros(test.shape), np.zeros(train.shape)
        for neuron in range(train.shape[1]):
            centres, weights = np.unique(train[:, neuron], return_counts=True)
            weights = weights.astype(float)
            _, bandwidth = isj(centres, weights)
            of = lambda at: np.minimum(factors(centres, weights, bandwidth, 5, 1.0, at), cap)
            on_test[:, neuron], on_train[:, neuron] = of(test[:, neuron]), of(train[:, neuron])
        logs, usual = on_test.mean(axis=1), on_train.mean(axis=1)
        total["paper"] += np.exp(on_test).mean(axis=1)
        total["log"] += logs
        total["standardised"] += (logs - usual.mean()) / usual.std()
    return total


def f32(values, digits=3):
    """Numbers of few digits, as f32 has them."""
    return np.round(values, digits).astype(np.float32).astype(np.float64)


def short(values, digits=9):
    return [float(f"{value:.{digits}g}") for value in np.ravel(values)]


def main():
    rng = np.random.default_rng(0)
    u = (np.arange(500) + 0.5) / 500
    normal = norm.ppf(u)
    golden = {"isj": [], "kmeans": [], "factors": [], "layers": {}}

    # KDEpy's own results, through t on its own grid: see the module's documentation.
    bimodal = np.concatenate([norm.ppf((np.arange(250) + 0.5) / 250, c, 0.5) for c in (-2, 2)])
    half = np.abs(norm.ppf((np.arange(250) + 0.5) / 250))
    raw = [
        ("normal", normal, 0.11843831432394891),
        ("bimodal, weighted", bimodal, 0.07540485750671423),
        ("bimodal", bimodal, 0.07571640199642037),
        ("exponential", -np.log(1 - u), 0.03431154851693441),
        ("uniform", u, 0.005065649153377358),
        # With an atom. KDEpy counts quantiles that differ in their last bits only, and so does `unique`.
        ("zeros and half a normal", np.concatenate([np.zeros(250), half]), 0.00112351599425058),
        # Our grid has no root for them.
        ("three", np.arange(3.0), 0.39124121437117354),
    ]
    for name, points, printed in raw:
        points, weights = np.unique(points, return_counts=True)
        if name == "bimodal, weighted":
            weights = np.arange(len(points)) % 7 + 1
        weights = weights.astype(float)
        span = points.max() - points.min()
        padding = max(0.5 * span, 6.0)
        t, _ = isj(points, weights, points.min() - padding, points.max() + padding)
        assert abs(np.sqrt(t) * span / printed - 1) < 1e-4, (name, np.sqrt(t) * span, printed)
        _, bandwidth = isj(points, weights)
        golden["isj"].append(
            {
                "name": name,
                "points": np.round(points, 6).tolist(),
                "weights": short(weights),
                "kdepy_grid": [points.min() - padding, points.max() + padding],
                "kdepy_t": t,
                "bandwidth": isj(np.round(points, 6), weights)[1],
            }
        )
        assert bandwidth is None or abs(bandwidth / golden["isj"][-1]["bandwidth"] - 1) < 1e-3

    mixture = np.concatenate([rng.normal(0, 1, 150), rng.normal(5, 0.3, 100), rng.standard_t(2, 50)])
    rounded = np.round(rng.normal(0, 1, 300) * 20) / 20
    relu = np.maximum(rng.normal(-0.5, 1, 300), 0)
    for name, values in [("mixture", mixture), ("rounded", rounded), ("relu", relu)]:
        values = f32(values)
        unique, counts = np.unique(values, return_counts=True)
        cases = []
        for clusters in (4, 20):
            best = optimal_clusters(unique, counts.astype(float), clusters)
            cases.append({"clusters": clusters, "least": best})
        golden["kmeans"].append({"name": name, "values": short(values, 5), "cases": cases})

    for name, n, k, sigma in [("five", 200, 5, 1.0), ("one", 40, 1, 1.0), ("wide", 60, 12, 0.3), ("all", 4, 9, 2.0)]:
        values = f32(np.sort(np.concatenate([rng.normal(0, 1, n // 2), rng.normal(4, 0.5, n - n // 2)])))
        weights = rng.integers(1, 9, n).astype(float)
        t, bandwidth = isj(values, weights)
        bandwidth = 0.4 if bandwidth is None else bandwidth
        at = f32(np.concatenate([rng.uniform(-4, 7, 60), values[:5], [-9, 12]]))
        golden["factors"].append(
            {
                "name": name,
                "centres": short(values, 5),
                "weights": short(weights),
                "k": k,
                "sigma": sigma,
                "bandwidth": bandwidth,
                "at": short(at, 5),
                "log_density": short(np.log(density(values, weights, bandwidth, at))),
                "log_factor": short(factors(values, weights, bandwidth, k, sigma, at)),
            }
        )

    images, cap, layers = 80, 10.0, []
    for layer, neurons in {"a": 3, "b": 2}.items():
        # Enough digits that no value is equally far from two others: which of them is a neighbour is a matter of taste.
        train = f32(rng.normal(rng.normal(0, 2, neurons), rng.uniform(0.5, 2, neurons), (images, neurons)), 6)
        test = f32(rng.normal(0, 4, (6, neurons)))
        layers.append((train, test))
        golden["layers"][layer] = {"train": short(train, 8), "test": short(test, 5)}
    golden["cap"] = cap
    golden["scores"] = {name: values.tolist() for name, values in scores(layers, cap).items()}
    text = json.dumps(golden, separators=(",", ":")).replace('{"name"', '\n{"name"')
    pathlib.Path(__file__).with_name("afdu.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
