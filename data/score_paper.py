"""Score the network of the paper's size on the test frames of chapters 7 and 8 (profile quick).

    python data/score_paper.py [table1] [table2] [crowds] [--stride N] [--weights FILE]
                               [--folder FOLDER]

The tables go to ``ulmpaper/paper/results``, and their origin to ``about.json`` beside them. With a
GPU all take two minutes; without one a table takes hours in the paper's stride of 1, and half an
hour of one core in a stride of 5.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import ulmpaper
from ulmpaper.config import Config, load_config
from ulmpaper.core.records import Block, check_choice
from ulmpaper.io.files import write_atomic
from ulmpaper.metrics.bubbles import join_sequences, score_bubbles
from ulmpaper.metrics.coverage import mask_centreline
from ulmpaper.networks.checkpoint import revision
from ulmpaper.networks.weights import find_weights, read_network
from ulmpaper.networks.windows import SimulatedSource, seeded_sequence
from ulmpaper.paper.experiment import Method, best_settings, compare, locate_all, threshold_grid
from ulmpaper.paper.sequences import insilico_blocks
from ulmpaper.simulator.phantom import phantom_centreline
from ulmpaper.simulator.simulate import cam_blocks, cam_pictures, cam_scene

RESULTS = Path(ulmpaper.__file__).parent / "paper" / "results"
# As in chapter 8 in the profile quick.
CAM = {
    "cam.shape_px": (96, 96),
    "cam.n_bubbles": (3, 29),
    "cam.n_frames": 3200,
    "cam.sequence_frames": 400,
    "acquisition.frame_rate_hz": 250,
}
# As in the test of the shipped weights: the paper's simulator, four pictures for each density.
PAPER_DATA = {
    "train.psf": "bmode",
    "train.stretch": (1.0, 1.0),
    "train.still": 1.0,
    "train.speed": (1.0, 1.0),
    "train.quieter_db": (0.0, 0.0),
    "cam.n_test_pictures": 4,
}
CROWDS = (20, 60, 120, 200)  # bubbles in a frame
PROBABILITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # as in chapters 7 and 8


def score_maps(
    blocks: Iterable[Block],
    validation: Iterable[Block],
    cfg: Config,
    weights: str,
    centreline: pd.DataFrame,
) -> pd.DataFrame:
    """Scores of bubbles and maps, with the predicted count and with the true one.

    With the predicted count, the threshold is the one that serves the validation frames best; with
    the true count there is none.
    """
    rng = np.random.default_rng(cfg.seed)
    grid = threshold_grid(PROBABILITIES, method="ml3d", weights=weights)
    first = compare(validation, grid, cfg, draw=False)
    jaccard = first.bubble_scores(rng=rng, n_draws=0).values["jaccard_near"]
    best = best_settings(grid, jaccard)["ml3d"]
    print(f"predicted count: {best}")
    methods = {
        "predicted count": grid[best],
        "true count": Method("ml3d", "true", threshold=0.0, weights=weights),
    }
    comparison = compare(blocks, methods, cfg)
    bubbles = comparison.bubble_scores(rng=rng)
    maps = comparison.map_scores(rng=rng, n_draws=0, centreline=centreline)
    print(*comparison.notes, sep="\n")
    table = bubbles.values.join(maps.values).join(bubbles.half_widths().add_suffix("_half"))
    return table.rename_axis("count")


def table1(cfg: Config, weights: str) -> pd.DataFrame:
    """Scores on the in silico phantom."""
    n_jobs = os.cpu_count() or 1
    validation = insilico_blocks(cfg, "validation", n_sequences=2, n_frames=100, n_jobs=n_jobs)
    blocks = insilico_blocks(cfg, "test", n_jobs=n_jobs)
    return score_maps(blocks, validation, cfg, weights, phantom_centreline())


def table2(cfg: Config, weights: str) -> pd.DataFrame:
    """Scores on the simulated membrane of chapter 8."""
    cam = load_config("quick", {**CAM, **use_settings(cfg)})
    few = load_config(
        "quick", {**CAM, **use_settings(cfg), "cam.n_frames": 240, "cam.sequence_frames": 40}
    )
    mask = cam_scene(cam, cam_pictures(cam, "test")[0]).mask
    blocks = cam_blocks(cam, "test")
    validation = cam_blocks(few, "validation")
    return score_maps(blocks, validation, cam, weights, mask_centreline(mask))


def crowds(cfg: Config, weights: str) -> pd.DataFrame:
    """Scores of bubbles by density, with the predicted count."""
    rows = {}
    found: list[pd.DataFrame] = []
    true: list[pd.DataFrame] = []
    methods = {"ours": Method("ml3d", "predicted", weights=weights)}
    for n in CROWDS:
        settings = {**PAPER_DATA, "cam.n_bubbles": (n, n)}
        source = SimulatedSource(load_config("quick", settings), "test")
        blocks = [seeded_sequence(source, 40, 7, "shipped", number) for number in range(4)]
        tables = [locate_all(block.frames, methods, cfg)[0]["ours"] for block in blocks]
        truth = [block.truth for block in blocks]
        rows[str(n)] = score_bubbles(*join_sequences(tables, truth))
        found += tables
        true += truth
    rows["together"] = score_bubbles(*join_sequences(found, true))
    return pd.DataFrame(rows).T.rename_axis("bubbles")


TABLES = {"table1": table1, "table2": table2, "crowds": crowds}


def use_settings(cfg: Config) -> dict[str, object]:
    """Settings of how the network is used, which all tables share."""
    return {"ml3d.stride": cfg.ml3d.stride, "compute.precision": cfg.compute.precision}


def main() -> None:
    """Make the tables of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", default=list(TABLES))
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--weights", default=str(find_weights("ml3d", "paper")))
    parser.add_argument("--folder", type=Path, default=RESULTS)
    options = parser.parse_args()
    cfg = load_config("quick", {"ml3d.stride": options.stride, "compute.precision": "auto"})
    digest = read_network(options.weights, recipe="ml3d").about["digest"]
    source = revision()  # before a table is written, which would make the checkout a changed one
    if torch.cuda.is_available():
        hardware = torch.cuda.get_device_name()
    else:
        hardware = f"{torch.get_num_threads()} threads of a CPU"
    file = options.folder / "about.json"
    about = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.tables:
        make = TABLES[check_choice(name, TABLES, "table")]
        start = time.perf_counter()
        table = make(cfg, options.weights)
        print(f"{name}: {time.perf_counter() - start:.0f} s")
        print(table.T.round(4), flush=True)
        write_atomic(options.folder / f"{name}.csv", table.to_csv().encode())
        about[name] = {
            "date": str(dt.date.today()),
            "revision": source,
            "hardware": hardware,
            "stride": options.stride,
            "weights": digest,
        }
        write_atomic(file, json.dumps(about, indent=1).encode())


if __name__ == "__main__":
    main()
