"""Scores images with an exported network in PyTorch, and compares with what `oodkit predict` said.

    oodkit export --experiment transfer --network tuned --out exported
    oodkit predict --experiment transfer --method MSP --input new/ --out predicted
    python tools/export_scores.py exported MSP predicted/predictions.csv

Needs torch, safetensors, pillow, numpy, and the package that `python` in exported/model.json names (torchvision or timm).
MSP and energy are computed here; other detectors' settings and threshold are in model.json as well. Images must be of
the network's size: oodkit's resizing is not repeated here. Ends with 1 if a score differs by more than 1e-4.
"""

import csv
import json
import pathlib
import sys

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file


def network(about, folder):
    library = __import__(about["python"].split(".")[0])
    if library.__name__ == "torchvision":
        import torchvision.models  # noqa: F401
    model = eval(about["python"], {library.__name__: library})  # our own export wrote this line
    model.load_state_dict(load_file(folder / about["files"][0]))
    return model.eval()


def pixels(path, about):
    wanted = about["input"]
    image = Image.open(path).convert("RGB" if wanted["channels"] == 3 else "L")
    if image.size != (wanted["width"], wanted["height"]):
        sys.exit(f"{path} is {image.size}, the network wants {wanted['width']}x{wanted['height']}")
    array = np.asarray(image, dtype=np.float32).reshape(wanted["height"], wanted["width"], -1) / 255
    array = (array - np.float32(wanted["mean"])) / np.float32(wanted["std"])
    return torch.from_numpy(array).permute(2, 0, 1)


def score(logits, detector):
    (name, settings), = detector.items() if isinstance(detector, dict) else [(detector, {})]
    logits = logits.double()
    if name == "msp":
        return 1 - logits.softmax(1).amax(1)
    if name == "energy":
        temperature = (settings or {}).get("temperature", 1)
        return -temperature * (logits / temperature).logsumexp(1)
    sys.exit(f"{name} is not computed here")


def main():
    folder, method, answers = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    about = json.loads((folder / "model.json").read_text())
    method = next(known for known in about["methods"] if known["name"] == method)
    model = network(about, folder)
    with open(answers, newline="") as file:
        rows = list(csv.DictReader(file))
    with torch.no_grad():
        images = torch.stack([pixels(row["file"], about) for row in rows])
        logits = torch.cat([model(batch) for batch in images.split(64)])
    found = score(logits, method["detector"])
    theirs = torch.tensor([float(row["score"]) for row in rows], dtype=torch.float64)
    classes = logits.argmax(1)
    names = about["classes"]["names"] or [str(index) for index in range(about["classes"]["count"])]
    same = sum(names[index] == row["class"] for index, row in zip(classes, rows))
    decided = sum((s > method["threshold"]) == (t > method["threshold"]) for s, t in zip(found, theirs))
    difference = (found - theirs).abs().max().item()
    print(f"{len(rows)} images: largest difference of a score {difference:.2g}, "
          f"{same} classes and {int(decided)} decisions the same")
    sys.exit(difference > 1e-4)


main()
