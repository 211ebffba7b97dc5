"""The array: known places and shapes, superposition, symmetry, PyMUST's own chain, bad input."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ulmpaper.core.localize import locate_peaks
from ulmpaper.core.records import bubble_table
from ulmpaper.simulator.array import (
    _BANDWIDTH_PERCENT,
    _WIDTH_M,
    CENTRE_HZ,
    N_ELEMENTS,
    PALA_ACQUISITION,
    PITCH_M,
    SPEED_M_S,
    Acquisition,
    acquire,
    acquire_spans,
)
from ulmpaper.simulator.psf import SHIPPED_BANK, read_bank
from ulmpaper.simulator.psf_from_frames import psf_width

SMALL = Acquisition(shape_px=(24, 31), origin_wl=(30.0, -15.0))
STEP = 0.125
MIDDLE = 48


def bubbles(*places: tuple[float, float], frame: int = 0, score: float = 1.0) -> pd.DataFrame:
    z, x = np.array(places, dtype=float).T
    return bubble_table(np.full(len(z), frame), z, x, np.full(len(z), score))


def close_up(z: float, x: float) -> np.ndarray:
    """Envelope of one bubble, finely sampled round its true place (MIDDLE, MIDDLE)."""
    origin = (z - MIDDLE * STEP, x - MIDDLE * STEP)
    grid = Acquisition(shape_px=(2 * MIDDLE + 1, 2 * MIDDLE + 1), origin_wl=origin, step_wl=STEP)
    return np.abs(acquire(bubbles((MIDDLE, MIDDLE)), 1, grid)[0])


def width_at_half(profile: np.ndarray) -> float:
    above = np.flatnonzero(profile > profile.max() / 2)
    low, high = above[0], above[-1]
    assert high - low == len(above) - 1, "one main lobe"
    half = profile.max() / 2
    rise = (profile[low] - half) / (profile[low] - profile[low - 1])
    fall = (profile[high] - half) / (profile[high] - profile[high + 1])
    return float(high - low + rise + fall)


@pytest.mark.parametrize("x", [0.0, 0.37, -30.0])
@pytest.mark.parametrize("z", [25.0, 60.0, 95.0])
def test_a_bubble_is_seen_where_it_is_and_sharply(z: float, x: float) -> None:
    envelope = close_up(z, x)
    found = locate_peaks(envelope[None], method="parabola", n_bubbles=1)
    # Errors in wavelengths, the pixels of PALA's grid.
    assert abs(found.z[0] - MIDDLE) * STEP < 0.01
    assert abs(found.x[0] - MIDDLE) * STEP < 0.05
    row, column = np.unravel_index(envelope.argmax(), envelope.shape)
    assert 1.1 <= width_at_half(envelope[:, column]) * STEP <= 1.3
    assert 2.1 <= width_at_half(envelope[row]) * STEP <= 2.5
    side = (
        envelope[row, np.abs(np.arange(2 * MIDDLE + 1) - column) * STEP > 3].max() / envelope.max()
    )
    assert -35 < 20 * math.log10(side) < -20


def test_a_bubble_in_the_middle_has_amplitude_one_and_the_phase_of_its_depth() -> None:
    z = 12 + np.array([0, 0.1, 0.25])
    table = bubble_table(np.arange(3), z, np.full(3, 15.0), np.ones(3))
    peak = acquire(table, 3, SMALL)[:, 12, 15]
    assert abs(peak[0]) == pytest.approx(1, abs=1e-6)
    turned = np.angle(peak[1:] / peak[0])
    np.testing.assert_allclose(np.mod(turned + 4 * np.pi * (z[1:] - 12), 2 * np.pi), 0, atol=0.15)


def test_echoes_add_up() -> None:
    one, two = bubbles((3, 4), score=0.7), bubbles((20, 22), (5, 7), score=0.9)
    together = acquire(pd.concat([one, two]), 1, SMALL)
    apart = acquire(one, 1, SMALL) + acquire(two, 1, SMALL)
    np.testing.assert_allclose(together, apart, atol=2e-5)
    np.testing.assert_allclose(
        acquire(one.assign(score=1.4), 1, SMALL), 2 * acquire(one, 1, SMALL), atol=2e-5
    )


def test_left_and_right_are_alike() -> None:
    left = acquire(bubbles((9.3, 4.2)), 1, SMALL)
    right = acquire(bubbles((9.3, 25.8)), 1, SMALL)
    np.testing.assert_allclose(right, left[:, :, ::-1], atol=2e-5)


def test_the_record_reaches_every_corner() -> None:
    table = bubble_table(np.arange(3), [83, 83, 40], [6, 136, 71], np.ones(3))
    frames = np.abs(acquire(table, 3))
    for frame, z, x in zip(frames, table.z, table.x, strict=True):
        row, column = np.unravel_index(frame.argmax(), frame.shape)
        assert (row, column) == (z, x)
        assert frame.max() > 0.15
    # Nothing wraps round from the end of the record: above the bubble the frame is dark.
    assert frames[:2, :20, 40:100].max() < 0.02 * frames[:2].max()


def test_equals_the_chain_of_pymust() -> None:
    """simus, rf2iq and dasmtx as their manual has it, element by element mean instead of sum."""
    import pymust

    grid = Acquisition(angles_deg=(5.0,), shape_px=(20, 20), origin_wl=(50.0, -10.0))
    table = bubbles((4, 5), (9, 12), (15, 3))
    param = pymust.utils.Param(
        fc=CENTRE_HZ, fs=4 * CENTRE_HZ, bandwidth=_BANDWIDTH_PERCENT,
        Nelements=N_ELEMENTS, pitch=PITCH_M, width=_WIDTH_M,
        radius=np.inf, c=SPEED_M_S, fnumber=1.9,
    )  # fmt: skip
    wl_m = SPEED_M_S / CENTRE_HZ
    z, x = (v[None] * wl_m for v in grid.to_wl(table.z, table.x))
    delays = pymust.txdelay(param, math.radians(5))
    rf, _ = pymust.simus(x, z, np.ones_like(x), delays, param)
    rf = np.pad(rf, ((0, 400), (0, 0)))
    iq = pymust.rf2iq(rf, param.fs, param.fc)
    zz, xx = (
        v * wl_m for v in np.meshgrid(*grid.to_wl(np.arange(20), np.arange(20)), indexing="ij")
    )
    das = pymust.dasmtx(iq, xx, zz, delays, param, "linear").tocsr()
    image = (das @ iq.ravel(order="F")).reshape(20, 20, order="F")
    element_m = (np.arange(N_ELEMENTS) - (N_ELEMENTS - 1) / 2) * PITCH_M
    image /= (np.abs(xx[..., None] - element_m) <= zz[..., None] / (2 * 1.9)).sum(axis=-1)
    ours = acquire(table, 1, grid)[0]
    scale = np.vdot(image, ours) / np.vdot(image, image)
    np.testing.assert_allclose(ours, scale * image, atol=1e-3 * np.abs(ours).max())


@pytest.mark.slow
def test_frames_do_not_depend_on_processes_or_stretches(rng: np.random.Generator) -> None:
    n = 20
    table = bubble_table(
        rng.integers(0, 5, n), rng.uniform(0, 23, n), rng.uniform(0, 30, n), rng.uniform(0.5, 1, n)
    )
    expected = acquire(table, 5, SMALL)
    spans = [(0, 2), (2, 5)]
    found = list(acquire_spans(table.sample(frac=1, random_state=1), spans, SMALL, n_jobs=2))
    assert [span for span, _ in found] == spans
    np.testing.assert_allclose(np.concatenate([frames for _, frames in found]), expected, atol=1e-6)
    again = [frames for _, frames in acquire_spans(table, [(0, 1), (1, 5)], SMALL, n_jobs=2)]
    np.testing.assert_array_equal(np.concatenate(again), expected)


def test_a_frame_without_bubbles_is_dark() -> None:
    frames = acquire(bubbles((5, 5), frame=1), 3, SMALL)
    assert frames.dtype == np.complex64
    assert (np.abs(frames).max(axis=(1, 2)) > 0).tolist() == [False, True, False]
    assert not acquire(bubble_table([], [], [], []), 1, SMALL).any()


def peak(frames: np.ndarray) -> tuple[float, float, float]:
    found = locate_peaks(np.abs(frames), method="parabola", n_bubbles=1)
    return found.z[0], found.x[0], float(np.abs(frames).max())


FINE = Acquisition(angles_deg=(0.0,), shape_px=(48, 33), origin_wl=(54.0, -4.0), step_wl=0.25)


def test_faster_tissue_lifts_the_bubble() -> None:
    truth = bubbles((24, 16))
    z, _, _ = peak(acquire(truth, 1, dataclasses.replace(FINE, speed_m_s=1.01 * SPEED_M_S)))
    assert (24 - z) * 0.25 == pytest.approx(60 * 0.01, abs=0.1)


def test_a_constant_screen_is_met_twice_and_a_rough_one_blurs() -> None:
    truth = bubbles((24, 16))
    plain = peak(acquire(truth, 1, FINE))
    late = peak(acquire(truth, 1, FINE, screens_ns=np.full((1, N_ELEMENTS), 32.0)))
    # Half a cycle on the way out and half on the way back look like half a wavelength of depth.
    assert (late[0] - plain[0]) * 0.25 == pytest.approx(0.5, abs=0.02)
    rough = np.random.default_rng(3).normal(0, 12.0, (1, N_ELEMENTS))
    assert peak(acquire(truth, 1, FINE, screens_ns=rough))[2] < 0.8 * plain[2]


def test_attenuation_dims_the_deep_bubble_more() -> None:
    tall = Acquisition(angles_deg=(0.0,), shape_px=(70, 9), origin_wl=(25.0, -4.0))
    truth = bubble_table([0, 1], [5, 65], [4, 4], [1, 1])

    def ratio(attenuation_db: float) -> float:
        frames = np.abs(acquire(truth, 2, dataclasses.replace(tall, attenuation_db=attenuation_db)))
        return float(frames[1].max() / frames[0].max())

    expected_db = -0.3 * CENTRE_HZ / 1e6 * 2 * 60 * SPEED_M_S / CENTRE_HZ * 100
    assert 20 * math.log10(ratio(0.3) / ratio(0.0)) == pytest.approx(expected_db, rel=0.15)


def test_pixels_and_wavelengths_are_inverse(rng: np.random.Generator) -> None:
    z, x = rng.uniform(-10, 90, (2, 20))
    grid = dataclasses.replace(PALA_ACQUISITION, step_wl=0.5)
    np.testing.assert_allclose(grid.to_px(*grid.to_wl(z, x)), (z, x))
    assert PALA_ACQUISITION.px_mm == pytest.approx(0.09856)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"angles_deg": ()}, "one or more tilts"),
        ({"angles_deg": (60.0,)}, "one or more tilts of -45 to 45"),
        ({"f_number": 0}, "f_number must be a number above 0"),
        ({"origin_wl": (0.0, 0.0)}, "origin_wl_z must be a number above 0"),
        ({"step_wl": -1.0}, "step_wl must be"),
        ({"speed_m_s": math.nan}, "speed_m_s must be"),
        ({"attenuation_db": -1.0}, "attenuation_db must be 0 or more"),
    ],
)
def test_impossible_acquisitions_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Acquisition(**settings)


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (
            bubbles((5, 31.6)),
            {},
            "1 bubbles lie outside the picture of 24 x 31 px, the first at z 5, x 31.6",
        ),
        (bubbles((5, 5), frame=2), {}, "bubbles in frame 2, but there are frames 0 to 1 only"),
        (bubbles((5, 5), frame=-1), {}, "in frame -1"),
        (bubbles((5, 5)).drop(columns="score"), {}, "lacks the column"),
        (
            bubbles((5, 5)),
            {"screens_ns": np.zeros(128)},
            r"shape \(T, elements\) \(2, 128\), not \(128,\)",
        ),
    ],
)
def test_bad_input_is_named(table: pd.DataFrame, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        acquire(table, 2, SMALL, **options)


def test_no_frames_are_refused() -> None:
    with pytest.raises(ValueError, match="n_frames must be a whole number, 1 or more"):
        acquire(bubbles((5, 5)), 0, SMALL)


def test_pymust_may_be_compiled_where_warnings_are_errors(tmp_path: Path) -> None:
    import pymust

    shutil.copytree(
        Path(pymust.__file__).parent,
        tmp_path / "pymust",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    code = (
        "from ulmpaper.simulator.array import Acquisition, acquire; "
        "from ulmpaper.core.records import bubble_table; "
        "small = Acquisition(angles_deg=(0.0,), shape_px=(9, 9)); "
        "acquire(bubble_table([0], [4], [4], [1]), 1, small); "
        "import pymust; print(pymust.__file__)"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", code]
    result = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert Path(result.stdout.strip()).is_relative_to(tmp_path)


SHIPPED = {"psf_bank": (200, 1.40, 2.14, 0.6), "psf_bank_iq": (500, 1.16, 2.07, 0.09)}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_banks_hold_centred_psfs(name: str) -> None:
    n_psf, width_z, width_x, farthest_px = SHIPPED[name]
    path = SHIPPED_BANK.with_name(f"{name}.npz")
    assert path.stat().st_size < 800_000
    bank = read_bank(path)
    assert len(bank) == n_psf
    amplitude = np.abs(bank.table)
    peak = amplitude.reshape(n_psf, -1).argmax(axis=1)
    row, column = np.unravel_index(peak, amplitude.shape[1:])
    assert np.hypot(row - 40, column - 40).max() / bank.oversample < farthest_px
    np.testing.assert_allclose(
        np.median(psf_width(bank.table, bank.oversample), axis=0), (width_z, width_x), atol=0.03
    )


@pytest.mark.slow
def test_the_script_of_the_banks_finds_its_bubbles(monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path(__file__).parents[2] / "data" / "make_psf_bank.py"
    spec = importlib.util.spec_from_file_location("make_psf_bank", path)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "N_FRAMES", 2)
    iq, places = script.surrogate(np.random.default_rng(5), n_jobs=1)
    assert iq.shape == (2, 181, 241)
    assert places.frame.tolist() == [0] * script.N_BUBBLES + [1] * script.N_BUBBLES
    amplitude = np.abs(iq)[places.frame, places.z.round().astype(int), places.x.round().astype(int)]
    assert (amplitude > 10 * script.NOISE).mean() > 0.9
    # A bubble that is imaged alone is centred on the peak of its envelope.
    patch = np.abs(script.lone_psf(3))
    assert patch.shape == (21, 21)
    assert patch.argmax() == 10 * 21 + 10
