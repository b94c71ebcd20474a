"""Reference scores of kernel PCA with random Fourier features: kpca.json. Run with numpy, scipy and mpmath.

The formula is that of references.py. pattern.py makes the features, the frequencies and the phases, which the program draws.
"""
import json
import pathlib

import numpy as np
import references
from pattern import uniform

f32 = lambda rows: rows.astype("f4").astype("f8")
train, test = f32(uniform("train features", 40, 5)), f32(uniform("test features", 8, 5))
frequencies, phases = 3 * uniform("frequencies", 12, 5), np.pi * uniform("phases", 12)
mapped = lambda rows: np.sqrt(2 / 12) * np.cos(references.unit(rows) @ frequencies.T + phases)

cases = []
for explained in [0.8, 0.3, 0.9999]:
    expected, main = references.off_main_directions(mapped(train), mapped(test), explained)
    cases.append({"explained": explained, "main": main, "expected": expected.tolist()})
record = {"made_by": f"tests/golden/kpca.py: numpy {np.__version__}", "cases": cases}
text = json.dumps(record).replace('{"explained"', '\n{"explained"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
