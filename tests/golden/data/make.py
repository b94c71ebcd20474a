"""Reference files for the data readers: `python3 make.py`, in this folder.

conform.json   torchvision's Resize(shorter side) and CenterCrop, as Pillow computes them
svhn_*.mat     two pictures in SVHN's layout as SciPy writes them, plain and compressed; the pixel at (n, c, h, w) is 7n + 3h + w + 50c mod 256
Last run with the versions that conform.json names.
"""

import json
import pathlib

import numpy as np
import PIL
import scipy
import scipy.io
from PIL import Image

HERE = pathlib.Path(__file__).parent


def planar(picture):
    pixels = np.asarray(picture)
    return pixels.reshape(1, *pixels.shape) if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


def conform(picture, channels, height, width):
    """torchvision.transforms.functional: resize(min side), center_crop; written out for targets that are not square."""
    picture = picture.convert("RGB" if channels == 3 else "L")
    w, h = picture.size
    if h * width <= w * height:
        size = (w * height // h, height)
    else:
        size = (width, h * width // w)
    picture = picture.resize(size, Image.Resampling.BILINEAR)
    top, left = int(round((size[1] - height) / 2.0)), int(round((size[0] - width) / 2.0))
    return picture.crop((left, top, left + width, top + height))


rng = np.random.default_rng(0)
cases = []
for name, shape, target in [
    ("grey 8x8 enlarged to 28x28", (8, 8), (1, 28, 28)),
    ("grey 28x28 enlarged to RGB 32x32", (28, 28), (3, 32, 32)),
    ("RGB 24x31 shrunk to 8x8", (24, 31, 3), (3, 8, 8)),
    ("RGB 33x20 shrunk to 7x7", (33, 20, 3), (3, 7, 7)),
    ("RGB 16x16 to grey 16x16", (16, 16, 3), (1, 16, 16)),
    ("RGB 16x21 to grey 10x10", (16, 21, 3), (1, 10, 10)),
    ("grey 20x9 to 6x11, not square", (20, 9), (1, 6, 11)),
    ("grey 11x14 cut to 11x11", (11, 14), (1, 11, 11)),
    ("grey 11x12 cut to 11x11", (11, 12), (1, 11, 11)),
]:
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    picture = Image.fromarray(pixels)
    source, result = planar(picture), planar(conform(picture, *target))
    cases.append({
        "name": name,
        "from": source.shape,
        "to": result.shape,
        "image": source.ravel().tolist(),
        "expected": result.ravel().tolist(),
    })
versions = f"Pillow {PIL.__version__}, numpy {np.__version__}, scipy {scipy.__version__}"
(HERE / "conform.json").write_text(json.dumps({"versions": versions, "cases": cases}) + "\n")

# Every pixel tells its place: plane, row, column, image.
n, h, w, c = np.meshgrid(np.arange(2), np.arange(32), np.arange(32), np.arange(3), indexing="ij")
images = ((7 * n + 3 * h + w + 50 * c) % 256).astype(np.uint8)
labels = np.array([[10], [3]], np.uint8)
content = {"X": images.transpose(1, 2, 3, 0), "y": labels}
for name, compressed, y in [("plain", False, labels.astype(np.float64)), ("compressed", True, labels)]:
    path = HERE / f"svhn_{name}.mat"
    scipy.io.savemat(path, {"unused": np.arange(3.0), "X": content["X"], "y": y, "text": "not a number"}, do_compression=compressed)
    # The date in the header would change with every run.
    raw = bytearray(path.read_bytes())
    raw[:116] = b"MATLAB 5.0 MAT-file, made by tests/golden/data/make.py".ljust(116)
    path.write_bytes(raw)
