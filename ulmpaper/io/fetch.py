"""Public data by name: address, checksum, licence, and `fetch`, which downloads once and checks always.

Files on GitHub are pinned to a commit and a checksum. Those of Zenodo's files are not known: the checksum computed at
the first download is kept beside the file, and the file is held to it from then on.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import shutil
import sys
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ulmpaper.core.records import check_choice


@dataclass(frozen=True)
class RemoteFile:
    """One file: its name here, where it comes from, and its SHA-256 where it is known beforehand."""

    name: str
    url: str
    sha256: str | None = None


@dataclass(frozen=True)
class DataSet:
    """What can be fetched under one name.

    Parameters
    ----------
    what, size, licence, address : str
        Contents, size and terms of the data as far as they are stated, and the page to read and to cite.
    files : tuple of RemoteFile
        All files of the set.
    small : bool
        A few megabytes in all: fit for a lecture or a test.
    default : tuple of str
        Names of the files to fetch unless told otherwise; empty stands for all.
    """

    what: str
    size: str
    licence: str
    address: str
    files: tuple[RemoteFile, ...]
    small: bool = False
    default: tuple[str, ...] = ()


def _github(name: str, path: str, sha256: str) -> RemoteFile:
    return RemoteFile(name, f"https://github.com/{path}", sha256)


def _zenodo(record: int, name: str) -> RemoteFile:
    return RemoteFile(name, f"https://zenodo.org/records/{record}/files/{name}?download=1")


def _pala_map(kind: str, sha256: str) -> RemoteFile:
    name = f"PALA_InVivoRatBrain_example_{kind}.tif"
    return _github(
        name, f"AChavignon/PALA/raw/f3e7813767d747139e67a0d3f1a7c60b745a698a/{name}", sha256
    )


REGISTRY: dict[str, DataSet] = {
    "rat-kidney": DataSet(
        what="50 real frames of a rat kidney with microbubbles, clutter-filtered and cut at a threshold",
        size="1.2 MB",
        licence="not known (Liu et al. 2020, IEEE DataPort)",
        address="https://github.com/hahnec/rf-ulm",
        files=(
            _github(
                "normal_rat_kidney_frame50.mat",
                "hahnec/rf-ulm/raw/eafb41a0b8f0311d3f53d460d86c8efdb1bb1528/mspcn/normal_rat_kidney_frame50.mat",
                "8e60a58c28bb78be66dd6326758caa231d8b5a0b4e30503a615ecbe3d2526ee7",
            ),
        ),
        small=True,
    ),
    "rat-brain-map": DataSet(
        what="PALA's published maps of a rat brain: density, axial direction, speed, power Doppler",
        size="2.8 MB",
        licence="CC BY-NC-SA 4.0",
        address="https://github.com/AChavignon/PALA",
        files=(
            _pala_map("MatOut", "30f87172a14cde0363cf9bec219a50f4779fca3edd5c105646e47d0bad1f4a32"),
            _pala_map(
                "MatOut_zdir", "42128bb20bbfa64ef7100a826b668cecd79bac1b499e44a8968d22592666ecaa"
            ),
            _pala_map(
                "VelMorm", "55faea654c3291e3c5665e8f43902f8058e3ba303b7ce2026e90ebe10f4aceb0"
            ),
            _pala_map("PowDop", "82a4fd1b535f92ef89025b3620da8c4907ea7ea66eb0d25b8495b08643ae01be"),
        ),
        small=True,
    ),
    "loca-psfs": DataSet(
        what="500 real images of single microbubbles, PNG in a zip archive",
        size="0.5 MB",
        licence="not stated for the data",
        address="https://github.com/illyrs2/LOCA-ULM",
        files=(
            _github(
                "loca_ulm_data.zip",
                "illyrs2/LOCA-ULM/raw/75f8caf3e17c44cb8463dd7c6ae16eabd1108002/data.zip",
                "247995bf3f17b5ef62cb818944a4e7292ac1840de341b5aff9cfae6462194333",
            ),
        ),
        small=True,
    ),
    "pala-insilico": DataSet(
        what="PALA's in silico flow: 20 sequences of 1000 IQ frames with true positions",
        size="about 4.4 GB",
        licence="not known: read the record's page",
        address="https://doi.org/10.5281/zenodo.4343435",
        files=(_zenodo(4343435, "PALA_data_InSilicoFlow.zip"),),
    ),
    "pala-ratbrain": DataSet(
        what="rat brain in vivo, beamformed: 250 blocks of 800 IQ frames in ten archives, the first by default",
        size="not stated by archive; about 156.9 GB with the raw data",
        licence="CC BY 4.0",
        address="https://doi.org/10.5281/zenodo.7883227",
        files=(
            *(
                _zenodo(7883227, f"IQ_{first:03d}_to_{first + 24:03d}.zip")
                for first in range(1, 250, 25)
            ),
            _zenodo(7883227, "param.mat"),
        ),
        default=("IQ_001_to_025.zip", "param.mat"),
    ),
}


def fetch(
    name: str,
    data_dir: str | Path | None = None,
    *,
    files: str | Iterable[str] | None = None,
    progress: bool = True,
    notify: Callable[[str], None] | None = None,
) -> Path:
    """Download a data set unless it is there, check it, and return where it lies.

    Files are looked for by name in the folder ``ULMPAPER_DATA_MIRROR`` before the network, under the same checksum.

    Parameters
    ----------
    name : str
        A name of `registry_table`.
    data_dir : path, optional
        Folder for data; else the environment variable ``ULMPAPER_DATA_DIR``; else ``data`` in the current folder.
    files : str or iterable of str, optional
        Files of the set by name, such as one archive of ``pala-ratbrain``.
    progress : bool
        Show a progress bar.
    notify : callable, optional
        Takes messages (standard error by default) on files without known checksum: size before, checksum after.

    Returns
    -------
    Path
        The file, or the folder of a set that has several files.

    Raises
    ------
    ValueError, OSError
        Unknown name or wrong checksum; no connection, no permission to write, or a full disk.
    """
    data = REGISTRY[check_choice(name, REGISTRY, "data set")]
    by_name = {file.name: file for file in data.files}
    wanted = [files] if isinstance(files, str) else files
    folder, say = _folder(name, data_dir), notify or functools.partial(print, file=sys.stderr)
    for wanted_name in (data.default or by_name) if wanted is None else wanted:
        file = by_name[check_choice(wanted_name, by_name, f"file of {name}")]
        _obtain(file, folder / file.name, data.size, progress, say)
    return folder / data.files[0].name if len(data.files) == 1 else folder


def registry_table(data_dir: str | Path | None = None) -> pd.DataFrame:
    """Every data set with its size, licence, address and whether it is in the data folder, one row each.

    Examples
    --------
    >>> registry_table()["name"].tolist()
    ['rat-kidney', 'rat-brain-map', 'loca-psfs', 'pala-insilico', 'pala-ratbrain']
    """
    rows = []
    for name, data in REGISTRY.items():
        n_here = sum((_folder(name, data_dir) / file.name).is_file() for file in data.files)
        fetched = {0: "no", len(data.files): "yes"}.get(
            n_here, f"{n_here} of {len(data.files)} files"
        )
        rows.append((name, data.what, data.size, data.licence, data.address, data.small, fetched))
    return pd.DataFrame(
        rows, columns=["name", "what", "size", "licence", "address", "small", "fetched"]
    )


def unpack(path: str | Path) -> Path:
    """Unpack a zip archive into a folder of its name beside it, unless that is done, and return the folder.

    Raises
    ------
    ValueError
        Not a zip archive, or a damaged one.
    OSError
        No such file, or the folder cannot be written.
    """
    folder, part = Path(path).with_suffix(""), _part(Path(path))
    if folder.is_dir():
        return folder
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}: fetch it first")
    try:
        with _plain_errors(folder), zipfile.ZipFile(path) as archive:
            archive.extractall(part)
            part.replace(folder)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(
            f"{path} is not a sound zip archive ({error}): delete it and fetch it again"
        ) from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def _folder(name: str, data_dir: str | Path | None) -> Path:
    root = Path(data_dir or os.environ.get("ULMPAPER_DATA_DIR") or "data")
    return root if len(REGISTRY[name].files) == 1 else root / name


def _part(target: Path) -> Path:
    """Name to write under until all is there; in the same folder, so that renaming is atomic."""
    return target.with_name(f".{target.name}.{os.getpid()}.part")


def _obtain(
    file: RemoteFile, target: Path, size: str, progress: bool, notify: Callable[[str], None]
) -> None:
    """Put a checked copy of `file` at `target`, from the mirror or the network, unless it is there."""
    note, part, mirrored = (
        target.with_name(f"{target.name}.sha256.json"),
        _part(target),
        _mirrored(file.name),
    )
    if target.is_file():
        return _check(
            file, target, note, "it was damaged or changed: delete it and fetch again", notify
        )
    with _plain_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
    try:
        if mirrored:
            with _plain_errors(target):
                shutil.copyfile(mirrored, part)
            advice = f"replace {mirrored} or unset ULMPAPER_DATA_MIRROR"
        else:
            if file.sha256 is None:
                notify(f"{file.name}: {size}; from {file.url} to {target}")
            with warnings.catch_warnings(
                action="ignore"
            ):  # about its progress bar, in notebooks without ipywidgets
                import pooch
            with _plain_errors(target, file.url):
                pooch.HTTPDownloader(progressbar=progress, chunk_size=1 << 18)(
                    file.url, str(part), None
                )
            advice = (
                f"{file.url} has changed or was altered on the way: nothing was kept, try again"
            )
        _check(file, part, note, advice, notify)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _mirrored(name: str) -> Path | None:
    folder = os.environ.get("ULMPAPER_DATA_MIRROR")
    if folder and not Path(folder).is_dir():
        raise ValueError(
            f"ULMPAPER_DATA_MIRROR is {folder!r}, which is not a folder: correct or unset it"
        )
    return path if folder and (path := Path(folder) / name).is_file() else None


def _check(
    file: RemoteFile, path: Path, note: Path, advice: str, notify: Callable[[str], None]
) -> None:
    """Hold `path` to the checksum of `file`; where none is known, to that in `note`, which is written if missing."""
    with path.open("rb") as content:
        expected, got = file.sha256, hashlib.file_digest(content, "sha256").hexdigest()
    if expected is None and note.is_file():
        advice += f"; to accept the new checksum, delete {note}"
        with contextlib.suppress(ValueError, KeyError, TypeError):
            expected = json.loads(note.read_text(encoding="utf-8"))["sha256"]
    elif expected is None:
        with _plain_errors(note):
            _part(note).write_text(
                json.dumps({"sha256": got, "url": file.url}, indent=1), encoding="utf-8"
            )
            _part(note).replace(note)
        notify(
            f"{file.name}: its sha256 is {got}, kept in {note}; the file is held to it from now on"
        )
        expected = got
    if got != expected:
        raise ValueError(
            f"{file.name} has the wrong checksum: expected {expected}, got {got}; {advice}"
        )


@contextlib.contextmanager
def _plain_errors(target: Path, url: str | None = None) -> Iterator[None]:
    """Say in plain words that writing `target` or, where there is a `url`, the connection failed."""
    try:
        yield
    except OSError as error:
        if url is None or error.errno is not None:  # errors of the connection carry no number
            raise OSError(
                f"cannot write {target} ({error}): make room or set ULMPAPER_DATA_DIR"
            ) from None
        status = getattr(getattr(error, "response", None), "status_code", None)
        reason = f"the server answers {status}" if status else type(error).__name__
        raise ConnectionError(
            f"cannot download {url} ({reason}): try again; or download it by hand to {target}; "
            "or name a folder that holds the file in ULMPAPER_DATA_MIRROR"
        ) from None
