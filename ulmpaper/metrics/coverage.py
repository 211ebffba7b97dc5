"""Share of the vessels that a map shows, and share of false pixels."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from ulmpaper.core.doors import optional
from ulmpaper.core.grid import frame_position
from ulmpaper.core.records import check_bubbles, check_whole


def score_lines(
    estimate: ArrayLike, reference: ArrayLike, *, upsample: int = 10
) -> dict[str, float]:
    """Compare where two density maps have tracks, to half a pixel of the frames.

    Parameters
    ----------
    estimate, reference : array_like (Z, X)
        Density maps on the same grid.
    upsample : int
        Map pixels per pixel of the frames.

    Returns
    -------
    dict of str to float
        ``covered``, the share of the true tracks' pixels with a track of the estimate within half a
        pixel, along each axis; ``false``, the share of the estimate's pixels without a true one
        there. NaN where there are no pixels.

    Raises
    ------
    ValueError
        The maps differ in shape, or have not two axes; `upsample` is no whole number.

    Examples
    --------
    >>> truth, found = np.zeros((2, 40, 40))
    >>> truth[:, 10] = found[:20, 13] = found[:20, 30] = 1
    >>> score_lines(found, truth)
    {'covered': 0.625, 'false': 0.5}
    """
    upsample = check_whole(upsample=upsample)
    drawn, true = (np.asarray(density) > 0 for density in (estimate, reference))
    if drawn.shape != true.shape:
        raise ValueError(f"the maps differ in shape: {drawn.shape} and {true.shape}")
    if drawn.ndim != 2:
        raise ValueError(f"a map has two axes (z, x), not shape {drawn.shape}")
    # No window reaches farther than the map.
    reach = min(upsample // 2, max(drawn.shape))
    near_drawn, near_true = (
        ndimage.maximum_filter(lines, 2 * reach + 1) for lines in (drawn, true)
    )
    return {"covered": _share(near_drawn[true]), "false": _share(~near_true[drawn])}


def mask_centreline(mask: ArrayLike) -> pd.DataFrame:
    """Pixels along the middle lines of the vessels in a mask.

    Parameters
    ----------
    mask : array_like (Z, X) bool
        Inside of the vessels, on the pixels of the frames.

    Returns
    -------
    DataFrame
        ``z, x`` [px]; ``reach``, the distance to the first pixel outside [px]; ``vessel``, its
        width in words.

    Examples
    --------
    >>> mask = np.zeros((7, 9), bool)
    >>> mask[2:5, 1:-1] = True
    >>> centreline = mask_centreline(mask)
    >>> int(centreline.z.mode()[0]), float(centreline.reach.max()), centreline.vessel.mode()[0]
    (3, 2.0, '2 to 4 px wide')
    """
    with optional("simulate"):
        from skimage.morphology import skeletonize  # slow to load

    inside = np.array(mask, dtype=bool)
    if inside.ndim != 2:
        raise ValueError(f"a mask has two axes (z, x), not shape {inside.shape}")
    line = np.argwhere(skeletonize(inside.copy()))
    reach = ndimage.distance_transform_edt(inside)[tuple(line.T)]
    width = np.select([reach < 1.5, reach < 2.5], ["under 2 px wide", "2 to 4 px wide"], "wider")
    return pd.DataFrame({"z": line[:, 0], "x": line[:, 1], "reach": reach, "vessel": width})


def is_shown(
    centreline: pd.DataFrame, density: ArrayLike, *, upsample: int = 10, pala: bool = False
) -> NDArray[np.bool_]:
    """Tell for each point of a centreline, whether a density map has a track within its reach.

    Parameters
    ----------
    centreline : DataFrame
        As from `phantom_centreline` or `mask_centreline`.
    density : array_like (Z, X)
        Density map.
    upsample : int
        Map pixels per pixel of the frames.
    pala : bool
        The map lies on PALA's grid, see `ulmpaper.core.render.density`.

    Examples
    --------
    >>> centreline = pd.DataFrame({"z": [0.0, 1.0], "x": [2.0, 2.0], "reach": 0.6})
    >>> density = np.zeros((20, 40))
    >>> density[0, 25] = 1  # at z = -0.45, x = 2.05
    >>> is_shown(centreline, density).tolist()
    [True, False]
    """
    place = ["z", "x"]
    points = check_bubbles(centreline, columns=[*place, "reach"])[place].to_numpy(dtype=float)
    density = np.asarray(density)
    if density.ndim != 2 or density.dtype.kind not in "biuf":
        raise ValueError(
            f"a density map is an image (z, x) of real numbers, not {density.dtype} of shape "
            f"{density.shape}"
        )
    drawn = frame_position(np.argwhere(density > 0), upsample=upsample, pala=pala)
    if not len(drawn) or not len(points):
        return np.zeros(len(points), dtype=bool)
    return cKDTree(drawn).query(points)[0] <= centreline["reach"].to_numpy(dtype=float)


def score_lengths(
    centreline: pd.DataFrame,
    estimate: ArrayLike,
    reference: ArrayLike,
    *,
    upsample: int = 10,
    pala: bool = False,
) -> dict[str, float]:
    """Measure the shares of the vessels' length that maps show; parameters as in `is_shown`.

    Returns
    -------
    dict of str to float
        ``length``, the share that the estimate shows of what the reference shows; ``visited``, the
        share that the reference shows of the whole. NaN where there is nothing to show.

    Examples
    --------
    >>> centreline = pd.DataFrame({"z": 0.0, "x": range(4), "reach": 0.5})
    >>> truth = np.zeros((10, 40))
    >>> truth[:, :20] = 1
    >>> score_lengths(centreline, np.where(np.arange(40) < 8, truth, 0), truth)
    {'length': 0.5, 'visited': 0.5}
    """
    visited = is_shown(centreline, reference, upsample=upsample, pala=pala)
    shown = is_shown(centreline, estimate, upsample=upsample, pala=pala)
    return {
        "length": _share(shown[visited]),
        "visited": _share(visited),
    }


def _share(flags: NDArray[np.bool_]) -> float:
    return float(flags.mean()) if flags.size else float("nan")
