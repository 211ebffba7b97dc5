"""Clutter filters on signals whose parts are known, and against PALA's own output."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal

from ulmpaper.core.filters import butter_bandpass, envelope, svd_filter, to_db


@pytest.fixture(scope="module")
def clutter(oracle_dir: Path) -> dict[str, np.ndarray]:
    with np.load(oracle_dir / "clutter.npz") as file:
        return dict(file)


def test_svd_filter_equals_pala(clutter: dict[str, np.ndarray]) -> None:
    ours = svd_filter(np.moveaxis(clutter["iq"], 2, 0), 5, 48)
    theirs = np.moveaxis(clutter["svd_5_48"], 2, 0)
    assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()


def test_causal_band_pass_equals_pala(clutter: dict[str, np.ndarray]) -> None:
    b, a = signal.butter(2, [50, 249], btype="bandpass", fs=1000)
    np.testing.assert_allclose(b, clutter["butter_b"].ravel(), atol=1e-12)
    np.testing.assert_allclose(a, clutter["butter_a"].ravel(), atol=1e-12)
    iq = np.moveaxis(clutter["svd_5_48"], 2, 0)
    ours = butter_bandpass(iq, (50, 249), frame_rate_hz=1000, zero_phase=False)
    theirs = np.moveaxis(clutter["svd_5_48_butter"], 2, 0)
    assert np.abs(ours - theirs).max() <= 1e-6 * np.abs(theirs).max()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 8), st.integers(0, 8), st.booleans(), st.integers(0, 2**32 - 1))
def test_svd_filter_is_the_projection_it_claims_to_be(
    low: int, more: int, is_complex: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    iq = rng.normal(size=(9, 4, 5)) + (1j * rng.normal(size=(9, 4, 5)) if is_complex else 0)
    high = min(low + more, 9)
    kept = svd_filter(iq, low, high)
    u, s, vh = np.linalg.svd(iq.reshape(9, 20).T, full_matrices=False)
    s[: low - 1] = s[high:] = 0
    np.testing.assert_allclose(kept.reshape(9, 20).T, (u * s) @ vh, atol=1e-10)
    rest = iq - kept
    assert abs(np.vdot(rest, kept)) < 1e-8
    if high == 9:
        assert np.linalg.matrix_rank(rest.reshape(9, 20)) == low - 1


def test_svd_filter_in_single_precision_equals_double(rng: np.random.Generator) -> None:
    tissue = 100 * np.ones((60, 1, 1)) * rng.normal(size=(1, 30, 40))
    iq = (tissue + rng.normal(size=(60, 30, 40))).astype(np.complex64)
    exact = svd_filter(iq.astype(np.complex128), 3)
    assert np.abs(svd_filter(iq, 3) - exact).max() < 1e-4 * np.abs(exact).max()


def test_zero_phase_does_not_delay_and_causal_does() -> None:
    t = np.arange(400)
    pulse = np.exp(-((t - 200) ** 2) / 200) * np.cos(2 * np.pi * 0.13 * t)

    def centre(**how: bool) -> float:
        out = (
            butter_bandpass(pulse[:, None, None], (50, 249), frame_rate_hz=1000, **how)[:, 0, 0]
            ** 2
        )
        return float((out * t).sum() / out.sum())

    assert centre() == pytest.approx(200, abs=0.05)
    assert centre(zero_phase=False) > 201


def test_envelope_of_iq_is_its_modulus() -> None:
    iq = np.full((1, 2, 2), 3 + 4j, dtype=np.complex64)
    assert envelope(iq).dtype == np.float32
    np.testing.assert_allclose(envelope(iq), 5)


def test_decibels_of_silence() -> None:
    assert (to_db(np.zeros((2, 2)), floor_db=-40) == -40).all()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda iq: svd_filter(iq, 0), ValueError, "low must lie between 1 and 5"),
        (lambda iq: svd_filter(iq, 6), ValueError, "components 6 to 5 cannot be kept of 5 frames"),
        (lambda iq: svd_filter(iq, 4, 3), ValueError, "low must lie between 1 and 3"),
        (lambda iq: svd_filter(iq * np.nan, 2), ValueError, "NaN"),
        (
            lambda iq: butter_bandpass(iq, (50, 500), frame_rate_hz=1000),
            ValueError,
            r"half the frame rate \(500 Hz\)",
        ),
        (
            lambda iq: butter_bandpass(iq, (90, 50), frame_rate_hz=1000),
            ValueError,
            "two rising edges",
        ),
        (
            lambda iq: butter_bandpass(iq, (50, 90), frame_rate_hz=0),
            ValueError,
            "frame_rate_hz must be a number",
        ),
        (
            lambda iq: butter_bandpass(iq, (50, 90), frame_rate_hz=1000),
            ValueError,
            "5 frames are too few",
        ),
        (lambda iq: to_db(iq, floor_db=3), ValueError, "floor_db must be below 0"),
    ],
)
def test_bad_input(call, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        call(np.ones((5, 4, 4)))
