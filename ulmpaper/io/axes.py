"""Axes of the arrays of files: what each means, and how frames (t, z, x) come out of them.

Who wrote a file decides the order of its axes: NumPy's are (t, z, x), MATLAB's and Octave's
(z, x, t). An axis of one entry goes. What is left over is never guessed from its size; the user
names the axes then: t time, z depth, x across, c real and imaginary part, 1 an axis of one entry.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

ROW_MAJOR = "tzx"  # as NumPy's users keep frames
COLUMN_MAJOR = "zxt"  # as those of MATLAB, Octave and Julia do
_LETTERS = "tzxc1"
_MEANING = "t time, z depth, x across, c real and imaginary part, 1 an axis of one entry"
_PARTS = (("real", "imag"), ("re", "im"), ("r", "i"), ("i", "q"), ("inphase", "quadrature"))
_PAIRS = (("real", "imag"), ("re", "im"), ("i", "q"), ("inphase", "quadrature"))


class ArrayInfo(NamedTuple):
    """An array in a file: its shape, the meaning of its axes, and why they are taken so.

    Parameters
    ----------
    shape : tuple of int
        In the order of its writer, so (z, x, t) for MATLAB's v7.3 too.
    axes : str
        A letter for each axis: t, z, x; ``c`` holds real and imaginary part; ``1`` has one entry.
        Empty where the file does not say.
    why : str
        A clause for the user: who says so, or what is not known.
    dtype : str
        Type of the stored numbers; empty where it shows when the array is opened.
    """

    shape: tuple[int, ...]
    axes: str
    why: str
    dtype: str = ""


def infer_axes(shape: tuple[int, ...], order: str, why: str, dtype: str = "") -> ArrayInfo:
    """Axes of an array by its writer's order, where that settles it.

    Examples
    --------
    >>> infer_axes((40, 50, 1, 12), COLUMN_MAJOR, "MATLAB's order").axes
    'zx1t'
    >>> infer_axes((2, 30, 20, 24), ROW_MAJOR, "NumPy's order").axes
    ''
    """
    n_spare = len(shape) - 3
    if n_spare < 0:
        return ArrayInfo(shape, "", "it has no three axes", dtype)
    time = len(shape) - 1 if order[-1] == "t" else 0
    places = (0, 1) if order[-1] == "t" else (len(shape) - 2, len(shape) - 1)
    # Of several axes of one entry, those go first that stand where no axis of a frame does.
    single = [k for k, n in enumerate(shape) if n == 1]
    single.sort(key=lambda k: (k == time, k in places, k))
    if len(single) < n_spare:
        return ArrayInfo(shape, "", _doubt(shape, order, dtype), dtype)
    return ArrayInfo(shape, _fill(len(shape), order, single[:n_spare]), why, dtype)


def _fill(n_axes: int, order: str, single: Iterable[int], parts: int | None = None) -> str:
    """Letters of all axes, in the order given; some have one entry, one holds the parts of IQ."""
    rest = iter(order)
    single = set(single)
    return "".join(
        "1" if k in single else "c" if k == parts else next(rest, "?") for k in range(n_axes)
    )


def _doubt(shape: tuple[int, ...], order: str, dtype: str) -> str:
    """What an array of more than three axes may be, and what to do."""
    sizes = ", ".join(map(str, shape))
    single = [k for k, n in enumerate(shape) if n == 1]
    is_complex = "complex" in dtype or "(" in dtype
    twos = [k for k in (len(shape) - 1, *range(len(shape))) if shape[k] == 2]
    if twos and not is_complex and len(shape) - len(single) == 4:
        parts = 0 if shape[0] == 2 else twos[0]
        example = _fill(len(shape), order, single, parts)
        return f"if an axis of 2 holds the parts of IQ, {name_axes(example)}"
    if order == ROW_MAJOR and shape[-1] in (3, 4) and not is_complex:
        return (
            f"its last axis, of {shape[-1]}, is one too many; if it holds colours, take one: "
            "frames[..., 0]"
        )
    return (
        f"of its axes ({sizes}) at least one is too much, as in volumes: "
        "take one plane or channel, so that time, depth and x are left"
    )


def name_axes(example: str) -> str:
    """How to name axes, on the command line and in Python."""
    return f'name them, such as --axes {example} (axes="{example}"): {_MEANING}'


def check_axes(axes: str, shape: tuple[int, ...], what: str) -> str:
    """Return a letter for each axis of `shape`, by the names that the user gave.

    Axes of one entry may be left out.

    Raises
    ------
    ValueError
        Not t, z and x once each, or they do not fit the shape.

    Examples
    --------
    >>> check_axes("zxt", (40, 50, 1, 12), "IQ")
    'zx1t'
    """
    letters = re.sub(r"[\s,()]", "", axes).lower()
    has_three = all(letters.count(letter) == 1 for letter in "tzx") and letters.count("c") <= 1
    if set(letters) - set(_LETTERS) or not has_three:
        raise ValueError(
            f"axes takes t, z and x once each and c and 1 where there are such, not {axes!r}: "
            f"{_MEANING}"
        )
    single = [k for k, n in enumerate(shape) if n == 1]
    n_left_out = len(shape) - len(letters)
    if 0 < n_left_out == len(single):
        letters = _fill(len(shape), letters, single)
    if len(letters) != len(shape):
        raise ValueError(
            f"{what} has the shape {shape}, {len(shape)} axes, but axes={axes!r} "
            f"names {len(letters)}: {_MEANING}"
        )
    wrong = [
        f"{letter} has {n} entries, not {allowed}"
        for letter, n in zip(letters, shape, strict=True)
        for allowed in [{"c": 2, "1": 1}.get(letter, n)]
        if n != allowed
    ]
    if wrong:
        raise ValueError(f"{what} has the shape {shape}: by axes={axes!r}, {wrong[0]}")
    return letters


def labelled_axes(labels: Iterable[str]) -> str:
    """Letters by the names that a file gives its axes; empty where they say nothing else.

    Examples
    --------
    >>> labelled_axes(["frame", "depth", "lateral"]), labelled_axes(["", "", ""])
    ('tzx', '')
    """
    known = {
        "t": ("t", "time", "frame", "frames", "slow_time"),
        "z": ("z", "depth", "axial"),
        "x": ("x", "lateral", "width"),
        "c": ("c", "iq", "part", "parts"),
    }
    letter_of = {name: letter for letter, names in known.items() for name in names}
    letters = [letter_of.get(label.lower(), "") for label in labels]
    complete = all(letters) and all(letters.count(letter) == 1 for letter in "tzx")
    return "".join(letters) if complete else ""


def _complex_fields(dtype: np.dtype) -> tuple[str, str] | None:
    """Names of the two fields of complex numbers that are stored as pairs."""
    names = dtype.names or ()
    is_pair = tuple(name.lower() for name in names) in _PARTS
    if is_pair and all(dtype[name].kind in "iufb" for name in names):
        return names[0], names[1]
    return None


def is_numeric(dtype: np.dtype) -> bool:
    """Whether an array of this type may hold frames."""
    return dtype.kind in "iufcb" or _complex_fields(dtype) is not None


def name_dtype(dtype: np.dtype) -> str:
    """Type of stored numbers in a word; complex numbers kept as pairs show their fields."""
    fields = _complex_fields(dtype)
    return f"{dtype[0].name} ({', '.join(fields)})" if fields else dtype.name


def find_pairs(arrays: Mapping[str, ArrayInfo]) -> list[tuple[str, str]]:
    """Names of arrays that are the two parts of IQ: I and Q, real and imag, in any spelling.

    Examples
    --------
    >>> find_pairs({n: ArrayInfo((4, 5, 6), "tzx", "", "int16") for n in ("IData", "QData", "a")})
    [('IData', 'QData')]
    """
    return [
        (name, other)
        for name, info in arrays.items()
        for other in _partners(name)
        if other in arrays
        and arrays[other].shape == info.shape
        and arrays[other].axes == info.axes
        and len(info.shape) >= 3
        and "complex" not in info.dtype + arrays[other].dtype
    ]


def _partners(name: str) -> set[str]:
    """Names that the imaginary part may have where the real part has this one."""
    found = set()
    for words in _PAIRS:
        for change in (str.lower, str.title, str.upper):
            first, second = (change(word) for word in words)
            # A word ends at a sign that is no letter, or where a capital begins the next one.
            before = "(?<![A-Z])" if first[0].isupper() else "(?<![A-Za-z])"
            after = "(?=[A-Z][a-z]|[^A-Za-z]|$)" if len(first) == 1 else "(?![a-z])"
            for place in re.finditer(before + first + after, name):
                found.add(name[: place.start()] + second + name[place.end() :])
    return found


class Pair:
    """Two arrays of one shape as one of complex numbers, read as it is sliced."""

    dtype = np.dtype(np.complex64)

    def __init__(self, real: Any, imag: Any) -> None:
        self._real = real
        self._imag = imag
        self.shape = real.shape

    def __getitem__(self, key: Any) -> NDArray:
        return _join(np.asarray(self._real[key]), np.asarray(self._imag[key]))


class Reversed:
    """HDF5 array with its axes in the order of a writer who stores them in reverse."""

    def __init__(self, array: Any) -> None:
        self._array = array
        self.dtype = array.dtype
        self.shape = array.shape[::-1]

    def __getitem__(self, key: tuple[slice, ...]) -> NDArray:
        return np.asarray(self._array[key[::-1]]).transpose()


def take_frames(array: Any, axes: str, first: int, last: int) -> NDArray:
    """Frames `first` to `last` of an array as (t, z, x), float32 or complex64.

    Parameters
    ----------
    array : array-like that can be sliced
        Only the frames asked for are read.
    axes : str
        A letter for each axis, see `ArrayInfo`.
    """
    key = tuple(slice(first, last) if axis == "t" else slice(None) for axis in axes)
    part = np.asarray(array[key])
    fields = _complex_fields(part.dtype)
    if fields:
        part = _join(part[fields[0]], part[fields[1]])
    if "c" in axes:
        at = axes.index("c")
        part = _join(part.take(0, axis=at), part.take(1, axis=at))
        axes = axes.replace("c", "")
    part = part.squeeze(tuple(k for k, axis in enumerate(axes) if axis == "1"))
    axes = axes.replace("1", "")
    dtype = np.complex64 if part.dtype.kind == "c" else np.float32
    with np.errstate(over="ignore"):  # what is too large becomes infinite, and is named later
        return np.ascontiguousarray(part.transpose([axes.index(a) for a in "tzx"]), dtype=dtype)


def _join(real: NDArray, imag: NDArray) -> NDArray:
    """Complex64 numbers from their two parts of any type."""
    joined = np.empty(real.shape, np.complex64)
    with np.errstate(over="ignore"):
        joined.real = real
        joined.imag = imag
    return joined
