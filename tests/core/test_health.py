"""Missing and repeated frames and hot pixels: found where they are, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ulmpaper.core.health import check_health, find_outliers, without_outliers
from ulmpaper.core.testcard import simulate_testcard

SEEDS = st.integers(0, 2**32 - 1)


def card(rng: np.random.Generator, n_bubbles: int, noise: float) -> np.ndarray:
    shape = (int(rng.integers(12, 60)), int(rng.integers(12, 60)))
    n = int(rng.integers(1, 30))
    block = simulate_testcard(n_frames=n, n_bubbles=n_bubbles, shape_px=shape, noise=noise, rng=rng)
    return block.frames


@settings(max_examples=60, deadline=None)
@given(SEEDS, st.integers(0, 8), st.sampled_from([0, 1e-3, 0.02, 0.2]))
def test_no_alarm_on_bubbles(seed: int, n_bubbles: int, noise: float) -> None:
    frames = card(np.random.default_rng(seed), n_bubbles, noise)
    as_8bit = [(frames * gain).clip(0, 255).astype(np.uint8) for gain in (15, 255, 600)]
    for version in (frames, frames**2, frames > 0.3, *as_8bit):
        assert find_outliers(version) == []


@settings(max_examples=60, deadline=None)
@given(SEEDS)
def test_no_alarm_on_speckle_and_noise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers((1, 8, 8), (30, 60, 60)))
    iq = rng.normal(size=shape) + 1j * rng.normal(size=shape)
    for frames in (iq, abs(iq), abs(iq) ** 2, abs(iq.real), rng.random(shape)):
        assert find_outliers(frames) == []
        assert check_health(frames).sentences() == []


@pytest.mark.parametrize("kind", ["cam", "invivo"])
def test_no_alarm_on_simulated_frames(kind: str) -> None:
    import ulmpaper

    block = ulmpaper.simulate(kind, "smoke")
    assert check_health(block.frames).sentences() == []


@settings(max_examples=60, deadline=None)
@given(
    SEEDS,
    st.floats(3, 1e30),
    st.sampled_from(["lone", "pair", "streak", "stuck", "several"]),
    st.booleans(),
)
def test_hot_pixels_are_found_where_they_are(
    seed: int, factor: float, kind: str, is_complex: bool
) -> None:
    rng = np.random.default_rng(seed)
    clean = simulate_testcard(n_frames=20, n_bubbles=6, shape_px=(40, 48), rng=rng).frames
    clean = clean.astype(np.float64)
    t, z, x = (int(rng.integers(n)) for n in (20, 40, 44))
    where = {
        "lone": [(t, z, x)],
        "pair": [(t, z, x), (t, z, x + 1)],
        "streak": [(t, z, x + k) for k in range(5)],
        "stuck": [(k, z, x) for k in range(20)],
        "several": sorted(
            {(int(k), int(k) % 40, int(3 * k) % 48) for k in rng.integers(20, size=4)}
        ),
    }[kind]
    hot = clean.copy()
    for place in where:
        hot[place] = factor * clean.max()
    found = find_outliers(hot * np.exp(0.7j) if is_complex else hot)
    assert [(o.frame, o.z, o.x) for o in found] == sorted(where)
    assert found[0].ratio == pytest.approx(factor, rel=0.02)
    whole = without_outliers(hot, found)
    assert whole.max() <= clean.max()
    others = np.ones(clean.shape, dtype=bool)
    for place in where:
        others[place] = False
    assert (whole[others] == clean[others]).all()


def test_a_stream_gives_what_an_array_gives() -> None:
    rng = np.random.default_rng(0)
    frames = simulate_testcard(n_frames=200, n_bubbles=5, shape_px=(20, 24), rng=rng).frames
    frames[150, 3, 4] = 50

    class Stream:
        shape = frames.shape

        def __getitem__(self, span: slice) -> np.ndarray:
            assert span.stop - span.start <= 64
            return frames[span]

    assert find_outliers(Stream()) == find_outliers(frames)
    assert [(o.frame, o.z, o.x) for o in find_outliers(frames)] == [(150, 3, 4)]


def test_missing_and_repeated_frames_are_counted_in_the_recording() -> None:
    rng = np.random.default_rng(0)
    frames = rng.random((12, 9, 9)) * (1 + 2j)
    frames[2:4] = 0
    frames[5] = 3j
    frames[8] = frames[7]
    frames[10, 1, 1] = np.nan
    health = check_health(frames, first_frame=100)
    assert health.zero == (102, 103)
    assert health.constant == (105,)
    assert health.missing == (102, 103, 105)
    assert health.repeated == (108,)
    assert health.not_finite == (110,)
    assert health.sentences() == [
        "2 frames hold only zeros: 102 to 103",
        "frame 105 has one value in all pixels",
        "frame 108 repeats the frame before",
        "frame 110 holds NaN or infinity",
    ]


def test_many_are_told_in_a_short_sentence() -> None:
    frames = np.random.default_rng(0).random((400, 9, 9))
    frames[::3] = 0
    (said,) = check_health(frames).sentences()
    assert said == "134 frames hold only zeros: 0, 3, 6, 9, 12, 15 and 128 more"
    frames = np.random.default_rng(0).random((400, 40, 40))
    frames[:, 3, 4] = 9
    (said,) = check_health(frames).sentences()
    assert said == ("hot pixel: z 3, x 4 in frames 0 to 399 holds 9 times the highest other value")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.complex64, bool])
def test_any_type_and_any_size(dtype: type) -> None:
    for shape in ((1, 1, 1), (1, 3, 2), (3, 1, 5)):
        for value in (0, 1):
            health = check_health(np.full(shape, value, dtype=dtype))
            assert len(health.missing) == shape[0]
            assert health.outliers == ()
