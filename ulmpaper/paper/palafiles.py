"""PALA's files in the data folder: where they lie, and how to get them."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from ulmpaper.io.fetch import unpack

SOURCES = ("simulated", "pala")
_ARCHIVE = "PALA_data_InSilicoFlow.zip"


def insilico_folder(data_dir: str | Path) -> Path:
    """Folder of PALA's in silico flow below `data_dir`, unpacked.

    Raises
    ------
    FileNotFoundError
        It is not there; says how to get it.
    """
    archive = Path(data_dir) / _ARCHIVE
    if not (archive.is_file() or archive.with_suffix("").is_dir()):
        todo = _fetch_command("pala-insilico", data_dir)
        raise FileNotFoundError(f"no {archive}: run `{todo}` (4.4 GB) first")
    return unpack(archive)


def insilico_files(data_dir: str | Path) -> list[Path]:
    """PALA's in silico sequences below `data_dir`, unpacked, in order."""
    return sorted(insilico_folder(data_dir).rglob("PALA_InSilicoFlow_*.mat"))


def ratbrain_files(data_dir: str | Path) -> list[Path]:
    """PALA's blocks of the rat brain below `data_dir`, unpacked, in order.

    Raises
    ------
    FileNotFoundError
        There is none; says how to get them.
    """
    folder = Path(data_dir) / "pala-ratbrain"
    for archive in sorted(folder.glob("IQ_*.zip")):
        unpack(archive)
    patterns = ("IQ_*.hdf5", "IQ_*.mat", "PALA_InVivoRatBrain_*.mat")
    files = sorted(path for pattern in patterns for path in folder.rglob(pattern))
    if not files:
        todo = _fetch_command("pala-ratbrain", data_dir)
        raise FileNotFoundError(
            f"no block of the rat brain below {folder}: run `{todo}`, "
            "which takes the first of ten archives"
        )
    return files


def _fetch_command(name: str, data_dir: str | Path) -> str:
    """The command that fetches a set to `data_dir`, which it names where it must."""
    usual = Path(os.environ.get("ULMPAPER_DATA_DIR") or "data")
    elsewhere = Path(data_dir).resolve() != usual.resolve()
    return f"ulmpaper fetch {name}" + elsewhere * f" --data-dir {shlex.quote(str(data_dir))}"
