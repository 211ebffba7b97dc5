"""HDF5 files: what they hold, by the marks of their writers.

MATLAB (v7.3), Octave (``save -hdf5``) and Julia store their axes in reverse; their arrays are named
and shaped here as they see them. Links are followed; what an array needs from elsewhere must be
there: parts of virtual arrays, filters.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
from numpy.typing import NDArray

from ulmpaper.io import matlab
from ulmpaper.io.axes import (
    COLUMN_MAJOR,
    ROW_MAJOR,
    ArrayInfo,
    Reversed,
    infer_axes,
    is_numeric,
    labelled_axes,
    name_dtype,
)
from ulmpaper.io.files import NotTaken

_FILTERS = {  # of the package hdf5plugin
    307: "bzip2",
    32001: "blosc",
    32004: "lz4",
    32008: "bitshuffle",
    32013: "zfp",
    32015: "zstd",
    32026: "blosc2",
}
_MATLAB_OWN = ("#refs#", "#subsystem#")  # groups that MATLAB keeps for itself
_MOST_CELLS = 1000


class _Leaf(NamedTuple):
    """An array of numbers in a file."""

    name: str
    array: h5py.Dataset
    writer: str  # "MATLAB", "Octave", "Julia", or empty


def list_hdf5(path: Path) -> dict[str, ArrayInfo]:
    """List the arrays of numbers in a file, those behind links, in cells and structs too."""
    with h5py.File(path) as file:
        return {leaf.name: _describe(leaf) for leaf in _leaves(file, path)}


@contextlib.contextmanager
def open_hdf5(path: Path, name: str) -> Iterator[Any]:
    """Open an array that is read as it is sliced.

    Raises
    ------
    NotTaken
        A filter, or a file with a part of the array, is missing; numbers outside of HDF5.
    """
    with h5py.File(path) as file:
        leaf = next(leaf for leaf in _leaves(file, path) if leaf.name == name)
        _check_storage(leaf.array, path)
        yield Reversed(leaf.array) if leaf.writer else leaf.array


def kind_hdf5(path: Path) -> str:
    """``MAT v7.3``, ``Octave``, ``Julia`` or ``HDF5``, by the marks in a file."""
    with h5py.File(path) as file:
        writers = {leaf.writer for leaf in _leaves(file, path)}
    return {"MATLAB": "MAT v7.3"}.get(max(writers, default=""), max(writers, default="") or "HDF5")


def numbers_hdf5(path: Path) -> dict[str, NDArray]:
    """Read all arrays and attributes of few numbers, by name: what may state a scale."""
    numbers: dict[str, NDArray] = {}
    with h5py.File(path) as file:
        for leaf in _leaves(file, path):
            is_inside = not (leaf.array.external or leaf.array.is_virtual)
            if is_inside and leaf.array.size <= matlab.FEW:
                with contextlib.suppress(OSError):  # a filter that is missing
                    numbers[leaf.name] = np.ravel(leaf.array[()])
                unit = leaf.array.attrs.get("units", leaf.array.attrs.get("unit"))
                if leaf.name in numbers and unit is not None:
                    numbers[f"{leaf.name}_{_text(unit)}"] = numbers[leaf.name]
            numbers |= _attributes(leaf.array, leaf.name)
        numbers |= _attributes(file, "")
        for name, group in _groups(file):
            numbers |= _attributes(group, name)
    return numbers


def missing_links(path: Path) -> list[str]:
    """Links of a file that lead nowhere, each as its name and its target."""
    found: list[str] = []

    def visit(name: str, link: Any) -> None:
        if not isinstance(link, h5py.HardLink):
            with contextlib.suppress(KeyError, OSError, RuntimeError):
                file[name].name  # noqa: B018
                return
            found.append(f"{name} -> {getattr(link, 'filename', '')}{link.path}")

    with h5py.File(path) as file:
        file.visititems_links(visit)
    return found


def _attributes(item: Any, name: str) -> dict[str, NDArray]:
    """Attributes of few numbers."""
    values = {}
    for key in item.attrs:
        with contextlib.suppress(OSError, TypeError):
            value = np.ravel(item.attrs[key])
            if value.dtype.kind in "iuf" and 0 < value.size <= matlab.FEW:
                values[f"{name}/{key}".strip("/")] = value
    return values


def _groups(file: h5py.File) -> list[tuple[str, h5py.Group]]:
    """All groups by hard links."""
    found: list[tuple[str, h5py.Group]] = []

    def visit(name: str, item: Any) -> None:
        if isinstance(item, h5py.Group) and not name.startswith(_MATLAB_OWN):
            found.append((name, item))

    file.visititems(visit)
    return found


def _describe(leaf: _Leaf) -> ArrayInfo:
    """Shape and axes of an array."""
    array = leaf.array
    dtype = name_dtype(array.dtype)
    labels = labelled_axes(dim.label for dim in array.dims)
    if leaf.writer:
        shape = array.shape[::-1]
        why = f"{leaf.writer} stores its axes (z, x, t) in reverse"
        if labels:
            return ArrayInfo(shape, labels[::-1], "the file labels its axes", dtype)
        return infer_axes(shape, COLUMN_MAJOR, why, dtype)
    if labels and len(labels) == array.ndim:
        return ArrayInfo(array.shape, labels, "the file labels its axes", dtype)
    why = "no writer left a mark, so the axes are NumPy's, (t, z, x)"
    return infer_axes(array.shape, ROW_MAJOR, why, dtype)


def _leaves(file: h5py.File, path: Path) -> Iterator[_Leaf]:
    """All arrays of numbers of a file; those behind soft and external links come last."""
    walk = _Walk(file)
    todo: list[tuple[str, h5py.Group, str]] = [("", file, _writer(path))]
    while todo:
        name, group, writer = todo.pop(0)
        yield from walk.group(name, group, writer)
        if not todo:
            todo = walk.linked
            walk.linked = []


class _Walk:
    """The way through the groups of a file, each object once."""

    def __init__(self, file: h5py.File) -> None:
        self._file = file
        self._seen: set[tuple[int, Any]] = set()
        self.linked: list[tuple[str, Any, str]] = []

    def group(self, name: str, group: Any, writer: str) -> Iterator[_Leaf]:
        """Arrays in a group, or one behind a link."""
        if not isinstance(group, h5py.Group):
            yield from self._item(name, group, writer)
            return
        if self._is_known(group):
            return
        for key in group:
            if key in _MATLAB_OWN:
                continue
            link = group.get(key, getlink=True)
            inner = f"{name}{'.' if writer else '/'}{key}" if name else key
            try:
                item = group[key]
            except (KeyError, OSError, RuntimeError):  # a link that leads nowhere
                continue
            if isinstance(link, h5py.HardLink):
                yield from self._item(inner, item, writer)
            else:
                other = item.file.filename != self._file.filename
                mark = _writer(Path(item.file.filename)) if other else writer
                self.linked.append((inner, item, mark))

    def _is_known(self, item: Any) -> bool:
        """Whether an object was met before."""
        info = h5py.h5o.get_info(item.id)
        key = (info.fileno, info.addr)
        known = key in self._seen
        self._seen.add(key)
        return known

    def _item(self, name: str, item: Any, writer: str) -> Iterator[_Leaf]:
        """Arrays that an object is or holds."""
        if "OCTAVE_NEW_FORMAT" in item.attrs and isinstance(item, h5py.Group):
            yield from self._octave(name, item)
        elif isinstance(item, h5py.Group):
            yield from self.group(name, item, writer)
        elif isinstance(item, h5py.Dataset) and item.shape is not None:
            yield from self._dataset(name, item, writer)

    def _dataset(self, name: str, array: h5py.Dataset, writer: str) -> Iterator[_Leaf]:
        """An array, or what the references in it lead to."""
        kind = _text(array.attrs.get("MATLAB_class", ""))
        if h5py.check_ref_dtype(array.dtype) is h5py.Reference:
            yield from self._references(name, array, kind)
            return
        holds_numbers = is_numeric(array.dtype) and kind != "char"
        if holds_numbers and "MATLAB_empty" not in array.attrs and not self._is_known(array):
            yield _Leaf(name, array, "MATLAB" if kind else writer)

    def _references(self, name: str, array: h5py.Dataset, kind: str) -> Iterator[_Leaf]:
        """Cells of MATLAB's, or a field of several structs."""
        if array.size > _MOST_CELLS:
            return
        references = np.ravel(array[()])  # MATLAB's axes in reverse make this MATLAB's order
        for number, reference in enumerate(references, 1):
            if not reference:
                continue
            parent, _, field = name.rpartition(".")
            inner = (
                f"{parent}({number}).{field}"
                if parent and kind != "cell"
                else (f"{name}{{{number}}}")
            )
            yield from self._item(inner, self._file[reference], "MATLAB")

    def _octave(self, name: str, group: h5py.Group) -> Iterator[_Leaf]:
        """A variable of Octave's: a matrix, or a struct or cell of them."""
        value = group.get("value")
        if isinstance(value, h5py.Group):
            is_cell = _text(group["type"][()]) == "cell" if "type" in group else False
            for key, item in value.items():
                number = key.removeprefix("_")
                if is_cell and number.isdigit():
                    yield from self._item(f"{name}{{{int(number) + 1}}}", item, "Octave")
                elif not is_cell:
                    yield from self._item(f"{name}.{key}", item, "Octave")
        elif isinstance(value, h5py.Dataset) and "OCTAVE_EMPTY_MATRIX" not in value.attrs:
            yield from self._dataset(name, value, "Octave")


def _text(value: Any) -> str:
    """Text of an attribute, of whatever type."""
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _writer(path: Path) -> str:
    """Who wrote a file, by its first bytes or its suffix, where that matters for its axes."""
    with path.open("rb") as file:
        head = file.read(128)
    if head.startswith(b"MATLAB 7.3") or path.suffix.lower() == ".mat":
        return "MATLAB"
    return "Julia" if b"Julia" in head else ""


def _check_storage(array: h5py.Dataset, path: Path, depth: int = 0) -> None:
    """Refuse an array whose numbers cannot all be read, before some of them come as zeros.

    Raises
    ------
    NotTaken
        Names the filter, or the file that is missing or lies outside of HDF5.
    """
    name = array.name
    if array.external:
        raise NotTaken(
            f"{path}: the numbers of {name} lie outside of HDF5, in {array.external[0][0]}, which "
            "may be any file: copy them into the file (h5repack), or read that file yourself"
        )
    if array.chunks:
        _check_filters(array, path)
    if not array.is_virtual:
        return
    n_mapped = 0
    for part in array.virtual_sources():
        n_mapped += part.vspace.get_select_npoints()
        _check_part(part, array, path, depth)
    if n_mapped < array.size:
        raise NotTaken(
            f"{path}: {name} is virtual, and its parts hold {n_mapped} of its {array.size} numbers"
        )


def _check_part(part: Any, array: h5py.Dataset, path: Path, depth: int) -> None:
    """Refuse a part of a virtual array that is not there, or not whole."""
    file_name = part.file_name
    home = Path(array.file.filename).parent
    places = [Path(array.file.filename)] if file_name == "." else [home / file_name]
    found = [place for place in places if place.is_file()]
    what = f"{path}: {array.name} is put together from other files (virtual)"
    if not found:
        raise NotTaken(f"{what}, and {file_name} is missing: put it back into {home}")
    if depth > 5:
        raise NotTaken(f"{what}, and they from others, and so on: copy the frames into one file")
    with h5py.File(found[0]) as file:
        source = file.get(part.dset_name)
        if not isinstance(source, h5py.Dataset):
            raise NotTaken(f"{what}, and {file_name} has no array {part.dset_name}")
        _check_storage(source, path, depth + 1)
        is_short = source.size < part.vspace.get_select_npoints()
        if part.src_space.get_select_type() == h5py.h5s.SEL_HYPERSLABS:
            last = part.src_space.get_select_bounds()[1]
            is_short |= any(k >= n for k, n in zip(last, source.shape, strict=False))
        if is_short:
            raise NotTaken(
                f"{what}, and {part.dset_name} of {file_name} has the shape {source.shape}, "
                "less than is taken from it"
            )


def _check_filters(array: h5py.Dataset, path: Path) -> None:
    """Refuse an array that is packed by a filter that is not here."""
    plan = array.id.get_create_plist()
    for number in range(plan.get_nfilters()):
        filter_id = plan.get_filter(number)[0]
        if not h5py.h5z.filter_avail(filter_id):
            with contextlib.suppress(ImportError):
                importlib.import_module("hdf5plugin")  # which makes the filters known
        if not h5py.h5z.filter_avail(filter_id):
            known = f"{_FILTERS[filter_id]}, " if filter_id in _FILTERS else ""
            raise NotTaken(
                f"{path} is sound, but {array.name} is packed by an HDF5 filter that is not "
                f"installed ({known}{filter_id}): pip install hdf5plugin, "
                "or repack the file (h5repack -f GZIP=1)"
            )
