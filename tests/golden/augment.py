"""Images changed by Pillow as torchvision's transforms change them, and moments of torchvision's random parameters: augment.json.

Run with pillow and numpy (versions in the file). Images of torchvision are PIL images, so each change is the line of
torchvision.transforms._functional_pil or functional that makes it; parameters are drawn by the formulas of
torchvision 0.29's get_params.
"""
import json
import math
import pathlib

import numpy as np
import PIL
from PIL import Image, ImageEnhance, ImageOps

rng = np.random.default_rng(15)


def smooth(height, width, channels):
    """Waves and noise: every level, edges and slopes."""
    y, x = np.mgrid[0:height, 0:width]
    planes = []
    for channel in range(channels):
        wave = 128 + 90 * np.sin(0.7 * x + channel) * np.cos(0.4 * y - 0.5 * channel) + 4 * x - 3 * y
        planes.append(np.clip(wave + rng.normal(0, 25, wave.shape), 0, 255).astype(np.uint8))
    return planes[0] if channels == 1 else np.stack(planes, axis=2)


def pad_cut(image, padding, top, left, mode, fill):
    array = np.asarray(image)
    widths = ((padding, padding), (padding, padding)) + ((0, 0),) * (array.ndim - 2)
    more = {"constant_values": fill} if mode == "constant" else {}
    padded = np.pad(array, widths, mode, **more)
    return Image.fromarray(padded[top : top + array.shape[0], left : left + array.shape[1]])


def resized_crop(image, top, left, height, width):
    return image.crop((left, top, left + width, top + height)).resize(image.size, Image.BILINEAR)


def hue(image, turns):
    if image.mode == "L":
        return image
    h, s, v = image.convert("HSV").split()
    h = np.array(h, dtype=np.uint8)
    h += np.int32(turns * 255).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(h), s, v)).convert("RGB")


def fill_of(image, fill):
    return fill if image.mode == "L" else (fill,) * 3


def rotate(image, degrees, bilinear, fill):
    return image.rotate(degrees, Image.BILINEAR if bilinear else Image.NEAREST, fillcolor=fill_of(image, fill))


def affine(image, angle, translate, shear, center, bilinear, fill):
    """torchvision.transforms.functional.affine with its _get_inverse_affine_matrix at scale 1."""
    if center is None:
        center = [image.width * 0.5, image.height * 0.5]
    rot, sx, sy = math.radians(angle), math.radians(shear[0]), math.radians(shear[1])
    (cx, cy), (tx, ty) = center, translate
    a = math.cos(rot - sy) / math.cos(sy)
    b = -math.cos(rot - sy) * math.tan(sx) / math.cos(sy) - math.sin(rot)
    c = math.sin(rot - sy) / math.cos(sy)
    d = -math.sin(rot - sy) * math.tan(sx) / math.cos(sy) + math.cos(rot)
    m = [d, -b, 0.0, -c, a, 0.0]
    m[2] += m[0] * (-cx - tx) + m[1] * (-cy - ty) + cx
    m[5] += m[3] * (-cx - tx) + m[4] * (-cy - ty) + cy
    resample = Image.BILINEAR if bilinear else Image.NEAREST
    return image.transform(image.size, Image.AFFINE, m, resample, fillcolor=fill_of(image, fill))


def shear(by, axis, bilinear, fill):
    degrees = math.degrees(math.atan(by))
    both = [degrees, 0.0] if axis == "x" else [0.0, degrees]
    return lambda image: affine(image, 0.0, [0, 0], both, [0, 0], bilinear, fill)


def case(kind, parameters, change):
    return kind, parameters, change


cases = [
    case("horizontal_flip", {}, lambda i: i.transpose(Image.FLIP_LEFT_RIGHT)),
    case("vertical_flip", {}, lambda i: i.transpose(Image.FLIP_TOP_BOTTOM)),
]
for mode in ["constant", "edge", "reflect", "symmetric"]:
    for padding, top, left, fill in [(3, 0, 6, 7), (4, 5, 2, 0), (30, 7, 51, 9)]:
        parameters = {"padding": padding, "top": top, "left": left, "mode": mode, "fill": fill}
        cases.append(case("random_crop", parameters, lambda i, p=(padding, top, left, mode, fill): pad_cut(i, *p)))
for window in [(0, 0, 11, 14), (2, 3, 4, 5), (0, 1, 11, 7), (5, 0, 1, 14), (9, 13, 1, 1), (1, 2, 9, 11)]:
    cases.append(case("resized_crop", {"window": window}, lambda i, w=window: resized_crop(i, *w)))
# Shrinking, for which a change that keeps an image's size has no case.
for size in [(5, 4), (14, 3), (3, 11), (1, 1), (23, 17)]:
    cases.append(case("resize", {"size": size[::-1]}, lambda i, s=size: i.resize(s, Image.BILINEAR)))
for degrees in [0, 7.5, -33.3, 45, 90, 135, 180, -270, 359.9]:
    for bilinear in [False, True]:
        parameters = {"degrees": degrees, "bilinear": bilinear, "fill": 40}
        cases.append(case("rotate", parameters, lambda i, d=degrees, b=bilinear: rotate(i, d, b, 40)))
for by in [0.3, -0.09]:
    for bilinear in [False, True]:
        for axis in "xy":
            parameters = {"by": by, "axis": axis, "bilinear": bilinear, "fill": 11}
            cases.append(case("shear", parameters, shear(by, axis, bilinear, 11)))
for by in [[3, 0], [0, -4], [-20, 0]]:
    for bilinear in [False, True]:
        parameters = {"by": by, "bilinear": bilinear, "fill": 11}
        cases.append(case("translate", parameters, lambda i, t=by, b=bilinear: affine(i, 0.0, t, [0, 0], None, b, 11)))
for factor in [0.0, 0.37, 1.0, 1.63, 3.0]:
    for kind, enhance in [("brightness", ImageEnhance.Brightness), ("contrast", ImageEnhance.Contrast),
                          ("saturation", ImageEnhance.Color), ("sharpness", ImageEnhance.Sharpness)]:
        cases.append(case(kind, {"factor": factor}, lambda i, f=factor, e=enhance: e(i).enhance(f)))
for turns in [-0.5, -0.13, 0.0, 0.1, 0.5]:
    cases.append(case("hue", {"turns": turns}, lambda i, t=turns: hue(i, t)))
for bits in [4, 7, 8]:
    cases.append(case("posterize", {"bits": bits}, lambda i, b=bits: ImageOps.posterize(i, b)))
for threshold in [0.0, 77.5, 178.5, 255.0]:
    cases.append(case("solarize", {"threshold": threshold}, lambda i, t=threshold: ImageOps.solarize(i, t)))
cases.append(case("auto_contrast", {}, ImageOps.autocontrast))
cases.append(case("equalize", {}, ImageOps.equalize))

images = [smooth(11, 14, 3), smooth(11, 14, 1)]
# Few levels and many pixels, so that equalising has a step above 0.
images.append((np.add.outer(np.arange(24), np.arange(24)) // 3 * 5 + 40).astype(np.uint8))


def planes(array):
    return [int(v) for v in (array if array.ndim == 2 else array.transpose(2, 0, 1)).ravel()]


def shape(array):
    return [1 if array.ndim == 2 else array.shape[2], array.shape[0], array.shape[1]]


records = []
for kind, parameters, change in cases:
    chosen = images if kind in ("equalize", "auto_contrast") else images[:2]
    for number, array in enumerate(chosen):
        if number == 1 and kind in ("rotate", "shear", "translate", "random_crop", "resized_crop"):
            continue
        changed = np.asarray(change(Image.fromarray(array)))
        records.append({"kind": kind, "image": number, **parameters, "expected": planes(changed)})

# Every hue and saturation at some values, and colours to HSV: a checksum of all bytes at a step.
levels = np.arange(0, 256, 5, dtype=np.uint8)
grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=3).reshape(1, -1, 3)
to_hsv = np.asarray(Image.fromarray(grid).convert("HSV")).ravel().astype(np.int64)
to_rgb = np.asarray(Image.frombytes("HSV", (grid.shape[1], 1), grid.tobytes()).convert("RGB")).ravel().astype(np.int64)
weights = np.arange(1, to_hsv.size + 1) % 9973
checks = {"step": 5, "to_hsv": int((to_hsv * weights).sum()), "to_rgb": int((to_rgb * weights).sum())}


def draw_resized(height, width, scale, ratio):
    for _ in range(10):
        target = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        w, h = int(round(math.sqrt(target * aspect))), int(round(math.sqrt(target / aspect)))
        if 0 < w <= width and 0 < h <= height:
            return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    in_ratio = width / height
    if in_ratio < min(ratio):
        w = width
        h = int(round(w / min(ratio)))
    elif in_ratio > max(ratio):
        h = height
        w = int(round(h * max(ratio)))
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


def draw_erasing(height, width, scale, ratio):
    for _ in range(10):
        target = height * width * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = int(round(math.sqrt(target * aspect))), int(round(math.sqrt(target / aspect)))
        if not (h < height and w < width):
            continue
        return rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w
    return 0, 0, 0, 0


moments = []
for kind, draw, settings in [
    ("random_resized_crop", draw_resized, [(32, 32, (0.08, 1.0), (3 / 4, 4 / 3)), (20, 50, (0.08, 1.0), (3 / 4, 4 / 3)),
                                           (10, 60, (0.9, 1.0), (3 / 4, 4 / 3))]),
    ("random_erasing", draw_erasing, [(32, 32, (0.02, 0.33), (0.3, 3.3)), (12, 40, (0.3, 0.9), (0.3, 3.3))]),
]:
    for height, width, scale, ratio in settings:
        draws = np.array([draw(height, width, scale, ratio) for _ in range(200_000)], dtype=np.float64)
        moments.append({
            "kind": kind, "height": height, "width": width, "scale": scale, "ratio": ratio,
            "mean": draws.mean(0).tolist(), "std": draws.std(0).tolist(),
        })

record = {
    "made_by": f"tests/golden/augment.py: pillow {PIL.__version__}, numpy {np.__version__}",
    "images": [{"shape": shape(array), "bytes": planes(array)} for array in images],
    "cases": records,
    "colours": checks,
    "moments": moments,
}
text = json.dumps(record, separators=(",", ":")).replace('{"kind"', '\n{"kind"').replace('{"shape"', '\n{"shape"')
pathlib.Path(__file__).with_suffix(".json").write_text(text + "\n")
