"""Frames held against those that a network was trained on: how wide bubbles look, and how many there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ulmpaper.psf import extract_psfs, isolated_bubbles, psf_width
from ulmpaper.records import check_frames

_LOOKED_AT = 12  # frames
_FEW = 5  # bubbles whose median is not to be trusted
_TOLERANCE = 0.15  # more than what pixels add to the width of narrow bubbles


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
    return _half_width(along_z), _half_width(along_x)


def difference(frames: ArrayLike, counts: ArrayLike, about: Mapping[str, Any]) -> str | None:
    """Say, with figures, in what frames differ from those that a network was trained on.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        B-mode amplitude.
    counts : array_like (T,)
        Bubbles found or expected in each frame.
    about : mapping
        As from `ulmpaper.weights.read_network`. Its ``domain`` holds ranges of the training: ``fwhm_z_px``,
        ``fwhm_x_px`` [px], ``bubbles_per_px``, and one number, ``px_wavelengths``.

    Returns
    -------
    str or None
        A sentence; None where nothing is outside by more than 15 %, or where `about` knows no domain.

    Examples
    --------
    >>> about = {"domain": {"bubbles_per_px": [0.001, 0.002]}}
    >>> print(difference(np.zeros((2, 50, 80)), [20, 24], about))
    the frames are unlike those of the training: 0.0055 bubbles per pixel (0.001 to 0.002); expect missed and false
    bubbles, or train weights for such frames (ulmpaper train)
    >>> difference(np.zeros((2, 50, 80)), [5, 6], about) is None
    True
    """
    domain = about.get("domain", {})
    if not domain:
        return None
    width_z, width_x = bubble_width(frames) or (None, None)
    measured = {
        "fwhm_z_px": (width_z, "px width of a bubble in depth"),
        "fwhm_x_px": (width_x, "px width across"),
        "bubbles_per_px": (np.asarray(counts).mean() / np.prod(np.shape(frames)[1:]), "bubbles per pixel"),
    }
    outside = {key: _outside(value, what, domain.get(key)) for key, (value, what) in measured.items()}
    said = [text for text in outside.values() if text]
    if not said:
        return None
    wide = outside["fwhm_z_px"] or outside["fwhm_x_px"]
    pitch = domain.get("px_wavelengths")
    resample = f"resample them to {pitch:g} wavelengths per pixel, " if wide and pitch else ""
    return (
        f"the frames are unlike those of the training: {', '.join(said)}; expect missed and false bubbles, "
        f"{resample}or train weights for such frames (ulmpaper train)"
    )


def _outside(value: float | None, what: str, limits: Sequence[float] | None) -> str | None:
    if value is None or limits is None or limits[0] * (1 - _TOLERANCE) <= value <= limits[1] * (1 + _TOLERANCE):
        return None
    return f"{value:.2g} {what} ({limits[0]:.2g} to {limits[1]:.2g})"


def _half_width(correlation: NDArray) -> float:
    """Width at half maximum of the Gaussian that has this autocorrelation, given from its middle on."""
    below = np.flatnonzero(correlation < correlation[0] / 2)
    if not len(below) or correlation[0] <= 0:
        return float("nan")
    after, before = correlation[below[0]], correlation[below[0] - 1]
    return float(np.sqrt(2) * (below[0] - 1 + (before - correlation[0] / 2) / (before - after)))


def _some(frames: NDArray) -> NDArray:
    """A dozen frames, evenly spaced."""
    return frames[np.unique(np.linspace(0, len(frames) - 1, _LOOKED_AT).round().astype(int))]
