"""Reference values and gradients of the losses of positions, in f64: dense_losses.json. Run with torch (version in the file).

Written from the paper's equations 3 to 7, image by image and pair by pair, without the matrix forms that the program uses."""
import json
import pathlib

import torch

torch.manual_seed(0)
N, C, H, W, PATCH = 4, 3, 6, 6, 2
GAMMA, LAMBDA, LEAST_A, LEAST_D = 2.5, 5.0, 1e-6, 1e-8

embedding = torch.randn(N, C, H, W).double()
embedding[0, :, 0, 0] = 0                    # a normal position at the centre
embedding[2, :, 0, 0] = 0                    # an anomalous one
embedding[3] = embedding[3, :, :1, :1]       # an image whose positions are all alike
scores = (torch.randn(N, H, W) * 4 + 2).double()
marked = torch.zeros(N, H, W, dtype=torch.double)
marked[1, 1:3, 2:5] = 1
marked[2] = 1                                # no normal position at all
marked[3, 5, 5] = 1


def distances_to_origin(e):
    return (e.pow(2).sum(1) + 1).sqrt() - 1


def hypersphere(e, s, m):
    a = distances_to_origin(e)
    total = 0
    if (m == 0).any():
        total = total + a[m == 0].mean() / 2
    if (m == 1).any():
        # expm1: 1 - exp(-A) in f64 keeps ten digits at A = 1e-6.
        total = total - torch.log(-torch.expm1(-(a[m == 1] + LEAST_A))).mean() / 2
    return total


def score_margin(e, s, m, pair="image"):
    normal = s[m == 0]
    total = torch.relu(normal - GAMMA).mean() if len(normal) else 0
    usual = normal.mean() if len(normal) else torch.zeros(()).double()
    parts = []
    for image in range(N):
        own = s[image][m[image] == 0]
        against = own.mean() if pair == "image" and len(own) else usual
        parts += [torch.relu(LAMBDA - (value - against)) for value in s[image][m[image] == 1]]
    return total + (torch.stack(parts).mean() if parts else 0)


def consistency(e, s, m, order="paper"):
    images = []
    for image in range(N):
        features, values = [], []
        for row in range(0, H, PATCH):
            for column in range(0, W, PATCH):
                square = (slice(row, row + PATCH), slice(column, column + PATCH))
                if m[image][square].sum() == 0:
                    features.append(e[image][(slice(None), *square)].mean((1, 2)))
                    values.append(s[image][square].mean())
        rows = []
        for i in range(len(features)):
            p = torch.stack([((features[i] - other).pow(2).sum() + LEAST_D).sqrt() for other in features])
            q = torch.stack([((values[i] - other).pow(2) + LEAST_D).sqrt() for other in values])
            p, q = p.softmax(0), q.softmax(0)
            first, second = (q, p) if order == "paper" else (p, q)
            rows.append((first * (first.log() - second.log())).sum())
        images.append(torch.stack(rows).mean() if rows else torch.zeros(()).double())
    return torch.stack(images).mean()


none, every = torch.zeros_like(marked), torch.ones_like(marked)
terms = {
    "hypersphere": hypersphere,
    "score_margin image": score_margin,
    "score_margin batch": lambda *of: score_margin(*of, pair="batch"),
    "consistency paper": consistency,
    "consistency reversed": lambda *of: consistency(*of, order="reversed"),
}
cases = []
for masks, mask in [("some", marked), ("none", none), ("all", every)]:
    for name, term in terms.items():
        e, s = embedding.clone().requires_grad_(), scores.clone().requires_grad_()
        loss = term(e, s, mask)
        gradients = [None, None]
        if loss.requires_grad:
            gradients = torch.autograd.grad(loss, [e, s], allow_unused=True)
        flat = [torch.zeros_like(x) if g is None else g for g, x in zip(gradients, (e, s))]
        cases.append({"term": name, "masks": masks, "value": float(loss),
                      "embedding": flat[0].flatten().tolist(), "scores": flat[1].flatten().tolist()})
record = {
    "made_by": f"tests/golden/dense_losses.py: torch {torch.__version__}",
    "shape": [N, C, H, W],
    "embedding": embedding.flatten().tolist(),
    "scores": scores.flatten().tolist(),
    "marked": marked.flatten().int().tolist(),
    "cases": cases,
}
text = json.dumps(record).replace('{"term"', '\n{"term"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
