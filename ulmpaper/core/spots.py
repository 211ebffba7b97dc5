"""Bubbles that stand alone: where they are, how they look, how wide they are."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from ulmpaper.core.records import bubble_table, check_frames, check_positive
from ulmpaper.core.subpixel import log_parabola

_FLOOR_PERCENT = 10  # of a patch, taken as its background
_FADE_FROM = 0.75  # share of the reach of a patch from which it fades out
_N_MEASURED = 12  # frames
_FEW = 5  # bubbles whose median is not to be trusted
_HALF_PX = 5  # reach of a patch whose width is measured
_DEAD_BAND = 1.35  # factor on a width that a network bears
_MOST_SCALED = 4.0  # times finer or coarser: beyond, what was measured is no spot
_OVERSAMPLE = 8  # samples per pixel of such a patch


def isolated_bubbles(
    frames: ArrayLike,
    *,
    half_px: int = 5,
    min_contrast: float = 6.0,
    clear_px: float = 7.0,
    max_border: float = 0.45,
) -> pd.DataFrame:
    """Find bubbles that stand alone, with their sub-pixel centres.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        B-mode amplitude or complex IQ, free of tissue.
    half_px : int
        Reach of the patch round a bubble; it must lie inside the frame [px].
    min_contrast : float
        A peak is the maximum of its 5 x 5 pixels and above this multiple of the frame's median.
    clear_px : float
        There is no other peak within this distance [px].
    max_border : float
        The rim of the patch stays below this share of the peak.

    Returns
    -------
    DataFrame
        Bubble table; `score` is the amplitude of the peak.

    Notes
    -----
    The centre is the vertex of a parabola through the logarithm of the amplitude of 3 x 3 pixels.
    On pixels of one wavelength, too coarse for the pulse of an L22-14v, its error is 0.06 px in
    depth; on pixels of half a wavelength, 0.01 px.

    Examples
    --------
    >>> z, x = np.mgrid[:21, :21]
    >>> frame = np.exp(-((z - 10.2) ** 2) / 2 - (x - 9.7) ** 2 / 4)
    >>> isolated_bubbles(frame[None])[["z", "x"]].round(3).values.tolist()
    [[10.2, 9.7]]
    """
    frames = check_frames(frames, allow_complex=True)
    check_positive(
        half_px=half_px, min_contrast=min_contrast, clear_px=clear_px, max_border=max_border
    )
    around = np.arange(-half_px, half_px + 1)
    core = slice(half_px - 1, half_px + 2)
    rim = np.maximum(abs(around[:, None]), abs(around)) == half_px
    rows = [np.empty((0, 4))]
    for t, frame in enumerate(frames):
        amplitude = np.abs(frame)
        peaks = amplitude > min_contrast * float(np.median(amplitude))
        peaks &= amplitude == ndimage.maximum_filter(amplitude, 5, mode="constant")
        at = np.argwhere(peaks)
        if not len(at):
            continue
        # The patch lies in the frame, with no other peak near and a dark rim.
        alone = cKDTree(at).query(at, k=2)[0][:, 1] > clear_px
        inside = ((at > half_px) & (at < np.array(frame.shape) - 1 - half_px)).all(axis=1)
        at = at[alone & inside]
        score = amplitude[at[:, 0], at[:, 1]]
        patches = amplitude[(at[:, :1] + around)[:, :, None], (at[:, 1:] + around)[:, None, :]]
        dark = patches[:, rim].max(axis=1) < max_border * score.astype(np.float64)
        centres = at + np.column_stack(log_parabola(patches[:, core, core].astype(np.float64)))
        rows.append(np.column_stack([np.full(len(at), t), centres, score])[dark])
    return bubble_table(*np.concatenate(rows).T)


def sample_patches(image: NDArray, at: NDArray, grid: NDArray) -> NDArray:
    """Cubic spline (n, S, S) through `image` on `grid` round each place (n, 2); 0 outside."""
    coefficients = ndimage.spline_filter(image, output=np.result_type(image, np.float64))
    z = at[:, :1] + grid
    x = at[:, 1:] + grid
    places = np.broadcast_arrays(z[:, :, None], x[:, None, :])
    return ndimage.map_coordinates(coefficients, places, order=3, prefilter=False, mode="constant")


def shape_patches(
    patches: NDArray, grid: NDArray, *, floor_percent: float = _FLOOR_PERCENT
) -> NDArray:
    """Patches without background that fade out at the rim, of peak 1 and phase 0 at the centre."""
    amplitude = np.abs(patches) if np.iscomplexobj(patches) else patches
    floor = np.percentile(amplitude, floor_percent, axis=(1, 2), keepdims=True)
    share = np.abs(grid) / grid[-1]
    fade = np.cos(np.pi / 2 * np.clip((share - _FADE_FROM) / (1 - _FADE_FROM), 0, 1)) ** 2
    kept = np.maximum(amplitude - floor, 0) * fade[:, None] * fade
    kept /= kept.max(axis=(1, 2), keepdims=True)
    if not np.iscomplexobj(patches):
        return kept
    centre = len(grid) // 2
    phase = np.angle(patches) - np.angle(patches[:, centre, centre])[:, None, None]
    return kept * np.exp(1j * phase)


def psf_width(table: ArrayLike, oversample: float) -> NDArray[np.float64]:
    """Measure the full widths at half maximum along z and x through the peak of each PSF.

    Parameters
    ----------
    table : array_like (n, S, S)
        PSFs, real or complex.
    oversample : float
        Samples per pixel.

    Returns
    -------
    ndarray (n, 2)
        Widths along z and x [px]; infinite where the PSF does not fall to half of its peak on both
        sides.

    Examples
    --------
    >>> z, x = np.mgrid[-20:21, -20:21] / 4
    >>> psf_width([np.exp(-4 * np.log(2) * (z**2 + (x / 2) ** 2))], 4).round(2).tolist()
    [[1.0, 2.0]]
    """
    check_positive(oversample=oversample)
    amplitude = np.abs(np.asarray(table))
    if amplitude.ndim != 3 or 0 in amplitude.shape:
        raise ValueError(f"PSFs have three axes (n, z, x), not shape {amplitude.shape}")
    n, n_z, n_x = amplitude.shape
    z, x = np.unravel_index(amplitude.reshape(n, -1).argmax(axis=1), (n_z, n_x))
    along_z = amplitude[np.arange(n), :, x]
    along_x = amplitude[np.arange(n), z]
    width_z = _half_width(along_z, z) + _half_width(along_z[:, ::-1], n_z - 1 - z)
    width_x = _half_width(along_x, x) + _half_width(along_x[:, ::-1], n_x - 1 - x)
    return np.stack([width_z, width_x], axis=1) / oversample


def bubble_width(frames: ArrayLike) -> tuple[float, float] | None:
    """Measure how wide bubbles that stand alone look.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        B-mode amplitude. A dozen frames, evenly spaced, are measured.

    Returns
    -------
    (float, float) or None
        Median of their full widths at half maximum along z and x [px]; None where fewer than five
        are found.

    Notes
    -----
    Pixels make small spots look wider: a Gaussian of 1.2 px measures 1.4 px, one of 1.6 px 1.7 px;
    widths of 2 px and more come out right.

    Examples
    --------
    >>> z, x = np.mgrid[:63, :63] % 21 - 10
    >>> frame = np.exp(-4 * np.log(2) * ((z / 2) ** 2 + (x / 3) ** 2))
    >>> [round(width, 1) for width in bubble_width(frame[None])]
    [2.0, 3.0]
    """
    frames = some_frames(check_frames(frames))
    grid = np.arange(-_HALF_PX * _OVERSAMPLE, _HALF_PX * _OVERSAMPLE + 1) / _OVERSAMPLE
    patches = []
    for frame in frames:
        at = isolated_bubbles(frame[None], half_px=_HALF_PX)[["z", "x"]].to_numpy()
        if len(at):
            patches.append(sample_patches(frame, at, grid))
    if sum(map(len, patches)) < _FEW:
        return None
    shaped = shape_patches(np.concatenate(patches), grid)
    width_z, width_x = np.median(psf_width(shaped, _OVERSAMPLE), axis=0).tolist()
    return width_z, width_x


def width_factor(width_px: float, trained_px: Sequence[float]) -> float:
    """Factor on the number of pixels that makes spots as wide as a network knows them best.

    Parameters
    ----------
    width_px : float
        Width of lone spots along an axis [px].
    trained_px : (float, float)
        Least and largest width of the training [px]; the factor aims at their geometric mean.

    Returns
    -------
    float
        From 1/4 to 4. 1 where spots are nearer than a factor of 1.35 to the width aimed at: there,
        sampling anew costs more than it brings.

    Examples
    --------
    >>> width_factor(4.0, (1.0, 4.0)), width_factor(2.2, (1.0, 4.0))
    (0.5, 1.0)
    """
    factor = float(np.sqrt(trained_px[0] * trained_px[1])) / width_px
    if 1 / _DEAD_BAND <= factor <= _DEAD_BAND:
        return 1.0
    return float(np.clip(factor, 1 / _MOST_SCALED, _MOST_SCALED))


def some_frames(frames: NDArray) -> NDArray:
    """A dozen frames, evenly spaced."""
    return frames[evenly(len(frames))]


def evenly(n_frames: int) -> NDArray[np.int_]:
    """Numbers of a dozen frames, evenly spaced."""
    return np.unique(np.linspace(0, n_frames - 1, _N_MEASURED).round().astype(int))


def _half_width(line: NDArray, at: NDArray) -> NDArray:
    """Samples, with fractions, from the peak at `at` to where each line (n, S) is half of it."""
    n, size = line.shape
    each = np.arange(n)
    half = line[each, at] / 2
    below = (line < half[:, None]) & (np.arange(size) > at[:, None])
    after = np.where(below.any(axis=1), below.argmax(axis=1), size - 1)
    high = line[each, after - 1]
    low = line[each, after]
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = after - 1 + (high - half) / (high - low) - at
    return np.where(below.any(axis=1), reach, np.inf)
