"""Point spread functions cut out of frames whose bubbles are known."""

from __future__ import annotations

import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ulmpaper.core.records import bubble_table
from ulmpaper.simulator.imaging import synthesize
from ulmpaper.simulator.psf import PsfBank, gaussian_bank, linear_array_psf
from ulmpaper.simulator.psf_from_frames import (
    bank_from_patches,
    extract_psfs,
    isolated_bubbles,
    psf_width,
)

SHAPE = (60, 80)


def scene(
    rng: np.random.Generator, bank: PsfBank, n_frames: int = 20
) -> tuple[np.ndarray, pd.DataFrame]:
    """IQ with three bubbles a frame and a little noise, and the truth."""
    n = 3 * n_frames
    truth = bubble_table(
        np.repeat(np.arange(n_frames), 3), rng.uniform(5, 54, n), rng.uniform(5, 74, n), np.ones(n)
    )
    truth = truth.assign(psf=rng.integers(len(bank), size=n), phase=rng.uniform(0, 7, n))
    iq = synthesize(truth, bank, SHAPE, n_frames=n_frames, iq=True).numpy()
    return iq + 0.01 * (rng.standard_normal((2, *iq.shape)) * [[[[1]]], [[[1j]]]]).sum(
        axis=0
    ), truth


@pytest.fixture(scope="module")
def wide() -> tuple[np.ndarray, pd.DataFrame, PsfBank]:
    """Bubbles wide enough for their pixels."""
    rng = np.random.default_rng(5)
    bank = gaussian_bank(
        1, rng=rng, fwhm_z_px=(2.2, 2.2), fwhm_x_px=(3.2, 3.2), skew=0, tilt=0, curvature_rad=0.5
    )
    return *scene(rng, bank), bank


def test_isolated_bubbles_are_where_the_truth_is(wide: tuple) -> None:
    iq, truth, _ = wide
    found = isolated_bubbles(np.abs(iq))
    pairs = found.merge(truth, on="frame", suffixes=("", "_true"))
    distance = np.hypot(pairs["z"] - pairs["z_true"], pairs["x"] - pairs["x_true"])
    nearest = distance.groupby([pairs["frame"], pairs["z"]]).min()
    assert len(nearest) > 20
    assert nearest.max() < 0.1
    # Each stands alone.
    assert (distance[distance > 1] > 5).all()


def test_phase_does_not_move_the_centres(wide: tuple) -> None:
    pd.testing.assert_frame_equal(isolated_bubbles(wide[0]), isolated_bubbles(np.abs(wide[0])))


@pytest.mark.parametrize("with_truth", [False, True])
def test_cut_psfs_are_those_that_were_drawn(wide: tuple, with_truth: bool) -> None:
    iq, truth, bank = wide
    cut = extract_psfs(
        np.abs(iq),
        n_psf=20,
        rng=np.random.default_rng(0),
        truth=truth if with_truth else None,
        source="here",
    )
    assert (len(cut), cut.table.dtype, cut.source) == (20, np.float32, "here")
    np.testing.assert_allclose(cut.table.max(axis=(1, 2)), 1)
    assert cut.table.min() == 0
    # The taper takes the rim away.
    assert cut.table[:, [0, -1]].max() < 1e-9
    assert np.abs(cut.table - np.abs(bank.table)).max() < 0.12
    assert np.abs(cut.table.mean(axis=0) - np.abs(bank.table[0])).max() < 0.03


def test_iq_keeps_the_phase(wide: tuple) -> None:
    iq, _, bank = wide
    cut = extract_psfs(iq, n_psf=20, rng=np.random.default_rng(0))
    assert cut.table.dtype == np.complex64
    np.testing.assert_allclose(np.angle(cut.table[:, 40, 40]), 0, atol=1e-6)
    assert np.abs(cut.table.mean(axis=0) - bank.table[0]).max() < 0.05
    # The curved front that the amplitude alone does not show.
    side = cut.table.mean(axis=0)[40, 40 + 16]
    assert np.angle(side) == pytest.approx(np.angle(bank.table[0, 40, 40 + 16]), abs=0.05)


def test_same_seed_same_bank_and_other_seed_other_frames(wide: tuple) -> None:
    first, again, other = (
        extract_psfs(wide[0], n_psf=5, rng=np.random.default_rng(k)).table for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_truth_leaves_out_hidden_pairs() -> None:
    pair = bubble_table([0, 0, 1], [20.0, 20.3, 20.0], [30.0, 30.9, 30.0], [1, 1, 1]).assign(
        psf=0, phase=0.0
    )
    frames = synthesize(pair, linear_array_psf(), SHAPE, n_frames=2).numpy()
    assert len(isolated_bubbles(frames)) == 2
    with pytest.raises(
        ValueError, match="only 1 of 2 PSFs found in 2 frames of 60 x 80 px: give more frames"
    ):
        extract_psfs(frames, n_psf=2, rng=np.random.default_rng(0), truth=pair)


def test_peaks_near_others_or_the_edge_or_on_a_bright_rim_are_left_out() -> None:
    table = bubble_table(
        [0, 1, 1, 2, 3], [20.0, 20, 20, 20, 20], [30.0, 30, 36, 5, 30], [1, 1, 0.5, 1, 1]
    ).assign(psf=0, phase=0.0)
    frames = synthesize(table, linear_array_psf(), SHAPE, n_frames=4).numpy()
    frames[3] += 1
    assert isolated_bubbles(frames)["frame"].tolist() == [0]
    assert isolated_bubbles(frames, min_contrast=1.5)["frame"].tolist() == [0]
    assert isolated_bubbles(frames, min_contrast=1.5, max_border=0.6)["frame"].tolist() == [0, 3]
    assert isolated_bubbles(frames, clear_px=5, max_border=1.2)["frame"].tolist() == [0, 1, 1]
    assert isolated_bubbles(frames, half_px=4)["frame"].tolist() == [0, 2]


def test_pixels_of_a_wavelength_make_psfs_too_wide() -> None:
    """The paper's way: envelopes cut from a grid of one wavelength, against half of it."""
    widths = {}
    for px in (1.0, 0.5):
        rng = np.random.default_rng(3)
        reach = round(5 / px)
        bank = linear_array_psf(px_wavelengths=px, half_px=reach)
        n = 60
        truth = bubble_table(np.arange(n), *rng.uniform(20, 21, (2, n)), np.ones(n)).assign(
            psf=0, phase=0.0
        )
        frames = synthesize(truth, bank, (41, 41), n_frames=n).numpy()
        cut = extract_psfs(frames, n_psf=n, half_px=reach, rng=rng, truth=truth, px_wavelengths=px)
        widths[px] = px * psf_width(cut.table, cut.oversample)[:, 0].mean()
    true = psf_width(linear_array_psf().table, 8)[0, 0]
    assert widths[0.5] == pytest.approx(true, rel=0.03)
    assert widths[1.0] > 1.15 * true


def test_bad_frames_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="NaN"):
        extract_psfs(np.full((2, 30, 30), np.nan), rng=rng)
    with pytest.raises(ValueError, match="only 0 of 200 PSFs found in 2 frames"):
        extract_psfs(np.zeros((2, 30, 30)), rng=rng)
    with pytest.raises(ValueError, match="n_psf must be a number above 0"):
        extract_psfs(np.zeros((2, 30, 30)), rng=rng, n_psf=0)
    with pytest.raises(ValueError, match="lacks the column"):
        extract_psfs(np.zeros((2, 30, 30)), rng=rng, truth=pd.DataFrame({"frame": [0]}))
    # Smaller than a patch: nothing fits.
    assert len(isolated_bubbles(np.eye(8)[None])) == 0


def test_truth_may_be_empty(wide: tuple) -> None:
    with pytest.raises(ValueError, match="only 0 of 3"):
        extract_psfs(
            wide[0], n_psf=3, rng=np.random.default_rng(0), truth=bubble_table([], [], [], [])
        )


def test_patches_are_centred_and_scaled(rng: np.random.Generator) -> None:
    z, x = np.mgrid[:65, :65]
    images = [
        3 * np.exp(-((z - 33.4) ** 2) / 72 - (x - 30.8) ** 2 / 200),
        np.exp(-((z - 30) ** 2 + (x - 33) ** 2) / 72),
    ]
    bank = bank_from_patches(images, pitch_px=1 / 12, half_px=3)
    sigma = np.array([[6, 10], [6, 6]]) / 12
    np.testing.assert_allclose(psf_width(bank.table, 8), 2.3548 * sigma, rtol=0.02)
    assert [divmod(int(t.argmax()), 49) for t in bank.table] == [(24, 24), (24, 24)]
    assert bank.table[:, 0].max() == 0


def test_bad_patches_are_refused() -> None:
    with pytest.raises(ValueError, match="no images came"):
        bank_from_patches([], pitch_px=0.1)
    with pytest.raises(ValueError, match="image 1 is empty"):
        bank_from_patches([np.eye(5), np.zeros((5, 5))], pitch_px=0.1)
    with pytest.raises(ValueError, match="image 0 hold NaN"):
        bank_from_patches([np.full((5, 5), np.nan)], pitch_px=0.1)
    with pytest.raises(ValueError, match="pitch_px must be"):
        bank_from_patches([np.eye(5)], pitch_px=-1)


def test_real_patches_make_a_bank(data_mirror: Path) -> None:
    path = data_mirror / "loca_ulm_data.zip"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    with zipfile.ZipFile(path) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        images = [np.asarray(Image.open(BytesIO(archive.read(name)))) for name in names]
    bank = bank_from_patches(images, pitch_px=1 / 11)
    assert len(bank) == 500
    median = np.median(psf_width(bank.table, bank.oversample), axis=0)
    assert median == pytest.approx([1.4, 2.2], abs=0.1)


@settings(max_examples=20, deadline=None)
@given(st.floats(1, 3), st.floats(1, 3), st.integers(4, 16), st.floats(0.1, 10))
def test_width_of_a_gaussian(
    width_z: float, width_x: float, oversample: int, height: float
) -> None:
    grid = np.arange(-4 * oversample, 4 * oversample + 1) / oversample
    table = height * np.exp(
        -4 * np.log(2) * ((grid[:, None] / width_z) ** 2 + (grid / width_x) ** 2)
    )
    np.testing.assert_allclose(psf_width(table[None], oversample), [[width_z, width_x]], rtol=0.03)


def test_width_without_an_end_is_infinite() -> None:
    table = np.ones((1, 5, 5))
    table[0, :, [0, 1, 3, 4]] = 0
    assert psf_width(table, 1).tolist() == [[np.inf, 1.0]]
