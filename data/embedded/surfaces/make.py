"""Makes this folder's images from three photographs; the same photographs give the same pixels.

    python3 make.py FOLDER

FOLDER holds brick.png, grass.png and gravel.png (512x512, grey) of scikit-image 0.26.0: skimage/data/ in the package.
Needs numpy, scipy, pillow. Last run with Python 3.11, numpy 2.4.6, scipy 1.17.1, pillow 13.0.0.

Photographs are first freed of slow changes of light. Tiles are split by region: some stripes of columns are for train tiles and for
tiles to learn features from, those between them for test tiles. The defects are synthetic. None is a pasted patch and none is a blob
of one colour, as those of CutPaste and confetti noise are.
"""

import pathlib
import shutil
import sys

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, laplace, map_coordinates

HERE = pathlib.Path(__file__).parent
# Their names; how strong the defects are on each; by how many greys a defect changes the mean of its tile, up or down; how much of what
# it does to the contrast of its tile is taken back, a power.
PHOTOGRAPHS = {"brick": (0.9, 1.0, 0.7), "grass": (1.15, 1.2, 0.8), "gravel": (0.6, 1.8, 0.72)}
SIDE = 64
# Of 512 columns: from, to. Train and test stripes take turns, so that a slow change along the photograph is in both.
TRAIN_STRIPES, TEST_STRIPES = [(0, 160), (256, 416)], [(160, 256), (416, 512)]
TRAIN, GOOD, DEFECTIVE, PRETEXT = 160, 24, 7, 32
# How likely a defect is darker as a whole, and how likely lighter.
DARKER = [0.7, 0.3]
# Orders of the test tiles of which one is chosen, and the quantiles that it is chosen by.
ORDERS, QUANTILES = 2000, [0.1, 0.25, 0.5, 0.75, 0.9]
ROWS, COLUMNS = np.mgrid[:SIDE, :SIDE].astype(float)


def even(photograph):
    """The photograph with one mean all over and half of its changes of contrast: greys of mean 128 and deviation 18."""
    level = photograph - gaussian_filter(photograph, 32)
    level /= gaussian_filter(level**2, 32) ** 0.25
    return 128 + 18 * level / level.std()


def tiles(photograph, stripes, stride, count, rng):
    """So many tiles of stripes of columns, at different places of a grid."""
    columns = [x for first, end in stripes for x in range(first, end - SIDE + 1, stride)]
    places = [(y, x) for y in range(0, 512 - SIDE + 1, stride) for x in columns]
    chosen = rng.permutation(len(places))[:count]
    assert len(chosen) == count
    return [photograph[y : y + SIDE, x : x + SIDE].astype(float) for y, x in (places[i] for i in chosen)]


def statistics(tile):
    """Mean, contrast and sharpness (the variance of the Laplacian), as the control rows take them."""
    return np.array([tile.mean(), tile.std(), laplace(tile)[1:-1, 1:-1].var()])


def parted(tested, rng):
    """The tiles in an order whose first GOOD are most like the others in their statistics: of many orders the best one.

    So a control separates the two sides by what the defects do, and not by which tiles were drawn.
    """
    values = np.array([statistics(tile) for tile in tested])
    values = (values - values.mean(0)) / values.std(0)
    orders = [rng.permutation(len(tested)) for _ in range(ORDERS)]

    def unlike(order):
        good, others = (np.quantile(values[part], QUANTILES, axis=0) for part in (order[:GOOD], order[GOOD:]))
        return np.abs(good - others).max()

    return [tested[i] for i in min(orders, key=unlike)]


def place(rng, radius):
    """A centre from which a defect of this radius stays inside."""
    return rng.uniform(radius, SIDE - radius, 2)


def blob(rng, radius):
    """A smooth shape of about this radius: 1 inside, falling to 0 over a few pixels."""
    y, x = place(rng, radius)
    angle = np.arctan2(ROWS - y, COLUMNS - x)
    edge = radius * (1 + sum(rng.uniform(-0.18, 0.18) * np.sin(k * angle + rng.uniform(0, 6.3)) for k in (2, 3, 4)))
    return 1 / (1 + np.exp((np.hypot(ROWS - y, COLUMNS - x) - edge) / 1.2))


def scratch(tile, strength, rng):
    """A bent line, bright on one side and dark on the other: its profile is the derivative of a Gaussian."""
    length, bend, angle = rng.uniform(24, 40), rng.uniform(-0.02, 0.02), rng.uniform(0, np.pi)
    y, x = place(rng, 20)
    along = np.cos(angle) * (COLUMNS - x) + np.sin(angle) * (ROWS - y)
    across = -np.sin(angle) * (COLUMNS - x) + np.cos(angle) * (ROWS - y) - bend * along**2
    within = 1 / (1 + np.exp((np.abs(along) - length / 2) / 1.5))
    profile = -across * np.exp(0.5 - across**2 / 2 / 1.1**2) / 1.1
    return tile + strength * SCRATCH * within * profile, within * np.exp(-((across / 2.2) ** 2)) > 0.37


def stain(tile, strength, rng):
    """A region that is darker or lighter, with a rim of the other sign, as of a drop that dried."""
    soft = blob(rng, rng.uniform(6, 9))
    sign = rng.choice([-1, 1])
    rim = (4 * soft * (1 - soft)) ** 2
    return tile + strength * sign * (STAIN * soft - RIM * rim), soft > 0.2


def ripple(tile, strength, rng):
    """A region with waves on it, as of a cloth that was pressed in."""
    soft = blob(rng, rng.uniform(8, 11))
    angle, period = rng.uniform(0, np.pi), rng.uniform(4.5, 6)
    waves = np.sin(2 * np.pi * (np.cos(angle) * COLUMNS + np.sin(angle) * ROWS) / period)
    return tile + strength * RIPPLE * soft * waves, soft > 0.5


def dent(tile, strength, rng):
    """A region drawn towards its centre, one side in light and one in shadow."""
    radius = rng.uniform(8, 10)
    y, x = place(rng, radius)
    distance = np.hypot(ROWS - y, COLUMNS - x)
    pull = DENT * np.clip(1 - distance / radius, 0, 1) ** 1.5
    warped = map_coordinates(tile, [ROWS + pull * (ROWS - y), COLUMNS + pull * (COLUMNS - x)], order=1, mode="reflect")
    angle = rng.uniform(0, 2 * np.pi)
    slope = (np.cos(angle) * (COLUMNS - x) + np.sin(angle) * (ROWS - y)) / radius
    shade = slope * np.exp(-4 * (distance / radius) ** 2)
    return warped + strength * SHADE * shade, distance < 0.8 * radius


# Strengths: pixels a pixel for DENT, greys for all others. They, and the numbers of PHOTOGRAPHS, were chosen by looking at the test tiles:
# a small ResNet's features are to find the defects, and trivial statistics of whole tiles are to tell something and not enough.
SCRATCH, STAIN, RIM, RIPPLE, DENT, SHADE = 120, 100, 110, 65, 1.5, 700
KINDS = {"dent": dent, "ripple": ripple, "scratch": scratch, "stain": stain}


def toned(tile, changed, mask, shift):
    """The defect is darker or lighter as a whole, so that the tile's mean has moved by `shift`."""
    soft = gaussian_filter(mask.astype(float), 1)
    return changed + soft * (tile.mean() + shift - changed.mean()) / soft.mean()


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 90} if path.suffix == ".jpg" else {}
    Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).save(path, optimize=True, **options)


def make(folder, out):
    for number, (name, (strength, tone, taken_back)) in enumerate(PHOTOGRAPHS.items()):
        photograph = np.asarray(Image.open(folder / f"{name}.png").convert("L")).astype(float)
        assert photograph.shape == (512, 512)
        photograph = even(photograph)
        rng = np.random.default_rng([16, number])
        learned = tiles(photograph, TRAIN_STRIPES, 8, TRAIN + PRETEXT, rng)
        for i, tile in enumerate(learned[:TRAIN]):
            save(out / name / f"train/good/{i:03}.jpg", tile)
        for turn in range(4):
            for i, tile in enumerate(learned[TRAIN:]):
                save(out / f"pretext/train/{name}_{90 * turn:03}/{i:03}.jpg", np.rot90(tile, turn))
        tested = parted(tiles(photograph, TEST_STRIPES, 8, GOOD + len(KINDS) * DEFECTIVE, rng), rng)
        for i in range(GOOD):
            save(out / name / f"test/good/{i:03}.jpg", tested.pop(0))
        for kind, defect in KINDS.items():
            for i in range(DEFECTIVE):
                tile = tested.pop(0)
                # Of a few, the one that changes most: a dent where there is nothing to bend is hardly one.
                tries = [defect(tile, strength, rng) for _ in range(6)]
                changed, mask = max(tries, key=lambda made: np.abs(made[0] - tile)[made[1]].mean())
                changed = np.clip(changed, 0, 255)
                changed = toned(tile, changed, mask, rng.choice([-tone, tone], p=DARKER))
                changed = changed.mean() + (changed - changed.mean()) * (tile.std() / changed.std()) ** taken_back
                save(out / name / f"test/{kind}/{i:03}.jpg", changed)
                save(out / name / f"ground_truth/{kind}/{i:03}_mask.png", 255 * mask)


if __name__ == "__main__":
    for name in [*PHOTOGRAPHS, "pretext"]:
        shutil.rmtree(HERE / name, ignore_errors=True)
    make(pathlib.Path(sys.argv[1]), HERE)
