r"""Bubbles, speckle and tissue to frames (Fig. 2e).

A bubble :math:`m` at :math:`(z_m, x_m)` with amplitude :math:`a_m`, phase :math:`\varphi_m` and the
PSF :math:`E_m` adds to the beamformed IQ

.. math:: a_m E_m(z - z_m, x - x_m) e^{i (\varphi_m - 4 \pi z_m / \lambda)},

and the B-mode is the modulus of the sum with the background. That equals the paper's way (section
II-D: an oscillation on each PSF, radio-frequency lines, envelope), which `literal_rf` takes, but
needs no grid finer than the pixels: the common carrier :math:`e^{i 4 \pi z / \lambda}` drops out
of the modulus.

Behind the bubbles lie speckle, constant as in the paper or changing, and in vivo moving tissue.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import fft, ndimage, signal

from ulmpaper.core.doors import optional
from ulmpaper.core.records import (
    bubble_table,
    check_bubbles,
    check_frames,
    check_positive,
    check_whole,
)
from ulmpaper.simulator.psf import PsfBank, fine_grid, linear_array_psf

with optional("simulate"):
    import torch

_COLUMNS = ("frame", "z", "x", "score", "psf", "phase")
_CHUNK_BUBBLES = 1024  # drawn at a time, so that memory does not grow with their number
_TISSUE_SPREAD = (0.5, 0.95)  # of a linear array's PSF along z and x [wavelengths]
_MOST_MOTION_PX = 1000  # tissue is made for the frame and all that moves into it
_TISSUE_SAMPLES = 2  # per wavelength, which carry the tissue's speckle


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
        Bubble table with amplitudes as `score` and the columns ``psf`` (row of the bank) and
        ``phase`` [rad]. Bubbles outside the picture are drawn as far as they reach into it.
    bank : PsfBank
        Their PSFs.
    shape_px : (int, int)
        Size of a frame (z, x) [px].
    n_frames : int
        Number of frames.
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
        Bubbles beyond the last frame or with a PSF that the bank lacks, background of another
        shape, no such device.

    Notes
    -----
    Positions are not rounded: each pixel takes the PSF at its own distance, bilinearly between the
    samples of the table. All pixels of a bubble lie at the same place between samples, so four
    tables of whole pixels are mixed.

    Examples
    --------
    >>> bubble = bubble_table([0], [7.0], [8.0], [0.5]).assign(psf=0, phase=0.0)
    >>> float(synthesize(bubble, linear_array_psf(), (16, 16), n_frames=1)[0, 7, 8])
    0.5
    """
    check_positive(n_frames=n_frames, z=shape_px[0], x=shape_px[1], batch_frames=batch_frames)
    torch_device = _check_device(device)
    with _one_thread():
        table = _check_drawing(bubbles, bank, shape_px, n_frames)
        still = _background_parts(background, n_frames, shape_px, torch_device)
        return _draw_frames(
            table,
            bank,
            still,
            shape_px,
            n_frames,
            iq=iq,
            device=torch_device,
            batch_frames=batch_frames,
        )


def literal_rf(
    bubbles: pd.DataFrame,
    bank: PsfBank,
    shape_px: tuple[int, int],
    *,
    n_frames: int,
    samples_per_wavelength: int = 8,
) -> NDArray[np.float32]:
    """Draw bubbles as the paper words it: oscillating PSFs, radio-frequency lines, envelope. Slow.

    Parameters
    ----------
    bubbles, bank, shape_px, n_frames
        As in `synthesize`.
    samples_per_wavelength : int
        Axial samples. The carrier has two periods in a wavelength, so 4 are too few.

    Returns
    -------
    ndarray (T, Z, X) float32
        B-mode amplitude, within 1 % of a bubble's peak of that of `synthesize`.

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
    # Room above and below, since the Hilbert transform is periodic.
    pad = 2 * bank.half_px
    z = np.arange(-pad * fine, (n_z + pad) * fine) / fine
    rf = np.zeros((n_frames, len(z), n_x))
    for frame, z_m, x_m, score, psf, phase in table[list(_COLUMNS)].itertuples(index=False):
        off_z = z - z_m
        off_x = np.arange(n_x) - x_m
        places = np.meshgrid(
            bank.oversample * (off_z + bank.half_px),
            bank.oversample * (off_x + bank.half_px),
            indexing="ij",
        )
        psf_here = ndimage.map_coordinates(bank.table[psf], places, order=1)
        carrier = np.exp(1j * (4 * np.pi * bank.px_wavelengths * off_z + phase))
        rf[frame] += score * np.real(psf_here * carrier[:, None])
    lines = signal.hilbert(rf, N=fft.next_fast_len(len(z)), axis=1)
    return np.abs(lines[:, pad * fine : (pad + n_z) * fine : fine]).astype(np.float32)


def add_oscillation(bank: PsfBank, *, phase_rad: ArrayLike = 0.0) -> NDArray[np.float32]:
    """Make radio-frequency PSFs: the bank's envelopes times the carrier along z.

    Parameters
    ----------
    bank : PsfBank
        Envelopes, or complex PSFs whose phase is added to the carrier's.
    phase_rad : float or array_like (n,)
        Phase of the carrier at the centre [rad].

    Returns
    -------
    ndarray (n, S, S)
        :math:`\\mathrm{Re}\\, E(z, x)\\, e^{i (4 \\pi z / \\lambda + \\varphi)}` on the grid of
        the bank.

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
        enough = int(np.ceil(8 * bank.px_wavelengths / 2)) * 2
        raise ValueError(
            f"{bank.oversample} samples per pixel of {bank.px_wavelengths:g} wavelengths are too "
            f"few for the carrier: take an oversample of {enough}"
        )
    turn = 4 * np.pi * bank.px_wavelengths * fine_grid(bank.half_px, bank.oversample)[:, None]
    phase = np.asarray(phase_rad, dtype=float).reshape(-1, 1, 1)
    if len(phase) not in (1, len(bank)) or not np.isfinite(phase).all():
        raise ValueError(f"phase_rad is one finite phase, or one for each of {len(bank)} PSFs")
    return np.real(bank.table * np.exp(1j * (turn + phase))).astype(np.float32)


def speckle(
    shape_px: tuple[int, int],
    *,
    rng: np.random.Generator,
    bank: PsfBank | None = None,
    density: float = 2.0,
    device: str = "cpu",
) -> NDArray[np.complex64]:
    """Make speckle of unresolved scatterers.

    Parameters
    ----------
    shape_px : (int, int)
        Size of a frame (z, x) [px].
    rng : numpy.random.Generator
        Source of positions and amplitudes.
    bank : PsfBank, optional
        PSFs, of which each scatterer takes one; by default `ulmpaper.simulator.linear_array_psf`.
    density : float
        Scatterers per pixel.
    device : str
        See `synthesize`.

    Returns
    -------
    ndarray (Z, X) complex64
        Amplitude with a root mean square of 1.

    Notes
    -----
    Paper, section II-D: a simulated PSF and "scatterers randomly positioned from a normal
    distribution". We take that as uniform positions and normal amplitudes; the density is ours.

    Examples
    --------
    >>> field = speckle((20, 30), rng=np.random.default_rng(0))
    >>> field.shape, round(float(np.mean(abs(field) ** 2)), 3)
    ((20, 30), 1.0)
    """
    check_positive(z=shape_px[0], x=shape_px[1], density=density)
    bank = bank or linear_array_psf()
    # Scatterers beside the picture reach into it.
    reach = bank.half_px + 0.5
    low = np.full(2, -reach)
    high = np.array(shape_px) - 1 + reach
    n = max(1, round(density * np.prod(high - low)))
    z, x = rng.uniform(low, high, (n, 2)).T
    scatterers = bubble_table(np.zeros(n), z, x, rng.standard_normal(n))
    scatterers = scatterers.assign(psf=rng.integers(len(bank), size=n), phase=0.0)
    drawn = synthesize(scatterers, bank, shape_px, n_frames=1, iq=True, device=device)
    field = drawn[0].cpu().numpy()
    return field / np.sqrt(np.mean(np.abs(field) ** 2))


def cut_speckle(
    speckle: NDArray[np.complex64],
    shape_px: tuple[int, int],
    n_frames: int,
    *,
    rng: np.random.Generator,
    memory: float = 1.0,
) -> NDArray[np.complex64]:
    """Cut frames of speckle from a larger field, which is quicker than making new ones.

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
    :math:`b_t = \\rho b_{t-1} + \\sqrt{1 - \\rho^2} n_t` with :math:`\\rho` the memory, where
    :math:`n_t` is cut at a random place, mirrored at random and turned by a random phase.

    Examples
    --------
    >>> field = np.ones((8, 8), dtype=np.complex64)
    >>> frames = cut_speckle(field, (4, 5), 3, rng=np.random.default_rng(0))
    >>> frames.shape, bool(np.ptp(frames, axis=0).max() == 0)
    ((3, 4, 5), True)
    """
    if not 0 <= memory <= 1:
        raise ValueError(f"memory is a correlation, 0 to 1, not {memory}")
    n_frames = check_whole(n_frames=n_frames)
    if np.ndim(speckle) != 2 or np.shape(shape_px) != (2,):
        raise ValueError(
            f"speckle and frames have two axes (z, x), not {speckle.shape} and {shape_px!r}"
        )
    shape_px = (check_whole(z=shape_px[0]), check_whole(x=shape_px[1]))
    room = [have - want for have, want in zip(speckle.shape, shape_px, strict=True)]
    if min(room) < 0:
        raise ValueError(
            f"a field of {speckle.shape} px holds no frame of {tuple(shape_px)} px: "
            "make a larger one"
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
    """Make speckle of tissue that breathes: bright, slow and coherent, to be added to IQ.

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
        Frequency of the motion [Hz].
    px_wavelengths : float
        Pixel pitch [wavelengths].

    Returns
    -------
    ndarray (T, Z, X) complex64
        IQ whose phase turns by :math:`-4 \\pi / \\lambda` for each length moved in depth.

    Notes
    -----
    The motion grows with depth, from three quarters of its amplitude in the middle to five
    quarters, so that the tissue is stretched and fills more than one singular component of
    `ulmpaper.core.svd_filter`. Ours; the paper filters real data (section III).

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> iq = tissue_clutter((20, 30), 5, rng=rng, frame_rate_hz=1000.0, level_db=20.0)
    >>> iq.shape, round(float(np.sqrt(np.mean(abs(iq) ** 2))))
    ((5, 20, 30), 10)
    """
    check_positive(z=shape_px[0], x=shape_px[1], n_frames=n_frames, frame_rate_hz=frame_rate_hz)
    check_positive(motion_px=motion_px, breathing_hz=breathing_hz, px_wavelengths=px_wavelengths)
    if motion_px > _MOST_MOTION_PX:
        raise ValueError(f"motion_px must be {_MOST_MOTION_PX} or less, not {motion_px:g}")
    fine = max(1, int(np.ceil(_TISSUE_SAMPLES * px_wavelengths)))
    # Room for the motion, so that no edge comes into the picture.
    room = int(np.ceil(2 * motion_px)) + 2
    size = [fine * (n + 2 * room) for n in shape_px]
    white = rng.standard_normal((2, *size))
    spread = [fine * s / px_wavelengths for s in _TISSUE_SPREAD]
    field = ndimage.gaussian_filter(white, (0, *spread), mode="wrap")
    field /= np.sqrt(2 * np.mean(field**2))
    real_spline, imag_spline = (ndimage.spline_filter(part, mode="mirror") for part in field)
    z, x = np.mgrid[: shape_px[0], : shape_px[1]].astype(np.float64)
    stretch = 0.75 + 0.5 * z / shape_px[0]
    breath = np.sin(2 * np.pi * (breathing_hz * np.arange(n_frames) / frame_rate_hz + rng.random()))
    frames = np.empty((n_frames, *shape_px), dtype=np.complex64)
    for frame, now in zip(frames, breath, strict=True):
        moved = motion_px * now * stretch
        places = [fine * (z - moved + room), fine * (x - moved / 3 + room)]
        real = ndimage.map_coordinates(real_spline, places, order=3, prefilter=False)
        imag = ndimage.map_coordinates(imag_spline, places, order=3, prefilter=False)
        frame[:] = (real + 1j * imag) * np.exp(-4j * np.pi * px_wavelengths * moved)
    return frames * np.float32(10 ** (level_db / 20))


# --- drawing -----------------------------------------------------------------------------------


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Let torch use one thread: memory is the limit, and more are far slower on busy cores."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n_threads)


def _draw_frames(
    table: pd.DataFrame,
    bank: PsfBank,
    still: torch.Tensor,
    shape_px: tuple[int, int],
    n_frames: int,
    *,
    iq: bool,
    device: torch.device,
    batch_frames: int,
) -> torch.Tensor:
    """Frames (T, Z, X): each batch of them starts as the background, and bubbles are added."""
    n_z, n_x = shape_px
    margin = 2 * bank.half_px  # room for the bubbles at the border
    first = np.searchsorted(table["frame"], np.arange(n_frames + 1)).tolist()
    index, weights, corner = (part.to(device) for part in _splats(table, bank, shape_px, margin))
    rows = _pixel_tables(bank, device)

    # Places of a patch's pixels on the flat canvas, from its corner, in both of its parts.
    window = torch.arange(2 * bank.half_px + 1)
    inside = window[:, None] * (n_x + 2 * margin) + window
    plane = (n_z + 2 * margin) * (n_x + 2 * margin)
    pixels = torch.stack([inside.reshape(-1), plane + inside.reshape(-1)]).to(device)

    dtype = torch.complex64 if iq else torch.float32
    frames = torch.empty((n_frames, n_z, n_x), dtype=dtype, device=device)
    canvas = torch.zeros((batch_frames, 2, n_z + 2 * margin, n_x + 2 * margin), device=device)
    flat = canvas.view(-1)
    for start in range(0, n_frames, batch_frames):
        part = frames[start : start + batch_frames]
        seen = canvas[: len(part), :, margin:-margin, margin:-margin]
        seen.copy_(still[start : start + len(part)] if len(still) > 1 else still)
        last = first[start + len(part)]
        for k in range(first[start], last, _CHUNK_BUBBLES):
            chunk = slice(k, min(k + _CHUNK_BUBBLES, last))
            patches = torch.bmm(weights[chunk], rows[index[chunk]])
            at = corner[chunk] - 2 * plane * start
            flat.scatter_add_(0, (at[:, None, None] + pixels).reshape(-1), patches.reshape(-1))
        if iq:
            part.copy_(torch.complex(seen[:, 0], seen[:, 1]))
        else:
            seen.square_()
            _root_(torch.add(seen[:, 0], seen[:, 1], out=part))
    return frames


def _splats(
    table: pd.DataFrame, bank: PsfBank, shape_px: tuple[int, int], margin: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each bubble's rows of `_pixel_tables`, their weights in both parts, its canvas corner."""
    z, x, score, psf, phase = (table[name].to_numpy() for name in _COLUMNS[1:])
    q = bank.oversample
    pixel_z = np.floor(z + 0.5)
    pixel_x = np.floor(x + 0.5)
    # Place of the bubble in its pixel, 0 to q samples: a whole sample below and a fraction.
    shift_z = q * (pixel_z - z + 0.5)
    shift_x = q * (pixel_x - x + 0.5)
    low_z = np.minimum(shift_z.astype(int), q - 1)
    low_x = np.minimum(shift_x.astype(int), q - 1)
    part_z = shift_z - low_z
    part_x = shift_x - low_x
    # Four neighbouring rows, mixed bilinearly.
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
    real = mix * (score * np.cos(turn))[:, None]
    imag = mix * (score * np.sin(turn))[:, None]
    if np.iscomplexobj(bank.table):
        # The rows of the PSFs' imaginary parts follow those of their real parts.
        index = np.concatenate([index, index + len(bank) * (q + 1) ** 2], axis=1)
        to_real = np.concatenate([real, -imag], axis=1)
        to_imag = np.concatenate([imag, real], axis=1)
        weights = np.stack([to_real, to_imag], axis=1)
    else:
        weights = np.stack([real, imag], axis=1)
    # Each frame has two planes on the canvas, for its real and its imaginary part.
    n_z, n_x = (n + 2 * margin for n in shape_px)
    top = pixel_z.astype(int) + margin - bank.half_px
    left = pixel_x.astype(int) + margin - bank.half_px
    corner = (2 * table["frame"].to_numpy(np.int64) * n_z + top) * n_x + left
    return (
        torch.from_numpy(index),
        torch.from_numpy(weights.astype(np.float32)),
        torch.from_numpy(corner),
    )


@functools.lru_cache(maxsize=32)
def _pixel_tables(bank: PsfBank, device: torch.device) -> torch.Tensor:
    """Each PSF on whole pixels, a row for each of (q + 1)^2 places in a pixel; see `_splats`."""
    q = bank.oversample
    side = 2 * bank.half_px + 1
    padded = np.pad(bank.table, ((0, 0), (q // 2, q // 2), (q // 2, q // 2)))
    take = np.arange(q + 1)[:, None] + q * np.arange(side)
    rows = padded[:, take[:, None, :, None], take[None, :, None, :]].reshape(-1, side * side)
    parts = [rows.real, rows.imag] if np.iscomplexobj(rows) else [rows]
    return torch.from_numpy(np.concatenate(parts)).to(device)


def _root_(values: torch.Tensor) -> torch.Tensor:
    """Take the square root in place."""
    if values.device.type != "cpu":
        return values.sqrt_()
    # numpy's is exact whatever the alignment, and torch's is ten times slower on zeros.
    np.sqrt(values.numpy(), out=values.numpy())
    return values


# --- checks ------------------------------------------------------------------------------------


def _check_device(device: str) -> torch.device:
    """Device by its name, if torch has it."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"there is no device {device!r}, torch sees no CUDA device: use device='cpu'"
        )
    try:
        return torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"there is no device {device!r}: take cpu or cuda") from error


def _check_drawing(
    bubbles: pd.DataFrame, bank: PsfBank, shape_px: tuple[int, int], n_frames: int
) -> pd.DataFrame:
    """Bubbles that reach into the picture, ordered by frame."""
    table = check_bubbles(bubbles, columns=_COLUMNS)
    if len(table):
        last = table["frame"].max()
        if table["frame"].min() < 0 or last >= n_frames:
            raise ValueError(
                f"the table goes up to frame {last}, "
                f"but with n_frames {n_frames} the last is {n_frames - 1}"
            )
        low = table["psf"].min()
        high = table["psf"].max()
        if low < 0 or high >= len(bank):
            raise ValueError(
                f"bubbles ask for PSFs {low} to {high}, "
                f"but the bank holds {len(bank)}, counted from 0"
            )
    reach = bank.half_px + 0.5
    n_z, n_x = shape_px
    seen_z = (table["z"] >= -reach) & (table["z"] < n_z - 1 + reach)
    seen_x = (table["x"] >= -reach) & (table["x"] < n_x - 1 + reach)
    return table[seen_z & seen_x].sort_values("frame", kind="stable")


def _background_parts(
    background: ArrayLike | None, n_frames: int, shape_px: tuple[int, int], device: torch.device
) -> torch.Tensor:
    """Real and imaginary part (1 or T, 2, Z, X) of the background."""
    values = np.zeros(shape_px) if background is None else np.asarray(background)
    if values.ndim == 2:
        values = values[None]
    values = check_frames(values, what="background", allow_complex=True)
    if values.shape[1:] != tuple(shape_px) or len(values) not in (1, n_frames):
        raise ValueError(
            f"background must have the shape {shape_px} or {(n_frames, *shape_px)}, "
            f"not {values.shape}"
        )
    parts = np.stack([values.real, values.imag], axis=1).astype(np.float32)
    return torch.from_numpy(parts).to(device)
