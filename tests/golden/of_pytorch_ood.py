"""pytorch-ood's detectors on the same arrays as references.py, with oodkit's settings, brought to oodkit's scale.

Features that it converts to f32 stay f64, so that what differs is not their rounding. Where it computes logits from features, they are
rounded to f32 as the file has them.
"""
from types import SimpleNamespace

import numpy as np
import torch
from pytorch_ood import detector
from torch.nn.functional import normalize

torch.set_default_dtype(torch.float64)
torch.Tensor.float = torch.Tensor.double
tensor = torch.tensor


class Head(torch.nn.Linear):
    """The last layer, whose logits are those that a file of f32 numbers has."""

    def __init__(self, d):
        super().__init__(d.weight.shape[1], d.weight.shape[0])
        self.weight.data, self.bias.data = tensor(d.weight), tensor(d.bias)

    def forward(self, z):
        exact = super().forward(z)
        # A gradient passes as if nothing were rounded.
        return exact + (exact.to(torch.float32).to(torch.float64) - exact).detach()


def exact_head(d):
    """The last layer of shaped features, which nothing rounds."""
    return lambda z: z.flatten(1) @ tensor(d.weight).T + tensor(d.bias)


def labelled(d):
    return tensor(d.train_features), tensor(d.labels)


def logits(d):
    return tensor(d.train_logits), tensor(d.labels)


def msp(d):
    return 1 + detector.MaxSoftmax(None).predict_logits(tensor(d.logits))


def softmax_entropy(d):
    return detector.Entropy(None).predict_logits(tensor(d.logits))


def max_logit(d):
    return detector.MaxLogit(None).predict_logits(tensor(d.logits))


def energy(d, temperature=1):
    return detector.EnergyBased(None, t=float(temperature)).predict_logits(tensor(d.logits))


def gen(d, gamma=0.1, classes=100):
    """It has the mean over the M classes."""
    m = min(classes, d.logits.shape[1])
    return m * detector.GEN(None, gamma=gamma, M=m).predict_logits(tensor(d.logits))


def kl_matching(d):
    return detector.KLMatching(None).fit_logits(*logits(d)).predict_logits(tensor(d.logits))


def temperature_scaling(d, temperature=None):
    """With this temperature, if given: 50 steps of L-BFGS do not get to the minimum."""
    scaler = detector.TemperatureScaling(None).fit_logits(*logits(d))
    if temperature is not None:
        scaler.t.data = tensor(temperature)
    return torch.log1p(scaler.predict_logits(tensor(d.logits)).detach())


def odin(d, temperature=1000, noise=0):
    """Without noise: input_gradients.py has it with."""
    assert noise == 0
    return torch.log1p(detector.ODIN(torch.nn.Identity(), eps=0.0, temperature=float(temperature)).predict(tensor(d.logits)))


def openmax(d, tail=20, classes=3, weibull=None):
    """The log-odds of its probability. It fits all images with labels, here the correct ones.

    With the shape and the logarithm of the scale / 10000 that `weibull` makes of a class's tail, if given: scipy's simplex ends early.
    """
    correct = d.train_logits.argmax(axis=1) == d.labels
    rows, labels = d.train_logits[correct], d.labels[correct]
    fitted = detector.OpenMax(None, tailsize=tail, alpha=classes).fit_logits(tensor(rows), tensor(labels))
    if weibull is not None:
        for k, model in fitted._openmax.distributions.items():
            distances = np.linalg.norm(rows[labels == k] - fitted._openmax.centers[k], axis=1)
            model.c, log_scale = weibull(np.sort(distances)[-tail:])
            model.scale = 10000 * np.exp(log_scale)
    unknown = fitted.predict_logits(tensor(d.logits))
    return torch.log(unknown / (1 - unknown))


def knn(d, k=50):
    return detector.KNN(None, k=k).fit_features(*labelled(d)).predict_features(tensor(d.features))


def nnguide(d, k=10, fraction=1):
    images = len(d.train_features)
    count = int(np.ceil(images * fraction))
    z, y = (rows[np.arange(count) * images // count] for rows in labelled(d))
    return detector.NNGuide(torch.nn.Identity(), Head(d), k=k).fit_features(z, y).predict_features(tensor(d.features))


def at_unit_length(d):
    return SimpleNamespace(**{**vars(d), **{
        name: normalize(tensor(getattr(d, name)), dim=1).numpy() for name in ("features", "train_features")
    }})


def mahalanobis(d, normalise=False):
    """It inverts the scatter, N times the covariance, and halves."""
    d = at_unit_length(d) if normalise else d
    return 2 * len(d.labels) * detector.Mahalanobis(None).fit_features(*labelled(d)).predict_features(tensor(d.features))


def rmds(d, normalise=False):
    """It inverts the scatter, N times the covariance."""
    d = at_unit_length(d) if normalise else d
    return len(d.labels) * detector.RMD(None).fit_features(*labelled(d)).predict_features(tensor(d.features))


def vim(d, dimension=None):
    head = Head(d)
    fitted = detector.ViM(None, dimension or d.features.shape[1] // 2, head.weight, head.bias)
    fitted._get_logits = lambda z: head(z).detach()
    return fitted.fit_features(*labelled(d)).predict_features(tensor(d.features))


def gradnorm(d, temperature=1):
    chosen = {"param_filter": lambda name: name == "weight", "temperature": temperature}
    return detector.GradNorm(Head(d), **chosen).predict(tensor(d.features))


def fdbd(d):
    return detector.fDBD(torch.nn.Identity(), Head(d)).fit_features(tensor(d.train_features)).predict_features(tensor(d.features))


def pnml(d):
    return detector.PNML(None, exact_head(d)).fit_features(*labelled(d)).predict_features(tensor(d.features))


def nci(d, alpha=1e-4):
    fitted = detector.NCI(torch.nn.Identity(), Head(d), alpha=alpha).fit_features(tensor(d.train_features))
    return fitted.predict_features(tensor(d.features))


def she(d):
    return detector.SHE(torch.nn.Identity(), Head(d)).fit_features(*labelled(d)).predict_features(tensor(d.features))


def react(d, percentile=90):
    fitted = detector.ReAct(None, exact_head(d), percentile=percentile / 100).fit_feature_maps(*labelled(d))
    return fitted.predict_feature_maps(tensor(d.features))


def dice(d, percentile=90):
    fitted = detector.DICE(None, tensor(d.weight), tensor(d.bias), percentile / 100)
    return fitted.fit_features(*labelled(d)).predict_features(tensor(d.features))


def ash(d, variant="b", percentile=90):
    shaping = detector.ASH(None, exact_head(d), variant=f"ash-{variant}", percentile=percentile / 100)
    return shaping.predict_feature_maps(tensor(d.features)[:, :, None, None])


def scale(d, percentile=85):
    return detector.SCALE(None, exact_head(d), percentile=percentile / 100).predict_feature_maps(tensor(d.features)[:, :, None, None])


def lts(d, percentile=95):
    return detector.LTS(None, Head(d), p=1 - percentile / 100).predict_features(tensor(d.features))


def vra(d, low=10, high=90):
    """Of `thresholds: each` and `below: clip`."""
    fitted = detector.VRA(None, exact_head(d), low / 100, high / 100).fit_feature_maps(*labelled(d))
    return fitted.predict_feature_maps(tensor(d.features))


def rankfeat(d):
    without = detector.RankFeat(None, lambda maps: exact_head(d)(maps.mean(dim=(2, 3))))
    return without.predict_feature_maps(tensor(d.taps[-1]))


def gram(d, powers=5):
    """Every tenth image is held out, where it draws them; and it goes by labels, which are here what is predicted."""
    position, layers = [], []
    for maps in d.train_taps:
        layers.append(lambda x, maps=maps: (position.append(x) if x.dim() == 1 else None, tensor(maps)[position[-1]])[1])
    head = lambda _: tensor(d.train_logits)[position[-1]]
    fitted = detector.Gram(head, layers, d.logits.shape[1], list(range(1, powers + 1)))
    every_tenth = lambda count: tensor([*range(9, count, 10), *(i for i in range(count) if i % 10 != 9)])
    drawn, torch.randperm = torch.randperm, every_tenth
    labels = tensor(d.train_logits.argmax(axis=1))
    fitted.fit([(torch.arange(len(labels)), labels)])
    torch.randperm = drawn
    return fitted.predict_structured(tensor(d.logits), [tensor(maps) for maps in d.taps])
