"""Frames, tracks and maps as figures.

Colour maps get brighter with the values and are readable with any colour vision: grey for frames,
``hot`` for density (as in the field), ``viridis`` for speed, and for speed up and down red to
yellow and blue to cyan, as on a scanner, but with slow flow far from black.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ulmpaper.core.arguments import explained
from ulmpaper.core.doors import optional
from ulmpaper.core.filters import to_db
from ulmpaper.core.grid import map_shape
from ulmpaper.core.records import check_bubbles, check_choice, check_positive, check_whole
from ulmpaper.io.files import atomic_path

with optional("plot"):
    from matplotlib import colormaps, rc_context
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.collections import LineCollection
    from matplotlib.colorbar import Colorbar
    from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize, PowerNorm
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke
    from matplotlib.ticker import FixedLocator, FuncFormatter

# The darkest third of viridis would hide slow vessels on a black ground.
_BRIGHT = colormaps["viridis"](np.linspace(0.3, 1, 256))
_SPEED = LinearSegmentedColormap.from_list("speed", _BRIGHT).with_extremes(bad="black")
# From slow to fast: about as bright at the same speed, and none of them dark.
_REDS = ("#d52b1e", "#ff8c1a", "#ffe666")
_BLUES = ("#3a5fe0", "#35a7f5", "#8cf2ff")
_SIDES = ("towards", "away")
# Map: title and label of the colour bar.
_MAP_KINDS = {
    "density": ("Density", "tracks per pixel of the map"),
    "velocity": ("Speed", "speed [mm/s]"),
    "mean_velocity": ("Mean speed of the tracks", "mean speed of each track [mm/s]"),
    "direction": (
        "Axial direction",
        "speed [mm/s]\naway \N{LEFTWARDS ARROW}  \N{RIGHTWARDS ARROW} towards the probe",
    ),
    "power_doppler": ("Power Doppler", "power relative to its maximum [dB]"),
}
_WIDTH_IN = 7.0
_LEGEND_IN = 0.35
_MAPS_IN_A_ROW = 2
# Figures that are shrunk to a column of 85 mm keep their text legible, 6 points high.
_OWN_PT = 12
_SMALL_PT = 8
# A map's width in such a column [mm], and the thinnest line that is seen in print [mm].
_COLUMN_MM = 68
_LINE_MM = 0.12
# Okabe and Ito's colours, told apart with any colour vision, and marks told apart without colours.
_DOTS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Share of the non-empty pixels below the brightest colour, as in PALA's displays.
_CLIP = 0.98
_MOST_PX = 25  # a wider line hides what it is to show
# Least distance of two ticks on a colour bar, as a share of it.
_TICK_SHARE = 0.1


def plot_map(
    values: ArrayLike,
    kind: str = "density",
    *,
    px_mm: float | None = None,
    upsample: int = 10,
    thicken_px: int | None = 1,
    red: str = "towards",
    title: str | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Show a map with scale bar and colour bar.

    Parameters
    ----------
    values : array_like (Z, X)
        One of the maps of `pipeline.UlmResult`.
    kind : str
        ``density``, ``velocity``, ``mean_velocity``, ``direction`` or ``power_doppler``. Density is
        shown by its square root, up to the 99.9 % quantile of what is not 0; power Doppler in dB
        from its 2 % quantile; speeds up to their 98 % quantile. An arrow on the colour bar says
        that the map has values beyond.
    px_mm : float or None
        Pixel pitch of the frames [mm]. None (unknown): the scale bar is in pixels of the frames,
        and speeds are taken to be in pixels per frame.
    upsample : int
        Map pixels per pixel of the frames; power Doppler always has 1.
    thicken_px : int or None
        Width of a line in the picture [map pixels], as by `thicken`; the title says so. 1: as it
        is; None: as wide as a line must be to be seen where the picture is printed in a column of
        85 mm. Power Doppler has no lines.
    red : str
        Which direction is red, ``towards`` the probe (as on scanners, when they are not turned
        round) or ``away``. The probe is at the top.
    title : str, optional
        Title instead of the name of the map.
    ax : Axes, optional
        Where to draw; a new figure by default.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        No such kind or direction; not an image of real numbers.
    """
    check_choice(kind, _MAP_KINDS, "map")
    check_style(thicken_px, red)
    check_whole(upsample=upsample)
    values = _check_map(values)
    heading, label = _MAP_KINDS[kind]
    if kind != "power_doppler":
        line_px = _line_width(values.shape) if thicken_px is None else thicken_px
        values = thicken(values, line_px)
        heading += f" (lines drawn {line_px} px wide)" if line_px > 1 else ""
    is_own = ax is None
    figure, ax = _figure(ax, values.shape)
    shown, norm = _scaled(values, kind)
    colours = _red_and_blue(red) if kind == "direction" else _colours(kind)
    ax.set_facecolor("black")
    # Where pixels are fewer than the map's, their colours are averaged, not their values: the mean
    # of a speed and of no track is no speed.
    image = ax.imshow(
        shown, cmap=colours, norm=norm, interpolation="antialiased", interpolation_stage="rgba"
    )
    bar = _colour_bar(figure, image, ax, label, px_mm)
    if kind == "density":
        bar.locator = FixedLocator(whole_ticks(norm))
    if kind == "direction":
        bar.ax.invert_yaxis()  # towards the probe is up, as in the map
        bar.formatter = FuncFormatter(lambda speed, _: f"{abs(speed):g}")
    bar.update_ticks()
    scale_bar(ax, values.shape[1] / (1 if kind == "power_doppler" else upsample), px_mm)
    ax.set(xticks=[], yticks=[], title=heading if title is None else title)
    if is_own:
        _enlarge(figure)
    return figure


def check_style(thicken_px: int | None, red: str) -> None:
    """Refuse a width of lines or a direction of red that `plot_map` does not take."""
    check_choice(red, _SIDES, "direction of red")
    if thicken_px is not None and check_whole(thicken_px=thicken_px) > _MOST_PX:
        raise ValueError(f"thicken_px must be {_MOST_PX} or less, not {thicken_px}")


def _check_map(values: ArrayLike) -> NDArray[np.float32]:
    array = np.asarray(values)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "buif":
        raise ValueError(
            f"a map is an image (z, x) of real numbers, not {array.dtype} of shape {array.shape}"
        )
    return array.astype(np.float32, copy=False)


def _scaled(values: NDArray, kind: str) -> tuple[NDArray, Normalize]:
    """What is drawn of a map, and in which range of colours."""
    if kind == "power_doppler":
        power_db = to_db(np.sqrt(values), floor_db=-60)
        return power_db, Normalize(min(float(np.quantile(power_db, 0.02)), -1), 0)
    if kind == "density":
        return values, density_norm(values)
    top = _quantile(np.abs(values), _CLIP)
    shown = np.where(values == 0, np.float32(np.nan), values)
    return shown, Normalize(-top if kind == "direction" else 0, top)


def _colours(kind: str) -> Colormap:
    return _SPEED if "velocity" in kind else colormaps["hot"]


def _red_and_blue(red: str) -> Colormap:
    """Colours from fast towards the probe, which is negative, to fast away from it."""
    towards, away = (_REDS, _BLUES) if red == "towards" else (_BLUES, _REDS)
    # Two places in the middle: the colours differ there, and none of the map is between them.
    places = (0, 0.25, 0.5, 0.5, 0.75, 1)
    steps = list(zip(places, (*towards[::-1], *away), strict=True))
    return LinearSegmentedColormap.from_list("direction", steps).with_extremes(bad="black")


def density_norm(*maps: NDArray, share: float = 0.999, least: float = 0) -> Normalize:
    """Colours by the square root, up to a whole number that a share of what is not 0 stays under.

    That number is `least` or more.

    Examples
    --------
    >>> float(density_norm(np.array([[0, 1, 2, 2.5]])).vmax)
    3.0
    """
    top = max(least, _quantile(np.concatenate([np.ravel(values) for values in maps]), share))
    return PowerNorm(0.5, 0, math.ceil(top) if top >= 1 else top)


def whole_ticks(norm: Normalize) -> list[float]:
    """Whole numbers for the colour bar of a density, apart by their square roots.

    Examples
    --------
    >>> [whole_ticks(Normalize(0, top)) for top in (3, 40, 700)]
    [[0, 1, 2, 3], [0, 2, 5, 10, 20, 40], [0, 10, 50, 100, 200, 500, 700]]
    """
    top = float(norm.vmax or 1)
    if top < 1:  # no numbers of tracks
        return [0, top]
    top = math.floor(top)
    round_ones = [step * 10**power for power in range(len(str(top))) for step in (1, 2, 5)]
    ticks: list[float] = [top]
    for tick in reversed(round_ones):
        place, above = math.sqrt(tick / top), math.sqrt(ticks[-1] / top)
        if min(place, above - place) >= _TICK_SHARE:
            ticks.append(tick)
    return [0, *reversed(ticks)]


def _line_width(shape: tuple[int, ...]) -> int:
    """Width of a line [map px] that is seen where the map is printed in a column of 85 mm; odd.

    Examples
    --------
    >>> _line_width((840, 1430)), _line_width((400, 480))
    (3, 1)
    """
    needed_px = _LINE_MM * shape[1] / _COLUMN_MM
    return 2 * max(0, math.ceil((needed_px - 1) / 2)) + 1


def thicken(values: NDArray, width_px: int) -> NDArray:
    """Widen what is not 0, for drawing only: the value farthest from 0 within a disk.

    Parameters
    ----------
    values : ndarray (Z, X)
        A map.
    width_px : int
        Diameter of the disk, 1 or more [map pixels].

    Examples
    --------
    >>> thicken(np.array([[0, 0, -2.0, 0, 1, 0]]), 3).tolist()
    [[0.0, -2.0, -2.0, -2.0, 1.0, 1.0]]
    """
    width_px = check_whole(thicken_px=width_px)
    if width_px == 1:
        return values
    offset = np.arange(width_px) - (width_px - 1) / 2
    disk = offset[:, None] ** 2 + offset**2 <= (width_px / 2) ** 2
    high = ndimage.maximum_filter(values, footprint=disk, mode="constant")
    low = ndimage.minimum_filter(values, footprint=disk, mode="constant")
    return np.where(high >= -low, high, low)


def plot_frame(
    frame: NDArray,
    bubbles: pd.DataFrame | None = None,
    truth: pd.DataFrame | None = None,
    *,
    px_mm: float | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Show a B-mode frame on a linear grey scale, with found and true bubbles.

    Parameters
    ----------
    frame : ndarray (Z, X)
        Amplitude.
    bubbles, truth : DataFrame, optional
        Bubble tables of this frame alone: crosses and circles.
    px_mm : float, optional
        Pixel pitch [mm].
    """
    for table in (bubbles, truth):
        if table is not None:
            check_bubbles(table, columns=("z", "x"))
    frame = _check_map(frame)
    is_own = ax is None
    has_legend = truth is not None and bubbles is not None
    figure, ax = _figure(ax, frame.shape, below_in=_LEGEND_IN if has_legend else 0)
    ax.imshow(frame, cmap="gray", vmin=0, interpolation="nearest")
    if truth is not None:
        ax.scatter(
            truth.x,
            truth.z,
            s=70,
            facecolors="none",
            edgecolors="#56b4e9",
            linewidths=1.2,
            label="true",
        )
    if bubbles is not None:
        ax.scatter(
            bubbles.x, bubbles.z, s=30, marker="+", color="#f0a020", linewidths=1.2, label="found"
        )
    if has_legend:
        # Below the frame, where it covers no bubble.
        ax.legend(
            loc="upper center", bbox_to_anchor=(0.5, 0), ncols=2, fontsize="small", frameon=False
        )
    scale_bar(ax, frame.shape[1], px_mm)
    ax.set(xticks=[], yticks=[], title=title)
    if is_own:
        _enlarge(figure)
    return figure


def plot_tracks(
    tracks: pd.DataFrame,
    shape_px: tuple[int, int] | None = None,
    *,
    px_mm: float | None = None,
    title: str = "",
    ax: Axes | None = None,
) -> Figure:
    """Draw tracks as lines, coloured by speed.

    Parameters
    ----------
    tracks : DataFrame
        Track table, rows in any order; without the columns ``vz, vx`` of
        `ulmpaper.core.add_velocity` all lines have one colour.
    shape_px : (int, int), optional
        Size of the frames (z, x) [px]; by default large enough for the tracks.
    px_mm : float or None
        As in `plot_map`.
    """
    has_speed = isinstance(tracks, pd.DataFrame) and {"vz", "vx"} <= set(tracks.columns)
    columns = ("track", "frame", "z", "x", *(("vz", "vx") if has_speed else ()))
    tracks = check_bubbles(tracks, columns=columns, path=True)
    tracks = tracks.iloc[np.lexsort((tracks["frame"].to_numpy(), tracks["track"].to_numpy()))]
    if shape_px is None:
        lowest, rightmost = tracks[["z", "x"]].max().fillna(0)
        shape_px = (max(1, int(lowest) + 2), max(1, int(rightmost) + 2))
    else:
        map_shape(shape_px, upsample=1)  # says what a size is
    is_own = ax is None
    figure, ax = _figure(ax, shape_px)
    ax.set_facecolor("black")
    points = tracks[["x", "z"]].to_numpy()
    inside = tracks["track"].to_numpy()[1:] == tracks["track"].to_numpy()[:-1]
    speed = (
        np.hypot(tracks["vz"].to_numpy(), tracks["vx"].to_numpy())
        if has_speed
        else np.ones(len(tracks))
    )
    lines = LineCollection(
        np.stack([points[:-1], points[1:]], axis=1)[inside],
        array=speed[1:][inside],
        cmap=_SPEED,
        norm=Normalize(0, _quantile(speed, _CLIP)),
        linewidths=1.0,
    )
    ax.add_collection(lines)
    if has_speed:
        _colour_bar(figure, lines, ax, "speed [mm/s]", px_mm)
    ax.set(
        xlim=(-0.5, shape_px[1] - 0.5),
        ylim=(shape_px[0] - 0.5, -0.5),
        aspect="equal",
        xticks=[],
        yticks=[],
    )
    scale_bar(ax, shape_px[1], px_mm)
    ax.set_title(title)
    if is_own:
        _enlarge(figure)
    return figure


def plot_side_by_side(
    densities: Mapping[str, NDArray],
    scores: pd.DataFrame | None = None,
    *,
    px_mm: float | None = None,
    upsample: int = 10,
) -> Figure:
    """Show density maps of one recording in one range of colours, and scores below them.

    Parameters
    ----------
    densities : mapping of str to ndarray (Z, X)
        Maps of one size by name [tracks per map pixel]. By their square root, up to the 99.9 %
        quantile of all non-empty pixels; lines so wide that they are seen in print, as the colour
        bar says.
    scores : DataFrame, optional
        A row for each method, a column for each score, from 0 to 1.
    px_mm, upsample
        As in `plot_map`.

    Returns
    -------
    Figure
    """
    shape = next(iter(densities.values())).shape
    n_columns = min(len(densities), _MAPS_IN_A_ROW)
    n_rows = -(-len(densities) // n_columns)
    heights = [n_rows * (0.9 * _WIDTH_IN / n_columns * shape[0] / shape[1] + 0.3)]
    if scores is not None:
        heights.append(0.4 + 0.27 * scores.shape[1])
    figure = Figure(figsize=(_WIDTH_IN, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    axes = parts[0].subplots(n_rows, n_columns, squeeze=False).ravel()
    norm = density_norm(*densities.values())
    line_px = _line_width(shape)
    note = f"\nlines drawn {line_px} px wide" if line_px > 1 else ""
    for ax, (name, values) in zip(axes, densities.items(), strict=False):
        image = ax.imshow(
            thicken(values, line_px),
            cmap=_colours("density"),
            norm=norm,
            interpolation="antialiased",
            interpolation_stage="rgba",
        )
        ax.set_title(name, fontsize="small")
        scale_bar(ax, shape[1] / upsample, px_mm)
        ax.texts[-1].set_fontsize(_SMALL_PT)
    for ax in axes:
        ax.set(xticks=[], yticks=[])
    for ax in axes[len(densities) :]:
        ax.set_axis_off()
    is_clipped = any(np.max(values) > norm.vmax for values in densities.values())
    bar = parts[0].colorbar(
        image,
        ax=axes,
        label=_MAP_KINDS["density"][1] + note,
        ticks=whole_ticks(norm),
        aspect=25,
        pad=0.015,
        extend="max" if is_clipped else "neither",
    )
    bar.outline.set_visible(False)
    if scores is not None:
        _dots(parts[1].subplots(), scores)
    return figure


def _dots(ax: Axes, scores: pd.DataFrame) -> None:
    """A line for each score, a dot on it for each method."""
    places = np.arange(scores.shape[1])
    for number, (name, values) in enumerate(scores.iterrows()):
        marker = _MARKERS[number % len(_MARKERS)]
        colour = _DOTS[number % len(_DOTS)]
        ax.plot(values, places, marker, color=colour, label=name, markersize=6, alpha=0.9)
    ax.set(xlim=(-0.02, 1.02), yticks=places, yticklabels=scores.columns)
    ax.invert_yaxis()
    ax.grid(axis="y", color="0.9")
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0, labelsize="small")
    ax.legend(fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def scale_bar(ax: Axes, width_px: float, px_mm: float | None) -> None:
    """Draw a white bar of a round length, about a sixth of the picture, at its lower right."""
    if px_mm is not None:
        check_positive(px_mm=px_mm)
    check_positive(width_px=width_px)
    unit, size = ("px", 1.0) if px_mm is None else ("mm", px_mm)
    target = width_px * size / 6
    step = 10.0 ** np.floor(np.log10(target))
    length = max(s for s in (step, 2 * step, 5 * step) if s <= target * (1 + 1e-9))
    text = f"{length:g} {unit}" if length >= 0.1 or unit == "px" else f"{length * 1000:g} µm"
    share = length / size / width_px
    height = 0.008 / ax.get_data_ratio()
    bar = Rectangle(
        (0.97 - share, 0.04), share, height, color="white", transform=ax.transAxes, zorder=5
    )
    ax.add_patch(bar)
    # Flush right: in a small panel the text is wider than the bar.
    words = ax.text(
        0.97,
        0.05 + height,
        text,
        color="white",
        ha="right",
        va="bottom",
        transform=ax.transAxes,
        fontsize=9,
    )
    for drawn in (bar, words):  # a dark rim, for they may lie on bright vessels
        drawn.set_path_effects([withStroke(linewidth=2.5, foreground="black")])


@explained
def save_figure(figure: Figure, path: str | os.PathLike, **how: Any) -> Path:
    """Write a figure; the file appears under its name when it is complete.

    The same figure gives the same bytes: no date and no version go into the file. In PDF and SVG,
    text and lines are vectors and images keep their own pixels, whatever ``dpi`` is. A TIFF is the
    figure as it is drawn; `ulmpaper.io.tiff.write_tiff` keeps the numbers of a map.

    Parameters
    ----------
    figure : Figure
        What to write.
    path : path-like
        Where; the suffix gives the format.
    **how
        For matplotlib's ``savefig`` (default: 200 dots per inch).

    Raises
    ------
    ValueError
        No such format.
    OSError
        The file cannot be written.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    is_vector = suffix in (".pdf", ".svg")
    settings: dict[str, Any] = {"dpi": 200, "metadata": _UNDATED.get(suffix)}
    if suffix == ".png":
        settings["pil_kwargs"] = {"compress_level": 3}
    with (
        rc_context({"svg.hashsalt": "ulmpaper"}),
        _own_pixels(figure) if is_vector else contextlib.nullcontext(),
        atomic_path(path) as part,
    ):
        figure.savefig(part, **{**settings, **how})
    return path


# What would change from day to day, or from version to version of matplotlib.
_UNDATED = {
    ".png": {"Software": None},
    ".pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    ".svg": {"Date": None, "Creator": None},
}


@contextlib.contextmanager
def _own_pixels(figure: Figure) -> Iterator[None]:
    """Images whose pixels go into a file as they are, not as many as ``dpi`` says."""
    images: list[Any] = figure.findobj(AxesImage)
    before = [image.get_interpolation() for image in images]
    for image in images:
        image.set_interpolation("none")
    try:
        yield
    finally:
        for image, interpolation in zip(images, before, strict=True):
            image.set_interpolation(interpolation)


def _colour_bar(
    figure: Figure, drawn: ScalarMappable, ax: Axes, label: str, px_mm: float | None
) -> Colorbar:
    label = label if px_mm is not None else label.replace("mm/s", "px/frame")
    bar = figure.colorbar(
        drawn, ax=ax, label=label, shrink=0.9, aspect=25, pad=0.015, extend=clipped(drawn)
    )
    bar.outline.set_visible(False)
    return bar


def clipped(drawn: ScalarMappable) -> str:
    """At which ends of its colours there are values beyond: a colour bar has an arrow there."""
    values: Any = np.ma.masked_invalid(np.ma.asarray(drawn.get_array()))
    norm: Any = drawn.norm
    low, high = norm.vmin, norm.vmax
    # The rounding of single precision is no value beyond.
    room = 1e-6 * (high - low)
    ends = (bool(np.any(values < low - room)), bool(np.any(values > high + room)))
    return {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[ends]


def _enlarge(figure: Figure) -> None:
    """Text of a figure of its own, so large that it can be read in a column of 85 mm too."""
    for ax in figure.axes:
        ax.tick_params(labelsize=_OWN_PT)
        for text in (ax.title, ax.xaxis.label, ax.yaxis.label, *ax.texts):
            text.set_fontsize(_OWN_PT)


def _figure(ax: Axes | None, shape: tuple[int, ...], *, below_in: float = 0) -> tuple[Figure, Axes]:
    """The axes to draw in and their figure, new ones with room for a title and below the image."""
    if ax is not None:
        return ax.get_figure(root=True), ax  # type: ignore[return-value]
    height = float(np.clip(_WIDTH_IN * 0.85 * shape[0] / shape[1], 2.5, 9))
    whole = height + 0.4 + below_in
    # Fixed margins: an automatic layout would draw everything twice.
    figure = Figure(figsize=(_WIDTH_IN, whole))
    below = below_in / whole + 0.02
    return figure, figure.add_axes((0.02, below, 0.96, 1 - 0.4 / whole - below))


def _quantile(values: NDArray, share: float) -> float:
    some = values[values > 0]
    return float(np.quantile(some, share)) if some.size else 1.0


_STEPS = colormaps["RdBu_r"].with_extremes(bad="0.2")
# The few fastest pixels, on the axis of the widest vessel, would leave all others pale.
_GREY_CLIP = 0.98


def plot_grey(
    values: NDArray,
    *,
    ax: Axes,
    px_mm: float | None = None,
    title: str = "",
    unit: str = "",
    limits: tuple[float, float] | None = None,
) -> AxesImage:
    """Show an image in grey, the greatest value white, with a scale bar.

    Parameters
    ----------
    values : ndarray (Z, X)
        Real numbers or True and False.
    ax : Axes
        Where to draw.
    px_mm : float, optional
        Pitch of the image's pixels [mm]; unknown, the scale bar is in pixels.
    title : str
        Title.
    unit : str
        Unit of the values beside a colour bar; without it there is no bar.
    limits : (float, float), optional
        Values shown black and white; by default the least and the greatest.

    Returns
    -------
    AxesImage
    """
    low, high = (None, None) if limits is None else limits
    image = ax.imshow(values, cmap="gray", vmin=low, vmax=high, interpolation="antialiased")
    _finish(ax, values.shape, px_mm, title)
    if unit:
        _grey_bar(ax, image, unit)
    return image


def plot_steps(
    steps: NDArray,
    mask: NDArray,
    *,
    ax: Axes,
    px_mm: float,
    frame_rate_hz: float,
    limit_px: float | None = None,
    title: str = "",
) -> AxesImage:
    """Show one of the two displacement maps, with a colour bar in px/frame and mm/s.

    Parameters
    ----------
    steps : ndarray (Z, X)
        Steps along one axis [px/frame].
    mask : ndarray (Z, X) bool
        Inside of the vessels.
    ax : Axes
        Where to draw.
    px_mm, frame_rate_hz : float
        Pixel pitch [mm] and frames per second [Hz].
    limit_px : float, optional
        Step at the ends of the colour bar [px/frame]; by default `step_limit` of `steps`.
    title : str
        Title.

    Returns
    -------
    AxesImage
    """
    limit = step_limit(steps) if limit_px is None else limit_px
    shown = np.where(mask, steps, np.nan)
    # Not smoothed: thin vessels would go grey.
    image = ax.imshow(shown, cmap=_STEPS, vmin=-limit, vmax=limit, interpolation="nearest")
    _finish(ax, shown.shape, px_mm, title)
    bar = _grey_bar(ax, image, "px/frame").ax
    factor = px_mm * frame_rate_hz
    top = bar.secondary_xaxis(
        "top", functions=(lambda px: np.multiply(px, factor), lambda mm_s: np.divide(mm_s, factor))
    )
    top.tick_params(labelsize=_SMALL_PT, pad=1)
    bar.text(1.09, 1.3, "mm/s", va="bottom", transform=bar.transAxes, fontsize=_SMALL_PT)
    return image


def step_limit(maps: NDArray) -> float:
    """Step that all but the fastest pixels stay under, for the ends of a colour bar [px/frame].

    Examples
    --------
    >>> step_limit(np.array([0.0, 0.02, -0.02]))
    0.02
    """
    moving = np.abs(maps[maps != 0])
    return float(np.quantile(moving, _GREY_CLIP)) if moving.size else 1.0


def _finish(ax: Axes, shape: tuple[int, ...], px_mm: float | None, title: str) -> None:
    scale_bar(ax, shape[1], px_mm)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, fontsize="medium")


def _grey_bar(ax: Axes, image: AxesImage, unit: str) -> Colorbar:
    place = ax.inset_axes((0.02, -0.15, 0.7, 0.04))
    figure = ax.get_figure(root=True)
    bar = figure.colorbar(  # type: ignore[union-attr]
        image, cax=place, orientation="horizontal", extend=clipped(image)
    )
    place.tick_params(labelsize=_SMALL_PT, pad=1)
    place.locator_params(nbins=5)
    place.text(1.09, -0.3, unit, va="top", transform=place.transAxes, fontsize=_SMALL_PT)
    return bar
