"""The in silico flow phantom, in PALA's layout.

Bubbles run through known tubes and are imaged by `ulmpaper.simulator.acquire`; `write_pala` writes
them in the layout of PALA's in silico data. The tubes resemble those of PALA (Heiles et al. 2022),
whose course and speeds are not published as numbers. Frames are simulated by physics, while those
for training are drawn with patches, so the phantom tests what a network has learnt. (The shipped
patches were cut from frames of the same array simulator, in other tissue: that they share.)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from scipy.io import savemat

from ulmpaper.core.grid import map_index, map_shape
from ulmpaper.core.records import Block, bubble_table, check_bubbles, check_frames, check_positive
from ulmpaper.io.files import write_atomic
from ulmpaper.simulator import array
from ulmpaper.simulator.array import (
    CENTRE_HZ,
    N_ELEMENTS,
    PALA_ACQUISITION,
    PITCH_M,
    SPEED_M_S,
    Acquisition,
    acquire,
    acquire_spans,
)

# Numbers of the sequences that the paper tests on, and of those it trains and validates on.
SEQUENCES = {"test": range(1, 16), "validation": range(16, 21)}

_FRAME_RATE_HZ = 1000.0
_STEP_WL = 0.1  # between the points of an axis
_REACH = 0.9  # share of the radius: a bubble has a size and keeps off the wall, where flow stops
_REFLECTIVITY = (0.6, 1.0)
_LIFETIME = 150  # mean, where a bubble is not washed out before [frames]
_SLACK_PX = 0.5  # tracks run beside the vessel by so much
_CHUNK_FRAMES = 25


@dataclass(frozen=True, eq=False)
class Tube:
    """A tube with Poiseuille flow.

    Parameters
    ----------
    name : str
        Shape of the tube.
    z, x : ndarray (n,)
        Points of its axis, 0.1 wavelengths apart along the flow [wavelengths].
    radius, speed : ndarray (n,)
        Radius [wavelengths] and speed on the axis [wavelengths/frame] at these points.
    """

    name: str
    z: NDArray[np.float64]
    x: NDArray[np.float64]
    radius: NDArray[np.float64]
    speed: NDArray[np.float64]

    @property
    def inflow(self) -> float:
        """Share of the bubbles that enter; all tubes end with equally many per length."""
        return float(self.speed[-1])

    @functools.cached_property
    def clock(self) -> NDArray[np.float64]:
        """Time that a bubble on the axis takes to each point [frames]."""
        return _STEP_WL * np.append(0, np.cumsum(2 / (self.speed[1:] + self.speed[:-1])))

    def place(self, index: ArrayLike, offset: ArrayLike) -> tuple[NDArray, NDArray]:
        """Compute positions (z, x) `offset` radii beside the axis, at fractional indices [wl]."""
        slope_z = np.gradient(self.z)
        slope_x = np.gradient(self.x)
        aside = self.radius / np.hypot(slope_z, slope_x)
        curves = (self.z, self.x, -slope_x * aside, slope_z * aside)
        z, x, to_side_z, to_side_x = (
            np.interp(np.asarray(index), np.arange(len(curve)), curve) for curve in curves
        )
        return z + np.asarray(offset) * to_side_z, x + np.asarray(offset) * to_side_x


def phantom_geometry() -> list[Tube]:
    """Lay out the tubes of the phantom.

    Notes
    -----
    After the figures of PALA: a horseshoe, a dense zone of crossing sinusoids, and two canals at
    the bottom that converge from 0.9 to 0.2 wavelengths and so show the smallest gap that a method
    resolves. The other tubes are ours. Radii are 0.06 to 1.6 wavelengths, speeds on the axis 0.08
    to 0.3 wavelengths/frame.

    Examples
    --------
    >>> tubes = phantom_geometry()
    >>> len(tubes), sorted({tube.name for tube in tubes})
    (22, ['chirp', 'converging', 'crossing', 'horseshoe', 'spiral', 'steep', 'straight', 'tree'])
    """
    u = np.linspace(0, 1, 2001)
    arc = np.pi * u
    turn = 4 * np.pi * u
    across = 112 * u
    shoe_z = np.concatenate([48 - 6 * u, 42 - 4.5 * np.sin(arc), 42 + 6 * u])
    shoe_x = np.concatenate([-47 + 0 * u, -42.5 - 4.5 * np.cos(arc), -38 + 0 * u])
    sine = 63 + 9 * np.sin(2 * np.pi * u)
    chirp = 24 + 3.5 * np.sin(2 * np.pi * (across / 26 + (across / 60) ** 2))
    swirl = 2 + 1.1 * turn
    spiral_z = 54 + swirl * np.sin(turn)
    spiral_x = 44 + swirl * np.cos(turn)
    return [
        _tube("horseshoe", shoe_z, shoe_x, radius=0.6, speed=0.2),
        _tube("crossing", sine, -47 + 40 * u, radius=0.5, speed=0.2),
        _tube("crossing", sine, -7 - 40 * u, radius=0.5, speed=0.2),
        _tube("converging", 94.55 + 0.35 * u, -60 + 68 * u, radius=0.06, speed=0.15),
        _tube("converging", 95.45 - 0.35 * u, -60 + 68 * u, radius=0.06, speed=0.15),
        _tube("chirp", chirp, -54 + across, radius=(1, 0.25), speed=(0.15, 0.3)),
        _tube("spiral", spiral_z, spiral_x, radius=0.4, speed=0.18),
        _tube("straight", 83 + 0.5 * u, 12 + 54 * u, radius=1.6, speed=0.3),
        _tube("straight", 86.5 + 0.5 * u, 66 - 54 * u, radius=0.8, speed=0.24),
        _tube("straight", 89 + 0.5 * u, 12 + 54 * u, radius=0.4, speed=0.16),
        _tube("straight", 91 + 0.5 * u, 66 - 54 * u, radius=0.15, speed=0.1),
        _tube("steep", 30 + 60 * u, -66 + u, radius=0.8, speed=0.25),
        _tube("steep", 90 - 60 * u, -61.5 - u, radius=0.3, speed=0.15),
        _tube("steep", 30 + 60 * u, -59.5 + u, radius=0.1, speed=0.08),
        *_tree(),
    ]


def phantom_block(
    sequence: int,
    *,
    n_frames: int = 1000,
    n_bubbles: int = 45,
    seed: int = 2024,
    acquisition: Acquisition = PALA_ACQUISITION,
    n_jobs: int = 1,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Block:
    """Simulate a sequence of the phantom, about 6 frames per second and process.

    Parameters
    ----------
    sequence : int
        Number of the sequence, 1 or more. PALA has 20; the paper tests on 1 to 15.
    n_frames : int
        Length of the sequence. The first frames do not depend on how many follow.
    n_bubbles : int
        Bubbles in each frame; one that leaves its tube or dissolves is replaced.
    seed : int
        Root of the random numbers of all sequences.
    acquisition : Acquisition
        Plane waves, medium and grid, whose pixels are the unit of the bubble table.
    n_jobs : int
        Processes; the block does not depend on it.
    cache_dir : path, optional
        Folder that keeps the frames. The same call again reads them, one that was interrupted goes
        on, and a longer one adds to them. A change of the code that makes the frames starts afresh.
    progress : bool
        Show a bar if it takes more than 2 s.

    Returns
    -------
    Block
        IQ (T, Z, X) complex64 and the true bubbles, at 1000 frames per second. In the bubble table,
        `score` is the reflectivity, 0.6 to 1, the same for life; added are ``bubble`` and ``tube``,
        the index in `phantom_geometry`.

    Raises
    ------
    ValueError
        A number is out of range, or `acquisition` does not see all tubes.

    Notes
    -----
    Poiseuille flow: a bubble keeps its offset from the axis, in radii, and moves with
    speed (1 - offset**2).

    Examples
    --------
    >>> block = phantom_block(1, n_frames=1)
    >>> block.frames.shape, len(block.bubbles)
    ((1, 84, 143), 45)
    """
    if isinstance(sequence, bool) or not isinstance(sequence, int | np.integer) or sequence < 1:
        raise ValueError(f"sequence must be a whole number, 1 or more, not {sequence!r}")
    rng = np.random.default_rng([seed, int(sequence)])
    bubbles = _phantom_bubbles(
        n_frames=n_frames, n_bubbles=n_bubbles, rng=rng, acquisition=acquisition
    )
    if cache_dir is None:
        frames = acquire(bubbles, n_frames, acquisition, n_jobs=n_jobs, progress=progress)
    else:
        name = _digest(int(sequence), n_bubbles, seed, dataclasses.asdict(acquisition))
        folder = Path(cache_dir) / f"phantom-{name}"
        frames = _cached(bubbles, n_frames, acquisition, folder, n_jobs=n_jobs, progress=progress)
    return Block(
        frames,
        bubbles,
        px_mm=acquisition.px_mm,
        frame_rate_hz=_FRAME_RATE_HZ,
        source=f"flow phantom, sequence {sequence}",
    )


def true_map(
    *, upsample: int = 10, acquisition: Acquisition = PALA_ACQUISITION
) -> NDArray[np.float64]:
    """Draw the map of the speed of bubbles in the tubes [wavelengths/frame], 0 outside them.

    Parameters
    ----------
    upsample : int
        Map pixels in one pixel of the frames, along each axis.
    acquisition : Acquisition
        Grid of the frames.

    Returns
    -------
    ndarray (Z, X)
        On the grid of `ulmpaper.core.map_index`. Where tubes cross, the faster one counts.

    Examples
    --------
    >>> true_map(upsample=2).shape
    (168, 286)
    """
    check_positive(upsample=upsample)
    image = np.zeros(map_shape(acquisition.shape_px, upsample=upsample))
    fine_wl = acquisition.step_wl / upsample / 3  # a third of a map pixel: none is left out
    for tube in phantom_geometry():
        last = len(tube.z) - 1
        index = np.linspace(0, last, math.ceil(last * _STEP_WL / fine_wl) + 1)[:, None]
        offset = np.linspace(-1, 1, 2 * math.ceil(tube.radius.max() / fine_wl) + 11)
        speed = np.interp(index, np.arange(last + 1), tube.speed) * (1 - offset**2)
        z_px, x_px = acquisition.to_px(*tube.place(index, offset))
        z = map_index(z_px, upsample=upsample)
        x = map_index(x_px, upsample=upsample)
        seen = (z >= 0) & (z < image.shape[0]) & (x >= 0) & (x < image.shape[1])
        np.maximum.at(image, (z[seen], x[seen]), speed[seen])
    return image


def phantom_centreline(acquisition: Acquisition = PALA_ACQUISITION) -> pd.DataFrame:
    """List points along the axes of the phantom's tubes, about a tenth of a wavelength apart.

    Parameters
    ----------
    acquisition : Acquisition
        Grid whose pixels are the unit of the table.

    Returns
    -------
    DataFrame
        ``z, x`` [px]; ``reach``, the radius and half a pixel more [px]; ``vessel``, the name of the
        tube.

    Examples
    --------
    >>> phantom_centreline().columns.tolist()
    ['z', 'x', 'reach', 'vessel']
    """
    tubes = phantom_geometry()
    z = np.concatenate([tube.z for tube in tubes])
    x = np.concatenate([tube.x for tube in tubes])
    radius = np.concatenate([tube.radius for tube in tubes])
    names = np.repeat([tube.name for tube in tubes], [len(tube.z) for tube in tubes])
    # The eight tubes of the tree share a trunk, whose points count once.
    once = np.sort(np.unique(np.round([z, x], 1), axis=1, return_index=True)[1])
    z_px, x_px = acquisition.to_px(z[once], x[once])
    reach = radius[once] / acquisition.step_wl + _SLACK_PX
    return pd.DataFrame({"z": z_px, "x": x_px, "reach": reach, "vessel": names[once]})


def write_pala(
    block: Block,
    folder: str | os.PathLike[str],
    sequence: int,
    *,
    acquisition: Acquisition = PALA_ACQUISITION,
) -> Path:
    """Write a block as PALA's in silico files, which `ulmpaper.io.read_insilico` reads back.

    Parameters
    ----------
    block : Block
        Frames on the grid of `acquisition`, with their truth.
    folder : path
        Gets ``IQ/PALA_InSilicoFlow_IQ001.mat``, with the number of the sequence, and
        ``PALA_InSilicoFlow_sequence.mat``.
    sequence : int
        Number of the sequence.

    Returns
    -------
    Path
        The file with the frames.

    Raises
    ------
    ValueError
        No truth, or frames of another size than the grid.
    OSError
        A file cannot be written.

    Notes
    -----
    ``IQ`` is (z, x, t); ``ListPos`` is (bubble, [x y z reflectivity], t) in wavelengths, NaN where
    a frame has fewer bubbles. The variables are those that PALA's scripts read.
    """
    frames = check_frames(block.frames, allow_complex=True)
    if block.bubbles is None:
        raise ValueError("PALA's files hold the true bubbles, but the block has none")
    if frames.shape[1:] != acquisition.shape_px:
        raise ValueError(
            f"frames of {frames.shape[1:]} px do not lie on the grid of {acquisition.shape_px} px"
        )
    positions = _list_pos(block.bubbles, len(frames), acquisition)
    folder = Path(folder)
    (folder / "IQ").mkdir(parents=True, exist_ok=True)
    path = folder / "IQ" / f"PALA_InSilicoFlow_IQ{sequence:03d}.mat"
    frame_rate_hz = block.frame_rate_hz or _FRAME_RATE_HZ
    setup = _pala_setup(len(frames), len(positions), frame_rate_hz, acquisition)
    beside = {name: setup[name] for name in ("Media", "P", "Resource", "Trans", "TX")}
    variables = {"IQ": np.moveaxis(frames, 0, -1), "ListPos": positions, **beside}
    # Frames come last: after a kill in between, the same call writes both again.
    there = {*path.parent.glob("PALA_InSilicoFlow_IQ*.mat"), path}
    _save_mat(
        folder / "PALA_InSilicoFlow_sequence.mat",
        {**setup, "P": {**setup["P"], "Nrepeat": len(there)}},
    )
    _save_mat(path, variables)
    return path


# --- tubes -------------------------------------------------------------------------------------


def _tube(name: str, z: NDArray, x: NDArray, *, radius: ArrayLike, speed: ArrayLike) -> Tube:
    """Tube along a curve; radius and speed once, at both ends, or at each point of the curve."""
    length = np.append(0, np.cumsum(np.hypot(np.diff(z), np.diff(x))))
    at = np.arange(0, length[-1], _STEP_WL)

    def along(values: ArrayLike) -> NDArray[np.float64]:
        """Values at the points of the axis."""
        known = np.atleast_1d(values).astype(float)
        places = length if len(known) == len(length) else np.linspace(0, length[-1], len(known))
        return np.interp(at, places, known)

    return Tube(name, along(z), along(x), along(radius), along(speed))


def _tree() -> list[Tube]:
    """Eight tubes from the root of a tree to its leaves; flow is conserved at each fork."""
    # Each takes an eighth of the bubbles: the root holds four times as many per length as a leaf.
    lengths = np.array([14, 9, 7, 6])
    forks = np.deg2rad([24, 18, 14])
    fine = 50  # points per wavelength
    shrink = np.repeat(2.0 ** (-np.arange(4) / 3), lengths * fine)
    tubes = []
    for sides in itertools.product((-1, 1), repeat=3):
        heading = np.repeat(np.append(0, np.cumsum(sides * forks)), lengths * fine)
        z = 38 + np.cumsum(np.cos(heading)) / fine
        x = 14 + np.cumsum(np.sin(heading)) / fine
        # Forks are rounded over two wavelengths.
        z, x, radius, speed = (
            ndimage.uniform_filter1d(values, 2 * fine, mode="nearest")
            for values in (z, x, 1.2 * shrink, 0.25 * shrink)
        )
        tubes.append(_tube("tree", z, x, radius=radius, speed=speed))
    return tubes


# --- bubbles -----------------------------------------------------------------------------------


def _phantom_bubbles(
    *,
    n_frames: int,
    n_bubbles: int = 45,
    rng: np.random.Generator,
    acquisition: Acquisition = PALA_ACQUISITION,
) -> pd.DataFrame:
    """Bubble table of the phantom [px], by frame."""
    check_positive(n_frames=n_frames, n_bubbles=n_bubbles)
    rows = _tube_flow(phantom_geometry(), n_frames=n_frames, n_bubbles=n_bubbles, rng=rng)
    frame, z_wl, x_wl, reflectivity, bubble, tube = rows
    table = bubble_table(frame, *acquisition.to_px(z_wl, x_wl), reflectivity)
    table = table.assign(bubble=bubble.astype(int), tube=tube.astype(int))
    return table.sort_values("frame", kind="stable", ignore_index=True)


def _tube_flow(
    tubes: list[Tube], *, n_frames: int, n_bubbles: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Rows frame, z, x [wl], reflectivity, bubble, tube (6, N) of all bubbles and frames."""
    # A stream of random numbers for each bubble: its first frames do not depend on how many follow.
    stories = [_life_story(tubes, n_frames, stream) for stream in rng.spawn(n_bubbles)]
    for slot, story in enumerate(stories):
        story[4] = slot + n_bubbles * story[4]
    return np.concatenate(stories, axis=1)


def _life_story(tubes: list[Tube], n_frames: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Rows frame, z, x, reflectivity, life, tube (6, frames) of one bubble and its successors."""
    entering = np.array([tube.inflow for tube in tubes])
    present = entering * [tube.clock[-1] for tube in tubes]
    story = np.empty((6, n_frames))
    frame = life = 0
    # The first bubbles lie as a steady flow would hold them, more of them where it is slow. One
    # that is washed out is replaced by one that enters, one that dissolves by one anywhere: so
    # they stay spread as they are.
    enters = False
    while frame < n_frames:
        odds = entering if enters else present
        which = int(rng.choice(len(tubes), p=odds / odds.sum()))
        clock = tubes[which].clock
        offset = _entry_offset(rng) if enters else rng.uniform(-_REACH, _REACH)
        pace = 1 - offset**2
        start = rng.uniform(0, pace if enters else clock[-1])
        to_end = int(np.ceil((clock[-1] - start) / pace))
        to_death = int(rng.geometric(1 / _LIFETIME))
        n = min(to_end, to_death, n_frames - frame)
        index = np.interp(start + pace * np.arange(n), clock, np.arange(len(clock)))
        now = slice(frame, frame + n)
        story[0, now] = np.arange(frame, frame + n)
        story[1:3, now] = tubes[which].place(index, offset)
        story[3:, now] = np.array([rng.uniform(*_REFLECTIVITY), life, which])[:, None]
        frame += n
        life += 1
        enters = to_end <= to_death
    return story


def _entry_offset(rng: np.random.Generator) -> float:
    """Offset from the axis in proportion to the flow there, 1 - offset**2."""
    offset = np.linspace(-_REACH, _REACH, 1001)
    passed = offset - offset**3 / 3
    return float(np.interp(rng.uniform(passed[0], passed[-1]), passed, offset))


# --- cached frames -----------------------------------------------------------------------------


def _digest(*parameters: Any) -> str:
    """Ten hexadecimal digits that change with the parameters and the code of the frames."""
    content = json.dumps([*parameters, importlib.metadata.version("pymust")])
    digest = hashlib.sha256(content.encode())
    for source in (array.__file__, __file__):
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()[:10]


def _cached(
    bubbles: pd.DataFrame,
    n_frames: int,
    acquisition: Acquisition,
    folder: Path,
    *,
    n_jobs: int,
    progress: bool,
) -> NDArray[np.complex64]:
    """Frames from the chunks in `folder`; missing ones are made."""
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(0, n_frames, _CHUNK_FRAMES)
    spans = [(start, min(start + _CHUNK_FRAMES, n_frames)) for start in starts]
    files = {span: folder / "frames-{:06d}-{:06d}.npy".format(*span) for span in spans}
    missing = [span for span in spans if not files[span].exists()]
    made = acquire_spans(bubbles, missing, acquisition, n_jobs=n_jobs, progress=progress)
    for span, frames in made:
        content = BytesIO()
        np.save(content, frames)
        write_atomic(files[span], content.getvalue())
    return np.concatenate([np.load(file) for file in files.values()])


# --- PALA's files ------------------------------------------------------------------------------


def _list_pos(
    bubbles: pd.DataFrame, n_frames: int, acquisition: Acquisition
) -> NDArray[np.float64]:
    """Bubbles (bubble, [x y z reflectivity], frame) in wavelengths, NaN where there are fewer."""
    table = check_bubbles(bubbles).sort_values("frame", kind="stable")
    frame = table["frame"].to_numpy()
    row = table.groupby("frame").cumcount().to_numpy()
    positions = np.full((int(row.max(initial=0)) + 1, 4, n_frames), np.nan)
    z, x = acquisition.to_wl(table["z"], table["x"])
    positions[row, :, frame] = np.stack([x, np.zeros_like(x), z, table["score"]], axis=1)
    return positions


def _pala_setup(
    n_frames: int, n_bubbles: int, frame_rate_hz: float, acquisition: Acquisition
) -> dict[str, Any]:
    """Variables of PALA's sequence file."""
    z0, x0 = acquisition.origin_wl
    step = acquisition.step_wl
    centre_mhz = CENTRE_HZ / 1e6
    tilts = np.empty(len(acquisition.angles_deg), dtype=[("Steer", object)])
    tilts["Steer"] = [[math.radians(angle), 0.0] for angle in acquisition.angles_deg]
    return {
        "P": {"BlocSize": n_frames, "numBloc": 1, "numTx": len(tilts), "FrameRate": frame_rate_hz},
        "PData": {
            "Origin": [x0, 0.0, z0],
            "PDelta": [step, 0.0, step],
            "Size": [*acquisition.shape_px, 1],
        },
        "Trans": {
            "name": "L22-14v",
            "frequency": centre_mhz,
            "numelements": N_ELEMENTS,
            "spacingMm": PITCH_M * 1e3,
        },
        "Media": {"nbPointsMax": n_bubbles, "attenuation": acquisition.attenuation_db},
        "UF": {"TwFreq": centre_mhz, "FrameRateUF": frame_rate_hz},
        "Resource": {"Parameters": {"speedOfSound": SPEED_M_S}},
        "Receive": {"samplesPerWave": 4},
        "TW": {"type": "parametric"},
        "TX": tilts,
        "filetitle": "PALA_InSilicoFlow",
    }


def _save_mat(path: Path, variables: dict[str, Any]) -> None:
    """Write variables to a MATLAB file, whose bytes depend on them alone."""
    content = BytesIO()
    savemat(content, variables, oned_as="row")
    # The text at the start of the file holds the time of writing: it is replaced.
    content.seek(0)
    content.write(b"MATLAB 5.0 MAT-file, written by ulmpaper".ljust(116))
    write_atomic(path, content.getvalue())
