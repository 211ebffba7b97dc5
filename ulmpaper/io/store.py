"""Block store: blocks of frames and their truth in one HDF5 file."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ulmpaper.core.arguments import explained
from ulmpaper.core.records import Block, check_bubbles, check_choice, check_frames, check_whole
from ulmpaper.core.scale import same_scale
from ulmpaper.io.files import SafeHDF5, hidden_part, only_writer, readable, remove, undo_changes
from ulmpaper.io.processes import as_a_whole

_FORMAT = "ulmpaper blocks 1"
_GUESSES = ("write", "create", "add", "put", "save")  # names that people try instead of `append`
_SCALE = ("px_mm", "frame_rate_hz", "source")
_ROWS_PER_CHUNK = 1024


@explained
class BlockStore:
    """Blocks of frames and their truth in one HDF5 file, appended in order and read by window.

    Parameters
    ----------
    path : path
        The file, ``.h5`` or ``.hdf5``.
    mode : {"r", "w", "a"}
        Read; write anew, under a hidden name until the store is closed without an error; or
        continue after the last complete block, so that an interrupted run can be resumed.
    about : mapping, optional
        What else a new store keeps: text, numbers and lists of them, read back as `about`.

    Raises
    ------
    ValueError, OSError
        Unknown mode, or a file that is not a sound block store; no such file or folder.

    Notes
    -----
    A chunk is one frame, shuffled and packed by gzip at level 1 (lzf is 1.6 times as fast, but only
    h5py reads it). The same blocks give the same bytes. The attribute ``complete`` counts the
    frames that are complete.

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

    def __init__(
        self, path: str | Path, mode: str = "r", about: Mapping[str, Any] | None = None
    ) -> None:
        self.path = Path(path)
        self._mode = check_choice(mode, ("r", "w", "a"), "mode")
        self._undo = self.path.with_name(f".{self.path.name}.undo")
        self._held = contextlib.ExitStack()  # the lock of who writes
        self._file: h5py.File
        if mode != "r":
            if not self.path.parent.is_dir():
                raise FileNotFoundError(f"there is no folder {self.path.parent}: make it first")
            self._held.enter_context(only_writer(self.path))
        try:
            self._open(dict(about or {}))
        except BaseException:
            self._held.close()
            raise

    def _open(self, about: Mapping[str, Any]) -> None:
        """Make or open the file."""
        self._part = hidden_part(self.path)
        if self._mode == "a" and not self.path.exists():
            self._make(about)
            self._file.close()
            self._part.replace(self.path)
        elif self._mode == "w":
            self._make(about)
            return
        if not self.path.is_file():
            raise FileNotFoundError(f"there is no file {self.path}")
        if self._mode == "a":
            undo_changes(self.path, self._undo)
        elif self._undo.exists():  # a run was killed while it wrote, if it does not write still
            with only_writer(self.path):
                undo_changes(self.path, self._undo)
        with readable(self.path):
            self._file = h5py.File(self.path)
        try:
            _check_layout(self._file, self.path)
        except BaseException:
            self._file.close()
            raise

    def _make(self, about: Mapping[str, Any]) -> None:
        """Begin a file under its hidden name."""
        remove(self._part)  # what a run that was killed has left
        self._file = SafeHDF5(self._part, "w")
        with as_a_whole():
            self._file.attrs["format"] = _FORMAT
            self._file.attrs["complete"] = 0
            self._file.attrs["about"] = json.dumps(about)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(keep=kind is None)

    def close(self, *, keep: bool = True) -> None:
        """Close the file; a new one gets its name now, or is dropped."""
        if not self._file:
            return
        with self._held:
            self._file.close()
            if self._mode != "w":
                return
            try:
                self._file.check()
                if keep:
                    self._part.replace(self.path)
            finally:
                remove(self._part)

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
        """What was given as `about` when the store was made."""
        return _about(self._file)

    @property
    def has_truth(self) -> bool:
        """Whether the blocks have true bubbles."""
        return "truth" in self._file

    def __getattr__(self, name: str) -> Any:
        """Answer a guess: blocks are appended."""
        hint = ""
        if name in _GUESSES:
            hint = ": BlockStore(path, 'w') makes a store, store.append(block) adds to it"
        raise AttributeError(f"BlockStore has no {name!r}{hint}")

    def append(self, block: Block) -> None:
        """Write a block after the last.

        Frames (T, Z, X) become float32 or complex64; the truth is sorted by frame.

        Raises
        ------
        ValueError
            Size, number type, scale or columns of the truth differ from the first block; truth
            outside the frames.
        """
        frames = check_frames(block.frames, allow_complex=True)
        frames = frames.astype(np.complex64 if frames.dtype.kind == "c" else np.float32, copy=False)
        truth = None if block.bubbles is None else _sorted_truth(block.bubbles, len(frames))
        columns = (
            None if truth is None else {str(name): truth[name].to_numpy().dtype for name in truth}
        )
        if self._mode == "r":
            raise ValueError(f"{self.path} is open for reading: open it with mode 'a' or 'w'")
        if "frames" in self._file:
            self._check_same(frames, columns, block)
        # A signal waits, for HDF5 cannot be left while it writes.
        with as_a_whole():
            if self._mode == "w":
                self._write(frames, truth, columns, block)
                self._file.check()
            else:
                self._add(frames, truth, columns, block)

    def _add(self, *block: Any) -> None:
        """Write a block into a file that was complete before, and is complete or as before after.

        The file is closed after each block, so that its bytes do not depend on where a run was
        interrupted and taken up.
        """
        self._file.close()
        try:
            with SafeHDF5(self.path, "r+", self._undo) as file:
                self._file = file
                self._write(*block)
            file.check()
            self._undo.unlink()
        finally:
            undo_changes(self.path, self._undo)
            self._file = h5py.File(self.path)

    def _write(
        self,
        frames: NDArray,
        truth: pd.DataFrame | None,
        columns: dict[str, np.dtype] | None,
        block: Block,
    ) -> None:
        """Write a block after the last one."""
        if "frames" not in self._file:
            self._create(frames, columns, block)
        start = len(self)
        n_rows = self._n_rows(start)
        # A run of an older version may have left part of a block after the last complete one.
        self._resize(start, n_rows)
        self._resize(start + len(frames), n_rows + (0 if truth is None else len(truth)))
        self._file["frames"][start:] = frames
        if truth is not None:
            ends = np.searchsorted(truth["frame"], np.arange(len(frames)), "right")
            self._file["truth_end"][start:] = n_rows + ends
            for name, column in self._file["truth"].items():
                column[n_rows:] = truth[name] + start if name == "frame" else truth[name]
        self._file.attrs["complete"] = start + len(frames)

    def window(self, start: int, n_frames: int) -> Block:
        """Read frames `start` to ``start + n_frames`` and their truth, which counts from 0 again.

        Raises
        ------
        ValueError
            Frames that are not in the store, or damaged ones.
        """
        start = check_whole(low=0, start=start)
        stop = start + check_whole(n_frames=n_frames)
        if not 0 <= start < stop <= len(self):
            raise ValueError(
                f"frames {start} to {stop} are not in {self.path}, which holds {len(self)}"
            )
        truth = None
        with readable(self.path):
            frames = self._file["frames"][start:stop]
            if self.has_truth:
                rows = slice(self._n_rows(start), self._n_rows(stop))
                truth = pd.DataFrame(
                    {name: column[rows] for name, column in self._file["truth"].items()}
                )
                truth["frame"] -= start
        return Block(frames, truth, self.px_mm, self.frame_rate_hz, self.source)

    def _number(self, name: str) -> float | None:
        value = self._file.attrs.get(name)
        return None if value is None else float(value)

    def _n_rows(self, n_frames: int) -> int:
        """Rows of truth that belong to the first `n_frames`."""
        return int(self._file["truth_end"][n_frames - 1]) if n_frames and self.has_truth else 0

    def _resize(self, n_frames: int, n_rows: int) -> None:
        """Cut or lengthen all arrays."""
        self._file["frames"].resize(n_frames, axis=0)
        if self.has_truth:
            self._file["truth_end"].resize(n_frames, axis=0)
            for column in self._file["truth"].values():
                column.resize(n_rows, axis=0)

    def _create(self, frames: NDArray, columns: dict[str, np.dtype] | None, block: Block) -> None:
        """Make empty arrays that fit the first block."""
        size = frames.shape[1:]
        self._file.create_dataset(
            "frames",
            (0, *size),
            frames.dtype,
            maxshape=(None, *size),
            chunks=(1, *size),
            compression="gzip",
            compression_opts=1,
            shuffle=True,
            track_times=False,  # the same blocks give the same bytes
        )
        for name in _SCALE:
            value = getattr(block, name)
            if value is not None:
                self._file.attrs[name] = _plain(value) if isinstance(value, str) else value
        if columns is not None:
            self._create_column(self._file, "truth_end", np.dtype(np.int64))
            table = self._file.create_group("truth", track_order=True)
            for name, dtype in columns.items():
                self._create_column(table, name, dtype)

    @staticmethod
    def _create_column(group: h5py.Group, name: str, dtype: np.dtype) -> None:
        group.create_dataset(
            name, (0,), dtype, maxshape=(None,), chunks=(_ROWS_PER_CHUNK,), track_times=False
        )

    def _check_same(
        self, frames: NDArray, columns: dict[str, np.dtype] | None, block: Block
    ) -> None:
        """Refuse a block that differs from the first one."""
        stored = self._file["frames"]
        table = self._file.get("truth")
        stored_columns = None if table is None else {n: column.dtype for n, column in table.items()}
        pairs: dict[str, tuple[Any, Any]] = {
            "frames of size": (stored.shape[1:], frames.shape[1:]),
            "numbers of type": (stored.dtype, frames.dtype),
            "pixel pitch [mm]": (self.px_mm, block.px_mm),
            "frame rate [Hz]": (self.frame_rate_hz, block.frame_rate_hz),
            "truth columns": (stored_columns, columns),
        }
        for what, (here, new) in pairs.items():
            is_scale = what.endswith("]")
            if not (same_scale(here, new) if is_scale else here == new):
                raise ValueError(
                    f"{self.path} holds blocks with {what} {here}, not {new}: "
                    "put them in another store"
                )


def is_block_store(path: str | Path) -> bool:
    """Whether a file is a block store, sound or not."""
    if not h5py.is_hdf5(path):
        return False
    with readable(Path(path)), h5py.File(path) as file:
        return file.attrs.get("format") == _FORMAT


def _plain(text: str) -> str:
    """Text that HDF5 can hold: bytes of file names that are no UTF-8 are written out."""
    return text.encode("utf-8", "backslashreplace").decode()


def _about(file: h5py.File) -> dict[str, Any]:
    """What a store says of itself."""
    about = json.loads(file.attrs.get("about", "{}"))
    if not isinstance(about, dict):
        raise TypeError(f"its attribute `about` is {type(about).__name__}, not a mapping")
    return about


def _check_layout(file: h5py.File, path: Path) -> None:
    """Refuse a file that is no block store, or one whose parts do not fit together."""
    if file.attrs.get("format") != _FORMAT:
        raise ValueError(f"{path} is not a block store: read it with open_frames")
    with readable(path):
        _about(file)
        n_frames = int(file.attrs["complete"])
        frames = file.get("frames")
        truth = file.get("truth")
        if n_frames < 0 or (n_frames and frames is None):
            raise ValueError(f"it holds no frames, though {n_frames} are complete")
        if frames is not None and (frames.ndim != 3 or len(frames) < n_frames):
            raise ValueError(f"its frames are {frames.shape}, though {n_frames} are complete")
        if truth is not None:
            ends = file["truth_end"]
            n_rows = int(ends[n_frames - 1]) if n_frames else 0
            lengths = {name: len(column) for name, column in truth.items()}
            if "frame" not in lengths or min(lengths.values()) < n_rows:
                raise ValueError(f"its truth has {lengths} rows, needed are {n_rows}")


def _sorted_truth(bubbles: pd.DataFrame, n_frames: int) -> pd.DataFrame:
    """True bubbles sorted by frame, checked."""
    bubbles = check_bubbles(bubbles)
    frame = bubbles["frame"]
    words = [name for name in bubbles if bubbles[name].to_numpy().dtype.kind not in "biuf"]
    if words:
        raise ValueError(
            f"columns {words} of the truth do not hold plain numbers: drop or convert them"
        )
    if not frame.between(0, n_frames - 1).all():
        raise ValueError(
            f"true bubbles lie in frames {frame.min()} to {frame.max()} "
            f"of a block of {n_frames} frames"
        )
    return bubbles.astype({"frame": np.int64}).sort_values(
        "frame", kind="stable", ignore_index=True
    )
