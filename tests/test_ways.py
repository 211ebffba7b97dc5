"""Ways to find bubbles side by side, each against the function that it stands for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from ulmpaper import infer, localize
from ulmpaper.config import Config, load_config
from ulmpaper.model import MSPCN, CountNet, ML3DResNet
from ulmpaper.records import Block
from ulmpaper.ways import Way, choose, find_bubbles, number_grid, threshold_grid
from ulmpaper.weights import write_network


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
        write_network(made[f"{name}.weights"], net, recipe=name, network=arguments, about={"window": 5, "tile_px": 32})
    return load_config("smoke", made)


def n_true(block: Block) -> np.ndarray:
    return np.bincount(block.truth["frame"], minlength=len(block.frames))


@pytest.fixture(scope="module")
def short(flow: Block) -> Block:
    bubbles = flow.truth[flow.truth["frame"] < 12]
    return Block(flow.frames[:12], bubbles, flow.px_mm, flow.frame_rate_hz)


def test_classical_ways_are_their_methods(short: Block, cfg: Config) -> None:
    ways = {"n": Way("radial", 5), "true": Way("weighted", "true"), "share": Way("parabola", threshold=0.3)}
    found, notes = find_bubbles(short.frames, cfg, ways, n_true=n_true(short))
    mean = round(n_true(short).mean())
    expected = {
        "n": localize.locate(short.frames, method="radial", n_bubbles=5),
        "true": localize.locate(short.frames, method="weighted", n_bubbles=mean),
        "share": localize.locate(
            short.frames, method="parabola", n_bubbles=10_000, min_score=0.3 * float(short.frames.max())
        ),
    }
    assert list(found) == list(ways)
    assert notes == ()
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table)
    assert 0 < len(found["share"]) < found["share"].frame.nunique() * 20


@pytest.mark.usefixtures("one_thread")
def test_one_look_of_a_network_serves_all_its_ways(short: Block, cfg: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = dataclasses.replace(cfg, count=dataclasses.replace(cfg.count, margin=1.5))
    use = {"net": cfg.ml3d.weights, "count_net": cfg.count.weights, "stride": cfg.ml3d.stride, "count_margin": 1.5}
    numbers = {"told": None, "true": n_true(short), "seven": 7}
    expected = {name: infer.locate_ml3d(short.frames, n_bubbles=n, **use) for name, n in numbers.items()}
    likely = float(expected["seven"].score.median())
    expected["likely"] = infer.locate_ml3d(short.frames, n_bubbles=7, threshold=likely, **use)
    for least in (0.2, 0.4):
        heat = {"net": cfg.mspcn.weights, "threshold": least * 1e-3, "centre_side": cfg.mspcn.centre_side}
        expected[f"heat {least}"] = infer.locate_mspcn(short.frames, **heat)
    looks = []
    for name in ("locate_ml3d", "locate_mspcn"):
        real = getattr(infer, name)
        monkeypatch.setattr(infer, name, lambda *a, _real=real, **k: (looks.append(_real.__name__), _real(*a, **k))[1])
    ways = {"told": Way("ml3d"), "true": Way("ml3d", "true"), "seven": Way("ml3d", 7)}
    ways["likely"] = Way("ml3d", 7, threshold=likely)
    ways |= {f"heat {least}": Way("mspcn", threshold=least * 1e-3) for least in (0.2, 0.4)}
    found, _ = find_bubbles(short.frames, cfg, ways, n_true=n_true(short))
    assert sorted(looks) == ["locate_ml3d", "locate_mspcn"]
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table, check_dtype=False)
    assert len(found["seven"]) == 2 * len(found["likely"]) == 7 * 12


@pytest.mark.usefixtures("one_thread")
def test_weights_of_a_way_come_before_those_of_the_settings(short: Block, cfg: Config, tmp_path: Path) -> None:
    other = tmp_path / "other.safetensors"
    torch.manual_seed(1)
    network = {"features": 4, "blocks": 1}
    write_network(other, ML3DResNet(**network), recipe="ml3d", network=network, about={"window": 5})
    found, _ = find_bubbles(short.frames, cfg, {"usual": Way("ml3d", 5), "other": Way("ml3d", 5, weights=str(other))})
    expected = infer.locate_ml3d(short.frames, net=other, n_bubbles=5, stride=cfg.ml3d.stride)
    pd.testing.assert_frame_equal(found["other"], expected)
    assert not found["usual"].equals(found["other"])


def test_iq_gives_what_its_amplitude_gives(short: Block, cfg: Config) -> None:
    iq = (short.frames * np.exp(0.7j)).astype(np.complex64)
    one, two = (find_bubbles(f, cfg, {"RS": Way("radial", 5)})[0]["RS"] for f in (short.frames, iq))
    pd.testing.assert_frame_equal(one, two, atol=1e-4)


def test_best_way_of_each_method_is_chosen() -> None:
    grid = number_grid(["radial", "none"], n_bubbles=[10, 20], shares=[0.1]) | threshold_grid([1, 2])
    scores = pd.Series([0.1, 0.5, 0.5, 0.2, np.nan, 0.1, np.nan, 0.9], index=list(grid))
    best = choose(grid, scores)
    assert best == {"mspcn": "mspcn, > 2", "radial": "radial, n = 20", "none": "none, n = 10"}
    assert list(best) == ["mspcn", "radial", "none"]
    assert grid[best["mspcn"]].threshold == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "radail"}, "did you mean 'radial'"),
        ({"method": "radial", "n_bubbles": 0}, "1 or more"),
        ({"method": "ml3d", "n_bubbles": "tru"}, "did you mean 'true'"),
        ({"method": "radial", "n_bubbles": "told"}, "only ml3d has a network that counts"),
        ({"method": "mspcn", "n_bubbles": 5}, "give it no n_bubbles"),
        ({"method": "radial", "weights": "a"}, "has no weights"),
        ({"method": "ml3d", "centre_side": 5}, "only mspcn has a heat map"),
        ({"method": "mspcn", "threshold": -1.0}, "0 or more"),
    ],
)
def test_slips_are_named(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Way(**settings)


def test_true_number_must_be_given(short: Block, cfg: Config) -> None:
    with pytest.raises(ValueError, match="give n_true"):
        find_bubbles(short.frames, cfg, {"RS": Way("radial", "true")})
