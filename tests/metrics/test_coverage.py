"""Shares of vessels that maps show: slowly by hand, and what must always hold."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmpaper.config import load_config
from ulmpaper.core.render import density
from ulmpaper.metrics.coverage import is_shown, mask_centreline, score_lengths, score_lines
from ulmpaper.simulator.phantom import phantom_centreline, true_map


def slow_share(lines: np.ndarray, others: np.ndarray, half: int) -> float:
    """Share of the pixels of `lines` with one of `others` within `half` along each axis."""
    near = [
        others[max(0, z - half) : z + half + 1, max(0, x - half) : x + half + 1].any()
        for z, x in np.argwhere(lines)
    ]
    return float(np.mean(near)) if near else np.nan


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([4, 5, 10]), st.floats(0, 0.05))
def test_line_scores_are_those_counted_by_hand(seed: int, upsample: int, density: float) -> None:
    rng = np.random.default_rng(seed)
    estimate, truth = rng.random((2, 40, 50)) < density
    scores = score_lines(estimate, truth, upsample=upsample)
    np.testing.assert_allclose(scores["covered"], slow_share(truth, estimate, upsample // 2))
    np.testing.assert_allclose(scores["false"], 1 - slow_share(estimate, truth, upsample // 2))
    back = score_lines(truth, estimate, upsample=upsample)
    np.testing.assert_allclose(back["covered"], 1 - scores["false"])


def test_maps_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        score_lines(np.ones((3, 4)), np.ones((4, 3)))


def test_shown_points_are_those_found_by_hand() -> None:
    rng = np.random.default_rng(0)
    density = (rng.random((60, 80)) < 0.01).astype(float)
    course = mask_centreline(np.pad(np.ones((4, 6), bool), 1))
    drawn = (np.argwhere(density) + 0.5) / 10 - 0.5
    expected = [
        min(np.hypot(z - point.z, x - point.x) for z, x in drawn) <= point.reach
        for point in course.itertuples()
    ]
    assert is_shown(course, density).tolist() == expected
    assert not is_shown(course, np.zeros((60, 80))).any()
    assert np.isnan(score_lengths(course, density, np.zeros((60, 80)))["length"])


def test_tracks_are_shown_where_they_lie_on_both_grids() -> None:
    frame = np.arange(20)
    path = pd.DataFrame(
        {"track": 0, "frame": frame, "z": 5.0 + frame / 4, "x": 20.0, "vz": 1.0, "vx": 0.0}
    )
    course = pd.DataFrame({"z": [7.0], "x": [20.0], "reach": 0.15})
    for pala in (False, True):
        assert is_shown(course, density(path, (16, 30), pala=pala), pala=pala).all()


def test_whole_phantom_shows_its_tubes() -> None:
    course = phantom_centreline()
    inside = true_map()
    scores = score_lengths(course, inside, inside)
    assert scores == {"length": 1.0, "visited": 1.0}
    left = np.where(np.arange(inside.shape[1]) < inside.shape[1] // 2, inside, 0)
    assert score_lengths(course, left, inside)["length"] == pytest.approx(
        np.mean(course.x < 71), abs=0.03
    )


def test_courses_lie_in_their_vessels() -> None:
    from ulmpaper.simulator import simulate as scenes

    mask = scenes.cam_scene(load_config("smoke"), 2000).mask
    course = mask_centreline(mask)
    assert mask[course.z, course.x].all()
    assert course.reach.min() >= 1
    assert 0.01 < len(course) / mask.sum() < 1
