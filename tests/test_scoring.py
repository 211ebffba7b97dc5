"""Scores of several sequences at once."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ulmpaper.metrics import detection_scores, match_bubbles
from ulmpaper.records import bubble_table
from ulmpaper.scoring import bubble_scores, join_sequences

EMPTY = bubble_table([], [], [], [])


def random_table(rng: np.random.Generator, n: int, n_frames: int = 4) -> pd.DataFrame:
    return bubble_table(rng.integers(n_frames, size=n), *rng.uniform(0, 3, (2, n)), np.ones(n))


def test_joined_sequences_score_as_the_sum_of_each(rng: np.random.Generator) -> None:
    found, truth = ([random_table(rng, n) for n in sizes] for sizes in ((20, 0, 9), (15, 12, 8)))
    for limit, name in ((0.25, "near"), (0.5, "far")):
        hits = sum(
            detection_scores(match_bubbles(f, t), len(f), len(t), max_distance_px=limit)["n_true_positive"]
            for f, t in zip(found, truth, strict=True)
        )
        scores = bubble_scores(*join_sequences(found, truth))
        assert (scores["n_found"], scores["n_true"]) == (29, 35)
        assert scores[f"precision_{name}"] == pytest.approx(hits / 29)
        assert scores[f"recall_{name}"] == pytest.approx(hits / 35)
        assert scores[f"jaccard_{name}"] == pytest.approx(hits / (29 + 35 - hits))


def test_joining_keeps_what_else_tables_hold_and_no_frame_is_shared() -> None:
    one = bubble_table([2], [1], [1], [1]).assign(bubble=7)
    found, truth = join_sequences([EMPTY, one, EMPTY], [one, one, one])
    assert truth["frame"].tolist() == [2, 5, 8]
    assert truth["bubble"].tolist() == [7, 7, 7]
    assert (found["frame"].tolist(), found.index.tolist()) == ([5], [0])


def test_errors_are_those_of_the_pairs() -> None:
    truth = bubble_table([0, 1, 2], [5, 5, 5], [3, 3, 3], [1, 1, 1])
    scores = bubble_scores(truth.assign(z=[5.25, 5.0, 6.0]), truth)
    assert scores["n_pairs"] == 2
    assert scores["bias_z"] == 0.125
    assert scores["rms"] == pytest.approx(0.25 / np.sqrt(2))
    assert (scores["jaccard_near"], scores["jaccard_far"]) == (0.2, 0.5)


def test_nothing_found_is_no_error() -> None:
    scores = bubble_scores(EMPTY, bubble_table([0], [5], [3], [1]))
    assert (scores["recall_far"], scores["jaccard_far"], scores["n_found"]) == (0, 0, 0)
    assert np.isnan([scores["precision_far"], scores["rms"]]).all()


@pytest.mark.parametrize(("found", "truth"), [([EMPTY], []), ([], [])])
def test_tables_must_come_in_pairs(found: list, truth: list) -> None:
    with pytest.raises(ValueError, match="a true table for each sequence"):
        join_sequences(found, truth)
