"""Training data: bubbles drift through a vessel mask and are drawn with PSFs over a background of speckle.

Everything random comes from the generator `rng`, so a seed gives the same bubbles on every machine.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ulmpaper.bank import PsfBank, linear_array_psf, resample
from ulmpaper.clutter import cut_speckle
from ulmpaper.records import Block, bubble_table, check_bubbles, check_choice, check_positive
from ulmpaper.synthesis import background, synthesize

MEAN_AMPLITUDE = 0.75  # of the bubbles, whatever the distribution
_LOG_SPREAD = 0.35
_STILL_PX = 1e-4  # slower pixels have no flow [px/frame]


def advect(
    mask: ArrayLike,
    maps: ArrayLike,
    *,
    n_frames: int,
    n_bubbles: int | tuple[int, int],
    rng: np.random.Generator,
    n_psf: int = 1,
    amplitude: str = "uniform",
    mean_life: float = 400.0,
) -> pd.DataFrame:
    """Let bubbles drift along displacement maps.

    Parameters
    ----------
    mask : array_like (Z, X) of bool
        Where vessels are.
    maps : array_like (2, Z, X)
        Displacement along z and x [px/frame].
    n_frames : int
        Length of the sequence.
    n_bubbles : int or (int, int)
        Bubbles alive in each frame, or the range (both ends included) from which the sequence draws it.
    rng : numpy.random.Generator
        Source of every random number.
    n_psf : int
        Size of the bank from which each bubble takes a PSF, for life.
    amplitude : {"uniform", "lognormal"}
        Distribution of the amplitudes: 0.5 to 1, or log-normal with the spread 0.35, both of mean 0.75.
    mean_life : float
        Mean number of frames after which a bubble is replaced.

    Returns
    -------
    DataFrame
        Bubble table with the amplitude as `score` and the columns ``bubble`` (identity), ``psf`` and ``phase`` [rad],
        which a bubble keeps for life. Ordered by frame.

    Raises
    ------
    ValueError
        Empty mask, maps of another shape or with NaN, more bubbles than pixels with flow.

    Notes
    -----
    A bubble that dies, leaves the mask or comes to a pixel without flow is replaced in the next frame, at a place drawn
    uniformly from where the mask has flow. Steady flow free of divergence keeps the density uniform, but for inlets:
    none drift in from outside, so they are sparse over the length covered in a life (20 px at 5 mm/s and 1 kHz).

    Examples
    --------
    >>> mask, maps = np.ones((8, 8), dtype=bool), np.full((2, 8, 8), 0.05)
    >>> table = advect(mask, maps, n_frames=3, n_bubbles=2, rng=np.random.default_rng(1))
    >>> table.groupby("bubble")["z"].diff().dropna().round(6).unique().tolist()
    [0.05]
    """
    mask, maps = _check_scene(mask, maps)
    check_positive(n_frames=n_frames, n_psf=n_psf, mean_life=mean_life)
    check_choice(amplitude, ("uniform", "lognormal"), "amplitude")
    flows = mask & (np.hypot(*maps) >= _STILL_PX)
    vessels = np.argwhere(flows)
    low, high = np.broadcast_to(n_bubbles, 2)
    if not 0 <= low <= high <= len(vessels):
        raise ValueError(
            f"n_bubbles must be 0 to {len(vessels)}, the pixels of the mask that have flow, not {n_bubbles}"
        )
    n = int(rng.integers(low, high, endpoint=True))
    places = np.empty((n_frames, n, 2))
    names = np.empty((n_frames, n), dtype=np.int64)
    at, name, n_names = np.empty((n, 2)), np.empty(n, dtype=np.int64), 0
    gone = np.ones(n, dtype=bool)
    for frame in range(n_frames):
        n_new = int(gone.sum())
        at[gone] = vessels[rng.integers(len(vessels), size=n_new)] + rng.uniform(-0.5, 0.5, (n_new, 2))
        name[gone] = np.arange(n_names, n_names + n_new)
        n_names += n_new
        places[frame], names[frame] = at, name
        at += np.stack([ndimage.map_coordinates(m, at.T, order=1, mode="nearest") for m in maps], axis=1)
        pixel = np.rint(at).astype(int)
        outside = ((pixel < 0) | (pixel >= mask.shape)).any(axis=1)
        pixel[outside] = 0
        gone = outside | ~flows[pixel[:, 0], pixel[:, 1]]
        gone |= rng.random(n) < 1 / mean_life
    if amplitude == "uniform":
        peaks = rng.uniform(0.5, 1.0, n_names)
    else:
        peaks = MEAN_AMPLITUDE * rng.lognormal(-(_LOG_SPREAD**2) / 2, _LOG_SPREAD, n_names)
    phase, psf, who = rng.uniform(0, 2 * np.pi, n_names), rng.integers(n_psf, size=n_names), names.ravel()
    z, x = places.reshape(-1, 2).T
    table = bubble_table(np.repeat(np.arange(n_frames), n), z, x, peaks[who])
    return table.assign(bubble=who, psf=psf[who], phase=phase[who])


def fade(bubbles: pd.DataFrame, *, speed: float, rng: np.random.Generator) -> pd.DataFrame:
    """Let bubbles cross the image plane, which makes them brighter and darker again.

    Parameters
    ----------
    bubbles : DataFrame
        Table made by `advect`.
    speed : float
        Standard deviation of the speed across the plane, in standard deviations of the slice profile a frame.
    rng : numpy.random.Generator
        Source of where and how fast each bubble crosses.

    Returns
    -------
    DataFrame
        The same with `score` times :math:`e^{-y^2/2}`, :math:`y` being the distance from the plane.

    Notes
    -----
    Beyond the paper, which leaves motion out of the plane aside (section II-D).

    Examples
    --------
    >>> table = bubble_table([0, 1], [5, 5], [5, 5], [1, 1]).assign(bubble=0)
    >>> bool(np.ptp(fade(table, speed=0.1, rng=np.random.default_rng(0))["score"]) > 0)
    True
    """
    check_bubbles(bubbles, columns=("frame", "score", "bubble"))
    check_positive(speed=speed)
    _, who = np.unique(bubbles["bubble"], return_inverse=True)
    n = who.max(initial=-1) + 1
    start, rate = rng.standard_normal(n), speed * rng.standard_normal(n)
    age = bubbles["frame"] - bubbles.groupby("bubble")["frame"].transform("min")
    distance = start[who] + rate[who] * age.to_numpy()
    return bubbles.assign(score=bubbles["score"] * np.exp(-(distance**2) / 2))


def simulate_block(
    mask: ArrayLike,
    maps: ArrayLike,
    bank: PsfBank,
    *,
    n_frames: int,
    n_bubbles: int | tuple[int, int],
    rng: np.random.Generator,
    ratio_db: float | tuple[float, float] | None = 25.0,
    amplitude: str = "uniform",
    mean_life: float = 400.0,
    cross_speed: float = 0.0,
    memory: float = 1.0,
    speckle: NDArray[np.complex64] | None = None,
    px_mm: float = 0.09856,
    frame_rate_hz: float = 1000.0,
    iq: bool = False,
    device: str = "cpu",
    batch_frames: int = 4,
) -> Block:
    """Simulate a sequence with its truth.

    Parameters
    ----------
    mask, maps, n_frames, n_bubbles, rng, amplitude, mean_life
        See `advect`.
    bank : PsfBank
        PSFs; each bubble keeps one for life.
    ratio_db : float, (float, float) or None
        Mean amplitude of the bubbles over the root mean square of the background [dB], or the range from which the
        sequence draws it. None is no background.
    cross_speed : float
        Above 0, bubbles cross the image plane at this speed, see `fade`.
    memory : float
        Correlation of the background from one frame to the next; 1 is the constant background of the paper.
    speckle : ndarray, optional
        Field to cut the background from at a random place, larger than the frame; spares its making for each
        sequence. By default one is made.
    px_mm, frame_rate_hz : float
        Scale of the frames, noted in the block.
    iq, device, batch_frames
        See `synthesize`.

    Returns
    -------
    Block
        Frames (T, Z, X), float32 B-mode or complex64 IQ, and the table of `advect`.

    Raises
    ------
    ValueError
        See `advect`; a scale or `memory` outside its limits; CUDA asked for and absent.

    Notes
    -----
    Paper, section II-D. The paper's amplitude ratio comes from in vivo data and is not stated; 25 dB is ours.

    Examples
    --------
    >>> from ulmpaper.bank import gaussian_bank
    >>> rng = np.random.default_rng(0)
    >>> mask, maps = np.ones((24, 32), dtype=bool), np.full((2, 24, 32), 0.05)
    >>> block = simulate_block(mask, maps, gaussian_bank(5, rng=rng), n_frames=4, n_bubbles=3, rng=rng)
    >>> block.frames.shape, len(block.bubbles)
    ((4, 24, 32), 12)
    """
    check_positive(px_mm=px_mm, frame_rate_hz=frame_rate_hz)
    life: dict[str, Any] = {"amplitude": amplitude, "mean_life": mean_life, "n_psf": len(bank)}
    bubbles = advect(mask, maps, n_frames=n_frames, n_bubbles=n_bubbles, rng=rng, **life)
    if cross_speed:
        bubbles = fade(bubbles, speed=cross_speed, rng=rng)
    n_z, n_x = np.shape(mask)
    behind = None
    if ratio_db is not None:
        ratio = rng.uniform(*np.broadcast_to(ratio_db, 2))
        if speckle is None:
            probe = resample(linear_array_psf(), px_wavelengths=bank.px_wavelengths)
            speckle = background((n_z, n_x) if memory == 1 else (2 * n_z, 2 * n_x), rng=rng, bank=probe)
        behind = cut_speckle(speckle, (n_z, n_x), 1 if memory == 1 else n_frames, memory=memory, rng=rng)
        behind *= MEAN_AMPLITUDE * 10 ** (-ratio / 20)
    frames = synthesize(
        bubbles, bank, (n_z, n_x), n_frames=n_frames, background=behind, iq=iq, device=device, batch_frames=batch_frames
    )
    return Block(frames.cpu().numpy(), bubbles, px_mm, frame_rate_hz, f"simulated flow, {bank.source}")


def simulate_stream(
    scenes: Sequence[tuple[ArrayLike, ArrayLike]],
    bank: PsfBank,
    *,
    n_frames: int,
    n_bubbles: int | tuple[int, int],
    rng: np.random.Generator,
    **settings: Any,
) -> Iterator[Block]:
    """Yield simulated sequences without end, each of a scene drawn at random.

    Parameters
    ----------
    scenes : sequence of (mask, maps)
        Vessel masks with their displacement maps.
    bank, n_frames, n_bubbles, rng, **settings
        See `simulate_block`. The background is cut from one large field of speckle for each scene.

    Raises
    ------
    ValueError
        No scene; see `simulate_block`.
    """
    if not len(scenes):
        raise ValueError("scenes is empty: give one pair (mask, maps) at least")
    fields: dict[int, NDArray[np.complex64]] = {}
    probe = resample(linear_array_psf(), px_wavelengths=bank.px_wavelengths)
    while True:
        number = int(rng.integers(len(scenes)))
        mask, maps = scenes[number]
        if number not in fields:
            n_z, n_x = np.shape(mask)
            fields[number] = background((2 * n_z, 2 * n_x), rng=rng, bank=probe)
        yield simulate_block(
            mask, maps, bank, n_frames=n_frames, n_bubbles=n_bubbles, rng=rng, speckle=fields[number], **settings
        )


def _check_scene(mask: ArrayLike, maps: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    mask, maps = np.asarray(mask), np.asarray(maps, dtype=np.float64)
    if mask.ndim != 2 or mask.dtype != bool or not mask.any():
        raise ValueError(
            f"mask must be a picture (z, x) of True and False with a vessel in it, "
            f"not {mask.dtype} of shape {mask.shape} with {np.count_nonzero(mask)} pixels set"
        )
    if maps.shape != (2, *mask.shape):
        raise ValueError(
            f"for a mask of shape {mask.shape} the maps have the shape {(2, *mask.shape)}, not {maps.shape}"
        )
    if not np.isfinite(maps).all():
        raise ValueError("the displacement maps hold NaN or infinite values: set them to 0 outside the vessels")
    fastest = np.hypot(*maps).max()
    if fastest > 1:
        warnings.warn(
            f"bubbles move up to {fastest:.3g} px a frame: are the maps in px/frame, at this pixel and frame rate?",
            stacklevel=3,
        )
    return mask, maps
