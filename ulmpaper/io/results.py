"""Tables, maps and settings of a run as files.

Everything is written to a hidden folder beside the final names and moved there at the end, so that a run that fails
leaves nothing half-written and does not touch what an earlier run left.
"""

from __future__ import annotations

import dataclasses
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

import ulmpaper
from ulmpaper.config import Config
from ulmpaper.io.files import SafeHDF5
from ulmpaper.pipeline import BlockResult, MapTotals
from ulmpaper.plots import plot_map, save_figure

_CHUNK_ROWS = 4096
_TABLES = ("tables.h5", "bubbles.csv", "tracks.csv", "maps.npz")
_PACKED = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


class ResultWriter:
    """Write results block by block, in memory that does not grow with their number.

    Parameters
    ----------
    folder : path-like
        Where the files go; it is made if it is missing.
    cfg : Config
        Settings of the run, written beside the results.
    px_mm : float or None
        Pixel pitch for the scale bars [mm].
    about : dict
        What else ``run.json`` should say, e.g. the name of the input.

    Notes
    -----
    ``tables.h5`` holds the groups ``bubbles`` and ``tracks``, a dataset for each column; ``bubbles.csv`` and
    ``tracks.csv`` hold the same as text; ``maps.npz`` the maps by name, each also as a PNG; ``run.json`` the settings.

    Examples
    --------
    >>> from ulmpaper.config import load_config
    >>> from ulmpaper.core.testcard import simulate_testcard
    >>> from ulmpaper.pipeline import ulm_blocks
    >>> cfg, folder = load_config("smoke"), Path(tempfile.mkdtemp())
    >>> block = simulate_testcard(n_frames=40, n_bubbles=8, shape_px=(40, 48), rng=np.random.default_rng(0))
    >>> with ResultWriter(folder, cfg, px_mm=block.px_mm) as writer:
    ...     for result in ulm_blocks([block], cfg):
    ...         writer.add(result)
    >>> sorted(path.suffix for path in folder.iterdir())
    ['.csv', '.csv', '.h5', '.json', '.npz', '.png', '.png', '.png', '.png', '.png']
    """

    def __init__(
        self, folder: str | os.PathLike, cfg: Config, *, px_mm: float | None, about: dict[str, Any] | None = None
    ) -> None:
        self.folder = Path(folder)
        self._cfg, self._px_mm, self._about = cfg, px_mm, about or {}
        self._totals = MapTotals(cfg)
        self._n_rows = {"bubbles": 0, "tracks": 0}
        self._n_frames = 0

    def __enter__(self) -> ResultWriter:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._part = Path(tempfile.mkdtemp(prefix=".part-", dir=self.folder))
        except OSError as error:
            raise OSError(f"cannot write to {self.folder} ({error.strerror}): choose another folder") from error
        self._file = SafeHDF5(self._part / "tables.h5", "w")
        return self

    def add(self, result: BlockResult) -> None:
        """Append the tables of a block and add up its maps."""
        self._totals.add(result)
        self._n_frames += result.n_frames
        for name in self._n_rows:
            table = getattr(result, name)
            self._append(name, table)
            first = self._n_rows[name] == 0
            with (self._part / f"{name}.csv").open("w" if first else "a", encoding="utf-8", newline="") as file:
                file.write(_as_csv(table, header=first))
            self._n_rows[name] += len(table)
        self._file.check()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
            if kind is None:
                self._file.check()
                self._write_maps()
                self._write_settings()
                for path in sorted(self._part.iterdir()):
                    path.replace(self.folder / path.name)
        finally:
            shutil.rmtree(self._part, ignore_errors=True)

    def _append(self, name: str, table: pd.DataFrame) -> None:
        group = self._file.require_group(name)
        group.attrs["columns"] = list(table.columns)  # HDF5 itself sorts names
        for column in table.columns:
            values = table[column].to_numpy()
            if column not in group:
                group.create_dataset(
                    column, shape=(0,), maxshape=(None,), dtype=values.dtype, chunks=(_CHUNK_ROWS,), **_PACKED
                )
            data = group[column]
            data.resize(len(data) + len(values), axis=0)
            data[len(data) - len(values) :] = values

    def _write_maps(self) -> None:
        maps = self._totals.as_dict()
        single = {kind: values.astype(np.float32) for kind, values in maps.items()}
        np.savez_compressed(self._part / "maps.npz", **single)  # type: ignore[arg-type]
        for kind, values in maps.items():
            figure = plot_map(values, kind, px_mm=self._px_mm, upsample=self._cfg.render.upsample)
            save_figure(figure, self._part / f"{kind}.png")

    def _write_settings(self) -> None:
        run = {
            **self._about,
            "ulmpaper": ulmpaper.__version__,
            "n_frames": self._n_frames,
            "n_bubbles": self._n_rows["bubbles"],
            "n_track_points": self._n_rows["tracks"],
            "px_mm": self._px_mm,
            "digest": self._cfg.digest(),
            "config": dataclasses.asdict(self._cfg),
        }
        (self._part / "run.json").write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")


def _as_csv(table: pd.DataFrame, *, header: bool) -> str:
    """The text that ``to_csv(float_format="%.6g")`` makes, in a third of the time."""
    if table.isna().to_numpy().any():  # an empty field, as in short tracks
        return table.to_csv(header=header, index=False, float_format="%.6g")
    row = ",".join("%.6g" if kind.kind == "f" else "%d" for kind in table.dtypes) + "\n"
    rows = [row % values for values in table.itertuples(index=False, name=None)]
    return "".join([",".join(table.columns) + "\n"] * header + rows)


def check_unused(folder: str | os.PathLike, cfg: Config, about: Mapping[str, Any]) -> None:
    """Refuse a folder that holds the results of another run; the same run may be done again.

    Parameters
    ----------
    folder, cfg, about
        As for `ResultWriter`.

    Raises
    ------
    ValueError
        The results there are of other settings, or `about` tells otherwise; says in what they differ.
    """
    note = Path(folder) / "run.json"
    if not note.is_file():
        if found := [name for name in _TABLES if (Path(folder) / name).exists()]:
            raise ValueError(
                f"{folder} holds {', '.join(found)} of something else: choose another folder, or --overwrite"
            )
        return
    try:
        there = dict(json.loads(note.read_text(encoding="utf-8")))
    except ValueError:
        there = {}
    here = {**json.loads(json.dumps(about)), "digest": cfg.digest()}
    if differ := [key for key, value in here.items() if there.get(key) != value]:
        told = ", ".join(f"{key} {there.get(key)!r} there, {here[key]!r} now" for key in differ)
        raise ValueError(f"{folder} holds the results of another run ({told}): choose another folder, or --overwrite")


def read_table(path: str | os.PathLike, name: str) -> pd.DataFrame:
    """Read ``bubbles`` or ``tracks`` from a ``tables.h5``.

    Raises
    ------
    ValueError
        The file has no such table; those it has are named.
    """
    with h5py.File(path) as file:
        if name not in file:
            raise ValueError(f"{path} holds no table {name!r}; it has {', '.join(file) or 'none'}")
        return pd.DataFrame({column: file[name][column][()] for column in file[name].attrs["columns"]})
