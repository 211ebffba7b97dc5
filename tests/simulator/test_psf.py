"""The bank of point spread functions: its shape, its file, the formulas."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmpaper.simulator.imaging import add_oscillation
from ulmpaper.simulator.psf import (
    PsfBank,
    fine_grid,
    gaussian_bank,
    linear_array_psf,
    read_bank,
    resample,
    write_bank,
)
from ulmpaper.simulator.psf_from_frames import psf_width


@pytest.mark.parametrize("curvature_rad", [0.0, 0.8])
@pytest.mark.parametrize(
    ("samples_per_px", "fwhm_z_px", "tolerance"), [(2, 1.1, 0.05), (2, 1.5, 0.02), (4, 1.1, 4e-3)]
)
def test_file_brings_the_bank_back(
    samples_per_px: int,
    fwhm_z_px: float,
    tolerance: float,
    curvature_rad: float,
    rng: np.random.Generator,
    tmp_path: Path,
) -> None:
    bank = gaussian_bank(
        20,
        rng=rng,
        fwhm_z_px=(fwhm_z_px, 2),
        tilt=0.1,
        curvature_rad=curvature_rad,
        px_wavelengths=0.5,
    )
    path = write_bank(bank, tmp_path / "new folder" / "bank.npz", samples_per_px=samples_per_px)
    again = read_bank(path)
    assert np.abs(again.table - bank.table).max() < tolerance
    assert again.table.dtype == bank.table.dtype
    assert (again.oversample, again.half_px, again.px_wavelengths) == (8, 5, 0.5)
    assert again.source == bank.source
    assert [p.name for p in path.parent.iterdir()] == ["bank.npz"]
    coarse = read_bank(path, oversample=2)
    np.testing.assert_allclose(coarse.table, bank.table[:, ::4, ::4], atol=1e-3)


def test_band_limited_psfs_come_back_exactly_between_their_samples() -> None:
    def psf(grid: np.ndarray) -> np.ndarray:
        """Four sines in a window as wide as the patch, which two samples a pixel carry."""
        wave = np.exp(2j * np.pi * 0.35 * grid) + 0.5 * np.exp(-2j * np.pi * 0.2 * grid)
        return np.exp(-((grid / 1.2) ** 2)) * wave

    coarse = psf(fine_grid(6, 2))
    bank = resample(PsfBank((coarse[:, None] * coarse)[None], 2, 6), oversample=8)
    fine = psf(fine_grid(6, 8))
    np.testing.assert_allclose(bank.table[0], fine[:, None] * fine, atol=2e-3)
    wider = resample(bank, px_wavelengths=1 / 1.3)
    grid = fine_grid(wider.half_px, 8) / 1.3
    known = np.where(np.abs(grid) <= 6, psf(grid), 0)
    np.testing.assert_allclose(wider.table[0], known[:, None] * known, atol=2e-3)


def test_file_of_200_psfs_is_small(rng: np.random.Generator, tmp_path: Path) -> None:
    assert write_bank(gaussian_bank(200, rng=rng), tmp_path / "bank.npz").stat().st_size < 200_000


def test_unusable_files_say_so(tmp_path: Path) -> None:
    path = tmp_path / "bank.npz"
    with pytest.raises(FileNotFoundError):
        read_bank(path)
    path.write_bytes(b"not a bank")
    with pytest.raises(ValueError, match="not a bank of PSFs: write one with write_bank"):
        read_bank(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="not a bank of PSFs"):
        read_bank(path)
    np.savez(path, values=np.zeros(3))
    with pytest.raises(ValueError, match="lacks half_px, px_wavelengths, samples_per_px, source"):
        read_bank(path)


@pytest.mark.parametrize("samples_per_px", [3, 16, 1])
def test_samples_on_file_must_divide_the_table(samples_per_px: int, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be even and divide the oversample 8"):
        write_bank(linear_array_psf(), tmp_path / "bank.npz", samples_per_px=samples_per_px)


def test_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "bank.npz").mkdir()
    with pytest.raises(OSError, match=r"bank\.npz"):
        write_bank(linear_array_psf(), tmp_path / "bank.npz")
    assert [p.name for p in tmp_path.iterdir()] == ["bank.npz"]


def test_bank_cannot_change() -> None:
    table = np.ones((1, 5, 5))
    bank = PsfBank(table, oversample=2, half_px=1)
    table[:] = 2
    assert bank.table.max() == 1
    with pytest.raises(ValueError, match="read-only"):
        bank.table[0, 0, 0] = 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"table": np.ones((5, 5))}, r"has the shape \(n, 5, 5\), not \(5, 5\)"),
        ({"table": np.ones((0, 5, 5))}, r"not \(0, 5, 5\)"),
        ({"table": np.full((1, 5, 5), np.nan)}, "NaN"),
        ({"oversample": 3}, "oversample even"),
        ({"half_px": 1.5}, "half_px must be whole"),
        ({"px_wavelengths": 0.0}, "px_wavelengths must be a number above 0"),
    ],
)
def test_bad_banks_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PsfBank(**{"table": np.ones((1, 5, 5)), "oversample": 2, "half_px": 1, **changes})


@settings(max_examples=15, deadline=None)
@given(st.floats(0.9, 2.0), st.floats(1.5, 3.0), st.floats(0, 0.5), st.integers(0, 1000))
def test_gaussian_bank_has_the_widths_asked_for(
    width_z: float, width_x: float, skew: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    bank = gaussian_bank(
        4, rng=rng, fwhm_z_px=(width_z, width_z), fwhm_x_px=(width_x, width_x), skew=skew, tilt=0.3
    )
    middle = bank.half_px * bank.oversample
    assert (bank.table.reshape(4, -1).argmax(axis=1) == middle * bank.table.shape[1] + middle).all()
    # A wider half on one side goes with a narrower one on the other; bilinear reading adds a bit.
    np.testing.assert_allclose(psf_width(bank.table, 8)[:, 0], width_z, rtol=0.05)
    assert np.abs(psf_width(bank.table, 8)[:, 1] / width_x - 1).max() < 0.05 + 0.3


def test_gaussian_bank_refuses_nonsense(rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="skew must be 0 or more and below 1, not 1"):
        gaussian_bank(2, rng=rng, skew=1)
    with pytest.raises(ValueError, match="fwhm_z_px must be a number above 0"):
        gaussian_bank(2, rng=rng, fwhm_z_px=(0, 1))


def test_array_psf_scales_with_the_pixel() -> None:
    whole, half = linear_array_psf(), linear_array_psf(px_wavelengths=0.5)
    np.testing.assert_allclose(psf_width(half.table, 8), 2 * psf_width(whole.table, 8), rtol=0.02)


def test_oscillation_has_two_periods_in_a_wavelength() -> None:
    bank = linear_array_psf(oversample=16)
    rf = add_oscillation(bank, phase_rad=[0.3])
    z = fine_grid(bank.half_px, bank.oversample)[:, None]
    np.testing.assert_allclose(rf[0], bank.table[0] * np.cos(4 * np.pi * z + 0.3), atol=1e-6)
    # Of another pixel pitch, the same wave in wavelengths.
    fine = add_oscillation(linear_array_psf(px_wavelengths=0.5, half_px=10), phase_rad=0.3)
    np.testing.assert_allclose(fine[0][:, 80], rf[0][:, 80], atol=1e-6)


def test_oscillation_needs_a_fine_grid() -> None:
    with pytest.raises(
        ValueError, match=r"4 samples per pixel .* are too few.* take an oversample of 8"
    ):
        add_oscillation(linear_array_psf(oversample=4))
