"""Test card: generated flow with known truth to try the chain on.

It needs no simulator and no data, so examples, tests and benchmarks run anywhere. It is kinder than
ultrasound: amplitudes add up without interference and there is no speckle.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ulmpaper.core.records import Block, bubble_table, check_rng, check_whole

_N_VESSELS = 14
_MOST_BUBBLES = 100_000  # in a frame
_SPEED_PX = (0.05, 0.9)  # centre-line speeds of the vessels [px/frame]
_RADIUS_PX = (0.2, 0.9)
_SIGMA_PX = (1.06, 1.27)  # along z and x: full widths of 2.5 and 3 px
_REACH_PX = 5
_LIFETIME = 150  # mean, in frames


def simulate_testcard(
    *,
    n_frames: int,
    n_bubbles: int,
    rng: np.random.Generator,
    shape_px: tuple[int, int] = (84, 143),
    noise: float = 0.02,
) -> Block:
    """Generate flow with known truth.

    Parameters
    ----------
    n_frames, n_bubbles : int
        Length of the sequence and bubbles alive in each frame; one that leaves the picture or dies
        is replaced.
    rng : numpy.random.Generator
        Source of every random number; the same state gives the same block.
    shape_px : (int, int)
        Size of a frame (z, x) [px].
    noise : float
        Standard deviation of white noise added before the modulus; bubbles have amplitudes of 0.5
        to 1.

    Returns
    -------
    Block
        Frames (T, Z, X) float32 and the true bubbles, with the columns ``bubble`` and ``vessel``
        added.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> block = simulate_testcard(n_frames=3, n_bubbles=5, shape_px=(40, 48), rng=rng)
    >>> block.frames.shape, len(block.bubbles)
    ((3, 40, 48), 15)
    """
    n_frames = check_whole(n_frames=n_frames)
    n_bubbles = check_whole(low=0, n_bubbles=n_bubbles)
    if n_bubbles > _MOST_BUBBLES:
        raise ValueError(f"n_bubbles must be {_MOST_BUBBLES} or less, not {n_bubbles}")
    if np.shape(shape_px) != (2,):
        raise ValueError(f"shape_px is the size of a frame, (z, x) [px], not {shape_px!r}")
    shape_px = (check_whole(z=shape_px[0]), check_whole(x=shape_px[1]))
    if not 0 <= noise < np.inf:
        raise ValueError(f"noise must be a number, 0 or more, not {noise}")
    check_rng(rng)
    if min(shape_px) < 2 * _REACH_PX:
        raise ValueError(
            f"frames of {shape_px} px are too small for the example: {2 * _REACH_PX} px at least"
        )
    vessels = [_vessel(shape_px, rng) for _ in range(_N_VESSELS)]
    rows = [_bubble_path(vessels, n_frames, rng) for _ in range(n_bubbles)]
    table = np.concatenate(rows) if rows else np.empty((0, 6))
    slot = np.repeat(np.arange(n_bubbles), n_frames)
    bubbles = bubble_table(*table[:, :4].T).assign(vessel=table[:, 4].astype(int))
    _, bubbles["bubble"] = np.unique(
        np.stack([slot, table[:, 5]], axis=1), axis=0, return_inverse=True
    )
    bubbles = bubbles.sort_values(["frame", "bubble"], ignore_index=True)
    clean = _draw(bubbles[["frame", "z", "x", "score"]].to_numpy(), n_frames, shape_px)
    frames = np.abs(clean + noise * rng.standard_normal(clean.shape, dtype=np.float32))
    return Block(
        frames, bubbles, px_mm=0.09856, frame_rate_hz=1000.0, source="generated example flow"
    )


def _vessel(
    shape_px: tuple[int, int], rng: np.random.Generator
) -> tuple[NDArray, NDArray, float, float]:
    """Centre line (n, 2) at steps of 0.25 px, normals, radius and speed of a vessel."""
    size = np.array(shape_px, dtype=float)
    along = np.arange(0, 2.5 * size.max(), 0.25)
    heading = np.full(len(along), rng.uniform(0, 2 * np.pi))
    for waves in (1, 2, 4):
        heading += rng.normal(0, 0.9 / waves) * np.sin(
            2 * np.pi * (waves * along / along[-1] + rng.uniform())
        )
    tangent = np.stack([np.sin(heading), np.cos(heading)], axis=1)
    line = np.cumsum(tangent * 0.25, axis=0)
    line += rng.uniform(0.3, 0.7, 2) * size - line[len(line) // 2]
    margin = _REACH_PX / 2
    seen = ((line > margin) & (line < size - 1 - margin)).all(axis=1)
    # The stretch round the middle that stays in the picture.
    middle = len(line) // 2
    outside = np.flatnonzero(~seen)
    low = outside[outside < middle].max(initial=-1) + 1
    high = outside[outside > middle].min(initial=len(line))
    share = rng.uniform()
    speed = _SPEED_PX[0] * (_SPEED_PX[1] / _SPEED_PX[0]) ** share
    radius = _RADIUS_PX[0] + share * (_RADIUS_PX[1] - _RADIUS_PX[0])
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1)
    return line[low:high], normal[low:high], radius, speed


def _bubble_path(vessels: list, n_frames: int, rng: np.random.Generator) -> NDArray:
    """Rows (frame, z, x, amplitude, vessel, life) of a bubble and its successors."""
    length = np.array([len(v[0]) for v in vessels])
    rows = np.empty((n_frames, 6))
    frame = life = 0
    while frame < n_frames:
        which = rng.choice(len(vessels), p=length / length.sum())
        line, normal, radius, speed = vessels[which]
        offset = rng.uniform(-1, 1)
        # Poiseuille: slower away from the axis.
        step = 4 * speed * (1 - 0.8 * offset**2)
        start = rng.uniform(0, len(line) - 1)
        n = int(
            min(n_frames - frame, 1 + (len(line) - 1 - start) // step, rng.geometric(1 / _LIFETIME))
        )
        at = start + step * np.arange(n)
        knots = np.arange(len(line))
        place = [np.interp(at, knots, line[:, k] + offset * radius * normal[:, k]) for k in (0, 1)]
        amplitude = np.full(n, rng.uniform(0.5, 1))
        rows[frame : frame + n] = np.stack(
            [np.arange(frame, frame + n), *place, amplitude, np.full(n, which), np.full(n, life)],
            axis=1,
        )
        frame += n
        life += 1
    return rows


def _draw(rows: NDArray, n_frames: int, shape_px: tuple[int, int]) -> NDArray[np.float32]:
    """Sum of the bubbles' Gaussian images."""
    n_z, n_x = shape_px
    image = np.zeros(n_frames * n_z * n_x)
    around = np.arange(-_REACH_PX, _REACH_PX + 1)
    for part in np.array_split(rows, len(rows) // 20_000 + 1):
        frame = part[:, 0].astype(int)
        z, x = (np.rint(part[:, k]).astype(int)[:, None] + around for k in (1, 2))
        by_z = np.exp(-((z - part[:, 1:2]) ** 2) / (2 * _SIGMA_PX[0] ** 2)) * ((z >= 0) & (z < n_z))
        by_x = np.exp(-((x - part[:, 2:3]) ** 2) / (2 * _SIGMA_PX[1] ** 2)) * ((x >= 0) & (x < n_x))
        value = part[:, 3, None, None] * by_z[:, :, None] * by_x[:, None, :]
        z = np.clip(z, 0, n_z - 1)
        x = np.clip(x, 0, n_x - 1)
        where = (frame[:, None, None] * n_z + z[:, :, None]) * n_x + x[:, None, :]
        first, last = (int(where.min()), int(where.max()) + 1) if len(part) else (0, 0)
        image[first:last] += np.bincount(
            (where - first).reshape(-1), value.reshape(-1), last - first
        )
    return image.reshape(n_frames, n_z, n_x).astype(np.float32)
