"""Detect bubbles and place them below the pixel: frames (t, z, x) in, bubble table out.

With ``pala=True`` the rules of PALA are repeated exactly, ties and defects included (Heiles et al.
2022); the default corrects those defects that are no matter of taste.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from ulmpaper.core.records import bubble_table, check_amplitude, check_choice, check_whole
from ulmpaper.core.subpixel import LEAST_WINDOW_PX, METHODS

# Pixels looked at in one go: small enough for the processor's cache, large enough to hide numpy's
# overhead.
_CHUNK_PIXELS = 400_000
# Smaller plateaus still show between which pixels a bubble lies; larger ones are saturated, and the
# plateau's own centre is the best estimate.
_SATURATED_PIXELS = 4
# Sums and products of a window's values fit into double precision between 2**-100 and 2**100.
_EXPONENT = 100


def locate_peaks(
    frames: ArrayLike,
    method: str | Callable[[NDArray], tuple[NDArray, NDArray]] = "radial",
    n_bubbles: int = 40,
    *,
    roi_px: int = 5,
    max_peaks_in_roi: int = 3,
    min_score: float = 0.0,
    pala: bool = False,
) -> pd.DataFrame:
    """Detect bubbles as peaks and localize them below the pixel.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        B-mode amplitude, 0 or more.
    method : str or callable
        ``none`` (the pixel), ``weighted`` (centre of mass), ``radial`` (radial symmetry),
        ``gaussian`` (least squares, width fixed at 1 px), ``parabola`` (of the logarithm, 3 x 3),
        ``cubic``, ``lanczos`` or ``spline`` (maximum of the tenfold enlarged window), see
        `ulmpaper.core.METHODS`; or a function that takes windows (n, k, k) and returns shifts
        (dz, dx) from their centres [px].
    n_bubbles : int
        At most this many maxima a frame, the strongest. A frame with fewer bubbles is filled up
        with the maxima of noise, as in PALA: `min_score` keeps those out.
    roi_px : int
        Side of the square window round a peak, which must lie inside the frame, odd [px]: 5 or
        more for ``radial``, whose gradients need that many pixels, 3 or more for the others.
    max_peaks_in_roi : int
        Windows that hold more maxima than this are skipped.
    min_score : float
        Maxima must be above this amplitude.
    pala : bool
        Repeat PALA: the border is blanked before the search (a peak may be seen beside its true
        place), each pixel of a plateau is a maximum (so that a bubble saturated in more than
        `max_peaks_in_roi` pixels is dropped), and maxima that tie at the cut are all dropped.

    Returns
    -------
    DataFrame
        Bubble table in pixels, ordered by frame, then x, then z of the peak. Windows whose shift is
        not finite, or ends in the outermost pixels of the window (more than 1.5 px for `roi_px` 5),
        are dropped. A plateau of four or more equal pixels, as where a bubble saturates 8 bits, is
        one bubble at the plateau's centre of mass (``none``: its pixel nearest to that), by every
        method; a plateau that fills the frame is none.

    Raises
    ------
    TypeError, ValueError
        See `ulmpaper.core.check_frames`; negative amplitudes (radio-frequency data?), a window
        larger than the frame or too small for the method, `n_bubbles` below 1, an unknown method
        (with the nearest name), a number that is not whole or not finite.

    Notes
    -----
    PALA ``ULM_localization2D``. A maximum is 8-connected: a pixel or plateau with no higher
    neighbour. Maxima are counted inside the window alone, so a pixel of its rim counts if no pixel
    of the window next to it is higher (PALA ``ULM_localization2D``). The book's page *Where we
    differ from PALA* lists the differences.

    Examples
    --------
    >>> z, x = np.mgrid[:15, :15]
    >>> frame = np.exp(-((z - 7.2) ** 2 + (x - 6.6) ** 2) / 2)
    >>> locate_peaks(frame[None], "parabola", 1).round(3).values.tolist()
    [[0.0, 7.2, 6.6, 0.905]]
    """
    shift_of = (
        _without_pala(method)
        if callable(method)
        else METHODS[check_choice(method, METHODS, "method")]
    )
    frames = check_amplitude(frames)
    n_bubbles = check_whole(n_bubbles=n_bubbles)
    max_peaks_in_roi = check_whole(max_peaks_in_roi=max_peaks_in_roi)
    roi_px = _check_roi(frames.shape, roi_px, method, pala)
    if not isinstance(min_score, int | float | np.number) or not np.isfinite(min_score):
        raise ValueError(f"min_score must be a finite number, not {min_score!r}")
    half = roi_px // 2
    around = np.arange(-half, half + 1)
    step = max(1, _CHUNK_PIXELS // frames[0].size)
    parts = [np.empty((4, 0))]
    for start in range(0, len(frames), step):
        chunk = frames[start : start + step]
        t, z, x, score, saturated, to_centre = _strongest(chunk, n_bubbles, half, min_score, pala)
        windows = chunk[
            t[:, None, None], (z[:, None] + around)[:, :, None], (x[:, None] + around)[:, None, :]
        ]
        maxima = _regional_maxima(windows) if pala else _plateaus(windows)[0]
        single = np.bincount(maxima[0], minlength=len(windows)) <= max_peaks_in_roi
        t, z, x, score, windows, saturated, to_centre = (
            a[single] for a in (t, z, x, score, windows, saturated, to_centre)
        )
        if not len(windows):
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            dz, dx = shift_of(_moderate(windows.astype(np.float64)), pala)
        near = (np.abs(dz) <= half - 0.5) & (np.abs(dx) <= half - 0.5)  # False for NaN too
        if method != "none":  # whose bubbles are pixels
            dz, dx = np.where(saturated, to_centre.T, [dz, dx])
        parts.append(np.stack([t + start, z + dz, x + dx, score])[:, near | saturated])
    return bubble_table(*np.concatenate(parts, axis=1))


def _without_pala(
    method: Callable[[NDArray], tuple[NDArray, NDArray]],
) -> Callable[[NDArray, bool], Any]:
    """A user's method as one of `METHODS`, which also take whether to repeat PALA's rules."""

    def shifts(windows: NDArray, _: bool) -> tuple[NDArray, NDArray]:
        made = method(windows)
        shapes = [np.shape(shift) for shift in made]
        if shapes != [(len(windows),), (len(windows),)]:
            raise ValueError(
                f"a method returns two arrays of {len(windows)} shifts, (dz, dx), for as many "
                f"windows, not arrays of the shapes {shapes}"
            )
        return made

    return shifts


def _check_roi(shape: tuple[int, ...], roi_px: int, method: object, pala: bool) -> int:
    """`roi_px` as an int, if the method can work with it and the frames hold it."""
    least = 3 if pala or not isinstance(method, str) else LEAST_WINDOW_PX.get(method, 3)
    if check_whole(roi_px=roi_px) < least or roi_px % 2 == 0:
        by = f" with the method {method}" if least > 3 else ""
        raise ValueError(f"roi_px must be odd and {least} or more{by}, not {roi_px}")
    if min(shape[1:]) < roi_px:
        raise ValueError(
            f"frames of {shape[1]} x {shape[2]} px are smaller than "
            f"the window of {roi_px} x {roi_px} px"
        )
    return int(roi_px)


def _moderate(windows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Windows of very large or small values, brought near 1 by a power of two; others unchanged."""
    _, exponent = np.frexp(windows.max(axis=(1, 2)))
    extreme = np.abs(exponent) > _EXPONENT
    if extreme.any():
        windows[extreme] = np.ldexp(windows[extreme], -exponent[extreme, None, None])
    return windows


def _strongest(
    frames: NDArray, n_bubbles: int, half: int, min_score: float, pala: bool
) -> tuple[NDArray, ...]:
    """Indices (t, z, x) and values of the strongest maxima of each frame of a chunk.

    Then, whether each is a saturated plateau, and the way (n, 2) from the pixel to its centre.
    """
    _, n_z, n_x = frames.shape
    border = half
    if pala:
        border += 1
        inner = slice(border, -border)
        blanked = np.zeros_like(frames)
        blanked[:, inner, inner] = frames[:, inner, inner]
        t, z, x = _regional_maxima(blanked)
        size = np.ones(len(t), dtype=np.intp)
        to_centre = np.zeros((len(t), 2))
    else:
        (t, z, x), size, to_centre = _plateaus(frames)
    score = frames[t, z, x]
    with np.errstate(over="ignore"):  # nothing is above what float32 does not hold
        is_high = score > min_score
    inside = is_high & (z >= border) & (z < n_z - border) & (x >= border) & (x < n_x - border)
    number = np.flatnonzero(inside)
    t, z, x, score = (a[number] for a in (t, z, x, score))
    # Rank of each maximum in its frame, the strongest first.
    by_strength = np.lexsort((-score, t))
    count = np.bincount(t, minlength=len(frames))
    start = np.cumsum(count) - count
    rank = np.empty(len(t), dtype=np.intp)
    rank[by_strength] = np.arange(len(t)) - np.repeat(start, count)
    keep = rank < n_bubbles
    if pala:
        # PALA keeps what is above the first maximum that is one too many, so ties at the cut go.
        cut = np.full(len(frames), -np.inf)
        crowded = count > n_bubbles
        cut[crowded] = score[by_strength][start[crowded] + n_bubbles]
        keep &= score > cut[t]
    # A frame of one value, all of it a plateau, shows nothing.
    kept = np.flatnonzero(keep & (size[number] < n_z * n_x))
    kept = kept[np.lexsort((z[kept], x[kept], t[kept]))]
    number = number[kept]
    saturated = size[number] >= _SATURATED_PIXELS
    return t[kept], z[kept], x[kept], score[kept], saturated, to_centre[number]


_Places = tuple[NDArray, NDArray, NDArray]


def _regional_maxima(images: NDArray) -> _Places:
    """Indices (n, z, x) of the 8-connected regional maxima above zero of images (n, Z, X).

    Every pixel of a plateau is one.
    """
    return _maxima_and_neighbours(images)[0]


def _plateaus(images: NDArray) -> tuple[_Places, NDArray[np.intp], NDArray[np.float64]]:
    """Regional maxima, of each plateau the pixel nearest to its centre.

    Returns their indices (n, z, x), the number of pixels of each, and the way (m, 2) from the pixel
    to the centre of mass of its plateau.
    """
    index, first, second = _maxima_and_neighbours(images)
    size = np.ones(len(index[0]), dtype=np.intp)
    to_centre = np.zeros((len(size), 2))
    if not len(first):
        return index, size, to_centre
    # Only pixels of plateaus have partners.
    members, pairs = np.unique(np.concatenate([first, second]), return_inverse=True)
    place = pairs[: len(first)], pairs[len(first) :]
    links = sparse.coo_array((np.ones(len(first)), place), shape=(len(members), len(members)))
    n_plateaus, plateau = sparse.csgraph.connected_components(links, directed=False)
    n_pixels = np.bincount(plateau, minlength=n_plateaus)
    off = np.empty((len(members), 2))
    for axis in (1, 2):
        at = index[axis][members]
        off[:, axis - 1] = (np.bincount(plateau, at, n_plateaus) / n_pixels)[plateau] - at
    size[members] = n_pixels[plateau]
    to_centre[members] = off
    order = np.lexsort(((off**2).sum(axis=1), plateau))
    others = np.delete(members[order], np.cumsum(n_pixels) - n_pixels)
    keep = np.ones(len(size), dtype=bool)
    keep[others] = False
    n, z, x = (axis[keep] for axis in index)
    return (n, z, x), size[keep], to_centre[keep]


def _maxima_and_neighbours(images: NDArray) -> tuple[_Places, NDArray[np.intp], NDArray[np.intp]]:
    """Regional maxima, and which of them are neighbours, as pairs of their numbers."""
    none = np.empty(0, dtype=np.intp)
    n, n_z, n_x = images.shape
    # The highest of the eight neighbours of each pixel, from maxima of shifted rows.
    padded = np.full((n, n_z + 2, n_x + 2), -np.inf, dtype=images.dtype)
    padded[:, 1:-1, 1:-1] = images
    beside = np.maximum(padded[:, :, :-2], padded[:, :, 2:])
    row = np.maximum(beside, padded[:, :, 1:-1])
    around = np.maximum(np.maximum(row[:, :-2], row[:, 2:]), beside[:, 1:-1])
    candidates = np.flatnonzero((images >= around) & (images > 0))
    z_x = n_z * n_x
    index = (candidates // z_x, candidates % z_x // n_x, candidates % n_x)
    tied = np.flatnonzero(images[index] == around[index])
    if not len(tied):
        return index, none, none
    # Some candidates have an equal neighbour. Strike those from which equal steps lead to something
    # higher.
    values = padded.reshape(-1)
    centre = np.ravel_multi_index((index[0], index[1] + 1, index[2] + 1), padded.shape)
    number = np.full(padded.size, -1, dtype=np.intp)
    number[centre] = np.arange(len(centre))
    # Four of the eight neighbours, as steps in the flat padded stack; the others lie opposite.
    half_round = np.array([-n_x - 3, -n_x - 2, -n_x - 1, -1])
    neighbours = centre[tied, None] + np.concatenate([half_round, -half_round])
    equal = values[neighbours] == values[centre[tied], None]
    standing = np.ones(len(tied), dtype=bool)
    place = np.full(len(candidates), -1)
    place[tied] = np.arange(len(tied))
    struck = np.flatnonzero((equal & (number[neighbours] < 0)).any(axis=1))
    while len(struck):  # each pixel once: only those beside the last ones struck are looked at
        standing[struck] = False
        number[centre[tied[struck]]] = -1
        beside = number[neighbours[struck][equal[struck]]]
        struck = np.unique(place[beside[beside >= 0]])
    keep = np.ones(len(candidates), dtype=bool)
    keep[tied[~standing]] = False
    # Two standing maxima that touch are equal, or the lower one would not be a maximum.
    partner = number[neighbours[:, : len(half_round)]]
    first, side = np.nonzero((partner >= 0) & standing[:, None])
    # Numbers among the maxima that are left.
    left = np.cumsum(keep) - 1
    n_, z, x = (axis[keep] for axis in index)
    return (n_, z, x), left[tied[first]], left[partner[first, side]]
