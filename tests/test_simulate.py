"""Simulated sequences: motion, density, identity, seeds, and what they refuse."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmpaper.bank import PsfBank, gaussian_bank
from ulmpaper.localize import locate
from ulmpaper.simulate import MEAN_AMPLITUDE, advect, fade, simulate_block, simulate_stream

SHAPE = (48, 60)


def channel(speed_px: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """A straight horizontal vessel."""
    mask = np.zeros(SHAPE, dtype=bool)
    mask[20:29] = True
    return mask, np.stack([np.zeros(SHAPE), speed_px * mask])


def disc() -> tuple[np.ndarray, np.ndarray]:
    """Solid rotation: free of divergence, and no bubble leaves."""
    z, x = np.mgrid[: SHAPE[0], : SHAPE[1]] - np.array([24, 30])[:, None, None]
    maps = 0.02 * np.stack([x, -z])
    return z**2 + x**2 <= 20**2, maps.astype(float)


@pytest.fixture(scope="module")
def bank() -> PsfBank:
    return gaussian_bank(8, rng=np.random.default_rng(0))


@pytest.fixture(scope="module")
def whirl() -> pd.DataFrame:
    return advect(*disc(), n_frames=400, n_bubbles=60, n_psf=8, rng=np.random.default_rng(3))


def test_every_frame_has_its_bubbles(whirl: pd.DataFrame) -> None:
    assert (whirl.groupby("frame").size() == 60).all()
    assert whirl["frame"].is_monotonic_increasing
    assert whirl.groupby("frame")["bubble"].nunique().eq(60).all()


def test_a_bubble_keeps_what_it_was_born_with(whirl: pd.DataFrame) -> None:
    lives = whirl.groupby("bubble")
    assert (lives[["score", "psf", "phase"]].nunique() == 1).all(axis=None)
    # One stretch of frames each.
    assert (lives["frame"].agg(np.ptp) + 1 == lives.size()).all()
    assert set(whirl["psf"]) == set(range(8))
    assert whirl["score"].between(0.5, 1).all()
    assert whirl["phase"].between(0, 2 * np.pi).all()


def test_bubbles_stay_in_the_mask_and_below_the_top_speed(whirl: pd.DataFrame) -> None:
    mask, maps = disc()
    pixel = np.rint(whirl[["z", "x"]].to_numpy()).astype(int)
    assert mask[tuple(pixel.T)].all()
    steps = whirl.groupby("bubble")[["z", "x"]].diff().dropna()
    assert np.hypot(steps["z"], steps["x"]).max() <= np.hypot(*maps).max() + 1e-9


def test_steps_follow_the_maps(whirl: pd.DataFrame) -> None:
    steps = whirl.groupby("bubble")[["z", "x"]].diff().shift(-1)
    same = steps.notna().all(axis=1) & whirl["bubble"].eq(whirl["bubble"].shift(-1))
    expected = np.stack([0.02 * (whirl["x"] - 30), -0.02 * (whirl["z"] - 24)], axis=1)
    np.testing.assert_allclose(steps[same], expected[same], atol=1e-9)


def test_lives_are_as_long_as_asked_for() -> None:
    mask, maps = disc()
    table = advect(mask, maps, n_frames=600, n_bubbles=200, mean_life=50, rng=np.random.default_rng(3))
    born = table["bubble"].nunique() - 200
    # A few more are replaced at the rim, where a step of rotation leads out.
    assert born / (599 * 200) == pytest.approx(1 / 50, rel=0.15)


def test_density_stays_uniform_in_a_flow_free_of_divergence() -> None:
    mask, maps = disc()
    table = advect(mask, maps / 2, n_frames=1000, n_bubbles=800, mean_life=40, rng=np.random.default_rng(5))
    late = table[table["frame"] >= 100]
    counts = np.histogram2d(late["z"], late["x"], bins=[np.arange(n + 1) - 0.5 for n in SHAPE])[0]
    z, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    radius = np.hypot(z - 24, x - 30)
    rings = [mask & (radius >= low) & (radius < low + 4) for low in range(1, 20, 4)]
    quarters = [mask & (z < 24) & (x < 30), mask & (z > 24) & (x > 30)]
    for part in [*rings, *quarters]:
        assert counts[part].sum() / counts.sum() == pytest.approx(part.sum() / mask.sum(), rel=0.1)


def test_bubbles_that_come_to_a_pixel_without_flow_are_replaced_and_none_starts_there() -> None:
    mask = np.ones(SHAPE, dtype=bool)
    maps = np.zeros((2, *SHAPE))
    maps[1, :, :30] = 0.5
    table = advect(mask, maps, n_frames=200, n_bubbles=50, rng=np.random.default_rng(0))
    assert table["x"].max() <= 29.5
    steps = table.sort_values(["bubble", "frame"]).groupby("bubble")["x"].diff().dropna()
    assert steps.min() >= 0.25


@pytest.mark.parametrize("amplitude", ["uniform", "lognormal"])
def test_amplitudes_have_the_same_mean(amplitude: str) -> None:
    scores = advect(*disc(), n_frames=1, n_bubbles=1200, amplitude=amplitude, rng=np.random.default_rng(0))["score"]
    assert scores.mean() == pytest.approx(MEAN_AMPLITUDE, abs=0.03)
    assert scores.max() <= 1 or amplitude == "lognormal"


def test_fading_bubbles_come_and_go(whirl: pd.DataFrame) -> None:
    faded = fade(whirl, speed=0.02, rng=np.random.default_rng(0))
    share = faded["score"] / whirl["score"]
    assert share.between(0, 1).all()
    assert share.groupby(whirl["bubble"]).max().mean() > 0.6
    assert (share.groupby(whirl["bubble"]).agg(np.ptp) > 0.1).mean() > 0.3
    pd.testing.assert_frame_equal(faded.drop(columns="score"), whirl.drop(columns="score"))
    with pytest.raises(ValueError, match="speed must be a number above 0"):
        fade(whirl, speed=0, rng=np.random.default_rng(0))


def test_block_shows_its_truth(bank: PsfBank) -> None:
    rng = np.random.default_rng(2)
    block = simulate_block(*disc(), bank, n_frames=20, n_bubbles=6, rng=rng, px_mm=0.1, frame_rate_hz=500.0)
    assert block.frames.shape == (20, *SHAPE)
    assert block.frames.dtype == np.float32
    assert (block.px_mm, block.frame_rate_hz) == (0.1, 500.0)
    assert "Gaussian PSFs" in block.source
    found = locate(block.frames, method="parabola", n_bubbles=6, min_score=0.3)
    pairs = found.merge(block.bubbles, on="frame", suffixes=("", "_true"))
    distance = np.hypot(pairs["z"] - pairs["z_true"], pairs["x"] - pairs["x_true"])
    assert distance.groupby([pairs["frame"], pairs["z"]]).min().median() < 0.2


def test_background_has_the_ratio_asked_for(bank: PsfBank) -> None:
    for ratio_db in (20.0, 30.0):
        block = simulate_block(*disc(), bank, n_frames=2, n_bubbles=0, ratio_db=ratio_db, rng=np.random.default_rng(0))
        rms = np.sqrt(np.mean(block.frames**2, dtype=float))
        assert 20 * np.log10(MEAN_AMPLITUDE / rms) == pytest.approx(ratio_db, abs=1e-3)
        np.testing.assert_array_equal(block.frames[0], block.frames[1])
        assert len(block.bubbles) == 0
    dark = simulate_block(*disc(), bank, n_frames=2, n_bubbles=0, ratio_db=None, rng=np.random.default_rng(0))
    assert dark.frames.max() == 0


def test_ranges_are_drawn_for_each_sequence(bank: PsfBank) -> None:
    rng = np.random.default_rng(0)
    speckle = np.ones((60, 60), dtype=np.complex64)
    blocks = [
        simulate_block(*disc(), bank, n_frames=1, n_bubbles=(3, 6), ratio_db=(15.0, 35.0), speckle=speckle, rng=rng)
        for _ in range(40)
    ]
    assert {len(block.bubbles) for block in blocks} == {3, 4, 5, 6}
    ratio = 20 * np.log10([MEAN_AMPLITUDE / np.median(block.frames) for block in blocks])
    assert 15 <= ratio.min() < 18 < 32 < ratio.max() <= 35


def test_memory_lets_the_background_change(bank: PsfBank) -> None:
    block = simulate_block(
        *disc(), bank, n_frames=40, n_bubbles=0, memory=0.9, iq=True, ratio_db=0.0, rng=np.random.default_rng(0)
    )
    assert block.frames.dtype == np.complex64
    frames = block.frames.reshape(40, -1)
    power = np.mean(np.abs(frames) ** 2)
    assert np.mean(frames[1:] * frames[:-1].conj()).real / power == pytest.approx(0.9, abs=0.05)
    assert power == pytest.approx(MEAN_AMPLITUDE**2, rel=0.3)


SETTINGS = {"n_frames": 5, "n_bubbles": (2, 9), "ratio_db": (20.0, 30.0), "cross_speed": 0.01, "memory": 0.9}


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 7))
def test_a_seed_fixes_every_byte(seed: int, batch_frames: int) -> None:
    bank = gaussian_bank(3, rng=np.random.default_rng(0))
    first, again = (
        simulate_block(*disc(), bank, rng=np.random.default_rng(seed), batch_frames=batch, **SETTINGS)
        for batch in (4, batch_frames)
    )
    assert first.frames.tobytes() == again.frames.tobytes()
    pd.testing.assert_frame_equal(first.bubbles, again.bubbles)
    other = simulate_block(*disc(), bank, rng=np.random.default_rng(seed + 1), **SETTINGS)
    assert other.frames.tobytes() != first.frames.tobytes()


def test_stream_never_ends_and_never_repeats(bank: PsfBank) -> None:
    def stream() -> list:
        scenes = [disc(), channel()]
        return list(
            itertools.islice(
                simulate_stream(scenes, bank, n_frames=3, n_bubbles=(5, 8), rng=np.random.default_rng(1)), 12
            )
        )

    blocks, again = stream(), stream()
    assert all(block.frames.shape == (3, *SHAPE) for block in blocks)
    assert len({block.frames.tobytes() for block in blocks}) == 12
    assert [b.frames.tobytes() for b in blocks] == [b.frames.tobytes() for b in again]
    # Both scenes take part: only the channel confines bubbles to its rows.
    assert {bool(block.bubbles["z"].between(19.5, 28.5).all()) for block in blocks} == {True, False}


def test_large_speckle_is_used_and_small_is_refused(bank: PsfBank) -> None:
    one = np.full((100, 100), 2 + 0j, dtype=np.complex64)
    block = simulate_block(
        *disc(), bank, n_frames=1, n_bubbles=0, speckle=one, ratio_db=0.0, rng=np.random.default_rng(0)
    )
    np.testing.assert_allclose(block.frames, 2 * MEAN_AMPLITUDE, rtol=1e-6)
    with pytest.raises(ValueError, match=r"holds no frame of \(48, 60\) px: make a larger one"):
        simulate_block(*disc(), bank, n_frames=1, n_bubbles=0, speckle=one[:40], rng=np.random.default_rng(0))


def test_fast_flow_warns(bank: PsfBank) -> None:
    with pytest.warns(UserWarning, match=r"bubbles move up to 1.5 px a frame: are the maps in px/frame"):
        advect(*channel(1.5), n_frames=2, n_bubbles=3, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": np.zeros(SHAPE, dtype=bool)}, "with a vessel in it, not bool of shape .* with 0 pixels set"),
        ({"mask": np.ones(SHAPE)}, "picture .* of True and False .* not float64"),
        ({"mask": np.ones((2, 3, 4), dtype=bool)}, r"of shape \(2, 3, 4\)"),
        ({"maps": np.zeros((2, 5, 5))}, r"have the shape \(2, 48, 60\), not \(2, 5, 5\)"),
        ({"maps": np.full((2, *SHAPE), np.nan)}, "NaN or infinite"),
        ({"maps": np.zeros((2, *SHAPE))}, "n_bubbles must be 0 to 0, the pixels of the mask that have flow, not 3"),
        ({"n_bubbles": 541}, "n_bubbles must be 0 to 540"),
        ({"n_bubbles": -1}, "n_bubbles must be 0 to 540"),
        ({"n_bubbles": (9, 3)}, r"n_bubbles must be 0 to 540, .* not \(9, 3\)"),
        ({"n_frames": 0}, "n_frames must be a number above 0"),
        ({"px_mm": 0}, "px_mm must be a number above 0"),
        ({"frame_rate_hz": -1.0}, "frame_rate_hz must be a number above 0"),
        ({"amplitude": "unifrom"}, "unknown amplitude 'unifrom': did you mean 'uniform'"),
        ({"memory": 1.5}, "memory is a correlation, 0 to 1, not 1.5"),
    ],
)
def test_bad_input_is_refused(changes: dict, message: str, bank: PsfBank) -> None:
    mask, maps = channel()
    arguments = {"mask": mask, "maps": maps, "n_frames": 2, "n_bubbles": 3, **changes}
    with pytest.raises(ValueError, match=message):
        simulate_block(arguments.pop("mask"), arguments.pop("maps"), bank, rng=np.random.default_rng(0), **arguments)


def test_stream_needs_a_scene(bank: PsfBank) -> None:
    with pytest.raises(ValueError, match="scenes is empty"):
        next(simulate_stream([], bank, n_frames=1, n_bubbles=1, rng=np.random.default_rng(0)))
