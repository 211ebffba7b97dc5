"""Scores of maps: SSIM, RMSE, gridding, saturation, Fourier ring correlation.

A map is an array (z, x) with `upsample` pixels for each pixel of the frames.
"""

from __future__ import annotations

from math import floor, inf, log10, nan

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from ulmpaper.core.doors import optional
from ulmpaper.core.records import check_choice, check_positive, check_whole
from ulmpaper.metrics.coverage import score_lines

_HIGHEST = 1e100  # squares of more overflow


def score_image(
    estimate: ArrayLike, reference: ArrayLike, *, upsample: int = 10
) -> dict[str, float]:
    """Compare an estimated with a true density map by SSIM and RMSE, each in the recipes in use.

    Parameters
    ----------
    estimate, reference : array_like (Z, X)
        Density maps [counts] on the same grid, at least 11 x ``4 * upsample + 7`` pixels.
    upsample : int
        Map pixels per pixel of the frames.

    Returns
    -------
    dict of str to float
        ``ssim_max, ssim_1``: 11 x 11 Gaussian window of 1.5 pixels, dynamic range max(reference) or
        1 (MATLAB's for doubles). ``ssim_rfulm``: as RF-ULM, 7 x 7 uniform window, range of the
        estimate, ``2 * upsample`` columns cropped left and right. ``rmse`` [counts], and
        ``rmse_gain`` [counts] after multiplying the estimate by the least-squares ``gain``. SSIM is
        NaN where its range is 0.

    Raises
    ------
    ValueError
        The maps differ in shape, are too small or hold NaN or infinity, or `upsample` is not above
        0.

    Notes
    -----
    With the means :math:`\\mu`, variances :math:`\\sigma^2` and covariance :math:`\\sigma_{ab}` in
    a window, and :math:`c_1 = (0.01 L)^2`, :math:`c_2 = (0.03 L)^2` of the dynamic range :math:`L`,
    SSIM is the mean over windows of

    .. math::

        \\frac{(2 \\mu_a \\mu_b + c_1) (2 \\sigma_{ab} + c_2)}
        {(\\mu_a^2 + \\mu_b^2 + c_1) (\\sigma_a^2 + \\sigma_b^2 + c_2)}.

    It leaves out half a window at the edges (scikit-image), which MATLAB includes. The paper does
    not name its recipe.

    References
    ----------
    Wang et al., IEEE Trans. Image Process. 13 (2004) 600 (SSIM); Hahne et al., arXiv:2310.01545
    (2023) (RF-ULM).

    Examples
    --------
    >>> score_image(np.eye(64) / 2, np.eye(64))["gain"]
    2.0
    """
    with optional("simulate"):
        from skimage.metrics import structural_similarity as ssim  # slow to load

    upsample = check_whole(upsample=upsample)
    a, b = _maps(estimate, reference, min_shape=(11, 4 * upsample + 7))
    inner = np.s_[:, 2 * upsample : -2 * upsample]
    matlab = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    gain = (a * b).sum() / ((a * a).sum() or 1.0)
    scores = {
        "ssim_max": ssim(a, b, data_range=b.max(), **matlab) if b.max() else nan,
        "ssim_1": ssim(a, b, data_range=1.0, **matlab),
        "ssim_rfulm": ssim(a[inner], b[inner], data_range=np.ptp(a[inner]))
        if np.ptp(a[inner])
        else nan,
        "rmse": np.sqrt(np.mean((a - b) ** 2)),
        "rmse_gain": np.sqrt(np.mean((gain * a - b) ** 2)),
        "gain": gain,
    }
    return {name: float(score) for name, score in scores.items()}


def score_maps(estimate: ArrayLike, truth: ArrayLike, *, upsample: int = 10) -> dict[str, float]:
    """Compare an estimated with a true density map: SSIM, RMSE, and the share of the vessels shown.

    Parameters
    ----------
    estimate, truth : array_like (Z, X)
        Density maps [tracks per map pixel] on the same grid.
    upsample : int
        Map pixels per pixel of the frames.

    Returns
    -------
    dict of str to float
        Those of `score_image` and `ulmpaper.metrics.score_lines`.

    Examples
    --------
    >>> scores = score_maps(np.eye(64) / 2, np.eye(64))
    >>> scores["gain"], scores["covered"], scores["false"]
    (2.0, 1.0, 0.0)
    """
    lines = score_lines(estimate, truth, upsample=upsample)
    return {**score_image(estimate, truth, upsample=upsample), **lines}


def gridding_index(density: ArrayLike, upsample: int = 10, *, pala: bool = False) -> float:
    """Measure how much the pixels of the frames show in a density map.

    Parameters
    ----------
    density : array_like (Z, X)
        Map of points that were not interpolated, at least ``7 * upsample`` pixels each way.
    upsample : int
        Map pixels per pixel of the frames, 3 or more.
    pala : bool
        Read the spectrum one bin too low, as PALA does.

    Returns
    -------
    float
        Index [dB]: 6 to 8 for points at random, more with gridding; NaN for an empty map.

    Raises
    ------
    ValueError
        `upsample` below 3, or the map is too small or holds NaN or infinity.

    Notes
    -----
    Along each axis, with :math:`P_a` the power spectrum of the map summed over the other axis and
    :math:`k_a` the bin of one cycle per pixel, the index is

    .. math::

        20 \\log_{10} \\frac{1}{2} \\sum_{a \\in \\{z, x\\}} \\sum_{h = 1, 2}
        \\frac{\\max_{|j| \\leq 1} P_a(h k_a + j)}
        {\\mathrm{mean}_{3 \\leq |j| \\leq 5} P_a(h k_a + j)}

    (PALA ``PALA_ComputeGriddingIndex``).

    References
    ----------
    Heiles et al., Nat. Biomed. Eng. 6 (2022) 605.

    Examples
    --------
    >>> points = np.random.default_rng(0).poisson(0.1, (400, 400))
    >>> bool(gridding_index(points) < 10 < gridding_index(points * (np.arange(400) % 10 < 2)))
    True
    """
    upsample = check_whole(low=3, upsample=upsample)  # two harmonics of the pixels
    density = _maps(density, min_shape=(7 * upsample, 7 * upsample))[0]
    power = np.abs(np.fft.fft2(density)) ** 2
    ratios = []
    for axis, n in enumerate(density.shape):
        spectrum = power.sum(axis=1 - axis)
        # One and two cycles per pixel of the frames, above their surroundings.
        for k in np.array([1, 2]) * floor(n / upsample + 0.5) - pala:
            around = spectrum[[k - 5, k - 4, k - 3, k + 3, k + 4, k + 5]].mean()
            ratios.append(spectrum[k - 1 : k + 2].max() / around if around else nan)
    return 20 * log10(sum(ratios) / 2)


def saturation(density: ArrayLike) -> float:
    """Give the share of the pixels of a density map that are above 0.

    Parameters
    ----------
    density : array_like (Z, X)
        Density map [counts].

    Returns
    -------
    float
        Share, between 0 and 1.

    Raises
    ------
    ValueError
        Not a map of two axes, or NaN or infinity in it.

    Notes
    -----
    PALA's saturation. It grows with the time of acquisition, and with false tracks.

    References
    ----------
    Heiles et al., Nat. Biomed. Eng. 6 (2022) 605.

    Examples
    --------
    >>> saturation([[0, 2], [0, 0]])
    0.25
    """
    return float(np.mean(_maps(density)[0] > 0))


def fourier_ring_correlation(
    map_a: ArrayLike, map_b: ArrayLike, *, px: float = 1.0
) -> pd.DataFrame:
    """Correlate two maps on rings of spatial frequency.

    Parameters
    ----------
    map_a, map_b : array_like (Z, X)
        Maps of the same scene, each made from half of the tracks.
    px : float
        Pitch of the maps, in any unit; by default in map pixels.

    Returns
    -------
    DataFrame
        A row for each ring: ``frequency`` [1/unit of px]; ``frc``, between -1 and 1, NaN where a
        map has no power; the thresholds ``half_bit`` and ``one_seventh``; ``n_pixels`` of the ring.

    Raises
    ------
    ValueError
        The maps differ in shape, or hold NaN or infinity, or `px` is not above 0.

    Notes
    -----
    With the Fourier transforms :math:`A, B` of the maps, the sums running over a ring of :math:`n`
    pixels,

    .. math::

        FRC = \\frac{\\mathrm{Re} \\sum A B^*}{\\sqrt{\\sum |A|^2 \\sum |B|^2}}, \\qquad
        T_{1/2} = \\frac{0.2071 + 1.9102 / \\sqrt{n}}{1.2071 + 0.9102 / \\sqrt{n}}.

    A cosine tapers 1/8 of each side of the maps before. A ring is as wide as one bin of the shorter
    side.

    References
    ----------
    van Heel and Schatz, J. Struct. Biol. 151 (2005) 250 (half bit); Nieuwenhuizen et al., Nat.
    Methods 10 (2013) 557 (1/7); Hingot et al., IEEE Trans. Med. Imaging 40 (2021) 3812 (in ULM).

    Examples
    --------
    >>> noise = np.random.default_rng(0).random((32, 32))
    >>> curve = fourier_ring_correlation(noise, 2 * noise, px=0.5)
    >>> curve[["frequency", "frc"]].round(9).values[[0, -1]].tolist()
    [[0.0625, 1.0], [1.0, 1.0]]
    """
    from scipy.signal.windows import tukey  # here, because it is slow to load

    check_positive(px=px)
    maps = _maps(map_a, map_b)
    shape = maps[0].shape
    side = min(maps[0].shape)
    a, b = (np.fft.fft2(m * np.outer(*(tukey(n, 0.25) for n in shape))) for m in maps)
    radius = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij"))
    # Number of the ring of each frequency, as wide as one bin of the shorter side.
    ring = np.rint(radius * side).astype(int).ravel()
    terms = ((a * b.conj()).real, np.abs(a) ** 2, np.abs(b) ** 2, np.ones(shape))
    both, in_a, in_b, n_pixels = (
        np.bincount(ring, term.ravel())[1 : side // 2 + 1] for term in terms
    )
    energy = np.sqrt(in_a * in_b)
    frc = np.divide(both, energy, out=np.full_like(energy, nan), where=energy > 0)
    half_bit = (0.2071 + 1.9102 / np.sqrt(n_pixels)) / (1.2071 + 0.9102 / np.sqrt(n_pixels))
    columns = {
        "frc": frc,
        "half_bit": half_bit,
        "one_seventh": 1 / 7,
        "n_pixels": n_pixels.astype(int),
    }
    return pd.DataFrame({"frequency": np.arange(1, side // 2 + 1) / (side * px), **columns})


def frc_resolution(curve: pd.DataFrame, threshold: str = "half_bit") -> float:
    """Find the resolution at which a Fourier ring correlation first falls below a threshold.

    Parameters
    ----------
    curve : DataFrame
        As from `fourier_ring_correlation`.
    threshold : str
        ``"half_bit"`` or ``"one_seventh"``.

    Returns
    -------
    float
        Resolution [unit of px]; NaN if the curve never falls below (the pixels are too coarse to
        tell), infinite if it starts below.

    Raises
    ------
    ValueError
        Another threshold.

    Notes
    -----
    The inverse of the frequency at which curve and threshold cross, between rings by linear
    interpolation.

    References
    ----------
    Nieuwenhuizen et al., Nat. Methods 10 (2013) 557; Hingot et al., IEEE Trans. Med. Imaging 40
    (2021) 3812.

    Examples
    --------
    >>> frc_resolution(pd.DataFrame({"frequency": [1.0, 3.0], "frc": [0.5, 0.0], "half_bit": 0.25}))
    0.5
    """
    check_choice(threshold, ["half_bit", "one_seventh"], "threshold")
    if missing := {"frequency", "frc", threshold} - set(curve):
        raise ValueError(f"the curve lacks the column(s) {', '.join(sorted(missing))}")
    if not all(pd.api.types.is_float_dtype(kind) for kind in curve.dtypes[["frequency", "frc"]]):
        raise TypeError("the curve's columns frequency and frc hold numbers only")
    margin = (curve["frc"] - curve[threshold]).to_numpy()
    frequency = curve["frequency"].to_numpy()
    below = np.flatnonzero(margin < 0)
    if not len(below) or below[0] == 0:
        return inf if len(below) else nan
    around = [below[0], below[0] - 1]
    return float(1 / np.interp(0, margin[around], frequency[around]))


def _maps(*maps: ArrayLike, min_shape: tuple[int, int] = (2, 2)) -> list[NDArray[np.float64]]:
    arrays = [np.asarray(m) for m in maps]
    for array in arrays:
        if array.dtype.kind not in "biuf":
            raise TypeError(f"a map holds real numbers, not {array.dtype}")
    arrays = [a.astype(float) for a in arrays]
    shapes = [a.shape for a in arrays]
    if len(set(shapes)) > 1:
        raise ValueError(f"the maps differ in shape: {' and '.join(map(str, shapes))}")
    if len(shapes[0]) != 2 or np.less(shapes[0], min_shape).any():
        raise ValueError(
            f"a map needs two axes (z, x) of at least {min_shape} pixels here, "
            f"not shape {shapes[0]}"
        )
    if not all(np.isfinite(a).all() for a in arrays):
        raise ValueError("a map holds NaN or infinite values: replace them, e.g. np.nan_to_num")
    for highest in (float(np.abs(a).max()) for a in arrays):
        if highest and not 1 / _HIGHEST < highest < _HIGHEST:
            raise ValueError(
                f"the highest value of a map is {highest:g}, and its square no number: scale it"
            )
    return arrays
