"""Pairs of points within reach of each other, and the best of all ways to pair them.

Memory goes by the number of pairs within reach, not by all pairs: a k-d tree finds them.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.spatial import cKDTree

# Pairs with rivals are assigned in a dense matrix up to this many entries (2 MB), then in a sparse
# one.
_DENSE_ENTRIES = 250_000
_Indices = NDArray[np.intp]


def pairs_in_reach(
    frame: NDArray[np.int64],
    at: NDArray[np.float64],
    first: _Indices,
    second: _Indices,
    *,
    reach_px: float,
    frames_between: tuple[int, int],
) -> tuple[_Indices, _Indices, NDArray[np.float64]]:
    """Find all pairs of a first with a second row that lie near each other in place and time.

    Parameters
    ----------
    frame : ndarray of int (n,)
        Frame of each row.
    at : ndarray (n, 2)
        Place of each row [px].
    first, second : ndarray of int
        Rows that pairs may begin and end with.
    reach_px : float
        Longest distance, itself allowed [px].
    frames_between : (int, int)
        Least and largest number of frames from the first to the second, both allowed.

    Returns
    -------
    first, second : ndarray of int (m,)
        The rows of each pair, in order of the first, then the second.
    squared : ndarray (m,)
        Their squared distance [px^2].

    Examples
    --------
    >>> frame, at = np.array([0, 1, 1]), np.array([[5.0, 5.0], [5.0, 6.0], [9.0, 9.0]])
    >>> rows = np.arange(3)
    >>> found = pairs_in_reach(frame, at, rows, rows, reach_px=2, frames_between=(1, 1))
    >>> [column.tolist() for column in found]
    [[0], [1], [1.0]]
    """
    low, high = frames_between
    if not len(first) or not len(second) or high < low:
        return np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0)
    # The search squares distances: of much larger or smaller numbers there are no squares.
    reach = min(max(reach_px, 1e-6), 1e100)
    # Time is a third axis of the search. Long waits are shortened, since floats would not tell
    # frames apart beside them.
    distinct, place = np.unique(frame, return_inverse=True)
    waits = np.minimum(np.diff(distinct, prepend=distinct[:1]), high + 1)
    time = np.cumsum(waits)[place].astype(float)
    # The middle of the allowed frames is moved to 0. A frame beyond them is about as far as a place
    # beyond reach; where one frame only is allowed, others are far away, which is fastest.
    half = (high - low) / 2
    scale = reach * (1 / (half + 0.5) if half else 1000)
    begins = np.column_stack([(time[first] + low + half) * scale, at[first]])
    ends = np.column_stack([time[second] * scale, at[second]])
    # The ball holds all that is allowed, and a little more, which is dropped below.
    near = cKDTree(begins).sparse_distance_matrix(
        cKDTree(ends), np.hypot(reach, half * scale) * (1 + 1e-9), output_type="ndarray"
    )
    i = first[near["i"]]
    j = second[near["j"]]
    squared = ((at[i] - at[j]) ** 2).sum(axis=1)
    later = frame[j] - frame[i]
    kept = np.flatnonzero((squared <= min(reach_px, 1e100) ** 2) & (later >= low) & (later <= high))
    kept = kept[np.lexsort((j[kept], i[kept]))]
    return i[kept], j[kept], squared[kept]


def best_pairs(
    i: _Indices, j: _Indices, squared: NDArray[np.float64], group: NDArray
) -> tuple[_Indices, _Indices]:
    """Choose most pairs, each row once, and of all such sets the one of least squared distance.

    Parameters
    ----------
    i, j : ndarray of int (m,)
        Allowed pairs, in order of i, then j.
    squared : ndarray (m,)
        Their squared distances.
    group : ndarray (m,)
        Frame of each pair, rising with i and with j; pairs of two groups share no row.

    Returns
    -------
    i, j : ndarray of int
        The chosen pairs.

    Notes
    -----
    Crouse, IEEE Trans. Aerosp. Electron. Syst. 52 (2016) 1679, in the form of scipy.

    Examples
    --------
    >>> i, j = np.array([0, 0, 1]), np.array([0, 1, 0])
    >>> [rows.tolist() for rows in best_pairs(i, j, np.array([0.1, 1.0, 1.0]), np.zeros(3))]
    [[0, 1], [1, 0]]
    """
    if not len(i):
        return i, j
    # Pairs without a rival need no search; most bubbles are such.
    alone = (np.bincount(i)[i] == 1) & (np.bincount(j)[j] == 1)
    chosen = [(i[alone], j[alone])]
    i, j, squared, group = (values[~alone] for values in (i, j, squared, group))
    rows, row = np.unique(i, return_inverse=True)
    columns, column = np.unique(j, return_inverse=True)
    edges = np.flatnonzero(np.diff(group, prepend=np.nan, append=np.nan))
    for start, stop in itertools.pairwise(edges):
        first_row = row[start]
        first_column = column[start:stop].min()
        r, c = _assign(
            row[start:stop] - first_row, column[start:stop] - first_column, squared[start:stop]
        )
        chosen.append((rows[first_row + r], columns[first_column + c]))
    one, other = zip(*chosen, strict=True)
    return np.concatenate(one), np.concatenate(other)


def _assign(row: NDArray, column: NDArray, squared: NDArray) -> tuple[NDArray, NDArray]:
    """Chosen rows and columns of a frame, counted from 0."""
    n_rows = row[-1] + 1
    n_columns = column.max() + 1
    # A barred pair costs more than all allowed ones together: the number of pairs comes first.
    barred = squared.sum() + 1
    if n_rows * n_columns <= _DENSE_ENTRIES:
        cost = np.full((n_rows, n_columns), barred)
        cost[row, column] = squared
        r, c = linear_sum_assignment(cost)
        good = cost[r, c] < barred
    else:
        # Each row may also stay alone, in a column of its own. Sparse matrices know no weight of 0,
        # so all weights are raised by the same amount.
        own = np.arange(n_rows)
        weights = np.concatenate([squared, np.full(n_rows, barred)]) + 1
        places = np.concatenate([row, own]), np.concatenate([column, n_columns + own])
        graph = sparse.coo_array((weights, places), shape=(n_rows, n_columns + n_rows)).tocsr()
        r, c = sparse.csgraph.min_weight_full_bipartite_matching(graph)
        good = c < n_columns
    return r[good], c[good]
