"""A file for h5py that outlives a full disk."""

from __future__ import annotations

import io
from typing import Any


class DiskFile(io.FileIO):
    """File object for ``h5py.File`` that keeps write errors to itself until it is asked.

    The HDF5 library cannot undo a write that failed: closing the file afterwards crashes the interpreter. This file
    notes the first error and drops all that follows, so that HDF5 closes in peace; `check` then raises what was
    noted.

    Examples
    --------
    >>> import tempfile, h5py
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     disk = DiskFile(f"{folder}/a.h5", "w+")
    ...     with h5py.File(disk, "w") as file:
    ...         file["a"] = [1, 2]
    ...     disk.check()
    ...     disk.close()
    """

    error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write all of `data`, or note why that failed."""
        view = memoryview(data).cast("B")
        done = 0
        while self.error is None and done < len(view):
            try:
                done += super().write(view[done:]) or 0
            except OSError as error:
                self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Change the length of the file, or note why that failed."""
        if self.error is None:
            try:
                return super().truncate(size)
            except OSError as error:
                self.error = error
        return self.tell() if size is None else size

    def check(self) -> None:
        """Raise the first error, if there was one."""
        if self.error is not None:
            raise OSError(
                f"cannot write {self.name!s} ({self.error.strerror}): make room and start again"
            ) from self.error
