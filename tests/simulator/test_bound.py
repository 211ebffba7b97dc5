"""The Cramér-Rao bound: closed forms, estimators that reach it, and what it may never do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import integrate, special, stats

from ulmpaper.simulator.bound import _rician_information, crb_px
from ulmpaper.simulator.imaging import speckle
from ulmpaper.simulator.psf import (
    PsfBank,
    fine_grid,
    gaussian_bank,
    linear_array_psf,
    read_bank,
    resample,
)

SIGMA_Z, SIGMA_X = 1.2, 1.6
FWHM = 2 * np.sqrt(2 * np.log(2))
SMOOTH = gaussian_bank(
    1,
    rng=np.random.default_rng(0),
    fwhm_z_px=(FWHM * SIGMA_Z,) * 2,
    fwhm_x_px=(FWHM * SIGMA_X,) * 2,
    skew=0,
    tilt=0,
    half_px=7,
)
SHIPPED = read_bank()


def scores(z: NDArray, x: NDArray) -> NDArray:
    """Pixels (n, 3, 225) of the Gaussian PSF at (z, x), and their derivatives by z and x."""
    grid = np.arange(-7, 8)
    off_z, off_x = grid[:, None] - z[:, None, None], grid - x[:, None, None]
    psf = np.exp(-(off_z**2) / (2 * SIGMA_Z**2) - off_x**2 / (2 * SIGMA_X**2))
    return np.stack([psf, psf * off_z / SIGMA_Z**2, psf * off_x / SIGMA_X**2], axis=1).reshape(
        len(z), 3, -1
    )


def fit(pixels: NDArray, truth: NDArray, ratio: float, *, envelope: bool) -> NDArray:
    """Maximum-likelihood places (n, 2) of bubbles of amplitude 1, by Fisher's scoring."""
    place, amplitude = truth.copy(), np.ones(len(truth), dtype=pixels.dtype)
    for _ in range(8):
        psf, by_z, by_x = scores(*place.T).swapaxes(0, 1)
        scale = amplitude[:, None]
        if envelope:
            slopes = np.stack([scale * by_z, scale * by_x, psf], axis=1)
            t = ratio * scale * psf
            weight = _rician_information(t)
            towards = (
                pixels * special.ive(1, ratio * pixels * t) / special.ive(0, ratio * pixels * t)
                - scale * psf
            )
        else:
            slopes = np.stack([scale * by_z, scale * by_x, psf, 1j * psf], axis=1)
            weight, towards = np.ones_like(psf), pixels - scale * psf
        information = np.real(slopes.conj() * weight[:, None] @ slopes.swapaxes(1, 2))
        step = np.linalg.solve(information, np.real(slopes.conj() @ towards[..., None]))[..., 0]
        place += step[:, :2]
        amplitude = amplitude + step[:, 2] + (0 if envelope else 1j * step[:, 3])
    return place


def test_white_iq_bound_has_a_closed_form_for_a_gaussian() -> None:
    std_z, std_x = crb_px(SMOOTH, snr_db=[20, 40], envelope=False)
    sigma = 10 ** (-np.array([20, 40]) / 20)
    np.testing.assert_allclose(std_z, sigma * np.sqrt(SIGMA_Z / (np.pi * SIGMA_X)), rtol=0.01)
    np.testing.assert_allclose(std_x, sigma * np.sqrt(SIGMA_X / (np.pi * SIGMA_Z)), rtol=0.01)


@pytest.mark.parametrize("envelope", [True, False])
def test_maximum_likelihood_reaches_the_bound(envelope: bool) -> None:
    rng, n, snr_db = np.random.default_rng(1), 1000, 25.0
    truth = rng.uniform(-0.5, 0.5, (n, 2))
    ratio = np.sqrt(2) * 10 ** (snr_db / 20)
    pixels = scores(*truth.T)[:, 0] * np.exp(2j * np.pi * rng.random((n, 1)))
    pixels = (
        pixels
        + (rng.standard_normal(pixels.shape) + 1j * rng.standard_normal(pixels.shape)) / ratio
    )
    if envelope:
        found = fit(np.abs(pixels), truth, ratio, envelope=True)
    else:
        # The phase is not known, but close to what the brightest pixel shows.
        found = fit(
            pixels * np.exp(-1j * np.angle(pixels[:, 112:113])), truth, ratio, envelope=False
        )
    error = np.sqrt(np.mean((found - truth) ** 2, axis=0))
    np.testing.assert_allclose(error, crb_px(SMOOTH, snr_db=snr_db, envelope=envelope), rtol=0.08)


def test_envelope_is_near_iq_at_high_ratios_and_far_above_at_low_ones() -> None:
    snr_db = np.arange(-20.0, 70.0, 5)
    share = np.array(crb_px(SMOOTH, snr_db=snr_db)) / crb_px(SMOOTH, snr_db=snr_db, envelope=False)
    assert (np.diff(share) < 0).all()
    assert (share > 1).all()
    assert share[:, -1].max() < 1.001
    assert share[:, 0].min() > 10


@settings(max_examples=20, deadline=None)
@given(row=st.integers(0, len(SHIPPED) - 1), snr_db=st.floats(-30, 80))
def test_the_modulus_never_tells_more_than_iq(row: int, snr_db: float) -> None:
    envelope, iq = (
        np.array(crb_px(SHIPPED, row, snr_db=snr_db, envelope=e)) for e in (True, False)
    )
    assert (envelope >= iq * (1 - 1e-9)).all()


def test_bound_falls_with_the_ratio_as_its_inverse() -> None:
    at = np.array([40.0, 60.0, 80.0])
    for settings_ in (
        {"envelope": True},
        {"envelope": False},
        {"envelope": False, "noise": "speckle"},
    ):
        std = np.array(crb_px(SHIPPED, [0, 7], snr_db=at, **settings_))
        np.testing.assert_allclose(std * 10 ** (at / 20), std[:, :1] * 100 * np.ones(3), rtol=0.05)


def test_many_ratios_and_rows_are_the_same_as_one_by_one() -> None:
    snr_db = np.array([[10.0, 20.0], [30.0, 40.0]])
    together = np.array(crb_px(SHIPPED, [3, 5], snr_db=snr_db))
    assert together.shape == (2, 2, 2)
    one = [[crb_px(SHIPPED, row, snr_db=value) for value in snr_db.ravel()] for row in (3, 5)]
    apart = np.sqrt(np.mean(np.square(one), axis=0)).T.reshape(2, 2, 2)
    np.testing.assert_allclose(together, apart)
    whole = crb_px(SMOOTH, snr_db=20)
    assert whole[0].shape == ()
    np.testing.assert_array_equal(whole, crb_px(SMOOTH, [0], snr_db=20))


def speckle_correlation(lag_z: NDArray, lag_x: NDArray) -> NDArray:
    """Correlation of speckle over lags of one wavelength: that of a Gaussian PSF with itself."""
    return np.exp(-(lag_z**2) / (4 * 0.5**2) - lag_x**2 / (4 * 0.95**2))


def test_background_of_the_simulator_has_this_correlation() -> None:
    power = sum(
        np.abs(np.fft.fft2(speckle((200, 200), rng=np.random.default_rng(seed)))) ** 2
        for seed in (0, 1)
    )
    measured = np.fft.ifft2(power / power.mean())[:4, :4]
    np.testing.assert_allclose(measured, speckle_correlation(*np.mgrid[:4, :4]), atol=0.03)


def test_speckle_bound_equals_the_one_from_the_whole_covariance_matrix() -> None:
    sigma_z, sigma_x = 0.6, 1.0
    z, x = (axis.ravel() for axis in np.mgrid[-10:11, -10:11])
    covariance = 0.9999 * speckle_correlation(z[:, None] - z, x[:, None] - x) + 1e-4 * np.eye(
        z.size
    )
    inverse, variances = np.linalg.inv(covariance), []
    for z0, x0 in -np.mgrid[0:8, 0:8].reshape(2, -1).T / 8:
        psf = np.exp(-((z - z0) ** 2) / (2 * sigma_z**2) - (x - x0) ** 2 / (2 * sigma_x**2))
        slopes = np.stack([psf * (z - z0) / sigma_z**2, psf * (x - x0) / sigma_x**2, psf])
        variances.append(np.diag(np.linalg.inv(2 * slopes @ inverse @ slopes.T))[:2])
    slow = 0.1 * np.sqrt(np.mean(variances, axis=0))
    bank = linear_array_psf(sigma_z_wavelengths=sigma_z, sigma_x_wavelengths=sigma_x)
    np.testing.assert_allclose(
        crb_px(bank, snr_db=20, envelope=False, noise="speckle"), slow, rtol=1e-3
    )


def test_smooth_speckle_spoils_less_of_the_place_than_white_noise() -> None:
    probe = linear_array_psf()
    z, x = crb_px(probe, snr_db=20, envelope=False, noise="speckle")
    white_z, white_x = crb_px(probe, snr_db=20, envelope=False)
    assert 0.7 * white_z < z < white_z
    assert 0.3 * white_x < x < 0.6 * white_x


def test_phase_within_a_psf_helps_iq_only() -> None:
    along = fine_grid(5, 8)
    flat = linear_array_psf()
    curved = PsfBank(flat.table * np.exp(1j * along**2), 8, 5, 1.0)
    np.testing.assert_allclose(crb_px(curved, snr_db=20), crb_px(flat, snr_db=20), rtol=1e-3)
    better, plain = (crb_px(bank, snr_db=20, envelope=False)[1] for bank in (curved, flat))
    assert better < 0.8 * plain
    turned = PsfBank(flat.table * np.exp(2j), 8, 5, 1.0)
    np.testing.assert_allclose(
        crb_px(turned, snr_db=20, envelope=False), crb_px(flat, snr_db=20, envelope=False)
    )


def test_bound_in_pixels_does_not_depend_on_fine_pixels() -> None:
    coarse, fine = (crb_px(resample(SMOOTH, px_wavelengths=px), snr_db=20) for px in (1.0, 0.5))
    np.testing.assert_allclose(fine, coarse, rtol=0.02)


@pytest.mark.parametrize("t", [0.003, 0.1, 0.7, 1.5, 4.0, 12.0, 60.0])
def test_rician_information_is_that_of_the_distribution(t: float) -> None:
    def integrand(rho: float) -> float:
        score = rho * special.ive(1, rho * t) / special.ive(0, rho * t) - t
        return float(score**2 * stats.rice.pdf(rho, t))

    expected, _ = integrate.quad(integrand, max(0, t - 10), t + 10, epsabs=1e-12)
    assert _rician_information(t) == pytest.approx(expected, rel=1e-2, abs=1e-12)
    assert abs(_rician_information(t) - expected) < 1e-4


def test_rician_information_grows_from_nothing_to_all() -> None:
    share = _rician_information(np.logspace(-3, 6, 200))
    assert (np.diff(share) > 0).all()
    assert _rician_information([0, 1e12]).tolist() == [0, 1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"index": 200}, "rows of the bank, 0 to 199, not 200"),
        ({"index": []}, "rows of the bank, 0 to 199"),
        ({"index": -1}, "rows of the bank, 0 to 199, not -1"),
        ({"index": 0.5}, "rows of the bank, 0 to 199, not 0.5"),
        ({"snr_db": [20, np.nan]}, "snr_db must be finite"),
        ({"noise": "speckle"}, "use envelope=False, or noise='white'"),
        ({"noise": "specle", "envelope": False}, "did you mean 'speckle'"),
    ],
)
def test_bad_input_is_told(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        crb_px(SHIPPED, **{"snr_db": 20, **arguments})


def test_flat_psf_has_no_place() -> None:
    line = np.broadcast_to(linear_array_psf().table[0, 40], (81, 81))[None]
    with pytest.raises(ValueError, match="PSF 0 of the bank is the same everywhere along z or x"):
        crb_px(PsfBank(line), snr_db=20)
