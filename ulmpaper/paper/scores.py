"""Scores with bootstrap intervals.

All methods are scored on the same draws, so that differences between them come with intervals too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ulmpaper.core.arguments import explained
from ulmpaper.core.records import check_choice, check_positive, check_rng, check_whole
from ulmpaper.metrics.bubbles import LIMITS_PX
from ulmpaper.metrics.coverage import score_lengths
from ulmpaper.metrics.maps import gridding_index, score_maps

if TYPE_CHECKING:
    from ulmpaper.paper.experiment import Comparison

NEAR_PX = LIMITS_PX["near"]
FAR_PX = LIMITS_PX["far"]
TRUTH = "truth"
BLACK = "black map"
_MOST_DIGITS = 17  # more than a float has
_NORMAL = 1.959964  # standard errors on either side that hold 95 %
_BUBBLE_SCORES: dict[str, tuple[str, Callable[[pd.DataFrame], pd.Series]]] = {
    "precision_near": ("hits_near", lambda n: n["n_found"]),
    "recall_near": ("hits_near", lambda n: n["n_true"]),
    "jaccard_near": ("hits_near", lambda n: n["n_found"] + n["n_true"] - n["hits_near"]),
    "precision_far": ("hits_far", lambda n: n["n_found"]),
    "recall_far": ("hits_far", lambda n: n["n_true"]),
    "jaccard_far": ("hits_far", lambda n: n["n_found"] + n["n_true"] - n["hits_far"]),
    "rms_px": ("squared_error", lambda n: n["hits_far"]),
    "count_error": ("count_error", lambda n: n["n_true"]),
    "count_bias": ("count_bias", lambda n: n["n_true"]),
    "false_tracks": ("n_false_tracks", lambda n: n["n_tracks"]),
}


@explained
@dataclass(frozen=True)
class Scores:
    """Scores of several methods.

    Parameters
    ----------
    values : DataFrame
        A row for each method, a column for each score.
    drawn : ndarray (n, methods, scores)
        The same for groups drawn with replacement.
    """

    values: pd.DataFrame
    drawn: NDArray[np.float64]

    def half_widths(self) -> pd.DataFrame:
        """Half widths of the 95 % intervals: 1.96 standard deviations over the draws, or NaN."""
        half = (
            _NORMAL * _std(self.drawn)
            if len(self.drawn) > 1
            else np.full(self.values.shape, np.nan)
        )
        return pd.DataFrame(half, index=self.values.index, columns=self.values.columns)

    def difference(self, method: str, other: str) -> pd.DataFrame:
        """Scores of one method minus those of another: ``value, low, high`` of each score."""
        for name in (method, other):
            check_choice(name, self.values.index, "method of these scores")
        value = self.values.loc[method] - self.values.loc[other]
        i, j = (self.values.index.get_loc(name) for name in (method, other))
        half = (
            _NORMAL * _std(self.drawn[:, i] - self.drawn[:, j]) if len(self.drawn) > 1 else np.nan
        )
        return pd.DataFrame({"value": value, "low": value - half, "high": value + half})

    def text(self, digits: int = 3) -> pd.DataFrame:
        """Each score as text, ``0.812 ± 0.014``; empty where there is none."""
        digits = min(check_whole(low=0, digits=digits), _MOST_DIGITS)
        half = self.half_widths()
        cells = {
            name: [
                ""
                if np.isnan(v)
                else f"{v:.{digits}f}"
                if np.isnan(h)
                else f"{v:.{digits}f} ± {h:.{digits}f}"
                for v, h in zip(self.values[name], half[name], strict=True)
            ]
            for name in self.values
        }
        return pd.DataFrame(cells, index=self.values.index)

    def as_dict(self, digits: int = 4) -> dict[str, dict[str, list[float | None]]]:
        """Value and half width of each score of each method, for JSON; None where there is none."""
        pairs = np.stack(
            [self.values.to_numpy(dtype=float), self.half_widths().to_numpy()], axis=-1
        )
        return {
            str(method): {
                str(name): [_plain(v, digits) for v in pair]
                for name, pair in zip(self.values, row, strict=True)
            }
            for method, row in zip(self.values.index, pairs, strict=True)
        }


def _draw_groups(n_groups: int, n_draws: int, *, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw as many groups as there are, with replacement, again and again.

    Returns
    -------
    ndarray (n_draws, n_groups) of int
        How often each group was drawn. A single group is not drawn at all.

    Examples
    --------
    >>> _draw_groups(4, 3, rng=np.random.default_rng(0)).sum(axis=1).tolist()
    [4, 4, 4]
    """
    check_rng(rng)
    n_draws = check_whole(low=0, n_draws=n_draws) if n_groups > 1 else 0  # one group has no spread
    picks = rng.integers(n_groups, size=(n_draws, n_groups))
    return np.array([np.bincount(pick, minlength=n_groups) for pick in picks], dtype=int).reshape(
        n_draws, n_groups
    )


def score_bubbles_of(
    comparison: Comparison, *, rng: np.random.Generator, n_draws: int = 1000
) -> Scores:
    """Score the bubbles and tracks of each method.

    Parameters
    ----------
    comparison : Comparison
        As from `experiment.compare`.
    rng : numpy.random.Generator
        Draws the groups.
    n_draws : int
        Number of draws; 0 for scores without intervals.

    Returns
    -------
    Scores
        ``precision, recall, jaccard``, each ``_near`` (hits within 0.25 px) and ``_far`` (0.5 px);
        ``rms_px``, the localization error of pairs within 0.5 px; ``count_error, count_bias``, the
        mean error of the number of bubbles in a frame, without and with its sign, as share of the
        true number; ``false_tracks``, their share.

    Examples
    --------
    >>> from ulmpaper.core.testcard import simulate_testcard
    >>> from ulmpaper.paper.experiment import Method, compare
    >>> rng = np.random.default_rng(0)
    >>> block = simulate_testcard(n_frames=40, n_bubbles=5, shape_px=(40, 48), rng=rng)
    >>> made = compare([block], {"RS": Method("radial", 5)}, "smoke", span=10)
    >>> made.bubble_scores(rng=np.random.default_rng(0)).text(2).loc["RS", "recall_far"]
    '0.84 ± 0.19'
    """
    weights = _draw_groups(len(comparison.groups), n_draws, rng=rng)
    names = list(_BUBBLE_SCORES)
    values = [
        _ratios(comparison.sums[method].sum().to_frame().T).iloc[0] for method in comparison.methods
    ]
    drawn = [
        _ratios(pd.DataFrame(weights @ table.to_numpy(), columns=table.columns)).to_numpy()
        for table in (comparison.sums[method] for method in comparison.methods)
    ]
    return Scores(
        pd.DataFrame(values, index=comparison.methods, columns=names), np.stack(drawn, axis=1)
    )


def score_maps_of(
    comparison: Comparison,
    *,
    rng: np.random.Generator,
    n_draws: int = 30,
    centreline: pd.DataFrame | None = None,
    n_jobs: int = 1,
) -> Scores:
    """Score the maps of each method, and a black one.

    Parameters
    ----------
    comparison : Comparison
        As from `experiment.compare`.
    rng : numpy.random.Generator
        Draws the groups.
    n_draws : int
        Number of draws; each costs as much as the scores themselves.
    centreline : DataFrame, optional
        Middle lines of the vessels, see `coverage.mask_centreline`.
    n_jobs : int
        Threads.

    Returns
    -------
    Scores
        Those of `maps.score_image` and `coverage.score_lines`; ``gridding`` [dB] of the tracks'
        bare points, see `maps.gridding_index`; with a `centreline` those of
        `coverage.score_lengths`. The methods are followed by ``black map`` and ``truth``, of which
        some scores tell what can be reached.

    Notes
    -----
    A draw repeats some groups and misses others, so its map shows less of the vessels than the
    whole and scores otherwise. Only the spread over the draws is used, around the value of the
    whole.
    """
    check_positive(n_jobs=n_jobs)
    ones = np.ones((1, len(comparison.groups)))
    weights = np.concatenate([ones, _draw_groups(len(comparison.groups), n_draws, rng=rng)])
    methods = [*comparison.methods, BLACK, TRUTH]
    score = joblib.delayed(_score_maps)
    tasks = (score(comparison, method, w, centreline) for w in weights for method in methods)
    rows = joblib.Parallel(n_jobs=n_jobs, prefer="threads")(tasks)
    table = np.array([list(row.values()) for row in rows]).reshape(len(weights), len(methods), -1)
    return Scores(pd.DataFrame(table[0], index=methods, columns=list(rows[0])), table[1:])


def _score_maps(
    comparison: Comparison, method: str, weights: NDArray, centreline: pd.DataFrame | None
) -> dict[str, float]:
    """Scores of one map, for groups that count as often as `weights` says."""
    upsample = comparison.upsample
    truth = comparison.density(TRUTH, weights=weights)
    estimate = np.zeros_like(truth)
    points = np.zeros_like(truth)
    if method != BLACK:
        estimate = comparison.density(method, weights=weights)
        points = comparison.density(method, weights=weights, points=True)
    scores = score_maps(estimate, truth, upsample=upsample)
    scores["gridding"] = gridding_index(points, upsample)
    if centreline is not None:
        pala = comparison.pala
        scores |= score_lengths(centreline, estimate, truth, upsample=upsample, pala=pala)
    return scores


def _ratios(sums: pd.DataFrame) -> pd.DataFrame:
    """Scores of rows of sums; NaN where both sides of the fraction are 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = {
            name: sums[above].to_numpy(dtype=float) / whole(sums).to_numpy(dtype=float)
            for name, (above, whole) in _BUBBLE_SCORES.items()
        }
    return pd.DataFrame({**scores, "rms_px": np.sqrt(scores["rms_px"])})


def _std(drawn: NDArray) -> NDArray:
    """Standard deviation over the draws that have a score; NaN where fewer than two have one."""
    known = np.isfinite(drawn)
    n = known.sum(axis=0)
    mean = np.where(known, drawn, 0).sum(axis=0) / np.maximum(n, 1)
    square = (np.where(known, drawn - mean, 0) ** 2).sum(axis=0)
    return np.sqrt(np.where(n > 1, square / np.maximum(n - 1, 1), np.nan))


def _plain(value: float, digits: int) -> float | None:
    return round(float(value), digits) if np.isfinite(value) else None
