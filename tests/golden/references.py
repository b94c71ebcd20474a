"""The detectors' scores, written out with numpy and scipy in f64 as plainly as their formulas stand. Golden values and
docs/agreement.md compare with them.

A function has a detector's name, settings and defaults. `d` has what a feature file has, as f64 arrays: logits, features, members
(of an ensemble), taps (a list of layers), weight and bias of the last layer; of the train images train_logits, train_features,
train_taps and labels. AFDU's stands in make_afdu.py.
"""
from types import SimpleNamespace

import mpmath
import numpy as np
from scipy.linalg import pinvh
from scipy.optimize import brentq, minimize_scalar
from scipy.spatial.distance import cdist
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import entropy

mpmath.mp.dps = 60


def rest(logits):
    """The probabilities of all but the likeliest class, added up without cancellation."""
    return np.array([np.exp(np.delete(log_softmax(row), row.argmax())).sum() for row in logits])


def msp(d):
    return rest(d.logits)


def softmax_entropy(d):
    return entropy(softmax(d.logits, axis=1), axis=1)


def max_logit(d):
    return -d.logits.max(axis=1)


def duq(d):
    """Of logits that are ln K."""
    return -d.logits.max(axis=1)


def energy(d, temperature=1):
    return -temperature * logsumexp(d.logits / temperature, axis=1)


def mutual_information(d):
    """By mpmath: in f64 the two entropies cancel."""
    return np.array([float(ensemble(image)[2]) for image in d.members])


def ensemble(members):
    """Of one image: ln of the mean softmax, its entropy, and how far that is above the mean entropy."""
    p = []
    for logits in members:
        exponents = [mpmath.exp(mpmath.mpf(float(logit))) for logit in logits]
        p.append([e / sum(exponents) for e in exponents])
    entropy_of = lambda row: -sum(q * mpmath.log(q) for q in row)
    mean = [sum(column) / len(p) for column in zip(*p)]
    information = entropy_of(mean) - sum(entropy_of(row) for row in p) / len(p)
    return [float(mpmath.log(q)) for q in mean], float(entropy_of(mean)), float(information)


def gen(d, gamma=0.1, classes=100):
    p = -np.sort(-softmax(d.logits, axis=1), axis=1)
    others = 1 - p
    others[:, 0] = rest(d.logits)
    return (p[:, :classes] ** gamma * others[:, :classes] ** gamma).sum(axis=1)


def kl_matching(d):
    p, train = softmax(d.logits, axis=1), softmax(d.train_logits, axis=1)
    predicted = train.argmax(axis=1)
    means = np.stack([train[predicted == k].mean(axis=0) for k in np.unique(predicted)])
    return (p[:, None] * (np.log(p[:, None]) - np.log(means[None]))).sum(axis=2).min(axis=1)


def best_temperature(d):
    images = np.arange(len(d.labels))
    loss = lambda inverse: -log_softmax(inverse * d.train_logits, axis=1)[images, d.labels].mean()
    return 1 / minimize_scalar(loss, bounds=(0.1, 10), method="bounded", options={"xatol": 1e-12}).x


def temperature_scaling(d):
    return np.log(rest(d.logits / best_temperature(d)))


def odin(d, temperature=1000, noise=0):
    """Without noise: input_gradients.py has it with."""
    assert noise == 0
    return np.log(rest(d.logits / temperature))


def weibull(tail):
    """The shape and ln scale, of ln(1 + (x − min) / 10000), of the largest likelihood: where its derivative vanishes."""
    x = np.log1p((tail - tail.min()) / 10000)
    derivative = lambda k: (np.exp(k * (x - x.max())) * x).sum() / np.exp(k * (x - x.max())).sum() - 1 / k - x.mean()
    shape = brentq(derivative, 1, 1e9, xtol=1e-9, rtol=1e-15)
    return shape, np.log(np.exp(shape * x).mean()) / shape


def correct(d):
    """Which train images the network classifies correctly."""
    return d.train_logits.argmax(axis=1) == d.labels


def openmax(d, tail=20, classes=3):
    top = min(classes, d.logits.shape[1])
    outside = np.ones(d.logits.shape)
    for k in range(d.logits.shape[1]):
        rows = d.train_logits[correct(d) & (d.labels == k)]
        centre = rows.mean(axis=0)
        distances = np.sort(np.linalg.norm(rows - centre, axis=1))[-tail:]
        shape, log_scale = weibull(distances)
        away = np.log1p((np.linalg.norm(d.logits - centre, axis=1) - distances.min()) / 10000)
        outside[:, k] = -np.expm1(-np.exp(shape * (away - log_scale)))
    ranks = np.argsort(np.argsort(-d.logits, axis=1), axis=1)
    weights = np.where(ranks < top, (top - ranks) / top, 0) * outside
    return (d.logits * weights).sum(axis=1) - logsumexp(d.logits * (1 - weights), axis=1)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def knn(d, k=50):
    return np.sort(cdist(unit(d.features), unit(d.train_features)), axis=1)[:, k - 1]


def cfood(d, alpha=0.1, k=0.01):
    images = len(d.train_features)
    count = int(alpha * images)
    reference = unit(d.train_features)[np.arange(count) * images // count]
    kappas = np.concatenate([np.linspace(0.001, 0.1, 100), np.linspace(0.105, 0.5, 81), np.linspace(0.51, 0.99, 49)])
    neighbours, first = np.unique(np.array(kappas * count - 1, dtype=int) + 1, return_index=True)
    reach = np.sort(cdist(reference, reference), axis=1)[:, neighbours]
    holding = (reach[None] >= cdist(unit(d.features), reference)[:, :, None]).mean(axis=1) >= k
    return np.where(holding.any(axis=1), kappas[first][holding.argmax(axis=1)], 1)


def nnguide(d, k=10, fraction=1):
    images = len(d.train_features)
    count = int(np.ceil(images * fraction))
    chosen = np.arange(count) * images // count
    bank = (unit(d.train_features) * logsumexp(d.train_logits, axis=1)[:, None])[chosen]
    nearest = np.sort(unit(d.features) @ bank.T, axis=1)[:, -k:]
    return -nearest.mean(axis=1) * logsumexp(d.logits, axis=1)


def relations(d):
    """Of each image with each train image."""
    cosines = np.maximum(unit(d.features) @ unit(d.train_features).T, 0)
    return cosines * (softmax(d.logits, axis=1) @ softmax(d.train_logits, axis=1).T)


def relation(d, power=1, threshold=0.03):
    related = relations(d)
    return -(np.where(related > threshold, related, 0) ** power).sum(axis=1)


def class_distances(d, labels):
    """Squared Mahalanobis distances to the mean of each class."""
    classes = np.unique(labels)
    centres = np.stack([d.train_features[labels == k].mean(axis=0) for k in classes])
    away = d.train_features - centres[np.searchsorted(classes, labels)]
    precision = pinvh(away.T @ away / len(away))
    offsets = d.features[:, None] - centres[None]
    return ((offsets @ precision) * offsets).sum(axis=2)


def at_unit_length(d):
    return SimpleNamespace(**{**vars(d), "features": unit(d.features), "train_features": unit(d.train_features)})


def mahalanobis(d, normalise=False):
    d = at_unit_length(d) if normalise else d
    return class_distances(d, d.labels).min(axis=1)


def rmds(d, normalise=False):
    d = at_unit_length(d) if normalise else d
    return (class_distances(d, d.labels) - class_distances(d, np.zeros(len(d.labels)))).min(axis=1)


def gaussian(d, unit=True):
    """Ledoit and Wolf's shrinkage, with every product of a row's squares."""
    train, test = [rows / np.linalg.norm(rows, axis=1, keepdims=True) if unit else rows for rows in (d.train_features, d.features)]
    return gaussian_distances(train, test)


def gaussian_distances(train, test):
    images, size = train.shape
    centred = train - train.mean(axis=0)
    covariance = centred.T @ centred / images
    mean = np.trace(covariance) / size
    apart = sum(((np.outer(row, row) - covariance) ** 2).sum() for row in centred) / images**2
    shrinkage = min(1, apart / ((covariance - mean * np.eye(size)) ** 2).sum())
    covariance = (1 - shrinkage) * covariance + shrinkage * mean * np.eye(size)
    away = test - train.mean(axis=0)
    return np.sqrt((away @ np.linalg.inv(covariance) * away).sum(axis=1))


def log_normal(train, features, jitter=0):
    """ln of the normal density with the train rows' mean and covariance, by Cholesky: scipy refuses a matrix that is nearly singular."""
    size = train.shape[1]
    lower = np.linalg.cholesky(np.cov(train.T) + jitter * np.eye(size))
    y = np.linalg.solve(lower, (features - train.mean(axis=0)).T)
    return -0.5 * (size * np.log(2 * np.pi) + (y**2).sum(axis=0)) - np.log(np.diag(lower)).sum()


def ddu(d):
    """Where no covariance is singular."""
    return -logsumexp([log_normal(d.train_features[d.labels == k], d.features) for k in np.unique(d.labels)], axis=0)


def sngp_variances(d, ridge):
    covariance = np.linalg.inv(ridge * np.eye(d.features.shape[1]) + d.train_features.T @ d.train_features)
    return ridge * ((d.features @ covariance) * d.features).sum(axis=1)


def sngp(d, ridge=1, mean_field=25, uncertainty="entropy"):
    scaled = d.logits / np.sqrt(1 + mean_field * sngp_variances(d, ridge))[:, None]
    classes = scaled.shape[1]
    if uncertainty == "entropy":
        return entropy(softmax(scaled, axis=1), axis=1)
    return classes / (classes + np.exp(scaled).sum(axis=1))


def off_subspace(d, dimension):
    """The residual of the features, and of the train images'."""
    origin = -np.linalg.pinv(d.weight) @ d.bias
    train = d.train_features - origin
    size = train.shape[1]
    _, vectors = np.linalg.eigh(train.T @ train / len(train))
    null = vectors[:, : size - (dimension or size // 2)]
    return [np.linalg.norm(rows @ null, axis=1) for rows in (d.features - origin, train)]


def residual(d, dimension=None):
    return off_subspace(d, dimension)[0]


def vim(d, dimension=None):
    test, train = off_subspace(d, dimension)
    return d.train_logits.max(axis=1).mean() / train.mean() * test - logsumexp(d.logits, axis=1)


def neco(d, dimension=None, max_logit=True):
    size, mean, deviation = d.features.shape[1], d.train_features.mean(axis=0), d.train_features.std(axis=0)
    train, test = [(rows - mean) / np.where(deviation > 0, deviation, 1) for rows in (d.train_features, d.features)]
    _, values, vectors = np.linalg.svd(train, full_matrices=False)
    varying = vectors[values > 1e-9 * values[0]]
    along = test @ varying[: dimension or min(100, size // 2)].T
    share = np.linalg.norm(along, axis=1) / np.linalg.norm(test, axis=1)
    return -share * (d.logits.max(axis=1) if max_logit else 1)


def kpca(d, explained=0.85):
    """Of the cosine kernel: kpca.py has random Fourier features."""
    return off_main_directions(unit(d.train_features), unit(d.features), explained)[0]


def off_main_directions(train, test, explained):
    """The error of PCA's reconstruction, and how many directions it has: the fewest with this share of the variance."""
    mean = train.mean(axis=0)
    _, values, vectors = np.linalg.svd(train - mean, full_matrices=False)
    shares = np.cumsum(values**2) / (values**2).sum()
    main = min(int((shares < explained).sum()) + 1, train.shape[1] - 1)
    away = test - mean
    return np.linalg.norm(away - away @ vectors[:main].T @ vectors[:main], axis=1), main


def gradnorm(d, temperature=1):
    away = np.abs(softmax(d.logits / temperature, axis=1) - 1 / d.logits.shape[1]).sum(axis=1)
    return -np.abs(d.features).sum(axis=1) * away / temperature


def fdbd(d, relative_to="mean"):
    predicted = d.logits.argmax(axis=1)
    gaps = np.linalg.norm(d.weight[predicted][:, None] - d.weight[None], axis=2)
    gaps[np.arange(len(gaps)), predicted] = 1
    boundaries = ((d.logits.max(axis=1, keepdims=True) - d.logits) / gaps).sum(axis=1) / (len(d.weight) - 1)
    return -boundaries / np.linalg.norm(d.features - (d.train_features.mean(axis=0) if relative_to == "mean" else 0), axis=1)


def ora(d):
    """Angles by their cosines, between vectors written out for each class."""
    centre = np.mean([d.train_features[d.labels == k].mean(axis=0) for k in np.unique(d.labels)], axis=0)
    predicted = d.logits.argmax(axis=1)
    normal = d.weight[predicted][:, None] - d.weight[None]
    square = (normal**2).sum(axis=2)
    square[np.arange(len(square)), predicted] = 1
    step = (d.logits.max(axis=1, keepdims=True) - d.logits) / square
    away = (d.features - centre)[:, None]
    on_boundary = away - step[:, :, None] * normal
    cosine = (away * on_boundary).sum(axis=2) / np.linalg.norm(away, axis=2) / np.linalg.norm(on_boundary, axis=2)
    return -np.arccos(np.clip(cosine, -1, 1)).max(axis=1) / np.pi


def pnml(d):
    train, test = unit(d.train_features), unit(d.features)
    form = ((test @ pinvh(train.T @ train)) * test).sum(axis=1)
    kappa = (form / (1 + form))[:, None]
    p = softmax(test @ d.weight.T + d.bias, axis=1)
    return np.log((p / (p + (1 - p) * p**kappa)).sum(axis=1)) / np.log(len(d.weight))


def nci(d, alpha=1e-4):
    away = d.features - d.train_features.mean(axis=0)
    along = (d.weight[d.logits.argmax(axis=1)] * away).sum(axis=1) / np.linalg.norm(away, axis=1)
    return -along - alpha * np.abs(d.features).sum(axis=1)


def she(d):
    patterns = np.stack([d.train_features[correct(d) & (d.labels == k)].mean(axis=0) for k in range(d.logits.shape[1])])
    return -(d.features * patterns[d.logits.argmax(axis=1)]).sum(axis=1)


def energy_of(d, features, weight=None):
    return -logsumexp(features @ (d.weight if weight is None else weight).T + d.bias, axis=1)


def react(d, percentile=90):
    return energy_of(d, np.minimum(d.features, np.percentile(d.train_features, percentile)))


def dice(d, percentile=90):
    contribution = d.weight * d.train_features.mean(axis=0)
    return energy_of(d, d.features, np.where(contribution > np.percentile(contribution, percentile), d.weight, 0))


def kept(features, percent):
    """1 for the features that ASH keeps."""
    count = features.shape[1]
    order = np.argsort(-features, axis=1, kind="stable")[:, : max(count - int(np.round(count * percent / 100)), 1)]
    mask = np.zeros_like(features)
    np.put_along_axis(mask, order, 1, axis=1)
    return mask


def sharpening(features, percent):
    above = np.maximum(features, 0)
    return np.exp(above.sum(axis=1) / (above * kept(features, percent)).sum(axis=1))[:, None]


def ash(d, variant="b", percentile=90):
    z, mask = d.features, kept(d.features, percentile)
    shaped = {
        "p": lambda: z * mask,
        "b": lambda: mask * z.sum(axis=1, keepdims=True) / mask[0].sum(),
        "s": lambda: z * mask * sharpening(z, percentile),
    }
    return energy_of(d, shaped[variant]())


def scale(d, percentile=85):
    return energy_of(d, d.features * sharpening(d.features, percentile))


def lts(d, percentile=95):
    above = np.maximum(d.features, 0)
    top = (above * kept(d.features, percentile)).sum(axis=1)
    ratio = np.where(top > 0, above.sum(axis=1) / np.where(top > 0, top, 1), 1)
    return -logsumexp(ratio[:, None] ** 2 * d.logits, axis=1)


def vra(d, low=10, high=90, below="clip", thresholds="all"):
    least, most = np.percentile(d.train_features, [low, high], axis=None if thresholds == "all" else 0)
    if below == "clip":
        return energy_of(d, np.clip(d.features, least, most))
    return energy_of(d, np.where(d.features < least, 0, np.minimum(d.features, most)))


def weiper(d, distance=2.1, repeats=100, bins=100, smoothing=20, smoothing_perturbed=20, epsilon=0.01, epsilon_perturbed=0.025,
           lambda_1=1, lambda_2=1):
    """With d.directions, (repeats · classes, features): the program's draws are not numpy's. At distance 0 they do not matter."""
    weight, bias = np.tile(d.weight, (repeats, 1)), np.tile(d.bias, repeats)
    if distance:
        unit = d.directions / np.linalg.norm(d.directions, axis=1, keepdims=True)
        weight = weight + distance * np.linalg.norm(weight, axis=1, keepdims=True) * unit
    perturbed = lambda rows: rows @ weight.T + bias

    def divergences(train, test, width, more):
        ends = train.min(), train.max()
        shares = lambda values: np.histogram(values, bins, ends)[0] / values.size
        before = (width - 1) // 2
        q = np.array([shares(row) for row in test])
        q = np.pad(q, [(0, 0), (before, width - 1 - before)], mode="edge")
        q = np.apply_along_axis(np.convolve, 1, q, np.ones(width) / width, mode="valid") + more
        p = np.tile(shares(train) + more, (len(q), 1))
        return entropy(p, q, axis=1) + entropy(q, p, axis=1)

    logits = perturbed(d.features)
    msp = softmax(logits.reshape(len(logits), repeats, -1), axis=2).max(axis=2).mean(axis=1)
    return (divergences(d.train_features, d.features, smoothing, epsilon)
            + lambda_1 * divergences(perturbed(d.train_features), logits, smoothing_perturbed, epsilon_perturbed) - lambda_2 * msp)


def grood(d, by="neighbour"):
    """With d.outlier, the mean features of noise, which the program draws."""
    means = np.stack([d.train_features[d.labels == label].mean(axis=0) for label in np.unique(d.labels)])
    prototypes = np.vstack([means, d.outlier])

    def gradients(rows):
        away = rows[:, None] - prototypes
        distances = np.linalg.norm(away, axis=2)
        return softmax(-distances, axis=1)[:, -1:] * away[:, -1] / distances[:, -1:]

    new = gradients(d.features)
    if by == "norm":
        return np.abs(new).sum(axis=1)
    return cdist(new, gradients(d.train_features[d.train_logits.argmax(axis=1) == d.labels])).min(axis=1)


def reconstruction_change(before, after, of="logits", norm="l1", unit=True):
    """(N, D) answers to images, and to what a second network made of them."""
    def vectors(rows):
        rows = softmax(rows, axis=1) if of == "softmax" else rows
        return rows / np.linalg.norm(rows, axis=1, keepdims=True) if unit else rows
    return np.linalg.norm(vectors(after) - vectors(before), ord={"l1": 1, "l2": 2}[norm], axis=1)


def rankfeat(d):
    """Of the last layer with pixels."""
    changed = []
    for image in d.taps[-1]:
        u, s, vh = np.linalg.svd(image.reshape(len(image), -1), full_matrices=False)
        changed.append((image.reshape(len(image), -1) - s[0] * np.outer(u[:, 0], vh[0])).mean(axis=1))
    return energy_of(d, np.array(changed))


def gram_sums(maps, power):
    """(N, C): the row sums of the Gram matrices of (N, C, ...) maps."""
    raised = maps.reshape(*maps.shape[:2], -1) ** power
    sums = np.einsum("ncx,ndx->nc", raised, raised)
    return np.sign(sums) * np.abs(sums) ** (1 / power)


def gram(d, powers=5):
    """Every tenth train image of a class is held out."""
    predicted = [rows.argmax(axis=1) for rows in (d.train_logits, d.logits)]
    held = np.zeros(len(predicted[0]), dtype=bool)
    for label in range(d.logits.shape[1]):
        held[np.flatnonzero(predicted[0] == label)[9::10]] = True

    def deviations(layer, images, labels):
        total = np.zeros(len(labels))
        for power in range(1, powers + 1):
            usual, sums = gram_sums(d.train_taps[layer], power), gram_sums(images[layer], power)
            for image, label in enumerate(labels):
                rows = usual[~held & (predicted[0] == label)] if (predicted[0] == label).any() else usual[~held]
                least, most = rows.min(axis=0), rows.max(axis=0)
                total[image] += (np.maximum(least - sums[image], 0) / np.abs(least + 1e-6)).sum()
                total[image] += (np.maximum(sums[image] - most, 0) / np.abs(most + 1e-6)).sum()
        return total

    scores = np.zeros(len(predicted[1]))
    for layer in range(len(d.train_taps)):
        expected = deviations(layer, [maps[held] for maps in d.train_taps], predicted[0][held]).mean()
        scores += deviations(layer, d.taps, predicted[1]) / (expected or 1)
    return scores
