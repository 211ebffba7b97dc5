"""Put the best networks of trainings into the package, at half the size, with the course of each training.

    python ulmpaper/data/ship_weights.py build/weights/quick [NAME ...]

The folder holds a run for each network, as `make weights` leaves them; ``_phantom`` behind the name, those that went on
with the frames of ``phantom.h5``, as `make finetune` leaves them; ``_paper``, those of the profile `paper`. Without
names all that are there are put into the package. Where a run went on in a second one, ``_last``, that one counts. Each
network is scored once more, on ten times as many validation frames as in its training: so thresholds rest on more, and
what 16-bit floats cost is seen.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from ulmpaper.config import load_config
from ulmpaper.core.records import check_choice
from ulmpaper.io.files import write_atomic
from ulmpaper.networks.checkpoint import BEST, METRICS
from ulmpaper.networks.recipes import RECIPES
from ulmpaper.networks.train import validation_blocks
from ulmpaper.networks.weights import read_network, resolve_device, shipped_weights, write_network

NAMES = tuple(name + variant for variant in ("", "_phantom", "_paper") for name in RECIPES)
COUNTED = ["epoch", "step", "seconds"]


def course(folders: list[Path]) -> pd.DataFrame:
    """Metrics of a run and of the one that went on from it, numbered through."""
    parts = [pd.read_csv(folder / METRICS) for folder in folders]
    for before, after in itertools.pairwise(parts):
        after[COUNTED] += before[COUNTED].iloc[-1]
    return pd.concat(parts, ignore_index=True)


def ship(folder: Path, name: str) -> None:
    """Write the weights and the metrics of a network to where `ulmpaper.networks.weights.shipped_weights` looks, or beside."""
    kind, device = name.partition("_")[0], resolve_device("auto")
    runs = [run for run in (folder / name, folder / f"{name}_last") if run.is_dir()]
    net = read_network(runs[-1] / BEST, recipe=kind)
    about = net.about
    for run in runs[:-1]:  # all of it is the training of these weights
        before = pd.read_csv(run / METRICS).iloc[-1]
        about["steps"] += int(before["step"])
        about["seconds"] += round(before["seconds"])
    settings = {
        key: value
        for key, value in about["settings"].items()
        if key not in ("data", "content", "start")
    }
    frames = 10 * settings["train.validation_frames"]
    cfg = load_config("paper", settings | {"train.validation_frames": frames})
    recipe = RECIPES[kind](cfg)
    path = shipped_weights(kind, missing_ok=True).with_name(f"{name}.safetensors")
    path.parent.mkdir(exist_ok=True)
    write_atomic(path.with_suffix(".csv"), course(runs).to_csv(index=False).encode())
    how: dict[str, Any] = {"recipe": kind, "network": recipe.arguments, "half": True}
    write_network(path, net, about=about, **how)
    half = read_network(path, recipe=kind, device=str(device))
    with torch.no_grad():
        blocks = validation_blocks(
            recipe, cfg, None if about["data"] == "simulated" else folder / about["data"]
        )
        scores = recipe.score(lambda frames: half(recipe.inputs(frames.to(device))).cpu(), blocks)
    print(f"{name}: score {scores['score']:.4f}, in training {about['scores']['score']:.4f}")
    about["scores"] = scores
    about |= {"threshold": scores["threshold"]} if "threshold" in scores else {}
    write_network(path, net, about=about, **how)


if __name__ == "__main__":
    weights = Path(sys.argv[1])
    for name in sys.argv[2:] or [name for name in NAMES if (weights / name).is_dir()]:
        ship(weights, check_choice(name, NAMES, "network"))
