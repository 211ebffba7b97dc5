"""MATLAB's files of version 5 to 7: what they hold, read from the tree of their elements.

Each element opens with its type and its size. The whole tree of a variable is checked before scipy
reads it: on a tag of no type, as where a file was never written to its end, scipy crashes.
Layout: MathWorks, *MAT-File Format*, chapter 1.
"""

from __future__ import annotations

import math
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat

from ulmpaper.io.axes import COLUMN_MAJOR, ArrayInfo, infer_axes

_ORDER = "MATLAB keeps frames as (z, x, t)"
FEW = 16  # numbers, at most, that an array holds which may state a scale
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8"}
_NUMBERS[13] = "u8"
_TEXTS = (16, 17, 18)
_MATRIX = 14
_COMPRESSED = 15
_CLASSES = {  # of arrays of numbers
    6: "float64",
    7: "float32",
    **{8 + k: f"{sign}int{8 << k // 2}" for k in range(8) for sign in [("", "u")[k % 2]]},
}
_CELL, _STRUCT, _OBJECT, _CHAR, _SPARSE = 1, 2, 3, 4, 5
_DEEPEST = 50  # cells in cells; scipy follows them on the machine's stack
_CHUNK = 2**16  # unpacked at once
_LONGEST = 2**20  # bytes of names, sizes and few numbers


class _Array(NamedTuple):
    """An array of numbers in the tree, under the name by which MATLAB reaches it."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    numbers: NDArray | None  # where there are few


def list_mat5(path: Path) -> dict[str, ArrayInfo]:
    """List the arrays of numbers in a file, those in cells and fields of structs too.

    Raises
    ------
    ValueError
        An element has no type, or reaches beyond the one that holds it.
    """
    return {
        array.name: infer_axes(array.shape, COLUMN_MAJOR, _ORDER, array.dtype)
        for array in _walk(path)
    }


def check_mat5(path: Path, name: str) -> None:
    """Check all elements of the variable that an array is in.

    Raises
    ------
    ValueError
        An element has no type, or reaches beyond the one that holds it.
    """
    for _ in _walk(path, re.split(r"[.({]", name)[0]):
        pass


def open_mat5(path: Path, name: str) -> NDArray:
    """Read an array; all of its variable is read at once, for it is compressed as a whole."""
    variable = re.split(r"[.({]", name)[0]
    check_mat5(path, name)
    value = loadmat(path, variable_names=[variable])[variable]
    for field, place in re.findall(r"\.(\w+)|[({](\d+)[)}]", name.removeprefix(variable)):
        value = value[field] if field else np.ravel(value, order="F")[int(place) - 1]
        if field and isinstance(value, np.ndarray) and value.dtype == object and value.size == 1:
            value = value.item()
    return value


def numbers_mat5(path: Path) -> dict[str, NDArray]:
    """Read all arrays of few numbers, by name: what may state a scale."""
    return {array.name: array.numbers for array in _walk(path) if array.numbers is not None}


class _Stream:
    """Bytes of a file, or those packed in a part of it, of which the place is counted."""

    def __init__(self, file: BinaryIO, n_packed: int | None = None) -> None:
        self._file = file
        self._packed = n_packed
        self._unpack = zlib.decompressobj()
        self._ready = b""
        self.place = 0

    def read(self, n_bytes: int) -> bytes:
        """Exactly so many bytes, which should be few."""
        if self._packed is None:
            content = self._file.read(n_bytes)
        else:
            while len(self._ready) < n_bytes and self._fill():
                pass
            content = self._ready[:n_bytes]
            self._ready = self._ready[n_bytes:]
        if len(content) < n_bytes:
            raise ValueError("it ends early")
        self.place += n_bytes
        return content

    def skip(self, n_bytes: int) -> None:
        """Pass over bytes; packed ones are unpacked piece by piece."""
        if self._packed is None:
            self._file.seek(n_bytes, os.SEEK_CUR)
            self.place += n_bytes
            return
        while n_bytes > 0:
            n_now = min(n_bytes, _CHUNK)
            self.read(n_now)
            n_bytes -= n_now

    def _fill(self) -> bool:
        """Unpack a piece more; False at the end."""
        packed = self._unpack.unconsumed_tail
        if not packed:
            packed = self._file.read(min(_CHUNK, self._packed or 0))
            self._packed = (self._packed or 0) - len(packed)
        piece = self._unpack.decompress(packed, _CHUNK)
        self._ready += piece
        return bool(piece) or (bool(packed) and not self._unpack.eof)


def _walk(path: Path, variable: str | None = None) -> Iterator[_Array]:
    """All arrays of numbers of a file, or of one variable of it; checks the tree on the way.

    Plain arrays are looked into only where a variable is named, structs and cells always.
    """
    n_file = path.stat().st_size
    with path.open("rb") as file:
        order = "<" if file.read(128)[126:128] == b"IM" else ">"
        place = 128
        while place + 8 <= n_file:
            kind, n_bytes = struct.unpack(order + "II", file.read(8))
            end = place + 8 + n_bytes
            if kind not in (_MATRIX, _COMPRESSED) or end > n_file:
                raise ValueError(
                    f"at byte {place} there is no element of a MAT file, or it was not all written"
                )
            stream = _Stream(file, n_bytes if kind == _COMPRESSED else None)
            if kind == _COMPRESSED:
                kind, n_bytes = struct.unpack(order + "II", stream.read(8))
                _check(kind == _MATRIX, kind, place)
            yield from _Tree(stream, order, variable).matrix("", n_bytes, 0)
            file.seek(end)
            place = end
    if place != n_file:
        raise ValueError("it ends early")


def _check(holds: bool, kind: int, place: int) -> None:
    """Refuse an element by its type."""
    if not holds:
        raise ValueError(f"an element has the wrong type ({kind}) or size, near byte {place}")


class _Tree:
    """Elements of one variable."""

    def __init__(self, stream: _Stream, order: str, variable: str | None) -> None:
        self._stream = stream
        self._order = order
        self._variable = variable

    def matrix(self, name: str, n_bytes: int, depth: int) -> Iterator[_Array]:
        """What a matrix holds; `name` is empty for a variable, which brings its own."""
        stream = self._stream
        end = stream.place + n_bytes
        if n_bytes == 0:  # how an empty cell or field is kept
            return
        _check(depth < _DEEPEST, _MATRIX, stream.place)
        flags = np.frombuffer(self._element(end, (6,)), self._order + "u4")
        kind = int(flags[0]) & 0xFF
        if kind > 15:  # functions, and objects such as strings and tables, hold no frames
            stream.skip(end - stream.place if depth else 0)
            return
        sizes = np.frombuffer(self._element(end, (5, 6)), self._order + "i4")
        shape = tuple(int(n) for n in sizes)
        _check(len(shape) >= 2 and min(shape) >= 0, kind, stream.place)
        own = self._element(end, (1, 2, 16)).decode("latin-1")
        if depth == 0:
            name = own
        if depth == 0 and self._variable not in (None, name):
            return
        if kind in (_CELL, _STRUCT, _OBJECT):
            yield from self._children(name, kind, shape, end, depth)
        elif kind == _CHAR:
            self._pass_over(end, (*_NUMBERS, *_TEXTS))
        elif kind == _SPARSE:
            while stream.place < end:
                self._pass_over(end, tuple(_NUMBERS))
        else:
            yield self._array(name, kind, bool(int(flags[0]) & 0x800), shape, end, depth)
        if depth:  # after a variable, the next one is found by the size of this one
            stream.skip(max(0, end - stream.place))

    def _array(
        self, name: str, kind: int, is_complex: bool, shape: tuple[int, ...], end: int, depth: int
    ) -> _Array:
        """A plain array of numbers."""
        _check(kind in _CLASSES, kind, self._stream.place)
        dtype = _CLASSES[kind]
        if is_complex:
            dtype = "complex64" if dtype == "float32" else "complex128"
        n_numbers = math.prod(shape)
        numbers = None
        is_checked = self._variable is not None or depth > 0
        n_parts = 1 + is_complex
        if n_numbers <= FEW and not is_complex:
            kind_stored, content = self._typed(end, tuple(_NUMBERS))
            numbers = np.frombuffer(content, self._order + _NUMBERS[kind_stored])
            n_parts = 0
        for _ in range(n_parts if is_checked else 0):
            n_stored = self._pass_over(end, tuple(_NUMBERS))
            _check(n_stored == n_numbers, kind, self._stream.place)
        return _Array(name, shape, dtype, numbers)

    def _children(
        self, name: str, kind: int, shape: tuple[int, ...], end: int, depth: int
    ) -> Iterator[_Array]:
        """What the cells of a cell array or the fields of structs hold."""
        fields = [""]
        if kind == _OBJECT:
            self._element(end, (1, 2, 16))  # name of its class
        if kind != _CELL:
            length = int(np.frombuffer(self._element(end, (5,)), self._order + "i4")[0])
            _check(length > 0, kind, self._stream.place)
            text = self._element(end, (1, 2))
            starts = range(0, len(text), length)
            fields = [text[k : k + length].split(b"\0")[0].decode("latin-1") for k in starts]
        for number in range(1, math.prod(shape) + 1):
            for field in fields:
                inner = f"{name}{{{number}}}"
                if field:
                    inner = (
                        f"{name}.{field}"
                        if math.prod(shape) == 1
                        else (f"{name}({number}).{field}")
                    )
                place = self._stream.place
                kind, n_bytes, _ = self._tag()
                _check(kind == _MATRIX and self._stream.place + n_bytes <= end, kind, place)
                yield from self.matrix(inner, n_bytes, depth + 1)

    def _tag(self) -> tuple[int, int, bytes]:
        """Type and size of the next element; and its content where that is packed with the tag."""
        head = self._stream.read(8)
        kind, n_bytes = struct.unpack(self._order + "II", head)
        if kind >> 16:
            return kind & 0xFFFF, kind >> 16, head[4 : 4 + (kind >> 16)]
        return kind, n_bytes, b""

    def _typed(self, end: int, kinds: tuple[int, ...]) -> tuple[int, bytes]:
        """Type and content of the next element, which must be of one of these types."""
        place = self._stream.place
        kind, n_bytes, content = self._tag()
        _check(kind in kinds and n_bytes <= _LONGEST, kind, place)
        if not content:
            _check(self._stream.place + n_bytes <= end, kind, place)
            content = self._stream.read(n_bytes)
            self._pad(n_bytes, end)
        _check(len(content) == n_bytes, kind, place)
        return kind, content

    def _element(self, end: int, kinds: tuple[int, ...]) -> bytes:
        return self._typed(end, kinds)[1]

    def _pass_over(self, end: int, kinds: tuple[int, ...]) -> int:
        """Check the type and size of the next element; return its number of numbers."""
        place = self._stream.place
        kind, n_bytes, content = self._tag()
        _check(kind in kinds, kind, place)
        if not content:
            _check(self._stream.place + n_bytes <= end, kind, place)
            self._stream.skip(n_bytes)
            self._pad(n_bytes, end)
        return n_bytes // np.dtype(_NUMBERS.get(kind, "u1")).itemsize

    def _pad(self, n_bytes: int, end: int) -> None:
        """Pass over what fills an element up to eight bytes."""
        self._stream.skip(min(-n_bytes % 8, end - self._stream.place))
