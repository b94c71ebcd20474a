"""Makes the data sets of this folder from their sources; the same sources give the same bytes.

    python3 make_embedded.py FASHION_MNIST_FOLDER

FASHION_MNIST_FOLDER holds the four files of Fashion-MNIST (Debian: package dataset-fashion-mnist). The digits and the
textures come from the installed scikit-learn and scikit-image. Needs numpy, scikit-learn, scikit-image.
Last run with Python 3.11, numpy, scikit-learn 1.9.1, scikit-image 0.26.0; the bytes of the compressed files also depend
on zlib (1.2.13 here), their content does not.
"""

import gzip
import hashlib
import pathlib
import struct
import sys

import numpy as np
import skimage.data
import sklearn.datasets

HERE = pathlib.Path(__file__).parent
TRAIN_PER_CLASS, TEST_PER_CLASS = 800, 200
TILE = 28


def read_idx(path):
    content = gzip.decompress(path.read_bytes())
    dims = content[3]
    shape = struct.unpack(f">{dims}I", content[4 : 4 + 4 * dims])
    return np.frombuffer(content, np.uint8, offset=4 + 4 * dims).reshape(shape)


def write_idx(path, values):
    path.parent.mkdir(exist_ok=True)
    header = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes(), 9, mtime=0))


def write(name, stem, images, labels):
    write_idx(HERE / name / f"{stem}-images-idx3-ubyte.gz", images)
    write_idx(HERE / name / f"{stem}-labels-idx1-ubyte.gz", labels)


def fashion_mnist_small(source):
    """The first images of each class, in their original order."""
    for stem, per_class in [("train", TRAIN_PER_CLASS), ("t10k", TEST_PER_CLASS)]:
        images = read_idx(source / f"{stem}-images-idx3-ubyte.gz")
        labels = read_idx(source / f"{stem}-labels-idx1-ubyte.gz")
        chosen = np.sort(np.concatenate([np.flatnonzero(labels == k)[:per_class] for k in range(10)]))
        write("fashion_mnist_small", stem, images[chosen], labels[chosen])


def digits():
    """All 1,797; 0..16 becomes 0..255."""
    data = sklearn.datasets.load_digits()
    write("digits", "t10k", np.rint(data.images * (255 / 16)), data.target)


def textures_small():
    """Every 28x28 tile that fits side by side: 18 x 18 of each 512x512 photograph, row by row."""
    images, labels = [], []
    for label, photograph in enumerate([skimage.data.brick(), skimage.data.grass(), skimage.data.gravel()]):
        n = photograph.shape[0] // TILE
        tiles = photograph[: n * TILE, : n * TILE].reshape(n, TILE, n, TILE).swapaxes(1, 2).reshape(-1, TILE, TILE)
        images.append(tiles)
        labels.append(np.full(len(tiles), label))
    write("textures_small", "t10k", np.concatenate(images), np.concatenate(labels))


fashion_mnist_small(pathlib.Path(sys.argv[1]))
digits()
textures_small()
for path in sorted(HERE.glob("*/*.gz")):
    print(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size, path.relative_to(HERE))
