"""Formats of other programs, by suffix or by their own marks.

Each is read by the library of its field, which the extra ``formats`` installs.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ulmpaper.io import beamformed, scanners, stacks
from ulmpaper.io.axes import ArrayInfo
from ulmpaper.io.scale import Scale


@dataclass(frozen=True)
class Format:
    """How a kind of file is read.

    Parameters
    ----------
    name : str
        As the field calls it.
    list_arrays : callable
        Arrays of numbers in the file at a path; axes are empty where the file does not say.
    open_array : callable
        Context of an array that is read as it is sliced, from a path and the array's name.
    scale : callable
        Pixel pitch (z, x) [mm] and frame rate [Hz], and who states them; None where nobody does.

    Notes
    -----
    All three raise a ValueError that names a damaged file, `ulmpaper.io.files.NotTaken` for a sound
    one that holds no grey frames, and an ImportError where a package is missing.
    """

    name: str
    list_arrays: Callable[[Path], dict[str, ArrayInfo]]
    open_array: Callable[[Path, str], AbstractContextManager[Any]]
    scale: Callable[[Path, str], Scale]


_TIFF = Format("TIFF", stacks.tiff_arrays, stacks.open_tiff, stacks.tiff_scale)
_NPZ = Format("NumPy .npz", stacks.npz_arrays, stacks.open_npz, stacks.npz_scale)
_ZARR = Format("zarr", stacks.zarr_arrays, stacks.open_zarr, stacks.zarr_scale)
_DICOM = Format("DICOM", scanners.dicom_arrays, scanners.open_dicom, scanners.dicom_scale)
_NIFTI = Format("NIfTI", scanners.nifti_arrays, scanners.open_nifti, scanners.nifti_scale)
_VIDEO = Format("video", scanners.video_arrays, scanners.open_video, scanners.video_scale)
_ZEA = Format("zea", beamformed.zea_arrays, beamformed.open_zea, beamformed.zea_scale)
_UFF = Format("UFF", beamformed.uff_arrays, beamformed.open_uff, beamformed.uff_scale)

FORMATS = {
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".npz": _NPZ,
    ".zarr": _ZARR,
    ".zarr.zip": _ZARR,
    ".dcm": _DICOM,
    ".nii": _NIFTI,
    ".nii.gz": _NIFTI,
    ".uff": _UFF,
    **dict.fromkeys((".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".wmv", ".gif"), _VIDEO),
}


_ZARR_MARKS = {"zarr.json", ".zgroup", ".zarray"}


def format_of(path: Path) -> Format | None:
    """Format of a file, or of a zarr folder; None for what `open_frames` reads itself.

    zea's and USTB's files are HDF5, and DICOM files often have no suffix, so those are known by
    their own marks.

    Examples
    --------
    >>> format_of(Path("brain.nii.gz")).name
    'NIfTI'
    """
    name = path.name.lower()
    known = [suffix for suffix in FORMATS if name.endswith(suffix)]
    if path.is_dir():
        is_zarr = ".zarr" in known or any((path / mark).is_file() for mark in _ZARR_MARKS)
        return _ZARR if is_zarr else None
    if known:
        return FORMATS[max(known, key=len)]
    if not path.is_file():
        return None
    with path.open("rb") as file:
        if file.read(132)[128:] == b"DICM":
            return _DICOM
    if name.endswith(".zip") and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return _ZARR if _ZARR_MARKS & set(archive.namelist()) else None
    return {"zea": _ZEA, "UFF": _UFF}.get(beamformed.writer_of(path) or "")
