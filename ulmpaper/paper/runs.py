"""A notebook's run: parameters that hold, a folder of its own, results that say what made them."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import operator
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ulmpaper import __version__
from ulmpaper.config import load_config, read_overrides
from ulmpaper.core.records import check_choice
from ulmpaper.io.checkout import revision
from ulmpaper.io.files import fingerprint, writable, write_atomic
from ulmpaper.paper.palafiles import SOURCES, insilico_files, ratbrain_files

_PARAMETERS = ("profile", "overrides", "source", "data_dir", "out_dir")
# The notebooks that read PALA's sequences with source = "pala"; all others simulate all the same.
_REAL = {
    **dict.fromkeys(
        ("03_data", "05_train_ml3d", "06_train_count_and_mspcn", "07_figure3_table1_insilico"),
        ("pala-insilico", insilico_files),
    ),
    "09_figure5_ratbrain": ("pala-ratbrain", ratbrain_files),
}


@dataclass(frozen=True)
class NotebookRun:
    """Parameters as they are meant, and the folder for results; made by `start_run`.

    Parameters
    ----------
    name, profile, source : str
        The notebook, and its parameters of these names.
    overrides : dict
        Settings by dotted keys, read from text where they came as text.
    data_dir : Path
        Where fetched data lies.
    data : dict, optional
        Real data that the notebook reads: ``name``, ``files`` (their number), ``fingerprint``.
    out : Path
        Folder for results; it appears with the first of them.
    """

    name: str
    profile: str
    overrides: dict[str, Any]
    source: str
    data_dir: Path
    data: dict[str, Any] | None
    out: Path

    def write(self, results: Mapping[str, Any]) -> Path:
        """Write ``results.json``: under ``run`` what made the results, then the results.

        Raises
        ------
        ValueError
            A number that JSON does not have: NaN or infinity.
        OSError
            The disk is full, or cannot be written for another reason.
        """
        cfg = load_config(self.profile, self.overrides)
        made_by = {
            "notebook": self.name,
            "profile": self.profile,
            "overrides": {key: operator.attrgetter(key)(cfg) for key in sorted(self.overrides)},
            "seed": cfg.seed,
            "source": self.source,
            "data": self.data,
            "version": __version__,
            "revision": revision(),
            "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        }
        path = self.out / "results.json"
        text = json.dumps({"run": made_by, **results}, indent=1, allow_nan=False)
        with writable(self.out):
            self.out.mkdir(parents=True, exist_ok=True)
        write_atomic(path, text.encode())
        return path


def start_run(
    name: str,
    cells: Sequence[str] = (),
    *,
    profile: str,
    overrides: Mapping[str, Any] | str | None,
    source: str,
    data_dir: str | os.PathLike,
    out_dir: str | os.PathLike,
) -> NotebookRun:
    """Check a notebook's parameters before it does anything slow, and name its folder.

    Parameters
    ----------
    name : str
        The notebook, such as ``04_classical_ulm``.
    cells : sequence of str
        What the kernel has executed, this call last. Papermill puts a cell behind the parameters
        and merely logs names that the notebook does not have.
    profile, overrides, source, data_dir, out_dir
        The notebook's parameters. `overrides` may be text, ``track.max_gap=1 seed=7``. An empty
        `data_dir` is that of the environment variable ``ULMPAPER_DATA_DIR``, else ``data``.

    Returns
    -------
    NotebookRun
        Its `out` is ``OUT_DIR/PROFILE-DIGEST/NAME``. The digest changes with every setting, with
        the source and with the real data that are read.

    Raises
    ------
    ValueError
        An unknown parameter, profile, source or setting.
    OSError
        Data of ``source = "pala"`` are missing, or `out_dir` cannot be written.
    """
    if len(cells) > 1 and cells[-2].startswith("# Parameters"):
        for given in re.findall(r"^(\w+) *=", cells[-2], re.M):
            check_choice(given, _PARAMETERS, "parameter of this notebook")
    check_choice(source, SOURCES, "source")
    _show_figures_in_the_notebook()
    if not str(out_dir):
        raise ValueError('out_dir is empty: name a folder for the results, such as "outputs"')
    folder = Path(str(out_dir))
    _check_writable(folder)
    settings = read_overrides(overrides)
    digest = load_config(profile, settings).digest()
    data_folder = Path(str(data_dir or os.environ.get("ULMPAPER_DATA_DIR") or "data"))
    data = _real_data(name, data_folder) if source == "pala" else None
    made_from = json.dumps([digest, source, data])
    label = f"{profile}-{hashlib.sha256(made_from.encode()).hexdigest()[:10]}"
    return NotebookRun(name, profile, settings, source, data_folder, data, folder / label / name)


def _show_figures_in_the_notebook() -> None:
    """Undo ``MPLBACKEND=agg``, usual on clusters: with it a kernel draws figures and shows none."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell and os.environ.get("MPLBACKEND", "").lower() == "agg":
        shell.run_line_magic("matplotlib", "inline")


def _real_data(name: str, data_dir: Path) -> dict[str, Any] | None:
    """The data set that a notebook reads, told from others by its content."""
    if name not in _REAL:
        return None
    data_set, list_files = _REAL[name]
    files = list_files(data_dir)
    return {"name": data_set, "files": len(files), "fingerprint": fingerprint(files)}


def _check_writable(folder: Path) -> None:
    """Refuse a folder that cannot be made or written to, and leave nothing."""
    nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    with writable(folder), tempfile.TemporaryDirectory(dir=nearest):
        pass
