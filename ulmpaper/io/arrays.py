"""Arrays of a file: which there are, which one holds the frames, and how it is opened."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from scipy.io.matlab import matfile_version

from ulmpaper.core.records import check_choice
from ulmpaper.io.axes import (
    ROW_MAJOR,
    ArrayInfo,
    Pair,
    check_axes,
    find_pairs,
    infer_axes,
    is_numeric,
    name_dtype,
)
from ulmpaper.io.files import NotTaken, readable
from ulmpaper.io.formats import FORMATS, format_of
from ulmpaper.io.hdf5 import kind_hdf5, list_hdf5, missing_links, open_hdf5
from ulmpaper.io.matlab import check_mat5, list_mat5, open_mat5
from ulmpaper.io.scale import STATED
from ulmpaper.io.store import _FORMAT

RECORD = "czxt"  # axes of record 7883227, which keeps the two parts of IQ on a first axis
_SUFFIXES = (".mat", ".h5", ".hdf5", ".npy")
_KNOWN_STACKS = ("IQ", "normal_rat_kidney", "IQData", "iq")  # names that are taken before others
_RAW = ("RcvData", "RData")  # Verasonics' channel data, which are no frames yet


def is_complex(stored_dtype: str) -> bool:
    """Whether numbers of this stored type are complex, as one type or as pairs of fields."""
    return "complex" in stored_dtype or "(" in stored_dtype


def list_arrays(path: Path) -> tuple[str, dict[str, ArrayInfo]]:
    """Kind of a file, as in `FrameFile`, and its arrays of numbers."""
    other = format_of(path)
    if other is not None and path.exists():
        return other.name, other.list_arrays(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is a folder, give a file" if path.is_dir() else f"there is no file {path}"
        )
    kinds = (*_SUFFIXES, *FORMATS)
    suffix = check_choice(path.suffix.lower(), kinds, f"kind of file ({path.name})")
    with readable(path):
        if suffix == ".npy":
            array = np.load(path, mmap_mode="r", allow_pickle=False)
            why = "NumPy's order is (t, z, x)"
            info = infer_axes(array.shape, ROW_MAJOR, why, name_dtype(array.dtype))
            return "NumPy", {"array": info} if is_numeric(array.dtype) else {}
        if not h5py.is_hdf5(path):
            _check_version(path)
            return "MAT v5", list_mat5(path)
        with h5py.File(path) as file:
            if file.attrs.get("format") == _FORMAT:
                frames = file.get("frames")
                shape = (int(file.attrs["complete"]), *(frames.shape[1:] if frames else (0, 0)))
                dtype = name_dtype(frames.dtype) if frames else "float32"
                why = "a block store keeps frames as (t, z, x)"
                return "BlockStore", {"frames": ArrayInfo(shape, "tzx", why, dtype)}
        arrays = list_hdf5(path)
        iq = arrays.get("iq")
        # The record's marks: the name, two parts first, and its parameters near.
        if iq and len(iq.shape) == 4 and iq.shape[0] == 2 and not iq.axes and parameters_near(path):
            why = f"record 7883227 keeps IQ so, and {parameters_near(path)[0].name} is near"
            arrays["iq"] = iq._replace(axes=RECORD, why=why)
        return kind_hdf5(path), arrays


def _check_version(path: Path) -> None:
    """Refuse what is called .mat but is not of version 5 to 7.3."""
    with path.open("rb") as file:
        head = file.read(128)
    if head[:10] in (b"Octave-1-L", b"Octave-1-B") or b"Created by Octave" in head[:40]:
        raise NotTaken(
            f"{path} is in Octave's own format: save it by save('-v7', ...), or "
            "save('-hdf5', ...) to .h5"
        )
    if matfile_version(path)[0] == 0:
        raise NotTaken(
            f"{path} is a MAT file of version 4, which holds no arrays of three axes: save('-v7')"
        )


@contextlib.contextmanager
def open_array(path: Path, name: str) -> Iterator[Any]:
    """Array, or two as real and imaginary part, that is read as it is sliced.

    Only MAT v5, compressed as a whole, is read at once.
    """
    with contextlib.ExitStack() as stack:
        if name.count(",") == 1:
            yield Pair(*(stack.enter_context(open_array(path, part)) for part in name.split(",")))
            return
        other = format_of(path)
        if other is not None:
            yield stack.enter_context(other.open_array(path, name))
            return
        with readable(path):
            if path.suffix.lower() == ".npy":
                array = np.load(path, mmap_mode="r", allow_pickle=False)
            elif h5py.is_hdf5(path):
                array = stack.enter_context(open_hdf5(path, name))
            else:
                array = open_mat5(path, name)
        yield array


def check_array(path: Path, name: str, info: ArrayInfo) -> str:
    """Refuse an array that cannot be read, before any work; return its stored type."""
    if info.dtype and path.suffix.lower() == ".mat" and not h5py.is_hdf5(path):
        with readable(path):
            for part in name.split(","):
                check_mat5(path, part)
        return info.dtype
    with open_array(path, name) as array:
        return info.dtype or name_dtype(array.dtype)


def choose_array(
    path: Path, arrays: dict[str, ArrayInfo], variable: str | None, axes: str | None
) -> tuple[str, list[str]]:
    """Name of the stack of frames among the arrays of a file, and a note where others are there.

    Pairs of real and imaginary part are added to `arrays`.
    """
    listing = ", ".join(f"{name} {info.shape}" for name, info in arrays.items())
    listing = listing or "no arrays of numbers"
    pairs = find_pairs(arrays)
    for real, imag in pairs:
        _add_pair(path, arrays, real, imag)
    if variable is not None:
        return _named_stack(path, arrays, variable, listing, axes), []
    parts = {name for pair in pairs for name in pair}
    stacks = [
        name
        for name, info in arrays.items()
        if name not in parts and not _is_raw(name) and _may_be_frames(info, axes)
    ]
    known = [
        name
        for wanted in _KNOWN_STACKS
        for name in stacks
        if re.split(r"[./]", name.removesuffix("{1}"))[-1] == wanted
    ]
    if len(stacks) > 1 and not known:
        raise ValueError(
            f"{path} has several stacks of frames, choose one with --variable NAME "
            f"(variable=...); it holds {listing}"
        )
    if not stacks:
        raise ValueError(_no_stack(path, arrays, listing, axes))
    chosen = (known or stacks)[0]
    others = [name for name in stacks if name != chosen]
    return chosen, [f"{chosen} is taken, not {', '.join(others)}"] if others else []


def _add_pair(path: Path, arrays: dict[str, ArrayInfo], real: str, imag: str) -> None:
    """List two arrays as one of complex numbers."""
    first, second = arrays[real], arrays[imag]
    if first.shape != second.shape:
        raise ValueError(
            f"{path}: {real} and {imag} differ in shape, {first.shape} and {second.shape}, "
            "so they are not the two parts of IQ"
        )
    complex_ones = [n for n in (real, imag) if is_complex(arrays[n].dtype)]
    if complex_ones:
        raise ValueError(f"{path}: {complex_ones[0]} is complex, so it needs no second array")
    why = f"{first.why}; {real} and {imag} are the two parts of IQ"
    arrays[f"{real},{imag}"] = first._replace(why=why, dtype=f"{first.dtype} ({real}, {imag})")


def _is_raw(name: str) -> bool:
    """Whether an array is Verasonics' channel data."""
    return re.split(r"[.{(]", name)[0] in _RAW


def _may_be_frames(info: ArrayInfo, axes: str | None) -> bool:
    """Whether the axes of an array are known, or those that the user names fit."""
    if axes is None:
        return bool(info.axes)
    try:
        check_axes(axes, info.shape, "")
    except ValueError:
        return False
    return True


def _named_stack(
    path: Path, arrays: dict[str, ArrayInfo], variable: str, listing: str, axes: str | None
) -> str:
    """The array that the user means, by its name, or that of the struct, cell or group of it."""
    if variable.count(",") == 1 and variable not in arrays:
        parts = [part.strip() for part in variable.split(",")]
        names = [_named_stack(path, arrays, part, listing, axes) for part in parts]
        _add_pair(path, arrays, names[0], names[1])
        return ",".join(names)

    def plain(name: str) -> str:
        return name.strip("/").replace("/", ".")

    exact = [name for name in arrays if plain(name) == plain(variable)]
    inside = [
        name
        for name, info in arrays.items()
        if re.match(re.escape(plain(variable)) + r"[.{(]", plain(name))
        and _may_be_frames(info, axes)
    ]
    found = exact or inside
    if len(found) > 1:
        raise ValueError(
            f"{path}: {variable} holds several stacks of frames, choose one with --variable NAME "
            f"(variable=...): {', '.join(found)}"
        )
    if not found or len(arrays[found[0]].shape) < 3:
        raise ValueError(f"{path} has no stack of frames {variable!r}; it holds {listing}")
    return found[0]


def _no_stack(path: Path, arrays: dict[str, ArrayInfo], listing: str, axes: str | None) -> str:
    """Why none of the arrays of a file is a stack of frames, and what to do."""
    raw = [name for name in arrays if _is_raw(name)]
    if raw:
        return (
            f"{path} holds Verasonics' channel data ({raw[0]}), which are no frames yet: "
            f"beamform them first; it holds {listing}"
        )
    large = [(name, info) for name, info in arrays.items() if len(info.shape) > 2]
    if axes is not None and arrays:
        return f"{path} has no array with the axes {axes!r}; it holds {listing}"
    if large:
        name, info = large[0]
        return f"{path}: {name} has the shape {info.shape}, and {info.why}"
    lost = missing_links(path) if path.is_file() and h5py.is_hdf5(path) else []
    if lost:
        return f"{path} holds {listing}, and links that lead nowhere: {', '.join(lost)}"
    return (
        f"{path} has no array of three axes; it holds {listing}. "
        "Save a single frame as frame[None], (1, z, x)"
    )


def take_axes(path: Path, name: str, info: ArrayInfo, axes: str | None) -> ArrayInfo:
    """The array with the axes that the user names, or else its own."""
    if axes is not None:
        letters = check_axes(axes, info.shape, f"{path}: {name}")
        if "c" in letters and is_complex(info.dtype):
            raise ValueError(f"{path}: {name} is complex, so it has no axis c of two parts")
        return info._replace(axes=letters, why=STATED)
    if not info.axes:
        raise ValueError(f"{path}: {name} has the shape {info.shape}, and {info.why}")
    return info


def parameters_near(path: Path, *, in_silico: bool = False) -> list[Path]:
    """The file of parameters next to a file of PALA's, or in one of two folders above, if any."""
    name = "PALA_InSilicoFlow_sequence.mat" if in_silico else "param.mat"
    return [file for folder in path.resolve().parents[:3] if (file := folder / name).is_file()][:1]
