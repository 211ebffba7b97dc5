"""Frame pixels to map pixels and back, on our grid and on PALA's."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ulmpaper.core.records import check_whole

# Four maps of this size take 32 GB.
_MOST_PIXELS = 10**9


def map_shape(
    shape_px: tuple[int, int], *, upsample: int = 10, pala: bool = False
) -> tuple[int, int]:
    """Size (z, x) of the maps of frames of `shape_px`.

    Raises
    ------
    ValueError
        Not two whole numbers, `upsample` is none, or the map would have more than 1e9 pixels.

    Examples
    --------
    >>> map_shape((84, 143)), map_shape((84, 143), pala=True)
    ((840, 1430), (841, 1431))
    """
    if np.shape(shape_px) != (2,):
        raise ValueError(f"shape_px is the size of a frame, (z, x) [px], not {shape_px!r}")
    n_z = check_whole(z=shape_px[0]) * check_whole(upsample=upsample) + pala
    n_x = check_whole(x=shape_px[1]) * int(upsample) + pala
    if n_z * n_x > _MOST_PIXELS:
        raise ValueError(
            f"maps of {n_z:,} x {n_x:,} pixels are larger than {_MOST_PIXELS:,} pixels: "
            f"give an upsample below {upsample}"
        )
    return (n_z, n_x)


def map_index(
    position_px: ArrayLike, *, upsample: int = 10, pala: bool = False
) -> NDArray[np.intp]:
    """Index along one axis of the map pixel that holds each position.

    Examples
    --------
    >>> map_index([-0.5, 0.0, 0.04, 0.1]).tolist()
    [0, 5, 5, 6]
    >>> map_index([-0.5, 0.0, 0.04, 0.1], pala=True).tolist()
    [4, 9, 9, 10]
    """
    check_whole(upsample=upsample)
    if not np.isfinite(np.asarray(position_px, dtype=float)).all():
        raise ValueError("positions must be finite numbers of pixels: drop NaN and infinite ones")
    # PALA: pixels from 1, rounded half up; its positions are single precision from the start.
    if pala:
        position = np.asarray(position_px, dtype=np.float32)
        return np.floor((position + 1) * np.float32(upsample) + np.float32(0.5)).astype(np.intp) - 1
    return np.floor((np.asarray(position_px, dtype=float) + 0.5) * upsample).astype(np.intp)


def frame_position(
    index: ArrayLike, *, upsample: int = 10, pala: bool = False
) -> NDArray[np.float64]:
    """Frame coordinate of the centres of map pixels along one axis [px]; `map_index` undone.

    Parameters
    ----------
    index : array_like
        Indices of map pixels, fractional ones too.
    upsample : int
        Map pixels in one pixel of the frames, along each axis.
    pala : bool
        On PALA's grid.

    Examples
    --------
    >>> frame_position([0, 5, 9]).round(2).tolist()
    [-0.45, 0.05, 0.45]
    >>> map_index(frame_position([4, 9, 10], pala=True), pala=True).tolist()
    [4, 9, 10]
    """
    index = np.asarray(index, dtype=float)
    check_whole(upsample=upsample)
    if pala:  # both grids count from 1, and map pixel n lies at n / upsample frame pixels
        return (index + 1) / upsample - 1
    return (index + 0.5) / upsample - 0.5
