"""Checks at the public doors: each says what came, what is allowed and what to do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ulmpaper import core, metrics
from ulmpaper.core.records import (
    bubble_table,
    check_bubbles,
    check_choice,
    check_frames,
    check_positive,
    check_whole,
)

FRAMES = np.ones((3, 4, 5), dtype=np.float32)


@pytest.mark.parametrize(
    ("frames", "error", "message"),
    [
        (FRAMES[0], ValueError, r"three axes \(t, z, x\), not 2 .*frame\[None\]"),
        (np.empty((0, 4, 5)), ValueError, r"empty axis: shape \(t, z, x\) = \(0, 4, 5\)"),
        (
            FRAMES * np.nan,
            ValueError,
            r"NaN or infinite values, first in frame 0 \(3 of 3 frames\)",
        ),
        (
            np.where(np.arange(3)[:, None, None] == 1, np.inf, FRAMES),
            ValueError,
            "first in frame 1 ",
        ),
        (FRAMES * 1j, TypeError, r"complex \(IQ\) but amplitude is needed: take np.abs"),
        (np.array([[["a"]]]), TypeError, "must hold numbers"),
        ([[[1], [2, 3]]], ValueError, "inhomogeneous"),
    ],
)
def test_bad_frames(frames: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_frames(frames)


def test_frames_keep_their_class() -> None:
    assert check_frames(FRAMES) is FRAMES
    assert check_frames(FRAMES.astype(np.uint8)).dtype == np.float32
    assert check_frames(FRAMES.astype(np.complex64), allow_complex=True).dtype == np.complex64


def test_large_values_are_no_overflow() -> None:
    assert check_frames(np.full((1, 50, 50), 3e38, dtype=np.float32)).shape == (1, 50, 50)


@pytest.mark.parametrize(
    ("table", "error", "message"),
    [
        ([1, 2], TypeError, "pandas DataFrame, not list"),
        (
            pd.DataFrame({"frame": [0], "z": [1.0]}),
            ValueError,
            r"lacks the column\(s\) x, score; it has frame, z",
        ),
        (bubble_table([0], [np.nan], [0], [1]), ValueError, "column 'z' .* NaN"),
    ],
)
def test_bad_bubbles(table: object, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        check_bubbles(table)


SOUND = pd.DataFrame({"frame": [0, 1, 2], "z": 1.0, "x": 2.0, "score": 1.0, "track": 0})
SCALE = {"px_mm": 0.1, "frame_rate_hz": 1000.0}


def with_point(**changed: object) -> pd.DataFrame:
    """The sound table, with something else in its second row."""
    table = SOUND.astype(dict.fromkeys(changed, object))
    for name, value in changed.items():
        table.loc[1, name] = value
    return table.infer_objects()


UNSOUND = {
    "seconds": (SOUND.assign(frame=[0.0, 0.001, 0.002]), "row 1 holds 0.001"),
    "halves": (SOUND.assign(frame=[0, 0.5, 1]), "row 1 holds 0.5"),
    "rounding": (SOUND.assign(frame=[0, 1 + 1e-9, 2]), "frames are whole numbers, but row 1"),
    "huge frame": (SOUND.assign(frame=[0, 1, 2.0**60]), r"row 2 holds frame .*2\*\*53"),
    "missing frame": (with_point(frame=np.nan), "column 'frame' .* first in row 1"),
    "nullable": (SOUND.assign(z=pd.array([1, None, 2], "Int64")), "column 'z' .* first in row 1"),
    "infinite": (with_point(x=np.inf), "column 'x' .* first in row 1"),
    "far": (with_point(z=-1e300), "holds -1e\\+300 px in row 1"),
    "text": (SOUND.assign(z=["1", "2", "3"]), "column 'z' .* holds .*row 0: '1'"),
    "text frames": (SOUND.assign(frame=["0", "1", "2"]), "column 'frame' .* holds"),
    "complex": (SOUND.assign(x=[1, 2j, 3]), "column 'x' .* holds complex128"),
    "dates": (SOUND.assign(frame=pd.to_datetime([0, 1, 2])), "column 'frame' .* holds datetime"),
    "objects": (with_point(z=[1]), "column 'z' .* holds object"),
    "two columns": (
        pd.concat([SOUND, SOUND[["z"]]], axis=1),
        "more than one column 'z'",
    ),
    "two points in a frame": (
        SOUND.assign(frame=[0, 1, 1]),
        r"track 0 has more than one point in frame 1 \(row 2",
    ),
    "two points, rows apart": (
        pd.DataFrame({"frame": [1, 0, 1], "z": 0.0, "x": 0.0, "score": 1.0, "track": 5}),
        r"track 5 has more than one point in frame 1 \(row 2",
    ),
    "no table": (SOUND.to_numpy(), "a bubble table is a pandas DataFrame, not ndarray"),
}
FOR_TRACKS = ("two points in a frame", "two points, rows apart")
DOORS = {
    "link": lambda t: core.link(t),
    "match": lambda t: metrics.match_bubbles(t, SOUND),
    "match truth": lambda t: metrics.match_bubbles(SOUND, t),
    "score": lambda t: metrics.score_bubbles(t, SOUND),
}
TRACK_DOORS = {
    "drop_short": lambda t: core.drop_short(t),
    "smooth": lambda t: core.smooth(t),
    "interpolate": lambda t: core.interpolate(t, **SCALE),
    "add_velocity": lambda t: core.add_velocity(t, **SCALE),
    "render_maps": lambda t: core.render_maps(t, (9, 9), **SCALE),
}


@pytest.mark.parametrize("kind", UNSOUND)
@pytest.mark.parametrize("door", [*DOORS, *TRACK_DOORS])
def test_all_doors_refuse_unsound_tables_alike(kind: str, door: str) -> None:
    table, message = UNSOUND[kind]
    if kind in FOR_TRACKS and door in DOORS:
        pytest.skip("bubbles may share a frame")
    with pytest.raises((TypeError, ValueError), match=message):
        {**DOORS, **TRACK_DOORS}[door](table)


@pytest.mark.parametrize(
    "kind", sorted(set(UNSOUND) - {"seconds", "halves", "rounding", "huge frame"})
)
def test_maps_and_pictures_of_paths_refuse_too(kind: str) -> None:
    """Paths may lie between frames; all else is as for tracks."""
    from ulmpaper import plots

    table, message = UNSOUND[kind]
    path = table.assign(vz=0.0, vx=0.0) if isinstance(table, pd.DataFrame) else table
    for door in (lambda t: core.map_sums(t, (9, 9)), plots.plot_tracks):
        with pytest.raises((TypeError, ValueError), match=message):
            door(path)


@pytest.mark.parametrize("kind", ["f8", "f4", "u1", "i1", "u8", "Int64", "Float64", "UInt8"])
def test_whole_numbers_of_any_kind_are_frames(kind: str) -> None:
    wanted = core.link(SOUND.drop(columns="track"))
    given = SOUND.drop(columns="track").astype({"frame": kind, "z": kind, "x": kind})
    linked = core.link(given)
    assert linked.frame.dtype == np.int64
    np.testing.assert_array_equal(linked.to_numpy(float), wanted.to_numpy(float))
    path = core.interpolate(linked, **SCALE)
    pd.testing.assert_frame_equal(path, core.interpolate(wanted, **SCALE))
    assert metrics.score_bubbles(given, SOUND)["jaccard_near"] == 1


@pytest.mark.parametrize("index", [[5, 5, 5], ["a", "b", "c"]])
def test_labels_of_rows_mean_nothing(index: list) -> None:
    table = SOUND.set_axis(index, axis=0)
    named = SOUND.set_index("frame", drop=False)  # a label and a column of one name
    for other in (table, named):
        pd.testing.assert_frame_equal(core.link(other), core.link(SOUND))
        pd.testing.assert_frame_equal(core.smooth(other), core.smooth(SOUND))
        assert len(metrics.match_bubbles(other, SOUND)) == 3


def test_empty_tables_are_sound() -> None:
    for empty in (SOUND[:0], pd.DataFrame(columns=SOUND.columns)):
        assert core.link(empty).frame.dtype == np.int64
        assert len(core.interpolate(empty, **SCALE)) == 0
        assert core.render_maps(empty, (4, 4), **SCALE).density.sum() == 0


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        (([0.5], [1], [1], [1]), ValueError),
        (([np.nan], [1], [1], [1]), ValueError),
        (([0], ["1"], [1], [1]), TypeError),
        (([0], [1], [1j], [1]), TypeError),
        (([0, 1], [1], [1], [1]), ValueError),
    ],
)
def test_bad_columns_of_a_bubble_table(columns: tuple, error: type[Exception]) -> None:
    with pytest.raises(error):
        bubble_table(*columns)


@pytest.mark.parametrize("value", [0, 1.5, np.nan, np.inf, True, "2", None, 1j, np.bool_(True)])
def test_bad_whole_numbers(value: object) -> None:
    with pytest.raises(ValueError, match="n_bins must be a whole number, 1 or more"):
        check_whole(n_bins=value)


@pytest.mark.parametrize("rng", [3, None, "0", np.random, np.random.RandomState(0)])
def test_a_generator_is_asked_for(rng: object) -> None:
    with pytest.raises(TypeError, match=r"write np.random.default_rng\(seed\)"):
        core.simulate_testcard(n_frames=2, n_bubbles=1, shape_px=(20, 20), rng=rng)


@pytest.mark.parametrize(
    "wrong",
    [{"n_frames": 1.5}, {"n_bubbles": -1}, {"shape_px": (20.5, 20)}, {"noise": np.nan}],
)
def test_bad_numbers_of_the_testcard(wrong: dict) -> None:
    good = {"n_frames": 2, "n_bubbles": 1, "shape_px": (20, 20), "rng": np.random.default_rng(0)}
    with pytest.raises(ValueError, match=f"{'z' if 'shape_px' in wrong else next(iter(wrong))}"):
        core.simulate_testcard(**{**good, **wrong})


@pytest.mark.parametrize("value", [7, 7.0, np.uint8(7), np.float32(7)])
def test_whole_numbers(value: object) -> None:
    assert check_whole(n_bins=value) == 7


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf, True, "2", None])
def test_bad_positive(value: object) -> None:
    with pytest.raises(ValueError, match="px_mm must be a number above 0"):
        check_positive(px_mm=value)


def test_choice_without_a_near_miss_lists_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"unknown method 'zzz': Allowed: a, b"):
        check_choice("zzz", ["a", "b"], "method")
