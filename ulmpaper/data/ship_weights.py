"""Put the best networks of trainings into the package, at half the size, with the course of each training.

    python ulmpaper/data/ship_weights.py build/weights/quick

The folder holds a run for each network, as `make weights` leaves them; where one went on in a second run, ``_last``,
that one counts. Each network is scored once more on its validation data, so that what 16-bit floats cost is seen before
anything is committed.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ulmpaper.config import load_config
from ulmpaper.diskfile import write_whole
from ulmpaper.recipes import RECIPES
from ulmpaper.runs import BEST, METRICS
from ulmpaper.train import validation_blocks
from ulmpaper.weights import read_network, shipped_weights, write_network

COUNTED = ["epoch", "step", "seconds"]


def course(folders: list[Path]) -> pd.DataFrame:
    """Metrics of a run and of the one that went on from it, numbered through."""
    parts = [pd.read_csv(folder / METRICS) for folder in folders]
    for before, after in itertools.pairwise(parts):
        after[COUNTED] += before[COUNTED].iloc[-1]
    return pd.concat(parts, ignore_index=True)


def ship(folder: Path, name: str) -> None:
    """Write the weights and the metrics of a network to where `ulmpaper.weights.shipped_weights` looks."""
    runs = [run for run in (folder / name, folder / f"{name}_last") if run.is_dir()]
    net, about = read_network(runs[-1] / BEST, recipe=name)
    for run in runs[:-1]:  # all of it is the training of these weights
        before = pd.read_csv(run / METRICS).iloc[-1]
        about["steps"] += int(before["step"])
        about["seconds"] += round(before["seconds"])
    settings = {key: value for key, value in about["settings"].items() if key not in ("data", "start")}
    cfg = load_config("paper", settings)
    recipe = RECIPES[name](cfg)
    path = shipped_weights(name, missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    write_whole(path.with_suffix(".csv"), course(runs).to_csv(index=False).encode())
    how: dict[str, Any] = {"recipe": name, "network": recipe.arguments, "half": True}
    write_network(path, net, about=about, **how)
    half, _ = read_network(path, recipe=name)
    with torch.no_grad():
        scores = recipe.score(lambda frames: half(recipe.inputs(frames)), validation_blocks(recipe, cfg))
    print(f"{name}: score {scores['score']:.4f}, in training {about['scores']['score']:.4f}")
    about["scores"] = scores
    about |= {"threshold": scores["threshold"]} if "threshold" in scores else {}
    write_network(path, net, about=about, **how)


if __name__ == "__main__":
    for name in RECIPES:
        ship(Path(sys.argv[1]), name)
