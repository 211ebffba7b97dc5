"""PSFs cut from frames (Fig. 2f), and how wide bubbles look.

Bubbles that stand alone are found, cut out and centred, and become a bank. Two more functions
measure the width of bubbles in frames, to tell whether frames look like those of a bank.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from ulmpaper.core.records import bubble_table, check_bubbles, check_frames, check_positive
from ulmpaper.core.subpixel import log_parabola
from ulmpaper.simulator.psf import PsfBank, fine_grid

_SAME_PX = 1.0  # a true bubble farther than this from a peak did not make it
_FLOOR_PERCENT = 10  # of a patch, taken as its background
_FADE_FROM = 0.75  # share of the reach of a patch from which it fades out
_N_MEASURED = 12  # frames
_FEW = 5  # bubbles whose median is not to be trusted


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
        peaks = amplitude > min_contrast * np.median(amplitude)
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
        dark = patches[:, rim].max(axis=1) < max_border * score
        centres = at + np.column_stack(log_parabola(patches[:, core, core].astype(np.float64)))
        rows.append(np.column_stack([np.full(len(at), t), centres, score])[dark])
    return bubble_table(*np.concatenate(rows).T)


def extract_psfs(
    frames: ArrayLike,
    *,
    rng: np.random.Generator,
    n_psf: int = 200,
    half_px: int = 5,
    oversample: int = 8,
    truth: pd.DataFrame | None = None,
    px_wavelengths: float = 1.0,
    source: str = "patches cut from frames",
    min_contrast: float = 6.0,
    clear_px: float = 7.0,
    max_border: float = 0.45,
) -> PsfBank:
    """Cut point spread functions out of frames with bubbles.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        B-mode amplitude (as in the paper) or complex IQ, which keeps the phase; free of tissue.
    rng : numpy.random.Generator
        Source of the order in which the frames are searched.
    n_psf : int
        Number of PSFs.
    truth : DataFrame, optional
        True bubbles. A patch is then centred on the true bubble within a pixel of its peak, and
        left out if there is none, or another one within `clear_px`. By default the centre is
        estimated.
    half_px, oversample, px_wavelengths, source
        See `PsfBank`.
    min_contrast, clear_px, max_border
        See `isolated_bubbles`.

    Returns
    -------
    PsfBank
        float32 for B-mode; complex64, with phase 0 at the centre, for IQ.

    Raises
    ------
    ValueError
        Fewer than `n_psf` isolated bubbles; NaN in the frames.

    Notes
    -----
    Paper, section II-D, which only states that 200 patches were cut; the rest is ours. Patches are
    resampled round their centre by cubic splines, their 10th percentile is subtracted, values below
    it become 0, the outer quarter fades out as a raised cosine and the peak becomes 1.
    """
    frames = check_frames(frames, allow_complex=True)
    check_positive(n_psf=n_psf)
    if truth is not None:
        truth = check_bubbles(truth, columns=("frame", "z", "x"))
    grid = fine_grid(half_px, oversample)
    patches: list[NDArray] = []
    n_found = 0
    for t in rng.permutation(len(frames)):
        found = isolated_bubbles(
            frames[t : t + 1],
            half_px=half_px,
            min_contrast=min_contrast,
            clear_px=clear_px,
            max_border=max_border,
        )
        at = found[["z", "x"]].to_numpy()
        if truth is not None:
            in_frame = truth.loc[truth["frame"] == t, ["z", "x"]].to_numpy()
            at = _nearest_true(at, in_frame, clear_px)
        at = at[: n_psf - n_found]
        n_found += len(at)
        if len(at):
            patches.append(_sample(frames[t], at, grid))
        if n_found == n_psf:
            table = _shaped(np.concatenate(patches), grid)
            return PsfBank(table, oversample, half_px, px_wavelengths, source)
    n_z, n_x = frames.shape[1:]
    raise ValueError(
        f"only {n_found} of {n_psf} PSFs found in {len(frames)} frames of {n_z} x {n_x} px: "
        "give more frames, ask for fewer, or relax min_contrast, clear_px or max_border; "
        "frames that hold tissue need core.svd_filter first"
    )


def bank_from_patches(
    images: Iterable[ArrayLike],
    *,
    pitch_px: float,
    half_px: int = 5,
    oversample: int = 8,
    px_wavelengths: float = 1.0,
    source: str = "patches",
) -> PsfBank:
    """Make a bank from finely sampled pictures of single bubbles, such as the 500 of LOCA-ULM.

    Parameters
    ----------
    images : iterable of array_like (h, w)
        Amplitudes. Each is centred on the centroid of the pixels above half of its peak, and taken
        as 0 outside.
    pitch_px : float
        Pitch of the pictures, in pixels of the frames. LOCA-ULM does not state it; 1/11 gives its
        patches median widths of 1.4 px in depth and 2.2 px across.
    half_px, oversample, px_wavelengths, source
        See `PsfBank`.

    Raises
    ------
    ValueError
        No image, or an empty one.

    References
    ----------
    Shin et al., Nat. Commun. 15 (2024) 2932.

    Examples
    --------
    >>> z, x = np.mgrid[:65, :65]
    >>> picture = np.exp(-((z - 33) ** 2 + (x - 31) ** 2) / 50)
    >>> bank = bank_from_patches([picture], pitch_px=0.1)
    >>> float(bank.table[0, 40, 40])
    1.0
    """
    check_positive(pitch_px=pitch_px)
    grid = fine_grid(half_px, oversample)
    patches = []
    for number, image in enumerate(images):
        values = check_frames(np.asarray(image)[None], what=f"image {number}")[0].astype(np.float64)
        top = np.where(values > values.max() / 2, values, 0.0)
        if not top.any():
            raise ValueError(f"image {number} is empty: leave it out")
        centre = np.array([ndimage.center_of_mass(top)])
        patches.append(_sample(values, centre, grid / pitch_px)[0])
    if not patches:
        raise ValueError("no images came: a bank needs at least one")
    return PsfBank(_shaped(np.stack(patches), grid), oversample, half_px, px_wavelengths, source)


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
    amplitude = np.abs(np.asarray(table))
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
    frames = _some(check_frames(frames))
    n_psf = len(isolated_bubbles(frames))
    if n_psf < _FEW:
        return None
    bank = extract_psfs(frames, rng=np.random.default_rng(0), n_psf=n_psf)
    width_z, width_x = np.median(psf_width(bank.table, bank.oversample), axis=0).tolist()
    return width_z, width_x


def correlation_width(frames: ArrayLike) -> tuple[float, float]:
    """Measure how wide bubbles look overall, from the autocorrelation of the frames.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        B-mode amplitude, bubbles over little background. A dozen frames, evenly spaced, are
        measured.

    Returns
    -------
    (float, float)
        Full widths at half maximum along z and x [px]; NaN where frames do not vary.

    Notes
    -----
    The autocorrelation of a Gaussian is wider than the Gaussian by the root of two; the result is
    divided by it. Bright bubbles count most, and none has to stand alone. So, unlike
    `bubble_width`, the result is not biased by the remains of dark bubbles above a threshold; but
    where bubbles are dense it is some percent too small, and speckle counts as well.

    Examples
    --------
    >>> z, x = np.mgrid[:63, :63] % 21 - 10
    >>> frame = np.exp(-4 * np.log(2) * ((z / 3) ** 2 + (x / 4) ** 2))
    >>> [round(width, 1) for width in correlation_width(frame[None])]
    [2.9, 3.8]
    """
    frames = _some(check_frames(frames)).astype(float)
    n_z, n_x = frames.shape[1:]
    # Twice the size, so that the frames do not wrap round.
    spectrum = np.fft.rfft2(frames - frames.mean(axis=(1, 2), keepdims=True), s=(2 * n_z, 2 * n_x))
    correlation = np.fft.irfft2(np.mean(np.abs(spectrum) ** 2, axis=0), s=(2 * n_z, 2 * n_x))
    width_z = _correlation_width(correlation[:n_z, 0])
    width_x = _correlation_width(correlation[0, :n_x])
    return width_z, width_x


# --- cutting -----------------------------------------------------------------------------------


def _nearest_true(at: NDArray, true: NDArray, clear_px: float) -> NDArray[np.float64]:
    """True place of each peak in `at` that one bubble made and that no other is near."""
    if not len(true) or not len(at):
        return np.empty((0, 2))
    distance, which = cKDTree(true).query(at, k=2)
    return true[which[(distance[:, 0] <= _SAME_PX) & (distance[:, 1] > clear_px), 0]]


def _sample(image: NDArray, at: NDArray, grid: NDArray) -> NDArray:
    """Cubic spline (n, S, S) through `image` on `grid` round each place (n, 2); 0 outside."""
    coefficients = ndimage.spline_filter(image, output=np.result_type(image, np.float64))
    z = at[:, :1] + grid
    x = at[:, 1:] + grid
    places = np.broadcast_arrays(z[:, :, None], x[:, None, :])
    return ndimage.map_coordinates(coefficients, places, order=3, prefilter=False, mode="constant")


def _shaped(patches: NDArray, grid: NDArray) -> NDArray:
    """Patches without background that fade out at the rim, of peak 1 and phase 0 at the centre."""
    amplitude = np.abs(patches) if np.iscomplexobj(patches) else patches
    floor = np.percentile(amplitude, _FLOOR_PERCENT, axis=(1, 2), keepdims=True)
    share = np.abs(grid) / grid[-1]
    fade = np.cos(np.pi / 2 * np.clip((share - _FADE_FROM) / (1 - _FADE_FROM), 0, 1)) ** 2
    kept = np.maximum(amplitude - floor, 0) * fade[:, None] * fade
    kept /= kept.max(axis=(1, 2), keepdims=True)
    if not np.iscomplexobj(patches):
        return kept
    centre = len(grid) // 2
    phase = np.angle(patches) - np.angle(patches[:, centre, centre])[:, None, None]
    return kept * np.exp(1j * phase)


# --- widths ------------------------------------------------------------------------------------


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


def _correlation_width(correlation: NDArray) -> float:
    """Full width at half maximum of the Gaussian that has this (half) autocorrelation."""
    below = np.flatnonzero(correlation < correlation[0] / 2)
    if not len(below) or correlation[0] <= 0:
        return float("nan")
    after = correlation[below[0]]
    before = correlation[below[0] - 1]
    return float(np.sqrt(2) * (below[0] - 1 + (before - correlation[0] / 2) / (before - after)))


def _some(frames: NDArray) -> NDArray:
    """A dozen frames, evenly spaced."""
    return frames[np.unique(np.linspace(0, len(frames) - 1, _N_MEASURED).round().astype(int))]
