"""Maps as TIFF: their numbers, pixel by pixel, with the pitch, as ImageJ reads it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ulmpaper.core.doors import optional
from ulmpaper.core.records import check_positive
from ulmpaper.io.files import atomic_path

_MOST = np.iinfo(np.uint16).max


def write_tiff(
    path: str | os.PathLike,
    values: ArrayLike,
    *,
    px_mm: float | None = None,
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write a map at its own size; the file appears under its name when it is complete.

    Parameters
    ----------
    path : path-like
        Where to write.
    values : array_like (Z, X)
        Map. Integers from 0 to 65535 become 16 bit, all other numbers 32 bit floats: none is
        scaled or cut.
    px_mm : float, optional
        Pitch of the map's pixels [mm]: that of the frames, divided by ``upsample``. It becomes the
        resolution, in pixels per mm, and the unit that ImageJ shows.
    about : mapping, optional
        What to say of the map, name by name; ImageJ shows it by *Image > Show Info*.

    Returns
    -------
    Path

    Raises
    ------
    ValueError
        Not an image of real numbers; a pitch that is not above 0.
    ImportError
        tifffile is missing: the extra ``formats``.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from ulmpaper.io.stacks import tiff_scale
    >>> path = Path(tempfile.mkdtemp()) / "density.tiff"
    >>> tiff_scale(write_tiff(path, np.eye(20, 30), px_mm=0.01), "").px_mm
    (0.01, 0.01)
    """
    with optional("formats"):
        import tifffile
    pixels = _as_pixels(values)
    tags: dict[str, Any] = {"axes": "YX"}
    if px_mm is not None:
        check_positive(px_mm=px_mm)
        tags["unit"] = "mm"
    if about:
        tags["Info"] = "\n".join(f"{name}: {value}" for name, value in about.items())
    with atomic_path(Path(path)) as part:
        tifffile.imwrite(
            part,
            pixels,
            imagej=True,
            resolution=None if px_mm is None else (1 / px_mm, 1 / px_mm),
            metadata=tags,
            software="ulmpaper",
        )
    return Path(path)


def _as_pixels(values: ArrayLike) -> NDArray:
    """16 bit for integers that fit, else single precision."""
    array = np.asarray(values)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "buif":
        raise ValueError(
            f"a map is an image (z, x) of real numbers, not {array.dtype} of shape {array.shape}"
        )
    is_16_bit = array.dtype.kind in "bui" and array.min() >= 0 and array.max() <= _MOST
    return array.astype(np.uint16 if is_16_bit else np.float32)
