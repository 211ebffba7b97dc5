"""Frames against those of a training: measured widths, warnings in figures, and silence."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest

import ulmpaper as ulm
from ulmpaper.networks.domain import domain_gap, result_gap
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


# --- results of a network that does not know such frames -----------------------------------------


def test_doubtful_results_are_told_and_sure_ones_are_not() -> None:
    sure = pd.DataFrame({"score": np.ones(500)})
    unsure = sure.assign(score=np.where(np.arange(500) % 10, 1.0, 0.7))
    of_length = {"n_frames": 200, "min_length": 15}
    assert result_gap(sure, sure[:300], **of_length) is None
    text = result_gap(unsure, sure[:450], **of_length)
    assert text.startswith("10 % of the bubbles are unsure, of a probability below 0.8 (on frames")
    text = result_gap(unsure, sure[:50], **of_length)
    assert text.startswith("only 10 % of the bubbles lie in tracks of more than 15 points and 10 %")
    assert "ulmpaper compare" in text
    # Tracks cannot be long in a short recording, and a few bubbles say nothing.
    assert result_gap(sure, sure[:0], n_frames=30, min_length=15) is None
    assert result_gap(unsure[:99], sure[:0], **of_length) is None


@pytest.mark.parametrize(
    ("sigma_px", "step_px", "doubted"),
    [((0.7, 0.9), 0.3, False), ((1.0, 1.0), 1.2, True), ((1.6, 2.0), 0.4, True)],
)
def test_network_doubts_what_it_gets_wrong(
    sigma_px: tuple[float, float], step_px: float, doubted: bool
) -> None:
    """Films that the network sees as they are: the doubt comes where most bubbles are wrong."""
    rng = np.random.default_rng(0)
    shape = (70, 80)
    at = rng.uniform(0, shape, (12, 2))
    turn = rng.uniform(0, 2 * np.pi, 12)
    rows = []
    for t in range(40):
        gone = ((at < 0) | (at > np.subtract(shape, 1))).any(axis=1)
        at[gone] = rng.uniform(0, shape, (int(gone.sum()), 2))
        rows += [(t, z, x, 1.0) for z, x in at]
        at += step_px * np.column_stack([np.sin(turn), np.cos(turn)])
    truth = ulm.bubble_table(*np.transpose(rows))
    z, x = np.arange(shape[0]), np.arange(shape[1])
    frames = np.zeros((40, *shape))
    for row in truth.itertuples():
        along_z = np.exp(-((z - row.z) ** 2) / 2 / sigma_px[0] ** 2)
        frames[row.frame] += along_z[:, None] * np.exp(-((x - row.x) ** 2) / 2 / sigma_px[1] ** 2)
    frames = np.hypot(frames + 0.04 * rng.standard_normal(frames.shape), 0.04)
    as_it_is = {"locate.method": "ml3d", "ml3d.scale": (1, 1), "track.min_length": 10}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = ulm.ulm(ulm.Block(frames, px_mm=0.1, frame_rate_hz=1000.0), as_it_is)
    jaccard = ulm.score_bubbles(result.bubbles, truth)["jaccard_near"]
    assert (jaccard < 0.6) == doubted
    assert bool(caught) == doubted, [str(w.message) for w in caught]
