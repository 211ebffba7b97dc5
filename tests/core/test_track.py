"""Linking, smoothing, interpolation: tables by hand, properties, and PALA's own tracks."""

from __future__ import annotations

import itertools
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from ulmpaper.core.grid import map_index
from ulmpaper.core.records import Block, bubble_table
from ulmpaper.core.render import density
from ulmpaper.core.track import (
    add_velocity,
    drop_short,
    interpolate,
    link,
    per_track,
    smooth,
    track_summary,
)
from ulmpaper.metrics.bubbles import match_bubbles

SCALE = {"px_mm": 1.0, "frame_rate_hz": 1000.0}
CASES = (
    "cross",
    "cardinality",
    "gate",
    "late_start",
    "length",
    "gaps",
    "empty_frames",
    "random",
    "clutter",
)


def table(rows: list[tuple[float, float, float]]) -> pd.DataFrame:
    frame, z, x = np.array(rows, dtype=float).T
    return bubble_table(frame, z, x, np.ones(len(rows)))


def tracks_of(rows: list[tuple[float, float, float]], track: int = 0) -> pd.DataFrame:
    return table(rows).assign(track=track)


@st.composite
def bubble_tables(draw: st.DrawFn) -> pd.DataFrame:
    n = draw(st.integers(0, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    return bubble_table(
        rng.integers(0, 6, n), rng.uniform(0, 8, n), rng.uniform(0, 8, n), rng.uniform(size=n)
    )


def test_two_bubbles_that_cross_by_hand() -> None:
    rows = [(t, t * 1.0, 5.0) for t in range(4)] + [(t, 1.5, 2.4 + t * 1.0) for t in range(4)]
    linked = link(table(rows))
    assert linked.groupby("track").size().tolist() == [4, 4]
    assert linked[linked.track == 0].z.tolist() == [0, 1, 2, 3]


def test_as_many_links_as_possible_come_first() -> None:
    # The cheapest link, 1.0 -> 1.1, would leave the others without partner.
    linked = link(table([(0, 1.0, 0), (0, 2.8, 0), (1, 1.1, 0), (1, -0.8, 0)]))
    assert linked.groupby("track").size().tolist() == [2, 2]


@pytest.mark.parametrize(("max_gap", "n_tracks"), [(0, 3), (1, 2), (2, 1)])
def test_gaps_are_bridged_up_to_the_limit(max_gap: int, n_tracks: int) -> None:
    linked = link(table([(0, 1, 1), (2, 1, 1.5), (5, 1, 2)]), max_gap=max_gap)
    assert linked.track.nunique() == n_tracks


@settings(max_examples=60, deadline=None)
@given(bubble_tables(), st.floats(0.5, 4), st.integers(0, 2), st.integers(0, 2**32 - 1))
def test_links_keep_the_rules(
    bubbles: pd.DataFrame, max_distance: float, max_gap: int, seed: int
) -> None:
    linked = link(bubbles, max_distance_px=max_distance, max_gap=max_gap)
    assert len(linked) == len(bubbles)
    for _, track in linked.groupby("track"):
        step = track[["frame", "z", "x"]].diff().dropna().to_numpy()
        assert ((step[:, 0] >= 1) & (step[:, 0] <= 1 + max_gap)).all()
        assert (np.hypot(step[:, 1], step[:, 2]) <= max_distance).all()
    shuffled = bubbles.sample(frac=1, random_state=seed)
    again = link(shuffled, max_distance_px=max_distance, max_gap=max_gap)

    def as_sets(tracks: pd.DataFrame) -> set[frozenset[float]]:
        return {frozenset(points) for points in tracks.groupby("track")["score"].apply(list)}

    assert as_sets(again) == as_sets(linked)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 2**32 - 1))
def test_assignment_equals_brute_force(n: int, m: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    here, there = rng.uniform(0, 4, (n, 2)), rng.uniform(0, 4, (m, 2))
    squared = ((here[:, None] - there[None]) ** 2).sum(axis=2)
    best = (0, 0.0)
    for size in range(1, min(n, m) + 1):
        for rows in itertools.combinations(range(n), size):
            for columns in itertools.permutations(range(m), size):
                cost = squared[rows, columns]
                if (cost <= 4).all():
                    best = min(best, (-size, float(cost.sum())))
    linked = link(table([(0, *p) for p in here] + [(1, *p) for p in there]))
    steps = [
        g[["z", "x"]].diff().dropna().to_numpy() for _, g in linked.groupby("track") if len(g) == 2
    ]
    assert -len(steps) == best[0]
    assert sum((s**2).sum() for s in steps) == pytest.approx(best[1])


def test_only_longer_tracks_than_min_length_stay() -> None:
    both = pd.concat(
        [tracks_of([(t, 0, 0) for t in range(15)], 3), tracks_of([(t, 9, 9) for t in range(16)], 5)]
    )
    assert drop_short(both, 15).track.unique().tolist() == [5]
    assert drop_short(both, 14).track.unique().tolist() == [3, 5]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=45), st.integers(1, 30))
def test_smoothing_equals_the_slow_obvious_version(values: list[float], points: int) -> None:
    n = len(values)
    span = min(points, n)
    half = (span if span % 2 else span - 1) // 2
    expected = []
    for i in range(n):
        reach = min(half, i, n - 1 - i)
        expected.append(np.mean(values[i - reach : i + reach + 1]))
    got = smooth(tracks_of([(t, v, -v) for t, v in enumerate(values)]), points)
    np.testing.assert_allclose(got.z, expected, atol=1e-12)
    np.testing.assert_allclose(got.x, -np.array(expected), atol=1e-12)


def test_interpolation_is_linear_and_carries_speed() -> None:
    path = interpolate(tracks_of([(3, 0, 0), (4, 1, 0), (5, 1, 2)]), **SCALE, smooth_points=1)
    assert len(path) == 51
    np.testing.assert_allclose(path.frame, 3 + np.arange(51) / 25)
    np.testing.assert_allclose(path.z, np.minimum(np.arange(51) / 25, 1), atol=1e-12)
    np.testing.assert_allclose(path.vz, np.where(np.arange(51) <= 25, 1000, 0), atol=1e-8)
    np.testing.assert_allclose(path.vx, np.where(np.arange(51) <= 25, 0, 2000), atol=1e-8)


def test_a_bridged_gap_takes_its_time() -> None:
    gap = tracks_of([(0, 0, 0), (1, 1, 0), (3, 3, 0)])
    ours = interpolate(gap, **SCALE, smooth_points=1)
    assert ours.vz.to_numpy() == pytest.approx(1000)
    assert ours.frame.iloc[-1] == 3
    theirs = interpolate(gap, **SCALE, smooth_points=1, pala=True)
    assert theirs.vz.iloc[-1] == pytest.approx(2000)
    assert add_velocity(gap, **SCALE, smooth_points=1).vz.to_numpy() == pytest.approx(1000)


@st.composite
def even_motion(draw: st.DrawFn) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Bubbles in even motion, each with random frames missing; start and step of each."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_tracks = draw(st.integers(1, 4))
    start = rng.uniform(-50, 50, (n_tracks, 2))
    step = rng.uniform(-2, 2, (n_tracks, 2))
    tables = []
    for track in range(n_tracks):
        seen = rng.random(draw(st.integers(1, 80))) < draw(st.floats(0.05, 1))
        frame = draw(st.integers(-3, 1000)) + np.append(np.flatnonzero(seen), len(seen))
        place = start[track] + step[track] * frame[:, None]
        tables.append(bubble_table(frame, *place.T, np.ones(len(frame))).assign(track=track))
    return pd.concat(tables).sample(frac=1, random_state=0), start, step


@settings(max_examples=60)
@given(even_motion(), st.integers(1, 40), st.sampled_from([(2.0, 10), (1.5, 10), (3.0, 3), (5, 1)]))
def test_even_motion_keeps_its_line_and_speed_whatever_is_missing(
    scene: tuple[pd.DataFrame, np.ndarray, np.ndarray], points: int, how: tuple[float, int]
) -> None:
    tracks, start, step = scene
    drawing = {"smooth_points": points, "max_distance_px": how[0], "upsample": how[1]}
    path = interpolate(tracks, **SCALE, **drawing)
    moving = add_velocity(tracks, **SCALE, smooth_points=points)
    for table in (path, moving, smooth(tracks, points)):
        place = start[table.track] + step[table.track] * table.frame.to_numpy()[:, None]
        np.testing.assert_allclose(table[["z", "x"]], place, atol=1e-8)
    for table in (path, moving):
        lone = table.groupby("track")["frame"].transform("size").to_numpy() == 1
        speed = np.where(lone[:, None], 0, 1000 * step[table.track])
        np.testing.assert_allclose(table[["vz", "vx"]], speed, atol=1e-5)
    # The path begins and ends with the track.
    ends = tracks.groupby("track")["frame"].agg(["min", "max"])
    np.testing.assert_allclose(path.groupby("track")["frame"].agg(["min", "max"]), ends)


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 25))
def test_smoothing_over_a_gap_is_that_of_the_filled_track(seed: int, points: int) -> None:
    rng = np.random.default_rng(seed)
    frame = np.flatnonzero(rng.random(40) < 0.7)
    if not len(frame):
        return
    walk = bubble_table(
        frame, *rng.normal(size=(2, len(frame))).cumsum(axis=1), np.ones(len(frame))
    )
    every = np.arange(frame[0], frame[-1] + 1)
    filled = bubble_table(
        every, *(np.interp(every, frame, walk[axis]) for axis in "zx"), np.ones(len(every))
    )
    slow = smooth(filled.assign(track=0), points)
    fast = smooth(walk.assign(track=0), points)
    kept = slow[slow.frame.isin(frame)]
    np.testing.assert_allclose(fast[["z", "x"]], kept[["z", "x"]], atol=1e-12)


def test_palas_rule_smooths_rows() -> None:
    rng = np.random.default_rng(0)
    whole = table([(t, *rng.normal(size=2)) for t in range(30)]).assign(track=0)
    gap = whole.assign(frame=whole.frame + 2 * (whole.frame > 12))
    for points in (1, 5, 20):
        by_rows = smooth(gap, points, pala=True)
        pd.testing.assert_frame_equal(by_rows[["z", "x"]], smooth(whole, points)[["z", "x"]])
        theirs = interpolate(gap, **SCALE, smooth_points=points, pala=True)
        same = interpolate(whole, **SCALE, smooth_points=points)
        pd.testing.assert_frame_equal(theirs, same)
        speeds = add_velocity(gap, **SCALE, smooth_points=points, pala=True)[["vz", "vx"]]
        ours = add_velocity(whole, **SCALE, smooth_points=points)[["vz", "vx"]]
        pd.testing.assert_frame_equal(speeds, ours)


def kalman_smoother(
    frames: np.ndarray, seen: np.ndarray, sigma: np.ndarray, acceleration: float
) -> np.ndarray:
    """Slow and obvious: filter forwards, smooth backwards; state (place, step), start unknown."""
    step = np.array([[1.0, 1.0], [0.0, 1.0]])
    change = np.diag([0.0, acceleration**2])
    state, spread = np.array([seen[0], 0.0]), np.diag([1e6, 1e6])
    predicted, filtered = [], []
    for frame in range(frames[0], frames[-1] + 1):
        if frame > frames[0]:
            state, spread = step @ state, step @ spread @ step.T + change
        predicted.append((state, spread))
        for k in np.flatnonzero(frames == frame):
            gain = spread[:, 0] / (spread[0, 0] + sigma[k] ** 2)
            state = state + gain * (seen[k] - state[0])
            spread = spread - np.outer(gain, spread[0])
        filtered.append((state, spread))
    smoothed = [filtered[-1][0]]
    for (state, spread), (next_state, next_spread) in zip(
        filtered[-2::-1], predicted[:0:-1], strict=True
    ):
        gain = spread @ step.T @ np.linalg.inv(next_spread)
        smoothed.append(state + gain @ (smoothed[-1] - next_state))
    return np.array(smoothed)[::-1][frames - frames[0], 0]


@given(st.integers(0, 10**6), st.floats(0.01, 0.5))
@settings(max_examples=25, deadline=None)
def test_most_likely_path_is_that_of_a_kalman_smoother(seed: int, acceleration: float) -> None:
    rng = np.random.default_rng(seed)
    parts = []
    for track in range(3):
        frames = np.flatnonzero(rng.random(30) < 0.7)
        z, x = np.cumsum(rng.normal(0, 0.3, (2, len(frames))), axis=1) + 1000
        part = bubble_table(frames, z, x, np.ones(len(frames)))
        sigma_z, sigma_x = rng.uniform(0.05, 0.4, (2, len(frames)))
        parts.append(part.assign(track=track, sigma_z=sigma_z, sigma_x=sigma_x))
    tracks = pd.concat(parts, ignore_index=True)
    path = smooth(tracks, acceleration_px=acceleration)
    for axis in ("z", "x"):
        slow = [
            kalman_smoother(
                part["frame"].to_numpy(),
                part[axis].to_numpy(),
                part[f"sigma_{axis}"].to_numpy(),
                acceleration,
            )
            for part in parts
        ]
        np.testing.assert_allclose(path[axis], np.concatenate(slow), atol=2e-4)


def test_most_likely_path_keeps_straight_lines_and_weighs_what_is_uncertain() -> None:
    line = tracks_of([(t, 0.3 * t, 5 - 0.1 * t) for t in (0, 1, 2, 5, 6, 9)])
    pd.testing.assert_frame_equal(smooth(line, acceleration_px=0.01), line)
    alone = tracks_of([(4, 1.0, 2.0)])
    pd.testing.assert_frame_equal(smooth(alone, acceleration_px=0.01), alone)
    assert smooth(line[:0], acceleration_px=0.01).empty
    bent = line.assign(z=line["z"] + [0, 0, 1, 0, 0, 0])
    sure, unsure = (
        smooth(bent.assign(sigma_z=[0.1, 0.1, sigma, 0.1, 0.1, 0.1]), acceleration_px=0.05)["z"][2]
        for sigma in (0.01, 1.0)
    )
    assert sure == pytest.approx(1.6, abs=0.02)
    assert unsure == pytest.approx(0.6, abs=0.1)


def test_most_likely_path_is_none_of_palas_rules() -> None:
    with pytest.raises(ValueError, match="PALA takes averages"):
        smooth(tracks_of([(0, 1.0, 2.0)]), acceleration_px=0.1, pala=True)


def test_most_likely_path_is_nearer_to_the_truth_than_an_average(rng: np.random.Generator) -> None:
    t = np.arange(60)
    true = np.stack([8 * np.sin(t / 12), 8 * np.cos(t / 12)])
    sigma = np.where(t % 3, 0.05, 0.6)
    seen = true + sigma * rng.standard_normal(true.shape)
    tracks = bubble_table(t, *seen, np.ones(60)).assign(track=0, sigma_z=sigma, sigma_x=sigma)
    ways = {"raw": {"points": 1}, "mean": {}, "likely": {"acceleration_px": 0.06}}
    error = {
        name: np.sqrt(np.mean((smooth(tracks, **how)[["z", "x"]].to_numpy().T - true) ** 2))
        for name, how in ways.items()
    }
    assert error["likely"] < 0.6 * min(error["mean"], error["raw"])


@settings(max_examples=60)
@given(
    st.floats(0.3, 8), st.integers(1, 12), st.floats(0.01, 1), st.floats(0, 6.28), st.integers(1, 4)
)
def test_the_last_bubble_is_on_the_map(
    distance: float, upsample: int, share: float, angle: float, n_points: int
) -> None:
    step = share * distance * np.array([np.cos(angle), np.sin(angle)])
    place = 40 + step * np.arange(n_points)[:, None]
    tracks = table([(t, *at) for t, at in enumerate(place)]).assign(track=0)
    drawing = {"max_distance_px": distance, "upsample": upsample}
    path = interpolate(tracks, **SCALE, **drawing, smooth_points=1)
    drawn = density(path, (80, 80), upsample=upsample)
    for at in (place[0], place[-1]):
        near = [set(map_index(at[k] + np.array([-1e-9, 1e-9]), upsample=upsample)) for k in (0, 1)]
        assert max(drawn[z, x] for z in near[0] for x in near[1]) == 1
    theirs = interpolate(tracks, **SCALE, **drawing, smooth_points=1, pala=True)
    assert len(path) - len(theirs) in (0, 1)
    where = ["track", "frame", "z", "x"]
    pd.testing.assert_frame_equal(path[where].iloc[: len(theirs)], theirs[where])


def test_velocity_at_the_frames_is_that_of_the_path(flow: Block) -> None:
    tracks = drop_short(link(flow.bubbles[["frame", "z", "x", "score"]]))
    path, points = interpolate(tracks, **SCALE), add_velocity(tracks, **SCALE)
    at_frames = path[np.isclose(path.frame, path.frame.round(), atol=1e-6)]
    np.testing.assert_allclose(at_frames[["vz", "vx"]], points[["vz", "vx"]], atol=1e-6)
    np.testing.assert_array_equal(points[["z", "x"]], tracks[["z", "x"]])


def test_true_speed_is_recovered(flow: Block) -> None:
    bubble = flow.bubbles[flow.bubbles.bubble == flow.bubbles.bubble.mode()[0]]
    track = bubble.rename(columns={"bubble": "track"})[["frame", "z", "x", "score", "track"]]
    steps = track[["z", "x"]].diff().dropna().to_numpy()
    points = add_velocity(track, px_mm=0.1, frame_rate_hz=500, smooth_points=5)
    speed = np.hypot(points.vz, points.vx)
    assert speed.mean() == pytest.approx(np.hypot(*steps.T).mean() * 50, rel=0.02)


def dense_links(bubbles: pd.DataFrame, max_distance: float) -> set[tuple[float, float]]:
    """Links of each frame with the next, by scores, from a matrix of all pairs."""
    links = set()
    for frame in bubbles.frame.unique():
        here, there = (bubbles[bubbles.frame == f] for f in (frame, frame + 1))
        squared = ((here[["z", "x"]].to_numpy()[:, None] - there[["z", "x"]].to_numpy()) ** 2).sum(
            2
        )
        cost = np.where(squared <= max_distance**2, squared, 1e6)
        for i, j in zip(*linear_sum_assignment(cost), strict=True):
            if cost[i, j] < 1e6:
                links.add((here.score.iloc[i], there.score.iloc[j]))
    return links


@pytest.mark.parametrize(
    ("n", "size", "n_frames"), [(12, 6, 40), (60, 20, 6), (700, 40, 3), (900, 25, 2)]
)
def test_links_equal_those_of_the_dense_version(n: int, size: float, n_frames: int) -> None:
    rng = np.random.default_rng(n)
    n_all = n * n_frames
    bubbles = bubble_table(
        np.repeat(np.arange(n_frames), n), *rng.uniform(0, size, (2, n_all)), np.arange(n_all)
    ).sample(frac=1, random_state=0)
    for max_distance in (0.5, 2.0):
        linked = link(bubbles, max_distance_px=max_distance)
        found = linked[["score", "track"]].to_numpy()
        same = np.flatnonzero(found[1:, 1] == found[:-1, 1])
        links = set(zip(found[same, 0], found[same + 1, 0], strict=True))
        assert links == dense_links(bubbles, max_distance)


def test_memory_goes_by_the_pairs_in_reach() -> None:
    n = 6000
    rng = np.random.default_rng(0)
    place = rng.uniform(0, 300, (n, 2))
    moved = place + rng.normal(0, 0.2, place.shape)
    bubbles = bubble_table(
        np.repeat([0, 1], n), *np.concatenate([place, moved]).T, np.arange(2 * n)
    )
    tracemalloc.start()
    linked = link(bubbles, max_gap=3)
    pairs = match_bubbles(bubbles[:n], bubbles[n:].assign(frame=0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert linked.track.nunique() < 1.05 * n
    assert len(pairs) > 0.9 * n
    assert peak < 100 * 2**20


@pytest.mark.parametrize("max_gap", [3, 98, 10**6, 10**9, 10**30, 1e18])
def test_a_gap_longer_than_the_recording_is_no_burden(max_gap: int) -> None:
    bubbles = table([(0, 1, 1), (4, 1, 1.5), (99, 8, 8), (100, 1, 2)])
    assert link(bubbles, max_gap=max_gap).track.nunique() == (3 if max_gap == 3 else 2)


@pytest.mark.parametrize("max_distance", [1e-300, 1e-9, 1e9, 1e200, 1e308])
def test_extreme_distances_link_all_or_nothing(max_distance: float) -> None:
    bubbles = table([(t, t, 2 * k + t) for t in range(5) for k in range(3)])
    tracks = link(bubbles, max_distance_px=max_distance, max_gap=2)
    assert tracks.track.nunique() == (3 if max_distance >= 1e9 else 15)


def test_huge_settings_are_harmless_or_refused() -> None:
    tracks = tracks_of([(t, t, 0) for t in range(5)])
    for points in (10**25, 1e25):
        pd.testing.assert_frame_equal(smooth(tracks, points), smooth(tracks, 5))
    assert len(drop_short(tracks, 10**30)) == 0
    for drawing in ({"max_distance_px": 1e200}, {"upsample": 10**8}, {"max_distance_px": 1e308}):
        with pytest.raises(ValueError, match="points are drawn: give less of one"):
            interpolate(tracks, **SCALE, **drawing)
    with pytest.raises(ValueError, match="counted in another unit"):
        smooth(tracks_of([(0, 0, 0), (1e12, 0, 0)]))


def test_summary_counts_time_and_way_by_frames() -> None:
    rows = pd.concat(
        [
            tracks_of([(0, 0, 0), (1, 3, 4), (4, 12, 16)], 7),
            tracks_of([(5, 0, 0), (6, 0, 1)], 9),
            tracks_of([(5, 9, 9)], 3),
        ]
    )
    each = per_track(add_velocity(rows, **SCALE, smooth_points=1), frame_rate_hz=1000)
    assert each.track.tolist() == [3, 7, 9]
    assert each.n_points.tolist() == [1, 3, 2]
    assert each.duration_s.tolist() == [0, 0.004, 0.001]
    np.testing.assert_allclose(each.speed_mm_s, [np.nan, 5000, 1000])
    summary = track_summary(pd.concat([each, each]))
    assert summary["n_tracks"] == 6
    assert summary["speed_mm_s"]["median"] == pytest.approx(3000)
    assert summary["n_points"] == {"p05": 1.0, "median": 2.0, "p95": 3.0}
    empty = track_summary(add_velocity(rows[:0], **SCALE), frame_rate_hz=1000)
    assert empty["n_tracks"] == 0
    assert empty["speed_mm_s"] == {"p05": None, "median": None, "p95": None}


@pytest.mark.parametrize("rows", [[], [(2, 1.0, 1.0)]])
def test_few_bubbles_give_short_tables(rows: list) -> None:
    bubbles = table(rows) if rows else bubble_table([], [], [], [])
    linked = link(bubbles, max_gap=2)
    assert len(linked) == len(rows)
    path = interpolate(linked, **SCALE)
    assert len(path) == len(rows)
    assert len(drop_short(linked)) == 0
    assert len(interpolate(drop_short(linked), **SCALE)) == 0
    assert (add_velocity(linked, **SCALE)[["vz", "vx"]] == 0).all(axis=None)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda b: link(b, max_distance_px=0),
            ValueError,
            "max_distance_px must be a number above 0",
        ),
        (lambda b: link(b, max_gap=-1), ValueError, "max_gap must be a whole number, 0 or more"),
        (lambda b: drop_short(b), ValueError, r"lacks the column\(s\) track"),
        (
            lambda b: drop_short(link(b), -1),
            ValueError,
            "min_length must be a whole number, 0 or more",
        ),
        (lambda b: smooth(link(b), 0), ValueError, "points must be a whole number, 1 or more"),
        (lambda b: interpolate(link(b), px_mm=0, frame_rate_hz=1), ValueError, "px_mm must be"),
        (lambda b: link(b.drop(columns="z")), ValueError, r"lacks the column\(s\) z"),
        (lambda b: link(b, max_gap=1.5), ValueError, "max_gap must be a whole number"),
        (lambda b: link(b, max_gap=np.nan), ValueError, "max_gap must be a whole number"),
        (lambda b: link(b, max_distance_px=np.nan), ValueError, "max_distance_px must be"),
        (lambda b: smooth(link(b), 2.5), ValueError, "points must be a whole number"),
        (lambda b: drop_short(link(b), np.inf), ValueError, "min_length must be a whole number"),
        (lambda b: track_summary(link(b)), ValueError, "needs frame_rate_hz"),
        (lambda b: per_track(link(b), frame_rate_hz=1), ValueError, r"lacks the column\(s\) vz"),
    ],
)
def test_bad_input(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(table([(0, 1, 1), (1, 1, 1)]))


def numbered(tracks: pd.DataFrame) -> np.ndarray:
    return np.unique(tracks["track"], return_inverse=True)[1] + 1


@pytest.fixture(scope="module")
def tracker(oracle_dir: Path) -> dict[str, np.ndarray]:
    with np.load(oracle_dir / "tracker.npz") as file:
        return dict(file)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("gap", [0, 1, 2, 3, 5])
def test_tracks_equal_palas(tracker: dict[str, np.ndarray], case: str, gap: int) -> None:
    score, z, x, frame = tracker[f"{case}_in"].T
    bubbles = bubble_table(frame, z, x, score)
    # PALA's g bridges g - 1 missing frames, and it counts frames from the first detection.
    tracks = drop_short(link(bubbles, max_gap=max(gap - 1, 0)), 3 if case == "clutter" else 15)
    got = np.stack([numbered(tracks), tracks.z, tracks.x, tracks.frame - frame.min() + 1], axis=1)
    np.testing.assert_allclose(got, tracker[f"{case}_gap{gap}"], atol=1e-9)
    if f"{case}_gap{gap}_vel" in tracker:
        path = interpolate(tracks, **SCALE, pala=True)
        first = path.groupby("track")["frame"].transform("first")
        knots = path[path.groupby("track").cumcount() % 25 == 0]
        since = (knots.frame - first[knots.index]) / 1000
        got = np.stack([numbered(knots), knots.z, knots.x, knots.vz, knots.vx, since], axis=1)
        limit = np.array([0, 1e-5, 1e-5, 1e-2, 1e-2, 1e-5])
        assert (np.abs(got - tracker[f"{case}_gap{gap}_vel"]) <= limit).all()


@pytest.mark.parametrize("name", ["flow", "dense"])
@pytest.mark.parametrize(
    "key",
    ["no_shift", "wa", "interp_cubic", "interp_lanczos", "interp_spline", "gaussian_fit", "radial"],
)
def test_tracks_of_sequences_equal_palas(oracle_dir: Path, name: str, key: str) -> None:
    with np.load(oracle_dir / f"{name}.npz") as file:
        rows, theirs = file[f"loc_{key}"], file[f"track_{key}"]
        gap3 = file["track_radial_gap3"]
    bubbles = bubble_table(rows[:, 3] - 1, rows[:, 1] - 1, rows[:, 2] - 1, np.arange(len(rows)))

    def points(max_gap: int = 0) -> np.ndarray:
        tracks = drop_short(link(bubbles, max_gap=max_gap))
        return np.stack([numbered(tracks), tracks.score.astype(int)], axis=1)

    ours = points()
    if key in ("wa", "radial", "gaussian_fit"):
        np.testing.assert_array_equal(ours, theirs)
    else:  # places on a grid tie, so links may differ

        def links(tracks: np.ndarray) -> set[tuple[int, int]]:
            same = tracks[1:, 0] == tracks[:-1, 0]
            return set(
                zip(tracks[:-1, 1][same].tolist(), tracks[1:, 1][same].tolist(), strict=True)
            )

        assert len(links(ours) & links(theirs)) >= 0.97 * len(links(ours) | links(theirs))
    if key == "radial":
        np.testing.assert_array_equal(points(max_gap=2), gap3)


@pytest.mark.parametrize("name", ["flow", "dense"])
def test_interpolated_tracks_equal_palas(oracle_dir: Path, name: str) -> None:
    with np.load(oracle_dir / f"{name}.npz") as file:
        rows, theirs = file["loc_radial"], file["track_radial"]
        knots, first12 = file["interp_radial_knots"], file["interp_radial_first12"]
    place = rows[theirs[:, 1]]
    tracks = bubble_table(place[:, 3] - 1, place[:, 1] - 1, place[:, 2] - 1, place[:, 0]).assign(
        track=theirs[:, 0]
    )
    path = interpolate(tracks, **SCALE)
    columns, limit = ["z", "x", "vz", "vx"], np.array([1e-5, 1e-5, 1e-2, 1e-2])
    ours = path[path.groupby("track").cumcount() % 25 == 0]
    assert (ours["track"].to_numpy() == knots[:, 0]).all()
    assert (np.abs(ours[columns].to_numpy() - knots[:, 1:5]) <= limit).all()
    ours = path[path["track"] <= 12]
    assert (np.abs(ours[columns].to_numpy() - first12[:, 1:5]) <= limit).all()
