"""Scores of maps against slow obvious versions, known truth and PALA's own numbers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter
from skimage.metrics import structural_similarity

from ulmpaper.metrics.maps import (
    fourier_ring_correlation,
    frc_resolution,
    gridding_index,
    saturation,
    score_image,
)

SEQUENCES = ("flow", "dense")
METHODS = (
    "no_shift",
    "wa",
    "interp_cubic",
    "interp_lanczos",
    "interp_spline",
    "gaussian_fit",
    "radial",
)


@pytest.fixture
def maps(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    reference = rng.poisson(2 * gaussian_filter(rng.random((60, 80)), 2)).astype(float)
    return reference + rng.poisson(0.2, reference.shape), reference


def ssim_by_formula(a: np.ndarray, b: np.ndarray, data_range: float) -> float:
    """SSIM after Wang et al. 2004, Gaussian window of 11 x 11, where the window lies inside."""

    def mean(image: np.ndarray) -> np.ndarray:
        return gaussian_filter(image, 1.5, radius=5)

    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    var_a, var_b, cov = (
        mean(a * a) - mean(a) ** 2,
        mean(b * b) - mean(b) ** 2,
        mean(a * b) - mean(a) * mean(b),
    )
    luminance = (2 * mean(a) * mean(b) + c1) / (mean(a) ** 2 + mean(b) ** 2 + c1)
    return float((luminance * (2 * cov + c2) / (var_a + var_b + c2))[5:-5, 5:-5].mean())


def test_ssim_follows_its_formula(maps: tuple) -> None:
    estimate, reference = 1.5 * maps[0], maps[1]  # so that their ranges differ
    scores = score_image(estimate, reference, upsample=4)
    assert scores["ssim_max"] == pytest.approx(
        ssim_by_formula(estimate, reference, reference.max()), abs=1e-9
    )
    assert scores["ssim_1"] == pytest.approx(ssim_by_formula(estimate, reference, 1.0), abs=1e-9)
    inner = [m[:, 8:-8] for m in (estimate, reference)]
    assert scores["ssim_rfulm"] == structural_similarity(*inner, data_range=np.ptp(inner[0]))


def test_identical_maps(maps: tuple) -> None:
    scores = score_image(maps[0], maps[0])
    assert scores == pytest.approx(
        {"ssim_max": 1, "ssim_1": 1, "ssim_rfulm": 1, "rmse": 0, "rmse_gain": 0, "gain": 1},
        abs=1e-12,
    )


def test_ranges_of_ssim_scale_with_the_maps(maps: tuple) -> None:
    top = maps[1].max()
    raw, scaled = score_image(*maps), score_image(maps[0] / top, maps[1] / top)
    assert raw["ssim_max"] == pytest.approx(scaled["ssim_1"])
    assert raw["ssim_rfulm"] == pytest.approx(scaled["ssim_rfulm"])
    assert raw["ssim_1"] != pytest.approx(raw["ssim_max"], abs=1e-3)


def test_rfulm_recipe_crops_columns(maps: tuple) -> None:
    spoilt = maps[0].copy()
    spoilt[:, :8] = spoilt[:, -8:] = 99
    scores, other = score_image(*maps, upsample=4), score_image(spoilt, maps[1], upsample=4)
    assert other["ssim_rfulm"] == scores["ssim_rfulm"]
    assert other["ssim_max"] < scores["ssim_max"]


def test_rmse_and_gain(maps: tuple) -> None:
    scores, doubled = score_image(*maps), score_image(2 * maps[0], maps[1])
    assert scores["rmse"] == pytest.approx(math.sqrt(((maps[0] - maps[1]) ** 2).mean()))
    assert doubled["rmse_gain"] == pytest.approx(scores["rmse_gain"])
    assert doubled["gain"] == pytest.approx(scores["gain"] / 2)
    for gain in (0.99 * scores["gain"], 1.01 * scores["gain"]):
        assert scores["rmse_gain"] < math.sqrt(((gain * maps[0] - maps[1]) ** 2).mean())


def test_image_scores_of_empty_maps(maps: tuple) -> None:
    nothing = np.zeros_like(maps[1])
    scores = score_image(nothing, maps[1])
    assert math.isnan(scores["ssim_rfulm"])
    assert scores["gain"] == 0
    assert scores["rmse_gain"] == scores["rmse"] > 0
    assert math.isnan(score_image(maps[0], nothing)["ssim_max"])


def points_on_grid(rng: np.random.Generator, spread: float) -> np.ndarray:
    """Map (300 x 430, ten to a pixel) of points near the centres of 30 x 43 pixels; spread 1 is
    even.
    """
    pixel = rng.integers((30, 43), size=(6000, 2)) + 0.5
    z, x = np.floor(10 * (pixel + spread * (rng.random((6000, 2)) - 0.5))).astype(int).T
    density = np.zeros((300, 430))
    np.add.at(density, (z, x), 1)
    return density


@pytest.mark.parametrize("pala", [False, True])
def test_gridding_index_tells_gridded_from_even(rng: np.random.Generator, pala: bool) -> None:
    strong, weak, none = (
        gridding_index(points_on_grid(rng, spread), pala=pala) for spread in (0.2, 0.75, 1.0)
    )
    assert strong > 25 > weak > 12 > none > 0


def test_gridding_index_ignores_gain_and_shift_and_axes(rng: np.random.Generator) -> None:
    density = points_on_grid(rng, 0.7)
    index = gridding_index(density)
    for same in (7 * density, np.roll(density, (3, 4), axis=(0, 1)), density[::-1], density.T):
        assert gridding_index(same) == pytest.approx(index)
    assert math.isnan(gridding_index(np.zeros((100, 100))))


def test_saturation() -> None:
    assert saturation(np.diag([1, 2, 0, 0])) == 2 / 16


def test_frc_of_a_map_with_itself_is_one(maps: tuple) -> None:
    curve = fourier_ring_correlation(maps[0], 3 * maps[0], px=0.01)
    np.testing.assert_allclose(curve["frc"], 1)
    assert curve["frequency"].iloc[[0, -1]].tolist() == pytest.approx([1 / 0.6, 50])
    assert math.isnan(frc_resolution(curve))


@pytest.mark.parametrize("threshold", ["half_bit", "one_seventh"])
@pytest.mark.parametrize("cutoff", [0.08, 0.2, 0.35])
def test_frc_finds_the_cutoff_of_a_common_signal(
    rng: np.random.Generator, cutoff: float, threshold: str
) -> None:
    shape, px = (256, 320), 0.02
    radius = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
    signal = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) * (radius < cutoff)).real
    a, b = (signal + 0.4 * rng.normal(size=shape) for _ in range(2))
    curve = fourier_ring_correlation(a, b, px=px)
    inside = curve["frequency"] * px < cutoff - 0.02
    assert (curve["frc"][inside] > 0.7).all()
    assert curve["frc"][curve["frequency"] * px > cutoff + 0.02].abs().mean() < 0.1
    assert px / frc_resolution(curve, threshold) == pytest.approx(cutoff, abs=4 / 256)  # four rings


def test_frc_agrees_with_rings_drawn_one_by_one(maps: tuple) -> None:
    maps = tuple(
        m[:, :77] for m in maps
    )  # sides without common divisor: no pixel lies between two rings
    curve = fourier_ring_correlation(*maps, px=1.0)
    n_z, n_x = maps[0].shape
    taper = [
        np.sin(np.pi / 2 * np.clip(8 * np.minimum(k, k[::-1]) / k[-1], 0, 1)) ** 2
        for k in map(np.arange, (n_z, n_x))
    ]
    a, b = (np.fft.fft2(m * taper[0][:, None] * taper[1]) for m in maps)
    radius = n_z * np.hypot(np.fft.fftfreq(n_z)[:, None], np.fft.fftfreq(n_x))
    for row in (0, 7, 29):
        ring = (radius > row + 0.5) & (radius < row + 1.5)
        expected = (
            (a[ring] * b[ring].conj()).sum().real
            / np.linalg.norm(a[ring])
            / np.linalg.norm(b[ring])
        )
        assert curve["frc"][row] == pytest.approx(expected)
        assert curve["n_pixels"][row] == ring.sum()


def test_half_bit_threshold_follows_from_its_signal_to_noise_ratio(maps: tuple) -> None:
    curve = fourier_ring_correlation(*maps, px=1.0)
    snr, root = (math.sqrt(2) - 1) / 2, np.sqrt(curve["n_pixels"])
    expected = (snr + (2 * math.sqrt(snr) + 1) / root) / (snr + 1 + 2 * math.sqrt(snr) / root)
    np.testing.assert_allclose(curve["half_bit"], expected, atol=1e-4)


def test_frc_of_maps_with_nothing_in_common(rng: np.random.Generator) -> None:
    curve = fourier_ring_correlation(*rng.normal(size=(2, 128, 128)), px=1.0)
    assert curve["frc"].abs().mean() < 0.15
    assert frc_resolution(curve) == math.inf
    assert fourier_ring_correlation(np.zeros((9, 9)), np.eye(9), px=1.0)["frc"].isna().all()


# ---  ------------------------------------------------------------------------------------------
# bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: score_image(np.zeros((60, 60)), np.zeros((60, 61))), r"\(60, 60\) and \(60, 61\)"),
        (
            lambda: score_image(np.zeros((60, 46)), np.zeros((60, 46))),
            r"at least \(11, 47\) pixels",
        ),
        (lambda: score_image(np.full((60, 60), np.nan), np.zeros((60, 60))), "NaN or infinite"),
        (lambda: gridding_index(np.zeros((60, 100))), r"at least \(70, 70\) pixels"),
        (
            lambda: gridding_index(np.zeros((90, 90)), upsample=2),
            "upsample must be a whole number, 3 or more, not 2",
        ),
        (lambda: saturation(np.zeros(4)), "two axes"),
        (lambda: fourier_ring_correlation(np.eye(9), np.eye(9), px=-1), "px must be"),
        (lambda: frc_resolution(pd.DataFrame(), "1/7"), "unknown threshold '1/7'"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


# --------------------------------------------------------------------------------------------------
# PALA's own output


@pytest.fixture(scope="module", params=SEQUENCES)
def pala(request: pytest.FixtureRequest, oracle_dir: Path) -> dict[str, np.ndarray]:
    wanted = ("loc_", "track_", "density_points", "gridding_index", "methods")
    with np.load(oracle_dir / f"{request.param}.npz") as file:
        return {name: file[name] for name in file.files if name.startswith(wanted)}


def points_map(pala: dict[str, np.ndarray], method: str) -> np.ndarray:
    """PALA's density map without interpolation: rounded in single precision, a track once in a
    pixel.
    """
    track, row = pala[f"track_{method}"].T
    place = (pala[f"loc_{method}"][row, 1:3] - 1).astype(np.float32)
    cell = np.floor((place + 1) * 10 + np.float32(0.5)).astype(int) - 1
    density = np.zeros((841, 1431))
    _, z, x = np.unique(np.column_stack([track, cell]), axis=0).T
    np.add.at(density, (z, x), 1)
    return density


@pytest.mark.parametrize("method", METHODS)
def test_gridding_index_agrees_with_pala(pala: dict[str, np.ndarray], method: str) -> None:
    expected = pala["gridding_index"][pala["methods"].tolist().index(method)]
    density = points_map(pala, method)
    assert gridding_index(density, pala=True) == pytest.approx(expected, abs=1e-9)
    assert gridding_index(density) == pytest.approx(expected, abs=0.3)
    if method == "radial":
        np.testing.assert_array_equal(density, pala["density_points_radial"])
