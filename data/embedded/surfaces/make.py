"""Makes this folder's images from three photographs; the same photographs give the same pixels.

    python3 make.py FOLDER

FOLDER holds brick.png, grass.png and gravel.png (512x512, grey) of scikit-image 0.26.0: skimage/data/ in the package.
Needs numpy, scipy, pillow. Last run with Python 3.11, numpy 1.26.4, scipy 1.17.1, pillow 13.0.0.

Tiles are split by region: train tiles and tiles to learn features from lie left of a border, test tiles right of it. The
defects are synthetic. None is a pasted patch and none is a blob of one colour, as those of CutPaste and confetti noise are. None
changes the mean of its tile by more than a grey level.
"""

import pathlib
import shutil
import sys

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

HERE = pathlib.Path(__file__).parent
PHOTOGRAPHS = ["brick", "grass", "gravel"]
SIDE = 64
# Of 512 columns: those below are for train tiles, those from here on for test tiles.
BORDER = 272
TRAIN, GOOD, DEFECTIVE, PRETEXT = 56, 24, 7, 13
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE].astype(float)


def tiles(photograph, columns, stride, count, rng):
    """So many tiles of a range of columns, at different places of a grid."""
    places = [(y, x) for y in range(0, 512 - SIDE + 1, stride) for x in range(columns[0], columns[1] - SIDE + 1, stride)]
    chosen = rng.permutation(len(places))[:count]
    assert len(chosen) == count
    return [photograph[y : y + SIDE, x : x + SIDE].astype(float) for y, x in (places[i] for i in chosen)]


def place(rng, radius):
    """A centre from which a defect of this radius stays inside."""
    return rng.uniform(radius, SIDE - radius, 2)


def blob(rng, radius):
    """A smooth shape of about this radius: 1 inside, falling to 0 over a few pixels."""
    y, x = place(rng, radius)
    angle = np.arctan2(ROWS - y, COLUMNS - x)
    edge = radius * (1 + sum(rng.uniform(-0.18, 0.18) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 4)))
    return 1 / (1 + np.exp((np.hypot(ROWS - y, COLUMNS - x) - edge) / 1.2))


def scratch(tile, rng):
    """A bent line, bright on one side and dark on the other: its profile is the derivative of a Gaussian."""
    length, bend, angle = rng.uniform(30, 52), rng.uniform(-0.02, 0.02), rng.uniform(0, np.pi)
    y, x = place(rng, 20)
    along = np.cos(angle) * (COLUMNS - x) + np.sin(angle) * (ROWS - y)
    across = -np.sin(angle) * (COLUMNS - x) + np.cos(angle) * (ROWS - y) - bend * along**2
    within = 1 / (1 + np.exp((np.abs(along) - length / 2) / 1.5))
    profile = -across * np.exp(0.5 - across**2 / 2 / 1.1**2) / 1.1
    return tile + SCRATCH * tile.std() * within * profile, within * np.exp(-((across / 2.2) ** 2)) > 0.37


def stain(tile, rng):
    """A region that is darker or lighter, and of lower contrast."""
    soft = blob(rng, rng.uniform(10, 15))
    sign = rng.choice([-1, 1])
    return tile + soft * (sign * STAIN * tile.std() - 0.4 * (tile - gaussian_filter(tile, 6))), soft > 0.5


def ripple(tile, rng):
    """A region with waves on it, as of a cloth that was pressed in."""
    soft = blob(rng, rng.uniform(10, 15))
    angle, period = rng.uniform(0, np.pi), rng.uniform(6, 8)
    waves = np.sin(2 * np.pi * (np.cos(angle) * COLUMNS + np.sin(angle) * ROWS) / period)
    return tile + RIPPLE * tile.std() * soft * waves, soft > 0.5


def dent(tile, rng):
    """A region drawn towards its centre, one side in light and one in shadow."""
    radius = rng.uniform(13, 18)
    y, x = place(rng, radius)
    distance = np.hypot(ROWS - y, COLUMNS - x)
    pull = DENT * np.clip(1 - distance / radius, 0, 1) ** 1.5
    warped = map_coordinates(tile, [ROWS + pull * (ROWS - y), COLUMNS + pull * (COLUMNS - x)], order=1, mode="reflect")
    angle = rng.uniform(0, 2 * np.pi)
    slope = (np.cos(angle) * (COLUMNS - x) + np.sin(angle) * (ROWS - y)) / radius
    shade = slope * np.exp(-4 * (distance / radius) ** 2)
    return warped + SHADE * tile.std() * shade, distance < 0.8 * radius


# Strengths, in deviations of the tile where they are greys: chosen so that mean grey, contrast and sharpness of whole tiles tell
# normal ones with an AUROC of 60 to 80 %.
SCRATCH, STAIN, RIPPLE, DENT, SHADE = 3.0, 2.2, 1.3, 1.5, 12.0
KINDS = {"dent": dent, "ripple": ripple, "scratch": scratch, "stain": stain}


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).save(path, optimize=True)


def make(folder, out):
    for name in PHOTOGRAPHS:
        photograph = np.asarray(Image.open(folder / f"{name}.png").convert("L"))
        assert photograph.shape == (512, 512)
        rng = np.random.default_rng([16, PHOTOGRAPHS.index(name)])
        learned = tiles(photograph, (0, BORDER), 8, TRAIN + PRETEXT, rng)
        for i, tile in enumerate(learned[:TRAIN]):
            save(out / name / f"train/good/{i:03}.png", tile)
        for turn in range(4):
            for i, tile in enumerate(learned[TRAIN:]):
                save(out / f"pretext/{name}_{90 * turn:03}/{i:03}.png", np.rot90(tile, turn))
        tested = tiles(photograph, (BORDER, 512), 16, GOOD + len(KINDS) * DEFECTIVE, rng)
        for i in range(GOOD):
            save(out / name / f"test/good/{i:03}.png", tested.pop())
        for kind, defect in KINDS.items():
            for i in range(DEFECTIVE):
                tile = tested.pop()
                # Where there is nothing to smear or to stain nothing would be seen: of a few places, the one that changes most.
                tries = [defect(tile, rng) for _ in range(6)]
                changed, mask = max(tries, key=lambda made: np.abs(made[0] - tile)[made[1]].mean())
                # The mean does not tell, and the contrast tells half of what it would.
                changed = np.clip(changed, 0, 255)
                changed = (changed - changed.mean()) * (tile.std() / changed.std()) ** 0.5 + tile.mean()
                save(out / name / f"test/{kind}/{i:03}.png", changed)
                save(out / name / f"ground_truth/{kind}/{i:03}_mask.png", 255 * mask)


if __name__ == "__main__":
    for name in [*PHOTOGRAPHS, "pretext"]:
        shutil.rmtree(HERE / name, ignore_errors=True)
    make(pathlib.Path(sys.argv[1]), HERE)
