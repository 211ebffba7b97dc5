"""Put the best networks of trainings into the package, at half the size, with their curves.

    python data/ship_weights.py build/weights/quick [NAME ...]

The folder holds a run for each network, as `make weights` leaves them. A name that ends in
``_phantom`` is a run that went on with the frames of ``phantom.h5``, as `make finetune` leaves
them; ``_paper`` is one of the profile `paper`. Without names, all runs in the folder are put into
the package. Where a run was continued in a second one, ``_last``, the second one counts. Each
network is scored once more, on ten times as many validation frames as in its training: so
thresholds rest on more frames, and the cost of 16-bit floats shows.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

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
COUNTED = ["epoch", "step", "seconds"]  # columns that go on counting in a second run


def curve(runs: list[Path]) -> pd.DataFrame:
    """Metrics of a run and of the one that continued it, numbered through."""
    parts = [pd.read_csv(run / METRICS) for run in runs]
    for before, after in itertools.pairwise(parts):
        after[COUNTED] += before[COUNTED].iloc[-1]
    return pd.concat(parts, ignore_index=True)


def ship(folder: Path, name: str) -> None:
    """Write a network's weights and metrics to where `ulmpaper.networks.find_weights` looks."""
    kind = name.partition("_")[0]
    device = resolve_device("auto")
    runs = [run for run in (folder / name, folder / f"{name}_last") if run.is_dir()]
    net = read_network(runs[-1] / BEST, recipe=kind)
    about = net.about
    for run in runs[:-1]:  # all runs together are the training of these weights
        before = pd.read_csv(run / METRICS).iloc[-1]
        about["steps"] += int(before["step"])
        about["seconds"] += round(before["seconds"])

    # The recipe of the training, with more frames to validate on.
    settings = dict(about["settings"])
    for key in ("data", "content", "start"):  # of the run, not of the configuration
        settings.pop(key, None)
    settings["train.validation_frames"] *= 10
    cfg = load_config("paper", settings)
    recipe = RECIPES[kind](cfg)

    path = shipped_weights(kind, missing_ok=True).with_name(f"{name}.safetensors")
    path.parent.mkdir(exist_ok=True)
    write_atomic(path.with_suffix(".csv"), curve(runs).to_csv(index=False).encode())
    write_network(path, net, recipe=kind, network=recipe.arguments, about=about, half=True)

    # Score the network as it is stored, and write it again with these scores.
    half = read_network(path, recipe=kind, device=str(device))
    data = None if about["data"] == "simulated" else folder / about["data"]
    with torch.no_grad():
        blocks = validation_blocks(recipe, cfg, data)
        scores = recipe.score(lambda frames: half(recipe.inputs(frames.to(device))).cpu(), blocks)
    print(f"{name}: score {scores['score']:.4f}, in training {about['scores']['score']:.4f}")
    about["scores"] = scores
    if "threshold" in scores:
        about["threshold"] = scores["threshold"]
    write_network(path, net, recipe=kind, network=recipe.arguments, about=about, half=True)


if __name__ == "__main__":
    weights = Path(sys.argv[1])
    for name in sys.argv[2:] or [name for name in NAMES if (weights / name).is_dir()]:
        ship(weights, check_choice(name, NAMES, "network"))
