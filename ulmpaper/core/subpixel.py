"""The eight classical sub-pixel methods: windows (n, k, k) in, shifts (dz, dx) out [px].

A shift leads from the centre of the window, its peak, to the bubble.

`METHODS` maps each name to its function ``f(windows, pala) -> (dz, dx)``. Rules and names of the
methods follow PALA's ``ULM_localization2D`` (Heiles et al. 2022); ``parabola`` is ours.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_Windows = NDArray[np.float64]
_Shifts = tuple[NDArray[np.float64], NDArray[np.float64]]

# The interpolating methods enlarge this many windows in one go, to stay in the processor's cache.
_CHUNK_WINDOWS = 200
_ENLARGE = 10


def _method(shifts: Callable[[_Windows, bool], _Shifts]) -> Callable[..., _Shifts]:
    """Check the windows first; what has no shift, such as a flat window, gives NaN."""

    @functools.wraps(shifts)
    def checked(windows: _Windows, pala: bool = False) -> _Shifts:
        array = np.asarray(windows)
        if array.dtype.kind not in "biuf":
            raise TypeError(f"windows hold real numbers, not {array.dtype}")
        side = array.shape[-1] if array.ndim == 3 else 0
        if side < 3 or side % 2 == 0 or array.shape[1] != side:
            raise ValueError(
                f"windows have the shape (n, k, k) with an odd k from 3 on, not {array.shape}"
            )
        array = array if array.dtype.kind == "f" else array.astype(float)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return shifts(array, pala)

    return checked


@_method
def centre_pixel(windows: _Windows, pala: bool = False) -> _Shifts:
    """Take the centre of the peak's pixel: no shift."""
    zero = np.zeros(len(windows))
    return zero, zero


@_method
def weighted_average(windows: _Windows, pala: bool = False) -> _Shifts:
    """Take the centre of mass. No background is removed, so shifts come out too small, as in PALA.

    Examples
    --------
    >>> window = np.zeros((1, 5, 5))
    >>> window[0, 2, 2:4] = 1
    >>> [float(s[0]) for s in weighted_average(window)]
    [0.0, 0.5]
    """
    along = _around(windows)
    mass = windows.sum(axis=(1, 2))
    return windows.sum(axis=2) @ along / mass, windows.sum(axis=1) @ along / mass


@_method
def radial_symmetry(windows: _Windows, pala: bool = False) -> _Shifts:
    """Find the point nearest to all lines along the gradient.

    Notes
    -----
    Gradients :math:`g` live on the half-pixel grid, taken along the diagonals and smoothed by a 3 x
    3 mean. A line through :math:`p` along :math:`g` has the unit normal :math:`n`; the result
    solves :math:`\\sum W n n^T c = \\sum W n n^T p` with :math:`W = |g|^2 / |p - \\bar p|`,
    :math:`\\bar p` the gradient-weighted centroid (Parthasarathy, Nat. Methods 9 (2012) 724). PALA
    writes the lines by their slopes, which fails where they run along z: it replaces an infinite
    slope by ten times the largest finite one. ``pala=True`` repeats that.
    """
    u = _mean3(windows[:, :-1, 1:] - windows[:, 1:, :-1])
    w = _mean3(windows[:, :-1, :-1] - windows[:, 1:, 1:])
    g_z = -(u + w)
    g_x = u - w
    along = np.arange(windows.shape[1] - 1) - (windows.shape[1] - 2) / 2
    z = along[:, None]
    x = along[None, :]
    power = u**2 + w**2
    total = power.sum(axis=(1, 2))
    centroid_z = (power * z).sum(axis=(1, 2)) / total
    centroid_x = (power * x).sum(axis=(1, 2)) / total
    distance = np.hypot(z - centroid_z[:, None, None], x - centroid_x[:, None, None])
    weight = power / np.maximum(distance, 1e-9)
    if pala:
        return _meet_by_slopes(g_z, g_x, weight, z, x)
    # Unit normal (g_x, -g_z) / |g|; flat spots have weight 0 and any direction.
    weight = np.divide(weight, g_z**2 + g_x**2, out=np.zeros_like(weight), where=power > 0)
    zz = weight * g_x**2
    xx = weight * g_z**2
    zx = -weight * g_x * g_z
    a, b, c = (q.sum(axis=(1, 2)) for q in (zz, zx, xx))
    p = (zz * z + zx * x).sum(axis=(1, 2))
    q = (zx * z + xx * x).sum(axis=(1, 2))
    det = a * c - b**2
    return (c * p - b * q) / det, (a * q - b * p) / det


def _meet_by_slopes(g_z: NDArray, g_x: NDArray, weight: NDArray, z: NDArray, x: NDArray) -> _Shifts:
    """Intersection of the lines z = m x + b, with PALA's treatment of infinite slopes."""
    slope = g_z / g_x
    # 0 / 0 has weight 0, so its value is of no effect.
    slope[np.isnan(slope)] = 0
    infinite = np.isinf(slope)
    largest = np.where(infinite, -np.inf, slope).max(axis=(1, 2))
    slope = np.where(infinite, 10 * largest[:, None, None], slope)
    b = z - slope * x
    q = weight / (1 + slope**2)
    s, s_mm, s_m, s_mb, s_b = (
        term.sum(axis=(1, 2)) for term in (q, q * slope**2, q * slope, q * slope * b, q * b)
    )
    det = s_m**2 - s_mm * s
    return (s_mb * s_m - s_mm * s_b) / det, (s_mb * s - s_m * s_b) / det


@_method
def gaussian_fit(windows: _Windows, pala: bool = False) -> _Shifts:
    """Fit a Gaussian of standard deviation 1 px and the height of the peak, by least squares.

    Notes
    -----
    PALA fits the same model and stops after five iterations; this one (damped Gauss-Newton on all
    windows at once) runs until no step is above 1e-4 px. Windows that hold two bubbles may have no
    good fit.
    """
    along = _around(windows)
    data = windows / windows.max(axis=(1, 2), keepdims=True)
    n = len(windows)
    at = np.zeros((n, 2))
    damping = np.full(n, 1e-3)
    todo = np.arange(n)
    cost, gradient, hessian = _gaussian_terms(data, at, along)
    for _ in range(50):
        # Solve the damped 2 x 2 system of each window by Cramer's rule.
        damped = hessian[todo] * (1 + np.eye(2) * damping[todo, None, None])
        det = damped[:, 0, 0] * damped[:, 1, 1] - damped[:, 0, 1] ** 2
        g = gradient[todo]
        step = (
            np.stack(
                [
                    damped[:, 0, 1] * g[:, 1] - damped[:, 1, 1] * g[:, 0],
                    damped[:, 0, 1] * g[:, 0] - damped[:, 0, 0] * g[:, 1],
                ],
                axis=1,
            )
            / np.maximum(det, 1e-300)[:, None]
        )
        # No step is longer than a pixel: far from the peak the model is no guide.
        step *= np.minimum(1, 1 / np.maximum(np.hypot(*step.T), 1e-300))[:, None]
        trial_cost, trial_gradient, trial_hessian = _gaussian_terms(
            data[todo], at[todo] + step, along
        )
        # Keep steps that lower the error and trust the model more; else damp more and try again.
        better = trial_cost <= cost[todo]
        moved = todo[better]
        at[moved] += step[better]
        cost[moved] = trial_cost[better]
        gradient[moved] = trial_gradient[better]
        hessian[moved] = trial_hessian[better]
        damping[todo] = np.where(better, damping[todo] / 5, damping[todo] * 5)
        todo = todo[np.hypot(*step.T) > 1e-4]
        if not len(todo):
            break
    return at[:, 0], at[:, 1]


def _gaussian_terms(
    data: _Windows, at: NDArray, along: NDArray
) -> tuple[NDArray, NDArray, NDArray]:
    """Squared error, half its gradient and the Gauss-Newton matrix for shifts `at` (n, 2)."""
    off_z = along[None, :] - at[:, :1]
    off_x = along[None, :] - at[:, 1:]
    by_z = np.exp(-(off_z**2) / 2)
    by_x = np.exp(-(off_x**2) / 2)
    model = by_z[:, :, None] * by_x[:, None, :]
    error = model - data
    slope = np.stack([model * off_z[:, :, None], model * off_x[:, None, :]], axis=1)
    gradient = np.einsum("nazx,nzx->na", slope, error)
    hessian = np.einsum("nazx,nbzx->nab", slope, slope)
    return np.einsum("nzx,nzx->n", error, error), gradient, hessian


@_method
def log_parabola(windows: _Windows, pala: bool = False) -> _Shifts:
    """Fit a parabola to the logarithm of the three pixels round the peak, along each axis.

    Notes
    -----
    Exact for a Gaussian bubble of any width; uses the centre's row and column only, so neighbours
    disturb it less than they disturb methods of the whole window. The shift never leaves the pixel.

    Examples
    --------
    >>> z, x = np.mgrid[-2:3, -2:3]
    >>> window = np.exp(-((z - 0.3) ** 2) / 2 - (x + 0.2) ** 2 / 5)
    >>> [round(float(s[0]), 6) for s in log_parabola(window[None])]
    [0.3, -0.2]
    """
    mid = windows.shape[1] // 2
    # A pixel of amplitude 0 has no logarithm; a millionth of the peak keeps the parabola finite.
    logs = np.log(np.maximum(windows, 1e-6 * windows[:, mid, mid][:, None, None]))

    def vertex(before: NDArray, centre: NDArray, after: NDArray) -> NDArray:
        bend = before - 2 * centre + after
        return np.divide(before - after, 2 * bend, out=np.zeros_like(bend), where=bend < 0)

    return (
        vertex(logs[:, mid - 1, mid], logs[:, mid, mid], logs[:, mid + 1, mid]),
        vertex(logs[:, mid, mid - 1], logs[:, mid, mid], logs[:, mid, mid + 1]),
    )


@_method
def cubic_peak(windows: _Windows, pala: bool = False) -> _Shifts:
    """Take the maximum of the window enlarged tenfold by cubic convolution (Keys, a = -1/2)."""

    def kernel(d: NDArray) -> NDArray:
        d = np.abs(d)
        near = 1.5 * d**3 - 2.5 * d**2 + 1
        far = -0.5 * d**3 + 2.5 * d**2 - 4 * d + 2
        return np.where(d <= 1, near, np.where(d <= 2, far, 0.0))

    return _resized_peak(windows, kernel, 2)


@_method
def lanczos_peak(windows: _Windows, pala: bool = False) -> _Shifts:
    """Take the maximum of the window enlarged tenfold with the Lanczos-3 kernel."""
    return _resized_peak(
        windows, lambda d: np.where(np.abs(d) < 3, np.sinc(d) * np.sinc(d / 3), 0.0), 3
    )


@_method
def spline_peak(windows: _Windows, pala: bool = False) -> _Shifts:
    """Take the maximum of the cubic spline through the window, at ten points a pixel.

    Notes
    -----
    PALA spreads its ``10 k`` points over the ``k - 1`` spans between the outermost pixels but reads
    them as 0.1 px apart, which stretches every shift by 1.225 (for k = 5); ``pala=True`` repeats
    that.
    """
    from scipy.interpolate import CubicSpline  # here, because it is slow to load

    size = windows.shape[1]
    half = size // 2
    points = np.linspace(-half, half, _ENLARGE * size)
    enlarge = CubicSpline(_around(windows), np.eye(size))(points)
    return _enlarged_peak(windows, enlarge, _resized_points(size) if pala else points)


def _resized_peak(windows: _Windows, kernel: Callable[[NDArray], NDArray], reach: int) -> _Shifts:
    """Maximum of the window enlarged as MATLAB's imresize does: mirrored edges, normalized."""
    size = windows.shape[1]
    at = _resized_points(size) + size // 2
    pixels = np.floor(at)[:, None] + np.arange(-reach, reach + 1)
    weights = kernel(at[:, None] - pixels)
    # Pixels beyond the edge are those inside, mirrored.
    mirrored = pixels.astype(int) % (2 * size)
    mirrored = np.where(mirrored < size, mirrored, 2 * size - 1 - mirrored)
    enlarge = np.zeros((len(at), size))
    np.add.at(enlarge, (np.arange(len(at))[:, None], mirrored), weights)
    return _enlarged_peak(
        windows, enlarge / enlarge.sum(axis=1, keepdims=True), _resized_points(size)
    )


def _enlarged_peak(windows: _Windows, enlarge: NDArray, points: NDArray) -> _Shifts:
    """Highest point of ``enlarge @ window @ enlarge.T``; of several, the first in column order."""
    best = np.empty(len(windows), dtype=np.intp)
    for start in range(0, len(windows), _CHUNK_WINDOWS):
        part = windows[start : start + _CHUNK_WINDOWS]
        columns = np.swapaxes(enlarge @ part @ enlarge.T, 1, 2).reshape(len(part), -1)
        # In a symmetric window, mirrored points differ by rounding alone: they count as equal.
        highest = columns.max(axis=1, keepdims=True)
        best[start : start + len(part)] = (columns >= highest - 1e-12 * np.abs(highest)).argmax(
            axis=1
        )
    x, z = np.divmod(best, len(points))
    return points[z], points[x]


def _resized_points(size: int) -> NDArray[np.float64]:
    """Places of the pixels of a window enlarged tenfold, from the window's centre [px]."""
    return (np.arange(_ENLARGE * size) + 0.5) / _ENLARGE - size / 2


def _around(windows: _Windows) -> NDArray[np.float64]:
    half = windows.shape[1] // 2
    return np.arange(-half, half + 1, dtype=float)


def _mean3(maps: NDArray) -> NDArray:
    """3 x 3 mean with zeros outside."""
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)))
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9


# Least side of the window [px], 3 where nothing stands here. In a smaller one, the smoothed
# gradients of `radial_symmetry` are all alike, so that their lines are parallel.
LEAST_WINDOW_PX = {"radial": 5}

METHODS: dict[str, Callable[[_Windows, bool], _Shifts]] = {
    "none": centre_pixel,
    "weighted": weighted_average,
    "radial": radial_symmetry,
    "gaussian": gaussian_fit,
    "parabola": log_parabola,
    "cubic": cubic_peak,
    "lanczos": lanczos_peak,
    "spline": spline_peak,
}
