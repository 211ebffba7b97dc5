"""Any stack of frames as a stream, PALA's files among them.

MATLAB's arrays are (z, x, t) and count from 1. Blocks are (t, z, x), count from 0, and hold float32
or complex64 (IQ).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.io import loadmat, whosmat
from tqdm import tqdm

from ulmpaper.core.records import Block, bubble_table, check_amplitude, check_choice, check_positive
from ulmpaper.io.files import readable, writable
from ulmpaper.io.store import _FORMAT, BlockStore

_SUFFIXES = (".mat", ".h5", ".hdf5", ".npy")
_MATLAB_NUMBERS = {
    "double",
    "single",
    *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
}
_KNOWN_STACKS = ("IQ", "normal_rat_kidney")  # PALA's and the rat kidney's names of the frames
_FIELDS = {  # where a scale may stand; the first that is there counts
    "MHz": ("Trans.frequency", "UF.TwFreq"),
    "m/s": ("Resource.Parameters.speedOfSound", "param.SpeedOfSound"),
    "Hz": ("P.FrameRate", "UF.FrameRateUF", "param.FrameRate"),
    "origin": ("PData.Origin",),  # x, y, z of the centre of pixel (0, 0) [wavelengths]
    "pitch": ("PData.PDelta", "PixelData.PDelta"),  # along x, y, z [wavelengths]
}
_IN_SILICO = {"MHz": np.array([15.625]), "origin": np.array([-72.0, 0, 16]), "pitch": np.ones(3)}
_SPEED_M_S = 1540.0  # of sound, where a file does not state it
_STORED_TOGETHER = 200  # frames in memory while files are put into a store


@dataclass(frozen=True)
class FrameFile:
    """A stack of frames in a file, made by `open_frames`; frames stay in the file until read.

    Parameters
    ----------
    path, variable, kind : Path, str, str
        The file, its array, and ``MAT v5``, ``MAT v7.3``, ``HDF5``, ``BlockStore`` or ``NumPy``.
    axes : str
        Meaning of the array's axes in the file; ``c`` holds real and imaginary part.
    n_frames, shape_px : int, (int, int)
        Number of frames and their size (z, x) [px].
    px_mm, frame_rate_hz : float or None
        Pixel pitch [mm] and frame rate [Hz] where the source states them.
    source : str
        What the frames are, in words fit for a title.
    has_truth : bool
        Whether true bubbles come with the frames.
    """

    path: Path
    variable: str
    kind: str
    axes: str
    n_frames: int
    shape_px: tuple[int, int]
    px_mm: float | None
    frame_rate_hz: float | None
    source: str
    has_truth: bool

    @property
    def dtype(self) -> np.dtype:
        """float32 or complex64; reads one frame, or all of a MAT v5 file."""
        return next(self.blocks(1)).frames.dtype

    def read(self) -> Block:
        """Read all frames as one block."""
        return next(self.blocks(self.n_frames))

    def blocks(
        self, n_frames: int = 800, *, start: int = 0, stop: int | None = None, min_frames: int = 1
    ) -> Iterator[Block]:
        """Read frames `start` to `stop` in blocks of `n_frames`.

        Fewer than `min_frames` at the end join the block before. One block is in memory at a time;
        a MAT v5 file, compressed as a whole, is read whole once per call. The truth of each block
        counts its frames from 0.

        Raises
        ------
        ValueError
            Frames that are not in the file, or a damaged file.
        """
        check_positive(n_frames=n_frames)
        stop = self.n_frames if stop is None else stop
        if not 0 <= start < stop <= self.n_frames:
            raise ValueError(
                f"frames {start} to {stop} are not in {self.path}, which holds {self.n_frames}"
            )
        firsts = [f for f in range(start, stop, n_frames) if f == start or stop - f >= min_frames]
        # A generator of its own, so that wrong arguments raise here and not at the first block.
        return self._blocks(list(zip(firsts, [*firsts[1:], stop], strict=True)))

    def _blocks(self, spans: list[tuple[int, int]]) -> Iterator[Block]:
        """Blocks of the frames from first to last, last excluded."""
        if self.kind == "BlockStore":
            with BlockStore(self.path) as store:
                for first, last in spans:
                    block = store.window(first, last - first)
                    yield dataclasses.replace(
                        block, px_mm=self.px_mm, frame_rate_hz=self.frame_rate_hz
                    )
            return
        truth = _true_bubbles(self) if self.has_truth else None
        with _open_array(self.path, self.variable) as array:
            for first, last in spans:
                with readable(self.path):
                    frames = _slice(array, self.axes, first, last)
                bubbles = None
                if truth is not None:
                    bubbles = truth[truth["frame"].between(first, last - 1)]
                    bubbles = bubbles.assign(frame=bubbles["frame"] - first).reset_index(drop=True)
                yield Block(frames, bubbles, self.px_mm, self.frame_rate_hz, self.source)


def read_frames(
    path: str | os.PathLike,
    variable: str | None = None,
    *,
    px_mm: float | None = None,
    frame_rate_hz: float | None = None,
) -> Block:
    """Read all frames of a file into memory.

    Parameters and errors are those of `open_frames`, which streams them.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/a.npy", np.ones((5, 8, 9)))
    ...     read_frames(f"{folder}/a.npy", px_mm=0.1).frames.shape
    (5, 8, 9)
    """
    return open_frames(path, variable, px_mm=px_mm, frame_rate_hz=frame_rate_hz).read()


def open_frames(
    path: str | os.PathLike,
    variable: str | None = None,
    *,
    px_mm: float | None = None,
    frame_rate_hz: float | None = None,
) -> FrameFile:
    """Open any stack of frames: .mat (v5 to v7.3), .h5 or .hdf5 (also a `BlockStore`), .npy.

    Parameters
    ----------
    path : path
        Arrays are (z, x, t) in .mat files, else (t, z, x).
    variable : str, optional
        Name of the array; else PALA's ``IQ``, ``normal_rat_kidney``, or the only array of three
        axes.
    px_mm, frame_rate_hz : float, optional
        Pixel pitch [mm] and frame rate [Hz], instead of what the file states.

    Raises
    ------
    TypeError
        `path` is no path.
    ValueError
        Not a file of frames, a damaged one, no or several arrays to choose from (the message lists
        them), or no frames.
    OSError
        No such file.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(
            f"open_frames takes the path of a file, not {type(path).__name__}: an array needs "
            "no reading, give it to ulm or locate, or make a "
            "Block(array, px_mm=..., frame_rate_hz=...)"
        )
    path = Path(path)
    kind, arrays = _list_arrays(path)
    variable = _choose(path, arrays, variable)
    shape, axes = arrays[variable]
    if 0 in shape:
        raise ValueError(f"{path} holds no frames: {variable} has the shape {shape}")
    size = dict(zip(axes, shape, strict=True))
    has_truth = False
    source = path.name
    pitch_mm = rate_hz = None  # as the file states them
    if kind == "BlockStore":
        with BlockStore(path) as store:
            has_truth = store.has_truth
            pitch_mm = store.px_mm
            rate_hz = store.frame_rate_hz
            source = store.source
    elif variable == "IQ" or axes == "czxt":
        has_truth = "ListPos" in arrays and kind.startswith("MAT")
        pitch_mm, rate_hz = _scale(_grid(path, in_silico=has_truth))
        source = f"{'PALA in silico flow' if has_truth else 'IQ'} ({path.stem})"
    elif variable == "normal_rat_kidney":
        source = "rat kidney in vivo"
    return FrameFile(
        path=path,
        variable=variable,
        kind=kind,
        axes=axes,
        n_frames=size["t"],
        shape_px=(size["z"], size["x"]),
        px_mm=pitch_mm if px_mm is None else px_mm,
        frame_rate_hz=rate_hz if frame_rate_hz is None else frame_rate_hz,
        source=source,
        has_truth=has_truth,
    )


def read_insilico(path: str | Path, sequence: int | None = None) -> Block:
    """Read a sequence of PALA's in silico flow with its true bubbles.

    Parameters
    ----------
    path : path
        The data set's folder, or one file ``PALA_InSilicoFlow_IQ001.mat``.
    sequence : int, optional
        Number from 1 to 20, as in PALA; not needed where `path` is a file.

    Returns
    -------
    Block
        IQ (T, 84, 143) complex64; the bubbles' ``score`` is their reflectivity. The scale comes
        from the file and from ``PALA_InSilicoFlow_sequence.mat`` near it. What both lack is PALA's:
        origin (-72, 0, 16), pitch 1 wavelength of 1540 m/s / 15.625 MHz = 0.09856 mm; but an
        unknown frame rate stays None.

    Raises
    ------
    ValueError, OSError
        As in `open_frames`; no such sequence; no true positions.

    Notes
    -----
    NaN marks an absent bubble. Inside are the bubbles that ``PALA_PairingAlgorithm.m`` keeps:
    0 <= x <= n_x + 1 and 0 <= z <= n_z + 1 in our pixels, so up to two pixels past the last centre
    but nothing before the first.
    """
    file = open_frames(
        _find_file(path, sequence, "sequence", "PALA_InSilicoFlow_IQ{:03d}.mat"), "IQ"
    )
    if not file.has_truth:
        raise ValueError(f"{file.path} has no true positions (ListPos): read it with open_frames")
    return file.read()


def read_ratbrain(path: str | Path, block: int | None = None) -> Block:
    """Read a block of PALA's rat brain: Zenodo record 4343435 (.mat) or 7883227 (.hdf5).

    Parameters
    ----------
    path : path
        Folder of the unpacked archives, or one file ``PALA_InVivoRatBrain_001.mat`` or
        ``IQ_001.hdf5``.
    block : int, optional
        Number from 1; not needed where `path` is a file.

    Returns
    -------
    Block
        IQ (T, Z, X) complex64, without truth; scale from the file or ``param.mat`` near it, at
        1540 m/s unless stated, or None.

    Raises
    ------
    ValueError, OSError
        As in `open_frames`; no such block; other data.
    """
    names = ("PALA_InVivoRatBrain_{:03d}.mat", "IQ_{:03d}.hdf5", "IQ_{:03d}.mat")
    file = open_frames(_find_file(path, block, "block", *names))
    if file.has_truth or not (file.variable == "IQ" or file.axes == "czxt"):
        raise ValueError(f"{file.path} is not a block of the rat brain: read it with open_frames")
    return dataclasses.replace(file.read(), source=f"PALA rat brain ({file.path.stem})")


def read_ratkidney(path: str | Path) -> Block:
    """Read the 50 frames of a rat kidney, amplitude in 0..1; neither scale nor truth is known."""
    return open_frames(path, "normal_rat_kidney").read()


def store_frames(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    variable: str | None = None,
    progress: bool = False,
) -> int:
    """Put the frames of several files, and their true bubbles, into one block store.

    Parameters
    ----------
    paths : sequence of path
        Files that `open_frames` reads, with frames of one size, all with truth or all without.
    out : path
        The block store, ``.h5`` or ``.hdf5``, written anew; it appears when it is complete.
    variable : str, optional
        Name of the array in the files, where they hold several.
    progress : bool
        Show a bar if it takes more than 2 s.

    Returns
    -------
    int
        Frames in the store: amplitude (T, Z, X) float32.

    Raises
    ------
    ValueError, OSError
        See `open_frames` and `ulmpaper.io.BlockStore`; `out` exists and was not made of these
        files; negative frames. Nothing is written then.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/a.npy", np.ones((5, 8, 9), np.complex64))
    ...     store_frames([f"{folder}/a.npy", f"{folder}/a.npy"], f"{folder}/both.h5")
    10
    """
    files = [open_frames(path, variable) for path in paths]
    out = Path(out)
    check_choice(out.suffix, (".h5", ".hdf5"), "kind of file to write")
    names = [file.path.name for file in files]
    if out.exists() and (not h5py.is_hdf5(out) or _made_of(out) != names):
        raise ValueError(
            f"{out} is there and was not made of {', '.join(names)}: "
            "choose another name, or delete it"
        )
    with writable(out.parent), BlockStore(out, "w", {"files": names}) as store:
        for file in tqdm(files, unit="file", delay=2, disable=not progress):
            for block in file.blocks(_STORED_TOGETHER):
                is_iq = block.frames.dtype.kind == "c"
                frames = np.abs(block.frames) if is_iq else check_amplitude(block.frames)
                store.append(dataclasses.replace(block, frames=frames))
        return len(store)


def _made_of(path: Path) -> list[str] | None:
    """Names of the files that a store was made of."""
    with h5py.File(path) as file:
        return json.loads(file.attrs.get("about", "{}")).get("files")


class _ArrayInfo(NamedTuple):
    """Shape of an array in a file, and its axes: t, z, x, and c for real and imaginary part."""

    shape: tuple[int, ...]
    axes: str


def _list_arrays(path: Path) -> tuple[str, dict[str, _ArrayInfo]]:
    """Kind of a file, as in `FrameFile`, and its arrays of numbers."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is a folder, give a file" if path.is_dir() else f"there is no file {path}"
        )
    suffix = check_choice(path.suffix.lower(), _SUFFIXES, f"kind of file ({path.name})")
    with readable(path):
        if suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            is_numeric = array.dtype.kind in "iufc"
            return "NumPy", {"array": _ArrayInfo(array.shape, "tzx")} if is_numeric else {}
        if not h5py.is_hdf5(path):
            arrays = {
                name: _ArrayInfo(shape, "zxt")
                for name, shape, kind in whosmat(path)
                if kind in _MATLAB_NUMBERS
            }
            return "MAT v5", arrays
        with h5py.File(path) as file:
            if file.attrs.get("format") == _FORMAT:
                size = file["frames"].shape[1:] if "frames" in file else (0, 0)
                shape = (int(file.attrs["complete"]), *size)
                return "BlockStore", {"frames": _ArrayInfo(shape, "tzx")}
            arrays = _hdf5_arrays(file, suffix == ".mat")
    return "MAT v7.3" if any(info.axes == "txz" for info in arrays.values()) else "HDF5", arrays


def _hdf5_arrays(file: h5py.File, is_matlab: bool) -> dict[str, _ArrayInfo]:
    """Arrays of numbers in an HDF5 file."""
    arrays = {}

    def visit(name: str, item: Any) -> None:
        numeric = isinstance(item, h5py.Dataset) and (
            item.dtype.kind in "iufc" or item.dtype.names == ("real", "imag")
        )
        if not numeric or name.startswith("#"):  # "#" opens what MATLAB keeps for itself
            return
        if is_matlab or "MATLAB_class" in item.attrs:
            axes = "txz"  # MATLAB writes its axes in reverse
        elif item.ndim == 4 and item.shape[0] == 2:
            axes = "czxt"  # record 7883227 keeps the two parts of IQ on a first axis
        else:
            axes = "tzx"
        arrays[name] = _ArrayInfo(item.shape, axes)

    file.visititems(visit)
    return arrays


@contextlib.contextmanager
def _open_array(path: Path, name: str) -> Iterator[Any]:
    """Array that is read as it is sliced; only MAT v5, compressed as a whole, is read at once."""
    with contextlib.ExitStack() as stack:
        with readable(path):
            if path.suffix.lower() == ".npy":
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            elif h5py.is_hdf5(path):
                array = stack.enter_context(h5py.File(path))[name]
            else:
                array = loadmat(path, variable_names=[name])[name]
        yield array


def _slice(array: Any, axes: str, first: int, last: int) -> NDArray:
    """Frames of an array with the given axes as (t, z, x), float32 or complex64."""
    part = np.asarray(
        array[tuple(slice(first, last) if axis == "t" else slice(None) for axis in axes)]
    )
    if part.dtype.names:  # MATLAB's complex numbers
        part = part["real"] + 1j * part["imag"]
    if axes[0] == "c":
        part = part[0] + 1j * part[1]
        axes = axes[1:]
    dtype = np.complex64 if part.dtype.kind == "c" else np.float32
    return np.ascontiguousarray(part.transpose([axes.index(axis) for axis in "tzx"]), dtype=dtype)


def _find_file(path: str | Path, number: int | None, what: str, *patterns: str) -> Path:
    """`path`, or the file of that number below the folder `path`."""
    path = Path(path)
    if not path.is_dir():
        return path
    check_positive(**{f"{path} is a folder, so {what}": number})
    names = [pattern.format(number) for pattern in patterns]
    found = [file for name in names for file in sorted(path.rglob(name))]
    if not found:
        raise FileNotFoundError(f"no {what} {number} below {path}: looked for {' or '.join(names)}")
    return found[0]


def _choose(path: Path, arrays: dict[str, _ArrayInfo], variable: str | None) -> str:
    """Name of the stack of frames among the arrays of a file."""
    stacks = [name for name, info in arrays.items() if len(info.shape) == len(info.axes)]
    known = [name for name in _KNOWN_STACKS if name in stacks]
    listing = ", ".join(f"{name} {info.shape}" for name, info in arrays.items())
    listing = listing or "no arrays of numbers"
    if variable is None and len(stacks) > 1 and not known:
        raise ValueError(
            f"{path} has several stacks of frames, choose one with variable=...; it holds {listing}"
        )
    chosen = variable or (known or stacks or [""])[0]
    if chosen not in stacks:
        wanted = f"no stack of frames {variable!r}" if variable else "no array of three axes"
        raise ValueError(
            f"{path} has {wanted}; it holds {listing}. "
            "Save a single frame as frame[None], (1, z, x)"
        )
    return chosen


def _grid(path: Path, *, in_silico: bool) -> dict[str, NDArray]:
    """Scale by the keys of `_FIELDS`: from the file, else a file near it, else PALA's constants."""
    found = dict(_IN_SILICO) if in_silico else {}
    beside = "PALA_InSilicoFlow_sequence.mat" if in_silico else "param.mat"
    near = [file for folder in path.resolve().parents[:3] if (file := folder / beside).is_file()]
    for source in (*near[:1], path):
        found |= _numbers(source)
    origin = found.setdefault("origin", np.zeros(3))
    pitch = found.setdefault("pitch", np.ones(3))
    if len(origin) != 3 or len(pitch) != 3 or not pitch[0] == pitch[2] > 0:
        raise ValueError(
            f"{path}: origin {origin} and pitch {pitch} (x, y, z) are not those of square pixels"
        )
    return found


def _numbers(path: Path) -> dict[str, NDArray]:
    """Finite numbers in the structs of a file, by the keys of `_FIELDS`."""
    names = [name for several in _FIELDS.values() for name in several]
    with readable(path):
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                items = {name: file.get(name.replace(".", "/")) for name in names}
                values = {
                    name: item[()] for name, item in items.items() if isinstance(item, h5py.Dataset)
                }
        else:
            structs = [name.split(".")[0] for name in names]
            tree = loadmat(path, simplify_cells=True, variable_names=structs)
            values = {name: functools.reduce(_field, name.split("."), tree) for name in names}
    arrays = {name: np.ravel(value) for name, value in values.items()}
    good = {
        name: a
        for name, a in arrays.items()
        if a.size and a.dtype.kind in "iuf" and np.isfinite(a).all()
    }
    # Reversed, so that the first name of a key is the last to be written and counts.
    return {
        key: good[name]
        for key, several in _FIELDS.items()
        for name in reversed(several)
        if name in good
    }


def _field(struct: Any, name: str) -> Any:
    """Field of a MATLAB struct, or of the first in an array of structs."""
    struct = struct[0] if isinstance(struct, list) and struct else struct
    return struct.get(name) if isinstance(struct, dict) else None


def _scale(grid: dict[str, NDArray]) -> tuple[float | None, float | None]:
    """Pixel pitch [mm] and frame rate [Hz]."""
    numbers = {key: float(grid[key][0]) for key in ("MHz", "m/s", "Hz") if key in grid}
    frame_rate_hz = numbers.get("Hz") or None
    if not numbers.get("MHz"):
        return None, frame_rate_hz
    wavelength_mm = (numbers.get("m/s") or _SPEED_M_S) / (numbers["MHz"] * 1e3)
    return wavelength_mm * float(grid["pitch"][0]), frame_rate_hz


def _true_bubbles(file: FrameFile) -> pd.DataFrame:
    """Bubble table of PALA's ``ListPos`` (n, [x y z reflectivity], t)."""
    grid = _grid(file.path, in_silico=True)
    with _open_array(file.path, "ListPos") as array:
        points = np.atleast_3d(array if file.kind == "MAT v5" else np.transpose(array))
    if points.shape[1] != 4 or points.shape[2] != file.n_frames:
        raise ValueError(
            f"{file.path}: ListPos has the shape {points.shape}, not (n, 4, {file.n_frames})"
        )
    x, z = ((points[:, k] - grid["origin"][k]) / grid["pitch"][k] for k in (0, 2))
    n_z, n_x = file.shape_px
    # NaN fails every comparison, so absent bubbles drop out too.
    frame, row = np.nonzero(((x >= 0) & (x <= n_x + 1) & (z >= 0) & (z <= n_z + 1)).T)
    return bubble_table(frame, z[row, frame], x[row, frame], np.nan_to_num(points[row, 3, frame]))
