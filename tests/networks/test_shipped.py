"""The shipped networks keep their promises on pictures that they have never seen."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from ulmpaper.config import load_config
from ulmpaper.core.records import Block
from ulmpaper.metrics.bubbles import join_sequences, score_bubbles
from ulmpaper.networks.localize import load_network
from ulmpaper.networks.predict import predict_counts
from ulmpaper.networks.windows import SimulatedSource, seeded_sequence
from ulmpaper.paper.tables import paper_sized
from ulmpaper.pipeline.detect import locate

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSICAL = ("radial", "parabola", "gaussian")
PAPER_DATA = {"train.psf": "bmode", "train.stretch": (1.0, 1.0), "train.still": 1.0}
PAPER_DATA |= {"train.speed": (1.0, 1.0), "train.quieter_db": (0.0, 0.0)}


def blocks(
    n_bubbles: int,
    shape_px: tuple[int, int],
    n_sequences: int,
    n_frames: int = 20,
    n_pictures: int = 4,
) -> list[Block]:
    """Sequences of the paper's simulator, from some test pictures."""
    density = {
        "cam.n_bubbles": (n_bubbles, n_bubbles),
        "cam.shape_px": shape_px,
        "cam.n_test_pictures": n_pictures,
    }
    source = SimulatedSource(load_config("quick", {**PAPER_DATA, **density}), "test")
    return [
        seeded_sequence(source, n_frames, 7, "shipped", number) for number in range(n_sequences)
    ]


def find(
    method: str, sequences: Sequence[Block], n_bubbles: int, **settings: object
) -> list[pd.DataFrame]:
    """Networks count for themselves, the others are given the number."""
    cfg = load_config("quick", {"compute.device": "cpu", **settings})
    return [
        locate(block.frames, method, cfg=cfg)
        if method in ("ml3d", "mspcn")
        else locate(block.frames, method, n_bubbles, max_peaks_in_roi=9)
        for block in sequences
    ]


def near(found: Sequence[pd.DataFrame], sequences: Sequence[Block]) -> float:
    """Jaccard index of all sequences together."""
    return score_bubbles(*join_sequences(found, [block.truth for block in sequences]))[
        "jaccard_near"
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the frames are unlike")
def test_networks_beat_what_needs_no_training() -> None:
    sequences = blocks(25, (128, 128), n_sequences=3, n_frames=10)
    jaccard = {
        m: near(find(m, sequences, 25), sequences) for m in ("ml3d", "mspcn", "parabola", "radial")
    }
    assert jaccard["ml3d"] > jaccard["parabola"] > jaccard["radial"]
    assert jaccard["mspcn"] > jaccard["radial"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the frames are unlike")
def test_the_network_of_the_papers_size_works_without_a_gpu() -> None:
    sequences = blocks(6, (64, 64), n_sequences=2, n_frames=10)
    cfg = load_config(
        "paper", {"compute.device": "cpu", "compute.precision": "auto", "ml3d.threshold": None}
    )
    assert near([locate(block.frames, "ml3d", cfg=cfg) for block in sequences], sequences) > 0.7
    net = load_network("ml3d", "paper")
    about = net.about
    assert (net.extract.out_channels, len(net.blocks)) == (cfg.ml3d.features, cfg.ml3d.blocks)
    for name in ("table1", "table2", "crowds"):
        assert paper_sized(name)[1]["weights"] == about["digest"], "scored with these weights"


@pytest.mark.slow
def test_lead_over_the_densities_of_the_training() -> None:
    """Each classical method has the best of four numbers of bubbles for each density.

    The limits lie below the measured values: with the paper's stride of 1, mirrored frames
    (``ml3d.mirrored``) and sequences of 40 frames, all densities together, 1.85 times the index of
    radial symmetry and 1.204 times that of the best classical method; not mirrored 1.84 and 1.197.
    The count is wrong by 2 % of its mean.
    """
    rows: dict[int, dict[str, float]] = {}
    found: dict[str, list[pd.DataFrame]] = {method: [] for method in ("ml3d", "mspcn", *CLASSICAL)}
    crowds = {
        n_bubbles: blocks(n_bubbles, (250, 250), n_sequences=4) for n_bubbles in (20, 60, 120, 200)
    }
    for n_bubbles, sequences in crowds.items():
        rows[n_bubbles] = {}
        for method, tables in found.items():
            shares = np.array([0.7, 0.85, 1.0, 1.15]) if method in CLASSICAL else np.ones(1)
            tried = [find(method, sequences, round(n_bubbles * share)) for share in shares]
            tables += max(tried, key=lambda tables: near(tables, sequences))
            rows[n_bubbles][method] = near(tables[-len(sequences) :], sequences)
    everything = [block for sequences in crowds.values() for block in sequences]
    together = pd.Series({method: near(tables, everything) for method, tables in found.items()})
    counter = load_network("count")
    about = counter.about
    predicted = [
        predict_counts(counter, block.frames, tile_px=about["tile_px"]) for block in everything
    ]
    true = [np.bincount(block.truth["frame"], minlength=len(block.frames)) for block in everything]
    error = np.abs(np.concatenate(predicted) - np.concatenate(true)).mean()
    error /= np.concatenate(true).mean()
    table = pd.DataFrame(rows).T
    best = table[list(CLASSICAL)].max(axis=1)
    print(table.round(3), (table["ml3d"] / best).round(3), together.round(3), error, sep="\n")
    assert together["ml3d"] > 1.4 * together["radial"]
    assert together["ml3d"] > 1.15 * together[list(CLASSICAL)].max()
    # With sparse bubbles the best of the others is close to 1, so errors are compared, not scores.
    assert (1 - table["ml3d"] < 0.8 * (1 - best)).all()
    assert error < 0.05


@pytest.mark.slow
def test_lead_at_the_best_setting() -> None:
    """Mirrored frames in one pass, on twice as many pictures: 1.2 times the best classical method.

    All densities together. On four of the eight pictures, by which no setting was chosen, 1.23
    times were measured with a stride of 1 and sequences of 40 frames: 1.14 with 20 bubbles in a
    frame, where 1.25 would be a perfect score, and 1.20 to 1.25 with more of them.
    """
    use = {"ml3d.mirrored": True}
    found: dict[str, list[pd.DataFrame]] = {method: [] for method in ("ml3d", *CLASSICAL)}
    everything: list[Block] = []
    for n_bubbles in (20, 60, 120, 200):
        sequences = blocks(n_bubbles, (250, 250), n_sequences=4, n_pictures=8)
        everything += sequences
        found["ml3d"] += find("ml3d", sequences, n_bubbles, **use)
        for method in CLASSICAL:
            tried = [
                find(method, sequences, round(n_bubbles * share))
                for share in (0.7, 0.85, 1.0, 1.15)
            ]
            found[method] += max(tried, key=lambda tables: near(tables, sequences))
    together = {method: near(tables, everything) for method, tables in found.items()}
    print(together)
    assert together["ml3d"] > 1.2 * max(together[method] for method in CLASSICAL)
    assert together["ml3d"] > 1.4 * together["radial"]
