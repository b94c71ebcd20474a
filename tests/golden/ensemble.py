"""Reference scores of deep ensembles: ensemble.json. Run with numpy, scipy and mpmath (versions in the file).

Taken with 60 digits by mpmath, since the mutual information is a difference of entropies that cancels in f64; scipy's values
are asserted to agree as far as f64 goes.
"""
import json
import pathlib

import mpmath
import numpy as np
import references
import scipy
from scipy.special import log_softmax, logsumexp, softmax
from scipy.stats import entropy

rng = np.random.default_rng(0)
members = np.concatenate([
    rng.standard_normal((5, 3, 4)) * 3,
    rng.standard_normal((2, 3, 4)) * 20,
    rng.standard_normal((2, 1, 4)) * 3 + rng.standard_normal((2, 3, 4)) * 1e-3,
    np.repeat(rng.standard_normal((1, 1, 4)), 3, axis=1),
    [[[90, 0, 0, 0], [0, 90, 0, 0], [0, 0, 90, 0]], [[40, 0, 0, 0], [41, 0, 0, 0], [40, 0, 1, 0]]],
]).astype("f4").astype("f8")

log_mean, mean_entropy, information = (list(column) for column in zip(*map(references.ensemble, members)))
probabilities = softmax(members, axis=2)
scipys = entropy(probabilities.mean(axis=1), axis=1)
np.testing.assert_allclose(log_mean, logsumexp(log_softmax(members, axis=2), axis=1) - np.log(3), atol=1e-13)
np.testing.assert_allclose(mean_entropy, scipys, atol=1e-14)
np.testing.assert_allclose(information, scipys - entropy(probabilities, axis=2).mean(axis=1), atol=1e-14)

record = {
    "made_by": f"tests/golden/ensemble.py: numpy {np.__version__}, scipy {scipy.__version__}, mpmath {mpmath.__version__}",
    "members": members.tolist(),
    "log_mean": log_mean,
    "entropy": mean_entropy,
    "mutual_information": information,
}
text = json.dumps(record).replace(', "', ',\n"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
