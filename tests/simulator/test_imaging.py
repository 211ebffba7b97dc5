"""Drawing: against the literal radio-frequency way, against loops, and on single bubbles."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from ulmpaper.core.filters import butter_bandpass, svd_filter
from ulmpaper.core.localize import locate_peaks
from ulmpaper.core.records import bubble_table
from ulmpaper.simulator import imaging
from ulmpaper.simulator.imaging import (
    cut_speckle,
    literal_rf,
    speckle,
    synthesize,
    tissue_clutter,
)
from ulmpaper.simulator.psf import PsfBank, gaussian_bank, linear_array_psf

SHAPE = (40, 50)


def crowd(
    rng: np.random.Generator, n_psf: int, n_frames: int = 6, n_bubbles: int = 12
) -> pd.DataFrame:
    """Bubbles that overlap, some of them outside the picture."""
    n = n_frames * n_bubbles
    z, x = rng.uniform(-7, 47, n), rng.uniform(-7, 57, n)
    table = bubble_table(np.repeat(np.arange(n_frames), n_bubbles), z, x, rng.uniform(0.5, 1, n))
    return table.assign(psf=rng.integers(n_psf, size=n), phase=rng.uniform(0, 2 * np.pi, n))


def one(z: float, x: float, **more: float) -> pd.DataFrame:
    return bubble_table([0], [z], [x], [1.0]).assign(psf=0, phase=0.0, **more)


def slow_iq(bubbles: pd.DataFrame, bank: PsfBank, n_frames: int) -> np.ndarray:
    """The formula, bubble by bubble and pixel by pixel."""
    iq = np.zeros((n_frames, *SHAPE), dtype=complex)
    z, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    for bubble in bubbles.itertuples():
        places = [
            bank.oversample * (z - bubble.z + bank.half_px),
            bank.oversample * (x - bubble.x + bank.half_px),
        ]
        psf = ndimage.map_coordinates(bank.table[bubble.psf], places, order=1, mode="grid-constant")
        turn = bubble.phase - 4 * np.pi * bank.px_wavelengths * bubble.z
        iq[bubble.frame] += bubble.score * psf * np.exp(1j * turn)
    return iq


@pytest.mark.parametrize("px_wavelengths", [1.0, 0.5])
@pytest.mark.parametrize("curvature_rad", [0.0, 1.0])
def test_equals_the_formula(
    curvature_rad: float, px_wavelengths: float, rng: np.random.Generator
) -> None:
    bank = gaussian_bank(5, rng=rng, curvature_rad=curvature_rad, px_wavelengths=px_wavelengths)
    bubbles = crowd(rng, 5)
    iq = synthesize(bubbles, bank, SHAPE, n_frames=6, iq=True)
    assert iq.dtype == torch.complex64
    expected = slow_iq(bubbles, bank, 6)
    assert np.abs(iq.numpy() - expected).max() < 1e-5
    bmode = synthesize(bubbles, bank, SHAPE, n_frames=6)
    assert bmode.dtype == torch.float32
    assert np.abs(bmode.numpy() - np.abs(expected)).max() < 1e-5


def test_equals_the_literal_way_of_the_paper(rng: np.random.Generator) -> None:
    bank, bubbles = gaussian_bank(5, rng=rng), crowd(rng, 5)
    fast = synthesize(bubbles, bank, SHAPE, n_frames=6).numpy()
    slow = literal_rf(bubbles, bank, SHAPE, n_frames=6)
    assert np.abs(fast - slow).max() < 0.01 * slow.max()
    assert np.sqrt(np.mean((fast - slow) ** 2)) < 5e-4 * slow.max()


def test_literal_way_holds_for_other_pixels_and_phases(rng: np.random.Generator) -> None:
    bank = gaussian_bank(
        5,
        rng=rng,
        fwhm_z_px=(2.4, 3),
        fwhm_x_px=(4, 5),
        half_px=7,
        curvature_rad=0.5,
        px_wavelengths=0.5,
    )
    bubbles = crowd(rng, 5)
    fast = synthesize(bubbles, bank, SHAPE, n_frames=6).numpy()
    assert np.abs(fast - literal_rf(bubbles, bank, SHAPE, n_frames=6)).max() < 0.01 * fast.max()


def test_literal_way_needs_a_fine_grid(rng: np.random.Generator) -> None:
    bank, bubbles = gaussian_bank(5, rng=rng), crowd(rng, 5)
    fast = synthesize(bubbles, bank, SHAPE, n_frames=6).numpy()
    coarse = literal_rf(bubbles, bank, SHAPE, n_frames=6, samples_per_wavelength=4)
    assert np.abs(fast - coarse).max() > 0.1 * fast.max()


@settings(max_examples=25, deadline=None)
@given(st.floats(10, 29), st.floats(10, 39))
def test_bubbles_are_where_they_were_put(z: float, x: float) -> None:
    # Wide enough for a centre of mass on whole pixels.
    bank = linear_array_psf(sigma_z_wavelengths=0.8)
    frame = synthesize(one(z, x), bank, SHAPE, n_frames=1)[0].double().numpy()
    assert np.allclose(ndimage.center_of_mass(frame), (z, x), atol=0.02)


@pytest.mark.parametrize("at", [(20.0, 20.0), (20.5, 20.5), (20.0, 20.5), (19.5, 20.0)])
def test_whole_and_half_pixels_are_exact(at: tuple[float, float]) -> None:
    frame = synthesize(one(*at), linear_array_psf(), SHAPE, n_frames=1)
    assert np.allclose(ndimage.center_of_mass(frame[0].double().numpy()), at, atol=1e-4)
    found = locate_peaks(frame.numpy(), method="parabola", n_bubbles=1, max_peaks_in_roi=4)
    assert found[["z", "x"]].to_numpy()[0] == pytest.approx(at, abs=0.02)


def test_iq_adds_up_and_scales(rng: np.random.Generator) -> None:
    bank, bubbles = gaussian_bank(3, rng=rng), crowd(rng, 3)
    speckle = imaging.speckle(SHAPE, rng=rng)
    draw = {"n_frames": 6, "iq": True}
    whole = synthesize(bubbles, bank, SHAPE, background=speckle, **draw).numpy()
    odd = synthesize(bubbles[1::2], bank, SHAPE, **draw).numpy()
    even = synthesize(bubbles[::2].assign(score=3 * bubbles["score"]), bank, SHAPE, **draw).numpy()
    assert np.abs(whole - (odd + even / 3 + speckle)).max() < 1e-5


def test_amplitudes_of_neighbours_interfere() -> None:
    pair = bubble_table([0, 0], [20.0, 20.0], [20.0, 20.0], [1.0, 1.0]).assign(
        psf=0, phase=[0.0, np.pi]
    )
    assert float(synthesize(pair, linear_array_psf(), SHAPE, n_frames=1).max()) < 1e-6
    # A quarter of a wavelength in depth is half a period of the echo.
    pair = pair.assign(phase=0.0, z=[20.0, 20.25])
    iq = synthesize(pair, linear_array_psf(), SHAPE, n_frames=1, iq=True)[0, 20, 20]
    assert complex(iq) == pytest.approx(1 - np.exp(-(0.5**2) / 2), abs=1e-3)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 9), st.sampled_from([1, 2]), st.booleans())
def test_batches_and_threads_do_not_show(
    seed: int, batch_frames: int, n_threads: int, iq: bool
) -> None:
    rng = np.random.default_rng(seed)
    bank, bubbles, speckle = (
        gaussian_bank(3, rng=rng),
        crowd(rng, 3),
        imaging.speckle(SHAPE, rng=rng),
    )
    draw = {"n_frames": 6, "background": speckle, "iq": iq}
    expected = synthesize(bubbles, bank, SHAPE, **draw)
    before = torch.get_num_threads()
    torch.set_num_threads(n_threads)
    try:
        again = synthesize(
            bubbles.sample(frac=1, random_state=1).sort_index(),
            bank,
            SHAPE,
            batch_frames=batch_frames,
            **draw,
        )
    finally:
        torch.set_num_threads(before)
    assert again.numpy().tobytes() == expected.numpy().tobytes()


def test_order_of_frames_in_the_table_does_not_matter(rng: np.random.Generator) -> None:
    bank, bubbles = gaussian_bank(3, rng=rng), crowd(rng, 3)
    mixed = bubbles.sort_values("z")
    a, b = (synthesize(table, bank, SHAPE, n_frames=6).numpy() for table in (bubbles, mixed))
    assert np.abs(a - b).max() < 1e-6


def test_bubbles_far_outside_leave_no_trace() -> None:
    far = bubble_table([0] * 4, [-40, 20, 90, 1e6], [20, -40, 20, 20], [1] * 4).assign(
        psf=0, phase=0.0
    )
    assert float(synthesize(far, linear_array_psf(), SHAPE, n_frames=1).max()) == 0
    assert literal_rf(far, linear_array_psf(), SHAPE, n_frames=1).max() == 0


def test_no_bubbles_leave_the_background(rng: np.random.Generator) -> None:
    nothing = crowd(rng, 1, n_bubbles=0)
    still, moving = speckle(SHAPE, rng=rng), rng.standard_normal((3, *SHAPE)) * (1 + 2j)
    for behind in (still, moving):
        frames = synthesize(
            nothing, linear_array_psf(), SHAPE, n_frames=3, background=behind
        ).numpy()
        np.testing.assert_allclose(frames, np.broadcast_to(np.abs(behind), frames.shape), rtol=1e-5)
    assert float(synthesize(nothing, linear_array_psf(), SHAPE, n_frames=3).abs().max()) == 0


def test_background_is_speckle(rng: np.random.Generator) -> None:
    speckle = imaging.speckle((120, 150), rng=rng)
    assert speckle.dtype == np.complex64
    amplitude = np.abs(speckle)
    # Mean over standard deviation is 1.91 for full speckle; two scatterers per pixel give less.
    assert 1.5 < amplitude.mean() / amplitude.std() < 1.85
    dense = np.abs(imaging.speckle((60, 80), rng=rng, density=20))
    assert dense.mean() / dense.std() == pytest.approx(1.91, abs=0.1)
    assert abs(speckle.mean()) < 0.05
    # Edges are as bright as the middle.
    assert np.mean(amplitude[:4] ** 2) == pytest.approx(1, abs=0.25)


def test_background_of_a_seed_is_always_the_same() -> None:
    first, again, other = (speckle(SHAPE, rng=np.random.default_rng(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"bubbles": crowd(np.random.default_rng(0), 3)},
            "goes up to frame 5, but with n_frames 3 the last is 2",
        ),
        ({"bubbles": one(5, 5).assign(psf=7)}, "ask for PSFs 7 to 7, but the bank holds 1"),
        ({"bubbles": one(5, 5).drop(columns="phase")}, r"lacks the column\(s\) phase"),
        ({"bubbles": one(np.nan, 5)}, "NaN"),
        (
            {"background": np.zeros((3, 3))},
            r"background must have the shape \(40, 50\) or \(3, 40, 50\)",
        ),
        ({"background": np.zeros((2, 40, 50))}, "background must have the shape"),
        ({"background": np.full((40, 50), np.nan)}, "background hold NaN"),
        ({"n_frames": 0}, "n_frames must be a number above 0"),
        ({"shape_px": (0, 5)}, "z must be a number above 0"),
        ({"batch_frames": 0}, "batch_frames must be a number above 0"),
    ],
)
def test_bad_input_is_refused(changes: dict, message: str) -> None:
    arguments = {
        "bubbles": one(5, 5),
        "bank": linear_array_psf(),
        "shape_px": SHAPE,
        "n_frames": 3,
        **changes,
    }
    with pytest.raises(ValueError, match=message):
        synthesize(**arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_absent_cuda_says_so() -> None:
    with pytest.raises(ValueError, match="torch sees no CUDA device: use device='cpu'"):
        synthesize(one(5, 5), linear_array_psf(), SHAPE, n_frames=1, device="cuda")


@pytest.mark.gpu
def test_cuda_draws_the_same(rng: np.random.Generator) -> None:
    bank, bubbles = gaussian_bank(5, rng=rng, curvature_rad=0.5), crowd(rng, 5)
    here, there = (
        synthesize(bubbles, bank, SHAPE, n_frames=6, device=device).cpu()
        for device in ("cpu", "cuda")
    )
    assert float((here - there).abs().max()) < 1e-5


def seeded(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def bubbles_in_tissue() -> tuple[np.ndarray, np.ndarray]:
    """A bubble that sinks 40 px a second through bright tissue, and that bubble alone."""
    n_frames, z, x = 400, *np.mgrid[:30, :40]
    depth = 8 + 0.04 * np.arange(n_frames)[:, None, None]
    bubble = np.exp(-((z - depth) ** 2) / 1.0 - (x - 20) ** 2 / 1.8 - 4j * np.pi * depth)
    return bubble + tissue_clutter(
        (30, 40), n_frames, rng=seeded(1), frame_rate_hz=1000.0, level_db=30.0
    ), bubble


def share_found(frames: np.ndarray, first: int = 0) -> float:
    """Share of the frames, counted from `first`, whose brightest pixel is the bubble's."""
    z, x = np.divmod(np.abs(frames).reshape(len(frames), -1).argmax(axis=1), frames.shape[2])
    depth = 8 + 0.04 * np.arange(first, first + len(frames))
    return float(np.mean((np.abs(z - depth) <= 1) & (np.abs(x - 20) <= 1)))


def test_filters_bring_the_bubble_out_of_the_tissue() -> None:
    iq, bubble = bubbles_in_tissue()
    assert share_found(bubble) == 1
    assert share_found(iq) < 0.05
    # The tissue fills more than two components. Filters have no past at the ends of a block.
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
        tissue_clutter(
            **{
                "shape_px": (8, 8),
                "n_frames": 2,
                "rng": seeded(),
                "frame_rate_hz": 1000.0,
                **changes,
            }
        )


def test_bad_cuts_are_refused() -> None:
    field = np.ones((8, 8), dtype=np.complex64)
    with pytest.raises(ValueError, match=r"a field of \(8, 8\) px holds no frame of \(9, 4\) px"):
        cut_speckle(field, (9, 4), 1, rng=seeded())
    with pytest.raises(ValueError, match="memory is a correlation"):
        cut_speckle(field, (4, 4), 1, rng=seeded(), memory=-0.1)
