"""Frames against those of a training: measured widths, warnings in figures, and silence."""

from __future__ import annotations

import numpy as np
import pytest

from ulmpaper.networks.localize import domain_gap
from ulmpaper.simulator.psf_from_frames import bubble_width, correlation_width

DOMAIN = {
    "fwhm_z_px": [1.5, 2.5],
    "fwhm_x_px": [2.0, 4.0],
    "bubbles_per_px": [0.0005, 0.003],
    "px_wavelengths": 1.0,
}
SHAPE = (84, 120)


def spots(width_z: float, width_x: float, *, n_frames: int = 12, noise: float = 0.01) -> np.ndarray:
    """Twenty bubbles a frame, 20 px apart, of known full width at half maximum."""
    rng = np.random.default_rng(0)
    z, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    frames = noise * rng.random((n_frames, *SHAPE))
    for frame in frames:
        for row in range(12, 84, 20):
            for column in range(12, 108, 20):
                at_z, at_x = row + rng.uniform(-0.5, 0.5), column + rng.uniform(-0.5, 0.5)
                frame += np.exp(
                    -4 * np.log(2) * (((z - at_z) / width_z) ** 2 + ((x - at_x) / width_x) ** 2)
                )
    return frames


@pytest.mark.parametrize(
    ("true", "expected"),
    [
        ((2, 3), (2.05, 3.0)),
        ((4, 2.5), (4.0, 2.55)),
        ((1.2, 1.6), (1.4, 1.7)),
    ],  # pixels widen the narrow ones
)
def test_known_widths_are_measured(
    true: tuple[float, float], expected: tuple[float, float]
) -> None:
    assert bubble_width(spots(*true, n_frames=4)) == pytest.approx(expected, rel=0.05)


def test_few_frames_are_looked_at() -> None:
    frames = spots(2, 3, n_frames=12)
    long = np.zeros((12 * 9 - 8, *SHAPE))
    long[::9] = frames
    assert bubble_width(long) == bubble_width(frames)


def test_where_no_bubble_stands_alone_widths_are_unknown(rng: np.random.Generator) -> None:
    crowd = rng.random((3, *SHAPE))
    assert bubble_width(crowd) is None
    assert bubble_width(np.zeros((3, *SHAPE))) is None
    assert domain_gap(crowd, 10, {"domain": DOMAIN}) is None


@pytest.mark.parametrize(
    ("widths", "count", "expected", "resample"),
    [
        ((2, 3), 20, [], False),
        ((2.8, 3), 20, [], False),  # 15 % are allowed
        ((3.5, 3), 20, ["3.5 px width of a bubble in depth (1.5 to 2.5)"], True),
        ((2, 5), 20, ["5 px width across (2 to 4)"], True),
        ((2, 3), 60, ["0.006 bubbles per pixel (0.0005 to 0.003)"], False),
        ((2, 3), 2, ["0.0002 bubbles per pixel (0.0005 to 0.003)"], False),
        (
            (3.5, 5),
            60,
            ["px width of a bubble in depth", "px width across", "bubbles per pixel"],
            True,
        ),
    ],
)
def test_figures_outside_the_training_are_named(
    widths: tuple[float, float], count: int, expected: list[str], resample: bool
) -> None:
    text = domain_gap(spots(*widths), np.full(12, count), {"domain": DOMAIN})
    if not expected:
        assert text is None
        return
    assert text.startswith("the frames are unlike those of the training: ")
    assert all(part in text for part in expected)
    assert text.count("(") == len(expected) + 1 + resample
    assert ("resample them to 1 wavelengths per pixel" in text) == resample
    assert "\n" not in text


def test_without_a_domain_there_is_no_warning() -> None:
    frames = spots(5, 5, n_frames=1)
    assert domain_gap(frames, 500, {}) is None
    assert domain_gap(frames, 500, {"domain": {"px_wavelengths": 1.0}}) is None
    assert "width of a bubble in depth" in domain_gap(
        frames, 500, {"domain": {"fwhm_z_px": [1, 2]}}
    )


@pytest.mark.parametrize("true", [(2, 3), (4, 2.5), (6, 7)])
def test_correlation_tells_known_widths(true: tuple[float, float]) -> None:
    assert correlation_width(spots(*true)) == pytest.approx(true, rel=0.15)


def test_correlation_sees_through_a_threshold() -> None:
    frames = spots(4, 6, noise=0) * np.random.default_rng(1).uniform(0.3, 1, (12, 1, 1))
    cut = np.where(frames > 0.1, frames, 0)
    assert correlation_width(cut) == pytest.approx((4, 6), rel=0.2)  # cut flanks narrow it a little


def test_correlation_of_nothing_is_unknown() -> None:
    assert np.isnan(correlation_width(np.ones((2, 9, 9)))).all()
