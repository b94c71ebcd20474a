"""Golden values of src/detectors/padim.rs, by numpy from the paper's definition: np.cov and an inverse at every position.

    pip install numpy scipy torch; python3 tests/golden/padim.py > tests/golden/padim.json
"""

import numpy as np
from stage_maps import TEST, TRAIN, image_scores, maps, numbers, to_grid, write


def case(settings, stages, grid, epsilon=0.01, smooth=4, score="max"):
    train, test = (
        np.concatenate([to_grid(maps(images, of)[stage], grid, "nearest") for stage in stages], axis=1)
        for of, images in [("train", TRAIN), ("test", TEST)]
    )
    distances = np.zeros((TEST, *grid))
    for row in range(grid[0]):
        for column in range(grid[1]):
            features = train[:, :, row, column]
            inverse = np.linalg.inv(np.cov(features, rowvar=False) + epsilon * np.eye(features.shape[1]))
            for image in range(TEST):
                difference = test[image, :, row, column] - features.mean(axis=0)
                distances[image, row, column] = np.sqrt(difference @ inverse @ difference)
    scores = image_scores(distances, smooth, score)
    return {"settings": settings, "grid": grid, "maps": numbers(distances), "scores": numbers(scores)}


write(
    [
        case("{}", ["a", "b", "c"], (8, 6)),
        case("{ grid: b, epsilon: 0.5, score: patch }", ["a", "b", "c"], (4, 3), epsilon=0.5, score="patch"),
        case("{ stages: [b, c], smooth: 1.5, score: { top: 0.1 } }", ["b", "c"], (4, 3), smooth=1.5, score=0.1),
    ]
)
