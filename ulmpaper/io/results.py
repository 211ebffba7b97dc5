"""Tables, maps and settings of a run as files.

All files are written to a hidden folder and get their final names at the end, so that a run that
fails leaves nothing half-written and does not touch what an earlier run left.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ulmpaper import __version__
from ulmpaper.io.files import SafeHDF5

_CHUNK_ROWS = 4096
_TABLES = ("tables.h5", "bubbles.csv", "tracks.csv", "maps.npz")
_PACKED = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


class ResultWriter:
    """Write results block by block, in memory that does not grow with the number of blocks.

    Parameters
    ----------
    folder : path-like
        Where the files go; it is made if it is missing.

    Raises
    ------
    OSError
        The folder cannot be written to, or the disk is full.

    Notes
    -----
    ``tables.h5`` holds the groups ``bubbles`` and ``tracks`` with a dataset per column;
    ``bubbles.csv`` and ``tracks.csv`` hold the same as text; ``maps.npz`` holds the maps by name;
    ``run.json`` the settings.

    Examples
    --------
    >>> from ulmpaper.core.records import bubble_table
    >>> bubbles = bubble_table([0], [1.0], [2.0], [1.0])
    >>> folder = Path(tempfile.mkdtemp())
    >>> with ResultWriter(folder) as writer:
    ...     writer.add(bubbles, bubbles.assign(track=0))
    ...     writer.finish({"density": np.ones((2, 2))}, {"input": "a.npy"}, {"seed": 1})
    >>> sorted(path.name for path in folder.iterdir())
    ['bubbles.csv', 'maps.npz', 'run.json', 'tables.h5', 'tracks.csv']
    """

    def __init__(self, folder: str | os.PathLike) -> None:
        self.folder = Path(folder)
        self._n_rows = {"bubbles": 0, "tracks": 0}

    def __enter__(self) -> ResultWriter:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._part = Path(tempfile.mkdtemp(prefix=".part-", dir=self.folder))
        except OSError as error:
            raise OSError(
                f"cannot write to {self.folder} ({error.strerror}): choose another folder"
            ) from error
        self._file = SafeHDF5(self._part / "tables.h5", "w")
        return self

    def path(self, name: str) -> Path:
        """Where to write one more file, which gets its final name with the others."""
        return self._part / name

    def add(self, bubbles: pd.DataFrame, tracks: pd.DataFrame) -> None:
        """Append the tables of a block.

        Parameters
        ----------
        bubbles : DataFrame
            Columns ``frame``, ``z``, ``x``, ``score`` and others, the same for all blocks.
        tracks : DataFrame
            The same with ``track``.
        """
        for name, table in (("bubbles", bubbles), ("tracks", tracks)):
            self._append(name, table)
            first = self._n_rows[name] == 0
            mode = "w" if first else "a"
            with self.path(f"{name}.csv").open(mode, encoding="utf-8", newline="") as file:
                file.write(_as_csv(table, header=first))
            self._n_rows[name] += len(table)
        self._file.check()

    def finish(
        self, maps: Mapping[str, NDArray], run: Mapping[str, Any], config: Mapping[str, Any]
    ) -> None:
        """Write the maps (float32), what is known of the run, and its settings.

        Parameters
        ----------
        maps : mapping of str to array (Z, X)
            Maps by kind, such as ``density``.
        run : mapping
            Input, digest, scale and the like, as JSON can hold them.
        config : mapping
            All settings.
        """
        single = {kind: values.astype(np.float32) for kind, values in maps.items()}
        np.savez_compressed(self.path("maps.npz"), **single)  # type: ignore[arg-type]
        note = {
            **run,
            "ulmpaper": __version__,
            "n_bubbles": self._n_rows["bubbles"],
            "n_track_points": self._n_rows["tracks"],
            "config": config,
        }
        self.path("run.json").write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
            if kind is None:
                self._file.check()
                for path in sorted(self._part.iterdir()):
                    path.replace(self.folder / path.name)
        finally:
            shutil.rmtree(self._part, ignore_errors=True)

    def _append(self, name: str, table: pd.DataFrame) -> None:
        """Append rows to the datasets of a table, which the first block makes."""
        group = self._file.require_group(name)
        group.attrs["columns"] = list(table.columns)  # HDF5 itself sorts names
        for column in table.columns:
            values = table[column].to_numpy()
            if column not in group:
                group.create_dataset(
                    column,
                    shape=(0,),
                    maxshape=(None,),
                    dtype=values.dtype,
                    chunks=(_CHUNK_ROWS,),
                    **_PACKED,
                )
            data = group[column]
            data.resize(len(data) + len(values), axis=0)
            data[len(data) - len(values) :] = values


def _as_csv(table: pd.DataFrame, *, header: bool) -> str:
    """``to_csv(float_format="%.6g")``: 100,000 tracked bubbles in 0.20 s instead of 0.64 s."""
    if table.isna().to_numpy().any():  # an empty field, as in short tracks
        return table.to_csv(header=header, index=False, float_format="%.6g")
    row = ",".join("%.6g" if kind.kind == "f" else "%d" for kind in table.dtypes) + "\n"
    rows = [row % values for values in table.itertuples(index=False, name=None)]
    return "".join([",".join(table.columns) + "\n"] * header + rows)


def check_unused(folder: str | os.PathLike, run: Mapping[str, Any]) -> None:
    """Refuse a folder that holds the results of another run; the same run may be repeated.

    Parameters
    ----------
    folder : path-like
        Where results are to go.
    run : mapping
        What tells this run from others: its input and the digest of its settings.

    Raises
    ------
    ValueError
        The results there are of another run; the message names the differences.
    """
    note = Path(folder) / "run.json"
    if not note.is_file():
        if found := [name for name in _TABLES if (Path(folder) / name).exists()]:
            raise ValueError(
                f"{folder} holds {', '.join(found)} of something else: "
                "choose another folder, or overwrite (--overwrite, overwrite=True)"
            )
        return
    try:
        there = dict(json.loads(note.read_text(encoding="utf-8")))
    except ValueError:
        there = {}
    here = json.loads(json.dumps(run))
    if differ := [key for key, value in here.items() if there.get(key) != value]:
        changes = ", ".join(f"{key} {there.get(key)!r} there, {here[key]!r} now" for key in differ)
        raise ValueError(
            f"{folder} holds the results of another run ({changes}): "
            "choose another folder, or overwrite (--overwrite, overwrite=True)"
        )


def read_table(path: str | os.PathLike, name: str) -> pd.DataFrame:
    """Read ``bubbles`` or ``tracks`` from a ``tables.h5``.

    Raises
    ------
    ValueError
        The file has no such table; the message names those it has.
    """
    with h5py.File(path) as file:
        if name not in file:
            raise ValueError(f"{path} holds no table {name!r}; it has {', '.join(file) or 'none'}")
        return pd.DataFrame(
            {column: file[name][column][()] for column in file[name].attrs["columns"]}
        )
