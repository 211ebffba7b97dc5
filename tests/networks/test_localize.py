"""Bubbles found by networks: known maps, weights with their settings, warnings, bad input."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from ulmpaper.config import load_config
from ulmpaper.core.records import UlmWarning, bubble_table
from ulmpaper.networks import localize
from ulmpaper.networks.localize import (
    check_networks,
    load_network,
    locate_ml3d,
    locate_mspcn,
)
from ulmpaper.networks.model import MSPCN, CountNet, ML3DResNet
from ulmpaper.networks.predict import Mirrored
from ulmpaper.networks.targets import MIN_DISTANCE_PX, encode_heatmap, encode_offsets
from ulmpaper.networks.weights import write_network
from ulmpaper.pipeline.detect import locate

N_FRAMES, SHAPE = 12, (30, 26)
NETWORKS = {
    "ml3d": {"features": 4, "blocks": 1},
    "count": {"n_max": 20, "features": 4},
    "mspcn": {"upsample": 2},
}
ABOUT = {
    "ml3d": {"digest": "a" * 10, "window": 4, "threshold": 1e-4},
    "count": {"digest": "b" * 10, "tile_px": 16},
    "mspcn": {"digest": "c" * 10, "threshold": 0.01},
}
CLASSES = {"ml3d": ML3DResNet, "count": CountNet, "mspcn": MSPCN}


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of the three networks, with seed 0, in place of those that come with the package."""
    torch.manual_seed(0)
    for recipe, network in NETWORKS.items():
        net = CLASSES[recipe](**network)
        write_network(
            tmp_path / f"{recipe}.safetensors",
            net,
            recipe=recipe,
            network=network,
            about=ABOUT[recipe],
        )
    monkeypatch.setattr("ulmpaper.networks.weights._SHIPPED", tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def truth() -> pd.DataFrame:
    """Up to five bubbles in a frame, none beside another."""
    rng = np.random.default_rng(4)
    rows = []
    for t in range(N_FRAMES):
        cells = rng.permutation(30)[: rng.integers(0, 6)]
        rows += [
            (t, 5 * (c // 5) + 2 + rng.uniform(-0.4, 0.4), 5 * (c % 5) + 2 + rng.uniform(-0.4, 0.4))
            for c in cells
        ]
    frame, z, x = np.array(rows).T
    return bubble_table(frame, z, x, np.ones(len(frame)))


@pytest.fixture
def frames() -> np.ndarray:
    """Frames whose pixels all hold the frame's number."""
    return np.arange(1.0, N_FRAMES + 1)[:, None, None] * np.ones(SHAPE)


def numbers(frames: Tensor) -> Tensor:
    return (frames[..., 0, 0] * N_FRAMES).round().long() - 1


class Knows(nn.Module):
    """A network that knows the maps of each frame, and reads off the frame which one it is."""

    def __init__(self, maps: Tensor) -> None:
        super().__init__()
        self.maps = maps
        self.windows: list[int] = []

    def forward(self, frames: Tensor) -> Tensor:
        if frames.ndim == 5:
            self.windows.append(frames.shape[2])
        return (
            self.maps[numbers(frames[:, 0])].movedim(-3, 1)
            if frames.ndim == 5
            else self.maps[numbers(frames[:, 0])]
        )


class Counts(nn.Module):
    """A network that knows how many bubbles a tile has, as long as all are alike."""

    def __init__(self, per_frame: np.ndarray) -> None:
        super().__init__()
        self.per_frame = torch.from_numpy(per_frame).float()
        self.sides: list[int] = []

    def forward(self, tiles: Tensor) -> Tensor:
        self.sides.append(tiles.shape[-1])
        lit = (tiles > 0).sum(dim=(1, 2, 3))
        return (self.per_frame[numbers(tiles[:, 0])] * lit / (SHAPE[0] * SHAPE[1]))[:, None]


@pytest.fixture
def ml3d(truth: pd.DataFrame) -> Knows:
    return Knows(encode_offsets(truth, N_FRAMES, SHAPE).movedim(1, 0))


def same(found: pd.DataFrame, truth: pd.DataFrame, atol: float = 1e-6) -> None:
    order = ["frame", "z", "x"]
    a, b = (table.sort_values(order, ignore_index=True) for table in (found, truth))
    pd.testing.assert_frame_equal(a, b, atol=atol, rtol=0)


@pytest.mark.parametrize(("window", "stride"), [(4, 1), (5, 3), (12, 12)])
def test_bubbles_come_back_as_many_as_are_counted(
    truth: pd.DataFrame, frames: np.ndarray, ml3d: Knows, window: int, stride: int
) -> None:
    per_frame = np.bincount(truth["frame"], minlength=N_FRAMES)
    counter = Counts(per_frame)
    use = {"net": ml3d, "window": window, "stride": stride, "device": "cpu"}
    same(locate_ml3d(frames, count_net=counter, **use), truth)
    assert max(counter.sides) <= 64
    same(locate_ml3d(frames, n_bubbles=per_frame, **use), truth)
    assert set(ml3d.windows) == {window}


def test_fewer_than_counted_are_the_most_probable(frames: np.ndarray) -> None:
    bubbles = bubble_table([0, 0, 0], [2, 12, 22], [2, 12, 22], [1, 1, 1])
    maps = encode_offsets(bubbles, N_FRAMES, SHAPE).movedim(1, 0)
    maps[0, 0] *= torch.linspace(0.2, 0.9, SHAPE[0])[:, None]
    found = locate_ml3d(frames, net=Knows(maps), n_bubbles=2, window=3, device="cpu")
    assert found["z"].round().tolist() == [22, 12]


def test_margin_of_the_counter_is_for_the_localizer_alone(
    truth: pd.DataFrame, frames: np.ndarray, ml3d: Knows
) -> None:
    true = np.bincount(truth["frame"], minlength=N_FRAMES)
    half = true // 2
    use = {"net": ml3d, "window": 4, "device": "cpu", "threshold": 0.5}
    found = [
        len(locate_ml3d(frames, count_net=Counts(half), count_margin=margin, **use))
        for margin in (1, 1.5, 3)
    ]
    assert found == [np.minimum(np.rint(margin * half), true).sum() for margin in (1, 1.5, 3)]
    assert len(locate_ml3d(frames, n_bubbles=half, count_margin=3, **use)) == half.sum()


@pytest.mark.parametrize("tile_px", [None, 16])
def test_mirrored_frames_are_read_too(frames: np.ndarray, tile_px: int | None) -> None:
    torch.manual_seed(0)
    frames, net = np.random.default_rng(0).random(frames.shape), ML3DResNet(4, 1)
    use = {"n_bubbles": 5, "window": 4, "device": "cpu", "tile_px": tile_px}
    found = locate_ml3d(frames, net=net, mirrored=True, **use)
    same(found, locate_ml3d(frames, net=Mirrored(net), **use))
    other = locate_ml3d(frames[:, :, ::-1], net=net, mirrored=True, **use)
    same(found, other.assign(x=frames.shape[2] - 1 - other.x), atol=1e-4)
    assert not found.equals(locate_ml3d(frames, net=net, **use))


def test_least_distance_is_that_of_the_settings() -> None:
    assert load_config("paper").ml3d.min_distance_px == MIN_DISTANCE_PX


def test_least_distance_reaches_the_decoder(frames: np.ndarray) -> None:
    maps = encode_offsets(
        bubble_table([3, 3], [5.4, 5.6], [5, 5], [1, 1]), N_FRAMES, SHAPE
    ).movedim(1, 0)
    net, use = Knows(maps), {"n_bubbles": 2, "window": 3, "device": "cpu"}
    assert len(locate_ml3d(frames, net=net, **use)) == 1
    assert len(locate_ml3d(frames, net=net, min_distance_px=0, **use)) == 2


def test_heat_maps_give_the_same_table(truth: pd.DataFrame, frames: np.ndarray) -> None:
    net = Knows(encode_heatmap(truth, N_FRAMES, SHAPE, upsample=4))
    found = locate_mspcn(frames, net=net, threshold=0.5, device="cpu")
    same(found, truth, atol=0.125 + 1e-9)
    per_frame = np.bincount(truth["frame"], minlength=N_FRAMES)
    pd.testing.assert_frame_equal(
        locate_mspcn(frames, net=net, n_bubbles=per_frame, device="cpu"), found
    )
    assert len(locate_mspcn(frames, net=net, n_bubbles=1, device="cpu")) == (per_frame > 0).sum()
    assert len(locate_mspcn(frames, net=net, threshold=1.5, device="cpu")) == 0


def test_dark_frames_have_no_bubbles(frames: np.ndarray, shipped: Path) -> None:
    assert len(locate_ml3d(np.zeros((12, 9, 9)))) == len(locate_mspcn(np.zeros((1, 9, 9)))) == 0
    frames[4:7] = 0
    for found in (
        locate_ml3d(frames, n_bubbles=3, device="cpu"),
        locate_mspcn(frames, threshold=-1.0, device="cpu"),
    ):
        assert set(found["frame"]) == set(range(N_FRAMES)) - {4, 5, 6}
    assert locate_ml3d(frames, device="cpu")["frame"].isin([4, 5, 6]).sum() == 0


def test_weights_bring_their_window_tile_and_threshold(
    frames: np.ndarray, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {}

    def spy(name: str) -> None:
        original = getattr(localize, name)

        def call(*arguments, **options):
            given[name] = options
            return original(*arguments, **options)

        monkeypatch.setattr(localize, name, call)

    for name in ("predict_maps", "predict_counts", "decode_offsets", "decode_heatmap"):
        spy(name)
    locate_ml3d(frames, device="cpu")
    assert (given["predict_maps"]["window"], given["predict_counts"]["tile_px"]) == (4, 16)
    assert given["decode_offsets"]["threshold"] == 1e-4
    locate_ml3d(frames, window=3, count_tile_px=20, threshold=0.0, device="cpu")
    assert (given["predict_maps"]["window"], given["predict_counts"]["tile_px"]) == (3, 20)
    assert given["decode_offsets"]["threshold"] == 0.0
    locate_mspcn(frames, device="cpu")
    assert given["decode_heatmap"]["threshold"] == 0.01
    locate_mspcn(frames, threshold=0.2, device="cpu")
    assert given["decode_heatmap"]["threshold"] == 0.2


def test_files_are_read_once_and_again_when_they_change(shipped: Path) -> None:
    path = shipped / "ml3d.safetensors"
    net = load_network("ml3d")
    assert net.about == ABOUT["ml3d"]
    assert load_network("ml3d", str(path)) is net
    write_network(
        path, ML3DResNet(6, 1), recipe="ml3d", network={"features": 6, "blocks": 1}, about={}
    )
    again = load_network("ml3d", path)
    assert again is not net
    assert again.about == {}
    assert load_network("ml3d", net) is net


def test_frames_unlike_those_of_the_training_are_warned_of(
    frames: np.ndarray, ml3d: Knows, shipped: Path
) -> None:
    for recipe in ("ml3d", "mspcn"):
        about = {**ABOUT[recipe], "domain": {"bubbles_per_px": [1e-4, 2e-4]}}
        net = CLASSES[recipe](**NETWORKS[recipe])
        write_network(
            shipped / f"{recipe}.safetensors",
            net,
            recipe=recipe,
            network=NETWORKS[recipe],
            about=about,
        )
    with pytest.warns(
        UlmWarning, match=r"0\.0051 bubbles per pixel \(0\.0001 to 0\.0002\)"
    ) as caught:
        locate_ml3d(frames, n_bubbles=4, min_distance_px=0, device="cpu")
    assert len(caught) == 1
    assert caught[0].filename == __file__
    with pytest.warns(UlmWarning, match=r"bubbles per pixel \(0\.0001 to 0\.0002\)") as caught:
        locate_mspcn(frames, n_bubbles=9, threshold=-9.0, device="cpu")
    assert len(caught) == 1


def test_settings_reach_the_networks(
    frames: np.ndarray, shipped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = load_config("smoke", {"ml3d.stride": 2, "compute.batch": 3, "compute.device": "cpu"})
    pd.testing.assert_frame_equal(
        locate(frames, "ml3d", cfg=cfg), locate_ml3d(frames, stride=2, device="cpu")
    )
    pd.testing.assert_frame_equal(
        locate(frames, "mspcn", cfg=cfg), locate_mspcn(frames, device="cpu")
    )
    elsewhere = shipped / "other.safetensors"
    (shipped / "ml3d.safetensors").rename(elsewhere)
    with pytest.raises(FileNotFoundError, match="ulmpaper train --recipe ml3d"):
        locate(frames, "ml3d", cfg=cfg)
    named = load_config(
        "smoke", {"ml3d.weights": str(elsewhere), "ml3d.stride": 2, "compute.device": "cpu"}
    )
    pd.testing.assert_frame_equal(
        locate(frames, "ml3d", cfg=named),
        locate_ml3d(frames, net=elsewhere, stride=2, device="cpu"),
    )


def test_min_score_holds_for_networks(
    truth: pd.DataFrame, frames: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = encode_offsets(truth, N_FRAMES, SHAPE)
    maps[0] *= torch.linspace(0.1, 1, N_FRAMES)[:, None, None]
    monkeypatch.setattr(localize, "load_network", lambda recipe, _: nets[recipe])
    nets = {
        "ml3d": Knows(maps.movedim(1, 0)),
        "count": Counts(np.bincount(truth["frame"], minlength=N_FRAMES)),
    }
    nets["ml3d"].about = {"window": 1}
    cfg = load_config("smoke", {"locate.min_score": 0.5, "ml3d.stride": 1, "compute.device": "cpu"})
    found = locate(frames, "ml3d", cfg=cfg)
    assert len(found) == (np.linspace(0.1, 1, N_FRAMES)[truth["frame"]] > 0.5).sum()
    assert found.index.tolist() == list(range(len(found)))


def test_a_run_is_checked_before_it_starts(shipped: Path) -> None:
    settings = {"locate.method": "ml3d", "blocks.n_frames": 20, "ml3d.stride": 1}
    cfg = load_config("smoke", settings)
    assert check_networks(cfg) == ({"ml3d": "a" * 10, "count": "b" * 10}, 4)
    in_one_pass = load_config("smoke", settings | {"ml3d.stride": None})
    assert check_networks(in_one_pass)[1] == 1
    frame_by_frame = dataclasses.replace(
        cfg, locate=dataclasses.replace(cfg.locate, method="mspcn")
    )
    assert check_networks(frame_by_frame) == ({"mspcn": "c" * 10}, 1)
    with pytest.raises(ValueError, match="device 'tpu' cannot be used"):
        check_networks(load_config("smoke", {"locate.method": "ml3d", "compute.device": "tpu"}))
    (shipped / "count.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="ulmpaper train --recipe count"):
        check_networks(cfg)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda f, _: locate_ml3d(f[:3]), ValueError, "3 frames are fewer than the window of 4"),
        (lambda f, _: locate_ml3d(f, n_bubbles=[1, 2]), ValueError, "one for each of 12 frames"),
        (lambda f, _: locate_mspcn(f, n_bubbles=[1, 2]), ValueError, "one for each of 12 frames"),
        (lambda f, _: locate_ml3d(f, n_bubbles=1.5), ValueError, "whole numbers"),
        (
            lambda f, _: locate_ml3d(np.where(f == 3, np.nan, f)),
            ValueError,
            "NaN or infinite values, first in frame 2",
        ),
        (lambda f, _: locate_mspcn(f[0]), ValueError, "three axes"),
        (lambda f, _: locate_ml3d(-f, n_bubbles=1), ValueError, "negative values"),
        (lambda f, _: locate_ml3d(f * 1j), TypeError, "complex"),
        (
            lambda f, p: locate_ml3d(f, net=p / "mspcn.safetensors"),
            ValueError,
            "'mspcn', but 'ml3d' is needed",
        ),
        (
            lambda f, p: locate_ml3d(f, count_net=p / "none.safetensors"),
            FileNotFoundError,
            "no weights at",
        ),
        (lambda f, _: locate_mspcn(f, net=MSPCN(2)), ValueError, "give threshold, counts or both"),
        (lambda f, _: locate(f, "ml3"), ValueError, "unknown method 'ml3': did you mean 'ml3d'"),
    ],
)
def test_bad_input_is_one_clear_error(
    frames: np.ndarray, shipped: Path, call, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        call(frames, shipped)
