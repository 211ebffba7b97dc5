"""Axes of the arrays of files: what each means, and how frames (t, z, x) come out of them."""

from __future__ import annotations

from typing import NamedTuple


class ArrayInfo(NamedTuple):
    """An array in a file: its shape, the meaning of its axes, and why they are taken so.

    Parameters
    ----------
    shape : tuple of int
        As the file's library gives it.
    axes : str
        A letter for each axis: t, z, x; ``c`` holds real and imaginary part; ``1`` has one entry.
        Empty where the file does not say.
    why : str
        Half a sentence for the user, such as ``MATLAB writes its axes in reverse``.
    """

    shape: tuple[int, ...]
    axes: str
    why: str
