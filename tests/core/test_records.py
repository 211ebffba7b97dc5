"""Checks at the public doors: each says what came, what is allowed and what to do."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ulmpaper.core.records import (
    bubble_table,
    check_bubbles,
    check_choice,
    check_frames,
    check_positive,
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


@pytest.mark.parametrize("value", [0, -1, np.nan, np.inf, True, "2", None])
def test_bad_positive(value: object) -> None:
    with pytest.raises(ValueError, match="px_mm must be a number above 0"):
        check_positive(px_mm=value)


def test_choice_without_a_near_miss_lists_what_is_allowed() -> None:
    with pytest.raises(ValueError, match=r"unknown method 'zzz': Allowed: a, b"):
        check_choice("zzz", ["a", "b"], "method")
