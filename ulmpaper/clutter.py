"""What else than bubbles is in the frames: speckle that changes, tissue that moves, noise."""

from __future__ import annotations

import itertools
import math

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ulmpaper.records import check_frames, check_positive

# PALA draws its noise with -2 dBW into 0.2 ohm.
_PALA_SPREAD = np.sqrt(0.2 * 10**-0.2)
_PALA_BLUR_PX = 1.5
_PALA_NOISE_DB = 10.0
# Axial and lateral spread of a linear array's PSF [wavelengths]; samples per wavelength that carry the speckle.
_SPREAD = (0.5, 0.95)
_SAMPLES = 2


def cut_speckle(
    speckle: NDArray[np.complex64],
    shape_px: tuple[int, int],
    n_frames: int,
    *,
    rng: np.random.Generator,
    memory: float = 1.0,
) -> NDArray[np.complex64]:
    """Cut frames of speckle from a larger field, which is quicker than to make new ones.

    Parameters
    ----------
    speckle : ndarray (Z', X') complex64
        Field at least as large as a frame.
    shape_px : (int, int)
        Size of a frame (z, x) [px].
    n_frames : int
        Number of frames.
    rng : numpy.random.Generator
        Source of places, mirrorings and phases.
    memory : float
        Correlation of one frame with the next, 0 to 1.

    Returns
    -------
    ndarray (T, Z, X) complex64
        Frames as bright as the field.

    Notes
    -----
    :math:`b_t = \\rho b_{t-1} + \\sqrt{1 - \\rho^2} n_t`, where :math:`n_t` is cut at a random place, mirrored at
    random and turned by a random phase.

    Examples
    --------
    >>> field = np.ones((8, 8), dtype=np.complex64)
    >>> frames = cut_speckle(field, (4, 5), 3, rng=np.random.default_rng(0))
    >>> frames.shape, bool(np.ptp(frames, axis=0).max() == 0)
    ((3, 4, 5), True)
    """
    if not 0 <= memory <= 1:
        raise ValueError(f"memory is a correlation, 0 to 1, not {memory}")
    room = [have - want for have, want in zip(speckle.shape, shape_px, strict=True)]
    if min(room) < 0:
        raise ValueError(f"a field of {speckle.shape} px holds no frame of {tuple(shape_px)} px: make a larger one")
    frames = np.empty((n_frames, *shape_px), dtype=np.complex64)
    for frame in frames:
        z, x = (int(rng.integers(r + 1)) for r in room)
        mirror = tuple(slice(None, None, int(step)) for step in rng.choice([-1, 1], 2))
        turn = np.exp(2j * np.pi * rng.random())
        frame[:] = turn * speckle[z : z + shape_px[0], x : x + shape_px[1]][mirror]
    for before, frame in itertools.pairwise(frames):
        frame *= math.sqrt(1 - memory**2)
        frame += memory * before
    return frames


def pala_noise(frames: ArrayLike, clutter_db: float, *, rng: np.random.Generator) -> NDArray[np.float32]:
    """Add noise as PALA does to its simulated frames.

    Parameters
    ----------
    frames : array_like (T, Z, X)
        IQ or B-mode of one block.
    clutter_db : float
        Level :math:`c` relative to the block's maximum [dB]; PALA takes -60 to -10.
    rng : numpy.random.Generator
        Source of the noise.

    Returns
    -------
    ndarray (T, Z, X) float32
        Noisy amplitude. Some pixels may fall below 0, as in PALA.

    Notes
    -----
    With :math:`M` the maximum of :math:`|IQ|`, PALA's ``PALA_AddNoiseInIQ`` gives
    :math:`|IQ| + G * (M 10^{c/20} + n M 10^{(c + 10)/20})`: :math:`n` is white with a variance of
    :math:`0.2 \\cdot 10^{-0.2}` and :math:`G` a Gaussian of 1.5 px (7 x 7), frame by frame.

    Examples
    --------
    >>> noisy = pala_noise(np.ones((50, 20, 20)), -30, rng=np.random.default_rng(0))
    >>> round(float(noisy.mean()), 2)
    1.03
    """
    amplitude = np.abs(check_frames(frames, allow_complex=True)).astype(np.float32)
    if not np.isfinite(clutter_db):
        raise ValueError(f"clutter_db must be a number, not {clutter_db}")
    top = float(amplitude.max())
    spread = np.float32(_PALA_SPREAD * top * 10 ** ((clutter_db + _PALA_NOISE_DB) / 20))
    for frame in amplitude:
        noise = spread * rng.standard_normal(frame.shape, dtype=np.float32)
        # 7 x 7 samples and the edge repeated outwards, as in MATLAB's imgaussfilt.
        frame += ndimage.gaussian_filter(noise, _PALA_BLUR_PX, mode="nearest", radius=3)
    amplitude += np.float32(top * 10 ** (clutter_db / 20))
    return amplitude


def tissue_clutter(
    shape_px: tuple[int, int],
    n_frames: int,
    *,
    rng: np.random.Generator,
    frame_rate_hz: float,
    level_db: float = 30.0,
    motion_px: float = 0.3,
    breathing_hz: float = 1.5,
    px_wavelengths: float = 1.0,
) -> NDArray[np.complex64]:
    """Speckle of tissue that breathes: bright, slow and coherent, to be added to IQ.

    Parameters
    ----------
    shape_px : (int, int)
        Size of a frame (z, x) [px].
    n_frames : int
        Number of frames.
    rng : numpy.random.Generator
        Source of the speckle and of the phase of the breathing.
    frame_rate_hz : float
        Frames per second [Hz].
    level_db : float
        Root mean square over an amplitude of 1 [dB].
    motion_px : float
        Amplitude of the motion in depth in the middle of the image [px]; a third of it across.
    breathing_hz : float
        Its frequency [Hz].
    px_wavelengths : float
        Pixel pitch [wavelengths].

    Returns
    -------
    ndarray (T, Z, X) complex64
        IQ whose phase turns by :math:`-4 \\pi / \\lambda` for each length moved in depth.

    Notes
    -----
    The motion grows with depth by half from top to bottom, so that the tissue is stretched and fills more than one
    singular component of `filters.svd_filter`. Ours; the paper filters real data (section III).

    Examples
    --------
    >>> iq = tissue_clutter((20, 30), 5, rng=np.random.default_rng(0), frame_rate_hz=1000.0, level_db=20.0)
    >>> iq.shape, round(float(np.sqrt(np.mean(abs(iq) ** 2))))
    ((5, 20, 30), 10)
    """
    check_positive(z=shape_px[0], x=shape_px[1], n_frames=n_frames, frame_rate_hz=frame_rate_hz)
    check_positive(motion_px=motion_px, breathing_hz=breathing_hz, px_wavelengths=px_wavelengths)
    fine = max(1, int(np.ceil(_SAMPLES * px_wavelengths)))
    # Room for the motion, so that no edge comes into the picture.
    room = int(np.ceil(2 * motion_px)) + 2
    size = [fine * (n + 2 * room) for n in shape_px]
    white = rng.standard_normal((2, *size))
    spread = [fine * s / px_wavelengths for s in _SPREAD]
    speckle = ndimage.gaussian_filter(white, (0, *spread), mode="wrap")
    speckle /= np.sqrt(2 * np.mean(speckle**2))
    splines = [ndimage.spline_filter(part, mode="mirror") for part in speckle]
    z, x = np.mgrid[: shape_px[0], : shape_px[1]].astype(np.float64)
    stretch = 0.75 + 0.5 * z / shape_px[0]
    breath = np.sin(2 * np.pi * (breathing_hz * np.arange(n_frames) / frame_rate_hz + rng.random()))
    frames = np.empty((n_frames, *shape_px), dtype=np.complex64)
    for frame, now in zip(frames, breath, strict=True):
        moved = motion_px * now * stretch
        places = [fine * (z - moved + room), fine * (x - moved / 3 + room)]
        real, imag = (ndimage.map_coordinates(part, places, order=3, prefilter=False) for part in splines)
        frame[:] = (real + 1j * imag) * np.exp(-4j * np.pi * px_wavelengths * moved)
    return frames * np.float32(10 ** (level_db / 20))
