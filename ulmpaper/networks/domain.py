"""Whether a network can be trusted here: frames, speeds and results unlike those it knows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from ulmpaper.config import trained_speed_px
from ulmpaper.core.spots import bubble_width

_FASTER = 1.1  # times the fastest flow of the training, before it is said
_TOLERANCE = 0.15  # more than what pixels add to the width of narrow bubbles
_FEW = 100  # bubbles that say little
_UNSURE = 0.8  # a bubble less probable than this
_MOST_UNSURE = 0.07  # share of such bubbles; on frames like those of the training it is 0.03
_LEAST_TRACKED = 0.5  # share of bubbles in long tracks; there it is 0.9


def result_gap(
    bubbles: pd.DataFrame, tracks: pd.DataFrame, *, n_frames: int, min_length: int
) -> str | None:
    """Say, with figures, where what a network found looks as if it does not know such frames.

    Parameters
    ----------
    bubbles, tracks : DataFrame
        All bubbles that 3DML-ResNet found, with its probabilities as `score`; the points of tracks
        of more than `min_length` points.
    n_frames, min_length : int
        Length of the recording, and of the tracks [frames].

    Returns
    -------
    str or None
        A sentence where over 7 % of the bubbles are unsure, or fewer than half lie in tracks. None
        for fewer than 100 bubbles.

    Notes
    -----
    Ours. No truth is needed: on spots too wide and on flow too fast for a network, the two figures
    were 8 to 75 % and 0 to 30 % where its Jaccard index was below 0.5, on frames like those of its
    training up to 3 % and over 90 %.

    Examples
    --------
    >>> sure = pd.DataFrame({"score": np.ones(200)})
    >>> result_gap(sure, sure[:180], n_frames=100, min_length=15) is None
    True
    >>> result_gap(sure, sure[:20], n_frames=100, min_length=15)[:45]
    'only 10 % of the bubbles lie in tracks of mor'
    """
    if len(bubbles) < _FEW:
        return None
    found = []
    tracked = len(tracks) / len(bubbles)
    if n_frames > 2 * min_length and tracked < _LEAST_TRACKED:
        found.append(
            f"only {100 * tracked:.0f} % of the bubbles lie in tracks of more than {min_length} "
            "points"
        )
    unsure = float((bubbles["score"] < _UNSURE).mean())
    if unsure > _MOST_UNSURE:
        found.append(
            f"{100 * unsure:.0f} % of the bubbles are unsure, of a probability below {_UNSURE:g}"
        )
    if not found:
        return None
    return (
        f"{' and '.join(found)} (on frames that the network knows, nine in ten lie in tracks and "
        "3 % are unsure): see whether a classical method finds more (ulmpaper compare), let the "
        "network work at its own scale (ml3d.scale=auto), or train weights for such frames "
        "(ulmpaper train)"
    )


def speed_gap(speeds_px: ArrayLike, about: Mapping[str, Any]) -> str | None:
    """Say where bubbles flow faster than those that a network was trained on.

    Parameters
    ----------
    speeds_px : array_like (N,)
        Mean speeds of the tracks that the network led to [px/frame].
    about : mapping
        What comes with the weights; nothing is said of those trained on frames from a store, whose
        speeds are not known.

    Returns
    -------
    str or None
        A sentence where one track in twenty is more than a tenth faster than the training's
        fastest flow.

    Examples
    --------
    >>> speed_gap([0.4, 0.5], {}) is None
    True
    """
    speeds = np.asarray(speeds_px, dtype=float)
    speeds = speeds[np.isfinite(speeds)]
    if not about.get("domain") or "settings" not in about or not len(speeds):
        return None
    trained = trained_speed_px(about["settings"])
    fastest = float(np.quantile(speeds, 0.95))
    if fastest <= _FASTER * trained:
        return None
    return (
        f"bubbles flow by up to {fastest:.2g} px a frame, those of the network's training by "
        f"{trained:.2g}: expect broken tracks that read too slow; compare with a classical method "
        "(ulmpaper compare), or train weights for such frames (ulmpaper train)"
    )


def domain_gap(frames: ArrayLike, counts: ArrayLike, about: Mapping[str, Any]) -> str | None:
    """Say, with figures, how frames differ from those that a network was trained on.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        B-mode amplitude.
    counts : array_like (T,)
        Bubbles found or expected in each frame.
    about : mapping
        The ``about`` of a network, see `load_network`. Its ``domain`` holds ranges of the training:
        ``fwhm_z_px``, ``fwhm_x_px`` [px], ``bubbles_per_px``, and one number, ``px_wavelengths``.

    Returns
    -------
    str or None
        A sentence; None where no figure is outside by more than 15 %, or where `about` has no
        domain.

    Examples
    --------
    >>> about = {"domain": {"bubbles_per_px": [0.001, 0.002]}}
    >>> print(domain_gap(np.zeros((2, 50, 80)), [20, 24], about))
    the frames are unlike those of the training: 0.0055 bubbles per pixel (0.001 to 0.002); expect
    missed and false bubbles, or train weights for such frames (ulmpaper train)
    >>> domain_gap(np.zeros((2, 50, 80)), [5, 6], about) is None
    True
    """
    domain = about.get("domain", {})
    if not domain:
        return None
    width_z, width_x = bubble_width(frames) or (None, None)
    density = np.asarray(counts).mean() / np.prod(np.shape(frames)[1:])
    too_wide = [
        *_outside(width_z, "px width of a bubble in depth", domain.get("fwhm_z_px")),
        *_outside(width_x, "px width across", domain.get("fwhm_x_px")),
    ]
    too_many = _outside(density, "bubbles per pixel", domain.get("bubbles_per_px"))
    if not too_wide and not too_many:
        return None
    pitch = domain.get("px_wavelengths")
    advice = ""
    if too_wide and pitch:  # another pixel pitch changes widths in pixels
        advice = f"resample them to {pitch:g} wavelengths per pixel (ml3d.scale or mspcn.scale), "
    return (
        f"the frames are unlike those of the training: {', '.join(too_wide + too_many)}; "
        f"expect missed and false bubbles, {advice}or train weights for such frames "
        "(ulmpaper train)"
    )


def _outside(value: float | None, what: str, limits: Sequence[float] | None) -> list[str]:
    """The value in words with its limits if it is outside them, else nothing."""
    if value is None or limits is None:
        return []
    low, high = limits
    if low * (1 - _TOLERANCE) <= value <= high * (1 + _TOLERANCE):
        return []
    return [f"{value:.2g} {what} ({low:.2g} to {high:.2g})"]
