"""Put the best networks of trainings into the package, at half the size, with the course of each training.

    python ulmpaper/data/ship_weights.py build/weights/quick

The folder holds a run for each network, as `make weights` leaves them. Each network is scored once more on its
validation data, so that what 16-bit floats cost is seen before anything is committed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from ulmpaper.config import load_config
from ulmpaper.recipes import RECIPES
from ulmpaper.runs import BEST, METRICS
from ulmpaper.train import validation_blocks
from ulmpaper.weights import read_network, shipped_weights, write_network


def ship(folder: Path, name: str) -> None:
    """Write the weights and the metrics of the run `folder` to where `ulmpaper.weights.shipped_weights` looks."""
    net, about = read_network(folder / BEST, recipe=name)
    settings = {key: value for key, value in about["settings"].items() if key != "data"}
    cfg = load_config("paper", settings)
    recipe = RECIPES[name](cfg)
    path = shipped_weights(name, missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    write_network(path, net, recipe=name, network=recipe.arguments, about=about, half=True)
    path.with_suffix(".csv").write_bytes((folder / METRICS).read_bytes())
    half, _ = read_network(path, recipe=name)
    with torch.no_grad():
        scores = recipe.score(lambda frames: half(recipe.inputs(frames)), validation_blocks(recipe, cfg))
    kept, trained = scores["score"], about["scores"]["score"]
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB, score {kept:.4f}, in training {trained:.4f}")


if __name__ == "__main__":
    for name in RECIPES:
        ship(Path(sys.argv[1]) / name, name)
