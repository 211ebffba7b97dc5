r"""Cramér-Rao bound of a PSF: the least possible localization error.

A bubble alone at :math:`(z_0, x_0)` gives the pixels
:math:`y_k = c\,E(z_k - z_0, x_k - x_0) + n_k`: the PSF :math:`E` times an unknown complex amplitude
:math:`c`, plus noise. No estimator that is right on average can scatter less than the bound, even
if it knows :math:`E`. The phase of :math:`c` holds :math:`-4\pi z_0/\lambda`, but the bubble's own
phase is free, so the phase tells nothing about the place.
"""

from __future__ import annotations

import functools

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import linalg, special
from scipy.interpolate import CubicSpline

from ulmpaper.core.records import check_choice
from ulmpaper.simulator.psf import PsfBank, fine_grid, linear_array_psf, resample

_NOISES = ("white", "speckle")
# White noise in the speckle, as a share of its power: without it, speckle on fine pixels could be
# predicted from its neighbours and removed.
_FLOOR = 1e-4
_NODES = 257
_TAIL = 9.0  # no Rician amplitude lies further from its mode, in standard deviations


def crb_px(
    bank: PsfBank,
    index: ArrayLike | None = None,
    *,
    snr_db: ArrayLike,
    envelope: bool = True,
    noise: str = "white",
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bound the error of localizing one isolated bubble in one frame.

    Parameters
    ----------
    bank : PsfBank
        PSFs on the pixels of the frames; see `ulmpaper.simulator.resample` for other pixels.
    index : int or array_like of int, optional
        Rows of the bank, by default all.
    snr_db : float or array_like
        Amplitude of the bubble's peak over the root mean square of the noise's modulus [dB], as
        ``ratio_db`` of `ulmpaper.simulator.simulate_block`.
    envelope : bool
        From the modulus of the pixels (B-mode), which is what radial symmetry and the networks see;
        otherwise from the complex IQ.
    noise : {"white", "speckle"}
        Complex noise independent from pixel to pixel; or the simulator's background, smooth speckle
        as `ulmpaper.simulator.linear_array_psf` makes it, for IQ only.

    Returns
    -------
    std_z, std_x : ndarray
        Least standard deviations along z and x [px], in the shape of `snr_db`: the root of the
        variance averaged over places in the pixel and over the PSFs.

    Raises
    ------
    ValueError
        No such row, a PSF without a place, `snr_db` not finite, the envelope in speckle.

    Notes
    -----
    With the derivatives :math:`g_i` of the pixels with respect to :math:`z_0, x_0` and the
    amplitude, the Fisher information is
    :math:`F_{ij} = 2\\,\\mathrm{Re}\\, g_i^H C^{-1} g_j` for IQ with noise of covariance :math:`C`.
    The modulus of a pixel in white noise of power :math:`\\sigma^2` is Rician, hence
    :math:`F_{ij} = \\sum_k 2 J_k\\, g_{ik}\\, g_{jk} / \\sigma^2` with the share :math:`J` of the
    information that a modulus keeps. For a ratio :math:`t` of the pixel's amplitude to the standard
    deviation of its noise's real part,
    :math:`J(t) = \\mathrm{E}[(\\rho\\, I_1(\\rho t) / I_0(\\rho t) - t)^2]` over the modulus
    :math:`\\rho`: like :math:`t^2` near 0 and like :math:`1 - 1/(2t^2)` far away. The least
    variances are the diagonal of :math:`F^{-1}`.

    Two bounds are of use:

    - *Envelope, white noise*: the best that any method can do with one B-mode frame if its noise is
      white. In speckle of the same power it is a reference, not a bound: smooth noise blurs some
      details more and others less.
    - *IQ, speckle*: the bound for one frame of the simulator. B-mode is made from IQ, so the bound
      holds for B-mode too, but may lie far below what B-mode allows: it uses all detail in which
      the bubble is finer than the speckle. White noise 40 dB below the speckle keeps that finite.
      With pixels of one wavelength it hardly matters (2 %); with finer pixels the bound depends
      on it.

    Both are for one frame. A constant background is not drawn anew for each frame: over a bubble at
    rest, N frames do not divide the error by :math:`\\sqrt N`. Around a bubble that moves, they
    show the background by itself, and a method that uses a window of frames may then beat the bound
    of a single one. So may, at low `snr_db`, an estimator that is wrong on average, for instance
    one that never leaves the bubble's pixel.

    The bound is for the amplitude given. Where amplitudes spread evenly from 0.5 to 1, the root
    mean square error is at least 6 % above the bound at their mean.

    Examples
    --------
    >>> std_z, std_x = crb_px(linear_array_psf(), snr_db=[20, 30])
    >>> std_z.round(3).tolist(), std_x.round(3).tolist()
    ([0.054, 0.016], [0.081, 0.025])
    """
    check_choice(noise, _NOISES, "noise")
    if envelope and noise == "speckle":
        raise ValueError(
            "in speckle the bound is known for IQ only: use envelope=False, or noise='white'"
        )
    snr_db = np.asarray(snr_db, dtype=np.float64)
    if not np.isfinite(snr_db).all():
        raise ValueError(f"snr_db must be finite, not {snr_db}")
    # Peak over the noise of one of the two parts, real and imaginary.
    ratios = np.sqrt(2) * 10 ** (snr_db.ravel() / 20)
    rows = _check_rows(bank, index)
    bound = _envelope_variance if envelope else functools.partial(_iq_variance, noise=noise)
    variance = np.mean([bound(bank, k, ratios) for k in rows], axis=0)
    std_z, std_x = np.sqrt(variance).reshape(2, *snr_db.shape)
    return std_z, std_x


def _envelope_variance(bank: PsfBank, row: int, ratios: NDArray) -> NDArray:
    """Variances (2, len(ratios)) from the modulus of the pixels in white noise."""
    psf, along_z, along_x = _patches(bank, row)
    modulus = np.abs(psf)
    turned = np.divide(psf.conj(), modulus, out=np.zeros_like(psf), where=modulus > 0)
    slopes = np.stack([np.real(turned * along_z), np.real(turned * along_x), modulus], axis=1)
    variances = [
        _variance(slopes, _rician_information(ratio * modulus)) / ratio**2 for ratio in ratios
    ]
    return np.stack(variances, axis=1)


def _iq_variance(bank: PsfBank, row: int, ratios: NDArray, *, noise: str) -> NDArray:
    """Variances (2, len(ratios)) from complex pixels, whose amplitude has two unknown parts."""
    # Pixels beside the bubble show what the speckle under it is like.
    margin = bank.half_px if noise == "speckle" else 0
    side = 2 * (bank.half_px + margin) + 1
    psf, along_z, along_x = _patches(bank, row, margin)
    slopes = np.stack([along_z, along_x, psf, 1j * psf], axis=1)
    weights = np.ones(side**2)
    if noise == "speckle":
        (power_z, waves_z), (power_x, waves_x) = _speckle_modes(bank.px_wavelengths, side)
        # In the modes of the speckle, its noise is independent.
        pictures = slopes.reshape(*slopes.shape[:2], side, side)
        slopes = (waves_z.T @ pictures @ waves_x).reshape(slopes.shape)
        weights = 1 / ((1 - _FLOOR) * np.outer(power_z, power_x) + _FLOOR).ravel()
    return _variance(slopes, weights)[:, None] / ratios**2


def _variance(slopes: NDArray, weights: NDArray) -> NDArray:
    """Variances along z and x, averaged over places, from slopes (places, parameters, pixels)."""
    information = np.real((slopes.conj() * weights[..., None, :]) @ slopes.swapaxes(1, 2))
    return np.diagonal(np.linalg.inv(information), axis1=1, axis2=2)[:, :2].mean(axis=0)


def _patches(bank: PsfBank, row: int, margin: int = 0) -> NDArray[np.complex128]:
    """Pixels (3, q^2, pixels) of a PSF and its slopes, for q^2 places of a bubble in a pixel."""
    q = bank.oversample
    grid = fine_grid(bank.half_px, q)
    table = bank.table[row].astype(np.complex128)
    along_z, along_x = (CubicSpline(grid, table, axis=axis)(grid, 1) for axis in (0, 1))
    pad = (margin * q, margin * q + q - 1)
    fine = np.pad(np.stack([table, along_z, along_x]), ((0, 0), pad, pad))
    side = fine.shape[1] // q
    return fine.reshape(3, side, q, side, q).transpose(0, 2, 4, 1, 3).reshape(3, q * q, side * side)


def _speckle_modes(px_wavelengths: float, side: int) -> list[tuple[NDArray, NDArray]]:
    """Powers and modes of speckle along z and x: the eigensystem of its correlation."""
    # Scatterers everywhere, each drawn with the PSF, are correlated as the PSF is with itself. The
    # PSF of a linear array is a product of z and x, and so is the correlation.
    probe = resample(linear_array_psf(), px_wavelengths=px_wavelengths)
    table = probe.table[0].astype(np.float64)
    q = probe.oversample
    middle = probe.half_px * q
    modes = []
    for profile in (table[:, middle], table[middle]):
        lags = np.correlate(profile, profile, "full")[len(profile) - 1 :: q]
        column = np.zeros(side)
        column[: len(lags)] = (lags / lags[0])[:side]
        power, waves = np.linalg.eigh(linalg.toeplitz(column))
        modes.append((np.maximum(power, 0), waves))
    return modes


def _rician_information(ratio: ArrayLike) -> NDArray[np.float64]:
    """Share of the information about an amplitude that a modulus keeps, to an error below 1e-4."""
    square = np.square(np.asarray(ratio, dtype=np.float64))
    return np.interp(square / (1 + square), *_rician_table())


@functools.cache
def _rician_table() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Values of t^2 / (1 + t^2), over which J is nearly straight at both ends, and of J(t)."""
    nodes = np.linspace(0, 1, _NODES)
    t = np.sqrt(nodes[:-1] / (1 - nodes[:-1]))[:, None]
    rho = np.linspace(np.maximum(t - _TAIL, 0), t + _TAIL, 1001, axis=1)[..., 0]
    scaled = special.ive(0, rho * t)
    density = rho * np.exp(-((rho - t) ** 2) / 2) * scaled
    score = rho * special.ive(1, rho * t) / scaled - t
    information = np.trapezoid(density * score**2, rho, axis=1)
    return nodes, np.append(information, 1.0)


def _check_rows(bank: PsfBank, index: ArrayLike | None) -> list[int]:
    """Rows of the bank, whose PSFs vary along both axes."""
    rows = np.arange(len(bank)) if index is None else np.atleast_1d(index).ravel()
    if rows.dtype.kind not in "iu" or rows.size == 0 or rows.min() < 0 or rows.max() >= len(bank):
        raise ValueError(f"index must be rows of the bank, 0 to {len(bank) - 1}, not {index!r}")
    for row in rows:
        if not all(np.ptp(np.abs(bank.table[row]), axis=axis).any() for axis in (0, 1)):
            raise ValueError(
                f"PSF {row} of the bank is the same everywhere along z or x, "
                "so it has no place: drop it"
            )
    return rows.tolist()
