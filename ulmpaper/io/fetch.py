"""Public data by name: address, checksum, licence; `fetch` downloads once and checks always.

Files on GitHub are pinned to a commit and a checksum. The checksums of Zenodo's files are not known
beforehand: the one computed at the first download is kept beside the file, and the file is held to
it from then on.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import lzma
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
from tqdm import tqdm

from ulmpaper.core.doors import optional
from ulmpaper.core.records import check_choice
from ulmpaper.io.arrays import list_arrays
from ulmpaper.io.files import atomic_path, clear_rests, made_folder

_PAGE_BYTES = 1024
_PAGE_BEGINS = (b"<!doctype", b"<html", b"<head", b"<body", b"<script", b"<?xml", b"<!--")
_PAGES = (".html", ".htm", ".xml", ".svg")
_ARRAYS = (".mat", ".h5", ".hdf5", ".npy")


@dataclass(frozen=True)
class _RemoteFile:
    """One file: its name here, its address, and its SHA-256 where that is known beforehand."""

    name: str
    url: str
    sha256: str | None = None


@dataclass(frozen=True)
class _DataSet:
    """What is fetched under one name: its files, and facts as far as their source states them."""

    what: str
    size: str
    licence: str
    address: str  # the page to read and to cite
    files: tuple[_RemoteFile, ...]
    small: bool = False  # a few megabytes in all, fit for a lecture or a test
    default: tuple[str, ...] = ()  # files that are fetched unless some are named; empty: all


def _github(path: str, sha256: str, name: str | None = None) -> _RemoteFile:
    """File of a repository, under its own name unless another is given."""
    return _RemoteFile(name or Path(path).name, f"https://github.com/{path}", sha256)


def _zenodo(record: int, name: str) -> _RemoteFile:
    """File of a Zenodo record."""
    return _RemoteFile(name, f"https://zenodo.org/records/{record}/files/{name}?download=1")


_KIDNEY = "hahnec/rf-ulm/raw/eafb41a0b8f0311d3f53d460d86c8efdb1bb1528/mspcn"
_PALA = "AChavignon/PALA/raw/f3e7813767d747139e67a0d3f1a7c60b745a698a/PALA_InVivoRatBrain_example"
_LOCA = "illyrs2/LOCA-ULM/raw/75f8caf3e17c44cb8463dd7c6ae16eabd1108002"

REGISTRY: dict[str, _DataSet] = {
    "rat-kidney": _DataSet(
        what="50 real frames of a rat kidney with microbubbles, "
        "clutter-filtered and cut at a threshold",
        size="1.2 MB",
        licence="not known (Liu et al. 2020, IEEE DataPort)",
        address="https://github.com/hahnec/rf-ulm",
        files=(
            _github(
                f"{_KIDNEY}/normal_rat_kidney_frame50.mat",
                "8e60a58c28bb78be66dd6326758caa231d8b5a0b4e30503a615ecbe3d2526ee7",
            ),
        ),
        small=True,
    ),
    "rat-brain-map": _DataSet(
        what="PALA's published maps of a rat brain: density, axial direction, speed, power Doppler",
        size="2.8 MB",
        licence="CC BY-NC-SA 4.0",
        address="https://github.com/AChavignon/PALA",
        files=(
            _github(
                f"{_PALA}_MatOut.tif",
                "30f87172a14cde0363cf9bec219a50f4779fca3edd5c105646e47d0bad1f4a32",
            ),
            _github(
                f"{_PALA}_MatOut_zdir.tif",
                "42128bb20bbfa64ef7100a826b668cecd79bac1b499e44a8968d22592666ecaa",
            ),
            _github(
                f"{_PALA}_VelMorm.tif",
                "55faea654c3291e3c5665e8f43902f8058e3ba303b7ce2026e90ebe10f4aceb0",
            ),
            _github(
                f"{_PALA}_PowDop.tif",
                "82a4fd1b535f92ef89025b3620da8c4907ea7ea66eb0d25b8495b08643ae01be",
            ),
        ),
        small=True,
    ),
    "loca-psfs": _DataSet(
        what="500 real images of single microbubbles, PNG in a zip archive",
        size="0.5 MB",
        licence="not stated for the data",
        address="https://github.com/illyrs2/LOCA-ULM",
        files=(
            _github(
                f"{_LOCA}/data.zip",
                "247995bf3f17b5ef62cb818944a4e7292ac1840de341b5aff9cfae6462194333",
                name="loca_ulm_data.zip",
            ),
        ),
        small=True,
    ),
    "pala-insilico": _DataSet(
        what="PALA's in silico flow: 20 sequences of 1000 IQ frames with true positions",
        size="about 4.4 GB",
        licence="not known: read the record's page",
        address="https://doi.org/10.5281/zenodo.4343435",
        files=(_zenodo(4343435, "PALA_data_InSilicoFlow.zip"),),
    ),
    "pala-ratbrain": _DataSet(
        what="rat brain in vivo, beamformed: 250 blocks of 800 IQ frames in ten archives, "
        "the first by default",
        size="not stated by archive; about 156.9 GB with the raw data",
        licence="CC BY 4.0",
        address="https://doi.org/10.5281/zenodo.7883227",
        files=(
            *(_zenodo(7883227, f"IQ_{i:03d}_to_{i + 24:03d}.zip") for i in range(1, 250, 25)),
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

    The folder ``ULMPAPER_DATA_MIRROR`` is searched by file name before the network is used; its
    files must have the same checksums.

    Parameters
    ----------
    name : str
        A name of `registry_table`.
    data_dir : path, optional
        Folder for data; else the environment variable ``ULMPAPER_DATA_DIR``; else ``data`` in the
        current folder.
    files : str or iterable of str, optional
        Files of the set by name, such as one archive of ``pala-ratbrain``.
    progress : bool
        Show a progress bar.
    notify : callable, optional
        Takes messages (standard error by default) on files without a known checksum: the size
        before, the checksum after the download.

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
    if files is None:
        wanted: Iterable[str] = data.default or by_name
    else:
        wanted = [files] if isinstance(files, str) else files
    folder = _folder(name, data_dir)
    for wanted_name in wanted:
        file = by_name[check_choice(wanted_name, by_name, f"file of {name}")]
        note = notify or functools.partial(print, file=sys.stderr)
        _obtain(file, folder / file.name, data.size, progress, note)
    return folder / data.files[0].name if len(data.files) == 1 else folder


def registry_table(data_dir: str | Path | None = None) -> pd.DataFrame:
    """List every data set with its size, licence, address and whether it is in the data folder.

    Examples
    --------
    >>> registry_table()["name"].tolist()
    ['rat-kidney', 'rat-brain-map', 'loca-psfs', 'pala-insilico', 'pala-ratbrain']
    """
    rows = []
    for name, data in REGISTRY.items():
        n_files = len(data.files)
        n_here = sum((_folder(name, data_dir) / file.name).is_file() for file in data.files)
        fetched = {0: "no", n_files: "yes"}.get(n_here, f"{n_here} of {n_files} files")
        rows.append((name, data.what, data.size, data.licence, data.address, data.small, fetched))
    return pd.DataFrame(
        rows, columns=["name", "what", "size", "licence", "address", "small", "fetched"]
    )


def unpack(path: str | Path) -> Path:
    """Unpack a zip archive into a folder of its name beside it, unless that is done already.

    Returns
    -------
    Path
        The folder, which appears when all of the archive is in it.

    Raises
    ------
    ValueError
        Not a zip archive, or a damaged one.
    OSError
        No such file, or the folder cannot be written.
    """
    folder = Path(path).with_suffix("")
    if folder.is_dir():
        return folder
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}: fetch it first")
    try:
        with (
            atomic_path(folder, wait_s=0) as part,
            _plain_errors(folder),
            zipfile.ZipFile(path) as archive,
        ):
            archive.extractall(part)
    # An encrypted archive, or one packed in a way that Python does not know.
    except (RuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"{path} cannot be unpacked ({error}): unpack it by other means into {folder}"
        ) from None
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError) as error:
        raise ValueError(
            f"{path} is not a sound zip archive ({error}): delete it and fetch it again"
        ) from None
    return folder


def _folder(name: str, data_dir: str | Path | None) -> Path:
    """Where the files of a set lie."""
    root = Path(data_dir or os.environ.get("ULMPAPER_DATA_DIR") or "data")
    return root if len(REGISTRY[name].files) == 1 else root / name


def _obtain(
    file: _RemoteFile, target: Path, size: str, progress: bool, notify: Callable[[str], None]
) -> None:
    """Put a checked copy of `file` at `target`, from mirror or network, unless it is there."""
    # pooch downloads. Its `create` and `Unzip` are not used: they replace a damaged file silently,
    # cannot hold a file to the checksum of its first download, leave half an archive where
    # unpacking stops, and would save no line.
    mirrored = _mirrored(file.name)
    clear_rests([target, _note_of(target)])
    if target.is_file():
        _check(file, target, target, "it was damaged or changed: delete it and fetch again", notify)
        return
    with _made_for(target), atomic_path(target, wait_s=0) as part:
        if mirrored:
            with _plain_errors(target):
                shutil.copyfile(mirrored, part)
            advice = f"replace {mirrored} or unset ULMPAPER_DATA_MIRROR"
        else:
            if file.sha256 is None:
                notify(f"{file.name}: {size}; from {file.url} to {target}")
            with _plain_errors(target, file.url):
                _download(file.url, part, progress)
            advice = (
                f"{file.url} has changed or was altered on the way: nothing was kept, try again"
            )
        _check(file, part, target, advice, notify)


@contextlib.contextmanager
def _made_for(target: Path) -> Iterator[None]:
    """Make the folder of `target`; where nothing comes, nothing of it stays."""
    with contextlib.ExitStack() as undo:
        with _plain_errors(target):
            undo.enter_context(made_folder(target.parent))
        yield


def _download(url: str, path: Path, progress: bool) -> None:
    """Download one file."""
    with optional("fetch"), warnings.catch_warnings(action="ignore"):
        import pooch  # warns about its progress bar in notebooks without ipywidgets
    # A bar of our own, so that an error begins on a line of its own.
    # pooch sets the total.
    with tqdm(total=1, unit="B", unit_scale=True, ncols=79, disable=not progress) as bar:
        download = pooch.HTTPDownloader(progressbar=bar if progress else False, chunk_size=1 << 18)
        download(url, str(path), None)


def _mirrored(name: str) -> Path | None:
    """The file in the mirror, if there is a mirror that has it."""
    folder = os.environ.get("ULMPAPER_DATA_MIRROR")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise ValueError(
            f"ULMPAPER_DATA_MIRROR is {folder!r}, which is not a folder: correct or unset it"
        )
    path = Path(folder) / name
    return path if path.is_file() else None


def _note_of(target: Path) -> Path:
    """Where the checksum of a file is kept, if it is not known beforehand."""
    return target.with_name(f"{target.name}.sha256.json")


def _check(
    file: _RemoteFile, path: Path, target: Path, advice: str, notify: Callable[[str], None]
) -> None:
    """Hold `path` to the checksum of `file`, or to that of its first download, kept in a note."""
    note = _note_of(target)
    with path.open("rb") as content:
        got = hashlib.file_digest(content, "sha256").hexdigest()
    expected = file.sha256
    if expected is None and note.is_file():
        advice += f"; to accept the new checksum, delete {note}"
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a damaged note fits nothing
            expected = json.loads(note.read_text(encoding="utf-8"))["sha256"]
    elif expected is None:
        # What is noted is defended from then on: it must be whole, and of the kind that was meant.
        _check_kind(path, file.name, advice)
        with _plain_errors(note), atomic_path(note) as part:
            text = json.dumps({"sha256": got, "url": file.url}, indent=1)
            part.write_text(text, encoding="utf-8")
        notify(
            f"{file.name}: its sha256 is {got}, kept in {note}; the file is held to it from now on"
        )
        expected = got
    if got != expected:
        raise ValueError(
            f"{file.name} has the wrong checksum: expected {expected}, got {got}; {advice}"
        )


def _check_kind(path: Path, name: str, advice: str) -> None:
    """Refuse an empty file, a web page in place of data, and what its own format calls cut."""
    kind = Path(name).suffix.lower()
    with path.open("rb") as file:
        begin = file.read(_PAGE_BYTES).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    fault = None
    if not begin:
        fault = "it is empty"
    elif begin.startswith(_PAGE_BEGINS) and kind not in _PAGES:
        fault = "it is a web page, as where one must log in"
    elif kind == ".zip":
        try:
            zipfile.ZipFile(path).close()  # its directory is at its end
        except zipfile.BadZipFile as error:
            fault = f"it is no whole zip archive: {error}"
    elif kind in _ARRAYS:
        try:
            list_arrays(path)
        except ValueError as error:
            fault = str(error)
    if fault is not None:
        raise ValueError(f"{name} is not what is wanted, {fault}; {advice}")


@contextlib.contextmanager
def _plain_errors(target: Path, url: str | None = None) -> Iterator[None]:
    """State plainly that writing `target` or, where there is a `url`, the connection failed."""
    try:
        yield
    except OSError as error:
        if url is None and error.errno is None:  # its text is plain already
            raise
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
