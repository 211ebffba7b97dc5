"""What is put into training frames: bubbles stay true to what the frames show."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmpaper.config import load_config
from ulmpaper.core.records import Block, bubble_table
from ulmpaper.metrics.bubbles import match_bubbles
from ulmpaper.networks.augment import _add_noise, _drop_frame, _sample_anew, augment
from ulmpaper.networks.windows import SimulatedSource
from ulmpaper.pipeline.detect import locate
from ulmpaper.simulator.flow import MEAN_AMPLITUDE

VARIED = {
    "train.psf": "varied",
    "train.stretch": (0.75, 1.35),
    "train.speed": (1.0, 30.0),
    "train.denser": (1.0, 2.0),
    "train.crossing": 0.5,
    "train.noise_db": (15.0, 45.0),
    "train.flawed": 0.5,
    "train.resampled": (0.6, 1.6),
}


def spots(n_frames: int = 4) -> Block:
    """Three wide spots that move to the right."""
    frame, k = np.indices((n_frames, 3)).reshape(2, -1)
    z, x = 12.0 + 14 * k + 0.3 * k, 9.0 + 11 * k + 0.5 * frame
    grid_z, grid_x = np.mgrid[:56, :48]
    frames = np.zeros((n_frames, 56, 48), dtype=np.float32)
    for t, at_z, at_x in zip(frame, z, x, strict=True):
        frames[t] += np.exp(-((grid_z - at_z) ** 2 + (grid_x - at_x) ** 2) / 2 / 2.2**2)
    return Block(frames, bubble_table(frame, z, x, np.ones(len(z))), 0.1, 1000.0)


def errors(block: Block) -> np.ndarray:
    """Distances (n, 2) of what a parabola finds from the true bubbles, all of which are found."""
    found = locate(block.frames, "parabola", 3, max_peaks_in_roi=9)
    pairs = match_bubbles(found, block.truth, max_distance_px=1.0)
    assert len(pairs) == len(block.truth)
    places = ["z", "x"]
    return (
        found.loc[pairs["pred"], places].to_numpy()
        - block.truth.loc[pairs["truth"], places].to_numpy()
    )


@given(st.floats(0.55, 1.8))
@settings(max_examples=15, deadline=None)
def test_bubbles_go_where_sampling_anew_puts_their_spots(factor: float) -> None:
    block = _sample_anew(spots(), factor)
    assert block.frames.shape[1:] == (round(56 * factor), round(48 * factor))
    assert np.abs(errors(block)).max() < 0.05


@given(st.integers(1, 3))
def test_a_frame_that_is_left_out_makes_one_long_step(number: int) -> None:
    block = _drop_frame(spots(), number)
    assert len(block.frames) == 3
    assert np.abs(errors(block)).max() < 0.02
    steps = block.truth.sort_values(["z", "frame"])["x"].to_numpy().reshape(3, 3)
    expected = [1.0 if t == number - 1 else 0.5 for t in range(2)]
    np.testing.assert_allclose(np.diff(steps, axis=1), np.tile(expected, (3, 1)))


def test_noise_lies_as_far_below_bubbles_as_it_says(rng: np.random.Generator) -> None:
    noise = _add_noise(np.zeros((3, 100, 100), dtype=np.float32), 20.0, rng)
    assert noise.dtype == np.float32
    assert np.sqrt(np.mean(noise**2)) == pytest.approx(MEAN_AMPLITUDE / 10, rel=0.01)


def test_settings_that_say_nothing_leave_all_as_it_was(rng: np.random.Generator) -> None:
    block = spots()
    same = augment(block, 4, 1.0, load_config("paper").train, rng)
    np.testing.assert_array_equal(same.frames, block.frames)
    assert same.truth.equals(block.truth)


def test_saturated_frames_are_cut_off(rng: np.random.Generator) -> None:
    train = dataclasses.replace(load_config("paper").train, flawed=1.0)
    block = augment(spots(5), 4, 1.0, train, rng)
    assert len(block.frames) == 4
    assert (block.frames == block.frames.max()).sum() > 5
    assert block.truth["frame"].max() == 3


@pytest.mark.parametrize("seed", range(6))
def test_varied_sequences_are_true_to_their_bubbles(seed: int) -> None:
    source = SimulatedSource(load_config("smoke", VARIED))
    block = source(np.random.default_rng(seed), 5)
    again = source(np.random.default_rng(seed), 5)
    np.testing.assert_array_equal(block.frames, again.frames)
    assert len(block.frames) == 5
    assert set(block.truth["frame"]) == set(range(5))
    n_z, n_x = block.frames.shape[1:]
    inside = block.truth.query(f"0 <= z <= {n_z - 1} and 0 <= x <= {n_x - 1}")
    at = inside[["z", "x"]].round().astype(int)
    there = block.frames[inside["frame"], at["z"], at["x"]]
    assert np.median(there) > 1.3 * np.median(block.frames)
