"""Atomic writes, fingerprints, and HDF5 files that survive a full disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import math
import os
import shutil
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import h5py
from filelock import FileLock, Timeout

from ulmpaper.io.processes import as_a_whole

_END_BYTES = 2**20
_NOTE = struct.Struct("<QQ")  # of a change: place and number of bytes
_PATIENCE_S = 60  # for another process that writes the same small file


def fingerprint(files: Iterable[Path]) -> str:
    """Tell files of equal names apart by their sizes and by how they begin and end.

    Returns
    -------
    str
        Ten hexadecimal digits. At most 2 MiB of each file are read; of a folder (zarr) the names
        and sizes of its files, and the first and the last of them.

    Examples
    --------
    >>> len(fingerprint([Path(__file__)]))
    10
    """
    digest = hashlib.sha256()
    for path in map(Path, files):
        parts = [path]
        if path.is_dir():
            inside = sorted(part for part in path.rglob("*") if part.is_file())
            for part in inside:
                size = part.stat().st_size
                digest.update(f"{part.relative_to(path).as_posix()} {size} ".encode())
            parts = [*inside[:1], *inside[-1:]]
        for part in parts:
            _add_ends(digest, part)
    return digest.hexdigest()[:10]


def _add_ends(digest: Any, path: Path) -> None:
    """Add size, beginning and end of a file to a digest."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        digest.update(f"{size} ".encode())
        for place in (0, max(0, size - _END_BYTES)):
            file.seek(place)
            digest.update(file.read(_END_BYTES))


def check_apart(inputs: Iterable[str | os.PathLike], outputs: Iterable[str | os.PathLike]) -> None:
    """Refuse to write over what is read, whatever the names and links that lead there.

    Parameters
    ----------
    inputs : iterable of path-like
        Files and folders that are read.
    outputs : iterable of path-like
        Files and folders that are to be written.

    Raises
    ------
    ValueError
        An output is an input, or lies in a folder that is one.

    Examples
    --------
    >>> check_apart(["a.h5"], ["b.h5"])
    >>> check_apart([__file__], [__file__])
    Traceback (most recent call last):
    ...
    ValueError: ...files.py is read and would be replaced: choose another name or folder...
    """
    targets = [Path(output) for output in outputs]
    for given in map(Path, inputs):
        read = given.resolve()
        for target in targets:
            written = target.resolve()
            same = written == read or (
                target.exists() and given.exists() and target.samefile(given)
            )
            if same or read in written.parents:
                raise ValueError(
                    f"{given} is read and would be replaced: choose another name or folder for "
                    "what is written"
                )


@contextlib.contextmanager
def only_writer(path: Path, *, wait_s: float = 0) -> Iterator[None]:
    """Keep a file or folder for this process while it writes there.

    The system itself lets go when the process ends, however it ends, so no lock is left.

    Parameters
    ----------
    path : Path
        What is written; its folder exists.
    wait_s : float
        How long to wait for another process [s].

    Raises
    ------
    OSError
        Another process writes there, or the folder cannot be written to.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with only_writer(Path(folder, "a.h5")), only_writer(Path(folder, "a.h5")):
    ...         pass
    Traceback (most recent call last):
    ...
    OSError: another run is writing ...a.h5: wait until it has ended, or choose another name
    """
    if not 0 <= wait_s < math.inf:
        raise ValueError(f"wait_s must be a number of seconds, 0 or more, not {wait_s!r}")
    lock_path = _lock_of(path)
    lock = FileLock(lock_path, timeout=wait_s)
    try:
        lock.acquire()
    except Timeout:
        raise OSError(
            f"another run is writing {path}: wait until it has ended, or choose another name"
        ) from None
    except OSError as error:
        raise OSError(f"cannot write {path} ({error.strerror}): choose another folder") from error
    try:
        yield
    finally:
        # Before it is let go: who waits sees that the file has no name any more and makes its own.
        with contextlib.suppress(OSError):
            lock_path.unlink(missing_ok=True)
        lock.release()


def clear_rests(paths: Iterable[Path]) -> None:
    """Remove what a run that was killed left beside files, if none writes them now."""
    for path in paths:
        if _lock_of(path).exists():
            with contextlib.suppress(OSError), only_writer(path):
                remove(hidden_part(path))


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def remove(path: Path) -> None:
    """Remove a file or a folder with all that is in it, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_path(path: Path, *, wait_s: float = _PATIENCE_S) -> Iterator[Path]:
    """Give a hidden name to write under; the file or folder gets its own name at the end.

    An error removes what was written, and what was there before stays. Another process that writes
    the same is waited for, for `wait_s` seconds.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_path(Path(folder, "a.txt")) as part:
    ...         _ = part.write_text("all of it")
    ...     [path.name for path in Path(folder).iterdir()]
    ['a.txt']
    """
    path = Path(path)
    part = hidden_part(path)
    with only_writer(path, wait_s=wait_s):
        remove(part)  # what a run that was killed has left
        try:
            yield part
            part.replace(path)
        finally:
            remove(part)


def hidden_part(path: Path) -> Path:
    """Name to write under until all of `path` is there."""
    # In the same folder, so that the move is one step; with its suffix, by which libraries choose
    # a format; the same for every run, so that the next one clears what a killed one left.
    return path.with_name(f".{path.stem}.part{path.suffix}")


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
        if error.errno is None:  # its text is plain already
            raise
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
    undo : path-like, optional
        Where to note what is overwritten, see `undo_changes`.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with SafeHDF5(f"{folder}/a.h5", "w") as file:
    ...         file["a"] = [1, 2]
    ...     file.check()
    """

    def __init__(
        self, path: str | os.PathLike, mode: str, undo: str | os.PathLike | None = None
    ) -> None:
        with as_a_whole():
            self._disk = _Disk(path, "w+" if mode == "w" else mode)
            if undo is not None:
                self._disk.note_in(undo)
            try:
                super().__init__(self._disk, mode)
            except BaseException:
                self._disk.close()
                raise

    def close(self) -> None:
        """Close the file; `check` raises what went wrong before or now."""
        with as_a_whole():
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
    _undo: io.FileIO | None = None
    _n_noted = 0  # bytes that the file had: what is written behind them needs no note

    def note_in(self, undo: str | os.PathLike) -> None:
        """Note in a file what is overwritten from now on."""
        self._n_noted = os.fstat(self.fileno()).st_size
        self._undo = io.FileIO(undo, "w")
        self._undo.write(_NOTE.pack(self._n_noted, 0))

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        done = 0
        # The system may write less than it is given, as just before the disk is full.
        while self.error is None and done < len(view):
            try:
                self._note(self.tell(), self.tell() + len(view) - done)
                done += super().write(view[done:]) or 0
            except OSError as error:
                self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        if self.error is None:
            try:
                self._note(self.tell() if size is None else size, self._n_noted)
                return super().truncate(size)
            except OSError as error:
                self.error = error
        return self.tell() if size is None else size

    def close(self) -> None:
        if self._undo is not None:
            self._undo.close()
        super().close()

    def _note(self, start: int, stop: int) -> None:
        """Note what the file holds from `start` to `stop`, before it is overwritten."""
        stop = min(stop, self._n_noted)
        if self._undo is None or start >= stop:
            return
        old = os.pread(self.fileno(), stop - start, start)
        note = _NOTE.pack(start, len(old)) + old
        if self._undo.write(note) != len(note):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def undo_changes(path: Path, undo: Path) -> None:
    """Give a file back the bytes that it had when a `SafeHDF5` began to change it.

    Parameters
    ----------
    path : Path
        The file.
    undo : Path
        Notes of the changes; removed at the end, so an undoing that is itself interrupted can be
        repeated. Without them nothing is done.
    """
    if not undo.is_file():
        return
    notes = undo.read_bytes()
    if len(notes) >= _NOTE.size:  # else it was interrupted before the first change
        size, _ = _NOTE.unpack_from(notes)
        old: list[tuple[int, bytes]] = []
        place = _NOTE.size
        while place + _NOTE.size <= len(notes):
            start, length = _NOTE.unpack_from(notes, place)
            place += _NOTE.size + length
            old.append((start, notes[place - length : place]))
            if place > len(notes):  # the last note is not complete: its change was not begun
                old.pop()
        with path.open("r+b") as file:
            for start, content in reversed(old):
                file.seek(start)
                file.write(content)
            file.truncate(size)
    undo.unlink()


class _Damaged(ValueError):
    """A file that cannot be read, said once."""


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
        sound = MemoryError | ImportError | NotTaken | _Damaged
        number = getattr(error, "errno", None)
        if isinstance(error, sound) or number not in (None, errno.EINVAL):
            raise
        text = " ".join(str(error).split())
        raise _Damaged(
            f"cannot read {path}, it is damaged or not what its name says "
            f"({type(error).__name__}: {text})"
        ) from error


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """State in plain words that a folder cannot be written to."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # its text is plain already
            raise
        is_full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "make room, or choose another folder" if is_full else "choose another folder"
        raise OSError(f"cannot write to {folder} ({error.strerror}): {advice}") from error


@contextlib.contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder where it is missing, and remove it again where it is left empty."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # not empty
            for path in missing:
                path.rmdir()
