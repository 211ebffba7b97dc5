r"""Bubbles, speckle and tissue to frames (Fig. 2e).

A bubble :math:`m` at :math:`(z_m, x_m)` with amplitude :math:`a_m`, phase :math:`\varphi_m` and the PSF
:math:`E_m` adds to the beamformed IQ

.. math:: a_m E_m(z - z_m, x - x_m) e^{i (\varphi_m - 4 \pi z_m / \lambda)},

and the B-mode is the modulus of the sum with the background. That equals the paper's way (section II-D: an oscillation
on each PSF, radio-frequency lines, envelope), which `literal_rf` takes, but needs no grid finer than the pixels: the
common carrier :math:`e^{i 4 \pi z / \lambda}` drops out of the modulus.

What else than bubbles is in the frames: speckle that changes, tissue that moves, noise.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage, signal

from ulmpaper.core.records import bubble_table, check_bubbles, check_frames, check_positive
from ulmpaper.simulator.psf import PsfBank, fine_grid, linear_array_psf

_COLUMNS = ("frame", "z", "x", "score", "psf", "phase")
# Bubbles drawn at a time, so that memory does not grow with their number.
_CHUNK_BUBBLES = 1024


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    n_threads = torch.get_num_threads()
    torch.set_num_threads(
        1
    )  # memory is the limit: more are no faster, and far slower where cores are busy
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


@_one_thread()
def synthesize(
    bubbles: pd.DataFrame,
    bank: PsfBank,
    shape_px: tuple[int, int],
    *,
    n_frames: int,
    background: ArrayLike | None = None,
    iq: bool = False,
    device: str = "cpu",
    batch_frames: int = 4,
) -> torch.Tensor:
    """Draw bubbles into frames.

    Parameters
    ----------
    bubbles : DataFrame
        Bubble table with amplitudes as `score` and the columns ``psf`` (row of the bank) and ``phase`` [rad]. Bubbles
        outside the picture are drawn as far as they reach into it.
    bank : PsfBank
        Their PSFs.
    shape_px, n_frames : (int, int), int
        Size of a frame (z, x) [px], and number of frames.
    background : array_like (Z, X) or (T, Z, X), optional
        Complex amplitude added to each frame.
    iq : bool
        Return complex IQ, without the carrier, instead of B-mode.
    device : str
        Where torch computes: ``cpu`` or ``cuda``.
    batch_frames : int
        Frames drawn together. On the CPU the result does not depend on it, to the last bit.

    Returns
    -------
    torch.Tensor (T, Z, X)
        float32 amplitude or complex64 IQ, on `device`.

    Raises
    ------
    ValueError
        Bubbles beyond the last frame or with a PSF that the bank lacks, background of another shape, no such device.

    Notes
    -----
    Positions are not rounded: each pixel takes the PSF at its own distance, bilinearly between the samples of the
    table. All pixels of a bubble lie at the same place between samples, so four tables of whole pixels are mixed.

    Examples
    --------
    >>> bubble = bubble_table([0], [7.0], [8.0], [0.5]).assign(psf=0, phase=0.0)
    >>> float(synthesize(bubble, linear_array_psf(), (16, 16), n_frames=1)[0, 7, 8])
    0.5
    """
    check_positive(n_frames=n_frames, z=shape_px[0], x=shape_px[1], batch_frames=batch_frames)
    where = _check_device(device)
    n_z, n_x = shape_px
    margin = 2 * bank.half_px
    table = _check_drawing(bubbles, bank, shape_px, n_frames)
    first = np.searchsorted(table["frame"], np.arange(n_frames + 1)).tolist()
    index, weights, corner = (part.to(where) for part in _splats(table, bank, shape_px, margin))
    rows = _pixel_tables(bank, where)
    window = torch.arange(2 * bank.half_px + 1)
    inside = window[:, None] * (n_x + 2 * margin) + window
    plane = (n_z + 2 * margin) * (n_x + 2 * margin)
    pixels = torch.stack([inside.reshape(-1), plane + inside.reshape(-1)]).to(where)
    frames = torch.empty(
        (n_frames, n_z, n_x), dtype=torch.complex64 if iq else torch.float32, device=where
    )
    still = _background_parts(background, n_frames, shape_px, where)
    canvas = torch.zeros((batch_frames, 2, n_z + 2 * margin, n_x + 2 * margin), device=where)
    for start in range(0, n_frames, batch_frames):
        part = frames[start : start + batch_frames]
        flat, shown = canvas.view(-1), canvas[: len(part), :, margin:-margin, margin:-margin]
        shown.copy_(still[start : start + len(part)] if len(still) > 1 else still)
        last = first[start + len(part)]
        for k in range(first[start], last, _CHUNK_BUBBLES):
            chunk = slice(k, min(k + _CHUNK_BUBBLES, last))
            patches = torch.bmm(weights[chunk], rows[index[chunk]])
            at = corner[chunk] - 2 * plane * start
            flat.scatter_add_(0, (at[:, None, None] + pixels).reshape(-1), patches.reshape(-1))
        if iq:
            part.copy_(torch.complex(shown[:, 0], shown[:, 1]))
        else:
            shown.square_()
            _root_(torch.add(shown[:, 0], shown[:, 1], out=part))
    return frames


def speckle(
    shape_px: tuple[int, int],
    *,
    rng: np.random.Generator,
    bank: PsfBank | None = None,
    density: float = 2.0,
    device: str = "cpu",
) -> NDArray[np.complex64]:
    """Speckle of unresolved scatterers.

    Parameters
    ----------
    shape_px : (int, int)
        Size of a frame (z, x) [px].
    rng : numpy.random.Generator
        Source of positions and amplitudes.
    bank : PsfBank, optional
        PSFs, each scatterer takes one; by default `linear_array_psf`.
    density, device : float, str
        Scatterers per pixel; see `synthesize`.

    Returns
    -------
    ndarray (Z, X) complex64
        Amplitude with a root mean square of 1.

    Notes
    -----
    Paper, section II-D: a simulated PSF and "scatterers randomly positioned from a normal distribution". We take that
    as uniform positions and normal amplitudes; the density is ours.

    Examples
    --------
    >>> speckle = speckle((20, 30), rng=np.random.default_rng(0))
    >>> speckle.shape, round(float(np.mean(abs(speckle) ** 2)), 3)
    ((20, 30), 1.0)
    """
    check_positive(z=shape_px[0], x=shape_px[1], density=density)
    bank = bank or linear_array_psf()
    # Scatterers beside the picture reach into it.
    reach = bank.half_px + 0.5
    low, high = np.full(2, -reach), np.array(shape_px) - 1 + reach
    n = max(1, round(density * np.prod(high - low)))
    z, x = rng.uniform(low, high, (n, 2)).T
    scatterers = bubble_table(np.zeros(n), z, x, rng.standard_normal(n))
    scatterers = scatterers.assign(psf=rng.integers(len(bank), size=n), phase=0.0)
    speckle = (
        synthesize(scatterers, bank, shape_px, n_frames=1, iq=True, device=device)[0].cpu().numpy()
    )
    return speckle / np.sqrt(np.mean(np.abs(speckle) ** 2))


def literal_rf(
    bubbles: pd.DataFrame,
    bank: PsfBank,
    shape_px: tuple[int, int],
    *,
    n_frames: int,
    samples_per_wavelength: int = 8,
) -> NDArray[np.float32]:
    """Draw bubbles in the paper's words: oscillating PSFs, radio-frequency lines, envelope. Slow.

    Parameters
    ----------
    bubbles, bank, shape_px, n_frames
        As in `synthesize`.
    samples_per_wavelength : int
        Axial samples. The carrier has two periods in a wavelength, so 4 are too few.

    Returns
    -------
    ndarray (T, Z, X) float32
        B-mode amplitude, at most 1 % of a bubble's peak from that of `synthesize`.

    Examples
    --------
    >>> bubble = bubble_table([0], [7.3], [8.0], [1.0]).assign(psf=0, phase=1.0)
    >>> slow = literal_rf(bubble, linear_array_psf(), (16, 16), n_frames=1)
    >>> fast = synthesize(bubble, linear_array_psf(), (16, 16), n_frames=1).numpy()
    >>> bool(abs(slow - fast).max() < 0.01)
    True
    """
    table = _check_drawing(bubbles, bank, shape_px, n_frames)
    check_positive(samples_per_wavelength=samples_per_wavelength)
    n_z, n_x = shape_px
    fine = max(1, round(samples_per_wavelength * bank.px_wavelengths))
    # Room above and below, for the Hilbert transform is periodic.
    pad = 2 * bank.half_px
    z = np.arange(-pad * fine, (n_z + pad) * fine) / fine
    rf = np.zeros((n_frames, len(z), n_x))
    for frame, z_m, x_m, score, psf, phase in table[list(_COLUMNS)].itertuples(index=False):
        off_z, off_x = z - z_m, np.arange(n_x) - x_m
        places = np.meshgrid(
            *(bank.oversample * (off + bank.half_px) for off in (off_z, off_x)), indexing="ij"
        )
        psf_here = ndimage.map_coordinates(bank.table[psf], places, order=1)
        carrier = np.exp(1j * (4 * np.pi * bank.px_wavelengths * off_z + phase))
        rf[frame] += score * np.real(psf_here * carrier[:, None])
    lines = signal.hilbert(rf, N=fft.next_fast_len(len(z)), axis=1)
    return np.abs(lines[:, pad * fine : (pad + n_z) * fine : fine]).astype(np.float32)


def _check_device(device: str) -> torch.device:
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"device {device!r} was asked for, but torch sees no CUDA device: use device='cpu'"
        )
    return torch.device(device)


def _root_(values: torch.Tensor) -> torch.Tensor:
    """Square root in place."""
    if values.device.type != "cpu":
        return values.sqrt_()
    # numpy's is exact whatever the alignment, and torch's is ten times slower on zeros.
    np.sqrt(values.numpy(), out=values.numpy())
    return values


@functools.lru_cache(maxsize=16)
def _pixel_tables(bank: PsfBank, device: torch.device) -> torch.Tensor:
    """Values of each PSF on whole pixels, one row for each of the (q + 1)^2 sub-pixel places; see `_splats`."""
    q, side = bank.oversample, 2 * bank.half_px + 1
    padded = np.pad(bank.table, ((0, 0), (q // 2, q // 2), (q // 2, q // 2)))
    take = np.arange(q + 1)[:, None] + q * np.arange(side)
    rows = padded[:, take[:, None, :, None], take[None, :, None, :]].reshape(-1, side * side)
    parts = [rows.real, rows.imag] if np.iscomplexobj(rows) else [rows]
    return torch.from_numpy(np.concatenate(parts)).to(device)


def _splats(
    table: pd.DataFrame, bank: PsfBank, shape_px: tuple[int, int], margin: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """For each bubble the rows of `_pixel_tables` to mix, their weights for both parts, its corner on the canvas."""
    z, x, score, psf, phase = (table[name].to_numpy() for name in _COLUMNS[1:])
    q = bank.oversample
    pixel_z, pixel_x = np.floor(z + 0.5), np.floor(x + 0.5)
    # From the sample below the first pixel's place, in samples; the place is within half a pixel of the centre.
    shift_z, shift_x = q * (pixel_z - z + 0.5), q * (pixel_x - x + 0.5)
    low_z, low_x = (np.minimum(shift.astype(int), q - 1) for shift in (shift_z, shift_x))
    part_z, part_x = shift_z - low_z, shift_x - low_x
    first = (psf.astype(int) * (q + 1) + low_z) * (q + 1) + low_x
    index = first[:, None] + [0, 1, q + 1, q + 2]
    mix = np.stack(
        [
            (1 - part_z) * (1 - part_x),
            (1 - part_z) * part_x,
            part_z * (1 - part_x),
            part_z * part_x,
        ],
        axis=1,
    )
    turn = phase - 4 * np.pi * bank.px_wavelengths * z
    real, imag = mix * (score * np.cos(turn))[:, None], mix * (score * np.sin(turn))[:, None]
    if np.iscomplexobj(bank.table):
        index = np.concatenate([index, index + len(bank) * (q + 1) ** 2], axis=1)
        weights = np.stack(
            [np.concatenate([real, -imag], axis=1), np.concatenate([imag, real], axis=1)], axis=1
        )
    else:
        weights = np.stack([real, imag], axis=1)
    n_z, n_x = (n + 2 * margin for n in shape_px)
    top, left = (
        pixel_z.astype(int) + margin - bank.half_px,
        pixel_x.astype(int) + margin - bank.half_px,
    )
    corner = (2 * table["frame"].to_numpy(np.int64) * n_z + top) * n_x + left
    return (
        torch.from_numpy(index),
        torch.from_numpy(weights.astype(np.float32)),
        torch.from_numpy(corner),
    )


def _check_drawing(
    bubbles: pd.DataFrame, bank: PsfBank, shape_px: tuple[int, int], n_frames: int
) -> pd.DataFrame:
    """Those bubbles, ordered by frame, that reach into the picture."""
    table = check_bubbles(bubbles, columns=_COLUMNS)
    if len(table):
        last, low, high = table["frame"].max(), table["psf"].min(), table["psf"].max()
        if table["frame"].min() < 0 or last >= n_frames:
            raise ValueError(
                f"the table goes up to frame {last}, but with n_frames {n_frames} the last is {n_frames - 1}"
            )
        if low < 0 or high >= len(bank):
            raise ValueError(
                f"bubbles ask for PSFs {low} to {high}, but the bank holds {len(bank)}, counted from 0"
            )
    reach = bank.half_px + 0.5
    (n_z, n_x), z, x = shape_px, table["z"], table["x"]
    seen = (z >= -reach) & (z < n_z - 1 + reach) & (x >= -reach) & (x < n_x - 1 + reach)
    return table[seen].sort_values("frame", kind="stable")


def _background_parts(
    background: ArrayLike | None, n_frames: int, shape_px: tuple[int, int], device: torch.device
) -> torch.Tensor:
    """Real and imaginary part (1 or T, 2, Z, X)."""
    values = np.zeros(shape_px) if background is None else np.asarray(background)
    values = check_frames(
        values[None] if values.ndim == 2 else values, what="background", allow_complex=True
    )
    if values.shape[1:] != tuple(shape_px) or len(values) not in (1, n_frames):
        raise ValueError(
            f"background must have the shape {shape_px} or {(n_frames, *shape_px)}, not {values.shape}"
        )
    return torch.from_numpy(np.stack([values.real, values.imag], axis=1).astype(np.float32)).to(
        device
    )


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
        raise ValueError(
            f"a field of {speckle.shape} px holds no frame of {tuple(shape_px)} px: make a larger one"
        )
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


def pala_noise(
    frames: ArrayLike, clutter_db: float, *, rng: np.random.Generator
) -> NDArray[np.float32]:
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
        real, imag = (
            ndimage.map_coordinates(part, places, order=3, prefilter=False) for part in splines
        )
        frame[:] = (real + 1j * imag) * np.exp(-4j * np.pi * px_wavelengths * moved)
    return frames * np.float32(10 ** (level_db / 20))


def add_oscillation(bank: PsfBank, *, phase_rad: ArrayLike = 0.0) -> NDArray[np.float32]:
    """Radio-frequency PSFs: the bank's envelopes times the carrier along z.

    Parameters
    ----------
    bank : PsfBank
        Envelopes, or complex PSFs whose phase is added to the carrier's.
    phase_rad : float or array_like (n,)
        Phase of the carrier at the centre [rad].

    Returns
    -------
    ndarray (n, S, S)
        :math:`\\mathrm{Re}\\, E(z, x)\\, e^{i (4 \\pi z / \\lambda + \\varphi)}` on the bank's grid.

    Raises
    ------
    ValueError
        The grid is too coarse for a carrier, whose period in depth is half a wavelength.

    Notes
    -----
    Paper, section II-D: "we introduced an oscillation to the PSFs".

    Examples
    --------
    >>> add_oscillation(linear_array_psf())[0, 40, 40]
    np.float32(1.0)
    """
    if bank.oversample < 6 * bank.px_wavelengths:
        raise ValueError(
            f"{bank.oversample} samples per pixel of {bank.px_wavelengths:g} wavelengths are too few for the carrier: "
            f"take an oversample of {int(np.ceil(8 * bank.px_wavelengths / 2)) * 2}"
        )
    turn = 4 * np.pi * bank.px_wavelengths * fine_grid(bank.half_px, bank.oversample)[:, None]
    phase = np.asarray(phase_rad, dtype=float).reshape(-1, 1, 1)
    return np.real(bank.table * np.exp(1j * (turn + phase))).astype(np.float32)
