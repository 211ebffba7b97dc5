"""Arrays in files: what a MAT, HDF5 or NumPy file holds, slices of it, and the HDF5 store of blocks."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.io import loadmat, whosmat

from ulmpaper.diskfile import DiskFile
from ulmpaper.records import Block, check_bubbles, check_choice, check_frames

_FORMAT = "ulmpaper blocks 1"
_SUFFIXES = (".mat", ".h5", ".hdf5", ".npy")
_MATLAB_NUMBERS = {"double", "single", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}


class ArrayInfo(NamedTuple):
    """Shape of an array in a file and what its axes are: ``t``, ``z``, ``x``, and ``c`` for real and imaginary part."""

    shape: tuple[int, ...]
    axes: str


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong inside into one ValueError that names the file."""
    try:
        yield
    except Exception as error:  # the libraries raise a dozen types on damaged files
        if isinstance(error, MemoryError) or getattr(error, "errno", None):  # of the machine, not of the file
            raise
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"cannot read {path}, it is damaged or not what its name says ({reason})") from error


def list_arrays(path: Path) -> tuple[str, dict[str, ArrayInfo]]:
    """Kind of a file (``MAT v5``, ``MAT v7.3``, ``HDF5``, ``BlockStore`` or ``NumPy``) and its arrays of numbers.

    Raises
    ------
    ValueError, OSError
        Another kind of file, or a damaged one; no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is a folder, give a file" if path.is_dir() else f"there is no file {path}")
    suffix = check_choice(path.suffix.lower(), _SUFFIXES, f"kind of file ({path.name})")
    with readable(path):
        if suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            return "NumPy", {"array": ArrayInfo(array.shape, "tzx")} if array.dtype.kind in "iufc" else {}
        if not h5py.is_hdf5(path):
            return "MAT v5", {n: ArrayInfo(shape, "zxt") for n, shape, kind in whosmat(path) if kind in _MATLAB_NUMBERS}
        with h5py.File(path) as file:
            if file.attrs.get("format") == _FORMAT:
                size = file["frames"].shape[1:] if "frames" in file else (0, 0)
                return "BlockStore", {"frames": ArrayInfo((int(file.attrs["complete"]), *size), "tzx")}
            arrays = _hdf5_arrays(file, suffix == ".mat")
    return "MAT v7.3" if any(info.axes == "txz" for info in arrays.values()) else "HDF5", arrays


def _hdf5_arrays(file: h5py.File, matlab: bool) -> dict[str, ArrayInfo]:
    arrays = {}

    def visit(name: str, item: Any) -> None:
        numeric = isinstance(item, h5py.Dataset) and (item.dtype.kind in "iufc" or item.dtype.names == ("real", "imag"))
        if numeric and not name.startswith("#"):  # MATLAB's own
            # MATLAB writes its axes in reverse; record 7883227 keeps the two parts of IQ on a first axis.
            parts = "czxt" if item.ndim == 4 and item.shape[0] == 2 else "tzx"
            arrays[name] = ArrayInfo(item.shape, "txz" if matlab or "MATLAB_class" in item.attrs else parts)

    file.visititems(visit)
    return arrays


@contextlib.contextmanager
def open_array(path: Path, name: str) -> Iterator[Any]:
    """Array of a file, read as it is sliced; only MAT v5, which is compressed as a whole, is read at once."""
    with contextlib.ExitStack() as stack:
        with readable(path):
            if path.suffix.lower() == ".npy":
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            elif h5py.is_hdf5(path):
                array = stack.enter_context(h5py.File(path))[name]
            else:
                array = loadmat(path, variable_names=[name])[name]
        yield array


class BlockStore:
    """Blocks of frames and their truth in one HDF5 file, appended in order and read back by window.

    Parameters
    ----------
    path : path
        The file, ``.h5`` or ``.hdf5``.
    mode : {"r", "w", "a"}
        Read; write anew, under another name until the store is closed without an error; or go on where the last
        complete block ends, so that a run that was interrupted can be taken up again.
    about : mapping, optional
        What else a new store keeps: text, numbers and lists of them, read back as `about`.

    Raises
    ------
    ValueError, OSError
        Unknown mode, or a file that is not a sound block store; no such file or folder.

    Notes
    -----
    A chunk is one frame, shuffled and packed by gzip at level 1 (lzf is 1.6 times as fast but read by h5py alone). The
    same blocks give the same bytes. The attribute ``complete`` counts the frames that were written to the end.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with BlockStore(f"{folder}/noise.h5", "w") as store:
    ...         store.append(Block(np.ones((5, 8, 8), np.float32), frame_rate_hz=1000.0))
    ...     with BlockStore(f"{folder}/noise.h5") as store:
    ...         len(store), store.window(3, 2).frames.shape, store.frame_rate_hz
    (5, (2, 8, 8), 1000.0)
    """

    def __init__(self, path: str | Path, mode: str = "r", about: Mapping[str, Any] | None = None) -> None:
        self.path = Path(path)
        check_choice(mode, ("r", "w", "a"), "mode")
        if mode == "a" and not self.path.exists():
            BlockStore(path, "w", about).close()
        self._part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part") if mode == "w" else None
        if self._part:
            if not self.path.parent.is_dir():
                raise FileNotFoundError(f"there is no folder {self.path.parent}: make it first")
            self._file = DiskFile(self._part, "w")
            self._file.attrs.update({"format": _FORMAT, "complete": 0, "about": json.dumps(about or {})})
            return
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no file {self.path}")
        with readable(self.path):
            self._file = DiskFile(self.path, "r+") if mode == "a" else h5py.File(self.path)
        if self._file.attrs.get("format") != _FORMAT:
            self._file.close()
            raise ValueError(f"{self.path} is not a block store: read it with datasets.open_frames")
        if mode == "a" and "frames" in self._file:
            self._resize(len(self), self._n_rows(len(self)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(keep=kind is None)

    def close(self, *, keep: bool = True) -> None:
        """Close the file; a new one gets its name now, or is dropped."""
        if not self._file:
            return
        self._file.close()
        try:
            if isinstance(self._file, DiskFile):
                self._file.check()
            if self._part and keep:
                self._part.replace(self.path)
        finally:
            if self._part:
                self._part.unlink(missing_ok=True)

    def __len__(self) -> int:
        return int(self._file.attrs["complete"])

    @property
    def px_mm(self) -> float | None:
        """Pixel pitch [mm]."""
        return self._number("px_mm")

    @property
    def frame_rate_hz(self) -> float | None:
        """Frames per second [Hz]."""
        return self._number("frame_rate_hz")

    @property
    def source(self) -> str:
        """What the frames are, in the words of the first block."""
        return str(self._file.attrs.get("source", "empty block store"))

    @property
    def about(self) -> dict[str, Any]:
        """What the store was told when it was made."""
        return json.loads(self._file.attrs.get("about", "{}"))

    @property
    def has_truth(self) -> bool:
        """Whether the blocks have true bubbles."""
        return "truth" in self._file

    def append(self, block: Block) -> None:
        """Write a block after the last; frames become float32 or complex64, truth is sorted by frame.

        Raises
        ------
        ValueError
            Size, number type, scale or columns of the truth differ from the first block; truth outside the frames.
        """
        frames = check_frames(block.frames, allow_complex=True)
        frames = frames.astype(np.complex64 if frames.dtype.kind == "c" else np.float32, copy=False)
        truth = None if block.bubbles is None else _by_frame(block.bubbles, len(frames))
        columns = None if truth is None else {str(name): truth[name].to_numpy().dtype for name in truth}
        if "frames" not in self._file:
            self._create(frames, columns, block)
        self._check_same(frames, columns, block)
        start, n_rows = len(self), self._n_rows(len(self))
        self._resize(start + len(frames), n_rows + (0 if truth is None else len(truth)))
        self._file["frames"][start:] = frames
        if truth is not None:
            self._file["truth_end"][start:] = n_rows + np.searchsorted(truth["frame"], np.arange(len(frames)), "right")
            for name, column in self._file["truth"].items():
                column[n_rows:] = truth[name] + start if name == "frame" else truth[name]
        # What is counted must be on the disk before the count says so.
        self._file.flush()
        self._file.check()
        self._file.attrs["complete"] = start + len(frames)
        self._file.flush()

    def window(self, start: int, n_frames: int) -> Block:
        """Frames `start` to ``start + n_frames`` and their truth, whose frames count from 0 again.

        Raises
        ------
        ValueError
            Frames that are not in the store, or damaged ones.
        """
        stop = start + n_frames
        if not 0 <= start < stop <= len(self):
            raise ValueError(f"frames {start} to {stop} are not in {self.path}, which holds {len(self)}")
        truth = None
        with readable(self.path):
            frames = self._file["frames"][start:stop]
            if self.has_truth:
                rows = slice(self._n_rows(start), self._n_rows(stop))
                truth = pd.DataFrame({name: column[rows] for name, column in self._file["truth"].items()})
                truth["frame"] -= start
        return Block(frames, truth, self.px_mm, self.frame_rate_hz, self.source)

    def _number(self, name: str) -> float | None:
        value = self._file.attrs.get(name)
        return None if value is None else float(value)

    def _n_rows(self, n_frames: int) -> int:
        """Rows of truth that belong to the first `n_frames`."""
        return int(self._file["truth_end"][n_frames - 1]) if n_frames and self.has_truth else 0

    def _resize(self, n_frames: int, n_rows: int) -> None:
        self._file["frames"].resize(n_frames, axis=0)
        if self.has_truth:
            self._file["truth_end"].resize(n_frames, axis=0)
            for column in self._file["truth"].values():
                column.resize(n_rows, axis=0)

    def _create(self, frames: NDArray, columns: dict[str, np.dtype] | None, block: Block) -> None:
        size, grow = frames.shape[1:], {"maxshape": (None,), "chunks": (1024,), "track_times": False}
        pack = {"compression": "gzip", "compression_opts": 1, "shuffle": True, "track_times": False}
        self._file.create_dataset("frames", (0, *size), frames.dtype, maxshape=(None, *size), chunks=(1, *size), **pack)
        for name in ("px_mm", "frame_rate_hz", "source"):
            if getattr(block, name) is not None:
                self._file.attrs[name] = getattr(block, name)
        if columns is not None:
            self._file.create_dataset("truth_end", (0,), np.int64, **grow)
            table = self._file.create_group("truth", track_order=True)
            for name, dtype in columns.items():
                table.create_dataset(name, (0,), dtype, **grow)

    def _check_same(self, frames: NDArray, columns: dict[str, np.dtype] | None, block: Block) -> None:
        stored, table = self._file["frames"], self._file.get("truth")
        pairs = {
            "frames of size": (stored.shape[1:], frames.shape[1:]),
            "numbers of type": (stored.dtype, frames.dtype),
            "pixel pitch [mm]": (self.px_mm, block.px_mm),
            "frame rate [Hz]": (self.frame_rate_hz, block.frame_rate_hz),
            "truth columns": (None if table is None else {n: column.dtype for n, column in table.items()}, columns),
        }
        for what, (here, new) in pairs.items():
            if here != new:
                raise ValueError(f"{self.path} holds blocks with {what} {here}, not {new}: put them in another store")


def _by_frame(bubbles: pd.DataFrame, n_frames: int) -> pd.DataFrame:
    check_bubbles(bubbles)
    frame, words = bubbles["frame"], [name for name in bubbles if bubbles[name].to_numpy().dtype.kind not in "biuf"]
    if words:
        raise ValueError(f"columns {words} of the truth do not hold plain numbers: drop or convert them")
    if not frame.between(0, n_frames - 1).all():
        raise ValueError(f"true bubbles lie in frames {frame.min()} to {frame.max()} of a block of {n_frames} frames")
    return bubbles.astype({"frame": np.int64}).sort_values("frame", kind="stable", ignore_index=True)
