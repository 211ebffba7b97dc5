"""Tubes of the flow phantom and bubbles that run through them; lengths in wavelengths, times in frames."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

STEP = 0.1  # between the points of an axis
_REACH = 0.9  # share of the radius: a bubble has a size and keeps off the wall, where it would stand still
_REFLECTIVITY = (0.6, 1.0)
_LIFETIME = 150  # mean, where a bubble is not washed out before [frames]


@dataclass(frozen=True, eq=False)
class Tube:
    """A tube with Poiseuille flow.

    Parameters
    ----------
    name : str
        What it is for.
    z, x : ndarray (n,)
        Points of its axis, 0.1 wavelengths apart along the flow [wavelengths].
    radius, speed : ndarray (n,)
        Radius [wavelengths] and speed on the axis [wavelengths/frame] in these points.
    """

    name: str
    z: NDArray[np.float64]
    x: NDArray[np.float64]
    radius: NDArray[np.float64]
    speed: NDArray[np.float64]

    @property
    def inflow(self) -> float:
        """Share of the bubbles that enter, not normalized, so that all tubes hold as many per length where they end."""
        return float(self.speed[-1])

    @functools.cached_property
    def clock(self) -> NDArray[np.float64]:
        """Time that a bubble on the axis takes to each point [frames]."""
        return STEP * np.append(0, np.cumsum(2 / (self.speed[1:] + self.speed[:-1])))

    def place(self, index: ArrayLike, offset: ArrayLike) -> tuple[NDArray, NDArray]:
        """Positions (z, x) at fractional indices along the axis and `offset` radii to its side [wavelengths]."""
        slope_z, slope_x = np.gradient(self.z), np.gradient(self.x)
        aside = self.radius / np.hypot(slope_z, slope_x)
        curves = (self.z, self.x, -slope_x * aside, slope_z * aside)
        z, x, to_side_z, to_side_x = (np.interp(np.asarray(index), np.arange(len(curve)), curve) for curve in curves)
        return z + np.asarray(offset) * to_side_z, x + np.asarray(offset) * to_side_x


def phantom_geometry() -> list[Tube]:
    """Lay out the tubes of the phantom.

    Notes
    -----
    After the figures of PALA: a horseshoe, a dense zone of crossing sinusoids, and two canals at the bottom that
    converge from 0.9 to 0.2 wavelengths, which show the smallest gap that a method resolves. The other tubes are
    ours. Radii are 0.06 to 1.6 wavelengths, speeds on the axis 0.08 to 0.3 wavelengths/frame.

    Examples
    --------
    >>> tubes = phantom_geometry()
    >>> len(tubes), sorted({tube.name for tube in tubes})
    (22, ['chirp', 'converging', 'crossing', 'horseshoe', 'spiral', 'steep', 'straight', 'tree'])
    """
    u = np.linspace(0, 1, 2001)
    arc, turn, across = np.pi * u, 4 * np.pi * u, 112 * u
    shoe_z = np.concatenate([48 - 6 * u, 42 - 4.5 * np.sin(arc), 42 + 6 * u])
    shoe_x = np.concatenate([-47 + 0 * u, -42.5 - 4.5 * np.cos(arc), -38 + 0 * u])
    sine = 63 + 9 * np.sin(2 * np.pi * u)
    chirp = 24 + 3.5 * np.sin(2 * np.pi * (across / 26 + (across / 60) ** 2))
    swirl = 2 + 1.1 * turn
    return [
        _tube("horseshoe", shoe_z, shoe_x, radius=0.6, speed=0.2),
        _tube("crossing", sine, -47 + 40 * u, radius=0.5, speed=0.2),
        _tube("crossing", sine, -7 - 40 * u, radius=0.5, speed=0.2),
        _tube("converging", 94.55 + 0.35 * u, -60 + 68 * u, radius=0.06, speed=0.15),
        _tube("converging", 95.45 - 0.35 * u, -60 + 68 * u, radius=0.06, speed=0.15),
        _tube("chirp", chirp, -54 + across, radius=(1, 0.25), speed=(0.15, 0.3)),
        _tube("spiral", 54 + swirl * np.sin(turn), 44 + swirl * np.cos(turn), radius=0.4, speed=0.18),
        _tube("straight", 83 + 0.5 * u, 12 + 54 * u, radius=1.6, speed=0.3),
        _tube("straight", 86.5 + 0.5 * u, 66 - 54 * u, radius=0.8, speed=0.24),
        _tube("straight", 89 + 0.5 * u, 12 + 54 * u, radius=0.4, speed=0.16),
        _tube("straight", 91 + 0.5 * u, 66 - 54 * u, radius=0.15, speed=0.1),
        _tube("steep", 30 + 60 * u, -66 + u, radius=0.8, speed=0.25),
        _tube("steep", 90 - 60 * u, -61.5 - u, radius=0.3, speed=0.15),
        _tube("steep", 30 + 60 * u, -59.5 + u, radius=0.1, speed=0.08),
        *_tree(),
    ]


def flow(tubes: list[Tube], *, n_frames: int, n_bubbles: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Let bubbles run through tubes.

    Returns
    -------
    ndarray (6, n_bubbles * n_frames)
        Rows frame, z, x [wavelengths], reflectivity, bubble, tube; all frames of one bubble and its successors
        first. The first frames do not depend on how many follow.

    Notes
    -----
    v = speed (1 - offset**2), the offset from the axis in radii being kept for life. The first bubbles are spread as
    a steady flow would hold them, more of them where it is slow. One that is washed out is replaced by one that enters,
    in proportion to `Tube.inflow`; one that dissolves is replaced by one anywhere. So they stay spread as they are.
    """
    stories = [_life_story(tubes, n_frames, stream) for stream in rng.spawn(n_bubbles)]
    for slot, story in enumerate(stories):
        story[4] = slot + n_bubbles * story[4]
    return np.concatenate(stories, axis=1)


def _life_story(tubes: list[Tube], n_frames: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Rows frame, z, x, reflectivity, life, tube of one bubble and its successors."""
    entering = np.array([tube.inflow for tube in tubes])
    present = entering * [tube.clock[-1] for tube in tubes]
    story = np.empty((6, n_frames))
    frame = life = 0
    enters = False  # or appears anywhere
    while frame < n_frames:
        odds = entering if enters else present
        which = int(rng.choice(len(tubes), p=odds / odds.sum()))
        clock = tubes[which].clock
        offset = _entry_offset(rng) if enters else rng.uniform(-_REACH, _REACH)
        pace = 1 - offset**2
        start = rng.uniform(0, pace if enters else clock[-1])
        to_end, to_death = int(np.ceil((clock[-1] - start) / pace)), int(rng.geometric(1 / _LIFETIME))
        n = min(to_end, to_death, n_frames - frame)
        index = np.interp(start + pace * np.arange(n), clock, np.arange(len(clock)))
        now = slice(frame, frame + n)
        story[0, now], story[1:3, now] = np.arange(frame, frame + n), tubes[which].place(index, offset)
        story[3:, now] = np.array([rng.uniform(*_REFLECTIVITY), life, which])[:, None]
        frame, life, enters = frame + n, life + 1, to_end <= to_death
    return story


def _entry_offset(rng: np.random.Generator) -> float:
    """Offset from the axis, as often as fluid flows there: density proportional to 1 - offset**2."""
    offset = np.linspace(-_REACH, _REACH, 1001)
    passed = offset - offset**3 / 3
    return float(np.interp(rng.uniform(passed[0], passed[-1]), passed, offset))


def _tube(name: str, z: NDArray, x: NDArray, *, radius: ArrayLike, speed: ArrayLike) -> Tube:
    """Tube along the curve (z, x); radius and speed are given once, at both ends, or at each point of the curve."""
    length = np.append(0, np.cumsum(np.hypot(np.diff(z), np.diff(x))))
    at = np.arange(0, length[-1], STEP)

    def along(values: ArrayLike) -> NDArray[np.float64]:
        known = np.atleast_1d(values).astype(float)
        places = length if len(known) == len(length) else np.linspace(0, length[-1], len(known))
        return np.interp(at, places, known)

    return Tube(name, along(z), along(x), along(radius), along(speed))


def _tree() -> list[Tube]:
    """The eight ways from the root of a tree to its leaves; flow is conserved at each fork.

    Each way takes an eighth of the bubbles, so the root holds four times as many per length as each leaf.
    """
    lengths, forks, fine = np.array([14, 9, 7, 6]), np.deg2rad([24, 18, 14]), 50
    shrink = np.repeat(2.0 ** (-np.arange(4) / 3), lengths * fine)
    ways = []
    for sides in itertools.product((-1, 1), repeat=3):
        heading = np.repeat(np.append(0, np.cumsum(sides * forks)), lengths * fine)
        z, x = 38 + np.cumsum(np.cos(heading)) / fine, 14 + np.cumsum(np.sin(heading)) / fine
        # Forks are rounded over two wavelengths.
        z, x, r, v = (
            ndimage.uniform_filter1d(w, 2 * fine, mode="nearest") for w in (z, x, 1.2 * shrink, 0.25 * shrink)
        )
        ways.append(_tube("tree", z, x, radius=r, speed=v))
    return ways
