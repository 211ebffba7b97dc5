"""Atomic writes, fingerprints, and HDF5 files that survive a full disk."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py

_END_BYTES = 2**20


def fingerprint(files: Iterable[Path]) -> str:
    """Tell files of equal names apart by their sizes and by how they begin and end.

    Returns
    -------
    str
        Ten hexadecimal digits. At most 2 MiB of each file are read.

    Examples
    --------
    >>> len(fingerprint([Path(__file__)]))
    10
    """
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            digest.update(f"{size} ".encode())
            for place in (0, max(0, size - _END_BYTES)):
                file.seek(place)
                digest.update(file.read(_END_BYTES))
    return digest.hexdigest()[:10]


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a hidden name to write under; the file or folder gets its own name at the end.

    An error removes what was written, and what was there before stays.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_path(Path(folder, "a.txt")) as part:
    ...         _ = part.write_text("all of it")
    ...     [path.name for path in Path(folder).iterdir()]
    ['a.txt']
    """
    part = _hidden(path)
    try:
        yield part
        part.replace(path)
    finally:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def _hidden(path: Path) -> Path:
    """Name to write under until all of `path` is there."""
    # In the same folder, so that the move is one step; with its suffix, by which libraries choose
    # a format; with the process, so that two writers do not meet.
    return path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file at once or not at all; what was there before stays until then.

    Raises
    ------
    OSError
        The disk is full, or cannot be written for another reason.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_atomic(Path(folder, "a.json"), b"1")
    ...     [path.name for path in Path(folder).iterdir()]
    ['a.json']
    """
    try:
        with atomic_path(path) as part:
            part.write_bytes(content)
    except OSError as error:
        raise OSError(
            f"cannot write {path} ({error.strerror}): make room, or choose another folder"
        ) from error


class SafeHDF5(h5py.File):
    """HDF5 file for writing that reports errors of the disk in `check`, not in every call.

    The HDF5 library cannot undo a write that failed: closing the file afterwards crashes the
    interpreter. Here the first error is kept and all later writes are dropped, so that HDF5 can
    close the file.

    Parameters
    ----------
    path : path-like
        The file.
    mode : {"w", "r+"}
        Write anew, or change.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with SafeHDF5(f"{folder}/a.h5", "w") as file:
    ...         file["a"] = [1, 2]
    ...     file.check()
    """

    def __init__(self, path: str | os.PathLike, mode: str) -> None:
        self._disk = _Disk(path, "w+" if mode == "w" else mode)
        try:
            super().__init__(self._disk, mode)
        except BaseException:
            self._disk.close()
            raise

    def close(self) -> None:
        """Close the file; `check` raises what went wrong before or now."""
        super().close()
        self._disk.close()

    def check(self) -> None:
        """Raise the first error of the disk, if there was one.

        Raises
        ------
        OSError
            The disk is full, or cannot be written for another reason.
        """
        error = self._disk.error
        if error is not None:
            raise OSError(
                f"cannot write {self._disk.name!s} ({error.strerror}): make room and start again"
            ) from error


class _Disk(io.FileIO):
    """File that keeps its first error instead of raising it."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        # The system may write less than it is given, as just before the disk is full.
        while self.error is None and done < len(view):
            try:
                done += super().write(view[done:]) or 0
            except OSError as error:
                self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        if self.error is None:
            try:
                return super().truncate(size)
            except OSError as error:
                self.error = error
        return self.tell() if size is None else size


class NotTaken(ValueError):
    """The file is sound, but not taken: colour, volumes, channel data, a part that is elsewhere."""


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong inside into one ValueError that names the file."""
    try:
        yield
    except Exception as error:  # the libraries raise a dozen types on damaged files
        if any(words in str(error) for words in ("unable to lock file", "already open for")):
            raise NotTaken(
                f"another program has {path} open for writing: "
                "wait until it has closed the file, or copy the file and read the copy"
            ) from error
        # Errors of the machine, unlike those of the file, carry a number or concern its memory.
        sound = MemoryError | ImportError | NotTaken
        if isinstance(error, sound) or getattr(error, "errno", None):
            raise
        raise ValueError(
            f"cannot read {path}, it is damaged or not what its name says "
            f"({type(error).__name__}: {error})"
        ) from error


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """State in plain words that a folder cannot be written to."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # its text is plain already
            raise
        raise OSError(
            f"cannot write to {folder} ({error.strerror}): choose another folder"
        ) from error
