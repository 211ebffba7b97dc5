"""The chain end to end: known truth, blocks, processes, a Dask cluster, bad input."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest

from ulmpaper.config import load_config
from ulmpaper.core.records import Block, UlmWarning
from ulmpaper.core.render import density
from ulmpaper.core.testcard import simulate_testcard
from ulmpaper.core.track import interpolate
from ulmpaper.pipeline.blocks import MapTotals, min_frames_per_block, ulm_blocks
from ulmpaper.pipeline.detect import locate
from ulmpaper.pipeline.parallel import ordered_map
from ulmpaper.pipeline.recording import ulm

CFG = load_config(
    "smoke", {"locate.method": "parabola", "locate.min_score": 0.25, "locate.n_bubbles": 12}
)


def blocks(n: int = 3) -> list[Block]:
    return [
        simulate_testcard(
            n_frames=40, n_bubbles=8, shape_px=(40, 48), rng=np.random.default_rng(seed)
        )
        for seed in range(n)
    ]


def same(a: object, b: object) -> None:
    pd.testing.assert_frame_equal(a.bubbles, b.bubbles)
    pd.testing.assert_frame_equal(a.tracks, b.tracks)
    for name in a.maps:
        np.testing.assert_allclose(a.maps[name], b.maps[name], atol=1e-9)


def test_known_flow_is_mapped(flow: Block) -> None:
    result = ulm(flow, CFG)
    truth = flow.bubbles.rename(columns={"bubble": "track"})
    truth = truth[truth.groupby("track")["frame"].transform("size") > 15]
    path = interpolate(truth, px_mm=flow.px_mm, frame_rate_hz=flow.frame_rate_hz)
    expected = density(path, flow.frames.shape[1:])
    near = np.corrcoef(
        result.maps["density"].reshape(24, 20, 30, 20).sum(axis=(1, 3)).ravel(),
        expected.reshape(24, 20, 30, 20).sum(axis=(1, 3)).ravel(),
    )[0, 1]
    assert near > 0.85
    speed = np.hypot(result.tracks.vz, result.tracks.vx)
    assert 1 < speed.median() < 90  # 0.01 to 0.9 px a frame
    assert set(result.maps) == {
        "density",
        "velocity",
        "mean_velocity",
        "direction",
        "power_doppler",
    }
    assert result.tracks.columns.tolist() == ["frame", "z", "x", "score", "track", "vz", "vx"]


def test_iq_gives_what_its_amplitude_gives(flow: Block) -> None:
    phase = np.exp(1j * np.random.default_rng(0).uniform(0, 6, (1, *flow.frames.shape[1:]))).astype(
        np.complex64
    )
    iq = dataclasses.replace(flow, frames=flow.frames * phase)
    a, b = ulm(iq, CFG), ulm(flow, CFG)
    np.testing.assert_allclose(a.bubbles[["z", "x"]], b.bubbles[["z", "x"]], atol=1e-3)


def test_clutter_filter_uncovers_the_flow(rng: np.random.Generator) -> None:
    flow = simulate_testcard(
        n_frames=300, n_bubbles=8, shape_px=(48, 60), rng=np.random.default_rng(5)
    )
    tissue = (
        50
        * rng.normal(size=(1, 48, 60))
        * np.exp(0.05j * np.sin(np.arange(300) / 60))[:, None, None]
    )
    turning = np.exp(2j * np.pi * 0.15 * np.arange(300))[:, None, None]
    block = dataclasses.replace(flow, frames=(flow.frames * turning + tissue).astype(np.complex64))
    settings = {
        "filter.svd_low": 3,
        "filter.band_hz": (50, 249),
        "locate.min_score": 0.25,
        "locate.n_bubbles": 12,
    }
    result = ulm(block, load_config("smoke", settings), method="parabola")
    clean = ulm(flow, CFG)
    share = (result.maps["density"].astype(bool) & clean.maps["density"].astype(bool)).sum()
    assert share > 0.25 * clean.maps["density"].astype(bool).sum()
    assert abs(len(result.tracks) / len(clean.tracks) - 1) < 0.25


def test_blocks_are_numbered_on_and_their_order_is_kept() -> None:
    whole = ulm(blocks(), CFG)
    single = [ulm(block, CFG) for block in blocks()]
    assert len(whole.bubbles) == sum(len(r.bubbles) for r in single)
    assert whole.bubbles.frame.is_monotonic_increasing
    assert whole.tracks.track.nunique() == sum(r.tracks.track.nunique() for r in single)
    np.testing.assert_allclose(whole.maps["density"], sum(r.maps["density"] for r in single))


def test_processes_give_the_same_as_one() -> None:
    same(ulm(blocks(), CFG, n_jobs=2), ulm(iter(blocks()), CFG))


def test_blocks_are_read_as_they_are_needed() -> None:
    read = []

    def source():
        for block in blocks(4):
            read.append(block)
            yield block

    results = ulm_blocks(source(), CFG)
    next(results)
    assert len(read) < 4
    results.close()


def test_pala_switch_reaches_every_step(flow: Block) -> None:
    theirs = ulm(flow, dataclasses.replace(CFG, pala=True))
    assert theirs.maps["density"].shape == (481, 601)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings that name small networks, trained on other frames: theirs were far denser."""
    import torch

    from ulmpaper.networks.model import MSPCN, CountNet, ML3DResNet
    from ulmpaper.networks.weights import write_network

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    settings = {"ml3d.stride": 4, "compute.device": "cpu"}
    for recipe, cls, network in (
        ("ml3d", ML3DResNet, {"features": 4, "blocks": 1}),
        ("count", CountNet, {"n_max": 20, "features": 4}),
        ("mspcn", MSPCN, {"upsample": 2}),
    ):
        about = {
            "window": 5,
            "threshold": 0.01,
            "tile_px": 40,
            "domain": {"bubbles_per_px": [5, 9]},
        }
        path = write_network(
            folder / recipe, cls(**network), recipe=recipe, network=network, about=about
        )
        settings[f"{recipe}.weights"] = str(path)
    return settings


@pytest.mark.parametrize("method", ["ml3d", "mspcn"])
def test_networks_take_the_place_of_classical_methods(
    flow: Block, networks: dict[str, str], method: str
) -> None:
    frames = flow.frames[:20]
    cfg = load_config("smoke", {**networks, "locate.method": method, "locate.min_score": 0.01})
    with pytest.warns(UserWarning, match=r"bubbles per pixel \(5 to 9\)") as caught:
        result = ulm(frames, cfg)
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UlmWarning, match="unlike") as caught:
        pd.testing.assert_frame_equal(result.bubbles, locate(frames, method, cfg=cfg))
    assert [warning.filename for warning in caught] == [__file__]
    assert result.bubbles["frame"].nunique() > 1
    assert result.bubbles["score"].min() > 0.01
    with pytest.warns(UserWarning, match="unlike"):
        pala = ulm(frames, dataclasses.replace(cfg, pala=True))
    pd.testing.assert_frame_equal(pala.bubbles, result.bubbles)


def test_networks_work_in_processes_of_one_thread_and_warn_once(networks: dict[str, str]) -> None:
    cfg = load_config("smoke", networks)
    short = [dataclasses.replace(block, frames=block.frames[:10]) for block in blocks(2)]
    with pytest.warns(UserWarning, match="unlike those of the training") as caught:
        parallel = ulm(short, cfg, method="ml3d", n_jobs=2)
    assert len(caught) == 1
    with pytest.warns(UlmWarning, match="unlike") as caught:
        assert [len(result.notes) for result in ulm_blocks(short, cfg, method="ml3d")] == [1, 1]
    assert [warning.filename for warning in caught] == [__file__]
    with pytest.warns(UserWarning, match="unlike"):
        same(parallel, ulm(short, cfg, method="ml3d"))
    assert list(ordered_map(iter([joblib.delayed(_threads)()]), n_jobs=2)) == [1]


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def test_few_tasks_are_read_ahead_and_the_backend_of_the_caller_stays() -> None:
    read = 0

    def tasks() -> Iterator[tuple]:
        nonlocal read
        for read in range(1, 101):
            yield joblib.delayed(abs)(-read)

    usual = type(joblib.Parallel(n_jobs=2, prefer="threads")._backend)
    results = ordered_map(tasks(), n_jobs=2)
    assert next(results) == 1
    time.sleep(0.3)
    assert read <= 9
    assert type(joblib.Parallel(n_jobs=2, prefer="threads")._backend) is usual
    assert list(results) == list(range(2, 101))


def test_blocks_must_hold_what_the_filters_need() -> None:
    rng, iq = np.random.default_rng(0), {"filter.band_hz": (50, 249)}
    for settings in (
        {"filter.svd_low": 5},
        iq,
        {**iq, "filter.order": 3},
        {**iq, "filter.svd_low": 40},
    ):
        cfg = load_config("smoke", settings)
        least = min_frames_per_block(cfg)
        ulm(rng.random((least, 20, 24)), cfg)
        with pytest.raises(ValueError, match="frames"):
            ulm(rng.random((least - 1, 20, 24)), cfg)
    assert min_frames_per_block(load_config("smoke", {**iq, "pala": True})) == 1


def test_scale_of_the_block_wins_over_the_settings(flow: Block) -> None:
    twice = dataclasses.replace(flow, px_mm=2 * flow.px_mm)
    np.testing.assert_allclose(ulm(twice, CFG).tracks.vx, 2 * ulm(flow, CFG).tracks.vx)
    unknown = dataclasses.replace(flow, px_mm=None, frame_rate_hz=None)
    np.testing.assert_allclose(ulm(unknown, CFG).tracks.vx, ulm(flow, CFG).tracks.vx)


@pytest.mark.parametrize(
    "frames", [np.zeros((20, 9, 9)), np.ones((1, 9, 9)), np.eye(9)[None] * np.ones((3, 1, 1))]
)
def test_frames_without_tracks_give_empty_tables_and_maps(frames: np.ndarray) -> None:
    result = ulm(frames, CFG)
    assert len(result.tracks) == 0
    assert (result.maps["density"] == 0).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ulm(np.ones((9, 9)), CFG), ValueError, "three axes"),
        (lambda: ulm(np.full((2, 9, 9), np.nan), CFG), ValueError, "NaN"),
        (lambda: ulm(-np.ones((2, 9, 9)), CFG), ValueError, "negative"),
        (
            lambda: ulm(np.ones((2, 9, 9)), CFG, method="radail"),
            ValueError,
            "did you mean 'radial'",
        ),
        (lambda: ulm(np.ones((2, 9, 9)), CFG, method="ml3"), ValueError, "did you mean 'ml3d'"),
        (lambda: ulm([], CFG), ValueError, "at least one frame"),
        (
            lambda: ulm([np.ones((2, 9, 9)), np.ones((2, 9, 8))], CFG),
            ValueError,
            "block 1 has frames of",
        ),
        (lambda: ulm([np.ones((2, 9, 9))], CFG, n_jobs=0), ValueError, "n_jobs"),
    ],
)
def test_bad_input(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call()


def test_a_dask_cluster_gives_the_same(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    note = tmp_path / "scheduler.json"
    dask = [sys.executable, "-m", "dask"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    place = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(note)]
    with contextlib.ExitStack() as stack:
        for command in (
            [*dask, "scheduler", *place],
            [
                *dask,
                "worker",
                "--no-dashboard",
                "--nthreads",
                "1",
                "--no-nanny",
                "--scheduler-file",
                str(note),
            ],
        ):
            process = stack.enter_context(subprocess.Popen(command, cwd=tmp_path, **quiet))
            stack.callback(process.terminate)
        for _ in range(300):
            if note.exists() and note.read_text():
                break
            time.sleep(0.1)
        address = json.loads(note.read_text())["address"]
        same(ulm(blocks(), CFG, n_jobs=2, scheduler=address), ulm(blocks(), CFG))


def test_a_scheduler_that_does_not_answer_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("ulmpaper.pipeline.parallel._CONNECT_TIMEOUT_S", 1)
    with pytest.raises(OSError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"):
        ulm(blocks(), CFG, scheduler="tcp://127.0.0.1:9")


def test_maps_of_nothing_are_an_error() -> None:
    with pytest.raises(ValueError, match="no block"):
        MapTotals(CFG).as_dict()


@pytest.mark.parametrize(("name", "n_bubbles"), [("flow", 40), ("dense", 90)])
def test_frames_to_map_equals_pala(oracle_dir: Path, name: str, n_bubbles: int) -> None:
    with np.load(oracle_dir / f"{name}.npz") as file:
        frames = (
            file["frames_lo"].astype(np.uint16) | (file["frames_hi"].astype(np.uint16) << 8)
        ).astype(float)
        rows, theirs = file["loc_radial"], file["track_radial"]
        knots, density_map = file["interp_radial_knots"], file["density_radial"]
    settings = {
        "pala": True,
        "acquisition.px_mm": 1,
        "acquisition.frame_rate_hz": 1000,
        "locate.n_bubbles": n_bubbles,
    }
    result = ulm(frames, load_config("paper", settings), method="radial")
    expected = rows[theirs[:, 1]][:, [3, 1, 2]] - 1
    ours = result.tracks[["frame", "z", "x"]].to_numpy()
    assert ours.shape == expected.shape
    assert np.mean(np.abs(ours - expected).max(axis=1) < 1e-6) > 0.995
    path = interpolate(result.tracks, px_mm=1, frame_rate_hz=1000)
    at_frames = path[path.groupby("track").cumcount() % 25 == 0][["z", "x", "vz", "vx"]].to_numpy()
    assert (np.abs(at_frames - knots[:, 1:5]) <= [0.01, 0.01, 1, 1]).all()
    assert (result.maps["density"] != density_map).sum() <= 5
