"""The chain end to end: known truth, blocks, processes, a Dask cluster, bad input."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import joblib
import numpy as np
import pandas as pd
import pytest

from ulmpaper.config import load_config
from ulmpaper.core.records import Block, UlmWarning
from ulmpaper.core.render import density
from ulmpaper.core.testcard import simulate_testcard
from ulmpaper.core.track import interpolate
from ulmpaper.io.readers import open_frames
from ulmpaper.pipeline.blocks import MapTotals, min_frames_per_block, ulm_blocks
from ulmpaper.pipeline.detect import locate
from ulmpaper.pipeline.parallel import ordered_map
from ulmpaper.pipeline.recording import UlmResult, ulm

SCALE = {"acquisition.px_mm": 0.09856, "acquisition.frame_rate_hz": 1000.0}
CFG = load_config(
    "smoke",
    {"locate.method": "parabola", "locate.min_score": 0.25, "locate.n_bubbles": 12, **SCALE},
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
    settings = {**networks, **SCALE, "locate.method": method, "locate.min_score": 0.01}
    cfg = load_config("smoke", settings)
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
    two = (joblib.delayed(_threads)() for _ in range(2))
    assert list(ordered_map(two, n_jobs=2)) == [1, 1]


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
    rng, iq = np.random.default_rng(0), {"filter.band_hz": (50, 249), **SCALE}
    for settings in (
        {"filter.svd_low": 5, **SCALE},
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


UNSTATED = load_config("smoke", {"locate.method": "parabola", "locate.n_bubbles": 12})


def speeds(result: UlmResult) -> np.ndarray:
    return np.hypot(result.tracks.vz, result.tracks.vx).to_numpy()


def test_scale_is_the_users_then_the_blocks_then_assumed(flow: Block) -> None:
    usual = speeds(ulm(flow, UNSTATED))
    twice = dataclasses.replace(flow, px_mm=2 * flow.px_mm)
    result = ulm(twice, UNSTATED)
    np.testing.assert_allclose(speeds(result), 2 * usual)
    assert result.scale["px_mm_from"] == "block of generated example flow"
    with pytest.warns(UlmWarning, match="a pixel pitch of 0.19712 mm, you 0.3 mm: yours counts"):
        result = ulm(twice, {**SCALE, "acquisition.px_mm": 0.3, "locate.n_bubbles": 12}, "parabola")
    np.testing.assert_allclose(speeds(result), 0.3 / flow.px_mm * usual)
    assert result.scale["px_mm_from"] == "stated by you"
    assert result.config.acquisition.px_mm == 0.3
    unknown = dataclasses.replace(flow, px_mm=None, frame_rate_hz=None)
    for frames in (unknown, flow.frames, [flow.frames]):
        with pytest.warns(UlmWarning) as caught:
            result = ulm(frames, UNSTATED)
        (warning,) = caught
        assert "pixel pitch and frame rate: 0.09856 mm and 1000 Hz assumed" in str(warning.message)
        assert warning.filename == __file__
        assert result.scale["px_mm_from"] == result.scale["frame_rate_from"] == "assumed"
        np.testing.assert_allclose(speeds(result), usual)


def test_what_is_equal_up_to_rounding_is_one_scale(flow: Block) -> None:
    single = dataclasses.replace(flow, px_mm=float(np.float32(flow.px_mm)))
    assert speeds(ulm([flow, single], UNSTATED)).size
    ulm(single, CFG)
    other = dataclasses.replace(flow, px_mm=0.2)
    with pytest.raises(
        ValueError, match=r"block 1 has a pixel pitch of 0\.2 mm, the first 0\.0985"
    ):
        ulm([flow, other], UNSTATED)


@pytest.mark.parametrize("name", ["px_mm", "frame_rate_hz"])
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf])
def test_a_scale_of_nothing_is_refused(flow: Block, name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} .*must be a number above 0"):
        dataclasses.replace(flow, **{name: value})


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("px_mm", 100.0, "is it in um"),
        ("px_mm", 1e-4, "is it in m"),
        ("frame_rate_hz", 0.5, "is it in kHz"),
        ("frame_rate_hz", 1e6, "outside 1 to 100000 Hz"),
    ],
)
def test_a_scale_that_ultrasound_has_not_is_doubted(
    flow: Block, key: str, value: float, said: str
) -> None:
    with pytest.warns(UlmWarning, match=said):
        ulm(dataclasses.replace(flow, **{key: value}), UNSTATED)
    unknown = dataclasses.replace(flow, px_mm=None, frame_rate_hz=None)
    with pytest.warns(UlmWarning, match=said):
        ulm(unknown, {**SCALE, f"acquisition.{key}": value, "locate.n_bubbles": 12}, "parabola")


def tissue_over_a_bubble(n_frames: int = 120) -> np.ndarray:
    """IQ: still tissue of 30 dB over one bubble that moves by 0.2 px a frame."""
    rng = np.random.default_rng(0)
    z, x = np.mgrid[:40, :40]
    t = np.arange(n_frames)[:, None, None]
    bubble = np.exp(-((z - 8 - 0.2 * t) ** 2 + (x - 20) ** 2) / 2) * np.exp(0.5j * t)
    tissue, *noise = rng.standard_normal((2 * n_frames + 2, 40, 40)).reshape(-1, 2, 40, 40)
    iq = 30 * (tissue[0] + 1j * tissue[1]) + bubble
    return (iq + 0.02 * np.array([a + 1j * b for a, b in noise])).astype(np.complex64)


@pytest.mark.parametrize("value", [0, 7 + 2j])
@pytest.mark.parametrize("gap", [[60], [60, 61, 62], [0, 1], [119], [10, 60, 100]])
@pytest.mark.parametrize("settings", [{"filter.band_hz": (50, 249)}, {"filter.svd_low": 2}])
def test_missing_frames_are_named_and_not_filtered_across(
    settings: dict, gap: list[int], value: complex
) -> None:
    iq = tissue_over_a_bubble()
    cfg = {**settings, **SCALE, "locate.n_bubbles": 5, "locate.min_score": 0.3}
    whole = ulm(iq, cfg, "parabola").bubbles
    broken = iq.copy()
    broken[gap] = value
    block = Block(broken, file="rec.npy", first_frame=1000)
    with pytest.warns(UlmWarning) as caught:
        found = ulm(block, cfg, "parabola").bubbles
    (warning,) = caught
    said = str(warning.message)
    assert said.startswith("rec.npy: ")
    assert str(1000 + gap[0]) in said
    assert ("zeros" if value == 0 else "one value") in said
    left = whole[~whole["frame"].isin(gap)]
    assert not found["frame"].isin(gap).any()
    assert abs(len(found) - len(left)) <= 2


def test_blocks_without_a_picture(flow: Block) -> None:
    dark = np.zeros_like(flow.frames)
    cfg = {**SCALE, "locate.n_bubbles": 12, "filter.svd_low": 3}
    with pytest.warns(UlmWarning, match="array: 80 frames hold only zeros: 80 to 159"):
        result = ulm([flow.frames, dark], cfg, "parabola")
    alone = ulm(flow.frames, cfg, "parabola")
    same_bubbles(result, alone)
    np.testing.assert_allclose(result.maps["power_doppler"], alone.maps["power_doppler"])
    nearly = dark.copy()
    nearly[3:5] = flow.frames[3:5]
    with pytest.warns(UlmWarning) as caught:
        assert ulm([flow.frames, nearly], cfg, "parabola").bubbles["frame"].max() < 80
    assert "2 of them hold a picture, the filter needs 3" in str(caught[-1].message)
    for frames in (dark, [dark, dark], np.zeros((1, 9, 9), np.uint8)):
        with (
            pytest.warns(UlmWarning, match="zeros"),
            pytest.raises(ValueError, match="frames hold only zeros"),
        ):
            ulm(frames, cfg, "parabola")


def same_bubbles(a: UlmResult, b: UlmResult) -> None:
    pd.testing.assert_frame_equal(a.bubbles, b.bubbles)


def test_many_ill_blocks_are_told_in_few_sentences(flow: Block) -> None:
    broken = flow.frames[:20].copy()
    broken[4] = 0
    with pytest.warns(UlmWarning) as caught:
        ulm([broken] * 9, CFG)
    said = [str(warning.message) for warning in caught]
    assert len(said) == 6
    assert said[1] == "array: frame 24 holds only zeros"
    assert "4 more blocks" in said[-1]


def test_repeated_frames_and_hot_pixels_are_named(flow: Block) -> None:
    frames = flow.frames.copy()
    frames[9] = frames[8]
    frames[3, 1, 2] = 30 * frames.max()
    with pytest.warns(UlmWarning) as caught:
        ulm(frames, CFG)
    said = " ".join(str(warning.message) for warning in caught)
    assert "frame 9 repeats the frame before" in said
    assert "hot pixel: z 1, x 2 in frame 3 holds 30 times" in said


@pytest.mark.parametrize("hot", [(0, 0, 0, 4.0), (7, 20, 30, 30.0), (11, 39, 47, 1e6)])
@pytest.mark.parametrize("method", ["ml3d", "mspcn"])
def test_a_hot_pixel_changes_nothing_far_from_it(
    flow: Block, method: str, hot: tuple[int, int, int, float]
) -> None:
    t, z, x, factor = hot
    frames = flow.frames[:12].copy()
    cfg = load_config("quick", {**SCALE, "compute.device": "cpu"})
    broken = frames.copy()
    broken[t, z, x] = factor * frames.max()
    where = f"z {z}, x {x} in frame {t} holds"
    clean, said = heard(lambda: ulm(frames, cfg, method).bubbles)
    assert "hot pixel" not in said
    for call in (
        lambda: ulm(broken, cfg, method).bubbles,
        lambda: ulm(broken * np.exp(0.7j).astype(np.complex64), cfg, method).bubbles,
        lambda: locate(broken, method, cfg=cfg),
    ):
        found, said = heard(call)
        assert where in said
        assert said.count("hot pixel") == 1
        assert "around it instead" in said
        near = [
            table[np.hypot(table["z"] - z, table["x"] - x) > 12].reset_index(drop=True)
            for table in (clean, found)
        ]
        assert abs(len(near[0]) - len(near[1])) <= 0.05 * len(near[0]) + 1
        assert len(found) > 0.8 * len(clean)


def heard(call: Callable[[], pd.DataFrame]) -> tuple[pd.DataFrame, str]:
    """What a call gives, and all its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UlmWarning)
        made = call()
    return made, " ".join(str(warning.message) for warning in caught)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_errors_name_the_frame_in_the_file(tmp_path: Path, bad: float) -> None:
    frames = np.random.default_rng(0).random((50, 12, 12), dtype=np.float32)
    frames[35, 1, 1] = bad
    np.save(tmp_path / "bad.npy", frames)
    file = open_frames(tmp_path / "bad.npy", px_mm=0.1, frame_rate_hz=500)
    settings = {"blocks.n_frames": 10}
    with pytest.raises(ValueError, match=r"frames of bad\.npy hold .*first in frame 35"):
        ulm(file, settings)
    with pytest.raises(ValueError, match=r"first in frame 35"):
        ulm([frames[:30], frames[30:]], {**SCALE, **settings})


@pytest.mark.parametrize("exponent", [-75, -66, 66])
def test_amplitudes_of_any_size_give_the_same(flow: Block, exponent: int) -> None:
    scale = np.float32(2.0**exponent)
    cfg = {**SCALE, "locate.n_bubbles": 12}
    one = ulm(flow.frames, cfg, "parabola")
    other = ulm(flow.frames * scale, cfg, "parabola")
    np.testing.assert_allclose(other.bubbles[["z", "x"]], one.bubbles[["z", "x"]], atol=1e-6)


def test_results_say_their_scale_and_who_stated_it(flow: Block, tmp_path: Path) -> None:
    result = ulm(flow, {"locate.n_bubbles": 12, "acquisition.px_mm": flow.px_mm}, "parabola")
    result.save(tmp_path)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["scale"]["px_mm_from"] == "stated by you"
    assert run["scale"]["frame_rate_from"] == "block of generated example flow"
    assert run["n_tracks"] == run["tracks"]["n_tracks"] == result.tracks["track"].nunique()
    with np.load(tmp_path / "maps.npz") as maps:
        assert set(result.maps) < set(maps)
        assert (maps["px_mm"], maps["upsample"]) == (flow.px_mm, 10)
        assert maps["map_px_mm"] == pytest.approx(flow.px_mm / 10)
    with h5py.File(tmp_path / "tables.h5") as file:
        assert file.attrs["frame_rate_hz"] == 1000
        assert "mm/s" in file.attrs["units"]


@pytest.mark.filterwarnings("ignore:array")
@pytest.mark.parametrize("frames", [np.ones((1, 9, 9)), np.eye(9)[None] * np.ones((3, 1, 1))])
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
            lambda: ulm([np.eye(9)[None], np.eye(9)[None, :, 1:]], CFG),
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


def test_frames_that_look_like_decibels_are_doubted() -> None:
    block = simulate_testcard(
        n_frames=20, n_bubbles=6, shape_px=(40, 48), rng=np.random.default_rng(0)
    )
    db = np.clip(20 * np.log10(block.frames / block.frames.max() + 1e-6), -60, 0) + 60
    with pytest.warns(UlmWarning, match="are these decibels, or a picture of them"):
        ulm(dataclasses.replace(block, frames=db), "smoke")
    negative = dataclasses.replace(block, frames=block.frames - 0.02)
    with pytest.raises(ValueError, match="cut at 0 where an offset was subtracted"):
        ulm(negative, "smoke")
