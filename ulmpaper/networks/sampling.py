"""A network's own scale: frames sampled anew so that spots are as wide as in its training.

A network knows spots of a certain width, in pixels. Where those of a recording are wider or
narrower, its frames are resampled before the network sees them, and the bubbles' positions are
scaled back.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch.nn import functional

from ulmpaper.core.spots import bubble_width, evenly, width_factor

Factors = tuple[float, float]
AS_IT_IS: Factors = (1.0, 1.0)


def own_scale(frames: ArrayLike, about: Mapping[str, Any]) -> Factors:
    """Factors along z and x by which a network wants frames to be sampled more finely.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        B-mode amplitude, 0 or more. A dozen frames are looked at.
    about : mapping
        The ``about`` of a network, see `ulmpaper.networks.load_network`; its ``domain`` holds
        ``fwhm_z_px`` and ``fwhm_x_px``, the widths of the spots that it was trained on.

    Returns
    -------
    (float, float)
        Above 1 where spots are too narrow, below 1 where they are too wide. 1 along an axis where
        they suit, or where `about` does not say; (1, 1) where fewer than five bubbles stand alone.

    Notes
    -----
    Ours; see `ulmpaper.core.spots.width_factor`.

    Examples
    --------
    >>> z, x = np.mgrid[:90, :90] % 30 - 15
    >>> frame = np.exp(-4 * np.log(2) * ((z / 4) ** 2 + (x / 2) ** 2))
    >>> about = {"domain": {"fwhm_z_px": [1.0, 4.0], "fwhm_x_px": [1.0, 4.0]}}
    >>> [round(factor, 1) for factor in own_scale(frame[None], about)]
    [0.5, 1.0]
    """
    domain = about.get("domain", {})
    if not isinstance(domain, Mapping):
        raise TypeError(f"the domain of a network is a mapping of ranges, not {domain!r}")
    trained_z, trained_x = domain.get("fwhm_z_px"), domain.get("fwhm_x_px")
    widths = bubble_width(frames)
    if widths is None or trained_z is None or trained_x is None:
        return AS_IT_IS
    return width_factor(widths[0], trained_z), width_factor(widths[1], trained_x)


def at_own_scale(frames: NDArray, scale: str | Factors, about: Mapping[str, Any]) -> _Resampled:
    """Frames as a network wants them, by given factors or by those that ``auto`` measures."""
    factors = own_scale(frames, about) if isinstance(scale, str) else scale
    return _Resampled(frames, factors)


class _Resampled:
    """Frames that are sampled anew as they are read by slices.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        Amplitude, 0 or more: anything that has a shape and is read by slices.
    factors : (float, float)
        Times as many pixels along z and x. Their number is rounded; `factors` of the object are
        those that came out.

    Notes
    -----
    Cubic convolution, widened where pixels become fewer, so that nothing folds over (torch's
    ``interpolate`` with ``antialias``). The outer edges of the first and the last pixel stay where
    they are. What falls below 0 between a dark pixel and a bright one becomes 0.

    Examples
    --------
    >>> _Resampled(np.ones((2, 10, 9)), (0.5, 2.0))[0:1].shape
    (1, 5, 18)
    """

    def __init__(self, frames: Any, factors: Factors) -> None:
        self._frames = frames
        n_frames, *stored = frames.shape
        self._is_new = tuple(factors) != AS_IT_IS
        size = [max(1, round(n * factor)) for n, factor in zip(stored, factors, strict=True)]
        self.shape = (n_frames, *size)
        self.factors = (size[0] / stored[0], size[1] / stored[1])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, span: slice) -> NDArray:
        if not self._is_new:
            return self._frames[span]
        part = self._frames[span]
        part = torch.from_numpy(part.astype(np.result_type(part, np.float32)))[:, None]
        new = functional.interpolate(part, self.shape[1:], mode="bicubic", antialias=True)
        return new[:, 0].clamp_(min=0).numpy()

    def some(self) -> NDArray:
        """A dozen frames, evenly spaced."""
        return np.concatenate([self[t : t + 1] for t in evenly(len(self))])

    def carry(self, bubbles: pd.DataFrame) -> pd.DataFrame:
        """Bubbles of the old frames at their places in the new ones [px]."""
        return _scaled(bubbles, self.factors) if self._is_new else bubbles

    def restore(self, bubbles: pd.DataFrame) -> pd.DataFrame:
        """Bubbles of the new frames at their places in the old ones [px]."""
        z, x = self.factors
        return _scaled(bubbles, (1 / z, 1 / x)) if self._is_new else bubbles


def _scaled(bubbles: pd.DataFrame, factors: Factors) -> pd.DataFrame:
    """Bubbles, and how far off they may be, on pixels `factors` times as many.

    Pixels count from the same outer edges.
    """
    changed = {}
    for axis, factor in zip("zx", factors, strict=True):
        changed[axis] = (bubbles[axis] + 0.5) * factor - 0.5
        if (sigma := f"sigma_{axis}") in bubbles:
            changed[sigma] = bubbles[sigma] * factor
    return bubbles.assign(**changed)
