"""Atomic writes, fingerprints, and HDF5 files that survive a full disk."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py

_ENDS = 2**20  # bytes


def fingerprint(files: Iterable[Path]) -> str:
    """Tell files of equal names apart: ten hexadecimal digits of their sizes and of how they begin and end.

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
            for place in (0, max(0, size - _ENDS)):
                file.seek(place)
                digest.update(file.read(_ENDS))
    return digest.hexdigest()[:10]


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
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise OSError(
            f"cannot write {path} ({error.strerror}): make room, or choose another folder"
        ) from error
    finally:
        part.unlink(missing_ok=True)


class SafeHDF5(h5py.File):
    """HDF5 file for writing whose errors of the disk come out of `check`, not out of every call.

    The HDF5 library cannot undo a write that failed: closing the file afterwards crashes the interpreter. Here the
    first error is noted and all later writes are dropped, so that HDF5 closes in peace.

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
        self._disk = _Disk(path, {"w": "w+"}.get(mode, mode))
        try:
            super().__init__(self._disk, mode)
        except BaseException:
            self._disk.close()
            raise

    def close(self) -> None:
        """Close the file; what went wrong before or now is said by `check`."""
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
    """File that notes its first error instead of raising it."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
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


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong inside into one ValueError that names the file."""
    try:
        yield
    except Exception as error:  # the libraries raise a dozen types on damaged files
        if isinstance(error, MemoryError) or getattr(
            error, "errno", None
        ):  # of the machine, not of the file
            raise
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"cannot read {path}, it is damaged or not what its name says ({reason})"
        ) from error


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Say in plain words that a folder cannot be written to."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # said in plain words already
            raise
        raise OSError(
            f"cannot write to {folder} ({error.strerror}): choose another folder"
        ) from error
