"""Bubbles to the maps that networks learn, and predicted maps back to bubbles.

*Offset maps* (3, N, Z, X), for 3DML-ResNet: p is 1 in the pixel ``floor(z + 1/2), floor(x + 1/2)``
of a bubble, and oz, ox give its position in that pixel from the upper and left edge,
``z - pixel + 1/2``, so from 0 to 1.

*Heat maps* (T, 1, uZ, uX), for mSPCN: 1 in the fine pixel of a bubble. With u fine pixels per pixel
and side, fine pixel k covers ``k/u - 1/2`` to ``(k + 1)/u - 1/2``, so its centre is at
``(k + 1/2)/u - 1/2``.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from ulmpaper.core.records import bubble_table, check_bubbles, check_positive

_FARTHEST_PX = 1e9
_MOST_BUBBLES = 10**6  # in a frame: more are all that there are
MIN_DISTANCE_PX = 0.7  # between the predictions of neighbouring pixels that are two bubbles

# --- bubbles to maps ---------------------------------------------------------------------------


def encode_offsets(bubbles: pd.DataFrame, n_frames: int, shape_px: tuple[int, int]) -> Tensor:
    """Write bubbles as offset maps.

    Parameters
    ----------
    bubbles : DataFrame
        Bubble table; ``frame`` counts from the window's first frame. Bubbles outside the frames are
        left out; of several in one pixel the brightest stays.
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
    Paper, section II-E: detection probability "either zero or one", positions "normalized to the
    [0, 1] interval".

    Examples
    --------
    >>> from ulmpaper.core import bubble_table
    >>> maps = encode_offsets(bubble_table([0], [1.25], [2.5], [1.0]), 1, (4, 5))
    >>> maps[:, 0, 1, 3].tolist(), int(maps[0].sum())
    ([1.0, 0.75, 0.0], 1)
    """
    rows, (frame, row, column) = _brightest_per_pixel(bubbles, n_frames, shape_px)
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
        1 in fine pixels that hold a bubble, else 0: the shape of the output of
        `ulmpaper.networks.MSPCN` for a batch of frames.

    Raises
    ------
    TypeError, ValueError
        See `encode_offsets`.

    Notes
    -----
    Liu et al., IEEE Trans. Med. Imaging 39 (2020) 3064. `ulmpaper.networks.mspcn_loss` scales and
    blurs the target.

    Examples
    --------
    >>> from ulmpaper.core import bubble_table
    >>> encode_heatmap(bubble_table([0], [0.0], [1.0], [1.0]), 1, (2, 2)).nonzero().tolist()
    [[0, 0, 2, 6]]
    """
    _, (frame, row, column) = _brightest_per_pixel(bubbles, n_frames, shape_px, upsample)
    maps = np.zeros((n_frames, 1, *(upsample * n for n in shape_px)), dtype=np.float32)
    maps[frame, 0, row, column] = 1
    return torch.from_numpy(maps)


def _brightest_per_pixel(
    bubbles: pd.DataFrame, n_frames: int, shape_px: tuple[int, int], upsample: int = 1
) -> tuple[NDArray, tuple[NDArray, ...]]:
    """Rows of the brightest bubble of each pixel, and these pixels (frame, z, x)."""
    bubbles = check_bubbles(bubbles)
    check_positive(n_frames=n_frames, z=shape_px[0], x=shape_px[1], upsample=upsample)
    frame, z, x, score = (bubbles[name].to_numpy() for name in ("frame", "z", "x", "score"))
    if len(frame) and (frame.min() < 0 or frame.max() >= n_frames):
        raise ValueError(
            f"the table holds frames {frame.min()} to {frame.max()}, but the window only 0 to "
            f"{n_frames - 1}: take the window's bubbles and subtract its first frame"
        )
    shape = (n_frames, upsample * shape_px[0], upsample * shape_px[1])
    row = np.floor((z + 0.5) * upsample)
    column = np.floor((x + 0.5) * upsample)
    inside = (row >= 0) & (row < shape[1]) & (column >= 0) & (column < shape[2])
    # Sorted by brightness, the first bubble of each pixel is its brightest.
    by_brightness = np.flatnonzero(inside)[np.argsort(-score[inside], kind="stable")]
    flat = (frame * shape[1] + row) * shape[2] + column
    pixel, first = np.unique(flat[by_brightness].astype(np.int64), return_index=True)
    return by_brightness[first], np.unravel_index(pixel, shape)


# --- maps to bubbles ---------------------------------------------------------------------------


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
    maps : Tensor or array_like (3, N, Z, X) or (5, N, Z, X)
        p, oz, ox, as from `encode_offsets` or one window of `ulmpaper.networks.ML3DResNet`; where
        it predicts them, sigma_z and sigma_x as well.
    counts : int or array_like (N,) of int
        Bubbles in each frame, or in every frame. A frame with fewer candidates gives fewer.
    threshold : float
        A bubble's score must be above this.
    min_distance_px : float
        Neighbouring pixels that predict positions closer than this mean the same bubble [px]. 0
        takes every pixel for a bubble of its own, as the paper does.

    Returns
    -------
    DataFrame
        Bubble table in pixels. By frame, and in a frame from the highest ``score`` down. Of the
        pixels that mean the same bubble, the one with the highest p stands for it (the first of
        equal ones). The score is the sum of its p and that of the neighbours that mean the same
        bubble, at most 1; the position is the mean of theirs, weighted by p. Five maps give the
        columns ``sigma_z`` and ``sigma_x`` [px]: their squares are the mean, weighted alike, of the
        squares of sigma and of the distances from that position.

    Raises
    ------
    ValueError
        Maps of another shape or with NaN, counts that are not whole numbers, below 0 or not one for
        each frame, a threshold outside 0 to 1, a negative distance.

    Notes
    -----
    Paper, section II-B: "the N_i MBs with the highest probability of existence in each US frame are
    selected". The threshold and the merging of neighbours are ours. Without a threshold, noise
    becomes bubbles where the count is too high. Without merging, a bubble at the edge of a pixel,
    where p is shared, is found twice or hardly. Positions are compared and not just pixels, because
    bubbles in neighbouring pixels may well be two.

    Examples
    --------
    >>> from ulmpaper.networks import encode_offsets
    >>> bubble = bubble_table([1], [4.25], [2.5], [1.0])
    >>> bool((decode_offsets(encode_offsets(bubble, 2, (9, 9)), 5) == bubble).all(axis=None))
    True
    """
    values = _tensor(maps)
    if values.ndim != 4 or len(values) not in (3, 5) or 0 in values.shape:
        raise ValueError(
            "offset maps are p, oz, ox (five with sigma) and have the shape (3, N, Z, X), "
            f"not {tuple(values.shape)}"
        )
    _check_finite(values)
    if not 0 <= min_distance_px < _FARTHEST_PX:
        raise ValueError(f"min_distance_px must be a number of 0 or more, not {min_distance_px}")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold is a probability, so from 0 to 1, not {threshold}")
    p, others, is_weaker = _merge_neighbours(values.float(), min_distance_px)
    frame, row, column, score = _highest(p, (p > threshold) & ~is_weaker, counts)
    of_bubbles = others[:, frame, row, column].double().cpu().numpy()
    # Offsets count from the edge of a pixel, positions from its centre.
    z = row.cpu().numpy() + of_bubbles[0] - 0.5
    x = column.cpu().numpy() + of_bubbles[1] - 0.5
    table = bubble_table(frame.cpu(), z, x, score.cpu())
    sigma = dict(zip(("sigma_z", "sigma_x"), of_bubbles[2:], strict=False))
    return table.assign(**sigma)


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
        As from `encode_heatmap` or `ulmpaper.networks.MSPCN`.
    upsample : int
        Fine pixels per pixel and side.
    threshold : float, optional
        Peaks must be above this value; 0 by default.
    counts : int or array_like (T,) of int, optional
        Most bubbles in each frame, or in every frame; by default all peaks above `threshold`, which
        must be given.
    side : int
        A peak is the highest of a square of fine pixels with this side, odd; 1 takes every fine
        pixel.
    centre_side : int
        The position is the centre of mass of the heat in a square of this side around the peak,
        odd; 1 takes the centre of the peak's fine pixel.

    Returns
    -------
    DataFrame
        Bubble table in pixels of the frames; ``score`` is the value of the peak. By frame, then
        from the highest down.

    Raises
    ------
    ValueError
        See `decode_offsets`; an even side; neither `threshold` nor `counts`.

    Notes
    -----
    Non-maximum suppression and a threshold, as Hahne et al. (IEEE IUS 2023) read mSPCN out; its
    authors show maps only. The default square keeps bubbles apart by a pixel where `upsample` is 4.
    The centre of mass is ours.

    Examples
    --------
    >>> from ulmpaper.networks import encode_heatmap
    >>> bubble = bubble_table([0], [4.125], [2.375], [1.0])
    >>> found = decode_heatmap(encode_heatmap(bubble, 1, (9, 9)), 4, threshold=0.5)
    >>> bool((found == bubble).all(axis=None))
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
    candidate = maps > float(threshold or 0.0)
    if side > 1:
        candidate &= _is_peak(maps, side // 2)
    frame, row, column, score = _highest(maps, candidate, counts)
    shift_z, shift_x = _centre_of_mass(maps, frame, row, column, centre_side // 2)
    # As `ulmpaper.core.grid.frame_position`, on tensors.
    z = (row + shift_z + 0.5) / upsample - 0.5
    x = (column + shift_x + 0.5) / upsample - 0.5
    return bubble_table(frame.cpu(), z.cpu(), x.cpu(), score.cpu())


def _merge_neighbours(maps: Tensor, distance_px: float) -> tuple[Tensor, Tensor, Tensor]:
    """Average the maps of pixels that predict the same bubble; flag the weaker pixels.

    Returns p (N, Z, X), the other maps (2 or 4, N, Z, X), and the flags.
    """
    p, offset = maps[0], maps[1:3]
    is_weaker = torch.zeros_like(p, dtype=torch.bool)
    if distance_px == 0:
        return p, maps[1:], is_weaker
    weight = p.clone()
    shift = torch.zeros_like(offset)
    # Mean of squares, from a pixel's own position, of what is uncertain and of what is beside it.
    square = p * maps[3:].square()
    n_z, n_x = p.shape[1:]
    # These four steps pair every pixel with each of its eight neighbours once.
    for step_z, step_x in ((0, 1), (1, -1), (1, 0), (1, 1)):
        one = (..., slice(n_z - step_z), slice(max(0, -step_x), n_x - max(0, step_x)))
        other = (..., slice(step_z, n_z), slice(max(0, step_x), n_x - max(0, -step_x)))
        # From the position that one pixel predicts to that of the other.
        to = offset[other] - offset[one] + offset.new_tensor([step_z, step_x])[:, None, None, None]
        same = to.square().sum(dim=0) < distance_px**2
        # Of two equal pixels the first counts as the stronger.
        one_wins = p[one] >= p[other]
        is_weaker[other] |= same & one_wins
        is_weaker[one] |= same & ~one_wins
        # Each takes part in the mean of the other, weighted by its own p.
        for taker, giver, sign in ((one, other, 1), (other, one, -1)):
            joining = torch.where(same, p[giver], 0)
            weight[taker] += joining
            shift[taker] += sign * joining * to
            if len(square):
                square[taker] += joining * (maps[3:][giver].square() + to.square())
    scale = weight.clamp(min=torch.finfo(weight.dtype).tiny)  # no division by 0
    shift = shift / scale
    others = offset + shift
    if len(square):
        sigma = (square / scale - shift.square()).clamp(min=0).sqrt()
        others = torch.cat([others, sigma])
    return weight.clamp(max=1), others, is_weaker


def _is_peak(maps: Tensor, half: int) -> Tensor:
    """Whether a pixel is the highest within `half` pixels, and the first of equal ones."""
    padded = functional.pad(maps, (half, half, half, half), value=-torch.inf)
    # The highest of the rows above and below, and of the pixels left and right in the same row.
    rows = functional.max_pool2d(padded, (1, 2 * half + 1), stride=1)
    above = functional.max_pool2d(rows[:, : -half - 1], (half, 1), stride=1)
    below = functional.max_pool2d(rows[:, half + 1 :], (half, 1), stride=1)
    same_row = padded[:, half:-half]
    left = functional.max_pool2d(same_row[:, :, : -half - 1], (1, half), stride=1)
    right = functional.max_pool2d(same_row[:, :, half + 1 :], (1, half), stride=1)
    # Higher than all that come before it row by row, and not lower than those behind.
    return (maps > torch.maximum(above, left)) & (maps >= torch.maximum(below, right))


def _highest(
    maps: Tensor, candidate: Tensor, counts: Tensor | ArrayLike | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Indices (t, z, x) and values of the highest candidates, at most `counts` in each frame."""
    n = candidate.sum(dim=(1, 2))
    if counts is not None:
        n = torch.minimum(n, _check_counts(counts, len(maps)).to(n))
    # All frames at once: as many as the fullest needs, then of each frame its own number.
    value, pixel = torch.where(candidate, maps, -torch.inf).flatten(1).topk(int(n.max()))
    rank = torch.arange(value.shape[1], device=n.device)
    frame, rank = torch.nonzero(rank < n[:, None], as_tuple=True)
    pixel = pixel[frame, rank]
    return frame, pixel // maps.shape[2], pixel % maps.shape[2], value[frame, rank]


def _centre_of_mass(
    maps: Tensor, frame: Tensor, row: Tensor, column: Tensor, half: int
) -> tuple[Tensor, Tensor]:
    """Centres of mass around peaks, relative to them; values below 0 weigh nothing."""
    steps = torch.arange(-half, half + 1, device=maps.device)
    rows = row[:, None, None] + half + steps[:, None]
    columns = column[:, None, None] + half + steps
    padded = functional.pad(maps.clamp(min=0), (half, half, half, half))
    heat = padded[frame[:, None, None], rows, columns].double()
    mass = heat.sum(dim=(1, 2)).clamp(min=torch.finfo(torch.float64).tiny)
    shift_z = (heat.sum(dim=2) @ steps.double()) / mass
    shift_x = (heat.sum(dim=1) @ steps.double()) / mass
    return shift_z, shift_x


# --- checks ------------------------------------------------------------------------------------


def _tensor(values: Tensor | ArrayLike) -> Tensor:
    """`values` without gradients; arrays that torch cannot share are copied."""
    if isinstance(values, Tensor):
        maps = values.detach()
    else:
        maps = torch.from_numpy(np.require(values, None, ["C", "W"]))
    if maps.is_complex():
        raise TypeError("maps hold real numbers, not complex ones: take their modulus")
    return maps


def _check_finite(maps: Tensor) -> None:
    """Refuse maps with NaN or infinite values."""
    if not torch.isfinite(maps.sum(dtype=torch.float64)):
        raise ValueError("the maps hold NaN or infinite values: has the training diverged?")


def _check_counts(counts: Tensor | ArrayLike, n_frames: int) -> Tensor:
    """Counts (n_frames,), or an error that says what they must be."""
    values = _tensor(counts)
    if values.shape not in ((), (n_frames,)):
        raise ValueError(
            f"counts must be one number, or one for each of {n_frames} frames, not "
            f"{tuple(values.shape)}"
        )
    is_number = values.dtype != torch.bool and not values.is_complex()
    if not is_number or (values < 0).any() or (values != values.round()).any():
        raise ValueError(
            f"counts must be whole numbers of 0 or more, not {values.min()} to {values.max()}"
            if is_number
            else f"counts must be whole numbers of 0 or more, not {values.dtype}"
        )
    return values.clamp(max=_MOST_BUBBLES).expand(n_frames)
