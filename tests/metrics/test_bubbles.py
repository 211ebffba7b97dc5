"""Scores of bubbles against slow obvious versions, known truth and PALA's own numbers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from ulmpaper.core.records import bubble_table
from ulmpaper.metrics.bubbles import (
    detection_scores,
    join_sequences,
    localization_errors,
    match_bubbles,
    score_bubbles,
    subpixel_histogram,
)
from ulmpaper.metrics.coverage import score_lines

SEQUENCES = ("flow", "dense")
METHODS = (
    "no_shift",
    "wa",
    "interp_cubic",
    "interp_lanczos",
    "interp_spline",
    "gaussian_fit",
    "radial",
)


def places(points: list[tuple[float, float, float]]) -> pd.DataFrame:
    return pd.DataFrame(
        np.array(points, dtype=float).reshape(-1, 3), columns=["frame", "z", "x"]
    ).astype({"frame": int})


def scatter(
    rng: np.random.Generator, n: int, *, n_frames: int = 3, size: float = 4.0
) -> pd.DataFrame:
    return places(
        np.column_stack([rng.integers(n_frames, size=n), rng.uniform(0, size, (n, 2))]).tolist()
    )


# Half-pixel steps make equal distances and distances equal to the limit common; the rest of the
# numbers do not.
coordinate = st.one_of(st.integers(0, 6).map(lambda k: k / 2), st.floats(0, 3, width=32))
tables = st.lists(st.tuples(st.integers(0, 2), coordinate, coordinate), max_size=12).map(places)


def assignments(n_pred: int, n_truth: int) -> Iterator[list[tuple[int, int]]]:
    """Every way to pair some rows of one table with different rows of the other."""
    for n in range(min(n_pred, n_truth) + 1):
        for i in itertools.combinations(range(n_pred), n):
            for j in itertools.permutations(range(n_truth), n):
                yield list(zip(i, j, strict=True))


# ---  ------------------------------------------------------------------------------------------
# matching


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(coordinate, coordinate), max_size=4),
    st.lists(st.tuples(coordinate, coordinate), max_size=4),
)
def test_matching_is_the_best_of_all_assignments(found: list, true: list) -> None:
    pred, truth = places([(0, *p) for p in found]), places([(0, *p) for p in true])
    distance = [[math.hypot(p[0] - t[0], p[1] - t[1]) for t in true] for p in found]
    allowed = [
        pairs
        for pairs in assignments(len(found), len(true))
        if all(distance[i][j] < 1 for i, j in pairs)
    ]
    best = min((-len(pairs), sum(distance[i][j] ** 2 for i, j in pairs)) for pairs in allowed)
    match = match_bubbles(pred, truth, max_distance_px=1.0)
    assert -len(match) == best[0]
    assert (match["distance"] ** 2).sum() == pytest.approx(best[1], abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(tables, tables, st.booleans())
def test_pairs_are_exclusive_in_one_frame_and_close(
    pred: pd.DataFrame, truth: pd.DataFrame, pala: bool
) -> None:
    match = match_bubbles(pred, truth, max_distance_px=0.8, pala=pala)
    assert match["pred"].is_unique
    assert match["truth"].is_unique
    assert match["frame"].is_monotonic_increasing
    assert (match["distance"] < 0.8).all()
    found, true = (
        pred.iloc[match["pred"]].reset_index(drop=True),
        truth.iloc[match["truth"]].reset_index(drop=True),
    )
    assert (found["frame"] == true["frame"]).all()
    assert (found["frame"] == match["frame"]).all()
    np.testing.assert_allclose(match["dz"], found["z"] - true["z"])
    np.testing.assert_allclose(match["dx"], found["x"] - true["x"])
    np.testing.assert_allclose(match["distance"], np.hypot(match["dz"], match["dx"]))


@settings(max_examples=60, deadline=None)
@given(tables, tables, st.randoms(use_true_random=False))
def test_neither_order_of_rows_nor_of_tables_matters(
    pred: pd.DataFrame, truth: pd.DataFrame, random
) -> None:
    match = match_bubbles(pred, truth)
    shuffled = pred.iloc[random.sample(range(len(pred)), len(pred))]  # keeps its old index labels
    for other in (match_bubbles(shuffled, truth), match_bubbles(truth, pred)):
        assert len(other) == len(match)
        assert (other["distance"] ** 2).sum() == pytest.approx(
            (match["distance"] ** 2).sum(), abs=1e-9
        )


@settings(max_examples=60, deadline=None)
@given(tables, tables)
def test_pala_never_finds_more_pairs(pred: pd.DataFrame, truth: pd.DataFrame) -> None:
    assert len(match_bubbles(pred, truth, pala=True)) <= len(match_bubbles(pred, truth))


def test_number_of_pairs_comes_before_distance() -> None:
    pred, truth = places([(0, 0, 0.0), (0, 0, 0.45)]), places([(0, 0, 0.40), (0, 0, 0.85)])
    match = match_bubbles(pred, truth)
    assert match[["pred", "truth"]].values.tolist() == [[0, 0], [1, 1]]


def test_distances_count_squared() -> None:
    # Distances 0.45 and 0.45 against 0.1 and 0.7: the sum is larger, the sum of squares is less.
    pred, truth = places([(0, 0, 0), (0, 0.45, 0.0864)]), places([(0, 0, 0.1), (0, 0, -0.45)])
    match = match_bubbles(pred, truth, max_distance_px=1.0)
    assert match[["pred", "truth"]].values.tolist() == [[0, 1], [1, 0]]


def test_pala_order_can_lose_a_pair() -> None:
    # Two found bubbles share one true bubble, so they are walked through first: the second of them
    # takes the other true bubble, far away, and leaves nothing for the third.
    pred = places([(0, 5, 5.0), (0, 5, 5.1), (0, 0, 0.0)])
    truth = places([(0, 5, 5.08), (0, 0, 0.3)])
    assert match_bubbles(pred, truth, pala=True)[["pred", "truth"]].values.tolist() == [[1, 0]]
    assert match_bubbles(pred, truth)[["pred", "truth"]].values.tolist() == [[1, 0], [2, 1]]


def test_distance_equal_to_the_limit_is_no_pair() -> None:
    pred, truth = places([(0, 0, 0.0)]), places([(0, 0, 0.5)])
    assert match_bubbles(pred, truth, max_distance_px=0.5).empty
    match = match_bubbles(pred, truth, max_distance_px=0.75)
    assert detection_scores(match, max_distance_px=0.5)["n_true_positive"] == 0


@pytest.mark.parametrize("pala", [False, True])
@pytest.mark.parametrize(("n_pred", "n_truth"), [(0, 0), (0, 3), (3, 0)])
def test_empty_tables(rng: np.random.Generator, n_pred: int, n_truth: int, pala: bool) -> None:
    match = match_bubbles(scatter(rng, n_pred), scatter(rng, n_truth), pala=pala)
    assert match.columns.tolist() == ["frame", "pred", "truth", "dz", "dx", "distance"]
    assert match.empty
    scores = detection_scores(match)
    assert math.isnan(scores["precision"]) == (n_pred == 0)
    assert math.isnan(scores["recall"]) == (n_truth == 0)
    assert scores["n_false_positive"] == n_pred
    errors = localization_errors(match)
    assert errors.pop("n_pairs") == 0
    assert np.isnan(list(errors.values())).all()


def test_frames_without_a_counterpart(rng: np.random.Generator) -> None:
    match = match_bubbles(places([(0, 1, 1), (5, 2, 2)]), places([(3, 1, 1), (5, 2, 2)]))
    assert match["frame"].tolist() == [5]


# ---  ------------------------------------------------------------------------------------------
# scores


def test_identical_tables_score_one(rng: np.random.Generator) -> None:
    bubbles = scatter(rng, 40)
    match = match_bubbles(bubbles, bubbles)
    scores = detection_scores(match)
    assert (scores["precision"], scores["recall"], scores["jaccard"]) == (1, 1, 1)
    errors = localization_errors(match)
    assert (errors["n_pairs"], errors["rms"], errors["bias_z"], errors["std_x"]) == (40, 0, 0, 0)


@settings(max_examples=60, deadline=None)
@given(tables, tables)
def test_jaccard_follows_from_precision_and_recall(pred: pd.DataFrame, truth: pd.DataFrame) -> None:
    match = match_bubbles(pred, truth, max_distance_px=1.0)
    scores = detection_scores(match, max_distance_px=0.6)
    assert scores["n_true_positive"] + scores["n_false_positive"] == len(pred)
    assert scores["n_true_positive"] + scores["n_false_negative"] == len(truth)
    if scores["n_true_positive"]:
        inverse = 1 / scores["precision"] + 1 / scores["recall"] - 1
        assert scores["jaccard"] == pytest.approx(1 / inverse)


def test_known_errors(rng: np.random.Generator) -> None:
    truth = places([(f, 3 * f, 5) for f in range(400)])
    noise = rng.normal((0.1, -0.05), (0.02, 0.04), (400, 2))
    pred = truth.assign(z=truth["z"] + noise[:, 0], x=truth["x"] + noise[:, 1])
    errors = localization_errors(match_bubbles(pred, truth))
    assert (errors["bias_z"], errors["bias_x"]) == pytest.approx((0.1, -0.05), abs=0.01)
    assert (errors["std_z"], errors["std_x"]) == pytest.approx((0.02, 0.04), rel=0.15)
    assert errors["rms"] == pytest.approx(math.sqrt((noise**2).sum() / 400))


# ------------------------------------------------------------------------------------------------
# places in the pixel


def test_subpixel_histogram_of_even_positions_is_flat(rng: np.random.Generator) -> None:
    histogram = subpixel_histogram(scatter(rng, 40_000, size=50.0))
    np.testing.assert_allclose(histogram["offset"], np.arange(-0.475, 0.5, 0.05))
    np.testing.assert_allclose(histogram[["z", "x"]], 1, atol=0.15)
    np.testing.assert_allclose(histogram[["z", "x"]].mean(), 1)


def test_subpixel_histogram_keeps_gridded_positions_together() -> None:
    # Multiples of 0.1 plus 0.05, as interpolation by ten gives, lie on edges of bins, give or take
    # a rounding error.
    x = np.concatenate([k + np.arange(-0.45, 0.5, 0.1) for k in range(100)])
    histogram = subpixel_histogram(pd.DataFrame({"z": 7.0, "x": x}))
    np.testing.assert_allclose(histogram["x"], np.tile([0.0, 2.0], 10))
    assert histogram.loc[histogram["z"] > 0, ["offset", "z"]].values.tolist() == [
        [pytest.approx(0.025), 20.0]
    ]
    assert subpixel_histogram(pd.DataFrame({"z": [], "x": []}))["z"].isna().all()


# ---  ------------------------------------------------------------------------------------------
# bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a: match_bubbles(a, a.drop(columns="z")), r"lacks the column\(s\) z"),
        (
            lambda a: match_bubbles(a, a, max_distance_px=0),
            "max_distance_px must be a number above 0",
        ),
        (
            lambda a: detection_scores(pd.DataFrame(match_bubbles(a, a).to_dict())),
            "does not say how many bubbles there were: give it as match_bubbles returned it",
        ),
        (lambda a: subpixel_histogram(a, n_bins=0), "n_bins must be"),
    ],
)
def test_bad_input_is_named(rng: np.random.Generator, call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call(scatter(rng, 9))


# --------------------------------------------------------------------------------------------------
# PALA's own output


@pytest.fixture(scope="module", params=SEQUENCES)
def pala(request: pytest.FixtureRequest, oracle_dir: Path) -> dict[str, np.ndarray]:
    wanted = ("loc_", "track_", "ground_truth", "pairing_summary", "methods")
    with np.load(oracle_dir / f"{request.param}.npz") as file:
        return {name: file[name] for name in file.files if name.startswith(wanted)}


def tracked_points(pala: dict[str, np.ndarray], method: str) -> pd.DataFrame:
    """Raw points of PALA's tracks as a table that counts from 0."""
    track, row = pala[f"track_{method}"].T
    _, z, x, frame = pala[f"loc_{method}"][row].T
    return pd.DataFrame({"frame": frame.astype(int) - 1, "z": z - 1, "x": x - 1, "track": track})


def lit_truth(pala: dict[str, np.ndarray]) -> pd.DataFrame:
    """True bubbles, without those that are dark in a frame."""
    _, frame, z, x, amplitude = pala["ground_truth"][pala["ground_truth"][:, 4] > 0].T[:5]
    return pd.DataFrame(
        {"frame": frame.astype(int), "z": z.astype(float), "x": x.astype(float), "score": amplitude}
    )


@pytest.mark.parametrize("method", METHODS)
def test_pairing_agrees_with_pala(pala: dict[str, np.ndarray], method: str) -> None:
    n_truth, n_pred, n_tp, n_fn, n_fp, jaccard, n_pairs, mean_z, mean_x, std_z, std_x, rms, mean = (
        pala["pairing_summary"][pala["methods"].tolist().index(method)]
    )
    pred, truth = tracked_points(pala, method), lit_truth(pala)
    assert (len(pred), len(truth)) == (n_pred, n_truth)
    match = match_bubbles(pred, truth, pala=True)
    scores = detection_scores(match, max_distance_px=0.25)
    counts = [scores[f"n_{name}"] for name in ("true_positive", "false_negative", "false_positive")]
    np.testing.assert_allclose([*counts, len(match)], [n_tp, n_fn, n_fp, n_pairs], atol=2)
    errors = localization_errors(match)
    ours = [errors[name] for name in ("bias_z", "bias_x", "std_z", "std_x", "rms", "mean_distance")]
    np.testing.assert_allclose(ours, [-mean_z, -mean_x, std_z, std_x, rms, mean], atol=1e-5)
    assert scores["jaccard"] == pytest.approx(jaccard, abs=1e-4)

    best = match_bubbles(pred, truth)
    assert 0 <= len(best) - n_pairs <= 12
    assert 0 <= (best["distance"] < 0.25).sum() - n_tp <= 12


@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 3), st.integers(0, 60), st.integers(0, 60))
def test_pairs_equal_those_of_the_dense_version(
    seed: int, limit: float, n_pred: int, n_truth: int
) -> None:
    rng = np.random.default_rng(seed)
    pred, truth = scatter(rng, n_pred, size=8), scatter(rng, n_truth, size=8)
    expected = []
    for frame in range(3):
        p, t = (table[table.frame == frame] for table in (pred, truth))
        distance = cdist(p[["z", "x"]], t[["z", "x"]])
        cost = np.where(distance < limit, distance**2, 1e6)
        for i, j in zip(*linear_sum_assignment(cost), strict=True):
            if distance[i, j] < limit:
                expected.append((p.index[i], t.index[j]))
    match = match_bubbles(pred, truth, max_distance_px=limit)
    assert match[["pred", "truth"]].to_numpy().tolist() == [list(pair) for pair in expected]


@pytest.mark.parametrize("limit", [1e-300, 1e6, 1e200, 1e308])
def test_extreme_limits(limit: float) -> None:
    pred, truth = places([(0, 1, 1), (1, 5, 5)]), places([(0, 1, 2), (1, 5, 5)])
    assert len(match_bubbles(pred, truth, limit)) == (1 if limit < 1 else 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: detection_scores(m.drop(columns="distance")), "lacks the column"),
        (lambda m: localization_errors(m.drop(columns="dz")), "lacks the column"),
        (lambda m: localization_errors(m.assign(dx=np.nan)), "holds NaN"),
        (lambda m: detection_scores(m, max_distance_px=np.nan), "max_distance_px must be above 0"),
        (lambda m: detection_scores(m, max_distance_px=0), "max_distance_px must be above 0"),
        (lambda m: subpixel_histogram(places([(0, 1, 1)]), 2.5), "n_bins must be a whole number"),
        (lambda m: join_sequences([m], [m.assign(frame=0.5)]), "frames are whole numbers"),
        (lambda m: score_lines(np.ones((9, 9)), np.ones((9, 9)), upsample=2.5), "whole number"),
        (lambda m: score_lines(np.ones(9), np.ones(9)), r"two axes \(z, x\)"),
    ],
)
def test_bad_input(call, message: str) -> None:
    table = places([(0, 1, 1)])
    with pytest.raises(ValueError, match=message):
        call(match_bubbles(table, table))


EMPTY = bubble_table([], [], [], [])


def random_table(rng: np.random.Generator, n: int, n_frames: int = 4) -> pd.DataFrame:
    return bubble_table(rng.integers(n_frames, size=n), *rng.uniform(0, 3, (2, n)), np.ones(n))


def test_joined_sequences_score_as_the_sum_of_each(rng: np.random.Generator) -> None:
    found, truth = ([random_table(rng, n) for n in sizes] for sizes in ((20, 0, 9), (15, 12, 8)))
    for limit, name in ((0.25, "near"), (0.5, "far")):
        hits = sum(
            detection_scores(match_bubbles(f, t), max_distance_px=limit)["n_true_positive"]
            for f, t in zip(found, truth, strict=True)
        )
        scores = score_bubbles(*join_sequences(found, truth))
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
    scores = score_bubbles(truth.assign(z=[5.25, 5.0, 6.0]), truth)
    assert scores["n_pairs"] == 2
    assert scores["bias_z"] == 0.125
    assert scores["rms"] == pytest.approx(0.25 / np.sqrt(2))
    assert (scores["jaccard_near"], scores["jaccard_far"]) == (0.2, 0.5)


def test_nothing_found_is_no_error() -> None:
    scores = score_bubbles(EMPTY, bubble_table([0], [5], [3], [1]))
    assert (scores["recall_far"], scores["jaccard_far"], scores["n_found"]) == (0, 0, 0)
    assert np.isnan([scores["precision_far"], scores["rms"]]).all()


@pytest.mark.parametrize(("found", "truth"), [([EMPTY], []), ([], [])])
def test_tables_must_come_in_pairs(found: list, truth: list) -> None:
    with pytest.raises(ValueError, match="a true table for each sequence"):
        join_sequences(found, truth)
