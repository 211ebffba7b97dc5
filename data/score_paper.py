"""Score the network of the paper's size on the frames on which chapters 7 and 8 score those of the profile quick.

    python ulmpaper/data/score_paper.py [table1] [table2] [crowds] [--stride N] [--weights FILE] [--folder FOLDER]

The tables go to ``ulmpaper/data/results/paper``, with what they were made by in ``about.json``. With a GPU all take two
minutes; without one a table takes hours in the paper's stride of 1, and half an hour of one core in that of 5.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ulmpaper.config import Config, load_config
from ulmpaper.core.records import Block, check_choice
from ulmpaper.io.files import write_atomic
from ulmpaper.metrics.bubbles import join_sequences, score_bubbles
from ulmpaper.metrics.coverage import mask_centreline
from ulmpaper.networks.checkpoint import revision
from ulmpaper.networks.weights import read_network
from ulmpaper.networks.windows import SimulatedSource, seeded_sequence
from ulmpaper.paper.experiment import Method, best_settings, compare, locate_all, threshold_grid
from ulmpaper.paper.scores import bubble_scores, map_scores
from ulmpaper.paper.sequences import insilico_blocks
from ulmpaper.simulator.phantom import phantom_centreline
from ulmpaper.simulator.simulate import cam_blocks, cam_pictures, cam_scene

# As in chapter 8 in the profile quick.
CAM = {"cam.shape_px": (96, 96), "cam.n_bubbles": (3, 29), "acquisition.frame_rate_hz": 250}
CAM |= {"cam.n_frames": 3200, "cam.sequence_frames": 400}
# As in the test of the weights that are shipped: the paper's simulator, four pictures for each number of bubbles.
PAPER_DATA = {
    "train.psf": "bmode",
    "train.stretch": (1.0, 1.0),
    "train.still": 1.0,
    "train.speed": (1.0, 1.0),
}
PAPER_DATA |= {"train.quieter_db": (0.0, 0.0), "cam.n_test_pictures": 4}
CROWDS = (20, 60, 120, 200)
PROBABILITIES = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)  # as in chapters 7 and 8


def maps(
    blocks: Iterable[Block],
    validation: Iterable[Block],
    cfg: Config,
    weights: str,
    course: pd.DataFrame | None,
) -> pd.DataFrame:
    """Scores of bubbles and maps, a row for each way to tell the network how many bubbles there are.

    The least probability is the one that serves the validation frames best; with the true number told there is none.
    """
    rng = np.random.default_rng(cfg.seed)
    grid = threshold_grid(PROBABILITIES, method="ml3d", weights=weights)
    first = compare(validation, cfg, grid, draw=False)
    best = best_settings(grid, bubble_scores(first, rng=rng, n_draws=0).values["jaccard_near"])[
        "ml3d"
    ]
    tried = {
        "predicted count": grid[best],
        "true count": Method("ml3d", "true", threshold=0.0, weights=weights),
    }
    print(f"predicted count: {best}")
    made = compare(blocks, cfg, tried)
    bubbles = bubble_scores(made, rng=rng)
    scored = map_scores(made, rng=rng, n_draws=0, course=course)
    print(*made.notes, sep="\n")
    table = bubbles.values.join(scored.values).join(bubbles.half_widths().add_suffix("_half"))
    return table.rename_axis("count")


def crowds(cfg: Config, weights: str) -> pd.DataFrame:
    """Jaccard index at a quarter of a pixel with the number of bubbles that the counting network tells."""
    rows = {}
    found: list[pd.DataFrame] = []
    true: list[pd.DataFrame] = []
    tried = {"ours": Method("ml3d", "told", weights=weights)}
    for n in CROWDS:
        source = SimulatedSource(
            load_config("quick", {**PAPER_DATA, "cam.n_bubbles": (n, n)}), "test"
        )
        blocks = [seeded_sequence(source, 40, 7, "shipped", number) for number in range(4)]
        tables = [locate_all(block.frames, cfg, tried)[0]["ours"] for block in blocks]
        truth = [block.truth for block in blocks]
        rows[str(n)] = score_bubbles(*join_sequences(tables, truth))
        found, true = found + tables, true + truth
    rows["together"] = score_bubbles(*join_sequences(found, true))
    return pd.DataFrame(rows).T.rename_axis("bubbles")


def main() -> None:
    """Make the tables asked for."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="*", default=["table1", "table2", "crowds"])
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--weights", default=str(here / "weights" / "ml3d_paper.safetensors"))
    parser.add_argument("--folder", type=Path, default=here / "results" / "paper")
    asked = parser.parse_args()
    trained = read_network(asked.weights, recipe="ml3d").about
    use = {"ml3d.stride": asked.stride, "compute.precision": "auto"}
    phantom, cam = load_config("quick", use), load_config("quick", {**CAM, **use})
    few = load_config("quick", {**CAM, **use, "cam.n_frames": 240, "cam.sequence_frames": 40})
    source = revision()  # now, for tables written below make a checkout a changed one
    on_gpu, n_jobs = torch.cuda.is_available(), os.cpu_count() or 1

    def table1() -> pd.DataFrame:
        where: dict[str, Any] = {"source": "simulated", "data_dir": "data", "n_jobs": n_jobs}
        validation = insilico_blocks(phantom, "validation", **where, n_sequences=2, n_frames=100)
        blocks = insilico_blocks(phantom, "test", **where)
        return maps(blocks, validation, phantom, asked.weights, phantom_centreline())

    def table2() -> pd.DataFrame:
        mask = cam_scene(cam, cam_pictures(cam, "test")[0]).mask
        test, validation = cam_blocks(cam, "test"), cam_blocks(few, "validation")
        return maps(test, validation, cam, asked.weights, mask_centreline(mask))

    makers = {"table1": table1, "table2": table2, "crowds": lambda: crowds(phantom, asked.weights)}
    file = asked.folder / "about.json"
    about = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    asked.folder.mkdir(parents=True, exist_ok=True)
    for name in asked.tables:
        start = time.perf_counter()
        table = makers[check_choice(name, makers, "table")]()
        print(
            f"{name}: {time.perf_counter() - start:.0f} s", table.T.round(4), sep="\n", flush=True
        )
        write_atomic(asked.folder / f"{name}.csv", table.to_csv().encode())
        about[name] = {
            "date": str(dt.date.today()),
            "revision": source,
            "hardware": torch.cuda.get_device_name()
            if on_gpu
            else f"{torch.get_num_threads()} threads of a CPU",
            "stride": asked.stride,
            "weights": trained["digest"],
        }
        write_atomic(file, json.dumps(about, indent=1).encode())


if __name__ == "__main__":
    main()
