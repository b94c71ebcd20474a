"""CIFAR's versions for Python, a few images each: `python3 cifar_python.py`, in this folder.

cifar-10-batches-py/test_batch and cifar-100-python/test are as the authors' Python 2 and NumPy wrote them (protocol 2, text and bytes as
BINSTRING), the latter with its columns together; data_batch_1 to 5 are what Python 3 makes of such a dictionary (protocol 4),
protocol-2/ what it makes of it for Python 2.
The byte at (image i, place p) is 7 i + p // 16 modulo 256. Last run with Python 3.12 and NumPy 2.4.
"""

import pathlib
import pickle
import struct

import numpy as np

HERE = pathlib.Path(__file__).parent


class Python2(pickle._Pickler):
    """Writes text and bytes as Python 2 wrote its strings."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        raw = value.encode("latin1") if isinstance(value, str) else value
        if len(raw) < 256:
            self.write(pickle.SHORT_BINSTRING + struct.pack("<B", len(raw)) + raw)
        else:
            self.write(pickle.BINSTRING + struct.pack("<i", len(raw)) + raw)
        self.memoize(value)

    dispatch[str] = save_string
    dispatch[bytes] = save_string


def images(first, count):
    places = np.arange(3072) // 16
    return (7 * (first + np.arange(count))[:, None] + places[None, :]).astype(np.uint8)


def write(path, content, python2, protocol=4):
    path.parent.mkdir(exist_ok=True, parents=True)
    with path.open("wb") as file:
        (Python2(file, 2) if python2 else pickle.Pickler(file, protocol)).dump(content)


def entry(first, labels, key="labels"):
    return {"batch_label": "testing batch 1 of 1", key: labels, "data": images(first, len(labels)), "filenames": [f"{i}.png" for i in labels]}


write(HERE / "cifar-10-batches-py/test_batch", entry(0, [3, 8, 0]), True)
for batch in range(1, 6):
    write(HERE / f"cifar-10-batches-py/data_batch_{batch}", entry(batch, [batch]), False)
write(HERE / "protocol-2/cifar-10-batches-py/test_batch", entry(0, [3, 8, 0]), False, protocol=2)
fine = entry(0, [49, 99], "fine_labels") | {"coarse_labels": [10, 3]}
fine["data"] = np.asfortranarray(fine["data"])
write(HERE / "cifar-100-python/test", fine, True)
