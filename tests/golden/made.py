"""Images made of two images (made.json) by numpy and Pillow, each as one channel after the other, row by row, in hexadecimal."""
import json
import pathlib

import numpy as np
import PIL
from PIL import Image

CHANNELS, HEIGHT, WIDTH = 3, 20, 24  # rows and columns that fifths, halves and quarters of divide differently
y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
random = np.random.default_rng(5)


def image(phase):
    """Waves under noise, with some black and some white."""
    waves = [np.sin(x / 3 + phase * c) * np.cos(y / 4 - c) for c in range(CHANNELS)]
    noisy = 128 + 120 * np.stack(waves) + random.normal(0, 25, (CHANNELS, HEIGHT, WIDTH))
    return noisy.round().clip(0, 255).astype(np.uint8)


def jigsaw(image):
    upper, lower = np.split(image, 2, axis=1)
    (upper_left, upper_right), (lower_left, lower_right) = (np.split(half, 2, axis=2) for half in (upper, lower))
    upper_left = np.concatenate(np.split(upper_left, 2, axis=1)[::-1], axis=1)
    upper_right = np.concatenate(np.split(upper_right, 2, axis=2)[::-1], axis=2)
    return np.block([[[upper_left, lower_left], [lower_right, upper_right]]]).reshape(image.shape)


def pixelated(channel):
    small = Image.fromarray(channel).resize((int(WIDTH * 0.2), int(HEIGHT * 0.2)), Image.Resampling.BOX)
    return np.asarray(small.resize((WIDTH, HEIGHT), Image.Resampling.BOX))


a, b = image(0.7), image(1.9)
red, green, blue = a
made = {
    "a": a,
    "b": b,
    "arithmetic_mean": np.floor((a.astype(float) + b) / 2 + 0.5),
    "geometric_mean": np.sqrt(a / 255 * (b / 255)) * 255 + 0.5,
    "jigsaw": jigsaw(a),
    "pixelation": np.stack([pixelated(channel) for channel in a]),
    "rgb_shift": np.stack([green[:, ::-1], blue, red]),
    "inversion": np.stack([red, 255 - green, 255 - blue]),
}
golden = {"made_by": f"tests/golden/made.py: numpy {np.__version__}, Pillow {PIL.__version__}"}
golden["shape"] = [CHANNELS, HEIGHT, WIDTH]
golden |= {name: np.ascontiguousarray(pixels).astype(np.uint8).tobytes().hex() for name, pixels in made.items()}
pathlib.Path(__file__).with_suffix(".json").write_text(json.dumps(golden, indent=0) + "\n")
