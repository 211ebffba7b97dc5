"""Bubbles to the maps that networks learn, and predicted maps back to bubbles.

*Offset maps* (3, N, Z, X), for 3DML-ResNet: p is 1 in the pixel ``floor(z + 1/2), floor(x + 1/2)`` of a bubble, and
oz, ox give its place in that pixel from the upper and left edge, ``z - pixel + 1/2``, so from 0 to 1.

*Heat maps* (T, 1, uZ, uX), for mSPCN: 1 in the fine pixel of a bubble. With u fine pixels to a pixel and side, fine
pixel k covers ``k/u - 1/2`` to ``(k + 1)/u - 1/2``, so its centre is at ``(k + 1/2)/u - 1/2``.

Bubbles read off the maps that networks make; `ulmpaper.networks.targets` says what the maps mean.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn
from torch.nn import functional

from ulmpaper.core.records import bubble_table, check_bubbles, check_positive


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
    >>> from ulmpaper.core.records import bubble_table
    >>> maps = encode_offsets(bubble_table([0], [1.25], [2.5], [1.0]), 1, (4, 5))
    >>> maps[:, 0, 1, 3].tolist(), int(maps[0].sum())
    ([1.0, 0.75, 0.0], 1)
    """
    rows, (frame, row, column) = _occupants(bubbles, n_frames, shape_px)
    maps = np.zeros((3, n_frames, *shape_px), dtype=np.float32)
    maps[0, frame, row, column] = 1
    maps[1, frame, row, column] = bubbles["z"].to_numpy()[rows] - row + 0.5
    maps[2, frame, row, column] = bubbles["x"].to_numpy()[rows] - column + 0.5
    return torch.from_numpy(maps)


def encode_heatmap(
    bubbles: pd.DataFrame, n_frames: int, shape_px: tuple[int, int], *, upsample: int = 4
) -> Tensor:
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
        1 in fine pixels that hold a bubble, else 0: shaped as what `ulmpaper.networks.model.MSPCN` makes of a batch of frames.

    Raises
    ------
    TypeError, ValueError
        See `encode_offsets`.

    Notes
    -----
    Liu et al., IEEE Trans. Med. Imaging 39 (2020) 3064. `ulmpaper.networks.loss.mspcn_loss` scales and blurs the target.

    Examples
    --------
    >>> from ulmpaper.core.records import bubble_table
    >>> encode_heatmap(bubble_table([0], [0.0], [1.0], [1.0]), 1, (2, 2)).nonzero().tolist()
    [[0, 0, 2, 6]]
    """
    _, (frame, row, column) = _occupants(bubbles, n_frames, shape_px, upsample)
    maps = np.zeros((n_frames, 1, *(upsample * n for n in shape_px)), dtype=np.float32)
    maps[frame, 0, row, column] = 1
    return torch.from_numpy(maps)


def _occupants(
    bubbles: pd.DataFrame, n_frames: int, shape_px: tuple[int, int], upsample: int = 1
) -> tuple[NDArray, tuple[NDArray, ...]]:
    """Rows of the brightest bubble of each pixel, and these pixels (frame, z, x)."""
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
    return by_brightness[first], np.unravel_index(pixel, shape)


MIN_DISTANCE_PX = 0.7  # between two bubbles that are told apart
LEAST_WEIGHT = 1e-6  # of an answer in the mean of the offsets


class Mirrored(nn.Module):
    """Look at frames twice, as they are and mirrored left to right, and average what a localizer says.

    Parameters
    ----------
    net : Module
        Maps (B, 3, N, Z, X) of frames (B, 1, N, Z, X), such as `ulmpaper.networks.model.ML3DResNet`.

    Notes
    -----
    Ours. Frames have no preferred side, but a trained network is not exactly symmetric: the two answers err apart, and
    their mean errs less, at twice the work. Offsets are weighted by p, as in `ulmpaper.networks.predict.predict_maps`.

    Examples
    --------
    >>> from ulmpaper.networks.model import ML3DResNet
    >>> net = Mirrored(ML3DResNet(4, 1))
    >>> frames = torch.rand(1, 1, 5, 16, 12)
    >>> torch.allclose(net(frames)[:, 0], net(frames.flip(-1))[:, 0].flip(-1), atol=1e-6)
    True
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, frames: Tensor) -> Tensor:
        """Maps (B, 3, N, Z, X) float32 of `frames` (B, 1, N, Z, X)."""
        maps, other = self.net(frames).float(), self.net(frames.flip(-1)).flip(-1).float()
        other = torch.cat([other[:, :2], 1 - other[:, 2:]], dim=1)
        weight, other_weight = (m[:, :1].clamp(min=LEAST_WEIGHT) for m in (maps, other))
        offsets = (weight * maps[:, 1:] + other_weight * other[:, 1:]) / (weight + other_weight)
        return torch.cat([(maps[:, :1] + other[:, :1]) / 2, offsets], dim=1)


def decode_offsets(
    maps: Tensor | ArrayLike,
    counts: Tensor | ArrayLike,
    *,
    threshold: float = 0.0,
    min_distance_px: float = MIN_DISTANCE_PX,
) -> pd.DataFrame:
    """Read bubbles off offset maps: in each frame the most probable ones.

    Parameters
    ----------
    maps : Tensor or array_like (3, N, Z, X)
        p, oz, ox, as from `encode_offsets` or one window of `ulmpaper.networks.model.ML3DResNet`.
    counts : int or array_like (N,) of int
        Bubbles in each frame, or in every frame. A frame with fewer candidates gives fewer.
    threshold : float
        A bubble's score must be above this.
    min_distance_px : float
        Neighbouring pixels that tell places nearer than this to each other mean the same bubble [px]. 0 takes every
        pixel for a bubble of its own, as the paper does.

    Returns
    -------
    DataFrame
        Bubble table in pixels. By frame, and in a frame from the highest ``score`` down. A bubble is a pixel of which
        no neighbour means the same bubble with a higher p, or with an equal one before it. Its score is the sum of
        its p and that of the neighbours that mean it, at most 1, and its place the mean of theirs, weighted by p.

    Raises
    ------
    ValueError
        Maps of another shape or with NaN, counts that are not whole numbers, below 0 or not one for each frame,
        a threshold outside 0 to 1, a negative distance.

    Notes
    -----
    Paper, section II-B: "the N_i MBs with the highest probability of existence in each US frame are selected". The
    threshold and the joining of neighbours are ours. Without the one, bubbles are made of noise where the number is too
    high. Without the other, a bubble at the edge of a pixel, where p is shared, is found twice or hardly. Places are
    compared and not just pixels, because bubbles in neighbouring pixels may well be two.

    Examples
    --------
    >>> from ulmpaper.networks.targets import encode_offsets
    >>> bubble = bubble_table([1], [4.25], [2.5], [1.0])
    >>> bool((decode_offsets(encode_offsets(bubble, 2, (9, 9)), 5) == bubble).all(axis=None))
    True
    """
    values = _tensor(maps)
    if values.ndim != 4 or len(values) != 3 or 0 in values.shape:
        raise ValueError(
            f"offset maps are p, oz, ox and have the shape (3, N, Z, X), not {tuple(values.shape)}"
        )
    _check_finite(values)
    if not 0 <= min_distance_px < np.inf:
        raise ValueError(f"min_distance_px must be a number of 0 or more, not {min_distance_px}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a probability, so from 0 to 1, not {threshold}")
    (found, *offsets), is_double = _joined(values.float(), min_distance_px)
    frame, row, column, score = _strongest(found, (found > threshold) & ~is_double, counts)
    offset_z, offset_x = (offset[frame, row, column].double() - 0.5 for offset in offsets)
    return bubble_table(*(part.cpu() for part in (frame, row + offset_z, column + offset_x, score)))


def decode_heatmap(
    heatmap: Tensor | ArrayLike,
    upsample: int,
    *,
    threshold: float | None = None,
    counts: Tensor | ArrayLike | None = None,
    side: int = 7,
    centre_side: int = 1,
) -> pd.DataFrame:
    """Read bubbles off heat maps: peaks above a threshold, or the highest peaks.

    Parameters
    ----------
    heatmap : Tensor or array_like (T, uZ, uX) or (T, 1, uZ, uX)
        As from `encode_heatmap` or `ulmpaper.networks.model.MSPCN`.
    upsample : int
        Fine pixels per pixel and side.
    threshold : float, optional
        Peaks must be above this value; 0 by default.
    counts : int or array_like (T,) of int, optional
        Most bubbles in each frame, or in every frame; by default all peaks above `threshold`, which must be given.
    side : int
        A peak is the highest of a square of fine pixels with this side, odd; 1 takes every fine pixel.
    centre_side : int
        The place is the centre of mass of the heat in a square of this side around the peak, odd; 1 takes the centre of
        the peak's fine pixel.

    Returns
    -------
    DataFrame
        Bubble table in pixels of the frames; ``score`` is the value of the peak. By frame, then from the highest down.

    Raises
    ------
    ValueError
        See `decode_offsets`; an even side; neither `threshold` nor `counts`.

    Notes
    -----
    Non-maximum suppression and a threshold, as Hahne et al. (IEEE IUS 2023) read mSPCN out; its authors show maps only.
    The default square keeps bubbles apart by a pixel where `upsample` is 4. The centre of mass is ours.

    Examples
    --------
    >>> from ulmpaper.networks.targets import encode_heatmap
    >>> bubble = bubble_table([0], [4.125], [2.375], [1.0])
    >>> bool((decode_heatmap(encode_heatmap(bubble, 1, (9, 9)), 4, threshold=0.5) == bubble).all(axis=None))
    True
    """
    check_positive(upsample=upsample, side=side, centre_side=centre_side)
    for name, value in (("side", side), ("centre_side", centre_side)):
        if value % 2 == 0:
            raise ValueError(
                f"{name} must be odd, not {value}: a fine pixel and as many on both sides"
            )
    if threshold is None and counts is None:
        raise ValueError("give threshold, counts or both: every ripple of a heat map is a peak")
    maps = _tensor(heatmap)
    if maps.ndim == 4 and maps.shape[1] == 1:
        maps = maps[:, 0]
    if maps.ndim != 3 or 0 in maps.shape:
        raise ValueError(
            f"heat maps have the shape (T, uZ, uX) or (T, 1, uZ, uX), not {tuple(maps.shape)}"
        )
    _check_finite(maps)
    maps = maps.float()
    candidate = maps > (threshold or 0.0)
    if side > 1:
        candidate &= _peaks(maps, side // 2)
    frame, row, column, score = _strongest(maps, candidate, counts)
    shift_z, shift_x = _centre_of_mass(maps, frame, row, column, centre_side // 2)
    z, x = (
        (pixel + shift + 0.5) / upsample - 0.5
        for pixel, shift in ((row, shift_z), (column, shift_x))
    )
    return bubble_table(*(part.cpu() for part in (frame, z, x, score)))


def _strongest(
    maps: Tensor, candidate: Tensor, counts: Tensor | ArrayLike | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Indices (t, z, x) and values of the highest candidates, at most `counts` in each frame."""
    n = candidate.sum(dim=(1, 2))
    if counts is not None:
        n = torch.minimum(n, _check_counts(counts, len(maps)).to(n))
    value, pixel = torch.where(candidate, maps, -torch.inf).flatten(1).topk(int(n.max()))
    frame, rank = torch.nonzero(
        torch.arange(value.shape[1], device=n.device) < n[:, None], as_tuple=True
    )
    pixel = pixel[frame, rank]
    return frame, pixel // maps.shape[2], pixel % maps.shape[2], value[frame, rank]


def _joined(maps: Tensor, distance_px: float) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """Offset maps whose pixels take part in what neighbours tell of the same place, and which of them are doubles.

    A double tells nearly the same place as a neighbour with a higher p, or with an equal one before it.
    """
    p, oz, ox = maps
    is_double = torch.zeros_like(p, dtype=torch.bool)
    if distance_px == 0:
        return (p, oz, ox), is_double
    weight, shift_z, shift_x = p.clone(), torch.zeros_like(p), torch.zeros_like(p)
    n_z, n_x = p.shape[1:]
    for step_z, step_x in ((0, 1), (1, -1), (1, 0), (1, 1)):  # each pair of neighbours once
        one = (..., slice(n_z - step_z), slice(max(0, -step_x), n_x - max(0, step_x)))
        other = (..., slice(step_z, n_z), slice(max(0, step_x), n_x - max(0, -step_x)))
        to_z, to_x = oz[other] - oz[one] + step_z, ox[other] - ox[one] + step_x
        near, first = to_z.square() + to_x.square() < distance_px**2, p[one] >= p[other]
        is_double[other] |= near & first
        is_double[one] |= near & ~first
        for here, there, sign in ((one, other, 1), (other, one, -1)):
            joining = torch.where(near, p[there], 0)
            weight[here] += joining
            shift_z[here] += sign * joining * to_z
            shift_x[here] += sign * joining * to_x
    scale = weight.clamp(min=torch.finfo(weight.dtype).tiny)
    return (weight.clamp(max=1), oz + shift_z / scale, ox + shift_x / scale), is_double


def _peaks(maps: Tensor, half: int) -> Tensor:
    """Whether a pixel is the highest within `half` pixels, and the first of equal ones, row by row."""
    padded = functional.pad(maps, (half, half, half, half), value=-torch.inf)
    rows = functional.max_pool2d(padded, (1, 2 * half + 1), stride=1)
    middle = padded[:, half:-half]
    above = functional.max_pool2d(rows[:, : -half - 1], (half, 1), stride=1)
    below = functional.max_pool2d(rows[:, half + 1 :], (half, 1), stride=1)
    left = functional.max_pool2d(middle[:, :, : -half - 1], (1, half), stride=1)
    right = functional.max_pool2d(middle[:, :, half + 1 :], (1, half), stride=1)
    return (maps > torch.maximum(above, left)) & (maps >= torch.maximum(below, right))


def _centre_of_mass(
    maps: Tensor, frame: Tensor, row: Tensor, column: Tensor, half: int
) -> tuple[Tensor, Tensor]:
    """Places of the centres of mass around peaks, seen from them; what is below 0 weighs nothing."""
    steps = torch.arange(-half, half + 1, device=maps.device)
    rows, columns = row[:, None, None] + half + steps[:, None], column[:, None, None] + half + steps
    padded = functional.pad(maps.clamp(min=0), (half, half, half, half))
    heat = padded[frame[:, None, None], rows, columns].double()
    mass = heat.sum(dim=(1, 2)).clamp(min=torch.finfo(torch.float64).tiny)
    return (heat.sum(dim=2) @ steps.double()) / mass, (heat.sum(dim=1) @ steps.double()) / mass


def _tensor(values: Tensor | ArrayLike) -> Tensor:
    """`values` without gradients; arrays that torch cannot share are copied."""
    return (
        values.detach()
        if isinstance(values, Tensor)
        else torch.from_numpy(np.require(values, None, ["C", "W"]))
    )


def _check_finite(maps: Tensor) -> None:
    if not torch.isfinite(maps.sum(dtype=torch.float64)):
        raise ValueError("the maps hold NaN or infinite values: has the training diverged?")


def _check_counts(counts: Tensor | ArrayLike, n_frames: int) -> Tensor:
    values = _tensor(counts)
    if values.shape not in ((), (n_frames,)):
        raise ValueError(
            f"counts must be one number, or one for each of {n_frames} frames, not {tuple(values.shape)}"
        )
    if (values < 0).any() or (values != values.round()).any():
        raise ValueError(
            f"counts must be whole numbers of 0 or more, not {values.min()} to {values.max()}"
        )
    return values.expand(n_frames)
