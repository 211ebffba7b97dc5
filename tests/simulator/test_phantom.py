"""The phantom: tubes, flow with known laws, frames that survive interruption, and PALA's files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.io import loadmat
from scipy.spatial import cKDTree

from ulmpaper.config import load_config
from ulmpaper.core.grid import map_index
from ulmpaper.core.localize import locate_peaks
from ulmpaper.core.records import Block, bubble_table
from ulmpaper.io.readers import read_insilico
from ulmpaper.metrics.bubbles import match_bubbles
from ulmpaper.simulator import array, phantom
from ulmpaper.simulator.array import PALA_ACQUISITION, Acquisition, acquire_spans
from ulmpaper.simulator.phantom import (
    _STEP_WL,
    _phantom_bubbles,
    _tube_flow,
    phantom_block,
    phantom_geometry,
    true_map,
    write_pala,
)

# The whole phantom in few pixels and one tilt, for speed.
COARSE = Acquisition(angles_deg=(0.0,), shape_px=(42, 72), step_wl=2.0)


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return _phantom_bubbles(n_frames=300, rng=np.random.default_rng(1))


def test_tubes_lie_inside_the_picture_and_keep_to_their_ranges() -> None:
    for tube in phantom_geometry():
        z, x = PALA_ACQUISITION.to_px(*tube.place(np.arange(len(tube.z))[:, None], [-1, 0, 1]))
        assert 3 < z.min() < z.max() < 80, tube.name
        assert 3 < x.min() < x.max() < 139, tube.name
        assert 0.06 <= tube.radius.min() <= tube.radius.max() <= 1.6
        assert 0.08 <= tube.speed.min() <= tube.speed.max() <= 0.3
        np.testing.assert_allclose(np.hypot(np.diff(tube.z), np.diff(tube.x)), _STEP_WL, rtol=0.02)


def test_the_canals_converge_as_stated() -> None:
    upper, lower = (tube for tube in phantom_geometry() if tube.name == "converging")
    gap = lower.z - upper.z
    assert gap[0] == pytest.approx(0.9)
    assert gap[-1] == pytest.approx(0.2, abs=0.01)
    assert (np.diff(gap) < 0).all()


def test_flow_is_conserved_in_the_tree() -> None:
    ways = [tube for tube in phantom_geometry() if tube.name == "tree"]
    root = [tube.radius[0] ** 2 * tube.speed[0] for tube in ways]
    leaves = sum(tube.radius[-1] ** 2 * tube.speed[-1] for tube in ways)
    assert len(ways) == 8
    assert leaves == pytest.approx(root[0])


def test_the_map_of_speeds_shows_every_tube() -> None:
    image = true_map()
    assert image.shape == (840, 1430)
    assert image.max() == pytest.approx(0.3, abs=0.01)
    assert 0.02 < (image > 0).mean() < 0.1
    for tube in phantom_geometry():
        z, x = (map_index(place) for place in PALA_ACQUISITION.to_px(tube.z, tube.x))
        np.testing.assert_array_less(0.9 * tube.speed, image[z, x])


def test_bubbles_stay_in_the_tubes_and_obey_the_speed_limit(table: pd.DataFrame) -> None:
    image = true_map()
    assert (image[map_index(table.z), map_index(table.x)] > 0).mean() > 0.9995
    steps = table.sort_values(["bubble", "frame"]).groupby("bubble")[["z", "x"]].diff().dropna()
    speed = np.hypot(steps.z, steps.x)
    assert speed.max() < 0.32
    assert speed.min() > 0.19 * 0.08 * 0.9


def test_every_frame_holds_the_same_number_of_bubbles(table: pd.DataFrame) -> None:
    assert (table.groupby("frame").bubble.nunique() == 45).all()
    assert len(table) == 300 * 45
    lives = table.groupby("bubble")
    assert (lives.score.nunique() == 1).all()
    assert (lives.tube.nunique() == 1).all()
    assert (lives.frame.max() - lives.frame.min() + 1 == lives.size()).all()
    assert table.score.between(0.6, 1).all()
    assert table.frame.is_monotonic_increasing


def test_bubbles_stay_evenly_spread(rng: np.random.Generator) -> None:
    """Along the tube and across it, after many have been washed out."""
    straight = next(tube for tube in phantom_geometry() if tube.name == "straight")
    frame, z, x, *_ = _tube_flow([straight], n_frames=400, n_bubbles=700, rng=rng)
    index = np.interp(x[frame == 399], straight.x, np.arange(len(straight.x)))
    offset = (
        z[frame == 399] - np.interp(index, np.arange(len(straight.z)), straight.z)
    ) / straight.radius[0]
    for share in (index / index.max(), (offset + 0.9) / 1.8):
        distance = np.abs(np.sort(share) - np.linspace(0, 1, len(share))).max()
        assert distance < 1.63 / np.sqrt(len(share)), "Kolmogorov-Smirnov, 1 %"


def test_all_tubes_hold_as_many_bubbles_per_length_where_they_end(rng: np.random.Generator) -> None:
    tubes = phantom_geometry()
    frame, z, x, *_, tube = _tube_flow(tubes, n_frames=200, n_bubbles=5000, rng=rng)
    for now in (0, 199):
        there = frame == now
        ends = [
            np.hypot(z[there] - t.z[-1], x[there] - t.x[-1])[tube[there] == k]
            for k, t in enumerate(tubes)
        ]
        counts = np.array([(distance < 6).sum() for distance in ends])
        assert counts.mean() > 20
        assert ((counts - counts.mean()) ** 2 / counts.mean()).sum() < 38.9, (
            "chi-square, 21 degrees, 1 %"
        )


def test_quick_sequences_visit_every_tube() -> None:
    """Points on the axis with a bubble in the tube or within half a pixel."""
    cfg = load_config("quick")
    sizes = {"n_frames": cfg.phantom.n_frames, "n_bubbles": cfg.phantom.n_bubbles}
    streams = [
        np.random.default_rng([cfg.seed, number + 1]) for number in range(cfg.phantom.n_sequences)
    ]
    seen = cKDTree(
        np.concatenate([_phantom_bubbles(**sizes, rng=rng)[["z", "x"]] for rng in streams])
    )
    points = [
        np.stack(PALA_ACQUISITION.to_px(tube.z, tube.x), axis=1) for tube in phantom_geometry()
    ]
    visited = [
        seen.query(axis)[0] <= tube.radius + 0.5
        for tube, axis in zip(phantom_geometry(), points, strict=True)
    ]
    assert min(map(np.mean, visited)) > 0.9
    assert np.mean(np.concatenate(visited)) > 0.99


def test_the_first_frames_do_not_depend_on_how_many_follow(table: pd.DataFrame) -> None:
    short = _phantom_bubbles(n_frames=40, rng=np.random.default_rng(1))
    pd.testing.assert_frame_equal(short, table[table.frame < 40])
    other = _phantom_bubbles(n_frames=40, rng=np.random.default_rng(2))
    assert not np.allclose(short.z, other.z)


def test_pixels_follow_the_grid() -> None:
    fine = dataclasses.replace(PALA_ACQUISITION, step_wl=0.5, shape_px=(168, 286))
    one = _phantom_bubbles(n_frames=2, rng=np.random.default_rng(1))
    two = _phantom_bubbles(n_frames=2, rng=np.random.default_rng(1), acquisition=fine)
    np.testing.assert_allclose(two[["z", "x"]], 2 * one[["z", "x"]])


@pytest.fixture
def short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantom, "_CHUNK_FRAMES", 2)


def block(n_frames: int = 5, **settings: object) -> Block:
    return phantom_block(3, n_frames=n_frames, n_bubbles=10, acquisition=COARSE, **settings)


def stems(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("phantom-*/*"))


def test_a_block_is_the_same_however_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = block()
    assert plain.frames.shape == (5, 42, 72)
    assert plain.frames.dtype == np.complex64
    assert plain.px_mm == pytest.approx(2 * 0.09856)
    cached = block(cache_dir=tmp_path / "one")
    monkeypatch.setattr(phantom, "_CHUNK_FRAMES", 2)
    in_pieces = block(cache_dir=tmp_path / "two")
    for other in (cached, in_pieces):
        np.testing.assert_array_equal(other.frames, plain.frames)
        pd.testing.assert_frame_equal(other.bubbles, plain.bubbles)
    assert not np.array_equal(block(seed=1).frames, plain.frames)


def test_the_second_call_computes_nothing(
    tmp_path: Path, short_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = block(cache_dir=tmp_path)
    monkeypatch.setattr(array, "_channels", None)
    np.testing.assert_array_equal(block(cache_dir=tmp_path).frames, first.frames)


def test_an_interrupted_run_goes_on_where_it_stopped(
    tmp_path: Path, short_chunks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = block(7)
    real, asked = acquire_spans, []

    def interrupted(*args: object, **kwargs: object) -> Iterator:
        for number, part in enumerate(real(*args, **kwargs)):
            if number == 2:
                raise KeyboardInterrupt
            yield part

    def watched(table: pd.DataFrame, spans: list, *args: object, **kwargs: object) -> Iterator:
        asked.append(list(spans))
        return real(table, spans, *args, **kwargs)

    monkeypatch.setattr(phantom, "acquire_spans", interrupted)
    with pytest.raises(KeyboardInterrupt):
        block(7, cache_dir=tmp_path)
    assert stems(tmp_path) == ["frames-000000-000002.npy", "frames-000002-000004.npy"]
    (next(tmp_path.glob("phantom-*")) / "frames-000000-000002.npy").unlink()

    monkeypatch.setattr(phantom, "acquire_spans", watched)
    np.testing.assert_array_equal(block(7, cache_dir=tmp_path).frames, expected.frames)
    assert asked == [[(0, 2), (4, 6), (6, 7)]]
    # A longer sequence adds to what is there.
    assert len(block(8, cache_dir=tmp_path).frames) == 8
    assert asked[1] == [(6, 8)]
    assert not [name for name in stems(tmp_path) if not name.endswith(".npy")]


def test_other_parameters_have_other_folders(tmp_path: Path) -> None:
    block(1, cache_dir=tmp_path)
    block(1, cache_dir=tmp_path, seed=1)
    phantom_block(4, n_frames=1, n_bubbles=10, acquisition=COARSE, cache_dir=tmp_path)
    phantom_block(3, n_frames=1, n_bubbles=11, acquisition=COARSE, cache_dir=tmp_path)
    phantom_block(
        3,
        n_frames=1,
        n_bubbles=10,
        acquisition=dataclasses.replace(COARSE, f_number=1.5),
        cache_dir=tmp_path,
    )
    assert len(list(tmp_path.glob("phantom-*"))) == 5


@pytest.fixture(scope="module")
def pala_block() -> Block:
    """Four frames on PALA's grid, the third with fewer bubbles."""
    made = phantom_block(2, n_frames=4, n_bubbles=6)
    assert made.bubbles is not None
    fewer = made.bubbles.drop(made.bubbles.index[(made.bubbles.frame == 2)][:2]).reset_index(
        drop=True
    )
    return dataclasses.replace(made, bubbles=fewer)


def test_files_are_read_back_as_they_were(tmp_path: Path, pala_block: Block) -> None:
    write_pala(pala_block, tmp_path, 2)
    read = read_insilico(tmp_path, 2)
    np.testing.assert_array_equal(read.frames, pala_block.frames)
    assert read.px_mm == pytest.approx(pala_block.px_mm)
    assert read.frame_rate_hz == pala_block.frame_rate_hz
    columns = ["frame", "z", "x", "score"]
    expected, found = (
        b.bubbles[columns].sort_values(columns, ignore_index=True) for b in (pala_block, read)
    )
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_files_hold_what_palas_scripts_read(tmp_path: Path, pala_block: Block) -> None:
    path = write_pala(pala_block, tmp_path, 2)
    assert path == tmp_path / "IQ" / "PALA_InSilicoFlow_IQ002.mat"
    write_pala(pala_block, tmp_path, 5)
    file = loadmat(path, struct_as_record=False, squeeze_me=True)
    assert {"IQ", "Media", "ListPos", "P", "Resource", "Trans", "TX"} <= set(file)
    assert file["IQ"].shape == (84, 143, 4)
    assert file["IQ"].dtype == np.complex64
    assert file["ListPos"].shape == (6, 4, 4)
    assert np.isnan(file["ListPos"][:, 0]).sum(axis=0).tolist() == [0, 0, 2, 0]
    x, y, z, reflectivity = file["ListPos"][:, :, 0].T
    first = pala_block.bubbles[pala_block.bubbles.frame == 0]
    np.testing.assert_allclose(x, first.x - 72)
    np.testing.assert_allclose(z, first.z + 16)
    np.testing.assert_allclose(reflectivity, first.score)
    assert not y.any()
    setup = loadmat(
        tmp_path / "PALA_InSilicoFlow_sequence.mat", struct_as_record=False, squeeze_me=True
    )
    assert {
        "P",
        "PData",
        "Trans",
        "Media",
        "UF",
        "Resource",
        "Receive",
        "filetitle",
        "TW",
        "TX",
    } <= set(setup)
    assert setup["PData"].Origin.tolist() == [-72, 0, 16]
    assert setup["PData"].PDelta.tolist() == [1, 0, 1]
    assert setup["PData"].Size.tolist() == [84, 143, 1]
    assert (setup["P"].BlocSize * setup["P"].numBloc, setup["P"].numTx, setup["P"].Nrepeat) == (
        4,
        3,
        2,
    )
    assert setup["Trans"].frequency == 15.625
    assert [round(float(np.rad2deg(tx.Steer[0]))) for tx in setup["TX"]] == [-5, 0, 5]


@pytest.mark.parametrize("sequence", [0, -1, 1.5, True, "1"])
def test_only_whole_positive_sequences(sequence: object) -> None:
    with pytest.raises(ValueError, match="sequence must be a whole number, 1 or more"):
        phantom_block(sequence, n_frames=1)  # type: ignore[arg-type]


def test_bad_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="n_frames must be a number above 0, not 0"):
        phantom_block(1, n_frames=0)
    with pytest.raises(ValueError, match="n_bubbles must be a number above 0"):
        _phantom_bubbles(n_frames=1, n_bubbles=0, rng=np.random.default_rng(0))
    with pytest.raises(ValueError, match="bubbles lie outside the picture of 20 x 20 px"):
        phantom_block(1, n_frames=1, acquisition=Acquisition(shape_px=(20, 20)))
    with pytest.raises(ValueError, match="upsample must be a number above 0"):
        true_map(upsample=0)
    frames = np.zeros((1, 84, 143), dtype=np.complex64)
    with pytest.raises(ValueError, match="the block has none"):
        write_pala(Block(frames), tmp_path, 1)
    truth = bubble_table([0], [4], [5], [1])
    with pytest.raises(
        ValueError, match=r"frames of \(84, 142\) px do not lie on the grid of \(84, 143\) px"
    ):
        write_pala(Block(frames[:, :, 1:], truth), tmp_path, 1)


@pytest.mark.slow
def test_isolated_bubbles_are_localized(tmp_path: Path) -> None:
    """On a grid of one wavelength the parabola scatters, but on average it is right."""
    made = phantom_block(1, n_frames=100, n_bubbles=12, n_jobs=2, cache_dir=tmp_path)
    assert made.bubbles is not None
    np.testing.assert_array_equal(
        phantom_block(1, n_frames=2, n_bubbles=12).frames, made.frames[:2]
    )
    found = locate_peaks(np.abs(made.frames), method="parabola", n_bubbles=12, min_score=0.15)
    pairs = match_bubbles(found, made.bubbles, max_distance_px=1.0)
    assert len(pairs) > 0.8 * len(made.bubbles)
    assert (pairs[["dz", "dx"]].median().abs() < 0.1).all()
    assert (pairs[["dz", "dx"]].abs().median() < 0.2).all()
