"""Displacement maps of vessels, and bubbles that drift along them (Fig. 2c, d).

The paper replaced the directed vessel graph of Chen et al. (IEEE Trans. Med. Imaging 42 (2023)
2374) by maps, Fig. 2c and d, but does not say how it made them. Here blood seeps through the mask
from inlets to outlets, which needs no graph: gaps and loops do no harm, and the flow divides at
branchings by itself. Bubbles then follow the maps from frame to frame and may cross the image
plane.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage as ndi
from scipy import sparse
from scipy.sparse.linalg import splu

from ulmpaper.core.doors import optional
from ulmpaper.core.records import (
    bubble_table,
    check_bubbles,
    check_choice,
    check_positive,
    check_rng,
    warn_user,
)

MEAN_AMPLITUDE = 0.75  # of the bubbles, whatever the distribution
_LOG_SPREAD = 0.35
_STILL_PX = 1e-4  # slower pixels have no flow [px/frame]
_EIGHT = np.ones((3, 3), dtype=int)  # pixels that touch at a corner are neighbours
_STEPS = ((0, 1), (1, 0), (1, 1), (1, -1))  # to half of the neighbours: each pair comes once
_LEAK = 1e-9  # fixes the mean pressure of each piece
_MOST_SLICES = 1000  # a frame; a bubble that fast is never seen twice
_VOTE_PX = 2  # reach of the vote on a measured direction
_INLET_AT_BORDER = 3.0  # how much an end at the border of the picture is preferred as inlet


def displacement_maps(
    mask: ArrayLike,
    *,
    px_mm: float,
    frame_rate_hz: float,
    max_speed_mm_s: float = 5.0,
    min_area_px: int = 60,
    downward: ArrayLike | None = None,
    speed_share: ArrayLike | None = None,
    rng: np.random.Generator | None = None,
) -> NDArray[np.float32]:
    """Compute the steps that carry a bubble from frame to frame along the vessels of a mask.

    Parameters
    ----------
    mask : array_like (Z, X) bool
        Inside of the vessels.
    px_mm, frame_rate_hz : float
        Pixel pitch [mm] and frames per second [Hz].
    max_speed_mm_s : float
        Speed on the axis of the widest vessel [mm/s]; the paper's is 5.
    min_area_px : int
        Smaller connected pieces get no flow: the maps are zero there [px].
    downward : array_like (Z, X), optional
        Measured direction: above 0 where blood flows to larger z, below 0 where it flows to
        smaller. By default it follows from the shape of the mask.
    speed_share : array_like (Z, X), optional
        Measured speed as a share of `max_speed_mm_s`, 0 to 1. By default it follows from the shape
        of the mask.
    rng : numpy.random.Generator, optional
        Reverses the flow of half of the pieces, so that there are arteries and veins. Without it
        every piece is fed at its widest end, ends at the border of the picture first. `downward`
        overrules both.

    Returns
    -------
    ndarray (2, Z, X) float32
        Steps along z and x [px/frame], zero outside the mask and where measured directions meet.

    Raises
    ------
    TypeError
        `mask` holds no numbers, or `rng` is not a generator.
    ValueError
        `mask` is not (Z, X), holds more than True and False, is empty, full or in small pieces
        only; a measured map of another size, with NaN or out of range; a scale or speed that is not
        above 0.

    Warns
    -----
    UserWarning
        The longest step is over one pixel per frame.

    Notes
    -----
    The radius :math:`R` is the distance to the wall from the nearest point of the skeleton. Ends of
    the skeleton are terminals: one inlet, and outlets that take a flow :math:`\\propto R^3`
    (Murray). Darcy's law with a conductance of :math:`R^2` gives the direction,
    :math:`-R^2 \\nabla P`. The speed is :math:`v_{max} (R / R_{max}) (1 - (1 - d / R)^2)` at the
    distance :math:`d` from the wall: Poiseuille's profile, and again a flow :math:`\\propto R^3`.
    Where branchings follow Murray, bubbles per pixel then settle :math:`\\propto R`, as in a
    picture through round vessels.

    A ring or a disc has no ends: it is fed at the pixel farthest from its centroid and drained at
    the pixel farthest from that. `downward` reverses the flow wherever it contradicts the
    measurement, by a vote over a few pixels. Where blood then runs towards blood, or away from it,
    it must come from outside the picture's plane or go there: two pixels between the two are left
    without flow, so that `advect` lets bubbles end there.

    Examples
    --------
    >>> tube = np.zeros((30, 60), dtype=bool)
    >>> tube[12:17] = True
    >>> steps = displacement_maps(tube, px_mm=0.1, frame_rate_hz=1000)
    >>> np.hypot(*steps[:, 11:18, 30].astype(float)).round(3).tolist()
    [0.0, 0.018, 0.042, 0.05, 0.042, 0.018, 0.0]
    """
    check_positive(
        px_mm=px_mm,
        frame_rate_hz=frame_rate_hz,
        max_speed_mm_s=max_speed_mm_s,
        min_area_px=min_area_px,
    )
    if rng is not None:
        check_rng(rng)
    pieces = drop_small(_check_mask(mask), min_area_px)
    if not pieces.any():
        raise ValueError(
            f"no piece of the mask has {min_area_px} px or more: lower min_area_px or segment anew"
        )
    down = share = None
    if downward is not None:
        down = _check_map(downward, pieces.shape, "downward", -np.inf)
    if speed_share is not None:
        share = _check_map(speed_share, pieces.shape, "speed_share", 0, 1)
    step_px = max_speed_mm_s / (px_mm * frame_rate_hz)
    if step_px > 1:
        warn_user(
            f"the fastest bubbles move {step_px:.2f} px per frame: trackers lose them over 1; "
            "lower max_speed_mm_s, or raise px_mm or frame_rate_hz"
        )
    bed = _bed(pieces)
    direction = _direction(bed, rng)
    if down is not None:
        # Where the measurement contradicts the flow, the flow is reversed; no flow along the seam.
        turned = _smooth_inside(down * direction[0], pieces, _VOTE_PX) < 0
        seam = ndi.binary_dilation(turned, _EIGHT) & ndi.binary_dilation(pieces & ~turned, _EIGHT)
        direction = np.where(seam, 0, np.where(turned, -direction, direction))
    if share is None:
        profile = 1 - (1 - np.minimum(bed.wall / bed.radius, 1)) ** 2
        share = bed.radius / bed.radius[pieces].max() * profile
    return (step_px * share * direction).astype(np.float32)


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
        Bubbles alive in each frame, or the range (both ends included) from which the sequence draws
        their number.
    rng : numpy.random.Generator
        Source of every random number.
    n_psf : int
        Size of the bank from which each bubble takes a PSF, for life.
    amplitude : {"uniform", "lognormal"}
        Distribution of the amplitudes: 0.5 to 1, or log-normal with the spread 0.35, both of mean
        0.75.
    mean_life : float
        Mean number of frames after which a bubble is replaced.

    Returns
    -------
    DataFrame
        Bubble table with the amplitude as `score` and the columns ``bubble`` (identity), ``psf``
        and ``phase`` [rad], which a bubble keeps for life. Ordered by frame.

    Raises
    ------
    ValueError
        Empty mask, maps of another shape or with NaN, more bubbles than pixels with flow.

    Warns
    -----
    UserWarning
        The longest step is over one pixel per frame.

    Notes
    -----
    A bubble that dies, leaves the mask or comes to a pixel without flow is replaced in the next
    frame, at a place drawn uniformly from where the mask has flow. Steady flow free of divergence
    keeps the density uniform, except near inlets: no bubbles drift in from outside, so they are
    sparse over the length covered in a life (20 px at 5 mm/s and 1 kHz).

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
            f"n_bubbles must be 0 to {len(vessels)}, the pixels of the mask that have flow, "
            f"not {n_bubbles}"
        )
    n = int(rng.integers(low, high, endpoint=True))
    places = np.empty((n_frames, n, 2))
    names = np.empty((n_frames, n), dtype=np.int64)
    at = np.empty((n, 2))
    name = np.empty(n, dtype=np.int64)
    n_names = 0
    gone = np.ones(n, dtype=bool)
    for frame in range(n_frames):
        # Those that are gone are replaced, anywhere in a pixel with flow, under a new number.
        n_new = int(gone.sum())
        pixel = vessels[rng.integers(len(vessels), size=n_new)]
        at[gone] = pixel + rng.uniform(-0.5, 0.5, (n_new, 2))
        name[gone] = np.arange(n_names, n_names + n_new)
        n_names += n_new
        places[frame] = at
        names[frame] = name
        # All take a step; some leave the vessels, others die.
        step = [ndi.map_coordinates(part, at.T, order=1, mode="nearest") for part in maps]
        at += np.stack(step, axis=1)
        pixel = np.rint(at).astype(int)
        outside = ((pixel < 0) | (pixel >= mask.shape)).any(axis=1)
        pixel[outside] = 0
        gone = outside | ~flows[pixel[:, 0], pixel[:, 1]]
        gone |= rng.random(n) < 1 / mean_life
    if amplitude == "uniform":
        peaks = rng.uniform(0.5, 1.0, n_names)
    else:
        peaks = MEAN_AMPLITUDE * rng.lognormal(-(_LOG_SPREAD**2) / 2, _LOG_SPREAD, n_names)
    phase = rng.uniform(0, 2 * np.pi, n_names)
    psf = rng.integers(n_psf, size=n_names)
    who = names.ravel()
    z, x = places.reshape(-1, 2).T
    table = bubble_table(np.repeat(np.arange(n_frames), n), z, x, peaks[who])
    return table.assign(bubble=who, psf=psf[who], phase=phase[who])


def cross_plane(bubbles: pd.DataFrame, *, speed: float, rng: np.random.Generator) -> pd.DataFrame:
    """Let bubbles cross the image plane, which makes them brighter and darker again.

    Parameters
    ----------
    bubbles : DataFrame
        Table made by `advect`.
    speed : float
        Standard deviation of the speed across the plane, in standard deviations of the slice
        profile per frame.
    rng : numpy.random.Generator
        Source of the place and speed at which each bubble crosses.

    Returns
    -------
    DataFrame
        The same table with `score` times :math:`e^{-y^2/2}`, where :math:`y` is the distance from
        the plane.

    Notes
    -----
    Beyond the paper, which leaves motion out of the plane aside (section II-D).

    Examples
    --------
    >>> table = bubble_table([0, 1], [5, 5], [5, 5], [1, 1]).assign(bubble=0)
    >>> bool(np.ptp(cross_plane(table, speed=0.1, rng=np.random.default_rng(0))["score"]) > 0)
    True
    """
    bubbles = check_bubbles(bubbles, columns=("frame", "score", "bubble"))
    check_positive(speed=speed)
    if speed > _MOST_SLICES:
        raise ValueError(f"speed must be {_MOST_SLICES} slices a frame or less, not {speed:g}")
    check_rng(rng)
    _, who = np.unique(bubbles["bubble"], return_inverse=True)
    n = who.max(initial=-1) + 1
    start = rng.standard_normal(n)
    rate = speed * rng.standard_normal(n)
    age = bubbles["frame"] - bubbles.groupby("bubble")["frame"].transform("min")
    distance = start[who] + rate[who] * age.to_numpy()
    return bubbles.assign(score=bubbles["score"] * np.exp(-(distance**2) / 2))


def drop_small(mask: NDArray[np.bool_], min_area_px: int) -> NDArray[np.bool_]:
    """Drop connected pieces of fewer than `min_area_px` pixels from a mask.

    Examples
    --------
    >>> mask = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 1]], dtype=bool)
    >>> drop_small(mask, 2).astype(int).tolist()
    [[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]]
    """
    if np.ndim(mask) != 2 or 0 in np.shape(mask):
        raise ValueError(f"a mask has two axes (z, x), none empty, not shape {np.shape(mask)}")
    labels, _ = ndi.label(mask, _EIGHT)
    area = np.bincount(labels.ravel())
    area[0] = 0
    return (area >= min_area_px)[labels]


# --- seeping -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Bed:
    """Geometry of a mask: arrays (Z, X) except `ends`; indices are flat."""

    mask: NDArray
    labels: NDArray  # connected piece of each pixel, 0 outside
    cell: NDArray  # index of the nearest skeleton pixel
    ends: NDArray  # indices of skeleton pixels where vessels end, two or more in each piece
    wall: NDArray  # distance to the wall, 0 outside [px]
    radius: NDArray  # radius of the vessel, smooth; 1 outside [px]


def _bed(mask: NDArray) -> _Bed:
    """Pieces, skeleton, ends, walls and radii of a mask."""
    with optional("simulate"):  # here, since scikit-image takes long to load
        from skimage.morphology import skeletonize

    labels, _ = ndi.label(mask, _EIGHT)
    own = np.arange(mask.size).reshape(mask.shape)
    # The wall runs half a pixel from the last pixel centre inside and from the first outside.
    wall = np.where(mask, ndi.distance_transform_edt(mask) - 0.5, 0)
    # Vessels go on outside the picture: else their skeletons would turn into a corner of the cut.
    pad = 2 + int(2 * wall.max())
    skeleton = skeletonize(np.pad(mask, pad, mode="edge"))[pad:-pad, pad:-pad]
    # Pieces whose skeleton lies outside get one of their own.
    skeleton |= skeletonize(mask & ~np.isin(labels, labels[skeleton]))
    z, x = ndi.distance_transform_edt(~skeleton, return_distances=False, return_indices=True)
    # The nearest skeleton may be that of another vessel: such pixels stand for themselves.
    cell = np.where(labels[z, x] == labels, own[z, x], own)
    ends = _ends(labels, skeleton)
    cell.ravel()[ends] = ends
    radius = np.where(mask, _smooth_inside(wall.ravel()[cell], mask, 2), 1)
    return _Bed(mask, labels, cell, ends, wall, radius)


def _ends(labels: NDArray, skeleton: NDArray) -> NDArray:
    """Flat indices of skeleton pixels with one neighbour, or of far pixels where those lack."""
    n_around = ndi.convolve(skeleton.astype(int), _EIGHT, mode="constant")  # itself included
    tips = np.flatnonzero(skeleton & (n_around == 2))
    pieces = labels.ravel()[tips]
    ends = tips
    for piece in np.flatnonzero(np.bincount(pieces, minlength=labels.max() + 1)[1:] < 2) + 1:
        pixels = np.argwhere(labels == piece)
        single = tips[pieces == piece]
        if len(single):
            start = np.array(np.unravel_index(single[0], labels.shape))
        else:
            start = _farthest(pixels, pixels.mean(axis=0))
        pair = np.array([start, _farthest(pixels, start)])
        ends = np.append(ends, np.ravel_multi_index(tuple(pair.T), labels.shape))
    return np.unique(ends)


def _farthest(pixels: NDArray, origin: NDArray) -> NDArray:
    """Pixel (2,) of those (n, 2) that lies farthest from a place."""
    return pixels[((pixels - origin) ** 2).sum(axis=1).argmax()]


def _smooth_inside(values: NDArray, mask: NDArray, sigma_px: float) -> NDArray:
    """Gaussian mean over the pixels inside the mask; 0 outside."""
    total = ndi.gaussian_filter(np.where(mask, values, 0.0), sigma_px)
    weight = ndi.gaussian_filter(np.where(mask, 1.0, 0.0), sigma_px)
    return np.where(mask, total / np.maximum(weight, 1e-12), 0)


def _direction(bed: _Bed, rng: np.random.Generator | None) -> NDArray:
    """Unit vectors (2, Z, X) of the flow from one inlet in each piece to outlets that take R^3."""
    radius = bed.radius.ravel()[bed.ends]
    piece = bed.labels.ravel()[bed.ends]
    # The widest end of each piece is its inlet; the others share its flow.
    border = np.pad(np.zeros(np.array(bed.mask.shape) - 2, dtype=bool), 1, constant_values=True)
    at_border = np.isin(bed.ends, bed.cell[border & bed.mask])
    order = np.lexsort((radius * np.where(at_border, _INLET_AT_BORDER, 1), piece))
    inlets = order[np.append(np.diff(piece[order]) > 0, True)]  # the best of each piece comes last
    flow = radius**3
    flow[inlets] = 0
    flow[inlets] = -np.bincount(piece, flow)[piece[inlets]]
    if rng is not None:
        flow *= rng.choice([-1, 1], bed.labels.max() + 1)[piece]
    # Each end shares its flow among the pixels it is nearest to, so the flow leaves straight.
    at_end = np.zeros(bed.mask.size)
    at_end[bed.ends] = -flow
    cell = bed.cell[bed.mask]
    return _seep(bed, at_end[cell] / np.bincount(cell)[cell])


def _seep(bed: _Bed, source: NDArray) -> NDArray:
    """Unit vectors (2, Z, X) of the flow with sum_q k_pq (P_p - P_q) = source_p at each pixel p."""
    n = len(source)
    number = np.full(bed.mask.shape, -1)
    number[bed.mask] = np.arange(n)
    conductance = bed.radius[bed.mask] ** 2
    pairs = []
    steps = []
    padded = np.pad(number, 1, constant_values=-1)
    for dz, dx in _STEPS:
        other = padded[1 + dz : padded.shape[0] - 1 + dz, 1 + dx : padded.shape[1] - 1 + dx]
        both = (number >= 0) & (other >= 0)
        pairs.append(np.stack([number[both], other[both]]))
        steps.append(np.broadcast_to([[dz], [dx]], pairs[-1].shape))
    p, q = np.concatenate(pairs, axis=1)
    step = np.concatenate(steps, axis=1)
    # A link conducts like its two half pixels in series, and less along a diagonal.
    k = 2 / (1 / conductance[p] + 1 / conductance[q]) / (step**2).sum(axis=0)
    links = (np.append(p, q), np.append(q, p))
    matrix = sparse.coo_array((np.tile(-k, 2), links), shape=(n, n)).tocsc()
    matrix += sparse.diags_array(_LEAK - matrix.sum(axis=0))
    solver = splu(matrix.tocsc(), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    pressure = solver.solve(source)
    # Flow through a pixel: the sum over its links. None leads through a wall: walls steer the flow.
    along = k * (pressure[p] - pressure[q]) * step
    flow = np.zeros((2, *bed.mask.shape))
    through = np.stack([np.bincount(p, part, n) + np.bincount(q, part, n) for part in along])
    flow[:, bed.mask] = _unit(through)
    return _unit(np.stack([_smooth_inside(part, bed.mask, 1) for part in flow]))


def _unit(vectors: NDArray) -> NDArray:
    """Vectors (2, ...) at length 1."""
    return vectors / np.maximum(np.hypot(*vectors), 1e-300)


# --- checks ------------------------------------------------------------------------------------


def _check_mask(mask: ArrayLike) -> NDArray[np.bool_]:
    """Mask as booleans, with pixels inside and outside."""
    array = np.asarray(mask)
    if array.dtype.kind not in "biuf":
        raise TypeError(f"mask must hold True and False, not {array.dtype}")
    if array.ndim != 2 or min(array.shape) < 3:
        raise ValueError(f"mask must have two axes (z, x) of 3 px or more, not shape {array.shape}")
    if array.dtype != bool and not np.isin(array, (0, 1)).all():
        raise ValueError("mask must hold True and False (or 1 and 0) only: write e.g. mask > 0")
    if array.all() or not array.any():
        state = "full: there are no walls" if array.any() else "empty: there are no vessels"
        raise ValueError(
            f"mask is {state}; True is the inside of vessels, both kinds of pixels are needed"
        )
    return array.astype(bool)


def _check_map(
    values: ArrayLike, shape: tuple[int, ...], what: str, low: float, high: float = np.inf
) -> NDArray:
    """Measured map of the mask's shape, finite and within limits."""
    array = np.asarray(values, dtype=float)
    if array.shape != shape:
        raise ValueError(f"{what} must have the mask's shape {shape}, not {array.shape}")
    if not (np.isfinite(array) & (array >= low) & (array <= high)).all():
        raise ValueError(f"{what} must hold finite numbers from {low:g} to {high:g}")
    return array


def _check_scene(mask: ArrayLike, maps: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Mask and maps of one shape; a warning where steps are long."""
    mask = np.asarray(mask)
    maps = np.asarray(maps, dtype=np.float64)
    if mask.ndim != 2 or mask.dtype != bool or not mask.any():
        raise ValueError(
            f"mask must be a picture (z, x) of True and False with a vessel in it, "
            f"not {mask.dtype} of shape {mask.shape} with {np.count_nonzero(mask)} pixels set"
        )
    if maps.shape != (2, *mask.shape):
        raise ValueError(
            f"for a mask of shape {mask.shape} the maps have the shape {(2, *mask.shape)}, "
            f"not {maps.shape}"
        )
    if not np.isfinite(maps).all():
        raise ValueError(
            "the displacement maps hold NaN or infinite values: set them to 0 outside the vessels"
        )
    fastest = np.hypot(*maps).max()
    if fastest > 1:
        warn_user(
            f"bubbles move up to {fastest:.3g} px a frame: "
            "are the maps in px/frame, at this pixel and frame rate?"
        )
    return mask, maps
