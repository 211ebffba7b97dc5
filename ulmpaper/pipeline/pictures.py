"""The maps of a run as pictures and TIFF files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ulmpaper.core.doors import optional
from ulmpaper.core.records import check_choice, check_positive
from ulmpaper.io.results import PICTURES
from ulmpaper.io.tiff import write_tiff

_MOST_DPI = 1200  # a PNG of 8400 x 6400 pixels
_UNITS = {"density": "tracks per pixel of the map", "power_doppler": "amplitude squared"}


@dataclass(frozen=True)
class Pictures:
    """How the maps of a run are drawn; none of it changes a number.

    Parameters
    ----------
    formats : str or iterable of str
        Some of ``png``, ``pdf`` and ``tiff``, which holds the numbers themselves pixel by pixel;
        in text parted by commas.
    dpi : float
        Dots per inch of a PNG, which is 7 inches wide.
    thicken_px, red
        See `ulmpaper.plot_map`; by default lines are as wide as print in a column of 85 mm needs.

    Raises
    ------
    ValueError
        No such format or direction; a number that is no resolution or width.
    ImportError
        A format needs a package that is missing.
    """

    formats: str | Iterable[str] = ("png",)
    dpi: float = 300
    thicken_px: int | None = None
    red: str = "towards"

    def __post_init__(self) -> None:
        given = self.formats.split(",") if isinstance(self.formats, str) else self.formats
        names = [str(name).strip().lower().removeprefix(".") for name in given]
        names = ["tiff" if name == "tif" else name for name in names if name]
        for name in names:
            check_choice(name, PICTURES, "format")
        # Always in one order: the same run, the same bytes.
        object.__setattr__(self, "formats", tuple(n for n in PICTURES if n in names))
        check_positive(dpi=self.dpi)
        if self.dpi > _MOST_DPI:
            raise ValueError(f"dpi must be {_MOST_DPI} or less, not {self.dpi:g}")
        # What is missing is said before a run, not at its end.
        if "tiff" in names:
            with optional("formats"):
                import tifffile  # noqa: F401
        if set(names) - {"tiff"}:
            from ulmpaper.plots import check_style

            check_style(self.thicken_px, self.red)


def write_pictures(
    maps: Mapping[str, NDArray],
    place: Callable[[str], Path],
    pictures: Pictures,
    *,
    px_mm: float,
    upsample: int,
) -> list[str]:
    """Write each map in each format.

    Parameters
    ----------
    maps : mapping of str to ndarray (Z, X)
        As in `UlmResult`.
    place : function
        Gives the path of a file's name.
    pictures : Pictures
        Formats and how to draw.
    px_mm : float
        Pixel pitch of the frames [mm].
    upsample : int
        Map pixels per pixel.

    Returns
    -------
    list of str
        Names of the files.
    """
    names = []
    for kind, values in maps.items():
        for suffix in pictures.formats:
            name = f"{kind}.{suffix}"
            if suffix == "tiff":
                _write_numbers(place(name), kind, values, px_mm, upsample)
            else:
                _draw(place(name), kind, values, pictures, px_mm, upsample)
            names.append(name)
    return names


def _draw(
    path: Path, kind: str, values: NDArray, pictures: Pictures, px_mm: float, upsample: int
) -> None:
    from ulmpaper.plots import plot_map, save_figure

    figure = plot_map(
        values,
        kind,
        px_mm=px_mm,
        upsample=upsample,
        thicken_px=pictures.thicken_px,
        red=pictures.red,
    )
    save_figure(figure, path, dpi=pictures.dpi)


def _write_numbers(path: Path, kind: str, values: NDArray, px_mm: float, upsample: int) -> None:
    upsample = 1 if kind == "power_doppler" else upsample
    about: dict[str, Any] = {
        "map": kind,
        "unit of the values": _UNITS.get(kind, "mm/s"),
        "pitch of the map [mm]": px_mm / upsample,
        "pitch of the frames [mm]": px_mm,
        "upsample": upsample,
    }
    if kind == "direction":
        about["sign"] = "negative towards the probe, positive away from it"
    is_counts = kind == "density" and np.array_equal(values, np.rint(values))
    numbers = values.astype(np.int64) if is_counts else values
    write_tiff(path, numbers, px_mm=px_mm / upsample, about=about)
