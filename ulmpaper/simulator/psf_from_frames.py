"""PSFs cut from frames (Fig. 2f), and how wide bubbles look.

Bubbles that stand alone are found, cut out and centred (`ulmpaper.core.isolated_bubbles`), and
become a bank. `bubble_width` and `correlation_width` tell whether frames look like those of a bank.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from ulmpaper.core.records import check_bubbles, check_frames, check_positive
from ulmpaper.core.spots import bubble_width as bubble_width  # for users of this room
from ulmpaper.core.spots import isolated_bubbles, sample_patches, shape_patches, some_frames
from ulmpaper.core.spots import psf_width as psf_width
from ulmpaper.simulator.psf import PsfBank, fine_grid

_SAME_PX = 1.0  # a true bubble farther than this from a peak did not make it


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
            patches.append(sample_patches(frames[t], at, grid))
        if n_found == n_psf:
            table = shape_patches(np.concatenate(patches), grid)
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
        patches.append(sample_patches(values, centre, grid / pitch_px)[0])
    if not patches:
        raise ValueError("no images came: a bank needs at least one")
    return PsfBank(
        shape_patches(np.stack(patches), grid), oversample, half_px, px_wavelengths, source
    )


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
    frames = some_frames(check_frames(frames)).astype(float)
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


# --- widths ------------------------------------------------------------------------------------


def _correlation_width(correlation: NDArray) -> float:
    """Full width at half maximum of the Gaussian that has this (half) autocorrelation."""
    below = np.flatnonzero(correlation < correlation[0] / 2)
    if not len(below) or correlation[0] <= 0:
        return float("nan")
    after = correlation[below[0]]
    before = correlation[below[0] - 1]
    return float(np.sqrt(2) * (below[0] - 1 + (before - correlation[0] / 2) / (before - after)))
