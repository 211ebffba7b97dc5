"""Blocks with truth through the chain in several ways: against the chain itself, by hand, and as a stream."""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Iterator

import numpy as np
import pandas as pd
import pytest

from ulmpaper import chain, evaluate, metrics, pipeline, render
from ulmpaper.config import load_config
from ulmpaper.evaluate import TRUTH, Evaluation
from ulmpaper.example import example_block
from ulmpaper.records import Block, bubble_table
from ulmpaper.ways import Way

CFG = load_config("smoke", {"locate.n_bubbles": 8})
WAYS = {"RS": Way("radial", 8), "parabola": Way("parabola", 6)}


def blocks(n: int = 2) -> list[Block]:
    return [
        example_block(n_frames=50, n_bubbles=8, shape_px=(40, 48), rng=np.random.default_rng(seed)) for seed in range(n)
    ]


@pytest.fixture(scope="module")
def made() -> Evaluation:
    return evaluate.evaluate(blocks(), CFG, WAYS, span=20)


def same(a: Evaluation, b: Evaluation) -> None:
    pd.testing.assert_frame_equal(a.groups, b.groups)
    for way in a.sums:
        pd.testing.assert_frame_equal(a.sums[way], b.sums[way])
        for points in (False, True):
            np.testing.assert_array_equal(a.density(way, points=points), b.density(way, points=points))


def test_maps_are_those_of_the_chain(made: Evaluation) -> None:
    whole = pipeline.ulm_many(blocks(), CFG, method="radial")
    np.testing.assert_array_equal(made.density("RS"), whole.maps["density"])
    bare = sum(
        render.density(one.tracks, (40, 48))
        for one in (pipeline.ulm(block, CFG, method="radial") for block in blocks())
    )
    np.testing.assert_array_equal(made.density("RS", points=True), bare)


def test_true_map_is_what_the_chain_makes_of_true_bubbles(made: Evaluation) -> None:
    expected = np.zeros(made.shape)
    for block in blocks():
        tracks = chain.link_tracks(block.truth, CFG)
        paths = chain.draw_lines(tracks, CFG, px_mm=block.px_mm, frame_rate_hz=block.frame_rate_hz)
        expected += render.density(paths, (40, 48))
    np.testing.assert_array_equal(made.density(TRUTH), expected)
    sums = made.sums[TRUTH]
    assert (sums.hits_near == sums.n_true).all()
    assert not sums[["count_error", "squared_error", "n_false_tracks"]].to_numpy().any()


def test_sums_are_those_of_the_metrics(made: Evaluation) -> None:
    for way, total in ((way, made.sums[way].sum()) for way in made.ways):
        n = dict.fromkeys(("found", "near", "far", "error", "square"), 0.0)
        for block in blocks():
            settings = {"locate.n_bubbles": WAYS[way].n_bubbles}
            found = pipeline.ulm(block, load_config("smoke", settings), method=WAYS[way].method).bubbles
            pairs = metrics.match_bubbles(found, block.truth, max_distance_px=0.5)
            per_frame = np.bincount(found.frame, minlength=50) - np.bincount(block.truth.frame, minlength=50)
            for key, value in (
                ("found", len(found)),
                ("near", (pairs.distance < 0.25).sum()),
                ("far", len(pairs)),
                ("error", np.abs(per_frame).sum()),
                ("square", (pairs.distance**2).sum()),
            ):
                n[key] += value
        assert total.n_frames == 100
        assert (total.n_found, total.hits_near, total.hits_far) == (n["found"], n["near"], n["far"])
        assert total.count_error == n["error"]
        assert total.count_bias == total.n_found - total.n_true
        assert total.squared_error == pytest.approx(n["square"])


def test_groups_add_up_whatever_their_length(made: Evaluation) -> None:
    assert made.groups.values.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert made.sums["RS"].n_frames.tolist() == [20, 20, 10] * 2
    other = evaluate.evaluate(blocks(), CFG, WAYS, span=50)
    for way in made.sums:
        pd.testing.assert_series_equal(made.sums[way].sum(), other.sums[way].sum(), check_dtype=False)
        np.testing.assert_array_equal(made.density(way), other.density(way))
    parts = [made.density("RS", weights=np.eye(6)[k]) for k in range(6)]
    np.testing.assert_array_equal(sum(parts), made.density("RS"))
    assert sum(part.any() for part in parts) > 2


def test_same_again_and_in_other_processes(made: Evaluation) -> None:
    same(made, evaluate.evaluate(iter(blocks()), CFG, WAYS, span=20))
    same(made, evaluate.evaluate(iter(blocks()), CFG, WAYS, span=20, n_jobs=2))


def test_bubbles_alone_need_no_maps(made: Evaluation) -> None:
    bare = evaluate.evaluate(blocks(), CFG, WAYS, span=20, draw=False)
    assert not bare.density("RS").any()
    tracked = ["n_tracks", "n_false_tracks"]
    pd.testing.assert_frame_equal(bare.sums["RS"].drop(columns=tracked), made.sums["RS"].drop(columns=tracked))


def test_blocks_stream() -> None:
    alive: list[weakref.ref] = []
    most = 0

    def stream() -> Iterator[Block]:
        nonlocal most
        for block in blocks(5):
            fresh = dataclasses.replace(block, frames=block.frames.copy())
            alive.append(weakref.ref(fresh.frames))
            del block
            yield fresh
            del fresh
            gc.collect()
            most = max(most, sum(ref() is not None for ref in alive))

    evaluate.evaluate(stream(), CFG, {"RS": WAYS["RS"]})
    assert len(alive) == 5
    assert most <= 2


def test_false_tracks_and_counts_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    n = np.arange(40)
    truth = bubble_table(n, 5 + 0.1 * n, np.full(40, 6.0), np.ones(40))
    ghost = bubble_table(n, np.full(40, 30.0), 10 + 0.1 * n, np.ones(40))
    half = truth.assign(x=np.where(n < 19, 6.0, 7.0))  # true in 19 of 40 frames
    found = {"both": pd.concat([truth, ghost], ignore_index=True), "half": half, "none": truth[:0]}
    monkeypatch.setattr(evaluate, "find_bubbles", lambda *_, **__: (found, ()))
    block = Block(np.ones((40, 40, 48), np.float32), truth, 0.1, 1000.0)
    made = evaluate.evaluate([block], CFG, dict.fromkeys(found, Way("radial")), span=40)
    columns = ["n_found", "hits_near", "count_error", "count_bias", "n_tracks", "n_false_tracks"]
    assert made.sums["both"][columns].values.tolist() == [[80, 40, 40, 40, 2, 1]]
    assert made.sums["half"][columns].values.tolist() == [[40, 19, 0, 0, 1, 1]]
    assert made.sums["none"][columns].values.tolist() == [[0, 0, 40, -40, 0, 0]]
    assert not made.density("none").any()
    np.testing.assert_array_equal(made.density("both")[:200], made.density(TRUTH)[:200])


@pytest.mark.parametrize(
    ("given", "ways", "message"),
    [
        ([], WAYS, "no block"),
        (blocks(1), {"truth": WAYS["RS"]}, "no way may be called 'truth'"),
        ([dataclasses.replace(blocks(1)[0], bubbles=None)], WAYS, "without true bubbles"),
        (
            [*blocks(1), example_block(n_frames=9, n_bubbles=2, shape_px=(40, 50), rng=np.random.default_rng(0))],
            WAYS,
            "evaluate them apart",
        ),
    ],
)
def test_bad_input_is_named(given: list[Block], ways: dict[str, Way], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluate.evaluate(given, CFG, ways)
