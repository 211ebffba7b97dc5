"""Match found with true bubbles; precision, recall, Jaccard index and errors.

Positions and distances are in pixels of the frames, scores between 0 and 1. Distances equal to a
limit are beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf, nan, sqrt

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from ulmpaper.core.pairs import best_pairs, pairs_in_reach
from ulmpaper.core.records import check_bubbles, check_positive, check_whole

LIMITS_PX = {"near": 0.25, "far": 0.5}  # below these a bubble counts as found
SCORES = ("jaccard", "precision", "recall")


def join_sequences(
    found: Sequence[pd.DataFrame], truth: Sequence[pd.DataFrame]
) -> tuple[pd.DataFrame, pd.DataFrame]:
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
    >>> from ulmpaper.core.records import bubble_table
    >>> one, two = bubble_table([0, 3], [5, 5], [5, 5], [1, 1]), bubble_table([1], [5], [5], [1])
    >>> [table["frame"].tolist() for table in join_sequences([one, two], [two, one])]
    [[0, 3, 5], [1, 4, 7]]
    """
    if len(found) != len(truth) or not len(found):
        raise ValueError(
            f"give a found and a true table for each sequence, not {len(found)} and {len(truth)}"
        )
    joined = []
    first = 0
    found, truth = (
        [check_bubbles(t, columns=["frame"]) for t in given] for given in (found, truth)
    )
    for tables in zip(found, truth, strict=True):
        joined.append([table.assign(frame=table["frame"] + first) for table in tables])
        first += max(int(table["frame"].max()) + 1 if len(table) else 0 for table in tables)
    one, other = (pd.concat(tables, ignore_index=True) for tables in zip(*joined, strict=True))
    return one, other


def score_bubbles(found: pd.DataFrame, truth: pd.DataFrame) -> dict[str, float]:
    """Score found bubbles: precision, recall, Jaccard index at two distances, and errors.

    Parameters
    ----------
    found, truth : DataFrame
        Tables with the columns ``frame, z, x``, such as `join_sequences` makes.

    Returns
    -------
    dict of str to float
        ``n_found, n_true``; ``jaccard_near, precision_near, recall_near`` with pairs closer than
        0.25 px as hits, and the same ``_far`` for 0.5 px; then `bubbles.localization_errors` of the
        pairs closer than 0.5 px. NaN where there is nothing to divide by.

    Raises
    ------
    TypeError, ValueError
        See `bubbles.match_bubbles`.

    Notes
    -----
    PALA's distances, with as many pairs as possible instead of PALA's own pairing; see
    `bubbles.match_bubbles`.

    Examples
    --------
    >>> truth = pd.DataFrame({"frame": [0, 1], "z": 5.0, "x": 3.0})
    >>> scores = score_bubbles(truth.assign(x=[3.125, 3.375]), truth)
    >>> scores["jaccard_far"], round(scores["jaccard_near"], 3), scores["bias_x"]
    (1.0, 0.333, 0.25)
    """
    pairs = match_bubbles(found, truth, max_distance_px=max(LIMITS_PX.values()))
    scores: dict[str, float] = {"n_found": len(found), "n_true": len(truth)}
    for name, limit in LIMITS_PX.items():
        counted = detection_scores(pairs, max_distance_px=limit)
        scores |= {f"{score}_{name}": counted[score] for score in SCORES}
    return scores | localization_errors(pairs)


def match_bubbles(
    pred: pd.DataFrame, truth: pd.DataFrame, max_distance_px: float = 0.5, *, pala: bool = False
) -> pd.DataFrame:
    """Pair found with true bubbles, frame by frame, each at most once.

    Parameters
    ----------
    pred, truth : DataFrame
        Tables with the columns ``frame, z, x``; either may lack frames of the other or be empty.
    max_distance_px : float
        Pairs are closer than this [px].
    pala : bool
        Repeat ``PALA_PairingAlgorithm``, which misses some pairs.

    Returns
    -------
    DataFrame
        A row for each pair, by ``frame``: ``pred, truth``, rows in the two tables, counted from 0;
        ``dz, dx``, found minus true [px]; ``distance`` [px]. Its ``attrs`` hold ``n_pred`` and
        ``n_truth``, the lengths of the two tables, for `detection_scores`.

    Raises
    ------
    TypeError
        `pred` or `truth` is not a DataFrame.
    ValueError
        A column is missing or holds NaN or infinity, or `max_distance_px` is not above 0.

    Notes
    -----
    As many pairs as possible are made; of all such sets the one with the least sum of squared
    distances is taken. PALA instead sorts both sides by the distance to the nearest of the other,
    and gives each found bubble the nearest of those true ones that come after the last one given
    away. It pairs below half a wavelength, which is 0.5 px there.

    References
    ----------
    Heiles et al., Nat. Biomed. Eng. 6 (2022) 605; Crouse, IEEE Trans. Aerosp. Electron. Syst. 52
    (2016) 1679.

    Examples
    --------
    >>> truth = pd.DataFrame({"frame": 0, "z": 5.0, "x": [3.0, 3.5]})
    >>> match_bubbles(truth.assign(x=[3.25, 2.875]), truth)["dx"].tolist()
    [-0.25, -0.125]
    """
    check_positive(max_distance_px=max_distance_px)
    pred, truth = (check_bubbles(table, columns=["frame", "z", "x"]) for table in (pred, truth))
    # Both tables one below the other, each in order of time, as the search for pairs wants them.
    order = [np.argsort(table["frame"].to_numpy(), kind="stable") for table in (pred, truth)]
    both = pd.concat([pred.iloc[order[0]], truth.iloc[order[1]]], ignore_index=True)
    frame = both["frame"].to_numpy()
    at = both[["z", "x"]].to_numpy(dtype=float)
    pair = _pala_pairs if pala else _best_pairs
    i, j = pair(frame, at, len(pred), max_distance_px)
    dz, dx = (at[i] - at[j]).T
    distance = np.hypot(dz, dx)
    match = pd.DataFrame(
        {
            "frame": frame[i],
            "pred": order[0][i],
            "truth": order[1][j - len(pred)],
            "dz": dz,
            "dx": dx,
            "distance": distance,
        }
    )
    match = match[distance < max_distance_px].reset_index(drop=True)
    match.attrs = {"n_pred": len(pred), "n_truth": len(truth)}
    return match


def detection_scores(match: pd.DataFrame, *, max_distance_px: float = inf) -> dict[str, float]:
    """Count hits, false alarms and misses, and form precision, recall and the Jaccard index.

    Parameters
    ----------
    match : DataFrame
        Pairs, as from `match_bubbles`, which notes how many bubbles it was given.
    max_distance_px : float
        Pairs closer than this are true positives [px]: all by default, below 0.25 px in PALA.

    Returns
    -------
    dict of str to float
        ``n_true_positive, n_false_positive, n_false_negative`` (whole numbers) and
        ``precision, recall, jaccard``, between 0 and 1, NaN where both sides of the fraction are 0.

    Raises
    ------
    ValueError
        `match` does not say how many bubbles there were, or lacks its distances; `max_distance_px`
        is not above 0.

    Notes
    -----
    Precision is :math:`TP / (TP + FP)`, recall :math:`TP / (TP + FN)`, the Jaccard index
    :math:`TP / (TP + FP + FN)`. PALA scores the raw points of its tracks, not all found bubbles.

    References
    ----------
    Heiles et al., Nat. Biomed. Eng. 6 (2022) 605.

    Examples
    --------
    >>> bubbles = pd.DataFrame({"frame": [0, 1], "z": 5.0, "x": 3.0})
    >>> detection_scores(match_bubbles(bubbles[:1], bubbles))["jaccard"]
    0.5
    """
    if not {"n_pred", "n_truth"} <= match.attrs.keys():
        raise ValueError(
            "the table does not say how many bubbles there were: "
            "give it as match_bubbles returned it"
        )
    match = check_bubbles(match, columns=["distance"])
    if not max_distance_px > 0:
        raise ValueError(f"max_distance_px must be above 0, not {max_distance_px!r}")
    n_pred = match.attrs["n_pred"]
    n_truth = match.attrs["n_truth"]
    n = int((match["distance"] < max_distance_px).sum())
    wholes = {"precision": n_pred, "recall": n_truth, "jaccard": n_pred + n_truth - n}
    counts = {"n_true_positive": n, "n_false_positive": n_pred - n, "n_false_negative": n_truth - n}
    return {**counts, **{name: n / whole if whole else nan for name, whole in wholes.items()}}


def localization_errors(match: pd.DataFrame) -> dict[str, float]:
    """Measure bias, spread and size of the distances between paired bubbles.

    Parameters
    ----------
    match : DataFrame
        Pairs, as from `match_bubbles`.

    Returns
    -------
    dict of str to float
        ``n_pairs``; ``bias_z, bias_x``, mean of found minus true [px]; ``std_z, std_x``, standard
        deviation over n - 1 [px]; ``rms`` and ``mean_distance`` [px]. NaN where there are too few
        pairs.

    Notes
    -----
    The rms is :math:`\\sqrt{\\sum (dz^2 + dx^2) / n}`, bias included. No distance exceeds the
    `max_distance_px` of `match_bubbles`, so compare only results of equal limits. PALA's bias is
    true minus found.

    Examples
    --------
    >>> truth = pd.DataFrame({"frame": [0, 1], "z": 5.0, "x": 3.0})
    >>> localization_errors(match_bubbles(truth.assign(x=3.25), truth))["bias_x"]
    0.25
    """
    check_bubbles(match, columns=["dz", "dx", "distance"])
    errors: dict[str, float] = {"n_pairs": len(match)}
    for axis in "zx":
        errors |= {
            f"bias_{axis}": float(match[f"d{axis}"].mean()),
            f"std_{axis}": float(match[f"d{axis}"].std()),
        }
    return errors | {
        "rms": sqrt((match["distance"] ** 2).mean()),
        "mean_distance": float(match["distance"].mean()),
    }


def subpixel_histogram(bubbles: pd.DataFrame, n_bins: int = 20) -> pd.DataFrame:
    """Count positions by their place in the pixel: a flat histogram where localization is good.

    Parameters
    ----------
    bubbles : DataFrame
        Table with the columns ``z, x`` [px].
    n_bins : int
        Bins across the pixel.

    Returns
    -------
    DataFrame
        A row for each bin: ``offset``, its middle, counted from the pixel's centre [px]; ``z, x``,
        density of the positions there, 1 on average, NaN without bubbles.

    Raises
    ------
    ValueError
        A column is missing or holds NaN or infinity, or `n_bins` is not above 0.

    Notes
    -----
    True bubbles take every place alike. The share in a wrong bin is
    ``(hist[["z", "x"]] - 1).abs().mean() / 2``.

    References
    ----------
    Crocker and Grier, J. Colloid Interface Sci. 179 (1996) 298.

    Examples
    --------
    >>> bubbles = pd.DataFrame({"z": [1.1, 2.1], "x": [0.7, 7.3]})
    >>> subpixel_histogram(bubbles, n_bins=2).values.tolist()
    [[-0.25, 0.0, 1.0], [0.25, 2.0, 1.0]]
    """
    position = check_bubbles(bubbles, columns=["z", "x"])[["z", "x"]].to_numpy(dtype=float)
    n_bins = check_whole(n_bins=n_bins)
    # The small shift keeps gridded positions, which lie on the edges of bins, from falling to
    # either side.
    place = np.floor((position + 0.5) % 1 * n_bins + 1e-6).astype(int) % n_bins
    counts = [np.bincount(column, minlength=n_bins) for column in place.T]
    z, x = np.array(counts) * n_bins / (len(place) or nan)
    return pd.DataFrame({"offset": (np.arange(n_bins) + 0.5) / n_bins - 0.5, "z": z, "x": x})


def _best_pairs(
    frame: NDArray, at: NDArray, n_pred: int, max_distance_px: float
) -> tuple[NDArray, NDArray]:
    """Rows of the best pairs closer than the limit; true bubbles stand from row `n_pred` on."""
    rows = np.arange(len(frame))
    i, j, squared = pairs_in_reach(
        frame,
        at,
        rows[:n_pred],
        rows[n_pred:],
        reach_px=max_distance_px,
        frames_between=(0, 0),
    )
    closer = np.hypot(*(at[i] - at[j]).T) < max_distance_px
    i, j = best_pairs(i[closer], j[closer], squared[closer], frame[i[closer]])
    order = np.argsort(i)
    return i[order], j[order]


def _pala_pairs(frame: NDArray, at: NDArray, n_pred: int, _: float) -> tuple[NDArray, NDArray]:
    """Rows that PALA pairs, whatever their distance."""
    pairs = [np.empty((0, 2), dtype=np.intp)]
    for here in np.intersect1d(frame[:n_pred], frame[n_pred:]):
        found = np.arange(*np.searchsorted(frame[:n_pred], [here, here + 1]))
        true = n_pred + np.arange(*np.searchsorted(frame[n_pred:], [here, here + 1]))
        i, j = _pala_walk(cdist(at[found], at[true]))
        pairs.append(np.column_stack([found[i], true[j]]))
    i, j = np.concatenate(pairs).T
    return i, j


def _pala_walk(distance: NDArray) -> tuple[NDArray, NDArray]:
    found, true = (np.argsort(distance.min(axis=axis), kind="stable") for axis in (1, 0))
    given: list[int] = [-1]
    while len(given) <= len(found) and given[-1] + 1 < len(true):
        start = given[-1] + 1
        given.append(start + int(np.argmin(distance[found[len(given) - 1], true[start:]])))
    return found[: len(given) - 1], true[given[1:]]
