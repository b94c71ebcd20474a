"""Golden values of src/detectors/map.rs: maps at the images' size, by PyTorch's `interpolate` and SciPy's `gaussian_filter`.

    pip install numpy scipy torch; python3 tests/golden/map.py > tests/golden/map.json
"""

import json

import numpy as np
import torch
from pattern import uniform
from scipy.ndimage import gaussian_filter


def case(grid, size, sigma):
    small = uniform(f"map {grid} {size}", *grid).astype(np.float32)
    large = torch.nn.functional.interpolate(
        torch.from_numpy(small)[None, None].double(), size=size, mode="bilinear", align_corners=False
    )[0, 0].numpy()
    full = gaussian_filter(large, sigma=sigma) if sigma else large
    numbers = lambda array: [float(f"{x:.9g}") for x in array.ravel().tolist()]
    return {"grid": grid, "size": size, "sigma": sigma, "map": numbers(small), "full": numbers(full)}


print(
    json.dumps(
        [
            case((4, 4), (16, 16), 0),
            case((4, 4), (16, 16), 1.5),
            # The Gaussian is wider than the image.
            case((2, 3), (9, 11), 4),
            case((7, 5), (28, 30), 4),
            # Smaller than the map.
            case((9, 6), (4, 5), 0.6),
            case((1, 1), (5, 3), 2),
        ]
    )
)
