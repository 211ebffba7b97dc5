"""Bubble tables as maps that networks learn; `ulmpaper.decode` reads them back.

*Offset maps* (3, N, Z, X), for 3DML-ResNet: p is 1 in the pixel ``floor(z + 1/2), floor(x + 1/2)`` of a bubble, and
oz, ox give its place in that pixel from the upper and left edge, ``z - pixel + 1/2``, so from 0 to 1.

*Heat maps* (T, 1, uZ, uX), for mSPCN: 1 in the fine pixel of a bubble. With u fine pixels to a pixel and side, fine
pixel k covers ``k/u - 1/2`` to ``(k + 1)/u - 1/2``, so its centre is at ``(k + 1/2)/u - 1/2``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from ulmpaper.records import check_bubbles, check_positive


def encode_offsets(bubbles: pd.DataFrame, n_frames: int, shape_px: tuple[int, int]) -> Tensor:
    """Write bubbles as offset maps.

    Parameters
    ----------
    bubbles : DataFrame
        Bubble table; ``frame`` counts from the window's first frame. Bubbles outside the picture are left out; of
        several in one pixel the brightest stays, see `count_merged`.
    n_frames : int
        Frames N of the window.
    shape_px : (int, int)
        Size of a frame (z, x) [px].

    Returns
    -------
    Tensor (3, N, Z, X) float32
        p, oz, ox: 0 wherever there is no bubble.

    Raises
    ------
    TypeError, ValueError
        Not a bubble table, sizes not above 0, or a frame outside the window.

    Notes
    -----
    Paper, section II-E: detection probability "either zero or one", places "normalized to the [0, 1] interval".

    Examples
    --------
    >>> from ulmpaper.records import bubble_table
    >>> maps = encode_offsets(bubble_table([0], [1.25], [2.5], [1.0]), 1, (4, 5))
    >>> maps[:, 0, 1, 3].tolist(), int(maps[0].sum())
    ([1.0, 0.75, 0.0], 1)
    """
    rows, (frame, row, column), _ = _occupants(bubbles, n_frames, shape_px)
    maps = np.zeros((3, n_frames, *shape_px), dtype=np.float32)
    maps[0, frame, row, column] = 1
    maps[1, frame, row, column] = bubbles["z"].to_numpy()[rows] - row + 0.5
    maps[2, frame, row, column] = bubbles["x"].to_numpy()[rows] - column + 0.5
    return torch.from_numpy(maps)


def encode_heatmap(bubbles: pd.DataFrame, n_frames: int, shape_px: tuple[int, int], *, upsample: int = 4) -> Tensor:
    """Write bubbles as heat maps.

    Parameters
    ----------
    bubbles, n_frames, shape_px
        As in `encode_offsets`.
    upsample : int
        Fine pixels per pixel and side.

    Returns
    -------
    Tensor (T, 1, uZ, uX) float32
        1 in fine pixels that hold a bubble, else 0: shaped as what `ulmpaper.model.MSPCN` makes of a batch of frames.

    Raises
    ------
    TypeError, ValueError
        See `encode_offsets`.

    Notes
    -----
    Liu et al., IEEE Trans. Med. Imaging 39 (2020) 3064. `ulmpaper.loss.mspcn_loss` scales and blurs the target.

    Examples
    --------
    >>> from ulmpaper.records import bubble_table
    >>> encode_heatmap(bubble_table([0], [0.0], [1.0], [1.0]), 1, (2, 2)).nonzero().tolist()
    [[0, 0, 2, 6]]
    """
    _, (frame, row, column), _ = _occupants(bubbles, n_frames, shape_px, upsample)
    maps = np.zeros((n_frames, 1, *(upsample * n for n in shape_px)), dtype=np.float32)
    maps[frame, 0, row, column] = 1
    return torch.from_numpy(maps)


def count_merged(bubbles: pd.DataFrame, n_frames: int, shape_px: tuple[int, int], *, upsample: int = 1) -> int:
    """Count the bubbles that a target lacks because a brighter one has their pixel.

    Parameters
    ----------
    bubbles, n_frames, shape_px, upsample
        As in `encode_offsets` and `encode_heatmap`.

    Returns
    -------
    int
        Bubbles inside the picture less pixels that hold any.

    Examples
    --------
    >>> from ulmpaper.records import bubble_table
    >>> count_merged(bubble_table([0, 0, 1], [1.0, 1.25, 1.0], [2.0, 2.0, 2.0], [1.0, 0.5, 1.0]), 2, (4, 5))
    1
    """
    return _occupants(bubbles, n_frames, shape_px, upsample)[2]


def _occupants(
    bubbles: pd.DataFrame, n_frames: int, shape_px: tuple[int, int], upsample: int = 1
) -> tuple[NDArray, tuple[NDArray, ...], int]:
    """Rows of the brightest bubble of each pixel, these pixels (frame, z, x), and the number of other bubbles."""
    check_bubbles(bubbles)
    check_positive(n_frames=n_frames, z=shape_px[0], x=shape_px[1], upsample=upsample)
    frame, z, x, score = (bubbles[name].to_numpy() for name in ("frame", "z", "x", "score"))
    if len(frame) and (frame.min() < 0 or frame.max() >= n_frames):
        raise ValueError(
            f"the table holds frames {frame.min()} to {frame.max()}, but the window only 0 to {n_frames - 1}: "
            "take the window's bubbles and subtract its first frame"
        )
    shape = (n_frames, upsample * shape_px[0], upsample * shape_px[1])
    row, column = (np.floor((place + 0.5) * upsample) for place in (z, x))
    inside = (row >= 0) & (row < shape[1]) & (column >= 0) & (column < shape[2])
    by_brightness = np.flatnonzero(inside)[np.argsort(-score[inside], kind="stable")]
    where = (frame * shape[1] + row) * shape[2] + column
    pixel, first = np.unique(where[by_brightness].astype(np.int64), return_index=True)
    return by_brightness[first], np.unravel_index(pixel, shape), len(by_brightness) - len(pixel)
