"""The network's own scale: what is measured, what is sampled anew, and where bubbles come back."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ulmpaper as ulm
from ulmpaper.core.records import UlmWarning, bubble_table
from ulmpaper.networks.sampling import at_own_scale, own_scale

ABOUT = {"domain": {"fwhm_z_px": [1.0, 2.25], "fwhm_x_px": [1.0, 4.0]}}  # centres 1.5 and 2
FWHM = 2 * np.sqrt(2 * np.log(2))


def spots(
    sigma: tuple[float, float],
    shape: tuple[int, int] = (80, 100),
    n_frames: int = 24,
    n_bubbles: int = 6,
    step: float = 0.2,
    seed: int = 0,
) -> tuple[np.ndarray, pd.DataFrame]:
    """Gaussian spots on straight ways, with noise, and the true table."""
    rng = np.random.default_rng(seed)
    t, k = np.indices((n_frames, n_bubbles)).reshape(2, -1)
    z0, x0 = (rng.uniform(10, size - 10, n_bubbles) for size in shape)
    turn = rng.uniform(0, 2 * np.pi, n_bubbles)
    z = np.clip(z0[k] + step * t * np.sin(turn[k]), 3, shape[0] - 4)
    x = np.clip(x0[k] + step * t * np.cos(turn[k]), 3, shape[1] - 4)
    frames = np.zeros((n_frames, *shape))
    for frame, at_z, at_x in zip(t, z, x, strict=True):
        along_z = np.exp(-((np.arange(shape[0]) - at_z) ** 2) / 2 / sigma[0] ** 2)
        along_x = np.exp(-((np.arange(shape[1]) - at_x) ** 2) / 2 / sigma[1] ** 2)
        frames[frame] += along_z[:, None] * along_x
    noise = rng.normal(0, 0.03, frames.shape) + 1j * rng.normal(0, 0.03, frames.shape)
    return np.abs(frames + noise).astype(np.float32), bubble_table(t, z, x, np.ones(len(t)))


@settings(deadline=None, max_examples=10)
@given(along_z=st.floats(0.9, 3.0), along_x=st.floats(0.9, 3.0))
def test_spots_become_as_wide_as_in_the_training(along_z: float, along_x: float) -> None:
    frames, _ = spots((along_z, along_x), n_bubbles=3)
    for factor, sigma, wanted in zip(
        own_scale(frames, ABOUT), (along_z, along_x), (1.5, 2.0), strict=True
    ):
        right = wanted / (sigma * FWHM)
        if 1 / 1.2 < right < 1.2:
            assert factor == 1
        elif not 1 / 1.5 < right < 1.5:  # the widest are measured in a small window, noise and all
            assert right / 1.25 < factor < right * 1.35


def test_what_cannot_be_measured_stays_as_it_is() -> None:
    frames, _ = spots((3.0, 3.0))
    assert own_scale(np.zeros((3, 40, 40)), ABOUT) == (1, 1)
    assert own_scale(frames, {}) == (1, 1)
    assert own_scale(frames, {"domain": {"fwhm_z_px": [1.0, 2.0]}}) == (1, 1)


@settings(deadline=None, max_examples=20)
@given(
    factors=st.tuples(st.floats(0.3, 3.0), st.floats(0.3, 3.0)),
    at=st.tuples(st.floats(15, 44), st.floats(15, 54)),
)
def test_places_come_back(factors: tuple[float, float], at: tuple[float, float]) -> None:
    """A spot's centre of mass in the new frame, scaled back, is where it was."""
    z, x = np.mgrid[:60, :70]
    frame = np.exp(-((z - at[0]) ** 2 + (x - at[1]) ** 2) / 2 / 2.5**2)
    sampled = at_own_scale(frame[None], factors, {})
    new = sampled[0:1][0]
    assert new.shape == tuple(round(n * f) for n, f in zip(frame.shape, factors, strict=True))
    new_z, new_x = (
        float((new * grid).sum() / new.sum()) for grid in np.mgrid[: new.shape[0], : new.shape[1]]
    )
    back = sampled.restore(bubble_table([0], [new_z], [new_x], [1.0]))
    np.testing.assert_allclose(back[["z", "x"]].to_numpy()[0], at, atol=0.02)


@pytest.mark.parametrize("value", [1e-30, 1.0, 1e30, 1e200])
def test_level_frames_stay_level(value: float) -> None:
    frames = np.full((2, 20, 30), value)
    np.testing.assert_allclose(at_own_scale(frames, (0.6, 1.7), {})[0:2], value, rtol=1e-6)


def test_frames_are_read_as_they_are_needed() -> None:
    frames = np.random.default_rng(0).random((9, 30, 20), dtype=np.float32)
    sampled = at_own_scale(frames, (0.5, 1.0), {})
    np.testing.assert_array_equal(sampled[3:5], sampled[0:9][3:5])
    assert at_own_scale(frames, (1.0, 1.0), {})[2:4].base is frames


@pytest.mark.parametrize(("method", "least"), [("ml3d", 0.8), ("mspcn", 0.6)])
@pytest.mark.parametrize("sigma", [(1.5, 1.5), (2.0, 2.4)])
def test_networks_find_wide_spots(method: str, least: float, sigma: tuple[float, float]) -> None:
    frames, truth = spots(sigma)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UlmWarning)
        reached = {
            scale: ulm.score_bubbles(
                ulm.locate(frames, method, cfg={f"{method}.scale": scale}), truth
            )["jaccard_far"]
            for scale in ("auto", 1)
        }
    assert reached["auto"] > max(least, reached[1] + 0.3)


def test_all_blocks_of_a_recording_are_looked_at_alike(tmp_path) -> None:
    wide, _ = spots((2.0, 2.0), shape=(48, 60), n_frames=30)
    settings_ = {"blocks.n_frames": 15, "track.min_length": 3, "acquisition.px_mm": 0.1}
    settings_ |= {"acquisition.frame_rate_hz": 500}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UlmWarning)
        whole = ulm.ulm([wide[:15], wide[15:]], settings_, "ml3d")
        scale = whole.scale["network_scale"]
        assert max(scale) < 0.7
        given = ulm.ulm([wide[:15], wide[15:]], {**settings_, "ml3d.scale": tuple(scale)}, "ml3d")
        pd.testing.assert_frame_equal(whole.bubbles, given.bubbles)
        np.save(tmp_path / "wide.npy", wide)
        from_file = ulm.ulm(tmp_path / "wide.npy", settings_, "ml3d")
        pd.testing.assert_frame_equal(whole.bubbles, from_file.bubbles)


@pytest.mark.parametrize("scale", ["big", 0, 20, (1, 2, 3), True, None])
def test_scales_that_are_none_are_refused(scale: object) -> None:
    with pytest.raises(ValueError, match="takes auto, a factor, or two for z and x"):
        ulm.load_config("quick", {"ml3d.scale": scale})


def test_scales_are_read_from_text() -> None:
    read = [ulm.load_config("quick", {"ml3d.scale": t}).ml3d.scale for t in ("auto", "0.5", "1, 2")]
    assert read == ["auto", (0.5, 0.5), (1.0, 2.0)]
