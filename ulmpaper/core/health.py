"""What is wrong with frames before anyone looks: missing and repeated frames, hot pixels.

A point spread function falls off gradually and fills several pixels, so the values of frames leave
no gap below their highest. A hot pixel stands alone: far above its neighbours and above every value
that a neighbour comes near.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ulmpaper.core.arguments import explained
from ulmpaper.core.records import finite_frames

_CHUNK = 64  # frames looked at together
_FEW = 1000  # at most one pixel in so many is hot
_FEW_IN_A_FRAME = 3  # or so many in a small frame
_FAR = 2.5  # times everything else: beyond it the networks begin to lose bubbles
_SHOWN = 6  # frames or pixels that a sentence names


class Outlier(NamedTuple):
    """A hot pixel: its frame and place, and how many times the highest other value it holds."""

    frame: int
    z: int
    x: int
    ratio: float


@explained
@dataclass(frozen=True)
class FrameHealth:
    """What `check_health` found; frames are numbered as in the recording.

    Parameters
    ----------
    n_frames : int
        Frames that were looked at.
    zero, constant : tuple of int
        Frames of zeros, and frames of one other value in all pixels.
    repeated : tuple of int
        Frames that are the same, bit for bit, as the frame before.
    not_finite : tuple of int
        Frames that hold NaN or infinity.
    outliers : tuple of Outlier
        Hot pixels, see `find_outliers`.
    """

    n_frames: int
    zero: tuple[int, ...] = ()
    constant: tuple[int, ...] = ()
    repeated: tuple[int, ...] = ()
    not_finite: tuple[int, ...] = ()
    outliers: tuple[Outlier, ...] = ()

    @property
    def missing(self) -> tuple[int, ...]:
        """Frames without a picture, since all their pixels are zero or of one value."""
        return tuple(sorted(self.zero + self.constant))

    def sentences(self) -> list[str]:
        """Everything found, a short sentence each."""
        kinds = (
            (self.zero, "holds only zeros", "hold only zeros"),
            (self.constant, "has one value in all pixels", "have one value in all pixels"),
            (self.repeated, "repeats the frame before", "repeat the frame before"),
            (self.not_finite, "holds NaN or infinity", "hold NaN or infinity"),
        )
        said = [_name_frames(frames, one, many) for frames, one, many in kinds if frames]
        return said + ([name_outliers(self.outliers)] if self.outliers else [])


def check_health(frames: ArrayLike, first_frame: int = 0) -> FrameHealth:
    """Look for missing frames, repeated frames and hot pixels.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        Amplitude or IQ; NaN and infinity are counted, not refused.
    first_frame : int
        Number of the first of these frames in the recording.

    Returns
    -------
    FrameHealth
        With ``sentences()``.

    Examples
    --------
    >>> frames = np.random.default_rng(0).random((5, 9, 9))
    >>> frames[1], frames[4] = 0, frames[3]
    >>> check_health(frames, first_frame=100).sentences()
    ['frame 101 holds only zeros', 'frame 104 repeats the frame before']
    """
    array = np.asarray(frames)
    if array.dtype.kind not in "biufc":
        raise TypeError(f"frames hold numbers, not {array.dtype}")
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"frames have three axes (t, z, x), none empty, not shape {array.shape}")
    is_finite = finite_frames(array)
    if not is_finite.all():
        array = np.where(np.isfinite(array), array, 0)
    first_pixel = array[:, :1, :1]
    is_constant = _equal(array, np.broadcast_to(first_pixel, array.shape)) & is_finite
    is_zero = is_constant & (first_pixel[:, 0, 0] == 0)
    is_repeated = np.zeros(len(array), dtype=bool)
    is_repeated[1:] = _equal(array[1:], array[:-1]) & ~is_constant[1:] & is_finite[1:]
    outliers = [Outlier(t + first_frame, z, x, r) for t, z, x, r in find_outliers(array)]
    return FrameHealth(
        n_frames=len(array),
        zero=_numbers(is_zero, first_frame),
        constant=_numbers(is_constant & ~is_zero, first_frame),
        repeated=_numbers(is_repeated, first_frame),
        not_finite=_numbers(~is_finite, first_frame),
        outliers=tuple(outliers),
    )


def find_outliers(frames: Any) -> list[Outlier]:
    """Find hot pixels: few, alone, and more than 2.5 times as high as everything else.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        Finite amplitude or IQ; anything that has a shape and is read by slices.

    Returns
    -------
    list of Outlier
        By frame, then z, then x. Empty where more than one pixel in a thousand, and more than three
        in a frame, stand out: that is a picture.

    Notes
    -----
    Everything else is the highest value that one of the eight pixels around it reaches too. Pixels
    that are hot side by side, in a pair or a streak but never two by two, count where a gap of the
    same factor lies below them.

    Examples
    --------
    >>> frames = np.random.default_rng(0).random((5, 20, 24))
    >>> frames[3, 1, 1] = 40
    >>> [(o.frame, o.z, o.x, round(o.ratio)) for o in find_outliers(frames)]
    [(3, 1, 1, 40)]
    """
    return highest_value(frames)[1]


def highest_value(frames: Any) -> tuple[float, list[Outlier]]:
    """Find the highest amplitude that is no hot pixel, and the hot pixels above it.

    Parameters, errors and rule are those of `find_outliers`. Frames are read once where there are
    no hot pixels.
    """
    n_frames, n_z, n_x = frames.shape
    few = n_frames * max(_FEW_IN_A_FRAME, n_z * n_x // _FEW)
    highest = _highest(frames, min(few + 1, n_frames * n_z * n_x))
    rest = float(highest[0])  # so many pixels reach this value that it is no outlier
    if highest[-1] <= _FAR * rest:
        return float(highest[-1]), []
    place, windows = _windows_above(frames, rest)
    value = windows[:, 1, 1]
    around = windows.reshape(-1, 9)[:, [0, 1, 2, 3, 5, 6, 7, 8]].max(axis=1)
    supported = max(rest, float(np.minimum(value, around).max()))
    is_hot = value > _FAR * supported if supported > 0 else np.zeros(len(value), dtype=bool)
    is_hot |= _above_gap(value, windows, is_hot, rest)
    # Lone peaks of noise have others of their kind not far below.
    while True:
        others = max(rest, float(value[~is_hot].max(initial=0.0)))
        is_far = is_hot & (value > _FAR * others)
        if (is_far == is_hot).all():
            break
        is_hot = is_far
    outliers = [
        Outlier(int(t), int(z), int(x), float(v) / others)
        for (t, z, x), v in zip(place[is_hot], value[is_hot], strict=True)
    ]
    return others, outliers


def without_outliers(frames: NDArray, outliers: Sequence[Outlier], first_frame: int = 0) -> NDArray:
    """Replace hot pixels by the median of the pixels around them.

    Parameters
    ----------
    frames : ndarray (T, Z, X)
        Amplitude.
    outliers : sequence of Outlier
        As from `find_outliers`; those of other frames play no part.
    first_frame : int
        Number of the first of these frames, as the outliers count them.

    Returns
    -------
    ndarray (T, Z, X)
        A copy, or `frames` themselves where no pixel is to be replaced.
    """
    here = [o for o in outliers if 0 <= o.frame - first_frame < len(frames)]
    if not here:
        return frames
    whole = frames.copy()
    t = np.array([o.frame - first_frame for o in here])
    z = np.array([o.z for o in here])
    x = np.array([o.x for o in here])
    holes = frames.astype(np.float64)
    holes[t, z, x] = np.nan
    for k, row, column in zip(t, z, x, strict=True):
        around = holes[k, max(0, row - 1) : row + 2, max(0, column - 1) : column + 2]
        known = around[np.isfinite(around)]
        whole[k, row, column] = np.median(known) if len(known) else 0
    return whole


def name_outliers(outliers: Sequence[Outlier]) -> str:
    """Name hot pixels by frame and place, in a sentence.

    Examples
    --------
    >>> name_outliers([Outlier(3, 1, 1, 30.0)])
    'hot pixel: z 1, x 1 in frame 3 holds 30 times the highest other value'
    """
    places: dict[tuple[int, int], list[Outlier]] = {}
    for outlier in outliers:
        places.setdefault((outlier.z, outlier.x), []).append(outlier)
    named = []
    for (z, x), several in list(places.items())[:_SHOWN]:
        frames = [o.frame for o in several]
        noun = "frame" if len(frames) == 1 else "frames"
        ratio = max(o.ratio for o in several)
        named.append(
            f"z {z}, x {x} in {noun} {_spans(frames)} holds {ratio:.3g} times "
            "the highest other value"
        )
    more = f"; and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    return f"hot pixel{'s' if len(places) > 1 else ''}: {'; '.join(named)}{more}"


def _highest(frames: Any, n: int) -> NDArray[np.float64]:
    """The `n` highest amplitudes, the lowest of them first and the highest last."""
    top = np.empty(0)
    for _, chunk in _chunks(frames):
        values = chunk.reshape(-1)
        if len(top) == n:
            values = values[values > top[0]]
        top = np.concatenate([top, values])
        if len(top) > n:
            top = np.partition(top, -n)[-n:]
        lowest = int(np.argmin(top))
        top[lowest], top[0] = top[0], top[lowest]
    return np.sort(top)


def _windows_above(frames: Any, level: float) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Places (n, 3) of the pixels above a level, and the 3 x 3 amplitudes round each."""
    places = [np.empty((0, 3), dtype=np.intp)]
    windows = [np.empty((0, 3, 3))]
    around = np.arange(3)
    for first, chunk in _chunks(frames):
        t, z, x = np.nonzero(chunk > level)
        some, row = np.unique(t, return_inverse=True)
        # Outside the frame there is nothing that could support a pixel.
        padded = np.pad(chunk[some].astype(np.float64), ((0, 0), (1, 1), (1, 1)))
        rows = (z[:, None] + around)[:, :, None]
        columns = (x[:, None] + around)[:, None, :]
        windows.append(padded[row[:, None, None], rows, columns])
        places.append(np.stack([t + first, z, x], axis=1))
    return np.concatenate(places), np.concatenate(windows)


def _above_gap(
    value: NDArray, windows: NDArray, is_hot: NDArray[np.bool_], rest: float
) -> NDArray[np.bool_]:
    """Pixels above the lowest gap in the values, where none of them is part of a filled square."""
    steps = np.append(rest, np.sort(value[~is_hot]))
    gaps = np.flatnonzero((steps[1:] > _FAR * steps[:-1]) & (steps[:-1] > 0))
    for gap in gaps:
        above = (value > steps[gap]) & ~is_hot
        lit = windows[above] > steps[gap]
        squares = lit[:, :-1, :-1] & lit[:, 1:, :-1] & lit[:, :-1, 1:] & lit[:, 1:, 1:]
        if not squares.any():
            return above
    return np.zeros(len(value), dtype=bool)


def _chunks(frames: Any) -> Iterator[tuple[int, NDArray]]:
    """Amplitude of some frames at a time, with the number of the first."""
    for first in range(0, frames.shape[0], _CHUNK):
        last = min(first + _CHUNK, frames.shape[0])
        yield first, np.abs(np.asarray(frames[first:last]))


def _equal(a: NDArray, b: NDArray) -> NDArray[np.bool_]:
    """Which frames (T,) of two stacks are the same; a few pixels tell most of them apart."""
    step_z = max(1, a.shape[1] // 4)
    step_x = max(1, a.shape[2] // 4)
    some = (slice(None), slice(None, None, step_z), slice(None, None, step_x))
    same = (a[some] == b[some]).all(axis=(1, 2))
    for t in np.flatnonzero(same):
        same[t] = np.array_equal(a[t], b[t])
    return same


def _numbers(which: NDArray[np.bool_], first: int) -> tuple[int, ...]:
    return tuple((np.flatnonzero(which) + first).tolist())


def _name_frames(frames: Sequence[int], one: str, many: str) -> str:
    """``frame 60 holds only zeros``, or ``3 frames hold only zeros: 4, 9, 12``."""
    if len(frames) == 1:
        return f"frame {frames[0]} {one}"
    return f"{len(frames)} frames {many}: {_spans(frames)}"


def _spans(frames: Sequence[int]) -> str:
    """``4, 9, 12 to 20 and 3 more``."""
    numbers = np.asarray(frames)
    runs = np.split(numbers, np.flatnonzero(np.diff(numbers) > 1) + 1)
    words = [f"{r[0]}" if len(r) == 1 else f"{r[0]} to {r[-1]}" for r in runs[:_SHOWN]]
    left = sum(len(r) for r in runs[_SHOWN:])
    return ", ".join(words) + (f" and {left} more" if left else "")
