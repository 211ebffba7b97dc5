"""Flow phantom: bubbles in known tubes, imaged by `ulmpaper.array`, in the layout of PALA's in silico data.

The tubes resemble those of PALA (Heiles et al. 2022), whose course and speeds are not published as numbers. The
frames are simulated by physics, those for training drawn with patches, so the phantom tests what was learnt. (The
shipped patches were cut from frames of the same array simulator, in other tissue: the banks share that with it.)
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.io import savemat

from ulmpaper import array, tubes
from ulmpaper.array import PALA_ACQUISITION, Acquisition
from ulmpaper.records import Block, bubble_table, check_bubbles, check_frames, check_positive
from ulmpaper.render import map_index, map_shape
from ulmpaper.tubes import Tube, phantom_geometry

__all__ = ["SPLITS", "Tube", "phantom_block", "phantom_bubbles", "phantom_geometry", "true_map", "write_pala"]

# Numbers of the sequences that the paper tests on, and of those it trains and validates on.
SPLITS = {"test": range(1, 16), "validation": range(16, 21)}

FRAME_RATE_HZ = 1000.0
_CHUNK_FRAMES = 25


def true_map(*, upsample: int = 10, acquisition: Acquisition = PALA_ACQUISITION) -> NDArray[np.float64]:
    """Map of the speed of bubbles in the tubes [wavelengths/frame], 0 outside them.

    Examples
    --------
    >>> true_map(upsample=2).shape
    (168, 286)
    """
    check_positive(upsample=upsample)
    image = np.zeros(map_shape(acquisition.shape_px, upsample=upsample))
    fine_wl = acquisition.step_wl / upsample / 3
    for tube in phantom_geometry():
        last = len(tube.z) - 1
        index = np.linspace(0, last, math.ceil(last * tubes.STEP / fine_wl) + 1)[:, None]
        offset = np.linspace(-1, 1, 2 * math.ceil(tube.radius.max() / fine_wl) + 11)
        speed = np.interp(index, np.arange(last + 1), tube.speed) * (1 - offset**2)
        z, x = (map_index(place, upsample=upsample) for place in acquisition.to_px(*tube.place(index, offset)))
        seen = (z >= 0) & (z < image.shape[0]) & (x >= 0) & (x < image.shape[1])
        np.maximum.at(image, (z[seen], x[seen]), speed[seen])
    return image


def phantom_bubbles(
    *, n_frames: int, n_bubbles: int = 45, rng: np.random.Generator, acquisition: Acquisition = PALA_ACQUISITION
) -> pd.DataFrame:
    """Let bubbles run through the tubes of the phantom.

    Parameters
    ----------
    n_frames, n_bubbles : int
        Length of the sequence and bubbles in each frame; one that leaves its tube is replaced.
    rng : numpy.random.Generator
        Source of the random numbers. The first frames do not depend on how many follow.
    acquisition : Acquisition
        Grid whose pixels are the unit of the table.

    Returns
    -------
    DataFrame
        Bubble table; `score` is the reflectivity, 0.6 to 1, the same for life. Added are ``bubble`` and ``tube``,
        the index in `phantom_geometry`.

    Notes
    -----
    Poiseuille flow, see `tubes.flow`.

    Examples
    --------
    >>> bubbles = phantom_bubbles(n_frames=3, n_bubbles=5, rng=np.random.default_rng(0))
    >>> len(bubbles), bubbles.columns.tolist()
    (15, ['frame', 'z', 'x', 'score', 'bubble', 'tube'])
    """
    check_positive(n_frames=n_frames, n_bubbles=n_bubbles)
    rows = tubes.flow(phantom_geometry(), n_frames=n_frames, n_bubbles=n_bubbles, rng=rng)
    frame, z_wl, x_wl, reflectivity, bubble, tube = rows
    table = bubble_table(frame, *acquisition.to_px(z_wl, x_wl), reflectivity)
    table = table.assign(bubble=bubble.astype(int), tube=tube.astype(int))
    return table.sort_values("frame", kind="stable", ignore_index=True)


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
    n_frames, n_bubbles, acquisition
        As in `phantom_bubbles`.
    seed : int
        Root of the random numbers of all sequences.
    n_jobs : int
        Processes; the block does not depend on it.
    cache_dir : path, optional
        Folder that keeps the frames. The same call again reads them, one that was interrupted goes on, and a longer
        one adds to them. A change of the code that makes the frames starts afresh.
    progress : bool
        Show a bar if it takes more than 2 s.

    Returns
    -------
    Block
        IQ (T, Z, X) complex64 and the true bubbles, at 1000 frames per second.

    Raises
    ------
    ValueError
        A number is out of range, or `acquisition` does not see all tubes.

    Examples
    --------
    >>> block = phantom_block(1, n_frames=1)
    >>> block.frames.shape, len(block.bubbles)
    ((1, 84, 143), 45)
    """
    if isinstance(sequence, bool) or not isinstance(sequence, int | np.integer) or sequence < 1:
        raise ValueError(f"sequence must be a whole number, 1 or more, not {sequence!r}")
    rng = np.random.default_rng([seed, int(sequence)])
    bubbles = phantom_bubbles(n_frames=n_frames, n_bubbles=n_bubbles, rng=rng, acquisition=acquisition)
    work: dict[str, Any] = {"n_jobs": n_jobs, "progress": progress}
    if cache_dir is None:
        frames = array.acquire(bubbles, n_frames, acquisition, **work)
    else:
        name = _digest(int(sequence), n_bubbles, seed, dataclasses.asdict(acquisition))
        frames = _cached(bubbles, n_frames, acquisition, Path(cache_dir) / f"phantom-{name}", work)
    return Block(frames, bubbles, acquisition.px_mm, FRAME_RATE_HZ, f"flow phantom, sequence {sequence}")


def _digest(*parameters: Any) -> str:
    """Ten hexadecimal digits that change with the parameters and with the code that makes the frames."""
    digest = hashlib.sha256(json.dumps([*parameters, importlib.metadata.version("pymust")]).encode())
    for source in (array.__file__, tubes.__file__, __file__):
        digest.update(Path(source).read_bytes())
    return digest.hexdigest()[:10]


def _cached(
    bubbles: pd.DataFrame, n_frames: int, acquisition: Acquisition, folder: Path, work: dict[str, Any]
) -> NDArray[np.complex64]:
    """Frames from the chunks in `folder`; those that are missing are made."""
    folder.mkdir(parents=True, exist_ok=True)
    spans = [(start, min(start + _CHUNK_FRAMES, n_frames)) for start in range(0, n_frames, _CHUNK_FRAMES)]
    files = {span: folder / "frames-{:06d}-{:06d}.npy".format(*span) for span in spans}
    missing = [span for span in spans if not files[span].exists()]
    for span, frames in array.acquire_spans(bubbles, missing, acquisition, **work):
        _write(files[span], functools.partial(np.save, arr=frames))
    return np.concatenate([np.load(file) for file in files.values()])


def write_pala(
    block: Block, folder: str | os.PathLike[str], sequence: int, *, acquisition: Acquisition = PALA_ACQUISITION
) -> Path:
    """Write a block as PALA's in silico files, which `datasets.read_insilico` reads back.

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

    Notes
    -----
    ``IQ`` is (z, x, t); ``ListPos`` is (bubble, [x y z reflectivity], t) in wavelengths, NaN where a frame has fewer
    bubbles. The variables are those that PALA's scripts read.
    """
    frames = check_frames(block.frames, allow_complex=True)
    if block.bubbles is None:
        raise ValueError("PALA's files hold the true bubbles, but the block has none")
    if frames.shape[1:] != acquisition.shape_px:
        raise ValueError(f"frames of {frames.shape[1:]} px do not lie on the grid of {acquisition.shape_px} px")
    positions = _list_pos(block.bubbles, len(frames), acquisition)
    folder = Path(folder)
    (folder / "IQ").mkdir(parents=True, exist_ok=True)
    path = folder / "IQ" / f"PALA_InSilicoFlow_IQ{sequence:03d}.mat"
    setup = _pala_setup(len(frames), len(positions), block.frame_rate_hz or FRAME_RATE_HZ, acquisition)
    beside = {name: setup[name] for name in ("Media", "P", "Resource", "Trans", "TX")}
    content = {"IQ": np.moveaxis(frames, 0, -1), "ListPos": positions, **beside}
    _write(path, functools.partial(_save_mat, content=content))
    setup["P"]["Nrepeat"] = len(list(path.parent.glob("PALA_InSilicoFlow_IQ*.mat")))
    _write(folder / "PALA_InSilicoFlow_sequence.mat", functools.partial(_save_mat, content=setup))
    return path


def _save_mat(file: BinaryIO, content: dict[str, Any]) -> None:
    savemat(file, content, oned_as="row")
    # The text at the start of the file would carry the time: same data, same bytes.
    file.seek(0)
    file.write(b"MATLAB 5.0 MAT-file, written by ulmpaper".ljust(116))


def _list_pos(bubbles: pd.DataFrame, n_frames: int, acquisition: Acquisition) -> NDArray[np.float64]:
    table = check_bubbles(bubbles).sort_values("frame", kind="stable")
    frame = table["frame"].to_numpy()
    row = table.groupby("frame").cumcount().to_numpy()
    positions = np.full((int(row.max(initial=0)) + 1, 4, n_frames), np.nan)
    z, x = acquisition.to_wl(table["z"], table["x"])
    positions[row, :, frame] = np.stack([x, np.zeros_like(x), z, table["score"]], axis=1)
    return positions


def _pala_setup(n_frames: int, n_bubbles: int, frame_rate_hz: float, acquisition: Acquisition) -> dict[str, Any]:
    """Variables of PALA's sequence file."""
    (z0, x0), step = acquisition.origin_wl, acquisition.step_wl
    mhz, pitch_mm = array.CENTRE_HZ / 1e6, array.PITCH_M * 1e3
    tilts = np.empty(len(acquisition.angles_deg), dtype=[("Steer", object)])
    tilts["Steer"] = [[math.radians(angle), 0.0] for angle in acquisition.angles_deg]
    return {
        "P": {"BlocSize": n_frames, "numBloc": 1, "numTx": len(tilts), "FrameRate": frame_rate_hz},
        "PData": {"Origin": [x0, 0.0, z0], "PDelta": [step, 0.0, step], "Size": [*acquisition.shape_px, 1]},
        "Trans": {"name": "L22-14v", "frequency": mhz, "numelements": array.N_ELEMENTS, "spacingMm": pitch_mm},
        "Media": {"nbPointsMax": n_bubbles, "attenuation": acquisition.attenuation_db},
        "UF": {"TwFreq": mhz, "FrameRateUF": frame_rate_hz},
        "Resource": {"Parameters": {"speedOfSound": array.SPEED_M_S}},
        "Receive": {"samplesPerWave": 4},
        "TW": {"type": "parametric"},
        "TX": tilts,
        "filetitle": "PALA_InSilicoFlow",
    }


def _write(path: Path, save: Callable[[BinaryIO], None]) -> None:
    """Write a file whole or not at all."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            save(file)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
