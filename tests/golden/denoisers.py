"""Reference values of detectors that read a denoiser: denoisers.json.

Run with numpy. The denoiser is that of samplers.py, the network one hidden layer, and pattern.py makes weights, images and noise. Sums are
numpy's, and every quantity is written as its reference code or paper has it.
"""

import itertools
import json
import pathlib

import numpy as np
from pattern import uniform
from samplers import CHANNELS, CLASSES, SIDE, SIZE, T, alpha_bar, clamp, follow, guided, linear, output, transfer

IMAGES, FEATURES = 5, 6
MEAN, STD = [0.5, 0.375], [0.25, 0.3125]
f32 = lambda x: x.astype("f4").astype("f8")
images = f32(uniform("images", IMAGES, CHANNELS, SIDE, SIDE))
noises = [uniform(f"noise {at}", IMAGES, CHANNELS, SIDE, SIDE) for at in range(12)]
noisy = lambda x, e, t: alpha_bar(t) ** 0.5 * x + (1 - alpha_bar(t)) ** 0.5 * e
mean = lambda x: x.reshape(len(x), -1).mean(1)
cases = []


def case(detector, value):
    cases.append({"detector": detector, "expected": np.asarray(value).ravel().tolist()})


# e_t of 100 and 400, the mean of two draws.
errors = [np.mean([mean((output(noisy(images, e, t), t) - e) ** 2) for e in noises[2 * at : 2 * at + 2]], axis=0) for at, t in enumerate([100, 400])]
case("denoising_error: { levels: [100, 400], repeats: 2 }", np.stack(errors, 1))

# save_train_statistics.py of clear-nus/diffpath.
for steps, clip in [(5, True), (5, False), (10, True)]:
    x, eps = images, []
    for at in range(steps):
        t = at * (T // steps)
        e = output(x, t)
        e = clamp(x, e, t) if clip else e
        eps.append(e)
        if at + 1 < steps:
            x = transfer(x, e, t, t + T // steps)
    eps = np.stack(eps, 1)
    change = np.diff(eps, axis=1) * steps
    sums = [np.sum(v**p, axis=(1, 2, 3, 4)) for v in (eps, change) for p in (1, 2, 3)]
    case(f"diffpath: {{ steps: {steps}, clamp: {str(clip).lower()} }}", np.stack(sums, 1))

# L_t as ½·(SNR(t-1) - SNR(t))·|x - x̂|², by the SNR of ᾱ.
snr = linear / (1 - linear)
bands, draw = [], iter(noises)
for start, end in [(0.01, 0.1), (0.1, 1.0)]:
    terms = []
    for share in [0.25, 0.75]:
        t = int(np.floor(start * T * (end / start) ** share + 0.5))
        e = next(draw)
        x = noisy(images, e, t)
        x0 = (x - (1 - linear[t]) ** 0.5 * output(x, t)) / linear[t] ** 0.5
        terms.append(t * 0.5 * (snr[t - 1] - snr[t]) * mean((images - x0) ** 2))
    bands.append(np.mean(terms, axis=0))
case("elbo_ratio: { samples: 2 }", np.stack(bands, 1))

# Starts of ddpm-ood: reversed(timesteps)[1::skip] of 20 steps of 50.
for kind in ["plms", "ddim"]:
    distances = []
    for at, step in enumerate(range(1, 20, 8)):
        steps = list(range(step * 50, -1, -50)) + [-1]
        made = follow(output, noisy(images, noises[at], step * 50), steps, kind=kind)
        pixels = lambda x: (x + 1) / 2
        distances.append(mean((pixels(images) - pixels(made).clip(0, 1)) ** 2))
    case(f"ddpm_ood: {{ steps: 20, skip: 8, sampler: {kind} }}", np.stack(distances, 1))


# runner/ood_detect.py and detect/ood_detect.py of luping-liu/DiffOOD.
def network(x):
    pixels = (x / 2 + 0.5).clip(0, 1)
    column = lambda values: np.array(values)[:, None, None]
    x = (pixels - column(MEAN)) / column(STD)
    features = np.maximum(x.reshape(len(x), SIZE) @ uniform("hidden", FEATURES, SIZE).T, 0)
    return {"images": x.reshape(len(x), SIZE), "features": features, "logits": features @ uniform("last", CLASSES, FEATURES).T}


y = network(images)["logits"].argmax(1)
unit = lambda v: v / (np.linalg.norm(v, axis=-1, keepdims=True) + 1e-10)
for target, change, time, clean in itertools.product(["logits", "features", "images"], ["global", "local"], ["official", "exact"], [False, True]):
    for kind, beta in [("ddim", 2), ("pndm", 0)] if target == "logits" else [("ddim", 2)]:
        answers = []
        for level in [0, 120, 250]:
            row = []
            for e in noises[:2]:
                if level == 0:
                    made = images if clean else noisy(images, e, 0)
                else:
                    steps = list(range(level, -1 if clean else 0, -20)) + [-1 if clean else 0]
                    made = follow(guided(y, beta), noisy(images, e, level), steps, kind=kind, early=int(time == "official"))
                row.append(unit(network(made)[target]))
            answers.append(np.stack(row))
        pairs = [(answers[0] if change == "global" else answers[at], answers[at + 1]) for at in range(2)]
        scores = np.mean([np.abs(a - b).sum(-1).mean(0) for a, b in pairs], axis=0)
        settings = f"sampler: {kind}, guidance: {beta}, target: {target}, change: {change}, time: {time}, clean: {str(clean).lower()}"
        case(f"diffood: {{ levels: [120, 250], repeats: 2, {settings} }}", scores)
# Algorithm 2: noise of the nearest train images by the cosine of features, one for each repeat, made by DDIM on the way up.
train = f32(uniform("train", 7, CHANNELS, SIDE, SIDE))
cosines = unit(network(images)["features"]) @ unit(network(train)["features"]).T
nearest = np.argsort(-cosines, axis=1)[:, :2]
inverted = follow(output, train, list(range(0, T, 20)), early=1)
changes = []
for at in range(2):
    e = inverted[nearest[:, at]]
    made = follow(guided(y, 2), noisy(images, e, 250), list(range(250, 0, -20)) + [0], early=1)
    changes.append(np.abs(unit(network(noisy(images, e, 0))["logits"]) - unit(network(made)["logits"])).sum(-1))
inverted_case = {"detector": "diffood: { levels: [250], repeats: 2, noise: knn_inverted }", "nearest": nearest.tolist(), "expected": np.mean(changes, axis=0).tolist()}
record = {"made_by": f"tests/golden/denoisers.py: numpy {np.__version__}", "mean": MEAN, "std": STD, "inverted": inverted_case, "cases": cases}
text = json.dumps(record).replace('{"detector"', '\n{"detector"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
