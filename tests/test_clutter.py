"""Speckle, tissue and noise of known strength, and the filters that are to remove them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ulmpaper.clutter import cut_speckle, pala_noise, tissue_clutter
from ulmpaper.filters import butter_bandpass, svd_filter


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(max_examples=10, deadline=None)
@given(st.floats(-40, -10), st.floats(0.1, 1e4), st.integers(0, 1000))
def test_pala_noise_has_its_level(clutter_db: float, top: float, seed: int) -> None:
    frames = np.zeros((40, 40, 50))
    frames[0, 20, 20] = -top
    added = pala_noise(frames, clutter_db, rng=seeded(seed)) - np.abs(frames)
    assert added.dtype == np.float64
    impulse = np.zeros((31, 31))
    impulse[15, 15] = 1
    blur = np.sqrt((ndimage.gaussian_filter(impulse, 1.5, radius=3) ** 2).sum())
    # Before the blur, the standard deviation is 0.355 M 10^((c + 10) / 20); edges have a little more after it.
    inside = added[:, 4:-4, 4:-4]
    assert inside.std() / blur == pytest.approx(0.3552 * top * 10 ** ((clutter_db + 10) / 20), rel=0.06)
    assert inside.mean() == pytest.approx(top * 10 ** (clutter_db / 20), rel=0.15)


def test_pala_noise_is_new_in_each_frame() -> None:
    noise = pala_noise(np.ones((400, 12, 12)), -20, rng=seeded())
    noise -= noise.mean()
    assert abs(np.mean(noise[1:] * noise[:-1])) < 0.05 * noise.var()
    assert np.mean(noise[:, 1:] * noise[:, :-1]) > 0.8 * noise.var()


def test_pala_noise_takes_iq_and_leaves_it_alone() -> None:
    iq = np.full((2, 8, 8), 3 + 4j)
    before = iq.copy()
    noisy = pala_noise(iq, -200, rng=seeded())
    np.testing.assert_allclose(noisy, 5, rtol=1e-5)
    np.testing.assert_array_equal(iq, before)
    frames = np.ones((2, 8, 8), dtype=np.float32)
    pala_noise(frames, -10, rng=seeded())
    assert frames.max() == 1
    with pytest.raises(ValueError, match="clutter_db must be a number, not nan"):
        pala_noise(frames, np.nan, rng=seeded())


def bubbles_in_tissue() -> tuple[np.ndarray, np.ndarray]:
    """A bubble that sinks 40 px a second through bright tissue, and that bubble alone."""
    n_frames, z, x = 400, *np.mgrid[:30, :40]
    depth = 8 + 0.04 * np.arange(n_frames)[:, None, None]
    bubble = np.exp(-((z - depth) ** 2) / 1.0 - (x - 20) ** 2 / 1.8 - 4j * np.pi * depth)
    return bubble + tissue_clutter((30, 40), n_frames, rng=seeded(1), frame_rate_hz=1000.0, level_db=30.0), bubble


def share_found(frames: np.ndarray, first: int = 0) -> float:
    """Share of the frames, counted from `first`, whose brightest pixel is the bubble's."""
    z, x = np.divmod(np.abs(frames).reshape(len(frames), -1).argmax(axis=1), frames.shape[2])
    depth = 8 + 0.04 * np.arange(first, first + len(frames))
    return float(np.mean((np.abs(z - depth) <= 1) & (np.abs(x - 20) <= 1)))


def test_filters_bring_the_bubble_out_of_the_tissue() -> None:
    iq, bubble = bubbles_in_tissue()
    assert share_found(bubble) == 1
    assert share_found(iq) < 0.05
    # The tissue fills more than two components. The ends of a block are left out: filters have no past there.
    assert share_found(svd_filter(iq, 3)[50:350], 50) < 0.1
    assert share_found(svd_filter(iq, 5)[50:350], 50) > 0.95
    assert share_found(butter_bandpass(iq, (50, 249), frame_rate_hz=1000.0)[50:350], 50) > 0.95


def test_tissue_is_bright_slow_and_of_more_than_one_component() -> None:
    tissue = tissue_clutter((40, 50), 500, rng=seeded(), frame_rate_hz=1000.0, level_db=20.0)
    assert tissue.dtype == np.complex64
    assert np.sqrt(np.mean(np.abs(tissue) ** 2)) == pytest.approx(10, rel=0.15)
    spectrum = np.abs(np.fft.fft(tissue * np.hanning(500)[:, None, None], axis=0)) ** 2
    power = spectrum.sum(axis=(1, 2))
    slow = np.abs(np.fft.fftfreq(500, 1e-3)) <= 30
    assert power[slow].sum() > 0.999 * power.sum()
    values = np.linalg.svd(tissue.reshape(500, -1), compute_uv=False)
    assert 2 <= (values > 0.01 * values[0]).sum() <= 40


def test_phase_of_tissue_tells_its_motion() -> None:
    one_breath = {"breathing_hz": 4.0, "frame_rate_hz": 1000.0, "n_frames": 250}
    tissue = tissue_clutter((60, 60), rng=seeded(2), motion_px=0.1, **one_breath)
    # Over the rows in the middle the speckle averages out; what is left is the turn they share.
    turn = np.angle(np.sum(tissue[1:, 28:32] * tissue[:-1, 28:32].conj(), axis=(1, 2))).cumsum()
    assert np.ptp(turn) == pytest.approx(4 * np.pi * 2 * 0.1, rel=0.1)


def test_cut_speckle_keeps_its_strength_and_memory() -> None:
    field = np.exp(2j * np.pi * seeded(3).random((80, 90))).astype(np.complex64)
    frames = cut_speckle(field, (30, 40), 300, rng=seeded(), memory=0.8).reshape(300, -1)
    power = np.mean(np.abs(frames) ** 2, axis=1)
    assert power[150:].mean() == pytest.approx(1, abs=0.1)
    correlation = np.mean(frames[1:] * frames[:-1].conj(), axis=1).real / power[1:]
    assert correlation.mean() == pytest.approx(0.8, abs=0.05)
    assert np.abs(np.mean(frames[20:] * frames[:-20].conj())) < 0.1
    still = cut_speckle(field, (30, 40), 3, rng=seeded())
    np.testing.assert_array_equal(still[0], still[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frame_rate_hz": 0.0}, "frame_rate_hz must be a number above 0"),
        ({"n_frames": 0}, "n_frames must be a number above 0"),
        ({"motion_px": -1.0}, "motion_px must be a number above 0"),
        ({"px_wavelengths": 0}, "px_wavelengths must be a number above 0"),
        ({"shape_px": (0, 4)}, "z must be a number above 0"),
    ],
)
def test_bad_tissue_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tissue_clutter(**{"shape_px": (8, 8), "n_frames": 2, "rng": seeded(), "frame_rate_hz": 1000.0, **changes})


def test_bad_cuts_are_refused() -> None:
    field = np.ones((8, 8), dtype=np.complex64)
    with pytest.raises(ValueError, match=r"a field of \(8, 8\) px holds no frame of \(9, 4\) px"):
        cut_speckle(field, (9, 4), 1, rng=seeded())
    with pytest.raises(ValueError, match="memory is a correlation"):
        cut_speckle(field, (4, 4), 1, rng=seeded(), memory=-0.1)
