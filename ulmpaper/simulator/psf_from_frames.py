"""PSFs cut from frames (Fig. 2f), and how wide bubbles look."""

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

# A true bubble farther than this from a peak is not the one that made it [px].
_SAME_PX = 1.0
_FLOOR_PERCENT = 10
_FADE_FROM = 0.75


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
    The centre is the vertex of a parabola through the logarithm of the amplitude of 3 x 3 pixels. On pixels of one
    wavelength, too coarse for the pulse of an L22-14v, it is in error by 0.06 px in depth; on half of that by 0.01 px.

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
    rim = np.maximum(abs(around[:, None]), abs(around)) == half_px
    rows = [np.empty((0, 4))]
    for t, frame in enumerate(frames):
        amplitude = np.abs(frame)
        peaks = amplitude > min_contrast * np.median(amplitude)
        peaks &= amplitude == ndimage.maximum_filter(amplitude, 5, mode="constant")
        at = np.argwhere(peaks)
        if not len(at):
            continue
        alone = cKDTree(at).query(at, k=2)[0][:, 1] > clear_px
        inside = ((at > half_px) & (at < np.array(frame.shape) - 1 - half_px)).all(axis=1)
        at = at[alone & inside]
        score = amplitude[at[:, 0], at[:, 1]]
        patches = amplitude[(at[:, :1] + around)[:, :, None], (at[:, 1:] + around)[:, None, :]]
        dark = patches[:, rim].max(axis=1) < max_border * score
        middle = patches[:, half_px - 1 : half_px + 2, half_px - 1 : half_px + 2].astype(np.float64)
        centres = at + np.column_stack(log_parabola(middle))
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
        Order in which the frames are searched.
    n_psf : int
        PSFs wanted.
    truth : DataFrame, optional
        True bubbles. A patch is then centred on the true bubble within a pixel of its peak, and left out if there is
        none or another one within `clear_px`. By default the centre is estimated.
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
        Fewer isolated bubbles than asked for; NaN in the frames.

    Notes
    -----
    Paper, section II-D, which says no more than that 200 patches were cut; the rest is ours. Patches are resampled
    round their centre by cubic splines, their 10th percentile is subtracted, what is below becomes 0, the outer
    quarter fades out as a raised cosine and the peak becomes 1.
    """
    frames = check_frames(frames, allow_complex=True)
    check_positive(n_psf=n_psf)
    true_z_x = None if truth is None else check_bubbles(truth, columns=("frame", "z", "x"))
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
        if true_z_x is not None:
            here = true_z_x["frame"] == t
            at = _nearest_true(at, true_z_x.loc[here, ["z", "x"]].to_numpy(), clear_px)
        at = at[: n_psf - n_found]
        n_found += len(at)
        if len(at):
            patches.append(_sample(frames[t], at, grid))
        if n_found == n_psf:
            return PsfBank(
                _shaped(np.concatenate(patches), grid), oversample, half_px, px_wavelengths, source
            )
    raise ValueError(
        f"only {n_found} of {n_psf} PSFs found in {len(frames)} frames of {frames.shape[1]} x {frames.shape[2]} px: "
        "give more frames, ask for fewer, or relax min_contrast, clear_px or max_border; "
        "frames that hold tissue need filters.svd_filter first"
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
    """Bank from finely sampled pictures of single bubbles, such as the 500 of LOCA-ULM.

    Parameters
    ----------
    images : iterable of array_like (h, w)
        Amplitudes. Each is centred on the centroid of what exceeds half of its peak, and taken as 0 outside.
    pitch_px : float
        Pitch of the pictures, in pixels of the frames. LOCA-ULM does not state it; 1/11 gives its patches median
        widths of 1.4 px in depth and 2.2 px across.
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
    >>> bank = bank_from_patches([np.exp(-((z - 33) ** 2 + (x - 31) ** 2) / 50)], pitch_px=0.1)
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
    """Full widths at half maximum along z and x through the peak of each PSF.

    Parameters
    ----------
    table : array_like (n, S, S)
        PSFs, real or complex.
    oversample : float
        Samples per pixel.

    Returns
    -------
    ndarray (n, 2)
        Widths along z and x [px]; infinite where the PSF does not fall to half of its peak on both sides.

    Examples
    --------
    >>> z, x = np.mgrid[-20:21, -20:21] / 4
    >>> psf_width([np.exp(-4 * np.log(2) * (z**2 + (x / 2) ** 2))], 4).round(2).tolist()
    [[1.0, 2.0]]
    """
    amplitude = np.abs(np.asarray(table))
    n, n_z, n_x = amplitude.shape
    z, x = np.unravel_index(amplitude.reshape(n, -1).argmax(axis=1), (n_z, n_x))
    lines = (amplitude[np.arange(n), :, x], z), (amplitude[np.arange(n), z], x)
    sides = [
        _half_width(line, at) + _half_width(line[:, ::-1], line.shape[1] - 1 - at)
        for line, at in lines
    ]
    return np.stack(sides, axis=1) / oversample


def _nearest_true(at: NDArray, true: NDArray, clear_px: float) -> NDArray[np.float64]:
    """True place of each peak in `at` that one bubble made and no other is near."""
    if not len(true) or not len(at):
        return np.empty((0, 2))
    distance, which = cKDTree(true).query(at, k=2)
    return true[which[(distance[:, 0] <= _SAME_PX) & (distance[:, 1] > clear_px), 0]]


def _sample(image: NDArray, at: NDArray, grid: NDArray) -> NDArray:
    """Values (n, S, S) of the cubic spline through `image` on `grid` round each place of `at` (n, 2); 0 outside."""
    coefficients = ndimage.spline_filter(image, output=np.result_type(image, np.float64))
    places = np.broadcast_arrays((at[:, :1] + grid)[:, :, None], (at[:, 1:] + grid)[:, None, :])
    return ndimage.map_coordinates(coefficients, places, order=3, prefilter=False, mode="constant")


def _shaped(patches: NDArray, grid: NDArray) -> NDArray:
    """Patches without background, fading out towards the rim, with peak 1 and phase 0 at the centre."""
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


def _half_width(line: NDArray, at: NDArray) -> NDArray:
    """Samples from the peak at `at` up to where each line (n, S) falls to half of it, between samples."""
    n, size = line.shape
    each = np.arange(n)
    half = line[each, at] / 2
    below = (line < half[:, None]) & (np.arange(size) > at[:, None])
    after = np.where(below.any(axis=1), below.argmax(axis=1), size - 1)
    high, low = line[each, after - 1], line[each, after]
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = after - 1 + (high - half) / (high - low) - at
    return np.where(below.any(axis=1), reach, np.inf)


_LOOKED_AT = 12  # frames
_FEW = 5  # bubbles whose median is not to be trusted


def bubble_width(frames: ArrayLike) -> tuple[float, float] | None:
    """Measure how wide bubbles that stand alone look.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        B-mode amplitude. Only a dozen frames, evenly spaced, are looked at.

    Returns
    -------
    (float, float) or None
        Median of their full widths at half maximum along z and x [px]; None where fewer than five are found.

    Notes
    -----
    Of a Gaussian 1.2 px wide the pixels make 1.4 px, of 1.6 px 1.7 px; widths of 2 px and more come out right.

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
    """Measure how wide bubbles look on the whole, from the autocorrelation of the frames.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        B-mode amplitude, bubbles over little background. Only a dozen frames, evenly spaced, are looked at.

    Returns
    -------
    (float, float)
        Full widths at half maximum along z and x [px]; NaN where frames do not vary.

    Notes
    -----
    The autocorrelation of a Gaussian is wider than itself by the root of two, which is taken out. Bright bubbles count
    most, and none has to stand alone. So unlike `bubble_width` it is not led astray by what a threshold has left of
    dark bubbles; but where bubbles are dense it comes out some percent too narrow, and speckle counts as well.

    Examples
    --------
    >>> z, x = np.mgrid[:63, :63] % 21 - 10
    >>> frame = np.exp(-4 * np.log(2) * ((z / 3) ** 2 + (x / 4) ** 2))
    >>> [round(width, 1) for width in correlation_width(frame[None])]
    [2.9, 3.8]
    """
    frames = _some(check_frames(frames)).astype(float)
    n_z, n_x = frames.shape[1:]
    spectrum = np.fft.rfft2(frames - frames.mean(axis=(1, 2), keepdims=True), s=(2 * n_z, 2 * n_x))
    correlation = np.fft.irfft2(np.mean(np.abs(spectrum) ** 2, axis=0), s=(2 * n_z, 2 * n_x))
    along_z, along_x = correlation[:n_z, 0], correlation[0, :n_x]
    return _correlation_half_width(along_z), _correlation_half_width(along_x)


def _correlation_half_width(correlation: NDArray) -> float:
    """Width at half maximum of the Gaussian that has this autocorrelation, given from its middle on."""
    below = np.flatnonzero(correlation < correlation[0] / 2)
    if not len(below) or correlation[0] <= 0:
        return float("nan")
    after, before = correlation[below[0]], correlation[below[0] - 1]
    return float(np.sqrt(2) * (below[0] - 1 + (before - correlation[0] / 2) / (before - after)))


def _some(frames: NDArray) -> NDArray:
    """A dozen frames, evenly spaced."""
    return frames[np.unique(np.linspace(0, len(frames) - 1, _LOOKED_AT).round().astype(int))]
