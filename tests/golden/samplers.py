"""Reference trajectories of samplers: samplers.json.

Run with numpy. The denoiser is one layer, of weights from pattern.py; denoisers.py imports it. The steps are written in the forms of the
reference codes: DDIM as the difference of luping-liu/PNDM, DDPM's posterior mean by its coefficients, Euler as x + Δt·v.
"""

import json
import pathlib

import numpy as np
from pattern import uniform

CHANNELS, SIDE, CLASSES, T = 2, 2, 3, 1000
SIZE = CHANNELS * SIDE * SIDE
linear = np.cumprod(1 - np.linspace(1e-4, 0.02, T))

weight, told, table = uniform("denoiser", SIZE, SIZE), uniform("time", SIZE), uniform("classes", CLASSES + 1, SIZE)


def output(x, t, y=None):
    """(N, C, H, W) at one time, of classes or of none: the last row of the table."""
    rows = np.tile(table[-1], (len(x), 1)) if y is None else table[np.asarray(y)]
    return np.tanh(x.reshape(len(x), SIZE) @ weight.T + told * t / T + rows).reshape(x.shape)


def guided(y, beta):
    return lambda x, t: (1 + beta) * output(x, t, y) - beta * output(x, t) if y is not None else output(x, t)


def alpha_bar(step):
    return 1.0 if step < 0 else linear[step]


def transfer(x, e, step, to):
    """`tran_ddim` of luping-liu/PNDM, runner/method.py."""
    a, b = alpha_bar(step), alpha_bar(to)
    return x + (b - a) * (x / (a**0.5 * (a**0.5 + b**0.5)) - e / (a**0.5 * (((1 - b) * a) ** 0.5 + ((1 - a) * b) ** 0.5)))


def clamp(x, e, step):
    a = alpha_bar(step)
    x0 = np.clip((x - (1 - a) ** 0.5 * e) / a**0.5, -1, 1)
    return (x - a**0.5 * x0) / (1 - a) ** 0.5


def follow(f, x, steps, kind="ddim", early=0, eta=0.0, noise=None, clip=False):
    past = []
    for i, (step, to) in enumerate(zip(steps, steps[1:])):
        e_of = lambda x, step: clamp(x, f(x, step - early), step) if clip else f(x, step - early)
        e = e_of(x, step)
        a, b = alpha_bar(step), alpha_bar(to)
        if kind == "ddim" and eta == 0:
            x = transfer(x, e, step, to)
        elif kind == "ddim":
            sigma = eta * ((1 - b) / (1 - a)) ** 0.5 * (1 - a / b) ** 0.5
            x0 = (x - (1 - a) ** 0.5 * e) / a**0.5
            x = b**0.5 * x0 + (1 - b - sigma**2) ** 0.5 * e + (sigma * noise[i] if to >= 0 else 0)
        elif kind == "ancestral":
            beta = 1 - a / b
            x0 = (x - (1 - a) ** 0.5 * e) / a**0.5
            mean = b**0.5 * beta / (1 - a) * x0 + (1 - beta) ** 0.5 * (1 - b) / (1 - a) * x
            x = mean + (beta**0.5 * noise[i] if to >= 0 else 0)
        elif kind == "pndm" and len(past) < 3:
            middle = (step + to) // 2
            e2 = e_of(transfer(x, e, step, middle), middle)
            e3 = e_of(transfer(x, e2, step, middle), middle)
            e4 = e_of(transfer(x, e3, step, to), to)
            x = transfer(x, (e + 2 * e2 + 2 * e3 + e4) / 6, step, to)
        elif kind == "plms" and not past:
            x = transfer(x, (e + e_of(transfer(x, e, step, to), to)) / 2, step, to)
        elif len(past) == 1:
            x = transfer(x, (3 * e - past[-1]) / 2, step, to)
        elif len(past) == 2:
            x = transfer(x, (23 * e - 16 * past[-1] + 5 * past[-2]) / 12, step, to)
        else:
            x = transfer(x, (55 * e - 59 * past[-1] + 37 * past[-2] - 9 * past[-3]) / 24, step, to)
        past.append(e)
    return x


def main():
    shape = (3, CHANNELS, SIDE, SIDE)
    x, noise = uniform("start", *shape), [uniform(f"noise {i}", *shape) for i in range(12)]
    y = [0, 2, 1]
    whole, start = [999, 899, 799, 699, 599, 499, 399, 299, 199, 99, -1], [120, 100, 80, 60, 40, 20, 0]
    cases = []

    def case(name, value):
        cases.append({"name": name, "expected": value.ravel().tolist()})

    case("ddim", follow(guided(None, 0), x, whole))
    case("ddim of classes", follow(guided(y, 0), x, whole))
    case("ddim, guided and told early", follow(guided(y, 2), x, start, early=1))
    case("ddim, clamped", follow(guided(None, 0), x, whole, clip=True))
    case("ddim, eta 0.5", follow(guided(None, 0), x, whole, eta=0.5, noise=noise))
    case("ancestral", follow(guided(None, 0), x, whole, kind="ancestral", noise=noise))
    case("pndm", follow(guided(None, 0), x, whole, kind="pndm"))
    case("pndm, guided and told early", follow(guided(y, 2), x, start, kind="pndm", early=1))
    case("plms", follow(guided(y, 0), x, whole, kind="plms"))
    case("ddim up", follow(guided(None, 0), x, [0, 100, 200, 300]))
    # A flow: x + (t' - t)·v, with v the output.
    z = x
    for step, to in zip(whole, whole[1:]):
        z = z + ((to + 1) / T - (step + 1) / T) * output(z, step)
    case("euler of a flow", z)
    # v: x0 = a·x - s·v and ε = s·x + a·v.
    z = x
    for step, to in zip(whole, whole[1:]):
        a, s, b, r = linear[step] ** 0.5, (1 - linear[step]) ** 0.5, alpha_bar(to) ** 0.5, (1 - alpha_bar(to)) ** 0.5
        v = output(z, step)
        z = b * (a * z - s * v) + r * (s * z + a * v)
    case("ddim of v", z)
    record = {"made_by": f"tests/golden/samplers.py: numpy {np.__version__}", "cases": cases}
    text = json.dumps(record).replace('{"name"', '\n{"name"')
    pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")


if __name__ == "__main__":
    main()
