"""Make the banks of point spread functions (PSFs) that come with the package.

    python data/make_psf_bank.py

The paper cuts 200 PSFs from the B-mode of a rat's brain. Here they are cut from simulated frames
that differ from the test phantom as the living brain does: other tilts and F-number, a speed of
sound that the beamformer does not know, a phase screen for each frame, attenuation restored by the
time gain, bubbles of all amplitudes, noise.

``psf_bank.npz``
    Envelopes cut from B-mode with pixels of one wavelength, as in the paper. Such pixels are too
    coarse for the envelope, so these PSFs come out too wide in depth.
``psf_bank_iq.npz``
    Bubbles imaged alone and without noise, with their phase, on pixels of half a wavelength. Such
    IQ is band-limited (less than a thousandth of its energy lies beyond), so that it can be
    evaluated anywhere. Each PSF is centred on the peak of its envelope. 300 are for training, 100
    for validation, 100 for tests.

Envelopes are centred where the bubble appears in the image, known from finer pixels, but sampled at
every wavelength, which moves what is visible by 0.14 px (rms) in depth. It takes some minutes.
"""

from __future__ import annotations

import dataclasses

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import ndimage
from tqdm import tqdm

from ulmpaper.core.localize import locate_peaks
from ulmpaper.core.records import bubble_table
from ulmpaper.core.spots import sample_patches, shape_patches
from ulmpaper.metrics.bubbles import match_bubbles
from ulmpaper.simulator.array import (
    CENTRE_HZ,
    N_ELEMENTS,
    PITCH_M,
    SPEED_M_S,
    WAVELENGTH_MM,
    Acquisition,
    acquire,
)
from ulmpaper.simulator.psf import SHIPPED_BANK, PsfBank, fine_grid, resample, write_bank
from ulmpaper.simulator.psf_from_frames import extract_psfs, psf_width

SEED = 2024
N_PSF = 200
N_LONE = 500
LONE_WL = ((25.0, 105.0), (-50.0, 50.0))  # where they lie, along z and x
ROOM_WL = 7  # round them
PEAK_SAMPLES = 16  # a wavelength: fine enough to find the peak of the envelope
N_FRAMES = 80  # half of them with faster, half with slower tissue
N_BUBBLES = 25
MARGIN_PX = 16
SPEED_ERROR = 0.005
ATTENUATION_DB = 0.5  # [dB/cm/MHz]
SCREEN_NS = 8.0
SCREEN_MM = 1.5
NOISE = 0.01  # root mean square; a bubble of reflectivity 1 in the middle has the amplitude 1
NOISE_SIGMA_PX = (0.9, 1.9)  # as sharp as the beamformer leaves it, in fine pixels

# 20 to 110 wavelengths deep, in pixels of half a wavelength.
FINE = Acquisition(
    angles_deg=(-4.0, -2.0, 0.0, 2.0, 4.0),
    f_number=1.5,
    shape_px=(181, 241),
    origin_wl=(20.0, -60.0),
    step_wl=0.5,
    attenuation_db=ATTENUATION_DB,
)


def draw_bubbles(rng: np.random.Generator, n_frames: int) -> pd.DataFrame:
    """Draw bubbles anywhere, log-normal in amplitude and dimmer out of plane."""
    n = n_frames * N_BUBBLES
    z, x = (rng.uniform(MARGIN_PX, side - 1 - MARGIN_PX, n) for side in FINE.shape_px)
    out_of_plane = np.exp(-(rng.uniform(-1, 1, n) ** 2) / 2)
    amplitude = rng.lognormal(0, 0.35, n) * out_of_plane
    return bubble_table(np.repeat(np.arange(n_frames), N_BUBBLES), z, x, amplitude)


def phase_screens(rng: np.random.Generator, n_frames: int) -> NDArray[np.float64]:
    """Draw Gaussian delays (T, 128) [ns], correlated over `SCREEN_MM` (full width)."""
    # The correlation of smoothed white noise is sqrt(2) wider than the kernel.
    sigma = SCREEN_MM * 1e-3 / PITCH_M / np.sqrt(2 * 8 * np.log(2))
    white = rng.standard_normal((n_frames, 3 * N_ELEMENTS))
    smooth = ndimage.gaussian_filter1d(white, sigma, axis=1)
    smooth = smooth[:, N_ELEMENTS : 2 * N_ELEMENTS]
    return SCREEN_NS * smooth / smooth.std()


def time_gain() -> NDArray[np.float64]:
    """Compute the gain of each row that makes up for the attenuation at the centre frequency."""
    depth_cm = FINE.to_wl(np.arange(FINE.shape_px[0]), 0)[0] * WAVELENGTH_MM / 10
    loss_db = 2 * ATTENUATION_DB * CENTRE_HZ / 1e6 * depth_cm
    return 10 ** ((loss_db - loss_db[len(loss_db) // 2]) / 20)


def receive_noise(rng: np.random.Generator, n_frames: int) -> NDArray[np.complex128]:
    """Draw complex noise of the amplifiers after beamforming."""
    shape = (2, n_frames, *FINE.shape_px)
    real, imaginary = ndimage.gaussian_filter(rng.standard_normal(shape), (0, 0, *NOISE_SIGMA_PX))
    noise = real + 1j * imaginary
    return NOISE * noise / np.sqrt((np.abs(noise) ** 2).mean())


def apparent_places(iq: NDArray, bubbles: pd.DataFrame, speed_m_s: float) -> pd.DataFrame:
    """Find where the bubbles appear: tissue of another speed moves them, and so do its screens."""
    z_wl, x_wl = FINE.to_wl(bubbles["z"], bubbles["x"])
    expected = bubbles.assign(z=FINE.to_px(z_wl * SPEED_M_S / speed_m_s, x_wl)[0])
    seen = locate_peaks(np.abs(iq), method="parabola", n_bubbles=2 * N_BUBBLES, min_score=8 * NOISE)
    pairs = match_bubbles(seen, expected, max_distance_px=4.0)
    # A bubble that is not seen by itself still stands in the way of its neighbours.
    places = expected.copy()
    places.loc[pairs["truth"], ["z", "x"]] = seen.loc[pairs["pred"], ["z", "x"]].to_numpy()
    return places


def surrogate(
    rng: np.random.Generator, *, n_jobs: int = 2
) -> tuple[NDArray[np.complex64], pd.DataFrame]:
    """Simulate frames (T, Z, X) on the fine grid and the places where their bubbles appear."""
    parts: list[NDArray] = []
    places: list[pd.DataFrame] = []
    for sign in (-1, 1):
        n_frames = N_FRAMES // 2
        tissue = dataclasses.replace(FINE, speed_m_s=SPEED_M_S * (1 + sign * SPEED_ERROR))
        bubbles = draw_bubbles(rng, n_frames)
        screens = phase_screens(rng, n_frames)
        clean = acquire(bubbles, n_frames, tissue, screens_ns=screens, n_jobs=n_jobs, progress=True)
        iq = clean * time_gain()[:, None] + receive_noise(rng, n_frames)
        table = apparent_places(iq, bubbles, tissue.speed_m_s)
        parts.append(iq.astype(np.complex64))
        places.append(table.assign(frame=table["frame"] + len(parts[0]) * len(places)))
    return np.concatenate(parts), pd.concat(places, ignore_index=True)


def lone_psf(number: int) -> NDArray[np.complex64]:
    """Image one bubble on pixels of half a wavelength, centred on the peak of its envelope."""
    rng = np.random.default_rng((SEED, number))
    place = rng.uniform(*zip(*LONE_WL, strict=True))
    tissue = dataclasses.replace(
        FINE,
        shape_px=(4 * ROOM_WL + 1, 4 * ROOM_WL + 1),
        origin_wl=tuple(place - ROOM_WL),
        speed_m_s=SPEED_M_S * (1 + rng.choice((-1, 1)) * SPEED_ERROR),
    )
    bubble = bubble_table([0], [2.0 * ROOM_WL], [2.0 * ROOM_WL], [1.0])
    iq = acquire(bubble, 1, tissue, screens_ns=phase_screens(rng, 1))
    fine = resample(PsfBank(iq, oversample=2, half_px=ROOM_WL), oversample=PEAK_SAMPLES).table[0]
    peak = locate_peaks(np.abs(fine)[None], method="parabola", n_bubbles=1, max_peaks_in_roi=25)
    grid = fine_grid(half_px=5, oversample=2)
    at = peak[["z", "x"]].to_numpy()
    return sample_patches(fine, at, PEAK_SAMPLES * grid)[0]


def lone_bank(source: str) -> PsfBank:
    """PSFs of bubbles that stand alone."""
    numbers = tqdm(range(N_LONE), unit="PSF")
    patches = joblib.Parallel(n_jobs=2)(joblib.delayed(lone_psf)(number) for number in numbers)
    table = shape_patches(np.stack(patches), fine_grid(half_px=5, oversample=2), floor_percent=0)
    return PsfBank(table, oversample=2, half_px=5, source=source)


def main() -> None:
    """Write both banks and print the widths of their PSFs."""
    rng = np.random.default_rng(SEED)
    iq, places = surrogate(rng)
    coarse = places.assign(z=places["z"] / 2, x=places["x"] / 2)
    origin = "an array simulation with aberration"
    bmode = extract_psfs(
        np.abs(iq[:, ::2, ::2]),
        n_psf=N_PSF,
        rng=rng,
        truth=coarse,
        source=f"B-mode of {origin}, attenuation and noise",
    )
    for name, bank in (
        ("psf_bank", bmode),
        ("psf_bank_iq", lone_bank(f"IQ of {origin} and attenuation")),
    ):
        path = write_bank(bank, SHIPPED_BANK.with_name(f"{name}.npz"))
        fine = resample(bank)
        widths = psf_width(fine.table, fine.oversample)
        z, x = np.quantile(widths, (0.1, 0.5, 0.9), axis=0).T.round(2).tolist()
        size_kb = path.stat().st_size / 1e3
        print(f"{path.name}: {len(bank)} PSFs, {size_kb:.0f} kB")
        print(f"    widths (10/50/90 %) along z {z} px, along x {x} px")


if __name__ == "__main__":
    main()
