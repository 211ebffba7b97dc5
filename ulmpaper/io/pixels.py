"""Square pixels: frames whose pixels are not square are sampled anew along one axis.

Cubic splines go through every stored value, so amplitude stays, and IQ stays complex.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline


def square_size(n_stored: int, stretch: float) -> int:
    """Number of pixels between the first and the last stored centre, `stretch` times as dense.

    Examples
    --------
    >>> square_size(21, 2.0), square_size(21, 1.0)
    (41, 21)
    """
    return int((n_stored - 1) * stretch + 1e-6) + 1


def square_frames(frames: NDArray, stretch: tuple[float, float]) -> NDArray:
    """Sample frames (t, z, x) anew, `stretch` times as densely along z and x.

    Parameters
    ----------
    frames : ndarray (T, Z, X)
        float32 or complex64.
    stretch : (float, float)
        Stored pitch over the new one, along z and x; 1 leaves an axis as it is. The first pixel
        stays where it is.

    Examples
    --------
    >>> square_frames(np.arange(4, dtype=np.float32).reshape(1, 4, 1), (2.0, 1.0)).ravel().tolist()
    [0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    """
    is_amplitude = frames.dtype.kind != "c" and frames.min() >= 0
    along_z, along_x = stretch
    if along_z != 1:
        frames = _sampling(frames.shape[1], along_z) @ frames
    if along_x != 1:
        frames = frames @ _sampling(frames.shape[2], along_x).T
    # Between a dark pixel and a bright one the spline may fall below zero.
    return np.maximum(frames, 0) if is_amplitude else frames


@functools.lru_cache(maxsize=8)
def _sampling(n_stored: int, stretch: float) -> NDArray[np.float32]:
    """Matrix of the spline through `n_stored` values, at the new places."""
    if n_stored == 1:
        return np.ones((1, 1), np.float32)
    places = np.arange(square_size(n_stored, stretch)) / stretch
    degree = 3 if n_stored > 3 else 1
    spline = make_interp_spline(np.arange(n_stored), np.eye(n_stored), k=degree)
    return spline(np.minimum(places, n_stored - 1)).astype(np.float32)
