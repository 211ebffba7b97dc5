"""Blocks with truth through the chain by several methods: against the chain itself, by hand, and as
a stream.
"""

from __future__ import annotations

import dataclasses
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ulmpaper.config import Config, load_config
from ulmpaper.core.records import Block, bubble_table
from ulmpaper.core.render import density
from ulmpaper.core.testcard import simulate_testcard
from ulmpaper.metrics.bubbles import match_bubbles
from ulmpaper.networks import localize
from ulmpaper.networks.localize import locate_ml3d, locate_mspcn
from ulmpaper.networks.model import MSPCN, CountNet, ML3DResNet
from ulmpaper.networks.weights import write_network
from ulmpaper.paper import experiment
from ulmpaper.paper.experiment import (
    TRUTH,
    Comparison,
    Method,
    best_settings,
    compare,
    locate_all,
    number_grid,
    threshold_grid,
)
from ulmpaper.pipeline.blocks import draw_lines, link_tracks
from ulmpaper.pipeline.detect import locate
from ulmpaper.pipeline.recording import ulm

CFG = load_config("smoke", {"locate.n_bubbles": 8})
METHODS = {"RS": Method("radial", 8), "parabola": Method("parabola", 6)}


def blocks(n: int = 2) -> list[Block]:
    return [
        simulate_testcard(
            n_frames=50, n_bubbles=8, shape_px=(40, 48), rng=np.random.default_rng(seed)
        )
        for seed in range(n)
    ]


@pytest.fixture(scope="module")
def made() -> Comparison:
    return compare(blocks(), METHODS, CFG, span=20)


def same(a: Comparison, b: Comparison) -> None:
    pd.testing.assert_frame_equal(a.groups, b.groups)
    for way in a.sums:
        pd.testing.assert_frame_equal(a.sums[way], b.sums[way])
        for points in (False, True):
            np.testing.assert_array_equal(
                a.density(way, points=points), b.density(way, points=points)
            )


def test_maps_are_those_of_the_chain(made: Comparison) -> None:
    whole = ulm(blocks(), CFG, method="radial")
    np.testing.assert_array_equal(made.density("RS"), whole.maps["density"])
    bare = sum(
        density(one.tracks, (40, 48))
        for one in (ulm(block, CFG, method="radial") for block in blocks())
    )
    np.testing.assert_array_equal(made.density("RS", points=True), bare)


def test_true_map_is_what_the_chain_makes_of_true_bubbles(made: Comparison) -> None:
    expected = np.zeros(made.shape)
    for block in blocks():
        tracks = link_tracks(block.truth, CFG)
        paths = draw_lines(tracks, CFG, px_mm=block.px_mm, frame_rate_hz=block.frame_rate_hz)
        expected += density(paths, (40, 48))
    np.testing.assert_array_equal(made.density(TRUTH), expected)
    sums = made.sums[TRUTH]
    assert (sums.hits_near == sums.n_true).all()
    assert not sums[["count_error", "squared_error", "n_false_tracks"]].to_numpy().any()


def test_sums_are_those_of_the_metrics(made: Comparison) -> None:
    for name, total in ((name, made.sums[name].sum()) for name in made.methods):
        n = dict.fromkeys(("found", "near", "far", "error", "square"), 0.0)
        for block in blocks():
            settings = {"locate.n_bubbles": METHODS[name].n_bubbles}
            found = ulm(block, load_config("smoke", settings), method=METHODS[name].method).bubbles
            pairs = match_bubbles(found, block.truth, max_distance_px=0.5)
            per_frame = np.bincount(found.frame, minlength=50) - np.bincount(
                block.truth.frame, minlength=50
            )
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


def test_groups_add_up_whatever_their_length(made: Comparison) -> None:
    assert made.groups.values.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    assert made.sums["RS"].n_frames.tolist() == [20, 20, 10] * 2
    other = compare(blocks(), METHODS, CFG, span=50)
    for way in made.sums:
        pd.testing.assert_series_equal(
            made.sums[way].sum(), other.sums[way].sum(), check_dtype=False
        )
        np.testing.assert_array_equal(made.density(way), other.density(way))
    parts = [made.density("RS", weights=np.eye(6)[k]) for k in range(6)]
    np.testing.assert_array_equal(sum(parts), made.density("RS"))
    assert sum(part.any() for part in parts) > 2


def test_same_again_and_in_other_processes(made: Comparison) -> None:
    same(made, compare(iter(blocks()), METHODS, CFG, span=20))
    same(made, compare(iter(blocks()), METHODS, CFG, span=20, n_jobs=2))


def test_bubbles_alone_need_no_maps(made: Comparison) -> None:
    bare = compare(blocks(), METHODS, CFG, span=20, draw=False)
    assert not bare.density("RS").any()
    tracked = ["n_tracks", "n_false_tracks"]
    pd.testing.assert_frame_equal(
        bare.sums["RS"].drop(columns=tracked), made.sums["RS"].drop(columns=tracked)
    )


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

    compare(stream(), {"RS": METHODS["RS"]}, CFG)
    assert len(alive) == 5
    assert most <= 2


def test_false_tracks_and_counts_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    n = np.arange(40)
    truth = bubble_table(n, 5 + 0.1 * n, np.full(40, 6.0), np.ones(40))
    ghost = bubble_table(n, np.full(40, 30.0), 10 + 0.1 * n, np.ones(40))
    half = truth.assign(x=np.where(n < 19, 6.0, 7.0))  # true in 19 of 40 frames
    found = {"both": pd.concat([truth, ghost], ignore_index=True), "half": half, "none": truth[:0]}
    monkeypatch.setattr(experiment, "locate_all", lambda *_, **__: (found, ()))
    block = Block(np.ones((40, 40, 48), np.float32), truth, 0.1, 1000.0)
    made = compare([block], dict.fromkeys(found, Method("radial")), CFG, span=40)
    columns = ["n_found", "hits_near", "count_error", "count_bias", "n_tracks", "n_false_tracks"]
    assert made.sums["both"][columns].values.tolist() == [[80, 40, 40, 40, 2, 1]]
    assert made.sums["half"][columns].values.tolist() == [[40, 19, 0, 0, 1, 1]]
    assert made.sums["none"][columns].values.tolist() == [[0, 0, 40, -40, 0, 0]]
    assert not made.density("none").any()
    np.testing.assert_array_equal(made.density("both")[:200], made.density(TRUTH)[:200])


@pytest.mark.parametrize(
    ("given", "methods", "message"),
    [
        ([], METHODS, "no block"),
        (blocks(1), {"truth": METHODS["RS"]}, "no method may be called 'truth'"),
        ([dataclasses.replace(blocks(1)[0], bubbles=None)], METHODS, "without true bubbles"),
        (
            [
                *blocks(1),
                simulate_testcard(
                    n_frames=9, n_bubbles=2, shape_px=(40, 50), rng=np.random.default_rng(0)
                ),
            ],
            METHODS,
            "compare them apart",
        ),
    ],
)
def test_bad_input_is_named(given: list[Block], methods: dict[str, Method], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(given, methods, CFG)


@pytest.fixture(scope="module")
def cfg(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Settings with untrained networks of their own."""
    folder, made = tmp_path_factory.mktemp("weights"), {}
    torch.manual_seed(0)
    for name, net, arguments in (
        ("ml3d", ML3DResNet(4, 1), {"features": 4, "blocks": 1}),
        ("count", CountNet(30, features=4), {"n_max": 30, "features": 4}),
        ("mspcn", MSPCN(2), {"upsample": 2}),
    ):
        made[f"{name}.weights"] = str(folder / f"{name}.safetensors")
        write_network(
            made[f"{name}.weights"],
            net,
            recipe=name,
            network=arguments,
            about={"window": 5, "tile_px": 32},
        )
    return load_config("smoke", made)


def n_true(block: Block) -> np.ndarray:
    return np.bincount(block.truth["frame"], minlength=len(block.frames))


@pytest.fixture(scope="module")
def short(flow: Block) -> Block:
    bubbles = flow.truth[flow.truth["frame"] < 12]
    return Block(flow.frames[:12], bubbles, flow.px_mm, flow.frame_rate_hz)


def test_classical_ways_are_their_methods(short: Block, cfg: Config) -> None:
    methods = {
        "n": Method("radial", 5),
        "true": Method("weighted", "true"),
        "share": Method("parabola", threshold=0.3),
    }
    found, notes = locate_all(short.frames, methods, cfg, n_true=n_true(short))
    mean = round(n_true(short).mean())
    expected = {
        "n": locate(short.frames, method="radial", n_bubbles=5),
        "true": locate(short.frames, method="weighted", n_bubbles=mean),
        "share": locate(
            short.frames,
            method="parabola",
            n_bubbles=10_000,
            min_score=0.3 * float(short.frames.max()),
        ),
    }
    assert list(found) == list(methods)
    assert notes == ()
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table)
    assert 0 < len(found["share"]) < found["share"].frame.nunique() * 20


@pytest.mark.usefixtures("one_thread")
def test_one_look_of_a_network_serves_all_its_ways(
    short: Block, cfg: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = dataclasses.replace(cfg, count=dataclasses.replace(cfg.count, margin=1.5))
    use = {
        "net": cfg.ml3d.weights,
        "count_net": cfg.count.weights,
        "stride": cfg.ml3d.stride,
        "count_margin": 1.5,
    }
    numbers = {"predicted": None, "true": n_true(short), "seven": 7}
    expected = {name: locate_ml3d(short.frames, n_bubbles=n, **use) for name, n in numbers.items()}
    likely = float(expected["seven"].score.median())
    expected["likely"] = locate_ml3d(short.frames, n_bubbles=7, threshold=likely, **use)
    for least in (0.2, 0.4):
        heat = {
            "net": cfg.mspcn.weights,
            "threshold": least * 1e-3,
            "centre_side": cfg.mspcn.centre_side,
        }
        expected[f"heat {least}"] = locate_mspcn(short.frames, **heat)
    looks = []
    for name in ("locate_ml3d", "locate_mspcn"):
        real = getattr(localize, name)
        monkeypatch.setattr(
            localize,
            name,
            lambda *a, _real=real, **k: (looks.append(_real.__name__), _real(*a, **k))[1],
        )
    methods = {
        "predicted": Method("ml3d"),
        "true": Method("ml3d", "true"),
        "seven": Method("ml3d", 7),
    }
    methods["likely"] = Method("ml3d", 7, threshold=likely)
    methods |= {f"heat {least}": Method("mspcn", threshold=least * 1e-3) for least in (0.2, 0.4)}
    found, _ = locate_all(short.frames, methods, cfg, n_true=n_true(short))
    assert sorted(looks) == ["locate_ml3d", "locate_mspcn"]
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table, check_dtype=False)
    assert len(found["seven"]) == 2 * len(found["likely"]) == 7 * 12


@pytest.mark.usefixtures("one_thread")
def test_weights_of_a_way_come_before_those_of_the_settings(
    short: Block, cfg: Config, tmp_path: Path
) -> None:
    other = tmp_path / "other.safetensors"
    torch.manual_seed(1)
    network = {"features": 4, "blocks": 1}
    write_network(other, ML3DResNet(**network), recipe="ml3d", network=network, about={"window": 5})
    found, _ = locate_all(
        short.frames,
        {"usual": Method("ml3d", 5), "other": Method("ml3d", 5, weights=str(other))},
        cfg,
    )
    expected = locate_ml3d(short.frames, net=other, n_bubbles=5, stride=cfg.ml3d.stride)
    pd.testing.assert_frame_equal(found["other"], expected)
    assert not found["usual"].equals(found["other"])


def test_iq_gives_what_its_amplitude_gives(short: Block, cfg: Config) -> None:
    iq = (short.frames * np.exp(0.7j)).astype(np.complex64)
    one, two = (
        locate_all(f, {"RS": Method("radial", 5)}, cfg)[0]["RS"] for f in (short.frames, iq)
    )
    pd.testing.assert_frame_equal(one, two, atol=1e-4)


def test_best_way_of_each_method_is_chosen() -> None:
    grid = number_grid(["radial", "none"], n_bubbles=[10, 20], shares=[0.1]) | threshold_grid(
        [1, 2]
    )
    scores = pd.Series([0.1, 0.5, 0.5, 0.2, np.nan, 0.1, np.nan, 0.9], index=list(grid))
    best = best_settings(grid, scores)
    assert best == {"mspcn": "mspcn, > 2", "radial": "radial, n = 20", "none": "none, n = 10"}
    assert list(best) == ["mspcn", "radial", "none"]
    assert grid[best["mspcn"]].threshold == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "radail"}, "did you mean 'radial'"),
        ({"method": "radial", "n_bubbles": 0}, "1 or more"),
        ({"method": "ml3d", "n_bubbles": "tru"}, "did you mean 'true'"),
        ({"method": "radial", "n_bubbles": "predicted"}, "only ml3d has a network that counts"),
        ({"method": "mspcn", "n_bubbles": 5}, "give it no n_bubbles"),
        ({"method": "radial", "weights": "a"}, "has no weights"),
        ({"method": "ml3d", "centre_side": 5}, "only mspcn has a heat map"),
        ({"method": "mspcn", "threshold": -1.0}, "0 or more"),
    ],
)
def test_slips_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Method(**settings)


def test_true_number_must_be_given(short: Block, cfg: Config) -> None:
    with pytest.raises(ValueError, match="give n_true"):
        locate_all(short.frames, {"RS": Method("radial", "true")}, cfg)
