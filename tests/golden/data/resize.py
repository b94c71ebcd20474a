"""Golden values of `resize` and `crop`: `python3 resize.py`, in this folder, writes resize.json.

Anti-aliased resizing and nearest neighbours are Pillow's, which torchvision's Resize uses on images of files; without anti-aliasing it
is OpenCV's on float32 (INTER_LINEAR, INTER_CUBIC), which are PyTorch's interpolate(align_corners=False) to rounding.
Last run with the versions that resize.json names.
"""

import json
import pathlib

import cv2
import numpy as np
import PIL
from PIL import Image

PILLOW = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC, "nearest": Image.Resampling.NEAREST}
OPENCV = {"bilinear": cv2.INTER_LINEAR, "bicubic": cv2.INTER_CUBIC}


def scaled(pixels, mode, antialias, height, width):
    if antialias or mode == "nearest":
        return np.asarray(Image.fromarray(pixels).resize((width, height), PILLOW[mode]))
    floats = cv2.resize(pixels.astype(np.float32), (width, height), interpolation=OPENCV[mode])
    return np.clip(np.floor(floats + 0.5), 0, 255).astype(np.uint8)


def fitted(pixels, mode, antialias, crop, height, width):
    """torchvision: Resize(size / crop) of the shorter side and CenterCrop(size); with crop none, Resize((height, width))."""
    if crop == "none":
        return scaled(pixels, mode, antialias, height, width)
    h, w = pixels.shape[:2]
    rows, columns = round(height / crop), round(width / crop)
    size = (rows, w * rows // h) if h * columns <= w * rows else (h * columns // w, columns)
    pixels = scaled(pixels, mode, antialias, *size)
    top, left = int(round((size[0] - height) / 2.0)), int(round((size[1] - width) / 2.0))
    return pixels[top : top + height, left : left + width]


rng = np.random.default_rng(0)
cases = []
for mode, antialias, crop, shape, target in [
    ("bicubic", True, 1.0, (24, 31, 3), (8, 8)),
    ("bicubic", True, 1.0, (9, 12), (28, 28)),
    ("bicubic", True, 0.875, (40, 52, 3), (21, 21)),
    ("bilinear", True, 0.875, (40, 30), (14, 14)),
    ("bilinear", True, "none", (40, 21, 3), (16, 16)),
    ("bicubic", True, "none", (11, 40), (16, 9)),
    ("nearest", True, 1.0, (24, 31, 3), (9, 9)),
    ("nearest", True, "none", (7, 40), (16, 16)),
    ("bilinear", False, 1.0, (33, 47, 3), (10, 10)),
    ("bilinear", False, 0.5, (12, 12), (16, 16)),
    ("bicubic", False, "none", (33, 20), (7, 30)),
    ("bicubic", False, 1.0, (16, 16, 3), (16, 16)),
    ("bilinear", True, 0.5, (16, 16), (16, 16)),
]:
    pixels = rng.integers(0, 256, shape, dtype=np.uint8)
    result = fitted(pixels, mode, antialias, crop, *target)
    planes = lambda image: image.reshape(1, *image.shape) if image.ndim == 2 else image.transpose(2, 0, 1)
    cases.append({
        "mode": mode,
        "antialias": antialias,
        "crop": crop,
        "from": planes(pixels).shape,
        "to": planes(result).shape,
        "image": planes(pixels).ravel().tolist(),
        "expected": planes(result).ravel().tolist(),
    })
versions = {"numpy": np.__version__, "Pillow": PIL.__version__, "opencv": cv2.__version__}
text = json.dumps({"versions": versions, "cases": cases})
(pathlib.Path(__file__).parent / "resize.json").write_text(text + "\n")
