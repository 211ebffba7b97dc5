"""Bubbles found in some sequences held against the true ones: all scores of a method in one row."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from ulmpaper.metrics import detection_scores, localization_errors, match_bubbles

LIMITS_PX = {"near": 0.25, "far": 0.5}  # below these a bubble counts as found
SCORES = ("jaccard", "precision", "recall")


def join_sequences(found: Sequence[pd.DataFrame], truth: Sequence[pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Number the frames of several sequences through, so that they can be scored as one.

    Parameters
    ----------
    found, truth : sequence of DataFrame
        Bubble tables of each sequence, whose frames count from 0.

    Returns
    -------
    found, truth : DataFrame
        The tables one below the other, with rows numbered from 0. No two sequences share a frame.

    Raises
    ------
    ValueError
        Different numbers of tables, or none.

    Examples
    --------
    >>> from ulmpaper.records import bubble_table
    >>> one, two = bubble_table([0, 3], [5, 5], [5, 5], [1, 1]), bubble_table([1], [5], [5], [1])
    >>> [table["frame"].tolist() for table in join_sequences([one, two], [two, one])]
    [[0, 3, 5], [1, 4, 7]]
    """
    if len(found) != len(truth) or not len(found):
        raise ValueError(f"give a found and a true table for each sequence, not {len(found)} and {len(truth)}")
    joined, first = [], 0
    for tables in zip(found, truth, strict=True):
        joined.append([table.assign(frame=table["frame"] + first) for table in tables])
        first += max(int(table["frame"].max()) + 1 if len(table) else 0 for table in tables)
    one, other = (pd.concat(tables, ignore_index=True) for tables in zip(*joined, strict=True))
    return one, other


def bubble_scores(found: pd.DataFrame, truth: pd.DataFrame) -> dict[str, float]:
    """Score found bubbles: precision, recall and Jaccard index at two distances, and the errors of the pairs.

    Parameters
    ----------
    found, truth : DataFrame
        Tables with the columns ``frame, z, x``, such as `join_sequences` makes.

    Returns
    -------
    dict of str to float
        ``n_found, n_true``; ``jaccard_near, precision_near, recall_near`` with pairs closer than 0.25 px as hits, and
        the same ``_far`` for 0.5 px; then `metrics.localization_errors` of the pairs closer than 0.5 px. NaN where
        there is nothing to divide by.

    Raises
    ------
    TypeError, ValueError
        See `metrics.match_bubbles`.

    Notes
    -----
    PALA's distances, with as many pairs as possible instead of PALA's own pairing; see `metrics.match_bubbles`.

    Examples
    --------
    >>> truth = pd.DataFrame({"frame": [0, 1], "z": 5.0, "x": 3.0})
    >>> scores = bubble_scores(truth.assign(x=[3.125, 3.375]), truth)
    >>> scores["jaccard_far"], round(scores["jaccard_near"], 3), scores["bias_x"]
    (1.0, 0.333, 0.25)
    """
    pairs = match_bubbles(found, truth, max_distance_px=max(LIMITS_PX.values()))
    scores: dict[str, float] = {"n_found": len(found), "n_true": len(truth)}
    for name, limit in LIMITS_PX.items():
        counted = detection_scores(pairs, len(found), len(truth), max_distance_px=limit)
        scores |= {f"{score}_{name}": counted[score] for score in SCORES}
    return scores | localization_errors(pairs)
